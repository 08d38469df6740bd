"""Replication settings in the simulation: what nodes and VMs really have, and what has to hold of it in the end.

An agent that hung applies an old version long after a newer one, and people set things behind the broker's back: both
are drift, and `drifted` knows of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from failover_orch.domain import (
    OnDrift,
    ReplicationServer,
    SettingsRevision,
    SettingsScope,
    SettingsStanding,
    Standing,
    StepCommand,
    StepOutcome,
    VmReplication,
    VmState,
    settings_differences,
)
from simulation.schedule import Behaviour

__all__ = ["SettingsWatch", "Taken", "texts_of"]

_Outcome = tuple[StepOutcome, str, dict[str, str]]


def texts_of(more: str) -> dict[str, str]:
    """`http_port=8080;enabled=true`, as a schedule has it."""
    return dict(part.split("=", 1) for part in more.split(";") if part)


class Taken:
    """What each node, and each VM at each site, was given: nothing was lost with power, and nothing is refused as such.

    A place is a node's name, or a VM and the site.
    """

    def __init__(self) -> None:
        self.servers: defaultdict[str, ReplicationServer] = defaultdict(ReplicationServer)
        self.replications: defaultdict[tuple[str, str], VmReplication] = defaultdict(VmReplication)
        self.unable: dict[str, Behaviour] = {}
        """Nodes that cannot take their settings, and what they say to them."""
        self.drifted: set[str | tuple[str, str]] = set()
        """Places that somebody has set other settings at since they were last given some."""
        self._newest: defaultdict[str | tuple[str, str], int] = defaultdict(int)

    def apply(self, command: StepCommand, *, up: bool) -> _Outcome:
        unable = self.unable.get(command.node)
        if not up:
            return StepOutcome.FAILED, f"{command.node} is down", {}
        if unable is Behaviour.REFUSED:
            return StepOutcome.REFUSED, "http_port: it is in use", {}
        if unable is not None:
            return StepOutcome.FAILED, "the management service does not answer", {}
        place: str | tuple[str, str] = (command.vm_id, command.site) if command.vm_id else command.node
        if command.server is not None:
            self.servers[command.node] = command.server
        elif command.replication is not None:
            self.replications[command.vm_id, command.site] = command.replication
        if command.epoch < self._newest[place]:
            self.drifted.add(place)
        else:
            self.drifted.discard(place)
        self._newest[place] = max(self._newest[place], command.epoch)
        return StepOutcome.DONE, "read back as set", {}

    def overwrite(self, node: str, port: int) -> None:
        """Somebody sets something on a node behind the broker's back."""
        self.servers[node] = replace(self.servers[node], https_port=port)
        self.drifted.add(node)


class SettingsWatch:
    """Follows what is told of settings. `require` takes an invariant's number, whether it holds, and what speaks."""

    def __init__(self, taken: Taken, require: Callable[[str, bool, str], None]) -> None:
        self._taken = taken
        self._require = require
        self._newest: dict[tuple[SettingsScope, str], SettingsRevision] = {}
        self._standing: dict[tuple[str, str], SettingsStanding] = {}
        self._changes: set[str] = set()

    def told(self, value: object) -> None:
        match value:
            case SettingsRevision():
                self._revised(value)
            case SettingsStanding():
                # Of a VM there is one, wherever it is.
                node = value.node if value.scope is SettingsScope.CLUSTER else ""
                self._standing[value.target, node] = value
            case _:
                pass

    def _revised(self, revision: SettingsRevision) -> None:
        key = (revision.scope, revision.target)
        before = self._newest.get(key)
        version = before.version if before is not None else 0
        what = f"{revision.target} goes from version {version} to {revision.version} by change {revision.change_id}"
        self._require("I27", revision.change_id not in self._changes, f"change {revision.change_id} is told again")
        self._changes.add(revision.change_id)
        steps = 0 if revision.refused or (before is not None and not revision.changed) else 1
        self._require("I27", revision.version == version + steps, what)
        if not revision.refused:
            self._newest[key] = revision

    def commanded(self, command: StepCommand) -> None:
        """A node, or a VM, is told."""
        scope = SettingsScope.VM if command.vm_id else SettingsScope.CLUSTER
        newest = self._newest.get((scope, command.vm_id or command.key))
        self._require(
            "I27",
            newest is not None and newest.version == command.epoch,
            f"{command.run_id} tells {command.node} version {command.epoch}, which is not the newest",
        )

    def at_rest_of_nodes(self, cluster: str, nodes: list[str]) -> None:
        """All nodes are up and able again: each has the newest version, but where drift is left to people."""
        revision = self._newest.get((SettingsScope.CLUSTER, cluster))
        if revision is None or revision.server is None:
            return
        for node in nodes:
            self._at_rest(revision, node, self._standing.get((cluster, node)), self._taken.servers[node], node)

    def at_rest_of_vm(self, vm: VmState) -> None:
        """A VM that replicates, and that no run has in hand."""
        revision = self._newest.get((SettingsScope.VM, vm.vm_id))
        if revision is None or revision.replication is None or vm.run_id or not vm.replica_site:
            return
        place = (vm.vm_id, vm.active_site)
        self._at_rest(revision, vm.vm_id, self._standing.get((vm.vm_id, "")), self._taken.replications[place], place)

    def _at_rest(
        self,
        revision: SettingsRevision,
        name: str,
        stands: SettingsStanding | None,
        has: ReplicationServer | VmReplication,
        place: str | tuple[str, str],
    ) -> None:
        self._require("I28", stands is not None, f"nobody has said how {name} stands to version {revision.version}")
        assert stands is not None
        said = f"{name} is said to be {stands.standing} with version {stands.applied} of {revision.version}"
        if place in self._taken.drifted and revision.on_drift is OnDrift.ALERT:
            self._require("I28", stands.standing in (Standing.DRIFTED, Standing.IN_SYNC), said)
            return
        wanted = revision.server or revision.replication
        assert wanted is not None
        self._require("I28", (stands.standing, stands.applied) == (Standing.IN_SYNC, revision.version), said)
        differs = settings_differences(wanted, has)
        self._require("I28", not differs, f"{said}, and differs in {differs}")
