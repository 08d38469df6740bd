"""Kafka headers of an event: CloudEvents attributes and the W3C trace context."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from failover_orch.contract.schemas import NAMESPACE

__all__ = ["event_headers", "traceparent_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def event_headers(
    value: object, *, source: str, event_id: str, time_ms: int, traceparent: str = ""
) -> list[tuple[str, bytes]]:
    """Headers for a record: CloudEvents 1.0 in binary mode, and `traceparent` unless that is empty.

    `source` names the producer, `event_id` is unique within it; `time_ms` is milliseconds since the Unix epoch, UTC.
    """
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", f"{NAMESPACE}.{type(value).__name__}".encode()),
        ("ce_time", _rfc_3339(time_ms)),
        ("content-type", b"application/avro"),
    ]
    if traceparent:
        headers.append(("traceparent", traceparent.encode()))
    return headers


def traceparent_of(headers: Sequence[tuple[str, bytes]]) -> str:
    """The trace context that came with a record; empty where there is none, or none that W3C would accept."""
    for name, value in headers:
        # Clients may send a header without a value, which arrives as None.
        if name == "traceparent" and value and _TRACEPARENT.fullmatch(value):
            return value.decode()
    return ""


def _rfc_3339(time_ms: int) -> bytes:
    moment = _EPOCH + timedelta(milliseconds=time_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
