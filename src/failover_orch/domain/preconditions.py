"""What speaks against a failover before it starts. Every reason is found at once, each behind its rule's number.

| rule | planned | unplanned | refuses where |
| --- | --- | --- | --- |
| F1 | x | x | the VM is not known, or has no inventory yet |
| F2 | x | x | the VM has no replica: replication is disabled, or was failed over and not reversed |
| F3 | x | x | another run of the VM is in flight |
| F4 | x | x | nobody has said on which node the replica lives |
| F5 | x | x | the replica's node is down, or gone from its cluster |
| F6 | x |   | the replication is not in a state that a planned failover starts from |
| F7 | x |   | replication health is Critical: the replica is not a copy to rely on |
| F8 | x |   | the primary's cluster does not accept replicas: reversing would be impossible |
| F9 |   | x | the initial replication is not complete: there is no copy |
| F10 | x | x | the failover addresses were set for another site than the one where the replica is now |
| A… | x | x | the failover addresses cannot be applied (see `addresses`) |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from failover_orch.domain.addresses import failover_findings
from failover_orch.domain.facts import FailoverKind, FailoverRequested
from failover_orch.domain.inventory import ClusterInventory, NodeState, VmInventory
from failover_orch.domain.replication import ReplicationHealth, ReplicationState
from failover_orch.domain.state import VmState

__all__ = ["Refusal", "receiving_guests", "refusals"]

_BOTH = (FailoverKind.PLANNED, FailoverKind.UNPLANNED)
_PLANNED = (FailoverKind.PLANNED,)
_UNPLANNED = (FailoverKind.UNPLANNED,)
_PLANNED_FROM = (ReplicationState.REPLICATING, ReplicationState.PREPARED)
_NO_COPY = (ReplicationState.READY_FOR_INITIAL_REPLICATION, ReplicationState.WAITING_FOR_INITIAL_REPLICATION)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason why a failover does not start."""

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


@dataclass(frozen=True, slots=True)
class _Rule:
    number: str
    kinds: tuple[FailoverKind, ...]
    speaks: Callable[[_Case], str]
    """The reason as a sentence, or nothing."""


def refusals(
    vm: VmState | None, request: FailoverRequested, clusters: Sequence[ClusterInventory]
) -> tuple[Refusal, ...]:
    """Every reason why this failover must not start; none where it may."""
    if vm is None or vm.inventory is None:
        named = request.vm_id or "(no VM named)"
        return (Refusal("F1", f"VM {named} is not known: publish its inventory first"),)
    case = _Case(vm, vm.inventory, request, clusters)
    found = [Refusal(rule.number, why) for rule in _RULES if request.kind in rule.kinds and (why := rule.speaks(case))]
    extra = receiving_guests(vm, clusters)
    found += [Refusal(finding.rule, finding.message) for finding in failover_findings(vm.inventory, vm.settings, extra)]
    return tuple(found)


def receiving_guests(vm: VmState, clusters: Sequence[ClusterInventory]) -> tuple[str, ...]:
    """Guests that the cluster which holds the VM's replica supports beyond the built-in list.

    Where nobody has said which cluster that is, all clusters of its site count.
    """
    here = vm.at(vm.replica_site)
    named = here.cluster if here is not None else ""
    receiving = [cluster for cluster in clusters if cluster.site == vm.replica_site and named in ("", cluster.cluster)]
    return tuple(guest for cluster in receiving for guest in cluster.supported_guests)


def _no_replica(case: _Case) -> str:
    if _state(case) is ReplicationState.DISABLED:
        return "replication is not enabled for this VM"
    if not case.vm.replica_site:
        return "the VM has no replica: it was failed over and replication has not been reversed"
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
    state = _state(case)
    if state in _PLANNED_FROM or state is ReplicationState.DISABLED:
        return ""
    return f"replication is {state}; a planned failover starts from Replicating"


def _critical(case: _Case) -> str:
    if case.vm.health is not ReplicationHealth.CRITICAL:
        return ""
    reasons = "; ".join(reason for end in case.vm.ends for reason in end.reasons)
    return f"replication health is Critical ({reasons})"


def _cannot_reverse(case: _Case) -> str:
    here = case.vm.at(case.vm.active_site)
    # Where the VM is says more than its inventory, whose last word may be from before a failover.
    named = (here.cluster if here is not None else "") or case.inventory.replication.primary_cluster
    primary = next((cluster for cluster in case.clusters if cluster.cluster == named), None)
    if primary is not None and not primary.accepts_replicas:
        return f"cluster {primary.cluster} is not enabled as a replica server: replication could not be reversed"
    return ""


def _no_copy(case: _Case) -> str:
    return "the initial replication is not complete: there is no copy to start" if _state(case) in _NO_COPY else ""


def _other_direction(case: _Case) -> str:
    settings, site = case.vm.settings, case.vm.settings_site
    if settings is None or not settings.adapters or not site or case.vm.replica_site in ("", site):
        return ""
    # The VM would come up with the other site's addresses: each site's replica has settings of its own.
    return f"the failover addresses were set for site {site}: set those for site {case.vm.replica_site}"


def _state(case: _Case) -> ReplicationState:
    """The replication state as the active end last reported it."""
    active = next((end for end in case.vm.ends if end.site == case.vm.active_site), None)
    return active.state if active is not None else case.inventory.replication.state


_RULES = (
    _Rule("F2", _BOTH, _no_replica),
    _Rule("F3", _BOTH, _in_flight),
    _Rule("F4", _BOTH, _no_location),
    _Rule("F5", _BOTH, _node_down),
    _Rule("F6", _PLANNED, _wrong_state),
    _Rule("F7", _PLANNED, _critical),
    _Rule("F8", _PLANNED, _cannot_reverse),
    _Rule("F9", _UNPLANNED, _no_copy),
    _Rule("F10", _BOTH, _other_direction),
)
