"""What there is to look at when the story of the real VMs has been told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from failover_orch.demo.vms.machines import Machine
from failover_orch.domain import RoutingUpdate, RunSnapshot
from failover_orch.service import Vm

__all__ = ["Ending", "Moved", "Ping"]


@dataclass(frozen=True, slots=True)
class Ping:
    """One address of a VM. `wanted`: whether it ought to answer, the VM being at that address's site."""

    vm_id: str
    site: str
    address: str
    wanted: bool
    answered: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """What a VM's counter and its users saw of one failover.

    `before` is what the primary's disk held when the VM had ended there, and `after` what the disk held that it was
    started from: the difference is lost. `pending` is what, by the last report before the failover, had not been
    replicated yet, in counts, `leeway` what is counted in one cycle; both -1 where nothing may be lost.
    `identical`: whether the two disks held the very same.
    """

    vm_id: str
    run: RunSnapshot
    from_site: str
    to_site: str
    before: int
    after: int
    served_at_ms: int
    """When its page was first seen at the new address."""
    without_service_ms: int
    identical: bool | None = None
    pending: int = -1
    pending_bytes: int = -1
    leeway: int = -1

    @property
    def lost(self) -> int:
        return self.before - self.after


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended. `running`: the domains that run, by node. `runs_at`: where each VM ought to run."""

    machines: Sequence[Machine]
    vms: Sequence[Vm]
    routes: Sequence[RoutingUpdate]
    running: Mapping[str, frozenset[str]]
    runs_at: Mapping[str, str]
    moved: Sequence[Moved]
    """Every VM's failovers, in their order."""
    groups: Sequence[Sequence[str]]
    """The VMs of the recovery plan by its groups, in the order in which these fail over."""
    migrations: int
    """Moves between nodes that the demo made."""
    went_on: bool
    """Whether the VM that moved while it ran was in the same boot afterwards."""
    pings: Sequence[Ping]
    sites_seen: Mapping[str, Sequence[str]]
    """At which sites' addresses each VM's page was seen, one after the other."""
    fence: str
    """What was told to prove that the node of the primary site was off."""
    cuts: int
    """How often the node's management controller was told to turn it off."""
    audit_findings: Sequence[str]
    dead_letters: int
