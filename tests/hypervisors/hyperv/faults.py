"""What a test lets go wrong: how a cmdlet is answered, and how much of it is done all the same."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum

__all__ = ["Armed", "Effect", "Fault", "Faults"]


class Fault(Enum):
    """How the caller fares."""

    OPERATION_TIMEOUT = "the command is answered with the time-out of an operation"
    SHELL_GONE = "the command is answered that its shell is not there any more, which is then so"
    UNAUTHORIZED = "the command is answered with 401"
    NON_TERMINATING = "an error is reported, and the pipeline completes"
    TERMINATING = "an error ends the pipeline"
    CUT = "the connection ends in the middle of the answer"
    HANG = "there is no answer, until the pipeline is stopped"
    LATE = "the answer comes after one operation has timed out"


class Effect(Enum):
    """How much of it the cmdlet has done."""

    NONE = "nothing"
    HALF = "half, whatever that is for the cmdlet"
    DONE = "all"


@dataclass(slots=True)
class Armed:
    """A fault that waits for its cmdlet. `node`: on which; empty: on any."""

    cmdlet: str
    fault: Fault
    effect: Effect
    times: int
    node: str


class Faults:
    """The faults that are armed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[Armed] = []

    def arm(self, fault: Armed) -> None:
        with self._lock:
            self._armed.append(fault)

    def take(self, cmdlet: str, node: str) -> Armed | None:
        """The fault for this call, which is one less then."""
        with self._lock:
            for armed in self._armed:
                if armed.cmdlet == cmdlet and armed.node in ("", node):
                    armed.times -= 1
                    if not armed.times:
                        self._armed.remove(armed)
                    return armed
        return None

    def left(self) -> tuple[Armed, ...]:
        with self._lock:
            return tuple(self._armed)
