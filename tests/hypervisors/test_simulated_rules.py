"""The simulated hypervisor's tables, and guests that boot: pure functions, no file."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.facts import MoveKind
from failover_orch.domain.inventory import Adapter, AdapterKind
from failover_orch.domain.records import Action
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses
from failover_orch.domain.transitions import NEEDS, TEST_COPY_STATE, TRANSITIONS
from failover_orch.errors import HypervisorError, StaleEpoch, StepFailed, StepRefused
from failover_orch.hypervisors import Power
from failover_orch.hypervisors.rules.actions import ALREADY, NOT_A_HYPERVISORS, decide
from failover_orch.hypervisors.rules.guest import booted, differences
from failover_orch.hypervisors.rules.looks import LOOKS
from failover_orch.hypervisors.rules.surroundings import Surroundings
from failover_orch.hypervisors.simulated import Configuration, End, EndAdapter, RecoveryPoint
from worlds import DR_ADDRESSES, NOW, command, make_vm

ONLY_LOOK = {Action.INSPECT, Action.CHECK_PRIMARY, *LOOKS}
TO_THE_COPY = {Action.START_TEST, Action.DELETE_TEST}
PRIMARY_ADDRESSES = Configuration(("10.10.0.21/24", "fd10::21/64"), ("10.10.0.1",), ("10.10.0.2",))


def adapter(name: str = "nic-1", *, connected: bool = True) -> EndAdapter:
    return EndAdapter(name, connected, PRIMARY_ADDRESSES, PRIMARY_ADDRESSES)


def make_end(
    mode: ReplicationMode = ReplicationMode.REPLICA,
    state: ReplicationState = ReplicationState.REPLICATING,
    power: Power = Power.OFF,
) -> End:
    site, node = ("primary", "p1") if mode is ReplicationMode.PRIMARY else ("dr", "d1")
    return End(
        "vm-1",
        site,
        f"{site}-cluster",
        node,
        "",
        mode,
        state,
        power,
        (adapter(),),
        MoveKind.PLACED,
        NOW,
        epoch=1,
        recovery_points=(RecoveryPoint("rp-1", NOW),),
        points_taken=1,
    )


def surroundings(peer: End | None = None) -> Surroundings:
    return Surroundings(make_vm().inventory, node_up=True, peer=peer)


def test_every_action_is_in_the_tables() -> None:
    changing = set(Action) - ONLY_LOOK - NOT_A_HYPERVISORS
    assert {transition.action for transition in TRANSITIONS} == changing == set(NEEDS) == set(ALREADY)
    assert len({transition.number for transition in TRANSITIONS}) == len(TRANSITIONS)


def test_no_two_transitions_compete() -> None:
    keys = [(t.action, t.mode, state) for t in TRANSITIONS for state in t.states]
    assert len(keys) == len(set(keys))


@given(
    st.sampled_from(Action),
    st.sampled_from([ReplicationMode.PRIMARY, ReplicationMode.REPLICA]),
    st.sampled_from(ReplicationState),
    st.sampled_from(Power),
    st.one_of(st.none(), st.sampled_from(ReplicationState)),
    st.booleans(),
    st.booleans(),
)
def test_an_action_is_done_only_as_the_table_says_and_then_it_is_so(
    action: Action,
    mode: ReplicationMode,
    state: ReplicationState,
    power: Power,
    peer_state: ReplicationState | None,
    link_up: bool,
    peer_runs: bool,
) -> None:
    end = make_end(mode, state, power)
    other = ReplicationMode.REPLICA if mode is ReplicationMode.PRIMARY else ReplicationMode.PRIMARY
    peer = make_end(other, peer_state, Power.RUNNING if peer_runs else Power.OFF) if peer_state else None
    asked = command(action, end.site, addresses=DR_ADDRESSES)
    try:
        change = decide(asked, end, replace(surroundings(peer), link_up=link_up), NOW)
    except HypervisorError:
        return
    if action in ONLY_LOOK:
        assert change.end == end
        assert not change.effect
        return
    if change.effect:
        place = (ReplicationMode.TEST_REPLICA, TEST_COPY_STATE) if action in TO_THE_COPY else (mode, state)
        legal = [t for t in TRANSITIONS if (t.action, t.mode) == (action, place[0]) and place[1] in t.states]
        assert len(legal) == 1
        assert change.end.state is (legal[0].then or state)
        assert change.end.mode is (legal[0].then_mode or mode)
    else:
        assert change.end == end
    # Whatever was done, asking again finds it done.
    again = decide(asked, change.end, replace(surroundings(change.peer or peer), link_up=link_up), NOW)
    assert not again.effect


@pytest.mark.parametrize("action", sorted(set(NEEDS) - TO_THE_COPY))
def test_a_refusal_names_the_state_and_what_would_make_it_legal(action: Action) -> None:
    power = Power.OFF if action is Action.START else Power.RUNNING
    state = ReplicationState.DISABLED
    end = replace(make_end(state=state, power=power), adapters=(adapter(connected=False),))
    with pytest.raises(StepRefused) as refused:
        decide(command(action, addresses=DR_ADDRESSES), end, surroundings(), NOW)
    assert str(refused.value).endswith(NEEDS[action])
    assert "Replica and Disabled (0), rule" in str(refused.value)


def test_reversing_towards_a_cluster_that_accepts_no_replicas_is_refused() -> None:
    end = make_end(state=ReplicationState.FAILED_OVER_WAITING_COMPLETION)
    peer = make_end(ReplicationMode.PRIMARY, ReplicationState.PREPARED)
    with pytest.raises(StepRefused, match="primary-cluster at primary does not accept replicas"):
        decide(command(Action.REVERSE), end, replace(surroundings(peer), peer_accepts=False), NOW)


def test_reversing_after_an_unplanned_failover_copies_anew() -> None:
    end = make_end(state=ReplicationState.FAILED_OVER)
    peer = replace(make_end(state=ReplicationState.WAITING_FOR_INITIAL_REPLICATION), site="primary", node="p1")
    change = decide(command(Action.REVERSE), end, surroundings(peer), NOW)
    assert (change.end.mode, change.end.state) == (
        ReplicationMode.PRIMARY,
        ReplicationState.READY_FOR_INITIAL_REPLICATION,
    )
    assert change.peer == replace(peer, epoch=5)


def test_reversing_before_completion_needs_a_prepared_primary() -> None:
    end = make_end(state=ReplicationState.FAILED_OVER_WAITING_COMPLETION)
    peer = make_end(ReplicationMode.PRIMARY, ReplicationState.REPLICATING)
    with pytest.raises(StepRefused, match="was not prepared"):
        decide(command(Action.REVERSE), end, surroundings(peer), NOW)


def test_the_other_ends_epoch_counts_where_it_is_changed() -> None:
    end = make_end(state=ReplicationState.FAILED_OVER_WAITING_COMPLETION)
    peer = replace(make_end(ReplicationMode.PRIMARY, ReplicationState.PREPARED), epoch=6)
    with pytest.raises(StaleEpoch, match="at primary has accepted epoch 6"):
        decide(command(Action.REVERSE, epoch=5), end, surroundings(peer), NOW)


def test_releasing_a_primary_whose_replica_is_failed_over_is_refused() -> None:
    end = make_end(ReplicationMode.PRIMARY, ReplicationState.PREPARED)
    peer = make_end(state=ReplicationState.FAILED_OVER_WAITING_COMPLETION)
    with pytest.raises(StepRefused, match="both could run"):
        decide(command(Action.CANCEL_PREPARE, "primary"), end, surroundings(peer), NOW)


def test_a_node_that_is_down_does_nothing() -> None:
    with pytest.raises(StepFailed, match="d1, which is DOWN"):
        decide(command(Action.FAIL_OVER), make_end(), replace(surroundings(), node_up=False), NOW)


# Guests


def test_a_family_that_is_not_staged_keeps_the_primarys() -> None:
    plan = AdapterAddresses("nic-1", ipv4=FamilyAddresses(addresses=("10.50.0.21/24",), gateways=("10.50.0.1",)))
    (after,) = booted(make_vm().inventory, (adapter(),), (plan,), {})
    assert after.configured == Configuration(("fd10::21/64", "10.50.0.21/24"), ("10.50.0.1",), ())
    assert differences(after, plan) == ()


@pytest.mark.parametrize("services", ["OUTDATED", "ABSENT", "UNKNOWN"])
def test_without_running_integration_services_nothing_is_applied(services: str) -> None:
    vm = make_vm(integration=services).inventory
    assert booted(vm, (adapter(),), DR_ADDRESSES, {}) == (adapter(),)
    running = replace(make_end(power=Power.RUNNING), state=ReplicationState.FAILED_OVER)
    with pytest.raises(StepRefused, match=services):
        decide(command(Action.VERIFY_ADDRESSES, addresses=DR_ADDRESSES), running, Surroundings(vm, node_up=True), NOW)


def test_a_legacy_adapter_keeps_the_primarys_and_cannot_be_staged() -> None:
    vm = make_vm("vm-1", Adapter("nic-1", AdapterKind.LEGACY, "00155d000001", "lan")).inventory
    assert booted(vm, (adapter(),), DR_ADDRESSES, {}) == (adapter(),)
    with pytest.raises(StepRefused, match="legacy"):
        decide(command(Action.STAGE_ADDRESSES, addresses=DR_ADDRESSES), make_end(), Surroundings(vm, node_up=True), NOW)


def test_a_dhcp_lease_needs_a_connected_adapter() -> None:
    plan = AdapterAddresses("nic-1", ipv4=FamilyAddresses(dhcp=True), ipv6=FamilyAddresses(dhcp=True))
    leases = {("nic-1", 4): "198.18.0.11/20", ("nic-1", 6): "fd00::b/64"}
    (leased,) = booted(make_vm().inventory, (adapter(),), (plan,), leases)
    assert leased.configured.addresses == ("198.18.0.11/20", "fd00::b/64")
    assert differences(leased, plan) == ()
    (without,) = booted(make_vm().inventory, (adapter(connected=False),), (plan,), leases)
    assert differences(without, plan) == ("is not connected", "has no IPv4 lease", "has no IPv6 lease")
