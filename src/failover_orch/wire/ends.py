"""Where topics end, asked again and again over one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from failover_orch.contract import Names
from failover_orch.kafka_address import client_options
from failover_orch.wire.clients import start_client, stop_consumer
from failover_orch.wire.failures import explained
from failover_orch.wire.metadata import counts_of

__all__ = ["Ends", "watching_ends"]

REQUEST_TIMEOUT_MS = 5_000
_LOOKING_MS = 500


class Ends:
    """Where the partitions of some topics end. Made by `watching_ends`."""

    def __init__(self, consumer: Any, bootstrap: str, names: Names, wanted: Callable[[str], bool]) -> None:
        self._consumer = consumer
        self._bootstrap = bootstrap
        self._names = names
        self._wanted = wanted
        self._partitions: list[TopicPartition] = []

    async def look_for_topics(self) -> None:
        """Learn which topics there are now. Raises KafkaError."""
        with explained(self._bootstrap, "a list of topics"):
            counts = await counts_of(self._consumer._client, self._bootstrap)  # noqa: SLF001 (as the reader does)
        self._partitions = [
            TopicPartition(topic, partition)
            for topic, count in counts.items()
            if topic.startswith(self._names.prefix) and self._wanted(self._names.plain(topic))
            for partition in range(count)
        ]

    async def now(self) -> Mapping[tuple[str, int], int]:
        """Where each partition ends, by the contract's name of its topic. Raises KafkaError."""
        with explained(self._bootstrap, "the ends of topics"):
            ends = await self._consumer.end_offsets(self._partitions) if self._partitions else {}
        return {(self._names.plain(at.topic), at.partition): end for at, end in ends.items()}

    async def empty_from(self, topic: str, partition: int, offset: int) -> bool:
        """Whether no record stands at an offset or behind it: what is there are the marks of transactions.

        Raises:
            KafkaError: it could not be asked.

        """
        at = TopicPartition(self._names.of(topic), partition)
        with explained(self._bootstrap, "the end of a partition"):
            self._consumer.assign([at])
            try:
                self._consumer.seek(at, offset)
                found = await self._consumer.getmany(timeout_ms=_LOOKING_MS, max_records=1)
                return not found and bool(await self._consumer.position(at) > offset)
            finally:
                self._consumer.unsubscribe()


@asynccontextmanager
async def watching_ends(bootstrap: str, *, names: Names, wanted: Callable[[str], bool]) -> AsyncIterator[Ends]:
    """Ask where the topics end whose names, as the contract has them, are `wanted`.

    Raises:
        KafkaError: nobody answers at `bootstrap`, or we may not ask.

    """
    consumer = AIOKafkaConsumer(
        **client_options(bootstrap),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    try:
        with explained(bootstrap, "a consumer"):
            await start_client(consumer, bootstrap)
        ends = Ends(consumer, bootstrap, names, wanted)
        await ends.look_for_topics()
        yield ends
    finally:
        await asyncio.shield(stop_consumer(consumer))
