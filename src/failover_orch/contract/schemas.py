"""The schemas of the contract, read from `schemas/`: one file a record and version, `<Record>.v<version>.avsc`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro.schema

from failover_orch.contract.compatibility import incompatibilities
from failover_orch.errors import ContractError, IncompatibleSchema

__all__ = ["NAMESPACE", "SchemaVersion", "load_schemas", "parse", "schemas_directory"]

NAMESPACE = "failover_orch"
"""Avro namespace of every record; a record's full name is also its subject in a schema registry."""

_FILE = re.compile(r"(?P<record>[A-Za-z]+)\.v(?P<version>[1-9][0-9]*)\.avsc")


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """One version of a record's schema.

    `schema` is the file's JSON, for a registry; `parsed` what fastavro reads and writes with, without logical types,
    so that times stay whole milliseconds. `fingerprint` is the 8 bytes of single-object encoding.
    """

    record: str
    version: int
    schema: Any
    parsed: Any
    fingerprint: bytes

    @property
    def subject(self) -> str:
        """The record's full name."""
        return f"{NAMESPACE}.{self.record}"

    def __str__(self) -> str:
        return f"{self.record}.v{self.version}.avsc"


def schemas_directory() -> Path:
    """The directory of schema files: inside the package where it is installed, else at the root of the checkout.

    Raises:
        ContractError: there is neither.

    """
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "schemas", package.parent.parent / "schemas"):
        if directory.is_dir():
            return directory
    raise ContractError(f"no schemas found beside {package}: install the package again, or run it from a checkout")


def load_schemas(directory: Path | None = None) -> Mapping[str, tuple[SchemaVersion, ...]]:
    """Every version of every record's schema, oldest first, by record.

    Raises:
        ContractError: a file is not an Avro schema, or is not named after its record.
        IncompatibleSchema: two versions of a record could not read each other; says which, and which field.

    """
    found: dict[str, list[SchemaVersion]] = {}
    for path in sorted((directory or schemas_directory()).glob("*.avsc")):
        version = _read(path)
        found.setdefault(version.record, []).append(version)
    for versions in found.values():
        versions.sort(key=lambda version: version.version)
        _check(versions)
    return {record: tuple(versions) for record, versions in found.items()}


def parse(schema: Any) -> Any:
    """A schema's JSON as fastavro reads and writes with it, without logical types.

    Raises:
        ContractError: it is not an Avro schema.

    """
    try:
        return fastavro.parse_schema(_without_logical_types(schema))
    except (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType, KeyError, TypeError) as error:
        raise ContractError(f"not an Avro schema: {error}") from None


def _read(path: Path) -> SchemaVersion:
    name = _FILE.fullmatch(path.name)
    if name is None:
        raise ContractError(f"{path}: expected a name such as VmMoved.v1.avsc")
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        parsed = parse(schema)
    except (ValueError, ContractError) as error:
        raise ContractError(f"{path}: expected an Avro schema in JSON: {error}") from None
    if not isinstance(parsed, dict) or parsed.get("name") != f"{NAMESPACE}.{name['record']}":
        raise ContractError(f"{path}: expected the record {NAMESPACE}.{name['record']}, as its name says")
    canonical = fastavro.schema.to_parsing_canonical_form(schema)
    return SchemaVersion(
        record=name["record"],
        version=int(name["version"]),
        schema=schema,
        parsed=parsed,
        # fastavro gives the fingerprint's bytes in little-endian order, which is the order on the wire.
        fingerprint=bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")),
    )


def _check(versions: list[SchemaVersion]) -> None:
    """Full transitive compatibility: every version reads every other."""
    for reader in versions:
        for writer in versions:
            problems = incompatibilities(reader.parsed, writer.parsed) if reader is not writer else []
            if problems:
                raise IncompatibleSchema(
                    f"{reader} cannot read what {writer} writes: {'; '.join(problems)}; "
                    "only add or remove fields that have defaults, and only add symbols to enums that have one"
                )


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            name: value if name in ("default", "symbols", "doc") else _without_logical_types(value)
            for name, value in schema.items()
            if name != "logicalType"
        }
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    return schema
