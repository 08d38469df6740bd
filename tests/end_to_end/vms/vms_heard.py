"""What is said on the topics of health, evidence and steps, as it comes in."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.domain import DeadLetter, Evidence, HealthChange, ReplicationReport, StepResult, Verdict
from failover_orch.errors import KafkaError
from failover_orch.wire import follow

__all__ = ["Heard"]

_TOPICS = ("replication-health", "health-changes", "evidence", "step-results", "dead-letters")
_RETRY_S = 0.2


class Heard:
    """Within `async with` it follows the topics, from their beginnings."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._settings = settings
        self._codec = codec
        self._following: asyncio.Task[None] | None = None
        self._verdicts: dict[tuple[str, str], Verdict] = {}
        self.reports: list[ReplicationReport] = []
        self.changes: list[HealthChange] = []
        self.results: list[StepResult] = []
        self.letters: list[DeadLetter] = []

    async def __aenter__(self) -> Self:
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    async def _follow(self) -> None:
        while True:
            with suppress(KafkaError):  # topics are not known everywhere at once
                for heard in (self.reports, self.changes, self.results, self.letters):
                    heard.clear()
                async for records in follow(self._settings.bootstrap, _TOPICS, names=self._settings.names):
                    for record in records:
                        if record.value:
                            self._take(self._codec.decode_from(record.topic, record.value))
            await asyncio.sleep(_RETRY_S)

    def _take(self, value: object) -> None:
        match value:
            case ReplicationReport():
                self.reports.append(value)
            case HealthChange():
                self.changes.append(value)
            case StepResult():
                self.results.append(value)
            case DeadLetter():
                self.letters.append(value)
            case Evidence() if not value.node:
                self._verdicts[value.place, value.site] = value.verdict

    def report(self, site: str, *, by_ms: int | None = None) -> ReplicationReport | None:
        """The last report of one end (up to a moment)."""
        told = (each for each in reversed(self.reports) if each.site == site)
        return next((each for each in told if by_ms is None or each.reported_at_ms <= by_ms), None)

    def verdict(self, place: str, site: str) -> Verdict | None:
        """What an observer in a place last said of a site."""
        return self._verdicts.get((place, site))
