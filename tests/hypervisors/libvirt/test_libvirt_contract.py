"""libvirt nodes keep the contract: real daemons, real guests, real disks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from contract import HypervisorContract, Pair
from failover_orch.lab import Lab
from libvirt_pair import libvirt_pair


class TestLibvirt(HypervisorContract):
    @pytest.fixture
    async def pair(self, four_nodes: Lab) -> AsyncIterator[Pair]:
        async with libvirt_pair(four_nodes) as pair:
            yield pair
