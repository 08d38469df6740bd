"""What happened: the events that the rules fold, other than inventory and settings.

Times are milliseconds since the Unix epoch, UTC, by the clock of whoever reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.terms import LATEST, CommitPolicy, StepPolicy, WantedPoint

__all__ = [
    "FailoverKind",
    "FailoverRequested",
    "MoveKind",
    "ReplicationReport",
    "RequestAction",
    "StepOutcome",
    "StepResult",
    "VmMoved",
]


_DIGITS = 18
"""More make no time in milliseconds and no size in bytes."""


class MoveKind(StrEnum):
    """How a VM came to be where it is.

    PLACED: created or started there. LIVE: running throughout. QUICK: saved, moved, restored. STORAGE: the same node,
    other storage. DEPARTED: the VM has left this node; where it went, another event says.
    """

    PLACED = "PLACED"
    LIVE = "LIVE"
    QUICK = "QUICK"
    STORAGE = "STORAGE"
    DEPARTED = "DEPARTED"


@dataclass(frozen=True, slots=True)
class VmMoved:
    """A node says that a VM is now on it, or has left it.

    `sequence` grows with every event that this node reports of this VM (0: unknown, then `occurred_at_ms` serves); it
    tells a repeated or overtaken event of one node, and needs no agreement between the nodes' clocks.
    """

    vm_id: str
    site: str
    node: str
    kind: MoveKind
    occurred_at_ms: int
    cluster: str = ""
    storage: str = ""
    sequence: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class ReplicationReport:
    """How a VM's replication goes, as one end of it sees it. Sizes in bytes, durations in milliseconds."""

    vm_id: str
    site: str
    node: str
    mode: ReplicationMode
    state: ReplicationState
    health: ReplicationHealth
    reported_at_ms: int
    last_replication_at_ms: int = 0
    pending_bytes: int = 0
    cycles: int = 0
    missed_cycles: int = 0
    errors: int = 0
    latency_ms: int = 0
    source: str = ""


class FailoverKind(StrEnum):
    """What a run does to a VM.

    PLANNED: moved without loss. UNPLANNED: started from a recovery point, the primary being gone. TEST: an isolated
    copy is started and removed again, while replication goes on. REPROTECT: after an unplanned failover, the old
    primary becomes the replica. FAILBACK: moved, without loss, back to the site where it is at home.
    """

    PLANNED = "PLANNED"
    UNPLANNED = "UNPLANNED"
    TEST = "TEST"
    REPROTECT = "REPROTECT"
    FAILBACK = "FAILBACK"

    @property
    def noun(self) -> str:
        """What such a run is called in a sentence."""
        return _NOUNS.get(self, f"{self.lower()} failover")


_NOUNS = {FailoverKind.REPROTECT: "reprotection", FailoverKind.FAILBACK: "failback"}


class RequestAction(StrEnum):
    """What is wanted of a run.

    REQUEST starts it. APPROVE, REJECT: the word of a person whose agreement it needs. CANCEL undoes it, before its
    point of no return. COMMIT, ROLL_BACK, TRY_ANOTHER: the failover that waits for commitment is kept, taken back, or
    taken back and made again from another recovery point. To a run that is parked: RESUME tries its step again, SKIP
    goes on without it, CONFIRM attests that it has been done, FORWARD turns a run that is being undone round again,
    ABANDON ends it where it stands. RESUME also takes up a plan that ended with failures. ACKNOWLEDGE: a person has
    looked into the VM's last automatic failover, and another one may follow.
    """

    REQUEST = "REQUEST"
    CANCEL = "CANCEL"
    APPROVE = "APPROVE"
    REJECT = "REJECT"
    COMMIT = "COMMIT"
    ROLL_BACK = "ROLL_BACK"
    TRY_ANOTHER = "TRY_ANOTHER"
    RESUME = "RESUME"
    SKIP = "SKIP"
    CONFIRM = "CONFIRM"
    FORWARD = "FORWARD"
    ABANDON = "ABANDON"
    ACKNOWLEDGE = "ACKNOWLEDGE"


@dataclass(frozen=True, slots=True)
class FailoverRequested:
    """Somebody wants a failover, or something of one that is under way.

    Exactly one target: `vm_id` (key: the VM), `plan_id` (key: the plan) or `vm_ids`, an ad-hoc list failed over side by
    side (key: `run_id`). A run has the id that its request gives it, so a repeated request is the same run.
    """

    run_id: str
    action: RequestAction
    kind: FailoverKind
    actor: str
    reason: str
    requested_at_ms: int
    vm_id: str = ""
    plan_id: str = ""
    vm_ids: tuple[str, ...] = ()
    ticket: str = ""
    primary_is_down: bool = False
    """The actor attests that the primary is off: an unplanned failover needs this where nobody can reach it to ask."""
    parent_run_id: str = ""
    """The run of the list or plan that this is part of. Empty for one that stands alone."""
    parent_key: str = ""
    """Key under which the parent run wants to hear of the end of this one."""
    point: WantedPoint = LATEST
    """From which recovery point: of an unplanned failover, a test, and of TRY_ANOTHER."""
    commit: CommitPolicy = CommitPolicy.AT_ONCE
    window_ms: int = 0
    """How long AUTO_COMMIT and AUTO_ROLL_BACK wait; for a test, how long its copy is kept."""
    accept_data_loss: bool = False
    """The actor accepts that more is lost than the limits allow, or that nobody knows how much: a second person has to
    agree."""
    automatic: bool = False
    """The broker asks of its own accord."""
    fence: bool = False
    """Of an unplanned failover: where nobody can see that the primary is off, a fence agent cuts its power first."""
    needs_approval: bool = False
    """The broker only proposes: at least one person has to agree."""
    step: str = ""
    """Of a plan's run: the task that CONFIRM, SKIP, RESUME and ABANDON are about; empty: the only one that waits."""
    step_policies: tuple[StepPolicy, ...] = ()
    max_in_flight: int = 0
    """Of a list: how many of its VMs may be under way at once. 0: all."""
    per_node: int = 0
    """How many steps of this plan or list may run on one node at once. 0: as many as its site agent allows."""
    per_site: int = 0
    request_key: str = ""
    """What the asker calls this word, where it may be said again: two of one asker with the same key are one."""

    @property
    def asker(self) -> str:
        """Whom the run comes back to with its questions."""
        return "an operator" if self.automatic else self.actor

    @property
    def word(self) -> str:
        """What tells this from other words to the same run: one that is delivered again is the same word."""
        return f"{self.action}|{self.actor}|{self.request_key or self.requested_at_ms}|{self.step}"

    @property
    def isolated(self) -> bool:
        """Whether it makes an isolated copy alone, so that it may run beside the VM's real failover."""
        return self.kind is FailoverKind.TEST


class StepOutcome(StrEnum):
    """DONE: it is so now. FAILED: not this time. REFUSED: never. STALE: the command's epoch is over.

    For what cannot be asked about afterwards (scripts, HTTP calls): BEGUN is told before it begins, and UNCERTAIN where
    it was begun and nobody knows how it ended; then it is not done again, a person has to say.
    """

    DONE = "DONE"
    FAILED = "FAILED"
    REFUSED = "REFUSED"
    STALE = "STALE"
    BEGUN = "BEGUN"
    UNCERTAIN = "UNCERTAIN"


@dataclass(frozen=True, slots=True)
class StepResult:
    """A site agent's answer to a step command, or a VM run's end told to the run it is part of.

    In the second case `run_id` is the parent's, `step` the VM, and `key` the parent's key.
    """

    run_id: str
    step: str
    attempt: int
    vm_id: str
    site: str
    node: str
    epoch: int
    outcome: StepOutcome
    detail: str
    finished_at_ms: int
    observed: Mapping[str, str] = field(default_factory=dict)
    """What was found there afterwards, by name: `power`, `addresses/<adapter>`, `pending_bytes`, ..."""
    key: str = ""
    """Key of the record: `vm_id`, or the parent's key where a VM run's end is told to its parent."""

    def number(self, name: str) -> int | None:
        """What was observed under a name, where it is a whole number that is not negative; it may come from anybody."""
        text = self.observed.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None
