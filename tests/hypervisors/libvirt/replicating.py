"""Two sites with a VM that replicates from one to the other: senders and receivers on real nodes, without the rest."""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import libvirt
import libvirt_qemu
from disk_images import same
from libvirt_vms import NODES, Vm, Vms, make_record, settings

from failover_orch.errors import HypervisorError
from failover_orch.hypervisors.libvirt import LibvirtSite, PeerSite, ReplicatedVm
from failover_orch.hypervisors.libvirt.cycles import Cycles
from failover_orch.hypervisors.libvirt.disks import Disks
from failover_orch.hypervisors.libvirt.domain_xml import describe
from failover_orch.hypervisors.libvirt.enrolment import enrol
from failover_orch.hypervisors.libvirt.nodes import Nodes, Placed
from failover_orch.hypervisors.libvirt.peers import Peers
from failover_orch.hypervisors.libvirt.receiver import Receiver
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.replicas import disks_of
from failover_orch.hypervisors.libvirt.replication_server import Servers
from failover_orch.hypervisors.libvirt.sender import Sender
from failover_orch.hypervisors.libvirt.site import Site

__all__ = ["Half", "Link", "Replicating", "cut_short", "half", "replicating"]

KEY = "a-key-that-both-sites-share"
OTHER = {"primary": "dr", "dr": "primary"}


@dataclass
class Half:
    """One site, as one process has it open."""

    site: Site
    peers: Peers
    sender: Sender
    cycles: Cycles

    async def placed(self, vm_id: str) -> Placed:
        placed = await self.site.nodes.find(vm_id)
        assert placed is not None
        return placed

    async def disks(self, vm_id: str) -> Disks:
        return disks_of(await self.placed(vm_id))

    async def change(self, vm_id: str, record: dict[str, Any] | None = None, **end: Any) -> Record:
        """Change a VM's record as an action would."""
        async with self.site.lock(vm_id):
            placed = await self.placed(vm_id)
            changed = replace(placed.record, **(record or {}))
            changed = replace(changed, end=replace(changed.end, **end))
            await self.site.nodes.write(placed, changed)
            return changed


@asynccontextmanager
async def half(settings: LibvirtSite) -> AsyncIterator[Half]:
    """A site opened once more, as a process that was started after another one died does it."""
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(Nodes(settings))
        site = Site(settings, nodes, lambda: time.time_ns() // 1_000_000)
        peers = await stack.enter_async_context(Peers(site))
        yield Half(site, peers, Sender(site, peers), Cycles(site, peers))


@dataclass
class Replicating:
    """A VM at p1 whose replica goes to d1, and what a test does to it. No cycle comes but those it asks for."""

    vms: Vms
    vm: Vm
    primary: Half
    dr: Half
    links: dict[str, Link]
    """By the site that they lead to."""
    settings: dict[str, LibvirtSite]
    receiving: dict[str, Site]
    stack: AsyncExitStack

    @property
    def vm_id(self) -> str:
        return self.vm.vm_id

    async def cycle(self, half: Half | None = None) -> Record:
        """A cycle, which arrives."""
        before = await self.record(half)
        record = await (half or self.primary).sender.cycle(self.vm_id)
        assert record is not None
        assert record.end.missed_cycles == before.end.missed_cycles
        assert record.end.cycles == before.end.cycles + 1
        return record

    async def record(self, half: Half | None = None) -> Record:
        return (await (half or self.primary).placed(self.vm_id)).record

    async def write(self, pattern: int, at: int, *, disk: int = 0, node: str = "p1", kib: int = 64) -> None:
        """Have a disk written to through QEMU, as by a guest: so many KiB of the pattern at `at` KiB."""

        def monitor() -> None:
            with self.vms.connected(node) as connection:
                domain = connection.lookupByUUIDString(self.vm.uuid)
                device = f"/machine/peripheral/virtio-disk{disk}/virtio-backend"
                said = libvirt_qemu.qemuMonitorCommand(
                    domain,
                    f'qemu-io -d {device} "write -P {pattern} {at}k {kib}k"',
                    libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP,
                )
                assert "error" not in said.lower(), said

        await asyncio.to_thread(monitor)

    async def on(self, node: str, do: str, *arguments: Any) -> None:
        """Call a method of the VM's domain on a node, past the driver."""

        def call() -> None:
            with self.vms.connected(node) as connection:
                getattr(connection.lookupByUUIDString(self.vm.uuid), do)(*arguments)

        await asyncio.to_thread(call)

    async def images(self, half: Half, suffix: str = "") -> list[str]:
        placed = await half.placed(self.vm_id)
        return [f"{disk.path}{suffix}" for disk in describe(placed.xml).disks]

    async def points(self, half: Half | None = None) -> list[str]:
        """The newest recovery point's files."""
        record = await self.record(half or self.dr)
        return await self.images(half or self.dr, f".{record.end.recovery_points[-1].point_id}")

    async def identical(self) -> bool:
        """Whether the disks of the primary, which is off, are those of the replica's newest recovery point."""
        pairs = list(zip(await self.images(self.primary), await self.points(), strict=True))
        return await asyncio.to_thread(lambda: all(same(here, there) for here, there in pairs))

    async def restart_receiver(self) -> None:
        """Have another receiver at dr, which knows nothing of what the one before it had in mind."""
        receiver = await self.stack.enter_async_context(
            Receiver(self.receiving["dr"], Servers(self.receiving["dr"], fresh_s=0))
        )
        self.links["dr"].lead_to(receiver.url)

    async def files(self, half: Half) -> set[str]:
        """The names of the files of the VM's first disk, after the disk's own."""
        path = Path((await self.images(half))[0])
        return {each.name.removeprefix(path.name).removeprefix(".") for each in path.parent.glob(f"{path.name}*")}

    async def agent_answers(self) -> bool:
        return "return" in await self.ask_agent("guest-ping")

    async def frozen(self) -> bool:
        return "frozen" in await self.ask_agent("guest-fsfreeze-status")

    async def ask_agent(self, what: str) -> str:
        """What the guest's agent answers; empty where it is silent."""

        def ask() -> str:
            with self.vms.connected("p1") as connection:
                domain = connection.lookupByUUIDString(self.vm.uuid)
                try:
                    return str(libvirt_qemu.qemuAgentCommand(domain, f'{{"execute": "{what}"}}', 2, 0))
                except libvirt.libvirtError:
                    return ""

        return await asyncio.to_thread(ask)


class Link:
    """A TCP port that passes on what comes in, until the link is cut."""

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self._left: float = math.inf
        self._silent = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self._close()

    def cut(self, *, after: int = 0, silent: bool = False) -> None:
        """Cut the link once so many bytes more have passed. Connections are reset, or left without a word."""
        self._left, self._silent = after, silent
        if not after and not silent:
            self._close()

    def lead_to(self, url: str) -> None:
        """Have new connections go elsewhere."""
        self._to = urlsplit(url)

    def restore(self) -> None:
        self._left = math.inf
        self._close()

    def _close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self._to.hostname, self._to.port)
        both = (writer, there_writer)
        self._writers.update(both)
        try:
            await asyncio.gather(self._copy(reader, there_writer), self._copy(there_reader, writer))
        finally:
            self._writers.difference_update(both)
            for each in both:
                each.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 14):
                self._left -= len(data)
                if self._left < 0:
                    if not self._silent:
                        self._close()
                    await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()
            writer.close()


class _Steps:
    """Work that is cancelled as it waits for the `steps`-th time."""

    def __init__(self, work: Coroutine[Any, Any, object], steps: int) -> None:
        self._work = work
        self._left = steps

    def __await__(self) -> Generator[Any, Any, None]:
        waiting = self._work.__await__()
        go_on: Callable[[], Any] = partial(next, waiting)
        while True:
            try:
                asked = go_on()
            except StopIteration:
                return
            self._left -= 1
            task = asyncio.current_task()
            if self._left == 0 and task is not None:
                task.cancel()
            try:
                yield asked
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the work
                go_on = partial(waiting.throw, error)
            else:
                go_on = partial(next, waiting)


async def cut_short(work: Coroutine[Any, Any, object], steps: int) -> bool:
    """Cancel work as it waits for the `steps`-th time; whether it was through before. Its errors are its own."""

    async def run() -> None:
        with suppress(HypervisorError, libvirt.libvirtError):
            await _Steps(work, steps)

    task = asyncio.create_task(run())
    await asyncio.wait({task})
    return not task.cancelled()


@asynccontextmanager
async def replicating(vms: Vms, *, disks: int = 1, guest: bool = False, **options: Any) -> AsyncIterator[Replicating]:
    """A fresh VM that is replicated from now on; its first cycle is for the test to ask for."""
    netcfg = "mac=MAC v4=10.10.0.31/24\n" if guest else ""
    vm = await vms.make("p1", record=make_record(""), running=False, guest=guest, netcfg=netcfg)
    for number in range(1, disks):
        await asyncio.to_thread(_add_disk, vms, vm, number)
    wanted = ReplicatedVm(vm.name, "dr", vm.vm_id, **{"node": "d1", "every_s": 3600.0, "points": 24, **options})
    async with AsyncExitStack() as stack:
        links: dict[str, Link] = {}
        halves: dict[str, Half] = {}
        opened: dict[str, LibvirtSite] = {}
        receiving: dict[str, Site] = {}
        receivers: dict[str, Receiver] = {}
        for site in OTHER:
            listening = replace(settings(vms.lab, site), listen="127.0.0.1:0", key=KEY)
            nodes = await stack.enter_async_context(Nodes(listening))
            receiving[site] = Site(listening, nodes, lambda: time.time_ns() // 1_000_000)
            receivers[site] = await stack.enter_async_context(
                Receiver(receiving[site], Servers(receiving[site], fresh_s=0))
            )
            links[site] = await stack.enter_async_context(Link(receivers[site].url).open())
        for site, other in OTHER.items():
            peer = PeerSite(other, {node: links[other].url for node, where in NODES.items() if where == other})
            replicate = (wanted,) if site == "primary" else ()
            opened[site] = replace(settings(vms.lab, site), key=KEY, peers=(peer,), replicate=replicate)
            halves[site] = await stack.enter_async_context(half(opened[site]))
        assert await enrol(halves["primary"].site, wanted)
        try:
            await asyncio.to_thread(_start, vms, vm)
            yield Replicating(vms, vm, halves["primary"], halves["dr"], links, opened, receiving, stack)
        finally:
            for node in NODES:
                await asyncio.to_thread(_destroy, vms, node, vm)
            await asyncio.to_thread(shutil.rmtree, vms.lab.node("d1").storage / vm.vm_id, ignore_errors=True)


def _add_disk(vms: Vms, vm: Vm, number: int) -> None:
    path = f"{vm.disk}-{number}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "8M"], check=True)
    with vms.connected("p1") as connection:
        connection.lookupByUUIDString(vm.uuid).attachDeviceFlags(
            f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>"
            f"<target dev='vd{'abc'[number]}' bus='virtio'/></disk>",
            libvirt.VIR_DOMAIN_AFFECT_CONFIG,
        )


def _start(vms: Vms, vm: Vm) -> None:
    with vms.connected("p1") as connection:
        connection.lookupByUUIDString(vm.uuid).create()


def _destroy(vms: Vms, node: str, vm: Vm) -> None:
    if not vms.lab.powered(node):
        return
    with vms.connected(node) as connection:
        for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            if domain.UUIDString() == vm.uuid:
                domain.destroy()
