"""Requests made to harm: too large, nested without end, of odd characters. Each is refused, and none is a bug."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from made_by_hand import Doorkeeper, Fixed, Noted, calling, create_app

from failover_orch.service.limits import LARGEST_BODY


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
async def client(noted: Noted) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(create_app(Fixed(), Doorkeeper(), noted), key="a-key") as one:
        yield one


async def endless(size: int) -> AsyncIterator[bytes]:
    """A body whose length nobody says beforehand."""
    for _ in range(size // 65_536 + 1):
        yield b" " * 65_536


BODIES: dict[str, bytes] = {
    "lists without end": b"[" * 200_000,
    "mappings without end": b'{"vms":' * 50_000 + b"1" + b"}" * 50_000,
    "a number without end": b'{"max_in_flight":' + b"9" * 500_000 + b"}",
    "an exponent": b'{"max_in_flight": 1e999999}',
    "no number": b'{"max_in_flight": NaN}',
    "half a character": b'{"reason": "\\ud800", "kind": "PLANNED", "vms": ["a"]}',
    "no UTF-8": b'{"reason": "\xff\xfe", "kind": "PLANNED", "vms": ["a"]}',
    "a NUL": b'{"reason": "a\\u0000b", "kind": "PLANNED", "vms": ["\\u0000"]}',
    "nothing": b"",
    "an empty list": b"[]",
    "a hundred thousand VMs": b'{"kind": "PLANNED", "reason": "x", "vms": [' + b'"a",' * 100_000 + b'"a"]}',
}
POSTED = ("/v1/runs", "/v1/placements", "/v1/tokens", "/v1/routes/lookup")


@pytest.mark.parametrize("path", POSTED)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, noted: Noted, path: str, body: bytes
) -> None:
    answer = await client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert len(answer.content) < 20_000
    assert noted.records == []


@pytest.mark.parametrize("path", POSTED)
async def test_a_body_that_is_too_large_is_refused(client: httpx.AsyncClient, path: str) -> None:
    for content in (b" " * (LARGEST_BODY + 1), endless(2 * LARGEST_BODY)):
        answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert "send less at once" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/vms/%00",
        "/v1/vms/%ff%fe",
        "/v1/vms/..%2f..%2fetc%2fpasswd",
        "/v1/vms/" + "x" * 50_000,
        "/v1/vms/%0d%0aSet-Cookie:%20a=b/route",
        "/v1/vms/%ed%a0%80/route?node=%ed%a0%80",
        "/v1/runs?limit=" + "9" * 5_000,
        "/v1/vms/a/route?wait=1e400",
        "/v1/vms?site=%00&site=%00",
    ],
)
async def test_an_address_that_makes_no_sense_is_no_bug(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code < 500
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("epoch", ["-1", "9" * 5_000, "²", "1e9", "0x1", " "])
async def test_an_epoch_that_is_none_is_no_bug(client: httpx.AsyncClient, epoch: str) -> None:
    headers = {b"Known-Epoch": epoch.encode(), b"If-None-Match": f'"{epoch}"'.encode()}
    answer = await client.get("/v1/vms/a/route", headers=headers)
    assert 400 <= answer.status_code < 500
