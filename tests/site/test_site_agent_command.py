"""`failover-orch site-agent` as the process it is, and agents whose Kafka goes away."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from test_site_agent import PATIENCE_S, make_agent, publish, results, running, until

from failover_orch.config import Settings
from failover_orch.domain.facts import MoveKind, StepOutcome
from failover_orch.domain.records import Action
from failover_orch.hypervisors.simulated import SimulatedWorld
from failover_orch.kafka import LocalKafka
from worlds import command, make_world

TOPOLOGY = Path(__file__).parents[2] / "topologies" / "two-sites.yaml"


def in_time() -> int:
    return time.time_ns() // 1_000_000 + PATIENCE_S * 1000


@asynccontextmanager
async def agent_process(settings: Settings, world: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command, running for the site dr."""
    arguments = ("--site=dr", f"--world={world}", f"--topology={TOPOLOGY}", f"--bootstrap={settings.bootstrap}")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from failover_orch.cli import main; main()",
        "site-agent",
        *arguments,
        "--report-every=0.1",
        env={
            **os.environ,
            "FAILOVER_ORCH_APP_ID": settings.app_id,
            "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
            "FAILOVER_ORCH_PARTITIONS": str(settings.partitions),
        },
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> bytes:
    """What a process that is asked to end says until it has."""
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE_S):
        _, said = await process.communicate()
    return said


async def test_it_makes_its_world_works_and_ends_on_sigterm(settings: Settings, tmp_path: Path) -> None:
    async with agent_process(settings, tmp_path / "world.db") as process:
        # The VM is not known there: the answer shows that the agent works.
        await publish(settings, command(Action.START, "dr", vm_id="vm-none", deadline_ms=in_time()))
        (answer,) = await results(settings, 1)
        said = await ended(process)
    assert (answer.outcome, process.returncode) == (StepOutcome.REFUSED, 0)
    assert b"site agent ends" in said
    assert len(SimulatedWorld(tmp_path / "world.db").ends(site="dr")) == 24


async def test_kafka_goes_away_and_comes_back(kafka: LocalKafka, settings: Settings, tmp_path: Path) -> None:
    """Agents go on where they stood, and one that is asked to end meanwhile does not wait for Kafka."""
    path = tmp_path / "world.db"
    world = make_world(path)
    async with running(make_agent(settings, path)) as task, agent_process(settings, path) as process:
        asked = [command(Action.SHUT_DOWN, "primary", deadline_ms=in_time())]
        asked.append(command(Action.STAGE_ADDRESSES, "dr", deadline_ms=in_time()))
        await publish(settings, *asked)
        await results(settings, 2)
        await asyncio.to_thread(kafka.kill_broker, 1)
        try:
            # Told while nobody can hear it.
            world.migrate("vm-1", "p2", MoveKind.QUICK)
            assert b"site agent ends" in await ended(process)
            assert (process.returncode, task.done()) == (0, False)
        finally:
            await asyncio.to_thread(kafka.start_broker, 1)
        await publish(settings, command(Action.START, "primary", deadline_ms=in_time()))
        # An answer whose record's offset could not be committed any more may be there twice.
        await until(settings, "step-results", lambda seen: any(s.value.step == "START" for s in seen))
        await until(settings, "vm-moved", lambda seen: any(s.value.kind is MoveKind.QUICK for s in seen))
