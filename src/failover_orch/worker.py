"""The worker process: waits for a usable Kafka, then runs the Faust app.

`failover-orch worker` runs it; so does Faust's own command, as `faust -A failover_orch.worker worker`, which finds
`app` here and takes its settings from the environment.
"""

from __future__ import annotations

import asyncio
import atexit
from typing import Any

import faust

from failover_orch import telemetry
from failover_orch.config import Settings
from failover_orch.contract import TOPICS, Codec, sites_among, sources_of, state_topic
from failover_orch.errors import KafkaUnavailable, TopicMismatch
from failover_orch.streams import create_app
from failover_orch.wire import partition_counts, require_topics

__all__ = ["run_worker", "wait_for_kafka"]

log = telemetry.logger(__name__)

_BETWEEN_TRIES_S = 1.0


async def wait_for_kafka(settings: Settings) -> tuple[str, ...]:
    """Wait until Kafka answers; a broker that is away for a moment must not end a worker that is just starting.

    Returns the sites that have topics of their own.

    Raises:
        TopicMismatch: a topic is missing, or the source topics differ in their number of partitions.

    """
    said = False
    while True:
        try:
            counts = await partition_counts(settings.bootstrap)
        except KafkaUnavailable as error:
            if not said:
                log.warning("waiting for Kafka", why=error)
            said = True
            await asyncio.sleep(_BETWEEN_TRIES_S)
            continue
        break
    names = settings.names
    needed = [names.of(topic.name) for topic in TOPICS] + [names.of(state_topic(settings.app_id))]
    require_topics(settings.bootstrap, needed, counts)
    sites = sites_among({names.plain(name) for name in counts if name.startswith(names.prefix)})
    partitions = {name: counts[names.of(name)] for name in sources_of(sites)}
    if len(set(partitions.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in sorted(partitions.items()))
        raise TopicMismatch(f"source topics must have the same number of partitions, but have {listed}")
    return sites


def run_worker(settings: Settings) -> None:
    """Run a worker until it is told to stop. Ends the process.

    Raises:
        TopicMismatch: Kafka's topics are not what the contract says.

    """
    app = _app(settings)
    worker = faust.Worker(
        app,
        loglevel=settings.log_level.lower(),
        logging_config=telemetry.logging_config(settings.log_level),
        redirect_stdouts=False,
        quiet=True,
    )
    try:
        worker.execute_from_commandline()
    finally:
        telemetry.stop()


def _app(settings: Settings) -> faust.App:
    telemetry.start("worker", settings)
    sites = asyncio.run(wait_for_kafka(settings))
    log.info("reading for sites", sites=sites)
    return create_app(settings, Codec.for_registry(settings.schema_registry_url), sites=sites)


def __getattr__(name: str) -> Any:
    """Make `app` when Faust's command asks for it: no one else who imports this module needs a Kafka."""
    if name != "app":
        raise AttributeError(name)
    atexit.register(telemetry.stop)
    return _app(Settings.from_environment())
