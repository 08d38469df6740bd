"""The VMs of the demo, as its topology describes them, made and started on their node."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from failover_orch.demo.vms.virsh import define_and_start
from failover_orch.domain import AdapterAddresses, FamilyAddresses
from failover_orch.lab import LabNode
from failover_orch.lab.guest import GuestAdapter, GuestImage, domain_xml, make_data_disk
from failover_orch.topology import Topology

__all__ = ["Machine", "disk_at_home", "machines_of", "make"]


@dataclass(frozen=True, slots=True)
class Machine:
    """A VM of one adapter. `addresses` are those that it has at each site, IPv4 before IPv6, without their prefixes."""

    vm_id: str
    mac: str
    application: str
    system: str
    addresses: Mapping[str, tuple[str, str]]
    home: str
    away: str
    replica_node: str
    configuration: str
    """Its guest's own network configuration, for where it is at home."""


def machines_of(topology: Topology) -> tuple[Machine, ...]:
    """The topology's VMs; each has one adapter, and addresses for both sites."""
    machines = []
    for vm in topology.vms:
        inventory = vm.inventory
        (adapter,) = inventory.adapters
        settings = topology.settings_of(inventory.vm_id)
        if settings is None:
            raise ValueError(f"{inventory.vm_id} has no failover addresses in the demo's topology")
        home, away = inventory.replication.primary_site, inventory.replication.replica_site
        addresses = {home: _addresses(settings.home_adapters), away: _addresses(settings.adapters)}
        machines.append(
            Machine(
                vm_id=inventory.vm_id,
                mac=adapter.mac,
                application=inventory.application,
                system=inventory.guest.system,
                addresses=addresses,
                home=home,
                away=away,
                replica_node=vm.replica_node,
                configuration=_configuration(adapter.mac, settings.home_adapters[0]),
            )
        )
    return tuple(machines)


def make(machine: Machine, node: LabNode, image: GuestImage, serial_logs: Path) -> None:
    """Make the VM's disk and its domain, and start it. Blocks."""
    disk = disk_at_home(node, machine.vm_id)
    make_data_disk(disk, netcfg=machine.configuration)
    define_and_start(
        node,
        domain_xml(
            machine.vm_id,
            image,
            uuid=str(uuid.uuid4()),
            disks=[disk],
            adapters=[GuestAdapter(machine.mac, bridge=node.bridge)],
            serial_log=serial_logs / f"{machine.vm_id}.log",
        ),
    )


def disk_at_home(node: LabNode, vm_id: str) -> Path:
    """Where a VM's disk is made."""
    return node.storage / f"{vm_id}.qcow2"


def _addresses(adapters: Iterable[AdapterAddresses]) -> tuple[str, str]:
    (adapter,) = adapters
    (ipv4,), (ipv6,) = (family.addresses if family is not None else () for family in (adapter.ipv4, adapter.ipv6))
    return str(ip_interface(ipv4).ip), str(ip_interface(ipv6).ip)


def _configuration(mac: str, adapter: AdapterAddresses) -> str:
    """As the tiny guest reads it from its disk."""
    ipv4, ipv6 = adapter.ipv4 or FamilyAddresses(), adapter.ipv6 or FamilyAddresses()
    words = {
        "mac": (mac,),
        "v4": ipv4.addresses,
        "gw4": ipv4.gateways,
        "v6": ipv6.addresses,
        "gw6": ipv6.gateways,
        "dns": (*ipv4.dns, *ipv6.dns),
    }
    return " ".join(f"{name}={','.join(values)}" for name, values in words.items() if values) + "\n"
