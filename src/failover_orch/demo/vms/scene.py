"""Where the story of the real VMs is told: the topics, the lab, and the questions that its acts ask of both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from failover_orch.demo.screen import Act
from failover_orch.demo.stage import Stage
from failover_orch.demo.vms.machines import Machine
from failover_orch.demo.vms.prober import Prober, Sighting
from failover_orch.demo.vms.sites import AWAY, HOME
from failover_orch.demo.vms.told import Told
from failover_orch.demo.vms.virsh import running
from failover_orch.domain import Location, ReplicationHealth, ReplicationState, Role
from failover_orch.lab import IpmiBmc, Lab, LabNode
from failover_orch.topology import Topology

__all__ = ["Scene"]

_AGAIN_S = 0.3


@dataclass(frozen=True, slots=True)
class Scene:
    """All that the acts look at and work with. `machines` by id, in the topology's order."""

    stage: Stage
    lab: Lab
    bmc: IpmiBmc
    topology: Topology
    machines: Mapping[str, Machine]
    prober: Prober
    told: Told

    def at(self, vm_id: str, site: str) -> Location:
        """Where a VM is at a site, as the routes say."""
        return next(here for here in self.stage.model.vm(vm_id).locations if here.site == site)

    def node(self, vm_id: str, site: str) -> LabNode:
        """The node where a VM is at a site, as the routes say."""
        return self.lab.node(self.at(vm_id, site).node)

    def known(self) -> bool:
        """Whether the broker knows every VM, and on which node it runs."""
        vms = self.stage.model.vms()
        known = {vm.vm_id for vm in vms if vm.inventory is not None and vm.active_site}
        return known == set(self.machines)

    def replicates(self, vm_id: str, *, since_ms: int = 0) -> bool:
        """Whether both ends say that they replicate, and the replica has received something (since a moment)."""
        ends = [self.told.report(vm_id, site) for site in (HOME, AWAY)]
        return all(
            end is not None and end.state is ReplicationState.REPLICATING and end.last_replication_at_ms > since_ms
            for end in ends
        )

    def normal(self, vm_id: str) -> bool:
        """Whether the broker says that a VM's replication goes well, and where its replica is."""
        vm = self.stage.model.vm(vm_id)
        healthy = vm.health is not None and vm.health.health is ReplicationHealth.NORMAL
        return healthy and any(here.role is Role.REPLICA and here.node for here in vm.locations)

    def speaks(self, vm_id: str, rule: str) -> bool:
        """Whether a rule is among the reasons of a VM's health."""
        health = self.stage.model.vm(vm_id).health
        return health is not None and any(reason.startswith(f"{rule}:") for reason in health.reasons)

    async def served(self, vm_id: str, site: str, since_ms: int, act: Act) -> Sighting:
        """Wait for a VM's page at a site's addresses, both of them, and return the first sighting since a moment."""
        await self.stage.until(
            f"{vm_id} answers at {site}", lambda: self.prober.first(vm_id, site, since_ms=since_ms) is not None, act
        )
        _, ipv6 = self.machines[vm_id].addresses[site]
        page = asyncio.create_task(self._page(ipv6))
        try:
            await self.stage.until(f"{vm_id} answers at {ipv6}", page.done, act)
        finally:
            page.cancel()
        found = self.prober.first(vm_id, site, since_ms=since_ms)
        assert found is not None  # noqa: S101 - it was there a moment ago, and none is ever removed
        return found

    async def _page(self, address: str) -> None:
        """Ask for the page at an address until it comes: the way to a new address may take a moment to be found."""
        while True:
            with suppress(OSError):
                await asyncio.to_thread(self.lab.page, address)
                return
            await asyncio.sleep(_AGAIN_S)

    async def running(self) -> Mapping[str, frozenset[str]]:
        """The domains that run, by node; none where a node has no power."""
        nodes = [node for name, node in self.lab.nodes.items() if await asyncio.to_thread(self.lab.powered, name)]
        return {node.name: await asyncio.to_thread(running, node) for node in nodes}
