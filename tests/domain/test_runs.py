"""The run of one VM's failover: each rule by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from rule_cases import (
    AWAY,
    BEGUN,
    DONE,
    FAILBACK,
    FAILED,
    LOST,
    NOW,
    PLANNED,
    REFUSED,
    REPROTECT,
    STALE,
    STEPS,
    TEST,
    UNCERTAIN,
    UNPLANNED,
    VM,
    answered,
    begun,
    held,
    progress_of,
    result,
    rules,
    to_the_end,
    tried_out,
    up_to,
    word,
)
from simulator import PRIMARY, REPLICA, TARGET, request

from failover_orch.domain.facts import FailoverKind, RequestAction, StepOutcome, StepResult
from failover_orch.domain.operators import say
from failover_orch.domain.records import Action, RunState, StepState
from failover_orch.domain.runs import Advance, on_due, on_result, park_for_bug, step_in_hand
from failover_orch.domain.settings import VmReplicationSettings
from failover_orch.domain.terms import CommitPolicy, PointChoice, StepPolicy, WantedPoint
from failover_orch.domain.workflows import WORKFLOWS, OnFailure, Side, Step

CANCEL = RequestAction.CANCEL
KINDS = list(FailoverKind)
ISSUED = [(kind, step) for kind, step in STEPS if step.action is not None]
"""Every step that is carried out by somebody."""


def cancelled(advance: Advance) -> Advance:
    return say(advance.run, advance.vm, word(CANCEL, advance.run.request), NOW)


def undone_steps(advance: Advance) -> list[str]:
    """The steps that are undone from here on, if every undo succeeds."""
    steps = []
    while not advance.run.state.ended:
        steps.append(advance.commands[-1].step)
        advance = answered(advance)
    return steps


# R1, R2: forwards


@pytest.mark.parametrize(
    ("kind", "step", "action", "site", "peer"),
    [
        (PLANNED, "P0", Action.INSPECT, PRIMARY, REPLICA),
        (UNPLANNED, "U1", Action.CHECK_PRIMARY, REPLICA, PRIMARY),
        (TEST, "T1", Action.CREATE_TEST, REPLICA, PRIMARY),
        (REPROTECT, "B1", Action.INSPECT, PRIMARY, REPLICA),
        (FAILBACK, "P0", Action.INSPECT, REPLICA, PRIMARY),
    ],
)
def test_r1_a_run_takes_the_next_epoch_and_issues_its_first_step(
    kind: FailoverKind, step: str, action: Action, site: str, peer: str
) -> None:
    advance = begun(request(kind))
    (command,) = advance.commands
    assert rules(advance) == ["R1", "R2"]
    assert (advance.vm.epoch, advance.run.epoch, command.epoch) == (8, 8, 8)
    assert (command.step, command.attempt, command.action) == (step, 1, action)
    assert (command.site, command.peer_site) == (site, peer)
    assert (command.node, command.peer_node) == (("p1", "d1") if site == PRIMARY else ("d1", "p1"))
    assert advance.run.due_ms == command.deadline_ms == NOW + WORKFLOWS[kind].steps[0].timeout_ms


@pytest.mark.parametrize("kind", KINDS)
def test_r1_only_a_test_runs_beside_another_run(kind: FailoverKind) -> None:
    vm = begun(request(kind)).vm
    assert (vm.test_run_id, vm.run_id) == (("r", "") if kind is TEST else ("", "r"))


@pytest.mark.parametrize("kind", KINDS)
def test_r2_every_step_that_is_done_is_followed_by_the_next(kind: FailoverKind) -> None:
    steps = [step for step in WORKFLOWS[kind].steps if step.action is not None]
    for step, following in pairwise(steps):
        advance = answered(up_to(step.number, kind))
        assert rules(advance) == ["R2", "R2"]
        assert progress_of(advance.run, step.number).state is StepState.DONE
        assert (advance.commands[-1].step, advance.commands[-1].action) == (following.number, following.action)


@pytest.mark.parametrize(("kind", "step"), ISSUED)
def test_r2_a_step_is_issued_to_its_side(kind: FailoverKind, step: Step) -> None:
    advance = up_to(step.number, kind)
    command = advance.commands[-1]
    side = advance.run.primary_site if step.side is Side.PRIMARY else advance.run.replica_site
    assert (command.site, command.deadline_ms) == (side, NOW + step.timeout_ms)
    told = command.action in (
        Action.STAGE_ADDRESSES,
        Action.VERIFY_ADDRESSES,
        Action.CREATE_TEST,
        Action.VERIFY_TEST,
    )
    assert command.addresses == ((TARGET,) if told else ())


def test_r2_the_command_goes_to_where_the_vm_is_by_then() -> None:
    before = up_to("P3")
    moved = tuple(replace(each, node="d2") if each.site == REPLICA else each for each in before.vm.locations)
    advance = on_result(before.run, replace(before.vm, locations=moved), result(before), NOW)
    assert advance.commands[-1].node == "d2"


def test_r2_addresses_set_while_a_run_is_under_way_are_for_the_next_one() -> None:
    before = up_to("P7")
    other = VmReplicationSettings("vm-1", (replace(TARGET, ipv4=None),))
    advance = on_result(before.run, replace(before.vm, settings=other), result(before), NOW)
    assert (advance.commands[-1].action, advance.commands[-1].addresses) == (Action.VERIFY_ADDRESSES, (TARGET,))


@pytest.mark.parametrize("kind", [UNPLANNED, TEST])
def test_r2_the_recovery_point_asked_for_goes_with_the_command(kind: FailoverKind) -> None:
    point = WantedPoint(PointChoice.BEFORE, at_ms=77)
    step = WORKFLOWS[kind].steps[WORKFLOWS[kind].takes_point].number
    assert up_to(step, replace(request(kind), point=point)).commands[-1].point == point


@pytest.mark.parametrize("attested", [True, False])
def test_r2_an_unplanned_failover_carries_its_attestation(attested: bool) -> None:
    asked = replace(request(UNPLANNED), primary_is_down=attested)
    assert begun(asked).commands[0].attested is attested


def test_r2_a_plans_limits_go_with_its_commands() -> None:
    asked = replace(request(), per_node=2, per_site=5, parent_run_id="plan-run")
    command = begun(asked).commands[0]
    assert (command.per_node, command.per_site, command.plan_run_id) == (2, 5, "plan-run")


# R3, R4: what fails


@pytest.mark.parametrize("outcome", [FAILED, STALE, None])
def test_r3_an_attempt_that_did_not_work_is_made_again_later(outcome: StepOutcome | None) -> None:
    advance = up_to("P2")
    for attempt in (1, 2):
        assert advance.commands[-1].attempt == attempt
        now = advance.run.due_ms if outcome is None else NOW
        advance = on_due(advance.run, advance.vm, now) if outcome is None else answered(advance, outcome)
        assert rules(advance) == ["R3"]
        assert progress_of(advance.run, "P2").state is StepState.WAITING
        assert advance.run.due_ms > now
        advance = on_due(advance.run, advance.vm, advance.run.due_ms)
        assert rules(advance) == ["R3"]
    last = on_due(advance.run, advance.vm, advance.run.due_ms) if outcome is None else answered(advance, outcome)
    assert rules(last)[0] == "R4"


def test_r3_the_wait_doubles_up_to_thirty_seconds_and_is_spread() -> None:
    asked = replace(request(), step_policies=(StepPolicy("P7", attempts=9, backoff_ms=2_000),))
    advance, waits = up_to("P7", asked), []
    while advance.run.state is RunState.RUNNING:
        advance = answered(advance, FAILED)
        waits.append(advance.run.due_ms - NOW)
        advance = on_due(advance.run, advance.vm, advance.run.due_ms)
    for wait, middle in zip(waits[:-1], [2_000, 4_000, 8_000, 16_000, *[30_000] * 4], strict=True):
        assert 0.75 * middle <= wait <= 1.25 * middle


def test_r3_the_spread_is_the_runs_own_and_the_same_for_whoever_takes_it_over() -> None:
    waits = {
        run: [answered(up_to("P2", request(run_id=run)), FAILED).run.due_ms for _ in range(2)]
        for run in map(str, range(20))
    }
    assert all(first == again for first, again in waits.values())
    assert len({first for first, _ in waits.values()}) > 10


def test_r3_before_its_time_nothing_is_done() -> None:
    advance = up_to("P2")
    assert on_due(advance.run, advance.vm, advance.run.due_ms - 1) == Advance(advance.run, advance.vm)


@pytest.mark.parametrize(("kind", "step"), ISSUED)
def test_r3_a_step_has_the_attempts_of_its_table(kind: FailoverKind, step: Step) -> None:
    advance, tries = up_to(step.number, kind), 1
    while "R4" not in rules(advance := answered(advance, FAILED)):
        advance = on_due(advance.run, advance.vm, advance.run.due_ms)
        tries += 1
        assert advance.commands[-1].attempt == tries
    assert tries == step.attempts


def test_r3_a_policy_of_the_request_goes_before_the_table() -> None:
    policy = StepPolicy("P2", timeout_ms=7_000, attempts=1, backoff_ms=0)
    advance = up_to("P2", replace(request(), step_policies=(StepPolicy("P3", attempts=9), policy)))
    assert advance.commands[-1].deadline_ms == NOW + 7_000
    assert rules(answered(advance, FAILED))[0] == "R4"


def test_r3_an_answer_that_says_only_that_it_has_begun_is_waited_for() -> None:
    before = up_to("P2")
    assert answered(before, BEGUN) == Advance(before.run, before.vm)


@pytest.mark.parametrize("outcome", [REFUSED, FAILED])
@pytest.mark.parametrize(("kind", "step"), ISSUED)
def test_r4_a_step_that_fails_for_good_does_as_the_workflow_says(
    kind: FailoverKind, step: Step, outcome: StepOutcome
) -> None:
    advance = tried_out(up_to(step.number, kind), outcome)
    assert "R4" in rules(advance)
    run = advance.run
    match step.on_failure:
        case OnFailure.HALT:
            assert (run.state, advance.commands) == (RunState.FAILED, ())
        case OnFailure.PARK:
            assert (run.state, run.errors, run.due_ms) == (RunState.PARKED, (), 0)
            assert run.waits_for.startswith(f"{run.request.actor} has to say how it goes on after {step.number}")
        case OnFailure.UNDO:
            assert (run.state, run.ends_as) in (
                (RunState.UNDOING, RunState.FAILED),
                (RunState.FAILED, RunState.FAILED),
            )
        case OnFailure.CONTINUE:
            ended = to_the_end(advance).run
            assert ended.state is RunState.COMPLETED_WITH_ERRORS
            assert ended.errors == (f"{step.number}: as told",)


@pytest.mark.parametrize(
    ("kind", "step", "undone"),
    [
        (PLANNED, "P2", ["P2"]),
        (PLANNED, "P3", ["P3", "P2"]),
        (PLANNED, "P4", ["P4", "P3", "P2"]),
        (PLANNED, "P5", ["P4", "P3", "P2"]),
        (UNPLANNED, "U3", ["U3"]),
        (TEST, "T1", ["T1"]),
        (TEST, "T2", ["T1"]),
        (FAILBACK, "P5", ["P4", "P3", "P2"]),
    ],
)
def test_r4_what_may_have_been_done_is_undone_last_first(kind: FailoverKind, step: str, undone: list[str]) -> None:
    assert undone_steps(answered(up_to(step, kind), REFUSED)) == [f"{each}-undo" for each in undone]


def test_r24_a_failover_with_errors_is_not_completed() -> None:
    ended = answered(up_to("U6", UNPLANNED), REFUSED)
    assert rules(ended) == ["R4", "R24", "R9"]
    assert ended.run.state is RunState.COMPLETED_WITH_ERRORS
    assert progress_of(ended.run, "U8").state is StepState.SKIPPED
    assert "U8" not in [command.step for command in ended.commands]


def test_r24_a_person_who_commits_it_completes_a_failover_with_errors() -> None:
    asked = replace(request(UNPLANNED), commit=CommitPolicy.HOLD)
    advance = answered(up_to("U6", asked), REFUSED)
    advance = say(advance.run, advance.vm, word(RequestAction.COMMIT, asked), NOW)
    assert advance.commands[-1].step == "U8"
    assert answered(advance).run.state is RunState.COMPLETED_WITH_ERRORS


# R7, R8: backwards


def test_r7_the_steps_are_undone_last_first_and_the_route_goes_back() -> None:
    before = up_to("P5")
    advance = answered(before, REFUSED)
    # Higher than the command on its way, which must not be carried out after its undo.
    assert advance.commands[-1].epoch == before.commands[-1].epoch + 1
    undone = []
    while not advance.run.state.ended:
        undone.append(advance.commands[-1].action)
        advance = answered(advance)
        assert rules(advance)[0] == "R7"
        if undone == [Action.CANCEL_FAILOVER]:
            (back,) = advance.routes
            assert (back.changed.site, back.epoch) == (PRIMARY, before.vm.epoch + 2)
    assert undone == [Action.CANCEL_FAILOVER, Action.CANCEL_PREPARE, Action.START]
    assert (advance.vm.active_site, advance.vm.replica_site, advance.vm.run_id) == (PRIMARY, REPLICA, "")
    assert [progress_of(advance.run, step).state for step in ("P2", "P3", "P4")] == [StepState.UNDONE] * 3


def test_r7_an_undos_first_attempt_is_counted_on_from_the_steps_own() -> None:
    advance = up_to("P3")
    advance = answered(advance, FAILED)
    advance = on_due(advance.run, advance.vm, advance.run.due_ms)
    advance = cancelled(advance)
    assert (advance.commands[-1].step, advance.commands[-1].attempt) == ("P3-undo", 3)
    assert rules(advance) == ["R5", "R7"]
    advance = tried_out(advance)
    assert progress_of(advance.run, "P3").attempt == 2 + 3


@pytest.mark.parametrize("outcome", [REFUSED, FAILED])
def test_r8_an_undo_that_fails_for_good_parks_the_run(outcome: StepOutcome) -> None:
    advance = tried_out(cancelled(up_to("P4")), outcome)
    assert rules(advance)[-1] == "R8"
    assert (advance.run.state, advance.run.parked_in) == (RunState.PARKED, RunState.UNDOING)
    assert advance.run.waits_for == "ann has to say how it goes on after P4-undo: as told"
    assert set(advance.run.choices) == {
        RequestAction.RESUME,
        RequestAction.CONFIRM,
        RequestAction.SKIP,
        RequestAction.FORWARD,
        RequestAction.ABANDON,
    }


@pytest.mark.parametrize("late", [False, True])
def test_r8_an_answer_that_comes_late_takes_a_parked_run_up_again(late: bool) -> None:
    """Also one of an earlier attempt: a step that has been done is done."""
    first = cancelled(up_to("P4"))
    parked = tried_out(first, FAILED if late else REFUSED)
    assert parked.run.state is RunState.PARKED
    advance = on_result(parked.run, parked.vm, result(first), NOW)
    assert (advance.run.state, advance.commands[-1].step) == (RunState.UNDOING, "P3-undo")
    assert (advance.run.choices, advance.run.waits_for) == ((), "")
    assert to_the_end(advance).run.state is RunState.CANCELLED


@pytest.mark.parametrize(("kind", "step"), [(kind, step) for kind, step in ISSUED if step.on_failure is OnFailure.PARK])
def test_r4_a_late_answer_takes_a_parked_run_up_again(kind: FailoverKind, step: Step) -> None:
    first = up_to(step.number, kind)
    parked = tried_out(first)
    advance = on_result(parked.run, parked.vm, result(first), NOW)
    assert to_the_end(advance).run.state is RunState.SUCCEEDED


def test_a_parked_run_passes_over_another_failure() -> None:
    parked = tried_out(up_to("P7"))
    for outcome in (FAILED, REFUSED, STALE, UNCERTAIN, BEGUN):
        again = on_result(parked.run, parked.vm, result(up_to("P7"), outcome), NOW)
        assert again == Advance(parked.run, parked.vm)
    assert on_due(parked.run, parked.vm, NOW * 9) == Advance(parked.run, parked.vm)


# R9, R10


@pytest.mark.parametrize("kind", KINDS)
def test_r9_the_run_ends_where_no_step_is_left(kind: FailoverKind) -> None:
    advance = answered(up_to(WORKFLOWS[kind].steps[-1].number, kind))
    assert rules(advance) == ["R2", "R9"]
    assert (advance.run.state, advance.run.due_ms, advance.run.finished_at_ms) == (RunState.SUCCEEDED, 0, NOW)
    assert (advance.vm.run_id, advance.vm.test_run_id) == ("", "")
    assert advance.vm.drilled_at_ms == (NOW if kind is TEST else 0)


def test_r9_a_test_that_did_not_succeed_is_no_drill() -> None:
    advance = to_the_end(answered(up_to("T3", TEST), REFUSED))
    assert (advance.run.state, advance.vm.drilled_at_ms) == (RunState.COMPLETED_WITH_ERRORS, 0)


def test_r9_the_end_of_a_test_leaves_the_vms_other_run_alone() -> None:
    advance = up_to("T5", TEST)
    ended = on_result(advance.run, replace(advance.vm, run_id="other"), result(advance), NOW)
    assert (ended.vm.run_id, ended.vm.test_run_id) == ("other", "")


@pytest.mark.parametrize(
    "differs",
    [
        {"step": "P1"},
        {"step": "P3"},
        {"step": "P2-undo"},
        {"attempt": 2, "outcome": FAILED},
        {"attempt": 0, "outcome": REFUSED},
        {"attempt": 2, "outcome": UNCERTAIN},
    ],
)
def test_r10_an_answer_that_nobody_waits_for_changes_nothing(differs: dict[str, object]) -> None:
    before = up_to("P2")
    answer = replace(result(before), **differs)  # type: ignore[arg-type]  # any field
    assert on_result(before.run, before.vm, answer, NOW) == Advance(before.run, before.vm)


def test_r10_nor_does_any_answer_after_the_end() -> None:
    ended = answered(up_to("P8"))
    late = result(up_to("P8"))
    assert on_result(ended.run, ended.vm, late, NOW) == Advance(ended.run, ended.vm)
    assert on_due(ended.run, ended.vm, NOW * 1_000) == Advance(ended.run, ended.vm)


def test_r10_nor_an_answer_to_a_run_that_awaits_commitment() -> None:
    window = held()
    for step in ("U6", "U7", "U8"):
        answer = replace(result(up_to("U6", UNPLANNED)), step=step)
        assert on_result(window.run, window.vm, answer, NOW) == Advance(window.run, window.vm)


def test_r10_a_failure_heard_while_the_step_waits_is_not_counted_twice() -> None:
    first = up_to("P2")
    waiting = answered(first, FAILED)
    assert on_result(waiting.run, waiting.vm, result(first, FAILED), NOW) == Advance(waiting.run, waiting.vm)


def test_what_is_done_is_done_whichever_attempt_says_so() -> None:
    first = up_to("P2")
    waiting = on_due(first.run, first.vm, first.run.due_ms)
    assert on_result(waiting.run, waiting.vm, result(first), NOW).commands[-1].step == "P3"
    again = on_due(waiting.run, waiting.vm, waiting.run.due_ms)
    assert on_result(again.run, again.vm, result(first), NOW).commands[-1].step == "P3"


def test_r10_what_was_done_before_the_run_turned_round_counts_no_more() -> None:
    """The answer comes twice, and for the second time after the step has been undone and issued again."""
    asked = replace(request(UNPLANNED), commit=CommitPolicy.HOLD)
    repeated = result(up_to("U3", asked))
    advance = up_to("U7", asked)
    another = word(RequestAction.TRY_ANOTHER, asked, point=WantedPoint(PointChoice.NAMED, point_id="rp-2"))
    advance = answered(say(advance.run, advance.vm, another, NOW))
    assert (advance.commands[-1].step, advance.commands[-1].attempt) == ("U3", 3)
    assert on_result(advance.run, advance.vm, repeated, NOW) == Advance(advance.run, advance.vm)


# R11, R12: the window


@pytest.mark.parametrize(("kind", "window"), [(UNPLANNED, "U7"), (TEST, "T4")])
@pytest.mark.parametrize("commit", CommitPolicy)
def test_r11_a_window_opens_as_the_commit_policy_says(kind: FailoverKind, window: str, commit: CommitPolicy) -> None:
    before = {"U7": "U6", "T4": "T3"}[window]
    asked = replace(request(kind), commit=commit, window_ms=90_000)
    if commit is CommitPolicy.AT_ONCE:
        asked = replace(asked, window_ms=0)
    advance = answered(up_to(before, asked))
    if commit is CommitPolicy.AT_ONCE:
        assert advance.run.state is RunState.RUNNING
        assert advance.commands[-1].step == WORKFLOWS[kind].point_of_no_return
        return
    assert (rules(advance), advance.commands) == (["R2", "R11"], ())
    assert advance.run.state is RunState.AWAITING_COMMIT
    assert advance.run.choices == (RequestAction.COMMIT, RequestAction.ROLL_BACK, RequestAction.TRY_ANOTHER)
    assert advance.run.waits_for.startswith("ann has to ")
    assert "or try another recovery point" in advance.run.waits_for
    assert advance.run.due_ms == (0 if commit is CommitPolicy.HOLD else NOW + 90_000)
    assert advance.vm.run_id + advance.vm.test_run_id == "r"


@pytest.mark.parametrize("kind", [PLANNED, FAILBACK, REPROTECT])
def test_r11_a_failover_without_loss_has_no_window(kind: FailoverKind) -> None:
    asked = replace(request(kind), commit=CommitPolicy.HOLD)
    assert to_the_end(begun(asked)).run.state is RunState.SUCCEEDED


@pytest.mark.parametrize("kind", [UNPLANNED, TEST])
@pytest.mark.parametrize(
    ("commit", "state"),
    [(CommitPolicy.AUTO_COMMIT, RunState.SUCCEEDED), (CommitPolicy.AUTO_ROLL_BACK, RunState.CANCELLED)],
)
def test_r12_when_the_window_is_over_the_commit_policy_decides(
    kind: FailoverKind, commit: CommitPolicy, state: RunState
) -> None:
    window = held(kind, commit, 90_000)
    assert on_due(window.run, window.vm, window.run.due_ms - 1) == Advance(window.run, window.vm)
    advance = on_due(window.run, window.vm, window.run.due_ms)
    assert rules(advance)[0] == "R12"
    ended = to_the_end(advance).run
    assert ended.state is state
    assert not [step for step in ended.steps if step.state in (StepState.ISSUED, StepState.WAITING)]
    assert ended.committed_by == ""


def test_r12_where_nobody_decides_a_failover_with_errors_is_not_completed() -> None:
    asked = replace(request(UNPLANNED), commit=CommitPolicy.AUTO_COMMIT, window_ms=90_000)
    window = answered(up_to("U6", asked), REFUSED)
    ended = on_due(window.run, window.vm, window.run.due_ms)
    assert (ended.run.state, ended.commands) == (RunState.COMPLETED_WITH_ERRORS, ())


def test_r12_a_window_without_an_end_stays_open() -> None:
    window = held()
    assert on_due(window.run, window.vm, NOW * 1_000) == Advance(window.run, window.vm)


# R13, R14


@pytest.mark.parametrize(("kind", "step"), ISSUED)
def test_r13_a_step_of_which_nobody_knows_how_it_ended_parks_the_run(kind: FailoverKind, step: Step) -> None:
    advance = answered(up_to(step.number, kind), UNCERTAIN)
    assert rules(advance) == ["R13"]
    assert (advance.run.state, advance.commands, advance.run.due_ms) == (RunState.PARKED, (), 0)
    assert {RequestAction.RESUME, RequestAction.CONFIRM, RequestAction.ABANDON} <= set(advance.run.choices)


def test_r13_an_undo_too() -> None:
    advance = answered(cancelled(up_to("P4")), UNCERTAIN)
    assert (rules(advance), advance.run.parked_in) == (["R13"], RunState.UNDOING)


@pytest.mark.parametrize(("kind", "step"), ISSUED)
def test_r14_an_unexpected_error_parks_the_run_and_it_is_tried_again_every_minute(
    kind: FailoverKind, step: Step
) -> None:
    before = up_to(step.number, kind)
    advance = park_for_bug(before.run, before.vm, "KeyError: 'x'", NOW)
    for number in range(1, 4):
        assert rules(advance) == ["R14"]
        assert (advance.run.state, advance.run.bug) == (RunState.PARKED, "KeyError: 'x'")
        due = advance.run.due_ms
        assert due == NOW + number * 60_000
        again = on_due(advance.run, advance.vm, due)
        assert (again.run.state, again.run.bug, again.run.waits_for) == (RunState.RUNNING, "", "")
        assert again.commands[-1].step == step.number
        advance = park_for_bug(again.run, again.vm, "KeyError: 'x'", due)
    assert to_the_end(on_due(advance.run, advance.vm, advance.run.due_ms)).run.state is RunState.SUCCEEDED


def test_r14_does_not_wake_what_waits_for_a_person() -> None:
    parked = tried_out(up_to("P7"))
    advance = park_for_bug(parked.run, parked.vm, "KeyError: 'x'", NOW)
    assert on_due(advance.run, advance.vm, NOW * 9).commands == ()


@pytest.mark.parametrize("kind", [UNPLANNED, TEST])
def test_r14_in_a_window_leaves_the_window(kind: FailoverKind) -> None:
    window = held(kind)
    parked = park_for_bug(window.run, window.vm, "KeyError: 'x'", NOW)
    again = on_due(parked.run, parked.vm, parked.run.due_ms)
    assert (again.run.state, again.run.choices) == (RunState.AWAITING_COMMIT, window.run.choices)


@pytest.mark.parametrize("action", [RequestAction.CONFIRM, RequestAction.SKIP])
def test_r14_whatever_is_said_to_a_window_that_a_bug_parked_the_run_goes_on(action: RequestAction) -> None:
    window = held()
    parked = park_for_bug(window.run, window.vm, "KeyError: 'x'", NOW)
    advance = say(parked.run, parked.vm, word(action, parked.run.request), NOW)
    assert advance.refusal or to_the_end(advance).run.state.ended


def test_r14_a_run_that_has_not_begun_or_has_ended_is_left_alone() -> None:
    ended = answered(up_to("P8"))
    waits = replace(begun(request()).run, state=RunState.AWAITING_APPROVAL)
    for run in (ended.run, waits):
        assert park_for_bug(run, VM, "KeyError: 'x'", NOW) == Advance(run, VM)


# All of it


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_asks_for_each_step_once_and_in_order(kind: FailoverKind) -> None:
    advance, asked = begun(request(kind)), []
    while not advance.run.state.ended:
        asked.append(advance.commands[-1].step)
        advance = answered(advance)
    assert asked == [step.number for step in WORKFLOWS[kind].steps if step.action is not None]
    assert advance.run.state is RunState.SUCCEEDED


@pytest.mark.parametrize(("kind", "vm"), [(PLANNED, VM), (FAILBACK, AWAY), (REPROTECT, LOST)])
def test_a_run_without_loss_leaves_the_vm_with_a_replica_at_the_other_end(kind: FailoverKind, vm: object) -> None:
    ended = to_the_end(begun(request(kind)))
    assert {ended.vm.active_site, ended.vm.replica_site} == {PRIMARY, REPLICA}
    assert ended.vm.active_site == {PLANNED: REPLICA, FAILBACK: PRIMARY, REPROTECT: REPLICA}[kind]


def test_the_step_in_hand_of_a_run_beyond_its_end_is_its_last() -> None:
    run = up_to("P8").run
    assert step_in_hand(replace(run, position=99))[0].number == "P8"
    assert step_in_hand(replace(run, position=-1))[0].number == "P0"


@pytest.mark.parametrize("text", ["", "-1", "1.5", "²", "٣", "9" * 5000])
def test_what_is_observed_is_a_number_only_where_it_is_a_sane_one(text: str) -> None:
    """Anybody may write step results: one that cannot be read as a number must not stop a partition for good."""
    said = StepResult("r", "U3", 1, "v", "dr", "d1", 1, DONE, "", 0, {"recovery_point_at_ms": text})
    assert said.number("recovery_point_at_ms") is None
    assert replace(said, observed={"recovery_point_at_ms": "17"}).number("recovery_point_at_ms") == 17
