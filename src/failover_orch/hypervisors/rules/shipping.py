"""What replication carries from one end to the other, and the recovery points it leaves there: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from failover_orch.domain.terms import PointChoice, WantedPoint
from failover_orch.hypervisors.rules.ends import End, EndAdapter, RecoveryPoint

__all__ = ["CONSISTENT_EVERY", "bytes_ship_ms", "chosen", "fresh", "received", "replicated", "shipped", "with_point"]

_BYTES_A_MILLISECOND = 100_000
"""What the replication link carries: 100 MB/s."""
CONSISTENT_EVERY = 4
"""Every so many recovery points the guest is quiesced for one."""


def bytes_ship_ms(count: int) -> int:
    """How long the link takes to ship this many bytes."""
    return count // _BYTES_A_MILLISECOND


def shipped(end: End, now_ms: int, latency_ms: int) -> End:
    """The end, either of the two, once everything pending is at the replica."""
    return replace(end, last_replication_at_ms=now_ms, latency_ms=latency_ms, pending_bytes=0)


def received(
    source: End,
    target: End,
    now_ms: int,
    latency_ms: int,
    *,
    points_kept: int,
    consistent_every: int = CONSISTENT_EVERY,
) -> End:
    """The replica once everything pending at its primary is with it, which makes a recovery point."""
    taken = with_point(shipped(target, now_ms, latency_ms), now_ms, points_kept, consistent_every)
    return replace(taken, adapters=replicated(source, target))


def with_point(end: End, now_ms: int, points_kept: int, consistent_every: int = CONSISTENT_EVERY) -> End:
    """The replica with a recovery point more; the oldest beyond `points_kept` are gone.

    Every so many are application-consistent; 0: none is.
    """
    number = end.points_taken + 1
    consistent = consistent_every > 0 and number % consistent_every == 0
    point = RecoveryPoint(f"rp-{number}", now_ms, application_consistent=consistent)
    return replace(end, recovery_points=(*end.recovery_points, point)[-points_kept:], points_taken=number)


def chosen(points: Sequence[RecoveryPoint], wanted: WantedPoint) -> RecoveryPoint | None:
    """The recovery point that is wanted, of those there are, newest last; None where none fits."""
    for point in reversed(points):
        match wanted.choice:
            case PointChoice.BEFORE:
                fits = point.at_ms <= wanted.at_ms
            case PointChoice.APPLICATION_CONSISTENT:
                fits = point.application_consistent
            case PointChoice.NAMED:
                fits = point.point_id == wanted.point_id
            case PointChoice.LATEST:
                fits = True
        if fits:
            return point
    return None


def fresh(end: End) -> End:
    """The end with the statistics of a replication in which nothing has been sent yet."""
    return replace(end, cycles=0, missed_cycles=0, errors=0, last_replication_at_ms=0)


def replicated(source: End, target: End) -> tuple[EndAdapter, ...]:
    """The target's adapters once the source's disk is on it: the guest's configuration travels with its disk."""
    configured = {adapter.adapter_id: adapter.configured for adapter in source.adapters}
    return tuple(
        replace(adapter, configured=configured.get(adapter.adapter_id, adapter.configured))
        for adapter in target.adapters
    )
