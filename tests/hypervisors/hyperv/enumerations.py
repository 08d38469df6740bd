"""Hyper-V's and failover clustering's enumerations, with PowerShell's names and numbers.

WMI has other numbers for some of them. Names alone, in `ACCEPTED`, are those of parameters that nothing here returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Self

__all__ = [
    "ACCEPTED",
    "ClusterGroupState",
    "ClusterGroupType",
    "ClusterNodeState",
    "IntegrationStatus",
    "Numbered",
    "RecoveryAuthenticationType",
    "ReplicationAuthenticationType",
    "SnapshotType",
    "VMHeartbeatStatus",
    "VMReplicationHealthState",
    "VMReplicationMode",
    "VMReplicationState",
    "VMReplicationType",
    "VMState",
    "VMSwitchType",
]


class Numbered(StrEnum):
    """A name with the number that PowerShell gives it."""

    number: int

    def __new__(cls, name: str, number: int) -> Self:
        member = str.__new__(cls, name)
        member._value_ = name
        member.number = number
        return member

    @property
    def type_name(self) -> str:
        """The .NET type."""
        product = "FailoverClusters" if type(self).__name__.startswith("Cluster") else "HyperV"
        return f"Microsoft.{product}.PowerShell.{type(self).__name__}"


class VMState(Numbered):
    Other = "Other", 1
    Running = "Running", 2
    Off = "Off", 3
    Stopping = "Stopping", 4
    Saved = "Saved", 6
    Paused = "Paused", 9
    Starting = "Starting", 10


class VMHeartbeatStatus(Numbered):
    Unknown = "Unknown", 0
    Disabled = "Disabled", 1
    NoContact = "NoContact", 2
    Error = "Error", 3
    LostCommunication = "LostCommunication", 4
    OkApplicationsUnknown = "OkApplicationsUnknown", 5
    OkApplicationsHealthy = "OkApplicationsHealthy", 6
    OkApplicationsCritical = "OkApplicationsCritical", 7
    Paused = "Paused", 8


class IntegrationStatus(Numbered):
    Ok = "Ok", 2
    Degraded = "Degraded", 3
    Error = "Error", 6
    NonRecoverableError = "NonRecoverableError", 7
    NoContact = "NoContact", 12
    LostCommunication = "LostCommunication", 13
    ProtocolMismatch = "ProtocolMismatch", 32775
    Disabled = "Disabled", 32896


class VMReplicationState(Numbered):
    Disabled = "Disabled", 0
    ReadyForInitialReplication = "ReadyForInitialReplication", 1
    InitialReplicationInProgress = "InitialReplicationInProgress", 2
    WaitingForInitialReplication = "WaitingForInitialReplication", 3
    Replicating = "Replicating", 4
    PreparedForFailover = "PreparedForFailover", 5
    FailedOverWaitingCompletion = "FailedOverWaitingCompletion", 6
    FailedOver = "FailedOver", 7
    Suspended = "Suspended", 8
    Error = "Error", 9
    WaitingForStartResynchronize = "WaitingForStartResynchronize", 10
    Resynchronizing = "Resynchronizing", 11
    ResynchronizeSuspended = "ResynchronizeSuspended", 12
    RecoveryInProgress = "RecoveryInProgress", 13
    FailbackInProgress = "FailbackInProgress", 14
    FailbackComplete = "FailbackComplete", 15
    WaitingForUpdateCompletion = "WaitingForUpdateCompletion", 16
    UpdateError = "UpdateError", 17
    WaitingForRepurposeCompletion = "WaitingForRepurposeCompletion", 18
    PreparedForSyncReplication = "PreparedForSyncReplication", 19
    PreparedForGroupReverseReplication = "PreparedForGroupReverseReplication", 20
    FiredrillInProgress = "FiredrillInProgress", 21


class VMReplicationMode(Numbered):
    Nothing = "None", 0
    Primary = "Primary", 1
    Replica = "Replica", 2
    TestReplica = "TestReplica", 3
    ExtendedReplica = "ExtendedReplica", 4


class VMReplicationHealthState(Numbered):
    NotApplicable = "NotApplicable", 0
    Normal = "Normal", 1
    Warning = "Warning", 2
    Critical = "Critical", 3


class SnapshotType(Numbered):
    Standard = "Standard", 0
    Recovery = "Recovery", 1
    Planned = "Planned", 2
    Missing = "Missing", 5
    Replica = "Replica", 6
    AppConsistentReplica = "AppConsistentReplica", 7
    SyncedReplica = "SyncedReplica", 8


class ReplicationAuthenticationType(Numbered):
    Kerberos = "Kerberos", 1
    Certificate = "Certificate", 2


class RecoveryAuthenticationType(Numbered):
    Kerberos = "Kerberos", 1
    Certificate = "Certificate", 2
    CertificateAndKerberos = "CertificateAndKerberos", 3


class VMReplicationType(Numbered):
    Nothing = "None", 0
    Regular = "Regular", 1
    ApplicationConsistent = "ApplicationConsistent", 2
    Planned = "Planned", 3


class VMSwitchType(Numbered):
    Private = "Private", 0
    Internal = "Internal", 1
    External = "External", 2


class ClusterNodeState(Numbered):
    Up = "Up", 0
    Down = "Down", 1
    Paused = "Paused", 2
    Joining = "Joining", 3


class ClusterGroupState(Numbered):
    Online = "Online", 0
    Offline = "Offline", 1
    Failed = "Failed", 2
    PartialOnline = "PartialOnline", 3
    Pending = "Pending", 4


class ClusterGroupType(Numbered):
    Cluster = "Cluster", 1
    AvailableStorage = "AvailableStorage", 2
    VirtualMachine = "VirtualMachine", 111
    VMReplicaBroker = "VMReplicaBroker", 115


def _names(enumeration: type[Numbered]) -> tuple[str, ...]:
    return tuple(enumeration)


_SWITCHED = ("On", "Off")
ACCEPTED: Mapping[str, tuple[str, ...]] = {
    "ActionPreference": ("SilentlyContinue", "Stop", "Continue", "Inquire", "Ignore", "Suspend"),
    "CheckpointType": ("Disabled", "Production", "ProductionOnly", "Standard"),
    "CriticalErrorAction": ("None", "Pause"),
    "IovInterruptModerationValue": ("Default", "Adaptive", "Off", "Low", "Medium", "High"),
    "OnOffState": _SWITCHED,
    "RecoveryAuthenticationType": _names(RecoveryAuthenticationType),
    "ReplicationAuthenticationType": _names(ReplicationAuthenticationType),
    "SnapshotType": _names(SnapshotType),
    "StartAction": ("Nothing", "StartIfRunning", "Start"),
    "StopAction": ("TurnOff", "Save", "ShutDown"),
    "VMNetworkAdapterPortMirroringMode": ("None", "Destination", "Source"),
    "VMReplicationHealthState": _names(VMReplicationHealthState),
    "VMReplicationMode": _names(VMReplicationMode),
    "VMReplicationRelationshipType": ("Simple", "Extended"),
    "VMReplicationState": _names(VMReplicationState),
    "VMSwitchType": _names(VMSwitchType),
    "VmMigrationType": ("TurnOff", "Quick", "Shutdown", "ShutdownForce", "Live"),
}
"""What parameters of each enumerated type accept, by name."""
