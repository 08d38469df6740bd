"""How replication settings come to every node, and stay as they were set: rules K1 to K16."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from settings_site import BROKER, CLUSTER, DONE, LOOK_MS, MINUTE_MS, SITE, FakeNode, Site, with_port

from failover_orch.domain.facts import StepOutcome
from failover_orch.domain.inventory import NodeState
from failover_orch.domain.records import Action, Alert, AuditEntry, Severity, StepCommand
from failover_orch.domain.replication_settings import (
    NodePort,
    OnDrift,
    ReplicationServer,
    SettingsObserved,
    SettingsRevision,
    SettingsStanding,
    Standing,
)

APPLYING, IN_SYNC, DRIFTED, FAILED, AWAY = Standing
SET = {"enabled": "true", "from_any_server": "true", "default_storage_location": "/srv/replicas"}
WANTED = ReplicationServer(enabled=True, from_any_server=True, default_storage_location="/srv/replicas")
HOUR_MS = 60 * MINUTE_MS


@pytest.fixture
def site() -> Site:
    """Two nodes that have what was set."""
    site = Site(["d1", "d2"])
    site.report()
    site.set(SET)
    site.run(1_000)
    return site


def alerts(site: Site) -> list[str]:
    return [alert.what for alert in site.of(Alert)]


def outcomes(site: Site) -> Counter[str]:
    return Counter(entry.outcome for entry in site.of(AuditEntry) if entry.what == "keep replication settings")


def standing(site: Site, node: str = "d1") -> Standing:
    return site.standings()[node].standing


def test_a_change_reaches_every_node_and_is_told_with_who_and_why(site: Site) -> None:
    (revision,) = site.of(SettingsRevision)
    assert (revision.version, revision.actor, revision.reason, revision.ticket) == (1, "alice", "CHG-1", "T-7")
    assert set(revision.changed) == set(SET)
    assert revision.server == WANTED
    assert {node.has for node in site.nodes.values()} == {WANTED}
    assert {(told.standing, told.version, told.applied) for told in site.standings().values()} == {(IN_SYNC, 1, 1)}
    (accepted,) = [entry for entry in site.of(AuditEntry) if entry.outcome == "accepted"]
    assert (accepted.subject, accepted.actor, accepted.ticket) == (CLUSTER, "alice", "T-7")
    assert accepted.evidence["default_storage_location"] == "/srv/replicas"


def test_a_command_says_what_an_agent_has_to_know(site: Site) -> None:
    command = site.nodes["d2"].told[0]
    assert (command.action, command.key, command.vm_id, command.site) == (Action.APPLY_SETTINGS, CLUSTER, "", SITE)
    assert (command.run_id, command.step, command.attempt, command.epoch) == (f"settings/{CLUSTER}/1", "d2", 1, 1)
    assert command.deadline_ms - command.issued_at_ms == 60_000
    assert command.server == WANTED


def test_what_is_as_it_was_set_is_no_news_and_costs_nothing(site: Site) -> None:
    told = len(site.outputs)
    site.run(10 * MINUTE_MS)
    assert len(site.outputs) == told


def test_k1_a_change_that_comes_again_is_passed_over(site: Site) -> None:
    site.set(change_id="c-1", http_port="8080")
    site.set(change_id="c-1", http_port="8080")
    site.set(change_id="c-2", http_port="nonsense")
    site.set(change_id="c-2", http_port="nonsense")
    assert [told.version for told in site.of(SettingsRevision)] == [1, 2, 2]


def test_k2_a_refused_change_leaves_everything_as_it_was(site: Site) -> None:
    before, told = site.kept, len(site.of(StepCommand))
    site.set(http_port="80800", authentication="Certificate")
    revision = site.of(SettingsRevision)[-1]
    assert (revision.version, revision.server) == (1, WANTED)
    assert revision.refused == ("C5: http_port: expected a port from 1 to 65535, not '80800'",)
    assert site.kept == before
    assert len(site.of(StepCommand)) == told
    refused = site.of(AuditEntry)[-1]
    assert (refused.outcome, refused.actor) == ("refused", "alice")
    assert "80800" in refused.evidence["why"]


def test_k2_a_change_based_on_an_older_version_says_who_changed_it_and_when(site: Site) -> None:
    site.set(http_port="8080")
    site.set(based_on=1, http_port="8081")
    (why,) = site.of(SettingsRevision)[-1].refused
    assert why.startswith("C3: ")
    assert "version 2" in why
    assert "made by alice at 1970-01-12T13:46:41Z: CHG-1" in why
    site.set(based_on=2, http_port="8081")
    assert site.revision.version == 3


def test_k3_a_change_to_what_is_set_tells_those_again_that_are_not_in_sync(site: Site) -> None:
    site.nodes["d1"].has = with_port(8080)(WANTED)
    site.run(LOOK_MS)
    assert standing(site) is DRIFTED
    site.set(enabled="true")
    site.run(1_000)
    assert site.revision.version == 1
    assert [len(node.told) for node in site.nodes.values()] == [2, 1]
    assert standing(site) is IN_SYNC
    assert site.nodes["d1"].told[-1].attempt == 2


def test_a_cluster_without_settings_is_left_alone() -> None:
    site = Site(["d1"])
    site.report()
    site.run(10 * MINUTE_MS)
    assert not site.of(StepCommand)
    assert not site.of(SettingsStanding)


def test_settings_that_come_before_the_inventory_are_told_once_it_is_there() -> None:
    site = Site(["d1", "d2"])
    site.set(SET)
    assert not site.of(StepCommand)
    site.report()
    site.run(1_000)
    assert {told.standing for told in site.standings().values()} == {IN_SYNC}


def test_k6_what_fails_is_tried_again_with_growing_waits_and_then_has_failed() -> None:
    site = Site(["d1"])
    site.report()
    site.nodes["d1"].always = (StepOutcome.FAILED, "the node is busy")
    site.set(SET)
    site.run(2 * MINUTE_MS)
    told = [command.issued_at_ms for command in site.nodes["d1"].told]
    assert len(told) == 5
    waits = [later - earlier for earlier, later in pairwise(told)]
    assert all(0.75 * 5_000 * 2**n <= wait <= 1.25 * 5_000 * 2**n + 20 for n, wait in enumerate(waits[:3]))
    assert [command.attempt for command in site.nodes["d1"].told] == [1, 2, 3, 4, 5]
    assert (standing(site), site.standings()["d1"].detail) == (FAILED, "the node is busy")
    assert alerts(site) == [f"node d1 of cluster {CLUSTER} cannot take its replication settings: the node is busy"]
    assert outcomes(site) == {"failed": 1}


def test_k6_no_answer_is_a_failure_too() -> None:
    site = Site(["d1"])
    site.report()
    site.nodes["d1"].answers = [None, None]
    site.set(SET)
    site.run(64_000)
    assert standing(site) is APPLYING
    site.run(2_000)
    assert site.standings()["d1"].detail == "attempt 1 of 5: no answer within 65 s"
    site.run(5 * MINUTE_MS)
    assert len(site.nodes["d1"].told) == 3
    assert standing(site) is IN_SYNC


def test_k7_a_refusal_fails_at_once_and_k8_is_asked_again_after_ten_minutes() -> None:
    site = Site(["d1"])
    site.report()
    site.nodes["d1"].answers = [(StepOutcome.REFUSED, "authentication: this node has no Kerberos")] * 3
    site.set(SET)
    site.run(9 * MINUTE_MS)
    assert len(site.nodes["d1"].told) == 1
    assert standing(site) is FAILED
    site.run(12 * MINUTE_MS)
    assert len(site.nodes["d1"].told) == 3
    assert len(alerts(site)) == 1, "told once, not every ten minutes"
    site.run(10 * MINUTE_MS)
    assert standing(site) is IN_SYNC
    assert outcomes(site) == {"failed": 1, "in sync": 1}


def test_k5_a_node_that_was_put_right_by_hand_is_in_sync_without_being_told() -> None:
    site = Site(["d1"])
    site.report()
    site.nodes["d1"].always = (StepOutcome.REFUSED, "no")
    site.set(SET)
    site.run(1_000)
    site.nodes["d1"].has = WANTED
    site.run(LOOK_MS)
    assert (standing(site), len(site.nodes["d1"].told)) == (IN_SYNC, 1)


def test_k9_a_node_that_no_port_map_names_cannot_be_reached(site: Site) -> None:
    site.set(http_port_map=f"d1=8081,d2=8082,{BROKER}=8083")
    site.run(1_000)
    site.nodes["d3"] = FakeNode()
    site.report()
    site.run(HOUR_MS)
    assert not site.nodes["d3"].told
    assert (standing(site, "d3"), site.standings()["d3"].detail) == (
        FAILED,
        "http_port_map leaves out d3: give it a port there",
    )
    site.set(http_port_map=f"d1=8081,d2=8082,d3=8084,{BROKER}=8083")
    site.run(1_000)
    assert standing(site, "d3") is IN_SYNC
    assert NodePort("d3", 8084) in site.nodes["d3"].has.http_port_map


def test_k10_a_node_that_is_down_is_away_and_k11_is_told_when_it_is_back(site: Site) -> None:
    site.nodes["d1"].state = NodeState.DOWN
    site.report()
    assert standing(site) is AWAY
    site.set(http_port="8080")
    site.run(HOUR_MS)
    assert len(site.nodes["d1"].told) == 1
    assert (standing(site), site.standings()["d1"].version, site.standings()["d1"].applied) == (AWAY, 2, 1)
    site.nodes["d1"].state = NodeState.UP
    site.report()
    site.run(1_000)
    assert (standing(site), site.standings()["d1"].applied) == (IN_SYNC, 2)


def test_k11_a_node_that_was_drained_is_told_again(site: Site) -> None:
    site.nodes["d1"].state = NodeState.PAUSED
    site.report()
    site.run(MINUTE_MS)
    site.nodes["d1"].state = NodeState.UP
    site.report()
    site.run(1_000)
    assert [len(node.told) for node in site.nodes.values()] == [2, 1]


def test_k11_a_node_that_joins_late_is_told(site: Site) -> None:
    site.run(HOUR_MS)
    site.nodes["d3"] = FakeNode()
    site.report()
    site.run(1_000)
    assert site.nodes["d3"].has == WANTED
    assert standing(site, "d3") is IN_SYNC
    assert len(site.nodes["d1"].told) == 1


def test_k12_a_node_that_leaves_is_forgotten(site: Site) -> None:
    del site.nodes["d2"]
    site.report()
    told = site.standings()["d2"]
    assert (told.standing, told.detail) == (AWAY, f"d2 is no longer a node of {CLUSTER}")
    assert [node.node for node in site.kept.nodes] == ["d1"]


def test_k13_drift_is_told_once_and_left_to_people(site: Site) -> None:
    site.nodes["d1"].has = replace(WANTED, http_port=8080)
    site.run(10 * MINUTE_MS)
    told = site.standings()["d1"]
    assert (told.standing, told.detail, dict(told.evidence)) == (DRIFTED, "http_port is 8080", {"http_port": "8080"})
    assert len(site.nodes["d1"].told) == 1
    assert alerts(site) == [
        f"node d1 of cluster {CLUSTER} has other replication settings than were set: http_port is 8080"
    ]
    assert outcomes(site) == {"drifted": 1}
    site.nodes["d1"].has = WANTED
    site.run(LOOK_MS)
    assert standing(site) is IN_SYNC
    assert outcomes(site) == {"drifted": 1, "in sync": 1}


def test_k13_what_was_seen_before_the_settings_were_applied_is_no_drift(site: Site) -> None:
    """The looks and the answers come on two topics: one of before can come in after."""
    applied_ms = site.now_ms
    site.run(1_000)
    site.set(http_port="8080")
    site.run(1_000)
    site.observe("d1", WANTED, at_ms=applied_ms)
    assert standing(site) is IN_SYNC
    site.observe("d1", WANTED)
    assert standing(site) is DRIFTED


def test_what_is_seen_while_a_command_is_out_says_nothing(site: Site) -> None:
    site.nodes["d1"].answers = [None]
    site.set(http_port="8080")
    site.run(1_000)
    site.observe("d1", with_port(8080)(WANTED))
    assert standing(site) is APPLYING
    site.observe("d1", with_port(9090)(WANTED))
    assert standing(site) is APPLYING


def test_a_node_that_cannot_be_asked_has_not_drifted(site: Site) -> None:
    told = len(site.outputs)
    site.fold(SettingsObserved(SITE, CLUSTER, "d1", site.now_ms, error="no answer"))
    site.fold(SettingsObserved("elsewhere", CLUSTER, "d1", site.now_ms, server=ReplicationServer()))
    site.fold(SettingsObserved(SITE, CLUSTER, "d9", site.now_ms, server=ReplicationServer()))
    assert len(site.outputs) == told


def test_k14_drift_is_put_right_where_that_is_the_policy(site: Site) -> None:
    site.set(on_drift="CORRECT")
    site.run(1_000)
    site.nodes["d1"].has = replace(WANTED, http_port=8080)
    site.run(LOOK_MS + 1_000)
    assert standing(site) is IN_SYNC
    assert site.nodes["d1"].has == WANTED
    assert outcomes(site) == {"drifted": 1, "told again": 1, "in sync": 1}
    assert [alert.severity for alert in site.of(Alert)] == [Severity.WARNING]


def test_k15_after_three_corrections_within_the_hour_somebody_else_is_setting_it(site: Site) -> None:
    site.set(on_drift="CORRECT")
    site.run(1_000)
    site.nodes["d1"].overwritten = with_port(8080)
    told = len(site.nodes["d1"].told)
    site.run(30 * MINUTE_MS)
    assert len(site.nodes["d1"].told) == told + 3
    assert standing(site) is DRIFTED
    site.nodes["d1"].overwritten = lambda server: replace(server, http_port=8080, https_port=8443)
    site.run(5 * MINUTE_MS)
    assert site.standings()["d1"].detail == "http_port is 8080; https_port is 8443"
    left = [alert for alert in site.of(Alert) if alert.severity is Severity.CRITICAL]
    assert len(left) == 1
    assert "somebody else is setting it" in left[0].what
    # An hour after the first it is tried again, as often.
    site.run(HOUR_MS)
    assert len(site.nodes["d1"].told) == told + 6
    site.nodes["d1"].overwritten = None
    site.run(HOUR_MS)
    assert standing(site) is IN_SYNC


def test_a_correction_that_fails_is_tried_again_and_then_has_failed(site: Site) -> None:
    site.set(on_drift="CORRECT")
    site.run(1_000)
    site.nodes["d1"].has = replace(WANTED, http_port=8080)
    site.nodes["d1"].always = (StepOutcome.FAILED, "busy")
    site.run(LOOK_MS + 1_000)
    assert (standing(site), site.standings()["d1"].detail) == (DRIFTED, "http_port is 8080")
    told = len(site.nodes["d1"].told)
    site.observe("d1")
    assert len(site.nodes["d1"].told) == told, "it is told again anyhow"
    site.run(3 * MINUTE_MS)
    assert standing(site) is FAILED
    assert outcomes(site) == {"drifted": 1, "told again": 1, "failed": 1}
    site.nodes["d1"].always = DONE
    site.run(10 * MINUTE_MS)
    assert standing(site) is IN_SYNC


def test_a_late_answer_to_an_earlier_attempt_does_not_count(site: Site) -> None:
    site.nodes["d1"].answers = [None]
    site.set(http_port="8080")
    site.run(65_500)
    first = site.nodes["d1"].told[-1]
    site.nodes["d1"].answers = [None]
    site.run(10_000)
    assert [command.attempt for command in site.nodes["d1"].told] == [1, 1, 2]
    site.answer(first, StepOutcome.REFUSED, "not any more")
    assert standing(site) is APPLYING


def test_another_site_cannot_answer_for_a_node(site: Site) -> None:
    site.nodes["d1"].answers = [None]
    site.set(http_port="8080")
    site.answer(replace(site.nodes["d1"].told[-1], site="elsewhere"), StepOutcome.REFUSED, "forged")
    assert standing(site) is APPLYING


def test_what_is_seen_of_a_node_that_is_away_says_nothing(site: Site) -> None:
    """A look of before it went down can come in after."""
    site.nodes["d1"].state = NodeState.DOWN
    site.report()
    site.run(1_000)
    site.observe("d1")
    assert standing(site) is AWAY


def test_more_drift_is_shown_and_no_new_alert(site: Site) -> None:
    site.nodes["d1"].has = replace(WANTED, http_port=8080)
    site.run(LOOK_MS)
    site.nodes["d1"].has = replace(WANTED, http_port=8080, enabled=False)
    site.run(LOOK_MS)
    assert site.standings()["d1"].detail == "enabled is false; http_port is 8080"
    assert len(alerts(site)) == 1


def test_answers_to_older_commands_do_not_count(site: Site) -> None:
    site.nodes["d1"].answers = [(StepOutcome.REFUSED, "no")]
    site.set(http_port="8080")
    site.set(http_port="8081")
    site.run(1_000)
    assert [command.epoch for command in site.nodes["d1"].told] == [1, 2, 3]
    assert standing(site) is IN_SYNC
    assert site.nodes["d1"].has.http_port == 8081


def test_a_port_map_is_the_same_in_whatever_order_a_node_tells_it(site: Site) -> None:
    site.set(http_port_map=f"d1=8081,d2=8082,{BROKER}=8083")
    site.run(1_000)
    server = site.nodes["d1"].has
    site.observe("d1", replace(server, http_port_map=server.http_port_map[::-1]))
    assert standing(site) is IN_SYNC


@pytest.mark.parametrize("on_drift", list(OnDrift))
def test_sixty_four_nodes_end_as_the_policy_says(on_drift: OnDrift) -> None:
    """Three fail, one drifts, one joins late."""
    names = [f"d{number:02}" for number in range(1, 65)]
    site = Site(names[:-1])
    site.nodes["d03"].always = (StepOutcome.REFUSED, "default_storage_location: /srv/replicas is not here")
    site.nodes["d17"].always = (StepOutcome.FAILED, "the management service does not answer")
    site.nodes["d42"].always = None
    site.report()
    site.set(SET, on_drift=on_drift.value)
    site.run(8 * MINUTE_MS)
    site.nodes["d50"].has = replace(WANTED, enabled=False)
    site.run(2 * MINUTE_MS)
    site.nodes["d64"] = FakeNode()
    site.report()
    site.run(5 * MINUTE_MS)

    drifted = {"d50": DRIFTED} if on_drift is OnDrift.ALERT else {}
    ends = {"d03": FAILED, "d17": FAILED, "d42": FAILED} | drifted
    assert {name: told.standing for name, told in site.standings().items() if told.standing is not IN_SYNC} == ends
    assert set(site.standings()) == set(names)
    applied = {name for name, node in site.nodes.items() if node.has == WANTED}
    assert applied == set(names) - set(ends)
    assert [len(site.nodes[name].told) for name in ("d03", "d17", "d42")] == [2, 6, 5]
    assert sum("d50" in what for what in alerts(site)) == 1
    assert all(len(site.nodes[name].told) == 1 for name in names if name not in (*ends, "d50"))

    # What made them fail is mended: they come by themselves.
    for node in site.nodes.values():
        node.always = DONE
    site.run(12 * MINUTE_MS)
    assert {name for name, node in site.nodes.items() if node.has == WANTED} == set(names) - set(drifted)
