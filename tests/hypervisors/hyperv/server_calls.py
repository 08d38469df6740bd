"""Cmdlets about a node as a replica server: its settings, and whom it takes replication from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping

from hyperv.calls import Call, Handler, like, matching
from hyperv.enumerations import RecoveryAuthenticationType
from hyperv.errors import HyperVError
from hyperv.objects import Item
from hyperv.world import AuthorizationEntry, ReplicationServer

__all__ = ["SERVER_CALLS", "authorised"]

_PORTS = range(1, 65536)
_FIELDS: Mapping[str, str] = {
    "ReplicationEnabled": "enabled",
    "AllowedAuthenticationType": "authentication",
    "ReplicationAllowedFromAnyServer": "any_server",
    "CertificateThumbprint": "thumbprint",
    "DefaultStorageLocation": "storage",
    "KerberosAuthenticationPort": "kerberos_port",
    "CertificateAuthenticationPort": "certificate_port",
}
_MAPPINGS = ("KerberosAuthenticationPortMapping", "CertificateAuthenticationPortMapping")
_INTERVAL_S = (3600, 604800)


def authorised(server: ReplicationServer, primary: str) -> bool:
    """Whether replication from this primary server is accepted. A wildcard may stand for the first label."""
    return server.any_server or any(like(primary, entry.primary_server) for entry in server.entries)


def _server_item(call: Call) -> Item:
    server = call.node.server
    properties = {
        **{name: getattr(server, attribute) for name, attribute in _FIELDS.items()},
        "AllowedAuthenticationType": RecoveryAuthenticationType[server.authentication],
        **{name: server.port_mapping.get(name, {}) for name in _MAPPINGS},
        "MonitoringInterval": dt.timedelta(seconds=server.monitoring_interval_s),
        "MonitoringStartTime": dt.timedelta(seconds=server.monitoring_start_s),
        "StatusDescriptions": ("OK",),
        "ComputerName": call.node.name.upper(),
        "IsDeleted": False,
    }
    return Item("VMReplicationServer", properties, "VMReplicationServer", server)


def _get_server(call: Call) -> Iterable[Item]:
    return [_server_item(call)]


def _set_server(call: Call) -> Iterator[Item]:
    server = call.node.server
    _check(call, server)
    interval = call.get("MonitoringInterval")
    for name, attribute in _FIELDS.items():
        if name in call.parameters:
            setattr(server, attribute, call.parameters[name])
            call.halfway()
    server.port_mapping.update({name: call.parameters[name] for name in _MAPPINGS if name in call.parameters})
    if interval is not None:
        server.monitoring_interval_s = int(interval.total_seconds())
    if (start := call.get("MonitoringStartTime")) is not None:
        server.monitoring_start_s = int(start.total_seconds())
    call.effect(None, "replication server")
    if call.get("Passthru"):
        yield _server_item(call)


def _check(call: Call, server: ReplicationServer) -> None:
    any_server = call.get("ReplicationAllowedFromAnyServer", server.any_server)
    if any_server and not call.get("DefaultStorageLocation", server.storage):
        raise HyperVError(
            "DefaultStorageLocation is needed where replication is allowed from any server.", "InvalidParameter"
        )
    authentication = call.get("AllowedAuthenticationType", server.authentication)
    if "Certificate" in authentication and not call.get("CertificateThumbprint", server.thumbprint):
        raise HyperVError("Certificate-based authentication needs a CertificateThumbprint.", "InvalidParameter")
    for name in ("KerberosAuthenticationPort", "CertificateAuthenticationPort"):
        if call.get(name, 1) not in _PORTS:
            raise HyperVError(f"{name} {call.get(name)} is no port.", "InvalidParameter")
    interval = call.get("MonitoringInterval")
    if interval is not None and not _INTERVAL_S[0] <= interval.total_seconds() <= _INTERVAL_S[1]:
        raise HyperVError(f"MonitoringInterval is 1 hour to 7 days, not {interval}.", "InvalidParameter")


def _entry_item(call: Call, entry: AuthorizationEntry) -> Item:
    properties = {
        "AllowedPrimaryServer": entry.primary_server,
        "ReplicaStorageLocation": entry.storage,
        "TrustGroup": entry.trust_group,
        "ComputerName": call.node.name.upper(),
        "IsDeleted": False,
    }
    text = f"VMReplicationAuthorizationEntry (AllowedPrimaryServer = '{entry.primary_server}')"
    return Item("VMReplicationAuthorizationEntry", properties, text, entry)


def _get_entries(call: Call) -> Iterator[Item]:
    items = [_entry_item(call, entry) for entry in call.node.server.entries]
    names = ("AllowedPrimaryServer", "ReplicaStorageLocation", "TrustGroup")
    return matching(items, {name: call.get(name) for name in names})


def _new_entry(call: Call) -> Iterator[Item]:
    server = call.node.server
    names = ("AllowedPrimaryServer", "ReplicaStorageLocation", "TrustGroup")
    entry = AuthorizationEntry(*(str(call.parameters[name]) for name in names))
    if server.any_server:
        raise HyperVError(
            "An authorization entry needs ReplicationAllowedFromAnyServer to be false on this server.", "InvalidState"
        )
    if any(other.primary_server.lower() == entry.primary_server.lower() for other in server.entries):
        raise HyperVError(f"There is an authorization entry for '{entry.primary_server}' already.", "InvalidParameter")
    server.entries.append(entry)
    call.effect(None, f"authorization entry for {entry.primary_server}")
    yield _entry_item(call, entry)


def _chosen(call: Call) -> list[AuthorizationEntry]:
    given = call.get("VMReplicationAuthorizationEntry")
    if given is not None:
        return [item.source for item in given]
    name, wanted = next((name, call.get(name)) for name in ("AllowedPrimaryServer", "TrustGroup") if call.get(name))
    attribute = "primary_server" if name == "AllowedPrimaryServer" else "trust_group"
    found = [entry for entry in call.node.server.entries if like(getattr(entry, attribute), wanted)]
    if not found:
        raise HyperVError(f"There is no authorization entry for '{wanted}'.", "ObjectNotFound", target=str(wanted))
    return found


def _set_entry(call: Call) -> Iterator[Item]:
    entries = call.node.server.entries
    for entry in _chosen(call):
        changed = AuthorizationEntry(
            entry.primary_server,
            str(call.get("ReplicaStorageLocation", entry.storage)),
            str(call.get("TrustGroup", entry.trust_group)),
        )
        entries[entries.index(entry)] = changed
        call.effect(None, f"authorization entry for {entry.primary_server}")
        if call.get("Passthru"):
            yield _entry_item(call, changed)


def _remove_entry(call: Call) -> Iterator[Item]:
    for entry in _chosen(call):
        call.node.server.entries.remove(entry)
        call.effect(None, f"authorization entry for {entry.primary_server}")
        if call.get("Passthru"):
            yield _entry_item(call, entry)


def _test_connection(call: Call) -> Iterable[Item]:
    world, name = call.world, str(call.parameters["ReplicaServerName"]).lower()
    site = next((site for site in world.sites.values() if name in (site.broker, site.broker_fqdn)), None)
    works = [world.nodes[node] for node in site.nodes if world.node_works(node)] if site else []
    if not works or (site and site.name != call.node.site and not world.link_up):
        raise HyperVError(f"The Replica server '{name}' cannot be reached.", "OperationFailed")
    server = works[0].server
    port = server.kerberos_port if call.parameters["AuthenticationType"] == "Kerberos" else server.certificate_port
    if not server.enabled or call.parameters["ReplicaServerPort"] != port:
        raise HyperVError(f"Nothing replicates at port {call.parameters['ReplicaServerPort']} of '{name}'.")
    if call.parameters["AuthenticationType"] not in server.authentication:
        raise HyperVError(f"The Replica server '{name}' does not take this kind of authentication.", "AccessDenied")
    return []


SERVER_CALLS: Mapping[str, Handler] = {
    "Get-VMReplicationServer": _get_server,
    "Set-VMReplicationServer": _set_server,
    "Get-VMReplicationAuthorizationEntry": _get_entries,
    "New-VMReplicationAuthorizationEntry": _new_entry,
    "Set-VMReplicationAuthorizationEntry": _set_entry,
    "Remove-VMReplicationAuthorizationEntry": _remove_entry,
    "Test-VMReplicationConnection": _test_connection,
}
