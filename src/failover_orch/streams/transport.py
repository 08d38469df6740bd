"""Faust's aiokafka transport, made to hand out chunks and to read from where a partition's own state says.

What differs from stock Faust, and why:

- One event per up to 500 records of a partition. What Faust does for every event is then paid once a chunk.
- Reading starts where the changelog says the partition stands. The group's committed offsets can run ahead of the work
  when a rebalance comes between, and serve lag monitoring alone.
- `read_committed`: Faust's consumer reads aborted records otherwise.
- Topics are assigned together by partition number: Faust groups topics by the set of their subscribers in an order that
  Python does not fix, so two topics could end up in two groups, and a VM's moves on another worker than its requests.
- While workers subscribe to different topics, those with the most are given everything: one that was started before a
  site was added would be given a share of the common topics, and another the site's, of the same partitions.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from aiokafka.errors import IllegalStateError
from faust.assignor import PartitionAssignor
from faust.transport.drivers import aiokafka as driver

from failover_orch import telemetry
from failover_orch.errors import PartitionFault

__all__ = ["Chunk", "ChunkTransport", "CoPartitionedAssignor", "Positions"]

log = telemetry.logger(__name__)

CHUNK_RECORDS = 500
END_TRIES = 10
END_PAUSE_S = 0.5
SEEK_MARGIN_S = 3.0
"""By how much the time to take up reading after a rebalance stays below the request time-out, Faust's own limit."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive records of one partition of one topic.

    `start` is the offset at which this read began: the partition's task takes only what begins where it stands.
    `reading` counts the times that reading stopped or was taken up anew; a chunk of an older reading is void.
    """

    topic: str
    partition: int
    start: int
    end: int
    reading: int
    behind: int
    """Records of the partition that are written but not yet read."""
    records: tuple[Any, ...]


class Positions(Protocol):
    """Says where reading is to begin."""

    async def stop_reading(self, reading: int) -> None:
        """A rebalance begins: finish what is in hand and take nothing more until `begin_reading`."""

    async def begin_reading(
        self, partitions: frozenset[tuple[str, int]], reading: int
    ) -> Mapping[tuple[str, int], int]:
        """The next offset to read of each (topic, partition), once their tasks are open."""

    def fail(self, error: BaseException) -> None:
        """End the process: reading cannot go on."""


@dataclass(frozen=True, slots=True)
class _Fetched:
    """What one fetch brought. `ends` are the offsets up to which each partition is written."""

    reading: int
    records: Mapping[Any, list[Any]]
    ends: Mapping[Any, int]


class _ReadCommittedThread(driver.AIOKafkaConsumerThread):
    """The thread that owns aiokafka's consumer. Here alone can be said to which reading a fetched record belongs."""

    _reading = 0

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust offers no setting for it. The fetcher is made from this when the consumer starts.
        consumer._isolation_level = "read_committed"  # noqa: SLF001 (see above)
        return consumer

    async def begin(self, positions: Mapping[Any, int], reading: int) -> None:
        """Stand at these positions: what is fetched from now on belongs to `reading`.

        Raises:
            PartitionFault: a topic ends before its position: it is not the topic that the state was made from. Its
                records would be skipped as delivered again, without a word.

        """
        await self.call_thread(self._begin, positions, reading)

    async def _check(self, positions: Mapping[Any, int]) -> None:
        consumer = self._ensure_consumer()
        for attempt in range(END_TRIES):
            # A partition's new leader can, for a moment, know of less than its predecessor did.
            await asyncio.sleep(END_PAUSE_S if attempt else 0)
            ends = await consumer.end_offsets(list(positions))
            beyond = [tp for tp, position in positions.items() if position > ends[tp]]
            if not beyond:
                break
        else:
            tp = beyond[0]
            raise PartitionFault(
                f"topic {tp.topic}, partition {tp.partition}, ends at {ends[tp]}, but the state holds its records up "
                f"to {positions[tp] - 1}: the topic was made anew; bring the old one back (a new "
                "FAILOVER_ORCH_APP_ID starts over, with all that docs/high-availability.md says of that)"
            )
        begins = await consumer.beginning_offsets(list(positions))
        for tp, position in positions.items():
            if 0 < position < begins[tp]:
                missed = begins[tp] - position
                log.error("records expired unread", topic=tp.topic, partition=tp.partition, records=missed)

    async def _begin(self, positions: Mapping[Any, int], reading: int) -> None:
        await self._check(positions)
        # It seeks before it waits for anything, so no fetch comes between the two.
        self._reading = reading
        await self._seek_wait(self._ensure_consumer(), positions)

    async def _fetch_records(self, consumer: Any, *arguments: Any, **options: Any) -> Any:
        records = await super()._fetch_records(consumer, *arguments, **options)
        ends = {tp: consumer.highwater(tp) or 0 for tp in records if tp in consumer.assignment()}
        return _Fetched(self._reading, records, ends) if records else {}


class _ChunkConsumer(driver.Consumer):
    """Faust's consumer, yielding chunks.

    Reading is numbered anew whenever a rebalance begins and again when it has ended. A record belongs to the reading
    in which the thread fetched it, whatever has happened by the time it is handed on: one of an older reading is void,
    since the current one reads it again, and one of the current reading is never left out.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reading = 0
        self._next: dict[Any, int] = {}

    def _new_consumer_thread(self) -> Any:
        return _ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Void what is on its way and let the tasks finish, before the others are given our partitions."""
        positions: Positions = self.app.positions
        await positions.stop_reading(self._renumber())
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        """Let go of every partition where none is left to us: Faust takes up reading only where there is one.

        Kept, a task would meet another worker's fence when its partition came back, and end the process.
        """
        await super().on_partitions_assigned(assigned, generation_id)
        if not assigned:
            positions: Positions = self.app.positions
            try:
                await positions.begin_reading(frozenset(), self._renumber())
            except Exception as error:  # noqa: BLE001 (as in `perform_seek`: Faust would go on, silently)
                positions.fail(error)

    async def perform_seek(self) -> None:
        """Stand every partition where its task stands. Called by Faust after each rebalance."""
        reading = self._renumber()
        # Not `asyncio.timeout`: a client that is just connecting cannot be cancelled at once. Faust waits a bit longer
        # than this; then it gives this and every later rebalance up without a word, and the worker idles for good.
        taking_up = asyncio.ensure_future(self._take_up(reading))
        taking_up.add_done_callback(_look_at)
        try:
            await asyncio.wait([taking_up], timeout=self.app.conf.broker_request_timeout - SEEK_MARGIN_S)
        finally:
            taking_up.cancel()
        error = _error_of(taking_up)
        if error is None:
            return
        if reading != self._reading or isinstance(error, IllegalStateError):
            # Another rebalance has begun and changed what is ours; by this error Faust knows to wait for its end.
            raise IllegalStateError("overtaken by another rebalance") from error
        # Whatever it is: Faust would go on without reading, silently.
        self.app.positions.fail(error)

    async def _take_up(self, reading: int) -> None:
        """Stand every assigned partition where its task stands, unless another rebalance begins meanwhile."""
        positions: Positions = self.app.positions
        await super().perform_seek()  # for Faust's own account of what is committed; we stand elsewhere
        assigned = {(tp.topic, tp.partition): tp for tp in self.assignment()}
        begin = await positions.begin_reading(frozenset(assigned), reading)
        if reading != self._reading:
            return  # another rebalance has begun; it comes by here too
        seek = {assigned[place]: offset for place, offset in begin.items()}
        # Before the seek: what is fetched right behind it finds them here.
        self._next.update(seek)
        self._read_offset.update({tp: offset or None for tp, offset in seek.items()})
        await self._thread.begin(seek, reading)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:  # noqa: ASYNC109 (Faust's signature)
        """Fetch, and hand out in chunks."""
        fetched, _ = await self._wait_next_records(timeout)
        if not fetched or self.should_stop:
            return
        for tp, batch in fetched.records.items():
            for first in range(0, len(batch), CHUNK_RECORDS):
                if fetched.reading != self._reading:
                    return
                part = batch[first : first + CHUNK_RECORDS]
                end = part[-1].offset + 1
                chunk = Chunk(
                    topic=tp.topic,
                    partition=tp.partition,
                    start=self._next[tp],
                    end=end,
                    reading=fetched.reading,
                    behind=max(0, fetched.ends.get(tp, end) - end),
                    records=tuple(part),
                )
                self._next[tp] = end
                message = self._to_message(tp, part[-1])
                message.key, message.value = None, chunk
                yield tp, message

    def _renumber(self) -> int:
        self._reading += 1
        self._next.clear()
        return self._reading


def _look_at(task: asyncio.Task[None]) -> None:
    """Look at how a task ended, also where nobody waits for it any more: the loop complains of what nobody looks at."""
    if not task.cancelled():
        task.exception()


def _error_of(taking_up: asyncio.Task[None]) -> BaseException | None:
    """Why reading was not taken up, or None."""
    if not taking_up.done():
        return PartitionFault("reading could not be taken up in time after a rebalance: is Kafka slow or away?")
    if taking_up.cancelled():
        return PartitionFault("taking up reading after a rebalance was cut off")
    return taking_up.exception()


class ChunkTransport(driver.Transport):
    """Faust's aiokafka transport with the consumer of this module."""

    Consumer = _ChunkConsumer


class CoPartitionedAssignor(PartitionAssignor):
    """Faust's assignor, with topics of the same subscribers always in the same group, and all in one group."""

    def _perform_assignment(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Any:
        subscriptions = [frozenset(metadata.subscription) for metadata in member_metadata.values()]
        # The leader of the group alone assigns, so any order will do where two are as large.
        newest = max(subscriptions, key=lambda topics: (len(topics), sorted(topics)), default=frozenset())
        if any(topics != newest for topics in subscriptions):
            log.info("workers that read fewer topics than others are given none", topics=len(newest))
        return super()._perform_assignment(
            cluster,
            {
                member: metadata if frozenset(metadata.subscription) == newest else _without_topics(metadata)
                for member, metadata in member_metadata.items()
            },
        )

    @classmethod
    def _group_co_subscribed(
        cls, topics: Iterable[str], subscriptions: Mapping[str, Iterable[str]]
    ) -> Iterable[set[str]]:
        subscribers: MutableMapping[str, set[str]] = defaultdict(set)
        for client, subscription in subscriptions.items():
            for topic in subscription:
                subscribers[topic].add(client)
        groups: MutableMapping[tuple[str, ...], set[str]] = defaultdict(set)
        for topic in topics:
            groups[tuple(sorted(subscribers[topic]))].add(topic)
        return groups.values()


def _without_topics(metadata: Any) -> ConsumerProtocolMemberMetadata:
    """A member's metadata, as if it had subscribed to nothing: it is given nothing, and stays in the group."""
    return ConsumerProtocolMemberMetadata(metadata.version, [], metadata.user_data)
