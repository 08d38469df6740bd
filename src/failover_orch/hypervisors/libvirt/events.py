"""Translates libvirt's lifecycle events into VM-moved facts.

A live migration is told by two hosts, each over a connection of its own, so nothing orders one host's events against
the other's:

    new host   STARTED/MIGRATED     incoming: the VM is there, but paused; the migration may still fail
    old host   SUSPENDED/MIGRATED
    new host   RESUMED/MIGRATED     the VM runs here: it has moved
    old host   STOPPED/MIGRATED     it has left, up to 2 s later: never "the VM is down"

A migration that is given up ends in STOPPED/FAILED at the new host, which is also what a crash looks like. Neither
is a departure: after a crash the VM still belongs to its host, and an incoming VM was never counted as arrived.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.errors import ConfigError

__all__ = ["HostEvent", "moves", "read_events"]

_KINDS = frozenset({"lifecycle", "agent", "connection", "note"})

_LATEST_S = 100_000_000_000
"""The year 5138: a larger time is one in milliseconds."""

_MOVES: dict[tuple[str, str], MoveKind] = {
    ("RESUMED", "MIGRATED"): MoveKind.LIVE,
    ("STARTED", "BOOTED"): MoveKind.PLACED,
    ("STOPPED", "MIGRATED"): MoveKind.DEPARTED,
}
"""Every event and detail that says where a VM is; all others say nothing of it."""


@dataclass(frozen=True, slots=True)
class HostEvent:
    """One line of a recording. `at_ms` is the observer's clock; `kind` is lifecycle, agent, connection or note."""

    kind: str
    at_ms: int
    node: str = ""
    vm_id: str = ""
    event: str = ""
    detail: str = ""


def read_events(path: Path | str) -> tuple[HostEvent, ...]:
    """Read a recording: JSON lines, one event each. Empty lines are passed over.

    Raises:
        ConfigError: the file cannot be read, or a line is not such an event; names the line.

    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return tuple(_event(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip())


def moves(events: Iterable[HostEvent], *, site: str, cluster: str = "") -> Iterator[VmMoved]:
    """The moves among events, in their order.

    `sequence` is the event's place among the moves that this node told of this VM, so reading the same recording again
    gives the same numbers, however the recordings of several nodes are interleaved.
    """
    told: dict[tuple[str, str], int] = {}
    for event in events:
        kind = _MOVES.get((event.event, event.detail)) if event.kind == "lifecycle" else None
        if kind is None:
            continue
        sequence = told.get((event.vm_id, event.node), 0) + 1
        told[event.vm_id, event.node] = sequence
        yield VmMoved(
            event.vm_id,
            site,
            event.node,
            kind,
            event.at_ms,
            cluster=cluster,
            sequence=sequence,
            source=f"libvirt:{event.node}",
        )


def _event(where: str, line: bytes) -> HostEvent:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ConfigError(f"{where}: expected a JSON object, one event a line")
    time_s = record.get("t")
    if isinstance(time_s, bool) or not isinstance(time_s, int | float) or not 0 <= time_s < _LATEST_S:
        raise ConfigError(f"{where}: field 't' is {time_s!r}; expected seconds since the Unix epoch")
    kind = record.get("kind")
    if kind not in _KINDS:
        raise ConfigError(f"{where}: field 'kind' is {kind!r}; expected one of {', '.join(sorted(_KINDS))}")
    wanted = ("node", "vm_id", "event", "detail") if kind == "lifecycle" else ()
    for name in wanted:
        if not isinstance(record.get(name), str) or not record[name]:
            raise ConfigError(f"{where}: field {name!r} is {record.get(name)!r}; a lifecycle event needs a text there")
    texts = {name: record[name] for name in wanted}
    return HostEvent(kind, round(time_s * 1000), **texts)
