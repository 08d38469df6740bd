"""Two simulated sites for tests that fail VMs over for real: their world, their agents, and a reader from outside.

The reader shares no line with what is tested: confluent-kafka and fastavro alone, committed records only.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import fastavro
from confluent_kafka import Consumer, KafkaError, TopicPartition
from topics import publisher
from workers import SESSION_TIMEOUT_S, Supervised, say, until

from failover_orch.config import Settings
from failover_orch.domain import (
    Adapter,
    AdapterAddresses,
    AdapterKind,
    ClusterInventory,
    CommitPolicy,
    FailoverKind,
    FailoverRequested,
    FamilyAddresses,
    Guest,
    IntegrationServices,
    Node,
    NodeState,
    Policy,
    PolicyScope,
    Replication,
    ReplicationState,
    RequestAction,
    RunState,
    Storage,
    VmInventory,
    VmReplicationSettings,
)
from failover_orch.hypervisors.simulated import PlacedVm, SimulatedWorld

__all__ = [
    "DR",
    "PRIMARY",
    "SITES",
    "Follower",
    "Seen",
    "address_at",
    "agent_command",
    "asked",
    "known_to_the_broker",
    "make_world",
    "now_ms",
    "publish_settings",
    "ready",
    "running_agents",
    "test_address",
    "word",
]

PRIMARY, DR = SITES = ("primary", "dr")
ADAPTER = "nic-1"
NETWORKS = {PRIMARY: "10.10", DR: "10.50"}
TEST_NETWORK = "10.99"
PERSON = "alice"
FREQUENCY_S = 30
SCHEMAS = Path(__file__).parents[2] / "schemas"
RECORDS = {
    "dead-letters": "DeadLetter",
    "failover-journal": "JournalEntry",
    "failover-runs": "RunSnapshot",
    "health-changes": "HealthChange",
    "routing-updates": "RoutingUpdate",
}
SINGLE_OBJECT_HEADER = 10
POLL_S = 0.05
AWAY = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# The world


def address_at(site: str, number: int) -> str:
    """What the VM of that number in the world has at a site."""
    return _address(NETWORKS[site], number)


def test_address(number: int) -> str:
    """What the test copy of the VM of that number has."""
    return _address(TEST_NETWORK, number)


test_address.__test__ = False  # type: ignore[attr-defined]  # or pytest takes it for a test


def _address(network: str, number: int) -> str:
    return f"{network}.{number // 200}.{number % 200 + 10}/16"


def make_world(
    path: Path, vms: Mapping[str, tuple[str, str]], *, boot_ms: int = 100, shutdown_ms: int = 50
) -> SimulatedWorld:
    """A world in which every VM runs at the primary site. `vms`: id to its nodes, at the primary site and at dr."""
    nodes = {site: list(dict.fromkeys(where[index] for where in vms.values())) for index, site in enumerate(SITES)}
    clusters = [
        ClusterInventory(f"{site}-cluster", site, f"{site}-broker", tuple(_node(site, name) for name in nodes[site]))
        for site in SITES
    ]
    placed = [
        PlacedVm(_inventory(vm_id, number), here, f"/csv/{PRIMARY}", there, f"/csv/{DR}")
        for number, (vm_id, (here, there)) in enumerate(vms.items())
    ]
    return SimulatedWorld.create(path, clusters, placed, boot_ms=boot_ms, shutdown_ms=shutdown_ms)


def _node(site: str, name: str) -> Node:
    return Node(name, NodeState.UP, 1_048_576, 1_048_576, storages=(Storage(f"/csv/{site}", 100_000, 90_000),))


def _inventory(vm_id: str, number: int) -> VmInventory:
    return VmInventory(
        vm_id,
        vm_id,
        (Adapter(ADAPTER, AdapterKind.SYNTHETIC, f"00155d{number:06x}", "lan", (address_at(PRIMARY, number),)),),
        Guest("windows-server-2022", IntegrationServices.RUNNING),
        Replication(
            ReplicationState.REPLICATING,
            PRIMARY,
            DR,
            f"{PRIMARY}-cluster",
            f"{DR}-cluster",
            frequency_s=FREQUENCY_S,
        ),
    )


async def publish_settings(settings: Settings, vm_ids: Sequence[str]) -> None:
    """Each VM's addresses at either site and of its test copy; and health that counts as soon as it is better."""

    def wanted(address: str) -> tuple[AdapterAddresses, ...]:
        return (AdapterAddresses(ADAPTER, ipv4=FamilyAddresses(addresses=(address,))),)

    async with publisher(settings) as publishing:
        await publishing.publish(
            Policy(
                PolicyScope.ALL,
                recover_after_ms=0,
                drill_within_ms=0,
                actor=PERSON,
                reason="a test",
                set_at_ms=now_ms(),
            ),
            *(
                VmReplicationSettings(
                    vm_id,
                    wanted(address_at(DR, number)),
                    actor=PERSON,
                    reason="a test",
                    set_at_ms=now_ms(),
                    home_adapters=wanted(address_at(PRIMARY, number)),
                    test_adapters=wanted(test_address(number)),
                    test_network="isolated",
                )
                for number, vm_id in enumerate(vm_ids)
            ),
        )


# Site agents


def agent_command(site: str, world: Path, *options: str) -> tuple[str, ...]:
    """The command line of a site's agent."""
    command = (sys.executable, "-m", "failover_orch", "site-agent", "--site", site, "--world", str(world))
    return (*command, *options)


@contextmanager
def running_agents(
    settings: Settings,
    directory: Path,
    world: Path,
    count: int,
    *options: str,
    session_timeout_s: float = SESSION_TIMEOUT_S,
) -> Iterator[dict[str, Supervised]]:
    """So many agents for each site, by site, that run while the block does. Where it fails, their logs are printed."""
    agents: dict[str, Supervised] = {}
    try:
        for site in SITES:
            command = agent_command(site, world, *options)
            agents[site] = Supervised(
                settings, directory, command, name=f"agent-{site}", session_timeout_s=session_timeout_s
            )
            for _ in range(count):
                agents[site].start()
        yield agents
    except BaseException:
        for supervised in agents.values():
            supervised.show()
        raise
    finally:
        for supervised in agents.values():
            supervised.close()


# What people say


def asked(
    kind: FailoverKind,
    run_id: str,
    *,
    vm_id: str = "",
    vm_ids: Sequence[str] = (),
    plan_id: str = "",
    primary_is_down: bool = False,
    commit: CommitPolicy = CommitPolicy.AT_ONCE,
    window_ms: int = 0,
) -> FailoverRequested:
    """A request to fail a VM, a list or a plan over."""
    return FailoverRequested(
        run_id,
        RequestAction.REQUEST,
        kind,
        PERSON,
        "a test",
        now_ms(),
        vm_id=vm_id,
        vm_ids=tuple(vm_ids),
        plan_id=plan_id,
        primary_is_down=primary_is_down,
        commit=commit,
        window_ms=window_ms,
    )


def word(
    action: RequestAction, run: Mapping[str, Any], *, vm_ids: Sequence[str] = (), step: str = ""
) -> FailoverRequested:
    """What a person says to a run, by its snapshot. A list's run is found under its own id."""
    return FailoverRequested(
        run["run_id"],
        action,
        FailoverKind(run["kind"]),
        PERSON,
        "a test",
        now_ms(),
        vm_id=run["vm_id"],
        plan_id=run["plan_id"],
        vm_ids=tuple(vm_ids),
        step=step,
    )


# Reading from outside


@dataclass(frozen=True, slots=True)
class Seen:
    """A record as the reader had it, and when by the monotonic clock, in seconds."""

    at_s: float
    value: Mapping[str, Any]


class Follower:
    """Follows topics in a thread of its own, from their beginnings, whatever becomes of brokers meanwhile."""

    def __init__(self, settings: Settings, *topics: str) -> None:
        self._topics = {settings.names.of(topic): topic for topic in topics}
        self._schemas = {topic: fastavro.schema.load_schema(_schema(RECORDS[topic])) for topic in topics}
        self._consumer = Consumer(
            {
                "bootstrap.servers": settings.bootstrap,
                "group.id": f"follower-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._consumer.assign(
            [TopicPartition(name, partition, 0) for name in self._topics for partition in range(settings.partitions)]
        )
        self._seen: dict[str, list[Seen]] = {topic: [] for topic in topics}
        self._runs: dict[str, Mapping[str, Any]] = {}
        self._failure: BaseException | None = None
        self._closing = threading.Event()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._reading.join()
        self._consumer.close()

    def seen(self, topic: str) -> list[Seen]:
        """Every record of a topic so far, as it came."""
        if self._failure is not None:
            raise self._failure
        return list(self._seen[topic])

    def values(self, topic: str) -> list[Mapping[str, Any]]:
        """Their values."""
        return [seen.value for seen in self.seen(topic)]

    def count(self) -> int:
        """How many records came, of all topics."""
        return sum(map(len, self._seen.values()))

    def runs(self) -> dict[str, Mapping[str, Any]]:
        """The latest snapshot of each run."""
        if self._failure is not None:
            raise self._failure
        return dict(self._runs)

    def run(self, run_id: str) -> Mapping[str, Any]:
        """The latest snapshot of a run; empty before the first."""
        return self.runs().get(run_id, {})

    def ended(self, run_id: str) -> bool:
        """Whether a run has ended."""
        found = self.run(run_id)
        return bool(found) and RunState(found["state"]).ended

    def _read(self) -> None:
        try:
            while not self._closing.is_set():
                for message in self._consumer.consume(num_messages=1_000, timeout=POLL_S):
                    self._take(message)
        except BaseException as error:  # noqa: BLE001 (raised again where the test looks)
            self._failure = error

    def _take(self, message: Any) -> None:
        error = message.error()
        if error is not None:
            assert error.code() in AWAY or error.retriable(), error
            return
        topic = self._topics[message.topic()]
        if message.value() is None:
            return
        reader = BytesIO(message.value()[SINGLE_OBJECT_HEADER:])
        value: Any = fastavro.schemaless_reader(reader, self._schemas[topic], None)
        self._seen[topic].append(Seen(time.monotonic(), value))
        if topic == "failover-runs":
            self._runs[value["run_id"]] = value


def _schema(record: str) -> str:
    """The newest version of a record's schema."""
    versions = SCHEMAS.glob(f"{record}.v*.avsc")
    return str(max(versions, key=lambda path: int(path.name.split(".")[1].removeprefix("v"))))


def ready(health: Mapping[str, Any]) -> bool:
    """Whether the broker would take a planned failover of this VM now, by what it says of it."""
    refused = any(defect.startswith(("D1", "D2")) for defect in health["defects"])
    return health["readiness"] in ("READY", "AT_RISK") and not refused and health["health"] != "Critical"


async def known_to_the_broker(
    follower: Follower, vm_ids: Sequence[str], *, fit: Callable[[Mapping[str, Any]], bool] = ready
) -> None:
    """Wait until the broker's last word on the health and readiness of every VM is fit."""

    def unfit() -> list[object]:
        latest = {change["vm_id"]: change for change in follower.values("health-changes")}
        return [latest.get(vm_id, vm_id) for vm_id in vm_ids if vm_id not in latest or not fit(latest[vm_id])]

    try:
        await until(lambda: not unfit(), f"the broker finds {len(vm_ids)} VMs ready", timeout_s=120)
    except AssertionError:
        say(*unfit())
        raise
