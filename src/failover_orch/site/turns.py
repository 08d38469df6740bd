"""Limits on how much is done at once, several at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Hashable, Mapping
from contextlib import asynccontextmanager

__all__ = ["Turns"]


class Turns:
    """Turns under limits that come with each piece of work, by name.

    A turn counts against all of its limits, and comes when there is room under all of them at once: whoever waits for
    a busy node holds nothing of its plan's share meanwhile. First come, first served among those that there is room
    for. A limit that nobody has a turn under is forgotten.
    """

    def __init__(self) -> None:
        self._taken: Counter[Hashable] = Counter()
        self._waiting: dict[asyncio.Future[None], Mapping[Hashable, int]] = {}

    @asynccontextmanager
    async def take(self, limits: Mapping[Hashable, int]) -> AsyncGenerator[None, None]:
        """Wait for a turn, and hold it within. `limits`: how many may have one at once, by name; 0: any number."""
        limits = {name: most for name, most in limits.items() if most}
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = limits
        self._serve()
        try:
            await turn
            yield
        finally:
            # One that is cancelled may have been given its turn already, and not have heard of it.
            if self._waiting.pop(turn, None) is None:
                self._taken -= Counter(limits.keys())
                self._serve()

    def _serve(self) -> None:
        for turn, limits in list(self._waiting.items()):
            if not turn.cancelled() and all(self._taken[name] < most for name, most in limits.items()):
                del self._waiting[turn]
                self._taken.update(limits.keys())
                turn.set_result(None)
