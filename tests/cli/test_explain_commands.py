"""`explain`, the dry runs and `run report`, from the state that a real worker keeps on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playing import Invoke, environment, invoking, publish, publisher

from failover_orch.cli import app
from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.demo.processes import Processes
from failover_orch.domain import (
    Evidence,
    PlanAction,
    PlanActionKind,
    RecoveryGroup,
    RecoveryPlan,
    StepCommand,
    StepOutcome,
    StepResult,
    Verdict,
    VmReplicationSettings,
)
from failover_orch.wire import follow, now_ms
from standing_state import replica_report, what_stands

WITHIN_S = 60.0
TELL = PlanAction("tell", PlanActionKind.MANUAL, instruction="tell the users")
PLAN = RecoveryPlan("plan-1", "ERP", (RecoveryGroup("db", ("vm-1",)), RecoveryGroup("app", ("vm-2",), after=(TELL,))))
FACTS = what_stands("vm-1", "vm-2")
BY_ALICE = ("--reason", "drill", "--actor", "alice", "--ticket", "INC-7")


@pytest.fixture
def processes(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Processes]:
    """A worker, and what it is to know: two VMs and a plan of them."""
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    processes = Processes(tmp_path, dict(environment(settings)))
    try:
        processes.start("worker", "worker")
        publish(settings, *(fact for fact in FACTS if not isinstance(fact, VmReplicationSettings)), PLAN)
        yield processes
    finally:
        processes.stop()


@pytest.fixture
def invoke(processes: Processes) -> Iterator[Invoke]:
    with invoking(app) as invoke:
        yield invoke


@contextmanager
def site_agents(settings: Settings) -> Iterator[None]:
    """Both sites' agents: every step is done as soon as it is asked for."""

    async def serve() -> None:
        reading = follow(settings.bootstrap, ("step-commands.primary", "step-commands.dr"), names=settings.names)
        async with publisher(settings) as kafka, aclosing(reading):
            async for records in reading:
                for record in records:
                    command = Codec().decode_from(record.topic, record.value)
                    assert isinstance(command, StepCommand)
                    await kafka.publish(done(command))

    loop = asyncio.new_event_loop()
    serving = loop.create_task(serve())

    def work() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(serving)
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        thread.join()


def done(command: StepCommand) -> StepResult:
    observed = {f"addresses/{each.adapter_id}": "10.20.0.11/24" for each in command.addresses}
    return StepResult(
        run_id=command.run_id,
        step=command.step,
        attempt=command.attempt,
        vm_id=command.vm_id,
        site=command.site,
        node=command.node,
        epoch=command.epoch,
        outcome=StepOutcome.DONE,
        detail="so it is",
        finished_at_ms=now_ms(),
        observed=observed,
        key=command.key,
    )


def once(ask: Callable[[], Any], holds: Callable[[Any], object]) -> Any:
    """What is answered, once it is as it should be."""
    deadline = time.monotonic() + WITHIN_S
    while not holds(answer := ask()):
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
    return answer


def said(invoke: Invoke, *arguments: str) -> dict[str, Any]:
    """What a command answers in JSON; nothing while it does not know of what it is asked about."""
    result = invoke(*arguments, "--json")
    assert result.exit_code in (0, 1, 4), result.output
    return json.loads(result.stdout) if result.exit_code != 1 else {}


def refused(answer: dict[str, Any]) -> set[str]:
    """The rules that speak against a planned failover."""
    return {refusal["rule"] for refusal in answer["kinds"][0]["refusals"]} if answer else {"?"}


def ready(settings: Settings, invoke: Invoke) -> dict[str, Any]:
    """Set the VMs' addresses as soon as the VMs are known, and wait until a planned failover of them could start."""
    for vm_id in ("vm-1", "vm-2"):
        once(partial(said, invoke, "explain", "vm", vm_id), lambda answer: refused(answer) == {"A14"})
    publish(settings, *(fact for fact in FACTS if isinstance(fact, VmReplicationSettings)))
    once(partial(said, invoke, "explain", "vm", "vm-2"), lambda answer: not refused(answer))
    answer: dict[str, Any] = once(partial(said, invoke, "explain", "vm", "vm-1"), lambda answer: not refused(answer))
    return answer


def test_a_vm_is_explained_from_what_is_known_now(settings: Settings, processes: Processes, invoke: Invoke) -> None:
    answer = ready(settings, invoke)
    assert answer["answer"].startswith(
        "name of vm-1 would not fail over now: G1 evidence is closed, evidence from 0 of 2 places"
    )
    assert [guard["number"] for guard in answer["guards"]] == ["G1", "G2", "G3", "G4", "G5", "G6"]
    assert answer["mode_from"] == "the default, no policy says otherwise"

    # What only repeats itself a worker keeps in memory alone, and what comes while it is away it has not taken at all.
    processes.kill("worker")
    now = now_ms()
    publish(settings, replica_report(behind_s=300, at_ms=now), Evidence("w", "third", "primary", Verdict.DOWN, now))
    explained = said(invoke, "explain", "vm", "name of vm-1")
    assert "evidence from 2 of 2 places (data path to d1: misses data for 300 s, w: primary is DOWN)" in str(
        explained["guards"]
    )
    assert explained["answer"].startswith("name of vm-1 would not fail over now: G2 hold-down is closed")
    assert explained["health"] == "Critical"
    (unplanned,) = (each for each in explained["kinds"] if each["kind"] == "UNPLANNED")
    assert 300_000 <= unplanned["loss_ms"] < 360_000
    assert explained["runs"] == [], "explaining begins nothing"

    shown = invoke("explain", "vm", "vm-1")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("name of vm-1 would not fail over now: G2 hold-down is closed")
    assert "nobody's" in shown.stdout
    assert "note: G2: the hold-down" in shown.stdout
    assert invoke("explain", "vm", "vm-9").exit_code == 1


def test_a_plan_is_rehearsed_run_told_and_reported(
    settings: Settings, processes: Processes, invoke: Invoke, tmp_path: Path
) -> None:
    ready(settings, invoke)
    rehearsed = once(partial(said, invoke, "plan", "dry-run", "ERP"), lambda dry: dry and not dry["refusals"])
    assert [task["task_id"] for task in rehearsed["tasks"]] == ["vm-1", "vm-2", "app/after/tell"]
    assert "SHUT_DOWN" in rehearsed["assumed"]
    shown = invoke("plan", "dry-run", "ERP")
    assert shown.exit_code == 0, shown.output
    assert "plan plan-1: a planned failover would start now; the run would end SUCCEEDED" in shown.stdout
    assert "nic-0: 10.20.0.12/24" in shown.stdout
    assert "~60 s" in shown.stdout

    with site_agents(settings):
        asked = invoke("failover", "planned", "--plan", "ERP", *BY_ALICE, "--no-wait")
        assert asked.exit_code == 0, asked.output
        run_id = asked.stdout.split()[0]
        story = once(lambda: said(invoke, "explain", "run", run_id), lambda story: story and story["run"]["waits_for"])
        assert "tell the users" in story["run"]["waits_for"]
        assert invoke("run", "confirm", run_id, "--reason", "mail sent", "--actor", "eve").exit_code == 0
        story = once(lambda: said(invoke, "explain", "run", run_id), lambda story: story["run"]["state"] == "SUCCEEDED")
    assert story["complete"]
    assert [(task["task"], task["run_state"]) for task in story["tasks"]][:2] == [
        ("vm-1", "SUCCEEDED"),
        ("vm-2", "SUCCEEDED"),
    ]
    told = invoke("explain", "run", f"{run_id}/vm-1")
    assert told.exit_code == 0, told.output
    assert "R9" in told.stdout
    assert "missing" not in told.stderr

    # What was done once is history for the next dry run.
    again = said(invoke, "vm", "dry-run", "vm-1", "--kind", "failback")
    assert again["assumed"] == []
    assert [step["history"] for step in again["vms"][0]["steps"]] == [2] * 9
    refused_now = invoke("vm", "dry-run", "vm-1", "--kind", "reprotect")
    assert refused_now.exit_code == 4
    assert "vm-1: F11: the VM replicates to primary already" in refused_now.stdout

    report = json.loads(invoke("run", "report", run_id, "--format", "json").stdout)
    assert (report["state"], report["integrity"]["findings"], report["integrity"]["complete"]) == (
        "SUCCEEDED",
        [],
        True,
    )
    assert [(each["actor"], each["what"]) for each in report["said"]] == [
        ("alice", "planned failover"),
        ("eve", "confirm"),
    ]
    assert [(each["scope"], each["recovery_point_ms"]) for each in report["objectives"]] == [
        ("plan", 0),
        ("group", 0),
        ("group", 0),
        ("VM", 0),
        ("VM", 0),
    ]
    markdown = invoke("run", "report", run_id)
    assert markdown.stdout.startswith("# Planned failover of plan plan-1\n")
    page = tmp_path / "report.html"
    assert invoke("run", "report", run_id, "--format", "html", "--out", str(page)).exit_code == 0
    assert page.read_text(encoding="utf-8").endswith("</html>\n")
    nowhere = invoke("run", "report", run_id, "--out", str(tmp_path / "none" / "report.md"))
    assert nowhere.exit_code == 1
    assert "cannot be written" in nowhere.stderr
