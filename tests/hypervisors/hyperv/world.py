"""What the stand-in hosts are made of: nodes, virtual machines with both their ends, and the link between two sites.

Everything here is plain state. What cmdlets do to it stands in the modules of the cmdlets, what time does in `cycles`.
Times are milliseconds since the Unix epoch.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hyperv.enumerations import VMReplicationMode, VMReplicationState, VMReplicationType, VMState

__all__ = [
    "HEARTBEAT",
    "KVP",
    "SERVICES",
    "SHUTDOWN",
    "Adapter",
    "AuthorizationEntry",
    "Change",
    "Disk",
    "GuestAddresses",
    "Machine",
    "Node",
    "Point",
    "Relationship",
    "ReplicationServer",
    "Site",
    "Statistics",
    "World",
]

HEARTBEAT = "84EAAE65-2F2E-45F5-9BB5-0E857DC8EB47"
KVP = "2A34B1C2-FD73-4043-8A5B-DD2159BC743F"
SHUTDOWN = "9F8233AC-BE49-4C79-8EE3-E7E1985B2077"
SERVICES = {
    "6C09BB55-D683-4DA0-8931-C9BF705F6480": "Guest Service Interface",
    HEARTBEAT: "Heartbeat",
    KVP: "Key-Value Pair Exchange",
    SHUTDOWN: "Shutdown",
    "2497F4DE-E9FA-4204-80E4-4B75C46419C0": "Time Synchronization",
    "5CED1297-4598-4915-A5FC-AD21BB4D02A4": "VSS",
}
"""The integration services: the component, which is the same everywhere, and its name on an English host."""


@dataclass(frozen=True, slots=True)
class GuestAddresses:
    """How a guest has configured an adapter; addresses with their prefixes."""

    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Disk:
    """What is on a VM's disks: how its guest has configured its adapters, by their ids, and how much it wrote."""

    configured: dict[str, GuestAddresses]
    written: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """A recovery point."""

    point_id: uuid.UUID
    name: str
    at_ms: int
    application_consistent: bool
    disk: Disk


@dataclass(slots=True)
class Adapter:
    """A network adapter. `switch` and `test_switch` are names (empty: none).

    `staged` holds the failover TCP/IP settings by the names of their parameters.
    """

    adapter_id: str
    name: str
    mac: str
    legacy: bool = False
    switch: str = ""
    test_switch: str = ""
    staged: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Statistics:
    """What Measure-VMReplication counts since `since_ms`."""

    since_ms: int
    successes: int = 0
    misses: int = 0
    errors: int = 0
    sizes: list[int] = field(default_factory=list)
    latencies_ms: list[int] = field(default_factory=list)
    last_test_ms: int = 0


@dataclass(slots=True)
class Relationship:
    """One end of a VM's replication."""

    mode: VMReplicationMode
    state: VMReplicationState
    primary_server: str
    replica_server: str
    statistics: Statistics
    port: int = 80
    authentication: str = "Kerberos"
    frequency_s: int = 30
    recovery_history: int = 24
    vss_frequency_h: int = 4
    settings: dict[str, Any] = field(default_factory=dict)
    pending_bytes: int = 0
    last_replication_ms: int = 0
    next_cycle_ms: int = 0
    failed_over_type: VMReplicationType = VMReplicationType.Nothing


@dataclass(slots=True)
class Machine:
    """A VM as one site's hosts have it: the VM itself, its replica, or a test copy."""

    vm_id: uuid.UUID
    name: str
    site: str
    node: str
    disk: Disk
    adapters: list[Adapter]
    created_ms: int
    state: VMState = VMState.Off
    started_ms: int = 0
    notes: str = ""
    guest_os: str = "Windows Server 2022 Datacenter"
    services_contact: bool = True
    """Whether the guest's integration services answer the host."""
    disabled_services: set[str] = field(default_factory=set)
    relationship: Relationship | None = None
    points: list[Point] = field(default_factory=list)
    failed_over_to: Point | None = None
    unreverted: Disk | None = None
    """The disk as it was received, while the machine is failed over."""
    inject: bool = False
    """Whether the guest is to be given the staged addresses as it starts for the first time."""
    tests: uuid.UUID | None = None
    """Of a test copy: the VM that it copies."""

    @property
    def is_test_copy(self) -> bool:
        return self.tests is not None

    @property
    def mode(self) -> VMReplicationMode:
        if self.is_test_copy:
            return VMReplicationMode.TestReplica
        return self.relationship.mode if self.relationship else VMReplicationMode.Nothing

    @property
    def replication_state(self) -> VMReplicationState:
        return self.relationship.state if self.relationship else VMReplicationState.Disabled


@dataclass(frozen=True, slots=True)
class AuthorizationEntry:
    primary_server: str
    storage: str
    trust_group: str


@dataclass(slots=True)
class ReplicationServer:
    """The replica server settings of a node."""

    enabled: bool = True
    any_server: bool = False
    authentication: str = "Kerberos"
    thumbprint: str = ""
    storage: str = ""
    kerberos_port: int = 80
    certificate_port: int = 443
    port_mapping: dict[str, dict[Any, Any]] = field(default_factory=dict)
    monitoring_interval_s: int = 43200
    monitoring_start_s: int = 32400
    entries: list[AuthorizationEntry] = field(default_factory=list)


@dataclass(slots=True)
class Node:
    name: str
    site: str
    switches: tuple[str, ...]
    server: ReplicationServer
    up: bool = True
    paused: bool = False

    @property
    def fqdn(self) -> str:
        return f"{self.name}.{self.site}.example"


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster of nodes, known to replication by its broker."""

    name: str
    nodes: tuple[str, ...]

    @property
    def cluster(self) -> str:
        return f"{self.name}-cluster"

    @property
    def broker(self) -> str:
        return f"{self.name}-broker"

    @property
    def broker_fqdn(self) -> str:
        return f"{self.broker}.{self.name}.example"


@dataclass(frozen=True, slots=True)
class Change:
    """A cmdlet that really changed something."""

    node: str
    vm: str
    cmdlet: str
    what: str


class World:
    """Two sites, their VMs, and the link. Whoever looks at it or changes it holds `lock`."""

    def __init__(self, sites: tuple[Site, ...], clock: Callable[[], int]) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.sites = {site.name: site for site in sites}
        self.nodes: dict[str, Node] = {}
        self.machines: list[Machine] = []
        self.link_up = True
        self.powered = {site.name: True for site in sites}
        self.silenced: set[str] = set()
        self.closed_ports: set[tuple[str, int]] = set()
        self.boot_s = 0.0
        self.effects: list[Change] = []
        self.ran_twice: set[str] = set()
        for site in sites:
            entries = [
                AuthorizationEntry(other.broker_fqdn, f"C:\\ClusterStorage\\{site.name}", "stand-in")
                for other in sites
                if other is not site
            ]
            switches = ("lan", f"isolated-{site.name}", "other")
            for name in site.nodes:
                self.nodes[name] = Node(name, site.name, switches, ReplicationServer(entries=list(entries)))

    def on(self, node: str) -> list[Machine]:
        return [machine for machine in self.machines if machine.node == node]

    def ends(self, name: str) -> Iterator[Machine]:
        """A VM at each of its sites; test copies have names of their own."""
        return (machine for machine in self.machines if machine.name == name)

    def peer(self, machine: Machine) -> Machine | None:
        """The other end of a VM, whether it can be reached or not."""
        return next(
            (other for other in self.machines if other.vm_id == machine.vm_id and other.site != machine.site), None
        )

    def test_copy(self, machine: Machine) -> Machine | None:
        return next(
            (other for other in self.machines if other.tests == machine.vm_id and other.site == machine.site), None
        )

    def reachable(self, machine: Machine) -> bool:
        """Whether the node of the machine can be reached from the other site."""
        return self.link_up and self.node_works(machine.node)

    def node_works(self, node: str) -> bool:
        found = self.nodes[node]
        return found.up and self.powered[found.site]

    def switch_on(self, machine: Machine) -> None:
        """Start the machine. At the first start after a failover its guest takes over what was staged for it."""
        if machine.inject and machine.services_contact and KVP not in machine.disabled_services:
            machine.disk = _injected(machine)
        machine.inject = False
        machine.state = VMState.Running
        machine.started_ms = self.clock()
        others = [other for other in self.machines if other.vm_id == machine.vm_id and other is not machine]
        if any(other.state is VMState.Running for other in others):
            self.ran_twice.add(machine.name)

    def booted(self, machine: Machine) -> bool:
        """Whether the machine runs and its guest has come up."""
        return machine.state is VMState.Running and self.clock() >= machine.started_ms + self.boot_s * 1000

    def reports(self, machine: Machine) -> bool:
        """Whether the guest tells the host of itself."""
        return self.booted(machine) and machine.services_contact and KVP not in machine.disabled_services


def _injected(machine: Machine) -> Disk:
    """The guest's configuration with the staged addresses, family by family."""
    configured = dict(machine.disk.configured)
    for adapter in machine.adapters:
        before = configured.get(adapter.adapter_id, GuestAddresses())
        parts = [_family(adapter.staged, before, version) for version in (4, 6)]
        configured[adapter.adapter_id] = GuestAddresses(
            *(
                tuple(each for part in parts for each in getattr(part, name))
                for name in ("addresses", "gateways", "dns")
            )
        )
    return Disk(configured, machine.disk.written)


def _family(staged: dict[str, Any], before: GuestAddresses, version: int) -> GuestAddresses:
    if address := staged.get(f"IPv{version}Address"):
        prefix = _prefix_of(staged["IPv4SubnetMask"]) if version == 4 else staged["IPv6SubnetPrefixLength"]
        names = (f"IPv{version}PreferredDNSServer", f"IPv{version}AlternateDNSServer")
        gateway = staged.get(f"IPv{version}DefaultGateway")
        return GuestAddresses(
            (f"{address}/{prefix}",),
            (gateway,) if gateway else (),
            tuple(staged[name] for name in names if staged.get(name)),
        )

    def kept(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(value for value in values if (":" in value) == (version == 6))

    return GuestAddresses(kept(before.addresses), kept(before.gateways), kept(before.dns))


def _prefix_of(mask: str) -> int:
    return sum(int(part).bit_count() for part in mask.split("."))
