"""Asks every VM's page at all its addresses, from the third place and all the time, as those who use the VMs would."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from failover_orch.demo.vms.machines import Machine
from failover_orch.lab import Lab
from failover_orch.wire import now_ms

__all__ = ["Prober", "Sighting"]

_EVERY_S = 0.5
_PATIENCE_S = 1.0
_LATELY = 40
"""Pages from which the pace of a VM is taken."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A page that was seen: when, at which site's address, and what it said. `boot` is another after each boot."""

    at_ms: int
    site: str
    counter: int
    boot: str


class Prober:
    """Within `async with` it asks each VM twice a second at each site's IPv4 address."""

    def __init__(self, lab: Lab, machines: Sequence[Machine]) -> None:
        self._lab = lab
        self._places = [(machine.vm_id, site, machine.addresses[site][0]) for machine in machines for site in lab.sites]
        self._seen: defaultdict[str, list[Sighting]] = defaultdict(list)
        # Its own threads: those that wait for a VM that is gone must not hold up anybody else.
        self._threads = ThreadPoolExecutor(len(self._places), thread_name_prefix="prober")
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._probe(*place)) for place in self._places]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    async def _probe(self, vm_id: str, site: str, address: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            sighting = await loop.run_in_executor(self._threads, self._ask, site, address)
            if sighting is not None:
                self._seen[vm_id].append(sighting)
            await asyncio.sleep(max(0.0, begun + _EVERY_S - loop.time()))

    def _ask(self, site: str, address: str) -> Sighting | None:
        try:
            page = self._lab.page(address, timeout_s=_PATIENCE_S)
        except OSError:
            return None
        return Sighting(now_ms(), site, int(page["counter"]), str(page["boot"]))

    def all(self, vm_id: str) -> tuple[Sighting, ...]:
        """Every page of a VM that was seen, in order."""
        return tuple(self._seen[vm_id])

    def last(self, vm_id: str, site: str, *, by_ms: int | None = None) -> Sighting | None:
        """The last page seen at a site's address (up to a moment)."""
        return next((s for s in reversed(self._of(vm_id, site)) if by_ms is None or s.at_ms <= by_ms), None)

    def first(self, vm_id: str, site: str, *, since_ms: int) -> Sighting | None:
        """The first page seen at a site's address from a moment on."""
        return next((s for s in self._of(vm_id, site) if s.at_ms >= since_ms), None)

    def counts_a_second(self, vm_id: str, site: str) -> float:
        """How fast a VM has counted there lately, within one boot."""
        seen = self._of(vm_id, site)
        seen = [sighting for sighting in seen if sighting.boot == seen[-1].boot][-_LATELY:]
        passed_ms = seen[-1].at_ms - seen[0].at_ms if seen else 0
        return 1000 * (seen[-1].counter - seen[0].counter) / passed_ms if passed_ms else 0.0

    def count_at(self, vm_id: str, site: str, at_ms: int) -> int:
        """What a VM had counted at a moment, as the pages before and after it say."""
        before, after = self.last(vm_id, site, by_ms=at_ms), self.first(vm_id, site, since_ms=at_ms)
        if before is None or after is None or before == after:
            known = before or after
            return known.counter if known is not None else 0
        passed = (at_ms - before.at_ms) / (after.at_ms - before.at_ms)
        return round(before.counter + passed * (after.counter - before.counter))

    def _of(self, vm_id: str, site: str) -> list[Sighting]:
        return [sighting for sighting in self._seen[vm_id] if sighting.site == site]
