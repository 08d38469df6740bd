"""How one node comes to its settings, and stays with them: what each thing that happens makes of it. Pure.

The rules' numbers are those of the table in `settings_keeping`, which calls these functions. Each returns a `Turn`: the
node as it is from now on, whether it is told its settings now, and what people should hear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from failover_orch.domain.backoff import backoff_ms
from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import Severity
from failover_orch.domain.replication_settings import Standing
from failover_orch.domain.state import NodeSettings

__all__ = [
    "ANSWER_WITHIN_MS",
    "ATTEMPTS",
    "CORRECTIONS_AN_HOUR",
    "FAILED_AGAIN_MS",
    "Said",
    "Turn",
    "answered",
    "away",
    "fails",
    "looked_at",
    "seen",
    "told",
    "waits",
]

ANSWER_WITHIN_MS = 60_000
"""How long a site agent has for one command."""
ATTEMPTS = 5
FAILED_AGAIN_MS = 600_000
"""After how long a node that cannot take its settings is told again."""
CORRECTIONS_AN_HOUR = 3

_FIRST_BACKOFF_MS = 5_000
_GRACE_MS = 5_000
"""An answer given at the last moment still has its way to us before it."""
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Said:
    """What the audit trail is to hold and, with a `severity`, people to hear. `what` goes on from "node p1"."""

    rule: str
    outcome: str
    what: str
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What became of a node. `tell`: it is told its settings now."""

    node: NodeSettings
    tell: bool = False
    said: tuple[Said, ...] = ()


def told(node: NodeSettings, now_ms: int) -> Turn:
    """Begin anew to tell a node (K3, K4, K11, K16)."""
    return _issue(replace(_stands(node, Standing.APPLYING, now_ms), tries=0, left=False), now_ms)


def waits(node: NodeSettings, now_ms: int, again_ms: int) -> Turn:
    """It is to be told, and not now: a run has the VM in hand (K16)."""
    node = _stands(node, Standing.APPLYING, now_ms)
    return Turn(replace(node, issued=False, tries=0, due_ms=now_ms + again_ms))


def away(node: NodeSettings, why: str, now_ms: int) -> Turn:
    """The node cannot be told (K10)."""
    return Turn(replace(_stands(node, Standing.AWAY, now_ms, why), issued=False, tries=0, due_ms=0))


def fails(node: NodeSettings, rule: str, why: str, now_ms: int, *, again_ms: int = FAILED_AGAIN_MS) -> Turn:
    """The node cannot take the settings (K6, K7, K9); `again_ms` 0: not before it is told anew."""
    known = node.standing is Standing.FAILED
    node = _stands(node, Standing.FAILED, now_ms, why)
    node = replace(node, issued=False, due_ms=now_ms + again_ms if again_ms else 0)
    if known:
        return Turn(node)
    what = f"cannot take its replication settings: {why}"
    return Turn(node, said=(Said(rule, "failed", what, Severity.CRITICAL),))


def answered(node: NodeSettings, result: StepResult, version: int, now_ms: int) -> Turn:
    """A site agent has answered the command that is out."""
    match result.outcome:
        case StepOutcome.DONE:
            at_ms = max(node.answered_at_ms, result.finished_at_ms)
            return _in_sync(replace(node, answered_at_ms=at_ms), version, now_ms)
        case StepOutcome.REFUSED:
            return fails(node, "K7", result.detail, now_ms)
        case StepOutcome.BEGUN:
            return Turn(node)
        case _:
            return _failed_once(node, result.detail, now_ms)


def seen(
    node: NodeSettings, differs: Mapping[str, str], at_ms: int, version: int, now_ms: int, *, correct: bool
) -> Turn:
    """A node was looked at, at `at_ms` by its site's clock; `differs` is what it has other than it should.

    While a command is out its answer decides: what was seen may be of before or after.
    """
    if node.issued or node.standing is Standing.AWAY or at_ms <= node.answered_at_ms:
        return Turn(node)
    if not differs:
        return _in_sync(node, version, now_ms)
    if node.due_ms or node.standing not in (Standing.IN_SYNC, Standing.DRIFTED):
        return Turn(node)  # it is told again anyhow
    found = tuple(sorted(differs.items()))
    news = node.standing is Standing.IN_SYNC
    detail = "; ".join(f"{name} is {text or '(none)'}" for name, text in found)
    node = _stands(node, Standing.DRIFTED, now_ms, detail, found)
    drifted = Said("K13", "drifted", f"has other replication settings than were set: {detail}", Severity.WARNING)
    said = (drifted,) if news else ()
    if not correct:
        return Turn(node, said=said)
    recent = tuple(at for at in node.corrected_at_ms if now_ms - at < _HOUR_MS)
    if len(recent) < CORRECTIONS_AN_HOUR:
        node = replace(node, corrected_at_ms=(*recent, now_ms), left=False, tries=0)
        put_right = Said("K14", "told again", f"is told its replication settings again: {detail}")
        return replace(_issue(node, now_ms), said=(*said, put_right))
    if node.left:
        return Turn(node, said=said)
    what = (
        f"was put right {len(recent)} times within the hour and has other replication settings again ({detail}): "
        "somebody else is setting it; find out who, the broker leaves it for now"
    )
    return Turn(replace(node, left=True), said=(*said, Said("K15", "left", what, Severity.CRITICAL)))


def looked_at(node: NodeSettings, now_ms: int) -> Turn:
    """The time of a node has come: no answer, or the next attempt (K6, K8)."""
    if node.issued:
        return _failed_once(node, f"no answer within {(ANSWER_WITHIN_MS + _GRACE_MS) // 1000} s", now_ms)
    return _issue(node, now_ms)


def _issue(node: NodeSettings, now_ms: int) -> Turn:
    # One that has failed is not done with after five more: each try stands alone.
    tries = 1 if node.standing is Standing.FAILED else node.tries + 1
    due_ms = now_ms + ANSWER_WITHIN_MS + _GRACE_MS
    return Turn(replace(node, issued=True, attempt=node.attempt + 1, tries=tries, due_ms=due_ms), tell=True)


def _failed_once(node: NodeSettings, why: str, now_ms: int) -> Turn:
    if node.standing is Standing.FAILED or node.tries >= ATTEMPTS:
        return fails(node, "K6", why, now_ms)
    wait_ms = backoff_ms(f"{node.node}|{node.attempt}", _FIRST_BACKOFF_MS, node.tries)
    # What a node that has drifted differs in is worth more to people than how often it was told.
    detail = node.detail if node.standing is Standing.DRIFTED else f"attempt {node.tries} of {ATTEMPTS}: {why}"
    return Turn(replace(node, issued=False, due_ms=now_ms + wait_ms, detail=detail))


def _in_sync(node: NodeSettings, version: int, now_ms: int) -> Turn:
    before = node.standing
    node = replace(_stands(node, Standing.IN_SYNC, now_ms), applied=version, issued=False, tries=0, due_ms=0)
    if before in (Standing.DRIFTED, Standing.FAILED):
        return Turn(node, said=(Said("K5", "in sync", "has its replication settings again"),))
    return Turn(node)


def _stands(
    node: NodeSettings, standing: Standing, now_ms: int, detail: str = "", differs: tuple[tuple[str, str], ...] = ()
) -> NodeSettings:
    since_ms = node.since_ms if node.standing is standing else now_ms
    return replace(node, standing=standing, since_ms=since_ms, detail=detail, differs=differs)
