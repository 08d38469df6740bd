"""How a VM and its replication look from one end: what its hypervisor reports, all pure."""

from __future__ import annotations

from dataclasses import replace

from failover_orch.domain.facts import ReplicationReport
from failover_orch.domain.inventory import VmInventory
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.transitions import FAILED_OVER, RECEIVES
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules.ends import End

__all__ = ["active", "inventory", "overdue", "report", "running"]

_State = ReplicationState
_LEAST_GRACE_MS = 3_000
"""A tenth of the shortest interval that Hyper-V knows."""
_CRITICAL = frozenset({_State.ERROR, _State.WAITING_FOR_RESYNCHRONIZE, _State.RESYNCHRONIZE_SUSPENDED})
_WARNING = FAILED_OVER | {
    _State.READY_FOR_INITIAL_REPLICATION,
    _State.WAITING_FOR_INITIAL_REPLICATION,
    _State.RESYNCHRONIZING,
}


def active(end: End, peer: End | None, *, peer_reachable: bool) -> bool:
    """Whether the VM's inventory is this end's to report.

    That is the primary, until a failover has taken the VM: then the failed-over end, from its start on. A primary that
    cannot reach its replica does not know that it was overtaken, and reports.
    """
    if end.mode is ReplicationMode.REPLICA:
        return _taken(end)
    return not (peer is not None and peer_reachable and _taken(peer))


def _taken(end: End) -> bool:
    waiting = end.state is _State.FAILED_OVER_WAITING_COMPLETION
    return end.state is _State.FAILED_OVER or (waiting and end.power is Power.RUNNING)


def report(vm: VmInventory, end: End, now_ms: int) -> ReplicationReport:
    """The end's view of the VM's replication. `cycles` counts the missed ones too."""
    cycles, missed = end.cycles, end.missed_cycles
    frequency_ms = vm.replication.frequency_s * 1000
    if end.mode is ReplicationMode.REPLICA and end.state in RECEIVES and end.last_replication_at_ms:
        late = overdue(end, frequency_ms, now_ms)
        cycles, missed = cycles + late, missed + late
    return ReplicationReport(
        vm_id=end.vm_id,
        site=end.site,
        node=end.node,
        mode=end.mode,
        state=end.state,
        health=_health(end, cycles, missed, overdue(end, frequency_ms, now_ms)),
        reported_at_ms=now_ms,
        last_replication_at_ms=end.last_replication_at_ms,
        pending_bytes=end.pending_bytes,
        cycles=cycles,
        missed_cycles=missed,
        errors=end.errors,
        latency_ms=end.latency_ms,
        source=end.node,
    )


def overdue(end: End, frequency_ms: int, now_ms: int) -> int:
    """Cycles that should have come by now; a tenth of the interval is grace, and no less than a cycle takes."""
    grace_ms = max(frequency_ms // 10, _LEAST_GRACE_MS)
    return max(0, (now_ms - end.last_replication_at_ms - grace_ms) // frequency_ms)


def _health(end: End, cycles: int, missed: int, overdue: int) -> ReplicationHealth:
    """Hyper-V's own judgement, by the thresholds in its documentation."""
    if end.state is _State.DISABLED:
        return ReplicationHealth.NOT_APPLICABLE
    replica = end.mode is ReplicationMode.REPLICA
    cannot_send = not replica and end.state is _State.REPLICATING and overdue > 0
    if end.state in _CRITICAL or (replica and end.state is _State.SUSPENDED) or cannot_send:
        return ReplicationHealth.CRITICAL
    if end.state in _WARNING or end.state is _State.SUSPENDED or missed * 5 > cycles:
        return ReplicationHealth.WARNING
    return ReplicationHealth.NORMAL


def inventory(vm: VmInventory, end: End, peer: End | None, now_ms: int) -> VmInventory:
    """The VM as its active end reports it: with the addresses its guest has now, this end being the primary."""
    configured = {adapter.adapter_id: adapter.configured for adapter in end.adapters}
    return replace(
        vm,
        adapters=tuple(
            replace(adapter, addresses=configured[adapter.adapter_id].addresses)
            if adapter.adapter_id in configured
            else adapter
            for adapter in vm.adapters
        ),
        replication=replace(
            vm.replication,
            state=end.state,
            primary_site=end.site,
            primary_cluster=end.cluster,
            replica_site=peer.site if peer else vm.replication.replica_site,
            replica_cluster=peer.cluster if peer else vm.replication.replica_cluster,
        ),
        reported_at_ms=now_ms,
    )


def running(end: End, now_ms: int) -> bool:
    """Whether the VM is on and its guest is up."""
    return end.power is Power.RUNNING and now_ms >= end.settled_at_ms
