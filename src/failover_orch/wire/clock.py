"""The time as records have it."""

from __future__ import annotations

import time

__all__ = ["now_ms"]


def now_ms() -> int:
    """Now, in milliseconds since the Unix epoch, UTC."""
    return time.time_ns() // 1_000_000
