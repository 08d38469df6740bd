"""What a demo expects of itself."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Expectation"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """Something that must be so, and how it is."""

    what: str
    held: bool
    seen: str
