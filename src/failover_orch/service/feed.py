"""Keeping a read model up to date from Kafka, and reading one once."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

from failover_orch import telemetry
from failover_orch.contract import Codec, Names
from failover_orch.errors import KafkaError
from failover_orch.service.applied import AppliedWatch
from failover_orch.service.changes import Changes
from failover_orch.service.knowledge import CONFIRMED_WITHIN_MS, Knowledge
from failover_orch.service.read_model import READ_TOPICS, ReadModel
from failover_orch.wire import follow, partition_counts, read_to_end

__all__ = ["Feed", "read_now"]

log = telemetry.logger(__name__)

_RETRY_S = 1.0
_ASK_EVERY_S = 5.0
_ANSWER_WITHIN_S = 3.0


async def read_now(bootstrap: str, *, names: Names, codec: Codec) -> ReadModel:
    """The read model as of this moment.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`.
        TopicMismatch: a topic is missing.

    """
    model = ReadModel()
    async for records in read_to_end(bootstrap, READ_TOPICS, names=names):
        model.take(records, codec)
    model.changed_routes()
    model.caught_up = True
    return model


class Feed:
    """A read model that follows its topics for as long as `run` does; a `Source` of the service's answers."""

    def __init__(
        self,
        bootstrap: str,
        *,
        names: Names,
        codec: Codec,
        app_id: str,
        confirmed_within_ms: int = CONFIRMED_WITHIN_MS,
    ) -> None:
        """`app_id` names the workers' changelog; `confirmed_within_ms` is how old knowledge may be to answer from."""
        self.model = ReadModel()
        """The latest one. Another takes its place where the reading has to begin anew, so do not keep it."""
        self.knowledge = Knowledge(confirmed_within_ms=confirmed_within_ms)
        self.changes = Changes()
        self._bootstrap = bootstrap
        self._names = names
        self._codec = codec
        self._applied = AppliedWatch(bootstrap, app_id, names=names, knowledge=self.knowledge)
        self._asked_at = -_ASK_EVERY_S
        self._reachable = False

    async def run(self) -> None:
        """Follow until cancelled. A Kafka or a topic that is not there is waited for."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._applied.run())
            tasks.create_task(self._keep_following())

    async def _keep_following(self) -> None:
        while True:
            try:
                await self._follow()
            except KafkaError as error:
                log.warning("not following, will try again", error=error, seconds=_RETRY_S)
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        # Anew and not on top of the old one: records read again would take it through the past once more.
        self.knowledge.forget()
        model = self.model = ReadModel()

        def caught_up() -> None:
            model.caught_up = True
            log.info("caught up", skipped=model.skipped, as_of_ms=model.as_of_ms)

        following = follow(
            self._bootstrap,
            READ_TOPICS,
            names=self._names,
            on_caught_up=caught_up,
            on_progress=self.knowledge.progress,
        )
        async with aclosing(following) as reading:
            async for records in reading:
                model.take(records, self._codec)
                self.changes.tell(model.changed_routes())

    async def reachable(self) -> bool:
        """Whether Kafka answered, when it was last asked no more than a few seconds ago.

        Following alone cannot tell: a topic that nothing is written to looks the same as a Kafka that went away.
        """
        if time.monotonic() - self._asked_at >= _ASK_EVERY_S:
            self._asked_at = time.monotonic()
            try:
                async with asyncio.timeout(_ANSWER_WITHIN_S):
                    await partition_counts(self._bootstrap)
                self._reachable = True
            except (KafkaError, TimeoutError):
                self._reachable = False
        return self._reachable
