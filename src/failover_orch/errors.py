"""Every error this project raises on purpose, as one tree.

Catch a branch to handle a family; catch `FailoverOrchError` at a process's edge to print one sentence.
Anything else that escapes is a bug and is shown with its traceback.

    FailoverOrchError
    ├── ConfigError              a setting, flag or environment variable is missing or wrong
    ├── FileError                a file that people write has mistakes; `mistakes` lists each with its line
    │   ├── TopologyError        a topology file
    │   ├── SiteFileError        a site agent's file
    │   └── ServiceFileError     a service's file
    ├── ContractError            a record does not fit the contract in `schemas/`
    │   ├── UndecodableRecord    bytes that no known schema explains; ends in `dead-letters`
    │   ├── UnencodableRecord    a value of ours that its schema refuses
    │   └── IncompatibleSchema   a schema version that older or newer readers could not read
    ├── KafkaError               Kafka is away, or not what we need
    │   ├── KafkaForbidden       Kafka does not know us, or an ACL is missing
    │   ├── KafkaUnavailable     nobody answers at the bootstrap address
    │   ├── KafkaUntrusted       nothing shows that it is our Kafka who answers there
    │   ├── LocalKafkaError      the local Kafka could not be fetched, started or stopped
    │   └── TopicMismatch        topics differ from what the contract says
    ├── PartitionFault           a partition task must not go on; the process ends and the next owner resumes
    │   ├── GapInPartition       a chunk does not begin where the task stands
    │   └── FencedOut            another worker has opened this partition
    ├── HypervisorError          a step was not done on a hypervisor
    │   ├── StaleEpoch           the command is older than what the VM's own record has accepted
    │   ├── StepRefused          the hypervisor will not do it, now or later
    │   │   └── FenceRefused     power cannot be cut as things are: somebody has to change something first
    │   └── StepFailed           it did not work this time; trying again may help
    │       └── FenceFailed      power was not read as off; it may be on, or off
    ├── LabError                 the lab of libvirt nodes could not be set up, or lacks something of this machine
    ├── AccessError              a call to the service was refused before it was known who calls
    │   ├── Unauthenticated      no credentials, or none that prove an identity
    │   ├── TooManyAttempts      too many failed attempts from one address
    │   └── AccessUnavailable    nobody can tell at the moment: what proves identities is not at hand yet
    ├── LookupFailed             the VM, run or plan is not known, or its data is not at hand yet
    ├── NotFresh                 what is known is too old to be an answer; trying again in a moment helps
    └── AuditBroken              the audit trail does not verify
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "AccessError",
    "AccessUnavailable",
    "AuditBroken",
    "ConfigError",
    "ContractError",
    "FailoverOrchError",
    "FenceFailed",
    "FenceRefused",
    "FencedOut",
    "FileError",
    "GapInPartition",
    "HypervisorError",
    "IncompatibleSchema",
    "KafkaError",
    "KafkaForbidden",
    "KafkaUnavailable",
    "KafkaUntrusted",
    "LabError",
    "LocalKafkaError",
    "LookupFailed",
    "Mistake",
    "NotFresh",
    "PartitionFault",
    "ServiceFileError",
    "SiteFileError",
    "StaleEpoch",
    "StepFailed",
    "StepRefused",
    "TooManyAttempts",
    "TopicMismatch",
    "TopologyError",
    "Unauthenticated",
    "UndecodableRecord",
    "UnencodableRecord",
]


class FailoverOrchError(Exception):
    """Base of every error raised on purpose. Its text is one sentence fit for an operator."""


class ConfigError(FailoverOrchError):
    """A setting, flag or environment variable is missing or wrong."""


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake in a file: where it is and what was expected instead."""

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field}: {self.message}"


class FileError(FailoverOrchError):
    """A file that people write has mistakes. `mistakes` lists every one of them, in the order of their lines."""

    def __init__(self, path: str, mistakes: Sequence[Mistake]) -> None:
        self.path = path
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(f"{path}:{mistake}" for mistake in self.mistakes))


class TopologyError(FileError):
    """A topology file has mistakes."""


class SiteFileError(FileError):
    """A site agent's file has mistakes."""


class ServiceFileError(FileError):
    """A service's file has mistakes."""


class ContractError(FailoverOrchError):
    """A record does not fit the contract in `schemas/`."""


class UndecodableRecord(ContractError):
    """Bytes that no known schema explains. The record ends in `dead-letters`."""


class UnencodableRecord(ContractError):
    """A value of ours that its schema refuses."""


class IncompatibleSchema(ContractError):
    """A schema version that older or newer readers could not read."""


class KafkaError(FailoverOrchError):
    """Kafka is away, or not what we need."""


class KafkaUnavailable(KafkaError):
    """Nobody answers at the bootstrap address."""


class KafkaForbidden(KafkaError):
    """Kafka does not know the user, or the password, or no ACL allows what was asked of it."""


class KafkaUntrusted(KafkaError):
    """No certificate that we trust says that it is Kafka who answers at the bootstrap address."""


class LocalKafkaError(KafkaError):
    """The local Kafka could not be fetched, started or stopped."""


class TopicMismatch(KafkaError):
    """Topics are missing or differ from what the contract says."""


class PartitionFault(FailoverOrchError):
    """A partition task must not go on. The process ends; the partition's next owner resumes from the changelog."""


class GapInPartition(PartitionFault):
    """A chunk does not begin where the partition's task stands: records between would be lost."""


class FencedOut(PartitionFault):
    """Another worker has opened this partition; what this one still wanted to write is void."""


class HypervisorError(FailoverOrchError):
    """A step was not done on a hypervisor."""


class StaleEpoch(HypervisorError):
    """The command's epoch is lower than one that the VM's own record on the hypervisor has accepted."""


class StepRefused(HypervisorError):
    """The hypervisor will not do this step, now or later."""


class StepFailed(HypervisorError):
    """The step did not work this time. Trying again may help."""


class FenceRefused(StepRefused):
    """Power cannot be cut as things are: a password, a certificate or a right is wrong, or only a person can do it."""


class FenceFailed(StepFailed):
    """Power was not read as off within the time: the primary must not be overtaken. `seen_on`: it was read as on."""

    def __init__(self, sentence: str, *, seen_on: bool = False) -> None:
        self.seen_on = seen_on
        super().__init__(sentence)


class LabError(FailoverOrchError):
    """The lab of libvirt nodes on this machine could not be set up, or lacks something."""


class AccessError(FailoverOrchError):
    """A call to the service was refused before it was known who calls. Its text is fit for the caller."""


class Unauthenticated(AccessError):
    """No credentials came with a call, or none that prove an identity. Why stands in our log and audit trail alone."""


class TooManyAttempts(AccessError):
    """Too many attempts from one address have failed; it may try again in `retry_after_s` seconds."""

    def __init__(self, sentence: str, *, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(sentence)


class AccessUnavailable(AccessError):
    """Who calls cannot be told yet: tokens, or an identity provider's keys, are not at hand. Try again in
    `retry_after_s` seconds.
    """

    def __init__(self, sentence: str, *, retry_after_s: int) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(sentence)


class LookupFailed(FailoverOrchError):
    """The VM, run or plan asked for is not known, or its data is not at hand yet."""


class NotFresh(FailoverOrchError):
    """What the service knows is too old to be an answer, or older than what the asker knows. Try again in a moment."""


class AuditBroken(FailoverOrchError):
    """The audit trail does not verify."""
