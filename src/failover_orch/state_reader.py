"""The partition tasks' state as an outsider can read it, for whoever asks what the rules make of it.

A worker's memory runs ahead of its changelog: health reports and evidence that only repeat what was known are in memory
alone, and what the worker has not taken yet is in the topics alone. Both are read from the topics and put over the
state as knowledge, without anything that the broker would do about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from failover_orch.config import Settings
from failover_orch.contract import Codec, base_topic, partition_of, state_topic
from failover_orch.domain import Evidence, Moment, ReplicationReport, State, VmMoved
from failover_orch.domain.explain import learned
from failover_orch.errors import UndecodableRecord
from failover_orch.wire import Received, now_ms, partition_counts, read_to_end, require_topics

__all__ = ["Standing", "read_everything", "read_standing"]

RECENT_MS = 600_000
"""How far back health and evidence are read that the worker may hold in memory alone: no guard looks further back."""

_KNOWLEDGE = ("vm-moved", "replication-health", "evidence")
_FACTS = (VmMoved, ReplicationReport, Evidence)


@dataclass(frozen=True, slots=True)
class Standing:
    """A partition's state, brought up to date for the VMs that were asked for; the other VMs are left out."""

    partition: int
    state: Mapping[str, State]
    applied: Mapping[str, int]


async def read_standing(config: Settings, codec: Codec, vm_id: str) -> Standing:
    """The state of the partition that a VM lives on.

    Raises:
        KafkaUnavailable: nobody answers.
        TopicMismatch: a topic is missing.
        PartitionFault: the state was written by another version.

    """
    partitions = await _partitions(config)
    return await _standing(config, codec, partition_of(vm_id.encode(), partitions), {vm_id})


async def read_everything(config: Settings, codec: Codec, vm_ids: Collection[str]) -> dict[str, State]:
    """The state of all partitions put together, brought up to date for these VMs; the other VMs are left out.

    What every partition has (clusters, policies, evidence, brake) is taken from the last.

    Raises:
        KafkaUnavailable: nobody answers.
        TopicMismatch: a topic is missing.
        PartitionFault: the state was written by another version.

    """
    partitions = await _partitions(config)
    standings = await asyncio.gather(*(_standing(config, codec, partition, vm_ids) for partition in range(partitions)))
    return {key: value for standing in standings for key, value in standing.state.items()}


async def _partitions(config: Settings) -> int:
    topic = config.names.of(state_topic(config.app_id))
    present = await partition_counts(config.bootstrap)
    require_topics(config.bootstrap, [topic], present)
    return present[topic]


async def _standing(config: Settings, codec: Codec, partition: int, vm_ids: Collection[str]) -> Standing:
    # Faust, which comes with the streams, takes long to load: only those who ask for state are to wait for it.
    from failover_orch.streams import Store  # noqa: PLC0415 (see above)

    store = Store()
    await store.restore(config.bootstrap, config.app_id, partition, config.names)
    state = {
        key: value
        for key, value in store.state.items()
        # Evidence has every VM of a partition looked at: those that nobody asked about would cost more than the rest.
        if not key.startswith("vm/") or key.removeprefix("vm/") in vm_ids
    }
    keys = {vm_id.encode() for vm_id in vm_ids}
    async for records in read_to_end(
        config.bootstrap,
        _KNOWLEDGE,
        names=config.names,
        partitions=[partition],
        since_ms=now_ms() - RECENT_MS,
        behind=dict.fromkeys(_KNOWLEDGE, -1) | store.applied,
    ):
        for record in records:
            if base_topic(record.topic) == "evidence" or record.key in keys:
                state.update(_learned(state, record, codec))
    return Standing(partition, state, store.applied)


def _learned(state: Mapping[str, State], record: Received, codec: Codec) -> Mapping[str, State]:
    if record.value is None:
        return {}
    try:
        fact = codec.decode_from(record.topic, record.value)
    except UndecodableRecord:  # the workers bury it
        return {}
    # As the worker saw it, when it saw it, give or take the record's way there. What the state holds already adds
    # nothing: the rules know a report, a move or a word of an observer that is not newer.
    moment = Moment(record.timestamp_ms, record.partition)
    return learned(state, fact, moment) if isinstance(fact, _FACTS) else {}
