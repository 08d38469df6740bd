"""How one VM replicates, as its record has it: the primary's, which each cycle takes to the replica's.

A cycle makes a recovery point, so what is kept and what is application-consistent is counted in cycles. Compression is
of what is sent; what there is nothing for in QEMU (a proxy, host key-value items, automatic resynchronisation, which
is always at once) is kept as it was asked for and does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from failover_orch.domain.replication_settings import InitialReplication, VmReplication
from failover_orch.errors import StepRefused
from failover_orch.hypervisors.libvirt.record import Record

__all__ = ["require_possible", "settings_of", "with_settings"]

_HOUR_MS = 3_600_000
_HOURS = range(1, 13)
_USUAL = VmReplication()
_NEVER_TOLD = VmReplication(compression=False)
"""Of a VM that the site file alone has said something about."""

_IMPOSSIBLE: Mapping[str, tuple[Callable[[VmReplication], bool], str]] = {
    "excluded_disks": (lambda wanted: bool(wanted.excluded_disks), "all disks of a VM are replicated"),
    "initial_replication": (
        lambda wanted: wanted.initial_replication is not InitialReplication.NETWORK,
        "the first copy goes over the network",
    ),
    "initial_start_at_ms": (lambda wanted: wanted.initial_start_at_ms > 0, "the first copy is made at once"),
    "extended_to": (lambda wanted: bool(wanted.extended_to), "replicas are not replicated on"),
    "extended_frequency_s": (
        lambda wanted: wanted.extended_frequency_s != _USUAL.extended_frequency_s,
        "replicas are not replicated on",
    ),
    "resynchronize_from_minute": (
        lambda wanted: wanted.resynchronize_from_minute != _USUAL.resynchronize_from_minute,
        "what has to be copied anew is copied at once, whatever the time of day",
    ),
    "resynchronize_to_minute": (
        lambda wanted: wanted.resynchronize_to_minute != _USUAL.resynchronize_to_minute,
        "what has to be copied anew is copied at once, whatever the time of day",
    ),
}
"""By setting: when libvirt replication cannot do it, and what it does."""


def require_possible(vm_id: str, wanted: VmReplication) -> None:
    """See that nothing is promised that libvirt replication does not do.

    Raises:
        StepRefused: it does not; the sentence names the setting.

    """
    for name, (impossible, what) in _IMPOSSIBLE.items():
        if impossible(wanted):
            raise StepRefused(f"{vm_id} cannot be given {name} under libvirt: {what}")


def settings_of(record: Record) -> VmReplication:
    """How the VM replicates, as its record has it."""
    return replace(
        record.replication or _NEVER_TOLD,
        frequency_s=max(1, round(record.every_ms / 1000)),
        recovery_points=max(0, record.points - 1),
        application_consistent_hours=_hours(record),
    )


def with_settings(record: Record, wanted: VmReplication) -> Record:
    """The record of a VM that is to replicate so. A primary's next cycle comes no later than the new interval says."""
    every_ms = wanted.frequency_s * 1000
    hours = wanted.application_consistent_hours
    end = record.end
    if end.next_cycle_at_ms > 0 and every_ms < record.every_ms:
        end = replace(end, next_cycle_at_ms=end.next_cycle_at_ms - record.every_ms + every_ms)
    return replace(
        record,
        end=end,
        every_ms=every_ms,
        points=wanted.recovery_points + 1,
        consistent_every=max(1, hours * _HOUR_MS // every_ms) if hours else 0,
        replication=wanted,
    )


def _hours(record: Record) -> int:
    """Every how many hours a recovery point is application-consistent, rounded to what can be said; 0: none is."""
    if not record.consistent_every:
        return 0
    return min(max(round(record.consistent_every * record.every_ms / _HOUR_MS), _HOURS[0]), _HOURS[-1])
