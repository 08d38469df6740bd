"""What a site's nodes and VMs have by way of replication settings: looked at again and again, and told.

Nothing is compared here with what was wanted: that is for the broker to do, which knows it. A look begins with the time
that it is told under, so that what was seen before settings were given to a node is never taken for what came of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from failover_orch import telemetry
from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication_settings import SettingsObserved
from failover_orch.errors import HypervisorError
from failover_orch.hypervisors import Hypervisor

__all__ = ["Due", "SettingsKeeping"]

Tell = Callable[[Iterable[object]], Awaitable[None]]

_log = telemetry.logger(__name__)

_LOOK_S = 5.0
"""How often nodes are looked at. VMs, of which there are many more, at the interval at which nodes are told again."""
_VMS_AS_OFTEN = 10
"""So many times as long is the interval at which what a VM has is told again, though it has not changed."""


class Due:
    """What of what was seen is to be told: what is new or another, and the rest at its interval. Pure."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._told: dict[str, tuple[SettingsObserved, float]] = {}

    def among(
        self, seen: Mapping[str, SettingsObserved], now_s: float, *, anyway: Collection[str] = ()
    ) -> dict[str, SettingsObserved]:
        """What is due of what was seen of each node or VM; `anyway`: whose turn it is whatever they have."""
        return {name: one for name, one in seen.items() if name in anyway or self._is_due(name, one, now_s)}

    def told(self, told: Mapping[str, SettingsObserved], now_s: float) -> None:
        """Take this for told: Kafka has acknowledged it."""
        self._told |= {name: (one, now_s) for name, one in told.items()}

    def _is_due(self, name: str, seen: SettingsObserved, now_s: float) -> bool:
        if name not in self._told:
            return True
        last, at_s = self._told[name]
        return now_s >= at_s + self._every_s or replace(last, observed_at_ms=seen.observed_at_ms) != seen


class SettingsKeeping:
    """Looks at one site's nodes and VMs, and tells what they have, while `run` runs."""

    def __init__(self, hypervisor: Hypervisor, *, every_s: float, clock: Callable[[], int]) -> None:
        """Every so many seconds all nodes are told; `clock` gives milliseconds since the Unix epoch."""
        self._hypervisor = hypervisor
        self._every_s = every_s
        self._clock = clock
        self._nodes = Due(every_s)
        self._vms = Due(every_s * _VMS_AS_OFTEN)
        self._clusters: dict[str, str] = {}
        self._versions: dict[tuple[str, str], int] = {}
        """The highest version that was heard of for each node, and each VM."""
        self._changed_nodes: set[str] = set()
        self._changed_vms: set[str] = set()
        self._changed = asyncio.Event()

    def heard(self, command: StepCommand) -> None:
        """A command has come; whatever it asks for, settings older than it are over."""
        if command.action is Action.APPLY_SETTINGS:
            target = _target(command)
            self._versions[target] = max(command.epoch, self._versions.get(target, 0))

    def overtaken(self, command: StepCommand) -> int:
        """The version of the settings that has come after this command; 0: none has.

        Delivered again after an agent was lost, commands come with those that followed them. To carry an older one out
        first would put a node back for a moment, which looks like somebody else's doing.
        """
        newest = self._versions.get(_target(command), 0) if command.action is Action.APPLY_SETTINGS else 0
        return newest if newest > command.epoch else 0

    def applied(self, command: StepCommand) -> None:
        """A node or VM was given settings, whatever came of it: it is looked at and told at once."""
        if command.action is not Action.APPLY_SETTINGS:
            return
        if command.server is not None:
            self._changed_nodes.add(command.node)
        else:
            self._changed_vms.add(command.vm_id)
        self._changed.set()

    async def run(self, tell: Tell) -> None:
        """Look and tell, for ever. `tell` returns once what it was given is safe elsewhere."""
        look_s = min(_LOOK_S, self._every_s)
        nodes_at_s = vms_at_s = self._now_s()
        while True:
            self._changed.clear()
            now_s = self._now_s()
            all_nodes, all_vms = now_s >= nodes_at_s, now_s >= vms_at_s
            try:
                await self._look_at_nodes(tell, everything=all_nodes)
                await self._look_at_vms(tell, everything=all_vms)
            except HypervisorError as error:
                _log.warning("replication settings are not known, will look again", error=error)
            nodes_at_s = now_s + look_s if all_nodes else nodes_at_s
            vms_at_s = now_s + self._every_s if all_vms else vms_at_s
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(nodes_at_s, vms_at_s) - self._now_s())):
                    await self._changed.wait()

    async def _look_at_nodes(self, tell: Tell, *, everything: bool) -> None:
        changed, self._changed_nodes = self._changed_nodes, set()
        if not everything and not changed:
            return
        at_ms = self._clock()
        self._clusters |= {
            node.name: cluster.cluster for cluster in await self._hypervisor.clusters() for node in cluster.nodes
        }
        servers = await self._hypervisor.servers(() if everything else changed)
        seen = {
            node: SettingsObserved(
                self._hypervisor.site,
                self._clusters[node],
                node,
                at_ms,
                server=None if isinstance(server, str) else server,
                error=server if isinstance(server, str) else "",
            )
            for node, server in servers.items()
            # One that no inventory has named yet is in no cluster that anybody could set anything for.
            if node in self._clusters
        }
        await self._tell_due(tell, self._nodes, seen, changed)

    async def _look_at_vms(self, tell: Tell, *, everything: bool) -> None:
        changed, self._changed_vms = self._changed_vms, set()
        if not everything and not changed:
            return
        at_ms = self._clock()
        replications = await self._hypervisor.replications()
        seen = {
            vm.vm_id: SettingsObserved(
                self._hypervisor.site,
                vm.cluster,
                vm.node,
                at_ms,
                vm_id=vm.vm_id,
                replication=replications[vm.vm_id],
            )
            for vm in await self._hypervisor.vms()
            if vm.vm_id in replications
        }
        await self._tell_due(tell, self._vms, seen, changed)

    async def _tell_due(
        self, tell: Tell, due: Due, seen: Mapping[str, SettingsObserved], changed: Collection[str]
    ) -> None:
        told = due.among(seen, self._now_s(), anyway=changed)
        if told:
            await tell(told.values())
            due.told(told, self._now_s())

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _target(command: StepCommand) -> tuple[str, str]:
    """What the command is for: a node of a cluster, or a VM, wherever that is."""
    return (command.key, command.node) if command.server is not None else (command.vm_id, "")
