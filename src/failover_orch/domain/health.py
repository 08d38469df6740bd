"""How well a VM's replication goes, from what both its ends report, and when its RPO will be breached as things go.

Sources: Hyper-V Replica's health rules (the Hyper-V team's "Replication health" articles): more than 20 % of the cycles
missed or more than an hour without replication is a warning; a replica that is paused, a required resynchronisation and
an error are critical. Every limit can be set, see `policies.Limits`.

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
| H9 | the replica has received nothing for more than three of its cycles | Critical |
| H10 | the replica lags further behind than the RPO | Critical |

A worse health counts at once; a better one only after it has lasted (hysteresis), for a link that flaps would otherwise
be a new alarm each time. Where the end's mode has changed, or a copy or failover has been completed, it counts at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from failover_orch.domain.facts import ReplicationReport
from failover_orch.domain.policies import DEFAULT_LIMITS, Limits
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.state import ReplicationEnd, VmState

__all__ = ["Assessed", "apply_report", "assess", "new_alarm"]

_RESYNCHRONISE = (
    ReplicationState.WAITING_FOR_RESYNCHRONIZE,
    ReplicationState.RESYNCHRONIZING,
    ReplicationState.RESYNCHRONIZE_SUSPENDED,
)
_INITIAL = (ReplicationState.READY_FOR_INITIAL_REPLICATION, ReplicationState.WAITING_FOR_INITIAL_REPLICATION)
_RECEIVES = (ReplicationState.REPLICATING, ReplicationState.RESYNCHRONIZING)
_FAILED_OVER = (ReplicationState.FAILED_OVER_WAITING_COMPLETION, ReplicationState.FAILED_OVER)
_PASSED_ONCE = (*_RESYNCHRONISE, *_INITIAL, *_FAILED_OVER)
"""States that an end leaves because something has been completed: they do not flap."""
_ORDER = {
    ReplicationHealth.NOT_APPLICABLE: 0,
    ReplicationHealth.NORMAL: 1,
    ReplicationHealth.WARNING: 2,
    ReplicationHealth.CRITICAL: 3,
}


@dataclass(frozen=True, slots=True)
class _Case:
    """One end's report, and what it is measured against. `frequency_ms` 0: not known."""

    report: ReplicationReport
    limits: Limits
    frequency_ms: int
    moving: bool = False
    """A run of the VM is in flight: that nothing is replicated meanwhile is its doing."""

    @property
    def lag_ms(self) -> int:
        """How far the replica was behind when this was reported."""
        last = self.report.last_replication_at_ms
        return max(0, self.report.reported_at_ms - last) if last else 0

    @property
    def silent_ms(self) -> int:
        """For how long a replica that ought to receive has received nothing, if that is too long; else 0."""
        report = self.report
        if report.mode is not ReplicationMode.REPLICA or report.state not in _RECEIVES or not self.frequency_ms:
            return 0
        if self.moving:
            return 0
        return self.lag_ms if self.lag_ms > self.limits.silent_cycles * self.frequency_ms else 0


@dataclass(frozen=True, slots=True)
class _Rule:
    number: str
    health: ReplicationHealth
    applies: Callable[[_Case], bool]
    says: Callable[[_Case], str]


_RULES = (
    _Rule(
        "H1",
        ReplicationHealth.CRITICAL,
        lambda c: (
            c.report.state is ReplicationState.ERROR
            or c.report.state in _RESYNCHRONISE
            or (c.report.state is ReplicationState.SUSPENDED and c.report.mode is ReplicationMode.REPLICA)
        ),
        lambda c: f"replication at {c.report.site} is {c.report.state}",
    ),
    _Rule(
        "H2",
        ReplicationHealth.CRITICAL,
        lambda c: c.report.health is ReplicationHealth.CRITICAL,
        lambda c: f"{c.report.node} reports Critical",
    ),
    _Rule(
        "H3",
        ReplicationHealth.WARNING,
        lambda c: 100 * c.report.missed_cycles > c.limits.missed_cycles_percent * c.report.cycles > 0,
        lambda c: f"{c.report.missed_cycles} of {c.report.cycles} cycles missed",
    ),
    _Rule(
        "H4",
        ReplicationHealth.WARNING,
        lambda c: c.lag_ms > c.limits.replication_age_ms > 0,
        lambda c: f"nothing replicated for {c.lag_ms // 60_000} minutes",
    ),
    _Rule(
        "H5",
        ReplicationHealth.WARNING,
        lambda c: c.report.state in _INITIAL,
        lambda _: "the initial replication is not complete",
    ),
    _Rule(
        "H6",
        ReplicationHealth.WARNING,
        lambda c: c.report.state in _FAILED_OVER,
        lambda _: "failed over, and replication is not reversed",
    ),
    _Rule(
        "H7",
        ReplicationHealth.WARNING,
        lambda c: c.report.state is ReplicationState.SUSPENDED and c.report.mode is not ReplicationMode.REPLICA,
        lambda _: "replication is suspended at the primary",
    ),
    _Rule(
        "H8",
        ReplicationHealth.WARNING,
        lambda c: c.report.health is ReplicationHealth.WARNING,
        lambda c: f"{c.report.node} reports Warning",
    ),
    _Rule(
        "H9",
        ReplicationHealth.CRITICAL,
        lambda c: c.silent_ms > 0,
        lambda c: (
            f"nothing received for {c.silent_ms // 1000} s, "
            f"limit {c.limits.silent_cycles * c.frequency_ms // 1000} s ({c.limits.silent_cycles} cycles)"
        ),
    ),
    _Rule(
        "H10",
        ReplicationHealth.CRITICAL,
        lambda c: not c.moving and c.report.mode is ReplicationMode.REPLICA and c.lag_ms > c.limits.rpo_ms > 0,
        lambda c: f"the replica is {c.lag_ms // 1000} s behind, its RPO is {c.limits.rpo_ms // 1000} s",
    ),
)


_CRITICAL = frozenset(rule.number for rule in _RULES if rule.health is ReplicationHealth.CRITICAL)


def assess(
    report: ReplicationReport, limits: Limits = DEFAULT_LIMITS, frequency_ms: int = 0
) -> tuple[ReplicationHealth, tuple[str, ...]]:
    """The health that one end's report means, with every rule that applies as a sentence behind its number.

    `frequency_ms` is the VM's replication frequency; 0 where it is not known.
    """
    return _assess(_Case(report, limits, frequency_ms))


def _assess(case: _Case) -> tuple[ReplicationHealth, tuple[str, ...]]:
    if case.report.state is ReplicationState.DISABLED:
        return ReplicationHealth.NOT_APPLICABLE, ()
    hits = [rule for rule in _RULES if rule.applies(case)]
    health = max((rule.health for rule in hits), key=_ORDER.__getitem__, default=ReplicationHealth.NORMAL)
    return health, tuple(f"{rule.number}: {rule.says(case)}" for rule in hits)


@dataclass(frozen=True, slots=True)
class Assessed:
    """What a report leads to.

    `changed`: the VM's health, or whether a breach of its RPO is in sight, is another now; `durable`: worth a record in
    the changelog.
    """

    vm: VmState
    changed: bool
    durable: bool
    reasons: tuple[str, ...]


def apply_report(
    vm: VmState, report: ReplicationReport, limits: Limits = DEFAULT_LIMITS, now_ms: int = 0
) -> Assessed | None:
    """Fold one report into what is known of the VM; None for one that is not newer than the last of its end.

    A report that tells nothing new but the time is kept in memory alone: a record for each would make the changelog
    as heavy as the input, and after a crash the next report brings it back.
    """
    last = next((end for end in vm.ends if end.site == report.site), None)
    if last is not None and report.reported_at_ms <= last.reported_at_ms:
        return None
    frequency_ms = vm.inventory.replication.frequency_s * 1_000 if vm.inventory is not None else 0
    case = _Case(report, limits, frequency_ms, moving=bool(vm.run_id))
    health, reasons = _assess(case)
    better_since_ms = _better_since(last, report, health)
    if better_since_ms and last is not None and report.reported_at_ms - better_since_ms < limits.recover_after_ms:
        health, reasons = last.health, last.reasons
    else:
        better_since_ms = 0
    end = ReplicationEnd(
        site=report.site,
        mode=report.mode,
        state=report.state,
        health=health,
        reasons=reasons,
        reported_at_ms=report.reported_at_ms,
        last_replication_at_ms=report.last_replication_at_ms,
        pending_bytes=report.pending_bytes,
        received_at_ms=now_ms,
        lag_ms=case.lag_ms,
        breach_at_ms=_breach_at(last, case),
        silent_ms=case.silent_ms,
        better_since_ms=better_since_ms,
    )
    ends = (*(other for other in vm.ends if other is not last), end)
    changed = replace(vm, ends=ends)
    overall = max((each.health for each in changed.counted_ends), key=_ORDER.__getitem__, default=vm.health)
    # Whether the replica is silent is what the guards go by: whoever takes over has to know it too.
    stands = (end.state, end.health, end.mode, bool(end.silent_ms), bool(end.breach_at_ms))
    stood = last and (last.state, last.health, last.mode, bool(last.silent_ms), bool(last.breach_at_ms))
    return Assessed(
        vm=replace(changed, health=overall),
        changed=(
            overall is not vm.health
            or _rules(changed) != _rules(vm)
            or bool(end.breach_at_ms) is not bool(last and last.breach_at_ms)
        ),
        durable=stands != stood,
        reasons=tuple(reason for each in changed.counted_ends for reason in each.reasons),
    )


def _rules(vm: VmState) -> list[str]:
    """The numbers of the rules that speak: that the figures in a sentence have moved on is no news."""
    return sorted({reason.partition(":")[0] for end in vm.counted_ends for reason in end.reasons})


def new_alarm(before: VmState, vm: VmState) -> bool:
    """Whether a VM whose health is Critical gives reason to raise people again: it was not, or there is one more."""
    return before.health is not ReplicationHealth.CRITICAL or any(
        rule not in _rules(before) for rule in _rules(vm) if rule in _CRITICAL
    )


def _better_since(last: ReplicationEnd | None, report: ReplicationReport, health: ReplicationHealth) -> int:
    """Since when this end reports a better health than the one that counts; 0 where it does not, or is a new end."""
    if last is None or last.mode is not report.mode or _ORDER[health] >= _ORDER[last.health]:
        return 0
    if last.state in _PASSED_ONCE and report.state is not last.state:
        return 0
    return last.better_since_ms or report.reported_at_ms


def _breach_at(last: ReplicationEnd | None, case: _Case) -> int:
    """When the lag, if it goes on growing as between the last two reports, passes the RPO; 0 where it does not.

    A lag of up to one cycle is no growth: it goes up and down with each cycle.
    """
    report, limits = case.report, case.limits
    if not limits.rpo_ms or report.mode is not ReplicationMode.REPLICA or last is None or last.mode is not report.mode:
        return 0
    passed = report.reported_at_ms - last.reported_at_ms
    grown = case.lag_ms - last.lag_ms
    if case.lag_ms <= case.frequency_ms or grown <= 0 or passed <= 0:
        return 0
    if case.lag_ms >= limits.rpo_ms:
        return report.reported_at_ms
    return report.reported_at_ms + (limits.rpo_ms - case.lag_ms) * passed // grown
