"""A real Apache Kafka on this machine, without Docker: one broker, or three of which some may be lost."""

from __future__ import annotations

import base64
import json
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from failover_orch.errors import KafkaUnavailable, LocalKafkaError
from failover_orch.kafka.local_security import SUPER_USER, LocalSecurity
from failover_orch.kafka.ports import LOOPBACK, free_ports, is_free, listens
from failover_orch.kafka.readiness import await_ready
from failover_orch.kafka.tools import LOG4J2, cache_directory, java, libraries, locked
from failover_orch.kafka_address import Address
from failover_orch.processes import alive, how_it_ended, launch, recorded, terminate

__all__ = ["BrokerStatus", "LocalKafka", "LocalStatus"]

BROKER_COUNTS = (1, 3)
START_TIMEOUT_S = 120.0
STOP_GRACE_S = 15.0
_OWNERS_ALONE = 0o600
SYSTEM_TOPIC_PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class _Ports:
    broker: int
    controller: int


@dataclass(frozen=True, slots=True)
class _Cluster:
    """What is written down at the first start and holds for good."""

    cluster_id: str
    ports: tuple[_Ports, ...]
    address: str = LOOPBACK
    """Where clients reach it."""
    secure: bool = False
    """Whether it speaks TLS, asks who one is, and allows nothing that no ACL allows."""


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """One broker: where it listens, and its pid while it runs. Brokers are numbered from 1."""

    number: int
    address: str
    pid: int | None
    log: Path


@dataclass(frozen=True, slots=True)
class LocalStatus:
    """A local Kafka as it stands. `brokers` is empty before the first start."""

    directory: Path
    brokers: tuple[BrokerStatus, ...]
    users_directory: Path | None = None
    """Where a secure one keeps for each user what they need to be let in; None: everybody may do everything."""

    @property
    def running(self) -> bool:
        """Whether any broker runs."""
        return any(broker.pid is not None for broker in self.brokers)

    @property
    def bootstrap(self) -> str:
        """The addresses of all brokers, running or not; empty before the first start."""
        return ",".join(broker.address for broker in self.brokers)


class LocalKafka:
    """Apache Kafka in KRaft mode in a directory, which keeps its data, ports, logs and pid files.

    Any number of these may stand for the same directory, in any number of processes: what is so is in the directory.
    The methods block; from async code call them with `asyncio.to_thread`.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        brokers: int | None = None,
        address: str | None = None,
        secure: bool | None = None,
        sites: Sequence[str] = (),
    ) -> None:
        """`directory` defaults to the user's own local Kafka; `brokers` to what is there, or one.

        `address`: the address of this machine where it takes clients, for those that do not reach its loopback
        address, which is the default: whoever reaches the address may do anything with it, unless `secure`.

        `secure`: it speaks TLS with a certificate of its own making, asks for users' passwords, and allows nothing that
        no ACL allows; made at the first start, with a user for the agents of each of `sites`. None: as it is there.

        Raises:
            LocalKafkaError: `brokers` is neither 1 nor 3.

        """
        if brokers is not None and brokers not in BROKER_COUNTS:
            raise LocalKafkaError(f"a local Kafka has 1 or 3 brokers, not {brokers}")
        self.directory = (directory or cache_directory() / "local").absolute()
        self._brokers = brokers
        self._address = address
        self._secure = secure
        self._sites = tuple(sites)
        self._security = LocalSecurity(self.directory / "security")

    @property
    def bootstrap(self) -> str:
        """The address for clients: `host:port[,host:port...]`; of a secure one that for its super user.

        Raises:
            LocalKafkaError: it was never started.

        """
        cluster = self._known()
        return self._for_super_user(cluster, _servers(cluster))

    def address_of(self, user: str) -> Address:
        """The address of a secure Kafka for one of its users.

        Raises:
            LocalKafkaError: it was never started, or there is no such user.

        """
        return self._security.address_of(_servers(self._known()), user)

    def status(self) -> LocalStatus:
        """What runs, by the pid files; a pid that is gone or somebody else's counts as not running."""
        cluster = self._read()
        return LocalStatus(
            directory=self.directory,
            brokers=tuple(
                BrokerStatus(
                    number=number,
                    address=_at(cluster, ports),
                    pid=recorded(self._pid_file(number), mark=self._mark(number)),
                    log=self._log(number),
                )
                for number, ports in enumerate(cluster.ports, start=1)
            )
            if cluster is not None
            else (),
            users_directory=self._security.users_directory if cluster is not None and cluster.secure else None,
        )

    def start(self) -> None:
        """Start every broker that does not run, and return when the cluster takes groups and transactions.

        Raises:
            LocalKafkaError: Java or Maven is missing or too old, a port was taken, a broker ended or was not ready in
                time. What this call started is stopped again.

        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.directory / "lock"):
            cluster = self._read() or self._create()
            if self._brokers is not None and self._brokers != len(cluster.ports):
                raise LocalKafkaError(
                    f"the Kafka in {self.directory} has {_count(len(cluster.ports))}, and {self._brokers} were asked "
                    f"for: stop it and remove {self.directory} to start anew, or name another directory"
                )
            if self._address is not None and self._address != cluster.address:
                raise LocalKafkaError(
                    f"the Kafka in {self.directory} takes clients at {cluster.address}, and {self._address} was asked "
                    f"for: stop it and remove {self.directory} to start anew, or name another directory"
                )
            if self._secure is not None and self._secure != cluster.secure:
                is_, asked = ("secure", "an open one") if cluster.secure else ("open to everybody", "a secure one")
                raise LocalKafkaError(
                    f"the Kafka in {self.directory} is {is_}, and {asked} was asked for: stop it and remove "
                    f"{self.directory} to start anew, or name another directory"
                )
            numbers = range(1, len(cluster.ports) + 1)
            self._start([number for number in numbers if self._pid(number) is None], cluster)

    def stop(self, *, grace_s: float = STOP_GRACE_S) -> bool:
        """Stop every broker and wait until it is gone; killed after `grace_s` seconds (0: at once). Data stays.

        Returns whether any ran.

        Raises:
            LocalKafkaError: a broker could not be ended.

        """
        cluster = self._read()
        if cluster is None:
            return False
        with locked(self.directory / "lock"):
            running = [pid for number in range(1, len(cluster.ports) + 1) if (pid := self._pid(number)) is not None]
            self._terminate(running, grace_s)
            for number in range(1, len(cluster.ports) + 1):
                self._pid_file(number).unlink(missing_ok=True)
        return bool(running)

    def kill_broker(self, number: int) -> None:
        """SIGKILL one broker (numbered from 1) and wait until it is gone.

        Raises:
            LocalKafkaError: there is no such broker, or it does not run.

        """
        pid = self._pid(self._checked(number))
        if pid is None:
            raise LocalKafkaError(f"broker {number} in {self.directory} does not run")
        self._terminate([pid], 0)

    def start_broker(self, number: int) -> None:
        """Start one broker (numbered from 1) that does not run, and return when the cluster is ready with it.

        Raises:
            LocalKafkaError: as `start`; or there is no such broker.

        """
        self._checked(number)
        with locked(self.directory / "lock"):
            if self._pid(number) is None:
                self._start([number], self._known())

    def _start(self, numbers: Sequence[int], cluster: _Cluster) -> None:
        command = [str(java()), "-cp", f"{libraries()}/*"]
        launched: dict[int, int] = {}
        try:
            for number in numbers:
                self._require_ports(cluster.address, cluster.ports[number - 1])
                self._write_properties(number, cluster)
                self._format(number, command, cluster)
            for number in numbers:
                launched[number] = self._launch(number, command)
            self._wait(launched, cluster)
        except BaseException:
            # Ctrl-C too: a start leaves all of it running, or nothing.
            self._terminate(list(launched.values()), 0)
            raise

    def _wait(self, launched: Mapping[int, int], cluster: _Cluster) -> None:
        """Wait until what was launched listens, then until the cluster works; say so early when a broker ends."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(listens(cluster.address, cluster.ports[number - 1].broker) for number in launched):
            self._require_alive(launched)
            if time.monotonic() > deadline:
                raise LocalKafkaError(
                    f"Kafka does not listen after {START_TIMEOUT_S:g} s: see {self._log(min(launched))}"
                )
            time.sleep(0.1)
        running = [number for number in range(1, len(cluster.ports) + 1) if self._pid(number) is not None]
        servers = ",".join(_at(cluster, cluster.ports[number - 1]) for number in running)
        bootstrap = self._for_super_user(cluster, servers)
        try:
            await_ready(bootstrap, brokers=len(running), timeout_s=max(1.0, deadline - time.monotonic()))
        except KafkaUnavailable as error:
            self._require_alive(launched)
            raise LocalKafkaError(f"{error}: see {self._log(min(running))}") from error

    def _require_alive(self, launched: Mapping[int, int]) -> None:
        for number, pid in launched.items():
            if not alive(pid, mark=self._mark(number)):
                raise LocalKafkaError(
                    f"broker {number} ended as it started ({how_it_ended(pid)}): {self._last_words(number)}"
                )

    def _last_words(self, number: int) -> str:
        """What an ended broker logged last as an error, and where the rest is."""
        for path in (self._log(number), self._console(number)):
            if path.exists():
                lines = path.read_text(errors="replace").splitlines()[-200:]
                for line in reversed(lines):
                    if " ERROR " in line or " FATAL " in line or line.startswith(("Exception", "Error", "Caused by")):
                        return f"{line.strip()} (see {path})"
        return f"it said nothing (see {self._console(number)})"

    def _launch(self, number: int, command: Sequence[str]) -> int:
        home = self._home(number)
        options = ["-Xmx400m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
        options += [f"-Dlog4j2.configurationFile={LOG4J2}", f"-Dfailover.orch.kafka.log={self._log(number)}"]
        arguments = [command[0], *options, *command[1:], "kafka.Kafka", self._mark(number)]
        return launch(arguments, output=home / "console.log", pid_file=self._pid_file(number))

    def _format(self, number: int, command: Sequence[str], cluster: _Cluster) -> None:
        if (self._home(number) / "data" / "meta.properties").exists():
            return
        arguments = ["kafka.tools.StorageTool", "format", "-t", cluster.cluster_id, "-c", self._mark(number)]
        arguments += self._security.format_arguments() if cluster.secure else []
        options = ["-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={LOG4J2}"]
        options += [f"-Dfailover.orch.kafka.log={self._log(number)}"]
        done = subprocess.run(
            [command[0], *options, *command[1:], *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
            raise LocalKafkaError(f"the directory {self._home(number) / 'data'} could not be formatted: {said}")

    def _write_properties(self, number: int, cluster: _Cluster) -> None:
        self._home(number).mkdir(parents=True, exist_ok=True)
        properties = dict(_properties(number, cluster, self._home(number) / "data"))
        if cluster.secure:
            properties |= self._security.properties()
        path = Path(self._mark(number))
        path.touch(mode=_OWNERS_ALONE)  # of a secure one it holds a password
        path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))

    def _require_ports(self, address: str, ports: _Ports) -> None:
        for host, port in ((address, ports.broker), (LOOPBACK, ports.controller)):
            if not is_free(host, port):
                raise LocalKafkaError(
                    f"port {port}, which the Kafka in {self.directory} uses, is taken by another process: end that "
                    f"one, or remove {self.directory} to start anew on other ports"
                )

    def _terminate(self, pids: Sequence[int], grace_s: float) -> None:
        try:
            terminate(pids, mark=str(self.directory), grace_s=grace_s)
        except (TimeoutError, PermissionError) as error:
            raise LocalKafkaError(f"the Kafka in {self.directory} cannot be stopped: {error}") from error

    def _read(self) -> _Cluster | None:
        path = self.directory / "cluster.json"
        try:
            written = json.loads(path.read_text())
            ports = tuple(_Ports(**each) for each in written["ports"])
            return _Cluster(
                written["cluster_id"], ports, written.get("address", LOOPBACK), written.get("secure", False)
            )
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise LocalKafkaError(f"{path} cannot be understood: remove {self.directory} to start anew") from error

    def _create(self) -> _Cluster:
        count = self._brokers or BROKER_COUNTS[0]
        address = self._address or LOOPBACK
        free = free_ports(address, 2 * count)
        ports = tuple(_Ports(*free[2 * i : 2 * i + 2]) for i in range(count))
        cluster = _Cluster(_cluster_id(), ports, address, self._secure or False)
        if cluster.secure:
            self._security.create(address, _servers(cluster), self._sites)
        new = self.directory / "cluster.json.new"
        new.write_text(json.dumps(asdict(cluster), indent=2) + "\n")
        new.replace(self.directory / "cluster.json")
        return cluster

    def _known(self) -> _Cluster:
        cluster = self._read()
        if cluster is None:
            raise LocalKafkaError(f"the Kafka in {self.directory} was never started: `failover-orch kafka start`")
        return cluster

    def _for_super_user(self, cluster: _Cluster, servers: str) -> str:
        return self._security.address_of(servers, SUPER_USER) if cluster.secure else servers

    def _checked(self, number: int) -> int:
        count = len(self._known().ports)
        if not 1 <= number <= count:
            raise LocalKafkaError(f"there is no broker {number}: the Kafka in {self.directory} has {_count(count)}")
        return number

    def _pid(self, number: int) -> int | None:
        return recorded(self._pid_file(number), mark=self._mark(number))

    def _home(self, number: int) -> Path:
        return self.directory / f"broker-{number}"

    def _pid_file(self, number: int) -> Path:
        return self._home(number) / "pid"

    def _log(self, number: int) -> Path:
        return self._home(number) / "server.log"

    def _console(self, number: int) -> Path:
        return self._home(number) / "console.log"

    def _mark(self, number: int) -> str:
        """Path of the broker's configuration: what its command line, and no other, holds."""
        return str(self._home(number) / "server.properties")


def _properties(number: int, cluster: _Cluster, data: Path) -> Mapping[str, object]:
    """A broker's configuration. Three brokers keep everything three times and need two to be there."""
    ports = cluster.ports[number - 1]
    copies = len(cluster.ports)
    in_sync = min(2, copies)
    voters = ",".join(f"{i}@{LOOPBACK}:{each.controller}" for i, each in enumerate(cluster.ports, start=1))
    return {
        "process.roles": "broker,controller",
        "node.id": number,
        "controller.quorum.voters": voters,
        "listeners": f"BROKER://{_at(cluster, ports)},CONTROLLER://{LOOPBACK}:{ports.controller}",
        "advertised.listeners": f"BROKER://{_at(cluster, ports)}",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "BROKER",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "unclean.leader.election.enable": "false",
        "num.network.threads": 2,
        "num.io.threads": 4,
        "log.cleaner.dedupe.buffer.size": 33_554_432,
        "log.cleaner.backoff.ms": 1_000,
        "broker.session.timeout.ms": 6_000,
        "broker.heartbeat.interval.ms": 1_000,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1_000,
        "transaction.max.timeout.ms": 900_000,
        "offsets.topic.num.partitions": SYSTEM_TOPIC_PARTITIONS,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.num.partitions": SYSTEM_TOPIC_PARTITIONS,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
    }


def _cluster_id() -> str:
    """A random id in Kafka's own form. One that starts with a dash would pass for an option of its tools."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _servers(cluster: _Cluster) -> str:
    return ",".join(_at(cluster, ports) for ports in cluster.ports)


def _at(cluster: _Cluster, ports: _Ports) -> str:
    """Where clients reach a broker."""
    return f"{cluster.address}:{ports.broker}"


def _count(brokers: int) -> str:
    return "1 broker" if brokers == 1 else f"{brokers} brokers"
