"""What people want of the broker itself: when it may act alone, who has to agree, and which limits count.

A `Policy` holds for everything, a site, a recovery plan or one VM; what it leaves open (None), the wider one decides,
and last of all `Limits`' own defaults. Times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from failover_orch.domain.facts import FailoverKind

__all__ = [
    "DEFAULT_LIMITS",
    "ApprovalRule",
    "AutomaticMode",
    "AutomaticRun",
    "Brake",
    "Evidence",
    "Limits",
    "Policy",
    "PolicyScope",
    "Verdict",
    "limits_from",
]

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS


class AutomaticMode(StrEnum):
    """What the broker does when all that speaks for a failover is there.

    OFF: it does not even look. OBSERVE: it decides, records, and does nothing. ADVISE: it proposes, and waits for
    approval. ACT: it fails over.
    """

    OFF = "OFF"
    OBSERVE = "OBSERVE"
    ADVISE = "ADVISE"
    ACT = "ACT"


class PolicyScope(StrEnum):
    """Whom a policy is for; the later ones go before the earlier."""

    ALL = "ALL"
    SITE = "SITE"
    PLAN = "PLAN"
    VM = "VM"


@dataclass(frozen=True, slots=True)
class ApprovalRule:
    """How many of which people have to agree, and how soon.

    `kinds` and `to_site` say which failovers it is for; empty: all. `approvers` are the people; empty: anybody but the
    one who asks. `needed` of them within `within_ms`.
    """

    needed: int
    approvers: tuple[str, ...] = ()
    kinds: tuple[FailoverKind, ...] = ()
    to_site: str = ""
    within_ms: int = _HOUR_MS


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits and modes for one scope; None leaves a limit to the wider scope. Fields are those of `Limits`.

    `target` is the site, plan or VM by id; empty for ALL.
    """

    scope: PolicyScope
    target: str = ""
    mode: AutomaticMode | None = None
    observers: int | None = None
    evidence_within_ms: int | None = None
    hold_down_ms: int | None = None
    cooldown_ms: int | None = None
    brake_runs: int | None = None
    brake_within_ms: int | None = None
    rpo_ms: int | None = None
    max_data_loss_ms: int | None = None
    missed_cycles_percent: int | None = None
    replication_age_ms: int | None = None
    silent_cycles: int | None = None
    recover_after_ms: int | None = None
    drill_within_ms: int | None = None
    approvals: tuple[ApprovalRule, ...] | None = None
    actor: str = ""
    reason: str = ""
    set_at_ms: int = 0

    @property
    def key(self) -> str:
        """What tells policies apart: `all`, `site/dr`, `plan/erp`, `vm/erp-db`."""
        return f"{self.scope.lower()}/{self.target}" if self.target else self.scope.lower()


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit as it stands for one VM, plan or site. 0 switches off what says so."""

    mode: AutomaticMode = AutomaticMode.OBSERVE
    observers: int = 2
    """How many independent observers have to agree that the primary is gone; one of them on the data path."""
    evidence_within_ms: int = 2 * _MINUTE_MS
    """How old what an observer said may be."""
    hold_down_ms: int = _MINUTE_MS
    """How long the evidence has to hold before anything is done."""
    cooldown_ms: int = _HOUR_MS
    """After an automatic failover: none of the same VM and kind, unless a person has acknowledged the last."""
    brake_runs: int = 20
    """So many automatic failovers within `brake_within_ms` engage the brake. 0: it engages by hand only."""
    brake_within_ms: int = _HOUR_MS
    rpo_ms: int = 0
    """How far a replica may lag behind; a forecast warns before. 0: no limit."""
    max_data_loss_ms: int = 0
    """An unplanned failover that would lose more needs `accept_data_loss`. 0: no limit."""
    missed_cycles_percent: int = 20
    replication_age_ms: int = _HOUR_MS
    silent_cycles: int = 3
    """A replica that has received nothing for so many of its cycles is silent: the data path is down."""
    recover_after_ms: int = _MINUTE_MS
    """How long a better health has to last before it counts."""
    drill_within_ms: int = 90 * _DAY_MS
    """How old the last test failover may be. 0: none is asked for."""
    approvals: tuple[ApprovalRule, ...] = ()


DEFAULT_LIMITS = Limits()
_NAMES = tuple(field.name for field in fields(Limits))


def limits_from(policies: Iterable[Policy | None]) -> Limits:
    """The limits that follow from policies, the widest first."""
    limits = DEFAULT_LIMITS
    for policy in policies:
        if policy is not None:
            stated = {name: value for name in _NAMES if (value := getattr(policy, name)) is not None}
            limits = replace(limits, **stated)
    return limits


@dataclass(frozen=True, slots=True)
class Brake:
    """The brake over everything automatic: once engaged it stays so until a person releases it."""

    engaged: bool
    actor: str
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class AutomaticRun:
    """The broker has begun a failover of its own accord: every partition counts these, for the brake."""

    run_id: str
    vm_id: str
    at_ms: int


class Verdict(StrEnum):
    """What an observer makes of a site or node.

    UP: it answers, or was seen at work. UNREACHABLE: it does not answer this observer. DOWN: it was seen to be down.
    OFF: its power is proved to be off (fenced); it cannot come back by itself.
    """

    UP = "UP"
    UNREACHABLE = "UNREACHABLE"
    DOWN = "DOWN"
    OFF = "OFF"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one observer makes of a site, or of one node there (`node` empty: of the whole site).

    `place` is the site where the observer itself is; observers in one place are not independent of each other.
    """

    observer: str
    place: str
    site: str
    verdict: Verdict
    observed_at_ms: int
    node: str = ""
    detail: str = ""
