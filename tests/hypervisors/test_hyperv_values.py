"""What the Hyper-V driver reads and writes, without a host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from failover_orch.domain.facts import MoveKind
from failover_orch.domain.records import Action
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses
from failover_orch.domain.terms import WantedPoint
from failover_orch.errors import ConfigError, StaleEpoch, StepFailed, StepRefused
from failover_orch.hypervisors.hyperv import (
    Authentication,
    HyperVNode,
    HyperVPeer,
    HyperVSite,
    Login,
    ReplicationAuthentication,
)
from failover_orch.hypervisors.hyperv.cmdlets import guarded, look, of_vm
from failover_orch.hypervisors.hyperv.failover_addresses import configuration_of, read_back, settable
from failover_orch.hypervisors.hyperv.guest import configured, system_called
from failover_orch.hypervisors.hyperv.objects import Row, since_epoch_ms, span_ms
from failover_orch.hypervisors.hyperv.record import MARK, Arrival, CopyRecord, Record, in_notes, of_notes
from failover_orch.hypervisors.hyperv.seen import AdapterSeen
from failover_orch.hypervisors.hyperv.states import mode_of, power_of, services_of, state_of
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules import Configuration, RecoveryPoint
from worlds import DR_ADDRESSES, command

LOGIN = Login("admin", "secret")
NODE = HyperVNode("p1", LOGIN)


# The record in the notes

POINT = RecoveryPoint("rp-1", 17, application_consistent=True)
FULL = Record(
    "dr",
    epoch=7,
    begun="run-1/P4/1/FAIL_OVER",
    effects=("run-1/P1/1/STAGE_ADDRESSES",),
    staged=DR_ADDRESSES,
    failed_over_to=POINT,
    copy=CopyRecord("run-2", WantedPoint(), POINT, "isolated", DR_ADDRESSES),
    arrival=Arrival("d1", MoveKind.LIVE, 5, "C:\\vms", {"d1": 2, "d2": 1}),
)


@pytest.mark.parametrize(
    "theirs",
    [
        "",
        "Owner: Ana\nRestart on Sundays",
        "Owner: Ana\r\n\r\n  two lines \r\n",
        "failover_orchestra: no record",
        "ü\n",
    ],
)
def test_peoples_notes_stay_as_they_are(theirs: str) -> None:
    notes = in_notes(theirs, FULL)
    assert notes.startswith(theirs)
    assert of_notes(notes, "dr", "vm-1") == FULL
    again = in_notes(notes, replace(FULL, epoch=8))
    assert again.startswith(theirs)
    assert (len(again), again.count(MARK)) == (len(notes), 1)


def test_what_people_write_below_the_record_goes_above_it() -> None:
    notes = in_notes(in_notes("one", FULL) + "\r\ntwo", FULL)
    assert notes.splitlines()[:2] == ["one", "two"]
    assert of_notes(notes, "dr", "vm-1") == FULL


def test_a_record_of_the_other_site_is_none() -> None:
    assert of_notes(in_notes("", FULL), "primary", "vm-1") is None
    assert of_notes(None, "dr", "vm-1") is None


def test_a_record_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(StepRefused, match="the notes of vm-1 at dr hold a line 'failover_orch:' that cannot be read"):
        of_notes("mine\n" + MARK + '{"site": 1}', "dr", "vm-1")


def test_a_command_whose_end_nobody_saw_is_void_once_another_has_begun() -> None:
    first, second = command(Action.FAIL_OVER), command(Action.CANCEL_FAILOVER)
    record = Record("dr").beginning(first)
    assert not record.void(first)
    assert record.beginning(first) == record
    assert record.beginning(first, "another") != record
    record = record.beginning(second)
    assert record.void(first)
    assert not record.void(second)
    assert record.done(second).void(second)


def test_a_command_found_done_settles_the_one_before_it() -> None:
    first, second = command(Action.FAIL_OVER), command(Action.FAIL_OVER, attempt=2)
    record = Record("dr").beginning(first).settled(second)
    assert record.begun == ""
    assert record.void(first)
    assert record.void(second)
    assert Record("dr").settled(second) == Record("dr")


def test_the_record_keeps_a_runs_commands_and_no_more() -> None:
    record = Record("dr")
    for attempt in range(100):
        record = record.beginning(command(Action.START, attempt=attempt)).done(command(Action.START, attempt=attempt))
    assert len(record.effects) == 32
    assert record.void(command(Action.START, attempt=99))


def test_a_lower_epoch_is_stale() -> None:
    with pytest.raises(StaleEpoch, match="accepted epoch 7"):
        FULL.fenced(command(Action.START, epoch=6), "vm-1")
    assert FULL.fenced(command(Action.START, epoch=9), "vm-1").epoch == 9


# Pipelines

VM = UUID("5f2c7d0e-0c5a-4d4e-9f0e-0d6c6d3b1a11")


def test_a_pipeline_is_called_by_what_it_is_for() -> None:
    assert str(of_vm() | look("Get-VMNetworkAdapter") | look("Where-Object", Property="Id")) == "Get-VMNetworkAdapter"


def test_everything_done_to_a_vm_compares_its_notes_first() -> None:
    first, second = guarded(VM, "notes").cmdlets
    assert (first.name, first.parameters["Id"]) == ("Get-VM", VM)
    assert dict(second.parameters) == {"Property": "Notes", "Value": "notes", "CEQ": True}


# What comes over the wire


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2027-01-15T08:00:00.0000000Z", 1_800_000_000_000),
        ("2027-01-15T09:00:00.1234567+01:00", 1_800_000_000_123),
        ("2027-01-15T08:00:00", 1_800_000_000_000),
        ("0001-01-01T00:00:00", 0),
        ("", 0),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert since_epoch_ms(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("PT0S", 0), ("PT1.5S", 1500), ("P1DT2H3M4S", 93_784_000), ("-PT2S", -2000), ("PT30.0000001S", 30_000)],
)
def test_durations(text: str, expected: int) -> None:
    assert span_ms(text) == expected


@pytest.mark.parametrize("read", [since_epoch_ms, span_ms])
def test_what_is_no_time_is_said(read: Any) -> None:
    with pytest.raises(StepFailed, match="'soon', which is none"):
        read("soon")


def test_a_property_that_is_not_there_reads_as_nothing() -> None:
    row = Row({"State": "Off", "Count": "x", "One": "a", "Many": ["a", "b"]})
    assert (row.text("Missing", "State"), row.number("Missing"), row.flag("Missing")) == ("Off", 0, False)
    assert (row.texts("One"), row.texts("Many"), row.texts("Missing")) == (("a",), ("a", "b"), ())
    with pytest.raises(StepFailed, match="Count is 'x', where a whole number was expected"):
        row.number("Count")


def test_every_state_of_hyper_v_has_a_name_here() -> None:
    assert state_of("InitialReplicationInProgress") is ReplicationState.WAITING_FOR_INITIAL_REPLICATION
    assert state_of("PreparedForFailover") is ReplicationState.PREPARED
    assert (state_of(""), mode_of("")) == (ReplicationState.DISABLED, ReplicationMode.NONE)
    with pytest.raises(StepFailed, match="'Confused', which this version does not know"):
        state_of("Confused")


@pytest.mark.parametrize(
    ("state", "power"),
    [("Off", "OFF"), ("Saved", "OFF"), ("Running", "RUNNING"), ("Stopping", "RUNNING"), ("?", "RUNNING")],
)
def test_what_is_not_clearly_off_counts_as_running(state: str, power: str) -> None:
    assert power_of(state) is Power(power)


# Failover TCP/IP


@pytest.mark.parametrize(
    ("enabled", "status", "services"),
    [
        (True, "Ok", "RUNNING"),
        (True, "ProtocolMismatch", "OUTDATED"),
        (True, "NoContact", "ABSENT"),
        (True, "LostCommunication", "UNKNOWN"),
        (False, "Ok", "ABSENT"),
    ],
)
def test_a_guest_that_has_fallen_silent_is_not_one_without_services(enabled: bool, status: str, services: str) -> None:
    assert services_of(enabled, status) == services


def test_failover_addresses_there_and_back() -> None:
    (plan,) = DR_ADDRESSES
    wanted = configuration_of(plan)
    assert wanted == {
        "IPv4Address": "10.50.0.21",
        "IPv4SubnetMask": "255.255.255.0",
        "IPv4DefaultGateway": "10.50.0.1",
        "IPv4PreferredDNSServer": "10.50.0.2",
        "IPv4AlternateDNSServer": "10.50.0.3",
        "IPv6Address": "fd50::21",
        "IPv6SubnetPrefixLength": "64",
        "IPv6DefaultGateway": "fd50::1",
    }
    host = wanted | {"IPv6Address": "FD50:0:0::21", "IPv6PreferredDNSServer": ""}
    assert read_back(Row(dict(host))) == wanted
    assert configuration_of(None) == {}
    assert read_back(Row({"IPv4Address": "", "IPv4SubnetMask": "255.0.0.0"})) == {}


@pytest.mark.parametrize(
    ("family", "what"),
    [
        (FamilyAddresses(dhcp=True), "IPv4 by DHCP cannot be staged"),
        (FamilyAddresses(addresses=("10.0.0.1/8", "10.0.0.2/8")), "2 IPv4 addresses are set"),
        (FamilyAddresses(addresses=("10.0.0.1/8",), gateways=("10.0.0.2", "10.0.0.3")), "2 IPv4 gateways are set"),
        (FamilyAddresses(addresses=("10.0.0.1/8",), dns=("10.0.0.2",) * 3), "3 IPv4 DNS servers are set"),
        (FamilyAddresses(), "no IPv4 address is set"),
    ],
)
def test_what_hyper_vs_commands_cannot_stage_is_refused(family: FamilyAddresses, what: str) -> None:
    asked = command(Action.STAGE_ADDRESSES, addresses=(AdapterAddresses("nic-1", ipv4=family),))
    with pytest.raises(StepRefused, match=f"vm-1: adapter 'nic-1': {what}"):
        settable(asked)


# Guests


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("Windows Server 2022 Datacenter", "windows-server-2022"),
        ("Microsoft Windows Server 2012 R2 Standard", "windows-server-2012-r2"),
        ("Windows Server 2012 Standard", "windows-server-2012"),
        ("Debian 12 (bookworm)", "debian-12"),
        ("TempleOS", "templeos"),
    ],
)
def test_systems_are_known_by_what_guests_call_themselves(name: str, system: str) -> None:
    assert system_called(name) == system


def test_what_every_guest_has_of_its_own_is_left_out() -> None:
    adapter = AdapterSeen("Microsoft:VM\\ABC", "nic-1", "00155d000001", False, "lan", True, "")
    told = Row(
        {
            "InstanceID": "Microsoft:GuestNetwork\\VM\\abc",
            "IPAddresses": ["10.0.0.5", "fe80::1%4", "fd00::5"],
            "Subnets": ["255.255.255.0", "64", "/64"],
            "DefaultGateways": ["10.0.0.1", "fe80::99"],
            "DNSServers": ["fec0:0:0:ffff::1", "10.0.0.2"],
        }
    )
    assert configured([told], [adapter]) == {
        "nic-1": Configuration(("10.0.0.5/24", "fd00::5/64"), ("10.0.0.1",), ("10.0.0.2",))
    }
    assert configured([told], [adapter], {"fe80::99"})["nic-1"].gateways == ("10.0.0.1", "fe80::99")
    assert configured([], [adapter]) == {}


# Settings


def test_passwords_are_not_shown() -> None:
    assert "secret" not in repr(NODE)


def test_endpoints() -> None:
    assert (NODE.address, NODE.endpoint_port) == ("p1", 5986)
    plain = HyperVNode("p1", LOGIN, "10.0.0.1", tls=False, ca_file=Path("ca.pem"))
    assert (plain.address, plain.endpoint_port) == ("10.0.0.1", 5985)


def test_switches_and_test_networks() -> None:
    site = HyperVSite(
        "dr",
        "dr-cluster",
        (NODE,),
        switches={"*": "lan", "nic-2": "san", "vm-1/nic-2": "dmz"},
        test_networks={"iso": "sw"},
    )
    assert [site.switch_of(*each) for each in (("vm-1", "nic-1"), ("vm-2", "nic-2"), ("vm-1", "nic-2"))] == [
        "lan",
        "san",
        "dmz",
    ]
    assert HyperVSite("dr", "dr-cluster", (NODE,)).switch_of("vm-1", "nic-1") == ""
    assert (site.test_switch("iso"), site.test_switch("other"), site.test_switch("")) == ("sw", "other", "")


PEER = HyperVPeer("primary", "primary-cluster", (NODE,), "broker")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: HyperVNode("p1", replace(LOGIN, authentication=Authentication.BASIC), tls=False), "without TLS"),
        (lambda: HyperVSite("dr", "c", ()), "site 'dr' has no nodes"),
        (lambda: HyperVSite("dr", "c", (NODE, replace(NODE, name="P1"))), "node 'p1' is named twice"),
        (lambda: HyperVSite("dr", "c", (NODE,), peers=(PEER, PEER)), "site 'primary' is named twice"),
        (lambda: HyperVSite("dr", "c", (NODE,), poll_s=-1), "poll_s has to be 0 or more"),
        (lambda: HyperVSite("dr", "c", (NODE,), sessions=0), "sessions 1 or more"),
        (lambda: replace(PEER, authentication=ReplicationAuthentication.CERTIFICATE), "needs the thumbprint"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        make()
