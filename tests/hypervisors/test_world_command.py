"""`failover-orch world` on a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from failover_orch.cli.world import app
from failover_orch.hypervisors.simulated import SimulatedWorld
from worlds import make_vm, make_world

RUNNER = CliRunner()
TOPOLOGY = Path(__file__).parents[2] / "topologies" / "two-sites.yaml"


def run(world: Path, *arguments: str) -> str:
    """What a command printed; it has to end well."""
    result = RUNNER.invoke(app, [*arguments, "--world", str(world)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_world_is_played_with(tmp_path: Path) -> None:
    path = tmp_path / "world.db"
    world = make_world(path)
    run(path, "migrate", "name-of-vm-1", "p2", "--kind", "quick")
    run(path, "write", "vm-1", "4096")
    run(path, "cut-link")
    (primary,) = world.ends("vm-1", "primary")
    assert (primary.node, primary.pending_bytes, world.link_up) == ("p2", 4096, False)
    run(path, "restore-link")
    run(path, "power-off", "primary")
    assert world.link_up
    assert world.sites() == {"primary": False, "dr": True}
    assert "link up, no power at primary" in run(path, "show")
    run(path, "power-on", "primary")
    assert world.sites()["primary"]


def test_a_mistake_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "world.db"
    make_world(path, [make_vm("vm-1"), make_vm("vm-2")])
    result = RUNNER.invoke(app, ["migrate", "vm-1", "d9", "--world", str(path)])
    assert result.exit_code == 1
    assert result.output == "failover-orch: there is no node 'd9'; nodes are d1, d2, p1, p2\n"
    result = RUNNER.invoke(app, ["show", "--world", str(tmp_path / "none.db")])
    assert result.exit_code == 1
    assert "there is no such world file" in result.output


@pytest.mark.parametrize("again", [False, True])
def test_a_topology_makes_a_world_once(tmp_path: Path, again: bool) -> None:
    path = tmp_path / "world.db"
    run(path, "create", str(TOPOLOGY))
    ends = SimulatedWorld(path).ends()
    assert len({end.vm_id for end in ends}) == 24
    assert all(end.node for end in ends)
    if again:
        result = RUNNER.invoke(app, ["create", str(TOPOLOGY), "--world", str(path)])
        assert result.exit_code == 1
        assert "remove it first" in result.output
