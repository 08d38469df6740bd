"""VMs of a topology file: their guests, adapters and replication."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface

from failover_orch.domain.addresses import Family, canonical_interface
from failover_orch.domain.inventory import Adapter, AdapterKind, Guest, IntegrationServices, Replication, VmInventory
from failover_orch.domain.replication import REPLICATION_FREQUENCIES_S, ReplicationState
from failover_orch.errors import ConfigError
from failover_orch.topology.infrastructure import ClusterDraft, NetworkDraft, NodeDraft, memory_mib
from failover_orch.topology.model import TopologyVm
from failover_orch.yaml_reading import IDENTIFIER, Entry, Pattern, Register

__all__ = ["VM_KEYS", "Holder", "House", "VmDraft", "add_vm", "outside"]

VM_KEYS = (
    "id",
    "name",
    "guest",
    "memory_mib",
    "memory_gib",
    "cpus",
    "storage_gib",
    "application",
    "anti_affinity",
    "adapters",
    "primary",
    "replication",
)
_GUEST_KEYS = ("system", "integration_services")
_ADAPTER_KEYS = ("id", "kind", "mac", "network", "addresses")
_PRIMARY_KEYS = ("cluster", "node", "storage")
_REPLICATION_KEYS = ("site", "cluster", "node", "storage", "frequency_s", "state")

_MAX_GIB = 1_000_000
_MAX_CPUS = 4096
_MULTICAST_BIT = 1

_MAC = Pattern(
    re.compile(
        r"[0-9A-Fa-f]{2}(?:(:)[0-9A-Fa-f]{2}(?:\1[0-9A-Fa-f]{2}){4}|(-)[0-9A-Fa-f]{2}(?:\2[0-9A-Fa-f]{2}){4})|[0-9A-Fa-f]{12}"
    ),
    "a MAC address, such as 00:15:5d:0a:00:11",
)
_GUEST = Pattern(re.compile(r"[A-Za-z][A-Za-z0-9.-]*"), "a guest's identifier, such as windows-server-2022")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a MAC or an address, and in which line that is said."""

    vm_id: str
    adapter_id: str
    line: int


@dataclass(frozen=True, slots=True)
class VmDraft:
    """A VM as read, with its entries for those who find mistakes later."""

    vm: TopologyVm
    adapters_complete: bool
    entry: Entry


@dataclass(frozen=True, slots=True)
class House:
    """All that a file has declared, by kind."""

    sites: Register[str]
    networks: Register[NetworkDraft]
    brokers: Register[str]
    clusters: Register[ClusterDraft]
    nodes: Register[NodeDraft]
    vms: Register[VmDraft]
    macs: dict[str, Holder] = field(default_factory=dict)
    addresses: dict[str, Holder] = field(default_factory=dict)
    """The primaries' addresses, without prefix; link-local ones are left out."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A site and what of it is named."""

    site: str
    cluster: str
    node: str
    storage: str


def add_vm(entry: Entry, house: House) -> None:
    """Read one entry of `vms`."""
    vm_id = entry.text("id", pattern=IDENTIFIER)
    name = entry.text("name", required=False) or vm_id
    primary = _primary(entry, house)
    replica, replication = _replication(entry, house, primary)
    adapters = _adapters(entry, house, vm_id, primary.site)
    inventory = VmInventory(
        vm_id=vm_id,
        name=name,
        adapters=tuple(adapters.items.values()),
        guest=_guest(entry),
        replication=replication,
        memory_mib=memory_mib(entry, "memory"),
        cpus=entry.integer("cpus", 1, _MAX_CPUS),
        storage_gib=entry.integer("storage_gib", 0, _MAX_GIB),
        application=entry.text("application", required=False),
        anti_affinity=entry.text("anti_affinity", required=False),
    )
    twin = next((draft for draft in house.vms.items.values() if draft.vm.inventory.name == name != vm_id), None)
    if twin is not None:
        entry.warning("name", f"{name!r} is the name of {twin.vm.inventory.vm_id} too; commands will need the ids")
    vm = TopologyVm(inventory, primary.node, primary.storage, replica.node, replica.storage)
    house.vms.add(entry, "id", vm_id, VmDraft(vm, adapters.complete, entry))


def _guest(entry: Entry) -> Guest:
    """The guest's system is not checked against the supported list: whether it can fail over is asked at failover."""
    below = entry.entry("guest", _GUEST_KEYS, required=True)
    if below is None:
        return Guest("")
    return Guest(
        system=below.text("system", pattern=_GUEST).lower(),
        integration_services=below.choice("integration_services", IntegrationServices, IntegrationServices.UNKNOWN),
    )


def _primary(entry: Entry, house: House) -> _Place:
    below = entry.entry("primary", _PRIMARY_KEYS, required=True)
    if below is None:
        return _Place("", "", "", "")
    cluster = below.text("cluster", pattern=IDENTIFIER)
    draft = house.clusters.find(below, "cluster", cluster)
    node = below.text("node", pattern=IDENTIFIER)
    storage = _node_and_storage(below, house, node, cluster)
    home = house.nodes.items.get(node)
    if not storage and not below.has("storage") and home is not None and home.storages:
        storage = home.storages[0].path
    return _Place(draft.site if draft else "", cluster, node, storage)


def _node_and_storage(entry: Entry, house: House, node: str, cluster: str) -> str:
    """Check that a node belongs to a cluster and a storage to the node; returns the storage."""
    home = house.nodes.find(entry, "node", node)
    if home is not None and cluster and home.cluster and home.cluster != cluster and cluster in house.clusters.items:
        entry.mistake("node", f"{node} is a node of {home.cluster}, not of {cluster}")
        home = None
    storage = entry.text("storage", required=False)
    if storage and home is not None:
        paths = [known.path for known in home.storages]
        if storage not in paths and all(paths):
            there = ", ".join(paths) or "none"
            entry.mistake("storage", f"{node} has no storage {storage!r}; its storages: {there}")
    return storage


def _replication(entry: Entry, house: House, primary: _Place) -> tuple[_Place, Replication]:
    """Where the replica goes. A VM without `replication` is not replicated: its state is Disabled."""
    below = entry.entry("replication", _REPLICATION_KEYS)
    if below is None:
        state = ReplicationState.REPLICATING if entry.has("replication") else ReplicationState.DISABLED
        return _Place("", "", "", ""), Replication(state, primary.site, "", primary_cluster=primary.cluster)
    site = house.sites.find(below, "site", below.text("site", pattern=IDENTIFIER)) or ""
    if site and site == primary.site:
        below.mistake("site", f"{site!r} is the VM's primary site; a replica goes to another")
        site = ""
    cluster = below.text("cluster", required=False, pattern=IDENTIFIER)
    node = below.text("node", required=False, pattern=IDENTIFIER)
    storage = _node_and_storage(below, house, node, cluster)
    if storage and not node:
        below.mistake("storage", "is given without a node; name the node, or leave both to placement")
    home = house.nodes.items.get(node)
    cluster = cluster or (home.cluster if home else "")
    _check_receiver(below, house, site, cluster)
    frequency = below.one_of("frequency_s", [str(seconds) for seconds in REPLICATION_FREQUENCIES_S], "300")
    state = below.choice("state", ReplicationState, ReplicationState.REPLICATING)
    return _Place(site, cluster, node, storage), Replication(
        state=state,
        primary_site=primary.site,
        replica_site=site,
        primary_cluster=primary.cluster,
        replica_cluster=cluster,
        frequency_s=int(frequency),
    )


def _check_receiver(entry: Entry, house: House, site: str, cluster: str) -> None:
    if cluster:
        key = "cluster" if entry.has("cluster") else "node"
        draft = house.clusters.find(entry, key, cluster)
        if draft is None:
            return
        if site and draft.site and draft.site != site:
            entry.mistake(key, f"{cluster} is at site {draft.site}, not at {site}")
        elif not draft.accepts_replicas:
            entry.mistake(key, f"{cluster} does not accept replicas (accepts_replicas in line {draft.entry.line} ff.)")
    elif site and house.clusters.complete:
        possible = [draft for draft in house.clusters.items.values() if draft.site in ("", site)]
        if not any(draft.accepts_replicas for draft in possible):
            entry.mistake("site", f"no cluster at {site!r} accepts replicas")


def _adapters(entry: Entry, house: House, vm_id: str, site: str) -> Register[Adapter]:
    entries = entry.entries("adapters", "id", _ADAPTER_KEYS)
    adapters: Register[Adapter] = Register("adapter", complete=bool(entries) or not entry.has("adapters"))
    for below in entries:
        adapter_id = below.text("id")
        network_name = below.text("network", pattern=IDENTIFIER)
        network = house.networks.find(below, "network", network_name)
        there = network.network.site if network else ""
        if site and there and there != site:
            below.mistake("network", f"{network_name} is a network of site {there}; the VM's primary is at {site}")
            network = None
        elif network and network.isolated:
            below.mistake("network", f"{network_name} is isolated, so only test copies may be connected to it")
            network = None
        adapter = Adapter(
            adapter_id=adapter_id,
            kind=below.choice("kind", AdapterKind, AdapterKind.SYNTHETIC),
            mac=_mac(below, house, vm_id, adapter_id),
            network=network_name,
            addresses=_addresses(below, house, Holder(vm_id, adapter_id, below.line), network),
        )
        adapters.add(below, "id", adapter_id, adapter)
    return adapters


def _mac(entry: Entry, house: House, vm_id: str, adapter_id: str) -> str:
    digits = re.sub("[^0-9a-f]", "", entry.text("mac", pattern=_MAC).lower())
    if not digits:
        return ""
    mac = ":".join(digits[index : index + 2] for index in range(0, len(digits), 2))
    if int(digits[:2], 16) & _MULTICAST_BIT or not int(digits, 16):
        entry.mistake("mac", f"{mac} is not an adapter's own address; expected a unicast MAC address")
    holder = house.macs.setdefault(mac, Holder(vm_id, adapter_id, entry.line_of("mac")))
    if holder != Holder(vm_id, adapter_id, entry.line_of("mac")):
        entry.mistake("mac", f"{mac} is taken: line {holder.line} gives it to {holder.vm_id} ({holder.adapter_id})")
    return mac


def _addresses(entry: Entry, house: House, holder: Holder, network: NetworkDraft | None) -> tuple[str, ...]:
    found: list[str] = []
    for line, text in entry.texts("addresses"):
        family = Family.IPV6 if ":" in text else Family.IPV4
        try:
            canonical = canonical_interface(family, text)
        except ConfigError as error:
            entry.mistake("addresses", str(error), line=line)
            continue
        ip = ip_interface(canonical).ip
        if not ip.is_link_local:
            if network is not None and (problem := outside(canonical, family, network)):
                entry.mistake("addresses", problem, line=line)
            this = Holder(holder.vm_id, holder.adapter_id, line)
            first = house.addresses.setdefault(str(ip), this)
            if first is not this:
                message = f"{ip} is taken: line {first.line} gives it to {first.vm_id} ({first.adapter_id})"
                entry.mistake("addresses", message, line=line)
        found.append(canonical)
    return tuple(found)


def outside(canonical: str, family: Family, draft: NetworkDraft) -> str:
    """What is wrong with an `address/prefix` on a network; empty if it belongs there, or nobody can tell."""
    if family in draft.unread:
        return ""
    network = draft.network
    ip = ip_interface(canonical).ip
    subnets = network.subnets_of(family)
    if not subnets:
        return f"{ip} is an {family} address, but network {network.name} has no {family} subnet"
    if not any(ip in subnet for subnet in subnets):
        return f"{ip} is outside network {network.name} ({', '.join(map(str, subnets))})"
    if any(ip == ip_address(gateway) for gateway in network.gateways):
        return f"{ip} is a gateway of network {network.name}"
    return ""
