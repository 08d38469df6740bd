"""What Kafka knows of topics, asked without making any: to ask for a topic by name can create it, on some brokers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from aiokafka import errors as aiokafka_errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient

from failover_orch.errors import TopicMismatch
from failover_orch.kafka_address import client_options, security_of
from failover_orch.wire.clients import start_client
from failover_orch.wire.failures import explained, unavailable

__all__ = ["cluster_id", "partition_counts", "require_topics"]

REQUEST_TIMEOUT_MS = 15_000


async def partition_counts(bootstrap: str) -> dict[str, int]:
    """Every topic on this Kafka that we may see, by its name there, and how many partitions it has.

    Raises:
        KafkaForbidden, KafkaUntrusted: Kafka does not let us in, or is not known to be the one that is meant.
        KafkaUnavailable: nobody answers at `bootstrap`.

    """
    client = AIOKafkaClient(**client_options(bootstrap), request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        with explained(bootstrap, "a connection"):
            await start_client(client, bootstrap)
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


async def cluster_id(bootstrap: str) -> str:
    """The id of the Kafka that answers there: it has it for good, and no other has the same.

    Raises:
        KafkaForbidden, KafkaUntrusted: Kafka does not let us in, or is not known to be the one that is meant.
        KafkaUnavailable: nobody answers at `bootstrap`.

    """
    admin = AIOKafkaAdminClient(**client_options(bootstrap), request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        with explained(bootstrap, "its id"):
            await start_client(admin, bootstrap)
            return str((await admin.describe_cluster())["cluster_id"])
    finally:
        await admin.close()


def require_topics(bootstrap: str, wanted: Iterable[str], present: Collection[str]) -> None:
    """Say which topics are missing, before anybody waits for them.

    Raises:
        TopicMismatch: at least one topic is not there.

    """
    missing = sorted(set(wanted) - set(present))
    if missing:
        # Kafka hides what a user may neither read nor write: both look the same.
        user = security_of(bootstrap).username
        whose, how = (f" that user {user} may see", " --acls") if user else ("", "")
        raise TopicMismatch(
            f"Kafka at {bootstrap} has no topic {', '.join(missing)}{whose}: make it with "
            f"`failover-orch topics create{how}`"
        )
