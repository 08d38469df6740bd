"""Two sites of real libvirt nodes with one VM between them, for tests against the protocol.

The VM `vm-1` runs a tiny guest at p1 and replicates to d1. Both sites' drivers run in the test's process; what they
send to each other goes through relays, which a test can cut.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt
import msgspec
from hyperv.certificate import certificates

from contract import ISOLATED, Pair
from failover_orch.domain.replication_settings import (
    AcceptedAuthentication,
    AuthorizationEntry,
    InitialReplication,
    ReplicationServer,
    VmReplication,
)
from failover_orch.hypervisors import Power
from failover_orch.hypervisors.libvirt.domain_xml import describe
from failover_orch.hypervisors.libvirt.guest import shut_down
from failover_orch.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from failover_orch.hypervisors.libvirt.nodes import Placed
from failover_orch.hypervisors.libvirt.replication_server import settings_file
from failover_orch.hypervisors.libvirt.settings import LibvirtNode, LibvirtSite, PeerSite, ReplicatedVm
from failover_orch.lab import Lab
from failover_orch.lab.guest import GuestAdapter, domain_xml, guest_image, make_data_disk

__all__ = ["NODES", "Relay", "Saved", "libvirt_pair", "move_alone"]

NODES = {"p1": "primary", "p2": "primary", "d1": "dr", "d2": "dr"}
VM = "vm-1"
NAME = "name-of-vm-1"
_MAC = "52:54:00:00:00:01"
_NETCFG = f"mac={_MAC} v4=10.10.0.21/24 gw4=10.10.0.1 v6=fd10::21/64 gw6=fd10::1 dns=10.10.0.2\n"
_PATIENCE_S = 60.0
_MIGRATE = libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE | libvirt.VIR_MIGRATE_UNSAFE


class Relay:
    """A TCP port that passes on what comes in, until the link is cut."""

    def __init__(self, to: tuple[str, int]) -> None:
        self._to = to
        self._cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Relay]:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    def restore(self) -> None:
        self._cut = False

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection(*self._to)
        both = (writer, there_writer)
        self._writers.update(both)
        try:
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
        finally:
            self._writers.difference_update(both)
            for each in both:
                each.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def libvirt_pair(lab: Lab, saved: Saved) -> AsyncIterator[Pair]:
    """A fresh `vm-1` between the two sites of a lab of NODES; nothing of it is left afterwards.

    The first one is replicated and shut down; it and the next ones begin from there.
    """
    try:
        if not saved.there:
            await asyncio.to_thread(_make_vm, lab)
            async with _sites(lab) as hands:
                await hands.until(hands.replicating)
                # What it wrote while it booted is not in the replica; each test's VM adds to that.
                await hands.shut_down()
            await asyncio.to_thread(saved.save)
        await asyncio.to_thread(saved.restore)
        async with _sites(lab) as hands:
            await hands.until(hands.replicating)
            yield hands.pair()
    finally:
        await asyncio.to_thread(_clear, lab)


@asynccontextmanager
async def _sites(lab: Lab) -> AsyncIterator[_Hands]:
    authority, chain = certificates(("localhost",))
    (lab.directory / "pair-authority.pem").write_bytes(authority)
    (lab.directory / "pair.pem").write_bytes(chain)
    ports = {"primary": _free_port(), "dr": _free_port()}
    relays = {site: Relay(("127.0.0.1", port)) for site, port in ports.items()}
    async with AsyncExitStack() as stack:
        for relay in relays.values():
            await stack.enter_async_context(relay.open())
        sites = {}
        for site in ("dr", "primary"):
            settings = _settings(lab, site, ports[site], relays["dr" if site == "primary" else "primary"].url)
            sites[site] = await stack.enter_async_context(LibvirtHypervisor(settings))
        yield _Hands(lab, relays, sites, ports["dr"])


class Saved:
    """The VM with its replica as they were once, the VM shut down: disks and definitions."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab = lab
        self._directory = directory
        self._definitions: dict[str, str] = {}

    @property
    def there(self) -> bool:
        return bool(self._definitions)

    def save(self) -> None:
        for node in ("p1", "d1"):
            shutil.copytree(self._lab.node(node).storage, self._directory / node)
            with _connected(self._lab, node) as connection:
                (domain,) = connection.listAllDomains()
                self._definitions[node] = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        _clear(self._lab)

    def restore(self) -> None:
        for node, xml in self._definitions.items():
            shutil.copytree(self._directory / node, self._lab.node(node).storage, dirs_exist_ok=True)
            with _connected(self._lab, node) as connection:
                connection.defineXML(xml)
        with _connected(self._lab, "p1") as connection:
            connection.lookupByName(NAME).create()


@contextmanager
def _connected(lab: Lab, node: str) -> Iterator[libvirt.virConnect]:
    connection = libvirt.open(lab.node(node).uri)
    try:
        yield connection
    finally:
        connection.close()


class _Hands:
    """What a test does to the sites from outside."""

    def __init__(self, lab: Lab, relays: dict[str, Relay], sites: dict[str, LibvirtHypervisor], port: int) -> None:
        """`port` is where dr receives."""
        self._lab = lab
        self._port = port
        self._relays = relays
        self._sites = sites

    def pair(self) -> Pair:
        return Pair(
            self._sites["primary"],
            self._sites["dr"],
            power_off_primary=self.power_off_primary,
            power_on_primary=self.power_on_primary,
            cut_link=self.cut_link,
            restore_link=self.restore_link,
            migrate=self.migrate,
            replicate=self.replicate,
            at_the_console=self.at_the_console,
            server=self.server(),
            not_taken={
                "authentication": replace(self.server(), authentication=AcceptedAuthentication.BOTH),
                "https_port": replace(self.server(), https_port=443),
                "certificate_thumbprint": replace(self.server(), certificate_thumbprint="ab12"),
                "default_storage_location": replace(
                    self.server(), from_any_server=True, default_storage_location="/elsewhere", authorization=()
                ),
                "authorization": replace(
                    self.server(), authorization=(AuthorizationEntry("*.example", "/elsewhere", "gold"),)
                ),
            },
            not_taken_of_vms={
                "excluded_disks": VmReplication(excluded_disks=("vdb",)),
                "initial_replication": VmReplication(initial_replication=InitialReplication.EXPORT),
                "initial_start_at_ms": VmReplication(initial_start_at_ms=1),
                "extended_to": VmReplication(extended_to="far-cluster"),
                "resynchronize_from_minute": VmReplication(resynchronize_from_minute=0),
            },
        )

    def server(self) -> ReplicationServer:
        """Settings that the nodes of dr take."""
        storage = str(self._lab.node("d1").storage)
        return ReplicationServer(
            enabled=True,
            authentication=AcceptedAuthentication.CERTIFICATE,
            https_port=self._port,
            certificate_thumbprint=_thumbprint(),
            authorization=(AuthorizationEntry("primary-broker", storage, "gold"),),
        )

    async def at_the_console(self, node: str, server: ReplicationServer) -> None:
        file = settings_file(self._sites["dr"].nodes.node(node))
        await asyncio.to_thread(Path(file).write_bytes, msgspec.json.encode(server))

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(_PATIENCE_S):
            while not await holds():  # noqa: ASYNC110 - what it waits for happens in other processes
                await asyncio.sleep(0.05)

    async def replicating(self) -> bool:
        if not await self._agents_answer():
            return False
        primary, replica = [await self._sites[site].observe(VM) for site in ("primary", "dr")]
        states = (primary.get("state"), replica.get("state"))
        return states == ("Replicating", "Replicating") and replica["recovery_point"] == "rp-1"

    async def shut_down(self) -> None:
        placed = await self._sites["primary"].nodes.find(VM)
        assert placed is not None
        await shut_down(placed.node, placed.uuid, VM, within_s=_PATIENCE_S)

    async def power_off_primary(self) -> None:
        for node in ("p1", "p2"):
            await asyncio.to_thread(self._lab.power_off, node)
        await self.until(self._primary_is_away)

    async def _primary_is_away(self) -> bool:
        return await self._sites["primary"].clusters() == ()

    async def power_on_primary(self) -> None:
        for node in ("p1", "p2"):
            await asyncio.to_thread(self._lab.power_on, node)
        await self.until(self._primary_is_back)

    async def _primary_is_back(self) -> bool:
        clusters = await self._sites["primary"].clusters()
        return bool(clusters) and all(node.state == "UP" for node in clusters[0].nodes)

    async def cut_link(self) -> None:
        for relay in self._relays.values():
            relay.cut()

    async def restore_link(self) -> None:
        for relay in self._relays.values():
            relay.restore()

    async def migrate(self, node: str) -> None:
        site = self._sites[NODES[node]]
        placed = await site.nodes.find(VM)
        assert placed is not None
        await asyncio.to_thread(_migrate, self._lab, placed, node)
        await site.watching.look(VM)

    async def replicate(self) -> None:
        for site in self._sites.values():
            await site.sender.cycle(VM, now=True)

    async def _agents_answer(self) -> bool:
        for site in self._sites.values():
            placed = await site.nodes.find(VM)
            if placed is not None and placed.power is Power.RUNNING and not describe(placed.live_xml).agent_connected:
                return False
        return True


def move_alone(lab: Lab, placed: Placed, node: str) -> None:
    """Move a VM and leave its test copy where it is."""
    _migrate(lab, replace(placed, copy_uuid=""), node)


def _migrate(lab: Lab, placed: Placed, node: str) -> None:
    with _connected(lab, placed.node.name) as source, _connected(lab, node) as target:
        there = f"tcp://{lab.node(node).address}"
        domains = [source.lookupByUUIDString(placed.uuid)]
        if placed.copy_uuid:
            domains.append(source.lookupByUUIDString(placed.copy_uuid))
        for domain in domains:
            how = libvirt.VIR_MIGRATE_LIVE if domain.isActive() else libvirt.VIR_MIGRATE_OFFLINE
            domain.migrate3(target, {libvirt.VIR_MIGRATE_PARAM_URI: there} if domain.isActive() else {}, _MIGRATE | how)


def _settings(lab: Lab, site: str, port: int, peer_url: str) -> LibvirtSite:
    here = [name for name, where in NODES.items() if where == site]
    there = {name: peer_url for name, where in NODES.items() if where != site}
    return LibvirtSite(
        site=site,
        cluster=f"{site}-cluster",
        broker=f"{site}-broker",
        nodes=tuple(LibvirtNode(name, lab.node(name).uri, lab.node(name).storage, lab.node(name).run) for name in here),
        networks={"lan": "br0"},
        test_networks={ISOLATED: "br-test"},
        listen=f"127.0.0.1:{port}",
        key="a-key-that-both-sites-share",
        tls_certificate=lab.directory / "pair.pem",
        tls_key=lab.directory / "pair.pem",
        tls_ca=lab.directory / "pair-authority.pem",
        peers=(PeerSite("dr" if site == "primary" else "primary", there),),
        # So seldom that no cycle comes but those that a test asks for.
        replicate=(ReplicatedVm(NAME, "dr", VM, "d1", every_s=3600, points=24, consistent_every=4),)
        if site == "primary"
        else (),
    )


def _make_vm(lab: Lab) -> None:
    node = lab.node("p1")
    disk = node.storage / "vm-1.qcow2"
    make_data_disk(disk, netcfg=_NETCFG)
    xml = domain_xml(
        NAME,
        guest_image(),
        uuid=str(uuid.uuid4()),
        disks=[disk],
        adapters=[GuestAdapter(_MAC)],
        serial_log=node.directory / "vm-1.log",
    )
    domain = ET.fromstring(xml)
    interface = domain.find("devices/interface")
    assert interface is not None
    ET.SubElement(interface, "alias", {"name": "ua-nic-1"})
    with _connected(lab, "p1") as connection:
        connection.defineXML(ET.tostring(domain, encoding="unicode")).create()


def _clear(lab: Lab) -> None:
    """Have all nodes on, and nothing on them."""
    for name in NODES:
        if not lab.powered(name):
            lab.power_on(name)
        with _connected(lab, name) as connection:
            for domain in connection.listAllDomains():
                with suppress(libvirt.libvirtError):
                    domain.destroy()
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
    for storage in {lab.node(name).storage for name in NODES}:
        shutil.rmtree(storage)
        storage.mkdir()


def _thumbprint() -> str:
    """Of the certificate that both sites' receivers have."""
    _, chain = certificates(("localhost",))
    certificate = chain[chain.index(b"-----BEGIN CERTIFICATE-----") :].decode()
    return hashlib.sha1(ssl.PEM_cert_to_DER_cert(certificate), usedforsecurity=False).hexdigest()


def _free_port() -> int:

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
