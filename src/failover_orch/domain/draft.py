"""What one fact leads to, while it is being worked out: the values to keep, and what is to be told.

A `Draft` lives no longer than one call of the broker's `decide` or `tick`; all that leaves is a `Decision`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from failover_orch.domain.access import AccessRefused, AccessToken
from failover_orch.domain.chain import ChainHead, seal
from failover_orch.domain.facts import FailoverRequested, ReplicationReport, StepResult, VmMoved
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.policies import (
    DEFAULT_LIMITS,
    AutomaticRun,
    Brake,
    Evidence,
    Limits,
    Policy,
    limits_from,
)
from failover_orch.domain.records import (
    Alert,
    AuditEntry,
    HealthChange,
    JournalEntry,
    MemberReadiness,
    PlanMembership,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    StepCommand,
)
from failover_orch.domain.replication_settings import (
    SettingsChange,
    SettingsObserved,
    SettingsRevision,
    SettingsStanding,
)
from failover_orch.domain.settings import RecoveryPlan, VmReplicationSettings
from failover_orch.domain.state import (
    AutomaticRuns,
    Clusters,
    KeptSettings,
    Observers,
    PlanReadiness,
    PlanRun,
    Run,
    VmState,
)

__all__ = ["Decision", "Draft", "Fact", "Moment", "Output", "State"]

Fact = (
    VmMoved
    | ReplicationReport
    | FailoverRequested
    | VmInventory
    | ClusterInventory
    | VmReplicationSettings
    | RecoveryPlan
    | StepResult
    | Policy
    | Brake
    | Evidence
    | PlanMembership
    | MemberReadiness
    | AutomaticRun
    | SettingsChange
    | SettingsObserved
    | AccessToken
    | AccessRefused
)
State = (
    VmState
    | Run
    | PlanRun
    | RecoveryPlan
    | PlanReadiness
    | Clusters
    | Policy
    | Observers
    | Brake
    | AutomaticRuns
    | AccessToken
    | KeptSettings
    | ChainHead
)
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
    | PlanMembership
    | MemberReadiness
    | AutomaticRun
    | Brake
    | SettingsRevision
    | SettingsStanding
)

_S = TypeVar("_S")


@dataclass(frozen=True, slots=True)
class Moment:
    """When and where a fact is folded. `trace` is the trace context that the fact came with.

    `opened_at_ms` is when the partition's present owner took it over: what was seen before that is not held against
    anybody, since nobody watched in between.
    """

    now_ms: int
    partition: int
    trace: str = ""
    opened_at_ms: int = 0


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
        value = self._kept.get(key) or self._noted.get(key) or self._state.get(key)
        return value if isinstance(value, kind) else None

    def clusters(self) -> tuple[ClusterInventory, ...]:
        return (self.find("clusters", Clusters) or Clusters()).known

    def vm_ids(self) -> list[str]:
        """Every VM of this partition: only for what concerns them all, and is rare."""
        return [key.removeprefix("vm/") for key in self._state if key.startswith("vm/")]

    def policies(self, vm: VmState) -> list[Policy]:
        """The policies that count for a VM, the widest first: of all, of its active site, of its plans, its own."""
        scopes = [
            "all",
            f"site/{vm.active_site}",
            *(f"plan/{plan_id}" for plan_id in sorted(vm.plan_ids)),
            f"vm/{vm.vm_id}",
        ]
        return [policy for scope in scopes if (policy := self.find(f"policy/{scope}", Policy)) is not None]

    def limits(self, vm: VmState) -> Limits:
        """The limits for a VM: its own policy before those of its plans, of the site where it is active, and of all."""
        policies = self.policies(vm)
        return limits_from(policies) if policies else DEFAULT_LIMITS

    def plan_limits(self, plan_id: str) -> Limits:
        """The limits for a plan as a whole, or for a list (no `plan_id`)."""
        return limits_from((self.find("policy/all", Policy), self.find(f"policy/plan/{plan_id}", Policy)))

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
        by: FailoverRequested | VmReplicationSettings | Policy | AccessToken | SettingsChange | None,
        actor: str = "",
        **evidence: str,
    ) -> None:
        """Seal an entry into the partition's chain of the audit trail. `actor`: who it was, where no `by` says so."""
        head = self._head(f"audit/{self.moment.partition}")
        entry = AuditEntry(
            subject=subject,
            what=what,
            outcome=outcome,
            at_ms=self.now_ms,
            actor=by.actor if by else actor,
            reason=by.reason if by else "",
            ticket=by.ticket if isinstance(by, FailoverRequested | SettingsChange) else "",
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
        by: FailoverRequested | VmReplicationSettings | SettingsChange | None = None,
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
                ticket=by.ticket if isinstance(by, FailoverRequested | SettingsChange) else "",
            )
        )

    def decision(self) -> Decision:
        return Decision(self._kept, self._noted, tuple(self._outputs), tuple(self._refused), self.trace)

    def _head(self, chain: str) -> ChainHead:
        return self.find(f"chain/{chain}", ChainHead) or ChainHead.start(chain)
