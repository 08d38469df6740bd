"""All VMs of a site at one look: what watching, listing and reporting go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from failover_orch.domain.inventory import IntegrationServices
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.errors import HypervisorError, StepFailed
from failover_orch.hypervisors.hyperv.guest import configured, expected_of, systems
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.objects import Row
from failover_orch.hypervisors.hyperv.peers import Peers
from failover_orch.hypervisors.hyperv.record import GuestSeen, Record, of_notes
from failover_orch.hypervisors.hyperv.seen import (
    AdapterSeen,
    Machine,
    adapters,
    guest_rows,
    machines,
    replications,
    services,
)
from failover_orch.hypervisors.hyperv.settings import HyperVSite
from failover_orch.hypervisors.hyperv.states import state_of
from failover_orch.hypervisors.hyperv.threads import each
from failover_orch.hypervisors.protocol import Power

__all__ = ["Hosted", "survey"]

_TAKEN = frozenset({ReplicationState.FAILED_OVER})
_TAKEN_ONCE_RUNNING = frozenset({ReplicationState.FAILED_OVER_WAITING_COMPLETION})


@dataclass(frozen=True, slots=True)
class Hosted:
    """A VM of the site, as a survey found it."""

    machine: Machine
    record: Record
    adapters: tuple[AdapterSeen, ...]
    replication: Row
    guest: GuestSeen | None
    """What its guest tells now; None where it is off or booting."""
    active: bool


def survey(settings: HyperVSite, hosts: Sequence[Host], peers: Peers, known: Mapping[UUID, str]) -> tuple[Hosted, ...]:
    """Every VM of the site that replicates, or of which this project has kept a record; no test copies.

    `known` gives the systems of guests that were asked before. A VM that two nodes claim at once is left out: it is on
    its way, and the next survey will know. So is one whose record cannot be read, until somebody has seen to that.

    Raises:
        StepFailed: no node of the site answers.

    """

    def ask(host: Host) -> tuple[Hosted, ...] | HypervisorError:
        try:
            return _on_host(settings, host, known)
        except HypervisorError as error:
            return error

    answers = each(ask, hosts)
    told = [answer for answer in answers if isinstance(answer, tuple)]
    if not told:
        error = next(answer for answer in answers if isinstance(answer, HypervisorError))
        raise StepFailed(f"no node of {settings.site} answers: {error}")
    everything = [hosted for answer in told for hosted in answer]
    times: dict[UUID, int] = {}
    for hosted in everything:
        times[hosted.machine.vm] = times.get(hosted.machine.vm, 0) + 1
    return _activity([hosted for hosted in everything if times[hosted.machine.vm] == 1], peers)


def _on_host(settings: HyperVSite, host: Host, known: Mapping[UUID, str]) -> tuple[Hosted, ...]:
    wanted = {}
    for machine in machines(host):
        try:
            record = of_notes(machine.notes, settings.site, machine.name)
        except HypervisorError:
            continue
        if not machine.is_test_copy and (record is not None or machine.mode is not ReplicationMode.NONE):
            wanted[machine.vm] = (machine, record or Record(settings.site))
    if not wanted:
        return ()
    present = adapters(host, settings.adapter_ids)
    settings_of = replications(host)
    up = [vm for vm, (machine, _) in wanted.items() if _booted(machine, settings)]
    told = guest_rows(host) if up else ()
    states = services(host) if up else {}
    of_guests = dict(known)
    if set(up) - set(of_guests):
        of_guests |= systems(host)

    def guest(vm: UUID, record: Record) -> GuestSeen | None:
        if vm not in up:
            return None
        found = configured(told, present.get(vm, ()), expected_of(record.staged))
        return GuestSeen(of_guests.get(vm, ""), states.get(vm, IntegrationServices.ABSENT), found)

    return tuple(
        Hosted(machine, record, present.get(vm, ()), settings_of.get(vm, Row({})), guest(vm, record), active=True)
        for vm, (machine, record) in wanted.items()
    )


def _activity(found: Sequence[Hosted], peers: Peers) -> tuple[Hosted, ...]:
    """The same, each with whether it is this site that reports its inventory.

    Only a primary that does not run, or that does not come through, has reason to ask whether it was overtaken.
    """
    doubtful = {
        hosted.machine.vm
        for hosted in found
        if hosted.machine.mode is ReplicationMode.PRIMARY
        and (hosted.machine.power is Power.OFF or state_of(hosted.machine.replication_state) is ReplicationState.ERROR)
    }
    overtaken = {machine.vm for machine in peers.machines() if _taken(machine)} if doubtful else set()
    return tuple(
        Hosted(
            hosted.machine,
            hosted.record,
            hosted.adapters,
            hosted.replication,
            hosted.guest,
            active=_taken(hosted.machine)
            if hosted.machine.mode is ReplicationMode.REPLICA
            else not (hosted.machine.vm in doubtful and hosted.machine.vm in overtaken),
        )
        for hosted in found
    )


def _booted(machine: Machine, settings: HyperVSite) -> bool:
    """Whether the guest is up, or has had time enough for it."""
    return machine.power is Power.RUNNING and (machine.heartbeat or machine.uptime_ms >= settings.boot_s * 1000)


def _taken(machine: Machine) -> bool:
    """Whether a failover has made this replica the VM."""
    state = state_of(machine.replication_state)
    if machine.mode is not ReplicationMode.REPLICA:
        return False
    return state in _TAKEN or (state in _TAKEN_ONCE_RUNNING and machine.power is Power.RUNNING)
