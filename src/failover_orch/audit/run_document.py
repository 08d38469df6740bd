"""The report of a run as a document to be read, kept and printed: Markdown, or one HTML page. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from failover_orch.audit.documents import (
    DASH,
    Block,
    Facts,
    Heading,
    Mark,
    Paragraph,
    Table,
    Tone,
    as_html,
    as_markdown,
    duration,
    moment,
)
from failover_orch.audit.run_report import AchievedObjective, Integrity, ReportedStep, RunReport, Said, VmReport, words
from failover_orch.audit.run_story import StoryLine
from failover_orch.domain import RunState, StepState

__all__ = ["html_of", "markdown_of"]


def markdown_of(report: RunReport) -> str:
    """The report as Markdown."""
    return as_markdown(_document(report))


def html_of(report: RunReport) -> str:
    """The report as one HTML page that needs nothing else, fit to be printed."""
    return as_html(f"{report.subject}: {report.kind.lower()} failover {report.run_id}", _document(report))


def _document(report: RunReport) -> Iterator[Block]:
    yield Heading(f"{report.kind.capitalize()} failover of {report.subject}", 1)
    yield Paragraph(Mark(words(report.state).upper(), _tone(report.state)))
    yield Paragraph(report.verdict)
    yield Facts(_facts(report))
    yield Heading("Recovery point and time")
    yield Table(
        ("of", "name", "served", "data lost", "limit", "objective", "recovery time"),
        [_objective(each) for each in report.objectives],
        frozenset({"served", "data lost", "limit", "recovery time"}),
    )
    yield Paragraph("The limits are those that stand at the time of this report; the audit trail has those before.")
    if report.errors or report.refusals:
        yield Heading("What went wrong")
        yield Table(("kind", "what"), [*_named("error", report.errors), *_named("refused", report.refusals)])
    yield Heading("Who asked and decided")
    yield Table(
        ("when", "who", "said", "why", "ticket", "taken", "rule", "then"),
        [
            (
                moment(each.at_ms),
                each.actor,
                each.what,
                each.reason,
                each.ticket,
                _taken(each),
                each.rule,
                each.followed,
            )
            for each in report.said
        ],
    )
    if report.tasks:
        yield Heading("The plan's tasks")
        yield _step_table(report.tasks, report.started_at_ms)
    for vm in report.vms:
        yield from _vm_section(vm, report.started_at_ms)
    yield Heading("Timeline")
    yield _timeline(report.timeline)
    yield Heading("Can this be relied on?")
    yield Paragraph(_reliance(report.integrity))
    if report.integrity.findings:
        yield Table(("finding",), [(finding,) for finding in report.integrity.findings])
    yield Paragraph(f"Report made {moment(report.made_at_ms)} from the journal and the audit trail.")


def _facts(report: RunReport) -> Sequence[tuple[str, str]]:
    asked = f"{report.actor}{' (of its own accord)' if report.automatic else ''}"
    rows = [
        ("Run", report.run_id),
        ("Asked for by", asked),
        ("Reason", report.reason),
        ("Ticket", report.ticket),
        ("Approved by", ", ".join(report.approved_by)),
        ("Asked for", moment(report.requested_at_ms)),
        ("Begun", moment(report.started_at_ms)),
        ("Ended", moment(report.finished_at_ms)),
        ("Waits for", report.waits_for),
    ]
    return [row for row in rows if row[1]]


def _objective(each: AchievedObjective) -> tuple[str | Mark, ...]:
    judged = {True: Mark("met", Tone.GOOD), False: Mark("MISSED", Tone.BAD)}
    return (
        each.scope,
        each.name,
        f"{each.of} of {each.out_of}",
        duration(each.recovery_point_ms),
        duration(each.limit_ms) if each.limit_ms else "none",
        judged[each.met] if each.met is not None else DASH,
        duration(each.recovery_time_ms),
    )


def _vm_section(vm: VmReport, began_ms: int) -> Iterator[Block]:
    yield Heading(f"{vm.vm_id}: {words(vm.state)}")
    rows = [
        ("Run", vm.run_id),
        ("Group", vm.group),
        ("From", vm.from_site),
        ("To", vm.to_site),
        ("Recovery point", vm.recovery_point),
        *((f"Address of {adapter}", found) for adapter, found in vm.addresses.items()),
        ("Detail", vm.detail),
    ]
    yield Facts([row for row in rows if row[1]])
    if vm.steps:
        yield _step_table(vm.steps, began_ms)


def _step_table(steps: Sequence[ReportedStep], began_ms: int) -> Table:
    rows = [
        (
            step.number,
            step.what,
            Mark(words(step.state), _step_tone(step)) if step.state != StepState.DONE else words(step.state),
            str(step.attempts) if step.attempts else "",
            f"+{duration(max(0, step.started_at_ms - began_ms))}" if step.started_at_ms else "",
            duration(step.took_ms) if step.took_ms >= 0 else "",
            step.detail,
        )
        for step in steps
    ]
    return Table(
        ("step", "what", "state", "attempts", "begun", "took", "detail"), rows, frozenset({"attempts", "begun", "took"})
    )


def _timeline(lines: Sequence[StoryLine]) -> Table:
    rows = [
        (
            moment(line.at_ms),
            f"+{duration(max(0, line.after_ms))}",
            line.rule,
            line.what,
            ", ".join(f"{name} {value}" for name, value in line.evidence.items()),
        )
        for line in lines
    ]
    return Table(("when", "after", "rule", "what", "evidence"), rows, frozenset({"after"}))


def _reliance(integrity: Integrity) -> Mark:
    counted = f"{integrity.entries} entries in {', '.join(integrity.chains) or 'no chain'}"
    if not integrity.entries:
        return Mark("No entry of this run was found: nothing here is proved.", Tone.BAD)
    if integrity.sound:
        return Mark(
            f"Yes. This report is made from {counted}. The hash chains that hold them, {integrity.chain_entries} "
            "entries in all, verify: every entry is there and as it was written.",
            Tone.GOOD,
        )
    if integrity.findings:
        return Mark(f"NO. The hash chains that hold the {counted} do not verify, as listed here.", Tone.BAD)
    return Mark(f"NOT WHOLLY. Of the {counted} none was changed, but transitions of the run are missing.", Tone.BAD)


def _named(name: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, text) for text in texts]


def _taken(said: Said) -> str | Mark:
    return said.outcome if said.outcome == "accepted" else Mark(said.outcome, Tone.BAD)


def _tone(state: RunState) -> Tone:
    if not state.ended:
        return Tone.OPEN
    return Tone.GOOD if state is RunState.SUCCEEDED else Tone.BAD


def _step_tone(step: ReportedStep) -> Tone:
    return Tone.BAD if step.state == StepState.FAILED else Tone.OPEN
