"""Whether a failover of a VM, or of a plan, would work now, and what would go wrong. Pure.

| rule | defect | readiness |
| --- | --- | --- |
| D1 | an unplanned failover would be refused (see `preconditions`) | NOT READY |
| D2 | a planned failover would be refused, though an unplanned one would not | AT RISK |
| D3 | replication health is Warning or Critical | AT RISK |
| D4 | the RPO will be breached as things go | AT RISK |
| D5 | the replica's node has less memory free than the VM needs | AT RISK |
| D6 | no test failover has succeeded lately enough | AT RISK |

A VM whose replication is not enabled is UNKNOWN: it is not protected, and nobody asked for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction
from failover_orch.domain.inventory import ClusterInventory
from failover_orch.domain.policies import Limits
from failover_orch.domain.preconditions import Refusal, refusals
from failover_orch.domain.records import Readiness
from failover_orch.domain.replication import ReplicationHealth, ReplicationState
from failover_orch.domain.state import PlanReadiness, VmState

__all__ = ["assess_readiness", "next_look_ms", "plan_readiness"]

_DAY_MS = 24 * 3_600_000
_SHOWN = 5
_ORDER = {Readiness.READY: 0, Readiness.AT_RISK: 1, Readiness.UNKNOWN: 2, Readiness.NOT_READY: 3}
_PASSING = ("F3", "F7", "F12")
"""Refusals that say nothing of the VM's protection: a run in flight, or what other rules here say better."""
_WANTED = FailoverRequested("", RequestAction.REQUEST, FailoverKind.UNPLANNED, "", "", 0)


def assess_readiness(
    vm: VmState, clusters: Sequence[ClusterInventory], limits: Limits, now_ms: int
) -> tuple[Readiness, tuple[str, ...]]:
    """A VM's readiness, and its defects as sentences with their rules' numbers in front."""
    if vm.inventory is None or _unprotected(vm):
        return Readiness.UNKNOWN, ()
    unplanned = _refused(vm, FailoverKind.UNPLANNED, clusters)
    defects = [f"D1: {each}" for each in unplanned]
    if not unplanned:
        defects += [f"D2: {each}" for each in _refused(vm, FailoverKind.PLANNED, clusters)]
    defects += _at_risk(vm, clusters, limits, now_ms)
    if unplanned:
        return Readiness.NOT_READY, tuple(defects)
    return (Readiness.AT_RISK if defects else Readiness.READY), tuple(defects)


def next_look_ms(vm: VmState, limits: Limits) -> int:
    """When readiness changes by the passing of time alone: the last test failover is then too old. 0: never."""
    if not vm.drilled_at_ms or not limits.drill_within_ms:
        return 0
    return vm.drilled_at_ms + limits.drill_within_ms


def plan_readiness(plan_id: str, vm_ids: Sequence[str], known: PlanReadiness | None) -> PlanReadiness:
    """A plan is as ready as the worst of its VMs; one that nobody has heard of counts as UNKNOWN."""
    told = {vm_id: (state, defects, at_ms) for vm_id, state, defects, at_ms in (known.members if known else ())}
    members = tuple((vm_id, *told.get(vm_id, (Readiness.UNKNOWN, (), 0))) for vm_id in dict.fromkeys(vm_ids))
    worst = max((state for _, state, _, _ in members), key=_ORDER.__getitem__, default=Readiness.UNKNOWN)
    defective = [
        f"{vm_id}: {'; '.join(defects) or state.value}"
        for vm_id, state, defects, _ in members
        if state is not Readiness.READY
    ]
    more = (f"and {len(defective) - _SHOWN} more VMs",) if len(defective) > _SHOWN else ()
    stands = known or PlanReadiness(plan_id)
    return replace(stands, members=members, readiness=worst, defects=(*defective[:_SHOWN], *more))


def _unprotected(vm: VmState) -> bool:
    return (
        vm.inventory is not None
        and not vm.replica_site
        and (vm.inventory.replication.state is ReplicationState.DISABLED)
    )


def _refused(vm: VmState, kind: FailoverKind, clusters: Sequence[ClusterInventory]) -> list[Refusal]:
    wanted = replace(_WANTED, kind=kind, vm_id=vm.vm_id)
    return [each for each in refusals(vm, wanted, clusters) if each.rule not in _PASSING]


def _at_risk(vm: VmState, clusters: Sequence[ClusterInventory], limits: Limits, now_ms: int) -> list[str]:
    found = []
    if vm.health in (ReplicationHealth.WARNING, ReplicationHealth.CRITICAL):
        reasons = "; ".join(reason for end in vm.counted_ends for reason in end.reasons)
        found.append(f"D3: replication health is {vm.health} ({reasons})")
    if any(end.breach_at_ms for end in vm.ends):
        found.append(f"D4: as the lag grows, the RPO of {limits.rpo_ms / 1000:g} s will be breached")
    found += _no_room(vm, clusters)
    if limits.drill_within_ms and vm.replica_site:
        days = _days(limits.drill_within_ms)
        if not vm.drilled_at_ms:
            found.append(f"D6: no test failover has ever succeeded; one is due every {days}")
        elif now_ms - vm.drilled_at_ms >= limits.drill_within_ms:
            age = _days(now_ms - vm.drilled_at_ms)
            found.append(f"D6: the last test failover that succeeded is {age} old; one is due every {days}")
    return found


def _days(duration_ms: int) -> str:
    days = duration_ms // _DAY_MS
    return f"{days} day{'' if days == 1 else 's'}"


def _no_room(vm: VmState, clusters: Sequence[ClusterInventory]) -> list[str]:
    here = vm.at(vm.replica_site)
    if here is None or vm.inventory is None:
        return []
    nodes = (node for cluster in clusters if cluster.site == here.site for node in cluster.nodes)
    node = next((node for node in nodes if node.name == here.node), None)
    if node is None or node.memory_free_mib >= vm.inventory.memory_mib:
        return []
    need = vm.inventory.memory_mib
    return [f"D5: node {node.name} has {node.memory_free_mib} MiB of memory free, the VM needs {need}"]
