"""The keys of an identity provider: discovered, fetched, kept while it is away, and fetched again when they change."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import orjson

from failover_orch import telemetry
from failover_orch.errors import AccessUnavailable

__all__ = ["ALGORITHMS", "Key", "KeySource", "read_key_set"]

log = telemetry.logger(__name__)

ALGORITHMS: Mapping[str, tuple[str, str]] = {
    "RS256": ("RSA", ""),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""The signatures that are taken, and for each the type and curve that its key must have.

Never `none`, and no HMAC: it would make of a public key, which everybody has, the secret that signs.
"""

_DISCOVERY = "/.well-known/openid-configuration"
_TIMEOUT_S = 5.0
_MOST_BYTES = 262_144
_FEWEST_RSA_BITS = 2048
_OLD_S = 600.0
_AGAIN_S = 30.0
_FIRST_AGAIN_S = 2.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and the one algorithm that it verifies."""

    algorithm: str
    key: Any = field(repr=False)


class KeySource:
    """The keys behind an issuer, by their ids.

    They are fetched anew every ten minutes and for an id that is not known, but never more often than each half minute,
    whatever ids callers make up; until the first are there, each two seconds. While the provider is away, those fetched
    last count.
    """

    def __init__(self, issuer: str, *, ca_file: Path | None = None, again_s: float = _AGAIN_S) -> None:
        self._issuer = issuer
        self._verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca_file) if ca_file else True
        self._again_s = again_s
        self._keys: Mapping[str, Key] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str) -> Key | None:
        """The key of an id; for an empty id the only key there is. None where there is none.

        Raises:
            AccessUnavailable: no keys could be fetched yet.

        """
        found = self._known(key_id)
        if found is None:
            await self._fetch_if_due()
            found = self._known(key_id)
        if self._fetched_at is None:
            raise AccessUnavailable(
                "the identity provider's keys are not there yet: try again in a moment", retry_after_s=5
            )
        return found

    async def run(self) -> None:
        """Keep the keys fresh until cancelled: calls with known keys then never wait for the provider."""
        while True:
            if self._fetched_at is None or time.monotonic() - self._fetched_at >= _OLD_S:
                await self._fetch_if_due()
            await asyncio.sleep(1.0)

    def _known(self, key_id: str) -> Key | None:
        if key_id:
            return self._keys.get(key_id)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

    async def _fetch_if_due(self) -> None:
        async with self._fetching:
            # Looked at inside: of many that wait for the same key one fetches, and the others find it fetched.
            again_s = self._again_s if self._fetched_at is not None else min(self._again_s, _FIRST_AGAIN_S)
            if self._tried_at is not None and time.monotonic() - self._tried_at < again_s:
                return
            self._tried_at = time.monotonic()
            try:
                async with asyncio.timeout(2 * _TIMEOUT_S):
                    self._keys = await self._fetch()
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
                log.warning("keys of the identity provider not fetched", issuer=self._issuer, error=error)
                return
            self._fetched_at = time.monotonic()
            log.info("keys of the identity provider fetched", issuer=self._issuer, keys=sorted(self._keys))

    async def _fetch(self) -> Mapping[str, Key]:
        # Redirects are not followed: where the keys are is the issuer's to say, over its own TLS.
        async with httpx.AsyncClient(verify=self._verify, timeout=_TIMEOUT_S, follow_redirects=False) as client:
            document = await _get(client, self._issuer.rstrip("/") + _DISCOVERY)
            if document.get("issuer") != self._issuer:
                raise ValueError(f"its discovery document is of the issuer {document.get('issuer')!r}")
            address = document.get("jwks_uri")
            if not isinstance(address, str) or not _safe(address):
                raise ValueError(f"its keys are at {address!r}; expected an https address")
            return read_key_set(await _get(client, address))


def read_key_set(document: Mapping[str, Any]) -> Mapping[str, Key]:
    """The keys of a JWK set that sign with an algorithm that is taken, by id. Those that do not fit are left out."""
    found: dict[str, Key] = {}
    listed = document.get("keys")
    for written in listed if isinstance(listed, list) else ():
        key = _key(written) if isinstance(written, dict) else None
        if key is not None:
            found[str(written.get("kid", ""))] = key
    return found


def _key(written: dict[str, Any]) -> Key | None:
    algorithm = next(
        (
            name
            for name, (kind, curve) in ALGORITHMS.items()
            if written.get("kty") == kind and (not curve or written.get("crv") == curve)
        ),
        "",
    )
    if not algorithm or written.get("alg", algorithm) != algorithm or written.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(written, algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        log.warning("key of the identity provider left out", key_id=str(written.get("kid", "")), error=error)
        return None
    if getattr(key, "key_size", _FEWEST_RSA_BITS) < _FEWEST_RSA_BITS and algorithm == "RS256":
        log.warning("key of the identity provider left out: too short", key_id=str(written.get("kid", "")))
        return None
    return Key(algorithm, key)


def _safe(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


async def _get(client: httpx.AsyncClient, address: str) -> dict[str, Any]:
    async with client.stream("GET", address, headers={"Accept": "application/json"}) as answer:
        if answer.status_code != httpx.codes.OK:
            raise ValueError(f"{address} answered {answer.status_code}")
        content = b""
        async for part in answer.aiter_bytes():
            content += part
            if len(content) > _MOST_BYTES:
                raise ValueError(f"{address} answered with more than {_MOST_BYTES} bytes")
    document = orjson.loads(content)
    if not isinstance(document, dict):
        raise ValueError(f"{address} answered with no JSON object")  # noqa: TRY004 (theirs is the mistake, not ours)
    return document
