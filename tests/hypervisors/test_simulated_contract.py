"""The simulated hypervisor keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract import HypervisorContract, Pair
from failover_orch.hypervisors.simulated import SimulatedHypervisor, SimulatedWorld
from worlds import Clock, make_world


class TestSimulated(HypervisorContract):
    @pytest.fixture
    def pair(self, tmp_path: Path) -> Pair:
        clock = Clock()
        world = make_world(tmp_path / "world.db", clock=clock)
        return Pair(
            SimulatedHypervisor(tmp_path / "world.db", "primary", clock=clock, poll_s=0.01),
            SimulatedHypervisor(tmp_path / "world.db", "dr", clock=clock, poll_s=0.01),
            power_off_primary=lambda: world.power_off_site("primary"),
            power_on_primary=lambda: world.power_on_site("primary"),
            cut_link=world.cut_link,
            restore_link=world.restore_link,
            migrate=lambda node: world.migrate("vm-1", node),
            replicate=lambda: _cycle(world, clock),
        )


def _cycle(world: SimulatedWorld, clock: Clock) -> None:
    clock.advance(30)
    world.replicate()
