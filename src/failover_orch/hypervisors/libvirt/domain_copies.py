"""A domain's XML made into that of a replica at another site, or of a test copy. All pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from xml.etree import ElementTree as ET

from failover_orch.hypervisors.libvirt.domain_xml import drop_injection, with_metadata
from failover_orch.hypervisors.libvirt.record import METADATA_URI
from failover_orch.hypervisors.libvirt.xml_elements import (
    adapter_id,
    changed,
    child,
    drop_own_metadata,
    is_written,
    plug,
    remove,
    set_disks,
    set_links,
    text_of,
)

__all__ = ["TEST_KEY", "TEST_URI", "as_copy", "as_replica"]

TEST_URI = f"{METADATA_URI}:test"
"""The namespace of a test copy's metadata element, whose text is the id of the VM that it is a copy of."""
TEST_KEY = "failovertest"
_EMPTY_DRIVES = ("cdrom", "floppy")
"""Drives that go along without what is in them."""


def as_replica(xml: str, *, paths: Mapping[str, str], bridges: Mapping[str, str]) -> str:
    """A primary's inactive XML as its replica's at another site: with its adapters disconnected, without a record.

    `paths` are the disks' by their targets, `bridges` the adapters' by their ids. What belongs to the node that it
    comes from, or is not replicated, is left out: log files, ports, media in drives, firmware variables.
    """

    def change(domain: ET.Element) -> None:
        _take_from_node(domain)
        set_disks(domain, paths)
        for interface in domain.iterfind("devices/interface"):
            bridge = bridges.get(adapter_id(interface))
            if bridge is not None:
                plug(interface, bridge)
        set_links(domain, connected=False)

    return changed(xml, change)


def as_copy(xml: str, *, name: str, uuid: str, vm_id: str, paths: Mapping[str, str], bridge: str) -> str:
    """A replica's inactive XML as its test copy's, with all its adapters connected to `bridge` alone.

    Empty: they are plugged in nowhere. MACs stay: the guest tells its adapters by them.
    """

    def change(domain: ET.Element) -> None:
        _take_from_node(domain)
        child(domain, "name").text = name
        child(domain, "uuid").text = uuid
        set_disks(domain, paths)
        for interface in domain.iterfind("devices/interface"):
            plug(interface, bridge)
        set_links(domain, connected=bool(bridge))

    copy_of = ET.Element("copy")
    copy_of.text = vm_id
    return with_metadata(changed(xml, change), TEST_URI, TEST_KEY, text_of(copy_of))


def _take_from_node(domain: ET.Element) -> None:
    """Take out whatever names files, ports and interfaces of the node that it is on, and the VM's own record."""
    drop_injection(domain)
    drop_own_metadata(domain)
    remove(domain, "seclabel", "resource")
    devices = child(domain, "devices")
    remove(devices, "emulator")
    for path, change in _OF_THE_NODE.items():
        for element in domain.findall(path):
            change(element)
    for drive in devices.findall("disk"):
        if drive.get("device", "disk") not in _EMPTY_DRIVES and not is_written(drive):
            devices.remove(drive)


def _firmware(system: ET.Element) -> None:
    """Have libvirt make its variables anew: their file is not replicated."""
    for variables in system.findall("nvram"):
        variables.text = None
        if not variables.get("template"):
            system.remove(variables)


def _drive(drive: ET.Element) -> None:
    remove(drive, "seclabel")
    for source in drive.findall("source"):
        remove(source, "seclabel")
    if drive.get("device") in _EMPTY_DRIVES:
        remove(drive, "source", "backingStore", "mirror")


def _port(port: ET.Element) -> None:
    remove(port, "log")
    if port.get("type") == "file":
        port.set("type", "pty")
        remove(port, "source")


def _channel(channel: ET.Element) -> None:
    if channel.get("type") == "unix":
        remove(channel, "source")


def _graphics(graphics: ET.Element) -> None:
    for name in ("port", "tlsPort", "websocket", "listen", "socket"):
        graphics.attrib.pop(name, None)
    graphics.set("autoport", "yes")
    remove(graphics, "listen")


_OF_THE_NODE: Mapping[str, Callable[[ET.Element], None]] = {
    "os": _firmware,
    "devices/disk": _drive,
    "devices/interface": lambda interface: remove(interface, "target"),
    "devices/serial": _port,
    "devices/console": _port,
    "devices/parallel": _port,
    "devices/channel": _channel,
    "devices/graphics": _graphics,
}
