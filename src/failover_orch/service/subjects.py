"""What a call is about, in sites and plans: so that `domain.refusal` can say whether somebody's grant covers it."""

from __future__ import annotations

from failover_orch.domain import Call, ClusterInventory, Operation, Policy, PolicyScope, RecoveryPlan, RunSnapshot
from failover_orch.service.read_model import ReadModel

__all__ = ["cluster_call", "plan_call", "policy_call", "run_call", "site_call", "vm_call", "vms_call"]


def vm_call(operation: Operation, model: ReadModel, vm_id: str) -> Call:
    """Of a VM, by its id: about the sites that it runs at and replicates to, and the plans that name it."""
    return Call(operation, _sites_of(model, vm_id), frozenset(model.plans_of(vm_id)))


def vms_call(operation: Operation, model: ReadModel, vm_ids: tuple[str, ...]) -> Call:
    """Of several VMs as one: about all that any of them is about."""
    sites = frozenset(site for vm_id in vm_ids for site in _sites_of(model, vm_id))
    return Call(operation, sites, frozenset(plan for vm_id in vm_ids for plan in model.plans_of(vm_id)))


def plan_call(operation: Operation, model: ReadModel, plan: RecoveryPlan) -> Call:
    """Of a plan: about itself, and the sites of its VMs."""
    sites = {site for group in plan.groups for vm_id in group.vm_ids for site in _sites_of(model, vm_id)}
    return Call(operation, frozenset(sites), frozenset({plan.plan_id}))


def run_call(operation: Operation, model: ReadModel, run: RunSnapshot) -> Call:
    """Of a run: about its VM, its plan with its VMs, or the VMs of its list."""
    if run.vm_id:
        about = vm_call(operation, model, run.vm_id)
        return Call(operation, about.sites, about.plans | ({run.plan_id} if run.plan_id else frozenset()))
    if not run.plan_id:
        return vms_call(operation, model, tuple(step.step for step in run.steps))
    plan = model.find_plan(run.plan_id)
    return plan_call(operation, model, plan) if plan is not None else Call(operation, plans=frozenset({run.plan_id}))


def site_call(operation: Operation, site: str) -> Call:
    return Call(operation, frozenset({site}))


def cluster_call(operation: Operation, cluster: ClusterInventory) -> Call:
    """Of a cluster: about its site."""
    return Call(operation, frozenset({cluster.site}))


def policy_call(operation: Operation, model: ReadModel, policy: Policy) -> Call:
    """Of a policy: about what it is for; that of all about everything."""
    match policy.scope:
        case PolicyScope.SITE:
            return site_call(operation, policy.target)
        case PolicyScope.VM:
            return vm_call(operation, model, policy.target)
        case PolicyScope.PLAN:
            plan = model.find_plan(policy.target)
            return plan_call(operation, model, plan) if plan else Call(operation, plans=frozenset({policy.target}))
        case _:
            return Call(operation)


def _sites_of(model: ReadModel, vm_id: str) -> frozenset[str]:
    route, inventory = model.route(vm_id), model.inventory_of(vm_id)
    sites = {location.site for location in route.locations} if route is not None else set[str]()
    if inventory is not None:
        sites |= {inventory.replication.primary_site, inventory.replication.replica_site}
    return frozenset(sites - {""})
