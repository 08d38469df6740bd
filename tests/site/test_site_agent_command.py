"""`failover-orch site-agent` as the process it is."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from test_site_agent import publish, results

from failover_orch.config import Settings
from failover_orch.domain.facts import StepOutcome
from failover_orch.domain.records import Action
from failover_orch.hypervisors.simulated import SimulatedWorld
from failover_orch.kafka import LocalKafka
from worlds import command

TOPOLOGY = Path(__file__).parents[2] / "topologies" / "two-sites.yaml"


@pytest.mark.parametrize("kafka_is_there", [True, False])
async def test_it_makes_its_world_works_and_ends_on_sigterm(
    kafka: LocalKafka, settings: Settings, tmp_path: Path, kafka_is_there: bool
) -> None:
    path = tmp_path / "world.db"
    arguments = ["--site=dr", f"--world={path}", f"--topology={TOPOLOGY}", f"--bootstrap={settings.bootstrap}"]
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
        # The VM is not known there: the answer shows that the agent works.
        deadline_ms = time.time_ns() // 1_000_000 + 60_000
        await publish(settings, command(Action.START, "dr", vm_id="vm-none", deadline_ms=deadline_ms))
        (answer,) = await results(settings, 1)
        if not kafka_is_there:
            await asyncio.to_thread(kafka.kill_broker, 1)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        if not kafka_is_there:
            await asyncio.to_thread(kafka.start_broker, 1)
    assert (answer.outcome, process.returncode) == (StepOutcome.REFUSED, 0)
    assert b"site agent ends" in said
    assert len(SimulatedWorld(path).ends(site="dr")) == 24
