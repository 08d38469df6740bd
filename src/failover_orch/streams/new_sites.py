"""Looking for sites that were added since a worker was started.

A worker reads the topics that there are when it starts: were each to take up a new site's by itself, some would read it
and others not, and partitions would go back and forth between them. So it says that it is to be started again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from failover_orch import telemetry
from failover_orch.config import Settings
from failover_orch.contract import sites_among, sources_of
from failover_orch.errors import KafkaError
from failover_orch.wire import partition_counts

__all__ = ["LOOK_EVERY_S", "unread_sites", "watching"]

log = telemetry.logger(__name__)

LOOK_EVERY_S = 60.0


async def unread_sites(settings: Settings, sources: Collection[str]) -> tuple[str, ...]:
    """The sites with topics of their own that are not among these sources.

    Raises:
        KafkaUnavailable: nobody answers.

    """
    names = settings.names
    present = {
        names.plain(name) for name in await partition_counts(settings.bootstrap) if name.startswith(names.prefix)
    }
    return tuple(site for site in sites_among(present) if not set(sources_of([site])) <= set(sources))


def watching(settings: Settings, sources: Collection[str]) -> Callable[[], Awaitable[None]]:
    """A task that says, every minute for as long as it is so, which sites this worker does not read."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                unread = await unread_sites(settings, sources)
            except KafkaError:  # it is away: the next look will do
                continue
            telemetry.record_unread_sites(len(unread))
            if unread:
                log.warning("sites were added that this worker does not read: start it again", sites=unread)

    return watch
