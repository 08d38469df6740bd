"""The fold of what is observed and set: moves, inventory, settings, health, and what is told of them."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import pytest
from rule_cases import DONE, LOST, NOW, UNPLANNED, Fold
from simulator import CLUSTERS, PRIMARY, REPLICA, TARGET, inventory, report, request

from failover_orch.domain.broker import decide, due_ms, tick
from failover_orch.domain.draft import Decision, Fact, Moment
from failover_orch.domain.facts import FailoverKind, MoveKind, RequestAction, VmMoved
from failover_orch.domain.inventory import Guest, IntegrationServices, NodeState, VmInventory
from failover_orch.domain.policies import ApprovalRule, AutomaticMode, Policy, PolicyScope
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
    StepCommand,
)
from failover_orch.domain.replication import ReplicationHealth, ReplicationState
from failover_orch.domain.settings import (
    PlanAction,
    PlanActionKind,
    RecoveryGroup,
    RecoveryPlan,
    VmReplicationSettings,
)
from failover_orch.domain.state import Clusters, VmState

AT_PRIMARY = VmMoved("vm-1", PRIMARY, "p1", MoveKind.PLACED, 1, cluster="pc", sequence=1)
AT_REPLICA = VmMoved("vm-1", REPLICA, "d1", MoveKind.PLACED, 2, cluster="dc", sequence=1)
SETTINGS = VmReplicationSettings("vm-1", (TARGET,), actor="ann", reason="plan", set_at_ms=1)
KNOWN: tuple[Fact, ...] = (*CLUSTERS, inventory(), AT_PRIMARY, AT_REPLICA, SETTINGS)


def roles(vm: VmState) -> dict[str, Role]:
    return {location.site: location.role for location in vm.locations}


def rules(fold: Fold) -> list[str]:
    return [rule for rule, _ in fold.refused()]


def routes(fold: Fold) -> list[tuple[RouteCause, str]]:
    return [(update.cause, update.changed.node) for update in fold.told(RoutingUpdate)]


def failed_over() -> Fold:
    fold = Fold(*KNOWN, request(UNPLANNED))
    while fold.vm().run_id:
        fold.answer(DONE)
    assert (fold.vm().active_site, fold.vm().replica_site) == (REPLICA, "")
    return fold


# M: moves


def test_m1_a_move_that_is_told_again_changes_nothing() -> None:
    fold = Fold(AT_REPLICA)
    assert fold.take(AT_REPLICA) == Decision()


def test_m2_an_older_word_of_the_same_node_is_refused() -> None:
    fold = Fold(AT_REPLICA, replace(AT_REPLICA, sequence=0, occurred_at_ms=0))
    assert fold.refused() == [("M2", "PLACED on d1 at 0: d1 reported something newer of this VM at 2")]
    assert routes(fold) == [(RouteCause.PLACED, "d1")]


def test_m3_an_older_arrival_elsewhere_is_refused_and_remembered() -> None:
    fold = Fold(AT_REPLICA, replace(AT_REPLICA, node="d2", occurred_at_ms=1))
    assert rules(fold) == ["M3"]
    assert {presence.node for presence in fold.vm().presences} == {"d1", "d2"}
    assert routes(fold) == [(RouteCause.PLACED, "d1")]


def test_m4_an_arrival_where_the_vm_is_already_is_no_change() -> None:
    fold = Fold(AT_REPLICA)
    decision = fold.take(replace(AT_REPLICA, occurred_at_ms=9, sequence=2))
    assert (list(decision.kept), decision.outputs) == (["vm/vm-1"], ())


def test_m5_an_arrival_changes_the_route_under_a_new_epoch() -> None:
    fold = Fold(AT_REPLICA, replace(AT_REPLICA, node="d2", kind=MoveKind.LIVE, occurred_at_ms=3))
    first, second = fold.told(RoutingUpdate)
    assert (first.epoch, first.changed.node, first.previous_node) == (1, "d1", "")
    assert (second.epoch, second.changed.node, second.previous_node) == (2, "d2", "d1")
    assert (second.cause, second.changed_at_ms) == (RouteCause.LIVE, NOW)


def test_m6_a_departure_gives_the_vm_back_to_a_node_that_still_has_it() -> None:
    fold = Fold(
        AT_REPLICA,
        replace(AT_REPLICA, node="d2", kind=MoveKind.LIVE, occurred_at_ms=3),
        replace(AT_REPLICA, node="d2", kind=MoveKind.DEPARTED, occurred_at_ms=4, sequence=2),
    )
    assert routes(fold)[-1] == (RouteCause.LIVE, "d1")
    assert fold.vm().epoch == 3


def test_m7_a_departure_alone_says_nothing_of_where_it_went() -> None:
    fold = Fold(AT_REPLICA, replace(AT_REPLICA, kind=MoveKind.DEPARTED, occurred_at_ms=4, sequence=2))
    assert (routes(fold), rules(fold)) == ([(RouteCause.PLACED, "d1")], [])
    assert [presence.present for presence in fold.vm().presences] == [False]


# I: inventory


def test_the_first_inventory_says_which_site_is_the_primary_and_the_home() -> None:
    fold = Fold(AT_PRIMARY, AT_REPLICA, inventory())
    update = fold.told(RoutingUpdate)[-1]
    assert (update.cause, update.changed.site, update.name) == (RouteCause.INVENTORY, PRIMARY, "vm-1")
    assert roles(fold.vm()) == {PRIMARY: Role.PRIMARY, REPLICA: Role.REPLICA}
    assert fold.vm().home_site == PRIMARY


def test_the_inventory_may_come_before_any_node_has_spoken() -> None:
    fold = Fold(inventory())
    (update,) = fold.told(RoutingUpdate)
    assert (update.changed, update.locations) == (Location(PRIMARY, "", Role.PRIMARY, 0, "pc"), ())
    fold.take(AT_REPLICA, AT_PRIMARY)
    assert roles(fold.vm()) == {PRIMARY: Role.PRIMARY, REPLICA: Role.REPLICA}


def name_of(fold: Fold) -> str:
    told = fold.vm().inventory
    assert told is not None
    return told.name


@pytest.mark.parametrize("at_ms", [0, 1])
def test_i1_an_inventory_that_is_not_newer_is_passed_over(at_ms: int) -> None:
    fold = Fold(inventory())
    assert fold.take(replace(inventory(), name="other", reported_at_ms=at_ms)) == Decision()
    fold.take(replace(inventory(), name="newer", reported_at_ms=2))
    assert name_of(fold) == "newer"


def test_i1_nor_does_an_older_one_of_a_cluster_count() -> None:
    down = replace(CLUSTERS[0], nodes=(replace(CLUSTERS[0].nodes[0], state=NodeState.DOWN),))
    fold = Fold(*CLUSTERS)
    assert fold.take(down) == Decision()
    newer = replace(down, reported_at_ms=CLUSTERS[0].reported_at_ms + 1)
    fold.take(newer)
    known = fold.value("clusters", Clusters).known
    assert newer in known
    assert [cluster.cluster for cluster in known] == sorted(cluster.cluster for cluster in CLUSTERS)


@pytest.mark.parametrize("services", list(IntegrationServices))
def test_i4_what_is_not_known_of_the_guest_stays_as_it_was(services: IntegrationServices) -> None:
    before = replace(inventory(), guest=Guest("debian-12", services))
    fold = Fold(before, replace(before, guest=Guest("", IntegrationServices.UNKNOWN), reported_at_ms=2))
    told = fold.vm().inventory
    assert told == replace(before, reported_at_ms=2)


def test_i4_what_is_known_of_the_guest_counts() -> None:
    fold = Fold(replace(inventory(), guest=Guest("debian-12", IntegrationServices.RUNNING)))
    fold.take(replace(inventory(), guest=Guest("debian-13", IntegrationServices.ABSENT), reported_at_ms=2))
    told = fold.vm().inventory
    assert told is not None
    assert told.guest == Guest("debian-13", IntegrationServices.ABSENT)


def replicating(
    primary: str, replica: str, state: ReplicationState = ReplicationState.REPLICATING, at_ms: int = 99
) -> VmInventory:
    told = inventory()
    there = replace(told.replication, primary_site=primary, replica_site=replica, state=state)
    return replace(told, replication=there, reported_at_ms=at_ms)


def test_i2_replication_that_is_enabled_later_is_heard_of() -> None:
    never = replicating(PRIMARY, "", ReplicationState.DISABLED, 1)
    fold = Fold(never, AT_PRIMARY, AT_REPLICA)
    assert roles(fold.vm()) == {PRIMARY: Role.PRIMARY, REPLICA: Role.UNKNOWN}
    fold.take(replicating(PRIMARY, REPLICA))
    update = fold.told(RoutingUpdate)[-1]
    assert (update.cause, update.changed.node, update.changed.role) == (RouteCause.INVENTORY, "d1", Role.REPLICA)
    assert fold.vm().replica_site == REPLICA
    fold.take(SETTINGS)
    assert refusals(fold.vm(), request(), CLUSTERS) == ()


@pytest.mark.parametrize(
    ("told", "replica"),
    [
        (replicating(REPLICA, PRIMARY), PRIMARY),
        (replicating(REPLICA, PRIMARY, ReplicationState.DISABLED), ""),
        (replicating(REPLICA, PRIMARY, ReplicationState.FAILED_OVER), ""),
        (replicating(REPLICA, PRIMARY, ReplicationState.FAILED_OVER_WAITING_COMPLETION), ""),
        (replicating(PRIMARY, REPLICA), ""),
        (replicating(REPLICA, REPLICA), ""),
        (replicating(REPLICA, ""), ""),
    ],
)
def test_i2_after_a_failover_only_the_active_end_says_that_replication_is_reversed(
    told: VmInventory, replica: str
) -> None:
    fold = failed_over()
    fold.take(told)
    assert (fold.vm().active_site, fold.vm().replica_site) == (REPLICA, replica)
    assert roles(fold.vm())[PRIMARY] is (Role.REPLICA if replica else Role.RETIRED)


def test_i3_only_the_active_site_says_what_the_vm_is_except_while_a_run_is_under_way() -> None:
    fold = Fold(*KNOWN)
    fold.take(replace(replicating(REPLICA, PRIMARY, at_ms=40), name="a replica that believes to be more"))
    assert name_of(fold) == "vm-1"
    fold.take(request(UNPLANNED))
    fold.take(replace(replicating(REPLICA, "", ReplicationState.FAILED_OVER, 60), name="the other site knows first"))
    assert name_of(fold) == "the other site knows first"
    while fold.vm().run_id:
        fold.answer(DONE)
    fold.take(replace(inventory(), name="the old primary is back", reported_at_ms=70))
    assert name_of(fold) == "the other site knows first"
    fold.take(replace(replicating(REPLICA, "", ReplicationState.FAILED_OVER, 80), name="the new one"))
    assert name_of(fold) == "the new one"


def test_i3_a_primary_that_comes_back_does_not_become_the_primary_again() -> None:
    fold = failed_over()
    fold.take(replace(inventory(), reported_at_ms=99), replace(AT_PRIMARY, occurred_at_ms=99, sequence=2))
    assert (fold.vm().active_site, fold.vm().replica_site) == (REPLICA, "")
    assert roles(fold.vm()) == {PRIMARY: Role.RETIRED, REPLICA: Role.PRIMARY}


# T: what is set


@pytest.mark.parametrize("known", [(), (AT_PRIMARY,)])
def test_t1_addresses_of_a_vm_that_is_not_known(known: tuple[Fact, ...]) -> None:
    assert rules(Fold(*known, SETTINGS)) == ["T1"]


NOT_THERE = replace(TARGET, adapter_id="nic-9")


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, adapters=(NOT_THERE,)),
        replace(SETTINGS, home_adapters=(NOT_THERE,)),
        replace(SETTINGS, test_adapters=(NOT_THERE,)),
    ],
)
def test_addresses_that_cannot_be_set_are_refused_by_their_rule_and_audited(settings: VmReplicationSettings) -> None:
    fold = Fold(inventory(), settings)
    assert rules(fold) == ["A2"]
    (audited,) = fold.told(AuditEntry)
    assert (audited.outcome, audited.actor, audited.reason) == ("refused", "ann", "plan")
    assert "nic-9" in audited.evidence["why"]
    assert fold.vm().settings is None


def test_addresses_are_kept_and_audited_once() -> None:
    fold = Fold(inventory(), SETTINGS, SETTINGS)
    assert fold.vm().settings == SETTINGS
    assert [(entry.what, entry.outcome) for entry in fold.told(AuditEntry)] == [("set failover addresses", "accepted")]


NEGATIVE = sorted(
    field.name
    for field in fields(Policy)
    if field.name.endswith(("_ms", "_runs", "_percent", "_cycles")) or field.name == "observers"
)


@pytest.mark.parametrize("name", NEGATIVE)
def test_t2_a_limit_that_is_negative_makes_no_sense(name: str) -> None:
    fold = Fold(Policy(PolicyScope.VM, "vm-1", **{name: -1}, actor="ann", reason="try"))  # type: ignore[arg-type]  # a limit
    assert fold.refused() == [("T2", f"policy vm/vm-1: {name} is -1; it cannot be negative")]
    assert "policy/vm/vm-1" not in fold.state
    assert [(entry.subject, entry.outcome, entry.actor) for entry in fold.told(AuditEntry)] == [
        ("vm/vm-1", "refused", "ann")
    ]


@pytest.mark.parametrize(
    "policy",
    [
        Policy(PolicyScope.ALL, missed_cycles_percent=101),
        Policy(PolicyScope.ALL, approvals=(ApprovalRule(0),)),
        Policy(PolicyScope.ALL, approvals=(ApprovalRule(-1),)),
        Policy(PolicyScope.ALL, approvals=(ApprovalRule(1), ApprovalRule(1, within_ms=0))),
    ],
)
def test_t2_nor_does_one_that_nothing_can_meet(policy: Policy) -> None:
    fold = Fold(policy)
    assert (rules(fold), "policy/all" in fold.state) == (["T2"], False)


def test_t2_approvers_who_are_too_few_can_never_agree() -> None:
    policy = Policy(PolicyScope.ALL, approvals=(ApprovalRule(2), ApprovalRule(2, ("bob", "bob"))))
    fold = Fold(policy)
    assert fold.refused() == [("T2", "policy all: 2 of 1 approvers can never agree")]


def test_a_policy_is_kept_with_what_it_says_and_an_older_one_is_passed_over() -> None:
    policy = Policy(PolicyScope.SITE, PRIMARY, mode=AutomaticMode.ACT, rpo_ms=5, actor="ann", reason="go", set_at_ms=9)
    fold = Fold(policy, policy, replace(policy, rpo_ms=6, set_at_ms=8))
    assert fold.state["policy/site/primary"] == policy
    (audited,) = fold.told(AuditEntry)
    assert (audited.subject, audited.actor, audited.evidence) == (
        "site/primary",
        "ann",
        {"mode": "ACT", "rpo_ms": "5"},
    )
    fold.take(replace(policy, rpo_ms=7, set_at_ms=9))
    assert fold.value("policy/site/primary", Policy).rpo_ms == 7


def test_t3_a_plan_whose_groups_wait_for_each_other_is_refused_by_name() -> None:
    good = RecoveryPlan("erp", "ERP", (RecoveryGroup("all", ("vm-1",)),))
    bad = replace(good, groups=(RecoveryGroup("a", (), depends_on=("b",)), RecoveryGroup("b", ())))
    fold = Fold(good, bad)
    assert fold.refused() == [("T3", "plan erp: groups depend on each other in a circle: a -> b -> a")]
    assert fold.state["plan/erp"] == good


ACTION = PlanAction("stop", PlanActionKind.SCRIPT, "dr", ("stop",))


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param((RecoveryGroup("a", ("vm-1",)), RecoveryGroup("a", ("vm-2",))), id="a group twice"),
        pytest.param((RecoveryGroup("a", ("vm-1",), depends_on=("nowhere",)),), id="no such group"),
        pytest.param((RecoveryGroup("a", ("vm-1",), before=(ACTION, ACTION)),), id="an action twice"),
        pytest.param((RecoveryGroup("a", ("vm-1",), before=(replace(ACTION, site=""),)),), id="an action nowhere"),
    ],
)
def test_t3_a_plan_of_which_a_part_would_never_be_run_is_refused(groups: tuple[RecoveryGroup, ...]) -> None:
    fold = Fold(RecoveryPlan("erp", "ERP", groups))
    assert rules(fold) == ["T3"]
    assert "plan/erp" not in fold.state


def test_plans_are_kept_as_they_come() -> None:
    plan = RecoveryPlan("erp", "ERP", (RecoveryGroup("all", ("vm-1",)),))
    fold = Fold(plan, replace(plan, name="other"))
    assert fold.state["plan/erp"] == replace(plan, name="other")


# Health


def test_a_change_of_health_is_told_and_a_critical_one_raises_an_alert() -> None:
    fold = Fold(
        report(PRIMARY, 10), report(PRIMARY, 20), report(PRIMARY, 30, ReplicationState.ERROR), report(PRIMARY, 5)
    )
    changes = [
        (change.previous, change.health) for change in fold.told(HealthChange) if change.previous is not change.health
    ]
    not_applicable, normal, _, critical = ReplicationHealth
    assert changes == [(not_applicable, normal), (normal, critical)]
    (alert,) = fold.told(Alert)
    assert alert.what == "replication health is Critical: H1: replication at primary is Error"


def test_a_report_that_tells_nothing_new_is_kept_in_memory_alone() -> None:
    fold = Fold()
    assert list(fold.take(report(PRIMARY, 10)).kept) == ["vm/vm-1"]
    again = fold.take(report(PRIMARY, 20))
    assert (again.kept, list(again.noted), again.outputs) == ({}, ["vm/vm-1"], ())
    assert fold.take(report(PRIMARY, 20)) == Decision()


def test_a_breach_of_the_rpo_that_is_coming_is_told_with_its_time() -> None:
    fold = Fold(*KNOWN, Policy(PolicyScope.ALL, rpo_ms=300_000))
    fold.take(
        replace(report(REPLICA, 100_000), last_replication_at_ms=40_000),
        replace(report(REPLICA, 130_000), last_replication_at_ms=50_000),
    )
    change = fold.told(HealthChange)[-1]
    assert change.rpo_breach_at_ms == 130_000 + (300_000 - 80_000) * 30_000 // 20_000
    assert any(defect.startswith("D4") for defect in change.defects)


# The fold as a whole


def test_what_wants_to_be_looked_at_is_looked_at_only_when_its_time_has_come() -> None:
    assert due_ms(VmState("vm-1")) == due_ms(Clusters()) == 0
    fold = Fold(*KNOWN, request())
    due = fold.run().due_ms
    assert due_ms(fold.run()) == due
    assert tick(fold.state, "run/r", Moment(due - 1, 0)) == Decision()
    assert tick(fold.state, "run/r", Moment(due, 0)) != Decision()
    assert tick(fold.state, "run/gone", Moment(due, 0)) == Decision()
    assert tick(fold.state, "clusters", Moment(due, 0)) == Decision()


@pytest.mark.parametrize(
    "fact",
    [
        *KNOWN,
        request(),
        request(plan="erp"),
        request(action=RequestAction.CANCEL),
        report(PRIMARY, 10),
        RecoveryPlan("erp", "ERP", ()),
        Policy(PolicyScope.ALL),
    ],
    ids=lambda fact: type(fact).__name__,
)
def test_a_decision_leaves_the_state_that_it_was_made_on_alone(fact: Fact) -> None:
    fold = Fold(*KNOWN)
    before = dict(fold.state)
    first, second = (decide(fold.state, fact, Moment(NOW, 0)) for _ in range(2))
    assert fold.state == before
    assert first == second


def test_the_epoch_of_a_vm_only_grows() -> None:
    fold = failed_over()
    fold.take(request(FailoverKind.REPROTECT, run_id="back"))
    while fold.vm().run_id:
        fold.answer(DONE)
    told = [[each.epoch for each in fold.told(RoutingUpdate)], [each.epoch for each in fold.told(StepCommand)]]
    assert told == [sorted(epochs) for epochs in told]
    assert roles(fold.vm()) == {PRIMARY: Role.REPLICA, REPLICA: Role.PRIMARY}
    assert roles(LOST)[PRIMARY] is Role.RETIRED


def test_every_entry_of_the_journal_is_in_the_partitions_chain() -> None:
    fold = failed_over()
    entries = fold.told(JournalEntry)
    assert [entry.chain_sequence for entry in entries] == list(range(len(entries)))
    assert {entry.chain for entry in entries} == {"journal/0"}
    assert all(later.previous_hash == earlier.hash for earlier, later in pairwise(entries))
