"""Records as bytes: both framings, whatever the record, and a clear sentence for whatever is not one."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import Any

import fastavro
import msgspec
import pytest
from contract_values import MOVED, RECORDS, MemoryRegistry, values
from hypothesis import given, settings
from hypothesis import strategies as st

from failover_orch.contract import Codec, load_schemas, schemas_directory, topic_of
from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction
from failover_orch.domain.records import DeadLetter
from failover_orch.errors import ContractError, UndecodableRecord, UnencodableRecord

PLAIN = Codec()
REGISTRY = MemoryRegistry()
REGISTERED = Codec(REGISTRY)
DATA = PLAIN.encode(MOVED)


@pytest.mark.parametrize("codec", [PLAIN, REGISTERED], ids=["single object", "confluent"])
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_record_comes_back_as_it_went(codec: Codec, record: type, data: st.DataObject) -> None:
    value = data.draw(values(record))
    decoded = codec.decode_from(topic_of(value), codec.encode(value))
    assert decoded == value
    assert type(decoded) is record


def test_one_reader_takes_both_framings() -> None:
    assert REGISTERED.decode(DATA) == REGISTERED.decode(REGISTERED.encode(MOVED)) == MOVED


def rabin(canonical: bytes) -> int:
    """CRC-64-AVRO bit by bit, from the Avro specification."""
    result = empty = 0xC15D213AA4D7A795
    for byte in canonical:
        result ^= byte
        for _ in range(8):
            result = (result >> 1) ^ (empty if result & 1 else 0)
    return result


def test_single_object_encoding_is_what_the_avro_specification_says() -> None:
    assert rabin(b'"null"') == 0x63DD24E7CC258F8A
    canonical = (
        '{"name":"failover_orch.VmMoved","type":"record","fields":[{"name":"vm_id","type":"string"},'
        '{"name":"site","type":"string"},{"name":"node","type":"string"},{"name":"kind","type":'
        '{"name":"failover_orch.MoveKind","type":"enum","symbols":'
        '["PLACED","LIVE","QUICK","STORAGE","DEPARTED","UNKNOWN"]}},{"name":"occurred_at_ms","type":"long"},'
        '{"name":"cluster","type":"string"},{"name":"storage","type":"string"},{"name":"sequence","type":"long"},'
        '{"name":"source","type":"string"}]}'
    )
    assert DATA[:2] == b"\xc3\x01"
    assert DATA[2:10] == rabin(canonical.encode()).to_bytes(8, "little")
    assert DATA[10:16] == b"\x08vm-1" + b"\x04"


def test_confluents_wire_format_is_read_by_fastavro_with_the_registered_schema() -> None:
    data = REGISTERED.encode(MOVED)
    assert data[0] == 0
    schema = REGISTRY.schema_of(int.from_bytes(data[1:5], "big"))
    assert schema == json.loads((schemas_directory() / "VmMoved.v1.avsc").read_text())
    read: Any = fastavro.schemaless_reader(BytesIO(data[5:]), fastavro.parse_schema(schema), None)
    assert read["kind"] == "LIVE"
    assert read["occurred_at_ms"].timestamp() * 1000 == pytest.approx(MOVED.occurred_at_ms)


def test_bytes_stay_bytes() -> None:
    letter = DeadLetter("vm-moved", 3, 17, "why", b"\xff\x00", bytes(range(256)), 1)
    assert PLAIN.decode(PLAIN.encode(letter)) == letter


def foreign(schema: Any, value: object) -> bytes:
    """A record in Confluent's wire format, of a schema that somebody else registered."""
    stream = BytesIO()
    stream.write(b"\x00" + REGISTRY.id_of("foreign", schema).to_bytes(4, "big"))
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), value)
    return stream.getvalue()


OTHER = {"type": "record", "name": "Other", "fields": []}
LACKING = {
    "type": "record",
    "namespace": "failover_orch",
    "name": "Alert",
    "fields": [{"name": "what", "type": "string"}],
}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "empty value: expected an Avro record"),
        (b"", "empty value: expected an Avro record"),
        (b"\xc3\x01abc", "too short: 5 bytes, and the header of Avro single-object encoding alone takes 10"),
        (b"\x00\x00", "too short: 2 bytes, and the header of Confluent's wire format alone takes 5"),
        (b"\xc3", "begins with c3: expected Avro single-object encoding (c3 01) or Confluent's wire format (00)"),
        (b'{"vm_id": 1}', "begins with 7b 22: expected Avro single-object encoding"),
        (b"\xc3\x01" + bytes(range(8)) + b"x", "schema fingerprint 0706050403020100 is none of those in `schemas/`"),
        (b"\x00\x00\x00\xff\xff", "schema id 65535 is not in the registry"),
        (DATA[:-1], f"VmMoved: cut short: the record goes on after its {len(DATA) - 1} bytes"),
        (DATA[:10], "VmMoved: cut short: the record goes on after its 10 bytes"),
        (DATA + b"xy", f"VmMoved: 2 bytes too many after the record, which ends at byte {len(DATA)}"),
        (DATA.replace(b"vm-1", b"vm-\xff"), "VmMoved: the text that ends at byte 15 is not UTF-8"),
        (DATA.replace(b"\x04d1\x02", b"\x04d1\x0a"), "VmMoved: Invalid enum value 'UNKNOWN' - at `$.kind`"),
        (DATA.replace(b"\x04d1\x02", b"\x04d1\x0c"), "VmMoved: an index before byte 22 names no symbol"),
        (foreign(OTHER, {}), "is Other: not a record of the contract"),
        (foreign("string", "text"), "is no record: not a record of the contract"),
        (foreign(LACKING, {"what": "x"}), "Alert.v1.avsc cannot read it: Alert.subject: the writer does not have it"),
    ],
)
def test_what_is_no_record_is_refused_in_one_clear_sentence(data: bytes | None, sentence: str) -> None:
    with pytest.raises(UndecodableRecord) as refused:
        REGISTERED.decode(data)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_how_to_read_a_strangers_schema_is_found_out_once() -> None:
    stranger = json.loads((schemas_directory() / "VmMoved.v1.avsc").read_text()) | {"doc": "A stranger's own words."}
    data = foreign(stranger, msgspec.to_builtins(MOVED))
    before = REGISTRY.asked
    for _ in range(3):
        assert REGISTERED.decode(data) == MOVED
    assert REGISTRY.asked == before + 1


def test_a_registered_schema_needs_the_registry() -> None:
    with pytest.raises(UndecodableRecord, match="schema id 7 needs a schema registry: set FAILOVER_ORCH_SCHEMA_REG"):
        PLAIN.decode(b"\x00\x00\x00\x00\x07body")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64), st.sampled_from([b"", DATA[:10], REGISTERED.encode(MOVED)[:5], b"\x00", b"\xc3\x01"]))
def test_random_bytes_are_a_record_or_undecodable(noise: bytes, header: bytes) -> None:
    with suppress(UndecodableRecord):
        assert type(REGISTERED.decode(header + noise)) in RECORDS


@settings(deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(0, 255))
def test_a_changed_byte_gives_a_record_or_undecodable(at: int, byte: int) -> None:
    with suppress(UndecodableRecord):
        assert type(PLAIN.decode(DATA[:at] + bytes([byte]) + DATA[at + 1 :])) in RECORDS


def test_a_record_on_a_topic_that_is_not_its_own_is_refused() -> None:
    with pytest.raises(
        UndecodableRecord, match="VmMoved does not belong on inventory, which carries VmInventory or Cl"
    ):
        PLAIN.decode_from("inventory", DATA)
    with pytest.raises(
        UndecodableRecord, match=r"VmMoved does not belong on step-commands\.dr, which carries StepComma"
    ):
        PLAIN.decode_from("step-commands.dr", DATA)
    with pytest.raises(UndecodableRecord, match="does not belong on elsewhere, which carries nothing, being unknown"):
        PLAIN.decode_from("elsewhere", DATA)
    with pytest.raises(UndecodableRecord, match="empty value"):
        PLAIN.decode_from("vm-moved", None)


# What a type checker would not let through.
THREE: Any = 3
NOPE: Any = "NOPE"
NOTHING: Any = None
REQUEST = FailoverRequested("r", RequestAction.REQUEST, FailoverKind.PLANNED, "a", "b", 1)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("text", "str is not a record of the contract"),
        (replace(MOVED, vm_id=THREE), "VmMoved: field vm_id holds 3, which is no string"),
        (replace(MOVED, sequence=2**63), "VmMoved: field sequence holds 9223372036854775808, which is no long"),
        (replace(MOVED, kind=NOPE), "VmMoved: field kind holds 'NOPE', which is no MoveKind"),
        (replace(MOVED, node="\ud800"), "VmMoved: the text '\\ud800' is not valid Unicode"),
        (replace(REQUEST, vm_ids=("a", NOTHING)), "FailoverRequested: field vm_ids holds None, which is no string"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_field(value: object, sentence: str) -> None:
    with pytest.raises(UnencodableRecord) as refused:
        PLAIN.encode(value)
    assert str(refused.value) == sentence or str(refused.value).startswith(sentence + ";")


def test_schemas_must_be_complete() -> None:
    schemas = {name: versions for name, versions in load_schemas().items() if name != "Alert"}
    with pytest.raises(ContractError, match="schemas are missing for Alert"):
        Codec(schemas=schemas)
