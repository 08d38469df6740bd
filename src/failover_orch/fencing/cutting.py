"""Cutting power, whatever it is cut with: look, act, and look until it is seen to be off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from failover_orch import telemetry
from failover_orch.errors import FenceFailed
from failover_orch.fencing.model import PowerReading, Target
from failover_orch.fencing.settings import Pace

__all__ = ["Switch", "SwitchAgent"]

_log = telemetry.logger(__name__)

_LET_GO_S = 2.0


class Switch(Protocol):
    """One kind of thing that power is read from and cut with. Used by one task at a time."""

    @property
    def source(self) -> str:
        """Who tells: `BMC 10.0.0.9`."""

    def subject(self, target: Target) -> str:
        """What it turns off of a target: the node, or the VM."""

    async def read(self, target: Target) -> PowerReading:
        """The power as it is now. Raises FenceFailed where nobody answers, FenceRefused where they never will."""

    async def turn_off(self, target: Target) -> None:
        """Tell it to be off at once. Raises as `read`; FenceFailed also where the answer was lost."""

    async def let_go(self) -> None:
        """End what was opened for reading and cutting. Never raises."""


class SwitchAgent:
    """A fence agent of a switch."""

    def __init__(self, switch: Switch, pace: Pace, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the Unix epoch: the time that stands in the proof."""
        self._switch = switch
        self._pace = pace
        self._clock = clock
        # Management controllers have few sessions. When all VMs of a node are to be overtaken, the first one's cut is
        # enough: the others wait for it, and then read that it is off.
        self._turn = asyncio.Lock()

    async def power(self, target: Target) -> PowerReading:
        """As `FenceAgent.power`."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._pace.deadline_s):
                    return await self._switch.read(target)
            except (FenceFailed, TimeoutError) as error:
                _log.warning("power is not known", target=str(target), source=self._switch.source, error=error)
                return PowerReading.UNKNOWN
            finally:
                await self._let_go()

    async def cut(self, target: Target) -> str:
        """As `FenceAgent.cut`. The time that others take before it, for the same machine, counts as well."""
        attempt = _Attempt(self._switch, target, self._pace)
        try:
            async with asyncio.timeout(self._pace.deadline_s), self._turn:
                try:
                    await attempt.off()
                finally:
                    await self._let_go()
        except TimeoutError:
            raise attempt.failure() from None
        at = datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        proof = f"power of {self._switch.subject(target)} read OFF from {self._switch.source} at {at}"
        _log.info("power is off", target=str(target), proof=proof)
        return proof

    async def _let_go(self) -> None:
        # What was read stands, however long the good-bye takes.
        try:
            async with asyncio.timeout(_LET_GO_S):
                await self._switch.let_go()
        except TimeoutError:
            _log.warning("no good-bye in time", source=self._switch.source)


class _Attempt:
    """One cut, and what is known of it so far."""

    def __init__(self, switch: Switch, target: Target, pace: Pace) -> None:
        self._switch = switch
        self._target = target
        self._pace = pace
        self._reading = PowerReading.UNKNOWN
        self._told = 0
        self._trouble = ""

    async def off(self) -> None:
        """Return once the power was read as off; told at once if it is not, and again at intervals."""
        tell_at = time.monotonic()
        while await self._read() is not PowerReading.OFF:
            if time.monotonic() >= tell_at:
                await self._tell()
                tell_at = time.monotonic() + self._pace.again_s
            else:
                await asyncio.sleep(self._pace.poll_s)

    async def _read(self) -> PowerReading:
        try:
            self._reading = await self._switch.read(self._target)
        except FenceFailed as error:
            self._reading = PowerReading.UNKNOWN
            self._trouble = str(error)
        return self._reading

    async def _tell(self) -> None:
        try:
            await self._switch.turn_off(self._target)
            self._told += 1
        except FenceFailed as error:
            # The command may have arrived and only its answer be lost: the next reading tells.
            self._trouble = str(error)

    def failure(self) -> FenceFailed:
        """Why the power was not read as off, once the time is up."""
        what = f"power of {self._switch.subject(self._target)}"
        within = f"within {self._pace.deadline_s:g} s"
        source = self._switch.source
        if self._reading is PowerReading.ON and self._told:
            times = "once" if self._told == 1 else f"{self._told} times"
            sentence = f"{what} stays ON, read from {source} {within} and {times} told to be off: look at the machine"
        elif self._reading is PowerReading.ON:
            sentence = f"{what} is ON, and {source} did not take the command to turn it off {within}: {self._trouble}"
        else:
            trouble = self._trouble or f"{source} did not answer in time"
            sentence = f"{what} was not read as OFF {within}: {trouble}"
        return FenceFailed(sentence, seen_on=self._reading is PowerReading.ON)
