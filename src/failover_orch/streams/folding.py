"""What a partition task makes of what it reads, without any I/O: records in, the content of a transaction out.

A `Folding` owns a partition's state, applied offsets and timers. Memory runs ahead of what is durable by no more than
one transaction: whoever writes it says so by `committed`, or ends the process. The races it guards against:

- A record delivered again after a crash or a rebalance: it stands at or below the applied offset, and is skipped.
- A record whose consequence cannot be written: were it in the transaction, this process and all that come after it
  would end over that one record. It goes to `dead-letters`, and nothing of what follows from it is kept.
- A bug in the rules: the run that it is about is parked, and every other goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from failover_orch import telemetry
from failover_orch.contract import (
    SOURCES,
    Codec,
    Names,
    base_topic,
    event_headers,
    everywhere,
    key_of,
    partition_of,
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
    park,
    tick,
)
from failover_orch.errors import ContractError, UndecodableRecord, UnencodableRecord
from failover_orch.streams.store import APPLIED, KAFKA_HEADER, Store, dump
from failover_orch.streams.timers import Timers

__all__ = ["LARGEST_LETTER", "Folding", "Intake", "Outgoing", "Transaction"]

log = telemetry.logger(__name__)

PUT_OFF_MS = 60_000
"""When to try a timer again whose outcome cannot be written, or that met a bug."""
LARGEST_RECORD = 1_000_000
"""Bytes of key and value together that every topic takes, by Kafka's own default, with room for headers."""
LARGEST_LETTER = 3 * 1024 * 1024
"""Bytes of a bad record that are kept in its dead letter; a topic takes no larger record than this."""
LARGEST_KEY = 128 * 1024
"""Bytes of a bad record's key that are kept: it is there twice, in the letter and as its key."""
LONGEST_SHOWN = 100
"""Bytes of a key that a reason quotes."""

_TRACED = (FailoverRequested, StepResult)
"""Facts that advance a run: each decision about one is a span of the run's trace. The others are too many."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Consecutive records of one topic; `end` is the offset behind them. A record has offset, key, value, headers."""

    topic: str
    end: int
    records: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record on its way out, to a topic by its name in the contract. `partition` None: by the key's hash."""

    topic: str
    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]]
    partition: int | None = None


@dataclass(slots=True)
class Transaction:
    """What one transaction is to hold, and counts of it. Nothing: `records` is empty."""

    outgoing: list[Outgoing] = field(default_factory=list)
    changed: dict[str, Outgoing] = field(default_factory=dict)
    """Records of the changelog, by key: of a value that changed twice, the last."""
    applied: dict[str, int] = field(default_factory=dict)
    taken: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def records(self) -> list[Outgoing]:
        """All of it, in the order in which it is to be written."""
        return [*self.outgoing, *self.changed.values()]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A decision that can be written, and how."""

    decision: Decision
    outgoing: list[Outgoing]
    kept: dict[str, Outgoing]


class Folding:
    """Folds one partition. `topics` are the topics that there are, by their names on Kafka."""

    def __init__(
        self, partition: int, codec: Codec, *, source: str, changelog: str, names: Names, now_ms: Callable[[], int]
    ) -> None:
        """`source` says in each event's headers who wrote it; `changelog` is the topic of this partition's state."""
        self.partition = partition
        self.store = Store()
        self.timers = Timers()
        self.topics: frozenset[str] = frozenset()
        self.topics_missed = False
        self.opened_at_ms = 0
        self._codec = codec
        self._source = source
        self._changelog = changelog
        self._names = names
        self._now_ms = now_ms
        self._partitions = 0
        self._kafka: list[tuple[str, bytes]] = []

    def begin(self, partitions: int, kafka: str = "") -> None:
        """The store is restored, and the partition ours: one of so many. `kafka` is the id of the Kafka it is on."""
        self._partitions = partitions
        self._kafka = [(KAFKA_HEADER, kafka.encode())] if kafka else []
        self.opened_at_ms = self._now_ms()
        for key, value in self.store.state.items():
            self.timers.set(key, value)

    def fold(self, intakes: Iterable[Intake]) -> Transaction:
        """Take records, then whatever is due. What that leads to is in memory when this returns.

        Anything raised here is a bug that is nobody's run: what is in memory is then worth nothing.
        """
        transaction = Transaction()
        # Knowledge before intent: what one batch says of a VM is known when it asks for something.
        for intake in sorted(intakes, key=lambda each: SOURCES.index(base_topic(each.topic))):
            self._take(intake, transaction)
        self._fire(transaction)
        if transaction.outgoing or transaction.changed or transaction.applied:
            stands = dump(self.store.applied | transaction.applied)
            transaction.changed[APPLIED.decode()] = Outgoing(
                self._changelog, APPLIED, stands, self._kafka, self.partition
            )
        return transaction

    def committed(self, transaction: Transaction) -> None:
        """A transaction is durable."""
        self.store.applied.update(transaction.applied)

    def _take(self, intake: Intake, transaction: Transaction) -> None:
        topic = intake.topic
        applied = max(self.store.applied.get(topic, -1), transaction.applied.get(topic, -1))
        for record in intake.records:
            if record.offset <= applied:
                continue  # delivered again
            try:
                fact = self._decode(topic, record)
            except ContractError as error:
                self._dead_letter(topic, record, str(error), transaction)
                continue
            if isinstance(fact, _TRACED):
                run = {"run": fact.run_id, "vm": fact.vm_id}
                with telemetry.span("decide", traceparent=traceparent_of(record.headers), attributes=run) as span:
                    self._decide(fact, topic, record, span.traceparent, transaction)
            else:
                self._decide(fact, topic, record, "", transaction)
        transaction.applied[topic] = max(applied, intake.end - 1)
        transaction.taken[topic] += len(intake.records)

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
        if not everywhere(fact) and f"vm/{key.decode()}" not in self.store.state:
            belongs = partition_of(key, self._partitions)
            if belongs != self.partition:
                raise UndecodableRecord(
                    f"key {_shown(key)} belongs to partition {belongs}, not {self.partition}: hash keys with murmur2 "
                    "(librdkafka: partitioner=murmur2_random)"
                )
        return fact

    def _decide(self, fact: Fact, topic: str, record: Any, trace: str, transaction: Transaction) -> None:
        origin = f"{topic}-{self.partition}-{record.offset}"
        moment = self._moment(self._now_ms(), trace)
        try:
            prepared = self._prepare(decide(self.store.state, fact, moment), origin)
        except ContractError as error:
            self._dead_letter(topic, record, str(error), transaction)
        except Exception as error:  # noqa: BLE001 (a bug of the rules must not end a process that serves every other run)
            log.error("bug in the rules", topic=topic, partition=self.partition, offset=record.offset, error=error)
            reason = f"bug: {_named(error)}; the run that this is about, if any, is parked until the code is fixed"
            self._dead_letter(topic, record, reason, transaction)
            self._park(fact, error, origin, moment, transaction)
        else:
            self._keep(prepared, transaction)

    def _fire(self, transaction: Transaction) -> None:
        # One reading of the clock for all: were it set back in between, the rules would find nothing due, and the
        # reminder be gone.
        now_ms = self._now_ms()
        for key in list(self.timers.due(now_ms)):
            origin = f"{self.partition}-timer-{key}-{now_ms}"
            moment = self._moment(now_ms, "")
            try:
                prepared = self._prepare(tick(self.store.state, key, moment), origin)
            except ContractError as error:
                log.warning("timer put off", key=key, why=error)
                self.timers.put_off(key, now_ms + PUT_OFF_MS)
            except Exception as error:  # noqa: BLE001 (as in `_decide`)
                log.error("bug in the rules", partition=self.partition, key=key, error=error)
                self._park(key, error, origin, moment, transaction)
                self.timers.put_off(key, now_ms + PUT_OFF_MS)
            else:
                self._keep(prepared, transaction)

    def _moment(self, now_ms: int, trace: str) -> Moment:
        return Moment(now_ms, self.partition, trace, self.opened_at_ms)

    def _park(self, about: Fact | str, error: Exception, origin: str, moment: Moment, transaction: Transaction) -> None:
        """Take what the rules make of a bug of theirs. Another bug in that ends the process."""
        try:
            prepared = self._prepare(park(self.store.state, about, _named(error), moment), f"{origin}-parked")
        except ContractError as unwritable:
            log.error("nothing could be parked", partition=self.partition, origin=origin, why=unwritable)
        else:
            self._keep(prepared, transaction)

    def _prepare(self, decision: Decision, origin: str) -> _Prepared:
        """Make a decision's records, and change nothing yet: all of it can be written, or nothing.

        Raises:
            UnencodableRecord: what is to be written does not fit its schema, is larger than Kafka takes, or is for a
                topic that is not there.

        """
        outgoing = [
            record
            for number, output in enumerate(decision.outputs)
            for record in self._outgoing(output, f"{origin}-{number}", decision.trace)
        ]
        kept = {
            key: Outgoing(self._changelog, key.encode(), None if value is None else dump(value), [], self.partition)
            for key, value in decision.kept.items()
        }
        for record in (*outgoing, *kept.values()):
            if self._names.of(record.topic) not in self.topics:
                self.topics_missed = True
                raise UnencodableRecord(
                    f"what follows from it is for topic {self._names.of(record.topic)}, which is not there: "
                    "make it with `failover-orch topics create`, then send this again"
                )
            size = len(record.key) + len(record.value or b"")
            if size > LARGEST_RECORD:
                raise UnencodableRecord(
                    f"what follows from it, a record for {record.topic}, takes {size} bytes; at most {LARGEST_RECORD} "
                    "can be written"
                )
        return _Prepared(decision, outgoing, kept)

    def _keep(self, prepared: _Prepared, transaction: Transaction) -> None:
        """Take a decision over into memory and into the transaction."""
        decision, state = prepared.decision, self.store.state
        state.update(decision.noted)
        for key, value in decision.kept.items():
            self.timers.set(key, value)
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        transaction.changed.update(prepared.kept)
        transaction.outgoing += prepared.outgoing
        transaction.refused.update(decision.refused)
        for output in decision.outputs:
            if isinstance(output, RunSnapshot) and (output.state.ended or output.finished_at_ms):
                transaction.ended[output.kind.value, output.state.value] += 1

    def _outgoing(self, output: object, event_id: str, trace: str) -> list[Outgoing]:
        """An output's record, or one for each partition where it concerns them all."""
        headers = event_headers(
            output, source=self._source, event_id=event_id, time_ms=self._now_ms(), traceparent=trace
        )
        partitions = range(self._partitions) if everywhere(output) else (None,)
        topic, key, value = topic_of(output), key_of(output), self._codec.encode(output)
        return [Outgoing(topic, key, value, headers, partition) for partition in partitions]

    def _dead_letter(self, topic: str, record: Any, reason: str, transaction: Transaction) -> None:
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
        transaction.outgoing += self._outgoing(letter, f"{topic}-{self.partition}-{record.offset}-dead", "")
        transaction.dead[topic] += 1
        log.warning(
            "record sent to dead-letters", topic=topic, partition=self.partition, offset=record.offset, reason=reason
        )


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _shown(key: bytes | None) -> str:
    """A key in a sentence."""
    return repr(key) if key is None or len(key) <= LONGEST_SHOWN else f"{key[:LONGEST_SHOWN]!r}... of {len(key)} bytes"
