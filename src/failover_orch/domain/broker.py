"""The broker's fold: what each event makes of a partition's state, and what is said in answer.

`decide` takes one fact, `tick` one value whose time has come. Both only read the state they are given and return a
`Decision`; whoever calls applies it, in one transaction. The rules themselves stand in the modules named here.

| fact | rules |
| --- | --- |
| VmMoved | `routing` M1 to M7 |
| ReplicationReport | `health` H1 to H10 |
| VmInventory | I1: one that is not newer is passed over; I2: a VM without a replica may get one |
| | I3: one by a site where the VM is not active is passed over, unless a run is under way |
| | I4: what it does not know of the guest stays as it was last known |
| ClusterInventory | I1 |
| VmReplicationSettings | T1: unknown VM; `addresses` A...: what cannot be set is refused |
| Policy | T2: a limit that makes no sense is refused |
| RecoveryPlan | T3: a plan of which a part could never run, or could not be told apart, is refused |
| FailoverRequested | `requests` Q1 to Q6, `preconditions`, `approvals`, `runs`, `operators`, `plan_runs` |
| SettingsChange, SettingsObserved | `settings_rules` C1 to C16, `settings_keeping` K1 to K16 |
| StepResult | `requests` S1, `runs`, `plan_runs` |
| Evidence, Brake, AutomaticRun | `guards` G1 to G6, `automatic` G0, G7 and G8 |
| PlanMembership, MemberReadiness | `readiness` D1 to D6 |
| AccessToken, AccessRefused | `access` X4 to X6 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from failover_orch.domain.access import AccessRefused, AccessToken
from failover_orch.domain.access_records import on_refused, on_token
from failover_orch.domain.addresses import settings_findings
from failover_orch.domain.automatic import braked, count_run, look, take_evidence
from failover_orch.domain.draft import Decision, Draft, Fact, Moment, State
from failover_orch.domain.effects import route
from failover_orch.domain.facts import FailoverRequested, ReplicationReport, StepResult, VmMoved
from failover_orch.domain.health import apply_report, new_alarm
from failover_orch.domain.inventory import ClusterInventory, IntegrationServices, VmInventory
from failover_orch.domain.plan_graph import flaw
from failover_orch.domain.policies import AutomaticRun, Brake, Evidence, Limits, Policy
from failover_orch.domain.readiness import assess_readiness
from failover_orch.domain.records import (
    Alert,
    Location,
    MemberReadiness,
    PlanMembership,
    Role,
    RouteCause,
    Severity,
)
from failover_orch.domain.replication import ReplicationHealth, ReplicationState
from failover_orch.domain.replication_settings import SettingsChange, SettingsObserved
from failover_orch.domain.requests import on_request, on_step_result, on_time, park_run
from failover_orch.domain.routing import apply_move, relocate
from failover_orch.domain.settings import RecoveryPlan, VmReplicationSettings
from failover_orch.domain.settings_keeping import (
    follow_cluster,
    on_settings_change,
    on_settings_observed,
    on_settings_time,
)
from failover_orch.domain.standing import heard_of_member, joined_plan, keep_plan, keep_vm
from failover_orch.domain.state import Clusters, KeptSettings, PlanRun, Run, VmState

__all__ = ["decide", "due_ms", "park", "tick"]

_WITHOUT_REPLICA = (
    ReplicationState.DISABLED,
    ReplicationState.FAILED_OVER_WAITING_COMPLETION,
    ReplicationState.FAILED_OVER,
)
"""States in which the other end that an inventory names is no replica."""
_ALL_CYCLES = 100
_LIMITS = tuple(field.name for field in fields(Limits))


def decide(state: Mapping[str, State], fact: Fact, moment: Moment) -> Decision:
    """Fold one fact."""
    draft = Draft(state, moment)
    _HANDLERS[type(fact)](draft, fact)
    return draft.decision()


def tick(state: Mapping[str, State], key: str, moment: Moment) -> Decision:
    """Look at the value under `key`, whose time (`due_ms`) may have come."""
    draft = Draft(state, moment)
    value = state.get(key)
    if isinstance(value, Run | PlanRun | VmState | KeptSettings) and 0 < value.due_ms <= moment.now_ms:
        if isinstance(value, VmState):
            keep_vm(draft, replace(value, due_ms=0))
            look(draft, value.vm_id, on_request)
        elif isinstance(value, KeptSettings):
            on_settings_time(draft, value)
        else:
            on_time(draft, key, value)
    return draft.decision()


def park(state: Mapping[str, State], subject: Fact | str, error: str, moment: Moment) -> Decision:
    """What follows where folding a fact, or looking at the value under a key, ended in an unexpected error.

    A bug is no reason to fail a run: the run that this is about waits for fixed code, or for a person. Whatever else it
    is about, people are told.
    """
    draft = Draft(state, moment)
    run_id = ""
    if isinstance(subject, FailoverRequested | StepResult):
        run_id = subject.run_id
    elif isinstance(subject, str) and subject.startswith(("run/", "plan-run/")):
        run_id = subject.partition("/")[2]
    if run_id:
        park_run(draft, run_id, error)
    named = subject if isinstance(subject, str) else type(subject).__name__
    concerned = getattr(subject, "vm_id", "") or getattr(subject, "plan_id", "") or run_id or named
    draft.tell(Alert(concerned, Severity.CRITICAL, f"unexpected error with {named}: {error}", moment.now_ms))
    return draft.decision()


def due_ms(value: State) -> int:
    """When the rules want to look at a value again though nothing happens; 0 for never."""
    return value.due_ms if isinstance(value, Run | PlanRun | VmState | KeptSettings) else 0


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
        # A VM that moves within its site is at work: whatever was held against its primary starts anew (G2).
        vm = replace(moved.vm, epoch=moved.vm.epoch + 1, suspected_since_ms=0)
        vm = keep_vm(draft, vm)
        draft.tell(route(vm, moved.cause, moved.change, moved.previous_node, draft.now_ms))
        look(draft, move.vm_id, on_request)
    elif moved.rule != "M1":
        draft.keep(f"vm/{move.vm_id}", moved.vm)


def _reported(draft: Draft, report: ReplicationReport) -> None:
    known = _vm(draft, report.vm_id) or VmState(report.vm_id)
    assessed = apply_report(known, report, draft.limits(known), draft.now_ms)
    if assessed is None:
        return
    vm = assessed.vm
    if assessed.durable or assessed.changed:
        keep_vm(draft, vm, reasons=assessed.reasons if assessed.changed else None)
    else:
        draft.note(f"vm/{report.vm_id}", vm)
    if vm.health is ReplicationHealth.CRITICAL and new_alarm(known, vm):
        what = f"replication health is Critical: {'; '.join(assessed.reasons)}"
        draft.tell(Alert(report.vm_id, Severity.CRITICAL, what, draft.now_ms))
    if vm.guards_said or any(end.silent_ms for end in vm.ends):
        look(draft, report.vm_id, on_request)


def _vm_inventory(draft: Draft, inventory: VmInventory) -> None:
    vm = _vm(draft, inventory.vm_id) or VmState(inventory.vm_id)
    first = vm.inventory is None
    if vm.inventory is not None and inventory.reported_at_ms <= vm.inventory.reported_at_ms:
        return  # I1
    if vm.active_site and not vm.run_id and inventory.replication.primary_site != vm.active_site:
        # I3: a primary that is cut off, or comes back after an unplanned failover, still believes that it is one. While
        # a run is under way the other site may know of its success before we do.
        return
    vm = replace(vm, inventory=inventory if vm.inventory is None else _with_known_guest(inventory, vm.inventory))
    routes = []
    if first and not vm.active_site:
        # Only the first: from then on the broker's own runs say which site is active.
        active, replica = inventory.replication.primary_site, inventory.replication.replica_site
        roles = {active: Role.PRIMARY, replica: Role.REPLICA}
        locations = tuple(replace(here, role=roles.get(here.site, Role.UNKNOWN)) for here in vm.locations)
        vm = replace(
            vm,
            epoch=vm.epoch + 1,
            active_site=active,
            replica_site=replica,
            home_site=active,
            locations=locations,
        )
        changed = vm.at(active) or Location(active, "", Role.PRIMARY, 0, inventory.replication.primary_cluster)
        routes.append(route(vm, RouteCause.INVENTORY, changed, "", draft.now_ms))
    elif _replicates_anew(vm, inventory):
        # I2: replication was enabled, or reversed by hand, since: the end that is active is the one to say so.
        vm = replace(vm, replica_site=inventory.replication.replica_site)
        here = vm.at(vm.replica_site)
        if here is not None:
            changed = replace(here, role=Role.REPLICA)
            vm = relocate(replace(vm, epoch=vm.epoch + 1), changed)
            routes.append(route(vm, RouteCause.INVENTORY, changed, "", draft.now_ms))
    keep_vm(draft, vm)
    draft.tell(*routes)


def _with_known_guest(inventory: VmInventory, before: VmInventory) -> VmInventory:
    """I4: a guest that is off or does not answer is the one that it was; it is then that a failover asks for it."""
    guest, known = inventory.guest, before.guest
    services = guest.integration_services
    if services is IntegrationServices.UNKNOWN:
        services = known.integration_services
    return replace(inventory, guest=replace(guest, system=guest.system or known.system, integration_services=services))


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
    if before is not None and cluster.reported_at_ms <= before.reported_at_ms:
        return  # I1
    known[cluster.cluster] = cluster
    draft.keep("clusters", Clusters(tuple(known[name] for name in sorted(known))))
    follow_cluster(draft, before, cluster)
    if before is None or _matters(before) != _matters(cluster):
        _weigh_all(draft, lambda vm: cluster.site in (vm.replica_site, vm.active_site))


def _matters(cluster: ClusterInventory) -> tuple[object, ...]:
    """What of a cluster the readiness of VMs depends on; memory by the GiB, for it is never twice the same."""
    nodes = tuple((node.name, node.state, node.memory_free_mib >> 10) for node in cluster.nodes)
    return nodes, cluster.accepts_replicas, cluster.supported_guests


def _weigh_all(draft: Draft, concerned: Callable[[VmState], bool]) -> None:
    for vm_id in draft.vm_ids():
        vm = _vm(draft, vm_id)
        if vm is None or vm.inventory is None or not concerned(vm):
            continue
        weighed = assess_readiness(vm, draft.clusters(), draft.limits(vm), draft.now_ms)
        if weighed != (vm.readiness, vm.defects):
            keep_vm(draft, vm)


def _vm_settings(draft: Draft, settings: VmReplicationSettings) -> None:
    vm = _vm(draft, settings.vm_id)
    if vm is None or vm.inventory is None:
        draft.refuse("T1", settings.vm_id, "failover addresses of a VM that is not known", by=settings)
        return
    each = (settings.adapters, settings.home_adapters, settings.test_adapters)
    findings = [
        finding
        for adapters in each
        for finding in settings_findings(vm.inventory, replace(settings, adapters=adapters))
    ]
    if findings:
        why = "; ".join(f"{finding.rule}: {finding.message}" for finding in findings)
        draft.refuse(findings[0].rule, settings.vm_id, f"failover addresses: {why}", by=settings)
        draft.audit(settings.vm_id, "set failover addresses", "refused", by=settings, why=why)
        return
    if vm.settings == settings:
        return
    keep_vm(draft, replace(vm, settings=settings))
    adapters = ", ".join(adapter.adapter_id for adapter in settings.adapters) or "none"
    draft.audit(settings.vm_id, "set failover addresses", "accepted", by=settings, adapters=adapters)


def _plan(draft: Draft, plan: RecoveryPlan) -> None:
    wrong = flaw(plan)
    if wrong:
        draft.refuse("T3", "", f"plan {plan.plan_id}: {wrong}")
        return
    keep_plan(draft, plan)


def _policy(draft: Draft, policy: Policy) -> None:
    wrong = _senseless(policy)
    if wrong:
        draft.refuse("T2", "", f"policy {policy.key}: {wrong}")
        draft.audit(policy.key, "set policy", "refused", by=policy, why=wrong)
        return
    known = draft.find(f"policy/{policy.key}", Policy)
    if known is not None and (known == policy or known.set_at_ms > policy.set_at_ms):
        return
    draft.keep(f"policy/{policy.key}", policy)
    stated = {name: str(value) for name in _LIMITS if (value := getattr(policy, name)) is not None}
    draft.audit(policy.key, "set policy", "accepted", by=policy, **stated)
    _weigh_all(draft, lambda _: True)
    for vm_id in draft.vm_ids():
        look(draft, vm_id, on_request)


def _senseless(policy: Policy) -> str:
    for field in fields(Policy):
        value = getattr(policy, field.name)
        if isinstance(value, int) and value < 0:
            return f"{field.name} is {value}; it cannot be negative"
    if (policy.missed_cycles_percent or 0) > _ALL_CYCLES:
        return f"missed_cycles_percent is {policy.missed_cycles_percent}; there are no more than {_ALL_CYCLES}"
    for rule in policy.approvals or ():
        if rule.needed < 1 or rule.within_ms < 1:
            return "an approval needs at least one person, and some time"
        if rule.approvers and len(set(rule.approvers)) < rule.needed:
            return f"{rule.needed} of {len(set(rule.approvers))} approvers can never agree"
    return ""


def _evidence(draft: Draft, said: Evidence) -> None:
    if not take_evidence(draft, said):
        return
    for vm_id in draft.vm_ids():
        vm = _vm(draft, vm_id)
        if vm is not None and vm.active_site == said.site:
            look(draft, vm_id, on_request)


def _brake(draft: Draft, said: Brake) -> None:
    if not braked(draft, said):
        return
    for vm_id in draft.vm_ids():
        look(draft, vm_id, on_request)


_HANDLERS: Mapping[type, Callable[[Draft, Any], None]] = {
    VmMoved: _moved,
    ReplicationReport: _reported,
    VmInventory: _vm_inventory,
    ClusterInventory: _cluster_inventory,
    VmReplicationSettings: _vm_settings,
    SettingsChange: on_settings_change,
    SettingsObserved: on_settings_observed,
    RecoveryPlan: _plan,
    Policy: _policy,
    Evidence: _evidence,
    Brake: _brake,
    AutomaticRun: count_run,
    PlanMembership: joined_plan,
    MemberReadiness: heard_of_member,
    FailoverRequested: on_request,
    StepResult: on_step_result,
    AccessToken: on_token,
    AccessRefused: on_refused,
}
