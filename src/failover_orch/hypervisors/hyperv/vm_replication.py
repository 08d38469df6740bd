"""How one VM replicates: the settings of Set-VMReplication, read from its primary and given to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

from failover_orch.domain.replication import ReplicationMode
from failover_orch.domain.replication_settings import InitialReplication, VmReplication
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.hyperv.cmdlets import Argument, changing, look, of_vm, select
from failover_orch.hypervisors.hyperv.objects import Row
from failover_orch.hypervisors.hyperv.replication_server import span
from failover_orch.hypervisors.hyperv.seen import REPLICATION_SETTINGS, Machine

__all__ = ["apply", "settings_in"]

_MINUTE_S, _MINUTE_MS = 60, 60_000

_REFUSED: Mapping[str, tuple[Callable[[VmReplication], bool], str]] = {
    "excluded_disks": (
        lambda wanted: bool(wanted.excluded_disks),
        "disks are left out as replication is enabled (Enable-VMReplication -ExcludedVhdPath)",
    ),
    "initial_replication": (
        lambda wanted: wanted.initial_replication is not InitialReplication.NETWORK,
        "the first copy is brought by whoever enables replication (Start-VMInitialReplication)",
    ),
    "initial_start_at_ms": (
        lambda wanted: wanted.initial_start_at_ms > 0,
        "initial replication is begun by whoever enables replication (Start-VMInitialReplication)",
    ),
    "extended_to": (
        lambda wanted: bool(wanted.extended_to),
        "a replica is extended at its own site (Enable-VMReplication, on the replica)",
    ),
    "extended_frequency_s": (
        lambda wanted: wanted.extended_frequency_s != VmReplication().extended_frequency_s,
        "a replica is extended at its own site (Set-VMReplication, on the replica)",
    ),
}
"""What is not Set-VMReplication's to change: when somebody asks for it, and who does it instead."""


def settings_in(row: Row) -> VmReplication:
    """The settings that a VMReplication object tells.

    Raises:
        StepFailed: it tells something that is none.

    """
    return VmReplication(
        frequency_s=row.number("ReplicationFrequencySec"),
        recovery_points=row.number("RecoveryHistory"),
        application_consistent_hours=row.number("VSSSnapshotFrequencyHour"),
        compression=row.flag("CompressionEnabled"),
        bypass_proxy=row.flag("BypassProxyServer"),
        replicate_host_kvp_items=row.flag("ReplicateHostKvpItems"),
        auto_resynchronize=row.flag("AutoResynchronizeEnabled"),
        resynchronize_from_minute=row.span_ms("AutoResynchronizeIntervalStart") // _MINUTE_MS,
        resynchronize_to_minute=row.span_ms("AutoResynchronizeIntervalEnd") // _MINUTE_MS,
    )


def apply(machine: Machine, wanted: VmReplication) -> None:
    """Have the VM replicate so, if it does not yet, and read it back.

    Raises:
        StepRefused: it is no primary; or its host will not, and says why.
        StepFailed: it did not work, or the VM reads back something else.

    """
    where = f"{machine.name} on {machine.host.name}"
    if machine.mode is not ReplicationMode.PRIMARY:
        raise StepRefused(
            f"{where} is {machine.mode}: how it replicates is set at its primary, so reverse its replication first"
        )
    for name, (asked_for, instead) in _REFUSED.items():
        if asked_for(wanted):
            raise StepRefused(f"{where} cannot be given {name}: {instead}")
    if not _differing(_settings(machine), wanted):
        return
    machine.host.run(of_vm(machine.vm) | changing("Set-VMReplication", **_parameters(wanted)))
    if others := _differing(_settings(machine), wanted):
        raise StepFailed(f"{where} took its replication settings, and reads back another {', '.join(others)}")


def _settings(machine: Machine) -> VmReplication:
    asked = of_vm(machine.vm) | look("Get-VMReplication") | select("ReplicationRelationshipType", *REPLICATION_SETTINGS)
    found = [row for row in machine.host.run(asked) if row.text("ReplicationRelationshipType") != "Extended"]
    if not found:
        raise StepFailed(f"{machine.name} on {machine.host.name} does not replicate any more")
    return settings_in(found[0])


def _parameters(wanted: VmReplication) -> dict[str, Argument]:
    parameters: dict[str, Argument] = {
        "ReplicationFrequencySec": wanted.frequency_s,
        "RecoveryHistory": wanted.recovery_points,
        "CompressionEnabled": wanted.compression,
        "BypassProxyServer": wanted.bypass_proxy,
        "ReplicateHostKvpItems": wanted.replicate_host_kvp_items,
        "AutoResynchronizeEnabled": wanted.auto_resynchronize,
        "AutoResynchronizeIntervalStart": span(wanted.resynchronize_from_minute * _MINUTE_S),
        "AutoResynchronizeIntervalEnd": span(wanted.resynchronize_to_minute * _MINUTE_S),
    }
    if wanted.application_consistent_hours:
        parameters["VSSSnapshotFrequencyHour"] = wanted.application_consistent_hours
    else:
        parameters["DisableVSSSnapshotReplication"] = True
    return parameters


def _differing(one: VmReplication, other: VmReplication) -> tuple[str, ...]:
    """The settings in which the two differ."""
    return tuple(each.name for each in fields(VmReplication) if getattr(one, each.name) != getattr(other, each.name))
