"""How each VM stands: its readiness, weighed anew whenever something about it has changed, and told where it differs.

Whoever changes a VM's state keeps it through `keep_vm`, so that no change goes unweighed. What the readiness of a VM
means for its plans is said in `plans_of_vm` and `heard_of_member`.
"""

from __future__ import annotations

from dataclasses import replace

from failover_orch.domain.draft import Draft
from failover_orch.domain.readiness import assess_readiness, next_look_ms, plan_readiness
from failover_orch.domain.records import HealthChange, MemberReadiness, PlanMembership, Readiness
from failover_orch.domain.replication import ReplicationHealth
from failover_orch.domain.settings import RecoveryPlan
from failover_orch.domain.settings_keeping import follow_vm
from failover_orch.domain.state import PlanReadiness, VmState

__all__ = ["heard_of_member", "joined_plan", "keep_plan", "keep_vm"]


def keep_vm(draft: Draft, vm: VmState, *, reasons: tuple[str, ...] | None = None) -> VmState:
    """Keep a VM, weigh its readiness, and tell where its health or its readiness has changed; returns it as kept.

    `reasons` are those of its health, where that is what has changed; None where nothing was reported.
    """
    before = draft.find(f"vm/{vm.vm_id}", VmState) or VmState(vm.vm_id)
    limits = draft.limits(vm)
    if vm.run_id:
        # Half way over a VM is neither here nor there: what counts is how it stands once the run has ended.
        state, defects = before.readiness, before.defects
    else:
        state, defects = assess_readiness(vm, draft.clusters(), limits, draft.now_ms)
    look = next_look_ms(vm, limits)
    if look and look > draft.now_ms:
        vm = replace(vm, due_ms=min(vm.due_ms or look, look))
    vm = replace(vm, readiness=state, defects=defects)
    draft.keep(f"vm/{vm.vm_id}", vm)
    follow_vm(draft, vm)
    differs = state is not before.readiness or _rules(defects) != _rules(before.defects)
    if differs or reasons is not None:
        breach = min((end.breach_at_ms for end in vm.ends if end.breach_at_ms), default=0)
        draft.tell(
            HealthChange(
                vm_id=vm.vm_id,
                health=vm.health,
                previous=before.health,
                reasons=tuple(reason for end in vm.counted_ends for reason in end.reasons)
                if reasons is None
                else reasons,
                changed_at_ms=draft.now_ms,
                readiness=state,
                previous_readiness=before.readiness,
                defects=defects,
                rpo_breach_at_ms=breach,
            )
        )
    if differs:
        draft.tell(*(MemberReadiness(plan, vm.vm_id, state, defects, draft.now_ms) for plan in vm.plan_ids))
    return vm


def _rules(defects: tuple[str, ...]) -> tuple[str, ...]:
    """Which defects there are: that the numbers in one have moved on is no news."""
    return tuple(defect.partition(":")[0] for defect in defects)


def keep_plan(draft: Draft, plan: RecoveryPlan) -> None:
    """Keep a plan, and tell every VM that is part of it from now on, or no longer is."""
    before = draft.find(f"plan/{plan.plan_id}", RecoveryPlan)
    draft.keep(f"plan/{plan.plan_id}", plan)
    was = {vm_id for group in before.groups for vm_id in group.vm_ids} if before else set()
    members = [vm_id for group in plan.groups for vm_id in group.vm_ids]
    joining = [vm_id for vm_id in dict.fromkeys(members) if vm_id not in was]
    leaving = sorted(was.difference(members))
    for vm_ids, member in ((joining, True), (leaving, False)):
        draft.tell(*(PlanMembership(vm_id, plan.plan_id, member, draft.now_ms) for vm_id in vm_ids))
    _weigh_plan(draft, plan, draft.find(f"plan-readiness/{plan.plan_id}", PlanReadiness))


def joined_plan(draft: Draft, said: PlanMembership) -> None:
    """A VM's partition hears that the VM is part of a plan, or no longer is; and answers with how ready it is."""
    vm = draft.find(f"vm/{said.vm_id}", VmState) or VmState(said.vm_id)
    others = tuple(plan_id for plan_id in vm.plan_ids if plan_id != said.plan_id)
    vm = keep_vm(draft, replace(vm, plan_ids=(*others, said.plan_id) if said.member else others))
    if said.member:
        draft.tell(MemberReadiness(said.plan_id, vm.vm_id, vm.readiness, vm.defects, draft.now_ms))


def heard_of_member(draft: Draft, said: MemberReadiness) -> None:
    """A plan's partition hears how ready one of its VMs is."""
    plan = draft.find(f"plan/{said.plan_id}", RecoveryPlan)
    known = draft.find(f"plan-readiness/{said.plan_id}", PlanReadiness) or PlanReadiness(said.plan_id)
    if plan is None or any(vm_id == said.vm_id and at_ms > said.at_ms for vm_id, _, _, at_ms in known.members):
        return
    others = tuple(member for member in known.members if member[0] != said.vm_id)
    entry = (said.vm_id, said.readiness, said.defects, said.at_ms)
    _weigh_plan(draft, plan, replace(known, members=(*others, entry)))


def _weigh_plan(draft: Draft, plan: RecoveryPlan, known: PlanReadiness | None) -> None:
    before = draft.find(f"plan-readiness/{plan.plan_id}", PlanReadiness)
    weighed = plan_readiness(plan.plan_id, [vm_id for group in plan.groups for vm_id in group.vm_ids], known)
    if weighed == before:
        return
    draft.keep(f"plan-readiness/{plan.plan_id}", weighed)
    if before is not None and (weighed.readiness, weighed.defects) == (before.readiness, before.defects):
        return
    draft.tell(
        HealthChange(
            vm_id="",
            health=ReplicationHealth.NOT_APPLICABLE,
            previous=ReplicationHealth.NOT_APPLICABLE,
            reasons=(),
            changed_at_ms=draft.now_ms,
            readiness=weighed.readiness,
            previous_readiness=before.readiness if before else Readiness.UNKNOWN,
            defects=weighed.defects,
            plan_id=plan.plan_id,
        )
    )
