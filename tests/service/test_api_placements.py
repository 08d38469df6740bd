"""Where to send a new replica, over HTTP: what follows from the cluster's settings, or which rules refuse it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest
from made_by_hand import ADMINISTRATOR, Doorkeeper, Fixed, Noted, calling
from made_world import ACCEPTS, BROKER, PRIMARY_SERVER, REVISION, WORLD

from failover_orch.domain import (
    AccessRole,
    Grant,
    NodePort,
    Principal,
    SettingsScope,
    SettingsStanding,
    Standing,
)
from failover_orch.service import create_app

NEW = {"primary_site": "primary", "memory_mib": 2_048, "storage_gib": 20}
ASKED = {"primary_server": PRIMARY_SERVER, "vm": "web-7", "new": NEW, "cluster": BROKER}
SERVER = Principal(PRIMARY_SERVER, (Grant(AccessRole.SITE_AGENT, sites=("primary",)),), "certificate")
FOREIGN = Principal("agent", (Grant(AccessRole.SITE_AGENT, sites=("moon",)),), "token")


@pytest.fixture
def source() -> Fixed:
    return Fixed(WORLD)


async def ask(source: Fixed, body: dict[str, Any], who: str = PRIMARY_SERVER) -> httpx.Response:
    door = Doorkeeper(SERVER, FOREIGN, ADMINISTRATOR)
    async with calling(create_app(source, door, Noted()), who) as client:
        return await client.post("/v1/placements", json=body)


async def test_a_new_vm_is_given_node_storage_port_and_trust_group(source: Fixed) -> None:
    answer = await ask(source, ASKED)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["cluster"], body["storage"], body["trust_group"]) == ("dr-c", "/csv/2", "gold")
    assert body["node"] in ("d1", "d2")
    assert (body["http_port"], body["https_port"], body["authentication"]) == (8_080, 0, "Kerberos")
    assert (body["broker"], body["existing"], body["version"]) == (BROKER, False, 1)
    assert body["node"] in body["why"]
    assert answer.headers["As-Of"]


async def test_the_port_is_from_the_nodes_port_map(source: Fixed) -> None:
    mapped = tuple(NodePort(node, port) for node, port in (("d1", 9_001), ("d2", 9_002), (BROKER, 9_003)))
    source.tell(replace(REVISION, version=2, server=replace(ACCEPTS, http_port_map=mapped)))
    body = (await ask(source, ASKED)).json()
    assert body["http_port"] == {"d1": 9_001, "d2": 9_002}[body["node"]]


async def test_a_replica_that_is_there_stays_where_it_is(source: Fixed) -> None:
    body = (await ask(source, {"primary_server": PRIMARY_SERVER, "vm": "erp-db"})).json()
    assert (body["vm_id"], body["node"], body["existing"]) == ("v1", "d1", True)


async def test_a_node_that_cannot_take_the_settings_is_not_used(source: Fixed) -> None:
    cannot = SettingsStanding(SettingsScope.CLUSTER, "dr-c", "d1", Standing.FAILED, 1, 0, 9, "http_port: in use")
    source.tell(cannot)
    body = (await ask(source, ASKED)).json()
    assert body["node"] == "d2"
    assert "N7" in str(body["placement"]["refused"])


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"primary_server": "p1.stranger.example"}, 422, "J3: "),
        ({"trust_group": "silver"}, 422, "J4: "),
        ({"cluster": "p-c"}, 422, "J1: cluster p-c has no replication settings"),
        ({"cluster": "x-c"}, 404, "no cluster 'x-c' is known"),
        ({"cluster": ""}, 422, "name the cluster"),
        ({"vm": "web-7", "new": None}, 404, "no VM 'web-7' is known"),
        ({"vm": "erp-db"}, 422, "erp-db is known already: leave new out"),
        ({"new": NEW | {"memory_mib": 2**30}}, 422, "lacks"),
    ],
)
async def test_what_is_refused_says_why(source: Fixed, change: dict[str, Any], status: int, sentence: str) -> None:
    answer = await ask(source, ASKED | change, "alice")
    assert (answer.status_code, sentence in answer.json()["detail"]) == (status, True), answer.text


async def test_a_server_known_by_its_certificate_asks_for_itself(source: Fixed) -> None:
    answer = await ask(source, ASKED | {"primary_server": "p2.primary.example"})
    assert answer.status_code == 403
    assert "a server asks for itself alone" in answer.json()["detail"]


async def test_and_for_its_own_sites_vms(source: Fixed) -> None:
    for body in (ASKED, {"primary_server": PRIMARY_SERVER, "vm": "erp-db"}):
        answer = await ask(source, body, "agent")
        assert (answer.status_code, answer.json()["detail"][:2]) == (403, "X2")


async def test_where_nothing_is_set_nothing_is_accepted() -> None:
    unset = Fixed(value for value in WORLD if value is not REVISION)
    answer = await ask(unset, ASKED)
    assert (answer.status_code, "J1" in answer.json()["detail"]) == (422, True)
