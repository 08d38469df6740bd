"""A simulated Kafka: partitioned topics, transactions that are there whole or not at all, fencing by transactional id.

A record becomes visible a while after it was written; order holds within one partition of one topic, and nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from failover_orch.contract import partition_of
from failover_orch.streams.folding import Outgoing

__all__ = ["Fenced", "Log", "Record", "home"]


class Fenced(Exception):
    """Another has opened this transactional id."""


@dataclass(slots=True)
class Record:
    """A record as whoever reads it finds it."""

    offset: int
    key: bytes
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    visible_ms: int


@lru_cache(4096)
def home(key: bytes, partitions: int) -> int:
    """The partition of a key."""
    return partition_of(key, partitions)


class Log:
    """`latency` draws how long a record takes to become visible, in milliseconds."""

    def __init__(self, partitions: int, latency: Callable[[], int]) -> None:
        self.partitions = partitions
        self.changelogs: list[dict[bytes, bytes | None]] = [{} for _ in range(partitions)]
        self.delays: dict[str, int] = {}
        """By topic: how much longer its records take for now."""
        self._latency = latency
        self._records: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        self._epochs = [0] * partitions

    def read(self, topic: str, partition: int) -> list[Record]:
        """All that was ever written to a partition of a topic."""
        return self._records[topic, partition]

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
        now_ms: int,
    ) -> Record:
        """Write one record, outside any transaction."""
        records = self._records[topic, partition]
        visible = now_ms + self._latency() + self.delays.get(topic, 0)
        if records:
            visible = max(visible, records[-1].visible_ms)
        record = Record(len(records), key, value, headers, visible)
        records.append(record)
        return record

    def open(self, partition: int) -> int:
        """Open a partition's transactional id: whoever had it open before is fenced. Returns the producer's epoch."""
        self._epochs[partition] += 1
        return self._epochs[partition]

    def commit(
        self, partition: int, epoch: int, changelog: str, records: Iterable[Outgoing], now_ms: int
    ) -> list[tuple[Outgoing, int, Record]]:
        """Write a partition task's transaction; returns each output with its partition and its record.

        Raises:
            Fenced: the id was opened by another since; nothing is written.

        """
        if epoch != self._epochs[partition]:
            raise Fenced
        written = []
        for each in records:
            if each.topic == changelog:
                self.changelogs[partition][each.key] = each.value
                continue
            to = home(each.key, self.partitions) if each.partition is None else each.partition
            written.append((each, to, self.append(each.topic, to, each.key, each.value, each.headers, now_ms)))
        return written
