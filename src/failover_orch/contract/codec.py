"""Records as bytes: Avro, in single-object encoding or Confluent's wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import fastavro
import fastavro.validation
import msgspec

from failover_orch.contract.addressing import records_on, speaks_for
from failover_orch.contract.compatibility import incompatibilities
from failover_orch.contract.hazards import hazards
from failover_orch.contract.registry import HttpRegistry, Registry
from failover_orch.contract.schemas import NAMESPACE, SchemaVersion, load_schemas, parse
from failover_orch.contract.topics import STEP_COMMANDS, TOPICS, site_of_topic
from failover_orch.errors import ContractError, UndecodableRecord, UnencodableRecord

__all__ = ["Codec"]

_SINGLE_OBJECT = b"\xc3\x01"
_SINGLE_OBJECT_HEADER = 10
_CONFLUENT = b"\x00"
_CONFLUENT_HEADER = 5
_AS_THEY_ARE = (bytes,)

_TYPES: dict[str, type] = {record.__name__: record for topic in (*TOPICS, STEP_COMMANDS) for record in topic.records}

# Bound once: looking them up costs a tenth of a small record's decoding.
_read = fastavro.schemaless_reader
_write = fastavro.schemaless_writer
_convert = msgspec.convert
_to_builtins = msgspec.to_builtins


@dataclass(frozen=True, slots=True)
class _Reading:
    """How to read what stands behind one header. `reader` is None where the writer's schema is the newest."""

    type: type
    writer: Any
    reader: Any
    start: int


@dataclass(frozen=True, slots=True)
class _Writing:
    header: bytes
    schema: Any


class Codec:
    """Encodes and decodes the records of the contract (the dataclasses that `TOPICS` lists).

    Without a registry it writes Avro single-object encoding, with one Confluent's wire format. It reads both
    (Confluent's needs the registry), in every version of `schemas/` and every compatible one that the registry knows.
    """

    def __init__(
        self, registry: Registry | None = None, *, schemas: Mapping[str, tuple[SchemaVersion, ...]] | None = None
    ) -> None:
        """Read the schemas (`schemas` stands in for `schemas/`) and register the newest of each with the registry.

        Raises:
            ContractError: the schemas are broken, do not fit each other, or lack a record of the contract.
            ConfigError: the registry does not answer.

        """
        self._registry = registry
        self._schemas = load_schemas() if schemas is None else schemas
        self._readings: dict[bytes, _Reading] = {}
        self._writings: dict[type, _Writing] = {}
        missing = sorted(_TYPES.keys() - self._schemas.keys())
        if missing:
            raise ContractError(f"schemas are missing for {', '.join(missing)}")
        for name, record in _TYPES.items():
            newest = self._schemas[name][-1]
            # Oldest first: versions that differ in docs or defaults alone share a fingerprint; the newest is to serve.
            for version in self._schemas[name]:
                reader = None if version is newest else newest.parsed
                header = _SINGLE_OBJECT + version.fingerprint
                self._readings[header] = _Reading(record, version.parsed, reader, _SINGLE_OBJECT_HEADER)
            header = _SINGLE_OBJECT + newest.fingerprint
            if registry is not None:
                header = _CONFLUENT + registry.id_of(newest.subject, newest.schema).to_bytes(4, "big")
                self._readings[header] = _Reading(record, newest.parsed, None, _CONFLUENT_HEADER)
            self._writings[record] = _Writing(header, newest.parsed)

    @classmethod
    def for_registry(cls, url: str) -> Codec:
        """A codec in Confluent's wire format through the registry at `url`; in single-object encoding for an empty one.

        Raises:
            ConfigError: the registry does not answer.

        """
        return cls(HttpRegistry(url)) if url else cls()

    def encode(self, value: object) -> bytes:
        """A record's bytes, in its newest schema.

        Raises:
            UnencodableRecord: the value is not a record of the contract, or a field does not fit its schema.

        """
        writing = self._writings.get(type(value))
        if writing is None:
            raise UnencodableRecord(f"{type(value).__name__} is not a record of the contract")
        stream = BytesIO()
        stream.write(writing.header)
        try:
            # A tuple is an array here; in an optional field fastavro would take it for a branch's name and a value.
            _write(
                stream,
                writing.schema,
                _to_builtins(value, builtin_types=_AS_THEY_ARE),
                disable_tuple_notation=True,
            )
        except Exception as error:  # noqa: BLE001 - whatever fastavro makes of it, the value does not fit
            raise UnencodableRecord(f"{type(value).__name__}: {_misfit(value, writing.schema, error)}") from None
        return stream.getvalue()

    def decode(self, data: bytes | None) -> object:
        """The record that bytes hold, as a value of its dataclass.

        Raises:
            UndecodableRecord: no known schema explains the bytes; says why.

        """
        if not data:
            raise UndecodableRecord("empty value: expected an Avro record")
        reading = self._readings.get(data[:_SINGLE_OBJECT_HEADER]) or self._readings.get(data[:_CONFLUENT_HEADER])
        if reading is None:
            reading = self._look_up(data)
        stream = BytesIO(data)
        stream.seek(reading.start)
        try:
            value: object = _convert(_read(stream, reading.writer, reading.reader), reading.type)
        except Exception as error:  # noqa: BLE001 - whatever fastavro makes of them, the bytes are bad
            raise UndecodableRecord(f"{reading.type.__name__}: {_flaw(error, stream, len(data))}") from None
        if stream.tell() != len(data):
            raise UndecodableRecord(
                f"{reading.type.__name__}: {len(data) - stream.tell()} bytes too many after the record, "
                f"which ends at byte {stream.tell()}"
            )
        return value

    def decode_from(self, topic: str, data: bytes | None) -> object:
        """As `decode`, and the record must be one that the topic (by its name in the contract) carries.

        On a site's own topic it must speak for that site.

        Raises:
            UndecodableRecord: no known schema explains the bytes, or the record does not belong on the topic.

        """
        value = self.decode(data)
        expected = records_on(topic)
        if type(value) not in expected:
            names = " or ".join(record.__name__ for record in expected) or "nothing, being unknown to the contract"
            raise UndecodableRecord(f"{type(value).__name__} does not belong on {topic}, which carries {names}")
        site = site_of_topic(topic)
        if site and speaks_for(value) != site:
            raise UndecodableRecord(
                f"{type(value).__name__} on {topic} speaks for site {speaks_for(value)!r}: the agents of a site speak "
                "for that site alone; publish it on the topic of its own site, or on the common one"
            )
        return value

    def _look_up(self, data: bytes) -> _Reading:
        """How to read what stands behind a header not met before. What is found is kept."""
        if data.startswith(_SINGLE_OBJECT):
            if len(data) < _SINGLE_OBJECT_HEADER:
                raise _too_short(data, _SINGLE_OBJECT_HEADER, "Avro single-object encoding")
            fingerprint = data[len(_SINGLE_OBJECT) : _SINGLE_OBJECT_HEADER]
            raise UndecodableRecord(
                f"schema fingerprint {fingerprint[::-1].hex()} is none of those in `schemas/`: "
                "written with a newer version or a schema of another system"
            )
        if not data.startswith(_CONFLUENT):
            raise UndecodableRecord(
                f"begins with {data[:2].hex(' ')}: "
                "expected Avro single-object encoding (c3 01) or Confluent's wire format (00)"
            )
        if len(data) < _CONFLUENT_HEADER:
            raise _too_short(data, _CONFLUENT_HEADER, "Confluent's wire format")
        schema_id = int.from_bytes(data[1:_CONFLUENT_HEADER], "big")
        if self._registry is None:
            raise UndecodableRecord(
                f"schema id {schema_id} needs a schema registry: set FAILOVER_ORCH_SCHEMA_REGISTRY_URL"
            )
        reading = self._reading_of(schema_id, self._registry.schema_of(schema_id))
        self._readings[data[:_CONFLUENT_HEADER]] = reading
        return reading

    def _reading_of(self, schema_id: int, schema: Any) -> _Reading:
        try:
            writer = parse(schema)
            dangers = hazards(writer)
        except RecursionError:
            raise UndecodableRecord(f"schema id {schema_id} is nested too deeply") from None
        except ContractError as error:
            raise UndecodableRecord(f"schema id {schema_id}: {error}") from None
        if dangers:
            raise UndecodableRecord(f"schema id {schema_id} is not safe to read: {'; '.join(dangers[:3])}")
        full_name = writer.get("name", "") if isinstance(writer, dict) else ""
        record = _TYPES.get(full_name.removeprefix(f"{NAMESPACE}.")) if full_name.startswith(f"{NAMESPACE}.") else None
        if record is None:
            raise UndecodableRecord(
                f"schema id {schema_id} is {full_name or 'no record'}: not a record of the contract"
            )
        newest = self._schemas[record.__name__][-1]
        problems = incompatibilities(newest.parsed, writer)
        if problems:
            raise UndecodableRecord(f"schema id {schema_id}: {newest} cannot read it: {'; '.join(problems)}")
        return _Reading(record, writer, newest.parsed, _CONFLUENT_HEADER)


def _too_short(data: bytes, header: int, framing: str) -> UndecodableRecord:
    return UndecodableRecord(f"too short: {len(data)} bytes, and the header of {framing} alone takes {header}")


def _flaw(error: Exception, stream: BytesIO, length: int) -> str:
    """What is wrong with bytes, from what fastavro or msgspec made of them."""
    if isinstance(error, msgspec.ValidationError):
        return str(error)
    if isinstance(error, EOFError) or (isinstance(error, IndexError) and stream.tell() >= length):
        return f"cut short: the record goes on after its {length} bytes"
    if isinstance(error, IndexError):
        return f"an index before byte {stream.tell()} names no symbol or branch of its schema"
    if isinstance(error, UnicodeDecodeError):
        return f"the text that ends at byte {stream.tell()} is not UTF-8"
    return f"{type(error).__name__} before byte {stream.tell()}: {error}"


def _misfit(value: object, schema: Any, error: Exception) -> str:
    """Which field of a value its schema refuses. Fastavro's writer does not always say."""
    if isinstance(error, UnicodeEncodeError):
        return f"the text {error.object[:80]!r} is not valid Unicode"
    try:
        plain = _to_builtins(value, builtin_types=_AS_THEY_ARE)
        fastavro.validation.validate(plain, schema, disable_tuple_notation=True)
    except fastavro.validation.ValidationError as found:
        flaw = found.errors[0]
        where = flaw.field.removeprefix(f"{NAMESPACE}.").partition(".")[2]
        return f"field {where} holds {repr(flaw.datum)[:80]}, which is no {_name(flaw.schema)}"
    except Exception as found:  # noqa: BLE001 - only in search of a better sentence than that of `error`
        return f"{error}; {found}"
    return str(error)


def _name(schema: Any) -> str:
    return str(schema.get("name", schema["type"]) if isinstance(schema, dict) else schema).rpartition(".")[2]
