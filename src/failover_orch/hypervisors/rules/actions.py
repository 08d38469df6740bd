"""What each action changes: the rules of every end as tables, all pure.

Which action is legal when is in `domain.transitions`; `ALREADY` says when there is nothing left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication import FailedOverType, ReplicationMode, ReplicationState
from failover_orch.domain.transitions import FAILED_OVER, PROGRESS, TEST_COPY_STATE, illegal, legal
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules.ends import End, IsolatedCopy
from failover_orch.hypervisors.rules.guest import booted
from failover_orch.hypervisors.rules.looks import LOOKS, check_primary
from failover_orch.hypervisors.rules.shipping import (
    bytes_ship_ms,
    chosen,
    fresh,
    received,
    replicated,
    shipped,
    with_point,
)
from failover_orch.hypervisors.rules.surroundings import (
    Change,
    Surroundings,
    copy_of,
    other_end,
    stageable,
    wanted_point,
)

__all__ = ["ALREADY", "NOT_A_HYPERVISORS", "decide"]

PRIMARY, REPLICA = ReplicationMode.PRIMARY, ReplicationMode.REPLICA
_State = ReplicationState
_REPLICATES = frozenset(
    {
        _State.READY_FOR_INITIAL_REPLICATION,
        _State.WAITING_FOR_INITIAL_REPLICATION,
        _State.REPLICATING,
        _State.RESYNCHRONIZING,
    }
)
"""States of an end that has been given its part in a replication, whether that has come far or not."""
_CAN_BE_COPIED_TO = frozenset(
    {_State.WAITING_FOR_INITIAL_REPLICATION}.union(
        *(progress.states for progress in PROGRESS if progress.then is _State.RESYNCHRONIZING)
    )
)
"""States of a replica that takes an initial replication or a resynchronisation."""
_TO_THE_COPY = frozenset({Action.START_TEST, Action.DELETE_TEST})
NOT_A_HYPERVISORS = frozenset({Action.RUN_SCRIPT, Action.CALL_HTTP, Action.APPLY_SETTINGS})


def _is_failed_over_so(command: StepCommand, end: End) -> bool:
    """Failed over to the very point that is wanted: another one is for a new failover, once this is cancelled."""
    failed_over = end.mode is REPLICA and end.state in FAILED_OVER
    return failed_over and chosen(end.recovery_points, command.point) == end.failed_over_to


ALREADY: Mapping[Action, Callable[[StepCommand, End], bool]] = {
    Action.STAGE_ADDRESSES: lambda command, end: end.mode is REPLICA and end.staged == command.addresses,
    Action.SHUT_DOWN: lambda _, end: end.power is Power.OFF,
    Action.PREPARE: lambda _, end: end.mode is PRIMARY and end.state is _State.PREPARED,
    Action.CANCEL_PREPARE: lambda _, end: end.mode is PRIMARY and end.state is _State.REPLICATING,
    Action.FAIL_OVER: _is_failed_over_so,
    Action.CANCEL_FAILOVER: lambda _, end: end.mode is REPLICA and end.state is _State.REPLICATING,
    Action.REVERSE: lambda _, end: end.mode is PRIMARY and end.state in _REPLICATES,
    Action.CONNECT_ADAPTERS: lambda _, end: all(adapter.connected for adapter in end.adapters),
    Action.START: lambda _, end: end.power is Power.RUNNING,
    Action.COMPLETE: lambda _, end: (
        (end.mode is REPLICA and end.state is _State.FAILED_OVER)
        # A reversal merges the recovery points: after it nothing is left to complete.
        or (end.mode is PRIMARY and end.state in _REPLICATES)
    ),
    Action.MAKE_REPLICA: lambda _, end: end.mode is REPLICA and end.state in _REPLICATES,
    Action.RESYNCHRONIZE: lambda _, end: (
        end.mode is PRIMARY and end.state in _REPLICATES - {_State.READY_FOR_INITIAL_REPLICATION}
    ),
    Action.CREATE_TEST: lambda command, end: (
        end.copy is not None
        # Replication goes on meanwhile, so the same wish may mean another point by now: the wishes are compared.
        and (end.copy.run_id, end.copy.wanted, end.copy.network, end.copy.staged)
        == (command.run_id, command.point, command.test_network, command.addresses)
    ),
    Action.START_TEST: lambda _, end: end.copy is not None and end.copy.power is Power.RUNNING,
    Action.DELETE_TEST: lambda _, end: end.copy is None,
}


def decide(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    """What the command does to the VM at this end.

    Raises:
        StaleEpoch: the other end, which the action would change, has accepted a higher epoch.
        StepRefused: not legal as things are.
        StepFailed: something it needs is away.

    """
    action = command.action
    if action in NOT_A_HYPERVISORS:
        raise StepRefused(f"{action} is for the agent of {end.site} to do: hypervisors know nothing of it")
    if action is Action.INSPECT:
        return Change(end)
    if not end.node:
        raise StepRefused(f"{end.vm_id} has no replica at {end.site} yet: it has to be placed and replicated first")
    if action is Action.CHECK_PRIMARY:
        fence = check_primary(command, end, around)
        return Change(end, found={"fence": fence.what}, cut=fence.cut)
    if not around.node_up:
        raise StepFailed(f"{end.vm_id} is on {end.node}, which is DOWN: bring the node up or move the VM")
    if action in LOOKS:
        LOOKS[action](command, end, around, now_ms)
        return Change(end)
    if ALREADY[action](command, end):
        return Change(end)
    place = (ReplicationMode.TEST_REPLICA, TEST_COPY_STATE) if action in _TO_THE_COPY else (end.mode, end.state)
    transition = legal(action, *place)
    if transition is None:
        raise StepRefused(f"{end.vm_id} at {end.site}: {illegal(action, *place)}")
    end = replace(end, mode=transition.then_mode or end.mode, state=transition.then or end.state)
    return _DO[action](command, end, around, now_ms)


def _stage_addresses(command: StepCommand, end: End, around: Surroundings, _now_ms: int) -> Change:
    return Change(replace(end, staged=stageable(command, around.vm)), effect=True)


def _shut_down(_command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    return Change(replace(end, power=Power.OFF, settled_at_ms=now_ms + around.shutdown_ms), effect=True)


def _prepare(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    if end.power is Power.RUNNING or now_ms < end.settled_at_ms:
        raise StepRefused(f"{end.vm_id} at {end.site} is not off: shut it down before it is prepared")
    peer = other_end(command, end, around, "ship the last log")
    if peer.state is not _State.REPLICATING:
        raise StepRefused(f"the replica of {end.vm_id} at {peer.site} is {peer.state}: it does not take the last log")
    latency_ms = bytes_ship_ms(end.pending_bytes)
    return Change(
        shipped(end, now_ms, latency_ms),
        received(end, peer, now_ms, latency_ms, points_kept=around.points_kept),
        effect=True,
    )


def _cancel_prepare(_command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    peer = around.peer
    # Out of reach nobody can be asked; that the replica was not failed over is then for whoever commands to know.
    if peer is not None and around.peer_answers and peer.state in FAILED_OVER:
        raise StepRefused(
            f"the replica of {end.vm_id} at {peer.site} is failed over: cancel the failover there first, or both "
            "could run"
        )
    return Change(replace(end, next_cycle_at_ms=now_ms), effect=True)


def _fail_over(command: StepCommand, end: End, around: Surroundings, _now_ms: int) -> Change:
    point = wanted_point(command, end)
    kind = FailedOverType.APPLICATION_CONSISTENT if point.application_consistent else FailedOverType.REGULAR
    if around.peer is not None and around.peer.state is _State.PREPARED:
        kind = FailedOverType.PLANNED
    return Change(
        replace(
            end,
            inject=True,
            failed_over=kind,
            failed_over_to=point,
            adapters=tuple(replace(adapter, recovered=adapter.configured) for adapter in end.adapters),
        ),
        effect=True,
    )


def _cancel_failover(_command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    adapters = tuple(replace(adapter, connected=False, configured=adapter.recovered) for adapter in end.adapters)
    settled = now_ms + (around.shutdown_ms if end.power is Power.RUNNING else 0)
    reverted = replace(
        end,
        power=Power.OFF,
        settled_at_ms=settled,
        inject=False,
        failed_over=FailedOverType.NONE,
        failed_over_to=None,
        # What it wrote while it ran goes with it, and nothing of that is to be sent anywhere.
        pending_bytes=0,
        adapters=adapters,
    )
    return Change(reverted, effect=True)


def _reverse(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    peer = other_end(command, end, around, "reverse the replication")
    if not around.peer_accepts:
        raise StepRefused(
            f"{peer.cluster} at {peer.site} does not accept replicas: enable it there, then reverse {end.vm_id}"
        )
    if peer.power is Power.RUNNING:
        raise StepRefused(f"{end.vm_id} is RUNNING at {peer.site}: shut it down before it becomes the replica")
    planned = end.state is _State.REPLICATING
    if planned and (peer.mode, peer.state) != (PRIMARY, _State.PREPARED):
        raise StepRefused(
            f"{end.vm_id} at {peer.site} is {peer.state} and was not prepared: complete the failover, make that end "
            "a replica, and reverse then"
        )
    if not planned and (peer.mode, peer.state) != (REPLICA, _State.WAITING_FOR_INITIAL_REPLICATION):
        raise StepRefused(
            f"{end.vm_id} at {peer.site} is {peer.mode} and {peer.state} ({peer.state.number}): make that end a "
            "replica first, and reverse then"
        )
    reversed_end = replace(fresh(end), failed_over=FailedOverType.NONE, failed_over_to=None, recovery_points=())
    if not planned:
        # Nothing is sent until somebody says so: the old disk has to be copied anew, which takes its time.
        return Change(replace(reversed_end, next_cycle_at_ms=0), peer, effect=True)
    # After a planned failover the two disks are the same; their recovery points are merged into this one.
    became = replace(
        _as_replica(fresh(peer)),
        state=end.state,
        last_replication_at_ms=now_ms,
        adapters=tuple(replace(adapter, connected=False) for adapter in replicated(end, peer)),
    )
    return Change(
        replace(reversed_end, last_replication_at_ms=now_ms, next_cycle_at_ms=now_ms),
        with_point(became, now_ms, around.points_kept),
        effect=True,
    )


def _make_replica(command: StepCommand, end: End, around: Surroundings, _now_ms: int) -> Change:
    peer = other_end(command, end, around, "ask whether it was failed over")
    # Only what is committed there can be built on: a failover that is cancelled would leave two replicas and no VM.
    if (peer.mode, peer.state) != (REPLICA, _State.FAILED_OVER):
        raise StepRefused(
            f"{end.vm_id} at {peer.site} is {peer.mode} and {peer.state} ({peer.state.number}), and not failed over "
            "for good: fail it over and complete that first"
        )
    if end.power is Power.RUNNING:
        raise StepRefused(f"{end.vm_id} is RUNNING at {end.site}: shut it down before it becomes a replica")
    return Change(_as_replica(fresh(end)), effect=True)


def _as_replica(end: End) -> End:
    """What was a primary, as a replica that has nothing to go back to."""
    return replace(
        end,
        mode=REPLICA,
        inject=False,
        failed_over=FailedOverType.NONE,
        failed_over_to=None,
        recovery_points=(),
        pending_bytes=0,
        next_cycle_at_ms=0,
        adapters=tuple(replace(adapter, connected=False) for adapter in end.adapters),
    )


def _resynchronize(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    peer = other_end(command, end, around, "replicate")
    if peer.mode is not REPLICA or peer.state not in _CAN_BE_COPIED_TO:
        raise StepRefused(
            f"{end.vm_id} at {peer.site} is {peer.mode} and {peer.state} ({peer.state.number}) and receives nothing: "
            "it has to be a replica that is neither failed over nor suspended"
        )
    if peer.state is not _State.WAITING_FOR_INITIAL_REPLICATION:
        peer = replace(peer, state=_State.RESYNCHRONIZING)
    return Change(replace(end, next_cycle_at_ms=now_ms + bytes_ship_ms(end.pending_bytes)), peer, effect=True)


def _connect_adapters(_command: StepCommand, end: End, _around: Surroundings, _now_ms: int) -> Change:
    return Change(
        replace(end, adapters=tuple(replace(adapter, connected=True) for adapter in end.adapters)), effect=True
    )


def _start(_command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    adapters = booted(around.vm, end.adapters, end.staged if end.inject else (), around.leases)
    running = replace(end, power=Power.RUNNING, settled_at_ms=now_ms + around.boot_ms, adapters=adapters, inject=False)
    return Change(running, effect=True)


def _complete(_command: StepCommand, end: End, _around: Surroundings, _now_ms: int) -> Change:
    kept = () if end.failed_over_to is None else (end.failed_over_to,)
    return Change(replace(end, recovery_points=kept), effect=True)


# The test copy


def _create_test(command: StepCommand, end: End, around: Surroundings, _now_ms: int) -> Change:
    if end.copy is not None:
        raise StepRefused(
            f"{end.vm_id} at {end.site} has a test copy already, made by {end.copy.run_id} from {end.copy.point}: "
            "delete it first"
        )
    copy = IsolatedCopy(
        run_id=command.run_id,
        wanted=command.point,
        point=wanted_point(command, end),
        network=command.test_network,
        adapters=tuple(replace(adapter, connected=bool(command.test_network)) for adapter in end.adapters),
        staged=stageable(command, around.vm),
    )
    return Change(replace(end, copy=copy), effect=True)


def _start_test(_command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    copy = copy_of(end)
    adapters = booted(around.vm, copy.adapters, copy.staged, around.leases)
    settled = now_ms + around.boot_ms
    running = replace(copy, power=Power.RUNNING, settled_at_ms=settled, adapters=adapters)
    return Change(replace(end, copy=running), effect=True)


def _delete_test(_command: StepCommand, end: End, _around: Surroundings, _now_ms: int) -> Change:
    return Change(replace(end, copy=None), effect=True)


_DO: Mapping[Action, Callable[[StepCommand, End, Surroundings, int], Change]] = {
    Action.STAGE_ADDRESSES: _stage_addresses,
    Action.SHUT_DOWN: _shut_down,
    Action.PREPARE: _prepare,
    Action.CANCEL_PREPARE: _cancel_prepare,
    Action.FAIL_OVER: _fail_over,
    Action.CANCEL_FAILOVER: _cancel_failover,
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
