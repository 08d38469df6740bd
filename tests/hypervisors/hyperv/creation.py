"""What the stand-in's world begins with."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from hyperv.cycles import add_point
from hyperv.enumerations import VMReplicationMode, VMReplicationState, VMState
from hyperv.world import Adapter, Disk, GuestAddresses, Machine, Relationship, Site, Statistics, World

__all__ = ["SITES", "AdapterSpec", "VmSpec", "create"]

SITES = (Site("primary", ("p1", "p2")), Site("dr", ("d1", "d2")))
_PRIMARYS = GuestAddresses(("10.10.0.21/24", "fd10::21/64"), ("10.10.0.1", "fd10::1"))


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """An adapter to create a VM with."""

    name: str = "nic-1"
    mac: str = "00155D000001"
    legacy: bool = False
    guest: GuestAddresses = _PRIMARYS


@dataclass(frozen=True, slots=True)
class VmSpec:
    """A VM that runs on a node of the primary site and replicates to one of the DR site."""

    name: str = "vm-1"
    adapters: tuple[AdapterSpec, ...] = (AdapterSpec(),)
    primary_node: str = "p1"
    replica_node: str = "d1"
    frequency_s: int = 30
    guest_os: str = "Windows Server 2022 Datacenter"


def create(world: World, spec: VmSpec) -> None:
    """Put the VM and its replica, with one recovery point, into the world."""
    vm_id, now = uuid.uuid4(), world.clock()
    ids = {adapter.mac: str(uuid.uuid4()).upper() for adapter in spec.adapters}
    disk = Disk({ids[adapter.mac]: adapter.guest for adapter in spec.adapters})
    primary, dr = SITES
    for site, node in ((primary, spec.primary_node), (dr, spec.replica_node)):
        active = site is primary
        relationship = Relationship(
            VMReplicationMode.Primary if active else VMReplicationMode.Replica,
            VMReplicationState.Replicating,
            primary.broker_fqdn,
            dr.broker_fqdn,
            Statistics(now),
            frequency_s=spec.frequency_s,
            last_replication_ms=now,
            next_cycle_ms=now + spec.frequency_s * 1000 if active else 0,
        )
        machine = Machine(
            vm_id,
            spec.name,
            site.name,
            node,
            disk,
            [
                Adapter(ids[each.mac], each.name, each.mac, each.legacy, "lan" if active else "")
                for each in spec.adapters
            ],
            created_ms=now,
            state=VMState.Running if active else VMState.Off,
            started_ms=now - 3_600_000 if active else 0,
            guest_os=spec.guest_os,
            relationship=relationship,
        )
        world.machines.append(machine)
        if not active:
            add_point(world, machine)
