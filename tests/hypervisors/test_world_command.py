"""`failover-orch world` on a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from failover_orch.cli.world import app
from failover_orch.domain.inventory import NodeState
from failover_orch.domain.records import Action
from failover_orch.hypervisors.simulated import SimulatedHypervisor, SimulatedWorld
from worlds import DR_ADDRESSES, NOW, Clock, command, make_vm, make_world

RUNNER = CliRunner()
TOPOLOGY = Path(__file__).parents[2] / "topologies" / "two-sites.yaml"


def run(world: Path, *arguments: str) -> str:
    """What a command printed; it has to end well."""
    result = RUNNER.invoke(app, [*arguments, "--world", str(world)])
    assert result.exit_code == 0, result.output
    return result.output


def row(table: str, first: str) -> list[str]:
    """The further cells of a row, without the spaces and breaks that the table's width put in."""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    begin = next(index for index, cells in enumerate(lines) if cells[0] == first)
    end = next((index for index, cells in enumerate(lines) if index > begin and cells[0]), len(lines))
    return ["".join(cells).replace(" ", "") for cells in zip(*lines[begin:end], strict=True)][1:]


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


def test_replication_settings_go_wrong_on_purpose(tmp_path: Path) -> None:
    path = tmp_path / "world.db"
    world = make_world(path)
    run(path, "set-server", "d1", "http_port=8080", "monitoring_interval_s=7d")
    assert (world.server("d1").http_port, world.server("d1").monitoring_interval_s) == (8080, 7 * 86_400)
    assert world.server("d2").http_port == 80
    run(path, "add-node", "dr-cluster", "d3", "--storage", "/csv/d")
    (cluster,) = [one for one in world.clusters() if one.site == "dr"]
    assert [storage.path for storage in cluster.nodes[-1].storages] == ["/csv/d"]
    run(path, "fail-settings", "d3", "--kind", "fail", "--times", "2")
    for arguments, what in (
        (("set-server", "d1", "on_drift=CORRECT"), "a node does not have it"),
        (("set-server", "d1", "http_prot=1"), "http_port"),
        (("add-node", "dr-cluster", "d4", "--storage", "/no"), "it has /csv/p, /csv/d, /csv/e"),
    ):
        result = RUNNER.invoke(app, [*arguments, "--world", str(path)])
        assert result.exit_code == 1
        assert what in " ".join(result.output.split())


def test_what_is_out_of_order_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "world.db"
    world = make_world(path)
    run(path, "set-node", "d1", "down")
    assert [node.state for node in world.clusters()[0].nodes] == [NodeState.DOWN, NodeState.UP]
    run(path, "set-node", "d1", "up", "--site", "dr")
    run(path, "silence-replication", "name-of-vm-1")
    run(path, "close-port", "name-of-vm-1", "443")
    shown = " ".join(run(path, "show").split())
    assert "link up, no replication of name-of-vm-1, nothing listens at name-of-vm-1:443" in shown
    run(path, "restore-replication", "vm-1")
    run(path, "open-port", "vm-1", "443")
    assert not world.silenced() | world.closed_ports()


async def test_test_copies_and_recovery_points_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "world.db"
    clock = Clock()
    world = make_world(path, clock=clock)
    for _ in range(3):
        clock.advance(30)
        world.replicate()
    printed = run(path, "recovery-points", "name-of-vm-1").splitlines()
    assert printed[0] == f"2027-01-15T08:00:00.000Z  rp-1 of {NOW}"
    assert printed[-1] == f"2027-01-15T08:01:30.000Z  rp-4 of {clock.now}, application-consistent"
    assert run(path, "recovery-points", "vm-1", "--site", "primary") == ""
    dr = SimulatedHypervisor(path, "dr", clock=clock)
    asked = command(Action.CREATE_TEST, addresses=DR_ADDRESSES)
    await dr.perform(replace(asked, test_network="isolated"))
    await dr.perform(command(Action.START_TEST))
    assert row(run(path, "show"), "name-of-vm-1 - Test") == [
        "dr",
        "d1",
        "RUNNING",
        "TestReplica",
        "fromrp-4",
        "",
        "",
        "10.50.0.21/24,fd50::21/64onisolated",
    ]


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
