"""Telling the audit trail of refused calls, without ever letting a call wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from failover_orch import telemetry
from failover_orch.domain import AccessRefused
from failover_orch.errors import FailoverOrchError
from failover_orch.wire import now_ms

__all__ = ["Refusals"]

log = telemetry.logger(__name__)

_TELL_EVERY_S = 0.5
_AS_ONE_S = 60.0
_KINDS_AT_MOST = 2_000
_LONGEST_TEXT = 300
_CLOSING_S = 5.0
_MANY = "(many)"

_Kind = tuple[str, str, str, str]


@dataclass(slots=True)
class _Count:
    """Refusals of one kind that are not told yet."""

    times: int
    since_ms: int
    at_ms: int
    told_at: float | None = None


class Refusals:
    """Counts refused calls by who, where from, what and why, and tells of each kind at once, then once a minute.

    The first of a kind is told within a second, so that a process that dies takes little with it; those that follow
    within a minute are told as one. Memory is bounded: where too many kinds come at a time, the further ones are
    counted together. What Kafka does not take is kept and told later.
    """

    def __init__(self, publish: Callable[..., Awaitable[None]], *, as_one_s: float = _AS_ONE_S) -> None:
        """`publish` takes values of the contract, and returns once Kafka has them."""
        self._publish = publish
        self._as_one_s = as_one_s
        self._counts: dict[_Kind, _Count] = {}

    def add(self, who: str, address: str, what: str, why: str) -> None:
        """Count a refused call. Returns at once."""
        kind = (_bounded(who), _bounded(address), _bounded(what), _bounded(why))
        if kind not in self._counts and len(self._counts) >= _KINDS_AT_MOST:
            kind = ("", _MANY, _MANY, f"more than {_KINDS_AT_MOST} kinds of refused calls within a minute")
        now = now_ms()
        count = self._counts.setdefault(kind, _Count(0, now, now))
        if not count.times:
            count.since_ms = now
        count.times += 1
        count.at_ms = now

    async def run(self) -> None:
        """Tell until cancelled; what is left then is told before this ends, within a few seconds."""
        try:
            while True:
                await asyncio.sleep(_TELL_EVERY_S)
                await self._tell(everything=False)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSING_S):
                    await self._tell(everything=True)

    async def _tell(self, *, everything: bool) -> None:
        now = time.monotonic()
        due: list[tuple[_Kind, int, AccessRefused]] = []
        for kind, count in list(self._counts.items()):
            waiting = count.told_at is not None and now - count.told_at < self._as_one_s
            if count.times and (everything or not waiting):
                due.append((kind, count.times, AccessRefused(*kind, count.since_ms, count.at_ms, count.times)))
            elif not count.times and not waiting:
                del self._counts[kind]
        if not due:
            return
        try:
            await self._publish(*(told for _, _, told in due))
        except FailoverOrchError as error:
            log.warning("refused calls could not be told, and are kept", kinds=len(due), error=error)
            return
        for kind, times, _ in due:
            # Others may have come while Kafka was acknowledging these.
            count = self._counts[kind]
            count.times -= times
            count.since_ms = count.at_ms
            count.told_at = now


def _bounded(text: str) -> str:
    """Text that a caller made, fit to be written down: no control characters, and not without end."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:_LONGEST_TEXT])
    return shown if len(text) <= _LONGEST_TEXT else f"{shown}..."
