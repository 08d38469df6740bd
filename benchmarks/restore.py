"""Restore after SIGKILL: from a worker's start to its first right answer, against reading its changelog and no more.

Kafka gives a killed worker's partitions to nobody until its session has timed out; that time is in the figure.
"""

from __future__ import annotations

import time

from benchmarks.stage import Result, Stage
from failover_orch.domain import MoveKind, RoutingUpdate, VmMoved
from failover_orch.kafka import LocalKafka
from failover_orch.wire import read_to_end

__all__ = ["measure"]

_BATCH = 50_000


async def measure(kafka: LocalKafka, scale: float) -> list[Result]:
    """`scale` 1: 1,000,000 VMs."""
    vms = int(1_000_000 * scale)
    stage = Stage(kafka)
    await stage.make_topics()
    with stage.worker():
        for first in range(0, vms, _BATCH):
            numbers = range(first, min(first + _BATCH, vms))
            await stage.publish([_move(number, "d1", MoveKind.PLACED, 1) for number in numbers])
        await stage.until_applied("vm-moved", vms)
    # Leaving the block has killed it.
    began = time.monotonic()
    async for _ in read_to_end(
        stage.settings.bootstrap, [f"{stage.settings.app_id}-state"], names=stage.settings.names
    ):
        pass
    reading = time.monotonic() - began
    await stage.publish([_move(7, "d2", MoveKind.LIVE, 2)])
    began = time.monotonic()
    with stage.worker():
        await _moved(stage)
        answering = time.monotonic() - began
    what, timeout = f"of {vms} VMs", stage.settings.session_timeout
    return [
        Result(f"reading the changelog {what} and no more", reading, "s", "-"),
        Result(
            f"restore {what} after SIGKILL, from process start, {timeout:g} s session time-out included",
            answering,
            "s",
            "exactly once",
        ),
        Result("restore without that time-out, to reading", (answering - timeout) / reading, "ratio", "exactly once"),
    ]


async def _moved(stage: Stage) -> None:
    async with stage.reader(stage.settings.names.of("routing-updates")) as consumer:
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                for record in records:
                    route = stage.codec.decode(record.value)
                    if isinstance(route, RoutingUpdate) and route.changed.node == "d2" and route.epoch > 1:
                        return


def _move(vm: int, node: str, kind: MoveKind, at_ms: int) -> VmMoved:
    return VmMoved(f"vm-{vm:07d}", "dr", node, kind, at_ms)
