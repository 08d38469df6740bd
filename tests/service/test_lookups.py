"""The plain question for a route, answered before the rest of the service, and never with less than the asker knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, MutableMapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from made_by_hand import Doorkeeper, Fixed, Noted, calling

from failover_orch.domain import (
    AccessRole,
    Grant,
    Guest,
    Location,
    Principal,
    Replication,
    ReplicationState,
    Role,
    RouteCause,
    RoutingUpdate,
    VmInventory,
)
from failover_orch.service import create_app
from failover_orch.service.lookups import Lookups, RouteAsked, Scope, route_answer

ROUTE = RoutingUpdate(
    "v1",
    3,
    RouteCause.LIVE,
    Location("primary", "p2", Role.PRIMARY, 10),
    "p1",
    (Location("dr", "d1", Role.REPLICA, 5), Location("primary", "p2", Role.PRIMARY, 10, "cluster", "/csv")),
    10,
)
INVENTORY = VmInventory(
    "v1", "erp-db", (), Guest("debian-12"), Replication(ReplicationState.REPLICATING, "primary", "dr")
)
THERE = Principal("there", (Grant(AccessRole.VIEWER, sites=("dr",)),), "token")
ELSEWHERE = Principal("elsewhere", (Grant(AccessRole.VIEWER, sites=("third",)),), "token")


@pytest.fixture
def source() -> Fixed:
    return Fixed([ROUTE, INVENTORY])


@pytest.fixture
def door() -> Doorkeeper:
    return Doorkeeper(THERE, ELSEWHERE)


@pytest.fixture
async def client(source: Fixed, door: Doorkeeper) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(create_app(source, door, Noted()), who="there") as client:
        yield client


async def somebody_waits(source: Fixed) -> None:
    async with asyncio.timeout(5):
        while not source.changes._waiting:  # noqa: ASYNC110 (nobody tells when somebody begins to wait)
            await asyncio.sleep(0)


async def test_a_route_says_where_the_vm_is_and_how_old_the_knowledge_is(
    client: httpx.AsyncClient, source: Fixed
) -> None:
    source.fresh(ago_ms=2_000)
    answer = await client.get("/v1/vms/v1/route")
    route = answer.json()
    assert answer.status_code == 200
    assert (route["vm_id"], route["name"], route["epoch"]) == ("v1", "erp-db", 3)
    assert (route["site"], route["node"], route["role"]) == ("primary", "p2", "PRIMARY")
    assert (route["cluster"], route["storage"]) == ("cluster", "/csv")
    assert [at["node"] for at in route["locations"]] == ["p2", "d1"]
    assert 2_000 <= route["age_ms"] < 4_000
    assert (answer.headers["ETag"], answer.headers["Known-At"]) == ('"3"', route["known_at"])
    assert answer.headers["As-Of"] == route["as_of"]
    assert (route["asked_node"], route["stale"]) == (None, None)


@pytest.mark.parametrize(("node", "stale"), [("p2", False), ("p1", True)])
async def test_an_asker_who_names_a_node_is_told_whether_the_vm_left_it(
    client: httpx.AsyncClient, node: str, stale: bool
) -> None:
    route = (await client.get(f"/v1/vms/v1/route?node={node}")).json()
    assert (route["asked_node"], route["stale"], route["node"]) == (node, stale, "p2")


async def test_the_plain_question_gets_the_same_answer_as_by_the_rest_of_the_service(
    client: httpx.AsyncClient, source: Fixed
) -> None:
    source.knowledge._now_ms = lambda: 0  # nothing grows old between the two
    plain = await client.get("/v1/vms/v1/route")
    by_name = await client.get("/v1/vms/erp-db/route")
    assert {**plain.json(), "age_ms": 0} == {**by_name.json(), "age_ms": 0}
    same = ("ETag", "As-Of", "Known-At", "Cache-Control", "Content-Type")
    assert [plain.headers[name] for name in same] == [by_name.headers[name] for name in same]


@pytest.mark.parametrize("tags", ['"3"', 'W/"3"', '"2", "3"', "*"])
async def test_a_route_that_is_as_the_asker_knows_it_is_not_sent_again(client: httpx.AsyncClient, tags: str) -> None:
    answer = await client.get("/v1/vms/v1/route", headers={"If-None-Match": tags})
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", '"3"')


@pytest.mark.parametrize(
    "headers", [{"Known-Epoch": "2"}, {"Known-Epoch": "3"}, {"If-None-Match": f'"2", "3-abc", "{"9" * 5_000}"'}]
)
async def test_an_asker_who_knows_no_more_is_answered_at_once(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    assert (await client.get("/v1/vms/v1/route", headers=headers)).json()["epoch"] == 3


@pytest.mark.parametrize("headers", [{"Known-Epoch": "4"}, {"If-None-Match": '"4"'}, {"If-None-Match": 'W/"3", "4"'}])
async def test_a_process_that_knows_less_than_the_asker_waits_for_what_it_lacks(
    client: httpx.AsyncClient, source: Fixed, headers: dict[str, str]
) -> None:
    asking = asyncio.create_task(client.get("/v1/vms/v1/route", headers=headers))
    await somebody_waits(source)
    source.tell(replace(ROUTE, epoch=4))
    answer = await asking
    assert answer.headers["ETag"] == '"4"'
    assert answer.status_code == (304 if headers.get("If-None-Match") else 200)


@pytest.mark.parametrize("path", ["/v1/vms/v1/route", "/v1/vms/erp-db/route"])
async def test_a_process_that_goes_on_knowing_less_says_so_and_gives_no_route(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("failover_orch.service.lookups._CATCHES_UP_WITHIN_S", 0.01)
    answer = await client.get(path, headers={"Known-Epoch": "4"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"].startswith("epoch 3 of v1 is known here yet, and epoch 4 by whoever asks")


async def test_other_changes_of_a_vm_do_not_end_the_wait(source: Fixed) -> None:
    source.tell(replace(ROUTE, epoch=5))
    asking = asyncio.create_task(route_answer(source, RouteAsked("v1", known_epoch=7)))
    await somebody_waits(source)
    source.tell(replace(ROUTE, epoch=6))
    await asyncio.sleep(0)
    assert not asking.done()
    source.tell(replace(ROUTE, epoch=7))
    assert (await asking).headers[0] == (b"etag", b'"7"')


@pytest.mark.parametrize("headers", [{}, {"Known-Epoch": "3"}, {"Known-Epoch": "9"}])
async def test_no_route_is_given_while_what_is_known_is_old(
    client: httpx.AsyncClient, source: Fixed, headers: dict[str, str]
) -> None:
    source.fresh(ago_ms=60_000)
    began = time.monotonic()
    answer = await client.get("/v1/vms/v1/route", headers=headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert time.monotonic() - began < 0.5, "it was known at once that there is no answer"


@pytest.mark.parametrize("known", [(INVENTORY,), (INVENTORY, replace(ROUTE, locations=()))])
async def test_a_vm_that_no_node_has_reported_has_no_route(door: Doorkeeper, known: tuple[object, ...]) -> None:
    async with calling(create_app(Fixed(known), door, Noted()), who="there") as client:
        answer = await client.get("/v1/vms/v1/route")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "no node has reported yet where erp-db is: the agent of its site does"


async def test_who_may_not_see_the_vm_is_refused_and_that_is_told(source: Fixed, door: Doorkeeper) -> None:
    async with calling(create_app(source, door, Noted()), who="elsewhere") as client:
        answer = await client.get("/v1/vms/v1/route")
    assert answer.status_code == 403
    assert answer.json()["detail"].startswith("X2: elsewhere may LOOK for site third only")
    assert [(who, what) for who, _, what, _ in door.refusals] == [("elsewhere", "LOOK")]


async def test_who_cannot_say_who_they_are_gets_no_route(source: Fixed, door: Doorkeeper) -> None:
    async with calling(create_app(source, door, Noted()), who="nobody") as client:
        answer = await client.get("/v1/vms/v1/route")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def scope(path: str = "/v1/vms/v1/route", **changed: Any) -> Scope:
    plain = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "client": ("::1", 1)}
    return {**plain, **changed}


@pytest.mark.parametrize(
    "asked",
    [
        scope("/v1/vms/v1"),
        scope("/v1/vms/v1/routes"),
        scope("/v1/vms/erp-db/route"),
        scope("/v1/vms/nobody/route"),
        scope("/v1/vms//route"),
        scope("/v1/vms/route"),
        scope(method="HEAD"),
        scope(method="POST"),
        scope(query_string=b"wait=5"),
        scope(type="websocket"),
        scope(headers=[(b"known-epoch", b"-1")]),
        scope(headers=[(b"known-epoch", b"")]),
        scope(headers=[(b"known-epoch", b"9" * 100)]),
        scope(headers=[(b"known-epoch", b"3"), (b"known-epoch", b"4")]),
        {"type": "lifespan"},
    ],
    ids=lambda asked: f"{asked.get('method')} {asked.get('path')} {asked.get('headers')}",
)
async def test_what_is_not_the_plain_question_goes_on(source: Fixed, door: Doorkeeper, asked: Scope) -> None:
    went_on = []

    async def behind(scope: Scope, _receive: object, _send: object) -> None:
        went_on.append(scope)

    async def never() -> MutableMapping[str, Any]:
        raise AssertionError

    async def unheard(_message: MutableMapping[str, Any]) -> None:
        raise AssertionError("it was answered in front")

    await Lookups(behind, source, door)(asked, never, unheard)
    assert went_on == [asked]
