"""The gate without Kafka: tokens, certificates by name, what comes of failures, and how refusals are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from failover_orch.domain import AccessRefused, AccessRole, Grant, Principal
from failover_orch.errors import ConfigError, KafkaUnavailable, TooManyAttempts, Unauthenticated
from failover_orch.service.access import (
    BY_CERTIFICATE,
    BY_TOKEN,
    OPEN,
    AttemptLimit,
    Attempts,
    Certificates,
    Credentials,
    Gate,
    Refusals,
    TokenBook,
    credentials_of,
    mint,
    revoked,
)
from failover_orch.wire import now_ms

OPERATOR = Grant(AccessRole.OPERATOR, ("dr",))
AGENT = Grant(AccessRole.SITE_AGENT, ("dr",))
HOUR_MS = 3_600_000
CERTIFICATE = {
    "subject": ((("commonName", "agent"),),),
    "subjectAltName": (("DNS", "Agent.DR.example"), ("IP Address", "10.0.0.1")),
    "notAfter": "Jan  1 00:00:00 2100 GMT",
}


def made(book: TokenBook, name: str = "alice", *, ago_ms: int = 0, lifetime_ms: int = HOUR_MS) -> str:
    text, token = mint(name, [OPERATOR], actor="root", reason="", now_ms=now_ms() - ago_ms, lifetime_ms=lifetime_ms)
    book.take(token)
    return text


class Told:
    """What was published; raises while Kafka is `away`."""

    def __init__(self) -> None:
        self.refused: list[AccessRefused] = []
        self.away = False
        self.in_vain = 0
        self._changed = asyncio.Condition()

    async def __call__(self, *values: object) -> None:
        async with self._changed:
            self._changed.notify_all()
            if self.away:
                self.in_vain += 1
                raise KafkaUnavailable("no Kafka answers")
            self.refused += [value for value in values if isinstance(value, AccessRefused)]

    async def until(self, times: int) -> None:
        await self._wait(lambda: sum(refused.times for refused in self.refused) >= times)

    async def until_in_vain(self, times: int) -> None:
        await self._wait(lambda: self.in_vain >= times)

    async def _wait(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(condition)


def gate(book: TokenBook | None = None, told: Told | None = None, **options: Any) -> Gate:
    limit = options.pop("limit", AttemptLimit())
    return Gate(book or TokenBook(), Refusals(told or Told()), Attempts(limit), **options)


def bearer(text: str, address: str = "10.0.0.9", call: str = "GET /v1/vms") -> Credentials:
    return Credentials(f"Bearer {text}", None, address, call)


async def test_a_token_is_whose_it_is() -> None:
    book = TokenBook()
    text = made(book)
    assert await gate(book).caller(bearer(text)) == Principal("alice", (OPERATOR,), BY_TOKEN)
    assert await gate(book).caller(replace(bearer(text), authorization=f"bearer  {text}"))


def test_a_token_has_256_bits_of_chance_and_is_kept_as_its_digest() -> None:
    text, token = mint("alice", [OPERATOR], actor="", reason="", now_ms=1, lifetime_ms=1)
    prefix, token_id, secret = text.split("_", 2)
    assert (prefix, token_id) == ("fo", token.token_id)
    assert len(secret) == 43  # 32 bytes
    assert secret not in repr(token)
    assert mint("alice", [OPERATOR], actor="", reason="", now_ms=1, lifetime_ms=1)[0] != text


@pytest.mark.parametrize(
    ("name", "grants", "lifetime_ms", "why"),
    [
        ("", [OPERATOR], 1, "name"),
        ("a\nb", [OPERATOR], 1, "name"),
        ("a" * 201, [OPERATOR], 1, "name"),
        ("alice", [], 1, "grants nothing"),
        ("alice", [OPERATOR], 0, "366 days"),
        ("alice", [OPERATOR], 367 * 24 * HOUR_MS, "366 days"),
        ("agent", [Grant(AccessRole.SITE_AGENT)], 1, "one site"),
        ("agent", [Grant(AccessRole.SITE_AGENT, ("dr", "primary"))], 1, "one site"),
        ("agent", [Grant(AccessRole.SITE_AGENT, ("dr",), ("erp",))], 1, "one site"),
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(
    name: str, grants: Sequence[Grant], lifetime_ms: int, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        mint(name, grants, actor="root", reason="", now_ms=1, lifetime_ms=lifetime_ms)


def expired(book: TokenBook) -> str:
    return made(book, ago_ms=2 * HOUR_MS)


def revoked_since(book: TokenBook) -> str:
    text = made(book)
    book.take(revoked(next(iter(book.tokens.values())), actor="bob", reason="lost", now_ms=now_ms()))
    return text


def revoked_and_told_anew(book: TokenBook) -> str:
    text = made(book)
    first = next(iter(book.tokens.values()))
    book.take(revoked(first, actor="bob", reason="lost", now_ms=now_ms()))
    book.take(first)
    return text


def of_another(book: TokenBook) -> str:
    one, other = made(book), made(book, "bob")
    return f"{one.rpartition('_')[0]}_{other.rpartition('_')[2]}"


def with_one_letter_changed(book: TokenBook) -> str:
    text = made(book)
    return text[:-1] + ("A" if text[-1] != "A" else "B")


def as_it_is_kept(book: TokenBook) -> str:
    text = made(book)
    token = next(iter(book.tokens.values()))
    return f"{text.rpartition('_')[0]}_{token.sha256}"


def unknown(book: TokenBook) -> str:
    return made(TokenBook())


@pytest.mark.parametrize(
    "forge",
    [
        expired,
        revoked_since,
        revoked_and_told_anew,
        of_another,
        with_one_letter_changed,
        as_it_is_kept,
        unknown,
        lambda _: "fo_",
        lambda _: "fo__",
        lambda _: "a.b.c",
        lambda _: "",
    ],
)
async def test_whoever_shows_no_good_token_hears_one_sentence(forge: Callable[[TokenBook], str]) -> None:
    book = TokenBook()
    with pytest.raises(Unauthenticated) as told:
        await gate(book).caller(bearer(forge(book)))
    assert str(told.value).startswith("these credentials are not accepted")


@pytest.mark.parametrize("authorization", ["Basic YTpi", "Bearer", "fo_a_b", "Bearer a, Bearer b"])
async def test_another_scheme_proves_nothing(authorization: str) -> None:
    with pytest.raises(Unauthenticated):
        await gate().caller(Credentials(authorization, None, "10.0.0.9"))


async def test_why_it_was_not_accepted_is_told_without_the_secret() -> None:
    book, told = TokenBook(), Told()
    text = revoked_since(book)
    guard = gate(book, told)
    running = asyncio.create_task(guard.run())
    with pytest.raises(Unauthenticated):
        await guard.caller(bearer(text, call="GET /v1/vms/erp-db-1"))
    await told.until(1)
    running.cancel()
    (refused,) = told.refused
    assert (refused.who, refused.address, refused.what) == ("", "10.0.0.9", "GET /v1/vms")
    assert refused.why == f"access token {text.split('_')[1]} of alice was revoked"
    assert text.rpartition("_")[2] not in repr(refused)


async def test_with_nothing_one_is_nobody_unless_reading_is_open() -> None:
    nothing = Credentials("", None, "127.0.0.1")
    with pytest.raises(Unauthenticated, match="Authorization: Bearer"):
        await gate().caller(nothing)
    anybody = await gate(open_reading=True).caller(nothing)
    assert (anybody.grants, anybody.by) == ((Grant(AccessRole.VIEWER),), OPEN)
    with pytest.raises(Unauthenticated):
        await gate(open_reading=True).caller(bearer("fo_a_b"))


async def test_a_certificate_is_who_the_table_says() -> None:
    guard = gate(certificates=Certificates({"agent.dr.example": (AGENT,)}))
    principal = await guard.caller(Credentials("", CERTIFICATE, "10.0.0.1"))
    assert principal == Principal("agent.dr.example", (AGENT,), BY_CERTIFICATE)


async def test_a_token_goes_before_a_certificate() -> None:
    book = TokenBook()
    guard = gate(book, certificates=Certificates({"agent.dr.example": (AGENT,)}))
    assert (await guard.caller(replace(bearer(made(book)), certificate=CERTIFICATE))).name == "alice"
    with pytest.raises(Unauthenticated):
        await guard.caller(replace(bearer("fo_a_b"), certificate=CERTIFICATE))


@pytest.mark.parametrize(
    ("changed", "listed"),
    [
        ({}, ["other.dr.example"]),
        # The common name counts only where there are no DNS names.
        ({}, ["agent"]),
        ({"notAfter": "Jan  1 00:00:00 2020 GMT"}, ["agent.dr.example"]),
        ({"subjectAltName": (("DNS", "a"), ("DNS", "b"))}, ["a", "b"]),
        ({"subjectAltName": (), "subject": ()}, [""]),
        ({"subjectAltName": (("DNS", "*.dr.example"),)}, ["agent.dr.example"]),
    ],
)
async def test_a_certificate_that_stands_for_nobody_is_refused(changed: dict[str, Any], listed: list[str]) -> None:
    guard = gate(certificates=Certificates(dict.fromkeys(listed, (AGENT,))))
    with pytest.raises(Unauthenticated):
        await guard.caller(Credentials("", {**CERTIFICATE, **changed}, "10.0.0.1"))


def test_the_common_name_counts_where_there_is_no_dns_name() -> None:
    certificate = {**CERTIFICATE, "subjectAltName": (("IP Address", "10.0.0.1"),)}
    assert Certificates({"agent": (AGENT,)}).principal(certificate, now_ms()).name == "agent"


async def test_failed_attempts_are_limited_and_good_ones_pass() -> None:
    book = TokenBook()
    text = made(book)
    guard = gate(book, limit=AttemptLimit(burst=3, every_s=50))
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await guard.caller(bearer("fo_a_b"))
    with pytest.raises(TooManyAttempts) as told:
        await guard.caller(bearer("fo_a_b"))
    assert 0 < told.value.retry_after_s <= 50
    assert (await guard.caller(bearer(text))).name == "alice"
    with pytest.raises(Unauthenticated):
        await guard.caller(bearer("fo_a_b", address="10.0.0.10"))
    with pytest.raises(Unauthenticated):
        await guard.caller(Credentials("", None, "10.0.0.9"))


def test_a_bucket_fills_again_at_its_rate() -> None:
    attempts = Attempts(AttemptLimit(burst=2, every_s=10))
    assert [attempts.failed("10.0.0.1", 100.0) for _ in range(3)] == [0, 0, 10]
    assert attempts.failed("10.0.0.1", 105.0) == 5
    assert attempts.failed("10.0.0.1", 110.0) == 0
    assert attempts.failed("10.0.0.1", 110.0) == 10
    assert [attempts.failed("10.0.0.1", 10_000.0) for _ in range(3)] == [0, 0, 10]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "somewhere", False),
    ],
)
def test_a_host_cannot_fail_from_all_of_its_addresses(one: str, other: str, same: bool) -> None:
    attempts = Attempts(AttemptLimit(burst=1, every_s=10))
    assert attempts.failed(one, 0.0) == 0
    assert bool(attempts.failed(other, 0.0)) == same


def test_memory_for_addresses_is_bounded() -> None:
    attempts = Attempts(AttemptLimit(burst=1, every_s=10))
    for number in range(12_000):
        attempts.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(attempts._buckets) == 10_000


async def test_alike_refusals_are_told_at_once_and_then_as_one() -> None:
    told = Told()
    refusals = Refusals(told, as_one_s=0.3)
    running = asyncio.create_task(refusals.run())
    refusals.add("alice", "10.0.0.9", "FAIL_OVER", "X1: no")
    await told.until(1)
    for _ in range(41):
        refusals.add("alice", "10.0.0.9", "FAIL_OVER", "X1: no")
    refusals.add("bob", "10.0.0.9", "FAIL_OVER", "X1: no")
    await told.until(43)
    running.cancel()
    assert sorted((refused.who, refused.times) for refused in told.refused) == [("alice", 1), ("alice", 41), ("bob", 1)]
    assert all(refused.since_ms <= refused.at_ms for refused in told.refused)


async def test_what_is_not_told_yet_is_told_at_the_end() -> None:
    told = Told()
    refusals = Refusals(told)
    running = asyncio.create_task(refusals.run())
    refusals.add("alice", "", "LOOK", "X1: no")
    await told.until(1)
    refusals.add("alice", "", "LOOK", "X1: no")
    running.cancel()
    await asyncio.wait([running])
    assert [refused.times for refused in told.refused] == [1, 1]


async def test_refusals_wait_for_a_kafka_that_is_away() -> None:
    told = Told()
    told.away = True
    refusals = Refusals(told)
    running = asyncio.create_task(refusals.run())
    refusals.add("alice", "", "LOOK", "X1: no")
    await told.until_in_vain(2)
    refusals.add("alice", "", "LOOK", "X1: no")
    told.away = False
    await told.until(2)
    running.cancel()
    assert len(told.refused) == 1


async def test_kinds_without_end_are_counted_together() -> None:
    told = Told()
    refusals = Refusals(told)
    for number in range(5_000):
        refusals.add("", f"10.0.0.{number}", "GET /", "no")
    running = asyncio.create_task(refusals.run())
    await told.until(5_000)
    running.cancel()
    assert len(told.refused) == 2_001
    assert max(refused.times for refused in told.refused) == 3_000


async def test_what_callers_make_up_is_cut_and_cleaned() -> None:
    told = Told()
    refusals = Refusals(told)
    refusals.add("a\x1b[31m\n", "10.0.0.9", "x" * 10_000, "no\ud800")
    running = asyncio.create_task(refusals.run())
    await told.until(1)
    running.cancel()
    (refused,) = told.refused
    assert refused.who.isprintable()
    assert refused.why.isprintable()
    assert len(refused.what) < 400


def test_credentials_come_from_the_scope_of_a_call() -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/vms",
        "client": ("10.0.0.9", 4711),
        "headers": [(b"accept", b"*/*"), (b"authorization", b"Bearer a")],
        "extensions": {"tls": {"client_certificate": CERTIFICATE}},
    }
    assert credentials_of(scope) == Credentials("Bearer a", CERTIFICATE, "10.0.0.9", "GET /v1/vms")
    plain: dict[str, Any] = {"method": "GET", "path": "/", "client": None, "headers": []}
    assert credentials_of(plain) == Credentials("", None, "", "GET /")
    twice = {**scope, "headers": [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]}
    assert credentials_of(twice).authorization == "Bearer a, Bearer b"
