"""Metadata elements of a domain, and what depends on them: called in a thread, on a connection; they block."""

from __future__ import annotations

from contextlib import suppress
from xml.etree import ElementTree as ET

import libvirt

from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt.domain_xml import with_metadata
from failover_orch.hypervisors.libvirt.places import STARTING_KEY, STARTING_URI, has_left
from failover_orch.hypervisors.libvirt.record import METADATA_URI
from failover_orch.hypervisors.libvirt.xml_elements import changed, child, parsed

__all__ = ["create_paused", "define_with_metadata", "drop_metadata", "let_go", "write_metadata"]

INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
"""A domain's XML as it is to be defined anew: with its secrets."""
_TIMES = 3
"""So often a domain may start or stop between a look at it and the change of its metadata."""


def write_metadata(connection: libvirt.virConnect, domain_uuid: str, text: str | None, key: str, uri: str) -> None:
    """Have the domain's element of this namespace be `text` (None: not be there), now and when it starts again.

    Raises:
        libvirtError: the domain is not there (VIR_ERR_NO_DOMAIN), or libvirt could not write it.
        StepFailed: only its definition is there.

    """
    for last in (False,) * (_TIMES - 1) + (True,):
        domain = _there(connection, domain_uuid)
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0
        flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
        try:
            domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, key, uri, flags)
        except libvirt.libvirtError as error:
            if text is None and error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                return
            if last or error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise
        else:
            return


def drop_metadata(connection: libvirt.virConnect, domain_uuid: str) -> None:
    """Take all that is ours out of the definition of a domain that is off."""
    domain = connection.lookupByUUIDString(domain_uuid)
    if domain.isActive():
        return
    for element in _elements(domain.XMLDesc(INACTIVE)):
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, None, None, _namespace(element), libvirt.VIR_DOMAIN_AFFECT_CONFIG
        )


def define_with_metadata(connection: libvirt.virConnect, domain_uuid: str, xml: str) -> None:
    """Define a domain anew with the metadata that it has now: what `xml` was made from may be of a while ago."""
    current = _elements(_there(connection, domain_uuid).XMLDesc(INACTIVE))

    def change(domain: ET.Element) -> None:
        metadata = child(domain, "metadata")
        for element in _ours(domain):
            metadata.remove(element)
        metadata.extend(current)

    connection.defineXML(changed(xml, change))


def create_paused(connection: libvirt.virConnect, domain_uuid: str) -> None:
    """Start a domain without letting its guest run. One that is active is left as it is.

    libvirt does not tell a domain that was started paused from one that somebody has suspended: a mark does, which is
    in the running domain alone, from its first moment on, and goes with it.
    """
    domain = _there(connection, domain_uuid)
    if domain.isActive():
        return
    marked = with_metadata(domain.XMLDesc(INACTIVE), STARTING_URI, STARTING_KEY, "<paused/>")
    try:
        connection.createXML(marked, libvirt.VIR_DOMAIN_START_PAUSED)
    except libvirt.libvirtError:
        if not domain.isActive():
            raise


def let_go(connection: libvirt.virConnect, domain_uuid: str) -> None:
    """Let the guest of a domain run that was started paused, or suspended. One that runs is left as it is."""
    domain = _there(connection, domain_uuid)
    if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
        domain.resume()
    # After the resume: a crash between the two leaves a mark that says nothing, and not a paused guest that seems to
    # run.
    with suppress(libvirt.libvirtError):
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, None, STARTING_KEY, STARTING_URI, libvirt.VIR_DOMAIN_AFFECT_LIVE
        )


def _there(connection: libvirt.virConnect, domain_uuid: str) -> libvirt.virDomain:
    """The domain, if it is still here: what is done to a definition that a migration leaves behind is lost."""
    domain = connection.lookupByUUIDString(domain_uuid)
    if has_left(*domain.state()):
        raise StepFailed(f"{domain.name()} has just migrated to another node: try again in a moment")
    return domain


def _elements(xml: str) -> list[ET.Element]:
    return _ours(parsed(xml))


def _ours(domain: ET.Element) -> list[ET.Element]:
    return [element for element in domain.findall("metadata/*") if element.tag.startswith("{" + METADATA_URI)]


def _namespace(element: ET.Element) -> str:
    return element.tag[1:].partition("}")[0]
