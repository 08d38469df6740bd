"""What is read in a domain's XML, and what is changed in it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from failover_orch.domain.inventory import Adapter, AdapterKind
from failover_orch.hypervisors.libvirt.domain_copies import TEST_KEY, TEST_URI, as_copy, as_replica
from failover_orch.hypervisors.libvirt.domain_xml import (
    Description,
    Disk,
    DomainAdapter,
    describe,
    injected,
    inventory_adapters,
    links,
    with_disks,
    with_fw_cfg,
    with_links,
    with_metadata,
    with_volume,
    without_injection,
)
from failover_orch.hypervisors.libvirt.record import METADATA_KEY, METADATA_URI

UUID = "4f1c2b70-62c8-4a8e-9c3b-1d2e3f405162"
XML = f"""
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>erp-db</name>
  <uuid>{UUID}</uuid>
  <title>the database</title>
  <metadata>
    <failover:vm xmlns:failover="{METADATA_URI}" id="vm-1"><failover:record>e30=</failover:record></failover:vm>
    <os:libosinfo xmlns:os="http://libosinfo.org/xmlns/libvirt/domain/1.0"><os:os id="debian12"/></os:libosinfo>
  </metadata>
  <memory unit='KiB'>2097152</memory>
  <vcpu placement='static'>2</vcpu>
  <sysinfo type='fwcfg'><entry name='opt/org.example/other'>kept</entry></sysinfo>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/var/lib/libvirt/qemu/nvram/erp-db_VARS.fd</nvram>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='/csv/p/erp-db.qcow2' index='3'/><backingStore/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='/csv/p/erp-db-logs.qcow2'/><target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='/csv/p/own-seed.iso'/><target dev='vdc' bus='virtio'/><readonly/>
    </disk>
    <disk type='file' device='cdrom'>
      <source file='/iso/debian.iso'/><target dev='sda' bus='sata'/><readonly/>
    </disk>
    <interface type='bridge'>
      <mac address='00:15:5D:0A:00:01'/><source bridge='br0'/><target dev='vnet7'/><model type='virtio'/>
      <alias name='ua-nic-1'/>
    </interface>
    <interface type='network'>
      <mac address='00:15:5d:0a:00:02'/><source network='default' portid='1' bridge='virbr0'/>
      <model type='e1000'/><link state='down'/><alias name='net1'/>
    </interface>
    <serial type='file'><source path='/var/log/erp-db.log' append='on'/><target port='0'/></serial>
    <channel type='unix'>
      <source mode='bind' path='/run/libvirt/qemu/channel/7/org.qemu.guest_agent.0'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
    <graphics type="vnc" port="5907" autoport="no" listen="10.0.0.11">
      <listen type="address" address="10.0.0.11"/>
    </graphics>
  </devices>
  <seclabel type='dynamic' model='dac'/>
  <qemu:commandline><qemu:arg value='-no-shutdown'/></qemu:commandline>
</domain>
"""
PATHS = {"vda": "/csv/d/one.qcow2", "vdb": "/csv/d/two.qcow2"}


def test_what_a_domain_says_of_its_vm() -> None:
    assert describe(XML) == Description(
        name="erp-db",
        uuid=UUID,
        memory_mib=2048,
        cpus=2,
        disks=(Disk("vda", "/csv/p/erp-db.qcow2", "qcow2"), Disk("vdb", "/csv/p/erp-db-logs.qcow2", "qcow2")),
        others=("vdc", "sda"),
        adapters=(
            DomainAdapter("nic-1", "00:15:5d:0a:00:01", AdapterKind.SYNTHETIC, "br0", connected=True),
            DomainAdapter("00155d0a0002", "00:15:5d:0a:00:02", AdapterKind.LEGACY, "virbr0", connected=False),
        ),
        agent_channel=True,
        agent_connected=True,
    )
    assert describe(XML).storage == "/csv/p"


def test_a_bare_domain() -> None:
    bare = "<domain><name>n</name><memory unit='MiB'>128</memory><devices/></domain>"
    assert describe(bare) == Description("n", "", 128, 1, (), (), (), agent_channel=False, agent_connected=False)
    assert describe(bare).storage == ""


def test_networks_are_told_by_their_names() -> None:
    assert inventory_adapters(describe(XML), {"lan": "br0", "backup": "br1"}) == (
        Adapter("nic-1", AdapterKind.SYNTHETIC, "00:15:5d:0a:00:01", "lan"),
        Adapter("00155d0a0002", AdapterKind.LEGACY, "00:15:5d:0a:00:02", "virbr0"),
    )


def test_disks_are_put_elsewhere_and_nothing_else_changes() -> None:
    changed = with_disks(XML, PATHS)
    assert [disk.path for disk in describe(changed).disks] == list(PATHS.values())
    # What the XML says of the chain below a disk is of the place that it was at.
    assert "backingStore" not in changed
    assert "index=" not in changed
    back = with_disks(changed, {disk.target: disk.path for disk in describe(XML).disks})
    assert describe(back) == describe(XML)
    assert ("own-seed.iso" in changed, "debian.iso" in changed, "-no-shutdown" in changed) == (True, True, True)


@pytest.mark.parametrize("connected", [True, False])
def test_links_are_set_in_the_inactive_xml_and_on_devices_alike(connected: bool) -> None:
    changed = with_links(XML, connected=connected)
    assert [adapter.connected for adapter in describe(changed).adapters] == [connected, connected]
    (device,) = links(XML, connected=connected)
    element = ET.fromstring(device)
    assert element.tag == "interface"
    assert element.find("link").get("state") == ("up" if connected else "down")  # type: ignore[union-attr]
    assert element.find("mac").get("address") == ("00:15:5d:0a:00:02" if connected else "00:15:5D:0A:00:01")  # type: ignore[union-attr]
    assert links(changed, connected=connected) == ()


def test_a_record_is_defined_with_its_domain() -> None:
    changed = with_metadata(XML, METADATA_URI, METADATA_KEY, '<vm id="vm-1"><record>bmV3</record></vm>')
    domain = ET.fromstring(changed)
    assert domain.findtext(f"metadata/{{{METADATA_URI}}}vm/{{{METADATA_URI}}}record") == "bmV3"
    assert len(domain.findall("metadata/*")) == 2
    assert f"<{METADATA_KEY}:vm" in changed
    first = with_metadata("<domain/>", METADATA_URI, METADATA_KEY, "<vm/>")
    assert ET.fromstring(first).find(f"metadata/{{{METADATA_URI}}}vm") is not None


def test_what_is_injected_replaces_what_was() -> None:
    text = "id=run-1\nmac=00:15:5d:0a:00:01 v4=10.50.0.21/24\n"
    by_firmware = with_fw_cfg(with_volume(XML, "/csv/p/older.iso"), text)
    assert injected(by_firmware) == (text, "")
    by_volume = with_volume(by_firmware, "/csv/p/newer.iso")
    assert injected(by_volume) == ("", "/csv/p/newer.iso")
    for changed in (by_firmware, by_volume):
        # Neither is a disk of the VM's own, and what else the firmware's configuration holds is not ours.
        assert describe(changed).disks == describe(XML).disks
        assert "opt/org.example/other" in changed
        cleared = without_injection(changed)
        assert (injected(cleared), describe(cleared)) == (("", ""), describe(XML))
        assert "opt/org.example/other" in cleared


def test_an_empty_firmware_configuration_goes() -> None:
    bare = "<domain><devices/></domain>"
    assert without_injection(with_fw_cfg(bare, "id=run-1")) == "<domain><devices /></domain>"


@pytest.mark.parametrize(
    ("bus", "taken", "expected"),
    [
        ("virtio", "vda", ("vdb", "disk")),
        ("virtio", "vdb", ("vdc", "disk")),
        ("sata", "sda", ("sdb", "cdrom")),
        ("ide", "hda", ("hdb", "cdrom")),
    ],
)
def test_a_volume_takes_a_free_place_on_the_disks_bus(bus: str, taken: str, expected: tuple[str, str]) -> None:
    bare = f"<domain><devices><disk><target dev='{taken}' bus='{bus}'/></disk></devices></domain>"
    drive = ET.fromstring(with_volume(bare, "/csv/p/x.iso")).findall("devices/disk")[1]
    target = drive.find("target")
    assert target is not None
    assert (target.get("dev"), drive.get("device"), target.get("bus")) == (*expected, bus)
    assert drive.find("readonly") is not None


def test_a_replica_is_disconnected_elsewhere_and_has_nothing_of_its_primarys_node() -> None:
    replica = as_replica(with_fw_cfg(XML, "id=run-1"), paths=PATHS, bridges={"nic-1": "br5", "00155d0a0002": "br6"})
    description = describe(replica)
    assert (description.name, description.uuid) == ("erp-db", UUID)
    assert [disk.path for disk in description.disks] == list(PATHS.values())
    assert [(each.adapter_id, each.mac, each.network, each.connected) for each in description.adapters] == [
        ("nic-1", "00:15:5d:0a:00:01", "br5", False),
        ("00155d0a0002", "00:15:5d:0a:00:02", "br6", False),
    ]
    assert injected(replica) == ("", "")
    for left_behind in (
        *("/csv/p/", "/iso/", "/var/log", "/run/libvirt", "10.0.0.11", "5907", "vnet7", "erp-db_VARS", "emulator"),
        *("seclabel", METADATA_URI, "default", "portid"),
    ):
        assert left_behind not in replica, left_behind
    for kept in ("the database", "OVMF_VARS.fd", "libosinfo", "-no-shutdown", "opt/org.example/other", "pc-q35-7.2"):
        assert kept in replica, kept
    ports = ET.fromstring(replica).findall("devices/serial")
    assert [(port.get("type"), port.find("source")) for port in ports] == [("pty", None)]
    cd = next(drive for drive in ET.fromstring(replica).iterfind("devices/disk") if drive.get("device") == "cdrom")
    assert cd.find("source") is None
    # A read-only disk is not replicated, and a domain does not start without one of its files.
    assert description.others == ("sda",)


def test_an_adapter_whose_network_is_not_known_there_keeps_its_bridge() -> None:
    replica = describe(as_replica(XML, paths=PATHS, bridges={"nic-1": "br5"}))
    assert [adapter.network for adapter in replica.adapters] == ["br5", "virbr0"]


@pytest.mark.parametrize("bridge", ["br-test", ""])
def test_a_test_copy_is_on_its_network_alone(bridge: str) -> None:
    replica = as_replica(XML, paths=PATHS, bridges={"nic-1": "br0", "00155d0a0002": "br1"})
    paths = {target: f"{path}.test" for target, path in PATHS.items()}
    copy = as_copy(replica, name="erp-db - Test", uuid="u-2", vm_id="vm-1", paths=paths, bridge=bridge)
    description = describe(copy)
    assert (description.name, description.uuid) == ("erp-db - Test", "u-2")
    assert [disk.path for disk in description.disks] == list(paths.values())
    assert [(each.network, each.connected) for each in description.adapters] == [(bridge, bool(bridge))] * 2
    assert [each.mac for each in description.adapters] == [each.mac for each in describe(replica).adapters]
    kinds = {interface.get("type") for interface in ET.fromstring(copy).iterfind("devices/interface")}
    assert kinds == {"bridge" if bridge else "ethernet"}
    assert ET.fromstring(copy).findtext(f"metadata/{{{TEST_URI}}}copy") == "vm-1"
    assert f"<{TEST_KEY}:copy" in copy


def test_a_copy_of_a_vm_that_runs_takes_neither_its_record_nor_its_addresses_along() -> None:
    copy = as_copy(with_fw_cfg(XML, "id=run-1"), name="c", uuid="u-2", vm_id="vm-1", paths=PATHS, bridge="br-test")
    assert injected(copy) == ("", "")
    assert ET.fromstring(copy).find(f"metadata/{{{METADATA_URI}}}vm") is None
