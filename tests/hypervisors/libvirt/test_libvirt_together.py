"""A test copy follows its replica, and everything that is asked of it still finds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from libvirt_pair import VM, Saved, libvirt_pair, move_alone
from libvirt_vms import until

from contract import Pair
from failover_orch.domain.records import Action
from failover_orch.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from failover_orch.lab import Lab


@pytest.fixture(scope="module")
def saved(four_nodes: Lab, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(four_nodes, tmp_path_factory.mktemp("saved"))


@pytest.fixture
async def pair(four_nodes: Lab, saved: Saved) -> AsyncIterator[Pair]:
    async with libvirt_pair(four_nodes, saved) as pair:
        yield pair


async def test_a_test_copy_follows_its_replica_off_and_running(four_nodes: Lab, pair: Pair) -> None:
    hypervisor = pair.dr
    assert isinstance(hypervisor, LibvirtHypervisor)

    async def where() -> tuple[str, str]:
        found = await hypervisor.observe(VM)
        return found.get("node", ""), found.get("test/node", "")

    async def are_on(node: str) -> bool:
        return await where() == (node, node)

    await pair.do(Action.CREATE_TEST)
    for node, action in (("d2", Action.START_TEST), ("d1", Action.VERIFY_TEST)):
        placed = await hypervisor.nodes.find(VM)
        assert placed is not None
        await asyncio.to_thread(move_alone, four_nodes, placed, node)
        await until(partial(are_on, node))
        found = await pair.do(action)
        assert found["test/node"] == node
    assert found["addresses/nic-1"] == "10.50.0.21/24, fd50::21/64"
    await pair.do(Action.DELETE_TEST)
    assert await where() == ("d1", "")
