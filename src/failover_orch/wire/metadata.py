"""What Kafka knows of topics, asked without making any: to ask for a topic by name can create it, on some brokers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from aiokafka import errors as aiokafka_errors
from aiokafka.client import AIOKafkaClient

from failover_orch.errors import TopicMismatch
from failover_orch.wire.failures import explained, unavailable

__all__ = ["partition_counts", "require_topics"]

REQUEST_TIMEOUT_MS = 15_000


async def partition_counts(bootstrap: str) -> dict[str, int]:
    """Every topic on this Kafka, by its name there, and how many partitions it has.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`.

    """
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        with explained(bootstrap, "a connection"):
            await client.bootstrap()
        return await counts_of(client, bootstrap)
    finally:
        await client.close()


async def counts_of(client: Any, bootstrap: str) -> dict[str, int]:
    """`partition_counts` through an aiokafka client that is connected already."""
    try:
        cluster = await client.fetch_all_metadata()
    except aiokafka_errors.KafkaError as error:
        raise unavailable(bootstrap, str(error)) from error
    return {topic: len(cluster.partitions_for_topic(topic)) for topic in cluster.topics()}


def require_topics(bootstrap: str, wanted: Iterable[str], present: Collection[str]) -> None:
    """Say which topics are missing, before anybody waits for them.

    Raises:
        TopicMismatch: at least one topic is not there.

    """
    missing = sorted(set(wanted) - set(present))
    if missing:
        raise TopicMismatch(
            f"Kafka at {bootstrap} has no topic {', '.join(missing)}: make it with `failover-orch topics create`"
        )
