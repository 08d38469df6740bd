"""Replication cycles of the simulated world, and how they make a VM's replication look from each end."""

from __future__ import annotations

from dataclasses import replace

from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.transitions import FAILED_OVER, RECEIVES, SENDS
from failover_orch.hypervisors.rules.ends import End
from failover_orch.hypervisors.rules.reports import active, inventory, overdue
from failover_orch.hypervisors.rules.shipping import bytes_ship_ms, received, shipped
from failover_orch.hypervisors.simulated.store import Transaction

__all__ = ["replicate_due"]

_State = ReplicationState
_FROM_THE_START = frozenset(
    {_State.READY_FOR_INITIAL_REPLICATION, _State.WAITING_FOR_INITIAL_REPLICATION, _State.RESYNCHRONIZING}
)
"""States of a primary whose next cycle copies everything, which leaves the replica no older recovery point."""


def replicate_due(world: Transaction, now_ms: int, site: str = "") -> int:
    """One cycle for each VM whose primary (at `site`, or anywhere) is due to send; returns how many were due."""
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
        if not reachable or end.vm_id in silenced:
            changes: tuple[End, ...] = (_missed(end),)
        else:
            changes = _cycle(end, peer, frequency_ms, now_ms, points_kept=world.points_kept)
        for changed in changes:
            world.put_end(replace(changed, next_cycle_at_ms=now_ms + frequency_ms))
        if changes[0].state is not end.state and active(end, peer, peer_reachable=link_up and powered[peer.site]):
            world.tell(end.site, inventory(vm, changes[0], peer, now_ms))
    return len(due)


def _cycle(end: End, peer: End, frequency_ms: int, now_ms: int, *, points_kept: int) -> tuple[End, ...]:
    """What a cycle makes of the two ends, or of the primary alone, where the replica can be reached."""
    if peer.state in RECEIVES:
        latency_ms = bytes_ship_ms(end.pending_bytes)
        late = overdue(peer, frequency_ms, now_ms) if peer.last_replication_at_ms else 0
        target = replace(peer, recovery_points=()) if end.state in _FROM_THE_START else peer
        return (
            replace(shipped(end, now_ms, latency_ms), state=_State.REPLICATING, cycles=end.cycles + 1),
            replace(
                received(end, target, now_ms, latency_ms, points_kept=points_kept),
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
