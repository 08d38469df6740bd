"""Records and schemas made to harm whoever reads them: they are undecodable, at once, and the reader lives."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from typing import Any

import pytest
from contract_values import MOVED, RECORDS, MemoryRegistry

from failover_orch.contract import Codec
from failover_orch.contract.hazards import hazards
from failover_orch.contract.schemas import load_schemas, parse, schemas_directory
from failover_orch.errors import UndecodableRecord

OURS = json.loads((schemas_directory() / "VmMoved.v1.avsc").read_text())
NULLS = {"type": "array", "items": "null"}
HOLLOW = {"type": "record", "name": "Hollow", "fields": [{"name": "nothing", "type": "null"}]}
ITSELF = {"type": "record", "name": "Itself", "fields": [{"name": "next", "type": ["null", "Itself"]}]}
EACH_OTHER = {
    "type": "record",
    "name": "One",
    "fields": [
        {
            "name": "other",
            "type": {
                "type": "record",
                "name": "Other",
                "fields": [{"name": "ones", "type": {"type": "map", "values": "One"}}],
            },
        }
    ],
}


def long(number: int) -> bytes:
    """Avro's long."""
    number, digits = (number << 1) ^ (number >> 63), b""
    while number & ~0x7F:
        digits += bytes([number & 0x7F | 0x80])
        number >>= 7
    return digits + bytes([number])


def with_field(of: Any) -> Any:
    """A stranger's schema: ours with one field more, which a reader skips."""
    return OURS | {"fields": [{"name": "more", "type": of}, *OURS["fields"]]}


@pytest.mark.parametrize(
    ("of", "sentence"),
    [
        (NULLS, r"VmMoved.more is an array of items without bytes"),
        ({"type": "array", "items": HOLLOW}, r"VmMoved.more is an array of items without bytes"),
        ({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, r"array of items without bytes"),
        ({"type": "map", "values": ["null", NULLS]}, r"VmMoved.more{} is an array of items without bytes"),
        (["null", ITSELF], r"Itself.next holds the record Itself that it is a part of"),
        (EACH_OTHER, r"Other.ones{} holds the record One that it is a part of"),
    ],
)
def test_a_schema_with_which_few_bytes_go_far_is_not_used(of: Any, sentence: str) -> None:
    registry = MemoryRegistry()
    codec = Codec(registry)
    schema_id = registry.id_of("a stranger's", with_field(of))
    began = time.monotonic()
    with pytest.raises(UndecodableRecord, match=rf"schema id {schema_id} is not safe to read: .*{sentence}"):
        codec.decode(b"\x00" + schema_id.to_bytes(4, "big") + long(2**62))
    assert time.monotonic() - began < 1


def test_a_schema_that_is_nested_without_end_is_not_used() -> None:
    schema: Any = "string"
    for _ in range(20_000):
        schema = {"type": "array", "items": schema}
    registry = MemoryRegistry()
    codec = Codec(registry)
    registry.schemas.append(with_field(schema))
    with pytest.raises(UndecodableRecord, match="is nested too deeply"):
        codec.decode(b"\x00" + len(registry.schemas).to_bytes(4, "big") + b"\x00")


def test_what_such_a_schema_would_do() -> None:
    """If Avro's library has learnt to live with it, `hazards` may go."""
    program = f"import fastavro, io; fastavro.schemaless_reader(io.BytesIO(b'\\2' * 1_000_000), {ITSELF!r})"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode != 0


def test_none_of_our_own_schemas_is_dangerous() -> None:
    for versions in load_schemas().values():
        for version in versions:
            assert hazards(version.parsed) == [], version
    assert hazards(parse(with_field({"type": "array", "items": {"type": "fixed", "name": "F", "size": 4}}))) == []
    assert hazards(parse(with_field({"type": "array", "items": ["null", "string"]}))) == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: str(record.__name__))
def test_no_record_of_ours_is_read_for_long(record: type) -> None:
    """Lengths and counts beyond all measure, below nothing, and by chance."""
    codec = Codec()
    header = codec._writings[record].header
    pieces = [*map(long, (2**62, 2**40, 2**31, 10**7, 1, -1, -(2**62))), b"\x00", b"\x02", b"\x02a", b"a"]
    chance = random.Random(record.__name__)
    began = time.monotonic()
    for _ in range(200):
        try:
            codec.decode(header + b"".join(chance.choices(pieces, k=chance.randrange(1, 40))))
        except UndecodableRecord:
            continue
    assert time.monotonic() - began < 5


def test_the_reader_still_reads() -> None:
    registry = MemoryRegistry()
    codec = Codec(registry)
    with pytest.raises(UndecodableRecord):
        codec.decode(b"\x00" + registry.id_of("x", with_field(NULLS)).to_bytes(4, "big") + long(2**62))
    assert codec.decode(codec.encode(MOVED)) == MOVED
