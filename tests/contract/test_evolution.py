"""Schemas and dataclasses say the same; old and new schemas read each other; one that could not is refused by name."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest
from contract_values import MOVED, RECORDS, MemoryRegistry, values
from hypothesis import given, settings
from hypothesis import strategies as st

from failover_orch.contract import Codec, load_schemas, schemas_directory
from failover_orch.domain.inventory import Guest, IntegrationServices, Replication, VmInventory
from failover_orch.domain.replication import ReplicationState
from failover_orch.errors import ContractError, IncompatibleSchema, UndecodableRecord

NEWEST: dict[str, Any] = {name: versions[-1].schema for name, versions in load_schemas().items()}
VM = VmInventory(
    "vm-1",
    "erp",
    (),
    Guest("linux", IntegrationServices.UNKNOWN),
    Replication(ReplicationState.REPLICATING, "p", "dr"),
)


def definitions(schema: Any) -> dict[str, Any]:
    """Records and enums that a schema defines, by name."""
    if isinstance(schema, list):
        return {name: found for each in schema for name, found in definitions(each).items()}
    if not isinstance(schema, dict):
        return {}
    found = {schema["name"]: schema} if schema.get("type") in ("record", "enum") else {}
    return found | definitions([schema.get("type"), schema.get("items"), *schema.get("fields", ())])


def expected_type(of: Any, name: str) -> Any:
    """What a field's annotation is in Avro, with names in place of definitions."""
    origin, arguments = typing.get_origin(of), typing.get_args(of)
    if origin is types.UnionType:
        return ["null", *(expected_type(each, name) for each in arguments if each is not types.NoneType)]
    if origin is tuple:
        return {"type": "array", "items": expected_type(arguments[0], name)}
    if origin is Mapping:
        return {"type": "map", "values": "string"}
    if of is int and (name.endswith("_at_ms") or name in ("at_ms", "since_ms", "deadline_ms")):
        return {"type": "long", "logicalType": "timestamp-millis"}
    simple = {int: "long", str: "string", bool: "boolean", bytes: "bytes"}
    return simple.get(of) or of.__name__


def named(schema: Any) -> Any:
    """A field's type with every definition in it replaced by its name."""
    if isinstance(schema, list):
        return [named(each) for each in schema]
    if isinstance(schema, dict):
        if schema["type"] in ("record", "enum"):
            return schema["name"]
        return schema | {"items": named(schema["items"])} if "items" in schema else schema
    return schema


def default_of(field: dataclasses.Field[Any]) -> Any:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    # Arrays are what msgspec makes of tuples for Avro's writer, and lists in a file.
    return json.loads(msgspec.json.encode(default)) if default is not dataclasses.MISSING else default


def dataclasses_in(of: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Dataclasses and enums that a record's annotations reach, by name."""
    if isinstance(of, type) and (dataclasses.is_dataclass(of) or issubclass(of, Enum)):
        found[of.__name__] = of
        for hint in typing.get_type_hints(of).values() if dataclasses.is_dataclass(of) else ():
            dataclasses_in(hint, found)
    for argument in typing.get_args(of):
        dataclasses_in(argument, found)
    return found


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_newest_schema_says_what_the_dataclass_says(record: type) -> None:
    known = definitions(NEWEST[record.__name__])
    kinds = dataclasses_in(record, {})
    assert known.keys() == kinds.keys()
    for name, kind in kinds.items():
        if issubclass(kind, Enum):
            symbols = [member.value for member in kind]
            assert known[name]["symbols"] == symbols + ["UNKNOWN"] * ("UNKNOWN" not in symbols)
            assert known[name]["default"] == "UNKNOWN"
            continue
        hints = typing.get_type_hints(kind)
        fields = {field["name"]: field for field in known[name]["fields"]}
        assert list(fields) == [field.name for field in dataclasses.fields(kind)]
        for field in dataclasses.fields(kind):
            where = f"{name}.{field.name}"
            assert named(fields[field.name]["type"]) == expected_type(hints[field.name], field.name), where
            assert fields[field.name].get("default", dataclasses.MISSING) == default_of(field), where


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_definition_and_field_has_a_doc_and_every_number_its_unit(record: type) -> None:
    units = (
        "count",
        "milliseconds",
        "seconds",
        "minutes",
        "hours",
        "bytes",
        "MiB",
        "GiB",
        "port",
        "number from 0",
        "percent",
    )
    for name, schema in definitions(NEWEST[record.__name__]).items():
        assert schema["doc"].endswith("."), name
        for field in schema.get("fields", ()):
            assert field["doc"].endswith("."), f"{name}.{field['name']}"
            if "long" in (field["type"], *field["type"]) or "logicalType" in field["type"]:
                assert any(unit in field["doc"] for unit in units), f"{name}.{field['name']} lacks its unit"


def test_the_files_are_the_records_of_the_contract() -> None:
    assert {path.name.partition(".")[0] for path in schemas_directory().glob("*")} == {r.__name__ for r in RECORDS}


def write(directory: Path, schema: Any, version: int) -> None:
    directory.mkdir(exist_ok=True)
    (directory / f"{schema['name']}.v{version}.avsc").write_text(json.dumps(schema))


def evolved(schema: Any) -> Any:
    """A made-up next version: every enum has a new symbol, every record loses a field with default and gains one."""
    schema = json.loads(json.dumps(schema))
    for each in definitions(schema).values():
        if each["type"] == "enum":
            each["symbols"].append("BRAND_NEW")
            continue
        each["fields"].insert(0, {"name": "added", "type": ["null", "string"], "default": None, "doc": "New."})
        # A field that brings a definition which others refer to has to stay.
        droppable = [field for field in each["fields"][1:] if "default" in field and not definitions(field["type"])]
        if droppable:
            each["fields"].remove(droppable[-1])
    return schema


EVOLVED = {name: found for schema in NEWEST.values() for name, found in definitions(evolved(schema)).items()}


def as_version_2_has_it(value: Any) -> Any:
    """A value as it comes through version 2: the fields that it lost have their defaults again."""
    if isinstance(value, tuple):
        return tuple(as_version_2_has_it(each) for each in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    kept = {field["name"] for field in EVOLVED[type(value).__name__]["fields"]}
    fields = dataclasses.fields(value)
    left = {field.name: as_version_2_has_it(getattr(value, field.name)) for field in fields if field.name in kept}
    lost = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in fields
        if field.name not in kept
    }
    return dataclasses.replace(value, **left, **lost)


@dataclasses.dataclass(frozen=True)
class Generations:
    """Readers and writers of version 1 and of version 2, with a registry between them, and one of 1 without."""

    old: Codec
    new: Codec
    plain: Codec
    registry: MemoryRegistry


@pytest.fixture(scope="module")
def generations(tmp_path_factory: pytest.TempPathFactory) -> Generations:
    ones, both, registry = tmp_path_factory.mktemp("ones"), tmp_path_factory.mktemp("both"), MemoryRegistry()
    for schema in NEWEST.values():
        write(ones, schema, 1)
        write(both, schema, 1)
        write(both, evolved(schema), 2)
    return Generations(
        old=Codec(registry, schemas=load_schemas(ones)),
        new=Codec(registry, schemas=load_schemas(both)),
        plain=Codec(schemas=load_schemas(ones)),
        registry=registry,
    )


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_old_and_new_readers_agree(generations: Generations, record: type, data: st.DataObject) -> None:
    value = data.draw(values(record))
    expected = as_version_2_has_it(value)
    assert generations.new.decode(generations.plain.encode(value)) == expected
    assert generations.new.decode(generations.old.encode(value)) == expected
    assert generations.old.decode(generations.new.encode(value)) == expected
    assert generations.new.decode(generations.new.encode(value)) == expected


def of_version_2(registry: MemoryRegistry, record: str, fields: dict[str, Any]) -> bytes:
    """A record in Confluent's wire format, written by a stranger who has version 2 alone."""
    schema = evolved(NEWEST[record])
    stream = BytesIO()
    stream.write(b"\x00" + registry.id_of(record, schema).to_bytes(4, "big"))
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), fields)
    return stream.getvalue()


def test_an_old_reader_refuses_an_intent_that_it_does_not_know(generations: Generations) -> None:
    fields = msgspec.to_builtins(MOVED) | {"kind": "BRAND_NEW"}
    with pytest.raises(UndecodableRecord, match=r"VmMoved: Invalid enum value 'UNKNOWN' - at `\$.kind`"):
        generations.old.decode(of_version_2(generations.registry, "VmMoved", fields))


def test_an_old_reader_takes_an_observation_that_it_does_not_know_as_unknown(generations: Generations) -> None:
    fields = msgspec.to_builtins(VM)
    fields["guest"]["integration_services"] = "BRAND_NEW"
    assert generations.old.decode(of_version_2(generations.registry, "VmInventory", fields)) == VM


BREAKAGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a new field without default": (
        lambda schema: schema["fields"].append({"name": "speed", "type": "long", "doc": "New."}),
        "VmMoved.v2.avsc cannot read what VmMoved.v1.avsc writes: VmMoved.speed: the writer does not have it",
    ),
    "a field without default taken away": (
        lambda schema: schema["fields"].pop(1),
        "VmMoved.v1.avsc cannot read what VmMoved.v2.avsc writes: VmMoved.site: the writer does not have it",
    ),
    "another type": (
        lambda schema: schema["fields"][7].update(type="string", default=""),
        "VmMoved.sequence: the writer's string cannot be read as long",
    ),
    "an enum without default": (
        lambda schema: (
            schema["fields"][3]["type"]["symbols"].remove("LIVE"),
            schema["fields"][3]["type"].pop("default"),
        ),
        "VmMoved.kind: the reader does not know LIVE and has no default symbol",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_an_incompatible_version_is_refused_by_name(tmp_path: Path, breakage: str) -> None:
    change, sentence = BREAKAGES[breakage]
    schema = json.loads(json.dumps(NEWEST["VmMoved"]))
    write(tmp_path, schema, 1)
    change(schema)
    write(tmp_path, schema, 2)
    with pytest.raises(IncompatibleSchema) as refused:
        load_schemas(tmp_path)
    assert sentence in str(refused.value)


def test_the_newest_version_is_by_number(tmp_path: Path) -> None:
    for version in (10, 9, 1):
        write(tmp_path, NEWEST["Alert"] | {"doc": str(version)}, version)
    assert [each.version for each in load_schemas(tmp_path)["Alert"]] == [1, 9, 10]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("Alert.avsc", "{}", "expected a name such as VmMoved.v1.avsc"),
        ("Alert.v1.avsc", "{", "expected an Avro schema in JSON"),
        ("Alert.v1.avsc", '{"type": "nonsense"}', "expected an Avro schema in JSON: not an Avro schema"),
        ("Alert.v1.avsc", '"string"', "expected the record failover_orch.Alert, as its name says"),
        ("Alert.v1.avsc", json.dumps(NEWEST["VmMoved"]), "expected the record failover_orch.Alert"),
    ],
)
def test_a_file_that_is_no_schema_is_named(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ContractError) as refused:
        load_schemas(tmp_path)
    assert str(refused.value).startswith(str(tmp_path / name))
    assert sentence in str(refused.value)
