"""Automatic failover: what the broker makes of its guards, in each mode, as evidence comes and goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rule_cases import DONE, FAILBACK, NOW, PLANNED, REFUSED, REPROTECT, TEST, UNPLANNED, Fold, new_run, word
from simulator import CLUSTERS, PRIMARY, REPLICA, TARGET, inventory, report, request

from failover_orch.domain.facts import (
    FailoverKind,
    FailoverRequested,
    MoveKind,
    ReplicationReport,
    RequestAction,
    VmMoved,
)
from failover_orch.domain.guards import Guard
from failover_orch.domain.policies import AutomaticMode, AutomaticRun, Brake, Evidence, Policy, PolicyScope, Verdict
from failover_orch.domain.records import Action, Alert, PlanMembership, RunState, StepCommand
from failover_orch.domain.settings import RecoveryGroup, RecoveryPlan, VmReplicationSettings
from failover_orch.domain.state import AutomaticRuns, Cooldown
from failover_orch.domain.terms import CommitPolicy

OFF, OBSERVE, ADVISE, ACT = AutomaticMode
HOLD_DOWN_MS, EVIDENCE_MS, SILENT_MS = 60_000, 120_000, 95_000


class Site(Fold):
    """A VM whose primary falls silent, and what its replica and a witness say of it."""

    def __init__(self, mode: AutomaticMode | None = None, *vms: str, **limits: object) -> None:
        super().__init__(*CLUSTERS)
        self.vms = vms or ("vm-1",)
        for vm in self.vms:
            self.take(
                inventory(vm),
                VmMoved(vm, PRIMARY, "p1", MoveKind.PLACED, 1, cluster="pc", sequence=1),
                VmMoved(vm, REPLICA, "d1", MoveKind.PLACED, 2, cluster="dc", sequence=1),
                VmReplicationSettings(vm, (TARGET,)),
            )
        self.take(Policy(PolicyScope.ALL, mode=mode, drill_within_ms=0, **limits))  # type: ignore[arg-type]  # limits

    def starve(self, vm: str = "vm-1") -> None:
        """The replica says that it receives nothing."""
        self.take(replace(self.of_replica(vm), last_replication_at_ms=self.now_ms - SILENT_MS))

    def feed(self, vm: str = "vm-1") -> None:
        self.take(self.of_replica(vm))

    def of_replica(self, vm: str) -> ReplicationReport:
        return replace(report(REPLICA, self.now_ms), vm_id=vm)

    def witness(self, verdict: Verdict = Verdict.DOWN, *, observer: str = "w", place: str = "witness") -> None:
        self.take(Evidence(observer, place, PRIMARY, verdict, self.now_ms))

    def suspect(self) -> None:
        for vm in self.vms:
            self.starve(vm)
        self.witness()

    def unreachable(self) -> None:
        """For as long as the hold-down takes replica and witness miss the primary; nobody proves that it is off."""
        for later_ms in (0, HOLD_DOWN_MS):
            self.now_ms += later_ms
            self.starve()
            self.witness(Verdict.UNREACHABLE)

    def hold(self, ms: int = HOLD_DOWN_MS) -> None:
        """Time passes, and what was said is said again, as observers do."""
        self.now_ms += ms
        self.suspect()

    def brake(self, *, engaged: bool, actor: str = "ann", reason: str = "storm") -> None:
        self.take(Brake(engaged=engaged, actor=actor, reason=reason, at_ms=self.now_ms))

    def proposed(self) -> FailoverRequested:
        """The one thing that the broker asks of a plan, however often."""
        (asked,) = {each for each in self.told(FailoverRequested) if each.automatic and each.plan_id}
        return asked

    def auto_runs(self) -> list[str]:
        return [key.removeprefix("run/") for key in self.state if key.startswith("run/auto-")]


def test_g0_observe_says_once_what_it_would_do_and_does_nothing() -> None:
    site = Site(OBSERVE)
    site.suspect()
    site.hold()
    site.hold(5_000)
    said = [line for line in site.journal("") if line.startswith("G0")]
    assert len(said) == 1
    assert said[0].startswith("G0 would fail over now, were the mode not OBSERVE: evidence from 2 of 2 places")
    assert (site.auto_runs(), site.told(StepCommand), site.vm().cooldowns) == ([], [], ())


def test_g0_observe_is_the_mode_that_nobody_has_set() -> None:
    site = Site()
    site.suspect()
    site.hold()
    assert "G0" in site.rules("")
    assert site.auto_runs() == []


def test_g0_advise_proposes_and_waits_for_a_person() -> None:
    site = Site(ADVISE)
    site.suspect()
    site.hold()
    (run_id,) = site.auto_runs()
    run = site.run(run_id)
    assert (run.state, run.request.needs_approval, run.request.kind) == (RunState.AWAITING_APPROVAL, True, UNPLANNED)
    assert site.rules(run_id) == ["V1"]
    assert site.vm().cooldowns == ()
    site.take(word(RequestAction.APPROVE, run.request))
    assert site.run(run_id).state is RunState.RUNNING
    assert site.told(StepCommand)[-1].attested
    assert site.vm().cooldowns == (Cooldown(UNPLANNED, site.now_ms + 3_600_000, run_id, "was not acknowledged yet"),)


def test_g0_act_fails_over_once() -> None:
    site = Site(ACT)
    site.suspect()
    site.hold(HOLD_DOWN_MS - 1)
    assert site.auto_runs() == []
    site.hold(1)
    (run_id,) = site.auto_runs()
    run = site.run(run_id)
    assert (run.request.actor, run.request.automatic, run.request.primary_is_down) == ("failover_orch", True, True)
    assert run.request.reason.startswith("all guards are open: evidence from 2 of 2 places")
    assert site.rules(run_id)[:2] == ["R1", "R2"]
    assert site.told(AutomaticRun) == [AutomaticRun(run_id, "vm-1", site.now_ms)]
    site.hold(5_000)
    site.hold(5_000)
    assert site.auto_runs() == [run_id]


def test_g0_the_hold_down_ends_by_the_clock_alone() -> None:
    site = Site(ACT)
    site.suspect()
    assert site.vm().due_ms == site.now_ms + HOLD_DOWN_MS
    site.wait(HOLD_DOWN_MS)
    assert len(site.auto_runs()) == 1


def test_off_does_not_even_look() -> None:
    site = Site(OFF)
    site.suspect()
    site.hold()
    assert [line for line in site.journal() if line.startswith("G")] == []
    assert (site.vm().suspected_since_ms, site.vm().guards_said) == (0, "")


def test_a_mode_that_is_set_is_taken_at_once() -> None:
    site = Site(OBSERVE)
    site.suspect()
    site.hold()
    site.take(Policy(PolicyScope.VM, "vm-1", mode=ACT, set_at_ms=1))
    assert len(site.auto_runs()) == 1
    off = Site(ACT)
    off.suspect()
    off.take(Policy(PolicyScope.VM, "vm-1", mode=OFF, set_at_ms=1))
    assert (off.vm().suspected_since_ms, off.vm().guards_said) == (0, "")
    off.wait(HOLD_DOWN_MS)
    assert off.auto_runs() == []


# Each guard, as it holds a failover back


def test_g1_what_holds_a_failover_back_is_said_once() -> None:
    site = Site(ACT)
    for _ in range(3):
        site.starve()
        site.now_ms += 1_000
    said = site.journal("")
    assert len(said) == 1
    assert said[0].startswith("G1 not failed over: evidence from 1 of 2 places")
    site.witness()
    assert site.rules("") == ["G1", "G2"]


def test_g1_a_primary_that_is_seen_again_is_no_longer_suspected() -> None:
    site = Site(ACT)
    site.suspect()
    site.now_ms += 1_000
    site.feed()
    site.witness(Verdict.UP)
    assert site.journal("")[-1].startswith("G1 no longer suspected")
    assert (site.vm().guards_said, site.vm().suspected_since_ms) == ("", 0)
    site.wait(HOLD_DOWN_MS)
    assert site.auto_runs() == []


def test_g1_one_who_sees_the_primary_starts_the_hold_down_anew() -> None:
    site = Site(ACT)
    site.suspect()
    site.hold(HOLD_DOWN_MS - 1_000)
    site.witness(Verdict.UP, observer="other", place="third")
    site.now_ms += 1_000
    site.witness(Verdict.DOWN, observer="other", place="third")
    site.hold(HOLD_DOWN_MS - 1_000)
    assert site.auto_runs() == []
    site.hold(1_000)
    assert len(site.auto_runs()) == 1


def test_g2_evidence_that_grows_stale_while_it_has_to_hold_is_none() -> None:
    site = Site(ACT, hold_down_ms=EVIDENCE_MS + 1_000)
    site.suspect()
    site.wait(EVIDENCE_MS + 1_000)
    assert site.auto_runs() == []
    assert site.vm().suspected_since_ms == 0


def test_g2_a_vm_that_moves_starts_the_hold_down_anew() -> None:
    site = Site(ACT)
    site.suspect()
    site.hold(HOLD_DOWN_MS - 1)
    site.take(VmMoved("vm-1", PRIMARY, "p2", MoveKind.LIVE, 3, cluster="pc", sequence=1))
    moved_at_ms = site.now_ms
    site.hold(1)
    assert site.auto_runs() == []
    assert site.vm().suspected_since_ms >= moved_at_ms
    site.hold(HOLD_DOWN_MS)
    assert len(site.auto_runs()) == 1


def test_g2_whoever_takes_over_starts_the_hold_down_anew() -> None:
    site = Site(ACT)
    site.suspect()
    site.now_ms += HOLD_DOWN_MS - 1
    site.opened_at_ms = site.now_ms
    site.suspect()
    site.wait(1)
    assert site.auto_runs() == []
    assert site.vm().due_ms == site.opened_at_ms + HOLD_DOWN_MS
    site.hold(HOLD_DOWN_MS - 1)
    assert len(site.auto_runs()) == 1


def test_g3_a_run_in_flight_holds_it_back() -> None:
    site = Site(ACT)
    site.suspect()
    site.take(request(UNPLANNED))
    site.now_ms += HOLD_DOWN_MS
    site.witness()
    assert site.journal("")[-1].startswith("G3 not failed over: run r is in flight")
    assert site.auto_runs() == []
    site.answer(REFUSED)
    assert site.run().state is RunState.FAILED
    site.hold()
    site.hold()
    assert len(site.auto_runs()) == 1


@pytest.mark.parametrize("kind", [PLANNED, FAILBACK, REPROTECT])
def test_g3_what_a_run_itself_brings_about_is_no_evidence(kind: FailoverKind) -> None:
    """The replica falls silent because its primary is being prepared."""
    site = Site(ACT)
    site.suspect()
    site.state["run/r"] = replace(new_run(request(kind)), state=RunState.RUNNING)
    site.state["vm/vm-1"] = replace(site.vm(), run_id="r")
    site.hold()
    assert (site.vm().suspected_since_ms, site.vm().guards_said) == (0, "")
    assert site.auto_runs() == []


def fenced(site: Site) -> str:
    """An automatic failover that is refused by its first step, so that the VM stays where it is."""
    site.suspect()
    site.hold()
    (run_id,) = site.auto_runs()
    site.answer(REFUSED)
    assert site.run(run_id).state is RunState.FAILED
    return run_id


def test_g4_a_cooldown_holds_the_next_one_back_until_it_is_over() -> None:
    site = Site(ACT, cooldown_ms=600_000)
    run_id = fenced(site)
    site.hold()
    site.hold()
    assert site.journal("")[-1].startswith(f"G4 not failed over: automatic failover {run_id} was not acknowledged yet")
    assert site.auto_runs() == [run_id]
    until = site.vm().due_ms
    assert until == site.vm().cooldowns[0].until_ms
    while site.now_ms < until:
        assert site.auto_runs() == [run_id]
        site.hold(min(HOLD_DOWN_MS, until - site.now_ms))
    assert len(site.auto_runs()) == 2


def test_g4_an_acknowledgement_ends_the_cooldown() -> None:
    site = Site(ACT)
    run_id = fenced(site)
    site.hold()
    site.hold()
    assert site.auto_runs() == [run_id]
    site.take(word(RequestAction.ACKNOWLEDGE, request(run_id=run_id)))
    assert site.vm().cooldowns == ()
    site.hold(1_000)
    assert len(site.auto_runs()) == 2
    site.answer(REFUSED)
    again = Site(ACT)
    again.take(word(RequestAction.ACKNOWLEDGE, request()))
    assert again.refused() == [("G4", "acknowledge: no automatic failover of this VM is to be acknowledged")]


def test_g4_a_person_is_not_held_back() -> None:
    site = Site(ACT)
    fenced(site)
    site.take(request(UNPLANNED))
    assert site.run().state is RunState.RUNNING


def test_g5_the_brake_holds_back_whatever_is_automatic_and_nothing_else() -> None:
    site = Site(ACT)
    site.brake(engaged=True)
    site.suspect()
    site.hold()
    assert site.journal("")[-1].startswith("G5 not failed over: engaged by ann: storm")
    assert site.auto_runs() == []
    site.take(request(UNPLANNED))
    assert site.run().state is RunState.RUNNING


def test_g5_only_a_person_who_says_why_releases_the_brake() -> None:
    site = Site(ACT)
    site.brake(engaged=True)
    site.suspect()
    site.hold()
    for actor, reason in (("", "seen"), ("ann", ""), ("failover_orch", "seen")):
        site.now_ms += 1
        site.brake(engaged=False, actor=actor, reason=reason)
        assert site.refused()[-1] == ("G5", "the brake is released by a person, who says why")
    assert site.auto_runs() == []
    site.now_ms += 1
    site.brake(engaged=False, reason="seen")
    assert any(line == "G5 the brake is released by ann: seen" for line in site.journal(""))
    assert len(site.auto_runs()) == 1


def test_g5_an_older_word_on_the_brake_is_passed_over() -> None:
    site = Site(ACT)
    site.brake(engaged=True)
    site.take(Brake(engaged=False, actor="ann", reason="old", at_ms=site.now_ms - 1))
    assert site.value("brake", Brake).engaged


def test_g6_without_a_fence_there_is_no_automatic_failover() -> None:
    site = Site(ACT)
    site.starve()
    site.witness(Verdict.UNREACHABLE)
    site.now_ms += HOLD_DOWN_MS
    site.starve()
    site.witness(Verdict.UNREACHABLE)
    assert site.journal("")[-1].startswith("G6 not failed over: nobody proves that the primary is off")
    site.now_ms += 1_000
    site.witness(Verdict.OFF)
    assert len(site.auto_runs()) == 1


@pytest.mark.parametrize("fences", [("primary/p1",), ("elsewhere/p1", "primary")])
def test_g6_a_fence_agent_of_the_replicas_site_is_a_fence(fences: tuple[str, ...]) -> None:
    site = Site(ACT)
    site.take(*(replace(cluster, reported_at_ms=1, fences=fences) for cluster in CLUSTERS if cluster.site == REPLICA))
    site.unreachable()
    (run_id,) = site.auto_runs()
    asked = site.run(run_id).request
    assert (asked.fence, asked.primary_is_down) == (True, False)
    (command,) = [told for told in site.told(StepCommand) if told.action is Action.CHECK_PRIMARY]
    assert (command.site, command.fence, command.attested) == (REPLICA, True, False)


@pytest.mark.parametrize(
    ("at", "fences"), [(REPLICA, ("primary/p2",)), (REPLICA, ("primary/p11",)), (PRIMARY, ("primary/p1",))]
)
def test_g6_a_fence_agent_for_another_node_or_of_the_primary_itself_is_none(at: str, fences: tuple[str, ...]) -> None:
    site = Site(ACT)
    site.take(*(replace(cluster, reported_at_ms=1, fences=fences) for cluster in CLUSTERS if cluster.site == at))
    site.unreachable()
    assert site.auto_runs() == []


def test_g6_where_the_primary_is_proved_off_nothing_is_cut() -> None:
    site = Site(ACT)
    site.take(
        *(replace(cluster, reported_at_ms=1, fences=("primary",)) for cluster in CLUSTERS if cluster.site == REPLICA)
    )
    site.suspect()
    site.hold()
    (run_id,) = site.auto_runs()
    assert (site.run(run_id).request.fence, site.run(run_id).request.primary_is_down) == (False, True)


def test_g7_the_brake_engages_by_itself_and_for_all_partitions() -> None:
    vms = [f"vm-{number}" for number in range(1, 5)]
    site = Site(ACT, *vms, brake_runs=2)
    site.suspect()
    site.hold()
    assert len(site.auto_runs()) == 2
    (brake,) = site.told(Brake)
    assert (brake.engaged, brake.actor) == (True, "failover_orch")
    assert brake.reason == "2 automatic failovers within 60 minutes"
    assert any("has engaged" in alert.what for alert in site.told(Alert) if alert.subject == "brake")
    site.now_ms += 7_200_000
    site.suspect()
    site.hold()
    assert len(site.auto_runs()) == 2
    site.brake(engaged=False, reason="understood")
    assert len(site.auto_runs()) == 4


def test_g7_once_a_person_has_released_the_brake_it_counts_from_nothing() -> None:
    site = Site(ACT, "vm-1", "vm-2", "vm-3", "vm-4", brake_runs=2)
    site.suspect()
    site.hold()
    site.now_ms += 1_000
    site.brake(engaged=False, reason="understood")
    assert len(site.auto_runs()) == 4
    assert len(site.told(Brake)) == 1


def test_g7_the_runs_of_other_partitions_count_and_a_repeated_one_counts_once() -> None:
    site = Site(ACT, brake_runs=2)
    other = AutomaticRun("auto-other", "vm-9", site.now_ms)
    site.take(other, other)
    site.suspect()
    site.hold()
    assert len(site.auto_runs()) == 1
    assert len(site.value("automatic-runs", AutomaticRuns).recent) == 2


@pytest.mark.parametrize("closes", ["G1", "G4", "G5", "G6"])
def test_g8_what_has_closed_meanwhile_refuses_the_proposal(closes: str) -> None:
    site = Site(ADVISE)
    site.suspect()
    site.hold()
    (run_id,) = site.auto_runs()
    match closes:
        case "G1":
            site.witness(Verdict.UP, observer="other", place="third")
        case "G4":
            vm = site.vm()
            site.state["vm/vm-1"] = replace(vm, cooldowns=(Cooldown(UNPLANNED, site.now_ms + 1, "auto-0"),))
        case "G5":
            site.brake(engaged=True)
        case _:
            site.now_ms += 1_000
            site.witness(Verdict.UNREACHABLE)
    site.take(word(RequestAction.APPROVE, site.run(run_id).request))
    assert site.rules(run_id) == ["V1", "V3", "G8"]
    assert site.run(run_id).state is RunState.REFUSED
    assert closes in site.journal(run_id)[-1]
    assert site.told(StepCommand) == []
    assert site.vm().run_id == ""


def test_g8_evidence_that_has_grown_stale_refuses_it_too() -> None:
    site = Site(ADVISE)
    site.suspect()
    site.hold()
    (run_id,) = site.auto_runs()
    site.now_ms += EVIDENCE_MS + 1
    site.take(word(RequestAction.APPROVE, site.run(run_id).request))
    assert site.rules(run_id)[-1] == "G8"


# Plans


PLAN = RecoveryPlan("erp", "ERP", (RecoveryGroup("all", ("vm-1", "vm-2")),))


def with_plan(mode: AutomaticMode | None) -> Site:
    site = Site(ACT, "vm-1", "vm-2")
    site.take(PLAN, Policy(PolicyScope.PLAN, "erp", mode=mode))
    return site


@pytest.mark.parametrize("mode", [ACT, ADVISE])
def test_a_plan_with_a_mode_of_its_own_fails_over_as_a_whole(mode: AutomaticMode) -> None:
    site = with_plan(mode)
    site.suspect()
    site.hold()
    asked = site.proposed()
    assert (asked.plan_id, asked.vm_id, asked.automatic, asked.kind) == ("erp", "", True, UNPLANNED)
    plan_run = site.plan_run(asked.run_id)
    if mode is ADVISE:
        assert plan_run.state is RunState.AWAITING_APPROVAL
        site.take(word(RequestAction.APPROVE, plan_run.request))
    assert site.plan_run(asked.run_id).state is RunState.RUNNING
    assert {command.vm_id for command in site.told(StepCommand)} == {"vm-1", "vm-2"}
    assert all(site.vm(vm).cooldowns for vm in site.vms)


def test_a_vm_whose_plan_says_nothing_fails_over_alone() -> None:
    site = with_plan(None)
    site.suspect()
    site.hold()
    assert [key for key in site.state if key.startswith("plan-run/")] == []
    assert len(site.auto_runs()) == 2


def test_g8_a_vm_of_the_plan_that_is_seen_is_left_where_it_is() -> None:
    site = with_plan(ADVISE)
    site.suspect()
    site.hold()
    asked = site.proposed()
    site.take(report(PRIMARY, site.now_ms), replace(report(PRIMARY, site.now_ms), vm_id="vm-2"))
    site.take(word(RequestAction.APPROVE, asked))
    assert site.run(f"{asked.run_id}/vm-1").state is RunState.REFUSED
    assert "G8" in site.rules(f"{asked.run_id}/vm-1")


def test_g8_the_brake_holds_a_plan_back_as_well() -> None:
    site = with_plan(ADVISE)
    site.suspect()
    site.hold()
    asked = site.proposed()
    site.brake(engaged=True)
    site.take(word(RequestAction.APPROVE, asked))
    assert site.told(StepCommand) == []


def test_g7_a_plan_that_fails_over_by_itself_counts_for_the_brake() -> None:
    site = with_plan(ACT)
    site.suspect()
    site.hold()
    assert len(site.value("automatic-runs", AutomaticRuns).recent) >= 1


def test_a_vm_that_joins_a_plan_has_its_mode() -> None:
    site = Site(OBSERVE)
    site.take(Policy(PolicyScope.PLAN, "erp", mode=OFF))
    site.suspect()
    assert site.vm().guards_said
    site.now_ms += 1_000
    site.take(PlanMembership("vm-1", "erp", member=True, at_ms=1))
    site.starve()
    assert site.vm().guards_said == ""


def test_g4_a_proposal_that_comes_to_nothing_is_made_again_after_the_cooldown() -> None:
    for refusing in ("reject", "expire"):
        site = Site(ADVISE, cooldown_ms=600_000)
        site.suspect()
        site.hold()
        (first,) = site.auto_runs()
        if refusing == "reject":
            site.take(word(RequestAction.REJECT, site.run(first).request))
        else:
            site.wait(3_600_000)
        assert site.run(first).state is RunState.REFUSED
        cooled_until_ms = site.vm().cooldowns[0].until_ms
        assert cooled_until_ms == site.now_ms + 600_000
        while site.now_ms < cooled_until_ms:
            assert site.auto_runs() == [first]
            site.hold(HOLD_DOWN_MS)
        site.hold(1_000)
        assert len(site.auto_runs()) == 2


# Beside other things


def test_an_automatic_failover_ends_a_test_and_keeps_its_cooldown() -> None:
    site = Site(ACT)
    site.take(replace(request(TEST, run_id="drill"), commit=CommitPolicy.HOLD))
    for _ in range(3):
        site.answer()
    assert site.run("drill").state is RunState.AWAITING_COMMIT
    site.suspect()
    site.hold()
    (run_id,) = site.auto_runs()
    assert site.run(run_id).state is RunState.RUNNING
    assert site.run("drill").state is RunState.UNDOING
    assert [each.run_id for each in site.vm().cooldowns] == [run_id]


def test_a_test_that_cannot_be_cancelled_any_more_does_not_cost_the_cooldown() -> None:
    site = Site(ACT)
    site.take(request(TEST, run_id="drill"))
    for _ in range(3):
        site.answer()
    assert site.told(StepCommand)[-1].step == "T5"
    site.suspect()
    site.hold()
    (run_id,) = site.auto_runs()
    assert [each.run_id for each in site.vm().cooldowns] == [run_id]
    site.answer(DONE, "T5")
    assert (site.vm().test_run_id, site.vm().run_id) == ("", run_id)


def test_a_vm_that_was_failed_over_is_no_longer_suspected() -> None:
    site = Site(ACT)
    site.suspect()
    site.hold()
    for _ in range(7):
        site.answer()
    (run_id,) = site.auto_runs()
    assert site.run(run_id).state is RunState.SUCCEEDED
    site.hold(1_000)
    assert (site.vm().active_site, site.vm().guards_said, site.vm().suspected_since_ms) == (REPLICA, "", 0)
    assert site.auto_runs() == [run_id]


def test_a_drill_that_grows_old_is_still_noticed_while_the_vm_is_suspected() -> None:
    site = Site(OBSERVE)
    site.take(Policy(PolicyScope.VM, "vm-1", drill_within_ms=600_000))
    site.state["vm/vm-1"] = replace(site.vm(), drilled_at_ms=site.now_ms)
    site.starve()
    site.witness()
    site.hold()
    assert "G0" in site.rules("")
    assert 0 < site.vm().due_ms <= NOW + 600_000


def test_a_guard_is_a_sentence() -> None:
    guard = Guard("G4", "cooldown", False, "none", "one", "wait")
    assert str(guard) == "cooldown: none; required: one"
