"""A program of its own: reads the power of one domain of a libvirt daemon, or turns it off.

    python libvirt_domain.py URI VM read|off

Prints one line: `ON`, `OFF`, or `FAILED` or `REFUSED` and a sentence. Libvirt's calls block for as long as its daemon
does not answer, and a process, unlike a thread, can be ended then. It runs as a file, outside of the package, and so
imports nothing of it.
"""

from __future__ import annotations

import importlib
import sys
import uuid
from contextlib import closing
from typing import Any
from xml.etree import ElementTree as ET

METADATA_URI = "urn:failover-orch:vm:1"
"""Of the element that holds the VM's own record, with its id; the hypervisor driver writes it."""


class _Failed(Exception):
    """It did not work this time."""


class _Refused(Exception):
    """It will not work as things are."""


def main(uri: str, vm: str, what: str) -> str:
    """What is printed."""
    try:
        libvirt = importlib.import_module("libvirt")
    except ImportError as error:
        return (
            f"REFUSED libvirt's Python module is not installed here ({error}): pip install libvirt-python, of the "
            "daemon's version"
        )
    # It would write its errors to standard error as well.
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        with closing(libvirt.open(uri)) as connection:
            domain = _domain_of(libvirt, connection, vm)
            if what == "off":
                _turn_off(libvirt, domain)
            return _power(libvirt, domain)
    except _Failed as error:
        return f"FAILED {error}"
    except _Refused as error:
        return f"REFUSED {error}"
    except libvirt.libvirtError as error:
        refused = error.get_error_code() in (libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_OPERATION_DENIED)
        return f"{'REFUSED' if refused else 'FAILED'} {' '.join(str(error).split())}"


def _domain_of(libvirt: Any, connection: Any, vm: str) -> Any:
    """The domain of a VM: the one whose record has this id, or else whose UUID or name it is."""
    domains = connection.listAllDomains()
    named = [domain for domain in domains if _recorded_id(libvirt, domain) == vm]
    found = named or [domain for domain in domains if _is_uuid(domain, vm)] or [d for d in domains if d.name() == vm]
    if not found:
        # It may have moved: that it is off is not said.
        raise _Failed(f"has no domain {vm!r}")
    if len(found) > 1:
        raise _Refused(f"has {len(found)} domains of the VM {vm!r}: {', '.join(domain.name() for domain in found)}")
    return found[0]


def _recorded_id(libvirt: Any, domain: Any) -> str:
    try:
        record = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI)
        return str(ET.fromstring(record).get("id"))  # noqa: S314 - from libvirt, which has parsed it
    except (libvirt.libvirtError, ET.ParseError):
        return ""


def _is_uuid(domain: Any, vm: str) -> bool:
    try:
        return uuid.UUID(vm) == uuid.UUID(domain.UUIDString())
    except ValueError:
        return False


def _turn_off(libvirt: Any, domain: Any) -> None:
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        # Said of what is off already, and for a moment after the daemon's restart also of what is just going down.
        if error.get_error_code() not in (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
            raise
    # Else the VM would come up again with the daemon, or with the node.
    if domain.isPersistent() and domain.autostart():
        domain.setAutostart(0)


def _power(libvirt: Any, domain: Any) -> str:
    # CRASHED is not off: what is left of such a domain still holds its disks.
    state, _reason = domain.state()
    return "OFF" if state == libvirt.VIR_DOMAIN_SHUTOFF else "ON"


if __name__ == "__main__":
    print(main(*sys.argv[1:4]))  # noqa: T201 - its answer
