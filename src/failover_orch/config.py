"""Settings of every process, from the environment; command line flags go over them.

FAILOVER_ORCH_BOOTSTRAP            Kafka's address, host:port[,host:port...]; empty: the local Kafka, if it runs
FAILOVER_ORCH_KAFKA_SECURITY       PLAINTEXT (default), SSL, SASL_SSL, or SASL_PLAINTEXT on the loopback address
FAILOVER_ORCH_KAFKA_USERNAME       with SASL: who we are
FAILOVER_ORCH_KAFKA_PASSWORD_FILE  with SASL: a file that only we may read, with the password alone
FAILOVER_ORCH_KAFKA_PASSWORD       with SASL: the password itself, where there can be no file
FAILOVER_ORCH_KAFKA_SASL_MECHANISM SCRAM-SHA-512 (default), SCRAM-SHA-256 or PLAIN
FAILOVER_ORCH_KAFKA_CA_FILE        with TLS: certificates, in PEM, of who may vouch for Kafka; else the system's
FAILOVER_ORCH_KAFKA_CERT_FILE      with TLS: our own certificate, in PEM, where Kafka asks for one
FAILOVER_ORCH_KAFKA_KEY_FILE       with TLS: its key, in PEM
FAILOVER_ORCH_APP_ID               names the consumer group, the state topic and the transactional ids
FAILOVER_ORCH_TOPIC_PREFIX         put before every topic's name
FAILOVER_ORCH_PARTITIONS           partitions of every topic (only `topics create` and producers of cluster records)
FAILOVER_ORCH_SCHEMA_REGISTRY_URL  Confluent wire format through this registry; empty: Avro single-object encoding
FAILOVER_ORCH_SESSION_TIMEOUT      seconds until a silent worker's partitions go to another
OTEL_EXPORTER_OTLP_ENDPOINT        where traces and metrics go; empty: nowhere
FAILOVER_ORCH_LOG                  log level: DEBUG, INFO, WARNING, ERROR
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from failover_orch.contract import Names
from failover_orch.errors import ConfigError
from failover_orch.kafka_address import PLAIN, Address, Security, read_security

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one process. Durations in seconds."""

    bootstrap: str = ""
    """An `Address` where Kafka asks who we are, or speaks TLS."""
    app_id: str = "failover-orch"
    topic_prefix: str = ""
    partitions: int = 8
    schema_registry_url: str = ""
    session_timeout: float = 6.0
    otlp_endpoint: str = ""
    log_level: str = "INFO"
    security: Security = PLAIN
    """What goes with `bootstrap`, or with another address that is given in its place."""

    def at(self, bootstrap: str) -> Settings:
        """These settings for the Kafka at another address.

        Raises:
            ConfigError: it would send a password in the clear over a network.

        """
        return replace(self, bootstrap=Address(bootstrap, self.security))

    @property
    def names(self) -> Names:
        """What the topics are called on Kafka."""
        return Names(self.topic_prefix)

    @property
    def group(self) -> str:
        """The workers' consumer group, which also begins their transactional ids."""
        return self.topic_prefix + self.app_id

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the variables listed above.

        Raises:
            ConfigError: a number is not one, or out of range; Kafka's security is not said in full.

        """
        default = cls()
        level = environment.get("FAILOVER_ORCH_LOG", default.log_level).upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ConfigError(f"FAILOVER_ORCH_LOG is {level!r}; expected DEBUG, INFO, WARNING or ERROR")
        security = read_security(environment)
        return cls(
            bootstrap=Address(environment.get("FAILOVER_ORCH_BOOTSTRAP", default.bootstrap), security),
            app_id=environment.get("FAILOVER_ORCH_APP_ID", default.app_id),
            topic_prefix=environment.get("FAILOVER_ORCH_TOPIC_PREFIX", default.topic_prefix),
            partitions=int(_number(environment, "FAILOVER_ORCH_PARTITIONS", default.partitions, 1, 10_000)),
            schema_registry_url=environment.get("FAILOVER_ORCH_SCHEMA_REGISTRY_URL", default.schema_registry_url),
            session_timeout=_number(environment, "FAILOVER_ORCH_SESSION_TIMEOUT", default.session_timeout, 1, 3600),
            otlp_endpoint=environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", default.otlp_endpoint),
            log_level=level,
            security=security,
        )


def _number(environment: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = environment.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}; expected a number from {low:g} to {high:g}") from None
    if not low <= number <= high:
        raise ConfigError(f"{name} is {number:g}; expected a number from {low:g} to {high:g}")
    return number
