"""Replication in the simulated world: settings of nodes and VMs, what cycles make of them, and where they go."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from failover_orch.domain.facts import MoveKind
from failover_orch.domain.inventory import ClusterInventory, Node, NodeState
from failover_orch.domain.records import Action, Location, Role, RouteCause, RoutingUpdate
from failover_orch.domain.replication_settings import AuthorizationEntry, ReplicationServer, VmReplication
from failover_orch.errors import ConfigError, LookupFailed, StepFailed, StepRefused
from failover_orch.hypervisors.simulated import FaultKind, SimulatedHypervisor, SimulatedWorld
from worlds import NOW, Clock, command, make_vm, make_world

SERVER = ReplicationServer(enabled=True, authorization=(AuthorizationEntry("*.primary.example", "/csv/d", "gold"),))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(tmp_path: Path, clock: Clock) -> SimulatedWorld:
    return make_world(tmp_path / "world.db", clock=clock)


def agent_of(tmp_path: Path, clock: Clock, site: str = "primary") -> SimulatedHypervisor:
    return SimulatedHypervisor(tmp_path / "world.db", site, clock=clock)


def route(node: str, epoch: int, cause: RouteCause = RouteCause.LIVE) -> RoutingUpdate:
    here = (Location("primary", "p1", Role.PRIMARY, 1), Location("dr", node, Role.REPLICA, 1))
    return RoutingUpdate("vm-1", epoch, cause, here[1], "d1", here, 1)


def cycle(agent: SimulatedHypervisor, world: SimulatedWorld) -> tuple[int, int, str]:
    """What an agent's look at its site makes of what is due: cycles, missed ones, and where the last arrived."""
    agent._untold(announce=False)
    (end,) = world.ends("vm-1", "primary")
    return end.cycles, end.missed_cycles, end.delivered_to


@pytest.mark.parametrize("kind", [MoveKind.LIVE, MoveKind.QUICK, MoveKind.STORAGE])
async def test_a_cycle_goes_to_where_the_routing_update_says(
    world: SimulatedWorld, tmp_path: Path, clock: Clock, kind: MoveKind
) -> None:
    agent = agent_of(tmp_path, clock)
    await agent.routed(route("d1", 1))
    clock.advance(30)
    assert cycle(agent, world) == (1, 0, "d1")
    node = "d1" if kind is MoveKind.STORAGE else "d2"
    if kind is MoveKind.STORAGE:
        world.move_storage("vm-1", "dr", "/csv/e")
    else:
        world.migrate("vm-1", node, kind)
    await agent.routed(route(node, 2, RouteCause[kind.name]))
    clock.advance(30)
    assert cycle(agent, world) == (2, 0, node)


async def test_a_cycle_waits_for_its_route_and_is_missed_after_its_interval(
    world: SimulatedWorld, tmp_path: Path, clock: Clock
) -> None:
    agent = agent_of(tmp_path, clock)
    await agent.routed(route("d1", 2))
    world.migrate("vm-1", "d2")
    clock.advance(30)
    assert cycle(agent, world) == (0, 0, "")
    await agent.routed(route("d2", 1))  # older than what is known
    assert cycle(agent, world) == (0, 0, "")
    await agent.routed(route("d2", 3))
    assert cycle(agent, world) == (1, 0, "d2")
    world.migrate("vm-1", "d1")
    clock.advance(30)
    assert cycle(agent, world) == (1, 0, "d2")
    clock.advance(30)
    assert cycle(agent, world) == (2, 1, "d2")


async def test_nothing_known_of_a_route_finds_its_way(world: SimulatedWorld, tmp_path: Path, clock: Clock) -> None:
    agent = agent_of(tmp_path, clock)
    world.migrate("vm-1", "d2")
    clock.advance(30)
    assert cycle(agent, world) == (1, 0, "d2")


@pytest.mark.parametrize("kind", [MoveKind.LIVE, MoveKind.QUICK, MoveKind.STORAGE])
async def test_a_test_copy_stays_with_its_replica(
    world: SimulatedWorld, tmp_path: Path, clock: Clock, kind: MoveKind
) -> None:
    dr = agent_of(tmp_path, clock, "dr")
    for action in (Action.CREATE_TEST, Action.START_TEST):
        await dr.perform(command(action))
    if kind is MoveKind.STORAGE:
        world.move_storage("vm-1", "dr", "/csv/e")
    else:
        world.migrate("vm-1", "d2", kind)
    found = await dr.observe("vm-1")
    assert found["test/node"] == found["node"]
    assert found["test/power"] == "RUNNING"
    await dr.perform(command(Action.DELETE_TEST))
    assert "test/node" not in await dr.observe("vm-1")


# Settings of nodes


async def test_a_node_accepts_what_its_cluster_did_until_it_is_told(tmp_path: Path) -> None:
    closed = make_world(tmp_path / "closed.db", accepts_replicas=False)
    assert {server.enabled for server in closed.servers("primary").values()} == {False}
    assert {(s.enabled, s.from_any_server, s.default_storage_location) for s in closed.servers("dr").values()} == {
        (True, True, "/csv/p")
    }
    with pytest.raises(LookupFailed, match="'nowhere'"):
        closed.servers("nowhere")


async def test_a_cluster_that_accepts_replicas_or_none_any_more_is_told(
    world: SimulatedWorld, tmp_path: Path, clock: Clock
) -> None:
    dr = agent_of(tmp_path, clock, "dr")

    async def told() -> list[bool]:
        async with aclosing(dr.watch()) as batches:
            batch = await anext(batches)
            await dr.published(batch[-1].position)
        return [one.value.accepts_replicas for one in batch if isinstance(one.value, ClusterInventory)]

    assert await told() == [True]
    disabled = replace(SERVER, enabled=False)
    await dr.apply_server("d1", disabled)
    assert await told() == [True]  # that of the start: d2 still does
    await dr.apply_server("d2", disabled)
    assert await told() == [False, False]
    world.set_node("d1", NodeState.DOWN)
    with pytest.raises(StepFailed, match=r"d1 is DOWN"):
        await dr.apply_server("d1", SERVER)


async def test_faults_of_a_node_come_as_often_as_asked_for(world: SimulatedWorld, tmp_path: Path, clock: Clock) -> None:
    dr = agent_of(tmp_path, clock, "dr")
    world.fail_settings("d1", 2)
    world.fail_settings("d2", kind=FaultKind.REFUSE)
    for _ in range(2):
        with pytest.raises(StepFailed):
            await dr.apply_server("d1", SERVER)
    with pytest.raises(StepRefused):
        await dr.apply_server("d2", SERVER)
    for node in ("d1", "d2"):
        await dr.apply_server(node, SERVER)
    assert world.servers("dr") == {"d1": SERVER, "d2": SERVER}
    with pytest.raises(LookupFailed, match="no node 'd9'"):
        world.fail_settings("d9")


async def test_an_answer_that_never_comes_may_hide_that_it_is_done(
    world: SimulatedWorld, tmp_path: Path, clock: Clock
) -> None:
    dr = agent_of(tmp_path, clock, "dr")
    before = world.server("d1")
    for kind, then in ((FaultKind.HANG, before), (FaultKind.LOSE_ANSWER, SERVER)):
        world.fail_settings("d1", kind=kind)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await dr.apply_server("d1", SERVER)
        assert world.server("d1") == then


def test_a_node_joins_as_it_comes(world: SimulatedWorld) -> None:
    world.add_node("dr-cluster", Node("d3", NodeState.UP, 1024, 1024))
    (cluster,) = [one for one in world.clusters() if one.cluster == "dr-cluster"]
    assert [node.name for node in cluster.nodes] == ["d1", "d2", "d3"]
    assert world.server("d3") == ReplicationServer()
    with pytest.raises(ConfigError, match="dr has a node 'd1' already"):
        world.add_node("dr-cluster", Node("d1", NodeState.UP, 1024, 1024))
    with pytest.raises(LookupFailed, match="there is no cluster 'far'"):
        world.add_node("far", Node("d4", NodeState.UP, 1024, 1024))


# Settings of VMs


async def test_a_vm_keeps_so_many_points_and_is_consistent_as_it_is_told(
    world: SimulatedWorld, tmp_path: Path, clock: Clock
) -> None:
    agent = agent_of(tmp_path, clock)
    await agent.apply_replication("vm-1", VmReplication(frequency_s=30, recovery_points=2))
    for _ in range(5):
        clock.advance(30)
        world.replicate()
    points = world.recovery_points("vm-1", "dr")
    assert len(points) == 3
    assert not any(point.application_consistent for point in points)
    hourly = VmReplication(frequency_s=30, recovery_points=24, application_consistent_hours=1)
    world.set_replication("vm-1", hourly)
    assert await agent.replications() == {"vm-1": hourly}
    for _ in range(4):
        clock.advance(30)
        world.replicate()
    assert sum(point.application_consistent for point in world.recovery_points("vm-1", "dr")) == 1


async def test_a_shorter_interval_brings_the_next_cycle_forward(tmp_path: Path, clock: Clock) -> None:
    world = make_world(tmp_path / "world.db", [make_vm(frequency_s=900)], clock=clock)
    agent = agent_of(tmp_path, clock)
    await agent.apply_replication("vm-1", VmReplication(frequency_s=30))
    (end,) = world.ends("vm-1", "primary")
    assert end.next_cycle_at_ms == NOW + 30_000
    await agent.apply_replication("vm-1", VmReplication(frequency_s=900))
    (end,) = world.ends("vm-1", "primary")
    assert end.next_cycle_at_ms == NOW + 30_000
    assert [vm.frequency_s for vm in await agent.vms()] == [900]


async def test_a_vm_whose_settings_fail(world: SimulatedWorld, tmp_path: Path, clock: Clock) -> None:
    agent = agent_of(tmp_path, clock)
    before = world.replication("vm-1")
    world.fail_next("vm-1", Action.APPLY_SETTINGS)
    with pytest.raises(StepFailed):
        await agent.apply_replication("vm-1", VmReplication(frequency_s=900))
    assert world.replication("vm-1") == before
    world.set_node("p1", NodeState.DOWN)
    with pytest.raises(StepFailed, match="p1, which is DOWN"):
        await agent.apply_replication("vm-1", VmReplication(frequency_s=900))
    assert await agent.replications() == {}
