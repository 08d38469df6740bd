"""Loading a topology file: its sections are read in the order in which they refer to each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from failover_orch.domain.policies import Policy
from failover_orch.domain.settings import RecoveryPlan
from failover_orch.errors import Mistake, TopologyError
from failover_orch.topology.capacity import clusters_of, warn_of_capacity
from failover_orch.topology.infrastructure import (
    CLUSTER_KEYS,
    NETWORK_KEYS,
    SITE_KEYS,
    add_cluster,
    add_network,
    add_site,
)
from failover_orch.topology.ip_plans import IP_PLAN_KEYS, IpPlans, add_ip_plan, check_conflicts
from failover_orch.topology.machines import VM_KEYS, House, add_vm
from failover_orch.topology.model import Topology
from failover_orch.topology.policies import POLICY_KEYS, add_policy
from failover_orch.topology.recovery_plans import PLAN_KEYS, add_recovery_plan
from failover_orch.topology.replication import check_replication
from failover_orch.yaml_reading import Entry, Notes, Register, read_file

__all__ = ["load"]

_SECTIONS = {
    "sites": ("name", SITE_KEYS),
    "networks": ("name", NETWORK_KEYS),
    "clusters": ("name", CLUSTER_KEYS),
    "vms": ("id", VM_KEYS),
    "ip_plans": ("vm", IP_PLAN_KEYS),
    "recovery_plans": ("id", PLAN_KEYS),
    "policies": ("target", POLICY_KEYS),
}
"""Each section with the key that an entry is called by, and the keys of an entry."""

_REQUIRED = ("sites", "clusters")

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class _Declared:
    """All that a file says: what there is, and what is wanted."""

    house: House
    ip_plans: IpPlans
    recovery_plans: Register[RecoveryPlan]
    policies: Register[Policy]


def load(path: str | Path) -> Topology:
    """Read a topology file.

    Raises:
        TopologyError: the file cannot be read or has mistakes; every one of them is listed.

    """
    expected = "sites, clusters, networks and vms"
    return read_file(path, keys=_SECTIONS, expected=expected, make=_read, error=TopologyError)


def _read(root: Entry, notes: Notes) -> Topology | None:
    declared = _declared(root)
    house = declared.house
    if notes.mistakes:
        return None
    clusters = clusters_of(house)
    warn_of_capacity(house, clusters)
    replication = [draft.replication for draft in house.clusters.items.values() if draft.replication is not None]
    check_replication(replication, clusters)
    return Topology(
        sites=tuple(house.sites.items),
        networks=tuple(draft.network for draft in house.networks.items.values()),
        clusters=clusters,
        vms=tuple(draft.vm for draft in house.vms.items.values()),
        settings=tuple(declared.ip_plans.settings.items.values()),
        plans=tuple(declared.recovery_plans.items.values()),
        policies=tuple(declared.policies.items.values()),
        replication=tuple(draft.change for draft in replication),
        warnings=tuple(sorted(set[Mistake](notes.warnings))),
    )


def _declared(root: Entry) -> _Declared:
    sections = _Sections(root)
    house = House(
        sites=sections.register("sites", "site"),
        networks=sections.register("networks", "network"),
        brokers=Register("broker"),
        clusters=sections.register("clusters", "cluster"),
        nodes=sections.register("clusters", "node"),
        vms=sections.register("vms", "VM"),
    )
    declared = _Declared(
        house=house,
        ip_plans=IpPlans(sections.register("ip_plans", "IP plan")),
        recovery_plans=sections.register("recovery_plans", "recovery plan"),
        policies=sections.register("policies", "policy"),
    )
    for entry in sections.entries["sites"]:
        add_site(entry, house.sites)
    for entry in sections.entries["networks"]:
        add_network(entry, house.sites, house.networks)
    for entry in sections.entries["clusters"]:
        add_cluster(entry, house.sites, house.brokers, house.clusters, house.nodes)
    for entry in sections.entries["vms"]:
        add_vm(entry, house)
    for entry in sections.entries["ip_plans"]:
        add_ip_plan(entry, house, declared.ip_plans)
    check_conflicts(declared.ip_plans, root.notes)
    for entry in sections.entries["recovery_plans"]:
        add_recovery_plan(entry, house, declared.recovery_plans)
    for entry in sections.entries["policies"]:
        add_policy(entry, house, declared.recovery_plans, declared.policies)
    return declared


class _Sections:
    """The sections of a file, and which of them could be read whole."""

    def __init__(self, root: Entry) -> None:
        # A key that is no section may be a section misspelt, and of a section given twice only the first is read: what
        # they would have declared is not held against those who refer to it.
        wrong = {mistake.field for mistake in root.notes.mistakes}
        self.entries = {
            name: root.entries(name, label, keys, required=name in _REQUIRED)
            for name, (label, keys) in _SECTIONS.items()
        }
        self._complete = {
            name: bool(entries) and name not in wrong if root.has(name) else not wrong
            for name, entries in self.entries.items()
        }

    def register(self, section: str, kind: str) -> Register[_Item]:
        """An empty register for what a section declares."""
        return Register(kind, complete=self._complete[section])
