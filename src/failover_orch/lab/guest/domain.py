"""libvirt's description of a tiny guest."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failover_orch.lab.guest.image import GuestImage

__all__ = ["GuestAdapter", "domain_xml"]

MEMORY_MIB = 128


@dataclass(frozen=True, slots=True)
class GuestAdapter:
    """A network adapter. `model` virtio is a synthetic one; e1000 and rtl8139 are legacy: the guest has no driver.

    `alias` is libvirt's user alias, which begins with `ua-`.
    """

    mac: str
    bridge: str = "br0"
    model: str = "virtio"
    connected: bool = True
    alias: str = ""


def domain_xml(
    name: str,
    image: GuestImage,
    *,
    uuid: str,
    disks: Sequence[Path],
    adapters: Sequence[GuestAdapter],
    serial_log: Path,
    agent: bool = True,
    agent_channel: bool = True,
    configuration_drive: Path | None = None,
    fw_cfg: Path | None = None,
    dirty_kib_per_s: int = 0,
    memory_mib: int = MEMORY_MIB,
    machine: str = "pc",
) -> str:
    """A tiny guest's domain. `disks` are qcow2 images; the first holds its network configuration.

    `agent` says whether the guest runs its agent, `agent_channel` whether the domain has a channel for one. `fw_cfg` is
    a file with a configuration to be merged at boot.
    """
    domain = ET.Element("domain", type="qemu")
    _add(domain, "name", name)
    _add(domain, "uuid", uuid)
    _add(domain, "memory", str(memory_mib), unit="MiB")
    _add(domain, "vcpu", "1")
    if fw_cfg is not None:
        sysinfo = _add(domain, "sysinfo", type="fwcfg")
        _add(sysinfo, "entry", name="opt/org.failover-orch/netcfg", file=str(fw_cfg))
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine=machine)
    _add(system, "kernel", str(image.kernel))
    _add(system, "initrd", str(image.initramfs))
    _add(system, "cmdline", " ".join(_command_line(name, agent, dirty_kib_per_s)))
    features = _add(domain, "features")
    _add(features, "acpi")
    _add(domain, "clock", offset="utc")
    _add(domain, "on_reboot", "restart")
    _add(domain, "on_crash", "destroy")
    devices = _add(domain, "devices")
    _add(devices, "emulator", "/usr/bin/qemu-system-x86_64")
    for number, disk in enumerate(disks):
        _disk(devices, disk, "qcow2", f"vd{chr(ord('a') + number)}")
    if configuration_drive is not None:
        drive = _disk(devices, configuration_drive, "raw", f"vd{chr(ord('a') + len(disks))}")
        _add(drive, "readonly")
    for adapter in adapters:
        _adapter(devices, adapter)
    serial = _add(devices, "serial", type="file")
    _add(serial, "source", path=str(serial_log), append="on")
    if agent_channel:
        channel = _add(devices, "channel", type="unix")
        _add(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    _add(devices, "controller", type="usb", model="none")
    _add(devices, "memballoon", model="none")
    _add(devices, "input", type="keyboard", bus="ps2")
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode")


def _command_line(name: str, agent: bool, dirty_kib_per_s: int) -> list[str]:
    kernel = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on cryptomgr.notests tsc=reliable"
    return [kernel, f"guest.name={name}", f"guest.agent={int(agent)}", f"guest.dirty_kib={dirty_kib_per_s}"]


def _disk(devices: ET.Element, path: Path, kind: str, target: str) -> ET.Element:
    disk = _add(devices, "disk", type="file", device="disk")
    _add(disk, "driver", name="qemu", type=kind)
    _add(disk, "source", file=str(path))
    _add(disk, "target", dev=target, bus="virtio")
    return disk


def _adapter(devices: ET.Element, adapter: GuestAdapter) -> None:
    interface = _add(devices, "interface", type="bridge")
    _add(interface, "mac", address=adapter.mac)
    _add(interface, "source", bridge=adapter.bridge)
    _add(interface, "model", type=adapter.model)
    _add(interface, "link", state="up" if adapter.connected else "down")
    _add(interface, "rom", enabled="no")
    if adapter.alias:
        _add(interface, "alias", name=adapter.alias)


def _add(parent: ET.Element, tag: str, text: str = "", **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text or None
    return element
