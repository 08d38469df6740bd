"""Requests and what becomes of them: each rule by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulator import START_MS, World, check, check_chains, request

from failover_orch.domain.broker import tick
from failover_orch.domain.draft import Moment
from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction, StepOutcome, StepResult
from failover_orch.domain.records import (
    Alert,
    AuditEntry,
    JournalEntry,
    RunSnapshot,
    RunState,
    Severity,
    StepCommand,
)
from failover_orch.domain.requests import KEEP_ENDED_RUNS_MS
from failover_orch.domain.settings import RecoveryGroup, RecoveryPlan, UnsetAdapters, VmReplicationSettings

PLANNED, UNPLANNED = FailoverKind
CANCEL = RequestAction.CANCEL


def ask(world: World, *requests: FailoverRequested) -> World:
    for each in requests:
        world.send(each)
    world.run()
    check_chains(world)
    return world


def refused(world: World) -> list[tuple[str, str]]:
    """Rule and reason of every refusal in the journal."""
    told = [entry for entry in world.told(JournalEntry) if entry.what.startswith("refused: ")]
    return [(entry.rule, entry.what.removeprefix("refused: ")) for entry in told]


def test_q1_a_request_whose_run_is_known_is_the_same_request() -> None:
    world = ask(World(), request())
    before = list(world.outputs)
    ask(world, request(), replace(request(), actor="bob"))
    assert world.outputs == before


def test_q1_a_request_that_was_refused_stays_refused() -> None:
    world = ask(World(), request(vm="nobody"))
    assert world.ended().state is RunState.REFUSED
    before = list(world.outputs)
    ask(world, request(vm="nobody"))
    assert world.outputs == before


@pytest.mark.parametrize("targets", [{"vm_id": ""}, {"plan_id": "erp"}, {"vm_ids": ("vm-1",)}])
def test_q2_a_request_names_one_target(targets: dict[str, object]) -> None:
    world = ask(World(), replace(request(), **targets))  # type: ignore[arg-type]  # any target
    assert [rule for rule, _ in refused(world)] == ["Q2"]
    assert world.ended().state is RunState.REFUSED


def test_q2_a_request_names_its_run() -> None:
    world = ask(World(), request(run_id=""))
    assert [rule for rule, _ in refused(world)] == ["Q2"]
    assert not world.told(RunSnapshot)


def test_q3_a_plan_that_is_not_known_or_empty() -> None:
    world = World()
    world.send(RecoveryPlan("empty", "empty", (RecoveryGroup("none", ()), RecoveryGroup("nobody", ("",)))))
    ask(world, request(plan="lost"), request(plan="empty", run_id="r2"), request(vms=("",), run_id="r3"))
    assert [rule for rule, _ in refused(world)] == ["Q3", "Q3", "Q3"]
    assert [world.ended(run).state for run in ("r", "r2", "r3")] == [RunState.REFUSED] * 3


def test_q4_a_cancel_of_a_run_that_is_not_known() -> None:
    world = ask(World(), request(action=CANCEL))
    assert refused(world) == [("Q4", "cancel: run r is not known")]
    assert [(e.what, e.outcome) for e in world.told(AuditEntry) if e.what == "cancel"] == [("cancel", "refused")]


@pytest.mark.parametrize("missing", [{"actor": ""}, {"reason": ""}])
@pytest.mark.parametrize("target", [{"vm": "vm-1"}, {"vms": ("vm-1",)}])
def test_q5_a_request_or_cancel_says_who_asks_and_why(
    missing: dict[str, str], target: dict[str, str | tuple[str, ...]]
) -> None:
    asked = request(**target)  # type: ignore[arg-type]  # a VM or a list
    world = ask(World(), replace(asked, **missing))  # type: ignore[arg-type]  # texts
    assert [rule for rule, _ in refused(world)] == ["Q5"]
    assert world.ended().state is RunState.REFUSED

    world = ask(World(), asked, replace(asked, action=CANCEL, **missing))  # type: ignore[arg-type]  # texts
    assert refused(world) == [("Q5", "cancel: a request says who asks and why")]
    assert world.ended().state is RunState.SUCCEEDED


def answer(run_id: str = "r", vm: str = "vm-1") -> StepResult:
    return StepResult(run_id, "P1", 1, vm, "dr", "d1", 3, StepOutcome.DONE, "so it is", START_MS)


def test_s1_a_result_of_a_run_that_is_not_known() -> None:
    world = World()
    world.send(answer())
    world.run()
    assert refused(world) == [("S1", "result of step P1 of run r, which is not known here")]


def test_s1_a_result_that_names_a_run_and_another_vm() -> None:
    world = ask(World(("vm-1", "vm-2")), request())
    world.send(answer(vm="vm-2"))
    world.run()
    assert [rule for rule, _ in refused(world)] == ["S1"]


@pytest.mark.parametrize("asked", [request(vm="nobody"), replace(request(), actor="")])
def test_a_result_of_a_run_that_never_was_one_changes_nothing(asked: FailoverRequested) -> None:
    world = ask(World(), asked)
    before = list(world.outputs)
    world.send(answer(vm=asked.vm_id))
    world.run()
    assert world.outputs == before
    ask(world, replace(request(vm=asked.vm_id), action=CANCEL))
    assert refused(world)[-1] == ("R6", "cancel: the run has already ended: REFUSED")


def test_what_speaks_against_a_failover_is_journalled_reason_by_reason() -> None:
    world = ask(World(primary_alive=False), request(UNPLANNED), request(UNPLANNED, run_id="again"))
    assert [rule for rule, _ in refused(world)] == ["F3"]
    ask(world, request(UNPLANNED, run_id="later"))
    assert [rule for rule, _ in refused(world)] == ["F3", "F2"]
    check(world)


def test_a_policy_that_keeps_an_adapter_is_journalled() -> None:
    world = World()
    world.send(VmReplicationSettings("vm-1", (), UnsetAdapters.KEEP, "ann", "plan", 2))
    ask(world, request())
    journal = [(entry.rule, entry.what) for entry in world.told(JournalEntry) if entry.run_id == "r"]
    assert journal[1] == ("A0", "by policy KEEP these come up with the primary's configuration: nic-0")
    assert [command.addresses for command in world.told(StepCommand)] == [()] * 8


@pytest.mark.parametrize(
    ("asked", "severity"),
    [(request(), None), (request(vm="nobody"), Severity.WARNING), (request(UNPLANNED), Severity.CRITICAL)],
)
def test_whoever_watches_hears_of_an_end_that_is_no_success(
    asked: FailoverRequested, severity: Severity | None
) -> None:
    world = ask(World(), asked)  # the primary runs, so that the unplanned failover is refused by its first step
    assert [alert.severity for alert in world.told(Alert)] == ([severity] if severity else [])
    ends = [entry for entry in world.told(AuditEntry) if entry.evidence.get("run") == "r" and entry.outcome.isupper()]
    assert [entry.outcome for entry in ends] == [world.ended().state.value]


def test_an_ended_run_is_forgotten_after_a_week() -> None:
    world = ask(World(), request(), request(run_id="list", vms=("nobody",)))
    (partition,) = world.partitions
    for key in ("run/r", "plan-run/list"):
        forgotten_at = world.now_ms + KEEP_ENDED_RUNS_MS
        early = tick(partition.state, key, Moment(forgotten_at - 60_000, 0))
        assert early.kept == {}
        partition.take(tick(partition.state, key, Moment(forgotten_at, 0)))
        assert key not in partition.state
        assert key not in partition.changelog
    assert tick(partition.state, "run/r", Moment(forgotten_at, 0)).kept == {}


def test_failing_over_back_needs_the_other_sites_addresses() -> None:
    """The addresses that were set are the replica site's: at the old primary they would be wrong."""
    world = ask(World(), request(), request(run_id="early"))
    ask(world, request(run_id="back"))
    assert [rule for rule, _ in refused(world)] == ["F3", "F10"]
    settings = world.vm().settings
    assert settings is not None
    world.send(replace(settings, set_at_ms=99))
    ask(world, request(run_id="again"))
    # Nothing speaks against it any more.
    assert world.rules("again")[:2] == ["R1", "R2"]
    assert {command.site for command in world.told(StepCommand) if command.run_id == "again"} >= {"primary"}
