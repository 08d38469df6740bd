"""What the hosts of a site have to tell: they are looked at again and again, and what has changed is told.

Hyper-V's commands tell no events. A VM's last arrival that was told stands in its record, so that a move which happens
while nobody watches is seen when somebody does again; it is written there once it has been told for good. Between two
looks a VM may have been elsewhere and back: that is never known.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.inventory import ClusterInventory, Replication, VmInventory
from failover_orch.domain.replication import ReplicationMode
from failover_orch.domain.replication_settings import VmReplication
from failover_orch.errors import HypervisorError
from failover_orch.hypervisors.hyperv.acts import keep_record
from failover_orch.hypervisors.hyperv.clusters import Clusters
from failover_orch.hypervisors.hyperv.ends import called, inventory_of, record_of
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.nodes import look_at
from failover_orch.hypervisors.hyperv.peers import Peers
from failover_orch.hypervisors.hyperv.record import Arrival, GuestSeen
from failover_orch.hypervisors.hyperv.seen import Machine
from failover_orch.hypervisors.hyperv.settings import HyperVSite
from failover_orch.hypervisors.hyperv.states import state_of
from failover_orch.hypervisors.hyperv.survey import Hosted, survey
from failover_orch.hypervisors.hyperv.vm_replication import settings_in
from failover_orch.hypervisors.protocol import HostedVm, Observation, Observed, Power

__all__ = ["Watching"]

_BATCH = 500


@dataclass(frozen=True, slots=True)
class _Entry:
    """Something to tell; once it is told, the arrival is to be written into the VM's record."""

    observed: Observed
    vm: UUID | None = None
    arrival: Arrival | None = None


@dataclass(frozen=True, slots=True)
class _LastSeen:
    node: str
    running: bool
    at_ms: int


class Watching:
    """Looks at the hosts, no more often than the settings say, and keeps what is to be told until it has been."""

    def __init__(
        self, settings: HyperVSite, hosts: Sequence[Host], peers: Peers, clusters: Clusters, clock: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._peers = peers
        self._clusters = clusters
        self._clock = clock
        self._telling = threading.Lock()
        self._looking = threading.Lock()
        self._hosted: tuple[Hosted, ...] = ()
        self._hosted_at_s = float("-inf")
        self._guests: dict[UUID, GuestSeen] = {}
        self._position = 0
        self._entries: list[_Entry] = []
        self._arrivals: dict[UUID, Arrival] = {}
        self._unwritten: dict[UUID, Arrival] = {}
        self._last_seen: dict[UUID, _LastSeen] = {}
        self._inventories: dict[UUID, VmInventory] = {}
        self._told_clusters: tuple[ClusterInventory, ...] = ()

    def seen(self, vm: UUID) -> GuestSeen | None:
        """What the VM's guest last told of itself."""
        return self._guests.get(vm)

    def see(self, vm: UUID, guest: GuestSeen) -> None:
        """Keep what a guest tells of itself, for when it cannot be asked."""
        if guest.configured:
            self._guests[vm] = guest

    def replications(self) -> Mapping[str, VmReplication]:
        """How each VM that is active here, and replicates, does so.

        Raises:
            HypervisorError: no node of the site answers.

        """
        return {
            called(hosted.machine, self._settings.vm_ids): settings_in(hosted.replication)
            # Told with the time of now, so that what was seen before a change cannot pass for what came of it.
            for hosted in self._look(anew=True)
            if hosted.active and hosted.machine.mode is not ReplicationMode.NONE and hosted.replication.values
        }

    def vms(self) -> tuple[HostedVm, ...]:
        """Every VM of the site.

        Raises:
            HypervisorError: no node of the site answers.

        """
        return tuple(
            HostedVm(
                vm_id=called(hosted.machine, self._settings.vm_ids),
                name=hosted.machine.name,
                cluster=self._settings.cluster,
                node=hosted.machine.host.name,
                storage=hosted.machine.path,
                mode=hosted.machine.mode,
                state=state_of(hosted.machine.replication_state),
                power=hosted.machine.power,
                epoch=hosted.record.epoch,
                frequency_s=hosted.replication.number("ReplicationFrequencySec") or 300,
                active=hosted.active,
            )
            for hosted in self._look()
        )

    def untold(self, *, announce: bool) -> tuple[Observed, ...]:
        """What is to be told, oldest first; `announce`: then everything that is there.

        Raises:
            HypervisorError: no node of the site answers, and there is nothing left over to tell.

        """
        with self._telling:
            try:
                hosted = self._look()
                clusters = self._clusters.now()
            except HypervisorError:
                if not self._entries:
                    raise
            else:
                self._write_arrivals()
                for each in hosted:
                    self._notice_place(each)
                if announce:
                    self._announce(hosted)
                for each in hosted:
                    self._tell_inventory(each, again=announce)
                for cluster in clusters:
                    if announce or cluster not in self._told_clusters:
                        self._tell(cluster)
                self._told_clusters = clusters
            return tuple(entry.observed for entry in self._entries[:_BATCH])

    def told(self, position: int) -> None:
        """Everything up to this position need not be told again."""
        with self._telling:
            for entry in self._entries:
                if entry.observed.position <= position and entry.vm is not None and entry.arrival is not None:
                    self._unwritten[entry.vm] = entry.arrival
            self._entries = [entry for entry in self._entries if entry.observed.position > position]
            self._write_arrivals()

    def _look(self, *, anew: bool = False) -> tuple[Hosted, ...]:
        with self._looking:
            now_s = time.monotonic()
            if anew or now_s - self._hosted_at_s >= self._settings.poll_s:
                systems = {vm: guest.system for vm, guest in self._guests.items() if guest.system}
                self._hosted = survey(self._settings, self._hosts, self._peers, systems)
                self._hosted_at_s = time.monotonic()
                for hosted in self._hosted:
                    if hosted.guest is not None:
                        self.see(hosted.machine.vm, hosted.guest)
            return self._hosted

    def _tell(self, value: Observation, vm: UUID | None = None, arrival: Arrival | None = None) -> None:
        self._position += 1
        self._entries.append(_Entry(Observed(self._position, value), vm, arrival))

    # Moves

    def _notice_place(self, hosted: Hosted) -> None:
        machine = hosted.machine
        vm, node, now_ms = machine.vm, machine.host.name, self._clock()
        last = self._last_arrival(hosted)
        if last is None:
            self._tell_arrival(machine, Arrival(node, MoveKind.PLACED, now_ms, machine.path, {node: 1}))
        elif last.node != node:
            kind = MoveKind.PLACED if self._restarted(machine, now_ms) else MoveKind.LIVE
            sequences = {**last.sequences, node: last.sequences.get(node, 0) + 1}
            left = sequences.get(last.node, 0) + 1
            arrival = Arrival(node, kind, now_ms, machine.path, {**sequences, last.node: left})
            # Arrival first: at no moment do the site's own words leave the VM nowhere.
            self._tell_arrival(machine, arrival)
            departure = replace(
                self._moved(machine, arrival), node=last.node, kind=MoveKind.DEPARTED, storage=last.storage
            )
            self._tell(replace(departure, sequence=left, source=last.node))
        elif last.storage != machine.path:
            sequences = {**last.sequences, node: last.sequences.get(node, 0) + 1}
            self._tell_arrival(machine, Arrival(node, MoveKind.STORAGE, now_ms, machine.path, sequences))
        self._last_seen[vm] = _LastSeen(node, machine.power is Power.RUNNING, now_ms)

    def _last_arrival(self, hosted: Hosted) -> Arrival | None:
        """The last that was told, by us or (as its record says) by another agent of the site: the later of the two."""
        known = [arrival for arrival in (self._arrivals.get(hosted.machine.vm), hosted.record.arrival) if arrival]
        return max(known, key=lambda arrival: sum(arrival.sequences.values()), default=None)

    def _restarted(self, machine: Machine, now_ms: int) -> bool:
        """Whether it was started anew where it is now, as a cluster does with the VMs of a node that is gone.

        Otherwise it ran throughout; that it was saved, moved and restored cannot be told apart from that.
        """
        last = self._last_seen.get(machine.vm)
        runs = machine.power is Power.RUNNING
        return runs and last is not None and last.running and machine.uptime_ms < now_ms - last.at_ms

    def _tell_arrival(self, machine: Machine, arrival: Arrival) -> None:
        self._arrivals[machine.vm] = arrival
        self._tell(self._moved(machine, arrival), machine.vm, arrival)

    def _moved(self, machine: Machine, arrival: Arrival) -> VmMoved:
        return VmMoved(
            called(machine, self._settings.vm_ids),
            self._settings.site,
            arrival.node,
            arrival.kind,
            arrival.at_ms,
            cluster=self._settings.cluster,
            storage=arrival.storage,
            sequence=arrival.sequences[arrival.node],
            source=arrival.node,
        )

    def _write_arrivals(self) -> None:
        """Write into their records the arrivals that were told; what does not work is tried again with the next look.

        Until it has worked, whoever starts to watch tells the same moves once more, with the same sequences.
        """
        if not self._unwritten:
            return
        there = {machine.vm: machine for machine in look_at(self._settings.site, self._hosts).machines}
        for vm, arrival in list(self._unwritten.items()):
            if (machine := there.get(vm)) is not None and self._written(machine, arrival):
                del self._unwritten[vm]

    def _written(self, machine: Machine, arrival: Arrival) -> bool:
        try:
            keep_record(machine, replace(record_of(machine, self._settings.site), arrival=arrival))
        except HypervisorError:
            return False
        return True

    # What is there

    def _announce(self, hosted: Sequence[Hosted]) -> None:
        for each in hosted:
            if (arrival := self._last_arrival(each)) is not None:
                # In the words of its last arrival, sequence and all: whoever has heard of it takes it for a repetition.
                self._tell(self._moved(each.machine, arrival))

    def _tell_inventory(self, hosted: Hosted, *, again: bool) -> None:
        vm = hosted.machine.vm
        if not hosted.active:
            self._inventories.pop(vm, None)
            return
        inventory = self._inventory(hosted)
        if again or inventory != self._inventories.get(vm):
            self._inventories[vm] = inventory
            self._tell(replace(inventory, reported_at_ms=self._clock()))

    def _inventory(self, hosted: Hosted) -> VmInventory:
        """The VM as it is told, but for the time."""
        machine, settings = hosted.machine, self._settings
        before = self._guests.get(machine.vm) or hosted.record.guest
        guest = hosted.guest or before
        if not guest.configured:
            # It cannot be asked, or does not answer: what it told before stands.
            guest = GuestSeen(before.system, guest.services, before.configured)
        vm = inventory_of(settings, called(machine, settings.vm_ids), machine, hosted.adapters, guest)
        state = state_of(machine.replication_state)
        peer = self._peers.named(hosted.replication.text("ReplicaServerName") or "")
        return replace(
            vm,
            replication=Replication(
                state,
                primary_site=settings.site,
                replica_site=peer.site if peer else "",
                primary_cluster=settings.cluster,
                replica_cluster=peer.cluster if peer else "",
                frequency_s=hosted.replication.number("ReplicationFrequencySec") or 300,
            ),
        )
