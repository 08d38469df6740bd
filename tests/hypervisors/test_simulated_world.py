"""The simulated world: what outlives agents, goes wrong on purpose, and happens by itself."""

from __future__ import annotations

import asyncio
import multiprocessing
from contextlib import aclosing
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.inventory import Adapter, AdapterKind, ClusterInventory, NodeState, VmInventory
from failover_orch.domain.records import Action
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses, Gate, GateKind
from failover_orch.domain.transitions import PROGRESS, TRANSITIONS, ReplicationProgress, ReplicationTransition
from failover_orch.errors import ConfigError, HypervisorError, LookupFailed, StepFailed, StepRefused
from failover_orch.hypervisors import Observation
from failover_orch.hypervisors.simulated import End, FaultKind, SimulatedHypervisor, SimulatedWorld
from worlds import DR_ADDRESSES, NOW, Clock, command, make_vm, make_world


async def told(hypervisor: SimulatedHypervisor) -> list[Observation]:
    async with aclosing(hypervisor.watch()) as batches:
        batch = await anext(batches)
        await hypervisor.published(batch[-1].position)
        return [observed.value for observed in batch]


VMS = tuple(f"vm-{number}" for number in range(40))


def _start_all(path: str, attempt: int, together: Barrier) -> None:
    async def start() -> None:
        hypervisor = SimulatedHypervisor(path, "primary")
        await hypervisor.vms()
        together.wait(60)
        for vm in VMS:
            await hypervisor.perform(command(Action.START, "primary", vm_id=vm, attempt=attempt))

    asyncio.run(start())


def test_processes_that_do_the_same_at_once_take_one_effect(tmp_path: Path) -> None:
    path = tmp_path / "world.db"
    world = make_world(path, [make_vm(vm) for vm in VMS])
    world.power_off_site("primary")
    world.power_on_site("primary")
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)
    processes = [spawn.Process(target=_start_all, args=(str(path), attempt, together)) for attempt in (1, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(effect.vm_id for effect in world.effects()) == sorted(VMS)


async def test_a_world_outlives_those_who_act_on_it(tmp_path: Path) -> None:
    path = tmp_path / "world.db"
    world = make_world(path)
    hypervisor = SimulatedHypervisor(path, "primary")
    await hypervisor.perform(command(Action.SHUT_DOWN, "primary"))
    hypervisor.close()
    world.close()
    again = SimulatedWorld(path)
    assert [(effect.action, effect.site, effect.run_id) for effect in again.effects("vm-1", "run-1")] == [
        (Action.SHUT_DOWN, "primary", "run-1")
    ]


def test_a_world_is_created_once(tmp_path: Path) -> None:
    make_world(tmp_path / "world.db").cut_link()
    with pytest.raises(FileExistsError):
        make_world(tmp_path / "world.db")
    assert not SimulatedWorld(tmp_path / "world.db").link_up
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_no_world_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such world file"):
        SimulatedWorld(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to be taken for one by nobody at all" * 20)
    with pytest.raises(ConfigError, match="not a world file"):
        SimulatedWorld(tmp_path / "text.db")
    make_world(tmp_path / "world.db")
    with pytest.raises(ConfigError, match="no site 'mars' in this world; sites are"):
        SimulatedHypervisor(tmp_path / "world.db", "mars")


def test_a_vm_on_an_unknown_node_makes_no_world(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"VM 'name-of-vm-1': there is no node 'p9' at primary; nodes are p1, p2"):
        make_world(tmp_path / "world.db", [replace(make_vm(), primary_node="p9")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "error"), [(FaultKind.REFUSE, StepRefused), (FaultKind.FAIL, StepFailed)])
async def test_faults_come_as_often_as_asked_for(tmp_path: Path, kind: FaultKind, error: type[HypervisorError]) -> None:
    world = make_world(tmp_path / "world.db")
    hypervisor = SimulatedHypervisor(tmp_path / "world.db", "primary")
    world.fail_next("vm-1", Action.SHUT_DOWN, 2, kind=kind)
    for attempt in (1, 2):
        with pytest.raises(error):
            await hypervisor.perform(command(Action.SHUT_DOWN, "primary", attempt=attempt))
    assert not world.effects()
    assert (await hypervisor.perform(command(Action.SHUT_DOWN, "primary", attempt=3)))["power"] == "OFF"


@pytest.mark.parametrize(("kind", "effects"), [(FaultKind.HANG, 0), (FaultKind.LOSE_ANSWER, 1)])
async def test_an_answer_that_never_comes(tmp_path: Path, kind: FaultKind, effects: int) -> None:
    world = make_world(tmp_path / "world.db")
    hypervisor = SimulatedHypervisor(tmp_path / "world.db", "primary")
    world.fail_next("vm-1", Action.SHUT_DOWN, kind=kind)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await hypervisor.perform(command(Action.SHUT_DOWN, "primary"))
    assert len(world.effects()) == effects
    assert (await hypervisor.perform(command(Action.SHUT_DOWN, "primary", attempt=2)))["power"] == "OFF"
    assert len(world.effects()) == 1


async def test_a_boot_takes_its_time_and_asking_again_waits_for_what_is_left(tmp_path: Path) -> None:
    clock = Clock()
    world = make_world(tmp_path / "seed.db", clock=clock)
    slow = SimulatedWorld.create(
        tmp_path / "world.db", world.clusters(), [make_vm()], boot_ms=0, shutdown_ms=400, clock=clock
    )
    hypervisor = SimulatedHypervisor(tmp_path / "world.db", "primary", clock=clock)
    for attempt in (1, 2):
        shutting = asyncio.create_task(hypervisor.perform(command(Action.SHUT_DOWN, "primary", attempt=attempt)))
        done, _ = await asyncio.wait([shutting], timeout=0.2)
        assert not done
        shutting.cancel()
    with pytest.raises(StepRefused, match="not off"):
        await hypervisor.perform(command(Action.PREPARE, "primary"))
    clock.advance(0.4)
    await hypervisor.perform(command(Action.SHUT_DOWN, "primary", attempt=3))
    assert len(slow.effects()) == 1


async def test_dhcp_leases_are_the_sites_and_stay_the_same(tmp_path: Path) -> None:
    adapters = [Adapter(name, AdapterKind.SYNTHETIC, "", "lan", ("10.10.0.9/24",)) for name in ("nic-1", "nic-2")]
    world = make_world(tmp_path / "world.db", [make_vm("vm-1", *adapters)])
    hypervisor = SimulatedHypervisor(tmp_path / "world.db", "dr")
    plans = tuple(AdapterAddresses(name, ipv4=FamilyAddresses(dhcp=True)) for name in ("nic-1", "nic-2"))
    world.power_off_site("primary")
    seen = []
    for run in ("run-1", "run-2"):
        for action in (Action.STAGE_ADDRESSES, Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
            await hypervisor.perform(command(action, run_id=run, addresses=plans))
        found = await hypervisor.perform(command(Action.VERIFY_ADDRESSES, run_id=run, addresses=plans))
        seen.append((found["addresses/nic-1"], found["addresses/nic-2"]))
        await hypervisor.perform(command(Action.CANCEL_FAILOVER, run_id=run))
    assert seen == [("198.18.16.11/20", "198.18.16.12/20")] * 2


async def test_cycles_carry_what_is_pending_and_count_what_is_missed(tmp_path: Path) -> None:
    clock = Clock()
    world = make_world(tmp_path / "world.db", [make_vm(frequency_s=30)], clock=clock)
    primary = SimulatedHypervisor(tmp_path / "world.db", "primary", clock=clock)
    dr = SimulatedHypervisor(tmp_path / "world.db", "dr", clock=clock)
    world.write("vm-1", 5_000_000)
    (before,) = await primary.reports(["vm-1"])
    assert (before.pending_bytes, before.health) == (5_000_000, ReplicationHealth.NORMAL)
    clock.advance(30)
    assert world.replicate() == 1
    assert world.replicate() == 0
    (after,) = await primary.reports(["vm-1"])
    assert (after.pending_bytes, after.last_replication_at_ms, after.latency_ms) == (0, clock.now, 50)

    world.cut_link()
    for _ in range(2):
        clock.advance(34)
        world.replicate()
    (seen,) = await dr.reports(["vm-1"])
    assert (seen.cycles, seen.missed_cycles, seen.health) == (3, 2, ReplicationHealth.WARNING)
    (sending,) = await primary.reports(["vm-1"])
    assert (sending.cycles, sending.missed_cycles, sending.health) == (3, 2, ReplicationHealth.CRITICAL)

    world.restore_link()
    clock.advance(30)
    world.replicate()
    (seen,) = await dr.reports(["vm-1"])
    assert (seen.last_replication_at_ms, seen.state) == (clock.now, ReplicationState.REPLICATING)
    assert seen.missed_cycles >= 2


async def test_a_returning_primary_hears_that_it_was_overtaken(tmp_path: Path) -> None:
    clock = Clock()
    world = make_world(tmp_path / "world.db", clock=clock)
    primary = SimulatedHypervisor(tmp_path / "world.db", "primary", clock=clock)
    dr = SimulatedHypervisor(tmp_path / "world.db", "dr", clock=clock)
    world.power_off_site("primary")
    assert await primary.reports(["vm-1"]) == ()
    assert await primary.vms() == ()
    with pytest.raises(StepFailed, match="no power"):
        await primary.perform(command(Action.START, "primary"))
    for action in (Action.FAIL_OVER, Action.START, Action.COMPLETE):
        await dr.perform(command(action))
    clock.advance(60)
    world.power_on_site("primary")
    world.replicate()
    (report,) = await primary.reports(["vm-1"])
    assert (report.state, report.health) == (ReplicationState.ERROR, ReplicationHealth.CRITICAL)
    assert not (await primary.vms())[0].active
    assert not any(isinstance(value, VmInventory) for value in await told(primary))
    inventories = [value for value in await told(dr) if isinstance(value, VmInventory)]
    assert inventories[-1].replication.primary_site == "dr"


async def test_a_replica_without_a_node_waits_to_be_placed(tmp_path: Path) -> None:
    clock = Clock()
    world = make_world(tmp_path / "world.db", [replace(make_vm(), replica_node="", replica_storage="")], clock=clock)
    dr = SimulatedHypervisor(tmp_path / "world.db", "dr", clock=clock)
    assert await dr.vms() == ()
    with pytest.raises(StepRefused, match="has to be placed"):
        await dr.perform(command(Action.FAIL_OVER))
    world.place("vm-1", "d2", "/csv/d")
    with pytest.raises(StepRefused, match="initial replication has to be complete"):
        await dr.perform(command(Action.FAIL_OVER, attempt=2))
    world.replicate()
    (hosted,) = await dr.vms()
    assert (hosted.node, hosted.state) == ("d2", ReplicationState.REPLICATING)
    placed = next(value for value in await told(dr) if isinstance(value, VmMoved))
    assert (placed.node, placed.kind, placed.sequence) == ("d2", MoveKind.PLACED, 1)


async def test_storage_moves_and_nodes_are_told(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db")
    dr = SimulatedHypervisor(tmp_path / "world.db", "dr")
    await told(dr)
    world.move_storage("vm-1", "dr", "/csv/e")
    world.set_node("d2", NodeState.PAUSED)
    moved, cluster = (await told(dr))[:2]
    assert isinstance(moved, VmMoved)
    assert isinstance(cluster, ClusterInventory)
    assert (moved.kind, moved.node, moved.storage, moved.sequence) == (MoveKind.STORAGE, "d1", "/csv/e", 2)
    assert [node.state for node in cluster.nodes] == [NodeState.UP, NodeState.PAUSED]
    with pytest.raises(StepRefused, match="d2 is PAUSED"):
        world.migrate("vm-1", "d2")


def test_a_node_that_goes_down_takes_its_vms_along(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db")
    world.set_node("p1", NodeState.DOWN)
    with pytest.raises(StepRefused, match="off and writes nothing"):
        world.write("vm-1", 1)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db")
    with pytest.raises(LookupFailed, match="no node 'd7'; nodes are d1, d2, p1, p2"):
        world.migrate("vm-1", "d7")
    with pytest.raises(LookupFailed, match="no VM 'vm-7'"):
        world.migrate("vm-7", "d1")
    with pytest.raises(LookupFailed, match="no site 'mars'"):
        world.power_off_site("mars")
    with pytest.raises(StepRefused, match="/csv/x"):
        world.move_storage("vm-1", "dr", "/csv/x")


# Recovery points


async def test_a_replica_keeps_so_many_recovery_points_and_every_fourth_is_consistent(tmp_path: Path) -> None:
    clock = Clock()
    seed = make_world(tmp_path / "seed.db", clock=clock)
    path = tmp_path / "world.db"
    world = SimulatedWorld.create(path, seed.clusters(), [make_vm()], recovery_points=5, clock=clock)
    assert SimulatedHypervisor(path, "dr").capabilities.recovery_points == 5
    for _ in range(8):
        clock.advance(30)
        world.replicate()
    points = world.recovery_points("vm-1")
    assert points == world.recovery_points("vm-1", "dr")
    assert world.recovery_points("vm-1", "primary") == ()
    assert [point.point_id for point in points] == ["rp-5", "rp-6", "rp-7", "rp-8", "rp-9"]
    assert [point.point_id for point in points if point.application_consistent] == ["rp-8"]
    assert points[-1].at_ms == clock.now
    with pytest.raises(LookupFailed, match="no VM 'vm-7'"):
        world.recovery_points("vm-7")


def test_a_world_that_keeps_no_recovery_point_is_refused(tmp_path: Path) -> None:
    clusters = make_world(tmp_path / "seed.db").clusters()
    with pytest.raises(ConfigError, match="at least one recovery point, 0"):
        SimulatedWorld.create(tmp_path / "world.db", clusters, [make_vm()], recovery_points=0)


async def test_a_resynchronisation_takes_as_long_as_there_is_to_copy_and_leaves_one_point(tmp_path: Path) -> None:
    clock = Clock()
    world = make_world(tmp_path / "world.db", clock=clock)
    primary = SimulatedHypervisor(tmp_path / "world.db", "primary", clock=clock)
    dr = SimulatedHypervisor(tmp_path / "world.db", "dr", clock=clock)
    await dr.perform(command(Action.FAIL_OVER))
    clock.advance(30)
    world.replicate()
    assert (await primary.observe("vm-1"))["state"] == "Error"
    with pytest.raises(StepRefused, match="neither failed over nor suspended"):
        await primary.perform(command(Action.RESYNCHRONIZE, "primary"))
    await dr.perform(command(Action.CANCEL_FAILOVER))
    world.write("vm-1", 5_000_000)
    await primary.perform(command(Action.RESYNCHRONIZE, "primary", attempt=2))
    with pytest.raises(StepFailed, match=r"vm-1 at primary is Resynchronizing \(10\), not Replicating"):
        await primary.perform(command(Action.AWAIT_REPLICATION, "primary"))
    with pytest.raises(StepRefused, match=r"Replica and Resynchronizing \(10\)"):
        await dr.perform(command(Action.CREATE_TEST))
    clock.advance(0.049)
    assert world.replicate() == 0
    clock.advance(0.001)
    assert world.replicate() == 1
    await primary.perform(command(Action.AWAIT_REPLICATION, "primary"))
    assert [point.point_id for point in world.recovery_points("vm-1")] == ["rp-2"]
    assert [effect.action for effect in world.effects()][-1] is Action.RESYNCHRONIZE


async def test_what_a_vm_wrote_goes_with_its_cancelled_failover(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db")
    dr = SimulatedHypervisor(tmp_path / "world.db", "dr")
    world.power_off_site("primary")
    for action in (Action.FAIL_OVER, Action.START):
        await dr.perform(command(action))
    world.write("vm-1", 4096)
    assert (await dr.observe("vm-1"))["pending_bytes"] == "4096"
    assert (await dr.perform(command(Action.CANCEL_FAILOVER)))["pending_bytes"] == "0"


# Test copies


async def test_a_test_copy_leases_an_address_of_its_own_and_goes_dark_with_its_node(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db")
    dr = SimulatedHypervisor(tmp_path / "world.db", "dr")
    plans = (AdapterAddresses("nic-1", ipv4=FamilyAddresses(dhcp=True)),)
    asked = replace(command(Action.CREATE_TEST, addresses=plans), test_network="isolated")
    await dr.perform(asked)
    test = await dr.perform(command(Action.START_TEST))
    world.power_off_site("primary")
    for action in (Action.STAGE_ADDRESSES, Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
        real = await dr.perform(command(action, addresses=plans))
    assert test["addresses/nic-1"] != real["addresses/nic-1"]
    world.set_node("d1", NodeState.DOWN)
    found = await dr.observe("vm-1")
    assert (found["power"], found["test/power"]) == ("OFF", "OFF")
    world.set_node("d1", NodeState.UP)
    again = await dr.perform(command(Action.START_TEST, attempt=2))
    assert (again["test/power"], again["addresses/nic-1"]) == ("RUNNING", test["addresses/nic-1"])


async def test_a_test_copy_takes_its_time_to_boot(tmp_path: Path) -> None:
    clock = Clock()
    clusters = make_world(tmp_path / "seed.db").clusters()
    SimulatedWorld.create(tmp_path / "world.db", clusters, [make_vm()], boot_ms=400, clock=clock)
    dr = SimulatedHypervisor(tmp_path / "world.db", "dr", clock=clock)
    await dr.perform(command(Action.CREATE_TEST))
    starting = asyncio.create_task(dr.perform(command(Action.START_TEST)))
    done, _ = await asyncio.wait([starting], timeout=0.2)
    assert not done
    starting.cancel()
    with pytest.raises(StepFailed, match="test copy of vm-1 at dr is still booting"):
        await dr.perform(command(Action.VERIFY_TEST))
    clock.advance(0.4)
    await dr.perform(command(Action.START_TEST))


# What tests let go wrong


async def test_a_vm_that_runs_at_both_ends_is_noted_for_ever(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db", [make_vm("vm-1"), make_vm("vm-2")])
    dr = SimulatedHypervisor(tmp_path / "world.db", "dr")
    for action in (Action.CREATE_TEST, Action.START_TEST):
        await dr.perform(command(action, vm_id="vm-2"))
    world.cut_link()
    await dr.perform(command(Action.CHECK_PRIMARY, attested=True))
    await dr.perform(command(Action.FAIL_OVER))
    assert world.ran_twice() == ()
    await dr.perform(command(Action.START))
    assert world.ran_twice() == ("vm-1",)
    world.power_off_site("primary")
    assert SimulatedWorld(tmp_path / "world.db").ran_twice() == ("vm-1",)


async def test_a_fence_agent_cuts_the_power_of_what_nobody_can_ask(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db", fences=("primary/p1",))
    primary, dr = (SimulatedHypervisor(tmp_path / "world.db", site) for site in ("primary", "dr"))
    check = replace(command(Action.CHECK_PRIMARY), fence=True)
    with pytest.raises(StepRefused, match="RUNNING on p1"):
        await dr.perform(check)
    world.cut_link()
    world.migrate("vm-1", "p2")
    with pytest.raises(StepRefused, match="or a fence agent that can cut its power"):
        await dr.perform(check)
    world.migrate("vm-1", "p1")
    assert (await dr.perform(check))["fence"] == "power of primary/p1 is cut"
    assert (await primary.observe("vm-1"))["power"] == "OFF"
    assert [(node.name, node.state) for node in (await primary.clusters())[0].nodes] == [
        ("p1", NodeState.DOWN),
        ("p2", NodeState.UP),
    ]


async def test_silenced_replication_misses_its_cycles_though_the_link_is_up(tmp_path: Path) -> None:
    clock = Clock()
    world = make_world(tmp_path / "world.db", clock=clock)
    dr = SimulatedHypervisor(tmp_path / "world.db", "dr", clock=clock)
    world.silence_replication("vm-1")
    assert world.silenced() == {"vm-1"}
    for _ in range(2):
        clock.advance(34)
        world.replicate()
    (seen,) = await dr.reports(["vm-1"])
    assert (seen.missed_cycles, seen.last_replication_at_ms, world.link_up) == (2, NOW, True)
    world.restore_replication("vm-1")
    clock.advance(30)
    world.replicate()
    (seen,) = await dr.reports(["vm-1"])
    assert seen.last_replication_at_ms == clock.now
    with pytest.raises(LookupFailed, match="no VM 'vm-7'"):
        world.silence_replication("vm-7")


@pytest.mark.parametrize(
    ("gate", "integration", "what"),
    [
        (Gate(GateKind.HEARTBEAT), "ABSENT", "no heartbeat: its integration services are ABSENT"),
        (Gate(GateKind.TCP_PORT, 443), "RUNNING", "nothing listens at TCP port 443 of vm-1 at primary"),
    ],
)
async def test_a_gate_that_does_not_hold_says_why(tmp_path: Path, gate: Gate, integration: str, what: str) -> None:
    world = make_world(tmp_path / "world.db", [make_vm(integration=integration)])
    primary = SimulatedHypervisor(tmp_path / "world.db", "primary")
    world.close_port("vm-1", 443)
    assert world.closed_ports() == {("vm-1", 443)}
    with pytest.raises(StepFailed, match=what):
        await primary.perform(replace(command(Action.CHECK_GATE, "primary"), gate=gate))
    await primary.perform(replace(command(Action.CHECK_GATE, "primary"), gate=Gate(GateKind.TCP_PORT, 80)))
    world.open_port("vm-1", 443)
    await primary.perform(replace(command(Action.CHECK_GATE, "primary"), gate=Gate(GateKind.TCP_PORT, 443)))
    assert world.effects() == ()


async def test_a_guest_that_boots_passes_the_power_gate_alone(tmp_path: Path) -> None:
    clock = Clock()
    clusters = make_world(tmp_path / "seed.db").clusters()
    world = SimulatedWorld.create(tmp_path / "world.db", clusters, [make_vm()], boot_ms=10_000, clock=clock)
    primary = SimulatedHypervisor(tmp_path / "world.db", "primary", clock=clock)
    world.power_off_site("primary")
    world.power_on_site("primary")
    starting = asyncio.create_task(primary.perform(command(Action.START, "primary")))
    async with asyncio.timeout(10):
        while not world.effects():
            await asyncio.wait([starting], timeout=0.01)
    starting.cancel()
    await primary.perform(replace(command(Action.CHECK_GATE, "primary"), gate=Gate(GateKind.POWER)))
    for gate in (Gate(GateKind.HEARTBEAT), Gate(GateKind.TCP_PORT, 80)):
        with pytest.raises(StepFailed, match="still booting"):
            await primary.perform(replace(command(Action.CHECK_GATE, "primary"), gate=gate))


STEPS = st.tuples(
    st.sampled_from(Action),
    st.sampled_from(["primary", "dr"]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
)
RULES: tuple[ReplicationTransition | ReplicationProgress, ...] = (*TRANSITIONS, *PROGRESS)
MOVES = {
    ((rule.mode, state), (rule.then_mode or rule.mode, rule.then or state)) for rule in RULES for state in rule.states
}


def place_of(end: End) -> tuple[ReplicationMode, ReplicationState]:
    return end.mode, end.state


@settings(deadline=None, max_examples=50)  # each example is a file of its own
@given(st.lists(STEPS, max_size=25))
def test_no_command_takes_effect_twice_and_no_epoch_falls(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Action, str, int, int, bool, bool]]
) -> None:
    path = tmp_path_factory.mktemp("worlds") / "world.db"
    clock = Clock()
    world = make_world(path, clock=clock)
    hypervisors = {site: SimulatedHypervisor(path, site, clock=clock) for site in ("primary", "dr")}

    async def run() -> None:
        accepted = {"primary": 0, "dr": 0}
        for action, site, epoch, attempt, cut, cycle in steps:
            (world.cut_link if cut else world.restore_link)()
            asked = command(action, site, epoch=epoch, attempt=attempt, addresses=DR_ADDRESSES)
            before = world.ends()
            if cycle:
                clock.advance(30)
                world.replicate()
                check_moves(before, world.ends())
                before = world.ends()
            try:
                await hypervisors[site].perform(asked)
            except HypervisorError:
                if epoch < accepted[site]:
                    assert world.ends() == before
            check_moves(before, world.ends())
            accepted = {end.site: end.epoch for end in world.ends() if end.epoch >= accepted[end.site]}
            assert len(accepted) == 2

    asyncio.run(run())
    identities = [(e.site, e.run_id, e.step, e.attempt, e.action) for e in world.effects()]
    assert len(identities) == len(set(identities))
    assert all(effect.at_ms >= NOW for effect in world.effects())


def check_moves(before: tuple[End, ...], after: tuple[End, ...]) -> None:
    """Each end is where it was, or where the tables let it come to."""
    for was, now in zip(before, after, strict=True):
        assert place_of(was) == place_of(now) or (place_of(was), place_of(now)) in MOVES
