"""What the stand-in's VMs do at failovers: Hyper-V Replica's sequences, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from pypsrp.powershell import RunspacePool

from hyperv import AdapterSpec, Effect, Fault, GuestAddresses, StandIn, VMReplicationState, VmSpec, VMState
from hyperv.client import Answered, Asked, ask, named, runspaces

DR: dict[str, Any] = {
    "IPv4Address": "10.50.0.21",
    "IPv4SubnetMask": "255.255.255.0",
    "IPv4DefaultGateway": "10.50.0.1",
    "IPv4PreferredDNSServer": "10.50.0.2",
    "IPv4AlternateDNSServer": "10.50.0.3",
    "IPv6Address": "fd50::21",
    "IPv6SubnetPrefixLength": 64,
}
_ADAPTERS: tuple[Asked, ...] = (("Get-VM", {"Name": "vm-1"}), ("Get-VMNetworkAdapter", {}))
NEW_PRIMARY = "dr-broker.dr.example"


class Hosts:
    """The stand-in with an open pool on the first node of each site."""

    def __init__(self, stand_in: StandIn, pools: Mapping[str, RunspacePool]) -> None:
        self.stand_in = stand_in
        self.pools = pools

    def do(self, site: str, cmdlet: str, **parameters: Any) -> Answered:
        return ask(self.pools[site], *named("vm-1", cmdlet, **parameters))

    def must(self, site: str, cmdlet: str, **parameters: Any) -> Answered:
        answer = self.do(site, cmdlet, **parameters)
        assert answer.errors == []
        return answer

    def stage(self, **settings: Any) -> Answered:
        change = ("Set-VMNetworkAdapterFailoverConfiguration", {"Confirm": False, **settings})
        return ask(self.pools["dr"], *_ADAPTERS, change)

    def state(self, site: str) -> tuple[str, str, str]:
        vm = self.stand_in.vm("vm-1", site)
        return str(vm.state), str(vm.mode), str(vm.replication_state)

    def guest(self, site: str, name: str = "vm-1") -> GuestAddresses:
        (configured,) = self.stand_in.vm(name, site).disk.configured.values()
        return configured

    def planned(self) -> None:
        self.must("primary", "Stop-VM", Force=True)
        self.must("primary", "Start-VMFailover", Prepare=True)
        self.must("dr", "Start-VMFailover")
        self.must("dr", "Set-VMReplication", Reverse=True)

    def overtaken(self) -> None:
        """An unplanned failover, completed, and the old primary back and off."""
        self.stand_in.cut_link()
        self.must("dr", "Start-VMFailover")
        self.must("dr", "Start-VM")
        self.must("dr", "Complete-VMFailover")
        self.must("primary", "Stop-VM", TurnOff=True)
        self.stand_in.restore_link()


@pytest.fixture
def hosts(stand_in: StandIn) -> Iterator[Hosts]:
    with ExitStack() as stack:
        pools = {
            site: stack.enter_context(runspaces(stand_in, node)) for site, node in (("primary", "p1"), ("dr", "d1"))
        }
        yield Hosts(stand_in, pools)


class TestPlanned:
    def test_a_planned_failover_reverses_the_replication(self, hosts: Hosts) -> None:
        hosts.stand_in.write("vm-1", 5_000_000)
        hosts.planned()
        hosts.must("dr", "Start-VM")
        assert hosts.state("dr") == ("Running", "Primary", "Replicating")
        assert hosts.state("primary") == ("Off", "Replica", "Replicating")
        assert hosts.stand_in.vm("vm-1", "dr").disk.written == 5_000_000
        assert len(hosts.stand_in.vm("vm-1", "primary").points) == 1
        # Nothing in the reference says that the old primary's adapters are disconnected.
        assert [each.switch for each in hosts.stand_in.vm("vm-1", "primary").adapters] == ["lan"]
        assert [each.switch for each in hosts.stand_in.vm("vm-1", "dr").adapters] == [""]

    def test_the_vm_is_locked_while_it_is_prepared(self, hosts: Hosts) -> None:
        hosts.must("primary", "Stop-VM", Force=True)
        hosts.must("primary", "Start-VMFailover", Prepare=True)
        assert hosts.do("primary", "Start-VM").errors == ["InvalidState,Microsoft.HyperV.PowerShell.Commands.StartVM"]
        hosts.must("primary", "Stop-VMFailover")
        hosts.must("primary", "Start-VM")

    def test_a_reversal_that_was_interrupted_is_completed_as_an_unplanned_one(self, hosts: Hosts) -> None:
        hosts.stand_in.fail_next("Set-VMReplication", Fault.TERMINATING, effect=Effect.HALF)
        hosts.must("primary", "Stop-VM", Force=True)
        hosts.must("primary", "Start-VMFailover", Prepare=True)
        hosts.must("dr", "Start-VMFailover")
        assert hosts.do("dr", "Set-VMReplication", Reverse=True).failed
        assert hosts.state("primary") == ("Off", "Replica", "WaitingForInitialReplication")
        assert hosts.state("dr") == ("Off", "Replica", "FailedOverWaitingCompletion")
        assert "InvalidState" in hosts.do("dr", "Set-VMReplication", Reverse=True).errors[0]
        hosts.must("dr", "Complete-VMFailover")
        hosts.must("dr", "Set-VMReplication", Reverse=True)
        hosts.must("dr", "Start-VMInitialReplication")
        hosts.stand_in.replicate()
        assert (hosts.state("dr")[1:], hosts.state("primary")[1:]) == (
            ("Primary", "Replicating"),
            ("Replica", "Replicating"),
        )


class TestUnplanned:
    def test_the_old_primary_becomes_the_replica(self, hosts: Hosts) -> None:
        hosts.overtaken()
        hosts.must("primary", "Set-VMReplication", AsReplica=True, AllowedPrimaryServer=NEW_PRIMARY)
        assert hosts.state("primary") == ("Off", "Replica", "WaitingForInitialReplication")
        hosts.must("dr", "Set-VMReplication", Reverse=True, ReplicaServerName="primary-broker.primary.example")
        assert hosts.state("dr") == ("Running", "Primary", "ReadyForInitialReplication")
        hosts.stand_in.replicate()
        assert hosts.state("dr") == ("Running", "Primary", "ReadyForInitialReplication")
        hosts.must("dr", "Start-VMInitialReplication")
        assert hosts.state("dr") == ("Running", "Primary", "InitialReplicationInProgress")
        hosts.stand_in.replicate()
        assert hosts.state("dr") == ("Running", "Primary", "Replicating")
        assert hosts.state("primary") == ("Off", "Replica", "Replicating")
        assert len(hosts.stand_in.vm("vm-1", "primary").points) == 1

    def test_a_failover_goes_to_the_point_that_is_piped_in(self, hosts: Hosts) -> None:
        hosts.stand_in.write("vm-1", 100)
        hosts.stand_in.replicate()
        points = ask(hosts.pools["dr"], ("Get-VMSnapshot", {"VMName": "vm-1", "SnapshotType": "Replica"})).output
        assert [str(point["SnapshotType"]) for point in points] == ["Replica", "Replica"]
        hosts.stand_in.cut_link()
        ask(
            hosts.pools["dr"],
            ("Get-VMSnapshot", {"VMName": "vm-1"}),
            ("Where-Object", {"Property": "Id", "EQ": True, "Value": str(points[0]["Id"])}),
            ("Start-VMFailover", {"Confirm": False}),
        )
        assert hosts.stand_in.vm("vm-1", "dr").disk.written == 0
        hosts.must("dr", "Start-VM")
        hosts.must("dr", "Stop-VMFailover")
        assert hosts.state("dr") == ("Off", "Replica", "Replicating")
        assert hosts.stand_in.vm("vm-1", "dr").disk.written == 100
        assert len(hosts.stand_in.vm("vm-1", "dr").points) == 2

    def test_completion_removes_the_points_and_cannot_be_taken_back(self, hosts: Hosts) -> None:
        hosts.must("dr", "Start-VMFailover")
        hosts.must("dr", "Complete-VMFailover")
        assert ask(hosts.pools["dr"], ("Get-VMSnapshot", {"VMName": "vm-1"})).output == []
        assert "InvalidState" in hosts.do("dr", "Stop-VMFailover").errors[0]

    def test_an_old_primary_that_is_back_does_not_go_on(self, hosts: Hosts) -> None:
        hosts.must("dr", "Start-VMFailover")
        hosts.stand_in.replicate()
        assert hosts.state("primary") == ("Running", "Primary", "Error")
        hosts.must("dr", "Start-VM")
        assert hosts.stand_in.ran_twice == {"vm-1"}

    def test_a_primary_in_error_is_resynchronised(self, hosts: Hosts) -> None:
        hosts.stand_in.set_state("vm-1", "primary", VMReplicationState.WaitingForStartResynchronize)
        hosts.must("primary", "Resume-VMReplication", Resynchronize=True)
        assert hosts.state("dr")[2] == "Resynchronizing"
        hosts.stand_in.replicate()
        assert (hosts.state("primary")[2], hosts.state("dr")[2]) == ("Replicating", "Replicating")
        assert len(hosts.stand_in.vm("vm-1", "dr").points) == 1


class TestRefused:
    @pytest.mark.parametrize(
        ("site", "cmdlet", "parameters", "code"),
        [
            ("dr", "Start-VM", {}, "InvalidState"),
            ("primary", "Start-VMFailover", {"Prepare": True}, "InvalidState"),
            ("primary", "Start-VMFailover", {}, "InvalidState"),
            ("primary", "Start-VMFailover", {"AsTest": True}, "InvalidState"),
            ("dr", "Start-VMFailover", {"Prepare": True}, "InvalidState"),
            ("dr", "Stop-VMFailover", {}, "InvalidState"),
            ("dr", "Complete-VMFailover", {}, "InvalidState"),
            ("dr", "Set-VMReplication", {"Reverse": True}, "InvalidState"),
            ("dr", "Set-VMReplication", {"AsReplica": True}, "InvalidState"),
            ("primary", "Set-VMReplication", {"AsReplica": True}, "InvalidState"),
            ("primary", "Set-VMReplication", {"AsReplica": True, "Reverse": True}, "InvalidParameter"),
            ("primary", "Set-VMReplication", {"RecoveryHistory": 25}, "InvalidParameter"),
            ("primary", "Set-VMReplication", {"ReplicationFrequencySec": 60}, "InvalidParameter"),
            ("primary", "Start-VMInitialReplication", {}, "InvalidState"),
            ("primary", "Resume-VMReplication", {}, "InvalidState"),
            ("primary", "Resume-VMReplication", {"Resynchronize": True}, "InvalidState"),
            ("primary", "Remove-VM", {"Force": True}, "InvalidState"),
            ("primary", "Set-VM", {"ProcessorCount": 4}, "NotSupported"),
        ],
    )
    def test_what_is_not_possible_as_things_are(
        self, hosts: Hosts, site: str, cmdlet: str, parameters: dict[str, Any], code: str
    ) -> None:
        answer = hosts.do(site, cmdlet, **parameters)
        assert [error.partition(",")[0] for error in answer.errors] == [code]
        assert hosts.stand_in.effects == ()

    @pytest.mark.parametrize(
        ("hand", "code"),
        [
            (lambda hosts: hosts.stand_in.cut_link(), "OperationFailed"),
            (lambda hosts: hosts.stand_in.node("p1").server.entries.clear(), "AccessDenied"),
            (lambda hosts: setattr(hosts.stand_in.node("p1").server, "enabled", False), "AccessDenied"),
        ],
        ids=["link", "entry", "disabled"],
    )
    def test_a_reversal_needs_the_other_side_to_take_it(
        self, hosts: Hosts, hand: Callable[[Hosts], None], code: str
    ) -> None:
        hosts.must("primary", "Stop-VM", Force=True)
        hosts.must("primary", "Start-VMFailover", Prepare=True)
        hosts.must("dr", "Start-VMFailover")
        hand(hosts)
        answer = hosts.do("dr", "Set-VMReplication", Reverse=True)
        assert [error.partition(",")[0] for error in answer.errors] == [code]
        assert hosts.state("dr")[2] == "FailedOverWaitingCompletion"

    def test_a_reversal_waits_for_the_old_primary_to_be_made_a_replica(self, hosts: Hosts) -> None:
        hosts.overtaken()
        assert "InvalidState" in hosts.do("dr", "Set-VMReplication", Reverse=True).errors[0]

    def test_preparing_needs_the_link(self, hosts: Hosts) -> None:
        hosts.must("primary", "Stop-VM", Force=True)
        hosts.stand_in.cut_link()
        answer = hosts.do("primary", "Start-VMFailover", Prepare=True)
        assert answer.errors == ["OperationFailed,Microsoft.HyperV.PowerShell.Commands.StartVMFailover"]
        assert "link" in answer.messages[0]


class TestAddresses:
    def test_staged_addresses_come_up_with_the_failed_over_vm(self, hosts: Hosts) -> None:
        assert hosts.stage(**DR).errors == []
        hosts.planned()
        assert hosts.guest("dr").addresses == ("10.10.0.21/24", "fd10::21/64")
        hosts.must("dr", "Start-VM")
        assert hosts.guest("dr") == GuestAddresses(
            ("10.50.0.21/24", "fd50::21/64"), ("10.50.0.1",), ("10.50.0.2", "10.50.0.3")
        )

    def test_a_family_that_is_not_staged_stays_the_primarys(self, hosts: Hosts) -> None:
        hosts.stage(**DR)
        hosts.stage(ClearFailoverIPv6Settings=True)
        hosts.planned()
        hosts.must("dr", "Start-VM")
        assert hosts.guest("dr").addresses == ("10.50.0.21/24", "fd10::21/64")
        assert hosts.guest("dr").gateways == ("10.50.0.1", "fd10::1")

    @pytest.mark.parametrize("services", [{"answer": False}, {"enabled": False}], ids=["silent", "disabled"])
    def test_without_integration_services_the_primarys_addresses_come_up(
        self, hosts: Hosts, services: dict[str, bool]
    ) -> None:
        hosts.stage(**DR)
        hosts.stand_in.set_integration_services("vm-1", **services)
        hosts.planned()
        hosts.must("dr", "Start-VM")
        assert hosts.guest("dr").addresses == ("10.10.0.21/24", "fd10::21/64")

    def test_staged_addresses_are_used_at_the_first_start_alone(self, hosts: Hosts) -> None:
        hosts.planned()
        hosts.must("dr", "Start-VM")
        hosts.stage(**DR)
        hosts.must("dr", "Stop-VM", Force=True)
        hosts.must("dr", "Start-VM")
        assert hosts.guest("dr").addresses == ("10.10.0.21/24", "fd10::21/64")

    @pytest.mark.parametrize(
        "settings",
        [
            {"IPv4Address": "10.50.0.21"},
            {"IPv4SubnetMask": "255.255.255.0"},
            {"IPv6Address": "fd50::21"},
            {"IPv4DefaultGateway": "10.50.0.1"},
            {**DR, "IPv4SubnetMask": "255.0.255.0"},
            {**DR, "IPv4SubnetMask": "24"},
            {**DR, "IPv4Address": "fd50::21"},
            {**DR, "IPv4Address": "10.50.0.21/24"},
            {**DR, "IPv6SubnetPrefixLength": 129},
        ],
        ids=str,
    )
    def test_settings_have_to_be_sound(self, hosts: Hosts, settings: dict[str, Any]) -> None:
        assert "InvalidParameter" in hosts.stage(**settings).errors[0]
        assert hosts.stand_in.effects == ()

    def test_they_are_read_back_without_a_name(self, hosts: Hosts) -> None:
        hosts.stage(**DR)
        (found,) = ask(hosts.pools["dr"], *_ADAPTERS, ("Get-VMNetworkAdapterFailoverConfiguration", {})).output
        assert found == {**DR, "IPv6SubnetPrefixLength": "64", **_UNSTAGED, "ProtocolIFType": "IPv4IPv6"}

    def test_half_of_it_is_one_family(self, hosts: Hosts) -> None:
        hosts.stand_in.fail_next("Set-VMNetworkAdapterFailoverConfiguration", Fault.TERMINATING, effect=Effect.HALF)
        hosts.stage(**DR)
        (adapter,) = hosts.stand_in.vm("vm-1", "dr").adapters
        assert set(adapter.staged) == {name for name in DR if name.startswith("IPv4")}

    def test_legacy_adapters_have_none(self) -> None:
        legacy = AdapterSpec("old", "00155D000002", legacy=True)
        with StandIn(vms=(VmSpec(adapters=(AdapterSpec(), legacy)),)) as stand_in, runspaces(stand_in, "d1") as pool:
            get = (("Get-VM", {"Name": "vm-1"}), ("Get-VMNetworkAdapter", {"IsLegacy": True}))
            change = ("Set-VMNetworkAdapterFailoverConfiguration", {"Confirm": False, **DR})
            assert "InvalidParameter" in ask(pool, *get, change).errors[0]
            adapters = ask(pool, ("Get-VMNetworkAdapter", {"VMName": "vm-1"})).output
            assert [(each["Name"], each["IsLegacy"]) for each in adapters] == [("nic-1", False), ("old", True)]


_UNSTAGED = {"IPv6DefaultGateway": "", "IPv6PreferredDNSServer": "", "IPv6AlternateDNSServer": ""}


class TestTestFailover:
    def test_a_copy_runs_on_the_isolated_switch_beside_the_replica(self, hosts: Hosts) -> None:
        hosts.stage(**DR)
        ask(
            hosts.pools["dr"],
            *_ADAPTERS,
            ("Set-VMNetworkAdapter", {"TestReplicaSwitchName": "isolated-dr", "Confirm": False}),
        )
        (copy,) = hosts.must("dr", "Start-VMFailover", AsTest=True, Passthru=True).output
        assert (copy["Name"], str(copy["ReplicationMode"]), str(copy["State"])) == ("vm-1 - Test", "TestReplica", "Off")
        assert "InvalidState" in hosts.do("dr", "Start-VMFailover", AsTest=True).errors[0]
        ask(hosts.pools["dr"], *named("vm-1 - Test", "Start-VM"))
        assert hosts.guest("dr", "vm-1 - Test").addresses == ("10.50.0.21/24", "fd50::21/64")
        assert [each.switch for each in hosts.stand_in.vm("vm-1 - Test", "dr").adapters] == ["isolated-dr"]
        hosts.stand_in.replicate()
        assert hosts.state("dr") == ("Off", "Replica", "Replicating")
        assert hosts.stand_in.ran_twice == frozenset()
        hosts.must("dr", "Stop-VMFailover")
        assert [vm["Name"] for vm in ask(hosts.pools["dr"], ("Get-VM", {})).output] == ["vm-1"]

    def test_a_cancelled_failover_leaves_the_copy(self, hosts: Hosts) -> None:
        hosts.must("dr", "Start-VMFailover", AsTest=True)
        hosts.must("dr", "Start-VMFailover")
        hosts.must("dr", "Stop-VMFailover")
        assert hosts.stand_in.vm("vm-1 - Test", "dr").state is VMState.Off
        ask(hosts.pools["dr"], *named("vm-1 - Test", "Remove-VM", Force=True))
        assert len(ask(hosts.pools["dr"], ("Get-VM", {})).output) == 1

    def test_it_moves_with_its_replica(self, hosts: Hosts) -> None:
        hosts.must("dr", "Start-VMFailover", AsTest=True)
        hosts.stand_in.migrate("vm-1", "d2")
        assert ask(hosts.pools["dr"], ("Get-VM", {})).output == []
        with runspaces(hosts.stand_in, "d2") as pool:
            assert sorted(vm["Name"] for vm in ask(pool, ("Get-VM", {})).output) == ["vm-1", "vm-1 - Test"]
