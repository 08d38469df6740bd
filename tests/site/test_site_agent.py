"""The site agent on a real Kafka."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaProducer

from failover_orch.config import Settings
from failover_orch.contract import Codec, key_of, traceparent_of
from failover_orch.domain.facts import MoveKind, ReplicationReport, StepOutcome, StepResult, VmMoved
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.records import Action, DeadLetter, StepCommand
from failover_orch.domain.replication import ReplicationMode
from failover_orch.errors import TopicMismatch
from failover_orch.hypervisors.simulated import FaultKind, SimulatedHypervisor, SimulatedWorld
from failover_orch.site import AgentOptions, SiteAgent
from failover_orch.wire import Publisher, Received, follow
from worlds import command, make_vm, make_world

Value = TypeVar("Value")

CODEC = Codec()
OPTIONS = AgentOptions(report_every=0.2, grace=10, session_timeout=1.5)
PATIENCE_S = 60


def in_time(seconds: float = 60) -> int:
    return time.time_ns() // 1_000_000 + int(seconds * 1000)


def make_agent(settings: Settings, world: Path, site: str = "primary", options: AgentOptions = OPTIONS) -> SiteAgent:
    return SiteAgent(
        SimulatedHypervisor(world, site, poll_s=0.02),
        CODEC,
        bootstrap=settings.bootstrap,
        names=settings.names,
        partitions=settings.partitions,
        app_id=settings.app_id,
        options=options,
    )


@asynccontextmanager
async def running(agent: SiteAgent) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(agent.run())
    try:
        yield task
    finally:
        agent.stop()
        await task


async def publish(settings: Settings, *values: object, traceparent: str = "", site: str = "") -> None:
    """Publish values; those of a site's agent on its own topics."""
    publisher = Publisher(
        settings.bootstrap, CODEC, names=settings.names, partitions=settings.partitions, source="test", site=site
    )
    async with publisher:
        await publisher.publish(*values, traceparent=traceparent)


@dataclass(frozen=True, slots=True)
class Seen:
    record: Received
    value: Any


async def until(settings: Settings, topic: str, enough: Callable[[list[Seen]], bool]) -> list[Seen]:
    """Read a topic from its beginning until what has been seen is enough."""
    seen: list[Seen] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(follow(settings.bootstrap, [topic], names=settings.names)) as read:
        async for records in read:
            seen += [Seen(record, CODEC.decode_from(topic, record.value)) for record in records]
            if enough(seen):
                break
    return seen


async def results(settings: Settings, count: int) -> list[StepResult]:
    return [seen.value for seen in await until(settings, "step-results", lambda seen: len(seen) >= count)]


def of(kind: type[Value], seen: list[Seen]) -> list[Value]:
    return [one.value for one in seen if isinstance(one.value, kind)]


async def test_commands_are_carried_out_in_order_and_answered(settings: Settings, tmp_path: Path) -> None:
    vms = [f"vm-{number}" for number in range(5)]
    world = make_world(tmp_path / "world.db", [make_vm(vm) for vm in vms])
    actions = (Action.SHUT_DOWN, Action.PREPARE, Action.CANCEL_PREPARE, Action.START)
    commands = [command(action, "primary", vm_id=vm, deadline_ms=in_time()) for action in actions for vm in vms]
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with running(make_agent(settings, tmp_path / "world.db")):
        await publish(settings, *commands, traceparent=traceparent)
        answers = await until(settings, "step-results", lambda seen: len(seen) >= len(commands))
    assert {answer.value.outcome for answer in answers} == {StepOutcome.DONE}
    for vm in vms:
        assert [answer.value.step for answer in answers if answer.value.vm_id == vm] == list(actions)
        assert [effect.action for effect in world.effects(vm)] == list(actions)
    assert {answer.record.key for answer in answers} == {key_of(asked) for asked in commands}
    assert {traceparent_of(answer.record.headers) for answer in answers} == {traceparent}


async def test_every_command_has_an_answer(settings: Settings, tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db")
    world.fail_next("vm-1", Action.SHUT_DOWN, kind=FaultKind.FAIL)
    world.fail_next("vm-1", Action.SHUT_DOWN, kind=FaultKind.HANG)
    commands = [
        command(Action.START, "primary", deadline_ms=in_time(), step="1", epoch=5),
        command(Action.SHUT_DOWN, "primary", deadline_ms=in_time(), step="2", epoch=5),
        command(Action.SHUT_DOWN, "primary", deadline_ms=in_time(), step="3", epoch=4),
        command(Action.SHUT_DOWN, "primary", deadline_ms=in_time(-1), step="4", epoch=5),
        command(Action.SHUT_DOWN, "primary", deadline_ms=in_time(3), step="5", epoch=5),
        command(Action.REVERSE, "primary", deadline_ms=in_time(), step="6", epoch=5, vm_id="vm-unknown"),
    ]
    async with running(make_agent(settings, tmp_path / "world.db")):
        await publish(settings, *commands)
        answers = {answer.step: answer for answer in await results(settings, len(commands))}
    assert {step: answer.outcome for step, answer in answers.items()} == {
        "1": StepOutcome.DONE,
        "2": StepOutcome.FAILED,
        "3": StepOutcome.STALE,
        "4": StepOutcome.FAILED,
        "5": StepOutcome.FAILED,
        "6": StepOutcome.REFUSED,
    }
    assert answers["4"].detail == "not begun: its deadline had passed"
    assert answers["5"].detail == "no answer from the hypervisor by its deadline"
    assert answers["3"].observed["epoch"] == "5"
    assert not world.effects()


async def test_what_cannot_be_read_is_buried_and_the_next_is_done(settings: Settings, tmp_path: Path) -> None:
    make_world(tmp_path / "world.db")
    good = command(Action.SHUT_DOWN, "primary", deadline_ms=in_time())
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap)
    async with producer:
        topic = settings.names.of("step-commands.primary")
        for value in (b"\x00\x01garbage", None, CODEC.encode(VmMoved("vm-1", "dr", "d1", MoveKind.LIVE, 1))):
            await producer.send_and_wait(topic, key=b"vm-1", value=value, partition=0)
        await producer.send_and_wait(topic, key=b"vm-2", value=CODEC.encode(good), partition=0)
    async with running(make_agent(settings, tmp_path / "world.db")):
        await publish(settings, good)
        (answer,) = await results(settings, 1)
        letters = of(DeadLetter, await until(settings, "dead-letters", lambda seen: len(seen) >= 4))
    assert answer.outcome is StepOutcome.DONE
    assert sorted(letter.offset for letter in letters) == [0, 1, 2, 3]
    by_offset = {letter.offset: letter for letter in letters}
    assert by_offset[0].value == b"\x00\x01garbage"
    assert "empty" in by_offset[1].reason
    assert "does not belong on step-commands.primary" in by_offset[2].reason
    assert "under the key b'vm-2'" in by_offset[3].reason
    assert {letter.topic for letter in letters} == {"step-commands.primary"}


def _agent_process(settings: Settings, world: str) -> None:
    asyncio.run(make_agent(settings, Path(world)).run())


async def test_killed_between_effect_and_result(settings: Settings, tmp_path: Path) -> None:
    """One effect and one logical result: the next agent finds the VM off already, and says so."""
    path = tmp_path / "world.db"
    world = make_world(path)
    world.fail_next("vm-1", Action.SHUT_DOWN, kind=FaultKind.LOSE_ANSWER)
    process = multiprocessing.get_context("spawn").Process(target=_agent_process, args=(settings, str(path)))
    process.start()
    try:
        await publish(settings, command(Action.SHUT_DOWN, "primary", deadline_ms=in_time()))
        await _effects(world, 1)
    finally:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    async with running(make_agent(settings, path)):
        (answer,) = await results(settings, 1)
        # A second command shows that the first one's offset is behind us, and that nothing else came of it.
        await publish(settings, command(Action.START, "primary", deadline_ms=in_time()))
        answers = await results(settings, 2)
    assert (answer.step, answer.attempt, answer.outcome) == ("SHUT_DOWN", 1, StepOutcome.DONE)
    assert [(known.step, known.outcome) for known in answers] == [
        ("SHUT_DOWN", StepOutcome.DONE),
        ("START", StepOutcome.DONE),
    ]
    assert [effect.action for effect in world.effects()] == [Action.SHUT_DOWN, Action.START]


async def _effects(world: SimulatedWorld, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(world.effects()) < count:  # noqa: ASYNC110 (another process brings it about, and sets no event here)
            await asyncio.sleep(0.02)


async def test_an_answered_command_is_not_taken_again(settings: Settings, tmp_path: Path) -> None:
    make_world(tmp_path / "world.db")
    async with running(make_agent(settings, tmp_path / "world.db")):
        await publish(settings, command(Action.SHUT_DOWN, "primary", deadline_ms=in_time()))
        await results(settings, 1)
    async with running(make_agent(settings, tmp_path / "world.db")):
        await publish(settings, command(Action.START, "primary", deadline_ms=in_time()))
        assert [answer.step for answer in await results(settings, 2)] == ["SHUT_DOWN", "START"]


async def test_a_stop_waits_for_the_step_under_way(settings: Settings, tmp_path: Path) -> None:
    seed = make_world(tmp_path / "seed.db")
    slow = SimulatedWorld.create(tmp_path / "world.db", seed.clusters(), [make_vm()], boot_ms=0, shutdown_ms=1000)
    agent = make_agent(settings, tmp_path / "world.db")
    async with running(agent) as task:
        await publish(settings, command(Action.SHUT_DOWN, "primary", deadline_ms=in_time()))
        await _effects(slow, 1)
        agent.stop()
        await asyncio.wait_for(task, PATIENCE_S)
    assert [answer.outcome for answer in await results(settings, 1)] == [StepOutcome.DONE]


async def test_two_agents_of_a_site_share_its_commands(settings: Settings, tmp_path: Path) -> None:
    """Partitions change hands in the middle of it, twice: every command is answered, none takes effect twice."""
    vms = [f"vm-{number}" for number in range(40)]
    world = make_world(tmp_path / "world.db", [make_vm(vm) for vm in vms])

    def commands(action: Action) -> list[StepCommand]:
        return [command(action, "primary", vm_id=vm, deadline_ms=in_time()) for vm in vms]

    async with running(make_agent(settings, tmp_path / "world.db")):
        await publish(settings, *commands(Action.SHUT_DOWN))
        async with running(make_agent(settings, tmp_path / "world.db")):
            await publish(settings, *commands(Action.PREPARE))
            await _answered(settings, {(vm, action) for vm in vms for action in (Action.SHUT_DOWN, Action.PREPARE)})
        await publish(settings, *commands(Action.CANCEL_PREPARE))
        await _answered(settings, {(vm, Action.CANCEL_PREPARE) for vm in vms})
    effects = [(effect.vm_id, effect.action) for effect in world.effects()]
    assert len(effects) == len(set(effects)) == 3 * len(vms)


async def _answered(settings: Settings, wanted: set[tuple[str, Action]]) -> None:
    def enough(seen: list[Seen]) -> bool:
        done = {(s.value.vm_id, s.value.step) for s in seen if s.value.outcome is StepOutcome.DONE}
        return wanted <= done

    await until(settings, "step-results", enough)


async def test_what_is_there_and_what_changes_is_told(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "world.db"
    world = make_world(path, [make_vm("vm-1"), make_vm("vm-2")])

    def at_dr(move: VmMoved) -> bool:
        return (move.vm_id, move.site) == ("vm-1", "dr")

    # Nobody listens yet: this has to be told all the same.
    world.migrate("vm-1", "d2")
    async with running(make_agent(settings, path)), running(make_agent(settings, path, "dr")):
        moves = of(
            VmMoved, await until(settings, "vm-moved", lambda seen: len([s for s in seen if at_dr(s.value)]) >= 4)
        )
        inventory = await until(
            settings,
            "inventory",
            lambda seen: len(of(VmInventory, seen)) >= 2 and len(of(ClusterInventory, seen)) >= 2 * 4,
        )
        world.migrate("vm-1", "d1", MoveKind.QUICK)
        await until(settings, "vm-moved", lambda seen: any(s.value.kind is MoveKind.QUICK for s in seen))
        reports = of(
            ReplicationReport,
            await until(
                settings,
                "replication-health",
                lambda seen: len({(s.value.vm_id, s.value.site) for s in seen}) == 4 and len(seen) >= 12,
            ),
        )
    of_vm_1 = [(move.node, move.kind, move.sequence) for move in moves if at_dr(move)]
    assert of_vm_1[:3] == [("d1", MoveKind.PLACED, 1), ("d2", MoveKind.LIVE, 1), ("d1", MoveKind.DEPARTED, 2)]
    assert of_vm_1[3] == of_vm_1[1]
    assert {(vm.vm_id, vm.replication.primary_site) for vm in of(VmInventory, inventory)} == {
        ("vm-1", "primary"),
        ("vm-2", "primary"),
    }
    clusters = [seen for seen in inventory if isinstance(seen.value, ClusterInventory)]
    assert {(s.value.cluster, s.record.partition) for s in clusters} == {
        (cluster, partition) for cluster in ("primary-cluster", "dr-cluster") for partition in range(4)
    }
    modes = {(report.site, report.mode) for report in reports}
    assert modes == {("primary", ReplicationMode.PRIMARY), ("dr", ReplicationMode.REPLICA)}


async def test_a_missing_topic_ends_the_agent_with_a_sentence(settings: Settings, tmp_path: Path) -> None:
    make_world(tmp_path / "world.db")
    with pytest.raises(TopicMismatch, match=r"elsewhere-step-commands\.primary"):
        await make_agent(replace(settings, topic_prefix="elsewhere-"), tmp_path / "world.db").run()


async def test_an_agent_that_waits_for_kafka_can_be_stopped(tmp_path: Path) -> None:
    make_world(tmp_path / "world.db")
    agent = make_agent(Settings(bootstrap="127.0.0.1:1"), tmp_path / "world.db")
    task = asyncio.create_task(agent.run())
    await asyncio.wait([task], timeout=0.5)
    assert not task.done()
    agent.stop()
    await asyncio.wait_for(task, PATIENCE_S)
