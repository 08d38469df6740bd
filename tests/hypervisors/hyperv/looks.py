"""The world's machines, adapters and replications as the objects that cmdlets return, with Hyper-V's property names."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from hyperv.cycles import health, overdue
from hyperv.enumerations import (
    IntegrationStatus,
    ReplicationAuthenticationType,
    SnapshotType,
    VMHeartbeatStatus,
    VMReplicationMode,
    VMReplicationType,
    VMState,
)
from hyperv.objects import Item
from hyperv.world import HEARTBEAT, SERVICES, Adapter, GuestAddresses, Machine, Point, World

__all__ = [
    "adapter_item",
    "failover_item",
    "machine_item",
    "measured_item",
    "moment",
    "point_item",
    "replication_item",
    "service_items",
]

_NO_SNAPSHOT = uuid.UUID(int=0)
_RESYNCHRONIZE_FROM, _RESYNCHRONIZE_TO = dt.timedelta(hours=18, minutes=30), dt.timedelta(hours=6)
_OF_ITS_VM = ("VMId", "VMName", "VMSnapshotId", "VMSnapshotName", "ComputerName", "IsDeleted")


def moment(at_ms: int) -> dt.datetime | None:
    """A time as .NET has it; None for never."""
    return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC) if at_ms else None


def machine_item(world: World, machine: Machine) -> Item:
    running = machine.state is VMState.Running
    up_ms = world.clock() - machine.started_ms if running else 0
    properties: dict[str, Any] = {
        "Name": machine.name,
        "Id": machine.vm_id,
        "State": machine.state,
        "Status": "Operating normally",
        "Uptime": dt.timedelta(milliseconds=up_ms),
        "Heartbeat": _heartbeat(world, machine),
        "Notes": machine.notes,
        "CreationTime": moment(machine.created_ms),
        "Path": f"C:\\ClusterStorage\\{machine.site}\\{machine.name}",
        "Generation": 2,
        "IsClustered": not machine.is_test_copy,
        "ProcessorCount": 2,
        "MemoryStartup": 4 * 2**30,
        "MemoryAssigned": 4 * 2**30 if running else 0,
        "ReplicationHealth": health(world, machine),
        "ReplicationMode": machine.mode,
        "ReplicationState": machine.replication_state,
        "Version": "10.0",
        "ComputerName": machine.node.upper(),
        "IsDeleted": False,
        "VMId": machine.vm_id,
        "VMName": machine.name,
    }
    text = f"VirtualMachine (Name = '{machine.name}') [Id = '{machine.vm_id}']"
    return Item("VirtualMachine", properties, text, machine)


def _heartbeat(world: World, machine: Machine) -> VMHeartbeatStatus | None:
    if machine.state is not VMState.Running:
        return None
    if HEARTBEAT in machine.disabled_services:
        return VMHeartbeatStatus.Disabled
    if not world.booted(machine) or not machine.services_contact:
        return VMHeartbeatStatus.NoContact
    return VMHeartbeatStatus.OkApplicationsHealthy


def service_items(world: World, machine: Machine) -> list[Item]:
    items = []
    for component, name in SERVICES.items():
        enabled = component not in machine.disabled_services
        if not enabled:
            status, description = IntegrationStatus.Disabled, "Disabled"
        elif not world.booted(machine) or not machine.services_contact:
            status, description = IntegrationStatus.NoContact, "No Contact"
        else:
            status, description = IntegrationStatus.Ok, "OK"
        properties = {
            "Enabled": enabled,
            "PrimaryOperationalStatus": status,
            "PrimaryStatusDescription": description,
            "SecondaryOperationalStatus": None,
            "SecondaryStatusDescription": "",
            "Name": name,
            "Id": _part_of(machine, component),
            **_closing(machine),
        }
        items.append(Item("VMIntegrationComponent", properties, name, machine))
    return items


def adapter_item(world: World, machine: Machine, adapter: Adapter) -> Item:
    guest = machine.disk.configured.get(adapter.adapter_id, GuestAddresses())
    addresses = tuple(address.partition("/")[0] for address in guest.addresses)
    properties = {
        "MacAddress": adapter.mac,
        "DynamicMacAddressEnabled": False,
        "IsLegacy": adapter.legacy,
        "IsSynthetic": not adapter.legacy,
        "IPAddresses": (*addresses, _link_local(adapter)) if world.reports(machine) else (),
        "Connected": bool(adapter.switch),
        "SwitchName": adapter.switch,
        "AdapterId": adapter.adapter_id,
        "TestReplicaPoolName": "",
        "TestReplicaSwitchName": adapter.test_switch,
        "IsManagementOs": False,
        "IsExternalAdapter": False,
        "Id": _part_of(machine, adapter.adapter_id),
        "Name": adapter.name,
        **_closing(machine),
    }
    text = f"VMNetworkAdapter (Name = '{adapter.name}', VMName = '{machine.name}') [VMId = '{machine.vm_id}']"
    return Item("VMNetworkAdapter", properties, text, (machine, adapter))


def _link_local(adapter: Adapter) -> str:
    """Guests report these, too."""
    return f"fe80::215:5dff:fe{adapter.mac[6:8].lower()}:{adapter.mac[8:].lower()}"


def failover_item(machine: Machine, adapter: Adapter) -> Item:
    """The failover TCP/IP settings. They do not say whose they are."""
    names = (
        "IPv4Address",
        "IPv4SubnetMask",
        "IPv4DefaultGateway",
        "IPv4PreferredDNSServer",
        "IPv4AlternateDNSServer",
        "IPv6Address",
        "IPv6SubnetPrefixLength",
        "IPv6DefaultGateway",
        "IPv6PreferredDNSServer",
        "IPv6AlternateDNSServer",
    )
    # The prefix length goes in as a number and comes back as text.
    properties: dict[str, Any] = {name: str(adapter.staged.get(name, "")) for name in names}
    versions = [version for version in (4, 6) if f"IPv{version}Address" in adapter.staged]
    properties["ProtocolIFType"] = "IPv4IPv6" if len(versions) == 2 else f"IPv{versions[0]}" if versions else "None"
    return Item("VMNetworkAdapterFailoverSetting", properties, "VMNetworkAdapterFailoverSetting", (machine, adapter))


def replication_item(world: World, machine: Machine) -> Item:
    relationship = machine.relationship
    settings = dict(relationship.settings) if relationship else {}
    properties: dict[str, Any] = {
        "AuthenticationType": ReplicationAuthenticationType[relationship.authentication] if relationship else None,
        "CertificateThumbprint": settings.get("CertificateThumbprint", ""),
        "CompressionEnabled": settings.get("CompressionEnabled", True),
        "AutoResynchronizeEnabled": settings.get("AutoResynchronizeEnabled", False),
        "AutoResynchronizeIntervalStart": settings.get("AutoResynchronizeIntervalStart", _RESYNCHRONIZE_FROM),
        "AutoResynchronizeIntervalEnd": settings.get("AutoResynchronizeIntervalEnd", _RESYNCHRONIZE_TO),
        "ReplicateHostKvpItems": settings.get("ReplicateHostKvpItems", True),
        "BypassProxyServer": settings.get("BypassProxyServer", False),
        "RecoveryHistory": relationship.recovery_history if relationship else 0,
        "ReplicaServerPort": relationship.port if relationship else 0,
        "ReplicationFrequencySec": relationship.frequency_s if relationship else 0,
        "VSSSnapshotFrequencyHour": relationship.vss_frequency_h if relationship else 0,
        "VSSSnapshotReplicationEnabled": bool(relationship and relationship.vss_frequency_h),
        **_common_replication(world, machine),
    }
    return Item("VMReplication", properties, f"VMReplication (VMName = '{machine.name}')", machine)


def measured_item(world: World, machine: Machine) -> Item:
    relationship = machine.relationship
    if relationship is None:
        raise ValueError(f"{machine.name} does not replicate")
    statistics = relationship.statistics
    late = overdue(world, machine) if relationship.mode is VMReplicationMode.Replica else 0
    sizes, latencies = statistics.sizes or [0], statistics.latencies_ms or [0]
    properties: dict[str, Any] = {
        "MonitoringStartTime": moment(statistics.since_ms),
        "MonitoringEndTime": moment(world.clock()),
        "LastReplicationType": VMReplicationType.Regular,
        "FailedOverReplicationType": relationship.failed_over_type,
        "LastTestFailoverInitiatedTime": moment(statistics.last_test_ms),
        "InitialReplicationSize": 0,
        "PendingReplicationSize": relationship.pending_bytes,
        "AverageReplicationSize": sum(sizes) // len(sizes),
        "MaximumReplicationSize": max(sizes),
        "AverageReplicationLatency": dt.timedelta(milliseconds=sum(latencies) // len(latencies)),
        "MaximumReplicationLatency": dt.timedelta(milliseconds=max(latencies)),
        "ReplicationErrors": statistics.errors,
        "SuccessfulReplicationCount": statistics.successes,
        "MissedReplicationCount": statistics.misses + late,
        "ReplicationHealthDetails": (),
        **_common_replication(world, machine),
    }
    return Item("VMReplicationHealth", properties, f"VMReplicationHealth (VMName = '{machine.name}')", machine)


def _common_replication(world: World, machine: Machine) -> dict[str, Any]:
    relationship = machine.relationship
    last = moment(relationship.last_replication_ms) if relationship else None
    copy = world.test_copy(machine)
    state, mode, judged = machine.replication_state, machine.mode, health(world, machine)
    return {
        "PrimaryServerName": relationship.primary_server if relationship else "",
        "ReplicaServerName": relationship.replica_server if relationship else "",
        "CurrentReplicaServerName": relationship.replica_server if relationship else "",
        "LastReplicationTime": last,
        "LastAppliedLogTime": last if mode is VMReplicationMode.Replica else None,
        "ReplicationHealth": judged,
        "ReplicationMode": mode,
        "ReplicationState": state,
        "ReplicationRelationshipType": "Simple",
        "TestVirtualMachine": machine_item(world, copy) if copy else None,
        # Scripts use these aliases of the three.
        "Health": judged,
        "Mode": mode,
        "State": state,
        **_closing(machine),
    }


def point_item(machine: Machine, point: Point) -> Item:
    kind = SnapshotType.AppConsistentReplica if point.application_consistent else SnapshotType.Replica
    properties = {
        "SnapshotType": kind,
        "IsAutomaticCheckpoint": False,
        "VMId": machine.vm_id,
        "VMName": machine.name,
        "State": VMState.Off,
        "CreationTime": moment(point.at_ms),
        "Id": point.point_id,
        "Name": point.name,
        "ComputerName": machine.node.upper(),
        "IsDeleted": False,
    }
    text = f"VMSnapshot (Name = '{point.name}') [Id = '{point.point_id}']"
    return Item("VMSnapshot", properties, text, (machine, point))


def _part_of(machine: Machine, part: str) -> str:
    return f"Microsoft:{str(machine.vm_id).upper()}\\{part}"


def _closing(machine: Machine) -> dict[str, Any]:
    values = (machine.vm_id, machine.name, _NO_SNAPSHOT, "", machine.node.upper(), False)
    return dict(zip(_OF_ITS_VM, values, strict=True))
