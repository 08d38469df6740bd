"""Changes of replication settings: which are refused, and what the settings are afterwards.

`merge_settings` is what the broker does with a change, and so what the service, the command and every dry run ask
beforehand.

| rule | refuses a change |
| --- | --- |
| C1 | that does not say who makes it and why |
| C2 | for nothing, or for a VM that is not known |
| C3 | based on an older version than there is |
| C4 | of a setting that there is none of |
| C5 | to a value that the setting does not take |
| C6 | after which replication from any server has no default storage location |
| C7 | after which there are authorization entries beside replication from any server |
| C8 | after which a primary server has two authorization entries |
| C9 | after which certificates are accepted, and no thumbprint says which is the nodes' own |
| C10 | after which both kinds of authentication use one port |
| C11 | after which a port map names a node or port twice, or leaves out the broker or a known node |
| C12 | after which recovery points are to be application-consistent, and none are kept |
| C13 | after which the window for resynchronisation begins when it ends |
| C14 | to a start of initial replication that is past, or later than in 7 days |
| C15 | after which the replica is extended to a cluster of its own, or to one that is not known |
| C16 | after which the extended replica is to be fresher than the replica itself |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.replication import REPLICATION_FREQUENCIES_S
from failover_orch.domain.replication_settings import (
    AcceptedAuthentication,
    NodePort,
    OnDrift,
    ReplicationServer,
    SettingsChange,
    SettingsRevision,
    SettingsScope,
    VmReplication,
)
from failover_orch.domain.settings_catalogue import ON_DRIFT, Setting, find_setting
from failover_orch.domain.settings_forms import write_instant
from failover_orch.errors import ConfigError

__all__ = ["LATEST_START_MS", "Merged", "SettingFinding", "merge_settings"]

LATEST_START_MS = 7 * 24 * 3_600_000
"""How long initial replication can be put off."""


@dataclass(frozen=True, slots=True)
class SettingFinding:
    """What a rule objects to. `message` is a sentence; `setting` is empty where it is about the change as a whole."""

    rule: str
    setting: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


@dataclass(frozen=True, slots=True)
class Merged:
    """What a change comes to. With `findings` it is refused, and the settings are as they were.

    Exactly one of `server` and `replication` is there. `changed` names the settings that have another value now.
    """

    server: ReplicationServer | None
    replication: VmReplication | None
    on_drift: OnDrift
    changed: tuple[str, ...] = ()
    findings: tuple[SettingFinding, ...] = ()


def merge_settings(
    current: SettingsRevision | None,
    change: SettingsChange,
    clusters: Sequence[ClusterInventory] = (),
    vm: VmInventory | None = None,
) -> Merged:
    """Make a change of what was last accepted (`current`, None: nothing yet).

    `clusters` are all that are known, `vm` is the VM that the change is for, if it is for one. The first change begins
    from the defaults, but for how often a VM replicates: its inventory tells that.
    """
    unchanged = _settings(current, change.scope, vm)
    findings = list(_about_the_change(current, change, vm))
    values: dict[str, Any] = {}
    for name, text in change.changes.items():
        try:
            setting = find_setting(change.scope, name)
        except ConfigError as error:
            findings.append(SettingFinding("C4", name, str(error)))
            continue
        try:
            value = setting.parse(text)
        except ConfigError as error:
            findings.append(SettingFinding("C5", name, f"{name}: {error}"))
            continue
        if not setting.same(value, _value(unchanged, setting)):
            values[name] = value
    if findings:
        return replace(unchanged, findings=tuple(findings))
    merged = _with(unchanged, values)
    if merged.server is not None:
        findings += _server_findings(merged.server, next((c for c in clusters if c.cluster == change.target), None))
    if merged.replication is not None:
        findings += _vm_findings(_VmCase(merged.replication, values, change.requested_at_ms, vm, clusters))
    return replace(unchanged, findings=tuple(findings)) if findings else merged


def _settings(current: SettingsRevision | None, scope: SettingsScope, vm: VmInventory | None) -> Merged:
    if current is not None and (current.server or current.replication):
        return Merged(current.server, current.replication, current.on_drift)
    if scope is SettingsScope.CLUSTER:
        return Merged(ReplicationServer(), None, OnDrift.ALERT)
    first = VmReplication()
    if vm is not None and vm.replication.frequency_s in REPLICATION_FREQUENCIES_S:
        # Who sets something else is not to slow the VM down unawares.
        first = replace(first, frequency_s=vm.replication.frequency_s)
    return Merged(None, first, OnDrift.ALERT)


def _value(settings: Merged, setting: Setting) -> Any:
    of = settings.server or settings.replication
    return settings.on_drift if of is None or setting.name == ON_DRIFT else setting.of(of)


def _with(settings: Merged, values: Mapping[str, Any]) -> Merged:
    own = {name: value for name, value in values.items() if name != ON_DRIFT}
    return Merged(
        server=settings.server and replace(settings.server, **own),
        replication=settings.replication and replace(settings.replication, **own),
        on_drift=values.get(ON_DRIFT, settings.on_drift),
        changed=tuple(values),
    )


def _about_the_change(
    current: SettingsRevision | None, change: SettingsChange, vm: VmInventory | None
) -> Iterator[SettingFinding]:
    if not change.actor or not change.reason:
        yield SettingFinding("C1", "", "a change of settings says who makes it and why")
    if not change.target:
        yield SettingFinding("C2", "", "a change of settings names the cluster or VM that it is for")
    elif change.scope is SettingsScope.VM and vm is None:
        yield SettingFinding("C2", "", f"VM {change.target} is not known: publish its inventory first")
    version = current.version if current is not None else 0
    if change.based_on not in (-1, version):
        by = f", made by {current.actor} at {write_instant(current.at_ms)}: {current.reason}" if current else ""
        yield SettingFinding(
            "C3",
            "",
            f"the change is based on version {change.based_on}, and the settings are at version {version}{by}; "
            "look at what they are now, and change that",
        )


# What must hold between settings


_ServerCheck = Callable[[ReplicationServer, ClusterInventory | None], Iterator[tuple[str, str]]]
"""Yields the setting and the sentence of each objection."""


def _any_server_location(server: ReplicationServer, _: ClusterInventory | None) -> Iterator[tuple[str, str]]:
    if server.from_any_server and not server.default_storage_location:
        yield (
            "default_storage_location",
            "replication from any server needs a default storage location: set default_storage_location",
        )


def _any_server_or_entries(server: ReplicationServer, _: ClusterInventory | None) -> Iterator[tuple[str, str]]:
    if server.from_any_server and server.authorization:
        yield (
            "authorization",
            "authorization entries count only where from_any_server is false: set that to false, or remove the entries",
        )


def _one_entry_each(server: ReplicationServer, _: ClusterInventory | None) -> Iterator[tuple[str, str]]:
    names = Counter(entry.primary_server.lower() for entry in server.authorization)
    for name, times in sorted(names.items()):
        if times > 1:
            yield "authorization", f"authorization has {times} entries for {name}: keep one"


def _thumbprint(server: ReplicationServer, _: ClusterInventory | None) -> Iterator[tuple[str, str]]:
    if server.authentication is not AcceptedAuthentication.KERBEROS and not server.certificate_thumbprint:
        yield (
            "certificate_thumbprint",
            f"authentication {server.authentication} needs the nodes' own certificate: set certificate_thumbprint",
        )


def _two_ports(server: ReplicationServer, _: ClusterInventory | None) -> Iterator[tuple[str, str]]:
    if server.authentication is AcceptedAuthentication.BOTH and server.http_port == server.https_port:
        yield "https_port", f"http_port and https_port are both {server.http_port}: give each a port of its own"


def _port_maps(server: ReplicationServer, cluster: ClusterInventory | None) -> Iterator[tuple[str, str]]:
    for name, ports in (("http_port_map", server.http_port_map), ("https_port_map", server.https_port_map)):
        if ports:
            yield from ((name, f"{name} {why}") for why in _port_map(ports, cluster))


def _port_map(ports: Sequence[NodePort], cluster: ClusterInventory | None) -> Iterator[str]:
    nodes = Counter(each.node.lower() for each in ports)
    yield from (f"names {node} {times} times: keep one" for node, times in nodes.items() if times > 1)
    for port, times in Counter(each.port for each in ports).items():
        if times > 1:
            yield f"has port {port} {times} times: each node and the broker needs one of its own"
    if cluster is None:
        return  # a node that turns out to be left out cannot take the settings (K9)
    named = [cluster.broker, *(node.name for node in cluster.nodes)]
    missing = [name for name in named if name and name.lower() not in nodes]
    if missing:
        what = ", ".join(f"the broker {name}" if name == cluster.broker else name for name in missing)
        yield f"leaves out {what}: it names each node and the broker once"


_SERVER_CHECKS: tuple[tuple[str, _ServerCheck], ...] = (
    ("C6", _any_server_location),
    ("C7", _any_server_or_entries),
    ("C8", _one_entry_each),
    ("C9", _thumbprint),
    ("C10", _two_ports),
    ("C11", _port_maps),
)


def _server_findings(server: ReplicationServer, cluster: ClusterInventory | None) -> list[SettingFinding]:
    return [
        SettingFinding(rule, setting, message)
        for rule, check in _SERVER_CHECKS
        for setting, message in check(server, cluster)
    ]


@dataclass(frozen=True, slots=True)
class _VmCase:
    """What the rules for a VM's settings look at; `values` are those that the change sets."""

    settings: VmReplication
    values: Mapping[str, Any]
    now_ms: int
    vm: VmInventory | None
    clusters: Sequence[ClusterInventory]


def _points_to_make_consistent(case: _VmCase) -> str:
    settings = case.settings
    if not settings.application_consistent_hours or settings.recovery_points:
        return ""
    return (
        "application-consistent recovery points need recovery points to be kept: set recovery_points to 1 or more, or "
        "application_consistent_hours to 0"
    )


def _window(case: _VmCase) -> str:
    settings = case.settings
    if settings.resynchronize_from_minute != settings.resynchronize_to_minute:
        return ""
    return "the window for resynchronisation begins when it ends: set resynchronize_to_minute to another time"


def _start(case: _VmCase) -> str:
    at_ms = case.values.get("initial_start_at_ms", 0)
    if not at_ms or case.now_ms <= at_ms <= case.now_ms + LATEST_START_MS:
        return ""
    when = "is past" if at_ms < case.now_ms else "is more than 7 days ahead"
    return f"initial_start_at_ms: {write_instant(at_ms)} {when}: give a time within 7 days from now"


def _extended_elsewhere(case: _VmCase) -> str:
    to, known = case.settings.extended_to, {cluster.cluster for cluster in case.clusters}
    if not to or case.vm is None:
        return ""
    if to in (case.vm.replication.primary_cluster, case.vm.replication.replica_cluster):
        return f"extended_to: {to} has a copy of {case.vm.vm_id} already: name a third cluster"
    if to not in known and "extended_to" in case.values:
        return f"extended_to: cluster {to} is not known: give one of {', '.join(sorted(known)) or '(none is known)'}"
    return ""


def _extended_frequency(case: _VmCase) -> str:
    settings = case.settings
    if not settings.extended_to or settings.extended_frequency_s >= settings.frequency_s:
        return ""
    return (
        f"the extended replica cannot be sent to every {settings.extended_frequency_s} s where the replica is every "
        f"{settings.frequency_s} s: set extended_frequency_s to {settings.frequency_s} s or more"
    )


_VM_CHECKS: tuple[tuple[str, str, Callable[[_VmCase], str]], ...] = (
    ("C12", "application_consistent_hours", _points_to_make_consistent),
    ("C13", "resynchronize_to_minute", _window),
    ("C14", "initial_start_at_ms", _start),
    ("C15", "extended_to", _extended_elsewhere),
    ("C16", "extended_frequency_s", _extended_frequency),
)


def _vm_findings(case: _VmCase) -> list[SettingFinding]:
    return [SettingFinding(rule, setting, why) for rule, setting, check in _VM_CHECKS if (why := check(case))]
