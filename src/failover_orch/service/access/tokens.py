"""API tokens: how they are made, written and revoked, and the table that proves who shows one.

A token is written `fo_<id>_<secret>`. The id is no secret: it is what the token is listed and revoked by. Of the secret
part, 256 bits of chance, only the SHA-256 is kept anywhere; with that much chance in it a slow hash would add nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace

from failover_orch import telemetry
from failover_orch.contract import Codec, Names, key_of
from failover_orch.domain import AccessRole, AccessToken, Grant, Principal, token_after
from failover_orch.errors import AccessUnavailable, ConfigError, KafkaError, Unauthenticated, UndecodableRecord
from failover_orch.service.access.protocol import BY_TOKEN
from failover_orch.wire import Received, follow, read_to_end

__all__ = ["PREFIX", "TOPIC", "TokenBook", "TokenFeed", "mint", "read_tokens", "revoked"]

log = telemetry.logger(__name__)

PREFIX = "fo_"
TOPIC = "access-tokens"

_ID_BYTES = 6
_SECRET_BYTES = 32
_LONGEST_MS = 366 * 86_400_000
_LONGEST_NAME = 200
_RETRY_S = 1.0


def mint(
    name: str,
    grants: Iterable[Grant],
    *,
    actor: str,
    reason: str,
    now_ms: int,
    lifetime_ms: int,
    token_id: str = "",
) -> tuple[str, AccessToken]:
    """Make a token: the text to be shown once, and the record to be published. `token_id` where it is given already.

    Raises:
        ConfigError: whose it is or what it grants is missing, or it would hold for ever.

    """
    grants = tuple(grants)
    if not name or name != name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"a token's name is {name!r}; expected up to {_LONGEST_NAME} printable characters: whose it is"
        )
    if not grants:
        raise ConfigError(f"the token of {name} grants nothing: name at least one role")
    if any(grant.role is AccessRole.SITE_AGENT and (len(grant.sites) != 1 or grant.plans) for grant in grants):
        raise ConfigError(f"the token of {name} is for a site agent: name the one site that is its own, and no plans")
    if not 0 < lifetime_ms <= _LONGEST_MS:
        raise ConfigError(f"the token of {name} would not end within 366 days: give it an end, and make another then")
    token_id = token_id or secrets.token_hex(_ID_BYTES)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    token = AccessToken(
        token_id=token_id,
        name=name,
        grants=grants,
        sha256=_digest(secret),
        actor=actor,
        reason=reason,
        created_at_ms=now_ms,
        expires_at_ms=now_ms + lifetime_ms,
    )
    return f"{PREFIX}{token_id}_{secret}", token


def revoked(token: AccessToken, *, actor: str, reason: str, now_ms: int) -> AccessToken:
    """The record that revokes a token."""
    return replace(token, actor=actor, reason=reason, revoked_at_ms=now_ms)


class TokenBook:
    """The tokens as they are known, by id."""

    def __init__(self) -> None:
        self._tokens: dict[str, AccessToken] = {}
        self._principals: dict[str, Principal] = {}

    @property
    def tokens(self) -> Mapping[str, AccessToken]:
        return self._tokens

    def take(self, said: AccessToken) -> None:
        """A token was made or revoked. A record that the rules refuse (X4 to X6) changes nothing."""
        after = token_after(self._tokens.get(said.token_id), said)
        if after.rule:
            log.warning("a token's record is passed over", token_id=said.token_id, rule=after.rule, why=after.why)
        if after.changed and after.token is not None:
            self._tokens[said.token_id] = after.token
            self._principals[said.token_id] = Principal(said.name, said.grants, BY_TOKEN)

    def receive(self, record: Received, codec: Codec) -> None:
        """Take a record of topic `access-tokens` as it was read. One that cannot be read is logged, and counts for
        nothing.
        """
        if record.value is None:
            forgotten = record.key.decode(errors="replace")
            self._tokens.pop(forgotten, None)
            self._principals.pop(forgotten, None)
            return
        try:
            said = codec.decode_from(TOPIC, record.value)
        except UndecodableRecord as error:
            log.warning(
                "a token's record cannot be read", partition=record.partition, offset=record.offset, error=error
            )
            return
        # Under another key it would outlive, or be outlived by, the record that revokes it.
        if isinstance(said, AccessToken) and record.key == key_of(said):
            self.take(said)

    def principal(self, text: str, now_ms: int) -> Principal:
        """Whose a token is.

        Raises:
            Unauthenticated: it is none of ours, has expired or was revoked. Why is for our log, not for the caller.

        """
        token_id, _, secret = text.removeprefix(PREFIX).partition("_")
        token = self._tokens.get(token_id)
        # Compared also where there is none: how long it takes does not say whether an id is known.
        matches = hmac.compare_digest(_digest(secret), token.sha256 if token is not None else "0" * 64)
        if token is None:
            raise Unauthenticated("the access token is not known")
        if not matches:
            raise Unauthenticated(f"the secret of access token {token_id} is wrong")
        if token.revoked_at_ms:
            raise Unauthenticated(f"access token {token_id} of {token.name} was revoked")
        if token.expires_at_ms <= now_ms:
            raise Unauthenticated(f"access token {token_id} of {token.name} has expired")
        return self._principals[token_id]


class TokenFeed:
    """A book of tokens that follows its topic for as long as `run` does.

    While Kafka is away what was known last counts: nobody can revoke anything either.
    """

    def __init__(self, bootstrap: str, *, names: Names, codec: Codec) -> None:
        self._bootstrap = bootstrap
        self._names = names
        self._codec = codec
        self._book: TokenBook | None = None

    def principal(self, text: str, now_ms: int) -> Principal:
        """As `TokenBook.principal`.

        Raises:
            AccessUnavailable: the tokens have not been read yet.

        """
        if self._book is None:
            raise AccessUnavailable("access tokens have not been read yet: try again in a moment", retry_after_s=1)
        return self._book.principal(text, now_ms)

    async def run(self) -> None:
        """Follow until cancelled. A Kafka or a topic that is not there is waited for."""
        while True:
            try:
                await self._follow()
            except KafkaError as error:
                log.warning("not following access tokens, will try again", error=error, seconds=_RETRY_S)
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        book = TokenBook()

        def caught_up() -> None:
            # Only now: half of the records may hold a token, and not yet that it was revoked.
            self._book = book
            log.info("access tokens are read", known=len(book.tokens))

        async with aclosing(follow(self._bootstrap, [TOPIC], names=self._names, on_caught_up=caught_up)) as reading:
            async for records in reading:
                for record in records:
                    book.receive(record, self._codec)


async def read_tokens(bootstrap: str, *, names: Names, codec: Codec) -> Mapping[str, AccessToken]:
    """Every token as of this moment, by id. Raises KafkaUnavailable or TopicMismatch."""
    book = TokenBook()
    async for records in read_to_end(bootstrap, [TOPIC], names=names):
        for record in records:
            book.receive(record, codec)
    return book.tokens


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
