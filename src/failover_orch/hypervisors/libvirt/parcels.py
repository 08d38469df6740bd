"""What a cycle sends, put together on the primary's node."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import libvirt

from failover_orch import telemetry
from failover_orch.domain.replication import ReplicationState
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt import checkpoints
from failover_orch.hypervisors.libvirt.checkpoints import Backup, Progress
from failover_orch.hypervisors.libvirt.disks import delta_path
from failover_orch.hypervisors.libvirt.domain_xml import describe
from failover_orch.hypervisors.libvirt.images import in_use
from failover_orch.hypervisors.libvirt.nodes import Node, Placed
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.replicas import disks_of
from failover_orch.hypervisors.libvirt.site import Site

__all__ = ["OutOfStep", "Parcel", "Parcels", "copies_everything", "on_domain"]

_T = TypeVar("_T")
_log = telemetry.logger(__name__)
_State = ReplicationState
_FROM_THE_START = frozenset(
    {_State.READY_FOR_INITIAL_REPLICATION, _State.WAITING_FOR_INITIAL_REPLICATION, _State.RESYNCHRONIZING}
)
_BEGIN_S = 60.0
_STALLED_S = 60.0
"""A backup that has copied nothing for so long is given up."""
_CLOSING_S = 20.0
_FIRST_LOOK_S, _LAST_LOOK_S = 0.01, 0.5


class OutOfStep(StepFailed):
    """What the replica lacks is not known any more: everything has to be copied."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What brings the replica from cycle `base` to cycle `cycle`: a file for each disk by its target.

    No files, and `cycle` the same as `base`: nothing was written since.
    """

    base: int
    cycle: int
    full: bool
    at_ms: int
    files: Mapping[str, str]
    consistent: bool = False
    delivery: str = "none"
    traces: tuple[str, ...] = ()
    """Those of the disks of a VM that is off: as long as they are these, it has written nothing more."""


class Parcels:
    """Puts together what the primaries of one site are to send."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def standing(self, placed: Placed, peer: Record) -> frozenset[int]:
        """The cycles that the VM, which is on, has checkpoints of."""
        described = describe(placed.xml)
        cycle = placed.record.cycle
        # What an attempt may have left that was cut short, and whose checkpoint a migration has left undescribed.
        cycles = (cycle, cycle + 1, peer.cycle, peer.cycle + 1)
        targets = [disk.target for disk in described.disks]
        return frozenset(
            await on_domain(placed, lambda domain: checkpoints.standing(domain, targets, described.others, cycles))
        )

    async def drop(self, placed: Placed, *cycles: int) -> None:
        """Remove checkpoints of a VM that is on, in this order. What only they noted goes to those before them."""
        for cycle in cycles:
            await on_domain(placed, partial(checkpoints.drop, cycle=cycle))

    async def pack(self, placed: Placed, record: Record, peer: Record, standing: frozenset[int]) -> Parcel:
        """Put together what the replica lacks. The VM is on, whether its guest runs or not.

        With a checkpoint of that moment: cancelled or failed, it stays for `standing` to find.

        Raises:
            OutOfStep: everything has to be copied, and the record does not say so.

        """
        full = copies_everything(record)
        if not full and peer.cycle != record.cycle:
            raise OutOfStep(f"{record.vm_id} stands at cycle {record.cycle}, and its replica at {peer.cycle}")
        if not full and record.cycle not in standing:
            raise OutOfStep(f"what {record.vm_id} has written since cycle {record.cycle} was not noted")
        every = record.consistent_every
        consistent = bool(every) and (peer.end.points_taken + 1) % every == 0 and not placed.starting
        parcel = self._parcel(placed, record, peer, full=full)
        await disks_of(placed).make_deltas(parcel.cycle)
        try:
            froze = await self._begin(placed, parcel, consistent=consistent)
            await self._done(placed)
        except BaseException:
            # Cancelled, too: whoever wants the VM shut down, or migrated, waits for the job to end.
            with suppress(StepFailed, libvirt.libvirtError):
                await on_domain(placed, checkpoints.abort)
            raise
        for file in parcel.files.values():
            await _closed(placed.node, file)
        return replace(parcel, consistent=froze, delivery=uuid.uuid4().hex)

    def _parcel(self, placed: Placed, record: Record, peer: Record, *, full: bool) -> Parcel:
        # Neither end has heard of this number yet.
        cycle = max(record.cycle, peer.cycle) + 1
        files = {disk.target: delta_path(disk.path, cycle) for disk in describe(placed.xml).disks}
        return Parcel(record.cycle, cycle, full, self._site.clock(), files)

    async def _begin(self, placed: Placed, parcel: Parcel, *, consistent: bool) -> bool:
        """Begin the backup; whether the guest's file systems were frozen at that moment."""
        backup = Backup(
            files=parcel.files,
            others=describe(placed.live_xml or placed.xml).others,
            base=None if parcel.full else parcel.base,
            cycle=parcel.cycle,
        )
        why = ""
        if consistent:
            begin = partial(checkpoints.begin_frozen, backup=backup)
            begun, why = await on_domain(placed, begin, within_s=_BEGIN_S)
        else:
            begun = await on_domain(placed, partial(checkpoints.begin, backup=backup), within_s=_BEGIN_S)
        if not begun:
            raise OutOfStep(f"what {placed.vm_id} has written since cycle {parcel.base} was lost with its QEMU")
        if why:
            _log.warning("recovery point not application-consistent", vm=placed.vm_id, why=why)
        return consistent and not why

    async def _done(self, placed: Placed) -> None:
        loop = asyncio.get_running_loop()
        copied, moved_at, pause_s = -1, loop.time(), _FIRST_LOOK_S
        while True:
            state, now_copied = await on_domain(placed, checkpoints.progress)
            if state is Progress.DONE:
                return
            if state is Progress.LOST:
                raise StepFailed(f"nobody knows what came of the backup of {placed.vm_id} on {placed.node.name}")
            if now_copied != copied:
                copied, moved_at = now_copied, loop.time()
            elif loop.time() > moved_at + _STALLED_S:
                raise StepFailed(f"the backup of {placed.vm_id} on {placed.node.name} stands still: is its disk full?")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_LOOK_S)


def copies_everything(record: Record) -> bool:
    """Whether a primary's next cycle is to copy all there is."""
    return record.resynchronize or record.end.state in _FROM_THE_START


async def on_domain(placed: Placed, what: Callable[[libvirt.virDomain], _T], *, within_s: float = 15.0) -> _T:
    """Call this on the VM's domain, in a thread."""

    def look_up(connection: libvirt.virConnect) -> _T:
        return what(connection.lookupByUUIDString(placed.uuid))

    return await placed.node.call(look_up, within_s=within_s)


async def _closed(node: Node, file: str) -> None:
    """Wait until QEMU has let go of the file: libvirt says that the job is done before all of it is written."""
    deadline = asyncio.get_running_loop().time() + _CLOSING_S
    while await in_use(node, file):
        if asyncio.get_running_loop().time() > deadline:
            raise StepFailed(f"{file} on {node.name} is still being written {_CLOSING_S:g} s after its backup was done")
        await asyncio.sleep(_FIRST_LOOK_S)
