"""A reversal that was cut short between its ends, both of which are replicas then: neither way on loses anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from libvirt_pair import VM, Saved, libvirt_pair

from contract import PLANNED, Pair
from failover_orch.domain.records import Action
from failover_orch.hypervisors.libvirt.domain_xml import describe
from failover_orch.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.lab import Lab


@pytest.fixture(scope="module")
def saved(four_nodes: Lab, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(four_nodes, tmp_path_factory.mktemp("saved"))


@pytest.fixture
async def half_turned(four_nodes: Lab, saved: Saved) -> AsyncIterator[Pair]:
    """The old primary is turned round, and the record of the new one was never written."""
    async with libvirt_pair(four_nodes, saved) as pair:
        for action, site in PLANNED[:4]:
            await pair.do(action, site)
        assert isinstance(pair.dr, LibvirtHypervisor)
        before = await _record(pair.dr)
        await pair.do(Action.REVERSE)
        placed = await pair.dr.nodes.find(VM)
        assert placed is not None
        await pair.dr.nodes.write(placed, before)
        yield pair


async def _record(hypervisor: LibvirtHypervisor) -> Record:
    placed = await hypervisor.nodes.find(VM)
    assert placed is not None
    return placed.record


async def test_asked_again_it_is_carried_through(half_turned: Pair) -> None:
    found = await half_turned.do(Action.REVERSE, attempt=2)
    assert (found["mode"], found["state"]) == ("Primary", "Replicating")


async def test_taken_back_the_vm_runs_and_replicates_where_it_was(half_turned: Pair) -> None:
    pair = half_turned
    await pair.do(Action.CANCEL_FAILOVER, epoch=6)
    found = await pair.do(Action.CANCEL_PREPARE, "primary", epoch=6)
    assert (found["mode"], found["state"], found["connected/nic-1"]) == ("Primary", "Replicating", "yes")
    assert (await pair.do(Action.START, "primary", epoch=6))["power"] == "RUNNING"
    first = (await pair.dr.observe(VM))["recovery_point"]
    await pair.replicate()
    replica = await pair.dr.observe(VM)
    assert (replica["state"], replica["recovery_point"] == first) == ("Replicating", False)


async def test_taken_back_halfway_it_can_still_go_on(half_turned: Pair) -> None:
    pair = half_turned
    await pair.do(Action.CANCEL_FAILOVER, epoch=6)
    for action in (Action.FAIL_OVER, Action.REVERSE, Action.CONNECT_ADAPTERS, Action.START):
        found = await pair.do(action, epoch=7, run_id="run-2")
    assert (found["mode"], found["power"]) == ("Primary", "RUNNING")


async def test_a_failover_that_nobody_wrote_down_is_undone_with_its_cancellation(four_nodes: Lab, saved: Saved) -> None:
    async with libvirt_pair(four_nodes, saved) as pair:
        assert isinstance(pair.dr, LibvirtHypervisor)
        before = await _record(pair.dr)
        await pair.do(Action.FAIL_OVER)
        placed = await pair.dr.nodes.find(VM)
        assert placed is not None
        await pair.dr.nodes.write(placed, before)
        (disk,) = describe(placed.xml).disks
        assert await asyncio.to_thread(Path(disk.path).exists)
        await pair.do(Action.CANCEL_FAILOVER, epoch=6)
        assert not await asyncio.to_thread(Path(disk.path).exists)


async def test_a_vm_that_was_left_paused_comes_up_with_its_addresses(four_nodes: Lab, saved: Saved) -> None:
    async with libvirt_pair(four_nodes, saved) as pair:
        assert isinstance(pair.dr, LibvirtHypervisor)
        for action, site in PLANNED[:-2]:
            await pair.do(action, site)
        placed = await pair.dr.nodes.find(VM)
        assert placed is not None
        await pair.dr.nodes.start_paused(placed)
        assert (await pair.dr.observe(VM))["power"] == "OFF"
        for action, site in PLANNED[-2:]:
            found = await pair.do(action, site)
        assert found["addresses/nic-1"] == "10.50.0.21/24, fd50::21/64"
