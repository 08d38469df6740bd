"""Replication settings in the forms in which they are shown: as they are, as they came about, as a change would leave
them.

A target is a cluster by its name, or a VM by its id. Values are texts, as the catalogue writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from failover_orch.domain import (
    Merged,
    SettingsChange,
    SettingsEffect,
    SettingsRevision,
    SettingsScope,
    SettingsStanding,
    Standing,
    change_effects,
    merge_settings,
    setting_texts,
    settings_of,
)
from failover_orch.errors import LookupFailed
from failover_orch.service.read_model import ReadModel
from failover_orch.service.views import as_of

__all__ = [
    "ChangedSetting",
    "NodeStanding",
    "RevisionView",
    "SettingView",
    "SettingsChangeView",
    "SettingsDifference",
    "SettingsHistory",
    "SettingsView",
    "settings_between",
    "settings_change_view",
    "settings_drift",
    "settings_history",
    "settings_view",
]

_UNTOLD = "nobody has told it yet"


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting: `since_version` is the version that set it last, 0 where nobody ever has."""

    name: str
    value: str
    default: str
    since_version: int
    takes: str
    known_as: str


@dataclass(frozen=True, slots=True)
class NodeStanding:
    """How a node (or where a VM runs) stands to the settings. `standing` is null where nothing was told of it yet.

    `state` is the node's own, `applied` the version it was last read back to have, 0 for none. `found` is what it has
    instead, of each setting that differs.
    """

    node: str
    state: str
    standing: Standing | None
    version: int
    applied: int
    since_ms: int
    detail: str
    found: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SettingsView:
    """The settings of a cluster, or of a VM. Version 0: nobody has set any, and what is shown are the defaults."""

    as_of: str | None
    scope: SettingsScope
    target: str
    name: str
    version: int
    actor: str
    reason: str
    ticket: str
    set_at_ms: int
    settings: tuple[SettingView, ...]
    nodes: tuple[NodeStanding, ...]


@dataclass(frozen=True, slots=True)
class ChangedSetting:
    """One setting, before and after."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class RevisionView:
    """What came of a change. With `refused` nothing was changed, and `version` is what it was before."""

    version: int
    actor: str
    reason: str
    ticket: str
    at_ms: int
    change_id: str
    changed: tuple[ChangedSetting, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SettingsHistory:
    """What came of every change, the oldest first."""

    as_of: str | None
    scope: SettingsScope
    target: str
    revisions: tuple[RevisionView, ...]


@dataclass(frozen=True, slots=True)
class SettingsChangeView:
    """What a change would come to: refused, for these reasons; or version `version`, with what follows from that."""

    as_of: str | None
    scope: SettingsScope
    target: str
    version: int
    refused: tuple[str, ...]
    changed: tuple[ChangedSetting, ...]
    effects: tuple[SettingsEffect, ...]


@dataclass(frozen=True, slots=True)
class SettingsDifference:
    """A setting of which a node has another value than is wanted; `found` is empty where nobody knows what it has."""

    node: str
    name: str
    wanted: str
    found: str
    why: str


def settings_view(model: ReadModel, scope: SettingsScope, target: str) -> SettingsView:
    """The settings that hold, each with the version that set it, and how every node stands to them."""
    current = model.revision(target)
    since = {
        name: revision.version
        for revision in model.revisions(target)
        if not revision.refused
        for name in revision.changed
    }
    held = _texts(current, scope)
    return SettingsView(
        as_of=as_of(model),
        scope=scope,
        target=target,
        name=_name(model, scope, target),
        version=current.version if current else 0,
        actor=current.actor if current else "",
        reason=current.reason if current else "",
        ticket=current.ticket if current else "",
        set_at_ms=current.at_ms if current else 0,
        settings=tuple(
            SettingView(
                setting.name,
                held[setting.name],
                setting.default_text,
                since.get(setting.name, 0),
                setting.takes,
                setting.known_as,
            )
            for setting in settings_of(scope)
        ),
        nodes=tuple(_nodes(model, scope, target)),
    )


def settings_history(model: ReadModel, scope: SettingsScope, target: str) -> SettingsHistory:
    """Every change of the settings of a target, those that were refused too."""
    shown, before = [], _texts(None, scope)
    for revision in model.revisions(target):
        after = before if revision.refused else _texts(revision, scope)
        shown.append(
            RevisionView(
                version=revision.version,
                actor=revision.actor,
                reason=revision.reason,
                ticket=revision.ticket,
                at_ms=revision.at_ms,
                change_id=revision.change_id,
                changed=_changed(before, after),
                refused=revision.refused,
            )
        )
        before = after
    return SettingsHistory(as_of(model), scope, target, tuple(shown))


def settings_between(
    model: ReadModel, scope: SettingsScope, target: str, older: int, newer: int
) -> tuple[ChangedSetting, ...]:
    """What is set otherwise in one version than in another; version 0 stands for the defaults.

    Raises:
        LookupFailed: there is no such version.

    """
    return _changed(*(_texts(_revision(model, target, version), scope) for version in (older, newer)))


def settings_drift(model: ReadModel, scope: SettingsScope, target: str) -> tuple[SettingsDifference, ...]:
    """What nodes have otherwise than is wanted, and nodes of which nobody knows what they have."""
    current = model.revision(target)
    if current is None:
        return ()
    wanted = _texts(current, scope)
    return tuple(chain.from_iterable(_drift(model, current, wanted, node) for node in _nodes(model, scope, target)))


def settings_change_view(model: ReadModel, change: SettingsChange) -> SettingsChangeView:
    """What a change would come to if it were made now: the broker asks the same rules."""
    current = model.revision(change.target)
    clusters = model.clusters()
    vms = [vm.inventory for vm in model.vms() if vm.inventory is not None]
    vm = next((one for one in vms if one.vm_id == change.target), None)
    vm = vm if change.scope is SettingsScope.VM else None
    merged = merge_settings(current, change, clusters, vm)
    # What a first change begins from is for the rules to say: it is not all defaults.
    before = _merged_texts(change, merge_settings(current, replace(change, changes={}), clusters, vm))
    return SettingsChangeView(
        as_of=as_of(model),
        scope=change.scope,
        target=change.target,
        version=_next_version(current, merged),
        refused=tuple(map(str, merged.findings)),
        changed=() if merged.findings else _changed(before, _merged_texts(change, merged)),
        effects=() if merged.findings else tuple(change_effects(current, merged, change, clusters, vms)),
    )


def _next_version(current: SettingsRevision | None, merged: Merged) -> int:
    if current is None:
        return 0 if merged.findings else 1
    return current.version + bool(merged.changed and not merged.findings)


def _name(model: ReadModel, scope: SettingsScope, target: str) -> str:
    return target if scope is SettingsScope.CLUSTER else model.member(target).name


def _texts(revision: SettingsRevision | None, scope: SettingsScope) -> dict[str, str]:
    """Settings as texts; the defaults where there are none yet."""
    # A first change that was refused leaves a revision that holds nothing.
    if revision is None or not (revision.server or revision.replication):
        return {setting.name: setting.default_text for setting in settings_of(scope)}
    return setting_texts(revision)


def _merged_texts(change: SettingsChange, merged: Merged) -> dict[str, str]:
    return setting_texts(
        SettingsRevision(
            scope=change.scope,
            target=change.target,
            version=0,
            changed=(),
            actor=change.actor,
            reason=change.reason,
            at_ms=change.requested_at_ms,
            server=merged.server,
            replication=merged.replication,
            on_drift=merged.on_drift,
        )
    )


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[ChangedSetting, ...]:
    return tuple(ChangedSetting(name, before[name], after[name]) for name in after if before[name] != after[name])


def _revision(model: ReadModel, target: str, version: int) -> SettingsRevision | None:
    """The revision that made a version; None for version 0."""
    if version == 0:
        return None
    # A change of nothing leaves the version, and is told again.
    found = next((one for one in model.revisions(target) if one.version == version and not one.refused), None)
    if found is None:
        newest = model.revision(target)
        there = f"versions 1 to {newest.version}, and 0 for the defaults" if newest else "no version of them yet"
        raise LookupFailed(f"the settings of {target} have no version {version}: there are {there}")
    return found


def _nodes(model: ReadModel, scope: SettingsScope, target: str) -> Iterator[NodeStanding]:
    """Every node that the settings are for, told already or not."""
    told = {one.node: one for one in model.standings(target)}
    states = {
        node.name: node.state.value
        for cluster in model.clusters()
        if scope is SettingsScope.CLUSTER and cluster.cluster == target
        for node in cluster.nodes
    }
    for node in sorted(told.keys() | states.keys()):
        yield _node(node, states.get(node, ""), told.get(node))


def _node(node: str, state: str, told: SettingsStanding | None) -> NodeStanding:
    if told is None:
        return NodeStanding(node, state, None, 0, 0, 0, "", {})
    return NodeStanding(
        node, state, told.standing, told.version, told.applied, told.since_ms, told.detail, told.evidence
    )


def _drift(
    model: ReadModel, current: SettingsRevision, wanted: Mapping[str, str], node: NodeStanding
) -> Iterator[SettingsDifference]:
    if node.standing is Standing.IN_SYNC and node.version == current.version:
        return
    why = node.detail or (f"{node.standing}" if node.standing else _UNTOLD)
    found: Mapping[str, str] = node.found
    if not found and node.applied:
        had = _texts(_revision(model, current.target, node.applied), current.scope)
        found = {change.name: change.before for change in _changed(had, wanted)}
    if found:
        for name, text in found.items():
            yield SettingsDifference(node.node, name, wanted.get(name, ""), text, why)
    elif node.applied != current.version:
        yield SettingsDifference(node.node, "", "", "", why)
