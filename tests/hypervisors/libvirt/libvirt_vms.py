"""VMs for tests, on the nodes of a lab, and what tests do to them by other ways than the driver's."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import libvirt
import pytest

from failover_orch.domain.facts import MoveKind
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.errors import LabError
from failover_orch.hypervisors import Power
from failover_orch.hypervisors.libvirt import LibvirtNode, LibvirtSite
from failover_orch.hypervisors.libvirt.record import METADATA_KEY, METADATA_URI, Record, encode
from failover_orch.hypervisors.rules import End
from failover_orch.lab import Lab
from failover_orch.lab.guest import GuestAdapter, GuestImage, domain_xml, guest_image, make_data_disk

__all__ = [
    "LEAVES_ITS_DEFINITION",
    "MOVES",
    "NODES",
    "Vm",
    "Vms",
    "four_nodes",
    "make_record",
    "settings",
    "until",
    "vms",
]

NODES = {"p1": "primary", "p2": "primary", "d1": "dr", "d2": "dr"}
PATIENCE_S = 30.0
_NO_IMAGE = GuestImage(Path("/none"), Path("/none"))
LEAVES_ITS_DEFINITION = libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNSAFE
MOVES = LEAVES_ITS_DEFINITION | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE


@pytest.fixture(scope="session")
def four_nodes() -> Iterator[Lab]:
    """Nodes p1 and p2 at `primary`, d1 and d2 at `dr`. A test starts again what it stopped, and clears what it made."""
    # A short path: those of sockets may have 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="fo-", dir="/tmp"))
    lab = Lab(directory / "lab", NODES)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def vms(four_nodes: Lab) -> AsyncIterator[Vms]:
    """Makes VMs, in no time: `await vms.make("p1")`. They go with the test, after which all nodes run again."""
    made = Vms(four_nodes)
    yield made
    await asyncio.to_thread(made.clear)


@dataclass(frozen=True, slots=True)
class Vm:
    """A domain as it was made."""

    vm_id: str
    name: str
    uuid: str
    mac: str
    disk: Path


class Vms:
    """Makes domains on the nodes of a lab, and remembers them. The names of all begin alike and are unique."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._made: list[Vm] = []

    async def make(
        self, node: str, *, record: Record | None = None, running: bool = True, guest: bool = False, netcfg: str = ""
    ) -> Vm:
        """A VM, with a record unless its `vm_id` is empty there. Without `guest` its machine runs and boots nothing."""
        return await asyncio.to_thread(self._make, node, record, running, guest, netcfg)

    def _make(self, node: str, record: Record | None, running: bool, guest: bool, netcfg: str) -> Vm:
        number = uuid.uuid4().hex[:8]
        mac = f"52:54:{':'.join(number[at : at + 2] for at in range(0, 8, 2))}"
        place = self.lab.node(node)
        vm = Vm(f"vm-{number}", f"name-{number}", str(uuid.uuid4()), mac, place.storage / f"{number}.qcow2")
        if guest:
            make_data_disk(vm.disk, netcfg=netcfg.replace("MAC", mac))
        else:
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(vm.disk), "16M"], check=True)
        self._made.append(vm)
        log = place.directory / f"{number}.log"
        image = guest_image() if guest else _NO_IMAGE
        xml = domain_xml(vm.name, image, uuid=vm.uuid, disks=[vm.disk], adapters=[GuestAdapter(mac)], serial_log=log)
        if not guest:
            xml = _without_a_guest(xml)
        with self.connected(node) as connection:
            domain = connection.defineXML(xml)
            if record is None or record.vm_id:
                kept = record or make_record(vm.vm_id, NODES[node], node)
                domain.setMetadata(
                    libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                    encode(kept),
                    METADATA_KEY,
                    METADATA_URI,
                    libvirt.VIR_DOMAIN_AFFECT_CONFIG,
                )
            if running:
                domain.create()
        return vm

    async def migrate(self, vm: Vm, source: str, target: str, *, flags: int = MOVES) -> None:
        """Move a VM, running or off, as any tool may do it: through libvirt, and past the driver."""
        await asyncio.to_thread(self._migrate, vm, source, target, flags)

    def _migrate(self, vm: Vm, source: str, target: str, flags: int) -> None:
        with self.connected(source) as here, self.connected(target) as there:
            domain = here.lookupByUUIDString(vm.uuid)
            if domain.isActive():
                to = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{self.lab.node(target).address}"}
                domain.migrate3(there, to, flags | libvirt.VIR_MIGRATE_LIVE)
            else:
                domain.migrate3(there, {}, flags | libvirt.VIR_MIGRATE_OFFLINE)

    @contextmanager
    def connected(self, node: str) -> Iterator[libvirt.virConnect]:
        """A connection of the test's own."""
        connection = libvirt.open(self.lab.node(node).uri)
        try:
            yield connection
        finally:
            connection.close()

    def clear(self) -> None:
        """Have all nodes run, and nothing of these VMs on them."""
        for node in NODES:
            self.lab.power_on(node)
            with suppress(LabError):
                self.lab.resume_daemon(node)
            self.lab.start_daemon(node)
            with self.connected(node) as connection:
                for domain in connection.listAllDomains():
                    if any(vm.name in domain.name() for vm in self._made):
                        _remove(domain)
        for vm in self._made:
            for path in vm.disk.parent.glob(f"{vm.disk.name}*"):
                path.unlink()


def make_record(vm_id: str, site: str = "primary", node: str = "p1", **changed: object) -> Record:
    """A record of a VM that is a primary and replicates, as far as it knows."""
    end = End(
        vm_id=vm_id,
        site=site,
        cluster=f"{site}-cluster",
        node=node,
        storage="",
        mode=ReplicationMode.PRIMARY,
        state=ReplicationState.REPLICATING,
        power=Power.RUNNING,
        adapters=(),
        arrival=MoveKind.PLACED,
        arrived_at_ms=1,
        epoch=int(str(changed.get("epoch", 0))),
    )
    return Record(end, peer_site="dr" if site == "primary" else "primary")


def settings(lab: Lab, site: str = "primary") -> LibvirtSite:
    """The settings of one site of the lab."""
    nodes = tuple(
        LibvirtNode(name, node.uri, node.storage, node.run) for name, node in lab.nodes.items() if node.site == site
    )
    return LibvirtSite(site, f"{site}-cluster", nodes, broker=f"{site}-broker", networks={"lan": "br0"})


async def until(holds: Callable[[], bool | Awaitable[bool]], *, within_s: float = PATIENCE_S) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(within_s):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.02)


def _without_a_guest(xml: str) -> str:
    domain = ET.fromstring(xml)
    system = domain.find("os")
    assert system is not None
    for name in ("kernel", "initrd", "cmdline"):
        found = system.find(name)
        assert found is not None
        system.remove(found)
    memory = domain.find("memory")
    assert memory is not None
    memory.text = "32"
    return ET.tostring(domain, encoding="unicode")


def _remove(domain: libvirt.virDomain) -> None:
    if domain.isActive():
        with suppress(libvirt.libvirtError):
            domain.destroy()
    domain.undefineFlags(
        libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    )
