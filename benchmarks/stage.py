"""What every benchmark stands on: a Kafka of its own, an installation on it, worker processes, and a clock on them."""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from failover_orch.config import Settings
from failover_orch.contract import Codec, key_of, state_topic, topic_of
from failover_orch.kafka import LocalKafka, create_topics, desired_topics

__all__ = ["Result", "Stage", "Summary", "machine", "summarise"]

_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True)
class Result:
    """One figure of one run. `guarantee` says what the measured thing promises about loss and doubles."""

    name: str
    value: float
    unit: str
    guarantee: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The median of a figure over its runs."""

    name: str
    unit: str
    guarantee: str
    median: float
    runs: tuple[float, ...]


def summarise(results: Iterable[Result]) -> list[Summary]:
    """The median of each figure, in the order in which they first came."""
    grouped: dict[tuple[str, str, str], list[float]] = {}
    for result in results:
        grouped.setdefault((result.name, result.unit, result.guarantee), []).append(result.value)
    return [Summary(*key, statistics.median(values), tuple(values)) for key, values in grouped.items()]


def machine() -> Mapping[str, str]:
    """What the figures were taken on."""
    return {
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "aiokafka": version("aiokafka"),
        "faust-streaming": version("faust-streaming"),
        "fastavro": version("fastavro"),
        "kafka": "4.4.0, one broker on the same machine",
    }


@dataclass(slots=True)
class Stage:
    """One installation for one run: topics of its own on a Kafka that runs share."""

    kafka: LocalKafka
    partitions: int = 8
    settings: Settings = field(init=False)
    codec: Codec = field(default_factory=Codec)

    def __post_init__(self) -> None:
        name = f"bench-{uuid.uuid4().hex[:8]}"
        self.settings = Settings(
            bootstrap=self.kafka.bootstrap, app_id="bench", topic_prefix=f"{name}.", partitions=self.partitions
        )

    @staticmethod
    @contextmanager
    def kafka_for_a_while() -> Iterator[LocalKafka]:
        """A Kafka in a temporary directory."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            kafka = LocalKafka(Path(directory), brokers=1)
            try:
                kafka.start()
                yield kafka
            finally:
                kafka.stop()

    async def make_topics(self) -> None:
        """Make the installation's topics."""
        await create_topics(self.settings.bootstrap, desired_topics(self.settings, ["primary", "dr"], 1))

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process of the installation, by the arguments of its command, until the block ends."""
        environment = {
            **os.environ,
            "FAILOVER_ORCH_BOOTSTRAP": self.settings.bootstrap,
            "FAILOVER_ORCH_APP_ID": self.settings.app_id,
            "FAILOVER_ORCH_TOPIC_PREFIX": self.settings.topic_prefix,
            "FAILOVER_ORCH_LOG": "WARNING",
        }
        process = subprocess.Popen([sys.executable, "-m", "failover_orch", *arguments], env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """A worker process."""
        with self.process("worker") as process:
            yield process

    async def publish(self, values: Sequence[object]) -> None:
        """Write many values as fast as it goes."""
        producer = AIOKafkaProducer(bootstrap_servers=self.settings.bootstrap, linger_ms=20, max_batch_size=256 * 1024)
        await producer.start()
        try:
            pending = [
                await producer.send(self.settings.names.of(topic_of(value)), self.codec.encode(value), key_of(value))
                for value in values
            ]
            await asyncio.gather(*pending)
        finally:
            await producer.stop()

    async def until_applied(self, topic: str, records: int) -> float:
        """Wait until a worker's state says that so many records of a source topic are applied; returns when."""
        applied: dict[int, int] = {}
        changelog = self.settings.names.of(state_topic(self.settings.app_id))
        async with self.reader(changelog) as consumer:
            deadline = time.monotonic() + _PATIENCE_S
            while sum(applied.values()) < records:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{sum(applied.values())} of {records} records applied after {_PATIENCE_S:g} s")
                for partition, found in (await consumer.getmany(timeout_ms=100)).items():
                    for record in found:
                        if record.key == b"applied":
                            offsets = msgspec.json.decode(record.value, type=dict[str, int])
                            applied[partition.partition] = offsets.get(topic, -1) + 1
        return time.monotonic()

    @asynccontextmanager
    async def reader(self, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
        """A read_committed consumer of all of a topic, from its beginning."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.bootstrap, isolation_level="read_committed", enable_auto_commit=False
        )
        await consumer.start()
        try:
            partitions = [TopicPartition(topic, number) for number in range(self.partitions)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            yield consumer
        finally:
            await consumer.stop()
