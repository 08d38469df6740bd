"""What a failover would do, step by step, were it asked for now. Pure.

It is read from a `walk` of the request through the rules themselves, so tasks, steps, nodes, timeouts, addresses and
refusals are those of the functions that act. Times are estimates: milliseconds since the request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from failover_orch.domain.approvals import needed
from failover_orch.domain.broker import decide
from failover_orch.domain.draft import Decision, Draft, Moment, State
from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction
from failover_orch.domain.policies import ApprovalRule
from failover_orch.domain.preconditions import expected_loss_ms, goes_to, kept_by_policy, refusals
from failover_orch.domain.records import JournalEntry, RunState
from failover_orch.domain.settings import AdapterAddresses
from failover_orch.domain.state import PlanReadiness, PlanRun, Run, TaskKind, VmState
from failover_orch.domain.terms import PointChoice
from failover_orch.domain.walk import AGENT_PER_NODE, NEVER, RUN_ID, SERVES, Durations, Job, Walk, what_is_done
from failover_orch.domain.workflows import WORKFLOWS, Step

__all__ = ["DryRun", "PathPart", "StepForecast", "TaskForecast", "VmForecast", "dry_run"]


@dataclass(frozen=True, slots=True)
class StepForecast:
    """One step as it would be done: by whom, within which time, how often it would be tried, and when, for how long.

    Times count from the request. `history`: how many earlier steps the duration is the median of; 0: it is assumed.
    A step without an action is the window in which the failover waits for a word. -1 in `begins_ms`: never.
    """

    number: str
    action: str
    purpose: str
    site: str
    node: str
    timeout_ms: int
    attempts: int
    begins_ms: int
    takes_ms: int
    history: int


@dataclass(frozen=True, slots=True)
class VmForecast:
    """What would become of one VM. `begins_ms` -1: the plan would not come to it; `serves_ms` -1: it would not run.

    `loss_ms`: what would be lost, -1 where nobody knows. `kept` are the adapters with the primary's configuration.
    """

    vm_id: str
    name: str
    group: str
    state: str
    from_site: str
    to_site: str
    begins_ms: int
    serves_ms: int
    ends_ms: int
    steps: tuple[StepForecast, ...]
    addresses: tuple[AdapterAddresses, ...]
    kept: tuple[str, ...]
    refusals: tuple[str, ...]
    loss_ms: int


@dataclass(frozen=True, slots=True)
class TaskForecast:
    """One task of a plan, in the order in which they would begin. Those that would not (-1) come last."""

    task_id: str
    kind: TaskKind
    group: str
    stage: int
    what: str
    on_failure: str
    begins_ms: int
    ends_ms: int
    state: str
    history: int


@dataclass(frozen=True, slots=True)
class PathPart:
    """A stretch of the critical path: what is done, from when to when, and what it had to wait for room on before."""

    task: str
    steps: tuple[str, ...]
    from_ms: int
    to_ms: int
    waited_ms: int = 0
    waited_for: str = ""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a failover of a VM or plan would be. `refusals` are of the request as a whole; a VM's stand with the VM.

    `recovery_time_ms`: from the request to the last VM that serves, -1 where none would. `loss_ms` is the worst.
    `state` is how the run would end; AWAITING_COMMIT: it would wait for a word, which is taken to be COMMIT.
    """

    kind: FailoverKind
    plan_id: str
    vm_id: str
    at_ms: int
    state: str
    refusals: tuple[str, ...]
    approval: ApprovalRule | None
    tasks: tuple[TaskForecast, ...]
    vms: tuple[VmForecast, ...]
    groups: tuple[tuple[str, int, int], ...]
    """Group, when its first VM begins, and when its last VM serves."""
    recovery_time_ms: int
    ends_ms: int
    loss_ms: int
    critical_path: tuple[PathPart, ...]
    assumed: tuple[str, ...]
    """Actions whose duration no earlier run has shown."""
    notes: tuple[str, ...]


def dry_run(
    state: Mapping[str, State],
    request: FailoverRequested,
    moment: Moment,
    durations: Durations,
    *,
    agent_per_node: int = AGENT_PER_NODE,
) -> DryRun:
    """What a request for a VM, a list or a plan would lead to.

    `state` is that of every partition concerned, put together; `request` needs neither a run's id nor a person.
    """
    request = replace(
        request,
        run_id=RUN_ID,
        action=RequestAction.REQUEST,
        actor=request.actor or "dry run",
        reason=request.reason or "dry run",
    )
    refused = _refusals(decide(state, request, moment))
    walk = Walk(_unhindered(state, request), request, moment, durations, agent_per_node)
    walk.go()
    run = walk.state.get(f"plan-run/{RUN_ID}")
    tasks = run.tasks if isinstance(run, PlanRun) else ()
    groups = {task.vm_id: task.group for task in tasks if task.kind is TaskKind.VM}
    members = tuple(groups) or tuple(filter(None, (request.vm_id,)))
    vms = tuple(_forecast(state, walk, vm_id, groups.get(vm_id, "")) for vm_id in members)
    serving = [vm.serves_ms for vm in vms if vm.serves_ms >= 0]
    losses = [vm.loss_ms for vm in vms]
    return DryRun(
        kind=request.kind,
        plan_id=request.plan_id,
        vm_id=request.vm_id,
        at_ms=moment.now_ms,
        state=walk.ends_as,
        refusals=refused if not request.vm_id else (),
        approval=_approval(state, request, moment),
        tasks=_tasks(walk, run) if isinstance(run, PlanRun) else (),
        vms=vms,
        groups=tuple(_group(name, vms) for name in dict.fromkeys(groups.values())),
        recovery_time_ms=max(serving, default=NEVER),
        ends_ms=max((job.ends_ms for job in walk.done), default=0),
        loss_ms=NEVER if NEVER in losses else max(losses, default=0),
        critical_path=_critical_path(walk.done),
        assumed=tuple(sorted({job.action for job in walk.done if not job.history and not job.person})),
        notes=tuple(_notes(state, walk, members)),
    )


def _refusals(decision: Decision) -> tuple[str, ...]:
    """Why the request as a whole is refused, each reason behind its rule's number."""
    entries = (output for output in decision.outputs if isinstance(output, JournalEntry))
    refused = (entry for entry in entries if entry.state == RunState.REFUSED.value)
    return tuple(f"{entry.rule}: {entry.what.removeprefix('refused: ')}" for entry in refused)


def _unhindered(state: Mapping[str, State], request: FailoverRequested) -> dict[str, State]:
    """The state without the plan's run in flight (Q6): that is said as a refusal, and what would follow is shown."""
    copy = dict(state)
    key = f"plan-readiness/{request.plan_id}"
    stands = copy.get(key)
    if isinstance(stands, PlanReadiness):
        copy[key] = replace(stands, run_id="")
    return copy


def _approval(state: Mapping[str, State], request: FailoverRequested, moment: Moment) -> ApprovalRule | None:
    draft = Draft(state, moment)
    vm = draft.find(f"vm/{request.vm_id}", VmState)
    if vm is not None:
        return needed(request, draft.limits(vm), goes_to(vm, request.kind))
    return needed(request, draft.plan_limits(request.plan_id), "")


def _forecast(state: Mapping[str, State], walk: Walk, vm_id: str, group: str) -> VmForecast:
    """What would become of a VM. One that the plan would not come to is shown as if it were alone, without times."""
    draft = Draft(state, walk.moment)
    vm = draft.find(f"vm/{vm_id}", VmState) or VmState(vm_id)
    request = replace(walk.request, vm_id=vm_id, plan_id="", vm_ids=(), parent_run_id=RUN_ID if group else "")
    come_to = vm_id in walk.begun
    run_id = f"{RUN_ID}/{vm_id}" if group and come_to else RUN_ID
    against = refusals(vm, request, draft.clusters(), draft.limits(vm), walk.moment.now_ms)
    shown = walk if come_to else walk.of(state, replace(request, parent_run_id=""))
    jobs = {job.name: job for job in shown.done if job.run_id == run_id}
    run = shown.state.get(f"run/{run_id}")
    serves = [job.ends_ms for job in jobs.values() if job.action in SERVES and come_to]
    return VmForecast(
        vm_id=vm_id,
        name=vm.inventory.name if vm.inventory is not None and vm.inventory.name else vm_id,
        group=group,
        state=run.state.value if isinstance(run, Run) and come_to else "",
        from_site=vm.active_site,
        to_site=goes_to(vm, request.kind),
        begins_ms=walk.begun.get(vm_id, NEVER),
        serves_ms=max(serves, default=NEVER),
        ends_ms=max((job.ends_ms for job in jobs.values()), default=NEVER) if come_to else NEVER,
        steps=tuple(_steps(request, jobs, timed=come_to)),
        addresses=run.adapters if isinstance(run, Run) else (),
        kept=kept_by_policy(vm, request.kind),
        refusals=tuple(map(str, against)),
        loss_ms=_loss_ms(vm, request, walk.moment.now_ms),
    )


def _steps(request: FailoverRequested, jobs: Mapping[str, Job], *, timed: bool) -> Iterator[StepForecast]:
    reached = 0
    for step in WORKFLOWS[request.kind].steps if jobs else ():
        job = jobs.get(step.number)
        if step.action is None:
            yield StepForecast(step.number, "", step.purpose, "", "", 0, 0, reached if timed else NEVER, 0, 0)
        elif job is not None and job.command is not None:
            command = job.command
            yield StepForecast(
                number=step.number,
                action=command.action.value,
                purpose=step.purpose,
                site=command.site,
                node=command.node,
                timeout_ms=command.deadline_ms - command.issued_at_ms,
                attempts=_attempts(request, step),
                begins_ms=job.begins_ms if timed else NEVER,
                takes_ms=job.takes_ms,
                history=job.history,
            )
            reached = job.ends_ms


def _attempts(request: FailoverRequested, step: Step) -> int:
    stated = (policy.attempts for policy in request.step_policies if policy.step == step.number)
    return next(stated, 0) or step.attempts


def _loss_ms(vm: VmState, request: FailoverRequested, now_ms: int) -> int:
    if request.kind is not FailoverKind.UNPLANNED:
        return 0
    loss = expected_loss_ms(vm, now_ms)
    return max(loss, now_ms - request.point.at_ms) if loss >= 0 and request.point.at_ms else loss


def _tasks(walk: Walk, run: PlanRun) -> tuple[TaskForecast, ...]:
    jobs = {job.name: job for job in walk.done if job.run_id == RUN_ID}
    states = {progress.step: progress.state for progress in run.progress}
    found = []
    for task in run.tasks:
        job = jobs.get(task.task_id)
        begins, ends = (job.begins_ms, job.ends_ms) if job is not None else (NEVER, NEVER)
        if task.kind is TaskKind.VM:
            begins = walk.begun.get(task.vm_id, NEVER)
            own = [each.ends_ms for each in walk.done if each.run_id == f"{RUN_ID}/{task.vm_id}"]
            ends = max(own, default=begins)
        found.append(
            TaskForecast(
                task_id=task.task_id,
                kind=task.kind,
                group=task.group,
                stage=task.stage,
                what=what_is_done(task),
                on_failure=task.on_failure.value,
                begins_ms=begins,
                ends_ms=ends,
                state=states[task.task_id].value,
                history=job.history if job is not None else 0,
            )
        )
    return tuple(sorted(found, key=lambda task: (task.begins_ms == NEVER, task.begins_ms)))


def _group(name: str, vms: Sequence[VmForecast]) -> tuple[str, int, int]:
    own = [vm for vm in vms if vm.group == name]
    begins = [vm.begins_ms for vm in own if vm.begins_ms >= 0]
    serves = [vm.serves_ms for vm in own if vm.serves_ms >= 0]
    return name, min(begins, default=NEVER), max(serves, default=NEVER)


def _critical_path(done: Sequence[Job]) -> tuple[PathPart, ...]:
    """What the last VM to serve had to wait for, back to the request: where nothing serves, the last job."""
    serving = [job for job in done if job.action in SERVES]
    job: Job | None = max(serving or done, key=lambda each: each.ends_ms, default=None)
    parts: list[PathPart] = []
    while job is not None:
        waited = job.begins_ms - job.asked_ms
        part = PathPart(
            task=job.of,
            steps=(job.name,),
            from_ms=job.begins_ms,
            to_ms=job.ends_ms,
            waited_ms=waited,
            waited_for=job.waited_for if waited else "",
        )
        after = parts[-1] if parts else None
        if after is not None and after.task == part.task and not after.waited_ms:
            parts[-1] = replace(part, steps=(*part.steps, *after.steps), to_ms=after.to_ms)
        else:
            parts.append(part)
        job = job.cause
    return tuple(reversed(parts))


def _notes(state: Mapping[str, State], walk: Walk, members: Sequence[str]) -> Iterator[str]:
    request = walk.request
    if request.kind is FailoverKind.UNPLANNED:
        yield "U1, the fence, is taken to hold: where nobody can reach the primary's site, the request has to attest it"
    if request.kind in (FailoverKind.UNPLANNED, FailoverKind.TEST) and request.point.choice is not PointChoice.LATEST:
        yield f"it would be made from {request.point}: which one that is, the replica's site knows"
    for vm_id in members:
        vm = state.get(f"vm/{vm_id}")
        if isinstance(vm, VmState) and vm.test_run_id and not request.isolated:
            yield f"test failover {vm.test_run_id} of {vm_id} would be ended beside it"
    yield from walk.people
    for run in walk.own_runs():
        yield f"it would stay {run.state}: {run.waits_for or 'nothing more would come'}"
