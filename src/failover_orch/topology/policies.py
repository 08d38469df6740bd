"""Policies of a topology file: what the broker may do of its own accord, within which limits, and who has to agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.policies import ApprovalRule, AutomaticMode, Policy, PolicyScope
from failover_orch.domain.settings import RecoveryPlan
from failover_orch.topology.machines import House
from failover_orch.topology.plan_actions import DAY_S
from failover_orch.yaml_reading import IDENTIFIER, Entry, Register

__all__ = ["POLICY_KEYS", "add_policy"]

_SECOND_MS = 1_000
_DAY_MS = DAY_S * _SECOND_MS
_MONTH_S = 30 * DAY_S


@dataclass(frozen=True, slots=True)
class _Limit:
    """A limit in the file, and the field of a policy that it becomes; `unit` is how much of it one makes."""

    key: str
    field: str
    low: int
    high: int
    unit: int = 1


_LIMITS = (
    # One observer may be cut off itself, so evidence is never that of one alone.
    _Limit("observers", "observers", 2, 9),
    _Limit("evidence_within_s", "evidence_within_ms", 1, DAY_S, _SECOND_MS),
    _Limit("hold_down_s", "hold_down_ms", 0, DAY_S, _SECOND_MS),
    _Limit("cooldown_s", "cooldown_ms", 0, _MONTH_S, _SECOND_MS),
    _Limit("brake_runs", "brake_runs", 0, 10_000),
    _Limit("brake_within_s", "brake_within_ms", 1, _MONTH_S, _SECOND_MS),
    _Limit("rpo_s", "rpo_ms", 0, _MONTH_S, _SECOND_MS),
    _Limit("max_data_loss_s", "max_data_loss_ms", 0, _MONTH_S, _SECOND_MS),
    _Limit("missed_cycles_percent", "missed_cycles_percent", 1, 100),
    _Limit("replication_age_s", "replication_age_ms", 1, _MONTH_S, _SECOND_MS),
    _Limit("silent_cycles", "silent_cycles", 1, 1_000),
    _Limit("recover_after_s", "recover_after_ms", 0, DAY_S, _SECOND_MS),
    _Limit("drill_within_days", "drill_within_ms", 0, 3_650, _DAY_MS),
)

POLICY_KEYS = ("scope", "target", "mode", *(limit.key for limit in _LIMITS), "approvals")
_APPROVAL_KEYS = ("needed", "approvers", "kinds", "to_site", "within_s")
_MAX_NEEDED = 20


def add_policy(entry: Entry, house: House, plans: Register[RecoveryPlan], policies: Register[Policy]) -> None:
    """Read one entry of `policies`. What it leaves out is left to the wider scope."""
    stated: dict[str, Any] = {
        limit.field: entry.integer(limit.key, limit.low, limit.high) * limit.unit
        for limit in _LIMITS
        if entry.has(limit.key)
    }
    if entry.has("mode"):
        stated["mode"] = entry.word("mode", AutomaticMode, AutomaticMode.OBSERVE)
    if entry.has("approvals"):
        stated["approvals"] = tuple(_approval(below, house) for below in entry.entries("approvals", "", _APPROVAL_KEYS))
    word = entry.one_of("scope", [scope.lower() for scope in PolicyScope], "", required=True)
    if not word:
        return
    scope = PolicyScope(word.upper())
    target = _target(entry, scope, house, plans)
    if target or scope is PolicyScope.ALL:
        policy = Policy(scope, target, **stated)
        policies.add(entry, "target" if target else "scope", policy.key, policy)


def _target(entry: Entry, scope: PolicyScope, house: House, plans: Register[RecoveryPlan]) -> str:
    """Whom the policy is for; empty for all, and where it cannot be said."""
    if scope is PolicyScope.ALL:
        if entry.has("target"):
            entry.mistake("target", "is given for scope all, which has none; leave it out, or narrow the scope")
        return ""
    known: dict[PolicyScope, Register[Any]] = {
        PolicyScope.SITE: house.sites,
        PolicyScope.PLAN: plans,
        PolicyScope.VM: house.vms,
    }
    target = entry.text("target", pattern=IDENTIFIER)
    return target if known[scope].find(entry, "target", target) is not None else ""


def _approval(entry: Entry, house: House) -> ApprovalRule:
    before = len(entry.notes.mistakes)
    needed = entry.integer("needed", 1, _MAX_NEEDED)
    approvers = _approvers(entry)
    if approvers and len(approvers) < needed and len(entry.notes.mistakes) == before:
        entry.mistake(
            "approvers",
            f"are {len(approvers)}, and {needed} have to agree; name more, or leave approvers out for anybody",
        )
    to_site = entry.text("to_site", required=False, pattern=IDENTIFIER)
    return ApprovalRule(
        needed=needed,
        approvers=approvers,
        kinds=entry.words("kinds", FailoverKind),
        to_site=house.sites.find(entry, "to_site", to_site) or "",
        within_ms=entry.milliseconds("within_s", 1, _MONTH_S, default=ApprovalRule(needed).within_ms),
    )


def _approvers(entry: Entry) -> tuple[str, ...]:
    found: list[str] = []
    for line, person in entry.texts("approvers", expected="a list of people"):
        if person in found:
            entry.mistake("approvers", f"{person} is listed twice, and counts once; list each person once", line=line)
        else:
            found.append(person)
    return tuple(found)
