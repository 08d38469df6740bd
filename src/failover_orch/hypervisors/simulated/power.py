"""Power in the simulated world: nodes that go down, and what ran on them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TypeVar

from failover_orch.domain.inventory import NodeState
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules.ends import End, IsolatedCopy
from failover_orch.hypervisors.simulated.store import Transaction

__all__ = ["set_node", "switch_off"]

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
