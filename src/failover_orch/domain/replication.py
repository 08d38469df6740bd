"""Replication states, modes and health, with Hyper-V Replica's names and numbers.

Source: the WMI classes Msvm_ReplicationRelationship and Msvm_ComputerSystem (`ReplicationState`, `ReplicationHealth`,
`ReplicationMode`, `FailedOverReplicationType`). The name travels in events; `number` is WMI's.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

__all__ = ["REPLICATION_FREQUENCIES_S", "FailedOverType", "ReplicationHealth", "ReplicationMode", "ReplicationState"]

REPLICATION_FREQUENCIES_S = (30, 300, 900)
"""The intervals, in seconds, at which a VM can replicate (Msvm_ReplicationSettingData.ReplicationFrequencySec)."""


class _Numbered(StrEnum):
    """A name with the number that WMI gives it."""

    number: int

    def __new__(cls, name: str, number: int) -> Self:
        member = str.__new__(cls, name)
        member._value_ = name
        member.number = number
        return member


class ReplicationState(_Numbered):
    """Where a VM's replication stands."""

    DISABLED = "Disabled", 0
    READY_FOR_INITIAL_REPLICATION = "ReadyForInitialReplication", 1
    WAITING_FOR_INITIAL_REPLICATION = "WaitingForInitialReplication", 2
    REPLICATING = "Replicating", 3
    PREPARED = "SyncedReplicationComplete", 4
    """Prepared for planned failover: the last log is shipped and the primary is locked from powering up."""
    FAILED_OVER_WAITING_COMPLETION = "FailOverWaitingCompletion", 5
    FAILED_OVER = "FailedOver", 6
    SUSPENDED = "Suspended", 7
    ERROR = "Error", 8
    WAITING_FOR_RESYNCHRONIZE = "WaitingForStartResynchronize", 9
    RESYNCHRONIZING = "Resynchronizing", 10
    RESYNCHRONIZE_SUSPENDED = "ResynchronizeSuspended", 11


class ReplicationMode(_Numbered):
    """Which end of a replication a VM is."""

    NONE = "None", 0
    PRIMARY = "Primary", 1
    REPLICA = "Replica", 2
    TEST_REPLICA = "TestReplica", 3
    EXTENDED_REPLICA = "ExtendedReplica", 4


class ReplicationHealth(_Numbered):
    """How well a VM's replication goes."""

    NOT_APPLICABLE = "NotApplicable", 0
    NORMAL = "Normal", 1
    WARNING = "Warning", 2
    CRITICAL = "Critical", 3


class FailedOverType(_Numbered):
    """From what kind of recovery point a VM was failed over."""

    NONE = "None", 0
    REGULAR = "Regular", 1
    APPLICATION_CONSISTENT = "ApplicationConsistent", 2
    PLANNED = "Planned", 3
