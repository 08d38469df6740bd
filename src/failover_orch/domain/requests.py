"""Requests to fail over and what becomes of them: runs of VMs, and of lists and plans.

| rule | a request | is |
| --- | --- | --- |
| Q1 | whose run is known already, or that has been said to its run already | the same request: nothing |
| Q2 | that names no target, or more than one | refused |
| Q3 | for a plan that is not known, or that has no VMs | refused |
| Q4 | to do something with a run or VM that is not known | refused |
| Q5 | without an actor or a reason | refused |
| Q6 | for a plan of which a run is in flight | refused |
| A0 | (accepted) that leaves adapters with the primary's configuration, by policy KEEP | journalled, naming them |
| S1 | (a step's result) of a run that is not known | refused |

Then `preconditions` F1 to F13 speak, `approvals` V1 to V10, for the broker's own requests `automatic` G8, and `runs`,
`operators` or `plan_runs` say how it goes on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from failover_orch.domain.approvals import awaiting, granted, needed, on_word
from failover_orch.domain.automatic import (
    acknowledged,
    brake_for_plan,
    closed_meanwhile,
    cooled_down,
    note_automatic_run,
    on_its_own_fence,
    tell_automatic_run,
)
from failover_orch.domain.draft import Draft
from failover_orch.domain.facts import FailoverRequested, RequestAction, StepOutcome, StepResult
from failover_orch.domain.operators import say
from failover_orch.domain.plan_runs import (
    PlanAdvance,
    begin_plan,
    failures,
    new_plan_run,
    on_plan_due,
    on_plan_result,
    park_plan_for_bug,
    plan_key,
    say_to_plan,
)
from failover_orch.domain.preconditions import Refusal, goes_to, kept_by_policy, refusals, settings_for
from failover_orch.domain.records import Alert, JournalEntry, RunSnapshot, RunState, Severity
from failover_orch.domain.runs import (
    Advance,
    Transition,
    begin,
    on_due,
    on_result,
    park_for_bug,
    pending_steps,
)
from failover_orch.domain.settings import RecoveryGroup, RecoveryPlan
from failover_orch.domain.settings_keeping import on_settings_result
from failover_orch.domain.standing import keep_vm
from failover_orch.domain.state import PlanReadiness, PlanRun, Run, VmState
from failover_orch.domain.terms import LATEST, CommitPolicy
from failover_orch.domain.workflows import WORKFLOWS

__all__ = ["KEEP_ENDED_RUNS_MS", "on_request", "on_step_result", "on_time", "park_run"]

_AnyRun = TypeVar("_AnyRun", Run, PlanRun)

KEEP_ENDED_RUNS_MS = 7 * 24 * 3_600_000
"""How long an ended run is remembered, so that a late repetition of its request is still known as one."""

_WORDS_REMEMBERED = 50
_AGREEING = (RequestAction.APPROVE, RequestAction.REJECT)
_NOT_NOW = "R23"
_TOO_LATE = {RequestAction.CANCEL: "R6"}
"""Rules by which a word to a run is refused."""
_CANCELS_TEST = "a real failover of the VM begins"


def on_request(draft: Draft, request: FailoverRequested) -> None:
    if request.action is RequestAction.ACKNOWLEDGE:
        _acknowledge(draft, request)
        return
    if request.action is not RequestAction.REQUEST:
        _said(draft, request)
        return
    if draft.find(f"run/{request.run_id}", Run) or draft.find(f"plan-run/{request.run_id}", PlanRun):
        return  # Q1
    against = _unusable(request)
    if against is not None:
        _refuse(draft, request, [against])
    elif request.vm_id:
        _vm_requested(draft, request)
    else:
        _plan_requested(draft, request)


def on_step_result(draft: Draft, result: StepResult) -> None:
    if on_settings_result(draft, result):
        return
    run = draft.find(f"run/{result.run_id}", Run)
    plan_run = draft.find(f"plan-run/{result.run_id}", PlanRun)
    if run is not None and run.request.vm_id == result.vm_id:
        _take(draft, run, on_result(run, _vm_of(draft, run), result, draft.now_ms))
    elif plan_run is not None:
        _take_plan(draft, plan_run, on_plan_result(plan_run, result, draft.now_ms))
    else:
        why = f"result of step {result.step} of run {result.run_id}, which is not known here"
        draft.refuse("S1", result.vm_id, why, run_id=result.run_id)


def on_time(draft: Draft, key: str, value: Run | PlanRun) -> None:
    """Look at a run whose time has come: one that ended long ago is forgotten."""
    draft.trace = value.trace
    if value.state.ended:
        draft.keep(key, None)
    elif value.state is RunState.AWAITING_APPROVAL:
        given = len(value.approval.given) if value.approval else 0
        why = f"approval has expired: {given} of {value.approval.rule.needed if value.approval else 0} agreed in time"
        _end_without_beginning(draft, value, Transition("V8", why))
    elif isinstance(value, Run):
        _take(draft, value, on_due(value, _vm_of(draft, value), draft.now_ms))
    else:
        _take_plan(draft, value, on_plan_due(value, draft.now_ms))


def park_run(draft: Draft, run_id: str, error: str) -> None:
    """An unexpected error while a fact about this run was folded (R14)."""
    run = draft.find(f"run/{run_id}", Run)
    plan_run = draft.find(f"plan-run/{run_id}", PlanRun)
    if run is not None:
        _take(draft, run, park_for_bug(run, _vm_of(draft, run), error, draft.now_ms))
    elif plan_run is not None:
        _take_plan(draft, plan_run, park_plan_for_bug(plan_run, error, draft.now_ms))


# Requests


def _unusable(request: FailoverRequested) -> Refusal | None:
    targets = sum(map(bool, (request.vm_id, request.plan_id, request.vm_ids)))
    if not request.run_id or targets != 1:
        return Refusal("Q2", "a request names its run and one VM, one list or one plan")
    if not request.actor or not request.reason:
        return Refusal("Q5", "a request says who asks and why")
    part_of = f"{request.parent_run_id}/{request.vm_id}"
    as_part = request.run_id == part_of or request.run_id.startswith(f"{part_of}~")
    if request.parent_run_id and not (as_part and request.parent_key):
        # Such a run asks for nobody's approval, its plan's has it: only the plan's own requests look like this.
        return Refusal("Q2", f"a run that is part of another is named {part_of}, and says where to answer")
    return None


def _vm_requested(draft: Draft, request: FailoverRequested) -> None:
    vm = draft.find(f"vm/{request.vm_id}", VmState)
    limits = draft.limits(vm) if vm is not None else draft.plan_limits("")
    against = refusals(vm, request, draft.clusters(), limits, draft.now_ms)
    if against or vm is None:
        _refuse(draft, request, list(against))
        return
    draft.audit(request.vm_id, f"{request.kind.noun}", "accepted", by=request, run=request.run_id)
    rule = needed(request, limits, goes_to(vm, request.kind))
    run = _new_run(draft, request, vm)
    if rule is not None:
        waiting, said = awaiting(run, rule, draft.now_ms)
        _take(draft, None, Advance(waiting, vm, transitions=(said,)))
        return
    _begin(draft, None, run, vm)


def _new_run(draft: Draft, request: FailoverRequested, vm: VmState) -> Run:
    return Run(
        request=request,
        state=RunState.RUNNING,
        steps=pending_steps(WORKFLOWS[request.kind]),
        position=0,
        epoch=0,
        primary_site=vm.active_site,
        replica_site=goes_to(vm, request.kind),
        started_at_ms=draft.now_ms,
        trace=draft.trace,
        point=request.point,
    )


def _begin(draft: Draft, before: Run | None, run: Run, vm: VmState) -> None:
    """Begin a run against which nothing speaks, with the VM and its settings as they are by now."""
    request = run.request
    if request.automatic:
        guard = closed_meanwhile(draft, request, vm)
        if guard is not None:
            refused = Transition("G8", f"guard {guard.number} is closed: {guard}")
            _end_without_beginning(draft, run, refused)
            return
        run = replace(run, request=on_its_own_fence(draft, request, vm))
    if vm.test_run_id and not request.isolated:
        vm = _end_test(draft, request, vm)
    if request.automatic:
        vm = note_automatic_run(draft, request, vm, draft.limits(vm))
    settings = settings_for(vm, request.kind)
    run = replace(
        run,
        primary_site=vm.active_site,
        replica_site=goes_to(vm, request.kind),
        adapters=settings.adapters if settings else (),
        test_network=settings.test_network if settings else "",
        started_at_ms=draft.now_ms,
    )
    advance = begin(run, vm, draft.now_ms)
    kept = kept_by_policy(vm, request.kind)
    if kept:
        said = Transition("A0", f"by policy KEEP these come up with the primary's configuration: {', '.join(kept)}")
        advance = replace(advance, transitions=(advance.transitions[0], said, *advance.transitions[1:]))
    _take(draft, before, advance)


def _end_test(draft: Draft, request: FailoverRequested, vm: VmState) -> VmState:
    """A real failover goes before a test: the test copy is removed, beside it."""
    test = draft.find(f"run/{vm.test_run_id}", Run)
    if test is None or test.state is RunState.UNDOING:
        return vm
    word = replace(test.request, action=RequestAction.CANCEL, actor=request.actor, reason=_CANCELS_TEST)
    advance = say(test, vm, word, draft.now_ms)
    _take(draft, test, advance)
    return _vm_of(draft, test)


def _plan_requested(draft: Draft, request: FailoverRequested) -> None:
    plan = draft.find(f"plan/{request.plan_id}", RecoveryPlan) if request.plan_id else None
    groups = plan.groups if plan else ()
    if not request.plan_id:
        groups = (RecoveryGroup("all", request.vm_ids),)
    if not any(vm_id for group in groups for vm_id in group.vm_ids):
        _refuse(draft, request, [Refusal("Q3", f"plan {request.plan_id} is not known or has no VMs")])
        return
    other = _plan_in_flight(draft, request.plan_id)
    if request.automatic and (other or _proposed(draft, request.plan_id)):
        # Each of its VMs asks for the plan when its own guards open: one of them is enough.
        what = f"run {other or _proposed(draft, request.plan_id)} of plan {request.plan_id} is under way or proposed"
        draft.refuse("Q6", "", what, by=request)
        return
    if other:
        _refuse(draft, request, [Refusal("Q6", f"run {other} of this plan is in flight")])
        return
    if plan is not None:
        request = _on_the_plans_terms(request, plan)
    draft.audit(plan_key(request), f"{request.kind.noun}", "accepted", by=request, run=request.run_id)
    run = new_plan_run(request, groups, draft.now_ms, draft.trace)
    rule = needed(request, draft.plan_limits(request.plan_id), "")
    if rule is not None:
        waiting, said = awaiting(run, rule, draft.now_ms)
        _take_plan(draft, None, PlanAdvance(waiting, transitions=(said,)))
        return
    _begin_plan(draft, None, run)


def _begin_plan(draft: Draft, before: PlanRun | None, run: PlanRun) -> None:
    request = run.request
    if request.automatic:
        guard = brake_for_plan(draft, request.plan_id)
        if not guard.open:
            _end_without_beginning(draft, run, Transition("G8", f"guard {guard.number} is closed: {guard}"))
            return
        tell_automatic_run(draft, request, request.plan_id)
    _take_plan(draft, before, begin_plan(replace(run, started_at_ms=draft.now_ms), draft.now_ms))


def _proposed(draft: Draft, plan_id: str) -> str:
    stands = draft.find(f"plan-readiness/{plan_id}", PlanReadiness)
    return stands.proposed_run_id if stands is not None else ""


def _plan_in_flight(draft: Draft, plan_id: str) -> str:
    """The run of this plan that is in flight, or nothing."""
    stands = draft.find(f"plan-readiness/{plan_id}", PlanReadiness) if plan_id else None
    return stands.run_id if stands is not None else ""


def _on_the_plans_terms(request: FailoverRequested, plan: RecoveryPlan) -> FailoverRequested:
    """The request with the plan's own terms where it leaves them open."""
    # A test's window is how long its copies are kept, and no matter of the plan's.
    own_commit = request.commit is not CommitPolicy.AT_ONCE or request.window_ms > 0 or request.isolated
    return replace(
        request,
        point=plan.point if request.point == LATEST else request.point,
        commit=request.commit if own_commit else plan.commit,
        window_ms=request.window_ms if own_commit else plan.window_ms,
        max_in_flight=request.max_in_flight or plan.max_in_flight,
        per_node=request.per_node or plan.per_node,
        per_site=request.per_site or plan.per_site,
        step_policies=request.step_policies or plan.step_policies,
    )


# What people say to runs


def _said(draft: Draft, request: FailoverRequested) -> None:
    run = draft.find(f"run/{request.run_id}", Run)
    plan_run = draft.find(f"plan-run/{request.run_id}", PlanRun)
    known = run or plan_run
    if known is not None and request.word in known.heard:
        return  # Q1
    if not request.actor or not request.reason:
        refusal = "Q5: a request says who asks and why"
    elif run is None and plan_run is None:
        refusal = f"Q4: run {request.run_id} is not known"
    elif request.action in _AGREEING:
        refusal = _agreed(draft, run or plan_run, request)
    elif run is not None:
        advance = say(run, _vm_of(draft, run), request, draft.now_ms)
        refusal = advance.refusal and f"{_TOO_LATE.get(request.action, _NOT_NOW)}: {advance.refusal}"
        _take(draft, run, advance)
    elif plan_run is not None and plan_run.state.ended and (other := _plan_in_flight(draft, request.plan_id)):
        refusal = f"Q6: run {other} of this plan is in flight"
    elif plan_run is not None:
        plan_advance = say_to_plan(plan_run, request, draft.now_ms)
        refusal = plan_advance.refusal and f"{_TOO_LATE.get(request.action, _NOT_NOW)}: {plan_advance.refusal}"
        _take_plan(draft, plan_run, plan_advance)
    else:
        refusal = ""
    _remember(draft, request)
    what = request.action.lower().replace("_", " ")
    if refusal:
        rule, _, why = refusal.partition(": ")
        draft.refuse(rule, request.vm_id, f"{what}: {why}", run_id=request.run_id, by=request)
    subject = request.vm_id or plan_key(request)
    draft.audit(subject, what, "refused" if refusal else "accepted", by=request, run=request.run_id)


def _remember(draft: Draft, request: FailoverRequested) -> None:
    """Remember that this was said: told twice to a run that has moved on, it would be taken for a new decision."""
    run_key, plan_run_key = f"run/{request.run_id}", f"plan-run/{request.run_id}"
    run, plan_run = draft.find(run_key, Run), draft.find(plan_run_key, PlanRun)
    if run is not None:
        draft.keep(run_key, replace(run, heard=(*run.heard, request.word)[-_WORDS_REMEMBERED:]))
    elif plan_run is not None:
        draft.keep(plan_run_key, replace(plan_run, heard=(*plan_run.heard, request.word)[-_WORDS_REMEMBERED:]))


def _agreed(draft: Draft, run: Run | PlanRun | None, request: FailoverRequested) -> str:
    """Take a person's agreement or rejection; returns why it does not count, or nothing."""
    if isinstance(run, Run):
        agreed, said, refusal = on_word(run, request)
        if said is None:
            return refusal
        vm = _vm_of(draft, run)
        if agreed.state.ended:
            _end_without_beginning(draft, run, said)
            return ""
        _take(draft, run, Advance(agreed, vm, transitions=(said,)))
        if granted(agreed):
            _begin_approved(draft, agreed)
        return ""
    if isinstance(run, PlanRun):
        agreed_plan, said, refusal = on_word(run, request)
        if said is None:
            return refusal
        if agreed_plan.state.ended:
            _end_without_beginning(draft, run, said)
            return ""
        other = _plan_in_flight(draft, run.request.plan_id) if granted(agreed_plan) else ""
        if other:
            _end_without_beginning(draft, run, Transition("Q6", f"run {other} of this plan is in flight by now"))
            return ""
        _take_plan(draft, run, PlanAdvance(agreed_plan, transitions=(said,)))
        if granted(agreed_plan):
            kept = draft.find(f"plan-run/{request.run_id}", PlanRun) or agreed_plan
            _begin_plan(draft, kept, kept)
    return ""


def _begin_approved(draft: Draft, run: Run) -> None:
    """All have agreed: begin, unless something speaks against it that did not when it was asked for (V3)."""
    kept = draft.find(f"run/{run.request.run_id}", Run) or run
    vm = _vm_of(draft, kept)
    against = refusals(vm, kept.request, draft.clusters(), draft.limits(vm), draft.now_ms)
    if against:
        why = Transition(against[0].rule, "refused by now: " + "; ".join(map(str, against)))
        _end_without_beginning(draft, kept, why)
        return
    _begin(draft, kept, kept, vm)


def _acknowledge(draft: Draft, request: FailoverRequested) -> None:
    vm = draft.find(f"vm/{request.vm_id}", VmState)
    refusal: Refusal | None = None
    if not request.actor or not request.reason:
        refusal = Refusal("Q5", "a request says who asks and why")
    elif vm is None:
        refusal = Refusal("Q4", f"VM {request.vm_id} is not known")
    elif request.requested_at_ms <= vm.acknowledged_at_ms:
        return  # Q1
    elif not vm.cooldowns:
        refusal = Refusal("G4", "no automatic failover of this VM is to be acknowledged")
    else:
        keep_vm(draft, acknowledged(replace(vm, acknowledged_at_ms=request.requested_at_ms)))
    if refusal is not None:
        draft.refuse(refusal.rule, request.vm_id, f"acknowledge: {refusal.why}", run_id=request.run_id, by=request)
    outcome = "refused" if refusal else "accepted"
    draft.audit(request.vm_id, "acknowledge", outcome, by=request, run=request.run_id)


# What becomes of runs


def _vm_of(draft: Draft, run: Run) -> VmState:
    return draft.find(f"vm/{run.request.vm_id}", VmState) or VmState(run.request.vm_id)


def _take(draft: Draft, before: Run | None, advance: Advance) -> None:
    """Take over what has become of a VM's run."""
    if advance.run is before:
        return
    run = _journaled(draft, advance.run, advance.transitions)
    if advance.vm != draft.find(f"vm/{run.request.vm_id}", VmState):
        keep_vm(draft, advance.vm)
    draft.keep(f"run/{run.request.run_id}", run)
    draft.tell(*advance.routes, *advance.commands, _snapshot(run))
    _tell_state(draft, before, run)
    if before is not None and before.state is not run.state and {before.state, run.state} & _FOR_THE_PARENT:
        _tell_parent(draft, run, StepOutcome.BEGUN)
    if run.state.ended:
        _ended(draft, run.request, run.state, "; ".join(run.errors))
        _tell_parent(draft, run, _OUTCOMES.get(run.state, StepOutcome.FAILED))


def _take_plan(draft: Draft, before: PlanRun | None, advance: PlanAdvance) -> None:
    """Take over what has become of a list's or plan's run."""
    if advance.run is before:
        return
    run = _journaled(draft, advance.run, advance.transitions)
    draft.keep(f"plan-run/{run.request.run_id}", run)
    draft.tell(*advance.requests, *advance.commands, _plan_snapshot(run))
    _tell_state(draft, before, run)
    if run.request.plan_id:
        stands = draft.find(f"plan-readiness/{run.request.plan_id}", PlanReadiness)
        stands = stands or PlanReadiness(run.request.plan_id)
        in_flight = not run.state.ended and run.state is not RunState.AWAITING_APPROVAL
        if in_flight or stands.run_id == run.request.run_id:
            stands = replace(stands, run_id=run.request.run_id if in_flight else "")
        if run.request.automatic:
            waits = run.state is RunState.AWAITING_APPROVAL
            stands = replace(stands, proposed_run_id=run.request.run_id if waits else "")
        draft.keep(f"plan-readiness/{run.request.plan_id}", stands)
    if run.state.ended:
        _ended(draft, run.request, run.state, failures(run))


def _journaled(draft: Draft, run: _AnyRun, transitions: tuple[Transition, ...]) -> _AnyRun:
    """Write a run's transitions into the journal; returns the run as it is to be kept."""
    for number, transition in enumerate(transitions, start=run.journal_sequence):
        draft.journal(_entry(draft, run.request, number, run.state, transition))
    return replace(
        run,
        journal_sequence=run.journal_sequence + len(transitions),
        due_ms=draft.now_ms + KEEP_ENDED_RUNS_MS if run.state.ended else run.due_ms,
    )


def _refuse(draft: Draft, request: FailoverRequested, against: list[Refusal]) -> None:
    """Journal, remember and tell a request that does not become a run."""
    for sequence, refusal in enumerate(against):
        draft.refuse(refusal.rule, request.vm_id, refusal.why, run_id=request.run_id, sequence=sequence, by=request)
    if not request.run_id:
        return
    why = "; ".join(map(str, against)) if request.vm_id else "; ".join(refusal.why for refusal in against)
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
    _ended(draft, request, RunState.REFUSED, why)
    _tell_parent(draft, run, StepOutcome.REFUSED)
    _not_again_at_once(draft, request, f"was refused ({why})")


def _not_again_at_once(draft: Draft, request: FailoverRequested, why: str) -> None:
    """What the broker asked for did not begin: it asks again, but only after the cooldown."""
    vm = draft.find(f"vm/{request.vm_id}", VmState)
    if request.automatic and not request.parent_run_id and vm is not None:
        keep_vm(draft, cooled_down(draft, vm, request, draft.limits(vm), why))


def _end_without_beginning(draft: Draft, run: Run | PlanRun, why: Transition) -> None:
    """End a run that nothing was done for yet: approval was refused or ran out, or something speaks against it now."""
    if isinstance(run, Run):
        run = replace(
            run,
            state=RunState.REFUSED,
            finished_at_ms=draft.now_ms,
            due_ms=0,
            waits_for="",
            choices=(),
            errors=(*run.errors, f"{why.rule}: {why.what}"),
        )
        _take(draft, None, Advance(run, _vm_of(draft, run), transitions=(why,)))
        _not_again_at_once(draft, run.request, f"did not begin ({why.what})")
    else:
        run = replace(
            run,
            state=RunState.REFUSED,
            finished_at_ms=draft.now_ms,
            due_ms=0,
            waits_for="",
            choices=(),
        )
        _take_plan(draft, None, PlanAdvance(run, transitions=(why,)))


def _tell_state(draft: Draft, before: Run | PlanRun | None, run: Run | PlanRun) -> None:
    """Tell people that a run waits for one of them."""
    if not run.waits_for or run.state.ended or (before is not None and before.waits_for == run.waits_for):
        return
    if run.state is RunState.AWAITING_COMMIT and run.request.parent_run_id:
        return  # the plan's run says so, for all of its VMs
    severity = Severity.CRITICAL if run.state is RunState.PARKED else Severity.WARNING
    subject = run.request.vm_id or plan_key(run.request)
    what = f"{run.request.kind.noun} {run.request.run_id} is {run.state}: {run.waits_for}"
    draft.tell(Alert(subject, severity, what, draft.now_ms))


_FOR_THE_PARENT = {RunState.AWAITING_COMMIT, RunState.PARKED}
"""States that a plan's run hears of when one of its VMs' runs comes into them, or leaves them."""
_OUTCOMES = {RunState.SUCCEEDED: StepOutcome.DONE, RunState.REFUSED: StepOutcome.REFUSED}


def _tell_parent(draft: Draft, run: Run, outcome: StepOutcome) -> None:
    """Tell the plan's run that this one serves, or has ended."""
    request = run.request
    if not request.parent_run_id:
        return
    vm = _vm_of(draft, run)
    site = vm.active_site if not request.isolated else run.replica_site
    here = vm.at(site)
    again = request.run_id.removeprefix(f"{request.parent_run_id}/{request.vm_id}").removeprefix("~")
    draft.tell(
        StepResult(
            run_id=request.parent_run_id,
            step=request.vm_id,
            attempt=int(again) if again.isascii() and again.isdigit() else 1,
            vm_id=request.vm_id,
            site=site,
            node=here.node if here is not None else "",
            epoch=vm.epoch,
            outcome=outcome,
            detail="; ".join(run.errors) if run.state.ended else run.waits_for,
            finished_at_ms=draft.now_ms,
            observed={
                "state": run.state.value,
                "data_loss_ms": str(run.data_loss_ms),
                "serving_at_ms": str(run.serving_at_ms),
            },
            key=request.parent_key,
        )
    )


def _ended(draft: Draft, request: FailoverRequested, state: RunState, detail: str) -> None:
    """Tell of a run's end: the audit trail, and whoever watches for trouble."""
    subject = request.vm_id or plan_key(request)
    draft.audit(subject, f"{request.kind.noun}", state.value, by=request, run=request.run_id, detail=detail)
    if state is not RunState.SUCCEEDED:
        severity = Severity.WARNING if state in (RunState.REFUSED, RunState.CANCELLED) else Severity.CRITICAL
        what = f"{request.kind.noun} {request.run_id} ended {state}" + (f": {detail}" if detail else "")
        draft.tell(Alert(subject, severity, what, draft.now_ms))


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
        recovery_time_ms=run.serving_at_ms - run.started_at_ms if run.serving_at_ms else -1,
        from_site=run.primary_site,
        to_site=run.replica_site,
        waits_for=run.waits_for,
        choices=tuple(choice.value for choice in run.choices),
        approved_by=run.approval.given if run.approval else (),
        recovery_point=run.recovery_point,
        automatic=request.automatic,
    )


def _plan_snapshot(run: PlanRun) -> RunSnapshot:
    request = run.request
    serving = [member.serving_at_ms for member in run.members if member.serving_at_ms]
    return RunSnapshot(
        run_id=request.run_id,
        kind=request.kind,
        state=run.state,
        vm_id="",
        steps=run.progress,
        actor=request.actor,
        reason=request.reason,
        started_at_ms=run.started_at_ms,
        finished_at_ms=run.finished_at_ms,
        plan_id=request.plan_id,
        ticket=request.ticket,
        detail=failures(run),
        data_loss_ms=max((member.data_loss_ms for member in run.members), default=-1),
        recovery_time_ms=max(serving) - run.started_at_ms if serving else -1,
        waits_for=run.waits_for,
        choices=tuple(choice.value for choice in run.choices),
        approved_by=run.approval.given if run.approval else (),
        groups=tuple(task.group for task in run.tasks),
        automatic=request.automatic,
    )
