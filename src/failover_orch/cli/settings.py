"""`failover-orch settings`: replication settings of a cluster or a VM, how its nodes stand to them, and their changes.

Reading works without the service; a change goes to the broker, whose answer is waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from failover_orch.cli.access import AsJson, current, moment, run, show_json, show_table
from failover_orch.cli.common import Bootstrap
from failover_orch.cli.settings_changes import OfVm, Target, set_settings, target_of
from failover_orch.config import Settings
from failover_orch.domain import SettingsScope, Standing
from failover_orch.service import (
    ChangedSetting,
    NodeStanding,
    ReadModel,
    SettingsView,
    settings_between,
    settings_drift,
    settings_history,
    settings_view,
)

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Replication settings of a cluster's nodes, or of one VM: set once, kept true everywhere.",
)

app.command("set")(set_settings)

_Cluster = Annotated[str, typer.Argument(metavar="[CLUSTER]", help="The cluster's name.", show_default=False)]
_ClusterName = Annotated[str, typer.Argument(metavar="CLUSTER", help="The cluster's name.")]


@app.command()
def show(cluster: _Cluster = "", vm: OfVm = "", as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Show every setting with its default and the version that set it, and how each node stands to them.

    Without CLUSTER or --vm: every cluster, its version, and how many of its nodes have it.
    """
    run(bootstrap, lambda config: _show(config, cluster, vm, as_json))


async def _show(config: Settings, cluster: str, vm: str, as_json: bool) -> None:
    model = await current(config)
    if not cluster and not vm:
        _show_all(model, as_json)
        return
    target = target_of(model, cluster, vm)
    view = settings_view(model, target.scope, target.key)
    if as_json:
        show_json(view)
        return
    typer.echo(_headline(view))
    rows = [
        (one.name, one.value, "" if one.value == one.default else one.default, one.since_version or "", one.takes)
        for one in view.settings
    ]
    show_table("", ("setting", "value", "default", "since version", "takes"), rows)
    _show_nodes(view.nodes)


def _show_all(model: ReadModel, as_json: bool) -> None:
    views = [settings_view(model, SettingsScope.CLUSTER, cluster.cluster) for cluster in model.clusters()]
    if as_json:
        show_json(views)
        return
    rows = [
        (view.name, view.version or "not set", _in_sync(view), view.actor, view.reason, moment(view.set_at_ms))
        for view in views
    ]
    show_table("", ("cluster", "version", "nodes in sync", "by", "reason", "set"), rows)


def _in_sync(view: SettingsView) -> str:
    if not view.version:
        return ""
    there = sum(one.standing is Standing.IN_SYNC and one.version == view.version for one in view.nodes)
    return f"{there} of {len(view.nodes)}"


def _headline(view: SettingsView) -> str:
    if not view.version:
        return f"{view.name}: nobody has set anything; its nodes keep what they have, and these are the defaults"
    ticket = f", {view.ticket}" if view.ticket else ""
    return f"{view.name}: version {view.version}, by {view.actor} at {moment(view.set_at_ms)}: {view.reason}{ticket}"


def _show_nodes(nodes: Sequence[NodeStanding]) -> None:
    if nodes:
        rows = [
            (
                one.node,
                one.standing or "not told yet",
                one.applied or "",
                moment(one.since_ms),
                "\n".join((*filter(None, (one.detail,)), *(f"{name} is {text}" for name, text in one.found.items()))),
            )
            for one in nodes
        ]
        show_table("Nodes", ("node", "standing", "has version", "since", "why"), rows)


@app.command()
def history(cluster: _Cluster = "", vm: OfVm = "", as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """List every change, the oldest first: who, when, why and what; those that were refused too."""
    run(bootstrap, lambda config: _history(config, cluster, vm, as_json))


async def _history(config: Settings, cluster: str, vm: str, as_json: bool) -> None:
    model = await current(config)
    target = target_of(model, cluster, vm)
    view = settings_history(model, target.scope, target.key)
    if as_json:
        show_json(view)
        return
    rows = [
        (
            "refused" if one.refused else one.version,
            moment(one.at_ms),
            one.actor,
            one.reason,
            one.ticket,
            "\n".join(one.refused or map(_spelled, one.changed)) or "nothing was to be changed",
        )
        for one in view.revisions
    ]
    show_table("", ("version", "when", "who", "why", "ticket", "what"), rows)


def _spelled(change: ChangedSetting) -> str:
    return f"{change.name}: {change.before or '(none)'} -> {change.after or '(none)'}"


@app.command()
def diff(
    cluster: _ClusterName,
    older: Annotated[int | None, typer.Argument(metavar="[VERSION]", min=0, help="0: the defaults.")] = None,
    newer: Annotated[int | None, typer.Argument(metavar="[VERSION]", min=0, help="Else the newest.")] = None,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Say what two versions differ in, or, without a version, what nodes have otherwise than is wanted."""
    run(bootstrap, lambda config: _diff(config, cluster, older, newer, as_json))


async def _diff(config: Settings, cluster: str, older: int | None, newer: int | None, as_json: bool) -> None:
    model = await current(config)
    target = target_of(model, cluster, "")
    if older is None:
        drift = settings_drift(model, target.scope, target.key)
        if as_json:
            show_json(drift)
        elif drift:
            columns = ("node", "setting", "wanted", "found", "why")
            show_table("", columns, [(one.node, one.name, one.wanted, one.found, one.why) for one in drift])
        else:
            typer.echo(_none_differ(model, target))
        return
    latest = model.revision(target.key)
    until = newer if newer is not None else (latest.version if latest else 0)
    changed = settings_between(model, target.scope, target.key, older, until)
    if as_json:
        show_json(changed)
    elif changed:
        versions = ("setting", f"version {older}", f"version {until}")
        show_table("", versions, [(one.name, one.before, one.after) for one in changed])
    else:
        typer.echo(f"versions {older} and {until} do not differ")


def _none_differ(model: ReadModel, target: Target) -> str:
    known = model.revision(target.key)
    if known is None:
        return f"{target.called}: nobody has set anything, so that nothing can differ from it"
    return f"{target.called}: every node has version {known.version}"
