"""The site's cluster as its nodes tell it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from failover_orch.domain.inventory import ClusterInventory, Node, NodeState, Storage
from failover_orch.errors import HypervisorError, StepFailed
from failover_orch.hypervisors.hyperv.cmdlets import look, select, where
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.settings import HyperVSite
from failover_orch.hypervisors.hyperv.states import node_state_of
from failover_orch.hypervisors.hyperv.threads import each

__all__ = ["Clusters"]

_RESOURCES_S = 60.0
"""How often nodes are asked what they have: memory, storage, switches."""


@dataclass(frozen=True, slots=True)
class _Resources:
    node: Node
    switches: tuple[str, ...]
    accepts_replicas: bool


class Clusters:
    """What the site's cluster is, asked for no more often than the nodes are looked at."""

    def __init__(
        self, settings: HyperVSite, hosts: Sequence[Host], fences: tuple[str, ...], clock: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._hosts = hosts
        self._fences = fences
        self._clock = clock
        self._lock = threading.Lock()
        self._resources: dict[str, _Resources] = {}
        self._resources_at_s = float("-inf")
        self._known: ClusterInventory | None = None
        self._known_at_s = float("-inf")

    def now(self) -> tuple[ClusterInventory, ...]:
        """The cluster as it is now.

        Raises:
            StepFailed: no node of it answers.

        """
        with self._lock:
            now_s = time.monotonic()
            if self._known is None or now_s - self._known_at_s >= self._settings.poll_s:
                self._known = self._changed(self._look(now_s))
                self._known_at_s = now_s
            return (self._known,)

    def forget_resources(self) -> None:
        """Have what nodes have asked for at the next look: somebody has changed it."""
        with self._lock:
            self._resources_at_s = float("-inf")

    def _changed(self, seen: ClusterInventory) -> ClusterInventory:
        """The inventory with its time; the one that is known already where nothing else has changed."""
        known = self._known
        if known is None:
            return replace(seen, reported_at_ms=self._clock())
        if replace(known, reported_at_ms=0) == seen:
            return known
        # Never twice the same: of two reports of one time, the second would be taken for a repetition.
        return replace(seen, reported_at_ms=max(self._clock(), known.reported_at_ms + 1))

    def _look(self, now_s: float) -> ClusterInventory:
        states = self._states()
        if now_s - self._resources_at_s >= _RESOURCES_S or not self._resources:
            self._resources_at_s = now_s
            for host, resources in zip(self._hosts, each(_asked, self._hosts), strict=True):
                if resources is not None:
                    self._resources[host.name] = resources
        known = self._resources
        return ClusterInventory(
            cluster=self._settings.cluster,
            site=self._settings.site,
            broker=self._settings.broker,
            nodes=tuple(
                replace(known[name].node, state=state) if name in known else Node(name, state, 0, 0)
                for name, state in states.items()
            ),
            networks=tuple(sorted({switch for resources in known.values() for switch in resources.switches})),
            # A cluster's setting is one, told by each of its nodes. Hosts that stand alone have each their own.
            accepts_replicas=any(resources.accepts_replicas for resources in known.values()),
            supported_guests=self._settings.supported_guests,
            fences=self._fences,
        )

    def _states(self) -> Mapping[str, NodeState]:
        """Each node's state: the cluster's word where there is one, as a node that we cannot reach may well work."""
        answers = each(self._clustered if self._settings.clustered else _alone, self._hosts)
        told = [answer for answer in answers if isinstance(answer, Mapping)]
        if not told:
            error = next(answer for answer in answers if isinstance(answer, HypervisorError))
            raise StepFailed(f"no node of {self._settings.site} answers: {error}")
        if self._settings.clustered:
            cluster = {name.lower(): state for name, state in told[0].items()}
            return {host.name: cluster.get(host.name.lower(), NodeState.DOWN) for host in self._hosts}
        up = {name for answer in told for name in answer}
        return {host.name: NodeState.UP if host.name in up else NodeState.DOWN for host in self._hosts}

    def _clustered(self, host: Host) -> Mapping[str, NodeState] | HypervisorError:
        try:
            found = host.run(look("Get-ClusterNode") | select("Name", "State"))
        except HypervisorError as error:
            return error
        return {row.text("Name"): node_state_of(row.text("State")) for row in found}


def _alone(host: Host) -> Mapping[str, NodeState] | HypervisorError:
    try:
        host.run(look("Get-VMHost") | select("Name"))
    except HypervisorError as error:
        return error
    return {host.name: NodeState.UP}


def _asked(host: Host) -> _Resources | None:
    """What a node has; None where it does not answer."""
    try:
        (machine,) = host.run(look("Get-VMHost") | select("LogicalProcessorCount", "MemoryCapacity"))
        (system,) = host.run(look("Get-CimInstance", ClassName="Win32_OperatingSystem") | select("FreePhysicalMemory"))
        volumes = host.run(
            look("Get-CimInstance", ClassName="Win32_Volume")
            | where("FileSystem", "CSVFS")
            | select("Name", "Capacity", "FreeSpace")
        )
        switches = host.run(look("Get-VMSwitch") | select("Name"))
        server = host.run(look("Get-VMReplicationServer") | select("ReplicationEnabled"))
    except (HypervisorError, ValueError):
        return None
    return _Resources(
        Node(
            host.name,
            NodeState.UP,
            memory_mib=machine.number("MemoryCapacity") >> 20,
            memory_free_mib=system.number("FreePhysicalMemory") >> 10,
            cpus=machine.number("LogicalProcessorCount"),
            storages=tuple(
                Storage(row.text("Name").rstrip("\\"), row.number("Capacity") >> 30, row.number("FreeSpace") >> 30)
                for row in volumes
            ),
        ),
        tuple(row.text("Name") for row in switches),
        any(row.flag("ReplicationEnabled") for row in server),
    )
