"""`docs/states.md` says what the tables say, and the rules' numbers in docstrings and code are the same ones."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

from docs_states import DOMAIN, PAGE, numbers, page, rules, run_arrows
from failover_orch.domain.operators import LEGAL_IN
from failover_orch.domain.records import RunState
from failover_orch.domain.transitions import PROGRESS, TRANSITIONS
from failover_orch.domain.workflows import WORKFLOWS

STATED_ELSEWHERE = {"A18": "two VMs' addresses together, see `addresses.conflicts`"}
"""Rules that are no row of a table."""
UNSAID = {"R10": "a repeated answer is passed over in silence"}
"""Rules of which nothing is told, so that their numbers stand in the table alone."""


@pytest.fixture(scope="module")
def arrows() -> dict[tuple[str, str], list[str]]:
    return run_arrows()


def test_the_page_is_not_stale() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python tests/docs_states.py` to write it anew"


def test_every_state_of_a_run_is_reached_and_left(arrows: dict[tuple[str, str], list[str]]) -> None:
    assert {after for _, after in arrows} == {state.value for state in RunState}
    assert {before for before, _ in arrows} == {"[*]", *(state.value for state in RunState if not state.ended)}


def test_a_word_moves_a_run_only_where_the_table_allows_it(arrows: dict[tuple[str, str], list[str]]) -> None:
    moved = {(label.split()[1], before) for (before, _), labels in arrows.items() for label in labels if " " in label}
    allowed = {(action.value, state.value) for action, states in LEGAL_IN.items() for state in states}
    assert moved <= allowed
    # Said to a run that is being undone, CANCEL only turns a try of another recovery point into a cancel.
    assert {word for word, _ in moved} == {action.value for action in LEGAL_IN}
    assert allowed - moved <= {("CANCEL", "UNDOING")}


def test_every_step_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for workflow in WORKFLOWS.values():
        for step in workflow.steps:
            assert f"| {step.number} |" in text
            assert step.purpose in text


def test_no_number_means_two_rules_of_one_kind() -> None:
    """A journal entry names its rule by the number alone: the modules' tables must not share any."""
    seen: dict[str, str] = {}
    for rule in rules():
        for number in numbers(rule.number):
            at = seen.setdefault(number, rule.module)
            assert at == rule.module or (number[0] == "G" and {at, rule.module} == {"automatic", "guards"}), number


def test_every_rule_that_is_stated_is_used() -> None:
    stated = {number for rule in rules() for number in numbers(rule.number)}
    used = set().union(*map(_in_code, DOMAIN.glob("*.py")))
    assert stated - used <= set(UNSAID)


def test_every_rule_that_is_used_is_stated() -> None:
    """Numbers that stand alone in a text of the code, as a rule's do: `"R4"`, or before a colon."""
    stated = {number for rule in rules() for number in numbers(rule.number)}
    known = stated | _in_broker() | _steps_and_transitions() | set(STATED_ELSEWHERE)
    used = set().union(*map(_as_rule, DOMAIN.glob("*.py")))
    assert used - known - _placement() == set()


def _tokens(path: Path) -> list[tuple[int, str]]:
    """The comments and texts of a module, without the docstring at its head."""
    tokens = list(tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline))
    wanted = [(t.type, t.string) for t in tokens if t.type in (tokenize.STRING, tokenize.COMMENT)]
    parts = {getattr(tokenize, "FSTRING_MIDDLE", -1)}
    wanted += [(tokenize.STRING, t.string) for t in tokens if t.type in parts]
    head = next((text for kind, text in wanted if kind == tokenize.STRING and text.startswith('"""')), "")
    return [(kind, text) for kind, text in wanted if text is not head]


def _in_code(path: Path) -> set[str]:
    return set().union(*(numbers(text) for _, text in _tokens(path)), set())


def _as_rule(path: Path) -> set[str]:
    texts = [text for kind, text in _tokens(path) if kind == tokenize.STRING and not text.startswith('"""')]
    alone = (re.match(r"""[rbf]?["']?([A-Z]\d{1,2})(?:["']$|: )""", text) for text in texts)
    return {match.group(1) for match in alone if match is not None}


def _in_broker() -> set[str]:
    """The rules that the broker states beside the facts that they are about."""
    docstring = (DOMAIN / "broker.py").read_text(encoding="utf-8").split('"""')[1]
    return {number for number in numbers(docstring) if number[0] in "IT"}


def _steps_and_transitions() -> set[str]:
    steps = {step.number for workflow in WORKFLOWS.values() for step in workflow.steps}
    return steps | {each.number for each in TRANSITIONS} | {each.number for each in PROGRESS}


def _placement() -> set[str]:
    """Placement states its rules in words: `N1 to N6`."""
    return numbers((DOMAIN / "placement.py").read_text(encoding="utf-8").split('"""')[1])
