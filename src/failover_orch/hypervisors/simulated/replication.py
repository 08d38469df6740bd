"""Replication settings in the simulated world: what nodes and VMs have, and what comes of giving them others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from failover_orch.domain.inventory import ClusterInventory, Node, NodeState
from failover_orch.domain.records import Action
from failover_orch.domain.replication import ReplicationMode
from failover_orch.domain.replication_settings import ReplicationServer, VmReplication
from failover_orch.errors import LookupFailed, StepFailed, StepRefused
from failover_orch.hypervisors.rules.ends import End
from failover_orch.hypervisors.rules.reports import active
from failover_orch.hypervisors.rules.shipping import CONSISTENT_EVERY
from failover_orch.hypervisors.simulated.ends import FAULTS, Done, FaultKind
from failover_orch.hypervisors.simulated.store import Transaction

__all__ = [
    "apply_replication",
    "apply_server",
    "default_server",
    "is_active",
    "points_of",
    "put_replication",
    "put_server",
    "replication_of",
    "replications_at",
    "server_of",
    "servers_at",
]


def default_server(cluster: ClusterInventory, node: Node) -> ReplicationServer:
    """What a node accepts that was never told: replicas from anybody, if its cluster takes any."""
    storage = node.storages[0].path if node.storages else ""
    return ReplicationServer(
        enabled=cluster.accepts_replicas, from_any_server=bool(storage), default_storage_location=storage
    )


def server_of(world: Transaction, site: str, node: str) -> ReplicationServer:
    """What the node accepts.

    Raises:
        LookupFailed: no such node.
        StepFailed: it is down.

    """
    cluster, present = world.node(site, node)
    if present.state is NodeState.DOWN:
        raise StepFailed(f"{node} is DOWN: nobody can ask what it accepts")
    return world.servers(cluster.site)[node]


def put_server(world: Transaction, site: str, node: str, server: ReplicationServer, now_ms: int) -> None:
    """Have the node accept replicas so. Its cluster does as long as any of its nodes does.

    Raises:
        LookupFailed: no such node.

    """
    cluster, _ = world.node(site, node)
    world.put_server(cluster.site, node, server)
    servers = world.servers(cluster.site)
    accepts = any(servers[other.name].enabled for other in cluster.nodes)
    if accepts is not cluster.accepts_replicas:
        # Never twice the same: of two reports of one time, the second would be taken for a repetition.
        changed = replace(cluster, accepts_replicas=accepts, reported_at_ms=max(now_ms, cluster.reported_at_ms + 1))
        world.put_cluster(changed)
        world.tell(cluster.site, changed)


def replication_of(world: Transaction, vm_id: str) -> VmReplication:
    """How the VM replicates.

    Raises:
        LookupFailed: no such VM.

    """
    frequency_s = world.vm(vm_id).replication.frequency_s
    known = world.replication(vm_id)
    if known is None:
        # What a world was created with is so many points in all, a part of them application-consistent.
        older = world.points_kept - 1
        known = VmReplication(recovery_points=older, application_consistent_hours=1 if older else 0)
    return replace(known, frequency_s=frequency_s)


def put_replication(world: Transaction, vm_id: str, replication: VmReplication) -> None:
    """Have the VM replicate so, from its next cycle on, which comes no later than the new frequency says.

    Raises:
        LookupFailed: no such VM.

    """
    vm = world.vm(vm_id)
    before_ms, then_ms = vm.replication.frequency_s * 1000, replication.frequency_s * 1000
    world.put_vm(replace(vm, replication=replace(vm.replication, frequency_s=replication.frequency_s)))
    world.put_replication(vm_id, replication)
    for end in world.ends(vm_id=vm_id):
        if end.next_cycle_at_ms > 0:
            world.put_end(replace(end, next_cycle_at_ms=end.next_cycle_at_ms + min(0, then_ms - before_ms)))


def points_of(world: Transaction, vm_id: str) -> tuple[int, int]:
    """How many recovery points the VM's replica keeps, the newest with them, and how many make one consistent."""
    known = world.replication(vm_id)
    if known is None:
        return world.points_kept, CONSISTENT_EVERY
    return known.recovery_points + 1, CONSISTENT_EVERY if known.application_consistent_hours else 0


def is_active(world: Transaction, end: End, peer: End | None) -> bool:
    """Whether the VM is this end's to report, as its site knows of the other end."""
    return active(end, peer, peer_reachable=peer is not None and world.link_up and world.sites()[peer.site])


# As a site's agent asks for it. The site has power.


def apply_server(world: Transaction, site: str, node: str, server: ReplicationServer, now_ms: int) -> Done:
    """Give a node these settings, or let it go wrong as the world was told to."""
    try:
        server_of(world, site, node)
    except LookupFailed as error:
        return Done(error=StepRefused(str(error)))
    except StepFailed as error:
        return Done(error=error)
    fault = world.take_fault(f"{site}/{node}", Action.APPLY_SETTINGS)
    if fault in FAULTS:
        return FAULTS[fault]
    put_server(world, site, node, server, now_ms)
    return Done(silent=fault is FaultKind.LOSE_ANSWER)


def servers_at(world: Transaction, site: str, nodes: Collection[str]) -> Mapping[str, ReplicationServer | str]:
    """What these nodes of the site, or all, accept; of one that is down, that it is."""
    servers = world.servers(site)
    return {
        node.name: f"{node.name} is DOWN" if node.state is NodeState.DOWN else servers[node.name]
        for cluster in world.clusters(site)
        for node in cluster.nodes
        if not nodes or node.name in nodes
    }


def apply_replication(world: Transaction, site: str, vm_id: str, replication: VmReplication) -> Done:
    """Give a VM these settings, or let it go wrong as the world was told to."""
    end = world.end(vm_id, site)
    if end is None or end.mode is ReplicationMode.NONE or not is_active(world, end, world.peer(end)):
        return Done(error=StepRefused(f"{vm_id} is not replicated from {site}: it has no settings here"))
    if not world.node_up(site, end.node):
        return Done(error=StepFailed(f"{vm_id} is on {end.node}, which is DOWN"))
    fault = world.take_fault(vm_id, Action.APPLY_SETTINGS)
    if fault in FAULTS:
        return FAULTS[fault]
    put_replication(world, vm_id, replication)
    return Done(silent=fault is FaultKind.LOSE_ANSWER)


def replications_at(world: Transaction, site: str) -> Mapping[str, VmReplication]:
    """How each VM that is active at the site, and replicates, does so."""
    return {
        end.vm_id: replication_of(world, end.vm_id)
        for end in world.ends(site)
        if end.node
        and end.mode is not ReplicationMode.NONE
        and world.node_up(site, end.node)
        and is_active(world, end, world.peer(end))
    }
