"""The report of a run, for whoever has to answer for it: what was achieved against what was promised, by whom, and how.

Values in, a `RunReport` out, pure; `run_document` writes it as a document. Times are milliseconds since the Unix epoch,
durations milliseconds; -1 where one is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from failover_orch.audit.documents import duration
from failover_orch.audit.report import Report
from failover_orch.audit.run_story import StoryLine, own_entries, story_of
from failover_orch.domain import (
    WORKFLOWS,
    AuditEntry,
    FailoverKind,
    JournalEntry,
    Limits,
    RunSnapshot,
    RunState,
)

__all__ = [
    "AchievedObjective",
    "Integrity",
    "ReportedStep",
    "RunReport",
    "Said",
    "VmReport",
    "report_of",
    "words",
]

UNKNOWN = -1
_LOSES = (FailoverKind.UNPLANNED,)
_ENDED = {
    RunState.SUCCEEDED: "succeeded",
    RunState.COMPLETED_WITH_ERRORS: "was completed, with errors,",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "was cancelled",
    RunState.REFUSED: "was refused",
}
_WITHOUT_LOSS = (FailoverKind.PLANNED, FailoverKind.FAILBACK)


@dataclass(frozen=True, slots=True)
class AchievedObjective:
    """Recovery point and time achieved, of the whole, a group or a VM. `limit_ms` 0: no limit was set.

    `met` is None where there is no limit, or nothing to hold against it. `of` and `out_of`: how many VMs serve.
    """

    scope: str
    name: str
    recovery_point_ms: int
    limit_ms: int
    met: bool | None
    recovery_time_ms: int
    of: int
    out_of: int


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody asked for or said, what the rules made of it, and what followed. `outcome`: accepted or refused."""

    at_ms: int
    actor: str
    what: str
    outcome: str
    reason: str
    ticket: str
    rule: str
    followed: str


@dataclass(frozen=True, slots=True)
class ReportedStep:
    """One step or task: when it was first begun, and how long it took with all its attempts."""

    number: str
    what: str
    state: str
    attempts: int
    started_at_ms: int
    took_ms: int
    detail: str


@dataclass(frozen=True, slots=True)
class VmReport:
    """What became of one VM: its last run, should a plan have begun it anew."""

    vm_id: str
    run_id: str
    group: str
    state: str
    from_site: str
    to_site: str
    recovery_point: str
    steps: tuple[ReportedStep, ...]
    addresses: Mapping[str, str]
    detail: str
    timeline: tuple[StoryLine, ...]


@dataclass(frozen=True, slots=True)
class Integrity:
    """How far the entries that this report is made from can be relied on. `complete`: no transition is missing."""

    entries: int
    chains: tuple[str, ...]
    chain_entries: int
    findings: tuple[str, ...]
    complete: bool

    @property
    def sound(self) -> bool:
        return self.complete and not self.findings


@dataclass(frozen=True, slots=True)
class RunReport:
    """The report of a run. `verdict` is the whole of it in one or two sentences."""

    run_id: str
    kind: FailoverKind
    subject: str
    state: RunState
    verdict: str
    actor: str
    reason: str
    ticket: str
    automatic: bool
    approved_by: tuple[str, ...]
    requested_at_ms: int
    started_at_ms: int
    finished_at_ms: int
    waits_for: str
    objectives: tuple[AchievedObjective, ...]
    said: tuple[Said, ...]
    tasks: tuple[ReportedStep, ...]
    vms: tuple[VmReport, ...]
    errors: tuple[str, ...]
    refusals: tuple[str, ...]
    timeline: tuple[StoryLine, ...]
    integrity: Integrity
    made_at_ms: int


def report_of(
    run: RunSnapshot,
    members: Sequence[RunSnapshot],
    journal: Sequence[JournalEntry],
    audit: Sequence[AuditEntry],
    limits: Mapping[str, Limits],
    verified: Report,
    made_at_ms: int,
) -> RunReport:
    """Report on a run.

    `members` are the runs of its VMs where it is a plan's or list's; `journal` and `audit` its entries and theirs;
    `limits` are those of each VM; `verified` is the verification of the trail that the entries come from.
    """
    story = story_of(run, journal, members)
    groups = dict(zip((step.step for step in run.steps), run.groups, strict=True)) if run.groups else {}
    runs = _last_of_each(members) if not run.vm_id else (run,)
    vms = tuple(_vm(each, groups.get(each.vm_id, ""), journal) for each in runs)
    return RunReport(
        run_id=run.run_id,
        kind=run.kind,
        subject=run.vm_id or (f"plan {run.plan_id}" if run.plan_id else f"{len(run.steps)} VMs"),
        state=run.state,
        verdict=_verdict(run, runs, limits),
        actor=run.actor,
        reason=run.reason,
        ticket=run.ticket,
        automatic=run.automatic,
        approved_by=run.approved_by,
        requested_at_ms=min((entry.at_ms for entry in journal), default=run.started_at_ms),
        started_at_ms=run.started_at_ms,
        finished_at_ms=run.finished_at_ms,
        waits_for=run.waits_for,
        objectives=tuple(_objectives(run, runs, groups, limits)),
        said=_said(run.run_id, journal, audit),
        tasks=_tasks(run),
        vms=vms,
        errors=tuple(dict.fromkeys(detail for each in (run, *runs) if (detail := each.detail))),
        refusals=tuple(f"{entry.rule}: {entry.what}" for entry in journal if _refuses(entry)),
        timeline=story.lines,
        integrity=_integrity(journal, audit, verified, [run, *members]),
        made_at_ms=made_at_ms,
    )


def _last_of_each(members: Sequence[RunSnapshot]) -> tuple[RunSnapshot, ...]:
    """Each VM's last run: a plan that is taken up again begins a new one for what had failed."""
    latest = {member.vm_id: member for member in sorted(members, key=lambda member: member.started_at_ms)}
    return tuple(latest.values())


def _serves(run: RunSnapshot) -> bool:
    return run.recovery_time_ms >= 0 and run.state in (
        RunState.SUCCEEDED,
        RunState.COMPLETED_WITH_ERRORS,
        RunState.AWAITING_COMMIT,
        RunState.RUNNING,
        RunState.PARKED,
    )


def _loss_ms(run: RunSnapshot) -> int:
    return run.data_loss_ms if run.kind in _LOSES or run.kind in _WITHOUT_LOSS else 0


def _verdict(run: RunSnapshot, runs: Sequence[RunSnapshot], limits: Mapping[str, Limits]) -> str:
    serving = [each for each in runs if _serves(each)]
    name = f"The {run.kind.lower()} failover of {run.vm_id or (f'plan {run.plan_id}' if run.plan_id else 'the list')}"
    if not run.state.ended:
        return f"{name} has not ended: it is {words(run.state)}. {run.waits_for.capitalize()}".rstrip(". ") + "."
    said = [f"{name} {_ENDED[run.state]} after {duration(max(0, run.finished_at_ms - run.started_at_ms))}"]
    if run.kind is not FailoverKind.REPROTECT and runs:
        said.append(f"{len(serving)} of {len(runs)} VMs served at the other site" if len(runs) > 1 else "")
    lost = [_loss_ms(each) for each in serving]
    if lost and run.kind in (*_LOSES, *_WITHOUT_LOSS):
        worst = "how much was lost is not known" if UNKNOWN in lost else f"at most {duration(max(lost))} were lost"
        said.append("nothing was lost" if max(lost) == 0 and UNKNOWN not in lost else worst)
    missed = [each.vm_id for each in serving if _met(_loss_ms(each), _limit(limits, each)) is False]
    said.append(f"the recovery point objective was missed for {', '.join(missed)}" if missed else "")
    return "; ".join(filter(None, said)) + "."


def _limit(limits: Mapping[str, Limits], run: RunSnapshot) -> int:
    return limits[run.vm_id].rpo_ms if run.vm_id in limits else 0


def _met(loss_ms: int, limit_ms: int) -> bool | None:
    return None if not limit_ms or loss_ms < 0 else loss_ms <= limit_ms


def _objectives(
    run: RunSnapshot, runs: Sequence[RunSnapshot], groups: Mapping[str, str], limits: Mapping[str, Limits]
) -> Iterator[AchievedObjective]:
    if not run.vm_id:
        yield _together("plan", run.plan_id or "list", run, runs, limits)
        for group in dict.fromkeys(groups[each.vm_id] for each in runs if each.vm_id in groups):
            yield _together("group", group, run, [each for each in runs if groups.get(each.vm_id) == group], limits)
    for each in runs:
        loss, limit = _loss_ms(each) if _serves(each) else UNKNOWN, _limit(limits, each)
        time = each.recovery_time_ms
        yield AchievedObjective("VM", each.vm_id, loss, limit, _met(loss, limit), time, int(_serves(each)), 1)


def _together(
    scope: str, name: str, run: RunSnapshot, runs: Sequence[RunSnapshot], limits: Mapping[str, Limits]
) -> AchievedObjective:
    """What several VMs achieved: as much as the worst of them, and counted from the request for all of them."""
    serving = [each for each in runs if _serves(each)]
    losses = [_loss_ms(each) for each in serving]
    stated = [limit for each in runs if (limit := _limit(limits, each))]
    verdicts = [_met(_loss_ms(each), _limit(limits, each)) for each in serving]
    last = max((each.started_at_ms + each.recovery_time_ms for each in serving), default=UNKNOWN)
    return AchievedObjective(
        scope=scope,
        name=name,
        recovery_point_ms=UNKNOWN if UNKNOWN in losses else max(losses, default=UNKNOWN),
        limit_ms=min(stated, default=0),
        met=False if False in verdicts else (True if True in verdicts else None),
        recovery_time_ms=last - run.started_at_ms if serving else UNKNOWN,
        of=len(serving),
        out_of=len(runs),
    )


def _vm(run: RunSnapshot, group: str, journal: Sequence[JournalEntry]) -> VmReport:
    return VmReport(
        vm_id=run.vm_id,
        run_id=run.run_id,
        group=group,
        state=run.state.value,
        from_site=run.from_site,
        to_site=run.to_site,
        recovery_point=run.recovery_point,
        steps=_steps(run),
        addresses=run.addresses,
        detail=run.detail,
        timeline=story_of(run, journal, ()).lines,
    )


def _steps(run: RunSnapshot) -> tuple[ReportedStep, ...]:
    purposes = {step.number: step.purpose for step in WORKFLOWS[run.kind].steps} if run.vm_id else {}
    return tuple(
        ReportedStep(
            number=step.step,
            what=purposes.get(step.step, ""),
            state=step.state.value,
            attempts=step.attempt,
            started_at_ms=step.started_at_ms,
            took_ms=step.finished_at_ms - step.started_at_ms if step.finished_at_ms else UNKNOWN,
            detail=step.detail,
        )
        for step in run.steps
    )


def _tasks(run: RunSnapshot) -> tuple[ReportedStep, ...]:
    begun = sorted(_steps(run), key=lambda task: (not task.started_at_ms, task.started_at_ms))
    return tuple(begun) if not run.vm_id else ()


def _said(run_id: str, journal: Sequence[JournalEntry], audit: Sequence[AuditEntry]) -> tuple[Said, ...]:
    """Who said what.

    The journal tells a transition by the name of whoever asked for the run, the audit trail each word by that of
    whoever spoke it. What a plan passes on to its VMs in somebody's name is said once.
    """
    spoken = sorted(
        (entry for entry in audit if entry.outcome in ("accepted", "refused")),
        key=lambda each: (each.at_ms, each.chain, each.chain_sequence),
    )
    of_the_whole = {(each.actor, each.what, each.reason) for each in spoken if each.evidence.get("run") == run_id}
    left = sorted(journal, key=lambda each: (each.chain, each.chain_sequence))
    said = []
    for word in spoken:
        if word.evidence.get("run") != run_id and (word.actor, word.what, word.reason) in of_the_whole:
            continue
        answer = next(
            (entry for fits in _ANSWERS for entry in left if _at_once(word, entry) and fits(word, entry)), None
        )
        if answer is not None:
            left.remove(answer)
        said.append(
            Said(
                at_ms=word.at_ms,
                actor=word.actor,
                what=word.what,
                outcome=word.outcome,
                reason=word.reason,
                ticket=word.ticket,
                rule=answer.rule if answer is not None else "",
                followed=answer.what if answer is not None else "",
            )
        )
    return tuple(said)


def _at_once(word: AuditEntry, entry: JournalEntry) -> bool:
    """Whether a transition is of the same run and moment as a word, and was made or refused as the word was."""
    same = entry.at_ms == word.at_ms and entry.run_id == word.evidence.get("run")
    return same and _refuses(entry) == (word.outcome == "refused")


_ANSWERS: tuple[Callable[[AuditEntry, JournalEntry], bool], ...] = (
    lambda word, entry: entry.what.startswith(f"refused: {word.what}: "),
    lambda word, entry: f" by {word.actor}" in entry.what,
    lambda _, __: True,
)
"""How well a transition fits a word: the best that any does."""


def _refuses(entry: JournalEntry) -> bool:
    return entry.state == RunState.REFUSED.value


def _integrity(
    journal: Sequence[JournalEntry], audit: Sequence[AuditEntry], verified: Report, runs: Iterable[RunSnapshot]
) -> Integrity:
    chains = {entry.chain for entry in journal} | {entry.chain for entry in audit}
    # An entry that names no chain, or one that cannot be read, is nobody's: it counts against every report.
    findings = [str(each) for each in verified.findings if each.chain in chains or "/" not in each.chain]
    begun = [run for run in runs if run.state is not RunState.REFUSED]
    return Integrity(
        entries=len(journal) + len(audit),
        chains=tuple(sorted(chains)),
        chain_entries=sum(chain.entries for chain in verified.chains if chain.chain in chains),
        findings=tuple(findings),
        complete=all(story_of(run, own_entries(run.run_id, journal), ()).complete for run in begun),
    )


def words(state: str) -> str:
    """A state as people write it."""
    return state.lower().replace("_", " ")
