"""Not our own client: confluent-kafka and fastavro alone, by what `schemas/` and the documentation say.

Of failover_orch nothing is used but the topics' names, made by a fixture, and the worker, started as a process.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from fastavro.schema import fingerprint, load_schema, to_parsing_canonical_form

from failover_orch.config import Settings

SCHEMAS = Path(__file__).parents[2] / "schemas"
SINGLE_OBJECT = b"\xc3\x01"
HEADER = struct.Struct("<2s8s")
WITHIN_S = 60.0
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Foreign:
    """A client of somebody else: produces and consumes Avro in single-object encoding, framed by hand."""

    def __init__(self, bootstrap: str, prefix: str, partitions: int) -> None:
        self._prefix = prefix
        self._partitions = partitions
        self._bootstrap = bootstrap
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "enable.idempotence": True}
        )
        self._schemas: dict[str, Any] = {}
        self._by_fingerprint: dict[bytes, Any] = {}
        for path in SCHEMAS.glob("*.avsc"):
            schema = load_schema(path)
            canonical = to_parsing_canonical_form(json.loads(path.read_text()))
            crc = bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))
            self._schemas[path.name.split(".")[0]] = (schema, HEADER.pack(SINGLE_OBJECT, crc))
            self._by_fingerprint[crc] = schema

    def send(self, topic: str, key: str, record: str, **fields: Any) -> None:
        schema, header = self._schemas[record]
        stream = BytesIO()
        stream.write(header)
        fastavro.schemaless_writer(stream, schema, fields)
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failures.append(error)

        self._producer.produce(
            self._prefix + topic,
            key=key.encode(),
            value=stream.getvalue(),
            headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
            on_delivery=delivered,
        )
        assert self._producer.flush(30) == 0
        assert not failures

    def receive(self, topic: str, count: int) -> list[dict[str, Any]]:
        """The first `count` committed records of a topic, each with its key and headers under `_key` and `_headers`."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": f"foreign-{uuid.uuid4().hex}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        consumer.assign([TopicPartition(self._prefix + topic, number, 0) for number in range(self._partitions)])
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + WITHIN_S
        try:
            while len(found) < count:
                assert time.monotonic() < deadline, f"{topic}: {len(found)} of {count} records: {found}"
                message = consumer.poll(0.2)
                if message is not None and message.error() is None:
                    found.append(self._decoded(message))
        finally:
            consumer.close()
        return found

    def _decoded(self, message: Message) -> dict[str, Any]:
        value = message.value()
        marker, crc = HEADER.unpack_from(value)
        assert marker == SINGLE_OBJECT
        record: Any = fastavro.schemaless_reader(BytesIO(value[HEADER.size :]), self._by_fingerprint[crc], None)
        return {**record, "_key": message.key(), "_headers": dict(message.headers() or [])}


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[None]:
    """A worker, started as anybody would."""
    environment = os.environ | {
        "FAILOVER_ORCH_BOOTSTRAP": settings.bootstrap,
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
    }
    command = [str(Path(sys.executable).with_name("failover-orch")), "worker"]
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
        assert process.poll() is None, "the worker ended"
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
            sys.stdout.write(log.read_text(errors="replace"))


@pytest.mark.usefixtures("worker")
def test_a_foreign_client_moves_a_vm_asks_for_a_failover_and_answers_its_steps(settings: Settings) -> None:
    client = Foreign(settings.bootstrap, settings.topic_prefix, settings.partitions)
    client.send(
        "inventory",
        "erp-db",
        "VmInventory",
        vm_id="erp-db",
        name="ERP database",
        adapters=[],
        guest={"system": "rhel-9", "integration_services": "RUNNING"},
        replication={"state": "Replicating", "primary_site": "primary", "replica_site": "dr", "frequency_s": 30},
        reported_at_ms=1_700_000_000_000,
    )
    client.receive("routing-updates", 1)
    for site, node, kind, sequence in (
        ("primary", "p1", "PLACED", 1),
        ("dr", "d1", "PLACED", 1),
        ("dr", "d2", "LIVE", 1),
    ):
        client.send(
            "vm-moved",
            "erp-db",
            "VmMoved",
            vm_id="erp-db",
            site=site,
            node=node,
            kind=kind,
            occurred_at_ms=1_700_000_001_000 + sequence,
            sequence=sequence,
        )
    updates = client.receive("routing-updates", 4)
    assert [(update["epoch"], update["cause"], update["changed"]["node"]) for update in updates] == [
        (1, "INVENTORY", ""),
        (2, "PLACED", "p1"),
        (3, "PLACED", "d1"),
        (4, "LIVE", "d2"),
    ]
    assert {place["site"]: (place["node"], place["role"]) for place in updates[-1]["locations"]} == {
        "primary": ("p1", "PRIMARY"),
        "dr": ("d2", "REPLICA"),
    }
    assert updates[-1]["_key"] == b"erp-db"
    assert updates[-1]["_headers"]["ce_type"].endswith(b".RoutingUpdate")
    client.send(
        "failover-requested",
        "erp-db",
        "FailoverRequested",
        run_id="run-1",
        action="REQUEST",
        kind="PLANNED",
        actor="alice",
        reason="maintenance",
        requested_at_ms=1_700_000_002_000,
        vm_id="erp-db",
        ticket="CHG-7",
    )
    (look,) = client.receive("step-commands.primary", 1)
    assert (look["step"], look["action"], look["node"]) == ("P0", "INSPECT", "p1")
    answer(client, look, "the VM runs")
    (stage,) = client.receive("step-commands.dr", 1)
    assert (stage["step"], stage["action"], stage["node"], stage["attempt"]) == ("P1", "STAGE_ADDRESSES", "d2", 1)
    assert TRACE.encode() in stage["_headers"]["traceparent"]
    answer(client, stage, "nothing to stage")
    _, shut_down = client.receive("step-commands.primary", 2)
    assert (shut_down["step"], shut_down["action"], shut_down["node"]) == ("P2", "SHUT_DOWN", "p1")
    assert shut_down["epoch"] == stage["epoch"] == 5
    answer(client, shut_down, "the guest is off")
    entries = client.receive("failover-journal", 8)
    assert [(entry["sequence"], entry["rule"], entry["what"]) for entry in entries] == [
        (0, "R1", "planned failover from primary to dr begins"),
        (1, "R2", "P0 issued to primary/p1: INSPECT"),
        (2, "R2", "P0 done: the VM runs"),
        (3, "R2", "P1 issued to dr/d2: STAGE_ADDRESSES"),
        (4, "R2", "P1 done: nothing to stage"),
        (5, "R2", "P2 issued to primary/p1: SHUT_DOWN"),
        (6, "R2", "P2 done: the guest is off"),
        (7, "R2", "P3 issued to primary/p1: PREPARE"),
    ]
    assert {(entry["actor"], entry["reason"], entry["ticket"]) for entry in entries} == {
        ("alice", "maintenance", "CHG-7")
    }


def answer(client: Foreign, command: dict[str, Any], detail: str) -> None:
    """Say, as the site agent would, that a step is done."""
    client.send(
        "step-results",
        command["vm_id"],
        "StepResult",
        **{name: command[name] for name in ("run_id", "step", "attempt", "vm_id", "site", "node", "epoch")},
        outcome="DONE",
        detail=detail,
        finished_at_ms=command["issued_at_ms"],
    )
