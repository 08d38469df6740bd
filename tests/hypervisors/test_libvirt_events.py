"""What two real libvirt hosts reported, in this project's words."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.errors import ConfigError
from failover_orch.hypervisors.libvirt import HostEvent, moves, read_events

DATA = Path(__file__).parent.parent / "data"
RECORDED = DATA / "libvirt-events.jsonl"


def recorded() -> list[VmMoved]:
    return list(moves(read_events(RECORDED), site="dr"))


def test_the_recording_holds_sixteen_moves() -> None:
    assert Counter(move.kind for move in recorded()) == {
        MoveKind.PLACED: 5,
        MoveKind.LIVE: 16,
        MoveKind.DEPARTED: 16,
    }


def test_the_last_arrival_is_where_each_vm_really_was() -> None:
    truth = json.loads((DATA / "libvirt-events.truth.json").read_text())
    arrivals = {move.vm_id: move.node for move in recorded() if move.kind is not MoveKind.DEPARTED}
    assert arrivals == truth["final"]


def test_sequences_grow_and_do_not_depend_on_how_nodes_interleave() -> None:
    events = read_events(RECORDED)
    by_node = sorted(events, key=lambda event: event.node)
    assert set(moves(by_node, site="dr")) == set(recorded())
    last: dict[tuple[str, str], int] = {}
    for move in recorded():
        assert move.sequence == last.get((move.vm_id, move.node), 0) + 1
        last[move.vm_id, move.node] = move.sequence


@pytest.mark.parametrize(
    ("event", "detail", "kind"),
    [
        ("RESUMED", "MIGRATED", MoveKind.LIVE),
        ("STARTED", "BOOTED", MoveKind.PLACED),
        ("STOPPED", "MIGRATED", MoveKind.DEPARTED),
        ("STARTED", "MIGRATED", None),
        ("SUSPENDED", "MIGRATED", None),
        ("STOPPED", "FAILED", None),
        ("RESUMED", "UNPAUSED", None),
        ("DEFINED", "ADDED", None),
    ],
)
def test_what_an_event_means(event: str, detail: str, kind: MoveKind | None) -> None:
    said = HostEvent("lifecycle", 1_000, "d1", "vm-1", event, detail)
    assert [move.kind for move in moves([said], site="dr")] == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object"),
        ('{"kind": "note"}', "field 't' is None; expected seconds"),
        ('{"t": true, "kind": "note"}', "field 't' is True"),
        ('{"t": 1795409423909, "kind": "note"}', "expected seconds"),
        ('{"t": 1, "kind": "nope"}', "field 'kind' is 'nope'; expected one of agent, connection, lifecycle, note"),
        ('{"t": 1, "kind": "lifecycle", "node": "d1", "event": "STARTED", "detail": "BOOTED"}', "field 'vm_id'"),
        (b'{"t": 1, "kind": "\xff"}', "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str | bytes, message: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"t": 1.5, "kind": "note"}\n\n' + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(ConfigError) as error:
        read_events(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl: cannot be read: No such file"):
        read_events(tmp_path / "none.jsonl")
