"""Clusters and replication settings over HTTP: what is set, since when and by whom, and how everybody stands to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Query, Response

from failover_orch.domain import Call, ClusterInventory, Operation, SettingsChange, SettingsScope
from failover_orch.service.api import Api
from failover_orch.service.bodies import SettingsBody
from failover_orch.service.callers import Caller, Known
from failover_orch.service.idempotency import IdempotencyKey
from failover_orch.service.problems import Refused
from failover_orch.service.read_model import ReadModel
from failover_orch.service.settings_views import (
    NodeStanding,
    SettingsChangeView,
    SettingsHistory,
    SettingsView,
    settings_change_view,
    settings_history,
    settings_view,
)
from failover_orch.service.subjects import cluster_call
from failover_orch.service.views import AcceptedView, as_of
from failover_orch.wire import now_ms

__all__ = ["answer_settings"]

DryRun = Annotated[bool, Query(description="Change nothing: say what the change would come to.")]
ChangeId = Annotated[str, Query(description="Only what came of this change.")]
_DRY_RUN = {200: {"description": "What the change would come to (`dry_run`).", "model": SettingsChangeView}}


@dataclass(frozen=True, slots=True)
class ClusterList:
    as_of: str | None
    clusters: tuple[ClusterInventory, ...]


@dataclass(frozen=True, slots=True)
class ClusterView:
    as_of: str | None
    cluster: ClusterInventory


@dataclass(frozen=True, slots=True)
class StandingList:
    """How each node of a cluster stands to its settings, of which `version` is the newest."""

    as_of: str | None
    cluster: str
    version: int
    nodes: tuple[NodeStanding, ...]


def answer_settings(api: Api) -> None:
    _answer_clusters(api)

    @api.endpoint("GET", "/v1/clusters/{cluster}/settings", SettingsView)
    async def of_cluster(caller: Known, cluster: str) -> Response:
        """The replication settings of a cluster, and how each of its nodes stands to them."""
        model, found = _cluster(api, caller, cluster)
        return api.answer(settings_view(model, SettingsScope.CLUSTER, found.cluster))

    @api.endpoint("PATCH", "/v1/clusters/{cluster}/settings", AcceptedView, status=202, others=_DRY_RUN)
    async def set_for_cluster(
        caller: Known, cluster: str, body: SettingsBody, key: IdempotencyKey, dry_run: DryRun = False
    ) -> Response:
        """Change replication settings of a cluster; its nodes are told by their site agents."""
        model, found = _cluster(api, caller, cluster, Operation.SET_CLUSTER)
        return await _set(api, caller, model, _change(SettingsScope.CLUSTER, found.cluster, body, caller), key, dry_run)

    @api.endpoint("GET", "/v1/clusters/{cluster}/settings/history", SettingsHistory)
    async def history_of_cluster(caller: Known, cluster: str, change_id: ChangeId = "") -> Response:
        """What came of every change to a cluster's settings, refused ones too, the oldest first."""
        model, found = _cluster(api, caller, cluster)
        return api.answer(_history(model, SettingsScope.CLUSTER, found.cluster, change_id))

    @api.endpoint("GET", "/v1/clusters/{cluster}/settings/standing", StandingList)
    async def standing(caller: Known, cluster: str) -> Response:
        """How each node of a cluster stands to its settings: who has them, who differs, who cannot take them."""
        model, found = _cluster(api, caller, cluster)
        view = settings_view(model, SettingsScope.CLUSTER, found.cluster)
        return api.answer(StandingList(view.as_of, found.cluster, view.version, view.nodes))

    @api.endpoint("GET", "/v1/vms/{vm}/replication", SettingsView)
    async def of_vm(caller: Known, vm: str) -> Response:
        """How a VM is set to replicate, and whether it does."""
        model, found = api.vm(caller, vm)
        return api.answer(settings_view(model, SettingsScope.VM, found.vm_id))

    @api.endpoint("PATCH", "/v1/vms/{vm}/replication", AcceptedView, status=202, others=_DRY_RUN)
    async def set_for_vm(
        caller: Known, vm: str, body: SettingsBody, key: IdempotencyKey, dry_run: DryRun = False
    ) -> Response:
        """Change how a VM replicates; it is told by the agent of the site where it runs."""
        model, found = api.vm(caller, vm, Operation.SET_VM_REPLICATION)
        return await _set(api, caller, model, _change(SettingsScope.VM, found.vm_id, body, caller), key, dry_run)

    @api.endpoint("GET", "/v1/vms/{vm}/replication/history", SettingsHistory)
    async def history_of_vm(caller: Known, vm: str, change_id: ChangeId = "") -> Response:
        """What came of every change to how a VM replicates, refused ones too, the oldest first."""
        model, found = api.vm(caller, vm)
        return api.answer(_history(model, SettingsScope.VM, found.vm_id, change_id))


def _answer_clusters(api: Api) -> None:
    @api.endpoint("GET", "/v1/clusters", ClusterList)
    async def clusters(caller: Known) -> Response:
        """Clusters by name, with their nodes, as their site agents reported them last."""
        model = api.everything()
        caller.require_somewhere(Operation.LOOK)
        seen = tuple(one for one in model.clusters() if caller.sees(_looked_at, model, one))
        return api.answer(ClusterList(as_of(model), seen))

    @api.endpoint("GET", "/v1/clusters/{cluster}", ClusterView)
    async def one_cluster(caller: Known, cluster: str) -> Response:
        """A cluster and its nodes."""
        model, found = _cluster(api, caller, cluster)
        return api.answer(ClusterView(as_of(model), found))


def _cluster(
    api: Api, caller: Caller, name: str, operation: Operation = Operation.LOOK
) -> tuple[ReadModel, ClusterInventory]:
    model = api.everything()
    found = model.cluster(name)
    caller.require(cluster_call(operation, found))
    return model, found


def _looked_at(operation: Operation, _model: ReadModel, cluster: ClusterInventory) -> Call:
    return cluster_call(operation, cluster)


def _change(scope: SettingsScope, target: str, body: SettingsBody, caller: Caller) -> SettingsChange:
    return SettingsChange(
        scope,
        target,
        body.changes,
        caller.name,
        body.reason,
        now_ms(),
        ticket=body.ticket,
        based_on=body.based_on,
    )


async def _set(api: Api, caller: Caller, model: ReadModel, change: SettingsChange, key: str, dry_run: bool) -> Response:
    """Publish a change that nothing speaks against as far as is known here; the broker judges once more."""
    if dry_run:
        return api.answer(settings_change_view(model, change))
    shown = "vms" if change.scope is SettingsScope.VM else "clusters"
    settings = "replication" if change.scope is SettingsScope.VM else "settings"

    async def take(name: str) -> tuple[str, object]:
        location = f"/v1/{shown}/{change.target}/{settings}/history?change_id={name}"
        if any(revision.change_id == name for revision in model.revisions(change.target)):
            return location, AcceptedView(name)  # another process took it before
        refused = settings_change_view(model, change).refused
        if refused:
            raise Refused("; ".join(refused))
        await api.commands.publish(replace(change, change_id=name))
        return location, AcceptedView(name)

    what = (change.scope, change.target, change.changes, change.reason, change.ticket, change.based_on)
    return await api.command(caller, key, ("settings", what), take)


def _history(model: ReadModel, scope: SettingsScope, target: str, change_id: str) -> SettingsHistory:
    history = settings_history(model, scope, target)
    if not change_id:
        return history
    return replace(history, revisions=tuple(one for one in history.revisions if one.change_id == change_id))
