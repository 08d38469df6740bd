"""The rules of failover TCP/IP, each seen to object and to stay silent."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.addresses import (
    RULES,
    Family,
    canonical_address,
    canonical_interface,
    conflicts,
    failover_findings,
    gaps,
    kept_adapters,
    mask_of_prefix,
    parse_family,
    prefix_of_mask,
    settings_findings,
)
from failover_orch.domain.inventory import Adapter, AdapterKind, Guest, IntegrationServices, Replication, VmInventory
from failover_orch.domain.replication import ReplicationState
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses, UnsetAdapters, VmReplicationSettings
from failover_orch.errors import ConfigError

REPLICATION = Replication(ReplicationState.REPLICATING, "primary", "dr")
DISABLED = replace(REPLICATION, state=ReplicationState.DISABLED)
NIC0 = Adapter("nic-0", AdapterKind.SYNTHETIC, "00:15:5d:00:00:01", "lan", ("10.10.0.11/24", "2001:db8:10::11/64"))
NIC1 = Adapter("nic-1", AdapterKind.SYNTHETIC, "00:15:5d:00:00:02", "san", ("10.11.0.11/24",))
OLD = Adapter("old", AdapterKind.LEGACY, "00:15:5d:00:00:03", "lan")
VM = VmInventory("vm-1", "erp-db", (NIC0,), Guest("debian-12", IntegrationServices.RUNNING), REPLICATION)

V4 = FamilyAddresses(addresses=("10.20.0.11/24",), gateways=("10.20.0.1",), dns=("10.20.0.53",))
V6 = FamilyAddresses(addresses=("2001:db8:20::11/64",), gateways=("fe80::1",), dns=("2001:db8:20::53",))
BOTH = AdapterAddresses("nic-0", V4, V6)
DHCP = FamilyAddresses(dhcp=True)
GOOD = VmReplicationSettings("vm-1", (BOTH,))


def settings(*adapters: AdapterAddresses, policy: UnsetAdapters = UnsetAdapters.REFUSE) -> VmReplicationSettings:
    return VmReplicationSettings("vm-1", adapters, policy)


def ipv4(*addresses: str, gateways: tuple[str, ...] = (), dns: tuple[str, ...] = ()) -> VmReplicationSettings:
    return settings(AdapterAddresses("nic-0", FamilyAddresses(addresses=addresses, gateways=gateways, dns=dns), V6))


def ipv6(*addresses: str, gateways: tuple[str, ...] = (), dns: tuple[str, ...] = ()) -> VmReplicationSettings:
    return settings(AdapterAddresses("nic-0", V4, FamilyAddresses(addresses=addresses, gateways=gateways, dns=dns)))


def test_good_settings_pass_every_rule() -> None:
    assert settings_findings(VM, GOOD) == ()
    assert failover_findings(VM, GOOD) == ()


SETTINGS_CASES = [
    ("A1", replace(VM, replication=DISABLED), GOOD, "", "enable its replication first"),
    ("A2", VM, settings(BOTH, AdapterAddresses("nic-9", DHCP)), "nic-9", "its adapters: nic-0"),
    ("A2", VM, settings(BOTH, AdapterAddresses("nic-9")), "nic-9", "does not exist"),
    ("A3", VM, settings(BOTH, AdapterAddresses("nic-0")), "nic-0", "set 2 times"),
    ("A4", replace(VM, adapters=(NIC0, OLD)), settings(BOTH, AdapterAddresses("old", DHCP)), "old", "legacy adapter"),
    ("A5", VM, settings(AdapterAddresses("nic-0", replace(V4, dhcp=True), V6)), "nic-0", "both DHCP and static"),
    ("A5", VM, settings(AdapterAddresses("nic-0", FamilyAddresses(), V6)), "nic-0", "neither DHCP nor"),
    (
        "A5",
        VM,
        settings(AdapterAddresses("nic-0", FamilyAddresses(dhcp=True, gateways=("10.20.0.1",)), V6)),
        "nic-0",
        "beside DHCP",
    ),
    ("A6", VM, ipv4("10.20.0.300/24"), "nic-0", "'10.20.0.300' is not an IPv4 address"),
    ("A6", VM, ipv4("10.20.0.11"), "nic-0", "has no prefix"),
    ("A6", VM, ipv4("10.20.0.11/33"), "nic-0", "expected a number from 1 to 32"),
    ("A6", VM, ipv4("10.20.0.11/0"), "nic-0", "expected a number from 1 to 32"),
    ("A6", VM, ipv4("2001:db8::1/64"), "nic-0", "is an IPv6 address; expected an IPv4 address"),
    ("A6", VM, ipv4("10.20.0.11/255.255.255.0"), "nic-0", "write 10.20.0.11/24"),
    ("A6", VM, ipv6("2001:DB8:20:0::11/64"), "nic-0", "write 2001:db8:20::11/64"),
    ("A6", VM, ipv6("2001:db8::11/129"), "nic-0", "expected a number from 1 to 128"),
    ("A6", VM, ipv6("fe80::1%eth0/64"), "nic-0", "has a scope"),
    ("A7", VM, ipv4("10.20.0.0/24"), "nic-0", "the address of the network 10.20.0.0/24 itself"),
    ("A7", VM, ipv4("10.20.0.255/24"), "nic-0", "the broadcast address"),
    ("A7", VM, ipv4("224.0.0.5/24"), "nic-0", "a multicast address"),
    ("A7", VM, ipv4("127.0.0.1/8"), "nic-0", "a loopback address"),
    ("A7", VM, ipv4("0.0.0.0/24"), "nic-0", "the unspecified address"),
    ("A7", VM, ipv4("0.1.2.3/8"), "nic-0", "0.0.0.0/8"),
    ("A7", VM, ipv4("255.255.255.255/32"), "nic-0", "240.0.0.0/4"),
    ("A7", VM, ipv4("169.254.3.4/16"), "nic-0", "link-local"),
    ("A7", VM, ipv6("2001:db8:20::/64"), "nic-0", "the address of the network"),
    ("A7", VM, ipv6("fe80::11/64"), "nic-0", "there is no other IPv6 one"),
    ("A7", VM, ipv6("::1/128"), "nic-0", "a loopback address"),
    ("A7", VM, ipv6("ff02::1/64"), "nic-0", "a multicast address"),
    ("A6", VM, ipv6("::ffff:10.20.0.11/64"), "nic-0", "is an IPv4 address written as IPv6; write 10.20.0.11"),
    (
        "A8",
        replace(VM, adapters=(NIC0, NIC1)),
        settings(BOTH, AdapterAddresses("nic-1", FamilyAddresses(addresses=("10.20.0.11/16",)))),
        "nic-1",
        "10.20.0.11 is adapter nic-0's already",
    ),
    ("A8", VM, ipv4("10.20.0.11/24", "10.20.0.11/25"), "nic-0", "listed 2 times"),
    ("A9", VM, ipv4("10.20.0.11/24", gateways=tuple(f"10.20.0.{n}" for n in range(1, 7))), "nic-0", "at most 5"),
    ("A10", VM, ipv4("10.20.0.11/24", gateways=("10.21.0.1",)), "nic-0", "not on the adapter's link (10.20.0.0/24)"),
    ("A10", VM, ipv4("10.20.0.11/24", gateways=("10.20.0.11",)), "nic-0", "own address"),
    ("A10", VM, ipv4("10.20.0.11/24", gateways=("10.20.0.255",)), "nic-0", "broadcast"),
    ("A10", VM, ipv4("10.20.0.11/24", gateways=("fe80::1",)), "nic-0", "is an IPv6 address"),
    ("A10", VM, ipv4("10.20.0.11/24", gateways=("router",)), "nic-0", "is not an IPv4 address"),
    ("A10", VM, ipv4("10.20.0.11/24", gateways=("10.20.0.1", "10.20.0.1")), "nic-0", "listed 2 times"),
    ("A10", VM, ipv6("2001:db8:20::11/64", gateways=("2001:db8:21::1",)), "nic-0", "not on the adapter's link"),
    ("A11", VM, ipv4("10.20.0.11/24", dns=("2001:db8::53",)), "nic-0", "DNS server '2001:db8::53' is an IPv6"),
    ("A11", VM, ipv4("10.20.0.11/24", dns=("224.0.0.251",)), "nic-0", "is not the address of a server"),
    ("A11", VM, ipv4("10.20.0.11/24", dns=("10.0.0.1", "10.0.0.1")), "nic-0", "listed 2 times"),
    ("A11", VM, ipv6("2001:db8:20::11/64", dns=("2001:DB8::53",)), "nic-0", "write 2001:db8::53"),
]


@pytest.mark.parametrize(("rule", "vm", "wanted", "adapter_id", "words"), SETTINGS_CASES)
def test_a_rule_of_settings_objects_alone(
    rule: str, vm: VmInventory, wanted: VmReplicationSettings, adapter_id: str, words: str
) -> None:
    (finding,) = settings_findings(vm, wanted)
    assert (finding.rule, finding.adapter_id) == (rule, adapter_id)
    assert words in finding.message
    assert not adapter_id or f"adapter {adapter_id}" in finding.message
    assert finding in failover_findings(vm, wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        ipv4("10.20.0.0/31", gateways=("10.20.0.1",)),
        ipv4("10.20.0.11/24", "169.254.3.4/16"),
        ipv4("10.20.0.11/24", dns=("127.0.0.1",)),
        ipv6("2001:db8:20::11/64", "fe80::11/64", gateways=("fe80::1",)),
        ipv6("2001:db8:20::/127"),
        settings(AdapterAddresses("nic-0", FamilyAddresses(dhcp=True, dns=("10.20.0.53",)), DHCP)),
    ],
)
def test_what_is_unusual_but_right_passes(wanted: VmReplicationSettings) -> None:
    assert settings_findings(VM, wanted) == ()


def test_a_legacy_adapter_named_without_addresses_is_not_set() -> None:
    vm = replace(VM, adapters=(NIC0, OLD))
    assert settings_findings(vm, settings(BOTH, AdapterAddresses("old"))) == ()


FAILOVER_CASES = [
    ("A12", replace(VM, guest=Guest("solaris-11", IntegrationServices.RUNNING)), GOOD, "", "adapter nic-0 of erp-db"),
    ("A13", replace(VM, guest=Guest("debian-12", IntegrationServices.ABSENT)), GOOD, "", "install and start"),
    ("A13", replace(VM, guest=Guest("debian-12", IntegrationServices.OUTDATED)), GOOD, "", "update them"),
    ("A13", replace(VM, guest=Guest("debian-12")), GOOD, "", "not known"),
    ("A14", replace(VM, adapters=(NIC0, NIC1)), None, "", "set failover addresses for each adapter"),
    ("A15", replace(VM, adapters=(NIC0, NIC1)), GOOD, "nic-1", "set them, or set unset_adapters to KEEP"),
    ("A15", replace(VM, adapters=(NIC0, NIC1)), settings(BOTH, AdapterAddresses("nic-1")), "nic-1", "set them"),
    ("A16", replace(VM, adapters=(NIC0, OLD)), GOOD, "old", "replace it by a synthetic adapter"),
    ("A17", VM, settings(AdapterAddresses("nic-0", V4)), "nic-0", "no IPv6 failover addresses"),
    ("A17", VM, settings(AdapterAddresses("nic-0", None, DHCP)), "nic-0", "no IPv4 failover addresses"),
]


@pytest.mark.parametrize(("rule", "vm", "wanted", "adapter_id", "words"), FAILOVER_CASES)
def test_a_rule_of_failover_objects_alone_and_only_at_failover(
    rule: str, vm: VmInventory, wanted: VmReplicationSettings | None, adapter_id: str, words: str
) -> None:
    (finding,) = failover_findings(vm, wanted)
    assert (finding.rule, finding.adapter_id) == (rule, adapter_id)
    assert words in finding.message
    if wanted is not None:
        assert settings_findings(vm, wanted) == ()


def test_every_rule_has_a_case() -> None:
    assert [rule.number for rule in RULES] == [f"A{number}" for number in range(1, 18)]
    assert {rule.number for rule in RULES} == {case[0] for case in (*SETTINGS_CASES, *FAILOVER_CASES)}


def test_keep_lets_a_gap_pass_and_names_the_adapters() -> None:
    vm = replace(VM, adapters=(NIC0, NIC1, OLD))
    wanted = settings(AdapterAddresses("nic-0", V4), policy=UnsetAdapters.KEEP)
    assert failover_findings(vm, wanted) == ()
    assert [gap.rule for gap in gaps(vm, wanted)] == ["A15", "A16", "A17"]
    assert set(kept_adapters(vm, wanted)) == {"nic-0", "nic-1", "old"}
    assert kept_adapters(VM, replace(GOOD, unset_adapters=UnsetAdapters.KEEP)) == ()


def test_refuse_keeps_nothing() -> None:
    assert kept_adapters(VM, None) == ()
    assert kept_adapters(VM, settings()) == ()


def test_with_nothing_to_inject_the_guest_does_not_matter() -> None:
    vm = replace(VM, guest=Guest("solaris-11"))
    assert failover_findings(vm, settings(policy=UnsetAdapters.KEEP)) == ()
    assert [finding.rule for finding in failover_findings(vm, settings())] == ["A15"]
    assert [finding.rule for finding in failover_findings(vm, None)] == ["A14"]


def test_dhcp_is_injected_too() -> None:
    vm = replace(VM, guest=Guest("solaris-11", IntegrationServices.RUNNING))
    wanted = settings(AdapterAddresses("nic-0", DHCP, DHCP))
    assert [finding.rule for finding in failover_findings(vm, wanted)] == ["A12"]
    assert failover_findings(vm, wanted, ["solaris-11"]) == ()


def test_a_vm_without_adapters_needs_no_settings() -> None:
    assert failover_findings(replace(VM, adapters=()), None) == ()


def test_addresses_of_the_primary_that_mean_nothing_elsewhere_are_no_gap() -> None:
    nic = replace(NIC0, addresses=("10.10.0.11/24", "fe80::215:5dff:fe00:1/64", "169.254.0.9", "unknown", ""))
    wanted = settings(AdapterAddresses("nic-0", V4))
    assert failover_findings(replace(VM, adapters=(nic,)), wanted) == ()


def test_one_address_in_two_vms_is_a_conflict() -> None:
    other = VmReplicationSettings("vm-2", (AdapterAddresses("eth", FamilyAddresses(addresses=("10.20.0.11/16",))),))
    third = VmReplicationSettings("vm-3", (AdapterAddresses("eth", FamilyAddresses(addresses=("10.20.0.12/24",))),))
    (conflict,) = conflicts([third, other, GOOD])
    assert conflict.address == "10.20.0.11"
    assert conflict.holders == (("vm-1", "nic-0"), ("vm-2", "eth"))
    assert conflict.rule == "A18"
    assert "vm-1 (adapter nic-0) and vm-2 (adapter eth)" in conflict.message


def test_one_address_twice_in_one_vm_or_link_local_is_no_conflict_between_vms() -> None:
    local = FamilyAddresses(addresses=("fe80::5/64",))
    assert conflicts([ipv4("10.20.0.11/24", "10.20.0.11/25")]) == ()
    assert conflicts([settings(AdapterAddresses("nic-0", V4), AdapterAddresses("nic-1", V4))]) == ()
    assert conflicts(VmReplicationSettings(vm, (AdapterAddresses("e", None, local),)) for vm in ("a", "b")) == ()


@given(st.integers(0, 32))
def test_mask_and_prefix_are_each_others_inverse(prefix: int) -> None:
    assert prefix_of_mask(mask_of_prefix(prefix)) == prefix


@given(st.ip_addresses(v=4))
def test_a_mask_is_ones_then_zeros(address: ipaddress.IPv4Address) -> None:
    bits = f"{int(address):032b}"
    if "01" in bits:
        with pytest.raises(ConfigError, match="mask"):
            prefix_of_mask(str(address))
    else:
        assert prefix_of_mask(str(address)) == bits.count("1")


@pytest.mark.parametrize("mask", ["", "24", "255.255.255", "0xffffff00", "255.255.255.256"])
def test_what_is_no_mask(mask: str) -> None:
    with pytest.raises(ConfigError, match=r"expected one such as 255\.255\.255\.0"):
        prefix_of_mask(mask)


@pytest.mark.parametrize("prefix", [-1, 33])
def test_what_is_no_prefix(prefix: int) -> None:
    with pytest.raises(ConfigError, match="from 0 to 32"):
        mask_of_prefix(prefix)


def test_a_family_as_people_write_it() -> None:
    read = parse_family(Family.IPV4, ["10.20.0.11"], mask="255.255.255.0", gateways=["10.20.0.1"], dns=["10.20.0.53"])
    assert read == V4
    assert parse_family(Family.IPV4, ["10.20.0.11/255.255.0.0"]).addresses == ("10.20.0.11/16",)
    assert parse_family(Family.IPV6, ["2001:DB8:20:0:0:0:0:11"], prefix=64).addresses == ("2001:db8:20::11/64",)
    assert parse_family(Family.IPV6, dhcp=True) == DHCP


@pytest.mark.parametrize(
    ("family", "text", "prefix", "words"),
    [
        (Family.IPV4, "10.0.0.1/24", 24, "given twice"),
        (Family.IPV4, "10.0.0.1", None, "has no prefix"),
        (Family.IPV4, "10.0.0.1/", None, "has the prefix ''"),
        (Family.IPV4, "10.0.0.1", 0, "from 1 to 32"),
        (Family.IPV4, "010.0.0.1/24", None, "is not an IPv4 address"),
        (Family.IPV4, "10.0.0.1/255.0.255.0", None, "not all in front"),
        (Family.IPV6, "2001:db8::1/255.255.255.0", None, "from 1 to 128"),
        (Family.IPV6, "2001:db8::1/²", None, "from 1 to 128"),
        (Family.IPV6, "10.0.0.1/24", None, "expected an IPv6 address"),
    ],
)
def test_what_is_no_address_with_a_prefix(family: Family, text: str, prefix: int | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        canonical_interface(family, text, prefix=prefix)


@given(st.integers(2**48, 2**128 - 1).map(ipaddress.IPv6Address), st.integers(1, 128))
def test_every_spelling_of_an_ipv6_address_has_one_canonical_form(address: ipaddress.IPv6Address, prefix: int) -> None:
    canonical = canonical_interface(Family.IPV6, f"{address.compressed}/{prefix}")
    assert canonical_interface(Family.IPV6, f"{address.exploded.upper()}/{prefix}") == canonical
    assert canonical_interface(Family.IPV6, canonical) == canonical
    assert canonical == canonical.lower()
    assert canonical_address(Family.IPV6, address.exploded) == canonical.partition("/")[0]


addresses = st.one_of(
    st.ip_addresses().map(str),
    st.builds("{}/{}".format, st.ip_addresses(), st.integers(-1, 130)),
    st.text(max_size=12),
    st.sampled_from(["10.20.0.11/24", "10.20.0.1", "fe80::1", "2001:db8::1/64"]),
)
families = st.none() | st.builds(
    FamilyAddresses,
    dhcp=st.booleans(),
    addresses=st.lists(addresses, max_size=3).map(tuple),
    gateways=st.lists(addresses, max_size=7).map(tuple),
    dns=st.lists(addresses, max_size=3).map(tuple),
)
any_settings = st.builds(
    VmReplicationSettings,
    vm_id=st.just("vm-1"),
    adapters=st.lists(
        st.builds(AdapterAddresses, st.sampled_from(["nic-0", "nic-1", "old", "nic-9"]), families, families), max_size=4
    ).map(tuple),
    unset_adapters=st.sampled_from(UnsetAdapters),
)


@given(any_settings, st.sampled_from(IntegrationServices))
def test_whatever_is_set_is_judged_and_never_raises(
    wanted: VmReplicationSettings, services: IntegrationServices
) -> None:
    vm = replace(VM, adapters=(NIC0, NIC1, OLD), guest=Guest("debian-12", services))
    refused = failover_findings(vm, wanted)
    assert set(settings_findings(vm, wanted)) <= set(refused)
    assert all(finding.message for finding in refused)
    conflicts([wanted, replace(wanted, vm_id="vm-2")])
    # What passes leaves no gap that nobody decided on.
    if not refused and wanted.unset_adapters is UnsetAdapters.REFUSE:
        assert gaps(vm, wanted) == ()
    kept = set(kept_adapters(vm, wanted))
    assert kept <= {adapter.adapter_id for adapter in vm.adapters}
