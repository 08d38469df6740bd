"""A partition's state as the rules themselves have folded it, for tests of what is asked about a state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from failover_orch.domain.broker import decide
from failover_orch.domain.draft import Fact, Moment, Output, State
from failover_orch.domain.facts import (
    FailoverKind,
    FailoverRequested,
    MoveKind,
    ReplicationReport,
    RequestAction,
    StepOutcome,
    StepResult,
    VmMoved,
)
from failover_orch.domain.inventory import (
    Adapter,
    AdapterKind,
    ClusterInventory,
    Guest,
    IntegrationServices,
    Node,
    NodeState,
    Replication,
    VmInventory,
)
from failover_orch.domain.policies import Evidence, Verdict
from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses, VmReplicationSettings

__all__ = ["NOW", "Told", "asked", "carry_out", "fold", "gone", "moment", "replica_report", "standing", "what_stands"]

NOW = 1_800_000_000_000
CLUSTERS = tuple(
    ClusterInventory(
        f"{site}-cluster",
        site,
        f"{site}-broker",
        (Node(f"{site[0]}1", NodeState.UP, 65_536, 65_536), Node(f"{site[0]}2", NodeState.UP, 65_536, 65_536)),
        reported_at_ms=1,
    )
    for site in ("primary", "dr")
)


T = TypeVar("T")
STEP_MS = 1_000
"""How long every step takes in `carry_out`."""


@dataclass(slots=True)
class Told:
    """The state after `carry_out`, and everything that was told on the way."""

    state: dict[str, State]
    outputs: list[Output] = field(default_factory=list)

    def of(self, kind: type[T]) -> list[T]:
        return [output for output in self.outputs if isinstance(output, kind)]


def carry_out(
    state: dict[str, State],
    *facts: Fact,
    at_ms: int = NOW,
    answers: Callable[[StepCommand], StepOutcome] = lambda _: StepOutcome.DONE,
) -> Told:
    """Fold facts, and answer every command that follows, one by one, each after `STEP_MS`."""
    told = Told(dict(state))
    left = deque(facts)
    now_ms = at_ms
    while left:
        decision = decide(told.state, left.popleft(), Moment(now_ms, 0))
        told.state.update(decision.noted)
        told.state.update({key: value for key, value in decision.kept.items() if value is not None})
        told.outputs += decision.outputs
        for output in decision.outputs:
            if isinstance(output, FailoverRequested | StepResult):
                left.append(output)
            elif isinstance(output, StepCommand):
                now_ms += STEP_MS
                left.append(_answer(output, answers(output), now_ms))
    return told


def _answer(command: StepCommand, outcome: StepOutcome, now_ms: int) -> StepResult:
    observed = {}
    if command.action is Action.FAIL_OVER:
        observed = {"recovery_point": "rp-7", "recovery_point_at_ms": str(NOW - 30_000)}
    elif command.action is Action.VERIFY_ADDRESSES:
        observed = {f"addresses/{each.adapter_id}": "10.20.0.11/24" for each in command.addresses}
    return StepResult(
        run_id=command.run_id,
        step=command.step,
        attempt=command.attempt,
        vm_id=command.vm_id,
        site=command.site,
        node=command.node,
        epoch=command.epoch,
        outcome=outcome,
        detail="so it is" if outcome is StepOutcome.DONE else f"told to be {outcome}",
        finished_at_ms=now_ms,
        observed=observed,
        key=command.key,
    )


def asked(
    kind: FailoverKind = FailoverKind.PLANNED,
    action: RequestAction = RequestAction.REQUEST,
    *,
    vm_id: str = "",
    plan_id: str = "",
    actor: str = "ann",
    reason: str = "drill",
    run_id: str = "r",
) -> FailoverRequested:
    """What ann asks of a VM or plan; of vm-1 where none is named."""
    return FailoverRequested(
        run_id=run_id,
        action=action,
        kind=kind,
        actor=actor,
        reason=reason,
        requested_at_ms=NOW,
        vm_id=vm_id or ("" if plan_id else "vm-1"),
        plan_id=plan_id,
        ticket="INC-7",
    )


def moment(at_ms: int = NOW, *, opened_at_ms: int = 0) -> Moment:
    return Moment(at_ms, 0, opened_at_ms=opened_at_ms)


def fold(state: dict[str, State], *facts: Fact, at_ms: int = NOW) -> dict[str, State]:
    """The state with these facts in it, folded as a worker would at that time."""
    state = dict(state)
    for fact in facts:
        decision = decide(state, fact, moment(at_ms))
        state.update(decision.noted)
        state.update({key: value for key, value in decision.kept.items() if value is not None})
    return state


def standing(*vm_ids: str) -> dict[str, State]:
    """VMs that run at primary and replicate to node d1 of dr, with addresses of their own there, all in order."""
    return fold({}, *what_stands(*vm_ids), at_ms=NOW - 3_600_000)


def what_stands(*vm_ids: str) -> list[Fact]:
    """What `standing` is folded from."""
    facts: list[Fact] = list(CLUSTERS)
    for number, vm_id in enumerate(vm_ids or ("vm-1",)):
        there, home = (
            (AdapterAddresses("nic-0", FamilyAddresses(addresses=(f"10.{net}.0.{11 + number}/24",))),)
            for net in (20, 10)
        )
        facts += [
            _inventory(vm_id, number),
            VmMoved(vm_id, "primary", "p1", MoveKind.PLACED, 1, cluster="primary-cluster", sequence=1),
            VmMoved(vm_id, "dr", "d1", MoveKind.PLACED, 1, cluster="dr-cluster", sequence=1),
            VmReplicationSettings(vm_id, there, actor="ann", reason="plan", set_at_ms=1, home_adapters=home),
        ]
    return facts


def _inventory(vm_id: str, number: int) -> VmInventory:
    adapter = Adapter("nic-0", AdapterKind.SYNTHETIC, f"00155d0000{number:02}", "lan", (f"10.10.0.{11 + number}/24",))
    return VmInventory(
        vm_id=vm_id,
        name=f"name of {vm_id}",
        adapters=(adapter,),
        guest=Guest("debian-12", IntegrationServices.RUNNING),
        replication=Replication(
            ReplicationState.REPLICATING, "primary", "dr", "primary-cluster", "dr-cluster", frequency_s=30
        ),
        memory_mib=1_024,
        reported_at_ms=1,
    )


def replica_report(vm_id: str = "vm-1", *, behind_s: int, at_ms: int = NOW) -> ReplicationReport:
    """What the replica's end reports, having received nothing for so long."""
    return ReplicationReport(
        vm_id=vm_id,
        site="dr",
        node="d1",
        mode=ReplicationMode.REPLICA,
        state=ReplicationState.REPLICATING,
        health=ReplicationHealth.NORMAL,
        reported_at_ms=at_ms,
        last_replication_at_ms=at_ms - behind_s * 1_000,
    )


def gone(*, at_ms: int = NOW, place: str = "third") -> Evidence:
    """A witness that does not reach the primary's site."""
    return Evidence(f"witness/{place}", place, "primary", Verdict.UNREACHABLE, at_ms)
