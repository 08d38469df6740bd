"""The long forms: one scene again and again, each with chances of its own, and a line for each."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence

from vms_hands import Hands, hands_on, say
from vms_installation import Installation, installed

__all__ = ["Scene", "repeat"]

Scene = Callable[[Hands, random.Random, int], Awaitable[str]]
"""Plays one run, given its number from 0; returns what came of it as a line. AssertionError: a violation."""


def repeat(description: str | None, scene: Scene, *, runs: int, summary: Callable[[Sequence[str]], str]) -> int:
    """Run it from the command line; the exit status is 1 where anything was violated.

    After a violation everything is made anew: what follows must not suffer from it. `summary` makes a sentence of the
    lines of the runs that went well.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--keep", action="store_true", help="keep logs and disks")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    lines: list[str] = []
    violations: list[str] = []
    began = time.monotonic()
    number = 0
    while number < arguments.runs:
        with installed(keep=arguments.keep) as installation:
            if arguments.keep:
                say(f"logs and disks are in {installation.directory}")
            number = asyncio.run(_play(installation, scene, number, arguments, lines, violations))
    took_s = time.monotonic() - began
    say(
        *violations,
        f"{arguments.runs} runs, seed {arguments.seed}, {took_s:.0f} s: {summary(lines)}; {len(violations)} violations",
    )
    return 1 if violations else 0


async def _play(
    installation: Installation,
    scene: Scene,
    first: int,
    arguments: argparse.Namespace,
    lines: list[str],
    violations: list[str],
) -> int:
    """Play runs until all are played, or one goes wrong; the number of the next one."""
    async with hands_on(installation) as hands:
        for number in range(first, arguments.runs):
            began = time.monotonic()
            # Each has its own, so that one can be played alone.
            chance = random.Random(f"{arguments.seed}/{number}")
            try:
                line = await scene(hands, chance, number)
                seen = hands.oracle.violations()
                assert not seen, seen
            except Exception as error:  # noqa: BLE001 (whatever it is, it is told, and the next run is played)
                why = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
                violations.append(f"run {number}: {why}")
                say(f"{number:3}  VIOLATION  {why}", hands.stands())
                return number + 1
            lines.append(line)
            say(f"{number:3}  {time.monotonic() - began:5.1f} s  {line}")
    return int(arguments.runs)
