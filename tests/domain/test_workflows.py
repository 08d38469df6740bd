"""The tables of steps: what must hold of each, whatever its steps are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rule_cases import FAILBACK, PLANNED, STEPS, TEST

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.records import Action
from failover_orch.domain.workflows import WORKFLOWS, Effect, OnFailure, Side, Step

KINDS = list(FailoverKind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_of_a_workflow_are_numbered_in_order(kind: FailoverKind) -> None:
    numbers = [step.number for step in WORKFLOWS[kind].steps]
    letters = {number[0] for number in numbers}
    first = int(numbers[0][1:])
    assert numbers == [f"{letter}{number}" for letter in letters for number in range(first, first + len(numbers))]
    assert [WORKFLOWS[kind].index(number) for number in numbers] == list(range(len(numbers)))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_behind_the_point_of_no_return_is_undone(kind: FailoverKind) -> None:
    workflow = WORKFLOWS[kind]
    last = workflow.index(workflow.point_of_no_return)
    for step in workflow.steps[last:]:
        assert step.undo is None, step.number
        # The step itself may be refused, and is then no way back either: what is before it is undone.
        assert step.on_failure is not OnFailure.UNDO or step.number == workflow.point_of_no_return


@pytest.mark.parametrize(("kind", "step"), STEPS)
def test_a_run_halts_only_where_nothing_is_to_be_undone(kind: FailoverKind, step: Step) -> None:
    before = WORKFLOWS[kind].steps[: WORKFLOWS[kind].index(step.number)]
    if step.on_failure is OnFailure.HALT:
        assert not any(each.undo not in (None, Action.INSPECT) or each.effect is not Effect.NONE for each in before)
        assert step.undo in (None, Action.INSPECT)


@pytest.mark.parametrize(("kind", "step"), STEPS)
def test_a_step_that_changes_the_owner_does_not_fail_unnoticed(kind: FailoverKind, step: Step) -> None:
    if step.effect is not Effect.NONE or step.action is Action.START:
        assert step.on_failure in (OnFailure.UNDO, OnFailure.PARK)
    if step.effect is Effect.FAILED_OVER:
        assert step.undo is Action.CANCEL_FAILOVER


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_vm_is_failed_over_the_addresses_are_staged(kind: FailoverKind) -> None:
    actions = [step.action for step in WORKFLOWS[kind].steps]
    if Action.FAIL_OVER in actions:
        assert actions.index(Action.STAGE_ADDRESSES) < actions.index(Action.FAIL_OVER)
        assert actions.index(Action.FAIL_OVER) < actions.index(Action.START) < actions.index(Action.VERIFY_ADDRESSES)


def test_an_unplanned_failover_begins_with_its_fence() -> None:
    assert WORKFLOWS[FailoverKind.UNPLANNED].steps[0].action is Action.CHECK_PRIMARY


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_stands_before_what_cannot_be_taken_back(kind: FailoverKind) -> None:
    workflow = WORKFLOWS[kind]
    windows = [index for index, step in enumerate(workflow.steps) if step.action is None]
    assert all(index + 1 == workflow.index(workflow.point_of_no_return) for index in windows)
    # To try another recovery point, the run goes back to a step that can be undone and made again.
    assert all(0 <= workflow.takes_point < index for index in windows)
    assert workflow.takes_point < 0 or workflow.steps[workflow.takes_point].undo


@pytest.mark.parametrize("step", WORKFLOWS[TEST].steps)
def test_a_test_touches_neither_the_primary_nor_the_route(step: Step) -> None:
    assert step.side is Side.REPLICA
    assert step.effect is Effect.NONE


def test_a_failback_is_a_planned_failover_by_another_name() -> None:
    assert replace(WORKFLOWS[FAILBACK], kind=PLANNED) == WORKFLOWS[PLANNED]
