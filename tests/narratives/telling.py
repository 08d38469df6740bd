"""Telling a story: from what is written to the log of what the broker makes of it."""

from __future__ import annotations

from narratives import FOLDER
from narratives.log import BEGINNING_MS, render
from narratives.sentences import give, happen
from narratives.story import Story
from narratives.world import StoryWorld, Way, Wishes

__all__ = ["expected", "tell", "ways", "write"]


def ways(story: Story) -> tuple[Way, ...]:
    """The ways in which the story has to give the same log."""
    if _wishes(story).takeover_matters:
        return (Way.PLAIN, Way.DOUBLED)
    return tuple(Way)


def tell(story: Story, way: Way = Way.PLAIN) -> str:
    """The story's log.

    Raises:
        StoryError: a sentence of it is not of the vocabulary.

    """
    world = StoryWorld(_wishes(story), way)
    for happening in story.happenings:
        # What is due at that very moment comes first, so that a story may say what follows from it.
        world.run(until_ms=BEGINNING_MS + happening.at_ms)
        world.happens(happening.what)
        happen(world, happening.what)
    world.run(until_ms=world.now_ms + 1)
    return render(world.lines)


def expected(story: Story) -> str:
    """The golden log; empty where there is none yet."""
    path = FOLDER / story.name / "expected.log"
    return path.read_text() if path.exists() else ""


def write(story: Story) -> bool:
    """Write the golden log anew; whether it was another one."""
    log = tell(story)
    changed = log != expected(story)
    if changed:
        (FOLDER / story.name / "expected.log").write_text(log)
    return changed


def _wishes(story: Story) -> Wishes:
    wishes = Wishes()
    for _, sentence in story.givens:
        give(wishes, sentence)
    return wishes
