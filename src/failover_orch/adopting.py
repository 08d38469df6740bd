"""Taking over an installation whose topics MirrorMaker 2 has brought to another Kafka.

- The state says how far each source topic is applied, in offsets of the Kafka that wrote it. A mirror has others: ends
  of transactions take offsets, and what was compacted away or has expired takes none here. MirrorMaker 2 writes down
  which offset there is which here; what is applied becomes the last record that is known to be at or before it.
- So records may be taken again that were applied already, and none is left out. The rules know them: producers tell
  their facts at least once anyway. Of a topic of which nothing is known, all is taken.
- A chain goes on from its last entry here, where the trail came further than the state: no number is given twice. What
  was told there and never came is missing, and `audit verify` names it.
- A partition's state is taken over once: the record that says what is applied also says on which Kafka.

Everything mirrored is a little behind, each topic by its own measure; what had not come is lost.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer

from failover_orch.config import Settings
from failover_orch.contract import Codec, Names, state_topic
from failover_orch.domain import AuditEntry, ChainHead, JournalEntry
from failover_orch.errors import ConfigError, TopicMismatch, UndecodableRecord
from failover_orch.kafka_address import client_options
from failover_orch.streams import APPLIED, KAFKA_HEADER, Store, dump
from failover_orch.wire import (
    cluster_id,
    explained,
    partition_counts,
    positions_now,
    read_to_end,
    require_topics,
    start_client,
    stop_producer,
)

__all__ = ["Adoption", "Sync", "adopt", "adoptions", "read_sync", "translated"]

_TRAIL = ("failover-journal", "audit-trail")
_SYNC = struct.Struct(">qq")
_STOPPING_S = 5.0


@dataclass(frozen=True, slots=True)
class Sync:
    """MirrorMaker 2's word on one record: its offset in the source Kafka, and here."""

    there: int
    here: int


@dataclass(frozen=True, slots=True)
class Adoption:
    """What taking over one partition's state comes to.

    `applied` are the offsets here, `there` those that the state had, by topic; `again` is how many records of a topic
    are taken that stand behind the offset, at most: ends of transactions count among them. `chains` are heads that go
    forward.
    """

    partition: int
    there: Mapping[str, int]
    applied: Mapping[str, int]
    again: Mapping[str, int]
    chains: tuple[ChainHead, ...]


def read_sync(key: bytes, value: bytes) -> tuple[tuple[str, int], Sync]:
    """A record of MirrorMaker 2's offset-syncs topic: for which topic and partition, and what it says.

    Raises:
        ConfigError: it is none of the form that MirrorMaker 2 has written since Kafka 2.4.

    """
    try:
        (length,) = struct.unpack_from(">h", key)
        topic = key[2 : 2 + length].decode()
        (partition,) = struct.unpack(">i", key[2 + length :])
        there, here = _SYNC.unpack(value)
    except (struct.error, UnicodeDecodeError) as error:
        raise ConfigError(f"the offset-syncs topic holds what MirrorMaker 2 does not write: {error}") from error
    return (topic, partition), Sync(there, here)


def translated(applied: int, syncs: Iterable[Sync]) -> int:
    """The offset here up to which records are applied for sure, where those up to `applied` there are; -1: none."""
    behind = [(sync.there, sync.here) for sync in syncs if sync.there <= applied]
    return max(behind)[1] if behind else -1


async def adoptions(config: Settings, codec: Codec, *, source: str) -> list[Adoption]:
    """What taking over each partition would come to that is not this Kafka's own yet.

    `source` is what MirrorMaker 2 calls the Kafka that is gone.

    Raises:
        KafkaUnavailable: nobody answers.
        TopicMismatch: a topic is missing, or all of the state is this Kafka's own.

    """
    state = config.names.of(state_topic(config.app_id))
    present = await partition_counts(config.bootstrap)
    require_topics(config.bootstrap, [state], present)
    syncs = await _syncs(config, f"mm2-offset-syncs.{source}.internal", present)
    ours = await cluster_id(config.bootstrap)
    stores = {}
    for partition in range(present[state]):
        stores[partition] = Store()
        await stores[partition].restore(config.bootstrap, config.app_id, partition, config.names)
    # What was cut short is taken up again: partitions that were taken over before are left as they are.
    foreign = {partition: store for partition, store in stores.items() if store.kafka != ours}
    if not foreign:
        raise TopicMismatch(f"the state in {state} is this Kafka's own: it was taken over already, or never mirrored")
    topics = {topic for store in foreign.values() for topic in store.applied}
    ends = await positions_now(config.bootstrap, sorted(topics), names=config.names)
    last = await _last_entries(config, codec)
    return [_adoption(config, partition, store, syncs, ends, last) for partition, store in foreign.items()]


def _adoption(
    config: Settings,
    partition: int,
    store: Store,
    syncs: Mapping[tuple[str, int], Sequence[Sync]],
    ends: Mapping[tuple[str, int], int],
    last: Mapping[str, ChainHead],
) -> Adoption:
    applied = {
        topic: translated(offset, syncs.get((config.names.of(topic), partition), ()))
        for topic, offset in store.applied.items()
    }
    held = {head.chain: head.sequence for head in store.state.values() if isinstance(head, ChainHead)}
    heads = [
        head
        for chain, head in sorted(last.items())
        if chain.endswith(f"/{partition}") and head.sequence > held.get(chain, -1)
    ]
    return Adoption(
        partition=partition,
        there=dict(store.applied),
        applied=applied,
        again={topic: max(0, ends[topic, partition] - offset - 1) for topic, offset in applied.items()},
        chains=tuple(heads),
    )


async def adopt(config: Settings, adoption: Adoption) -> None:
    """Write what was made out, in one transaction; whoever still works on the partition is fenced.

    Raises:
        KafkaUnavailable: Kafka does not answer, or refuses it.

    """
    state = config.names.of(state_topic(config.app_id))
    # The transactional id of the partition's task.
    producer = AIOKafkaProducer(
        **client_options(config.bootstrap), transactional_id=f"{config.group}-{adoption.partition}", acks="all"
    )
    mark = [(KAFKA_HEADER, (await cluster_id(config.bootstrap)).encode())]
    try:
        with explained(config.bootstrap, f"the state of partition {adoption.partition}"):
            await start_client(producer, config.bootstrap)
            async with producer.transaction():
                for head in adoption.chains:
                    key = f"chain/{head.chain}".encode()
                    await producer.send_and_wait(state, dump(head), key, partition=adoption.partition)
                await producer.send_and_wait(
                    state, dump(adoption.applied), APPLIED, partition=adoption.partition, headers=mark
                )
    finally:
        await stop_producer(producer, _STOPPING_S)


async def _syncs(config: Settings, topic: str, present: Mapping[str, int]) -> Mapping[tuple[str, int], list[Sync]]:
    if topic not in present:
        raise TopicMismatch(
            f"Kafka at {config.bootstrap} has no topic {topic}, where MirrorMaker 2 writes which offset is which: give "
            "its name for the source in --source, and set offset-syncs.topic.location = target (see "
            "docs/high-availability.md)"
        )
    found: defaultdict[tuple[str, int], list[Sync]] = defaultdict(list)
    async for records in read_to_end(config.bootstrap, [topic], names=Names()):
        for record in records:
            if record.value is not None:
                place, sync = read_sync(record.key, record.value)
                found[place].append(sync)
    return found


async def _last_entries(config: Settings, codec: Codec) -> Mapping[str, ChainHead]:
    """The last entry of each chain that is here, as a head."""
    last: dict[str, ChainHead] = {}
    async for records in read_to_end(config.bootstrap, _TRAIL, names=config.names):
        for record in records:
            try:
                entry = codec.decode_from(record.topic, record.value)
            except UndecodableRecord:  # `audit verify` names it
                continue
            assert isinstance(entry, JournalEntry | AuditEntry)  # noqa: S101 (what the topics carry)
            if entry.chain not in last or entry.chain_sequence > last[entry.chain].sequence:
                last[entry.chain] = ChainHead(entry.chain, entry.chain_sequence, entry.hash)
    return last
