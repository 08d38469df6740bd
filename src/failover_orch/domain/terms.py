"""The terms on which a failover is asked for: from which recovery point, how it is committed, how its steps are tried.

Times are milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["LATEST", "CommitPolicy", "OnTaskFailure", "PointChoice", "StepPolicy", "WantedPoint"]


class PointChoice(StrEnum):
    """Which of a replica's recovery points to fail over to.

    LATEST: the newest. BEFORE: the newest at or before a time. APPLICATION_CONSISTENT: the newest that the guest was
    quiesced for. NAMED: the one of that id.
    """

    LATEST = "LATEST"
    BEFORE = "BEFORE"
    APPLICATION_CONSISTENT = "APPLICATION_CONSISTENT"
    NAMED = "NAMED"


@dataclass(frozen=True, slots=True)
class WantedPoint:
    """A choice of recovery point. `at_ms` is for BEFORE, `point_id` for NAMED."""

    choice: PointChoice = PointChoice.LATEST
    at_ms: int = 0
    point_id: str = ""

    def __str__(self) -> str:
        match self.choice:
            case PointChoice.BEFORE:
                return f"the newest recovery point at or before {self.at_ms}"
            case PointChoice.APPLICATION_CONSISTENT:
                return "the newest application-consistent recovery point"
            case PointChoice.NAMED:
                return f"recovery point {self.point_id}"
            case _:
                return "the latest recovery point"


LATEST = WantedPoint()


class CommitPolicy(StrEnum):
    """When a failover is committed, which gives up the other recovery points.

    AT_ONCE: as its last step. HOLD: when a person says so. AUTO_COMMIT, AUTO_ROLL_BACK: when a window has passed in
    which nobody decided otherwise.
    """

    AT_ONCE = "AT_ONCE"
    HOLD = "HOLD"
    AUTO_COMMIT = "AUTO_COMMIT"
    AUTO_ROLL_BACK = "AUTO_ROLL_BACK"


class OnTaskFailure(StrEnum):
    """What a plan makes of a task of its own that failed for good.

    HALT: nothing more is started. SKIP: what depends on it is left out, the rest goes on. CONTINUE: as if it had been
    done. COMPENSATE: what was done is taken back, last first.
    """

    HALT = "HALT"
    SKIP = "SKIP"
    CONTINUE = "CONTINUE"
    COMPENSATE = "COMPENSATE"


@dataclass(frozen=True, slots=True)
class StepPolicy:
    """How one step of a workflow is tried, in place of what its table says. 0 keeps the table's value.

    `step` is the step's number in its workflow (`P2`). `backoff_ms` doubles with each attempt.
    """

    step: str = ""
    timeout_ms: int = 0
    attempts: int = 0
    backoff_ms: int = 0
