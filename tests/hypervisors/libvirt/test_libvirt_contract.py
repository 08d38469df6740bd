"""libvirt nodes keep the contract: real daemons, real guests, real disks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from libvirt_pair import Saved, libvirt_pair

from contract import HypervisorContract, Pair
from failover_orch.lab import Lab


@pytest.fixture(scope="module")
def saved(four_nodes: Lab, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(four_nodes, tmp_path_factory.mktemp("saved"))


class TestLibvirt(HypervisorContract):
    @pytest.fixture
    async def pair(self, four_nodes: Lab, saved: Saved) -> AsyncIterator[Pair]:
        async with libvirt_pair(four_nodes, saved) as pair:
            yield pair
