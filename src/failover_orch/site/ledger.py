"""What is known of the steps that must not be done again: pure.

Before an agent begins such a step it claims it, with a result of the outcome BEGUN on `step-results`. The first claim
of a step in the topic is the one that holds, whoever else has made one: so agents that both believe to have the step's
partition (one was paused, and does not know yet) agree on which of them does it. A claim without an end is the trace of
an agent that did not live to tell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import StepCommand

__all__ = ["CLAIM", "CLAIMED_BY", "NOTHING_KNOWN", "Claim", "Entry", "Ledger", "StepKey"]

CLAIM = "claim"
"""Under this name a result's `observed` has the claim that it is, or that it ends: the mark of results to be kept."""

CLAIMED_BY = "claimed_by"
"""And under this one the agent."""


class StepKey(NamedTuple):
    """Tells one attempt at one step from all others. `key` is the record's."""

    key: str
    run_id: str
    step: str
    attempt: int

    @classmethod
    def of(cls, record: StepCommand | StepResult) -> StepKey:
        return cls(record.key or record.vm_id, record.run_id, record.step, record.attempt)


@dataclass(frozen=True, slots=True)
class Claim:
    """That an agent was about to begin a step. `offset` is its place in the step's partition."""

    claim: str
    agent: str
    at_ms: int
    offset: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one step: who began it, and how it ended. None: nothing."""

    first: Claim | None = None
    end: StepResult | None = None
    noted_at_ms: int = 0


NOTHING_KNOWN = Entry()


class Ledger:
    """Every such step that results were seen of. They may be noted in any order, and again."""

    def __init__(self) -> None:
        self._entries: dict[StepKey, Entry] = {}

    def note(self, result: StepResult, offset: int) -> None:
        """A result was read at an offset of its partition. One without a claim is none of ours to keep."""
        if CLAIM not in result.observed:
            return
        key = StepKey.of(result)
        entry = replace(self.entry(key), noted_at_ms=result.finished_at_ms)
        if result.outcome is StepOutcome.BEGUN:
            claim = Claim(result.observed[CLAIM], result.observed.get(CLAIMED_BY, ""), result.finished_at_ms, offset)
            if entry.first is None or offset < entry.first.offset:
                entry = replace(entry, first=claim)
        # What is known for certain goes before the word of somebody who did not know.
        elif entry.end is None or entry.end.outcome is StepOutcome.UNCERTAIN:
            entry = replace(entry, end=result)
        self._entries[key] = entry

    def entry(self, key: StepKey) -> Entry:
        """What is known of a step."""
        return self._entries.get(key, NOTHING_KNOWN)

    def forget(self, before_ms: int) -> None:
        """Drop what was last heard of before this time."""
        self._entries = {key: entry for key, entry in self._entries.items() if entry.noted_at_ms >= before_ms}
