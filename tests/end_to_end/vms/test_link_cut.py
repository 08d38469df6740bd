"""The link is cut while a replication cycle is under way: its age alone tells, and nothing half-arrived is taken.

python tests/end_to_end/vms/test_link_cut.py --runs 5
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vms_disks import identical, sound
from vms_hands import PATIENCE_S, Hands
from vms_installation import AGENTS, EVERY_S, VM
from vms_long import repeat

from failover_orch.demo.vms.virsh import command
from failover_orch.domain import HealthChange, ReplicationHealth, ReplicationState
from failover_orch.lab import LabNode
from failover_orch.wire import now_ms

WARNING_AGE_MS = 3 * EVERY_S * 1000
CRITICAL_CYCLES = 8
WRITTEN_MIB = 8
ARRIVED_BYTES = 1 << 18
TRIES = 5


async def test_a_cut_in_a_cycle_is_seen_by_its_age_alone(hands: Hands) -> None:
    await cut_in_a_cycle(hands)


async def cut_in_a_cycle(hands: Hands) -> str:
    """Cut the link in the middle of an upload, watch the health, restore it, and compare the disks."""
    source, target = await hands.settled()
    await hands.policy(replication_age_ms=WARNING_AGE_MS, silent_cycles=CRITICAL_CYCLES)
    node, disk = hands.node(source), await hands.disk(target)
    arrived = await _cut_in_an_upload(hands, source, node, disk)
    cut_ms = now_ms()
    cycle = hands.heard.report(target)
    assert cycle is not None
    await hands.until("it is Critical by its age", lambda: _since(hands, cut_ms, ReplicationHealth.CRITICAL, "H9:"))
    told = [end for end in hands.heard.reports if end.site == target and end.reported_at_ms > cut_ms]
    assert _in_order(hands, cut_ms), [change for change in hands.heard.changes if change.changed_at_ms > cut_ms]
    assert {end.errors for end in told} == {cycle.errors}, told
    assert {end.state for end in told} == {ReplicationState.REPLICATING}, told
    assert {end.last_replication_at_ms for end in told} == {told[0].last_replication_at_ms}, told
    critical_s = (hands.heard.changes[-1].changed_at_ms - told[0].last_replication_at_ms) / 1000
    await asyncio.to_thread(hands.lab.restore_link, source)
    back_ms = now_ms()
    await hands.until("it is well again", lambda: hands.well() and hands.received(target, back_ms))
    well_s = (now_ms() - back_ms) / 1000
    await hands.policy()
    await _compare(hands, source, target)
    return (
        f"cut at {source} with {arrived / 1024:.0f} KiB of a cycle arrived: Critical {critical_s:.1f} s after the last "
        f"cycle, well {well_s:.1f} s after the link, disks identical"
    )


async def _cut_in_an_upload(hands: Hands, source: str, node: LabNode, disk: Path) -> int:
    """Have the guest write much, and cut the link once part of it has arrived; how many bytes that was."""
    for _ in range(TRIES):
        await asyncio.to_thread(_write, node)
        arrived = await asyncio.to_thread(_cut_when_arriving, hands, source, disk)
        if arrived:
            return arrived
    raise AssertionError(f"no cycle could be caught on its way to {disk} in {TRIES} tries")


def _write(node: LabNode) -> None:
    """Have the guest write a file; it does so while this goes on."""
    arguments = ["if=/dev/urandom", "of=/data/written", "bs=65536", f"count={WRITTEN_MIB * 16}", "conv=notrunc"]
    asked = {"execute": "guest-exec", "arguments": {"path": "/bin/dd", "arg": arguments}}
    command("virsh", "--quiet", "--connect", node.uri, "qemu-agent-command", VM, json.dumps(asked))


def _cut_when_arriving(hands: Hands, source: str, disk: Path) -> int:
    """Cut the link when so much of a cycle's file is there that more is to come; 0 where it was too late."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for file in disk.parent.glob(f"{disk.name}.incoming-*"):
            if _size(file) >= ARRIVED_BYTES:
                hands.lab.cut_link(source)
                if file.name.endswith(".part") and (arrived := _size(file)):
                    return arrived
                # All of it was there before the link was cut.
                hands.lab.restore_link(source)
                return 0
        time.sleep(0.002)
    raise AssertionError(f"nothing arrived at {disk}")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _changes(hands: Hands, since_ms: int, health: ReplicationHealth, rule: str) -> list[HealthChange]:
    return [
        change
        for change in hands.heard.changes
        if change.changed_at_ms > since_ms
        and change.vm_id == VM
        and change.health is health
        and any(reason.startswith(rule) for reason in change.reasons)
    ]


def _since(hands: Hands, since_ms: int, health: ReplicationHealth, rule: str) -> bool:
    return bool(_changes(hands, since_ms, health, rule))


def _in_order(hands: Hands, since_ms: int) -> bool:
    """Warning by age, and then Critical by age."""
    warnings = _changes(hands, since_ms, ReplicationHealth.WARNING, "H4:")
    critical = _changes(hands, since_ms, ReplicationHealth.CRITICAL, "H9:")
    return bool(warnings) and bool(critical) and warnings[0].changed_at_ms < critical[0].changed_at_ms


async def _compare(hands: Hands, source: str, target: str) -> None:
    """Have the guest write nothing for a while, and see that the replica is the same then."""
    node, ours = hands.node(source), await hands.disk(source)
    theirs = await hands.disk(target)
    await asyncio.to_thread(_virsh, node, "suspend")
    try:
        suspended_ms = now_ms()
        await hands.until("a cycle comes of the suspended VM", lambda: hands.received(target, suspended_ms))
        hands.installation.pause(AGENTS[target])
        try:
            newest = max(theirs.parent.glob(f"{theirs.name}.rp-*"), key=lambda file: int(file.name.rpartition("-")[2]))
            assert await asyncio.to_thread(identical, ours, newest), f"{ours} and {newest} differ"
            assert await asyncio.to_thread(sound, newest), f"the file system on {newest} is broken"
        finally:
            hands.installation.resume(AGENTS[target])
    finally:
        await asyncio.to_thread(_virsh, node, "resume")


def _virsh(node: LabNode, word: str) -> None:
    command("virsh", "--quiet", "--connect", node.uri, word, VM)


async def _scene(hands: Hands, _chance: random.Random, _number: int) -> str:
    return await cut_in_a_cycle(hands)


def _summary(lines: Sequence[str]) -> str:
    return f"{len(lines)} cuts in the middle of a cycle were seen by age, Warning before Critical"


if __name__ == "__main__":
    sys.exit(repeat(__doc__, _scene, runs=5, summary=_summary))
