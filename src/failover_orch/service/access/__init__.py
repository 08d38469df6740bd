"""Who is calling: API tokens, OIDC, client certificates; limits on failed attempts; refusals told and counted."""

from failover_orch.service.access.attempts import AttemptLimit, Attempts
from failover_orch.service.access.certificates import Certificates
from failover_orch.service.access.gate import Gate
from failover_orch.service.access.key_source import KeySource
from failover_orch.service.access.oidc import ClaimGrants, Oidc, OidcSettings
from failover_orch.service.access.opened import KafkaGate
from failover_orch.service.access.protocol import (
    BY_CERTIFICATE,
    BY_OIDC,
    BY_TOKEN,
    OPEN,
    Access,
    Credentials,
    credentials_of,
)
from failover_orch.service.access.refusals import Refusals
from failover_orch.service.access.service_file import ServiceFile, is_loopback, load_service_file
from failover_orch.service.access.tls import CertificateProtocol, TlsFiles, server_context
from failover_orch.service.access.tokens import TokenBook, mint, read_tokens, revoked

__all__ = [
    "BY_CERTIFICATE",
    "BY_OIDC",
    "BY_TOKEN",
    "OPEN",
    "Access",
    "AttemptLimit",
    "Attempts",
    "CertificateProtocol",
    "Certificates",
    "ClaimGrants",
    "Credentials",
    "Gate",
    "KafkaGate",
    "KeySource",
    "Oidc",
    "OidcSettings",
    "Refusals",
    "ServiceFile",
    "TlsFiles",
    "TokenBook",
    "credentials_of",
    "is_loopback",
    "load_service_file",
    "mint",
    "read_tokens",
    "revoked",
    "server_context",
]
