"""`failover-orch failover`, and `run list`, `show` and `wait`, on a real Kafka; the test plays the worker."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import typer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from playing import PLAN, VMS, Invoke, Worker, environment, invoking, publish, published, snapshot, step
from rich.console import Console

from failover_orch import telemetry
from failover_orch.cli import failover, runs, watching
from failover_orch.cli.watching import EXIT_CODES, EXIT_WAITS
from failover_orch.config import Settings
from failover_orch.domain import (
    CommitPolicy,
    FailoverKind,
    PointChoice,
    RequestAction,
    RunSnapshot,
    RunState,
    StepState,
    WantedPoint,
)

cli = typer.Typer()
cli.add_typer(failover.app, name="failover")
cli.add_typer(runs.app, name="run")


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    publish(settings, *VMS, PLAN)
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


def test_a_planned_failover_is_asked_for_and_watched(worker: Worker, invoke: Invoke) -> None:
    asked = worker.answering(
        lambda asked: [
            snapshot(RunState.RUNNING, step("P1", StepState.ISSUED), run_id=asked.run_id),
            snapshot(RunState.RUNNING, step("P1", StepState.DONE), step("P2", StepState.ISSUED), run_id=asked.run_id),
            snapshot(RunState.SUCCEEDED, step("P1", StepState.DONE), step("P2", StepState.DONE), run_id=asked.run_id),
        ]
    )
    told = invoke("failover", "planned", "erp-1", "--reason", "drill", "--actor", "alice", "--ticket", "CHG-1")
    request, _ = asked.result(60)
    assert (request.action, request.kind, request.vm_id) == (RequestAction.REQUEST, FailoverKind.PLANNED, "v1")
    assert (request.vm_ids, request.plan_id, request.primary_is_down) == ((), "", False)
    assert (request.actor, request.reason, request.ticket) == ("alice", "drill", "CHG-1")
    assert told.exit_code == 0, told.output
    lines = told.stdout.splitlines()
    assert lines[0] == request.run_id
    assert [line.split("  ")[0] for line in lines[1:-2]] == ["P1", "P1", "P2", "P2"]
    assert lines[-2:] == ["SUCCEEDED after 3.5 s; data lost: 0 s", "nic0: 10.2.0.5/24"]


@pytest.mark.parametrize(("state", "code"), [*EXIT_CODES.items()])
def test_the_exit_code_tells_how_it_ended(worker: Worker, invoke: Invoke, state: RunState, code: int) -> None:
    asked = worker.answering(lambda asked: [snapshot(state, run_id=asked.run_id)])
    told = invoke("failover", "unplanned", "v1", "--reason", "site lost", "--primary-is-down")
    request, _ = asked.result(60)
    assert (request.kind, request.primary_is_down) == (FailoverKind.UNPLANNED, True)
    assert request.actor  # the login name
    assert told.exit_code == code, told.output
    assert state.value in told.stdout
    if state is RunState.REFUSED:
        assert "F3: run r0 is in flight" in told.stdout


def test_several_vms_are_one_run_and_a_plan_is_named(worker: Worker, invoke: Invoke) -> None:
    asked = worker.answering(lambda asked: [])
    told = invoke("failover", "planned", "erp-2", "v1", "erp-1", "--reason", "drill", "--no-wait")
    assert told.exit_code == 0, told.output
    request, _ = asked.result(60)
    assert (request.vm_id, request.vm_ids, request.plan_id) == ("", ("v2", "v1"), "")
    assert told.stdout == f"{request.run_id}\n"


def test_a_plan_is_found_by_its_name(worker: Worker, invoke: Invoke) -> None:
    asked = worker.answering(lambda asked: [])
    told = invoke("failover", "planned", "--plan", "erp", "--reason", "drill", "--no-wait")
    assert told.exit_code == 0, told.output
    assert asked.result(60)[0].plan_id == "plan-1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["v1", "--plan", "ERP"], "one of the two"),
        ([], "one of the two"),
        (["v7"], "no VM 'v7' is known"),
        (["--plan", "mail"], "no recovery plan 'mail' is known"),
    ],
)
def test_a_target_that_is_none_is_not_asked_for(
    installation: Settings, invoke: Invoke, arguments: list[str], message: str
) -> None:
    told = invoke("failover", "planned", *arguments, "--reason", "drill")
    assert told.exit_code == 1
    assert message in told.stderr
    assert told.stdout == ""
    empty = invoke("failover", "planned", "v1", "--reason", " ")
    assert "--reason is empty" in empty.stderr


def test_at_a_terminal_the_run_is_a_table_that_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(watching, "console", Console(file=screen, force_terminal=True, width=160))
    with watching._display() as display:
        display(snapshot(RunState.RUNNING, step("P1", StepState.ISSUED)))
        assert "P1" in screen.getvalue()
        assert "ISSUED" in screen.getvalue()
        display(snapshot(RunState.SUCCEEDED, step("P1", StepState.DONE)))
    assert "run-1 SUCCEEDED" in screen.getvalue()
    assert "0.5" in screen.getvalue()


def test_the_trace_begins_with_the_request(worker: Worker, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens there: the spans are lost, and the trace goes on all the same.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(telemetry, "_EXPORT_TIMEOUT_S", 0.1)
    asked = worker.answering(lambda asked: [])
    assert invoke("failover", "planned", "v1", "--reason", "drill", "--no-wait").exit_code == 0
    _, traceparent = asked.result(60)
    assert TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def test_a_run_that_nobody_takes_up_is_waited_for_no_longer_than_asked(
    installation: Settings, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_SILENCE_S", 0.2)
    began = time.monotonic()
    told = invoke("failover", "planned", "v1", "--reason", "drill", "--timeout", "1.5")
    assert time.monotonic() - began < 15
    assert told.exit_code == 1
    assert "no worker has taken run-" in told.stderr
    assert "has not ended within 1.5 s; it goes on" in told.stderr


def test_runs_are_listed_shown_and_waited_for(installation: Settings, invoke: Invoke) -> None:
    listed = snapshot(
        RunState.RUNNING, step("v1", StepState.ISSUED), step("v2", StepState.DONE), run_id="run-ab", vm_id=""
    )
    member = RunSnapshot(
        "run-ab/v1",
        FailoverKind.PLANNED,
        RunState.RUNNING,
        "v1",
        (),
        "alice",
        "drill",
        1_000,
        0,
        parent_run_id="run-ab",
    )
    publish(installation, listed, member, snapshot(RunState.FAILED, step("P1", StepState.DONE), run_id="run-cd"))

    def ids(*options: str) -> list[str]:
        return [one["run_id"] for one in json.loads(invoke("run", "list", "--json", *options).stdout)["runs"]]

    assert ids() == ["run-ab", "run-cd"]
    assert ids("--all") == ["run-ab", "run-ab/v1", "run-cd"]
    assert ids("--vm", "erp-1") == ["run-ab/v1", "run-cd"]
    assert ids("--state", "failed") == ["run-cd"]
    assert "2 VMs" in invoke("run", "list").stdout
    shown = invoke("run", "show", "run-c").stdout
    assert "write the failover TCP/IP settings" in shown  # a step's purpose, from the workflow's table
    assert "alice: drill" in shown
    assert [one["run_id"] for one in json.loads(invoke("run", "show", "run-ab", "--json").stdout)["members"]] == [
        "run-ab/v1"
    ]


def test_only_the_run_asked_for_is_waited_for(installation: Settings, invoke: Invoke) -> None:
    others = [snapshot(RunState.SUCCEEDED, run_id=f"run-{n}") for n in range(8)]
    publish(installation, *others)
    publish(installation, snapshot(RunState.FAILED, run_id="run-cd"))
    waited = invoke("run", "wait", "run-c")
    assert waited.exit_code == 3
    assert "FAILED after 3.5 s" in waited.stdout


@pytest.mark.parametrize("kind", [FailoverKind.REPROTECT, FailoverKind.FAILBACK])
def test_reprotection_and_failback_are_asked_for_alike(worker: Worker, invoke: Invoke, kind: FailoverKind) -> None:
    asked = worker.answering(lambda asked: [snapshot(RunState.SUCCEEDED, run_id=asked.run_id, kind=kind)])
    told = invoke("failover", kind.lower(), "v1", "v2", "--reason", "home again", "--max-in-flight", "1")
    request, _ = asked.result(60)
    assert told.exit_code == 0, told.output
    assert (request.kind, request.vm_ids, request.max_in_flight) == (kind, ("v1", "v2"), 1)


def test_an_unplanned_failover_takes_its_terms(worker: Worker, invoke: Invoke) -> None:
    asked = worker.answering(lambda asked: [])
    told = invoke(
        *("failover", "unplanned", "v1", "--reason", "site lost", "--before", "2020-01-01T00:00:00Z"),
        *("--commit", "auto-rollback", "--window", "90", "--accept-data-loss", "--no-wait"),
    )
    assert told.exit_code == 0, told.output
    request, _ = asked.result(60)
    assert request.point == WantedPoint(PointChoice.BEFORE, at_ms=1_577_836_800_000)
    assert (request.commit, request.window_ms) == (CommitPolicy.AUTO_ROLL_BACK, 90_000)
    assert request.accept_data_loss


def test_what_a_plan_decides_cannot_be_asked_for_otherwise(installation: Settings, invoke: Invoke) -> None:
    consistent = WantedPoint(PointChoice.APPLICATION_CONSISTENT)
    publish(installation, replace(PLAN, plan_id="held", name="Held", commit=CommitPolicy.HOLD, point=consistent))
    for options, message in (
        (("--recovery-point", "latest"), "plan Held asks for the newest application-consistent recovery point"),
        (("--commit", "at-once"), "plan Held says HOLD"),
    ):
        told = invoke("failover", "unplanned", "--plan", "held", "--reason", "site lost", "--no-wait", *options)
        assert told.exit_code == 1
        assert message in told.stderr
    assert published(installation, "failover-requested") == []
    assert invoke("failover", "unplanned", "--plan", "held", "--reason", "site lost", "--no-wait").exit_code == 0


@pytest.mark.parametrize(
    ("keep", "commit", "window_ms"),
    [
        ((), CommitPolicy.AT_ONCE, 0),
        (("--keep", "600"), CommitPolicy.AUTO_COMMIT, 600_000),
        (("--keep", "until-told"), CommitPolicy.HOLD, 0),
    ],
)
def test_a_test_copy_is_kept_as_asked(
    worker: Worker, invoke: Invoke, keep: tuple[str, ...], commit: CommitPolicy, window_ms: int
) -> None:
    asked = worker.answering(lambda asked: [])
    told = invoke("failover", "test", "v1", "--reason", "drill", "--recovery-point", "rp-7", "--no-wait", *keep)
    assert told.exit_code == 0, told.output
    request, _ = asked.result(60)
    assert (request.kind, request.commit, request.window_ms) == (FailoverKind.TEST, commit, window_ms)
    assert request.point == WantedPoint(PointChoice.NAMED, point_id="rp-7")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("planned", ("--before", "15m")),
        ("planned", ("--accept-data-loss",)),
        ("failback", ("--commit", "hold")),
        ("reprotect", ("--primary-is-down",)),
        ("test", ("--window", "5")),
        ("unplanned", ("--keep", "5")),
    ],
)
def test_options_that_do_not_apply_do_not_exist(invoke: Invoke, kind: str, options: tuple[str, ...]) -> None:
    told = invoke("failover", kind, "v1", "--reason", "drill", *options)
    assert told.exit_code == 2
    assert "No such option" in told.stderr


def test_options_that_make_no_sense_together_are_not_asked_for(installation: Settings, invoke: Invoke) -> None:
    told = invoke("failover", "unplanned", "v1", "--reason", "site lost", "--commit", "auto-commit")
    assert told.exit_code == 1
    assert "--commit auto-commit needs a --window" in told.stderr
    assert published(installation, "failover-requested") == []


APPROVAL: dict[str, Any] = {"waits_for": "approval by 1 of bob, carl", "choices": ("APPROVE", "REJECT", "CANCEL")}


def test_waiting_ends_where_a_person_is_needed(worker: Worker, invoke: Invoke) -> None:
    asked = worker.answering(lambda asked: [snapshot(RunState.AWAITING_APPROVAL, run_id=asked.run_id, **APPROVAL)])
    told = invoke("failover", "planned", "v1", "--reason", "drill", "--timeout", "30")
    request, _ = asked.result(60)
    assert told.exit_code == EXIT_WAITS, told.output
    assert told.stdout == f"{request.run_id}\n"
    expected = f"run {request.run_id} waits: approval by 1 of bob, carl; tell it with"
    assert told.stderr == f"failover-orch: {expected} `failover-orch run approve|reject|cancel`\n"


def test_waiting_goes_on_with_people_where_asked_to(worker: Worker, invoke: Invoke) -> None:
    asked = worker.answering(
        lambda asked: [
            snapshot(RunState.AWAITING_APPROVAL, run_id=asked.run_id, **APPROVAL),
            snapshot(RunState.SUCCEEDED, run_id=asked.run_id),
        ]
    )
    told = invoke("failover", "planned", "v1", "--reason", "drill", "--wait-for-people")
    asked.result(60)
    assert told.exit_code == 0, told.output
    assert told.stderr == ""


def test_a_plan_waits_where_one_of_its_vms_is_parked(worker: Worker, invoke: Invoke) -> None:
    def answer(request: object) -> list[RunSnapshot]:
        run_id = getattr(request, "run_id", "")
        plan = snapshot(RunState.RUNNING, step("v1", StepState.ISSUED), run_id=run_id, vm_id="", plan_id="plan-1")
        parked: dict[str, Any] = {
            "parent_run_id": run_id,
            "waits_for": "alice has to say how it goes on after P7: no memory",
        }
        return [plan, snapshot(RunState.PARKED, run_id=f"{run_id}/v1", choices=("RESUME", "SKIP"), **parked)]

    asked = worker.answering(answer)
    told = invoke("failover", "planned", "--plan", "ERP", "--reason", "drill", "--timeout", "30")
    request, _ = asked.result(60)
    assert told.exit_code == EXIT_WAITS, told.output
    assert f"run {request.run_id}/v1 waits: alice has to say" in told.stderr


def test_those_who_wait_are_listed_with_whom_they_wait_for(installation: Settings, invoke: Invoke) -> None:
    publish(
        installation,
        snapshot(RunState.AWAITING_APPROVAL, run_id="run-a", **APPROVAL),
        snapshot(RunState.RUNNING, run_id="run-b"),
        snapshot(
            RunState.PARKED, run_id="run-c/v2", vm_id="v2", parent_run_id="run-c", waits_for="carl", choices=("SKIP",)
        ),
    )
    listed = invoke("run", "list", "--waiting").stdout
    assert "approval by 1 of bob, carl" in listed
    assert "approve, reject, cancel" in listed
    ids = [one["run_id"] for one in json.loads(invoke("run", "list", "--waiting", "--json").stdout)["runs"]]
    assert ids == ["run-a", "run-c/v2"]
    waited = invoke("run", "wait", "run-a", "--timeout", "30")
    assert waited.exit_code == EXIT_WAITS


def test_a_run_is_shown_with_what_it_waits_for_and_achieved(installation: Settings, invoke: Invoke) -> None:
    plan = snapshot(
        RunState.AWAITING_COMMIT,
        step("v1", StepState.WAITING),
        step("all/after/dns", StepState.DONE),
        run_id="run-p",
        vm_id="",
        plan_id="plan-1",
        kind=FailoverKind.UNPLANNED,
        groups=("all", "all"),
        waits_for="alice has to commit or roll back what serves",
        choices=("COMMIT", "ROLL_BACK"),
        approved_by=("bob", "carl"),
        recovery_time_ms=61_500,
    )
    member = snapshot(
        RunState.AWAITING_COMMIT,
        run_id="run-p/v1",
        parent_run_id="run-p",
        recovery_point="rp-3",
        recovery_time_ms=60_000,
        from_site="primary",
        to_site="dr",
        waits_for="alice has to commit",
    )
    publish(installation, plan, member)
    shown = invoke("run", "show", "run-p").stdout
    for word in ("bob, carl", "commit, roll-back", "61.5 s", "group", "all/after/dns", "erp-1", "60 s"):
        assert word in shown, word
    alone = invoke("run", "show", "run-p/v1").stdout
    for word in ("rp-3", "primary to dr", "run-p", "60 s"):
        assert word in alone, word
    # The plan speaks for its VMs: the word that commits it goes to the plan.
    ids = [one["run_id"] for one in json.loads(invoke("run", "list", "--waiting", "--json").stdout)["runs"]]
    assert ids == ["run-p"]
