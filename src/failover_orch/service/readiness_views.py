"""How ready VMs and plans are, in the forms in which it is shown: each defect with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from failover_orch.domain import Readiness, RecoveryPlan, ReplicationState
from failover_orch.service.read_model import ReadModel, Vm
from failover_orch.service.views import as_of

__all__ = [
    "DefectView",
    "PlanList",
    "PlanSummary",
    "PlanView",
    "ReadinessList",
    "ReadinessView",
    "plan_list",
    "plan_view",
    "readiness_list",
    "what_to_do",
]

_WORST_FIRST = (Readiness.NOT_READY, Readiness.UNKNOWN, Readiness.AT_RISK, Readiness.READY)
_RULES = re.compile(r"(?:D[12]: )?([A-Z][0-9]+)[: ]")
"""The rule that a defect is about: of a failover that would be refused, the one that refuses it."""
_ADDRESSES = "set the addresses that it names: `failover-orch vm set-address`"
_REMEDIES: Mapping[str, str] = {
    "F1": "see that the site agent where it runs is at work: it reports the inventory",
    "F2": "reprotect it (`failover-orch failover reprotect`), or enable its replication",
    "F4": "see that the site agent at the replica's site is at work: it reports where the replica lives",
    "F5": "bring the node up again, or move the replica to another one",
    "F6": "bring the replication back into a state that a failover starts from, as the defect says",
    "F8": "enable the cluster as a replica server, so that replication can be reversed",
    "F9": "let the initial replication finish",
    "F10": "nothing: the VM is at home",
    "D3": "look at both ends of the replication: `failover-orch vm show` has the reasons",
    "D4": "give the link more room, or the VM a longer RPO: `failover-orch policy set vm`",
    "D5": "free memory on that node, or move the replica to another one: `failover-orch place` says where",
    "D6": "make a test failover: `failover-orch failover test`",
}
"""What to do about a defect, by the rule that it is about. The address rules (A…) have one answer for all."""


def what_to_do(defect: str) -> str:
    """What to do about a defect; empty where its own sentence has to do."""
    found = _RULES.match(defect)
    if found is None:
        return ""
    rule = found.group(1)
    return _ADDRESSES if rule.startswith("A") else _REMEDIES.get(rule, "")


@dataclass(frozen=True, slots=True)
class DefectView:
    """What would go wrong, with its rule's number in front, and what to do about it."""

    what: str
    do: str


@dataclass(frozen=True, slots=True)
class ReadinessView:
    """How ready a VM (`kind` "vm") or a plan ("plan") is. `since_ms` is when that was last said; 0: never."""

    kind: str
    id: str
    name: str
    readiness: Readiness
    defects: tuple[DefectView, ...]
    since_ms: int
    rpo_breach_at_ms: int


@dataclass(frozen=True, slots=True)
class ReadinessList:
    as_of: str | None
    standing: tuple[ReadinessView, ...]


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """A recovery plan in a list. `run_id` is its run in flight."""

    plan_id: str
    name: str
    groups: int
    vms: int
    readiness: Readiness
    run_id: str


@dataclass(frozen=True, slots=True)
class PlanList:
    as_of: str | None
    plans: tuple[PlanSummary, ...]


@dataclass(frozen=True, slots=True)
class PlanView:
    """A recovery plan as it was set, how ready it is as a whole, and how ready each of its VMs is."""

    as_of: str | None
    plan: RecoveryPlan
    standing: ReadinessView
    members: tuple[ReadinessView, ...]
    run_id: str


def plan_list(model: ReadModel, plans: Iterable[RecoveryPlan] | None = None) -> PlanList:
    """Plans, all of them unless they are given."""
    listed = model.plans() if plans is None else plans
    return PlanList(as_of(model), tuple(_summary(model, plan) for plan in listed))


def plan_view(model: ReadModel, plan: RecoveryPlan) -> PlanView:
    return PlanView(
        as_of=as_of(model),
        plan=plan,
        standing=_of_plan(model, plan),
        members=tuple(_of_vm(model.member(vm_id)) for vm_id in _members(plan)),
        run_id=_run_in_flight(model, plan.plan_id),
    )


def readiness_list(model: ReadModel, *, everything: bool = False) -> ReadinessList:
    """All that is not READY (or `everything`), the worst first, plans before VMs."""
    standing = [*(_of_plan(model, plan) for plan in model.plans()), *map(_of_vm, model.vms())]
    shown = [one for one in standing if everything or one.readiness is not Readiness.READY]
    # Sorting is stable: within one readiness plans come first, and names are in order.
    return ReadinessList(as_of(model), tuple(sorted(shown, key=lambda one: _WORST_FIRST.index(one.readiness))))


def _of_vm(vm: Vm) -> ReadinessView:
    health = vm.health
    return ReadinessView(
        kind="vm",
        id=vm.vm_id,
        name=vm.name,
        readiness=vm.readiness,
        defects=tuple(DefectView(what, what_to_do(what)) for what in vm.defects) or _unknown(vm),
        since_ms=health.changed_at_ms if health is not None else 0,
        rpo_breach_at_ms=health.rpo_breach_at_ms if health is not None else 0,
    )


def _of_plan(model: ReadModel, plan: RecoveryPlan) -> ReadinessView:
    said = model.plan_readiness(plan.plan_id)
    return ReadinessView(
        kind="plan",
        id=plan.plan_id,
        name=plan.name,
        readiness=said.readiness if said is not None else Readiness.UNKNOWN,
        # A plan's defects are those of its VMs, which say themselves what to do.
        defects=tuple(DefectView(what, "") for what in said.defects) if said is not None else (),
        since_ms=said.changed_at_ms if said is not None else 0,
        rpo_breach_at_ms=0,
    )


def _unknown(vm: Vm) -> tuple[DefectView, ...]:
    """Why nothing is known of a VM's readiness."""
    if vm.readiness is not Readiness.UNKNOWN:
        return ()
    if vm.inventory is None:
        return (DefectView("its inventory is not known", _REMEDIES["F1"]),)
    if vm.inventory.replication.state is ReplicationState.DISABLED:
        return (DefectView("it is not replicated", "enable its replication, if it is to be protected"),)
    return (DefectView("no worker has said anything of it yet", "see that a worker is running"),)


def _summary(model: ReadModel, plan: RecoveryPlan) -> PlanSummary:
    return PlanSummary(
        plan_id=plan.plan_id,
        name=plan.name,
        groups=len(plan.groups),
        vms=len(_members(plan)),
        readiness=_of_plan(model, plan).readiness,
        run_id=_run_in_flight(model, plan.plan_id),
    )


def _members(plan: RecoveryPlan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(vm_id for group in plan.groups for vm_id in group.vm_ids))


def _run_in_flight(model: ReadModel, plan_id: str) -> str:
    return next((run.run_id for run in model.runs(plan_id=plan_id) if not run.state.ended), "")
