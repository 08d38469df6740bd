"""Running seeds, many at a time; and making a failing one small enough to be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from simulation.invariants import Violated, Watchman
from simulation.loop import NeverAtRest
from simulation.schedule import START_MS, Happening, Schedule, draw
from simulation.world import World

__all__ = ["Failure", "narrative", "quietly", "run_seeds", "shrink", "try_schedule"]

_CHUNK = 25
"""How many seeds a process is given at a time."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed under which something did not hold."""

    seed: int
    invariant: str
    """Its number; empty where the simulation itself met an error."""
    what: str


def quietly() -> None:
    """Log nothing: what the folding logs about bad records and bugs is for operators, and here for the invariants."""
    logging.disable(logging.CRITICAL)


def try_schedule(schedule: Schedule) -> Failure | None:
    """Let a schedule come about; what did not hold, or None."""
    try:
        World(schedule, Watchman).run()
    except Violated as violated:
        return Failure(schedule.seed, violated.number, str(violated))
    except NeverAtRest:
        return Failure(schedule.seed, "I3", "I3: it never comes to rest")
    except Exception as error:  # noqa: BLE001 (an error of the simulation is a failure of the seed, not the end of all)
        return Failure(schedule.seed, "", f"{type(error).__name__}: {error}")
    return None


def run_seeds(
    seeds: Iterable[int], *, jobs: int = 1, prepare: Callable[[], None] = quietly
) -> Iterator[tuple[int, Failure | None]]:
    """Try seeds, in order; yields each with its failure. `prepare` is called in each process but our own."""
    if jobs == 1:
        for seed in seeds:
            yield seed, try_schedule(draw(seed))
        return
    # Not forked: whoever calls may have threads.
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=prepare) as pool:
        yield from pool.map(_try_seed, seeds, chunksize=_CHUNK)


def _try_seed(seed: int) -> tuple[int, Failure | None]:
    return seed, try_schedule(draw(seed))


def shrink(schedule: Schedule, failure: Failure) -> Schedule:
    """Leave out of a failing schedule whatever it fails without: halves first, then one happening after the other."""

    def fails(happenings: tuple[Happening, ...]) -> bool:
        found = try_schedule(replace(schedule, happenings=happenings))
        return found is not None and found.invariant == failure.invariant

    happenings = schedule.happenings
    size = max(1, len(happenings) // 2)
    while True:
        before = len(happenings)
        for first in range(0, len(happenings), size):
            fewer = happenings[:first] + happenings[first + size :]
            if len(fewer) < len(happenings) and fails(fewer):
                happenings = fewer
                break
        else:
            if size == 1:
                return replace(schedule, happenings=happenings)
            size //= 2
            continue
        if len(happenings) == before:
            size = max(1, size // 2)


def narrative(schedule: Schedule) -> list[str]:
    """What happens under a schedule, line by line, to its end or to the first thing that does not hold."""
    worlds: list[World] = []
    ending = "everything held"

    def watch(world: World) -> Watchman:
        worlds.append(world)
        return Watchman(world)

    try:
        World(schedule, watch, narrated=True).run()
    except Exception as error:  # noqa: BLE001 (it is what the narrative is about)
        ending = f"{type(error).__name__}: {error}"
    lines = [f"{at_ms / 1000:10.3f} s  {line}" for at_ms, line in worlds[0].lines]
    return [*lines, f"{(worlds[0].now_ms - START_MS) / 1000:10.3f} s  {ending}"]
