"""The one way in which values of the contract get to Kafka, outside a worker's transactions."""

from __future__ import annotations

import asyncio
import uuid
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer

from failover_orch.contract import Codec, Names, event_headers, everywhere, key_of, topic_of
from failover_orch.errors import TopicMismatch
from failover_orch.kafka_address import client_options
from failover_orch.wire.clients import start_client, stop_producer
from failover_orch.wire.clock import now_ms
from failover_orch.wire.failures import explained, unavailable
from failover_orch.wire.metadata import counts_of, require_topics

__all__ = ["Publisher"]

REQUEST_TIMEOUT_MS = 30_000
LINGER_MS = 2
PATIENCE_S = 30.0
"""How long an acknowledgement may take. Without a limit of ours an idempotent producer waits for Kafka for ever."""
CLOSING_S = 5.0


class Publisher:
    """Publishes values of the contract, each acknowledged by all replicas in sync and written once.

    An async context manager; any number of tasks may share one. Records of one key keep the order in which they were
    published. The partition is murmur2 of the key, as the Java client has it.
    """

    def __init__(
        self,
        bootstrap: str,
        codec: Codec,
        *,
        names: Names,
        partitions: int,
        source: str,
        site: str = "",
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`partitions` is how many every topic has; `source` goes into each record's `ce_source` header.

        `site`: whose agent this is, which publishes on the site's own topics; empty: on the common ones.
        """
        self._patience_s = patience_s
        self._bootstrap = bootstrap
        self._codec = codec
        self._names = names
        self._partitions = partitions
        self._source = source
        self._site = site
        self._topics: dict[str, int] = {}
        self._producer: Any = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            KafkaUnavailable: nobody answers at the address.

        """
        producer = AIOKafkaProducer(
            **client_options(self._bootstrap),
            acks="all",
            enable_idempotence=True,
            linger_ms=LINGER_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            with explained(self._bootstrap, "a producer"):
                await start_client(producer, self._bootstrap)
        except BaseException:
            await stop_producer(producer, CLOSING_S)
            raise
        self._producer = producer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await stop_producer(self._producer, min(self._patience_s, CLOSING_S))

    async def publish(self, *values: object, traceparent: str = "") -> None:
        """Publish values and wait until every one is acknowledged.

        All are encoded before the first is sent. Should this raise later than that, some may have been written:
        publishing all of them again is safe, since whoever reads them takes a repeated one for what it is.

        Raises:
            UnencodableRecord: a value does not fit its schema, or is larger than Kafka takes.
            TopicMismatch: a value's topic is missing, or has another number of partitions than a record for all of
                them needs.
            KafkaUnavailable: not acknowledged in time.

        """
        records = [
            (self._names.of(topic_of(value, self._site)), key_of(value), self._codec.encode(value), value)
            for value in values
        ]
        await self._know({topic for topic, _, _, _ in records})
        sent: list[asyncio.Future[Any]] = []
        try:
            for topic, key, encoded, value in records:
                for partition in self._targets(topic, value):
                    headers = event_headers(
                        value,
                        source=self._source,
                        event_id=str(uuid.uuid4()),
                        time_ms=now_ms(),
                        traceparent=traceparent,
                    )
                    with explained(self._bootstrap, f"this one for {topic}"):
                        sent.append(
                            await self._producer.send(
                                topic, key=key, value=encoded, partition=partition, headers=headers
                            )
                        )
        finally:
            # Also where a later one was refused: no future is left whose error nobody has looked at.
            waiting = asyncio.gather(*sent, return_exceptions=True)
            await asyncio.wait([waiting], timeout=self._patience_s)
        if not waiting.done():
            # Somebody has to look at how it ends, or the loop complains of an error that nobody saw.
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
            waiting.cancel()
            raise unavailable(self._bootstrap, f"not acknowledged within {self._patience_s:g} s")
        for outcome in waiting.result():
            if isinstance(outcome, BaseException):
                with explained(self._bootstrap, "a record"):
                    raise outcome

    async def _know(self, topics: set[str]) -> None:
        """Look up topics not yet seen, so that a missing one is said at once and not after a timeout."""
        if topics <= self._topics.keys():
            return
        self._topics = await counts_of(self._producer.client, self._bootstrap)
        require_topics(self._bootstrap, topics, self._topics)

    def _targets(self, topic: str, value: object) -> list[int | None]:
        """The partitions a value goes to; None lets its key decide."""
        if not everywhere(value):
            return [None]
        there = self._topics[topic]
        if there != self._partitions:
            raise TopicMismatch(
                f"topic {topic} at {self._bootstrap} has {there} partitions and the settings say {self._partitions}: "
                f"set FAILOVER_ORCH_PARTITIONS to {there}"
            )
        return list(range(there))
