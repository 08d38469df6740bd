"""Why a VM would or would not fail over now: what the rules say of it, asked without anything being done. Pure.

Nothing is judged here. The guards, refusals, approvals and readiness come from the very functions that act, given the
same state; `learned` brings a state that is a little behind up to date without deciding anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from failover_orch.domain.approvals import needed
from failover_orch.domain.automatic import ACTOR, guards_of, look
from failover_orch.domain.broker import decide
from failover_orch.domain.draft import Draft, Fact, Moment, State
from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction
from failover_orch.domain.guards import Guard, first_closed
from failover_orch.domain.policies import ApprovalRule, AutomaticMode, Limits
from failover_orch.domain.preconditions import Refusal, expected_loss_ms, goes_to, kept_by_policy, refusals
from failover_orch.domain.readiness import assess_readiness
from failover_orch.domain.records import Readiness, RunState
from failover_orch.domain.replication import ReplicationHealth
from failover_orch.domain.runs import step_in_hand
from failover_orch.domain.state import Observers, Run, VmState

__all__ = ["KindOutlook", "RunOutlook", "VmExplanation", "explain_vm", "learned"]

_TAKEOVER = (
    "G2: the hold-down starts anew when a worker takes the VM's partition over; when one last did is known to that "
    "worker alone, so it may hold back a little longer than is said here"
)
_AUTOMATIC = FailoverRequested(
    "", RequestAction.REQUEST, FailoverKind.UNPLANNED, ACTOR, "", 0, primary_is_down=True, automatic=True
)


@dataclass(frozen=True, slots=True)
class KindOutlook:
    """What would become of a person's request for one kind of failover now: it starts where no refusal is listed."""

    kind: FailoverKind
    to_site: str
    refusals: tuple[Refusal, ...]
    approval: ApprovalRule | None
    """Whose approval it would wait for; None: nobody's."""
    loss_ms: int
    """What it would lose: 0 where the kind loses nothing, -1 where nobody knows how much."""
    kept_adapters: tuple[str, ...] = ()
    """Adapters that would come up with the primary's configuration, by policy KEEP."""

    @property
    def starts(self) -> bool:
        return not self.refusals


@dataclass(frozen=True, slots=True)
class RunOutlook:
    """A run of the VM that is in flight, where it stands, and whom it waits for (nobody: `waits_for` is empty)."""

    run_id: str
    kind: FailoverKind
    state: RunState
    step: str
    actor: str
    reason: str
    started_at_ms: int
    waits_for: str
    choices: tuple[RequestAction, ...]
    parent_run_id: str = ""


@dataclass(frozen=True, slots=True)
class VmExplanation:
    """Why a VM would or would not fail over at a time.

    `answer` is the whole of it in one sentence; `mode_from` says which policy has set the mode. `limits` are all that
    count for the VM. `notes` are what cannot be known from outside the worker that holds the VM.
    """

    vm_id: str
    name: str
    at_ms: int
    answer: str
    mode: AutomaticMode
    mode_from: str
    guards: tuple[Guard, ...]
    kinds: tuple[KindOutlook, ...]
    readiness: Readiness
    defects: tuple[str, ...]
    health: ReplicationHealth
    health_reasons: tuple[str, ...]
    runs: tuple[RunOutlook, ...]
    limits: Limits
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Case:
    """What the sentences of `answer` are made from. `asks`: what the broker would ask for, all guards being open."""

    vm: VmState
    mode: AutomaticMode
    mode_from: str
    guards: tuple[Guard, ...]
    asks: FailoverRequested | None
    refusals: tuple[Refusal, ...]

    @property
    def evidence(self) -> str:
        return self.guards[0].observed


def explain_vm(state: Mapping[str, State], vm_id: str, moment: Moment) -> VmExplanation:
    """Explain a VM from the state of its partition. One that is not known is explained as such."""
    draft = Draft(state, moment)
    vm = draft.find(f"vm/{vm_id}", VmState) or VmState(vm_id)
    limits = draft.limits(vm)
    mode_from = _mode_from(draft, vm)
    suspected, guards = _guards(draft, vm)
    asks = _would_ask(state, suspected, moment) if first_closed(guards) is None else None
    against = refusals(vm, replace(_AUTOMATIC, vm_id=vm_id), draft.clusters(), limits, moment.now_ms)
    stands, defects = assess_readiness(vm, draft.clusters(), limits, moment.now_ms)
    return VmExplanation(
        vm_id=vm_id,
        name=vm.inventory.name if vm.inventory is not None and vm.inventory.name else vm_id,
        at_ms=moment.now_ms,
        answer=_answer(_Case(suspected, limits.mode, mode_from, guards, asks, against)),
        mode=limits.mode,
        mode_from=mode_from,
        guards=guards,
        kinds=tuple(_outlook(draft, vm, kind, limits) for kind in FailoverKind),
        readiness=stands,
        defects=defects,
        health=vm.health,
        health_reasons=tuple(reason for end in vm.ends for reason in end.reasons),
        runs=_runs(state, vm_id),
        limits=limits,
        notes=_notes(limits, moment),
    )


def learned(state: Mapping[str, State], fact: Fact, moment: Moment) -> Mapping[str, State]:
    """What a fact adds to what is known, without anything that the broker would do about it.

    To be put over the state. A run that the fact would set off is not in it: whether the worker has begun one, the
    state says; where it has not, none is in flight.
    """
    decision = decide(state, fact, moment)
    values = {**decision.noted, **decision.kept}
    return {key: _observed(state.get(key), value) for key, value in values.items() if isinstance(value, _KNOWLEDGE)}


_KNOWLEDGE = (VmState, Observers)


def _observed(before: State | None, after: VmState | Observers) -> State:
    if isinstance(after, Observers):
        return after
    known = before if isinstance(before, VmState) else VmState(after.vm_id)
    return replace(
        known,
        locations=after.locations,
        presences=after.presences,
        ends=after.ends,
        health=after.health,
        suspected_since_ms=after.suspected_since_ms,
    )


def _mode_from(draft: Draft, vm: VmState) -> str:
    """Which policy has set the mode: the narrowest that says anything of it."""
    for policy in reversed(draft.policies(vm)):
        if policy.mode is not None:
            who = f", set by {policy.actor}" if policy.actor else ""
            why = f": {policy.reason}" if policy.reason else ""
            return f"policy {policy.key}{who}{why}"
    return "the default, no policy says otherwise"


def _guards(draft: Draft, vm: VmState) -> tuple[VmState, tuple[Guard, ...]]:
    """The guards as `automatic.look` would find them now, and the VM as it would then be."""
    evidence = guards_of(draft, vm)[0]
    suspected = replace(vm, suspected_since_ms=(vm.suspected_since_ms or draft.now_ms) if evidence.open else 0)
    return suspected, guards_of(draft, suspected)


def _would_ask(state: Mapping[str, State], vm: VmState, moment: Moment) -> FailoverRequested | None:
    """What the broker would ask for, looking at this VM for the first time; None where its mode has it do nothing."""
    asked: list[FailoverRequested] = []
    draft = Draft({**state, f"vm/{vm.vm_id}": replace(vm, guards_said="")}, moment)
    look(draft, vm.vm_id, lambda _, request: asked.append(request))
    asked += [output for output in draft.decision().outputs if isinstance(output, FailoverRequested)]
    return next(iter(asked), None)


def _outlook(draft: Draft, vm: VmState, kind: FailoverKind, limits: Limits) -> KindOutlook:
    request = FailoverRequested("", RequestAction.REQUEST, kind, "", "", draft.now_ms, vm_id=vm.vm_id)
    to_site = goes_to(vm, kind)
    return KindOutlook(
        kind=kind,
        to_site=to_site,
        refusals=refusals(vm, request, draft.clusters(), limits, draft.now_ms),
        approval=needed(request, limits, to_site),
        loss_ms=expected_loss_ms(vm, draft.now_ms) if kind is FailoverKind.UNPLANNED else 0,
        kept_adapters=kept_by_policy(vm, kind),
    )


def _runs(state: Mapping[str, State], vm_id: str) -> tuple[RunOutlook, ...]:
    """The VM's runs that have not ended: those that have it in hand, and those that wait for approval to begin."""
    runs = [run for run in state.values() if isinstance(run, Run) and run.request.vm_id == vm_id]
    return tuple(_run(run) for run in sorted(runs, key=lambda run: run.started_at_ms) if not run.state.ended)


def _run(run: Run) -> RunOutlook:
    request = run.request
    return RunOutlook(
        run_id=request.run_id,
        kind=request.kind,
        state=run.state,
        step=step_in_hand(run)[0].number if run.steps and run.state is not RunState.AWAITING_APPROVAL else "",
        actor=request.actor,
        reason=request.reason,
        started_at_ms=run.started_at_ms,
        waits_for=run.waits_for,
        choices=run.choices,
        parent_run_id=request.parent_run_id,
    )


def _notes(limits: Limits, moment: Moment) -> tuple[str, ...]:
    return () if moment.opened_at_ms or limits.mode is AutomaticMode.OFF else (_TAKEOVER,)


# The answer


def _unknown(case: _Case) -> str:
    return "would not fail over: it is not known, no inventory of it has come" if case.vm.inventory is None else ""


def _off(case: _Case) -> str:
    if case.mode is not AutomaticMode.OFF:
        return ""
    return f"would not fail over by itself: its mode is OFF ({case.mode_from})"


def _no_replica(case: _Case) -> str:
    return "" if case.vm.replica_site else "would not fail over by itself: it has no replica to fail over to"


def _guarded(case: _Case) -> str:
    closed = first_closed(case.guards)
    if closed is None:
        return ""
    unblocks = f"; to open it: {closed.unblocks}" if closed.unblocks else ""
    return f"would not fail over now: {closed.number} {closed.name} is closed, {closed.observed}{unblocks}"


def _refused(case: _Case) -> str:
    against = "; ".join(map(str, case.refusals))
    return f"would not fail over now: every guard is open, but it would be refused ({against})" if against else ""


def _observes(case: _Case) -> str:
    if case.mode is not AutomaticMode.OBSERVE:
        return ""
    return f"would fail over now, were its mode not OBSERVE ({case.mode_from}): {case.evidence}"


def _acts(case: _Case) -> str:
    asks = case.asks
    whole = f"with the whole of plan {asks.plan_id}" if asks is not None and asks.plan_id else "by itself"
    if asks is not None and asks.needs_approval:
        return f"would be proposed for failover now {whole}, and wait for approval: {case.evidence}"
    return f"would fail over now {whole}: {case.evidence}"


_ANSWERS = (_unknown, _off, _no_replica, _guarded, _refused, _observes, _acts)
"""The first of these that has anything to say says all."""


def _answer(case: _Case) -> str:
    name = case.vm.inventory.name if case.vm.inventory is not None and case.vm.inventory.name else case.vm.vm_id
    return next(f"{name} {said}" for answer in _ANSWERS if (said := answer(case)))
