"""`failover-orch site-agent --config`: an agent that is told all it needs by its site file."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from test_site_agent import PATIENCE_S, in_time, publish, results
from typer.testing import CliRunner

from failover_orch.cli import app
from failover_orch.config import Settings
from failover_orch.domain.facts import StepOutcome
from failover_orch.domain.records import Action
from failover_orch.hypervisors.simulated import SimulatedWorld
from worlds import command

TOPOLOGY = Path(__file__).parents[2] / "topologies" / "two-sites.yaml"
SITE = f"""
site: dr
agent: {{report_every: 0.5, evidence_every: 0.5}}
hypervisor:
  kind: simulated
  world: worlds/world.db
  topology: {TOPOLOGY}
fences:
  - {{site: primary, node: p1, agent: person}}
"""


def site_file(directory: Path, text: str = SITE) -> Path:
    file = directory / "dr.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "FAILOVER_ORCH_BOOTSTRAP": settings.bootstrap,
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
        "FAILOVER_ORCH_PARTITIONS": str(settings.partitions),
    }


async def test_an_agent_works_as_its_file_says_and_ends_on_sigterm(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "worlds").mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "failover_orch",
        "site-agent",
        f"--config={site_file(tmp_path)}",
        cwd="/",
        env=environment(settings),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        # The VM is not known there: the answer shows that the agent works.
        await publish(settings, command(Action.START, "dr", vm_id="vm-none", deadline_ms=in_time()))
        (answer,) = await results(settings, 1)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert (answer.outcome, process.returncode) == (StepOutcome.REFUSED, 0), said
    assert b"site agent ends" in said
    assert len(SimulatedWorld(tmp_path / "worlds" / "world.db").ends(site="dr")) == 24


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("site: dr\n", "sight: dr\n", "dr.yaml:line 2: sight: is not a key of this format; did you mean 'site'?"),
        ("kind: simulated", "kind: vmware", "dr.yaml:line 5: hypervisor.kind: is 'vmware'; expected one of libvirt,"),
        ("  world: worlds/world.db\n", "", "dr.yaml:line 4: hypervisor.world: is missing; expected a path"),
        ("two-sites.yaml", "nowhere.yaml", "nowhere.yaml' is not there, or is no file; expected the path of a file"),
        ("site: primary", "site: dr", "dr.yaml:line 9: fences[p1].site: 'dr' is this agent's own site"),
        ("site: dr\n", "site: moon\n", "there is no site 'moon' in this world; sites are primary, dr"),
    ],
)
def test_a_bad_file_ends_it_with_a_sentence(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "worlds").mkdir()
    file = site_file(tmp_path, SITE.replace(old, new, 1))
    ran = CliRunner().invoke(app, ["site-agent", "--config", str(file), "--bootstrap", "127.0.0.1:1"])
    assert ran.exit_code == 1
    assert sentence in ran.output


def test_what_stands_in_the_file_is_not_said_beside_it(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["site-agent", "--config", str(site_file(tmp_path)), "--site=dr", "--per-node=2"])
    assert (ran.exit_code, ran.output) == (
        1,
        "failover-orch: --site, --per-node beside --config: say it in the site file, or leave --config out\n",
    )


def test_a_site_is_needed() -> None:
    ran = CliRunner().invoke(app, ["site-agent"])
    assert (ran.exit_code, "Give --config FILE, or --site of a simulated world" in ran.output) == (1, True)


@pytest.mark.parametrize(
    ("module", "kind", "sentence"),
    [
        (
            "libvirt",
            "libvirt, cluster: c, nodes: [{name: d1, uri: 'qemu:///system', storage: /d}]",
            "needs libvirt, which is not installed here: pip install libvirt-python",
        ),
    ],
)
def test_a_driver_that_is_not_installed(
    module: str, kind: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None makes Python say that there is no such module.
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("failover_orch.hypervisors.libvirt.hypervisor",):
        monkeypatch.delitem(sys.modules, name, raising=False)
    file = site_file(tmp_path, f"site: dr\nhypervisor: {{kind: {kind}}}\n")
    ran = CliRunner().invoke(app, ["site-agent", "--config", str(file), "--bootstrap", "127.0.0.1:1"])
    assert ran.exit_code == 1
    assert sentence in " ".join(ran.output.split())
