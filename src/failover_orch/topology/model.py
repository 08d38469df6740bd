"""What a topology file says, as values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce
from ipaddress import IPv4Network, IPv6Network

from failover_orch.domain.addresses import Family, Finding, failover_findings
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.policies import Policy
from failover_orch.domain.replication_settings import SettingsChange
from failover_orch.domain.settings import RecoveryPlan, VmReplicationSettings
from failover_orch.errors import Mistake

__all__ = ["Network", "Subnet", "Topology", "TopologyVm", "extra_guests"]

Subnet = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Network:
    """A network at a site. Gateways are canonical addresses. An `isolated` one is for test copies alone."""

    name: str
    site: str
    subnets: tuple[Subnet, ...] = ()
    gateways: tuple[str, ...] = ()
    isolated: bool = False

    def subnets_of(self, family: Family) -> tuple[Subnet, ...]:
        """The subnets of one family."""
        return tuple(subnet for subnet in self.subnets if subnet.max_prefixlen == family.bits)


@dataclass(frozen=True, slots=True)
class TopologyVm:
    """A VM and where it is. `replica_node` and `replica_storage` are empty where placement is to choose them."""

    inventory: VmInventory
    primary_node: str
    primary_storage: str
    replica_node: str = ""
    replica_storage: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole file. Times (`reported_at_ms`, `set_at_ms`, `requested_at_ms`), actors and reasons are for whoever
    publishes to fill in.

    `warnings` name what is legal and yet likely not meant, with its line.
    """

    sites: tuple[str, ...]
    networks: tuple[Network, ...]
    clusters: tuple[ClusterInventory, ...]
    vms: tuple[TopologyVm, ...]
    settings: tuple[VmReplicationSettings, ...]
    plans: tuple[RecoveryPlan, ...]
    policies: tuple[Policy, ...] = ()
    replication: tuple[SettingsChange, ...] = ()
    """What the nodes of clusters are to accept: what a cluster's `replication` says, the rest staying as it is."""
    warnings: tuple[Mistake, ...] = ()

    def settings_of(self, vm_id: str) -> VmReplicationSettings | None:
        """A VM's IP plan, if the file has one."""
        return next((settings for settings in self.settings if settings.vm_id == vm_id), None)

    def failover_findings(self, vm: TopologyVm) -> tuple[Finding, ...]:
        """Why a failover of this VM would be refused before it starts, as things stand in the file."""
        inventory = vm.inventory
        return failover_findings(inventory, self.settings_of(inventory.vm_id), extra_guests(inventory, self.clusters))


def extra_guests(vm: VmInventory, clusters: Collection[ClusterInventory]) -> frozenset[str]:
    """Guests supported beyond the built-in list wherever the VM's replica may be placed."""
    replication = vm.replication
    possible = [
        frozenset(cluster.supported_guests)
        for cluster in clusters
        if cluster.site == replication.replica_site
        and cluster.accepts_replicas
        and replication.replica_cluster in ("", cluster.cluster)
    ]
    return reduce(frozenset.intersection, possible) if possible else frozenset()
