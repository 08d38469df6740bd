"""The local Kafka: what it says when the machine lacks something, and what real brokers do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from failover_orch.config import Settings
from failover_orch.contract import Codec, Names
from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.errors import LocalKafkaError
from failover_orch.kafka import LocalKafka, create_topics, desired_topics, tools
from failover_orch.kafka.tools import JARS, KAFKA_VERSION, java, libraries
from failover_orch.processes import alive, launch, recorded, terminate
from failover_orch.wire import Publisher, read_to_end

Script = Callable[[str, str], Path]


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Puts a shell script under a name first on the path."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.delenv("JAVA_HOME", raising=False)

    def write(name: str, body: str) -> Path:
        path = directory / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def only(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> Script:
    """As `script`, and nothing else is on the path."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return script


def test_java_missing(only: Script) -> None:
    with pytest.raises(LocalKafkaError, match=r"java is not on the path: install a JDK 17"):
        java()


def test_java_missing_in_java_home(only: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(LocalKafkaError, match=rf"java is not in JAVA_HOME={tmp_path}"):
        java()


@pytest.mark.parametrize(
    ("said", "version"), [('openjdk version "11.0.2" 2019', "11"), ('java version "1.8.0_402"', "8")]
)
def test_java_too_old(script: Script, said: str, version: str) -> None:
    script("java", f"echo '{said}' >&2")
    with pytest.raises(LocalKafkaError, match=rf"is Java {version}, and Kafka 4.4.0 needs 17"):
        java()


@pytest.mark.parametrize(
    "said", ['openjdk version "17.0.15" 2025-04-15', 'openjdk version "21" 1', 'java version "26-ea"']
)
def test_java_that_will_do(script: Script, said: str) -> None:
    good = script("java", f"echo '{said}' >&2")
    assert java() == good


def test_java_that_is_broken(script: Script) -> None:
    script("java", "exit 3")
    with pytest.raises(LocalKafkaError, match=r"does not say a version \(exit code 3\)"):
        java()


def test_maven_missing(only: Script, tmp_path: Path) -> None:
    with pytest.raises(LocalKafkaError, match=r"mvn is not on the path.*install Maven"):
        libraries(tmp_path)


def test_maven_that_fails_leaves_nothing(script: Script, tmp_path: Path) -> None:
    script("mvn", "echo '[INFO] so far'; echo '[ERROR] no route to host'; exit 1")
    with pytest.raises(LocalKafkaError, match=r"exit code 1\): \[ERROR\] no route to host; see that this machine"):
        libraries(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["kafka-4.4.0.lock"]


FAKE_MAVEN = """
echo fetched >> {calls}
for argument; do case $argument in -DoutputDirectory=*) out=${{argument#-DoutputDirectory=}};; esac; done
mkdir -p "$out" && {meanwhile} && echo jar > "$out/kafka_2.13.jar"
"""


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    """The list of the only jar that the fake Maven gives."""
    listed = tmp_path / "jars.sha256"
    digest = hashlib.sha256(b"jar\n").hexdigest()
    listed.write_text(f"{digest}  kafka_2.13.jar\n")
    return listed


def test_two_processes_fetch_once(script: Script, tmp_path: Path, jars: Path) -> None:
    calls, go = tmp_path / "calls", tmp_path / "go"
    os.mkfifo(go)
    script("mvn", FAKE_MAVEN.format(calls=calls, meanwhile=f"read _ < {go}"))
    fetch = (
        "import pathlib, sys; from failover_orch.kafka.tools import libraries; "
        "print(libraries(pathlib.Path(sys.argv[1]), jars=pathlib.Path(sys.argv[2])))"
    )
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", fetch, str(cache), str(jars)]
    fetching = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    until(calls.exists)
    assert not (cache / "kafka-4.4.0").exists()
    go.write_text("\n")
    said = [process.communicate(timeout=30)[0].strip() for process in fetching]
    assert said == [str(cache / "kafka-4.4.0" / "libs")] * 2
    assert calls.read_text() == "fetched\n"
    assert sorted(path.name for path in cache.iterdir()) == ["kafka-4.4.0", "kafka-4.4.0.lock"]


def test_a_changed_pom_is_fetched_anew(script: Script, tmp_path: Path, jars: Path) -> None:
    calls = tmp_path / "calls"
    script("mvn", FAKE_MAVEN.format(calls=calls, meanwhile=":"))
    cache = tmp_path / "cache"
    libraries(cache, jars=jars)
    libraries(cache, jars=jars)
    assert calls.read_text() == "fetched\n"
    (cache / "kafka-4.4.0" / "pom.xml").write_text("of an older release")
    assert (libraries(cache, jars=jars) / "kafka_2.13.jar").exists()
    assert calls.read_text() == "fetched\nfetched\n"


def test_a_jar_that_maven_had_from_elsewhere_is_not_kept(script: Script, tmp_path: Path, jars: Path) -> None:
    script("mvn", FAKE_MAVEN.format(calls=tmp_path / "calls", meanwhile=":"))
    jars.write_text(f"{'0' * 64}  kafka_2.13.jar\n")
    with pytest.raises(LocalKafkaError, match=r"kafka_2.13.jar has the SHA-256 [0-9a-f]{64}, expected 0{64}: Maven's"):
        libraries(tmp_path / "cache", jars=jars)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["kafka-4.4.0.lock"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("kafka_2.13.jar", "tampered with", r"kafka_2.13.jar has the SHA-256"),
        ("zz.jar", "one more", r"zz.jar in .* is none of the jars that Kafka is made of"),
        ("kafka_2.13.jar", None, r"kafka_2.13.jar is missing of Kafka's jars"),
    ],
)
def test_a_jar_that_changed_since_it_was_fetched_is_not_run(
    script: Script, tmp_path: Path, jars: Path, name: str, content: str | None, sentence: str
) -> None:
    script("mvn", FAKE_MAVEN.format(calls=tmp_path / "calls", meanwhile=":"))
    cache = tmp_path / "cache"
    changed = libraries(cache, jars=jars) / name
    changed.unlink(missing_ok=True)
    if content is not None:
        changed.write_text(content)
    with pytest.raises(LocalKafkaError, match=rf"{sentence}.*: remove {cache / 'kafka-4.4.0'} to have it fetched"):
        libraries(cache, jars=jars)


def test_every_jar_that_is_run_is_listed_with_its_hash() -> None:
    lines = JARS.read_text().splitlines()
    assert len(lines) > 40
    assert all(re.fullmatch(r"[0-9a-f]{64}  [A-Za-z0-9._-]+\.jar", line) for line in lines)
    assert {f"kafka_2.13-{KAFKA_VERSION}.jar", f"kafka-server-{KAFKA_VERSION}.jar"} <= {line[66:] for line in lines}


def test_a_pid_that_is_somebody_elses_is_not_trusted(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    for text in ("", "not a number", str(os.getpid()), "4194305"):
        pid_file.write_text(text)
        assert recorded(pid_file, mark="no-such-configuration") is None
    assert recorded(tmp_path / "no file", mark="pytest") is None


def test_a_process_that_does_not_listen_to_sigterm_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    deaf = (
        "import pathlib, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "pathlib.Path(sys.argv[1]).touch(); signal.pause()"
    )
    pid = launch([sys.executable, "-c", deaf, str(ready)], output=tmp_path / "out", pid_file=tmp_path / "pid")
    assert recorded(tmp_path / "pid", mark=str(ready)) == pid
    until(ready.exists)
    terminate([pid], mark=str(ready), grace_s=0.2)
    assert not alive(pid, mark=str(ready))
    assert recorded(tmp_path / "pid", mark=str(ready)) is None


def test_a_process_of_another_name_is_not_ended(tmp_path: Path) -> None:
    pid = launch(["/bin/sleep", "60"], output=tmp_path / "out", pid_file=tmp_path / "pid")
    terminate([pid], mark="no-such-configuration", grace_s=0)
    assert alive(pid, mark="sleep")
    terminate([pid], mark="sleep", grace_s=5)
    assert not alive(pid, mark="sleep")


def test_never_started(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path / "kafka")
    assert not kafka.status().running
    assert kafka.stop() is False
    with pytest.raises(LocalKafkaError, match=r"never started: `failover-orch kafka start`"):
        _ = kafka.bootstrap
    assert not (tmp_path / "kafka").exists()


def test_two_brokers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalKafkaError, match=r"1 or 3 brokers, not 2"):
        LocalKafka(tmp_path, brokers=2)


def test_another_number_of_brokers_than_there_is(tmp_path: Path) -> None:
    write_cluster(tmp_path, 20_001, 20_002)
    with pytest.raises(LocalKafkaError, match=r"has 1 broker, and 3 were asked for: stop it and remove"):
        LocalKafka(tmp_path, brokers=3).start()
    with pytest.raises(LocalKafkaError, match=r"there is no broker 2"):
        LocalKafka(tmp_path).kill_broker(2)
    with pytest.raises(LocalKafkaError, match=r"broker 1 in .* does not run"):
        LocalKafka(tmp_path).kill_broker(1)


def test_another_address_than_it_has(tmp_path: Path) -> None:
    write_cluster(tmp_path, 20_001, 20_002)
    with pytest.raises(LocalKafkaError, match=r"takes clients at 127.0.0.1, and 127.0.0.2 was asked for: stop it"):
        LocalKafka(tmp_path, address="127.0.0.2").start()


def test_an_address_that_is_not_of_this_machine(tmp_path: Path) -> None:
    with pytest.raises(LocalKafkaError, match=r"are free on 192.0.2.1: is that an address of this machine\?"):
        LocalKafka(tmp_path, address="192.0.2.1").start()


def test_a_directory_that_cannot_be_understood(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text("{")
    with pytest.raises(LocalKafkaError, match=r"cluster.json cannot be understood: remove"):
        LocalKafka(tmp_path).status()


def write_cluster(directory: Path, broker: int, controller: int) -> None:
    ports = [{"broker": broker, "controller": controller}]
    (directory / "cluster.json").write_text(json.dumps({"cluster_id": "AAAAAAAAAAAAAAAAAAAAAA", "ports": ports}))


@pytest.fixture
def fake_kafka(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jars: Path) -> Path:
    """A directory for a local Kafka whose jars are there; its Java is for the test to write."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    script("mvn", FAKE_MAVEN.format(calls=tmp_path / "calls", meanwhile=":"))
    monkeypatch.setattr(tools, "JARS", jars)
    return tmp_path / "kafka"


def test_a_port_that_is_taken(fake_kafka: Path, script: Script) -> None:
    script("java", "echo 'openjdk version \"17\"' >&2")
    fake_kafka.mkdir()
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        write_cluster(fake_kafka, port, 20_001)
        with pytest.raises(LocalKafkaError, match=rf"port {port}, .* is taken by another process"):
            LocalKafka(fake_kafka).start()


def test_a_broker_that_ends_as_it_starts_is_quoted(fake_kafka: Path, script: Script) -> None:
    script(
        "java",
        'case "$*" in -version) echo \'openjdk version "17"\' >&2;; *Storage*) ;; '
        '*) echo "Error: out of luck"; exit 1;; esac',
    )
    with pytest.raises(
        LocalKafkaError, match=r"broker 1 ended .* \(exit code 1\): Error: out of luck \(see .*console.log"
    ):
        LocalKafka(fake_kafka).start()
    assert not LocalKafka(fake_kafka).status().running


def test_a_start_that_fails_ends_what_it_started(fake_kafka: Path, script: Script) -> None:
    script(
        "java",
        'case "$*" in -version) echo \'openjdk version "17"\' >&2;; *Storage*) ;; '
        "*broker-2/server.properties) exit 1;; *) while :; do sleep 1; done;; esac",
    )
    kafka = LocalKafka(fake_kafka, brokers=3)
    with pytest.raises(LocalKafkaError, match=r"broker 2 ended as it started"):
        kafka.start()
    assert [broker.pid for broker in kafka.status().brokers] == [None, None, None]
    assert kafka.bootstrap.count(",") == 2


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A Kafka that these tests may stop and start, made by two starts at the same time."""
    local = LocalKafka(tmp_path_factory.mktemp("own") / "kafka", brokers=1)
    failures: list[BaseException] = []

    def start() -> None:
        try:
            LocalKafka(local.directory, brokers=1).start()
        except LocalKafkaError as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        yield local
    finally:
        local.stop(grace_s=0)


def moves(number: int) -> list[VmMoved]:
    return [VmMoved(f"vm-{i}", "primary", "p1", MoveKind.LIVE, 1) for i in range(number)]


async def publish(bootstrap: str, *values: object) -> None:
    async with Publisher(bootstrap, Codec(), names=Names(), partitions=8, source="test") as publisher:
        await publisher.publish(*values)


async def count(bootstrap: str, topic: str) -> int:
    return sum([len(received) async for received in read_to_end(bootstrap, [topic], names=Names())])


def runs(kafka: LocalKafka) -> list[bool]:
    return [broker.pid is not None for broker in kafka.status().brokers]


@pytest.mark.kafka
def test_it_can_be_started_again_with_its_ports_and_data(own: LocalKafka) -> None:
    asyncio.run(create_topics(own.bootstrap, desired_topics(Settings(), [], 1)))
    asyncio.run(publish(own.bootstrap, *moves(10)))
    before = own.status()
    own.start()
    assert own.status() == before
    assert own.stop()
    assert not own.status().running
    assert own.stop() is False
    again = LocalKafka(own.directory)
    again.start()
    assert again.bootstrap == before.bootstrap
    assert asyncio.run(count(again.bootstrap, "vm-moved")) == 10
    again.kill_broker(1)
    assert runs(again) == [False]
    again.start_broker(1)
    assert asyncio.run(count(again.bootstrap, "vm-moved")) == 10


@pytest.mark.kafka
def test_it_takes_clients_at_the_address_that_it_is_given(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path / "kafka", address="127.0.0.2")
    try:
        kafka.start()
        assert kafka.bootstrap.startswith("127.0.0.2:")
        assert LocalKafka(kafka.directory).status().bootstrap == kafka.bootstrap
        asyncio.run(create_topics(kafka.bootstrap, desired_topics(Settings(), [], 1)))
        asyncio.run(publish(kafka.bootstrap, *moves(10)))
        assert asyncio.run(count(kafka.bootstrap, "vm-moved")) == 10
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(kafka.bootstrap.rpartition(":")[2])))
    finally:
        kafka.stop(grace_s=0)


@pytest.mark.kafka
def test_ctrl_c_does_not_reach_it(own: LocalKafka) -> None:
    own.start()
    (broker,) = own.status().brokers
    assert broker.pid is not None
    assert os.getpgid(broker.pid) == broker.pid != os.getpgid(0)
    assert "INFO" in broker.log.read_text()


async def test_with_three_brokers_one_may_be_lost(three_brokers: LocalKafka) -> None:
    bootstrap = three_brokers.bootstrap
    await create_topics(bootstrap, desired_topics(Settings(), [], 3))
    await publish(bootstrap, *moves(100))
    three_brokers.kill_broker(2)
    try:
        await publish(bootstrap, *moves(100))
        assert await count(bootstrap, "vm-moved") == 200
        assert runs(three_brokers) == [True, False, True]
    finally:
        three_brokers.start_broker(2)
    assert runs(three_brokers) == [True, True, True]
    await publish(bootstrap, *moves(100))
    assert await count(bootstrap, "vm-moved") == 300
