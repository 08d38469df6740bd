"""Every story, told in every way that must not change it, against its golden log."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from narratives.index import INDEX, index
from narratives.sentences import happen
from narratives.story import StoryError, load, names, parse
from narratives.telling import expected, tell, ways
from narratives.world import StoryWorld, Way, Wishes

STORIES = names()
TOLD = [(name, way) for name in STORIES for way in ways(load(name))]


@pytest.mark.parametrize(("name", "way"), TOLD, ids=[f"{name}-{way}" for name, way in TOLD])
def test_a_story_is_told_as_expected(name: str, way: Way) -> None:
    story = load(name)
    log, golden = tell(story, way), expected(story)
    diff = difflib.unified_diff(golden.splitlines(), log.splitlines(), "expected.log", f"told {way}", lineterm="", n=2)
    assert log == golden, "\n".join(["`python -m narratives --write NAME` takes it as it is", *diff])


def test_there_are_enough_of_them() -> None:
    assert len(STORIES) >= 44


def test_the_index_is_as_the_stories_are() -> None:
    assert INDEX.read_text() == index(), "`python -m narratives --write` writes it"


def test_each_golden_log_is_told_to_its_end() -> None:
    """A log is read by people: none ends in the middle of a run that says nothing of what it waits for."""
    for name in STORIES:
        log = expected(load(name))
        begun, ended = log.count("  (R1)\n"), log.count("  (R9)\n")
        assert begun == ended or "; parked: " in log, name


def test_a_sentence_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(StoryError, match="nobody knows what this means: pigs fly"):
        happen(StoryWorld(Wishes(), Way.PLAIN), "pigs fly")


def test_a_story_that_is_none_is_an_error() -> None:
    with pytest.raises(StoryError, match="there is no story 'no-such-story'"):
        load("no-such-story")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Title\n\nProse.\n", "nothing happens"),
        ("Title\n\ngiven x\nsome prose\nat 00:00:01  y\n", "line 4: expected `given"),
        ("Title\n\nat 00:00:02  x\nat 00:00:01  y\n", "line 4: happens before the line above it"),
    ],
)
def test_a_story_is_read_strictly(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text(text)
    with pytest.raises(StoryError, match=message):
        parse("told-wrongly", path)
