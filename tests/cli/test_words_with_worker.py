"""What people say to runs, from one command to the next, with a real worker on a real Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from playing import Invoke, environment, invoking, publish

from failover_orch.cli import failover, plans, policies, runs
from failover_orch.cli.watching import EXIT_REFUSED, EXIT_WAITS
from failover_orch.config import Settings
from failover_orch.demo.processes import Processes
from failover_orch.domain import (
    Guest,
    MoveKind,
    RecoveryGroup,
    RecoveryPlan,
    Replication,
    ReplicationState,
    VmInventory,
    VmMoved,
)

WITHIN_S = 60.0
REPLICATION = Replication(ReplicationState.REPLICATING, "primary", "dr")
VM = VmInventory("v1", "erp-1", (), Guest("debian-12"), REPLICATION, reported_at_ms=1)
PLACES = tuple(VmMoved("v1", site, node, MoveKind.PLACED, 1) for site, node in (("primary", "p1"), ("dr", "d1")))
PLAN = RecoveryPlan("plan-1", "ERP", (RecoveryGroup("all", ("v1",)),))

cli = typer.Typer()
cli.add_typer(failover.app, name="failover")
cli.add_typer(runs.app, name="run")
cli.add_typer(policies.app, name="policy")
cli.command("readiness")(plans.readiness)


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Settings]:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    processes = Processes(tmp_path, dict(environment(settings)))
    try:
        processes.start("worker", "worker")
        publish(settings, VM, *PLACES, PLAN)
        yield settings
    finally:
        processes.stop()


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    with invoking(cli) as invoke:
        yield invoke


def ready(invoke: Invoke) -> None:
    """Wait until the worker has weighed the VM and its plan, and knows where both ends are."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        standing = json.loads(invoke("readiness", "--json").stdout)["standing"]
        if [one["readiness"] for one in standing] == ["AT_RISK", "AT_RISK"]:
            return
        assert time.monotonic() < deadline, standing
        time.sleep(0.2)


def test_a_failover_waits_for_approval_and_is_cancelled(installation: Settings, invoke: Invoke) -> None:
    ready(invoke)
    (plan, vm) = json.loads(invoke("readiness", "--json").stdout)["standing"]
    assert (plan["name"], vm["name"]) == ("ERP", "erp-1")
    assert vm["defects"][0]["what"].startswith("D6: no test failover")
    by_alice = ("--reason", "drill", "--actor", "alice")
    assert invoke("policy", "set", "vm", "erp-1", "--approval", "1 of bob,carl", *by_alice).exit_code == 0

    # The policy and the request travel in topics of their own: until the one is there, the other may begin at once.
    deadline = time.monotonic() + WITHIN_S
    while (asked := invoke("failover", "planned", "erp-1", *by_alice, "--timeout", "5")).exit_code != EXIT_WAITS:
        run_id = asked.stdout.splitlines()[0]
        assert invoke("run", "cancel", run_id, *by_alice).exit_code == 0
        assert time.monotonic() < deadline, asked.output
    run_id = asked.stdout.splitlines()[0]
    assert f"run {run_id} waits: approval by 1 of bob, carl" in asked.stderr
    assert "bob, carl" in invoke("run", "list", "--waiting").stdout

    own = invoke("run", "approve", run_id, *by_alice)
    assert own.exit_code == EXIT_REFUSED, own.output
    assert "V4: refused: approve: alice asked for this run, and nobody approves their own request" in own.stderr
    early = invoke("run", "commit", run_id, *by_alice)
    assert early.exit_code == EXIT_REFUSED
    assert "is AWAITING_APPROVAL and cannot be told to commit; it can be told approve, reject, cancel" in early.stderr

    # Nobody carries the first step out: no site agent runs here.
    agreed = invoke("run", "approve", run_id, "--reason", "agreed", "--actor", "bob", "--timeout", "3")
    assert agreed.exit_code == 1, agreed.output
    assert "it goes on" in agreed.stderr
    cancelled = invoke("run", "cancel", run_id, "--reason", "enough", "--actor", "carl")
    assert cancelled.exit_code == 0, cancelled.output
    shown = json.loads(invoke("run", "show", run_id, "--json").stdout)["run"]
    assert (shown["state"], shown["approved_by"]) == ("CANCELLED", ["bob"])

    nothing = invoke("run", "acknowledge", "erp-1", *by_alice)
    assert nothing.exit_code == EXIT_REFUSED, nothing.output
    assert "G4: refused: acknowledge: no automatic failover of this VM is to be acknowledged" in nothing.stderr
