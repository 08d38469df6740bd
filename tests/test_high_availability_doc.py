"""The failure matrix of `docs/high-availability.md` names tests and stories that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "high-availability.md").read_text()
ROWS = [line for line in GUIDE.split("## Failure matrix", 1)[1].splitlines() if line.startswith("| ")]
FAILURES = [row for row in ROWS if not row.startswith(("| what |", "| --- |"))]


def test_the_matrix_is_there() -> None:
    assert len(FAILURES) > 30


@pytest.mark.parametrize("row", FAILURES, ids=lambda row: row.split("|")[1].strip()[:40])
def test_every_failure_says_what_shows_it(row: str) -> None:
    cells = row.strip("|").split("|")
    assert len(cells) == 6, row
    shown = cells[-1]
    assert "`tests/" in shown or "`make " in shown or "**not tried**" in shown or "by hand" in shown, shown
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", shown):
        assert (f"def {name}(" if name else "") in (ROOT / path).read_text(), f"{path}::{name}"


@pytest.mark.parametrize("row", FAILURES, ids=lambda row: row.split("|")[1].strip()[:40])
def test_every_story_that_is_named_is_told(row: str) -> None:
    for stories in re.findall(r"test_narratives\.py` \(([^)]+)\)", row):
        for story in stories.split(", "):
            assert (ROOT / "tests" / "narratives" / story).is_dir(), story
