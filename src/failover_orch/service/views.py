"""The forms in which the read model is shown: the bodies of the HTTP answers, and what commands print with `--json`.

Every form begins with `as_of`: Kafka's time of the newest record that it takes account of, RFC 3339; null where there
is none yet. Other times are milliseconds since the Unix epoch, as in the events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from failover_orch.domain import (
    AdapterAddresses,
    FamilyAddresses,
    HealthChange,
    Location,
    Placement,
    Readiness,
    Role,
    RunSnapshot,
    UnsetAdapters,
    VmReplicationSettings,
)
from failover_orch.service.read_model import ReadModel, Vm

__all__ = [
    "AcceptedView",
    "AdapterView",
    "PlacementView",
    "RunList",
    "RunView",
    "VmList",
    "VmSummary",
    "VmView",
    "as_of",
    "placement_view",
    "run_list",
    "run_view",
    "vm_list",
    "vm_view",
]


@dataclass(frozen=True, slots=True)
class VmSummary:
    """A VM in a list. `node` and `site` are where it runs, empty while no node has reported it."""

    vm_id: str
    name: str
    node: str
    site: str
    role: Role
    replica_node: str
    replica_site: str
    application: str
    health: str
    epoch: int
    run_id: str
    readiness: Readiness
    defects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VmList:
    as_of: str | None
    vms: tuple[VmSummary, ...]


@dataclass(frozen=True, slots=True)
class AdapterView:
    """An adapter, what it has now and what it is to have after a failover. A family that is null keeps what it has.

    `failover_…` is for the site that the VM is replicated to from its home, `home_…` for the way back, `test_…` for a
    test copy.
    """

    adapter_id: str
    kind: str
    mac: str
    network: str
    addresses: tuple[str, ...]
    failover_ipv4: FamilyAddresses | None
    failover_ipv6: FamilyAddresses | None
    home_ipv4: FamilyAddresses | None
    home_ipv6: FamilyAddresses | None
    test_ipv4: FamilyAddresses | None
    test_ipv6: FamilyAddresses | None


@dataclass(frozen=True, slots=True)
class VmView:
    """A VM. `run` is the failover in flight, `test_run` the test beside it; `health` is null until a worker has said
    something of it.
    """

    as_of: str | None
    vm_id: str
    name: str
    epoch: int
    node: str
    site: str
    locations: tuple[Location, ...]
    application: str
    guest: str
    integration_services: str
    health: HealthChange | None
    run: RunSnapshot | None
    adapters: tuple[AdapterView, ...]
    unset_adapters: UnsetAdapters
    test_network: str
    test_run: RunSnapshot | None
    plan_ids: tuple[str, ...]
    readiness: Readiness
    defects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlacementView:
    """Where a VM's replica lives, or else where it would go (see `existing` in the placement)."""

    as_of: str | None
    vm_id: str
    name: str
    placement: Placement


@dataclass(frozen=True, slots=True)
class RunList:
    as_of: str | None
    runs: tuple[RunSnapshot, ...]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run; `members` are the runs of its VMs where it is the run of a list or plan."""

    as_of: str | None
    run: RunSnapshot
    members: tuple[RunSnapshot, ...]


@dataclass(frozen=True, slots=True)
class AcceptedView:
    """A command was taken: it is in Kafka. `id` is that of what was asked for; the answer's Location shows it."""

    id: str


def as_of(model: ReadModel) -> str | None:
    """Kafka's time of the newest record in the model, RFC 3339."""
    if not model.as_of_ms:
        return None
    return datetime.fromtimestamp(model.as_of_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def vm_list(model: ReadModel, vms: Iterable[Vm]) -> VmList:
    return VmList(as_of(model), tuple(_summary(vm) for vm in vms))


def vm_view(model: ReadModel, vm: Vm) -> VmView:
    summary = _summary(vm)
    guest = vm.inventory.guest if vm.inventory is not None else None
    return VmView(
        as_of=as_of(model),
        vm_id=vm.vm_id,
        name=vm.name,
        epoch=vm.epoch,
        node=summary.node,
        site=summary.site,
        locations=vm.locations,
        application=vm.application,
        guest=guest.system if guest is not None else "",
        integration_services=guest.integration_services.value if guest is not None else "",
        health=vm.health,
        run=vm.run,
        adapters=_adapters(vm),
        unset_adapters=vm.settings.unset_adapters if vm.settings is not None else UnsetAdapters.REFUSE,
        test_network=vm.settings.test_network if vm.settings is not None else "",
        test_run=vm.test_run,
        plan_ids=vm.plan_ids,
        readiness=vm.readiness,
        defects=vm.defects,
    )


def placement_view(model: ReadModel, vm: Vm) -> PlacementView:
    return PlacementView(as_of(model), vm.vm_id, vm.name, model.placement(vm))


def run_list(model: ReadModel, runs: Iterable[RunSnapshot]) -> RunList:
    return RunList(as_of(model), tuple(runs))


def run_view(model: ReadModel, run: RunSnapshot) -> RunView:
    members = model.runs(parent_run_id=run.run_id) if not run.vm_id else ()
    return RunView(as_of(model), run, tuple(sorted(members, key=lambda member: member.run_id)))


def _summary(vm: Vm) -> VmSummary:
    active = next(iter(vm.locations), None)
    replica = vm.replica()
    if replica is active:
        replica = None
    return VmSummary(
        vm_id=vm.vm_id,
        name=vm.name,
        node=active.node if active is not None else "",
        site=active.site if active is not None else "",
        role=active.role if active is not None else Role.UNKNOWN,
        replica_node=replica.node if replica is not None else "",
        replica_site=replica.site if replica is not None else "",
        application=vm.application,
        health=vm.health.health.value if vm.health is not None else "",
        epoch=vm.epoch,
        run_id=vm.run.run_id if vm.run is not None else "",
        readiness=vm.readiness,
        defects=vm.defects,
    )


def _adapters(vm: Vm) -> tuple[AdapterView, ...]:
    known = {adapter.adapter_id: adapter for adapter in vm.inventory.adapters} if vm.inventory is not None else {}
    wanted = vm.settings or VmReplicationSettings(vm.vm_id, ())
    there, home, test = (
        {adapter.adapter_id: adapter for adapter in each}
        for each in (wanted.adapters, wanted.home_adapters, wanted.test_adapters)
    )
    views = []
    for adapter_id in dict.fromkeys([*known, *there, *home, *test]):
        adapter = known.get(adapter_id)
        unset = AdapterAddresses(adapter_id)
        failover, back, copy = (each.get(adapter_id, unset) for each in (there, home, test))
        views.append(
            AdapterView(
                adapter_id=adapter_id,
                kind=adapter.kind.value if adapter is not None else "",
                mac=adapter.mac if adapter is not None else "",
                network=adapter.network if adapter is not None else "",
                addresses=adapter.addresses if adapter is not None else (),
                failover_ipv4=failover.ipv4,
                failover_ipv6=failover.ipv6,
                home_ipv4=back.ipv4,
                home_ipv6=back.ipv6,
                test_ipv4=copy.ipv4,
                test_ipv6=copy.ipv6,
            )
        )
    return tuple(views)
