"""Output that only says something: what stands in events cannot steer the terminal of whoever reads it.

Names, reasons and what scripts and guests say come from all over, and a terminal obeys an escape sequence wherever it
comes from: it sets titles and clipboards, and overwrites what was said before. JSON, and logs that go elsewhere, have
control characters escaped anyway.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["HarmlessConsole", "guard_output", "harmless"]

_SHOWN = "\N{REPLACEMENT CHARACTER}"
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_REORDERING = (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Marks by which a text is shown in another order than it is read in."""
_TABLE = {code: _SHOWN for code in (*_CONTROLS, *_REORDERING) if chr(code) not in "\n\t"}


def harmless(text: str) -> str:
    """A text with a mark in place of every control character but line ends and tabs."""
    return text.translate(_TABLE)


class HarmlessConsole(Console):
    """A console that shows control characters of what it is given, and obeys only its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console.render`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text))


class _Guarded(io.TextIOWrapper):
    """A standard stream for all that is written without a console; `rich_proxied_file` is what consoles write to."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(stream.buffer, encoding=stream.encoding, errors=stream.errors, write_through=True)
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        self.rich_proxied_file.flush()
        super().write(harmless(text))
        return len(text)


def guard_output() -> None:
    """Have the process's standard output and standard error harmless from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, _Guarded):
            setattr(sys, name, _Guarded(stream))
