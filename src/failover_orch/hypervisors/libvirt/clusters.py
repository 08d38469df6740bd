"""The site's nodes as one cluster: which of them answer, and what they have left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import libvirt

from failover_orch import telemetry
from failover_orch.domain.inventory import ClusterInventory, NodeState, Storage
from failover_orch.domain.inventory import Node as ClusterNode
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt.nodes import Node
from failover_orch.hypervisors.libvirt.replication_server import Servers
from failover_orch.hypervisors.libvirt.site import Site

__all__ = ["Clusters", "worth_telling"]

_log = telemetry.logger(__name__)

_FRESH_S = 10.0
"""So long what a node has left is not asked for again: whether it answers is known without asking."""
_ASKING_S = 5.0
_SHARE = 20
"""What is left has changed if it is by more than this part of all there is."""
_GIB = 1 << 30
_KIB_A_MIB = 1024


@dataclass(frozen=True, slots=True)
class _Figures:
    """What a node has. `at` is the loop's time at which it was asked."""

    at: float
    memory_mib: int = 0
    memory_free_mib: int = 0
    cpus: int = 0
    storages: tuple[Storage, ...] = ()
    accepts: bool = False
    """It takes replicas."""


class Clusters:
    """Describes the cluster. `fences`: the nodes, as `site/node`, whose power this site can cut."""

    def __init__(self, site: Site, servers: Servers, fences: tuple[str, ...] = ()) -> None:
        self._site = site
        self._servers = servers
        self._fences = fences
        self._figures: dict[str, _Figures] = {}
        self._asking = asyncio.Lock()

    async def now(self) -> tuple[ClusterInventory, ...]:
        """The cluster, its figures up to ten seconds old. Nothing where no node answers: then nobody can say."""
        nodes = list(self._site.nodes)
        if not any(node.up for node in nodes):
            return ()
        async with self._asking:
            await asyncio.gather(*(self._ask(node) for node in nodes if node.up))
        settings = self._site.settings
        inventory = ClusterInventory(
            cluster=settings.cluster,
            site=settings.site,
            broker=settings.broker,
            nodes=tuple(self._described(node) for node in nodes),
            networks=tuple(settings.networks),
            accepts_replicas=any(figures.accepts for figures in self._figures.values()),
            supported_guests=settings.supported_guests,
            fences=self._fences,
            reported_at_ms=self._site.clock(),
        )
        return (inventory,)

    def forget(self, node: str) -> None:
        """Have the node asked at the next look: it was told something."""
        self._figures.pop(node, None)

    def _described(self, node: Node) -> ClusterNode:
        """The node with what is known of it: of one that is down, what it had when it was up."""
        figures = self._figures.get(node.name, _Figures(0))
        return ClusterNode(
            name=node.name,
            state=NodeState.UP if node.up else NodeState.DOWN,
            memory_mib=figures.memory_mib,
            memory_free_mib=figures.memory_free_mib,
            cpus=figures.cpus,
            storages=figures.storages,
        )

    async def _ask(self, node: Node) -> None:
        now = asyncio.get_running_loop().time()
        known = self._figures.get(node.name)
        if known is not None and now - known.at < _FRESH_S:
            return
        try:
            memory, free, cpus = await node.call(_machine, within_s=_ASKING_S)
            storage = await _storage(node)
            accepts = await self._servers.accepts(node)
        except (StepFailed, libvirt.libvirtError) as error:
            _log.warning("what a node has left is not known", node=node.name, why=str(error))
            self._figures[node.name] = replace(known or _Figures(0), at=now)
        else:
            self._figures[node.name] = _Figures(now, memory, free, cpus, (storage,), accepts)


def worth_telling(told: ClusterInventory | None, now: ClusterInventory) -> bool:
    """Whether the cluster is another than was told, or what is left in it is so by more than a little."""
    if told is None or _without_figures(told) != _without_figures(now):
        return True
    for before, after in zip(told.nodes, now.nodes, strict=True):
        if abs(before.memory_free_mib - after.memory_free_mib) * _SHARE > after.memory_mib:
            return True
        if any(
            abs(was.free_gib - is_now.free_gib) * _SHARE > is_now.capacity_gib
            for was, is_now in zip(before.storages, after.storages, strict=True)
        ):
            return True
    return False


def _without_figures(cluster: ClusterInventory) -> ClusterInventory:
    return replace(
        cluster,
        reported_at_ms=0,
        nodes=tuple(
            replace(node, memory_free_mib=0, storages=tuple(replace(storage, free_gib=0) for storage in node.storages))
            for node in cluster.nodes
        ),
    )


def _machine(connection: libvirt.virConnect) -> tuple[int, int, int]:
    """A node's memory and what is left of it, in MiB, and its processors."""
    memory = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    # Pages that hold files are given up for a guest.
    free_kib = sum(memory.get(kind, 0) for kind in ("free", "buffers", "cached"))
    return memory["total"] // _KIB_A_MIB, free_kib // _KIB_A_MIB, int(connection.getInfo()[2])


async def _storage(node: Node) -> Storage:
    path = str(node.settings.storage)
    said = await node.run("stat", "--file-system", "--format=%S %b %a", "--", path, within_s=_ASKING_S)
    block, blocks, available = map(int, said.split())
    return Storage(path, block * blocks // _GIB, block * available // _GIB)
