"""A VM as it is found at one site: its machine, its record, and both put together as the end that the rules judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from failover_orch.domain.facts import MoveKind
from failover_orch.domain.inventory import Adapter, AdapterKind, Guest, IntegrationServices, Replication, VmInventory
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.terms import PointChoice, WantedPoint
from failover_orch.domain.transitions import FAILED_OVER
from failover_orch.hypervisors.hyperv.guest import configured, expected_of, systems
from failover_orch.hypervisors.hyperv.objects import Row
from failover_orch.hypervisors.hyperv.record import GuestSeen, Record, of_notes
from failover_orch.hypervisors.hyperv.seen import (
    AdapterSeen,
    Machine,
    adapters,
    guest_rows,
    points,
    services,
    statistics,
)
from failover_orch.hypervisors.hyperv.settings import HyperVSite, VmNaming
from failover_orch.hypervisors.hyperv.states import state_of
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules.ends import Configuration, End, EndAdapter, IsolatedCopy, RecoveryPoint

__all__ = ["Found", "bare_end", "called", "found", "inventory_of", "record_of", "with_record"]

_NO_POINTS = frozenset({ReplicationState.DISABLED, ReplicationState.WAITING_FOR_INITIAL_REPLICATION})
_NOTHING = Configuration()
_NOBODYS = WantedPoint(PointChoice.NAMED, point_id="unknown")


@dataclass(frozen=True, slots=True)
class Found:
    """A VM at a site, as it was when it was looked at."""

    vm_id: str
    machine: Machine
    record: Record
    adapters: tuple[AdapterSeen, ...]
    end: End
    inventory: VmInventory
    copy: Machine | None = None
    copy_adapters: tuple[AdapterSeen, ...] = ()
    copy_services: IntegrationServices = IntegrationServices.UNKNOWN

    def seen_as(self, *, copy: bool) -> VmInventory:
        """The VM, or with its test copy's services: what runs in the one guest says nothing of the other."""
        if not copy:
            return self.inventory
        return replace(self.inventory, guest=replace(self.inventory.guest, integration_services=self.copy_services))


def called(machine: Machine, naming: VmNaming) -> str:
    """What a VM is called in events."""
    return str(machine.vm) if naming is VmNaming.ID else machine.name


def record_of(machine: Machine, site: str) -> Record:
    """The VM's own record at this site; an empty one where it has none.

    Raises:
        StepRefused: there is one and it cannot be read.

    """
    return of_notes(machine.notes, site, machine.name) or Record(site)


def found(settings: HyperVSite, machine: Machine, copy: Machine | None, seen: GuestSeen | None, now_ms: int) -> Found:
    """Look at a VM closely. `copy` is its test copy, `seen` what its guest last told of itself.

    Raises:
        HypervisorError: the node does not answer, or the VM's record cannot be read.

    """
    vm_id = called(machine, settings.vm_ids)
    record = record_of(machine, settings.site)
    present = adapters(machine.host, settings.adapter_ids, machine.vm).get(machine.vm, ())
    measured = Row({})
    if machine.mode is not ReplicationMode.NONE:
        measured = statistics(machine.host, machine.vm).get(machine.vm, measured)
    guest = _guest(machine, present, record, seen or record.guest)
    record = replace(record, guest=guest)
    end = _end(settings, vm_id, machine, present, record, measured, now_ms)
    result = Found(vm_id, machine, record, present, end, inventory_of(settings, vm_id, machine, present, guest))
    return result if copy is None else _with_copy(settings, result, copy, now_ms)


def _with_copy(settings: HyperVSite, found: Found, copy: Machine, now_ms: int) -> Found:
    present = adapters(copy.host, settings.adapter_ids, copy.vm).get(copy.vm, ())
    seen = replace(_copy(settings, copy, present, found.record, now_ms), node=copy.host.name)
    end = replace(found.end, copy=seen)
    state = IntegrationServices.UNKNOWN
    if copy.power is Power.RUNNING:
        state = services(copy.host, copy.vm).get(copy.vm, IntegrationServices.ABSENT)
    return replace(found, end=end, copy=copy, copy_adapters=present, copy_services=state)


def with_record(old: Found, record: Record, notes: str | None) -> Found:
    """The VM with another record, which its notes now hold."""
    end = replace(old.end, epoch=record.epoch, staged=record.staged)
    return replace(old, record=record, machine=replace(old.machine, notes=notes), end=end)


def bare_end(site: str, cluster: str, vm_id: str, machine: Machine, epoch: int = 0) -> End:
    """An end of which only the machine is known."""
    return End(
        vm_id=vm_id,
        site=site,
        cluster=cluster,
        node=machine.host.name,
        storage=machine.path,
        mode=machine.mode,
        state=state_of(machine.replication_state),
        power=machine.power,
        adapters=(),
        arrival=MoveKind.PLACED,
        arrived_at_ms=0,
        epoch=epoch,
    )


def _end(
    settings: HyperVSite,
    vm_id: str,
    machine: Machine,
    present: Sequence[AdapterSeen],
    record: Record,
    measured: Row,
    now_ms: int,
) -> End:
    end = bare_end(settings.site, settings.cluster, vm_id, machine, record.epoch)
    replicated_at_ms = measured.time_ms("LastReplicationTime")
    there: tuple[RecoveryPoint, ...] = ()
    if end.mode is ReplicationMode.REPLICA and end.state not in _NO_POINTS:
        there = points(machine.host, machine.vm, replicated_at_ms)
    chosen: RecoveryPoint | None = None
    if end.mode is ReplicationMode.REPLICA and end.state in FAILED_OVER:
        chosen = record.failed_over_to or (there[-1] if there else None)
    if end.state is ReplicationState.FAILED_OVER:
        there = () if chosen is None else (chosen,)
    return replace(
        end,
        adapters=_end_adapters(present, record.guest.configured),
        settled_at_ms=_settled_at_ms(settings, machine, now_ms),
        staged=record.staged,
        last_replication_at_ms=replicated_at_ms,
        recovery_points=there,
        failed_over_to=chosen,
        pending_bytes=measured.number("PendingReplicationSize"),
    )


def _end_adapters(present: Sequence[AdapterSeen], told: Mapping[str, Configuration]) -> tuple[EndAdapter, ...]:
    return tuple(
        EndAdapter(
            adapter.adapter_id,
            adapter.connected,
            told.get(adapter.adapter_id, _NOTHING),
            told.get(adapter.adapter_id, _NOTHING),
        )
        for adapter in present
    )


def _copy(
    settings: HyperVSite, copy: Machine, present: Sequence[AdapterSeen], record: Record, now_ms: int
) -> IsolatedCopy:
    made = record.copy
    told: Mapping[str, Configuration] = {}
    if copy.power is Power.RUNNING:
        told = configured(guest_rows(copy.host, copy.vm), present, expected_of(made.staged if made else ()))
    ends = _end_adapters(present, told)
    settled_at_ms = _settled_at_ms(settings, copy, now_ms)
    if made is None:
        # Somebody made it by hand: it is nobody's run's, and stands in the way of one of ours.
        nameless = RecoveryPoint("unknown", 0)
        return IsolatedCopy("a person", _NOBODYS, nameless, "", ends, (), copy.power, settled_at_ms)
    return IsolatedCopy(
        made.run_id, made.wanted, made.point, made.network, ends, made.staged, copy.power, settled_at_ms
    )


def _settled_at_ms(settings: HyperVSite, machine: Machine, now_ms: int) -> int:
    """When a guest that does not answer yet counts as one that never will."""
    if machine.power is Power.OFF or machine.heartbeat:
        return 0
    return now_ms + max(0, round(settings.boot_s * 1000) - machine.uptime_ms)


def _guest(machine: Machine, present: Sequence[AdapterSeen], record: Record, seen: GuestSeen) -> GuestSeen:
    """What the guest tells of itself now, or what it last told where it cannot be asked."""
    if machine.power is Power.OFF:
        return seen
    told = configured(guest_rows(machine.host, machine.vm), present, expected_of(record.staged))
    return GuestSeen(
        seen.system or systems(machine.host, machine.vm).get(machine.vm, ""),
        services(machine.host, machine.vm).get(machine.vm, IntegrationServices.ABSENT),
        told,
    )


def inventory_of(
    settings: HyperVSite, vm_id: str, machine: Machine, present: Sequence[AdapterSeen], guest: GuestSeen
) -> VmInventory:
    """The VM as the rules want it; its replication is filled in by whoever knows the other end."""
    return VmInventory(
        vm_id=vm_id,
        name=machine.name,
        adapters=tuple(
            Adapter(
                adapter.adapter_id,
                AdapterKind.LEGACY if adapter.legacy else AdapterKind.SYNTHETIC,
                adapter.mac,
                adapter.switch,
                guest.configured.get(adapter.adapter_id, _NOTHING).addresses,
            )
            for adapter in present
        ),
        guest=Guest(settings.guests.get(vm_id) or guest.system or "unknown", guest.services),
        replication=Replication(state_of(machine.replication_state), settings.site, ""),
        memory_mib=machine.memory_mib,
        cpus=machine.cpus,
    )
