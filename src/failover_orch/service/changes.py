"""Word of routes that have changed, for those who wait for it: long polls, and streams of events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

__all__ = ["Changes", "Listener", "RouteChange"]

_HELD_AT_MOST = 20_000
"""Changes that are kept for a listener who does not take them; then it has to begin anew."""


@dataclass(frozen=True, slots=True)
class RouteChange:
    """A VM has a new route, from the record at this place of the routing updates."""

    vm_id: str
    partition: int
    offset: int


class Listener:
    """One who hears of every change, in order, from when it began to listen."""

    def __init__(self) -> None:
        self.overrun = False
        """True once more changed than is kept for it: what it hears from then on is not whole."""
        self._held: deque[RouteChange] = deque()
        self._any = asyncio.Event()

    def hear(self, changes: Iterable[RouteChange]) -> None:
        self._held.extend(changes)
        self.overrun = self.overrun or len(self._held) > _HELD_AT_MOST
        if self.overrun:
            self._held.clear()
        self._any.set()

    async def next(self, timeout_s: float) -> list[RouteChange]:
        """The changes since the last call; none where nothing has changed within the time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._any.wait()
        self._any.clear()
        heard = list(self._held)
        self._held.clear()
        return heard


class Changes:
    """Where changes of routes are told, and waited for."""

    def __init__(self) -> None:
        self.ended = False
        """True once nobody should wait any longer: the service ends."""
        self._listeners: set[Listener] = set()
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def tell(self, changes: Iterable[RouteChange]) -> None:
        """Wake whoever waits for one of these."""
        told = tuple(changes)
        if not told:
            return
        for listener in self._listeners:
            listener.hear(told)
        if self._waiting:
            for change in told:
                for event in self._waiting.get(change.vm_id, ()):
                    event.set()

    def end(self) -> None:
        """Let everybody go who waits, and everybody who comes to wait."""
        self.ended = True
        for listener in self._listeners:
            listener.hear(())
        for event in [event for waiting in self._waiting.values() for event in waiting]:
            event.set()

    async def of(self, vm_id: str, timeout_s: float) -> bool:
        """Wait until a VM's route may have changed; False where it has not within the time, or the service ends."""
        if self.ended:
            return False
        event = asyncio.Event()
        waiting = self._waiting.setdefault(vm_id, set())
        waiting.add(event)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return False
        else:
            return not self.ended
        finally:
            waiting.discard(event)
            if not waiting:
                self._waiting.pop(vm_id, None)

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Hear of every change for as long as this lasts."""
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
