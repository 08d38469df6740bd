"""What the rules say in answer: routes, commands, journal and audit entries, run snapshots, changes of health, alerts.

Times are milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.replication import ReplicationHealth
from failover_orch.domain.settings import AdapterAddresses

__all__ = [
    "Action",
    "Alert",
    "AuditEntry",
    "DeadLetter",
    "HealthChange",
    "JournalEntry",
    "Location",
    "Role",
    "RouteCause",
    "RoutingUpdate",
    "RunSnapshot",
    "RunState",
    "Severity",
    "StepCommand",
    "StepProgress",
    "StepState",
]


class Role(StrEnum):
    """What a VM is at a site. UNKNOWN until its inventory says which site is the primary.

    RETIRED: the copy that was the primary before a failover and does not replicate the other way yet.
    """

    UNKNOWN = "UNKNOWN"
    PRIMARY = "PRIMARY"
    REPLICA = "REPLICA"
    RETIRED = "RETIRED"


@dataclass(frozen=True, slots=True)
class Location:
    """Where a VM is at one site, since when, and as what."""

    site: str
    node: str
    role: Role
    since_ms: int
    cluster: str = ""
    storage: str = ""


class RouteCause(StrEnum):
    """Why a route changed. INVENTORY: the VM's inventory has told, for the first time, which site is its primary."""

    INVENTORY = "INVENTORY"
    PLACED = "PLACED"
    LIVE = "LIVE"
    QUICK = "QUICK"
    STORAGE = "STORAGE"
    FAILOVER = "FAILOVER"
    REVERSED = "REVERSED"


@dataclass(frozen=True, slots=True)
class RoutingUpdate:
    """The way to a VM has changed. `epoch` grows with every record of a VM; `changed` is what is new, `locations` all.

    A route with a lower epoch never replaces one with a higher one.
    """

    vm_id: str
    epoch: int
    cause: RouteCause
    changed: Location
    previous_node: str
    locations: tuple[Location, ...]
    changed_at_ms: int
    name: str = ""
    run_id: str = ""


class Action(StrEnum):
    """What a site agent can be told to do to a VM. Each is safe to ask for twice."""

    STAGE_ADDRESSES = "STAGE_ADDRESSES"
    SHUT_DOWN = "SHUT_DOWN"
    PREPARE = "PREPARE"
    CANCEL_PREPARE = "CANCEL_PREPARE"
    CHECK_PRIMARY = "CHECK_PRIMARY"
    FAIL_OVER = "FAIL_OVER"
    CANCEL_FAILOVER = "CANCEL_FAILOVER"
    REVERSE = "REVERSE"
    CONNECT_ADAPTERS = "CONNECT_ADAPTERS"
    START = "START"
    VERIFY_ADDRESSES = "VERIFY_ADDRESSES"
    COMPLETE = "COMPLETE"


@dataclass(frozen=True, slots=True)
class StepCommand:
    """Do this to a VM on a node of a site. Void once the VM's epoch is higher than `epoch`."""

    run_id: str
    step: str
    attempt: int
    vm_id: str
    site: str
    node: str
    epoch: int
    action: Action
    issued_at_ms: int
    deadline_ms: int
    peer_site: str = ""
    peer_node: str = ""
    addresses: tuple[AdapterAddresses, ...] = ()
    """For STAGE_ADDRESSES and VERIFY_ADDRESSES: what each adapter is to have; one not named keeps what it has."""
    attested: bool = False
    """For CHECK_PRIMARY: a person attests that the primary is off."""


class StepState(StrEnum):
    PENDING = "PENDING"
    ISSUED = "ISSUED"
    WAITING = "WAITING"
    """Failed; will be tried again."""
    DONE = "DONE"
    FAILED = "FAILED"
    UNDONE = "UNDONE"


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far one step of a run is. `step` is its number in the workflow's table (`P3`)."""

    step: str
    state: StepState
    attempt: int
    detail: str
    started_at_ms: int
    finished_at_ms: int


class RunState(StrEnum):
    RUNNING = "RUNNING"
    UNDOING = "UNDOING"
    SUCCEEDED = "SUCCEEDED"
    COMPLETED_WITH_ERRORS = "COMPLETED_WITH_ERRORS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REFUSED = "REFUSED"

    @property
    def ended(self) -> bool:
        return self not in (RunState.RUNNING, RunState.UNDOING)


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A run's latest state, for readers. For the run of a list or plan, a step is a VM."""

    run_id: str
    kind: FailoverKind
    state: RunState
    vm_id: str
    steps: tuple[StepProgress, ...]
    actor: str
    reason: str
    started_at_ms: int
    finished_at_ms: int
    epoch: int = 0
    plan_id: str = ""
    parent_run_id: str = ""
    ticket: str = ""
    detail: str = ""
    data_loss_ms: int = -1
    """Achieved recovery point: age of what was lost at the failover. 0 for a planned failover, -1 while unknown."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """What each adapter was found to have on the replica node, by adapter."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One transition of a run, or one refusal, with the rule that decided it. Chained: see `chain`."""

    run_id: str
    vm_id: str
    sequence: int
    """Place in the run, from 0. A refusal that belongs to no run has 0."""
    rule: str
    what: str
    state: str
    at_ms: int
    actor: str = ""
    reason: str = ""
    ticket: str = ""
    evidence: Mapping[str, str] = field(default_factory=dict)
    chain: str = ""
    chain_sequence: int = 0
    previous_hash: str = ""
    hash: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to what, and what came of it. Chained: see `chain`."""

    subject: str
    what: str
    outcome: str
    at_ms: int
    actor: str = ""
    reason: str = ""
    ticket: str = ""
    evidence: Mapping[str, str] = field(default_factory=dict)
    chain: str = ""
    chain_sequence: int = 0
    previous_hash: str = ""
    hash: str = ""


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A VM's replication health is another one now. `reasons` are sentences, each with its rule's number in front."""

    vm_id: str
    health: ReplicationHealth
    previous: ReplicationHealth
    reasons: tuple[str, ...]
    changed_at_ms: int


class Severity(StrEnum):
    INFO = "INFO"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should know now."""

    subject: str
    severity: Severity
    what: str
    raised_at_ms: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be taken, kept whole: where it stood, why, and its bytes."""

    topic: str
    partition: int
    offset: int
    reason: str
    key: bytes
    value: bytes
    received_at_ms: int
    truncated: bool = False
