"""A site's replication settings: what its hosts accept from other sites.

In a failover cluster Hyper-V keeps these settings once, for the replica broker and all nodes; hosts that stand alone
have their own. Either way each node is asked, told what is not as wanted, and asked again.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields

from failover_orch.domain.replication_settings import (
    AcceptedAuthentication,
    AuthorizationEntry,
    NodePort,
    ReplicationServer,
)
from failover_orch.errors import HypervisorError, StepFailed, StepRefused
from failover_orch.hypervisors.hyperv.cmdlets import Argument, changing, look
from failover_orch.hypervisors.hyperv.host import Host
from failover_orch.hypervisors.hyperv.objects import Row
from failover_orch.hypervisors.hyperv.settings import HyperVPeer
from failover_orch.hypervisors.hyperv.threads import each, threaded

__all__ = ["ReplicationServers", "span"]

_MINUTE_S = 60
_KERBEROS, _CERTIFICATE = "KerberosAuthenticationPort", "CertificateAuthenticationPort"
_MAPS = ("http_port_map", "https_port_map")


class ReplicationServers:
    """The replication settings of all nodes of a site."""

    def __init__(self, hosts: Sequence[Host], site: str) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._site = site
        self._turn = threading.Lock()

    async def settings(self, nodes: Collection[str] = ()) -> Mapping[str, ReplicationServer | str]:
        """The settings of these nodes, or all, by their names; of one that does not answer, why."""
        asked = [host for name, host in self._hosts.items() if not nodes or name in nodes]
        answers = await threaded(lambda: each(_told, asked))
        return dict(zip((host.name for host in asked), answers, strict=True))

    async def apply(self, node: str, wanted: ReplicationServer) -> None:
        """Let a node have these settings.

        Raises:
            StepRefused: there is no such node, or the node will not have them; it says why.
            StepFailed: it does not answer; or it took them, and reads back others.

        """
        if node not in self._hosts:
            raise StepRefused(f"{self._site} has no node {node!r}; its nodes are {', '.join(self._hosts)}")
        await threaded(lambda: self._apply(self._hosts[node], wanted))

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
        await threaded(lambda: each(lambda host: host.run(tested), self._hosts.values()))

    def _apply(self, host: Host, wanted: ReplicationServer) -> None:
        # One after the other: the nodes of a cluster write to the same settings.
        with self._turn:
            present = _settings(host)
            differing = set(_differing(present, wanted))
            if differing - {"authorization", *_MAPS}:
                host.run(changing("Set-VMReplicationServer", **_parameters(present, wanted)))
            if differing & set(_MAPS):
                # Ports are for all nodes, or mapped for each: two parameter sets that exclude each other.
                host.run(changing("Set-VMReplicationServer", **_mappings(wanted)))
            # Last: a node that has refused the rest goes on accepting whom it accepted.
            _set_entries(host, present.authorization, wanted.authorization)
            found = _settings(host)
        if others := _differing(found, wanted):
            raise StepFailed(f"{host.name} took its replication settings, and reads back another {', '.join(others)}")


def span(seconds: int) -> str:
    """A duration as PowerShell takes it: days.hours:minutes:seconds."""
    minutes, rest = divmod(seconds, _MINUTE_S)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}.{hours:02}:{minutes:02}:{rest:02}"


def _told(host: Host) -> ReplicationServer | str:
    try:
        return _settings(host)
    except HypervisorError as error:
        return str(error)


def _settings(host: Host) -> ReplicationServer:
    (row,) = host.run(look("Get-VMReplicationServer"))
    return ReplicationServer(
        enabled=row.flag("ReplicationEnabled"),
        authentication=_authentication(row),
        from_any_server=row.flag("ReplicationAllowedFromAnyServer"),
        default_storage_location=row.text("DefaultStorageLocation"),
        http_port=row.number(_KERBEROS),
        https_port=row.number(_CERTIFICATE),
        http_port_map=_map(row.table(f"{_KERBEROS}Mapping")),
        https_port_map=_map(row.table(f"{_CERTIFICATE}Mapping")),
        certificate_thumbprint=row.text("CertificateThumbprint"),
        authorization=_entries(host),
        monitoring_interval_s=row.span_ms("MonitoringInterval") // 1000,
        monitoring_start_minute=row.span_ms("MonitoringStartTime") // 1000 // _MINUTE_S,
    )


def _authentication(row: Row) -> AcceptedAuthentication:
    told = row.text("AllowedAuthenticationType")
    # A host that was never set up has none.
    return AcceptedAuthentication(told) if told in set(AcceptedAuthentication) else AcceptedAuthentication.KERBEROS


def _map(ports: Mapping[str, int]) -> tuple[NodePort, ...]:
    return tuple(NodePort(node, port) for node, port in sorted(ports.items()))


def _parameters(present: ReplicationServer, wanted: ReplicationServer) -> dict[str, Argument]:
    texts = {
        "DefaultStorageLocation": (present.default_storage_location, wanted.default_storage_location),
        "CertificateThumbprint": (present.certificate_thumbprint, wanted.certificate_thumbprint),
    }
    return {
        "ReplicationEnabled": wanted.enabled,
        "AllowedAuthenticationType": wanted.authentication.value,
        "ReplicationAllowedFromAnyServer": wanted.from_any_server,
        _KERBEROS: wanted.http_port,
        _CERTIFICATE: wanted.https_port,
        "MonitoringInterval": span(wanted.monitoring_interval_s),
        "MonitoringStartTime": span(wanted.monitoring_start_minute * _MINUTE_S),
        # A text that is empty at both is not named: a host need not take an empty one for none.
        **{name: text for name, (before, text) in texts.items() if text or before},
    }


def _mappings(wanted: ReplicationServer) -> dict[str, Argument]:
    return {
        f"{_KERBEROS}Mapping": {port.node: port.port for port in wanted.http_port_map},
        f"{_CERTIFICATE}Mapping": {port.node: port.port for port in wanted.https_port_map},
    }


def _entries(host: Host) -> tuple[AuthorizationEntry, ...]:
    found = (
        AuthorizationEntry(row.text("AllowedPrimaryServer"), row.text("ReplicaStorageLocation"), row.text("TrustGroup"))
        for row in host.run(look("Get-VMReplicationAuthorizationEntry"))
    )
    return tuple(sorted(found, key=lambda entry: entry.primary_server))


def _set_entries(host: Host, present: Sequence[AuthorizationEntry], wanted: Sequence[AuthorizationEntry]) -> None:
    # Those that stay are not touched: a server that is authorised throughout can replicate throughout.
    for entry in set(present) - set(wanted):
        host.run(changing("Remove-VMReplicationAuthorizationEntry", AllowedPrimaryServer=entry.primary_server))
    for entry in set(wanted) - set(present):
        host.run(
            changing(
                "New-VMReplicationAuthorizationEntry",
                AllowedPrimaryServer=entry.primary_server,
                ReplicaStorageLocation=entry.storage_location,
                TrustGroup=entry.trust_group,
            )
        )


def _differing(one: ReplicationServer, other: ReplicationServer) -> tuple[str, ...]:
    """The settings in which the two differ, whatever the order of what they list."""
    return tuple(
        each.name
        for each in fields(ReplicationServer)
        if _unordered(getattr(one, each.name)) != _unordered(getattr(other, each.name))
    )


def _unordered(value: object) -> object:
    return frozenset(value) if isinstance(value, tuple) else value
