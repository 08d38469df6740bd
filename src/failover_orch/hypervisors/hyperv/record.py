"""The VM's own record: one marked line of JSON at the end of the VM's notes, below whatever people wrote there.

A VM of a cluster has one text of notes, which moves with it; the two ends of a replication have one each. The record
holds all that must outlive agents: the highest epoch, which commands took effect, what is staged, the point failed
over to, the test copy, and the VM's last arrival.

Hyper-V has no compare-and-set. Whoever changes a record lets the node compare, in the same command, that the notes are
still as they were read (`cmdlets.guarded`), and everything that is done to a VM is done on that condition. What is left
is the moment on the node between that comparison and the change: another agent, or a person in Hyper-V Manager, whose
change of the same notes falls into it is overwritten, or overwrites.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from failover_orch.domain.facts import MoveKind
from failover_orch.domain.inventory import IntegrationServices
from failover_orch.domain.records import StepCommand
from failover_orch.domain.settings import AdapterAddresses
from failover_orch.domain.terms import WantedPoint
from failover_orch.errors import StaleEpoch, StepRefused
from failover_orch.hypervisors.rules.ends import Configuration, RecoveryPoint

__all__ = ["MARK", "Arrival", "CopyRecord", "GuestSeen", "Record", "in_notes", "of_notes"]

MARK = "failover_orch: "
"""What the line begins with."""
_LINE = re.compile(rf"^{MARK}[^\r\n]*(?:\r?\n)?", re.MULTILINE)
_EFFECTS_KEPT = 32
"""How many commands are remembered: those of a run, with several attempts of each."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """The last arrival at a node that was told, or a storage move there."""

    node: str
    kind: MoveKind
    at_ms: int
    storage: str = ""
    sequences: Mapping[str, int] = field(default_factory=dict)
    """For each node of the site the sequence of its last word of this VM."""


@dataclass(frozen=True, slots=True)
class GuestSeen:
    """What the guest last told of itself: it cannot be asked while it is off."""

    system: str = ""
    services: IntegrationServices = IntegrationServices.UNKNOWN
    configured: Mapping[str, Configuration] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CopyRecord:
    """What a test copy was made of, and for whom."""

    run_id: str
    wanted: WantedPoint
    point: RecoveryPoint
    network: str
    staged: tuple[AdapterAddresses, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a VM at one site. Times are milliseconds since the Unix epoch."""

    site: str
    epoch: int = 0
    begun: str = ""
    """The command that was begun last. It is not among `effects` as long as nobody has seen that it took effect."""
    begun_by: str = ""
    """The agent that began it. Two that carry out the same command (it was delivered to both) keep each other off."""
    effects: tuple[str, ...] = ()
    """Commands that are not to take effect (again), newest last."""
    staged: tuple[AdapterAddresses, ...] = ()
    failed_over_to: RecoveryPoint | None = None
    copy: CopyRecord | None = None
    arrival: Arrival | None = None
    guest: GuestSeen = GuestSeen()

    def void(self, command: StepCommand) -> bool:
        """Whether this very command took effect before, or has been overtaken by one that was begun after it."""
        return _name(command) in self.effects

    def beginning(self, command: StepCommand, by: str = "") -> Record:
        """The record as the command is begun by this agent.

        The one before, if nobody knows what came of it, is void from now on: delivered once more after this one, it
        would undo it.
        """
        name = _name(command)
        if self.begun in ("", name):
            return replace(self, begun=name, begun_by=by)
        return replace(self, begun=name, begun_by=by, effects=(*self.effects, self.begun)[-_EFFECTS_KEPT:])

    def done(self, command: StepCommand) -> Record:
        """The record once the command has taken effect."""
        return replace(self, begun="", begun_by="", effects=(*self.effects, _name(command))[-_EFFECTS_KEPT:])

    def settled(self, command: StepCommand) -> Record:
        """The record once this command was found to be done, which shows what came of the one that was begun last."""
        if not self.begun:
            return self
        return replace(
            self, begun="", begun_by="", effects=(*self.effects, self.begun, _name(command))[-_EFFECTS_KEPT:]
        )

    def fenced(self, command: StepCommand, vm_id: str) -> Record:
        """The record with the command's epoch accepted.

        Raises:
            StaleEpoch: it has accepted a higher one.

        """
        if command.epoch < self.epoch:
            raise StaleEpoch(
                f"{vm_id} at {self.site} has accepted epoch {self.epoch}: a command of epoch {command.epoch} is void"
            )
        return replace(self, epoch=command.epoch)


def _name(command: StepCommand) -> str:
    return f"{command.run_id}/{command.step}/{command.attempt}/{command.action}"


def of_notes(notes: str | None, site: str, vm: str) -> Record | None:
    """The record of this site that a VM's notes hold; None where they hold none, or another site's.

    Notes travel with exports and initial copies of a VM, so a record may be the other site's.

    Raises:
        StepRefused: there is a record and it cannot be read.

    """
    lines = _LINE.findall(notes or "")
    if not lines:
        return None
    try:
        record = msgspec.json.decode(lines[-1].strip().removeprefix(MARK), type=Record)
    except msgspec.MsgspecError as error:
        raise StepRefused(
            f"the notes of {vm} at {site} hold a line {MARK.strip()!r} that cannot be read ({error}): without it "
            "nobody knows which commands are over; restore the line, or delete it once no run of this VM is under way"
        ) from None
    return record if record.site == site else None


def in_notes(notes: str | None, record: Record) -> str:
    """The notes with the record as their last line, in place of the one that they held."""
    theirs = _LINE.sub("", notes or "")
    if theirs and not theirs.endswith("\n"):
        theirs += "\r\n"
    return theirs + MARK + msgspec.json.encode(record).decode()
