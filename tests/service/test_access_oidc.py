"""Tokens of an identity provider: what verifies, what does not, and what happens when its keys change or it is away."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from failover_orch.domain import AccessRole, Grant
from failover_orch.errors import AccessUnavailable, Unauthenticated
from failover_orch.service.access import BY_OIDC, ClaimGrants, KeySource, Oidc, OidcSettings
from identity_provider import AUDIENCE, Provider, Signer, provider, signer

OPERATOR = Grant(AccessRole.OPERATOR, ("dr",))
VIEWER = Grant(AccessRole.VIEWER)
RSA = signer("RS256")
EC = signer("ES256", "key-2")
ED = signer("EdDSA", "key-3")


@pytest.fixture
def issuer() -> Iterator[Provider]:
    with provider(RSA, EC, ED) as found:
        yield found


def oidc(issuer: Provider, *, again_s: float = 30.0, **changed: Any) -> Oidc:
    settings = OidcSettings(
        issuer=issuer.issuer,
        audience=AUDIENCE,
        grants=(ClaimGrants("dr-operators", (OPERATOR,)), ClaimGrants("everybody", (VIEWER,))),
        **changed,
    )
    return Oidc(settings, KeySource(issuer.issuer, again_s=again_s))


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=lambda key: key.algorithm)
async def test_a_token_of_the_provider_is_a_name_and_grants(issuer: Provider, key: Signer) -> None:
    principal = await oidc(issuer).principal(key.token(issuer.claims(groups=["dr-operators", "everybody", "others"])))
    assert (principal.name, principal.grants, principal.by) == ("alice", (OPERATOR, VIEWER), BY_OIDC)


async def test_name_and_roles_stand_where_the_service_file_says(issuer: Provider) -> None:
    nested = {"preferred_username": "Alice A.", "groups": None, "realm_access": {"roles": ["everybody"]}}
    checks = oidc(issuer, name_claim="preferred_username", roles_claim="realm_access.roles")
    principal = await checks.principal(RSA.token(issuer.claims(**nested)))
    assert (principal.name, principal.grants) == ("Alice A.", (VIEWER,))


@pytest.mark.parametrize("roles", ["everybody", "openid everybody"])
async def test_roles_may_be_one_text(issuer: Provider, roles: str) -> None:
    principal = await oidc(issuer, roles_claim="scope").principal(RSA.token(issuer.claims(scope=roles)))
    assert principal.grants == (VIEWER,)


class In(int):
    """So many seconds from when it is used: modules are read long before their tests run."""


def at_last(changed: dict[str, Any]) -> dict[str, Any]:
    return {claim: int(time.time()) + value if isinstance(value, In) else value for claim, value in changed.items()}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"exp": In(-61)}, "expired"),
        ({"exp": None}, "exp"),
        ({"nbf": In(120)}, "not yet valid"),
        ({"iat": In(120)}, "not yet valid"),
        ({"aud": "somebody-else"}, "Audience"),
        ({"aud": None}, "aud"),
        ({"iss": "http://127.0.0.1:1"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"sub": ""}, "names nobody"),
        ({"sub": None}, "names nobody"),
        ({"sub": "a\x1b[31m"}, "names nobody"),
        ({"sub": "a" * 201}, "names nobody"),
        ({"groups": ["others"]}, "granted nothing"),
        ({"groups": None}, "granted nothing"),
        ({"groups": {"dr-operators": True}}, "granted nothing"),
        ({"exp": "soon"}, "integer"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_the_claims_lack_is_refused(issuer: Provider, changed: dict[str, Any], why: str) -> None:
    with pytest.raises(Unauthenticated, match=why):
        await oidc(issuer).principal(RSA.token(issuer.claims(**at_last(changed))))


@pytest.mark.parametrize("changed", [{"exp": In(-40)}, {"nbf": In(40)}, {"iat": In(40)}])
async def test_clocks_may_be_off_by_a_minute(issuer: Provider, changed: dict[str, Any]) -> None:
    assert (await oidc(issuer).principal(RSA.token(issuer.claims(**at_last(changed))))).name == "alice"


def part(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


def unsigned(claims: dict[str, Any]) -> str:
    return f"{part({'alg': 'none', 'typ': 'JWT', 'kid': RSA.key_id})}.{part(claims)}."


def signed_with_the_public_key(claims: dict[str, Any]) -> str:
    """Key confusion: HMAC, with the public key, which everybody has, as its secret."""
    public = RSA.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': RSA.key_id})}.{part(claims)}"
    made = hmac.new(public, text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


def carrying_its_own_key(claims: dict[str, Any]) -> str:
    return signer("RS256", RSA.key_id).token(claims, jwk=signer("RS256").published)


def another_key_under_its_id(claims: dict[str, Any]) -> str:
    return signer("RS256", RSA.key_id).token(claims)


def another_algorithm_under_its_id(claims: dict[str, Any]) -> str:
    return EC.token(claims, kid=RSA.key_id)


def changed_claims(claims: dict[str, Any]) -> str:
    header, _, signature = RSA.token(claims).split(".")
    return f"{header}.{part({**claims, 'groups': ['everybody', 'dr-operators']})}.{signature}"


def extended(claims: dict[str, Any]) -> str:
    return RSA.token(claims, crit=["b64"])


@pytest.mark.parametrize(
    "forge",
    [
        unsigned,
        signed_with_the_public_key,
        carrying_its_own_key,
        another_key_under_its_id,
        another_algorithm_under_its_id,
        changed_claims,
        extended,
    ],
)
async def test_a_forged_token_is_refused(issuer: Provider, forge: Callable[[dict[str, Any]], str]) -> None:
    with pytest.raises(Unauthenticated):
        await oidc(issuer).principal(forge(issuer.claims()))


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "a.b.c",
        "..",
        "\xff.\xff.\xff",
        "a" * 20_000,
        f"{base64.urlsafe_b64encode(b'[' * 9_000).decode()}.e30.e30",
        f"{part([1])}.e30.e30",
        f"{part({'alg': 'RS256', 'kid': 7})}.e30.e30",
        f"{part({'alg': ['RS256']})}.e30.e30",
    ],
    ids=lambda text: text[:12],
)
async def test_what_is_no_token_is_refused(issuer: Provider, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await oidc(issuer).principal(text)


async def test_a_short_rsa_key_of_the_provider_is_not_used() -> None:
    weak = signer("RS256", bits=1024)
    with provider(weak) as issuer, pytest.warns(match="1024|2048"), pytest.raises(Unauthenticated, match="no key"):
        await oidc(issuer).principal(weak.token(issuer.claims()))


@pytest.mark.parametrize("changed", [{"use": "enc"}, {"alg": "RS512"}, {"kty": "oct", "k": "c2VjcmV0"}, {"n": "!"}])
async def test_a_key_that_is_not_for_signatures_is_not_used(issuer: Provider, changed: dict[str, Any]) -> None:
    issuer.keys = [{**RSA.published, **changed}]
    with pytest.raises(Unauthenticated, match="no key"):
        await oidc(issuer).principal(RSA.token(issuer.claims()))


async def test_a_token_without_a_key_id_is_verified_by_the_only_key(issuer: Provider) -> None:
    issuer.keys = [RSA.published]
    assert (await oidc(issuer).principal(RSA.token(issuer.claims(), kid=None))).name == "alice"
    issuer.keys = [RSA.published, EC.published]
    with pytest.raises(Unauthenticated, match="no key"):
        await oidc(issuer).principal(RSA.token(issuer.claims(), kid=None))


async def test_a_new_key_is_fetched_when_it_is_met(issuer: Provider) -> None:
    checks = oidc(issuer, again_s=0)
    await checks.principal(RSA.token(issuer.claims()))
    fresh = signer("ES256", "key-9")
    issuer.keys = [fresh.published]
    assert (await checks.principal(fresh.token(issuer.claims()))).name == "alice"
    with pytest.raises(Unauthenticated, match="no key 'key-1'"):
        await checks.principal(RSA.token(issuer.claims(sub="bob")))


async def test_made_up_key_ids_do_not_make_us_ask_the_provider(issuer: Provider) -> None:
    checks = oidc(issuer)
    await checks.principal(RSA.token(issuer.claims()))
    asked = issuer.asked
    for number in range(20):
        with pytest.raises(Unauthenticated, match="no key"):
            await checks.principal(RSA.token(issuer.claims(), kid=f"made-up-{number}"))
    assert issuer.asked == asked


async def test_many_that_wait_for_the_keys_fetch_them_once(issuer: Provider) -> None:
    checks = oidc(issuer)
    tokens = [RSA.token(issuer.claims(sub=f"person-{number}")) for number in range(20)]
    names = {found.name for found in await asyncio.gather(*(checks.principal(token) for token in tokens))}
    assert len(names) == 20
    assert issuer.asked == 1


async def test_the_keys_are_kept_while_the_provider_is_away(issuer: Provider) -> None:
    checks = oidc(issuer, again_s=0)
    await checks.principal(RSA.token(issuer.claims()))
    issuer.away = True
    with pytest.raises(Unauthenticated, match="no key"):
        await checks.principal(RSA.token(issuer.claims(), kid="unknown"))
    assert (await checks.principal(RSA.token(issuer.claims(sub="bob")))).name == "bob"


def is_away(issuer: Provider) -> None:
    issuer.away = True


def is_another(issuer: Provider) -> None:
    issuer.named = "https://somebody-else.example"


def answers_without_end(issuer: Provider) -> None:
    issuer.padding = 300_000


@pytest.mark.parametrize("change", [is_away, is_another, answers_without_end])
async def test_without_keys_nobody_can_tell(issuer: Provider, change: Callable[[Provider], None]) -> None:
    change(issuer)
    with pytest.raises(AccessUnavailable) as told:
        await oidc(issuer).principal(RSA.token(issuer.claims()))
    assert told.value.retry_after_s > 0


async def test_what_was_verified_is_remembered_but_not_for_long(
    issuer: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = oidc(issuer, again_s=0)
    token = RSA.token(issuer.claims())
    assert await checks.principal(token) is await checks.principal(token)
    later = time.monotonic() + 61
    monkeypatch.setattr("failover_orch.service.access.oidc.time.monotonic", lambda: later)
    issuer.keys = []
    with pytest.raises(Unauthenticated, match="no key"):
        # A key that the provider has taken back takes its tokens with it.
        await checks.principal(RSA.token(issuer.claims(), kid="unknown"))
    with pytest.raises(Unauthenticated, match="no key"):
        await checks.principal(token)
