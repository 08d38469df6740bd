"""VMs that are to be replicated from now on: their first record, and the place of their replica."""

from __future__ import annotations

import libvirt

from failover_orch import telemetry
from failover_orch.domain.facts import MoveKind
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt.domain_xml import Description, describe
from failover_orch.hypervisors.libvirt.nodes import Found, Placed
from failover_orch.hypervisors.libvirt.placing import ask_for_node
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.settings import ReplicatedVm
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.rules import Configuration, End, EndAdapter

__all__ = ["enrol", "replica_node"]

_log = telemetry.logger(__name__)


async def enrol(site: Site, wanted: ReplicatedVm) -> bool:
    """Give a VM its record, with which it counts as one that replicates. False: it is not there, or not fit for it.

    One that has a record keeps it: what it was given at first does not undo what has become of it.
    """
    found = await site.nodes.by_name(wanted.vm)
    if found is None:
        return False
    if isinstance(found, Placed):
        return True
    described = describe(found.xml)
    unfit = [disk.target for disk in described.disks if disk.format != "qcow2" or not disk.path]
    if unfit or not described.disks:
        what = f"disk {', '.join(unfit)} is" if unfit else "it has no disk that is"
        _log.error("VM cannot be replicated", vm=wanted.vm, why=f"{what} a qcow2 file: convert it with qemu-img")
        return False
    record = _first_record(site, wanted, found, described)
    async with site.lock(record.vm_id):

        def no_autostart(connection: libvirt.virConnect) -> None:
            # A node that comes back must not start what was failed over meanwhile.
            connection.lookupByUUIDString(found.uuid).setAutostart(False)

        await found.node.call(no_autostart)
        placed = Placed(
            node=found.node,
            uuid=found.uuid,
            name=found.name,
            power=found.power,
            starting=found.starting,
            xml=found.xml,
            live_xml=found.live_xml,
            booted=found.booted,
            record=record,
        )
        await site.nodes.write(placed, record)
    site.changed(record.vm_id)
    _log.info("VM is replicated from now on", vm=record.vm_id, domain=wanted.vm, to=wanted.to)
    return True


async def replica_node(site: Site, record: Record) -> str:
    """The node at the other site that the VM's replica is on, or goes to.

    As the newest routing update says, or else where it was last, or was wanted; else the broker is asked.

    Raises:
        StepFailed: nobody knows a place for it.

    """
    if known := site.route(record.vm_id) or record.peer_node:
        return known
    url = site.settings.broker_url
    if not url:
        raise StepFailed(f"{record.vm_id} has no place at {record.peer_site}: name a node, or the broker's URL to ask")
    return await ask_for_node(url, site.settings.broker_access, record.vm_id, record.peer_site)


def _first_record(site: Site, wanted: ReplicatedVm, found: Found, described: Description) -> Record:
    settings = site.settings
    now = site.clock()
    return Record(
        end=End(
            vm_id=wanted.vm_id or found.uuid,
            site=settings.site,
            cluster=settings.cluster,
            node=found.node.name,
            storage=described.storage,
            mode=ReplicationMode.PRIMARY,
            state=ReplicationState.READY_FOR_INITIAL_REPLICATION,
            power=found.power,
            adapters=tuple(
                EndAdapter(adapter.adapter_id, adapter.connected, Configuration(), Configuration())
                for adapter in described.adapters
            ),
            arrival=MoveKind.PLACED,
            arrived_at_ms=now,
            next_cycle_at_ms=now,
        ),
        peer_site=wanted.to,
        peer_node=wanted.node,
        every_ms=round(wanted.every_s * 1000),
        points=wanted.points,
        consistent_every=wanted.consistent_every,
        system=wanted.system,
        application=wanted.application,
    )
