"""What the topics say now: routes, runs, health and readiness, inventory, settings, plans and policies, by record.

A read model only ever repeats what the workers decided. It knows how fresh it is, and whoever answers from it has to
say so: until it has caught up with where the topics ended when it began, it may not be asked at all; see `knowledge`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from failover_orch import telemetry
from failover_orch.contract import Codec, key_of
from failover_orch.domain import (
    AccessToken,
    Brake,
    ClusterInventory,
    FailoverKind,
    HealthChange,
    Placed,
    Placement,
    Policy,
    PolicyScope,
    RecoveryPlan,
    Role,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    SettingsRevision,
    SettingsStanding,
    VmInventory,
    VmReplicationSettings,
    place,
    unfit_nodes,
)
from failover_orch.errors import LookupFailed, UndecodableRecord
from failover_orch.service.changes import RouteChange
from failover_orch.service.known import Latest, Vm, is_at, placed
from failover_orch.service.naming import NameIndex, unknown
from failover_orch.wire import Received

__all__ = ["READ_TOPICS", "ReadModel", "Vm"]

READ_TOPICS = (
    "inventory",
    "replication-settings",
    "recovery-plans",
    "policies",
    "routing-updates",
    "failover-runs",
    "health-changes",
    "settings-revisions",
    "settings-standing",
    "access-tokens",
)
"""What a read model is fed from."""

log = telemetry.logger(__name__)

_REVISIONS_REPEATED = 10
"""Among so many of the newest a revision may be told again: a reader that begins anew reads none twice."""


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
        self._routes = Latest[RoutingUpdate](
            "routing-updates", lambda route: route.vm_id, lambda new, known: new.epoch > known.epoch
        )
        self._runs = Latest[RunSnapshot]("failover-runs", lambda run: run.run_id)
        self._health = Latest[HealthChange]("health-changes", lambda change: change.vm_id)
        self._plan_health = Latest[HealthChange]("health-changes", lambda change: change.plan_id)
        # Each site has its own topic for it, and a VM that moved to another site is in both of them.
        self._inventory = Latest[VmInventory](
            "inventory", lambda vm: vm.vm_id, lambda new, known: new.reported_at_ms >= known.reported_at_ms
        )
        self._settings = Latest[VmReplicationSettings]("replication-settings", lambda settings: settings.vm_id)
        self._plans = Latest[RecoveryPlan]("recovery-plans", lambda plan: plan.plan_id)
        # These records are in every partition, and partitions are not read in step with each other.
        self._policies = Latest[Policy](
            "policies", lambda policy: key_of(policy).decode(), lambda new, known: new.set_at_ms >= known.set_at_ms
        )
        self._brakes = Latest[Brake](
            "policies", lambda brake: key_of(brake).decode(), lambda new, known: new.at_ms >= known.at_ms
        )
        self._clusters = Latest[ClusterInventory](
            "inventory", lambda cluster: cluster.cluster, lambda new, known: new.reported_at_ms >= known.reported_at_ms
        )
        self._standings = Latest[SettingsStanding]("settings-standing", lambda one: key_of(one).decode())
        self._tokens = Latest[AccessToken]("access-tokens", lambda token: token.token_id)
        self._revisions: dict[str, list[SettingsRevision]] = {}
        self._tables: dict[type, Latest[Any]] = {
            RoutingUpdate: self._routes,
            RunSnapshot: self._runs,
            HealthChange: self._health,
            VmInventory: self._inventory,
            VmReplicationSettings: self._settings,
            RecoveryPlan: self._plans,
            ClusterInventory: self._clusters,
            Policy: self._policies,
            Brake: self._brakes,
            SettingsStanding: self._standings,
            AccessToken: self._tokens,
        }
        # A VM's runs are in as many partitions, so the end of one may be read after the beginning of the next.
        self._in_flight: dict[str, set[str]] = {}
        self._plans_by_vm: dict[str, list[str]] | None = None
        """Made when it is asked for; None once a plan has changed."""
        self._names = NameIndex()
        self.route_places: dict[str, RouteChange] = {}
        """For each VM the record that its route is from."""
        self._changed: list[RouteChange] = []

    def take(self, records: Iterable[Received], codec: Codec) -> None:
        """Fold records as they were read. One that cannot be decoded is counted, logged and left out."""
        for record in records:
            if record.value is None:
                self.forget(record.topic, record.key.decode(errors="replace"))
            else:
                try:
                    value = codec.decode_from(record.topic, record.value)
                except UndecodableRecord as error:
                    self._skip(record, error)
                    continue
                self.apply(value)
                if isinstance(value, RoutingUpdate) and self._routes.rows.get(value.vm_id) is value:
                    self._note(RouteChange(value.vm_id, record.partition, record.offset))
            self.as_of_ms = max(self.as_of_ms, record.timestamp_ms)

    def _note(self, change: RouteChange) -> None:
        self.route_places[change.vm_id] = change
        self._changed.append(change)

    def changed_routes(self) -> list[RouteChange]:
        """The routes that have changed since this was last asked, in the order in which they were read."""
        changed, self._changed = self._changed, []
        return changed

    def _skip(self, record: Received, error: UndecodableRecord) -> None:
        self.skipped += 1
        log.warning("record skipped", topic=record.topic, partition=record.partition, offset=record.offset, error=error)

    def apply(self, value: object) -> None:
        """Fold one value. The same values once more, in the same order, change nothing."""
        if isinstance(value, HealthChange) and not value.vm_id:
            self._plan_health.take(value)
            return
        if isinstance(value, SettingsRevision):
            self._revise(value)
            return
        table = self._tables.get(type(value))
        if table is None:
            return
        table.take(value)
        if isinstance(value, RoutingUpdate | VmInventory):
            self._names.put(value.vm_id, self.name_of(value.vm_id))
        elif isinstance(value, RecoveryPlan):
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
        if topic in (self._routes.topic, self._inventory.topic):
            known = key in self._routes.rows or key in self._inventory.rows
            self._names.put(key, self.name_of(key) if known else "")
        self._plans_by_vm = None

    def _revise(self, revision: SettingsRevision) -> None:
        """Keep every revision, by its place in the history: a refused one leaves the version as it was."""
        history = self._revisions.setdefault(revision.target, [])
        if revision not in history[-_REVISIONS_REPEATED:]:
            history.append(revision)

    def vm(self, name: str) -> Vm:
        """A VM by its id, or by its name where only one has it; upper and lower case are the same in a name.

        Raises:
            LookupFailed: no VM, or more than one, is called so.

        """
        return self._vm(self.vm_id_of(name))

    def vm_id_of(self, name: str) -> str:
        """The id of a VM by its id or name, as `vm` finds it. Raises LookupFailed as `vm` does."""
        if name in self._routes.rows or name in self._inventory.rows:
            return name
        called = self._names.called(name)
        if len(called) == 1:
            return called[0]
        if called:
            raise LookupFailed(f"{len(called)} VMs are called {name!r}: say which by its id: {', '.join(called)}")
        raise LookupFailed(unknown("VM", name, {*self._vm_ids(), *map(self.name_of, self._vm_ids())}))

    def route(self, vm_id: str) -> RoutingUpdate | None:
        """A VM's route by its id alone; None where there is none."""
        return self._routes.rows.get(vm_id)

    def inventory_of(self, vm_id: str) -> VmInventory | None:
        """A VM's inventory by its id alone; None where nobody has reported it."""
        return self._inventory.rows.get(vm_id)

    def knows(self, vm_id: str) -> bool:
        """Whether a VM of this very id was ever reported."""
        return vm_id in self._routes.rows or vm_id in self._inventory.rows

    def member(self, vm_id: str) -> Vm:
        """A VM by its id alone, known or not: a plan may name one that nobody has reported."""
        return self._vm(vm_id)

    def vms(self, *, site: str = "", node: str = "", application: str = "") -> tuple[Vm, ...]:
        """VMs by name: those that are at a site or on a node, as primary or replica, and belong to an application."""
        found = [
            vm
            for vm in map(self._vm, self._vm_ids())
            if (not application or vm.application == application)
            and (not (site or node) or any(is_at(location, site, node) for location in vm.locations))
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
        raise LookupFailed(unknown("run", run_id, self._runs.rows))

    def find_run(self, run_id: str) -> RunSnapshot | None:
        """A run by its very id; None where there is none."""
        return self._runs.rows.get(run_id)

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
        raise LookupFailed(unknown("recovery plan", name, plans))

    def find_plan(self, plan_id: str) -> RecoveryPlan | None:
        """A recovery plan by its very id; None where there is none."""
        return self._plans.rows.get(plan_id)

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
            raise LookupFailed(unknown("site", name, sites))
        return name

    def cluster(self, name: str) -> ClusterInventory:
        """A cluster by its name, upper and lower case being the same.

        Raises:
            LookupFailed: no cluster of this name was reported.

        """
        clusters = self._clusters.rows
        found = [clusters[name]] if name in clusters else []
        found = found or [one for one in clusters.values() if one.cluster.casefold() == name.casefold()]
        if len(found) == 1:
            return found[0]
        raise LookupFailed(unknown("cluster", name, clusters))

    def clusters(self) -> tuple[ClusterInventory, ...]:
        """Every cluster, by name."""
        return tuple(sorted(self._clusters.rows.values(), key=lambda cluster: cluster.cluster))

    def revisions(self, target: str) -> tuple[SettingsRevision, ...]:
        """What came of every change to the settings of a cluster, or of a VM by its id: the oldest first."""
        return tuple(self._revisions.get(target, ()))

    def revision(self, target: str) -> SettingsRevision | None:
        """The settings of a cluster, or of a VM by its id, as they are now; None where nobody has set any."""
        accepted = (revision for revision in reversed(self._revisions.get(target, ())) if not revision.refused)
        return next(accepted, None)

    def standings(self, target: str) -> tuple[SettingsStanding, ...]:
        """How each node of a cluster, or a VM by its id, stands to its settings, by node."""
        found = (one for one in self._standings.rows.values() if one.target == target)
        return tuple(sorted(found, key=lambda standing: standing.node))

    def tokens(self) -> tuple[AccessToken, ...]:
        """Every API token, those that no longer hold too, by its owner's name."""
        return tuple(sorted(self._tokens.rows.values(), key=lambda token: (token.name, token.token_id)))

    def token(self, token_id: str) -> AccessToken | None:
        """An API token by its id; None where there is none."""
        return self._tokens.rows.get(token_id)

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
        return place(vm.inventory, self.clusters(), self.replicas(vm.vm_id), unfit=self._unfit())

    def replicas(self, vm_id: str = "") -> tuple[Placed, ...]:
        """Every replica, where it lives; of the VM of this id every end."""
        # What runs on a node has been taken from its free memory by the node itself: only replicas are promises.
        return tuple(
            placed(other, location)
            for other in map(self._vm, self._vm_ids())
            for location in other.locations
            if location.node and (location.role is not Role.PRIMARY or other.vm_id == vm_id)
        )

    def _unfit(self) -> dict[tuple[str, str], str]:
        """Nodes that cannot take what is set for their cluster, so that no replica goes there."""
        found: dict[tuple[str, str], str] = {}
        for cluster in self.clusters():
            standings = {one.node: one for one in self.standings(cluster.cluster)}
            found |= unfit_nodes(self.revision(cluster.cluster), cluster, standings)
        return found

    def _vm_ids(self) -> list[str]:
        return sorted(self._routes.rows.keys() | self._inventory.rows.keys())

    def name_of(self, vm_id: str) -> str:
        """What people call a VM; its id where nobody has told its name."""
        inventory, route = self._inventory.rows.get(vm_id), self._routes.rows.get(vm_id)
        told = inventory.name if inventory is not None else ""
        return told or (route.name if route is not None else "") or vm_id

    def _vm(self, vm_id: str) -> Vm:
        return Vm(
            vm_id=vm_id,
            route=self._routes.rows.get(vm_id),
            inventory=self._inventory.rows.get(vm_id),
            settings=self._settings.rows.get(vm_id),
            health=self._health.rows.get(vm_id),
            run=self._flying(vm_id, tests=False),
            test_run=self._flying(vm_id, tests=True),
            plan_ids=self.plans_of(vm_id),
        )

    def plans_of(self, vm_id: str) -> tuple[str, ...]:
        """The recovery plans that name a VM, by their ids."""
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
