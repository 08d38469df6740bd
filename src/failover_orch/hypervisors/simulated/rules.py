"""Which action is legal when, and what it changes: the simulated hypervisor's rules as tables, all pure.

`TRANSITIONS` says from which replication states an action may be done at which end, and which state follows; `ALREADY`
says when there is nothing left to do; `NEEDS` is what a refusal tells the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from failover_orch.domain.inventory import AdapterKind, IntegrationServices, VmInventory
from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication import FailedOverType, ReplicationMode, ReplicationState
from failover_orch.errors import StaleEpoch, StepFailed, StepRefused
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.simulated.ends import End, EndAdapter
from failover_orch.hypervisors.simulated.guest import Leases, booted, differences

__all__ = [
    "ALREADY",
    "NEEDS",
    "TRANSITIONS",
    "Change",
    "Surroundings",
    "Transition",
    "bytes_ship_ms",
    "decide",
    "fenced",
    "replicated",
    "shipped",
]

_BYTES_A_MILLISECOND = 100_000
"""What the replication link carries: 100 MB/s."""

PRIMARY, REPLICA = ReplicationMode.PRIMARY, ReplicationMode.REPLICA
_State = ReplicationState
_ALL = frozenset(ReplicationState)
_ENABLED = _ALL - {_State.DISABLED}
_FAILED_OVER = frozenset({_State.FAILED_OVER_WAITING_COMPLETION, _State.FAILED_OVER})
_HAS_RECOVERY_POINT = frozenset(
    {
        _State.REPLICATING,
        _State.SUSPENDED,
        _State.ERROR,
        _State.WAITING_FOR_RESYNCHRONIZE,
        _State.RESYNCHRONIZING,
        _State.RESYNCHRONIZE_SUSPENDED,
    }
)


@dataclass(frozen=True, slots=True)
class Transition:
    """`action` may be done at the end of this mode in these states; `then` follows (None: the state stays)."""

    number: str
    action: Action
    mode: ReplicationMode
    states: frozenset[ReplicationState]
    then: ReplicationState | None = None


TRANSITIONS: tuple[Transition, ...] = (
    Transition("T1", Action.STAGE_ADDRESSES, REPLICA, _ENABLED - {_State.FAILED_OVER}),
    Transition("T2", Action.SHUT_DOWN, PRIMARY, _ALL),
    Transition("T3", Action.SHUT_DOWN, REPLICA, _FAILED_OVER),
    Transition("T4", Action.PREPARE, PRIMARY, frozenset({_State.REPLICATING}), _State.PREPARED),
    Transition("T5", Action.CANCEL_PREPARE, PRIMARY, frozenset({_State.PREPARED}), _State.REPLICATING),
    Transition("T6", Action.FAIL_OVER, REPLICA, _HAS_RECOVERY_POINT, _State.FAILED_OVER_WAITING_COMPLETION),
    Transition(
        "T7",
        Action.CANCEL_FAILOVER,
        REPLICA,
        frozenset({_State.FAILED_OVER_WAITING_COMPLETION}),
        _State.REPLICATING,
    ),
    Transition("T8", Action.REVERSE, REPLICA, frozenset({_State.FAILED_OVER_WAITING_COMPLETION}), _State.REPLICATING),
    Transition("T9", Action.REVERSE, REPLICA, frozenset({_State.FAILED_OVER}), _State.RESYNCHRONIZING),
    Transition("T10", Action.CONNECT_ADAPTERS, PRIMARY, _ALL),
    Transition("T11", Action.CONNECT_ADAPTERS, REPLICA, _FAILED_OVER),
    Transition("T12", Action.START, PRIMARY, _ALL - {_State.PREPARED}),
    Transition("T13", Action.START, REPLICA, _FAILED_OVER),
    Transition(
        "T14",
        Action.COMPLETE,
        REPLICA,
        frozenset({_State.FAILED_OVER_WAITING_COMPLETION}),
        _State.FAILED_OVER,
    ),
)

NEEDS: Mapping[Action, str] = {
    Action.STAGE_ADDRESSES: "addresses are staged at a replica whose replication is enabled and not failed over",
    Action.SHUT_DOWN: "only a VM that may run can be shut down",
    Action.PREPARE: "a primary is prepared while it is Replicating: resume or resynchronise its replication first",
    Action.CANCEL_PREPARE: "only a primary that is prepared for planned failover can be released",
    Action.FAIL_OVER: "a replica is failed over from a recovery point: its initial replication has to be complete",
    Action.CANCEL_FAILOVER: "only a replica that is failed over and not completed can be taken back",
    Action.REVERSE: "only a replica that is failed over can become the primary: fail it over first",
    Action.CONNECT_ADAPTERS: "a replica's adapters are connected once it is failed over: fail it over first",
    Action.START: "a prepared primary is locked (cancel the preparation) and a replica starts once it is failed over",
    Action.COMPLETE: "only a replica that is failed over and waits for completion can be completed",
}

ALREADY: Mapping[Action, Callable[[StepCommand, End], bool]] = {
    Action.STAGE_ADDRESSES: lambda command, end: end.mode is REPLICA and end.staged == command.addresses,
    Action.SHUT_DOWN: lambda _, end: end.power is Power.OFF,
    Action.PREPARE: lambda _, end: end.mode is PRIMARY and end.state is _State.PREPARED,
    Action.CANCEL_PREPARE: lambda _, end: end.mode is PRIMARY and end.state is _State.REPLICATING,
    Action.FAIL_OVER: lambda _, end: end.mode is REPLICA and end.state in _FAILED_OVER,
    Action.CANCEL_FAILOVER: lambda _, end: end.mode is REPLICA and end.state is _State.REPLICATING,
    Action.REVERSE: lambda _, end: end.mode is PRIMARY and end.state in {_State.REPLICATING, _State.RESYNCHRONIZING},
    Action.CONNECT_ADAPTERS: lambda _, end: all(adapter.connected for adapter in end.adapters),
    Action.START: lambda _, end: end.power is Power.RUNNING,
    Action.COMPLETE: lambda _, end: (
        (end.mode is REPLICA and end.state is _State.FAILED_OVER)
        # A reversal merges the recovery points: after it nothing is left to complete.
        or (end.mode is PRIMARY and end.state in {_State.REPLICATING, _State.RESYNCHRONIZING})
    ),
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else the rules look at: the VM itself, its other end, and the way there."""

    vm: VmInventory
    node_up: bool
    peer: End | None = None
    link_up: bool = True
    peer_alive: bool = True
    """The other end's site has power."""
    peer_node_up: bool = True
    peer_accepts: bool = True
    """The other end's cluster is enabled to receive replicas."""
    leases: Leases = field(default_factory=dict)
    boot_ms: int = 0
    shutdown_ms: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What an action changes: this end, the other end where it reaches that far, and whether it took effect at all."""

    end: End
    peer: End | None = None
    effect: bool = False


def fenced(command: StepCommand, end: End) -> End:
    """The end with the command's epoch accepted.

    Raises:
        StaleEpoch: the end has accepted a higher one.

    """
    if command.epoch < end.epoch:
        raise StaleEpoch(
            f"{end.vm_id} at {end.site} has accepted epoch {end.epoch}: a command of epoch {command.epoch} is void"
        )
    return replace(end, epoch=command.epoch)


def decide(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    """What the command does to the VM at this end.

    Raises:
        StaleEpoch: the other end, which the action would change, has accepted a higher epoch.
        StepRefused: not legal as things are.
        StepFailed: something it needs is away.

    """
    if not end.node:
        raise StepRefused(f"{end.vm_id} has no replica at {end.site} yet: it has to be placed and replicated first")
    if command.action is Action.CHECK_PRIMARY:
        _check_primary(command, end, around)
        return Change(end)
    if not around.node_up:
        raise StepFailed(f"{end.vm_id} is on {end.node}, which is DOWN: bring the node up or move the VM")
    if command.action is Action.VERIFY_ADDRESSES:
        _verify_addresses(command, end, around, now_ms)
        return Change(end)
    if ALREADY[command.action](command, end):
        return Change(end)
    for transition in TRANSITIONS:
        if transition.action is command.action and transition.mode is end.mode and end.state in transition.states:
            next_end = end if transition.then is None else replace(end, state=transition.then)
            return _DO[command.action](command, next_end, around, now_ms)
    raise StepRefused(
        f"{end.vm_id} at {end.site} is {end.mode} and {end.state}, {command.action} is not possible: "
        f"{NEEDS[command.action]}"
    )


def bytes_ship_ms(count: int) -> int:
    """How long the link takes to ship this many bytes."""
    return count // _BYTES_A_MILLISECOND


def _check_primary(command: StepCommand, end: End, around: Surroundings) -> None:
    """Split brain is what this guards against: only a primary seen to be off, or attested to be, may be overtaken."""
    primary = end if end.mode is PRIMARY else around.peer
    if primary is None or primary.mode is not PRIMARY:
        raise StepRefused(f"{end.vm_id} has no primary to check: its roles are {end.mode} at {end.site} and no other")
    if primary is not end and not (around.link_up and around.peer_alive):
        if not command.attested:
            raise StepRefused(
                f"{primary.site} cannot be reached to ask whether {end.vm_id} runs there: an unplanned failover needs "
                "a person's attestation that the primary is off"
            )
        return
    # Evidence outweighs an attestation: what is seen running is running, whoever says otherwise.
    if primary.power is Power.RUNNING:
        raise StepRefused(
            f"{end.vm_id} is RUNNING on {primary.node} at {primary.site}: shut it down, or use a planned failover"
        )


def _verify_addresses(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> None:
    if end.power is Power.OFF:
        raise StepRefused(f"{end.vm_id} at {end.site} is off and reports no addresses: start it first")
    if now_ms < end.settled_at_ms:
        raise StepFailed(f"{end.vm_id} at {end.site} is still booting")
    if command.addresses and around.vm.guest.integration_services is not IntegrationServices.RUNNING:
        raise StepRefused(
            f"{end.vm_id} at {end.site} reports no addresses: its integration services are "
            f"{around.vm.guest.integration_services}, and it came up with the primary's addresses"
        )
    adapters = {adapter.adapter_id: adapter for adapter in end.adapters}
    for plan in command.addresses:
        if plan.adapter_id not in adapters:
            raise StepRefused(f"{end.vm_id} at {end.site} has no adapter {plan.adapter_id!r}")
        if found := differences(adapters[plan.adapter_id], plan):
            raise StepFailed(f"adapter {plan.adapter_id!r} of {end.vm_id} at {end.site} " + " and ".join(found))


def _stage_addresses(command: StepCommand, end: End, around: Surroundings, _now_ms: int) -> Change:
    kinds = {adapter.adapter_id: adapter.kind for adapter in around.vm.adapters}
    for plan in command.addresses:
        if plan.adapter_id not in kinds:
            raise StepRefused(f"{end.vm_id} has no adapter {plan.adapter_id!r}: it has {', '.join(kinds) or 'none'}")
        if kinds[plan.adapter_id] is AdapterKind.LEGACY:
            raise StepRefused(
                f"adapter {plan.adapter_id!r} of {end.vm_id} is a legacy one: only synthetic adapters can be given "
                "failover addresses"
            )
    return Change(replace(end, staged=command.addresses), effect=True)


def _shut_down(_command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    return Change(replace(end, power=Power.OFF, settled_at_ms=now_ms + around.shutdown_ms), effect=True)


def _prepare(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    if end.power is Power.RUNNING or now_ms < end.settled_at_ms:
        raise StepRefused(f"{end.vm_id} at {end.site} is not off: shut it down before it is prepared")
    peer = _other_end(command, end, around, "ship the last log")
    if peer.state is not _State.REPLICATING:
        raise StepRefused(f"the replica of {end.vm_id} at {peer.site} is {peer.state}: it does not take the last log")
    latency_ms = bytes_ship_ms(end.pending_bytes)
    received = replace(shipped(peer, now_ms, latency_ms), adapters=replicated(end, peer))
    return Change(shipped(end, now_ms, latency_ms), received, effect=True)


def _cancel_prepare(_command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    peer = around.peer
    # Out of reach nobody can be asked; that the replica was not failed over is then for whoever commands to know.
    if peer is not None and around.link_up and around.peer_alive and peer.state in _FAILED_OVER:
        raise StepRefused(
            f"the replica of {end.vm_id} at {peer.site} is failed over: cancel the failover there first, or both "
            "could run"
        )
    return Change(replace(end, next_cycle_at_ms=now_ms), effect=True)


def _fail_over(_command: StepCommand, end: End, around: Surroundings, _now_ms: int) -> Change:
    prepared = around.peer is not None and around.peer.state is _State.PREPARED
    return Change(
        replace(
            end,
            inject=True,
            failed_over=FailedOverType.PLANNED if prepared else FailedOverType.REGULAR,
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
        adapters=adapters,
    )
    return Change(reverted, effect=True)


def _reverse(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    peer = _other_end(command, end, around, "reverse the replication")
    if not around.peer_accepts:
        raise StepRefused(
            f"{peer.cluster} at {peer.site} does not accept replicas: enable it there, then reverse {end.vm_id}"
        )
    if peer.power is Power.RUNNING:
        raise StepRefused(f"{end.vm_id} is RUNNING at {peer.site}: shut it down before it becomes the replica")
    planned = end.state is _State.REPLICATING
    if planned and peer.state is not _State.PREPARED:
        raise StepRefused(
            f"{end.vm_id} at {peer.site} is {peer.state} and was not prepared: complete the failover, and reverse then"
        )
    return Change(
        replace(_fresh(end, now_ms), mode=PRIMARY, failed_over=FailedOverType.NONE, next_cycle_at_ms=now_ms),
        replace(
            _fresh(peer, now_ms),
            mode=REPLICA,
            state=end.state,
            inject=False,
            pending_bytes=0,
            # After a planned failover the two disks are the same; after any other the old one has to be copied anew.
            recovery_point_at_ms=now_ms if planned else 0,
            adapters=tuple(replace(adapter, connected=False) for adapter in replicated(end, peer)),
        ),
        effect=True,
    )


def _connect_adapters(_command: StepCommand, end: End, _around: Surroundings, _now_ms: int) -> Change:
    return Change(
        replace(end, adapters=tuple(replace(adapter, connected=True) for adapter in end.adapters)), effect=True
    )


def _start(_command: StepCommand, end: End, around: Surroundings, now_ms: int) -> Change:
    adapters = booted(around.vm, end.adapters, end.staged if end.inject else (), around.leases)
    running = replace(end, power=Power.RUNNING, settled_at_ms=now_ms + around.boot_ms, adapters=adapters, inject=False)
    return Change(running, effect=True)


def _complete(_command: StepCommand, end: End, _around: Surroundings, _now_ms: int) -> Change:
    return Change(end, effect=True)


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
}


def _other_end(command: StepCommand, end: End, around: Surroundings, purpose: str) -> End:
    """The other end, within reach and with the command's epoch accepted."""
    peer = around.peer
    if peer is None:
        raise StepRefused(f"{end.vm_id} does not replicate to any other site")
    if not around.link_up:
        raise StepFailed(f"the replication link from {end.site} to {peer.site} is down: cannot {purpose}")
    if not around.peer_alive:
        raise StepFailed(f"{peer.site} does not answer: cannot {purpose}")
    if not peer.node:
        raise StepRefused(f"{end.vm_id} has no replica at {peer.site} yet: it has to be placed and replicated first")
    if not around.peer_node_up:
        raise StepFailed(f"{end.vm_id} is on {peer.node} at {peer.site}, which is DOWN: cannot {purpose}")
    return fenced(command, peer)


def shipped(end: End, now_ms: int, latency_ms: int) -> End:
    """The end, either of the two, once everything pending is at the replica."""
    return replace(
        end, last_replication_at_ms=now_ms, recovery_point_at_ms=now_ms, latency_ms=latency_ms, pending_bytes=0
    )


def _fresh(end: End, now_ms: int) -> End:
    """The end with the statistics of a replication that has just begun."""
    return replace(end, cycles=0, missed_cycles=0, errors=0, last_replication_at_ms=now_ms)


def replicated(source: End, target: End) -> tuple[EndAdapter, ...]:
    """The target's adapters once the source's disk is on it: the guest's configuration travels with its disk."""
    configured = {adapter.adapter_id: adapter.configured for adapter in source.adapters}
    return tuple(
        replace(adapter, configured=configured.get(adapter.adapter_id, adapter.configured))
        for adapter in target.adapters
    )
