"""The simulated hypervisor keeps the contract."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import ParamSpec

import pytest

from contract import HypervisorContract, Pair
from failover_orch.domain.replication_settings import AuthorizationEntry, ReplicationServer
from failover_orch.hypervisors.simulated import SimulatedHypervisor, SimulatedWorld
from worlds import Clock, make_world

SERVER = ReplicationServer(
    enabled=True, authorization=(AuthorizationEntry("primary-broker.primary.example", "/csv/d", "gold"),)
)
_Arguments = ParamSpec("_Arguments")


class TestSimulated(HypervisorContract):
    @pytest.fixture
    def pair(self, tmp_path: Path) -> Pair:
        clock = Clock()
        world = make_world(tmp_path / "world.db", clock=clock)
        return Pair(
            SimulatedHypervisor(tmp_path / "world.db", "primary", clock=clock, poll_s=0.01),
            SimulatedHypervisor(tmp_path / "world.db", "dr", clock=clock, poll_s=0.01),
            power_off_primary=_hand(lambda: world.power_off_site("primary")),
            power_on_primary=_hand(lambda: world.power_on_site("primary")),
            cut_link=_hand(world.cut_link),
            restore_link=_hand(world.restore_link),
            migrate=_hand(lambda node: world.migrate("vm-1", node)),
            replicate=_hand(lambda: _cycle(world, clock)),
            at_the_console=_hand(world.set_server),
            server=SERVER,
        )


def _hand(do: Callable[_Arguments, object]) -> Callable[_Arguments, Coroutine[None, None, None]]:
    async def done(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> None:
        do(*arguments, **named)

    return done


def _cycle(world: SimulatedWorld, clock: Clock) -> None:
    clock.advance(30)
    world.replicate()
