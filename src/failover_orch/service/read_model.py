"""What the topics say now: routes, runs, health and readiness, inventory, settings, plans and policies, by record.

A read model only ever repeats what the workers decided. It knows how fresh it is, and whoever answers from it has to
say so: until it has caught up with where the topics ended when it began, it may not be asked at all.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from failover_orch import telemetry
from failover_orch.contract import Codec, key_of
from failover_orch.domain import (
    Brake,
    ClusterInventory,
    FailoverKind,
    HealthChange,
    Location,
    Placed,
    Placement,
    Policy,
    PolicyScope,
    Readiness,
    RecoveryPlan,
    Role,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    VmInventory,
    VmReplicationSettings,
    place,
)
from failover_orch.errors import LookupFailed, UndecodableRecord
from failover_orch.wire import Received

__all__ = ["READ_TOPICS", "ReadModel", "Vm"]

T = TypeVar("T")

READ_TOPICS = (
    "inventory",
    "replication-settings",
    "recovery-plans",
    "policies",
    "routing-updates",
    "failover-runs",
    "health-changes",
)
"""What a read model is fed from."""

log = telemetry.logger(__name__)


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


class _Latest(Generic[T]):
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


class ReadModel:
    """The latest of everything in `READ_TOPICS`."""

    def __init__(self) -> None:
        self.caught_up = False
        """True once everything has been read that was there when the reading began."""
        self.as_of_ms = 0
        """Kafka's timestamp of the newest record in here."""
        self.skipped = 0
        """Records that could not be decoded."""
        # A worker that was cut off may still have had an older route on its way: the epoch decides, never the order.
        self._routes = _Latest[RoutingUpdate](
            "routing-updates", lambda route: route.vm_id, lambda new, known: new.epoch > known.epoch
        )
        self._runs = _Latest[RunSnapshot]("failover-runs", lambda run: run.run_id)
        self._health = _Latest[HealthChange]("health-changes", lambda change: change.vm_id)
        self._plan_health = _Latest[HealthChange]("health-changes", lambda change: change.plan_id)
        self._inventory = _Latest[VmInventory]("inventory", lambda vm: vm.vm_id)
        self._settings = _Latest[VmReplicationSettings]("replication-settings", lambda settings: settings.vm_id)
        self._plans = _Latest[RecoveryPlan]("recovery-plans", lambda plan: plan.plan_id)
        # These records are in every partition, and partitions are not read in step with each other.
        self._policies = _Latest[Policy](
            "policies", lambda policy: key_of(policy).decode(), lambda new, known: new.set_at_ms >= known.set_at_ms
        )
        self._brakes = _Latest[Brake](
            "policies", lambda brake: key_of(brake).decode(), lambda new, known: new.at_ms >= known.at_ms
        )
        self._clusters = _Latest[ClusterInventory](
            "inventory", lambda cluster: cluster.cluster, lambda new, known: new.reported_at_ms >= known.reported_at_ms
        )
        self._tables: dict[type, _Latest[Any]] = {
            RoutingUpdate: self._routes,
            RunSnapshot: self._runs,
            HealthChange: self._health,
            VmInventory: self._inventory,
            VmReplicationSettings: self._settings,
            RecoveryPlan: self._plans,
            ClusterInventory: self._clusters,
            Policy: self._policies,
            Brake: self._brakes,
        }
        # A VM's runs are in as many partitions, so the end of one may be read after the beginning of the next.
        self._in_flight: dict[str, set[str]] = {}
        self._plans_by_vm: dict[str, list[str]] | None = None
        """Made when it is asked for; None once a plan has changed."""

    def take(self, records: Iterable[Received], codec: Codec) -> None:
        """Fold records as they were read. One that cannot be decoded is counted, logged and left out."""
        for record in records:
            if record.value is None:
                self.forget(record.topic, record.key.decode(errors="replace"))
            else:
                try:
                    self.apply(codec.decode_from(record.topic, record.value))
                except UndecodableRecord as error:
                    self._skip(record, error)
            self.as_of_ms = max(self.as_of_ms, record.timestamp_ms)

    def _skip(self, record: Received, error: UndecodableRecord) -> None:
        self.skipped += 1
        log.warning("record skipped", topic=record.topic, partition=record.partition, offset=record.offset, error=error)

    def apply(self, value: object) -> None:
        """Fold one value. The same values once more, in the same order, change nothing."""
        if isinstance(value, HealthChange) and not value.vm_id:
            self._plan_health.take(value)
            return
        table = self._tables.get(type(value))
        if table is None:
            return
        table.take(value)
        if isinstance(value, RecoveryPlan):
            self._plans_by_vm = None
        elif isinstance(value, RunSnapshot) and value.vm_id:
            runs = self._in_flight.setdefault(value.vm_id, set())
            # One that waits for approval has not begun: another run may still begin before it.
            if value.state.ended or value.state is RunState.AWAITING_APPROVAL:
                runs.discard(value.run_id)
            else:
                runs.add(value.run_id)

    def forget(self, topic: str, key: str) -> None:
        """Drop what a compacted topic says is gone."""
        for table in (*self._tables.values(), self._plan_health):
            if table.topic == topic:
                table.rows.pop(key, None)
        self._plans_by_vm = None

    def vm(self, name: str) -> Vm:
        """A VM by its id, or by its name where only one has it; upper and lower case are the same in a name.

        Raises:
            LookupFailed: no VM, or more than one, is called so.

        """
        if name in self._routes.rows or name in self._inventory.rows:
            return self._vm(name)
        wanted = name.casefold()
        called = [vm_id for vm_id in self._vm_ids() if self._name(vm_id).casefold() == wanted]
        if len(called) == 1:
            return self._vm(called[0])
        if called:
            raise LookupFailed(f"{len(called)} VMs are called {name!r}: say which by its id: {', '.join(called)}")
        raise LookupFailed(_unknown("VM", name, {*self._vm_ids(), *map(self._name, self._vm_ids())}))

    def member(self, vm_id: str) -> Vm:
        """A VM by its id alone, known or not: a plan may name one that nobody has reported."""
        return self._vm(vm_id)

    def vms(self, *, site: str = "", node: str = "", application: str = "") -> tuple[Vm, ...]:
        """VMs by name: those that are at a site or on a node, as primary or replica, and belong to an application."""
        found = [
            vm
            for vm in map(self._vm, self._vm_ids())
            if (not application or vm.application == application)
            and (not (site or node) or any(_is_at(location, site, node) for location in vm.locations))
        ]
        return tuple(sorted(found, key=lambda vm: (vm.name, vm.vm_id)))

    def run(self, run_id: str) -> RunSnapshot:
        """A run by its id, or by the beginning of it that only one has (its VMs' runs do not count).

        Raises:
            LookupFailed: no run, or more than one, has this id.

        """
        if run_id in self._runs.rows:
            return self._runs.rows[run_id]
        begun = [known for known in self._runs.rows if known.startswith(run_id) and "/" not in known]
        if run_id and len(begun) == 1:
            return self._runs.rows[begun[0]]
        if run_id and begun:
            raise LookupFailed(f"{len(begun)} runs begin with {run_id!r}: {', '.join(sorted(begun))}")
        raise LookupFailed(_unknown("run", run_id, self._runs.rows))

    def runs(
        self,
        *,
        vm_id: str = "",
        plan_id: str = "",
        state: str = "",
        parent_run_id: str | None = None,
        waiting: bool = False,
    ) -> tuple[RunSnapshot, ...]:
        """Runs, the newest first. An empty `parent_run_id` asks for those that stand alone, `waiting` for people."""
        found = [
            run
            for run in self._runs.rows.values()
            if (not vm_id or run.vm_id == vm_id)
            and (not plan_id or run.plan_id == plan_id)
            and (not state or run.state == state)
            and (parent_run_id is None or run.parent_run_id == parent_run_id)
            and (not waiting or self._waits_for_people(run))
        ]
        return tuple(sorted(found, key=lambda run: (-run.started_at_ms, run.run_id)))

    def _waits_for_people(self, run: RunSnapshot) -> bool:
        """Whether somebody has to say something to this very run: commitment of a plan's VMs is asked for once."""
        if not run.waits_for or run.state.ended:
            return False
        parent = self._runs.rows.get(run.parent_run_id)
        return run.state is not RunState.AWAITING_COMMIT or parent is None or parent.state.ended

    def plan(self, name: str) -> RecoveryPlan:
        """A recovery plan by its id, or by its name where only one has it.

        Raises:
            LookupFailed: no plan, or more than one, is called so.

        """
        plans = self._plans.rows
        if name in plans:
            return plans[name]
        called = [plan for plan in plans.values() if plan.name.casefold() == name.casefold()]
        if len(called) == 1:
            return called[0]
        if called:
            ids = ", ".join(plan.plan_id for plan in called)
            raise LookupFailed(f"{len(called)} recovery plans are called {name!r}: say which by its id: {ids}")
        raise LookupFailed(_unknown("recovery plan", name, plans))

    def plans(self) -> tuple[RecoveryPlan, ...]:
        """Every recovery plan, by name."""
        return tuple(sorted(self._plans.rows.values(), key=lambda plan: (plan.name, plan.plan_id)))

    def plan_readiness(self, plan_id: str) -> HealthChange | None:
        """What was last said of a plan's readiness; None where nothing was."""
        return self._plan_health.rows.get(plan_id)

    def policies(self) -> Mapping[str, Policy]:
        """Every policy by its `key` (`all`, `site/dr`), the widest first."""
        order = list(PolicyScope)
        found = sorted(self._policies.rows.values(), key=lambda policy: (order.index(policy.scope), policy.target))
        return {policy.key: policy for policy in found}

    def brake(self) -> Brake | None:
        """What was last said of the brake; None where nothing was."""
        return next(iter(self._brakes.rows.values()), None)

    def site(self, name: str) -> str:
        """A site by its name.

        Raises:
            LookupFailed: neither a cluster nor a VM was reported from a site of this name.

        """
        sites = {cluster.site for cluster in self._clusters.rows.values()}
        sites.update(location.site for route in self._routes.rows.values() for location in route.locations)
        if name not in sites:
            raise LookupFailed(_unknown("site", name, sites))
        return name

    def settings(self) -> tuple[VmReplicationSettings, ...]:
        """The failover addresses of every VM that has any."""
        return tuple(self._settings.rows.values())

    def placement(self, vm: Vm) -> Placement:
        """Where a VM's replica lives, or else where it would be placed.

        Raises:
            LookupFailed: the VM's inventory is not here yet.

        """
        if vm.inventory is None:
            raise LookupFailed(
                f"{vm.name} cannot be placed yet: its inventory is not known; its primary site's agent reports it"
            )
        # What runs on a node has been taken from its free memory by the node itself: only replicas are promises.
        replicas = [
            _placed(other, location)
            for other in map(self._vm, self._vm_ids())
            for location in other.locations
            if location.node and (location.role is not Role.PRIMARY or other.vm_id == vm.vm_id)
        ]
        return place(vm.inventory, tuple(self._clusters.rows.values()), replicas)

    def _vm_ids(self) -> list[str]:
        return sorted(self._routes.rows.keys() | self._inventory.rows.keys())

    def _name(self, vm_id: str) -> str:
        return self._vm(vm_id).name

    def _vm(self, vm_id: str) -> Vm:
        return Vm(
            vm_id=vm_id,
            route=self._routes.rows.get(vm_id),
            inventory=self._inventory.rows.get(vm_id),
            settings=self._settings.rows.get(vm_id),
            health=self._health.rows.get(vm_id),
            run=self._flying(vm_id, tests=False),
            test_run=self._flying(vm_id, tests=True),
            plan_ids=self._plans_of(vm_id),
        )

    def _plans_of(self, vm_id: str) -> tuple[str, ...]:
        if self._plans_by_vm is None:
            self._plans_by_vm = {}
            for plan_id, plan in sorted(self._plans.rows.items()):
                for member in {member for group in plan.groups for member in group.vm_ids}:
                    self._plans_by_vm.setdefault(member, []).append(plan_id)
        return tuple(self._plans_by_vm.get(vm_id, ()))

    def _flying(self, vm_id: str, *, tests: bool) -> RunSnapshot | None:
        """The run of a VM that is in flight: the newest, should the end of an older one not have been read yet."""
        runs = (self._runs.rows.get(run_id) for run_id in self._in_flight.get(vm_id, ()))
        fitting = (run for run in runs if run is not None and (run.kind is FailoverKind.TEST) is tests)
        return max(fitting, key=lambda run: (run.started_at_ms, run.run_id), default=None)


def _is_at(location: Location, site: str, node: str) -> bool:
    return (not site or location.site == site) and (not node or location.node == node)


def _placed(vm: Vm, location: Location) -> Placed:
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


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    if not known:
        return f"no {kind} {name!r} is known: none has been reported yet"
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"no {kind} {name!r} is known{hint}"
