"""What people say to runs: each rule by itself, and every word to a run in every state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rule_cases import (
    FAILBACK,
    FAILED,
    FOUND,
    LOST,
    NOW,
    PLANNED,
    REFUSED,
    REPROTECT,
    STEPS,
    TEST,
    UNCERTAIN,
    UNPLANNED,
    VM,
    answered,
    begun,
    held,
    progress_of,
    rules,
    to_the_end,
    tried_out,
    up_to,
    word,
)
from simulator import PRIMARY, REPLICA, request

from failover_orch.domain.facts import FailoverKind, RequestAction, StepOutcome
from failover_orch.domain.operators import LEGAL_IN, say
from failover_orch.domain.records import Action, RunState, StepState
from failover_orch.domain.runs import Advance, on_due, park_for_bug
from failover_orch.domain.terms import PointChoice, WantedPoint
from failover_orch.domain.workflows import WORKFLOWS, Effect, OnFailure, Step

CANCEL, COMMIT, ROLL_BACK = RequestAction.CANCEL, RequestAction.COMMIT, RequestAction.ROLL_BACK
TRY_ANOTHER, RESUME, CONFIRM = RequestAction.TRY_ANOTHER, RequestAction.RESUME, RequestAction.CONFIRM
SKIP, FORWARD, ABANDON = RequestAction.SKIP, RequestAction.FORWARD, RequestAction.ABANDON
OTHER_POINT = WantedPoint(PointChoice.NAMED, point_id="rp-2")
BEFORE_THE_LAST = [
    (kind, step)
    for kind, step in STEPS
    if WORKFLOWS[kind].index(step.number) < WORKFLOWS[kind].index(WORKFLOWS[kind].point_of_no_return)
]
FROM_THE_LAST = [each for each in STEPS if each not in BEFORE_THE_LAST]
ISSUED = [(kind, step) for kind, step in STEPS if step.action is not None]


def told(advance: Advance, action: RequestAction, **differs: object) -> Advance:
    return say(advance.run, advance.vm, word(action, advance.run.request, **differs), NOW)


def parked(step: str, kind: FailoverKind = PLANNED) -> Advance:
    return answered(up_to(step, kind), UNCERTAIN)


def parked_undoing(step: str = "P4", *, outcome: StepOutcome = REFUSED) -> Advance:
    return answered(told(up_to(step), CANCEL), outcome)


def another() -> Advance:
    """A run that tries another recovery point, and is undoing the first one."""
    return told(held(), TRY_ANOTHER, point=OTHER_POINT)


# R5, R6: CANCEL


@pytest.mark.parametrize(("kind", "step"), BEFORE_THE_LAST)
def test_r5_a_cancel_gives_up_the_step_in_hand_and_undoes_what_was_done(kind: FailoverKind, step: Step) -> None:
    before = held(kind) if step.action is None else up_to(step.number, kind)
    advance = told(before, CANCEL)
    assert (rules(advance)[0], advance.refusal) == ("R5", "")
    # Higher than the command on its way, which must not be carried out after its undo.
    assert advance.vm.epoch == before.vm.epoch + 1
    undone = []
    while not advance.run.state.ended:
        undone.append(advance.commands[-1].step)
        advance = answered(advance)
    until = WORKFLOWS[kind].index(step.number)
    # A look is only taken at the step that is given up: of those before it, it is known that they are over.
    to_undo = [
        each
        for each in reversed(WORKFLOWS[kind].steps[: until + 1])
        if each.undo and (each.undo is not Action.INSPECT or each is step)
    ]
    assert undone == [f"{each.number}-undo" for each in to_undo]
    assert advance.run.state is RunState.CANCELLED
    assert (advance.vm.active_site, advance.vm.replica_site) == (before.run.primary_site, FOUND[kind].replica_site)
    assert (advance.vm.run_id, advance.vm.test_run_id) == ("", "")


def test_r5_a_step_that_leaves_nothing_to_undo_is_marked_as_given_up() -> None:
    advance = told(up_to("P0"), CANCEL)
    assert (advance.run.state, advance.commands, advance.vm.run_id) == (RunState.CANCELLED, (), "")
    assert progress_of(advance.run, "P0").state is StepState.FAILED


def test_r5_a_step_that_is_given_up_is_over_before_the_run_ends() -> None:
    """A command on its way would still be carried out, for a run that nobody looks at any more."""
    advance = told(up_to("P1"), CANCEL)
    (command,) = advance.commands
    assert (command.step, command.action, command.epoch) == ("P1-undo", Action.INSPECT, advance.vm.epoch)
    assert answered(advance).run.state is RunState.CANCELLED


def test_r5_where_nobody_answers_a_step_given_up_is_over_by_its_deadline() -> None:
    advance = told(up_to("P1"), CANCEL)
    while not advance.run.state.ended:
        advance = on_due(advance.run, advance.vm, advance.run.due_ms)
    assert (advance.run.state, advance.run.errors) == (RunState.CANCELLED, ())


def test_r5_a_run_that_waits_for_approval_has_nothing_to_undo() -> None:
    waits = replace(begun(request()).run, state=RunState.AWAITING_APPROVAL, due_ms=NOW + 1, waits_for="bob")
    advance = say(waits, VM, word(CANCEL, waits.request), NOW)
    assert (rules(advance), advance.run.state, advance.commands) == (["R5"], RunState.CANCELLED, ())
    assert (advance.run.due_ms, advance.run.waits_for, advance.vm) == (0, "", VM)


@pytest.mark.parametrize("step", ["P2", "P3", "P4"])
def test_r5_a_parked_run_is_cancelled_too(step: str) -> None:
    advance = told(parked(step), CANCEL)
    assert (rules(advance)[0], advance.commands[-1].step) == ("R5", f"{step}-undo")
    assert to_the_end(advance).run.state is RunState.CANCELLED


def test_r5_a_cancel_while_another_point_is_tried_undoes_all_of_it() -> None:
    advance = told(another(), CANCEL)
    assert (rules(advance), advance.refusal) == (["R5"], "")
    ended = to_the_end(replace(advance, commands=another().commands))
    assert (ended.run.state, ended.vm.active_site) == (RunState.CANCELLED, PRIMARY)


@pytest.mark.parametrize(("kind", "step"), FROM_THE_LAST)
def test_r6_a_cancel_comes_too_late(kind: FailoverKind, step: Step) -> None:
    before = up_to(step.number, kind)
    advance = told(before, CANCEL)
    assert f"step {WORKFLOWS[kind].point_of_no_return} is under way or done, and cannot be undone" in advance.refusal
    assert advance.run is before.run


@pytest.mark.parametrize("step", ["P5", "P7", "P8"])
def test_r6_nor_is_a_run_cancelled_that_is_parked_there(step: str) -> None:
    before = parked(step)
    assert CANCEL not in before.run.choices
    assert told(before, CANCEL).refusal


def test_r6_a_run_that_ended_or_is_being_undone_is_not_cancelled() -> None:
    undoing = told(up_to("P3"), CANCEL)
    assert told(undoing, CANCEL).refusal == "the run is being undone already"
    ended = told(up_to("P0"), CANCEL)
    assert told(ended, CANCEL).refusal == "the run has already ended: CANCELLED"
    assert told(parked_undoing(), CANCEL).refusal == "the run is being undone already"


# R15, R16, R17: in the window


@pytest.mark.parametrize(("kind", "step"), [(UNPLANNED, "U8"), (TEST, "T5")])
def test_r15_a_commit_keeps_it(kind: FailoverKind, step: str) -> None:
    advance = told(held(kind), COMMIT)
    assert (rules(advance)[0], advance.commands[-1].step) == ("R15", step)
    assert (advance.run.committed_by, advance.run.waits_for, advance.run.choices) == ("bob", "", ())
    ended = to_the_end(advance)
    assert ended.run.state is RunState.SUCCEEDED
    assert ended.vm.active_site == (REPLICA if kind is UNPLANNED else PRIMARY)


@pytest.mark.parametrize(("kind", "step"), [(UNPLANNED, "U3-undo"), (TEST, "T1-undo")])
def test_r16_a_roll_back_undoes_all_of_it(kind: FailoverKind, step: str) -> None:
    advance = told(held(kind), ROLL_BACK)
    assert (rules(advance)[0], advance.commands[-1].step) == ("R16", step)
    ended = to_the_end(advance)
    assert (ended.run.state, ended.vm.active_site, ended.vm.replica_site) == (RunState.CANCELLED, PRIMARY, REPLICA)
    assert ended.vm.drilled_at_ms == 0


def test_r17_another_point_is_tried_from_the_failover_on() -> None:
    advance = another()
    assert (rules(advance)[0], advance.commands[-1].step) == ("R17", "U3-undo")
    assert "recovery point rp-2" in advance.transitions[0].what
    asked = []
    while not advance.run.waits_for:
        asked.append((advance.commands[-1].step, advance.commands[-1].point))
        advance = answered(advance)
    # Neither the fence nor the addresses are made again.
    assert asked == [(step, OTHER_POINT) for step in ("U3-undo", "U3", "U4", "U5", "U6")]
    assert (advance.run.state, advance.run.point) == (RunState.AWAITING_COMMIT, OTHER_POINT)
    assert to_the_end(told(advance, COMMIT)).run.state is RunState.SUCCEEDED


def test_r17_a_test_copy_is_made_again() -> None:
    advance = told(held(TEST), TRY_ANOTHER, point=OTHER_POINT)
    assert advance.commands[-1].action is Action.DELETE_TEST
    advance = answered(advance)
    assert (advance.commands[-1].action, advance.commands[-1].point) == (Action.CREATE_TEST, OTHER_POINT)


def test_r17_again_and_again() -> None:
    advance = held()
    for number in range(1, 5):
        point = WantedPoint(PointChoice.BEFORE, at_ms=number)
        advance = to_the_end(told(advance, TRY_ANOTHER, point=point))
        assert (advance.run.state, advance.run.point) == (RunState.AWAITING_COMMIT, point)
        assert advance.vm.active_site == REPLICA
    ended = to_the_end(told(advance, ROLL_BACK))
    assert (ended.run.state, ended.vm.active_site) == (RunState.CANCELLED, PRIMARY)


def test_r17_what_the_first_point_left_is_forgotten() -> None:
    advance = answered(up_to("U6", replace(request(UNPLANNED), commit=held().run.request.commit)), REFUSED)
    assert advance.run.errors
    advance = to_the_end(told(advance, TRY_ANOTHER, point=OTHER_POINT))
    assert advance.run.errors == ()
    assert to_the_end(told(advance, COMMIT)).run.state is RunState.SUCCEEDED


def test_r17_the_point_that_it_stands_at_is_no_other() -> None:
    advance = told(held(), TRY_ANOTHER)
    assert advance.refusal == "the run stands at the latest recovery point already: name another one"


# R18 to R22: what is parked


@pytest.mark.parametrize(("kind", "step"), ISSUED)
def test_r18_a_resume_tries_the_step_again_with_all_its_attempts(kind: FailoverKind, step: Step) -> None:
    before = parked(step.number, kind)
    advance = told(before, RESUME)
    assert rules(advance)[0] == "R18"
    assert (advance.commands[-1].step, advance.commands[-1].attempt) == (step.number, 2)
    assert (advance.run.state, advance.run.waits_for, advance.run.choices) == (RunState.RUNNING, "", ())
    assert to_the_end(advance).run.state is RunState.SUCCEEDED
    for _ in range(step.attempts - 1):
        advance = answered(advance, FAILED)
        assert rules(advance) == ["R3"]
        advance = on_due(advance.run, advance.vm, advance.run.due_ms)
    assert "R4" in rules(answered(advance, FAILED))


def test_r18_an_undo_is_resumed_as_an_undo() -> None:
    advance = told(parked_undoing(), RESUME)
    assert (advance.run.state, advance.commands[-1].step) == (RunState.UNDOING, "P4-undo")
    assert to_the_end(advance).run.state is RunState.CANCELLED


@pytest.mark.parametrize(("kind", "step"), ISSUED)
def test_r19_what_is_confirmed_counts_as_done(kind: FailoverKind, step: Step) -> None:
    before = parked(step.number, kind)
    advance = told(before, CONFIRM)
    assert rules(advance)[0] == "R19"
    assert progress_of(advance.run, step.number).state is StepState.DONE
    assert "bob" in progress_of(advance.run, step.number).detail
    # Also its effect on the VM is taken.
    assert bool(advance.routes) == (step.effect is not Effect.NONE)
    assert to_the_end(advance).run.state is RunState.SUCCEEDED


def test_r19_an_undo_that_is_confirmed_takes_its_effect_back() -> None:
    failed_over = answered(up_to("P4"))
    advance = answered(answered(failed_over, REFUSED), REFUSED)
    assert (advance.run.state, advance.vm.active_site) == (RunState.PARKED, REPLICA)
    advance = told(advance, CONFIRM)
    assert (advance.vm.active_site, advance.commands[-1].step) == (PRIMARY, "P3-undo")
    assert to_the_end(advance).run.state is RunState.FAILED


@pytest.mark.parametrize(("kind", "step"), ISSUED)
def test_r20_a_step_can_be_skipped_unless_the_rest_stands_on_it(kind: FailoverKind, step: Step) -> None:
    before = parked(step.number, kind)
    can = step.effect is Effect.NONE and step.on_failure in (OnFailure.CONTINUE, OnFailure.PARK)
    assert (SKIP in before.run.choices) == can
    advance = told(before, SKIP)
    assert bool(advance.refusal) is not can
    if can:
        assert rules(advance)[0] == "R20"
        assert progress_of(advance.run, step.number).state is StepState.SKIPPED
        # What may still be on its way must not be carried out behind the steps that follow.
        assert advance.vm.epoch == before.vm.epoch + 1
        ended = to_the_end(advance).run
        assert ended.state is RunState.COMPLETED_WITH_ERRORS
        assert any(error.startswith(f"{step.number}: skipped by bob") for error in ended.errors)


def test_r20_an_undo_that_is_skipped_is_no_clean_cancellation() -> None:
    advance = told(parked_undoing(), SKIP)
    assert (rules(advance), advance.commands[-1].step) == (["R20", "R7"], "P3-undo")
    ended = to_the_end(advance).run
    assert (ended.state, ended.errors) == (RunState.FAILED, ("P4-undo: skipped by bob (as told)",))


def test_r20_an_undo_that_is_skipped_while_another_point_is_tried_is_remembered() -> None:
    advance = told(answered(another(), REFUSED), SKIP)
    ended = to_the_end(told(to_the_end(advance), COMMIT)).run
    assert ended.state in (RunState.COMPLETED_WITH_ERRORS, RunState.FAILED)
    assert any("skipped by bob" in error for error in ended.errors)


@pytest.mark.parametrize(("undone", "forward"), [(0, "P5"), (1, "P3"), (2, "P2")])
def test_r21_a_run_that_is_sent_forward_begins_at_the_first_step_that_was_undone(undone: int, forward: str) -> None:
    """Where nothing was undone yet: at the step that had failed, for its answers alone may have been lost."""
    advance = answered(up_to("P5"), REFUSED)
    for _ in range(undone):
        advance = answered(advance)
    advance = answered(advance, REFUSED)
    assert advance.run.state is RunState.PARKED
    advance = told(advance, FORWARD)
    assert (rules(advance)[0], advance.commands[-1].step) == ("R21", forward)
    assert "-undo" not in advance.commands[-1].step
    assert (advance.run.state, advance.run.errors) == (RunState.RUNNING, ())
    ended = to_the_end(advance)
    assert (ended.run.state, ended.vm.active_site, ended.vm.replica_site) == (RunState.SUCCEEDED, REPLICA, PRIMARY)


def test_r21_a_run_that_goes_forward_is_not_sent_there() -> None:
    before = parked("P7")
    assert FORWARD not in before.run.choices
    assert told(before, FORWARD).refusal


def test_r21_it_may_turn_round_again() -> None:
    advance = told(parked_undoing(), FORWARD)
    ended = to_the_end(told(advance, CANCEL))
    assert (ended.run.state, ended.vm.active_site) == (RunState.CANCELLED, PRIMARY)


@pytest.mark.parametrize(("kind", "step"), ISSUED)
def test_r22_a_run_that_is_abandoned_ends_where_it_stands(kind: FailoverKind, step: Step) -> None:
    before = parked(step.number, kind)
    advance = told(before, ABANDON)
    assert (rules(advance), advance.commands) == (["R22", "R9"], ())
    assert (advance.run.state, advance.vm.run_id, advance.vm.test_run_id) == (RunState.FAILED, "", "")
    assert advance.vm.active_site == before.vm.active_site
    # Nothing of it may still be carried out once the VM is free for another run.
    assert advance.vm.epoch == before.vm.epoch + 1
    assert not [each for each in advance.run.steps if each.state in (StepState.ISSUED, StepState.WAITING)]


def test_r22_while_it_is_being_undone() -> None:
    advance = told(parked_undoing(), ABANDON)
    assert advance.run.state is RunState.FAILED
    assert "abandoned by bob" in advance.run.errors[-1]


# R23: every word to a run in every state


def in_state(state: RunState) -> Advance:
    """A run in this state."""
    match state:
        case RunState.AWAITING_APPROVAL:
            before = begun(request())
            return Advance(replace(before.run, state=state, due_ms=NOW + 1), VM)
        case RunState.RUNNING:
            return up_to("P2")
        case RunState.AWAITING_COMMIT:
            return held()
        case RunState.UNDOING:
            return told(up_to("P3"), CANCEL)
        case RunState.PARKED:
            return parked("P7")
        case _:
            return Advance(replace(to_the_end(begun(request())).run, state=state), VM)


WORDS = [action for action in RequestAction if action not in (RequestAction.REQUEST, RequestAction.ACKNOWLEDGE)]
APART = (RequestAction.APPROVE, RequestAction.REJECT)
"""Taken by `approvals`."""


@pytest.mark.parametrize("state", RunState)
@pytest.mark.parametrize("action", WORDS)
def test_r23_a_word_that_is_not_for_this_state_is_refused_with_what_is(action: RequestAction, state: RunState) -> None:
    before = in_state(state)
    advance = told(before, action, point=OTHER_POINT)
    offered = action in before.run.choices or state is not RunState.PARKED
    if action in APART or state not in LEGAL_IN[action] or not offered:
        assert advance.run is before.run
        assert advance.vm is before.vm
        assert (advance.commands, advance.transitions) == ((), ())
        assert advance.refusal
        if action is not CANCEL:  # R6 says why it comes too late
            assert state in advance.refusal
            assert state.ended or "can be told" in advance.refusal
    elif (action, state) != (CANCEL, RunState.UNDOING):
        assert advance.refusal == ""
        assert advance.run is not before.run


@pytest.mark.parametrize(
    "before",
    [
        *[in_state(state) for state in RunState if not state.ended],
        up_to("P6"),
        parked("P3"),
        parked("P4"),
        parked_undoing(),
        another(),
        parked("T5", TEST),
        parked("B6", REPROTECT),
        park_for_bug(up_to("P1").run, VM, "KeyError", NOW),
    ],
    ids=lambda advance: f"{advance.run.state}-{advance.run.position}",
)
def test_r23_what_a_refusal_offers_is_taken(before: Advance) -> None:
    refusals = [
        told(before, action).refusal for action in WORDS if action not in APART and not told(before, action).run.bug
    ]
    for refusal in refusals:
        if "can be told " not in refusal:
            continue
        offered = refusal.rpartition("can be told ")[2].split(", ")
        for name in offered:
            if name == "nothing" or RequestAction(name) in APART:
                continue
            assert told(before, RequestAction(name), point=OTHER_POINT).refusal == "", (refusal, name)


def test_every_word_has_its_states() -> None:
    assert set(LEGAL_IN) == set(WORDS)
    assert not any(state.ended for states in LEGAL_IN.values() for state in states)


@pytest.mark.parametrize("advance", [parked("P7"), parked("P3"), parked_undoing(), parked("T5", TEST), held()])
def test_what_a_run_offers_is_taken(advance: Advance) -> None:
    for action in advance.run.choices:
        assert told(advance, action, point=OTHER_POINT).refusal == "", action


@pytest.mark.parametrize("outcome", [FAILED, REFUSED])
def test_a_failback_is_undone_like_a_planned_failover(outcome: StepOutcome) -> None:
    ended = to_the_end(tried_out(up_to("P4", FAILBACK), outcome))
    assert (ended.run.state, ended.vm.active_site, ended.vm.replica_site) == (RunState.FAILED, REPLICA, PRIMARY)


def test_a_reprotection_that_is_cancelled_leaves_the_old_copy_retired() -> None:
    ended = answered(told(up_to("B4", REPROTECT), CANCEL))
    assert (ended.run.state, ended.vm.active_site, ended.vm.replica_site) == (RunState.CANCELLED, REPLICA, "")
    assert ended.vm.locations == LOST.locations
