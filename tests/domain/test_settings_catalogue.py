"""The catalogue: every field of the settings is in it, and what is written is read as the same."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.replication_settings import (
    AcceptedAuthentication,
    AuthorizationEntry,
    InitialReplication,
    NodePort,
    OnDrift,
    ReplicationServer,
    SettingsRevision,
    SettingsScope,
    VmReplication,
)
from failover_orch.domain.settings_catalogue import (
    SETTINGS,
    Setting,
    find_setting,
    setting_texts,
    settings_differences,
    settings_of,
)
from failover_orch.domain.settings_forms import write_instant
from failover_orch.errors import ConfigError

CLUSTER, VM = SettingsScope
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
PATHS = st.builds(lambda parts: "/" + "/".join(parts), st.lists(NAMES, min_size=1, max_size=3))
ENTRIES = st.builds(
    lambda wild, labels, path, group: AuthorizationEntry(("*." if wild else "") + ".".join(labels), path, group),
    st.booleans(),
    st.lists(NAMES, min_size=1, max_size=3),
    PATHS,
    NAMES,
)
PORTS = st.integers(1, 65_535)
PORT_MAPS = st.lists(st.builds(NodePort, NAMES, PORTS), max_size=6).map(
    lambda ports: tuple(sorted(ports, key=lambda each: (each.node, each.port)))
)
VALUES = {
    "authentication": st.sampled_from(AcceptedAuthentication),
    "http_port": PORTS,
    "https_port": PORTS,
    "http_port_map": PORT_MAPS,
    "https_port_map": PORT_MAPS,
    "certificate_thumbprint": st.text("0123456789ABCDEF", min_size=1, max_size=128),
    "default_storage_location": PATHS,
    "authorization": st.lists(ENTRIES, max_size=4).map(
        lambda entries: tuple(
            sorted(entries, key=lambda each: (each.primary_server, each.storage_location, each.trust_group))
        )
    ),
    "monitoring_interval_s": st.sampled_from(
        [hours * 3600 for hours in (1, 2, 3, 4, 6, 8, 12, 24)] + [days * 86_400 for days in range(2, 8)]
    ),
    "monitoring_start_minute": st.integers(0, 1439),
    "on_drift": st.sampled_from(OnDrift),
    "frequency_s": st.sampled_from([30, 300, 900]),
    "recovery_points": st.integers(0, 24),
    "application_consistent_hours": st.integers(0, 12),
    "excluded_disks": st.frozensets(NAMES, max_size=4).map(lambda disks: tuple(sorted(disks))),
    "initial_replication": st.sampled_from(InitialReplication),
    "initial_start_at_ms": st.integers(0, 4_000_000_000).map(lambda seconds: seconds * 1000),
    "resynchronize_from_minute": st.integers(0, 1439),
    "resynchronize_to_minute": st.integers(0, 1439),
    "extended_to": NAMES,
    "extended_frequency_s": st.sampled_from([300, 900]),
}


@pytest.mark.parametrize(("scope", "of"), [(CLUSTER, ReplicationServer), (VM, VmReplication)])
def test_every_field_is_a_setting_and_every_setting_a_field(scope: SettingsScope, of: type) -> None:
    names = [setting.name for setting in settings_of(scope)]
    assert names == [field.name for field in fields(of)] + ["on_drift"]
    assert len(set(names)) == len(names)
    assert [setting.default for setting in settings_of(scope)][:-1] == [field.default for field in fields(of)]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.scope.lower()}-{setting.name}")
@given(data=st.data())
def test_what_is_written_is_read_as_the_same(setting: Setting, data: st.DataObject) -> None:
    value = data.draw(VALUES.get(setting.name, st.booleans()))
    text = setting.write(value)
    again = setting.parse(text)
    assert again == value
    assert setting.write(again) == text
    assert setting.same(again, value)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.scope.lower()}-{setting.name}")
@given(text=st.text(max_size=40))
def test_whatever_is_typed_is_a_value_that_can_be_written_or_is_refused(setting: Setting, text: str) -> None:
    with suppress(ConfigError):
        value = setting.parse(text)
        assert setting.parse(setting.write(value)) == value


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.scope.lower()}-{setting.name}")
def test_an_empty_text_is_the_default_and_the_default_is_written_as_it_is_read(setting: Setting) -> None:
    assert setting.parse("") == setting.parse("  ") == setting.default
    assert setting.parse(setting.default_text) == setting.default


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("enabled", "True", True),
        ("authentication", "certificate", "Certificate"),
        ("http_port_map", " p2=81, p1=80 ,", (NodePort("p1", 80), NodePort("p2", 81))),
        ("certificate_thumbprint", "\u200eab cd:EF 01", "ABCDEF01"),
        ("default_storage_location", "C:\\ClusterStorage\\Volume1\\", "C:\\ClusterStorage\\Volume1"),
        ("default_storage_location", "C:\\", "C:\\"),
        ("default_storage_location", "\\\\smb\\replicas", "\\\\smb\\replicas"),
        (
            "authorization",
            "B.example.com | /srv/b | silver; *.example.com|/srv/a b|gold",
            (
                AuthorizationEntry("*.example.com", "/srv/a b", "gold"),
                AuthorizationEntry("b.example.com", "/srv/b", "silver"),
            ),
        ),
        ("monitoring_interval_s", "43200", 43_200),
        ("monitoring_interval_s", "1d", 86_400),
        ("monitoring_interval_s", "120m", 7_200),
        ("monitoring_start_minute", "9:05", 545),
        ("on_drift", "correct", OnDrift.CORRECT),
    ],
)
def test_what_people_type_for_a_cluster(name: str, text: str, value: object) -> None:
    assert find_setting(CLUSTER, name).parse(text) == value


@pytest.mark.parametrize(
    ("scope", "name", "text", "why"),
    [
        (CLUSTER, "enabled", "yes", "expected true or false, not 'yes'"),
        (CLUSTER, "http_port", "0", "expected a port from 1 to 65535, not '0'"),
        (CLUSTER, "http_port", "65536", "expected a port from 1 to 65535"),
        (CLUSTER, "http_port_map", "p1:80", "expected node=port"),
        (CLUSTER, "http_port_map", "p1=99999", "expected a port from 1 to 65535"),
        (CLUSTER, "certificate_thumbprint", "A" * 129, "expected at most 128 hexadecimal digits"),
        (CLUSTER, "certificate_thumbprint", "xyz", "expected at most 128 hexadecimal digits"),
        (CLUSTER, "default_storage_location", "replicas", "expected an absolute path"),
        (CLUSTER, "authorization", "a.example.com|/srv", "primary server|storage location|trust group"),
        (CLUSTER, "authorization", "*|/srv|gold", "set from_any_server to true"),
        (CLUSTER, "authorization", "a.*.com|/srv|gold", "a wildcard may only be the whole first label"),
        (CLUSTER, "authorization", "a*.example.com|/srv|gold", "a wildcard may only be the whole first label"),
        (CLUSTER, "authorization", "*.|/srv|gold", "expected a primary server's name"),
        (CLUSTER, "monitoring_interval_s", "5h", "expected 1h, 2h, 3h, 4h, 6h, 8h, 12h, 24h, 2d, 3d"),
        (CLUSTER, "monitoring_interval_s", "8d", "expected 1h"),
        (CLUSTER, "monitoring_interval_s", "60", "(without a unit: seconds)"),
        (CLUSTER, "monitoring_start_minute", "24:00", "expected a time of day such as 09:00"),
        (CLUSTER, "monitoring_start_minute", "9", "expected a time of day such as 09:00"),
        (CLUSTER, "on_drift", "ignore", "expected ALERT or CORRECT, not 'ignore'"),
        (VM, "frequency_s", "60", "expected 30s, 5m or 15m"),
        (VM, "recovery_points", "25", "expected a whole number from 0 to 24"),
        (VM, "application_consistent_hours", "13", "expected a whole number from 0 to 12"),
        (VM, "initial_replication", "carrier pigeon", "expected NETWORK, EXPORT or EXISTING"),
        (VM, "initial_start_at_ms", "2026-02-30T10:00:00Z", "expected a time in UTC"),
        (VM, "initial_start_at_ms", "2026-11-23T10:00:00+01:00", "expected a time in UTC"),
        (VM, "extended_frequency_s", "30s", "expected 5m or 15m"),
    ],
)
def test_what_a_setting_does_not_take_is_said_with_what_it_does(
    scope: SettingsScope, name: str, text: str, why: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        find_setting(scope, name).parse(text)
    assert why in str(refused.value)


def test_a_name_that_there_is_none_of_gets_the_nearest() -> None:
    with pytest.raises(ConfigError) as refused:
        find_setting(CLUSTER, "http-ports")
    assert str(refused.value) == "'http-ports' is no setting of a cluster: did you mean http_port?"
    with pytest.raises(ConfigError) as refused:
        find_setting(VM, "http_port")
    assert str(refused.value).startswith("'http_port' is no setting of a VM: there are frequency_s, recovery_points")


@given(st.integers(0, 250_000_000_000))
def test_instants_are_the_calendars(seconds: int) -> None:
    assert write_instant(seconds * 1000) == datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_a_revision_as_texts() -> None:
    server = ReplicationServer(enabled=True, http_port=8080)
    texts = setting_texts(SettingsRevision(CLUSTER, "dc", 1, (), "a", "b", 1, server=server, on_drift=OnDrift.CORRECT))
    assert list(texts) == [setting.name for setting in settings_of(CLUSTER)]
    assert (texts["enabled"], texts["http_port"], texts["on_drift"]) == ("true", "8080", "CORRECT")
    assert (texts["monitoring_interval_s"], texts["monitoring_start_minute"]) == ("12h", "09:00")


def test_differences_are_those_that_matter() -> None:
    server = ReplicationServer(
        authorization=(AuthorizationEntry("a.example.com", "/a", "g"), AuthorizationEntry("b.example.com", "/b", "g")),
        certificate_thumbprint="AB",
    )
    other_order = tuple(
        replace(entry, primary_server=entry.primary_server.upper()) for entry in server.authorization[::-1]
    )
    assert settings_differences(server, replace(server, authorization=other_order, certificate_thumbprint="ab")) == {}
    assert settings_differences(server, replace(server, http_port=81, enabled=True)) == {
        "enabled": "true",
        "http_port": "81",
    }
    assert settings_differences(VmReplication(), VmReplication(initial_start_at_ms=9, compression=False)) == {
        "compression": "false"
    }
