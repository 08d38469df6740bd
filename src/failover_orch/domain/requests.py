"""Requests to fail over and what becomes of them: runs of VMs, and of lists and plans.

| rule | a request | is |
| --- | --- | --- |
| Q1 | whose run is known already | the same request: nothing |
| Q2 | that names no target, or more than one | refused |
| Q3 | for a plan that is not known, or that has no VMs | refused |
| Q4 | to cancel a run that is not known | refused |
| Q5 | without an actor or a reason | refused |
| A0 | (accepted) that leaves adapters with the primary's configuration, by policy KEEP | journalled, naming them |
| S1 | (a step's result) of a run that is not known | refused |

Then `preconditions` F1 to F10 speak, and `runs` or `plan_runs` say how it goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from failover_orch.domain.addresses import kept_adapters
from failover_orch.domain.draft import Draft
from failover_orch.domain.facts import FailoverRequested, RequestAction, StepOutcome, StepResult
from failover_orch.domain.plan_runs import (
    PlanAdvance,
    begin_plan,
    cancel_plan,
    failures,
    on_member_ended,
    plan_key,
)
from failover_orch.domain.preconditions import refusals
from failover_orch.domain.records import Alert, JournalEntry, RunSnapshot, RunState, Severity
from failover_orch.domain.runs import Advance, Transition, begin, on_cancel, on_due, on_result
from failover_orch.domain.settings import RecoveryGroup, RecoveryPlan
from failover_orch.domain.state import PlanRun, Run, VmState

__all__ = ["KEEP_ENDED_RUNS_MS", "on_request", "on_step_result", "on_time"]

_AnyRun = TypeVar("_AnyRun", Run, PlanRun)

KEEP_ENDED_RUNS_MS = 7 * 24 * 3_600_000
"""How long an ended run is remembered, so that a late repetition of its request is still known as one."""


def on_request(draft: Draft, request: FailoverRequested) -> None:
    if request.action is RequestAction.CANCEL:
        _cancel_requested(draft, request)
        return
    if draft.find(f"run/{request.run_id}", Run) or draft.find(f"plan-run/{request.run_id}", PlanRun):
        return  # Q1
    targets = sum(map(bool, (request.vm_id, request.plan_id, request.vm_ids)))
    if not request.run_id or targets != 1:
        draft.refuse(
            "Q2",
            request.vm_id,
            "a request names its run and one VM, one list or one plan",
            run_id=request.run_id,
            by=request,
        )
        if request.run_id:
            _end_refused(draft, request, "a request names its run and one VM, one list or one plan")
    elif not request.actor or not request.reason:
        draft.refuse("Q5", request.vm_id, "a request says who asks and why", run_id=request.run_id, by=request)
        _end_refused(draft, request, "a request says who asks and why")
    elif request.vm_id:
        _vm_requested(draft, request)
    else:
        _plan_requested(draft, request)


def on_step_result(draft: Draft, result: StepResult) -> None:
    run = draft.find(f"run/{result.run_id}", Run)
    plan_run = draft.find(f"plan-run/{result.run_id}", PlanRun)
    if run is not None and run.request.vm_id == result.vm_id:
        vm = draft.find(f"vm/{result.vm_id}", VmState) or VmState(result.vm_id)
        _take(draft, run, on_result(run, vm, result, draft.now_ms))
    elif plan_run is not None:
        _take_plan(draft, plan_run, on_member_ended(plan_run, result, draft.now_ms))
    else:
        why = f"result of step {result.step} of run {result.run_id}, which is not known here"
        draft.refuse("S1", result.vm_id, why, run_id=result.run_id)


def on_time(draft: Draft, key: str, value: Run | PlanRun) -> None:
    """Look at a run whose time has come: one that ended long ago is forgotten."""
    if value.state.ended:
        draft.keep(key, None)
    elif isinstance(value, Run):
        vm = draft.find(f"vm/{value.request.vm_id}", VmState)
        if vm is not None:
            draft.trace = value.trace
            _take(draft, value, on_due(value, vm, draft.now_ms))


def _vm_requested(draft: Draft, request: FailoverRequested) -> None:
    vm = draft.find(f"vm/{request.vm_id}", VmState)
    against = refusals(vm, request, draft.clusters())
    if against or vm is None:
        for sequence, refusal in enumerate(against):
            draft.refuse(refusal.rule, request.vm_id, refusal.why, run_id=request.run_id, sequence=sequence, by=request)
        _end_refused(draft, request, "; ".join(map(str, against)))
        return
    draft.audit(request.vm_id, f"{request.kind.lower()} failover", "accepted", by=request, run=request.run_id)
    advance = begin(request, vm, draft.now_ms, draft.trace)
    kept = kept_adapters(vm.inventory, vm.settings) if vm.inventory else ()
    if kept:
        said = Transition("A0", f"by policy KEEP these come up with the primary's configuration: {', '.join(kept)}")
        advance = replace(advance, transitions=(advance.transitions[0], said, *advance.transitions[1:]))
    _take(draft, None, advance)


def _plan_requested(draft: Draft, request: FailoverRequested) -> None:
    if request.plan_id:
        plan = draft.find(f"plan/{request.plan_id}", RecoveryPlan)
        groups = plan.groups if plan else ()
    else:
        groups = (RecoveryGroup("all", request.vm_ids),)
    if not any(vm_id for group in groups for vm_id in group.vm_ids):
        why = f"plan {request.plan_id} is not known or has no VMs"
        draft.refuse("Q3", "", why, run_id=request.run_id, by=request)
        _end_refused(draft, request, why)
        return
    draft.audit(plan_key(request), f"{request.kind.lower()} failover", "accepted", by=request, run=request.run_id)
    _take_plan(draft, None, begin_plan(request, groups, draft.now_ms, draft.trace))


def _cancel_requested(draft: Draft, request: FailoverRequested) -> None:
    run = draft.find(f"run/{request.run_id}", Run)
    plan_run = draft.find(f"plan-run/{request.run_id}", PlanRun)
    subject = request.vm_id or plan_key(request)
    refusal = ""
    rule = "R6" if run or plan_run else "Q4"
    if not request.actor or not request.reason:
        rule, refusal = "Q5", "a request says who asks and why"
    elif run is not None:
        vm = draft.find(f"vm/{run.request.vm_id}", VmState) or VmState(run.request.vm_id)
        advance = on_cancel(run, vm, request, draft.now_ms)
        refusal = advance.refusal
        _take(draft, run, advance)
    elif plan_run is not None:
        plan_advance = cancel_plan(plan_run, request, draft.now_ms)
        refusal = plan_advance.refusal
        _take_plan(draft, plan_run, plan_advance)
    else:
        refusal = f"run {request.run_id} is not known"
    if refusal:
        draft.refuse(rule, request.vm_id, f"cancel: {refusal}", run_id=request.run_id, by=request)
    draft.audit(subject, "cancel", "refused" if refusal else "accepted", by=request, run=request.run_id)


def _take(draft: Draft, before: Run | None, advance: Advance) -> None:
    """Take over what has become of a VM's run."""
    if advance.run is before:
        return
    run = _journaled(draft, advance.run, advance.transitions)
    draft.keep(f"vm/{run.request.vm_id}", advance.vm)
    draft.keep(f"run/{run.request.run_id}", run)
    draft.tell(*advance.routes, *advance.commands, _snapshot(run))
    if run.state.ended:
        _ended(draft, run.request, run.state, "; ".join(run.errors), run.data_loss_ms)


def _take_plan(draft: Draft, before: PlanRun | None, advance: PlanAdvance) -> None:
    """Take over what has become of a list's or plan's run."""
    if advance.run is before:
        return
    run = _journaled(draft, advance.run, advance.transitions)
    draft.keep(f"plan-run/{run.request.run_id}", run)
    draft.tell(*advance.requests, _plan_snapshot(run))
    if run.state.ended:
        _ended(draft, run.request, run.state, failures(run), run.data_loss_ms)


def _journaled(draft: Draft, run: _AnyRun, transitions: tuple[Transition, ...]) -> _AnyRun:
    """Write a run's transitions into the journal; returns the run as it is to be kept."""
    for number, transition in enumerate(transitions, start=run.journal_sequence):
        draft.journal(_entry(draft, run.request, number, run.state, transition))
    return replace(
        run,
        journal_sequence=run.journal_sequence + len(transitions),
        due_ms=draft.now_ms + KEEP_ENDED_RUNS_MS if run.state.ended else run.due_ms,
    )


def _end_refused(draft: Draft, request: FailoverRequested, why: str) -> None:
    """Remember and tell a request that did not become a run."""
    run = Run(
        request=request,
        state=RunState.REFUSED,
        steps=(),
        position=0,
        epoch=0,
        primary_site="",
        replica_site="",
        started_at_ms=draft.now_ms,
        finished_at_ms=draft.now_ms,
        due_ms=draft.now_ms + KEEP_ENDED_RUNS_MS,
        errors=(why,),
        trace=draft.trace,
    )
    draft.keep(f"run/{request.run_id}", run)
    draft.tell(_snapshot(run))
    _ended(draft, request, RunState.REFUSED, why, -1)


def _ended(draft: Draft, request: FailoverRequested, state: RunState, detail: str, data_loss_ms: int) -> None:
    """Tell of a run's end: the audit trail, whoever watches for trouble, and the run that it is part of."""
    subject = request.vm_id or plan_key(request)
    draft.audit(subject, f"{request.kind.lower()} failover", state.value, by=request, run=request.run_id, detail=detail)
    if state is not RunState.SUCCEEDED:
        severity = Severity.WARNING if state in (RunState.REFUSED, RunState.CANCELLED) else Severity.CRITICAL
        what = f"{request.kind.lower()} failover {request.run_id} ended {state}" + (f": {detail}" if detail else "")
        draft.tell(Alert(subject, severity, what, draft.now_ms))
    if request.parent_run_id:
        outcome = {RunState.SUCCEEDED: StepOutcome.DONE, RunState.REFUSED: StepOutcome.REFUSED}
        draft.tell(
            StepResult(
                run_id=request.parent_run_id,
                step=request.vm_id,
                attempt=1,
                vm_id=request.vm_id,
                site="",
                node="",
                epoch=0,
                outcome=outcome.get(state, StepOutcome.FAILED),
                detail=detail,
                finished_at_ms=draft.now_ms,
                observed={"state": state.value, "data_loss_ms": str(data_loss_ms)},
                key=request.parent_key,
            )
        )


def _entry(
    draft: Draft, request: FailoverRequested, sequence: int, state: RunState, transition: Transition
) -> JournalEntry:
    return JournalEntry(
        run_id=request.run_id,
        vm_id=request.vm_id,
        sequence=sequence,
        rule=transition.rule,
        what=transition.what,
        state=state.value,
        at_ms=draft.now_ms,
        actor=request.actor,
        reason=request.reason,
        ticket=request.ticket,
        evidence=transition.evidence,
    )


def _snapshot(run: Run) -> RunSnapshot:
    request = run.request
    return RunSnapshot(
        run_id=request.run_id,
        kind=request.kind,
        state=run.state,
        vm_id=request.vm_id,
        steps=run.steps,
        actor=request.actor,
        reason=request.reason,
        started_at_ms=run.started_at_ms,
        finished_at_ms=run.finished_at_ms,
        epoch=run.epoch,
        plan_id=request.plan_id,
        parent_run_id=request.parent_run_id,
        ticket=request.ticket,
        detail="; ".join(run.errors),
        data_loss_ms=run.data_loss_ms,
        addresses=dict(run.addresses),
    )


def _plan_snapshot(run: PlanRun) -> RunSnapshot:
    request = run.request
    return RunSnapshot(
        run_id=request.run_id,
        kind=request.kind,
        state=run.state,
        vm_id="",
        steps=run.members,
        actor=request.actor,
        reason=request.reason,
        started_at_ms=run.started_at_ms,
        finished_at_ms=run.finished_at_ms,
        plan_id=request.plan_id,
        ticket=request.ticket,
        detail=failures(run),
        data_loss_ms=run.data_loss_ms,
    )
