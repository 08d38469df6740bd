"""The publisher against a real Kafka: what arrives, where, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError as ConfluentError
from confluent_kafka import Message, Producer

from failover_orch.config import Settings
from failover_orch.contract import Codec, partition_of, traceparent_of
from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.inventory import ClusterInventory
from failover_orch.domain.records import Action, DeadLetter, HealthChange, StepCommand
from failover_orch.domain.replication import ReplicationHealth
from failover_orch.errors import KafkaUnavailable, TopicMismatch, UnencodableRecord
from failover_orch.kafka import LocalKafka, create_topics, desired_topics
from failover_orch.wire import Publisher, Received, read_to_end

NOBODY = "127.0.0.1:1"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def moved(vm_id: str, sequence: int = 1) -> VmMoved:
    return VmMoved(vm_id, "primary", "p1", MoveKind.LIVE, 1_700_000_000_000, sequence=sequence)


def publisher(settings: Settings, **changes: Any) -> Publisher:
    settings = dataclasses.replace(settings, **changes)
    return Publisher(
        settings.bootstrap, Codec(), names=settings.names, partitions=settings.partitions, source="test/publisher"
    )


async def everything(settings: Settings, *topics: str) -> list[Received]:
    return [
        record
        async for received in read_to_end(settings.bootstrap, topics, names=settings.names)
        for record in received
    ]


async def test_a_value_arrives_under_its_key_with_its_headers(settings: Settings) -> None:
    command = StepCommand("r1", "P3", 1, "erp-db", "dr", "d2", 4, Action.START, 1_000, 2_000)
    before = time.time() * 1000
    async with publisher(settings) as sending:
        await sending.publish(moved("erp-db"), command, traceparent=TRACEPARENT)
    received = {record.topic: record for record in await everything(settings, "vm-moved", "step-commands.dr")}
    assert received.keys() == {"vm-moved", "step-commands.dr"}
    for topic, value in (("vm-moved", moved("erp-db")), ("step-commands.dr", command)):
        record = received[topic]
        assert record.key == b"erp-db"
        assert record.partition == partition_of(b"erp-db", settings.partitions)
        assert record.value == Codec().encode(value)
        assert traceparent_of(record.headers) == TRACEPARENT
        assert dict(record.headers)["ce_source"] == b"test/publisher"
        assert before - 1_000 <= record.timestamp_ms <= time.time() * 1000 + 1_000
    assert len({dict(record.headers)["ce_id"] for record in received.values()}) == 2


async def test_a_key_goes_where_librdkafka_sends_it_with_murmur2_random(settings: Settings) -> None:
    keys = [f"vm-{number}-ü" * (number % 4 + 1) for number in range(200)]
    theirs: dict[bytes, int] = {}
    wrong: list[str] = []

    def delivered(error: ConfluentError | None, message: Message) -> None:
        if error is not None:
            wrong.append(error.str())
        else:
            theirs[message.key()] = message.partition()

    client = Producer({"bootstrap.servers": settings.bootstrap, "partitioner": "murmur2_random"})
    for key in keys:
        client.produce(settings.names.of("alerts"), key=key.encode(), value=b"", on_delivery=delivered)
    client.flush(30)
    async with publisher(settings) as sending:
        await sending.publish(*(moved(key) for key in keys))
    ours = {record.key: record.partition for record in await everything(settings, "vm-moved")}
    assert not wrong
    assert len(ours) == len(keys)
    assert ours == theirs
    assert set(ours.values()) == set(range(settings.partitions))


async def test_what_is_said_of_a_cluster_goes_to_every_partition(settings: Settings) -> None:
    cluster = ClusterInventory("east", "primary", "broker.east", ())
    async with publisher(settings) as sending:
        await sending.publish(cluster)
    received = await everything(settings, "inventory")
    assert sorted(record.partition for record in received) == list(range(settings.partitions))
    assert {(record.key, record.value) for record in received} == {(b"east", Codec().encode(cluster))}


async def test_records_of_a_key_keep_their_order(settings: Settings) -> None:
    codec = Codec()
    values = [moved(f"vm-{number % 3}", number) for number in range(3_000)]
    async with publisher(settings) as sending:
        await sending.publish(*values)
    for vm_id in ("vm-0", "vm-1", "vm-2"):
        expected = [codec.encode(value) for value in values if value.vm_id == vm_id]
        received = [record.value for record in await everything(settings, "vm-moved") if record.key == vm_id.encode()]
        assert received == expected


async def test_nothing_is_sent_where_one_value_cannot_be_encoded(settings: Settings) -> None:
    bad = dataclasses.replace(moved("b"), sequence="many")  # type: ignore[arg-type]
    async with publisher(settings) as sending:
        with pytest.raises(UnencodableRecord):
            await sending.publish(moved("a"), bad)
    assert await everything(settings, "vm-moved") == []


async def test_a_value_too_large_for_kafka_is_refused_and_the_others_are_written(settings: Settings) -> None:
    health = HealthChange("a", ReplicationHealth.NORMAL, ReplicationHealth.WARNING, ("x" * 1_500_000,), 1)
    async with publisher(settings) as sending:
        with pytest.raises(UnencodableRecord, match=r"health-changes"):
            await sending.publish(moved("a"), health)
        await sending.publish(moved("b"))
    assert [record.key for record in sorted(await everything(settings, "vm-moved"), key=lambda r: r.key)] == [
        b"a",
        b"b",
    ]


async def test_a_missing_topic_is_said_at_once(settings: Settings) -> None:
    command = StepCommand("r1", "P3", 1, "erp-db", "nowhere", "d2", 4, Action.START, 1_000, 2_000)
    started = time.monotonic()
    async with publisher(settings) as sending:
        with pytest.raises(TopicMismatch, match=r"step-commands\.nowhere.*topics create"):
            await sending.publish(command)
    assert time.monotonic() - started < 5


async def test_a_wrong_number_of_partitions_is_said_before_a_cluster_record_goes_to_some_of_them(
    settings: Settings,
) -> None:
    async with publisher(settings, partitions=2) as sending:
        with pytest.raises(TopicMismatch, match=r"has 4 partitions .* FAILOVER_ORCH_PARTITIONS to 4"):
            await sending.publish(ClusterInventory("east", "primary", "broker.east", ()))
    assert await everything(settings, "inventory") == []


async def test_a_dead_letter_keeps_the_bytes_of_its_key(settings: Settings) -> None:
    async with publisher(settings) as sending:
        await sending.publish(DeadLetter("vm-moved", 0, 7, "not Avro", b"\xff\x00", b"", 1))
    assert [record.key for record in await everything(settings, "dead-letters")] == [b"\xff\x00"]


async def test_where_nobody_answers_the_address_is_in_the_sentence() -> None:
    settings = Settings(bootstrap=NOBODY)
    with pytest.raises(KafkaUnavailable, match=NOBODY):
        async with publisher(settings):
            pass
    assert not [thread for thread in threading.enumerate() if "kafka" in thread.name]


async def test_kafka_that_went_away_is_said_and_does_not_hold_up_the_end(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path, brokers=1)
    settings = Settings(topic_prefix="away-", partitions=1)
    try:
        kafka.start()
        await create_topics(kafka.bootstrap, desired_topics(settings, ["dr"], 1))
        sending = Publisher(
            kafka.bootstrap, Codec(), names=settings.names, partitions=1, source="test/publisher", patience_s=1
        )
        async with asyncio.timeout(60), sending:
            await sending.publish(moved("erp-db"))
            kafka.kill_broker(1)
            with pytest.raises(KafkaUnavailable, match="not acknowledged within 1 s"):
                await sending.publish(moved("erp-db", 2))
    finally:
        kafka.stop(grace_s=0)
