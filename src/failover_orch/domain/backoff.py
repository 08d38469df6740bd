"""How long to wait before something that failed is tried again. Pure."""

from __future__ import annotations

import zlib

__all__ = ["LONGEST_BACKOFF_MS", "backoff_ms"]

LONGEST_BACKOFF_MS = 30_000
_MOST_DOUBLED = 16


def backoff_ms(name: str, first_ms: int, tries: int) -> int:
    """The wait after so many tries: doubled with each, and up to a quarter more or less.

    So many VMs' retries do not come all at once. By `name`, which is another one for each attempt, and not by chance:
    whoever takes a run over waits as long.
    """
    wait = min(first_ms << min(tries - 1, _MOST_DOUBLED), LONGEST_BACKOFF_MS)
    spread = zlib.crc32(name.encode()) % 512
    return wait * (768 + spread) // 1024
