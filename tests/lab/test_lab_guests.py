"""Tiny guests on real libvirt nodes: their addresses, their counters, their agent."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial

from tiny_guests import MAC, Guest, Guests, until

from failover_orch.lab import Lab
from failover_orch.lab.guest import GuestAdapter, guest_image, make_configuration_drive

SECOND_MAC = "52:54:00:00:00:22"
INJECTED = f"mac={MAC} v4=10.10.0.77/24 gw4=10.10.0.1 dns=10.10.0.2\n"


def test_it_boots_with_the_addresses_on_its_disk(small_lab: Lab, guests: Guests) -> None:
    guest = guests.make(disks=2)
    guest.start()
    page = guest.page("10.10.0.21")
    assert page["name"] == guest.name
    assert page["source"] == "disk"
    assert page["addresses"] == ["10.10.0.21/24", "fd10::21/64"]
    assert page["dns"] == ["10.10.0.1", "fd10::1"]
    assert small_lab.page("fd10::21")["boot"] == page["boot"]
    assert small_lab.answers_ping("fd10::21")
    assert not small_lab.answers_ping("10.10.0.22")
    # Both disks count, and the second never leads.
    first = small_lab.page("10.10.0.21")
    until(lambda: small_lab.page("10.10.0.21")["counter2"] >= first["counter"] + 3, "both counters to go on")
    second = small_lab.page("10.10.0.21")
    assert second["counter2"] <= second["counter"]

    # Its agent is the real one.
    until(guest.agent_answers, "the guest's agent")
    interfaces = {each["name"]: each for each in guest.ask("guest-network-get-interfaces")}
    assert interfaces["eth0"]["hardware-address"] == MAC
    assert {"10.10.0.21", "fd10::21"} <= {each["ip-address"] for each in interfaces["eth0"]["ip-addresses"]}
    assert guest.run("cat /etc/resolv.conf") == "nameserver 10.10.0.1\nnameserver fd10::1\n"
    handle = guest.ask("guest-file-open", path="/data/netcfg")
    assert guest.ask("guest-file-read", handle=handle)["count"] > 0
    guest.ask("guest-file-close", handle=handle)

    # Frozen, it counts no further, and goes on from there.
    assert guest.ask("guest-fsfreeze-freeze") == 2
    frozen = small_lab.page("10.10.0.21")
    assert [small_lab.page("10.10.0.21")["counter"] for _ in range(10)] == [frozen["counter"]] * 10
    guest.ask("guest-fsfreeze-thaw")
    until(lambda: small_lab.page("10.10.0.21")["counter"] > frozen["counter"], "the counter to go on")

    last = small_lab.page("10.10.0.21")["counter"]
    guest.virsh("shutdown", "--mode", "agent")
    until(guest.off, "the guest to shut down")
    guest.start()
    again = guest.page("10.10.0.21")
    assert again["boot"] != page["boot"]
    assert again["counter"] >= last


def test_what_was_counted_survives_a_kill(small_lab: Lab, guests: Guests) -> None:
    guest = guests.make()
    guest.start()
    guest.page("10.10.0.21")
    until(lambda: small_lab.page("10.10.0.21")["counter"] > 5, "the counter")
    seen = small_lab.page("10.10.0.21")["counter"]
    (qemu,) = small_lab.qemu_pids("p1")
    os.kill(qemu, signal.SIGKILL)
    until(guest.off, "libvirt to see it")
    guest.start()
    assert guest.page("10.10.0.21")["counter"] >= seen


def test_an_injected_configuration_is_kept_and_applied_once(small_lab: Lab, guests: Guests) -> None:
    entry = small_lab.node("p1").directory / "entry"
    entry.write_text(f"id=first\n{INJECTED}")
    guest = guests.make(fw_cfg=entry)
    guest.start()
    page = guest.page("10.10.0.77")
    assert page["source"] == "fw_cfg"
    assert page["addresses"] == ["10.10.0.77/24", "fd10::21/64"]
    assert page["dns"] == ["10.10.0.2", "fd10::1"]
    assert not small_lab.answers_ping("10.10.0.21")
    # A change made in the guest holds at once, and over a restart under the same entry.
    change = "netcfg inject && netcfg apply && ip route && ip -6 route"
    routes = guest.run(change, stdin=f"mac={MAC} v4=10.10.0.88/24 gw4=10.10.0.1 v6=fd10::88/64 gw6=fd10::1\n")
    assert routes.count("default via") == 2
    assert guest.page("10.10.0.88")["addresses"] == ["10.10.0.88/24", "fd10::88/64"]
    guest.virsh("destroy")
    guest.start()
    page = guest.page("10.10.0.88")
    assert (page["source"], page["addresses"]) == ("disk", ["10.10.0.88/24", "fd10::88/64"])


def test_a_configuration_drive(small_lab: Lab, guests: Guests) -> None:
    drive = small_lab.node("p1").storage / "drive.iso"
    make_configuration_drive(drive, netcfg=INJECTED)
    guest = guests.make(configuration_drive=drive, disks=2)
    guest.start()
    page = guest.page("10.10.0.77")
    assert page["source"] == "cidata"
    assert page["addresses"] == ["10.10.0.77/24", "fd10::21/64"]
    assert "counter2" in page


def test_leases_and_adapters_connected_later(small_lab: Lab, guests: Guests) -> None:
    fixed = "v4=10.10.0.22/24,10.10.0.23/24 gw4=10.10.0.1 v6=fd10::22/64 gw6=fd10::1"
    netcfg = f"mac={MAC} dhcp4=1 dhcp6=1\nmac={SECOND_MAC} {fixed}\n"
    adapters = [GuestAdapter(MAC, connected=False), GuestAdapter(SECOND_MAC, connected=False)]
    legacy = GuestAdapter("52:54:00:00:00:23", model="e1000")
    guest = guests.make(netcfg=netcfg, adapters=[*adapters, legacy])
    guest.start()
    assert guest.run("ls /sys/class/net").split() == ["eth0", "eth1", "lo"]
    assert not small_lab.answers_ping("10.10.0.22")
    guest.virsh("domif-setlink", SECOND_MAC, "up")
    for address in ("10.10.0.22", "10.10.0.23", "fd10::22"):
        until(partial(small_lab.answers_ping, address), address)
    guest.virsh("domif-setlink", MAC, "up")

    def leased() -> list[str]:
        return [each for each in small_lab.page("10.10.0.22")["addresses"] if each.endswith(("/128", "/24"))]

    until(lambda: len(leased()) == 4, "leases of both families")
    for lease in leased():
        assert small_lab.answers_ping(lease.partition("/")[0])
    assert small_lab.page("10.10.0.22")["dns"] == ["10.10.0.1", "fd10::1"]


def test_without_an_agent(small_lab: Lab, guests: Guests) -> None:
    guest = guests.make(agent=False)
    guest.start()
    page = guest.page("10.10.0.21")
    assert not guest.agent_answers()
    until(lambda: small_lab.page("10.10.0.21")["counter"] > page["counter"], "the counter")
    guest.virsh("shutdown", "--mode", "acpi")
    until(guest.off, "the power button to work")


def test_a_vm_moves_live_between_nodes_of_a_site(small_lab: Lab, guests: Guests) -> None:
    guest = guests.make(dirty_kib_per_s=64)
    guest.start()
    page = guest.page("10.10.0.21")
    move(small_lab, guest, "p2")
    assert small_lab.qemu_pids("p1") == []
    assert len(small_lab.qemu_pids("p2")) == 1
    after = guest.page("10.10.0.21")
    assert after["boot"] == page["boot"]
    assert after["counter"] >= page["counter"]
    # It still writes there: a file's blocks are counted once the guest has written them back.
    until(lambda: guest.run("sync; ls -s /data/dirty").split()[0] != "0", "something written on the new node")


def move(lab: Lab, guest: Guest, node: str) -> None:
    guest.virsh("migrate", "--live", "--persistent", "--undefinesource", "--unsafe", lab.node(node).tcp_uri)
    guest.node = node


def test_the_image_is_built_once(small_lab: Lab) -> None:
    image = guest_image()
    before = image.initramfs.stat()
    assert guest_image() == image
    assert image.initramfs.stat() == before
    command = ["cpio", "--list", "--quiet", "--file", str(image.initramfs)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {"init", "sbin/qemu-ga", "sbin/dhcpcd", "bin/sh", "modules/virtio_blk"} <= set(listed)
    # The kernel makes no directories of its own.
    assert [name for name in listed if "/" in name and name.rpartition("/")[0] not in listed] == []
