"""One partition, one writer, one transaction.

A worker holds one task for each partition it owns. The task has what its partition's topics bring folded (`folding`)
and writes, in one Kafka transaction a batch, the changed state, every output, and the offsets up to which that is
applied. Whatever goes wrong, either all of it is there or nothing is; the next owner resumes from the changelog.

The races it guards against:

- A predecessor that is slow to learn that it has lost the partition. Opening the task's transactional id fences it, and
  only then is the changelog read: nothing can be added to it by another hand.
- A read that begins too late, so that records between would be lost: a chunk must begin where the task stands.
- Faust's queues still holding chunks from before a rebalance: a chunk belongs to a reading, and an older one is void.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from failover_orch import telemetry
from failover_orch.config import Settings
from failover_orch.contract import SOURCES, Codec, state_topic
from failover_orch.errors import FencedOut, GapInPartition, PartitionFault
from failover_orch.kafka_address import client_options
from failover_orch.streams.folding import LARGEST_LETTER, Folding, Intake, Transaction
from failover_orch.streams.transport import Chunk
from failover_orch.wire import cluster_id, explained, start_client, stop_producer

__all__ = ["PartitionTask"]

log = telemetry.logger(__name__)

BATCH_RECORDS = 2_000
"""How many source records one transaction holds at most, give or take a chunk."""

_QUEUED_CHUNKS = 8
"""How many chunks wait for a busy task at least, before Faust is held up."""
_CLOSED = -1
"""A reading that no chunk belongs to."""
_STOPPING_S = 3.0
"""How long a producer may take to stop: it waits for a transaction in hand; the partition's next owner does not."""
_FENCED = (kafka_errors.ProducerFenced, kafka_errors.InvalidProducerEpoch)


class PartitionTask:
    """The one writer of a partition. `fail` ends the process; it is called where going on could lose or double."""

    def __init__(
        self,
        partition: int,
        settings: Settings,
        codec: Codec,
        *,
        now_ms: Callable[[], int],
        fail: Callable[[BaseException], None],
        agents: int = len(SOURCES),
    ) -> None:
        """`agents` is how many Faust agents submit chunks: no fewer chunks than that wait for a busy task.

        Emptying the queue then lets go of every agent that waits there, though nobody takes from it any more.
        """
        self.partition = partition
        self._settings = settings
        self._now_ms = now_ms
        self._fail = fail
        self._folding = Folding(
            partition,
            codec,
            source=settings.group,
            changelog=state_topic(settings.app_id),
            names=settings.names,
            now_ms=now_ms,
        )
        self._producer: Any = None
        self._queue: asyncio.Queue[tuple[Chunk, Callable[[], object]]] = asyncio.Queue(max(_QUEUED_CHUNKS, agents))
        self._idle = asyncio.Event()
        self._idle.set()
        self._going = asyncio.Event()
        self._reading = 0
        self._stands: dict[str, int] = {}
        self._loop: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Fence the previous owner, restore the state, start the timers' heap and the loop."""
        began = time.monotonic()
        names = self._settings.names
        self._producer = AIOKafkaProducer(
            **client_options(self._settings.bootstrap),
            transactional_id=f"{self._settings.group}-{self.partition}",
            transaction_timeout_ms=10_000,
            request_timeout_ms=10_000,
            max_request_size=LARGEST_LETTER + 1024 * 1024,
            linger_ms=0,
        )
        with explained(self._settings.bootstrap, f"the transactions of partition {self.partition}"):
            await start_client(self._producer, self._settings.bootstrap)
            await self._look_for_topics()
            partitions = len(await self._producer.partitions_for(names.of(SOURCES[0])))
        fenced = time.monotonic()
        store = self._folding.store
        count = await store.restore(self._settings.bootstrap, self._settings.app_id, self.partition, names)
        kafka = await cluster_id(self._settings.bootstrap)
        if store.kafka not in ("", kafka):
            raise PartitionFault(
                f"the state of partition {self.partition} counts the offsets of another Kafka, {store.kafka}, and "
                f"this is {kafka}: if its topics were mirrored here, take it over with `failover-orch mirror adopt`"
            )
        self._folding.begin(partitions, kafka)
        self._loop = asyncio.create_task(self._work(), name=f"partition-{self.partition}")
        log.info(
            "partition opened",
            partition=self.partition,
            records=count,
            values=len(store.state),
            fencing_s=round(fenced - began, 3),
            restore_s=round(time.monotonic() - fenced, 3),
        )

    async def hold(self, reading: int, finishing_s: float) -> None:
        """Forget what is queued, finish what is in hand if that takes no longer than this, and start nothing more."""
        self._reading = reading
        self._going.clear()
        self._forget()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(finishing_s):
                await self._idle.wait()

    async def begin_reading(self, topics: Iterable[str], reading: int) -> dict[str, int]:
        """Forget what is queued, finish what is in hand, go on, and say where each topic is to be read from."""
        self._reading = reading
        self._going.clear()
        self._forget()
        await self._idle.wait()
        self._stands = {topic: self._folding.store.applied.get(topic, -1) + 1 for topic in topics}
        if self._reading == reading:
            self._going.set()
        return dict(self._stands)

    async def submit(self, chunk: Chunk, acknowledge: Callable[[], object]) -> None:
        """Queue a chunk; `acknowledge` is called once it is applied and committed.

        Raises:
            GapInPartition: records between where the task stands and where the chunk begins would be lost.

        """
        if chunk.reading != self._reading:
            return
        topic = self._settings.names.plain(chunk.topic)
        stands = self._stands.get(topic, 0)
        if chunk.start > stands:
            raise GapInPartition(
                f"partition {self.partition} of {topic} stands at {stands} and was given records from {chunk.start}"
            )
        self._stands[topic] = max(stands, chunk.end)
        await self._queue.put((chunk, acknowledge))

    async def close(self, finishing_s: float) -> None:
        """Stop; a batch in hand may take this long to finish.

        One that does not is left to be aborted by the next owner's fencing, or by its time-out.
        """
        await self.hold(_CLOSED, finishing_s)
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        if self._producer is not None:
            await stop_producer(self._producer, _STOPPING_S)

    async def _look_for_topics(self) -> None:
        """Learn what topics there are: to write to one that is not would hold everything up until it fails."""
        cluster = await self._producer.client.fetch_all_metadata()
        self._folding.topics = frozenset(cluster.topics())
        self._folding.topics_missed = False

    def _forget(self) -> None:
        """Empty the queue. Whoever waits to put a chunk there goes on; that chunk's reading is over, it is void."""
        while not self._queue.empty():
            self._queue.get_nowait()

    async def _work(self) -> None:
        try:
            while True:
                chunks = await self._collect()
                # Not between a rebalance's beginning and its end: the partition may be another worker's by then.
                await self._going.wait()
                self._idle.clear()
                try:
                    await self._commit(chunks)
                finally:
                    self._idle.set()
        except asyncio.CancelledError:
            raise
        except _FENCED as error:
            self._fail(FencedOut(f"partition {self.partition} has another owner now: {error}"))
        except kafka_errors.KafkaError as error:
            self._fail(PartitionFault(f"partition {self.partition} could not write: {type(error).__name__}: {error}"))
        except BaseException as error:  # noqa: BLE001 (whatever it is: what was in hand is lost to this process)
            self._fail(error)

    async def _collect(self) -> list[tuple[Chunk, Callable[[], object]]]:
        """Wait for a chunk or for a timer, and take what else is there: it shares the transaction."""
        chunks: list[tuple[Chunk, Callable[[], object]]] = []
        try:
            async with asyncio.timeout(self._folding.timers.seconds_left(self._now_ms())):
                chunks.append(await self._queue.get())
        except TimeoutError:
            return chunks
        size = len(chunks[0][0].records)
        while size < BATCH_RECORDS and not self._queue.empty():
            chunks.append(self._queue.get_nowait())
            size += len(chunks[-1][0].records)
        return chunks

    async def _commit(self, chunks: list[tuple[Chunk, Callable[[], object]]]) -> None:
        if self._folding.topics_missed:
            await self._look_for_topics()
        chunks = [(chunk, acknowledge) for chunk, acknowledge in chunks if chunk.reading == self._reading]
        intakes = [Intake(self._settings.names.plain(chunk.topic), chunk.end, chunk.records) for chunk, _ in chunks]
        transaction = self._folding.fold(intakes)
        for intake, (chunk, _) in zip(intakes, chunks, strict=True):
            telemetry.record_lag(intake.topic, self.partition, chunk.behind)
        if transaction.records:
            began = time.monotonic()
            await self._write(transaction)
            self._folding.committed(transaction)
            telemetry.record_batch(transaction.taken, time.monotonic() - began)
            _count(transaction)
        for _, acknowledge in chunks:
            acknowledge()

    async def _write(self, transaction: Transaction) -> None:
        """One transaction: outputs, changed state, applied offsets. Memory already is what this makes durable."""
        await self._producer.begin_transaction()
        sends = [
            await self._producer.send(
                self._settings.names.of(record.topic),
                key=record.key,
                value=record.value,
                partition=record.partition,
                headers=record.headers,
            )
            for record in transaction.records
        ]
        await asyncio.gather(*sends)
        await self._producer.commit_transaction()


def _count(transaction: Transaction) -> None:
    for rule, count in transaction.refused.items():
        telemetry.count_refusals(rule, count)
    for topic, count in transaction.dead.items():
        telemetry.count_dead_letters(topic, count)
    for (kind, state), count in transaction.ended.items():
        telemetry.count_runs(kind, state, count)
