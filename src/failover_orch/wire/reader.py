"""Reading topics whole, without a group: read models, restores, audits, the command line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from failover_orch.contract import PER_SITE, Names, base_topic, with_sites
from failover_orch.errors import KafkaError
from failover_orch.kafka_address import client_options
from failover_orch.wire.clients import start_client, stop_consumer
from failover_orch.wire.failures import explained, unavailable
from failover_orch.wire.metadata import counts_of, require_topics

__all__ = ["Positions", "Progress", "Received", "follow", "positions_now", "read_to_end"]

REQUEST_TIMEOUT_MS = 15_000
PATIENCE_S = 30.0
"""How long `read_to_end` waits for a Kafka that went away while it was being read."""

LARGEST_FETCH = 5 * 1024 * 1024
"""A partition's share of a fetch, in bytes: more than the largest record of any topic, which dead-letters holds."""

LOOK_EVERY_S = 30.0
"""How often whoever follows topics that sites have their own of looks for a new site's."""

AT_ONCE = 5_000
"""Records a list holds at most."""

PROGRESS_EVERY_S = 0.2
"""How often the progress of `follow` is told."""

Positions = Mapping[tuple[str, int], int]
"""For each topic, by the contract's name, and partition an offset."""


@dataclass(frozen=True, slots=True)
class Received:
    """A record as it was read.

    `topic` is the contract's name, without an installation's prefix; `base_topic` tells of what kind a site's own is.
    """

    topic: str
    partition: int
    offset: int
    key: bytes
    """Empty where the record has none."""
    value: bytes | None
    """None marks, in a compacted topic, that the key is gone."""
    headers: Sequence[tuple[str, bytes]]
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition has been read: everything before `position` was handed out, and taken."""

    topic: str
    partition: int
    position: int
    end: int
    """Where it ended, at the oldest open transaction, when Kafka last answered; -1 until it has."""
    asked_at_ms: int
    """When that was, by this machine's clock; 0 until it has."""


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
    `partitions` narrows the reading to some partitions of each. A topic that sites have their own of brings
    these along.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`, or nobody has for half a minute.
        TopicMismatch: a topic is missing.

    """
    async with _consumer(bootstrap) as consumer:
        remaining = await _assign(consumer, bootstrap, topics, names, partitions)
        if since_ms:
            with explained(bootstrap, "the offsets of a time"):
                await _skip(consumer, remaining, names, since_ms, behind or {})
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
        ends = await _assign(consumer, bootstrap, topics, names, None)
        return {(names.plain(partition.topic), partition.partition): end for partition, end in ends.items()}


async def follow(
    bootstrap: str,
    topics: Collection[str],
    *,
    names: Names,
    on_caught_up: Callable[[], None] = lambda: None,
    on_progress: Callable[[Sequence[Progress]], None] | None = None,
    since: Positions | None = None,
) -> AsyncGenerator[list[Received], None]:
    """Read topics from the beginning, and then for ever, as `read_to_end` does.

    `on_caught_up` is called once, when the caller asks for more after it was given all that was there at the start.
    `on_progress` is called again and again, each time before more is read; a Kafka that is away leaves the times in it
    where they were.
    `since` says where to begin instead, in those of its partitions that are read here.
    A Kafka that goes away later is waited for: reading goes on where it stood. A new site's own topics are found.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap` at the start.
        TopicMismatch: a topic is missing.

    """
    async with _consumer(bootstrap) as consumer:
        remaining = await _assign(consumer, bootstrap, topics, names, None)
        for (topic, partition), offset in (since or {}).items():
            if base_topic(topic) in topics:
                consumer.seek(TopicPartition(names.of(topic), partition), offset)
        caught_up = False
        looked_at = time.monotonic()
        told_at = -PROGRESS_EVERY_S
        while True:
            with explained(bootstrap, "reading"):
                remaining = await _not_yet_read(consumer, remaining)
            if time.monotonic() - looked_at >= LOOK_EVERY_S:
                looked_at = time.monotonic()
                await _take_up_new(consumer, bootstrap, topics, names)
            if on_progress is not None and time.monotonic() - told_at >= PROGRESS_EVERY_S:
                told_at = time.monotonic()
                on_progress(await _progress(consumer, names))
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
        **client_options(bootstrap),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        max_partition_fetch_bytes=LARGEST_FETCH,
    )
    try:
        with explained(bootstrap, "a consumer"):
            await start_client(consumer, bootstrap)
        yield consumer
    finally:
        await stop_consumer(consumer)


async def _assign(
    consumer: Any, bootstrap: str, topics: Collection[str], names: Names, partitions: Collection[int] | None
) -> Mapping[TopicPartition, int]:
    """Give the consumer its partitions; returns where each of them ends now."""
    with explained(bootstrap, "the end offsets of its topics"):
        present = await counts_of(consumer._client, bootstrap)  # noqa: SLF001 (the public way, `topics()`, drops the partitions)
        require_topics(bootstrap, map(names.of, topics), present)
        assignment = _wanted(topics, present, names, partitions)
        consumer.assign(assignment)
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(assignment)
        return ends


async def _take_up_new(consumer: Any, bootstrap: str, topics: Collection[str], names: Names) -> None:
    """Read from their beginning those topics of sites that were not there when the reading began."""
    if not any(topic in PER_SITE for topic in topics):
        return
    with suppress(KafkaError):  # it is away: the next look will do
        present = await counts_of(consumer._client, bootstrap)  # noqa: SLF001 (as in `_assign`)
        wanted = _wanted(topics, present, names, None)
        known = consumer.assignment()
        if known >= set(wanted):
            return
        with explained(bootstrap, "its topics"):
            # A consumer forgets, with its assignment, where it stands.
            positions = {partition: await consumer.position(partition) for partition in known}
            consumer.assign(sorted({*known, *wanted}))
            for partition, position in positions.items():
                consumer.seek(partition, position)


def _wanted(
    topics: Collection[str], present: Mapping[str, int], names: Names, partitions: Collection[int] | None
) -> list[TopicPartition]:
    """The partitions of these topics, and of every site's own of their kinds among those present."""
    there = [names.plain(name) for name in present if name.startswith(names.prefix)]
    return [
        TopicPartition(names.of(name), partition)
        for topic in topics
        for name in with_sites(topic, there)
        for partition in range(present[names.of(name)])
        if partitions is None or partition in partitions
    ]


async def _skip(
    consumer: Any, ends: Mapping[TopicPartition, int], names: Names, since_ms: int, behind: Mapping[str, int]
) -> None:
    """Begin later: with the records of a time, or right behind an offset where that is earlier."""
    found = await consumer.offsets_for_times(dict.fromkeys(ends, since_ms))
    for partition, end in ends.items():
        first = end if found[partition] is None else found[partition].offset
        # A site's own topic that is not named beside its common one was made since: none of it was taken.
        unnamed = -1 if base_topic(names.plain(partition.topic)) in behind else end
        consumer.seek(partition, min(first, behind.get(names.plain(partition.topic), unnamed) + 1))


async def _not_yet_read(consumer: Any, ends: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
    """The partitions that do not stand at their ends.

    By the consumer's position and not by the last record: transaction markers, aborted records and compacted ones
    take offsets at the end of a partition and are never handed out.
    """
    return {partition: end for partition, end in ends.items() if await consumer.position(partition) < end}


async def _progress(consumer: Any, names: Names) -> list[Progress]:
    """How far each partition has been read."""
    progress = []
    for at in consumer.assignment():
        end, asked_at_ms = consumer.last_stable_offset(at), consumer.last_poll_timestamp(at)
        position = await consumer.position(at)
        progress.append(
            Progress(names.plain(at.topic), at.partition, position, -1 if end is None else end, asked_at_ms or 0)
        )
    return progress


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
