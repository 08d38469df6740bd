"""One tiny guest with two adapters on a node of the lab, without replication, for tests of what is done to guests."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar
from xml.etree import ElementTree as ET

import libvirt

from failover_orch.hypervisors.libvirt.domain_xml import Description, describe
from failover_orch.hypervisors.libvirt.guest import Guest
from failover_orch.hypervisors.libvirt.node import Node
from failover_orch.hypervisors.libvirt.settings import LibvirtNode
from failover_orch.lab import Lab
from failover_orch.lab.guest import GuestAdapter, domain_xml, guest_image, make_data_disk

__all__ = ["BOOT_S", "MACS", "NAME", "LoneGuest", "connected", "lone_guest"]

BOOT_S = 90.0
NAME = "vm-7 at dr"
MACS = {"nic-1": "52:54:00:33:00:01", "nic-2": "52:54:00:33:00:02"}
_NETCFG = f"""\
mac={MACS["nic-1"]} v4=10.50.0.31/24 gw4=10.50.0.1 v6=fd50::31/64 gw6=fd50::1 dns=10.50.0.2,fd50::2
mac={MACS["nic-2"]} v4=10.51.0.31/24 dns=10.51.0.2
"""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class LoneGuest:
    """A domain on a node of the lab."""

    node: Node
    uuid: str

    @property
    def guest(self) -> Guest:
        return Guest(self.node, self.uuid, NAME)

    async def call(self, what: Callable[[libvirt.virDomain], _T]) -> _T:
        return await self.node.call(lambda connection: what(connection.lookupByUUIDString(self.uuid)), within_s=BOOT_S)

    async def xml(self) -> str:
        """The inactive XML."""
        return await self.call(lambda domain: str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))

    async def live_xml(self) -> str:
        return await self.call(lambda domain: str(domain.XMLDesc()))

    async def description(self) -> Description:
        return describe(await self.xml())

    async def define(self, xml: str) -> None:
        await self.node.call(lambda connection: connection.defineXML(xml))

    async def boot(self) -> Guest:
        """Start it, and wait for its agent."""
        await self.call(lambda domain: domain.create())
        await self.guest.await_agent(BOOT_S)
        return self.guest


@asynccontextmanager
async def connected(lab: Lab, name: str) -> AsyncIterator[Node]:
    """A node of the lab."""
    settings = LibvirtNode(name, lab.node(name).uri, lab.node(name).storage, lab.node(name).run)
    node = Node(settings, lambda: round(time.time() * 1000), lambda _event: None)
    keeping = asyncio.create_task(node.keep())
    try:
        await asyncio.wait_for(node.tried.wait(), BOOT_S)
        yield node
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


@asynccontextmanager
async def lone_guest(
    lab: Lab, name: str = "d1", *, agent: bool = True, agent_channel: bool = True
) -> AsyncIterator[LoneGuest]:
    """A fresh guest, which is off; nothing of it is left afterwards. Options are those of `lab.guest.domain_xml`."""
    with _domain(lab, name, agent=agent, agent_channel=agent_channel) as its_uuid:
        async with connected(lab, name) as node:
            yield LoneGuest(node, its_uuid)


@contextmanager
def _domain(lab: Lab, name: str, *, agent: bool, agent_channel: bool) -> Iterator[str]:
    node, its_uuid = lab.node(name), str(uuid.uuid4())
    # A directory of its own: whatever is found there afterwards is this guest's.
    directory = node.storage / its_uuid
    directory.mkdir()
    disk = directory / "disk.qcow2"
    make_data_disk(disk, netcfg=_NETCFG)
    xml = domain_xml(
        f"lone-{its_uuid[:8]}",
        guest_image(),
        uuid=its_uuid,
        disks=[disk],
        adapters=[GuestAdapter(mac) for mac in MACS.values()],
        serial_log=node.directory / f"lone-{its_uuid[:8]}.log",
        agent=agent,
        agent_channel=agent_channel,
    )
    domain = ET.fromstring(xml)
    for adapter_id, interface in zip(MACS, domain.findall("devices/interface"), strict=True):
        ET.SubElement(interface, "alias", {"name": f"ua-{adapter_id}"})
    connection = libvirt.open(node.uri)
    try:
        defined = connection.defineXML(ET.tostring(domain, encoding="unicode"))
        try:
            yield its_uuid
        finally:
            with suppress(libvirt.libvirtError):
                defined.destroy()
            defined.undefine()
            for left in (*directory.iterdir(), directory):
                left.rmdir() if left.is_dir() else left.unlink()
    finally:
        connection.close()
