"""What the two ends of a replication tell each other, as JSON over HTTP. `receiver` says at which addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from failover_orch.domain.replication import ReplicationState
from failover_orch.domain.replication_settings import VmReplication
from failover_orch.errors import StaleEpoch, StepFailed, StepRefused
from failover_orch.hypervisors.libvirt.record import Record
from failover_orch.hypervisors.rules import End

__all__ = [
    "CALLER",
    "Accepted",
    "Answer",
    "Busy",
    "Conflict",
    "Cycle",
    "Delivered",
    "LinkDown",
    "NewReplica",
    "TurnedRound",
]


CALLER = "primary-server"
"""The header by which whoever asks says which primary server it is: its cluster's broker, or the cluster itself."""


class LinkDown(StepFailed):
    """Nobody answers at the other end's site."""


class Busy(StepFailed):
    """The other end is being changed: ask again."""


class Conflict(StepFailed):
    """The other end is not in the state to take this. `record` is its record, None where it has none here."""

    def __init__(self, sentence: str, record: Record | None = None) -> None:
        super().__init__(sentence)
        self.record = record


@dataclass(frozen=True, slots=True)
class NewReplica:
    """A VM that is to be replicated: its inactive XML, its record, and the network of each adapter by its id."""

    xml: str
    record: Record
    networks: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Cycle:
    """A cycle whose disks were delivered: the replica is to stand at `cycle`, by what was written since `base`.

    A cycle of the same number as its base has no disks: nothing was written, and the replica is as new as `at_ms` says.
    """

    base: int
    cycle: int
    full: bool
    """The disks hold everything, so `base` does not matter."""
    delivery: str
    targets: tuple[str, ...]
    digests: tuple[str, ...]
    """The SHA-256 of each disk's file, in hexadecimal."""
    at_ms: int
    """When the disks were so, by the primary's clock."""
    age_ms: int
    """How long ago that was when this was sent: the two clocks need not agree."""
    latency_ms: int
    consistent: bool
    """The guest had its file systems frozen at that moment."""
    end: End
    """The primary: its guest's configuration travels with its disks."""
    replication: VmReplication | None = None
    """How the VM replicates from this cycle on; None: as before."""


@dataclass(frozen=True, slots=True)
class TurnedRound:
    """After a planned failover: the end that was the primary is to be the replica, and `end` is what it becomes."""

    epoch: int
    end: End
    node: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The other end was changed by a command of this epoch: this end accepts it, and is in `state` from now on."""

    epoch: int
    state: ReplicationState


@dataclass(frozen=True, slots=True)
class Delivered:
    """A disk has arrived: its bytes and their SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Answer:
    """`record` is the end's, as it is now. With an `error`, `kind` is one of `ERRORS`."""

    record: Record | None = None
    error: str = ""
    kind: str = ""

    def raise_error(self) -> None:
        """Raise what the other end raised.

        Raises:
            HypervisorError: the answer is an error.

        """
        if self.kind == "conflict":
            raise Conflict(self.error, self.record)
        if self.error:
            raise ERRORS.get(self.kind, StepFailed)(self.error)


ERRORS: Mapping[str, type[StaleEpoch | StepRefused | StepFailed]] = {
    "stale": StaleEpoch,
    "refused": StepRefused,
    "conflict": Conflict,
    "busy": Busy,
    "failed": StepFailed,
}
"""How errors are called on the way."""
