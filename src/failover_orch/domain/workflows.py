"""The steps of each kind of failover, as tables. Source: the step sequences of Hyper-V Replica.

A step runs at the primary's or the replica's site. Where it fails for good, `on_failure` says what becomes of the run:

- UNDO: the steps done so far are undone, last first, and the run ends FAILED with the VM where it was;
- HALT: the run ends FAILED where it stands;
- CONTINUE: the failure is kept, the run goes on and can at best be COMPLETED_WITH_ERRORS.

A run can be cancelled, and is then undone, until its point of no return is issued. The addresses are staged first: what
the hypervisor refuses is then known while the primary still runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.records import Action

__all__ = ["WORKFLOWS", "Effect", "OnFailure", "Side", "Step", "Workflow"]


class Side(StrEnum):
    """At which end of the replication a step runs, as it stood when the run began."""

    PRIMARY = "PRIMARY"
    REPLICA = "REPLICA"


class OnFailure(StrEnum):
    UNDO = "UNDO"
    HALT = "HALT"
    CONTINUE = "CONTINUE"


class Effect(StrEnum):
    """What a step that is done changes about the VM itself; each raises its epoch."""

    NONE = "NONE"
    FAILED_OVER = "FAILED_OVER"
    REVERSED = "REVERSED"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what is done where, how long an attempt may take, how often it is tried, and what undoes it.

    Times in milliseconds. `backoff_ms` doubles with each attempt, up to 30 s.
    """

    number: str
    action: Action
    side: Side
    purpose: str
    on_failure: OnFailure
    timeout_ms: int = 60_000
    attempts: int = 3
    backoff_ms: int = 1_000
    undo: Action | None = None
    effect: Effect = Effect.NONE
    only_if_clean: bool = False
    """Skipped where an earlier step has failed: the step could not be taken back."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """The steps of one kind of failover, and the number of the first one that cannot be taken back."""

    kind: FailoverKind
    steps: tuple[Step, ...]
    point_of_no_return: str

    def index(self, number: str) -> int:
        """Where the step of that number stands."""
        return next(index for index, step in enumerate(self.steps) if step.number == number)


_GUEST_SHUTDOWN_MS = 300_000

PLANNED = Workflow(
    FailoverKind.PLANNED,
    (
        Step(
            "P1",
            Action.STAGE_ADDRESSES,
            Side.REPLICA,
            "write the failover TCP/IP settings into the replica's configuration",
            OnFailure.UNDO,
        ),
        Step(
            "P2",
            Action.SHUT_DOWN,
            Side.PRIMARY,
            "shut the guest down",
            OnFailure.UNDO,
            timeout_ms=_GUEST_SHUTDOWN_MS,
            undo=Action.START,
        ),
        Step(
            "P3",
            Action.PREPARE,
            Side.PRIMARY,
            "ship the last changes and lock the primary",
            OnFailure.UNDO,
            timeout_ms=_GUEST_SHUTDOWN_MS,
            undo=Action.CANCEL_PREPARE,
        ),
        Step(
            "P4",
            Action.FAIL_OVER,
            Side.REPLICA,
            "make the replica the VM",
            OnFailure.UNDO,
            undo=Action.CANCEL_FAILOVER,
            effect=Effect.FAILED_OVER,
        ),
        Step(
            "P5",
            Action.REVERSE,
            Side.REPLICA,
            "replicate the other way; from here there is no way back but another failover",
            OnFailure.UNDO,
            effect=Effect.REVERSED,
        ),
        Step(
            "P6",
            Action.CONNECT_ADAPTERS,
            Side.REPLICA,
            "connect the network adapters",
            OnFailure.CONTINUE,
        ),
        Step("P7", Action.START, Side.REPLICA, "start the VM", OnFailure.HALT, attempts=5),
        Step(
            "P8",
            Action.VERIFY_ADDRESSES,
            Side.REPLICA,
            "see that the guest has the addresses it was given",
            OnFailure.CONTINUE,
            attempts=5,
        ),
    ),
    point_of_no_return="P5",
)

UNPLANNED = Workflow(
    FailoverKind.UNPLANNED,
    (
        Step(
            "U1",
            Action.CHECK_PRIMARY,
            Side.REPLICA,
            "make sure that the primary does not run",
            OnFailure.HALT,
            timeout_ms=15_000,
        ),
        Step(
            "U2",
            Action.STAGE_ADDRESSES,
            Side.REPLICA,
            "write the failover TCP/IP settings into the replica's configuration",
            OnFailure.HALT,
        ),
        Step(
            "U3",
            Action.FAIL_OVER,
            Side.REPLICA,
            "make the replica the VM, from its latest recovery point",
            OnFailure.UNDO,
            undo=Action.CANCEL_FAILOVER,
            effect=Effect.FAILED_OVER,
        ),
        Step("U4", Action.CONNECT_ADAPTERS, Side.REPLICA, "connect the network adapters", OnFailure.CONTINUE),
        Step("U5", Action.START, Side.REPLICA, "start the VM", OnFailure.HALT, attempts=5),
        Step(
            "U6",
            Action.VERIFY_ADDRESSES,
            Side.REPLICA,
            "see that the guest has the addresses it was given",
            OnFailure.CONTINUE,
            attempts=5,
        ),
        Step(
            "U7",
            Action.COMPLETE,
            Side.REPLICA,
            "give up the other recovery points",
            OnFailure.CONTINUE,
            only_if_clean=True,
        ),
    ),
    point_of_no_return="U7",
)

WORKFLOWS = {workflow.kind: workflow for workflow in (PLANNED, UNPLANNED)}
