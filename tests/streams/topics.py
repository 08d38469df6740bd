"""Reading an installation's topics in tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.wire import Publisher, read_to_end

__all__ = ["CODEC", "publisher", "values", "values_once"]

CODEC = Codec()


def publisher(settings: Settings) -> Publisher:
    """A publisher of tests."""
    return Publisher(settings.bootstrap, CODEC, names=settings.names, partitions=settings.partitions, source="test")


async def values(settings: Settings, topic: str) -> list[Any]:
    """Every committed record of a topic, decoded."""
    return [
        CODEC.decode_from(topic, record.value)
        async for records in read_to_end(settings.bootstrap, [topic], names=settings.names)
        for record in records
    ]


async def values_once(
    settings: Settings, topic: str, condition: Callable[[list[Any]], object], *, timeout_s: float = 60.0
) -> list[Any]:
    """The records of a topic once they fulfil a condition.

    Raises:
        AssertionError: they do not within the time.

    """
    deadline = time.monotonic() + timeout_s
    while not condition(found := await values(settings, topic)):
        assert time.monotonic() < deadline, f"{topic}: not within {timeout_s:g} s; {len(found)} records: {found[-20:]}"
        await asyncio.sleep(0.1)
    return found
