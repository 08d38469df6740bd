"""The tasks of one worker, kept in step with rebalances; without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from failover_orch.config import Settings
from failover_orch.contract import SOURCES, Codec
from failover_orch.errors import ConfigError, PartitionFault
from failover_orch.streams import app as module
from failover_orch.streams import create_app
from failover_orch.streams.app import PartitionTasks
from failover_orch.streams.transport import Chunk

SETTINGS = Settings(bootstrap="nobody:1", topic_prefix="t-")
CODEC = Codec()


class Task:
    """A partition task that only says what is done to it."""

    made: list[Task]
    opening: Callable[[], Any]

    def __init__(self, partition: int, *_: object, **__: object) -> None:
        self.partition = partition
        self.done: list[object] = []
        Task.made.append(self)

    async def open(self) -> None:
        self.done.append("open")
        await Task.opening()

    async def hold(self, reading: int, finishing_s: float) -> None:
        self.done.append(("hold", reading))

    async def begin_reading(self, topics: Iterable[str], reading: int) -> dict[str, int]:
        self.done.append(("begin", reading))
        return dict.fromkeys(topics, 10 + self.partition)

    async def submit(self, chunk: Chunk, acknowledge: Callable[[], object]) -> None:
        self.done.append("submit")

    async def close(self, finishing_s: float) -> None:
        await asyncio.sleep(0)
        self.done.append("close")


async def at_once() -> None:
    pass


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> PartitionTasks:
    Task.made = []
    Task.opening = staticmethod(at_once)
    monkeypatch.setattr(module, "PartitionTask", Task)
    return PartitionTasks(SETTINGS, CODEC, now_ms=lambda: 1, fail=lambda error: None)


def assigned(*partitions: int) -> frozenset[tuple[str, int]]:
    return frozenset((f"t-{topic}", partition) for topic in SOURCES for partition in partitions)


def opened() -> list[int]:
    return [task.partition for task in Task.made if "open" in task.done]


async def test_new_partitions_are_opened_kept_ones_go_on_and_lost_ones_are_closed(tasks: PartitionTasks) -> None:
    positions = await tasks.begin_reading(assigned(1, 2), 1)
    assert positions == {(f"t-{topic}", partition): 10 + partition for topic in SOURCES for partition in (1, 2)}
    await tasks.begin_reading(assigned(2, 3), 2)
    assert {task.partition: task.done for task in Task.made} == {
        1: ["open", ("begin", 1), "close"],
        2: ["open", ("begin", 1), ("begin", 2)],
        3: ["open", ("begin", 2)],
    }


async def test_every_task_is_at_rest_before_others_are_given_our_partitions(tasks: PartitionTasks) -> None:
    """One that still wrote would be fenced in the middle, and end this process for no fault of its own."""
    await tasks.begin_reading(assigned(1, 2), 1)
    await tasks.stop_reading(2)
    assert all(task.done[-1] == ("hold", 2) for task in Task.made)


async def test_nothing_begins_where_another_rebalance_has_begun_meanwhile(tasks: PartitionTasks) -> None:
    async def overtaken() -> None:
        await tasks.stop_reading(2)

    Task.opening = staticmethod(overtaken)
    assert await tasks.begin_reading(assigned(1), 1) == {}
    assert Task.made[0].done == ["open"]
    assert await tasks.begin_reading(assigned(1), 3) != {}
    assert opened() == [1]


async def test_what_could_not_be_opened_is_closed_once_all_have_ended(tasks: PartitionTasks) -> None:
    others: list[str] = []

    async def opening() -> None:
        if len(opened()) == 1:
            raise PartitionFault("broken")
        await asyncio.sleep(0)
        others.append("opened")

    Task.opening = staticmethod(opening)
    with pytest.raises(PartitionFault, match="broken"):
        await tasks.begin_reading(assigned(1, 2), 1)
    assert others == ["opened"]
    assert [task.done for task in Task.made] == [["open", "close"], ["open"]]


async def test_closing_goes_on_though_the_caller_is_cancelled(tasks: PartitionTasks) -> None:
    await tasks.begin_reading(assigned(1), 1)
    closing = asyncio.create_task(tasks.begin_reading(frozenset(), 2))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert Task.made[0].done[-1] == "close"


async def test_a_partition_without_one_of_its_topics_is_refused(tasks: PartitionTasks) -> None:
    with pytest.raises(PartitionFault, match="partition 3 was assigned without vm-moved: every source topic needs"):
        await tasks.begin_reading(assigned(3) - {("t-vm-moved", 3)}, 1)


async def test_a_chunk_of_a_partition_that_is_gone_is_void(tasks: PartitionTasks) -> None:
    await tasks.begin_reading(assigned(1), 1)
    for partition in (1, 2):
        await tasks.take(Chunk("t-vm-moved", partition, 0, 1, 1, 0, ()), lambda: None)
    assert Task.made[0].done[-1] == "submit"


def test_an_app_needs_an_address() -> None:
    with pytest.raises(ConfigError, match="set FAILOVER_ORCH_BOOTSTRAP"):
        create_app(Settings(), CODEC)


def test_an_app_refuses_to_run_without_fausts_compiled_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pure Python ones acknowledge events of an old assignment without handing them out."""
    monkeypatch.setattr("faust.streams._CStreamIterator", None)
    with pytest.raises(ConfigError, match="compiled streams are missing"):
        create_app(SETTINGS, CODEC)
