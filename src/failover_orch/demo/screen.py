"""How a demo shows itself: a line for each act with its time, and the tables at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from failover_orch.demo.expected import Expectation

__all__ = ["Screen"]

_WIDE = 160


class Screen:
    """Prints the story."""

    def __init__(self, console: Console) -> None:
        # Whoever reads this in a file wants every word.
        self._console = console if console.is_terminal else Console(width=_WIDE)
        self._began = time.monotonic()

    def say(self, text: str, style: str = "") -> None:
        """A line."""
        self._console.print(text, style=style, markup=False, highlight=False)

    def chapter(self, text: str) -> None:
        """A headline."""
        self._console.rule(text, align="left", style="bold")

    @contextmanager
    def act(self, text: str) -> Iterator[Act]:
        """Something that takes a while: shown while it goes on, and once more, with its time, when it is done."""
        began = time.monotonic()
        with self._console.status(text) as status:
            act = Act(status.update, text)
            yield act
        took = time.monotonic() - began
        total = time.monotonic() - self._began
        self.say(f"{total:6.1f} s  {text}{': ' + act.outcome if act.outcome else ''}  ({took:.1f} s)")

    def expectations(self, found: Sequence[Expectation]) -> None:
        """What a demo expects of itself."""
        rows = [
            ("[green]held[/]" if each.held else "[red]NOT HELD[/]", each.what, each.seen.replace("[", r"\["))
            for each in found
        ]
        self.table("What must be so", ("", "expectation", "seen"), rows)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table."""
        table = Table(title=title, title_justify="left", header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)


class Act:
    """Lets an act say how far it is, and what came of it."""

    def __init__(self, update: object, text: str) -> None:
        self._update = update
        self._text = text
        self.outcome = ""

    def progress(self, text: str) -> None:
        """How far it is."""
        if callable(self._update):
            self._update(f"{self._text}: {text}")
