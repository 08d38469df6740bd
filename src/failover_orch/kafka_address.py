"""Where Kafka is, who we are to it, and how we know that it is the one that we mean.

An `Address` is the text of a bootstrap address, and goes wherever one does; what a client needs besides comes along
with it, and nowhere else. Of the secrets nothing is in its text or its `repr`.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar

from failover_orch.errors import ConfigError
from failover_orch.secret_files import read_secret

__all__ = ["PLAIN", "Address", "Mechanism", "Protocol", "Security", "client_options", "read_security", "security_of"]

Choice = TypeVar("Choice", bound=StrEnum)

_PREFIX = "FAILOVER_ORCH_KAFKA_"
_LOCALHOST = "localhost"


class Protocol(StrEnum):
    """What is spoken with Kafka. SASL_PLAINTEXT shows what is said to everybody on the way: on loopback alone."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def encrypted(self) -> bool:
        """Whether it is TLS."""
        return self in (Protocol.SSL, Protocol.SASL_SSL)

    @property
    def named(self) -> bool:
        """Whether a user name and a password are given."""
        return self in (Protocol.SASL_PLAINTEXT, Protocol.SASL_SSL)


class Mechanism(StrEnum):
    """How a password is proved. SCRAM never sends it."""

    SCRAM_SHA_512 = "SCRAM-SHA-512"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    PLAIN = "PLAIN"


@dataclass(frozen=True, slots=True)
class Security:
    """How clients of a Kafka prove who they are, and whom they trust. `ca_file` None: the system's authorities."""

    protocol: Protocol = Protocol.PLAINTEXT
    mechanism: Mechanism = Mechanism.SCRAM_SHA_512
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    """A client's certificate, with those that lead to its authority behind it, in PEM."""
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext | None:
        """What TLS needs, read from the files as they are now; None without TLS.

        Raises:
            ConfigError: a file cannot be read, or does not hold what it ought to.

        """
        if not self.protocol.encrypted:
            return None
        try:
            # The system's authorities are left out where one is named: each of them could vouch for another Kafka.
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise ConfigError(
                f"{_PREFIX}CA_FILE: {self.ca_file} holds no certificate in PEM that could be read ({_why(error)})"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file is not None and self.key_file is not None:
            read_secret(self.key_file)  # says so where others may read it
            try:
                context.load_cert_chain(self.cert_file, self.key_file)
            except OSError as error:
                raise ConfigError(
                    f"{_PREFIX}CERT_FILE, {_PREFIX}KEY_FILE: {self.cert_file} and {self.key_file} are no certificate "
                    f"and its key in PEM ({_why(error)})"
                ) from None
        return context


PLAIN = Security()
"""Nothing is proved and nothing is hidden."""


class Address(str):
    """Addresses of Kafka's brokers, `host:port[,host:port...]`, and how to be let in there."""

    __slots__ = ("security",)
    security: Security

    def __new__(cls, servers: str, security: Security = PLAIN) -> Self:
        """Put both together.

        Raises:
            ConfigError: it would send a password in the clear over a network.

        """
        if security.protocol is Protocol.SASL_PLAINTEXT:
            far = [server for server in servers.split(",") if server and not _on_loopback(server)]
            if far:
                raise ConfigError(
                    f"{_PREFIX}SECURITY is SASL_PLAINTEXT, which everybody on the way to {far[0].strip()} could "
                    "listen to: use SASL_SSL; without TLS only Kafka's loopback address is allowed"
                )
        address = super().__new__(cls, servers)
        address.security = security
        return address


def security_of(bootstrap: str) -> Security:
    """What comes with an address; nothing with one that is mere text."""
    return bootstrap.security if isinstance(bootstrap, Address) else PLAIN


def client_options(bootstrap: str) -> Mapping[str, Any]:
    """The keyword arguments with which every client of aiokafka's is made: where Kafka is, and how to be let in.

    Raises:
        ConfigError: a file that TLS needs cannot be read any more.

    """
    security = security_of(bootstrap)
    options: dict[str, Any] = {"bootstrap_servers": str(bootstrap), "security_protocol": security.protocol.value}
    if security.protocol.encrypted:
        options["ssl_context"] = security.context()
    if security.protocol.named:
        options["sasl_mechanism"] = security.mechanism.value
        options["sasl_plain_username"] = security.username
        options["sasl_plain_password"] = security.password
    return options


def read_security(environment: Mapping[str, str]) -> Security:
    """Read the variables that `config` lists.

    Raises:
        ConfigError: one is wrong, missing, or of no use beside the others; or a file cannot be read.

    """
    protocol = _chosen(environment, "SECURITY", Protocol, Protocol.PLAINTEXT)
    given = {name for name in _OF if environment.get(_PREFIX + name)}
    useless = sorted(name for name in given if not _OF[name](protocol))
    if useless:
        raise ConfigError(
            f"{_PREFIX}{useless[0]} is set, and {_PREFIX}SECURITY is {protocol}, which has no use for it: "
            f"set {_PREFIX}SECURITY to SASL_SSL or SSL, or leave {_PREFIX}{useless[0]} out"
        )
    security = Security(
        protocol=protocol,
        mechanism=_chosen(environment, "SASL_MECHANISM", Mechanism, Mechanism.SCRAM_SHA_512),
        username=environment.get(_PREFIX + "USERNAME", ""),
        password=_password(environment),
        ca_file=_path(environment, "CA_FILE"),
        cert_file=_path(environment, "CERT_FILE"),
        key_file=_path(environment, "KEY_FILE"),
    )
    if protocol.named and not (security.username and security.password):
        raise ConfigError(
            f"{_PREFIX}SECURITY is {protocol}: it needs {_PREFIX}USERNAME and {_PREFIX}PASSWORD_FILE "
            f"(or {_PREFIX}PASSWORD)"
        )
    if (security.cert_file is None) != (security.key_file is None):
        raise ConfigError(f"{_PREFIX}CERT_FILE and {_PREFIX}KEY_FILE belong together: set both, or neither")
    security.context()
    return security


_OF: Mapping[str, Callable[[Protocol], bool]] = {
    "SASL_MECHANISM": lambda protocol: protocol.named,
    "USERNAME": lambda protocol: protocol.named,
    "PASSWORD": lambda protocol: protocol.named,
    "PASSWORD_FILE": lambda protocol: protocol.named,
    "CA_FILE": lambda protocol: protocol.encrypted,
    "CERT_FILE": lambda protocol: protocol.encrypted,
    "KEY_FILE": lambda protocol: protocol.encrypted,
}
"""For each variable the protocols that it is of use with."""


def _chosen(environment: Mapping[str, str], name: str, choices: type[Choice], default: Choice) -> Choice:
    text = environment.get(_PREFIX + name) or default.value
    try:
        return choices(text.upper())
    except ValueError:
        listed = ", ".join(choices)
        raise ConfigError(f"{_PREFIX}{name} is {text!r}; expected one of {listed}") from None


def _password(environment: Mapping[str, str]) -> str:
    file, password = environment.get(_PREFIX + "PASSWORD_FILE", ""), environment.get(_PREFIX + "PASSWORD", "")
    if file and password:
        raise ConfigError(f"{_PREFIX}PASSWORD and {_PREFIX}PASSWORD_FILE are both set: leave one out")
    return read_secret(Path(file)) if file else password


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    text = environment.get(_PREFIX + name, "")
    return Path(text) if text else None


def _on_loopback(server: str) -> bool:
    host = server.strip().rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == _LOCALHOST


def _why(error: OSError) -> str:
    return error.strerror or str(error)
