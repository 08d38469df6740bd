"""What a site of libvirt nodes tells of its own accord, and what becomes of it when agents and nodes come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from libvirt_vms import LEAVES_ITS_DEFINITION, Vm, Vms, settings, until

from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.inventory import ClusterInventory, Guest, Node, NodeState, Replication, Storage, VmInventory
from failover_orch.domain.replication import ReplicationState
from failover_orch.errors import StepFailed
from failover_orch.hypervisors import Observation, Observed
from failover_orch.hypervisors.libvirt.clusters import Clusters, worth_telling
from failover_orch.hypervisors.libvirt.nodes import Nodes, Placed
from failover_orch.hypervisors.libvirt.outbox import Due, Outbox
from failover_orch.hypervisors.libvirt.replication_server import Servers
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.libvirt.watching import Watching
from failover_orch.lab import Lab

NOW = 1_800_000_000_000


class Agent:
    """What one agent of the site primary has open."""

    def __init__(self, site: Site, watching: Watching, nodes: Nodes) -> None:
        self.site = site
        self.watching = watching
        self.nodes = nodes

    async def told(self, *, publish: bool = True) -> list[Observation]:
        """What it tells at the start of a watch: one batch."""
        async with aclosing(self.watching.watch()) as batches:
            batch = await anext(batches)
            if publish:
                await self.watching.published(batch[-1].position)
            return [observed.value for observed in batch]

    async def kept(self, vm: Vm) -> str:
        """The node that the VM's own metadata says was told last."""
        placed = await self.nodes.find(vm.vm_id)
        return placed.told.node if placed is not None and placed.told is not None else ""


@asynccontextmanager
async def agent(lab: Lab, inventories: dict[str, VmInventory] | None = None) -> AsyncIterator[Agent]:
    async def inventory(placed: Placed) -> VmInventory | None:
        return (inventories or {}).get(placed.vm_id)

    async with Nodes(settings(lab)) as nodes:
        site = Site(settings(lab), nodes, lambda: NOW)
        watching = Watching(site, Clusters(site, Servers(site)), inventory)
        running = asyncio.create_task(watching.run())
        try:
            yield Agent(site, watching, nodes)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def moves(values: list[Observation], vm: Vm) -> list[VmMoved]:
    return [value for value in values if isinstance(value, VmMoved) and value.vm_id == vm.vm_id]


def places(values: list[Observation], vm: Vm) -> list[tuple[str, MoveKind]]:
    return [(move.node, move.kind) for move in moves(values, vm)]


async def test_what_is_there_is_told_with_the_cluster_first(vms: Vms) -> None:
    vm = await vms.make("p1")
    inventories = {vm.vm_id: make_inventory(vm.vm_id)}
    async with agent(vms.lab, inventories) as one:
        values = await one.told()
    clusters = [value for value in values if isinstance(value, ClusterInventory)]
    assert [value.vm_id for value in values if isinstance(value, VmInventory)] == [vm.vm_id]
    assert set(places(values, vm)) == {("p1", MoveKind.PLACED)}
    (move,) = set(moves(values, vm))
    assert (move.site, move.cluster, move.storage) == ("primary", "primary-cluster", str(vm.disk.parent))
    nodes = clusters[-1].nodes
    assert [(node.name, node.state) for node in nodes] == [("p1", NodeState.UP), ("p2", NodeState.UP)]
    assert all(node.memory_mib > node.memory_free_mib > 0 and node.cpus for node in nodes)
    (storage,) = nodes[0].storages
    assert storage.capacity_gib >= storage.free_gib > 0


async def test_a_move_is_told_by_both_nodes_and_kept_once_it_is_published(vms: Vms) -> None:
    vm = await vms.make("p1")
    async with agent(vms.lab) as one:
        (placed, *_) = moves(await one.told(), vm)
        await until(lambda: said(one.kept(vm), "p1"))
        await vms.migrate(vm, "p1", "p2")
        async with aclosing(one.watching.watch()) as batches:
            values: list[Observation] = []
            while len(places(values, vm)) < 3:
                batch = await anext(batches)
                values = [observed.value for observed in batch]
            assert await anext(batches) == batch
            assert await one.kept(vm) == "p1"
            await one.watching.published(batch[-1].position)
        assert places(values, vm) == [("p2", MoveKind.LIVE), ("p1", MoveKind.DEPARTED), ("p2", MoveKind.LIVE)]
        assert [move.sequence for move in moves(values, vm)] == [placed.sequence + 1] * 3
        await until(lambda: said(one.kept(vm), "p2"))


async def test_an_agent_that_dies_before_publishing_tells_the_move_again_under_its_number(vms: Vms) -> None:
    vm = await vms.make("p1")
    async with agent(vms.lab) as one:
        await one.told()
        await until(lambda: said(one.kept(vm), "p1"))
        await vms.migrate(vm, "p1", "p2")
        await until(lambda: has_moved(one, vm, "p2"))
        first = moves(await one.told(publish=False), vm)
    async with agent(vms.lab) as another:
        again = moves(await another.told(), vm)
        await until(lambda: said(another.kept(vm), "p2"))
    assert [(move.node, move.kind, move.sequence) for move in again] == [
        (move.node, move.kind, move.sequence) for move in first
    ]
    async with agent(vms.lab) as third:
        assert places(await third.told(), vm) == [("p2", MoveKind.LIVE)]


async def test_a_move_that_nobody_watched_is_found(vms: Vms) -> None:
    vm = await vms.make("p1", running=False)
    async with agent(vms.lab) as one:
        (placed, *_) = moves(await one.told(), vm)
        await until(lambda: said(one.kept(vm), "p1"))
    await vms.migrate(vm, "p1", "p2")
    async with agent(vms.lab) as another:
        found = moves(await another.told(), vm)
    assert [(move.node, move.kind) for move in found][:2] == [("p2", MoveKind.LIVE), ("p1", MoveKind.DEPARTED)]
    assert found[0].sequence == found[1].sequence == placed.sequence + 1


async def test_a_vm_begun_anew_on_another_node_was_placed_there(vms: Vms) -> None:
    vm = await vms.make("p1")
    async with agent(vms.lab) as one:
        await one.told()
        await until(lambda: said(one.kept(vm), "p1"))
        placed = await one.nodes.find(vm.vm_id)
        assert placed is not None
        with vms.connected("p1") as here:
            domain = here.lookupByUUIDString(vm.uuid)
            xml = domain.XMLDesc()
            domain.destroy()
            domain.undefine()
        with vms.connected("p2") as there:
            there.defineXML(xml).create()
        await until(lambda: has_moved(one, vm, "p2"))
        values = await one.told()
    assert places(values, vm)[:2] == [("p2", MoveKind.PLACED), ("p1", MoveKind.DEPARTED)]


async def test_a_definition_left_behind_loses_its_record_once_the_move_is_told(vms: Vms) -> None:
    vm = await vms.make("p1")
    async with agent(vms.lab) as one:
        await one.told()
        await until(lambda: said(one.kept(vm), "p1"))
        await vms.migrate(vm, "p1", "p2", flags=LEAVES_ITS_DEFINITION)
        await until(lambda: has_moved(one, vm, "p2"))
        await one.told()

        def forgotten() -> bool:
            with vms.connected("p1") as connection:
                return vm.vm_id not in connection.lookupByUUIDString(vm.uuid).XMLDesc()

        await until(forgotten)
        assert await one.kept(vm) == "p2"


async def test_a_node_that_goes_down_and_comes_back_is_told(vms: Vms) -> None:
    vm = await vms.make("p2")
    async with agent(vms.lab) as one:
        await one.told()
        async with aclosing(one.watching.watch()) as batches:
            await one.watching.published((await anext(batches))[-1].position)
            await asyncio.to_thread(vms.lab.kill_daemon, "p2")
            assert await told_next(one, batches) == {"p1": NodeState.UP, "p2": NodeState.DOWN}
            assert places(await one.told(), vm) == []
            await asyncio.to_thread(vms.lab.start_daemon, "p2")
            assert await told_next(one, batches) == {"p1": NodeState.UP, "p2": NodeState.UP}
        assert set(places(await one.told(), vm)) == {("p2", MoveKind.PLACED)}


async def test_where_no_node_answers_nothing_is_known(vms: Vms) -> None:
    async with agent(vms.lab) as one:
        for node in ("p1", "p2"):
            await asyncio.to_thread(vms.lab.kill_daemon, node)
        await until(lambda: not any(node.up for node in one.nodes))
        assert await Clusters(one.site, Servers(one.site)).now() == ()


async def test_an_inventory_is_told_when_it_changes_and_when_it_becomes_this_ends_to_tell(vms: Vms) -> None:
    vm = await vms.make("p1")
    inventories: dict[str, VmInventory] = {}
    async with agent(vms.lab, inventories) as one:
        await one.told()
        told: list[VmInventory] = []

        async def after(change: VmInventory | None) -> list[int]:
            inventories.pop(vm.vm_id, None)
            if change is not None:
                inventories[vm.vm_id] = change
            await one.watching.look(vm.vm_id)
            batch = one.watching._outbox.batch()
            if batch:
                await one.watching.published(batch[-1].position)
            told.extend(each.value for each in batch if isinstance(each.value, VmInventory))
            return [each.value.memory_mib for each in batch if isinstance(each.value, VmInventory)]

        first = make_inventory(vm.vm_id)
        assert await after(first) == [first.memory_mib]
        assert await after(replace(first, reported_at_ms=NOW + 1)) == []
        assert await after(replace(first, memory_mib=999)) == [999]
        assert await after(None) == []
        assert await after(replace(first, memory_mib=999)) == [999]


async def test_a_change_of_a_vm_has_it_looked_at(vms: Vms) -> None:
    vm = await vms.make("p1")
    inventories: dict[str, VmInventory] = {}
    async with agent(vms.lab, inventories) as one, aclosing(one.watching.watch()) as batches:
        await one.watching.published((await anext(batches))[-1].position)
        inventories[vm.vm_id] = make_inventory(vm.vm_id)
        one.site.changed(vm.vm_id)
        async with asyncio.timeout(10):
            async for batch in batches:
                await one.watching.published(batch[-1].position)
                if any(isinstance(each.value, VmInventory) for each in batch):
                    break


async def test_a_vm_whose_inventory_cannot_be_had_does_not_hold_up_the_others(vms: Vms) -> None:
    broken, whole = await vms.make("p1", running=False), await vms.make("p2", running=False)

    async def inventory(placed: Placed) -> VmInventory:
        if placed.vm_id == broken.vm_id:
            raise StepFailed("its guest does not answer")
        return make_inventory(placed.vm_id)

    async with Nodes(settings(vms.lab)) as nodes:
        site = Site(settings(vms.lab), nodes, lambda: NOW)
        watching = Watching(site, Clusters(site, Servers(site)), inventory)
        values = await Agent(site, watching, nodes).told()
    assert [value.vm_id for value in values if isinstance(value, VmInventory)] == [whole.vm_id]
    assert places(values, broken)


# The outbox, and what is due


def test_a_batch_comes_again_until_it_is_published() -> None:
    outbox = Outbox()
    assert outbox.add([make_move(1), make_move(2)]) == 2
    first = outbox.batch()
    assert [each.position for each in first] == [1, 2]
    outbox.add([make_move(3)])
    assert outbox.batch() == first
    outbox.published(1)
    assert [each.position for each in outbox.batch()] == [2]
    outbox.published(2)
    assert [each.position for each in outbox.batch()] == [3]
    outbox.published(3)
    assert outbox.batch() == ()
    assert not outbox.filled.is_set()


def test_an_inventory_replaces_an_older_one_that_was_not_handed_out() -> None:
    outbox = Outbox()
    outbox.add([make_inventory("vm-1"), make_inventory("vm-2"), make_move(1)])
    outbox.add([replace(make_inventory("vm-1"), memory_mib=2)])
    handed_out = outbox.batch()
    assert [each.position for each in handed_out] == [2, 3, 4]
    outbox.add([replace(make_inventory("vm-1"), memory_mib=3)])
    assert outbox.batch() == handed_out
    outbox.published(4)
    assert [each.value for each in outbox.batch()] == [replace(make_inventory("vm-1"), memory_mib=3)]


def test_a_long_queue_goes_out_in_batches() -> None:
    outbox = Outbox()
    outbox.add([make_move(number) for number in range(1, 1201)])
    sizes = []
    while batch := outbox.batch():
        sizes.append(len(batch))
        outbox.published(batch[-1].position)
    assert sizes == [500, 500, 200]


async def test_everything_is_due_at_first_and_then_what_is_asked_for() -> None:
    due = Due(every_s=3600)
    assert await due.taken() is None
    due.add("vm-1")
    due.add("vm-2")
    assert await due.taken() == frozenset({"vm-1", "vm-2"})
    due.add("vm-1")
    due.add()
    assert await due.taken() is None
    waits = asyncio.create_task(due.taken())
    assert not (await asyncio.wait({waits}, timeout=0.05))[0]
    due.add("vm-3")
    assert await waits == frozenset({"vm-3"})


async def test_everything_is_due_again_after_its_time() -> None:
    due = Due(every_s=0.05)
    for _ in range(3):
        async with asyncio.timeout(5):
            assert await due.taken() is None


@pytest.mark.parametrize(
    ("node", "worth"),
    [
        ({}, False),
        ({"memory_free_mib": 960}, False),
        ({"memory_free_mib": 900}, True),
        ({"state": NodeState.DOWN}, True),
        ({"storages": (Storage("/csv", 100, 48),)}, False),
        ({"storages": (Storage("/csv", 100, 44),)}, True),
        ({"storages": ()}, True),
    ],
)
def test_a_cluster_is_worth_telling_when_more_than_a_little_has_changed(node: dict[str, object], worth: bool) -> None:
    one = Node("p1", NodeState.UP, 1000, 1000, 2, (Storage("/csv", 100, 50),))
    told = ClusterInventory("primary-cluster", "primary", "broker", (one,), reported_at_ms=1)
    now = replace(told, nodes=(replace(one, **node),), reported_at_ms=2)  # type: ignore[arg-type]  # as parametrised
    assert worth_telling(told, now) is worth
    assert worth_telling(None, now)


# Values


def make_move(sequence: int) -> VmMoved:
    return VmMoved("vm-1", "primary", "p1", MoveKind.LIVE, NOW, sequence=sequence)


def make_inventory(vm_id: str) -> VmInventory:
    replication = Replication(ReplicationState.REPLICATING, "primary", "dr")
    return VmInventory(vm_id, f"name-of-{vm_id}", (), Guest("linux"), replication, memory_mib=1)


async def said(what: Awaitable[str], wanted: str) -> bool:
    return await what == wanted


async def has_moved(one: Agent, vm: Vm, node: str) -> bool:
    placed = await one.nodes.find(vm.vm_id)
    await one.watching.look(vm.vm_id)
    return placed is not None and placed.node.name == node


async def told_next(one: Agent, batches: AsyncIterator[tuple[Observed, ...]]) -> dict[str, NodeState]:
    """The states of the nodes in the next cluster that is told."""
    async with asyncio.timeout(10):
        async for batch in batches:
            await one.watching.published(batch[-1].position)
            for each in batch:
                if isinstance(each.value, ClusterInventory):
                    return {node.name: node.state for node in each.value.nodes}
    raise AssertionError("the watch ended")
