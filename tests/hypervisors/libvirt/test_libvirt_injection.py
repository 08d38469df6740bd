"""Failover addresses reach a guest in three ways, and are verified in four stages."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pycdlib
import pytest
from lone_guest import BOOT_S, MACS, NAME, LoneGuest, connected, lone_guest

from failover_orch.domain.inventory import AdapterKind
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses
from failover_orch.errors import ConfigError, StepFailed, StepRefused
from failover_orch.hypervisors import Power
from failover_orch.hypervisors.libvirt.answers import (
    Ask,
    Probe,
    answering,
    answering_on_bridge,
    asking,
    listens,
    verify,
)
from failover_orch.hypervisors.libvirt.domain_copies import as_copy, as_replica
from failover_orch.hypervisors.libvirt.domain_xml import (
    DomainAdapter,
    describe,
    injected,
    with_links,
    with_metadata,
    without_injection,
)
from failover_orch.hypervisors.libvirt.guest import Guest, shut_down
from failover_orch.hypervisors.libvirt.in_guest import apply_in_guest
from failover_orch.hypervisors.libvirt.injection import cloud_init, netcfg, prepared, remove_volume, volume
from failover_orch.hypervisors.libvirt.record import METADATA_KEY, METADATA_URI
from failover_orch.hypervisors.libvirt.settings import Injection
from failover_orch.hypervisors.rules import Configuration
from failover_orch.lab import Lab

ADAPTERS = tuple(
    DomainAdapter(adapter_id, mac, AdapterKind.SYNTHETIC, "br0", connected=True) for adapter_id, mac in MACS.items()
)
PLANS = (
    AdapterAddresses(
        "nic-1",
        ipv4=FamilyAddresses(addresses=("10.50.0.77/24",), gateways=("10.50.0.1",), dns=("10.50.0.3", "10.50.0.4")),
        ipv6=FamilyAddresses(addresses=("fd50::77/64", "fd50::78/64"), gateways=("fd50::1",)),
    ),
    AdapterAddresses("nic-2", ipv6=FamilyAddresses(addresses=("fd51::77/64",), dns=("fd51::2",))),
)
HAD = {
    "nic-1": Configuration(("10.50.0.31/24", "fd50::31/64"), ("10.50.0.1", "fd50::1"), ("10.50.0.2", "fd50::2")),
    "nic-2": Configuration(("10.51.0.31/24",), (), ("10.51.0.2",)),
}
"""What the guest's own disk says."""
HAS = {
    "nic-1": Configuration(
        ("10.50.0.77/24", "fd50::77/64", "fd50::78/64"), ("10.50.0.1", "fd50::1"), ("10.50.0.3", "10.50.0.4")
    ),
    # Of its own, what was not planned: a family that is left out keeps what the disk says.
    "nic-2": Configuration(("10.51.0.31/24", "fd51::77/64"), (), ("10.51.0.2", "fd51::2")),
}

NOBODY = frozenset[str]()


# What is written


def test_what_a_guest_is_to_apply_as_text() -> None:
    leased = AdapterAddresses("nic-2", ipv4=FamilyAddresses(dhcp=True), ipv6=FamilyAddresses(addresses=("fd51::7/64",)))
    assert netcfg((PLANS[0], leased), ADAPTERS, "run-1") == (
        "id=run-1\n"
        f"mac={MACS['nic-1']} v4=10.50.0.77/24 gw4=10.50.0.1 v6=fd50::77/64;fd50::78/64 gw6=fd50::1 "
        "dns=10.50.0.3;10.50.0.4\n"
        f"mac={MACS['nic-2']} dhcp4=1 v6=fd51::7/64\n"
    )


def test_no_comma_gets_into_qemus_command_line() -> None:
    assert "," not in netcfg(PLANS, ADAPTERS, "run-1")


def test_cloud_init_is_told_what_stays_too() -> None:
    plans = (
        PLANS[0],
        AdapterAddresses("nic-2", ipv6=FamilyAddresses(dhcp=True)),
    )
    files = cloud_init(plans, ADAPTERS, HAD, "run-1")
    assert json.loads(files["meta-data"]) == {"instance-id": "run-1"}
    assert files["user-data"].startswith("#cloud-config\n")
    assert json.loads(files["network-config"]) == {
        "version": 2,
        "ethernets": {
            "nic0": {
                "match": {"macaddress": MACS["nic-1"]},
                "dhcp4": False,
                "dhcp6": False,
                "addresses": ["10.50.0.77/24", "fd50::77/64", "fd50::78/64"],
                "routes": [{"to": "0.0.0.0/0", "via": "10.50.0.1"}, {"to": "::/0", "via": "fd50::1"}],
                "nameservers": {"addresses": ["10.50.0.3", "10.50.0.4"]},
            },
            "nic1": {
                "match": {"macaddress": MACS["nic-2"]},
                "dhcp4": False,
                "dhcp6": True,
                "addresses": ["10.51.0.31/24"],
                "nameservers": {"addresses": ["10.51.0.2"]},
            },
        },
    }


def test_only_the_first_gateway_of_a_family_is_preferred() -> None:
    two = AdapterAddresses(
        "nic-1", ipv4=FamilyAddresses(addresses=("10.50.0.77/24",), gateways=("10.50.0.1", "10.50.0.254"))
    )
    told = json.loads(cloud_init((two,), ADAPTERS[:1], {}, "run-1")["network-config"])
    assert told["ethernets"]["nic0"]["routes"] == [
        {"to": "0.0.0.0/0", "via": "10.50.0.1"},
        {"to": "0.0.0.0/0", "via": "10.50.0.254", "metric": 101},
    ]


def test_a_volume_holds_its_files_for_whoever_reads_it() -> None:
    files = {"meta-data": "a\n", "network-config": "b" * 5000, "netcfg": ""}
    image = pycdlib.PyCdlib()
    content = volume(files)
    # Where a guest looks for the label, before it has mounted anything.
    assert content[32768 + 40 : 32768 + 46] == b"cidata"
    image.open_fp(io.BytesIO(content))
    for name, text in files.items():
        for way in ({"rr_path": f"/{name}"}, {"joliet_path": f"/{name}"}):
            found = io.BytesIO()
            image.get_file_from_iso_fp(found, **way)
            assert found.getvalue().decode() == text
    image.close()


@pytest.mark.parametrize("text", ["", "pong", "tcp", "tcp:", "tcp:0", "tcp:65536", "tcp:http", "ping:7", "none:"])
def test_a_way_to_answer_that_there_is_not(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected ping, tcp:PORT or none"):
        Probe.parse(text)


def test_ways_to_answer() -> None:
    assert [Probe.parse(text) for text in ("ping", "tcp:65535", "none")] == [
        Probe("ping"),
        Probe("tcp", 65535),
        Probe("none"),
    ]


# Guests of the lab


@pytest.mark.parametrize("how", [Injection.FW_CFG, Injection.NOCLOUD])
async def test_a_guest_boots_with_its_addresses(four_nodes: Lab, how: Injection) -> None:
    async with lone_guest(four_nodes) as lone:
        guest = await start(lone, how, PLANS, "run-1")
        assert await guest.configured(ADAPTERS, PLANS) == HAS
        await verify_by(lone, Probe("ping"))
        await verify_by(lone, Probe("tcp", 80))
        assert four_nodes.page("10.50.0.77")["source"] == {"fw_cfg": "fw_cfg", "nocloud": "cidata"}[how]
        await shut_down(lone.node, lone.uuid, NAME, within_s=BOOT_S)
        # A start without addresses brings none of an older failover.
        ready = await prepared(lone.node, await lone.xml(), how, (), token="run-2", known=HAD)
        assert injected(ready) == ("", "")
        assert await left_behind(lone) == ["disk.qcow2"]


async def test_what_is_changed_inside_later_outlives_the_next_start(four_nodes: Lab) -> None:
    async with lone_guest(four_nodes) as lone:
        guest = await start(lone, Injection.FW_CFG, PLANS, "run-1")
        await guest.run("sed", "-i", "s/10.50.0.77/10.50.0.99/", "/data/netcfg")
        await shut_down(lone.node, lone.uuid, NAME, within_s=BOOT_S)
        guest = await start(lone, Injection.FW_CFG, PLANS, "run-1")
        assert (await guest.configured(ADAPTERS))["nic-1"].addresses[0] == "10.50.0.99/24"
        with pytest.raises(StepFailed, match=r"has IPv4 addresses 10.50.0.99/24, expected 10.50.0.77/24.*not what its"):
            await verify_by(lone, Probe("ping"))
        await shut_down(lone.node, lone.uuid, NAME, within_s=BOOT_S)
        # Another failover is not taken for the one before.
        assert (await (await start(lone, Injection.FW_CFG, PLANS, "run-2")).configured(ADAPTERS, PLANS)) == HAS


async def test_a_migration_finds_what_was_injected(four_nodes: Lab) -> None:
    async with lone_guest(four_nodes) as lone:
        volume_xml = await prepared(lone.node, await lone.xml(), Injection.NOCLOUD, PLANS, token="run-1", known=HAD)
        place = Path(injected(volume_xml)[1])
        assert place.parent == Path(describe(volume_xml).disks[0].path).parent
        assert sorted(await left_behind(lone)) == sorted(["disk.qcow2", place.name])
        await remove_volume(lone.node, volume_xml)
        await remove_volume(lone.node, volume_xml)
        await remove_volume(lone.node, "")
        assert await left_behind(lone) == ["disk.qcow2"]


async def test_addresses_are_set_in_a_guest_that_runs(four_nodes: Lab) -> None:
    async with lone_guest(four_nodes) as lone:
        assert injected(await prepared(lone.node, await lone.xml(), Injection.AGENT, PLANS, token="", known=HAD)) == (
            "",
            "",
        )
        guest = await lone.boot()
        assert await guest.configured(ADAPTERS, PLANS) == HAD
        for _ in range(2):
            await apply_in_guest(guest, ADAPTERS, PLANS)
            assert await guest.configured(ADAPTERS, PLANS) == HAS
        await verify_by(lone, Probe("ping"))
        resolver = await guest.read("/etc/resolv.conf")
        assert resolver == "".join(
            f"nameserver {server}\n" for server in ("10.50.0.3", "10.50.0.4", "fd51::2", "10.51.0.2")
        )
        # A second address goes with the first one of its network: it has to be there again afterwards.
        others = AdapterAddresses(
            "nic-1", ipv4=FamilyAddresses(addresses=("10.50.0.79/24", "10.50.0.78/24"), gateways=("10.50.0.254",))
        )
        await guest.run("ip", "addr", "add", "10.50.0.78/24", "dev", "eth0")
        await apply_in_guest(guest, ADAPTERS, (others,))
        found = (await guest.configured(ADAPTERS, (others,)))["nic-1"]
        assert sorted(found.addresses[:2]) == ["10.50.0.78/24", "10.50.0.79/24"]
        assert (found.gateways, found.dns) == (("10.50.0.254", "fd50::1"), ())
        with pytest.raises(StepFailed, match="no interface for adapter 'nic-9'"):
            await apply_in_guest(guest, ADAPTERS, (AdapterAddresses("nic-9", ipv4=FamilyAddresses()),))
        wrong = AdapterAddresses("nic-1", ipv4=FamilyAddresses(addresses=("10.50.0.77/24",), gateways=("192.0.2.1",)))
        with pytest.raises(StepFailed, match=r"`ip -4 route replace default via 192.0.2.1 .*` failed in vm-7 at dr: "):
            await apply_in_guest(guest, ADAPTERS, (wrong,))
        await leases_and_resolved(guest)


async def leases_and_resolved(guest: Guest) -> None:
    """What comes from others: leases from the network's DHCP server, name resolution from systemd-resolved."""
    both = (AdapterAddresses("nic-2", FamilyAddresses(dhcp=True), FamilyAddresses(dhcp=True)),)
    await guest.run("ip", "addr", "flush", "dev", "eth1", "scope", "global")
    for _ in range(2):
        await apply_in_guest(guest, ADAPTERS, both)
        leased = (await guest.configured(ADAPTERS))["nic-2"].addresses
        assert [re.sub(r"(2..|1...)/", "", address) for address in leased] == ["10.50.0.24", "fd50::128"]
    await guest.run("mv", "/sbin/dhcpcd", "/sbin/away")
    await guest.run("ip", "-6", "addr", "flush", "dev", "eth1", "scope", "global")
    with pytest.raises(StepFailed, match=r"no DHCP client for IPv6 .*: none of dhclient, dhcpcd, udhcpc6"):
        await apply_in_guest(guest, ADAPTERS, both)
    # Where systemd-resolved answers, each adapter's servers are for it to be told; it is played here.
    await guest.write("/etc/resolv.conf", "nameserver 127.0.0.53\n")
    await guest.write("/bin/resolvectl", '#!/bin/sh\necho "$@" >>/run/told\n')
    await guest.run("chmod", "755", "/bin/resolvectl")
    servers = (AdapterAddresses("nic-2", ipv6=FamilyAddresses(addresses=("fd51::7/64",), dns=("fd51::2", "fd51::3"))),)
    await apply_in_guest(guest, ADAPTERS, servers)
    assert await guest.read("/run/told") == "dns eth1 fd51::2 fd51::3\n"
    assert await guest.read("/etc/resolv.conf") == "nameserver 127.0.0.53\n"


async def test_a_test_copy_answers_on_its_own_bridge(four_nodes: Lab) -> None:
    async with lone_guest(four_nodes) as lone:
        original = describe(await lone.xml())
        paths = {disk.target: disk.path for disk in original.disks}
        for bridge in ("br-test", ""):
            ready = await prepared(lone.node, await lone.xml(), Injection.FW_CFG, PLANS, token=bridge or "-", known=HAD)
            # Under the domain's own name: libvirt has to take what was made for a copy.
            made = as_copy(ready, name=original.name, uuid=lone.uuid, vm_id="vm-7", paths=paths, bridge=bridge)
            assert injected(made) == ("", "")
            await lone.define(await prepared(lone.node, made, Injection.FW_CFG, PLANS, token="t", known=HAD))
            await lone.boot()
            ask = partial(answering_on_bridge, lone.node, "br-test")
            await verify(
                PLANS,
                guest=lone.guest,
                power=Power.RUNNING,
                staged=PLANS,
                live_xml=await lone.live_xml(),
                ask=ask,
                networked=bool(bridge),
            )
            there = {"10.50.0.77": MACS["nic-1"], "fd50::77": MACS["nic-1"], "fd50::99": MACS["nic-1"]}
            assert await ask(there) == ({"10.50.0.77", "fd50::77"} if bridge else set())
            # Somebody else who has that address does not answer for it.
            assert await ask({"fd50::77": MACS["nic-2"]}) == set()
            assert await answering_on_bridge(lone.node, "br0", there) == set()
            assert (await listens(lone.guest, 80), await listens(lone.guest, 81)) == (True, False)
            await lone.call(lambda domain: domain.destroy())
        with pytest.raises(StepFailed, match="No such device"):
            await answering_on_bridge(lone.node, "no-bridge", {"10.50.0.77": MACS["nic-1"]})


async def test_libvirt_takes_what_was_made_for_a_replica(four_nodes: Lab) -> None:
    async with lone_guest(four_nodes) as lone:
        before = await lone.xml()
        paths = {disk.target: f"{disk.path}.elsewhere" for disk in describe(before).disks}
        replica = as_replica(before, paths=paths, bridges={"nic-1": "br0", "nic-2": "br-test"})
        await lone.define(
            with_metadata(replica, METADATA_URI, METADATA_KEY, '<vm id="vm-7"><record>e30=</record></vm>')
        )
        found = describe(await lone.xml())
        assert [disk.path for disk in found.disks] == list(paths.values())
        assert [(each.network, each.connected) for each in found.adapters] == [("br0", False), ("br-test", False)]
        told = await lone.call(lambda domain: str(domain.metadata(2, METADATA_URI)))
        assert "<record>e30=</record>" in told
        assert without_injection(before) == before or describe(without_injection(before)) == describe(before)


# The four stages


async def test_each_stage_that_is_missing_is_named(four_nodes: Lab) -> None:
    async with lone_guest(four_nodes) as lone:
        await lone.define(await prepared(lone.node, await lone.xml(), Injection.FW_CFG, PLANS, token="t", known=HAD))
        await lone.call(lambda domain: domain.create())
        live = await lone.live_xml()
        nobody = Ears()
        off = verify_with(lone, live, nobody, power=Power.OFF)
        with pytest.raises(StepRefused, match=f"{NAME} is off and reports no addresses: start it first"):
            await off
        with pytest.raises(StepFailed, match=r"'nic-1' of vm-7 at dr reports no addresses .*agent is not seen"):
            await verify_with(lone, live, nobody, within_s=0)
        # While it boots it is waited for.
        await verify_with(lone, live, Ears("10.50.0.77", "fd50::77", "fd50::78", "fd51::77"), within_s=BOOT_S)
        with pytest.raises(StepFailed, match=r"'nic-1' .* has 10.50.0.77, fd50::78: staged and reported .* nobody"):
            await verify_with(lone, live, Ears("fd50::77"), within_s=0.5)
        other = AdapterAddresses("nic-1", ipv4=FamilyAddresses(addresses=("10.50.0.9/24",), gateways=("10.50.0.1",)))
        began = time.monotonic()
        with pytest.raises(StepFailed, match=r"'nic-1'.*10\.50\.0\.77/24, expected 10\.50\.0\.9/24.*not staged"):
            await verify_with(lone, live, nobody, plans=(other,), staged=PLANS, within_s=BOOT_S)
        # Nothing is under way that could still bring them.
        assert time.monotonic() - began < BOOT_S / 2
        with pytest.raises(StepFailed, match=r"expected 10.50.0.9/24.*: staged, but not what its guest reports"):
            await verify_with(lone, live, nobody, plans=(other,), staged=(other,), within_s=0.5)
        with pytest.raises(StepFailed, match="adapter 'nic-1' of vm-7 at dr is not connected"):
            await verify_with(lone, with_links(live, connected=False), nobody)
        await verify_with(lone, with_links(live, connected=False), nobody, networked=False)
        assert nobody.asked == []
        with pytest.raises(StepRefused, match="has no adapter 'nic-9'"):
            await verify_with(lone, live, nobody, plans=(AdapterAddresses("nic-9"),))
        with pytest.raises(StepRefused, match="its integration services are ABSENT"):
            await verify_with(lone, live.replace("org.qemu.guest_agent.0", "other"), nobody)
        await verify_with(lone, live.replace("org.qemu.guest_agent.0", "other"), nobody, plans=())
        assert nobody.asked == []


async def test_who_answers_from_a_node(four_nodes: Lab) -> None:
    async with connected(four_nodes, "d1") as node:
        assert await answering(node, ["192.0.2.1"], Probe("none")) == (frozenset({"192.0.2.1"}), NOBODY)
        assert await answering(node, [], Probe("ping")) == (NOBODY, NOBODY)
        gateway = str(four_nodes.lan("dr").gateway4.ip)
        answered, unrouted = await answering(node, [gateway, "10.50.0.250", "2001:db8::1"], Probe("ping"))
        assert (answered, unrouted) == (frozenset({gateway}), frozenset({"2001:db8::1"}))
        assert await answering(node, [gateway], Probe("tcp", 9)) == (NOBODY, NOBODY)


class Ears:
    """Hears an answer from these addresses alone, and notes at which it was asked."""

    def __init__(self, *answer: str) -> None:
        self._answer = frozenset(answer)
        self.asked: list[str] = []

    async def __call__(self, macs: Mapping[str, str]) -> frozenset[str]:
        self.asked += macs
        return self._answer


async def start(lone: LoneGuest, how: Injection, plans: Sequence[AdapterAddresses], token: str) -> Guest:
    await lone.define(await prepared(lone.node, await lone.xml(), how, plans, token=token, known=HAD))
    return await lone.boot()


async def verify_by(lone: LoneGuest, probe: Probe) -> None:
    live = await lone.live_xml()
    await verify_with(lone, live, asking(lone.node, live, probe), within_s=3)


async def verify_with(
    lone: LoneGuest,
    live_xml: str,
    ask: Ask,
    *,
    plans: Sequence[AdapterAddresses] = PLANS,
    staged: Sequence[AdapterAddresses] = PLANS,
    power: Power = Power.RUNNING,
    networked: bool = True,
    within_s: float = 5.0,
) -> None:
    await verify(
        plans,
        guest=lone.guest,
        power=power,
        staged=staged,
        live_xml=live_xml,
        ask=ask,
        networked=networked,
        within_s=within_s,
    )


async def left_behind(lone: LoneGuest) -> list[str]:
    """The files beside the guest's disk."""
    directory = str(Path(describe(await lone.xml()).disks[0].path).parent)
    return (await lone.node.run("ls", directory)).decode().split()
