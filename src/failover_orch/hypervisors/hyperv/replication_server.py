"""A site's replication settings: what its hosts accept from other sites, the same on all of them.

In a failover cluster Hyper-V keeps these settings once, for the replica broker and all nodes; hosts that stand alone
have their own. Either way each node is asked, told what is not as wanted, and asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from failover_orch.errors import ConfigError, StepFailed
from failover_orch.hypervisors.hyperv.cmdlets import Argument, changing, look
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.objects import Row
from failover_orch.hypervisors.hyperv.settings import HyperVPeer
from failover_orch.hypervisors.hyperv.threads import each, threaded

__all__ = ["AcceptedAuthentication", "AuthorizationEntry", "ReplicationServer", "ReplicationServers"]

_Out = TypeVar("_Out")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_INTERVALS_S = frozenset({hours * _HOUR_S for hours in (1, 2, 3, 4, 6, 8, 12, 24)} | {n * _DAY_S for n in range(1, 8)})
"""The monitoring intervals that Hyper-V takes."""


class AcceptedAuthentication(StrEnum):
    """How a primary server may prove to this one who it is; Hyper-V's own names."""

    KERBEROS = "Kerberos"
    CERTIFICATE = "Certificate"
    BOTH = "CertificateAndKerberos"


@dataclass(frozen=True, slots=True)
class ReplicationServer:
    """What a host accepts; names and defaults of Set-VMReplicationServer.

    Replication is accepted from any server (`default_storage` is then a must), or from those that have an
    authorization entry.
    """

    enabled: bool
    authentication: AcceptedAuthentication = AcceptedAuthentication.KERBEROS
    from_any_server: bool = False
    default_storage: str = ""
    http_port: int = 80
    https_port: int = 443
    certificate_thumbprint: str = ""
    monitoring_interval_s: int = 43_200
    monitoring_start_minute: int = 540
    """Minutes after midnight, local time of the host."""


@dataclass(frozen=True, slots=True)
class AuthorizationEntry:
    """Whose replicas are accepted, and where they go.

    `primary_server` is a host's name with its domain, or for a cluster its replica broker's; a wildcard may be its
    first part. Replicas of one trust group accept each other's primaries. Another storage location is for new replicas.
    """

    primary_server: str
    storage: str
    trust_group: str


class ReplicationServers:
    """The replication settings of all nodes of a site."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts

    async def settings(self) -> Mapping[str, ReplicationServer]:
        """The settings of each node, by its name.

        Raises:
            HypervisorError: a node does not answer.

        """
        return await threaded(lambda: self._of_each(_settings))

    async def set_settings(self, wanted: ReplicationServer) -> None:
        """Let every node have these settings.

        Raises:
            ConfigError: no node would take them.
            HypervisorError: a node does not answer or refuses; those before it in the site's settings have them then.
            StepFailed: a node took them, and reads back others.

        """
        _check(wanted)
        await threaded(lambda: self._on_each(lambda host: _set_settings(host, wanted)))

    async def entries(self) -> Mapping[str, frozenset[AuthorizationEntry]]:
        """The authorization entries of each node, by its name.

        Raises:
            HypervisorError: a node does not answer.

        """
        return await threaded(lambda: self._of_each(_entries))

    async def set_entries(self, wanted: Collection[AuthorizationEntry]) -> None:
        """Let every node have these authorization entries and no others. They are for nodes that do not accept all.

        Raises:
            ConfigError: two of them are for the same server.
            HypervisorError: a node does not answer or refuses; those before it in the site's settings have them then.
            StepFailed: a node took them, and reads back others.

        """
        names = [entry.primary_server.lower() for entry in wanted]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{twice[0]} has more than one authorization entry; give it one")
        await threaded(lambda: self._on_each(lambda host: _set_entries(host, frozenset(wanted))))

    async def reach(self, peer: HyperVPeer) -> None:
        """Whether each node can replicate to the peer site's broker.

        Raises:
            HypervisorError: a node cannot, or does not answer; says why.

        """
        parameters: dict[str, Argument] = {
            "ReplicaServerName": peer.broker,
            "ReplicaServerPort": peer.port,
            "AuthenticationType": peer.authentication.value,
        }
        if peer.certificate_thumbprint:
            parameters["CertificateThumbprint"] = peer.certificate_thumbprint
        tested = look("Test-VMReplicationConnection", **parameters)
        await threaded(lambda: each(lambda host: host.run(tested), self._hosts))

    def _of_each(self, of: Callable[[Host], _Out]) -> Mapping[str, _Out]:
        return dict(zip((host.name for host in self._hosts), each(of, self._hosts), strict=True))

    def _on_each(self, do: Callable[[Host], None]) -> None:
        # One after the other: the nodes of a cluster write to the same settings.
        for host in self._hosts:
            do(host)


def _check(wanted: ReplicationServer) -> None:
    if wanted.enabled and wanted.from_any_server and not wanted.default_storage:
        raise ConfigError("replication from any server needs a default storage location; name one")
    by_certificate = wanted.authentication is not AcceptedAuthentication.KERBEROS
    if wanted.enabled and by_certificate and not wanted.certificate_thumbprint:
        raise ConfigError("replication with certificates needs the thumbprint of the host's certificate; name it")
    if wanted.monitoring_interval_s not in _INTERVALS_S:
        raise ConfigError(
            f"a monitoring interval of {wanted.monitoring_interval_s} s is none that Hyper-V takes: give 1, 2, 3, 4, "
            "6, 8, 12 or 24 hours, or up to 7 days"
        )


def _settings(host: Host) -> ReplicationServer:
    (row,) = host.run(look("Get-VMReplicationServer"))
    return ReplicationServer(
        enabled=row.flag("ReplicationEnabled"),
        authentication=_authentication(row),
        from_any_server=row.flag("ReplicationAllowedFromAnyServer"),
        default_storage=row.text("DefaultStorageLocation"),
        http_port=row.number("KerberosAuthenticationPort"),
        https_port=row.number("CertificateAuthenticationPort"),
        certificate_thumbprint=row.text("CertificateThumbprint"),
        monitoring_interval_s=row.span_ms("MonitoringInterval") // 1000,
        monitoring_start_minute=row.span_ms("MonitoringStartTime") // 1000 // _MINUTE_S,
    )


def _authentication(row: Row) -> AcceptedAuthentication:
    told = row.text("AllowedAuthenticationType")
    # A host that was never set up has none.
    return AcceptedAuthentication(told) if told in set(AcceptedAuthentication) else AcceptedAuthentication.KERBEROS


def _set_settings(host: Host, wanted: ReplicationServer) -> None:
    if _settings(host) == wanted:
        return
    parameters: dict[str, Argument] = {
        "ReplicationEnabled": wanted.enabled,
        "AllowedAuthenticationType": wanted.authentication.value,
        "ReplicationAllowedFromAnyServer": wanted.from_any_server,
        "KerberosAuthenticationPort": wanted.http_port,
        "CertificateAuthenticationPort": wanted.https_port,
        "MonitoringInterval": _span(wanted.monitoring_interval_s),
        "MonitoringStartTime": _span(wanted.monitoring_start_minute * _MINUTE_S),
    }
    if wanted.default_storage:
        parameters["DefaultStorageLocation"] = wanted.default_storage
    if wanted.certificate_thumbprint:
        parameters["CertificateThumbprint"] = wanted.certificate_thumbprint
    host.run(changing("Set-VMReplicationServer", **parameters))
    if (found := _settings(host)) != wanted:
        raise StepFailed(f"{host.name} reads back as a replica server {found}, after it was made {wanted}")


def _span(seconds: int) -> str:
    """A duration as PowerShell takes it: days.hours:minutes:seconds."""
    minutes, rest = divmod(seconds, _MINUTE_S)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}.{hours:02}:{minutes:02}:{rest:02}"


def _entries(host: Host) -> frozenset[AuthorizationEntry]:
    return frozenset(
        AuthorizationEntry(row.text("AllowedPrimaryServer"), row.text("ReplicaStorageLocation"), row.text("TrustGroup"))
        for row in host.run(look("Get-VMReplicationAuthorizationEntry"))
    )


def _set_entries(host: Host, wanted: frozenset[AuthorizationEntry]) -> None:
    present = _entries(host)
    # Those that stay are not touched: a server that is authorised throughout can replicate throughout.
    for entry in present - wanted:
        host.run(changing("Remove-VMReplicationAuthorizationEntry", AllowedPrimaryServer=entry.primary_server))
    for entry in wanted - present:
        host.run(
            changing(
                "New-VMReplicationAuthorizationEntry",
                AllowedPrimaryServer=entry.primary_server,
                ReplicaStorageLocation=entry.storage,
                TrustGroup=entry.trust_group,
            )
        )
    if (found := _entries(host)) != wanted:
        names = ", ".join(sorted(entry.primary_server for entry in found)) or "none"
        raise StepFailed(f"{host.name} reads back authorization entries for {names}, which are not those it was given")
