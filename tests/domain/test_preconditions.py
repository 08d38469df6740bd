"""What speaks against a failover before it starts: each rule, for both kinds of failover."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulator import CLUSTERS, PRIMARY, REPLICA, TARGET, inventory, request

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.inventory import ClusterInventory, Guest, IntegrationServices, NodeState
from failover_orch.domain.preconditions import receiving_guests, refusals
from failover_orch.domain.records import Location, Role
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.settings import VmReplicationSettings
from failover_orch.domain.state import ReplicationEnd, VmState

PLANNED, UNPLANNED = FailoverKind
BOTH, ONLY_PLANNED, ONLY_UNPLANNED = {PLANNED, UNPLANNED}, {PLANNED}, {UNPLANNED}
State = ReplicationState
ACTIVE = Location(PRIMARY, "p1", Role.PRIMARY, 1, "pc")
COPY = Location(REPLICA, "d1", Role.REPLICA, 1, "dc")
VM = VmState(
    "vm-1",
    inventory=inventory(),
    settings=VmReplicationSettings("vm-1", (TARGET,)),
    settings_site=REPLICA,
    locations=(COPY, ACTIVE),
    active_site=PRIMARY,
    replica_site=REPLICA,
)


def end(state: State, site: str = PRIMARY, health: ReplicationHealth = ReplicationHealth.NORMAL) -> VmState:
    """The VM as this end reports it."""
    mode = ReplicationMode.PRIMARY if site == PRIMARY else ReplicationMode.REPLICA
    return replace(VM, ends=(ReplicationEnd(site, mode, state, health, ("H1: so it is",), 1, 1, 0),))


def reported(state: State) -> VmState:
    """The VM as its inventory alone describes it."""
    told = inventory()
    return replace(VM, inventory=replace(told, replication=replace(told.replication, state=state)))


def clusters(node: NodeState = NodeState.UP, *, accepts: bool = True, nodes: int = 1) -> tuple[ClusterInventory, ...]:
    primary, dr = CLUSTERS
    return replace(primary, accepts_replicas=accepts), replace(dr, nodes=(replace(dr.nodes[0], state=node),) * nodes)


@pytest.mark.parametrize(
    ("rule", "kinds", "vm", "known", "why"),
    [
        ("F1", BOTH, None, CLUSTERS, "VM vm-1 is not known"),
        ("F1", BOTH, VmState("vm-1"), CLUSTERS, "publish its inventory first"),
        ("F2", BOTH, end(State.DISABLED), CLUSTERS, "replication is not enabled"),
        ("F2", BOTH, replace(VM, replica_site=""), CLUSTERS, "replication has not been reversed"),
        ("F3", BOTH, replace(VM, run_id="other"), CLUSTERS, "run other of this VM is in flight"),
        ("F4", BOTH, replace(VM, locations=(ACTIVE,)), CLUSTERS, "no node of site dr has reported"),
        ("F5", BOTH, VM, clusters(NodeState.DOWN), "node d1 is down"),
        ("F5", BOTH, VM, clusters(nodes=0), "d1 is not in the inventory of site dr"),
        ("F6", ONLY_PLANNED, end(State.SUSPENDED), CLUSTERS, "replication is Suspended"),
        ("F6", ONLY_PLANNED, reported(State.ERROR), CLUSTERS, "replication is Error"),
        ("F7", ONLY_PLANNED, replace(VM, health=ReplicationHealth.CRITICAL), CLUSTERS, "Critical"),
        ("F8", ONLY_PLANNED, VM, clusters(accepts=False), "cluster pc is not enabled as a replica server"),
        ("F9", ONLY_UNPLANNED, end(State.WAITING_FOR_INITIAL_REPLICATION), CLUSTERS, "no copy to start"),
        ("F10", BOTH, replace(VM, settings_site=PRIMARY), CLUSTERS, "set for site primary: set those for site dr"),
        ("A14", BOTH, replace(VM, settings=None), CLUSTERS, "no failover TCP/IP settings"),
    ],
)
def test_a_rule_refuses(
    rule: str,
    kinds: set[FailoverKind],
    vm: VmState | None,
    known: tuple[ClusterInventory, ...],
    why: str,
) -> None:
    for kind in FailoverKind:
        found = {refusal.rule: refusal.why for refusal in refusals(vm, request(kind), known)}
        assert (rule in found) == (kind in kinds)
        assert kind not in kinds or why in found[rule]
        if rule not in ("F6", "F9"):  # the states of the one are among those of the other
            assert set(found) <= {rule}


@pytest.mark.parametrize("kind", FailoverKind)
@pytest.mark.parametrize(
    "vm",
    [
        VM,
        end(State.REPLICATING),
        end(State.PREPARED),
        # The other end's word on the state does not count, nor a node that is only paused.
        end(State.ERROR, REPLICA),
        replace(VM, settings_site=""),
    ],
)
def test_nothing_speaks_against_a_good_one(kind: FailoverKind, vm: VmState) -> None:
    assert refusals(vm, request(kind), clusters(NodeState.PAUSED)) == ()
    assert refusals(vm, request(kind), ()) == ()


@pytest.mark.parametrize("state", [State.SUSPENDED, State.ERROR, State.RESYNCHRONIZING])
def test_f6_an_unplanned_failover_takes_what_there_is(state: State) -> None:
    assert refusals(end(state), request(UNPLANNED), CLUSTERS) == ()


def test_every_reason_is_found_at_once() -> None:
    vm = replace(end(State.ERROR), run_id="other", locations=(ACTIVE,), health=ReplicationHealth.CRITICAL)
    assert [each.rule for each in refusals(vm, request(), clusters(accepts=False))] == ["F3", "F4", "F6", "F7", "F8"]
    assert str(refusals(vm, request(), CLUSTERS)[0]) == "F3: run other of this VM is in flight"


def test_f8_asks_about_the_cluster_where_the_vm_is_now() -> None:
    """After a failover the inventory may still speak of the old primary's cluster."""
    back = replace(VM, active_site=REPLICA, replica_site=PRIMARY, settings_site=PRIMARY)
    assert refusals(back, request(), clusters(accepts=False)) == ()
    unnamed = replace(VM, locations=(COPY, replace(ACTIVE, cluster="")))
    assert [each.rule for each in refusals(unnamed, request(), clusters(accepts=False))] == ["F8"]


def test_only_the_receiving_cluster_adds_to_the_supported_guests() -> None:
    primary, dr = CLUSTERS
    extended = (
        replace(primary, supported_guests=("plan9",)),
        replace(dr, supported_guests=("freebsd-14",)),
        replace(dr, cluster="dc-2", supported_guests=("haiku",)),
    )
    assert receiving_guests(VM, extended) == ("freebsd-14",)
    assert receiving_guests(replace(VM, locations=()), extended) == ("freebsd-14", "haiku")
    for system, rules in (("freebsd-14", []), ("plan9", ["A12"])):
        vm = replace(VM, inventory=replace(inventory(), guest=Guest(system, IntegrationServices.RUNNING)))
        assert [each.rule for each in refusals(vm, request(), extended)] == rules
