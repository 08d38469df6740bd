"""What one fact leads to, while it is being worked out: the values to keep, and what is to be told.

A `Draft` lives no longer than one call of the broker's `decide` or `tick`; all that leaves is a `Decision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from failover_orch.domain.chain import ChainHead, seal
from failover_orch.domain.facts import FailoverRequested, ReplicationReport, StepResult, VmMoved
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.records import (
    Alert,
    AuditEntry,
    HealthChange,
    JournalEntry,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    StepCommand,
)
from failover_orch.domain.settings import ClusterReplicationSettings, RecoveryPlan, VmReplicationSettings
from failover_orch.domain.state import Clusters, PlanRun, Run, VmState

__all__ = ["Decision", "Draft", "Fact", "Moment", "Output", "State"]

Fact = (
    VmMoved
    | ReplicationReport
    | FailoverRequested
    | VmInventory
    | ClusterInventory
    | VmReplicationSettings
    | ClusterReplicationSettings
    | RecoveryPlan
    | StepResult
)
State = VmState | Run | PlanRun | RecoveryPlan | Clusters | ClusterReplicationSettings | ChainHead
Output = (
    RoutingUpdate
    | JournalEntry
    | AuditEntry
    | RunSnapshot
    | StepCommand
    | HealthChange
    | Alert
    | FailoverRequested
    | StepResult
)

_S = TypeVar("_S")


@dataclass(frozen=True, slots=True)
class Moment:
    """When and where a fact is folded. `trace` is the trace context that the fact came with."""

    now_ms: int
    partition: int
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a fact leads to.

    `kept` are values to be remembered for good, by key (None: forgotten); `noted` are to be remembered in memory only;
    `outputs` are to be told, in this order; `refused` are the numbers of the rules that refused something.
    """

    kept: Mapping[str, State | None] = field(default_factory=dict)
    noted: Mapping[str, State] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()
    refused: tuple[str, ...] = ()
    trace: str = ""
    """The trace context under which the outputs go out."""


class Draft:
    """What one fact leads to, while it is being worked out."""

    def __init__(self, state: Mapping[str, State], moment: Moment) -> None:
        self._state = state
        self.moment = moment
        self.trace = moment.trace
        self._kept: dict[str, State | None] = {}
        self._noted: dict[str, State] = {}
        self._outputs: list[Output] = []
        self._refused: list[str] = []

    @property
    def now_ms(self) -> int:
        return self.moment.now_ms

    def find(self, key: str, kind: type[_S]) -> _S | None:
        value = self._kept.get(key) or self._state.get(key)
        return value if isinstance(value, kind) else None

    def clusters(self) -> tuple[ClusterInventory, ...]:
        return (self.find("clusters", Clusters) or Clusters()).known

    def keep(self, key: str, value: State | None) -> None:
        self._kept[key] = value

    def note(self, key: str, value: State) -> None:
        self._noted[key] = value

    def tell(self, *outputs: Output) -> None:
        self._outputs += outputs

    def journal(self, entry: JournalEntry) -> None:
        """Seal an entry into the partition's chain of the journal."""
        head = self._head(f"journal/{self.moment.partition}")
        sealed, head = seal(entry, head)
        self.keep(f"chain/{head.chain}", head)
        self.tell(sealed)

    def audit(
        self,
        subject: str,
        what: str,
        outcome: str,
        *,
        by: FailoverRequested | VmReplicationSettings | None,
        **evidence: str,
    ) -> None:
        head = self._head(f"audit/{self.moment.partition}")
        entry = AuditEntry(
            subject=subject,
            what=what,
            outcome=outcome,
            at_ms=self.now_ms,
            actor=by.actor if by else "",
            reason=by.reason if by else "",
            ticket=by.ticket if isinstance(by, FailoverRequested) else "",
            evidence=evidence,
        )
        sealed, head = seal(entry, head)
        self.keep(f"chain/{head.chain}", head)
        self.tell(sealed)

    def refuse(
        self,
        rule: str,
        vm_id: str,
        why: str,
        *,
        run_id: str = "",
        sequence: int = 0,
        by: FailoverRequested | VmReplicationSettings | None = None,
    ) -> None:
        """Journal that something was asked for or reported, and not taken."""
        self._refused.append(rule)
        self.journal(
            JournalEntry(
                run_id=run_id,
                vm_id=vm_id,
                sequence=sequence,
                rule=rule,
                what=f"refused: {why}",
                state=RunState.REFUSED.value,
                at_ms=self.now_ms,
                actor=by.actor if by else "",
                reason=by.reason if by else "",
                ticket=by.ticket if isinstance(by, FailoverRequested) else "",
            )
        )

    def decision(self) -> Decision:
        return Decision(self._kept, self._noted, tuple(self._outputs), tuple(self._refused), self.trace)

    def _head(self, chain: str) -> ChainHead:
        return self.find(f"chain/{chain}", ChainHead) or ChainHead.start(chain)
