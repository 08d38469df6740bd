"""Keeping replication settings: taking changes, telling nodes, and watching that they stay as they were set.

The partition that owns a cluster's name keeps that cluster's settings, the one that owns a VM keeps the VM's. A cluster
or VM that nobody has made settings for is left alone.

| rule | when | then |
| --- | --- | --- |
| K1 | a change that was heard before | passed over |
| K2 | a change that `settings_rules` C1 to C16 refuse | told as refused; the settings stay |
| K3 | a change to what is set already | the version stays; nodes that are not in sync are told again |
| K4 | any other change | the version goes up, and every node is told |
| K5 | a node reads back what was set | it is in sync |
| K6 | it fails, or does not answer in time | it is told again, up to 5 times; then it has failed |
| K7 | it refuses | it has failed at once |
| K8 | it failed 10 minutes ago | it is told again |
| K9 | a port map leaves it out | it has failed, and is not told: it could not be reached |
| K10 | it is down | it is away, and nothing is asked of it |
| K11 | it joins its cluster, or is back | it is told |
| K12 | it leaves its cluster | it is forgotten |
| K13 | a node in sync is seen with other settings | it has drifted: people are told |
| K14 | it has drifted, and on_drift is CORRECT | it is told again, 3 times an hour |
| K15 | it drifts once more within that hour | it is left as it is, and people are told that somebody else sets it |
| K16 | a VM is active at another site, or replicates again | it is told there, once no run has it in hand |
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from failover_orch.domain.automatic import ACTOR
from failover_orch.domain.draft import Draft
from failover_orch.domain.facts import StepResult
from failover_orch.domain.inventory import ClusterInventory, Node, NodeState
from failover_orch.domain.reception import left_out
from failover_orch.domain.records import Action, Alert, StepCommand
from failover_orch.domain.replication_settings import (
    OnDrift,
    SettingsChange,
    SettingsObserved,
    SettingsRevision,
    SettingsScope,
    SettingsStanding,
    Standing,
)
from failover_orch.domain.settings_catalogue import settings_differences
from failover_orch.domain.settings_nodes import (
    ANSWER_WITHIN_MS,
    Turn,
    answered,
    away,
    fails,
    looked_at,
    seen,
    told,
    waits,
)
from failover_orch.domain.settings_rules import merge_settings
from failover_orch.domain.state import KeptSettings, NodeSettings, VmState

__all__ = [
    "RUN_PREFIX",
    "follow_cluster",
    "follow_vm",
    "on_settings_change",
    "on_settings_observed",
    "on_settings_result",
    "on_settings_time",
]

RUN_PREFIX = "settings/"
"""What the `run_id` of every command to apply settings begins with: `settings/<target>/<version>`."""

_CHANGES_REMEMBERED = 50
_RUN_IN_HAND_MS = 60_000
"""After how long it is looked again whether a VM's run has ended: its end itself is noticed at once."""
_NOT_REPLICATING = "the VM does not replicate; it is told when it does"


# Changes


def on_settings_change(draft: Draft, change: SettingsChange) -> None:
    """Take a change, or say why not."""
    key = _key(change.scope, change.target)
    kept = draft.find(key, KeptSettings) or KeptSettings(change.scope, change.target)
    if change.change_id and change.change_id in kept.heard:
        return  # K1
    vm = _vm(draft, change.target) if change.scope is SettingsScope.VM else None
    before = kept.revision
    merged = merge_settings(before, change, draft.clusters(), vm.inventory if vm is not None else None)
    version = before.version if before is not None else 0
    refused = tuple(map(str, merged.findings))
    revision = SettingsRevision(
        scope=change.scope,
        target=change.target,
        version=version if refused or (before is not None and not merged.changed) else version + 1,  # K3, K4
        changed=merged.changed,
        actor=change.actor,
        reason=change.reason,
        at_ms=draft.now_ms,
        ticket=change.ticket,
        change_id=change.change_id,
        refused=refused,
        server=merged.server,
        replication=merged.replication,
        on_drift=merged.on_drift,
    )
    draft.tell(revision)
    if change.change_id:
        kept = replace(kept, heard=(*kept.heard, change.change_id)[-_CHANGES_REMEMBERED:])
    if refused:
        why = "; ".join(refused)
        vm_id = change.target if change.scope is SettingsScope.VM else ""
        draft.refuse(merged.findings[0].rule, vm_id, f"replication settings of {change.target}: {why}", by=change)
        draft.audit(change.target, "set replication settings", "refused", by=change, rule="K2", why=why)
        draft.keep(key, kept)
        return
    evidence = {name: text.strip() or "(default)" for name, text in change.changes.items() if name in merged.changed}
    rule = "K3" if revision.version == version else "K4"
    summary = {"rule": rule, "version": str(revision.version), **evidence}
    draft.audit(change.target, "set replication settings", "accepted", by=change, **summary)
    if rule == "K4":
        kept = replace(kept, revision=revision)
    _tell_all(draft, kept, anew=rule == "K4")


def _tell_all(draft: Draft, kept: KeptSettings, *, anew: bool) -> None:
    """Tell every node a new version (`anew`), or those again that are not in sync."""
    if anew:
        kept = replace(kept, nodes=tuple(replace(node, attempt=0) for node in kept.nodes))
    vm = _vm(draft, kept.target) if kept.scope is SettingsScope.VM else None
    if vm is not None:
        _place(draft, kept, vm, tell=anew or _out_of_sync(kept))
        return
    cluster = next((one for one in draft.clusters() if one.cluster == kept.target), None)
    known = {node.node: node for node in kept.nodes}
    turns = []
    if cluster is not None:  # else its nodes are told when they join (K11)
        for node in cluster.nodes:
            stands = known.get(node.name) or _new(node.name, cluster.site, draft.now_ms)
            if anew or stands.standing is not Standing.IN_SYNC:
                turns.append(_begin(kept, node, stands, draft.now_ms))
    _take(draft, kept, turns)


def _out_of_sync(kept: KeptSettings) -> bool:
    return any(node.standing is not Standing.IN_SYNC for node in kept.nodes)


def _new(name: str, site: str, now_ms: int) -> NodeSettings:
    return NodeSettings(name, site, Standing.APPLYING, now_ms)


def _begin(kept: KeptSettings, node: Node, stands: NodeSettings, now_ms: int) -> Turn:
    """Tell a node from the beginning, where it can be told at all."""
    if node.state is NodeState.DOWN:
        return away(stands, f"{node.name} is down", now_ms)
    server = kept.revision.server if kept.revision is not None else None
    unreachable = left_out(server, node.name) if server is not None else ""
    if unreachable:
        return fails(stands, "K9", unreachable, now_ms, again_ms=0)
    return told(stands, now_ms)


# What is heard of nodes


def on_settings_result(draft: Draft, result: StepResult) -> bool:
    """A site agent's answer; whether it is one to a command to apply settings."""
    if not result.run_id.startswith(RUN_PREFIX):
        return False
    scope = SettingsScope.VM if result.vm_id else SettingsScope.CLUSTER
    target, _, version = result.run_id.removeprefix(RUN_PREFIX).rpartition("/")
    kept = draft.find(_key(scope, target), KeptSettings)
    if kept is None or kept.revision is None or version != str(kept.revision.version):
        return True  # of an older version: the newest is out already
    for node in kept.nodes:
        mine = node.site == result.site and (scope is SettingsScope.VM or node.node == result.step)
        if mine and node.issued and node.attempt == result.attempt:
            _take(draft, kept, [answered(node, result, kept.revision.version, draft.now_ms)])
    return True


def on_settings_observed(draft: Draft, observed: SettingsObserved) -> None:
    """A site agent says what a node, or a VM, has. That it could not be asked says nothing about its settings."""
    scope = SettingsScope.VM if observed.vm_id else SettingsScope.CLUSTER
    kept = draft.find(_key(scope, observed.vm_id or observed.cluster), KeptSettings)
    found = observed.replication if observed.vm_id else observed.server
    if kept is None or kept.revision is None or found is None:
        return
    wanted = kept.revision.server or kept.revision.replication
    if wanted is None or type(wanted) is not type(found):
        return
    version, correct = kept.revision.version, kept.revision.on_drift is OnDrift.CORRECT
    for node in kept.nodes:
        if node.site != observed.site or (scope is SettingsScope.CLUSTER and node.node != observed.node):
            continue
        if scope is SettingsScope.VM and _in_hand(draft, kept.target):
            continue  # a run changes its replication, and what it has is looked at afterwards
        differs = settings_differences(wanted, found)
        turn = seen(node, differs, observed.observed_at_ms, version, draft.now_ms, correct=correct)
        if turn.node != node:
            _take(draft, kept, [turn])


def on_settings_time(draft: Draft, kept: KeptSettings) -> None:
    """The time of some of the nodes has come."""
    turns = []
    for node in kept.nodes:
        if not 0 < node.due_ms <= draft.now_ms:
            continue
        if kept.scope is SettingsScope.VM and not node.issued and _in_hand(draft, kept.target):
            turns.append(Turn(replace(node, due_ms=draft.now_ms + _RUN_IN_HAND_MS)))
        else:
            turns.append(looked_at(node, draft.now_ms))
    _take(draft, kept, turns)


# What nodes and VMs do


def follow_cluster(draft: Draft, before: ClusterInventory | None, cluster: ClusterInventory) -> None:
    """A cluster's inventory has come: nodes that join or are back are told, those that are down are away."""
    kept = draft.find(_key(SettingsScope.CLUSTER, cluster.cluster), KeptSettings)
    if kept is None or kept.revision is None:
        return
    known = {node.node: node for node in kept.nodes}
    was = {node.name: node.state for node in before.nodes} if before is not None else {}
    turns = []
    for node in cluster.nodes:
        stands = known.get(node.name)
        drained = was.get(node.name) is NodeState.PAUSED and node.state is NodeState.UP
        if stands is None:
            turns.append(_begin(kept, node, _new(node.name, cluster.site, draft.now_ms), draft.now_ms))  # K11
        elif node.state is NodeState.DOWN:
            if stands.standing is not Standing.AWAY:
                turns.append(away(stands, f"{node.name} is down", draft.now_ms))  # K10
        elif stands.standing is Standing.AWAY or drained:
            turns.append(_begin(kept, node, stands, draft.now_ms))
    _take(draft, kept, turns, nodes={node.name for node in cluster.nodes})


def follow_vm(draft: Draft, vm: VmState) -> None:
    """A VM is kept anew: where it is active now is where its settings are to be."""
    kept = draft.find(_key(SettingsScope.VM, vm.vm_id), KeptSettings)
    if kept is not None and kept.revision is not None and not vm.run_id:
        _place(draft, kept, vm)


def _place(draft: Draft, kept: KeptSettings, vm: VmState, *, tell: bool = False) -> None:
    """Tell a VM where it is active, if that is another site, or `tell` says so (K16). A run is let end first."""
    here = vm.at(vm.active_site)
    node = here.node if here is not None else ""
    before = kept.nodes[0] if kept.nodes else None
    # Within its site a VM takes its settings along.
    stands = replace(before or _new(node, vm.active_site, draft.now_ms), node=node, site=vm.active_site)
    tell = tell or before is None or before.site != vm.active_site or _waits(before)
    if vm.run_id:
        turn = waits(stands, draft.now_ms, _RUN_IN_HAND_MS)
    elif not node or not vm.replica_site:
        turn = away(stands, _NOT_REPLICATING, draft.now_ms)
    elif tell or stands.standing is Standing.AWAY:
        turn = told(stands, draft.now_ms)
    else:
        turn = Turn(stands)
    if tell or turn.node != before:
        _take(draft, kept, [turn])


def _waits(node: NodeSettings) -> bool:
    """Whether its first command waits for the end of a run."""
    return node.standing is Standing.APPLYING and not node.issued and not node.tries


def _in_hand(draft: Draft, vm_id: str) -> bool:
    vm = _vm(draft, vm_id)
    return vm is not None and bool(vm.run_id)


# What follows


def _take(draft: Draft, kept: KeptSettings, turns: Iterable[Turn], *, nodes: Collection[str] | None = None) -> None:
    """Keep what became of nodes, and tell it: commands, standings that are others now, the audit trail and people.

    `nodes` are all that the cluster has; None: as before.
    """
    key = _key(kept.scope, kept.target)
    stored = draft.find(key, KeptSettings)
    was = {node.node: _standing(stored, node) for node in stored.nodes} if stored is not None else {}
    after = {} if kept.scope is SettingsScope.VM else {node.node: node for node in kept.nodes}
    turns = list(turns)
    after |= {turn.node.node: turn.node for turn in turns}
    gone = [after.pop(name) for name in sorted(after) if nodes is not None and name not in nodes]  # K12
    kept = replace(kept, nodes=tuple(after[name] for name in sorted(after)))
    if kept != stored:
        draft.keep(key, kept)
    for node in gone:
        why = f"{node.node} is no longer a node of {kept.target}"
        draft.tell(_standing(kept, away(node, why, draft.now_ms).node))
    for node in kept.nodes:
        stands = _standing(kept, node)
        if stands != was.get(node.node):
            draft.tell(stands)
    for turn in turns:
        _say(draft, kept, turn)
        if turn.tell and kept.revision is not None:
            draft.tell(_command(kept.revision, turn.node, draft.now_ms))


def _say(draft: Draft, kept: KeptSettings, turn: Turn) -> None:
    name = f"node {turn.node.node} of cluster {kept.target}"
    if kept.scope is SettingsScope.VM:
        name = f"VM {kept.target} on {turn.node.node}"
    for said in turn.said:
        evidence = {"rule": said.rule, "node": turn.node.node, "detail": said.what}
        draft.audit(kept.target, "keep replication settings", said.outcome, by=None, actor=ACTOR, **evidence)
        if said.severity is not None:
            draft.tell(Alert(kept.target, said.severity, f"{name} {said.what}", draft.now_ms))


def _standing(kept: KeptSettings, node: NodeSettings) -> SettingsStanding:
    return SettingsStanding(
        scope=kept.scope,
        target=kept.target,
        node=node.node,
        standing=node.standing,
        version=kept.revision.version if kept.revision is not None else 0,
        applied=node.applied,
        since_ms=node.since_ms,
        detail=node.detail,
        evidence=dict(node.differs),
    )


def _command(revision: SettingsRevision, node: NodeSettings, now_ms: int) -> StepCommand:
    of_vm = revision.scope is SettingsScope.VM
    return StepCommand(
        run_id=f"{RUN_PREFIX}{revision.target}/{revision.version}",
        step=node.node,
        attempt=node.attempt,
        vm_id=revision.target if of_vm else "",
        site=node.site,
        node=node.node,
        epoch=revision.version,
        action=Action.APPLY_SETTINGS,
        issued_at_ms=now_ms,
        deadline_ms=now_ms + ANSWER_WITHIN_MS,
        key="" if of_vm else revision.target,
        server=revision.server,
        replication=revision.replication,
    )


def _key(scope: SettingsScope, target: str) -> str:
    return f"settings/{scope.lower()}/{target}"


def _vm(draft: Draft, vm_id: str) -> VmState | None:
    return draft.find(f"vm/{vm_id}", VmState)
