"""Requests and what becomes of them: each rule by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rule_cases import DONE, FAILED, NOW, PLANNED, REFUSED, TEST, UNCERTAIN, UNPLANNED, Fold, progress_of, word
from simulator import CLUSTERS, PRIMARY, REPLICA, TARGET, inventory, request

from failover_orch.domain.broker import park, tick
from failover_orch.domain.draft import Fact, Moment
from failover_orch.domain.facts import (
    FailoverKind,
    FailoverRequested,
    MoveKind,
    RequestAction,
    StepOutcome,
    StepResult,
    VmMoved,
)
from failover_orch.domain.policies import ApprovalRule, Policy, PolicyScope
from failover_orch.domain.records import (
    Alert,
    AuditEntry,
    JournalEntry,
    RunSnapshot,
    RunState,
    Severity,
    StepCommand,
    StepState,
)
from failover_orch.domain.requests import KEEP_ENDED_RUNS_MS
from failover_orch.domain.settings import RecoveryGroup, RecoveryPlan, UnsetAdapters, VmReplicationSettings
from failover_orch.domain.state import PlanReadiness
from failover_orch.domain.terms import CommitPolicy, PointChoice, StepPolicy, WantedPoint

CANCEL, RESUME = RequestAction.CANCEL, RequestAction.RESUME
PLAN = RecoveryPlan("erp", "ERP", (RecoveryGroup("one", ("vm-1",)), RecoveryGroup("two", ("vm-2",))))
WORDS = [action for action in RequestAction if action is not RequestAction.REQUEST]


def world(*facts: Fact, vms: tuple[str, ...] = ("vm-1",)) -> Fold:
    """VMs that can be failed over."""
    fold = Fold(*CLUSTERS)
    for vm in vms:
        fold.take(
            inventory(vm),
            VmMoved(vm, PRIMARY, "p1", MoveKind.PLACED, 1, cluster="pc", sequence=1),
            VmMoved(vm, REPLICA, "d1", MoveKind.PLACED, 2, cluster="dc", sequence=1),
            VmReplicationSettings(vm, (TARGET,)),
        )
    fold.take(*facts)
    return fold


def both() -> Fold:
    return world(PLAN, vms=("vm-1", "vm-2"))


def finish(fold: Fold, run_id: str = "r", until: str = "") -> Fold:
    """Everything that is asked of this run is done, until it ends or asks for this step."""
    while True:
        last = [each for each in fold.told(StepCommand) if each.run_id == run_id][-1]
        if last.step == until or fold.run(run_id).state.ended or fold.run(run_id).waits_for:
            return fold
        fold.answer(DONE, run_id=run_id, step=last.step, attempt=last.attempt, vm_id=last.vm_id, key="")


# Q1 to Q6, S1


@pytest.mark.parametrize("asked", [request(), request(vm="nobody"), request(vms=("vm-1",))])
def test_q1_a_request_whose_run_is_known_is_the_same_request(asked: FailoverRequested) -> None:
    fold = world(asked)
    before = list(fold.outputs)
    fold.take(asked, replace(asked, actor="bob"), replace(asked, kind=UNPLANNED))
    assert fold.outputs == before


def test_q1_a_request_that_was_refused_stays_refused() -> None:
    fold = world(request(vm="vm-2"))
    assert fold.run().state is RunState.REFUSED
    fold.take(inventory("vm-2"), request(vm="vm-2"))
    assert fold.run().state is RunState.REFUSED


def test_q1_a_word_that_is_delivered_twice_is_one_word() -> None:
    """Said once, to the run as it was then: the run may have parked again meanwhile."""
    fold = world(request())
    fold.answer(UNCERTAIN)
    resume = word(RESUME, request())
    fold.take(resume)
    fold.answer(UNCERTAIN)
    before = list(fold.outputs)
    fold.take(resume)
    assert fold.outputs == before
    fold.take(replace(resume, requested_at_ms=NOW))
    assert fold.run().state is RunState.RUNNING


@pytest.mark.parametrize(
    "differs",
    [{"vm_id": ""}, {"plan_id": "erp"}, {"vm_ids": ("vm-1",)}, {"vm_id": "", "plan_id": "a", "vm_ids": ("b",)}],
)
def test_q2_a_request_names_one_target(differs: dict[str, object]) -> None:
    fold = world(replace(request(), **differs))  # type: ignore[arg-type]  # any target
    assert [rule for rule, _ in fold.refused()] == ["Q2"]
    assert fold.snapshot().state is RunState.REFUSED


def test_q2_a_request_names_its_run() -> None:
    fold = world(request(run_id=""))
    assert [rule for rule, _ in fold.refused()] == ["Q2"]
    assert not fold.told(RunSnapshot)


@pytest.mark.parametrize(
    ("run_id", "parent_key", "taken"),
    [("x/vm-1", "erp", True), ("x/vm-1~2", "erp", True), ("r", "erp", False), ("x/vm-1", "", False)],
)
def test_q2_only_a_run_that_can_be_part_of_another_says_that_it_is(run_id: str, parent_key: str, taken: bool) -> None:
    """It needs no approval of its own: nobody gets round that by a word."""
    fold = world(replace(request(run_id=run_id), parent_run_id="x", parent_key=parent_key))
    assert [rule for rule, _ in fold.refused()][:1] == ([] if taken else ["Q2"])
    assert fold.run(run_id).state is (RunState.RUNNING if taken else RunState.REFUSED)


@pytest.mark.parametrize("asked", [request(plan="lost"), request(plan="empty"), request(vms=("", ""))])
def test_q3_a_plan_that_is_not_known_or_empty(asked: FailoverRequested) -> None:
    fold = world(RecoveryPlan("empty", "empty", (RecoveryGroup("none", ()), RecoveryGroup("nobody", ("",)))), asked)
    assert [rule for rule, _ in fold.refused()] == ["Q3"]
    assert fold.snapshot().state is RunState.REFUSED


@pytest.mark.parametrize("action", [action for action in WORDS if action is not RequestAction.ACKNOWLEDGE])
def test_q4_a_word_to_a_run_that_is_not_known(action: RequestAction) -> None:
    fold = world(request(action=action))
    what = action.lower().replace("_", " ")
    assert fold.refused() == [("Q4", f"{what}: run r is not known")]
    audited = fold.told(AuditEntry)[-1]
    assert (audited.what, audited.outcome) == (what, "refused")


def test_q4_an_acknowledgement_for_a_vm_that_is_not_known() -> None:
    fold = world(request(action=RequestAction.ACKNOWLEDGE, vm="vm-9"))
    assert fold.refused() == [("Q4", "acknowledge: VM vm-9 is not known")]


@pytest.mark.parametrize("missing", [{"actor": ""}, {"reason": ""}])
@pytest.mark.parametrize("asked", [request(), request(vms=("vm-1",)), request(plan="erp")])
def test_q5_a_request_says_who_asks_and_why(missing: dict[str, str], asked: FailoverRequested) -> None:
    fold = world(PLAN, replace(asked, **missing))  # type: ignore[arg-type]  # texts
    assert [rule for rule, _ in fold.refused()] == ["Q5"]
    assert fold.snapshot().state is RunState.REFUSED
    assert fold.told(StepCommand) == []


@pytest.mark.parametrize("missing", [{"actor": ""}, {"reason": ""}])
@pytest.mark.parametrize("action", WORDS)
def test_q5_and_so_does_every_word(missing: dict[str, str], action: RequestAction) -> None:
    fold = world(request())
    fold.take(replace(word(action, request()), **missing))  # type: ignore[arg-type]  # texts
    assert fold.refused() == [("Q5", f"{action.lower().replace('_', ' ')}: a request says who asks and why")]
    assert fold.run().state is RunState.RUNNING


def test_q6_a_plan_of_which_a_run_is_in_flight() -> None:
    fold = both()
    fold.take(request(plan="erp"), request(UNPLANNED, plan="erp", run_id="again"))
    assert fold.refused() == [("Q6", "run r of this plan is in flight")]
    assert fold.run("again").state is RunState.REFUSED
    fold.take(request(vms=("vm-2",), run_id="list"))
    assert fold.plan_run("list").state is RunState.RUNNING


def test_q6_nor_is_an_ended_one_resumed_beside_it() -> None:
    fold = both()
    fold.take(request(plan="erp"))
    fold.answer(REFUSED, "P0")
    assert fold.plan_run().state is RunState.FAILED
    fold.take(request(plan="erp", run_id="next"), word(RESUME, request(plan="erp")))
    assert fold.refused()[-1] == ("Q6", "resume: run next of this plan is in flight")
    assert fold.plan_run().state is RunState.FAILED


def test_q6_once_it_has_ended_another_may_begin() -> None:
    fold = both()
    fold.take(request(plan="erp"))
    fold.answer(REFUSED, "P0")
    assert fold.value("plan-readiness/erp", PlanReadiness).run_id == ""
    fold.take(request(plan="erp", run_id="next"))
    assert fold.plan_run("next").state is RunState.RUNNING
    assert fold.value("plan-readiness/erp", PlanReadiness).run_id == "next"


def answer(run_id: str = "r", vm: str = "vm-1") -> StepResult:
    return StepResult(run_id, "P0", 1, vm, "primary", "p1", 3, DONE, "so it is", NOW)


def test_s1_a_result_of_a_run_that_is_not_known() -> None:
    assert world(answer()).refused() == [("S1", "result of step P0 of run r, which is not known here")]


def test_s1_a_result_that_names_a_run_and_another_vm() -> None:
    fold = world(request(), answer(vm="vm-2"))
    assert [rule for rule, _ in fold.refused()] == ["S1"]
    assert progress_of(fold.run(), "P0").state is StepState.ISSUED


@pytest.mark.parametrize("asked", [request(vm="nobody"), replace(request(), actor="")])
def test_a_result_of_a_run_that_never_was_one_changes_nothing(asked: FailoverRequested) -> None:
    fold = world(asked)
    before = list(fold.outputs)
    fold.take(answer(vm=asked.vm_id))
    assert fold.outputs == before
    fold.take(word(CANCEL, asked))
    assert fold.refused()[-1] == ("R6", "cancel: the run has already ended: REFUSED")


# A run, as it is told


def test_a0_a_policy_that_keeps_an_adapter_is_journalled() -> None:
    fold = world(VmReplicationSettings("vm-1", (), UnsetAdapters.KEEP, "ann", "plan", 2), request())
    assert fold.rules("r")[:3] == ["R1", "A0", "R2"]
    assert fold.journal("r")[1] == "A0 by policy KEEP these come up with the primary's configuration: nic-0"
    assert {command.addresses for command in finish(fold).told(StepCommand)} == {()}


def test_what_speaks_against_a_failover_is_journalled_reason_by_reason() -> None:
    fold = world(request())
    fold.take(
        replace(CLUSTERS[0], accepts_replicas=False, reported_at_ms=9), request(run_id="again"), request(vm="vm-2")
    )
    assert [rule for rule, _ in fold.refused()] == ["F3", "F8"]
    entries = [entry for entry in fold.told(JournalEntry) if entry.run_id == "again"]
    assert [(entry.rule, entry.sequence) for entry in entries] == [("F3", 0), ("F8", 1)]
    assert fold.snapshot("again").detail == "; ".join(
        f"{rule}: {why}" for rule, why in fold.refused() if rule in ("F3", "F8")
    )


def test_a_failover_is_told_as_it_goes() -> None:
    fold = finish(world(request()))
    journal = [entry for entry in fold.told(JournalEntry) if entry.run_id == "r"]
    assert [entry.rule for entry in journal] == ["R1", *["R2"] * 18, "R9"]
    assert [entry.sequence for entry in journal] == list(range(20))
    assert {(entry.actor, entry.reason, entry.ticket) for entry in journal} == {("ann", "drill", "INC-7")}
    told = fold.snapshot()
    assert (told.state, told.from_site, told.to_site, told.data_loss_ms) == (RunState.SUCCEEDED, PRIMARY, REPLICA, 0)
    assert told.recovery_time_ms == 0
    assert fold.vm().run_id == ""


@pytest.mark.parametrize(
    ("asked", "outcome", "severity"),
    [
        (request(), DONE, None),
        (request(vm="nobody"), DONE, Severity.WARNING),
        (request(UNPLANNED), REFUSED, Severity.CRITICAL),
    ],
)
def test_whoever_watches_hears_of_an_end_that_is_no_success(
    asked: FailoverRequested, outcome: StepOutcome, severity: Severity | None
) -> None:
    fold = world(asked)
    if asked.vm_id == "vm-1":
        if outcome is REFUSED:
            fold.answer(REFUSED)
        finish(fold)
    assert [alert.severity for alert in fold.told(Alert)] == ([severity] if severity else [])
    ends = [each for each in fold.told(AuditEntry) if each.evidence.get("run") == "r" and each.outcome.isupper()]
    assert [entry.outcome for entry in ends] == [fold.run().state.value]


def test_whoever_watches_hears_that_a_run_waits_for_a_person() -> None:
    fold = world(request())
    fold.answer(UNCERTAIN)
    (alert,) = fold.told(Alert)
    assert (alert.subject, alert.severity) == ("vm-1", Severity.CRITICAL)
    assert alert.what == f"planned failover r is PARKED: {fold.run().waits_for}"


def test_r6_r23_a_word_that_does_not_count_is_refused_under_its_rule_and_audited() -> None:
    fold = finish(world(request()), until="P6")
    fold.take(word(CANCEL, request()), word(RequestAction.COMMIT, request()))
    assert [rule for rule, _ in fold.refused()] == ["R6", "R23"]
    assert [(each.what, each.outcome) for each in fold.told(AuditEntry)[-2:]] == [
        ("cancel", "refused"),
        ("commit", "refused"),
    ]
    refused = [entry for entry in fold.told(JournalEntry) if entry.what.startswith("refused")]
    assert {(entry.actor, entry.reason, entry.ticket) for entry in refused} == {("bob", "seen", "INC-8")}


def test_an_ended_run_is_forgotten_after_a_week() -> None:
    fold = finish(world(request(), request(run_id="list", vms=("nobody",))))
    for key in ("run/r", "plan-run/list"):
        forgotten_at_ms = fold.now_ms + KEEP_ENDED_RUNS_MS
        assert tick(fold.state, key, Moment(forgotten_at_ms - 1, 0)).kept == {}
        assert tick(fold.state, key, Moment(forgotten_at_ms, 0)).kept == {key: None}
    fold.wait(KEEP_ENDED_RUNS_MS)
    assert not [key for key in fold.state if key.startswith(("run/", "plan-run/"))]


# A test beside a real failover


@pytest.mark.parametrize("kind", [PLANNED, UNPLANNED])
def test_a_real_failover_ends_a_test(kind: FailoverKind) -> None:
    fold = world(replace(request(TEST, run_id="drill"), commit=CommitPolicy.HOLD))
    finish(fold, "drill")
    assert fold.run("drill").state is RunState.AWAITING_COMMIT
    fold.take(request(kind))
    assert (fold.run("drill").state, fold.run().state) == (RunState.UNDOING, RunState.RUNNING)
    assert fold.journal("drill")[-2].startswith("R5 cancelled by ann: a real failover of the VM begins")
    assert [command.step for command in fold.told(StepCommand)][-2:] == ["T1-undo", "P0" if kind is PLANNED else "U1"]
    fold.answer(DONE, "T1-undo")
    assert fold.run("drill").state is RunState.CANCELLED
    assert (fold.vm().test_run_id, fold.vm().run_id) == ("", "r")


def test_f3_a_test_does_not_begin_beside_a_real_failover() -> None:
    fold = world(request(), request(TEST, run_id="drill"))
    assert [rule for rule, _ in fold.refused()] == ["F3"]


def test_the_way_back_needs_the_other_sites_addresses() -> None:
    """The addresses that were set are the replica site's: at the old primary they would be wrong."""
    fold = finish(world(request()))
    fold.take(request(FailoverKind.FAILBACK, run_id="back"))
    assert [rule for rule, _ in fold.refused()] == ["A15"]
    fold.take(VmReplicationSettings("vm-1", (TARGET,), set_at_ms=9, home_adapters=(TARGET,)))
    fold.take(request(FailoverKind.FAILBACK, run_id="again"))
    finish(fold, "again")
    assert fold.run("again").state is RunState.SUCCEEDED
    assert (fold.vm().active_site, fold.vm().replica_site, fold.vm().home_site) == (PRIMARY, REPLICA, PRIMARY)


def test_after_an_unplanned_failover_the_vm_is_reprotected_and_brought_back() -> None:
    fold = finish(world(request(UNPLANNED)))
    fold.take(
        VmReplicationSettings("vm-1", (TARGET,), set_at_ms=9, home_adapters=(TARGET,)),
        request(FailoverKind.FAILBACK, run_id="early"),
        request(FailoverKind.REPROTECT, run_id="protect"),
    )
    assert [rule for rule, _ in fold.refused()] == ["F2"]
    finish(fold, "protect")
    assert (fold.vm().active_site, fold.vm().replica_site) == (REPLICA, PRIMARY)
    fold.take(request(FailoverKind.FAILBACK, run_id="back"))
    assert finish(fold, "back").run("back").state is RunState.SUCCEEDED
    assert fold.vm().active_site == PRIMARY


# Plans


def test_a_plans_vms_fail_over_group_by_group() -> None:
    fold = both()
    fold.take(request(plan="erp"))
    assert fold.run("r/vm-1").state is RunState.RUNNING
    assert "run/r/vm-2" not in fold.state
    finish(fold, "r/vm-1")
    finish(fold, "r/vm-2")
    told = fold.snapshot()
    assert (told.state, told.groups, told.data_loss_ms) == (RunState.SUCCEEDED, ("one", "two"), 0)
    assert told.recovery_time_ms == 0
    assert fold.rules("r")[-1] == "L6"
    assert {each.parent_run_id for each in fold.told(RunSnapshot) if each.vm_id} == {"r"}


def test_a_plan_that_is_changed_does_not_touch_a_run_in_flight() -> None:
    fold = both()
    fold.take(request(plan="erp"), replace(PLAN, groups=(RecoveryGroup("other", ("vm-9",)),), set_at_ms=5))
    finish(fold, "r/vm-1")
    finish(fold, "r/vm-2")
    assert fold.plan_run().state is RunState.SUCCEEDED


def test_a_resumed_plan_moves_nothing_twice() -> None:
    fold = both()
    fold.take(request(plan="erp"))
    finish(fold, "r/vm-1", until="P8")
    fold.answer(REFUSED, "P8")
    assert fold.run("r/vm-1").state is RunState.COMPLETED_WITH_ERRORS
    assert (fold.plan_run().state, fold.vm().active_site) == (RunState.COMPLETED_WITH_ERRORS, REPLICA)
    fold.take(word(RESUME, request(plan="erp")))
    finish(fold, "r/vm-2~2")
    assert (fold.vm("vm-1").active_site, fold.vm("vm-2").active_site) == (REPLICA, REPLICA)
    assert "run/r/vm-1~2" not in fold.state
    assert fold.plan_run().state is RunState.COMPLETED_WITH_ERRORS


@pytest.mark.parametrize("vm", ["db~2", "db~1", "db~", "~7", "a/b~3"])
def test_a_vm_whose_name_looks_like_a_round_is_heard_of(vm: str) -> None:
    fold = world(vms=(vm,))
    fold.take(request(vms=(vm,)))
    finish(fold, f"r/{vm}")
    assert fold.plan_run().state is RunState.SUCCEEDED


def test_a_request_leaves_to_the_plan_what_it_does_not_say() -> None:
    point = WantedPoint(PointChoice.APPLICATION_CONSISTENT)
    plan = replace(
        PLAN,
        max_in_flight=3,
        per_node=1,
        per_site=2,
        point=point,
        commit=CommitPolicy.AUTO_COMMIT,
        window_ms=7,
        step_policies=(StepPolicy("U5", attempts=9),),
    )
    fold = world(plan, vms=("vm-1", "vm-2"))
    own = replace(
        request(UNPLANNED, plan="erp", run_id="own"),
        max_in_flight=4,
        per_node=5,
        commit=CommitPolicy.HOLD,
        point=WantedPoint(PointChoice.BEFORE, at_ms=1),
    )
    fold.take(request(UNPLANNED, plan="erp"))
    asked = fold.plan_run().request
    assert (asked.max_in_flight, asked.per_node, asked.per_site, asked.point) == (3, 1, 2, point)
    assert (asked.commit, asked.window_ms, asked.step_policies) == (CommitPolicy.AUTO_COMMIT, 7, plan.step_policies)
    fold.answer(REFUSED, "U1")
    fold.answer(REFUSED, "U1", vm_id="vm-2", run_id="r/vm-2")
    fold.take(own)
    asked = fold.plan_run("own").request
    assert (asked.max_in_flight, asked.per_node, asked.per_site, asked.point) == (4, 5, 2, own.point)
    assert (asked.commit, asked.window_ms) == (CommitPolicy.HOLD, 0)


def test_a_plan_awaits_commitment_with_its_vms_and_passes_the_word_on() -> None:
    fold = both()
    asked = replace(request(UNPLANNED, plan="erp"), commit=CommitPolicy.AUTO_COMMIT, window_ms=60_000)
    fold.take(asked)
    finish(fold, "r/vm-1")
    finish(fold, "r/vm-2")
    assert fold.plan_run().state is RunState.AWAITING_COMMIT
    fold.wait(60_000)
    assert [fold.run(f"r/{vm}").state for vm in ("vm-1", "vm-2")] == [RunState.RUNNING] * 2
    finish(fold, "r/vm-1")
    finish(fold, "r/vm-2")
    assert fold.plan_run().state is RunState.SUCCEEDED


def test_a_member_that_tries_another_point_while_its_plan_is_rolled_back_is_rolled_back_too() -> None:
    fold = world()
    asked = replace(request(UNPLANNED, vms=("vm-1",)), commit=CommitPolicy.HOLD)
    fold.take(asked)
    finish(fold, "r/vm-1")
    member = fold.run("r/vm-1").request
    another = word(RequestAction.TRY_ANOTHER, member, point=WantedPoint(PointChoice.BEFORE, at_ms=1))
    fold.take(another, word(RequestAction.ROLL_BACK, asked))
    finish(fold, "r/vm-1")
    assert fold.run("r/vm-1").state is RunState.CANCELLED
    assert fold.plan_run().state is RunState.CANCELLED
    assert fold.vm().active_site == PRIMARY


def test_a_plan_that_is_cancelled_cancels_its_vms() -> None:
    fold = both()
    fold.take(request(plan="erp"))
    finish(fold, "r/vm-1", until="P3")
    fold.take(word(CANCEL, request(plan="erp")))
    finish(fold, "r/vm-1")
    assert (fold.run("r/vm-1").state, fold.plan_run().state) == (RunState.CANCELLED, RunState.CANCELLED)


def test_v1_a_plans_approval_is_its_own() -> None:
    policies = (
        Policy(PolicyScope.VM, "vm-1", approvals=(ApprovalRule(1),)),
        Policy(PolicyScope.PLAN, "erp", approvals=()),
    )
    fold = world(PLAN, *policies, request(plan="erp"))
    assert fold.run("r/vm-1").state is RunState.RUNNING
    fold = world(PLAN, *policies, request())
    assert fold.run().state is RunState.AWAITING_APPROVAL


# R14: bugs


def test_r14_an_unexpected_error_parks_the_run_that_it_is_about() -> None:
    fold = world(request())
    parked = park(fold.state, answer(), "KeyError: 'x'", Moment(NOW, 0))
    alerts = [each for each in parked.outputs if isinstance(each, Alert)]
    assert any("unexpected error with StepResult: KeyError: 'x'" in alert.what for alert in alerts)
    run = parked.kept["run/r"]
    assert run is not None
    assert getattr(run, "state", None) is RunState.PARKED
    by_time = park(fold.state, "run/r", "KeyError: 'x'", Moment(NOW, 0))
    assert getattr(by_time.kept["run/r"], "state", None) is RunState.PARKED


@pytest.mark.parametrize("subject", [inventory(), "vm/vm-1", answer("unknown"), "run/unknown"])
def test_r14_where_it_is_about_no_run_people_are_told(subject: Fact | str) -> None:
    decision = park(world().state, subject, "KeyError: 'x'", Moment(NOW, 0))
    assert decision.kept == {}
    (alert,) = decision.outputs
    assert isinstance(alert, Alert)
    assert alert.severity is Severity.CRITICAL


def test_r14_a_plans_run_goes_on_when_fixed_code_has_come() -> None:
    fold = both()
    fold.take(request(plan="erp"))
    parked = park(fold.state, "plan-run/r", "KeyError: 'x'", Moment(NOW, 0))
    fold.state.update({key: value for key, value in parked.kept.items() if value is not None})
    assert "unexpected error" in fold.plan_run().waits_for
    fold.wait(60_000)
    assert (fold.plan_run().waits_for, fold.plan_run().state) == ("", RunState.RUNNING)


def test_r3_a_run_that_nobody_answers_is_tried_again_by_time() -> None:
    fold = world(request())
    for _ in range(10):
        if fold.run().state.ended:
            break
        fold.wait(fold.run().due_ms - fold.now_ms)
    assert fold.run().state is RunState.FAILED
    assert [command.attempt for command in fold.told(StepCommand)] == [1, 2, 3]
    assert fold.snapshot().detail == "P0: no answer within 15 s"


def test_an_answer_that_failed_is_told_in_the_runs_report() -> None:
    fold = finish(world(request()), until="P8")
    for _ in range(5):
        fold.answer(FAILED, "P8")
        fold.wait(max(0, fold.run().due_ms - fold.now_ms) if not fold.run().state.ended else 0)
    assert (fold.snapshot().state, fold.snapshot().detail) == (RunState.COMPLETED_WITH_ERRORS, "P8: as told")
