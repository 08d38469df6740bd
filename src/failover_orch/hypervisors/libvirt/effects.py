"""What the actions do to domains and their disks. Each looks at what is there first, so that it may be asked again."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import libvirt

from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt import domain_xml
from failover_orch.hypervisors.libvirt.booting import Booting
from failover_orch.hypervisors.libvirt.disks import Disks, copy_path
from failover_orch.hypervisors.libvirt.domain_copies import as_copy
from failover_orch.hypervisors.libvirt.guest import Guest, shut_down
from failover_orch.hypervisors.libvirt.nodes import Node, Nodes, Placed
from failover_orch.hypervisors.libvirt.peers import Peers
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.sender import Sender
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules import Change, IsolatedCopy, copy_of

__all__ = ["EFFECTS", "Effects", "Task", "disks_of", "whose", "whose_copy"]

_SHUTDOWN_S = 240.0
_LEAST_S = 5.0
"""What is left of a command's time for its answer."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a command makes of a VM: where it is, and what the rules have decided."""

    command: StepCommand
    placed: Placed
    change: Change

    @property
    def record(self) -> Record:
        """The record with what was decided in it."""
        return replace(self.placed.record, end=self.change.end)


class Effects:
    """Carries out what was decided. Each effect gives the record that is to be kept once it is through."""

    def __init__(self, site: Site, peers: Peers, sender: Sender) -> None:
        self._site = site
        self._peers = peers
        self._sender = sender
        self._booting = Booting(site.settings.inject)

    @property
    def _nodes(self) -> Nodes:
        return self._site.nodes

    async def carry_out(self, task: Task) -> Record:
        """Make it so; the record that says so.

        Raises:
            StepFailed: it did not work this time; asked again it goes on from what is there.

        """
        effect = EFFECTS.get(task.command.action)
        return task.record if effect is None else await effect(self, task)

    # Power

    async def shut_down(self, task: Task) -> Record:
        placed, command = task.placed, task.command
        # A cycle under way would hold the job that the shutdown needs; what it had not sent stays pending.
        await self._sender.stop(command.vm_id)
        left_s = max(_LEAST_S, (command.deadline_ms - self._site.clock()) / 1000 - _LEAST_S)
        await shut_down(placed.node, placed.uuid, whose(placed), within_s=min(left_s, _SHUTDOWN_S))
        return task.record

    async def start(self, task: Task) -> Record:
        placed, end = task.placed, task.placed.record.end
        plans = end.staged if end.inject else ()
        token = task.command.run_id
        xml = await self._booting.before(placed.node, placed.xml, plans, end.adapters, token=token)
        if placed.starting:
            # Somebody who wanted its last changes started it paused, and died. Its guest never ran, and would not find
            # its addresses if it were only let go.
            await destroy(placed.node, placed.uuid)
        if xml != placed.xml and (placed.starting or not placed.live_xml):
            await self._nodes.define(placed, xml)
        await start(placed.node, placed.uuid)
        await self._booting.after(Guest(placed.node, placed.uuid, whose(placed)), xml, plans)
        return task.record

    # Failing over

    async def prepare(self, task: Task) -> Record:
        shipped = await self._sender.ship_rest(task.placed)
        await disks_of(task.placed).lock()
        return replace(shipped, end=replace(shipped.end, state=task.change.end.state, pending_bytes=0))

    async def cancel_prepare(self, task: Task) -> Record:
        placed = task.placed
        if placed.record.end.mode is ReplicationMode.REPLICA:
            # It was turned half round: its disks stand upon the point that this made of them.
            newest = placed.record.end.recovery_points[-1]
            await disks_of(placed).open_at(placed.record, newest.point_id)
            await self._nodes.define(placed, domain_xml.with_links(placed.xml, connected=True))
        else:
            await disks_of(placed).unlock()
        return task.record

    async def fail_over(self, task: Task) -> Record:
        point = task.change.end.failed_over_to
        if point is None:
            raise StepFailed(f"{task.command.vm_id}: no recovery point was chosen to fail over to")
        await disks_of(task.placed).open_at(task.placed.record, point.point_id)
        return task.record

    async def cancel_failover(self, task: Task) -> Record:
        placed = task.placed
        await destroy(placed.node, placed.uuid)
        await self._as_replica(placed)
        await disks_of(placed).discard()
        return task.record

    async def _as_replica(self, placed: Placed) -> None:
        """Have the domain as a replica's is: nothing injected, adapters disconnected."""
        xml = await self._booting.undone(placed.node, placed.xml)
        await self._nodes.define(placed, domain_xml.with_links(xml, connected=False))

    async def connect_adapters(self, task: Task) -> Record:
        placed = task.placed
        await self._nodes.define(placed, domain_xml.with_links(placed.xml, connected=True))
        if placed.power is Power.RUNNING:
            await update(placed.node, placed.uuid, domain_xml.links(placed.live_xml, connected=True))
        return task.record

    async def complete(self, task: Task) -> Record:
        kept = [point.point_id for point in task.change.end.recovery_points]
        await disks_of(task.placed).keep_only(kept)
        return task.record

    # Turning round

    async def reverse(self, task: Task) -> Record:
        command, peer = task.command, task.change.peer
        if peer is None:
            return task.record
        if task.placed.record.end.state is not ReplicationState.FAILED_OVER_WAITING_COMPLETION:
            # After a committed failover the other end was made a replica before: it only has to know the epoch.
            await self._peers.accept(command.peer_site, command.vm_id, command.epoch, peer.state)
            return task.record
        await self._peers.become_replica(command.peer_site, command.vm_id, command.epoch, peer)
        tracked = await self._sender.begin_tracking(task.placed)
        return replace(tracked, end=task.change.end)

    async def make_replica(self, task: Task) -> Record:
        placed = task.placed
        await self._as_replica(placed)
        await disks_of(placed).set_aside()
        return replace(task.record, resynchronize=False)

    async def resynchronize(self, task: Task) -> Record:
        command, peer = task.command, task.change.peer
        if peer is not None:
            await self._peers.accept(command.peer_site, command.vm_id, command.epoch, peer.state)
        return replace(task.record, resynchronize=True)

    # The test copy

    async def create_test(self, task: Task) -> Record:
        placed, copy = task.placed, copy_of(task.change.end)
        await disks_of(placed).open_copy(copy.point.point_id)
        if not placed.copy_uuid:
            await define(placed.node, self._copy_xml(placed, copy, str(uuid.uuid4())))
        return task.record

    async def start_test(self, task: Task) -> Record:
        placed, copy = task.placed, copy_of(task.placed.record.end)
        node = self._copy_node(placed)
        xml = self._copy_xml(placed, copy, placed.copy_uuid)
        token = f"{copy.run_id}-test"
        xml = await self._booting.before(node, xml, copy.staged, copy.adapters, token=token)
        if placed.copy_power is not Power.RUNNING:
            await define(node, xml)
        await start(node, placed.copy_uuid)
        await self._booting.after(Guest(node, placed.copy_uuid, whose_copy(placed)), xml, copy.staged)
        return task.record

    async def delete_test(self, task: Task) -> Record:
        placed = task.placed
        if placed.copy_uuid:
            node = self._copy_node(placed)
            await destroy(node, placed.copy_uuid)
            await undefine(node, placed.copy_uuid)
            await self._booting.undone(node, placed.copy_xml)
        await disks_of(placed).discard_copy()
        return task.record

    def _copy_xml(self, placed: Placed, copy: IsolatedCopy, copy_uuid: str) -> str:
        drives = {disk.target: copy_path(disk.path) for disk in domain_xml.describe(placed.xml).disks}
        bridge = self._site.settings.test_networks.get(copy.network, copy.network) if copy.network else ""
        name = f"{placed.name} - Test"
        return as_copy(placed.xml, name=name, uuid=copy_uuid, vm_id=placed.record.vm_id, paths=drives, bridge=bridge)

    def _copy_node(self, placed: Placed) -> Node:
        return self._site.nodes.node(placed.copy_node) if placed.copy_node else placed.node


EFFECTS: Mapping[Action, Callable[[Effects, Task], Awaitable[Record]]] = {
    Action.SHUT_DOWN: Effects.shut_down,
    Action.START: Effects.start,
    Action.PREPARE: Effects.prepare,
    Action.CANCEL_PREPARE: Effects.cancel_prepare,
    Action.FAIL_OVER: Effects.fail_over,
    Action.CANCEL_FAILOVER: Effects.cancel_failover,
    Action.CONNECT_ADAPTERS: Effects.connect_adapters,
    Action.COMPLETE: Effects.complete,
    Action.REVERSE: Effects.reverse,
    Action.MAKE_REPLICA: Effects.make_replica,
    Action.RESYNCHRONIZE: Effects.resynchronize,
    Action.CREATE_TEST: Effects.create_test,
    Action.START_TEST: Effects.start_test,
    Action.DELETE_TEST: Effects.delete_test,
}
"""What is not here changes the record alone."""


def whose(placed: Placed) -> str:
    """What errors call a VM."""
    return f"{placed.record.vm_id} at {placed.record.end.site}"


def whose_copy(placed: Placed) -> str:
    """What errors call a VM's test copy."""
    return f"the test copy of {whose(placed)}"


def disks_of(placed: Placed) -> Disks:
    """The disks of a VM, on the node that it is on."""
    return Disks(placed.node, [disk.path for disk in domain_xml.describe(placed.xml).disks])


async def define(node: Node, xml: str) -> None:
    """Define a domain, or define it anew."""
    await node.call(lambda connection: connection.defineXML(xml))


async def start(node: Node, domain_uuid: str) -> None:
    """Have the domain run. One that runs is left alone."""

    def begin(connection: libvirt.virConnect) -> None:
        domain = connection.lookupByUUIDString(domain_uuid)
        if not domain.isActive():
            domain.create()

    await node.call(begin, within_s=60)


async def destroy(node: Node, domain_uuid: str) -> None:
    """Have the domain not run. For about two seconds after its start the daemon may say that it does not, and be wrong:
    that is asked again.
    """

    def end(connection: libvirt.virConnect) -> None:
        domain = connection.lookupByUUIDString(domain_uuid)
        if domain.isActive():
            with suppress(libvirt.libvirtError):
                domain.destroy()
        if domain.isActive():
            raise StepFailed(f"{domain.name()} on {node.name} still runs after it was told to be off")

    await node.call(end, within_s=30)


async def undefine(node: Node, domain_uuid: str) -> None:
    """Have the domain not be there."""

    def forget(connection: libvirt.virConnect) -> None:
        try:
            connection.lookupByUUIDString(domain_uuid).undefineFlags(
                libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise

    await node.call(forget)


async def update(node: Node, domain_uuid: str, devices: Sequence[str]) -> None:
    """Change devices of a domain that runs."""

    def change(connection: libvirt.virConnect) -> None:
        domain = connection.lookupByUUIDString(domain_uuid)
        for device in devices:
            domain.updateDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    await node.call(change)
