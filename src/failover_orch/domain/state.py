"""What a partition task remembers: the VM-to-node table, health, settings, runs and plans of its VMs.

Every value is immutable, serialises to JSON by its fields alone, and stands under one key of the changelog-backed
store: `vm/<id>`, `run/<id>`, `plan-run/<id>`, `plan/<id>`, `plan-readiness/<id>`, `clusters`,
`settings/cluster/<name>`, `settings/vm/<id>`, `policy/<scope>`, `evidence`, `brake`, `automatic-runs`, `chain/<name>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.policies import ApprovalRule, AutomaticRun, Evidence
from failover_orch.domain.records import Location, Readiness, RunState, StepProgress
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.replication_settings import SettingsRevision, SettingsScope, Standing
from failover_orch.domain.settings import AdapterAddresses, Gate, PlanAction, VmReplicationSettings
from failover_orch.domain.terms import LATEST, OnTaskFailure, WantedPoint

__all__ = [
    "Approval",
    "AutomaticRuns",
    "Clusters",
    "Cooldown",
    "KeptSettings",
    "MemberState",
    "NodeSettings",
    "Observers",
    "PlanReadiness",
    "PlanRun",
    "PlanTask",
    "Presence",
    "ReplicationEnd",
    "Run",
    "TaskKind",
    "VmState",
]


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
    received_at_ms: int = 0
    """When the report came in, by the worker's clock: whether it is fresh is judged by one clock alone."""
    lag_ms: int = 0
    """How far the replica was behind when this was reported."""
    breach_at_ms: int = 0
    """When the lag, growing as it does, passes the RPO. 0: not in sight."""
    silent_ms: int = 0
    """For how long this replica has received nothing, where that is longer than its cycles allow. 0: it receives."""
    better_since_ms: int = 0
    """Since when it reports a better health than `health`, which has to last before it counts. 0: it does not."""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """After an automatic failover of this kind: no other before `until_ms`, unless a person acknowledges it."""

    kind: FailoverKind
    until_ms: int
    run_id: str
    why: str = ""
    """What became of that failover, or of the proposal."""


@dataclass(frozen=True, slots=True)
class VmState:
    """All that is known of a VM. `active_site` is where it runs; a run changes it, inventory only sets it first."""

    vm_id: str
    epoch: int = 0
    inventory: VmInventory | None = None
    settings: VmReplicationSettings | None = None
    home_site: str = ""
    """The site where the VM was first active: a failback brings it there."""
    locations: tuple[Location, ...] = ()
    presences: tuple[Presence, ...] = ()
    active_site: str = ""
    replica_site: str = ""
    ends: tuple[ReplicationEnd, ...] = ()
    health: ReplicationHealth = ReplicationHealth.NOT_APPLICABLE
    run_id: str = ""
    """The run in flight. Nothing but that run's end empties it: it never expires on a clock."""
    test_run_id: str = ""
    """The test failover in flight: beside any other run, since its copy is isolated."""
    plan_ids: tuple[str, ...] = ()
    suspected_since_ms: int = 0
    """Since when the evidence says that the primary is gone. 0: it does not."""
    guards_said: str = ""
    """What the guards were last heard to say: only a change of it is journalled."""
    cooldowns: tuple[Cooldown, ...] = ()
    acknowledged_at_ms: int = 0
    """When the last acknowledgement was said, by whom said it: one that comes again is the same."""
    drilled_at_ms: int = 0
    """When a test failover last succeeded. 0: never."""
    readiness: Readiness = Readiness.UNKNOWN
    defects: tuple[str, ...] = ()
    due_ms: int = 0
    """When the guards want to look at this VM again though nothing happens. 0: never."""

    @property
    def counted_ends(self) -> tuple[ReplicationEnd, ...]:
        """The ends that the VM's health follows from: a copy that a failover has retired has no part in it."""
        if not self.active_site:
            return self.ends
        return tuple(end for end in self.ends if end.site in (self.active_site, self.replica_site))

    def at(self, site: str) -> Location | None:
        """Where the VM is at a site."""
        return next((location for location in self.locations if location.site == site), None)


@dataclass(frozen=True, slots=True)
class Approval:
    """What a run needs before it may begin: `rule` is who, how many and how soon; `given` who has agreed."""

    rule: ApprovalRule
    until_ms: int
    given: tuple[str, ...] = ()


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
    approval: Approval | None = None
    parked_in: RunState = RunState.RUNNING
    """Where a parked run goes on: RUNNING or UNDOING."""
    choices: tuple[RequestAction, ...] = ()
    """What a person can say to a parked run."""
    waits_for: str = ""
    point: WantedPoint = LATEST
    """The recovery point wanted now: TRY_ANOTHER changes it."""
    turned_at: int = -1
    """The step at which the run turned round; -1: it did not."""
    attempts_from: int = 0
    """How many attempts of the step in hand belong to an earlier try: they no longer count, but numbers go on."""
    turned_at_epoch: int = 0
    """The VM's epoch when the run last turned round: an answer to a command of before says nothing of after."""
    trying_another: bool = False
    """Undoing no further than the failover itself, which is then made again."""
    power_before: str = ""
    """Whether the VM ran at its primary before the run touched it; empty: not known."""
    serving_at_ms: int = 0
    """When the VM ran at the replica's site."""
    recovery_point: str = ""
    heard: tuple[str, ...] = ()
    """The last words that people said to it, taken or refused: one that comes again is passed over."""
    committed_by: str = ""
    """Who said that the failover is to be kept; empty: nobody, or the passing of time."""
    bug: str = ""
    """The unexpected error that parked the run. It is tried again every minute, for fixed code may have come."""
    fence: str = ""
    """What proves that the primary does not run, in an unplanned failover."""
    test_network: str = ""


class TaskKind(StrEnum):
    """What a plan's task is. VM: the run of a VM. The others are carried out by a site agent, MANUAL by a person."""

    VM = "VM"
    ACTION = "ACTION"
    GATE = "GATE"


@dataclass(frozen=True, slots=True)
class PlanTask:
    """One task of a plan: what it is, when its turn comes, and what becomes of the plan if it fails.

    `task_id` is the VM's id for a VM, `<group>/before/<name>` and the like for the others. Its turn comes when the
    groups that its group depends on are done, and the earlier stages of its own.
    """

    task_id: str
    kind: TaskKind
    group: str
    stage: int
    on_failure: OnTaskFailure
    vm_id: str = ""
    action: PlanAction | None = None
    gate: Gate | None = None


@dataclass(frozen=True, slots=True)
class MemberState:
    """What a plan's run knows of a VM that its own run has brought up: where it is, and what was achieved."""

    vm_id: str
    site: str
    node: str
    epoch: int
    data_loss_ms: int
    serving_at_ms: int


@dataclass(frozen=True, slots=True)
class PlanRun:
    """The failover of a list or plan: a graph of tasks, fixed when the run began.

    `progress` holds the state of each task, in the order of `tasks`; `depends` each group with those it depends on.
    `timers` holds when an attempt of a task has run out of time, or when the next one may begin.
    """

    request: FailoverRequested
    state: RunState
    tasks: tuple[PlanTask, ...]
    progress: tuple[StepProgress, ...]
    depends: tuple[tuple[str, tuple[str, ...]], ...]
    started_at_ms: int
    finished_at_ms: int = 0
    due_ms: int = 0
    timers: tuple[tuple[str, int], ...] = ()
    journal_sequence: int = 0
    cancelled_by: str = ""
    halted_by: str = ""
    """The task for whose failure nothing more is started."""
    compensating: bool = False
    taking_back: str = ""
    """The task whose compensation is under way."""
    attempts_from: tuple[tuple[str, int], ...] = ()
    """How many attempts of a task belong to an earlier try: they no longer count, but numbers go on."""
    members: tuple[MemberState, ...] = ()
    round: int = 1
    """How often the run has been taken up: a VM that failed gets a new run in each round."""
    trace: str = ""
    approval: Approval | None = None
    choices: tuple[RequestAction, ...] = ()
    waits_for: str = ""
    heard: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanReadiness:
    """How a plan stands: how ready its VMs are, as their partitions told, and its run in flight."""

    plan_id: str
    members: tuple[tuple[str, Readiness, tuple[str, ...], int], ...] = ()
    """VM, readiness, defects, and when that was so."""
    readiness: Readiness = Readiness.UNKNOWN
    defects: tuple[str, ...] = ()
    run_id: str = ""
    proposed_run_id: str = ""
    """The run that the broker has proposed, and that waits for approval."""


@dataclass(frozen=True, slots=True)
class Observers:
    """What each observer last said of each site and node, and when that came in by the worker's clock."""

    said: tuple[tuple[Evidence, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AutomaticRuns:
    """The automatic failovers that still count for the brake, all partitions' together."""

    recent: tuple[AutomaticRun, ...] = ()


@dataclass(frozen=True, slots=True)
class Clusters:
    """Every cluster, as last reported: all under one key, since whoever looks at one looks at its peers too."""

    known: tuple[ClusterInventory, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How a node stands to its cluster's settings, and what is being done about it. Of a VM, the node where it is."""

    node: str
    site: str
    standing: Standing
    since_ms: int
    applied: int = 0
    """The version that it was last read back to have; 0: none."""
    issued: bool = False
    """It has been told, and has not answered yet."""
    attempt: int = 0
    """Number of the command last issued of this version: each has another one."""
    tries: int = 0
    """Commands of this round that failed or are out; 0: it waits for its first."""
    due_ms: int = 0
    """When its answer has to be there, or when it is told again. 0: neither."""
    answered_at_ms: int = 0
    """When, by its site's clock, it was last read back as set: what was seen before that says nothing of after."""
    detail: str = ""
    differs: tuple[tuple[str, str], ...] = ()
    """Of what differs: setting, and what was found."""
    corrected_at_ms: tuple[int, ...] = ()
    """When drift was put right, in the last hour."""
    left: bool = False
    """It has drifted so often that it is left as it is, and people have been told."""


@dataclass(frozen=True, slots=True)
class KeptSettings:
    """The replication settings of a cluster or a VM: what was last accepted, and how its nodes stand to that.

    Of a VM there is at most one node: where it is active.
    """

    scope: SettingsScope
    target: str
    revision: SettingsRevision | None = None
    nodes: tuple[NodeSettings, ...] = ()
    heard: tuple[str, ...] = ()
    """The ids of the last changes, taken or refused: one that comes again is passed over."""

    @property
    def due_ms(self) -> int:
        """When the first of its nodes is to be looked at. 0: never."""
        return min((node.due_ms for node in self.nodes if node.due_ms), default=0)
