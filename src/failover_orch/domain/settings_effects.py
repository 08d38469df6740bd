"""What a change of replication settings touches: nodes and VMs, said beforehand. For dry runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from failover_orch.domain.inventory import ClusterInventory, NodeState, VmInventory
from failover_orch.domain.reception import entry_for, port_at
from failover_orch.domain.replication_settings import (
    AcceptedAuthentication,
    ReplicationServer,
    SettingsChange,
    SettingsRevision,
    VmReplication,
)
from failover_orch.domain.settings_catalogue import ON_DRIFT, find_setting
from failover_orch.domain.settings_rules import Merged

__all__ = ["SettingsEffect", "change_effects"]


@dataclass(frozen=True, slots=True)
class SettingsEffect:
    """A node, or a VM, that a change touches. `warning`: something would no longer work, or has to be done."""

    node: str
    vm_id: str
    what: str
    warning: bool = False


def change_effects(
    current: SettingsRevision | None,
    merged: Merged,
    change: SettingsChange,
    clusters: Sequence[ClusterInventory],
    vms: Sequence[VmInventory],
) -> tuple[SettingsEffect, ...]:
    """Every node and VM that a change touches; none where it is refused, or changes nothing.

    `merged` is what `merge_settings` makes of it; `clusters` and `vms` are all that are known.
    """
    if merged.findings or (current is not None and not merged.changed):
        return ()
    if merged.server is None:
        said = ", ".join(f"{name} {_text(merged, change, name)}" for name in merged.changed) or "nothing new"
        if current is None:
            # The first change is the VM's whole settings from then on.
            said += ", and of all else the defaults"
        return (SettingsEffect("", change.target, f"is told {said}, where it is active"),)
    cluster = next((one for one in clusters if one.cluster == change.target), None)
    before = current.server if current is not None and current.server is not None else None
    found = [] if cluster is None else list(_nodes(cluster, merged.server))
    brokers = {one.cluster: one.broker for one in clusters}
    for vm in sorted(vms, key=lambda each: each.vm_id):
        whats = _of_vm(vm, change.target, cluster, before, merged.server, brokers)
        found += [SettingsEffect("", vm.vm_id, what, warning=True) for what in whats]
    return tuple(found)


def _text(merged: Merged, change: SettingsChange, name: str) -> str:
    setting = find_setting(change.scope, name)
    settings = merged.server or merged.replication or VmReplication()
    return setting.write(merged.on_drift if name == ON_DRIFT else setting.of(settings)) or "(none)"


def _nodes(cluster: ClusterInventory, server: ReplicationServer) -> Iterator[SettingsEffect]:
    for node in cluster.nodes:
        away = node.state is NodeState.DOWN
        yield SettingsEffect(node.name, "", "is down, and is told when it is back" if away else "is told", warning=away)
    named = {node.name.lower() for node in cluster.nodes} | {cluster.broker.lower()}
    for name, ports in (("http_port_map", server.http_port_map), ("https_port_map", server.https_port_map)):
        for each in ports:
            if each.node.lower() not in named:
                what = f"is in {name}, and is no node of {cluster.cluster} now"
                yield SettingsEffect(each.node, "", what, warning=True)


def _of_vm(
    vm: VmInventory,
    target: str,
    cluster: ClusterInventory | None,
    before: ReplicationServer | None,
    after: ReplicationServer,
    brokers: dict[str, str],
) -> Iterator[str]:
    replication = vm.replication
    here = replication.replica_cluster == target or (
        not replication.replica_cluster and cluster is not None and cluster.site == replication.replica_site
    )
    if here:
        yield from _of_replica(brokers.get(replication.primary_cluster, ""), before, after)
    elif replication.primary_cluster == target and not after.enabled and (before is None or before.enabled):
        yield "could not be replicated back here after a failover: replication is not enabled"


def _of_replica(primary: str, before: ReplicationServer | None, after: ReplicationServer) -> Iterator[str]:
    if not after.enabled:
        if before is None or before.enabled:
            yield "its replica is no longer accepted: replication is not enabled"
        return
    was = entry_for(before, primary) if before is not None and before.enabled and primary else None
    now = entry_for(after, primary) if primary else None
    if primary and now is None and (was is not None or before is None):
        yield f"its replica is no longer accepted: its primary server {primary} has no authorization entry"
        return
    if was is not None and now is not None and was.trust_group and now.trust_group != was.trust_group:
        to = f"trust group {now.trust_group}" if now.trust_group else "no trust group"
        yield f"its primary server {primary}, and so its replica, moves from trust group {was.trust_group} to {to}"
    if before is None or not before.enabled:
        return
    for kind in (AcceptedAuthentication.KERBEROS, AcceptedAuthentication.CERTIFICATE):
        yield from _of_kind(kind, before, after)


def _of_kind(kind: AcceptedAuthentication, before: ReplicationServer, after: ReplicationServer) -> Iterator[str]:
    both = AcceptedAuthentication.BOTH
    if before.authentication not in (kind, both):
        return
    if after.authentication not in (kind, both):
        yield f"its primary has to authenticate by {after.authentication}: {kind} is no longer accepted"
        return
    by_kerberos = kind is AcceptedAuthentication.KERBEROS
    was, now = (server.http_port if by_kerberos else server.https_port for server in (before, after))
    maps = [server.http_port_map if by_kerberos else server.https_port_map for server in (before, after)]
    moved = sorted(
        {
            each.node
            for ports in maps
            for each in ports
            if port_at(maps[0], was, each.node) != port_at(maps[1], now, each.node)
        }
    )
    if was != now and not any(maps):
        yield f"its primary has to be told port {now} in place of {was}"
    elif moved:
        yield f"its primary has to be told other ports: those of {', '.join(moved)} change"
