"""The cmdlets of Hyper-V Replica and what parameters they take.

From Microsoft's reference: module Hyper-V of Windows Server 2025.
"""

from __future__ import annotations

from hyperv.syntax import Cmdlet, cmdlet

__all__ = ["REPLICATION_CMDLETS"]

_HOST = "[-CimSession <CimSession[]>] [-ComputerName <String[]>] [-Credential <PSCredential[]>]"
_SET_VM_REPLICATION = (
    "[-Credential <PSCredential[]>] [-CertificateThumbprint|Thumbprint|Cert <String> (property)] "
    "[-CompressionEnabled <Boolean>] [-ReplicateHostKvpItems <Boolean>] [-BypassProxyServer <Boolean>] "
    "[-EnableWriteOrderPreservationAcrossDisks <Boolean>] [-InitialReplicationStartTime|IRTime <DateTime>] "
    "[-DisableVSSSnapshotReplication|DisableVSS] [-VSSSnapshotFrequencyHour|VSSFreq <Int32>] "
    "[-RecoveryHistory|RecHist <Int32>] [-ReplicationFrequencySec|RepFreq <Int32>] "
    "[-ReplicatedDisks <HardDiskDrive[]>] [-ReplicatedDiskPaths <String[]>] [-Reverse] "
    "[-AutoResynchronizeEnabled|AutoResync <Boolean>] "
    "[-AutoResynchronizeIntervalStart|AutoResyncStart <TimeSpan>] "
    "[-AutoResynchronizeIntervalEnd|AutoResyncEnd <TimeSpan>] [-AsReplica] [-UseBackup] "
    "[-AllowedPrimaryServer|AllowedPS <String> (property)] [-AsJob] [-Passthru] "
)
_SET_VM_REPLICATION_SERVER = (
    "[-CertificateThumbprint|Thumbprint <String> (property)] [-DefaultStorageLocation|StorageLoc <String>] "
    "[-MonitoringInterval <TimeSpan>] [-MonitoringStartTime <TimeSpan>] [-Force] [-Passthru] "
    "[-CimSession <CimSession[]>] [-ComputerName <String[]>] [-Credential <PSCredential[]>] "
)

REPLICATION_CMDLETS: tuple[Cmdlet, ...] = (
    cmdlet(
        "Hyper-V",
        "Get-VMReplication",
        VMName=(
            "[[-VMName|Name] <String[]> (value)] [-ReplicaServerName|ReplicaServer <String>] "
            "[-PrimaryServerName|PrimaryServer <String>] [-ReplicationState|State <VMReplicationState>] "
            "[-ReplicationHealth|Health <VMReplicationHealthState>] "
            "[-ReplicationMode|Mode <VMReplicationMode>] "
            "[-ReplicationRelationshipType|Relationship <VMReplicationRelationshipType>] "
            f"[-TrustGroup <String>] {_HOST}"
        ),
        VMObject=(
            "[-VM] <VirtualMachine[]> (value) "
            "[-ReplicationRelationshipType|Relationship <VMReplicationRelationshipType>]"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Measure-VMReplication",
        VMName=(
            "[[-VMName|Name] <String[]> (value)] [-ReplicaServerName|ReplicaServer <String>] "
            "[-PrimaryServerName|PrimaryServer <String>] [-ReplicationState|State <VMReplicationState>] "
            "[-ReplicationHealth|Health <VMReplicationHealthState>] "
            "[-ReplicationMode|Mode <VMReplicationMode>] "
            "[-ReplicationRelationshipType|Relationship <VMReplicationRelationshipType>] "
            f"[-TrustGroup <String>] {_HOST}"
        ),
        VMObject=(
            "[-VM] <VirtualMachine[]> (value) "
            "[-ReplicationRelationshipType|Relationship <VMReplicationRelationshipType>]"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Reset-VMReplicationStatistics",
        changes=True,
        VMName=(
            "[-VMName] <String[]> (value) "
            f"[-ReplicationRelationshipType|Relationship <VMReplicationRelationshipType>] [-Passthru] {_HOST}"
        ),
        VMObject="[-VM] <VirtualMachine[]> (value) [-Passthru]",
        VMReplication="[-VMReplication] <VMReplication[]> (value) [-Passthru]",
    ),
    cmdlet(
        "Hyper-V",
        "Enable-VMReplication",
        changes=True,
        VMName=(
            "[-VMName|Name] <String[]> (value) [-ReplicaServerName|ReplicaServer] <String> "
            "[-ReplicaServerPort|ReplicaPort] <Int32> "
            "[-AuthenticationType|AuthType] <ReplicationAuthenticationType> "
            "[-CertificateThumbprint|Thumbprint|Cert <String> (property)] [-CompressionEnabled <Boolean>] "
            "[-ReplicateHostKvpItems <Boolean>] [-BypassProxyServer <Boolean>] "
            "[-EnableWriteOrderPreservationAcrossDisks <Boolean>] [-VSSSnapshotFrequencyHour|VSSFreq <Int32>] "
            "[-RecoveryHistory|RecHist <Int32>] [-ReplicationFrequencySec|RepFreq <Int32>] "
            "[-ExcludedVhd <HardDiskDrive[]>] [-ExcludedVhdPath <String[]>] "
            "[-AutoResynchronizeEnabled|AutoResync <Boolean>] "
            "[-AutoResynchronizeIntervalStart|AutoResyncStart <TimeSpan>] "
            f"[-AutoResynchronizeIntervalEnd|AutoResyncEnd <TimeSpan>] [-AsJob] [-Passthru] {_HOST}"
        ),
        VMName_AsReplica=(
            "[-VMName|Name] <String[]> (value) [-AsReplica] "
            f"[-AllowedPrimaryServer|AllowedPS <String> (property)] [-AsJob] [-Passthru] {_HOST}"
        ),
        VMObject=(
            "[-Credential <PSCredential[]>] [-VM] <VirtualMachine[]> (value) "
            "[-ReplicaServerName|ReplicaServer] <String> [-ReplicaServerPort|ReplicaPort] <Int32> "
            "[-AuthenticationType|AuthType] <ReplicationAuthenticationType> "
            "[-CertificateThumbprint|Thumbprint|Cert <String> (property)] [-CompressionEnabled <Boolean>] "
            "[-ReplicateHostKvpItems <Boolean>] [-BypassProxyServer <Boolean>] "
            "[-EnableWriteOrderPreservationAcrossDisks <Boolean>] [-VSSSnapshotFrequencyHour|VSSFreq <Int32>] "
            "[-RecoveryHistory|RecHist <Int32>] [-ReplicationFrequencySec|RepFreq <Int32>] "
            "[-ExcludedVhd <HardDiskDrive[]>] [-ExcludedVhdPath <String[]>] "
            "[-AutoResynchronizeEnabled|AutoResync <Boolean>] "
            "[-AutoResynchronizeIntervalStart|AutoResyncStart <TimeSpan>] "
            "[-AutoResynchronizeIntervalEnd|AutoResyncEnd <TimeSpan>] [-AsJob] [-Passthru]"
        ),
        VMObject_AsReplica=(
            "[-Credential <PSCredential[]>] [-VM] <VirtualMachine[]> (value) [-AsReplica] "
            "[-AllowedPrimaryServer|AllowedPS <String> (property)] [-AsJob] [-Passthru]"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Set-VMReplication",
        changes=True,
        VMName=(
            "[-CimSession <CimSession[]>] [-ComputerName <String[]>] [-VMName|Name] <String[]> (value) "
            "[[-ReplicaServerName|ReplicaServer] <String>] [[-ReplicaServerPort|ReplicaPort] <Int32>] "
            f"[[-AuthenticationType|AuthType] <ReplicationAuthenticationType>] {_SET_VM_REPLICATION}"
        ),
        VMObject=(
            "[-VM] <VirtualMachine[]> (value) [[-ReplicaServerName|ReplicaServer] <String>] "
            "[[-ReplicaServerPort|ReplicaPort] <Int32>] "
            f"[[-AuthenticationType|AuthType] <ReplicationAuthenticationType>] {_SET_VM_REPLICATION}"
        ),
        VMReplication=(
            "[-VMReplication] <VMReplication[]> (value) [[-ReplicaServerName|ReplicaServer] <String>] "
            "[[-ReplicaServerPort|ReplicaPort] <Int32>] "
            f"[[-AuthenticationType|AuthType] <ReplicationAuthenticationType>] {_SET_VM_REPLICATION}"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Remove-VMReplication",
        changes=True,
        VMName=(
            "[-VMName] <String[]> (value) "
            f"[-ReplicationRelationshipType|Relationship <VMReplicationRelationshipType>] [-Passthru] {_HOST}"
        ),
        VMObject="[-VM] <VirtualMachine[]> (value) [-Passthru]",
        VMReplication="[-VMReplication] <VMReplication[]> (value) [-Passthru]",
    ),
    cmdlet(
        "Hyper-V",
        "Start-VMInitialReplication",
        changes=True,
        VMName=(
            "[-VMName] <String[]> (value) [-DestinationPath|IRLoc <String>] "
            f"[-InitialReplicationStartTime|IRTime <DateTime>] [-UseBackup] [-AsJob] [-Passthru] {_HOST}"
        ),
        VMObject=(
            "[-VM] <VirtualMachine[]> (value) [-DestinationPath|IRLoc <String>] "
            "[-InitialReplicationStartTime|IRTime <DateTime>] [-UseBackup] [-AsJob] [-Passthru] "
            "[-CimSession <CimSession[]>] [-Credential <PSCredential[]>]"
        ),
        VMReplication=(
            "[-VMReplication] <VMReplication[]> (value) [-DestinationPath|IRLoc <String>] "
            "[-InitialReplicationStartTime|IRTime <DateTime>] [-UseBackup] [-AsJob] [-Passthru] "
            "[-CimSession <CimSession[]>] [-Credential <PSCredential[]>]"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Suspend-VMReplication",
        changes=True,
        VMName=(
            "[-VMName] <String[]> (value) "
            f"[-ReplicationRelationshipType|Relationship <VMReplicationRelationshipType>] [-Passthru] {_HOST}"
        ),
        VMObject="[-VM] <VirtualMachine[]> (value) [-Passthru]",
        VMReplication="[-VMReplication] <VMReplication[]> (value) [-Passthru]",
    ),
    cmdlet(
        "Hyper-V",
        "Resume-VMReplication",
        changes=True,
        VMName=(
            "[-VMName] <String[]> (value) "
            "[-ReplicationRelationshipType|Relationship <VMReplicationRelationshipType>] "
            "[-ResynchronizeStartTime|ResyncStart <DateTime>] [-Resynchronize|Resync] [-AsJob] [-Continue] "
            f"[-Passthru] {_HOST}"
        ),
        VMObject=(
            "[-VM] <VirtualMachine[]> (value) "
            "[-ReplicationRelationshipType|Relationship <VMReplicationRelationshipType>] "
            "[-ResynchronizeStartTime|ResyncStart <DateTime>] [-Resynchronize|Resync] [-AsJob] [-Continue] "
            "[-Passthru] [-CimSession <CimSession[]>] [-Credential <PSCredential[]>]"
        ),
        VMReplication=(
            "[-VMReplication] <VMReplication[]> (value) [-ResynchronizeStartTime|ResyncStart <DateTime>] "
            "[-Resynchronize|Resync] [-AsJob] [-Continue] [-Passthru] [-CimSession <CimSession[]>] "
            "[-Credential <PSCredential[]>]"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Start-VMFailover",
        changes=True,
        VMName=f"[-VMName] <String[]> (value) [-Prepare] [-AsJob] [-Passthru] {_HOST}",
        VMName_Test=f"[-VMName] <String[]> (value) -AsTest [-AsJob] [-Passthru] {_HOST}",
        VMObject="[-VM] <VirtualMachine[]> (value) [-Prepare] [-AsJob] [-Passthru]",
        VMObject_Test="[-VM] <VirtualMachine[]> (value) -AsTest [-AsJob] [-Passthru]",
        VMSnapshot="[-VMRecoverySnapshot|VMRecoveryCheckpoint] <VMSnapshot> (value) [-AsJob] [-Passthru]",
        VMSnapshot_Test="[-VMRecoverySnapshot|VMRecoveryCheckpoint] <VMSnapshot> (value) -AsTest [-AsJob] [-Passthru]",
    ),
    cmdlet(
        "Hyper-V",
        "Stop-VMFailover",
        changes=True,
        VMName=f"[-VMName] <String[]> (value) [-AsJob] [-Passthru] {_HOST}",
        VMObject="[-VM] <VirtualMachine[]> (value) [-AsJob] [-Passthru]",
    ),
    cmdlet(
        "Hyper-V",
        "Complete-VMFailover",
        changes=True,
        VMName=f"[-VMName] <String[]> (value) [-Passthru] {_HOST}",
        VMObject="[-VM] <VirtualMachine[]> (value) [-Passthru]",
    ),
    cmdlet(
        "Hyper-V",
        "Get-VMReplicationServer",
        ComputerName="[[-ComputerName] <String[]> (value)] [[-Credential] <PSCredential[]>]",
        CimSession="[-CimSession] <CimSession[]> (value)",
    ),
    cmdlet(
        "Hyper-V",
        "Set-VMReplicationServer",
        changes=True,
        AuthenticationPort=(
            "[[-ReplicationEnabled|RepEnabled] <Boolean>] "
            "[[-AllowedAuthenticationType|AuthType] <RecoveryAuthenticationType>] "
            "[[-ReplicationAllowedFromAnyServer|AllowAnyServer] <Boolean>] "
            "[-KerberosAuthenticationPort|KerbAuthPort <Int32>] "
            f"[-CertificateAuthenticationPort|CertAuthPort <Int32>] {_SET_VM_REPLICATION_SERVER}"
        ),
        AuthenticationPortMapping=(
            "[[-ReplicationEnabled|RepEnabled] <Boolean>] "
            "[[-AllowedAuthenticationType|AuthType] <RecoveryAuthenticationType>] "
            "[[-ReplicationAllowedFromAnyServer|AllowAnyServer] <Boolean>] "
            "[-KerberosAuthenticationPortMapping <Hashtable>] "
            f"[-CertificateAuthenticationPortMapping <Hashtable>] {_SET_VM_REPLICATION_SERVER}"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Get-VMReplicationAuthorizationEntry",
        All=(
            "[[-AllowedPrimaryServer|AllowedPS] <String> (value)] "
            f"[-ReplicaStorageLocation|StorageLoc <String>] [-TrustGroup <String>] {_HOST}"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "New-VMReplicationAuthorizationEntry",
        changes=True,
        All=(
            "[-AllowedPrimaryServer|AllowedPS] <String> (value) [-ReplicaStorageLocation|StorageLoc] <String> "
            f"[-TrustGroup] <String> {_HOST}"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Set-VMReplicationAuthorizationEntry",
        changes=True,
        Name=(
            "[-AllowedPrimaryServer|AllowedPS] <String> (value) "
            f"[[-ReplicaStorageLocation|StorageLoc] <String>] [[-TrustGroup] <String>] [-Passthru] {_HOST}"
        ),
        Object=(
            "[-VMReplicationAuthorizationEntry|VMRepAuthEntry] <VMReplicationAuthorizationEntry[]> (value) "
            "[[-ReplicaStorageLocation|StorageLoc] <String>] [[-TrustGroup] <String>] [-Passthru]"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Remove-VMReplicationAuthorizationEntry",
        changes=True,
        PrimaryServerName=f"[-AllowedPrimaryServer|AllowedPS] <String> (value) [-Passthru] {_HOST}",
        TrustGroup=f"[-TrustGroup] <String> (value) [-Passthru] {_HOST}",
        Object=(
            "[-VMReplicationAuthorizationEntry|VMRepAuthEntry] <VMReplicationAuthorizationEntry[]> (value) [-Passthru]"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Test-VMReplicationConnection",
        All=(
            "[-ReplicaServerName|ReplicaServer] <String> [-ReplicaServerPort|ReplicaPort] <Int32> "
            "[-AuthenticationType|AuthType] <ReplicationAuthenticationType> "
            f"[[-CertificateThumbprint|Thumbprint] <String> (property)] [-BypassProxyServer <Boolean>] {_HOST}"
        ),
    ),
)
