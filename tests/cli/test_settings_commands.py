"""`failover-orch settings`: what is shown of settings and their changes, and how a change is made, on a real Kafka."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import typer
from playing import VMS, Answering, Invoke, environment, invoking, publish, published

from failover_orch.cli import settings as commands
from failover_orch.cli.settings_changes import EXIT_NOT_EVERYWHERE
from failover_orch.config import Settings
from failover_orch.domain import (
    AuthorizationEntry,
    ClusterInventory,
    Node,
    NodeState,
    ReplicationServer,
    SettingsChange,
    SettingsRevision,
    SettingsScope,
    SettingsStanding,
    Standing,
    VmReplication,
)

cli = typer.Typer()
cli.add_typer(commands.app, name="settings")

NODES = tuple(Node(name, NodeState.UP, 65_536, 65_536) for name in ("d1", "d2", "d3"))
CLUSTER = ClusterInventory("dr-cluster", "dr", "broker.dr.example", NODES, reported_at_ms=1)
FIRST = SettingsRevision(
    scope=SettingsScope.CLUSTER,
    target="dr-cluster",
    version=1,
    changed=("enabled", "authorization"),
    actor="alice",
    reason="the DR site opens",
    at_ms=1_000,
    ticket="CHG-1",
    server=ReplicationServer(
        enabled=True, authorization=(AuthorizationEntry("*.example.com", "/srv/replicas", "gold"),)
    ),
)
SECOND = replace(
    FIRST,
    version=2,
    changed=("http_port",),
    actor="bob",
    reason="a free port",
    at_ms=2_000,
    ticket="",
    server=replace(FIRST.server or ReplicationServer(), http_port=8080),
)
REFUSED = replace(
    SECOND, changed=(), actor="carl", reason="typo", at_ms=3_000, refused=("C5: http_port: expected a port",)
)


def standing(node: str, of: Standing, *, version: int = 2, applied: int = 2, **more: Any) -> SettingsStanding:
    return SettingsStanding(SettingsScope.CLUSTER, "dr-cluster", node, of, version, applied, 2_500, **more)


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    publish(settings, *VMS, CLUSTER)
    return settings


@pytest.fixture
def managed(installation: Settings) -> Settings:
    publish(
        installation,
        FIRST,
        SECOND,
        REFUSED,
        standing("d1", Standing.IN_SYNC),
        standing("d2", Standing.DRIFTED, detail="http_port was changed there", evidence={"http_port": "80"}),
        standing("d3", Standing.AWAY, applied=1, detail="the node is down"),
    )
    return installation


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    with invoking(cli) as invoke:
        yield invoke


@pytest.fixture
def broker(installation: Settings) -> Iterator[Callable[..., Future[SettingsChange]]]:
    """A broker that the test plays: it answers the next change with what is given for it."""
    with ThreadPoolExecutor(1) as threads:
        answering = Answering(installation, "settings-changes")

        def answer(with_: Callable[[SettingsChange], Sequence[object]]) -> Future[SettingsChange]:
            return threads.submit(answering.answer, with_)

        yield answer


def accepted(change: SettingsChange, version: int) -> SettingsRevision:
    return replace(
        SECOND,
        version=version,
        changed=tuple(change.changes),
        actor=change.actor,
        reason=change.reason,
        change_id=change.change_id,
    )


def test_every_setting_is_shown_with_its_default_its_version_and_where_it_is_not_so(
    managed: Settings, invoke: Invoke
) -> None:
    told = invoke("settings", "show", "dr-cluster", "--json")
    assert told.exit_code == 0, told.output
    view = json.loads(told.stdout)
    held = {one["name"]: (one["value"], one["default"], one["since_version"]) for one in view["settings"]}
    assert (view["version"], view["actor"], view["reason"]) == (2, "bob", "a free port")
    assert held["http_port"] == ("8080", "80", 2)
    assert held["enabled"] == ("true", "false", 1)
    assert held["authorization"][0] == "*.example.com|/srv/replicas|gold"
    assert held["https_port"] == ("443", "443", 0)
    assert [(one["node"], one["standing"], one["applied"]) for one in view["nodes"]] == [
        ("d1", "IN_SYNC", 2),
        ("d2", "DRIFTED", 2),
        ("d3", "AWAY", 1),
    ]
    text = invoke("settings", "show", "dr-cluster").stdout
    for word in ("dr-cluster: version 2, by bob at", "http_port was changed there", "http_port is 80", "a port, 1 to"):
        assert word in text, word
    listed = invoke("settings", "show").stdout
    assert "1 of 3" in listed
    assert "dr-cluster" in listed


def test_a_cluster_that_nobody_manages_shows_the_defaults(installation: Settings, invoke: Invoke) -> None:
    text = invoke("settings", "show", "dr-cluster").stdout
    assert "nobody has set anything" in text
    assert "not told yet" in text
    assert "not set" in invoke("settings", "show").stdout
    assert "nobody has set anything" in invoke("settings", "diff", "dr-cluster").stdout


def test_the_history_has_every_change_and_what_was_refused(managed: Settings, invoke: Invoke) -> None:
    text = invoke("settings", "history", "dr-cluster").stdout
    for word in ("alice", "CHG-1", "enabled: false -> true", "http_port: 80 -> 8080", "refused", "C5: http_port"):
        assert word in text, word
    revisions = json.loads(invoke("settings", "history", "dr-cluster", "--json").stdout)["revisions"]
    assert [(one["version"], bool(one["refused"])) for one in revisions] == [(1, False), (2, False), (2, True)]
    assert revisions[1]["changed"] == [{"name": "http_port", "before": "80", "after": "8080"}]


def test_versions_are_compared_and_what_nodes_have_otherwise_is_found(managed: Settings, invoke: Invoke) -> None:
    assert json.loads(invoke("settings", "diff", "dr-cluster", "1", "2", "--json").stdout) == [
        {"name": "http_port", "before": "80", "after": "8080"}
    ]
    assert {one["name"] for one in json.loads(invoke("settings", "diff", "dr-cluster", "0", "--json").stdout)} == {
        *("enabled", "authorization", "http_port")
    }
    assert "versions 2 and 2 do not differ" in invoke("settings", "diff", "dr-cluster", "2").stdout
    drift = json.loads(invoke("settings", "diff", "dr-cluster", "--json").stdout)
    # d3 was last read back to have version 1, which had another port.
    assert [(one["node"], one["name"], one["wanted"], one["found"]) for one in drift] == [
        ("d2", "http_port", "8080", "80"),
        ("d3", "http_port", "8080", "80"),
    ]
    unknown = invoke("settings", "diff", "dr-cluster", "7")
    assert unknown.exit_code == 1
    assert "have no version 7: there are versions 1 to 2, and 0 for the defaults" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dr-cluster",), "nothing is to be changed"),
        (("http_port=8080",), "say whose settings: name a cluster, or a VM with --vm"),
        (("dr-cluster", "http_port=8080", "--vm", "erp-1"), "one of the two"),
        (("dr-cluster", "http_port"), "'http_port' is no change: write NAME=VALUE"),
        (("dr-cluster", "http_port=1", "http_port=2"), "http_port is given twice"),
        (("mars", "http_port=1"), "no cluster 'mars' is known"),
        (("dr-cluster", "http_prot=1"), "did you mean http_port?"),
        (("dr-cluster", "http_port=0"), "C5: http_port: expected a port from 1 to 65535, not '0'"),
        (("dr-cluster", "from_any_server=true"), "C6"),
        (("dr-cluster", "http_port=8081", "--based-on", "1"), "C3"),
        (("dr-cluster", "http_port=8081", "--reason", " "), "--reason is empty"),
    ],
)
def test_what_cannot_be_set_is_refused_before_anything_is_published(
    managed: Settings, invoke: Invoke, arguments: tuple[str, ...], message: str
) -> None:
    told = invoke("settings", "set", "--reason", "drill", *arguments)
    assert told.exit_code == 1, told.output
    assert message in told.stderr
    assert published(managed, "settings-changes") == []


def test_a_dry_run_says_what_it_would_touch_and_changes_nothing(managed: Settings, invoke: Invoke) -> None:
    asked = ("settings", "set", "dr-cluster", "http_port=8081", "enabled=", "--reason", "drill", "--dry-run")
    told = invoke(*asked)
    assert told.exit_code == 0, told.output
    for word in ("http_port", "8080", "8081", "d1", "d2", "d3", "is told"):
        assert word in told.stdout, word
    view = json.loads(invoke(*asked, "--json").stdout)
    assert (view["version"], view["refused"]) == (3, [])
    assert {one["name"]: (one["before"], one["after"]) for one in view["changed"]} == {
        "http_port": ("8080", "8081"),
        "enabled": ("true", "false"),
    }
    assert published(managed, "settings-changes") == []


def test_a_change_is_told_to_the_broker_and_its_answer_said(
    managed: Settings, invoke: Invoke, broker: Callable[..., Future[SettingsChange]]
) -> None:
    asked = broker(lambda change: [accepted(change, 3)])
    told = invoke(
        *("settings", "set", "dr-cluster", "http_port=8081", "--reason", "moved", "--ticket", "CHG-2"),
        *("--actor", "alice", "--based-on", "2", "--timeout", "60"),
    )
    assert told.exit_code == 0, told.output
    assert "dr-cluster is at version 3: http_port" in told.stdout
    change = asked.result()
    assert (change.scope, change.target, change.changes) == (
        SettingsScope.CLUSTER,
        "dr-cluster",
        {"http_port": "8081"},
    )
    assert (change.actor, change.reason, change.ticket, change.based_on) == ("alice", "moved", "CHG-2", 2)
    assert change.change_id


def test_what_the_broker_refuses_is_said_with_its_reason(
    managed: Settings, invoke: Invoke, broker: Callable[..., Future[SettingsChange]]
) -> None:
    # Somebody else was first, between our look and the broker's.
    asked = broker(
        lambda change: [
            replace(SECOND, version=3, change_id="another"),
            replace(REFUSED, version=3, change_id=change.change_id, refused=("C3: the settings are at version 3",)),
        ]
    )
    told = invoke("settings", "set", "dr-cluster", "http_port=8081", "--reason", "moved", "--timeout", "60")
    assert told.exit_code == 1, told.output
    assert "the broker refused it: C3: the settings are at version 3" in told.stderr
    asked.result()


def test_it_waits_until_every_node_that_can_has_it_and_names_those_that_cannot(
    managed: Settings, invoke: Invoke, broker: Callable[..., Future[SettingsChange]]
) -> None:
    asked = broker(
        lambda change: [
            accepted(change, 3),
            *(standing(node, Standing.APPLYING, version=3) for node in ("d1", "d2")),
            standing("d3", Standing.AWAY, version=3, applied=1),
            standing("d1", Standing.IN_SYNC, version=3, applied=3),
            standing("d2", Standing.FAILED, version=3, detail="http_port 8081 is taken by another service"),
        ]
    )
    told = invoke("settings", "set", "dr-cluster", "http_port=8081", "--reason", "moved", "--wait", "--timeout", "60")
    assert told.exit_code == EXIT_NOT_EVERYWHERE, told.output
    assert (
        "dr-cluster is at version 3: http_port; 1 of 3 have it; d2 is FAILED (http_port 8081 is taken by another "
        "service); d3 is AWAY" in told.stderr
    )
    asked.result()


def test_a_node_that_does_not_answer_in_time_is_named(
    managed: Settings, invoke: Invoke, broker: Callable[..., Future[SettingsChange]]
) -> None:
    asked = broker(lambda change: [accepted(change, 3), standing("d1", Standing.IN_SYNC, version=3, applied=3)])
    told = invoke("settings", "set", "dr-cluster", "http_port=8081", "--reason", "moved", "--wait", "--timeout", "6")
    assert told.exit_code == 1
    assert "version 3 is set, but not taken within 6 s by d2, d3; it goes on" in told.stderr
    asked.result()


def test_without_a_worker_it_says_where_the_change_stands(managed: Settings, invoke: Invoke) -> None:
    told = invoke("settings", "set", "dr-cluster", "http_port=8081", "--reason", "moved", "--timeout", "1")
    assert told.exit_code == 1
    assert "no answer within 1 s; the change stands in settings-changes and will be answered" in told.stderr
    assert len(published(managed, "settings-changes")) == 1


def test_one_vms_settings_are_set_and_shown(
    installation: Settings, invoke: Invoke, broker: Callable[..., Future[SettingsChange]]
) -> None:
    vm = SettingsScope.VM
    asked = broker(
        lambda change: [
            SettingsRevision(
                vm,
                "v1",
                1,
                ("frequency_s",),
                "a",
                "b",
                5_000,
                change_id=change.change_id,
                replication=VmReplication(30),
            ),
            SettingsStanding(vm, "v1", "p1", Standing.IN_SYNC, 1, 1, 5_100),
        ]
    )
    told = invoke(
        *("settings", "set", "--vm", "erp-1", "frequency_s=30s", "--reason", "tier 1", "--wait", "--timeout", "60")
    )
    assert told.exit_code == 0, told.output
    assert "erp-1 is at version 1: frequency_s; 1 of 1 have it" in told.stdout
    change = asked.result()
    assert (change.scope, change.target) == (vm, "v1")
    view = json.loads(invoke("settings", "show", "--vm", "erp-1", "--json").stdout)
    assert {one["name"]: one["value"] for one in view["settings"]}["frequency_s"] == "30s"
    assert [(one["node"], one["standing"]) for one in view["nodes"]] == [("p1", "IN_SYNC")]
