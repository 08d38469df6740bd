"""What people ask for, made into requests: failovers, and words to runs. Used by the command line and the HTTP service.

What can be refused beforehand is refused here, in one sentence for both; the broker judges once more when it takes a
request.
"""

from __future__ import annotations

from dataclasses import dataclass

from failover_orch.domain import (
    LATEST,
    LEGAL_IN,
    CommitPolicy,
    FailoverKind,
    FailoverRequested,
    RecoveryPlan,
    RequestAction,
    RunSnapshot,
    RunState,
    WantedPoint,
)
from failover_orch.errors import ConfigError
from failover_orch.service.read_model import ReadModel, Vm

__all__ = [
    "SAYABLE",
    "Wish",
    "acknowledgement",
    "can_be_told",
    "no_such_task",
    "request_to",
    "sayable",
    "why_not",
]

SAYABLE = (
    RequestAction.APPROVE,
    RequestAction.REJECT,
    RequestAction.COMMIT,
    RequestAction.ROLL_BACK,
    RequestAction.TRY_ANOTHER,
    RequestAction.RESUME,
    RequestAction.SKIP,
    RequestAction.CONFIRM,
    RequestAction.FORWARD,
    RequestAction.ABANDON,
    RequestAction.CANCEL,
)
"""Every word that a run can be told, in the order in which they are listed to people."""

_RESUMABLE = (RunState.FAILED, RunState.COMPLETED_WITH_ERRORS)


@dataclass(frozen=True, slots=True)
class Wish:
    """A failover as it was asked for, its targets by id or name."""

    kind: FailoverKind
    vms: tuple[str, ...]
    plan: str
    actor: str
    reason: str
    ticket: str = ""
    max_in_flight: int = 0
    primary_is_down: bool = False
    fence: bool = False
    accept_data_loss: bool = False
    point: WantedPoint = LATEST
    commit: CommitPolicy = CommitPolicy.AT_ONCE
    window_ms: int = 0
    latest: bool = False
    at_once: bool = False
    """These two were given, and not merely left open."""

    def request(self, model: ReadModel, run_id: str, at_ms: int) -> FailoverRequested:
        """The request, its targets by id.

        Raises:
            ConfigError: not exactly one of VMs and a plan, or terms that the plan contradicts.
            LookupFailed: a VM or the plan is not known.

        """
        if bool(self.vms) == bool(self.plan):
            raise ConfigError("name the VMs to fail over, or a recovery plan with --plan; one of the two")
        plan = model.plan(self.plan) if self.plan else None
        if plan is not None:
            self._agree_with(plan)
        vm_ids = tuple(dict.fromkeys(map(model.vm_id_of, self.vms)))
        return FailoverRequested(
            run_id=run_id,
            action=RequestAction.REQUEST,
            kind=self.kind,
            actor=self.actor,
            reason=self.reason,
            requested_at_ms=at_ms,
            vm_id=vm_ids[0] if len(vm_ids) == 1 else "",
            plan_id=plan.plan_id if plan is not None else "",
            vm_ids=vm_ids if len(vm_ids) > 1 else (),
            ticket=self.ticket,
            primary_is_down=self.primary_is_down,
            fence=self.fence,
            point=self.point,
            commit=self.commit,
            window_ms=self.window_ms,
            accept_data_loss=self.accept_data_loss,
            max_in_flight=self.max_in_flight,
        )

    def _agree_with(self, plan: RecoveryPlan) -> None:
        """Refuse what a request cannot say: it leaves these two open, and then the plan decides."""
        if self.latest and plan.point != LATEST:
            raise ConfigError(
                f"--recovery-point latest cannot stand: plan {plan.name} asks for {plan.point}; change the plan"
            )
        if self.at_once and plan.commit is not CommitPolicy.AT_ONCE:
            raise ConfigError(f"--commit at-once cannot stand: plan {plan.name} says {plan.commit}; change the plan")


def sayable(known: RunSnapshot) -> frozenset[RequestAction]:
    """What a run can be told now, as far as its snapshot shows: the broker may know better."""
    choices = {RequestAction(choice) for choice in known.choices}
    if not known.vm_id:
        resumed = {RequestAction.RESUME} if known.state in _RESUMABLE else set[RequestAction]()
        return frozenset(choices | resumed | (set() if known.state.ended else {RequestAction.CANCEL}))
    legal = {action for action, states in LEGAL_IN.items() if known.state in states}
    return frozenset(legal & (choices | {RequestAction.CANCEL}) if known.state is RunState.PARKED else legal)


def why_not(known: RunSnapshot, action: RequestAction) -> str:
    """Why a run cannot be told something now: its state, and what it can be told; empty where it can."""
    if action in sayable(known):
        return ""
    told = can_be_told(known) or "nothing"
    state = f"has ended {known.state}" if known.state.ended else f"is {known.state}"
    return f"run {known.run_id} {state} and cannot be told to {_named(action)}; it can be told {told}"


def can_be_told(known: RunSnapshot) -> str:
    """What a run can be told now, as the commands that do so are called."""
    can = sayable(known)
    return ", ".join(_named(action) for action in SAYABLE if action in can)


def _named(action: RequestAction) -> str:
    return action.lower().replace("_", "-")


def no_such_task(known: RunSnapshot, step: str) -> str:
    """Why a word cannot be about a task of a run, as a sentence; empty where it can, or is about none."""
    if not step:
        return ""
    if known.vm_id:
        return f"run {known.run_id} is of one VM and has no tasks: leave --step out"
    if step not in (each.step for each in known.steps):
        return f"run {known.run_id} has no task {step!r}: `failover-orch run show` lists them"
    return ""


def request_to(known: RunSnapshot, action: RequestAction, *, actor: str, reason: str, at_ms: int) -> FailoverRequested:
    """The request that tells a run something: it has the run's own id and target, so it reaches the same partition."""
    alone = bool(known.vm_id or known.plan_id)
    return FailoverRequested(
        run_id=known.run_id,
        action=action,
        kind=known.kind,
        actor=actor,
        reason=reason,
        requested_at_ms=at_ms,
        vm_id=known.vm_id,
        plan_id=known.plan_id if not known.vm_id else "",
        vm_ids=() if alone else tuple(step.step for step in known.steps),
    )


def acknowledgement(vm: Vm, run_id: str, *, actor: str, reason: str, ticket: str = "", at_ms: int) -> FailoverRequested:
    """The word that somebody has looked into a VM's last automatic failover; it concerns no run of its own."""
    return FailoverRequested(
        run_id=run_id,
        action=RequestAction.ACKNOWLEDGE,
        kind=FailoverKind.UNPLANNED,
        actor=actor,
        reason=reason,
        requested_at_ms=at_ms,
        vm_id=vm.vm_id,
        ticket=ticket,
    )
