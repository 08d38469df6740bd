"""The whole broker under whatever may befall it: steps that go wrong, cancels, doubled and swapped events, crashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator import ANSWER_MS, PRIMARY, REPLICA, Behaviour, Behaviours, World, check, inventory, report, request

from failover_orch.domain.draft import Fact
from failover_orch.domain.facts import FailoverKind, MoveKind, RequestAction, VmMoved
from failover_orch.domain.records import RunSnapshot, RunState, StepCommand
from failover_orch.domain.settings import RecoveryGroup, RecoveryPlan
from failover_orch.domain.state import PlanRun
from failover_orch.domain.workflows import WORKFLOWS

PLANNED, UNPLANNED = FailoverKind
CANCEL = RequestAction.CANCEL
DO, REFUSE = Behaviour.DO, Behaviour.REFUSE
STEPS = {
    kind: [step.number for step in workflow.steps] + [f"{step.number}-undo" for step in workflow.steps if step.undo]
    for kind, workflow in WORKFLOWS.items()
}
MOST_ATTEMPTS = max(step.attempts for workflow in WORKFLOWS.values() for step in workflow.steps)
FAULTS = [behaviour for behaviour in Behaviour if behaviour is not DO]

Noise = Sequence[tuple[int, str]]
"""Other things that happen to the VM: when, in milliseconds after the request, and what."""


def fail_over(
    kind: FailoverKind,
    behaviours: Behaviours,
    *,
    cancel_ms: int | None = None,
    noise: Noise = (),
    doubled: bool = False,
    swapped: bool = False,
    crashing: bool = False,
) -> World:
    """One VM's failover, from its request until everything has come to rest."""
    world = World(
        behaviours={"vm-1": behaviours},
        primary_alive=kind is PLANNED,
        doubled=doubled,
        swapped=swapped,
        crashing=crashing,
    )
    world.send(request(kind))
    if cancel_ms is not None:
        world.send(request(kind, CANCEL), after_ms=cancel_ms)
    for at_ms, fact in _facts(noise, world.now_ms):
        world.send(fact, after_ms=at_ms)
    world.run()
    return world


def _facts(noise: Noise, now_ms: int) -> Iterator[tuple[int, Fact]]:
    at = {PRIMARY: "p1", REPLICA: "d1"}
    other = {"p1": "p2", "p2": "p1", "d1": "d2", "d2": "d1"}
    for number, (at_ms, what) in enumerate(sorted(noise), 2):
        kind, _, site = what.partition(" ")
        if kind == "move":
            old, new = at[site], other[at[site]]
            at[site] = new
            yield at_ms, VmMoved("vm-1", site, new, MoveKind.LIVE, now_ms + at_ms, sequence=number)
            yield at_ms, VmMoved("vm-1", site, old, MoveKind.DEPARTED, now_ms + at_ms + 1, sequence=number)
        elif kind == "repeat":
            yield at_ms, VmMoved("vm-1", site, "p1" if site == PRIMARY else "d1", MoveKind.PLACED, 1, sequence=1)
        elif kind == "report":
            yield at_ms, report(site, now_ms + at_ms)
        else:
            yield at_ms, replace(inventory(), reported_at_ms=now_ms + at_ms)


NOISE = st.lists(
    st.tuples(
        st.integers(0, 12).map(lambda steps: steps * ANSWER_MS),
        st.sampled_from(
            [f"{what} {site}" for what in ("move", "repeat", "report", "tell") for site in (PRIMARY, REPLICA)]
        ),
    ),
    max_size=4,
    unique_by=lambda each: each[0],
)


def faults(kind: FailoverKind) -> st.SearchStrategy[Behaviours]:
    """What becomes of some steps' attempts."""
    return st.dictionaries(
        st.sampled_from(STEPS[kind]),
        st.lists(st.sampled_from(Behaviour), min_size=1, max_size=MOST_ATTEMPTS),
        max_size=4,
    )


KINDS = st.sampled_from(FailoverKind)
CANCELS = st.one_of(
    st.integers(0, 9).map(lambda steps: steps * ANSWER_MS + 5), st.integers(0, 200).map(lambda seconds: seconds * 1_000)
)


@pytest.mark.parametrize("kind", FailoverKind)
def test_where_nothing_goes_wrong_the_vm_ends_at_the_replica_with_its_addresses(kind: FailoverKind) -> None:
    world = fail_over(kind, {})
    check(world)
    ended, vm = world.ended(), world.vm()
    assert ended.state is RunState.SUCCEEDED
    assert ended.addresses == {"nic-0": "10.20.0.11/24"}
    assert ended.data_loss_ms == (0 if kind is PLANNED else 30_000)
    assert (vm.active_site, vm.replica_site) == ((REPLICA, PRIMARY) if kind is PLANNED else (REPLICA, ""))


@pytest.mark.parametrize("kind", FailoverKind)
@pytest.mark.parametrize("behaviour", FAULTS)
@pytest.mark.parametrize("attempts", [1, 2, MOST_ATTEMPTS])
def test_every_step_going_wrong_in_every_way(kind: FailoverKind, behaviour: Behaviour, attempts: int) -> None:
    forward = [step for step in STEPS[kind] if not step.endswith("-undo")]
    for step in forward:
        check(fail_over(kind, {step: [behaviour] * attempts}))


@pytest.mark.parametrize("kind", FailoverKind)
def test_a_cancel_at_every_step_with_every_step_or_undo_going_wrong_in_every_way(kind: FailoverKind) -> None:
    behaviours: list[Behaviours] = [{}] + [{step: [fault] * 5} for step in STEPS[kind] for fault in FAULTS]
    for step in range(len(WORKFLOWS[kind].steps) + 1):
        for behaviour in behaviours:
            check(fail_over(kind, behaviour, cancel_ms=step * ANSWER_MS + 5))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reversal_refused_with_every_undo_going_wrong_in_every_way(fault: Behaviour) -> None:
    for undo in ("P4-undo", "P3-undo", "P2-undo"):
        check(fail_over(PLANNED, {"P5": [REFUSE], undo: [fault] * 3}))


@settings(deadline=None)
@given(st.data(), KINDS, CANCELS)
def test_whatever_goes_wrong_and_whenever_it_is_cancelled(data: st.DataObject, kind: FailoverKind, cancel: int) -> None:
    behaviours = data.draw(faults(kind))
    world = fail_over(kind, behaviours, cancel_ms=cancel, noise=data.draw(NOISE))
    check(world)


@settings(deadline=None)
@given(st.data(), KINDS)
def test_every_event_doubled_or_swapped_with_its_neighbour_ends_the_same(
    data: st.DataObject, kind: FailoverKind
) -> None:
    behaviours, noise = data.draw(faults(kind)), data.draw(NOISE)
    plain = fail_over(kind, behaviours, noise=noise)
    for doubled, swapped in ((True, False), (False, True), (True, True)):
        world = fail_over(kind, behaviours, noise=noise, doubled=doubled, swapped=swapped)
        check(world)
        assert world.final() == plain.final()


@settings(deadline=None)
@given(st.data(), KINDS, st.none() | CANCELS)
def test_crashed_after_every_step_it_says_the_same(data: st.DataObject, kind: FailoverKind, cancel: int | None) -> None:
    behaviours, noise = data.draw(faults(kind)), data.draw(NOISE)
    plain = fail_over(kind, behaviours, cancel_ms=cancel, noise=noise)
    crashed = fail_over(kind, behaviours, cancel_ms=cancel, noise=noise, crashing=True)
    assert crashed.outputs == plain.outputs
    assert crashed.final() == plain.final()


# Lists and plans: several VMs, whose runs and the plan's lie on two partitions.

VMS = ("a", "b", "c", "d", "e")


def fail_over_plan(
    kind: FailoverKind,
    groups: Sequence[tuple[str, ...]],
    behaviours: dict[str, Behaviours],
    *,
    as_list: bool = False,
    cancel_ms: int | None = None,
    doubled: bool = False,
    swapped: bool = False,
    crashing: bool = False,
) -> World:
    world = World(
        VMS,
        behaviours,
        primary_alive=kind is PLANNED,
        partitions=2,
        doubled=doubled,
        swapped=swapped,
        crashing=crashing,
    )
    named = tuple(RecoveryGroup(f"g{number}", vm_ids) for number, vm_ids in enumerate(groups))
    world.send(RecoveryPlan("erp", "ERP", named))
    world.run()
    target = {"vms": groups[0]} if as_list else {"plan": "erp"}
    world.send(request(kind, **target))
    if cancel_ms is not None:
        world.send(request(kind, CANCEL, **target), after_ms=cancel_ms)
    world.run()
    return world


def check_plan(world: World, kind: FailoverKind, groups: Sequence[tuple[str, ...]], *, cancelled: bool) -> None:
    check(world)
    begun = [{vm for vm in group if _first_command(world, vm) is not None} for group in groups]
    ends = {each.vm_id: each for each in world.told(RunSnapshot) if each.vm_id and each.state.ended}
    for before, after in pairwise(groups):
        for vm in after:
            first = _first_command(world, vm)
            assert first is None or all(world.outputs.index(ends[other]) < first for other in before)
        if kind is PLANNED and any(ends[vm].state is not RunState.SUCCEEDED for vm in before if vm in ends):
            assert not begun[groups.index(after)]  # L3
    if kind is UNPLANNED and not cancelled:
        assert begun == [set(group) for group in groups]  # L4
    run = world.value("plan-run/r")
    assert isinstance(run, PlanRun)
    moved = sum(ends[vm].state is RunState.SUCCEEDED for group in groups for vm in group if vm in ends)
    if moved == sum(map(len, groups)):
        expected = RunState.SUCCEEDED
    elif run.cancelled_by:
        expected = RunState.CANCELLED
    else:
        expected = RunState.COMPLETED_WITH_ERRORS if moved else RunState.FAILED
    assert run.state is expected
    assert run.data_loss_ms == max((each.data_loss_ms for each in ends.values()), default=-1)


def _first_command(world: World, vm: str) -> int | None:
    return next((n for n, each in enumerate(world.outputs) if isinstance(each, StepCommand) and each.vm_id == vm), None)


@st.composite
def groupings(draw: st.DrawFn) -> tuple[tuple[str, ...], ...]:
    vms = draw(st.permutations(VMS))[: draw(st.integers(1, len(VMS)))]
    cuts = sorted(draw(st.sets(st.integers(1, len(VMS) - 1), max_size=2)))
    groups = [tuple(vms[start:end]) for start, end in zip([0, *cuts], [*cuts, len(VMS)], strict=True)]
    return tuple(group for group in groups if group)


def plan_faults(kind: FailoverKind) -> st.SearchStrategy[dict[str, Behaviours]]:
    return st.dictionaries(st.sampled_from(VMS), faults(kind), max_size=2)


@settings(max_examples=40, deadline=None)
@given(st.data(), KINDS, groupings(), st.none() | CANCELS)
def test_a_plan_keeps_the_order_of_its_groups_and_ends(
    data: st.DataObject, kind: FailoverKind, groups: tuple[tuple[str, ...], ...], cancel: int | None
) -> None:
    behaviours = data.draw(plan_faults(kind))
    world = fail_over_plan(kind, groups, behaviours, cancel_ms=cancel)
    check_plan(world, kind, groups, cancelled=cancel is not None)
    crashed = fail_over_plan(kind, groups, behaviours, cancel_ms=cancel, crashing=True)
    assert crashed.outputs == world.outputs


@settings(max_examples=25, deadline=None)
@given(st.data(), KINDS, groupings())
def test_a_plan_whose_events_are_doubled_or_swapped_ends_the_same(
    data: st.DataObject, kind: FailoverKind, groups: tuple[tuple[str, ...], ...]
) -> None:
    behaviours = data.draw(plan_faults(kind))
    plain = fail_over_plan(kind, groups, behaviours)
    for doubled, swapped in ((True, False), (False, True)):
        world = fail_over_plan(kind, groups, behaviours, doubled=doubled, swapped=swapped)
        check_plan(world, kind, groups, cancelled=False)
        assert world.final() == plain.final()


@pytest.mark.parametrize("kind", FailoverKind)
def test_a_list_fails_over_side_by_side(kind: FailoverKind) -> None:
    world = fail_over_plan(kind, [("a", "b", "c")], {}, as_list=True)
    check_plan(world, kind, [("a", "b", "c")], cancelled=False)
    assert world.ended().state is RunState.SUCCEEDED
    first = [_first_command(world, vm) for vm in "abc"]
    assert max(each or 0 for each in first) < world.outputs.index(world.ended("r/a"))


@pytest.mark.parametrize("step", range(10))
def test_a_plan_cancelled_while_its_first_group_moves_starts_no_other(step: int) -> None:
    groups = [("a", "b"), ("c",)]
    world = fail_over_plan(PLANNED, groups, {}, cancel_ms=step * ANSWER_MS + 5)
    check_plan(world, PLANNED, groups, cancelled=True)
    before_point_of_no_return = step < 4
    expected = RunState.CANCELLED if before_point_of_no_return else RunState.SUCCEEDED
    if step < 8:
        assert [world.ended(f"r/{vm}").state for vm in "ab"] == [expected, expected]
        assert _first_command(world, "c") is None
