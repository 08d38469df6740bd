"""Reading topics whole, without a group: read models, restores, audits, the command line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from failover_orch.contract import Names
from failover_orch.wire.clients import start_client, stop_consumer
from failover_orch.wire.failures import explained, unavailable
from failover_orch.wire.metadata import counts_of, require_topics

__all__ = ["Positions", "Received", "follow", "positions_now", "read_to_end"]

REQUEST_TIMEOUT_MS = 15_000
PATIENCE_S = 30.0
"""How long `read_to_end` waits for a Kafka that went away while it was being read."""

LARGEST_FETCH = 5 * 1024 * 1024
"""A partition's share of a fetch, in bytes: more than the largest record of any topic, which dead-letters holds."""

AT_ONCE = 5_000
"""Records a list holds at most."""

Positions = Mapping[tuple[str, int], int]
"""For each topic, by the contract's name, and partition an offset."""


@dataclass(frozen=True, slots=True)
class Received:
    """A record as it was read. `topic` is the contract's name, without an installation's prefix."""

    topic: str
    partition: int
    offset: int
    key: bytes
    """Empty where the record has none."""
    value: bytes | None
    """None marks, in a compacted topic, that the key is gone."""
    headers: Sequence[tuple[str, bytes]]
    timestamp_ms: int


async def read_to_end(
    bootstrap: str,
    topics: Collection[str],
    *,
    names: Names,
    partitions: Collection[int] | None = None,
    since_ms: int = 0,
    behind: Mapping[str, int] | None = None,
) -> AsyncGenerator[list[Received], None]:
    """Read topics from the beginning up to where they end now, in lists as they arrive; order holds in a partition.

    With `since_ms` reading begins at the first record that Kafka has of that time or later, but no later than behind
    the offset that `behind` names for a topic.

    Only what was committed is read, up to the oldest transaction still open. One that has just been committed may count
    as open for a moment: Kafka marks its end in each partition behind the answer. `topics` are the contract's names;
    `partitions` narrows the reading to some partitions of each.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`, or nobody has for half a minute.
        TopicMismatch: a topic is missing.

    """
    async with _consumer(bootstrap) as consumer:
        remaining = await _assign(consumer, bootstrap, [names.of(topic) for topic in topics], partitions)
        if since_ms:
            with explained(bootstrap, "the offsets of a time"):
                await _skip(consumer, remaining, since_ms, {names.of(name): at for name, at in (behind or {}).items()})
        progress = time.monotonic()
        while True:
            with explained(bootstrap, "reading"):
                async with asyncio.timeout(PATIENCE_S):
                    before = len(remaining)
                    remaining = await _not_yet_read(consumer, remaining)
                    if not remaining:
                        return
                    received = await _next(consumer, names, timeout_ms=50)
            if received or len(remaining) < before:
                progress = time.monotonic()
            elif time.monotonic() - progress > PATIENCE_S:
                raise unavailable(bootstrap, f"nothing came for {PATIENCE_S:g} s")
            if received:
                yield received


async def positions_now(bootstrap: str, topics: Collection[str], *, names: Names) -> Positions:
    """Where topics end now: whatever is written from here on, `follow` hands out if it begins there.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`.
        TopicMismatch: a topic is missing.

    """
    async with _consumer(bootstrap) as consumer:
        ends = await _assign(consumer, bootstrap, [names.of(topic) for topic in topics], None)
        return {(names.plain(partition.topic), partition.partition): end for partition, end in ends.items()}


async def follow(
    bootstrap: str,
    topics: Collection[str],
    *,
    names: Names,
    on_caught_up: Callable[[], None] = lambda: None,
    since: Positions | None = None,
) -> AsyncGenerator[list[Received], None]:
    """Read topics from the beginning, and then for ever, as `read_to_end` does.

    `on_caught_up` is called once, when the caller asks for more after it was given all that was there at the start.
    `since` says where to begin instead, in those of its partitions that are read here.
    A Kafka that goes away later is waited for: reading goes on where it stood.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap` at the start.
        TopicMismatch: a topic is missing.

    """
    async with _consumer(bootstrap) as consumer:
        remaining = await _assign(consumer, bootstrap, [names.of(topic) for topic in topics], None)
        for (topic, partition), offset in (since or {}).items():
            if topic in topics:
                consumer.seek(TopicPartition(names.of(topic), partition), offset)
        caught_up = False
        while True:
            with explained(bootstrap, "reading"):
                remaining = await _not_yet_read(consumer, remaining)
            if not remaining and not caught_up:
                caught_up = True
                on_caught_up()
            with explained(bootstrap, "reading"):
                received = await _next(consumer, names, timeout_ms=500 if caught_up else 50)
            if received:
                yield received


@asynccontextmanager
async def _consumer(bootstrap: str) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        max_partition_fetch_bytes=LARGEST_FETCH,
    )
    try:
        with explained(bootstrap, "a consumer"):
            await start_client(consumer)
        yield consumer
    finally:
        await stop_consumer(consumer)


async def _assign(
    consumer: Any, bootstrap: str, topics: Collection[str], partitions: Collection[int] | None
) -> Mapping[TopicPartition, int]:
    """Give the consumer its partitions; returns where each of them ends now."""
    with explained(bootstrap, "the end offsets of its topics"):
        present = await counts_of(consumer._client, bootstrap)  # noqa: SLF001 (the public way, `topics()`, drops the partitions)
        require_topics(bootstrap, topics, present)
        assignment = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in range(present[topic])
            if partitions is None or partition in partitions
        ]
        consumer.assign(assignment)
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(assignment)
        return ends


async def _skip(consumer: Any, ends: Mapping[TopicPartition, int], since_ms: int, behind: Mapping[str, int]) -> None:
    """Begin later: with the records of a time, or right behind an offset where that is earlier."""
    found = await consumer.offsets_for_times(dict.fromkeys(ends, since_ms))
    for partition, end in ends.items():
        first = end if found[partition] is None else found[partition].offset
        consumer.seek(partition, min(first, behind.get(partition.topic, end) + 1))


async def _not_yet_read(consumer: Any, ends: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
    """The partitions that do not stand at their ends.

    By the consumer's position and not by the last record: transaction markers, aborted records and compacted ones
    take offsets at the end of a partition and are never handed out.
    """
    return {partition: end for partition, end in ends.items() if await consumer.position(partition) < end}


async def _next(consumer: Any, names: Names, *, timeout_ms: int) -> list[Received]:
    batches = await consumer.getmany(timeout_ms=timeout_ms, max_records=AT_ONCE)
    return [
        Received(
            topic=names.plain(partition.topic),
            partition=partition.partition,
            offset=record.offset,
            key=record.key or b"",
            value=record.value,
            headers=record.headers,
            timestamp_ms=record.timestamp,
        )
        for partition, records in batches.items()
        for record in records
    ]
