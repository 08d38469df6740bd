"""No secret is in a log, in a record on Kafka, in what commands say, or in an export of the audit trail.

A whole installation runs with marked secrets, at log level DEBUG, on a Kafka that asks for passwords: things are
done that need each secret, and things that fail with it, since it is errors that say too much.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from certificates_for_tests import Authority
from failover_orch.config import Settings
from failover_orch.contract import User
from failover_orch.demo.processes import Processes
from failover_orch.kafka import LocalKafka, UserNames, create_acls, create_topics, desired_topics, wanted_acls
from failover_orch.kafka_address import security_of
from failover_orch.topology import bundled
from failover_orch.wire import partition_counts, read_to_end
from identity_provider import provider, signer

pytestmark = pytest.mark.kafka

SITES = ("primary", "dr")
WITHIN_S = 90.0
BMC = "bmc-4f1d9e7c-never-to-be-seen"
BASIC = "basic-77aa01c3-never-to-be-seen"
SCRIPTED = "made-up-0b52d1f4-never-to-be-seen"
FENCES = "\n".join(
    f"  - {{site: primary, node: p{number}, agent: ipmi, host: 127.0.0.1, port: 9, user: dr-fence, "
    "password_file: bmc.secret, timeout: 1}"
    for number in (1, 2, 3)
)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    kafka = LocalKafka(tmp_path_factory.mktemp("secure") / "kafka", brokers=1, secure=True, sites=SITES)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop(grace_s=0)


class Installation:
    """Its processes and commands, each as a user of Kafka, and all that they say."""

    def __init__(self, kafka: LocalKafka, settings: Settings, directory: Path) -> None:
        self.kafka = kafka
        self.settings = settings
        self.directory = directory
        self.secrets: dict[str, str] = {}
        """What must not be seen, by what it is."""
        self._said: list[str] = []

    def environment(self, user: str) -> Mapping[str, str]:
        address = self.kafka.address_of(user)
        security = security_of(address)
        password = self.directory / f"{user}.password"
        password.touch(mode=0o600)
        password.write_text(security.password)
        self.secrets[f"Kafka's password of {user}"] = security.password
        return {
            "FAILOVER_ORCH_BOOTSTRAP": str(address),
            "FAILOVER_ORCH_APP_ID": self.settings.app_id,
            "FAILOVER_ORCH_TOPIC_PREFIX": self.settings.topic_prefix,
            "FAILOVER_ORCH_PARTITIONS": str(self.settings.partitions),
            "FAILOVER_ORCH_KAFKA_SECURITY": security.protocol,
            "FAILOVER_ORCH_KAFKA_USERNAME": security.username,
            "FAILOVER_ORCH_KAFKA_PASSWORD_FILE": str(password),
            "FAILOVER_ORCH_KAFKA_CA_FILE": str(security.ca_file),
            "FAILOVER_ORCH_LOG": "DEBUG",
        }

    def start(self, stack: ExitStack, user: str, *arguments: str) -> Path:
        """Start a process until the stack ends; returns its log."""
        place = self.directory / user
        place.mkdir()
        processes = Processes(place, self.environment(user))
        processes.start(user, *arguments)
        stack.callback(processes.stop)
        return place / f"{user}.log"

    def command(self, user: str, *arguments: str, secret: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command; what it says counts, but for the one output that is to be a secret."""
        done = subprocess.run(
            [sys.executable, "-m", "failover_orch", *arguments],
            env=os.environ | self.environment(user),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self._said += [done.stderr, "" if secret else done.stdout]
        return done

    async def everything(self) -> Mapping[str, bytes]:
        """All that can be read of it, by where."""
        told = {f"log {path.name}": path.read_bytes() for path in self.directory.glob("*/*.log")}
        told["commands"] = "\n".join(self._said).encode()
        told["audit export"] = b"".join(path.read_bytes() for path in self.directory.glob("export*"))
        for topic in await partition_counts(self.settings.bootstrap):
            if topic.startswith(self.settings.topic_prefix):
                name = self.settings.names.plain(topic)
                reading = read_to_end(self.settings.bootstrap, [name], names=self.settings.names)
                found = [record async for records in reading for record in records]
                told[f"topic {name}"] = b"\n".join(
                    b"%b %b %b" % (record.key, record.value or b"", repr(record.headers).encode()) for record in found
                )
        return told


@pytest.fixture
async def installation(secure: LocalKafka, prefix: str, tmp_path: Path) -> Installation:
    settings = Settings(bootstrap=secure.bootstrap, app_id=f"{prefix}app", topic_prefix=prefix, partitions=2)
    await create_topics(settings.bootstrap, desired_topics(settings, SITES, 1))
    await create_acls(settings.bootstrap, wanted_acls(settings, SITES, UserNames()))
    return Installation(secure, settings, tmp_path)


def until(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {WITHIN_S:g} s"
        time.sleep(0.2)
    return found


def service_file(installation: Installation, issuer: str) -> Path:
    directory = installation.directory
    clients = Authority(directory, "clients")
    for pair in (
        Authority(directory, "ours").signed("server"),
        clients.signed("agent", dns=["agent.dr.example"], client=True),
    ):
        installation.secrets[f"the key of {pair.certificate.name}"] = pair.key.read_text().splitlines()[1]
    file = directory / "service.yaml"
    file.write_text(
        "listen: 127.0.0.1:0\n"
        "tls: {certificate: server.crt, key: server.key, client_ca: clients.pem}\n"
        "certificates: [{name: agent.dr.example, role: site_agent, sites: [dr]}]\n"
        f"oidc: {{issuer: '{issuer}', audience: failover-orch, grants: [{{value: dr-operators, role: operator}}]}}\n"
    )
    return file


def site_file(installation: Installation, world: Path) -> Path:
    directory = installation.directory
    secret = directory / "bmc.secret"
    secret.touch(mode=0o600)
    secret.write_text(BMC)
    installation.secrets["the controllers' password"] = BMC
    file = directory / "dr.yaml"
    file.write_text(
        "site: dr\n"
        "agent: {report_every: 1, evidence_every: 1}\n"
        f"hypervisor: {{kind: simulated, world: {world}, topology: {bundled('two-sites')}}}\n"
        f"fences:\n{FENCES}\n"
    )
    return file


async def test_no_secret_is_told_to_anybody(installation: Installation, tmp_path: Path) -> None:
    world, topology = tmp_path / "world.db", str(bundled("two-sites"))
    key = signer("ES256")
    with ExitStack() as stack:
        issuer = stack.enter_context(provider(key))
        tokens = {
            "an identity token": key.token(issuer.claims(sub="carl")),
            "a forged identity token": signer("ES256").token(issuer.claims(sub="eve")),
        }
        service = service_file(installation, issuer.issuer)
        installation.start(stack, User.WORKER, "worker")
        installation.start(stack, "site-agent-dr", "site-agent", "--config", str(site_file(installation, world)))
        until(world.exists, "the world is made")
        primary = ("--site", "primary", "--world", str(world), "--topology", topology, "--report-every", "1")
        with ExitStack() as at_primary:
            installation.start(at_primary, "site-agent-primary", "site-agent", *primary)
            log = installation.start(stack, User.SERVICE, "serve", "--config", str(service))
            applied = installation.command(User.ADMINISTRATOR, "topology", "apply", topology)
            assert applied.returncode == 0, applied.stderr
            address = until(lambda: _listening(log), "the service listens")
            _ask(installation, address, tokens)
        # A run that fails: what its steps say is in the journal and the reports.
        assert installation.command(User.OPERATOR, "world", "cut-link", "--world", str(world)).returncode == 0
        failed = installation.command(
            User.OPERATOR, "failover", "unplanned", "core-print", "--fence", "--reason", "lost"
        )
        assert failed.returncode != 0
        export = installation.directory / "export.jsonl"
        until(lambda: b"refused" in _exported(installation, export), "refusals are in the audit trail")

    told = await installation.everything()
    # That it is all there: what is no secret is found.
    assert b"alice" in told["topic access-tokens"]
    assert b"create access token" in told["audit export"]
    assert b"PUT /v1" in told["audit export"]
    assert b"RELEASE_BRAKE" in told["audit export"]
    assert b"cannot be reached" in told["topic step-results.dr"]
    assert b'"level":"DEBUG"' in told["log service.log"]
    assert all(content for where, content in told.items() if where.startswith("log "))
    assert len(installation.secrets) > 10
    # An exchange from which a password could be guessed at leisure is as good as the password.
    installation.secrets["what SASL exchanges"] = "SaslAuthenticate"
    found = [
        f"{what} in {where}"
        for what, secret in installation.secrets.items()
        for where, content in told.items()
        for form in (secret.encode(), base64.b64encode(secret.encode()))
        if form in content
    ]
    assert not found, "\n".join(found)


def _listening(log: Path) -> str:
    lines = log.read_text().splitlines() if log.exists() else []
    return next((line.removeprefix("listening on ") for line in lines if line.startswith("listening on ")), "")


def _exported(installation: Installation, export: Path) -> bytes:
    export.unlink(missing_ok=True)
    done = installation.command(User.VIEWER, "audit", "export", str(export))
    assert done.returncode == 0, done.stderr
    return export.read_bytes()


def _ask(installation: Installation, address: str, tokens: Mapping[str, str]) -> None:
    """Call with every kind of credentials, good and bad."""
    administrator = installation.command(
        User.ADMINISTRATOR,
        *("token", "create", "--name", "alice", "--role", "administrator", "--expires", "1d", "--reason", "test"),
        secret=True,
    )
    good = administrator.stdout.strip()
    secret = good.split("_", 2)[2]
    installation.secrets["an API token of the command line"] = secret
    wrong = f"{good.rpartition('_')[0]}_{SCRIPTED}"
    installation.secrets["a secret that somebody made up"] = SCRIPTED
    installation.secrets["a password in basic authentication"] = BASIC
    basic = base64.b64encode(f"alice:{BASIC}".encode()).decode()
    installation.secrets["basic authentication"] = basic
    for what, token in tokens.items():
        installation.secrets[what] = token
        installation.secrets[f"the signature of {what}"] = token.rpartition(".")[2]
    authority = ssl.create_default_context(cafile=installation.directory / "ours.pem")
    agent = ssl.create_default_context(cafile=installation.directory / "ours.pem")
    agent.load_cert_chain(installation.directory / "agent.crt", installation.directory / "agent.key")
    with httpx.Client(base_url=address, verify=authority, timeout=30) as client:

        def ask(method: str, path: str, authorization: str, body: object = None) -> httpx.Response:
            key = {"Idempotency-Key": str(time.monotonic_ns())}
            return client.request(method, path, json=body, headers={"Authorization": authorization} | key)

        until(lambda: ask("GET", "/v1/vms/core-dns", f"Bearer {good}").status_code == 200, "the token is taken")
        assert ask("GET", "/v1/vms", f"Bearer {tokens['an identity token']}").status_code == 200
        for bad in (wrong, tokens["a forged identity token"]):
            assert ask("GET", "/v1/vms", f"Bearer {bad}").status_code == 401
        assert ask("GET", "/v1/vms", f"Basic {basic}").status_code == 401
        # Refused for what they are, not for who: in the audit trail by name.
        brake = {"engaged": False, "reason": "storm"}
        assert ask("PUT", "/v1/brake", f"Bearer {tokens['an identity token']}", brake).status_code == 403
        assert ask("PUT", "/v1/brake", f"Bearer {wrong}", brake).status_code == 401
        body = {"name": "bob", "grants": [{"role": "VIEWER"}], "lifetime_s": 3600, "reason": "test"}
        made = ask("POST", "/v1/tokens", f"Bearer {good}", body)
        assert made.status_code == 202
        installation.secrets["an API token made over HTTP"] = made.json()["token"].split("_", 2)[2]
        run = {"kind": "PLANNED", "vms": ["core-dns"], "reason": "drill"}
        assert ask("POST", "/v1/runs", f"Bearer {good}", run).status_code in (202, 422)
        listed = ask("GET", "/v1/tokens", f"Bearer {good}").text
        assert secret not in listed
        assert json.loads(listed)["tokens"]
    with httpx.Client(base_url=address, verify=agent, timeout=30) as client:
        assert client.get("/v1/vms/core-dns/route").status_code == 200
        body = {"primary_server": "p1.example", "vm": "core-dns"}
        assert client.post("/v1/placements", json=body).status_code == 403  # in the name of another server
