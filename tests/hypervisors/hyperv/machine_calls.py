"""Cmdlets about virtual machines, their checkpoints, and the host they are on."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping

from hyperv.calls import Call, Handler, matching
from hyperv.cycles import FAILED_OVER
from hyperv.enumerations import VMReplicationMode, VMReplicationState, VMState, VMSwitchType
from hyperv.errors import HyperVError
from hyperv.looks import machine_item, point_item, service_items
from hyperv.objects import Item
from hyperv.world import SHUTDOWN, Machine, World

__all__ = ["MACHINE_CALLS"]

_CHANGES = frozenset({"Notes", "NewVMName"})
"""What of a VM's settings these hosts can change."""


def _get_vm(call: Call) -> Iterator[Item]:
    if (wanted := call.get("Id")) is not None:
        found = [machine for machine in call.world.on(call.node.name) if machine.vm_id == wanted]
        if not found:
            raise HyperVError(
                f'Hyper-V was unable to find a virtual machine with id "{wanted}".',
                "InvalidParameter",
                target=str(wanted),
            )
    elif (group := call.get("ClusterObject")) is not None:
        found = [machine for machine in call.world.on(call.node.name) if machine.name == group.get("Name")]
        if not found:
            raise HyperVError(
                f"The VM of the cluster object '{group.text}' is not on this host, and its own cannot be reached "
                "from a remote session.",
                "AccessDenied",
            )
    else:
        found = call.machines("Name")
    return (machine_item(call.world, machine) for machine in found)


def _start_vm(call: Call) -> Iterator[Item]:
    def start(machine: Machine) -> Item:
        if machine.state is not VMState.Running:
            _may_start(machine)
            call.world.switch_on(machine)
            call.effect(machine, "started")
        return machine_item(call.world, machine)

    return call.each(call.machines("Name"), start)


def _may_start(machine: Machine) -> None:
    relationship = machine.relationship
    if relationship is None:
        return
    if relationship.mode is VMReplicationMode.Replica and relationship.state not in FAILED_OVER:
        raise HyperVError(
            f"'{machine.name}' failed to start: it is a Replica virtual machine, and starts only after a failover.",
            "InvalidState",
        )
    if relationship.state is VMReplicationState.PreparedForFailover:
        raise HyperVError(
            f"'{machine.name}' failed to start: it is prepared for planned failover, and locked.",
            "InvalidState",
        )


def _stop_vm(call: Call) -> Iterator[Item]:
    def stop(machine: Machine) -> Item:
        if machine.state is VMState.Running:
            hard = call.get("TurnOff") or call.get("Force")
            answers = machine.services_contact and SHUTDOWN not in machine.disabled_services
            if not hard and not (answers and call.world.booted(machine)):
                raise HyperVError(
                    f"'{machine.name}' could not be shut down: its Shutdown integration service does not answer.",
                    "OperationFailed",
                )
            call.effect(machine, "stopped")
            if call.only_half:
                # The guest is asked and goes on by itself; nobody waits for it any more.
                machine.state = VMState.Stopping
            call.halfway()
            machine.state = VMState.Saved if call.get("Save") else VMState.Off
        return machine_item(call.world, machine)

    return call.each(call.machines("Name"), stop)


def _set_vm(call: Call) -> Iterator[Item]:
    unknown = set(call.parameters) - _CHANGES - {"Name", "VM", "Passthru", "Confirm", "WhatIf"}
    if unknown:
        raise HyperVError(f"These hosts do not change {', '.join(sorted(unknown))}.", "NotSupported")

    def change(machine: Machine) -> Item:
        if (notes := call.get("Notes")) is not None and notes != machine.notes:
            machine.notes = str(notes)
            call.effect(machine, "Notes")
        if (name := call.get("NewVMName")) is not None:
            machine.name = str(name)
        return machine_item(call.world, machine)

    return call.each(call.machines("Name"), change)


def _remove_vm(call: Call) -> Iterator[Item]:
    def remove(machine: Machine) -> Item:
        if machine.state is not VMState.Off:
            raise HyperVError(f"'{machine.name}' is {machine.state}: only a VM that is off is removed.", "InvalidState")
        item = machine_item(call.world, machine)
        call.world.machines.remove(machine)
        call.effect(machine, "removed")
        return item

    return call.each(call.machines("Name"), remove)


def _get_snapshots(call: Call) -> Iterator[Item]:
    if "ParentOf" in call.parameters or "ChildOf" in call.parameters:
        raise HyperVError("Recovery points have neither parents nor children.", "NotSupported")
    wanted: dict[str, object] = {
        "Name": call.get("Name"),
        "SnapshotType": call.get("SnapshotType"),
        "Id": call.get("Id"),
    }
    items = [point_item(machine, point) for machine in call.machines("VMName") for point in machine.points]
    found = list(matching(items, wanted))
    name = wanted["Name"]
    if not found and (wanted["Id"] is not None or (name is not None and "*" not in str(name))):
        raise HyperVError(f'Hyper-V was unable to find a snapshot "{name or wanted["Id"]}".', "InvalidParameter")
    return iter(found)


def _get_services(call: Call) -> Iterator[Item]:
    names = call.get("Name") or ["*"]
    for machine in call.machines("VMName"):
        for name in names:
            yield from matching(service_items(call.world, machine), {"Name": name})


def _get_host(call: Call) -> Iterable[Item]:
    properties = {
        "Name": call.node.name.upper(),
        "ComputerName": call.node.name.upper(),
        "FullyQualifiedDomainName": f"{call.node.site}.example",
        "LogicalProcessorCount": 16,
        "MemoryCapacity": 64 * 2**30,
        "VirtualHardDiskPath": f"C:\\ClusterStorage\\{call.node.site}",
        "VirtualMachinePath": f"C:\\ClusterStorage\\{call.node.site}",
        "VirtualMachineMigrationEnabled": True,
        "IsDeleted": False,
    }
    return [Item("VMHost", properties, f"VMHost (Name = '{call.node.name.upper()}')")]


def _get_switches(call: Call) -> Iterator[Item]:
    items = [_switch(call.world, call.node.name, name) for name in call.node.switches]
    kinds = call.get("SwitchType")
    ids = call.get("Id")
    for item in matching(items, {"Name": call.get("Name")}):
        if (not kinds or item.properties["SwitchType"] in kinds) and (not ids or item.properties["Id"] in ids):
            yield item


def _switch(world: World, node: str, name: str) -> Item:
    kind = VMSwitchType.Private if name.startswith("isolated") else VMSwitchType.External
    properties = {
        "Name": name,
        "Id": uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{world.nodes[node].fqdn}"),
        "SwitchType": kind,
        "ComputerName": node.upper(),
        "IsDeleted": False,
    }
    return Item("VMSwitch", properties, f"VMSwitch (Name = '{name}')", name)


MACHINE_CALLS: Mapping[str, Handler] = {
    "Get-VM": _get_vm,
    "Start-VM": _start_vm,
    "Stop-VM": _stop_vm,
    "Set-VM": _set_vm,
    "Remove-VM": _remove_vm,
    "Get-VMSnapshot": _get_snapshots,
    "Get-VMIntegrationService": _get_services,
    "Get-VMHost": _get_host,
    "Get-VMSwitch": _get_switches,
}
