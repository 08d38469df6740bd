"""What the rules look at besides an end itself, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from failover_orch.domain.inventory import AdapterKind, VmInventory
from failover_orch.domain.records import StepCommand
from failover_orch.domain.settings import AdapterAddresses
from failover_orch.errors import StaleEpoch, StepFailed, StepRefused
from failover_orch.hypervisors.rules.ends import End, IsolatedCopy, RecoveryPoint
from failover_orch.hypervisors.rules.guest import Leases
from failover_orch.hypervisors.rules.shipping import chosen

__all__ = ["Change", "Surroundings", "copy_of", "fenced", "other_end", "stageable", "wanted_point"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else the rules look at: the VM itself, its other end, and the way there."""

    vm: VmInventory
    node_up: bool
    peer: End | None = None
    link_up: bool = True
    peer_alive: bool = True
    """The other end's site has power."""
    peer_node_up: bool = True
    peer_accepts: bool = True
    """The other end's cluster is enabled to receive replicas."""
    leases: Leases = field(default_factory=dict)
    closed_ports: frozenset[int] = frozenset()
    """TCP ports at which the VM's guest does not listen."""
    points_kept: int = 24
    boot_ms: int = 0
    shutdown_ms: int = 0
    fences: tuple[str, ...] = ()
    """Whose power this end's site can cut, as `ClusterInventory.fences`."""

    @property
    def peer_answers(self) -> bool:
        """Whether the other end's site can be asked."""
        return self.link_up and self.peer_alive


@dataclass(frozen=True, slots=True)
class Change:
    """What an action changes: this end, the other end where it reaches that far, and whether it took effect at all.

    `found` is what it found out beyond what can be observed afterwards. `cut` is the node, as `site/node`, whose power
    has to be cut before it is true.
    """

    end: End
    peer: End | None = None
    effect: bool = False
    found: Mapping[str, str] = field(default_factory=dict)
    cut: str = ""


def fenced(command: StepCommand, end: End) -> End:
    """The end with the command's epoch accepted.

    Raises:
        StaleEpoch: the end has accepted a higher one.

    """
    if command.epoch < end.epoch:
        raise StaleEpoch(
            f"{end.vm_id} at {end.site} has accepted epoch {end.epoch}: a command of epoch {command.epoch} is void"
        )
    return replace(end, epoch=command.epoch)


def other_end(command: StepCommand, end: End, around: Surroundings, purpose: str) -> End:
    """The other end, within reach and with the command's epoch accepted.

    Raises:
        StepRefused: there is none.
        StepFailed: it is out of reach.
        StaleEpoch: it has accepted a higher epoch.

    """
    peer = around.peer
    if peer is None:
        raise StepRefused(f"{end.vm_id} does not replicate to any other site")
    if not around.link_up:
        raise StepFailed(f"the replication link from {end.site} to {peer.site} is down: cannot {purpose}")
    if not around.peer_alive:
        raise StepFailed(f"{peer.site} does not answer: cannot {purpose}")
    if not peer.node:
        raise StepRefused(f"{end.vm_id} has no replica at {peer.site} yet: it has to be placed and replicated first")
    if not around.peer_node_up:
        raise StepFailed(f"{end.vm_id} is on {peer.node} at {peer.site}, which is DOWN: cannot {purpose}")
    return fenced(command, peer)


def wanted_point(command: StepCommand, end: End) -> RecoveryPoint:
    """The recovery point that the command asks for.

    Raises:
        StepRefused: the replica has none that fits.

    """
    point = chosen(end.recovery_points, command.point)
    if point is None:
        there_are = "; ".join(map(str, end.recovery_points)) or "none"
        raise StepRefused(
            f"{end.vm_id} at {end.site} cannot be brought to {command.point}: its recovery points are {there_are}"
        )
    return point


def copy_of(end: End) -> IsolatedCopy:
    """The test copy at this end.

    Raises:
        StepRefused: there is none.

    """
    if end.copy is None:
        raise StepRefused(f"{end.vm_id} at {end.site} has no test copy: create it first")
    return end.copy


def stageable(command: StepCommand, vm: VmInventory) -> tuple[AdapterAddresses, ...]:
    """The command's addresses, each for an adapter that can be given some.

    Raises:
        StepRefused: one is for a legacy adapter, or for none of the VM's.

    """
    kinds = {adapter.adapter_id: adapter.kind for adapter in vm.adapters}
    for plan in command.addresses:
        if plan.adapter_id not in kinds:
            raise StepRefused(f"{vm.vm_id} has no adapter {plan.adapter_id!r}: it has {', '.join(kinds) or 'none'}")
        if kinds[plan.adapter_id] is AdapterKind.LEGACY:
            raise StepRefused(
                f"adapter {plan.adapter_id!r} of {vm.vm_id} is a legacy one: only synthetic adapters can be given "
                "failover addresses"
            )
    return command.addresses
