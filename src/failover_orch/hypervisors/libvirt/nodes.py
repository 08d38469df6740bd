"""The nodes of a site: where each VM is among them, and its record there."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import libvirt

from failover_orch import telemetry
from failover_orch.errors import LookupFailed, StepFailed
from failover_orch.hypervisors.libvirt.events import HostEvent
from failover_orch.hypervisors.libvirt.metadata import (
    INACTIVE,
    create_paused,
    define_with_metadata,
    drop_metadata,
    let_go,
    write_metadata,
)
from failover_orch.hypervisors.libvirt.node import Node
from failover_orch.hypervisors.libvirt.places import PLACE_KEY, PLACE_URI, Seen, ToldPlace, chosen, place_text, seen
from failover_orch.hypervisors.libvirt.record import METADATA_KEY, METADATA_URI, Record, encode
from failover_orch.hypervisors.libvirt.settings import LibvirtSite
from failover_orch.hypervisors.protocol import Power

__all__ = ["Found", "Node", "Nodes", "Placed"]

_log = telemetry.logger(__name__)

_CONNECTING_S = 5.0
_WRITING_S = 60.0
"""libvirt gives up by itself after 30 s where a job, such as a migration, holds the domain: nothing is to be written
after a write was given up here."""
_LOOKING_S = 10.0
_LOOKS = 4
_BETWEEN_LOOKS_S = 0.1
COPY_SUFFIX = " - Test"
"""Ends the name of every test copy."""


@dataclass(frozen=True, slots=True)
class Found:
    """A domain where it is now. `xml` is the inactive XML, `live_xml` that of now, empty where it is off."""

    node: Node
    uuid: str
    name: str
    power: Power
    """RUNNING wherever a guest may run: also where somebody has suspended it."""
    starting: bool
    """Started paused by us and not let go yet: its power is OFF, and its disks are QEMU's."""
    xml: str
    live_xml: str
    booted: bool
    """It was started on its node, and did not come there running."""


@dataclass(frozen=True, slots=True)
class Placed(Found):
    """A VM, or a replica of one, where it is now, with its record and its test copy."""

    record: Record
    told: ToldPlace | None = None
    """Its place that was told last, if any was."""
    copy_uuid: str = ""
    """Empty where there is no test copy."""
    copy_power: Power | None = None
    copy_node: str = ""
    copy_xml: str = ""

    @property
    def vm_id(self) -> str:
        return self.record.vm_id


def _real_clock() -> int:
    return time.time_ns() // 1_000_000


class Nodes:
    """All nodes of a site. Use as an async context manager: it connects to them, and again whenever it has to."""

    def __init__(self, settings: LibvirtSite, *, clock: Callable[[], int] = _real_clock) -> None:
        """`clock` gives milliseconds since the Unix epoch."""
        self._nodes = {node.name: Node(node, clock, self._heard) for node in settings.nodes}
        self._listeners: list[Callable[[HostEvent], None]] = []
        self._changed = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._uuids: dict[str, str] = {}
        """Of each VM that was seen: where to look first."""
        self._last: dict[str, str] = {}
        """The node on which each VM was seen last."""
        self._broken: set[str] = set()

    async def __aenter__(self) -> Self:
        self._keepers = [asyncio.create_task(node.keep(), name=f"libvirt-{node.name}") for node in self]
        with suppress(TimeoutError):
            async with asyncio.timeout(_CONNECTING_S):
                for node in self:
                    await node.tried.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def node(self, name: str) -> Node:
        """One node.

        Raises:
            LookupFailed: the site has none of that name.

        """
        if name not in self._nodes:
            raise LookupFailed(f"there is no node {name!r} at this site; its nodes are {', '.join(self._nodes)}")
        return self._nodes[name]

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next event of any node. Take it, look whether things are as wished, and wait for it if not."""
        return self._changed

    def on_event(self, listen: Callable[[HostEvent], None]) -> None:
        """Have `listen` called with all that nodes tell: see `Node`."""
        self._listeners.append(listen)

    def vm_id(self, domain_uuid: str) -> str:
        """The VM whose domain has this UUID; empty where none was seen that has."""
        return next((vm_id for vm_id, known in self._uuids.items() if known == domain_uuid), "")

    async def find(self, vm_id: str) -> Placed | None:
        """Where the VM is; None where no node has it, and all of them answer.

        Raises:
            StepFailed: it may be on a node that does not answer, or is on its way.

        """
        known = self._uuids.get(vm_id, "")
        for look in range(_LOOKS):
            scanned, away = await self._scan(known)
            found = [each for each in scanned if each.record is not None and each.record.vm_id == vm_id]
            place = chosen(found, self._last.get(vm_id, ""), away)
            if place is not None:
                return self._placed(place, [each for each in scanned if each.copy_of == vm_id])
            if known:
                # It may have been defined anew, under another UUID.
                known = ""
                continue
            if away:
                raise StepFailed(self._not_found(vm_id, away))
            # One look may come before it arrived on one node and after it left the other; two cannot.
            if not found and look:
                return None
            await asyncio.sleep(_BETWEEN_LOOKS_S)
        raise StepFailed(f"{vm_id} is on its way to {found[0].node}, and has not arrived yet: try again in a moment")

    async def all(self) -> tuple[Placed, ...]:
        """Every VM and replica on the nodes that answer, by their ids. What may be elsewhere is left out."""
        scanned, away = await self._scan()
        found: defaultdict[str, list[Seen]] = defaultdict(list)
        copies: defaultdict[str, list[Seen]] = defaultdict(list)
        for each in scanned:
            if each.record is not None:
                found[each.record.vm_id].append(each)
            elif each.copy_of:
                copies[each.copy_of].append(each)
        places = {vm_id: chosen(found[vm_id], self._last.get(vm_id, ""), away) for vm_id in sorted(found)}
        return tuple(self._placed(place, copies[vm_id]) for vm_id, place in places.items() if place is not None)

    async def by_name(self, domain_name: str) -> Placed | Found | None:
        """The domain of that name; `Placed` where it has a record. None where no node that answers has it."""
        scanned, away = await self._scan()
        named = [each for each in scanned if each.name == domain_name]
        place = chosen(named, "", away)
        if place is None:
            return None
        if place.record is None:
            return Found(
                self._nodes[place.node],
                place.uuid,
                place.name,
                place.power,
                place.starting,
                place.xml,
                place.live_xml,
                place.booted,
            )
        return self._placed(place, [each for each in scanned if each.copy_of == place.record.vm_id])

    async def write(self, placed: Placed, record: Record) -> None:
        """Write the VM's record: where it is defined, and where it runs.

        Raises:
            StepFailed: it is not written; the VM has left the node, or the node does not answer.

        """
        await self._write(placed, encode(record), METADATA_KEY, METADATA_URI)

    async def write_told(self, placed: Placed, told: ToldPlace) -> None:
        """Write which place of the VM was told last. For `watching` alone. Raises StepFailed."""
        await self._write(placed, place_text(told), PLACE_KEY, PLACE_URI)

    async def define(self, placed: Placed, xml: str) -> None:
        """Define the VM's domain anew. Its metadata, and so its record, stay as they are now, whatever `xml` has."""
        await self._change(placed, partial(define_with_metadata, domain_uuid=placed.uuid, xml=xml))

    async def start_paused(self, placed: Placed) -> None:
        """Have the VM's QEMU run, and its guest not: it is `starting` then. One that is on is left as it is.

        Raises:
            StepFailed: it could not be started.

        """
        await self._change(placed, partial(create_paused, domain_uuid=placed.uuid))

    async def resume(self, placed: Placed) -> None:
        """Let a VM that was started paused, or suspended, run. Raises StepFailed."""
        await self._change(placed, partial(let_go, domain_uuid=placed.uuid))

    async def forget_others(self, placed: Placed) -> None:
        """Take the record out of definitions of the VM that are left on other nodes.

        A migration may leave one behind. Once the node that the VM is on does not answer, it would be taken for it.
        """
        for node in self:
            if node is not placed.node and node.up:
                with suppress(StepFailed, libvirt.libvirtError):  # it has none, as should be, or is asked the next time
                    await node.call(partial(drop_metadata, domain_uuid=placed.uuid))

    async def _write(self, placed: Placed, text: str, key: str, uri: str) -> None:
        await self._change(placed, partial(write_metadata, domain_uuid=placed.uuid, text=text, key=key, uri=uri))

    async def _change(self, placed: Placed, change: Callable[[libvirt.virConnect], None]) -> None:
        try:
            await placed.node.call(change, within_s=_WRITING_S)
        except libvirt.libvirtError as error:
            raise StepFailed(f"{placed.vm_id} on {placed.node.name}: {error}") from error

    async def _scan(self, domain_uuid: str = "") -> tuple[list[Seen], list[str]]:
        """What all nodes have, or have of this one domain and of test copies, and the nodes that do not answer."""
        answers = await asyncio.gather(*(self._look(node, domain_uuid) for node in self))
        scanned = [each for answer in answers for each in answer or ()]
        away = [node.name for node, answer in zip(self, answers, strict=True) if answer is None]
        for each in scanned:
            if each.broken and each.uuid not in self._broken:
                self._broken.add(each.uuid)
                _log.error("record cannot be read", node=each.node, domain=each.name, why=each.broken)
        return scanned, away

    async def _look(self, node: Node, domain_uuid: str) -> list[Seen] | None:
        """What one node has; None where it does not answer."""
        if not node.up:
            return None
        try:
            return await node.call(partial(_domains, node.name, domain_uuid), within_s=_LOOKING_S)
        except (StepFailed, libvirt.libvirtError) as error:
            _log.warning("domains of a node cannot be listed", node=node.name, why=str(error))
            return None

    def _placed(self, place: Seen, copies: Sequence[Seen]) -> Placed:
        if place.record is None:
            raise ValueError(f"the domain {place.name} has no record")  # whoever calls this has seen to it
        vm_id = place.record.vm_id
        self._uuids[vm_id] = place.uuid
        self._last[vm_id] = place.node
        copy = chosen(copies, place.node, ())
        return Placed(
            node=self._nodes[place.node],
            uuid=place.uuid,
            name=place.name,
            power=place.power,
            starting=place.starting,
            xml=place.xml,
            live_xml=place.live_xml,
            booted=place.booted,
            record=place.record,
            told=place.told,
            copy_uuid=copy.uuid if copy else "",
            copy_power=copy.power if copy else None,
            copy_node=copy.node if copy else "",
            copy_xml=copy.xml if copy else "",
        )

    def _not_found(self, vm_id: str, away: Sequence[str]) -> str:
        last = self._last.get(vm_id, "")
        if last in away:
            return f"{vm_id} is on {last}, which is DOWN: bring the node up or move the VM"
        return f"{vm_id} may be on {' or '.join(away)}, which cannot be asked: bring the node up or move the VM"

    def _heard(self, event: HostEvent) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for listen in self._listeners:
            listen(event)


def _domains(node: str, domain_uuid: str, connection: libvirt.virConnect) -> list[Seen]:
    """What a node has of this domain (empty: of all), and of test copies."""
    listed = connection.listAllDomains()
    if domain_uuid:
        listed = [each for each in listed if each.UUIDString() == domain_uuid or each.name().endswith(COPY_SUFFIX)]
    found = []
    for domain in listed:
        try:
            found.append(_domain(node, domain))
        except libvirt.libvirtError as error:
            # Gone by now, it is looked for elsewhere. A node that cannot tell all it has is one that does not answer.
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return found


def _domain(node: str, domain: libvirt.virDomain) -> Seen:
    state, reason = domain.state()
    return seen(
        node=node,
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=state,
        reason=reason,
        persistent=bool(domain.isPersistent()),
        xml=domain.XMLDesc(INACTIVE),
        live_xml=domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE) if domain.isActive() else "",
    )
