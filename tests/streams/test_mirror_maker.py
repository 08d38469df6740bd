"""A Kafka is mirrored by a real MirrorMaker 2, is lost, and the work goes on at its mirror."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from mirror_maker import SOURCE, mirroring
from topics import publisher, values, values_once
from workers import running_workers, until

from failover_orch.adopting import Sync, read_sync, translated
from failover_orch.config import Settings
from failover_orch.contract import Names
from failover_orch.domain import (
    Guest,
    MoveKind,
    RecoveryGroup,
    RecoveryPlan,
    Replication,
    ReplicationState,
    RoutingUpdate,
    VmInventory,
    VmMoved,
)
from failover_orch.errors import ConfigError
from failover_orch.kafka import LocalKafka, create_topics, desired_topics
from failover_orch.streams import EXIT_FAULT
from failover_orch.wire import read_to_end

VMS = 30
LATE = 12
PARTITIONS = 4
WITHIN_S = 120.0
TOLD = ("routing-updates", "audit-trail", "failover-journal", "recovery-plans", "health-changes", "coordination")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalKafka, LocalKafka]]:
    """A Kafka, and one that it is to be mirrored to."""
    there, here = (LocalKafka(tmp_path_factory.mktemp(name), brokers=1) for name in ("there", "here"))
    try:
        there.start()
        here.start()
        yield there, here
    finally:
        there.stop(grace_s=0)
        here.stop(grace_s=0)


@pytest.mark.kafka
async def test_work_goes_on_at_the_mirror_where_it_had_come_to(
    two: tuple[LocalKafka, LocalKafka], tmp_path: Path
) -> None:
    there, here = (Settings(bootstrap=kafka.bootstrap, partitions=PARTITIONS) for kafka in two)
    for settings in (there, here):
        await create_topics(settings.bootstrap, desired_topics(settings, ("primary", "dr"), 1))
    with running_workers(there, tmp_path, 1) as workers:
        replication = Replication(ReplicationState.REPLICATING, "primary", "dr")
        known = [
            VmInventory(f"v{n}", f"vm-{n}", (), Guest("debian-12"), replication, reported_at_ms=1) for n in range(VMS)
        ]
        plan = RecoveryPlan("plan-1", "ERP", (RecoveryGroup("all", tuple(vm.vm_id for vm in known)),))
        async with publisher(there) as publishing:
            await publishing.publish(*known, plan, *_moves(1))
        await _never_committed(there, "vm-moved")
        await values_once(there, "routing-updates", lambda found: {each.vm_id for each in found} == _vm_ids(VMS))
        await _until_nothing_comes(there)
        workers.stop(0)

        with mirroring(there.bootstrap, here.bootstrap, tmp_path):
            # What nobody has applied when the Kafka is lost, but what had been mirrored by then.
            async with publisher(there) as publishing:
                await publishing.publish(*_moves(2)[:LATE])
            await values_once(here, "vm-moved", lambda found: len(found) == VMS + LATE, timeout_s=WITHIN_S)
            for topic in (*TOLD, "failover-orch-state"):
                await _mirrored(there, here, topic)
            for arguments in (("vm", "list"), ("audit", "verify"), ("plan", "list")):
                assert _command(here, *arguments) == _command(there, *arguments)
    two[0].stop(grace_s=0)

    with running_workers(here, tmp_path, 1) as workers:
        await until(lambda: EXIT_FAULT in workers.left, "the worker ends itself", timeout_s=WITHIN_S)
        assert any("mirror adopt" in why for why in workers.said_at_the_end())
        workers.kill(0)
        status, said = _command(here, "mirror", "adopt", "--source", SOURCE)
        assert status == 0, said
        status, said = _command(here, "mirror", "adopt", "--source", SOURCE)
        assert status == 1
        assert "is this Kafka's own" in said

        workers.start(0)
        expected = {f"v{n}": 2 if n < LATE else 1 for n in range(VMS)}
        found = await values_once(here, "routing-updates", lambda found: _newest(found) == expected, timeout_s=WITHIN_S)
        assert len({(each.vm_id, each.epoch) for each in found}) == len(found)
        status, said = _command(here, "audit", "verify")
        assert status == 0, said
        assert await values(here, "dead-letters") == []


async def _never_committed(settings: Settings, topic: str) -> None:
    """Write a record in a transaction that is given up."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, transactional_id="somebody")
    await producer.start()
    try:
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"never", b"v0")
        await producer.abort_transaction()
    finally:
        await producer.stop()


def _moves(number: int) -> list[VmMoved]:
    return [VmMoved(f"v{n}", "dr", f"d{number}", MoveKind.PLACED, number, sequence=number) for n in range(VMS)]


def _vm_ids(count: int) -> set[str]:
    return {f"v{n}" for n in range(count)}


def _newest(found: Sequence[RoutingUpdate]) -> dict[str, int]:
    """The move that each VM's replica was last seen to have made."""
    return {
        each.vm_id: int(at.node.removeprefix("d"))
        for each in found
        for at in each.locations
        if at.site == "dr" and at.node
    }


async def _until_nothing_comes(settings: Settings) -> None:
    """Wait until the worker has written all that follows from what it was told."""
    before = -1
    deadline = time.monotonic() + WITHIN_S
    while (count := len(await _records(settings, "failover-orch-state"))) != before:
        assert time.monotonic() < deadline
        before = count
        await asyncio.sleep(1.5)


async def _mirrored(there: Settings, here: Settings, topic: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    wanted = await _records(there, topic)
    while await _records(here, topic) != wanted:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.5)


async def _records(settings: Settings, topic: str) -> set[tuple[int, bytes, bytes | None]]:
    return {
        (record.partition, record.key, record.value)
        async for records in read_to_end(settings.bootstrap, [topic], names=Names())
        for record in records
    }


def _command(settings: Settings, *arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "FAILOVER_ORCH_BOOTSTRAP": str(settings.bootstrap)}
    done = subprocess.run(
        [sys.executable, "-m", "failover_orch", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


SYNCS = (Sync(0, 0), Sync(5, 9), Sync(9, 7), Sync(12, 30))


@pytest.mark.parametrize(("applied", "here"), [(-1, -1), (0, 0), (4, 0), (5, 9), (8, 9), (9, 7), (11, 7), (90, 30)])
def test_what_is_applied_is_what_is_known_to_be_at_or_before_it(applied: int, here: int) -> None:
    assert translated(applied, SYNCS) == here
    assert translated(applied, ()) == -1


def test_a_record_of_mirror_maker_is_read_and_another_is_refused() -> None:
    key = b"\0\x08vm-moved\0\0\0\x02"
    value = (18).to_bytes(8, "big") + (11).to_bytes(8, "big")
    assert read_sync(key, value) == (("vm-moved", 2), Sync(18, 11))
    for broken in ((key[:-1], value), (key, value[:-1]), (key + b"\0", value)):
        with pytest.raises(ConfigError, match="offset-syncs topic"):
            read_sync(*broken)
