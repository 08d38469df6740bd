"""`docs/narratives.md`: every story with its title and what it is about."""

from __future__ import annotations

from narratives import FOLDER
from narratives.story import load, names

__all__ = ["INDEX", "index"]

INDEX = FOLDER.parents[1] / "docs" / "narratives.md"
_HEAD = """\
# Narratives

What the broker does, told as stories. Each folder under `tests/narratives/` holds a story in a small fixed vocabulary
and its golden log: the lines with a `>` happen, the others are what the broker says, with the number of the rule that
decided. The real rules run. How to read and write them: `tests/narratives/README.md`.

This page is generated: `python -m narratives --write`, with `tests/` as the working directory.
"""


def index() -> str:
    """The page as it has to be."""
    parts = [_HEAD]
    for name in names():
        story = load(name)
        parts.append(f"## [{story.title}](../tests/narratives/{name}/expected.log)\n\n{story.about}\n")
    return "\n".join(parts)
