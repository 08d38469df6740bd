"""`failover-orch token` on a real Kafka, and how soon a service goes by what it says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import typer
from playing import Invoke, environment, invoking, published, publisher

from failover_orch.cli import token
from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.domain import AccessRefused, AccessRole, AccessToken, Grant, Principal
from failover_orch.errors import AccessError, AccessUnavailable, Unauthenticated
from failover_orch.service.access import BY_TOKEN, Credentials, KafkaGate, ServiceFile, mint, read_tokens, revoked
from failover_orch.wire import now_ms

cli = typer.Typer()
cli.add_typer(token.app, name="token")

CREATE = ("token", "create", "--name", "alice", "--role", "operator", "--site", "dr", "--expires", "90d")
BY = ("--reason", "on call", "--actor", "root")
OPERATOR = Grant(AccessRole.OPERATOR, ("dr",))
DAY_MS = 86_400_000


@pytest.fixture
def installation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def invoke() -> Iterator[Invoke]:
    with invoking(cli) as invoke:
        yield invoke


def test_a_token_is_made_listed_and_revoked(installation: Settings, invoke: Invoke) -> None:
    made = invoke(*CREATE, "--plan", "erp", *BY)
    assert made.exit_code == 0, made.output
    text = made.stdout.strip()
    _, token_id, secret = text.split("_", 2)
    # The token stands alone on stdout, to be put into a file, and is not said again.
    assert secret not in made.stderr
    assert f"access token {token_id} of alice holds until" in made.stderr

    (record,) = published(installation, "access-tokens")
    assert record == AccessToken(
        token_id,
        "alice",
        (Grant(AccessRole.OPERATOR, ("dr",), ("erp",)),),
        record.sha256,
        "root",
        "on call",
        record.created_at_ms,
        record.created_at_ms + 90 * DAY_MS,
    )
    listed = invoke("token", "list")
    assert "OPERATOR for site dr, plan erp" in listed.stdout
    assert " holds " in listed.stdout
    (shown,) = json.loads(invoke("token", "list", "--json").stdout)
    assert (shown["token_id"], shown["grants"][0]["role"]) == (token_id, "OPERATOR")
    assert record.sha256 not in listed.stdout + json.dumps(shown)

    gone = invoke("token", "revoke", token_id, "--reason", "lost", "--actor", "bob")
    assert gone.exit_code == 0, gone.output
    assert f"access token {token_id} of alice is revoked" in gone.stderr
    last = published(installation, "access-tokens")[-1]
    assert (last.actor, last.reason, last.revoked_at_ms > 0) == ("bob", "lost", True)
    assert " revoked " in invoke("token", "list").stdout
    again = invoke("token", "revoke", token_id, *BY)
    assert (again.exit_code, "revoked already, by bob" in again.stderr) == (0, True)
    assert len(published(installation, "access-tokens")) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((*CREATE[:-1], "ninety", *BY), "--expires is 'ninety': give a time such as 90d or 12h"),
        ((*CREATE[:-1], "367d", *BY), "would not end within 366 days"),
        ((*CREATE, "--reason", " "), "--reason is empty"),
        ((*CREATE, "--role", "site_agent", "--site", "primary", *BY), "name the one site that is its own"),
        (("token", "revoke", "a1b2", *BY), "there is no access token 'a1b2': see `failover-orch token list`"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_sentence(
    installation: Settings, invoke: Invoke, arguments: tuple[str, ...], sentence: str
) -> None:
    told = invoke(*arguments)
    assert told.exit_code == 1
    assert sentence in " ".join(told.stderr.split())
    assert not published(installation, "access-tokens")


@asynccontextmanager
async def guarded(settings: Settings) -> AsyncIterator[KafkaGate]:
    """A gate that follows the installation's tokens, once it has read them."""
    async with publisher(settings) as kafka:
        gate = KafkaGate(ServiceFile(), settings.bootstrap, names=settings.names, codec=Codec(), publish=kafka.publish)
        running = asyncio.create_task(gate.run())
        try:
            await until(gate, "fo_a_b", Unauthenticated)
            yield gate
        finally:
            running.cancel()
            await asyncio.wait([running])


async def until(gate: KafkaGate, text: str, wanted: type[Principal | AccessError]) -> float:
    """Ask until a token is taken, or refused, as wanted; returns after how many seconds it was."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        while True:
            answer: Principal | AccessError
            try:
                answer = await gate.caller(Credentials(f"Bearer {text}", None, f"10.0.0.{time.monotonic_ns() % 251}"))
            except AccessError as error:
                answer = error
            if isinstance(answer, wanted):
                return time.monotonic() - began
            await asyncio.sleep(0.01)


async def test_a_service_goes_by_a_token_within_a_second(settings: Settings) -> None:
    text, made = mint("alice", [OPERATOR], actor="root", reason="", now_ms=now_ms(), lifetime_ms=DAY_MS)
    async with guarded(settings) as gate, publisher(settings) as kafka:
        await kafka.publish(made)
        assert await until(gate, text, Principal) < 1
        assert (await gate.caller(Credentials(f"Bearer {text}", None, ""))) == Principal("alice", (OPERATOR,), BY_TOKEN)
        await kafka.publish(revoked(made, actor="root", reason="", now_ms=now_ms()))
        assert await until(gate, text, Unauthenticated) < 1
        # Told once more, as by somebody who kept the record: it stays revoked.
        await kafka.publish(made)
        bob, other = mint("bob", [OPERATOR], actor="root", reason="", now_ms=now_ms(), lifetime_ms=DAY_MS)
        await kafka.publish(other)
        await until(gate, bob, Principal)
        assert await until(gate, text, Unauthenticated) < 1


async def test_before_the_tokens_are_read_nobody_can_tell(settings: Settings) -> None:
    gate = KafkaGate(ServiceFile(), "127.0.0.1:1", names=settings.names, codec=Codec(), publish=_never)
    with pytest.raises(AccessUnavailable):
        await gate.caller(Credentials("Bearer fo_a_b", None, ""))


async def _never(*_: object) -> None:
    raise AssertionError("nothing is told here")


async def test_refused_calls_are_told_and_the_rest_at_the_end(settings: Settings) -> None:
    async with guarded(settings) as gate:
        for _ in range(3):
            gate.refused("alice", "10.0.0.9", "FAIL_OVER", "X1: no")
    told = [value for value in await asyncio.to_thread(published, settings, "access-refusals") if value.who == "alice"]
    assert all(isinstance(value, AccessRefused) for value in told)
    assert sum(value.times for value in told) == 3


async def test_a_record_that_is_not_a_token_or_under_another_key_counts_for_nothing(settings: Settings) -> None:
    _, made = mint("alice", [OPERATOR], actor="root", reason="", now_ms=now_ms(), lifetime_ms=DAY_MS)
    async with publisher(settings) as kafka:
        await kafka.publish(made)
        topic = settings.names.of("access-tokens")
        forged = revoked(made, actor="eve", reason="", now_ms=now_ms())
        for key, value in ((made.token_id.encode(), b"no record"), (b"another", Codec().encode(forged))):
            await kafka._producer.send_and_wait(topic, key=key, value=value)
    known = await read_tokens(settings.bootstrap, names=settings.names, codec=Codec())
    assert known == {made.token_id: made}
