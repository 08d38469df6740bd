"""A story as it is written: its title, what it is about, how things stand, and what happens when."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from narratives import FOLDER

__all__ = ["Happening", "Story", "StoryError", "clock", "load", "names", "parse"]

_AT = re.compile(r"at (?P<hours>\d{2}):(?P<minutes>\d{2}):(?P<seconds>\d{2})  ?(?P<what>\S.*)")


class StoryError(Exception):
    """A story that cannot be told as it is written."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of a story: when, in milliseconds after its beginning, and what. `line` is its number."""

    at_ms: int
    what: str
    line: int


@dataclass(frozen=True, slots=True)
class Story:
    """`givens` are what stands before the clock starts, each with its line's number."""

    name: str
    title: str
    about: str
    givens: tuple[tuple[int, str], ...]
    happenings: tuple[Happening, ...]


def names() -> list[str]:
    """Every story there is."""
    return sorted(path.parent.name for path in FOLDER.glob("*/story.txt"))


def load(name: str) -> Story:
    """The story of that name.

    Raises:
        StoryError: there is none, or a line of it is neither prose, nor `given ...`, nor `at HH:MM:SS  ...`.

    """
    path = FOLDER / name / "story.txt"
    if not path.exists():
        raise StoryError(f"there is no story {name!r}; there are {', '.join(names())}")
    return parse(name, path)


def parse(name: str, path: Path) -> Story:
    title, *lines = path.read_text().rstrip("\n").split("\n")
    prose: list[str] = []
    givens: list[tuple[int, str]] = []
    happenings: list[Happening] = []
    for number, line in enumerate(lines, 2):
        if line.startswith("given "):
            givens.append((number, line.removeprefix("given ").strip()))
        elif match := _AT.fullmatch(line):
            happening = Happening(_ms(match), match["what"].strip(), number)
            if happenings and happening.at_ms < happenings[-1].at_ms:
                raise StoryError(f"{path}, line {number}: happens before the line above it")
            happenings.append(happening)
        elif line and (givens or happenings):
            raise StoryError(f"{path}, line {number}: expected `given ...` or `at HH:MM:SS  ...`, found {line!r}")
        elif not givens:
            prose.append(line)
    if not happenings:
        raise StoryError(f"{path}: nothing happens; add a line `at HH:MM:SS  ...`")
    return Story(name, title, "\n".join(_paragraphs(prose)), tuple(givens), tuple(happenings))


def clock(ms: int) -> str:
    """A time of the story, as `HH:MM:SS`; before its beginning with a minus sign."""
    if ms < 0:
        return f"-{clock(-ms)}"
    seconds = ms // 1000
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _ms(match: re.Match[str]) -> int:
    return 1000 * (3600 * int(match["hours"]) + 60 * int(match["minutes"]) + int(match["seconds"]))


def _paragraphs(lines: list[str]) -> Iterator[str]:
    yield from "\n".join(lines).strip("\n").split("\n")
