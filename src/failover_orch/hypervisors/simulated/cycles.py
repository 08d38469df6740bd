"""Replication cycles of the simulated world, and how they make a VM's replication look from each end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.transitions import FAILED_OVER, RECEIVES, SENDS
from failover_orch.hypervisors.rules.ends import End
from failover_orch.hypervisors.rules.reports import inventory, overdue
from failover_orch.hypervisors.rules.shipping import bytes_ship_ms, received, shipped
from failover_orch.hypervisors.simulated.replication import is_active, points_of
from failover_orch.hypervisors.simulated.store import Transaction

__all__ = ["replicate_due"]

_State = ReplicationState
_FROM_THE_START = frozenset(
    {_State.READY_FOR_INITIAL_REPLICATION, _State.WAITING_FOR_INITIAL_REPLICATION, _State.RESYNCHRONIZING}
)
"""States of a primary whose next cycle copies everything, which leaves the replica no older recovery point."""


def replicate_due(world: Transaction, now_ms: int, site: str = "", *, routes: Mapping[str, str] | None = None) -> int:
    """One cycle for each VM whose primary (at `site`, or anywhere) is due to send; returns how many were due.

    `routes` names the node at which the primary's site takes a VM's replica to be. Where that is another than it is on,
    the cycle waits for better knowledge, and is missed once its whole interval has passed. A VM of which nothing
    is known has no such trouble.
    """
    routes = routes or {}
    powered = world.sites()
    due = [
        end
        for end in world.ends(site)
        if end.mode is ReplicationMode.PRIMARY
        and end.state in SENDS
        and 0 < end.next_cycle_at_ms <= now_ms
        and powered[end.site]
        and world.node_up(end.site, end.node)
    ]
    link_up = world.link_up
    silenced = world.silenced()
    for end in due:
        peer = world.peer(end)
        if peer is None or not peer.node:
            continue
        reachable = link_up and powered[peer.site] and world.node_up(peer.site, peer.node)
        vm = world.vm(end.vm_id)
        frequency_ms = vm.replication.frequency_s * 1000
        misplaced = routes.get(end.vm_id) not in (None, "", peer.node)
        if misplaced and now_ms < end.next_cycle_at_ms + frequency_ms:
            continue
        if misplaced or not reachable or end.vm_id in silenced:
            changes: tuple[End, ...] = (_missed(end),)
        else:
            changes = _cycle(end, peer, frequency_ms, now_ms, points=points_of(world, end.vm_id))
        for changed in changes:
            world.put_end(replace(changed, next_cycle_at_ms=now_ms + frequency_ms))
        if changes[0].state is not end.state and is_active(world, end, peer):
            world.tell(end.site, inventory(vm, changes[0], peer, now_ms))
    return len(due)


def _cycle(end: End, peer: End, frequency_ms: int, now_ms: int, *, points: tuple[int, int]) -> tuple[End, ...]:
    """What a cycle makes of the two ends, or of the primary alone, where the replica can be reached.

    `points` says how many recovery points are kept, and every how many of them is application-consistent.
    """
    points_kept, consistent_every = points
    if peer.state in RECEIVES:
        latency_ms = bytes_ship_ms(end.pending_bytes)
        late = overdue(peer, frequency_ms, now_ms) if peer.last_replication_at_ms else 0
        target = replace(peer, recovery_points=()) if end.state in _FROM_THE_START else peer
        return (
            replace(
                shipped(end, now_ms, latency_ms),
                state=_State.REPLICATING,
                cycles=end.cycles + 1,
                delivered_to=peer.node,
            ),
            replace(
                received(end, target, now_ms, latency_ms, points_kept=points_kept, consistent_every=consistent_every),
                state=_State.REPLICATING,
                cycles=peer.cycles + 1 + late,
                missed_cycles=peer.missed_cycles + late,
            ),
        )
    if peer.state in FAILED_OVER:
        # The old primary is back and hears that it has been overtaken: it must not go on as if nothing had happened.
        return (replace(_missed(end), state=_State.ERROR),)
    return (_missed(end),)


def _missed(end: End) -> End:
    """The primary after a cycle that came to nothing. The replica counts it by the clock, in its own report."""
    return replace(end, cycles=end.cycles + 1, missed_cycles=end.missed_cycles + 1, errors=end.errors + 1)
