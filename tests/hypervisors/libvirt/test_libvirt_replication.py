"""Replication cycles between real nodes. Most VMs here boot no guest: the tests write to their disks through QEMU."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import Any

import libvirt
import pytest
from disk_images import holds, same
from libvirt_vms import Vms, until
from replicating import Half, Replicating, cut_short, half, replicating

from failover_orch.domain.inventory import IntegrationServices
from failover_orch.domain.records import Location, Role, RouteCause, RoutingUpdate
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.errors import StaleEpoch
from failover_orch.hypervisors import Power
from failover_orch.hypervisors.libvirt.messages import LinkDown
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.libvirt.views import SILENT_MS, Views
from failover_orch.hypervisors.rules import with_point


@pytest.fixture
async def two(vms: Vms) -> AsyncIterator[Replicating]:
    """A VM with two disks that has been replicated once."""
    async with replicating(vms, disks=2) as vm:
        await vm.write(1, 0)
        await vm.cycle()
        yield vm


async def has_files(vm: Replicating, where: Half, names: set[str]) -> bool:
    return await vm.files(where) == names


async def has_cycle(vm: Replicating, cycle: int) -> bool:
    return (await vm.record()).cycle == (await vm.record(vm.dr)).cycle == cycle


async def is_off(vm: Replicating) -> bool:
    return (await vm.primary.placed(vm.vm_id)).power is Power.OFF


async def same_disks(here: Sequence[str], there: Sequence[str]) -> bool:
    return all([await asyncio.to_thread(same, *pair) for pair in zip(here, there, strict=True)])


def route(vm_id: str, replica: str) -> RoutingUpdate:
    locations = (Location("primary", "p1", Role.PRIMARY, 1), Location("dr", replica, Role.REPLICA, 1))
    return RoutingUpdate(vm_id, 5, RouteCause.QUICK, locations[1], "d1", locations, 1)


async def not_so(asked: Awaitable[bool]) -> bool:
    return not await asked


async def test_the_first_cycle_makes_the_replica(vms: Vms) -> None:
    async with replicating(vms, disks=2) as vm:
        await vm.write(1, 0)
        await vm.write(2, 0, disk=1)
        record = await vm.cycle()
        assert (record.end.state, record.cycle, record.peer_node) == (ReplicationState.REPLICATING, 1, "d1")
        replica = await vm.record(vm.dr)
        assert (replica.end.mode, replica.end.state) == (ReplicationMode.REPLICA, ReplicationState.REPLICATING)
        assert (replica.cycle, replica.peer_node, replica.peer_site) == (1, "p1", "primary")
        assert [point.point_id for point in replica.end.recovery_points] == ["rp-1"]
        with pytest.raises(libvirt.libvirtError, match="Cannot access storage file"):
            await vm.on("d1", "create")
        await vm.on("p1", "destroy")
        assert await vm.identical()


async def test_cycles_bring_what_was_written_on_all_disks(two: Replicating) -> None:
    for number in range(2, 6):
        await two.write(number, 64 * number)
        await two.write(number, 128 * number, disk=1)
        placed = await two.primary.placed(two.vm_id)
        assert await two.primary.sender.pending_bytes(placed) == 2 * 65536
        record = await two.cycle()
        placed = await two.primary.placed(two.vm_id)
        assert await two.primary.sender.pending_bytes(placed) == 0
        replica = await two.record(two.dr)
        assert record.cycle == replica.cycle == number
        assert record.end.last_replication_at_ms <= replica.end.last_replication_at_ms + 50
    await two.on("p1", "destroy")
    assert await two.identical()


async def test_older_points_stay_as_they_were_until_they_are_merged(vms: Vms) -> None:
    async with replicating(vms, points=3) as vm:
        for number in range(1, 6):
            await vm.write(number, 0, kib=1024)
            await vm.cycle()
        replica = await vm.record(vm.dr)
        assert [point.point_id for point in replica.end.recovery_points] == ["rp-3", "rp-4", "rp-5"]
        await until(lambda: has_files(vm, vm.dr, {"rp-3", "rp-4", "rp-5"}))
        (path,) = await vm.images(vm.dr)
        for number in (3, 4, 5):
            assert holds(f"{path}.rp-{number}", number)


async def test_application_consistent_points_freeze_the_guest(vms: Vms) -> None:
    async with replicating(vms, guest=True, consistent_every=2) as vm:
        await until(vm.agent_answers)
        for _ in range(3):
            await vm.cycle()
        points = (await vm.record(vm.dr)).end.recovery_points
        assert [point.application_consistent for point in points] == [False, True, False]
        assert not await vm.frozen()
        # The counter that the guest keeps writes on while cycles run: what arrives is what was at one moment.
        await vm.on("p1", "suspend")
        await vm.cycle()
        await vm.on("p1", "destroy")
        assert await vm.identical()


async def test_a_guest_that_falls_silent_counts_as_missing_only_after_a_while(vms: Vms) -> None:
    async with replicating(vms, guest=True) as vm:
        await until(vm.agent_answers)
        now_ms = [1]
        views = Views(Site(vm.settings["primary"], vm.primary.site.nodes, lambda: now_ms[0]), vm.primary.peers, ())

        async def services() -> IntegrationServices:
            told = await views.inventory(await vm.primary.placed(vm.vm_id))
            assert told is not None
            return told.guest.integration_services

        assert await services() is IntegrationServices.RUNNING
        await vm.on("p1", "suspend")
        assert await services() is IntegrationServices.UNKNOWN
        now_ms[0] += SILENT_MS
        assert await services() is IntegrationServices.ABSENT
        await vm.on("p1", "resume")
        await until(vm.agent_answers)
        assert await services() is IntegrationServices.RUNNING


async def test_without_an_agent_a_point_is_taken_all_the_same(vms: Vms) -> None:
    async with replicating(vms, consistent_every=1) as vm:
        await vm.cycle()
        (point,) = (await vm.record(vm.dr)).end.recovery_points
        assert not point.application_consistent


async def test_a_frozen_guest_that_a_dead_process_left_is_thawed(vms: Vms) -> None:
    async with replicating(vms, guest=True, consistent_every=2) as vm:
        await until(vm.agent_answers)
        await vm.on("p1", "fsFreeze")
        assert await vm.frozen()
        running = asyncio.create_task(vm.primary.sender.run())
        await until(lambda: not_so(vm.frozen()))
        running.cancel()
        await asyncio.wait({running})


# What is off


async def test_a_vm_that_is_off_sends_what_it_had_not_sent(two: Replicating) -> None:
    await two.write(7, 640)
    await two.write(8, 640, disk=1)
    await two.on("p1", "destroy")
    await two.cycle()
    assert await two.identical()
    replica = await two.record(two.dr)
    assert (replica.cycle, len(replica.end.recovery_points)) == (2, 2)
    for _ in range(2):
        at_ms = (await two.record(two.dr)).end.last_replication_at_ms
        await two.cycle()
        replica = await two.record(two.dr)
        assert (replica.cycle, len(replica.end.recovery_points)) == (2, 2), "nothing was written: it is only as new"
        assert replica.end.last_replication_at_ms > at_ms
    await two.on("p1", "create")
    await two.write(9, 64)
    await two.on("p1", "destroy")
    await two.cycle()
    assert (await two.record(two.dr)).cycle == 3
    assert await two.identical()
    placed = await two.primary.placed(two.vm_id)
    assert (placed.power, placed.starting) == ("OFF", False)


async def test_what_is_left_is_sent_for_a_planned_failover(two: Replicating) -> None:
    await two.write(7, 640)
    await two.on("p1", "destroy")
    async with two.primary.site.lock(two.vm_id):
        shipped = await two.primary.sender.ship_rest(await two.primary.placed(two.vm_id))
    assert shipped.cycle == (await two.record()).cycle == (await two.record(two.dr)).cycle == 2
    assert await two.identical()


async def test_what_is_left_is_sent_though_a_cycle_is_under_way(two: Replicating) -> None:
    await two.write(7, 640)
    for turns in (0, 1, 5, 40):
        cycle = asyncio.create_task(two.primary.sender.cycle(two.vm_id))
        for _ in range(turns):
            await asyncio.sleep(0.002)
        async with two.primary.site.lock(two.vm_id):
            await two.on("p1", "destroy")
            shipped = await two.primary.sender.ship_rest(await two.primary.placed(two.vm_id))
        await cycle
        assert await two.identical()
        assert shipped.end.state is ReplicationState.REPLICATING
        await two.on("p1", "create")
        await two.write(turns + 1, 64 * turns)


async def test_a_vm_that_is_off_is_left_off_whatever_cuts_its_cycle_short(two: Replicating) -> None:
    await two.write(7, 640)
    await two.on("p1", "destroy")
    for steps in range(0, 60, 6):
        await cut_short(two.primary.cycles.ship(two.vm_id, locked=False), steps)
        placed = await two.primary.placed(two.vm_id)
        assert (placed.power, placed.starting) == ("OFF", False)
    await two.cycle()
    assert await two.identical()


# Crashes


async def test_nothing_is_lost_whatever_cuts_a_cycle_short(two: Replicating) -> None:
    for steps in range(1, 400, 3):
        pattern = steps % 200 + 2
        await two.write(pattern, 64 * (steps % 32))
        await two.write(pattern, 64 * (steps % 32), disk=1)
        if await cut_short(two.primary.cycles.ship(two.vm_id, locked=False), steps):
            break
        if steps % 2:
            # As another process would find it.
            async with half(two.settings["primary"]) as another:
                await two.cycle(another)
    assert steps > 20
    replica = await two.record(two.dr)
    assert len(replica.end.recovery_points) < 24
    await two.on("p1", "destroy")
    await two.cycle()
    assert await two.identical()


async def test_a_cycle_whose_answer_was_lost_is_not_sent_again(two: Replicating) -> None:
    await two.write(7, 640)
    commit = two.primary.peers.commit

    async def deaf(*arguments: Any) -> Record:
        await commit(*arguments)
        raise LinkDown("the answer was lost")

    two.primary.peers.commit = deaf  # type: ignore[method-assign,assignment]
    record = await two.primary.sender.cycle(two.vm_id)
    assert record is not None
    assert (record.cycle, record.end.missed_cycles, (await two.record(two.dr)).cycle) == (1, 1, 2)
    two.primary.peers.commit = commit  # type: ignore[method-assign]
    record = await two.primary.sender.cycle(two.vm_id)
    assert record is not None
    assert record.cycle == (await two.record(two.dr)).cycle == 3
    await two.on("p1", "destroy")
    assert await two.identical()


async def test_a_cut_link_counts_as_missed_and_costs_nothing(two: Replicating) -> None:
    await two.write(7, 0, kib=1024)
    two.links["dr"].cut(after=300_000)
    before = await two.record()
    record = await two.primary.sender.cycle(two.vm_id)
    assert record is not None
    assert (record.end.missed_cycles, record.end.errors) == (1, 1)
    assert record.end.pending_bytes == 1024 * 1024
    assert record.end.last_replication_at_ms == before.end.last_replication_at_ms
    assert (await two.record(two.dr)).cycle == 1
    await two.primary.sender.cycle(two.vm_id)
    two.links["dr"].restore()
    record = await two.primary.sender.cycle(two.vm_id)
    assert record is not None
    assert (record.end.cycles, record.end.missed_cycles, record.end.state) == (4, 2, ReplicationState.REPLICATING)
    await two.on("p1", "destroy")
    assert await two.identical()
    assert not any("delta" in name for name in await two.files(two.primary))
    assert not any("incoming" in name for name in await two.files(two.dr))


async def test_a_link_that_goes_silent_is_given_up(two: Replicating, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("failover_orch.hypervisors.libvirt.sender._SHORTEST_LIMIT_S", 1.0)
    await two.primary.change(two.vm_id, {"every_ms": 100})
    await two.write(7, 0, kib=1024)
    two.links["dr"].cut(after=300_000, silent=True)
    record = await two.primary.sender.cycle(two.vm_id)
    assert record is not None
    assert (record.cycle, record.end.missed_cycles) == (1, 1)
    two.links["dr"].restore()
    await two.primary.change(two.vm_id, {"every_ms": 3_600_000})
    await two.cycle()
    await two.on("p1", "destroy")
    assert await two.identical()


async def test_a_process_that_is_killed_leaves_a_cycle_that_another_one_goes_on_from(two: Replicating) -> None:
    code = f"""
import asyncio, pickle, sys
sys.path[:0] = {sys.path!r}
from replicating import half

async def main():
    async with half(pickle.load(sys.stdin.buffer)) as primary:
        print("go", flush=True)
        while True:
            await primary.sender.cycle({two.vm_id!r})
asyncio.run(main())
"""
    cut = random.Random(7)
    for number in range(5):
        await two.write(number + 2, 64 * number)
        await two.write(number + 2, 64 * number, disk=1)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps(two.settings["primary"]))
        process.stdin.close()
        assert await process.stdout.readline() == b"go\n"
        # Some moment of its work, whichever.
        await asyncio.sleep(cut.uniform(0.05, 0.8))
        process.kill()
        await process.wait()
    record = await two.primary.sender.cycle(two.vm_id)
    assert record is not None
    assert record.end.missed_cycles == 0
    await two.on("p1", "destroy")
    assert await two.identical()


# Where the ends are


async def test_replication_goes_on_where_the_vm_has_moved_to(two: Replicating) -> None:
    await two.write(7, 640)
    await two.vms.migrate(two.vm, "p1", "p2")
    await two.write(8, 128, disk=1, node="p2")
    assert await two.primary.sender.pending_bytes(await two.primary.placed(two.vm_id)) == 2 * 65536
    record = await two.cycle()
    assert (record.cycle, record.end.node, record.end.state) == (2, "p2", ReplicationState.REPLICATING)
    replica = await two.record(two.dr)
    assert (replica.peer_node, len(replica.end.recovery_points)) == ("p2", 2), "no full copy"
    await two.vms.migrate(two.vm, "p2", "p1")
    await two.write(9, 192)
    await two.cycle()
    placed = await two.primary.placed(two.vm_id)
    assert await two.primary.sender.pending_bytes(placed) == 0
    assert len((await two.record(two.dr)).end.recovery_points) == 3
    await two.on("p1", "destroy")
    assert await two.identical()


async def test_a_cycle_goes_on_where_the_vm_moves_to_meanwhile(two: Replicating) -> None:
    for source, target in (("p1", "p2"), ("p2", "p1")):
        await two.write(7, 640, node=source)
        moving = asyncio.create_task(two.vms.migrate(two.vm, source, target))
        records = [await two.primary.sender.cycle(two.vm_id) for _ in range(3)]
        await moving
        assert [record.end.missed_cycles for record in records if record is not None] == [0, 0, 0]
    assert len((await two.record(two.dr)).end.recovery_points) == 7
    await two.on("p1", "destroy")
    assert await two.identical()


async def test_an_attempt_that_the_vm_moved_away_from_is_undone(two: Replicating) -> None:
    await two.write(7, 640)
    two.links["dr"].cut(after=1000)
    await two.primary.sender.cycle(two.vm_id)
    two.links["dr"].restore()
    await two.vms.migrate(two.vm, "p1", "p2")
    await two.write(8, 128, node="p2")
    await two.cycle()
    assert len((await two.record(two.dr)).end.recovery_points) == 2
    await two.on("p2", "destroy")
    assert await two.identical()


async def test_replication_follows_a_replica_by_its_route(two: Replicating) -> None:
    await two.write(7, 640)
    await two.vms.migrate(two.vm, "d1", "d2")
    record = await two.primary.sender.cycle(two.vm_id)
    assert record is not None
    assert (record.end.missed_cycles, record.end.state, record.cycle) == (1, ReplicationState.REPLICATING, 1)
    running = asyncio.create_task(two.primary.sender.run())
    two.primary.site.take_route(route(two.vm_id, "d2"))
    # The next cycle is an hour away: it is the routing update that wakes the sender.
    await until(lambda: has_cycle(two, 2))
    running.cancel()
    await asyncio.wait({running})
    assert (await two.record()).peer_node == "d2"
    await two.on("p1", "destroy")
    assert await two.identical()


async def test_a_vm_whose_qemu_was_killed_is_copied_anew(two: Replicating) -> None:
    await two.write(7, 640)
    for pid in two.vms.lab.qemu_pids("p1"):
        os.kill(pid, signal.SIGKILL)
    await until(lambda: is_off(two))
    await two.on("p1", "create")
    await two.write(8, 128, disk=1)
    record = await two.cycle()
    assert (record.end.state, record.resynchronize) == (ReplicationState.REPLICATING, False)
    replica = await two.record(two.dr)
    assert [point.point_id for point in replica.end.recovery_points] == ["rp-2"], "no older ones"
    await two.write(9, 192)
    await two.cycle()
    assert len((await two.record(two.dr)).end.recovery_points) == 2
    await two.on("p1", "destroy")
    assert await two.identical()


async def test_a_killed_vm_that_is_off_is_copied_anew(two: Replicating) -> None:
    await two.write(7, 640)
    for pid in two.vms.lab.qemu_pids("p1"):
        os.kill(pid, signal.SIGKILL)
    await until(lambda: is_off(two))
    await two.cycle()
    assert len((await two.record(two.dr)).end.recovery_points) == 1
    assert await two.identical()


# States


async def test_nothing_is_sent_before_somebody_says_so(two: Replicating) -> None:
    await two.primary.change(two.vm_id, state=ReplicationState.READY_FOR_INITIAL_REPLICATION, next_cycle_at_ms=0)
    before = await two.record()
    assert await two.primary.sender.cycle(two.vm_id) == replace(before, end=replace(before.end, power=Power.RUNNING))
    assert (await two.record(two.dr)).cycle == 1


async def test_only_what_is_due_is_sent(two: Replicating) -> None:
    await two.primary.sender.cycle(two.vm_id, now=False)
    assert (await two.record()).cycle == 1
    await two.primary.change(two.vm_id, next_cycle_at_ms=1)
    await two.primary.sender.cycle(two.vm_id, now=False)
    assert (await two.record()).cycle == 2


async def test_a_primary_that_was_overtaken_is_in_error_until_the_failover_is_taken_back(two: Replicating) -> None:
    await two.dr.change(two.vm_id, state=ReplicationState.FAILED_OVER_WAITING_COMPLETION)
    await two.write(7, 640)
    record = await two.primary.sender.cycle(two.vm_id)
    assert record is not None
    assert (record.end.state, record.end.missed_cycles) == (ReplicationState.ERROR, 1)
    await two.dr.change(two.vm_id, state=ReplicationState.REPLICATING)
    record = await two.cycle()
    assert (record.end.state, record.cycle) == (ReplicationState.REPLICATING, 2)
    assert len((await two.record(two.dr)).end.recovery_points) == 2
    await two.on("p1", "destroy")
    assert await two.identical()


async def test_a_replica_that_was_removed_is_made_anew(two: Replicating) -> None:
    await two.on("d1", "undefine")
    record = await two.cycle()
    assert record.end.state is ReplicationState.REPLICATING
    await two.on("p1", "destroy")
    assert await two.identical()


# The other way round


async def test_after_a_planned_failover_only_what_was_written_goes_back(two: Replicating) -> None:
    await two.write(7, 640)
    await two.on("p1", "destroy")
    async with two.primary.site.lock(two.vm_id):
        await two.primary.sender.ship_rest(await two.primary.placed(two.vm_id))
        await (await two.primary.disks(two.vm_id)).lock()
    await two.primary.change(two.vm_id, state=ReplicationState.PREPARED)
    replica = await two.record(two.dr)
    newest = replica.end.recovery_points[-1]
    await (await two.dr.disks(two.vm_id)).open_at(replica, newest.point_id)
    await two.dr.change(
        two.vm_id, state=ReplicationState.FAILED_OVER_WAITING_COMPLETION, failed_over_to=newest, epoch=3
    )
    peer = await two.dr.peers.end("primary", two.vm_id)
    assert peer is not None
    became = with_point(
        replace(peer.end, mode=ReplicationMode.REPLICA, state=ReplicationState.REPLICATING, recovery_points=()), 1, 24
    )
    for _ in range(2):
        turned = await two.dr.peers.become_replica("primary", two.vm_id, 3, became)
        assert (turned.end.mode, turned.end.epoch, turned.peer_node) == (ReplicationMode.REPLICA, 3, "d1")
    with pytest.raises(StaleEpoch, match="accepted epoch 3"):
        await two.dr.peers.become_replica("primary", two.vm_id, 2, became)
    record = await two.dr.sender.begin_tracking(await two.dr.placed(two.vm_id))
    assert not record.resynchronize
    await two.dr.change(
        two.vm_id,
        mode=ReplicationMode.PRIMARY,
        state=ReplicationState.REPLICATING,
        recovery_points=(),
        failed_over_to=None,
        next_cycle_at_ms=1,
    )
    with pytest.raises(libvirt.libvirtError, match="Cannot access storage file"):
        await two.on("p1", "create")
    await two.on("d1", "create")
    await two.write(8, 128, node="d1")
    await two.write(9, 128, disk=1, node="d1")
    assert await two.dr.sender.pending_bytes(await two.dr.placed(two.vm_id)) == 2 * 65536
    record = await two.cycle(two.dr)
    back = await two.record()
    assert (record.cycle, back.cycle, len(back.end.recovery_points)) == (3, 3, 2), "no full copy"
    await two.write(10, 192, node="d1")
    await two.cycle(two.dr)
    await two.on("d1", "destroy")
    assert await same_disks(await two.images(two.dr), await two.points(two.primary))


@pytest.mark.parametrize("newest", [True, False])
async def test_what_was_failed_over_to_an_older_point_is_copied_whole(two: Replicating, newest: bool) -> None:
    await two.write(7, 640)
    await two.cycle()
    replica = await two.record(two.dr)
    point = replica.end.recovery_points[-1 if newest else 0]
    await (await two.dr.disks(two.vm_id)).open_at(replica, point.point_id)
    record = await two.dr.sender.begin_tracking(await two.dr.placed(two.vm_id))
    assert record.resynchronize is not newest
