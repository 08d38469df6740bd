"""What a hypervisor keeps of a VM: either end of its replication. Times are milliseconds since the Unix epoch."""

from __future__ import annotations

from dataclasses import dataclass

from failover_orch.domain.facts import MoveKind
from failover_orch.domain.replication import FailedOverType, ReplicationMode, ReplicationState
from failover_orch.domain.settings import AdapterAddresses
from failover_orch.domain.terms import WantedPoint
from failover_orch.hypervisors.protocol import Power

__all__ = ["Configuration", "End", "EndAdapter", "IsolatedCopy", "RecoveryPoint"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a guest has configured on one adapter. Addresses are `address/prefix`."""

    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndAdapter:
    """An adapter of a VM at one site."""

    adapter_id: str
    connected: bool
    configured: Configuration
    """What the guest's disk says at this site."""
    recovered: Configuration
    """What it said at the recovery point of the last failover: what a cancelled failover goes back to."""


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """A moment that a replica can be failed over to. Ids are `rp-<n>`, counted at each end of a VM."""

    point_id: str
    at_ms: int
    application_consistent: bool = False

    def __str__(self) -> str:
        return f"{self.point_id} of {self.at_ms}{', application-consistent' if self.application_consistent else ''}"


@dataclass(frozen=True, slots=True)
class IsolatedCopy:
    """A test copy of a replica. It stays where its replica is: a move takes both along."""

    run_id: str
    wanted: WantedPoint
    point: RecoveryPoint
    network: str
    """The isolated network that it is connected to; empty: to none."""
    adapters: tuple[EndAdapter, ...]
    staged: tuple[AdapterAddresses, ...]
    """Applied whenever it boots: nobody else changes its configuration."""
    power: Power = Power.OFF
    settled_at_ms: int = 0
    node: str = ""
    """The node it was found on; empty: its replica's."""


@dataclass(frozen=True, slots=True)
class End:
    """A VM at one site: the running VM or its replica, as that site's hypervisors have it."""

    vm_id: str
    site: str
    cluster: str
    node: str
    """Empty for a replica that has not been placed yet."""
    storage: str
    mode: ReplicationMode
    state: ReplicationState
    power: Power
    adapters: tuple[EndAdapter, ...]
    arrival: MoveKind
    arrived_at_ms: int
    epoch: int = 0
    settled_at_ms: int = 0
    """When the last boot or shutdown is through."""
    staged: tuple[AdapterAddresses, ...] = ()
    inject: bool = False
    """Failed over and not booted since: the staged addresses are to be applied at the next boot."""
    failed_over: FailedOverType = FailedOverType.NONE
    last_replication_at_ms: int = 0
    next_cycle_at_ms: int = 0
    """When a primary sends next. 0: not before it is told to replicate."""
    recovery_points: tuple[RecoveryPoint, ...] = ()
    """What a replica keeps, newest last."""
    points_taken: int = 0
    failed_over_to: RecoveryPoint | None = None
    copy: IsolatedCopy | None = None
    pending_bytes: int = 0
    cycles: int = 0
    missed_cycles: int = 0
    errors: int = 0
    latency_ms: int = 0
    delivered_to: str = ""
    """The node at which a primary's last cycle arrived; empty before the first."""

    @property
    def recovery_point(self) -> RecoveryPoint | None:
        """The one that the replica was failed over to, or else its newest."""
        return self.failed_over_to or (self.recovery_points[-1] if self.recovery_points else None)
