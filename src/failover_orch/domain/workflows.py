"""The steps of each kind of failover, as tables. Source: the step sequences of Hyper-V Replica.

A step runs at the primary's or the replica's site. Where it fails for good, `on_failure` says what becomes of the run:

- UNDO: the steps done so far are undone, last first, and the run ends FAILED with the VM where it was;
- HALT: the run ends FAILED where it stands; only for steps before which nothing was changed;
- PARK: the run waits for a person, with the choices listed;
- CONTINUE: the failure is kept, the run goes on and can at best be COMPLETED_WITH_ERRORS.

A run can be cancelled, and is then undone, until its point of no return is issued. The addresses are staged first: what
the hypervisor refuses is then known while the primary still runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.records import Action

__all__ = ["WORKFLOWS", "Effect", "OnFailure", "Side", "Step", "Workflow"]


class Side(StrEnum):
    """At which end of the replication a step runs, as it stood when the run began.

    In a reprotection PRIMARY is where the VM runs now, and REPLICA the site that lost it.
    """

    PRIMARY = "PRIMARY"
    REPLICA = "REPLICA"


class OnFailure(StrEnum):
    UNDO = "UNDO"
    HALT = "HALT"
    PARK = "PARK"
    CONTINUE = "CONTINUE"


class Effect(StrEnum):
    """What a step that is done changes about the VM itself; each raises its epoch."""

    NONE = "NONE"
    FAILED_OVER = "FAILED_OVER"
    REVERSED = "REVERSED"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what is done where, how long an attempt may take, how often it is tried, and what undoes it.

    Where there is nothing to take back, `undo` may be INSPECT: under the new epoch of a run that has turned round it
    makes sure that the step, if it is still on its way, is done no more.

    Times in milliseconds. `backoff_ms` doubles with each attempt, up to 30 s: three attempts outlast the restart of a
    daemon. A step without an action is a window: the run waits there for a decision, as its commit policy says.
    """

    number: str
    action: Action | None
    side: Side
    purpose: str
    on_failure: OnFailure
    timeout_ms: int = 60_000
    attempts: int = 3
    backoff_ms: int = 3_000
    undo: Action | None = None
    effect: Effect = Effect.NONE
    only_if_clean: bool = False
    """Skipped where an earlier step has failed, unless a person decides: the step could not be taken back."""
    takes_point: bool = False
    """It is made from a recovery point: to try another one, the run goes back to here."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """The steps of one kind of failover, and the number of the first one that cannot be taken back."""

    kind: FailoverKind
    steps: tuple[Step, ...]
    point_of_no_return: str

    def index(self, number: str) -> int:
        """Where the step of that number stands."""
        return next(index for index, step in enumerate(self.steps) if step.number == number)

    @property
    def takes_point(self) -> int:
        """Where the step stands that is made from a recovery point; -1 where none is."""
        return next((index for index, step in enumerate(self.steps) if step.takes_point), -1)


_GUEST_SHUTDOWN_MS = 300_000
_COPY_MS = 1_800_000
_SOON_MS = 1_000
"""Where a guest boots, or was asked too early, and there are more attempts."""
_FENCE_MS = 45_000
"""A fence agent may take half a minute to cut power and read it to be off."""

PLANNED = Workflow(
    FailoverKind.PLANNED,
    (
        Step(
            "P0",
            Action.INSPECT,
            Side.PRIMARY,
            "see that the primary's site answers, and whether the VM runs there",
            OnFailure.HALT,
            timeout_ms=15_000,
        ),
        Step(
            "P1",
            Action.STAGE_ADDRESSES,
            Side.REPLICA,
            "write the failover TCP/IP settings into the replica's configuration",
            OnFailure.HALT,
            undo=Action.INSPECT,
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
            # Long enough for a daemon at either end to start again: what is half turned had better be turned whole.
            backoff_ms=4_000,
            effect=Effect.REVERSED,
        ),
        Step(
            "P6",
            Action.CONNECT_ADAPTERS,
            Side.REPLICA,
            "connect the network adapters",
            OnFailure.CONTINUE,
        ),
        Step("P7", Action.START, Side.REPLICA, "start the VM", OnFailure.PARK, attempts=5, backoff_ms=_SOON_MS),
        Step(
            "P8",
            Action.VERIFY_ADDRESSES,
            Side.REPLICA,
            "see that the guest has the addresses it was given",
            OnFailure.CONTINUE,
            attempts=5,
            backoff_ms=_SOON_MS,
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
            "the fence: make sure that the primary does not run",
            OnFailure.HALT,
            timeout_ms=_FENCE_MS,
        ),
        Step(
            "U2",
            Action.STAGE_ADDRESSES,
            Side.REPLICA,
            "write the failover TCP/IP settings into the replica's configuration",
            OnFailure.HALT,
            undo=Action.INSPECT,
        ),
        Step(
            "U3",
            Action.FAIL_OVER,
            Side.REPLICA,
            "make the replica the VM, from the recovery point asked for",
            OnFailure.UNDO,
            undo=Action.CANCEL_FAILOVER,
            effect=Effect.FAILED_OVER,
            takes_point=True,
        ),
        Step("U4", Action.CONNECT_ADAPTERS, Side.REPLICA, "connect the network adapters", OnFailure.CONTINUE),
        Step("U5", Action.START, Side.REPLICA, "start the VM", OnFailure.PARK, attempts=5, backoff_ms=_SOON_MS),
        Step(
            "U6",
            Action.VERIFY_ADDRESSES,
            Side.REPLICA,
            "see that the guest has the addresses it was given",
            OnFailure.CONTINUE,
            attempts=5,
            backoff_ms=_SOON_MS,
        ),
        Step(
            "U7",
            None,
            Side.REPLICA,
            "wait for the word that this recovery point is the right one",
            OnFailure.CONTINUE,
        ),
        Step(
            "U8",
            Action.COMPLETE,
            Side.REPLICA,
            "give up the other recovery points",
            OnFailure.CONTINUE,
            only_if_clean=True,
        ),
    ),
    point_of_no_return="U8",
)

TEST = Workflow(
    FailoverKind.TEST,
    (
        Step(
            "T1",
            Action.CREATE_TEST,
            Side.REPLICA,
            "make an isolated copy from the recovery point asked for, with the test addresses staged",
            OnFailure.UNDO,
            undo=Action.DELETE_TEST,
            takes_point=True,
        ),
        Step("T2", Action.START_TEST, Side.REPLICA, "start the copy", OnFailure.UNDO, attempts=5, backoff_ms=_SOON_MS),
        Step(
            "T3",
            Action.VERIFY_TEST,
            Side.REPLICA,
            "see that the copy's guest has the addresses it was given",
            OnFailure.CONTINUE,
            attempts=5,
            backoff_ms=_SOON_MS,
        ),
        Step("T4", None, Side.REPLICA, "keep the copy until somebody has looked at it", OnFailure.CONTINUE),
        Step(
            "T5", Action.DELETE_TEST, Side.REPLICA, "remove the copy", OnFailure.PARK, attempts=5, backoff_ms=_SOON_MS
        ),
    ),
    point_of_no_return="T5",
)

REPROTECT = Workflow(
    FailoverKind.REPROTECT,
    (
        Step(
            "B1",
            Action.INSPECT,
            Side.REPLICA,
            "see that the site which lost the VM answers again",
            OnFailure.HALT,
            timeout_ms=15_000,
        ),
        Step(
            "B2",
            Action.COMPLETE,
            Side.PRIMARY,
            "commit the failover, where that has not been done",
            OnFailure.HALT,
            undo=Action.INSPECT,
        ),
        Step(
            "B3",
            Action.SHUT_DOWN,
            Side.REPLICA,
            "make sure that the old copy is off: its disks are about to be overwritten",
            OnFailure.HALT,
            timeout_ms=_GUEST_SHUTDOWN_MS,
            undo=Action.INSPECT,
        ),
        Step(
            "B4",
            Action.MAKE_REPLICA,
            Side.REPLICA,
            "make the old primary a replica",
            OnFailure.HALT,
            undo=Action.INSPECT,
        ),
        Step(
            "B5",
            Action.REVERSE,
            Side.PRIMARY,
            "replicate the other way",
            OnFailure.PARK,
            effect=Effect.REVERSED,
        ),
        Step("B6", Action.RESYNCHRONIZE, Side.PRIMARY, "copy what has changed since the failover", OnFailure.PARK),
        Step(
            "B7",
            Action.AWAIT_REPLICATION,
            Side.PRIMARY,
            "see that the VM replicates",
            OnFailure.CONTINUE,
            timeout_ms=_COPY_MS,
            attempts=100,
            backoff_ms=5_000,
        ),
    ),
    point_of_no_return="B5",
)

FAILBACK = replace(PLANNED, kind=FailoverKind.FAILBACK)

WORKFLOWS = {workflow.kind: workflow for workflow in (PLANNED, UNPLANNED, TEST, REPROTECT, FAILBACK)}
