"""What a site does with what its replicas are told. Whoever calls what changes a VM here holds the VM's lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import PurePosixPath
from urllib.parse import quote

import libvirt

from failover_orch import telemetry
from failover_orch.domain.facts import MoveKind
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.transitions import PROGRESS, RECEIVES
from failover_orch.errors import HypervisorError, StaleEpoch, StepFailed, StepRefused
from failover_orch.hypervisors.libvirt.checkpoints import forget_all
from failover_orch.hypervisors.libvirt.disks import Disks
from failover_orch.hypervisors.libvirt.domain_copies import as_replica
from failover_orch.hypervisors.libvirt.domain_xml import describe, with_links, with_metadata, without_injection
from failover_orch.hypervisors.libvirt.foreign_domains import described, require_harmless
from failover_orch.hypervisors.libvirt.messages import Accepted, Conflict, Cycle, Delivered, NewReplica, TurnedRound
from failover_orch.hypervisors.libvirt.nodes import Placed
from failover_orch.hypervisors.libvirt.record import METADATA_KEY, METADATA_URI, Record, encode
from failover_orch.hypervisors.libvirt.replication_server import Servers
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.libvirt.vm_replication import settings_of, with_settings
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules import Configuration, End, EndAdapter, overdue, received

__all__ = ["Replicas", "as_it_is", "disks_of"]

_log = telemetry.logger(__name__)
_PRIMARY, _REPLICA = ReplicationMode.PRIMARY, ReplicationMode.REPLICA
_State = ReplicationState


class Replicas:
    """The replicas of one site, as their primaries see them."""

    def __init__(self, site: Site, servers: Servers) -> None:
        self._site = site
        self._servers = servers
        self._arrived: dict[tuple[str, str], dict[int, str]] = {}
        """The digests of what has arrived, by VM and delivery: else the files have to be read for them."""
        self._tidying: dict[str, asyncio.Task[None]] = {}

    async def stop(self) -> None:
        """Leave off merging recovery points: it goes on after the next cycle, from where it is."""
        tasks = list(self._tidying.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def record(self, vm_id: str) -> Record | None:
        """The VM's record as it is now; None where this site has no such VM."""
        placed = await self._site.nodes.find(vm_id)
        return None if placed is None else as_it_is(placed)

    async def create(self, node_name: str, told: NewReplica, caller: str) -> Record:
        """Have a replica of the VM on the node, waiting for its initial replication. `caller`: the primary server."""
        site, primary = self._site, told.record.end
        vm_id = primary.vm_id
        placed = await site.nodes.find(vm_id)
        if placed is not None:
            if placed.record.end.mode is not _REPLICA:
                raise StepRefused(f"{vm_id} at {site.name} is {placed.record.end.mode}: it cannot become a replica so")
            self._require_there(placed, node_name)
            return as_it_is(placed)
        entry = await self._servers.admit(node_name, caller)
        node = site.nodes.node(node_name)
        description = described(vm_id, told.xml)
        directory = PurePosixPath(entry.storage_location) / quote(vm_id, safe="")
        paths = {disk.target: str(directory / f"{disk.target}.qcow2") for disk in description.disks}
        bridges = {
            adapter_id: site.settings.networks[network]
            for adapter_id, network in told.networks.items()
            if network in site.settings.networks
        }
        record = replace(self._new_record(told, node_name, str(directory)), trust_group=entry.trust_group)
        replica = as_replica(told.xml, paths=paths, bridges=bridges)
        await require_harmless(vm_id, replica, paths.values(), node)
        xml = with_metadata(replica, METADATA_URI, METADATA_KEY, encode(record))
        await Disks(node, list(paths.values())).prepare_to_receive()

        def define(connection: libvirt.virConnect) -> None:
            if any(domain.UUIDString() == description.uuid for domain in connection.listAllDomains()):
                raise StepRefused(
                    f"{node_name} has a domain with the UUID of {vm_id} already, {description.uuid}, which is no "
                    "replica of it: undefine that one first"
                )
            connection.defineXML(xml).setAutostart(False)

        await node.call(define)
        site.changed(vm_id)
        _log.info("replica created", vm=vm_id, node=node_name, primary_site=primary.site)
        return record

    async def deliver(
        self, vm_id: str, node_name: str, delivery: str, index: int, chunks: AsyncIterator[bytes], caller: str
    ) -> Delivered:
        """Take in a disk's file. It changes nothing until the delivery is committed."""
        placed = await self._placed(vm_id, node_name)
        await self._servers.admit_to(node_name, caller, placed.record.trust_group)
        self._require_receiving(placed)
        disks = disks_of(placed)
        if index >= len(describe(placed.xml).disks):
            raise Conflict(f"{vm_id} at {self._site.name} has no disk {index}", as_it_is(placed))
        size, sha256 = await placed.node.write(disks.incoming(index, delivery), chunks)
        self._arrived.setdefault((vm_id, delivery), {})[index] = sha256
        return Delivered(size, sha256)

    async def withdraw(self, vm_id: str, node_name: str) -> Record:
        """Forget what was delivered and not committed."""
        placed = await self._placed(vm_id, node_name)
        await disks_of(placed).drop_deliveries()
        self._forget_arrivals(vm_id)
        return as_it_is(placed)

    async def commit(self, vm_id: str, node_name: str, told: Cycle, caller: str) -> Record:
        """Have the replica stand at the cycle: a recovery point more, or with nothing new one that is younger."""
        placed = await self._placed(vm_id, node_name)
        record = placed.record
        empty = told.cycle == told.base
        if told.cycle == record.cycle and not empty:
            return as_it_is(placed)  # asked for again: the answer was lost
        await self._servers.admit_to(node_name, caller, record.trust_group)
        self._require_receiving(placed)
        if (told.full and told.cycle <= record.cycle) or (not told.full and told.base != record.cycle):
            raise Conflict(
                f"{vm_id} at {self._site.name} stands at cycle {record.cycle}: it cannot take cycle {told.cycle} "
                f"upon cycle {told.base}",
                as_it_is(placed),
            )
        if not empty:
            await self._take_in(placed, told)
        if told.replication is not None and told.replication != settings_of(record):
            record = with_settings(record, told.replication)
        taken = replace(record, end=self._received(record, told), cycle=told.cycle, peer_node=told.end.node)
        await self._site.nodes.write(placed, taken)
        self._forget_arrivals(vm_id)
        self._site.changed(vm_id)
        self._tidy_soon(vm_id)
        return replace(taken, end=replace(taken.end, node=placed.node.name, power=placed.power))

    async def become_replica(self, vm_id: str, told: TurnedRound, caller: str) -> Record | None:
        """Turn a primary that was prepared into the replica of the end that has taken its place, `caller`."""
        placed = await self._site.nodes.find(vm_id)
        if placed is None:
            return None
        end = self._accepted(placed, told.epoch)
        if end.mode is _REPLICA and end.state in RECEIVES:
            if end != placed.record.end:
                await self._site.nodes.write(placed, replace(placed.record, end=end))
            return as_it_is(placed)
        if (end.mode, end.state) != (_PRIMARY, _State.PREPARED):
            raise StepRefused(
                f"{vm_id} at {self._site.name} is {end.mode} and {end.state} ({end.state.number}), and not a primary "
                "that was prepared: its disks are not known to be the same"
            )
        if placed.power is Power.RUNNING:
            raise StepRefused(f"{vm_id} is RUNNING at {self._site.name}: shut it down before it becomes the replica")
        entry = await self._servers.admit(placed.node.name, caller)
        point = told.end.recovery_point
        if point is None or told.end.points_taken != end.points_taken + 1:
            raise StepFailed(f"{vm_id} at {self._site.name} has changed meanwhile: look again")
        await disks_of(placed).become_point(point.point_id)
        await placed.node.call(lambda connection: forget_all(connection.lookupByUUIDString(placed.uuid)))
        await self._site.nodes.define(placed, with_links(without_injection(placed.xml), connected=False))
        turned = replace(
            placed.record,
            end=replace(told.end, epoch=end.epoch, node=placed.node.name, power=Power.OFF),
            peer_node=told.node,
            resynchronize=False,
            trust_group=entry.trust_group,
        )
        await self._site.nodes.write(placed, turned)
        self._site.changed(vm_id)
        self._tidy_soon(vm_id)
        return turned

    async def accept(self, vm_id: str, told: Accepted) -> Record | None:
        """Accept a command's epoch, and the state that it leads to."""
        placed = await self._site.nodes.find(vm_id)
        if placed is None:
            return None
        end = self._accepted(placed, told.epoch)
        follows = any(
            progress.then is told.state and progress.mode is end.mode and end.state in progress.states
            for progress in PROGRESS
        )
        if end.state is not told.state and not follows:
            raise StepRefused(
                f"{vm_id} at {self._site.name} is {end.mode} and {end.state}: it does not become {told.state}"
            )
        accepted = replace(placed.record, end=replace(end, state=told.state))
        await self._site.nodes.write(placed, accepted)
        self._site.changed(vm_id)
        return replace(accepted, end=replace(accepted.end, node=placed.node.name, power=placed.power))

    # What a cycle brings

    async def _take_in(self, placed: Placed, told: Cycle) -> None:
        vm_id, end = placed.record.vm_id, placed.record.end
        targets = tuple(disk.target for disk in describe(placed.xml).disks)
        if targets != told.targets:
            raise Conflict(
                f"{vm_id} has disks {', '.join(told.targets)} at {told.end.site}, and its replica at "
                f"{self._site.name} has {', '.join(targets)}: undefine the replica, and it is replicated anew",
                as_it_is(placed),
            )
        disks = disks_of(placed)
        arrived = self._arrived.get((vm_id, told.delivery), {})
        digests = tuple(arrived.get(index, "") for index in range(len(targets)))
        if "" in digests:
            digests = await disks.digests(told.delivery)
        if "" in digests or digests != told.digests:
            raise Conflict(
                f"delivery {told.delivery} for {vm_id} has not arrived at {self._site.name} as it was sent",
                as_it_is(placed),
            )
        upon = "" if told.full else end.recovery_points[-1].point_id
        await disks.take_in(told.delivery, f"rp-{end.points_taken + 1}", upon=upon)

    def _received(self, record: Record, told: Cycle) -> End:
        now = self._site.clock()
        end = record.end
        late = overdue(end, record.every_ms, now) if end.last_replication_at_ms else 0
        counted = replace(
            end,
            state=_State.REPLICATING,
            cycles=end.cycles + 1 + late,
            missed_cycles=end.missed_cycles + late,
        )
        # The clocks of two sites need not agree: what counts here is how old the data were as they came.
        as_of = now - told.age_ms
        if told.cycle == told.base:
            return replace(counted, last_replication_at_ms=as_of)
        if told.full:
            counted = replace(counted, recovery_points=())
        taken = received(told.end, counted, told.at_ms, told.latency_ms, points_kept=max(1, record.points))
        *older, newest = taken.recovery_points
        point = replace(newest, application_consistent=told.consistent)
        return replace(taken, recovery_points=(*older, point), last_replication_at_ms=as_of)

    def _tidy_soon(self, vm_id: str) -> None:
        """Merge what is beyond the recovery points that are kept, once nobody is at work on the VM."""
        if vm_id not in self._tidying:
            task = asyncio.create_task(self._tidy(vm_id))
            self._tidying[vm_id] = task
            task.add_done_callback(lambda _: self._tidying.pop(vm_id, None))

    async def _tidy(self, vm_id: str) -> None:
        async with self._site.lock(vm_id):
            try:
                placed = await self._site.nodes.find(vm_id)
                if placed is not None and placed.record.end.mode is _REPLICA:
                    end = placed.record.end
                    points = [point.point_id for point in end.recovery_points]
                    await disks_of(placed).tidy(points, keep_old=end.state is not _State.REPLICATING)
            except (HypervisorError, libvirt.libvirtError) as error:
                # What is left over is merged after the next cycle.
                _log.warning("recovery points not merged", vm=vm_id, error=str(error))

    # Who may

    async def _placed(self, vm_id: str, node_name: str) -> Placed:
        placed = await self._site.nodes.find(vm_id)
        if placed is None:
            raise Conflict(f"{vm_id} is not known at {self._site.name}")
        self._require_there(placed, node_name)
        return placed

    def _require_there(self, placed: Placed, node_name: str) -> None:
        if placed.node.name != node_name:
            raise Conflict(f"{placed.record.vm_id} is on {placed.node.name}, not on {node_name}", as_it_is(placed))

    def _require_receiving(self, placed: Placed) -> None:
        end = placed.record.end
        if end.mode is not _REPLICA or end.state not in RECEIVES:
            raise Conflict(
                f"{end.vm_id} at {self._site.name} is {end.mode} and {end.state} ({end.state.number}): it receives "
                "nothing",
                as_it_is(placed),
            )

    def _accepted(self, placed: Placed, epoch: int) -> End:
        end = placed.record.end
        if epoch < end.epoch:
            raise StaleEpoch(
                f"{end.vm_id} at {self._site.name} has accepted epoch {end.epoch}: a command of epoch {epoch} is void"
            )
        return replace(end, epoch=epoch)

    def _new_record(self, told: NewReplica, node_name: str, storage: str) -> Record:
        primary = told.record.end
        settings = self._site.settings
        return Record(
            end=End(
                vm_id=primary.vm_id,
                site=settings.site,
                cluster=settings.cluster,
                node=node_name,
                storage=storage,
                mode=_REPLICA,
                state=_State.WAITING_FOR_INITIAL_REPLICATION,
                power=Power.OFF,
                adapters=tuple(
                    EndAdapter(adapter.adapter_id, False, adapter.configured, Configuration())
                    for adapter in primary.adapters
                ),
                arrival=MoveKind.PLACED,
                arrived_at_ms=self._site.clock(),
                epoch=primary.epoch,
            ),
            peer_site=primary.site,
            peer_node=primary.node,
            every_ms=told.record.every_ms,
            points=told.record.points,
            consistent_every=told.record.consistent_every,
            replication=told.record.replication,
            system=told.record.system,
            application=told.record.application,
        )

    def _forget_arrivals(self, vm_id: str) -> None:
        for key in [key for key in self._arrived if key[0] == vm_id]:
            del self._arrived[key]


def as_it_is(placed: Placed) -> Record:
    """A VM's record with its node and power as they are now."""
    return replace(placed.record, end=replace(placed.record.end, node=placed.node.name, power=placed.power))


def disks_of(placed: Placed) -> Disks:
    """The disks of a VM, on the node that it is on."""
    return Disks(placed.node, [disk.path for disk in describe(placed.xml).disks])
