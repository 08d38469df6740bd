"""Watching whether the workers have applied what nodes reported: where nobody does, a route may be an old one.

What a partition's owner has applied stands in its changelog, written in the transaction that applied it. The group's
committed offsets would not do: they lag behind a worker that was killed, and can run ahead of one that is taking over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import aclosing

import orjson

from failover_orch import telemetry
from failover_orch.contract import Names, state_topic
from failover_orch.errors import KafkaError
from failover_orch.service.knowledge import Knowledge
from failover_orch.wire import Ends, follow, now_ms, watching_ends

__all__ = ["AppliedWatch"]

log = telemetry.logger(__name__)

_APPLIED = b"applied"
"""Key of the offsets in the changelog: `streams.store` writes it."""
_REPORTS = "vm-moved"
_RETRY_S = 1.0
_ASK_EVERY_S = 1.0
_LIST_EVERY = 30
"""Topics of sites that have been added since are looked for every so many times."""
_REMEMBERED = 60
_DOUBTED_AFTER = 3
"""So many times in a row something was left to apply before it is looked at whether that is any record at all."""


class AppliedWatch:
    """Tells a `Knowledge` up to when each partition's reports have been applied, for as long as `run` does."""

    def __init__(self, bootstrap: str, app_id: str, *, names: Names, knowledge: Knowledge) -> None:
        self._bootstrap = bootstrap
        self._changelog = state_topic(app_id)
        self._names = names
        self._knowledge = knowledge
        self._applied: dict[int, Mapping[str, int]] = {}
        """By partition the last applied offset of each topic."""
        self._asked: dict[int, deque[tuple[int, Mapping[str, int]]]] = {}
        """By partition the ends that have not been applied yet, with the times when they were asked for."""
        self._looked_at: dict[int, int] = {}

    async def run(self) -> None:
        """Watch until cancelled. A Kafka or a topic that is not there is waited for."""
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow())
                    tasks.create_task(self._ask())
            except* KafkaError as errors:
                log.warning("not watching the workers, will try again", error=errors.exceptions[0], seconds=_RETRY_S)
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        async with aclosing(follow(self._bootstrap, [self._changelog], names=self._names)) as reading:
            async for records in reading:
                for record in records:
                    if record.key == _APPLIED and record.value is not None:
                        self._applied[record.partition] = orjson.loads(record.value)

    async def _ask(self) -> None:
        async with watching_ends(self._bootstrap, names=self._names, wanted=_reports) as ends:
            asked = 0
            while True:
                if asked % _LIST_EVERY == 0:
                    await ends.look_for_topics()
                asked += 1
                at_ms, by_partition = now_ms(), _by_partition(await ends.now())
                for partition, found in by_partition.items():
                    self._compare(partition, at_ms, found)
                await self._look_closer(ends)
                await asyncio.sleep(_ASK_EVERY_S)

    def _compare(self, partition: int, at_ms: int, found: Mapping[str, int]) -> None:
        """Find the newest time whose ends have all been applied."""
        asked = self._asked.setdefault(partition, deque())
        if len(asked) < _REMEMBERED:
            asked.append((at_ms, found))
        applied = self._applied.get(partition, {})
        reached = 0
        while asked and not _left(asked[0][1], applied):
            reached, _ = asked.popleft()
        if reached:
            self._knowledge.applied(partition, reached)

    async def _look_closer(self, ends: Ends) -> None:
        """Look at what is left of the partition that has been behind for longest.

        A producer that writes in transactions leaves marks behind its records, which nobody ever applies.
        """
        behind = {partition: asked[0] for partition, asked in self._asked.items() if len(asked) >= _DOUBTED_AFTER}
        if not behind:
            return
        partition = min(behind, key=lambda each: (self._looked_at.get(each, 0), behind[each][0]))
        self._looked_at[partition] = now_ms()
        _, wanted = behind[partition]
        applied = self._applied.get(partition, {})
        for topic, offset in _left(wanted, applied).items():
            if await ends.empty_from(topic, partition, offset):
                self._applied[partition] = {**applied, topic: wanted[topic] - 1}


def _reports(topic: str) -> bool:
    """Whether nodes report where VMs are on a topic: the common one, and that of each site."""
    return topic == _REPORTS or topic.startswith(f"{_REPORTS}.")


def _by_partition(ends: Mapping[tuple[str, int], int]) -> dict[int, dict[str, int]]:
    found: dict[int, dict[str, int]] = {}
    for (topic, partition), end in ends.items():
        found.setdefault(partition, {})[topic] = end
    return found


def _left(ends: Mapping[str, int], applied: Mapping[str, int]) -> dict[str, int]:
    """By topic the first offset that has not been applied, where there is any before the end."""
    return {topic: first for topic, end in ends.items() if (first := applied.get(topic, -1) + 1) < end}
