"""Bearer tokens of an OpenID Connect provider: verified by its keys, and their claims made into a name and grants."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt

from failover_orch.domain import Grant, Principal
from failover_orch.errors import Unauthenticated
from failover_orch.service.access.key_source import ALGORITHMS, KeySource
from failover_orch.service.access.protocol import BY_OIDC

__all__ = ["ClaimGrants", "Oidc", "OidcSettings"]

CLOCK_SKEW_S = 60
"""By how much the provider's clock, or ours, may be off."""

_LONGEST_TOKEN = 16_384
_LONGEST_NAME = 200
_REMEMBERED = 4_096
_REMEMBERED_S = 60.0


@dataclass(frozen=True, slots=True)
class ClaimGrants:
    """What somebody is granted whose token has a value in the claim of roles."""

    value: str
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """A provider, and what its claims mean here. Claims inside of claims are written with dots."""

    issuer: str
    audience: str
    grants: tuple[ClaimGrants, ...]
    name_claim: str = "sub"
    roles_claim: str = "groups"
    ca_file: Path | None = None
    algorithms: tuple[str, ...] = field(default=tuple(ALGORITHMS))


class Oidc:
    """Proves tokens of one provider.

    What was verified is remembered for a minute, by the token's SHA-256, and no longer than the token holds: a caller
    with many calls is not verified anew for each.
    """

    def __init__(self, settings: OidcSettings, keys: KeySource | None = None) -> None:
        self._settings = settings
        self._keys = keys or KeySource(settings.issuer, ca_file=settings.ca_file)
        self._grants = {each.value: each.grants for each in settings.grants}
        self._remembered: OrderedDict[bytes, tuple[Principal, float, float]] = OrderedDict()

    async def run(self) -> None:
        """Keep the provider's keys fresh until cancelled."""
        await self._keys.run()

    async def principal(self, text: str) -> Principal:
        """Whose a token is.

        Raises:
            Unauthenticated: it does not verify, or says nothing of use here. Why is for our log, not for the caller.
            AccessUnavailable: the provider's keys are not there yet.

        """
        if len(text) > _LONGEST_TOKEN:
            raise Unauthenticated(f"the identity token is longer than {_LONGEST_TOKEN} characters")
        digest = hashlib.sha256(text.encode()).digest()
        remembered = self._remembered.get(digest)
        if remembered is not None and time.monotonic() < remembered[1] and time.time() < remembered[2]:
            return remembered[0]
        claims = await self._verified(text)
        principal = self._principal(claims)
        self._remembered[digest] = (principal, time.monotonic() + _REMEMBERED_S, float(claims["exp"]) + CLOCK_SKEW_S)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return principal

    async def _verified(self, text: str) -> Mapping[str, Any]:
        try:
            header = jwt.get_unverified_header(text)
        except (jwt.PyJWTError, RecursionError) as error:  # a header of brackets in brackets
            raise Unauthenticated(f"the bearer token is neither an API token nor an identity token: {error}") from None
        algorithm, key_id = header.get("alg"), header.get("kid", "")
        # The header is the caller's: it may choose among what we take, and nothing else.
        if algorithm not in self._settings.algorithms:
            raise Unauthenticated(f"the identity token is signed with {algorithm!r}, which is not taken")
        if "crit" in header or "b64" in header:
            raise Unauthenticated("the identity token has header extensions, which are not taken")
        key = await self._keys.find(key_id if isinstance(key_id, str) else "")
        if key is None:
            raise Unauthenticated(f"the identity provider has no key {key_id!r}")
        if key.algorithm != algorithm:
            raise Unauthenticated(f"the identity token is signed with {algorithm}, its key is for {key.algorithm}")
        try:
            claims: Mapping[str, Any] = jwt.decode(
                text,
                key.key,
                algorithms=[key.algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=CLOCK_SKEW_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Unauthenticated(f"the identity token does not verify: {error}") from None
        return claims

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        name = _claim(claims, self._settings.name_claim)
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise Unauthenticated(f"the identity token's claim {self._settings.name_claim} names nobody")
        values = _claim(claims, self._settings.roles_claim)
        grants = tuple(grant for value in _texts(values) for grant in self._grants.get(value, ()))
        if not grants:
            raise Unauthenticated(f"{name} is known to the identity provider, and granted nothing here")
        return Principal(name.strip(), grants, BY_OIDC)


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim; where there is none of that very name, the one inside of others that its dots lead to."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _texts(values: object) -> Iterable[str]:
    if isinstance(values, str):
        return dict.fromkeys((values, *values.split()))  # one value, or a list as `scope` has it
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
