"""Elements of a domain's XML: how they are found, read and changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from xml.etree import ElementTree as ET

from failover_orch.hypervisors.libvirt.record import METADATA_URI

__all__ = [
    "adapter_id",
    "attribute",
    "changed",
    "child",
    "drop_metadata",
    "drop_own_metadata",
    "is_connected",
    "is_written",
    "mac",
    "parsed",
    "plug",
    "remove",
    "set_disks",
    "set_link",
    "set_links",
    "target",
    "text_of",
]


def parsed(xml: str) -> ET.Element:
    return ET.fromstring(xml)  # noqa: S314 - from libvirt, which has parsed it, or looked at by `read_foreign`


def text_of(element: ET.Element) -> str:
    return ET.tostring(element, encoding="unicode")


def changed(xml: str, change: Callable[[ET.Element], None]) -> str:
    """The XML once `change` was done to its root."""
    root = parsed(xml)
    change(root)
    return text_of(root)


def child(parent: ET.Element, tag: str) -> ET.Element:
    """The first child of that tag, which is made where there is none."""
    found = parent.find(tag)
    return ET.SubElement(parent, tag) if found is None else found


def attribute(parent: ET.Element, tag: str, name: str) -> str:
    """A child's attribute; empty where there is none."""
    found = parent.find(tag)
    return "" if found is None else found.get(name, "")


def remove(parent: ET.Element, *paths: str) -> None:
    """Remove the children that are found so."""
    for path in paths:
        for found in parent.findall(path):
            parent.remove(found)


def drop_metadata(domain: ET.Element, uri: str) -> None:
    """Remove the metadata of that namespace."""
    for metadata in domain.findall("metadata"):
        remove(metadata, f"{{{uri}}}*")


def drop_own_metadata(domain: ET.Element) -> None:
    """Remove all metadata that is ours, whatever each element is for."""
    for metadata in domain.findall("metadata"):
        for element in metadata.findall("*"):
            if element.tag.startswith(f"{{{METADATA_URI}"):
                metadata.remove(element)


# Disks


def is_written(drive: ET.Element) -> bool:
    """Whether the VM writes to it."""
    return drive.get("device", "disk") in ("disk", "lun") and drive.find("readonly") is None


def target(drive: ET.Element) -> str:
    """The drive's name in the domain, such as `vda`."""
    return attribute(drive, "target", "dev")


def set_disks(domain: ET.Element, paths: Mapping[str, str]) -> None:
    """Have the disks, by their targets, at these paths."""
    for drive in domain.iterfind("devices/disk"):
        path = paths.get(target(drive))
        if path is not None:
            # What it says of the chain below is of the old place: QEMU reads that from the files.
            remove(drive, "backingStore", "mirror")
            drive.set("type", "file")
            source = child(drive, "source")
            source.attrib.clear()
            source.set("file", path)


# Adapters


def mac(interface: ET.Element) -> str:
    """Its MAC address, in lower case with colons."""
    return attribute(interface, "mac", "address").lower()


def adapter_id(interface: ET.Element) -> str:
    """The alias that its user gave it, or else its MAC address without colons."""
    alias = attribute(interface, "alias", "name")
    return alias.removeprefix("ua-") if alias.startswith("ua-") else mac(interface).replace(":", "")


def is_connected(interface: ET.Element) -> bool:
    return attribute(interface, "link", "state") != "down"


def set_links(domain: ET.Element, *, connected: bool) -> None:
    """Connect all adapters, or disconnect them."""
    for interface in domain.iterfind("devices/interface"):
        set_link(interface, connected=connected)


def set_link(interface: ET.Element, *, connected: bool) -> None:
    child(interface, "link").set("state", "up" if connected else "down")


def plug(interface: ET.Element, bridge: str) -> None:
    """Plug an adapter into a bridge; into none where it is empty: then the node's end is a tap that leads nowhere."""
    remove(interface, "source", "virtualport", "portForwarding", "backend")
    interface.set("type", "bridge" if bridge else "ethernet")
    if bridge:
        ET.SubElement(interface, "source", {"bridge": bridge})
