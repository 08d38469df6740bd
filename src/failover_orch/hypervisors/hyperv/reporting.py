"""How replication goes, in the hosts' own figures."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from failover_orch.domain.facts import ReplicationReport
from failover_orch.domain.replication import ReplicationMode
from failover_orch.errors import HypervisorError
from failover_orch.hypervisors.hyperv.ends import called
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.objects import Row
from failover_orch.hypervisors.hyperv.seen import machines, statistics
from failover_orch.hypervisors.hyperv.settings import HyperVSite
from failover_orch.hypervisors.hyperv.states import health_of, mode_of, state_of
from failover_orch.hypervisors.hyperv.threads import each

__all__ = ["reports"]


def reports(
    settings: HyperVSite, hosts: Sequence[Host], vm_ids: Collection[str], now_ms: int
) -> tuple[ReplicationReport, ...]:
    """The replication of these VMs, as the nodes that have them see it. Nodes that do not answer are left out."""

    def of_host(host: Host) -> tuple[ReplicationReport, ...]:
        try:
            wanted = {
                machine.vm: called(machine, settings.vm_ids)
                for machine in machines(host)
                if not machine.is_test_copy and machine.mode is not ReplicationMode.NONE
            }
            return tuple(
                _report(settings.site, host.name, wanted[vm], row, now_ms)
                for vm, row in statistics(host).items()
                if vm in wanted and wanted[vm] in vm_ids
            )
        except HypervisorError:
            return ()

    return tuple(report for of_one in each(of_host, hosts) for report in of_one)


def _report(site: str, node: str, vm_id: str, row: Row, now_ms: int) -> ReplicationReport:
    """Hyper-V counts the cycles that came through and those that were missed; here the first include the second."""
    missed = row.number("MissedReplicationCount")
    return ReplicationReport(
        vm_id=vm_id,
        site=site,
        node=node,
        mode=mode_of(row.text("ReplicationMode", "Mode")),
        state=state_of(row.text("ReplicationState", "State")),
        health=health_of(row.text("ReplicationHealth", "Health")),
        reported_at_ms=now_ms,
        last_replication_at_ms=row.time_ms("LastReplicationTime"),
        pending_bytes=row.number("PendingReplicationSize"),
        cycles=row.number("SuccessfulReplicationCount") + missed,
        missed_cycles=missed,
        errors=row.number("ReplicationErrors"),
        latency_ms=row.span_ms("AverageReplicationLatency"),
        source=node,
    )
