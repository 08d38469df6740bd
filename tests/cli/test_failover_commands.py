"""`failover-orch failover` and `run`, on a real Kafka, with a worker that answers as the test tells it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing

import pytest
import typer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from rich.console import Console
from typer.testing import CliRunner, Result

from failover_orch import telemetry
from failover_orch.cli import failover
from failover_orch.cli.failover import EXIT_CODES, app, cancellation, run_app
from failover_orch.config import Settings
from failover_orch.contract import Codec, traceparent_of
from failover_orch.domain import (
    FailoverKind,
    FailoverRequested,
    Guest,
    RecoveryGroup,
    RecoveryPlan,
    Replication,
    ReplicationState,
    RequestAction,
    RunSnapshot,
    RunState,
    StepProgress,
    StepState,
    VmInventory,
)
from failover_orch.errors import LookupFailed
from failover_orch.wire import Publisher, Received, follow

Invoke = Callable[..., Result]

REPLICATION = Replication(ReplicationState.REPLICATING, "primary", "dr")
VMS = tuple(VmInventory(f"v{n}", f"erp-{n}", (), Guest("debian-12"), REPLICATION) for n in (1, 2))
PLAN = RecoveryPlan("plan-1", "ERP", (RecoveryGroup("all", ("v1", "v2")),))

cli = typer.Typer()
cli.add_typer(app, name="failover")
cli.add_typer(run_app, name="run")


def snapshot(
    state: RunState, *steps: StepProgress, run_id: str = "run-1", vm_id: str = "v1", plan_id: str = ""
) -> RunSnapshot:
    return RunSnapshot(
        run_id,
        FailoverKind.PLANNED,
        state,
        vm_id,
        steps,
        "alice",
        "drill",
        1_000,
        4_500 if state.ended else 0,
        plan_id=plan_id,
        data_loss_ms=0,
        addresses={"nic0": "10.2.0.5/24"} if state is RunState.SUCCEEDED else {},
        detail="F3: run r0 is in flight" if state is RunState.REFUSED else "",
    )


def step(name: str, state: StepState) -> StepProgress:
    return StepProgress(name, state, 1, "", 1_000, 1_500 if state is StepState.DONE else 0)


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("FAILOVER_ORCH_BOOTSTRAP", settings.bootstrap)
    monkeypatch.setenv("FAILOVER_ORCH_TOPIC_PREFIX", settings.topic_prefix)
    monkeypatch.setenv("FAILOVER_ORCH_PARTITIONS", str(settings.partitions))
    publish(settings, *VMS, PLAN)
    return settings


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    root, client = logging.getLogger(), logging.getLogger("aiokafka")
    handlers, levels = root.handlers[:], (root.level, client.level)
    yield lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments])
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    client.setLevel(levels[1])


def publisher(settings: Settings) -> Publisher:
    return Publisher(settings.bootstrap, Codec(), names=settings.names, partitions=settings.partitions, source="test")


def publish(settings: Settings, *values: object) -> None:
    async def all_of_them() -> None:
        async with publisher(settings) as kafka:
            await kafka.publish(*values)

    asyncio.run(all_of_them())


class Worker:
    """Waits for one request and answers it with snapshots of a run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(1)

    def answering(self, answer: Callable[[str], Sequence[RunSnapshot]]) -> Future[tuple[FailoverRequested, str]]:
        return self._threads.submit(asyncio.run, self._answer(answer))

    async def _answer(self, answer: Callable[[str], Sequence[RunSnapshot]]) -> tuple[FailoverRequested, str]:
        async with asyncio.timeout(60), publisher(self._settings) as kafka, aclosing(self._follow()) as reading:
            async for records in reading:
                value = records[0].value
                request = Codec().decode_from("failover-requested", value)
                assert isinstance(request, FailoverRequested)
                for one in answer(request.run_id):
                    await kafka.publish(one)
                return request, traceparent_of(records[0].headers)
        raise AssertionError("no request came")

    def _follow(self) -> AsyncGenerator[list[Received], None]:
        return follow(self._settings.bootstrap, ("failover-requested",), names=self._settings.names)

    def close(self) -> None:
        self._threads.shutdown()


@pytest.fixture
def worker(installation: Settings) -> Iterator[Worker]:
    made = Worker(installation)
    yield made
    made.close()


def test_a_planned_failover_is_asked_for_and_watched(worker: Worker, invoke: Invoke) -> None:
    asked = worker.answering(
        lambda run_id: [
            snapshot(RunState.RUNNING, step("P1", StepState.ISSUED), run_id=run_id),
            snapshot(RunState.RUNNING, step("P1", StepState.DONE), step("P2", StepState.ISSUED), run_id=run_id),
            snapshot(RunState.SUCCEEDED, step("P1", StepState.DONE), step("P2", StepState.DONE), run_id=run_id),
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
    asked = worker.answering(lambda run_id: [snapshot(state, run_id=run_id)])
    told = invoke("failover", "unplanned", "v1", "--reason", "site lost", "--primary-is-down")
    request, _ = asked.result(60)
    assert (request.kind, request.primary_is_down) == (FailoverKind.UNPLANNED, True)
    assert request.actor  # the login name
    assert told.exit_code == code, told.output
    assert state.value in told.stdout
    if state is RunState.REFUSED:
        assert "F3: run r0 is in flight" in told.stdout


def test_several_vms_are_one_run_and_a_plan_is_named(worker: Worker, invoke: Invoke) -> None:
    asked = worker.answering(lambda run_id: [])
    told = invoke("failover", "planned", "erp-2", "v1", "erp-1", "--reason", "drill", "--no-wait")
    assert told.exit_code == 0, told.output
    request, _ = asked.result(60)
    assert (request.vm_id, request.vm_ids, request.plan_id) == ("", ("v2", "v1"), "")
    assert told.stdout == f"{request.run_id}\n"


def test_a_plan_is_found_by_its_name(worker: Worker, invoke: Invoke) -> None:
    asked = worker.answering(lambda run_id: [])
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
    monkeypatch.setattr(failover, "console", Console(file=screen, force_terminal=True, width=160))
    with failover._display() as display:
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
    asked = worker.answering(lambda run_id: [])
    assert invoke("failover", "planned", "v1", "--reason", "drill", "--no-wait").exit_code == 0
    _, traceparent = asked.result(60)
    assert TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def test_a_run_that_nobody_takes_up_is_waited_for_no_longer_than_asked(
    installation: Settings, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "_SILENCE_S", 0.2)
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


def test_a_run_is_cancelled_under_its_own_id(worker: Worker, installation: Settings, invoke: Invoke) -> None:
    publish(installation, snapshot(RunState.RUNNING, run_id="run-ab"), snapshot(RunState.FAILED, run_id="run-cd"))
    asked = worker.answering(lambda run_id: [snapshot(RunState.CANCELLED, run_id=run_id)])
    told = invoke("run", "cancel", "run-a", "--reason", "wrong VM", "--actor", "bob")
    request, _ = asked.result(60)
    assert told.exit_code == 0, told.output
    assert (request.run_id, request.action, request.vm_id) == ("run-ab", RequestAction.CANCEL, "v1")
    assert (request.actor, request.reason) == ("bob", "wrong VM")
    late = invoke("run", "cancel", "run-cd", "--reason", "wrong VM")
    assert late.exit_code == 1
    assert "run run-cd has ended already: FAILED" in late.stderr


def test_a_cancellation_has_the_target_of_its_run() -> None:
    def target(known: RunSnapshot) -> tuple[str, str, tuple[str, ...]]:
        request = cancellation(known, actor="a", reason="r", ticket="", at_ms=1)
        return request.vm_id, request.plan_id, request.vm_ids

    steps = (step("v1", StepState.DONE), step("v2", StepState.ISSUED))
    assert target(snapshot(RunState.RUNNING, step("P1", StepState.DONE))) == ("v1", "", ())
    assert target(snapshot(RunState.RUNNING, *steps, vm_id="", plan_id="plan-1")) == ("", "plan-1", ())
    assert target(snapshot(RunState.RUNNING, *steps, vm_id="")) == ("", "", ("v1", "v2"))
    with pytest.raises(LookupFailed, match="has ended already"):
        cancellation(snapshot(RunState.SUCCEEDED), actor="a", reason="r", ticket="", at_ms=1)
