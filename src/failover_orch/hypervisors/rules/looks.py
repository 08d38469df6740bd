"""The actions that change nothing: what they find, and when they are not content with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from failover_orch.domain.inventory import IntegrationServices
from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.settings import GateKind
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules.ends import End, EndAdapter, IsolatedCopy
from failover_orch.hypervisors.rules.guest import differences
from failover_orch.hypervisors.rules.surroundings import Surroundings, copy_of

__all__ = ["LOOKS", "Fence", "check_primary"]


@dataclass(frozen=True, slots=True)
class Fence:
    """What proves that the primary is off. `cut`: the node, as `site/node`, whose power has to be cut for that."""

    what: str
    cut: str = ""


def check_primary(command: StepCommand, end: End, around: Surroundings) -> Fence:
    """The fence: what proves that the primary does not run, or whose power is to be cut so that it does not.

    Split brain is what this guards against: only a primary seen to be off, read to be without power, or attested to
    be off may be overtaken.

    Raises:
        StepRefused: it runs; or nobody can tell, and neither is it attested nor may its power be cut.

    """
    primary = end if end.mode is ReplicationMode.PRIMARY else around.peer
    if primary is None or primary.mode is not ReplicationMode.PRIMARY:
        raise StepRefused(f"{end.vm_id} has no primary to check: its roles are {end.mode} at {end.site} and no other")
    if primary is not end and not around.peer_answers:
        if command.fence and (target := _fenceable(primary, around)):
            return Fence(f"power of {target} is cut", target)
        if not command.attested:
            raise StepRefused(
                f"{primary.site} cannot be reached to ask whether {end.vm_id} runs there: an unplanned failover needs "
                "a person's attestation that the primary is off, or a fence agent that can cut its power"
            )
        return Fence(f"attested: {primary.site} cannot be reached to ask whether {end.vm_id} runs there")
    # Evidence outweighs an attestation: what is seen running is running, whoever says otherwise.
    if primary.power is Power.RUNNING:
        raise StepRefused(
            f"{end.vm_id} is RUNNING on {primary.node} at {primary.site}: shut it down, or use a planned failover"
        )
    return Fence(f"{end.vm_id} was seen off at {primary.site}/{primary.node}")


def _fenceable(primary: End, around: Surroundings) -> str:
    """The node whose power can be cut, as this end's site knows where the primary is; empty where none can."""
    node = f"{primary.site}/{primary.node}"
    return node if {node, primary.site} & set(around.fences) else ""


def _verify_addresses(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> None:
    whose = f"{end.vm_id} at {end.site}"
    _verify(command, whose, end.power, end.settled_at_ms, end.adapters, around, now_ms, networked=True)


def _verify_test(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> None:
    copy = copy_of(end)
    whose = f"the test copy of {end.vm_id} at {end.site}"
    networked = bool(copy.network)
    _verify(command, whose, copy.power, copy.settled_at_ms, copy.adapters, around, now_ms, networked=networked)


def _verify(
    command: StepCommand,
    whose: str,
    power: Power,
    settled_at_ms: int,
    adapters: Sequence[EndAdapter],
    around: Surroundings,
    now_ms: int,
    *,
    networked: bool,
) -> None:
    if power is Power.OFF:
        raise StepRefused(f"{whose} is off and reports no addresses: start it first")
    if now_ms < settled_at_ms:
        raise StepFailed(f"{whose} is still booting")
    services = around.vm.guest.integration_services
    if command.addresses and services is not IntegrationServices.RUNNING:
        raise StepRefused(
            f"{whose} reports no addresses: its integration services are {services}, and it came up with the "
            "primary's addresses"
        )
    known = {adapter.adapter_id: adapter for adapter in adapters}
    for plan in command.addresses:
        if plan.adapter_id not in known:
            raise StepRefused(f"{whose} has no adapter {plan.adapter_id!r}")
        if found := differences(known[plan.adapter_id], plan, networked=networked):
            raise StepFailed(f"adapter {plan.adapter_id!r} of {whose} " + " and ".join(found))


def _await_replication(_command: StepCommand, end: End, _around: Surroundings, _now_ms: int) -> None:
    if end.state is not ReplicationState.REPLICATING:
        raise StepFailed(f"{end.vm_id} at {end.site} is {end.state} ({end.state.number}), not Replicating (3) yet")


def _check_gate(command: StepCommand, end: End, around: Surroundings, now_ms: int) -> None:
    subject: End | IsolatedCopy = copy_of(end) if command.test_copy else end
    whose = f"{'the test copy of ' if command.test_copy else ''}{end.vm_id} at {end.site}"
    gate = command.gate
    if gate is None:
        raise StepRefused(f"step {command.step} of {command.run_id} checks a readiness gate but names none")
    if gate.kind is GateKind.SCRIPT:
        raise StepRefused(f"a script is for the agent of {end.site} to run: it is not a gate that hypervisors know of")
    if subject.power is Power.OFF:
        raise StepFailed(f"{whose} is off")
    if gate.kind is GateKind.POWER:
        return
    if now_ms < subject.settled_at_ms:
        raise StepFailed(f"{whose} is still booting")
    services = around.vm.guest.integration_services
    if gate.kind is GateKind.HEARTBEAT and services is not IntegrationServices.RUNNING:
        raise StepFailed(f"{whose} gives no heartbeat: its integration services are {services}")
    if gate.kind is GateKind.TCP_PORT and gate.port in around.closed_ports:
        raise StepFailed(f"nothing listens at TCP port {gate.port} of {whose}")


LOOKS: Mapping[Action, Callable[[StepCommand, End, Surroundings, int], None]] = {
    Action.VERIFY_ADDRESSES: _verify_addresses,
    Action.VERIFY_TEST: _verify_test,
    Action.AWAIT_REPLICATION: _await_replication,
    Action.CHECK_GATE: _check_gate,
}
"""What needs a node that is up to look at."""
