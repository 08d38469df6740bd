"""Whether a Kafka really works: it listens a second or more before its coordinators are there for anybody."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import errors as aiokafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from failover_orch.errors import KafkaUnavailable
from failover_orch.kafka_address import client_options

__all__ = ["READY_TOPIC", "await_ready", "wait_until_ready"]

READY_TOPIC = "failover-orch-ready"
"""A topic with one partition, for the trial alone: a group cannot be joined for nothing."""

RETRY_S = 0.1
TRIAL_S = 15.0
NOT_YET = (aiokafka_errors.KafkaError, TimeoutError, OSError)


def await_ready(bootstrap: str, *, brokers: int, timeout_s: float) -> None:
    """`wait_until_ready` for callers that block, also within a running event loop.

    Raises:
        KafkaUnavailable: as `wait_until_ready`.

    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(wait_until_ready(bootstrap, brokers=brokers, timeout_s=timeout_s))
        except BaseException as error:  # noqa: BLE001 (raised again below, in the caller's thread)
            failures.append(error)

    # A daemon: Ctrl-C ends the waiting at once, and the trial that nobody waits for any more does not hold up the exit.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


async def wait_until_ready(bootstrap: str, *, brokers: int, timeout_s: float) -> None:
    """Wait until every broker is in the cluster, a group has been joined and left, and a transaction committed.

    Raises:
        KafkaUnavailable: not so within `timeout_s` seconds; says what was tried last.

    """
    last: BaseException | None = None
    try:
        async with asyncio.timeout(timeout_s):
            with _quiet():
                for trial in (_all_brokers, _topic, _transaction, _group):
                    while True:
                        try:
                            async with asyncio.timeout(TRIAL_S):
                                await trial(bootstrap, brokers)
                            break
                        except NOT_YET as error:
                            last = error
                            await asyncio.sleep(RETRY_S)
    except TimeoutError:
        raise KafkaUnavailable(
            f"Kafka at {bootstrap} is not ready after {timeout_s:g} s ({type(last).__name__}: {last})"
        ) from last


async def _all_brokers(bootstrap: str, brokers: int) -> None:
    admin = AIOKafkaAdminClient(**client_options(bootstrap))
    try:
        await admin.start()
        present = (await admin.describe_cluster())["brokers"]
    finally:
        await admin.close()
    if len(present) < brokers:
        raise aiokafka_errors.NodeNotReadyError(f"{len(present)} of {brokers} brokers are in the cluster")


async def _topic(bootstrap: str, brokers: int) -> None:
    admin = AIOKafkaAdminClient(**client_options(bootstrap))
    try:
        await admin.start()
        response = await admin.create_topics([NewTopic(READY_TOPIC, 1, brokers)])
    finally:
        await admin.close()
    code = response.topic_errors[0][1]
    if code not in (0, aiokafka_errors.TopicAlreadyExistsError.errno):
        raise aiokafka_errors.for_code(code)(READY_TOPIC)


async def _transaction(bootstrap: str, _: int) -> None:
    producer = AIOKafkaProducer(**client_options(bootstrap), transactional_id=READY_TOPIC)
    try:
        await producer.start()
        async with producer.transaction():
            await producer.send_and_wait(READY_TOPIC, b"ready")
    finally:
        await producer.stop()


async def _group(bootstrap: str, _: int) -> None:
    # A group of its own: in one that an earlier trial left without a word, this one would wait for that to time out.
    consumer = AIOKafkaConsumer(
        READY_TOPIC, **client_options(bootstrap), group_id=f"{READY_TOPIC}-{uuid.uuid4()}", enable_auto_commit=False
    )
    try:
        await consumer.start()
    finally:
        with suppress(*NOT_YET):
            await consumer.stop()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep aiokafka from logging as errors what is expected while a Kafka starts."""
    logger = logging.getLogger("aiokafka")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
