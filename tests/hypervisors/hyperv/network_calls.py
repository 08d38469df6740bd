"""Cmdlets about virtual network adapters and their failover TCP/IP settings."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from hyperv.calls import Call, Handler, matching
from hyperv.errors import HyperVError
from hyperv.looks import adapter_item, failover_item
from hyperv.objects import Item
from hyperv.world import Adapter, Machine

__all__ = ["NETWORK_CALLS"]

_ADDRESSES = ("Address", "DefaultGateway", "PreferredDNSServer", "AlternateDNSServer")
_MASKS = {4: "IPv4SubnetMask", 6: "IPv6SubnetPrefixLength"}
_CHANGES = frozenset({"TestReplicaSwitchName"})
_WHOSE = frozenset(
    {"VMName", "VM", "VMNetworkAdapter", "Name", "VMNetworkAdapterName", "Passthru", "Confirm", "WhatIf"}
)


def _adapters(call: Call) -> Iterator[tuple[Machine, Adapter]]:
    """The adapters that the call is for."""
    if "VMNetworkAdapter" in call.parameters:
        given = call.parameters["VMNetworkAdapter"]
        for item in given if isinstance(given, list) else [given]:
            machine, adapter = item.source
            yield call.here(machine), adapter
        return
    names = call.get("Name") or call.get("VMNetworkAdapterName") or "*"
    for machine in call.machines("VMName"):
        found = [
            adapter
            for adapter in machine.adapters
            for name in (names if isinstance(names, list) else [names])
            if list(matching([adapter_item(call.world, machine, adapter)], {"Name": name}))
        ]
        if not found and names != "*":
            raise HyperVError(
                f'Hyper-V was unable to find a network adapter with name "{names}" of "{machine.name}".',
                "InvalidParameter",
            )
        yield from ((machine, adapter) for adapter in found)


def _get_adapters(call: Call) -> Iterator[Item]:
    if call.get("ManagementOS") or "VMSnapshot" in call.parameters:
        raise HyperVError("These hosts show the adapters of virtual machines alone.", "NotSupported")
    legacy = call.get("IsLegacy")
    for machine, adapter in _adapters(call):
        if legacy is None or adapter.legacy == legacy:
            yield adapter_item(call.world, machine, adapter)


def _change(call: Call, change: Any) -> Iterator[Item]:
    for number, (machine, adapter) in enumerate(list(_adapters(call))):
        if number:
            call.halfway()
        if change(machine, adapter):
            call.effect(machine, f"{adapter.name}: {adapter.switch or 'disconnected'}")
        if call.get("Passthru"):
            yield adapter_item(call.world, machine, adapter)


def _connect(call: Call) -> Iterator[Item]:
    if call.get("UseAutomaticConnection"):
        raise HyperVError("There is no resource pool to connect from.", "ObjectNotFound")
    switch = call.parameters["VMSwitch"].source if "VMSwitch" in call.parameters else call.parameters["SwitchName"]
    _known(call, switch)

    def connect(_: Machine, adapter: Adapter) -> bool:
        before, adapter.switch = adapter.switch, switch
        return before != str(switch)

    return _change(call, connect)


def _disconnect(call: Call) -> Iterator[Item]:
    def disconnect(_: Machine, adapter: Adapter) -> bool:
        before, adapter.switch = adapter.switch, ""
        return bool(before)

    return _change(call, disconnect)


def _set_adapter(call: Call) -> Iterator[Item]:
    unknown = set(call.parameters) - _CHANGES - _WHOSE
    if unknown:
        raise HyperVError(f"These hosts do not change {', '.join(sorted(unknown))}.", "NotSupported")
    test_switch = call.get("TestReplicaSwitchName")
    if test_switch:
        _known(call, test_switch)

    def change(machine: Machine, adapter: Adapter) -> bool:
        if test_switch is None:
            return False
        if machine.relationship is None:
            raise HyperVError(f"'{machine.name}' is not enabled for replication.", "InvalidState")
        before, adapter.test_switch = adapter.test_switch, test_switch
        return before != str(test_switch)

    return _change(call, change)


def _known(call: Call, switch: str) -> None:
    if switch not in call.node.switches:
        raise HyperVError(
            f'Hyper-V was unable to find a virtual switch with name "{switch}".', "InvalidParameter", target=str(switch)
        )


def _get_failover(call: Call) -> Iterator[Item]:
    for machine, adapter in _adapters(call):
        if not adapter.legacy:
            yield failover_item(machine, adapter)


def _set_failover(call: Call) -> Iterator[Item]:
    staged = _staged(call)
    for machine, adapter in list(_adapters(call)):
        if adapter.legacy:
            raise HyperVError(
                f"Failover TCP/IP settings cannot be set on '{adapter.name}' of '{machine.name}', a legacy network "
                "adapter.",
                "InvalidParameter",
            )
        if machine.relationship is None:
            raise HyperVError(f"'{machine.name}' is not enabled for replication.", "InvalidState")
        before = dict(adapter.staged)
        for version in (4, 6):
            if call.get(f"ClearFailoverIPv{version}Settings") or f"IPv{version}Address" in staged:
                adapter.staged = {
                    name: value for name, value in adapter.staged.items() if not name.startswith(f"IPv{version}")
                }
            adapter.staged.update({name: value for name, value in staged.items() if name.startswith(f"IPv{version}")})
            if version == 4:
                if call.only_half and adapter.staged != before:
                    call.effect(machine, f"{adapter.name}: failover TCP/IP, IPv4 alone")
                call.halfway()
        if adapter.staged != before:
            call.effect(machine, f"{adapter.name}: failover TCP/IP")
        if call.get("Passthru"):
            yield failover_item(machine, adapter)


def _staged(call: Call) -> dict[str, Any]:
    """The settings given, which have to be sound and complete."""
    staged: dict[str, Any] = {}
    for version, mask in _MASKS.items():
        given = {name: call.get(name) for name in (f"IPv{version}{part}" for part in _ADDRESSES) if call.get(name)}
        if call.get(mask):
            given[mask] = call.get(mask)
        if (f"IPv{version}Address" in given) != (mask in given):
            raise HyperVError(f"IPv{version}Address and {mask} have to be given together.", "InvalidParameter")
        if given and f"IPv{version}Address" not in given:
            raise HyperVError(
                f"A gateway or DNS server of IPv{version} needs an IPv{version}Address.", "InvalidParameter"
            )
        for name, value in given.items():
            _check(name, value, version)
        staged |= given
    return staged


def _check(name: str, value: Any, version: int) -> None:
    try:
        if name == "IPv6SubnetPrefixLength":
            sound = 0 < value <= 128
        elif name == "IPv4SubnetMask":
            ipaddress.IPv4Network(f"0.0.0.0/{value}")
            sound = "." in value
        else:
            sound = ipaddress.ip_address(value).version == version
    except ValueError:
        sound = False
    if not sound:
        raise HyperVError(f"'{value}' is no {name}.", "InvalidParameter", target=str(value))


NETWORK_CALLS: Mapping[str, Handler] = {
    "Get-VMNetworkAdapter": _get_adapters,
    "Set-VMNetworkAdapter": _set_adapter,
    "Connect-VMNetworkAdapter": _connect,
    "Disconnect-VMNetworkAdapter": _disconnect,
    "Get-VMNetworkAdapterFailoverConfiguration": _get_failover,
    "Set-VMNetworkAdapterFailoverConfiguration": _set_failover,
}
