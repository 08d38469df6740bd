"""What an agent tells as an observer of its own site, and when."""

from __future__ import annotations

from dataclasses import replace

from failover_orch.domain.inventory import ClusterInventory, Node, NodeState
from failover_orch.domain.policies import Evidence, Verdict
from failover_orch.site.own_site import OwnSite
from worlds import NOW

CLUSTER = ClusterInventory(
    "dr-cluster", "dr", "broker", tuple(Node(name, NodeState.UP, 1, 1) for name in ("d1", "d2", "d3"))
)


def with_states(*states: NodeState) -> ClusterInventory:
    nodes = tuple(replace(node, state=state) for node, state in zip(CLUSTER.nodes, states, strict=True))
    return replace(CLUSTER, nodes=nodes)


def subjects(said: list[Evidence]) -> dict[str, Verdict]:
    return {evidence.node: evidence.verdict for evidence in said}


def tell(own: OwnSite, cluster: ClusterInventory, now_s: float) -> dict[str, Verdict]:
    said = own.due([cluster], now_s, NOW)
    own.told(said, now_s)
    return subjects(said)


def test_it_speaks_for_its_own_site() -> None:
    states = with_states(NodeState.UP, NodeState.PAUSED, NodeState.DOWN)
    site, *nodes = OwnSite("dr", every_s=5).due([states], 100, NOW)
    assert site == Evidence("site-agent/dr", "dr", "dr", Verdict.UP, NOW, detail="its site agent is at work")
    assert subjects(nodes) == {"d1": Verdict.UP, "d2": Verdict.UP, "d3": Verdict.DOWN}
    assert nodes[2].detail == "its cluster has it DOWN"


def test_nodes_are_told_on_change_and_every_twelfth_time() -> None:
    own = OwnSite("dr", every_s=5)
    everything = {"": Verdict.UP, "d1": Verdict.UP, "d2": Verdict.UP, "d3": Verdict.UP}
    told = [tell(own, CLUSTER, 5.0 * number) for number in range(25)]
    assert [len(one) for one in told] == [4, *[1] * 11, 4, *[1] * 11, 4]
    assert told[12] == everything
    assert tell(own, CLUSTER, 121) == {}
    changed = with_states(NodeState.UP, NodeState.UP, NodeState.DOWN)
    assert tell(own, changed, 122) == {"d3": Verdict.DOWN}
    assert tell(own, changed, 123) == {}
    assert tell(own, CLUSTER, 124) == {"d3": Verdict.UP}


def test_what_was_not_acknowledged_is_due_again() -> None:
    own = OwnSite("dr", every_s=5)
    first = own.due([CLUSTER], 0, NOW)
    assert subjects(own.due([CLUSTER], 1, NOW + 1000)) == subjects(first)
    assert {evidence.observed_at_ms for evidence in own.due([CLUSTER], 1, NOW + 1000)} == {NOW + 1000}


def test_a_site_whose_hypervisors_do_not_answer_is_not_vouched_for() -> None:
    assert OwnSite("dr", every_s=5).due([], 0, NOW) == []
