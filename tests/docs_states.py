"""`docs/states.md`, from the tables of the rules themselves. Run this file as a script to write it anew.

`tests/test_docs_states.py` fails when the page is stale.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import failover_orch
from failover_orch.domain import addresses
from failover_orch.domain.broker import decide, park, tick
from failover_orch.domain.draft import Decision, State
from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction, StepOutcome, StepResult
from failover_orch.domain.operators import LEGAL_IN
from failover_orch.domain.policies import ApprovalRule, Policy, PolicyScope
from failover_orch.domain.records import JournalEntry, RunState
from failover_orch.domain.replication import ReplicationState
from failover_orch.domain.runs import step_in_hand
from failover_orch.domain.state import Run, VmState
from failover_orch.domain.terms import CommitPolicy, PointChoice, WantedPoint
from failover_orch.domain.transitions import NEEDS, PROGRESS, TRANSITIONS, replication_diagram
from failover_orch.domain.workflows import WORKFLOWS, OnFailure, Step, Workflow
from standing_state import NOW, asked, carry_out, fold, moment, standing

__all__ = ["DOMAIN", "PAGE", "Rule", "numbers", "page", "rules", "run_arrows"]

PAGE = Path(__file__).parent.parent / "docs" / "states.md"
DOMAIN = Path(failover_orch.__file__).parent / "domain"

_NUMBER = re.compile(r"\b([A-Z])(\d{1,2})\b")
_RANGE = re.compile(r"\b([A-Z])(\d{1,2}) to \1(\d{1,2})\b")


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of a table in a module's docstring: the module, the rule's number as it stands there, and the rest."""

    module: str
    number: str
    says: tuple[str, ...]


def rules() -> list[Rule]:
    """Every numbered rule that a module of the domain states in its docstring, and the address rules."""
    found = []
    for path in sorted(DOMAIN.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found += [Rule(path.stem, number, says) for number, says in _table(docstring)]
    return found + [Rule("addresses", rule.number, (rule.demands,)) for rule in addresses.RULES]


def _table(docstring: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The rows of a docstring's table whose first column is headed `rule` or `guard`."""
    numbered = False
    for line in docstring.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            numbered = False
        elif cells[0] in ("rule", "guard"):
            numbered = True
        elif numbered and not cells[0].startswith("---"):
            yield cells[0], tuple(cells[1:])


def numbers(text: str) -> set[str]:
    """The rules' numbers in a text; `G1 to G6` are all six."""
    found = {f"{letter}{number}" for letter, number in _NUMBER.findall(text)}
    for letter, first, last in _RANGE.findall(text):
        found |= {f"{letter}{number}" for number in range(int(first), int(last) + 1)}
    return found


_ABOUT = """\
Generated from the tables in `src/failover_orch/domain/`, and from what the rules there do, by
`python tests/docs_states.py`; a test says when it is stale. Do not edit it here."""
_ABOUT_RUNS = """\
Arrows bear the rule that makes the change, and the word of a person's that it follows, if it does. What has ended hears
nothing more; only a plan's run that ended with failures can be told RESUME."""
_ABOUT_WORKFLOWS = """\
Where a step fails for good, its box says what becomes of the run. UNDO takes back what was done, last first: the dotted
arrows, each with the action that does it. HALT ends the run where nothing was changed. PARK leaves it to a person.
CONTINUE goes on. From the point of no return on (the bold box) a run cannot be cancelled."""
_ABOUT_REPLICATION = """\
What can be done to an end of a replication (an arrow: it changes the end's mode or state), and what replication comes
to by itself. Names and numbers are Hyper-V Replica's."""
_ABOUT_RULES = """\
The number stands on each journal entry that the rule decided. Workflows' steps and replication's transitions have
numbers of their own, above."""


def page() -> str:
    """The whole page."""
    parts = ["# States and rules", _ABOUT, "## A run, and what it can be told", _ABOUT_RUNS]
    parts += [_mermaid(_run_states()), _told(), "## Workflows", _ABOUT_WORKFLOWS]
    for workflow in WORKFLOWS.values():
        parts += [f"### {workflow.kind.capitalize()}", _mermaid(_workflow(workflow)), _steps(workflow)]
    parts += ["## Replication states", _ABOUT_REPLICATION, _mermaid(replication_diagram()), _transitions()]
    parts += ["## Every rule", _ABOUT_RULES, *_rule_tables()]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _mermaid(diagram: str) -> str:
    return f"```mermaid\n{diagram.strip()}\n```"


_Rows = list[tuple[str, ...]]


def _table_of(columns: tuple[str, ...], rows: _Rows) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# Runs


@cache
def run_arrows() -> dict[tuple[str, str], list[str]]:
    """Every change of a run's state that the rules make, with the rule and the word, if any, that made it.

    Found by trying everything at every point of runs of every kind, on the rules themselves.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for state, request in _beginnings():
        _try_everything(state, request, found)
    ordered = {state.value: number for number, state in enumerate(RunState)} | {_START: -1}
    return {
        pair: sorted(labels, key=_by_number)
        for pair, labels in sorted(found.items(), key=lambda item: (ordered[item[0][0]], ordered[item[0][1]]))
    }


_START = "[*]"
_WORDS = tuple(action for action in RequestAction if action in LEGAL_IN)
_OUTCOMES = (StepOutcome.DONE, StepOutcome.REFUSED, StepOutcome.UNCERTAIN)
_COMMITS = (CommitPolicy.AT_ONCE, CommitPolicy.HOLD, CommitPolicy.AUTO_COMMIT, CommitPolicy.AUTO_ROLL_BACK)


def _beginnings() -> Iterator[tuple[dict[str, State], FailoverRequested]]:
    well = standing()
    lost = carry_out(well, asked(FailoverKind.UNPLANNED, run_id="before")).state
    agreed = fold(well, Policy(PolicyScope.ALL, approvals=(ApprovalRule(1),)))
    for commit in _COMMITS:
        for kind in (FailoverKind.UNPLANNED, FailoverKind.TEST):
            yield well, replace(asked(kind), commit=commit, window_ms=1_000)
    yield well, asked()
    yield lost, asked(FailoverKind.REPROTECT)
    yield agreed, asked()
    yield well, asked(FailoverKind.FAILBACK)  # at home already: refused


def _try_everything(
    state: dict[str, State], request: FailoverRequested, found: dict[tuple[str, str], set[str]]
) -> None:
    left = [_after(state, decide(state, request, moment()), _START, "", found)]
    seen = set()
    while left:
        state = left.pop()
        run = state["run/r"]
        assert isinstance(run, Run)
        steps = tuple((step.state, step.attempt > run.attempts_from) for step in run.steps)
        place = (run.state, run.position, run.parked_in, run.ends_as, run.trying_another, run.point, steps)
        if run.state.ended or place in seen:
            continue
        seen.add(place)
        for label, decision in _trials(state, run):
            left.append(_after(state, decision, run.state.value, label, found))


def _trials(state: dict[str, State], run: Run) -> Iterator[tuple[str, Decision]]:
    request = run.request
    for action in _WORDS:
        point = WantedPoint(PointChoice.APPLICATION_CONSISTENT)
        word = replace(request, action=action, actor="bob", point=point)
        yield action.value, decide(state, word, moment())
    if run.due_ms:
        yield "", tick(state, "run/r", moment(run.due_ms))
    yield "", park(state, "run/r", "a bug", moment())
    if run.state is RunState.AWAITING_APPROVAL:
        return
    step, progress = step_in_hand(run)
    vm = state["vm/vm-1"]
    epoch = vm.epoch if isinstance(vm, VmState) else 0
    undoing = RunState.UNDOING in (run.state, run.parked_in if run.state is RunState.PARKED else None)
    for outcome in _OUTCOMES:
        named = f"{step.number}-undo" if undoing else step.number
        answer = StepResult("r", named, progress.attempt, "vm-1", "dr", "d1", epoch, outcome, "so it is", NOW)
        yield "", decide(state, answer, moment())


def _after(
    state: dict[str, State],
    decision: Decision,
    before: str,
    word: str,
    found: dict[tuple[str, str], set[str]],
) -> dict[str, State]:
    """The state that a decision leads to; the change of the run's state, if it is one, is noted."""
    state = {**state, **decision.noted, **{key: value for key, value in decision.kept.items() if value is not None}}
    run = state["run/r"]
    assert isinstance(run, Run)
    told = [entry.rule for entry in decision.outputs if isinstance(entry, JournalEntry) and entry.run_id == "r"]
    if run.state.value != before and told:
        # A word is its own reason; without one, what ends a run or opens its window is said last, all else first.
        at_the_end = not word and (run.state.ended or run.state is RunState.AWAITING_COMMIT)
        rule = told[-1] if at_the_end and before != _START else told[0]
        found.setdefault((before, run.state.value), set()).add(f"{rule} {word}".strip())
    return state


def _by_number(label: str) -> tuple[str, int]:
    number = label.split(maxsplit=1)[0]
    return number[0], int(number[1:])


def _run_states() -> str:
    lines = ["stateDiagram-v2"]
    lines += [f"    {before} --> {after} : {', '.join(labels)}" for (before, after), labels in run_arrows().items()]
    return "\n".join(lines + [f"    {state} --> {_START}" for state in RunState if state.ended])


def _told() -> str:
    rows: _Rows = [
        (state.value, ", ".join(action for action, states in LEGAL_IN.items() if state in states) or "nothing")
        for state in RunState
    ]
    return _table_of(("state", "it can be told"), rows)


# Workflows


def _workflow(workflow: Workflow) -> str:
    lines = ["flowchart TD"]
    steps = workflow.steps
    gone = workflow.index(workflow.point_of_no_return)
    for index, step in enumerate(steps):
        turn = f"<br/>{step.on_failure}" if step.action is not None else ""
        mark = ":::noreturn" if index == gone else ""
        lines.append(f'    {step.number}["{step.number} {_action(step)}<br/>at the {step.side.lower()}{turn}"]{mark}')
    lines.append("    ended([ended])")
    names = [step.number for step in steps] + ["ended"]
    lines += [f"    {before} --> {after}" for before, after in pairwise(names)]
    undone = [step for step in steps[: gone + 1] if step.undo is not None]
    if any(step.on_failure is OnFailure.UNDO for step in steps):
        lines.append("    undone([undone])")
        chain = [step.number for step in reversed(undone)]
        lines += [
            f"    {step.number} -. {step.undo} .-> {following}"
            for step, following in zip(reversed(undone), [*chain[1:], "undone"], strict=True)
        ]
    lines.append("    classDef noreturn stroke-width:4px")
    return "\n".join(lines)


def _action(step: Step) -> str:
    return step.action.value if step.action is not None else "window"


def _steps(workflow: Workflow) -> str:
    rows: _Rows = []
    for step in workflow.steps:
        notes = [
            *(("point of no return",) if step.number == workflow.point_of_no_return else ()),
            *(("from the recovery point asked for",) if step.takes_point else ()),
            *(("only if nothing has failed, or a person decides",) if step.only_if_clean else ()),
            *((step.effect.lower().replace("_", " "),) if step.effect != "NONE" else ()),
        ]
        tried = (f"{step.timeout_ms / 1000:g} s", str(step.attempts)) if step.action is not None else ("", "")
        rows.append(
            (
                step.number,
                _action(step),
                step.side.lower(),
                step.purpose,
                *tried,
                step.on_failure.value if step.action is not None else "",
                step.undo.value if step.undo is not None else "",
                ", ".join(notes),
            )
        )
    return _table_of(("step", "action", "at", "purpose", "timeout", "attempts", "on failure", "undo", ""), rows)


# Replication


def _transitions() -> str:
    rows: _Rows = [
        (
            each.number,
            each.action.value,
            each.mode.value,
            ", ".join(state for state in ReplicationState if state in each.states),
            _then(each.then_mode, each.then),
            NEEDS[each.action],
        )
        for each in TRANSITIONS
    ]
    rows += [
        (
            each.number,
            "by itself",
            each.mode.value,
            ", ".join(state for state in ReplicationState if state in each.states),
            _then(each.then_mode, each.then),
            each.when,
        )
        for each in PROGRESS
    ]
    return _table_of(("rule", "action", "mode", "in", "then", "what makes it legal"), rows)


def _then(mode: object, state: object) -> str:
    return ", ".join(str(each) for each in (mode, state) if each is not None) or "as it was"


# Rules


def _rule_tables() -> Iterator[str]:
    modules: dict[str, list[Rule]] = {}
    for rule in rules():
        modules.setdefault(rule.module, []).append(rule)
    for module, stated in modules.items():
        width = max(len(rule.says) for rule in stated)
        rows = [(rule.number, *rule.says, *[""] * (width - len(rule.says))) for rule in stated]
        yield f"### `{module}`"
        yield _table_of(_columns(module, width), rows)


def _columns(module: str, width: int) -> tuple[str, ...]:
    docstring = ast.get_docstring(ast.parse((DOMAIN / f"{module}.py").read_text(encoding="utf-8"))) or ""
    for line in docstring.splitlines():
        cells = tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        if line.startswith("|") and cells[0] in ("rule", "guard") and len(cells) == width + 1:
            return cells
    return ("rule", "demands", *[""] * (width - 1))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
