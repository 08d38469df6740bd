"""What is heard of a guest through its agent, and how it is shut down."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

import pytest
from lone_guest import BOOT_S, NAME, connected, lone_guest

from failover_orch.domain.inventory import IntegrationServices
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.libvirt.guest import AgentRefused, Guest, shut_down
from failover_orch.hypervisors.libvirt.guest_files import (
    Interface,
    Network,
    interfaces,
    listened_ports,
    name_servers,
    network,
)
from failover_orch.hypervisors.rules import Configuration
from failover_orch.lab import Lab

ROUTES4 = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\tFE000A0A\t0003\t0\t0\t200\t00000000\t0\t0\t0
eth0\t00000000\t01000A0A\t0003\t0\t0\t101\t00000000\t0\t0\t0
eth0\t00000A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth1\t00000B0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth1\t00000000\t63000B0A\t0200\t0\t0\t0\t00000000\t0\t0\t0
"""
ROUTES6 = "".join(
    f"{to} {length} {'0' * 32} 00 {via} {metric} 00000001 00000000 {flags} {name:>8}\n"
    for to, length, via, metric, flags, name in (
        (f"fd10{'0' * 28}", "40", "0" * 32, "00000100", "00000001", "eth0"),
        (f"fe80{'0' * 28}", "40", "0" * 32, "00000100", "00000001", "eth0"),
        ("0" * 32, "00", f"fd10{'0' * 27}1", "00000065", "00000003", "eth0"),
        ("0" * 32, "00", f"fe80{'0' * 27}1", "00000400", "00440003", "eth0"),
        ("0" * 32, "00", f"fe80{'0' * 27}9", "00000400", "00440003", "eth1"),
        ("0" * 32, "00", "0" * 32, "ffffffff", "00200200", "lo"),
    )
)
ADDRESSES6 = """\
fd100000000000000000000000000021 02 40 00 80     eth0
fd10000000000000505400fffe330001 02 40 00 00     eth0
fd11000000000000505400fffe330002 03 40 00 00     eth1
00000000000000000000000000000001 01 80 10 80       lo
"""
RESOLVER = """\
# by hand
search example.org
nameserver 10.10.0.2
nameserver 127.0.0.53
nameserver 10.11.0.2
nameserver fe80::2%eth0
nameserver fd10::2
nameserver 10.10.0.2
"""
FOUND = (
    Interface("lo", "00:00:00:00:00:00", ("127.0.0.1/8", "::1/128")),
    Interface("eth0", "52:54:00:33:00:01", ("10.10.0.21/24", "fd10::21/64", "fd10::5054:ff:fe33:1/64")),
    Interface("eth1", "52:54:00:33:00:02", ("10.11.0.21/24", "fd11::5054:ff:fe33:2/64")),
)
MACS = {"nic-1": "52:54:00:33:00:01", "nic-2": "52:54:00:33:00:02"}


def whole() -> Network:
    return network(FOUND, ROUTES4, ROUTES6, ADDRESSES6, RESOLVER)


# What the agent's answer and the guest's files say


def test_link_local_addresses_are_nobodys() -> None:
    answer: list[dict[str, Any]] = [
        {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1", "prefix": 8}]},
        {
            "name": "eth0",
            "hardware-address": "52:54:00:33:00:0A",
            "ip-addresses": [
                {"ip-address": "10.10.0.21", "prefix": 24},
                {"ip-address": "169.254.3.4", "prefix": 16},
                {"ip-address": "fd10::21", "prefix": 64},
                {"ip-address": "fe80::5054:ff:fe33:1%eth0", "prefix": 64},
            ],
        },
        {"name": "eth1", "hardware-address": "52:54:00:33:00:02"},
    ]
    assert interfaces(answer) == (
        Interface("lo", "", ("127.0.0.1/8",)),
        Interface("eth0", "52:54:00:33:00:0a", ("10.10.0.21/24", "fd10::21/64")),
        Interface("eth1", "52:54:00:33:00:02", ()),
    )


def test_what_is_configured_on_each_adapter() -> None:
    assert whole().configurations(MACS) == {
        # Preferred gateways come first. What a router advertised does not count beside what was set.
        "nic-1": Configuration(
            ("10.10.0.21/24", "fd10::21/64"),
            ("10.10.0.1", "10.10.0.254", "fd10::1"),
            ("10.10.0.2", "fe80::2", "fd10::2"),
        ),
        # Where nothing was set, what routers advertise is all there is.
        "nic-2": Configuration(("10.11.0.21/24", "fd11::5054:ff:fe33:2/64"), ("fe80::9",), ("10.11.0.2",)),
    }


def test_a_dns_server_is_the_adapters_for_which_it_is_planned() -> None:
    plans = (
        AdapterAddresses("nic-1", ipv4=FamilyAddresses(dns=("10.10.0.2", "10.11.0.2"))),
        AdapterAddresses("nic-2", ipv4=FamilyAddresses(dns=("10.11.0.2",)), ipv6=FamilyAddresses(dns=("FD10::2",))),
    )
    found = whole().configurations(MACS, plans)
    assert found["nic-1"].dns == ("10.10.0.2", "10.11.0.2", "fe80::2")
    assert found["nic-2"].dns == ("10.11.0.2", "fd10::2")


def test_a_server_that_the_guest_does_not_reach_is_no_adapters() -> None:
    lost = replace(whole(), routes=(), servers=("192.0.2.53",))
    assert [each.dns for each in lost.configurations(MACS).values()] == [(), ()]


def test_bonded_interfaces_are_one_adapter() -> None:
    bond = (
        Interface("eth0", MACS["nic-1"]),
        Interface("eth1", MACS["nic-1"]),
        Interface("bond0", MACS["nic-1"], ("10.10.0.21/24",)),
    )
    found = Network(bond).configurations({"nic-1": MACS["nic-1"].upper(), "nic-2": MACS["nic-2"]})
    assert found == {"nic-1": Configuration(("10.10.0.21/24",)), "nic-2": Configuration()}


def test_an_agent_that_lets_nobody_read_files_tells_addresses_alone() -> None:
    found = network(FOUND, None, None, None, None)
    assert not found.routes_known
    assert found.configurations({"nic-1": MACS["nic-1"]}) == {"nic-1": Configuration(FOUND[1].addresses)}


def test_name_servers_are_read_in_their_order() -> None:
    assert name_servers(RESOLVER) == ("10.10.0.2", "10.11.0.2", "fe80::2", "fd10::2")
    assert name_servers("nameserver\n# nameserver 10.0.0.1\nnameserver 127.0.0.53\n") == ()


def test_ports_that_somebody_else_can_connect_to() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    tcp = f"{head}   0: 00000000:0016 00000000:0000 0A 0\n   1: 0100007F:0019 00000000:0000 0A 0\n"
    tcp += "   2: 15000A0A:0016 02000A0A:9C40 01 0\n   3: 15000A0A:1F90 00000000:0000 0A 0\n"
    tcp6 = f"{head}   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0\n"
    tcp6 += "   1: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 0\n"
    assert listened_ports([tcp, tcp6]) == {22, 8080, 80}


# Guests of the lab


async def test_what_a_guest_tells_and_does(four_nodes: Lab) -> None:
    async with lone_guest(four_nodes) as lone:
        described = await lone.description()
        with pytest.raises(StepFailed, match=f"guest agent of {NAME} does not answer: .*not running"):
            await lone.guest.ask("guest-ping")
        guest = await lone.boot()
        assert await guest.services() is IntegrationServices.RUNNING
        assert await guest.configured(described.adapters) == {
            "nic-1": Configuration(
                ("10.50.0.31/24", "fd50::31/64"), ("10.50.0.1", "fd50::1"), ("10.50.0.2", "fd50::2")
            ),
            "nic-2": Configuration(("10.51.0.31/24",), (), ("10.51.0.2",)),
        }
        assert await guest.read("/no/such/file") is None
        long = "".join(f"line {number}\n" for number in range(1_000))
        await guest.write("/run/long", long)
        assert await guest.read("/run/long") == long
        with pytest.raises(AgentRefused, match="refuses guest-file-open"):
            await guest.write("/no/such/directory/file", "")
        assert (await guest.run("sh", "-c", "echo out; echo err >&2; exit 3")) == replace(
            await guest.run("sh", "-c", "echo out; echo err"), status=3
        )
        with pytest.raises(AgentRefused, match="refuses guest-exec"):
            await guest.run("no-such-command")
        with pytest.raises(StepFailed, match=r"`sleep 60` in vm-7 at dr has not ended in 0.3 s"):
            await guest.run("sleep", "60", within_s=0.3)
        began = time.monotonic()
        await shut_down(lone.node, lone.uuid, NAME, within_s=BOOT_S)
        assert time.monotonic() - began < BOOT_S / 2
        assert await guest.is_off()
        await shut_down(lone.node, lone.uuid, NAME, within_s=0)


async def test_a_guest_without_an_agent_follows_its_power_button(four_nodes: Lab) -> None:
    async with lone_guest(four_nodes, agent=False) as lone:
        await lone.call(lambda domain: domain.create())
        guest = lone.guest
        assert await guest.services() is IntegrationServices.ABSENT
        with pytest.raises(StepFailed, match=r"not connected, after 0.5 s"):
            await guest.await_agent(0.5)
        # It is pressed again and again: a guest that still boots does not see it.
        await shut_down(lone.node, lone.uuid, NAME, within_s=BOOT_S)
        assert await guest.is_off()


async def test_a_guest_that_does_not_shut_down_is_left_as_it_is(four_nodes: Lab) -> None:
    async with lone_guest(four_nodes, agent_channel=False) as lone:
        await lone.call(lambda domain: domain.create())
        with pytest.raises(StepRefused, match=f"domain of {NAME} has no channel for a guest agent"):
            await lone.guest.await_agent(BOOT_S)
        await lone.call(lambda domain: domain.suspend())
        with pytest.raises(StepFailed, match=f"{NAME} has not shut down in 1 s: .*cut its power"):
            await shut_down(lone.node, lone.uuid, NAME, within_s=1)
        assert not await lone.guest.is_off()


async def test_a_domain_that_has_left_the_node_is_not_off(four_nodes: Lab) -> None:
    async with connected(four_nodes, "d1") as node:
        with pytest.raises(StepFailed, match="is not on d1 any more"):
            await shut_down(node, str(uuid.uuid4()), NAME, within_s=1)
        with pytest.raises(StepFailed, match="does not answer"):
            await Guest(node, str(uuid.uuid4())).ask("guest-ping")
