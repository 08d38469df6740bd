"""Sees to it that a step of which nothing can be asked afterwards is begun once, by whichever agent."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as aiokafka_errors
from aiokafka.admin import AIOKafkaAdminClient

from failover_orch import telemetry
from failover_orch.contract import Codec, Names, key_of, partition_of, site_topic
from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import StepCommand
from failover_orch.errors import KafkaError, TopicMismatch, UndecodableRecord
from failover_orch.kafka_address import client_options
from failover_orch.site.answers import NOT_BEGUN, answer
from failover_orch.site.ledger import CLAIM, CLAIMED_BY, NOTHING_KNOWN, Claim, Ledger, StepKey
from failover_orch.site.pause import Pause
from failover_orch.wire import explained, partition_counts, require_topics, start_client, stop_consumer

__all__ = ["Claims"]

_log = telemetry.logger(__name__)

_RESULTS = "step-results"
_REQUEST_TIMEOUT_MS = 15_000
_POLL_MS = 50
_LOOK_AGAIN_S = 0.5
_MARK = CLAIM.encode()
_HOUR_MS = 3_600_000
_ENDING_MS = 2_000
"""How long after its deadline a step's end may take to be told by the agent that ends it there."""


class Claims:
    """The ledger of one site's agents, as this agent reads it from the site's results, and its own claims there.

    The topic is read when a step is to be claimed: by then whatever another agent did with the partition before is in
    it. A claim holds if it is the step's first in the topic, so this does not rest on one agent's knowing that it has
    lost a partition, or on the clock.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        bootstrap: str,
        names: Names,
        site: str,
        group: str,
        agent: str,
        hours: float,
        clock: Callable[[], int],
    ) -> None:
        """`group` is the site's agents' consumer group, where each has its name for a client id; `agent` is ours.

        `hours` is how far back the topic is read: a command that old is not delivered again. `clock` gives milliseconds
        since the Unix epoch.
        """
        self._codec = codec
        self._bootstrap = bootstrap
        self._results = site_topic(_RESULTS, site)
        self._topic = names.of(self._results)
        self._group = group
        self._agent = agent
        self._kept_ms = round(hours * _HOUR_MS)
        self._clock = clock
        self._ledger = Ledger()
        self._partitions = 0
        self._next: dict[int, int] = {}

    async def once(
        self,
        command: StepCommand,
        work: Callable[[], Awaitable[StepResult]],
        publish: Callable[[StepResult], Awaitable[None]],
    ) -> StepResult:
        """Do the work, unless it was begun before: then say how it ended, or that nobody knows.

        `publish` returns once Kafka has acknowledged. While Kafka is away this waits, and nothing is begun.

        Raises:
            TopicMismatch: the site's topic of results is missing.

        """
        claim = {CLAIM: uuid.uuid4().hex, CLAIMED_BY: self._agent}
        begun = answer(command, StepOutcome.BEGUN, f"begun by site agent {self._agent}", claim, self._clock())
        pause = Pause(asyncio.Event())
        while True:
            try:
                settled = await self._settled(command, begun, publish)
            except TopicMismatch:
                raise
            except KafkaError as error:
                _log.warning("not begun, will try again", run=command.run_id, step=command.step, error=error)
                await pause.take()
            else:
                break
        if settled is not None:
            return settled
        end = await work()
        return replace(end, observed={**end.observed, **claim})

    async def _settled(
        self, command: StepCommand, begun: StepResult, publish: Callable[[StepResult], Awaitable[None]]
    ) -> StepResult | None:
        """The answer, where the step is settled already; None where it is ours to begin."""
        key = StepKey.of(command)
        async with self._reading(key_of(begun)) as read:
            await read()
            if self._ledger.entry(key) == NOTHING_KNOWN:
                if self._clock() >= command.deadline_ms:
                    return replace(begun, outcome=StepOutcome.FAILED, detail=NOT_BEGUN)
                await publish(begun)
                # It is sure to come, or another before it; an open transaction may hide both for a moment.
                while (await read()).entry(key).first is None:  # noqa: ASYNC110 (Kafka brings it about, not an event)
                    await asyncio.sleep(_POLL_MS / 1000)
            while (entry := self._ledger.entry(key)).end is None and entry.first is not None:
                if entry.first.claim == begun.observed[CLAIM]:
                    return None
                goes_on = await self._goes_on(entry.first, command)
                if goes_on:
                    _log.info("waiting for the agent that began it", agent=entry.first.agent, step=command.step)
                # Read after asking: what an agent told before it was gone is there by now.
                if (await read()).entry(key).end is None and not goes_on:
                    detail = _uncertain(entry.first)
                    return answer(command, StepOutcome.UNCERTAIN, detail, begun.observed, self._clock())
                await asyncio.sleep(_LOOK_AGAIN_S)
        return entry.end

    async def _goes_on(self, claim: Claim, command: StepCommand) -> bool:
        """Whether the agent that made a claim may still be at it, and will tell its end.

        A partition goes to another agent while the one before has work under way in it, and finishes that.
        """
        # An earlier one of our own was cut off: commands of one step are taken one after the other.
        if claim.agent == self._agent or self._clock() > command.deadline_ms + _ENDING_MS:
            return False
        admin = AIOKafkaAdminClient(**client_options(self._bootstrap), request_timeout_ms=_REQUEST_TIMEOUT_MS)
        try:
            with explained(self._bootstrap, f"a look at the agents of {command.site}"):
                await start_client(admin, self._bootstrap)
                (answered,) = await admin.describe_consumer_groups([self._group])
                (group,) = answered.to_object()["groups"]
                if group["error_code"]:
                    raise aiokafka_errors.for_code(group["error_code"])
        finally:
            await admin.close()
        return any(member["client_id"] == claim.agent for member in group["members"])

    @asynccontextmanager
    async def _reading(self, key: bytes) -> AsyncGenerator[Callable[[], Awaitable[Ledger]], None]:
        """A way to read what has come to a key's partition up to now; gives the ledger that has it."""
        if not self._partitions:
            present = await partition_counts(self._bootstrap)
            require_topics(self._bootstrap, [self._topic], present)
            self._partitions = present[self._topic]
        at = TopicPartition(self._topic, partition_of(key, self._partitions))
        consumer = AIOKafkaConsumer(
            **client_options(self._bootstrap),
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
        )

        async def read() -> Ledger:
            with explained(self._bootstrap, "the answers given before"):
                end = (await consumer.end_offsets([at]))[at]
                while await consumer.position(at) < end:
                    for record in (await consumer.getmany(at, timeout_ms=_POLL_MS)).get(at, ()):
                        self._note(record)
                    # Others read this partition at the same time, and may be further.
                    self._next[at.partition] = max(self._next[at.partition], await consumer.position(at))
            return self._ledger

        self._ledger.forget(self._clock() - self._kept_ms)
        try:
            with explained(self._bootstrap, "the answers given before"):
                await start_client(consumer, self._bootstrap)
                consumer.assign([at])
                if at.partition not in self._next:
                    self._next[at.partition] = await self._first(consumer, at)
                consumer.seek(at, self._next[at.partition])
            yield read
        finally:
            await stop_consumer(consumer)

    async def _first(self, consumer: Any, at: TopicPartition) -> int:
        """The offset from which results may matter."""
        found = (await consumer.offsets_for_times({at: max(0, self._clock() - self._kept_ms)}))[at]
        first: int = (await consumer.end_offsets([at]))[at] if found is None else found.offset
        return first

    def _note(self, record: Any) -> None:
        # Most results are those of hypervisor steps: not worth decoding.
        if _MARK not in (record.value or b""):
            return
        try:
            result = self._codec.decode_from(self._results, record.value)
        except UndecodableRecord as error:
            _log.warning("a result cannot be read", topic=self._topic, offset=record.offset, error=error)
            return
        if isinstance(result, StepResult):
            self._ledger.note(result, record.offset)


def _uncertain(claim: Claim) -> str:
    at = datetime.fromtimestamp(claim.at_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return f"was begun by site agent {claim.agent} at {at}, and its end is not known: see whether it was done"
