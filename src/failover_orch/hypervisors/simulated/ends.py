"""What the simulated world is made of, besides the ends of its VMs. Times are milliseconds since the Unix epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from failover_orch.domain.inventory import VmInventory
from failover_orch.domain.records import Action
from failover_orch.errors import HypervisorError, StepFailed, StepRefused

__all__ = ["FAULTS", "Done", "Effect", "FaultKind", "PlacedVm"]


@dataclass(frozen=True, slots=True)
class PlacedVm:
    """A VM to create a world with. A VM that replicates but names no replica node waits to be placed."""

    inventory: VmInventory
    primary_node: str
    primary_storage: str
    replica_node: str = ""
    replica_storage: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """An action that really changed something, and the command that asked for it."""

    site: str
    vm_id: str
    action: Action
    epoch: int
    run_id: str
    step: str
    attempt: int
    at_ms: int


class FaultKind(StrEnum):
    """How an action is to go wrong.

    REFUSE and FAIL: it is answered so and nothing happens. HANG: nothing happens and no answer comes. LOSE_ANSWER: it
    takes effect and no answer comes.
    """

    REFUSE = "refuse"
    FAIL = "fail"
    HANG = "hang"
    LOSE_ANSWER = "lose-answer"


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a command inside its transaction."""

    settled_at_ms: int = 0
    error: HypervisorError | None = None
    silent: bool = False
    """No answer is to come."""
    found: Mapping[str, str] = field(default_factory=dict)


FAULTS: Mapping[FaultKind | None, Done] = {
    FaultKind.REFUSE: Done(error=StepRefused("refused, as this simulated world was told to")),
    FaultKind.FAIL: Done(error=StepFailed("failed, as this simulated world was told to")),
    FaultKind.HANG: Done(silent=True),
}
