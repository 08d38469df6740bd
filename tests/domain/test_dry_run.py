"""What a failover would do: read off the rules that would do it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover_orch.domain.draft import State
from failover_orch.domain.dry_run import DryRun, dry_run
from failover_orch.domain.facts import FailoverKind, StepOutcome
from failover_orch.domain.policies import ApprovalRule, Policy, PolicyScope
from failover_orch.domain.records import Action, RunSnapshot, RunState, StepCommand, StepProgress, StepState
from failover_orch.domain.settings import (
    Gate,
    GateKind,
    PlanAction,
    PlanActionKind,
    RecoveryGroup,
    RecoveryPlan,
)
from failover_orch.domain.state import PlanReadiness, VmState
from failover_orch.domain.terms import CommitPolicy, OnTaskFailure, PointChoice, StepPolicy, WantedPoint
from failover_orch.domain.walk import ASSUMED_MS, Durations, durations_of
from standing_state import NOW, asked, carry_out, fold, moment, replica_report, standing

SECOND_EACH = Durations({action.value: (1_000, 3) for action in Action})
VMS = ("vm-1", "vm-2", "vm-3")
TELL = PlanAction("tell", PlanActionKind.MANUAL, instruction="tell the users")
DNS = PlanAction("dns", PlanActionKind.SCRIPT, site="dr", command=("dns.sh", "--dr"))
PLAN = RecoveryPlan(
    "erp",
    "ERP",
    (
        RecoveryGroup("db", ("vm-1", "vm-2"), before=(TELL,), gates=(Gate(GateKind.TCP_PORT, port=5432),)),
        RecoveryGroup("app", ("vm-3",), after=(DNS,)),
    ),
)


def dry(
    state: dict[str, State],
    kind: FailoverKind = FailoverKind.PLANNED,
    *,
    plan_id: str = "",
    durations: Durations = SECOND_EACH,
    agent_per_node: int = 4,
    **terms: object,
) -> DryRun:
    request = replace(asked(kind, plan_id=plan_id, run_id=""), **terms)  # type: ignore[arg-type]  # fields of it
    return dry_run(state, request, moment(), durations, agent_per_node=agent_per_node)


def planned(plan: RecoveryPlan = PLAN, **terms: object) -> dict[str, State]:
    return fold(standing(*VMS), replace(plan, **terms))  # type: ignore[arg-type]  # fields of it


@pytest.mark.parametrize("kind", [FailoverKind.PLANNED, FailoverKind.UNPLANNED, FailoverKind.TEST])
def test_the_steps_are_the_very_commands_that_a_run_issues(kind: FailoverKind) -> None:
    state = fold(standing(), replica_report(behind_s=20))
    (vm,) = dry(state, kind).vms
    real = carry_out(state, asked(kind)).of(StepCommand)
    shown = [step for step in vm.steps if step.action]
    assert [(step.number, step.action, step.site, step.node) for step in shown] == [
        (command.step, command.action, command.site, command.node) for command in real
    ]
    assert [step.timeout_ms for step in shown] == [command.deadline_ms - command.issued_at_ms for command in real]
    addresses = next((command.addresses for command in real if command.addresses), ())
    assert vm.addresses == addresses


def test_a_step_policy_counts() -> None:
    policy = StepPolicy("P2", timeout_ms=7_000, attempts=9)
    (vm,) = dry(standing(), step_policies=(policy,)).vms
    steps = {step.number: step for step in vm.steps}
    assert (steps["P2"].timeout_ms, steps["P2"].attempts) == (7_000, 9)
    assert (steps["P3"].timeout_ms, steps["P3"].attempts) == (300_000, 3)


def test_the_window_stands_among_the_steps() -> None:
    made = dry(standing(), FailoverKind.UNPLANNED, commit=CommitPolicy.HOLD)
    assert made.state == RunState.AWAITING_COMMIT
    assert [step.number for step in made.vms[0].steps] == [f"U{number}" for number in range(1, 9)]
    assert [step.number for step in made.vms[0].steps if not step.action] == ["U7"]
    assert any("has to commit, roll back, or try another recovery point" in note for note in made.notes)


def test_recovery_time_is_until_the_vm_runs_and_the_run_goes_on_after_that() -> None:
    made = dry(standing())
    assert (made.recovery_time_ms, made.ends_ms) == (8_000, 9_000)
    assert [part.steps for part in made.critical_path] == [tuple(f"P{number}" for number in range(8))]


def test_a_refused_vm_has_every_refusal_and_no_steps() -> None:
    state = standing()
    vm = state["vm/vm-1"]
    assert isinstance(vm, VmState)
    state["vm/vm-1"] = replace(vm, run_id="other", settings=None)
    made = dry(state)
    assert made.state == RunState.REFUSED
    assert [refusal.partition(":")[0] for refusal in made.vms[0].refusals] == ["F3", "A14"]
    assert made.vms[0].steps == ()
    assert (made.recovery_time_ms, made.vms[0].serves_ms) == (-1, -1)


def test_data_loss_is_that_of_now_however_long_the_plan_takes() -> None:
    state = fold(planned(), *(replica_report(vm_id, behind_s=40) for vm_id in VMS))
    state = fold(state, Policy(PolicyScope.ALL, max_data_loss_ms=60_000))
    made = dry(state, FailoverKind.UNPLANNED, plan_id="erp", durations=Durations())
    assert made.ends_ms > 120_000
    assert [vm.loss_ms for vm in made.vms] == [40_000] * 3
    assert [vm.refusals for vm in made.vms] == [()] * 3
    assert made.loss_ms == 40_000


def test_data_loss_that_one_vm_makes_unknown() -> None:
    state = fold(planned(), replica_report("vm-1", behind_s=40))
    assert dry(state, FailoverKind.UNPLANNED, plan_id="erp").loss_ms == -1
    assert dry(state, plan_id="erp").loss_ms == 0


def test_an_older_recovery_point_loses_more() -> None:
    state = fold(standing(), replica_report(behind_s=40))
    before = WantedPoint(PointChoice.BEFORE, at_ms=NOW - 600_000)
    made = dry(state, FailoverKind.UNPLANNED, point=before)
    assert made.loss_ms == 600_000
    assert any(str(before) in note for note in made.notes)


def test_the_tasks_stand_in_the_order_in_which_they_begin() -> None:
    made = dry(planned(), plan_id="erp")
    assert [(task.task_id, task.begins_ms, task.ends_ms) for task in made.tasks] == [
        ("db/before/tell", 0, 0),
        ("vm-1", 0, 9_000),
        ("vm-2", 0, 9_000),
        ("db/gate-1/vm-1", 9_000, 10_000),
        ("db/gate-1/vm-2", 9_000, 10_000),
        ("vm-3", 10_000, 19_000),
        ("app/after/dns", 19_000, 20_000),
    ]
    assert [task.what for task in made.tasks][-1] == "script dns.sh --dr at dr"
    assert made.groups == (("db", 0, 8_000), ("app", 10_000, 18_000))
    assert (made.recovery_time_ms, made.ends_ms, made.state) == (18_000, 20_000, RunState.SUCCEEDED)
    assert made.notes == ("db/before/tell waits for a person, by hand: tell the users",)


def test_the_vms_in_flight_are_limited() -> None:
    made = dry(planned(max_in_flight=1), plan_id="erp")
    assert [(vm.vm_id, vm.begins_ms) for vm in made.vms] == [("vm-1", 0), ("vm-2", 9_000), ("vm-3", 19_000)]
    assert [part.task for part in made.critical_path] == ["db/before/tell", "vm-1", "vm-2", "db/gate-1/vm-2", "vm-3"]


@pytest.mark.parametrize(
    ("plan", "agent", "name"),
    [
        (replace(PLAN, per_node=1), 4, "the plan's share of node dr d1"),
        (replace(PLAN, per_site=1), 4, "the plan's share of site dr"),
        (PLAN, 1, "node dr d1"),
    ],
)
def test_steps_wait_for_room_on_a_node_and_in_a_site(plan: RecoveryPlan, agent: int, name: str) -> None:
    """Both databases live on d1: their steps there are done one after the other, and that is on the critical path."""
    made = dry(planned(plan), plan_id="erp", agent_per_node=agent)
    steps = [step for vm in made.vms[:2] for step in vm.steps if step.site == "dr"]
    begins = sorted(step.begins_ms for step in steps)
    assert len(set(begins)) == len(begins), "two at once"
    assert name in {part.waited_for for part in made.critical_path}
    assert sum(part.waited_ms for part in made.critical_path) > 0
    ends = [part.to_ms for part in made.critical_path]
    assert [part.from_ms for part in made.critical_path] == [0, *ends[:-1]], "a path has no gaps"


def test_a_refused_vm_halts_a_planned_plan_and_the_rest_is_shown_without_times() -> None:
    state = planned()
    vm = state["vm/vm-1"]
    assert isinstance(vm, VmState)
    state["vm/vm-1"] = replace(vm, run_id="other")
    made = dry(state, plan_id="erp")
    assert made.state == RunState.COMPLETED_WITH_ERRORS
    by_id = {each.vm_id: each for each in made.vms}
    assert by_id["vm-1"].refusals == ("F3: run other of this VM is in flight",)
    assert (by_id["vm-3"].begins_ms, by_id["vm-3"].serves_ms, by_id["vm-3"].refusals) == (-1, -1, ())
    assert [step.number for step in by_id["vm-3"].steps] == [f"P{number}" for number in range(9)]
    assert {step.begins_ms for step in by_id["vm-3"].steps} == {-1}
    assert [task.task_id for task in made.tasks if task.begins_ms < 0][-2:] == ["vm-3", "app/after/dns"]


def test_a_refused_vm_does_not_stop_an_unplanned_plan() -> None:
    state = fold(planned(), *(replica_report(vm_id, behind_s=40) for vm_id in VMS))
    vm = state["vm/vm-1"]
    assert isinstance(vm, VmState)
    state["vm/vm-1"] = replace(vm, run_id="other")
    made = dry(state, FailoverKind.UNPLANNED, plan_id="erp")
    assert [each.serves_ms >= 0 for each in made.vms] == [False, True, True]


def test_a_plan_in_flight_is_a_refusal_and_what_would_follow_is_shown_all_the_same() -> None:
    state = planned()
    stands = state["plan-readiness/erp"]
    assert isinstance(stands, PlanReadiness)
    state["plan-readiness/erp"] = replace(stands, run_id="run-7")
    made = dry(state, plan_id="erp")
    assert made.refusals == ("Q6: run run-7 of this plan is in flight",)
    assert made.state == RunState.SUCCEEDED


def test_a_plan_that_nobody_knows() -> None:
    made = dry(standing(), plan_id="erp")
    assert [refusal.partition(":")[0] for refusal in made.refusals] == ["Q3"]
    assert (made.state, made.tasks, made.vms) == (RunState.REFUSED, (), ())


def test_whoever_has_to_approve_is_named_and_taken_to_agree() -> None:
    rule = ApprovalRule(2, ("bob", "eve"))
    state = fold(planned(), Policy(PolicyScope.PLAN, "erp", approvals=(rule,)))
    made = dry(state, plan_id="erp")
    assert made.approval == rule
    assert made.state == RunState.SUCCEEDED


def test_an_approval_that_can_never_come() -> None:
    state = fold(planned(), Policy(PolicyScope.PLAN, "erp", approvals=(ApprovalRule(1, ("ann",)),)))
    made = dry(state, plan_id="erp")
    assert made.state == RunState.AWAITING_APPROVAL
    assert any(note.startswith("it would stay AWAITING_APPROVAL") for note in made.notes)


def test_accepted_data_loss_needs_a_second_person() -> None:
    state = fold(standing(), replica_report(behind_s=400), Policy(PolicyScope.ALL, max_data_loss_ms=60_000))
    assert [refusal[:3] for refusal in dry(state, FailoverKind.UNPLANNED).vms[0].refusals] == ["F12"]
    made = dry(state, FailoverKind.UNPLANNED, accept_data_loss=True)
    assert made.vms[0].refusals == ()
    assert made.approval == ApprovalRule(1)


def test_a_plan_with_a_window_is_kept_and_says_that_it_would_wait() -> None:
    state = fold(
        planned(commit=CommitPolicy.AUTO_ROLL_BACK, window_ms=60_000), *(replica_report(v, behind_s=4) for v in VMS)
    )
    made = dry(state, FailoverKind.UNPLANNED, plan_id="erp")
    assert made.state == RunState.AWAITING_COMMIT
    assert any("taken back in 60 s" in note for note in made.notes)
    assert {vm.state for vm in made.vms} == {RunState.SUCCEEDED}


def test_a_running_test_is_said_to_be_ended() -> None:
    state = carry_out(standing(), replace(asked(FailoverKind.TEST, run_id="drill"), commit=CommitPolicy.HOLD)).state
    made = dry(state)
    assert made.notes == ("test failover drill of vm-1 would be ended beside it",)
    assert made.state == RunState.SUCCEEDED


def test_a_task_that_compensates_is_named_so() -> None:
    plan = replace(PLAN, groups=(replace(PLAN.groups[1], after=(replace(DNS, on_failure=OnTaskFailure.COMPENSATE),)),))
    assert dry(planned(plan), plan_id="erp").tasks[-1].on_failure == "COMPENSATE"


def test_durations_are_the_medians_of_what_was_done() -> None:
    def run(run_id: str, *took: int, state: StepState = StepState.DONE) -> RunSnapshot:
        steps = tuple(StepProgress("P2", state, 1, "", 1_000, 1_000 + ms) for ms in took)
        return RunSnapshot(run_id, FailoverKind.PLANNED, RunState.SUCCEEDED, "vm-1", steps, "ann", "x", 1_000, 9_000)

    found = durations_of([run("a", 5_000), run("b", 9_000), run("c", 60_000), run("d", 1, state=StepState.FAILED)])
    assert found.of("P2", Action.SHUT_DOWN) == (9_000, 3)
    assert found.of("P3", Action.PREPARE) == (ASSUMED_MS[Action.PREPARE], 0)
    assert found.of("P4", Action.FAIL_OVER) == (2_000, 0)


def test_a_plans_own_tasks_have_a_history_of_their_own() -> None:
    tasks = (StepProgress("db/before/tell", StepState.DONE, 1, "", 1_000, 301_000),)
    told = RunSnapshot("p", FailoverKind.PLANNED, RunState.SUCCEEDED, "", tasks, "ann", "x", 1, 2, plan_id="erp")
    made = dry(planned(), plan_id="erp", durations=durations_of([told]))
    assert (made.tasks[0].ends_ms, made.tasks[0].history) == (300_000, 1)
    assert made.vms[0].begins_ms == 300_000


def test_what_is_assumed_is_named() -> None:
    assert dry(standing()).assumed == ()
    assert "SHUT_DOWN" in dry(standing(), durations=Durations()).assumed


def test_a_dry_run_changes_nothing() -> None:
    state = planned()
    before = dict(state)
    dry(state, plan_id="erp")
    assert state == before


def test_what_a_plan_really_does_is_what_its_dry_run_says() -> None:
    """The same tasks in the same order, with the same commands."""
    state = planned(PLAN, groups=(replace(PLAN.groups[0], before=()), PLAN.groups[1]))
    made = dry(state, plan_id="erp")
    real = carry_out(state, asked(plan_id="erp"), answers=lambda _: StepOutcome.DONE)
    commands = real.of(StepCommand)
    for vm in made.vms:
        own = [each.step for each in commands if each.run_id == f"r/{vm.vm_id}"]
        assert own == [step.number for step in vm.steps]
    tasks = [each.step for each in commands if each.run_id == "r"]
    assert tasks == [task.task_id for task in made.tasks if task.kind != "VM"]
