"""Each threat in `docs/security.md` names the test that shows what is said of it, and that test is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOC = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (Th\d+) \|(.*)\|$", DOC, re.MULTILINE)
THREATS = {number: [cell.strip() for cell in cells.split(" | ")] for number, cells in ROWS}
_TEST = re.compile(r"`(tests/[a-z_/]+\.py)::(\w+)`")
_WITHOUT = "not shown: "


@cache
def functions_in(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_threat_has_a_number_of_its_own() -> None:
    numbers = [int(number.removeprefix("Th")) for number, _ in ROWS]
    assert len(numbers) > 30
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("number", THREATS)
def test_a_threat_says_what_stops_it_what_is_left_and_what_shows_it(number: str) -> None:
    assert len(THREATS[number]) == 4, "threat, what stops it, what is left, shown by"
    assert all(THREATS[number])


@pytest.mark.parametrize("number", THREATS)
def test_the_tests_that_show_it_are_there(number: str) -> None:
    shown_by = THREATS[number][-1]
    named = _TEST.findall(shown_by)
    assert named or shown_by.startswith(_WITHOUT), f"{number} names no test, and does not say why"
    for path, name in named:
        assert (ROOT / path).is_file(), f"{number}: there is no {path}"
        assert name in functions_in(ROOT / path), f"{number}: {path} has no {name}"
    rest = _TEST.sub("", shown_by).strip(" ,")
    assert not rest or rest.startswith(_WITHOUT), f"{number}: {rest!r} is no test"
