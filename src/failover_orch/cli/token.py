"""`failover-orch token`: API tokens for the service, made, listed and revoked."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from failover_orch.cli.access import (
    Actor,
    AsJson,
    Why,
    codec_for,
    login_name,
    moment,
    now_ms,
    publisher_for,
    reason_given,
    run,
    show_json,
    show_table,
)
from failover_orch.cli.common import Bootstrap, reported
from failover_orch.config import Settings
from failover_orch.domain import AccessRole, AccessToken, Grant, spelled_grant
from failover_orch.errors import ConfigError, LookupFailed
from failover_orch.service.access import mint, read_tokens, revoked

__all__ = ["app"]

app = typer.Typer(name="token", help="API tokens for the service: make, list, revoke.", no_args_is_help=True)

_LIFETIME = re.compile(r"([1-9][0-9]{0,4})([hd])")
_UNITS_MS = {"h": 3_600_000, "d": 86_400_000}


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Whose it is: what the journal calls whoever shows it.")],
    role: Annotated[
        list[AccessRole], typer.Option(case_sensitive=False, help="What it may do; again for a further role.")
    ],
    expires: Annotated[str, typer.Option(metavar="90d|12h", help="How long it holds, up to 366 days.")],
    reason: Why,
    site: Annotated[list[str] | None, typer.Option(help="Only what belongs to this site; again for another.")] = None,
    plan: Annotated[list[str] | None, typer.Option(help="Only what belongs to this plan; again for another.")] = None,
    actor: Actor = "",
    bootstrap: Bootstrap = None,
) -> None:
    """Make a token and print it: once, and alone, so that it can be put into a file. It is kept nowhere."""
    with reported():
        lifetime_ms = _lifetime_ms(expires)
    grants = [Grant(each, tuple(site or ()), tuple(plan or ())) for each in role]
    run(bootstrap, lambda config: _create(config, name, grants, lifetime_ms, actor, reason))


async def _create(config: Settings, name: str, grants: list[Grant], lifetime_ms: int, actor: str, reason: str) -> None:
    text, token = mint(
        name, grants, actor=login_name(actor), reason=reason_given(reason), now_ms=now_ms(), lifetime_ms=lifetime_ms
    )
    async with publisher_for(config) as publisher:
        await publisher.publish(token)
    typer.echo(text)
    _note(f"access token {token.token_id} of {name} holds until {moment(token.expires_at_ms)}; it is not shown again")


@app.command(name="list")
def list_tokens(as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """List tokens: whose they are and what they may do, never themselves."""
    run(bootstrap, lambda config: _list(config, as_json))


async def _list(config: Settings, as_json: bool) -> None:
    known = await read_tokens(config.bootstrap, names=config.names, codec=codec_for(config))
    tokens = sorted(known.values(), key=lambda token: (token.name, token.created_at_ms, token.token_id))
    if as_json:
        show_json([_shown(token) for token in tokens])
        return
    rows = [
        (
            token.token_id,
            token.name,
            "; ".join(spelled_grant(grant) for grant in token.grants),
            moment(token.created_at_ms),
            moment(token.expires_at_ms),
            _state(token, now_ms()),
            token.actor,
            token.reason,
        )
        for token in tokens
    ]
    show_table("", ("ID", "NAME", "MAY", "MADE", "UNTIL", "STATE", "BY", "REASON"), rows)


@app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id, as `token list` has it.")],
    reason: Why,
    actor: Actor = "",
    bootstrap: Bootstrap = None,
) -> None:
    """Revoke a token. Services refuse it within a second."""
    run(bootstrap, lambda config: _revoke(config, token_id, actor, reason))


async def _revoke(config: Settings, token_id: str, actor: str, reason: str) -> None:
    reason = reason_given(reason)
    known = await read_tokens(config.bootstrap, names=config.names, codec=codec_for(config))
    token = known.get(token_id)
    if token is None:
        raise LookupFailed(f"there is no access token {token_id!r}: see `failover-orch token list`")
    if token.revoked_at_ms:
        _note(f"access token {token_id} of {token.name} was revoked already, by {token.actor}")
        return
    async with publisher_for(config) as publisher:
        await publisher.publish(revoked(token, actor=login_name(actor), reason=reason, now_ms=now_ms()))
    _note(f"access token {token_id} of {token.name} is revoked")


def _note(sentence: str) -> None:
    """Beside the output, which is the token alone."""
    typer.echo(sentence, err=True)


def _lifetime_ms(text: str) -> int:
    found = _LIFETIME.fullmatch(text)
    if found is None:
        raise ConfigError(f"--expires is {text!r}: give a time such as 90d or 12h")
    return int(found[1]) * _UNITS_MS[found[2]]


def _state(token: AccessToken, now: int) -> str:
    if token.revoked_at_ms:
        return f"revoked {moment(token.revoked_at_ms)}"
    return "expired" if token.expires_at_ms <= now else "holds"


def _shown(token: AccessToken) -> dict[str, object]:
    return {
        "token_id": token.token_id,
        "name": token.name,
        "grants": [{"role": grant.role, "sites": grant.sites, "plans": grant.plans} for grant in token.grants],
        "actor": token.actor,
        "reason": token.reason,
        "created_at_ms": token.created_at_ms,
        "expires_at_ms": token.expires_at_ms,
        "revoked_at_ms": token.revoked_at_ms,
    }
