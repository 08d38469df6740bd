"""What the broker tells, as lines of a golden log: time, subject, sentence, rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from failover_orch.domain.draft import Output
from failover_orch.domain.records import (
    Alert,
    AuditEntry,
    HealthChange,
    JournalEntry,
    Readiness,
    RoutingUpdate,
    RunSnapshot,
)
from failover_orch.domain.replication_settings import SettingsRevision, SettingsScope, SettingsStanding
from failover_orch.domain.settings_catalogue import setting_texts
from narratives.story import clock

__all__ = ["BEGINNING_MS", "Line", "render", "said"]

BEGINNING_MS = 1_767_225_600_000
"""When every story begins, by its own clock: 00:00:00 of the first of January 2026, UTC."""
_EPOCH_MS = re.compile(r"\b176\d{10}\b")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log. What happens in the story itself has no rule and no subject."""

    at_ms: int
    subject: str
    sentence: str
    rule: str = ""


def said(output: Output, now_ms: int, *, audited: bool) -> Iterator[Line]:
    """The lines of one output; none for what another output says as well. `audited`: those of the audit trail too."""
    match output:
        case JournalEntry():
            subject = output.vm_id or output.run_id or "broker"
            fence = f" ({output.evidence['fence']})" if output.evidence.get("fence") else ""
            yield Line(now_ms, subject, output.what + fence, output.rule)
        case RoutingUpdate():
            roles = ", ".join(f"{place.role} is {place.node} at {place.site}" for place in output.locations)
            yield Line(now_ms, output.vm_id, f"route: {roles}; epoch {output.epoch}", output.cause.value)
        case HealthChange():
            yield from _health(output, now_ms)
        case Alert():
            yield Line(now_ms, output.subject, f"alert, {output.severity.value.lower()}: {output.what}")
        case RunSnapshot() if output.state.ended:
            if achieved := "; ".join(_achieved(output)):
                yield Line(now_ms, output.vm_id or output.run_id, f"achieved: {achieved}")
        case SettingsRevision():
            yield Line(now_ms, output.target, _revision(output))
        case SettingsStanding():
            subject = output.target if output.scope is SettingsScope.VM else f"{output.target}/{output.node}"
            why = f": {output.detail}" if output.detail else ""
            where = f" on {output.node}" if output.scope is SettingsScope.VM and output.node else ""
            yield Line(now_ms, subject, f"settings version {output.version}{where}: {output.standing}{why}")
        case AuditEntry() if audited:
            by = f"{output.actor}: {output.reason}" + (f" ({output.ticket})" if output.ticket else "")
            yield Line(now_ms, output.subject, f"audit trail: {output.what}, {output.outcome}, by {by}")
        case _:
            pass


def _health(change: HealthChange, now_ms: int) -> Iterator[Line]:
    subject = change.vm_id or f"plan {change.plan_id}"
    forecast = ""
    if change.rpo_breach_at_ms > now_ms:
        forecast = f"; the breach is due at {change.rpo_breach_at_ms}"
    if change.health is not change.previous:
        why = f": {'; '.join(change.reasons)}" if change.reasons else ""
        yield Line(now_ms, subject, f"health {change.health}, was {change.previous}{why}{forecast}")
    same = change.readiness is change.previous_readiness
    if change.readiness is not Readiness.UNKNOWN and (not same or change.health is change.previous):
        why = f": {'; '.join(change.defects)}" if change.defects else ""
        became = f"still {change.readiness}" if same else f"{change.readiness}, was {change.previous_readiness}"
        yield Line(now_ms, subject, f"readiness {became}{why}{forecast}")


def _revision(revision: SettingsRevision) -> str:
    by = f"{revision.actor}: {revision.reason}" + (f" ({revision.ticket})" if revision.ticket else "")
    if revision.refused:
        return (
            f"settings stay at version {revision.version}, a change is refused to {by}; {'; '.join(revision.refused)}"
        )
    texts = setting_texts(revision)
    changed = ", ".join(f"{name} {texts[name]}" for name in revision.changed) or "nothing that was not so"
    return f"settings version {revision.version} by {by}; {changed}"


def _achieved(run: RunSnapshot) -> Iterator[str]:
    if run.recovery_time_ms >= 0:
        yield f"it served after {run.recovery_time_ms / 1000:g} s"
    if run.data_loss_ms >= 0:
        yield f"{run.data_loss_ms / 1000:g} s lost"
    if run.recovery_point:
        yield f"recovery point {run.recovery_point}"
    for adapter, addresses in run.addresses.items():
        yield f"{adapter} has {addresses}"


def render(lines: list[Line]) -> str:
    """The log as text: what happens in the story stands between the lines that follow from it."""
    told = [replace(line, subject=_in_clock(line.subject), sentence=_in_clock(line.sentence)) for line in lines]
    width = max((len(line.subject) for line in told), default=0)
    text = []
    for line in told:
        time = clock(line.at_ms - BEGINNING_MS)
        if not line.subject:
            text.append(f"\n{time}  > {line.sentence}")
            continue
        rule = f"  ({line.rule})" if line.rule else ""
        text.append(f"{time}  {line.subject:{width}}  {line.sentence}{rule}")
    return "\n".join(text).strip("\n") + "\n"


def _in_clock(text: str) -> str:
    """The text with its milliseconds since the epoch as times of the story."""
    return _EPOCH_MS.sub(lambda found: clock(int(found[0]) - BEGINNING_MS), text)
