"""Failovers of the real VM, and what its counters and disks say of each."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vms_disks import chain_of, counter_on, identical, kept_while_locked
from vms_hands import Hands, told
from vms_installation import EVERY_S, PRIMARY, VM

from failover_orch.domain import FailoverKind, RunSnapshot, RunState
from failover_orch.wire import now_ms

__all__ = ["ENDED_WELL", "Loss", "Moved", "fail_over_as_planned", "lose_and_fail_over", "planned_kind"]

_REPORT_S = 1
ENDED_WELL = (RunState.SUCCEEDED, RunState.COMPLETED_WITH_ERRORS)
"""The VM is where it was to go."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a planned failover left: the old primary's disk as it was locked, and what the new one's stands upon."""

    run: RunSnapshot
    before: int
    after: int
    same: bool
    page: int
    """The first count that was seen at the new site."""
    took_s: float

    def __str__(self) -> str:
        same = "disks identical" if self.same else "DISKS DIFFER"
        return (
            f"{self.run.from_site} to {self.run.to_site}: {self.before - self.after} of {self.before} counts lost, "
            f"{same}, page at {self.page}, {self.took_s:.1f} s"
        )

    @property
    def wrong(self) -> list[str]:
        """What is not as it should be on disks and page."""
        found = [] if self.before == self.after else [f"{self.before - self.after} counts were lost"]
        found += [] if self.same else ["the disks differ"]
        found += [] if self.page >= self.after else [f"the page shows {self.page}, and {self.after} was counted"]
        return found


@dataclass(frozen=True, slots=True)
class Loss:
    """What an unplanned failover lost, beside what the last reports before said that the replica lacked."""

    run: RunSnapshot
    before: int
    after: int
    pending: int
    """In counts: those after the replica's last cycle by the last report."""
    pending_bytes: int
    age_ms: int
    leeway: int
    """What is counted in one cycle."""
    page: int

    @property
    def lost(self) -> int:
        return self.before - self.after

    def __str__(self) -> str:
        return (
            f"{self.run.from_site} to {self.run.to_site}: {self.lost} of {self.before} counts lost, {self.pending} "
            f"(+-{self.leeway}) told as pending in {self.pending_bytes / 1024:.0f} KiB, "
            f"{self.age_ms / 1000:.1f} s after the last cycle, page at {self.page}"
        )

    @property
    def wrong(self) -> list[str]:
        """What is not as it should be on disks and page."""
        found = []
        if self.lost < 0 or abs(self.lost - self.pending) > self.leeway:
            found.append(f"{self.lost} counts were lost, and {self.pending} (+-{self.leeway}) were pending")
        if self.page < self.after:
            found.append(f"the page shows {self.page}, and the recovery point had {self.after}")
        return found


def planned_kind(target: str) -> FailoverKind:
    """What a failover without loss to this site is called."""
    return FailoverKind.FAILBACK if target == PRIMARY else FailoverKind.PLANNED


async def fail_over_as_planned(hands: Hands, run_id: str = "") -> Moved | RunSnapshot:
    """Fail the VM over without loss, and compare; the run alone where it has failed, and was undone."""
    target = next(site for site in hands.lab.sites if site != hands.vm.active_site)
    began_ms, old = now_ms(), await hands.disk(hands.vm.active_site)
    async with _keeping(hands, old) as keeping:
        run = await hands.ended(await hands.ask(planned_kind(target), run_id=run_id))
        if run.state not in ENDED_WELL:
            return run
        locked = await keeping
        await hands.until(f"the page answers at {target}", lambda: hands.serves(target, began_ms))
        started_from = (await asyncio.to_thread(chain_of, await hands.disk(target)))[1]
        sighting = hands.prober.first(VM, target, since_ms=began_ms)
        assert sighting is not None
        return Moved(
            run=run,
            before=await asyncio.to_thread(counter_on, locked),
            after=await asyncio.to_thread(counter_on, started_from),
            same=await asyncio.to_thread(identical, locked, started_from),
            page=sighting.counter,
            took_s=(now_ms() - began_ms) / 1000,
        )


@asynccontextmanager
async def _keeping(hands: Hands, old: Path) -> AsyncIterator[asyncio.Task[Path]]:
    """Keep the disk once it is locked, in a task, while the worker stands still."""
    installation, given_up = hands.installation, threading.Event()

    def hold() -> None:
        with suppress(AssertionError):  # it may have been killed
            installation.pause("worker")

    def let_go() -> None:
        installation.resume("worker")

    # Beside the other files of the test: large, and gone with them.
    with tempfile.TemporaryDirectory(prefix="locked-", dir=installation.directory) as directory:
        kept = asyncio.to_thread(kept_while_locked, old, Path(directory), given_up, hold=hold, let_go=let_go)
        keeping = asyncio.create_task(kept)
        try:
            yield keeping
        finally:
            # Its thread would wait for ever for a disk that is never locked.
            given_up.set()
            await asyncio.gather(keeping, return_exceptions=True)


async def lose_and_fail_over(hands: Hands, run_id: str = "") -> Loss:
    """Cut the power of the VM's node between two cycles, fail the VM over, and see what was lost."""
    source = hands.vm.active_site
    target = next(site for site in hands.lab.sites if site != source)
    old, since_ms = await hands.disk(source), now_ms()

    def pending() -> bool:
        end = hands.heard.report(source)
        return end is not None and end.reported_at_ms > since_ms and end.pending_bytes > 0

    await hands.until("something is pending", pending)
    lost_ms = now_ms()
    await asyncio.to_thread(hands.lab.power_off, hands.node(source).name)
    run = await hands.ended(await hands.ask(FailoverKind.UNPLANNED, run_id=run_id, fence=True))
    assert run.state in ENDED_WELL, told(run)
    await hands.until(f"the page answers at {target}", lambda: hands.serves(target, lost_ms))
    sighting = hands.prober.first(VM, target, since_ms=lost_ms)
    reports = [hands.heard.report(site, by_ms=lost_ms) for site in (source, target)]
    replicated_ms = max(end.last_replication_at_ms for end in reports if end is not None)
    assert sighting is not None
    assert reports[0] is not None
    before = await asyncio.to_thread(counter_on, old)
    started_from = (await asyncio.to_thread(chain_of, await hands.disk(target)))[1]
    return Loss(
        run=run,
        before=before,
        after=await asyncio.to_thread(counter_on, started_from),
        pending=before - hands.prober.count_at(VM, source, replicated_ms),
        pending_bytes=reports[0].pending_bytes,
        age_ms=lost_ms - replicated_ms,
        leeway=round(hands.prober.counts_a_second(VM, source) * (EVERY_S + _REPORT_S)),
        page=sighting.counter,
    )
