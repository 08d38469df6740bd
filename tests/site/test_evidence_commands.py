"""`failover-orch witness` and `failover-orch evidence`, and an agent's own evidence, on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from socket import create_server

import pytest
import typer
from scripts_for_tests import now
from test_site_agent import OPTIONS, PATIENCE_S, Seen, make_agent, running, until
from typer.testing import CliRunner

from failover_orch.cli import evidence
from failover_orch.config import Settings
from failover_orch.domain.inventory import NodeState
from failover_orch.domain.policies import Evidence, Verdict
from worlds import make_world

UP, DOWN = Verdict.UP, Verdict.DOWN


def environment(settings: Settings) -> dict[str, str]:
    return {
        "FAILOVER_ORCH_BOOTSTRAP": settings.bootstrap,
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
        "FAILOVER_ORCH_PARTITIONS": str(settings.partitions),
    }


async def command(settings: Settings, *words: str) -> tuple[int, str]:
    """Run one of the commands; exit code and output."""
    ran = await asyncio.to_thread(CliRunner().invoke, evidence.app, words, env=environment(settings))
    return ran.exit_code, ran.output


async def test_what_people_and_fences_tell_is_listed(settings: Settings) -> None:
    told = ("tell", "--observer", "pdu-7", "--place", "third", "--site", "primary", "--verdict")
    assert (await command(settings, *told, "UP"))[0] == 0
    assert await command(settings, *told, "off", "--detail", "outlet [4] is off") == (
        0,
        "told: pdu-7 has primary OFF\n",
    )
    assert await command(settings, *told, "DOWN", "--node", "p1") == (0, "told: pdu-7 has primary/p1 DOWN\n")
    code, output = await command(settings, "list", "--json")
    site, node = json.loads(output)
    assert code == 0
    assert (site["observer"], site["place"], site["site"], site["node"], site["verdict"], site["detail"]) == (
        "pdu-7",
        "third",
        "primary",
        "",
        "OFF",
        "outlet [4] is off",
    )
    assert (node["node"], node["verdict"]) == ("p1", "DOWN")
    code, output = await command(settings, "list")
    assert code == 0
    assert "outlet [4] is off" in output
    seen = await until(settings, "evidence", lambda seen: len(seen) >= 3 * settings.partitions)
    assert {one.record.partition for one in seen} == set(range(settings.partitions))


async def test_a_verdict_that_is_none_is_refused(settings: Settings) -> None:
    told = ("tell", "--observer", "pdu-7", "--place", "third", "--site", "primary", "--verdict", "GONE")
    assert (await command(settings, *told))[0] == 2


async def test_the_witness_works_and_ends_on_sigterm(settings: Settings) -> None:
    with closing(create_server(("127.0.0.1", 0))) as listening:
        endpoint = f"127.0.0.1:{listening.getsockname()[1]}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import typer; from failover_orch.cli.evidence import witness; typer.run(witness)",
            "--place=third",
            f"--watch=primary={endpoint}",
            f"--watch=primary/p1={endpoint}",
            "--every=0.1",
            env={**os.environ, **environment(settings)},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            seen = await until(settings, "evidence", lambda seen: {one.value.node for one in seen} == {"", "p1"})
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE_S):
                _, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert {(one.value.observer, one.value.verdict) for one in seen} == {("witness/third", UP)}
    assert process.returncode == 0, said
    assert b"witness ends" in said


def test_a_witness_is_told_what_to_watch(settings: Settings) -> None:
    app = typer.Typer()
    app.command()(evidence.witness)
    ran = CliRunner().invoke(app, ["--place", "third", "--watch", "primary"], env=environment(settings))
    assert ran.exit_code == 1
    assert "--watch 'primary': expected SITE=HOST:PORT" in ran.output


@pytest.mark.parametrize("site", ["primary", "dr"])
async def test_an_agent_speaks_for_its_own_site(site: str, settings: Settings, tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db")
    node = {"primary": "p2", "dr": "d2"}[site]
    options = replace(OPTIONS, evidence_every=0.1)

    def of(seen: list[Seen], name: str) -> list[Evidence]:
        return [one.value for one in seen if one.value.node == name and one.record.partition == 0]

    async with running(make_agent(settings, tmp_path / "world.db", site, options)):
        seen = await until(settings, "evidence", lambda seen: len(of(seen, "")) >= 3 and bool(of(seen, node)))
        assert {(one.value.observer, one.value.place, one.value.site) for one in seen} == {
            (f"site-agent/{site}", site, site)
        }
        assert {one.record.partition for one in seen} == set(range(settings.partitions))
        assert {one.verdict for one in of(seen, "")} == {UP}
        world.set_node(node, NodeState.DOWN)
        seen = await until(settings, "evidence", lambda seen: of(seen, node)[-1].verdict is DOWN)
        # A site without power does not vouch for itself, though its agent may run on.
        world.power_off_site(site)
        off_at_ms = now()
        other = {"primary": "dr", "dr": "primary"}[site]

        def later(seen: list[Seen]) -> bool:
            return any(one.value.site == other and one.value.observed_at_ms > off_at_ms + 1000 for one in seen)

        async with running(make_agent(settings, tmp_path / "world.db", other, options)):
            seen = await until(settings, "evidence", later)
    assert max(one.value.observed_at_ms for one in seen if one.value.site == site) < off_at_ms + 500
