"""IP plans and recovery plans of a topology file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_interface

from failover_orch.domain.addresses import (
    Family,
    canonical_address,
    canonical_interface,
    conflicts,
    prefix_of_mask,
    settings_findings,
)
from failover_orch.domain.replication import ReplicationState
from failover_orch.domain.settings import (
    AdapterAddresses,
    FamilyAddresses,
    RecoveryGroup,
    RecoveryPlan,
    UnsetAdapters,
    VmReplicationSettings,
)
from failover_orch.errors import ConfigError
from failover_orch.topology.infrastructure import NetworkDraft
from failover_orch.topology.machines import House, outside
from failover_orch.topology.reading import IDENTIFIER, Entry, Notes, Register

__all__ = ["IP_PLAN_KEYS", "PLAN_KEYS", "Plans", "add_ip_plan", "add_recovery_plan", "check_conflicts"]

IP_PLAN_KEYS = ("vm", "unset_adapters", "adapters")
_ADAPTER_KEYS = ("id", "network", "ipv4", "ipv6")
_FAMILY_KEYS = ("dhcp", "addresses", "prefix", "mask", "gateways", "dns")
PLAN_KEYS = ("id", "name", "groups")
_GROUP_KEYS = ("name", "vms")
_ADAPTER_EXISTS = "A2"
_UNREAD = -1


@dataclass(frozen=True, slots=True)
class Plans:
    """The plans read so far."""

    ip_plans: Register[VmReplicationSettings]
    recovery_plans: Register[RecoveryPlan]
    adapter_entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    """Where the file sets an adapter, by vm_id and adapter_id."""


def add_ip_plan(entry: Entry, house: House, plans: Plans) -> None:
    """Read one entry of `ip_plans`: a VM's failover TCP/IP settings.

    The rules of the domain that say whether settings may be made (A1 to A11) decide here too. Those that say whether a
    failover may start do not: a VM that could not fail over today is legal in a file.
    """
    vm_id = entry.text("vm", pattern=IDENTIFIER)
    policy = entry.choice("unset_adapters", UnsetAdapters, UnsetAdapters.REFUSE)
    draft = house.vms.find(entry, "vm", vm_id)
    vm = draft.vm.inventory if draft else None
    site = vm.replication.replica_site if vm else ""
    adapters: list[AdapterAddresses] = []
    entries: dict[str, Entry] = {}
    for below in entry.entries("adapters", "id", _ADAPTER_KEYS):
        adapter = _adapter(below, house, vm_id, site)
        if adapter.adapter_id:
            adapters.append(adapter)
            entries[adapter.adapter_id] = below
            plans.adapter_entries.setdefault((vm_id, adapter.adapter_id), below)
    settings = VmReplicationSettings(vm_id, tuple(adapters), policy)
    plans.ip_plans.add(entry, "vm", vm_id, settings)
    if vm is None or draft is None:
        return
    for finding in settings_findings(vm, settings):
        if finding.rule == _ADAPTER_EXISTS and not draft.adapters_complete:
            continue
        line, where = entries.get(finding.adapter_id, entry).locate(finding.field)
        entry.notes.mistake(line, where, f"{finding.message} ({finding.rule})")


def _adapter(entry: Entry, house: House, vm_id: str, site: str) -> AdapterAddresses:
    adapter_id = entry.text("id")
    network_name = entry.text("network", pattern=IDENTIFIER)
    network = house.networks.find(entry, "network", network_name)
    there = network.network.site if network else ""
    if site and there and there != site:
        entry.mistake("network", f"{network_name} is a network of site {there}; the VM fails over to {site}")
        network = None
    return AdapterAddresses(
        adapter_id=adapter_id,
        ipv4=_family(entry, Family.IPV4, house, vm_id, network),
        ipv6=_family(entry, Family.IPV6, house, vm_id, network),
    )


def _family(
    above: Entry, family: Family, house: House, vm_id: str, network: NetworkDraft | None
) -> FamilyAddresses | None:
    """One family of an adapter; None if any of it could not be read, since rules would find what follows from that."""
    entry = above.entry(family.field, _FAMILY_KEYS)
    if entry is None:
        return None
    before = len(entry.notes.mistakes)
    dhcp = entry.boolean("dhcp", default=False)
    gateways = _canonical(entry, "gateways", lambda text: canonical_address(family, text))
    dns = _canonical(entry, "dns", lambda text: canonical_address(family, text))
    prefix = _prefix(entry, family)
    if prefix == _UNREAD:
        return None
    addresses = _canonical(entry, "addresses", lambda text: canonical_interface(family, text, prefix=prefix))
    if len(entry.notes.mistakes) > before:
        return None
    for line, address in addresses:
        _check_place(entry, line, address, family, network)
        _check_taken(entry, line, address, house, vm_id)
    return FamilyAddresses(
        dhcp=dhcp,
        addresses=tuple(address for _, address in addresses),
        gateways=tuple(gateway for _, gateway in gateways),
        dns=tuple(server for _, server in dns),
    )


def _prefix(entry: Entry, family: Family) -> int | None:
    """The prefix that serves all addresses of a family, given as `prefix` or, for IPv4, as `mask`; _UNREAD if wrong."""
    before = len(entry.notes.mistakes)
    prefix: int | None = None
    if entry.has("prefix") and entry.has("mask"):
        entry.mistake("mask", "is given beside prefix; keep one of them")
    elif entry.has("prefix"):
        prefix = entry.integer("prefix", 1, family.bits)
    elif entry.has("mask") and family is Family.IPV6:
        entry.mistake("mask", "is for IPv4; give IPv6 addresses a prefix")
    elif entry.has("mask") and (mask := entry.text("mask")):
        try:
            prefix = prefix_of_mask(mask)
        except ConfigError as error:
            entry.mistake("mask", str(error))
    return prefix if len(entry.notes.mistakes) == before else _UNREAD


def _canonical(entry: Entry, key: str, canonical: Callable[[str], str]) -> list[tuple[int, str]]:
    """A list of addresses in canonical form, each with its line."""
    found: list[tuple[int, str]] = []
    for line, text in entry.texts(key, expected="a list of addresses"):
        try:
            found.append((line, canonical(text)))
        except ConfigError as error:
            entry.mistake(key, str(error), line=line)
    return found


def _check_place(entry: Entry, line: int, address: str, family: Family, network: NetworkDraft | None) -> None:
    interface = ip_interface(address)
    if network is None or interface.ip.is_link_local:
        return
    problem = outside(address, family, network)
    if problem:
        entry.mistake("addresses", problem, line=line)
        return
    subnet = next((subnet for subnet in network.network.subnets_of(family) if interface.ip in subnet), None)
    if subnet is not None and subnet.prefixlen != interface.network.prefixlen:
        name = network.network.name
        entry.warning("addresses", f"{address} has another prefix than its subnet {subnet} of network {name}")


def _check_taken(entry: Entry, line: int, address: str, house: House, vm_id: str) -> None:
    """A VM may keep its own address (a network stretched over both sites), but not take another's."""
    ip = str(ip_interface(address).ip)
    holder = house.addresses.get(ip)
    if holder is not None and holder.vm_id != vm_id:
        message = f"{ip} is taken: line {holder.line} gives it to {holder.vm_id} ({holder.adapter_id})"
        entry.mistake("addresses", message, line=line)


def check_conflicts(plans: Plans, notes: Notes) -> None:
    """Note the failover addresses that several VMs are to have, at every VM but the first."""
    for conflict in conflicts(plans.ip_plans.items.values()):
        family = Family.IPV6 if ":" in conflict.address else Family.IPV4
        places = sorted(
            plans.adapter_entries[holder].locate(f"{family.field}.addresses") for holder in conflict.holders
        )
        for line, where in places[1:]:
            notes.mistake(line, where, f"{conflict.message} ({conflict.rule}; first in line {places[0][0]})")


def add_recovery_plan(entry: Entry, house: House, plans: Plans) -> None:
    """Read one entry of `recovery_plans`."""
    plan_id = entry.text("id", pattern=IDENTIFIER)
    name = entry.text("name", required=False) or plan_id
    group_of: dict[str, str] = {}
    groups: Register[RecoveryGroup] = Register("group")
    for below in entry.entries("groups", "name", _GROUP_KEYS, required=True):
        group = below.text("name")
        vm_ids: list[str] = []
        for line, vm_id in below.texts("vms", required=True, expected="a list of VM ids", pattern=IDENTIFIER):
            draft = house.vms.find(below, "vms", vm_id, line=line)
            if vm_id in group_of:
                below.mistake(
                    "vms", f"{vm_id} is in group {group_of[vm_id]!r} already; a plan has a VM once", line=line
                )
                continue
            if draft is not None and draft.vm.inventory.replication.state is ReplicationState.DISABLED:
                below.mistake(
                    "vms", f"{vm_id} is not replicated, so it cannot fail over; give it a replication", line=line
                )
            group_of[vm_id] = group
            vm_ids.append(vm_id)
        groups.add(below, "name", group, RecoveryGroup(group, tuple(vm_ids)))
    plan = RecoveryPlan(plan_id, name, tuple(groups.items.values()))
    plans.recovery_plans.add(entry, "id", plan_id, plan)
