"""Where a VM is: the VM-to-node table's rules.

Nodes report in their own order, but nothing orders one node's events against another's: they may be overtaken,
repeated, or stamped by a clock that is seconds off. So the table keeps, for every node that ever named a VM, the last
it said of it (`Presence`), and takes an event of a node only if it is newer than that node's last. Where a VM is
follows from the presences: the newest arrival, and once that node says the VM has left, any other node that still says
it is there. What is left after all events have arrived is then right whatever the clocks said, as long as each node
knew its own order.

| rule | when | then |
| --- | --- | --- |
| M1 | the node has said so already (same sequence) | nothing: a repeated event |
| M2 | the node has said something newer of this VM | refused: older than what is known |
| M3 | arrival, but a newer one is known from a node of the site that still has it | refused: older than what is known |
| M4 | arrival where the VM already is, on the same storage | nothing new |
| M5 | first arrival at this site, or at another node, or on other storage | the route changes |
| M6 | departure from where the VM is, and another node of the site still has it | the route changes to that node |
| M7 | any other departure | nothing: an arrival says where it went |
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.records import Location, Role, RouteCause
from failover_orch.domain.state import Presence, VmState

__all__ = ["Moved", "apply_move", "relocate"]


@dataclass(frozen=True, slots=True)
class Moved:
    """What a VM-moved event leads to. `change` is the new location, where the route changes."""

    rule: str
    vm: VmState
    change: Location | None = None
    cause: RouteCause = RouteCause.PLACED
    previous_node: str = ""
    refusal: str = ""


def apply_move(vm: VmState, move: VmMoved) -> Moved:
    """Fold one VM-moved event into what is known of the VM."""
    known = next((p for p in vm.presences if (p.site, p.node) == (move.site, move.node)), None)
    if known is not None:
        if _repeats(known, move):
            return Moved("M1", vm)
        if _older(known, move):
            return Moved("M2", vm, refusal=f"{move.node} reported something newer of this VM at {known.at_ms}")
    here = vm.at(move.site)
    presence = Presence(
        site=move.site,
        node=move.node,
        present=move.kind is not MoveKind.DEPARTED,
        sequence=move.sequence,
        at_ms=move.occurred_at_ms,
        cluster=move.cluster or (here.cluster if here else ""),
        # An event that names no storage is of a VM that took its storage along: shared by the nodes, or unknown.
        storage=move.storage or (here.storage if here else ""),
    )
    others = tuple(p for p in vm.presences if p is not known)
    vm = replace(vm, presences=(*others, presence))
    if presence.present:
        return _arrived(vm, here, presence, move)
    return _departed(vm, here, presence)


def relocate(vm: VmState, location: Location) -> VmState:
    """The VM with `location` in the place of what was known of that site."""
    rest = tuple(known for known in vm.locations if known.site != location.site)
    return replace(vm, locations=tuple(sorted((*rest, location), key=lambda known: known.site)))


def _repeats(known: Presence, move: VmMoved) -> bool:
    if known.sequence and move.sequence:
        return known.sequence == move.sequence
    same = known.at_ms == move.occurred_at_ms and known.present == (move.kind is not MoveKind.DEPARTED)
    return same and (not move.storage or move.storage == known.storage)


def _older(known: Presence, move: VmMoved) -> bool:
    if known.sequence and move.sequence:
        return move.sequence < known.sequence
    return move.occurred_at_ms < known.at_ms


def _arrived(vm: VmState, here: Location | None, presence: Presence, move: VmMoved) -> Moved:
    # Only a node that still has the VM outweighs an arrival: one whose departure came first may just have a clock that
    # runs ahead, and then no later event would ever put the route right.
    overtaken = here is not None and here.node != presence.node and presence.at_ms < here.since_ms
    if here is not None and overtaken and _has(vm, here):
        return Moved("M3", vm, refusal=f"the VM is known to be on {here.node} since {here.since_ms}")
    location = Location(
        site=presence.site,
        node=presence.node,
        role=_role_at(vm, presence.site, here),
        since_ms=here.since_ms if here is not None and overtaken else presence.at_ms,
        cluster=presence.cluster,
        storage=presence.storage,
    )
    if here is None:
        return Moved("M5", relocate(vm, location), location, RouteCause.PLACED)
    if (here.node, here.storage) == (location.node, location.storage):
        return Moved("M4", relocate(vm, location))
    return Moved("M5", relocate(vm, location), location, RouteCause(move.kind.value), here.node)


def _departed(vm: VmState, here: Location | None, left: Presence) -> Moved:
    if here is None or here.node != left.node:
        return Moved("M7", vm)
    still = [p for p in vm.presences if p.site == left.site and p.present]
    if not still:
        return Moved("M7", vm)
    newest = max(still, key=lambda p: (p.at_ms, p.node))
    location = replace(
        here,
        node=newest.node,
        storage=newest.storage,
        cluster=newest.cluster,
        # Not newest.at_ms: that clock has just been shown to run behind, and M3 must not let older arrivals in again.
        since_ms=max(here.since_ms, newest.at_ms),
    )
    return Moved("M6", relocate(vm, location), location, RouteCause.LIVE, here.node)


def _has(vm: VmState, here: Location) -> bool:
    """Whether the node where the VM is thought to be has not said that it left."""
    return any(p.present for p in vm.presences if (p.site, p.node) == (here.site, here.node))


def _role_at(vm: VmState, site: str, here: Location | None) -> Role:
    if site == vm.active_site:
        return Role.PRIMARY
    if site == vm.replica_site:
        return Role.REPLICA
    # A copy that a failover has retired stays so when its site comes back and says where it is.
    return here.role if here is not None else Role.UNKNOWN
