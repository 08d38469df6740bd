"""One site's view of the simulated world: the protocol of `hypervisors`, on a world file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar

from failover_orch.domain.facts import ReplicationReport, VmMoved
from failover_orch.domain.inventory import ClusterInventory, NodeState
from failover_orch.domain.records import Action, Role, RoutingUpdate, StepCommand
from failover_orch.domain.replication import ReplicationMode
from failover_orch.domain.replication_settings import ReplicationServer, VmReplication
from failover_orch.errors import ConfigError, HypervisorError, StepFailed, StepRefused
from failover_orch.hypervisors.protocol import Capabilities, HostedVm, InjectionPoint, Observed, Power
from failover_orch.hypervisors.rules.actions import decide
from failover_orch.hypervisors.rules.ends import End
from failover_orch.hypervisors.rules.findings import OF_THE_COPY, findings
from failover_orch.hypervisors.rules.guest import IPV4, wants_lease
from failover_orch.hypervisors.rules.reports import inventory, report
from failover_orch.hypervisors.rules.surroundings import Change, Surroundings, fenced
from failover_orch.hypervisors.simulated.cycles import replicate_due
from failover_orch.hypervisors.simulated.ends import FAULTS, Done, Effect, FaultKind
from failover_orch.hypervisors.simulated.power import set_node
from failover_orch.hypervisors.simulated.replication import (
    apply_replication,
    apply_server,
    is_active,
    points_of,
    replications_at,
    servers_at,
)
from failover_orch.hypervisors.simulated.store import Store, Transaction, real_clock

__all__ = ["SimulatedHypervisor"]

_Value = TypeVar("_Value")

_BATCH = 500
_LEASED_IPV4 = ip_network("198.18.0.0/15")
"""Leases come from the range set aside for such tests (RFC 2544), a /20 of it for each site."""
_LEASED_IPV6 = ip_network("fd5e:a5e0::/32")


class SimulatedHypervisor:
    """The hypervisors of one site of a world file.

    Raises:
        ConfigError: there is no such world, or no such site in it.

    """

    def __init__(
        self, path: Path | str, site: str, *, clock: Callable[[], int] = real_clock, poll_s: float = 0.1
    ) -> None:
        self._store = Store(path)
        self._site = site
        self._clock = clock
        self._poll_s = poll_s
        self._epochs: dict[str, int] = {}
        self._delivers_to: dict[str, str] = {}
        """Of each VM whose route is known, the node of its end at another site."""
        with self._store.transaction() as world:
            sites = world.sites()
            points_kept = world.points_kept
        self.capabilities = Capabilities(
            live_migration=True,
            test_failover=True,
            recovery_points=points_kept,
            max_addresses_per_family=0,
            reverse_without_full_copy=True,
            address_injection=InjectionPoint.PRE_BOOT,
        )
        if site not in sites:
            self.close()
            raise ConfigError(f"{path}: there is no site {site!r} in this world; sites are {', '.join(sites)}")

    @property
    def site(self) -> str:
        return self._site

    def close(self) -> None:
        """Let go of the file. What is not closed goes with the last reference to it."""
        self._store.close()

    async def perform(self, command: StepCommand) -> Mapping[str, str]:
        done = await asyncio.to_thread(self._perform, command)
        if done.silent:
            await asyncio.Event().wait()
        if done.error is not None:
            raise done.error
        # The guest takes its time, and the answer waits for it. An agent that dies meanwhile asks again, finds the VM
        # on (or off) already, and waits for what is left of that time.
        if (remaining_ms := done.settled_at_ms - self._clock()) > 0:
            await asyncio.sleep(remaining_ms / 1000)
        observed = await asyncio.to_thread(self._observe, command.vm_id, of_the_copy=command.action in OF_THE_COPY)
        return {**observed, **done.found}

    async def observe(self, vm_id: str) -> Mapping[str, str]:
        return await asyncio.to_thread(self._observe, vm_id)

    async def clusters(self) -> tuple[ClusterInventory, ...]:
        with self._store.transaction() as world:
            return world.clusters(self._site) if world.sites()[self._site] else ()

    async def vms(self) -> tuple[HostedVm, ...]:
        return await asyncio.to_thread(self._vms)

    async def reports(self, vm_ids: Collection[str]) -> tuple[ReplicationReport, ...]:
        return await asyncio.to_thread(self._reports, frozenset(vm_ids))

    async def watch(self) -> AsyncGenerator[tuple[Observed, ...], None]:
        announced = False
        while True:
            batch = await asyncio.to_thread(self._untold, announce=not announced)
            announced = True
            if batch:
                yield batch
            else:
                await asyncio.sleep(self._poll_s)

    async def routed(self, update: RoutingUpdate) -> None:
        if self._epochs.get(update.vm_id, 0) < update.epoch:
            others = (there for there in update.locations if there.site != self._site)
            known = [there.node for there in others if there.node and there.role is not Role.UNKNOWN]
            self._epochs[update.vm_id] = update.epoch
            self._delivers_to[update.vm_id] = known[0] if known else ""

    async def published(self, position: int) -> None:
        await asyncio.to_thread(self._told, position)

    async def apply_server(self, node: str, server: ReplicationServer) -> None:
        await self._apply(lambda world: apply_server(world, self._site, node, server, self._clock()))

    async def servers(self, nodes: Collection[str] = ()) -> Mapping[str, ReplicationServer | str]:
        return await asyncio.to_thread(self._looked, lambda world: servers_at(world, self._site, nodes))

    async def apply_replication(self, vm_id: str, replication: VmReplication) -> None:
        await self._apply(lambda world: apply_replication(world, self._site, vm_id, replication))

    async def replications(self) -> Mapping[str, VmReplication]:
        return await asyncio.to_thread(self._looked, lambda world: replications_at(world, self._site))

    def _looked(self, look: Callable[[Transaction], Mapping[str, _Value]]) -> Mapping[str, _Value]:
        with self._store.transaction() as world:
            return look(world) if world.sites()[self._site] else {}

    def _applied(self, apply: Callable[[Transaction], Done]) -> Done:
        with self._store.transaction() as world:
            if not world.sites()[self._site]:
                return Done(error=StepFailed(f"{self._site} has no power: nothing there can act"))
            return apply(world)

    async def _apply(self, apply: Callable[[Transaction], Done]) -> None:
        done = await asyncio.to_thread(self._applied, apply)
        if done.silent:
            await asyncio.Event().wait()
        if done.error is not None:
            raise done.error

    def _perform(self, command: StepCommand) -> Done:
        now = self._clock()
        with self._store.transaction() as world:
            if not world.sites()[self._site]:
                return Done(error=StepFailed(f"{self._site} has no power: nothing there can act"))
            end = world.end(command.vm_id, self._site)
            if end is None:
                return Done(error=StepRefused(f"{command.vm_id} is not known at {self._site}"))
            end = fenced(command, end)
            # Kept whatever comes of the action: a newer command is proof that the older ones are over.
            world.put_end(end)
            if world.took_effect(command, self._site):
                return Done(settled_at_ms=_settled_at_ms(end, command.action))
            fault = world.take_fault(command.vm_id, command.action)
            if fault in FAULTS:
                return FAULTS[fault]
            try:
                change = self._change(world, command, end, now)
            except HypervisorError as error:
                return Done(error=error)
            return Done(
                settled_at_ms=_settled_at_ms(change.end, command.action),
                silent=fault is FaultKind.LOSE_ANSWER,
                found=change.found,
            )

    def _change(self, world: Transaction, command: StepCommand, end: End, now_ms: int) -> Change:
        vm = world.vm(end.vm_id)
        peer = world.peer(end)
        boot_ms, shutdown_ms = world.delays
        change = decide(
            command,
            end,
            Surroundings(
                vm=vm,
                node_up=bool(end.node) and world.node_up(end.site, end.node),
                peer=peer,
                link_up=world.link_up,
                peer_alive=peer is not None and world.sites()[peer.site],
                peer_node_up=peer is not None and bool(peer.node) and world.node_up(peer.site, peer.node),
                peer_accepts=peer is None
                or all(other.accepts_replicas for other in world.clusters(peer.site) if other.cluster == peer.cluster),
                leases=_leases(world, end, command.action),
                closed_ports=frozenset(port for _, port in world.closed_ports(end.vm_id)),
                points_kept=points_of(world, end.vm_id)[0],
                boot_ms=boot_ms,
                shutdown_ms=shutdown_ms,
                fences=tuple(fence for cluster in world.clusters(self._site) for fence in cluster.fences),
            ),
            now_ms,
        )
        if change.cut:
            site, _, node = change.cut.partition("/")
            set_node(world, site, node, NodeState.DOWN, now_ms)
        if not change.effect:
            return change
        world.put_end(change.end)
        if change.peer is not None:
            world.put_end(change.peer)
        world.add_effect(
            Effect(
                self._site,
                command.vm_id,
                command.action,
                command.epoch,
                command.run_id,
                command.step,
                command.attempt,
                now_ms,
            )
        )
        if command.action is Action.START and peer is not None and peer.power is Power.RUNNING:
            world.note_ran_twice(end.vm_id, now_ms)
        told = inventory(vm, change.end, peer, now_ms)
        was_active = is_active(world, end, peer)
        if is_active(world, change.end, change.peer or peer) and not (
            was_active and told == inventory(vm, end, peer, now_ms)
        ):
            world.tell(self._site, told)
        return change

    def _observe(self, vm_id: str, *, of_the_copy: bool = False) -> Mapping[str, str]:
        """What is found of the VM; `of_the_copy`: recovery point, adapters and addresses are those of its test copy."""
        now = self._clock()
        with self._store.transaction() as world:
            end = world.end(vm_id, self._site)
            if end is None or not world.sites()[self._site]:
                return {}
        return findings(end, now, of_the_copy=of_the_copy)

    def _vms(self) -> tuple[HostedVm, ...]:
        with self._store.transaction() as world:
            if not world.sites()[self._site]:
                return ()
            hosted = []
            for end in world.ends(self._site):
                if not end.node:
                    continue
                vm = world.vm(end.vm_id)
                hosted.append(
                    HostedVm(
                        vm_id=end.vm_id,
                        name=vm.name,
                        cluster=end.cluster,
                        node=end.node,
                        storage=end.storage,
                        mode=end.mode,
                        state=end.state,
                        power=end.power,
                        epoch=end.epoch,
                        frequency_s=vm.replication.frequency_s,
                        active=is_active(world, end, world.peer(end)),
                    )
                )
            return tuple(hosted)

    def _reports(self, vm_ids: frozenset[str]) -> tuple[ReplicationReport, ...]:
        now = self._clock()
        with self._store.transaction() as world:
            if not world.sites()[self._site]:
                return ()
            return tuple(
                report(world.vm(end.vm_id), end, now)
                for end in world.ends(self._site)
                if end.vm_id in vm_ids
                and end.mode is not ReplicationMode.NONE
                and end.node
                and world.node_up(end.site, end.node)
            )

    def _untold(self, *, announce: bool) -> tuple[Observed, ...]:
        now = self._clock()
        with self._store.transaction() as world:
            if not world.sites()[self._site]:
                return ()
            replicate_due(world, now, self._site, routes=self._delivers_to)
            if announce:
                self._announce(world, now)
            return world.untold(self._site, _BATCH)

    def _announce(self, world: Transaction, now_ms: int) -> None:
        for cluster in world.clusters(self._site):
            world.tell(self._site, cluster)
        for end in world.ends(self._site):
            peer = world.peer(end)
            if end.node:
                # The words of its last arrival, sequence and all: whoever has heard of it takes this for a repetition.
                moved = VmMoved(
                    end.vm_id,
                    end.site,
                    end.node,
                    end.arrival,
                    end.arrived_at_ms,
                    cluster=end.cluster,
                    storage=end.storage,
                    sequence=world.sequence(end, end.node),
                    source=end.node,
                )
                world.tell(self._site, moved)
            if is_active(world, end, peer):
                world.tell(self._site, inventory(world.vm(end.vm_id), end, peer, now_ms))

    def _told(self, position: int) -> None:
        with self._store.transaction() as world:
            world.told(self._site, position)


_SETTLES = frozenset({Action.START, Action.SHUT_DOWN, Action.CANCEL_FAILOVER})
"""Actions that are through only when the guest has booted or shut down."""


def _settled_at_ms(end: End, action: Action) -> int:
    """When the action is through; 0 where it is at once."""
    if action is Action.START_TEST and end.copy is not None:
        return end.copy.settled_at_ms
    return end.settled_at_ms if action in _SETTLES else 0


def _leases(world: Transaction, end: End, action: Action) -> dict[tuple[str, int], str]:
    """The DHCP leases for what the action boots, the VM or its test copy: each has its own."""
    staged, client = (end.staged, end.vm_id) if action is Action.START else ((), "")
    if action is Action.START_TEST and end.copy is not None:
        staged, client = end.copy.staged, f"{end.vm_id} - Test"
    leases: dict[tuple[str, int], str] = {}
    for plan in staged:
        for version in wants_lease(plan):
            site, number = world.lease_number(end.site, client, plan.adapter_id)
            if version == IPV4:
                address, prefix = _LEASED_IPV4[(site << 12) + 10 + number], 20
            else:
                address, prefix = _LEASED_IPV6[(site << 64) + 10 + number], 64
            leases[plan.adapter_id, version] = f"{address}/{prefix}"
    return leases
