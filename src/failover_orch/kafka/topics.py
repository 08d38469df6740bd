"""Making the contract's topics on a Kafka, and saying where those that are there differ from what they ought to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as aiokafka_errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from failover_orch.config import Settings
from failover_orch.contract import STEP_COMMANDS, TOPICS, Kept, Topic, site_topic, state_topic, step_commands_topic
from failover_orch.errors import KafkaError, KafkaForbidden, KafkaUnavailable, TopicMismatch
from failover_orch.kafka_address import client_options, security_of
from failover_orch.wire import explained, start_client, stop_consumer

__all__ = [
    "DesiredTopic",
    "Difference",
    "TopicsReport",
    "administration",
    "check_topics",
    "create_topics",
    "default_replication",
    "desired_topics",
]

WEEK_MS = 7 * 24 * 3_600_000
HOUR_MS = 3_600_000
MIB = 1_048_576
REQUEST_TIMEOUT_MS = 30_000
_FORBIDDEN = (
    aiokafka_errors.TopicAuthorizationFailedError.errno,
    aiokafka_errors.ClusterAuthorizationFailedError.errno,
)
SETTLE_S = 30.0

KEPT: Mapping[Kept, Mapping[str, str]] = {
    Kept.BY_TIME: {"cleanup.policy": "delete", "retention.ms": str(WEEK_MS), "retention.bytes": "-1"},
    Kept.FOREVER: {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"},
    # The newest segment is never compacted: an hour's or 64 MiB of it, at most, is read in full by who restores.
    Kept.COMPACTED: {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.1",
        "segment.bytes": str(64 * MIB),
        "segment.ms": str(HOUR_MS),
    },
}

LARGEST_FROM_OUTSIDE = str(3 * MIB)
"""Topics that anybody may write to take more than a good record ever has, so that an oversized one reaches the worker
and is accounted for, in place of an error that only its producer sees."""

LARGEST_DEAD_LETTER = str(4 * MIB)
"""Room for the largest record from outside, whole, and for what is said about it."""


@dataclass(frozen=True, slots=True)
class DesiredTopic:
    """A topic as it ought to be on one Kafka. `name` is the name there; `kept` is for people to read."""

    name: str
    partitions: int
    replication: int
    kept: Kept
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a topic is not what it ought to be. `matters`: a worker must not run on it."""

    topic: str
    setting: str
    expected: str
    found: str
    matters: bool


@dataclass(frozen=True, slots=True)
class TopicsReport:
    """What was found, and made. `missing` stays empty where topics are created."""

    created: tuple[str, ...]
    present: tuple[str, ...]
    missing: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def usable(self) -> bool:
        """Whether a worker may run on these topics."""
        return not self.missing and not any(difference.matters for difference in self.differences)


def desired_topics(settings: Settings, sites: Iterable[str], replication: int) -> list[DesiredTopic]:
    """Every topic that an installation needs: the contract's, each site's own and its step commands, the state."""
    names = settings.names
    common = {"min.insync.replicas": "2" if replication >= 3 else "1", "unclean.leader.election.enable": "false"}  # noqa: PLR2004 (three copies, of which two must be there)

    def desired(name: str, kept: Kept, extra: Mapping[str, str]) -> DesiredTopic:
        return DesiredTopic(name, settings.partitions, replication, kept, {**KEPT[kept], **common, **extra})

    contract = [(topic.name, topic) for topic in TOPICS]
    for site in sites:
        contract += [(step_commands_topic(site), STEP_COMMANDS)]
        contract += [(site_topic(topic.name, site), topic) for topic in TOPICS if topic.per_site]
    return [
        *(desired(names.of(name), topic.kept, _largest(topic)) for name, topic in contract),
        desired(names.of(state_topic(settings.app_id)), Kept.COMPACTED, {}),
    ]


def _largest(topic: Topic) -> Mapping[str, str]:
    if topic.name == "dead-letters":
        return {"max.message.bytes": LARGEST_DEAD_LETTER}
    return {"max.message.bytes": LARGEST_FROM_OUTSIDE} if topic.source else {}


async def default_replication(bootstrap: str) -> int:
    """Three copies where there are brokers for them, else one.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`.

    """
    async with administration(bootstrap) as admin:
        brokers = len((await admin.describe_cluster())["brokers"])
    return 3 if brokers >= 3 else 1  # noqa: PLR2004 (with two, losing either would stop all writing)


async def check_topics(bootstrap: str, desired: Sequence[DesiredTopic]) -> TopicsReport:
    """Compare what is there with what ought to be. Changes nothing.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`.

    """
    async with administration(bootstrap) as admin:
        return await _compare(admin, desired, created=())


async def create_topics(bootstrap: str, desired: Sequence[DesiredTopic]) -> TopicsReport:
    """Make the topics that are missing, wait until they can be written to, and compare the others. Alters none.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`.
        TopicMismatch: there are fewer brokers than copies asked for.
        KafkaError: Kafka refused a topic for another reason, which is said.

    """
    async with administration(bootstrap) as admin:
        missing = (await _compare(admin, desired, created=())).missing
        created = await _create(admin, bootstrap, [topic for topic in desired if topic.name in missing])
        await _settled(admin, bootstrap, [topic for topic in desired if topic.name in missing])
        return await _compare(admin, desired, created=created)


async def _create(admin: Any, bootstrap: str, topics: Sequence[DesiredTopic]) -> tuple[str, ...]:
    if not topics:
        return ()
    response = await admin.create_topics(
        [
            NewTopic(topic.name, topic.partitions, topic.replication, topic_configs=dict(topic.configs))
            for topic in topics
        ]
    )
    created = []
    for name, code, message in response.topic_errors:
        if code == 0:
            created.append(name)
        elif code == aiokafka_errors.InvalidReplicationFactorError.errno:
            raise TopicMismatch(
                f"{_count(topics[0].replication)} of each topic were asked for, and Kafka at {bootstrap} has fewer "
                "brokers than that: start more brokers, or ask for fewer copies with --replication"
            )
        elif code in _FORBIDDEN:
            raise KafkaForbidden(
                f"Kafka at {bootstrap} does not allow user {security_of(bootstrap).username} to make topic {name}: "
                "do it as one of its super.users, or as a user with CREATE on the cluster"
            )
        elif code != aiokafka_errors.TopicAlreadyExistsError.errno:  # somebody else made it meanwhile: compare it
            raise KafkaError(f"Kafka at {bootstrap} did not make topic {name}: {message or _name_of(code)}")
    return tuple(created)


async def _settled(admin: Any, bootstrap: str, topics: Sequence[DesiredTopic]) -> None:
    """Wait until every partition has a leader that knows it is: the controller decides, brokers follow later.

    What is asked of a partition before that is refused, and clients try again for some seconds on a busy machine.
    """
    waiting = {topic.name for topic in topics}
    if not waiting:
        return
    try:
        async with asyncio.timeout(SETTLE_S):
            while waiting:
                for topic in await admin.describe_topics():
                    if topic["partitions"] and all(partition["leader"] >= 0 for partition in topic["partitions"]):
                        waiting.discard(topic["topic"])
                await asyncio.sleep(0.05 if waiting else 0)
            # Only a leader tells where its partition ends; aiokafka asks until it does.
            await _ends(bootstrap, [TopicPartition(each.name, n) for each in topics for n in range(each.partitions)])
    except TimeoutError:
        raise KafkaUnavailable(f"Kafka at {bootstrap} has no leader for new topics after {SETTLE_S:g} s") from None


async def _ends(bootstrap: str, partitions: Sequence[TopicPartition]) -> None:
    consumer = AIOKafkaConsumer(**client_options(bootstrap), group_id=None, request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        await start_client(consumer, bootstrap)
        await consumer.end_offsets(partitions)
    finally:
        await stop_consumer(consumer)


async def _compare(admin: Any, desired: Sequence[DesiredTopic], *, created: Sequence[str]) -> TopicsReport:
    # All topics are listed: to ask for one by name can make it, on brokers that allow that.
    there = {topic["topic"]: topic for topic in await admin.describe_topics()}
    present = [topic for topic in desired if topic.name in there]
    configs = await _configs(admin, [topic.name for topic in present])
    return TopicsReport(
        created=tuple(created),
        present=tuple(topic.name for topic in present),
        missing=tuple(topic.name for topic in desired if topic.name not in there),
        differences=tuple(
            difference
            for topic in present
            for difference in differences(topic, there[topic.name]["partitions"], configs[topic.name])
        ),
    )


def differences(
    topic: DesiredTopic, partitions: Sequence[Mapping[str, Any]], configs: Mapping[str, str]
) -> Iterable[Difference]:
    """What sets a topic that is there apart from what it ought to be.

    Number of partitions and cleanup matter always; how long a topic is kept matters where that is for ever.
    """
    if len(partitions) != topic.partitions:
        yield Difference(topic.name, "partitions", str(topic.partitions), str(len(partitions)), matters=True)
    copies = min((len(partition["replicas"]) for partition in partitions), default=0)
    if copies != topic.replication:
        yield Difference(topic.name, "replication", str(topic.replication), str(copies), matters=False)
    for setting, expected in topic.configs.items():
        found = configs.get(setting, "")
        if found != expected:
            matters = setting == "cleanup.policy" or (setting.startswith("retention.") and topic.kept is Kept.FOREVER)
            yield Difference(topic.name, setting, expected, found, matters=matters)


async def _configs(admin: Any, names: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    if not names:
        return {}
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    found: dict[str, Mapping[str, str]] = {}
    for response in responses:
        for code, message, _, name, entries in response.resources:
            if code in _FORBIDDEN:
                raise KafkaForbidden(
                    f"Kafka does not tell this user the settings of topic {name}: ask as the administrator, or as a "
                    "user with DESCRIBE_CONFIGS on every topic"
                )
            if code != 0:
                raise KafkaError(f"Kafka does not tell the settings of topic {name}: {message or _name_of(code)}")
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


@asynccontextmanager
async def administration(bootstrap: str) -> AsyncIterator[Any]:
    """An administrator's client of aiokafka's, its errors said in sentences of ours."""
    admin = AIOKafkaAdminClient(**client_options(bootstrap), request_timeout_ms=REQUEST_TIMEOUT_MS)
    try:
        with explained(bootstrap, "an administrator's request"):
            await start_client(admin, bootstrap)
            yield admin
    finally:
        await admin.close()


def _name_of(code: int) -> str:
    return str(aiokafka_errors.for_code(code).__name__)


def _count(copies: int) -> str:
    return "1 copy" if copies == 1 else f"{copies} copies"
