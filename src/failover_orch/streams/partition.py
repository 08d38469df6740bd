"""One partition, one writer, one transaction.

A worker holds one task for each partition it owns. The task folds what its partition's topics bring into its state and
writes, in one Kafka transaction a batch, the changed state, every output, and the offsets up to which that is applied.
Whatever goes wrong, either all of it is there or nothing is; the next owner resumes from the changelog.

The races it guards against:

- A predecessor that is slow to learn that it has lost the partition. Opening the task's transactional id fences it, and
  only then is the changelog read: nothing can be added to it by another hand.
- A record delivered again after a crash or a rebalance: it stands at or below the applied offset, and is skipped.
- A read that begins too late, so that records between would be lost: a chunk must begin where the task stands.
- Faust's queues still holding chunks from before a rebalance: a chunk belongs to a reading, and an older one is void.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from failover_orch import telemetry
from failover_orch.config import Settings
from failover_orch.contract import (
    SOURCES,
    Codec,
    event_headers,
    everywhere,
    key_of,
    partition_of,
    state_topic,
    topic_of,
    traceparent_of,
)
from failover_orch.domain import (
    DeadLetter,
    Decision,
    Fact,
    FailoverRequested,
    Moment,
    RunSnapshot,
    StepResult,
    decide,
    tick,
)
from failover_orch.errors import (
    ContractError,
    FencedOut,
    GapInPartition,
    PartitionFault,
    UndecodableRecord,
    UnencodableRecord,
)
from failover_orch.streams.store import APPLIED, Store, dump
from failover_orch.streams.timers import Timers
from failover_orch.streams.transport import Chunk
from failover_orch.wire import explained, start_client, stop_producer

__all__ = ["PartitionTask"]

log = telemetry.logger(__name__)

BATCH_RECORDS = 2_000
"""How many source records one transaction holds at most, give or take a chunk."""
QUEUED_CHUNKS = 8
"""How many chunks wait for a busy task before Faust is held up: no fewer than there are agents, so that emptying the
queue lets go of every agent that waits there, though nobody takes from it any more."""
PUT_OFF_MS = 60_000
"""When to try a timer again whose outcome cannot be written."""
LARGEST_RECORD = 1_000_000
"""Bytes of key and value together that every topic takes, by Kafka's own default, with room for headers."""
LARGEST_LETTER = 3 * 1024 * 1024
"""Bytes of a bad record that are kept in its dead letter; a topic takes no larger record than this."""
LARGEST_KEY = 128 * 1024
"""Bytes of a bad record's key that are kept: it is there twice, in the letter and as its key."""
LONGEST_SHOWN = 100
"""Bytes of a key that a reason quotes."""

_CLOSED = -1
"""A reading that no chunk belongs to."""
_STOPPING_S = 3.0
"""How long a producer may take to stop: it waits for a transaction in hand; the partition's next owner does not."""
_FENCED = (kafka_errors.ProducerFenced, kafka_errors.InvalidProducerEpoch)
_TRACED = (FailoverRequested, StepResult)
"""Facts that advance a run: each decision about one is a span of the run's trace. The others are too many."""


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A record on its way out. `partition` None: by the key's hash."""

    topic: str
    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]]
    partition: int | None = None


@dataclass(slots=True)
class _Batch:
    """What one transaction is going to hold."""

    outgoing: list[_Outgoing]
    changed: dict[str, _Outgoing]
    applied: dict[str, int]
    refused: Counter[str]
    dead: Counter[str]
    ended: Counter[tuple[str, str]]


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
    ) -> None:
        self.partition = partition
        self._settings = settings
        self._codec = codec
        self._now_ms = now_ms
        self._fail = fail
        self._changelog = state_topic(settings.app_id)
        self._store = Store()
        self._timers = Timers()
        self._producer: Any = None
        self._partitions = 0
        self._topics: frozenset[str] = frozenset()
        self._topics_missed = False
        self._queue: asyncio.Queue[tuple[Chunk, Callable[[], object]]] = asyncio.Queue(QUEUED_CHUNKS)
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
            bootstrap_servers=self._settings.bootstrap,
            transactional_id=f"{self._settings.group}-{self.partition}",
            transaction_timeout_ms=10_000,
            request_timeout_ms=10_000,
            max_request_size=LARGEST_LETTER + 1024 * 1024,
            linger_ms=0,
        )
        with explained(self._settings.bootstrap, f"the transactions of partition {self.partition}"):
            await start_client(self._producer)
            await self._look_for_topics()
            self._partitions = len(await self._producer.partitions_for(names.of(SOURCES[0])))
        fenced = time.monotonic()
        count = await self._store.restore(self._settings.bootstrap, self._settings.app_id, self.partition, names)
        for key, value in self._store.state.items():
            self._timers.set(key, value)
        self._loop = asyncio.create_task(self._work(), name=f"partition-{self.partition}")
        log.info(
            "partition opened",
            partition=self.partition,
            records=count,
            values=len(self._store.state),
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
        self._stands = {topic: self._store.applied.get(topic, -1) + 1 for topic in topics}
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
        self._topics = frozenset(cluster.topics())
        self._topics_missed = False

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
            async with asyncio.timeout(self._timers.seconds_left(self._now_ms())):
                chunks.append(await self._queue.get())
        except TimeoutError:
            return chunks
        size = len(chunks[0][0].records)
        while size < BATCH_RECORDS and not self._queue.empty():
            chunks.append(self._queue.get_nowait())
            size += len(chunks[-1][0].records)
        return chunks

    async def _commit(self, chunks: list[tuple[Chunk, Callable[[], object]]]) -> None:
        if self._topics_missed:
            await self._look_for_topics()
        chunks = [(chunk, acknowledge) for chunk, acknowledge in chunks if chunk.reading == self._reading]
        batch = _Batch([], {}, {}, Counter(), Counter(), Counter())
        intake: Counter[str] = Counter()
        names = self._settings.names
        # Knowledge before intent: what one batch says of a VM is known when it asks for something.
        for topic, chunk in sorted(
            ((names.plain(chunk.topic), chunk) for chunk, _ in chunks), key=lambda pair: SOURCES.index(pair[0])
        ):
            self._fold(topic, chunk, batch)
            intake[topic] += len(chunk.records)
            telemetry.record_lag(topic, self.partition, chunk.behind)
        # One reading of the clock for all: were it set back in between, the rules would find nothing due, and the
        # reminder be gone.
        now_ms = self._now_ms()
        for key in list(self._timers.due(now_ms)):
            decision = tick(self._store.state, key, Moment(now_ms, self.partition))
            try:
                self._apply(decision, f"{self.partition}-timer-{key}-{now_ms}", batch)
            except ContractError as error:
                log.warning("timer put off", key=key, why=error)
                self._timers.put_off(key, now_ms + PUT_OFF_MS)
        if batch.outgoing or batch.changed or batch.applied:
            began = time.monotonic()
            await self._write(batch)
            telemetry.record_batch(intake, time.monotonic() - began)
            _count(batch)
        for _, acknowledge in chunks:
            acknowledge()

    async def _write(self, batch: _Batch) -> None:
        """One transaction: outputs, changed state, applied offsets. Memory already is what this makes durable."""
        self._store.applied.update(batch.applied)
        records = [*batch.outgoing, *batch.changed.values()]
        records.append(_Outgoing(self._changelog, APPLIED, dump(self._store.applied), [], self.partition))
        await self._producer.begin_transaction()
        sends = [
            await self._producer.send(
                self._settings.names.of(record.topic),
                key=record.key,
                value=record.value,
                partition=record.partition,
                headers=record.headers,
            )
            for record in records
        ]
        await asyncio.gather(*sends)
        await self._producer.commit_transaction()

    def _fold(self, topic: str, chunk: Chunk, batch: _Batch) -> None:
        applied = max(self._store.applied.get(topic, -1), batch.applied.get(topic, -1))
        for record in chunk.records:
            if record.offset <= applied:
                continue  # delivered again
            try:
                fact = self._decode(topic, record)
                self._decide(fact, record, f"{topic}-{self.partition}-{record.offset}", batch)
            except ContractError as error:
                self._dead_letter(topic, record, str(error), batch)
        batch.applied[topic] = max(applied, chunk.end - 1)

    def _decode(self, topic: str, record: Any) -> Fact:
        """The fact in a record that is about a key of this partition.

        Raises:
            UndecodableRecord: it is not what the contract says, or stands where its key does not belong.

        """
        fact: Fact = self._codec.decode_from(topic, record.value)  # type: ignore[assignment]  # as the topic table says
        key = key_of(fact)
        if record.key != key:
            found, expected = _shown(record.key), _shown(key)
            raise UndecodableRecord(f"the record's key is {found}, but it is about {expected}: use that as its key")
        if not everywhere(fact) and f"vm/{key.decode()}" not in self._store.state:
            belongs = partition_of(key, self._partitions)
            if belongs != self.partition:
                raise UndecodableRecord(
                    f"key {_shown(key)} belongs to partition {belongs}, not {self.partition}: hash keys with murmur2 "
                    "(librdkafka: partitioner=murmur2_random)"
                )
        return fact

    def _decide(self, fact: Fact, record: Any, origin: str, batch: _Batch) -> None:
        now_ms = self._now_ms()
        if not isinstance(fact, _TRACED):
            self._apply(decide(self._store.state, fact, Moment(now_ms, self.partition)), origin, batch)
            return
        run = {"run": fact.run_id, "vm": fact.vm_id}
        with telemetry.span("decide", traceparent=traceparent_of(record.headers), attributes=run) as span:
            moment = Moment(now_ms, self.partition, span.traceparent)
            self._apply(decide(self._store.state, fact, moment), origin, batch)

    def _apply(self, decision: Decision, origin: str, batch: _Batch) -> None:
        """Take a decision over into memory and into the transaction: all of it, or nothing where it cannot be written.

        Raises:
            UnencodableRecord: what is to be written does not fit its schema, is larger than Kafka takes, or is for a
                topic that is not there. Had it got into a transaction, this process and all that come after it would
                end over that one record.

        """
        outgoing = [
            self._outgoing(output, f"{origin}-{number}", decision.trace)
            for number, output in enumerate(decision.outputs)
        ]
        kept = {
            key: _Outgoing(self._changelog, key.encode(), None if value is None else dump(value), [], self.partition)
            for key, value in decision.kept.items()
        }
        for record in (*outgoing, *kept.values()):
            if self._settings.names.of(record.topic) not in self._topics:
                self._topics_missed = True
                raise UnencodableRecord(
                    f"what follows from it is for topic {self._settings.names.of(record.topic)}, which is not there: "
                    "make it with `failover-orch topics create`, then send this again"
                )
            size = len(record.key) + len(record.value or b"")
            if size > LARGEST_RECORD:
                raise UnencodableRecord(
                    f"what follows from it, a record for {record.topic}, takes {size} bytes; at most {LARGEST_RECORD} "
                    "can be written"
                )
        state = self._store.state
        state.update(decision.noted)
        for key, value in decision.kept.items():
            self._timers.set(key, value)
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        batch.changed.update(kept)
        batch.outgoing += outgoing
        batch.refused.update(decision.refused)
        for output in decision.outputs:
            if isinstance(output, RunSnapshot) and (output.state.ended or output.finished_at_ms):
                batch.ended[output.kind.value, output.state.value] += 1

    def _outgoing(self, output: object, event_id: str, trace: str) -> _Outgoing:
        headers = event_headers(
            output, source=self._settings.group, event_id=event_id, time_ms=self._now_ms(), traceparent=trace
        )
        return _Outgoing(topic_of(output), key_of(output), self._codec.encode(output), headers)

    def _dead_letter(self, topic: str, record: Any, reason: str, batch: _Batch) -> None:
        key, value = record.key or b"", record.value or b""
        letter = DeadLetter(
            topic=topic,
            partition=self.partition,
            offset=record.offset,
            reason=reason,
            key=key[:LARGEST_KEY],
            value=value[:LARGEST_LETTER],
            received_at_ms=self._now_ms(),
            truncated=len(key) > LARGEST_KEY or len(value) > LARGEST_LETTER,
        )
        batch.outgoing.append(self._outgoing(letter, f"{topic}-{self.partition}-{record.offset}-dead", ""))
        batch.dead[topic] += 1
        log.warning(
            "record sent to dead-letters", topic=topic, partition=self.partition, offset=record.offset, reason=reason
        )


def _shown(key: bytes | None) -> str:
    """A key in a sentence."""
    return repr(key) if key is None or len(key) <= LONGEST_SHOWN else f"{key[:LONGEST_SHOWN]!r}... of {len(key)} bytes"


def _count(batch: _Batch) -> None:
    for rule, count in batch.refused.items():
        telemetry.count_refusals(rule, count)
    for topic, count in batch.dead.items():
        telemetry.count_dead_letters(topic, count)
    for (kind, state), count in batch.ended.items():
        telemetry.count_runs(kind, state, count)
