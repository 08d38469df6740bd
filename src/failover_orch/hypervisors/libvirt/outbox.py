"""What a site has to tell and nobody has yet: in memory, for what is told is found again by looking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.hypervisors.protocol import Observation, Observed

__all__ = ["Due", "Outbox"]

_BATCH = 500


class Outbox:
    """Observations in their order. Of inventories only the newest is kept: one replaces the other."""

    def __init__(self) -> None:
        self._waiting: list[Observed] = []
        self._position = 0
        self._handed_out = 0
        """The position up to which a batch was handed out: the same batch comes again until it is published."""
        self.filled = asyncio.Event()
        """Set while there is something to tell."""

    def add(self, values: Iterable[Observation]) -> int:
        """Add observations; the position of the last one."""
        for value in values:
            self._waiting = [
                each for each in self._waiting if each.position <= self._handed_out or not _replaces(value, each.value)
            ]
            self._position += 1
            self._waiting.append(Observed(self._position, value))
            self.filled.set()
        return self._position

    def batch(self) -> tuple[Observed, ...]:
        """What is to be told next, oldest first: the same again until it is published."""
        if not self._handed_out and self._waiting:
            self._handed_out = self._waiting[:_BATCH][-1].position
        return tuple(each for each in self._waiting if each.position <= self._handed_out)

    def published(self, position: int) -> None:
        """Everything up to this position is safe elsewhere."""
        self._waiting = [each for each in self._waiting if each.position > position]
        if position >= self._handed_out:
            self._handed_out = 0
        if not self._waiting:
            self.filled.clear()


def _replaces(new: Observation, old: Observation) -> bool:
    match new, old:
        case VmInventory(), VmInventory():
            return new.vm_id == old.vm_id
        case ClusterInventory(), ClusterInventory():
            return new.cluster == old.cluster
        case _:
            return False


class Due:
    """What is to be looked at: VMs by their ids, or everything."""

    def __init__(self, every_s: float) -> None:
        """Everything is due every `every_s` seconds, whether somebody asks for it or not."""
        self._every_s = every_s
        self._next_s = float("-inf")
        self._vm_ids: set[str] = set()
        self._everything = False
        self._asked = asyncio.Event()

    def add(self, vm_id: str = "") -> None:
        """Ask for a VM, or for everything."""
        if vm_id:
            self._vm_ids.add(vm_id)
        else:
            self._everything = True
        self._asked.set()

    async def taken(self) -> frozenset[str] | None:
        """The VMs that are due, as soon as any is, or None for everything; they are taken as looked at."""
        loop = asyncio.get_running_loop()
        if not self._asked.is_set():
            try:
                async with asyncio.timeout_at(self._next_s):
                    await self._asked.wait()
            except TimeoutError:
                self._everything = True
        self._asked.clear()
        vm_ids, self._vm_ids = self._vm_ids, set()
        if not self._everything and loop.time() < self._next_s:
            return frozenset(vm_ids)
        self._everything = False
        self._next_s = loop.time() + self._every_s
        return None
