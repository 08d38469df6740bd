"""A run's story, from its journal: one line a transition. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from failover_orch.domain import JournalEntry, RunSnapshot

__all__ = ["RunStory", "StoryLine", "TaskLine", "own_entries", "story_of"]


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One transition: when, how long after the first of the run, by which rule, and on what evidence."""

    at_ms: int
    after_ms: int
    rule: str
    what: str
    state: str
    evidence: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TaskLine:
    """One task of a plan's run, with what its VM's own run says of itself (nothing for actions and gates)."""

    task: str
    group: str
    state: str
    detail: str
    started_at_ms: int
    took_ms: int
    run_id: str = ""
    run_state: str = ""
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class RunStory:
    """A run, what it waits for now, its tasks where it is a plan's, and its transitions in order.

    `complete`: every transition is here, from the first to the last.
    """

    run: RunSnapshot
    lines: tuple[StoryLine, ...]
    tasks: tuple[TaskLine, ...]
    complete: bool


def own_entries(run_id: str, journal: Iterable[JournalEntry]) -> tuple[JournalEntry, ...]:
    """A run's own entries as they were written: in the order of their places in the chain, each once."""
    own = {(entry.chain, entry.chain_sequence): entry for entry in journal if entry.run_id == run_id}
    return tuple(sorted(own.values(), key=lambda entry: (entry.chain, entry.chain_sequence)))


def story_of(run: RunSnapshot, journal: Iterable[JournalEntry], members: Sequence[RunSnapshot]) -> RunStory:
    """Tell a run. `members` are the runs of its VMs where it is a plan's or list's."""
    entries = own_entries(run.run_id, journal)
    began = entries[0].at_ms if entries else 0
    # A refusal that concerns a run has no place of its own in it.
    places = [entry.sequence for entry in entries if not entry.what.startswith("refused: ")]
    return RunStory(
        run=run,
        lines=tuple(
            StoryLine(entry.at_ms, entry.at_ms - began, entry.rule, entry.what, entry.state, entry.evidence)
            for entry in entries
        ),
        tasks=_tasks(run, members),
        complete=bool(entries) and places == list(range(len(places))),
    )


def _tasks(run: RunSnapshot, members: Sequence[RunSnapshot]) -> tuple[TaskLine, ...]:
    if run.vm_id:
        return ()
    # Of the runs that a VM had in several rounds the last counts.
    latest = {member.vm_id: member for member in sorted(members, key=lambda member: member.started_at_ms)}
    groups = run.groups or ("",) * len(run.steps)
    lines = []
    for step, group in zip(run.steps, groups, strict=True):
        member = latest.get(step.step)
        lines.append(
            TaskLine(
                task=step.step,
                group=group,
                state=step.state.value,
                detail=step.detail,
                started_at_ms=step.started_at_ms,
                took_ms=step.finished_at_ms - step.started_at_ms if step.finished_at_ms else -1,
                run_id=member.run_id if member is not None else "",
                run_state=member.state.value if member is not None else "",
                waits_for=member.waits_for if member is not None else "",
            )
        )
    return tuple(sorted(lines, key=lambda line: (not line.started_at_ms, line.started_at_ms)))
