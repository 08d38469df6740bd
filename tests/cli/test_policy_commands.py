"""`failover-orch policy` and `brake`: what the options make of a policy, and what comes out, on a real Kafka."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import typer
from playing import PLAN, VMS, Invoke, environment, invoking, publish, published

from failover_orch.cli import policies
from failover_orch.cli.policies import PolicyChange
from failover_orch.config import Settings
from failover_orch.domain import (
    ApprovalRule,
    AutomaticMode,
    Brake,
    FailoverKind,
    Limits,
    Location,
    Policy,
    PolicyScope,
    Role,
    RouteCause,
    RoutingUpdate,
)
from failover_orch.errors import ConfigError

cli = typer.Typer()
cli.add_typer(policies.app, name="policy")
cli.add_typer(policies.brake_app, name="brake")

HERE = Location("primary", "p1", Role.PRIMARY, 10)
ROUTE = RoutingUpdate("v1", 1, RouteCause.LIVE, HERE, "", (HERE, Location("dr", "d1", Role.REPLICA, 10)), 10)
ANN = ApprovalRule(1, ("ann",))


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    publish(settings, *VMS, PLAN, ROUTE)
    return settings


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    with invoking(cli) as invoke:
        yield invoke


def change(**of: Any) -> PolicyChange:
    return PolicyChange(PolicyScope.ALL, **of)


def test_every_limit_can_be_set() -> None:
    assert {limit.field for limit in policies._LIMITS} == {field.name for field in fields(Limits)}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (change(given={"hold-down": 90}), {"hold_down_ms": 90_000}),
        (change(given={"drill-within": 30}), {"drill_within_ms": 2_592_000_000}),
        (change(given={"mode": AutomaticMode.ACT, "observers": 3}), {"mode": AutomaticMode.ACT, "observers": 3}),
        (change(given={"brake-runs": 0}), {"brake_runs": 0}),
        (change(approvals=("1 of ann",)), {"approvals": (ANN,)}),
        (change(approvals=("none",)), {"approvals": ()}),
        (change(inherit=("rpo",)), {"rpo_ms": None}),
        (change(inherit=("all",), given={"rpo": 5}), {"cooldown_ms": None, "rpo_ms": 5_000}),
    ],
)
def test_a_change_leaves_all_else_as_it_was(asked: PolicyChange, expected: dict[str, object]) -> None:
    before = Policy(PolicyScope.ALL, rpo_ms=60_000, cooldown_ms=1_000)
    after = asked.over(before)
    kept = {"rpo_ms": 60_000, "cooldown_ms": 1_000} | expected
    assert {name: getattr(after, name) for name in kept} == kept


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (change(), "nothing is to be changed: give one or more of --mode, --observers"),
        (change(inherit=("hold_down",)), "--inherit 'hold_down' is not a limit: name one of mode, observers"),
        (change(inherit=("rpo",), given={"rpo": 5}), "--rpo is set and inherited at once"),
        (change(approvals=("none", "1")), "--approval none stands alone"),
        (change(approvals=("two of ann",)), "--approval 'two of ann' is not written as expected"),
    ],
)
def test_a_change_that_makes_no_sense_is_said(asked: PolicyChange, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked.over(Policy(PolicyScope.ALL))


def test_policies_are_set_and_what_comes_out_is_shown_with_where_from(installation: Settings, invoke: Invoke) -> None:
    by = ("--reason", "drill season", "--actor", "alice")
    for arguments in (
        ("all", "--mode", "advise", "--hold-down", "90"),
        ("site", "primary", "--cooldown", "60"),
        ("plan", "ERP", "--approval", "2 of ann,bob for planned to dr", "--approval", "1 of carl"),
        ("vm", "erp-1", "--mode", "act"),
        ("vm", "v1", "--rpo", "300"),
    ):
        told = invoke("policy", "set", *arguments, *by)
        assert told.exit_code == 0, told.output
    assert "set vm/v1: mode act, rpo 300 s" in told.stdout
    everywhere = published(installation, "policies")
    assert sum(policy.key == "all" for policy in everywhere) == installation.partitions
    assert sum(policy.key == "vm/v1" for policy in everywhere) == 2
    policy = next(policy for policy in everywhere if policy.key == "plan/plan-1")
    assert policy.approvals == (
        ApprovalRule(2, ("ann", "bob"), (FailoverKind.PLANNED,), "dr"),
        ApprovalRule(1, ("carl",)),
    )
    assert (policy.actor, policy.reason) == ("alice", "drill season")

    def shown(*arguments: str) -> dict[str, tuple[object, str]]:
        told = invoke("policy", "show", *arguments, "--json")
        assert told.exit_code == 0, told.output
        return {one["name"]: (one["value"], one["source"]) for one in json.loads(told.stdout)["limits"]}

    of_vm = shown("erp-1")
    assert of_vm["mode"] == ("ACT", "vm/v1")
    assert of_vm["hold_down_ms"] == (90_000, "all")
    assert of_vm["cooldown_ms"] == (60_000, "site/primary")
    assert of_vm["rpo_ms"] == (300_000, "vm/v1")
    assert of_vm["observers"] == (2, "default")
    assert of_vm["approvals"][1] == "plan/plan-1"
    # Where erp-2 runs nobody has told yet, so no site speaks for it.
    assert shown("erp-2")["cooldown_ms"] == (3_600_000, "default")
    assert shown("--plan", "ERP")["mode"] == ("ADVISE", "all")
    assert shown("--site", "primary")["cooldown_ms"] == (60_000, "site/primary")
    text = invoke("policy", "show", "erp-1").stdout
    for word in ("300 s", "90 days", "2 of ann,bob for planned to dr within 3600; 1 of carl within 3600", "20 %"):
        assert word in text, word
    listed = invoke("policy", "list").stdout
    assert [
        word for word in ("all", "site/primary", "plan/plan-1", "vm/v1", "drill season") if word not in listed
    ] == []
    assert [one["target"] for one in json.loads(invoke("policy", "list", "--json").stdout)["policies"]] == [
        *("", "primary", "plan-1", "v1")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vm", "--mode", "act"), "scope vm needs a target: name the vm"),
        (("all", "v1", "--mode", "act"), "scope all takes no target"),
        (("site", "moon", "--mode", "act"), "no site 'moon' is known"),
        (("vm", "erp-9", "--mode", "act"), "no VM 'erp-9' is known"),
        (("plan", "mail", "--mode", "act"), "no recovery plan 'mail' is known"),
        (("all", "--approval", "1 of ann to moon"), "no site 'moon' is known"),
    ],
)
def test_a_policy_for_nobody_is_not_published(
    installation: Settings, invoke: Invoke, arguments: tuple[str, ...], message: str
) -> None:
    told = invoke("policy", "set", *arguments, "--reason", "drill")
    assert told.exit_code == 1
    assert message in told.stderr
    assert published(installation, "policies") == []


def test_one_observer_is_never_enough(invoke: Invoke) -> None:
    told = invoke("policy", "set", "all", "--observers", "1", "--reason", "impatient")
    assert told.exit_code == 2


def test_the_brake_is_engaged_shown_and_released(installation: Settings, invoke: Invoke) -> None:
    assert invoke("brake", "show").stdout == "released: nobody has ever engaged it\n"
    assert invoke("brake", "engage", "--reason", "storm", "--actor", "bob").stdout == "the brake is engaged\n"
    shown = invoke("brake", "show").stdout
    assert shown.startswith("engaged by bob at ")
    assert shown.endswith(": storm\n")
    # The last word was written by a clock that is ahead of ours; ours is the newer word all the same.
    ahead = 4_000_000_000_000
    publish(installation, Brake(True, "failover_orch", "20 automatic failovers within an hour", ahead))
    assert invoke("brake", "release", "--reason", "understood", "--actor", "carl").exit_code == 0
    shown_brake = json.loads(invoke("brake", "show", "--json").stdout)
    assert (shown_brake["engaged"], shown_brake["brake"]["actor"]) == (False, "carl")
    last = max(published(installation, "policies", partitions=[0]), key=lambda brake: brake.at_ms)
    assert last == Brake(False, "carl", "understood", ahead + 1)
    assert invoke("brake", "release", "--reason", " ").exit_code == 1
