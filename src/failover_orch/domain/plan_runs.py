"""The run of a list or a recovery plan: a graph of tasks, begun as their turn comes and the limits allow. Pure.

Each VM's failover is a run of its own, on the VM's partition, with the id `<this run>/<vm>`: started by an event that
this run's partition writes, so a second start is the same start. When it ends, its partition tells this one. Actions
and gates are commands to site agents, answered here; a manual action waits for a person.

| rule | when | then |
| --- | --- | --- |
| L1 | a task's turn has come, and the limits allow it | it begins |
| L2 | a VM's run has ended, or serves and awaits commitment | noted |
| L3 | a task failed that halts the plan (as a VM of a planned run does) | nothing more begins |
| L4 | a task failed that the plan can do without (as a VM of an unplanned run) | what comes after begins all the same |
| L5 | a cancel | the VMs under way are told to cancel, and nothing more begins; a second one is refused |
| L6 | nothing is under way, and nothing may begin | the run ends |
| L7 | a task failed that leaves out what depends on it | that is left out, the rest goes on |
| L8 | a task failed that is to be compensated | nothing more begins; what was done is taken back, last first |
| L9 | an action or gate failed, and attempts or time are left | it is tried again |
| L10 | an action was begun and nobody knows how it ended; or a person has to do it | it waits for a person |
| L11 | everything serves, and some VM awaits commitment | so does the plan; its word goes to all of them |
| L12 | the plan's window is over | its VMs are told to commit or roll back, as the commit policy says |
| L13 | a run that ended with failures is resumed | what is not done is pending again; what is done stays done |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from failover_orch.domain.backoff import backoff_ms
from failover_orch.domain.facts import (
    FailoverKind,
    FailoverRequested,
    RequestAction,
    StepOutcome,
    StepResult,
)
from failover_orch.domain.plan_tasks import (
    context_of,
    each_once,
    may_begin,
    pending,
    progress_of,
    tasks_of,
    to_be_left_out,
)
from failover_orch.domain.records import Action, RunState, StepCommand, StepProgress, StepState
from failover_orch.domain.runs import Transition
from failover_orch.domain.settings import PlanActionKind, RecoveryGroup
from failover_orch.domain.state import MemberState, PlanRun, PlanTask, TaskKind
from failover_orch.domain.terms import CommitPolicy, OnTaskFailure

__all__ = [
    "PlanAdvance",
    "begin_plan",
    "failures",
    "new_plan_run",
    "on_plan_due",
    "on_plan_result",
    "park_plan_for_bug",
    "plan_key",
    "say_to_plan",
]

_SHOWN = 5
_GATE_EVERY_MS = 5_000
_ANSWER_MS = 15_000
_GATE_TIMEOUT_MS = 15_000
_COMPENSATION_TIMEOUT_MS = 300_000
_WINDOW = ""
"""The name of the plan's own timer among those of its tasks."""
_UNDO = "-undo"
_ACTIONS = {PlanActionKind.SCRIPT: Action.RUN_SCRIPT, PlanActionKind.HTTP: Action.CALL_HTTP}
_RESUMABLE = (RunState.FAILED, RunState.COMPLETED_WITH_ERRORS)
_BUG = "unexpected error"


@dataclass(frozen=True, slots=True)
class PlanAdvance:
    """The run from now on, what its VMs and the site agents are told, and the transitions to journal."""

    run: PlanRun
    requests: tuple[FailoverRequested, ...] = ()
    commands: tuple[StepCommand, ...] = ()
    transitions: tuple[Transition, ...] = ()
    refusal: str = ""

    def then(self, following: PlanAdvance) -> PlanAdvance:
        """What happened here, and what followed from it at once."""
        return replace(
            following,
            requests=self.requests + following.requests,
            commands=self.commands + following.commands,
            transitions=self.transitions + following.transitions,
        )


def plan_key(request: FailoverRequested) -> str:
    """The key under which a list's or plan's run lives."""
    return request.plan_id or request.run_id


def new_plan_run(request: FailoverRequested, groups: Sequence[RecoveryGroup], now_ms: int, trace: str) -> PlanRun:
    """The run of a list or plan, not begun: its tasks are as the plan is now, and stay so whatever becomes of it."""
    groups = each_once(groups)
    tasks = tasks_of(groups, request.kind, gated=_gated(request))
    return PlanRun(
        request=request,
        state=RunState.RUNNING,
        tasks=tasks,
        progress=pending(tasks),
        depends=tuple((group.name, group.depends_on or ()) for group in groups),
        started_at_ms=now_ms,
        trace=trace,
    )


def _gated(request: FailoverRequested) -> bool:
    """Whether there is anything for a gate to ask: a reprotection starts nothing, and a drill may keep nothing."""
    if request.isolated:
        return request.commit is not CommitPolicy.AT_ONCE
    return request.kind is not FailoverKind.REPROTECT


def begin_plan(run: PlanRun, now_ms: int) -> PlanAdvance:
    """Begin a run that all have agreed to whose agreement it needs."""
    run = replace(run, state=RunState.RUNNING, due_ms=0, choices=(), waits_for="")
    count = sum(task.kind is TaskKind.VM for task in run.tasks)
    begins = Transition(
        "L1", f"{run.request.kind.noun} of {_counted(count, 'VM')} in {_counted(len(run.depends), 'group')} begins"
    )
    return PlanAdvance(run, transitions=(begins,)).then(_advance(run, now_ms))


def on_plan_result(run: PlanRun, result: StepResult, now_ms: int) -> PlanAdvance:
    """A VM's run serves or has ended, or a site agent answers for an action or gate."""
    undoing = run.compensating and result.step.endswith(_UNDO)
    task_id = result.step.removesuffix(_UNDO) if undoing else result.step
    task = next((each for each in run.tasks if each.task_id == task_id), None)
    if run.state.ended or task is None:
        return PlanAdvance(run)
    known = progress_of(run)[task_id]
    if task.kind is TaskKind.VM:
        return _member_said(run, task, known, result, now_ms)
    return _task_said(run, task, known, result, now_ms)


def on_plan_due(run: PlanRun, now_ms: int) -> PlanAdvance:
    """Look at a run whose time has come: attempts out of time, retries due, the end of its window."""
    if run.state.ended or not run.due_ms or now_ms < run.due_ms:
        return PlanAdvance(run)
    over = [name for name, due_ms in run.timers if due_ms <= now_ms]
    run = replace(run, timers=tuple(timer for timer in run.timers if timer[0] not in over))
    advance = PlanAdvance(run)
    tasks = {task.task_id: task for task in run.tasks}
    for name in over:
        known = progress_of(advance.run)
        if name == _WINDOW:
            advance = advance.then(_window_over(advance.run))
        elif name in known and known[name].state is StepState.ISSUED:
            advance = advance.then(_out_of_time(advance.run, tasks[name], known[name], now_ms))
    return advance.then(_advance(advance.run, now_ms))


def say_to_plan(run: PlanRun, request: FailoverRequested, now_ms: int) -> PlanAdvance:
    """Take what a person says to the run. APPROVE and REJECT are not for here, see `approvals`."""
    who = f"{request.actor}: {request.reason}"
    match request.action:
        case RequestAction.CANCEL:
            return _cancel(run, request, now_ms)
        case RequestAction.RESUME if run.state in _RESUMABLE:
            return _resume(run, Transition("L13", f"resumed by {who}"), now_ms)
        case RequestAction.COMMIT | RequestAction.ROLL_BACK if run.state is RunState.AWAITING_COMMIT:
            return _to_waiting(run, request.action, Transition("L11", f"{request.action.lower()} by {who}"), request)
        case RequestAction.CONFIRM | RequestAction.SKIP | RequestAction.RESUME | RequestAction.ABANDON if _for_person(
            run
        ):
            return _about_task(run, request, now_ms)
        case _:
            told = ", ".join(_can_be_told(run)) or "nothing"
            return PlanAdvance(run, refusal=f"{request.action}: the run is {run.state} and can be told {told}")


def _can_be_told(run: PlanRun) -> list[RequestAction]:
    if run.state.ended:
        return [RequestAction.RESUME] if run.state in _RESUMABLE else []
    return list(dict.fromkeys((*run.choices, *([] if run.cancelled_by else [RequestAction.CANCEL]))))


def failures(run: PlanRun) -> str:
    """Which tasks did not succeed, and why: the first few, for the steps tell of all. Empty where all succeeded."""
    failed = [f"{each.step} {each.detail}" for each in run.progress if each.state is StepState.FAILED]
    more = [f"and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    return "; ".join(failed[:_SHOWN] + more)


def park_plan_for_bug(run: PlanRun, error: str, now_ms: int) -> PlanAdvance:
    """An unexpected error is no reason to fail a run: it is looked at again in a minute, for fixed code may have come.

    What was under way goes on meanwhile, and its answers are taken as they come.
    """
    if run.state.ended:
        return PlanAdvance(run)
    run = _timed(run, _BUG, now_ms + 60_000)
    run = replace(run, due_ms=_due_ms(run), waits_for=f"{_BUG}: {error}; fixed code, or {run.request.asker} to cancel")
    return PlanAdvance(run, transitions=(Transition("R14", f"{_BUG}: {error}"),))


def _advance(run: PlanRun, now_ms: int) -> PlanAdvance:
    """Begin all whose turn has come, within the limits; or end, if nothing is under way and nothing may begin."""
    advance = PlanAdvance(run)
    while not (run.halted_by or run.cancelled_by or run.compensating):
        left_out = to_be_left_out(run)
        for task in left_out:
            skipped = replace(progress_of(run)[task.task_id], state=StepState.SKIPPED, detail="left out")
            run = _with(run, skipped)
            said = Transition("L7", f"{task.task_id} is left out: something it depends on failed")
            advance = advance.then(PlanAdvance(run, transitions=(said,)))
        starts = _within_limits(run, may_begin(run, now_ms))
        for task in starts:
            advance = advance.then(_begin_task(run, task, now_ms))
            run = advance.run
        if not starts and not left_out:
            break
    if run.compensating:
        advance = advance.then(_compensate(run, now_ms))
        run = advance.run
    return advance.then(_rest(run, now_ms))


def _within_limits(run: PlanRun, tasks: list[PlanTask]) -> list[PlanTask]:
    limit = run.request.max_in_flight
    if not limit:
        return tasks
    known = progress_of(run)
    under_way = sum(task.kind is TaskKind.VM and known[task.task_id].state is StepState.ISSUED for task in run.tasks)
    room = max(0, limit - under_way)
    vms = [task for task in tasks if task.kind is TaskKind.VM][:room]
    return [task for task in tasks if task.kind is not TaskKind.VM] + vms


def _rest(run: PlanRun, now_ms: int) -> PlanAdvance:
    """Say what the run waits for now, or end it."""
    known = progress_of(run)
    under_way = [task for task in run.tasks if known[task.task_id].state is StepState.ISSUED]
    for_person = _for_person(run)
    serving = [
        task for task in run.tasks if task.kind is TaskKind.VM and known[task.task_id].state is StepState.WAITING
    ]
    retries = any(name in known and known[name].state is StepState.PENDING for name, _ in run.timers)
    run = replace(run, due_ms=_due_ms(run))
    if for_person:
        asked = "; ".join(f"{task.task_id}: {known[task.task_id].detail}" for task in for_person)
        choices = (RequestAction.CONFIRM, RequestAction.SKIP, RequestAction.RESUME, RequestAction.ABANDON)
        return PlanAdvance(replace(run, waits_for=f"{run.request.asker} has to see to {asked}", choices=choices))
    if under_way or (retries and not run.halted_by and not run.cancelled_by):
        state = RunState.UNDOING if run.compensating else RunState.RUNNING
        parked = "; ".join(
            f"{task.vm_id}: {known[task.task_id].detail}" for task in under_way if _is_parked(task, known)
        )
        return PlanAdvance(replace(run, state=state, waits_for=parked, choices=()))
    if serving:
        return _await_commit(run, now_ms)
    return _end(run, now_ms)


def _is_parked(task: PlanTask, known: Mapping[str, StepProgress]) -> bool:
    return task.kind is TaskKind.VM and bool(known[task.task_id].detail)


def _await_commit(run: PlanRun, now_ms: int) -> PlanAdvance:
    if run.state is RunState.AWAITING_COMMIT:
        return PlanAdvance(run)
    if run.halted_by or run.cancelled_by or run.compensating:
        # What a plan that failed has brought up is for a person to keep or take back; the rest of it does not come.
        run = replace(run, timers=())
    request = run.request
    timed = request.commit in (CommitPolicy.AUTO_COMMIT, CommitPolicy.AUTO_ROLL_BACK) and not run.halted_by
    if timed:
        run = _timed(run, _WINDOW, now_ms + request.window_ms)
    waits_for = f"{request.asker} has to commit or roll back what serves"
    if timed:
        what = "kept" if request.commit is CommitPolicy.AUTO_COMMIT else "taken back"
        waits_for += f"; {what} in {request.window_ms / 1000:g} s"
    run = replace(
        run,
        state=RunState.AWAITING_COMMIT,
        due_ms=_due_ms(run),
        waits_for=waits_for,
        choices=(RequestAction.COMMIT, RequestAction.ROLL_BACK),
    )
    return PlanAdvance(run, transitions=(Transition("L11", waits_for),))


def _window_over(run: PlanRun) -> PlanAdvance:
    if run.state is not RunState.AWAITING_COMMIT:
        return PlanAdvance(run)
    keeps = run.request.commit is CommitPolicy.AUTO_COMMIT
    action = RequestAction.COMMIT if keeps else RequestAction.ROLL_BACK
    said = Transition("L12", f"the window is over: {'kept' if keeps else 'taken back'}")
    return _to_waiting(run, action, said, run.request)


def _to_waiting(run: PlanRun, action: RequestAction, said: Transition, request: FailoverRequested) -> PlanAdvance:
    """Pass a word on to every VM that awaits commitment."""
    known = progress_of(run)
    waiting = [
        task for task in run.tasks if task.kind is TaskKind.VM and known[task.task_id].state is StepState.WAITING
    ]
    for task in waiting:
        run = _with(run, replace(known[task.task_id], state=StepState.ISSUED, detail=""))
    if action is RequestAction.ROLL_BACK and not run.cancelled_by:
        run = replace(run, cancelled_by=request.actor)
    requests = tuple(_word(run, task.vm_id, action, request) for task in waiting)
    run = replace(run, state=RunState.RUNNING, waits_for="", choices=(), timers=())
    return PlanAdvance(replace(run, due_ms=0), requests=requests, transitions=(said,))


# Tasks


def _begin_task(run: PlanRun, task: PlanTask, now_ms: int) -> PlanAdvance:
    known = progress_of(run)[task.task_id]
    attempt = known.attempt + 1
    begun = replace(
        known,
        state=StepState.ISSUED,
        attempt=attempt,
        started_at_ms=known.started_at_ms or now_ms,
        finished_at_ms=0,
        detail="",
    )
    if task.kind is TaskKind.VM:
        run = _with(run, begun)
        said = Transition("L1", f"{task.task_id} is told to fail over")
        return PlanAdvance(run, requests=(_member_request(run, task.vm_id, run.started_at_ms),), transitions=(said,))
    action = task.action
    if action is not None and action.kind is PlanActionKind.MANUAL:
        run = _with(run, replace(begun, state=StepState.WAITING, detail=action.instruction))
        return PlanAdvance(run, transitions=(Transition("L10", f"{task.task_id} waits for a person"),))
    member = next((each for each in run.members if each.vm_id == task.vm_id), None)
    if task.gate is not None and (member is None or not member.serving_at_ms):
        run = _with(run, replace(known, state=StepState.SKIPPED, detail="not asked: the VM did not come up"))
        return PlanAdvance(run)
    timeout_ms = action.timeout_ms if action is not None else _GATE_TIMEOUT_MS
    # The agent says at its deadline what became of it: only then, and a little later, is there no answer.
    run = _timed(_with(run, begun), task.task_id, now_ms + timeout_ms + _ANSWER_MS)
    rule = "L1" if attempt == 1 else "L9"
    said = Transition(rule, f"{task.task_id} begins", {"attempt": str(attempt)})
    return PlanAdvance(run, commands=(_command(run, task, member, attempt, now_ms, timeout_ms),), transitions=(said,))


def _command(
    run: PlanRun, task: PlanTask, member: MemberState | None, attempt: int, now_ms: int, timeout_ms: int
) -> StepCommand:
    action, gate = task.action, task.gate
    return StepCommand(
        run_id=run.request.run_id,
        step=task.task_id,
        attempt=attempt,
        vm_id=task.vm_id,
        site=action.site if action is not None else (member.site if member else ""),
        node=member.node if member else "",
        epoch=member.epoch if member else 0,
        action=Action.CHECK_GATE if action is None else _ACTIONS[action.kind],
        issued_at_ms=now_ms,
        deadline_ms=now_ms + timeout_ms,
        plan_action=action,
        gate=gate,
        test_copy=run.request.isolated and gate is not None,
        context=context_of(run.request, run, task, attempt),
        key=plan_key(run.request),
        plan_run_id=run.request.run_id,
    )


def _task_said(run: PlanRun, task: PlanTask, known: StepProgress, result: StepResult, now_ms: int) -> PlanAdvance:
    """A site agent's answer for an action or gate."""
    manual = task.action is not None and task.action.kind is PlanActionKind.MANUAL
    open_still = known.state in (StepState.ISSUED, StepState.WAITING) and not manual
    if not open_still or result.outcome is StepOutcome.BEGUN:
        return PlanAdvance(run)
    if run.compensating and result.step.endswith(_UNDO):
        return _compensated(run, task, known, result, now_ms)
    if result.outcome is StepOutcome.DONE:
        return _task_done(run, task, known, result.detail, now_ms)
    told_already = result.outcome is StepOutcome.UNCERTAIN and known.state is StepState.WAITING
    if result.attempt != known.attempt or told_already:
        return PlanAdvance(run)
    if result.outcome is StepOutcome.UNCERTAIN:
        uncertain = _uncertain(run, task, known, result.detail, now_ms)
        return uncertain.then(_advance(uncertain.run, now_ms))
    final = result.outcome is StepOutcome.REFUSED
    failed = _attempt_failed(run, task, known, result.detail, now_ms, final=final)
    return failed.then(_advance(failed.run, now_ms))


def _task_done(run: PlanRun, task: PlanTask, known: StepProgress, detail: str, now_ms: int) -> PlanAdvance:
    run = _untimed(run, task.task_id)
    run = _with(run, replace(known, state=StepState.DONE, detail=detail, finished_at_ms=now_ms))
    done = PlanAdvance(run, transitions=(Transition("L1", f"{task.task_id} done: {detail}"),))
    return done.then(_advance(run, now_ms))


def _out_of_time(run: PlanRun, task: PlanTask, known: StepProgress, now_ms: int) -> PlanAdvance:
    """No answer came. A gate is asked again; of an action nobody knows whether it was begun, so it is not."""
    if task.gate is not None or run.taking_back == task.task_id:
        return _attempt_failed(run, task, known, "no answer in time", now_ms, final=False)
    return _uncertain(run, task, known, "no answer in time: it may have been done", now_ms)


def _uncertain(run: PlanRun, task: PlanTask, known: StepProgress, why: str, now_ms: int) -> PlanAdvance:
    """Nobody knows how an action ended (L10): its answer, if it still comes, settles it, and so can a person.

    One that the plan can do without counts as failed: nobody has to get up for it at night.
    """
    run = _untimed(run, task.task_id)
    if task.on_failure is OnTaskFailure.CONTINUE:
        return _failed_for_good(run, task, known, why, now_ms)
    run = _with(run, replace(known, state=StepState.WAITING, detail=why))
    return PlanAdvance(run, transitions=(Transition("L10", f"{task.task_id}: {why}; it waits for a person"),))


def _attempt_failed(
    run: PlanRun, task: PlanTask, known: StepProgress, why: str, now_ms: int, *, final: bool
) -> PlanAdvance:
    """An attempt of an action or gate failed: it is tried again (L9), or has failed for good (L3, L4, L7, L8)."""
    run = _untimed(run, task.task_id)
    wait = _wait_ms(run, task, known, now_ms)
    if run.taking_back == task.task_id:
        return _not_taken_back(run, known, why, now_ms)
    if not final and wait >= 0 and not run.cancelled_by:
        run = _with(run, replace(known, state=StepState.PENDING, detail=why))
        run = _timed(run, task.task_id, now_ms + wait)
        said = Transition("L9", f"{task.task_id} failed, tried again in {wait / 1000:.1f} s: {why}")
        return PlanAdvance(run, transitions=(said,))
    return _failed_for_good(run, task, known, why, now_ms)


def _wait_ms(run: PlanRun, task: PlanTask, known: StepProgress, now_ms: int) -> int:
    """How long until the next attempt; -1 where there is none."""
    if task.gate is not None:
        over = known.started_at_ms + task.gate.timeout_ms
        return _GATE_EVERY_MS if now_ms + _GATE_EVERY_MS <= over else -1
    action = task.action
    tries = known.attempt - dict(run.attempts_from).get(task.task_id, 0)
    if action is None or tries >= action.attempts:
        return -1
    return backoff_ms(f"{run.request.run_id}/{task.task_id}/{known.attempt}", action.backoff_ms, tries)


def _failed_for_good(run: PlanRun, task: PlanTask, known: StepProgress, why: str, now_ms: int) -> PlanAdvance:
    run = _with(run, replace(known, state=StepState.FAILED, detail=why, finished_at_ms=now_ms))
    if run.cancelled_by or run.compensating:
        return PlanAdvance(run)
    failed = f"{task.task_id} did not succeed" if task.kind is TaskKind.VM else f"{task.task_id} failed: {why}"
    match task.on_failure:
        case OnTaskFailure.HALT:
            run = replace(run, halted_by=run.halted_by or task.task_id)
            return PlanAdvance(run, transitions=(Transition("L3", f"{failed}; nothing more begins"),))
        case OnTaskFailure.COMPENSATE:
            run = replace(run, halted_by=run.halted_by or task.task_id, compensating=True)
            said = Transition("L8", f"{failed}; what was done is taken back")
            return PlanAdvance(run, transitions=(said,)).then(_call_back(run))
        case OnTaskFailure.SKIP:
            return PlanAdvance(run, transitions=(Transition("L7", f"{failed}; what depends on it is left out"),))
        case _:
            return PlanAdvance(run, transitions=(Transition("L4", f"{failed}; the plan goes on"),))


def _call_back(run: PlanRun) -> PlanAdvance:
    """Tell the VMs under way to cancel, and those that await commitment to roll back."""
    known = progress_of(run)
    requests = []
    for task in run.tasks:
        state = known[task.task_id].state
        if task.kind is not TaskKind.VM or state not in (StepState.ISSUED, StepState.WAITING):
            continue
        action = RequestAction.CANCEL if state is StepState.ISSUED else RequestAction.ROLL_BACK
        requests.append(_word(run, task.vm_id, action, run.request))
        run = _with(run, replace(known[task.task_id], state=StepState.ISSUED, detail=""))
    return PlanAdvance(run, requests=tuple(requests))


def _compensate(run: PlanRun, now_ms: int) -> PlanAdvance:
    """Take back the last action that was done and can be, once nothing else is under way."""
    known = progress_of(run)
    if any(progress.state is StepState.ISSUED for progress in known.values()):
        return PlanAdvance(run)
    for task in reversed(run.tasks):
        progress = known[task.task_id]
        taken_back = task.action is not None and task.action.kind is PlanActionKind.SCRIPT and task.action.compensation
        if task.action is None or not taken_back or progress.state is not StepState.DONE:
            continue
        attempt = progress.attempt + 1
        run = _with(run, replace(progress, state=StepState.ISSUED, attempt=attempt))
        over_ms = now_ms + _COMPENSATION_TIMEOUT_MS + _ANSWER_MS
        run = _timed(replace(run, taking_back=task.task_id), task.task_id, over_ms)
        undo = replace(task, action=replace(task.action, command=task.action.compensation))
        command = _command(run, undo, None, attempt, now_ms, _COMPENSATION_TIMEOUT_MS)
        said = Transition("L8", f"{task.task_id} is taken back")
        return PlanAdvance(run, commands=(replace(command, step=task.task_id + _UNDO),), transitions=(said,))
    return PlanAdvance(run)


def _compensated(run: PlanRun, task: PlanTask, known: StepProgress, result: StepResult, now_ms: int) -> PlanAdvance:
    if run.taking_back != task.task_id or result.attempt != known.attempt:
        return PlanAdvance(run)
    run = _untimed(run, task.task_id)
    if result.outcome is not StepOutcome.DONE:
        return _not_taken_back(run, known, result.detail, now_ms)
    run = replace(run, taking_back="")
    run = _with(run, replace(known, state=StepState.UNDONE, detail=result.detail, finished_at_ms=now_ms))
    undone = PlanAdvance(run, transitions=(Transition("L8", f"{task.task_id} was taken back"),))
    return undone.then(_advance(run, now_ms))


def _not_taken_back(run: PlanRun, known: StepProgress, why: str, now_ms: int) -> PlanAdvance:
    detail = f"not taken back: {why}"
    run = _with(replace(run, taking_back=""), replace(known, state=StepState.FAILED, detail=detail))
    failed = PlanAdvance(run, transitions=(Transition("L8", f"{known.step} was {detail}"),))
    return failed.then(_advance(run, now_ms))


# VMs


def _member_said(run: PlanRun, task: PlanTask, known: StepProgress, result: StepResult, now_ms: int) -> PlanAdvance:
    """A VM's run serves, or has ended (L2)."""
    if known.state not in (StepState.ISSUED, StepState.WAITING) or result.attempt != run.round:
        return PlanAdvance(run)
    run = _with_member(run, result)
    if result.outcome is StepOutcome.BEGUN and result.observed.get("state") != RunState.AWAITING_COMMIT:
        # Its run is parked, or goes on again: that is for the same person to know who watches the plan.
        run = _with(run, replace(known, detail=result.detail))
        return PlanAdvance(run).then(_advance(run, now_ms))
    if result.outcome is StepOutcome.BEGUN:
        if run.cancelled_by or run.compensating:
            # It was on its way to another recovery point when it was told, and could not take it: so it is told again.
            why = f"its plan is being taken back{f' by {run.cancelled_by}' if run.cancelled_by else ''}"
            asker = replace(
                run.request, actor=run.cancelled_by or run.request.actor, reason=why, requested_at_ms=now_ms
            )
            return PlanAdvance(run, requests=(_word(run, task.vm_id, RequestAction.ROLL_BACK, asker),))
        if known.state is not StepState.ISSUED:
            return PlanAdvance(run)
        run = _with(run, replace(known, state=StepState.WAITING, detail="serves, awaits commitment"))
        serves = PlanAdvance(run, transitions=(Transition("L2", f"{result.step} serves, and awaits commitment"),))
        return serves.then(_advance(run, now_ms))
    ended_as = result.observed.get("state", result.outcome.value)
    if ended_as == RunState.SUCCEEDED:
        run = _with(run, replace(known, state=StepState.DONE, detail=ended_as, finished_at_ms=now_ms))
        noted = PlanAdvance(run, transitions=(Transition("L2", f"{result.step} ended {ended_as}"),))
        return noted.then(_advance(run, now_ms))
    why = f"{ended_as}: {result.detail}" if result.detail else ended_as
    noted = PlanAdvance(run, transitions=(Transition("L2", f"{result.step} ended {why}"),))
    failed = _failed_for_good(run, task, known, why, now_ms)
    return noted.then(failed).then(_advance(failed.run, now_ms))


def _with_member(run: PlanRun, result: StepResult) -> PlanRun:
    loss, serving = result.number("data_loss_ms"), result.number("serving_at_ms")
    member = MemberState(
        vm_id=result.vm_id,
        site=result.site,
        node=result.node,
        epoch=result.epoch,
        data_loss_ms=-1 if loss is None else loss,
        serving_at_ms=serving or 0,
    )
    others = tuple(each for each in run.members if each.vm_id != result.vm_id)
    return replace(run, members=(*others, member))


def _member_request(run: PlanRun, vm_id: str, requested_at_ms: int) -> FailoverRequested:
    request = run.request
    again = f"~{run.round}" if run.round > 1 else ""
    return replace(
        request,
        run_id=f"{request.run_id}/{vm_id}{again}",
        vm_id=vm_id,
        plan_id="",
        vm_ids=(),
        requested_at_ms=requested_at_ms,
        parent_run_id=request.run_id,
        parent_key=plan_key(request),
        # The plan's window opens once all of it serves: a VM alone does not know when that is.
        commit=request.commit if request.commit is CommitPolicy.AT_ONCE else CommitPolicy.HOLD,
        needs_approval=False,
    )


def _word(run: PlanRun, vm_id: str, action: RequestAction, said: FailoverRequested) -> FailoverRequested:
    return replace(
        _member_request(run, vm_id, said.requested_at_ms),
        action=action,
        actor=said.actor,
        reason=said.reason,
        ticket=said.ticket,
    )


# People


def _for_person(run: PlanRun) -> list[PlanTask]:
    """The actions and gates that wait for a person."""
    known = progress_of(run)
    return [
        task
        for task in run.tasks
        if task.kind is not TaskKind.VM and known[task.task_id].state is StepState.WAITING and not run.state.ended
    ]


def _about_task(run: PlanRun, request: FailoverRequested, now_ms: int) -> PlanAdvance:
    waiting = _for_person(run)
    named = [task for task in waiting if request.step in ("", task.task_id)]
    if len(named) != 1:
        ids = ", ".join(task.task_id for task in waiting)
        return PlanAdvance(run, refusal=f"name one of the tasks that wait for a person: {ids}")
    (task,) = named
    known = progress_of(run)[task.task_id]
    who = f"{request.actor}: {request.reason}"
    match request.action:
        case RequestAction.CONFIRM:
            return _task_done(run, task, known, f"confirmed by {who}", now_ms)
        case RequestAction.RESUME:
            again = _with(run, replace(known, state=StepState.PENDING, detail="", started_at_ms=0))
            again = _tried_anew(again, [task.task_id])
            said = Transition("L9", f"{task.task_id} to be tried again, said {who}")
            return PlanAdvance(again, transitions=(said,)).then(_advance(again, now_ms))
        case RequestAction.SKIP:
            lenient = replace(task, on_failure=OnTaskFailure.CONTINUE)
            run = replace(run, tasks=tuple(lenient if each is task else each for each in run.tasks))
            failed = _failed_for_good(run, lenient, known, f"skipped by {who}", now_ms)
        case _:
            failed = _failed_for_good(run, task, known, f"abandoned by {who}", now_ms)
    return failed.then(_advance(failed.run, now_ms))


def _cancel(run: PlanRun, request: FailoverRequested, now_ms: int) -> PlanAdvance:
    """Take the wish to cancel the run (L5). VMs past their point of no return finish; the others are undone."""
    if run.state.ended:
        return PlanAdvance(run, refusal=f"the run has already ended: {run.state}")
    if run.cancelled_by:
        return PlanAdvance(run, refusal=f"the run is being cancelled already, by {run.cancelled_by}")
    run = replace(run, cancelled_by=request.actor, timers=())
    if run.state is RunState.AWAITING_APPROVAL:
        said = Transition("L5", f"cancelled by {request.actor}: {request.reason}")
        return PlanAdvance(run, transitions=(said,)).then(_end(run, now_ms))
    known = progress_of(run)
    told = []
    for task in run.tasks:
        progress = known[task.task_id]
        if progress.state not in (StepState.ISSUED, StepState.WAITING):
            continue
        if task.kind is TaskKind.VM:
            told.append(task.vm_id)
            run = _with(run, replace(progress, state=StepState.ISSUED, detail=""))
        else:
            detail = f"given up: the run was cancelled by {request.actor}"
            run = _with(run, replace(progress, state=StepState.FAILED, detail=detail, finished_at_ms=now_ms))
    words = tuple(_word(run, vm_id, RequestAction.CANCEL, request) for vm_id in told)
    said = Transition(
        "L5", f"cancelled by {request.actor}: {request.reason}; {_counted(len(told), 'VM')} told to cancel"
    )
    cancelled = PlanAdvance(run, requests=words, transitions=(said,))
    return cancelled.then(_advance(run, now_ms))


def _resume(run: PlanRun, said: Transition, now_ms: int) -> PlanAdvance:
    run = _tried_anew(run, [each.step for each in run.progress])
    run = replace(
        run,
        state=RunState.RUNNING,
        progress=tuple(map(_pending_again, run.progress)),
        round=run.round + 1,
        halted_by="",
        cancelled_by="",
        compensating=False,
        taking_back="",
        finished_at_ms=0,
        due_ms=0,
        timers=(),
    )
    return PlanAdvance(run, transitions=(said,)).then(_advance(run, now_ms))


def _pending_again(progress: StepProgress) -> StepProgress:
    """What is not done is pending again. A VM that has moved stays where it is, though not all of it went well."""
    if progress.state is StepState.FAILED and _moved(progress):
        return replace(progress, state=StepState.DONE)
    if progress.state in (StepState.FAILED, StepState.SKIPPED, StepState.UNDONE):
        return replace(progress, state=StepState.PENDING, detail="", finished_at_ms=0, started_at_ms=0)
    return progress


def _moved(progress: StepProgress) -> bool:
    """Whether a VM is where it was to go, with errors or without."""
    return progress.state is StepState.DONE or progress.detail.startswith(RunState.COMPLETED_WITH_ERRORS)


def _tried_anew(run: PlanRun, task_ids: Sequence[str]) -> PlanRun:
    """The run with the attempts of these tasks counted from here."""
    known = progress_of(run)
    counted = dict(run.attempts_from) | {task_id: known[task_id].attempt for task_id in task_ids}
    return replace(run, attempts_from=tuple(counted.items()))


def _end(run: PlanRun, now_ms: int) -> PlanAdvance:
    known = progress_of(run)
    vms = [known[task.task_id] for task in run.tasks if task.kind is TaskKind.VM]
    moved = sum(map(_moved, vms))
    with_errors = any(each.detail.startswith(RunState.COMPLETED_WITH_ERRORS) for each in vms)
    if not with_errors and all(progress.state is StepState.DONE for progress in run.progress):
        # Also where a cancel came: it was too late for every VM.
        state = RunState.SUCCEEDED
    elif run.cancelled_by:
        state = RunState.CANCELLED
    elif run.compensating:
        state = RunState.FAILED
    else:
        state = RunState.COMPLETED_WITH_ERRORS if moved else RunState.FAILED
    run = replace(run, state=state, finished_at_ms=now_ms, due_ms=0, timers=(), waits_for="", choices=())
    return PlanAdvance(
        run, transitions=(Transition("L6", f"the run ends: {state}, {moved} of {_counted(len(vms), 'VM')} moved"),)
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _due_ms(run: PlanRun) -> int:
    return min((due_ms for _, due_ms in run.timers), default=0)


def _with(run: PlanRun, progress: StepProgress) -> PlanRun:
    return replace(run, progress=tuple(progress if each.step == progress.step else each for each in run.progress))


def _timed(run: PlanRun, name: str, due_ms: int) -> PlanRun:
    return replace(run, timers=(*(timer for timer in run.timers if timer[0] != name), (name, due_ms)))


def _untimed(run: PlanRun, name: str) -> PlanRun:
    return replace(run, timers=tuple(timer for timer in run.timers if timer[0] != name))
