"""What each action does on the hosts. Which action may be done when is `rules.decide`'s to say, and has been said.

Everything is done on the condition that the VM's notes are as they were read: `Overtaken` says that they were not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.transitions import FAILED_OVER
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.hyperv.cmdlets import Pipeline, act, guarded, look, where
from failover_orch.hypervisors.hyperv.ends import Found
from failover_orch.hypervisors.hyperv.failures import HostRefused
from failover_orch.hypervisors.hyperv.objects import Row
from failover_orch.hypervisors.hyperv.peers import OtherEnd
from failover_orch.hypervisors.hyperv.record import CopyRecord, Record, in_notes
from failover_orch.hypervisors.hyperv.seen import LATEST_POINT, AdapterSeen, Machine, adapters
from failover_orch.hypervisors.hyperv.settings import HyperVPeer, HyperVSite
from failover_orch.hypervisors.hyperv.staging import stage
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules.ends import RecoveryPoint
from failover_orch.hypervisors.rules.shipping import chosen
from failover_orch.hypervisors.rules.surroundings import Change

__all__ = ["ACTS", "Deed", "Overtaken", "as_begun", "as_done", "finish_test", "keep_record"]


_NOT_HERE = "Microsoft.HyperV.PowerShell.Commands.GetVM"
"""Whatever Get-VM itself has to complain of, given an id: that the node has no such VM."""


class Overtaken(StepFailed):
    """Somebody else has changed the VM's record since it was read, or has moved the VM: nothing was done."""


@dataclass(frozen=True, slots=True)
class Deed:
    """An action to be done: to what, and why that is right."""

    settings: HyperVSite
    command: StepCommand
    found: Found
    change: Change
    other: OtherEnd | None
    timeout_s: float
    """For what takes its time; the rest has the settings' time for calls."""

    @property
    def peer(self) -> HyperVPeer:
        """The settings of the other end's site.

        Raises:
            StepRefused: there are none.

        """
        if self.other is None or self.other.peer is None:
            raise StepRefused(
                f"site {self.command.peer_site!r} is not among the peers of {self.settings.site}: name it in the "
                "settings of the site"
            )
        return self.other.peer


def keep_record(machine: Machine, record: Record) -> str | None:
    """Write the record into the VM's notes; returns the notes as the host has them then.

    Raises:
        Overtaken: the notes have been changed since the VM was looked at.
        HypervisorError: the host does not answer, or will not.

    """
    notes = in_notes(machine.notes, record)
    return _done(machine, act("Set-VM", Notes=notes))[0].raw("Notes")


def _done(machine: Machine, pipeline: Pipeline, timeout_s: float = 0) -> tuple[Row, ...]:
    """Do this to the VM, if its notes are still what they were."""
    try:
        changed = machine.host.run(guarded(machine.vm, machine.notes) | pipeline, timeout_s=timeout_s)
    except HostRefused as error:
        if error.error_id.endswith(_NOT_HERE):
            raise Overtaken(f"{machine.name} is not on {machine.host.name} any more") from None
        raise
    if not changed:
        raise Overtaken(f"the notes of {machine.name} on {machine.host.name} were changed by somebody else meanwhile")
    return changed


def _of_adapter(adapter: AdapterSeen, pipeline: Pipeline) -> Pipeline:
    # By Hyper-V's own id: names of adapters repeat.
    return look("Get-VMNetworkAdapter") | where("Id", adapter.device) | pipeline


def _disconnect(machine: Machine, present: Iterable[AdapterSeen]) -> None:
    for adapter in present:
        if adapter.connected:
            _done(machine, _of_adapter(adapter, act("Disconnect-VMNetworkAdapter")))


def _connect(machine: Machine, switches: Mapping[AdapterSeen, str]) -> None:
    for adapter, switch in switches.items():
        if adapter.switch != switch:
            _done(machine, _of_adapter(adapter, act("Connect-VMNetworkAdapter", SwitchName=switch)))


def as_begun(command: StepCommand, found: Found, change: Change, by: str) -> Record:
    """The record as it has to stand before the action is begun: with what only it will know afterwards."""
    record = found.record.beginning(command, by)
    match command.action:
        case Action.FAIL_OVER | Action.COMPLETE:
            return replace(record, failed_over_to=change.end.failed_over_to)
        case Action.CREATE_TEST if change.end.copy is not None:
            copy = change.end.copy
            return replace(record, copy=CopyRecord(copy.run_id, copy.wanted, copy.point, copy.network, copy.staged))
        case Action.STAGE_ADDRESSES:
            return replace(record, staged=command.addresses)
        case _:
            return record


def as_done(command: StepCommand, found: Found) -> Record:
    """The record once the action has been seen to have taken effect; `found` was found afterwards."""
    record = found.record.done(command)
    match command.action:
        case Action.FAIL_OVER:
            # Replication may have gone on until the very failover: only now is it known where the replica stands.
            return replace(record, failed_over_to=_stands_at(command, found))
        case Action.CANCEL_FAILOVER | Action.REVERSE | Action.MAKE_REPLICA:
            return replace(record, failed_over_to=None)
        case Action.DELETE_TEST:
            return replace(record, copy=None)
        case _:
            return record


def _stands_at(command: StepCommand, found: Found) -> RecoveryPoint | None:
    kept = found.record.failed_over_to
    if kept is None or kept.point_id != LATEST_POINT:
        return kept
    return chosen(found.end.recovery_points, command.point) or kept


# Failover


def _stage_addresses(deed: Deed) -> None:
    stage(deed.found.machine, deed.found.adapters, deed.command.addresses, _done)


def _shut_down(deed: Deed) -> None:
    _done(deed.found.machine, act("Stop-VM", Force=True), deed.timeout_s)


def _prepare(deed: Deed) -> None:
    machine = deed.found.machine
    if machine.state != "Off":
        raise StepRefused(
            f"{deed.found.vm_id} at {deed.settings.site} is {machine.state} and not off: start it and shut it down "
            "before it is prepared"
        )
    _done(machine, act("Start-VMFailover", Prepare=True), deed.timeout_s)


def _stop_failover(deed: Deed) -> None:
    _done(deed.found.machine, act("Stop-VMFailover"), deed.timeout_s)


def _fail_over(deed: Deed) -> None:
    # A test failover that broke off may have left its addresses staged.
    stage(deed.found.machine, deed.found.adapters, deed.found.record.staged, _done)
    _done(deed.found.machine, _from_point(deed.change.end.failed_over_to) | act("Start-VMFailover"), deed.timeout_s)


def _from_point(point: RecoveryPoint | None) -> Pipeline:
    """What stands before Start-VMFailover: the recovery point, or nothing for the latest there is."""
    if point is None or point.point_id == LATEST_POINT:
        return Pipeline(())
    # In one pipeline, as objects that came over the wire cannot be handed back.
    return look("Get-VMSnapshot") | where("Id", point.point_id)


def _reverse(deed: Deed) -> None:
    found, other = deed.found, deed.other
    if other is None or other.machine is None or other.record is None:
        raise StepFailed(f"the other end of {found.vm_id} cannot be found: cannot reverse the replication")
    machine = other.machine
    if other.record.epoch < deed.command.epoch:
        # First of all: from here on no older command may start the VM there.
        notes = keep_record(machine, replace(other.record, epoch=deed.command.epoch))
        machine = replace(machine, notes=notes)
    parameters: dict[str, str | int] = {}
    if found.end.state is ReplicationState.FAILED_OVER:
        peer = deed.peer
        parameters = {
            "ReplicaServerName": peer.broker,
            "ReplicaServerPort": peer.port,
            "AuthenticationType": peer.authentication.value,
        }
        if peer.certificate_thumbprint:
            parameters["CertificateThumbprint"] = peer.certificate_thumbprint
    else:
        # A replica is connected to nothing, and Hyper-V leaves the adapters of one that was a primary as they were.
        present = adapters(machine.host, deed.settings.adapter_ids, machine.vm).get(machine.vm, ())
        _disconnect(machine, present)
    _done(found.machine, act("Set-VMReplication", Reverse=True, **parameters), deed.timeout_s)


def _connect_adapters(deed: Deed) -> None:
    found, settings = deed.found, deed.settings
    switches = {
        adapter: settings.switch_of(found.vm_id, adapter.adapter_id)
        for adapter in found.adapters
        if not adapter.connected
    }
    for adapter, switch in switches.items():
        if not switch:
            raise StepRefused(
                f"no switch is set for adapter {adapter.adapter_id!r} of {found.vm_id} at {settings.site}: name one in "
                "the site's settings, under switches"
            )
    _connect(found.machine, switches)


def _start(deed: Deed) -> None:
    _done(deed.found.machine, act("Start-VM"))


def _complete(deed: Deed) -> None:
    _done(deed.found.machine, act("Complete-VMFailover"), deed.timeout_s)


def _make_replica(deed: Deed) -> None:
    _disconnect(deed.found.machine, deed.found.adapters)
    made = act("Set-VMReplication", AsReplica=True, AllowedPrimaryServer=deed.peer.broker)
    _done(deed.found.machine, made, deed.timeout_s)


def _resynchronize(deed: Deed) -> None:
    if deed.found.end.state is ReplicationState.READY_FOR_INITIAL_REPLICATION:
        _done(deed.found.machine, act("Start-VMInitialReplication"), deed.timeout_s)
    else:
        _done(deed.found.machine, act("Resume-VMReplication", Resynchronize=True), deed.timeout_s)


# The test copy


def _create_test(deed: Deed) -> None:
    found, command = deed.found, deed.command
    switch = deed.settings.test_switch(command.test_network)
    for adapter in found.adapters:
        if switch and adapter.test_switch != switch:
            _done(found.machine, _of_adapter(adapter, act("Set-VMNetworkAdapter", TestReplicaSwitchName=switch)))
    # The copy takes the addresses that are staged at its creation: those of the replica are put back afterwards.
    stage(found.machine, found.adapters, command.addresses, _done)
    copy = deed.change.end.copy
    point = copy.point if copy is not None else None
    _done(found.machine, _from_point(point) | act("Start-VMFailover", AsTest=True), deed.timeout_s)


def finish_test(deed: Deed) -> None:
    """What is left to do once the copy is there: give the replica its addresses back, connect the copy as it should be.

    `deed.found` was found after its creation.
    """
    found = deed.found
    stage(found.machine, found.adapters, found.record.staged, _done)
    if found.copy is None or found.copy.power is Power.RUNNING:
        return
    switch = deed.settings.test_switch(deed.command.test_network)
    if switch:
        _connect(found.copy, dict.fromkeys(found.copy_adapters, switch))
    else:
        _disconnect(found.copy, found.copy_adapters)


def _start_test(deed: Deed) -> None:
    if deed.found.copy is not None:
        _done(deed.found.copy, act("Start-VM"))


def _delete_test(deed: Deed) -> None:
    found = deed.found
    copy = found.copy
    if copy is None:
        return
    if found.end.mode is ReplicationMode.REPLICA and found.end.state not in FAILED_OVER:
        _done(found.machine, act("Stop-VMFailover"), deed.timeout_s)
        return
    # The same command would now cancel the failover of the VM itself, or does not apply to a primary.
    if copy.power is Power.RUNNING:
        _done(copy, act("Stop-VM", TurnOff=True), deed.timeout_s)
    _done(copy, act("Remove-VM", Force=True), deed.timeout_s)


ACTS: Mapping[Action, Callable[[Deed], None]] = {
    Action.STAGE_ADDRESSES: _stage_addresses,
    Action.SHUT_DOWN: _shut_down,
    Action.PREPARE: _prepare,
    Action.CANCEL_PREPARE: _stop_failover,
    Action.FAIL_OVER: _fail_over,
    Action.CANCEL_FAILOVER: _stop_failover,
    Action.REVERSE: _reverse,
    Action.CONNECT_ADAPTERS: _connect_adapters,
    Action.START: _start,
    Action.COMPLETE: _complete,
    Action.MAKE_REPLICA: _make_replica,
    Action.RESYNCHRONIZE: _resynchronize,
    Action.CREATE_TEST: _create_test,
    Action.START_TEST: _start_test,
    Action.DELETE_TEST: _delete_test,
}
