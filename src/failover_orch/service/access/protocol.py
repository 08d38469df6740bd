"""What the service asks of whoever guards it: who is calling, and that a refusal be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from failover_orch.domain import Principal

__all__ = ["BY_CERTIFICATE", "BY_OIDC", "BY_TOKEN", "OPEN", "Access", "Credentials", "credentials_of"]

BY_TOKEN = "token"  # noqa: S105 (a word, and no secret)
BY_OIDC = "oidc"
BY_CERTIFICATE = "certificate"
OPEN = "open"
"""How an identity was proved, as `Principal.by` says it. OPEN: it was not, and nobody asked for it."""

TLS_EXTENSION = "tls"
CLIENT_CERTIFICATE = "client_certificate"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a call came with. Nothing in it is proved yet, but the certificate: TLS has verified that, and its chain."""

    authorization: str
    """The header of that name; empty without one."""
    certificate: Mapping[str, Any] | None
    """Of the client, in the form of `ssl.SSLSocket.getpeercert`; None without one."""
    address: str
    """Where the call comes from, without the port."""
    call: str = ""
    """Method and path: what is said to be refused where it does not come to an operation."""


class Access(Protocol):
    """Proves who is calling, and hears of what was refused."""

    async def caller(self, credentials: Credentials) -> Principal:
        """Who is calling.

        Raises:
            Unauthenticated: there are no credentials, or they prove nothing.
            TooManyAttempts: the address has failed too often; `retry_after_s` says when it may try again.
            AccessUnavailable: what it would be proved with is not at hand yet.

        """
        ...

    def refused(self, who: str, address: str, what: str, why: str) -> None:
        """A call was refused. Returns at once; alike refusals are told as one.

        `who` is the principal's name, empty where none is proved; `what` the operation, or method and path.
        `caller` tells its own refusals: only those of `domain.refusal` are to be told here.
        """
        ...


def credentials_of(scope: Mapping[str, Any]) -> Credentials:
    """The credentials in an ASGI connection scope."""
    client = scope.get("client")
    extensions = scope.get("extensions") or {}
    return Credentials(
        # Two of them are read as one that proves nothing: which one counts is not for the caller to play with.
        authorization=", ".join(
            value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"
        ),
        certificate=extensions.get(TLS_EXTENSION, {}).get(CLIENT_CERTIFICATE),
        address=client[0] if client else "",
        call=f"{scope['method']} {scope['path']}",
    )
