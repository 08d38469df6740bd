"""One site's Hyper-V hosts: the protocol of `hypervisors`, over PowerShell Remoting."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from time import time
from types import TracebackType
from typing import Self
from uuid import uuid4

from failover_orch.domain.facts import ReplicationReport
from failover_orch.domain.inventory import ClusterInventory
from failover_orch.domain.records import Action, RoutingUpdate, StepCommand
from failover_orch.domain.replication_settings import ReplicationServer, VmReplication
from failover_orch.domain.settings import AdapterAddresses, GateKind
from failover_orch.errors import HypervisorError, StepFailed, StepRefused
from failover_orch.fencing import Fences, Target
from failover_orch.hypervisors.hyperv.acts import ACTS, Deed, Overtaken, as_begun, as_done, finish_test, keep_record
from failover_orch.hypervisors.hyperv.clusters import Clusters
from failover_orch.hypervisors.hyperv.ends import Found, found, with_record
from failover_orch.hypervisors.hyperv.failover_addresses import settable
from failover_orch.hypervisors.hyperv.failures import HostRefused
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.nodes import find
from failover_orch.hypervisors.hyperv.peers import NEEDS_PEER, OtherEnd, Peers
from failover_orch.hypervisors.hyperv.ports import listens
from failover_orch.hypervisors.hyperv.record import Record
from failover_orch.hypervisors.hyperv.replication_server import ReplicationServers
from failover_orch.hypervisors.hyperv.reporting import reports
from failover_orch.hypervisors.hyperv.settings import HyperVSite
from failover_orch.hypervisors.hyperv.staging import is_staged
from failover_orch.hypervisors.hyperv.states import UNDER_WAY
from failover_orch.hypervisors.hyperv.threads import threaded
from failover_orch.hypervisors.hyperv.vm_replication import apply
from failover_orch.hypervisors.hyperv.watching import Watching
from failover_orch.hypervisors.protocol import Capabilities, HostedVm, InjectionPoint, Observed, Power
from failover_orch.hypervisors.rules.actions import decide
from failover_orch.hypervisors.rules.findings import OF_THE_COPY, findings
from failover_orch.hypervisors.rules.surroundings import Change, Surroundings

__all__ = ["HyperVHypervisor"]

_TIMES = 3
"""How often a command is taken up anew because somebody else changed the VM's record meanwhile."""
_NOT_STAGED = AdapterAddresses("")
_TO_THE_COPY = frozenset({Action.START_TEST, Action.VERIFY_TEST, Action.DELETE_TEST})
_STAGES = frozenset({Action.STAGE_ADDRESSES, Action.CREATE_TEST})


def _real_clock() -> int:
    return round(time() * 1000)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of a command. `cut`: whose power is to be cut before it is true, as `site/node`."""

    observed: Mapping[str, str]
    cut: str = ""
    found: Mapping[str, str] = field(default_factory=dict)


class HyperVHypervisor:
    """The Hyper-V hosts of one site: a failover cluster, or hosts that stand alone.

    `fences` cut power where the primary's site cannot be asked. `clock` gives milliseconds since the Unix epoch,
    `answers_at` says whether something listens at an address and TCP port.

    pypsrp blocks, so all the work is done in threads: none that a process waits for at its end, each with a deadline.
    """

    capabilities = Capabilities(
        live_migration=True,
        test_failover=True,
        recovery_points=24,
        max_addresses_per_family=1,
        reverse_without_full_copy=True,
        address_injection=InjectionPoint.IN_GUEST,
    )

    def __init__(
        self,
        settings: HyperVSite,
        fences: Fences | None = None,
        *,
        clock: Callable[[], int] = _real_clock,
        answers_at: Callable[[str, int], bool] = listens,
    ) -> None:
        self._settings = settings
        self._fences = fences or Fences({})
        self._clock = clock
        self._answers_at = answers_at
        self._hosts = tuple(Host(node, settings, settings.site) for node in settings.nodes)
        peers = {peer.site: tuple(Host(node, settings, peer.site) for node in peer.nodes) for peer in settings.peers}
        self._all_hosts = (*self._hosts, *(host for hosts in peers.values() for host in hosts))
        self._peers = Peers(peers, settings.peers, settings.vm_ids)
        self._clusters = Clusters(settings, self._hosts, self._fences.fences, clock)
        self._watching = Watching(settings, self._hosts, self._peers, self._clusters, clock)
        self.replication_servers = ReplicationServers(self._hosts, settings.site)
        self._name = uuid4().hex[:8]
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @property
    def site(self) -> str:
        return self._settings.site

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the sessions with the hosts, without waiting for what is under way in them."""
        await asyncio.gather(*(threaded(host.close) for host in self._all_hosts))

    async def perform(self, command: StepCommand) -> Mapping[str, str]:
        answer = await threaded(lambda: self._perform(command))
        told = dict(answer.found)
        if answer.cut:
            site, _, node = answer.cut.partition("/")
            told["fence"] = await self._fences.cut(Target(site, node, command.vm_id), attested=command.attested)
        return {**answer.observed, **told}

    async def observe(self, vm_id: str) -> Mapping[str, str]:
        return await threaded(lambda: self._observe(vm_id))

    async def clusters(self) -> tuple[ClusterInventory, ...]:
        return await threaded(self._clusters.now)

    async def vms(self) -> tuple[HostedVm, ...]:
        return await threaded(self._watching.vms)

    async def reports(self, vm_ids: Collection[str]) -> tuple[ReplicationReport, ...]:
        wanted = frozenset(vm_ids)
        if not wanted:
            return ()
        return await threaded(lambda: reports(self._settings, self._hosts, wanted, self._clock()))

    async def watch(self) -> AsyncGenerator[tuple[Observed, ...], None]:
        announced = False
        while True:
            announce = not announced
            batch = await threaded(lambda announce=announce: self._watching.untold(announce=announce))  # type: ignore[misc]
            announced = True
            if batch:
                yield batch
            else:
                await asyncio.sleep(self._settings.poll_s)

    async def routed(self, update: RoutingUpdate) -> None:
        """Nothing: Hyper-V's own replica broker tells a primary where its replica is now."""

    async def published(self, position: int) -> None:
        await threaded(lambda: self._watching.told(position))

    async def apply_server(self, node: str, server: ReplicationServer) -> None:
        try:
            await self.replication_servers.apply(node, server)
        finally:
            self._clusters.forget_resources()

    async def servers(self, nodes: Collection[str] = ()) -> Mapping[str, ReplicationServer | str]:
        return await self.replication_servers.settings(nodes)

    async def apply_replication(self, vm_id: str, replication: VmReplication) -> None:
        await threaded(lambda: apply(self._find(vm_id).machine, replication))

    async def replications(self) -> Mapping[str, VmReplication]:
        return await threaded(self._watching.replications)

    # One command

    def _perform(self, command: StepCommand) -> _Answer:
        # One command of a VM at a time. One that would have to wait beyond its deadline is not begun: by then the run
        # may have taken another turn.
        turn = self._turns[command.vm_id.lower()]
        left_s = (command.deadline_ms - self._clock()) / 1000
        if not turn.acquire(timeout=left_s if left_s > 0 else -1):
            raise StepFailed(f"not begun: another command of {command.vm_id} is still under way at {self.site}")
        try:
            for _ in range(_TIMES):
                try:
                    return self._try(command)
                except Overtaken as error:
                    overtaken = error
        finally:
            turn.release()
        raise StepFailed(f"{overtaken}, {_TIMES} times in a row")

    def _try(self, command: StepCommand) -> _Answer:
        found = self._find(command.vm_id)
        record = found.record.fenced(command, found.vm_id)
        if record.void(command):
            return self._answer(command, self._kept(found, record))
        other = self._peers.other_end(found, command) if command.action in NEEDS_PEER else None
        try:
            change = self._decide(command, found, other)
        except HypervisorError:
            # Kept whatever comes of the action: a newer command is proof that the older ones are over.
            self._kept(found, record)
            raise
        if not change.effect:
            return self._nothing_to_do(command, found, record, change, other)
        begun = as_begun(command, replace(found, record=record), change, self._name)
        deed = self._deed(command, self._kept(found, begun), change, other)
        try:
            ACTS[command.action](deed)
        except HostRefused:
            # Another agent may have been at the very same thing since we looked.
            if not self._is_so_now(command):
                raise
        found = self._find(command.vm_id)
        if command.action is Action.CREATE_TEST:
            finish_test(replace(deed, found=found))
            found = self._find(command.vm_id)
        return self._answer(command, self._kept(found, as_done(command, found)), change)

    def _is_so_now(self, command: StepCommand) -> bool:
        found = self._find(command.vm_id)
        other = self._peers.other_end(found, command) if command.action in NEEDS_PEER else None
        try:
            return not self._decide(command, found, other).effect
        except HypervisorError:
            return False

    def _nothing_to_do(
        self, command: StepCommand, found: Found, record: Record, change: Change, other: OtherEnd | None
    ) -> _Answer:
        if command.action not in ACTS:
            return self._answer(command, self._kept(found, record), change)
        if command.action is Action.CREATE_TEST and record.begun:
            # It was made and nobody lived to see to the rest.
            found = self._kept(found, record)
            finish_test(self._deed(command, found, change, other))
            found = self._find(command.vm_id)
            record = found.record
        return self._answer(command, self._kept(found, record.settled(command)), change)

    def _deed(self, command: StepCommand, found: Found, change: Change, other: OtherEnd | None) -> Deed:
        settings = self._settings
        left_s = (command.deadline_ms - self._clock()) / 1000
        timeout_s = min(settings.long_call_timeout_s, max(settings.call_timeout_s, left_s))
        return Deed(settings, command, found, change, other, timeout_s)

    def _decide(self, command: StepCommand, found: Found, other: OtherEnd | None) -> Change:
        end = found.end
        if command.action in _TO_THE_COPY:
            _require_together(found)
        if command.action is Action.STAGE_ADDRESSES:
            # The host is asked, not the record: what is staged there is what will be applied.
            there = is_staged(found.machine, found.adapters, command.addresses)
            end = replace(end, staged=command.addresses if there else (_NOT_STAGED,))
        around = Surroundings(
            vm=found.seen_as(copy=command.test_copy or command.action in OF_THE_COPY),
            node_up=True,
            peer=other.end if other else None,
            link_up=other is None or other.reachable,
            peer_accepts=other is None or other.accepts,
            closed_ports=self._closed_ports(command, found),
            fences=self._fences.fences,
        )
        change = decide(command, end, around, self._clock())
        if not change.effect:
            return change
        if command.action in _STAGES:
            settable(command)
        if (state := found.machine.replication_state) in UNDER_WAY:
            raise StepFailed(
                f"{found.vm_id} at {self.site} is {state}: {found.machine.host.name} is at something itself"
            )
        return change

    def _closed_ports(self, command: StepCommand, found: Found) -> frozenset[int]:
        gate = command.gate
        if command.action is not Action.CHECK_GATE or gate is None or gate.kind is not GateKind.TCP_PORT:
            return frozenset()
        of_copy = found.end.copy.adapters if command.test_copy and found.end.copy else ()
        adapters = of_copy if command.test_copy else found.end.adapters
        addresses = [text.partition("/")[0] for adapter in adapters for text in adapter.configured.addresses]
        return frozenset() if any(self._answers_at(each, gate.port) for each in addresses) else frozenset({gate.port})

    def _find(self, vm_id: str) -> Found:
        machine, copy = find(self.site, self._hosts, vm_id, self._settings.vm_ids)
        result = found(self._settings, machine, copy, self._watching.seen(machine.vm), self._clock())
        if machine.power is Power.RUNNING:
            self._watching.see(machine.vm, result.record.guest)
        return result

    def _kept(self, found: Found, record: Record) -> Found:
        """The VM with this record, which is written if it is another one."""
        if replace(record, guest=found.record.guest) == found.record:
            return found
        return with_record(found, record, keep_record(found.machine, record))

    def _answer(self, command: StepCommand, found: Found, change: Change | None = None) -> _Answer:
        observed = findings(found.end, self._clock(), of_the_copy=command.action in OF_THE_COPY)
        return _Answer(observed, change.cut if change else "", change.found if change else {})

    def _observe(self, vm_id: str) -> Mapping[str, str]:
        try:
            return findings(self._find(vm_id).end, self._clock())
        except HypervisorError:
            return {}


def _require_together(found: Found) -> None:
    """See that a test copy is on its replica's node, as Hyper-V wants it: it does not follow a role that is moved.

    Raises:
        StepRefused: it is on another one.

    """
    if found.copy is None or found.copy.host is found.machine.host:
        return
    here, there = found.machine.host.name, found.copy.host.name
    raise StepRefused(
        f"the test copy of {found.vm_id} is on {there} and its replica on {here}: Hyper-V needs both on one node; move "
        f"the replica back to {there} (Move-ClusterVirtualMachineRole), and ask again"
    )
