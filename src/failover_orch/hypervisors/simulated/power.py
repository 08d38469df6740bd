"""Nodes of the simulated world that join, come up and go down, and what ran on them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TypeVar

from failover_orch.domain.inventory import Node, NodeState
from failover_orch.domain.replication_settings import ReplicationServer
from failover_orch.errors import ConfigError, LookupFailed
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules.ends import End, IsolatedCopy
from failover_orch.hypervisors.simulated.store import Transaction

__all__ = ["add_node", "set_node", "switch_off"]

_Machine = TypeVar("_Machine", End, IsolatedCopy)


def set_node(world: Transaction, site: str, node: str, state: NodeState, now_ms: int) -> None:
    """Set a node UP, PAUSED or DOWN; an empty `site` looks everywhere. What runs on a node that goes DOWN is off.

    Raises:
        LookupFailed: no such node.

    """
    cluster, present = world.node(site, node)
    nodes = tuple(replace(present, state=state) if other.name == node else other for other in cluster.nodes)
    # Never twice the same: of two reports of one time, the second would be taken for a repetition.
    changed = replace(cluster, nodes=nodes, reported_at_ms=max(now_ms, cluster.reported_at_ms + 1))
    world.put_cluster(changed)
    world.tell(cluster.site, changed)
    if state is NodeState.DOWN:
        switch_off(world, [end for end in world.ends(cluster.site) if end.node == node], now_ms)


def add_node(world: Transaction, cluster: str, node: Node, now_ms: int) -> None:
    """Have a node join a cluster, as it comes: it has not been enabled as a replication server.

    Raises:
        LookupFailed: there is no such cluster.
        ConfigError: its site has a node of that name.

    """
    clusters = {known.cluster: known for known in world.clusters()}
    if cluster not in clusters:
        raise LookupFailed(f"there is no cluster {cluster!r}; clusters are {', '.join(clusters)}")
    present = clusters[cluster]
    if any(other.name == node.name for known in world.clusters(present.site) for other in known.nodes):
        raise ConfigError(f"{present.site} has a node {node.name!r} already; give the new one another name")
    world.put_server(present.site, node.name, ReplicationServer())
    changed = replace(present, nodes=(*present.nodes, node), reported_at_ms=max(now_ms, present.reported_at_ms + 1))
    world.put_cluster(changed)
    world.tell(present.site, changed)


def switch_off(world: Transaction, ends: Collection[End], now_ms: int) -> None:
    """Take the power from what runs at these ends, test copies with it."""
    for end in ends:
        off = _off(end, now_ms)
        if off.copy is not None:
            off = replace(off, copy=_off(off.copy, now_ms))
        if off != end:
            world.put_end(off)


def _off(machine: _Machine, now_ms: int) -> _Machine:
    return replace(machine, power=Power.OFF, settled_at_ms=now_ms) if machine.power is Power.RUNNING else machine
