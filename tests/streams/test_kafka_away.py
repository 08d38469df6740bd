"""Kafka stopped while runs are under way: no new action is begun, and afterwards the runs go on.

What hypervisors did is read from the simulated world, which does not need Kafka. `make test` keeps Kafka away for some
seconds, killed or paused; `make chaos` for two minutes:

    python tests/streams/test_kafka_away.py --seconds 120 --how kill
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sites import (
    SITES,
    Follower,
    address_at,
    asked,
    known_to_the_broker,
    make_world,
    publish_settings,
    running_agents,
)
from topics import publisher
from workers import running_workers, say, until

from failover_orch.config import Settings
from failover_orch.domain import Action, FailoverKind
from failover_orch.hypervisors.simulated import Effect, SimulatedWorld
from failover_orch.kafka import LocalKafka, create_topics, desired_topics

VMS = tuple(f"vm-{number}" for number in range(6))
SLOW_MS = 3_000
"""How long a guest takes to shut down and to boot: long enough for Kafka to go away in between."""
GRACE_S = 6.0
"""How long a command that an agent had before may wait for its turn."""
AFTERWARDS_S = 240.0
RUN = "run-1"


@dataclass(frozen=True, slots=True)
class Away:
    """How Kafka goes away, and how it comes back."""

    go: Callable[[LocalKafka], None]
    come: Callable[[LocalKafka], None]


def _signal(number: signal.Signals) -> Callable[[LocalKafka], None]:
    def send(kafka: LocalKafka) -> None:
        for broker in kafka.status().brokers:
            assert broker.pid is not None
            os.kill(broker.pid, number)

    return send


HOW = {
    "kill": Away(lambda kafka: kafka.kill_broker(1), lambda kafka: kafka.start_broker(1)),
    "pause": Away(_signal(signal.SIGSTOP), _signal(signal.SIGCONT)),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the world's ledger says. `known`: commands the agents had when Kafka went that took effect after it."""

    before: int
    known: int
    begun_meanwhile: tuple[Effect, ...]
    after: int
    twice: tuple[str, ...]
    workers_left: int
    away_s: float
    went_on_after_s: float
    ended_after_s: float
    """Both counted from when Kafka began to come back."""

    @property
    def sound(self) -> bool:
        return not self.begun_meanwhile and not self.twice

    def __str__(self) -> str:
        return (
            f"Kafka away for {self.away_s:.0f} s: {self.before} effects before, {self.known} of commands that agents "
            f"had, {len(self.begun_meanwhile)} begun meanwhile, {self.after} after; {len(self.twice)} twice; "
            f"{self.went_on_after_s:.1f} s after it began to come back the runs went on, after "
            f"{self.ended_after_s:.1f} s they had ended; {self.workers_left} workers ended themselves"
        )


async def kafka_away(kafka: LocalKafka, settings: Settings, directory: Path, how: Away, seconds: float) -> Outcome:
    """Fail VMs over, take Kafka away while guests shut down, and see what is done meanwhile and afterwards."""
    vms = {vm_id: (f"p-{number % 2}", f"d-{number % 2}") for number, vm_id in enumerate(VMS)}
    path = directory / "world.db"
    world = make_world(path, vms, boot_ms=SLOW_MS, shutdown_ms=SLOW_MS)
    # Two turns on a node: of three VMs there one still waits when Kafka goes away.
    with (
        running_workers(settings, directory, 2) as workers,
        running_agents(settings, directory, path, 1, "--per-node", "2", "--report-every", "1"),
        Follower(settings, "failover-runs", "health-changes") as follower,
    ):
        try:
            await known_to_the_broker(follower, VMS, fit=lambda change: change["defects"] != [])
            await publish_settings(settings, VMS)
            await known_to_the_broker(follower, VMS)
            async with publisher(settings) as publishing:
                await publishing.publish(asked(FailoverKind.PLANNED, RUN, vm_ids=VMS))
            await until(lambda: _done(world)[Action.SHUT_DOWN] >= len(VMS) // 2, "guests shut down")
            await asyncio.to_thread(how.go, kafka)
            gone_s = time.monotonic()
            try:
                before = len(world.effects())
                # Time itself is what is tested here: this is how long nothing may be begun.
                await asyncio.sleep(GRACE_S)
                graced = len(world.effects())
                await asyncio.sleep(seconds - GRACE_S)
                at_the_end = world.effects()
            finally:
                back_s = time.monotonic()
                await asyncio.to_thread(how.come, kafka)
            await until(lambda: len(world.effects()) > len(at_the_end), "the runs go on", timeout_s=AFTERWARDS_S)
            went_on_s = time.monotonic()
            await until(lambda: follower.ended(RUN), "the list's run ends", timeout_s=AFTERWARDS_S)
            _require_all_moved(world, follower)
            return Outcome(
                before=before,
                known=graced - before,
                begun_meanwhile=at_the_end[graced:],
                after=len(world.effects()) - len(at_the_end),
                twice=_twice(world),
                workers_left=len(workers.left),
                away_s=back_s - gone_s,
                went_on_after_s=went_on_s - back_s,
                ended_after_s=time.monotonic() - back_s,
            )
        finally:
            world.close()


def _done(world: SimulatedWorld) -> Counter[Action]:
    return Counter(effect.action for effect in world.effects())


def _twice(world: SimulatedWorld) -> tuple[str, ...]:
    """What took effect more than once: nothing was undone here, so nothing may."""
    counts = Counter((effect.vm_id, effect.action) for effect in world.effects())
    return (
        *(f"{vm_id}: {count} times {action}" for (vm_id, action), count in counts.items() if count > 1),
        *(f"{vm_id} ran at both sites" for vm_id in world.ran_twice()),
    )


def _require_all_moved(world: SimulatedWorld, follower: Follower) -> None:
    for run_id in (RUN, *(f"{RUN}/{vm_id}" for vm_id in VMS)):
        assert follower.run(run_id)["state"] == "SUCCEEDED", follower.run(run_id)
    for number, vm_id in enumerate(VMS):
        ends = {end.site: end for end in world.ends(vm_id)}
        assert [str(ends[site].power) for site in SITES] == ["OFF", "RUNNING"], ends
        (adapter,) = ends[SITES[1]].adapters
        assert adapter.configured.addresses == (address_at(SITES[1], number),)


@pytest.mark.parametrize("how", sorted(HOW))
async def test_nothing_new_is_begun_while_kafka_is_away_and_the_runs_go_on_afterwards(
    kafka: LocalKafka, settings: Settings, tmp_path: Path, how: str
) -> None:
    outcome = await kafka_away(kafka, settings, tmp_path, HOW[how], seconds=15)
    say(outcome)
    assert outcome.sound, outcome


async def _long(how: str, seconds: float) -> int:
    with tempfile.TemporaryDirectory(prefix="failover-orch-away-", ignore_cleanup_errors=True) as directory:
        kafka = LocalKafka(Path(directory) / "kafka", brokers=1)
        try:
            await asyncio.to_thread(kafka.start)
            settings = Settings(bootstrap=kafka.bootstrap, app_id="away", topic_prefix="away-", partitions=4)
            await create_topics(settings.bootstrap, desired_topics(settings, SITES, 1))
            outcome = await kafka_away(kafka, settings, Path(directory), HOW[how], seconds)
        finally:
            await asyncio.to_thread(kafka.stop, grace_s=0)
    say(f"{how}: {outcome}", *outcome.begun_meanwhile, *outcome.twice)
    return 0 if outcome.sound else 1


def main() -> int:
    """Take Kafka away once; exits 1 where anything is begun meanwhile, or twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--how", choices=sorted(HOW), default="kill")
    arguments = parser.parse_args()
    return asyncio.run(_long(arguments.how, arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
