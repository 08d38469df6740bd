"""The cmdlets that the nodes have, and what parameters those take: machines, networks, clusters, and general ones.

From Microsoft's reference: modules Hyper-V and FailoverClusters of Windows Server 2025, the others of Windows
PowerShell 5.1. What it says of replication stands in `replication_cmdlets`.
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperv.replication_cmdlets import REPLICATION_CMDLETS
from hyperv.syntax import Cmdlet, cmdlet

__all__ = ["CMDLETS", "COMMON_PARAMETERS"]

_HOST = "[-CimSession <CimSession[]>] [-ComputerName <String[]>] [-Credential <PSCredential[]>]"
_COMPARED = "[-InputObject <PSObject> (value)] [-Property] <String> [[-Value] <Object>]"
_SET_VM = (
    "[-GuestControlledCacheTypes <Boolean>] [-LowMemoryMappedIoSpace <UInt32>] "
    "[-HighMemoryMappedIoSpace <UInt64>] [-ProcessorCount <Int64>] [-DynamicMemory] [-StaticMemory] "
    "[-MemoryMinimumBytes <Int64>] [-MemoryMaximumBytes <Int64>] [-MemoryStartupBytes <Int64>] "
    "[-AutomaticStartAction <StartAction>] [-AutomaticStopAction <StopAction>] [-AutomaticStartDelay <Int32>] "
    "[-AutomaticCriticalErrorAction <CriticalErrorAction>] [-AutomaticCriticalErrorActionTimeout <Int32>] "
    "[-AutomaticCheckpointsEnabled <Boolean>] [-LockOnDisconnect <OnOffState>] [-Notes <String>] "
    "[-NewVMName <String>] [-SnapshotFileLocation <String>] [-SmartPagingFilePath <String>] "
    "[-CheckpointType <CheckpointType>] [-Passthru] [-AllowUnverifiedPaths] "
)
_SET_VM_NETWORK_ADAPTER = (
    "[-MacAddressSpoofing <OnOffState>] [-DhcpGuard <OnOffState>] [-RouterGuard <OnOffState>] "
    "[-PortMirroring <VMNetworkAdapterPortMirroringMode>] [-IeeePriorityTag <OnOffState>] "
    "[-VmqWeight <UInt32>] [-IovQueuePairsRequested <UInt32>] "
    "[-IovInterruptModeration <IovInterruptModerationValue>] [-IovWeight <UInt32>] "
    "[-IPsecOffloadMaximumSecurityAssociation <UInt32>] [-MaximumBandwidth <Int64>] "
    "[-MinimumBandwidthAbsolute <Int64>] [-MinimumBandwidthWeight <UInt32>] [-MandatoryFeatureId <String[]>] "
    "[-ResourcePoolName <String>] [-TestReplicaPoolName <String>] [-TestReplicaSwitchName <String>] "
    "[-VirtualSubnetId <UInt32>] [-AllowTeaming <OnOffState>] [-NotMonitoredInCluster <Boolean>] "
    "[-StormLimit <UInt32>] [-DynamicIPAddressLimit <UInt32>] [-DeviceNaming <OnOffState>] "
    "[-FixSpeed10G <OnOffState>] [-PacketDirectNumProcs <UInt32>] [-PacketDirectModerationCount <UInt32>] "
    "[-PacketDirectModerationInterval <UInt32>] [-VrssEnabled <Boolean>] [-VmmqEnabled <Boolean>] "
    "[-VmmqQueuePairs <UInt32>] [-Passthru] "
)
_SET_VM_NETWORK_ADAPTER_FAILOVER_CONFIGURATION = (
    "[-IPv4Address <String>] [-IPv6Address <String>] [-IPv4SubnetMask <String>] "
    "[-IPv6SubnetPrefixLength <Int32>] [-IPv4PreferredDNSServer <String>] [-IPv4AlternateDNSServer <String>] "
    "[-IPv6PreferredDNSServer <String>] [-IPv6AlternateDNSServer <String>] [-IPv4DefaultGateway <String>] "
    "[-IPv6DefaultGateway <String>] [-ClearFailoverIPv4Settings] [-ClearFailoverIPv6Settings] [-Passthru] "
)

COMMON_PARAMETERS: Mapping[str, str] = {
    "Verbose": "SwitchParameter",
    "Debug": "SwitchParameter",
    "ErrorAction": "ActionPreference",
    "WarningAction": "ActionPreference",
    "InformationAction": "ActionPreference",
    "ErrorVariable": "String",
    "WarningVariable": "String",
    "InformationVariable": "String",
    "OutVariable": "String",
    "OutBuffer": "Int32",
    "PipelineVariable": "String",
}
"""What every cmdlet takes, and of what type."""

_GENERAL = (
    cmdlet(
        "Hyper-V",
        "Get-VM",
        Name=f"[[-Name|VMName] <String[]> (value)] {_HOST}",
        Id=f"[[-Id] <Guid> (value, property)] {_HOST}",
        ClusterObject="[-ClusterObject] <PSObject> (value)",
    ),
    cmdlet(
        "Hyper-V",
        "Start-VM",
        changes=True,
        Name=f"[-Name|VMName] <String[]> (value) [-AsJob] [-Passthru] {_HOST}",
        VMObject="[-VM] <VirtualMachine[]> (value) [-AsJob] [-Passthru]",
    ),
    cmdlet(
        "Hyper-V",
        "Stop-VM",
        changes=True,
        Name=f"[-Name|VMName] <String[]> (value) [-Save] [-TurnOff] [-Force] [-AsJob] [-Passthru] {_HOST}",
        VMObject="[-VM] <VirtualMachine[]> (value) [-Save] [-TurnOff] [-Force] [-AsJob] [-Passthru]",
    ),
    cmdlet(
        "Hyper-V",
        "Set-VM",
        changes=True,
        Name=f"[-Name|VMName] <String[]> (value) {_HOST} {_SET_VM}",
        VMObject=f"[-VM] <VirtualMachine[]> (value) {_SET_VM}",
    ),
    cmdlet(
        "Hyper-V",
        "Remove-VM",
        changes=True,
        Name=f"[-Name|VMName] <String[]> (value) [-Force] [-AsJob] [-Passthru] {_HOST}",
        VMObject="[-VM] <VirtualMachine[]> (value) [-Force] [-AsJob] [-Passthru]",
    ),
    cmdlet(
        "Hyper-V",
        "Get-VMSnapshot",
        VMName=(
            "[-VMName] <String[]> (value) [[-Name] <String>] "
            f"[-SnapshotType|VMRecoveryCheckpoint <SnapshotType>] {_HOST}"
        ),
        VMObject=(
            "[-VM] <VirtualMachine[]> (value) [[-Name] <String>] [-SnapshotType|VMRecoveryCheckpoint <SnapshotType>]"
        ),
        Id=f"[-Id] <Guid> (value, property) {_HOST}",
        Parent=(
            "[[-Name] <String>] -ParentOf <VirtualMachineBase> [-SnapshotType|VMRecoveryCheckpoint <SnapshotType>]"
        ),
        Child="[[-Name] <String>] -ChildOf <VMSnapshot> [-SnapshotType|VMRecoveryCheckpoint <SnapshotType>]",
    ),
    cmdlet(
        "Hyper-V",
        "Get-VMIntegrationService",
        VMName=f"[-VMName] <String[]> (value) [[-Name] <String[]>] {_HOST}",
        VMObject="[-VM] <VirtualMachine[]> (value) [[-Name] <String[]>]",
        VMSnapshot="[-VMSnapshot|VMCheckpoint] <VMSnapshot> (value) [[-Name] <String[]>]",
    ),
    cmdlet(
        "Hyper-V",
        "Get-VMHost",
        ComputerName="[[-ComputerName] <String[]> (value)] [[-Credential] <PSCredential[]> (value)]",
        CimSession="[-CimSession] <CimSession[]> (property)",
    ),
    cmdlet(
        "Hyper-V",
        "Get-VMSwitch",
        Name=(f"[[-Name|SwitchName] <String>] [[-ResourcePoolName] <String[]>] [-SwitchType <VMSwitchType[]>] {_HOST}"),
        Id=(
            "[[-Id|SwitchId] <Guid[]> (value, property)] [[-ResourcePoolName] <String[]>] "
            f"[-SwitchType <VMSwitchType[]>] {_HOST}"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Get-VMNetworkAdapter",
        VMName=(f"[-IsLegacy <Boolean>] [-VMName] <String[]> (value) [[-Name|VMNetworkAdapterName] <String>] {_HOST}"),
        VMObject="[-IsLegacy <Boolean>] [-VM] <VirtualMachine[]> (value) [[-Name|VMNetworkAdapterName] <String>]",
        ManagementOS=f"[[-Name|VMNetworkAdapterName] <String>] -ManagementOS [-SwitchName <String>] {_HOST}",
        All=f"[[-Name|VMNetworkAdapterName] <String>] -All {_HOST}",
        VMSnapshot="[[-Name|VMNetworkAdapterName] <String>] [-VMSnapshot|VMCheckpoint] <VMSnapshot> (value)",
    ),
    cmdlet(
        "Hyper-V",
        "Set-VMNetworkAdapter",
        changes=True,
        VMName=(
            "[-VMName] <String> (value) [-Name|VMNetworkAdapterName <String>] [-DynamicMacAddress] "
            f"[-StaticMacAddress <String>] {_HOST} {_SET_VM_NETWORK_ADAPTER}"
        ),
        ManagementOS=f"-ManagementOS [-Name|VMNetworkAdapterName <String>] {_HOST} {_SET_VM_NETWORK_ADAPTER}",
        ResourceObject=(
            "[-VMNetworkAdapter] <VMNetworkAdapterBase> (value) [-DynamicMacAddress] "
            f"[-StaticMacAddress <String>] {_SET_VM_NETWORK_ADAPTER}"
        ),
        VMObject=(
            "[-VM] <VirtualMachine> (value) [-Name|VMNetworkAdapterName <String>] [-DynamicMacAddress] "
            f"[-StaticMacAddress <String>] {_SET_VM_NETWORK_ADAPTER}"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Connect-VMNetworkAdapter",
        changes=True,
        Name_SwitchName=(
            f"[[-Name|VMNetworkAdapterName] <String[]>] [-SwitchName] <String> [-Passthru] [-VMName] <String[]> {_HOST}"
        ),
        Object_SwitchName="[-VMNetworkAdapter] <VMNetworkAdapter[]> (value) [-SwitchName] <String> [-Passthru]",
        Object_SwitchObject=(
            "[-VMNetworkAdapter] <VMNetworkAdapter[]> (value) [-VMSwitch] <VMSwitch> (value) [-Passthru]"
        ),
        Object_UseAutomaticConnection=(
            "[-VMNetworkAdapter] <VMNetworkAdapter[]> (value) -UseAutomaticConnection [-Passthru]"
        ),
        Name_SwitchObject=(
            "[[-Name|VMNetworkAdapterName] <String[]>] [-VMSwitch] <VMSwitch> (value) [-Passthru] [-VMName] <String[]>"
        ),
        Name_UseAutomaticConnection=(
            "[[-Name|VMNetworkAdapterName] <String[]>] -UseAutomaticConnection [-Passthru] "
            f"[-VMName] <String[]> {_HOST}"
        ),
    ),
    cmdlet(
        "Hyper-V",
        "Disconnect-VMNetworkAdapter",
        changes=True,
        Name=f"[-VMName] <String[]> [[-Name|VMNetworkAdapterName] <String[]>] [-Passthru] {_HOST}",
        Obj="[-VMNetworkAdapter] <VMNetworkAdapter[]> (value) [-Passthru]",
    ),
    cmdlet(
        "Hyper-V",
        "Get-VMNetworkAdapterFailoverConfiguration",
        VMName=f"[-VMName] <String[]> (value) [-VMNetworkAdapterName <String>] {_HOST}",
        VMObject="[-VM] <VirtualMachine[]> (value) [-VMNetworkAdapterName <String>]",
        ResourceObject="[-VMNetworkAdapter] <VMNetworkAdapter[]> (value)",
    ),
    cmdlet(
        "Hyper-V",
        "Set-VMNetworkAdapterFailoverConfiguration",
        changes=True,
        VMName=(
            f"[-VMName] <String> (value) [-VMNetworkAdapterName <String>] {_HOST} "
            f"{_SET_VM_NETWORK_ADAPTER_FAILOVER_CONFIGURATION}"
        ),
        ResourceObject=(
            f"[-VMNetworkAdapter] <VMNetworkAdapter> (value, property) {_SET_VM_NETWORK_ADAPTER_FAILOVER_CONFIGURATION}"
        ),
        VMObject=(
            "[-VM] <VirtualMachine> (value) [-VMNetworkAdapterName <String>] "
            f"{_SET_VM_NETWORK_ADAPTER_FAILOVER_CONFIGURATION}"
        ),
    ),
    cmdlet(
        "FailoverClusters",
        "Get-Cluster",
        All="[[-Name] <String>] [-Domain <String>]",
    ),
    cmdlet(
        "FailoverClusters",
        "Get-ClusterNode",
        All="[[-Name] <StringCollection>] [-InputObject <PSObject> (value)] [-Cluster <String>]",
    ),
    cmdlet(
        "FailoverClusters",
        "Get-ClusterGroup",
        All=(
            "[[-Name] <StringCollection>] [-VMId <Guid> (property)] [-InputObject <PSObject> (value)] "
            "[-Cluster <String>]"
        ),
    ),
    cmdlet(
        "FailoverClusters",
        "Get-ClusterResource",
        All=(
            "[[-Name] <StringCollection>] [-VMId <Guid> (property)] [-InputObject <PSObject> (value)] "
            "[-Cluster <String>]"
        ),
    ),
    cmdlet(
        "FailoverClusters",
        "Move-ClusterVirtualMachineRole",
        All=(
            "[[-Name] <String>] [[-Node] <String>] [-Cancel] [-MigrationType <VmMigrationType>] "
            "[-IgnoreLocked] [-VMId <Guid> (property)] [-Wait <Int32>] [-InputObject <PSObject> (value)] "
            "[-Cluster <String>]"
        ),
    ),
    cmdlet(
        "CimCmdlets",
        "Get-CimInstance",
        ClassNameComputerSet=(
            "[-ClassName] <String> (property) [-ComputerName|CN|ServerName <String[]> (property)] [-KeyOnly] "
            "[-Namespace <String> (property)] [-OperationTimeoutSec|OT <UInt32>] "
            "[-QueryDialect <String> (property)] [-Shallow] [-Filter <String> (property)] "
            "[-Property|SelectProperties <String[]>]"
        ),
        QueryComputerSet=(
            "[-ComputerName|CN|ServerName <String[]> (property)] [-Namespace <String> (property)] "
            "[-OperationTimeoutSec|OT <UInt32>] -Query <String> (property) [-QueryDialect <String> (property)] "
            "[-Shallow]"
        ),
    ),
    cmdlet(
        "Microsoft.PowerShell.Core",
        "Where-Object",
        EqualSet=f"{_COMPARED} [-EQ|IEQ]",
        ScriptBlockSet="[-InputObject <PSObject> (value)] [-FilterScript] <ScriptBlock>",
        CaseSensitiveEqualSet=f"{_COMPARED} -CEQ",
        NotEqualSet=f"{_COMPARED} -NE|INE",
        CaseSensitiveNotEqualSet=f"{_COMPARED} -CNE",
        LikeSet=f"{_COMPARED} -Like|ILike",
        CaseSensitiveLikeSet=f"{_COMPARED} -CLike",
        NotLikeSet=f"{_COMPARED} -NotLike|INotLike",
        InSet=f"{_COMPARED} -In|IIn",
        NotInSet=f"{_COMPARED} -NotIn|INotIn",
    ),
    cmdlet(
        "Microsoft.PowerShell.Utility",
        "Select-Object",
        DefaultParameter=(
            "[-InputObject <PSObject> (value)] [[-Property] <Object[]>] [-ExcludeProperty <String[]>] "
            "[-ExpandProperty <String>] [-Unique] [-Last <Int32>] [-First <Int32>] [-Skip <Int32>] [-Wait]"
        ),
    ),
)

CMDLETS: Mapping[str, Cmdlet] = {each.name: each for each in (*_GENERAL, *REPLICATION_CMDLETS)}
