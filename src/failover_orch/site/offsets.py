"""Which offsets may be committed while records are worked on side by side: pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Offsets"]

Partition = TypeVar("Partition", bound=Hashable)


class Offsets(Generic[Partition]):
    """Records begun and finished, of one assignment of partitions.

    A partition's offset may be committed up to its first unfinished record, and no further: what is behind it would be
    lost if this process died.
    """

    def __init__(self) -> None:
        self._open: dict[Partition, set[int]] = {}
        self._next: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}

    def begin(self, partition: Partition, offset: int) -> None:
        """A record has been taken; within a partition offsets grow."""
        self._open.setdefault(partition, set()).add(offset)
        self._next[partition] = offset + 1

    def finish(self, partition: Partition, offset: int) -> None:
        """A record has been dealt with for good."""
        self._open[partition].discard(offset)

    def committable(self) -> dict[Partition, int]:
        """The offset to go on from, for each partition where that has changed since `committed`."""
        reached = {partition: min(self._open[partition], default=after) for partition, after in self._next.items()}
        return {p: offset for p, offset in reached.items() if offset != self._committed.get(p)}

    def committed(self, offsets: dict[Partition, int]) -> None:
        """These offsets are known to Kafka."""
        self._committed.update(offsets)
