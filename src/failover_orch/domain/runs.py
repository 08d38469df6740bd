"""The run of one VM's failover: what to do next, given what has just become known. Pure, and total.

`begin`, `on_result`, `on_due` and `on_cancel` take a run and the VM it is about and return an `Advance`: the run and
the VM as they are from now on, the commands to issue, and the transitions to journal.

| rule | when | then |
| --- | --- | --- |
| R1 | a run begins | it takes the VM's next epoch, so that no older command counts any more; the first step is issued |
| R2 | a step is done | its effect on the VM is taken, and the next step is issued |
| R3 | an attempt failed, timed out or was stale, and attempts are left | the step waits, then is issued again |
| R4 | a step failed for good, or was refused | undo, halt or continue, as the workflow says |
| R5 | a cancel comes before the point of no return | the step in hand is given up, and the steps done are undone |
| R6 | a cancel comes later | refused: a failover back is the way |
| R7 | an undo step is done | the one before it is undone |
| R8 | an undo step fails for good | the run will end FAILED; the one before it is undone all the same |
| R9 | no step is left | the run ends |
| R10 | a result that the run does not wait for | nothing: a repeated or overtaken answer |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from failover_orch.domain.facts import FailoverKind, FailoverRequested, StepOutcome, StepResult
from failover_orch.domain.records import (
    Action,
    Location,
    Role,
    RouteCause,
    RoutingUpdate,
    RunState,
    StepCommand,
    StepProgress,
    StepState,
)
from failover_orch.domain.routing import relocate
from failover_orch.domain.state import Run, VmState
from failover_orch.domain.workflows import WORKFLOWS, Effect, OnFailure, Side, Step

__all__ = ["Advance", "Transition", "begin", "on_cancel", "on_due", "on_result"]

_LONGEST_BACKOFF_MS = 30_000
_UNDO = "-undo"


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


def begin(request: FailoverRequested, vm: VmState, now_ms: int, trace: str) -> Advance:
    """Start the run that a request, which nothing speaks against, asks for (R1)."""
    epoch = vm.epoch + 1
    workflow = WORKFLOWS[request.kind]
    run = Run(
        request=request,
        state=RunState.RUNNING,
        steps=tuple(StepProgress(step.number, StepState.PENDING, 0, "", 0, 0) for step in workflow.steps),
        position=0,
        epoch=epoch,
        primary_site=vm.active_site,
        replica_site=vm.replica_site,
        started_at_ms=now_ms,
        adapters=vm.settings.adapters if vm.settings else (),
        trace=trace,
    )
    vm = replace(vm, epoch=epoch, run_id=request.run_id)
    started = Advance(
        run,
        vm,
        transitions=(
            Transition(
                "R1",
                f"{request.kind.lower()} failover from {run.primary_site} to {run.replica_site} begins",
                {"epoch": str(epoch)},
            ),
        ),
    )
    return started.then(_issue(run, vm, now_ms))


def on_result(run: Run, vm: VmState, result: StepResult, now_ms: int) -> Advance:
    """Take a site agent's answer."""
    if run.state.ended:
        return Advance(run, vm)
    step, progress = _in_hand(run)
    waited_for = progress.state in (StepState.ISSUED, StepState.WAITING)
    if not waited_for or result.step != _command_step(run, step):
        return Advance(run, vm)
    if result.outcome is StepOutcome.DONE:
        # Of whatever attempt: a step that has been done is done.
        return _done(run, vm, step, result, now_ms)
    if result.attempt != progress.attempt or progress.state is not StepState.ISSUED:
        return Advance(run, vm)
    final = result.outcome is StepOutcome.REFUSED
    return _failed(run, vm, step, result.detail, now_ms, final=final)


def on_due(run: Run, vm: VmState, now_ms: int) -> Advance:
    """Look at a run whose time has come: an attempt has run out of time, or a retry is due."""
    if run.state.ended or not run.due_ms or now_ms < run.due_ms:
        return Advance(run, vm)
    step, progress = _in_hand(run)
    if progress.state is StepState.WAITING:
        return _issue(run, vm, now_ms)
    return _failed(run, vm, step, f"no answer within {step.timeout_ms // 1000} s", now_ms, final=False)


def on_cancel(run: Run, vm: VmState, request: FailoverRequested, now_ms: int) -> Advance:
    """Take the wish to cancel a run (R5, R6)."""
    if run.state.ended:
        return Advance(run, vm, refusal=f"the run has already ended: {run.state}")
    if run.state is RunState.UNDOING:
        return Advance(run, vm, refusal="the run is being undone already")
    workflow = WORKFLOWS[run.request.kind]
    if run.position >= workflow.index(workflow.point_of_no_return):
        last = f"step {workflow.point_of_no_return} is under way or done, and cannot be undone"
        return Advance(run, vm, refusal=f"{last}; fail over back instead")
    cancelled = Transition("R5", f"cancelled by {request.actor}: {request.reason}")
    _, progress = _in_hand(run)
    given_up = replace(
        progress, state=StepState.FAILED, detail="given up: the run was cancelled", finished_at_ms=now_ms
    )
    run = _with_step(run, given_up, due_ms=0)
    return _undo_all(run, vm, RunState.CANCELLED, cancelled, now_ms)


def _in_hand(run: Run) -> tuple[Step, StepProgress]:
    steps = WORKFLOWS[run.request.kind].steps
    position = min(max(run.position, 0), len(steps) - 1)
    return steps[position], run.steps[position]


def _command_step(run: Run, step: Step) -> str:
    return step.number + (_UNDO if run.state is RunState.UNDOING else "")


def _issue(run: Run, vm: VmState, now_ms: int) -> Advance:
    """Issue the step in hand, at the node where the VM is at that site now."""
    step, progress = _in_hand(run)
    site, peer = (
        (run.primary_site, run.replica_site) if step.side is Side.PRIMARY else (run.replica_site, run.primary_site)
    )
    here, there = vm.at(site), vm.at(peer)
    undoing = run.state is RunState.UNDOING
    action = step.undo if undoing and step.undo is not None else step.action
    attempt = progress.attempt + 1
    deadline = now_ms + step.timeout_ms
    run = _with_step(
        run,
        StepProgress(step.number, StepState.ISSUED, attempt, "", progress.started_at_ms or now_ms, 0),
        due_ms=deadline,
    )
    addressed = action in (Action.STAGE_ADDRESSES, Action.VERIFY_ADDRESSES)
    command = StepCommand(
        run_id=run.request.run_id,
        step=_command_step(run, step),
        attempt=attempt,
        vm_id=vm.vm_id,
        site=site,
        node=here.node if here else "",
        epoch=vm.epoch,
        action=action,
        issued_at_ms=now_ms,
        deadline_ms=deadline,
        peer_site=peer,
        peer_node=there.node if there else "",
        addresses=run.adapters if addressed else (),
        attested=run.request.primary_is_down,
    )
    verb = "undo" if undoing else "do"
    return Advance(
        run,
        vm,
        commands=(command,),
        transitions=(
            Transition(
                "R3" if attempt > 1 else ("R7" if undoing else "R2"),
                f"{step.number} issued to {site}/{command.node or '?'}: {verb} {action}",
                {"attempt": str(attempt), "epoch": str(vm.epoch)},
            ),
        ),
    )


def _done(run: Run, vm: VmState, step: Step, result: StepResult, now_ms: int) -> Advance:
    undoing = run.state is RunState.UNDOING
    _, progress = _in_hand(run)
    state = StepState.UNDONE if undoing else StepState.DONE
    run = _with_step(run, replace(progress, state=state, detail=result.detail, finished_at_ms=now_ms), due_ms=0)
    run = _observed(run, step, result)
    vm, routes = _take_effect(run, vm, step, now_ms, undone=undoing)
    said = Transition(
        "R7" if undoing else "R2", f"{_command_step(run, step)} done: {result.detail}", dict(result.observed)
    )
    return Advance(run, vm, routes=routes, transitions=(said,)).then(_next(run, vm, now_ms))


def _failed(run: Run, vm: VmState, step: Step, why: str, now_ms: int, *, final: bool) -> Advance:
    _, progress = _in_hand(run)
    named = _command_step(run, step)
    if not final and progress.attempt < step.attempts:
        wait = min(step.backoff_ms * 2 ** (progress.attempt - 1), _LONGEST_BACKOFF_MS)
        run = _with_step(run, replace(progress, state=StepState.WAITING, detail=why), due_ms=now_ms + wait)
        return Advance(
            run,
            vm,
            transitions=(Transition("R3", f"{named} failed: {why}; tried again", {"attempt": str(progress.attempt)}),),
        )
    run = _with_step(run, replace(progress, state=StepState.FAILED, detail=why, finished_at_ms=now_ms), due_ms=0)
    run = replace(run, errors=(*run.errors, f"{named}: {why}"))
    if run.state is RunState.UNDOING:
        # Not CANCELLED: that says to everyone that the VM is as it was before.
        run = replace(run, ends_as=RunState.FAILED)
        kept = Transition("R8", f"{named} failed for good: {why}")
        return Advance(run, vm, transitions=(kept,)).then(_next(run, vm, now_ms))
    failed = Transition("R4", f"{named} failed for good: {why}; {_CONSEQUENCE[step.on_failure]}")
    if step.on_failure is OnFailure.CONTINUE:
        return Advance(run, vm, transitions=(failed,)).then(_next(run, vm, now_ms))
    if step.on_failure is OnFailure.HALT:
        return Advance(run, vm, transitions=(failed,)).then(_end(run, vm, RunState.FAILED, now_ms))
    return _undo_all(run, vm, RunState.FAILED, failed, now_ms)


_CONSEQUENCE = {
    OnFailure.UNDO: "what was done is undone",
    OnFailure.HALT: "the run stops here",
    OnFailure.CONTINUE: "the run goes on",
}


def _undo_all(run: Run, vm: VmState, ends_as: RunState, why: Transition, now_ms: int) -> Advance:
    """Turn round. The step in hand is undone too: it may have been done though its answer has not come."""
    # A new epoch: a command of the step in hand that is still on its way must not be carried out after its undo.
    vm = replace(vm, epoch=vm.epoch + 1)
    run = replace(run, state=RunState.UNDOING, ends_as=ends_as, position=run.position + 1, due_ms=0)
    return Advance(run, vm, transitions=(why,)).then(_next(run, vm, now_ms))


def _next(run: Run, vm: VmState, now_ms: int) -> Advance:
    """Go on to the next step that there is something to do for, or end (R9)."""
    steps = WORKFLOWS[run.request.kind].steps
    if run.state is RunState.UNDOING:
        position = run.position - 1
        while position >= 0 and (steps[position].undo is None or run.steps[position].state is StepState.PENDING):
            position -= 1
        if position < 0:
            return _end(run, vm, run.ends_as, now_ms)
        # Attempts of the undo are counted afresh.
        run = replace(run, position=position)
        run = _with_step(run, replace(run.steps[position], attempt=0), due_ms=0)
        return _issue(run, vm, now_ms)
    position = run.position + 1
    while position < len(steps) and steps[position].only_if_clean and run.errors:
        position += 1
    if position >= len(steps):
        ends_as = RunState.COMPLETED_WITH_ERRORS if run.errors else RunState.SUCCEEDED
        return _end(run, vm, ends_as, now_ms)
    run = replace(run, position=position)
    return _issue(run, vm, now_ms)


def _end(run: Run, vm: VmState, state: RunState, now_ms: int) -> Advance:
    run = replace(run, state=state, finished_at_ms=now_ms, due_ms=0)
    vm = replace(vm, run_id="")
    what = f"the run ends: {state}" + (f" ({'; '.join(run.errors)})" if run.errors else "")
    return Advance(run, vm, transitions=(Transition("R9", what),))


def _take_effect(
    run: Run, vm: VmState, step: Step, now_ms: int, *, undone: bool
) -> tuple[VmState, tuple[RoutingUpdate, ...]]:
    """Change the VM's owner where a step, or its undo, has done so, under a new epoch."""
    old, new = (run.replica_site, run.primary_site) if undone else (run.primary_site, run.replica_site)
    effect = step.effect
    if undone and step.undo is Action.START:
        # The VM runs at its primary again, so it is active there, even if the failover could not be taken back at the
        # other end: nothing was started there, since a planned failover starts the VM after its point of no return.
        effect = Effect.FAILED_OVER
    never_took_effect = undone and vm.active_site == new
    if effect is Effect.NONE or never_took_effect:
        return vm, ()
    if effect is Effect.REVERSED:
        roles, cause, changed_site = {new: Role.PRIMARY, old: Role.REPLICA}, RouteCause.REVERSED, old
        replica = old
    else:
        # Until replication is reversed the old copy is retired: nothing may be sent to it, nor may it run.
        retired = Role.REPLICA if undone else Role.RETIRED
        roles, cause, changed_site = {new: Role.PRIMARY, old: retired}, RouteCause.FAILOVER, new
        replica = old if undone else ""
    vm = replace(vm, epoch=vm.epoch + 1, active_site=new, replica_site=replica)
    for site, role in roles.items():
        here = vm.at(site)
        if here is not None:
            vm = relocate(vm, replace(here, role=role))
    changed = vm.at(changed_site)
    if changed is None:
        return vm, ()
    return vm, (route(vm, cause, changed, "", now_ms, run.request.run_id),)


def route(
    vm: VmState, cause: RouteCause, changed: Location, previous_node: str, now_ms: int, run_id: str = ""
) -> RoutingUpdate:
    """The routing update that tells of a VM's change."""
    return RoutingUpdate(
        vm_id=vm.vm_id,
        epoch=vm.epoch,
        cause=cause,
        changed=changed,
        previous_node=previous_node,
        locations=vm.locations,
        changed_at_ms=now_ms,
        name=vm.inventory.name if vm.inventory else "",
        run_id=run_id,
    )


def _observed(run: Run, step: Step, result: StepResult) -> Run:
    """Keep what a step found that the run's report is about: addresses, and how much was lost."""
    addresses = tuple(
        (name.removeprefix("addresses/"), value)
        for name, value in result.observed.items()
        if name.startswith("addresses/")
    )
    if step.action is Action.VERIFY_ADDRESSES and addresses:
        run = replace(run, addresses=addresses)
    point = result.number("recovery_point_at_ms")
    if step.action is Action.FAIL_OVER and run.state is RunState.RUNNING:
        if run.request.kind is FailoverKind.PLANNED:
            run = replace(run, data_loss_ms=0)
        elif point:  # 0: the hypervisor knows of none
            run = replace(run, data_loss_ms=max(0, run.started_at_ms - point))
    return run


def _with_step(run: Run, progress: StepProgress, *, due_ms: int) -> Run:
    steps = tuple(progress if known.step == progress.step else known for known in run.steps)
    return replace(run, steps=steps, due_ms=due_ms)
