"""A domain's XML: what it says of a VM, and what failovers change in it. All pure.

Whatever is not named here stays in the XML as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from failover_orch.domain.inventory import Adapter, AdapterKind
from failover_orch.hypervisors.libvirt.xml_elements import (
    adapter_id,
    attribute,
    changed,
    child,
    drop_metadata,
    is_connected,
    is_written,
    mac,
    parsed,
    remove,
    set_disks,
    set_link,
    set_links,
    target,
    text_of,
)

__all__ = [
    "FW_CFG_ENTRY",
    "Description",
    "Disk",
    "DomainAdapter",
    "describe",
    "drop_injection",
    "injected",
    "inventory_adapters",
    "links",
    "with_disks",
    "with_fw_cfg",
    "with_links",
    "with_metadata",
    "with_volume",
    "without_injection",
]

FW_CFG_ENTRY = "opt/org.failover-orch/netcfg"
_VOLUME_ALIAS = "ua-failover-cidata"
_AGENT_CHANNEL = "devices/channel/target[@name='org.qemu.guest_agent.0']"
_SYNTHETIC_MODELS = frozenset({"virtio", "virtio-transitional", "virtio-non-transitional"})
_TARGET_PREFIXES = {"virtio": "vd", "ide": "hd"}
_KIB = {"KiB": 1, "MiB": 1024, "GiB": 1024 * 1024}


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that the VM writes to. `path` is empty where it is no file; `format` is such as `qcow2`."""

    target: str
    path: str
    format: str


@dataclass(frozen=True, slots=True)
class DomainAdapter:
    """A network adapter. `network` is its bridge, or libvirt's network; empty: it is plugged in nowhere."""

    adapter_id: str
    mac: str
    kind: AdapterKind
    network: str
    connected: bool


@dataclass(frozen=True, slots=True)
class Description:
    """What a domain's XML says of the VM. `others`: the targets of drives that it does not write to."""

    name: str
    uuid: str
    memory_mib: int
    cpus: int
    disks: tuple[Disk, ...]
    others: tuple[str, ...]
    adapters: tuple[DomainAdapter, ...]
    agent_channel: bool
    """Whether there is a channel for a guest agent."""
    agent_connected: bool
    """Whether the agent has opened it; False in the XML of a domain that is off."""

    @property
    def storage(self) -> str:
        """The directory of its first disk."""
        return self.disks[0].path.rpartition("/")[0] if self.disks else ""


def describe(xml: str) -> Description:
    """What the XML of a domain says, live or inactive. Links are those of the state that it is of."""
    domain = parsed(xml)
    memory = domain.find("memory")
    channel = domain.find(_AGENT_CHANNEL)
    drives = domain.findall("devices/disk")
    return Description(
        name=domain.findtext("name", ""),
        uuid=domain.findtext("uuid", ""),
        memory_mib=0 if memory is None else int(memory.text or 0) * _KIB[memory.get("unit", "KiB")] // 1024,
        cpus=int(domain.findtext("vcpu", "1")),
        disks=tuple(
            Disk(target(drive), attribute(drive, "source", "file"), attribute(drive, "driver", "type") or "raw")
            for drive in drives
            if is_written(drive)
        ),
        others=tuple(target(drive) for drive in drives if not is_written(drive)),
        adapters=tuple(
            DomainAdapter(
                adapter_id=adapter_id(interface),
                mac=mac(interface),
                kind=_kind(interface),
                network=attribute(interface, "source", "bridge") or attribute(interface, "source", "network"),
                connected=is_connected(interface),
            )
            for interface in domain.iterfind("devices/interface")
        ),
        agent_channel=channel is not None,
        agent_connected=channel is not None and channel.get("state") == "connected",
    )


def inventory_adapters(description: Description, networks: Mapping[str, str]) -> tuple[Adapter, ...]:
    """The VM's adapters as its inventory tells them, without addresses. `networks` gives each network's bridge."""
    names = {bridge: name for name, bridge in networks.items()}
    return tuple(
        Adapter(adapter.adapter_id, adapter.kind, adapter.mac, names.get(adapter.network, adapter.network))
        for adapter in description.adapters
    )


def with_disks(xml: str, paths: Mapping[str, str]) -> str:
    """The domain with its disks, by their targets, at these paths."""
    return changed(xml, lambda domain: set_disks(domain, paths))


def with_links(xml: str, *, connected: bool) -> str:
    """The domain with all its adapters connected, or none."""
    return changed(xml, lambda domain: set_links(domain, connected=connected))


def links(xml: str, *, connected: bool) -> tuple[str, ...]:
    """Each adapter that is not connected so, as the device's XML with which the domain is to be updated."""
    devices = []
    for interface in parsed(xml).iterfind("devices/interface"):
        if is_connected(interface) is not connected:
            set_link(interface, connected=connected)
            interface.tail = None
            devices.append(text_of(interface))
    return tuple(devices)


def with_metadata(xml: str, uri: str, key: str, element: str) -> str:
    """The domain with this element as its metadata of that namespace, as libvirt's `setMetadata` leaves it.

    `key` is the namespace's prefix; empty: any.
    """
    if key:
        ET.register_namespace(key, uri)

    def change(domain: ET.Element) -> None:
        drop_metadata(domain, uri)
        root = parsed(element)
        for each in root.iter():
            if not each.tag.startswith("{"):
                each.tag = f"{{{uri}}}{each.tag}"
        child(domain, "metadata").append(root)

    return changed(xml, change)


def with_fw_cfg(xml: str, text: str) -> str:
    """The domain with this text, and nothing else, as what is injected into its guest.

    Inline: so nothing lies about on nodes, and a migration takes it along.
    """

    def change(domain: ET.Element) -> None:
        drop_injection(domain)
        sysinfo = domain.find("sysinfo[@type='fwcfg']")
        if sysinfo is None:
            sysinfo = ET.SubElement(domain, "sysinfo", {"type": "fwcfg"})
        ET.SubElement(sysinfo, "entry", {"name": FW_CFG_ENTRY}).text = text

    return changed(xml, change)


def with_volume(xml: str, path: str) -> str:
    """The domain with this volume, and nothing else, as what is injected: a read-only drive beside its disks."""

    def change(domain: ET.Element) -> None:
        drop_injection(domain)
        drives = domain.findall("devices/disk")
        bus = next((bus for drive in drives if (bus := attribute(drive, "target", "bus"))), "virtio")
        taken = {target(drive) for drive in drives}
        names = (_TARGET_PREFIXES.get(bus, "sd") + letter for letter in "bcdefghijklmnopqrstuvwxyz")
        # On other buses than virtio a plain disk cannot be read-only, and a CD can.
        drive = ET.SubElement(
            child(domain, "devices"), "disk", {"type": "file", "device": "disk" if bus == "virtio" else "cdrom"}
        )
        ET.SubElement(drive, "driver", {"name": "qemu", "type": "raw"})
        ET.SubElement(drive, "source", {"file": path})
        ET.SubElement(drive, "target", {"dev": next(name for name in names if name not in taken), "bus": bus})
        ET.SubElement(drive, "readonly")
        ET.SubElement(drive, "alias", {"name": _VOLUME_ALIAS})

    return changed(xml, change)


def without_injection(xml: str) -> str:
    """The domain with nothing injected any more, whichever way it was."""
    return changed(xml, drop_injection)


def injected(xml: str) -> tuple[str, str]:
    """What is injected: the text in the firmware configuration, and the volume's path; empty where there is none."""
    domain = parsed(xml)
    text = domain.findtext(f"sysinfo/entry[@name='{FW_CFG_ENTRY}']", "")
    return text, next((attribute(drive, "source", "file") for drive in _volumes(domain)), "")


def drop_injection(domain: ET.Element) -> None:
    """Take out of a domain's element what was injected."""
    for sysinfo in domain.findall("sysinfo[@type='fwcfg']"):
        remove(sysinfo, f"entry[@name='{FW_CFG_ENTRY}']")
        if not len(sysinfo):
            domain.remove(sysinfo)
    devices = child(domain, "devices")
    for drive in list(_volumes(domain)):
        devices.remove(drive)


def _volumes(domain: ET.Element) -> Iterator[ET.Element]:
    for drive in domain.iterfind("devices/disk"):
        if attribute(drive, "alias", "name") == _VOLUME_ALIAS:
            yield drive


def _kind(interface: ET.Element) -> AdapterKind:
    synthetic = attribute(interface, "model", "type") in _SYNTHETIC_MODELS
    return AdapterKind.SYNTHETIC if synthetic else AdapterKind.LEGACY
