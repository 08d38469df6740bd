"""`failover-orch settings`, with a real worker and site agents on a real Kafka: set once, kept true on every node."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from playing import Invoke, environment, invoking

from failover_orch.cli import settings as commands
from failover_orch.cli import topology, vm, world
from failover_orch.cli.settings_changes import EXIT_NOT_EVERYWHERE
from failover_orch.config import Settings
from failover_orch.demo.processes import Processes

WITHIN_S = 60.0
TOPOLOGY = Path(__file__).parents[2] / "topologies" / "two-sites.yaml"
DR = "dr-cluster"
BY = ("--actor", "alice", "--reason", "the DR site opens")

cli = typer.Typer()
cli.add_typer(commands.app, name="settings")
cli.add_typer(topology.app, name="topology")
cli.add_typer(world.app, name="world")
cli.add_typer(vm.app, name="vm")


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    with invoking(cli) as invoke:
        yield invoke


@pytest.fixture
def sites(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, invoke: Invoke) -> Iterator[Path]:
    """The simulated world of two sites, with their agents and a worker at work."""
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "world.db"
    processes = Processes(tmp_path, dict(environment(settings)))
    try:
        processes.start("worker", "worker")
        assert invoke("topology", "apply", TOPOLOGY).exit_code == 0
        for site in ("primary", "dr"):
            arguments = ("--site", site, "--topology", str(TOPOLOGY), "--world", str(path))
            processes.start(f"agent-{site}", "site-agent", *arguments)
        yield path
        processes.require_alive()
    finally:
        processes.stop()


def once(ask: Callable[[], Any], holds: Callable[[Any], object]) -> Any:
    """The answer, as soon as it holds."""
    deadline = time.monotonic() + WITHIN_S
    while not holds(answer := ask()):
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
    return answer


def vms(invoke: Invoke) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(invoke("vm", "list", "--application", "erp", "--json").stdout)["vms"]
    return listed


def replicates(listed: list[dict[str, Any]]) -> bool:
    """Whether the VM is known to: its health is known as soon as it reports, at which nodes it is only by and by."""
    return any(
        one["vm_id"] == "erp-db-1" and one["node"] and one["replica_node"] and one["health"] == "Normal"
        for one in listed
    )


def test_settings_reach_every_node_and_are_kept_and_a_node_that_refuses_is_named(sites: Path, invoke: Invoke) -> None:
    def shown() -> dict[str, str]:
        view = json.loads(invoke("settings", "show", DR, "--json").stdout)
        return {node["node"]: node["standing"] for node in view["nodes"]}

    everywhere = {"d1": "IN_SYNC", "d2": "IN_SYNC", "d3": "IN_SYNC"}
    opened = invoke(
        *("settings", "set", DR, "enabled=true", "authentication=Kerberos", "on_drift=ALERT", "from_any_server=true"),
        *(r"default_storage_location=C:\ClusterStorage\Volume1", *BY, "--wait", "--timeout", WITHIN_S),
    )
    assert opened.exit_code == 0, opened.output
    assert "dr-cluster is at version " in opened.stdout
    assert "3 of 3 have it" in opened.stdout
    assert shown() == everywhere

    # Somebody changes a node at its console: that is seen, and only told of.
    assert invoke("world", "set-server", "d2", "http_port=8088", "--world", sites).exit_code == 0
    once(shown, lambda stand: stand["d2"] == "DRIFTED")
    (drift,) = json.loads(invoke("settings", "diff", DR, "--json").stdout)
    assert (drift["node"], drift["name"], drift["wanted"], drift["found"]) == ("d2", "http_port", "80", "8088")
    corrected = invoke("settings", "set", DR, "on_drift=CORRECT", *BY, "--timeout", WITHIN_S)
    assert corrected.exit_code == 0, corrected.output
    once(shown, lambda stand: stand == everywhere)

    # A node that cannot take a change keeps what it has, and is named with what it says.
    assert invoke("world", "fail-settings", "d3", "--world", sites).exit_code == 0
    refused = invoke("settings", "set", DR, "monitoring_interval_s=1h", *BY, "--wait", "--timeout", WITHIN_S)
    assert refused.exit_code == EXIT_NOT_EVERYWHERE, refused.output
    assert "2 of 3 have it; d3 is FAILED (" in refused.stderr
    # To ask for what is set already has it told again.
    again = invoke("settings", "set", DR, "monitoring_interval_s=1h", *BY, "--timeout", WITHIN_S)
    assert again.exit_code == 0, again.output
    assert "nothing was to be changed" in again.stdout
    once(shown, lambda stand: stand == everywhere)

    late = invoke("settings", "set", DR, "http_port=8080", *BY, "--based-on", "0")
    assert late.exit_code == 1
    assert "C3: the change is based on version 0" in late.stderr
    history = json.loads(invoke("settings", "history", DR, "--json").stdout)["revisions"]
    assert {one["actor"] for one in history if one["reason"] == "the DR site opens"} == {"alice"}
    versions = [one["version"] for one in history]
    assert versions == sorted(versions)


def test_a_vm_replicates_as_it_is_told(sites: Path, invoke: Invoke) -> None:
    once(lambda: vms(invoke), replicates)
    told = invoke(
        *("settings", "set", "--vm", "erp-db-1", "frequency_s=15m", "recovery_points=4", *BY),
        *("--wait", "--timeout", WITHIN_S),
    )
    assert told.exit_code == 0, told.output
    assert "erp-db-1 is at version 1: frequency_s, recovery_points; 1 of 1 have it" in told.stdout
    text = invoke("settings", "show", "--vm", "erp-db-1").stdout
    assert "IN_SYNC" in text
