"""Who has to agree before a run begins: each rule, for the run of a VM and that of a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rule_cases import (
    FAILBACK,
    NOW,
    PLANNED,
    REPROTECT,
    TEST,
    UNPLANNED,
    VM,
    Fold,
    new_run,
    word,
)
from simulator import CLUSTERS, PRIMARY, REPLICA, TARGET, inventory, request

from failover_orch.domain.approvals import awaiting, granted, needed, on_word
from failover_orch.domain.facts import FailoverKind, FailoverRequested, MoveKind, RequestAction, VmMoved
from failover_orch.domain.policies import ApprovalRule, Limits, Policy, PolicyScope
from failover_orch.domain.records import Alert, AuditEntry, RunState, StepCommand
from failover_orch.domain.settings import RecoveryGroup, RecoveryPlan, VmReplicationSettings
from failover_orch.domain.state import Run

APPROVE, REJECT, CANCEL = RequestAction.APPROVE, RequestAction.REJECT, RequestAction.CANCEL
TWO_OF_THREE = ApprovalRule(2, ("bob", "cem", "dora"), within_ms=60_000)
ANYBODY = ApprovalRule(1)
PLAN = RecoveryPlan("erp", "ERP", (RecoveryGroup("all", ("vm-1",)),))
OF_A_VM, OF_A_PLAN = request(), request(plan="erp")
BOTH = pytest.mark.parametrize("asked", [OF_A_VM, OF_A_PLAN], ids=["VM", "plan"])


def world(*rules: ApprovalRule) -> Fold:
    """A VM that can be failed over, a plan of it, and the approvals that are asked for."""
    return Fold(
        *CLUSTERS,
        inventory(),
        VmMoved("vm-1", PRIMARY, "p1", MoveKind.PLACED, 1, cluster="pc", sequence=1),
        VmMoved("vm-1", REPLICA, "d1", MoveKind.PLACED, 2, cluster="dc", sequence=1),
        VmReplicationSettings("vm-1", (TARGET,)),
        PLAN,
        Policy(PolicyScope.ALL, approvals=rules, actor="ann", reason="four eyes"),
    )


def state(fold: Fold, asked: FailoverRequested) -> RunState:
    return (fold.run() if asked.vm_id else fold.plan_run()).state


def says(action: RequestAction, actor: str, asked: FailoverRequested) -> FailoverRequested:
    return word(action, asked, actor=actor)


@BOTH
def test_v1_a_run_that_needs_approval_waits_and_nothing_is_done(asked: FailoverRequested) -> None:
    fold = world(TWO_OF_THREE)
    fold.take(asked)
    run = fold.run() if asked.vm_id else fold.plan_run()
    assert (run.state, run.due_ms) == (RunState.AWAITING_APPROVAL, NOW + 60_000)
    assert run.waits_for == "approval by 2 of bob, cem, dora"
    assert run.choices == (APPROVE, REJECT, CANCEL)
    assert fold.rules("r") == ["V1"]
    assert fold.told(StepCommand) == []
    assert (fold.vm().run_id, fold.vm().epoch) == ("", 1 + 2)
    assert run.waits_for in fold.told(Alert)[-1].what


def test_v1_a_run_that_waits_is_in_nobodys_way() -> None:
    fold = world(replace(TWO_OF_THREE, kinds=(PLANNED,)))
    fold.take(OF_A_VM, request(UNPLANNED, run_id="now"))
    assert (fold.run().state, fold.run("now").state) == (RunState.AWAITING_APPROVAL, RunState.RUNNING)


@BOTH
def test_v2_an_agreement_is_noted_and_others_are_waited_for(asked: FailoverRequested) -> None:
    fold = world(TWO_OF_THREE)
    fold.take(asked, says(APPROVE, "bob", asked))
    assert fold.rules("r") == ["V1", "V2"]
    assert fold.journal("r")[-1] == "V2 approved by bob (1 of 2): seen"
    assert state(fold, asked) is RunState.AWAITING_APPROVAL
    assert (fold.snapshot().waits_for, fold.snapshot().approved_by) == ("approval by 1 of cem, dora", ("bob",))


@BOTH
def test_v3_with_the_last_agreement_the_run_begins(asked: FailoverRequested) -> None:
    fold = world(TWO_OF_THREE)
    fold.take(asked, says(APPROVE, "bob", asked))
    fold.now_ms += 5_000
    fold.take(says(APPROVE, "cem", asked))
    run = fold.run() if asked.vm_id else fold.plan_run()
    assert fold.rules("r")[:4] == ["V1", "V2", "V3", "R1" if asked.vm_id else "L1"]
    assert (run.state, run.started_at_ms, run.waits_for) == (RunState.RUNNING, NOW + 5_000, "")
    assert run.choices == ()
    assert fold.snapshot().approved_by == ("bob", "cem")
    # Of a plan's VMs too: they are part of what was approved.
    assert [command.step for command in fold.told(StepCommand)] == ["P0"]


def test_v3_what_speaks_against_it_by_now_refuses_it() -> None:
    fold = world(replace(TWO_OF_THREE, needed=1, kinds=(PLANNED,)))
    fold.take(OF_A_VM, request(UNPLANNED, run_id="now"), says(APPROVE, "bob", OF_A_VM))
    assert fold.rules("r") == ["V1", "V3", "F3"]
    assert (fold.run().state, fold.run().errors[0][:3]) == (RunState.REFUSED, "F3:")
    assert fold.vm().run_id == "now"


def test_v3_the_run_begins_with_the_addresses_as_they_are_by_then() -> None:
    fold = world(ANYBODY)
    fold.take(OF_A_VM)
    other = replace(TARGET, ipv6=None, ipv4=replace(TARGET.ipv4, dns=("10.20.0.2",)) if TARGET.ipv4 else None)
    fold.take(VmReplicationSettings("vm-1", (other,), set_at_ms=2), says(APPROVE, "bob", OF_A_VM))
    assert fold.run().adapters == (other,)


@BOTH
def test_v4_nobody_approves_their_own_request(asked: FailoverRequested) -> None:
    fold = world(replace(TWO_OF_THREE, approvers=("ann", "bob", "cem")))
    fold.take(asked, says(APPROVE, "ann", asked))
    assert fold.refused() == [("V4", "approve: ann asked for this run, and nobody approves their own request")]
    assert (state(fold, asked), fold.snapshot().approved_by) == (RunState.AWAITING_APPROVAL, ())
    assert fold.snapshot().waits_for == "approval by 2 of bob, cem"
    assert (fold.told(AuditEntry)[-1].what, fold.told(AuditEntry)[-1].outcome) == ("approve", "refused")


@BOTH
@pytest.mark.parametrize("action", [APPROVE, REJECT])
def test_v5_only_those_who_are_asked_have_a_say(asked: FailoverRequested, action: RequestAction) -> None:
    fold = world(TWO_OF_THREE)
    fold.take(asked, says(action, "eve", asked))
    (refusal,) = fold.refused()
    assert refusal == ("V5", f"{action.lower()}: eve is not asked; approvers are bob, cem, dora")
    assert state(fold, asked) is RunState.AWAITING_APPROVAL


@BOTH
def test_v6_who_agrees_twice_counts_once(asked: FailoverRequested) -> None:
    fold = world(TWO_OF_THREE)
    fold.take(asked, says(APPROVE, "bob", asked), replace(says(APPROVE, "bob", asked), requested_at_ms=NOW))
    assert [rule for rule, _ in fold.refused()] == ["V6"]
    assert fold.snapshot().approved_by == ("bob",)


@BOTH
@pytest.mark.parametrize("actor", ["bob", "ann"])
def test_v7_a_rejection_ends_it(asked: FailoverRequested, actor: str) -> None:
    """Also by the one who asked, and by one who agreed before."""
    fold = world(TWO_OF_THREE)
    fold.take(asked, says(APPROVE, "bob", asked), says(REJECT, actor, asked))
    assert fold.rules("r") == ["V1", "V2", "V7"]
    assert state(fold, asked) is RunState.REFUSED
    assert (fold.snapshot().waits_for, fold.snapshot().choices) == ("", ())
    fold.take(says(APPROVE, "cem", asked))
    assert fold.refused()[-1][0] == "R23"
    assert fold.told(StepCommand) == []


@BOTH
def test_v8_when_the_time_is_over_it_ends(asked: FailoverRequested) -> None:
    fold = world(TWO_OF_THREE)
    fold.take(asked, says(APPROVE, "bob", asked))
    fold.wait(59_999)
    assert state(fold, asked) is RunState.AWAITING_APPROVAL
    fold.wait(1)
    assert fold.journal("r")[-1] == "V8 approval has expired: 1 of 2 agreed in time"
    assert state(fold, asked) is RunState.REFUSED
    fold.take(says(APPROVE, "cem", asked))
    assert fold.told(StepCommand) == []


@BOTH
def test_v9_who_accepts_data_loss_needs_a_second_person(asked: FailoverRequested) -> None:
    fold = world()
    asked = replace(asked, kind=UNPLANNED, accept_data_loss=True)
    fold.take(asked)
    assert fold.rules("r") == ["V1"]
    assert fold.snapshot().waits_for == "approval by 1 of anybody but ann; data loss is accepted"
    fold.take(says(APPROVE, "ann", asked))
    assert [rule for rule, _ in fold.refused()] == ["V4"]
    fold.take(says(APPROVE, "eve", asked))
    assert state(fold, asked) is RunState.RUNNING


@pytest.mark.parametrize("limits", [Limits(), Limits(approvals=(TWO_OF_THREE,))])
@pytest.mark.parametrize("differs", [{"accept_data_loss": True}, {"needs_approval": True}])
def test_v9_v10_the_rule_that_asks_for_most_people_counts(limits: Limits, differs: dict[str, bool]) -> None:
    rule = needed(replace(OF_A_VM, **differs), limits, REPLICA)  # type: ignore[arg-type]  # flags
    assert rule == (limits.approvals[0] if limits.approvals else ANYBODY)


def test_v10_what_the_broker_proposes_one_person_has_to_agree_to() -> None:
    fold = world()
    asked = replace(request(UNPLANNED), needs_approval=True, actor="failover_orch")
    fold.take(asked)
    assert (fold.rules("r"), fold.snapshot().waits_for) == (["V1"], "approval by 1 of anybody but failover_orch")
    fold.take(says(APPROVE, "bob", asked))
    assert fold.run().state is RunState.RUNNING


@pytest.mark.parametrize("kind", FailoverKind)
def test_a_rule_is_for_its_kinds_and_its_direction(kind: FailoverKind) -> None:
    asked = request(kind)
    for rule, fits in (
        (ANYBODY, True),
        (replace(ANYBODY, needed=0), False),
        (replace(ANYBODY, kinds=(UNPLANNED, FAILBACK)), kind in (UNPLANNED, FAILBACK)),
        (replace(ANYBODY, to_site=REPLICA), True),
        (replace(ANYBODY, to_site=PRIMARY), False),
        (replace(ANYBODY, to_site=REPLICA, kinds=(TEST, REPROTECT)), kind in (TEST, REPROTECT)),
    ):
        assert needed(asked, Limits(approvals=(rule,)), REPLICA) == (rule if fits else None)


def test_a_plan_whose_direction_nobody_knows_takes_the_rules_of_every_direction() -> None:
    rule = replace(ANYBODY, to_site=PRIMARY)
    assert needed(OF_A_PLAN, Limits(approvals=(rule,)), "") == rule


def test_of_rules_that_ask_for_as_many_the_one_with_names_counts() -> None:
    named = ApprovalRule(1, ("bob",))
    for rules in ((ANYBODY, named), (named, ANYBODY)):
        assert needed(OF_A_VM, Limits(approvals=rules), REPLICA) == named
    assert needed(OF_A_VM, Limits(approvals=(named, replace(ANYBODY, needed=2))), REPLICA) == ApprovalRule(2)


def test_the_run_of_a_plans_vm_needs_none_of_its_own() -> None:
    member = replace(OF_A_VM, parent_run_id="plan-run", accept_data_loss=True, needs_approval=True)
    assert needed(member, Limits(approvals=(TWO_OF_THREE,)), REPLICA) is None


@BOTH
def test_a_run_that_waits_can_be_cancelled(asked: FailoverRequested) -> None:
    fold = world(TWO_OF_THREE)
    fold.take(asked, says(CANCEL, "eve", asked))
    assert state(fold, asked) is RunState.CANCELLED
    assert fold.vm().run_id == ""
    fold.wait(60_000)
    assert fold.rules("r").count("V8") == 0


@BOTH
@pytest.mark.parametrize("action", [action for action in RequestAction if action not in (APPROVE, REJECT, CANCEL)])
def test_r23_nothing_else_can_be_said_to_a_run_that_waits_for_approval(
    asked: FailoverRequested, action: RequestAction
) -> None:
    if action in (RequestAction.REQUEST, RequestAction.ACKNOWLEDGE):
        return
    fold = world(TWO_OF_THREE)
    fold.take(asked, says(action, "bob", asked))
    ((rule, why),) = fold.refused()
    assert rule == "R23"
    assert "AWAITING_APPROVAL" in why
    assert "APPROVE, REJECT, CANCEL" in why
    assert why.count("CANCEL") == 1 + (action is CANCEL)


@BOTH
def test_r23_a_run_that_does_not_wait_for_approval_is_not_approved(asked: FailoverRequested) -> None:
    fold = world()
    fold.take(asked, says(APPROVE, "bob", asked))
    ((rule, why),) = fold.refused()
    assert rule == "R23"
    assert "RUNNING" in why


def test_a_word_leaves_the_run_that_it_was_said_to_alone() -> None:
    run, _ = awaiting(new_run(OF_A_VM, VM), TWO_OF_THREE, NOW)
    assert isinstance(run, Run)
    assert not granted(run)
    for actor in ("ann", "eve"):
        again, said, refusal = on_word(run, says(APPROVE, actor, OF_A_VM))
        assert again is run
        assert said is None
        assert refusal
    assert granted(new_run(OF_A_VM, VM))


def test_q6_a_plan_that_began_meanwhile_stands_in_the_way_and_stays_in_flight() -> None:
    fold = world(replace(TWO_OF_THREE, kinds=(PLANNED,)))
    other = request(UNPLANNED, plan="erp", run_id="other")
    fold.take(OF_A_PLAN, other, says(APPROVE, "bob", OF_A_PLAN))
    fold.take(says(REJECT, "cem", OF_A_PLAN), request(UNPLANNED, plan="erp", run_id="third"))
    assert fold.run("third").state is RunState.REFUSED
    assert fold.plan_run("other").state is RunState.RUNNING

    fold = world(replace(TWO_OF_THREE, needed=1, kinds=(PLANNED,)))
    fold.take(OF_A_PLAN, other, says(APPROVE, "bob", OF_A_PLAN))
    assert fold.journal("r")[-1] == "Q6 run other of this plan is in flight by now"
    assert state(fold, OF_A_PLAN) is RunState.REFUSED
