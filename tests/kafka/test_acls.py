"""A Kafka that asks who one is, and allows each user the least: what may be done works, and what may not is refused.

What is refused is tried without our own code in between: a request of Kafka's protocol, sent to the partition's leader
by somebody who has a user's password and knows what the topic is called.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import errors as aiokafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from typer.testing import CliRunner

from failover_orch.cli import common
from failover_orch.cli import kafka as kafka_commands
from failover_orch.cli import topics as topics_commands
from failover_orch.config import Settings
from failover_orch.contract import TOPICS, Codec, User, key_of, site_topic, state_topic, step_commands_topic, topic_of
from failover_orch.demo.processes import Processes
from failover_orch.domain import (
    AuditEntry,
    JournalEntry,
    Location,
    MoveKind,
    Role,
    RoutingUpdate,
    StepOutcome,
    StepResult,
    VmMoved,
)
from failover_orch.domain.records import RouteCause
from failover_orch.errors import (
    ConfigError,
    FailoverOrchError,
    KafkaError,
    KafkaForbidden,
    KafkaUnavailable,
    KafkaUntrusted,
    TopicMismatch,
)
from failover_orch.kafka import (
    SUPER_USER,
    Acl,
    LocalKafka,
    Operation,
    Pattern,
    Resource,
    UserNames,
    check_acls,
    check_topics,
    create_acls,
    create_topics,
    desired_topics,
    wanted_acls,
)
from failover_orch.kafka_address import Address, Mechanism, Protocol, Security, client_options, security_of
from failover_orch.topology import bundled
from failover_orch.wire import Publisher, now_ms, partition_counts, read_to_end

pytestmark = pytest.mark.kafka

CODEC = Codec()
SITES = ("primary", "dr")
PARTITIONS = 2
WITHIN_S = 60.0
ACCEPTED = 0
FORBIDDEN = aiokafka_errors.TopicAuthorizationFailedError.errno

MOVED = VmMoved("vm-1", "dr", "d1", MoveKind.LIVE, 1)
RESULT_OF_DR = StepResult("run-1", "P1", 1, "vm-1", "dr", "d1", 1, StepOutcome.DONE, "", 1)
HERE = Location("primary", "p9", Role.PRIMARY, 1)
DECISIONS = (
    JournalEntry("run-1", "vm-1", 1, "P1", "what never was", "RUNNING", 1),
    AuditEntry("vm-1", "what never was", "done", 1),
    RoutingUpdate("vm-1", 99, RouteCause.LIVE, HERE, "d1", (HERE,), 1),
)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """One broker that speaks SASL_SSL alone, with a user for each process."""
    kafka = LocalKafka(tmp_path_factory.mktemp("secure") / "kafka", brokers=1, secure=True, sites=SITES)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop(grace_s=0)


@pytest.fixture
async def installation(secure: LocalKafka, prefix: str) -> Settings:
    """Topics and rights as `topics create --acls` makes them; the settings are the super user's."""
    settings = Settings(bootstrap=secure.bootstrap, app_id=f"{prefix}app", topic_prefix=prefix, partitions=PARTITIONS)
    await create_topics(settings.bootstrap, desired_topics(settings, SITES, 1))
    made = await create_acls(settings.bootstrap, wanted_acls(settings, SITES, UserNames()))
    assert made.created
    assert not made.missing
    return settings


@pytest.fixture
def as_user(secure: LocalKafka, installation: Settings) -> Callable[[str], Settings]:
    """The installation's settings for a user of Kafka."""
    return lambda user: dataclasses.replace(installation, bootstrap=secure.address_of(user))


def publisher(settings: Settings, *, site: str = "") -> Publisher:
    return Publisher(
        settings.bootstrap, CODEC, names=settings.names, partitions=PARTITIONS, source="test", site=site, patience_s=10
    )


async def produced(bootstrap: str, writes: Iterable[tuple[str, bytes, bytes]]) -> dict[str, int]:
    """Write a record of each (topic, key, value) by Kafka's protocol alone; the error code that each topic gave."""
    client = AIOKafkaClient(**client_options(bootstrap))
    await client.bootstrap()
    try:
        (broker,) = client.cluster.brokers()
        codes: dict[str, int] = {}
        for topic, key, value in writes:
            batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1_000_000)
            batch.append(0, now_ms(), key, value, [])
            answer = await client.send(broker.nodeId, ProduceRequest(None, -1, 10_000, [(topic, [(0, batch.build())])]))
            ((_, ((_, code, *_),)),) = answer.topics
            codes[topic] = code
        return codes
    finally:
        await client.close()


async def records(settings: Settings, topic: str) -> list[Any]:
    reading = read_to_end(settings.bootstrap, [topic], names=settings.names)
    return [record async for batch in reading for record in batch]


async def test_a_site_agents_credentials_forge_no_decision_and_no_word_of_another_site(
    installation: Settings, as_user: Callable[[str], Settings]
) -> None:
    agent = as_user("site-agent-primary")
    named = installation.names.of
    forged = [(named(topic_of(value)), key_of(value), CODEC.encode(value)) for value in DECISIONS]
    word = (key_of(RESULT_OF_DR), CODEC.encode(RESULT_OF_DR))
    forged += [(named(topic), *word) for topic in ("step-results.dr", "step-results", "step-commands.primary")]
    assert set((await produced(agent.bootstrap, forged)).values()) == {FORBIDDEN}
    for topic in ("failover-journal", "audit-trail", "routing-updates", "step-results", "step-commands.primary"):
        assert await records(installation, topic) == []
    # That is what was refused, and not how it was asked for: its own site's topic takes the very same request.
    own = named("step-results.primary")
    assert await produced(agent.bootstrap, [(own, *word)]) == {own: ACCEPTED}


async def test_a_site_agent_writes_to_its_own_sites_topics_and_dead_letters_alone(
    installation: Settings, as_user: Callable[[str], Settings]
) -> None:
    everything = await every_topic(installation)
    codes = await produced(as_user("site-agent-dr").bootstrap, [(topic, b"k", b"v") for topic in everything])
    allowed = {topic for topic, code in codes.items() if code == ACCEPTED}
    own = {site_topic(topic.name, "dr") for topic in TOPICS if topic.per_site}
    assert allowed == {installation.names.of(topic) for topic in own | {"dead-letters"}}
    assert set(codes.values()) == {ACCEPTED, FORBIDDEN}


async def test_a_viewer_reads_everything_and_writes_nothing(
    installation: Settings, as_user: Callable[[str], Settings]
) -> None:
    viewer = as_user(User.VIEWER)
    codes = await produced(viewer.bootstrap, [(topic, b"k", b"v") for topic in await every_topic(installation)])
    assert set(codes.values()) == {FORBIDDEN}
    async with publisher(installation, site="dr") as publishing:
        await publishing.publish(MOVED)
    assert len(await records(viewer, "vm-moved")) == 1
    for topic in TOPICS:
        await records(viewer, topic.name)
    with pytest.raises(KafkaForbidden, match="does not allow user viewer a producer: no ACL of theirs is for writing"):
        async with publisher(viewer):
            pass


@pytest.mark.parametrize("user", [user for user in User if user not in (User.SITE_AGENT, User.VIEWER)])
async def test_each_user_writes_what_the_topic_table_says_and_nothing_else(
    user: User, installation: Settings, as_user: Callable[[str], Settings]
) -> None:
    everything = await every_topic(installation)
    codes = await produced(as_user(user).bootstrap, [(topic, b"k", b"v") for topic in everything])
    expected = {topic.name for topic in TOPICS if user in topic.writers}
    if user is User.WORKER:
        expected |= {step_commands_topic(site) for site in SITES} | {state_topic(installation.app_id)}
    assert {topic for topic, code in codes.items() if code == ACCEPTED} == set(map(installation.names.of, expected))


async def every_topic(settings: Settings) -> list[str]:
    return [topic for topic in await partition_counts(settings.bootstrap) if topic.startswith(settings.topic_prefix)]


async def test_what_is_forbidden_is_one_sentence_with_the_topic_and_what_to_do(
    as_user: Callable[[str], Settings],
) -> None:
    agent = as_user("site-agent-primary")
    with pytest.raises(KafkaForbidden) as forbidden:
        async with publisher(agent) as publishing:
            await publishing.publish(DECISIONS[-1])
    said = str(forbidden.value)
    assert "user site-agent-primary" in said
    assert agent.names.of("routing-updates") in said
    assert "`failover-orch topics create --acls`" in said
    # What one may not even see looks as if it were not there.
    with pytest.raises(TopicMismatch, match=r"has no topic .*failover-journal that user site-agent-primary may see"):
        async with publisher(agent) as publishing:
            await publishing.publish(DECISIONS[0])
    with pytest.raises(KafkaForbidden, match="does not tell this user the settings of topic"):
        await check_topics(as_user(User.OPERATOR).bootstrap, desired_topics(agent, SITES, 1))
    with pytest.raises(
        KafkaForbidden, match=r"does not allow user viewer to read ACLs: do it as one of its super\.users"
    ):
        await check_acls(as_user(User.VIEWER).bootstrap, [])


async def test_who_is_not_let_in_is_told_why(secure: LocalKafka, tmp_path: Path) -> None:
    known = security_of(secure.address_of("worker"))

    async def asked(**changed: Any) -> None:
        await partition_counts(Address(str(secure.bootstrap), dataclasses.replace(known, **changed)))

    await asked()
    with pytest.raises(KafkaForbidden, match="does not let user worker in by SCRAM-SHA-512: see that"):
        await asked(password="wrong")
    with pytest.raises(KafkaForbidden, match="does not let user nobody in"):
        await asked(username="nobody")
    with pytest.raises(KafkaForbidden, match="does not let user worker in by PLAIN"):
        await asked(mechanism=Mechanism.PLAIN)
    other = LocalKafka(tmp_path / "other", secure=True)
    other._security.directory.parent.mkdir()
    other._security.create("127.0.0.1", "127.0.0.1:1", ())
    with pytest.raises(KafkaUntrusted, match=r"is not to be trusted .* which is .*ca\.pem"):
        await asked(ca_file=other._security.ca_file)
    with pytest.raises(KafkaUntrusted, match="FAILOVER_ORCH_KAFKA_CA_FILE, which is not set"):
        await asked(ca_file=None)
    with pytest.raises(KafkaUnavailable, match="where Kafka speaks TLS or asks who one is, set FAILOVER_ORCH"):
        await partition_counts(str(secure.bootstrap))
    with pytest.raises(KafkaError):
        await partition_counts(Address(str(secure.bootstrap), Security(Protocol.SSL, ca_file=known.ca_file)))


async def test_rights_that_are_missing_or_too_many_are_told(
    installation: Settings, as_user: Callable[[str], Settings]
) -> None:
    wanted = wanted_acls(installation, SITES, UserNames())
    administrator = as_user(User.ADMINISTRATOR).bootstrap
    report = await check_acls(administrator, wanted)
    ours = [acl for acl in report.excess if acl.name.startswith(installation.topic_prefix)]
    assert (report.missing, ours) == ((), [])
    journal = installation.names.of("failover-journal")
    added = [
        Acl("User:site-agent-dr", Resource.TOPIC, journal, Operation.WRITE),
        Acl("User:stranger", Resource.TOPIC, installation.topic_prefix, Operation.READ, Pattern.PREFIXED),
    ]
    await create_acls(installation.bootstrap, added)
    more = wanted_acls(installation, (*SITES, "third"), UserNames())
    report = await check_acls(administrator, more)
    assert set(added) <= set(report.excess)
    assert {acl.principal for acl in report.missing} == {"User:site-agent-third"}
    assert str(added[0]) == f"User:site-agent-dr may WRITE topic {journal}"


async def test_a_kafka_without_an_authorizer_says_so(kafka: LocalKafka) -> None:
    with pytest.raises(KafkaError, match=r"has no authorizer, so that everybody may do everything: set authorizer"):
        await check_acls(kafka.bootstrap, [])


def test_an_open_kafka_does_not_become_a_secure_one_by_asking(secure: LocalKafka) -> None:
    with pytest.raises(FailoverOrchError, match="is secure, and an open one was asked for: stop it and remove"):
        LocalKafka(secure.directory, secure=False).start()
    assert LocalKafka(secure.directory).status().users_directory == secure.directory / "security" / "users"


def test_the_commands_make_the_rights_and_say_what_is_missing(
    secure: LocalKafka, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(bootstrap=secure.bootstrap, app_id=f"{prefix}app", topic_prefix=prefix, partitions=PARTITIONS)
    environment = environment_of(settings) | {"COLUMNS": "200"}

    def topics(*arguments: str) -> tuple[int, str]:
        # Users of its own, lest those of the other tests' installations count as too much.
        result = CliRunner().invoke(topics_commands.app, [*arguments, "--user-prefix", prefix], env=environment)
        return result.exit_code, result.output

    made = len(wanted_acls(settings, SITES, UserNames(prefix)))
    code, said = topics("create", "--acls")
    assert (code, f"{made} ACLs made, {made} as they ought to be" in said) == (0, True), said
    code, said = topics("check", "--acls")
    assert (code, f"0 ACLs made, {made} as they ought to be" in said) == (0, True), said
    code, said = topics("check", "--acls", "--user", "viewer=somebody-else")
    assert code == 1
    assert "Missing" in said
    assert "More than anybody needs" in said
    code, said = topics("check", "--user", "nobody=x")
    assert (code, "--user nobody=x: expected USER=NAME, where USER is one of worker" in said) == (1, True), said
    code, said = topics("acls", "--commands")
    assert code == 0
    assert len(said.splitlines()) == made


def test_a_secure_local_kafka_says_where_its_passwords_are_and_asks_who_one_is(
    secure: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = CliRunner().invoke(kafka_commands.app, ["status", "--directory", str(secure.directory)])
    users = secure.directory / "security" / "users"
    assert status.exit_code == 0
    assert f"source {users}/kafka.env && failover-orch topics create --acls" in status.output
    assert {path.stem for path in users.glob("*.env")} == {SUPER_USER, *UserNames().all(SITES)}
    monkeypatch.setattr(common, "LocalKafka", lambda: secure)
    monkeypatch.delenv("FAILOVER_ORCH_BOOTSTRAP", raising=False)
    with pytest.raises(ConfigError, match=r"the local Kafka asks who you are: `source .*administrator\.env`"):
        common.settings()


# Every process under its own user


def environment_of(settings: Settings) -> dict[str, str]:
    security = security_of(settings.bootstrap)
    return {
        "FAILOVER_ORCH_BOOTSTRAP": settings.bootstrap,
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
        "FAILOVER_ORCH_PARTITIONS": str(settings.partitions),
        "FAILOVER_ORCH_KAFKA_SECURITY": security.protocol,
        "FAILOVER_ORCH_KAFKA_USERNAME": security.username,
        "FAILOVER_ORCH_KAFKA_PASSWORD": security.password,
        "FAILOVER_ORCH_KAFKA_CA_FILE": str(security.ca_file),
    }


@contextmanager
def running(directory: Path, settings: Settings, *arguments: str) -> Iterator[Processes]:
    """A process under the user that the settings are for."""
    user = security_of(settings.bootstrap).username
    place = directory / user
    place.mkdir()
    processes = Processes(place, environment_of(settings))
    try:
        processes.start(user, *arguments)
        yield processes
        processes.require_alive()
    except BaseException:
        sys.stdout.write(f"--- {user}\n{(place / f'{user}.log').read_text(errors='replace')[-4000:]}\n")
        raise
    finally:
        processes.stop()


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "failover_orch", *arguments],
        env=os.environ | environment_of(settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {WITHIN_S:g} s"
        time.sleep(0.2)


async def test_a_planned_failover_needs_no_right_but_those(as_user: Callable[[str], Settings], tmp_path: Path) -> None:
    topology, world = str(bundled("two-sites")), tmp_path / "world.db"
    viewer = as_user(User.VIEWER)

    def where() -> dict[str, str]:
        asked = command(viewer, "vm", "where", "core-dns", "--json")
        return {here["role"]: here["node"] for here in json.loads(asked.stdout)["locations"]} if asked.stdout else {}

    def healthy() -> bool:
        shown = command(viewer, "vm", "show", "core-dns", "--json")
        health = json.loads(shown.stdout)["health"] if shown.stdout else None
        return health is not None and health["health"] == "Normal"

    with ExitStack() as stack:
        stack.enter_context(running(tmp_path, as_user(User.WORKER), "worker"))
        for site in SITES:
            options = ("--site", site, "--world", str(world), "--topology", topology, "--report-every", "1")
            stack.enter_context(running(tmp_path, as_user(f"site-agent-{site}"), "site-agent", *options))
        stack.enter_context(running(tmp_path, as_user(User.SERVICE), "serve", "--port", "0"))
        until(world.exists, "the world is made")
        applied = command(as_user(User.ADMINISTRATOR), "topology", "apply", topology)
        assert applied.returncode == 0, applied.stderr
        until(healthy, "core-dns replicates")
        before = where()
        refused = command(viewer, "failover", "planned", "core-dns", "--reason", "patch day")
        assert refused.returncode == 1
        assert "does not allow user viewer" in refused.stderr
        asked = command(as_user(User.OPERATOR), "failover", "planned", "core-dns", "--reason", "patch day")
        assert asked.returncode == 0, asked.stdout + asked.stderr
        after = where()
        assert (after["PRIMARY"], after["REPLICA"]) == (before["REPLICA"], before["PRIMARY"])
        assert command(viewer, "audit", "verify").returncode == 0
        told = (tmp_path / User.SERVICE / f"{User.SERVICE}.log").read_text()
        assert "caught up" in told
    # Each agent spoke on its own site's topics, and nobody on the common ones of its kinds.
    results = await records(viewer, "step-results")
    assert {record.topic for record in results} == {"step-results.primary", "step-results.dr"}
    assert await records(viewer, "dead-letters") == []
