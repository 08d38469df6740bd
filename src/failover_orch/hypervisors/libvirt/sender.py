"""The primaries of a site and when each sends: one cycle an interval, and what is missed counts."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace

import libvirt

from failover_orch import telemetry
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.transitions import FAILED_OVER, SENDS
from failover_orch.errors import HypervisorError, StepFailed
from failover_orch.hypervisors.libvirt import checkpoints
from failover_orch.hypervisors.libvirt.cycles import Cycles, Misplaced
from failover_orch.hypervisors.libvirt.disks import checkpoint_name
from failover_orch.hypervisors.libvirt.domain_xml import describe
from failover_orch.hypervisors.libvirt.enrolment import enrol
from failover_orch.hypervisors.libvirt.messages import Conflict
from failover_orch.hypervisors.libvirt.nodes import Placed
from failover_orch.hypervisors.libvirt.parcels import OutOfStep, copies_everything, on_domain
from failover_orch.hypervisors.libvirt.peers import Peers
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.replicas import as_it_is, disks_of
from failover_orch.hypervisors.libvirt.settings import ReplicatedVm
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.protocol import Power

__all__ = ["Sender"]

_log = telemetry.logger(__name__)
_State = ReplicationState
_TICK_S = 0.5
_ENROL_S = 5.0
_SHORTEST_LIMIT_S = 10.0
_INTERVALS = 3
"""A cycle that does not copy everything is given up after so many intervals."""


class Sender:
    """Replicates the primaries of one site."""

    def __init__(self, site: Site, peers: Peers) -> None:
        self._site = site
        self._cycles = Cycles(site, peers)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._under_way: dict[str, asyncio.Task[Record | None]] = {}
        self._misplaced: set[str] = set()
        """VMs whose replica was not where it was looked for: the next routing update is about them, maybe."""
        self._to_enrol: list[ReplicatedVm] = list(site.settings.replicate)

    async def run(self) -> None:
        """Send whatever is due, for ever."""
        await self._thaw_all()
        loop = asyncio.get_running_loop()
        enrol_at = loop.time()
        async with asyncio.TaskGroup() as tasks:
            while True:
                if loop.time() >= enrol_at:
                    await self._enrol()
                    enrol_at = loop.time() + _ENROL_S
                routed = self._site.routed.is_set()
                self._site.routed.clear()
                again = set(self._misplaced) if routed else set()
                self._misplaced -= again
                now_ms = self._site.clock()
                for placed in await self._site.nodes.all():
                    vm_id = placed.record.vm_id
                    due = _sends(placed.record) and placed.record.end.next_cycle_at_ms <= now_ms
                    if (due or vm_id in again) and not self._turns[vm_id].locked():
                        tasks.create_task(self._due(vm_id, now=vm_id in again), name=f"cycle-{vm_id}")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_TICK_S):
                        await self._site.routed.wait()

    async def cycle(self, vm_id: str, *, now: bool = True) -> Record | None:
        """One cycle of the VM, where it is a primary that sends; without `now` only where it is due.

        Gives its record afterwards, whether the cycle arrived or was missed; None where this site cannot say what has
        become of it, or the cycle was stopped.
        """
        async with self._turns[vm_id]:
            task = asyncio.create_task(self._cycle(vm_id, now=now))
            self._under_way[vm_id] = task
            try:
                await asyncio.wait({task})
            finally:
                del self._under_way[vm_id]
                task.cancel()
                await asyncio.wait({task})
        return None if task.cancelled() else task.result()

    async def stop(self, vm_id: str) -> None:
        """Give up the cycle that is under way. What it was to send stays to be sent."""
        task = self._under_way.get(vm_id)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def ship_rest(self, placed: Placed) -> Record:
        """Send all that a VM that is off has written, for its planned failover; its record, which is written.

        Whoever calls this holds the VM's lock.

        Raises:
            StepFailed: it did not arrive; asked again, it goes on from where it was.

        """
        vm_id = placed.record.vm_id
        # Whatever else wants to send of this VM begins with taking its lock.
        await self.stop(vm_id)
        try:
            try:
                return await self._cycles.ship(vm_id, locked=True)
            except OutOfStep as error:
                await self._copy_everything(placed, str(error))
                return await self._cycles.ship(vm_id, locked=True)
        except libvirt.libvirtError as error:
            raise StepFailed(f"{vm_id} on {placed.node.name}: {error}") from error

    async def pending_bytes(self, placed: Placed) -> int:
        """What the VM has written that its replica lacks; of one that is off, as it was last known."""
        record = placed.record
        known = record.end.pending_bytes
        if record.end.mode is not ReplicationMode.PRIMARY or placed.power is not Power.RUNNING:
            return known
        described = describe(placed.xml)
        targets = [disk.target for disk in described.disks]
        try:
            found = await on_domain(
                placed, lambda domain: checkpoints.pending_bytes(domain, targets, described.others, record.cycle)
            )
        except (StepFailed, libvirt.libvirtError):
            return known
        return known if found is None else found

    async def begin_tracking(self, placed: Placed) -> Record:
        """See whether the failed-over VM, which becomes the primary, can send what it has written since its failover.

        Gives the record to go on from. If that was not noted, or the VM was not failed over to the very state that the
        other end has, everything is to be copied.
        """
        record = placed.record
        noted = checkpoint_name(record.cycle) in await disks_of(placed).bitmaps()
        return replace(record, resynchronize=not noted)

    async def _cycle(self, vm_id: str, *, now: bool) -> Record | None:
        record, sends = await self._claim(vm_id, now=now)
        if record is None or not sends:
            return record
        try:
            try:
                return await self._ship(vm_id, record)
            except OutOfStep as error:
                async with self._site.lock(vm_id):
                    placed = await self._site.nodes.find(vm_id)
                    if placed is None or not _sends(placed.record):
                        return None
                    record = await self._copy_everything(placed, str(error))
                return await self._ship(vm_id, record)
        except TimeoutError:
            return await self._missed(vm_id, "it took too long")
        except (HypervisorError, libvirt.libvirtError) as error:
            if isinstance(error, Misplaced):
                self._misplaced.add(vm_id)
            return await self._missed(vm_id, str(error), error.record if isinstance(error, Conflict) else None)

    async def _claim(self, vm_id: str, *, now: bool) -> tuple[Record | None, bool]:
        """The VM's record, and whether it sends now. Said before it is done: another agent leaves it to this one."""
        async with self._site.lock(vm_id):
            placed = await self._site.nodes.find(vm_id)
            if placed is None:
                return None, False
            record, at_ms = as_it_is(placed), self._site.clock()
            if not _sends(record) or not (now or record.end.next_cycle_at_ms <= at_ms):
                return record, False
            claimed = replace(record, end=replace(record.end, next_cycle_at_ms=at_ms + record.every_ms))
            try:
                await self._site.nodes.write(placed, claimed)
            except StepFailed:
                moved = await self._site.nodes.find(vm_id)
                if moved is None or moved.node.name == placed.node.name:
                    raise
                # It arrived elsewhere between the look and the word.
                await self._site.nodes.write(moved, claimed)
            return claimed, True

    async def _ship(self, vm_id: str, record: Record) -> Record:
        # Copying everything takes as long as it takes: it is given up where it stands still.
        within_s = max(_SHORTEST_LIMIT_S, _INTERVALS * record.every_ms / 1000)
        async with asyncio.timeout(None if copies_everything(record) else within_s):
            try:
                return await self._cycles.ship(vm_id, locked=False)
            except (StepFailed, libvirt.libvirtError) as error:
                placed = await self._site.nodes.find(vm_id)
                moved = placed is not None and placed.node.name != record.end.node
                if not moved or isinstance(error, Conflict | OutOfStep):
                    raise
                # It migrated meanwhile, and takes what it has noted along.
                return await self._cycles.ship(vm_id, locked=False)

    async def _copy_everything(self, placed: Placed, why: str) -> Record:
        """Have the next cycle copy everything: what the replica lacks is not known any more. The lock is held."""
        _log.warning("replica has to be copied anew", vm=placed.vm_id, why=why)
        end = as_it_is(placed).end
        record = replace(placed.record, end=replace(end, state=_State.RESYNCHRONIZING), resynchronize=True)
        await self._site.nodes.write(placed, record)
        self._site.changed(placed.vm_id)
        return record

    async def _missed(self, vm_id: str, why: str, peer: Record | None = None) -> Record | None:
        """Count a cycle that came to nothing. The replica counts it by the clock, in its own report."""
        _log.warning("replication cycle missed", vm=vm_id, why=why)
        async with self._site.lock(vm_id):
            placed = await self._site.nodes.find(vm_id)
            if placed is None or not _sends(placed.record):
                return None if placed is None else as_it_is(placed)
            end = as_it_is(placed).end
            # An old primary that is back hears that it was overtaken: it must not go on as if nothing had happened.
            overtaken = peer is not None and (
                peer.end.state in FAILED_OVER or peer.end.mode is not ReplicationMode.REPLICA
            )
            missed = replace(
                end,
                state=_State.ERROR if overtaken else end.state,
                cycles=end.cycles + 1,
                missed_cycles=end.missed_cycles + 1,
                errors=end.errors + 1,
                pending_bytes=await self.pending_bytes(placed),
            )
            record = replace(placed.record, end=missed)
            await self._site.nodes.write(placed, record)
        self._site.changed(vm_id)
        return record

    async def _due(self, vm_id: str, *, now: bool) -> None:
        """A cycle whose errors are its own: the other VMs go on."""
        try:
            await self.cycle(vm_id, now=now)
        except (HypervisorError, libvirt.libvirtError) as error:
            # Its node does not answer, so that not even the miss could be written down.
            _log.warning("VM cannot be replicated now", vm=vm_id, why=str(error))

    async def _enrol(self) -> None:
        for wanted in tuple(self._to_enrol):
            try:
                if await enrol(self._site, wanted):
                    self._to_enrol.remove(wanted)
            except (HypervisorError, libvirt.libvirtError) as error:
                _log.warning("VM cannot be replicated yet", domain=wanted.vm, why=str(error))

    async def _thaw_all(self) -> None:
        """A process that was killed as it had a guest freeze its file systems left them so."""
        frozen = [placed for placed in await self._site.nodes.all() if _may_be_frozen(placed)]
        await asyncio.gather(*(on_domain(placed, checkpoints.thaw) for placed in frozen), return_exceptions=True)


def _sends(record: Record) -> bool:
    end = record.end
    return end.mode is ReplicationMode.PRIMARY and end.state in SENDS and end.next_cycle_at_ms > 0


def _may_be_frozen(placed: Placed) -> bool:
    record = placed.record
    primary = record.end.mode is ReplicationMode.PRIMARY
    return primary and bool(record.consistent_every) and placed.power is Power.RUNNING
