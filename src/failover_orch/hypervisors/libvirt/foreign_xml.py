"""What another site may put into the domain of a replica on a node of ours. All pure.

A domain's XML says with which files, devices and programs of its node QEMU is started, and libvirt, which is root, does
as it says. So whoever holds the sites' key, or has taken a primary's node over, would have our nodes with it. What is
left of another site's XML once `as_replica` has been at it is held to a list of what a replica may have:

| | what is refused | for it would |
| --- | --- | --- |
| X1 | a document type | have entities, which grow without end or stand for files |
| X2 | an element of a namespace, outside of `metadata` | be a command line for QEMU, or read by libvirt and not by us |
| X3 | a domain that is not QEMU's, or has a part twice | be run by something else, or be looked at by halves |
| X4 | a device, or an input, that is not listed | be the node's own: its files, its devices, its keyboard |
| X5 | an adapter in no bridge or network, or with a script or ROM file | run or read what is on the node |
| X6 | a port whose other end is a device, a file, a socket or a pipe | reach what is there |
| X7 | chance, a TPM or sound with a file or device behind it | read or write that |
| X8 | a disk with an odd or doubled name, or in no file of the replica's | be something of the node's |
| X9 | firmware from elsewhere than the node's packages, or written to | read or write that file |
| X10 | a firmware configuration with a file in it | show that file to the guest |
| X11 | a kernel or initial RAM disk that not everybody there may read | show that file to the guest |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from xml.etree import ElementTree as ET

__all__ = ["boot_files", "objections", "read_foreign"]

_ONCE = ("devices", "os", "metadata", "name", "uuid", "memory", "vcpu")
_DEVICES = frozenset(
    {
        "audio",
        "channel",
        "console",
        "controller",
        "disk",
        "graphics",
        "hub",
        "input",
        "interface",
        "iommu",
        "memballoon",
        "panic",
        "parallel",
        "redirdev",
        "rng",
        "serial",
        "sound",
        "tpm",
        "video",
        "watchdog",
    }
)
_TYPES: Mapping[str, frozenset[str]] = {
    "audio": frozenset({"none", "spice"}),
    "channel": frozenset({"pty", "spicevmc", "unix"}),
    "console": frozenset({"null", "pty", "vc"}),
    "graphics": frozenset({"egl-headless", "spice", "vnc"}),
    "input": frozenset({"keyboard", "mouse", "tablet"}),
    "interface": frozenset({"bridge", "ethernet", "network"}),
    "parallel": frozenset({"null", "pty", "vc"}),
    "redirdev": frozenset({"spicevmc"}),
    "serial": frozenset({"null", "pty", "vc"}),
}
_RULES = {"interface": "X5", "audio": "X7", "input": "X4", "graphics": "X4"}
_OF_CHANCE = frozenset({"/dev/random", "/dev/urandom", "/dev/hwrng"})
_TARGET = re.compile(r"[a-z]{2,8}")
_OF_THE_NODE = frozenset({"dev", "path", "serverName", "tap", "type", "vhost", "logFile"})
_FIRMWARE = ("/usr/share/", "/usr/lib/")


class _NoDocumentType(ET.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:  # noqa: ARG002 (expat's)
        raise ValueError(f"X1 it has a document type, {name!r}, which no domain needs")


def read_foreign(xml: str) -> ET.Element:
    """The root of XML that came from another site.

    Raises:
        ValueError: it has a document type (X1), or is no XML.

    """
    parser = ET.XMLParser(target=_NoDocumentType())  # noqa: S314 - expat by itself; entities are refused above
    try:
        parser.feed(xml)
        root = parser.close()
    except ET.ParseError as error:
        raise ValueError(f"X1 it is no XML: {error}") from None
    if not isinstance(root, ET.Element):
        raise TypeError("a TreeBuilder gives an element")
    return root


def objections(domain: ET.Element, paths: Collection[str]) -> Sequence[str]:
    """What of a replica's domain is not taken, each with the number of its rule; none where all is well.

    `paths`: of the replica's own disks.
    """
    looks = (_namespaces, _shape, _kinds, _adapters, _ports, _backends, _firmware, _configuration)
    return (*(objection for look in looks for objection in look(domain)), *_disks(domain, paths))


def boot_files(domain: ET.Element) -> Sequence[str]:
    """The files of the node that it boots from. Whether everybody may read them (X11) has to be asked of the node."""
    return tuple(
        (element.text or "").strip() for name in ("kernel", "initrd", "dtb") for element in domain.findall(f"os/{name}")
    )


def _namespaces(domain: ET.Element) -> Iterator[str]:
    described = {id(element) for part in domain.findall("metadata") for element in part.iter()}
    for element in domain.iter():
        if element.tag.startswith("{") and id(element) not in described:
            yield f"X2 it has {element.tag}, of another namespace"


def _shape(domain: ET.Element) -> Iterator[str]:
    if domain.tag != "domain" or domain.get("type") not in ("kvm", "qemu"):
        yield f"X3 it is a {domain.tag} of type {domain.get('type')!r}, and not a domain of kvm or qemu"
    for name in _ONCE:
        if len(domain.findall(name)) > 1:
            yield f"X3 it has <{name}> more than once"


def _kinds(domain: ET.Element) -> Iterator[str]:
    for device in domain.findall("devices/*"):
        if device.tag not in _DEVICES:
            yield f"X4 it has a {device.tag}"
        elif device.tag in _TYPES and device.get("type", "") not in _TYPES[device.tag]:
            yield f"{_RULES.get(device.tag, 'X6')} it has a {device.tag} of type {device.get('type', '')!r}"


def _adapters(domain: ET.Element) -> Iterator[str]:
    for interface in domain.findall("devices/interface"):
        if interface.find("script") is not None or interface.find("downscript") is not None:
            yield "X5 it has an interface with a script"
        if any(rom.get("file") for rom in interface.findall("rom")):
            yield "X5 it has an interface with a ROM from a file"
        if any(backend.attrib.keys() & _OF_THE_NODE for backend in interface.findall("backend")):
            yield "X5 it has an interface with a backend of the node's"


def _ports(domain: ET.Element) -> Iterator[str]:
    for name in ("serial", "console", "parallel", "channel", "redirdev"):
        for port in domain.findall(f"devices/{name}"):
            # A pty's source only says what the kernel called it.
            if port.find("log") is not None or (port.get("type") != "pty" and port.find("source") is not None):
                yield f"X6 it has a {name} with a source or a log"


def _backends(domain: ET.Element) -> Iterator[str]:
    for backend in domain.findall("devices/rng/backend"):
        source = (backend.text or "").strip()
        random = backend.get("model") == "random" and source in ("", *_OF_CHANCE)
        if backend.get("model") != "builtin" and not random:
            yield f"X7 it has its chance from {source or backend.get('model')!r}"
    for backend in domain.findall("devices/tpm/backend"):
        if backend.get("type") != "emulator" or backend.find("source") is not None:
            yield f"X7 it has a TPM of type {backend.get('type')!r}"
    for audio in domain.findall("devices/audio/*"):
        if audio.attrib.keys() & _OF_THE_NODE:
            yield "X7 it has an audio device of the node"


def _disks(domain: ET.Element, paths: Collection[str]) -> Iterator[str]:
    seen: set[str] = set()
    for drive in domain.findall("devices/disk"):
        targets = [element.get("dev", "") for element in drive.findall("target")]
        if len(targets) != 1 or not _TARGET.fullmatch(targets[0]):
            yield f"X8 it has a disk that is called {', '.join(targets)!r}"
        if seen.intersection(targets):
            yield f"X8 it has two disks that are called {targets[0]!r}"
        seen.update(targets)
        for source in drive.iter("source"):
            if (
                set(source.attrib) != {"file"}
                or source.get("file") not in paths
                or source.find("reservations") is not None
            ):
                yield f"X8 it has a disk {', '.join(targets)!r} that is none of its replica's files"


def _firmware(domain: ET.Element) -> Iterator[str]:
    for loader in domain.findall("os/loader"):
        if not _of_a_package((loader.text or "").strip()) or loader.get("readonly") == "no":
            yield f"X9 its firmware is {loader.text!r}"
    for variables in domain.findall("os/nvram"):
        if not _of_a_package(variables.get("template", "")) or len(variables):
            yield f"X9 its firmware's variables are those of {variables.get('template')!r}"
    for name in ("init", "bootloader"):
        if domain.find(f"os/{name}") is not None or domain.find(name) is not None:
            yield f"X9 it has a {name}"


def _of_a_package(path: str) -> bool:
    return not path or (path.startswith(_FIRMWARE) and ".." not in path.split("/"))


def _configuration(domain: ET.Element) -> Iterator[str]:
    for entry in domain.findall("sysinfo/entry"):
        if entry.get("file") is not None:
            yield f"X10 it has the file {entry.get('file')!r} as its firmware configuration {entry.get('name')!r}"
