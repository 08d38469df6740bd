"""What people say to runs: the table of words, what is refused before and after it is published, and how it ends."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from playing import VMS, Invoke, Worker, environment, invoking, publish, published, snapshot, step

from failover_orch.cli import runs
from failover_orch.cli.watching import EXIT_REFUSED, EXIT_WAITS
from failover_orch.cli.words import WORDS
from failover_orch.config import Settings
from failover_orch.domain import (
    LEGAL_IN,
    AuditEntry,
    FailoverKind,
    FailoverRequested,
    JournalEntry,
    PointChoice,
    RequestAction,
    RunSnapshot,
    RunState,
    StepState,
    WantedPoint,
)
from failover_orch.service import request_to, sayable, why_not

cli = typer.Typer()
cli.add_typer(runs.app, name="run")

PARKED: dict[str, Any] = {
    "waits_for": "alice has to say how it goes on after P7: no memory",
    "choices": ("RESUME", "SKIP"),
}


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    publish(settings, *VMS)
    return settings


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    with invoking(cli) as invoke:
        yield invoke


@pytest.fixture
def worker(installation: Settings) -> Iterator[Worker]:
    made = Worker(installation)
    yield made
    made.close()


def test_every_word_has_its_command() -> None:
    asked_for_elsewhere = {RequestAction.REQUEST, RequestAction.ACKNOWLEDGE}
    assert {word.action for word in WORDS} == set(RequestAction) - asked_for_elsewhere
    assert {word.action for word in WORDS} == set(LEGAL_IN)


@pytest.mark.parametrize(("action", "state"), list(itertools.product(LEGAL_IN, RunState)))
def test_what_a_vms_run_can_be_told_is_what_the_rules_say(action: RequestAction, state: RunState) -> None:
    known = snapshot(state, choices=tuple(RequestAction) if state is RunState.PARKED else ())
    assert (action in sayable(known)) == (state in LEGAL_IN[action])
    assert (why_not(known, action) == "") == (state in LEGAL_IN[action])


def test_a_parked_run_can_be_told_what_it_offers_and_to_cancel() -> None:
    known = snapshot(RunState.PARKED, **PARKED)
    assert sayable(known) == {RequestAction.RESUME, RequestAction.SKIP, RequestAction.CANCEL}
    expected = "run run-1 is PARKED and cannot be told to try-another; it can be told resume, skip, cancel"
    assert why_not(known, RequestAction.TRY_ANOTHER) == expected
    ended = "run run-1 has ended SUCCEEDED and cannot be told to cancel; it can be told nothing"
    assert why_not(snapshot(RunState.SUCCEEDED), RequestAction.CANCEL) == ended


def test_a_plans_run_can_be_told_what_it_offers_and_taken_up_again() -> None:
    running = snapshot(RunState.RUNNING, vm_id="", plan_id="p", choices=("CONFIRM", "SKIP"))
    assert sayable(running) == {RequestAction.CONFIRM, RequestAction.SKIP, RequestAction.CANCEL}
    for state in (RunState.FAILED, RunState.COMPLETED_WITH_ERRORS):
        assert sayable(snapshot(state, vm_id="", plan_id="p")) == {RequestAction.RESUME}
        assert sayable(snapshot(state)) == set()
    assert sayable(snapshot(RunState.CANCELLED, vm_id="", plan_id="p")) == set()


def test_a_word_has_the_id_and_the_target_of_its_run() -> None:
    def target(known: RunSnapshot) -> tuple[str, str, tuple[str, ...]]:
        request = request_to(known, RequestAction.CANCEL, actor="a", reason="r", at_ms=1)
        assert request.run_id == known.run_id
        return request.vm_id, request.plan_id, request.vm_ids

    steps = (step("v1", StepState.DONE), step("v2", StepState.ISSUED))
    assert target(snapshot(RunState.RUNNING, step("P1", StepState.DONE))) == ("v1", "", ())
    assert target(snapshot(RunState.RUNNING, *steps, vm_id="", plan_id="plan-1")) == ("", "plan-1", ())
    assert target(snapshot(RunState.RUNNING, *steps, vm_id="")) == ("", "", ("v1", "v2"))


def test_a_run_is_cancelled_under_its_own_id(worker: Worker, installation: Settings, invoke: Invoke) -> None:
    publish(installation, snapshot(RunState.RUNNING, run_id="run-ab"), snapshot(RunState.FAILED, run_id="run-cd"))
    asked = worker.answering(lambda asked: [snapshot(RunState.CANCELLED, run_id=asked.run_id)])
    told = invoke("run", "cancel", "run-a", "--reason", "wrong VM", "--actor", "bob", "--ticket", "INC-7")
    request, _ = asked.result(60)
    assert told.exit_code == 0, told.output
    assert (request.run_id, request.action, request.vm_id) == ("run-ab", RequestAction.CANCEL, "v1")
    assert (request.actor, request.reason, request.ticket) == ("bob", "wrong VM", "INC-7")


@pytest.mark.parametrize(
    ("command", "state", "ended", "code"),
    [
        ("cancel", RunState.RUNNING, RunState.SUCCEEDED, 3),
        ("roll-back", RunState.AWAITING_COMMIT, RunState.CANCELLED, 0),
        ("reject", RunState.AWAITING_APPROVAL, RunState.REFUSED, 0),
        ("abandon", RunState.PARKED, RunState.FAILED, 0),
        ("commit", RunState.AWAITING_COMMIT, RunState.SUCCEEDED, 0),
        ("approve", RunState.AWAITING_APPROVAL, RunState.FAILED, 3),
        ("resume", RunState.PARKED, RunState.COMPLETED_WITH_ERRORS, 2),
    ],
)
def test_the_exit_code_tells_whether_the_run_ended_as_it_was_told(
    worker: Worker,
    installation: Settings,
    invoke: Invoke,
    command: str,
    state: RunState,
    ended: RunState,
    code: int,
) -> None:
    publish(installation, snapshot(state, run_id="run-ab", waits_for="alice", choices=("RESUME", "ABANDON")))
    asked = worker.answering(lambda asked: [snapshot(ended, run_id=asked.run_id)])
    told = invoke("run", command, "run-ab", "--reason", "looked into it", "--actor", "bob")
    assert asked.result(60)[0].action.lower().replace("_", "-") == command
    assert told.exit_code == code, told.output


def test_what_the_run_cannot_be_told_now_is_not_published(installation: Settings, invoke: Invoke) -> None:
    publish(
        installation, snapshot(RunState.PARKED, run_id="run-ab", **PARKED), snapshot(RunState.FAILED, run_id="run-cd")
    )
    for arguments, sentence in [
        (
            ("commit", "run-ab"),
            "run run-ab is PARKED and cannot be told to commit; it can be told resume, skip, cancel",
        ),
        (("cancel", "run-cd"), "run run-cd has ended FAILED and cannot be told to cancel; it can be told nothing"),
        (("skip", "run-ab", "--step", "all/after/dns"), "run run-ab is of one VM and has no tasks: leave --step out"),
    ]:
        told = invoke("run", *arguments, "--reason", "why not")
        assert told.exit_code == EXIT_REFUSED
        assert told.stderr == f"failover-orch: {sentence}\n"
        assert told.stdout == ""
    assert invoke("run", "resume", "run-ab", "--reason", " ").exit_code == 1
    unnamed = invoke("run", "try-another", "run-ab", "--reason", "corrupt")
    assert unnamed.exit_code == 1
    assert "name the recovery point to try" in unnamed.stderr
    assert published(installation, "failover-requested") == []


def refusal(request: FailoverRequested, rule: str, why: str) -> JournalEntry:
    what = f"refused: {request.action.lower().replace('_', ' ')}: {why}"
    return JournalEntry(
        request.run_id, request.vm_id, 0, rule, what, "REFUSED", 1, actor=request.actor, reason=request.reason
    )


def test_what_the_broker_refuses_is_said_with_its_reason(
    worker: Worker, installation: Settings, invoke: Invoke
) -> None:
    waits: dict[str, Any] = {"waits_for": "approval by 1 of anybody but alice"}
    publish(installation, snapshot(RunState.AWAITING_APPROVAL, run_id="run-ab", **waits))
    why = "alice asked for this run, and nobody approves their own request"
    asked = worker.answering(
        lambda asked: [
            # Another one's word of the same kind, refused meanwhile, is none of our business.
            refusal(
                request_to(snapshot(RunState.RUNNING, run_id="run-ab"), asked.action, actor="x", reason="r", at_ms=1),
                "V5",
                "x",
            ),
            refusal(asked, "V4", why),
        ]
    )
    told = invoke("run", "approve", "run-ab", "--reason", "go on", "--actor", "alice", "--timeout", "30")
    asked.result(60)
    assert told.exit_code == EXIT_REFUSED, told.output
    assert told.stderr == f"failover-orch: V4: refused: approve: {why}\n"


def test_how_the_run_stood_before_the_word_does_not_end_the_waiting(
    worker: Worker, installation: Settings, invoke: Invoke
) -> None:
    waits: dict[str, Any] = {"waits_for": "approval by 2 of bob, carl, dora"}
    publish(installation, snapshot(RunState.AWAITING_APPROVAL, run_id="run-ab", **waits))
    still: dict[str, Any] = {"waits_for": "approval by 1 of carl, dora", "approved_by": ("bob",)}
    asked = worker.answering(lambda asked: [snapshot(RunState.AWAITING_APPROVAL, run_id=asked.run_id, **still)])
    told = invoke("run", "approve", "run-ab", "--reason", "agreed", "--actor", "bob", "--timeout", "30")
    asked.result(60)
    assert told.exit_code == EXIT_WAITS, told.output
    assert "waits: approval by 1 of carl, dora" in told.stderr


def test_another_recovery_point_and_a_task_are_named(worker: Worker, installation: Settings, invoke: Invoke) -> None:
    task = step("all/after/dns", StepState.WAITING)
    plan = snapshot(RunState.RUNNING, task, run_id="run-p", vm_id="", plan_id="plan-1", choices=("CONFIRM",))
    publish(installation, plan, snapshot(RunState.AWAITING_COMMIT, run_id="run-ab", waits_for="alice"))
    asked = worker.answering(lambda asked: [])
    told = invoke("run", "try-another", "run-ab", "--recovery-point", "rp-1", "--reason", "corrupt", "--no-wait")
    assert told.exit_code == 0, told.output
    assert asked.result(60)[0].point == WantedPoint(PointChoice.NAMED, point_id="rp-1")
    unknown = invoke("run", "confirm", "run-p", "--step", "all/after/nds", "--reason", "done by hand", "--no-wait")
    assert unknown.exit_code == EXIT_REFUSED
    assert "has no task 'all/after/nds'" in unknown.stderr
    named = invoke("run", "confirm", "run-p", "--step", "all/after/dns", "--reason", "done by hand", "--no-wait")
    assert named.exit_code == 0, named.output
    last = published(installation, "failover-requested")
    confirmed = next(one for one in last if one.action is RequestAction.CONFIRM)
    assert (confirmed.run_id, confirmed.plan_id, confirmed.step) == ("run-p", "plan-1", "all/after/dns")


@pytest.mark.parametrize("outcome", ["accepted", "refused"])
def test_an_automatic_failover_is_acknowledged(worker: Worker, invoke: Invoke, outcome: str) -> None:
    def answer(asked: FailoverRequested) -> list[object]:
        entry = AuditEntry("v1", "acknowledge", outcome, 1, asked.actor, asked.reason, evidence={"run": asked.run_id})
        why = "no automatic failover of this VM is to be acknowledged"
        return [entry] if outcome == "accepted" else [entry, refusal(asked, "G4", why)]

    asked = worker.answering(answer)
    told = invoke("run", "acknowledge", "erp-1", "--reason", "the switch is fixed", "--actor", "bob", "--timeout", "30")
    request, _ = asked.result(60)
    assert (request.action, request.vm_id, request.kind) == (RequestAction.ACKNOWLEDGE, "v1", FailoverKind.UNPLANNED)
    if outcome == "accepted":
        assert (told.exit_code, told.stdout) == (0, "the automatic failovers of erp-1 are acknowledged\n")
    else:
        assert told.exit_code == EXIT_REFUSED
        assert "G4: refused: acknowledge: no automatic failover" in told.stderr
