"""The topics as they ought to be, and as they are on a real Kafka."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka import errors as aiokafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from failover_orch.config import Settings
from failover_orch.contract import PER_SITE, SOURCES, TOPICS, Kept
from failover_orch.errors import KafkaError, KafkaUnavailable, TopicMismatch
from failover_orch.kafka import (
    DesiredTopic,
    Difference,
    check_topics,
    create_topics,
    default_replication,
    desired_topics,
)
from failover_orch.kafka.topics import differences

PLAIN = Settings(app_id="app", topic_prefix="x-", partitions=6)
MATTERS = True


def by_name(settings: Settings, replication: int = 1) -> dict[str, DesiredTopic]:
    return {topic.name: topic for topic in desired_topics(settings, ["primary", "dr"], replication)}


def test_every_topic_of_the_contract_and_those_beside_it() -> None:
    expected = {f"x-{topic.name}" for topic in TOPICS}
    expected |= {"x-step-commands.primary", "x-step-commands.dr", "x-app-state"}
    expected |= {f"x-{name}.{site}" for name in PER_SITE for site in ("primary", "dr")}
    desired = by_name(PLAIN)
    assert desired.keys() == expected
    assert {topic.partitions for topic in desired.values()} == {6}


def test_how_long_topics_are_kept() -> None:
    desired = by_name(PLAIN)
    for topic in TOPICS:
        configs = desired[f"x-{topic.name}"].configs
        assert configs["cleanup.policy"] == ("compact" if topic.kept is Kept.COMPACTED else "delete")
        if topic.kept is not Kept.COMPACTED:
            assert configs["retention.ms"] == ("604800000" if topic.kept is Kept.BY_TIME else "-1")
    assert desired["x-app-state"].configs["cleanup.policy"] == "compact"


@pytest.mark.parametrize(("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2")])
def test_one_of_three_copies_may_be_lost(replication: int, in_sync: str) -> None:
    for topic in by_name(PLAIN, replication).values():
        assert topic.replication == replication
        assert topic.configs["min.insync.replicas"] == in_sync


def test_a_dead_letter_has_room_for_the_largest_record_from_outside() -> None:
    desired = by_name(PLAIN)
    largest = max(int(desired[f"x-{name}"].configs["max.message.bytes"]) for name in SOURCES)
    assert largest > 2 * 1024 * 1024
    assert int(desired["x-dead-letters"].configs["max.message.bytes"]) >= largest + 512 * 1024


TOPIC = DesiredTopic("vm-moved", 2, 1, Kept.BY_TIME, {"cleanup.policy": "delete", "retention.ms": "5"})
JOURNAL = dataclasses.replace(TOPIC, kept=Kept.FOREVER, configs={"cleanup.policy": "delete", "retention.ms": "-1"})


@pytest.mark.parametrize(
    ("topic", "partitions", "replicas", "configs", "expected"),
    [
        (TOPIC, 2, [1], {}, []),
        (TOPIC, 3, [1], {}, [("partitions", "2", "3", MATTERS)]),
        (TOPIC, 2, [1, 2], {}, [("replication", "1", "2", not MATTERS)]),
        (TOPIC, 2, [1], {"cleanup.policy": "compact"}, [("cleanup.policy", "delete", "compact", MATTERS)]),
        (TOPIC, 2, [1], {"retention.ms": "9"}, [("retention.ms", "5", "9", not MATTERS)]),
        (JOURNAL, 2, [1], {"retention.ms": "9"}, [("retention.ms", "-1", "9", MATTERS)]),
    ],
)
def test_which_differences_matter(
    topic: DesiredTopic,
    partitions: int,
    replicas: list[int],
    configs: dict[str, str],
    expected: list[tuple[str, str, str, bool]],
) -> None:
    found = differences(topic, [{"replicas": replicas}] * partitions, {**topic.configs, **configs})
    assert list(found) == [
        Difference(topic.name, setting, ought, found_, matters=matters) for setting, ought, found_, matters in expected
    ]


async def test_what_was_created_is_as_it_ought_to_be(settings: Settings) -> None:
    # The fixture has created them: a second time makes nothing, and nothing differs.
    desired = desired_topics(settings, ["primary", "dr"], 1)
    for report in (await create_topics(settings.bootstrap, desired), await check_topics(settings.bootstrap, desired)):
        assert report.usable
        assert (report.created, report.missing, report.differences) == ((), (), ())
        assert set(report.present) == {topic.name for topic in desired}


async def test_what_is_missing_is_made_and_what_differs_is_said(settings: Settings) -> None:
    other = dataclasses.replace(settings, topic_prefix=f"{settings.topic_prefix}other-", app_id=f"{settings.app_id}-2")
    desired = desired_topics(other, ["primary"], 1)
    names = [topic.name for topic in desired]
    async with administrator(settings) as admin:
        await admin.create_topics(
            [
                NewTopic(other.names.of("vm-moved"), 2, 1),
                NewTopic(other.names.of("inventory"), 4, 1),
                NewTopic(other.names.of("audit-trail"), 4, 1),
            ]
        )
        async with asyncio.timeout(20):
            # The controller has made them; that the broker knows of them takes a moment.
            while len((report := await check_topics(other.bootstrap, desired)).present) < 3:  # noqa: ASYNC110 (only Kafka knows)
                await asyncio.sleep(0.01)
        assert not report.usable
        assert len(report.missing) == len(desired) - 3
        report = await create_topics(other.bootstrap, desired)
        try:
            assert len(report.created) == len(desired) - 3
            assert report.missing == ()
            assert not report.usable
            mattering = {(each.topic, each.setting, each.found) for each in report.differences if each.matters}
            assert mattering == {
                (other.names.of("vm-moved"), "partitions", "2"),
                (other.names.of("inventory"), "cleanup.policy", "delete"),
                (other.names.of("audit-trail"), "retention.ms", "604800000"),
            }
        finally:
            await admin.delete_topics(names)


async def test_more_copies_than_brokers(settings: Settings, prefix: str) -> None:
    assert await default_replication(settings.bootstrap) == 1
    other = dataclasses.replace(settings, topic_prefix=f"{prefix}copies-", app_id=f"{prefix}copies")
    with pytest.raises(
        TopicMismatch, match=r"3 copies of each topic were asked for, and Kafka at .* has fewer brokers"
    ):
        await create_topics(settings.bootstrap, desired_topics(other, [], 3))


async def test_a_name_that_kafka_refuses(settings: Settings) -> None:
    with pytest.raises(KafkaError, match=r"did not make topic .*step-commands.far away"):
        await create_topics(settings.bootstrap, desired_topics(settings, ["far away"], 1))


async def test_a_record_of_2_mb_is_taken_where_anybody_may_write(settings: Settings) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, max_request_size=5_000_000)
    await producer.start()
    try:
        for topic in SOURCES:
            await producer.send_and_wait(settings.names.of(topic), b"x" * 2_000_000, key=b"k")
        await producer.send_and_wait(settings.names.of("dead-letters"), b"x" * 3_900_000, key=b"k")
        with pytest.raises(aiokafka_errors.MessageSizeTooLargeError):
            await producer.send_and_wait(settings.names.of("routing-updates"), b"x" * 2_000_000, key=b"k")
    finally:
        await producer.stop()


async def test_where_nobody_answers_the_address_is_in_the_sentence() -> None:
    with pytest.raises(KafkaUnavailable, match=r"127\.0\.0\.1:1"):
        await check_topics("127.0.0.1:1", [])


class administrator:  # noqa: N801 (used as a function)
    """An aiokafka administrator's client, open for a while."""

    def __init__(self, settings: Settings) -> None:
        self._client: Any = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)

    async def __aenter__(self) -> Any:
        await self._client.start()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
