"""The compatibility check against Avro's rules, and against what fastavro can really read."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import fastavro
import pytest
from fastavro.schema import SchemaParseException
from hypothesis import given, settings
from hypothesis import strategies as st

from failover_orch.contract import incompatibilities


def record(*fields: dict[str, Any], name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def field(name: str, of: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": of, **more}


def enum(*symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **more}


def fixed(size: int) -> dict[str, Any]:
    return {"type": "fixed", "name": "F", "size": size}


INNER = record(field("a", "int"), name="Inner")

RULES = [
    (record(field("a", "int")), record(field("a", "int"), field("b", "int")), []),
    (record(field("a", "int", default=0)), record(), []),
    (record(field("a", "int")), record(), ["R.a: the writer does not have it and the reader has no default"]),
    (record(field("b", "int", aliases=["a"])), record(field("a", "int")), []),
    (record(field("a", "long")), record(field("a", "int")), []),
    (record(field("a", "int")), record(field("a", "long")), ["R.a: the writer's long cannot be read as int"]),
    (record(field("a", "bytes")), record(field("a", "string")), []),
    (record(field("a", enum("X", "Y"))), record(field("a", enum("X"))), []),
    (
        record(field("a", enum("X"))),
        record(field("a", enum("X", "Y"))),
        ["R.a: the reader does not know Y and has no default symbol"],
    ),
    (record(field("a", enum("X", default="X"))), record(field("a", enum("X", "Y"))), []),
    (
        record(field("a", enum("X") | {"name": "Z"})),
        record(field("a", enum("X"))),
        ["R.a: the writer's enum E is not the reader's Z"],
    ),
    (record(field("a", fixed(4))), record(field("a", fixed(8))), ["R.a: the writer's 8 bytes are not the reader's 4"]),
    (record(field("a", ["null", "long"])), record(field("a", "int")), []),
    (record(field("a", "int")), record(field("a", ["int"])), []),
    (
        record(field("a", "int")),
        record(field("a", ["null", "int"])),
        ["R.a: the writer's null cannot be read as int"],
    ),
    (
        record(field("a", ["null", "int"])),
        record(field("a", "string")),
        ["R.a: the writer's string is none of the reader's branches"],
    ),
    (
        record(field("a", ["null", record(field("b", "int"), name="Inner")])),
        record(field("a", ["null", record(name="Inner")])),
        ["R.a.b: the writer does not have it and the reader has no default"],
    ),
    (
        record(field("a", {"type": "array", "items": "int"})),
        record(field("a", {"type": "array", "items": "string"})),
        ["R.a[]: the writer's string cannot be read as int"],
    ),
    (
        record(field("a", {"type": "map", "values": "int"})),
        record(field("a", {"type": "map", "values": "string"})),
        ["R.a{}: the writer's string cannot be read as int"],
    ),
    (
        record(field("a", INNER), field("b", "Inner")),
        record(field("a", record(name="Inner")), field("b", "Inner")),
        [
            "R.a.a: the writer does not have it and the reader has no default",
            "R.b.a: the writer does not have it and the reader has no default",
        ],
    ),
]


@pytest.mark.parametrize(("reader", "writer", "expected"), RULES)
def test_rules(reader: Any, writer: Any, expected: list[str]) -> None:
    assert incompatibilities(fastavro.parse_schema(reader), fastavro.parse_schema(writer)) == expected


PRIMITIVES = ["int", "long", "string", "bytes", "boolean", "double"]
DEFAULTS: dict[str, Any] = {"int": 0, "long": 0, "string": "", "bytes": "", "boolean": False, "double": 0.0}


@st.composite
def schemas(draw: st.DrawFn) -> Any:
    """Small records of fields a to c, each of some type, some with a default."""
    fields = []
    enums = 0
    for name in draw(st.lists(st.sampled_from("abc"), unique=True)):
        of: Any = draw(st.sampled_from([*PRIMITIVES, "enum", "array", "map", "union"]))
        if of == "enum":
            enums += 1
            symbols = draw(st.lists(st.sampled_from("XYZ"), unique=True, min_size=1))
            default = {"default": symbols[0]} if draw(st.booleans()) else {}
            fields.append(field(name, enum(*symbols, **default) | {"name": f"E{name}"}))
        elif of == "union":
            fields.append(field(name, ["null", draw(st.sampled_from(PRIMITIVES))]))
        elif of in ("array", "map"):
            items = draw(st.sampled_from(PRIMITIVES))
            fields.append(field(name, {"type": of, "items" if of == "array" else "values": items}))
        else:
            fields.append(field(name, of, **({"default": DEFAULTS[of]} if draw(st.booleans()) else {})))
    return record(*fields)


VALUES: dict[str, Any] = {"int": 1, "long": 1, "string": "s", "bytes": b"b", "boolean": True, "double": 1.0}


def every_value(of: Any) -> list[Any]:
    """Values that use every symbol and branch of a type."""
    if isinstance(of, list):
        return [None, *(VALUES[each] for each in of[1:])]
    if isinstance(of, dict):
        if of["type"] == "enum":
            return list(of["symbols"])
        return [[VALUES[of["items"]]]] if of["type"] == "array" else [{"k": VALUES[of["values"]]}]
    return [VALUES[of]]


@settings(max_examples=300, deadline=None)
@given(reader=schemas(), writer=schemas())
def test_what_is_called_compatible_fastavro_reads_and_what_is_not_it_does_not(reader: Any, writer: Any) -> None:
    parsed = fastavro.parse_schema(reader), fastavro.parse_schema(writer)
    problems = incompatibilities(*parsed)
    failures = 0
    for each in writer["fields"] or [None]:
        for value in every_value(each["type"]) if each else [None]:
            values = {other["name"]: every_value(other["type"])[0] for other in writer["fields"]}
            values |= {each["name"]: value} if each else {}
            stream = BytesIO()
            fastavro.schemaless_writer(stream, parsed[1], values)
            stream.seek(0)
            try:
                fastavro.schemaless_reader(stream, parsed[1], parsed[0])
            except (fastavro.schema.SchemaParseException, fastavro.read.SchemaResolutionError):
                failures += 1
    assert bool(failures) == bool(problems), problems


def test_fastavro_still_says_what_we_catch() -> None:
    with pytest.raises(SchemaParseException):
        fastavro.parse_schema({"type": "record", "fields": []})
