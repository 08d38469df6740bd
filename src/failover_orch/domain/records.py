"""What the rules say in answer: routes, commands, journal and audit entries, run snapshots, changes of health, alerts.

Times are milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.replication import ReplicationHealth
from failover_orch.domain.replication_settings import ReplicationServer, VmReplication
from failover_orch.domain.settings import AdapterAddresses, Gate, PlanAction
from failover_orch.domain.terms import LATEST, WantedPoint

__all__ = [
    "Action",
    "Alert",
    "AuditEntry",
    "DeadLetter",
    "HealthChange",
    "JournalEntry",
    "Location",
    "MemberReadiness",
    "PlanMembership",
    "Readiness",
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
    """What a site agent can be told to do to a VM. Each is safe to ask for twice, but RUN_SCRIPT and CALL_HTTP.

    Those two are a plan's own actions, and CHECK_GATE its readiness gates.
    """

    INSPECT = "INSPECT"
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
    MAKE_REPLICA = "MAKE_REPLICA"
    RESYNCHRONIZE = "RESYNCHRONIZE"
    AWAIT_REPLICATION = "AWAIT_REPLICATION"
    CREATE_TEST = "CREATE_TEST"
    START_TEST = "START_TEST"
    VERIFY_TEST = "VERIFY_TEST"
    DELETE_TEST = "DELETE_TEST"
    RUN_SCRIPT = "RUN_SCRIPT"
    CALL_HTTP = "CALL_HTTP"
    CHECK_GATE = "CHECK_GATE"
    APPLY_SETTINGS = "APPLY_SETTINGS"


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
    """For STAGE_ADDRESSES, VERIFY_ADDRESSES, CREATE_TEST and VERIFY_TEST: what each adapter is to have; one not named
    keeps what it has."""
    attested: bool = False
    """For CHECK_PRIMARY: a person, or evidence from a third place, attests that the primary is off."""
    point: WantedPoint = LATEST
    """For FAIL_OVER and CREATE_TEST."""
    test_network: str = ""
    """For CREATE_TEST: the isolated network that the copy is connected to."""
    plan_action: PlanAction | None = None
    """For RUN_SCRIPT and CALL_HTTP."""
    gate: Gate | None = None
    """For CHECK_GATE."""
    test_copy: bool = False
    """For CHECK_GATE: the gate is asked of the VM's test copy."""
    context: str = ""
    """For RUN_SCRIPT, CALL_HTTP and CHECK_GATE: the run's context as JSON."""
    key: str = ""
    """Key of the record, and of its result: empty for `vm_id`, else the plan run's."""
    per_node: int = 0
    """How many steps of the plan or list that this is part of may run on one node at once. 0: no limit of its own."""
    per_site: int = 0
    plan_run_id: str = ""
    """The run of the plan or list whose limits `per_node` and `per_site` are."""
    fence: bool = False
    """For CHECK_PRIMARY: where the primary cannot be reached, its power is to be cut, and seen to be cut."""
    server: ReplicationServer | None = None
    """For APPLY_SETTINGS to a node; `epoch` is then the version of the settings, and `key` the cluster."""
    replication: VmReplication | None = None
    """For APPLY_SETTINGS to a VM."""


class StepState(StrEnum):
    PENDING = "PENDING"
    ISSUED = "ISSUED"
    WAITING = "WAITING"
    """Failed; will be tried again."""
    DONE = "DONE"
    FAILED = "FAILED"
    UNDONE = "UNDONE"
    SKIPPED = "SKIPPED"


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
    """Where a run stands.

    AWAITING_APPROVAL: people have to agree first. AWAITING_COMMIT: failed over (or the test copy runs), and somebody
    has to say whether it stays. PARKED: only a person can say how it goes on, the choices are listed.
    """

    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    RUNNING = "RUNNING"
    AWAITING_COMMIT = "AWAITING_COMMIT"
    UNDOING = "UNDOING"
    PARKED = "PARKED"
    SUCCEEDED = "SUCCEEDED"
    COMPLETED_WITH_ERRORS = "COMPLETED_WITH_ERRORS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REFUSED = "REFUSED"

    @property
    def ended(self) -> bool:
        return self in _ENDED


_ENDED = frozenset(
    {
        RunState.SUCCEEDED,
        RunState.COMPLETED_WITH_ERRORS,
        RunState.FAILED,
        RunState.CANCELLED,
        RunState.REFUSED,
    }
)


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
    recovery_time_ms: int = -1
    """Achieved recovery time: from the request to the running VM, of a plan to its last VM. -1 while unknown."""
    from_site: str = ""
    to_site: str = ""
    waits_for: str = ""
    """Who has to do what before it goes on, as a sentence; empty where nobody has to."""
    choices: tuple[str, ...] = ()
    """What a person can say to it now: names of RequestAction."""
    approved_by: tuple[str, ...] = ()
    recovery_point: str = ""
    """The recovery point failed over to, by its id."""
    groups: tuple[str, ...] = ()
    """Of a plan's run: the group of each step, in the order of `steps`."""
    automatic: bool = False


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


class Readiness(StrEnum):
    """Whether a failover would work now. AT_RISK: it would, but not as well as it should."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    AT_RISK = "AT_RISK"
    NOT_READY = "NOT_READY"


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A VM's replication health, or its readiness, is another one now; or a plan's readiness (`plan_id`, no `vm_id`).

    `reasons` (of the health) and `defects` (of the readiness) are sentences, each with its rule's number in front.
    """

    vm_id: str
    health: ReplicationHealth
    previous: ReplicationHealth
    reasons: tuple[str, ...]
    changed_at_ms: int
    readiness: Readiness = Readiness.UNKNOWN
    previous_readiness: Readiness = Readiness.UNKNOWN
    defects: tuple[str, ...] = ()
    rpo_breach_at_ms: int = 0
    """When, as things go, the replica will lag further behind than its limit. 0: no breach in sight."""
    plan_id: str = ""


@dataclass(frozen=True, slots=True)
class PlanMembership:
    """A plan's partition tells a VM's: the VM is part of the plan, or no longer is."""

    vm_id: str
    plan_id: str
    member: bool
    at_ms: int


@dataclass(frozen=True, slots=True)
class MemberReadiness:
    """A VM's partition tells a plan's how ready the VM is."""

    plan_id: str
    vm_id: str
    readiness: Readiness
    defects: tuple[str, ...]
    at_ms: int


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
