"""The report of a run: made from what real rules have journalled; nothing in it is taken for markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import msgspec
import pytest

from failover_orch.audit import RunReport, html_of, markdown_of, report_of, story_of
from failover_orch.audit.documents import Block, Facts, Mark, Table, Tone, as_html, as_markdown, duration, moment
from failover_orch.audit.report import Report, report_on
from failover_orch.domain import (
    DEFAULT_LIMITS,
    ApprovalRule,
    AuditEntry,
    ChainHead,
    CommitPolicy,
    FailoverKind,
    FailoverRequested,
    JournalEntry,
    PlanAction,
    PlanActionKind,
    Policy,
    PolicyScope,
    RecoveryGroup,
    RecoveryPlan,
    RequestAction,
    RunSnapshot,
    RunState,
    StepCommand,
    StepOutcome,
)
from failover_orch.domain.chain import link
from failover_orch.domain.draft import State
from standing_state import NOW, Told, asked, carry_out, fold, standing

TELL = PlanAction("tell", PlanActionKind.MANUAL, instruction="tell the users")
PLAN = RecoveryPlan(
    "erp", "ERP", (RecoveryGroup("db", ("vm-1",), before=(TELL,)), RecoveryGroup("app", ("vm-2", "vm-3")))
)
UNPLANNED = FailoverKind.UNPLANNED


Answers = Callable[[StepCommand], StepOutcome]


def done(_: StepCommand) -> StepOutcome:
    return StepOutcome.DONE


def latest(told: Told) -> dict[str, RunSnapshot]:
    return {snapshot.run_id: snapshot for snapshot in told.of(RunSnapshot)}


def verified(told: Told) -> Report:
    """What the verification of exactly these entries finds."""
    entries: list[JournalEntry | AuditEntry] = [*told.of(JournalEntry), *told.of(AuditEntry)]
    heads = {value.chain: value for value in told.state.values() if isinstance(value, ChainHead)}
    return report_on([link(entry, entry.chain) for entry in entries], heads, heads, [])


def told_of(state: dict[str, State], *facts: FailoverRequested, answers: Answers = done) -> Told:
    """What follows from requests; the trail begins with them."""
    unsealed = {key: value for key, value in state.items() if not key.startswith("chain/")}
    return carry_out(unsealed, *facts, answers=answers)


def reported(told: Told, run_id: str = "r", *, rpo_ms: int = 0, found: Report | None = None) -> RunReport:
    runs = latest(told)
    members = [run for run in runs.values() if run.parent_run_id == run_id]
    limits = {vm_id: replace(DEFAULT_LIMITS, rpo_ms=rpo_ms) for vm_id in ("vm-1", "vm-2", "vm-3")}
    journal, audit = told.of(JournalEntry), told.of(AuditEntry)
    of_run = [entry for entry in journal if entry.run_id.split("/")[0] == run_id]
    words = [entry for entry in audit if entry.evidence.get("run", "").split("/")[0] == run_id]
    return report_of(runs[run_id], members, of_run, words, limits, found or verified(told), NOW + 3_600_000)


def plan_told() -> Told:
    """A plan that two people have agreed to, with one action done by hand."""
    rule = ApprovalRule(1, ("bob",))
    state = fold(standing("vm-1", "vm-2", "vm-3"), PLAN, Policy(PolicyScope.PLAN, "erp", approvals=(rule,)))
    word = asked(UNPLANNED, plan_id="erp")
    return told_of(
        state,
        word,
        replace(word, action=RequestAction.APPROVE, actor="bob", reason="site is lost"),
        replace(word, action=RequestAction.CONFIRM, actor="eve", reason="mail sent"),
    )


def test_what_was_achieved_against_the_limits() -> None:
    told = told_of(standing(), asked(UNPLANNED))
    report = reported(told, rpo_ms=20_000)
    (objective,) = report.objectives
    assert (objective.recovery_point_ms, objective.limit_ms, objective.met) == (30_000, 20_000, False)
    assert objective.recovery_time_ms == 5_000
    assert "the recovery point objective was missed for vm-1" in report.verdict
    assert reported(told, rpo_ms=30_000).objectives[0].met is True
    assert reported(told).objectives[0].met is None


def test_a_planned_failover_loses_nothing() -> None:
    report = reported(told_of(standing(), asked()), rpo_ms=1)
    assert report.verdict == "The planned failover of vm-1 succeeded after 9 s; nothing was lost."
    assert report.objectives[0].met is True
    (vm,) = report.vms
    assert [step.number for step in vm.steps] == [f"P{number}" for number in range(9)]
    assert {step.took_ms for step in vm.steps} == {1_000}
    assert vm.addresses == {"nic-0": "10.20.0.11/24"}


def test_a_plan_is_as_good_as_its_worst_vm_and_counted_from_its_own_beginning() -> None:
    report = reported(plan_told(), rpo_ms=20_000)
    scopes = [(each.scope, each.name, each.of, each.out_of) for each in report.objectives]
    assert scopes[:3] == [("plan", "erp", 3, 3), ("group", "db", 1, 1), ("group", "app", 2, 2)]
    whole, database, application = report.objectives[:3]
    assert whole.recovery_time_ms == application.recovery_time_ms > database.recovery_time_ms
    assert whole.recovery_point_ms == max(each.recovery_point_ms for each in report.objectives[3:])
    assert (whole.met, whole.limit_ms) == (False, 20_000)


def test_who_asked_who_agreed_and_what_was_done_by_hand() -> None:
    report = reported(plan_told())
    assert report.approved_by == ("bob",)
    assert [(each.actor, each.what, each.outcome, each.rule) for each in report.said] == [
        ("ann", "unplanned failover", "accepted", "V1"),
        ("bob", "approve", "accepted", "V3"),
        ("eve", "confirm", "accepted", "L1"),
    ]
    assert report.said[2].followed == "db/before/tell done: confirmed by eve: mail sent"


def test_what_was_refused_is_there_with_its_rule() -> None:
    word = asked(UNPLANNED, plan_id="erp")
    state = fold(standing("vm-1", "vm-2", "vm-3"), PLAN, Policy(PolicyScope.PLAN, "erp", approvals=(ApprovalRule(1),)))
    told = told_of(state, word, replace(word, action=RequestAction.APPROVE, actor="ann"))
    report = reported(told)
    assert any("V4" in refusal and "nobody approves their own request" in refusal for refusal in report.refusals)
    assert [(each.actor, each.outcome, each.rule) for each in report.said][-1] == ("ann", "refused", "V4")
    assert report.verdict.startswith("The unplanned failover of plan erp has not ended: it is awaiting approval.")


def failing(command: StepCommand) -> StepOutcome:
    return StepOutcome.REFUSED if command.step == "P8" else StepOutcome.DONE


def test_errors_are_there_and_the_verdict_does_not_hide_them() -> None:
    report = reported(told_of(standing(), asked(), answers=failing))
    assert report.state is RunState.COMPLETED_WITH_ERRORS
    assert report.errors == ("P8: told to be REFUSED",)
    assert "was completed, with errors, after" in report.verdict
    assert "P8: told to be REFUSED" in markdown_of(report)


def test_a_refused_run_achieved_nothing() -> None:
    report = reported(told_of(standing(), asked(FailoverKind.FAILBACK)))
    (objective,) = report.objectives
    assert (objective.of, objective.recovery_point_ms, objective.recovery_time_ms) == (0, -1, -1)
    assert report.refusals[0].startswith("F10: ")
    assert "served" not in report.verdict


def test_a_run_that_waits_is_not_reported_as_ended() -> None:
    report = reported(told_of(standing(), replace(asked(UNPLANNED), commit=CommitPolicy.HOLD)))
    assert "has not ended: it is awaiting commit. Ann has to commit" in report.verdict
    assert report.finished_at_ms == 0


def test_chains_that_verify_are_said_to() -> None:
    report = reported(plan_told())
    assert report.integrity.sound
    assert report.integrity.chains == ("audit/0", "journal/0")
    assert "Yes. This report is made from" in markdown_of(report)


def test_a_changed_entry_is_on_the_report() -> None:
    told = plan_told()
    entries: list[JournalEntry | AuditEntry] = [*told.of(JournalEntry), *told.of(AuditEntry)]
    changed = [replace(entries[3], actor="mallory") if entry is entries[3] else entry for entry in entries]
    heads = {value.chain: value for value in told.state.values() if isinstance(value, ChainHead)}
    found = report_on([link(entry, entry.chain) for entry in changed], heads, heads, [])
    report = reported(told, found=found)
    assert not report.integrity.sound
    assert "changed: its content" in report.integrity.findings[0]
    assert "do not verify" in markdown_of(report)


def test_missing_transitions_are_noticed() -> None:
    told = told_of(standing(), asked())
    journal = told.of(JournalEntry)
    less = replace_journal(told, [entry for entry in journal if entry is not journal[2]])
    report = reported(less, found=verified(told))
    assert not report.integrity.complete
    assert "NOT WHOLLY" in markdown_of(report)
    assert not story_of(latest(told)["r"], less.of(JournalEntry), ()).complete


def replace_journal(told: Told, journal: list[JournalEntry]) -> Told:
    others = [output for output in told.outputs if not isinstance(output, JournalEntry)]
    return Told(told.state, [*others, *journal])


def test_the_story_has_a_line_for_each_transition() -> None:
    told = told_of(standing(), asked())
    story = story_of(latest(told)["r"], told.of(JournalEntry), ())
    assert story.complete
    assert (story.lines[0].rule, story.lines[-1].rule) == ("R1", "R9")
    assert story.lines[-1].after_ms == 9_000
    assert story.tasks == ()


def test_the_story_of_a_plan_has_its_vms_own_runs() -> None:
    told = plan_told()
    runs = latest(told)
    members = [run for run in runs.values() if run.parent_run_id == "r"]
    story = story_of(runs["r"], told.of(JournalEntry), members)
    assert [(task.task, task.group, task.run_state) for task in story.tasks] == [
        ("db/before/tell", "db", ""),
        ("vm-1", "db", "SUCCEEDED"),
        ("vm-2", "app", "SUCCEEDED"),
        ("vm-3", "app", "SUCCEEDED"),
    ]


def test_the_json_form_says_the_same() -> None:
    report = reported(plan_told())
    plain = json.loads(json.dumps(msgspec.to_builtins(report)))
    assert plain["verdict"] == report.verdict
    assert plain["integrity"]["complete"] is True
    assert len(plain["vms"]) == 3


# The document

EVIL = '<script>alert("x")</script> & | *bold* [link](javascript:x)'


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def evil_report() -> RunReport:
    word = replace(asked(UNPLANNED, reason=EVIL), ticket=EVIL)
    told = told_of(standing(), word)
    return replace(reported(told), errors=(EVIL,), refusals=(EVIL,), subject=EVIL)


def test_the_page_stands_by_itself_and_takes_no_text_for_markup() -> None:
    page = html_of(evil_report())
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.tags
    assert "a" not in parser.tags
    assert not [name for name, _ in parser.attributes if name in ("src", "href") or name.startswith("on")]
    assert "@import" not in page
    assert "url(" not in page
    assert "&lt;script&gt;" in page
    assert "@media print" in page


def test_markdown_takes_no_text_for_markup() -> None:
    text = markdown_of(evil_report())
    assert "<script>" not in text
    assert "](javascript" not in re.sub(r"\\.", "", text)
    for row in (line for line in text.splitlines() if line.startswith("| error")):
        assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_every_table_of_the_document_is_whole() -> None:
    text = markdown_of(reported(plan_told()))
    tables = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    assert len(tables) >= 5
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_a_document_in_both_forms() -> None:
    blocks: list[Block] = [
        Facts([("who", "ann"), ("how", Mark("badly", Tone.BAD))]),
        Table(("what", "took"), [("a|b", "3 s")], frozenset({"took"})),
    ]
    assert as_markdown(blocks) == (
        "- **who:** ann\n- **how:** **badly**\n\n| what | took |\n| --- | ---: |\n| a\\|b | 3 s |\n"
    )
    page = as_html("a & b", blocks)
    assert "<title>a &amp; b</title>" in page
    assert '<dd><span class="mark bad">badly</span></dd>' in page
    assert '<td class="number">3 s</td>' in page


@pytest.mark.parametrize(
    ("ms", "said"),
    [(-1, "not known"), (0, "0 s"), (4_200, "4.2 s"), (185_000, "3 min 05 s"), (3_725_000, "1 h 02 min")],
)
def test_durations_in_words(ms: int, said: str) -> None:
    assert duration(ms) == said


def test_moments_are_utc() -> None:
    assert moment(1_800_000_000_123) == "2027-01-15 08:00:00.123 UTC"
    assert moment(0) == "\N{EN DASH}"
