"""Waiting for something outside to come back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["Pause"]

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class Pause:
    """Waits longer each time, until reset; a stop cuts the wait short."""

    def __init__(self, stopping: asyncio.Event, *, cut_short: bool = True) -> None:
        self._stopping = stopping if cut_short else asyncio.Event()
        self._next_s = _FIRST_PAUSE_S

    def reset(self) -> None:
        self._next_s = _FIRST_PAUSE_S

    async def take(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._next_s):
                await self._stopping.wait()
        self._next_s = min(self._next_s * 2, _LONGEST_PAUSE_S)
