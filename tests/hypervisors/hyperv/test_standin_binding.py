"""Parameters are bound by PowerShell's rules, against the table that was written from Microsoft's reference."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pypsrp.powershell import PowerShell, RunspacePool

from hyperv import StandIn
from hyperv.client import Asked, ask, named, runspaces
from hyperv.cmdlets import CMDLETS
from hyperv.enumerations import ACCEPTED
from hyperv.pipelines import HANDLERS
from hyperv.syntax import cmdlet

_VM = ("Get-VM", {"Name": "vm-1"})
_SET = "Microsoft.HyperV.PowerShell.Commands.SetVM"
_REPLICATION = "Microsoft.HyperV.PowerShell.Commands.SetVMReplication"


@pytest.fixture
def pool(stand_in: StandIn) -> Iterator[RunspacePool]:
    with runspaces(stand_in) as opened:
        yield opened


class TestTable:
    def test_every_cmdlet_of_the_table_is_served_and_no_other(self) -> None:
        assert set(HANDLERS) == set(CMDLETS)

    @pytest.mark.parametrize("name", sorted(CMDLETS))
    def test_every_type_is_known(self, name: str) -> None:
        types = {each.type for parameters in CMDLETS[name].sets.values() for each in parameters.values()}
        unknown = types - set(ACCEPTED) - _CONVERTED - _OBJECTS
        assert not unknown

    def test_the_notation_says_what_a_parameter_needs(self) -> None:
        read = cmdlet(
            "Hyper-V",
            "Get-Thing",
            Name="[-VMName|Name] <String[]> (value) [[-Kind] <SnapshotType>] -AsTest [-Prepare]",
            Object="-Vhds <Hashtable[]> [-Id <Guid> (value, property)]",
        )
        found = {
            each.name: (each.aliases, each.type, each.many, each.mandatory, each.by_value, each.by_property)
            for parameters in read.sets.values()
            for each in parameters.values()
        }
        assert found == {
            "VMName": (("Name",), "String", True, True, True, False),
            "Kind": ((), "SnapshotType", False, False, False, False),
            "AsTest": ((), "SwitchParameter", False, True, False, False),
            "Prepare": ((), "SwitchParameter", False, False, False, False),
            "Vhds": ((), "Hashtable", True, True, False, False),
            "Id": ((), "Guid", False, False, True, True),
        }

    def test_what_cannot_be_read_is_told(self) -> None:
        with pytest.raises(ValueError, match="no parameter: VMName"):
            cmdlet("Hyper-V", "Get-Thing", Name="[-Name] <String> VMName <String>")


_CONVERTED = {
    *("String", "Boolean", "SwitchParameter", "Int32", "Int64", "UInt32", "UInt64"),
    *("Guid", "TimeSpan", "DateTime", "Hashtable", "Object", "StringCollection"),
}
_OBJECTS = {
    *("VirtualMachine", "VirtualMachineBase", "VMNetworkAdapter", "VMNetworkAdapterBase", "VMSnapshot", "VMSwitch"),
    *("VMReplication", "VMReplicationAuthorizationEntry", "HardDiskDrive", "CimSession", "PSCredential"),
    *("PSObject", "ScriptBlock"),
}


class TestRefused:
    @pytest.mark.parametrize(
        ("commands", "error"),
        [
            ([("Get-VirtualMachine", {})], "CommandNotFoundException"),
            ([_VM, ("Set-VM", {"Note": "x"})], f"NamedParameterNotFound,{_SET}"),
            ([_VM, ("Set-VMReplication", {"ReplicaServer": "b", "ReplicaServerName": "b"})], "ParameterAlreadyBound"),
            ([("Set-VM", {"Notes": "x"})], f"MissingMandatoryParameter,{_SET}"),
            ([("Set-VM", {"Name": ""})], f"ParameterArgumentValidationErrorEmptyStringNotAllowed,{_SET}"),
            ([("Set-VM", {"Name": None})], f"ParameterArgumentValidationErrorNullNotAllowed,{_SET}"),
            ([_VM, ("Set-VM", {"Notes": ["x"]})], f"CannotConvertArgumentNoMessage,{_SET}"),
            ([_VM, ("Set-VMReplication", {"RecoveryHistory": "four"})], f"CannotConvertArgument.*{_REPLICATION}"),
            ([_VM, ("Set-VMReplication", {"CompressionEnabled": "true"})], f"CannotConvertArgument.*{_REPLICATION}"),
            ([_VM, ("Set-VMReplication", {"AuthenticationType": "Password"})], f"CannotConvert.*{_REPLICATION}"),
            (
                [_VM, ("Set-VMReplication", {"ReplicaServerPort": "3000000000"})],
                f"CannotConvertArgument.*{_REPLICATION}",
            ),
            ([("Get-VM", {"Id": "vm-1"})], "CannotConvertArgumentNoMessage,.*GetVM$"),
            ([("Get-VM", {"Id": uuid.uuid4(), "Name": "vm-1"})], "AmbiguousParameterSet"),
            ([("Start-VMFailover", {"VMName": "vm-1", "AsTest": True, "Prepare": True})], "AmbiguousParameterSet"),
            ([("Connect-VMNetworkAdapter", {"VMName": "vm-1"})], "MissingMandatoryParameter"),
            ([("Get-VMHost", {}), ("Set-VM", {"Notes": "x"})], f"InputObjectNotBound,{_SET}"),
            ([("Get-VMHost", {}), ("Start-VMFailover", {})], "InputObjectNotBound"),
            ([_VM, ("Start-VMFailover", {"ErrorAction": "Never"})], "CannotConvertArgumentNoMessage"),
        ],
    )
    def test_what_cannot_be_bound_changes_nothing(
        self, stand_in: StandIn, pool: RunspacePool, commands: list[Asked], error: str
    ) -> None:
        answer = ask(pool, *commands)
        assert [each for each in answer.errors if re.search(error, each)] == answer.errors != []
        assert stand_in.effects == ()

    def test_all_commands_are_bound_before_the_first_is_run(self, stand_in: StandIn, pool: RunspacePool) -> None:
        stop = named("vm-1", "Stop-VM", Force=True, Passthru=True)
        assert ask(pool, *stop, ("Set-VM", {"Note": "x"})).errors == [f"NamedParameterNotFound,{_SET}"]
        assert stand_in.effects == ()

    def test_scripts_are_refused(self, pool: RunspacePool) -> None:
        shell = PowerShell(pool).add_script("Get-VM")
        shell.invoke()
        assert [str(error.fq_error) for error in shell.streams.error] == ["ScriptsNotAllowed"]

    def test_arguments_have_to_be_named(self, pool: RunspacePool) -> None:
        shell = PowerShell(pool).add_cmdlet("Get-VM").add_argument("vm-1")
        shell.invoke()
        assert "PositionalParameterNotFound" in str(shell.streams.error[0].fq_error)

    def test_objects_of_an_earlier_pipeline_are_no_live_ones(self, stand_in: StandIn) -> None:
        with runspaces(stand_in, "d1") as pool:
            (point,) = PowerShell(pool).add_cmdlet("Get-VMSnapshot").add_parameters({"VMName": "vm-1"}).invoke()
            answer = ask(pool, ("Start-VMFailover", {"VMRecoverySnapshot": point, "Confirm": False}))
        assert answer.errors == ["CannotConvertArgumentNoMessage,Microsoft.HyperV.PowerShell.Commands.StartVMFailover"]

    def test_changes_are_confirmed_beforehand_or_not_made(self, stand_in: StandIn, pool: RunspacePool) -> None:
        assert ask(pool, _VM, ("Set-VM", {"Notes": "x"})).errors == [f"HostException,{_SET}"]
        assert not ask(pool, _VM, ("Set-VM", {"Notes": "x", "Confirm": False, "WhatIf": True})).errors
        assert stand_in.effects == ()

    def test_other_hosts_are_not_reached_from_a_remote_session(self, pool: RunspacePool) -> None:
        assert "AccessDenied" in ask(pool, ("Get-VM", {"ComputerName": "p2"})).errors[0]
        assert "AccessDenied" in ask(pool, ("Move-ClusterVirtualMachineRole", {"Name": "vm-1", "Node": "p2"})).errors[0]


class TestBound:
    @pytest.mark.parametrize(
        "parameters",
        [{"RecHist": 4}, {"recoveryhistory": 4}, {"RecoveryHistory": "4"}, {"AuthenticationType": "certificate"}],
    )
    def test_names_have_aliases_and_any_case_and_values_are_converted(
        self, pool: RunspacePool, parameters: dict[str, Any]
    ) -> None:
        answer = ask(pool, *named("vm-1", "Set-VMReplication", Passthru=True, **parameters))
        (replication,) = answer.output
        assert not answer.errors
        assert (replication["RecoveryHistory"], str(replication["AuthenticationType"])) in (
            (4, "Kerberos"),
            (24, "Certificate"),
        )

    def test_names_may_be_patterns(self, pool: RunspacePool) -> None:
        assert [vm["Name"] for vm in ask(pool, ("Get-VM", {"Name": "VM-?"})).output] == ["vm-1"]
        assert ask(pool, ("Get-VM", {"Name": "other*"})).errors == []
        assert ask(pool, ("Get-VM", {"Name": "other"})).errors == [
            "InvalidParameter,Microsoft.HyperV.PowerShell.Commands.GetVM"
        ]

    @pytest.mark.parametrize(
        ("action", "failed", "errors"), [("Continue", False, 1), ("Stop", True, 1), ("SilentlyContinue", False, 0)]
    )
    def test_what_an_error_does_is_for_the_caller_to_say(
        self, pool: RunspacePool, action: str, failed: bool, errors: int
    ) -> None:
        answer = ask(pool, ("Get-VM", {"Name": ["other", "vm-1"], "ErrorAction": action}))
        assert (answer.failed, len(answer.errors)) == (failed, errors)
        assert len(answer.output) == (0 if failed else 1)

    @pytest.mark.parametrize(
        ("comparison", "passes"),
        [
            ({"Property": "Name", "EQ": True, "Value": "VM-1"}, True),
            ({"Property": "Name", "CEQ": True, "Value": "VM-1"}, False),
            ({"Property": "Name", "CEQ": True, "Value": "vm-1"}, True),
            ({"Property": "Name", "NE": True, "Value": "VM-1"}, False),
            ({"Property": "Name", "CNE": True, "Value": "VM-1"}, True),
            ({"Property": "Name", "Like": True, "Value": "VM-*"}, True),
            ({"Property": "Name", "CLike": True, "Value": "VM-*"}, False),
            ({"Property": "Name", "NotLike": True, "Value": "*1"}, False),
            ({"Property": "Name", "In": True, "Value": ["vm-1", "vm-2"]}, True),
            ({"Property": "Name", "NotIn": True, "Value": ["vm-1", "vm-2"]}, False),
            ({"Property": "State", "EQ": True, "Value": "running"}, True),
            ({"Property": "IsClustered"}, True),
            ({"Property": "IsDeleted"}, False),
            ({"Property": "Notes", "CEQ": True, "Value": ""}, True),
            ({"Property": "Notes", "CEQ": True, "Value": None}, False),
            ({"Property": "NoSuchThing", "CEQ": True, "Value": ""}, False),
            ({"Property": "NoSuchThing", "CEQ": True, "Value": None}, True),
        ],
        ids=str,
    )
    def test_objects_are_compared_as_powershell_does(
        self, pool: RunspacePool, comparison: dict[str, Any], passes: bool
    ) -> None:
        answer = ask(pool, _VM, ("Where-Object", comparison))
        assert (bool(answer.output), answer.errors) == (passes, [])

    def test_properties_can_be_selected(self, pool: RunspacePool) -> None:
        (vm,) = ask(pool, _VM, ("Select-Object", {"Property": ["Name", "Creation*", "Nothing"]})).output
        assert sorted(vm) == ["CreationTime", "Name", "Nothing"]
        assert vm["Nothing"] is None
        assert ask(pool, _VM, ("Select-Object", {"ExpandProperty": "Name"})).output == ["vm-1"]

    def test_what_was_used_is_known(self, stand_in: StandIn, pool: RunspacePool) -> None:
        ask(pool, *named("vm-1", "Set-VM", Notes="x", ErrorAction="Stop"))
        assert stand_in.used == {"Get-VM": {"Name"}, "Set-VM": {"VM", "Notes", "Confirm", "ErrorAction"}}
