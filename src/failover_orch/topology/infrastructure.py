"""Sites, networks, clusters, nodes and storages of a topology file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from failover_orch.domain.addresses import Family, canonical_address
from failover_orch.domain.guests import SUPPORTED_GUESTS
from failover_orch.domain.inventory import NodeState
from failover_orch.errors import ConfigError
from failover_orch.topology.model import Network, Subnet
from failover_orch.topology.replication import ReplicationDraft, read_replication
from failover_orch.yaml_reading import IDENTIFIER, Entry, Pattern, Register

__all__ = [
    "CLUSTER_KEYS",
    "MIB_IN_GIB",
    "NETWORK_KEYS",
    "SITE_KEYS",
    "ClusterDraft",
    "NetworkDraft",
    "NodeDraft",
    "StorageDraft",
    "add_cluster",
    "add_network",
    "add_site",
    "memory_mib",
]

MIB_IN_GIB = 1024
_MAX_GIB = 1_000_000
_MAX_CPUS = 4096

CLUSTER_KEYS = (
    "name",
    "site",
    "broker",
    "accepts_replicas",
    "replication",
    "supported_guests",
    "fences",
    "storages",
    "nodes",
)
_NODE_KEYS = ("name", "state", "memory_mib", "memory_gib", "memory_free_mib", "memory_free_gib", "cpus", "storages")
_STORAGE_KEYS = ("path", "capacity_gib", "free_gib")
SITE_KEYS = ("name", "description")
NETWORK_KEYS = ("name", "site", "description", "isolated", "ipv4", "ipv6")
_NETWORK_FAMILY_KEYS = ("subnets", "gateways")

_NETBIOS = Pattern(
    re.compile(r"(?=.*[A-Za-z-])[A-Za-z0-9](?:[A-Za-z0-9-]{0,13}[A-Za-z0-9])?"),
    "a NetBIOS name: up to 15 letters, digits and inner dashes, not digits alone",
)
_GUEST = Pattern(re.compile(r"[A-Za-z][A-Za-z0-9.-]*"), "a guest's identifier, such as freebsd-14")
_FENCE = Pattern(re.compile(r"[^/\s]+(/[^/\s]+)?"), "a site, or one of its nodes as site/node")


@dataclass(frozen=True, slots=True)
class NetworkDraft:
    """A network as written. Of an `unread` family it is not known which addresses belong to the network.

    `isolated` is None where that could not be read.
    """

    network: Network
    unread: frozenset[Family]
    isolated: bool | None


@dataclass(frozen=True, slots=True)
class StorageDraft:
    """A storage as written. `free_gib` is None where it is to be worked out from the VMs that the file puts there."""

    path: str
    capacity_gib: int
    free_gib: int | None
    shared: bool
    entry: Entry


@dataclass(frozen=True, slots=True)
class NodeDraft:
    """A node as written, its cluster's shared storages among its own. `site` is empty where it could not be read."""

    name: str
    cluster: str
    site: str
    state: NodeState
    memory_mib: int
    memory_free_mib: int | None
    cpus: int
    storages: tuple[StorageDraft, ...]
    entry: Entry


@dataclass(frozen=True, slots=True)
class ClusterDraft:
    """A cluster as written. `site` is empty where it could not be read."""

    name: str
    site: str
    broker: str
    accepts_replicas: bool
    supported_guests: tuple[str, ...]
    fences: tuple[str, ...]
    nodes: tuple[NodeDraft, ...]
    replication: ReplicationDraft | None
    entry: Entry


def add_site(entry: Entry, sites: Register[str]) -> None:
    """Read one entry of `sites`."""
    name = entry.text("name", pattern=IDENTIFIER)
    entry.text("description", required=False)
    sites.add(entry, "name", name, name)


def add_network(entry: Entry, sites: Register[str], networks: Register[NetworkDraft]) -> None:
    """Read one entry of `networks`."""
    name = entry.text("name", pattern=IDENTIFIER)
    site = sites.find(entry, "site", entry.text("site", pattern=IDENTIFIER)) or ""
    entry.text("description", required=False)
    subnets: list[Subnet] = []
    gateways: list[str] = []
    unread: set[Family] = set()
    for family in Family:
        before = len(entry.notes.mistakes)
        below = entry.entry(family.field, _NETWORK_FAMILY_KEYS)
        if below is not None:
            here = _subnets(below, family)
            subnets += here
            gateways += _gateways(below, family, here)
        if len(entry.notes.mistakes) > before:
            unread.add(family)
    before = len(entry.notes.mistakes)
    isolated = entry.boolean("isolated", default=False)
    network = Network(name, site, tuple(subnets), tuple(gateways), isolated)
    readable = len(entry.notes.mistakes) == before
    draft = NetworkDraft(network, frozenset(unread), isolated if readable else None)
    networks.add(entry, "name", name, draft)


def _subnets(entry: Entry, family: Family) -> list[Subnet]:
    found: list[Subnet] = []
    for line, text in entry.texts("subnets", required=True, expected=f"a list of {family} subnets"):
        address, slash, prefix = text.partition("/")
        if not slash or not prefix.isascii() or not prefix.isdigit():
            entry.mistake("subnets", f"{text!r} is not a subnet; expected address/prefix", line=line)
            continue
        try:
            canonical_address(family, address)
            subnet = ip_network(text, strict=False)
        except ConfigError as error:
            entry.mistake("subnets", str(error), line=line)
            continue
        except ValueError:
            entry.mistake("subnets", f"{text!r} has a prefix that is not from 0 to {family.bits}", line=line)
            continue
        if subnet.network_address != ip_address(address):
            entry.mistake("subnets", f"{text!r} is an address in a subnet; the subnet is {subnet}", line=line)
        if any(_overlap(subnet, other) for other in found):
            entry.mistake("subnets", f"{text!r} overlaps another subnet of this network", line=line)
        found.append(subnet)
    return found


def _overlap(one: Subnet, other: Subnet) -> bool:
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one.overlaps(other)
    return isinstance(one, IPv6Network) and isinstance(other, IPv6Network) and one.overlaps(other)


def _gateways(entry: Entry, family: Family, subnets: Sequence[Subnet]) -> list[str]:
    found: list[str] = []
    for line, text in entry.texts("gateways", expected="a list of addresses"):
        try:
            canonical = canonical_address(family, text)
        except ConfigError as error:
            entry.mistake("gateways", str(error), line=line)
            continue
        gateway = ip_address(canonical)
        on_link = isinstance(gateway, IPv6Address) and gateway.is_link_local
        if subnets and not on_link and not any(gateway in subnet for subnet in subnets):
            within = ", ".join(map(str, subnets))
            entry.mistake("gateways", f"{text} is outside this network's subnets ({within})", line=line)
        found.append(canonical)
    return found


def add_cluster(
    entry: Entry,
    sites: Register[str],
    brokers: Register[str],
    clusters: Register[ClusterDraft],
    nodes: Register[NodeDraft],
) -> None:
    """Read one entry of `clusters`, with its nodes."""
    name = entry.text("name", pattern=IDENTIFIER)
    site = sites.find(entry, "site", entry.text("site", pattern=IDENTIFIER)) or ""
    broker = entry.text("broker", pattern=_NETBIOS)
    brokers.add(entry, "broker", broker, name)
    shared = _storages(entry, shared=True, beside=())
    drafts: list[NodeDraft] = []
    node_entries = entry.entries("nodes", "name", _NODE_KEYS, required=True)
    if not node_entries:
        nodes.complete = False
    for below in node_entries:
        node = _node(below, name, site, shared)
        nodes.add(below, "name", node.name, node)
        drafts.append(node)
    draft = ClusterDraft(
        name=name,
        site=site,
        broker=broker,
        accepts_replicas=entry.boolean("accepts_replicas", default=True),
        supported_guests=_guests(entry),
        fences=tuple(text for _, text in entry.texts("fences", pattern=_FENCE)),
        nodes=tuple(drafts),
        replication=read_replication(entry, name),
        entry=entry,
    )
    clusters.add(entry, "name", name, draft)


def _guests(entry: Entry) -> tuple[str, ...]:
    found: list[str] = []
    for line, text in entry.texts("supported_guests", pattern=_GUEST):
        identifier = text.lower()
        if identifier in SUPPORTED_GUESTS:
            entry.notes.warning(line, f"{entry.where}.supported_guests", f"{text!r} is on the built-in list already")
        found.append(identifier)
    return tuple(dict.fromkeys(found))


def _node(entry: Entry, cluster: str, site: str, shared: tuple[StorageDraft, ...]) -> NodeDraft:
    memory = memory_mib(entry, "memory")
    free: int | None = None
    if entry.has("memory_free_mib") or entry.has("memory_free_gib"):
        free = memory_mib(entry, "memory_free")
        if memory and free > memory:
            key = "memory_free_mib" if entry.has("memory_free_mib") else "memory_free_gib"
            entry.mistake(key, f"is more than the node's memory of {memory} MiB")
    return NodeDraft(
        name=entry.text("name", pattern=IDENTIFIER),
        cluster=cluster,
        site=site,
        state=entry.choice("state", NodeState, NodeState.UP),
        memory_mib=memory,
        memory_free_mib=free,
        cpus=entry.integer("cpus", 1, _MAX_CPUS, default=0),
        storages=shared + _storages(entry, shared=False, beside=shared),
        entry=entry,
    )


def memory_mib(entry: Entry, name: str) -> int:
    """A size that is given as `<name>_mib` or `<name>_gib`: required, and one of the two."""
    mib, gib = f"{name}_mib", f"{name}_gib"
    if entry.has(mib) and entry.has(gib):
        entry.mistake(gib, f"is given beside {mib}; keep one of them")
        return 0
    if entry.has(gib):
        return entry.integer(gib, 0, _MAX_GIB) * MIB_IN_GIB
    if entry.has(mib):
        return entry.integer(mib, 0, _MAX_GIB * MIB_IN_GIB)
    if not entry.broken:
        entry.mistake(gib, f"is missing; expected {gib} or {mib}, a whole number", line=entry.line)
    return 0


def _storages(entry: Entry, *, shared: bool, beside: Sequence[StorageDraft]) -> tuple[StorageDraft, ...]:
    found: list[StorageDraft] = []
    for below in entry.entries("storages", "path", _STORAGE_KEYS):
        path = below.text("path")
        capacity = below.integer("capacity_gib", 1, _MAX_GIB)
        free = below.integer("free_gib", 0, _MAX_GIB) if below.has("free_gib") else None
        if free is not None and free > capacity > 1:
            below.mistake("free_gib", f"is more than the capacity of {capacity} GiB")
        same = next((storage for storage in (*beside, *found) if storage.path == path), None)
        if same is not None and path:
            below.mistake("path", f"{path!r} is taken: line {same.entry.line} has a storage with this path already")
            continue
        found.append(StorageDraft(path, capacity, free, shared, below))
    return tuple(found)
