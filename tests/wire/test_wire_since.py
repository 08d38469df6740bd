"""Reading a topic from a time on, and from no later than behind an offset."""

from __future__ import annotations

from aiokafka import AIOKafkaProducer

from failover_orch.config import Settings
from failover_orch.wire import read_to_end

TOPIC = "vm-moved"
TIMES = (1_000, 2_000, 3_000, 4_000)


async def offsets(settings: Settings, since_ms: int, behind: int | None = None) -> list[int]:
    reading = read_to_end(
        settings.bootstrap,
        [TOPIC],
        names=settings.names,
        partitions=[0],
        since_ms=since_ms,
        behind={} if behind is None else {TOPIC: behind},
    )
    return [record.offset async for records in reading for record in records]


async def test_reading_begins_at_a_time_but_no_later_than_behind_an_offset(settings: Settings) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap)
    await producer.start()
    try:
        for time_ms in TIMES:
            await producer.send_and_wait(settings.names.of(TOPIC), b"x", partition=0, timestamp_ms=time_ms)
    finally:
        await producer.stop()
    assert await offsets(settings, 0) == [0, 1, 2, 3]
    assert await offsets(settings, 2_500) == [2, 3]
    assert await offsets(settings, 9_000) == []
    assert await offsets(settings, 9_000, behind=1) == [2, 3]
    assert await offsets(settings, 2_500, behind=3) == [2, 3]
    assert await offsets(settings, 9_000, behind=-1) == [0, 1, 2, 3]
