"""What people say to a run that is under way, and when they can say it. Pure.

| rule | said | to a run that | then |
| --- | --- | --- | --- |
| R5 | CANCEL | has not issued its point of no return | the step in hand is given up, and the steps done are undone |
| R6 | CANCEL | has | refused: a failover back is the way |
| R15 | COMMIT | awaits commitment | it goes on: the failover is kept |
| R16 | ROLL_BACK | awaits commitment | everything is undone, and it ends CANCELLED |
| R17 | TRY_ANOTHER | awaits commitment | the failover is undone, and made again from the recovery point now asked for |
| R18 | RESUME | is parked | the step in hand is tried again |
| R19 | CONFIRM | is parked | the step in hand counts as done, as the person attests |
| R20 | SKIP | is parked at a step that can be left out | it goes on without it, at best COMPLETED_WITH_ERRORS |
| R21 | FORWARD | is parked while being undone | it turns round again, to the first step that was undone |
| R22 | ABANDON | is parked | it ends FAILED where it stands |
| R23 | any of these | is not in such a state | refused, with the state it is in and what can be said to it |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from failover_orch.domain.effects import take_effect
from failover_orch.domain.facts import FailoverRequested, RequestAction, StepOutcome, StepResult
from failover_orch.domain.records import RoutingUpdate, RunState, StepState
from failover_orch.domain.runs import (
    Advance,
    Transition,
    can_be_cancelled,
    commit,
    end,
    go_on,
    issue,
    on_result,
    proceed,
    step_in_hand,
    turn_round,
    undo_errors,
    workflow_of,
)
from failover_orch.domain.state import Run, VmState
from failover_orch.domain.workflows import Effect

__all__ = ["LEGAL_IN", "say"]

_State = RunState
LEGAL_IN: Mapping[RequestAction, frozenset[RunState]] = {
    RequestAction.APPROVE: frozenset({_State.AWAITING_APPROVAL}),
    RequestAction.REJECT: frozenset({_State.AWAITING_APPROVAL}),
    RequestAction.CANCEL: frozenset(
        {_State.AWAITING_APPROVAL, _State.RUNNING, _State.AWAITING_COMMIT, _State.PARKED, _State.UNDOING}
    ),
    RequestAction.COMMIT: frozenset({_State.AWAITING_COMMIT}),
    RequestAction.ROLL_BACK: frozenset({_State.AWAITING_COMMIT}),
    RequestAction.TRY_ANOTHER: frozenset({_State.AWAITING_COMMIT}),
    RequestAction.RESUME: frozenset({_State.PARKED}),
    RequestAction.CONFIRM: frozenset({_State.PARKED}),
    RequestAction.SKIP: frozenset({_State.PARKED}),
    RequestAction.FORWARD: frozenset({_State.PARKED}),
    RequestAction.ABANDON: frozenset({_State.PARKED}),
}
"""In which states a run can be told what."""


def say(run: Run, vm: VmState, request: FailoverRequested, now_ms: int) -> Advance:
    """Take what a person says to a run. APPROVE and REJECT are not for here, see `approvals`."""
    action = request.action
    if run.state.ended:
        return Advance(run, vm, refusal=f"the run has already ended: {run.state}")
    rule = _RULES.get(action)
    if rule is None or run.state not in LEGAL_IN[action] or _not_offered(run, action):
        return Advance(run, vm, refusal=_not_now(run, action))
    who = f"{request.actor}: {request.reason}"
    return rule.take(run, vm, request, Transition(rule.number, f"{rule.said} by {who}"), now_ms)


def _not_offered(run: Run, action: RequestAction) -> bool:
    return run.state is RunState.PARKED and action is not RequestAction.CANCEL and action not in run.choices


def _not_now(run: Run, action: RequestAction) -> str:
    can = [
        said
        for said, states in LEGAL_IN.items()
        if run.state in states
        and not _not_offered(run, said)
        and (said is not RequestAction.CANCEL or run.state is RunState.AWAITING_APPROVAL or can_be_cancelled(run))
    ]
    needed = ", ".join(sorted(LEGAL_IN.get(action, ()))) or "never"
    told = ", ".join(can) or "nothing"
    return f"{action} needs a run that is {needed}; this one is {run.state} and can be told {told}"


def _cancel(run: Run, vm: VmState, _request: FailoverRequested, said: Transition, now_ms: int) -> Advance:
    if run.state is RunState.AWAITING_APPROVAL:
        ended = replace(run, state=RunState.CANCELLED, finished_at_ms=now_ms, due_ms=0, waits_for="", choices=())
        return Advance(ended, vm, transitions=(said,))
    if run.trying_another:
        cancelled = replace(run, trying_another=False, ends_as=RunState.CANCELLED)
        return Advance(cancelled, vm, transitions=(said,))
    if RunState.UNDOING in (run.state, run.parked_in if run.state is RunState.PARKED else None):
        return Advance(run, vm, refusal="the run is being undone already")
    if not can_be_cancelled(run):
        last = f"step {workflow_of(run).point_of_no_return} is under way or done, and cannot be undone"
        return Advance(run, vm, refusal=f"{last}; fail over back instead")
    return turn_round(run, vm, RunState.CANCELLED, said, now_ms)


def _commit(run: Run, vm: VmState, request: FailoverRequested, said: Transition, now_ms: int) -> Advance:
    return commit(replace(run, committed_by=request.actor), vm, said, now_ms)


def _roll_back(run: Run, vm: VmState, _request: FailoverRequested, said: Transition, now_ms: int) -> Advance:
    return turn_round(run, vm, RunState.CANCELLED, said, now_ms)


def _try_another(run: Run, vm: VmState, request: FailoverRequested, said: Transition, now_ms: int) -> Advance:
    if request.point == run.point:
        return Advance(run, vm, refusal=f"the run stands at {run.point} already: name another one")
    run = replace(run, point=request.point, trying_another=True)
    said = replace(said, what=f"{said.what}: {request.point}")
    return turn_round(run, vm, RunState.FAILED, said, now_ms)


def _resume(run: Run, vm: VmState, _request: FailoverRequested, said: Transition, now_ms: int) -> Advance:
    return go_on(run, vm, said, now_ms)


def _confirm(run: Run, vm: VmState, request: FailoverRequested, said: Transition, now_ms: int) -> Advance:
    step, progress = step_in_hand(run)
    undoing = run.parked_in is RunState.UNDOING
    attested = StepResult(
        run_id=run.request.run_id,
        step=f"{step.number}-undo" if undoing else step.number,
        attempt=progress.attempt,
        vm_id=vm.vm_id,
        site="",
        node="",
        epoch=vm.epoch,
        outcome=StepOutcome.DONE,
        detail=f"attested by {request.actor}: {request.reason}",
        finished_at_ms=now_ms,
    )
    # A new epoch: a command of this step that is still on its way would do what has now been done by hand.
    vm = replace(vm, epoch=vm.epoch + 1)
    return Advance(run, vm, transitions=(said,)).then(on_result(run, vm, attested, now_ms))


def _skip(run: Run, vm: VmState, request: FailoverRequested, said: Transition, now_ms: int) -> Advance:
    step, progress = step_in_hand(run)
    undoing = run.parked_in is RunState.UNDOING
    named = f"{step.number}-undo" if undoing else step.number
    skipped = replace(progress, state=StepState.SKIPPED, detail=f"skipped by {request.actor}", finished_at_ms=now_ms)
    run = replace(
        run,
        state=run.parked_in,
        steps=tuple(skipped if known.step == step.number else known for known in run.steps),
        errors=(*run.errors, f"{named}: skipped by {request.actor} ({progress.detail})"),
        # An undo that was left out leaves something of the run behind: that is no clean cancellation.
        ends_as=RunState.FAILED if undoing else run.ends_as,
        choices=(),
        waits_for="",
        bug="",
        due_ms=0,
    )
    vm = replace(vm, epoch=vm.epoch + 1)
    return Advance(run, vm, transitions=(said,)).then(proceed(run, vm, now_ms))


def _forward(run: Run, vm: VmState, _request: FailoverRequested, said: Transition, now_ms: int) -> Advance:
    """Go forwards again from the lowest step that was undone, or may have been: steps are safe to ask for twice.

    Where nothing was undone yet it is the step that had failed: it may well have been done, as a reversal whose answers
    were lost, and then the one before it can be done no more.
    """
    undone = [index for index, progress in enumerate(run.steps) if progress.state is StepState.UNDONE]
    position = min([run.position, *undone]) if undone else max(run.turned_at, run.position)
    steps = tuple(
        progress if index < position else replace(progress, state=StepState.PENDING, detail="", finished_at_ms=0)
        for index, progress in enumerate(run.steps)
    )
    run = replace(
        run,
        state=RunState.RUNNING,
        parked_in=RunState.RUNNING,
        ends_as=RunState.SUCCEEDED,
        trying_another=False,
        steps=steps,
        errors=undo_errors(run),
        position=position,
        attempts_from=steps[position].attempt,
        choices=(),
        waits_for="",
        bug="",
        turned_at_epoch=vm.epoch + 1,
    )
    vm = replace(vm, epoch=vm.epoch + 1)
    return Advance(run, vm, transitions=(said,)).then(issue(run, vm, now_ms))


def _abandon(run: Run, vm: VmState, request: FailoverRequested, said: Transition, now_ms: int) -> Advance:
    step, progress = step_in_hand(run)
    abandoned = replace(progress, state=StepState.FAILED, finished_at_ms=now_ms)
    run = replace(run, steps=tuple(abandoned if known.step == step.number else known for known in run.steps))
    run = replace(run, errors=(*run.errors, f"{step.number}: abandoned by {request.actor} ({progress.detail})"))
    # Nothing of it may still be carried out once the VM is free for another run.
    vm = replace(vm, epoch=vm.epoch + 1)
    vm, routes = _given_back(run, vm, now_ms)
    return Advance(run, vm, routes=routes, transitions=(said,)).then(end(run, vm, RunState.FAILED, now_ms))


def _given_back(run: Run, vm: VmState, now_ms: int) -> tuple[VmState, tuple[RoutingUpdate, ...]]:
    """The VM with its old owner, where the failover was undone to be made again, and was not.

    While another recovery point is tried the VM stays where it was: that ends with the run.
    """
    for step, progress in zip(workflow_of(run).steps, run.steps, strict=True):
        if step.effect is Effect.FAILED_OVER and progress.state is not StepState.DONE:
            return take_effect(run, vm, step, now_ms, undone=True)
    return vm, ()


@dataclass(frozen=True, slots=True)
class _Rule:
    number: str
    said: str
    take: Callable[[Run, VmState, FailoverRequested, Transition, int], Advance]


_RULES: Mapping[RequestAction, _Rule] = {
    RequestAction.CANCEL: _Rule("R5", "cancelled", _cancel),
    RequestAction.COMMIT: _Rule("R15", "committed", _commit),
    RequestAction.ROLL_BACK: _Rule("R16", "rolled back", _roll_back),
    RequestAction.TRY_ANOTHER: _Rule("R17", "to be tried from another recovery point, said", _try_another),
    RequestAction.RESUME: _Rule("R18", "resumed", _resume),
    RequestAction.CONFIRM: _Rule("R19", "confirmed", _confirm),
    RequestAction.SKIP: _Rule("R20", "skipped", _skip),
    RequestAction.FORWARD: _Rule("R21", "sent forward again", _forward),
    RequestAction.ABANDON: _Rule("R22", "abandoned", _abandon),
}
