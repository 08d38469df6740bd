"""Whether a failover would work now: each defect, of a VM and of a plan, and when it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rule_cases import LOST, NOW, TEST, VM, Fold
from simulator import CLUSTERS, PRIMARY, REPLICA, TARGET, inventory, report, request

from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.inventory import ClusterInventory, NodeState
from failover_orch.domain.policies import DEFAULT_LIMITS, Limits, Policy, PolicyScope
from failover_orch.domain.readiness import assess_readiness, next_look_ms, plan_readiness
from failover_orch.domain.records import HealthChange, MemberReadiness, PlanMembership, Readiness
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.settings import RecoveryGroup, RecoveryPlan, VmReplicationSettings
from failover_orch.domain.state import PlanReadiness, ReplicationEnd, VmState

UNKNOWN, READY, AT_RISK, NOT_READY = Readiness
DAY_MS = 24 * 3_600_000
DRILLED = replace(VM, drilled_at_ms=NOW)
END = ReplicationEnd(
    PRIMARY,
    ReplicationMode.PRIMARY,
    ReplicationState.REPLICATING,
    ReplicationHealth.NORMAL,
    ("H3: 3 of 10 cycles missed",),
    1,
    1,
    0,
)
FACTS = (
    *CLUSTERS,
    inventory(),
    VmMoved("vm-1", PRIMARY, "p1", MoveKind.PLACED, 1, cluster="pc", sequence=1),
    VmMoved("vm-1", REPLICA, "d1", MoveKind.PLACED, 2, cluster="dc", sequence=1),
    VmReplicationSettings("vm-1", (TARGET,)),
)
NO_DRILL = Policy(PolicyScope.ALL, drill_within_ms=0)


def weighed(
    vm: VmState, clusters: tuple[ClusterInventory, ...] = CLUSTERS, limits: Limits = DEFAULT_LIMITS, at_ms: int = NOW
) -> tuple[Readiness, list[str]]:
    """The readiness, and the rules of its defects."""
    state, defects = assess_readiness(vm, clusters, limits, at_ms)
    return state, [defect.partition(":")[0] for defect in defects]


def down(cluster: ClusterInventory) -> ClusterInventory:
    return replace(
        cluster,
        nodes=tuple(replace(node, state=NodeState.DOWN) for node in cluster.nodes),
        reported_at_ms=cluster.reported_at_ms + 1,
    )


def test_a_vm_with_nothing_against_it_is_ready() -> None:
    assert weighed(DRILLED) == (READY, [])


def test_a_vm_that_nobody_protects_is_unknown() -> None:
    told = inventory()
    disabled = replace(told.replication, state=ReplicationState.DISABLED, replica_site="")
    assert weighed(replace(DRILLED, inventory=replace(told, replication=disabled), replica_site="")) == (UNKNOWN, [])
    assert weighed(VmState("vm-1")) == (UNKNOWN, [])


def test_d1_where_an_unplanned_failover_would_be_refused_the_vm_is_not_ready() -> None:
    assert weighed(DRILLED, (CLUSTERS[0], down(CLUSTERS[1]))) == (NOT_READY, ["D1"])
    assert weighed(replace(LOST, drilled_at_ms=NOW)) == (NOT_READY, ["D1"])
    state, defects = assess_readiness(replace(DRILLED, settings=None), CLUSTERS, DEFAULT_LIMITS, NOW)
    assert state is NOT_READY
    assert defects[0].startswith("D1: A14: ")


def test_d2_where_only_a_planned_failover_would_be_refused_the_vm_is_at_risk() -> None:
    state, defects = assess_readiness(
        replace(DRILLED, ends=(replace(END, state=ReplicationState.SUSPENDED),)), CLUSTERS, DEFAULT_LIMITS, NOW
    )
    assert (state, [defect[:7] for defect in defects]) == (AT_RISK, ["D2: F6:"])


@pytest.mark.parametrize("differs", [{"run_id": "other"}, {"health": ReplicationHealth.CRITICAL}])
def test_d1_d2_what_passes_or_is_said_elsewhere_is_no_defect(differs: dict[str, object]) -> None:
    _, rules = weighed(replace(DRILLED, **differs))  # type: ignore[arg-type]  # any field may be named
    assert not {"D1", "D2"} & set(rules)


@pytest.mark.parametrize("health", ReplicationHealth)
def test_d3_replication_that_does_not_go_well(health: ReplicationHealth) -> None:
    state, defects = assess_readiness(replace(DRILLED, health=health, ends=(END,)), CLUSTERS, DEFAULT_LIMITS, NOW)
    bad = health in (ReplicationHealth.WARNING, ReplicationHealth.CRITICAL)
    said = (f"D3: replication health is {health} (H3: 3 of 10 cycles missed)",) if bad else ()
    assert (state, defects) == (AT_RISK if bad else READY, said)


def test_d4_an_rpo_that_will_be_breached() -> None:
    vm = replace(DRILLED, ends=(replace(END, breach_at_ms=NOW + 1),))
    assert weighed(vm, limits=Limits(rpo_ms=60_000)) == (AT_RISK, ["D4"])


@pytest.mark.parametrize(("free_mib", "rules"), [(1_023, ["D5"]), (1_024, [])])
def test_d5_a_node_without_room(free_mib: int, rules: list[str]) -> None:
    primary, dr = CLUSTERS
    small = replace(dr, nodes=tuple(replace(node, memory_free_mib=free_mib) for node in dr.nodes))
    vm = replace(DRILLED, inventory=replace(inventory(), memory_mib=1_024))
    assert weighed(vm, (primary, small)) == (AT_RISK if rules else READY, rules)


def test_d6_a_test_failover_that_is_due() -> None:
    drill_ms = DEFAULT_LIMITS.drill_within_ms
    assert weighed(VM) == (AT_RISK, ["D6"])
    assert weighed(DRILLED, at_ms=NOW + drill_ms - 1) == (READY, [])
    assert weighed(DRILLED, at_ms=NOW + drill_ms) == (AT_RISK, ["D6"])
    assert weighed(VM, limits=Limits(drill_within_ms=0)) == (READY, [])


def test_d6_the_time_when_it_will_be_due_is_known() -> None:
    assert next_look_ms(DRILLED, DEFAULT_LIMITS) == NOW + DEFAULT_LIMITS.drill_within_ms
    assert next_look_ms(VM, DEFAULT_LIMITS) == next_look_ms(DRILLED, Limits(drill_within_ms=0)) == 0


def test_every_defect_is_found_at_once() -> None:
    vm = replace(VM, settings=None, health=ReplicationHealth.WARNING, ends=(replace(END, breach_at_ms=1),))
    assert weighed(vm) == (NOT_READY, ["D1", "D3", "D4", "D6"])


# As it is told


def changes(fold: Fold, plan_id: str = "") -> list[Readiness]:
    return [each.readiness for each in fold.told(HealthChange) if each.plan_id == plan_id]


def test_readiness_is_weighed_with_whatever_it_depends_on() -> None:
    fold = Fold(*FACTS)
    assert (fold.vm().readiness, [defect[:2] for defect in fold.vm().defects]) == (AT_RISK, ["D6"])
    fold.take(NO_DRILL)
    assert fold.vm().readiness is READY
    fold.take(down(CLUSTERS[1]))
    assert fold.vm().readiness is NOT_READY
    fold.take(replace(CLUSTERS[1], reported_at_ms=9))
    assert fold.vm().readiness is READY
    fold.take(replace(report(PRIMARY, 10), health=ReplicationHealth.WARNING))
    assert fold.vm().readiness is AT_RISK
    told = fold.told(HealthChange)
    assert [(each.previous_readiness, each.readiness) for each in told[-4:]] == [
        (AT_RISK, READY),
        (READY, NOT_READY),
        (NOT_READY, READY),
        (READY, AT_RISK),
    ]
    assert told[-1].health is ReplicationHealth.WARNING
    assert [defect[:2] for defect in told[-1].defects] == ["D3"]


def test_that_a_number_in_a_defect_has_moved_on_is_no_news() -> None:
    fold = Fold(*FACTS, NO_DRILL, replace(report(PRIMARY, 10), cycles=10, missed_cycles=5))
    before = len(fold.told(HealthChange))
    fold.take(replace(report(PRIMARY, 20), cycles=10, missed_cycles=6, state=ReplicationState.REPLICATING))
    assert len(fold.told(HealthChange)) == before


def test_d6_is_noticed_though_nothing_happens() -> None:
    fold = Fold(*FACTS)
    fold.take(request(TEST))
    for _ in range(4):
        fold.answer()
    assert (fold.vm().drilled_at_ms, fold.vm().readiness) == (NOW, READY)
    assert fold.vm().due_ms == NOW + DEFAULT_LIMITS.drill_within_ms
    fold.wait(DEFAULT_LIMITS.drill_within_ms)
    assert (fold.vm().readiness, fold.vm().due_ms) == (AT_RISK, 0)


# Plans


def known(**members: Readiness) -> PlanReadiness:
    entries = tuple((vm, state, (f"D0: {vm}",) if state is not READY else (), 1) for vm, state in members.items())
    return PlanReadiness("erp", entries, run_id="r")


@pytest.mark.parametrize(
    ("members", "worst"),
    [
        ({}, UNKNOWN),
        ({"a": READY}, UNKNOWN),
        ({"a": READY, "b": READY}, READY),
        ({"a": READY, "b": AT_RISK}, AT_RISK),
        ({"a": UNKNOWN, "b": AT_RISK}, UNKNOWN),
        ({"a": NOT_READY, "b": UNKNOWN}, NOT_READY),
    ],
)
def test_a_plan_is_as_ready_as_the_worst_of_its_vms(members: dict[str, Readiness], worst: Readiness) -> None:
    found = plan_readiness("erp", ["a", "b", "a"], known(**members))
    assert (found.readiness, found.run_id) == (worst, "r")
    assert [member[0] for member in found.members] == ["a", "b"]
    assert len(found.defects) == sum(members.get(vm) is not READY for vm in "ab")


def test_a_plan_of_many_defective_vms_names_the_first() -> None:
    found = plan_readiness("erp", list("abcdefgh"), None)
    assert (len(found.defects), found.defects[0], found.defects[-1]) == (6, "a: UNKNOWN", "and 3 more VMs")


PLAN = RecoveryPlan("erp", "ERP", (RecoveryGroup("all", ("vm-1",)),))


def test_a_plan_hears_how_its_vms_are() -> None:
    fold = Fold(*FACTS, NO_DRILL, PLAN)
    assert fold.told(PlanMembership) == [PlanMembership("vm-1", "erp", member=True, at_ms=NOW)]
    assert changes(fold, "erp") == [UNKNOWN, READY]
    fold.now_ms += 1
    fold.take(down(CLUSTERS[1]))
    assert changes(fold, "erp")[-1] is NOT_READY
    assert fold.value("plan-readiness/erp", PlanReadiness).defects[0].startswith("vm-1: D1: F5:")


def test_a_vm_that_leaves_a_plan_says_nothing_more_to_it() -> None:
    fold = Fold(*FACTS, NO_DRILL, PLAN)
    fold.now_ms += 1
    fold.take(replace(PLAN, groups=(RecoveryGroup("all", ("vm-2",)),)))
    assert fold.vm().plan_ids == ()
    assert fold.vm("vm-2").plan_ids == ("erp",)
    before = len(fold.told(MemberReadiness))
    fold.take(down(CLUSTERS[1]))
    assert len(fold.told(MemberReadiness)) == before
    assert fold.value("plan-readiness/erp", PlanReadiness).readiness is UNKNOWN


def test_an_older_word_of_a_vm_is_passed_over() -> None:
    fold = Fold(PLAN, MemberReadiness("erp", "vm-1", READY, (), NOW + 5))
    fold.take(MemberReadiness("erp", "vm-1", NOT_READY, (), NOW + 4))
    assert fold.value("plan-readiness/erp", PlanReadiness).readiness is READY
    fold.take(MemberReadiness("crm", "vm-1", NOT_READY, (), NOW + 4))
    assert "plan-readiness/crm" not in fold.state


def test_a_run_of_the_plan_leaves_its_readiness_alone() -> None:
    fold = Fold(*FACTS, NO_DRILL, PLAN)
    fold.take(request(plan="erp"))
    stands = fold.value("plan-readiness/erp", PlanReadiness)
    assert (stands.readiness, stands.run_id) == (READY, "r")
