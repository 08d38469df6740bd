"""Faults that strike processes at random: workers, site agents and brokers, killed and paused."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from workers import Supervised

from failover_orch.kafka import LocalKafka

__all__ = ["Faults", "Struck", "strike_brokers", "strike_processes"]

TAKEN_OVER_WITHIN_S = 30.0
NEXT_WITHIN_S = 20.0
IN_SYNC_WITHIN_S = 120.0
BROKERS = 3


@dataclass(frozen=True, slots=True)
class Faults:
    """How many of each, and from which seed their order, their victims and their moments come."""

    worker_kills: int = 0
    worker_pauses: int = 0
    agent_kills: int = 0
    agent_pauses: int = 0
    broker_kills: int = 0
    broker_pauses: int = 0
    seed: int = 1

    def processes(self) -> list[tuple[str, str]]:
        """Every fault of a worker or agent, shuffled: what happens to what."""
        faults = [("kill", "worker")] * self.worker_kills + [("pause", "worker")] * self.worker_pauses
        faults += [("kill", "agent")] * self.agent_kills + [("pause", "agent")] * self.agent_pauses
        random.Random(self.seed).shuffle(faults)
        return faults

    def brokers(self) -> list[str]:
        """Every fault of a broker, shuffled."""
        faults = ["kill"] * self.broker_kills + ["pause"] * self.broker_pauses
        random.Random(self.seed + 1).shuffle(faults)
        return faults


@dataclass(slots=True)
class Struck:
    """The faults that have struck."""

    counts: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def note(self, what: str, whom: str) -> None:
        self.counts[f"{whom} {what}s"] += 1


async def strike_processes(
    faults: Faults,
    workers: Supervised,
    agents: Mapping[str, Supervised],
    progress: Callable[[], int],
    struck: Struck,
    *,
    every: tuple[int, int],
    workers_count: int,
    agents_count: int,
) -> None:
    """One worker or agent at a time. `every`: how many records come between two faults, at least and at most."""
    chance = random.Random(faults.seed + 2)
    for what, whom in faults.processes():
        await _progress(progress, chance.randint(*every))
        victims, count, said = workers, workers_count, "reading"
        if whom == "agent":
            victims, count, said = agents[chance.choice(sorted(agents))], agents_count, "partitions assigned"
        victim = chance.randrange(count)
        others = [number for number in range(count) if number != victim]
        if what == "kill":
            victims.kill(victim)
            if chance.random() < 0.5:  # else the others take over, and give some of it back later
                await _taken_over(victims, others, said)
            victims.start(victim)
        else:
            victims.pause(victim)
            try:
                await _taken_over(victims, others, said)
            finally:
                victims.resume(victim)
        struck.note(what, whom)


async def strike_brokers(
    faults: Faults, kafka: LocalKafka, progress: Callable[[], int], struck: Struck, *, every: tuple[int, int]
) -> None:
    """One broker at a time: the next one only when every partition has all its copies again."""
    chance = random.Random(faults.seed + 3)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    for what in faults.brokers():
        await _progress(progress, chance.randint(*every))
        broker = chance.randrange(BROKERS) + 1
        if what == "kill":
            await asyncio.to_thread(kafka.kill_broker, broker)
            await _in_sync(admin, lambda copies: min(copies) < BROKERS, "a broker is missed")
            await asyncio.to_thread(kafka.start_broker, broker)
        else:
            pid = kafka.status().brokers[broker - 1].pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                await _in_sync(admin, lambda copies: min(copies) < BROKERS, "a broker is missed")
            finally:
                os.kill(pid, signal.SIGCONT)
        await _in_sync(admin, lambda copies: copies == {BROKERS}, "every partition has its three copies again")
        struck.note(what, "broker")


async def _progress(progress: Callable[[], int], records: int) -> None:
    """Wait until so many more records have come, or it takes too long: a fault may be what holds them up."""
    target = progress() + records
    deadline = time.monotonic() + NEXT_WITHIN_S
    while progress() < target and time.monotonic() < deadline:  # noqa: ASYNC110 (other processes make it)
        await asyncio.sleep(0.05)


async def _taken_over(victims: Supervised, others: Sequence[int], said: str) -> None:
    """Wait until the others have every partition between them, or have had their time: they may have troubles too."""
    deadline = time.monotonic() + TAKEN_OVER_WITHIN_S
    every = _partitions(victims, range(len(others) + 1), said)
    while not every <= _partitions(victims, others, said) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        every |= _partitions(victims, others, said)


def _partitions(processes: Supervised, numbers: Sequence[int], said: str) -> set[int]:
    found: set[int] = set()
    for number in numbers:
        assigned: list[Any] = [event["partitions"] for event in processes.said(number) if event["event"] == said]
        found |= set(assigned[-1]) if assigned else set()
    return found


async def _in_sync(admin: AdminClient, fulfils: Callable[[set[int]], bool], what: str) -> None:
    """Wait until the numbers of copies in sync that partitions have are such."""
    deadline = time.monotonic() + IN_SYNC_WITHIN_S
    while True:
        with suppress(KafkaException):  # the broker that is asked may be the one that is away
            topics = (await asyncio.to_thread(admin.list_topics, timeout=10)).topics.values()
            copies = {len(partition.isrs) for topic in topics for partition in topic.partitions.values()}
            if copies and fulfils(copies):
                return
        assert time.monotonic() < deadline, f"{what}: not within {IN_SYNC_WITHIN_S:g} s"
        await asyncio.sleep(0.2)
