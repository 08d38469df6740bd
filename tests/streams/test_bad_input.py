"""Bad input on a real broker: accounted for record by record, while the good events around it are taken."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from topics import CODEC, publisher, values_once
from workers import Workers, running_workers

from failover_orch.audit import verify_topics
from failover_orch.config import Settings
from failover_orch.contract import partition_of
from failover_orch.domain import (
    FailoverKind,
    FailoverRequested,
    Guest,
    MoveKind,
    Replication,
    ReplicationState,
    RequestAction,
    StepOutcome,
    StepResult,
    VmInventory,
    VmMoved,
)

VMS = 10
MOVES = 20


@dataclass(frozen=True)
class Bad:
    """A record that no worker can take, and words of the reason it must give."""

    topic: str
    key: bytes | None
    value: bytes | None
    reason: str
    partition: int | None = None


def move(vm_id: str, step: int, **changes: Any) -> VmMoved:
    moved = VmMoved(vm_id, "dr", f"d{step % 3}", MoveKind.LIVE, 1_000 + step, sequence=step + 10)
    return replace(moved, **changes)


def bad_records(partitions: int) -> list[Bad]:
    good = CODEC.encode(move("vm-bad", 0))
    home = partition_of(b"vm-bad", partitions)
    inventory = CODEC.encode(VmInventory("vm-bad", "bad", (), Guest("linux"), replication()))
    return [
        Bad("vm-moved", b"vm-1", os.urandom(40), "begins with"),
        Bad("step-results", b"vm-1", b"\xc3\x01" + os.urandom(60), "schema fingerprint"),
        Bad("vm-moved", b"vm-bad", inventory, "VmInventory does not belong on vm-moved"),
        Bad("inventory", b"vm-bad", good, "VmMoved does not belong on inventory"),
        Bad("vm-moved", b"vm-1", b"\x00\x00\x00\xff\xff" + good[10:], "needs a schema registry"),
        Bad("failover-requested", b"vm-1", b"", "empty value"),
        Bad("recovery-plans", b"plan", None, "empty value"),
        Bad("vm-moved", b"vm-1", os.urandom(2_000_000), ""),
        Bad("vm-moved", b"vm-bad", CODEC.encode(move("vm-bad", 0, storage="x" * 2_000_000)), "at most 1000000"),
        Bad("vm-moved", b"vm-bad", good[:-3], "cut short"),
        Bad("vm-moved", b"vm-bad", good + b"\x00", "bytes too many"),
        Bad("vm-moved", b"vm-other", good, "the record's key is b'vm-other', but it is about b'vm-bad'"),
        Bad("vm-moved", None, good, "the record's key is None"),
        Bad("vm-moved", b"vm-bad", good, "partitioner=murmur2_random", (home + 1) % partitions),
        Bad("failover-requested", b"vm-lost", CODEC.encode(lost_request()), "step-commands.nowhere"),
    ]


def replication(replica_site: str = "dr") -> Replication:
    return Replication(ReplicationState.REPLICATING, "primary", replica_site)


def request(run_id: str, vm_id: str) -> FailoverRequested:
    return FailoverRequested(run_id, RequestAction.REQUEST, FailoverKind.PLANNED, "alice", "test", 1, vm_id=vm_id)


def lost_request() -> FailoverRequested:
    """Its first command is for the site that has no topic."""
    return replace(request("r-lost", "vm-lost"), kind=FailoverKind.UNPLANNED)


async def send(settings: Settings, producer: AIOKafkaProducer, bad: Bad) -> None:
    topic = settings.names.of(bad.topic)
    await producer.send_and_wait(topic, key=bad.key, value=bad.value, partition=bad.partition)


async def publish_all(settings: Settings, bad: list[Bad]) -> None:
    """Good moves of ten VMs, with the bad records between them."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, max_request_size=3_000_000)
    await producer.start()
    try:
        async with publisher(settings) as publishing:
            # Known, but replicated to a site that has no topic: the request must not hold up what is behind it.
            lost = VmInventory("vm-lost", "lost", (), Guest("rhel-9"), replication("nowhere"), reported_at_ms=1)
            await publishing.publish(lost, replace(move("vm-lost", 0), site="nowhere"))
            await values_once(settings, "routing-updates", lambda updates: len(updates) == 2)
            for step in range(MOVES):
                for each in bad[step::MOVES]:
                    await send(settings, producer, each)
                await publishing.publish(*(move(f"vm-{number}", step) for number in range(VMS)))
            await publishing.publish(
                request("r-unknown", "vm-unknown"),
                StepResult("r-never", "P1", 1, "vm-1", "dr", "d0", 1, StepOutcome.DONE, "", 1),
                move("vm-2", 1),
            )
    finally:
        await producer.stop()


async def test_bad_input_is_accounted_for_and_no_good_event_is_lost(settings: Settings, tmp_path: Path) -> None:
    bad = bad_records(settings.partitions)
    with running_workers(settings, tmp_path, 1) as workers:
        await publish_all(settings, bad)
        await check_good_events(settings)
        await check_dead_letters(settings, bad)
        await check_refusals(settings)
        assert workers.left == []
        await check_the_worker_goes_on(settings, workers)


async def check_good_events(settings: Settings) -> None:
    wanted = {f"vm-{number}": list(range(1, MOVES + 1)) for number in range(VMS)}

    def epochs(updates: list[Any]) -> dict[str, list[int]]:
        return {vm_id: [update.epoch for update in updates if update.vm_id == vm_id] for vm_id in wanted}

    updates = await values_once(settings, "routing-updates", lambda found: epochs(found) == wanted)
    assert len(updates) == VMS * MOVES + 2


async def check_dead_letters(settings: Settings, bad: list[Bad]) -> None:
    letters = await values_once(settings, "dead-letters", lambda found: len(found) >= len(bad))
    assert len(letters) == len(bad)
    for each in bad:
        found = [
            letter
            for letter in letters
            if (letter.topic, letter.key, letter.value) == (each.topic, each.key or b"", each.value or b"")
            and (each.partition is None or letter.partition == each.partition)
            and each.reason in letter.reason
        ]
        assert len(found) == 1, (each.topic, each.key, each.reason, [letter.reason for letter in letters])
        assert not found[0].truncated
    assert len({(letter.topic, letter.partition, letter.offset) for letter in letters}) == len(bad)


async def check_refusals(settings: Settings) -> None:
    entries = await values_once(settings, "failover-journal", lambda found: len(found) >= 3)
    assert sorted((entry.rule, entry.vm_id, entry.run_id) for entry in entries) == [
        ("F1", "vm-unknown", "r-unknown"),
        ("M2", "vm-2", ""),
        ("S1", "vm-1", "r-never"),
    ]
    report = await verify_topics(settings.bootstrap, names=settings.names, codec=CODEC, app_id=settings.app_id)
    assert report.findings == ()


async def check_the_worker_goes_on(settings: Settings, workers: Workers) -> None:
    async with publisher(settings) as publishing:
        await publishing.publish(move("vm-bad", 0))
    updates = await values_once(
        settings, "routing-updates", lambda found: any(update.vm_id == "vm-bad" for update in found)
    )
    assert [update.epoch for update in updates if update.vm_id == "vm-bad"] == [1]
    assert workers.left == []


async def test_what_its_producer_never_committed_is_not_taken(settings: Settings, tmp_path: Path) -> None:
    """Faust reads aborted records, if it is let."""
    topic = settings.names.of("vm-moved")
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, transactional_id=f"{settings.group}-foreign")
    await producer.start()
    try:
        with running_workers(settings, tmp_path, 1) as workers:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, key=b"vm-1", value=CODEC.encode(move("vm-1", 8)))
            await producer.abort_transaction()
            async with producer.transaction():
                await producer.send_and_wait(topic, key=b"vm-1", value=CODEC.encode(move("vm-1", 1)))
            (update,) = await values_once(settings, "routing-updates", bool)
            assert (update.epoch, update.changed.node) == (1, "d1")
            assert workers.left == []
    finally:
        await producer.stop()
