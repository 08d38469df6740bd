"""The run of a list or a recovery plan: groups in order, the VMs of a group side by side. Pure.

Each VM's failover is a run of its own, on the VM's partition, with the id `<this run>/<vm>`: started by an event that
this run's partition writes, so a second start is the same start. When it ends, its partition tells this one.

| rule | when | then |
| --- | --- | --- |
| L1 | the run begins, or a group is done | the VMs of the next group are told to fail over |
| L2 | a VM's run has ended | noted; the group is done when all its VMs' runs have |
| L3 | a planned run's group is done and one of it did not succeed | no further group: what depends on it stays |
| L4 | an unplanned run's group is done and one of it did not succeed | the next group all the same: the site is gone |
| L5 | a cancel | the VMs under way are told to cancel, and no further group starts; a second one is refused |
| L6 | no group is left, or none may start | the run ends |
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction, StepResult
from failover_orch.domain.records import RunState, StepProgress, StepState
from failover_orch.domain.runs import Transition
from failover_orch.domain.settings import RecoveryGroup
from failover_orch.domain.state import PlanRun

__all__ = ["PlanAdvance", "begin_plan", "cancel_plan", "failures", "on_member_ended", "plan_key"]


_SHOWN = 5


@dataclass(frozen=True, slots=True)
class PlanAdvance:
    """The run from now on, the requests to its VMs, and the transitions to journal."""

    run: PlanRun
    requests: tuple[FailoverRequested, ...] = ()
    transitions: tuple[Transition, ...] = ()
    refusal: str = ""

    def then(self, following: PlanAdvance) -> PlanAdvance:
        """What happened here, and what followed from it at once."""
        return replace(
            following,
            requests=self.requests + following.requests,
            transitions=self.transitions + following.transitions,
        )


def plan_key(request: FailoverRequested) -> str:
    """The key under which a list's or plan's run lives."""
    return request.plan_id or request.run_id


def begin_plan(request: FailoverRequested, groups: tuple[RecoveryGroup, ...], now_ms: int, trace: str) -> PlanAdvance:
    """Start the run of a list or plan: its groups are as they are now, and stay so (L1)."""
    groups = _each_once(groups)
    run = PlanRun(
        request=request,
        state=RunState.RUNNING,
        groups=groups,
        members=(),
        group=-1,
        started_at_ms=now_ms,
        trace=trace,
    )
    count = sum(len(group.vm_ids) for group in groups)
    begins = Transition("L1", f"{request.kind.lower()} failover of {count} VMs in {len(groups)} groups begins")
    return PlanAdvance(run, transitions=(begins,)).then(_next_group(run, now_ms))


def on_member_ended(run: PlanRun, result: StepResult, now_ms: int) -> PlanAdvance:
    """A VM's run has ended (L2)."""
    known = next((member for member in run.members if member.step == result.step), None)
    if run.state.ended or known is None or known.state is not StepState.ISSUED:
        return PlanAdvance(run)
    ended_as = result.observed.get("state", result.outcome.value)
    good = ended_as == RunState.SUCCEEDED
    loss = result.number("data_loss_ms")
    member = replace(
        known,
        state=StepState.DONE if good else StepState.FAILED,
        detail=ended_as if good else f"{ended_as}: {result.detail}",
        finished_at_ms=now_ms,
    )
    run = replace(
        run,
        members=tuple(member if other is known else other for other in run.members),
        data_loss_ms=run.data_loss_ms if loss is None else max(run.data_loss_ms, loss),
    )
    noted = PlanAdvance(run, transitions=(Transition("L2", f"{result.step} ended {member.detail}"),))
    if any(other.state is StepState.ISSUED for other in run.members):
        return noted
    return noted.then(_group_done(run, now_ms))


def cancel_plan(run: PlanRun, request: FailoverRequested, now_ms: int) -> PlanAdvance:
    """Take the wish to cancel the run (L5). VMs past their point of no return finish; the others are undone."""
    if run.state.ended:
        return PlanAdvance(run, refusal=f"the run has already ended: {run.state}")
    if run.cancelled_by:
        return PlanAdvance(run, refusal=f"the run is being cancelled already, by {run.cancelled_by}")
    under_way = [member.step for member in run.members if member.state is StepState.ISSUED]
    run = replace(run, cancelled_by=request.actor)
    cancels = tuple(
        replace(
            _member_request(run, vm_id, now_ms),
            action=RequestAction.CANCEL,
            actor=request.actor,
            reason=request.reason,
            ticket=request.ticket,
        )
        for vm_id in under_way
    )
    said = Transition("L5", f"cancelled by {request.actor}: {request.reason}; {len(under_way)} VMs are told to cancel")
    return PlanAdvance(run, requests=cancels, transitions=(said,))


def failures(run: PlanRun) -> str:
    """Which VMs did not succeed, and why: the first few, for the steps tell of all. Empty where all succeeded."""
    failed = [f"{member.step} {member.detail}" for member in run.members if member.state is StepState.FAILED]
    more = [f"and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    return "; ".join(failed[:_SHOWN] + more)


def _group_done(run: PlanRun, now_ms: int) -> PlanAdvance:
    failed = [member.step for member in run.members if member.state is StepState.FAILED]
    if run.cancelled_by:
        return _end(run, now_ms)
    if failed and run.request.kind is FailoverKind.PLANNED and run.group + 1 < len(run.groups):
        left = sum(len(group.vm_ids) for group in run.groups[run.group + 1 :])
        why = f"{', '.join(failed)} did not succeed: the {left} VMs of the groups after it stay where they are"
        return PlanAdvance(run, transitions=(Transition("L3", why),)).then(_end(run, now_ms))
    return _next_group(run, now_ms)


def _next_group(run: PlanRun, now_ms: int) -> PlanAdvance:
    index = run.group + 1
    if index >= len(run.groups):
        return _end(run, now_ms)
    group = run.groups[index]
    started = tuple(StepProgress(vm_id, StepState.ISSUED, 1, "", now_ms, 0) for vm_id in group.vm_ids)
    run = replace(run, group=index, members=run.members + started)
    failed = any(member.state is StepState.FAILED for member in run.members)
    rule = "L4" if failed else "L1"
    return PlanAdvance(
        run,
        requests=tuple(_member_request(run, vm_id, now_ms) for vm_id in group.vm_ids),
        transitions=(Transition(rule, f"group {group.name}: {', '.join(group.vm_ids)} are told to fail over"),),
    )


def _each_once(groups: tuple[RecoveryGroup, ...]) -> tuple[RecoveryGroup, ...]:
    """The groups with every VM in the first that names it, and none empty.

    A VM has one run here, and that run ends once: named twice it would be waited for forever.
    """
    seen: set[str] = {""}
    kept = []
    for group in groups:
        vm_ids = tuple(vm_id for vm_id in dict.fromkeys(group.vm_ids) if vm_id not in seen)
        seen.update(vm_ids)
        if vm_ids:
            kept.append(replace(group, vm_ids=vm_ids))
    return tuple(kept)


def _member_request(run: PlanRun, vm_id: str, now_ms: int) -> FailoverRequested:
    return replace(
        run.request,
        run_id=f"{run.request.run_id}/{vm_id}",
        vm_id=vm_id,
        plan_id="",
        vm_ids=(),
        requested_at_ms=now_ms,
        parent_run_id=run.request.run_id,
        parent_key=plan_key(run.request),
    )


def _end(run: PlanRun, now_ms: int) -> PlanAdvance:
    done = sum(member.state is StepState.DONE for member in run.members)
    total = sum(len(group.vm_ids) for group in run.groups)
    if done == total:
        # Also where a cancel came: it was too late for every VM.
        state = RunState.SUCCEEDED
    elif run.cancelled_by:
        state = RunState.CANCELLED
    else:
        state = RunState.COMPLETED_WITH_ERRORS if done else RunState.FAILED
    run = replace(run, state=state, finished_at_ms=now_ms)
    return PlanAdvance(run, transitions=(Transition("L6", f"the run ends: {state}, {done} of {total} VMs moved"),))
