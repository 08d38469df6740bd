"""What another site may not put into the domain of a replica: each rule of `foreign_xml` broken."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest

from failover_orch.hypervisors.libvirt import foreign_xml
from failover_orch.hypervisors.libvirt.domain_copies import as_replica
from failover_orch.hypervisors.libvirt.foreign_xml import boot_files, objections, read_foreign
from failover_orch.hypervisors.libvirt.xml_elements import parsed

PATHS = {"vda": "/replicas/vm-1/vda.qcow2"}
DISK = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='/csv/p/erp-db.qcow2' index='3'/><target dev='vda' bus='virtio'/>
    </disk>
"""
XML = f"""
<domain type='kvm'>
  <name>erp-db</name><uuid>4f1c2b70-62c8-4a8e-9c3b-1d2e3f405162</uuid>
  <metadata>
    <os:libosinfo xmlns:os="http://libosinfo.org/xmlns/libvirt/domain/1.0"><os:os id="debian12"/></os:libosinfo>
  </metadata>
  <memory unit='KiB'>2097152</memory><vcpu>2</vcpu>
  <sysinfo type='fwcfg'><entry name='opt/org.example/other'>kept</entry></sysinfo>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/var/lib/libvirt/qemu/nvram/erp-db_VARS.fd</nvram>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>{DISK}
    <disk type='file' device='cdrom'>
      <source file='/iso/debian.iso'/><backingStore type='file'><source file='/iso/b'/></backingStore>
      <target dev='sda' bus='sata'/><readonly/>
    </disk>
    <controller type='usb' model='none'/>
    <interface type='bridge'>
      <mac address='00:15:5D:0A:00:01'/><source bridge='br0'/><target dev='vnet7'/><model type='virtio'/>
      <driver name='vhost' queues='2'/><rom enabled='no'/>
    </interface>
    <serial type='file'><source path='/var/log/erp-db.log' append='on'/><target port='0'/></serial>
    <console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/><target type='serial' port='0'/></console>
    <channel type='unix'>
      <source mode='bind' path='/run/libvirt/qemu/channel/7/org.qemu.guest_agent.0'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='5907' autoport='no' listen='10.0.0.11'/>
    <audio id='1' type='none'/>
    <video><model type='virtio'/></video>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <memballoon model='virtio'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
  <seclabel type='dynamic' model='dac'/>
</domain>
"""


def objected(xml: str) -> Sequence[str]:
    read_foreign(xml)
    return objections(parsed(as_replica(xml, paths=PATHS, bridges={})), PATHS.values())


def with_device(device: str) -> str:
    return XML.replace("</devices>", f"{device}</devices>")


def test_an_ordinary_vm_is_taken() -> None:
    assert objected(XML) == ()


BOMB = '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {name} "{f"&{below};" * 10}">' for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("xml", "sentence"),
    [
        (f"{BOMB}]><domain type='kvm'><name>&i;</name></domain>", "X1 it has a document type, 'd'"),
        ('<!DOCTYPE d [<!ENTITY f SYSTEM "file:///etc/shadow">]><domain>&f;</domain>', "X1 it has a document type"),
        ('<!DOCTYPE d SYSTEM "http://198.51.100.1/d.dtd"><domain/>', "X1 it has a document type"),
        ("<domain", "X1 it is no XML"),
        ("", "X1 it is no XML"),
    ],
)
def test_entities_are_never_read(xml: str, sentence: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=sentence):
        read_foreign(xml)
    assert time.monotonic() - began < 1


QEMU = "xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'"


@pytest.mark.parametrize(
    ("xml", "rule"),
    [
        (XML.replace("</domain>", f"<q:commandline {QEMU}><q:arg value='-x'/></q:commandline></domain>"), "X2"),
        # libvirt reads `source` whatever its namespace is, and takes the first.
        (XML.replace("<source file='/csv", "<x:source xmlns:x='u:x' file='/etc/shadow'/><source file='/csv"), "X2"),
        (XML.replace("type='kvm'", "type='lxc'", 1), "X3"),
        (XML.replace("<devices>", "<devices/><devices>"), "X3"),
        (XML.replace("<devices>", "<os><kernel>/etc/shadow</kernel></os><devices>"), "X3"),
        (with_device("<filesystem><source dir='/'/><target dir='root'/></filesystem>"), "X4"),
        (with_device("<hostdev mode='subsystem' type='pci'/>"), "X4"),
        (with_device("<shmem name='s'/>"), "X4"),
        (with_device("<smartcard mode='host'/>"), "X4"),
        (with_device("<memory model='nvdimm'><source><path>/etc/shadow</path></source></memory>"), "X4"),
        (with_device("<pstore backend='acpi-erst'><path>/etc/shadow</path></pstore>"), "X4"),
        (with_device("<input type='evdev'><source dev='/dev/input/event0'/></input>"), "X4"),
        (with_device("<graphics type='dbus' address='unix:path=/run/x'/>"), "X4"),
        (with_device("<interface type='ethernet'><script path='/root/x'/></interface>"), "X5"),
        (with_device("<interface type='ethernet'><downscript path='/root/x'/></interface>"), "X5"),
        (with_device("<interface type='hostdev'/>"), "X5"),
        (with_device("<interface type='vhostuser'><source type='unix' path='/run/x'/></interface>"), "X5"),
        (XML.replace("<rom enabled='no'/>", "<rom file='/etc/shadow'/>"), "X5"),
        (XML.replace("<rom enabled='no'/>", "<backend tap='/dev/x'/>"), "X5"),
        (with_device("<serial type='dev'><source path='/dev/sda'/></serial>"), "X6"),
        (with_device("<console type='tcp'><source host='10.0.0.1' service='22'/></console>"), "X6"),
        (with_device("<channel type='pipe'><source path='/run/x'/></channel>"), "X6"),
        (with_device("<channel type='spicevmc'><log file='/etc/cron.d/x'/></channel>"), "X6"),
        (with_device("<redirdev type='tcp'><source host='10.0.0.1' service='22'/></redirdev>"), "X6"),
        (XML.replace("/dev/urandom", "/etc/shadow"), "X7"),
        (XML.replace("model='random'>/dev/urandom", "model='egd' type='tcp'>"), "X7"),
        (XML.replace("<backend type='emulator' version", "<backend type='passthrough' version"), "X7"),
        (XML.replace("<audio id='1' type='none'/>", "<audio id='1' type='file' path='/etc/x'/>"), "X7"),
        (XML.replace("<audio id='1' type='none'/>", "<audio id='1' type='none'><input dev='/dev/x'/></audio>"), "X7"),
        (XML.replace("dev='vda'", "dev='../../vda'"), "X8"),
        (XML.replace("<target dev='vda' bus='virtio'/>", ""), "X8"),
        (with_device(DISK), "X8"),
        (XML.replace("<target dev='vda'", "<source file='/etc/shadow'/><target dev='vda'"), "X8"),
        (
            XML.replace(" index='3'/>", "><reservations managed='no'><source path='/run/x'/></reservations></source>"),
            "X8",
        ),
        (XML.replace("/usr/share/OVMF/OVMF_CODE.fd", "/etc/shadow"), "X9"),
        (XML.replace("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/../../etc/shadow"), "X9"),
        (XML.replace("readonly='yes' type='pflash'", "readonly='no' type='pflash'"), "X9"),
        (XML.replace("template='/usr/share/OVMF/OVMF_VARS.fd'", "template='/etc/shadow'"), "X9"),
        (XML.replace(">kept<", " file='/etc/shadow'><"), "X10"),
    ],
)
def test_what_is_of_the_node_is_refused(xml: str, rule: str) -> None:
    assert xml != XML
    found = objected(xml)
    assert {objection.partition(" ")[0] for objection in found} >= {rule}, found


@pytest.mark.parametrize("device", ["disk", "lun"])
def test_a_read_only_disk_of_the_node_does_not_come_along(device: str) -> None:
    """One that is not written to is not among the disks that are put elsewhere."""
    raw = f"<disk type='block' device='{device}'><source dev='/dev/sda'/><target dev='vdz'/><readonly/></disk>"
    replica = as_replica(with_device(raw), paths=PATHS, bridges={})
    assert "/dev/sda" not in replica
    assert objections(parsed(replica), PATHS.values()) == ()


def test_what_is_in_a_drive_does_not_come_along() -> None:
    assert "/iso/" not in as_replica(XML, paths=PATHS, bridges={})


def test_the_files_that_it_boots_from_are_named() -> None:
    booted = XML.replace("<os>", "<os><kernel>/boot/vmlinuz</kernel><initrd> /boot/initrd </initrd>")
    assert boot_files(parsed(booted)) == ("/boot/vmlinuz", "/boot/initrd")


def test_every_rule_of_the_table_is_tried() -> None:
    told = set(re.findall(r"^\| (X\d+) \|", foreign_xml.__doc__ or "", re.MULTILINE))
    parameters = test_what_is_of_the_node_is_refused.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert told == {rule for _, rule in parameters} | {"X1", "X11"}
