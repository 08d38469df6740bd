"""What people want: failover TCP/IP and replication settings of a VM, settings of a cluster, recovery plans."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "AdapterAddresses",
    "ClusterReplicationSettings",
    "FamilyAddresses",
    "RecoveryGroup",
    "RecoveryPlan",
    "UnsetAdapters",
    "VmReplicationSettings",
]


@dataclass(frozen=True, slots=True)
class FamilyAddresses:
    """One adapter's failover configuration in one family: either DHCP or static addresses.

    `addresses` are `address/prefix` in canonical form (a mask given by a user is turned into a prefix when read).
    Hyper-V takes up to five gateways and any number of DNS servers (Msvm_FailoverNetworkAdapterSettingData).
    """

    dhcp: bool = False
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterAddresses:
    """What one adapter is to have after a failover. A family left out keeps the primary's configuration."""

    adapter_id: str
    ipv4: FamilyAddresses | None = None
    ipv6: FamilyAddresses | None = None


class UnsetAdapters(StrEnum):
    """What to do at failover with an adapter that has no failover configuration (and with every legacy adapter).

    REFUSE: refuse the failover before it starts. KEEP: the adapter comes up with the primary's configuration.
    """

    REFUSE = "REFUSE"
    KEEP = "KEEP"


@dataclass(frozen=True, slots=True)
class VmReplicationSettings:
    """Failover TCP/IP of a VM, all adapters at once: a newer record replaces the older whole."""

    vm_id: str
    adapters: tuple[AdapterAddresses, ...]
    unset_adapters: UnsetAdapters = UnsetAdapters.REFUSE
    actor: str = ""
    reason: str = ""
    set_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class ClusterReplicationSettings:
    """Replication settings of a whole cluster; names and defaults of Set-VMReplicationServer."""

    cluster: str
    replication_enabled: bool = False
    http_port: int = 80
    https_port: int = 443
    default_storage_location: str = ""
    monitoring_interval_s: int = 43_200
    monitoring_start_minute: int = 540
    """Minutes after midnight, local time of the cluster; 540 is 09:00."""
    actor: str = ""
    reason: str = ""
    set_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class RecoveryGroup:
    """VMs of a recovery plan that fail over side by side, once the group before is done."""

    name: str
    vm_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """Groups of VMs, failed over in order."""

    plan_id: str
    name: str
    groups: tuple[RecoveryGroup, ...]
    actor: str = ""
    reason: str = ""
    set_at_ms: int = 0
