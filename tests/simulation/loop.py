"""Virtual time: what is to happen when, one thing after the other."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

__all__ = ["Loop", "NeverAtRest"]

MOST_CALLS = 200_000
"""A world that is not at rest after so many is never going to be; most need a few thousand."""


class NeverAtRest(Exception):
    """Things go on happening for ever."""


class Loop:
    """Calls what was put off, in the order of its times."""

    def __init__(self, start_ms: int) -> None:
        self.now_ms = start_ms
        self._queue: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._numbers = count()
        self._calls = 0

    def after(self, delay_ms: int, call: Callable[..., object], *arguments: Any) -> None:
        """Call it in so many milliseconds."""
        self.at(self.now_ms + delay_ms, call, *arguments)

    def at(self, time_ms: int, call: Callable[..., object], *arguments: Any) -> None:
        """Call it at a time; at once where that is over."""
        heapq.heappush(self._queue, (max(time_ms, self.now_ms), next(self._numbers), call, arguments))

    def run_until(self, time_ms: int) -> None:
        """Let everything happen up to a time."""
        queue = self._queue
        while queue and queue[0][0] <= time_ms:
            self._calls += 1
            if self._calls > MOST_CALLS:
                raise NeverAtRest
            self.now_ms, _, call, arguments = heapq.heappop(queue)
            call(*arguments)
        self.now_ms = max(self.now_ms, min(time_ms, queue[0][0] if queue else time_ms))

    def next_ms(self) -> int | None:
        """When the next thing happens; None: nothing is left."""
        return self._queue[0][0] if self._queue else None
