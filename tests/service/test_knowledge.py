"""How fresh what is known is: partition by partition, read to its end and applied by the workers."""

from __future__ import annotations

import asyncio
import time

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from made_world import inventory, route

from failover_orch.config import Settings
from failover_orch.contract import Codec, partition_of, state_topic
from failover_orch.domain import MoveKind, VmMoved
from failover_orch.service import Feed, Knowledge
from failover_orch.service.applied import AppliedWatch
from failover_orch.streams.store import APPLIED
from failover_orch.wire import Progress, Publisher


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def knowledge(clock: Clock) -> Knowledge:
    return Knowledge(now_ms=clock)


def read(*places: tuple[str, int, int, int, int]) -> list[Progress]:
    return [Progress(*place) for place in places]


def test_a_partition_is_known_once_its_end_is_reached_in_every_topic(knowledge: Knowledge, clock: Clock) -> None:
    assert "has not been read to its end" in knowledge.why_not()
    knowledge.progress(
        read(("a", 0, 5, 5, 999_000), ("a", 1, 0, 0, 999_000), ("b", 0, 3, 9, 999_500), ("b", 1, 2, 2, 999_900))
    )
    assert knowledge.known_at_ms(0) == 0
    assert knowledge.known_at_ms(1) == 999_000
    assert (knowledge.why_not(1), bool(knowledge.why_not(0)), bool(knowledge.why_not())) == ("", True, True)


def test_where_kafka_has_not_answered_nothing_is_known(knowledge: Knowledge) -> None:
    knowledge.progress(read(("a", 0, 0, -1, 0)))
    assert knowledge.why_not(0)


def test_what_is_known_stays_known_while_a_new_sites_topic_is_taken_up(knowledge: Knowledge) -> None:
    knowledge.progress(read(("a", 0, 5, 5, 999_000)))
    knowledge.progress(read(("a", 0, 5, -1, 0)))
    assert knowledge.known_at_ms(0) == 999_000


def test_while_records_keep_coming_the_ends_reached_count(knowledge: Knowledge, clock: Clock) -> None:
    """Under load the newest end is never reached; what was asked for a moment ago is."""
    position = 0
    for _ in range(100):
        clock.now_ms += 200
        knowledge.progress(read(("a", 0, position, position + 50, clock.now_ms)))
        position += 60
    assert clock.now_ms - knowledge.known_at_ms(0) <= 400


def test_what_is_not_confirmed_grows_too_old(knowledge: Knowledge, clock: Clock) -> None:
    knowledge.confirm(2, clock.now_ms)
    clock.now_ms += 5_000
    assert knowledge.why_not() == ""
    clock.now_ms += 1
    assert "Kafka has not confirmed for 5.0 s" in knowledge.why_not(0)
    knowledge.forget()
    assert "has not been read to its end" in knowledge.why_not(0)


def test_routes_need_the_workers_too(knowledge: Knowledge, clock: Clock) -> None:
    knowledge.confirm(2, clock.now_ms)
    clock.now_ms += 6_000
    knowledge.progress(read(("a", 0, 5, 5, clock.now_ms), ("a", 1, 5, 5, clock.now_ms)))
    knowledge.applied(1, clock.now_ms)
    assert knowledge.why_not(0) == ""
    assert "the workers have not applied for 6.0 s" in knowledge.why_no_route(0)
    assert knowledge.why_no_route(1) == ""
    assert knowledge.why_no_route()


async def eventually(said: object, within_s: float = 30) -> None:
    """Wait until something holds: `said()`."""
    deadline = time.monotonic() + within_s
    while not said():  # type: ignore[operator]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def write(
    settings: Settings, topic: str, key: bytes, value: bytes, partition: int, transaction: str = ""
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, transactional_id=transaction or None)
    await producer.start()
    try:
        if transaction:
            async with producer.transaction():
                await producer.send_and_wait(topic, value, key=key, partition=partition)
        else:
            await producer.send_and_wait(topic, value, key=key, partition=partition)
    finally:
        await producer.stop()


async def test_a_move_that_nobody_applies_withholds_its_partitions_routes(settings: Settings) -> None:
    """A worker is gone and its successor not there yet: what nodes have reported since is applied by nobody."""
    partition = partition_of(b"v1", settings.partitions)
    other = (partition + 1) % settings.partitions
    knowledge = Knowledge(applied_within_ms=2_500)
    knowledge.confirm(settings.partitions, 2**62)  # read it is, for this test
    for each in range(settings.partitions):
        knowledge._applied[each] = 0
    watch = AppliedWatch(settings.bootstrap, settings.app_id, names=settings.names, knowledge=knowledge)
    publisher = Publisher(
        settings.bootstrap, Codec(), names=settings.names, partitions=settings.partitions, source="test"
    )
    watching = asyncio.create_task(watch.run())
    try:
        await eventually(lambda: not knowledge.why_no_route())
        async with publisher:
            await publisher.publish(VmMoved("v1", "primary", "p2", MoveKind.LIVE, 5))
        await eventually(lambda: knowledge.why_no_route(partition))
        assert knowledge.why_no_route(other) == ""
        # The successor applies it, and says so in the changelog.
        changelog = settings.names.of(state_topic(settings.app_id))
        await write(settings, changelog, APPLIED, orjson.dumps({"vm-moved": 0}), partition)
        await eventually(lambda: not knowledge.why_no_route(partition))
        # A producer that writes in transactions leaves a mark behind its record: there is nothing left to apply.
        moved = Codec().encode(VmMoved("v1", "primary", "p3", MoveKind.LIVE, 6))
        await write(
            settings, settings.names.of("vm-moved"), b"v1", moved, partition, transaction=f"{settings.app_id}-tx"
        )
        await write(settings, changelog, APPLIED, orjson.dumps({"vm-moved": 1}), partition)
        await eventually(lambda: knowledge.why_no_route(partition))
        await eventually(lambda: not knowledge.why_no_route(partition))
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_a_feed_knows_how_fresh_it_is_and_tells_of_changes(settings: Settings) -> None:
    feed = Feed(settings.bootstrap, names=settings.names, codec=Codec(), app_id=settings.app_id)
    publisher = Publisher(
        settings.bootstrap, Codec(), names=settings.names, partitions=settings.partitions, source="test"
    )
    running = asyncio.create_task(feed.run())
    try:
        async with publisher:
            await publisher.publish(route("v1", "p1", epoch=1), inventory("v1", "erp-db"))
            await eventually(lambda: feed.model.route("v1") and not feed.knowledge.why_no_route())
            assert feed.knowledge.partitions == settings.partitions
            waiting = asyncio.create_task(feed.changes.of("v1", 30))
            await asyncio.sleep(0)
            with feed.changes.listening() as listener:
                await publisher.publish(route("v1", "p2", epoch=2))
                assert await waiting
                (change,) = await listener.next(30)
        assert (change.vm_id, change.offset) == ("v1", 1)
        assert feed.model.vm_id_of("ERP-DB") == "v1"
        known_at_ms = feed.knowledge.known_at_ms()
        await eventually(lambda: feed.knowledge.known_at_ms() > known_at_ms)  # also where nothing happens
    finally:
        running.cancel()
        await asyncio.wait([running])
