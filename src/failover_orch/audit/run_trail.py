"""What the journal and the audit trail hold of a run, read from Kafka."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from failover_orch.audit.report import Report
from failover_orch.audit.trail import Standing, read_trail
from failover_orch.contract import Codec, Names, partition_of
from failover_orch.domain import AuditEntry, JournalEntry
from failover_orch.errors import UndecodableRecord
from failover_orch.wire import partition_counts, read_to_end, require_topics

__all__ = ["RunTrail", "read_journal", "read_run_trail"]

_JOURNAL = "failover-journal"


@dataclass(frozen=True, slots=True)
class RunTrail:
    """A run's entries, those of its VMs' runs among them, and what the verification of the whole trail has found."""

    journal: tuple[JournalEntry, ...]
    audit: tuple[AuditEntry, ...]
    verified: Report


async def read_run_trail(bootstrap: str, run_id: str, *, names: Names, codec: Codec, app_id: str) -> RunTrail:
    """Read a run's entries, and verify the trail that they are part of on the way.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`.
        TopicMismatch: a topic is missing.

    """
    journal: list[JournalEntry] = []
    audit: list[AuditEntry] = []

    def take(standing: Standing) -> None:
        entry = standing.entry
        if isinstance(entry, JournalEntry) and _is_part(entry.run_id, run_id):
            journal.append(entry)
        elif isinstance(entry, AuditEntry) and _is_part(entry.evidence.get("run", ""), run_id):
            audit.append(entry)

    def start() -> Callable[[Standing], None]:
        journal.clear()
        audit.clear()
        return take

    verified, _ = await read_trail(bootstrap, names=names, codec=codec, app_id=app_id, start=start)
    return RunTrail(tuple(journal), tuple(audit), verified)


async def read_journal(bootstrap: str, run_id: str, *, names: Names, codec: Codec) -> tuple[JournalEntry, ...]:
    """Read a run's own transitions, without verifying anything: they all stand in one partition.

    Raises:
        KafkaUnavailable: nobody answers at `bootstrap`.
        TopicMismatch: the journal is missing.

    """
    present = await partition_counts(bootstrap)
    topic = names.of(_JOURNAL)
    require_topics(bootstrap, [topic], present)
    key = run_id.encode()
    found: list[JournalEntry] = []
    partitions = [partition_of(key, present[topic])]
    async for records in read_to_end(bootstrap, [_JOURNAL], names=names, partitions=partitions):
        for record in records:
            if record.key != key:
                continue
            try:
                entry = codec.decode_from(_JOURNAL, record.value)
            except UndecodableRecord:  # what is wrong with the trail, `audit verify` says
                continue
            if isinstance(entry, JournalEntry):
                found.append(entry)
    return tuple(found)


def _is_part(of: str, run_id: str) -> bool:
    return of == run_id or of.startswith(f"{run_id}/")
