"""A plan as a graph of tasks, and which of them may begin. Pure.

A group's tasks stand in stages: its actions before, one after the other; its VMs, side by side; its readiness gates;
its actions afterwards, one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from failover_orch.domain.facts import FailoverKind, FailoverRequested
from failover_orch.domain.plan_graph import dependencies
from failover_orch.domain.records import StepProgress, StepState
from failover_orch.domain.settings import PlanAction, RecoveryGroup
from failover_orch.domain.state import PlanRun, PlanTask, TaskKind
from failover_orch.domain.terms import OnTaskFailure

__all__ = ["context_of", "each_once", "may_begin", "pending", "progress_of", "tasks_of", "to_be_left_out"]

_IN_ORDER = (FailoverKind.PLANNED, FailoverKind.FAILBACK)
"""Failovers that stop where a VM fails: what depends on it stays where it runs. The others go on: the site is gone."""


def tasks_of(groups: Sequence[RecoveryGroup], kind: FailoverKind, *, gated: bool = True) -> tuple[PlanTask, ...]:
    """Every task of a failover of this kind, group by group and stage by stage; `gated`: with its readiness gates."""
    return tuple(task for group in groups for task in _group_tasks(group, kind, gated=gated))


def _group_tasks(group: RecoveryGroup, kind: FailoverKind, *, gated: bool) -> Iterator[PlanTask]:
    stage = 0
    for action in _part_of(group.before, kind):
        yield _action_task(group, "before", action, stage)
        stage += 1
    critical = kind in _IN_ORDER if group.critical is None else group.critical
    on_failure = OnTaskFailure.HALT if critical else OnTaskFailure.CONTINUE
    for vm_id in group.vm_ids:
        yield PlanTask(vm_id, TaskKind.VM, group.name, stage, on_failure, vm_id=vm_id)
    stage += 1
    for number, gate in enumerate(group.gates if gated else (), 1):
        for vm_id in group.vm_ids:
            task_id = f"{group.name}/gate-{number}/{vm_id}"
            yield PlanTask(task_id, TaskKind.GATE, group.name, stage, gate.on_failure, vm_id=vm_id, gate=gate)
    stage += 1
    for action in _part_of(group.after, kind):
        yield _action_task(group, "after", action, stage)
        stage += 1


def _part_of(actions: Sequence[PlanAction], kind: FailoverKind) -> list[PlanAction]:
    return [action for action in actions if not action.kinds or kind in action.kinds]


def _action_task(group: RecoveryGroup, when: str, action: PlanAction, stage: int) -> PlanTask:
    task_id = f"{group.name}/{when}/{action.name}"
    return PlanTask(task_id, TaskKind.ACTION, group.name, stage, action.on_failure, action=action)


def each_once(groups: Sequence[RecoveryGroup]) -> tuple[RecoveryGroup, ...]:
    """The groups with every VM in the first that names it, and dependencies in full.

    A VM has one run here, and that run ends once: named twice it would be waited for forever.
    """
    seen: set[str] = {""}
    kept = []
    depends = dependencies(groups)
    for group in groups:
        vm_ids = tuple(vm_id for vm_id in dict.fromkeys(group.vm_ids) if vm_id not in seen)
        seen.update(vm_ids)
        kept.append(replace(group, vm_ids=vm_ids, depends_on=depends[group.name]))
    return tuple(kept)


def pending(tasks: Sequence[PlanTask]) -> tuple[StepProgress, ...]:
    return tuple(StepProgress(task.task_id, StepState.PENDING, 0, "", 0, 0) for task in tasks)


def progress_of(run: PlanRun) -> dict[str, StepProgress]:
    return {progress.step: progress for progress in run.progress}


def _settled(task: PlanTask, progress: StepProgress) -> bool:
    """Whether what comes after this task may begin: it is done, or serves already, or its failure does not matter."""
    match progress.state:
        case StepState.DONE:
            return True
        case StepState.WAITING:
            return task.kind is TaskKind.VM  # it runs, and only awaits commitment
        case StepState.FAILED:
            return task.on_failure is OnTaskFailure.CONTINUE
        case StepState.SKIPPED:
            return task.kind is TaskKind.GATE  # its VM did not come up: what that means, the VM's task says
        case _:
            return False


def _left_out(task: PlanTask, progress: StepProgress) -> bool:
    """Whether what comes after this task is to be left out."""
    failed = progress.state is StepState.FAILED and task.on_failure is OnTaskFailure.SKIP
    return failed or (progress.state is StepState.SKIPPED and task.kind is not TaskKind.GATE)


def _before(run: PlanRun, task: PlanTask) -> Iterator[PlanTask]:
    """The tasks that have to be settled before this one may begin."""
    groups = _all_before(run, dict(run.depends).get(task.group, ()))
    for other in run.tasks:
        if other.group in groups or (other.group == task.group and other.stage < task.stage):
            yield other


def may_begin(run: PlanRun, now_ms: int) -> list[PlanTask]:
    """The tasks whose turn has come, in the plan's order. Limits are not looked at."""
    known = progress_of(run)
    timers = dict(run.timers)
    open_groups = _open_groups(run, known)
    found = []
    for task in run.tasks:
        progress = known[task.task_id]
        waits = timers.get(task.task_id, 0) > now_ms
        if progress.state is StepState.PENDING and not waits and open_groups.get(task.group) == task.stage:
            found.append(task)
    return found


def to_be_left_out(run: PlanRun) -> list[PlanTask]:
    """Pending tasks that come after one that was left out, or whose failure leaves them out."""
    known = progress_of(run)
    return [
        task
        for task in run.tasks
        if known[task.task_id].state is StepState.PENDING
        and any(_left_out(other, known[other.task_id]) for other in _before(run, task))
    ]


def _open_groups(run: PlanRun, known: dict[str, StepProgress]) -> dict[str, int]:
    """For each group whose turn has come the stage that it is at: the first one that is not settled."""
    unsettled: dict[str, int] = {}
    for task in run.tasks:
        if not _settled(task, known[task.task_id]):
            unsettled[task.group] = min(task.stage, unsettled.get(task.group, task.stage))
    return {
        group: unsettled[group]
        for group, depends in run.depends
        if group in unsettled and not any(other in unsettled for other in _all_before(run, depends))
    }


def _all_before(run: PlanRun, names: Sequence[str]) -> set[str]:
    """These groups and all that they depend on: one that has no tasks of its own still passes the order on."""
    depends = dict(run.depends)
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += depends.get(name, ())
    return found


def context_of(request: FailoverRequested, run: PlanRun, task: PlanTask, attempt: int) -> str:
    """What an action or gate is told of the run, as JSON."""
    known = progress_of(run)
    members = {member.vm_id: member for member in run.members}
    vms = []
    for other in run.tasks:
        if other.kind is not TaskKind.VM or other.group != task.group:
            continue
        member = members.get(other.vm_id)
        said = {"vm_id": other.vm_id, "state": known[other.task_id].state.value}
        vms.append(said | ({"site": member.site, "node": member.node} if member else {}))
    return json.dumps(
        {
            "run_id": request.run_id,
            "plan_id": request.plan_id,
            "kind": request.kind.value,
            "group": task.group,
            "task": task.task_id,
            "attempt": attempt,
            "actor": request.actor,
            "reason": request.reason,
            "ticket": request.ticket,
            "vm_id": task.vm_id,
            "vms": vms,
        },
        sort_keys=True,
    )
