"""API tokens over HTTP: listed, made and revoked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query, Response

from failover_orch.domain import AccessToken, Call, Grant, Operation
from failover_orch.errors import LookupFailed
from failover_orch.service.access.tokens import mint, revoked
from failover_orch.service.api import Api
from failover_orch.service.bodies import TokenBody
from failover_orch.service.callers import Known
from failover_orch.service.idempotency import IdempotencyKey
from failover_orch.service.problems import Conflict
from failover_orch.service.views import AcceptedView, as_of
from failover_orch.wire import now_ms

__all__ = ["answer_tokens"]

_ID_DIGITS = 12
_MANAGING = Call(Operation.MANAGE_TOKENS)
_Why = Annotated[str, Query(min_length=1, max_length=2_000, description="Why; it goes into the audit trail.")]


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token, but for what proves it. `revoked_at_ms` 0: it was not revoked."""

    token_id: str
    name: str
    grants: tuple[Grant, ...]
    actor: str
    reason: str
    created_at_ms: int
    expires_at_ms: int
    revoked_at_ms: int


@dataclass(frozen=True, slots=True)
class TokenList:
    as_of: str | None
    tokens: tuple[TokenView, ...]


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was made. `token` is shown this once, and kept nowhere."""

    id: str
    token: str
    expires_at_ms: int


def answer_tokens(api: Api) -> None:
    @api.endpoint("GET", "/v1/tokens", TokenList)
    async def tokens(caller: Known) -> Response:
        """API tokens by their owners' names, those that no longer hold too."""
        model = api.everything()
        caller.require(_MANAGING)
        return api.answer(TokenList(as_of(model), tuple(map(_view, model.tokens()))))

    @api.endpoint("POST", "/v1/tokens", NewToken, status=202)
    async def make(caller: Known, body: TokenBody, key: IdempotencyKey) -> Response:
        """Make an API token. It is shown in this answer alone: where that is lost, revoke it and make another."""
        model = api.everything()
        caller.require(_MANAGING)

        async def take(name: str) -> tuple[str, object]:
            token_id = name[:_ID_DIGITS]
            if model.token(token_id) is not None:
                raise Conflict(f"token {token_id} was made with this Idempotency-Key, and is not shown again")
            text, token = mint(
                body.name,
                [one.grant() for one in body.grants],
                actor=caller.name,
                reason=body.reason,
                now_ms=now_ms(),
                lifetime_ms=body.lifetime_s * 1_000,
                token_id=token_id,
            )
            await api.commands.publish(token)
            return "/v1/tokens", NewToken(token_id, text, token.expires_at_ms)

        return await api.command(caller, key, ("token", body.model_dump(mode="json")), take, secret=True)

    @api.endpoint("DELETE", "/v1/tokens/{token_id}", AcceptedView, status=202, problems=(404,))
    async def revoke(caller: Known, token_id: str, reason: _Why, key: IdempotencyKey) -> Response:
        """Revoke an API token: within a second nobody gets in with it any more."""
        model = api.everything()
        caller.require(_MANAGING)
        token = model.token(token_id)
        if token is None:
            raise LookupFailed(f"no token {token_id!r} is known: `failover-orch token list` has them all")

        async def take(_: str) -> tuple[str, object]:
            if not token.revoked_at_ms:
                await api.commands.publish(revoked(token, actor=caller.name, reason=reason, now_ms=now_ms()))
            return "/v1/tokens", AcceptedView(token.token_id)

        return await api.command(caller, key, ("revoke", token.token_id, reason), take)


def _view(token: AccessToken) -> TokenView:
    return TokenView(**{name: getattr(token, name) for name in TokenView.__slots__})
