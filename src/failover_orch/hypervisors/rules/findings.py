"""What is found of a VM at one end, in the words of `Hypervisor.observe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from failover_orch.domain.records import Action
from failover_orch.domain.replication import ReplicationMode
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules.ends import End, EndAdapter, IsolatedCopy, RecoveryPoint
from failover_orch.hypervisors.rules.reports import running

__all__ = ["OF_THE_COPY", "findings"]

OF_THE_COPY = frozenset({Action.CREATE_TEST, Action.START_TEST, Action.VERIFY_TEST})
"""Actions whose answer is about the test copy."""


def findings(end: End, now_ms: int, *, of_the_copy: bool = False) -> Mapping[str, str]:
    """What is found; `of_the_copy`: recovery point, adapters and addresses are those of the VM's test copy."""
    found = {
        "node": end.node,
        "power": str(end.power),
        "mode": str(end.mode),
        "state": str(end.state),
        "epoch": str(end.epoch),
        "pending_bytes": str(end.pending_bytes),
    }
    copy = end.copy
    if copy is not None:
        found |= _found_of_copy(end, copy)
    if copy is not None and of_the_copy:
        booted = copy.power is Power.RUNNING and now_ms >= copy.settled_at_ms
        return found | _found_of_point(copy.point) | _found_of_adapters(copy.adapters, booted=booted)
    adapters = _found_of_adapters(end.adapters, booted=running(end, now_ms))
    return found | _found_of_point(end.recovery_point) | adapters


def _found_of_point(point: RecoveryPoint | None) -> dict[str, str]:
    if point is None:
        return {"recovery_point": "", "recovery_point_at_ms": "0"}
    return {"recovery_point": point.point_id, "recovery_point_at_ms": str(point.at_ms)}


def _found_of_adapters(adapters: Sequence[EndAdapter], *, booted: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for adapter in adapters:
        name = adapter.adapter_id
        found[f"connected/{name}"] = "yes" if adapter.connected else "no"
        if booted:
            configured = adapter.configured
            lists = {"addresses": configured.addresses, "gateways": configured.gateways, "dns": configured.dns}
            found |= {f"{what}/{name}": ", ".join(values) for what, values in lists.items() if values}
    return found


def _found_of_copy(end: End, copy: IsolatedCopy) -> dict[str, str]:
    return {
        "test_network": copy.network,
        "test/node": copy.node or end.node,
        "test/mode": str(ReplicationMode.TEST_REPLICA),
        "test/power": str(copy.power),
        "test/run": copy.run_id,
        "test/recovery_point": copy.point.point_id,
        "test/recovery_point_at_ms": str(copy.point.at_ms),
    }
