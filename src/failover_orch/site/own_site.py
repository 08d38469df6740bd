"""What a site agent has to say as an observer of its own site, and when: pure."""

from __future__ import annotations

from collections.abc import Iterable

from failover_orch.domain.inventory import ClusterInventory, NodeState
from failover_orch.domain.policies import Evidence, Verdict

__all__ = ["OwnSite"]

_NODES_EVERY = 12
"""So many times the site's record is told before all nodes' are told again."""


class OwnSite:
    """The site's record is due at each interval, a node's when it has changed and now and then besides."""

    def __init__(self, site: str, *, every_s: float) -> None:
        self._site = site
        self._observer = f"site-agent/{site}"
        self._every_s = every_s
        self._next_s = float("-inf")
        self._times = 0
        self._nodes: dict[str, Verdict] = {}

    def due(self, clusters: Iterable[ClusterInventory], now_s: float, at_ms: int) -> list[Evidence]:
        """What is to be told of the site and its nodes as they are now; `now_s` is a monotonic clock's.

        Nothing where there are no clusters: an agent whose hypervisors do not answer has seen nothing at work.
        """
        nodes = [node for cluster in clusters for node in cluster.nodes]
        if not nodes:
            return []
        on_time = now_s >= self._next_s
        everything = on_time and self._times % _NODES_EVERY == 0
        said = [self._said("", Verdict.UP, at_ms, "its site agent is at work")] if on_time else []
        for node in nodes:
            verdict = Verdict.DOWN if node.state is NodeState.DOWN else Verdict.UP
            if everything or self._nodes.get(node.name) is not verdict:
                said.append(self._said(node.name, verdict, at_ms, f"its cluster has it {node.state}"))
        return said

    def told(self, said: Iterable[Evidence], now_s: float) -> None:
        """Take this for told: Kafka has acknowledged it."""
        for evidence in said:
            if evidence.node:
                self._nodes[evidence.node] = evidence.verdict
            else:
                self._next_s = now_s + self._every_s
                self._times += 1

    def _said(self, node: str, verdict: Verdict, at_ms: int, detail: str) -> Evidence:
        return Evidence(self._observer, self._site, self._site, verdict, at_ms, node=node, detail=detail)
