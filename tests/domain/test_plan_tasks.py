"""A plan as a graph of tasks: what it consists of, whose turn it is, what is left out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rule_cases import FAILBACK, NOW, PLANNED, REPROTECT, TEST, UNPLANNED
from simulator import request

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.plan_runs import new_plan_run
from failover_orch.domain.plan_tasks import context_of, each_once, may_begin, progress_of, tasks_of, to_be_left_out
from failover_orch.domain.records import StepState
from failover_orch.domain.settings import Gate, GateKind, PlanAction, PlanActionKind, RecoveryGroup
from failover_orch.domain.state import MemberState, PlanRun, TaskKind
from failover_orch.domain.terms import CommitPolicy, OnTaskFailure

HALT, SKIP, CONTINUE, COMPENSATE = OnTaskFailure
PENDING, ISSUED, WAITING = StepState.PENDING, StepState.ISSUED, StepState.WAITING
DONE, FAILED, SKIPPED = StepState.DONE, StepState.FAILED, StepState.SKIPPED


def script(name: str, on_failure: OnTaskFailure = HALT, kinds: tuple[FailoverKind, ...] = ()) -> PlanAction:
    return PlanAction(name, PlanActionKind.SCRIPT, "dr", ("run",), on_failure=on_failure, kinds=kinds)


FULL = RecoveryGroup(
    "db",
    ("a", "b"),
    before=(script("stop"), script("drain")),
    gates=(Gate(GateKind.POWER), Gate(GateKind.TCP_PORT, port=5432)),
    after=(script("warm"), script("tell")),
)


def plan_run(*groups: RecoveryGroup, kind: FailoverKind = PLANNED, **states: StepState) -> PlanRun:
    """A run whose tasks are in these states; `g__before__x` stands for `g/before/x`."""
    run = new_plan_run(request(kind, plan="erp"), groups, NOW, "")
    named = {name.replace("__", "/"): state for name, state in states.items()}
    assert set(named) <= {progress.step for progress in run.progress}
    progress = tuple(replace(each, state=named.get(each.step, each.state)) for each in run.progress)
    return replace(run, progress=progress)


def turns(run: PlanRun, now_ms: int = NOW) -> list[str]:
    return [task.task_id for task in may_begin(run, now_ms)]


def left_out(run: PlanRun) -> list[str]:
    return [task.task_id for task in to_be_left_out(run)]


# What a plan consists of


def test_a_groups_tasks_stand_in_stages() -> None:
    tasks = tasks_of((FULL,), PLANNED)
    assert [(task.task_id, task.kind, task.stage) for task in tasks] == [
        ("db/before/stop", TaskKind.ACTION, 0),
        ("db/before/drain", TaskKind.ACTION, 1),
        ("a", TaskKind.VM, 2),
        ("b", TaskKind.VM, 2),
        ("db/gate-1/a", TaskKind.GATE, 3),
        ("db/gate-1/b", TaskKind.GATE, 3),
        ("db/gate-2/a", TaskKind.GATE, 3),
        ("db/gate-2/b", TaskKind.GATE, 3),
        ("db/after/warm", TaskKind.ACTION, 4),
        ("db/after/tell", TaskKind.ACTION, 5),
    ]
    assert {task.group for task in tasks} == {"db"}


@pytest.mark.parametrize(
    ("kind", "critical", "on_failure"),
    [
        (PLANNED, None, HALT),
        (FAILBACK, None, HALT),
        (UNPLANNED, None, CONTINUE),
        (TEST, None, CONTINUE),
        (REPROTECT, None, CONTINUE),
        (PLANNED, False, CONTINUE),
        (UNPLANNED, True, HALT),
    ],
)
def test_a_vm_that_fails_halts_what_is_critical(
    kind: FailoverKind, critical: bool | None, on_failure: OnTaskFailure
) -> None:
    (task,) = tasks_of((RecoveryGroup("g", ("a",), critical=critical),), kind)
    assert task.on_failure is on_failure


@pytest.mark.parametrize("kind", FailoverKind)
def test_an_action_is_part_of_its_kinds_alone(kind: FailoverKind) -> None:
    group = RecoveryGroup("g", (), before=(script("all"), script("home", kinds=(FAILBACK, REPROTECT))))
    names = [task.task_id for task in tasks_of((group,), kind)]
    assert names == ["g/before/all"] + (["g/before/home"] if kind in (FAILBACK, REPROTECT) else [])


@pytest.mark.parametrize("gated", [True, False])
def test_gates_are_tasks_where_there_is_something_to_ask(gated: bool) -> None:
    assert (TaskKind.GATE in [task.kind for task in tasks_of((FULL,), PLANNED, gated=gated)]) == gated


@pytest.mark.parametrize(
    ("kind", "commit", "gated"),
    [
        (PLANNED, CommitPolicy.AT_ONCE, True),
        (REPROTECT, CommitPolicy.AT_ONCE, False),
        (FailoverKind.TEST, CommitPolicy.AT_ONCE, False),
        (FailoverKind.TEST, CommitPolicy.HOLD, True),
    ],
)
def test_a_drill_that_keeps_no_copies_and_a_reprotection_have_no_gates(
    kind: FailoverKind, commit: CommitPolicy, gated: bool
) -> None:
    run = new_plan_run(replace(request(kind, plan="erp"), commit=commit), (FULL,), 1, "")
    assert (TaskKind.GATE in [task.kind for task in run.tasks]) == gated


def test_every_vm_is_in_the_first_group_that_names_it() -> None:
    groups = (RecoveryGroup("g0", ("a", "a", "")), RecoveryGroup("g1", ()), RecoveryGroup("g2", ("b", "a")))
    kept = each_once(groups)
    assert [(group.name, group.vm_ids, group.depends_on) for group in kept] == [
        ("g0", ("a",), ()),
        ("g1", (), ("g0",)),
        ("g2", ("b",), ("g1",)),
    ]


# Whose turn it is


def test_one_stage_comes_after_the_other() -> None:
    done: dict[str, StepState] = {}
    for expected in (
        ["db/before/stop"],
        ["db/before/drain"],
        ["a", "b"],
        ["db/gate-1/a", "db/gate-1/b", "db/gate-2/a", "db/gate-2/b"],
        ["db/after/warm"],
        ["db/after/tell"],
        [],
    ):
        assert turns(plan_run(FULL, **done)) == expected  # type: ignore[arg-type]  # states of tasks, no kind
        done |= {name.replace("/", "__"): DONE for name in expected}


@pytest.mark.parametrize("state", StepState)
@pytest.mark.parametrize("critical", [True, False])
def test_what_comes_after_waits_until_a_vm_is_settled(state: StepState, critical: bool) -> None:
    """A VM that serves, and only awaits commitment, holds nothing up."""
    run = plan_run(RecoveryGroup("g", ("a",), critical=critical), RecoveryGroup("h", ("b",)), a=state)
    settled = state in (DONE, WAITING) or (state is FAILED and not critical)
    assert ("b" in turns(run)) == settled


@pytest.mark.parametrize("state", StepState)
def test_what_comes_after_waits_until_an_action_is_settled(state: StepState) -> None:
    for on_failure in OnTaskFailure:
        run = plan_run(RecoveryGroup("g", ("a",), before=(script("x", on_failure),)), g__before__x=state)
        settled = state is DONE or (state is FAILED and on_failure is CONTINUE)
        assert ("a" in turns(run)) == settled


def test_a_gate_that_was_not_asked_holds_nothing_up() -> None:
    group = RecoveryGroup("g", ("a",), gates=(Gate(GateKind.POWER),), after=(script("x"),))
    run = plan_run(group, kind=UNPLANNED, a=FAILED)
    assert turns(run) == ["g/gate-1/a"]
    assert turns(plan_run(group, kind=UNPLANNED, a=FAILED, **{"g__gate-1__a": SKIPPED})) == ["g/after/x"]


DIAMOND = (
    RecoveryGroup("net", ("n",)),
    RecoveryGroup("db", ("d",)),
    RecoveryGroup("cache", ("c",), depends_on=("net",)),
    RecoveryGroup("web", ("w",), depends_on=("db", "cache")),
)


@pytest.mark.parametrize(
    ("done", "expected"),
    [("", "n"), ("n", "dc"), ("nd", "c"), ("nc", "d"), ("ndc", "w"), ("ndcw", "")],
)
def test_groups_wait_for_those_that_they_depend_on(done: str, expected: str) -> None:
    states = dict.fromkeys(done, DONE)
    assert turns(plan_run(*DIAMOND, **states)) == list(expected)  # type: ignore[arg-type]  # states, no kind


def test_a_group_without_tasks_passes_the_order_on() -> None:
    groups = (RecoveryGroup("g", ("a",)), RecoveryGroup("none", ()), RecoveryGroup("h", ("b",)))
    assert turns(plan_run(*groups)) == ["a"]
    assert turns(plan_run(*groups, a=DONE)) == ["b"]


def test_a_retry_waits_for_its_time() -> None:
    run = replace(plan_run(RecoveryGroup("g", (), before=(script("x"),))), timers=(("g/before/x", NOW + 10),))
    assert (turns(run, NOW + 9), turns(run, NOW + 10)) == ([], ["g/before/x"])


# What is left out


def test_what_comes_after_a_failure_that_skips_is_left_out_and_the_rest_is_not() -> None:
    groups = (
        RecoveryGroup("g", ("a",), before=(script("x", SKIP),), after=(script("y"),)),
        RecoveryGroup("h", ("b",)),
        RecoveryGroup("alone", ("c",), depends_on=()),
    )
    run = plan_run(*groups, g__before__x=FAILED)
    assert left_out(run) == ["a", "g/after/y", "b"]
    assert turns(run) == ["c"]
    run = plan_run(*groups, g__before__x=FAILED, a=SKIPPED, g__after__y=SKIPPED, b=SKIPPED)
    assert (left_out(run), turns(run)) == ([], ["c"])


def test_what_comes_after_what_was_left_out_is_left_out_too() -> None:
    run = plan_run(*DIAMOND, n=DONE, d=DONE, c=SKIPPED)
    assert left_out(run) == ["w"]


def test_also_where_a_group_without_tasks_stands_between() -> None:
    groups = (
        RecoveryGroup("g", (), before=(script("x", SKIP),)),
        RecoveryGroup("none", ()),
        RecoveryGroup("h", ("b",)),
    )
    assert left_out(plan_run(*groups, g__before__x=FAILED)) == ["b"]


@pytest.mark.parametrize("on_failure", [HALT, CONTINUE, COMPENSATE])
def test_another_failure_leaves_nothing_out(on_failure: OnTaskFailure) -> None:
    group = RecoveryGroup("g", ("a",), before=(script("x", on_failure),))
    assert left_out(plan_run(group, g__before__x=FAILED)) == []


# What an action is told


def test_an_action_is_told_the_runs_context_as_json() -> None:
    run = plan_run(FULL, RecoveryGroup("web", ("w",)), a=DONE)
    run = replace(run, members=(MemberState("a", "dr", "d1", 9, 5, NOW),))
    task = next(task for task in run.tasks if task.task_id == "db/after/warm")
    assert json.loads(context_of(run.request, run, task, 2)) == {
        "run_id": "r",
        "plan_id": "erp",
        "kind": "PLANNED",
        "group": "db",
        "task": "db/after/warm",
        "attempt": 2,
        "actor": "ann",
        "reason": "drill",
        "ticket": "INC-7",
        "vm_id": "",
        "vms": [
            {"vm_id": "a", "state": "DONE", "site": "dr", "node": "d1"},
            {"vm_id": "b", "state": "PENDING"},
        ],
    }


def test_the_progress_of_each_task_is_known_by_its_name() -> None:
    assert {name: each.state for name, each in progress_of(plan_run(FULL, a=ISSUED)).items() if name in "ab"} == {
        "a": ISSUED,
        "b": PENDING,
    }
