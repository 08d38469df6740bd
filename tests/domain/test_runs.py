"""The run of one VM's failover: each rule by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from simulator import ANSWER_MS, PRIMARY, REPLICA, START_MS, TARGET, Behaviour, World, check, inventory, request

from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction, StepOutcome, StepResult
from failover_orch.domain.records import (
    Action,
    JournalEntry,
    Location,
    Role,
    RouteCause,
    RoutingUpdate,
    RunState,
    StepCommand,
    StepState,
)
from failover_orch.domain.runs import Advance, begin, on_cancel, on_due, on_result
from failover_orch.domain.settings import VmReplicationSettings
from failover_orch.domain.state import VmState
from failover_orch.domain.workflows import WORKFLOWS

PLANNED, UNPLANNED = FailoverKind
CANCEL = RequestAction.CANCEL
DONE, FAILED, REFUSED, STALE = StepOutcome
VM = VmState(
    "vm-1",
    epoch=7,
    inventory=inventory(),
    settings=VmReplicationSettings("vm-1", (TARGET,)),
    settings_site=REPLICA,
    locations=(Location(REPLICA, "d1", Role.REPLICA, 2), Location(PRIMARY, "p1", Role.PRIMARY, 1)),
    active_site=PRIMARY,
    replica_site=REPLICA,
)
NOW = 50_000


def result(advance: Advance, outcome: StepOutcome = DONE, **differs: object) -> StepResult:
    """The answer to the last command."""
    command = advance.commands[-1]
    answer = StepResult(
        run_id=command.run_id,
        step=command.step,
        attempt=command.attempt,
        vm_id=command.vm_id,
        site=command.site,
        node=command.node,
        epoch=command.epoch,
        outcome=outcome,
        detail="as told",
        finished_at_ms=NOW,
    )
    return replace(answer, **differs)  # type: ignore[arg-type]  # any field may be named


def up_to(step: str, kind: FailoverKind = PLANNED, vm: VmState = VM) -> Advance:
    """A run whose steps before this one are done, so that this one has just been issued."""
    advance = begin(request(kind), vm, NOW, "")
    while advance.commands[-1].step != step:
        advance = on_result(advance.run, advance.vm, result(advance), NOW)
    return advance


def answered(advance: Advance, outcome: StepOutcome = DONE, now_ms: int = NOW) -> Advance:
    return on_result(advance.run, advance.vm, result(advance, outcome), now_ms)


def rules(advance: Advance) -> list[str]:
    return [transition.rule for transition in advance.transitions]


def state_of(advance: Advance, step: str) -> StepState:
    return next(progress.state for progress in advance.run.steps if progress.step == step)


def test_r1_a_run_takes_the_next_epoch_and_issues_its_first_step() -> None:
    advance = begin(request(), VM, NOW, "trace")
    (command,) = advance.commands
    assert rules(advance) == ["R1", "R2"]
    assert (advance.vm.epoch, advance.run.epoch, advance.vm.run_id) == (8, 8, "r")
    assert (command.step, command.attempt, command.action) == ("P1", 1, Action.STAGE_ADDRESSES)
    assert (command.site, command.node, command.peer_site, command.peer_node) == (REPLICA, "d1", PRIMARY, "p1")
    assert (command.epoch, command.addresses, command.deadline_ms) == (8, (TARGET,), NOW + 60_000)
    assert advance.run.due_ms == command.deadline_ms


@pytest.mark.parametrize("kind", FailoverKind)
def test_r2_every_step_that_is_done_is_followed_by_the_next(kind: FailoverKind) -> None:
    steps = WORKFLOWS[kind].steps
    for step, following in pairwise(steps):
        advance = answered(up_to(step.number, kind))
        assert rules(advance) == ["R2", "R2"]
        assert state_of(advance, step.number) is StepState.DONE
        assert (advance.commands[-1].step, advance.commands[-1].action) == (following.number, following.action)


@pytest.mark.parametrize(
    ("kind", "step", "cause", "roles", "replica"),
    [
        (PLANNED, "P4", RouteCause.FAILOVER, {REPLICA: Role.PRIMARY, PRIMARY: Role.RETIRED}, ""),
        (PLANNED, "P5", RouteCause.REVERSED, {REPLICA: Role.PRIMARY, PRIMARY: Role.REPLICA}, PRIMARY),
        (UNPLANNED, "U3", RouteCause.FAILOVER, {REPLICA: Role.PRIMARY, PRIMARY: Role.RETIRED}, ""),
    ],
)
def test_r2_the_effect_of_a_step_changes_the_owner_under_a_new_epoch(
    kind: FailoverKind, step: str, cause: RouteCause, roles: dict[str, Role], replica: str
) -> None:
    before = up_to(step, kind)
    advance = answered(before)
    (update,) = advance.routes
    assert (update.cause, update.epoch, update.run_id) == (cause, before.vm.epoch + 1, "r")
    assert {location.site: location.role for location in update.locations} == roles
    assert (advance.vm.active_site, advance.vm.replica_site) == (REPLICA, replica)
    assert advance.commands[-1].epoch == update.epoch


def test_r2_no_other_step_touches_the_route() -> None:
    for kind, workflow in WORKFLOWS.items():
        for step in workflow.steps:
            if step.number not in ("P4", "P5", "U3"):
                assert answered(up_to(step.number, kind)).routes == ()


def test_r2_the_command_goes_to_where_the_vm_is_by_then() -> None:
    before = up_to("P3")
    moved = tuple(replace(each, node="d2") if each.site == REPLICA else each for each in before.vm.locations)
    advance = on_result(before.run, replace(before.vm, locations=moved), result(before), NOW)
    assert advance.commands[-1].node == "d2"


@pytest.mark.parametrize("outcome", [FAILED, STALE, None])
def test_r3_an_attempt_that_did_not_work_is_made_again_later(outcome: StepOutcome | None) -> None:
    advance = up_to("P2")
    for attempt, wait in ((1, 1_000), (2, 2_000)):
        assert advance.commands[-1].attempt == attempt
        now = advance.run.due_ms if outcome is None else NOW
        advance = on_due(advance.run, advance.vm, now) if outcome is None else answered(advance, outcome)
        assert rules(advance) == ["R3"]
        assert state_of(advance, "P2") is StepState.WAITING
        assert advance.run.due_ms == now + wait
        advance = on_due(advance.run, advance.vm, advance.run.due_ms)
        assert rules(advance) == ["R3"]
    last = on_due(advance.run, advance.vm, advance.run.due_ms) if outcome is None else answered(advance, outcome)
    assert rules(last)[0] == "R4"


def test_r3_the_wait_doubles_up_to_thirty_seconds() -> None:
    advance, waits = up_to("P7"), []
    for _ in range(WORKFLOWS[PLANNED].steps[6].attempts - 1):
        advance = answered(advance, FAILED)
        waits.append(advance.run.due_ms - NOW)
        advance = on_due(advance.run, advance.vm, advance.run.due_ms)
    assert waits == [1_000, 2_000, 4_000, 8_000]


def test_r3_before_its_time_nothing_is_done() -> None:
    advance = up_to("P2")
    assert on_due(advance.run, advance.vm, advance.run.due_ms - 1) == Advance(advance.run, advance.vm)


@pytest.mark.parametrize(
    ("kind", "step", "state", "undone"),
    [
        (PLANNED, "P1", RunState.FAILED, []),
        (PLANNED, "P2", RunState.FAILED, ["P2"]),
        (PLANNED, "P3", RunState.FAILED, ["P3", "P2"]),
        (PLANNED, "P4", RunState.FAILED, ["P4", "P3", "P2"]),
        (PLANNED, "P5", RunState.FAILED, ["P4", "P3", "P2"]),
        (PLANNED, "P6", RunState.COMPLETED_WITH_ERRORS, []),
        (PLANNED, "P7", RunState.FAILED, []),
        (PLANNED, "P8", RunState.COMPLETED_WITH_ERRORS, []),
        (UNPLANNED, "U1", RunState.FAILED, []),
        (UNPLANNED, "U2", RunState.FAILED, []),
        (UNPLANNED, "U3", RunState.FAILED, ["U3"]),
        (UNPLANNED, "U4", RunState.COMPLETED_WITH_ERRORS, []),
        (UNPLANNED, "U5", RunState.FAILED, []),
        (UNPLANNED, "U6", RunState.COMPLETED_WITH_ERRORS, []),
        (UNPLANNED, "U7", RunState.COMPLETED_WITH_ERRORS, []),
    ],
)
def test_r4_a_step_refused_ends_as_the_workflow_says(
    kind: FailoverKind, step: str, state: RunState, undone: list[str]
) -> None:
    world = World(behaviours={"vm-1": {step: [Behaviour.REFUSE]}}, primary_alive=kind is PLANNED)
    world.send(request(kind))
    world.run()
    check(world)
    assert world.ended().state is state
    assert [each.step for each in world.told(StepCommand) if "-undo" in each.step] == [f"{it}-undo" for it in undone]
    assert world.ended().detail == f"{step}: told to refuse"


def test_r4_a_failover_with_errors_is_not_completed() -> None:
    world = World(behaviours={"vm-1": {"U6": [Behaviour.REFUSE]}}, primary_alive=False)
    world.send(request(UNPLANNED))
    world.run()
    assert "U7" not in [command.step for command in world.told(StepCommand)]


def test_r5_a_cancel_gives_up_the_step_in_hand_and_undoes_what_was_done() -> None:
    before = up_to("P3")
    advance = on_cancel(before.run, before.vm, request(action=CANCEL), NOW)
    (command,) = advance.commands
    assert rules(advance) == ["R5", "R7"]
    assert (command.step, command.action, command.site) == ("P3-undo", Action.CANCEL_PREPARE, PRIMARY)
    # Higher than the command on its way, which must not be carried out after its undo.
    assert command.epoch == before.commands[-1].epoch + 1
    assert advance.run.state is RunState.UNDOING


def test_r5_a_step_that_leaves_nothing_to_undo_is_marked_as_given_up() -> None:
    before = up_to("P1")
    advance = on_cancel(before.run, before.vm, request(action=CANCEL), NOW)
    assert (advance.run.state, advance.commands, advance.vm.run_id) == (RunState.CANCELLED, (), "")
    assert advance.run.steps[0].state is StepState.FAILED
    assert advance.run.steps[0].detail == "given up: the run was cancelled"


@pytest.mark.parametrize(("kind", "step"), [(PLANNED, "P5"), (PLANNED, "P8"), (UNPLANNED, "U7")])
def test_r6_a_cancel_comes_too_late(kind: FailoverKind, step: str) -> None:
    before = up_to(step, kind)
    advance = on_cancel(before.run, before.vm, request(kind, CANCEL), NOW)
    assert "cannot be undone; fail over back instead" in advance.refusal
    assert advance.run is before.run


def test_r6_a_run_that_ended_or_is_being_undone_is_not_cancelled() -> None:
    undoing = on_cancel(up_to("P3").run, VM, request(action=CANCEL), NOW)
    assert on_cancel(undoing.run, undoing.vm, request(action=CANCEL), NOW).refusal == "the run is being undone already"
    ended = on_cancel(up_to("P1").run, VM, request(action=CANCEL), NOW)
    refusal = on_cancel(ended.run, ended.vm, request(action=CANCEL), NOW).refusal
    assert refusal == "the run has already ended: CANCELLED"


def test_r7_the_steps_are_undone_last_first_and_the_route_goes_back() -> None:
    before = up_to("P5")
    advance = answered(before, REFUSED)
    undone = []
    while not advance.run.state.ended:
        undone.append(advance.commands[-1].action)
        advance = answered(advance)
        assert rules(advance)[0] == "R7"
        if undone == [Action.CANCEL_FAILOVER]:
            (back,) = advance.routes
            assert (back.cause, back.changed.site, back.epoch) == (RouteCause.FAILOVER, PRIMARY, before.vm.epoch + 2)
            assert {each.site: each.role for each in back.locations} == {PRIMARY: Role.PRIMARY, REPLICA: Role.REPLICA}
    assert undone == [Action.CANCEL_FAILOVER, Action.CANCEL_PREPARE, Action.START]
    assert (advance.vm.active_site, advance.vm.replica_site) == (PRIMARY, REPLICA)
    assert [state_of(advance, step) for step in ("P2", "P3", "P4")] == [StepState.UNDONE] * 3


def test_r8_an_undo_that_fails_does_not_stop_the_others_but_the_run_is_not_just_cancelled() -> None:
    before = up_to("P4")
    advance = on_cancel(before.run, before.vm, request(action=CANCEL), NOW)
    advance = answered(answered(advance), REFUSED)
    assert rules(advance) == ["R8", "R7"]
    assert advance.commands[-1].step == "P2-undo"
    advance = answered(advance)
    assert (advance.run.state, advance.run.errors) == (RunState.FAILED, ("P3-undo: as told",))


def test_r8_where_the_old_primary_runs_again_it_is_the_primary() -> None:
    """The replica's end could not be taken back, but nothing was started there."""
    advance = answered(answered(up_to("P5"), REFUSED), REFUSED)
    assert (advance.commands[-1].step, advance.vm.active_site) == ("P3-undo", REPLICA)
    advance = answered(answered(advance))
    assert (advance.run.state, advance.vm.active_site, advance.vm.replica_site) == (RunState.FAILED, PRIMARY, REPLICA)
    assert advance.routes[-1].changed.role is Role.PRIMARY


def test_r9_the_run_ends_where_no_step_is_left() -> None:
    advance = answered(up_to("P8"))
    assert rules(advance) == ["R2", "R9"]
    assert (advance.run.state, advance.run.due_ms, advance.run.finished_at_ms) == (RunState.SUCCEEDED, 0, NOW)
    assert advance.vm.run_id == ""


@pytest.mark.parametrize(
    "differs",
    [
        {"step": "P1"},
        {"step": "P3"},
        {"step": "P2-undo"},
        {"attempt": 2, "outcome": FAILED},
        {"attempt": 0, "outcome": REFUSED},
    ],
)
def test_r10_an_answer_that_nobody_waits_for_changes_nothing(differs: dict[str, object]) -> None:
    before = up_to("P2")
    assert on_result(before.run, before.vm, result(before, **differs), NOW) == Advance(before.run, before.vm)  # type: ignore[arg-type]  # any field


def test_r10_nor_does_any_answer_after_the_end() -> None:
    ended = answered(up_to("P8"))
    late = result(up_to("P8"))
    assert on_result(ended.run, ended.vm, late, NOW) == Advance(ended.run, ended.vm)
    assert on_due(ended.run, ended.vm, NOW * 1_000) == Advance(ended.run, ended.vm)


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


def test_addresses_set_while_a_run_is_under_way_are_for_the_next_one() -> None:
    before = up_to("P7")
    other = VmReplicationSettings("vm-1", (replace(TARGET, ipv4=None),))
    advance = on_result(before.run, replace(before.vm, settings=other), result(before), NOW)
    assert (advance.commands[-1].action, advance.commands[-1].addresses) == (Action.VERIFY_ADDRESSES, (TARGET,))


@pytest.mark.parametrize(
    ("kind", "step", "point", "loss_ms"),
    [
        (PLANNED, "P4", str(NOW - 9), 0),
        (UNPLANNED, "U3", str(NOW - 9), 9),
        (UNPLANNED, "U3", str(NOW + 9), 0),
        (UNPLANNED, "U3", "0", -1),
        (UNPLANNED, "U3", "", -1),
    ],
)
def test_what_was_lost_is_the_age_of_the_recovery_point(
    kind: FailoverKind, step: str, point: str, loss_ms: int
) -> None:
    before = up_to(step, kind)
    answer = result(before, observed={"recovery_point_at_ms": point})
    assert on_result(before.run, before.vm, answer, NOW).run.data_loss_ms == loss_ms


def test_the_route_of_a_vm_whose_old_place_nobody_knows() -> None:
    vm = replace(VM, locations=VM.locations[:1])
    advance = answered(up_to("U3", UNPLANNED, vm))
    assert [each.changed.role for each in advance.routes] == [Role.PRIMARY]
    assert advance.commands[-1].peer_node == ""


def test_a_failover_is_told_as_it_goes() -> None:
    world = World()
    world.send(request())
    world.run()
    causes = [route.cause for route in world.told(RoutingUpdate)][-2:]
    assert causes == [RouteCause.FAILOVER, RouteCause.REVERSED]
    journal = [entry for entry in world.told(JournalEntry) if entry.run_id == "r"]
    assert [entry.rule for entry in journal] == ["R1", *["R2"] * 16, "R9"]
    assert {(entry.actor, entry.reason, entry.ticket) for entry in journal} == {("ann", "drill", "INC-7")}
    assert journal[0].at_ms == START_MS
    assert journal[-1].at_ms == START_MS + 8 * ANSWER_MS


def test_an_unplanned_failover_carries_its_attestation() -> None:
    unattested = replace(request(UNPLANNED), primary_is_down=False)
    for asked in (request(UNPLANNED), unattested):
        assert isinstance(asked, FailoverRequested)
        assert begin(asked, VM, NOW, "").commands[0].attested is asked.primary_is_down


@pytest.mark.parametrize("text", ["", "-1", "1.5", "²", "٣", "9" * 5000])
def test_what_is_observed_is_a_number_only_where_it_is_a_sane_one(text: str) -> None:
    """Anybody may write step results: one that cannot be read as a number must not stop a partition for good."""
    result = StepResult("r", "U3", 1, "v", "dr", "d1", 1, StepOutcome.DONE, "", 0, {"recovery_point_at_ms": text})
    assert result.number("recovery_point_at_ms") is None
    assert replace(result, observed={"recovery_point_at_ms": "17"}).number("recovery_point_at_ms") == 17
