"""Failover TCP/IP: which addresses may be set for a VM's adapters, and what refuses a failover before it starts.

The rules are numbered; `RULES` is the table. A1 to A11 say which settings may be made at all, A12 to A17 what else
must hold when a failover is to start, A18 what must hold between VMs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
)

from failover_orch.domain.guests import supported
from failover_orch.domain.inventory import Adapter, AdapterKind, VmInventory
from failover_orch.domain.replication import ReplicationState
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses, UnsetAdapters, VmReplicationSettings
from failover_orch.errors import ConfigError

__all__ = [
    "MAX_GATEWAYS",
    "RULES",
    "Conflict",
    "Family",
    "Finding",
    "Rule",
    "canonical_address",
    "canonical_interface",
    "conflicts",
    "failover_findings",
    "gaps",
    "kept_adapters",
    "mask_of_prefix",
    "parse_family",
    "prefix_of_mask",
    "settings_findings",
]

MAX_GATEWAYS = 5
"""Gateways an adapter can have in one family (Msvm_FailoverNetworkAdapterSettingData.DefaultGateways)."""

_Address = IPv4Address | IPv6Address
_Interface = IPv4Interface | IPv6Interface

_THIS_NETWORK = 0
_CLASS_E = 240
_BITS_WITH_NETWORK_ADDRESS = 2
"""With fewer host bits (/31, /127 and longer) no address is left for the network itself (RFC 3021, RFC 6164)."""


class Family(StrEnum):
    """An address family, by the name that messages use."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"

    @property
    def bits(self) -> int:
        """Length of an address."""
        return 32 if self is Family.IPV4 else 128

    @property
    def field(self) -> str:
        """The name of this family in AdapterAddresses and in topology files."""
        return self.value.lower()

    @property
    def other(self) -> Family:
        return Family.IPV6 if self is Family.IPV4 else Family.IPV4

    @property
    def example(self) -> str:
        return "10.20.0.11/24" if self is Family.IPV4 else "2001:db8:20::11/64"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule objects to. `message` is one sentence naming the adapter and the reason.

    `adapter_id` is empty where the whole VM is meant. `field` says where in the adapter's settings: `ipv4.gateways`.
    """

    rule: str
    adapter_id: str
    message: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Rule A18: one failover address in the settings of several VMs. `holders` are (vm_id, adapter_id), sorted."""

    address: str
    holders: tuple[tuple[str, str], ...]
    rule: str = "A18"

    @property
    def message(self) -> str:
        named = " and ".join(f"{vm_id} (adapter {adapter_id})" for vm_id, adapter_id in self.holders)
        return f"{self.address} is the failover address of {named}; give each VM its own"


def prefix_of_mask(mask: str) -> int:
    """`255.255.255.0` is 24.

    Raises:
        ConfigError: not an IPv4 mask of ones followed by zeros.

    """
    try:
        zeros = ~int(IPv4Address(mask)) & 0xFFFF_FFFF
    except ValueError:
        raise ConfigError(f"{mask!r} is not an IPv4 mask; expected one such as 255.255.255.0") from None
    if zeros & (zeros + 1):
        raise ConfigError(
            f"{mask!r} is not an IPv4 mask: its ones are not all in front; expected one such as 255.255.255.0"
        )
    return 32 - zeros.bit_length()


def mask_of_prefix(prefix: int) -> str:
    """24 is `255.255.255.0`.

    Raises:
        ConfigError: not from 0 to 32.

    """
    if not 0 <= prefix <= Family.IPV4.bits:
        raise ConfigError(f"{prefix} is not an IPv4 prefix length; expected a number from 0 to 32")
    return str(IPv4Address((0xFFFF_FFFF << (32 - prefix)) & 0xFFFF_FFFF))


def canonical_address(family: Family, text: str) -> str:
    """An address without prefix in canonical form: IPv6 compressed, lower case.

    Raises:
        ConfigError: not an address, or one of the other family.

    """
    return str(_address(family, text))


def canonical_interface(family: Family, text: str, *, prefix: int | None = None, mask: str = "") -> str:
    """`address/prefix` in canonical form, from `address/prefix`, `address/mask` or an address beside one of the two.

    Raises:
        ConfigError: not an address of the family, or its prefix is missing, given twice or out of range.

    """
    address, slash, length = text.partition("/")
    stated = [value for value in (length if slash else None, prefix, mask or None) if value is not None]
    if len(stated) > 1:
        raise ConfigError(f"{text!r} has its prefix or mask given twice; keep one")
    host = _address(family, address)
    if not stated:
        raise ConfigError(f"{text!r} has no prefix; write it as {family.example}")
    return f"{host}/{_prefix(family, str(stated[0]), text)}"


def parse_family(
    family: Family,
    addresses: Sequence[str] = (),
    *,
    dhcp: bool = False,
    prefix: int | None = None,
    mask: str = "",
    gateways: Sequence[str] = (),
    dns: Sequence[str] = (),
) -> FamilyAddresses:
    """What a person wrote for one family of one adapter, in canonical form. `prefix` or `mask` serve every address.

    Only the notation is judged here; whether it makes sense, `settings_findings` says.

    Raises:
        ConfigError: an address, prefix or mask that is none.

    """
    return FamilyAddresses(
        dhcp=dhcp,
        addresses=tuple(canonical_interface(family, text, prefix=prefix, mask=mask) for text in addresses),
        gateways=tuple(canonical_address(family, text) for text in gateways),
        dns=tuple(canonical_address(family, text) for text in dns),
    )


def settings_findings(vm: VmInventory, settings: VmReplicationSettings) -> tuple[Finding, ...]:
    """Why these failover TCP/IP settings may not be made for this VM (rules A1 to A11). Empty: they may."""
    return _found(_SETTINGS, _Case(vm, settings, ()))


def failover_findings(
    vm: VmInventory, settings: VmReplicationSettings | None, extra_guests: Collection[str] = ()
) -> tuple[Finding, ...]:
    """Why a failover of this VM is refused before it starts (rules A1 to A17). Empty: its addresses are in order.

    `settings` is None for a VM that never had any: its policy is then UnsetAdapters.REFUSE. `extra_guests` are the
    `supported_guests` of the cluster that holds the replica.
    """
    case = _Case(vm, settings, extra_guests)
    refused = gaps(vm, settings) if case.policy is UnsetAdapters.REFUSE else ()
    return _found(_SETTINGS, case) + _found(_GUEST, case) + refused


def gaps(vm: VmInventory, settings: VmReplicationSettings | None) -> tuple[Finding, ...]:
    """Where adapters would come up with the primary's configuration (rules A14 to A17), whatever the policy."""
    return _found(_GAPS, _Case(vm, settings, ()))


def kept_adapters(vm: VmInventory, settings: VmReplicationSettings | None) -> tuple[str, ...]:
    """The adapters that policy KEEP lets come up with the primary's configuration, in one family or in both."""
    if settings is None or settings.unset_adapters is not UnsetAdapters.KEEP:
        return ()
    return tuple(dict.fromkeys(gap.adapter_id for gap in gaps(vm, settings)))


def conflicts(settings: Iterable[VmReplicationSettings]) -> tuple[Conflict, ...]:
    """Failover addresses that several VMs are to have (rule A18), by address.

    Link-local addresses are left out: they need to be unique on their own link only.
    """
    holders: defaultdict[_Address, set[tuple[str, str]]] = defaultdict(set)
    for each in settings:
        for setting in _family_settings(each):
            for interface in setting.interfaces:
                if not interface.ip.is_link_local:
                    holders[interface.ip].add((each.vm_id, setting.adapter_id))
    shared = {address: held for address, held in holders.items() if len({vm_id for vm_id, _ in held}) > 1}
    return tuple(
        Conflict(str(address), tuple(sorted(held)))
        for address, held in sorted(shared.items(), key=lambda item: (item[0].version, int(item[0])))
    )


def _address(family: Family, text: str) -> _Address:
    try:
        address = ip_address(text)
    except ValueError:
        expected = family.example.partition("/")[0]
        raise ConfigError(f"{text!r} is not an {family} address; expected one such as {expected}") from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        # A scope names an interface of one machine; the replica's interfaces are others.
        raise ConfigError(f"{text!r} has a scope; leave out the part from the % on")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise ConfigError(f"{text!r} is an IPv4 address written as IPv6; write {address.ipv4_mapped}")
    if _family_of(address) is not family:
        raise ConfigError(f"{text!r} is an {family.other} address; expected an {family} address")
    return address


def _prefix(family: Family, length: str, text: str) -> int:
    if family is Family.IPV4 and "." in length:
        return prefix_of_mask(length)
    if (
        length.isascii()
        and length.isdigit()
        and len(length) <= len(str(family.bits))
        and 1 <= int(length) <= family.bits
    ):
        return int(length)
    raise ConfigError(f"{text!r} has the prefix {length!r}; expected a number from 1 to {family.bits}")


def _family_of(address: _Address) -> Family:
    return Family.IPV4 if isinstance(address, IPv4Address) else Family.IPV6


def _interface(family: Family, text: str) -> _Interface | None:
    """The address as a value, or None where rule A6 objects to it."""
    try:
        canonical = canonical_interface(family, text)
    except ConfigError:
        return None
    return IPv4Interface(canonical) if family is Family.IPV4 else IPv6Interface(canonical)


@dataclass(frozen=True, slots=True)
class _FamilySettings:
    """One family of one adapter, as set."""

    adapter_id: str
    family: Family
    set: FamilyAddresses

    @property
    def interfaces(self) -> tuple[_Interface, ...]:
        parsed = (_interface(self.family, text) for text in self.set.addresses)
        return tuple(interface for interface in parsed if interface is not None)


def _family_settings(settings: VmReplicationSettings) -> Iterator[_FamilySettings]:
    for adapter in settings.adapters:
        if adapter.ipv4 is not None:
            yield _FamilySettings(adapter.adapter_id, Family.IPV4, adapter.ipv4)
        if adapter.ipv6 is not None:
            yield _FamilySettings(adapter.adapter_id, Family.IPV6, adapter.ipv6)


def _is_set(adapter: AdapterAddresses) -> bool:
    return adapter.ipv4 is not None or adapter.ipv6 is not None


@dataclass(frozen=True, slots=True)
class _Case:
    """What a rule looks at."""

    vm: VmInventory
    settings: VmReplicationSettings | None
    extra_guests: Collection[str]

    @property
    def name(self) -> str:
        return self.vm.name or self.vm.vm_id

    @property
    def policy(self) -> UnsetAdapters:
        return self.settings.unset_adapters if self.settings is not None else UnsetAdapters.REFUSE

    @property
    def named(self) -> tuple[AdapterAddresses, ...]:
        return self.settings.adapters if self.settings is not None else ()

    @property
    def families(self) -> tuple[_FamilySettings, ...]:
        return tuple(_family_settings(self.settings)) if self.settings is not None else ()

    @property
    def injected(self) -> tuple[str, ...]:
        """The adapters that a failover would give addresses to, each once."""
        return tuple(dict.fromkeys(adapter.adapter_id for adapter in self.named if _is_set(adapter)))

    def adapter(self, adapter_id: str) -> Adapter | None:
        return next((adapter for adapter in self.vm.adapters if adapter.adapter_id == adapter_id), None)


@dataclass(frozen=True, slots=True)
class _Objection:
    """What a rule says; the rule's number is added by whoever asked it."""

    adapter_id: str
    message: str
    field: str = ""


_Objections = Iterator[_Objection]


def _objection(each: _FamilySettings, field: str, message: str) -> _Objection:
    """An objection to one family of one adapter; `field` is empty where the family as a whole is meant."""
    where = f"{each.family.field}.{field}" if field else each.family.field
    return _Objection(each.adapter_id, f"adapter {each.adapter_id}: {message}", where)


def _replication_enabled(case: _Case) -> _Objections:
    if case.vm.replication.state is ReplicationState.DISABLED:
        yield _Objection(
            "",
            f"replication of {case.name} is Disabled, and only a replicated VM has failover addresses; "
            "enable its replication first",
        )


def _adapter_exists(case: _Case) -> _Objections:
    present = ", ".join(adapter.adapter_id for adapter in case.vm.adapters) or "none"
    for adapter_id in dict.fromkeys(adapter.adapter_id for adapter in case.named):
        if case.adapter(adapter_id) is None:
            message = f"adapter {adapter_id} does not exist on {case.name}; its adapters: {present}"
            yield _Objection(adapter_id, message)


def _adapter_once(case: _Case) -> _Objections:
    for adapter_id, times in Counter(adapter.adapter_id for adapter in case.named).items():
        if times > 1:
            message = f"adapter {adapter_id} is set {times} times; set it once, with all its addresses"
            yield _Objection(adapter_id, message)


def _synthetic_only(case: _Case) -> _Objections:
    for adapter_id in case.injected:
        adapter = case.adapter(adapter_id)
        if adapter is not None and adapter.kind is AdapterKind.LEGACY:
            yield _Objection(
                adapter_id,
                f"adapter {adapter_id} is a legacy adapter, which cannot be given a failover address; "
                "remove its settings or replace it by a synthetic adapter",
            )


def _dhcp_or_static(case: _Case) -> _Objections:
    for each in case.families:
        if each.set.dhcp and each.set.addresses:
            yield _objection(each, "", f"both DHCP and static {each.family} addresses are set; keep one of them")
        elif each.set.dhcp and each.set.gateways:
            yield _objection(
                each, "gateways", f"an {each.family} gateway is set beside DHCP, which brings its own; remove it"
            )
        elif not each.set.dhcp and not each.set.addresses:
            yield _objection(
                each,
                "",
                f"neither DHCP nor an address is set for {each.family}; set one of them or leave {each.family} out",
            )


def _addresses_written(case: _Case) -> _Objections:
    for each in case.families:
        for text in each.set.addresses:
            problem = _notation(canonical_interface, each.family, text)
            if problem:
                yield _objection(each, "addresses", problem)


def _notation(canonical: Callable[[Family, str], str], family: Family, text: str) -> str:
    """What is wrong with how an address is written. Other spellings are refused too: they would not compare equal."""
    try:
        expected = canonical(family, text)
    except ConfigError as error:
        return str(error)
    return "" if expected == text else f"{text!r} is not in canonical form; write {expected}"


def _host_addresses(case: _Case) -> _Objections:
    for each in case.families:
        interfaces = each.interfaces
        for interface in interfaces:
            what = _not_a_host(interface)
            if what:
                yield _objection(each, "addresses", f"{interface} is {what}; give the VM a host's address")
        if interfaces and all(interface.ip.is_link_local for interface in interfaces):
            yield _objection(
                each,
                "addresses",
                f"{interfaces[0]} is a link-local address and there is no other {each.family} one; "
                "add an address that can be reached from elsewhere",
            )


def _not_a_host(interface: _Interface) -> str:
    """What an address is if it is none that a host can have. The order matters: the most telling name first."""
    ip = interface.ip
    network = interface.network
    has_network_address = network.max_prefixlen - network.prefixlen >= _BITS_WITH_NETWORK_ADDRESS
    kinds = (
        (ip.is_unspecified, "the unspecified address"),
        (ip.is_loopback, "a loopback address"),
        (ip.is_multicast, "a multicast address"),
        (isinstance(ip, IPv4Address) and ip.packed[0] == _THIS_NETWORK, "in 0.0.0.0/8, which no host can be"),
        (isinstance(ip, IPv4Address) and ip.packed[0] >= _CLASS_E, "in 240.0.0.0/4, which no host can be"),
        (has_network_address and ip == network.network_address, f"the address of the network {network} itself"),
        (
            has_network_address and isinstance(ip, IPv4Address) and ip == network.broadcast_address,
            f"the broadcast address of {network}",
        ),
    )
    return next((name for applies, name in kinds if applies), "")


def _address_once(case: _Case) -> _Objections:
    holder: dict[_Address, str] = {}
    for each in case.families:
        for address, times in Counter(interface.ip for interface in each.interfaces).items():
            if times > 1:
                yield _objection(each, "addresses", f"{address} is listed {times} times; list it once")
            # Every link has its own link-local addresses: two adapters may have the same one.
            first = holder.setdefault(address, each.adapter_id)
            if first != each.adapter_id and not address.is_link_local:
                yield _objection(each, "addresses", f"{address} is adapter {first}'s already; give each its own")


def _few_gateways(case: _Case) -> _Objections:
    for each in case.families:
        if len(each.set.gateways) > MAX_GATEWAYS:
            yield _objection(
                each,
                "gateways",
                f"{len(each.set.gateways)} {each.family} gateways are set; an adapter takes at most {MAX_GATEWAYS}",
            )


def _gateways_on_link(case: _Case) -> _Objections:
    for each in case.families:
        for text, times in Counter(each.set.gateways).items():
            problem = _notation(canonical_address, each.family, text) or _off_link(each, text)
            if problem:
                yield _objection(each, "gateways", f"gateway {problem}")
            if times > 1:
                yield _objection(each, "gateways", f"gateway {text} is listed {times} times; list it once")


def _off_link(each: _FamilySettings, text: str) -> str:
    gateway = ip_address(text)
    interfaces = each.interfaces
    if any(interface.ip == gateway for interface in interfaces):
        return f"{text} is the adapter's own address; give the router's"
    if not interfaces or (isinstance(gateway, IPv6Address) and gateway.is_link_local):
        return ""
    on_link = [interface for interface in interfaces if gateway in interface.network]
    if not on_link:
        networks = ", ".join(dict.fromkeys(str(interface.network) for interface in interfaces))
        return f"{text} is not on the adapter's link ({networks}); give one that is, or correct the prefix"
    what = _not_a_host(_with_prefix(gateway, on_link[0].network.prefixlen))
    return f"{text} is {what}; give the router's address" if what else ""


def _with_prefix(address: _Address, prefix: int) -> _Interface:
    text = f"{address}/{prefix}"
    return IPv4Interface(text) if isinstance(address, IPv4Address) else IPv6Interface(text)


def _dns_servers(case: _Case) -> _Objections:
    for each in case.families:
        for text, times in Counter(each.set.dns).items():
            problem = _notation(canonical_address, each.family, text)
            # A loopback address is fine here: a domain controller asks itself.
            if not problem and (ip_address(text).is_multicast or ip_address(text).is_unspecified):
                problem = f"{text} is not the address of a server"
            if problem:
                yield _objection(each, "dns", f"DNS server {problem}")
            if times > 1:
                yield _objection(each, "dns", f"DNS server {text} is listed {times} times; list it once")


def _guest_supported(case: _Case) -> _Objections:
    reason = supported(case.vm.guest, case.extra_guests).system_reason
    if case.injected and reason:
        yield _Objection("", f"{_adapters(case.injected)} of {case.name} cannot be given failover addresses: {reason}")


def _services_running(case: _Case) -> _Objections:
    reason = supported(case.vm.guest, case.extra_guests).services_reason
    if case.injected and reason:
        yield _Objection("", f"{_adapters(case.injected)} of {case.name} cannot be given failover addresses: {reason}")


def _adapters(adapter_ids: Collection[str]) -> str:
    return f"{'adapter' if len(adapter_ids) == 1 else 'adapters'} {', '.join(adapter_ids)}"


def _any_settings(case: _Case) -> _Objections:
    if case.settings is None and case.vm.adapters:
        named = _adapters(tuple(adapter.adapter_id for adapter in case.vm.adapters))
        yield _Objection(
            "",
            f"{case.name} has no failover TCP/IP settings, so {named} would come up with the primary's configuration; "
            "set failover addresses for each adapter, or set unset_adapters to KEEP",
        )


def _synthetic_set(case: _Case) -> _Objections:
    for adapter in _left_out(case, AdapterKind.SYNTHETIC):
        yield _Objection(
            adapter.adapter_id,
            f"adapter {adapter.adapter_id} of {case.name} has no failover addresses and would come up with the "
            "primary's configuration; set them, or set unset_adapters to KEEP",
        )


def _no_legacy(case: _Case) -> _Objections:
    for adapter in _left_out(case, AdapterKind.LEGACY):
        yield _Objection(
            adapter.adapter_id,
            f"adapter {adapter.adapter_id} of {case.name} is a legacy adapter, which cannot be given failover "
            "addresses and would come up with the primary's configuration; replace it by a synthetic adapter, or set "
            "unset_adapters to KEEP",
        )


def _left_out(case: _Case, kind: AdapterKind) -> Iterator[Adapter]:
    if case.settings is None:
        return
    injected = case.injected
    yield from (adapter for adapter in case.vm.adapters if adapter.kind is kind and adapter.adapter_id not in injected)


def _families_set(case: _Case) -> _Objections:
    for adapter in case.vm.adapters:
        set_here = {each.family for each in case.families if each.adapter_id == adapter.adapter_id}
        for family in Family:
            if set_here and family not in set_here and family in _primary_families(adapter):
                yield _Objection(
                    adapter.adapter_id,
                    f"adapter {adapter.adapter_id} of {case.name} has {family} addresses on the primary but no "
                    f"{family} failover addresses; set them, or set unset_adapters to KEEP to come up with the "
                    f"primary's {family} configuration",
                    family.field,
                )


def _primary_families(adapter: Adapter) -> set[Family]:
    """The families in which the primary has an address that matters elsewhere: any guest has a link-local one.

    What a site agent reports is taken as it comes: text that is no address says nothing about a family.
    """
    families = set()
    for text in adapter.addresses:
        try:
            address = ip_address(text.partition("/")[0])
        except ValueError:
            continue
        if not address.is_link_local:
            families.add(_family_of(address))
    return families


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of failover TCP/IP: its number and what it demands."""

    number: str
    demands: str
    check: Callable[[_Case], _Objections]


_SETTINGS = (
    Rule("A1", "replication is enabled for the VM", _replication_enabled),
    Rule("A2", "every adapter named exists on the VM", _adapter_exists),
    Rule("A3", "no adapter is named twice", _adapter_once),
    Rule("A4", "only synthetic adapters are set", _synthetic_only),
    Rule("A5", "a family is set either to DHCP or to static addresses", _dhcp_or_static),
    Rule("A6", "an address is written as address/prefix, canonically, in its family", _addresses_written),
    Rule("A7", "an address is one that a host can have and others can reach", _host_addresses),
    Rule("A8", "an address is set once in a VM", _address_once),
    Rule("A9", f"an adapter has at most {MAX_GATEWAYS} gateways in a family", _few_gateways),
    Rule("A10", "a gateway is of the family and on the adapter's link", _gateways_on_link),
    Rule("A11", "a DNS server is of the family", _dns_servers),
)

_GUEST = (
    Rule("A12", "the guest's system is supported, where addresses are to be injected", _guest_supported),
    Rule("A13", "the guest's integration services are running, where addresses are to be injected", _services_running),
)

_GAPS = (
    Rule("A14", "the VM has failover TCP/IP settings, unless the policy is KEEP", _any_settings),
    Rule("A15", "every synthetic adapter is set, unless the policy is KEEP", _synthetic_set),
    Rule("A16", "the VM has no legacy adapter, unless the policy is KEEP", _no_legacy),
    Rule("A17", "every family that the primary uses on a set adapter is set, unless the policy is KEEP", _families_set),
)

RULES: tuple[Rule, ...] = _SETTINGS + _GUEST + _GAPS
"""Every rule that concerns one VM, in the order in which findings are listed."""


def _found(rules: Sequence[Rule], case: _Case) -> tuple[Finding, ...]:
    return tuple(
        Finding(rule.number, objection.adapter_id, objection.message, objection.field)
        for rule in rules
        for objection in rule.check(case)
    )
