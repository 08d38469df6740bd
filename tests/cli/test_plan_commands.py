"""`failover-orch plan` and `readiness`, on a real Kafka."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import typer
from playing import VMS, Invoke, environment, invoking, publish, snapshot

from failover_orch.cli import plans
from failover_orch.config import Settings
from failover_orch.domain import (
    CommitPolicy,
    FailoverKind,
    Gate,
    GateKind,
    HealthChange,
    PlanAction,
    PlanActionKind,
    Readiness,
    RecoveryGroup,
    RecoveryPlan,
    ReplicationHealth,
    RunState,
)

cli = typer.Typer()
cli.add_typer(plans.app, name="plan")
cli.command("readiness")(plans.readiness)

PLAN = RecoveryPlan(
    "plan-1",
    "ERP",
    (
        RecoveryGroup("db", ("v1",), gates=(Gate(GateKind.TCP_PORT, 5432),)),
        RecoveryGroup("app", ("v2", "v9"), after=(PlanAction("dns", PlanActionKind.HTTP, "dr"),)),
        RecoveryGroup("reports", (), depends_on=("db",), critical=False),
    ),
    actor="alice",
    reason="go live",
    max_in_flight=3,
    commit=CommitPolicy.AUTO_COMMIT,
    window_ms=90_000,
)
REFUSED = "D1: F5: the replica's node d1 is down"


def standing(vm_id: str, readiness: Readiness, *defects: str, plan_id: str = "") -> HealthChange:
    health = ReplicationHealth.NORMAL
    return HealthChange(vm_id, health, health, (), 9, readiness, Readiness.UNKNOWN, defects, plan_id=plan_id)


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    publish(
        settings,
        *VMS,
        PLAN,
        standing("v1", Readiness.NOT_READY, REFUSED, "D6: no test failover has ever succeeded"),
        standing("v2", Readiness.READY),
        standing("", Readiness.NOT_READY, f"v1: {REFUSED}", plan_id="plan-1"),
        snapshot(RunState.FAILED, run_id="run-1", vm_id="", plan_id="plan-1"),
        snapshot(RunState.RUNNING, run_id="run-2", vm_id="", plan_id="plan-1", kind=FailoverKind.TEST),
    )
    return settings


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    with invoking(cli) as invoke:
        yield invoke


def test_plans_are_listed_and_shown(installation: Settings, invoke: Invoke) -> None:
    (plan,) = json.loads(invoke("plan", "list", "--json").stdout)["plans"]
    assert plan == {
        "plan_id": "plan-1",
        "name": "ERP",
        "groups": 3,
        "vms": 3,
        "readiness": "NOT_READY",
        "run_id": "run-2",
    }
    assert "NOT_READY" in invoke("plan", "list").stdout
    shown = invoke("plan", "show", "erp").stdout
    words = ("alice: go live", "auto_commit, window 90 s", "3 VMs", "tcp port 5432", "dns (http)", "erp-1")
    for word in (*words, "reports (not critical)", "run-1", "run-2", "the latest recovery point"):
        assert word in shown, word
    view = json.loads(invoke("plan", "show", "plan-1", "--json").stdout)
    assert view["plan"]["groups"][0]["gates"][0]["port"] == 5432
    unknown = invoke("plan", "show", "mail")
    assert (unknown.exit_code, "no recovery plan 'mail' is known" in unknown.stderr) == (1, True)


def test_readiness_of_a_plan_is_that_of_its_vms_with_what_to_do(installation: Settings, invoke: Invoke) -> None:
    told = invoke("plan", "readiness", "ERP").stdout
    for word in (REFUSED, "bring the node up again", "failover-orch failover test", "erp-2", "v9", "UNKNOWN"):
        assert word in told, word
    every = json.loads(invoke("plan", "readiness", "--json").stdout)
    assert [(one["kind"], one["readiness"]) for one in every] == [("plan", "NOT_READY")]
    assert "ERP" in invoke("plan", "readiness").stdout


def test_what_is_not_ready_is_shown_worst_first(installation: Settings, invoke: Invoke) -> None:
    publish(installation, standing("v2", Readiness.AT_RISK, "D5: node d1 has 5 MiB of memory free, the VM needs 9"))
    told = json.loads(invoke("readiness", "--json").stdout)["standing"]
    assert [(one["name"], one["readiness"]) for one in told] == [
        ("ERP", "NOT_READY"),
        ("erp-1", "NOT_READY"),
        ("erp-2", "AT_RISK"),
    ]
    assert [defect["do"] for defect in told[2]["defects"]] == [
        "free memory on that node, or move the replica to another one: `failover-orch place` says where"
    ]
    text = invoke("readiness").stdout
    assert text.index("erp-1") < text.index("erp-2")


def test_where_all_is_well_one_line_says_so(installation: Settings, invoke: Invoke) -> None:
    publish(
        installation,
        *(standing(vm_id, Readiness.READY) for vm_id in ("v1", "v2")),
        standing("", Readiness.READY, plan_id="plan-1"),
    )
    assert invoke("readiness").stdout == "2 VMs and 1 plans: all READY\n"
    assert "READY" in invoke("readiness", "--all").stdout
