"""Moves of many VMs while workers, and brokers, are killed and paused; then an oracle counts what came out.

Every move is a real one, so each must give exactly one routing update, with the VM's next epoch. Between them stand
moves older than what their node has said already: each must be refused, in exactly one journal entry. The oracle reads
with confluent-kafka and fastavro alone, committed records only.

    python tests/streams/chaos.py --events 20000 --kills 6 --pauses 3
    python tests/streams/chaos.py --events 20000 --kills 6 --pauses 3 --brokers 3 --broker-kills 3
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError, TopicPartition
from workers import Workers, running_workers, say, until

from failover_orch.audit import verify_topics
from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.domain import JournalEntry, MoveKind, VmMoved
from failover_orch.kafka import LocalKafka, create_topics, desired_topics
from failover_orch.wire import Publisher, read_to_end

__all__ = ["PER_SECOND", "Faults", "Oracle", "Outcome", "chaos", "moves"]

SITE = "dr"
NODES = 5
VMS = 100
STALE_EVERY = 40
PORTION = 25
PER_SECOND = 250
SCHEMA = Path(__file__).parents[2] / "schemas" / "RoutingUpdate.v1.avsc"
SINGLE_OBJECT_HEADER = 10
RESULTS_WITHIN_S = 180.0


@dataclass(frozen=True, slots=True)
class Faults:
    """How many of each, and from which seed their order, their victims and their moments come."""

    kills: int = 0
    pauses: int = 0
    broker_kills: int = 0
    seed: int = 1

    def plan(self) -> list[str]:
        """Every fault by name, shuffled."""
        faults = ["kill"] * self.kills + ["pause"] * self.pauses + ["broker"] * self.broker_kills
        random.Random(self.seed).shuffle(faults)
        return faults


@dataclass(slots=True)
class Outcome:
    """What the oracle found. Everything but `expected`, `left` and `longest_silence_s` must be nothing."""

    expected: int
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    dead_letters: int = 0
    refusals_missing: int = 0
    chain_findings: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    longest_silence_s: float = 0.0

    @property
    def sound(self) -> bool:
        wrong = (self.lost, self.doubled, self.out_of_order, self.dead_letters, self.refusals_missing)
        return not any(wrong) and not self.chain_findings

    def __str__(self) -> str:
        return (
            f"{self.expected} moves: {self.lost} lost, {self.doubled} doubled, {self.out_of_order} out of order, "
            f"{self.dead_letters} dead letters, {self.refusals_missing} refusals missing or doubled, "
            f"{len(self.chain_findings)} findings in the journal's chains; "
            f"longest silence {self.longest_silence_s:.1f} s; "
            f"{len(self.left)} workers ended themselves{': ' if self.left else ''}{'; '.join(self.left)}"
        )


def moves(count: int, vms: int = VMS) -> Iterator[VmMoved]:
    """Live moves, each VM's from node to node in a circle; and now and then one that its node has overtaken itself."""
    began_ms = 1_700_000_000_000
    for number in range(count):
        step, vm = divmod(number, vms)
        yield _move(f"vm-{vm}", step, began_ms)
        if number % STALE_EVERY == STALE_EVERY - 1:
            yield _move(f"vm-{vm}", step, began_ms, stale=True)


def _move(vm_id: str, step: int, began_ms: int, *, stale: bool = False) -> VmMoved:
    return VmMoved(
        vm_id=vm_id,
        site=SITE,
        node=f"d{step % NODES}",
        kind=MoveKind.LIVE,
        occurred_at_ms=began_ms + step * 1_000 - (500 if stale else 0),
        sequence=2 * step + (1 if stale else 2),
    )


class Oracle:
    """Reads `routing-updates` by means that share no line with what is tested."""

    def __init__(self, settings: Settings) -> None:
        self._schema = fastavro.schema.load_schema(SCHEMA)
        self._topic = settings.names.of("routing-updates")
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap,
                "group.id": f"oracle-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(self._topic, partition, 0) for partition in range(settings.partitions)])
        self.epochs: dict[str, list[int]] = {}
        self.nodes: dict[str, list[str]] = {}
        self.count = 0
        self.longest_silence_s = 0.0
        self._last = time.monotonic()

    def read(self, timeout_s: float = 0.2) -> int:
        """Take what is there; returns how many records that were."""
        found = 0
        for message in self._consumer.consume(num_messages=1_000, timeout=timeout_s):
            error = message.error()
            if error is not None:
                assert error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT) or error.retriable(), error
                continue
            self._take(message.value())
            found += 1
        if found:
            now = time.monotonic()
            self.longest_silence_s = max(self.longest_silence_s, now - self._last)
            self._last = now
            self.count += found
        return found

    def in_sync(self) -> set[int]:
        """The numbers of copies in sync that partitions have."""
        topics = self._consumer.list_topics(timeout=10).topics.values()
        return {len(partition.isrs) for topic in topics for partition in topic.partitions.values()}

    def close(self) -> None:
        self._consumer.close()

    def _take(self, value: bytes) -> None:
        update: Any = fastavro.schemaless_reader(BytesIO(value[SINGLE_OBJECT_HEADER:]), self._schema, None)
        self.epochs.setdefault(update["vm_id"], []).append(update["epoch"])
        self.nodes.setdefault(update["vm_id"], []).append(update["changed"]["node"])


async def chaos(
    settings: Settings,
    workers: Workers,
    faults: Faults,
    *,
    events: int,
    per_second: int,
    kafka: LocalKafka | None = None,
) -> Outcome:
    """Publish `events` moves while the faults strike two workers, and `kafka`'s brokers; then count."""
    sent = list(moves(events))
    fed = 0
    oracle = Oracle(settings)

    async def feed() -> None:
        nonlocal fed
        async with _publisher(settings) as publisher:
            for first in range(0, len(sent), PORTION):
                pause = asyncio.create_task(asyncio.sleep(PORTION / per_second))
                await publisher.publish(*sent[first : first + PORTION])
                fed += PORTION
                await pause

    feeding = asyncio.create_task(feed())
    try:
        await _strike(workers, faults, oracle, lambda: fed / len(sent), kafka)
        await feeding
        deadline = time.monotonic() + RESULTS_WITHIN_S
        while oracle.count < events and time.monotonic() < deadline:
            await asyncio.to_thread(oracle.read)
        # What is doubled would come behind the rest.
        while await asyncio.to_thread(oracle.read, 2.0):
            pass
        return await _judge(settings, sent, events, oracle, workers)
    finally:
        feeding.cancel()
        with suppress(asyncio.CancelledError):
            await feeding
        oracle.close()


async def _strike(workers: Workers, faults: Faults, oracle: Oracle, share_fed: Any, kafka: LocalKafka | None) -> None:
    """Let each fault strike once its share of the events is out, while the oracle reads on."""
    chance = random.Random(faults.seed + 1)
    plan = faults.plan()
    for number, fault in enumerate(plan):
        while share_fed() < (number + chance.random()) / (len(plan) + 1):
            await asyncio.to_thread(oracle.read)
        victim = chance.randrange(2)
        if fault == "kill":
            workers.kill(victim)
            if chance.random() < 0.5:  # else the other one takes over, and gives half of it back later
                workers.start(victim)
            else:
                await _taken_over(workers, 1 - victim, oracle)
                workers.start(victim)
        elif fault == "pause":
            workers.pause(victim)
            await _taken_over(workers, 1 - victim, oracle)
            workers.resume(victim)
        else:
            assert kafka is not None
            broker = chance.randrange(3) + 1
            await asyncio.to_thread(kafka.kill_broker, broker)
            for _ in range(20):
                await asyncio.to_thread(oracle.read)
            starting = asyncio.create_task(asyncio.to_thread(kafka.start_broker, broker))
            while not starting.done():
                await asyncio.to_thread(oracle.read)
            await starting
            # One at a time: while it catches up, the loss of another would leave too few copies to write to.
            await until(lambda: oracle.in_sync() == {3}, "every partition has its three copies again")


async def _taken_over(workers: Workers, other: int, oracle: Oracle) -> None:
    """Wait until the other worker reads every partition, or has had its time: it may have troubles of its own."""
    deadline = time.monotonic() + 30
    while len(workers.reads(other)) < 4 and time.monotonic() < deadline:
        await asyncio.to_thread(oracle.read)


async def _judge(settings: Settings, sent: Sequence[VmMoved], events: int, oracle: Oracle, workers: Workers) -> Outcome:
    expected: dict[str, list[str]] = {}
    for number in range(events):
        step, vm = divmod(number, VMS)
        expected.setdefault(f"vm-{vm}", []).append(f"d{step % NODES}")
    outcome = Outcome(events, left=workers.said_at_the_end(), longest_silence_s=oracle.longest_silence_s)
    for vm_id, nodes in expected.items():
        epochs = oracle.epochs.get(vm_id, [])
        wanted = list(range(1, len(nodes) + 1))
        outcome.lost += len(set(wanted) - set(epochs))
        outcome.doubled += len(epochs) - len(set(epochs))
        outcome.out_of_order += sum(later <= earlier for earlier, later in pairwise(epochs))
        # An epoch beyond the last, or another node than the event's, is a move that was counted twice or left out.
        outcome.doubled += len(set(epochs) - set(wanted))
        outcome.lost += sum(found != want for found, want in zip(oracle.nodes.get(vm_id, []), nodes, strict=False))
    letters = [r async for r in read_to_end(settings.bootstrap, ["dead-letters"], names=settings.names)]
    outcome.dead_letters = sum(map(len, letters))
    codec = Codec()
    refused = 0
    async for records in read_to_end(settings.bootstrap, ["failover-journal"], names=settings.names):
        for record in records:
            entry = codec.decode(record.value)
            refused += isinstance(entry, JournalEntry) and entry.rule == "M2"
    outcome.refusals_missing = abs(refused - (len(sent) - events))
    report = await verify_topics(settings.bootstrap, names=settings.names, codec=codec, app_id=settings.app_id)
    outcome.chain_findings = [str(finding) for finding in report.findings]
    return outcome


def _publisher(settings: Settings) -> Publisher:
    return Publisher(
        settings.bootstrap, Codec(), names=settings.names, partitions=settings.partitions, source="test/chaos"
    )


async def _main(arguments: argparse.Namespace) -> int:
    faults = Faults(arguments.kills, arguments.pauses, arguments.broker_kills, arguments.seed)
    with tempfile.TemporaryDirectory(prefix="failover-orch-chaos-", ignore_cleanup_errors=True) as directory:
        kafka = LocalKafka(Path(directory) / "kafka", brokers=arguments.brokers)
        try:
            await asyncio.to_thread(kafka.start)
            settings = Settings(bootstrap=kafka.bootstrap, app_id="chaos", topic_prefix="chaos-", partitions=4)
            await create_topics(settings.bootstrap, desired_topics(settings, ("primary", SITE), arguments.brokers))
            with running_workers(settings, Path(directory), 2) as workers:
                await until(lambda: workers.reads(0) | workers.reads(1) == set(range(4)), "the workers read")
                began = time.monotonic()
                outcome = await chaos(
                    settings, workers, faults, events=arguments.events, per_second=arguments.per_second, kafka=kafka
                )
                if not outcome.sound:
                    workers.show()
        finally:
            await asyncio.to_thread(kafka.stop, grace_s=0)
    say(
        f"{arguments.kills} worker kills, {arguments.pauses} pauses, {arguments.broker_kills} broker kills, "
        f"{arguments.brokers} broker(s), seed {arguments.seed}, {time.monotonic() - began:.0f} s",
        outcome,
        *outcome.chain_findings,
    )
    return 0 if outcome.sound else 1


def main() -> int:
    """Run it from the command line; exits 1 where anything is lost, doubled or out of order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("events", 20_000), ("kills", 6), ("pauses", 3), ("broker-kills", 0), ("brokers", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--per-second", type=int, default=PER_SECOND)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    return asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
