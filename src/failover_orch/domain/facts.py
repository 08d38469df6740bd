"""What happened: the events that the rules fold, other than inventory and settings.

Times are milliseconds since the Unix epoch, UTC, by the clock of whoever reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState

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
    PLANNED = "PLANNED"
    UNPLANNED = "UNPLANNED"


class RequestAction(StrEnum):
    """REQUEST starts a failover; CANCEL undoes one that has not passed its point of no return."""

    REQUEST = "REQUEST"
    CANCEL = "CANCEL"


@dataclass(frozen=True, slots=True)
class FailoverRequested:
    """Somebody wants a failover, or wants one undone.

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


class StepOutcome(StrEnum):
    """DONE: it is so now. FAILED: not this time. REFUSED: never. STALE: the command's epoch is over."""

    DONE = "DONE"
    FAILED = "FAILED"
    REFUSED = "REFUSED"
    STALE = "STALE"


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
