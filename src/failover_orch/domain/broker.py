"""The broker's fold: what each event makes of a partition's state, and what is said in answer.

`decide` takes one fact, `tick` one value whose time has come. Both only read the state they are given and return a
`Decision`; whoever calls applies it, in one transaction. The rules themselves stand in the modules named here.

| fact | rules |
| --- | --- |
| VmMoved | `routing` M1 to M7 |
| ReplicationReport | `health` H1 to H8 |
| VmInventory | I1: one that is not newer is passed over; I2: a VM without a replica may get one |
| | I3: one by a site where the VM is not active is passed over, unless a run is under way |
| ClusterInventory | I1 |
| VmReplicationSettings | T1: unknown VM; `addresses` A...: what cannot be set is refused |
| ClusterReplicationSettings, RecoveryPlan | kept as they come |
| FailoverRequested, StepResult | `requests` Q1 to Q5 and S1, `preconditions`, `runs`, `plan_runs` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from failover_orch.domain.addresses import settings_findings
from failover_orch.domain.draft import Decision, Draft, Fact, Moment, State
from failover_orch.domain.facts import FailoverRequested, ReplicationReport, StepResult, VmMoved
from failover_orch.domain.health import apply_report
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.records import Alert, HealthChange, Location, Role, RouteCause, Severity
from failover_orch.domain.replication import ReplicationHealth, ReplicationState
from failover_orch.domain.requests import on_request, on_step_result, on_time
from failover_orch.domain.routing import apply_move, relocate
from failover_orch.domain.runs import route
from failover_orch.domain.settings import ClusterReplicationSettings, RecoveryPlan, VmReplicationSettings
from failover_orch.domain.state import Clusters, PlanRun, Run, VmState

__all__ = ["decide", "due_ms", "tick"]

_WITHOUT_REPLICA = (
    ReplicationState.DISABLED,
    ReplicationState.FAILED_OVER_WAITING_COMPLETION,
    ReplicationState.FAILED_OVER,
)
"""States in which the other end that an inventory names is no replica."""


def decide(state: Mapping[str, State], fact: Fact, moment: Moment) -> Decision:
    """Fold one fact."""
    draft = Draft(state, moment)
    _HANDLERS[type(fact)](draft, fact)
    return draft.decision()


def tick(state: Mapping[str, State], key: str, moment: Moment) -> Decision:
    """Look at the value under `key`, whose time (`due_ms`) may have come."""
    draft = Draft(state, moment)
    value = state.get(key)
    if isinstance(value, Run | PlanRun) and 0 < value.due_ms <= moment.now_ms:
        on_time(draft, key, value)
    return draft.decision()


def due_ms(value: State) -> int:
    """When the rules want to look at a value again though nothing happens; 0 for never."""
    return value.due_ms if isinstance(value, Run | PlanRun) else 0


def _vm(draft: Draft, vm_id: str) -> VmState | None:
    return draft.find(f"vm/{vm_id}", VmState)


def _moved(draft: Draft, move: VmMoved) -> None:
    moved = apply_move(_vm(draft, move.vm_id) or VmState(move.vm_id), move)
    if moved.refusal:
        # Its presence is kept all the same: which node it came from decides where the VM is once another one has left.
        draft.keep(f"vm/{move.vm_id}", moved.vm)
        draft.refuse(moved.rule, move.vm_id, f"{move.kind} on {move.node} at {move.occurred_at_ms}: {moved.refusal}")
        return
    if moved.change is not None:
        vm = replace(moved.vm, epoch=moved.vm.epoch + 1)
        draft.keep(f"vm/{move.vm_id}", vm)
        draft.tell(route(vm, moved.cause, moved.change, moved.previous_node, draft.now_ms))
    elif moved.rule != "M1":
        draft.keep(f"vm/{move.vm_id}", moved.vm)


def _reported(draft: Draft, report: ReplicationReport) -> None:
    key = f"vm/{report.vm_id}"
    known = _vm(draft, report.vm_id) or VmState(report.vm_id)
    assessed = apply_report(known, report)
    if assessed is None:
        return
    (draft.keep if assessed.durable or assessed.changed else draft.note)(key, assessed.vm)
    if not assessed.changed:
        return
    health = assessed.vm.health
    draft.tell(HealthChange(report.vm_id, health, known.health, assessed.reasons, draft.now_ms))
    if health is ReplicationHealth.CRITICAL:
        what = f"replication health is Critical: {'; '.join(assessed.reasons)}"
        draft.tell(Alert(report.vm_id, Severity.CRITICAL, what, draft.now_ms))


def _vm_inventory(draft: Draft, inventory: VmInventory) -> None:
    vm = _vm(draft, inventory.vm_id) or VmState(inventory.vm_id)
    first = vm.inventory is None
    if vm.inventory is not None and inventory.reported_at_ms <= vm.inventory.reported_at_ms:
        return  # I1
    if vm.active_site and not vm.run_id and inventory.replication.primary_site != vm.active_site:
        # I3: a primary that is cut off, or comes back after an unplanned failover, still believes that it is one. While
        # a run is under way the other site may know of its success before we do.
        return
    vm = replace(vm, inventory=inventory)
    if first and not vm.active_site:
        # Only the first: from then on the broker's own runs say which site is active.
        active, replica = inventory.replication.primary_site, inventory.replication.replica_site
        roles = {active: Role.PRIMARY, replica: Role.REPLICA}
        locations = tuple(replace(here, role=roles.get(here.site, Role.UNKNOWN)) for here in vm.locations)
        vm = replace(vm, epoch=vm.epoch + 1, active_site=active, replica_site=replica, locations=locations)
        changed = vm.at(active) or Location(active, "", Role.PRIMARY, 0, inventory.replication.primary_cluster)
        draft.tell(route(vm, RouteCause.INVENTORY, changed, "", draft.now_ms))
    elif _replicates_anew(vm, inventory):
        # I2: replication was enabled, or reversed by hand, since: the end that is active is the one to say so.
        vm = replace(vm, replica_site=inventory.replication.replica_site)
        here = vm.at(vm.replica_site)
        if here is not None:
            changed = replace(here, role=Role.REPLICA)
            vm = relocate(replace(vm, epoch=vm.epoch + 1), changed)
            draft.tell(route(vm, RouteCause.INVENTORY, changed, "", draft.now_ms))
    draft.keep(f"vm/{inventory.vm_id}", vm)


def _replicates_anew(vm: VmState, inventory: VmInventory) -> bool:
    """Whether a VM that had no replica is now said to have one by the site where it is active."""
    said = inventory.replication
    return (
        not vm.replica_site
        and not vm.run_id
        and said.primary_site == vm.active_site
        and said.replica_site not in ("", vm.active_site)
        and said.state not in _WITHOUT_REPLICA
    )


def _cluster_inventory(draft: Draft, cluster: ClusterInventory) -> None:
    known = {other.cluster: other for other in draft.clusters()}
    before = known.get(cluster.cluster)
    if before is None or cluster.reported_at_ms > before.reported_at_ms:  # I1
        known[cluster.cluster] = cluster
        draft.keep("clusters", Clusters(tuple(known[name] for name in sorted(known))))


def _vm_settings(draft: Draft, settings: VmReplicationSettings) -> None:
    vm = _vm(draft, settings.vm_id)
    if vm is None or vm.inventory is None:
        draft.refuse("T1", settings.vm_id, "failover addresses of a VM that is not known", by=settings)
        return
    findings = settings_findings(vm.inventory, settings)
    if findings:
        why = "; ".join(f"{finding.rule}: {finding.message}" for finding in findings)
        draft.refuse(findings[0].rule, settings.vm_id, f"failover addresses: {why}", by=settings)
        draft.audit(settings.vm_id, "set failover addresses", "refused", by=settings, why=why)
        return
    if vm.settings == settings:
        return
    draft.keep(f"vm/{settings.vm_id}", replace(vm, settings=settings, settings_site=vm.replica_site))
    adapters = ", ".join(adapter.adapter_id for adapter in settings.adapters) or "none"
    draft.audit(settings.vm_id, "set failover addresses", "accepted", by=settings, adapters=adapters)


def _cluster_settings(draft: Draft, settings: ClusterReplicationSettings) -> None:
    draft.keep(f"cluster-settings/{settings.cluster}", settings)


def _plan(draft: Draft, plan: RecoveryPlan) -> None:
    draft.keep(f"plan/{plan.plan_id}", plan)


_HANDLERS: Mapping[type, Callable[[Draft, Any], None]] = {
    VmMoved: _moved,
    ReplicationReport: _reported,
    VmInventory: _vm_inventory,
    ClusterInventory: _cluster_inventory,
    VmReplicationSettings: _vm_settings,
    ClusterReplicationSettings: _cluster_settings,
    RecoveryPlan: _plan,
    FailoverRequested: on_request,
    StepResult: on_step_result,
}
