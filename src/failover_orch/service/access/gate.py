"""The gate: every call's credentials, tried in turn, and what came of those that prove nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from failover_orch import telemetry
from failover_orch.domain import AccessRole, Grant, Principal
from failover_orch.errors import TooManyAttempts, Unauthenticated
from failover_orch.service.access.attempts import Attempts
from failover_orch.service.access.certificates import Certificates
from failover_orch.service.access.oidc import Oidc
from failover_orch.service.access.protocol import OPEN, Credentials
from failover_orch.service.access.refusals import Refusals
from failover_orch.service.access.tokens import PREFIX
from failover_orch.wire import now_ms

__all__ = ["Gate", "Tokens"]

log = telemetry.logger(__name__)

_SCHEME = "bearer"
_ANYBODY = Principal("anybody", (Grant(AccessRole.VIEWER),), OPEN)
_NONE_GIVEN = (
    "this needs an identity: send `Authorization: Bearer TOKEN` with a token of the identity provider, "
    "or one made with `failover-orch token create`"
)
_NOT_ACCEPTED = "these credentials are not accepted: get others; why stands in the service's log and audit trail"
_TOO_MANY = "too many attempts with credentials that are not accepted: wait, or get others"
_WORDS_SHOWN = 2


class Tokens(Protocol):
    """Proves API tokens: a `TokenFeed`, or a `TokenBook` made by hand."""

    def principal(self, text: str, now_ms: int) -> Principal: ...


class Gate:
    """Proves who is calling, by what the call came with.

    A bearer token decides where there is one, then a client certificate; with neither, nobody is anybody, unless
    reading is open. Valid credentials always pass: whoever fails from the same address locks nobody else out. Failures
    are limited for each address, and every one is logged and told.
    """

    def __init__(
        self,
        tokens: Tokens,
        refusals: Refusals,
        attempts: Attempts,
        *,
        certificates: Certificates | None = None,
        oidc: Oidc | None = None,
        open_reading: bool = False,
    ) -> None:
        """`open_reading`: who comes with nothing may look."""
        self._tokens = tokens
        self._refusals = refusals
        self._attempts = attempts
        self._certificates = certificates
        self._oidc = oidc
        self._open_reading = open_reading

    async def caller(self, credentials: Credentials) -> Principal:
        """Who is calling: see `Access.caller`."""
        try:
            return await self._proved(credentials)
        except Unauthenticated as error:
            raise self._failed(credentials, str(error)) from None

    def refused(self, who: str, address: str, what: str, why: str) -> None:
        """A call of a known caller was refused: see `Access.refused`."""
        log.warning("call refused", who=who, address=address, what=what, why=why)
        self._refusals.add(who, address, what, why)

    async def run(self) -> None:
        """Tell of refusals, and fetch the identity provider's keys, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._refusals.run())
            if self._oidc is not None:
                tasks.create_task(self._oidc.run())

    async def _proved(self, credentials: Credentials) -> Principal:
        if credentials.authorization:
            return await self._bearer(credentials.authorization)
        if credentials.certificate and self._certificates is not None:
            return self._certificates.principal(credentials.certificate, now_ms())
        if self._open_reading:
            return _ANYBODY
        raise Unauthenticated(_NONE_GIVEN)

    async def _bearer(self, authorization: str) -> Principal:
        scheme, _, text = authorization.partition(" ")
        text = text.strip()
        if scheme.lower() != _SCHEME or not text:
            raise Unauthenticated("the header Authorization is not of the form `Bearer TOKEN`")
        if text.startswith(PREFIX):
            return self._tokens.principal(text, now_ms())
        if self._oidc is None:
            raise Unauthenticated("the bearer token is no API token, and no identity provider is configured")
        return await self._oidc.principal(text)

    def _failed(self, credentials: Credentials, why: str) -> Unauthenticated | TooManyAttempts:
        what = _shown(credentials.call)
        if why == _NONE_GIVEN:
            # Not an attempt: nothing was tried. Told all the same.
            self._refusals.add("", credentials.address, what, "no credentials")
            return Unauthenticated(_NONE_GIVEN)
        self._refusals.add("", credentials.address, what, why)
        wait_s = self._attempts.failed(credentials.address, time.monotonic())
        if wait_s:
            return TooManyAttempts(_TOO_MANY, retry_after_s=wait_s)
        # Only here: whoever goes on and on is not to fill our log.
        log.warning("credentials not accepted", address=credentials.address, what=what, why=why)
        return Unauthenticated(_NOT_ACCEPTED)


def _shown(call: str) -> str:
    """A call of somebody unknown without what they can make up: method and the first words of the path."""
    method, _, path = call.partition(" ")
    return f"{method} /{'/'.join(path.split('/')[1 : 1 + _WORDS_SHOWN])}"
