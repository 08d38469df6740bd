"""Initial placement: hard rules, scores, and that order never matters."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.inventory import (
    ClusterInventory,
    Guest,
    Node,
    NodeState,
    Replication,
    Storage,
    VmInventory,
)
from failover_orch.domain.placement import WEIGHTS, Placed, place
from failover_orch.domain.replication import ReplicationState

VOLUME = Storage(r"C:\ClusterStorage\Volume1", 1000, 800)
D1 = Node("d1", NodeState.UP, 100_000, 80_000, storages=(VOLUME,))
D2 = Node("d2", NodeState.UP, 100_000, 90_000, storages=(VOLUME,))
D3 = Node("d3", NodeState.UP, 100_000, 70_000, storages=(VOLUME,))
DR = ClusterInventory("dr-cluster", "dr", "DR-BROKER", (D1, D2, D3))
PRIMARY = ClusterInventory("primary-cluster", "primary", "PRI-BROKER", (replace(D1, name="p1"),))
VM = VmInventory(
    "vm-1",
    "erp-db",
    (),
    Guest("debian-12"),
    Replication(ReplicationState.READY_FOR_INITIAL_REPLICATION, "primary", "dr"),
    memory_mib=8_000,
    storage_gib=100,
)


def dr(*nodes: Node) -> ClusterInventory:
    return replace(DR, nodes=nodes)


def test_the_node_with_most_left_takes_the_replica() -> None:
    placement = place(VM, [PRIMARY, DR], [])
    assert (placement.cluster, placement.node, placement.storage) == ("dr-cluster", "d2", VOLUME.path)
    assert [candidate.node for candidate in placement.candidates] == ["d2", "d1", "d3"]
    assert [(node.node, node.reasons) for node in placement.refused] == [
        ("p1", ("N1: primary-cluster is at site primary, the replica goes to dr",))
    ]
    points = {score.criterion: score.points for score in placement.candidates[0].scores}
    assert points == {"anti_affinity": 2000, "memory": 328, "storage": 140, "application": 200, "replicas": 100}
    assert placement.why.startswith("d2 of dr-cluster, on ")
    assert "2768 points, the most of 3 candidates; d1 comes second with 2728" in placement.why


@pytest.mark.parametrize(
    ("vm", "cluster", "replicas", "reason"),
    [
        (VM, replace(DR, site="other"), (), "N1: dr-cluster is at site other, the replica goes to dr"),
        (
            replace(VM, replication=replace(VM.replication, replica_cluster="dr-2")),
            dr(D1),
            (),
            "N2: the replica goes to cluster dr-2, not to dr-cluster",
        ),
        (VM, replace(dr(D1), accepts_replicas=False), (), "N3: dr-cluster does not accept replicas"),
        (VM, dr(replace(D1, state=NodeState.PAUSED)), (), "N4: d1 is PAUSED"),
        (VM, dr(replace(D1, state=NodeState.DOWN)), (), "N4: d1 is DOWN"),
        (VM, dr(replace(D1, memory_free_mib=17_999)), (), "N5: d1 lacks 1 MiB of memory for 8000 MiB"),
        (VM, dr(D1), (Placed("a", "d1", "dr", memory_mib=62_001),), "N5: d1 lacks 1 MiB of memory"),
        (VM, dr(replace(D1, storages=())), (), "N6: d1 has no storage"),
        (VM, dr(replace(D1, storages=(replace(VOLUME, free_gib=199),))), (), "N6: d1 has no storage with room for 100"),
        (VM, dr(D1), (Placed("a", "d1", "dr", storage_gib=801, storage=VOLUME.path),), "N6: d1 has no storage with"),
    ],
)
def test_a_hard_rule_refuses_a_node(
    vm: VmInventory, cluster: ClusterInventory, replicas: tuple[Placed, ...], reason: str
) -> None:
    placement = place(vm, [cluster], replicas)
    assert (placement.node, placement.storage, placement.candidates) == (None, None, ())
    assert placement.refused[0].reasons[0].startswith(reason)
    assert len(placement.refused[0].reasons) == 1


def test_exactly_enough_is_enough() -> None:
    node = replace(D1, memory_free_mib=18_000, storages=(replace(VOLUME, free_gib=200),))
    assert place(VM, [dr(node)], []).node == "d1"


def test_a_node_is_told_every_reason() -> None:
    node = replace(D1, state=NodeState.DOWN, memory_free_mib=0, storages=())
    assert [reason[:2] for reason in place(VM, [dr(node)], []).refused[0].reasons] == ["N4", "N5", "N6"]


def test_why_not_names_what_stands_in_the_way() -> None:
    assert place(VM, [PRIMARY], []).why == "no node is known at site dr."
    assert place(VM, [dr(replace(D1, state=NodeState.DOWN))], []).why == (
        "no node at site dr can take the replica: d1 is DOWN."
    )
    nowhere = replace(VM, replication=replace(VM.replication, replica_site=""))
    assert place(nowhere, [DR], []).why == "vm-1 names no replica site."


def test_a_replica_that_exists_is_answered_with_where_it_is() -> None:
    down = dr(replace(D1, state=NodeState.DOWN), D2)
    placement = place(VM, [down], [Placed("vm-1", "d1", "dr", storage="S"), Placed("vm-1", "p1", "primary")])
    assert placement.existing
    assert (placement.cluster, placement.node, placement.storage) == ("dr-cluster", "d1", "S")
    assert placement.why == "the replica of vm-1 lives on d1 already."


def test_replicas_of_other_sites_do_not_count() -> None:
    elsewhere = [Placed("x", "d2", "third", memory_mib=90_000), Placed("vm-1", "p1", "primary")]
    assert place(VM, [DR], elsewhere).candidates == place(VM, [DR], []).candidates


def test_an_anti_affinity_group_is_kept_apart_against_all_other_scores() -> None:
    vm = replace(VM, anti_affinity="erp-db", application="erp")
    poor = replace(D3, memory_free_mib=19_000)
    replicas = [
        Placed("a", "d1", "dr", "erp-db"),
        Placed("b", "d2", "dr", "erp-db"),
        *(Placed(f"c{n}", "d3", "dr", "", "erp") for n in range(20)),
    ]
    assert place(vm, [dr(D1, D2, poor)], replicas).node == "d3"
    others = sum(weight for criterion, weight in WEIGHTS.items() if criterion != "anti_affinity")
    assert WEIGHTS["anti_affinity"] // 2 > others


def test_an_application_is_spread() -> None:
    vm = replace(VM, application="erp")
    mail = Placed("a", "d1", "dr", "", "mail")
    assert place(vm, [dr(D1, D2)], [mail, Placed("b", "d2", "dr", "", "erp")]).node == "d1"
    assert place(vm, [dr(D1, D2)], [mail, Placed("b", "d2", "dr", "", "mail")]).node == "d2"


def test_replicas_are_spread() -> None:
    equal = replace(D1, name="d2")
    assert place(VM, [dr(D1, equal)], [Placed("a", "d1", "dr")]).node == "d2"


def test_a_tie_goes_to_the_first_name() -> None:
    placement = place(VM, [dr(replace(D1, name="d2"), D1)], [])
    assert placement.node == "d1"
    assert "first by name" in placement.why


def test_the_roomiest_storage_of_a_node_is_used() -> None:
    roomy = (Storage("Z", 900, 850), Storage("Y", 900, 850))
    node = replace(D1, storages=(VOLUME, *roomy, Storage("A", 900, 400), Storage("tiny", 10, 10)))
    assert place(VM, [dr(node)], []).storage == "Y"


def test_a_promise_to_a_shared_volume_counts_on_every_node() -> None:
    promised = [Placed("a", "d1", "dr", storage_gib=801, storage=VOLUME.path)]
    assert place(VM, [DR], promised).node is None
    own_disk = replace(D2, storages=(replace(VOLUME, free_gib=700),))
    assert place(VM, [dr(D1, own_disk)], promised).node == "d2"


def test_a_copy_that_the_node_reports_is_not_counted_again() -> None:
    copied = [Placed("a", "d1", "dr", storage_gib=200, storage=VOLUME.path)]
    assert place(VM, [DR], copied).candidates[0].scores[2] == place(VM, [DR], []).candidates[0].scores[2]


names = st.sampled_from(["d1", "d2", "d3", "d4", "d5"])
storages = st.lists(
    st.builds(Storage, st.sampled_from(["S1", "S2", "S3"]), st.integers(0, 2000), st.integers(0, 2000)),
    max_size=3,
    unique_by=lambda storage: storage.path,
).map(tuple)
nodes = st.builds(
    Node,
    names,
    st.sampled_from([NodeState.UP, NodeState.UP, NodeState.PAUSED, NodeState.DOWN]),
    st.integers(0, 200_000),
    st.integers(0, 200_000),
    st.just(8),
    storages,
)
clusters = st.lists(
    st.builds(
        ClusterInventory,
        st.sampled_from(["c1", "c2", "c3"]),
        st.sampled_from(["dr", "dr", "primary"]),
        st.just("B"),
        st.lists(nodes, max_size=4, unique_by=lambda node: node.name).map(tuple),
        st.just(()),
        st.sampled_from([True, True, False]),
    ),
    max_size=3,
    unique_by=lambda cluster: cluster.cluster,
)
replicas_at = st.lists(
    st.builds(
        Placed,
        st.sampled_from([f"vm-{n}" for n in range(2, 12)]),
        names,
        st.sampled_from(["dr", "primary"]),
        st.sampled_from(["", "g"]),
        st.sampled_from(["", "erp"]),
        st.integers(0, 30_000),
        st.integers(0, 300),
        st.sampled_from(["", "S1", "S2"]),
    ),
    max_size=10,
)
vms = st.builds(
    lambda memory, storage, group: replace(VM, memory_mib=memory, storage_gib=storage, anti_affinity=group),
    st.integers(0, 100_000),
    st.integers(0, 1000),
    st.sampled_from(["", "g"]),
)


@given(vms, clusters, replicas_at, st.randoms(use_true_random=False))
def test_the_order_of_what_comes_in_does_not_matter(
    vm: VmInventory, known: list[ClusterInventory], there: list[Placed], random: Random
) -> None:
    placement = place(vm, known, there)
    shuffled = [replace(cluster, nodes=tuple(reversed(cluster.nodes))) for cluster in known]
    random.shuffle(shuffled)
    random.shuffle(there)
    assert place(vm, shuffled, there) == placement


@given(vms, clusters, replicas_at)
def test_what_is_chosen_is_fit_and_the_best(
    vm: VmInventory, known: list[ClusterInventory], there: list[Placed]
) -> None:
    placement = place(vm, known, there)
    assert len(placement.candidates) + len(placement.refused) == sum(len(cluster.nodes) for cluster in known)
    assert all(node.reasons for node in placement.refused)
    for candidate in placement.candidates:
        assert all(0 <= score.points <= score.weight for score in candidate.scores)
    if placement.node is None:
        assert placement.candidates == ()
        return
    best = placement.candidates[0]
    assert (placement.cluster, placement.node, placement.storage) == (best.cluster, best.node, best.storage)
    assert best.points == max(candidate.points for candidate in placement.candidates)
    cluster = next(cluster for cluster in known if cluster.cluster == placement.cluster)
    node = next(node for node in cluster.nodes if node.name == placement.node)
    assert (cluster.site, cluster.accepts_replicas, node.state) == ("dr", True, NodeState.UP)
    assert node.memory_free_mib >= vm.memory_mib
    storage = next(storage for storage in node.storages if storage.path == placement.storage)
    assert storage.free_gib >= vm.storage_gib
    # Members of a group share a node only where every node that could take the replica has one.
    grouped = {placed.node for placed in there if placed.site == "dr" and placed.anti_affinity and vm.anti_affinity}
    if node.name in grouped:
        assert {candidate.node for candidate in placement.candidates} <= grouped
