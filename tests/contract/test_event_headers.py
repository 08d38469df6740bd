"""CloudEvents attributes and trace context as Kafka headers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from contract_values import MOVED
from hypothesis import given, settings
from hypothesis import strategies as st

from failover_orch.contract import event_headers, traceparent_of

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_headers_of_an_event() -> None:
    headers = event_headers(
        MOVED, source="agent/d1", event_id="e-1", time_ms=1_700_000_000_007, traceparent=TRACEPARENT
    )
    assert headers == [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"e-1"),
        ("ce_source", b"agent/d1"),
        ("ce_type", b"failover_orch.VmMoved"),
        ("ce_time", b"2023-11-14T22:13:20.007Z"),
        ("content-type", b"application/avro"),
        ("traceparent", TRACEPARENT.encode()),
    ]
    assert traceparent_of(headers) == TRACEPARENT


def test_without_a_trace_there_is_no_header() -> None:
    headers = event_headers(MOVED, source="s", event_id="e", time_ms=0)
    assert "traceparent" not in dict(headers)
    assert traceparent_of(headers) == ""


@settings(deadline=None)
@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_times_are_rfc_3339_to_the_millisecond(time_ms: int) -> None:
    text = dict(event_headers(MOVED, source="s", event_id="e", time_ms=time_ms))["ce_time"].decode()
    assert len(text) == len("2023-11-14T22:13:20.007Z")
    since = datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00Z")
    assert since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000 == time_ms


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"nonsense",
        TRACEPARENT.upper().encode(),
        TRACEPARENT.encode() + b"-x",
        b"ff" + TRACEPARENT.encode()[2:],
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01",
    ],
)
def test_a_trace_context_that_w3c_would_not_accept_is_none(value: Any) -> None:
    assert traceparent_of([("other", b"x"), ("traceparent", value)]) == ""
