"""The whole broker under whatever may befall it: steps that go wrong, cancels, doubled and swapped events, crashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator import (
    ANSWER_MS,
    PRIMARY,
    REPLICA,
    START_MS,
    Behaviour,
    Behaviours,
    World,
    check,
    inventory,
    report,
    request,
)

from failover_orch.domain.draft import Fact
from failover_orch.domain.facts import FailoverKind, FailoverRequested, MoveKind, RequestAction, VmMoved
from failover_orch.domain.plan_graph import dependencies
from failover_orch.domain.policies import ApprovalRule, AutomaticMode, Evidence, Policy, PolicyScope, Verdict
from failover_orch.domain.records import (
    Action,
    JournalEntry,
    RunSnapshot,
    RunState,
    StepCommand,
    StepProgress,
    StepState,
)
from failover_orch.domain.settings import Gate, GateKind, PlanAction, PlanActionKind, RecoveryGroup, RecoveryPlan
from failover_orch.domain.state import PlanRun, Run
from failover_orch.domain.terms import CommitPolicy, OnTaskFailure, PointChoice, WantedPoint
from failover_orch.domain.workflows import WORKFLOWS

PLANNED, UNPLANNED, TEST, REPROTECT, FAILBACK = FailoverKind
CANCEL = RequestAction.CANCEL
DO, REFUSE = Behaviour.DO, Behaviour.REFUSE
COMMANDED = {
    kind: [step.number for step in workflow.steps if step.action]
    + [f"{step.number}-undo" for step in workflow.steps if step.undo]
    for kind, workflow in WORKFLOWS.items()
}
MOST_ATTEMPTS = 5
"""Of every step but the wait for replication, which is tried for hours."""
FAULTS = [behaviour for behaviour in Behaviour if behaviour is not DO]
BEFORE = {REPROTECT: UNPLANNED, FAILBACK: PLANNED}
"""What has to have happened before a run of this kind can begin."""

Noise = Sequence[tuple[int, str]]
"""Other things that happen to the VM: when, in milliseconds after the request, and what."""


def world_for(
    kind: FailoverKind, behaviours: Behaviours, *, doubled: bool = False, swapped: bool = False, crashing: bool = False
) -> World:
    """A world in which a run of this kind can begin."""
    before = BEFORE.get(kind)
    world = World(
        behaviours={"vm-1": behaviours},
        primary_alive=kind is not UNPLANNED and before is not UNPLANNED,
        doubled=doubled,
        swapped=swapped,
        crashing=crashing,
    )
    if before is not None:
        world.behave({})
        world.send(request(before, run_id="before"))
        world.run()
        world.behave({"vm-1": behaviours})
    return world


def fail_over(
    kind: FailoverKind,
    behaviours: Behaviours,
    *,
    words: Sequence[tuple[int, FailoverRequested]] = (),
    noise: Noise = (),
    doubled: bool = False,
    swapped: bool = False,
    crashing: bool = False,
    **terms: object,
) -> World:
    """One VM's run, from its request until everything has come to rest. `words`: what people say, and when."""
    world = world_for(kind, behaviours, doubled=doubled, swapped=swapped, crashing=crashing)
    world.send(request(kind, **terms))  # type: ignore[arg-type]  # any field of a request
    for after_ms, word in words:
        world.send(word, after_ms=after_ms)
    for at_ms, fact in _facts(noise, world.now_ms):
        world.send(fact, after_ms=at_ms)
    world.run()
    return world


def cancelled_at(kind: FailoverKind, after_ms: int) -> list[tuple[int, FailoverRequested]]:
    return [(after_ms, request(kind, CANCEL))]


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
        st.sampled_from(COMMANDED[kind]),
        st.lists(st.sampled_from(Behaviour), min_size=1, max_size=MOST_ATTEMPTS),
        max_size=4,
    )


KINDS = st.sampled_from(FailoverKind)
MOMENTS = st.one_of(
    st.integers(0, 9).map(lambda steps: steps * ANSWER_MS + 5), st.integers(0, 200).map(lambda seconds: seconds * 1_000)
)
WORDS = st.lists(
    st.tuples(
        st.integers(0, 600).map(lambda seconds: seconds * 1_000 + 7),
        st.sampled_from(
            [action for action in RequestAction if action not in (RequestAction.REQUEST, RequestAction.ACKNOWLEDGE)]
        ),
    ),
    max_size=4,
)
COMMITS = st.sampled_from(CommitPolicy)


@pytest.mark.parametrize("kind", FailoverKind)
def test_where_nothing_goes_wrong_the_run_succeeds(kind: FailoverKind) -> None:
    world = fail_over(kind, {})
    check(world)
    ended, vm = world.ended(), world.vm()
    address, loss_ms, places = {
        PLANNED: ("10.20.0.11/24", 0, (REPLICA, PRIMARY)),
        UNPLANNED: ("10.20.0.11/24", 30_000, (REPLICA, "")),
        TEST: ("10.99.0.11/24", -1, (PRIMARY, REPLICA)),
        REPROTECT: ("", -1, (REPLICA, PRIMARY)),
        FAILBACK: ("10.10.0.11/24", 0, (PRIMARY, REPLICA)),
    }[kind]
    assert ended.state is RunState.SUCCEEDED
    assert ended.addresses == ({"nic-0": address} if address else {})
    assert ended.data_loss_ms == loss_ms
    assert (vm.active_site, vm.replica_site) == places


@pytest.mark.parametrize("kind", FailoverKind)
@pytest.mark.parametrize("behaviour", FAULTS)
@pytest.mark.parametrize("attempts", [1, 2, MOST_ATTEMPTS])
def test_every_step_going_wrong_in_every_way(kind: FailoverKind, behaviour: Behaviour, attempts: int) -> None:
    for step in COMMANDED[kind]:
        if not step.endswith("-undo"):
            check(fail_over(kind, {step: [behaviour] * attempts}))


@pytest.mark.parametrize("kind", FailoverKind)
def test_a_cancel_at_every_step_with_every_step_or_undo_going_wrong_in_every_way(kind: FailoverKind) -> None:
    behaviours: list[Behaviours] = [{}] + [{step: [fault] * 5} for step in COMMANDED[kind] for fault in FAULTS]
    for step in range(len(WORKFLOWS[kind].steps) + 1):
        for behaviour in behaviours:
            check(fail_over(kind, behaviour, words=cancelled_at(kind, step * ANSWER_MS + 5)))


@pytest.mark.parametrize("kind", FailoverKind)
def test_a_worker_lost_at_every_step_is_replaced_and_the_run_ends_as_it_would_have(kind: FailoverKind) -> None:
    expected = fail_over(kind, {}).ended()
    for step in range(len(WORKFLOWS[kind].steps) + 1):
        world = world_for(kind, {})
        world.send(request(kind))
        world.later(step * ANSWER_MS + 5, world.lose_worker)
        world.later(step * ANSWER_MS + 4_000, world.take_over)
        world.run()
        check(world)
        ended = world.ended()
        assert (ended.state, ended.addresses, ended.epoch) == (expected.state, expected.addresses, expected.epoch)
        assert [each.attempt for each in ended.steps] == [each.attempt for each in expected.steps]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reversal_refused_with_every_undo_going_wrong_in_every_way(fault: Behaviour) -> None:
    for undo in ("P4-undo", "P3-undo", "P2-undo"):
        check(fail_over(PLANNED, {"P5": [REFUSE], undo: [fault] * 3}))


@settings(deadline=None)
@given(st.data(), KINDS, MOMENTS)
def test_whatever_goes_wrong_and_whenever_it_is_cancelled(data: st.DataObject, kind: FailoverKind, moment: int) -> None:
    behaviours = data.draw(faults(kind))
    check(fail_over(kind, behaviours, words=cancelled_at(kind, moment), noise=data.draw(NOISE)))


@settings(deadline=None)
@given(st.data(), KINDS, WORDS, COMMITS)
def test_whatever_people_say_to_a_run_and_whenever(
    data: st.DataObject, kind: FailoverKind, said: list[tuple[int, RequestAction]], commit: CommitPolicy
) -> None:
    behaviours = data.draw(faults(kind))
    words = [(at_ms, _word(kind, action)) for at_ms, action in said]
    check(fail_over(kind, behaviours, words=words, commit=commit, window_ms=60_000))


def _word(kind: FailoverKind, action: RequestAction) -> FailoverRequested:
    point = WantedPoint(PointChoice.NAMED, point_id="rp-1")
    return replace(request(kind, action), actor="bob", point=point)


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
@given(st.data(), KINDS, st.none() | MOMENTS, COMMITS)
def test_crashed_after_every_step_it_says_the_same(
    data: st.DataObject, kind: FailoverKind, cancel: int | None, commit: CommitPolicy
) -> None:
    behaviours, noise = data.draw(faults(kind)), data.draw(NOISE)
    words = [] if cancel is None else cancelled_at(kind, cancel)
    plain = fail_over(kind, behaviours, words=words, noise=noise, commit=commit, window_ms=60_000)
    crashed = fail_over(kind, behaviours, words=words, noise=noise, commit=commit, window_ms=60_000, crashing=True)
    assert crashed.outputs == plain.outputs
    assert crashed.final() == plain.final()


# Windows, and what a person can say to a run that is parked.


@pytest.mark.parametrize("kind", [UNPLANNED, TEST])
@pytest.mark.parametrize("commit", CommitPolicy)
def test_a_window_ends_as_its_policy_says(kind: FailoverKind, commit: CommitPolicy) -> None:
    world = fail_over(kind, {}, commit=commit, window_ms=60_000)
    check(world)
    expected = {CommitPolicy.HOLD: RunState.AWAITING_COMMIT, CommitPolicy.AUTO_ROLL_BACK: RunState.CANCELLED}
    assert world.latest().state is expected.get(commit, RunState.SUCCEEDED)


@pytest.mark.parametrize("parked_at", [("U5", {}), ("P7", {}), ("P3-undo", {"P4": [REFUSE]}), ("T5", {}), ("B6", {})])
def test_a_parked_run_ends_by_every_word_that_it_offers(parked_at: tuple[str, Behaviours]) -> None:
    step, others = parked_at
    kind = next(kind for kind in FailoverKind if step in COMMANDED[kind])
    script: Behaviours = {**others, step: [REFUSE]}
    parked = fail_over(kind, script).latest()
    assert parked.state is RunState.PARKED
    assert set(parked.choices) >= {"RESUME", "CONFIRM", "ABANDON"}
    for choice in parked.choices:
        world = fail_over(kind, script)
        world.send(request(kind, RequestAction(choice)))
        world.run()
        check(world)
        # Where somebody attests what is not so, the next step finds it out, and asks again.
        assert world.latest().state.ended or world.latest().waits_for != parked.waits_for, choice


@pytest.mark.parametrize(
    "choice", [WantedPoint(PointChoice.NAMED, point_id="rp-1"), WantedPoint(PointChoice.BEFORE, at_ms=START_MS)]
)
def test_another_recovery_point_is_tried_in_the_window(choice: WantedPoint) -> None:
    world = World(primary_alive=False)
    world.machines["vm-1"].replicate(world.now_ms + 30_000)
    world.now_ms += 40_000
    world.send(request(UNPLANNED, commit=CommitPolicy.HOLD))
    world.run()
    assert world.latest().recovery_point == "rp-2"
    world.send(request(UNPLANNED, RequestAction.TRY_ANOTHER, point=choice))
    world.run()
    world.send(request(UNPLANNED, RequestAction.COMMIT))
    world.run()
    check(world)
    ended = world.ended()
    assert (ended.state, ended.recovery_point, ended.data_loss_ms) == (RunState.SUCCEEDED, "rp-1", 70_000)


# Approval, and automatic failover.


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ann", "bob", "carl", "eve"]), st.booleans()), max_size=5), st.booleans())
def test_a_run_begins_only_once_all_have_agreed(words: list[tuple[str, bool]], crashing: bool) -> None:
    world = World(crashing=crashing)
    rule = ApprovalRule(2, ("ann", "bob", "carl"))
    world.send(Policy(PolicyScope.ALL, approvals=(rule,), actor="eve", reason="house rule", set_at_ms=2))
    world.send(request(PLANNED))
    world.run(until_ms=world.now_ms + 1)
    assert world.latest().state is RunState.AWAITING_APPROVAL
    agreed: set[str] = set()
    for actor, agrees in words:
        asleep = not world.told(StepCommand)
        assert asleep is (len(agreed) < 2)
        if actor in ("bob", "carl") and agrees and not world.latest().state.ended:
            agreed.add(actor)
        action = RequestAction.APPROVE if agrees else RequestAction.REJECT
        world.send(request(PLANNED, action, actor=actor))
        world.run(until_ms=world.now_ms + 1)
    world.run()
    check(world)
    assert world.latest().state.ended  # at the latest by V8
    assert world.told(StepCommand) == [] or len(agreed) >= 2


def evidence(observer: str, place: str, verdict: Verdict, at_ms: int) -> Evidence:
    return Evidence(observer, place, PRIMARY, verdict, at_ms)


def silent_replica(world: World, at_ms: int) -> Fact:
    return replace(report(REPLICA, at_ms), last_replication_at_ms=START_MS - 30_000)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 40),
            st.sampled_from(["silent", "receives", "alive", "w gone", "w up", "w off", "dr gone", "crash", "move"]),
        ),
        max_size=14,
    ),
    st.sampled_from([AutomaticMode.OBSERVE, AutomaticMode.ADVISE, AutomaticMode.ACT]),
)
def test_nothing_automatic_begins_without_its_evidence_hold_down_and_fence(
    happenings: list[tuple[int, str]], mode: AutomaticMode
) -> None:
    world = World(primary_alive=False)
    policy = Policy(PolicyScope.ALL, actor="eve", reason="trust", set_at_ms=2)
    world.send(replace(policy, mode=mode))
    for number, (seconds, what) in enumerate(happenings, 2):
        world.run(until_ms=world.now_ms + seconds * 1_000)
        now = world.now_ms
        match what:
            case "silent":
                world.send(silent_replica(world, now))
            case "receives":
                world.send(report(REPLICA, now))
            case "alive":
                world.send(report(PRIMARY, now))
            case "crash":
                world.take_over()
            case "move":
                world.send(VmMoved("vm-1", PRIMARY, ("p1", "p2")[number % 2], MoveKind.LIVE, now, sequence=number))
            case _:
                who, verdict = what.split()
                said = {"gone": Verdict.UNREACHABLE, "up": Verdict.UP, "off": Verdict.OFF}[verdict]
                world.send(evidence(who, "cloud" if who == "w" else REPLICA, said, now))
    world.run()
    check(world)
    begun = [each for each in world.told(RunSnapshot) if each.automatic]
    if mode is AutomaticMode.OBSERVE:
        assert not begun
    if begun:
        happened = {what for _, what in happenings}
        assert "silent" in happened
        assert happened & {"w gone", "w off"}
        assert begun[0].started_at_ms >= START_MS + 60_000
    if mode is AutomaticMode.ADVISE:
        assert not world.told(StepCommand)


# Lists and plans: several VMs, whose runs and the plan's lie on two partitions.

VMS = ("a", "b", "c", "d", "e")


def plan_world(
    kind: FailoverKind,
    behaviours: dict[str, Behaviours],
    plan: RecoveryPlan | None,
    *,
    doubled: bool,
    swapped: bool,
    crashing: bool,
) -> World:
    before = BEFORE.get(kind)
    alive = kind is not UNPLANNED and before is not UNPLANNED
    world = World(VMS, primary_alive=alive, partitions=2, doubled=doubled, swapped=swapped, crashing=crashing)
    if before is not None:
        world.send(request(before, run_id="before", vms=VMS))
        world.run()
    world.behave(behaviours)
    if plan is not None:
        world.send(plan)
    world.run()
    return world


def fail_over_plan(
    kind: FailoverKind,
    groups: Sequence[RecoveryGroup],
    behaviours: dict[str, Behaviours],
    *,
    as_list: bool = False,
    cancel_ms: int | None = None,
    max_in_flight: int = 0,
    doubled: bool = False,
    swapped: bool = False,
    crashing: bool = False,
    **terms: object,
) -> World:
    plan = None if as_list else RecoveryPlan("erp", "ERP", tuple(groups), max_in_flight=max_in_flight)
    world = plan_world(kind, behaviours, plan, doubled=doubled, swapped=swapped, crashing=crashing)
    target = {"vms": groups[0].vm_ids} if as_list else {"plan": "erp"}
    world.send(request(kind, **target, **terms))  # type: ignore[arg-type]  # any field of a request
    if cancel_ms is not None:
        world.send(request(kind, CANCEL, **target), after_ms=cancel_ms)
    world.run()
    return world


def check_plan(world: World, groups: Sequence[RecoveryGroup]) -> None:
    """The world's invariants, and the plan's own: order, limit, and that nothing done is done again."""
    check(world)
    run = world.value("plan-run/r")
    assert isinstance(run, PlanRun)
    known = {progress.step: progress for progress in run.progress}
    depends = dependencies(groups)
    for group in groups:
        before = {task.task_id for task in run.tasks if task.group in depends[group.name]}
        for task in run.tasks:
            if task.group == group.name and known[task.task_id].attempt:
                assert all(_settled(run, other) for other in before)
    under_way, most = set(), 0
    for told in world.outputs:
        if isinstance(told, FailoverRequested) and told.action is RequestAction.REQUEST and told.parent_run_id == "r":
            under_way.add(told.vm_id)
        elif isinstance(told, RunSnapshot) and told.vm_id and (told.state.ended or told.state.name.endswith("COMMIT")):
            under_way.discard(told.vm_id)
        most = max(most, len(under_way))
    assert most <= (run.request.max_in_flight or len(VMS))
    if run.state is RunState.SUCCEEDED:
        assert all(progress.state is StepState.DONE for progress in run.progress)


def _settled(run: PlanRun, task_id: str) -> bool:
    task = next(task for task in run.tasks if task.task_id == task_id)
    progress = next(progress for progress in run.progress if progress.step == task_id)
    done = progress.state in (StepState.DONE, StepState.UNDONE) or (
        progress.state in (StepState.WAITING, StepState.ISSUED) and bool(task.vm_id)
    )
    if progress.state is StepState.SKIPPED and task.gate is not None:
        # Nobody was there to ask: what that means for the plan, the failure of its VM says.
        return any(each.step == task.vm_id and each.state is StepState.FAILED for each in run.progress)
    return done or (progress.state is StepState.FAILED and bool(progress.attempt))


def groups_of(*named: tuple[str, ...]) -> list[RecoveryGroup]:
    return [RecoveryGroup(f"g{number}", vm_ids) for number, vm_ids in enumerate(named)]


@st.composite
def groupings(draw: st.DrawFn) -> list[RecoveryGroup]:
    """Groups that depend on any of those before them, with actions and gates."""
    vms = draw(st.permutations(VMS))[: draw(st.integers(1, len(VMS)))]
    cuts = sorted(draw(st.sets(st.integers(1, len(VMS) - 1), max_size=2)))
    slices = [tuple(vms[start:end]) for start, end in zip([0, *cuts], [*cuts, len(VMS)], strict=True)]
    found: list[RecoveryGroup] = []
    for number, vm_ids in enumerate(each for each in slices if each):
        names = [group.name for group in found]
        depends = draw(st.none() | st.sets(st.sampled_from(names)).map(tuple)) if names else None
        found.append(
            RecoveryGroup(
                f"g{number}",
                vm_ids,
                depends_on=depends,
                critical=draw(st.none() | st.booleans()),
                before=draw(st.lists(ACTIONS, max_size=1).map(tuple)),
                gates=draw(st.lists(GATES, max_size=1).map(tuple)),
                after=draw(st.lists(ACTIONS, max_size=1).map(tuple)),
            )
        )
    return found


POLICIES = st.sampled_from(OnTaskFailure)
ACTIONS = st.builds(
    PlanAction,
    name=st.just("warn"),
    kind=st.sampled_from([PlanActionKind.SCRIPT, PlanActionKind.HTTP, PlanActionKind.MANUAL]),
    site=st.just(REPLICA),
    command=st.just(("warn",)),
    instruction=st.just("call the desk"),
    attempts=st.integers(1, 2),
    on_failure=POLICIES,
    compensation=st.sampled_from([(), ("unwarn",)]),
)
GATES = st.builds(Gate, kind=st.just(GateKind.POWER), timeout_ms=st.just(12_000), on_failure=POLICIES)


def plan_faults(kind: FailoverKind) -> st.SearchStrategy[dict[str, Behaviours]]:
    of_vms = st.dictionaries(st.sampled_from(VMS), faults(kind), max_size=2)
    tasks = [
        f"g{number}/{when}/warn{undo}" for number in range(3) for when in ("before", "after") for undo in ("", "-undo")
    ]
    of_tasks: st.SearchStrategy[Behaviours] = st.dictionaries(
        st.sampled_from(tasks), st.lists(st.sampled_from(Behaviour), min_size=1, max_size=3), max_size=2
    )
    return st.tuples(of_vms, of_tasks).map(lambda both: {**both[0], "": both[1]})


@settings(max_examples=60, deadline=None)
@given(st.data(), KINDS, groupings(), st.none() | MOMENTS, st.integers(0, 2), COMMITS)
def test_a_plan_keeps_the_order_of_its_groups_and_ends(
    data: st.DataObject,
    kind: FailoverKind,
    groups: list[RecoveryGroup],
    cancel: int | None,
    limit: int,
    commit: CommitPolicy,
) -> None:
    behaviours = data.draw(plan_faults(kind))
    terms = {"commit": commit, "window_ms": 60_000, "cancel_ms": cancel, "max_in_flight": limit}
    world = fail_over_plan(kind, groups, behaviours, **terms)  # type: ignore[arg-type]  # as named
    check_plan(world, groups)
    crashed = fail_over_plan(kind, groups, behaviours, crashing=True, **terms)  # type: ignore[arg-type]  # as named
    assert crashed.outputs == world.outputs


@settings(max_examples=25, deadline=None)
@given(st.data(), KINDS, groupings())
def test_a_plan_whose_events_are_doubled_or_swapped_ends_the_same(
    data: st.DataObject, kind: FailoverKind, groups: list[RecoveryGroup]
) -> None:
    behaviours = data.draw(plan_faults(kind))
    plain = fail_over_plan(kind, groups, behaviours)
    for doubled, swapped in ((True, False), (False, True)):
        world = fail_over_plan(kind, groups, behaviours, doubled=doubled, swapped=swapped)
        check_plan(world, groups)
        assert world.final() == plain.final()


@settings(max_examples=40, deadline=None)
@given(st.data(), KINDS, groupings(), st.lists(st.sampled_from(RequestAction), min_size=1, max_size=4))
def test_whatever_people_say_to_a_plan(
    data: st.DataObject, kind: FailoverKind, groups: list[RecoveryGroup], said: list[RequestAction]
) -> None:
    world = fail_over_plan(kind, groups, data.draw(plan_faults(kind)), commit=CommitPolicy.HOLD)
    for action in said:
        finished = {step.step: step for step in world.latest().steps if step.state is StepState.DONE}
        begun = len(world.outputs)
        world.send(request(kind, action, plan="erp"))
        world.run()
        check_plan(world, groups)
        if action is RequestAction.RESUME:
            _check_not_again(world, begun, finished)


def _check_not_again(world: World, begun: int, finished: dict[str, StepProgress]) -> None:
    """What was done is not begun again by a plan that is resumed."""
    for told in world.outputs[begun:]:
        if isinstance(told, FailoverRequested) and told.action is RequestAction.REQUEST:
            assert told.vm_id not in finished
        assert not isinstance(told, StepCommand) or told.step not in finished


@pytest.mark.parametrize("kind", FailoverKind)
def test_a_list_fails_over_side_by_side(kind: FailoverKind) -> None:
    groups = groups_of(("a", "b", "c"))
    world = fail_over_plan(kind, groups, {}, as_list=True)
    check_plan(world, groups_of(("a", "b", "c")))
    assert world.ended().state is RunState.SUCCEEDED
    first = [_first_command(world, vm) for vm in "abc"]
    assert max(each or 0 for each in first) < world.outputs.index(world.ended("r/a"))


def _first_command(world: World, vm: str) -> int | None:
    """Where a VM's run in this plan or list issues its first command."""
    return next(
        (n for n, each in enumerate(world.outputs) if isinstance(each, StepCommand) and each.run_id == f"r/{vm}"), None
    )


@pytest.mark.parametrize("step", range(10))
def test_a_plan_cancelled_while_its_first_group_moves_starts_no_other(step: int) -> None:
    groups = groups_of(("a", "b"), ("c",))
    world = fail_over_plan(PLANNED, groups, {}, cancel_ms=step * ANSWER_MS + 5)
    check_plan(world, groups)
    before_point_of_no_return = step < 5
    expected = RunState.CANCELLED if before_point_of_no_return else RunState.SUCCEEDED
    if step < 9:
        assert [world.ended(f"r/{vm}").state for vm in "ab"] == [expected, expected]
        assert _first_command(world, "c") is None


def test_a_bug_parks_the_run_that_it_is_about_and_no_other() -> None:
    world = World(("a", "b"))
    for vm in ("a", "b"):
        world.send(request(PLANNED, run_id=vm, vm=vm))
    world.run(until_ms=world.now_ms + 25)
    world.bug("run/a", "KeyError: 'nic-9'")
    world.run(until_ms=world.now_ms + 30_000)
    assert world.ended("b").state is RunState.SUCCEEDED
    parked = world.value("run/a")
    assert isinstance(parked, Run)
    world.run()
    check(world)
    assert world.ended("a").state is RunState.SUCCEEDED
    assert [entry.rule for entry in world.told(JournalEntry) if entry.rule == "R14"]
    shut_down = [done for done in world.machines["a"].ledger if done.action is Action.SHUT_DOWN]
    assert len(shut_down) == 1
