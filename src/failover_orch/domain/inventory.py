"""What exists: VMs with their adapters and guests, and clusters with their nodes.

Site agents and topology files report these; they are observations, kept as last reported.
Sizes are MiB for memory and GiB for storage. Times are milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from failover_orch.domain.replication import ReplicationState

__all__ = [
    "Adapter",
    "AdapterKind",
    "ClusterInventory",
    "Guest",
    "IntegrationServices",
    "Node",
    "NodeState",
    "Replication",
    "Storage",
    "VmInventory",
]


class AdapterKind(StrEnum):
    """Synthetic adapters can be given a failover address; legacy (emulated) ones cannot."""

    SYNTHETIC = "SYNTHETIC"
    LEGACY = "LEGACY"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A VM's network adapter. `addresses` are the primary's, each as `address/prefix`."""

    adapter_id: str
    kind: AdapterKind
    mac: str
    network: str
    addresses: tuple[str, ...] = ()


class IntegrationServices(StrEnum):
    """State of the guest's integration services (Hyper-V) or guest agent (libvirt)."""

    RUNNING = "RUNNING"
    OUTDATED = "OUTDATED"
    ABSENT = "ABSENT"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Guest:
    """The guest's system, as an identifier of the supported list (see `guests`), and its integration services."""

    system: str
    integration_services: IntegrationServices = IntegrationServices.UNKNOWN


@dataclass(frozen=True, slots=True)
class Replication:
    """A VM's replication relationship, as its primary reports it."""

    state: ReplicationState
    primary_site: str
    replica_site: str
    primary_cluster: str = ""
    replica_cluster: str = ""
    frequency_s: int = 300


@dataclass(frozen=True, slots=True)
class VmInventory:
    """A VM as the site where it is active reports it."""

    vm_id: str
    name: str
    adapters: tuple[Adapter, ...]
    guest: Guest
    replication: Replication
    memory_mib: int = 0
    cpus: int = 0
    storage_gib: int = 0
    application: str = ""
    anti_affinity: str = ""
    """VMs that share a non-empty group are kept on different nodes where possible."""
    reported_at_ms: int = 0


class NodeState(StrEnum):
    """A cluster node's state. Only an UP node receives replicas; PAUSED is draining for maintenance."""

    UP = "UP"
    PAUSED = "PAUSED"
    DOWN = "DOWN"


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage location on a node (a cluster shared volume, an SMB share, a directory)."""

    path: str
    capacity_gib: int
    free_gib: int


@dataclass(frozen=True, slots=True)
class Node:
    """A cluster node and what it has left."""

    name: str
    state: NodeState
    memory_mib: int
    memory_free_mib: int
    cpus: int = 0
    storages: tuple[Storage, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterInventory:
    """A failover cluster and its nodes. `broker` is the replica broker's client access point."""

    cluster: str
    site: str
    broker: str
    nodes: tuple[Node, ...]
    networks: tuple[str, ...] = ()
    accepts_replicas: bool = True
    """False where the cluster is not enabled as a replica server: reversing replication towards it is impossible."""
    supported_guests: tuple[str, ...] = ()
    """Guests supported here beyond the built-in list."""
    reported_at_ms: int = 0
    fences: tuple[str, ...] = ()
    """Whose power its site agents can cut: other sites' nodes as `site/node`, or a whole `site`."""
