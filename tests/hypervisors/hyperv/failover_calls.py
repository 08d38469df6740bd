"""Cmdlets of failover: test, planned and unplanned, taken back and completed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace

from hyperv.calls import Call, Handler
from hyperv.cycles import ship
from hyperv.enumerations import VMReplicationMode, VMReplicationState, VMReplicationType, VMState
from hyperv.errors import HyperVError
from hyperv.looks import machine_item
from hyperv.objects import Item
from hyperv.world import Machine, Point, Relationship

__all__ = ["FAILOVER_CALLS", "needed"]

PRIMARY, REPLICA = VMReplicationMode.Primary, VMReplicationMode.Replica
_State = VMReplicationState
_CAN_FAIL_OVER = frozenset(
    {
        _State.Replicating,
        _State.Suspended,
        _State.Error,
        _State.WaitingForStartResynchronize,
        _State.Resynchronizing,
        _State.ResynchronizeSuspended,
    }
)
_CAN_BE_TESTED = frozenset({_State.Replicating, _State.Suspended, _State.Error})


def needed(machine: Machine, mode: VMReplicationMode, states: frozenset[VMReplicationState], to: str) -> Relationship:
    """The machine's replication, which has to be of this mode and in one of these states.

    Raises:
        HyperVError: it is not.

    """
    relationship = machine.relationship
    if relationship is None or relationship.mode is not mode or relationship.state not in states:
        raise HyperVError(
            f"Cannot {to} '{machine.name}': its replication mode is {machine.mode} and its state "
            f"{machine.replication_state}.",
            "InvalidState",
        )
    return relationship


def _start_failover(call: Call) -> Iterator[Item]:
    if "VMRecoverySnapshot" in call.parameters:
        machine, point = call.parameters["VMRecoverySnapshot"].source
        call.here(machine)
        if point not in machine.points:
            raise HyperVError(f"The recovery point '{point.name}' is gone.", "ObjectNotFound")
        machines = [machine]
    else:
        machines, point = call.machines("VMName"), None

    def start(machine: Machine) -> Item:
        if call.get("Prepare"):
            _prepare(call, machine)
        elif call.get("AsTest"):
            return machine_item(call.world, _create_test(call, machine, _point(machine, point)))
        else:
            _fail_over(call, machine, _point(machine, point))
        return machine_item(call.world, machine)

    return call.each(machines, start)


def _point(machine: Machine, wanted: Point | None) -> Point:
    if wanted is None and not machine.points:
        raise HyperVError(f"'{machine.name}' has no recovery point to fail over to.", "InvalidState")
    return wanted or machine.points[-1]


def _prepare(call: Call, machine: Machine) -> None:
    relationship = needed(machine, PRIMARY, frozenset({_State.Replicating}), "prepare for planned failover")
    if machine.state is not VMState.Off:
        raise HyperVError(
            f"Cannot prepare '{machine.name}' for planned failover: it is {machine.state}, and has to be off.",
            "InvalidState",
        )
    peer = call.world.peer(machine)
    if peer is None or not call.world.reachable(peer) or machine.name in call.world.silenced:
        raise HyperVError(
            f"Cannot replicate the pending changes of '{machine.name}': the link to the Replica server "
            f"'{relationship.replica_server}' is down.",
            "OperationFailed",
        )
    needed(peer, REPLICA, frozenset({_State.Replicating}), "replicate the pending changes to")
    ship(call.world, machine, peer)
    call.halfway()
    relationship.state = _State.PreparedForFailover
    call.effect(machine, "prepared")


def _fail_over(call: Call, machine: Machine, point: Point) -> None:
    relationship = needed(machine, REPLICA, _CAN_FAIL_OVER, "fail over")
    peer = call.world.peer(machine)
    prepared = peer is not None and peer.replication_state is _State.PreparedForFailover
    kind = VMReplicationType.ApplicationConsistent if point.application_consistent else VMReplicationType.Regular
    relationship.failed_over_type = VMReplicationType.Planned if prepared else kind
    machine.unreverted = machine.disk
    machine.disk = point.disk
    call.halfway()
    machine.failed_over_to = point
    machine.inject = True
    relationship.state = _State.FailedOverWaitingCompletion
    call.effect(machine, f"failed over to {point.point_id}")


def _create_test(call: Call, machine: Machine, point: Point) -> Machine:
    relationship = needed(machine, REPLICA, _CAN_BE_TESTED, "start a test failover of")
    if call.world.test_copy(machine) is not None:
        raise HyperVError(f"A test failover of '{machine.name}' is under way already.", "InvalidState")
    copy = Machine(
        vm_id=uuid.uuid4(),
        name=f"{machine.name} - Test",
        site=machine.site,
        node=machine.node,
        disk=point.disk,
        adapters=[
            replace(adapter, switch="" if call.only_half else adapter.test_switch, staged=dict(adapter.staged))
            for adapter in machine.adapters
        ],
        created_ms=call.world.clock(),
        notes=machine.notes,
        guest_os=machine.guest_os,
        services_contact=machine.services_contact,
        disabled_services=set(machine.disabled_services),
        inject=True,
        tests=machine.vm_id,
    )
    call.world.machines.append(copy)
    relationship.statistics.last_test_ms = call.world.clock()
    call.effect(machine, f"test copy of {point.point_id}")
    call.halfway()
    return copy


def _stop_failover(call: Call) -> Iterator[Item]:
    def stop(machine: Machine) -> Item:
        relationship, copy = machine.relationship, call.world.test_copy(machine)
        if relationship and relationship.state is _State.FailedOverWaitingCompletion:
            _take_back(call, machine, relationship)
        elif relationship and relationship.state is _State.PreparedForFailover:
            relationship.state = _State.Replicating
            relationship.next_cycle_ms = call.world.clock()
            call.effect(machine, "preparation cancelled")
        elif copy is not None:
            copy.state = VMState.Off
            call.halfway()
            call.world.machines.remove(copy)
            call.effect(machine, "test copy deleted")
        else:
            raise HyperVError(f"There is no failover of '{machine.name}' to stop.", "InvalidState")
        return machine_item(call.world, machine)

    return call.each(call.machines("VMName"), stop)


def _take_back(call: Call, machine: Machine, relationship: Relationship) -> None:
    machine.state = VMState.Off
    call.halfway()
    # What it wrote while it ran goes with it.
    machine.disk = machine.unreverted or machine.disk
    machine.unreverted = machine.failed_over_to = None
    machine.inject = False
    relationship.pending_bytes = 0
    relationship.failed_over_type = VMReplicationType.Nothing
    relationship.state = _State.Replicating
    call.effect(machine, "failover cancelled")


def _complete_failover(call: Call) -> Iterator[Item]:
    def complete(machine: Machine) -> Item:
        relationship = needed(
            machine, REPLICA, frozenset({_State.FailedOverWaitingCompletion}), "complete the failover of"
        )
        machine.points.clear()
        call.halfway()
        machine.unreverted = None
        relationship.state = _State.FailedOver
        call.effect(machine, "failover completed")
        return machine_item(call.world, machine)

    return call.each(call.machines("VMName"), complete)


FAILOVER_CALLS: Mapping[str, Handler] = {
    "Start-VMFailover": _start_failover,
    "Stop-VMFailover": _stop_failover,
    "Complete-VMFailover": _complete_failover,
}
