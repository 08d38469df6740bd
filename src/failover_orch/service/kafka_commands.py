"""The service's way to publish: one connection to Kafka for as long as the service runs, made when Kafka is there."""

from __future__ import annotations

import asyncio

from failover_orch import telemetry
from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.errors import KafkaError, KafkaUnavailable
from failover_orch.wire import Publisher

__all__ = ["KafkaCommands"]

log = telemetry.logger(__name__)

_RETRY_S = 1.0
_PATIENCE_S = 10.0
"""How long whoever gave a command waits for Kafka's acknowledgement."""


class KafkaCommands:
    """Publishes while `run` does. Until Kafka has been reached nothing is taken."""

    def __init__(self, settings: Settings, codec: Codec) -> None:
        self._settings = settings
        self._codec = codec
        self._publisher: Publisher | None = None

    async def run(self) -> None:
        """Stay connected until cancelled. A Kafka that is not there yet is waited for."""
        while True:
            publisher = Publisher(
                self._settings.bootstrap,
                self._codec,
                names=self._settings.names,
                partitions=self._settings.partitions,
                source="service",
                patience_s=_PATIENCE_S,
            )
            try:
                async with publisher:
                    self._publisher = publisher
                    await asyncio.Event().wait()
            except KafkaError as error:
                log.warning("cannot publish, will try again", error=error, seconds=_RETRY_S)
            finally:
                self._publisher = None
            await asyncio.sleep(_RETRY_S)

    async def publish(self, *values: object, traceparent: str = "") -> None:
        """Publish values: see `wire.Publisher.publish`. Raises KafkaUnavailable where Kafka was not reached yet."""
        if self._publisher is None:
            raise KafkaUnavailable("Kafka has not been reached yet, nothing was taken: try again in a moment")
        await self._publisher.publish(*values, traceparent=traceparent)
