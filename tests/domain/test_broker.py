"""The fold of what is observed and set: inventory, settings, health, and what is told of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulator import CLUSTERS, PRIMARY, REPLICA, TARGET, Behaviour, World, check_chains, inventory, report, request

from failover_orch.domain.broker import decide, due_ms
from failover_orch.domain.draft import Decision, Moment, State
from failover_orch.domain.facts import FailoverKind, MoveKind, VmMoved
from failover_orch.domain.inventory import NodeState, VmInventory
from failover_orch.domain.preconditions import refusals
from failover_orch.domain.records import (
    Alert,
    AuditEntry,
    HealthChange,
    JournalEntry,
    Location,
    Role,
    RouteCause,
    RoutingUpdate,
)
from failover_orch.domain.replication import ReplicationHealth, ReplicationState
from failover_orch.domain.settings import (
    ClusterReplicationSettings,
    RecoveryGroup,
    RecoveryPlan,
    VmReplicationSettings,
)
from failover_orch.domain.state import Clusters, VmState

AT_PRIMARY = VmMoved("vm-1", PRIMARY, "p1", MoveKind.PLACED, 1, cluster="pc", sequence=1)
AT_REPLICA = VmMoved("vm-1", REPLICA, "d1", MoveKind.PLACED, 2, cluster="dc", sequence=1)
SETTINGS = VmReplicationSettings("vm-1", (TARGET,), actor="ann", reason="plan", set_at_ms=1)


def empty() -> World:
    return World(())


def fold(world: World, *facts: object) -> World:
    for fact in facts:
        world.send(fact)  # type: ignore[arg-type]  # any fact
    world.run()
    check_chains(world)
    return world


def roles(vm: VmState) -> dict[str, Role]:
    return {location.site: location.role for location in vm.locations}


def refused(world: World) -> list[str]:
    return [entry.rule for entry in world.told(JournalEntry) if entry.what.startswith("refused: ")]


def test_moves_are_told_and_what_is_not_taken_is_journalled() -> None:
    older = replace(AT_REPLICA, node="d2", occurred_at_ms=1)
    world = fold(empty(), AT_REPLICA, AT_REPLICA, older, replace(AT_REPLICA, sequence=0, occurred_at_ms=0))
    (update,) = world.told(RoutingUpdate)
    assert (update.epoch, update.changed.node, update.previous_node) == (1, "d1", "")
    assert refused(world) == ["M3", "M2"]


def test_the_first_inventory_says_which_site_is_the_primary() -> None:
    world = fold(empty(), AT_PRIMARY, AT_REPLICA, inventory())
    update = world.told(RoutingUpdate)[-1]
    assert (update.cause, update.changed.site, update.name) == (RouteCause.INVENTORY, PRIMARY, "vm-1")
    assert roles(world.vm()) == {PRIMARY: Role.PRIMARY, REPLICA: Role.REPLICA}


def test_the_inventory_may_come_before_any_node_has_spoken() -> None:
    world = fold(empty(), inventory())
    (update,) = world.told(RoutingUpdate)
    assert (update.changed, update.locations) == (Location(PRIMARY, "", Role.PRIMARY, 0, "pc"), ())
    assert roles(fold(world, AT_REPLICA, AT_PRIMARY).vm()) == {PRIMARY: Role.PRIMARY, REPLICA: Role.REPLICA}


def test_i1_an_inventory_that_is_not_newer_is_passed_over() -> None:
    world = fold(empty(), inventory(), replace(inventory(), name="other"))
    told = world.vm().inventory
    assert told is not None
    assert told.name == "vm-1"
    down = replace(CLUSTERS[0], nodes=(replace(CLUSTERS[0].nodes[0], state=NodeState.DOWN),))
    fold(world, *CLUSTERS, down, replace(CLUSTERS[0], reported_at_ms=-1))
    assert world.value("clusters") == Clusters(tuple(sorted(CLUSTERS, key=lambda cluster: cluster.cluster)))
    newer = replace(down, reported_at_ms=1)
    known = fold(world, newer).value("clusters")
    assert isinstance(known, Clusters)
    assert newer in known.known


def test_i1_a_primary_that_comes_back_does_not_become_the_primary_again() -> None:
    world = World(primary_alive=False)
    fold(world, request(FailoverKind.UNPLANNED))
    fold(world, replace(inventory(), reported_at_ms=99), replace(AT_PRIMARY, occurred_at_ms=99, sequence=2))
    assert (world.vm().active_site, world.vm().replica_site) == (REPLICA, "")
    assert roles(world.vm()) == {PRIMARY: Role.RETIRED, REPLICA: Role.PRIMARY}


def replicating(primary: str, replica: str, state: ReplicationState = ReplicationState.REPLICATING) -> object:
    told = inventory()
    there = replace(told.replication, primary_site=primary, replica_site=replica, state=state)
    return replace(told, replication=there, reported_at_ms=99)


def test_i2_replication_that_is_enabled_later_is_heard_of() -> None:
    never = replace(
        inventory(), replication=replace(inventory().replication, state=ReplicationState.DISABLED, replica_site="")
    )
    world = fold(empty(), never, AT_PRIMARY, AT_REPLICA)
    assert roles(world.vm()) == {PRIMARY: Role.PRIMARY, REPLICA: Role.UNKNOWN}
    fold(world, replicating(PRIMARY, REPLICA))
    update = world.told(RoutingUpdate)[-1]
    assert (update.cause, update.changed.node, update.changed.role) == (RouteCause.INVENTORY, "d1", Role.REPLICA)
    assert world.vm().replica_site == REPLICA
    assert refusals(fold(world, SETTINGS).vm(), request(), CLUSTERS) == ()


@pytest.mark.parametrize(
    ("told", "replica"),
    [
        (replicating(REPLICA, PRIMARY), PRIMARY),
        (replicating(REPLICA, PRIMARY, ReplicationState.FAILED_OVER), ""),
        (replicating(REPLICA, PRIMARY, ReplicationState.FAILED_OVER_WAITING_COMPLETION), ""),
        (replicating(PRIMARY, REPLICA), ""),
        (replicating(REPLICA, REPLICA), ""),
    ],
)
def test_i2_after_a_failover_only_the_active_end_says_that_replication_is_reversed(told: object, replica: str) -> None:
    world = World(primary_alive=False)
    fold(world, request(FailoverKind.UNPLANNED))
    fold(world, told)
    assert (world.vm().active_site, world.vm().replica_site) == (REPLICA, replica)
    assert roles(world.vm())[PRIMARY] is (Role.REPLICA if replica else Role.RETIRED)


def test_i3_only_the_active_site_says_what_the_vm_is_except_while_a_run_is_under_way() -> None:
    world = World(primary_alive=False, behaviours={"vm-1": {"U1": [Behaviour.LATE]}})
    world.send(request(FailoverKind.UNPLANNED))
    world.send(replace(inventory(), name="while it runs", reported_at_ms=50), after_ms=5)
    world.send(told_by(REPLICA, "the other site knows first", 60), after_ms=6)
    fold(world)
    assert name_of(world) == "the other site knows first"
    fold(world, replace(inventory(), name="the old primary is back", reported_at_ms=70))
    assert name_of(world) == "the other site knows first"
    fold(world, told_by(REPLICA, "the new one", 80))
    assert name_of(world) == "the new one"


def told_by(site: str, name: str, at_ms: int) -> VmInventory:
    told = inventory()
    there = replace(told.replication, primary_site=site, state=ReplicationState.FAILED_OVER)
    return replace(told, name=name, replication=there, reported_at_ms=at_ms)


def name_of(world: World) -> str:
    told = world.vm().inventory
    assert told is not None
    return told.name


def test_t1_addresses_of_a_vm_that_is_not_known() -> None:
    assert refused(fold(empty(), SETTINGS)) == ["T1"]
    assert refused(fold(empty(), AT_PRIMARY, SETTINGS)) == ["T1"]


def test_addresses_that_cannot_be_set_are_refused_by_their_rule_and_audited() -> None:
    world = fold(empty(), inventory(), replace(SETTINGS, adapters=(replace(TARGET, adapter_id="nic-9"),)))
    assert refused(world) == ["A2"]
    (audited,) = world.told(AuditEntry)
    assert (audited.outcome, audited.actor, audited.reason) == ("refused", "ann", "plan")
    assert "nic-9" in audited.evidence["why"]
    assert world.vm().settings is None


def test_addresses_are_kept_for_the_site_of_the_replica_and_audited_once() -> None:
    world = fold(empty(), inventory(), SETTINGS, SETTINGS)
    assert (world.vm().settings, world.vm().settings_site) == (SETTINGS, REPLICA)
    assert [entry.outcome for entry in world.told(AuditEntry)] == ["accepted"]


def test_settings_of_a_cluster_and_plans_are_kept_as_they_come() -> None:
    cluster = ClusterReplicationSettings("dc", replication_enabled=True)
    plan = RecoveryPlan("erp", "ERP", (RecoveryGroup("all", ("vm-1",)),))
    world = fold(empty(), plan, replace(plan, name="other"))
    decision = decide({}, cluster, Moment(1, 0))
    assert decision.kept == {"cluster-settings/dc": cluster}
    assert world.value("plan/erp") == replace(plan, name="other")


def test_a_change_of_health_is_told_and_a_critical_one_raises_an_alert() -> None:
    world = fold(
        empty(),
        report(PRIMARY, 10),
        report(PRIMARY, 20),
        report(PRIMARY, 30, ReplicationState.ERROR),
        report(PRIMARY, 5),
    )
    changes = [(change.previous, change.health) for change in world.told(HealthChange)]
    not_applicable, normal, _, critical = ReplicationHealth
    assert changes == [(not_applicable, normal), (normal, critical)]
    (alert,) = world.told(Alert)
    assert alert.what == "replication health is Critical: H1: replication at primary is Error"


def test_a_report_that_tells_nothing_new_is_kept_in_memory_alone() -> None:
    state: dict[str, State] = {}

    def take(decision: Decision) -> Decision:
        state.update({**decision.noted, **{key: value for key, value in decision.kept.items() if value is not None}})
        return decision

    first = take(decide(state, report(PRIMARY, 10), Moment(10, 0)))
    assert list(first.kept) == ["vm/vm-1"]
    again = take(decide(state, report(PRIMARY, 20), Moment(20, 0)))
    assert (again.kept, list(again.noted), again.outputs) == ({}, ["vm/vm-1"], ())
    assert decide(state, report(PRIMARY, 20), Moment(20, 0)) == Decision()


def test_only_runs_want_to_be_looked_at() -> None:
    assert due_ms(VmState("vm-1")) == 0
