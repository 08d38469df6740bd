"""What the read model makes of records: the highest epoch, the latest of everything else, and answers to questions."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.contract import Codec, key_of, topic_of
from failover_orch.domain import (
    AutomaticMode,
    Brake,
    ClusterInventory,
    FailoverKind,
    Guest,
    HealthChange,
    Location,
    Node,
    NodeState,
    Policy,
    PolicyScope,
    Readiness,
    RecoveryGroup,
    RecoveryPlan,
    Replication,
    ReplicationHealth,
    ReplicationState,
    Role,
    RouteCause,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    Storage,
    VmInventory,
)
from failover_orch.errors import LookupFailed
from failover_orch.service import (
    ReadModel,
    as_of,
    brake_view,
    limits_of_plan,
    limits_of_site,
    limits_of_vm,
    placement_view,
    plan_view,
    readiness_list,
    run_view,
    vm_list,
    vm_view,
    what_to_do,
)
from failover_orch.wire import Received


def route(vm_id: str, epoch: int = 1, node: str = "p1", replica: str = "d1", name: str = "") -> RoutingUpdate:
    here = Location("primary", node, Role.PRIMARY, 1_000 + epoch)
    there = Location("dr", replica, Role.REPLICA, 900, cluster="dr-c", storage="/csv/1")
    locations = (there, here) if replica else (here,)
    return RoutingUpdate(vm_id, epoch, RouteCause.LIVE, here, "", locations, 1_000 + epoch, name=name)


def inventory(vm_id: str, name: str, application: str = "erp", group: str = "") -> VmInventory:
    replication = Replication(ReplicationState.REPLICATING, "primary", "dr")
    return VmInventory(
        vm_id,
        name,
        (),
        Guest("debian-12"),
        replication,
        memory_mib=1024,
        storage_gib=10,
        application=application,
        anti_affinity=group,
    )


def run(run_id: str, vm_id: str, state: RunState, started_at_ms: int = 5, parent: str = "") -> RunSnapshot:
    return RunSnapshot(
        run_id, FailoverKind.PLANNED, state, vm_id, (), "alice", "test", started_at_ms, 0, parent_run_id=parent
    )


def received(value: object, offset: int = 0, timestamp_ms: int = 1) -> Received:
    return Received(topic_of(value), 0, offset, key_of(value), Codec().encode(value), (), timestamp_ms)


def model_of(*values: object) -> ReadModel:
    model = ReadModel()
    for value in values:
        model.apply(value)
    return model


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9), st.sampled_from("xyz"))))
def test_the_highest_epoch_wins_in_whatever_order(arrivals: list[tuple[str, int, str]]) -> None:
    model = model_of(*(route(vm_id, epoch, node) for vm_id, epoch, node in arrivals))
    for vm_id in {vm_id for vm_id, _, _ in arrivals}:
        best = max(epoch for other, epoch, _ in arrivals if other == vm_id)
        first = next(node for other, epoch, node in arrivals if (other, epoch) == (vm_id, best))
        vm = model.vm(vm_id)
        assert (vm.epoch, vm.locations[0].node) == (best, first)


def test_the_same_records_once_more_change_nothing() -> None:
    values = [
        route("v1", 2),
        inventory("v1", "erp-db"),
        run("r1", "v1", RunState.RUNNING),
        run("r1", "v1", RunState.SUCCEEDED),
        run("r2", "v1", RunState.UNDOING),
    ]
    once, twice = model_of(*values), model_of(*values, *values)
    assert once.vms() == twice.vms()
    assert once.runs() == twice.runs()
    assert once.vm("v1").run == run("r2", "v1", RunState.UNDOING)


def test_an_ended_run_is_in_flight_no_longer() -> None:
    model = model_of(route("v1"), run("r1", "v1", RunState.RUNNING))
    assert model.vm("v1").run is not None
    # A request that was refused because of r1 ends at once, and must not hide it.
    model.apply(run("r2", "v1", RunState.REFUSED))
    assert model.vm("v1").run == run("r1", "v1", RunState.RUNNING)
    model.apply(run("r1", "v1", RunState.SUCCEEDED))
    assert model.vm("v1").run is None


def test_the_end_of_an_older_run_does_not_hide_the_one_in_flight() -> None:
    # They stand in partitions of their own, which are not read in step with each other.
    later = run("r2", "v1", RunState.PARKED, started_at_ms=9)
    model = model_of(route("v1"), later, run("r1", "v1", RunState.RUNNING))
    assert model.vm("v1").run == later
    model.apply(run("r1", "v1", RunState.SUCCEEDED))
    assert model.vm("v1").run == later


def test_a_test_runs_beside_and_what_awaits_approval_has_not_begun() -> None:
    test = replace(run("t1", "v1", RunState.AWAITING_COMMIT, started_at_ms=9), kind=FailoverKind.TEST)
    model = model_of(route("v1"), run("r1", "v1", RunState.AWAITING_APPROVAL), test)
    vm = model.vm("v1")
    assert (vm.run, vm.test_run) == (None, test)
    model.apply(run("r1", "v1", RunState.RUNNING))
    vm = model.vm("v1")
    assert (vm.run, vm.test_run) == (run("r1", "v1", RunState.RUNNING), test)


def test_a_run_that_waits_for_a_person_is_found_once() -> None:
    def waiting(run_id: str, vm_id: str, state: RunState, parent: str = "") -> RunSnapshot:
        return replace(run(run_id, vm_id, state, parent=parent), waits_for="alice has to say")

    model = model_of(
        waiting("p", "", RunState.AWAITING_COMMIT),
        waiting("p/v1", "v1", RunState.AWAITING_COMMIT, "p"),
        waiting("p/v2", "v2", RunState.PARKED, "p"),
        waiting("q/v3", "v3", RunState.AWAITING_COMMIT, "q"),  # whose plan's run is not known
        run("r", "v4", RunState.RUNNING),
        waiting("s", "v5", RunState.SUCCEEDED),
    )
    assert [found.run_id for found in model.runs(waiting=True)] == ["p", "p/v2", "q/v3"]
    model.apply(replace(run("p", "", RunState.FAILED)))
    assert [found.run_id for found in model.runs(waiting=True)] == ["p/v1", "p/v2", "q/v3"]


def test_policies_and_the_brake_are_the_latest_in_whatever_order_partitions_are_read() -> None:
    old, new = (Policy(PolicyScope.SITE, "dr", rpo_ms=ms, set_at_ms=ms) for ms in (1, 2))
    engaged, released = Brake(True, "failover_orch", "20 runs", 5), Brake(False, "bob", "understood", 6)
    own = Policy(PolicyScope.VM, "v1", mode=AutomaticMode.ACT)
    model = model_of(own, new, released, old, engaged, Policy(PolicyScope.ALL))
    assert list(model.policies()) == ["all", "site/dr", "vm/v1"]
    assert model.policies()["site/dr"] == new
    assert model.brake() == released
    assert brake_view(model).engaged is False
    model.take([replace(received(own), value=None), replace(received(new), value=None)], Codec())
    assert list(model.policies()) == ["all"]
    assert ReadModel().brake() is None


def test_limits_come_from_the_narrowest_policy_that_states_them() -> None:
    plans = [RecoveryPlan(name, name, (RecoveryGroup("g", ("v1",)),)) for name in ("b", "a")]
    model = model_of(
        route("v1"),
        *plans,
        Policy(PolicyScope.ALL, observers=3, hold_down_ms=1, rpo_ms=1),
        Policy(PolicyScope.SITE, "primary", hold_down_ms=2, rpo_ms=2),
        Policy(PolicyScope.SITE, "dr", cooldown_ms=9),
        Policy(PolicyScope.PLAN, "a", rpo_ms=3),
    )
    vm = model.vm("v1")
    assert (vm.plan_ids, vm.active_site) == (("a", "b"), "primary")
    view = limits_of_vm(model, vm)
    assert view.policies == ("all", "site/primary", "plan/a")
    found = {limit.name: (limit.value, limit.source) for limit in view.limits}
    assert found["observers"] == (3, "all")
    assert found["hold_down_ms"] == (2, "site/primary")
    assert found["rpo_ms"] == (3, "plan/a")
    assert found["cooldown_ms"] == (3_600_000, "default")
    own = {limit.name: limit.source for limit in limits_of_plan(model, plans[0]).limits}
    assert (own["hold_down_ms"], own["rpo_ms"]) == ("all", "all")
    assert {limit.name: limit.value for limit in limits_of_site(model, "dr").limits}["cooldown_ms"] == 9
    model.take([replace(received(plans[1]), value=None)], Codec())
    assert model.vm("v1").plan_ids == ("b",)


def test_readiness_of_a_plan_and_of_a_vm_of_the_same_name_are_told_apart() -> None:
    def standing(vm_id: str, readiness: Readiness, *defects: str, plan_id: str = "") -> HealthChange:
        health = ReplicationHealth.NORMAL
        return HealthChange(vm_id, health, health, (), 9, readiness, Readiness.UNKNOWN, defects, plan_id=plan_id)

    model = model_of(
        inventory("v1", "erp"),
        RecoveryPlan("v1", "ERP", (RecoveryGroup("g", ("v1", "v7")),)),
        standing("v1", Readiness.AT_RISK, "D5: no room"),
        standing("", Readiness.NOT_READY, "v7: UNKNOWN", plan_id="v1"),
    )
    assert model.vm("v1").readiness is Readiness.AT_RISK
    (plan, vm) = readiness_list(model).standing
    assert (plan.kind, plan.readiness) == ("plan", Readiness.NOT_READY)
    assert (vm.kind, vm.defects[0].what) == ("vm", "D5: no room")
    members = plan_view(model, model.plan("ERP")).members
    assert [(one.id, one.readiness) for one in members] == [("v1", Readiness.AT_RISK), ("v7", Readiness.UNKNOWN)]
    assert members[1].defects[0].what == "its inventory is not known"


@pytest.mark.parametrize(
    ("defect", "answer"),
    [
        ("D1: F5: the replica's node d1 is down", "bring the node up again"),
        ("D2: F8: cluster p-c is not enabled", "enable the cluster as a replica server"),
        ("D1: A7: adapter nic0 has no IPv4", "vm set-address"),
        ("D6: no test failover has ever succeeded", "failover-orch failover test"),
        ("something new", ""),
    ],
)
def test_every_defect_has_what_to_do_about_it(defect: str, answer: str) -> None:
    assert answer in what_to_do(defect)
    assert bool(what_to_do(defect)) == bool(answer)


def test_whatever_is_found_there_is_something_to_do_about_it() -> None:
    weighing = importlib.import_module("failover_orch.domain.readiness")
    refusing = importlib.import_module("failover_orch.domain.preconditions")
    defects = {row.split(" ")[1] for row in str(weighing.__doc__).splitlines() if row.startswith("| D")}
    # Of planned and unplanned failovers: no other kind is weighed.
    refusals = {row.split(" ")[1] for row in str(refusing.__doc__).splitlines() if re.match(r"\| F\d+ \|.*x.*\|", row)}
    weighed = refusals - {*weighing._PASSING, "F10", "F11", "F13"}
    assert len(weighed) == 7
    assert [rule for rule in defects - {"D1", "D2"} if not what_to_do(f"{rule}: x")] == []
    assert [rule for rule in weighed if not what_to_do(f"D1: {rule}: x")] == []


def test_a_vm_is_found_by_id_and_by_name() -> None:
    model = model_of(inventory("v1", "erp-db"), route("v1"), route("v2", name="erp-web"), inventory("v3", "v2"))
    assert model.vm("v1") == model.vm("ERP-DB")
    assert model.vm("erp-web").vm_id == "v2"
    assert model.vm("v2").vm_id == "v2"  # an id comes before a name


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("twin", "2 VMs are called 'twin': say which by its id: v1, v2"),
        ("erp-bd", "no VM 'erp-bd' is known; did you mean erp-db?"),
        ("zzz", "no VM 'zzz' is known"),
    ],
)
def test_a_vm_that_cannot_be_told_is_not_guessed(asked: str, answer: str) -> None:
    model = model_of(inventory("v1", "twin"), inventory("v2", "Twin"), inventory("v3", "erp-db"))
    with pytest.raises(LookupFailed, match=f"^{answer.replace('?', '[?]')}$"):
        model.vm(asked)


def test_an_empty_model_says_that_nothing_was_reported() -> None:
    with pytest.raises(LookupFailed, match="none has been reported yet"):
        ReadModel().vm("v1")
    assert as_of(ReadModel()) is None


def test_vms_are_filtered_by_place_and_application() -> None:
    model = model_of(
        route("v1", node="p1", replica="d1"),
        route("v2", node="p2", replica=""),
        inventory("v1", "b", "erp"),
        inventory("v2", "a", "mail"),
        inventory("v3", "c", "mail"),
    )

    def names(**filters: str) -> list[str]:
        return [vm.name for vm in model.vms(**filters)]

    assert names() == ["a", "b", "c"]
    assert names(site="dr") == ["b"]
    assert names(site="primary") == ["a", "b"]
    assert names(node="p2") == ["a"]
    assert names(site="dr", node="p1") == []  # one place must satisfy both
    assert names(application="mail") == ["a", "c"]


def test_runs_are_newest_first_and_found_by_their_beginning() -> None:
    model = model_of(
        run("run-aa", "", RunState.RUNNING, 7),
        run("run-aa/v1", "v1", RunState.RUNNING, 8, parent="run-aa"),
        run("run-ab", "v2", RunState.SUCCEEDED, 3),
    )
    assert [found.run_id for found in model.runs()] == ["run-aa/v1", "run-aa", "run-ab"]
    assert [found.run_id for found in model.runs(parent_run_id="")] == ["run-aa", "run-ab"]
    assert [found.run_id for found in model.runs(state="SUCCEEDED")] == ["run-ab"]
    assert [found.run_id for found in model.runs(vm_id="v1")] == ["run-aa/v1"]
    assert model.run("run-ab").vm_id == "v2"
    with pytest.raises(LookupFailed, match="2 runs begin with 'run-a': run-aa, run-ab"):
        model.run("run-a")
    with pytest.raises(LookupFailed, match="no run 'run-c' is known; did you mean"):
        model.run("run-c")
    assert [member.run_id for member in run_view(model, model.run("run-aa")).members] == ["run-aa/v1"]


def test_a_plan_is_found_by_id_and_by_name() -> None:
    plan = RecoveryPlan("plan-1", "ERP first", (RecoveryGroup("db", ("v1",)),))
    model = model_of(plan)
    assert model.plan("plan-1") == model.plan("erp FIRST") == plan
    with pytest.raises(LookupFailed, match="no recovery plan"):
        model.plan("plan-2")


def test_health_is_shown_with_its_reasons() -> None:
    change = HealthChange("v1", ReplicationHealth.WARNING, ReplicationHealth.NORMAL, ("H2: 1 of 3 missed",), 9)
    model = model_of(route("v1"), change)
    assert vm_view(model, model.vm("v1")).health == change
    (summary,) = vm_list(model, model.vms()).vms
    assert (summary.health, summary.node, summary.replica_node) == ("Warning", "p1", "d1")


def node(name: str, free_mib: int = 60_000) -> Node:
    return Node(name, NodeState.UP, 64_000, free_mib, 16, (Storage("/csv/1", 1_000, 900),))


def test_placement_says_where_a_replica_lives_or_would_go() -> None:
    cluster = ClusterInventory("dr-c", "dr", "dr-broker", (node("d1"), node("d2")), reported_at_ms=2)
    older = replace(cluster, nodes=(), reported_at_ms=1)
    # v2 of the same group has its replica on d1, so v3's goes to d2: the model tells `place` who lives where.
    model = model_of(
        cluster, older, inventory("v2", "b", group="g"), route("v2"), inventory("v3", "c", group="g"), route("v4")
    )
    lives = placement_view(model, model.vm("v2")).placement
    assert (lives.existing, lives.node, lives.storage) == (True, "d1", "/csv/1")
    goes = placement_view(model, model.vm("v3")).placement
    assert (goes.existing, goes.node, goes.storage) == (False, "d2", "/csv/1")
    with pytest.raises(LookupFailed, match="its inventory is not known"):
        model.placement(model.vm("v4"))


def test_records_from_kafka_are_decoded_counted_and_dated(caplog: pytest.LogCaptureFixture) -> None:
    model = ReadModel()
    good = received(route("v1"), timestamp_ms=1_700_000_000_123)
    bad = replace(good, value=b"\x00rubbish", offset=7, timestamp_ms=1_600_000_000_000)
    model.take([good, bad], Codec())
    assert model.vm("v1").epoch == 1
    assert model.skipped == 1
    assert as_of(model) == "2023-11-14T22:13:20.123Z"
    assert "record skipped" in caplog.text


def test_a_tombstone_forgets() -> None:
    model = ReadModel()
    kept = received(inventory("v1", "erp-db"))
    model.take([kept, received(route("v1"))], Codec())
    model.take([replace(received(route("v1")), value=None)], Codec())
    assert model.vm("v1").route is None
    model.take([replace(kept, value=None)], Codec())
    with pytest.raises(LookupFailed):
        model.vm("v1")
