"""Automatic failover: what the guards say of a VM, and what the broker makes of it in each mode.

| rule | when | then |
| --- | --- | --- |
| G0 | every guard is open | OBSERVE: said in the journal; ADVISE: proposed; ACT: requested |
| G1 to G6 | a guard is closed, and some observer says that the primary is gone | said in the journal, once |
| G7 | so many automatic failovers that the brake is due | it engages, for all partitions |
| G8 | a proposal or request of the broker's is about to begin, and a guard has closed meanwhile | refused |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from failover_orch.domain.draft import Draft
from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction
from failover_orch.domain.guards import Guard, brake_guard, fenced_by, first_closed, newest, sights, weigh_guards
from failover_orch.domain.policies import (
    AutomaticMode,
    AutomaticRun,
    Brake,
    Evidence,
    Limits,
    Policy,
    Verdict,
)
from failover_orch.domain.readiness import next_look_ms
from failover_orch.domain.records import Alert, JournalEntry, Severity
from failover_orch.domain.state import AutomaticRuns, Cooldown, Observers, Run, VmState

__all__ = [
    "ACTOR",
    "acknowledged",
    "brake_for_plan",
    "braked",
    "closed_meanwhile",
    "cooled_down",
    "count_run",
    "guards_of",
    "look",
    "note_automatic_run",
    "on_its_own_fence",
    "take_evidence",
    "tell_automatic_run",
]

ACTOR = "failover_orch"
_OPEN = "open"
_ASKED_OF = "was asked of plan "
_KEEP_RUNS_MS = 24 * 3_600_000
_FOR_MEMBERS = ("G1", "G6")
"""What has to hold for every VM of a plan that the broker fails over: each one's own evidence and fence."""
_AT_THE_BEGINNING = ("G1", "G4", "G5", "G6")
"""What has to hold once more when a run begins. That the evidence had lasted, and no run was in flight, was seen."""
_SILENCE_THE_REPLICA = (FailoverKind.PLANNED, FailoverKind.FAILBACK, FailoverKind.REPROTECT)
"""Runs that themselves are the cause of what is seen."""

Ask = Callable[[Draft, FailoverRequested], None]


def guards_of(draft: Draft, vm: VmState) -> tuple[Guard, ...]:
    """Every guard of a VM as it stands now."""
    limits = draft.limits(vm)
    seen = sights(vm, draft.find("evidence", Observers) or Observers(), limits, draft.now_ms)
    recent = (draft.find("automatic-runs", AutomaticRuns) or AutomaticRuns()).recent
    brake = draft.find("brake", Brake)
    opened_at_ms = draft.moment.opened_at_ms
    return weigh_guards(vm, seen, limits, brake, recent, draft.now_ms, opened_at_ms, draft.clusters())


def look(draft: Draft, vm_id: str, ask: Ask) -> None:
    """Look at a VM's guards; `ask` takes the request that follows where the mode says so."""
    vm = draft.find(f"vm/{vm_id}", VmState)
    if vm is None or vm.inventory is None:
        return
    limits = draft.limits(vm)
    run = draft.find(f"run/{vm.run_id}", Run) if vm.run_id else None
    if run is not None and run.request.automatic:
        return  # that is the answer to what is seen
    silenced = run is not None and run.request.kind in _SILENCE_THE_REPLICA
    if limits.mode is AutomaticMode.OFF or not vm.replica_site or silenced:
        _note(draft, vm, replace(vm, suspected_since_ms=0, guards_said=""))
        return
    seen = sights(vm, draft.find("evidence", Observers) or Observers(), limits, draft.now_ms)
    if not vm.guards_said and not any(sight.gone for sight in seen):
        return
    evidence = guards_of(draft, vm)[0]
    since = (vm.suspected_since_ms or draft.now_ms) if evidence.open else 0
    suspected = replace(vm, suspected_since_ms=since)
    all_guards = guards_of(draft, suspected)
    closed = first_closed(all_guards)
    if not any(sight.gone for sight in seen):
        _say(draft, suspected, evidence, "no longer suspected")
        _note(draft, vm, replace(suspected, guards_said=""))
        return
    key = f"{closed.number}|{closed.key}" if closed else f"{_OPEN}|{since}|{limits.mode}"
    suspected = replace(suspected, guards_said=key, due_ms=_due_ms(draft, suspected, closed, limits))
    _note(draft, vm, suspected)
    if key == vm.guards_said:
        return
    asked_of_plan = closed is not None and closed.number == "G4" and vm.cooldowns[-1].why.startswith(_ASKED_OF)
    if asked_of_plan:
        return  # the plan's own run tells how that goes
    if closed is not None:
        _say(draft, suspected, closed, "not failed over")
        if closed.number == "G5" and closed.key == "full":
            _engage(draft, closed)
        return
    _act(draft, suspected, all_guards, limits, ask)


def brake_for_plan(draft: Draft, plan_id: str) -> Guard:
    """The brake as it stands for a plan that the broker is about to fail over (G8)."""
    recent = (draft.find("automatic-runs", AutomaticRuns) or AutomaticRuns()).recent
    return brake_guard(draft.find("brake", Brake), recent, draft.plan_limits(plan_id), draft.now_ms)


def closed_meanwhile(draft: Draft, request: FailoverRequested, vm: VmState) -> Guard | None:
    """The guard that has closed since the broker asked for this failover, or None (G8).

    For a VM of a plan: its own evidence and fence. The hold-down was the plan's, and so are cooldown and brake.
    """
    all_guards = guards_of(draft, vm)
    if request.parent_run_id:
        return first_closed([guard for guard in all_guards if guard.number in _FOR_MEMBERS])
    return first_closed([guard for guard in all_guards if guard.number in _AT_THE_BEGINNING])


def on_its_own_fence(draft: Draft, request: FailoverRequested, vm: VmState) -> FailoverRequested:
    """The broker's own request for this VM, on the fence that it has now: a plan's VMs may each have another one."""
    proved, to_be_cut = fenced_by(guards_of(draft, vm))
    return replace(request, primary_is_down=proved, fence=to_be_cut)


def note_automatic_run(draft: Draft, request: FailoverRequested, vm: VmState, limits: Limits) -> VmState:
    """An automatic failover begins: its cooldown starts, and every partition counts it for the brake."""
    if not request.parent_run_id:  # a plan's counts as one, when it begins
        tell_automatic_run(draft, request, vm.vm_id)
    return cooled_down(draft, vm, request, limits, "was not acknowledged yet")


def tell_automatic_run(draft: Draft, request: FailoverRequested, subject: str) -> None:
    """An automatic failover, of a VM or a plan, begins: every partition counts it for the brake."""
    begun = AutomaticRun(request.run_id, subject, draft.now_ms)
    count_run(draft, begun)
    draft.tell(begun)


def cooled_down(draft: Draft, vm: VmState, request: FailoverRequested, limits: Limits, why: str) -> VmState:
    """The VM with a cooldown for this kind of automatic failover from now on.

    Also where a proposal was rejected, or a request refused: it is made again, but not at every report.
    """
    others = tuple(each for each in vm.cooldowns if each.kind is not request.kind)
    cooldown = Cooldown(request.kind, draft.now_ms + limits.cooldown_ms, request.run_id, why)
    return replace(vm, cooldowns=(*others, cooldown))


def count_run(draft: Draft, begun: AutomaticRun) -> None:
    """Remember an automatic failover, of whatever partition, for as long as it can count."""
    known = draft.find("automatic-runs", AutomaticRuns) or AutomaticRuns()
    if any(run.run_id == begun.run_id for run in known.recent):
        return
    recent = tuple(run for run in known.recent if begun.at_ms - run.at_ms < _KEEP_RUNS_MS)
    draft.keep("automatic-runs", AutomaticRuns((*recent, begun)))


def braked(draft: Draft, said: Brake) -> bool:
    """The brake is engaged or released, unless that is refused, or older than the last word; returns whether it is."""
    known = draft.find("brake", Brake)
    if known is not None and said.at_ms <= known.at_ms:
        return False
    if not said.engaged and (not said.actor or not said.reason or said.actor == ACTOR):
        draft.refuse("G5", "", "the brake is released by a person, who says why")
        return False
    draft.keep("brake", said)
    if not said.engaged:
        # What was counted has been looked into: the next automatic failovers are counted from nothing.
        draft.keep("automatic-runs", AutomaticRuns())
    what = f"the brake is {'engaged' if said.engaged else 'released'} by {said.actor}: {said.reason}"
    rule = "G7" if said.actor == ACTOR else "G5"
    draft.journal(JournalEntry("", "", 0, rule, what, "", draft.now_ms, said.actor, said.reason))
    return True


def take_evidence(draft: Draft, said: Evidence) -> bool:
    """Take what an observer says; whether anything but its time is new, so that VMs are to be looked at."""
    known = draft.find("evidence", Observers) or Observers()
    later = newest(known, said, draft.now_ms)
    if later is None:
        return False
    same = any(
        (old.observer, old.place, old.site, old.node, old.verdict)
        == (said.observer, said.place, said.site, said.node, said.verdict)
        for old, _ in known.said
    )
    # A heartbeat that repeats itself is kept in memory alone, as health reports are.
    if same:
        draft.note("evidence", later)
    else:
        draft.keep("evidence", later)
    return not same or said.verdict is not Verdict.UP


def acknowledged(vm: VmState) -> VmState:
    """A person has looked into the VM's automatic failovers: another one may follow."""
    return replace(vm, cooldowns=(), guards_said="")


def _act(draft: Draft, vm: VmState, all_guards: tuple[Guard, ...], limits: Limits, ask: Ask) -> None:
    why = "; ".join(guard.observed for guard in all_guards if guard.number in ("G1", "G2", "G6"))
    if limits.mode is AutomaticMode.OBSERVE:
        _journal(draft, vm, "G0", f"would fail over now, were the mode not OBSERVE: {why}")
        return
    plan_id = _plan_to_fail_over(draft, vm)
    proved, to_be_cut = fenced_by(all_guards)
    request = FailoverRequested(
        # By the time of the decision: what is asked again after a cooldown is another request.
        run_id=f"auto-{plan_id or vm.vm_id}-{draft.now_ms}",
        action=RequestAction.REQUEST,
        kind=FailoverKind.UNPLANNED,
        actor=ACTOR,
        reason=f"all guards are open: {why}",
        requested_at_ms=draft.now_ms,
        vm_id="" if plan_id else vm.vm_id,
        plan_id=plan_id,
        primary_is_down=proved,
        automatic=True,
        fence=to_be_cut,
        needs_approval=limits.mode is AutomaticMode.ADVISE,
    )
    what = f"plan {plan_id}" if plan_id else "this VM"
    verb = "proposes to fail over" if request.needs_approval else "fails over"
    _journal(draft, vm, "G0", f"{verb} {what}: {why}")
    if plan_id:
        # What becomes of it is decided elsewhere; if nothing does, it is asked again after the cooldown.
        _note(
            draft,
            vm,
            replace(
                cooled_down(draft, vm, request, limits, f"{_ASKED_OF}{plan_id}"),
                due_ms=draft.now_ms + limits.cooldown_ms,
            ),
        )
        draft.tell(request)
    else:
        ask(draft, request)


def _plan_to_fail_over(draft: Draft, vm: VmState) -> str:
    """The plan that has a policy for automatic failover of its own: it then fails over as a whole."""
    for plan_id in vm.plan_ids:
        policy = draft.find(f"policy/plan/{plan_id}", Policy)
        if policy is not None and policy.mode in (AutomaticMode.ADVISE, AutomaticMode.ACT):
            return plan_id
    return ""


def _due_ms(draft: Draft, vm: VmState, closed: Guard | None, limits: Limits) -> int:
    """When time alone opens the guard that is closed, or the last test failover has become too old."""
    opens_ms = 0
    if closed is not None and closed.number == "G2":
        opens_ms = max(vm.suspected_since_ms, draft.moment.opened_at_ms) + limits.hold_down_ms
    elif closed is not None and closed.number == "G4":
        opens_ms = max(each.until_ms for each in vm.cooldowns)
    old_ms = next_look_ms(vm, limits)
    return min((due_ms for due_ms in (opens_ms, old_ms) if due_ms > draft.now_ms), default=0)


def _engage(draft: Draft, closed: Guard) -> None:
    brake = Brake(True, ACTOR, closed.observed, draft.now_ms)
    braked(draft, brake)
    what = f"the brake over automatic failovers has engaged: {closed.observed}; release it once that is understood"
    draft.tell(brake, Alert("brake", Severity.CRITICAL, what, draft.now_ms))


def _say(draft: Draft, vm: VmState, guard: Guard, what: str) -> None:
    unblocks = f"; {guard.unblocks}" if guard.unblocks else ""
    _journal(draft, vm, guard.number, f"{what}: {guard.observed}{unblocks}")


def _journal(draft: Draft, vm: VmState, rule: str, what: str) -> None:
    draft.journal(JournalEntry("", vm.vm_id, 0, rule, what, draft.limits(vm).mode.value, draft.now_ms, ACTOR))


def _note(draft: Draft, before: VmState, vm: VmState) -> None:
    if vm != before:
        draft.keep(f"vm/{vm.vm_id}", vm)
