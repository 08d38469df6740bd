"""`failover-orch serve` as processes: equal ones, behind tokens, with commands in Kafka, and drained on SIGTERM."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from made_world import cluster, inventory, route

from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.domain import AccessRole, AccessToken, FailoverRequested, Grant, MoveKind, VmMoved
from failover_orch.service.access import mint
from failover_orch.wire import Publisher, now_ms, read_to_end

Running = tuple[asyncio.subprocess.Process, httpx.AsyncClient]


@asynccontextmanager
async def command(settings: Settings, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command of ours as a process, killed in the end where it has not ended by itself."""
    environment = os.environ | {
        "FAILOVER_ORCH_BOOTSTRAP": str(settings.bootstrap),
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
        "FAILOVER_ORCH_PARTITIONS": str(settings.partitions),
    }
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "failover_orch", *words),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


@asynccontextmanager
async def process(settings: Settings, token: str) -> AsyncIterator[Running]:
    """A service of its own, and a client of it."""
    async with command(settings, "serve", "--port", "0") as serving:
        assert serving.stdout is not None
        said = await asyncio.wait_for(serving.stdout.readline(), 60)
        found = re.search(r"http://\S+", said.decode())
        assert found is not None
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=found.group(), headers=headers, timeout=60) as client:
            yield serving, client


async def answered(client: httpx.AsyncClient, path: str) -> httpx.Response:
    deadline = time.monotonic() + 60
    while (answer := await client.get(path)).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.1)
    return answer


async def requests_in(settings: Settings) -> list[FailoverRequested]:
    found = []
    async for records in read_to_end(settings.bootstrap, ["failover-requested"], names=settings.names):
        for record in records:
            assert record.value is not None
            value = Codec().decode_from(record.topic, record.value)
            assert isinstance(value, FailoverRequested)
            found.append(value)
    return found


def token_of(role: AccessRole) -> tuple[str, AccessToken]:
    return mint("alice", [Grant(role)], actor="test", reason="test", now_ms=now_ms(), lifetime_ms=3_600_000)


def publisher_for(settings: Settings) -> Publisher:
    return Publisher(settings.bootstrap, Codec(), names=settings.names, partitions=settings.partitions, source="test")


async def test_what_is_asked_for_is_seen_at_its_location(settings: Settings) -> None:
    """Through a real worker: a move becomes a route, a request a run, a change of settings a revision."""
    text, token = token_of(AccessRole.ADMINISTRATOR)
    async with publisher_for(settings) as publisher:
        await publisher.publish(token, inventory("v1", "erp-db"), cluster("dr-c", "dr", "d1"))
    async with command(settings, "worker"), process(settings, text) as (_, client):
        async with publisher_for(settings) as publisher:
            await publisher.publish(VmMoved("v1", "primary", "p3", MoveKind.PLACED, now_ms()))
        assert (await answered(client, "/v1/vms/v1/route")).json()["node"] == "p3"

        body = {"kind": "PLANNED", "vms": ["erp-db"], "reason": "maintenance"}
        taken = await client.post("/v1/runs", json=body, headers={"Idempotency-Key": "CHG-1"})
        assert taken.status_code == 202, taken.text
        run = (await answered(client, taken.headers["Location"])).json()["run"]
        assert (run["vm_id"], run["actor"], run["reason"]) == ("v1", "alice", "maintenance")

        change = {"changes": {"recovery_points": "4"}, "reason": "tier 1"}
        said = await client.patch("/v1/vms/v1/replication", json=change, headers={"Idempotency-Key": "CHG-2"})
        assert said.status_code == 202, said.text
        deadline = time.monotonic() + 60
        while not (history := (await answered(client, said.headers["Location"])).json()["revisions"]):
            assert time.monotonic() < deadline
        assert [(one["version"], one["actor"], one["refused"]) for one in history] == [(1, "alice", [])]


async def test_equal_processes_take_one_command_once_and_are_drained(settings: Settings) -> None:
    text, token = token_of(AccessRole.OPERATOR)
    async with publisher_for(settings) as publisher:
        await publisher.publish(route("v1"), inventory("v1", "erp-db"), token)
    async with process(settings, text) as (one, first), process(settings, text) as (_, second):
        for client in (first, second):
            assert (await answered(client, "/v1/vms/v1/route")).json()["node"] == "p1"
            assert (await client.get("/v1/vms", headers={"Authorization": "Bearer x"})).status_code == 401

        body = {"kind": "PLANNED", "vms": ["erp-db"], "reason": "maintenance"}
        taken = [
            await client.post("/v1/runs", json=body, headers={"Idempotency-Key": "CHG-1"}) for client in (first, second)
        ]
        assert [answer.status_code for answer in taken] == [202, 202]
        # It is in Kafka before the answer is: as the same run, so that the broker takes it once.
        requests = await requests_in(settings)
        assert {request.run_id for request in requests} == {answer.json()["id"] for answer in taken}
        assert len({answer.json()["id"] for answer in taken}) == 1
        assert {request.actor for request in requests} == {"alice"}

        waiting = asyncio.create_task(first.get("/v1/vms/v1/route?wait=60", headers={"If-None-Match": '"3"'}))
        listening = asyncio.create_task(first.get("/v1/routes/events"))
        assert (await first.get("/v1/vms/v1/route")).status_code == 200
        one.send_signal(signal.SIGTERM)
        assert (await asyncio.wait_for(waiting, 30)).status_code == 304
        assert "event: route" in (await asyncio.wait_for(listening, 30)).text
        assert await asyncio.wait_for(one.wait(), 30) == 0
        assert (await second.get("/v1/vms/v1/route")).status_code == 200
