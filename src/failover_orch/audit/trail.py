"""The audit trail on Kafka: its entries, and the heads of its chains in the tasks' state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec

from failover_orch.audit.report import Report, report_on
from failover_orch.contract import Codec, Names, state_topic
from failover_orch.domain import AuditEntry, ChainHead, JournalEntry
from failover_orch.domain.chain import ChainFinding, Link, link
from failover_orch.errors import UndecodableRecord
from failover_orch.wire import Received, read_to_end

__all__ = ["TOPICS", "Heads", "Standing", "read_trail", "verify_topics"]

TOPICS = ("failover-journal", "audit-trail")
"""The topics whose records are chained."""

_CHAIN = "chain/"
_ATTEMPTS = 3
_BETWEEN_ATTEMPTS_S = 0.5


@dataclass(frozen=True, slots=True)
class Standing:
    """A record of the trail where it stands: the entry, or the reason why it is none."""

    received: Received
    entry: JournalEntry | AuditEntry | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads by chain, and what stands in their place without being one."""

    by_chain: dict[str, ChainHead]
    findings: tuple[ChainFinding, ...]


async def verify_topics(bootstrap: str, *, names: Names, codec: Codec, app_id: str) -> Report:
    """Read the whole trail of an installation and verify its chains. Workers may run meanwhile.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`.
        TopicMismatch: a topic is missing.

    """
    report, _ = await read_trail(bootstrap, names=names, codec=codec, app_id=app_id, start=lambda: _ignore)
    return report


async def read_trail(
    bootstrap: str, *, names: Names, codec: Codec, app_id: str, start: Callable[[], Callable[[Standing], None]]
) -> tuple[Report, tuple[Heads, Heads]]:
    """Read and verify the trail, giving every record of it to what `start` returns; also returns the heads.

    What does not verify is read again before it is reported, `start` being called anew: the end of a transaction
    reaches its partitions one by one, so that for a moment a reader may see an entry and not yet the head that belongs
    to it, or the head and not the entry.
    """
    attempt = 1
    while True:
        take = start()
        links: list[Link] = []
        unreadable: list[ChainFinding] = []
        # Heads before entries: a worker that writes meanwhile puts entries beyond these heads, which is no fault. Read
        # the other way round, the heads would be ahead of the entries, and those would seem to be removed.
        before = await _heads(bootstrap, names, app_id)
        async for standing in _standings(bootstrap, names, codec):
            take(standing)
            place = f"{standing.received.topic}/{standing.received.partition}"
            if standing.entry is None:
                unreadable.append(
                    ChainFinding(place, standing.received.offset, f"no entry stands here: {standing.reason}")
                )
            else:
                links.append(link(standing.entry, place))
        # And once more after them: an entry beyond what the task had written by now was forged.
        after = await _heads(bootstrap, names, app_id)
        report = report_on(links, before.by_chain, after.by_chain, [*unreadable, *after.findings])
        if report.sound or attempt == _ATTEMPTS:
            return report, (before, after)
        attempt += 1
        await asyncio.sleep(_BETWEEN_ATTEMPTS_S)


def _ignore(_standing: Standing) -> None:
    pass


async def _standings(bootstrap: str, names: Names, codec: Codec) -> AsyncIterator[Standing]:
    async for batch in read_to_end(bootstrap, TOPICS, names=names):
        for received in batch:
            try:
                entry = codec.decode_from(received.topic, received.value)
            except UndecodableRecord as error:
                yield Standing(received, None, str(error))
            else:
                assert isinstance(entry, JournalEntry | AuditEntry)  # noqa: S101 - what the topics carry
                yield Standing(received, entry)


async def _heads(bootstrap: str, names: Names, app_id: str) -> Heads:
    topic = state_topic(app_id)
    latest: dict[tuple[int, str], bytes | None] = {}
    async for batch in read_to_end(bootstrap, [topic], names=names):
        for received in batch:
            if received.key.startswith(_CHAIN.encode()):
                latest[received.partition, received.key.decode(errors="replace")] = received.value
    heads: dict[str, ChainHead] = {}
    findings = []
    for (partition, key), value in latest.items():
        chain = key.removeprefix(_CHAIN)
        head = _head(value)
        # A task keeps its chains' heads in its own partition of the state: one elsewhere was put there by another.
        if head is None or head.chain != chain or not chain.endswith(f"/{partition}"):
            findings.append(
                ChainFinding(chain, -1, f"forged: {topic}/{partition} holds no head of this chain under its key")
            )
        else:
            heads[chain] = head
    return Heads(heads, tuple(findings))


def _head(value: bytes | None) -> ChainHead | None:
    try:
        return msgspec.json.decode(value or b"", type=ChainHead)
    except msgspec.DecodeError:
        return None
