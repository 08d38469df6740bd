"""The audit trail as a file that can be kept elsewhere and verified without Kafka.

JSON lines: every record with the place it stood at, then the chains' heads as they were read before and after the
records, then the number of records. Entries keep their hashes, so the file verifies as the topics do.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from failover_orch.audit.report import Report, report_on
from failover_orch.audit.trail import Standing, read_trail
from failover_orch.contract import Codec, Names, records_on
from failover_orch.domain import AuditEntry, ChainHead, JournalEntry
from failover_orch.domain.chain import ChainFinding, Link, link
from failover_orch.errors import AuditBroken, ConfigError

__all__ = ["export", "verify_file"]


class _Entry(msgspec.Struct, tag_field="line", tag="entry", forbid_unknown_fields=True):
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    entry: dict[str, Any]


class _Unreadable(msgspec.Struct, tag_field="line", tag="unreadable", forbid_unknown_fields=True):
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    reason: str
    value: str
    """The record's bytes in base64."""


class _Head(msgspec.Struct, tag_field="line", tag="head", forbid_unknown_fields=True):
    read: Literal["before", "after"]
    head: ChainHead


class _End(msgspec.Struct, tag_field="line", tag="end", forbid_unknown_fields=True):
    records: int


_Line = _Entry | _Unreadable | _Head | _End

_DECODER: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)
_ENCODER = msgspec.json.Encoder()
_KINDS: tuple[type[JournalEntry | AuditEntry], ...] = (JournalEntry, AuditEntry)
_FIELDS = {kind: {field.name for field in dataclasses.fields(kind)} for kind in _KINDS}


async def export(path: Path, bootstrap: str, *, names: Names, codec: Codec, app_id: str) -> Report:
    """Write the whole trail to a file, and verify it on the way. The file appears when it is complete.

    Raises:
        ConfigError: the file cannot be written.
        KafkaUnavailable: nobody answers at `bootstrap`.
        TopicMismatch: a topic is missing.

    """
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("wb") as file:
            count = 0

            def start() -> Callable[[Standing], None]:
                nonlocal count
                count = 0
                file.seek(0)
                file.truncate()
                return take

            def take(standing: Standing) -> None:
                nonlocal count
                count += 1
                _write(file, _line(standing))

            report, heads = await read_trail(bootstrap, names=names, codec=codec, app_id=app_id, start=start)
            for head in heads[0].by_chain.values():
                _write(file, _Head("before", head))
            for head in heads[1].by_chain.values():
                _write(file, _Head("after", head))
            _write(file, _End(count))
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; give a file in a directory of yours") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return report


def verify_file(path: Path) -> Report:
    """Verify an export.

    Raises:
        ConfigError: the file cannot be read.
        AuditBroken: it is not a whole export; names the line.

    """
    links: list[Link] = []
    findings: list[ChainFinding] = []
    heads: dict[str, dict[str, ChainHead]] = {"before": {}, "after": {}}
    offsets: dict[str, int] = {}
    end: _End | None = None
    number = count = 0
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                where = f"{path}:{number}"
                if end is not None:
                    raise AuditBroken(f"{where}: expected nothing after the line that ends the export")
                line = _parsed(where, text)
                if isinstance(line, _End):
                    end = line
                elif isinstance(line, _Head):
                    heads[line.read][line.head.chain] = line.head
                else:
                    count += 1
                    place = f"{line.topic}/{line.partition}"
                    if line.offset <= offsets.get(place, -1):
                        findings.append(
                            ChainFinding(
                                place, line.offset, f"reordered: it stands after offset {offsets[place]} in the file"
                            )
                        )
                    offsets[place] = line.offset
                    if isinstance(line, _Unreadable):
                        findings.append(ChainFinding(place, line.offset, f"no entry stands here: {line.reason}"))
                    else:
                        links.append(link(_entry(where, line), place))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if end is None or end.records != count:
        expected = "a line that ends the export" if end is None else f"{end.records} records, not {count}"
        raise AuditBroken(f"{path}:{number}: the export is not whole: expected {expected}")
    return report_on(links, heads["before"], heads["after"], findings)


def _line(standing: Standing) -> _Entry | _Unreadable:
    received = standing.received
    place = (received.topic, received.partition, received.offset, received.timestamp_ms)
    if standing.entry is None:
        return _Unreadable(*place, standing.reason, base64.b64encode(received.value or b"").decode())
    return _Entry(*place, msgspec.to_builtins(standing.entry))


def _write(file: IO[bytes], line: msgspec.Struct) -> None:
    file.write(_ENCODER.encode(line) + b"\n")


def _parsed(where: str, text: bytes) -> _Line:
    try:
        return _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AuditBroken(f"{where}: not a line of an export: {error}") from None


def _entry(where: str, line: _Entry) -> JournalEntry | AuditEntry:
    for kind in _KINDS:
        if kind in records_on(line.topic):
            unknown = sorted(line.entry.keys() - _FIELDS[kind])
            if unknown:
                # They would not be part of the hash, and so could say anything.
                raise AuditBroken(f"{where}: {kind.__name__} has no field {unknown[0]!r}: forged, or a newer version's")
            try:
                return msgspec.convert(line.entry, kind)
            except msgspec.ValidationError as error:
                raise AuditBroken(f"{where}: not a {kind.__name__}: {error}") from None
    raise AuditBroken(f"{where}: {line.topic} is not a topic of the audit trail")
