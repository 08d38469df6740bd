"""The trail on a real Kafka: written as a worker writes it, tampered with, verified, exported, and verified again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from typer.testing import CliRunner

from failover_orch.audit import Report, export, verify_file, verify_topics
from failover_orch.audit.trail import Standing, read_trail
from failover_orch.cli.audit import app
from failover_orch.config import Settings
from failover_orch.contract import Codec, key_of, partition_of, state_topic, topic_of
from failover_orch.domain import AuditEntry, ChainHead, JournalEntry
from failover_orch.domain.chain import seal
from failover_orch.errors import AuditBroken, ConfigError

CODEC = Codec()


class Task:
    """Writes the chains of one partition task as a worker does: entries and heads in one transaction."""

    def __init__(self, settings: Settings, partition: int, producer: Any) -> None:
        self.settings = settings
        self.partition = partition
        self.producer = producer
        self.journal = ChainHead.start(f"journal/{partition}")
        self.audit = ChainHead.start(f"audit/{partition}")

    async def write(self, count: int) -> None:
        async with self.producer.transaction():
            for number in range(count):
                entry, self.journal = seal(
                    JournalEntry(
                        f"run-{self.partition}-{number}", f"vm-{number}", number, "P1", "shut down", "RUNNING", 7
                    ),
                    self.journal,
                )
                audit, self.audit = seal(AuditEntry(f"vm-{number}", "failed over", "done", 7, "alice"), self.audit)
                for each in (entry, audit):
                    await send(self.producer, self.settings, each)
            for head in (self.journal, self.audit):
                await send_head(self.producer, self.settings, self.partition, head)


async def send(producer: Any, settings: Settings, entry: JournalEntry | AuditEntry) -> None:
    topic = settings.names.of(topic_of(entry))
    await producer.send_and_wait(topic, key=key_of(entry), value=CODEC.encode(entry))


async def send_head(producer: Any, settings: Settings, partition: int, head: ChainHead) -> None:
    value = json.dumps({"chain": head.chain, "sequence": head.sequence, "hash": head.hash}).encode()
    topic = settings.names.of(state_topic(settings.app_id))
    await producer.send_and_wait(topic, key=f"chain/{head.chain}".encode(), value=value, partition=partition)


@asynccontextmanager
async def producing(settings: Settings, transactional_id: str | None = None) -> Any:
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap, transactional_id=transactional_id, enable_idempotence=True, linger_ms=0
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def two_tasks(settings: Settings) -> list[Task]:
    """The chains of two tasks, 12 entries each."""
    tasks = []
    for partition in (0, 3):
        async with producing(settings, f"{settings.app_id}-{partition}") as producer:
            tasks.append(Task(settings, partition, producer))
            for count in (5, 7):
                await tasks[-1].write(count)
    return tasks


async def verified(settings: Settings) -> Report:
    return await verify_topics(settings.bootstrap, names=settings.names, codec=CODEC, app_id=settings.app_id)


async def exported(settings: Settings, path: Path) -> Report:
    return await export(path, settings.bootstrap, names=settings.names, codec=CODEC, app_id=settings.app_id)


async def delete_before(settings: Settings, topic: str, partition: int, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    await admin.start()
    try:
        where = TopicPartition(settings.names.of(topic), partition)
        await admin.delete_records({where: RecordsToDelete(before_offset=offset)})
    finally:
        await admin.close()


async def test_a_trail_as_workers_write_it_is_sound(settings: Settings) -> None:
    assert (await verified(settings)).chains == (), "nothing is written yet"
    await two_tasks(settings)
    report = await verified(settings)
    assert report.findings == ()
    report.require_sound()
    assert [(each.chain, each.entries, each.last_sequence) for each in report.chains] == [
        ("audit/0", 12, 11),
        ("audit/3", 12, 11),
        ("journal/0", 12, 11),
        ("journal/3", 12, 11),
    ]


async def test_a_trail_that_grows_meanwhile_is_sound(settings: Settings) -> None:
    enough = asyncio.Event()

    async def work(partition: int) -> int:
        async with producing(settings, f"{settings.app_id}-{partition}") as producer:
            task = Task(settings, partition, producer)
            while not enough.is_set():
                await task.write(2)
            return task.journal.sequence

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work(partition)) for partition in range(3)]
        try:
            for _ in range(4):
                assert (await verified(settings)).findings == ()
        finally:
            enough.set()
    report = await verified(settings)
    assert report.findings == ()
    assert {each.chain: each.last_sequence for each in report.chains}.items() >= {
        (f"journal/{partition}", worker.result()) for partition, worker in enumerate(workers)
    }


async def test_what_is_there_only_in_part_is_read_again(settings: Settings) -> None:
    """As where the end of a transaction has reached the state topic, and the journal not yet."""
    entry, head = seal(JournalEntry("run", "vm-1", 0, "P1", "shut down", "RUNNING", 7), ChainHead.start("journal/0"))
    attempts: list[asyncio.Task[None] | None] = []
    async with producing(settings) as producer:
        await send_head(producer, settings, 0, head)

        def start() -> Callable[[Standing], None]:
            attempts.append(None)
            if len(attempts) == 2:
                attempts[1] = asyncio.create_task(send(producer, settings, entry))
            return lambda _: None

        report, _ = await read_trail(
            settings.bootstrap, names=settings.names, codec=CODEC, app_id=settings.app_id, start=start
        )
        assert report.sound, report.findings
        assert len(attempts) > 1
        assert attempts[1] is not None
        await attempts[1]


async def test_records_deleted_on_kafka_are_missed(settings: Settings) -> None:
    await two_tasks(settings)
    await delete_before(settings, "audit-trail", partition_of(b"vm-0", settings.partitions), 2)
    report = await verified(settings)
    assert not report.sound
    assert all(finding.chain in ("audit/0", "audit/3") for finding in report.findings)
    assert all(finding.what.startswith("removed: ") for finding in report.findings)
    with pytest.raises(AuditBroken, match=r"the audit trail does not verify: audit/0, entry \d+: removed"):
        report.require_sound()


async def test_what_others_append_is_found(settings: Settings) -> None:
    tasks = await two_tasks(settings)
    forged, _ = seal(AuditEntry("vm-1", "failed over", "done", 8, "mallory"), tasks[0].audit)
    async with producing(settings) as producer:
        await send(producer, settings, forged)
        await send(producer, settings, AuditEntry("vm-1", "failed over", "done", 8, "mallory"))
        await producer.send_and_wait(settings.names.of("failover-journal"), key=b"run", value=b"rubbish", partition=2)
        await send_head(producer, settings, 1, ChainHead("journal/0", 90, "0" * 64))
    findings = [str(finding) for finding in (await verified(settings)).findings]
    assert len(findings) == 5
    assert findings[0].startswith("failover-journal/2, entry ")
    assert "no entry stands here: begins with 72 75" in findings[0]
    assert "journal/0, entry -1: forged: " in findings[1]
    assert "holds no head of this chain under its key" in findings[1]
    assert findings[2].startswith("no chain, entry 0: changed: its content at audit-trail/")
    assert findings[4] == "audit/0, entry 12: forged: it stands outside the chain, which ends with entry 11"


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def unfinished(path: Path) -> bool:
    return path.with_name(f"{path.name}.part").exists()


def change_actor(trail: list[Any]) -> None:
    next(line for line in trail if line.get("entry", {}).get("actor") == "alice")["entry"]["actor"] = "bob"


def swap_neighbours(trail: list[Any]) -> None:
    places = [(line.get("topic"), line.get("partition")) for line in trail]
    at = next(at for at in range(len(places)) if places[at] == places[at + 1])
    trail[at], trail[at + 1] = trail[at + 1], trail[at]


def remove_one(trail: list[Any]) -> None:
    del trail[3]
    trail[-1]["records"] -= 1


def repeat_one(trail: list[Any]) -> None:
    trail.insert(4, trail[3])
    trail[-1]["records"] += 1


TAMPERINGS: dict[Callable[[list[Any]], None], str] = {
    change_actor: "changed: its content at audit-trail/",
    swap_neighbours: "reordered: it stands after offset",
    remove_one: "removed: it is missing",
    repeat_one: "repeated: it stands at",
}

NO_EXPORT: dict[str, tuple[Callable[[list[Any]], object], str]] = {
    "cut": (lambda trail: trail.pop(), ":{last}: the export is not whole: expected a line that ends the export"),
    "a line less": (lambda trail: trail.pop(3), ":{last}: the export is not whole: expected 48 records, not 47"),
    "a line more": (lambda trail: trail.append(trail[0]), ":{last}: expected nothing after the line that ends the"),
    "a field more": (
        lambda trail: trail[0]["entry"].update(approved_by="bob"),
        "has no field 'approved_by': forged, or a newer version's",
    ),
    "a field less": (lambda trail: trail[1]["entry"].pop("at_ms"), ":2: not a "),
    "another topic": (lambda trail: trail[1].update(topic="alerts"), ":2: alerts is not a topic of the audit trail"),
    "no export": (lambda trail: trail[1].pop("line"), ":2: not a line of an export"),
}


async def test_an_export_verifies_elsewhere_and_shows_what_was_done_to_it(settings: Settings, tmp_path: Path) -> None:
    await two_tasks(settings)
    path = tmp_path / "trail.jsonl"
    report = await exported(settings, path)
    assert report.sound
    assert verify_file(path) == report == await verified(settings)
    assert not unfinished(path)
    assert [line["line"] for line in lines(path)] == ["entry"] * 48 + ["head"] * 8 + ["end"]

    tampered = tmp_path / "tampered.jsonl"

    def write(trail: list[Any]) -> None:
        tampered.write_text("".join(json.dumps(line) + "\n" for line in trail))

    write(lines(path))
    assert verify_file(tampered).sound
    for tamper, what in TAMPERINGS.items():
        trail = lines(path)
        tamper(trail)
        write(trail)
        findings = verify_file(tampered).findings
        assert any(what in str(finding) for finding in findings), (tamper.__name__, findings)
    for name, (change, sentence) in NO_EXPORT.items():
        trail = lines(path)
        change(trail)
        write(trail)
        with pytest.raises(AuditBroken) as refused:
            verify_file(tampered)
        assert str(refused.value).startswith(str(tampered)), name
        assert sentence.format(last=len(trail)) in str(refused.value), name


async def test_an_export_of_a_broken_trail_says_so_and_keeps_what_stands_there(
    settings: Settings, tmp_path: Path
) -> None:
    async with producing(settings) as producer:
        await producer.send_and_wait(settings.names.of("failover-journal"), value=b"rubbish", partition=2)
    path = tmp_path / "trail.jsonl"
    report = await exported(settings, path)
    assert [str(finding).partition(":")[0] for finding in report.findings] == ["failover-journal/2, entry 0"]
    assert verify_file(path) == report
    assert lines(path)[0]["value"] == "cnViYmlzaA=="


def test_the_commands(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILOVER_ORCH_BOOTSTRAP", settings.bootstrap)
    monkeypatch.setenv("FAILOVER_ORCH_APP_ID", settings.app_id)
    monkeypatch.setenv("FAILOVER_ORCH_TOPIC_PREFIX", settings.topic_prefix)
    asyncio.run(two_tasks(settings))
    path = tmp_path / "trail.jsonl"
    run = CliRunner().invoke
    for arguments in (["verify"], ["export", str(path)], ["verify", "--file", str(path)]):
        result = run(app, arguments)
        assert result.exit_code == 0, result.output
        assert "journal/3" in result.output
        assert "48 entries in 4 chains: every one is there and as it was written" in result.output
    path.write_text(path.read_text().replace('"actor":"alice"', '"actor":"mallory"', 1))
    result = run(app, ["verify", "--file", str(path)])
    assert result.exit_code == 1
    assert ": changed: its content at audit-trail/" in result.output
    assert "48 entries in 4 chains, 1 findings" in result.output


@pytest.mark.parametrize("path", ["nowhere.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read: "):
        verify_file(tmp_path / path)


async def test_a_file_that_cannot_be_written_is_named_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        await exported(Settings(bootstrap="127.0.0.1:1"), tmp_path / "nowhere" / "trail.jsonl")
