"""What speaks against a failover before it starts: each rule, for each kind of failover."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rule_cases import AT_PRIMARY, AT_REPLICA, AWAY, FAILBACK, FOUND, LOST, NOW, PLANNED, REPROTECT, TEST, UNPLANNED, VM
from simulator import CLUSTERS, PRIMARY, REPLICA, TARGET, inventory, request

from failover_orch.domain import preconditions
from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.inventory import ClusterInventory, Guest, IntegrationServices, NodeState
from failover_orch.domain.policies import Limits
from failover_orch.domain.preconditions import (
    expected_loss_ms,
    goes_to,
    kept_by_policy,
    receiving_guests,
    refusals,
    retired_site,
    settings_for,
)
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.settings import UnsetAdapters, VmReplicationSettings
from failover_orch.domain.state import ReplicationEnd, VmState

KINDS = tuple(FailoverKind)
TO_THE_REPLICA = (PLANNED, UNPLANNED, TEST, FAILBACK)
WITHOUT_LOSS = (PLANNED, FAILBACK)
State = ReplicationState


def other_end(vm: VmState) -> str:
    return REPLICA if vm.active_site == PRIMARY else PRIMARY


def with_end(
    vm: VmState,
    state: State,
    site: str = "",
    *,
    mode: ReplicationMode = ReplicationMode.PRIMARY,
    last_ms: int = 1,
) -> VmState:
    """The VM as this end, by default the active one, reports it."""
    said = ReplicationEnd(
        site or vm.active_site, mode, state, ReplicationHealth.NORMAL, ("H1: so it is",), 1, last_ms, 0
    )
    return replace(vm, ends=(*vm.ends, said))


def as_inventory_says(vm: VmState, state: State) -> VmState:
    told = inventory()
    return replace(vm, inventory=replace(told, replication=replace(told.replication, state=state)))


def nodes(state: NodeState = NodeState.UP, *, known: bool = True) -> tuple[ClusterInventory, ...]:
    """Both clusters, all of whose nodes are so."""
    return tuple(
        replace(each, nodes=tuple(replace(node, state=state) for node in each.nodes) if known else ())
        for each in CLUSTERS
    )


def servers(*, accept: bool) -> tuple[ClusterInventory, ...]:
    return tuple(replace(each, accepts_replicas=accept) for each in CLUSTERS)


def found(
    kind: FailoverKind, vm: VmState | None, clusters: tuple[ClusterInventory, ...] = CLUSTERS, **differs: object
) -> dict[str, str]:
    asked = replace(request(kind), **differs)  # type: ignore[arg-type]  # any field may be named
    return {each.rule: each.why for each in refusals(vm, asked, clusters)}


def test_every_rule_is_in_the_table_of_the_docstring_for_the_kinds_that_it_says() -> None:
    letters = dict(zip("PUTRB", (PLANNED, UNPLANNED, TEST, REPROTECT, FAILBACK), strict=True))
    lines = [line for line in (preconditions.__doc__ or "").splitlines() if line.startswith("| F")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    said = {row[0]: {kind for mark, kind in zip(row[1:6], letters.values(), strict=True) if mark} for row in cells}
    assert said == {"F1": set(KINDS)} | {rule.number: set(rule.kinds) for rule in preconditions._RULES}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vm", [None, VmState("vm-1"), replace(VM, inventory=None)])
def test_f1_a_vm_that_nobody_has_described(kind: FailoverKind, vm: VmState | None) -> None:
    assert found(kind, vm) == {"F1": "VM vm-1 is not known: publish its inventory first"}


@pytest.mark.parametrize("kind", KINDS)
def test_f2_a_vm_that_does_not_replicate(kind: FailoverKind) -> None:
    vm = with_end(FOUND[kind], State.DISABLED)
    assert ("F2" in found(kind, vm)) == (kind in TO_THE_REPLICA)
    if kind in TO_THE_REPLICA:
        assert found(kind, vm) == {"F2": "replication is not enabled for this VM"}


@pytest.mark.parametrize("kind", KINDS)
def test_f2_a_vm_that_was_failed_over_and_not_reversed(kind: FailoverKind) -> None:
    against = found(kind, replace(LOST, home_site=REPLICA if kind is not FAILBACK else PRIMARY))
    assert ("F2" in against) == (kind in TO_THE_REPLICA)
    assert kind is REPROTECT or "reprotect it first" in against["F2"]


@pytest.mark.parametrize("kind", KINDS)
def test_f3_another_run_is_in_flight(kind: FailoverKind) -> None:
    assert found(kind, replace(FOUND[kind], run_id="other")) == {"F3": "run other of this VM is in flight"}


@pytest.mark.parametrize("kind", KINDS)
def test_f3_a_test_is_not_in_the_way_of_a_real_failover(kind: FailoverKind) -> None:
    assert set(found(kind, replace(FOUND[kind], test_run_id="other"))) == ({"F13"} if kind is TEST else set())


@pytest.mark.parametrize("kind", KINDS)
def test_f4_nobody_knows_where_the_replica_is(kind: FailoverKind) -> None:
    vm = FOUND[kind]
    vm = replace(vm, locations=tuple(here for here in vm.locations if here.site == vm.active_site))
    expected = {"F4"} if kind in TO_THE_REPLICA else {"F11"}
    assert set(found(kind, vm)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_f5_the_replicas_node_is_down_or_gone(kind: FailoverKind) -> None:
    for clusters in (nodes(NodeState.DOWN), nodes(known=False)):
        assert set(found(kind, FOUND[kind], clusters)) == ({"F5"} if kind in TO_THE_REPLICA else set())
    assert found(kind, FOUND[kind], nodes(NodeState.PAUSED)) == {}


STARTS_FROM = {
    PLANNED: {State.REPLICATING, State.PREPARED},
    FAILBACK: {State.REPLICATING, State.PREPARED},
    TEST: {State.REPLICATING, State.SUSPENDED, State.ERROR},
    UNPLANNED: set(State),
    REPROTECT: set(State),
}


@pytest.mark.parametrize("state", set(State) - {State.DISABLED})
@pytest.mark.parametrize("kind", KINDS)
def test_f6_replication_is_in_no_state_to_start_from(kind: FailoverKind, state: State) -> None:
    for vm in (with_end(FOUND[kind], state), as_inventory_says(FOUND[kind], state)):
        against = found(kind, vm)
        assert ("F6" in against) == (state not in STARTS_FROM[kind])
        if "F6" in against:
            assert f"replication is {state} ({state.number})" in against["F6"]
            assert against["F6"].endswith(" first")
            assert "Replicating (3)" in against["F6"]


@pytest.mark.parametrize("kind", KINDS)
def test_f6_the_other_ends_word_on_the_state_does_not_count(kind: FailoverKind) -> None:
    vm = FOUND[kind]
    assert found(kind, with_end(vm, State.RESYNCHRONIZING, other_end(vm), mode=ReplicationMode.REPLICA)) == {}
    assert found(kind, with_end(vm, State.RESYNCHRONIZING, mode=ReplicationMode.NONE)) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_f7_the_replica_is_no_copy_to_rely_on(kind: FailoverKind) -> None:
    vm = replace(with_end(FOUND[kind], State.REPLICATING), health=ReplicationHealth.CRITICAL)
    expected = {"F7": "replication health is Critical (H1: so it is)"} if kind in WITHOUT_LOSS else {}
    assert found(kind, vm) == expected
    assert found(kind, replace(vm, health=ReplicationHealth.WARNING)) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_f8_replication_could_not_be_reversed(kind: FailoverKind) -> None:
    against = found(kind, FOUND[kind], servers(accept=False))
    assert set(against) == ({"F8"} if kind in (*WITHOUT_LOSS, REPROTECT) else set())
    if against:
        cluster = {PLANNED: "pc", FAILBACK: "dc", REPROTECT: "pc"}[kind]
        assert against["F8"].startswith(f"cluster {cluster} is not enabled as a replica server")


def test_f8_asks_about_the_cluster_where_the_vm_is_now() -> None:
    """After a failover the inventory may still speak of the old primary's cluster."""
    only_dr = tuple(replace(each, accepts_replicas=each.cluster == "dc") for each in CLUSTERS)
    assert found(FAILBACK, AWAY, only_dr) == {}
    unnamed = replace(VM, locations=(AT_REPLICA, replace(AT_PRIMARY, cluster="")))
    assert set(found(PLANNED, unnamed, servers(accept=False))) == {"F8"}


@pytest.mark.parametrize("state", [State.READY_FOR_INITIAL_REPLICATION, State.WAITING_FOR_INITIAL_REPLICATION])
@pytest.mark.parametrize("kind", KINDS)
def test_f9_there_is_no_copy_yet(kind: FailoverKind, state: State) -> None:
    against = found(kind, with_end(FOUND[kind], state))
    assert ("F9" in against) == (kind in (UNPLANNED, TEST))


@pytest.mark.parametrize("kind", KINDS)
def test_f10_the_vm_is_at_home_already(kind: FailoverKind) -> None:
    vm = replace(FOUND[kind], home_site=FOUND[kind].active_site)
    against = found(kind, vm)
    assert set(against) == ({"F10"} if kind is FAILBACK else set())
    assert kind is not FAILBACK or against["F10"].startswith(f"the VM is at home at {REPLICA} already")


def test_f11_there_is_nothing_to_reprotect() -> None:
    assert found(REPROTECT, VM) == {"F11": "the VM replicates to dr already"}
    unreported = replace(LOST, locations=LOST.locations[:1])
    assert found(REPROTECT, unreported) == {"F11": "no site holds a copy that a failover has retired"}
    assert found(REPROTECT, LOST) == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("last_ms", "limit_ms", "accepted", "why"),
    [
        (NOW - 61_000, 60_000, False, "61 s would be lost, and the limit is 60 s"),
        (NOW - 60_000, 60_000, False, ""),
        (NOW - 61_000, 60_000, True, ""),
        (NOW - 61_000, 0, False, ""),
        (0, 60_000, False, "nobody knows how much would be lost"),
        (0, 0, False, ""),
    ],
)
def test_f12_more_would_be_lost_than_the_limits_allow(
    kind: FailoverKind, last_ms: int, limit_ms: int, accepted: bool, why: str
) -> None:
    vm = FOUND[kind]
    vm = with_end(vm, State.REPLICATING, vm.replica_site, mode=ReplicationMode.REPLICA, last_ms=last_ms)
    asked = replace(request(kind), accept_data_loss=accepted)
    against = refusals(vm, asked, CLUSTERS, Limits(max_data_loss_ms=limit_ms), NOW)
    assert [each.rule for each in against] == (["F12"] if why and kind is UNPLANNED else [])
    assert all(why in each.why for each in against)


def test_f12_where_no_end_has_reported_nobody_knows() -> None:
    assert expected_loss_ms(VM, NOW) == -1
    against = refusals(VM, request(UNPLANNED), CLUSTERS, Limits(max_data_loss_ms=1), NOW)
    assert [each.rule for each in against] == ["F12"]


@pytest.mark.parametrize("kind", KINDS)
def test_f13_a_test_copy_is_there_already(kind: FailoverKind) -> None:
    vm = replace(FOUND[kind], test_run_id="drill")
    expected = {"F13": "test failover drill of this VM is in flight: end it first"} if kind is TEST else {}
    assert found(kind, vm) == expected


# Addresses


@pytest.mark.parametrize("kind", KINDS)
def test_addresses_that_are_missing_refuse_all_but_a_test_and_a_reprotection(kind: FailoverKind) -> None:
    against = found(kind, replace(FOUND[kind], settings=None))
    assert set(against) == ({"A14"} if kind in (PLANNED, UNPLANNED, FAILBACK) else set())


@pytest.mark.parametrize(("kind", "refused"), [(PLANNED, False), (UNPLANNED, False), (FAILBACK, True)])
def test_the_way_home_needs_the_addresses_of_home(kind: FailoverKind, refused: bool) -> None:
    """Those that were set for the replica's site would be wrong there."""
    vm = replace(FOUND[kind], settings=VmReplicationSettings("vm-1", (TARGET,)))
    assert set(found(kind, vm)) == ({"A15"} if refused else set())
    assert found(kind, replace(vm, settings=VmReplicationSettings("vm-1", (TARGET,), home_adapters=(TARGET,)))) == {}


def test_each_site_has_addresses_of_its_own() -> None:
    home, test = replace(TARGET, ipv4=None), replace(TARGET, adapter_id="nic-7")
    settings = VmReplicationSettings("vm-1", (TARGET,), home_adapters=(home,), test_adapters=(test,))
    there, back = replace(VM, settings=settings), replace(AWAY, settings=settings)
    chosen = [settings_for(vm, kind) for vm, kind in ((there, PLANNED), (there, TEST), (back, FAILBACK), (back, TEST))]
    assert [each.adapters for each in chosen if each] == [(TARGET,), (test,), (home,), (test,)]
    assert [each.unset_adapters for each in chosen if each][1] is UnsetAdapters.KEEP
    assert settings_for(replace(VM, settings=None), PLANNED) is None


def test_test_addresses_that_cannot_be_applied_refuse_the_test() -> None:
    legacy = replace(inventory(), guest=Guest("solaris-11", IntegrationServices.RUNNING))
    settings = VmReplicationSettings("vm-1", (TARGET,), test_adapters=(TARGET,))
    assert set(found(TEST, replace(VM, inventory=legacy, settings=settings))) == {"A12"}
    assert found(TEST, replace(VM, inventory=legacy)) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_policy_keeps_is_named(kind: FailoverKind) -> None:
    vm = replace(FOUND[kind], settings=VmReplicationSettings("vm-1", (), UnsetAdapters.KEEP))
    assert kept_by_policy(vm, kind) == (("nic-0",) if kind in (PLANNED, UNPLANNED, FAILBACK) else ())
    assert kept_by_policy(VmState("vm-1"), kind) == ()


def test_only_the_receiving_cluster_adds_to_the_supported_guests() -> None:
    primary, dr = CLUSTERS
    extended = (
        replace(primary, supported_guests=("plan9",)),
        replace(dr, supported_guests=("freebsd-14",)),
        replace(dr, cluster="dc-2", supported_guests=("haiku",)),
    )
    assert receiving_guests(VM, extended) == ("freebsd-14",)
    assert receiving_guests(replace(VM, locations=()), extended) == ("freebsd-14", "haiku")
    for system, rules in (("freebsd-14", set()), ("plan9", {"A12"})):
        vm = replace(VM, inventory=replace(inventory(), guest=Guest(system, IntegrationServices.RUNNING)))
        assert set(found(PLANNED, vm, extended)) == rules


# All of it


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_speaks_against_a_good_one(kind: FailoverKind) -> None:
    for vm in (FOUND[kind], with_end(FOUND[kind], State.REPLICATING)):
        assert found(kind, vm) == {}
        assert found(kind, vm, ()) == {}


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_goes_to_the_other_end(kind: FailoverKind) -> None:
    assert goes_to(FOUND[kind], kind) == other_end(FOUND[kind])
    assert retired_site(FOUND[kind]) == (PRIMARY if kind is REPROTECT else "")


def test_every_reason_is_found_at_once() -> None:
    vm = replace(with_end(VM, State.ERROR), run_id="other", locations=(AT_PRIMARY,), health=ReplicationHealth.CRITICAL)
    against = refusals(vm, request(), servers(accept=False))
    assert [each.rule for each in against] == ["F3", "F4", "F6", "F7", "F8"]
    assert str(against[0]) == "F3: run other of this VM is in flight"
