"""Health intake: how fast one worker takes replication reports, against reading and decoding them and nothing else."""

from __future__ import annotations

import time

from benchmarks.stage import Result, Stage
from failover_orch.domain import ReplicationHealth, ReplicationMode, ReplicationReport, ReplicationState
from failover_orch.kafka import LocalKafka

__all__ = ["measure"]

_TOPIC = "replication-health"
_CHANGES_EVERY = 200


async def measure(kafka: LocalKafka, scale: float) -> list[Result]:
    """`scale` 1: 1,000,000 reports of 100,000 VMs, of which one in 200 changes the VM's health."""
    events, vms = int(1_000_000 * scale), int(100_000 * scale)
    stage = Stage(kafka)
    await stage.make_topics()
    await stage.publish([_report(number, vms) for number in range(events)])
    raw = await _raw(stage, events)
    began = time.monotonic()
    with stage.worker():
        took = await stage.until_applied(_TOPIC, events) - began
    worker = events / took
    return [
        Result("health intake, raw aiokafka getmany and decode into a dict", raw, "events/s", "none: state is lost"),
        Result("health intake, one worker, from its start", worker, "events/s", "exactly once"),
        Result("health intake, worker to raw", worker / raw, "ratio", "exactly once"),
    ]


async def _raw(stage: Stage, events: int) -> float:
    state: dict[bytes, object] = {}
    seen = 0
    began = time.monotonic()
    async with stage.reader(stage.settings.names.of(_TOPIC)) as consumer:
        while seen < events:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    state[record.key] = stage.codec.decode(record.value)
                seen += len(records)
    return events / (time.monotonic() - began)


def _report(number: int, vms: int) -> ReplicationReport:
    bad = number % _CHANGES_EVERY == 0
    return ReplicationReport(
        vm_id=f"vm-{number % vms:07d}",
        site="primary",
        node="p1",
        mode=ReplicationMode.PRIMARY,
        state=ReplicationState.REPLICATING,
        health=ReplicationHealth.WARNING if bad else ReplicationHealth.NORMAL,
        reported_at_ms=1_700_000_000_000 + number,
        last_replication_at_ms=1_700_000_000_000 + number,
        cycles=100,
    )
