"""Where a VM is, over HTTP: with its epoch, waited for, streamed; never older than what the asker was given."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from made_by_hand import ADMINISTRATOR, Doorkeeper, Fixed, Noted, calling
from made_world import WORLD, route

from failover_orch.domain import AccessRole, Grant, Principal
from failover_orch.service import Changes, RouteChange, create_app
from failover_orch.service.callers import Caller
from failover_orch.service.route_stream import Position, RouteStream

ELSEWHERE = Principal("dora", (Grant(AccessRole.VIEWER, sites=("moon",)),), "token")


@pytest.fixture
def source() -> Fixed:
    return Fixed(WORLD)


@pytest.fixture
def app(source: Fixed) -> FastAPI:
    return create_app(source, Doorkeeper(), Noted())


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(app) as client:
        yield client


@pytest.mark.parametrize("path", ["v1/route", "erp-db/route", "v1/route?node=p1"])
async def test_a_route_has_its_epoch_and_its_age(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"/v1/vms/{path}")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["vm_id"], body["node"], body["site"], body["epoch"]) == ("v1", "p1", "primary", 3)
    assert answer.headers["ETag"] == '"3"'
    assert body["known_at"] == answer.headers["Known-At"]
    assert 0 <= body["age_ms"] < 60_000


async def test_who_asks_a_stale_node_is_told(client: httpx.AsyncClient) -> None:
    there = (await client.get("/v1/vms/v1/route?node=p1")).json()
    gone = (await client.get("/v1/vms/v1/route?node=p7")).json()
    assert (there["stale"], gone["stale"], gone["node"]) == (False, True, "p1")


async def test_an_epoch_that_is_known_saves_the_body(client: httpx.AsyncClient) -> None:
    for path in ("v1/route", "erp-db/route"):
        answer = await client.get(f"/v1/vms/{path}", headers={"If-None-Match": '"3"'})
        assert (answer.status_code, answer.content) == (304, b"")


@pytest.mark.parametrize("path", ["v1/route", "erp-db/route"])
@pytest.mark.parametrize("header", [{"Known-Epoch": "4"}, {"If-None-Match": '"4"'}])
async def test_an_older_route_than_the_askers_is_never_given(
    client: httpx.AsyncClient, source: Fixed, path: str, header: dict[str, str]
) -> None:
    asked = asyncio.create_task(client.get(f"/v1/vms/{path}", headers=header))
    answer = await asked
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "epoch 3 of v1" in answer.json()["detail"]
    asked = asyncio.create_task(client.get(f"/v1/vms/{path}", headers={"Known-Epoch": "4"}))
    await until_waiting(source, "v1")
    source.tell(route("v1", "p2", epoch=4))
    assert (await asked).json()["node"] == "p2"


async def until_waiting(source: Fixed, vm_id: str) -> None:
    deadline = time.monotonic() + 10
    while vm_id not in source.changes._waiting:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_long_poll_answers_at_once_on_a_change(client: httpx.AsyncClient, source: Fixed) -> None:
    asked = asyncio.create_task(client.get("/v1/vms/v1/route?wait=60", headers={"If-None-Match": '"3"'}))
    await until_waiting(source, "v1")
    source.tell(route("v2", "p1", epoch=2))  # another's is none of its business
    source.tell(route("v1", "p2", epoch=4))
    answer = await asyncio.wait_for(asked, 10)
    assert (answer.status_code, answer.json()["epoch"]) == (200, 4)
    at_once = await client.get("/v1/vms/v1/route?wait=60", headers={"If-None-Match": '"3"'})
    assert at_once.json()["epoch"] == 4


async def test_a_long_poll_ends_with_its_time_and_with_the_service(client: httpx.AsyncClient, source: Fixed) -> None:
    answer = await client.get("/v1/vms/v1/route?wait=1", headers={"If-None-Match": '"3"'})
    assert answer.status_code == 304
    asked = asyncio.create_task(client.get("/v1/vms/v1/route?wait=60", headers={"If-None-Match": '"3"'}))
    await until_waiting(source, "v1")
    source.changes.end()
    assert (await asyncio.wait_for(asked, 10)).status_code == 304


async def test_many_are_asked_for_at_once(client: httpx.AsyncClient) -> None:
    body = {"vms": ["v1", "erp-app", "nobody"], "known_epochs": {"v1": 3}}
    answer = await client.post("/v1/routes/lookup", json=body)
    assert answer.status_code == 200, answer.text
    first, second, third = answer.json()["routes"]
    assert (first["route"]["node"], second["route"]["vm_id"], third["route"]) == ("p1", "v2", None)
    assert "no VM 'nobody' is known" in third["problem"]


@pytest.mark.parametrize("path", ["/v1/vms/v1/route", "/v1/vms/erp-db/route", "/v1/vms/v1", "/v1/vms", "/readyz"])
async def test_what_is_too_old_is_no_answer(client: httpx.AsyncClient, source: Fixed, path: str) -> None:
    source.fresh(ago_ms=6_000)
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (await client.get("/healthz")).status_code == 200


async def test_one_partition_that_is_behind_withholds_its_own_vms_alone(
    client: httpx.AsyncClient, source: Fixed
) -> None:
    mine = source.knowledge.partition_of("v1")
    assert mine != source.knowledge.partition_of("v2")
    source.knowledge._known[mine] -= 60_000
    assert (await client.get("/v1/vms/v1/route")).status_code == 503
    assert (await client.get("/v1/vms/v2/route")).status_code == 200
    # A name may belong to a VM of any partition, and a list is of all.
    assert (await client.get("/v1/vms/erp-app/route")).status_code == 503
    assert (await client.get("/v1/vms")).status_code == 503


@pytest.mark.parametrize("path", ["/v1/vms/v1/route", "/v1/vms/v1/route?node=p1", "/v1/vms/v1"])
async def test_the_plain_question_is_guarded_like_every_other(source: Fixed, path: str) -> None:
    door = Doorkeeper(ADMINISTRATOR, ELSEWHERE)
    app = create_app(source, door, Noted())
    async with calling(app, "nobody") as stranger, calling(app, "dora") as foreigner:
        unknown = await stranger.get(path)
        assert (unknown.status_code, unknown.headers["WWW-Authenticate"]) == (401, "Bearer")
        refused = await foreigner.get(path)
        assert refused.status_code == 403
        assert refused.json()["detail"].startswith("X2: dora may LOOK for site moon only")
    assert [told[:3:2] for told in door.refusals] == [("dora", "LOOK")]


class Heard:
    """What a stream of events told."""

    def __init__(self) -> None:
        self.last_id = ""
        self.routes: list[tuple[str, int]] = []

    async def listen(self, stream: RouteStream, until: int) -> Heard:
        async for event in stream.events():
            fields = dict(line.split(": ", 1) for line in event.decode().splitlines() if line and line[0] != ":")
            if "data" in fields:
                data = json.loads(fields["data"])
                self.routes.append((data["vm_id"], data["epoch"]))
                self.last_id = fields["id"]
            if len(self.routes) >= until:
                break
        return self


def stream(source: Fixed, last_id: str = "", who: Principal = ADMINISTRATOR, seconds: float = 30) -> RouteStream:
    caller = Caller(
        who,
        {"method": "GET", "path": "/", "headers": [(b"authorization", who.name.encode())]},
        Doorkeeper(ADMINISTRATOR, ELSEWHERE),
    )
    return RouteStream(source, caller, Position.read(last_id), seconds)


async def test_a_stream_tells_every_route_and_then_what_changes(source: Fixed) -> None:
    heard = Heard()
    listening = asyncio.create_task(heard.listen(stream(source), 3))
    deadline = time.monotonic() + 10
    while len(heard.routes) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    source.tell(route("v1", "p2", epoch=4))
    await asyncio.wait_for(listening, 10)
    assert heard.routes == [("v1", 3), ("v2", 1), ("v1", 4)]


async def test_it_is_resumed_in_another_process_without_gap_or_past(source: Fixed) -> None:
    heard = await Heard().listen(stream(source), 2)
    source.tell(route("v2", "p1", epoch=2))
    source.tell(route("v2", "p2", epoch=3))
    again = await Heard().listen(stream(source, heard.last_id, seconds=0.2), 9)
    assert again.routes == [("v2", 3)]
    behind = Fixed(WORLD)  # a process that has not read as far yet
    assert (await Heard().listen(stream(behind, again.last_id, seconds=0.2), 9)).routes == []


async def test_a_stream_shows_what_the_caller_may_see_and_ends_with_their_token(source: Fixed) -> None:
    assert (await Heard().listen(stream(source, who=ELSEWHERE, seconds=0.2), 9)).routes == []
    listening = stream(source)
    assert await listening._goes_on()

    door = listening._caller.access
    assert isinstance(door, Doorkeeper)
    door.known.clear()
    assert not await listening._goes_on()


async def test_it_ends_with_the_service_and_where_the_listener_is_overrun(source: Fixed) -> None:
    listening = asyncio.create_task(Heard().listen(stream(source), 9))
    await asyncio.sleep(0)
    source.changes.end()
    await asyncio.wait_for(listening, 10)
    changes = Changes()
    with changes.listening() as listener:
        changes.tell(RouteChange("v1", 0, offset) for offset in range(20_001))
        assert listener.overrun
        assert await listener.next(0) == []


async def test_over_http_it_is_server_sent_events(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/routes/events?seconds=0", headers={"Last-Event-ID": "no id of ours"})
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.text.count("event: route") == 2
