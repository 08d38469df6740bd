"""Reception: whether a primary server may replicate a VM to a cluster, and where and how.

| rule | refuses a primary server where |
| --- | --- |
| J1 | the cluster is not known, or nobody has set what it accepts |
| J2 | replication is not enabled there |
| J3 | neither an authorization entry names the server, nor is replication from any server accepted |
| J4 | it says that it is of another trust group than its entry does |
| J5 | the replica that is there belongs to another trust group |
| J6 | the node that has the replica is not in the port map |

An entry by the server's own name goes before one with a wildcard, which stands for exactly one label. Who may replicate
at all is asked first; then `placement` says where, among the nodes that have taken the settings (N7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.placement import Placed, Placement, place
from failover_orch.domain.replication_settings import (
    AcceptedAuthentication,
    AuthorizationEntry,
    NodePort,
    ReplicationServer,
    SettingsRevision,
    SettingsStanding,
    Standing,
)

__all__ = ["Reception", "ReceptionRequest", "entry_for", "left_out", "port_at", "receive_replica", "unfit_nodes"]

_WITHOUT_PART_IN_IT = frozenset({"monitoring_interval_s", "monitoring_start_minute"})
"""Settings that a replica is received well without."""


@dataclass(frozen=True, slots=True)
class ReceptionRequest:
    """A primary server asks where to send a VM's replica: to `cluster`, at the replica site that `vm` names.

    `trust_group` is what the server says of itself; empty where it says nothing.
    """

    primary_server: str
    vm: VmInventory
    cluster: str
    trust_group: str = ""


@dataclass(frozen=True, slots=True)
class Reception:
    """The answer. With `refused` (sentences, each with its rule's number in front) all else may be empty.

    Ports are 0 where that kind of authentication is not accepted. An empty trust group: every server's replicas are
    accepted, and none belongs to a group. `placement` is also there where no node can take the replica: it says why.
    """

    refused: tuple[str, ...]
    placement: Placement | None = None
    broker: str = ""
    http_port: int = 0
    https_port: int = 0
    authentication: AcceptedAuthentication | None = None
    certificate_thumbprint: str = ""
    storage_location: str = ""
    trust_group: str = ""
    version: int = 0
    """Of the settings that this follows from."""


def receive_replica(
    revision: SettingsRevision | None,
    standings: Mapping[str, SettingsStanding],
    clusters: Sequence[ClusterInventory],
    replicas: Sequence[Placed],
    request: ReceptionRequest,
) -> Reception:
    """Say whether, where and how a primary server may replicate a VM.

    A replica that is there stays where it is, whatever location the entry names: that is for new ones.

    `revision` is what the cluster's settings are, `standings` how each of its nodes stands to them. A VM that is among
    `replicas` has its replica already, and is answered with where that is.
    """
    cluster = next((one for one in clusters if one.cluster == request.cluster), None)
    server = revision.server if revision is not None else None
    if cluster is None or revision is None or server is None:
        what = "is not known" if cluster is None else "has no replication settings: set what it accepts first"
        return Reception((f"J1: cluster {request.cluster} {what}",))
    if not server.enabled:
        return Reception((f"J2: replication to cluster {cluster.cluster} is not enabled: set enabled to true",))
    entry = entry_for(server, request.primary_server)
    if entry is None:
        why = f"cluster {cluster.cluster} accepts no replicas from {request.primary_server}: give it an entry"
        return Reception((f"J3: {why} in authorization",))
    if request.trust_group and entry.trust_group and request.trust_group != entry.trust_group:
        why = f"{request.primary_server} is of trust group {entry.trust_group} here, not of {request.trust_group}"
        return Reception((f"J4: {why}",))
    there = any(placed.vm_id == request.vm.vm_id and placed.site == cluster.site for placed in replicas)
    foreign = _foreign_group(server, clusters, request, entry) if there else ""
    if foreign:
        return Reception((f"J5: {foreign}",))
    placement = place(
        request.vm,
        [cluster],
        replicas,
        unfit=unfit_nodes(revision, cluster, standings),
        storage_location=entry.storage_location,
    )
    return _answer(revision, server, cluster, entry, placement)


def _answer(
    revision: SettingsRevision,
    server: ReplicationServer,
    cluster: ClusterInventory,
    entry: AuthorizationEntry,
    placement: Placement,
) -> Reception:
    accepted = server.authentication
    ports = {}
    for kind, ports_of, port in (
        (AcceptedAuthentication.KERBEROS, server.http_port_map, server.http_port),
        (AcceptedAuthentication.CERTIFICATE, server.https_port_map, server.https_port),
    ):
        ports[kind] = port_at(ports_of, port, placement.node or "") if accepted in (kind, _BOTH) else 0
    refused = (placement.why,) if placement.node is None else ()
    if placement.node is not None and not any(ports.values()):
        why = f"node {placement.node}, which has the replica, is in no port map of {cluster.cluster}: add it there"
        refused = (f"J6: {why}",)
    return Reception(
        refused=refused,
        placement=placement,
        broker=cluster.broker,
        http_port=ports[AcceptedAuthentication.KERBEROS],
        https_port=ports[AcceptedAuthentication.CERTIFICATE],
        authentication=accepted,
        certificate_thumbprint="" if accepted is AcceptedAuthentication.KERBEROS else server.certificate_thumbprint,
        storage_location=entry.storage_location,
        trust_group=entry.trust_group,
        version=revision.version,
    )


_BOTH = AcceptedAuthentication.BOTH


def entry_for(server: ReplicationServer, primary_server: str) -> AuthorizationEntry | None:
    """The authorization entry that lets a primary server in; one made up where every server may come. None: no."""
    name = primary_server.lower().removesuffix(".")
    if not name or "*" in name:
        return None  # nobody is called so: an entry with a wildcard is no server's own
    if server.from_any_server:
        return AuthorizationEntry(name, server.default_storage_location, "")
    by_name = {entry.primary_server.lower(): entry for entry in server.authorization}
    return by_name.get(name) or by_name.get(f"*.{name.partition('.')[2]}")


def port_at(ports: Sequence[NodePort], port: int, node: str) -> int:
    """On which port a node is reached: its own in the map, `port` where there is no map. 0: the map leaves it out."""
    if not ports:
        return port
    return next((each.port for each in ports if each.node.lower() == node.lower()), 0)


def _foreign_group(
    server: ReplicationServer,
    clusters: Sequence[ClusterInventory],
    request: ReceptionRequest,
    entry: AuthorizationEntry,
) -> str:
    """Why the replica that is there is none of the asking server's trust group; empty where it is.

    Its group is that of the primary server that it was made for. Where its inventory names no cluster nobody knows
    that, and who is authorised is believed.
    """
    home = request.vm.replication.primary_cluster
    owner = next((cluster.broker for cluster in clusters if cluster.cluster == home), "")
    if not owner or server.from_any_server or owner.lower() == request.primary_server.lower():
        return ""
    own = entry_for(server, owner)
    if own is None:
        return (
            f"the replica of {request.vm.vm_id} belongs to {owner}, which has no entry any more: give it one, of trust "
            f"group {entry.trust_group} where {request.primary_server} is to go on with it"
        )
    if own.trust_group != entry.trust_group:
        return (
            f"the replica of {request.vm.vm_id} belongs to trust group {own.trust_group}, and "
            f"{request.primary_server} is of {entry.trust_group}"
        )
    return ""


def unfit_nodes(
    revision: SettingsRevision | None, cluster: ClusterInventory, standings: Mapping[str, SettingsStanding]
) -> dict[tuple[str, str], str]:
    """The nodes of a cluster that cannot take a replica as they are set up, and why: for `place` (N7).

    A node that has taken an earlier version, and is being told the newest, can. One that has drifted can where what
    differs is only when its replication is monitored. A cluster that nobody has made settings for has none.
    """
    if revision is None or revision.server is None:
        return {}
    named = {node.name: _unfit(node.name, revision.server, standings.get(node.name)) for node in cluster.nodes}
    return {(cluster.cluster, node): why for node, why in named.items() if why}


def _unfit(node: str, server: ReplicationServer, stands: SettingsStanding | None) -> str:
    if stands is None or (stands.standing is Standing.APPLYING and not stands.applied):
        return f"{node} has not taken the replication settings yet"
    if stands.standing is Standing.FAILED:
        return f"{node} cannot take the replication settings: {stands.detail}"
    if stands.standing is Standing.AWAY:
        return f"{node} is away, and has not taken the newest replication settings"
    if stands.standing is Standing.DRIFTED and not set(stands.evidence) <= _WITHOUT_PART_IN_IT:
        return f"{node} has other replication settings than were set: {stands.detail}"
    return left_out(server, node)


def left_out(server: ReplicationServer, node: str) -> str:
    """Why nobody can reach a node where there is a port map; empty where it is in it, or there is none."""
    for kind, name, ports in (
        (AcceptedAuthentication.KERBEROS, "http_port_map", server.http_port_map),
        (AcceptedAuthentication.CERTIFICATE, "https_port_map", server.https_port_map),
    ):
        if server.authentication in (kind, _BOTH) and ports and not port_at(ports, 0, node):
            return f"{name} leaves out {node}: give it a port there"
    return ""
