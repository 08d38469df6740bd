"""The run of one VM's failover: what to do next, given what has just become known. Pure, and total.

`begin`, `on_result` and `on_due` take a run and the VM it is about and return an `Advance`: the run and the VM as they
are from now on, the commands to issue, and the transitions to journal. What people say to a run is in `operators`.

| rule | when | then |
| --- | --- | --- |
| R1 | a run begins | it takes the VM's next epoch, so that no older command counts any more; the first step is issued |
| R2 | a step is done | its effect on the VM is taken, and the next step is issued |
| R3 | an attempt failed, timed out or was stale, and attempts are left | the step waits, then is issued again |
| R4 | a step failed for good, or was refused | undo, halt, park or continue, as the workflow says |
| R7 | an undo step is done | the one before it is undone |
| R8 | an undo step fails for good | the run is parked: how things are only a person can find out |
| R9 | no step is left | the run ends |
| R10 | a result that the run does not wait for | nothing: a repeated or overtaken answer |
| R11 | a window is reached | it opens, or is passed at once, as the commit policy says |
| R12 | a window's time is over | the failover is kept, or taken back, as the commit policy says |
| R13 | a step was begun and nobody knows how it ended | the run is parked |
| R24 | a step is reached that is done only where nothing failed | it is left out, unless a person has committed |
| R14 | an unexpected error while a fact was folded | the run is parked, and tried again every minute |

R5, R6 and R15 to R23 are in `operators`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from failover_orch.domain.backoff import backoff_ms
from failover_orch.domain.effects import observed, take_effect
from failover_orch.domain.facts import RequestAction, StepOutcome, StepResult
from failover_orch.domain.records import (
    Action,
    RoutingUpdate,
    RunState,
    StepCommand,
    StepProgress,
    StepState,
)
from failover_orch.domain.state import Run, VmState
from failover_orch.domain.terms import CommitPolicy, StepPolicy
from failover_orch.domain.workflows import WORKFLOWS, Effect, OnFailure, Side, Step, Workflow

__all__ = [
    "Advance",
    "Transition",
    "begin",
    "can_be_cancelled",
    "commit",
    "end",
    "go_on",
    "issue",
    "on_due",
    "on_result",
    "park",
    "park_for_bug",
    "pending_steps",
    "proceed",
    "step_in_hand",
    "turn_round",
    "undo_errors",
    "workflow_of",
]

_AT_WORK = (RunState.RUNNING, RunState.UNDOING, RunState.PARKED)
_BUG_RETRY_MS = 60_000
_TABLE = StepPolicy()
"""Every value as the workflow's table has it."""
_UNDO = "-undo"
_CAN_DO_WITHOUT = (OnFailure.CONTINUE, OnFailure.PARK)
_WITH_ADDRESSES = (Action.STAGE_ADDRESSES, Action.VERIFY_ADDRESSES, Action.CREATE_TEST, Action.VERIFY_TEST)


@dataclass(frozen=True, slots=True)
class Transition:
    """One line for the journal: which rule made what of it, on what evidence."""

    rule: str
    what: str
    evidence: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Advance:
    """The run and the VM from now on, and what follows. `refusal`: what was asked for cannot be had, and why."""

    run: Run
    vm: VmState
    commands: tuple[StepCommand, ...] = ()
    routes: tuple[RoutingUpdate, ...] = ()
    transitions: tuple[Transition, ...] = ()
    refusal: str = ""

    def then(self, following: Advance) -> Advance:
        """What happened here, and what followed from it at once."""
        return replace(
            following,
            commands=self.commands + following.commands,
            routes=self.routes + following.routes,
            transitions=self.transitions + following.transitions,
        )


def workflow_of(run: Run) -> Workflow:
    return WORKFLOWS[run.request.kind]


def pending_steps(workflow: Workflow) -> tuple[StepProgress, ...]:
    """The steps of a run that has not begun."""
    return tuple(StepProgress(step.number, StepState.PENDING, 0, "", 0, 0) for step in workflow.steps)


def begin(run: Run, vm: VmState, now_ms: int) -> Advance:
    """Start a run that nothing speaks against, and that all have agreed to whose agreement it needs (R1)."""
    epoch = vm.epoch + 1
    run = replace(run, state=RunState.RUNNING, epoch=epoch, position=0, due_ms=0, choices=(), waits_for="")
    if run.request.isolated:
        vm = replace(vm, epoch=epoch, test_run_id=run.request.run_id)
    else:
        vm = replace(vm, epoch=epoch, run_id=run.request.run_id)
    what = f"{run.request.kind.noun} from {run.primary_site} to {run.replica_site} begins"
    started = Advance(run, vm, transitions=(Transition("R1", what, {"epoch": str(epoch)}),))
    return started.then(issue(run, vm, now_ms))


def on_result(run: Run, vm: VmState, result: StepResult, now_ms: int) -> Advance:
    """Take a site agent's answer."""
    if run.state not in _AT_WORK:
        return Advance(run, vm)
    step, progress = step_in_hand(run)
    waited_for = progress.state in (StepState.ISSUED, StepState.WAITING)
    if not waited_for or result.step != _command_step(run, step):
        return Advance(run, vm)
    if result.outcome is StepOutcome.DONE:
        if result.epoch < run.turned_at_epoch:
            return Advance(run, vm)  # told again: what it speaks of has been undone since
        # Of whatever attempt, and also to a parked run: a step that has been done is done.
        return _done(_unparked(run), vm, step, result, now_ms)
    overtaken = result.attempt != progress.attempt or progress.state is not StepState.ISSUED
    if overtaken or run.state is RunState.PARKED or result.outcome is StepOutcome.BEGUN:
        return Advance(run, vm)
    if result.outcome is StepOutcome.UNCERTAIN:
        uncertain = Transition("R13", f"{result.step}: {result.detail}")
        return park(run, vm, result.detail, uncertain)
    final = result.outcome is StepOutcome.REFUSED
    return _failed(run, vm, step, result.detail, now_ms, final=final)


def on_due(run: Run, vm: VmState, now_ms: int) -> Advance:
    """Look at a run whose time has come: an attempt has run out of time, a retry or the end of a window is due."""
    if run.state.ended or not run.due_ms or now_ms < run.due_ms:
        return Advance(run, vm)
    if run.state is RunState.PARKED:
        return go_on(run, vm, Transition("R14", "tried again: fixed code may have come"), now_ms)
    if run.state is RunState.AWAITING_COMMIT:
        if run.request.commit is CommitPolicy.AUTO_COMMIT:
            what = "ended as passed" if run.request.isolated else "kept"
            return commit(run, vm, Transition("R12", f"the window is over: {what}"), now_ms)
        return turn_round(run, vm, RunState.CANCELLED, Transition("R12", "the window is over: taken back"), now_ms)
    step, progress = step_in_hand(run)
    if progress.state is StepState.WAITING:
        return issue(run, vm, now_ms)
    seconds = _timeout_ms(run, step) // 1000
    return _failed(run, vm, step, f"no answer within {seconds} s", now_ms, final=False)


def step_in_hand(run: Run) -> tuple[Step, StepProgress]:
    steps = workflow_of(run).steps
    position = min(max(run.position, 0), len(steps) - 1)
    return steps[position], run.steps[position]


def issue(run: Run, vm: VmState, now_ms: int) -> Advance:
    """Issue the step in hand, at the node where the VM is at that site now."""
    step, progress = step_in_hand(run)
    if step.action is None:
        return _reach_window(run, vm, step, now_ms)
    undoing = run.state is RunState.UNDOING
    action = step.undo if undoing and step.undo is not None else step.action
    attempt = progress.attempt + 1
    deadline = now_ms + _timeout_ms(run, step)
    issued = replace(
        progress,
        state=StepState.ISSUED,
        attempt=attempt,
        detail="",
        started_at_ms=progress.started_at_ms or now_ms,
        finished_at_ms=0,
    )
    run = _with_step(run, issued, due_ms=deadline)
    command = _command(run, vm, step, action, attempt, now_ms, deadline)
    rule = "R3" if attempt > run.attempts_from + 1 else ("R7" if undoing else "R2")
    what = f"{command.step} issued to {command.site}/{command.node or '?'}: {action}"
    said = Transition(rule, what, {"attempt": str(attempt), "epoch": str(vm.epoch)})
    return Advance(run, vm, commands=(command,), transitions=(said,))


def go_on(run: Run, vm: VmState, why: Transition, now_ms: int) -> Advance:
    """Take a parked run up again at its step in hand, which gets its attempts anew."""
    _, progress = step_in_hand(run)
    run = replace(_unparked(run), attempts_from=progress.attempt)
    return Advance(run, vm, transitions=(why,)).then(issue(run, vm, now_ms))


def commit(run: Run, vm: VmState, why: Transition, now_ms: int) -> Advance:
    """Close the window: the failover is kept."""
    _, progress = step_in_hand(run)
    run = replace(run, state=RunState.RUNNING, choices=(), waits_for="", due_ms=0)
    run = _with_step(run, replace(progress, state=StepState.DONE, detail=why.what, finished_at_ms=now_ms), due_ms=0)
    return Advance(run, vm, transitions=(why,)).then(proceed(run, vm, now_ms))


def park(
    run: Run,
    vm: VmState,
    why: str,
    said: Transition,
    *,
    retry_ms: int = 0,
) -> Advance:
    """Leave the run to a person. The step in hand stays as it is: its answer, if it still comes, is taken."""
    step, progress = step_in_hand(run)
    parked_in = run.parked_in if run.state is RunState.PARKED else run.state
    if parked_in is RunState.AWAITING_COMMIT:
        parked_in = RunState.RUNNING  # taken up again, it opens its window anew
    run = replace(run, parked_in=parked_in, state=RunState.PARKED)
    run = _with_step(run, replace(progress, state=StepState.WAITING, detail=why), due_ms=retry_ms)
    choices = _choices(run, step)
    waits_for = f"{run.request.asker} has to say how it goes on after {_command_step(run, step)}: {why}"
    run = replace(run, choices=choices, waits_for=waits_for)
    listed = ", ".join(choices)
    parked = Transition(said.rule, f"{said.what}; parked: it can be told to {listed}", said.evidence)
    return Advance(run, vm, transitions=(parked,))


def park_for_bug(run: Run, vm: VmState, error: str, now_ms: int) -> Advance:
    """An unexpected error is no reason to fail a run: it waits for fixed code, or a person (R14)."""
    waits_for_person = run.state is RunState.AWAITING_APPROVAL or (run.state is RunState.PARKED and not run.bug)
    if run.state.ended or waits_for_person:
        return Advance(run, vm)
    said = Transition("R14", f"an unexpected error: {error}")
    advance = park(run, vm, error, said, retry_ms=now_ms + _BUG_RETRY_MS)
    return replace(advance, run=replace(advance.run, bug=error))


def turn_round(run: Run, vm: VmState, ends_as: RunState, why: Transition, now_ms: int) -> Advance:
    """Undo what was done. The step in hand is undone too: it may have been done though its answer has not come."""
    # A new epoch: a command of the step in hand that is still on its way must not be carried out after its undo.
    vm = replace(vm, epoch=vm.epoch + 1)
    _, progress = step_in_hand(run)
    if progress.state in (StepState.ISSUED, StepState.WAITING):
        given_up = replace(progress, state=StepState.FAILED, detail="given up", finished_at_ms=now_ms)
        run = _with_step(run, given_up, due_ms=0)
    run = replace(
        run,
        state=RunState.UNDOING,
        parked_in=RunState.RUNNING,
        ends_as=ends_as,
        turned_at=run.position,
        turned_at_epoch=vm.epoch,
        position=run.position + 1,
        due_ms=0,
        choices=(),
        waits_for="",
        bug="",
    )
    return Advance(run, vm, transitions=(why,)).then(proceed(run, vm, now_ms))


def _unparked(run: Run) -> Run:
    if run.state is not RunState.PARKED:
        return run
    return replace(run, state=run.parked_in, choices=(), waits_for="", bug="", due_ms=0)


def can_be_cancelled(run: Run) -> bool:
    """Whether the run has not issued its point of no return, and is not being undone for good already."""
    workflow = workflow_of(run)
    going = run.parked_in if run.state is RunState.PARKED else run.state
    if going is RunState.UNDOING:
        return run.trying_another
    return run.position < workflow.index(workflow.point_of_no_return)


def _choices(run: Run, step: Step) -> tuple[RequestAction, ...]:
    """What a person can say to a run that is parked at this step."""
    if run.parked_in is RunState.UNDOING:
        return (
            RequestAction.RESUME,
            RequestAction.CONFIRM,
            RequestAction.SKIP,
            RequestAction.FORWARD,
            RequestAction.ABANDON,
        )
    choices = [RequestAction.RESUME]
    if step.action is not None:
        choices.append(RequestAction.CONFIRM)
    # A step whose failure would end or undo the run is none to leave out: the fence least of all.
    if step.action is not None and step.effect is Effect.NONE and step.on_failure in _CAN_DO_WITHOUT:
        choices.append(RequestAction.SKIP)
    if can_be_cancelled(run):
        choices.append(RequestAction.CANCEL)
    return (*choices, RequestAction.ABANDON)


def _command_step(run: Run, step: Step) -> str:
    going = run.parked_in if run.state is RunState.PARKED else run.state
    return step.number + (_UNDO if going is RunState.UNDOING else "")


def _command(
    run: Run, vm: VmState, step: Step, action: Action, attempt: int, now_ms: int, deadline_ms: int
) -> StepCommand:
    sites = (run.primary_site, run.replica_site)
    site, peer = sites if step.side is Side.PRIMARY else sites[::-1]
    here, there = vm.at(site), vm.at(peer)
    return StepCommand(
        run_id=run.request.run_id,
        step=_command_step(run, step),
        attempt=attempt,
        vm_id=vm.vm_id,
        site=site,
        node=here.node if here else "",
        epoch=vm.epoch,
        action=action,
        issued_at_ms=now_ms,
        deadline_ms=deadline_ms,
        peer_site=peer,
        peer_node=there.node if there else "",
        addresses=run.adapters if action in _WITH_ADDRESSES else (),
        attested=run.request.primary_is_down,
        point=run.point,
        test_network=run.test_network,
        per_node=run.request.per_node,
        per_site=run.request.per_site,
        plan_run_id=run.request.parent_run_id,
        fence=run.request.fence,
    )


def _done(run: Run, vm: VmState, step: Step, result: StepResult, now_ms: int) -> Advance:
    undoing = run.state is RunState.UNDOING
    _, progress = step_in_hand(run)
    state = StepState.UNDONE if undoing else StepState.DONE
    run = _with_step(run, replace(progress, state=state, detail=result.detail, finished_at_ms=now_ms), due_ms=0)
    run = observed(run, step, result, now_ms)
    if undoing and run.trying_another:
        # It is made again at once: meanwhile nobody is to be sent back to a primary that is gone.
        routes: tuple[RoutingUpdate, ...] = ()
    else:
        vm, routes = take_effect(run, vm, step, now_ms, undone=undoing)
    rule = "R7" if undoing else "R2"
    said = Transition(rule, f"{_command_step(run, step)} done: {result.detail}", dict(result.observed))
    return Advance(run, vm, routes=routes, transitions=(said,)).then(proceed(run, vm, now_ms))


def _failed(run: Run, vm: VmState, step: Step, why: str, now_ms: int, *, final: bool) -> Advance:
    _, progress = step_in_hand(run)
    named = _command_step(run, step)
    tries = progress.attempt - run.attempts_from
    if not final and tries < _attempts(run, step):
        name = f"{run.request.run_id}/{step.number}/{progress.attempt}"
        wait = backoff_ms(name, _policy(run, step).backoff_ms or step.backoff_ms, tries)
        waiting = replace(progress, state=StepState.WAITING, detail=why)
        run = _with_step(run, waiting, due_ms=now_ms + wait)
        what = f"{named} failed, tried again in {wait / 1000:.1f} s: {why}"
        return Advance(run, vm, transitions=(Transition("R3", what, {"attempt": str(progress.attempt)}),))
    if run.state is RunState.UNDOING and step.undo is Action.INSPECT:
        # Nobody answers; but by now the deadline of the step itself is over too, and nobody begins it any more.
        run = _with_step(run, replace(progress, state=StepState.UNDONE, detail=why, finished_at_ms=now_ms), due_ms=0)
        return Advance(run, vm, transitions=(Transition("R7", f"{named}: {why}"),)).then(proceed(run, vm, now_ms))
    if run.state is RunState.UNDOING:
        return park(run, vm, why, Transition("R8", f"{named} failed for good: {why}"))
    if step.on_failure is OnFailure.PARK:
        return park(run, vm, why, Transition("R4", f"{named} failed for good: {why}"))
    run = _with_step(run, replace(progress, state=StepState.FAILED, detail=why, finished_at_ms=now_ms), due_ms=0)
    run = replace(run, errors=(*run.errors, f"{named}: {why}"))
    said = Transition("R4", f"{named} failed for good, {step.on_failure.lower()}: {why}")
    match step.on_failure:
        case OnFailure.UNDO:
            return turn_round(run, vm, RunState.FAILED, said, now_ms)
        case OnFailure.HALT:
            return Advance(run, vm, transitions=(said,)).then(end(run, vm, RunState.FAILED, now_ms))
        case _:
            return Advance(run, vm, transitions=(said,)).then(proceed(run, vm, now_ms))


def proceed(run: Run, vm: VmState, now_ms: int) -> Advance:
    """Leave the step in hand behind. Go on to the next step that there is something to do for, or end (R9)."""
    if run.state is RunState.UNDOING:
        return _next_undo(run, vm, now_ms)
    steps = workflow_of(run).steps
    position = run.position + 1
    if position >= len(steps):
        ends_as = RunState.COMPLETED_WITH_ERRORS if run.errors else RunState.SUCCEEDED
        return end(run, vm, ends_as, now_ms)
    run = replace(run, position=position, attempts_from=run.steps[position].attempt)
    step = steps[position]
    if not (step.only_if_clean and run.errors and not run.committed_by):
        return issue(run, vm, now_ms)
    why = "an earlier step has failed, and nobody has committed it"
    run = _with_step(run, replace(run.steps[position], state=StepState.SKIPPED, detail=why), due_ms=0)
    left_out = Transition("R24", f"{step.number} is left out: {why}")
    return Advance(run, vm, transitions=(left_out,)).then(proceed(run, vm, now_ms))


def _next_undo(run: Run, vm: VmState, now_ms: int) -> Advance:
    workflow = workflow_of(run)
    lowest = workflow.takes_point if run.trying_another else 0
    position = run.position - 1
    while position >= lowest and not _to_be_undone(run, position):
        position -= 1
    if position >= lowest:
        run = replace(run, position=position, attempts_from=run.steps[position].attempt)
        return issue(run, vm, now_ms)
    if not run.trying_another:
        return end(run, vm, run.ends_as, now_ms)
    again = tuple(
        progress if index < lowest else replace(progress, state=StepState.PENDING, detail="", finished_at_ms=0)
        for index, progress in enumerate(run.steps)
    )
    run = replace(
        run,
        state=RunState.RUNNING,
        ends_as=RunState.SUCCEEDED,
        trying_another=False,
        steps=again,
        position=lowest,
        attempts_from=again[lowest].attempt,
        errors=undo_errors(run),
        addresses=(),
        data_loss_ms=-1,
    )
    return issue(run, vm, now_ms)


def undo_errors(run: Run) -> tuple[str, ...]:
    """What went wrong while undoing: it is not made good by going forward again."""
    return tuple(error for error in run.errors if f"{_UNDO}: " in error)


def _to_be_undone(run: Run, position: int) -> bool:
    step, progress = workflow_of(run).steps[position], run.steps[position]
    if step.undo is None or progress.state in (StepState.PENDING, StepState.UNDONE, StepState.SKIPPED):
        return False
    if step.undo is Action.INSPECT:
        return progress.state is StepState.FAILED  # given up: it may still be on its way
    # A VM that was off before the run shut it down is not started by taking that back.
    return not (step.undo is Action.START and run.power_before == "OFF")


def end(run: Run, vm: VmState, state: RunState, now_ms: int) -> Advance:
    """End the run (R9). A test that succeeded is the VM's latest drill."""
    run = replace(run, state=state, finished_at_ms=now_ms, due_ms=0, choices=(), waits_for="")
    if state in (RunState.CANCELLED, RunState.FAILED) and vm.active_site == run.primary_site:
        # What it had achieved has been undone: nobody is to count it.
        run = replace(run, data_loss_ms=-1, serving_at_ms=0, addresses=(), recovery_point="")
    if run.request.isolated:
        drilled = now_ms if state is RunState.SUCCEEDED else vm.drilled_at_ms
        vm = replace(vm, test_run_id="", drilled_at_ms=drilled)
    else:
        vm = replace(vm, run_id="")
    what = f"the run ends: {state}" + (f" ({'; '.join(run.errors)})" if run.errors else "")
    return Advance(run, vm, transitions=(Transition("R9", what),))


def _reach_window(run: Run, vm: VmState, step: Step, now_ms: int) -> Advance:
    """Open the window, or pass it at once (R11)."""
    _, progress = step_in_hand(run)
    request = run.request
    if request.commit is CommitPolicy.AT_ONCE:
        run = _with_step(
            run,
            replace(progress, state=StepState.DONE, detail="at once", started_at_ms=now_ms, finished_at_ms=now_ms),
            due_ms=0,
        )
        return proceed(run, vm, now_ms)
    timed = request.commit is not CommitPolicy.HOLD
    opened = replace(progress, state=StepState.ISSUED, started_at_ms=now_ms)
    run = _with_step(run, opened, due_ms=now_ms + request.window_ms if timed else 0)
    seconds = request.window_ms / 1000
    then = {
        CommitPolicy.AUTO_COMMIT: f"; {'ended as passed' if request.isolated else 'kept'} in {seconds:g} s",
        CommitPolicy.AUTO_ROLL_BACK: f"; taken back in {seconds:g} s",
    }.get(request.commit, "")
    asked = (
        "end the test: commit where it passed, roll back where it did not" if request.isolated else "commit, roll back"
    )
    waits_for = f"{request.asker} has to {asked}, or try another recovery point{then}"
    if request.parent_run_id:
        waits_for = f"{request.asker} has to commit or roll back run {request.parent_run_id}, which this is part of"
    run = replace(
        run,
        state=RunState.AWAITING_COMMIT,
        choices=(RequestAction.COMMIT, RequestAction.ROLL_BACK, RequestAction.TRY_ANOTHER),
        waits_for=waits_for,
    )
    return Advance(run, vm, transitions=(Transition("R11", f"{step.number}: {waits_for}"),))


def _timeout_ms(run: Run, step: Step) -> int:
    return _policy(run, step).timeout_ms or step.timeout_ms


def _attempts(run: Run, step: Step) -> int:
    return _policy(run, step).attempts or step.attempts


def _policy(run: Run, step: Step) -> StepPolicy:
    return next((policy for policy in run.request.step_policies if policy.step == step.number), _TABLE)


def _with_step(run: Run, progress: StepProgress, *, due_ms: int) -> Run:
    steps = tuple(progress if known.step == progress.step else known for known in run.steps)
    return replace(run, steps=steps, due_ms=due_ms)
