"""The run of a list or plan: each rule by itself, and whatever its tasks come to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_cases import (
    BEGUN,
    DONE,
    FAILBACK,
    FAILED,
    NOW,
    PLANNED,
    REFUSED,
    REPROTECT,
    STALE,
    TEST,
    UNCERTAIN,
    UNPLANNED,
    progress_of,
    word,
)
from simulator import request

from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction, StepOutcome, StepResult
from failover_orch.domain.plan_graph import dependencies
from failover_orch.domain.plan_runs import (
    PlanAdvance,
    begin_plan,
    failures,
    new_plan_run,
    on_plan_due,
    on_plan_result,
    park_plan_for_bug,
    plan_key,
    say_to_plan,
)
from failover_orch.domain.records import Action, RunState, StepCommand, StepState
from failover_orch.domain.settings import Gate, GateKind, PlanAction, PlanActionKind, RecoveryGroup
from failover_orch.domain.state import PlanRun, TaskKind
from failover_orch.domain.terms import CommitPolicy, OnTaskFailure

PLAN = request(plan="erp")
CANCEL, RESUME, CONFIRM = RequestAction.CANCEL, RequestAction.RESUME, RequestAction.CONFIRM
SKIP, ABANDON = RequestAction.SKIP, RequestAction.ABANDON
COMMIT, ROLL_BACK = RequestAction.COMMIT, RequestAction.ROLL_BACK
SUCCEEDED, WITH_ERRORS = RunState.SUCCEEDED, RunState.COMPLETED_WITH_ERRORS
POWER = Gate(GateKind.POWER, timeout_ms=60_000)


def script(name: str = "x", on_failure: OnTaskFailure = OnTaskFailure.HALT, **differs: object) -> PlanAction:
    action = PlanAction(name, PlanActionKind.SCRIPT, "dr", ("run", name), on_failure=on_failure)
    return replace(action, **differs)  # type: ignore[arg-type]  # any field may be named


MANUAL = PlanAction("look", PlanActionKind.MANUAL, instruction="look at the rack")


def begin(*groups: RecoveryGroup | tuple[str, ...], kind: FailoverKind = PLANNED, **asked: object) -> PlanAdvance:
    named = tuple(
        group if isinstance(group, RecoveryGroup) else RecoveryGroup(f"g{number}", group)
        for number, group in enumerate(groups)
    )
    request_of = replace(PLAN, kind=kind, **asked)  # type: ignore[arg-type]  # any field may be named
    return begin_plan(new_plan_run(request_of, named, NOW, "trace"), NOW)


def member(
    advance: PlanAdvance,
    vm: str,
    state: RunState = SUCCEEDED,
    *,
    loss_ms: int = 0,
    attempt: int = 1,
    now_ms: int = NOW,
    serving_at_ms: int = NOW,
) -> PlanAdvance:
    """The plan's run once this VM's run serves or has ended so."""
    outcome = {SUCCEEDED: DONE, RunState.AWAITING_COMMIT: BEGUN, RunState.REFUSED: REFUSED}.get(state, FAILED)
    served = serving_at_ms if state in (SUCCEEDED, WITH_ERRORS, RunState.AWAITING_COMMIT) else 0
    observed = {"state": state.value, "data_loss_ms": str(loss_ms), "serving_at_ms": str(served)}
    said = StepResult("r", vm, attempt, vm, "dr", "d1", 9, outcome, "as told", now_ms, observed, "erp")
    return on_plan_result(advance.run, said, now_ms)


def task(
    advance: PlanAdvance,
    name: str,
    outcome: StepOutcome = DONE,
    *,
    attempt: int = 0,
    now_ms: int = NOW,
) -> PlanAdvance:
    """The plan's run once a site agent has answered for an action or gate."""
    attempt = attempt or progress_of(advance.run, name.removesuffix("-undo")).attempt
    said = StepResult("r", name, attempt, "", "dr", "", 0, outcome, "as told", now_ms, key="erp")
    return on_plan_result(advance.run, said, now_ms)


def says(advance: PlanAdvance, action: RequestAction, *, step: str = "", now_ms: int = NOW) -> PlanAdvance:
    return say_to_plan(advance.run, word(action, PLAN, step=step), now_ms)


def due(advance: PlanAdvance) -> PlanAdvance:
    """What follows when the run's next time has come."""
    assert on_plan_due(advance.run, advance.run.due_ms - 1) == PlanAdvance(advance.run)
    return on_plan_due(advance.run, advance.run.due_ms)


def rules(advance: PlanAdvance) -> list[str]:
    return [transition.rule for transition in advance.transitions]


def told(advance: PlanAdvance) -> list[tuple[str, RequestAction]]:
    return [(asked.vm_id, asked.action) for asked in advance.requests]


def begun(advance: PlanAdvance) -> list[str]:
    """The VMs and other tasks that begin."""
    return [asked.vm_id for asked in advance.requests] + [command.step for command in advance.commands]


def states(advance: PlanAdvance) -> dict[str, StepState]:
    return {progress.step: progress.state for progress in advance.run.progress}


# L1, L2


def test_l1_the_first_group_is_told_to_fail_over() -> None:
    advance = begin(("a", "b"), ("c",))
    assert rules(advance) == ["L1", "L1", "L1"]
    assert begun(advance) == ["a", "b"]
    first = advance.requests[0]
    assert (first.run_id, first.parent_run_id, first.parent_key) == ("r/a", "r", "erp")
    assert (first.plan_id, first.vm_ids, first.action) == ("", (), RequestAction.REQUEST)
    assert (first.actor, first.reason, first.ticket, first.kind) == (PLAN.actor, PLAN.reason, PLAN.ticket, PLANNED)
    assert (advance.run.state, advance.run.due_ms) == (RunState.RUNNING, 0)


def test_l1_a_list_is_known_by_its_run() -> None:
    asked = request(vms=("a",))
    advance = begin_plan(new_plan_run(asked, (RecoveryGroup("all", ("a",)),), NOW, ""), NOW)
    assert (advance.requests[0].parent_key, plan_key(asked), plan_key(PLAN)) == ("r", "r", "erp")


def test_l1_a_vm_named_again_and_a_group_without_any_are_left_out() -> None:
    advance = begin(("a", "a", ""), (), ("a",), ("b", "a"))
    assert begun(advance) == ["a"]
    following = member(advance, "a")
    assert begun(following) == ["b"]
    assert member(following, "b").run.state is SUCCEEDED


@pytest.mark.parametrize("limit", [1, 2, 3, 0])
def test_l1_no_more_vms_are_under_way_than_the_limit_allows(limit: int) -> None:
    names = tuple("abcde")
    advance, under_way = begin(names, max_in_flight=limit), set[str]()
    under_way |= set(begun(advance))
    for name in names:
        assert len(under_way) == min(limit or 5, len(under_way | set(names)) - len(names) + len(under_way))
        assert len(under_way) <= (limit or 5)
        assert name in under_way
        advance = member(advance, name)
        under_way = under_way - {name} | set(begun(advance))
    assert advance.run.state is SUCCEEDED


def test_l1_a_vm_that_serves_leaves_its_place_to_another() -> None:
    advance = begin(("a", "b"), kind=UNPLANNED, max_in_flight=1, commit=CommitPolicy.HOLD)
    assert begun(member(advance, "a", RunState.AWAITING_COMMIT)) == ["b"]


def test_l1_an_action_is_a_command_to_its_sites_agent() -> None:
    advance = begin(RecoveryGroup("g", ("a",), before=(script(), replace(script("call"), kind=PlanActionKind.HTTP))))
    (command,) = advance.commands
    assert (command.action, command.step, command.site, command.attempt) == (Action.RUN_SCRIPT, "g/before/x", "dr", 1)
    assert (command.key, command.plan_run_id, command.plan_action) == ("erp", "r", script())
    assert command.deadline_ms == NOW + 60_000
    assert advance.run.due_ms >= command.deadline_ms
    advance = task(advance, "g/before/x")
    assert [each.action for each in advance.commands] == [Action.CALL_HTTP]
    assert begun(task(advance, "g/before/call")) == ["a"]


def test_l1_a_gate_is_asked_of_each_vm_where_it_has_come_up() -> None:
    advance = begin(RecoveryGroup("g", ("a", "b"), gates=(POWER,)), kind=UNPLANNED)
    advance = member(member(advance, "a"), "b", RunState.REFUSED)
    (command,) = advance.commands
    assert (command.action, command.step, command.vm_id, command.gate) == (
        Action.CHECK_GATE,
        "g/gate-1/a",
        "a",
        POWER,
    )
    assert (command.site, command.node, command.epoch) == ("dr", "d1", 9)
    assert states(advance)["g/gate-1/b"] is StepState.SKIPPED
    assert task(advance, "g/gate-1/a").run.state is WITH_ERRORS


def test_l2_the_next_group_begins_when_all_of_the_one_before_are_done() -> None:
    advance = member(begin(("a", "b"), ("c",)), "b")
    assert (rules(advance), begun(advance)) == (["L2"], [])
    advance = member(advance, "a")
    assert (rules(advance), begun(advance)) == (["L2", "L1"], ["c"])


@pytest.mark.parametrize("vm", ["b", "nobody"])
def test_l2_an_end_told_again_or_of_a_vm_that_is_not_meant_changes_nothing(vm: str) -> None:
    before = member(begin(("a", "b"), ("c",)), "b")
    assert member(before, vm, RunState.FAILED) == PlanAdvance(before.run)


def test_l2_what_each_vm_achieved_is_kept() -> None:
    advance = begin(("a", "b", "c"), kind=UNPLANNED)
    for vm, loss_ms in (("a", 30_000), ("b", -1), ("c", 5_000)):
        advance = member(advance, vm, loss_ms=loss_ms, serving_at_ms=NOW + loss_ms)
    assert [(each.vm_id, each.data_loss_ms) for each in advance.run.members] == [("a", 30_000), ("b", -1), ("c", 5_000)]


def test_l2_a_vm_that_serves_lets_those_begin_that_wait_for_it() -> None:
    advance = member(begin(("a",), ("b",), kind=UNPLANNED, commit=CommitPolicy.HOLD), "a", RunState.AWAITING_COMMIT)
    assert (rules(advance), begun(advance)) == (["L2", "L1"], ["b"])
    assert advance.run.state is RunState.RUNNING


# L3, L4, L7: what fails


@pytest.mark.parametrize("kind", [PLANNED, FAILBACK])
@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED, RunState.REFUSED, WITH_ERRORS])
def test_l3_a_planned_run_stops_behind_a_vm_that_did_not_succeed(kind: FailoverKind, state: RunState) -> None:
    advance = member(begin(("a", "b"), ("c", "d"), kind=kind), "a", state)
    assert rules(advance) == ["L2", "L3"]
    advance = member(advance, "b")
    assert rules(advance) == ["L2", "L6"]
    assert (begun(advance), advance.run.state) == ([], WITH_ERRORS)
    assert advance.run.halted_by == "a"


@pytest.mark.parametrize("kind", [UNPLANNED, TEST, REPROTECT])
def test_l4_another_run_goes_on_all_the_same(kind: FailoverKind) -> None:
    advance = member(begin(("a",), ("b",), kind=kind), "a", RunState.FAILED)
    assert (rules(advance), begun(advance)) == (["L2", "L4", "L1"], ["b"])


@pytest.mark.parametrize(
    ("on_failure", "rule", "follows"),
    [
        (OnTaskFailure.HALT, "L3", []),
        (OnTaskFailure.CONTINUE, "L4", ["a"]),
        (OnTaskFailure.SKIP, "L7", ["b"]),
        (OnTaskFailure.COMPENSATE, "L8", []),
    ],
)
def test_l3_l4_l7_l8_an_action_that_fails_does_as_it_says(
    on_failure: OnTaskFailure, rule: str, follows: list[str]
) -> None:
    group = RecoveryGroup("g", ("a",), before=(script("x", on_failure),))
    advance = begin(group, RecoveryGroup("h", ("b",), depends_on=()), max_in_flight=1)
    first = begun(advance)
    advance = task(member(advance, "b"), "g/before/x", REFUSED)
    assert first == ["b", "g/before/x"]
    assert rule in rules(advance)
    assert begun(advance) == [name for name in follows if name != "b"]


def test_l7_what_depends_on_it_is_left_out_and_the_rest_goes_on() -> None:
    group = RecoveryGroup("g", ("a",), before=(script("x", OnTaskFailure.SKIP),))
    advance = begin(group, ("b",), RecoveryGroup("h", ("c",), depends_on=()))
    advance = task(advance, "g/before/x", REFUSED)
    assert rules(advance) == ["L7", "L7", "L7"]
    assert {name for name, state in states(advance).items() if state is StepState.SKIPPED} == {"a", "b"}
    assert member(advance, "c").run.state is WITH_ERRORS


# L5: cancel


def test_l5_a_cancel_tells_the_vms_under_way_and_begins_nothing_more() -> None:
    before = member(begin(("a", "b"), ("c",)), "a")
    advance = says(before, CANCEL)
    (asked,) = advance.requests
    assert rules(advance) == ["L5"]
    assert (asked.run_id, asked.vm_id, asked.action) == ("r/b", "b", CANCEL)
    assert (asked.actor, asked.reason, asked.ticket) == ("bob", "seen", "INC-8")
    advance = member(advance, "b", RunState.CANCELLED)
    assert (rules(advance), begun(advance), advance.run.state) == (["L2", "L6"], [], RunState.CANCELLED)


def test_l5_a_vm_that_serves_is_told_too_and_an_action_is_given_up() -> None:
    group = RecoveryGroup("h", ("b",), before=(script(),), depends_on=())
    advance = begin(("a",), group, kind=UNPLANNED, commit=CommitPolicy.HOLD)
    advance = says(member(advance, "a", RunState.AWAITING_COMMIT), CANCEL)
    assert told(advance) == [("a", CANCEL)]
    assert states(advance)["h/before/x"] is StepState.FAILED
    assert task(advance, "h/before/x") == PlanAdvance(advance.run)
    assert member(advance, "a", RunState.CANCELLED).run.state is RunState.CANCELLED


def test_l5_where_nothing_is_under_way_a_cancel_ends_it() -> None:
    advance = says(begin(RecoveryGroup("g", ("a",), before=(MANUAL,))), CANCEL)
    assert (rules(advance), advance.run.state) == (["L5", "L6"], RunState.CANCELLED)


def test_l5_a_cancel_ends_the_retries() -> None:
    advance = task(begin(RecoveryGroup("g", ("a",), before=(script(attempts=3),))), "g/before/x", FAILED)
    assert advance.run.due_ms
    assert says(advance, CANCEL).run.state is RunState.CANCELLED


def test_l5_a_second_cancel_or_one_after_the_end_is_refused() -> None:
    cancelled = says(begin(("a",)), CANCEL)
    again = says(cancelled, CANCEL)
    assert (again.refusal, again.run) == ("the run is being cancelled already, by bob", cancelled.run)
    late = says(member(begin(("a",)), "a"), CANCEL)
    assert (late.refusal, late.requests) == ("the run has already ended: SUCCEEDED", ())


def test_l5_a_vm_that_serves_only_after_the_cancel_is_taken_back() -> None:
    """It was on its way to another recovery point, and could not take the first word."""
    cancelled = says(begin(("a",), kind=UNPLANNED, commit=CommitPolicy.HOLD), CANCEL)
    advance = member(cancelled, "a", RunState.AWAITING_COMMIT, now_ms=NOW + 5)
    (asked,) = advance.requests
    assert asked.action in (CANCEL, ROLL_BACK)
    assert asked.word != cancelled.requests[0].word


# L6: the end


@pytest.mark.parametrize(
    ("ends", "cancelled", "state"),
    [
        ([SUCCEEDED, SUCCEEDED], False, SUCCEEDED),
        ([SUCCEEDED, RunState.FAILED], False, WITH_ERRORS),
        ([RunState.FAILED, RunState.REFUSED], False, RunState.FAILED),
        ([WITH_ERRORS, RunState.REFUSED], False, WITH_ERRORS),
        ([WITH_ERRORS, SUCCEEDED], False, WITH_ERRORS),
        ([SUCCEEDED, RunState.CANCELLED], True, RunState.CANCELLED),
        ([SUCCEEDED, SUCCEEDED], True, SUCCEEDED),  # it came too late for all of them
    ],
)
@pytest.mark.parametrize("kind", [PLANNED, UNPLANNED])
def test_l6_the_run_ends_as_its_vms_did(
    ends: list[RunState], cancelled: bool, state: RunState, kind: FailoverKind
) -> None:
    advance = begin(("a", "b"), kind=kind)
    if cancelled:
        advance = says(advance, CANCEL)
    for vm, ended in zip("ab", ends, strict=True):
        advance = member(advance, vm, ended)
    assert (rules(advance)[-1], advance.run.state, advance.run.finished_at_ms) == ("L6", state, NOW)
    moved = sum(each in (SUCCEEDED, WITH_ERRORS) for each in ends)
    assert advance.transitions[-1].what == f"the run ends: {state}, {moved} of 2 VMs moved"
    assert (advance.run.due_ms, advance.run.waits_for, advance.run.choices) == (0, "", ())


def test_l6_a_failed_action_is_no_success_though_every_vm_moved() -> None:
    group = RecoveryGroup("g", ("a",), after=(script("x", OnTaskFailure.CONTINUE),))
    assert task(member(begin(group), "a"), "g/after/x", REFUSED).run.state is WITH_ERRORS


def test_l6_after_the_end_nothing_counts() -> None:
    ended = member(begin(("a",)), "a")
    assert member(ended, "a", RunState.FAILED) == PlanAdvance(ended.run)
    assert on_plan_due(ended.run, NOW * 9) == PlanAdvance(ended.run)


# L8: compensation


def compensated() -> PlanAdvance:
    """Three actions are done, and the fourth has failed."""
    undo = ("undo",)
    group = RecoveryGroup(
        "g",
        ("a",),
        before=(script("one", compensation=undo), script("two"), script("three", compensation=undo)),
        after=(script("bad", OnTaskFailure.COMPENSATE),),
    )
    advance = begin(group, kind=UNPLANNED)
    for name in ("one", "two", "three"):
        advance = task(advance, f"g/before/{name}")
    return task(member(advance, "a"), "g/after/bad", REFUSED)


def test_l8_what_was_done_is_taken_back_last_first() -> None:
    advance = compensated()
    assert (rules(advance), begun(advance)) == (["L8", "L8"], ["g/before/three-undo"])
    (command,) = advance.commands
    assert command.plan_action is not None
    assert (command.plan_action.command, command.attempt) == (("undo",), 2)
    assert (advance.run.state, advance.run.compensating) == (RunState.UNDOING, True)
    advance = task(advance, "g/before/three-undo")
    assert begun(advance) == ["g/before/one-undo"]
    advance = task(advance, "g/before/one-undo")
    assert (rules(advance)[-1], advance.run.state) == ("L6", RunState.FAILED)
    assert states(advance)["g/before/one"] is states(advance)["g/before/three"] is StepState.UNDONE
    assert (states(advance)["g/before/two"], states(advance)["a"]) == (StepState.DONE, StepState.DONE)


@pytest.mark.parametrize("outcome", [FAILED, REFUSED, UNCERTAIN, None])
def test_l8_what_cannot_be_taken_back_is_said_and_the_rest_is(outcome: StepOutcome | None) -> None:
    advance = compensated()
    advance = due(advance) if outcome is None else task(advance, "g/before/three-undo", outcome)
    assert "was not taken back" in advance.transitions[0].what
    assert begun(advance) == ["g/before/one-undo"]
    assert states(advance)["g/before/three"] is StepState.FAILED
    assert "g/before/three not taken back" in failures(advance.run)
    assert task(advance, "g/before/one-undo").run.state is RunState.FAILED


def test_l8_an_answer_of_the_action_itself_is_no_answer_of_its_undo() -> None:
    advance = compensated()
    assert task(advance, "g/before/three-undo", attempt=1) == PlanAdvance(advance.run)
    assert task(advance, "g/before/one-undo") == PlanAdvance(advance.run)


def test_l8_the_vms_under_way_are_called_back_first() -> None:
    bad = RecoveryGroup("h", (), before=(script("bad", OnTaskFailure.COMPENSATE),), depends_on=())
    first = RecoveryGroup("g", ("a", "b"), before=(script("one", compensation=("undo",)),))
    advance = begin(first, bad, kind=UNPLANNED, commit=CommitPolicy.HOLD)
    advance = member(task(advance, "g/before/one"), "a", RunState.AWAITING_COMMIT)
    advance = task(advance, "h/before/bad", REFUSED)
    assert (told(advance), advance.commands) == ([("a", ROLL_BACK), ("b", CANCEL)], ())
    advance = member(member(advance, "a", RunState.CANCELLED), "b", RunState.CANCELLED)
    assert begun(advance) == ["g/before/one-undo"]
    assert task(advance, "g/before/one-undo").run.state is RunState.FAILED


@pytest.mark.parametrize("kind", [PlanActionKind.MANUAL, PlanActionKind.HTTP])
def test_l8_only_a_script_is_taken_back(kind: PlanActionKind) -> None:
    done = replace(script("one", compensation=("undo",)), kind=kind)
    advance = begin(RecoveryGroup("g", ("a",), before=(done, script("bad", OnTaskFailure.COMPENSATE))))
    advance = says(advance, CONFIRM) if kind is PlanActionKind.MANUAL else task(advance, "g/before/one")
    advance = task(advance, "g/before/bad", REFUSED)
    assert (advance.commands, advance.run.state) == ((), RunState.FAILED)


# L9, L10: actions and gates


def test_l9_an_action_is_tried_again_as_often_as_it_says() -> None:
    advance = begin(RecoveryGroup("g", ("a",), before=(script(attempts=3, backoff_ms=1_000),)))
    for attempt, middle in ((1, 1_000), (2, 2_000)):
        advance = task(advance, "g/before/x", FAILED)
        assert rules(advance) == ["L9"]
        assert 0.75 * middle <= advance.run.due_ms - NOW <= 1.25 * middle
        advance = due(advance)
        assert (rules(advance), advance.commands[0].attempt) == (["L9"], attempt + 1)
    assert rules(task(advance, "g/before/x", FAILED)) == ["L3", "L6"]


@pytest.mark.parametrize("outcome", [FAILED, STALE])
def test_l9_an_answer_of_an_earlier_attempt_does_not_count_unless_it_is_done(outcome: StepOutcome) -> None:
    advance = begin(RecoveryGroup("g", ("a",), before=(script(attempts=3),)))
    advance = due(task(advance, "g/before/x", FAILED))
    assert task(advance, "g/before/x", outcome, attempt=1) == PlanAdvance(advance.run)
    assert task(advance, "g/before/x", BEGUN) == PlanAdvance(advance.run)
    assert begun(task(advance, "g/before/x", DONE, attempt=1)) == ["a"]


def test_l9_what_is_refused_is_not_tried_again() -> None:
    advance = begin(RecoveryGroup("g", ("a",), before=(script(attempts=9),)))
    assert rules(task(advance, "g/before/x", REFUSED)) == ["L3", "L6"]


def test_l9_a_gate_is_asked_again_until_it_holds_or_its_time_is_up() -> None:
    advance = member(begin(RecoveryGroup("g", ("a",), gates=(POWER,)), ("b",)), "a")
    asked, now_ms = 0, NOW
    while not advance.run.state.ended:
        asked, now_ms = asked + 1, now_ms + 1_000
        advance = task(advance, "g/gate-1/a", FAILED, now_ms=now_ms)
        if not advance.run.state.ended:
            assert rules(advance) == ["L9"]
            advance, now_ms = due(advance), advance.run.due_ms
    assert asked == 11
    assert now_ms - 1_000 <= NOW + POWER.timeout_ms
    assert rules(advance) == ["L3", "L6"]
    held = member(begin(RecoveryGroup("g", ("a",), gates=(POWER,)), ("b",)), "a")
    held = due(task(held, "g/gate-1/a", FAILED))
    assert begun(task(held, "g/gate-1/a")) == ["b"]


def test_l9_a_gate_that_nobody_answers_is_asked_again() -> None:
    advance = member(begin(RecoveryGroup("g", ("a",), gates=(POWER,))), "a")
    advance = due(advance)
    assert rules(advance) == ["L9"]
    assert due(advance).commands[0].attempt == 2


def uncertain(on_failure: OnTaskFailure = OnTaskFailure.HALT, outcome: StepOutcome | None = UNCERTAIN) -> PlanAdvance:
    advance = begin(RecoveryGroup("g", ("a",), before=(script("x", on_failure, attempts=5),)))
    return due(advance) if outcome is None else task(advance, "g/before/x", outcome)


@pytest.mark.parametrize("outcome", [UNCERTAIN, None])
def test_l10_what_may_have_been_done_is_not_done_again_but_waits_for_a_person(outcome: StepOutcome | None) -> None:
    advance = uncertain(outcome=outcome)
    assert (rules(advance), advance.commands, advance.run.due_ms) == (["L10"], (), 0)
    assert advance.run.waits_for.startswith("ann has to see to g/before/x: ")
    assert advance.run.choices == (CONFIRM, SKIP, RESUME, ABANDON)


def test_l10_what_a_plan_can_do_without_nobody_has_to_see_to() -> None:
    advance = uncertain(OnTaskFailure.CONTINUE)
    assert (rules(advance), begun(advance)) == (["L4", "L1"], ["a"])


@pytest.mark.parametrize("outcome", [UNCERTAIN, None])
def test_l10_an_answer_that_comes_late_settles_it(outcome: StepOutcome | None) -> None:
    assert begun(task(uncertain(outcome=outcome), "g/before/x")) == ["a"]
    assert rules(task(uncertain(outcome=outcome), "g/before/x", FAILED)) == ["L9"]


def test_l10_what_a_person_has_to_do_waits_for_the_person() -> None:
    advance = begin(RecoveryGroup("g", ("a",), before=(MANUAL,)))
    assert (rules(advance), advance.commands) == (["L1", "L10"], ())
    assert advance.run.waits_for == "ann has to see to g/before/look: look at the rack"
    for outcome in StepOutcome:
        assert task(advance, "g/before/look", outcome) == PlanAdvance(advance.run)


@pytest.mark.parametrize(
    ("action", "rule", "state", "follows"),
    [
        (CONFIRM, "L1", StepState.DONE, ["a"]),
        (SKIP, "L4", StepState.FAILED, ["a"]),
        (RESUME, "L9", StepState.ISSUED, ["g/before/x"]),
        (ABANDON, "L3", StepState.FAILED, []),
    ],
)
def test_l10_a_person_says_how_it_goes_on(
    action: RequestAction, rule: str, state: StepState, follows: list[str]
) -> None:
    advance = says(uncertain(), action)
    assert (rules(advance)[0], states(advance)["g/before/x"], begun(advance)) == (rule, state, follows)
    assert advance.run.waits_for == ""
    assert advance.run.state is (RunState.FAILED if action is ABANDON else RunState.RUNNING)


def test_l10_what_was_skipped_is_no_success() -> None:
    assert member(says(uncertain(), SKIP), "a").run.state is WITH_ERRORS


def test_l10_an_action_that_a_person_resumes_has_all_its_attempts() -> None:
    advance = says(uncertain(), RESUME)
    for _ in range(4):
        advance = due(task(advance, "g/before/x", FAILED))
    assert rules(task(advance, "g/before/x", FAILED)) == ["L3", "L6"]


def test_l10_of_several_that_wait_one_has_to_be_named() -> None:
    other = RecoveryGroup("h", ("b",), before=(replace(MANUAL, name="ask"),), depends_on=())
    advance = begin(RecoveryGroup("g", ("a",), before=(MANUAL,)), other)
    refused = says(advance, CONFIRM)
    assert refused.refusal == "name one of the tasks that wait for a person: g/before/look, h/before/ask"
    assert says(advance, CONFIRM, step="g/before/nothing").refusal == refused.refusal
    advance = says(advance, CONFIRM, step="h/before/ask")
    assert begun(advance) == ["b"]
    assert "g/before/look" in advance.run.waits_for
    assert "h/before/ask" not in advance.run.waits_for


# L11, L12: commitment


def serving(commit: CommitPolicy = CommitPolicy.HOLD, window_ms: int = 0) -> PlanAdvance:
    advance = begin(("a", "b"), kind=UNPLANNED, commit=commit, window_ms=window_ms)
    return member(member(advance, "a", RunState.AWAITING_COMMIT), "b", RunState.AWAITING_COMMIT)


def test_l11_once_all_of_it_serves_the_plan_awaits_commitment() -> None:
    advance = serving()
    assert rules(advance) == ["L2", "L11"]
    assert (advance.run.state, advance.run.due_ms) == (RunState.AWAITING_COMMIT, 0)
    assert (advance.run.choices, advance.run.waits_for) == (
        (COMMIT, ROLL_BACK),
        "ann has to commit or roll back what serves",
    )


@pytest.mark.parametrize(
    ("action", "ends", "state"),
    [
        (COMMIT, SUCCEEDED, SUCCEEDED),
        (ROLL_BACK, RunState.CANCELLED, RunState.CANCELLED),
        (CANCEL, RunState.CANCELLED, RunState.CANCELLED),
    ],
)
def test_l11_its_word_goes_to_all_of_them(action: RequestAction, ends: RunState, state: RunState) -> None:
    advance = says(serving(), action)
    assert told(advance) == [("a", action), ("b", action)]
    assert {asked.actor for asked in advance.requests} == {"bob"}
    assert (advance.run.state, advance.run.waits_for) == (RunState.RUNNING, "")
    assert member(member(advance, "a", ends), "b", ends).run.state is state


@pytest.mark.parametrize("commit", [CommitPolicy.HOLD, CommitPolicy.AUTO_COMMIT, CommitPolicy.AUTO_ROLL_BACK])
def test_l11_a_vm_alone_does_not_know_when_the_plans_window_is_over(commit: CommitPolicy) -> None:
    advance = begin(("a",), kind=UNPLANNED, commit=commit, window_ms=5_000)
    assert advance.requests[0].commit is CommitPolicy.HOLD
    assert begin(("a",), kind=UNPLANNED).requests[0].commit is CommitPolicy.AT_ONCE


def test_l11_what_a_plan_that_halted_has_brought_up_is_for_a_person() -> None:
    group = RecoveryGroup("g", ("a", "b"), critical=True)
    advance = begin(group, ("c",), kind=UNPLANNED, commit=CommitPolicy.AUTO_COMMIT, window_ms=5_000)
    advance = member(member(advance, "a", RunState.AWAITING_COMMIT), "b", RunState.FAILED)
    assert (advance.run.state, advance.run.due_ms) == (RunState.AWAITING_COMMIT, 0)
    advance = member(says(advance, COMMIT), "a")
    assert advance.run.state is WITH_ERRORS


def test_l11_a_vm_that_is_committed_by_itself_is_done() -> None:
    advance = member(serving(), "a")
    assert (advance.run.state, told(says(advance, COMMIT))) == (RunState.AWAITING_COMMIT, [("b", COMMIT)])


@pytest.mark.parametrize(
    ("commit", "action"), [(CommitPolicy.AUTO_COMMIT, COMMIT), (CommitPolicy.AUTO_ROLL_BACK, ROLL_BACK)]
)
def test_l12_when_the_window_is_over_the_commit_policy_decides(commit: CommitPolicy, action: RequestAction) -> None:
    window = serving(commit, 90_000)
    assert window.run.due_ms == NOW + 90_000
    assert window.run.waits_for.endswith(" in 90 s")
    advance = due(window)
    assert rules(advance) == ["L12"]
    assert told(advance) == [("a", action), ("b", action)]
    ends = SUCCEEDED if action is COMMIT else RunState.CANCELLED
    assert member(member(advance, "a", ends), "b", ends).run.state is ends


def test_l12_a_person_is_first() -> None:
    advance = says(serving(CommitPolicy.AUTO_ROLL_BACK, 90_000), COMMIT)
    assert on_plan_due(advance.run, NOW + 90_000) == PlanAdvance(advance.run)


# L13: resume


def test_l13_what_is_done_is_not_run_again() -> None:
    group = RecoveryGroup("g", ("a", "b"), before=(script("one"),))
    advance = member(task(begin(group, ("c",)), "g/before/one"), "a")
    ended = member(advance, "b", RunState.FAILED)
    assert ended.run.state is WITH_ERRORS
    advance = says(ended, RESUME)
    assert rules(advance) == ["L13", "L1"]
    assert (begun(advance), advance.requests[0].run_id) == (["b"], "r/b~2")
    assert (advance.run.state, advance.run.finished_at_ms, advance.run.round) == (RunState.RUNNING, 0, 2)
    # What the first run of the VM says once more is of the round before.
    assert member(advance, "b", RunState.FAILED) == PlanAdvance(advance.run)
    advance = member(advance, "b", attempt=2)
    assert (begun(advance), advance.requests[0].run_id) == (["c"], "r/c~2")
    assert member(advance, "c", attempt=2).run.state is SUCCEEDED


def test_l13_a_vm_that_has_moved_with_errors_is_not_moved_back() -> None:
    ended = member(begin(("a",), ("b",)), "a", WITH_ERRORS)
    advance = says(ended, RESUME)
    assert begun(advance) == ["b"]
    assert member(advance, "b", attempt=2).run.state is WITH_ERRORS


def test_l13_a_resumed_run_halts_again_where_it_fails_again() -> None:
    advance = begin(("a",), ("b",))
    for number in range(1, 4):
        advance = member(advance, "a", RunState.FAILED, attempt=number)
        assert (rules(advance), advance.run.state) == (["L2", "L3", "L6"], RunState.FAILED)
        advance = says(advance, RESUME)
        assert advance.requests[0].run_id == f"r/a~{number + 1}"


def test_l13_an_action_that_is_resumed_has_all_its_attempts() -> None:
    advance = begin(RecoveryGroup("g", ("a",), before=(script(attempts=2),)))
    for _ in range(3):
        advance = due(task(advance, "g/before/x", FAILED))
        advance = task(advance, "g/before/x", FAILED)
        assert (rules(advance), advance.run.state) == (["L3", "L6"], RunState.FAILED)
        advance = says(advance, RESUME)


def test_l13_what_was_taken_back_is_done_again() -> None:
    advance = task(task(compensated(), "g/before/three-undo"), "g/before/one-undo")
    advance = says(advance, RESUME)
    assert begun(advance) == ["g/before/one"]
    assert not advance.run.compensating


@pytest.mark.parametrize(("end", "offered"), [(SUCCEEDED, False), (RunState.CANCELLED, False), (WITH_ERRORS, True)])
def test_l13_only_a_run_with_failures_is_resumed(end: RunState, offered: bool) -> None:
    advance = replace(member(begin(("a",)), "a"), run=replace(member(begin(("a",)), "a").run, state=end))
    assert bool(says(advance, RESUME).refusal) is not offered


# R14, R23


def test_r14_a_plan_is_looked_at_again_a_minute_after_a_bug() -> None:
    parked = park_plan_for_bug(begin(("a",), ("b",)).run, "KeyError: 'x'", NOW)
    assert (rules(parked), parked.run.due_ms) == (["R14"], NOW + 60_000)
    assert "KeyError: 'x'" in parked.run.waits_for
    assert begun(member(parked, "a")) == ["b"]
    again = due(parked)
    assert (again.run.waits_for, again.run.state) == ("", RunState.RUNNING)
    ended = member(begin(("a",)), "a")
    assert park_plan_for_bug(ended.run, "KeyError", NOW) == PlanAdvance(ended.run)


WORDS = [
    action
    for action in RequestAction
    if action
    not in (RequestAction.REQUEST, RequestAction.ACKNOWLEDGE, RequestAction.APPROVE, RequestAction.REJECT, CANCEL)
]


@pytest.mark.parametrize(
    ("before", "can"),
    [
        (begin(("a",)), set()),
        (uncertain(), {CONFIRM, SKIP, RESUME, ABANDON}),
        (serving(), {COMMIT, ROLL_BACK}),
        (member(begin(("a",)), "a"), set()),
        (member(begin(("a",)), "a", RunState.FAILED), {RESUME}),
        (says(begin(("a",)), CANCEL), set()),
    ],
    ids=["running", "waits", "serves", "succeeded", "failed", "cancelling"],
)
@pytest.mark.parametrize("action", WORDS)
def test_r23_a_word_that_is_not_for_this_state_is_refused_with_what_is(
    before: PlanAdvance, can: set[RequestAction], action: RequestAction
) -> None:
    advance = says(before, action)
    assert bool(advance.refusal) == (action not in can)
    if advance.refusal:
        assert advance.run is before.run
        assert before.run.state in advance.refusal
        offered = advance.refusal.rpartition("can be told ")[2].split(", ")
        assert len(offered) == len(set(offered))
        for name in offered:
            assert name == "nothing" or not says(before, RequestAction(name)).refusal, name


# What a run says


def test_a_run_says_which_tasks_did_not_succeed_and_why() -> None:
    advance = begin(("a", "b"), kind=UNPLANNED)
    assert failures(advance.run) == ""
    advance = member(member(advance, "a"), "b", RunState.REFUSED)
    assert failures(advance.run) == "b REFUSED: as told"


def test_of_many_tasks_that_did_not_succeed_the_first_are_named() -> None:
    names = tuple("abcdefgh")
    advance = begin(names, kind=UNPLANNED)
    for name in names:
        advance = member(advance, name, RunState.FAILED)
    assert failures(advance.run).endswith("e FAILED: as told; and 3 more")


# Any plan, whatever its tasks come to

NAMES = "abcdef"


@st.composite
def groups(draw: st.DrawFn) -> tuple[RecoveryGroup, ...]:
    found = []
    policies = st.sampled_from(list(OnTaskFailure))
    for number, name in enumerate(NAMES[: draw(st.integers(1, 5))]):
        earlier = list(NAMES[:number])
        waits = st.none() | st.lists(st.sampled_from(earlier), unique=True).map(tuple) if earlier else st.just(())
        actions = [
            script(f"x{index}", draw(policies), attempts=draw(st.integers(1, 2)), compensation=("undo",))
            for index in range(draw(st.integers(0, 2)))
        ]
        found.append(
            RecoveryGroup(
                name,
                tuple(f"{name}{index}" for index in range(draw(st.integers(0, 3)))),
                depends_on=draw(waits),
                critical=draw(st.none() | st.booleans()),
                before=tuple(actions[:1]),
                after=tuple(actions[1:]),
                gates=(replace(POWER, on_failure=draw(policies)),) if draw(st.booleans()) else (),
            )
        )
    return tuple(found)


def comes_before(plan: tuple[RecoveryGroup, ...], run: PlanRun) -> dict[str, set[str]]:
    """For each task those that have to be settled before it, by the plan alone."""
    waits = dependencies(plan)

    def reach(name: str) -> set[str]:
        return set(waits[name]).union(*(reach(other) for other in waits[name]))

    return {
        task.task_id: {
            other.task_id
            for other in run.tasks
            if other.group in reach(task.group) or (other.group == task.group and other.stage < task.stage)
        }
        for task in run.tasks
    }


def is_settled(run: PlanRun, task_id: str) -> bool:
    task = next(task for task in run.tasks if task.task_id == task_id)
    state = progress_of(run, task_id).state
    lenient = task.on_failure is OnTaskFailure.CONTINUE and state is StepState.FAILED
    serves = task.kind is TaskKind.VM and state is StepState.WAITING
    not_asked = task.kind is TaskKind.GATE and state is StepState.SKIPPED
    return state is StepState.DONE or lenient or serves or not_asked


class Play:
    """A plan's run, and what is under way of it."""

    def __init__(self, plan: tuple[RecoveryGroup, ...], asked: FailoverRequested) -> None:
        self.plan, self.limit = plan, asked.max_in_flight
        self.now_ms = NOW
        self.open: list[FailoverRequested | StepCommand] = []
        self.serving: set[str] = set()
        self.done_at_resume: set[str] = set()
        self.run = new_plan_run(asked, plan, NOW, "")
        self.before = comes_before(plan, self.run)
        self.take(begin_plan(self.run, NOW))

    def take(self, advance: PlanAdvance) -> None:
        was, self.run = self.run, advance.run
        begun = [asked for asked in advance.requests if asked.action is RequestAction.REQUEST]
        for name in [asked.vm_id for asked in begun] + [command.step for command in advance.commands]:
            if name.endswith("-undo"):
                continue
            # Within one advance some of those before may be settled by it, so the later state counts.
            assert all(is_settled(self.run, other) for other in self.before[name]), name
            stopped = was.halted_by or was.cancelled_by or was.compensating
            assert not stopped or was.round < self.run.round, name
            assert name not in self.done_at_resume, name
        self.open += [*begun, *advance.commands]
        for asked in advance.requests:
            if asked.action is not RequestAction.REQUEST and asked.vm_id in self.serving:
                self.serving.discard(asked.vm_id)
                self.open.append(asked)
        under_way = [asked for asked in self.open if isinstance(asked, FailoverRequested)]
        assert not self.limit or len([each for each in under_way if each.action is RequestAction.REQUEST]) <= self.limit

    def answer(self, index: int, choice: int) -> None:
        asked = self.open.pop(index)
        if isinstance(asked, StepCommand):
            outcome = [DONE, DONE, FAILED, REFUSED, UNCERTAIN][choice]
            said = StepResult("r", asked.step, asked.attempt, asked.vm_id, asked.site, "", 0, outcome, "", self.now_ms)
        else:
            may_serve = asked.commit is CommitPolicy.HOLD and asked.action is RequestAction.REQUEST
            ends = [
                RunState.AWAITING_COMMIT if may_serve else SUCCEEDED,
                SUCCEEDED,
                RunState.FAILED,
                RunState.REFUSED,
                WITH_ERRORS,
            ]
            state = ends[choice]
            outcome = {SUCCEEDED: DONE, RunState.AWAITING_COMMIT: BEGUN}.get(state, FAILED)
            if state is RunState.AWAITING_COMMIT:
                self.serving.add(asked.vm_id)
            observed = {"state": state.value, "serving_at_ms": str(self.now_ms)}
            said = StepResult(
                "r", asked.vm_id, self.run.round, asked.vm_id, "dr", "d1", 9, outcome, "", self.now_ms, observed
            )
        self.take(on_plan_result(self.run, said, self.now_ms))

    def wait(self) -> None:
        self.now_ms = max(self.now_ms, self.run.due_ms)
        # A command that has run out of time is not answered any more.
        self.open = [
            each
            for each in self.open
            if not isinstance(each, StepCommand) or each.deadline_ms > self.now_ms or "-undo" in each.step
        ]
        self.take(on_plan_due(self.run, self.now_ms))

    def say(self, action: RequestAction) -> bool:
        waiting = [
            task.task_id
            for task in self.run.tasks
            if task.kind is not TaskKind.VM and progress_of(self.run, task.task_id).state is StepState.WAITING
        ]
        advance = say_to_plan(self.run, word(action, self.run.request, step=waiting[0] if waiting else ""), self.now_ms)
        if not advance.refusal and action is RESUME and self.run.state.ended:
            self.done_at_resume = {each.step for each in self.run.progress if each.state is StepState.DONE}
        self.take(advance)
        return not advance.refusal


@settings(max_examples=150, deadline=None)
@given(
    groups(),
    st.sampled_from(list(FailoverKind)),
    st.integers(0, 3),
    st.sampled_from([CommitPolicy.AT_ONCE, CommitPolicy.HOLD, CommitPolicy.AUTO_ROLL_BACK]),
    st.data(),
)
def test_any_plan_ends_in_order_and_within_its_limits(
    plan: tuple[RecoveryGroup, ...], kind: FailoverKind, limit: int, commit: CommitPolicy, data: st.DataObject
) -> None:
    asked = replace(PLAN, kind=kind, max_in_flight=limit, commit=commit, window_ms=60_000)
    play, resumed = Play(plan, asked), 0
    for _ in range(600):
        if play.run.state.ended:
            assert not [each for each in play.run.progress if each.state in (StepState.ISSUED, StepState.WAITING)]
            if resumed == 2 or not play.say(RESUME):
                return
            resumed += 1
        elif play.open and not play.run.cancelled_by and not data.draw(st.integers(0, 30)):
            play.say(CANCEL)
        elif play.open:
            play.answer(data.draw(st.integers(0, len(play.open) - 1)), data.draw(st.integers(0, 4)))
        elif play.run.due_ms:
            play.wait()
        else:
            # Nothing is under way and nothing is due: then a person is waited for, and has a word that counts.
            assert play.run.waits_for, play.run
            assert play.say(data.draw(st.sampled_from(list(play.run.choices))))
    raise AssertionError("the plan does not come to an end")
