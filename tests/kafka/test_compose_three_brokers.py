"""`compose/three-brokers.yaml`, held against the file that it lies upon. Needs no Docker."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).parents[2] / "compose"
BASE: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
UPON: dict[str, Any] = yaml.safe_load((COMPOSE / "three-brokers.yaml").read_text())["services"]
BROKERS = {name: service["environment"] for name, service in UPON.items() if "KAFKA_NODE_ID" in service["environment"]}


def test_three_brokers_are_one_kafka() -> None:
    assert sorted(BROKERS) == ["kafka", "kafka-2", "kafka-3"]
    voters = {f"{environment['KAFKA_NODE_ID']}@{name}:9093" for name, environment in BROKERS.items()}
    for name, environment in BROKERS.items():
        assert set(environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")) == voters
        assert environment["CLUSTER_ID"] == BROKERS["kafka"]["CLUSTER_ID"]
        assert f"INSIDE://{name}:9092" in environment["KAFKA_ADVERTISED_LISTENERS"]
    for each in ("KAFKA_NODE_ID", "KAFKA_BROKER_RACK", "KAFKA_ADVERTISED_LISTENERS"):
        assert len({environment[each] for environment in BROKERS.values()}) == len(BROKERS)
    # Kafka takes 16 bytes in its own base64 for an id, which are 22 characters.
    assert len(BROKERS["kafka"]["CLUSTER_ID"]) == len("5L6g3nShT-eMCtK--X86sw")


def test_a_broker_differs_from_the_single_one_in_what_makes_three_of_it() -> None:
    single = BASE["kafka"]["environment"]
    differs = {name for name, value in BROKERS["kafka"].items() if single.get(name) != value}
    assert differs == {
        "CLUSTER_ID",
        "KAFKA_BROKER_RACK",
        "KAFKA_CONTROLLER_QUORUM_VOTERS",
        "KAFKA_DEFAULT_REPLICATION_FACTOR",
        "KAFKA_MIN_INSYNC_REPLICAS",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR",
    }
    assert set(single) <= set(BROKERS["kafka"])
    assert {UPON[name].get("image", BASE["kafka"]["image"]) for name in BROKERS} == {BASE["kafka"]["image"]}


def test_our_processes_know_all_three_and_topics_are_there_three_times() -> None:
    ours = {name for name, service in BASE.items() if "build" in service}
    bootstrap = ",".join(f"{name}:9092" for name in sorted(BROKERS))
    assert {name: UPON[name]["environment"]["FAILOVER_ORCH_BOOTSTRAP"] for name in ours} == dict.fromkeys(
        ours, bootstrap
    )
    assert ("--replication", "3") in itertools.pairwise(UPON["topics"]["command"])
    assert UPON["topics"]["command"][: len(BASE["topics"]["command"])] == BASE["topics"]["command"]
