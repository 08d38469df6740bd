"""A document of headings, facts and tables, written out as Markdown or as one HTML page that stands by itself."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

__all__ = [
    "DASH",
    "Block",
    "Facts",
    "Heading",
    "Mark",
    "Paragraph",
    "Table",
    "Tone",
    "as_html",
    "as_markdown",
    "duration",
    "moment",
]

DASH = "\N{EN DASH}"
"""Where there is nothing to say."""


class Tone(StrEnum):
    """How a mark is meant to be taken."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Mark:
    """A word that is to be seen at once."""

    text: str
    tone: Tone

    def __str__(self) -> str:
        return self.text


Cell = str | Mark


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: Cell


@dataclass(frozen=True, slots=True)
class Facts:
    """Names with what is so, one a line."""

    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns. The columns of `numbers` hold quantities; the others text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[str] = frozenset()


Block = Heading | Paragraph | Facts | Table


def as_markdown(blocks: Iterable[Block]) -> str:
    """The document as GitHub's Markdown. Nothing in a text is taken for markup."""
    return "\n\n".join("\n".join(_markdown(block)) for block in blocks) + "\n"


def _markdown(block: Block) -> Iterator[str]:
    match block:
        case Heading():
            yield f"{'#' * block.level} {_plain(block.text)}"
        case Paragraph():
            yield _plain(block.text)
        case Facts():
            yield from (f"- **{_plain(name)}:** {_plain(value)}" for name, value in block.rows)
        case Table():
            yield _row(map(_plain, block.columns))
            yield _row("---:" if column in block.numbers else "---" for column in block.columns)
            yield from (_row(map(_plain, row)) for row in block.rows)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


_MARKUP = {ord(sign): f"\\{sign}" for sign in "\\`*_[]<>|#~"} | {ord("\n"): " ", ord("\r"): " "}


def _plain(cell: Cell) -> str:
    text = str(cell).translate(_MARKUP)
    return f"**{text}**" if isinstance(cell, Mark) else text


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #1c2430; background: #f4f5f7;
  margin: 0; }
main { max-width: 62rem; margin: 2rem auto; padding: 2.5rem 3rem; background: #fff; border: 1px solid #dde1e7; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 2px solid #1c2430; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0 .8rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; margin: 0; }
dt { color: #5a6675; }
dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th { text-align: left; font-weight: 600; border-bottom: 1px solid #8b95a3; padding: .35rem .7rem .35rem 0; }
td { border-bottom: 1px solid #e6e9ee; padding: .35rem .7rem .35rem 0; vertical-align: top; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.mark { font-weight: 600; padding: 0 .4rem; border-radius: .2rem; border: 1px solid; white-space: nowrap; }
.good { color: #14633a; border-color: #14633a; }
.bad { color: #9b1c1c; border-color: #9b1c1c; }
.open { color: #7a5200; border-color: #7a5200; }
@media print {
  body { background: #fff; font-size: 10.5pt; }
  main { margin: 0; padding: 0; border: 0; max-width: none; }
  thead { display: table-header-group; }
  tr, dl { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
@page { margin: 18mm 15mm; }
""".strip()


def as_html(title: str, blocks: Iterable[Block]) -> str:
    """The document as one page: nothing is loaded from anywhere, and every text is escaped."""
    body = "\n".join(_element(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _element(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
        case Paragraph():
            return f"<p>{_inline(block.text)}</p>"
        case Facts():
            rows = "\n".join(f"<dt>{html.escape(name)}</dt><dd>{_inline(value)}</dd>" for name, value in block.rows)
            return f"<dl>\n{rows}\n</dl>"
        case Table():
            head = "".join(f"<th{_class(block, column)}>{html.escape(column)}</th>" for column in block.columns)
            lines = "\n".join(
                "<tr>"
                + "".join(
                    f"<td{_class(block, column)}>{_inline(cell)}</td>"
                    for column, cell in zip(block.columns, row, strict=True)
                )
                + "</tr>"
                for row in block.rows
            )
            return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"


def _class(table: Table, column: str) -> str:
    return ' class="number"' if column in table.numbers else ""


def _inline(cell: Cell) -> str:
    text = html.escape(str(cell))
    return f'<span class="mark {cell.tone}">{text}</span>' if isinstance(cell, Mark) else text


def moment(at_ms: int) -> str:
    """A time as a report says it: UTC, to the millisecond; a dash for none."""
    if not at_ms:
        return DASH
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def duration(ms: int) -> str:
    """A length of time in words: `1 h 02 min`, `3 min 05 s`, `4.2 s`; `not known` for less than none."""
    if ms < 0:
        return "not known"
    seconds, minutes = ms / 1_000, ms // 60_000
    if minutes >= 60:  # noqa: PLR2004 (minutes of an hour)
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {ms // 1_000 % 60:02} s" if minutes else f"{seconds:g} s"
