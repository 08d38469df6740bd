"""How a VM of this site is now: its record, with what its domain and its guest say filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from failover_orch.domain.inventory import Guest as GuestInventory
from failover_orch.domain.inventory import IntegrationServices, Replication, VmInventory
from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.settings import AdapterAddresses, GateKind
from failover_orch.domain.transitions import FAILED_OVER
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.libvirt import domain_xml
from failover_orch.hypervisors.libvirt.answers import Probe, answering_on_bridge, asking, listens, verify
from failover_orch.hypervisors.libvirt.effects import whose, whose_copy
from failover_orch.hypervisors.libvirt.guest import Guest
from failover_orch.hypervisors.libvirt.nodes import Node, Placed
from failover_orch.hypervisors.libvirt.peers import LinkDown, Peers
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.protocol import HostedVm, Power
from failover_orch.hypervisors.rules import Configuration, End, EndAdapter, Surroundings, active, inventory

__all__ = ["SILENT_MS", "Views"]

PRIMARY, REPLICA = ReplicationMode.PRIMARY, ReplicationMode.REPLICA
_ASKS_THE_PEER = frozenset(
    {
        Action.CHECK_PRIMARY,
        Action.PREPARE,
        Action.CANCEL_PREPARE,
        Action.FAIL_OVER,
        Action.REVERSE,
        Action.MAKE_REPLICA,
        Action.RESYNCHRONIZE,
    }
)
"""Actions whose rules look at the other end."""
SILENT_MS = 120_000
"""How long a guest's agent is silent before it counts as missing: till then it may be booting, or its node dying."""


class Views:
    """Looks at the VMs of one site. `fences` is whose power the site can cut."""

    def __init__(self, site: Site, peers: Peers, fences: tuple[str, ...]) -> None:
        self._site = site
        self._peers = peers
        self._fences = fences
        self._silent_since_ms: dict[str, int] = {}
        """By domain: when the agent of a running guest was first found silent."""

    def guest(self, placed: Placed, *, of_the_copy: bool = False) -> Guest | None:
        """The guest of the VM, or of its test copy; None where nothing runs, or no agent could ever answer."""
        if not domain_xml.describe(placed.xml).agent_channel:
            return None
        if of_the_copy:
            node = self.copy_node(placed)
            running = placed.copy_power is Power.RUNNING
            return Guest(node, placed.copy_uuid, whose_copy(placed)) if running else None
        return Guest(placed.node, placed.uuid, whose(placed)) if placed.power is Power.RUNNING else None

    def copy_node(self, placed: Placed) -> Node:
        """The node that the test copy is on."""
        return self._site.nodes.node(placed.copy_node) if placed.copy_node else placed.node

    async def end(self, placed: Placed, *, of_the_copy: bool = False) -> End:
        """The end as it is now. `of_the_copy`: with what the guest of its test copy has configured."""
        end = placed.record.end
        adapters = await self._adapters(placed)
        copy = end.copy
        if copy is not None:
            connected = bool(copy.network)
            found = tuple(replace(adapter, connected=connected) for adapter in adapters)
            if of_the_copy:
                guest = self.guest(placed, of_the_copy=True)
                seen = await _configured(guest, domain_xml.describe(placed.xml).adapters, copy.staged)
                found = tuple(_with(adapter, seen) for adapter in found)
            copy = replace(copy, power=placed.copy_power or Power.OFF, adapters=found, node=self.copy_node(placed).name)
        return replace(end, node=placed.node.name, power=placed.power, adapters=adapters, copy=copy, settled_at_ms=0)

    async def _adapters(self, placed: Placed) -> tuple[EndAdapter, ...]:
        described = domain_xml.describe(placed.live_xml or placed.xml)
        seen = await _configured(self.guest(placed), described.adapters, placed.record.end.staged)
        kept = {adapter.adapter_id: adapter for adapter in placed.record.end.adapters}
        found = []
        for adapter in described.adapters:
            known = kept.get(adapter.adapter_id)
            configured = known.configured if known is not None else Configuration()
            end_adapter = EndAdapter(adapter.adapter_id, adapter.connected, configured, configured)
            found.append(_with(end_adapter, seen) if placed.power is Power.RUNNING else end_adapter)
        return tuple(found)

    def vm(self, placed: Placed, services: IntegrationServices = IntegrationServices.RUNNING) -> VmInventory:
        """The VM as its domain describes it, without the addresses in its guest."""
        described = domain_xml.describe(placed.xml)
        record, end = placed.record, placed.record.end
        sites = (end.site, record.peer_site) if end.mode is PRIMARY else (record.peer_site, end.site)
        return VmInventory(
            vm_id=record.vm_id,
            name=placed.name,
            adapters=domain_xml.inventory_adapters(described, self._site.settings.networks),
            guest=GuestInventory(record.system, services),
            replication=Replication(end.state, *sites, frequency_s=max(1, round(record.every_ms / 1000))),
            memory_mib=described.memory_mib,
            cpus=described.cpus,
            application=record.application,
        )

    async def inventory(self, placed: Placed) -> VmInventory | None:
        """The VM as this end tells of it, with the addresses in its guest; None where it is the other end's to tell."""
        hosted = self.hosted(placed)
        if not hosted.active:
            return None
        end = await self.end(placed)
        services = await self._services(placed)
        here = replace(end, cluster=hosted.cluster)
        other = replace(end, site=placed.record.peer_site, cluster="")
        return inventory(self.vm(placed, services), here, other, self._site.clock())

    async def _services(self, placed: Placed) -> IntegrationServices:
        """The agent of the VM's guest, for the broker to remember.

        What is told here is what a failover goes by once this site is gone. So an agent that is merely silent is
        UNKNOWN, and the broker keeps what it knew: the domain may just be losing its power, or have been restarted.
        """
        guest = self.guest(placed)
        if guest is not None and not await guest.answers():
            now_ms = self._site.clock()
            silent_ms = now_ms - self._silent_since_ms.setdefault(placed.uuid, now_ms)
            return IntegrationServices.ABSENT if silent_ms >= SILENT_MS else IntegrationServices.UNKNOWN
        self._silent_since_ms.pop(placed.uuid, None)
        if guest is not None:
            return IntegrationServices.RUNNING
        return IntegrationServices.UNKNOWN if placed.power is Power.OFF else IntegrationServices.ABSENT

    def hosted(self, placed: Placed) -> HostedVm:
        """The VM as the site agent goes through them."""
        end = placed.record.end
        return HostedVm(
            vm_id=placed.record.vm_id,
            name=placed.name,
            cluster=self._site.settings.cluster,
            node=placed.node.name,
            storage=domain_xml.describe(placed.xml).storage,
            mode=end.mode,
            state=end.state,
            power=placed.power,
            epoch=end.epoch,
            frequency_s=max(1, round(placed.record.every_ms / 1000)),
            # A primary that has found its replica failed over is in Error: the VM is the other site's to report.
            active=active(replace(end, power=placed.power), None, peer_reachable=False)
            and not (end.mode is PRIMARY and end.state is ReplicationState.ERROR),
        )

    async def prepared_once(self, command: StepCommand, placed: Placed, end: End) -> End:
        """The end as a preparation that is to be cancelled finds it: half a reversal is taken back with it."""
        if command.action is not Action.CANCEL_PREPARE or end.mode is not REPLICA:
            return end
        peer = await self._peers.end(placed.record.peer_site, command.vm_id)
        if peer is None or peer.end.state in FAILED_OVER or not half_turned(placed.record, peer.end, peer.cycle):
            return end
        return replace(end, mode=PRIMARY, state=ReplicationState.PREPARED, recovery_points=(), staged=())

    async def around(self, command: StepCommand, placed: Placed, end: End) -> Surroundings:
        """What the rules look at besides the end itself."""
        services = IntegrationServices.RUNNING
        guest = self.guest(placed, of_the_copy=command.test_copy)
        if command.action is Action.CHECK_GATE and command.gate is not None:
            services = await guest.services() if guest is not None else IntegrationServices.ABSENT
        around = Surroundings(
            vm=self.vm(placed, services),
            node_up=placed.node.up,
            points_kept=placed.record.points,
            fences=self._fences,
            closed_ports=await self._closed_ports(command, placed),
        )
        if command.action not in _ASKS_THE_PEER or not placed.record.peer_site:
            return around
        peer_site = placed.record.peer_site
        try:
            peer = await self._peers.end(peer_site, command.vm_id)
        except LinkDown:
            return replace(around, peer=self._unseen(command, placed, end), link_up=False)
        except StepFailed:
            return replace(around, peer=self._unseen(command, placed, end), peer_alive=False)
        if peer is None:
            return around
        return replace(around, peer=_as_it_was(command, placed.record, peer))

    def _unseen(self, command: StepCommand, placed: Placed, end: End) -> End:
        """The other end as it has to be taken for while nobody can ask it."""
        node = command.peer_node or self._site.route(command.vm_id) or placed.record.peer_node
        mode = REPLICA if end.mode is PRIMARY else PRIMARY
        return replace(
            end, site=placed.record.peer_site, cluster="", node=node, mode=mode, power=Power.OFF, copy=None, epoch=0
        )

    async def verified(self, command: StepCommand, placed: Placed, end: End) -> bool:
        """Whether this was a command to verify addresses, which were verified: they are more than an end can hold.

        Raises:
            StepFailed, StepRefused: something of it is missing; the sentence says what.

        """
        copy = end.copy
        if command.action is Action.VERIFY_ADDRESSES and end.power is Power.RUNNING:
            ask = asking(placed.node, placed.live_xml, Probe.parse(self._site.settings.answers))
            guest = Guest(placed.node, placed.uuid, whose(placed))
            await verify(
                command.addresses, guest=guest, power=end.power, staged=end.staged, live_xml=placed.live_xml, ask=ask
            )
            return True
        if command.action is Action.VERIFY_TEST and copy is not None and copy.power is Power.RUNNING:
            node = self.copy_node(placed)
            bridge = self._site.settings.test_networks.get(copy.network, copy.network)
            await verify(
                command.addresses,
                guest=Guest(node, placed.copy_uuid, whose_copy(placed)),
                power=copy.power,
                staged=copy.staged,
                live_xml=placed.copy_xml,
                ask=partial(answering_on_bridge, node, bridge),
                networked=bool(copy.network),
            )
            return True
        return False

    async def _closed_ports(self, command: StepCommand, placed: Placed) -> frozenset[int]:
        gate = command.gate
        guest = self.guest(placed, of_the_copy=command.test_copy)
        if (
            command.action is not Action.CHECK_GATE
            or gate is None
            or gate.kind is not GateKind.TCP_PORT
            or guest is None
        ):
            return frozenset()
        return frozenset() if await listens(guest, gate.port) else frozenset({gate.port})


def half_turned(here: Record, there: End | None, cycle: int) -> bool:
    """Whether a reversal was cut short between its two ends: both are replicas of the same cycle, and nobody is the VM.

    The end that was prepared is turned round first; the crash, or the loss of its answer, came before the other end's
    record was written. Both have the same data: whichever goes on, nothing is lost.
    """
    if there is None or here.end.mode is not REPLICA or there.mode is not REPLICA or here.cycle != cycle:
        return False
    return there.state is ReplicationState.REPLICATING or here.end.state is ReplicationState.REPLICATING


def _as_it_was(command: StepCommand, record: Record, peer: Record) -> End:
    """The other end as this one has to take it: what was turned half round is what it was before."""
    forward = command.action in (Action.CHECK_PRIMARY, Action.FAIL_OVER, Action.REVERSE)
    if forward and peer.end.state is ReplicationState.REPLICATING and half_turned(record, peer.end, peer.cycle):
        return replace(peer.end, mode=PRIMARY, state=ReplicationState.PREPARED)
    return peer.end


async def _configured(
    guest: Guest | None, adapters: Sequence[domain_xml.DomainAdapter], staged: Sequence[AdapterAddresses]
) -> Mapping[str, Configuration]:
    if guest is None:
        return {}
    try:
        return await guest.configured(adapters, staged)
    except (StepFailed, StepRefused):
        return {}


def _with(adapter: EndAdapter, seen: Mapping[str, Configuration]) -> EndAdapter:
    """The adapter with what its guest reports of it, which is nothing where the guest says nothing."""
    return replace(adapter, configured=seen.get(adapter.adapter_id, Configuration()))
