"""Cmdlets of replication itself: enabled, reversed, suspended, measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hyperv.calls import Call, Handler, matching
from hyperv.cycles import FAILED_OVER, add_point
from hyperv.enumerations import VMReplicationMode, VMReplicationState, VMState
from hyperv.errors import HyperVError
from hyperv.failover_calls import needed
from hyperv.looks import machine_item, measured_item, replication_item
from hyperv.objects import Item
from hyperv.server_calls import authorised
from hyperv.world import Disk, Machine, Relationship, Site, Statistics

__all__ = ["REPLICATION_CALLS"]

PRIMARY, REPLICA = VMReplicationMode.Primary, VMReplicationMode.Replica
_State = VMReplicationState
_FILTERS = (
    "ReplicaServerName",
    "PrimaryServerName",
    "ReplicationState",
    "ReplicationHealth",
    "ReplicationMode",
    "ReplicationRelationshipType",
)
_RECOVERY_HISTORY = range(25)
_FREQUENCIES_S = (30, 300, 900)
_SETTINGS = {
    "CertificateThumbprint",
    "CompressionEnabled",
    "ReplicateHostKvpItems",
    "BypassProxyServer",
    "AutoResynchronizeEnabled",
    "AutoResynchronizeIntervalStart",
    "AutoResynchronizeIntervalEnd",
    "AllowedPrimaryServer",
}
_NEW_COPY = frozenset({_State.WaitingForStartResynchronize, _State.Error, _State.ResynchronizeSuspended})


def _get_replication(call: Call) -> Iterator[Item]:
    # Test copies are in the list, too, in the mode TestReplica.
    machines = [machine for machine in call.machines("VMName") if machine.relationship or machine.is_test_copy]
    items = (replication_item(call.world, machine) for machine in machines)
    return matching(items, {name: call.get(name) for name in _FILTERS})


def _measure_replication(call: Call) -> Iterator[Item]:
    machines = [machine for machine in call.machines("VMName") if machine.relationship]
    items = (measured_item(call.world, machine) for machine in machines)
    return matching(items, {name: call.get(name) for name in _FILTERS})


def _reset_statistics(call: Call) -> Iterator[Item]:
    def reset(machine: Machine) -> Item:
        _replicating(machine).statistics = Statistics(call.world.clock())
        return replication_item(call.world, machine)

    return call.each(call.machines("VMName"), reset)


def _replicating(machine: Machine) -> Relationship:
    if machine.relationship is None:
        raise HyperVError(f"'{machine.name}' is not enabled for replication.", "InvalidState")
    return machine.relationship


def _enable_replication(call: Call) -> Iterator[Item]:
    def enable(machine: Machine) -> Item:
        if machine.relationship is not None:
            raise HyperVError(f"'{machine.name}' is enabled for replication already.", "InvalidState")
        here = call.world.sites[machine.site]
        mode, state = (REPLICA, _State.WaitingForInitialReplication)
        if not call.get("AsReplica"):
            mode, state = (PRIMARY, _State.ReadyForInitialReplication)
            _the_other_site(call, machine, str(call.parameters["ReplicaServerName"]))
        machine.relationship = Relationship(
            mode,
            state,
            here.broker_fqdn if mode is PRIMARY else "",
            str(call.get("ReplicaServerName", here.broker_fqdn)),
            Statistics(call.world.clock()),
        )
        _apply_settings(call, machine.relationship)
        call.effect(machine, "replication enabled")
        return replication_item(call.world, machine)

    return call.each(call.machines("VMName"), enable)


def _set_replication(call: Call) -> Iterator[Item]:
    def change(machine: Machine) -> Item:
        if call.get("Reverse") and call.get("AsReplica"):
            raise HyperVError("Reverse and AsReplica exclude each other.", "InvalidParameter")
        if call.get("AsReplica"):
            _as_replica(call, machine)
        elif call.get("Reverse"):
            _reverse(call, machine)
        else:
            _apply_settings(call, _replicating(machine))
            call.effect(machine, "replication settings")
            peer = call.world.peer(machine)
            if machine.mode is PRIMARY and peer and peer.relationship and call.world.reachable(peer):
                # The primary lets its replica know: it is by these that it goes on after a failover.
                _apply_settings(call, peer.relationship)
        return replication_item(call.world, machine)

    return call.each(call.machines("VMName"), change)


def _apply_settings(call: Call, relationship: Relationship) -> None:
    history = call.get("RecoveryHistory", relationship.recovery_history)
    frequency = call.get("ReplicationFrequencySec", relationship.frequency_s)
    if history not in _RECOVERY_HISTORY:
        raise HyperVError(f"RecoveryHistory is 0 to 24, not {history}.", "InvalidParameter")
    if frequency not in _FREQUENCIES_S:
        raise HyperVError(f"ReplicationFrequencySec is 30, 300 or 900, not {frequency}.", "InvalidParameter")
    relationship.recovery_history, relationship.frequency_s = history, frequency
    relationship.vss_frequency_h = call.get("VSSSnapshotFrequencyHour", relationship.vss_frequency_h)
    if call.get("DisableVSSSnapshotReplication"):
        relationship.vss_frequency_h = 0
    relationship.port = call.get("ReplicaServerPort", relationship.port)
    relationship.authentication = call.get("AuthenticationType", relationship.authentication)
    relationship.replica_server = call.get("ReplicaServerName", relationship.replica_server)
    relationship.settings.update({name: call.get(name) for name in _SETTINGS if call.get(name) is not None})


def _as_replica(call: Call, machine: Machine) -> None:
    """The VM waits for a copy of what another server is the primary of: what an old primary is to do."""
    relationship = _replicating(machine)
    if machine.state is not VMState.Off:
        raise HyperVError(
            f"Cannot make '{machine.name}' a Replica virtual machine: it is {machine.state}.", "InvalidState"
        )
    if relationship.mode is REPLICA:
        raise HyperVError(f"'{machine.name}' is a Replica virtual machine already.", "InvalidState")
    server = str(call.get("AllowedPrimaryServer", ""))
    if server and not authorised(call.node.server, server):
        raise HyperVError(f"No authorization entry on this host allows '{server}'.", "InvalidParameter")
    machine.relationship = Relationship(
        REPLICA,
        _State.WaitingForInitialReplication,
        server,
        call.world.sites[machine.site].broker_fqdn,
        Statistics(call.world.clock()),
        frequency_s=relationship.frequency_s,
        recovery_history=relationship.recovery_history,
        vss_frequency_h=relationship.vss_frequency_h,
        settings=relationship.settings,
    )
    _apply_settings(call, machine.relationship)
    machine.points.clear()
    call.effect(machine, "made a replica")


def _reverse(call: Call, machine: Machine) -> None:
    relationship = needed(machine, REPLICA, FAILED_OVER, "reverse the replication of")
    server = str(call.get("ReplicaServerName", relationship.primary_server))
    site = _the_other_site(call, machine, server)
    peer = call.world.peer(machine)
    other = peer.relationship if peer else None
    if peer is None or other is None or peer.site != site.name:
        raise HyperVError(f"'{machine.name}' does not replicate with '{server}'.", "ObjectNotFound")
    planned = relationship.state is _State.FailedOverWaitingCompletion and other.state is _State.PreparedForFailover
    waits = (other.mode, other.state) == (REPLICA, _State.WaitingForInitialReplication)
    if not planned and not (relationship.state is _State.FailedOver and waits):
        raise HyperVError(
            f"Cannot reverse the replication of '{machine.name}': on '{server}' its replication mode is "
            f"{other.mode} and its state {other.state}.",
            "InvalidState",
        )
    if planned:
        peer.relationship = _as_replica_of(call, machine, peer)
    call.halfway()
    if planned:
        # The disks of both are the same: the old primary is a whole replica at once. Its adapters stay as they are,
        # for the failback.
        _replicating(peer).state = _State.Replicating
        peer.disk = Disk(peer.disk.configured, machine.disk.written)
        peer.points.clear()
        add_point(call.world, peer)
    machine.relationship = Relationship(
        PRIMARY,
        _State.Replicating if planned else _State.ReadyForInitialReplication,
        call.world.sites[machine.site].broker_fqdn,
        server,
        Statistics(call.world.clock()),
        frequency_s=relationship.frequency_s,
        recovery_history=relationship.recovery_history,
        vss_frequency_h=relationship.vss_frequency_h,
        settings=relationship.settings,
        pending_bytes=relationship.pending_bytes,
        last_replication_ms=call.world.clock() if planned else 0,
        next_cycle_ms=call.world.clock(),
    )
    _apply_settings(call, machine.relationship)
    machine.points.clear()
    machine.failed_over_to = machine.unreverted = None
    call.effect(machine, "reversed")


def _as_replica_of(call: Call, machine: Machine, peer: Machine) -> Relationship:
    before = _replicating(peer)
    return Relationship(
        REPLICA,
        _State.WaitingForInitialReplication,
        call.world.sites[machine.site].broker_fqdn,
        call.world.sites[peer.site].broker_fqdn,
        Statistics(call.world.clock()),
        frequency_s=before.frequency_s,
        recovery_history=before.recovery_history,
        vss_frequency_h=before.vss_frequency_h,
        settings=before.settings,
        last_replication_ms=call.world.clock(),
    )


def _the_other_site(call: Call, machine: Machine, server: str) -> Site:
    """The site whose broker is named, which has to be there and to accept replicas from here."""
    world = call.world
    site = next((site for site in world.sites.values() if server.lower() in (site.broker, site.broker_fqdn)), None)
    works = site is not None and any(world.node_works(name) for name in site.nodes)
    if site is None or not works or not world.link_up:
        raise HyperVError(
            f"The Replica server '{server}' cannot be reached: the link to it is down.", "OperationFailed"
        )
    asked = next(world.nodes[name].server for name in site.nodes if world.node_works(name))
    here = world.sites[machine.site].broker_fqdn
    if not asked.enabled or not authorised(asked, here):
        raise HyperVError(f"The Replica server '{server}' does not accept replication from '{here}'.", "AccessDenied")
    return site


def _remove_replication(call: Call) -> Iterator[Item]:
    def remove(machine: Machine) -> Item:
        item = replication_item(call.world, machine)
        _replicating(machine)
        machine.relationship = None
        machine.points.clear()
        call.effect(machine, "replication removed")
        return item

    return call.each(call.machines("VMName"), remove)


def _start_initial_replication(call: Call) -> Iterator[Item]:
    if {"DestinationPath", "UseBackup", "InitialReplicationStartTime"} & set(call.parameters):
        raise HyperVError("These hosts replicate initially over the network, and at once.", "NotSupported")

    def start(machine: Machine) -> Item:
        relationship = needed(
            machine, PRIMARY, frozenset({_State.ReadyForInitialReplication}), "start the initial replication of"
        )
        relationship.state = _State.InitialReplicationInProgress
        relationship.next_cycle_ms = call.world.clock()
        call.effect(machine, "initial replication started")
        return machine_item(call.world, machine)

    return call.each(call.machines("VMName"), start)


def _suspend_replication(call: Call) -> Iterator[Item]:
    def suspend(machine: Machine) -> Item:
        relationship = _replicating(machine)
        if relationship.state not in (_State.Replicating, _State.Resynchronizing):
            needed(machine, relationship.mode, frozenset({_State.Replicating}), "suspend the replication of")
        busy = relationship.state is _State.Resynchronizing
        relationship.state = _State.ResynchronizeSuspended if busy else _State.Suspended
        call.effect(machine, "suspended")
        return replication_item(call.world, machine)

    return call.each(call.machines("VMName"), suspend)


def _resume_replication(call: Call) -> Iterator[Item]:
    def resume(machine: Machine) -> Item:
        relationship = _replicating(machine)
        if call.get("Resynchronize") or call.get("Continue"):
            needed(machine, PRIMARY, _NEW_COPY, "resynchronize")
            peer = call.world.peer(machine)
            if peer is None or not call.world.reachable(peer):
                raise HyperVError(f"Cannot resynchronize '{machine.name}': the link is down.", "OperationFailed")
            if peer.replication_state in FAILED_OVER or peer.mode is not REPLICA:
                raise HyperVError(f"Cannot resynchronize '{machine.name}': its replica is failed over.", "InvalidState")
            relationship.state = _State.Resynchronizing
            _replicating(peer).state = _State.Resynchronizing
        else:
            needed(machine, relationship.mode, frozenset({_State.Suspended, _State.Error}), "resume the replication of")
            relationship.state = _State.Replicating
        relationship.next_cycle_ms = call.world.clock()
        call.effect(machine, "resumed")
        return replication_item(call.world, machine)

    return call.each(call.machines("VMName"), resume)


REPLICATION_CALLS: Mapping[str, Handler] = {
    "Get-VMReplication": _get_replication,
    "Measure-VMReplication": _measure_replication,
    "Reset-VMReplicationStatistics": _reset_statistics,
    "Enable-VMReplication": _enable_replication,
    "Set-VMReplication": _set_replication,
    "Remove-VMReplication": _remove_replication,
    "Start-VMInitialReplication": _start_initial_replication,
    "Suspend-VMReplication": _suspend_replication,
    "Resume-VMReplication": _resume_replication,
}
