"""Replication settings: what every node of a cluster accepts, how one VM replicates, and how both are changed.

Names, defaults and ranges are those of Set-VMReplicationServer, New-VMReplicationAuthorizationEntry and
Set-VMReplication; the catalogue of them all, with how each is written and checked, is `settings_catalogue`.
Times are milliseconds since the Unix epoch, UTC, unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "AcceptedAuthentication",
    "AuthorizationEntry",
    "InitialReplication",
    "NodePort",
    "OnDrift",
    "ReplicationServer",
    "SettingsChange",
    "SettingsObserved",
    "SettingsRevision",
    "SettingsScope",
    "SettingsStanding",
    "Standing",
    "VmReplication",
]


class AcceptedAuthentication(StrEnum):
    """How a primary server may prove who it is; Hyper-V's own names."""

    KERBEROS = "Kerberos"
    CERTIFICATE = "Certificate"
    BOTH = "CertificateAndKerberos"


@dataclass(frozen=True, slots=True)
class AuthorizationEntry:
    """Whose replicas are accepted, and where they go.

    `primary_server` is a host's name with its domain, or for a cluster its replica broker's; `*` may stand for its
    first label. Replicas of one trust group accept each other's primaries, and no others. Another storage location is
    for new replicas alone.
    """

    primary_server: str
    storage_location: str
    trust_group: str


@dataclass(frozen=True, slots=True)
class NodePort:
    """On which port a node, or the broker, is reached through address translation."""

    node: str
    port: int


class OnDrift(StrEnum):
    """What is done where a node no longer has what was set. ALERT: people are told. CORRECT: it is also put right."""

    ALERT = "ALERT"
    CORRECT = "CORRECT"


@dataclass(frozen=True, slots=True)
class ReplicationServer:
    """What every node of a cluster accepts from primary servers.

    Replication is accepted from any server (`default_storage_location` is then a must), or from those that have an
    authorization entry.
    """

    enabled: bool = False
    authentication: AcceptedAuthentication = AcceptedAuthentication.KERBEROS
    http_port: int = 80
    https_port: int = 443
    http_port_map: tuple[NodePort, ...] = ()
    https_port_map: tuple[NodePort, ...] = ()
    certificate_thumbprint: str = ""
    from_any_server: bool = False
    default_storage_location: str = ""
    authorization: tuple[AuthorizationEntry, ...] = ()
    monitoring_interval_s: int = 43_200
    monitoring_start_minute: int = 540
    """Minutes after midnight, local time of the node; 540 is 09:00."""


class InitialReplication(StrEnum):
    """How a replica's first copy gets there. NETWORK: sent. EXPORT: on external media. EXISTING: a VM that is there."""

    NETWORK = "NETWORK"
    EXPORT = "EXPORT"
    EXISTING = "EXISTING"


@dataclass(frozen=True, slots=True)
class VmReplication:
    """How one VM replicates."""

    frequency_s: int = 300
    recovery_points: int = 0
    """Hourly recovery points kept beside the latest; 0 to 24."""
    application_consistent_hours: int = 0
    """Every so many hours one is application-consistent; 0: none."""
    compression: bool = True
    bypass_proxy: bool = False
    replicate_host_kvp_items: bool = True
    excluded_disks: tuple[str, ...] = ()
    initial_replication: InitialReplication = InitialReplication.NETWORK
    initial_start_at_ms: int = 0
    """When initial replication begins; 0: at once. No later than 7 days from when it is set."""
    auto_resynchronize: bool = False
    resynchronize_from_minute: int = 1_110
    """Minutes after midnight, local time; 1110 is 18:30."""
    resynchronize_to_minute: int = 360
    """06:00; a window may pass midnight."""
    extended_to: str = ""
    """Cluster that the replica itself is replicated to; empty: none."""
    extended_frequency_s: int = 300


class SettingsScope(StrEnum):
    """What settings are for: all nodes of a cluster, or one VM."""

    CLUSTER = "CLUSTER"
    VM = "VM"


@dataclass(frozen=True, slots=True)
class SettingsChange:
    """Somebody wants settings changed: `changes` are texts by the names of the catalogue; the others stay as they are.

    An empty text puts a setting back to its default. `based_on` is the version that it was made from, so that two
    people do not undo each other's work unseen; -1: whatever is there. One with a `change_id` that was seen is passed
    over.
    """

    scope: SettingsScope
    target: str
    changes: Mapping[str, str]
    actor: str
    reason: str
    requested_at_ms: int
    ticket: str = ""
    based_on: int = -1
    change_id: str = ""


@dataclass(frozen=True, slots=True)
class SettingsRevision:
    """What came of a change: the settings as they are from now on, or why nothing was changed (`refused`).

    `version` counts from 1; a refused change leaves it as it was, and so the settings. Exactly one of `server` and
    `replication` is there, by `scope`.
    """

    scope: SettingsScope
    target: str
    version: int
    changed: tuple[str, ...]
    """Names of the settings that the change set."""
    actor: str
    reason: str
    at_ms: int
    ticket: str = ""
    change_id: str = ""
    refused: tuple[str, ...] = ()
    server: ReplicationServer | None = None
    replication: VmReplication | None = None
    on_drift: OnDrift = OnDrift.ALERT


@dataclass(frozen=True, slots=True)
class SettingsObserved:
    """What a node of a cluster, or a VM, was found to have; or why it could not be asked (`error`).

    A site agent tells so when it starts, whenever it is another, and again and again. `vm_id` empty: a node's.
    """

    site: str
    cluster: str
    node: str
    observed_at_ms: int
    vm_id: str = ""
    server: ReplicationServer | None = None
    replication: VmReplication | None = None
    error: str = ""


class Standing(StrEnum):
    """How a node, or a VM, stands to its settings.

    APPLYING: told, and not read back yet. IN_SYNC: read back as set. DRIFTED: it had them, and has others now. FAILED:
    it cannot take them; a node that cannot is not used for placement. AWAY: it is down, and will be told when it
    is back.
    """

    APPLYING = "APPLYING"
    IN_SYNC = "IN_SYNC"
    DRIFTED = "DRIFTED"
    FAILED = "FAILED"
    AWAY = "AWAY"


@dataclass(frozen=True, slots=True)
class SettingsStanding:
    """How a node (or the VM itself, `node` then where it was told) stands to the settings of its cluster (or its own).

    `applied` is the version that it was last read back to have; 0: none.
    """

    scope: SettingsScope
    target: str
    node: str
    standing: Standing
    version: int
    applied: int
    since_ms: int
    detail: str = ""
    """What differs, or what it refuses, as sentences."""
    evidence: Mapping[str, str] = field(default_factory=dict)
    """Of what differs: by setting, what was found."""
