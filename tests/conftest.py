"""Apache Kafka for the tests that need it, started at the first one that does and gone when the last has run."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from failover_orch.config import Settings
from failover_orch.kafka import LocalKafka, create_topics, desired_topics
from failover_orch.kafka_address import client_options

SITES = ("primary", "dr")
PARTITIONS = 4
# How long an example takes says more of the machine than of the code: benchmarks measure, tests do not.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

if importlib.util.find_spec("libvirt") is None and not os.environ.get("CI"):
    # Nobody has made a lab here (`make virtual-machines`); in CI it has to be there.
    collect_ignore_glob = ["hypervisors/libvirt/*", "lab/*", "end_to_end/vms/*", "fencing/test_libvirt_fence.py"]

KAFKA_FIXTURES = frozenset({"kafka", "three_brokers", "settings"})


def pytest_configure(config: pytest.Config) -> None:
    """End on SIGTERM as on Ctrl-C: by way of the fixtures' ends, so that no Kafka stays behind."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Kafka, by what it asks for: `-m "not kafka"` runs the rest."""
    for item in items:
        if KAFKA_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """One broker, shared by all tests: use topics with a `prefix`."""
    yield from _running(brokers=1)


@pytest.fixture(scope="session")
def three_brokers() -> Iterator[LocalKafka]:
    """Three brokers, for tests that lose one. A test starts again what it killed."""
    yield from _running(brokers=3)


@pytest.fixture
def prefix() -> str:
    """A topic prefix that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}-"


@pytest.fixture
def settings(kafka: LocalKafka, prefix: str) -> Iterator[Settings]:
    """An installation of the test's own: its topics exist for the sites primary and dr, and are removed afterwards."""
    settings = Settings(bootstrap=kafka.bootstrap, app_id=f"{prefix}app", topic_prefix=prefix, partitions=PARTITIONS)
    desired = desired_topics(settings, SITES, 1)
    _wait_for(create_topics(settings.bootstrap, desired))
    yield settings
    _wait_for(_delete(settings.bootstrap, [topic.name for topic in desired]))


def _running(*, brokers: int) -> Iterator[LocalKafka]:
    with tempfile.TemporaryDirectory(prefix="failover-orch-kafka-", ignore_cleanup_errors=True) as directory:
        kafka = LocalKafka(Path(directory), brokers=brokers)
        try:
            kafka.start()
            yield kafka
        finally:
            kafka.stop(grace_s=0)


def _wait_for(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine to its end, in a thread: pytest may have an event loop of its own in this one."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as error:  # noqa: BLE001 (raised again below, where the test can see it)
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


async def _delete(bootstrap: str, topics: list[str]) -> None:
    admin = AIOKafkaAdminClient(**client_options(bootstrap))
    await admin.start()
    try:
        await admin.delete_topics(topics)
    finally:
        await admin.close()
