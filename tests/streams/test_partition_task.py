"""The partition task without a broker: what it takes, what it refuses, and what it never does twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from workers import until

from failover_orch.config import Settings
from failover_orch.contract import SOURCES, TOPICS, Codec, partition_of, state_topic, step_commands_topic
from failover_orch.domain import (
    WORKFLOWS,
    ClusterInventory,
    Decision,
    FailoverKind,
    FailoverRequested,
    Guest,
    MoveKind,
    Replication,
    ReplicationState,
    RequestAction,
    Run,
    RunState,
    StepProgress,
    StepState,
    VmInventory,
    VmMoved,
    VmState,
)
from failover_orch.domain.runs import pending_steps
from failover_orch.errors import GapInPartition, PartitionFault
from failover_orch.streams import folding
from failover_orch.streams.partition import PartitionTask
from failover_orch.streams.transport import Chunk

PARTITIONS = 4
SETTINGS = Settings(bootstrap="nobody:1", app_id="app", topic_prefix="t-", partitions=PARTITIONS)
CODEC = Codec()
VMS = [f"vm-{number}" for number in range(40) if partition_of(f"vm-{number}".encode(), PARTITIONS) == 2]
READING = 1


@dataclass(frozen=True)
class Record:
    """What a task looks at in a consumed record."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Task(PartitionTask):
    """A task whose transactions end in a list. `gate` holds one up, as a slow broker would."""

    def __init__(self) -> None:
        super().__init__(2, SETTINGS, CODEC, now_ms=lambda: self.clock_ms, fail=self.failures)
        self.clock_ms = 1_000
        self.failed: list[BaseException] = []
        self.batches: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.writing = asyncio.Event()
        self.made_since: frozenset[str] = frozenset()
        topics = [topic.name for topic in TOPICS] + [
            state_topic("app"),
            step_commands_topic("dr"),
            step_commands_topic("primary"),
        ]
        self.folding = self._folding
        self.folding.topics = frozenset(map(SETTINGS.names.of, topics))
        self.folding.begin(PARTITIONS)
        self._loop = asyncio.create_task(self._work())

    def failures(self, error: BaseException) -> None:
        self.failed.append(error)

    async def _write(self, transaction: Any) -> None:
        self.writing.set()
        await self.gate.wait()
        self.batches.append(transaction)

    async def _look_for_topics(self) -> None:
        self.folding.topics |= self.made_since
        self.folding.topics_missed = False

    def told(self, topic: str) -> list[Any]:
        """What went out on a topic, decoded."""
        return [CODEC.decode(out.value) for batch in self.batches for out in batch.outgoing if out.topic == topic]


@dataclass
class Feeder:
    """Hands chunks to a task, as the agents do, and counts what was acknowledged."""

    task: Task
    acknowledged: list[Chunk] = field(default_factory=list)

    async def chunk(self, *records: Record, start: int | None = None, **changes: Any) -> Chunk:
        first = records[0].offset if start is None else start
        chunk = Chunk("t-vm-moved", 2, first, records[-1].offset + 1, READING, 0, records)
        chunk = replace(chunk, **changes)
        await self.task.submit(chunk, lambda: self.acknowledged.append(chunk))
        return chunk


@pytest.fixture
async def task() -> AsyncIterator[Task]:
    task = Task()
    await task.begin_reading(SOURCES, READING)
    yield task
    await task.close(0)


@pytest.fixture
def feeder(task: Task) -> Feeder:
    return Feeder(task)


def move(offset: int, vm_id: str = VMS[0], step: int | None = None, **changes: Any) -> Record:
    step = offset if step is None else step
    moved = VmMoved(vm_id, "dr", f"d{step % 3}", MoveKind.LIVE, 1_000 + step, sequence=step + 1)
    return Record(offset, vm_id.encode(), CODEC.encode(replace(moved, **changes)))


def records_of_a_failover(vm_id: str) -> tuple[Record, Record]:
    """A request, and the inventory without which it is refused."""
    replication = Replication(ReplicationState.REPLICATING, "primary", "dr")
    inventory = VmInventory(vm_id, "vm", (), Guest("rhel-9"), replication, reported_at_ms=1)
    request = FailoverRequested("r", RequestAction.REQUEST, FailoverKind.PLANNED, "a", "b", 1, vm_id=vm_id)
    return Record(0, vm_id.encode(), CODEC.encode(request)), Record(0, vm_id.encode(), CODEC.encode(inventory))


RECORDS_OF_A_FAILOVER = records_of_a_failover(VMS[0])


async def test_records_become_updates_and_are_acknowledged_once_written(task: Task, feeder: Feeder) -> None:
    task.gate.clear()
    chunk = await feeder.chunk(move(0), move(1))
    await task.writing.wait()
    assert feeder.acknowledged == []
    task.gate.set()
    await until(lambda: feeder.acknowledged == [chunk], "acknowledged")
    assert [update.epoch for update in task.told("routing-updates")] == [1, 2]
    assert task.batches[0].applied == {"vm-moved": 1}


async def test_a_chunk_that_begins_later_than_the_task_stands_is_a_gap(task: Task, feeder: Feeder) -> None:
    await feeder.chunk(move(0))
    with pytest.raises(GapInPartition, match=r"partition 2 of vm-moved stands at 1 and was given records from 2"):
        await feeder.chunk(move(2))


async def test_offsets_that_hold_no_record_are_no_gap(task: Task, feeder: Feeder) -> None:
    """Transaction markers and compacted records take offsets: what counts is where the read began."""
    await feeder.chunk(move(0))
    await feeder.chunk(move(7, step=1), start=1)
    await until(lambda: len(feeder.acknowledged) == 2, "both acknowledged")
    assert len(task.told("routing-updates")) == 2


async def test_what_is_delivered_again_is_taken_once(task: Task, feeder: Feeder) -> None:
    await feeder.chunk(*map(move, range(6)))
    await feeder.chunk(*map(move, range(1, 7)), start=1)
    await until(lambda: len(feeder.acknowledged) == 2, "both acknowledged")
    assert len(task.batches) == 1
    await feeder.chunk(move(0), move(7), start=0)
    await until(lambda: len(feeder.acknowledged) == 3, "all acknowledged")
    assert [update.epoch for update in task.told("routing-updates")] == list(range(1, 9))
    assert task.told("failover-journal") == []  # where the rules would have told of a move they had seen before


async def test_a_chunk_of_another_reading_is_void(task: Task, feeder: Feeder) -> None:
    for reading in (READING - 1, READING + 1, -1):
        await feeder.chunk(move(0), reading=reading)
        await feeder.chunk(move(50), reading=reading)  # nor does it make a gap
    good = await feeder.chunk(move(0))
    await until(lambda: feeder.acknowledged, "the good one acknowledged")
    assert feeder.acknowledged == [good]
    assert len(task.told("routing-updates")) == 1


async def test_a_new_reading_begins_where_the_state_stands_and_voids_what_is_queued(task: Task, feeder: Feeder) -> None:
    task.gate.clear()
    await feeder.chunk(move(0))
    await task.writing.wait()
    await feeder.chunk(move(1))
    beginning = asyncio.create_task(task.begin_reading(SOURCES, READING + 1))
    await asyncio.sleep(0)
    assert not beginning.done()  # what is in hand is finished first: only then is it known where the task stands
    task.gate.set()
    assert (await beginning)["vm-moved"] == 1
    await feeder.chunk(move(1), reading=READING + 1)
    await until(lambda: len(feeder.acknowledged) == 2, "two acknowledged")
    assert [update.epoch for update in task.told("routing-updates")] == [1, 2]


async def test_whoever_waits_at_a_full_queue_is_let_go_when_the_task_is_held_or_closed(
    task: Task, feeder: Feeder
) -> None:
    """One agent serves all partitions of a topic: stuck at a partition that is gone, it would starve the others."""
    task.gate.clear()
    await feeder.chunk(move(0))
    await task.writing.wait()
    for offset in range(1, len(SOURCES) + 1):
        await feeder.chunk(move(offset))
    waiting = [asyncio.create_task(feeder.chunk(move(100 + n), start=0)) for n in range(len(SOURCES))]
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    closing = asyncio.create_task(task.close(0))
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)
    task.gate.set()
    await closing


async def test_a_held_task_starts_nothing_and_its_timers_wait(task: Task, feeder: Feeder) -> None:
    """Between a rebalance's beginning and its end the partition may be another worker's."""
    await task.hold(READING + 1, 1)
    task.folding.store.state["run/r"] = due_run()
    task.folding.timers.set("run/r", due_run())
    # As an agent does that has waited at the full queue since before the rebalance.
    task._queue.put_nowait((late_chunk(), lambda: feeder.acknowledged.append(late_chunk())))
    for _ in range(20):
        await asyncio.sleep(0)
    assert task.batches == []
    await task.begin_reading(SOURCES, READING + 2)
    await until(lambda: task.batches, "the timer fires")
    assert "run/r" not in task.folding.store.state
    good = await feeder.chunk(move(0), reading=READING + 2)
    await until(lambda: feeder.acknowledged, "the good one is taken")
    assert feeder.acknowledged == [good]


def late_chunk() -> Chunk:
    return Chunk("t-vm-moved", 2, 0, 1, READING, 0, (move(0),))


async def test_holding_waits_for_the_batch_in_hand_but_not_for_ever(task: Task, feeder: Feeder) -> None:
    task.gate.clear()
    await feeder.chunk(move(0))
    await task.writing.wait()
    async with asyncio.timeout(5):
        await task.hold(READING + 1, 0.01)
    task.gate.set()
    async with asyncio.timeout(5):
        await task.hold(READING + 2, 60)
    assert len(task.batches) == 1


async def test_a_bad_record_is_kept_whole_and_the_good_ones_around_it_are_taken(task: Task, feeder: Feeder) -> None:
    await feeder.chunk(move(0), Record(1, b"k", b"\x07rubbish"), Record(2, None, None), move(3, step=1))
    await until(lambda: feeder.acknowledged, "acknowledged")
    letters = task.told("dead-letters")
    assert [(letter.topic, letter.partition, letter.offset) for letter in letters] == [
        ("vm-moved", 2, 1),
        ("vm-moved", 2, 2),
    ]
    assert (letters[0].key, letters[0].value, letters[0].truncated) == (b"k", b"\x07rubbish", False)
    assert (letters[1].key, letters[1].value) == (b"", b"")
    assert [update.epoch for update in task.told("routing-updates")] == [1, 2]


async def test_a_record_whose_consequence_is_too_large_leaves_no_trace_but_its_letter(
    task: Task, feeder: Feeder
) -> None:
    """In a transaction it would end this worker and every one after it."""
    large = move(0, storage="x" * (folding.LARGEST_RECORD + 1))
    await feeder.chunk(large, move(1))
    await until(lambda: feeder.acknowledged, "acknowledged")
    (letter,) = task.told("dead-letters")
    assert letter.value == large.value
    assert "takes 2000056 bytes; at most 1000000" in letter.reason
    assert [update.epoch for update in task.told("routing-updates")] == [1]
    assert task.failed == []


async def test_a_key_of_a_megabyte_does_not_make_its_letter_too_large_to_write(task: Task, feeder: Feeder) -> None:
    await feeder.chunk(replace(move(0), key=b"\xff" * 1_000_000))
    await until(lambda: feeder.acknowledged, "acknowledged")
    (letter,) = task.told("dead-letters")
    assert letter.truncated
    assert letter.key == b"\xff" * folding.LARGEST_KEY
    assert len(letter.reason) < 1_000


async def test_a_key_on_another_partition_than_its_own_is_a_bad_record(task: Task, feeder: Feeder) -> None:
    elsewhere = next(f"vm-{n}" for n in range(99) if partition_of(f"vm-{n}".encode(), PARTITIONS) != 2)
    await feeder.chunk(move(0, elsewhere), replace(move(1), key=b"other"))
    await until(lambda: feeder.acknowledged, "acknowledged")
    reasons = [letter.reason for letter in task.told("dead-letters")]
    assert "partitioner=murmur2_random" in reasons[0]
    assert reasons[1] == f"the record's key is b'other', but it is about {VMS[0].encode()!r}: use that as its key"
    assert task.told("routing-updates") == []


async def test_what_is_said_of_a_cluster_is_taken_on_every_partition(task: Task, feeder: Feeder) -> None:
    cluster = ClusterInventory("east", "dr", "broker.east", ())
    await feeder.chunk(Record(0, b"east", CODEC.encode(cluster)), topic="t-inventory")
    await until(lambda: feeder.acknowledged, "acknowledged")
    assert task.told("dead-letters") == []
    assert "clusters" in task.folding.store.state


async def test_knowledge_comes_before_intent_within_a_batch(task: Task, feeder: Feeder) -> None:
    """What was published just before a failover was asked for stands on other topics, and may be read later."""
    request, inventory = RECORDS_OF_A_FAILOVER
    await feeder.chunk(request, topic="t-failover-requested")
    await feeder.chunk(inventory, topic="t-inventory")
    await feeder.chunk(move(0))
    await until(lambda: len(feeder.acknowledged) == 3, "acknowledged")
    assert len(task.batches) == 1
    assert [command.step for command in task.told("step-commands.primary")] == ["P0"]


async def test_a_record_for_a_topic_that_is_not_there_holds_nothing_up_and_may_come_again(
    task: Task, feeder: Feeder
) -> None:
    request, inventory = RECORDS_OF_A_FAILOVER
    task.folding.topics -= {"t-step-commands.primary"}
    await feeder.chunk(inventory, topic="t-inventory")
    await feeder.chunk(move(0))
    await feeder.chunk(request, topic="t-failover-requested")
    await until(lambda: len(feeder.acknowledged) == 3, "acknowledged")
    (letter,) = task.told("dead-letters")
    assert "is for topic t-step-commands.primary, which is not there" in letter.reason
    assert task.told("failover-runs") == []
    task.made_since = frozenset({"t-step-commands.primary"})
    await feeder.chunk(replace(request, offset=1), topic="t-failover-requested")
    await until(lambda: len(feeder.acknowledged) == 4, "acknowledged")
    assert [command.step for command in task.told("step-commands.primary")] == ["P0"]
    assert task.failed == []


def due_run() -> Run:
    request = FailoverRequested("r", RequestAction.REQUEST, FailoverKind.PLANNED, "a", "b", 1, vm_id=VMS[0])
    return Run(request, RunState.SUCCEEDED, (), 0, 1, "primary", "dr", 1, finished_at_ms=2, due_ms=500)


async def test_a_timer_fires_without_any_record(task: Task) -> None:
    task.folding.store.state["run/r"] = due_run()
    task.folding.timers.set("run/r", due_run())
    task._queue.put_nowait((Chunk("t-vm-moved", 2, 0, 1, -5, 0, ()), lambda: None))  # wakes the loop, and is void
    await until(lambda: task.batches, "the timer fired")
    assert "run/r" not in task.folding.store.state
    assert task.batches[0].changed["run/r"].value is None


async def test_an_outcome_that_cannot_be_written_puts_its_timer_off_and_ends_nothing(
    task: Task, feeder: Feeder
) -> None:
    run = due_run()
    task.folding.store.state["run/r"] = run
    task.folding.topics = frozenset()
    task.folding.timers.set("run/r", run)
    task._queue.put_nowait((Chunk("t-vm-moved", 2, 0, 1, -5, 0, ()), lambda: None))
    await until(lambda: task.folding.timers.seconds_left(task.clock_ms) == folding.PUT_OFF_MS / 1000, "put off")
    assert task.folding.store.state["run/r"] == run
    assert task.failed == []


def confused(vm_id: str) -> VmState:
    """A value that the rules cannot be right about: whatever raises its epoch meets a TypeError."""
    return VmState(vm_id, epoch="not a number")  # type: ignore[arg-type]


async def test_a_bug_in_the_rules_costs_its_record_alone_and_is_told(task: Task, feeder: Feeder) -> None:
    task.folding.store.state[f"vm/{VMS[0]}"] = confused(VMS[0])
    bad = move(0)
    await feeder.chunk(bad, move(1, VMS[1], step=1))
    await until(lambda: feeder.acknowledged, "acknowledged")
    (letter,) = task.told("dead-letters")
    assert letter.reason.startswith("bug: TypeError: ")
    assert (letter.offset, letter.value) == (0, bad.value)
    assert [alert.subject for alert in task.told("alerts")] == [VMS[0]]
    assert [update.vm_id for update in task.told("routing-updates")] == [VMS[1]]
    assert task.batches[0].applied == {"vm-moved": 1}
    assert task.failed == []


async def test_a_bug_in_parking_ends_the_process_and_writes_nothing(
    task: Task, feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def park(*_: object) -> Decision:
        raise ZeroDivisionError

    monkeypatch.setattr(folding, "park", park)
    task.folding.store.state[f"vm/{VMS[0]}"] = confused(VMS[0])
    await feeder.chunk(move(0))
    await until(lambda: task.failed, "failed")
    assert isinstance(task.failed[0], ZeroDivisionError)
    assert task.batches == []
    assert feeder.acknowledged == []


async def test_a_timer_that_meets_a_bug_is_put_off_and_its_run_is_parked(task: Task, feeder: Feeder) -> None:
    request = FailoverRequested("r", RequestAction.REQUEST, FailoverKind.PLANNED, "a", "b", 1, vm_id=VMS[0])
    # Its time has come, and to look how long a step may take meets an AttributeError.
    request = replace(request, step_policies=(None,))  # type: ignore[arg-type]  # what the rules cannot be right about
    steps = (StepProgress("P0", StepState.ISSUED, 1, "", 1, 0), *pending_steps(WORKFLOWS[FailoverKind.PLANNED])[1:])
    run = Run(request, RunState.RUNNING, steps, 0, 1, "primary", "dr", 1, due_ms=500)
    task.folding.store.state |= {"run/r": run, f"vm/{VMS[0]}": VmState(VMS[0], run_id="r")}
    task.folding.timers.set("run/r", run)
    await feeder.chunk(move(0, VMS[1]))
    await until(lambda: feeder.acknowledged, "acknowledged")
    assert task.folding.timers.seconds_left(task.clock_ms) == folding.PUT_OFF_MS / 1000
    parked = task.folding.store.state["run/r"]
    assert isinstance(parked, Run)
    assert parked.state is RunState.PARKED
    assert task.failed == []


async def test_what_concerns_every_partition_is_written_to_each(task: Task) -> None:
    everywhere, one = ClusterInventory("east", "dr", "broker.east", ()), VmMoved("v", "dr", "d1", MoveKind.LIVE, 1)
    prepared = task.folding._prepare(Decision(outputs=(everywhere, one)), "origin")  # type: ignore[arg-type]
    assert [out.partition for out in prepared.outgoing] == [*range(PARTITIONS), None]


def test_a_partition_fault_is_an_error_of_ours() -> None:
    assert issubclass(GapInPartition, PartitionFault)
