"""What the nodes of a topology file have left, and whether the replicas will find room."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from failover_orch.domain.inventory import ClusterInventory, Node, NodeState, Storage
from failover_orch.domain.placement import Placed, place
from failover_orch.domain.replication import ReplicationState
from failover_orch.topology.infrastructure import ClusterDraft, NodeDraft, StorageDraft
from failover_orch.topology.machines import House
from failover_orch.topology.model import TopologyVm

__all__ = ["clusters_of", "warn_of_capacity"]


def clusters_of(house: House) -> tuple[ClusterInventory, ...]:
    """The clusters as values. Free memory and space that the file leaves out is what its primary VMs leave."""
    memory: Counter[str] = Counter()
    space: Counter[tuple[str, str]] = Counter()
    for draft in house.vms.items.values():
        vm = draft.vm
        memory[vm.primary_node] += vm.inventory.memory_mib
        home = house.nodes.items.get(vm.primary_node)
        storage = next((s for s in home.storages if s.path == vm.primary_storage), None) if home else None
        if home is not None and storage is not None:
            space[_owner(home, storage)] += vm.inventory.storage_gib
    return tuple(_cluster(draft, house, memory, space) for draft in house.clusters.items.values())


def _owner(node: NodeDraft, storage: StorageDraft) -> tuple[str, str]:
    """Whose space it is: a path of a node's own storage may be another storage on the next node."""
    return (f"cluster {node.cluster}" if storage.shared else f"node {node.name}", storage.path)


def _cluster(
    draft: ClusterDraft, house: House, memory: Counter[str], space: Counter[tuple[str, str]]
) -> ClusterInventory:
    return ClusterInventory(
        cluster=draft.name,
        site=draft.site,
        broker=draft.broker,
        nodes=tuple(_node(node, memory, space) for node in draft.nodes),
        networks=tuple(name for name, here in house.networks.items.items() if here.network.site == draft.site),
        accepts_replicas=draft.accepts_replicas,
        supported_guests=draft.supported_guests,
        fences=draft.fences,
    )


def _node(draft: NodeDraft, memory: Counter[str], space: Counter[tuple[str, str]]) -> Node:
    free = draft.memory_free_mib
    if free is None:
        free = draft.memory_mib - memory[draft.name]
        if free < 0:
            message = f"its VMs need {memory[draft.name]} MiB of memory, and it has {draft.memory_mib} MiB"
            draft.entry.warning("", message)
    return Node(
        name=draft.name,
        state=draft.state,
        memory_mib=draft.memory_mib,
        memory_free_mib=max(0, free),
        cpus=draft.cpus,
        storages=tuple(_storage(draft, storage, space) for storage in draft.storages),
    )


def _storage(node: NodeDraft, draft: StorageDraft, space: Counter[tuple[str, str]]) -> Storage:
    used = space[_owner(node, draft)]
    free = draft.capacity_gib - used if draft.free_gib is None else draft.free_gib
    return Storage(draft.path, draft.capacity_gib, max(0, free))


def warn_of_capacity(house: House, clusters: tuple[ClusterInventory, ...]) -> None:
    """Warn of every replica that would find no room if all were placed, those with a stated node first."""
    replicated = [
        draft
        for draft in house.vms.items.values()
        if draft.vm.inventory.replication.state is not ReplicationState.DISABLED
    ]
    placed: list[Placed] = []
    for draft in sorted(replicated, key=lambda draft: not draft.vm.replica_node):
        vm = draft.vm
        possible = _only(clusters, vm) if vm.replica_node else clusters
        placement = place(vm.inventory, possible, placed)
        if placement.node is None:
            reasons = [reason for node in placement.refused if node.node == vm.replica_node for reason in node.reasons]
            said = "; ".join(reasons) if vm.replica_node else placement.why.removesuffix(".")
            draft.entry.warning("replication", f"the replica finds no room: {said}")
        if placement.node or vm.replica_node:
            placed.append(_placed(vm, placement.node or vm.replica_node, placement.storage or vm.replica_storage))
    for cluster in house.clusters.items.values():
        if not cluster.accepts_replicas and any(
            draft.vm.inventory.replication.primary_cluster == cluster.name for draft in replicated
        ):
            cluster.entry.warning(
                "accepts_replicas", "is false: after a failover, replication cannot be reversed towards this cluster"
            )


def _only(clusters: tuple[ClusterInventory, ...], vm: TopologyVm) -> tuple[ClusterInventory, ...]:
    """The clusters, with all nodes out of the question but the one that the file states (and its storage)."""

    def seen(node: Node) -> Node:
        if node.name != vm.replica_node:
            return replace(node, state=NodeState.DOWN)
        return replace(node, storages=tuple(s for s in node.storages if vm.replica_storage in ("", s.path)))

    return tuple(replace(cluster, nodes=tuple(seen(node) for node in cluster.nodes)) for cluster in clusters)


def _placed(vm: TopologyVm, node: str, storage: str) -> Placed:
    inventory = vm.inventory
    return Placed(
        vm_id=inventory.vm_id,
        node=node,
        site=inventory.replication.replica_site,
        anti_affinity=inventory.anti_affinity,
        application=inventory.application,
        memory_mib=inventory.memory_mib,
        storage_gib=inventory.storage_gib,
        storage=storage,
    )
