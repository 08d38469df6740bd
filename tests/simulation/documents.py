"""The parts of `docs/simulation.md` that are made, not written: each stands between two markers."""

from __future__ import annotations

from pathlib import Path

from simulation.invariants import INVARIANTS

__all__ = ["PAGE", "invariants_table", "part", "put"]

PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"


def invariants_table() -> str:
    """Every invariant with its number."""
    return "\n".join(
        ["| | invariant |", "| --- | --- |", *(f"| {number} | {what} |" for number, what in INVARIANTS.items())]
    )


def part(name: str) -> str:
    """What stands between the markers of this name."""
    _, inside, _ = _around(name)
    return inside.strip()


def put(name: str, text: str) -> None:
    """Put a text between the markers of this name."""
    before, _, after = _around(name)
    PAGE.write_text(f"{before}\n\n{text}\n\n{after}")


def _around(name: str) -> tuple[str, str, str]:
    text = PAGE.read_text()
    end_marker = f"<!-- end of {name} -->"
    opening, _, rest = text.partition(f"<!-- {name}")
    note, _, rest = rest.partition("-->")
    inside, _, after = rest.partition(end_marker)
    return f"{opening}<!-- {name}{note}-->", inside, end_marker + after
