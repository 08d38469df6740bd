"""The reader against a real Kafka: it ends where the topics end, whatever their last offsets hold."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from failover_orch.config import Settings
from failover_orch.contract import Names
from failover_orch.errors import KafkaUnavailable, TopicMismatch
from failover_orch.kafka import LocalKafka, create_topics, desired_topics
from failover_orch.wire import Received, follow, partition_counts, positions_now, read_to_end, reader, stop_consumer

NOBODY = "127.0.0.1:1"


@asynccontextmanager
async def producer(bootstrap: str, **options: Any) -> AsyncIterator[Any]:
    client = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=4_000_000, **options)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def values(settings: Settings, topic: str, **options: Any) -> list[bytes | None]:
    async with asyncio.timeout(20):
        return [
            record.value
            async for received in read_to_end(settings.bootstrap, [topic], names=settings.names, **options)
            for record in received
        ]


async def test_empty_topics_end_at_once(settings: Settings) -> None:
    started = time.monotonic()
    assert await values(settings, "vm-moved") == []
    assert time.monotonic() - started < 2


async def test_it_reads_what_was_committed_and_ends_behind_markers_and_aborted_records(settings: Settings) -> None:
    topic = settings.names.of("alerts")
    async with producer(settings.bootstrap, transactional_id=settings.app_id) as client:
        for number in range(3):
            async with client.transaction():
                await client.send_and_wait(topic, b"committed %d" % number, partition=0)
        assert await values(settings, "alerts") == [b"committed 0", b"committed 1", b"committed 2"]
        await client.begin_transaction()
        for _ in range(50):
            await client.send_and_wait(topic, b"aborted", partition=0)
        await client.abort_transaction()
        assert await values(settings, "alerts") == [b"committed 0", b"committed 1", b"committed 2"]


async def test_an_open_transaction_does_not_hold_it_up(settings: Settings) -> None:
    topic = settings.names.of("alerts")
    async with (
        producer(settings.bootstrap, transactional_id=settings.app_id) as client,
        producer(settings.bootstrap) as other,
    ):
        await other.send_and_wait(topic, b"before", partition=0)
        await client.begin_transaction()
        await client.send_and_wait(topic, b"open", partition=0)
        await other.send_and_wait(topic, b"after", partition=0)
        assert await values(settings, "alerts") == [b"before"]
        await client.commit_transaction()
    assert await values(settings, "alerts") == [b"before", b"open", b"after"]


async def test_it_ends_on_a_compacted_topic_with_holes(settings: Settings) -> None:
    name = settings.names.of("compacted")
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    await admin.start()
    try:
        configs = {"cleanup.policy": "compact", "segment.ms": "50", "min.cleanable.dirty.ratio": "0.001"}
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs=configs)])
        async with producer(settings.bootstrap, transactional_id=settings.app_id) as client, asyncio.timeout(60):
            number = 0
            # Each round begins a new segment, as time has passed; Kafka compacts the older ones when it gets to it.
            while True:
                number += 1
                async with client.transaction():
                    await client.send_and_wait(name, b"%d" % number, key=b"same", partition=0)
                # Kafka marks a transaction's end in the partition behind its answer to the commit.
                while (read := await values(settings, "compacted"))[-1:] != [b"%d" % number]:
                    pass
                if number > 3 and len(read) < number - 1:
                    break
                await asyncio.sleep(0.1)  # for the segment's age, which no condition tells
    finally:
        await admin.delete_topics([name])
        await admin.close()


async def test_partitions_narrow_the_reading(settings: Settings) -> None:
    async with producer(settings.bootstrap) as client:
        for partition in range(settings.partitions):
            await client.send_and_wait(settings.names.of("alerts"), b"%d" % partition, partition=partition)
    assert await values(settings, "alerts", partitions=[1, 3]) in ([b"1", b"3"], [b"3", b"1"])
    assert sorted(filter(None, await values(settings, "alerts"))) == [b"0", b"1", b"2", b"3"]


async def test_a_record_comes_whole(settings: Settings) -> None:
    large = b"x" * 2_000_000
    async with producer(settings.bootstrap) as client:
        for partition in range(settings.partitions):
            await client.send_and_wait(
                settings.names.of("vm-moved"),
                large,
                key=b"k",
                headers=[("h", b"v")],
                partition=partition,
                timestamp_ms=5,
            )
        await client.send_and_wait(settings.names.of("vm-moved"), None, key=b"gone", partition=0)
        await client.send_and_wait(settings.names.of("vm-moved"), b"", partition=0)
    read = [
        record
        async for received in read_to_end(settings.bootstrap, ["vm-moved"], names=settings.names, partitions=[0])
        for record in received
    ]
    assert read[0] == Received("vm-moved", 0, 0, b"k", large, (("h", b"v"),), 5)
    assert [(record.key, record.value, record.offset) for record in read[1:]] == [(b"gone", None, 1), (b"", b"", 2)]
    assert len(await values(settings, "vm-moved")) == settings.partitions + 2


async def test_follow_tells_once_when_it_has_caught_up_and_goes_on(settings: Settings) -> None:
    topic = settings.names.of("alerts")
    read: list[bytes | None] = []
    read_when_told: list[int] = []
    caught_up = asyncio.Event()

    def on_caught_up() -> None:
        read_when_told.append(len(read))
        caught_up.set()

    async def send_more(client: Any) -> None:
        await caught_up.wait()
        await client.send_and_wait(topic, b"10", partition=0)
        await client.send_and_wait(topic, b"11", partition=1)

    async with producer(settings.bootstrap) as client, asyncio.timeout(20):
        for number in range(10):
            await client.send_and_wait(topic, b"%d" % number, partition=number % settings.partitions)
        sending = asyncio.create_task(send_more(client))
        async with aclosing(
            follow(settings.bootstrap, ["alerts"], names=settings.names, on_caught_up=on_caught_up)
        ) as following:
            while len(read) < 12:
                read.extend(record.value for record in await anext(following))
        await sending
    assert read_when_told == [10]
    assert set(read) == {b"%d" % number for number in range(12)}


async def test_follow_begins_where_it_is_told(settings: Settings) -> None:
    topic = settings.names.of("alerts")
    async with producer(settings.bootstrap) as client, asyncio.timeout(20):
        await client.send_and_wait(topic, b"before", partition=0)
        since = await positions_now(settings.bootstrap, ["alerts", "vm-moved"], names=settings.names)
        assert (since["alerts", 0], since["alerts", 1], since["vm-moved", 0]) == (1, 0, 0)
        await client.send_and_wait(topic, b"since", partition=0)
        following = follow(settings.bootstrap, ["alerts"], names=settings.names, since=since)
        async with aclosing(following):
            assert [record.value for record in await anext(following)] == [b"since"]


async def test_follow_catches_up_on_empty_topics(settings: Settings) -> None:
    caught_up = asyncio.Event()
    following = follow(settings.bootstrap, ["alerts"], names=settings.names, on_caught_up=caught_up.set)
    task = asyncio.ensure_future(anext(following))
    async with asyncio.timeout(10):
        await caught_up.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_missing_topic_is_named(settings: Settings) -> None:
    with pytest.raises(TopicMismatch, match=rf"{settings.topic_prefix}nothing.*topics create"):
        await values(settings, "nothing")
    assert settings.names.of("nothing") not in await partition_counts(settings.bootstrap)


async def test_where_nobody_answers_the_address_is_in_the_sentence() -> None:
    with pytest.raises(KafkaUnavailable, match=NOBODY):
        await anext(read_to_end(NOBODY, ["alerts"], names=Names()))
    with pytest.raises(KafkaUnavailable, match=NOBODY):
        await anext(follow(NOBODY, ["alerts"], names=Names(), on_caught_up=lambda: None))
    with pytest.raises(KafkaUnavailable, match=NOBODY):
        await partition_counts(NOBODY)


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[LocalKafka]:
    """A Kafka of the test's own, to be killed."""
    local = LocalKafka(tmp_path / "mortal")
    try:
        local.start()
        yield local
    finally:
        local.stop(grace_s=0)


@pytest.mark.kafka
async def test_a_kafka_that_goes_away_ends_a_read_and_holds_up_a_follow(
    mortal: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PATIENCE_S", 2.0)
    monkeypatch.setattr(reader, "AT_ONCE", 1)
    names = Names()
    admin = AIOKafkaAdminClient(bootstrap_servers=mortal.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("large", 1, 1)])
    await admin.close()
    async with producer(mortal.bootstrap) as client:
        for _ in range(20):
            await client.send_and_wait("large", b"x" * 900_000)
    # One fetch takes five of them: what is left has to come from a broker that is gone.
    reading = read_to_end(mortal.bootstrap, ["large"], names=names)
    following = follow(mortal.bootstrap, ["large"], names=names)
    async with aclosing(reading), aclosing(following), asyncio.timeout(90):
        assert await anext(reading)
        followed = len(await anext(following))
        await asyncio.to_thread(mortal.kill_broker, 1)
        with pytest.raises(KafkaUnavailable, match=r"nothing came for 2 s"):
            async for _ in reading:
                pass
        await asyncio.to_thread(mortal.start)
        while followed < 20:
            followed += len(await anext(following))
    assert followed == 20


async def test_a_fetch_that_aiokafka_cancels_does_not_pass_for_a_cancelled_caller() -> None:
    closed: list[str] = []

    class Consumer:
        """Stops as aiokafka's does while it waits for a broker that is away."""

        async def stop(self) -> None:
            raise asyncio.CancelledError

        class _client:  # noqa: N801 (aiokafka's name)
            @staticmethod
            async def close() -> None:
                closed.append("connections")

    await stop_consumer(Consumer())
    assert closed == ["connections"]


async def test_cancelled_while_it_connects_it_leaves_no_connection_open(settings: Settings) -> None:
    """What is left open shows as a ResourceWarning, which fails the test."""
    for turns in range(0, 60, 2):
        reading = asyncio.create_task(values(settings, "alerts"))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
    gc.collect()


async def test_whoever_follows_finds_the_topics_of_a_site_that_is_added_and_loses_its_place_in_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "LOOK_EVERY_S", 0.2)
    common, dr, third = map(settings.names.of, ("inventory", "inventory.dr", "inventory.third"))
    seen: list[tuple[str, bytes | None]] = []
    async with producer(settings.bootstrap) as client, aclosing(follow_all(settings, seen)) as following:
        await client.send_and_wait(common, b"1", key=b"k", partition=0)
        await client.send_and_wait(dr, b"2", key=b"k", partition=1)
        await anext(following)
        await until_seen(following, seen, 2)
        await create_topics(settings.bootstrap, desired_topics(settings, ("third",), 1))
        try:
            await client.send_and_wait(third, b"3", key=b"k", partition=0)
            await client.send_and_wait(common, b"4", key=b"k", partition=0)
            await until_seen(following, seen, 4)
        finally:
            admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
            await admin.start()
            added = [topic.name for topic in desired_topics(settings, ("third",), 1) if topic.name.endswith(".third")]
            await admin.delete_topics(added)
            await admin.close()
    assert sorted(seen) == [("inventory", b"1"), ("inventory", b"4"), ("inventory.dr", b"2"), ("inventory.third", b"3")]


async def follow_all(settings: Settings, seen: list[tuple[str, bytes | None]]) -> AsyncGenerator[int, None]:
    """How many records of the inventory have come, whenever more do."""
    yield 0
    async with aclosing(follow(settings.bootstrap, ["inventory"], names=settings.names)) as following:
        async for batch in following:
            seen += [(record.topic, record.value) for record in batch]
            yield len(seen)


async def until_seen(following: AsyncGenerator[int, None], seen: list[tuple[str, bytes | None]], count: int) -> None:
    async with asyncio.timeout(20):
        while len(seen) < count:
            await anext(following)
