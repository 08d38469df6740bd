"""Which changes of settings are refused (C1 to C16), what the others come to, and whom they touch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.inventory import ClusterInventory, Guest, Node, NodeState, Replication, VmInventory
from failover_orch.domain.replication import ReplicationState
from failover_orch.domain.replication_settings import (
    AuthorizationEntry,
    NodePort,
    OnDrift,
    ReplicationServer,
    SettingsChange,
    SettingsRevision,
    SettingsScope,
    VmReplication,
)
from failover_orch.domain.settings_catalogue import settings_of
from failover_orch.domain.settings_effects import SettingsEffect, change_effects
from failover_orch.domain.settings_forms import write_instant
from failover_orch.domain.settings_rules import LATEST_START_MS, Merged, merge_settings

NOW = 1_800_000_000_000
DR = ClusterInventory(
    "dc", "dr", "DR-BROKER", (Node("d1", NodeState.UP, 1, 1), Node("d2", NodeState.UP, 1, 1)), reported_at_ms=1
)
PRI = ClusterInventory("pc", "primary", "PRI-BROKER", (Node("p1", NodeState.UP, 1, 1),), reported_at_ms=1)
THIRD = ClusterInventory("tc", "third", "THIRD-BROKER", (Node("t1", NodeState.UP, 1, 1),), reported_at_ms=1)
_NONE: Mapping[str, str] = MappingProxyType({})
CLUSTERS = (DR, PRI, THIRD)
VM = VmInventory(
    "vm-1", "erp", (), Guest("debian-12"), Replication(ReplicationState.REPLICATING, "primary", "dr", "pc", "dc")
)
OPEN = {"enabled": "true", "from_any_server": "true", "default_storage_location": "/srv"}


def change(settings: Mapping[str, str] = _NONE, **changes: str) -> SettingsChange:
    return SettingsChange(SettingsScope.CLUSTER, "dc", {**settings, **changes}, "alice", "CHG-1", NOW)


def vm_change(**changes: str) -> SettingsChange:
    return replace(change(changes), scope=SettingsScope.VM, target="vm-1")


def merged(wanted: SettingsChange, current: SettingsRevision | None = None) -> Merged:
    return merge_settings(current, wanted, CLUSTERS, VM if wanted.scope is SettingsScope.VM else None)


def revision(server: ReplicationServer) -> SettingsRevision:
    return SettingsRevision(SettingsScope.CLUSTER, "dc", 3, (), "bob", "CHG-0", NOW - 60_000, server=server)


def whys(found: Merged) -> list[str]:
    return [str(finding) for finding in found.findings]


MAP = "d1=8081,d2=8082,DR-BROKER=8083"


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (replace(change(), actor=""), "C1: a change of settings says who makes it and why"),
        (replace(change(), reason=""), "C1: a change of settings says who makes it and why"),
        (replace(change(), target=""), "C2: a change of settings names the cluster or VM that it is for"),
        (replace(change(), based_on=2), "C3: the change is based on version 2, and the settings are at version 0"),
        (change(http_ports="80"), "C4: 'http_ports' is no setting of a cluster: did you mean http_port?"),
        (change(frequency_s="30s"), "C4: 'frequency_s' is no setting of a cluster"),
        (change(http_port="http"), "C5: http_port: expected a port from 1 to 65535, not 'http'"),
        (change(from_any_server="true"), "C6: replication from any server needs a default storage location"),
        (
            change(OPEN, authorization="a.example.com|/srv|gold"),
            "C7: authorization entries count only where from_any_server is false",
        ),
        (
            change(authorization="a.example.com|/srv|gold;A.example.com|/tmp|gold"),
            "C8: authorization has 2 entries for a.example.com: keep one",
        ),
        (change(authentication="Certificate"), "C9: authentication Certificate needs the nodes' own certificate"),
        (
            change(authentication="CertificateAndKerberos", certificate_thumbprint="AB", http_port="443"),
            "C10: http_port and https_port are both 443",
        ),
        (change(http_port_map="d1=8081,d2=8082"), "C11: http_port_map leaves out the broker DR-BROKER"),
        (change(https_port_map="d1=8081,DR-BROKER=8083"), "C11: https_port_map leaves out d2"),
        (change(http_port_map=f"{MAP},D1=8084"), "C11: http_port_map names d1 2 times: keep one"),
        (change(http_port_map=f"{MAP},d9=8081"), "C11: http_port_map has port 8081 2 times"),
        (
            vm_change(application_consistent_hours="1"),
            "C12: application-consistent recovery points need recovery points to be kept",
        ),
        (
            vm_change(resynchronize_from_minute="06:00"),
            "C13: the window for resynchronisation begins when it ends",
        ),
        (vm_change(initial_start_at_ms="2026-01-01T00:00:00Z"), "C14: initial_start_at_ms: 2026-01-01T00:00:00Z is"),
        (vm_change(initial_start_at_ms="2027-12-31T00:00:00Z"), "C14: initial_start_at_ms: 2027-12-31T00:00:00Z is"),
        (vm_change(extended_to="dc"), "C15: extended_to: dc has a copy of vm-1 already: name a third cluster"),
        (vm_change(extended_to="nowhere"), "C15: extended_to: cluster nowhere is not known: give one of dc, pc, tc"),
        (
            vm_change(extended_to="tc", frequency_s="15m"),
            "C16: the extended replica cannot be sent to every 300 s where the replica is every 900 s",
        ),
    ],
)
def test_what_is_refused(wanted: SettingsChange, why: str) -> None:
    found = merged(wanted)
    (said,) = whys(found)
    assert said.startswith(why)
    assert found.changed == ()
    assert found.server in (ReplicationServer(), None)
    assert found.replication in (VmReplication(), None)


def test_a_vm_that_nobody_knows_has_no_settings() -> None:
    assert whys(merge_settings(None, vm_change(), CLUSTERS)) == [
        "C2: VM vm-1 is not known: publish its inventory first"
    ]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert [why[:3] for why in whys(merged(change(http_port="x", https_port="y", z="1")))] == ["C5:", "C5:", "C4:"]


@pytest.mark.parametrize(
    "wanted",
    [
        change(OPEN),
        change(enabled="true", authorization="a.example.com|/srv|gold"),
        change(http_port_map=MAP),
        change(http_port_map=f"{MAP},d3=8084"),
        change(authentication="Certificate", certificate_thumbprint="ab cd"),
        vm_change(recovery_points="24", application_consistent_hours="4"),
        vm_change(initial_start_at_ms="2027-01-20T00:00:00Z"),
        vm_change(extended_to="tc", frequency_s="15m", extended_frequency_s="15m"),
        vm_change(extended_to="tc", frequency_s="30s"),
    ],
)
def test_what_is_taken(wanted: SettingsChange) -> None:
    found = merged(wanted)
    assert whys(found) == []
    assert set(found.changed) == set(wanted.changes)


def test_what_a_change_does_not_name_stays_as_it_is() -> None:
    found = merged(change(https_port="444", on_drift="CORRECT"), revision(ReplicationServer(http_port=8080)))
    assert found.server == ReplicationServer(http_port=8080, https_port=444)
    assert (found.on_drift, set(found.changed)) == (OnDrift.CORRECT, {"https_port", "on_drift"})


def test_an_empty_text_puts_a_setting_back() -> None:
    found = merged(change(http_port=""), revision(ReplicationServer(http_port=8080)))
    assert (found.server, found.changed) == (ReplicationServer(), ("http_port",))


def test_what_is_so_already_is_no_change() -> None:
    entry = AuthorizationEntry("a.example.com", "/srv", "gold")
    found = merged(
        change(http_port="8080", authorization="A.EXAMPLE.com|/srv|gold"),
        revision(ReplicationServer(http_port=8080, authorization=(entry,))),
    )
    assert found.changed == ()


def test_rules_look_at_what_the_settings_come_to_and_not_at_the_change_alone() -> None:
    current = revision(ReplicationServer(from_any_server=True, default_storage_location="/srv"))
    (why,) = whys(merged(change(default_storage_location=""), current))
    assert why.startswith("C6: ")


def test_a_start_that_was_set_long_ago_does_not_stand_in_the_way() -> None:
    current = SettingsRevision(
        SettingsScope.VM, "vm-1", 1, (), "bob", "x", 1, replication=VmReplication(initial_start_at_ms=5)
    )
    assert whys(merged(vm_change(frequency_s="30s"), current)) == []


def test_a_third_cluster_that_is_gone_does_not_stand_in_the_way() -> None:
    current = SettingsRevision(
        SettingsScope.VM, "vm-1", 1, (), "bob", "x", 1, replication=VmReplication(extended_to="gone")
    )
    assert whys(merged(vm_change(compression="false"), current)) == []


def test_a_start_may_be_seven_days_away_and_no_more() -> None:
    last = NOW + LATEST_START_MS
    assert whys(merged(vm_change(initial_start_at_ms=write_instant(last)))) == []
    (why,) = whys(merged(vm_change(initial_start_at_ms=write_instant(last + 1_000))))
    assert "is more than 7 days ahead" in why


@given(
    st.dictionaries(
        st.sampled_from([setting.name for setting in settings_of(SettingsScope.CLUSTER)]),
        st.one_of(
            st.text(max_size=20), st.sampled_from(["true", "false", "80", "443", "Certificate", "AB", "/srv", MAP])
        ),
    )
)
def test_a_change_is_taken_whole_or_not_at_all_and_taking_it_twice_changes_nothing(changes: Mapping[str, str]) -> None:
    wanted = replace(change(), changes=changes)
    found = merged(wanted)
    if found.findings:
        assert (found.server, found.on_drift, found.changed) == (ReplicationServer(), OnDrift.ALERT, ())
        return
    current = SettingsRevision(
        SettingsScope.CLUSTER, "dc", 1, (), "bob", "x", 1, server=found.server, on_drift=found.on_drift
    )
    again = merged(wanted, current)
    assert (again.findings, again.changed, again.server) == ((), (), found.server)


# Whom a change touches


def effects(wanted: SettingsChange, current: SettingsRevision | None = None, *vms: VmInventory) -> list[SettingsEffect]:
    return list(change_effects(current, merged(wanted, current), wanted, CLUSTERS, vms or (VM,)))


def on_vms(wanted: SettingsChange, current: SettingsRevision | None = None) -> list[str]:
    return [effect.what for effect in effects(wanted, current) if effect.vm_id == "vm-1" and effect.warning]


def test_a_change_touches_every_node_and_says_which_is_down() -> None:
    down = replace(DR, nodes=(DR.nodes[0], replace(DR.nodes[1], state=NodeState.DOWN)))
    wanted = change(http_port="8080")
    found = change_effects(None, merged(wanted), wanted, (down, PRI), ())
    assert found == (
        SettingsEffect("d1", "", "is told"),
        SettingsEffect("d2", "", "is down, and is told when it is back", warning=True),
    )


def test_what_changes_nothing_or_is_refused_touches_nobody() -> None:
    assert effects(change(http_port="8080"), revision(ReplicationServer(http_port=8080))) == []
    assert effects(change(http_port="x")) == []


def test_a_port_map_with_a_name_of_no_node_is_pointed_out() -> None:
    found = effects(change(http_port_map=f"{MAP},d3=8084"))
    assert SettingsEffect("d3", "", "is in http_port_map, and is no node of dc now", warning=True) in found


ENTRY = AuthorizationEntry("pri-broker", "/srv", "gold")
LET_IN = ReplicationServer(enabled=True, authorization=(ENTRY,))


@pytest.mark.parametrize(
    ("wanted", "before", "what"),
    [
        (change(enabled="false"), LET_IN, ["its replica is no longer accepted: replication is not enabled"]),
        (
            change(authorization="x.example.com|/srv|gold"),
            LET_IN,
            ["its replica is no longer accepted: its primary server PRI-BROKER has no authorization entry"],
        ),
        (
            change(authorization="PRI-BROKER|/srv|silver"),
            LET_IN,
            ["its primary server PRI-BROKER, and so its replica, moves from trust group gold to trust group silver"],
        ),
        (change(authorization="PRI-BROKER|/other|gold"), LET_IN, []),
        (change(http_port="81"), LET_IN, ["its primary has to be told port 81 in place of 80"]),
        (change(https_port="444"), LET_IN, []),
        (
            change(http_port_map=MAP),
            LET_IN,
            ["its primary has to be told other ports: those of DR-BROKER, d1, d2 change"],
        ),
        (
            change(authentication="Certificate", certificate_thumbprint="AB"),
            LET_IN,
            ["its primary has to authenticate by Certificate: Kerberos is no longer accepted"],
        ),
        (change(monitoring_interval_s="1h"), LET_IN, []),
        (change(http_port="81"), ReplicationServer(), []),
    ],
)
def test_which_replicas_a_change_is_felt_by(wanted: SettingsChange, before: ReplicationServer, what: list[str]) -> None:
    assert on_vms(wanted, revision(before)) == what


def test_the_first_settings_of_a_cluster_say_which_replicas_they_shut_out() -> None:
    assert on_vms(change(enabled="true")) == [
        "its replica is no longer accepted: its primary server PRI-BROKER has no authorization entry"
    ]
    assert on_vms(change(OPEN)) == []


def test_vms_at_home_in_a_cluster_could_not_come_back_to_it() -> None:
    wanted = replace(change(enabled="false"), target="pc")
    current = replace(revision(LET_IN), target="pc")
    found = change_effects(current, merged(wanted, current), wanted, CLUSTERS, (VM,))
    assert [effect.what for effect in found if effect.vm_id] == [
        "could not be replicated back here after a failover: replication is not enabled"
    ]


def test_a_vms_own_change_touches_the_vm() -> None:
    wanted = vm_change(frequency_s="30s", on_drift="CORRECT")
    current = SettingsRevision(SettingsScope.VM, "vm-1", 1, (), "bob", "x", 1, replication=VmReplication())
    said = "is told frequency_s 30s, on_drift CORRECT"
    assert effects(wanted, current) == [SettingsEffect("", "vm-1", f"{said}, where it is active")]
    assert effects(wanted) == [SettingsEffect("", "vm-1", f"{said}, and of all else the defaults, where it is active")]


def test_the_same_port_map_twice_is_no_change_of_ports() -> None:
    ports = (NodePort("DR-BROKER", 8083), NodePort("d1", 8081), NodePort("d2", 8082))
    current = revision(ReplicationServer(enabled=True, authorization=(ENTRY,), http_port_map=ports))
    assert on_vms(change(http_port_map=MAP, monitoring_interval_s="1h"), current) == []
    assert on_vms(change(http_port="81"), current) == [], "where there is a map, it alone counts"
