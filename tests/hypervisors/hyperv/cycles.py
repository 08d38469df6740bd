"""What comes of replication as time goes by: cycles, recovery points, health."""

from __future__ import annotations

import uuid

from hyperv.enumerations import VMReplicationHealthState, VMReplicationMode, VMReplicationState
from hyperv.world import Machine, Point, Relationship, Statistics, World

__all__ = ["FAILED_OVER", "add_point", "health", "overdue", "replicate_due", "ship"]

PRIMARY, REPLICA = VMReplicationMode.Primary, VMReplicationMode.Replica
_State = VMReplicationState
FAILED_OVER = frozenset({_State.FailedOverWaitingCompletion, _State.FailedOver})
_SENDS = frozenset({_State.InitialReplicationInProgress, _State.Replicating, _State.Resynchronizing})
_RECEIVES = frozenset({_State.WaitingForInitialReplication, _State.Replicating, _State.Resynchronizing})
_ANEW = frozenset({_State.InitialReplicationInProgress, _State.Resynchronizing})
_CRITICAL = frozenset({_State.Error, _State.WaitingForStartResynchronize, _State.ResynchronizeSuspended})
_WARNING = FAILED_OVER | {
    _State.ReadyForInitialReplication,
    _State.InitialReplicationInProgress,
    _State.WaitingForInitialReplication,
    _State.Resynchronizing,
    _State.Suspended,
}
_BYTES_A_MS = 100_000
"""The link carries 100 MB/s."""
_POINTS_TO_CONSISTENT = 4


def replicate_due(world: World) -> int:
    """Run the cycles that are due; returns how many were."""
    now = world.clock()
    due = 0
    for machine in world.machines:
        relationship = machine.relationship
        if relationship is None or relationship.mode is not PRIMARY or relationship.state not in _SENDS:
            continue
        if relationship.next_cycle_ms > now or not world.node_works(machine.node):
            continue
        due += 1
        relationship.next_cycle_ms = now + relationship.frequency_s * 1000
        _cycle(world, machine, relationship)
    return due


def _cycle(world: World, machine: Machine, relationship: Relationship) -> None:
    peer = world.peer(machine)
    other = peer.relationship if peer else None
    if peer is None or other is None or not world.reachable(peer) or machine.name in world.silenced:
        _missed(relationship.statistics)
    elif other.mode is REPLICA and other.state in _RECEIVES:
        if relationship.state in _ANEW:
            peer.points.clear()
        ship(world, machine, peer)
        relationship.state = other.state = _State.Replicating
    else:
        _missed(relationship.statistics)
        if other.state in FAILED_OVER:
            # The old primary is back and hears that it was overtaken: it cannot go on as if nothing had happened.
            relationship.state = _State.Error


def _missed(statistics: Statistics) -> None:
    statistics.misses += 1
    statistics.errors += 1


def ship(world: World, machine: Machine, peer: Machine) -> None:
    """Bring the replica to where the primary is, and leave a recovery point there."""
    now = world.clock()
    sends, receives = machine.relationship, peer.relationship
    if sends is None or receives is None:
        raise ValueError(f"{machine.name} does not replicate")
    for statistics in (sends.statistics, receives.statistics):
        statistics.successes += 1
        statistics.sizes.append(sends.pending_bytes)
        statistics.latencies_ms.append(sends.pending_bytes // _BYTES_A_MS)
    sends.pending_bytes = 0
    sends.last_replication_ms = receives.last_replication_ms = now
    peer.disk = machine.disk
    add_point(world, peer)


def add_point(world: World, machine: Machine) -> None:
    """A recovery point of what the replica holds. Every fourth one after the first is application-consistent."""
    relationship = machine.relationship
    taken = relationship.statistics.successes if relationship else 0
    consistent = taken > 0 and taken % _POINTS_TO_CONSISTENT == 0
    kept = 1 + (relationship.recovery_history if relationship else 0)
    now = world.clock()
    kind = "Application-consistent Replica" if consistent else "Standard Replica"
    machine.points.append(Point(uuid.uuid4(), f"{machine.name} - {kind} - ({now})", now, consistent, machine.disk))
    del machine.points[:-kept]


def overdue(world: World, machine: Machine) -> int:
    """How many cycles should have come, or gone, by now and did not; a tenth of the interval is given as grace."""
    relationship = machine.relationship
    if relationship is None or not relationship.last_replication_ms:
        return 0
    interval = relationship.frequency_s * 1000
    return max(0, (world.clock() - relationship.last_replication_ms - interval // 10) // interval)


def health(world: World, machine: Machine) -> VMReplicationHealthState:
    """Hyper-V's own judgement, by the thresholds in its documentation."""
    relationship = machine.relationship
    if relationship is None or relationship.state is _State.Disabled:
        return VMReplicationHealthState.NotApplicable
    state, late = relationship.state, overdue(world, machine)
    sends = relationship.mode is PRIMARY
    statistics = relationship.statistics
    misses = statistics.misses if sends else statistics.misses + late
    if state in _CRITICAL or (not sends and state is _State.Suspended) or (sends and state in _SENDS and late > 0):
        return VMReplicationHealthState.Critical
    if state in _WARNING or misses * 5 > statistics.successes + misses:
        return VMReplicationHealthState.Warning
    return VMReplicationHealthState.Normal
