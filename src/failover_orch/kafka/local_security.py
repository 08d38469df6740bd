"""What makes the local Kafka a guarded one: an authority made on the spot, certificates, and users with passwords.

All of it lies in a directory that its owner alone may enter. The authority's own key is thrown away once it has signed:
whoever finds the directory later can make no further certificates.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from failover_orch.errors import LocalKafkaError
from failover_orch.kafka.acls import UserNames
from failover_orch.kafka_address import Address, Mechanism, Protocol, Security

__all__ = ["SUPER_USER", "LocalSecurity"]

SUPER_USER = "kafka"
"""The brokers themselves, and whoever sets the others' rights: no ACL holds for it."""
_MECHANISM = Mechanism.SCRAM_SHA_512
_VALID_DAYS = 3650
_FILE = 0o600
_DIRECTORY = 0o700


class LocalSecurity:
    """The files, in `directory`. Nothing is made but by `create`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.users_directory = directory / "users"
        self.ca_file = directory / "ca.pem"
        self._broker_file = directory / "broker.pem"
        self._scram_file = directory / "scram.arguments"

    @property
    def users(self) -> tuple[str, ...]:
        """The names of all users."""
        return tuple(sorted(path.stem for path in self.users_directory.glob("*.password")))

    def create(self, address: str, servers: str, sites: Iterable[str]) -> None:
        """Make it all, for a Kafka at an address of this machine, with a user for each of these sites' agents."""
        self.directory.mkdir(mode=_DIRECTORY, exist_ok=True)
        self.users_directory.mkdir(mode=_DIRECTORY, exist_ok=True)
        self._make_certificates(address)
        users = (SUPER_USER, *UserNames().all(sites))
        passwords = {user: secrets.token_urlsafe(32) for user in users}
        for user, password in passwords.items():
            _write(self._password_file(user), f"{password}\n")
            _write(self.users_directory / f"{user}.env", self._environment(user, servers))
        # In a file, since everybody on this machine sees a command line.
        arguments = [
            line
            for user, password in passwords.items()
            for line in ("--add-scram", f"{_MECHANISM}=[name={user},password={password}]")
        ]
        _write(self._scram_file, "".join(f"{line}\n" for line in arguments))

    def security_of(self, user: str) -> Security:
        """How a user is let in.

        Raises:
            LocalKafkaError: there is no such user.

        """
        path = self._password_file(user)
        if not path.is_file():
            raise LocalKafkaError(
                f"the Kafka in {self.directory.parent} has no user {user!r}; it has {', '.join(self.users)}"
            )
        return Security(Protocol.SASL_SSL, _MECHANISM, user, path.read_text().strip(), self.ca_file)

    def address_of(self, servers: str, user: str) -> Address:
        """The address of this Kafka's brokers for a user.

        Raises:
            LocalKafkaError: there is no such user.

        """
        return Address(servers, self.security_of(user))

    def format_arguments(self) -> list[str]:
        """What Kafka's storage tool needs to make the users."""
        return [f"@{self._scram_file}"]

    def properties(self) -> Mapping[str, object]:
        """What a broker's configuration needs. Controllers know each other by certificate, all others by password."""
        user = self.security_of(SUPER_USER)
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        return {
            "listener.security.protocol.map": f"BROKER:{Protocol.SASL_SSL},CONTROLLER:{Protocol.SSL}",
            "sasl.enabled.mechanisms": _MECHANISM,
            "sasl.mechanism.inter.broker.protocol": _MECHANISM,
            f"listener.name.broker.{_MECHANISM.lower()}.sasl.jaas.config": (
                f'{module} required username="{user.username}" password="{user.password}";'
            ),
            "listener.name.controller.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._broker_file,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca_file,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:{SUPER_USER};User:CN={SUPER_USER}",
        }

    def _password_file(self, user: str) -> Path:
        return self.users_directory / f"{user}.password"

    def _environment(self, user: str, servers: str) -> str:
        """What a shell reads (`source`) to be this user."""
        values = {
            "BOOTSTRAP": servers,
            "KAFKA_SECURITY": Protocol.SASL_SSL,
            "KAFKA_SASL_MECHANISM": _MECHANISM,
            "KAFKA_USERNAME": user,
            "KAFKA_PASSWORD_FILE": str(self._password_file(user)),
            "KAFKA_CA_FILE": str(self.ca_file),
        }
        return "".join(f"export FAILOVER_ORCH_{name}={shlex.quote(value)}\n" for name, value in values.items())

    def _make_certificates(self, address: str) -> None:
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = _name("failover-orch local Kafka")
        ca = (
            _builder(ca_name, ca_name, ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        hosts = {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address(address)}
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        broker = (
            _builder(_name(SUPER_USER), ca_name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName("localhost"), *map(x509.IPAddress, hosts)]), critical=False
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem = serialization.Encoding.PEM
        _write(self.ca_file, ca.public_bytes(pem).decode())
        _write(self._broker_file, (private + broker.public_bytes(pem) + ca.public_bytes(pem)).decode())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        # A clock that is a little behind must not find it not yet valid.
        not_valid_before=now - timedelta(days=1),
        not_valid_after=now + timedelta(days=_VALID_DAYS),
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE), "w") as file:
        file.write(text)
