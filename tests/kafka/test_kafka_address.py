"""How a process learns to be let in by Kafka: from its environment, in full, and without a secret to be seen."""

from __future__ import annotations

import copy
import dataclasses
import ssl
from pathlib import Path

import pytest

from failover_orch.config import Settings
from failover_orch.errors import ConfigError
from failover_orch.kafka.local_security import LocalSecurity
from failover_orch.kafka_address import Address, Mechanism, Protocol, Security, client_options, security_of

SECRET = "marker-4711"
NAMED = {
    "FAILOVER_ORCH_BOOTSTRAP": "kafka-1:9093,kafka-2:9093",
    "FAILOVER_ORCH_KAFKA_SECURITY": "SASL_SSL",
    "FAILOVER_ORCH_KAFKA_USERNAME": "worker",
    "FAILOVER_ORCH_KAFKA_PASSWORD": SECRET,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> LocalSecurity:
    made = LocalSecurity(tmp_path_factory.mktemp("kafka") / "security")
    made.create("127.0.0.1", "127.0.0.1:9093", ["dr"])
    return made


def test_without_a_word_of_it_nothing_is_proved_and_nothing_hidden() -> None:
    settings = Settings.from_environment({"FAILOVER_ORCH_BOOTSTRAP": "kafka-1:9092"})
    assert client_options(settings.bootstrap) == {
        "bootstrap_servers": "kafka-1:9092",
        "security_protocol": "PLAINTEXT",
    }
    assert client_options("kafka-1:9092") == client_options(settings.bootstrap)


def test_a_user_and_a_password_go_along_with_the_address_and_are_not_to_be_seen() -> None:
    settings = Settings.from_environment(NAMED)
    options = dict(client_options(settings.bootstrap))
    assert isinstance(options.pop("ssl_context"), ssl.SSLContext)
    assert options == {
        "bootstrap_servers": "kafka-1:9093,kafka-2:9093",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "worker",
        "sasl_plain_password": SECRET,
    }
    assert SECRET not in f"{settings!r} {settings.bootstrap} {settings.bootstrap!r} {security_of(settings.bootstrap)}"


def test_another_address_keeps_who_we_are() -> None:
    settings = Settings.from_environment(NAMED)
    other = settings.at("kafka-9:9093")
    assert (other.bootstrap, security_of(other.bootstrap)) == ("kafka-9:9093", settings.security)
    assert security_of(copy.deepcopy(dataclasses.replace(other, app_id="x")).bootstrap) == settings.security


def test_a_password_comes_from_a_file_of_its_owners(tmp_path: Path) -> None:
    environment = {name: value for name, value in NAMED.items() if not name.endswith("PASSWORD")}
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    environment["FAILOVER_ORCH_KAFKA_PASSWORD_FILE"] = str(file)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="open to everybody"):
        Settings.from_environment(environment)
    file.chmod(0o600)
    assert Settings.from_environment(environment).security.password == SECRET


def test_certificates_are_read_as_the_settings_are(files: LocalSecurity, tmp_path: Path) -> None:
    environment = NAMED | {"FAILOVER_ORCH_KAFKA_CA_FILE": str(files.ca_file)}
    context = Settings.from_environment(environment).security.context()
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    # The named authority alone: with the system's beside it any of those could speak for Kafka.
    assert [dict(entry[0] for entry in ca["subject"])["commonName"] for ca in context.get_ca_certs()] == [  # type: ignore[misc]
        "failover-orch local Kafka"
    ]
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    with pytest.raises(ConfigError, match="holds no certificate in PEM that could be read"):
        Settings.from_environment(NAMED | {"FAILOVER_ORCH_KAFKA_CA_FILE": str(broken)})
    key = files.directory / "broker.pem"
    ours = {"FAILOVER_ORCH_KAFKA_CERT_FILE": str(key), "FAILOVER_ORCH_KAFKA_KEY_FILE": str(key)}
    assert Settings.from_environment(environment | ours).security.cert_file == key
    ours["FAILOVER_ORCH_KAFKA_KEY_FILE"] = str(files.ca_file)
    with pytest.raises(ConfigError, match="are no certificate and its key"):
        Settings.from_environment(environment | ours)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"SECURITY": "TLS"}, "FAILOVER_ORCH_KAFKA_SECURITY is 'TLS'; expected one of PLAINTEXT, SSL, SASL_PLAINTEXT"),
        ({"SECURITY": "PLAINTEXT"}, "FAILOVER_ORCH_KAFKA_PASSWORD is set, and .* PLAINTEXT, which has no use for it"),
        ({"SECURITY": "SSL"}, "FAILOVER_ORCH_KAFKA_PASSWORD is set, and .* is SSL"),
        ({"USERNAME": ""}, "is SASL_SSL: it needs FAILOVER_ORCH_KAFKA_USERNAME and FAILOVER_ORCH_KAFKA_PASSWORD_FILE"),
        ({"PASSWORD": ""}, "is SASL_SSL: it needs FAILOVER_ORCH_KAFKA_USERNAME and FAILOVER_ORCH_KAFKA_PASSWORD_FILE"),
        ({"SASL_MECHANISM": "GSSAPI"}, "SASL_MECHANISM is 'GSSAPI'; expected one of SCRAM-SHA-512"),
        ({"PASSWORD_FILE": "x"}, "are both set: leave one out"),
        ({"CERT_FILE": "x"}, "belong together"),
        ({"SECURITY": "SASL_PLAINTEXT"}, "everybody on the way to kafka-1:9093 could listen to: use SASL_SSL"),
    ],
)
def test_what_is_not_said_in_full_is_one_sentence(changed: dict[str, str], sentence: str) -> None:
    environment = NAMED | {f"FAILOVER_ORCH_KAFKA_{name}": value for name, value in changed.items()}
    with pytest.raises(ConfigError, match=sentence) as raised:
        Settings.from_environment(environment)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("servers", ["127.0.0.1:9092", "localhost:9092,127.0.0.2:1", "[::1]:9092", ""])
def test_a_password_in_the_clear_stays_on_this_machine(servers: str) -> None:
    open_to_all = Security(Protocol.SASL_PLAINTEXT, Mechanism.PLAIN, "worker", SECRET)
    assert security_of(Address(servers, open_to_all)) == open_to_all
    for far in ("10.0.0.1:9092", "kafka:9092", "127.0.0.1:9092,kafka:9092"):
        with pytest.raises(ConfigError, match="use SASL_SSL"):
            Address(far, open_to_all)


def test_files_of_a_secure_kafka_are_their_owners_alone(files: LocalSecurity) -> None:
    assert files.users == (
        "administrator", "kafka", "operator", "service", "site-agent-dr", "viewer", "witness", "worker",
    )  # fmt: skip
    made = [path for path in files.directory.rglob("*") if path.is_file()]
    assert len(made) == 3 + 2 * len(files.users)
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (files.directory, files.users_directory)} == {0o700}
    passwords = {files.security_of(user).password for user in files.users}
    assert len(passwords) == len(files.users)
    assert min(map(len, passwords)) >= 40
