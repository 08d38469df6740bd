"""A site of libvirt nodes, as the protocol of `hypervisors` has it.

What a command makes of an end is decided by `hypervisors.rules`; `effects` makes it happen; then the record says so. A
crash between the two is made good by asking again: every effect looks first at what is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

import libvirt

from failover_orch import telemetry
from failover_orch.domain.facts import ReplicationReport
from failover_orch.domain.inventory import ClusterInventory
from failover_orch.domain.records import Action, RoutingUpdate, StepCommand
from failover_orch.domain.replication import ReplicationMode
from failover_orch.domain.replication_settings import ReplicationServer, VmReplication
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.fencing import Fences, Target
from failover_orch.hypervisors.libvirt.clusters import Clusters
from failover_orch.hypervisors.libvirt.effects import Effects, Task, disks_of
from failover_orch.hypervisors.libvirt.nodes import Nodes, Placed
from failover_orch.hypervisors.libvirt.peers import Peers
from failover_orch.hypervisors.libvirt.receiver import Receiver
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.libvirt.replication_server import Servers
from failover_orch.hypervisors.libvirt.sender import Sender
from failover_orch.hypervisors.libvirt.settings import Injection, LibvirtSite
from failover_orch.hypervisors.libvirt.site import Site
from failover_orch.hypervisors.libvirt.together import Together
from failover_orch.hypervisors.libvirt.views import Views
from failover_orch.hypervisors.libvirt.vm_replication import require_possible, settings_of, with_settings
from failover_orch.hypervisors.libvirt.watching import Watching
from failover_orch.hypervisors.protocol import Capabilities, HostedVm, InjectionPoint, Observed, Power
from failover_orch.hypervisors.rules import OF_THE_COPY, decide, fenced, findings, report

__all__ = ["LibvirtHypervisor"]

_log = telemetry.logger(__name__)

_POINTS = 24
_AGAIN_S = 1.0
_BOOT_S = 60.0
"""How long a start waits for the guest's agent: the VM runs by then, whatever becomes of its guest."""
_BOOTS = (Action.START, Action.START_TEST)
_UNDO = (Action.CANCEL_FAILOVER, Action.CANCEL_PREPARE)


def _real_clock() -> int:
    return time.time_ns() // 1_000_000


class LibvirtHypervisor:
    """The libvirt nodes of one site. An async context manager: it connects, receives and replicates meanwhile."""

    def __init__(
        self, settings: LibvirtSite, fences: Fences | None = None, *, clock: Callable[[], int] = _real_clock
    ) -> None:
        """`clock` gives milliseconds since the Unix epoch."""
        self._fences = fences or Fences({})
        self.nodes = Nodes(settings, clock=clock)
        self._site = Site(settings, self.nodes, clock)
        self._peers = Peers(self._site)
        self.sender = Sender(self._site, self._peers)
        self._effects = Effects(self._site, self._peers, self.sender)
        self._views = Views(self._site, self._peers, self._fences.fences)
        self._servers = Servers(self._site)
        self._clusters = Clusters(self._site, self._servers, self._fences.fences)
        self.watching = Watching(self._site, self._clusters, self._views.inventory)
        self._stack = AsyncExitStack()
        self.capabilities = Capabilities(
            live_migration=True,
            test_failover=True,
            recovery_points=_POINTS,
            max_addresses_per_family=0,
            reverse_without_full_copy=True,
            address_injection=(
                InjectionPoint.IN_GUEST if settings.inject is Injection.AGENT else InjectionPoint.PRE_BOOT
            ),
        )

    @property
    def site(self) -> str:
        return self._site.name

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.nodes)
            await stack.enter_async_context(self._peers)
            if self._site.settings.listen:
                await stack.enter_async_context(Receiver(self._site, self._servers))
            for work in (self.sender.run, self.watching.run, Together(self._site).run):
                stack.push_async_callback(_ended, asyncio.create_task(_kept_up(work)))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def perform(self, command: StepCommand) -> Mapping[str, str]:
        try:
            async with self._site.lock(command.vm_id):
                found = await self._perform(command)
            placed = await self._placed(command.vm_id)
            if command.action in _BOOTS:
                await self._boots(command, placed)
            end = await self._views.end(placed, of_the_copy=command.action in OF_THE_COPY)
        except libvirt.libvirtError as error:
            raise StepFailed(f"libvirt: {error}") from error
        return {**findings(end, self._site.clock(), of_the_copy=command.action in OF_THE_COPY), **found}

    async def observe(self, vm_id: str) -> Mapping[str, str]:
        try:
            placed = await self.nodes.find(vm_id)
            if placed is None:
                return {}
            return findings(await self._views.end(placed), self._site.clock())
        except (StepFailed, libvirt.libvirtError):
            return {}

    async def clusters(self) -> tuple[ClusterInventory, ...]:
        return await self._clusters.now()

    async def vms(self) -> tuple[HostedVm, ...]:
        return tuple(self._views.hosted(placed) for placed in await self.nodes.all())

    async def reports(self, vm_ids: Collection[str]) -> tuple[ReplicationReport, ...]:
        wanted = frozenset(vm_ids)
        told = []
        for placed in await self.nodes.all() if wanted else ():
            end = placed.record.end
            if placed.record.vm_id in wanted and end.mode is not ReplicationMode.NONE:
                if end.mode is ReplicationMode.PRIMARY and placed.power is Power.RUNNING:
                    end = replace(end, pending_bytes=await self.sender.pending_bytes(placed))
                told.append(report(self._views.vm(placed), replace(end, node=placed.node.name), self._site.clock()))
        return tuple(told)

    async def watch(self) -> AsyncGenerator[tuple[Observed, ...], None]:
        async for batch in self.watching.watch():
            yield batch

    async def routed(self, update: RoutingUpdate) -> None:
        self._site.take_route(update)

    async def published(self, position: int) -> None:
        await self.watching.published(position)

    async def apply_server(self, node: str, server: ReplicationServer) -> None:
        try:
            await self._servers.apply(node, server)
        finally:
            self._clusters.forget(node)

    async def servers(self, nodes: Collection[str] = ()) -> Mapping[str, ReplicationServer | str]:
        return await self._servers.settings(nodes)

    async def apply_replication(self, vm_id: str, replication: VmReplication) -> None:
        async with self._site.lock(vm_id):
            placed = await self._placed(vm_id)
            if not self._replicates(placed):
                raise StepRefused(f"{vm_id} is not replicated from {self.site}: it has no settings here")
            require_possible(vm_id, replication)
            if settings_of(placed.record) != replication:
                await self._write(placed, with_settings(placed.record, replication))

    async def replications(self) -> Mapping[str, VmReplication]:
        return {
            placed.vm_id: settings_of(placed.record) for placed in await self.nodes.all() if self._replicates(placed)
        }

    def _replicates(self, placed: Placed) -> bool:
        return placed.record.end.mode is not ReplicationMode.NONE and self._views.hosted(placed).active

    async def _perform(self, command: StepCommand) -> Mapping[str, str]:
        placed = await self._placed(command.vm_id)
        placed = await self._accept(command, placed)
        if placed.record.took_effect(command):
            return {}
        end = await self._views.end(placed, of_the_copy=command.action in OF_THE_COPY)
        if command.action is Action.START and end.inject:
            # A start whose record was not written is not through: its guest may lack its addresses yet.
            end = replace(end, power=Power.OFF)
        end = await self._views.prepared_once(command, placed, end)
        around = await self._views.around(command, placed, end)
        if await self._views.verified(command, placed, end):
            return {}
        change = decide(command, end, around, self._site.clock())
        found = dict(change.found)
        if change.cut:
            found["fence"] = await self._cut(command, change.cut)
        if command.action in _UNDO and not change.effect:
            # A crash may have come between what was done to the disks and the record: then only the disks are to undo.
            await disks_of(placed).repair(placed.record)
        if change.effect:
            # Read once more right before it acts: whoever was held up since the last look may have been overtaken.
            placed = await self._accept(command, await self._placed(command.vm_id))
            record = await self._effects.carry_out(Task(command, placed, change))
            placed = await self._placed(command.vm_id)
            await self._write(placed, record.with_effect(command))
        return found

    async def _placed(self, vm_id: str) -> Placed:
        placed = await self.nodes.find(vm_id)
        if placed is None:
            raise StepRefused(f"{vm_id} is not known at {self.site}")
        return placed

    async def _accept(self, command: StepCommand, placed: Placed) -> Placed:
        """The VM with the command's epoch in its record, whatever comes of the action: the older ones are over."""
        accepted = fenced(command, placed.record.end)
        if accepted.epoch != placed.record.end.epoch:
            record = replace(placed.record, end=accepted)
            await self.nodes.write(placed, record)
            placed = replace(placed, record=record)
        return placed

    async def _write(self, placed: Placed, record: Record) -> None:
        highest = max(record.end.epoch, placed.record.end.epoch)
        await self.nodes.write(placed, replace(record, end=replace(record.end, epoch=highest)))
        self._site.changed(placed.record.vm_id)

    async def _cut(self, command: StepCommand, machine: str) -> str:
        site, _, node = machine.partition("/")
        return await self._fences.cut(Target(site, node, command.vm_id), attested=command.attested)

    async def _boots(self, command: StepCommand, placed: Placed) -> None:
        """Wait for the guest, where it has an agent to tell: what is found of a start is how its guest came up."""
        of_the_copy = command.action is Action.START_TEST
        guest = self._views.guest(placed, of_the_copy=of_the_copy)
        left_s = (command.deadline_ms - self._site.clock()) / 1000 - 2
        if guest is not None:
            with suppress(StepFailed, StepRefused):
                await guest.await_agent(max(0.0, min(_BOOT_S, left_s)))


async def _kept_up(work: Callable[[], Awaitable[None]]) -> None:
    """Work that goes on for ever: a bug in it is told, and it begins again, for what it does has to go on."""
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - whatever it is, replication and observation must not end silently
            _log.error("has failed, and begins again", work=work.__qualname__, error=error)
        await asyncio.sleep(_AGAIN_S)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
