"""`docs/operations.md` says what the code does: settings, commands, exit codes, paths, metrics, log fields."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import typer
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from failover_orch import telemetry
from failover_orch.cli import (
    evidence,
    explain,
    failover,
    mirror,
    plans,
    policies,
    runs,
    settings,
    token,
    vm,
    watching,
    words,
)
from failover_orch.config import Settings
from failover_orch.domain import LEGAL_IN, RequestAction, RunState

GUIDE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its header."""
    section = GUIDE.split(f"# {heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.group().splitlines()[2:]]


class Asked(Mapping[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __getitem__(self, name: str) -> str:
        self.names.append(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_every_setting_is_listed_with_its_default() -> None:
    asked = Asked()
    default = Settings.from_environment(asked)
    listed = {row[0].strip("`"): row[1].strip("`") for row in rows("Settings")}
    assert set(listed) == set(asked.names)
    assert listed["FAILOVER_ORCH_APP_ID"] == default.app_id
    assert listed["FAILOVER_ORCH_PARTITIONS"] == str(default.partitions)
    assert listed["FAILOVER_ORCH_SESSION_TIMEOUT"] == f"{default.session_timeout:g}"
    assert listed["FAILOVER_ORCH_LOG"] == default.log_level
    assert (default.schema_registry_url, default.otlp_endpoint, default.topic_prefix) == ("", "", "")


def names_of(app: typer.Typer) -> set[str]:
    return {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback is not None
    }


def test_every_command_is_listed() -> None:
    listed = {" ".join(row[0].strip("`").split(" ")[:2]) for row in rows("Commands")}
    said = {row[0].strip("`") for row in rows("What people say to runs")}
    assert said == {*(word.command for word in words.WORDS), "acknowledge"}
    apps = {
        "vm": vm.app,
        "failover": failover.app,
        "plan": plans.app,
        "policy": policies.app,
        "brake": policies.brake_app,
        "settings": settings.app,
        "mirror": mirror.app,
        "token": token.app,
        "evidence": evidence.app,
        "explain": explain.app,
    }
    for family, app in apps.items():
        assert {name for name in listed if name.split(" ")[0] == family} == {f"{family} {one}" for one in names_of(app)}
    assert {name for name in listed if name.startswith("run ")} - {"run WORD"} == {
        f"run {one}" for one in names_of(runs.app) - said
    }
    assert {"place VM", "readiness [--all]", "witness …", "serve [--host]"} <= listed


def test_every_word_has_its_states() -> None:
    for row in rows("What people say to runs"):
        action = RequestAction(row[0].strip("`").upper().replace("-", "_"))
        named = {state for state in RunState if state.value in row[1]}
        assert named <= LEGAL_IN.get(action, frozenset()), row


def test_every_exit_code_is_listed() -> None:
    meanings = {row[0]: row[1] for row in rows("Exit codes")}
    for state, code in watching.EXIT_CODES.items():
        assert state.value.lower().replace("_", " ") in meanings[str(code)]


def test_every_metric_and_its_attributes_are_listed() -> None:
    reader = InMemoryMetricReader()
    telemetry.start("worker", Settings(), metric_reader=reader)
    telemetry.record_batch({"t": 1}, 0.1)
    telemetry.record_lag("t", 0, 1)
    telemetry.count_runs("PLANNED", "FAILED")
    telemetry.count_refusals("F1")
    telemetry.count_dead_letters("t")
    telemetry.record_unread_sites(1)
    data = reader.get_metrics_data()
    telemetry.stop()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    measured = {metric.name: sorted(metric.data.data_points[0].attributes or ()) for metric in scope.metrics}
    listed = {row[0].strip("`"): sorted(re.findall(r"`(\w+)`", row[2])) for row in rows("Metrics")}
    assert listed == measured


def test_every_log_field_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        telemetry.start("worker", Settings())
        with telemetry.span("x", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
            telemetry.logger("x").info("event", error=ValueError("a bug"))
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    listed = {name for row in rows("Logs") for name in re.findall(r"`(\w+)`", row[0])}
    assert listed == set(json.loads(capsys.readouterr().err))
