"""What a node says of its VMs: the looks that the driver takes, and what it sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from failover_orch.domain.inventory import IntegrationServices
from failover_orch.domain.replication import ReplicationMode
from failover_orch.hypervisors.hyperv.cmdlets import look, of_vm, select
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.objects import Row
from failover_orch.hypervisors.hyperv.settings import AdapterNaming
from failover_orch.hypervisors.hyperv.states import mode_of, power_of, services_of
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules.ends import RecoveryPoint

__all__ = [
    "LATEST_POINT",
    "REPLICATION_SETTINGS",
    "WMI",
    "AdapterSeen",
    "Machine",
    "adapters",
    "guest_rows",
    "machines",
    "points",
    "replications",
    "services",
    "statistics",
]

WMI = "root/virtualization/v2"
LATEST_POINT = "latest"
"""What a replica has received since its newest recovery point: Hyper-V fails over to it where none is named."""

_MACHINE = (
    "Id",
    "Name",
    "State",
    "Notes",
    "Uptime",
    "Path",
    "ReplicationMode",
    "ReplicationState",
    "MemoryStartup",
    "ProcessorCount",
    "Heartbeat",
)
_ADAPTER = ("VMId", "Id", "Name", "MacAddress", "IsLegacy", "SwitchName", "Connected", "TestReplicaSwitchName")
_KVP = "2a34b1c2-fd73-4043-8a5b-dd2159bc743f"
"""The integration service that exchanges keys and values with the guest, and sets its addresses, at the end of its id.

Services go by their ids, as their names are those of the host's language.
"""
_POINTS = frozenset({"Replica", "AppConsistentReplica", "SyncedReplica"})
_CONSISTENT = "AppConsistentReplica"
_HEARD = ("OkApplicationsUnknown", "OkApplicationsHealthy", "OkApplicationsCritical")


@dataclass(frozen=True, slots=True)
class Machine:
    """A VM, or a test copy of one, on the node where it is."""

    host: Host
    vm: UUID
    name: str
    state: str
    """Hyper-V's name of it: Off, Running, Saved, ..."""
    notes: str | None
    uptime_ms: int
    path: str
    mode: ReplicationMode
    replication_state: str
    """PowerShell's name of it, which tells more than ours."""
    memory_mib: int
    cpus: int
    heartbeat: bool

    @property
    def power(self) -> Power:
        return power_of(self.state)

    @property
    def is_test_copy(self) -> bool:
        return self.mode is ReplicationMode.TEST_REPLICA


@dataclass(frozen=True, slots=True)
class AdapterSeen:
    """A network adapter. `device` is Hyper-V's id of it, `adapter_id` what it is called in events."""

    device: str
    adapter_id: str
    mac: str
    legacy: bool
    switch: str
    connected: bool
    test_switch: str

    @property
    def guest_key(self) -> str:
        """What the guest's configuration of this adapter goes by in WMI: the last part of the device's id."""
        return self.device.rpartition("\\")[2].lower()


def machines(host: Host) -> tuple[Machine, ...]:
    """Every VM of a node, test copies among them."""
    return tuple(
        Machine(
            host=host,
            vm=UUID(row.text("Id")),
            name=row.text("Name"),
            state=row.text("State"),
            notes=row.raw("Notes"),
            uptime_ms=row.span_ms("Uptime"),
            path=row.text("Path"),
            mode=mode_of(row.text("ReplicationMode", "Mode")),
            replication_state=row.text("ReplicationState"),
            memory_mib=row.number("MemoryStartup") >> 20,
            cpus=row.number("ProcessorCount"),
            heartbeat=row.text("Heartbeat") in _HEARD,
        )
        for row in host.run(of_vm() | select(*_MACHINE))
    )


def adapters(host: Host, naming: AdapterNaming, vm: UUID | None = None) -> Mapping[UUID, tuple[AdapterSeen, ...]]:
    """The adapters of a VM, or of all VMs of a node, by VM."""
    found: dict[UUID, list[Row]] = {}
    for row in host.run(of_vm(vm) | look("Get-VMNetworkAdapter") | select(*_ADAPTER)):
        found.setdefault(UUID(row.text("VMId")), []).append(row)
    return {each: _named(of_one, naming) for each, of_one in found.items()}


def _named(found: Sequence[Row], naming: AdapterNaming) -> tuple[AdapterSeen, ...]:
    names = [row.text("Name") for row in found]

    def called(row: Row) -> str:
        if naming is AdapterNaming.MAC:
            return row.text("MacAddress")
        name = row.text("Name")
        # Hyper-V calls every adapter "Network Adapter": those that share a name are told apart by what they do not.
        return name if names.count(name) == 1 else f"{name} ({row.text('MacAddress')})"

    return tuple(
        AdapterSeen(
            device=row.text("Id"),
            adapter_id=called(row),
            mac=row.text("MacAddress").lower(),
            legacy=row.flag("IsLegacy"),
            switch=row.text("SwitchName"),
            connected=row.flag("Connected") and bool(row.text("SwitchName")),
            test_switch=row.text("TestReplicaSwitchName"),
        )
        for row in found
    )


def services(host: Host, vm: UUID | None = None) -> Mapping[UUID, IntegrationServices]:
    """The state of the service that sets addresses, in a running VM's guest or in those of all VMs of a node."""
    wanted = ("VMId", "Id", "Enabled", "PrimaryOperationalStatus")
    return {
        UUID(row.text("VMId")): services_of(row.flag("Enabled"), row.text("PrimaryOperationalStatus"))
        for row in host.run(of_vm(vm) | look("Get-VMIntegrationService") | select(*wanted))
        if row.text("Id").lower().endswith(_KVP)
    }


def guest_rows(host: Host, vm: UUID | None = None) -> tuple[Row, ...]:
    """What guests have configured on their adapters. The Hyper-V module tells addresses alone, so WMI is asked."""
    everything = look("Get-CimInstance", Namespace=WMI, ClassName="Msvm_GuestNetworkAdapterConfiguration")
    if vm is None:
        return host.run(everything)
    return host.run(everything | look("Where-Object", Property="InstanceID", Value=f"*{vm}*", Like=True))


def points(host: Host, vm: UUID, received_at_ms: int) -> tuple[RecoveryPoint, ...]:
    """What a replica can be failed over to, newest last.

    Where it has received something since its newest recovery point was made, that counts as one more.
    """
    kept = sorted(
        (
            RecoveryPoint(row.text("Id"), row.time_ms("CreationTime"), row.text("SnapshotType") == _CONSISTENT)
            for row in host.run(of_vm(vm) | look("Get-VMSnapshot") | select("Id", "CreationTime", "SnapshotType"))
            if row.text("SnapshotType") in _POINTS
        ),
        key=lambda point: point.at_ms,
    )
    if received_at_ms > (kept[-1].at_ms if kept else 0):
        kept.append(RecoveryPoint(LATEST_POINT, received_at_ms))
    return tuple(kept)


def statistics(host: Host, vm: UUID | None = None) -> Mapping[UUID, Row]:
    """How the replication of a VM, or of all VMs of a node, goes."""
    measured = of_vm(vm) | look("Measure-VMReplication") if vm else look("Measure-VMReplication")
    return _by_vm(host.run(measured | select(*_STATISTICS)))


def replications(host: Host) -> Mapping[UUID, Row]:
    """The replication settings of all VMs of a node that replicate."""
    wanted = (
        "VMId",
        "ReplicationFrequencySec",
        "PrimaryServerName",
        "ReplicaServerName",
        "ReplicationRelationshipType",
        *REPLICATION_SETTINGS,
    )
    return _by_vm(host.run(look("Get-VMReplication") | select(*dict.fromkeys(wanted))))


REPLICATION_SETTINGS = (
    "ReplicationFrequencySec",
    "RecoveryHistory",
    "VSSSnapshotFrequencyHour",
    "CompressionEnabled",
    "BypassProxyServer",
    "ReplicateHostKvpItems",
    "AutoResynchronizeEnabled",
    "AutoResynchronizeIntervalStart",
    "AutoResynchronizeIntervalEnd",
)
"""The properties of a VMReplication that `vm_replication.settings_in` reads."""
_STATISTICS = (
    "VMId",
    "ReplicationMode",
    "ReplicationState",
    "ReplicationHealth",
    "ReplicationRelationshipType",
    "LastReplicationTime",
    "LastAppliedLogTime",
    "PendingReplicationSize",
    "SuccessfulReplicationCount",
    "MissedReplicationCount",
    "ReplicationErrors",
    "AverageReplicationLatency",
)


def _by_vm(found: Iterable[Row]) -> Mapping[UUID, Row]:
    # A replica that is replicated further has two relationships: this project is about the first.
    return {UUID(row.text("VMId")): row for row in found if row.text("ReplicationRelationshipType") != "Extended"}
