"""What a step that is done changes about the VM, and what is kept of what it found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rule_cases import (
    AT_REPLICA,
    FAILBACK,
    NOW,
    PLANNED,
    REFUSED,
    REPROTECT,
    STEPS,
    TEST,
    UNPLANNED,
    VM,
    answered,
    begun,
    up_to,
    word,
)
from simulator import PRIMARY, REPLICA, request

from failover_orch.domain.effects import take_effect
from failover_orch.domain.facts import FailoverKind, RequestAction
from failover_orch.domain.operators import say
from failover_orch.domain.records import Role, RouteCause, RunState
from failover_orch.domain.runs import Advance
from failover_orch.domain.terms import CommitPolicy, PointChoice, WantedPoint
from failover_orch.domain.workflows import WORKFLOWS, Effect, Step


@pytest.mark.parametrize(
    ("kind", "step", "cause", "active", "roles", "replica"),
    [
        (PLANNED, "P4", RouteCause.FAILOVER, REPLICA, {REPLICA: Role.PRIMARY, PRIMARY: Role.RETIRED}, ""),
        (PLANNED, "P5", RouteCause.REVERSED, REPLICA, {REPLICA: Role.PRIMARY, PRIMARY: Role.REPLICA}, PRIMARY),
        (UNPLANNED, "U3", RouteCause.FAILOVER, REPLICA, {REPLICA: Role.PRIMARY, PRIMARY: Role.RETIRED}, ""),
        (REPROTECT, "B5", RouteCause.REVERSED, REPLICA, {REPLICA: Role.PRIMARY, PRIMARY: Role.REPLICA}, PRIMARY),
        (FAILBACK, "P4", RouteCause.FAILOVER, PRIMARY, {PRIMARY: Role.PRIMARY, REPLICA: Role.RETIRED}, ""),
        (FAILBACK, "P5", RouteCause.REVERSED, PRIMARY, {PRIMARY: Role.PRIMARY, REPLICA: Role.REPLICA}, REPLICA),
    ],
)
def test_the_owner_changes_under_a_new_epoch(
    kind: FailoverKind, step: str, cause: RouteCause, active: str, roles: dict[str, Role], replica: str
) -> None:
    before = up_to(step, kind)
    advance = answered(before)
    (update,) = advance.routes
    assert (update.cause, update.epoch, update.run_id) == (cause, before.vm.epoch + 1, "r")
    assert {location.site: location.role for location in update.locations} == roles
    assert (advance.vm.active_site, advance.vm.replica_site) == (active, replica)
    assert advance.commands[-1].epoch == update.epoch


@pytest.mark.parametrize(("kind", "step"), STEPS)
def test_no_other_step_touches_the_route(kind: FailoverKind, step: Step) -> None:
    if step.effect is Effect.NONE and step.action is not None:
        before = up_to(step.number, kind)
        advance = answered(before)
        assert advance.routes == ()
        assert (advance.vm.active_site, advance.vm.replica_site) == (before.vm.active_site, before.vm.replica_site)
        assert advance.vm.epoch == before.vm.epoch


@pytest.mark.parametrize(("kind", "step"), [(kind, step) for kind, step in STEPS if step.effect is not Effect.NONE])
def test_an_effect_that_is_there_already_changes_nothing(kind: FailoverKind, step: Step) -> None:
    done = answered(up_to(step.number, kind))
    assert take_effect(done.run, done.vm, step, NOW, undone=False) == (done.vm, ())


def test_an_undo_of_what_took_no_effect_changes_nothing() -> None:
    step = WORKFLOWS[PLANNED].steps[WORKFLOWS[PLANNED].index("P4")]
    assert take_effect(up_to("P4").run, VM, step, NOW, undone=True) == (VM, ())


def test_where_the_old_primary_runs_again_it_is_the_primary() -> None:
    """The replica's end could not be taken back, but nothing was started there."""
    failed_over = answered(up_to("P4"))
    step = WORKFLOWS[PLANNED].steps[WORKFLOWS[PLANNED].index("P2")]
    vm, (back,) = take_effect(failed_over.run, failed_over.vm, step, NOW, undone=True)
    assert (vm.active_site, vm.replica_site, back.changed.site) == (PRIMARY, REPLICA, PRIMARY)
    assert {here.site: here.role for here in vm.locations} == {PRIMARY: Role.PRIMARY, REPLICA: Role.REPLICA}


def test_the_route_of_a_vm_whose_old_place_nobody_knows() -> None:
    advance = answered(up_to("U3", UNPLANNED, replace(VM, locations=(AT_REPLICA,))))
    assert [each.changed.role for each in advance.routes] == [Role.PRIMARY]
    assert advance.commands[-1].peer_node == ""


@pytest.mark.parametrize(
    ("kind", "step", "point", "loss_ms"),
    [
        (PLANNED, "P4", str(NOW - 9), 0),
        (FAILBACK, "P4", str(NOW - 9), 0),
        (UNPLANNED, "U3", str(NOW - 9), 9),
        (UNPLANNED, "U3", str(NOW + 9), 0),
        (UNPLANNED, "U3", "0", -1),
        (UNPLANNED, "U3", "", -1),
        (UNPLANNED, "U3", "yesterday", -1),
        (TEST, "T1", str(NOW - 9), -1),
    ],
)
def test_what_was_lost_is_the_age_of_the_recovery_point(
    kind: FailoverKind, step: str, point: str, loss_ms: int
) -> None:
    found = {"recovery_point_at_ms": point, "recovery_point": "rp-7"}
    run = answered(up_to(step, kind), observed=found).run
    assert (run.data_loss_ms, run.recovery_point) == (loss_ms, "rp-7")


@pytest.mark.parametrize(("kind", "step"), [(PLANNED, "P7"), (UNPLANNED, "U5"), (TEST, "T2"), (FAILBACK, "P7")])
def test_the_vm_serves_once_it_was_started(kind: FailoverKind, step: str) -> None:
    before = up_to(step, kind)
    assert before.run.serving_at_ms == 0
    assert answered(before, now_ms=NOW + 7).run.serving_at_ms == NOW + 7


@pytest.mark.parametrize(("kind", "step"), [(PLANNED, "P8"), (UNPLANNED, "U6"), (TEST, "T3"), (FAILBACK, "P8")])
def test_the_addresses_that_were_found_are_kept(kind: FailoverKind, step: str) -> None:
    found = {"addresses/nic-0": "10.20.0.11/24", "addresses/nic-1": "10.30.0.11/24", "power": "ON"}
    run = answered(up_to(step, kind), observed=found).run
    assert run.addresses == (("nic-0", "10.20.0.11/24"), ("nic-1", "10.30.0.11/24"))


def test_the_fence_is_kept_as_the_site_agent_gave_it() -> None:
    before = begun(request(UNPLANNED))
    assert answered(before, observed={"fence": "power is off"}).run.fence == "power is off"
    assert answered(before).run.fence == "as told"


def cancelled(advance: Advance) -> Advance:
    return say(advance.run, advance.vm, word(RequestAction.CANCEL, advance.run.request), NOW)


@pytest.mark.parametrize(("power", "undone"), [("ON", ["P2-undo"]), ("", ["P2-undo"]), ("OFF", [])])
def test_a_vm_that_was_off_before_the_run_is_not_started_by_its_undo(power: str, undone: list[str]) -> None:
    advance = answered(begun(request()), observed={"power": power})
    advance = cancelled(answered(advance))
    assert [command.step for command in advance.commands] == undone


def test_what_an_undo_finds_is_not_what_the_run_achieved() -> None:
    advance = answered(up_to("P4"), observed={"recovery_point": "rp-7"})
    advance = answered(advance, REFUSED)
    assert advance.commands[-1].step == "P4-undo"
    run = answered(advance, observed={"recovery_point": "rp-1"}).run
    assert (run.state, run.recovery_point, run.data_loss_ms) == (RunState.UNDOING, "rp-7", 0)


def test_what_a_run_had_achieved_counts_no_more_once_it_is_undone() -> None:
    asked = replace(request(UNPLANNED), commit=CommitPolicy.HOLD)
    advance = answered(up_to("U3", asked), observed={"recovery_point_at_ms": str(NOW - 9), "recovery_point": "rp-7"})
    assert (advance.run.data_loss_ms, advance.run.recovery_point) == (9, "rp-7")
    run = answered(cancelled(advance)).run
    assert (run.state, run.data_loss_ms, run.recovery_point) == (RunState.CANCELLED, -1, "")
    assert (run.serving_at_ms, run.addresses) == (0, ())


def test_while_another_point_is_tried_the_vm_stays_whose_it_is() -> None:
    """The failover is made again at once: nobody has to follow the VM there and back."""
    asked = replace(request(UNPLANNED), commit=CommitPolicy.HOLD)
    advance = up_to("U7", asked)
    another = word(RequestAction.TRY_ANOTHER, asked, point=WantedPoint(PointChoice.BEFORE, at_ms=1))
    advance = say(advance.run, advance.vm, another, NOW)
    routes = list(advance.routes)
    while not advance.run.waits_for:
        advance = answered(advance)
        routes += advance.routes
        assert advance.vm.active_site == REPLICA
    assert routes == []
    back = say(advance.run, advance.vm, word(RequestAction.ROLL_BACK, asked), NOW)
    assert answered(back).vm.active_site == PRIMARY
