"""What the tests of the commands have in common: commands run in this process, and a worker that the test plays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from typing import Any

import typer
from typer.testing import CliRunner, Result

from failover_orch.config import Settings
from failover_orch.contract import Codec, traceparent_of
from failover_orch.domain import (
    FailoverKind,
    FailoverRequested,
    Guest,
    RecoveryGroup,
    RecoveryPlan,
    Replication,
    ReplicationState,
    RunSnapshot,
    RunState,
    StepProgress,
    StepState,
    VmInventory,
)
from failover_orch.wire import Publisher, Received, follow, read_to_end

__all__ = [
    "PLAN",
    "VMS",
    "Answering",
    "Invoke",
    "Worker",
    "environment",
    "invoking",
    "publish",
    "published",
    "snapshot",
    "step",
]

Invoke = Callable[..., Result]

REPLICATION = Replication(ReplicationState.REPLICATING, "primary", "dr")
VMS = tuple(VmInventory(f"v{n}", f"erp-{n}", (), Guest("debian-12"), REPLICATION) for n in (1, 2))
PLAN = RecoveryPlan("plan-1", "ERP", (RecoveryGroup("all", ("v1", "v2")),))


def snapshot(
    state: RunState,
    *steps: StepProgress,
    run_id: str = "run-1",
    vm_id: str = "v1",
    plan_id: str = "",
    kind: FailoverKind = FailoverKind.PLANNED,
    **more: Any,
) -> RunSnapshot:
    """A run as a worker would tell it."""
    return RunSnapshot(
        run_id,
        kind,
        state,
        vm_id,
        steps,
        "alice",
        "drill",
        1_000,
        4_500 if state.ended else 0,
        plan_id=plan_id,
        data_loss_ms=0,
        addresses={"nic0": "10.2.0.5/24"} if state is RunState.SUCCEEDED else {},
        detail="F3: run r0 is in flight" if state is RunState.REFUSED else "",
        **more,
    )


def step(name: str, state: StepState) -> StepProgress:
    return StepProgress(name, state, 1, "", 1_000, 1_500 if state is StepState.DONE else 0)


def environment(settings: Settings) -> Mapping[str, str]:
    """What tells a command of an installation."""
    return {
        "FAILOVER_ORCH_BOOTSTRAP": settings.bootstrap,
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_PARTITIONS": str(settings.partitions),
    }


@contextmanager
def invoking(cli: typer.Typer) -> Iterator[Invoke]:
    """Run commands in this process; the logging that they set up is gone afterwards."""
    root, client = logging.getLogger(), logging.getLogger("aiokafka")
    handlers, levels = root.handlers[:], (root.level, client.level)
    yield lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments])
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    client.setLevel(levels[1])


def publisher(settings: Settings) -> Publisher:
    return Publisher(settings.bootstrap, Codec(), names=settings.names, partitions=settings.partitions, source="test")


def publish(settings: Settings, *values: object) -> None:
    """Publish values, one after the other."""

    async def all_of_them() -> None:
        async with publisher(settings) as kafka:
            await kafka.publish(*values)

    asyncio.run(all_of_them())


def published(settings: Settings, topic: str, *, partitions: Sequence[int] | None = None) -> list[Any]:
    """What a topic holds, decoded."""

    async def read() -> list[object]:
        codec = Codec()
        return [
            codec.decode_from(record.topic, record.value)
            async for records in read_to_end(settings.bootstrap, [topic], names=settings.names, partitions=partitions)
            for record in records
            if record.value is not None
        ]

    return asyncio.run(read())


class Answering:
    """Waits for the next record of a topic and answers it with records."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings = settings
        self._topic = topic

    def answer(self, answer: Callable[[Any], Sequence[object]]) -> Any:
        """Blocks until a record is there; returns it once it is answered."""
        return asyncio.run(self._answer(answer))

    async def _answer(self, answer: Callable[[Any], Sequence[object]]) -> Any:
        following = follow(self._settings.bootstrap, (self._topic,), names=self._settings.names)
        async with asyncio.timeout(60), publisher(self._settings) as kafka, aclosing(following) as reading:
            async for records in reading:
                value = records[0].value
                assert value is not None
                asked = Codec().decode_from(self._topic, value)
                for one in answer(asked):
                    await kafka.publish(one)
                return asked
        raise AssertionError("no record came")


class Worker:
    """Waits for the next request and answers it with records."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(1)

    def answering(
        self, answer: Callable[[FailoverRequested], Sequence[object]]
    ) -> Future[tuple[FailoverRequested, str]]:
        """The request, once it is there, and its trace context."""
        return self._threads.submit(asyncio.run, self._answer(answer))

    async def _answer(self, answer: Callable[[FailoverRequested], Sequence[object]]) -> tuple[FailoverRequested, str]:
        async with asyncio.timeout(60), publisher(self._settings) as kafka, aclosing(self._follow()) as reading:
            async for records in reading:
                value = records[0].value
                assert value is not None
                request = Codec().decode_from("failover-requested", value)
                assert isinstance(request, FailoverRequested)
                for one in answer(request):
                    await kafka.publish(one)
                return request, traceparent_of(records[0].headers)
        raise AssertionError("no request came")

    def _follow(self) -> AsyncGenerator[list[Received], None]:
        return follow(self._settings.bootstrap, ("failover-requested",), names=self._settings.names)

    def close(self) -> None:
        self._threads.shutdown()
