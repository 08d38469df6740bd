"""What site agents and the witness tell, as it comes in: replication reports and evidence."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.domain import Evidence, ReplicationReport, Verdict
from failover_orch.errors import KafkaError
from failover_orch.wire import follow

__all__ = ["Told"]

_TOPICS = ("replication-health", "evidence")
_RETRY_S = 0.5


class Told:
    """Within `async with` it follows the two topics."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._settings = settings
        self._codec = codec
        self._reports: list[ReplicationReport] = []
        self._evidence: dict[tuple[str, str], Evidence] = {}
        self._following: asyncio.Task[None] | None = None

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
            with suppress(KafkaError):  # it may be busy, and new topics are not known everywhere at once
                async for records in follow(self._settings.bootstrap, _TOPICS, names=self._settings.names):
                    for record in records:
                        self._take(self._codec.decode_from(record.topic, record.value) if record.value else None)
            await asyncio.sleep(_RETRY_S)

    def _take(self, value: object) -> None:
        if isinstance(value, ReplicationReport):
            self._reports.append(value)
        elif isinstance(value, Evidence) and not value.node:
            self._evidence[value.place, value.site] = value

    def report(self, vm_id: str, site: str, *, by_ms: int | None = None) -> ReplicationReport | None:
        """The last report of one end (up to a moment)."""
        for report in reversed(self._reports):
            if (report.vm_id, report.site) == (vm_id, site) and (by_ms is None or report.reported_at_ms <= by_ms):
                return report
        return None

    def verdict(self, place: str, site: str) -> Verdict | None:
        """What an observer in a place last said of a site."""
        said = self._evidence.get((place, site))
        return said.verdict if said is not None else None
