"""The run of a list or plan: each rule by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulator import request

from failover_orch.domain.facts import FailoverKind, RequestAction, StepOutcome, StepResult
from failover_orch.domain.plan_runs import PlanAdvance, begin_plan, cancel_plan, failures, on_member_ended
from failover_orch.domain.records import RunState
from failover_orch.domain.settings import RecoveryGroup

PLANNED, UNPLANNED = FailoverKind
NOW = 50_000
PLAN = request(plan="erp")
CANCEL = replace(PLAN, action=RequestAction.CANCEL, actor="bob", reason="stop", ticket="INC-8")


def begin(*groups: tuple[str, ...], kind: FailoverKind = PLANNED) -> PlanAdvance:
    named = tuple(RecoveryGroup(f"g{number}", vm_ids) for number, vm_ids in enumerate(groups))
    return begin_plan(replace(PLAN, kind=kind), named, NOW, "trace")


def ended(advance: PlanAdvance, vm: str, state: RunState = RunState.SUCCEEDED, loss_ms: int = 0) -> PlanAdvance:
    """The plan's run once this VM's run has ended so."""
    outcome = StepOutcome.DONE if state is RunState.SUCCEEDED else StepOutcome.FAILED
    observed = {"state": state.value, "data_loss_ms": str(loss_ms)}
    return on_member_ended(
        advance.run, StepResult("r", vm, 1, vm, "", "", 0, outcome, "as told", NOW, observed, "erp"), NOW
    )


def rules(advance: PlanAdvance) -> list[str]:
    return [transition.rule for transition in advance.transitions]


def told(advance: PlanAdvance) -> list[str]:
    return [asked.vm_id for asked in advance.requests]


def test_l1_the_first_group_is_told_to_fail_over() -> None:
    advance = begin(("a", "b"), ("c",))
    assert rules(advance) == ["L1", "L1"]
    assert told(advance) == ["a", "b"]
    first = advance.requests[0]
    assert (first.run_id, first.parent_run_id, first.parent_key) == ("r/a", "r", "erp")
    assert (first.plan_id, first.vm_ids, first.action) == ("", (), RequestAction.REQUEST)
    assert (first.actor, first.reason, first.ticket) == (PLAN.actor, PLAN.reason, PLAN.ticket)


def test_l1_a_list_is_known_by_its_run() -> None:
    advance = begin_plan(request(vms=("a",)), (RecoveryGroup("all", ("a",)),), NOW, "")
    assert advance.requests[0].parent_key == "r"


def test_l1_a_vm_named_again_and_a_group_without_any_are_left_out() -> None:
    advance = begin(("a", "a", ""), (), ("a",), ("b", "a"))
    assert [group.vm_ids for group in advance.run.groups] == [("a",), ("b",)]
    following = ended(advance, "a")
    assert told(following) == ["b"]
    assert ended(following, "b").run.state is RunState.SUCCEEDED


def test_l1_l2_the_next_group_is_told_when_all_of_the_one_before_are_done() -> None:
    advance = ended(begin(("a", "b"), ("c",)), "b")
    assert (rules(advance), told(advance)) == (["L2"], [])
    advance = ended(advance, "a")
    assert (rules(advance), told(advance)) == (["L2", "L1"], ["c"])


@pytest.mark.parametrize("vm", ["b", "nobody"])
def test_l2_an_end_told_again_or_of_a_vm_that_is_not_meant_changes_nothing(vm: str) -> None:
    before = ended(begin(("a", "b"), ("c",)), "b")
    assert ended(before, vm, RunState.FAILED) == PlanAdvance(before.run)


def test_l2_the_loss_is_that_of_the_vm_that_lost_most() -> None:
    advance = begin(("a", "b", "c"), kind=UNPLANNED)
    for vm, loss_ms in (("a", 30_000), ("b", -1), ("c", 5_000)):
        advance = ended(advance, vm, loss_ms=loss_ms)
    assert advance.run.data_loss_ms == 30_000


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.COMPLETED_WITH_ERRORS, RunState.REFUSED])
def test_l3_a_planned_run_stops_behind_a_group_that_did_not_succeed(state: RunState) -> None:
    advance = ended(ended(begin(("a", "b"), ("c", "d")), "a", state), "b")
    assert rules(advance) == ["L2", "L3", "L6"]
    assert "the 2 VMs of the groups after it stay where they are" in advance.transitions[1].what
    assert (told(advance), advance.run.state) == ([], RunState.COMPLETED_WITH_ERRORS)


def test_l4_an_unplanned_run_goes_on_all_the_same() -> None:
    advance = ended(begin(("a",), ("b",), kind=UNPLANNED), "a", RunState.FAILED)
    assert (rules(advance), told(advance)) == (["L2", "L4"], ["b"])


def test_l5_a_cancel_tells_the_vms_under_way_and_starts_no_other_group() -> None:
    before = ended(begin(("a", "b"), ("c",)), "a")
    advance = cancel_plan(before.run, CANCEL, NOW)
    (cancel,) = advance.requests
    assert rules(advance) == ["L5"]
    assert (cancel.run_id, cancel.vm_id, cancel.action) == ("r/b", "b", RequestAction.CANCEL)
    assert (cancel.actor, cancel.reason, cancel.ticket) == ("bob", "stop", "INC-8")
    advance = ended(advance, "b", RunState.CANCELLED)
    assert (rules(advance), told(advance), advance.run.state) == (["L2", "L6"], [], RunState.CANCELLED)


def test_l5_a_second_cancel_or_one_after_the_end_is_refused() -> None:
    cancelled = cancel_plan(begin(("a",)).run, CANCEL, NOW)
    again = cancel_plan(cancelled.run, CANCEL, NOW)
    assert (again.refusal, again.run) == ("the run is being cancelled already, by bob", cancelled.run)
    late = cancel_plan(ended(begin(("a",)), "a").run, CANCEL, NOW)
    assert (late.refusal, late.requests) == ("the run has already ended: SUCCEEDED", ())


@pytest.mark.parametrize(
    ("states", "cancelled", "state"),
    [
        ([RunState.SUCCEEDED, RunState.SUCCEEDED], False, RunState.SUCCEEDED),
        ([RunState.SUCCEEDED, RunState.FAILED], False, RunState.COMPLETED_WITH_ERRORS),
        ([RunState.COMPLETED_WITH_ERRORS, RunState.REFUSED], False, RunState.FAILED),
        ([RunState.SUCCEEDED, RunState.CANCELLED], True, RunState.CANCELLED),
        ([RunState.SUCCEEDED, RunState.SUCCEEDED], True, RunState.SUCCEEDED),  # it came too late for all of them
    ],
)
def test_l6_the_run_ends_as_its_vms_did(states: list[RunState], cancelled: bool, state: RunState) -> None:
    advance = begin(("a", "b"))
    if cancelled:
        advance = cancel_plan(advance.run, CANCEL, NOW)
    for vm, member in zip("ab", states, strict=True):
        advance = ended(advance, vm, member)
    assert (rules(advance)[-1], advance.run.state, advance.run.finished_at_ms) == ("L6", state, NOW)


def test_a_run_says_which_vms_did_not_succeed_and_why() -> None:
    advance = begin(("a", "b"), kind=UNPLANNED)
    assert failures(advance.run) == ""
    advance = ended(ended(advance, "a"), "b", RunState.REFUSED)
    assert failures(advance.run) == "b REFUSED: as told"


def test_of_many_vms_that_did_not_succeed_the_first_are_named() -> None:
    names = tuple("abcdefgh")
    advance = begin(names, kind=UNPLANNED)
    for name in names:
        advance = ended(advance, name, RunState.FAILED)
    assert failures(advance.run).endswith("e FAILED: as told; and 3 more")
