"""Starting and stopping aiokafka's clients: left alone they wait for one that is away, or leave connections open."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.errors import KafkaTimeoutError

__all__ = ["start_client", "stop_consumer", "stop_producer"]


async def start_client(client: Any) -> None:
    """Start an aiokafka consumer or producer; to the end, though the caller be cancelled.

    Cancelled while it connects, aiokafka leaves that connection open, where no later `stop()` finds it.
    """
    starting = asyncio.ensure_future(client.start())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        if not starting.cancelled():
            starting.exception()
        raise


async def stop_consumer(consumer: Any) -> None:
    """Stop an aiokafka consumer, also while its broker is away.

    aiokafka cancels the fetch that waits for that broker, and then lets the fetch's CancelledError out of `stop()`, as
    if the caller were cancelled, before it has closed its connections.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([stopping])
    if stopping.cancelled():
        await consumer._client.close()  # noqa: SLF001 (what `stop()` did not get to)
    else:
        stopping.result()


async def stop_producer(producer: Any, patience_s: float) -> None:
    """Stop an aiokafka producer; what it could not deliver within `patience_s` seconds is given up.

    An idempotent or transactional producer never gives a record up by itself, so its `stop()` would wait for as long as
    Kafka is away.
    """
    stopping = asyncio.ensure_future(producer.stop())
    await asyncio.wait([stopping], timeout=patience_s)
    if not stopping.done():
        # `stop()` waits for its sender to deliver, or to end; ended it is, by its own way out.
        producer._sender.sender_task.cancel()  # noqa: SLF001 (aiokafka offers no other)
        await asyncio.wait([stopping])
        _give_up(producer._message_accumulator)  # noqa: SLF001 (as above)
    stopping.result()


def _give_up(accumulator: Any) -> None:
    """Fail what a producer has not delivered, and look at every failure: asyncio logs those that nobody looks at."""
    batches = [batch for queue in accumulator._batches.values() for batch in queue]  # noqa: SLF001 (as in stop_producer)
    batches += accumulator._pending_batches  # noqa: SLF001 (as in stop_producer)
    accumulator.fail_all(KafkaTimeoutError())
    for batch in batches:
        if batch._drain_waiter.done() and not batch._drain_waiter.cancelled():  # noqa: SLF001 (as in stop_producer)
            batch._drain_waiter.exception()  # noqa: SLF001 (as in stop_producer)
