"""What a read model is made of: tables of the latest records, and a VM as all that is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from failover_orch.domain import (
    HealthChange,
    Location,
    Placed,
    Readiness,
    Role,
    RoutingUpdate,
    RunSnapshot,
    VmInventory,
    VmReplicationSettings,
)

__all__ = ["Latest", "Vm", "is_at", "placed"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Vm:
    """All that is known of a VM. What nobody has reported yet is None."""

    vm_id: str
    route: RoutingUpdate | None
    inventory: VmInventory | None
    settings: VmReplicationSettings | None
    health: HealthChange | None
    run: RunSnapshot | None
    """The run in flight."""
    test_run: RunSnapshot | None = None
    """The test failover in flight, beside any other run."""
    plan_ids: tuple[str, ...] = ()
    """The recovery plans that name it."""

    @property
    def name(self) -> str:
        """What people call it; its id where nobody has told its name."""
        if self.inventory is not None and self.inventory.name:
            return self.inventory.name
        return self.route.name if self.route is not None and self.route.name else self.vm_id

    @property
    def locations(self) -> tuple[Location, ...]:
        """Where it is: first where it runs, then its replicas, by site."""
        if self.route is None:
            return ()
        order = {Role.PRIMARY: 0, Role.UNKNOWN: 1, Role.REPLICA: 2, Role.RETIRED: 3}
        return tuple(sorted(self.route.locations, key=lambda location: (order[location.role], location.site)))

    @property
    def application(self) -> str:
        return self.inventory.application if self.inventory is not None else ""

    @property
    def epoch(self) -> int:
        return self.route.epoch if self.route is not None else 0

    @property
    def active_site(self) -> str:
        """The site where it runs; empty while nobody knows."""
        return next((location.site for location in self.locations if location.role is Role.PRIMARY), "")

    @property
    def readiness(self) -> Readiness:
        return self.health.readiness if self.health is not None else Readiness.UNKNOWN

    @property
    def defects(self) -> tuple[str, ...]:
        return self.health.defects if self.health is not None else ()

    def replica(self) -> Location | None:
        """Where its replica lives."""
        site = self.inventory.replication.replica_site if self.inventory is not None else ""
        for location in self.locations:
            # Until a worker has seen the inventory, the route does not know which end is which.
            if location.role is Role.REPLICA or (location.role is Role.UNKNOWN and location.site == site):
                return location
        return None


def _always(_new: object, _known: object) -> bool:
    return True


class Latest(Generic[T]):
    """The latest value of each key of one type of record.

    All records of a key come in order, since they stand in one partition. The exceptions say themselves, by `replaces`,
    whether a new value takes the place of the one that is known.
    """

    def __init__(self, topic: str, key: Callable[[T], str], replaces: Callable[[T, T], bool] = _always) -> None:
        self.topic = topic
        self.rows: dict[str, T] = {}
        self._key = key
        self._replaces = replaces

    def take(self, value: T) -> None:
        key = self._key(value)
        known = self.rows.get(key)
        if known is None or self._replaces(value, known):
            self.rows[key] = value


def is_at(location: Location, site: str, node: str) -> bool:
    return (not site or location.site == site) and (not node or location.node == node)


def placed(vm: Vm, location: Location) -> Placed:
    inventory = vm.inventory
    return Placed(
        vm_id=vm.vm_id,
        node=location.node,
        site=location.site,
        anti_affinity=inventory.anti_affinity if inventory else "",
        application=inventory.application if inventory else "",
        memory_mib=inventory.memory_mib if inventory else 0,
        storage_gib=inventory.storage_gib if inventory else 0,
        storage=location.storage,
    )
