"""How well a VM's replication goes, from what both its ends report.

Sources: Hyper-V Replica's health rules (the Hyper-V team's "Replication health" articles): more than 20 % of the cycles
missed or more than an hour without replication is a warning; a replica that is paused, a required resynchronisation and
an error are critical.

| rule | when | health |
| --- | --- | --- |
| H1 | an end is in Error, waits for resynchronisation, or the replica is suspended | Critical |
| H2 | the hypervisor says Critical | Critical |
| H3 | more than 20 % of the cycles of the monitoring interval missed | Warning |
| H4 | nothing replicated for more than an hour | Warning |
| H5 | the initial replication is not complete | Warning |
| H6 | failed over, and replication not reversed | Warning |
| H7 | the primary is suspended | Warning |
| H8 | the hypervisor says Warning | Warning |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from failover_orch.domain.facts import ReplicationReport
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.state import ReplicationEnd, VmState

__all__ = ["MISSED_CYCLES_LIMIT", "REPLICATION_AGE_LIMIT_MS", "Assessed", "apply_report", "assess"]

MISSED_CYCLES_LIMIT = 0.2
"""Share of missed cycles above which health is Warning."""
REPLICATION_AGE_LIMIT_MS = 3_600_000
"""Age of the last replication above which health is Warning."""

_RESYNCHRONISE = (
    ReplicationState.WAITING_FOR_RESYNCHRONIZE,
    ReplicationState.RESYNCHRONIZING,
    ReplicationState.RESYNCHRONIZE_SUSPENDED,
)
_INITIAL = (ReplicationState.READY_FOR_INITIAL_REPLICATION, ReplicationState.WAITING_FOR_INITIAL_REPLICATION)
_FAILED_OVER = (ReplicationState.FAILED_OVER_WAITING_COMPLETION, ReplicationState.FAILED_OVER)
_ORDER = {
    ReplicationHealth.NOT_APPLICABLE: 0,
    ReplicationHealth.NORMAL: 1,
    ReplicationHealth.WARNING: 2,
    ReplicationHealth.CRITICAL: 3,
}


@dataclass(frozen=True, slots=True)
class _Rule:
    number: str
    health: ReplicationHealth
    applies: Callable[[ReplicationReport], bool]
    says: Callable[[ReplicationReport], str]


_RULES = (
    _Rule(
        "H1",
        ReplicationHealth.CRITICAL,
        lambda r: (
            r.state is ReplicationState.ERROR
            or r.state in _RESYNCHRONISE
            or (r.state is ReplicationState.SUSPENDED and r.mode is ReplicationMode.REPLICA)
        ),
        lambda r: f"replication at {r.site} is {r.state}",
    ),
    _Rule(
        "H2",
        ReplicationHealth.CRITICAL,
        lambda r: r.health is ReplicationHealth.CRITICAL,
        lambda r: f"{r.node} reports Critical",
    ),
    _Rule(
        "H3",
        ReplicationHealth.WARNING,
        lambda r: r.cycles > 0 and r.missed_cycles > MISSED_CYCLES_LIMIT * r.cycles,
        lambda r: f"{r.missed_cycles} of {r.cycles} cycles missed",
    ),
    _Rule(
        "H4",
        ReplicationHealth.WARNING,
        lambda r: 0 < r.last_replication_at_ms < r.reported_at_ms - REPLICATION_AGE_LIMIT_MS,
        lambda r: f"nothing replicated for {(r.reported_at_ms - r.last_replication_at_ms) // 60_000} minutes",
    ),
    _Rule(
        "H5",
        ReplicationHealth.WARNING,
        lambda r: r.state in _INITIAL,
        lambda _: "the initial replication is not complete",
    ),
    _Rule(
        "H6",
        ReplicationHealth.WARNING,
        lambda r: r.state in _FAILED_OVER,
        lambda _: "failed over, and replication is not reversed",
    ),
    _Rule(
        "H7",
        ReplicationHealth.WARNING,
        lambda r: r.state is ReplicationState.SUSPENDED and r.mode is not ReplicationMode.REPLICA,
        lambda _: "replication is suspended at the primary",
    ),
    _Rule(
        "H8",
        ReplicationHealth.WARNING,
        lambda r: r.health is ReplicationHealth.WARNING,
        lambda r: f"{r.node} reports Warning",
    ),
)


def assess(report: ReplicationReport) -> tuple[ReplicationHealth, tuple[str, ...]]:
    """The health that one end's report means, with every rule that applies as a sentence behind its number."""
    if report.state is ReplicationState.DISABLED:
        return ReplicationHealth.NOT_APPLICABLE, ()
    hits = [rule for rule in _RULES if rule.applies(report)]
    health = max((rule.health for rule in hits), key=_ORDER.__getitem__, default=ReplicationHealth.NORMAL)
    return health, tuple(f"{rule.number}: {rule.says(report)}" for rule in hits)


@dataclass(frozen=True, slots=True)
class Assessed:
    """What a report leads to. `changed`: the VM's health is another one; `durable`: worth a record in the changelog."""

    vm: VmState
    changed: bool
    durable: bool
    reasons: tuple[str, ...]


def apply_report(vm: VmState, report: ReplicationReport) -> Assessed | None:
    """Fold one report into what is known of the VM; None for one that is not newer than the last of its end.

    A report that tells nothing new but the time is kept in memory alone: a record for each would make the changelog
    as heavy as the input, and after a crash the next report brings it back.
    """
    last = next((end for end in vm.ends if end.site == report.site), None)
    if last is not None and report.reported_at_ms <= last.reported_at_ms:
        return None
    health, reasons = assess(report)
    end = ReplicationEnd(
        site=report.site,
        mode=report.mode,
        state=report.state,
        health=health,
        reasons=reasons,
        reported_at_ms=report.reported_at_ms,
        last_replication_at_ms=report.last_replication_at_ms,
        pending_bytes=report.pending_bytes,
    )
    ends = (*(other for other in vm.ends if other is not last), end)
    overall = max((other.health for other in ends), key=_ORDER.__getitem__)
    durable = last is None or (last.state, last.health, last.mode) != (end.state, end.health, end.mode)
    return Assessed(
        vm=replace(vm, ends=ends, health=overall),
        changed=overall is not vm.health,
        durable=durable,
        reasons=tuple(reason for other in ends for reason in other.reasons),
    )
