"""What a site's hypervisors tell of their own accord: where VMs are, what they are, and how the cluster is.

All is told by what is there now: events of libvirt only say when to look. So nothing depends on the order in which
several nodes' events come in, and what was missed while a node could not be heard is found when it is back.

The place of each VM that was told last is kept with the VM, once that is safe elsewhere. An agent that dies before that
tells the move again, under the same number; one that was away while a VM moved finds it elsewhere than was told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import libvirt

from failover_orch import telemetry
from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.errors import FailoverOrchError, StepFailed
from failover_orch.hypervisors.libvirt.clusters import Clusters, worth_telling
from failover_orch.hypervisors.libvirt.domain_xml import describe
from failover_orch.hypervisors.libvirt.events import HostEvent
from failover_orch.hypervisors.libvirt.nodes import Placed
from failover_orch.hypervisors.libvirt.outbox import Due, Outbox
from failover_orch.hypervisors.libvirt.places import ToldPlace
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.protocol import Observed, Power

__all__ = ["Watching", "arrived"]

_log = telemetry.logger(__name__)

_PLACES_EVERY_S = 5.0
"""All places are looked at so often though no event came: one may have been lost."""
_INVENTORIES_EVERY_S = 30.0
_AT_ONCE = 8
"""So many guests are asked at a time."""


class Watching:
    """Watches one site's nodes. `run` has to run for anything to be told.

    `inventory` gives a VM as this end has to tell it now; None where the VM is not this end's to tell.
    """

    def __init__(
        self, site: Site, clusters: Clusters, inventory: Callable[[Placed], Awaitable[VmInventory | None]]
    ) -> None:
        self._site = site
        self._clusters = clusters
        self._inventory = inventory
        self._outbox = Outbox()
        # Each is held from a look until something was made of it: an older look must not undo what a newer one found.
        self._looking = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._places: dict[str, ToldPlace] = {}
        self._inventories: dict[str, VmInventory] = {}
        self._cluster: dict[str, ClusterInventory] = {}
        self._unpublished: deque[tuple[int, str, ToldPlace]] = deque()
        self._unwritten: dict[str, ToldPlace] = {}
        """Places that are safe elsewhere, and not yet kept with their VMs."""
        self._places_due = Due(_PLACES_EVERY_S)
        self._inventories_due = Due(_INVENTORIES_EVERY_S)
        self._cluster_due = Due(_PLACES_EVERY_S)
        self._writing_due = Due(_PLACES_EVERY_S)
        site.nodes.on_event(self._heard)
        site.on_change(self._ask)

    async def run(self) -> None:
        """Watch, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_follow(self._places_due, self._look_at_places))
            tasks.create_task(_follow(self._inventories_due, self._look_at_inventories))
            tasks.create_task(_follow(self._cluster_due, self._look_at_cluster))
            # Apart from the looks: a migration keeps metadata from being written until it is over.
            tasks.create_task(_follow(self._writing_due, self._write_told))

    async def watch(self) -> AsyncGenerator[tuple[Observed, ...], None]:
        """See `Hypervisor.watch`."""
        await self._announce()
        while True:
            await self._outbox.filled.wait()
            if batch := self._outbox.batch():
                yield batch

    async def published(self, position: int) -> None:
        """See `Hypervisor.published`."""
        self._outbox.published(position)
        while self._unpublished and self._unpublished[0][0] <= position:
            _, vm_id, place = self._unpublished.popleft()
            self._unwritten[vm_id] = place
            self._writing_due.add(vm_id)

    async def look(self, vm_id: str) -> None:
        """Look at one VM now, whether anything says that it has changed or not."""
        await self._look_at_places([vm_id])
        await self._look_at_inventories([vm_id])

    def _heard(self, event: HostEvent) -> None:
        vm_id = self._site.nodes.vm_id(event.vm_id) if event.vm_id else ""
        if event.kind != "agent":
            self._places_due.add(vm_id)
        if event.kind == "connection":
            self._cluster_due.add()
        self._inventories_due.add(vm_id)

    def _ask(self, vm_id: str) -> None:
        self._places_due.add(vm_id)
        self._inventories_due.add(vm_id)

    async def _announce(self) -> None:
        """Tell all that is there."""
        async with self._looking:
            placed = await self._site.nodes.all()
            self._note_places(placed)
        clusters = await self._clusters.now()
        self._cluster |= {cluster.cluster: cluster for cluster in clusters}
        self._outbox.add(clusters)
        async with self._asking:
            inventories = await self._asked(placed)
            for each in placed:
                # In the words of its last arrival: whoever has heard of it takes this for a repetition.
                self._outbox.add([self._move(each.vm_id, self._places[each.vm_id])])
                self._note_inventory(each.vm_id, inventories[each.vm_id], again=True)

    # Places

    async def _look_at_places(self, vm_ids: Iterable[str] | None) -> None:
        async with self._looking:
            self._note_places(await self._found(vm_ids))

    async def _found(self, vm_ids: Iterable[str] | None) -> Sequence[Placed]:
        """These VMs, or all, as far as anybody can say where they are."""
        if vm_ids is None:
            return await self._site.nodes.all()
        found = []
        for vm_id in vm_ids:
            try:
                placed = await self._site.nodes.find(vm_id)
            except StepFailed:
                continue  # they are looked at again when their node is back
            if placed is not None:
                found.append(placed)
        return found

    def _note_places(self, placed: Iterable[Placed]) -> None:
        for each in placed:
            vm_id = each.vm_id
            known = self._known(each)
            place = arrived(each, known, self._site.name, self._site.clock())
            self._places[vm_id] = place
            if place == known:
                continue
            moves = [self._move(vm_id, place)]
            if known is not None and known.node != place.node:
                moves.append(replace(moves[0], node=known.node, kind=MoveKind.DEPARTED, storage="", source=known.node))
            self._unpublished.append((self._outbox.add(moves), vm_id, place))
            self._inventories_due.add(vm_id)

    def _known(self, placed: Placed) -> ToldPlace | None:
        """The newest place of the VM that was told, by this agent or another one of the site."""
        known = [
            place
            for place in (self._places.get(placed.vm_id), placed.told)
            if place is not None and place.site == self._site.name
        ]
        return max(known, key=lambda place: place.sequence, default=None)

    def _move(self, vm_id: str, place: ToldPlace) -> VmMoved:
        return VmMoved(
            vm_id=vm_id,
            site=place.site,
            node=place.node,
            kind=place.kind,
            occurred_at_ms=place.at_ms,
            cluster=self._site.settings.cluster,
            storage=place.storage,
            sequence=place.sequence,
            source=place.node,
        )

    async def _write_told(self, _vm_ids: Iterable[str] | None) -> None:
        """Keep with each VM what is safe elsewhere. Whatever else it was asked for is written too."""
        nodes = self._site.nodes
        for vm_id, place in list(self._unwritten.items()):
            try:
                placed = await nodes.find(vm_id)
                if placed is not None:
                    await nodes.write_told(placed, place)
                    if placed.power is Power.RUNNING:
                        await nodes.forget_others(placed)
            except StepFailed as error:
                _log.info("the place told is not kept yet", vm=vm_id, why=str(error))
                continue
            if self._unwritten.get(vm_id) is place:
                del self._unwritten[vm_id]

    # Inventories

    async def _look_at_inventories(self, vm_ids: Iterable[str] | None) -> None:
        async with self._asking:
            for vm_id, told in (await self._asked(await self._found(vm_ids))).items():
                self._note_inventory(vm_id, told)

    def _note_inventory(self, vm_id: str, told: VmInventory | None, *, again: bool = False) -> None:
        """Tell it if it is another than was told; `again`: in any case."""
        last = self._inventories.pop(vm_id, None)
        if told is None:
            return
        self._inventories[vm_id] = told
        if again or last is None or replace(last, reported_at_ms=told.reported_at_ms) != told:
            self._outbox.add([told])

    async def _asked(self, placed: Iterable[Placed]) -> dict[str, VmInventory | None]:
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def ask(each: Placed) -> tuple[str, VmInventory | None]:
            async with at_once:
                try:
                    return each.vm_id, await self._inventory(each)
                except (FailoverOrchError, libvirt.libvirtError) as error:
                    _log.warning("inventory is not known", vm=each.vm_id, why=str(error))
                    return each.vm_id, self._inventories.get(each.vm_id)

        return dict(await asyncio.gather(*map(ask, placed)))

    async def _look_at_cluster(self, _vm_ids: Iterable[str] | None) -> None:
        for cluster in await self._clusters.now():
            if worth_telling(self._cluster.get(cluster.cluster), cluster):
                self._cluster[cluster.cluster] = cluster
                self._outbox.add([cluster])


def arrived(placed: Placed, known: ToldPlace | None, site: str, now_ms: int) -> ToldPlace:
    """The VM's place; the known one, if that is where it is."""
    node, storage = placed.node.name, describe(placed.xml).storage
    if known is None:
        # Numbers go on growing where a VM is made anew under the id of one that is gone.
        return ToldPlace(site, node, storage, MoveKind.PLACED, now_ms, now_ms)
    if (known.node, known.storage) == (node, storage):
        return known
    kind = MoveKind.STORAGE
    if known.node != node:
        kind = MoveKind.PLACED if placed.booted else MoveKind.LIVE
    return ToldPlace(site, node, storage, kind, now_ms, known.sequence + 1)


async def _follow(due: Due, look: Callable[[Iterable[str] | None], Awaitable[None]]) -> None:
    while True:
        vm_ids = await due.taken()
        try:
            await look(vm_ids)
        except (FailoverOrchError, libvirt.libvirtError) as error:
            _log.warning("a look at the site came to nothing, will look again", why=str(error))
