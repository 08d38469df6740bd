"""Chunks and readings without a broker: which fetched records are handed on, and the assignment of topics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError
from faust.transport.drivers import aiokafka as driver
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.errors import PartitionFault
from failover_orch.streams import create_app
from failover_orch.streams.transport import CHUNK_RECORDS, Chunk, CoPartitionedAssignor, _ChunkConsumer, _Fetched

Place = tuple[str, int]


@dataclass(frozen=True)
class Tp:
    topic: str
    partition: int


TP = Tp("moves", 0)
OTHER = Tp("moves", 1)


class Consumer(_ChunkConsumer):
    """A consumer whose thread is a list of fetches, and whose tasks stand where `stands` says."""

    def __init__(self) -> None:
        self._reading = 0
        self._next = {}
        self._read_offset: dict[Any, int | None] = {}
        self.fetches: list[_Fetched] = []
        self.begun: list[tuple[Mapping[Any, int], int]] = []
        self.failed: list[BaseException] = []
        self.held: list[int] = []
        self.stands: dict[Place, int] = {}
        self.in_between: Any = None
        self.app = SimpleNamespace(positions=self, conf=SimpleNamespace(broker_request_timeout=30.0))
        self._thread = SimpleNamespace(begin=self.begin)
        self.should_stop_now = False

    should_stop = property(lambda self: self.should_stop_now)

    def assignment(self) -> set[Tp]:
        return {Tp(*place) for place in self.stands}

    async def _wait_next_records(self, timeout: float) -> tuple[Any, None]:  # noqa: ASYNC109 (Faust's signature)
        return (self.fetches.pop(0) if self.fetches else {}), None

    def _to_message(self, tp: Tp, record: Any) -> Any:
        return SimpleNamespace(tp=tp, offset=record.offset, key=b"k", value=b"v")

    async def begin(self, positions: Mapping[Any, int], reading: int) -> None:
        self.begun.append((positions, reading))

    async def begin_reading(self, partitions: frozenset[Place], reading: int) -> Mapping[Place, int]:
        assert partitions == self.stands.keys()
        if self.in_between is not None:
            await self.in_between()
        return self.stands

    async def stop_reading(self, reading: int) -> None:
        self.held.append(reading)

    def fail(self, error: BaseException) -> None:
        self.failed.append(error)

    async def chunks(self) -> list[Chunk]:
        return [message.value async for _, message in self.getmany(1.0)]


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Consumer:
    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(driver.Consumer, "perform_seek", nothing)
    monkeypatch.setattr(driver.Consumer, "on_partitions_revoked", nothing)
    monkeypatch.setattr(driver.Consumer, "on_partitions_assigned", nothing)
    return Consumer()


def fetched(reading: int, *offsets: int, tp: Tp = TP) -> _Fetched:
    return _Fetched(reading, {tp: [SimpleNamespace(offset=offset) for offset in offsets]}, {tp: offsets[-1] + 11})


async def reading(consumer: Consumer, **stands: int) -> int:
    consumer.stands = {("moves", int(name[1:])): offset for name, offset in stands.items()}
    await consumer.perform_seek()
    return consumer.begun[-1][1]


async def test_records_come_in_chunks_that_begin_where_the_one_before_ended(consumer: Consumer) -> None:
    now = await reading(consumer, p0=5)
    consumer.fetches = [fetched(now, *range(5, 5 + CHUNK_RECORDS), 900), fetched(now, 903)]
    chunks = await consumer.chunks() + await consumer.chunks()
    assert [(chunk.start, chunk.end, len(chunk.records), chunk.behind) for chunk in chunks] == [
        (5, 5 + CHUNK_RECORDS, CHUNK_RECORDS, 911 - 5 - CHUNK_RECORDS),
        (5 + CHUNK_RECORDS, 901, 1, 10),
        (901, 904, 1, 10),
    ]
    assert {chunk.reading for chunk in chunks} == {now}


async def test_reading_begins_where_the_tasks_stand(consumer: Consumer) -> None:
    now = await reading(consumer, p0=7, p1=0)
    assert consumer.begun == [({TP: 7, OTHER: 0}, now)]
    assert consumer._read_offset == {TP: 7, OTHER: None}


async def test_what_was_fetched_in_an_older_reading_is_void_and_leaves_the_place_alone(consumer: Consumer) -> None:
    """A fetch of before a rebalance that ends after it: handed out, it would skip or double; the place lost, stall."""
    old = await reading(consumer, p0=5)
    now = await reading(consumer, p0=3)
    consumer.fetches = [fetched(old, 5, 6, 7), fetched(now, 3, 4)]
    assert await consumer.chunks() == []
    (chunk,) = await consumer.chunks()
    assert (chunk.start, chunk.end) == (3, 5)


async def test_a_rebalance_while_a_batch_is_handed_out_voids_its_rest(consumer: Consumer) -> None:
    now = await reading(consumer, p0=0)
    consumer.fetches = [fetched(now, *range(3 * CHUNK_RECORDS))]
    taken = []
    async for _, message in consumer.getmany(1.0):
        taken.append(message.value)
        if len(taken) == 1:
            await consumer.on_partitions_revoked({TP})
            await reading(consumer, p0=0)
    assert len(taken) == 1
    consumer.fetches = [fetched(consumer.begun[-1][1], 0)]
    (chunk,) = await consumer.chunks()
    assert chunk.start == 0


async def test_nothing_fetched_between_a_rebalances_beginning_and_its_end_is_handed_out(consumer: Consumer) -> None:
    """Faust has aiokafka fetch from the committed offsets for a moment; those are not where the tasks stand."""
    now = await reading(consumer, p0=5)
    await consumer.on_partitions_revoked({TP})
    assert consumer.held == [now + 1]
    consumer.fetches = [fetched(now, 40, 41)]
    assert await consumer.chunks() == []


async def test_tasks_are_let_go_where_no_partition_is_left(consumer: Consumer) -> None:
    """Faust does not take up reading then, and a task that was kept would be fenced when its partition came back."""
    now = await reading(consumer, p0=5)
    asked: list[int] = []

    async def begin_reading(partitions: frozenset[Place], reading: int) -> Mapping[Place, int]:
        assert partitions == frozenset()
        asked.append(reading)
        return {}

    consumer.begin_reading = begin_reading  # type: ignore[method-assign]
    await consumer.on_partitions_assigned({TP})
    assert asked == []
    await consumer.on_partitions_assigned(set())
    assert asked == [now + 1]


async def test_a_rebalance_overtaken_by_another_seeks_nowhere(consumer: Consumer) -> None:
    async def another() -> None:
        consumer.in_between = None
        await consumer.on_partitions_revoked({TP})

    consumer.in_between = another
    consumer.stands = {("moves", 0): 5}
    await consumer.perform_seek()
    assert (consumer.begun, consumer.failed, consumer._next) == ([], [], {})


async def test_an_error_ends_the_process_but_not_one_that_another_rebalance_brings(consumer: Consumer) -> None:
    async def wrong() -> None:
        raise ValueError("broken")

    async def overtaken() -> None:
        await consumer.on_partitions_revoked({TP})
        raise ValueError("the partition is gone")

    consumer.in_between = wrong
    await consumer.perform_seek()
    assert [str(error) for error in consumer.failed] == ["broken"]
    consumer.in_between = overtaken
    with pytest.raises(IllegalStateError):
        await consumer.perform_seek()
    assert len(consumer.failed) == 1


async def test_taking_up_reading_must_end_before_faust_gives_it_up_silently(consumer: Consumer) -> None:
    consumer.app.conf.broker_request_timeout = 3.02
    consumer.in_between = asyncio.Event().wait
    async with asyncio.timeout(2):
        await consumer.perform_seek()
    assert isinstance(consumer.failed[0], PartitionFault)


@given(
    st.dictionaries(st.sampled_from("abc"), st.permutations(["t1", "t2", "t3", "t4"]), min_size=1),
    st.permutations(["t1", "t2", "t3", "t4"]),
)
def test_topics_with_the_same_subscribers_are_always_in_one_group(
    subscriptions: dict[str, list[str]], topics: list[str]
) -> None:
    assert list(CoPartitionedAssignor._group_co_subscribed(topics, subscriptions)) == [set(topics)]


def test_while_workers_read_different_topics_those_that_read_the_most_are_given_everything() -> None:
    """A worker of before a site was added would have a share of the common topics, and another the site's own."""
    few, many = ["moves", "results"], ["moves", "results", "results.dr"]
    assigned = assignment({"old-1": few, "new-1": many, "old-2": few, "new-2": many})
    assert assigned["old-1"] == assigned["old-2"] == {}
    for member in ("new-1", "new-2"):
        assert assigned[member].keys() == set(many)
        assert len(set(map(tuple, assigned[member].values()))) == 1
    assert sorted(assigned["new-1"]["moves"] + assigned["new-2"]["moves"]) == list(range(PARTITIONS))


def test_workers_that_read_the_same_topics_share_them() -> None:
    assigned = assignment({"one": ["a", "b"], "two": ["b", "a"]})
    assert [len(assigned[member][topic]) for member in ("one", "two") for topic in "ab"] == [2, 2, 2, 2]
    assert assigned["one"]["a"] == assigned["one"]["b"]


PARTITIONS = 4


def assignment(subscriptions: Mapping[str, list[str]]) -> dict[str, dict[str, list[int]]]:
    """What the leader of the group gives to each member."""
    app = create_app(Settings(bootstrap="nobody:1"), Codec())
    assignor = CoPartitionedAssignor(app, replicas=app.conf.table_standby_replicas)
    cluster = SimpleNamespace(partitions_for_topic=lambda topic: set(range(PARTITIONS)))
    members = {name: assignor.metadata(set(topics)) for name, topics in subscriptions.items()}
    given = assignor._perform_assignment(cluster, members)
    return {name: {topic: sorted(mine) for topic, mine in of.assignment} for name, of in given.items()}
