"""Two of three brokers are lost: there is no majority of controllers, and no second copy to write to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from topics import CODEC, publisher, values_once
from workers import running_workers, until

from failover_orch.config import Settings
from failover_orch.domain import MoveKind, VmMoved
from failover_orch.errors import KafkaError
from failover_orch.kafka import LocalKafka, create_topics, desired_topics
from failover_orch.wire import Publisher

VMS = 20
PARTITIONS = 2


@pytest.fixture
async def on_three(three_brokers: LocalKafka, prefix: str) -> Settings:
    settings = Settings(
        bootstrap=three_brokers.bootstrap, app_id=f"{prefix}app", topic_prefix=prefix, partitions=PARTITIONS
    )
    await create_topics(settings.bootstrap, desired_topics(settings, ("primary", "dr"), 3))
    return settings


@pytest.fixture
def whole(three_brokers: LocalKafka) -> Iterator[LocalKafka]:
    yield three_brokers
    for number in (2, 3):
        three_brokers.start_broker(number)


async def test_with_two_of_three_brokers_lost_writing_waits_and_nothing_is_lost(
    on_three: Settings, whole: LocalKafka, tmp_path: Path
) -> None:
    with running_workers(on_three, tmp_path, 2) as workers:
        async with publisher(on_three) as publishing:
            await publishing.publish(*_moves(1))
        await values_once(on_three, "routing-updates", lambda found: len(found) == VMS)
        for number in (2, 3):
            await asyncio.to_thread(whole.kill_broker, number)
        # Nobody is told that what cannot be kept twice is kept.
        with pytest.raises(KafkaError):
            async with _impatient(on_three) as publishing:
                await publishing.publish(*_moves(2))
        workers.kill(0)
        await asyncio.to_thread(whole.start_broker, 2)
        async with publisher(on_three) as publishing:
            await publishing.publish(*_moves(3))
        workers.start(0)
        found = await values_once(
            on_three,
            "routing-updates",
            lambda found: {(each.vm_id, _node(each)) for each in found} >= {(f"v{n}", "d3") for n in range(VMS)},
            timeout_s=180,
        )
        assert {(each.vm_id, _node(each)) for each in found} >= {(f"v{n}", "d1") for n in range(VMS)}
        epochs = [(each.vm_id, each.epoch) for each in found]
        assert len(set(epochs)) == len(epochs)
        await until(lambda: workers.reads(0) | workers.reads(1) == set(range(PARTITIONS)), "all is read", timeout_s=120)


def _moves(number: int) -> list[VmMoved]:
    return [VmMoved(f"v{n}", "dr", f"d{number}", MoveKind.PLACED, number, sequence=number) for n in range(VMS)]


def _node(update: object) -> str:
    return str(update.locations[0].node)  # type: ignore[attr-defined]  # the topic carries routing updates


def _impatient(settings: Settings) -> Publisher:
    return Publisher(
        settings.bootstrap,
        CODEC,
        names=settings.names,
        partitions=settings.partitions,
        source="test",
        patience_s=8.0,
    )
