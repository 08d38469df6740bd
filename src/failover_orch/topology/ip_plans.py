"""IP plans of a topology file: the addresses of VMs after a failover, after a failback, and in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

from failover_orch.domain.addresses import (
    Family,
    canonical_address,
    canonical_interface,
    conflicts,
    prefix_of_mask,
    settings_findings,
)
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses, UnsetAdapters, VmReplicationSettings
from failover_orch.errors import ConfigError
from failover_orch.topology.infrastructure import NetworkDraft
from failover_orch.topology.machines import House, outside
from failover_orch.yaml_reading import IDENTIFIER, Entry, Notes, Register

__all__ = ["IP_PLAN_KEYS", "IpPlans", "add_ip_plan", "check_conflicts"]

IP_PLAN_KEYS = ("vm", "unset_adapters", "adapters", "home_adapters", "test_network", "test_adapters")
_ADAPTER_KEYS = ("id", "network", "ipv4", "ipv6")
_TEST_ADAPTER_KEYS = ("id", "ipv4", "ipv6")
_FAMILY_KEYS = ("dhcp", "addresses", "prefix", "mask", "gateways", "dns")
_ADAPTER_EXISTS = "A2"
_UNREAD = -1

_Adapters = tuple[AdapterAddresses, ...]

_LISTS: Mapping[str, Callable[[VmReplicationSettings], _Adapters]] = {
    "adapters": lambda settings: settings.adapters,
    "home_adapters": lambda settings: settings.home_adapters,
    "test_adapters": lambda settings: settings.test_adapters,
}
"""The lists of adapters that a plan has, by key. Each is judged by itself."""


@dataclass(frozen=True, slots=True)
class IpPlans:
    """The IP plans read so far."""

    settings: Register[VmReplicationSettings]
    entries: dict[tuple[str, str, str], Entry] = field(default_factory=dict)
    """Where the file sets an adapter first, by the list's key, vm_id and adapter_id."""


def add_ip_plan(entry: Entry, house: House, plans: IpPlans) -> None:
    """Read one entry of `ip_plans`: a VM's failover TCP/IP settings.

    The rules of the domain that say whether settings may be made (A1 to A11) decide here too. Those that say whether a
    failover may start do not: a VM that could not fail over today is legal in a file.
    """
    vm_id = entry.text("vm", pattern=IDENTIFIER)
    policy = entry.choice("unset_adapters", UnsetAdapters, UnsetAdapters.REFUSE)
    draft = house.vms.find(entry, "vm", vm_id)
    replication = draft.vm.inventory.replication if draft else None
    away, home = (replication.replica_site, replication.primary_site) if replication else ("", "")
    test_network, isolated = _test_network(entry, house, away)

    def placed(below: Entry, site: str, why: str) -> AdapterAddresses:
        network = _network(below, house, site, why)
        return _adapter(below, network, lambda entry, line, address: _check_taken(entry, line, address, house, vm_id))

    read = {
        "adapters": _read(entry, "adapters", lambda below: placed(below, away, "the VM fails over to")),
        "home_adapters": _read(entry, "home_adapters", lambda below: placed(below, home, "the VM's home is")),
        # On an isolated network any address is free, that of a VM which runs elsewhere above all.
        "test_adapters": _read(entry, "test_adapters", lambda below: _adapter(below, isolated, lambda *_: None)),
    }
    lists = {key: tuple(adapter for adapter, _ in found) for key, found in read.items()}
    if lists["test_adapters"] and not entry.has("test_network"):
        entry.warning("test_adapters", "are given without a test_network, so a test copy is connected to no network")
    settings = VmReplicationSettings(
        vm_id,
        lists["adapters"],
        policy,
        home_adapters=lists["home_adapters"],
        test_adapters=lists["test_adapters"],
        test_network=test_network,
    )
    plans.settings.add(entry, "vm", vm_id, settings)
    for key, found in read.items():
        for adapter, below in found:
            plans.entries.setdefault((key, vm_id, adapter.adapter_id), below)
    if draft is None:
        return
    for key, adapters in lists.items():
        entries = {adapter.adapter_id: below for adapter, below in read[key]}
        for finding in settings_findings(draft.vm.inventory, replace(settings, adapters=adapters)):
            if finding.rule == _ADAPTER_EXISTS and not draft.adapters_complete:
                continue
            line, where = entries.get(finding.adapter_id, entry).locate(finding.field)
            entry.notes.mistake(line, where, f"{finding.message} ({finding.rule})")


def _read(
    entry: Entry, key: str, adapter_of: Callable[[Entry], AdapterAddresses]
) -> list[tuple[AdapterAddresses, Entry]]:
    """A list of adapters, each with its entry; those without a readable id are left out."""
    keys = _TEST_ADAPTER_KEYS if key == "test_adapters" else _ADAPTER_KEYS
    found = [(adapter_of(below), below) for below in entry.entries(key, "id", keys)]
    return [(adapter, below) for adapter, below in found if adapter.adapter_id]


def _test_network(entry: Entry, house: House, site: str) -> tuple[str, NetworkDraft | None]:
    """The name of the network of a test copy, and what says which addresses belong there, if anything does."""
    name = entry.text("test_network", required=False, pattern=IDENTIFIER)
    draft = house.networks.find(entry, "test_network", name)
    if draft is None:
        return name, None
    network = draft.network
    if draft.isolated is False:
        entry.mistake(
            "test_network",
            f"{name} is not isolated, and a test copy would meet the VM that it is a copy of; "
            "name a network that has isolated: true",
        )
        return name, None
    if site and network.site and network.site != site:
        entry.mistake("test_network", f"{name} is a network of site {network.site}; the VM's replica is at {site}")
        return name, None
    return name, draft if network.subnets or draft.unread else None


def _network(entry: Entry, house: House, site: str, why: str) -> NetworkDraft | None:
    name = entry.text("network", pattern=IDENTIFIER)
    draft = house.networks.find(entry, "network", name)
    there = draft.network.site if draft else ""
    if site and there and there != site:
        entry.mistake("network", f"{name} is a network of site {there}; {why} {site}")
        return None
    if draft and draft.isolated:
        entry.mistake("network", f"{name} is isolated, so only test copies may be connected to it")
        return None
    return draft


_CheckTaken = Callable[[Entry, int, str], None]
"""Notes that an address is another VM's: the entry of the family, the line, the address."""


def _adapter(entry: Entry, network: NetworkDraft | None, check_taken: _CheckTaken) -> AdapterAddresses:
    return AdapterAddresses(
        adapter_id=entry.text("id"),
        ipv4=_family(entry, Family.IPV4, network, check_taken),
        ipv6=_family(entry, Family.IPV6, network, check_taken),
    )


def _family(
    above: Entry, family: Family, network: NetworkDraft | None, check_taken: _CheckTaken
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
        check_taken(entry, line, address)
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


def check_conflicts(plans: IpPlans, notes: Notes) -> None:
    """Note the addresses that several VMs are to have, at every VM but the first.

    Home addresses are compared with each other, and test addresses with those on the same isolated network.
    """
    every = plans.settings.items.values()
    networks = dict.fromkeys(settings.test_network for settings in every if settings.test_network)
    _note_conflicts("adapters", every, plans, notes)
    _note_conflicts("home_adapters", every, plans, notes)
    for network in networks:
        _note_conflicts("test_adapters", [each for each in every if each.test_network == network], plans, notes)


def _note_conflicts(key: str, every: Iterable[VmReplicationSettings], plans: IpPlans, notes: Notes) -> None:
    for conflict in conflicts(replace(settings, adapters=_LISTS[key](settings)) for settings in every):
        family = Family.IPV6 if ":" in conflict.address else Family.IPV4
        places = sorted(plans.entries[key, *holder].locate(f"{family.field}.addresses") for holder in conflict.holders)
        for line, where in places[1:]:
            notes.mistake(line, where, f"{conflict.message} ({conflict.rule}; first in line {places[0][0]})")
