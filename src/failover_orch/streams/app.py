"""The Faust app: topics, one agent a source topic, and the partition tasks that do the work.

Faust gives group membership, assignment, agents and flow control. What it must not decide is left to the tasks: where
to read from, what is applied, and when an event is done. Its traps, and how they are kept out, stand in `transport`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections import defaultdict
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import faust
from faust import streams as faust_streams

from failover_orch import telemetry
from failover_orch.config import Settings
from failover_orch.contract import SOURCES, Codec, sources_of
from failover_orch.errors import ConfigError, FailoverOrchError, PartitionFault
from failover_orch.kafka_address import security_of
from failover_orch.streams.new_sites import watching
from failover_orch.streams.partition import PartitionTask
from failover_orch.streams.transport import Chunk, ChunkTransport, CoPartitionedAssignor
from failover_orch.wire import now_ms

__all__ = ["EXIT_FAULT", "create_app", "end_process"]

log = telemetry.logger(__name__)

EXIT_FAULT = 70
"""Exit status of a worker that ended itself: its supervisor is to start it again."""
REQUEST_TIMEOUT_S = 30.0
FINISHING_S = 2.0
"""How long a rebalance may wait for the batches in hand. One that takes longer is left to be fenced."""


class _App(faust.App):
    """A Faust app that knows who says where reading begins."""

    positions: PartitionTasks


class PartitionTasks:
    """The partition tasks of one worker, kept in step with what Faust assigns to it."""

    def __init__(
        self,
        settings: Settings,
        codec: Codec,
        *,
        now_ms: Callable[[], int],
        fail: Callable[[BaseException], None],
        sources: Sequence[str] = SOURCES,
    ) -> None:
        """`sources` are the topics that this worker reads."""
        self._sources = frozenset(sources)
        self._settings = settings
        self._codec = codec
        self._now_ms = now_ms
        self.fail = fail
        self._tasks: dict[int, PartitionTask] = {}
        self._reading = 0
        self._opening = asyncio.Lock()

    async def stop_reading(self, reading: int) -> None:
        """A rebalance begins: let every task finish the batch in hand, and start no other.

        A partition that goes to another worker is then at rest when that one opens it. Were its task still writing, it
        would be fenced in the middle, and this process would end for no fault of its own.
        """
        self._reading = reading
        await asyncio.gather(*(task.hold(reading, FINISHING_S) for task in self._tasks.values()))

    async def begin_reading(
        self, partitions: frozenset[tuple[str, int]], reading: int
    ) -> Mapping[tuple[str, int], int]:
        """Close the tasks of partitions that are gone, open those that are new, and say where to read from.

        A task whose partition stays is kept as it is. Had another worker owned the partition in between, the task's
        next transaction would be refused, and the process end. Nothing begins where another rebalance has begun
        meanwhile: its own call follows.
        """
        self._reading = reading
        names = self._settings.names
        topics: defaultdict[int, list[str]] = defaultdict(list)
        for name, partition in partitions:
            if names.plain(name) in self._sources:
                topics[partition].append(names.plain(name))
        for partition, found in topics.items():
            if set(found) != self._sources:
                missing = ", ".join(sorted(self._sources - set(found)))
                raise PartitionFault(
                    f"partition {partition} was assigned without {missing}: every source topic needs as many "
                    "partitions as the others; see `failover-orch topics check`"
                )
        positions: dict[tuple[str, int], int] = {}
        async with self._opening:
            await self.close(self._tasks.keys() - topics.keys())
            await self._open(topics.keys() - self._tasks.keys())
            for partition, found in topics.items():
                if reading != self._reading:
                    return {}
                stands = await self._tasks[partition].begin_reading(found, reading)
                positions |= {(names.of(topic), partition): offset for topic, offset in stands.items()}
        log.info("reading", partitions=sorted(topics), reading=reading)
        return positions

    async def take(self, chunk: Chunk, acknowledge: Callable[[], object]) -> None:
        """Hand a chunk to its partition's task; one of a partition that is gone is void."""
        task = self._tasks.get(chunk.partition)
        if task is not None:
            await task.submit(chunk, acknowledge)

    async def close(self, partitions: Iterable[int] | None = None) -> None:
        """Close tasks; all of them by default. To the end, though the caller be cancelled: none is left to itself."""
        gone = [self._tasks.pop(partition) for partition in list(self._tasks if partitions is None else partitions)]
        if gone:
            await asyncio.shield(asyncio.gather(*(task.close(FINISHING_S) for task in gone)))

    async def _open(self, partitions: Iterable[int]) -> None:
        """Open tasks side by side. All of them have ended, one way or the other, when this returns."""

        async def open_one(partition: int) -> None:
            task = PartitionTask(
                partition,
                self._settings,
                self._codec,
                now_ms=self._now_ms,
                fail=self.fail,
                agents=len(self._sources),
            )
            try:
                await task.open()
            except BaseException:
                await task.close(0)
                raise
            self._tasks[partition] = task

        outcomes = await asyncio.gather(*map(open_one, partitions), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome


def end_process(error: BaseException) -> None:
    """End the process at once, saying why. What was not committed is void, and the partitions' next owners resume."""
    expected = isinstance(error, FailoverOrchError)
    log.error(
        "worker ends itself; its partitions' next owners resume",
        why=str(error) or type(error).__name__,
        **({} if expected else {"error": error}),
    )
    os._exit(EXIT_FAULT)


def create_app(
    settings: Settings,
    codec: Codec,
    *,
    fail: Callable[[BaseException], None] = end_process,
    now_ms: Callable[[], int] = now_ms,
    sites: Iterable[str] = (),
) -> faust.App:
    """Make the Faust app of a worker. Topics must exist when it starts, those of `sites` among them.

    Raises:
        ConfigError: no bootstrap address, or a Faust without its compiled streams.

    """
    if not settings.bootstrap:
        raise ConfigError("no Kafka is named: set FAILOVER_ORCH_BOOTSTRAP or start `failover-orch kafka start`")
    if getattr(faust_streams, "_CStreamIterator", None) is None:
        # Faust's pure Python streams acknowledge events of an old assignment without handing them out.
        raise ConfigError("Faust's compiled streams are missing: install a faust-streaming wheel, and unset NO_CYTHON")
    app = _App(
        settings.group,
        broker=[f"kafka://{address.strip()}" for address in settings.bootstrap.split(",")],
        broker_credentials=_credentials(settings.bootstrap),
        store="memory://",
        datadir=tempfile.gettempdir(),
        PartitionAssignor=CoPartitionedAssignor,
        table_standby_replicas=1,  # with none, Faust takes an assignor of aiokafka's in place of ours
        # Faust tells its workers apart by this address, though nothing listens there.
        canonical_url=f"http://worker-{uuid.uuid4().hex}",
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=4 * 1024 * 1024,
        broker_max_poll_records=5_000,
        broker_session_timeout=settings.session_timeout,
        broker_heartbeat_interval=settings.session_timeout / 5,
        broker_request_timeout=max(REQUEST_TIMEOUT_S, settings.session_timeout),
        broker_rebalance_timeout=30.0,
        broker_commit_interval=1.0,
        broker_commit_every=1_000_000,
        stream_buffer_maxsize=64,
        stream_wait_empty=False,
    )
    app.transport = ChunkTransport(app.conf.broker, app, app.loop)
    sources = sources_of(sites)
    tasks = PartitionTasks(settings, codec, now_ms=now_ms, fail=fail, sources=sources)
    app.positions = tasks
    for name in sources:
        _add_agent(app, name, settings, tasks)
    app.task(watching(settings, sources))
    app.on_before_shutdown.connect(_closing(tasks), weak=False)
    return app


def _credentials(bootstrap: str) -> Any:
    """What Faust gives to the clients that it makes itself."""
    security = security_of(bootstrap)
    if security.protocol.named:
        return faust.SASLCredentials(
            username=security.username,
            password=security.password,
            mechanism=security.mechanism.value,
            ssl_context=security.context(),
        )
    context = security.context()
    return faust.SSLCredentials(context) if context is not None else None


def _add_agent(app: faust.App, name: str, settings: Settings, tasks: PartitionTasks) -> None:
    topic = app.topic(
        settings.names.of(name), key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )

    async def consume(stream: Any) -> None:
        # `noack`: acknowledged by the task, once committed. An exception here would make Faust acknowledge the event.
        events: AsyncIterable[Any] = stream.noack().events()
        try:
            async for event in events:
                await tasks.take(event.value, event.ack)
        except Exception as error:  # noqa: BLE001 (see above)
            tasks.fail(error)

    app.agent(topic, name=f"{name}-agent")(consume)


def _closing(tasks: PartitionTasks) -> Callable[..., Awaitable[None]]:
    async def close(*_: object, **__: object) -> None:
        await tasks.close()

    return close
