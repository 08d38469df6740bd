"""What the stand-in's hosts tell: replication as time goes by, guests, replica servers, clusters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from pypsrp.powershell import RunspacePool

from hyperv import AdapterSpec, StandIn, VmSpec
from hyperv.client import Asked, ask, named, runspaces
from worlds import NOW


@pytest.fixture
def primary(stand_in: StandIn) -> Iterator[RunspacePool]:
    with runspaces(stand_in, "p1") as pool:
        yield pool


@pytest.fixture
def dr(stand_in: StandIn) -> Iterator[RunspacePool]:
    with runspaces(stand_in, "d1") as pool:
        yield pool


def one(pool: RunspacePool, *commands: Asked) -> dict[str, Any]:
    (found,) = ask(pool, *commands).output
    assert isinstance(found, dict)
    return found


_MEASURE = ("Measure-VMReplication", {"VMName": "vm-1"})


class TestCycles:
    def test_statistics_count_what_was_sent(self, stand_in: StandIn, primary: RunspacePool, dr: RunspacePool) -> None:
        stand_in.write("vm-1", 200_000_000)
        assert one(primary, _MEASURE)["PendingReplicationSize"] == 200_000_000
        stand_in.replicate()
        for pool in (primary, dr):
            measured = one(pool, _MEASURE)
            assert (measured["SuccessfulReplicationCount"], measured["PendingReplicationSize"]) == (1, 0)
            assert measured["MaximumReplicationSize"] == 200_000_000
            assert measured["AverageReplicationLatency"] == "PT2S"
            assert str(measured["ReplicationHealth"]) == str(measured["Health"]) == "Normal"

    @pytest.mark.parametrize(("seconds", "arrives"), [(0, "PT1H"), (30, "PT1H30.0000001S"), (31, "PT1H31S")])
    def test_durations_arrive_as_they_are(
        self, stand_in: StandIn, primary: RunspacePool, seconds: int, arrives: str
    ) -> None:
        stand_in.clock.advance(seconds)
        assert one(primary, ("Get-VM", {}))["Uptime"] == arrives

    def test_a_cut_link_shows_by_age_and_the_replica_counts_by_the_clock(
        self, stand_in: StandIn, primary: RunspacePool, dr: RunspacePool
    ) -> None:
        stand_in.cut_link()
        for _ in range(3):
            stand_in.replicate()
        sends, receives = one(primary, _MEASURE), one(dr, _MEASURE)
        assert (sends["MissedReplicationCount"], sends["ReplicationErrors"], str(sends["Health"])) == (3, 3, "Critical")
        assert (receives["MissedReplicationCount"], str(receives["Health"])) == (2, "Warning")
        stand_in.restore_link()
        stand_in.replicate()
        assert one(primary, _MEASURE)["SuccessfulReplicationCount"] == 1

    def test_a_silenced_vm_misses_its_cycles(self, stand_in: StandIn, primary: RunspacePool) -> None:
        stand_in.silence("vm-1")
        stand_in.replicate()
        assert one(primary, _MEASURE)["MissedReplicationCount"] == 1

    def test_every_fourth_point_is_application_consistent_and_24_are_kept_besides_the_latest(
        self, stand_in: StandIn, dr: RunspacePool
    ) -> None:
        for _ in range(4):
            stand_in.replicate()
        kinds = [str(point["SnapshotType"]) for point in ask(dr, ("Get-VMSnapshot", {"VMName": "vm-1"})).output]
        assert kinds == ["Replica"] * 4 + ["AppConsistentReplica"]
        consistent = ("Get-VMSnapshot", {"VMName": "vm-1", "SnapshotType": "AppConsistentReplica"})
        (point,) = ask(dr, consistent).output
        assert dt.datetime.fromisoformat(point["CreationTime"]) == dt.datetime.fromtimestamp(NOW / 1000 + 120, dt.UTC)
        for _ in range(24):
            stand_in.replicate()
        assert len(ask(dr, ("Get-VMSnapshot", {"VMName": "vm-1"})).output) == 25

    def test_statistics_are_reset(self, stand_in: StandIn, primary: RunspacePool) -> None:
        stand_in.replicate()
        ask(primary, *named("vm-1", "Reset-VMReplicationStatistics"))
        assert one(primary, _MEASURE)["SuccessfulReplicationCount"] == 0

    def test_a_suspended_replication_is_resumed(self, stand_in: StandIn, primary: RunspacePool) -> None:
        ask(primary, *named("vm-1", "Suspend-VMReplication"))
        assert stand_in.replicate() == 0
        ask(primary, *named("vm-1", "Resume-VMReplication"))
        assert stand_in.replicate() == 1

    def test_replication_is_removed_and_enabled_anew(self, stand_in: StandIn, primary: RunspacePool) -> None:
        ask(primary, *named("vm-1", "Remove-VMReplication"))
        assert ask(primary, ("Get-VMReplication", {})).output == []
        broker = {"ReplicaServerName": "dr-broker", "ReplicaServerPort": 80, "AuthenticationType": "Kerberos"}
        enabled = ask(primary, *named("vm-1", "Enable-VMReplication", **broker, ReplicationFrequencySec=300))
        assert enabled.errors == []
        found = one(primary, ("Get-VMReplication", {"ReplicationMode": "Primary"}))
        assert (str(found["State"]), found["ReplicationFrequencySec"]) == ("ReadyForInitialReplication", 300)


class TestGuests:
    def test_wmi_knows_what_the_guest_has_configured(self, stand_in: StandIn, primary: RunspacePool) -> None:
        look = {"Namespace": "root/virtualization/v2", "ClassName": "Msvm_GuestNetworkAdapterConfiguration"}
        found = one(primary, ("Get-CimInstance", look))
        assert found["IPAddresses"] == ["10.10.0.21", "fd10::21", "fe80::215:5dff:fe00:0001"]
        assert found["Subnets"] == ["255.255.255.0", "64", "64"]
        assert (found["DefaultGateways"], found["DNSServers"]) == (["10.10.0.1", "fd10::1"], [])
        vm_id = str(stand_in.vm("vm-1", "primary").vm_id).upper()
        query = f"select * from Msvm_GuestNetworkAdapterConfiguration where InstanceID like '%{vm_id}%'"
        same = one(primary, ("Get-CimInstance", {"Namespace": look["Namespace"], "Query": query}))
        assert same == found
        look["Filter"] = "InstanceID = 'another'"
        assert ask(primary, ("Get-CimInstance", look)).output == []

    @pytest.mark.parametrize("silent", ["off", "no answer", "disabled", "booting"])
    def test_a_guest_that_does_not_report_leaves_it_empty(self, silent: str) -> None:
        with StandIn(boot_s=10 if silent == "booting" else 0) as stand_in, runspaces(stand_in) as pool:
            if silent in ("off", "booting"):
                ask(pool, *named("vm-1", "Stop-VM", TurnOff=True))
            if silent == "booting":
                ask(pool, *named("vm-1", "Start-VM"))
            if silent in ("no answer", "disabled"):
                stand_in.set_integration_services("vm-1", answer=silent != "no answer", enabled=silent != "disabled")
            look = {"Namespace": "root/virtualization/v2", "ClassName": "Msvm_GuestNetworkAdapterConfiguration"}
            found = one(pool, ("Get-CimInstance", look))
            assert (found["IPAddresses"], found["DNSServers"]) == ([], [])
            assert one(pool, ("Get-VMNetworkAdapter", {"VMName": "vm-1"}))["IPAddresses"] == []
            services = ask(pool, ("Get-VMIntegrationService", {"VMName": "vm-1", "Name": "Heartbeat"})).output
            assert str(services[0]["PrimaryOperationalStatus"]) == ("Disabled" if silent == "disabled" else "NoContact")
            stand_in.clock.advance(10)
            reports = one(pool, ("Get-CimInstance", look))["IPAddresses"] != []
            assert reports == (silent == "booting")

    def test_a_guest_says_what_it_runs(self, primary: RunspacePool) -> None:
        look = {"Namespace": "root/virtualization/v2", "ClassName": "Msvm_KvpExchangeComponent"}
        items = one(primary, ("Get-CimInstance", look))["GuestIntrinsicExchangeItems"]
        assert any("<VALUE>Windows Server 2022 Datacenter</VALUE>" in item for item in items)

    def test_ports_answer_where_the_guest_is(self, stand_in: StandIn, primary: RunspacePool) -> None:
        assert stand_in.listens("10.10.0.21", 443)
        assert not stand_in.listens("10.50.0.21", 443)
        stand_in.close_port("vm-1", 443)
        assert not stand_in.listens("10.10.0.21", 443)
        disconnect = ("Disconnect-VMNetworkAdapter", {"VMName": "vm-1", "Confirm": False})
        assert ask(primary, disconnect).errors == []
        assert not stand_in.listens("10.10.0.21", 80)

    def test_unknown_classes_are_told(self, primary: RunspacePool) -> None:
        wrong = {"Namespace": "root/cimv2", "ClassName": "Msvm_KvpExchangeComponent"}
        for look in ({"ClassName": "Win32_Toaster"}, wrong):
            assert "0x80041010" in ask(primary, ("Get-CimInstance", look)).errors[0]

    def test_a_node_knows_its_memory_and_volumes(self, primary: RunspacePool) -> None:
        memory = one(primary, ("Get-CimInstance", {"ClassName": "Win32_OperatingSystem"}))
        assert memory["FreePhysicalMemory"] == 56 * 2**20
        shared = one(primary, ("Get-CimInstance", {"ClassName": "Win32_Volume", "Filter": "FileSystem = 'CSVFS'"}))
        assert shared["Name"] == "C:\\ClusterStorage\\primary\\"

    @pytest.mark.parametrize("parameters", [{"SwitchName": "isolated-primary"}, {"SwitchName": "nowhere"}])
    def test_adapters_are_connected_to_switches_that_are_there(
        self, stand_in: StandIn, primary: RunspacePool, parameters: dict[str, Any]
    ) -> None:
        answer = ask(primary, ("Connect-VMNetworkAdapter", {"VMName": "vm-1", "Confirm": False, **parameters}))
        connected = [adapter.switch for adapter in stand_in.vm("vm-1", "primary").adapters]
        assert (connected, answer.errors == []) in ((["isolated-primary"], True), (["lan"], False))
        assert one(primary, ("Get-VMNetworkAdapter", {"VMName": "vm-1"}))["SwitchName"] == connected[0]


class TestServers:
    def test_settings_are_read_back(self, primary: RunspacePool) -> None:
        settings = {
            "ReplicationEnabled": True,
            "AllowedAuthenticationType": "CertificateAndKerberos",
            "CertificateThumbprint": "AB12",
            "KerberosAuthenticationPort": 8080,
            "MonitoringInterval": "12:30:00",
        }
        answer = ask(primary, ("Set-VMReplicationServer", {**settings, "Confirm": False, "Passthru": True}))
        assert answer.errors == []
        found = one(primary, ("Get-VMReplicationServer", {}))
        assert answer.output[0].keys() == found.keys()
        assert {name: found[name] for name in settings} | {"AllowedAuthenticationType": ""} == {
            **settings,
            "AllowedAuthenticationType": "",
            "MonitoringInterval": "PT12H30M",
        }
        assert str(found["AllowedAuthenticationType"]) == "CertificateAndKerberos"

    @pytest.mark.parametrize(
        "settings",
        [
            {"ReplicationAllowedFromAnyServer": True},
            {"AllowedAuthenticationType": "Certificate"},
            {"KerberosAuthenticationPort": 0},
            {"MonitoringInterval": "00:30:00"},
        ],
        ids=str,
    )
    def test_settings_have_to_be_sound(self, primary: RunspacePool, settings: dict[str, Any]) -> None:
        answer = ask(primary, ("Set-VMReplicationServer", {**settings, "Confirm": False}))
        assert "InvalidParameter" in answer.errors[0]

    def test_ports_are_mapped_for_all_nodes_or_set_for_this(self, primary: RunspacePool) -> None:
        mapping = {"p1.primary.example": 81, "p2.primary.example": 82, "primary-broker.primary.example": 80}
        settings = {"KerberosAuthenticationPortMapping": mapping, "Confirm": False}
        assert ask(primary, ("Set-VMReplicationServer", settings)).errors == []
        assert one(primary, ("Get-VMReplicationServer", {}))["KerberosAuthenticationPortMapping"] == mapping
        both = ask(primary, ("Set-VMReplicationServer", {**settings, "KerberosAuthenticationPort": 80}))
        assert "AmbiguousParameterSet" in both.errors[0]

    def test_authorization_entries(self, primary: RunspacePool) -> None:
        entry = {"AllowedPrimaryServer": "*.other.example", "ReplicaStorageLocation": "C:\\r", "TrustGroup": "t"}
        new = ("New-VMReplicationAuthorizationEntry", {**entry, "Confirm": False})
        assert ask(primary, new).errors == []
        assert "InvalidParameter" in ask(primary, new).errors[0]
        change = {"AllowedPrimaryServer": "*.other.example", "TrustGroup": "u", "Confirm": False}
        assert ask(primary, ("Set-VMReplicationAuthorizationEntry", change)).errors == []
        found = one(primary, ("Get-VMReplicationAuthorizationEntry", {"TrustGroup": "u"}))
        assert {name: found[name] for name in entry} == {**entry, "TrustGroup": "u"}
        remove = {"TrustGroup": "u", "Confirm": False}
        assert ask(primary, ("Remove-VMReplicationAuthorizationEntry", remove)).errors == []
        assert "ObjectNotFound" in ask(primary, ("Remove-VMReplicationAuthorizationEntry", remove)).errors[0]
        anyone = {"ReplicationAllowedFromAnyServer": True, "DefaultStorageLocation": "C:\\r", "Confirm": False}
        ask(primary, ("Set-VMReplicationServer", anyone))
        assert "InvalidState" in ask(primary, new).errors[0]

    def test_a_connection_is_tested(self, stand_in: StandIn, primary: RunspacePool) -> None:
        peer = {"ReplicaServerName": "dr-broker", "ReplicaServerPort": 80, "AuthenticationType": "Kerberos"}
        assert ask(primary, ("Test-VMReplicationConnection", peer)).errors == []
        for wrong in ({"ReplicaServerPort": 81}, {"AuthenticationType": "Certificate", "ReplicaServerPort": 443}):
            assert ask(primary, ("Test-VMReplicationConnection", peer | wrong)).errors
        stand_in.cut_link()
        assert ask(primary, ("Test-VMReplicationConnection", peer)).errors


class TestClusters:
    def test_nodes_have_their_states(self, stand_in: StandIn, primary: RunspacePool) -> None:
        stand_in.pause_node("p1")
        stand_in.power_off_node("p2")
        nodes = ask(primary, ("Get-ClusterNode", {})).output
        assert [(node["Name"], str(node["State"])) for node in nodes] == [("p1", "Paused"), ("p2", "Down")]
        assert one(primary, ("Get-Cluster", {}))["Name"] == "primary-cluster"

    def test_groups_tell_where_a_vm_is(self, stand_in: StandIn, dr: RunspacePool) -> None:
        stand_in.migrate("vm-1", "d2")
        vm_id = stand_in.vm("vm-1", "dr").vm_id
        group = one(dr, ("Get-ClusterGroup", {"VMId": vm_id}))
        assert (group["Name"], group["OwnerNode"], str(group["GroupType"])) == ("vm-1", "d2", "VirtualMachine")
        assert str(group["State"]) == "Offline"
        names = [each["Name"] for each in ask(dr, ("Get-ClusterGroup", {})).output]
        assert names == ["dr-broker", "vm-1"]
        resource = one(dr, ("Get-ClusterGroup", {"Name": ["vm-1"]}), ("Get-ClusterResource", {}))
        assert (resource["OwnerGroup"], resource["ResourceType"]) == ("vm-1", "Virtual Machine")
        assert "ObjectNotFound" in ask(dr, ("Get-ClusterGroup", {"Name": ["other"]})).errors[0]

    def test_what_ran_on_a_node_that_goes_is_started_on_another(self, stand_in: StandIn) -> None:
        stand_in.power_off_node("p1")
        with runspaces(stand_in, "p2") as pool:
            assert str(one(pool, ("Get-VM", {}))["State"]) == "Running"
        assert stand_in.ran_twice == frozenset()

    def test_a_vm_of_the_cluster_is_found_on_its_own_node_alone(self, stand_in: StandIn, dr: RunspacePool) -> None:
        assert one(dr, ("Get-ClusterGroup", {"Name": ["vm-1"]}), ("Get-VM", {}))["Name"] == "vm-1"
        with runspaces(stand_in, "d2") as pool:
            answer = ask(pool, ("Get-ClusterGroup", {"Name": ["vm-1"]}), ("Get-VM", {}))
            assert "AccessDenied" in answer.errors[0]

    def test_several_vms(self) -> None:
        second = VmSpec("vm-2", (AdapterSpec(mac="00155D000003"),), "p2", "d2", frequency_s=300)
        with StandIn(vms=(VmSpec(), second)) as stand_in, runspaces(stand_in, "p2") as pool:
            assert one(pool, ("Get-VMReplication", {}))["ReplicationFrequencySec"] == 300
            # An interval of the longest frequency has passed: the cycles of both are due.
            assert stand_in.replicate() == 2
