"""What a partition task remembers: the VM-to-node table, health, settings, runs and plans of its VMs.

Every value is immutable, serialises to JSON by its fields alone, and stands under one key of the changelog-backed
store:
`vm/<id>`, `run/<id>`, `plan-run/<id>`, `plan/<id>`, `clusters`, `cluster-settings/<name>`, `chain/<name>`.
"""

from __future__ import annotations

from dataclasses import dataclass

from failover_orch.domain.facts import FailoverRequested
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.records import Location, RunState, StepProgress
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.settings import AdapterAddresses, RecoveryGroup, VmReplicationSettings

__all__ = ["Clusters", "PlanRun", "Presence", "ReplicationEnd", "Run", "VmState"]


@dataclass(frozen=True, slots=True)
class Presence:
    """The last that one node said of a VM: whether it is there, in which event of that node, and when."""

    site: str
    node: str
    present: bool
    sequence: int
    at_ms: int
    cluster: str = ""
    storage: str = ""


@dataclass(frozen=True, slots=True)
class ReplicationEnd:
    """What one end of a VM's replication last reported, and what the health rules make of it."""

    site: str
    mode: ReplicationMode
    state: ReplicationState
    health: ReplicationHealth
    reasons: tuple[str, ...]
    reported_at_ms: int
    last_replication_at_ms: int
    pending_bytes: int


@dataclass(frozen=True, slots=True)
class VmState:
    """All that is known of a VM. `active_site` is where it runs; a run changes it, inventory only sets it first."""

    vm_id: str
    epoch: int = 0
    inventory: VmInventory | None = None
    settings: VmReplicationSettings | None = None
    settings_site: str = ""
    """The site whose failover addresses `settings` are: where the replica was when they were set."""
    locations: tuple[Location, ...] = ()
    presences: tuple[Presence, ...] = ()
    active_site: str = ""
    replica_site: str = ""
    ends: tuple[ReplicationEnd, ...] = ()
    health: ReplicationHealth = ReplicationHealth.NOT_APPLICABLE
    run_id: str = ""
    """The run in flight. Nothing but that run's end empties it: it never expires on a clock."""

    def at(self, site: str) -> Location | None:
        """Where the VM is at a site."""
        return next((location for location in self.locations if location.site == site), None)


@dataclass(frozen=True, slots=True)
class Run:
    """The failover of one VM. `position` points into the workflow's steps, forwards or, while undoing, backwards."""

    request: FailoverRequested
    state: RunState
    steps: tuple[StepProgress, ...]
    position: int
    epoch: int
    primary_site: str
    replica_site: str
    started_at_ms: int
    finished_at_ms: int = 0
    due_ms: int = 0
    """When the rules want to look at this run again though nothing happens: a deadline, or a retry. 0: never."""
    journal_sequence: int = 0
    ends_as: RunState = RunState.SUCCEEDED
    """The state that a run which is undoing ends in."""
    errors: tuple[str, ...] = ()
    data_loss_ms: int = -1
    addresses: tuple[tuple[str, str], ...] = ()
    """What each adapter was found to have in the end."""
    adapters: tuple[AdapterAddresses, ...] = ()
    """What each adapter is to have, as set when the run began: settings made meanwhile are for the next one."""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class PlanRun:
    """The failover of a list or plan: groups in order, the VMs of a group side by side, each in a run of its own.

    `members` holds the state of each VM's run by VM; a VM not yet started is not in it.
    """

    request: FailoverRequested
    state: RunState
    groups: tuple[RecoveryGroup, ...]
    members: tuple[StepProgress, ...]
    group: int
    started_at_ms: int
    finished_at_ms: int = 0
    due_ms: int = 0
    journal_sequence: int = 0
    cancelled_by: str = ""
    data_loss_ms: int = -1
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Every cluster, as last reported: all under one key, since whoever looks at one looks at its peers too."""

    known: tuple[ClusterInventory, ...] = ()
