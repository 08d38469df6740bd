"""One replication cycle: it arrives at the replica as a whole, or not at all.

Cycle m brings the replica on from cycle n, which both ends have:

    1  withdraw   the replica forgets what was delivered and not committed, and says at which cycle it stands
    2  settle     if it has one more than we know of, our last attempt did arrive; what is left of others is undone
    3  pack       with checkpoint cp-<m>, what was written since cp-<n> is copied into a file for each disk
    4  deliver    the files go over, with their digests
    5  commit     the replica takes them in: from here on it stands at m
    6  finish     the record says m, and cp-<n> is no longer needed

After a crash, or whatever goes wrong, the next cycle begins at 1 and nothing is lost: before 5 the changes are still
noted from n on, and after it the replica says that it has m. The VM's lock is held for 2 and 6, and while QEMU runs for
a VM that is off; never while a running VM's data travel.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

import libvirt

from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.transitions import RECEIVES
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt.domain_xml import describe, inventory_adapters
from failover_orch.hypervisors.libvirt.enrolment import replica_node
from failover_orch.hypervisors.libvirt.messages import Busy, Conflict, Cycle, NewReplica
from failover_orch.hypervisors.libvirt.nodes import Node, Placed
from failover_orch.hypervisors.libvirt.parcels import Parcel, Parcels, copies_everything, on_domain
from failover_orch.hypervisors.libvirt.peers import Peers
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.replicas import as_it_is, disks_of
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.libvirt.vm_replication import settings_of
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules import shipped

__all__ = ["Cycles", "Misplaced"]

_T = TypeVar("_T")
_BUSY_S = 30.0
_BUSY_PAUSE_S = 0.2
_ENDING_S = 30.0


class Misplaced(Conflict):
    """The replica is on another node than the one it was looked for on: a routing update will say so."""


class Cycles:
    """Carries out the cycles of one site's primaries, one at a time for each VM."""

    def __init__(self, site: Site, peers: Peers) -> None:
        self._site = site
        self._peers = peers
        self._parcels = Parcels(site)
        self._rested: dict[str, tuple[int, tuple[str, ...]]] = {}
        """Of VMs that are off: the cycle that has all they wrote, and the traces by which to tell that it still has."""

    async def ship(self, vm_id: str, *, locked: bool) -> Record:
        """Do one cycle of a primary; its record, which is written. `locked`: the caller holds the VM's lock throughout.

        Raises:
            OutOfStep: everything has to be copied, and the record does not say so yet.
            Misplaced, Conflict: the replica is elsewhere, or does not take it.
            StepFailed, libvirtError: it came to nothing this time.

        """
        placed = await self._placed(vm_id)
        node = await replica_node(self._site, placed.record)
        peer = await self._withdraw(placed, node)
        async with self._holding(vm_id, locked=locked):
            placed = await self._placed(vm_id)
            running = placed.power is Power.RUNNING
            if running:
                placed, standing = await self._settle(placed, peer)
            else:
                placed, parcel = await self._rest(placed, peer)
        if running:
            parcel = await self._parcels.pack(placed, placed.record, peer, standing)
        digests = await self._deliver(placed, node, parcel)
        taken = await self._commit(placed, node, parcel, digests)
        async with self._holding(vm_id, locked=locked):
            placed = await self._placed(vm_id)
            if placed.record.cycle != parcel.base:
                raise StepFailed(f"{vm_id} has come to cycle {placed.record.cycle} by another way meanwhile")
            record = await self._finish(placed, taken, parcel.at_ms)
            if parcel.traces:
                self._rested[vm_id] = (record.cycle, parcel.traces)
            if parcel.files:
                await disks_of(placed).drop_deltas()
                if placed.power is Power.RUNNING:
                    await self._parcels.drop(placed, parcel.base)
        return record

    # The steps

    async def _withdraw(self, placed: Placed, node: str) -> Record:
        """The replica's record, once it has forgotten earlier attempts. Where there is no replica, it is made."""
        vm_id, site = placed.record.vm_id, placed.record.peer_site
        try:
            peer = await _patiently(partial(self._peers.withdraw, site, node, vm_id))
        except Conflict as conflict:
            if conflict.record is not None:
                raise Misplaced(str(conflict), conflict.record) from conflict
            adapters = inventory_adapters(describe(placed.xml), self._site.settings.networks)
            networks = {adapter.adapter_id: adapter.network for adapter in adapters}
            new = NewReplica(placed.xml, as_it_is(placed), networks)
            peer = await _patiently(partial(self._peers.create, site, node, vm_id, new))
        if peer.end.mode is not ReplicationMode.REPLICA or peer.end.state not in RECEIVES:
            raise Conflict(
                f"{vm_id} at {site} is {peer.end.mode} and {peer.end.state} ({peer.end.state.number}): it receives "
                "nothing",
                peer,
            )
        return peer

    async def _settle(self, placed: Placed, peer: Record) -> tuple[Placed, frozenset[int]]:
        """Make good what earlier attempts left, of a VM that is on: the VM, and which checkpoints it has."""
        standing = await self._parcels.standing(placed, peer)
        if peer.cycle > placed.record.cycle and peer.cycle in standing:
            # It did arrive: the answer was lost, or whoever waited for it.
            placed = replace(placed, record=await self._finish(placed, peer, peer.end.last_replication_at_ms))
        cycle = placed.record.cycle
        # The newest first: what only it has noted goes to the one before it.
        await self._parcels.drop(placed, *sorted((each for each in standing if each > cycle), reverse=True))
        await self._parcels.drop(placed, *sorted(each for each in standing if each < cycle))
        return placed, standing & {cycle}

    async def _rest(self, placed: Placed, peer: Record) -> tuple[Placed, Parcel]:
        """What a VM that is off still has to send: QEMU is run for it, and its guest is not. The lock is held."""
        record, disks = placed.record, disks_of(placed)
        if not placed.starting and not copies_everything(record) and peer.cycle == record.cycle:
            traces = await disks.traces()
            if self._rested.get(record.vm_id) == (record.cycle, traces):
                nothing = Parcel(record.cycle, record.cycle, full=False, at_ms=self._site.clock(), files={})
                return placed, replace(nothing, traces=traces)
        try:
            await self._site.nodes.start_paused(placed)
            placed = await self._placed(record.vm_id)
            if not placed.starting:
                raise StepFailed(f"{record.vm_id} on {placed.node.name} was started by somebody else meanwhile")
            placed, standing = await self._settle(placed, peer)
            parcel = await self._parcels.pack(placed, placed.record, peer, standing)
        finally:
            await self._end_paused(record.vm_id)
        return placed, replace(parcel, traces=await disks.traces())

    async def _end_paused(self, vm_id: str) -> None:
        """Have QEMU not run for a VM that it was started paused for. One whose guest was let run is left alone."""
        placed = await self._placed(vm_id)

        def end(domain: libvirt.virDomain) -> None:
            if domain.isActive() and domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                with suppress(libvirt.libvirtError):
                    domain.destroy()
            if domain.isActive():
                raise StepFailed(f"{domain.name()} on {placed.node.name} is still on: it was started only to be read")

        if placed.starting:
            await on_domain(placed, end, within_s=_ENDING_S)

    async def _deliver(self, placed: Placed, node: str, parcel: Parcel) -> tuple[str, ...]:
        """Send the files; their digests, as they were read."""
        vm_id, site = placed.record.vm_id, placed.record.peer_site
        compressed = settings_of(placed.record).compression
        digests: list[str] = []
        for index, file in enumerate(parcel.files.values()):
            digest = hashlib.sha256()
            async with aclosing(_read(placed.node, file, digest.update)) as chunks:
                delivered = await self._peers.deliver(
                    site, node, vm_id, parcel.delivery, index, chunks, compressed=compressed
                )
            if delivered.sha256 != digest.hexdigest():
                raise StepFailed(f"{file} has not arrived at {site} as it was sent")
            digests.append(delivered.sha256)
        return tuple(digests)

    async def _commit(self, placed: Placed, node: str, parcel: Parcel, digests: tuple[str, ...]) -> Record:
        record = placed.record

        async def commit() -> Record:
            passed_ms = max(0, self._site.clock() - parcel.at_ms)
            cycle = Cycle(
                base=parcel.base,
                cycle=parcel.cycle,
                full=parcel.full,
                delivery=parcel.delivery,
                targets=tuple(parcel.files),
                digests=digests,
                at_ms=parcel.at_ms,
                age_ms=passed_ms,
                latency_ms=passed_ms,
                consistent=parcel.consistent,
                end=as_it_is(placed).end,
                replication=settings_of(record),
            )
            return await self._peers.commit(record.peer_site, node, record.vm_id, cycle)

        return await _patiently(commit)

    async def _finish(self, placed: Placed, peer: Record, at_ms: int) -> Record:
        """Write down that both ends have the cycle that the peer has. The lock is held."""
        end = as_it_is(placed).end
        record = replace(
            placed.record,
            end=replace(
                shipped(end, at_ms, peer.end.latency_ms), state=ReplicationState.REPLICATING, cycles=end.cycles + 1
            ),
            cycle=peer.cycle,
            peer_node=peer.end.node,
            resynchronize=False,
        )
        await self._site.nodes.write(placed, record)
        self._site.changed(record.vm_id)
        return record

    async def _placed(self, vm_id: str) -> Placed:
        placed = await self._site.nodes.find(vm_id)
        if placed is None or placed.record.end.mode is not ReplicationMode.PRIMARY:
            raise StepFailed(f"{vm_id} is no primary at {self._site.name} any more")
        return placed

    @asynccontextmanager
    async def _holding(self, vm_id: str, *, locked: bool) -> AsyncIterator[None]:
        if locked:
            yield
        else:
            async with self._site.lock(vm_id):
                yield


async def _patiently(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask again while the other end is at work on the VM."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _BUSY_S
    while True:
        try:
            return await ask()
        except Busy:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(_BUSY_PAUSE_S)


async def _read(node: Node, file: str, note: Callable[[bytes], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(node.read(file)) as chunks:
        async for chunk in chunks:
            note(chunk)
            yield chunk
