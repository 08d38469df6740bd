"""The timers of one partition: a heap of when a value wants to be looked at, rebuilt from the state at restore.

A timer is no more than a reminder. What it is about is in the state: the rules look there whether its time has come, so
one that fires early, late or twice does no harm.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from failover_orch.domain import State, due_ms

__all__ = ["Timers"]


class Timers:
    """Reminders by key."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._due: dict[str, int] = {}

    def set(self, key: str, value: State | None) -> None:
        """Take over when a value wants to be looked at; an older reminder of that key is void."""
        due = due_ms(value) if value is not None else 0
        if due == self._due.get(key, 0):
            return
        if due:
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
        else:
            self._due.pop(key, None)

    def put_off(self, key: str, due_ms: int) -> None:
        """Remind of a key at another time than its value says."""
        self._due[key] = due_ms
        heapq.heappush(self._heap, (due_ms, key))

    def seconds_left(self, now_ms: int) -> float | None:
        """Until the next reminder; None where there is none."""
        self._drop_void()
        return max(0.0, (self._heap[0][0] - now_ms) / 1000) if self._heap else None

    def due(self, now_ms: int) -> Iterator[str]:
        """The keys whose time has come, each once."""
        self._drop_void()
        while self._heap and self._heap[0][0] <= now_ms:
            _, key = heapq.heappop(self._heap)
            self._due.pop(key, None)
            yield key
            self._drop_void()

    def _drop_void(self) -> None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
