"""From a VM-moved event to its routing update in the hands of a read_committed consumer, at a steady rate."""

from __future__ import annotations

import asyncio
import statistics
import time

from aiokafka import AIOKafkaProducer

from benchmarks.stage import Result, Stage
from failover_orch.domain import MoveKind, RoutingUpdate, VmMoved
from failover_orch.kafka import LocalKafka

__all__ = ["measure"]

_VMS = 500


async def measure(kafka: LocalKafka, scale: float) -> list[Result]:
    """`scale` 1: 2,000 moves a second for 20 seconds."""
    rate, seconds = max(100, int(2_000 * scale)), max(5, int(20 * scale))
    stage = Stage(kafka)
    await stage.make_topics()
    warm = [_move(vm, 0) for vm in range(_VMS)]
    await stage.publish(warm)
    with stage.worker():
        await stage.until_applied("vm-moved", len(warm))
        taken = await _measure(stage, rate, rate * seconds)
    cuts = statistics.quantiles(taken, n=100)
    at = f"at {rate} moves/s"
    return [
        Result(f"vm-moved to routing-updates {at}, p50", cuts[49] * 1000, "ms", "exactly once"),
        Result(f"vm-moved to routing-updates {at}, p99", cuts[98] * 1000, "ms", "exactly once"),
    ]


async def _measure(stage: Stage, rate: int, moves: int) -> list[float]:
    sent: dict[tuple[str, int], float] = {}
    taken: list[float] = []

    async def read() -> None:
        async with stage.reader(stage.settings.names.of("routing-updates")) as consumer:
            while len(taken) < moves:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    now = time.monotonic()
                    for record in records:
                        route = stage.codec.decode(record.value)
                        if isinstance(route, RoutingUpdate):
                            began = sent.get((route.vm_id, route.changed.since_ms))
                            if began is not None:
                                taken.append(now - began)

    reading = asyncio.create_task(read())
    producer = AIOKafkaProducer(bootstrap_servers=stage.settings.bootstrap, acks="all", linger_ms=0)
    await producer.start()
    began = time.monotonic()
    for number in range(moves):
        due = began + number / rate
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        move = _move(number % _VMS, 1 + number // _VMS)
        sent[move.vm_id, move.occurred_at_ms] = time.monotonic()
        await producer.send(stage.settings.names.of("vm-moved"), stage.codec.encode(move), move.vm_id.encode())
    await reading
    await producer.stop()
    return taken


def _move(vm: int, turn: int) -> VmMoved:
    kind = MoveKind.LIVE if turn else MoveKind.PLACED
    return VmMoved(f"vm-{vm:05d}", "dr", f"d{turn % 3 + 1}", kind, 1_700_000_000_000 + turn)
