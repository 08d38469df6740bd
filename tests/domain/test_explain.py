"""Why a VM would or would not fail over: said from the functions that act, and without acting."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover_orch.domain.draft import State
from failover_orch.domain.explain import VmExplanation, explain_vm, learned
from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction, StepOutcome
from failover_orch.domain.policies import (
    ApprovalRule,
    AutomaticMode,
    Brake,
    Evidence,
    Policy,
    PolicyScope,
    Verdict,
)
from failover_orch.domain.records import PlanMembership, Readiness, RunState
from failover_orch.domain.state import Run, VmState
from standing_state import NOW, asked, carry_out, fold, gone, moment, replica_report, standing

SINCE = NOW - 90_000
"""When the primary was lost in `lost`: the hold-down is over by now."""


def explain(state: dict[str, State], vm_id: str = "vm-1", at_ms: int = NOW) -> VmExplanation:
    return explain_vm(state, vm_id, moment(at_ms))


def lost(state: dict[str, State] | None = None, mode: AutomaticMode = AutomaticMode.OBSERVE) -> dict[str, State]:
    """The primary's power is proved to be off since `SINCE`, and the replica has missed its data ever since."""
    fence = Evidence("ipmi", "third", "primary", Verdict.OFF, SINCE)
    state = fold(state or standing(), policy(mode), at_ms=SINCE)
    state = fold(state, replica_report(behind_s=120, at_ms=SINCE), fence, at_ms=SINCE)
    return fold(state, replica_report(behind_s=210), replace(fence, observed_at_ms=NOW))


def policy(mode: AutomaticMode | None, scope: PolicyScope = PolicyScope.VM, target: str = "vm-1") -> Policy:
    return Policy(scope, target, mode=mode, actor="ann", reason="tier 1")


def closed(explained: VmExplanation) -> list[str]:
    return [guard.number for guard in explained.guards if not guard.open]


def test_a_vm_that_is_well_is_held_back_by_the_first_guard_which_is_the_answer() -> None:
    explained = explain(standing())
    assert explained.answer == (
        "name of vm-1 would not fail over now: G1 evidence is closed, evidence from 0 of 2 places (nobody says that "
        "the primary is gone); to open it: the replica misses its data"
    )
    assert [guard.number for guard in explained.guards] == ["G1", "G2", "G3", "G4", "G5", "G6"]
    assert closed(explained) == ["G1", "G2", "G6"]
    assert explained.runs == ()


def test_a_vm_that_nobody_knows_is_explained_as_such() -> None:
    explained = explain(standing(), "vm-9")
    assert explained.answer == "vm-9 would not fail over: it is not known, no inventory of it has come"
    assert {outlook.refusals[0].rule for outlook in explained.kinds} == {"F1"}
    assert explained.readiness is Readiness.UNKNOWN


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        (AutomaticMode.OBSERVE, "would fail over now, were its mode not OBSERVE (policy vm/vm-1"),
        (
            AutomaticMode.ADVISE,
            "would be proposed for failover now by itself, and wait for approval: evidence from 2 of 2 places",
        ),
    ],
)
def test_with_every_guard_open_the_mode_has_the_word(mode: AutomaticMode, answer: str) -> None:
    explained = explain(lost(mode=mode))
    assert answer in explained.answer
    assert closed(explained) == []


def test_a_mode_that_is_off_is_the_answer_whatever_the_guards_say() -> None:
    answer = explain(lost(mode=AutomaticMode.OFF)).answer
    assert answer == (
        "name of vm-1 would not fail over by itself: its mode is OFF (policy vm/vm-1, set by ann: tier 1)"
    )


def test_a_vm_in_mode_act_has_failed_over_by_then_so_its_own_run_is_what_holds_it_back() -> None:
    explained = explain(lost(mode=AutomaticMode.ACT))
    assert closed(explained) == ["G3", "G4"]
    (run,) = explained.runs
    assert (run.kind, run.state, run.step) == (FailoverKind.UNPLANNED, RunState.RUNNING, "U1")
    assert f"run {run.run_id} is in flight" in explained.answer


def test_a_vm_in_mode_act_about_to_act_would_fail_over() -> None:
    before = lost(mode=AutomaticMode.OBSERVE)
    state = {**before, "policy/vm/vm-1": policy(AutomaticMode.ACT)}
    assert explain(state).answer.startswith("name of vm-1 would fail over now by itself: evidence from 2 of 2 places (")


def test_a_vm_of_a_plan_that_acts_fails_over_with_the_whole_of_it() -> None:
    before = fold(lost(mode=AutomaticMode.OBSERVE), PlanMembership("vm-1", "erp", member=True, at_ms=NOW))
    state = {
        **before,
        "policy/vm/vm-1": policy(None),
        "policy/plan/erp": policy(AutomaticMode.ACT, PolicyScope.PLAN, "erp"),
    }
    explained = explain(state)
    assert "would fail over now with the whole of plan erp" in explained.answer
    assert explained.mode_from == "policy plan/erp, set by ann: tier 1"


def test_open_guards_do_not_help_a_vm_that_would_be_refused() -> None:
    state = {**lost(), "policy/vm/vm-1": replace(policy(AutomaticMode.ACT), max_data_loss_ms=60_000)}
    explained = explain(state)
    assert closed(explained) == []
    assert "every guard is open, but it would be refused (F12: 210 s would be lost" in explained.answer


def test_the_mode_comes_from_the_narrowest_policy_that_says_anything_of_it() -> None:
    state = fold(standing(), policy(AutomaticMode.ACT, PolicyScope.ALL, ""), policy(None))
    explained = explain(state)
    assert (explained.mode, explained.mode_from) == (AutomaticMode.ACT, "policy all, set by ann: tier 1")
    narrower = fold(state, policy(AutomaticMode.OFF, PolicyScope.SITE, "primary"))
    assert (explain(narrower).mode, explain(narrower).mode_from[:19]) == (AutomaticMode.OFF, "policy site/primary")
    assert explain(standing()).mode_from == "the default, no policy says otherwise"


def test_the_hold_down_is_counted_as_the_broker_would_count_it() -> None:
    state = lost()
    early = explain_vm(state, "vm-1", moment(SINCE + 20_000))
    assert early.answer.endswith(
        "G2 hold-down is closed, the evidence holds for 20 s; to open it: 40 s more of the same evidence"
    )
    assert early.notes[0].startswith("G2: ")
    # A worker that knows when it took over says so, and needs no such note.
    assert explain_vm(state, "vm-1", moment(NOW, opened_at_ms=NOW - 10_000)).notes == ()
    assert not explain_vm(state, "vm-1", moment(NOW, opened_at_ms=NOW - 10_000)).guards[1].open


def test_the_brake_and_what_releases_it() -> None:
    explained = explain(fold(lost(), Brake(engaged=True, actor="bob", reason="storage work", at_ms=NOW)))
    assert closed(explained) == ["G5"]
    assert "storage work" in explained.answer


def test_each_kind_with_every_refusal_and_what_it_would_lose() -> None:
    state = fold(standing(), replica_report(behind_s=45))
    outlooks = {outlook.kind: outlook for outlook in explain(state).kinds}
    assert outlooks[FailoverKind.PLANNED].starts
    assert outlooks[FailoverKind.PLANNED].loss_ms == 0
    assert (outlooks[FailoverKind.UNPLANNED].loss_ms, outlooks[FailoverKind.UNPLANNED].to_site) == (45_000, "dr")
    assert [refusal.rule for refusal in outlooks[FailoverKind.REPROTECT].refusals] == ["F11"]
    assert [refusal.rule for refusal in outlooks[FailoverKind.FAILBACK].refusals] == ["F10"]


def test_whose_approval_each_kind_would_need() -> None:
    rule = ApprovalRule(2, ("bob", "eve", "joe"), (FailoverKind.UNPLANNED,))
    state = fold(standing(), replace(policy(None), approvals=(rule,)))
    approvals = {outlook.kind: outlook.approval for outlook in explain(state).kinds}
    assert approvals[FailoverKind.UNPLANNED] == rule
    assert approvals[FailoverKind.PLANNED] is None


def test_a_run_that_waits_says_for_whom() -> None:
    rule = ApprovalRule(1, ("bob",))
    told = carry_out(fold(standing(), replace(policy(None), approvals=(rule,))), asked())
    (run,) = explain(told.state).runs
    assert (run.state, run.step, run.waits_for) == (RunState.AWAITING_APPROVAL, "", "approval by 1 of bob")
    assert run.choices == (RequestAction.APPROVE, RequestAction.REJECT, RequestAction.CANCEL)


def test_a_parked_run_says_at_which_step() -> None:
    def answers(command: object) -> StepOutcome:
        return StepOutcome.REFUSED if getattr(command, "step", "") == "P7" else StepOutcome.DONE

    told = carry_out(standing(), asked(), answers=answers)
    (run,) = explain(told.state).runs
    assert (run.state, run.step) == (RunState.PARKED, "P7")
    assert "ann has to say how it goes on after P7" in run.waits_for


def test_readiness_comes_with_its_defects() -> None:
    explained = explain(standing())
    assert explained.readiness is Readiness.AT_RISK
    assert [defect.partition(":")[0] for defect in explained.defects] == ["D6"]


def test_explaining_changes_nothing() -> None:
    state = lost()
    before = dict(state)
    explain(state)
    learned(state, replica_report(behind_s=240, at_ms=NOW + 1), moment(NOW + 1))
    assert state == before


def test_what_is_learned_is_knowledge_alone() -> None:
    """A report that would set a failover off brings the report in, and no run."""
    state = {**lost(), "policy/vm/vm-1": policy(AutomaticMode.ACT)}
    report = replica_report(behind_s=240, at_ms=NOW + 1)
    began = fold(state, report, at_ms=NOW + 1)
    assert any(isinstance(value, Run) for value in began.values()), "folded for good it would have begun a run"

    known = {**state, **learned(state, report, moment(NOW + 1))}
    vm, vm_before = known["vm/vm-1"], state["vm/vm-1"]
    assert isinstance(vm, VmState)
    assert isinstance(vm_before, VmState)
    assert not any(isinstance(value, Run) for value in known.values())
    assert (vm.run_id, vm.epoch, vm.cooldowns) == (vm_before.run_id, vm_before.epoch, vm_before.cooldowns)
    assert [end.silent_ms for end in vm.ends] == [240_000]
    assert "would fail over now by itself" in explain_vm(known, "vm-1", moment(NOW + 1)).answer


def test_evidence_that_is_learned_counts() -> None:
    state = fold(standing(), replica_report(behind_s=210))
    known = {**state, **learned(state, gone(), moment())}
    assert explain(known).guards[0].observed.startswith("evidence from 2 of 2 places (")


def test_a_request_of_a_person_is_judged_by_the_same_function() -> None:
    """What `explain` refuses is what the broker refuses, rule by rule."""
    state = standing()
    for outlook in explain(state).kinds:
        request = FailoverRequested(
            f"r-{outlook.kind}", RequestAction.REQUEST, outlook.kind, "ann", "drill", NOW, vm_id="vm-1"
        )
        told = carry_out(state, request)
        run = told.state[f"run/r-{outlook.kind}"]
        assert isinstance(run, Run)
        assert (run.state is RunState.REFUSED) == (not outlook.starts)
        assert run.errors == (() if outlook.starts else ("; ".join(map(str, outlook.refusals)),))
