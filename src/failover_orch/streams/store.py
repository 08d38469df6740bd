"""The changelog-backed store of one partition: its state in memory, and the compacted topic that it is restored from.

A record of the changelog is one value of `domain.state` as JSON under its key, or a tombstone. One key is the store's
own: `applied` holds, for each source topic, the offset up to which its records are in the state. A header of that
record names the Kafka whose offsets they are: on another, where the topics were mirrored, they mean other records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from failover_orch.contract import Names, state_topic
from failover_orch.domain import (
    AccessToken,
    AutomaticRuns,
    Brake,
    ChainHead,
    Clusters,
    KeptSettings,
    Observers,
    PlanReadiness,
    PlanRun,
    Policy,
    RecoveryPlan,
    Run,
    State,
    VmState,
)
from failover_orch.errors import PartitionFault
from failover_orch.wire import read_to_end

__all__ = ["APPLIED", "KAFKA_HEADER", "Store", "dump"]

APPLIED = b"applied"
KAFKA_HEADER = "kafka"
"""Header of the record `applied`: the id of the Kafka whose offsets it holds."""

_KINDS: Mapping[str, Any] = {
    "vm": VmState,
    "run": Run,
    "plan-run": PlanRun,
    "plan": RecoveryPlan,
    "plan-readiness": PlanReadiness,
    "clusters": Clusters,
    "policy": Policy,
    "evidence": Observers,
    "brake": Brake,
    "automatic-runs": AutomaticRuns,
    "token": AccessToken,
    "settings": KeptSettings,
    "chain": ChainHead,
}
_DECODERS = {kind: msgspec.json.Decoder(value) for kind, value in _KINDS.items()}
_ENCODER = msgspec.json.Encoder()


def dump(value: State | Mapping[str, int]) -> bytes:
    """A value as the changelog holds it."""
    return _ENCODER.encode(value)


class Store:
    """State of one partition. `applied` is the last offset of each source topic that is in it."""

    def __init__(self) -> None:
        self.state: dict[str, State] = {}
        self.applied: dict[str, int] = {}
        self.kafka = ""
        """The id of the Kafka whose offsets `applied` are; empty where an older version wrote them."""

    async def restore(self, bootstrap: str, app_id: str, partition: int, names: Names) -> int:
        """Read the changelog to its end; returns the number of records read.

        Only to be called once this task's producer has fenced its predecessor's: only then is the changelog final.

        Raises:
            PartitionFault: the changelog holds what this version cannot read.

        """
        topic = state_topic(app_id)
        # A key is written again and again: what is decoded is only the last of each.
        latest: dict[bytes, bytes | None] = {}
        count = 0
        async for received in read_to_end(bootstrap, [topic], names=names, partitions=[partition]):
            count += len(received)
            latest.update((record.key, record.value) for record in received)
            for record in received:
                if record.key == APPLIED:
                    self.kafka = next((value.decode() for name, value in record.headers if name == KAFKA_HEADER), "")
        for key, value in latest.items():
            if value is not None:
                self.load(topic, partition, key, value)
        return count

    def load(self, topic: str, partition: int, key: bytes, value: bytes) -> None:
        """Take one record of the changelog; the last of a key is to come last.

        Raises:
            PartitionFault: it is not what this version can read.

        """
        try:
            if key == APPLIED:
                self.applied = msgspec.json.decode(value, type=dict[str, int])
            else:
                name = key.decode()
                self.state[name] = _DECODERS[name.partition("/")[0]].decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
            raise PartitionFault(
                f"the state topic {topic}, partition {partition}, key {key!r} holds what this version cannot read "
                f"({error}): run the version that wrote it"
            ) from error
