"""Routing updates as server-sent events, to be resumed in any process.

An event's id says, for each partition of the routing updates, up to which offset the listener has heard: partitions are
the same everywhere, and the order within each is Kafka's. After a break the routes that stand behind those offsets are
told, each in its newest form; a process that is not as far tells nothing until it is.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from failover_orch.errors import FailoverOrchError
from failover_orch.service.callers import Caller
from failover_orch.service.changes import Listener, RouteChange
from failover_orch.service.source import Source
from failover_orch.service.subjects import vm_call

__all__ = ["Position", "RouteStream"]

HEARTBEAT_S = 5.0
_SEPARATOR = "."
_DIGITS = 18


@dataclass(slots=True)
class Position:
    """How far a listener has heard: by partition the offset of the next record."""

    next_offsets: dict[int, int] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> Position:
        """The position in an event's id; the beginning where it is none of ours."""
        parts = text.split(_SEPARATOR) if text else []
        if not all(part.isascii() and part.isdigit() and len(part) <= _DIGITS for part in parts):
            return cls()
        return cls({partition: int(part) for partition, part in enumerate(parts)})

    def written(self) -> str:
        size = 1 + max(self.next_offsets, default=0)
        return _SEPARATOR.join(str(self.next_offsets.get(partition, 0)) for partition in range(size))

    def heard(self, change: RouteChange) -> bool:
        return change.offset < self.next_offsets.get(change.partition, 0)

    def take(self, change: RouteChange) -> None:
        self.next_offsets[change.partition] = max(self.next_offsets.get(change.partition, 0), change.offset + 1)


class RouteStream:
    """What one listener hears."""

    def __init__(self, source: Source, caller: Caller, position: Position, seconds: float) -> None:
        self._source = source
        self._caller = caller
        self._position = position
        self._seconds = seconds

    async def events(self) -> AsyncIterator[bytes]:
        """The events: first what was missed, then what changes; it ends with its time, and where it is overrun."""
        ends_at = time.monotonic() + self._seconds
        asked_at = time.monotonic()
        with self._source.changes.listening() as listener:
            yield b": routes\n\n"
            missed = sorted(self._places().values(), key=lambda change: (change.partition, change.offset))
            for event in self._told(missed):
                yield event
            while (left_s := ends_at - time.monotonic()) > 0 and not self._over(listener):
                changes = await listener.next(min(HEARTBEAT_S, left_s))
                if time.monotonic() - asked_at >= HEARTBEAT_S:
                    asked_at = time.monotonic()
                    # Whoever's token was revoked meanwhile, or whose answers would be old, hears no more.
                    if not await self._goes_on():
                        return
                if not changes:
                    yield b": still here\n\n"
                for event in self._told(changes):
                    yield event

    def _over(self, listener: Listener) -> bool:
        return listener.overrun or self._source.changes.ended

    async def _goes_on(self) -> bool:
        try:
            await self._caller.still()
        except FailoverOrchError:
            return False
        return not self._source.knowledge.why_not()

    def _places(self) -> Mapping[str, RouteChange]:
        return dict(self._source.model.route_places)

    def _told(self, changes: list[RouteChange]) -> Iterator[bytes]:
        for change in changes:
            if self._position.heard(change):
                continue
            self._position.take(change)
            model = self._source.model
            route = model.route(change.vm_id)
            # An older record of a VM says nothing that its newest does not say; that one comes, or has come, by itself.
            newest = model.route_places.get(change.vm_id) == change
            if route is not None and newest and self._caller.sees(vm_call, model, change.vm_id):
                data = msgspec.json.encode(route)
                yield b"id: %b\nevent: route\ndata: %b\n\n" % (self._position.written().encode(), data)
