"""What two real libvirt hosts once reported, sent through a real broker and a worker."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from topics import publisher, values_once
from workers import running_workers

from failover_orch.cli.replay import schedule
from failover_orch.config import Settings
from failover_orch.domain import MoveKind, RouteCause, VmMoved
from failover_orch.hypervisors.libvirt import moves, read_events

DATA = Path(__file__).parents[1] / "data"
RECORDED = list(moves(read_events(DATA / "libvirt-events.jsonl"), site="dr"))
TRUTH: dict[str, str] = json.loads((DATA / "libvirt-events.truth.json").read_text())["final"]
NODES = sorted({move.node for move in RECORDED})
MOVES = 16
SEEDS = range(12)
LAST = "the-last-of-"


def test_the_recording_holds_sixteen_migrations_of_four_vms() -> None:
    assert sum(move.kind is MoveKind.LIVE for move in RECORDED) == MOVES
    assert {move.vm_id for move in RECORDED} == TRUTH.keys()


def variant(seed: int) -> Iterator[VmMoved]:
    """The recording with one node up to 5 s late, every event twice, and VMs named anew, so that none meets another."""
    chance = random.Random(seed)
    delays = {node: chance.uniform(0, 5) for node in NODES}
    for _, move in schedule(RECORDED, delays, double=True):
        yield replace(move, vm_id=f"{move.vm_id}/{seed}")


def lasts(vm_ids: set[str]) -> list[VmMoved]:
    """A move of each VM at a site of its own: once it is told, all before it has been taken."""
    return [VmMoved(vm_id, LAST + vm_id, "n", MoveKind.PLACED, 1, sequence=1) for vm_id in sorted(vm_ids)]


async def updates_of(settings: Settings, vm_ids: set[str]) -> list[Any]:
    def all_told(updates: list[Any]) -> bool:
        return {update.vm_id for update in updates if update.changed.site == LAST + update.vm_id} >= vm_ids

    updates = await values_once(settings, "routing-updates", all_told, timeout_s=120)
    return [update for update in updates if update.changed.site == "dr"]


def final_nodes(updates: list[Any]) -> dict[str, str]:
    latest: dict[str, Any] = {}
    for update in updates:
        assert update.epoch > (latest[update.vm_id].epoch if update.vm_id in latest else 0)
        latest[update.vm_id] = update
    return {vm_id: update.changed.node for vm_id, update in latest.items()}


async def test_the_map_ends_as_the_truth_says_after_sixteen_moves(settings: Settings, tmp_path: Path) -> None:
    with running_workers(settings, tmp_path, 1):
        async with publisher(settings) as publishing:
            await publishing.publish(*RECORDED, *lasts(set(TRUTH)))
        updates = await updates_of(settings, set(TRUTH))
        assert final_nodes(updates) == TRUTH
        assert sum(update.cause is RouteCause.LIVE for update in updates) == MOVES


async def test_neither_delays_nor_doubling_nor_a_kill_in_between_change_where_the_vms_are(
    settings: Settings, tmp_path: Path
) -> None:
    sent = {seed: list(variant(seed)) for seed in SEEDS}
    half = len(sent[0]) // 2
    vm_ids = {move.vm_id for moves in sent.values() for move in moves}
    with running_workers(settings, tmp_path, 1) as workers:
        async with publisher(settings) as publishing:
            await publishing.publish(*(move for moves in sent.values() for move in moves[:half]))
            await values_once(settings, "routing-updates", bool)
            workers.kill(0)
            await publishing.publish(*(move for moves in sent.values() for move in moves[half:]), *lasts(vm_ids))
            workers.start(0)
        updates = await updates_of(settings, vm_ids)
    assert final_nodes(updates) == {f"{vm_id}/{seed}": node for vm_id, node in TRUTH.items() for seed in SEEDS}
    told = Counter(update.vm_id.rpartition("/")[2] for update in updates if update.cause is RouteCause.LIVE)
    assert all(told[str(seed)] <= MOVES for seed in SEEDS), told
