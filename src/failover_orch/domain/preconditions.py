"""What speaks against a run before it starts. Every reason is found at once, each behind its rule's number.

P planned failover, U unplanned failover, T test failover, R reprotection, B failback.

| rule | P | U | T | R | B | refuses where |
| --- | --- | --- | --- | --- | --- | --- |
| F1 | x | x | x | x | x | the VM is not known, or has no inventory yet |
| F2 | x | x | x |   | x | the VM has no replica: replication is disabled, or was failed over and not reversed |
| F3 | x | x | x | x | x | another run of the VM is in flight |
| F4 | x | x | x |   | x | nobody has said on which node the replica lives |
| F5 | x | x | x |   | x | the replica's node is down, or gone from its cluster |
| F6 | x |   | x |   | x | the replication is not in a state that this starts from |
| F7 | x |   |   |   | x | replication health is Critical: the replica is not a copy to rely on |
| F8 | x |   |   | x | x | the other site's cluster does not accept replicas: reversing would be impossible |
| F9 |   | x | x |   |   | the initial replication is not complete: there is no copy |
| F10 |   |   |   |   | x | the VM is at home already |
| F11 |   |   |   | x |   | nothing is to be reprotected: the VM was not failed over, or replicates already |
| F12 |   | x |   |   |   | more would be lost than the limits allow, and nobody has accepted that |
| F13 |   |   | x |   |   | a test copy of this VM is there already |
| A… | x | x | x |   | x | the addresses of that site, or of the test copy, cannot be applied (see `addresses`) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from failover_orch.domain.addresses import failover_findings, kept_adapters
from failover_orch.domain.facts import FailoverKind, FailoverRequested
from failover_orch.domain.inventory import ClusterInventory, NodeState, VmInventory
from failover_orch.domain.policies import DEFAULT_LIMITS, Limits
from failover_orch.domain.records import Location, Role
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.settings import UnsetAdapters, VmReplicationSettings
from failover_orch.domain.state import ReplicationEnd, VmState

__all__ = [
    "Refusal",
    "expected_loss_ms",
    "goes_to",
    "kept_by_policy",
    "receiving_guests",
    "refusals",
    "retired_site",
    "settings_for",
]

_PLANNED, _UNPLANNED, _TEST, _REPROTECT, _FAILBACK = FailoverKind
_ALL = tuple(FailoverKind)
_TO_THE_REPLICA = (_PLANNED, _UNPLANNED, _TEST, _FAILBACK)
_WITHOUT_LOSS = (_PLANNED, _FAILBACK)

_STARTS_FROM: Mapping[FailoverKind, tuple[ReplicationState, ...]] = {
    _PLANNED: (ReplicationState.REPLICATING, ReplicationState.PREPARED),
    _FAILBACK: (ReplicationState.REPLICATING, ReplicationState.PREPARED),
    _TEST: (ReplicationState.REPLICATING, ReplicationState.SUSPENDED, ReplicationState.ERROR),
}
_NO_COPY = (ReplicationState.READY_FOR_INITIAL_REPLICATION, ReplicationState.WAITING_FOR_INITIAL_REPLICATION)
_WAY_OUT: Mapping[ReplicationState, str] = {
    ReplicationState.READY_FOR_INITIAL_REPLICATION: "start the initial replication and let it finish",
    ReplicationState.WAITING_FOR_INITIAL_REPLICATION: "let the initial replication finish",
    ReplicationState.PREPARED: "cancel the preparation at the primary",
    ReplicationState.FAILED_OVER_WAITING_COMPLETION: "commit or cancel the failover that was begun",
    ReplicationState.FAILED_OVER: "reprotect the VM",
    ReplicationState.SUSPENDED: "resume its replication",
    ReplicationState.ERROR: "resume its replication, or resynchronise it",
    ReplicationState.WAITING_FOR_RESYNCHRONIZE: "resynchronise it",
    ReplicationState.RESYNCHRONIZING: "let the resynchronisation finish",
    ReplicationState.RESYNCHRONIZE_SUSPENDED: "resume the resynchronisation",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason why a run does not start."""

    rule: str
    why: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.why}"


@dataclass(frozen=True, slots=True)
class _Case:
    """What the rules look at."""

    vm: VmState
    inventory: VmInventory
    request: FailoverRequested
    clusters: Sequence[ClusterInventory]
    limits: Limits
    now_ms: int


@dataclass(frozen=True, slots=True)
class _Rule:
    number: str
    kinds: tuple[FailoverKind, ...]
    speaks: Callable[[_Case], str]
    """The reason as a sentence, or nothing."""


def refusals(
    vm: VmState | None,
    request: FailoverRequested,
    clusters: Sequence[ClusterInventory],
    limits: Limits = DEFAULT_LIMITS,
    now_ms: int = 0,
) -> tuple[Refusal, ...]:
    """Every reason why this run must not start; none where it may."""
    if vm is None or vm.inventory is None:
        named = request.vm_id or "(no VM named)"
        return (Refusal("F1", f"VM {named} is not known: publish its inventory first"),)
    case = _Case(vm, vm.inventory, request, clusters, limits, now_ms)
    found = [Refusal(rule.number, why) for rule in _RULES if request.kind in rule.kinds and (why := rule.speaks(case))]
    if request.kind is not _REPROTECT:
        extra = receiving_guests(vm, clusters)
        settings = settings_for(vm, request.kind)
        findings = failover_findings(vm.inventory, settings, extra) if _readdressed(request, settings) else ()
        found += [Refusal(finding.rule, finding.message) for finding in findings]
    return tuple(found)


def settings_for(vm: VmState, kind: FailoverKind) -> VmReplicationSettings | None:
    """The VM's address settings as they count for such a run: `adapters` are those of the site it goes to.

    A test copy keeps whatever has no test address: its network is isolated.
    """
    settings = vm.settings
    if settings is None:
        return None
    if kind is _TEST:
        return replace(settings, adapters=settings.test_adapters, unset_adapters=UnsetAdapters.KEEP)
    if vm.home_site and vm.replica_site == vm.home_site:
        return replace(settings, adapters=settings.home_adapters)
    return settings


def kept_by_policy(vm: VmState, kind: FailoverKind) -> tuple[str, ...]:
    """The adapters that come up with the configuration they have, because the VM's settings say so."""
    if vm.inventory is None or kind in (_TEST, _REPROTECT):
        return ()
    return kept_adapters(vm.inventory, settings_for(vm, kind))


def goes_to(vm: VmState, kind: FailoverKind) -> str:
    """The site at the other end of such a run: where the VM, its copy or its replica will be."""
    return retired_site(vm) if kind is _REPROTECT else vm.replica_site


def retired_site(vm: VmState) -> str:
    """The site that holds the copy which a failover has retired; empty where there is none."""
    return next((location.site for location in vm.locations if location.role is Role.RETIRED), "")


def expected_loss_ms(vm: VmState, now_ms: int) -> int:
    """What an unplanned failover would lose now: the time since the replica last received; -1 where nobody knows."""
    end = _end(vm, vm.replica_site)
    if end is None or not end.last_replication_at_ms:
        return -1
    return max(0, now_ms - end.last_replication_at_ms)


def receiving_guests(vm: VmState, clusters: Sequence[ClusterInventory]) -> tuple[str, ...]:
    """Guests that the cluster which holds the VM's replica supports beyond the built-in list.

    Where nobody has said which cluster that is, all clusters of its site count.
    """
    here = vm.at(vm.replica_site)
    named = here.cluster if here is not None else ""
    receiving = [cluster for cluster in clusters if cluster.site == vm.replica_site and named in ("", cluster.cluster)]
    return tuple(guest for cluster in receiving for guest in cluster.supported_guests)


def _readdressed(request: FailoverRequested, settings: VmReplicationSettings | None) -> bool:
    """Whether addresses have a say: a test copy without test addresses is none of the address rules' business."""
    return request.kind is not _TEST or (settings is not None and bool(settings.adapters))


def _no_replica(case: _Case) -> str:
    if _state(case) is ReplicationState.DISABLED:
        return "replication is not enabled for this VM"
    if not case.vm.replica_site:
        return "the VM has no replica: it was failed over and replication has not been reversed; reprotect it first"
    return ""


def _in_flight(case: _Case) -> str:
    return f"run {case.vm.run_id} of this VM is in flight" if case.vm.run_id else ""


def _no_location(case: _Case) -> str:
    if case.vm.replica_site and case.vm.at(case.vm.replica_site) is None:
        return f"no node of site {case.vm.replica_site} has reported this VM's replica"
    return ""


def _node_down(case: _Case) -> str:
    here = case.vm.at(case.vm.replica_site)
    if here is None:
        return ""
    there = [cluster for cluster in case.clusters if cluster.site == here.site]
    node = next((node for cluster in there for node in cluster.nodes if node.name == here.node), None)
    if node is not None and node.state is NodeState.DOWN:
        return f"the replica's node {here.node} is down"
    if node is None and there:
        return f"the replica's node {here.node} is not in the inventory of site {here.site}"
    return ""


def _wrong_state(case: _Case) -> str:
    state, kind = _state(case), case.request.kind
    allowed = _STARTS_FROM[kind]
    if state in allowed or state is ReplicationState.DISABLED:
        return ""
    starts = " or ".join(f"{each} ({each.number})" for each in allowed)
    what = f"replication is {state} ({state.number}); a {kind.noun} starts from {starts}"
    return f"{what}: {_WAY_OUT[state]} first"


def _critical(case: _Case) -> str:
    if case.vm.health is not ReplicationHealth.CRITICAL:
        return ""
    reasons = "; ".join(reason for end in case.vm.counted_ends for reason in end.reasons)
    return f"replication health is Critical ({reasons})"


def _cannot_reverse(case: _Case) -> str:
    target = retired_site(case.vm) if case.request.kind is _REPROTECT else case.vm.active_site
    here = case.vm.at(target)
    # Where the VM is says more than its inventory, whose last word may be from before a failover.
    named = (here.cluster if here is not None else "") or case.inventory.replication.primary_cluster
    cluster = next((each for each in case.clusters if each.cluster == named), None)
    if cluster is not None and not cluster.accepts_replicas:
        return f"cluster {cluster.cluster} is not enabled as a replica server: replication could not be reversed"
    return ""


def _no_copy(case: _Case) -> str:
    return "the initial replication is not complete: there is no copy to start" if _state(case) in _NO_COPY else ""


def _at_home(case: _Case) -> str:
    if case.vm.active_site != case.vm.home_site:
        return ""
    return f"the VM is at home at {case.vm.home_site} already: use a planned failover to move it away"


def _nothing_to_reprotect(case: _Case) -> str:
    if case.vm.replica_site:
        return f"the VM replicates to {case.vm.replica_site} already"
    if _retired(case) is None:
        return "no site holds a copy that a failover has retired"
    return ""


def _too_much_lost(case: _Case) -> str:
    limit = case.limits.max_data_loss_ms
    if not limit or case.request.accept_data_loss:
        return ""
    loss = expected_loss_ms(case.vm, case.now_ms)
    if loss < 0:
        return (
            f"nobody knows how much would be lost, and the limit is {limit / 1000:g} s: accept the data loss, or wait"
        )
    if loss <= limit:
        return ""
    return f"{loss / 1000:.0f} s would be lost, and the limit is {limit / 1000:g} s: accept the data loss, or wait"


def _tested_already(case: _Case) -> str:
    running = case.vm.test_run_id
    return f"test failover {running} of this VM is in flight: end it first" if running else ""


def _retired(case: _Case) -> Location | None:
    return case.vm.at(retired_site(case.vm))


def _end(vm: VmState, site: str) -> ReplicationEnd | None:
    return next((end for end in vm.ends if end.site == site), None)


def _state(case: _Case) -> ReplicationState:
    """The replication state as the active end last reported it."""
    active = _end(case.vm, case.vm.active_site)
    if active is not None and active.mode is not ReplicationMode.NONE:
        return active.state
    return case.inventory.replication.state


_RULES = (
    _Rule("F2", _TO_THE_REPLICA, _no_replica),
    _Rule("F3", _ALL, _in_flight),
    _Rule("F4", _TO_THE_REPLICA, _no_location),
    _Rule("F5", _TO_THE_REPLICA, _node_down),
    _Rule("F6", (*_WITHOUT_LOSS, _TEST), _wrong_state),
    _Rule("F7", _WITHOUT_LOSS, _critical),
    _Rule("F8", (*_WITHOUT_LOSS, _REPROTECT), _cannot_reverse),
    _Rule("F9", (_UNPLANNED, _TEST), _no_copy),
    _Rule("F10", (_FAILBACK,), _at_home),
    _Rule("F11", (_REPROTECT,), _nothing_to_reprotect),
    _Rule("F12", (_UNPLANNED,), _too_much_lost),
    _Rule("F13", (_TEST,), _tested_already),
)
