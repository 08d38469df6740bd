"""The HTTP service: its answers over a model made by hand, and the whole of it on a real Kafka and a real port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
from made_by_hand import Doorkeeper, Fixed, Noted, calling

from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.domain import (
    AdapterAddresses,
    ApprovalRule,
    AutomaticMode,
    Brake,
    FailoverKind,
    FamilyAddresses,
    Gate,
    GateKind,
    Guest,
    HealthChange,
    Location,
    Policy,
    PolicyScope,
    Readiness,
    RecoveryGroup,
    RecoveryPlan,
    Replication,
    ReplicationHealth,
    ReplicationState,
    Role,
    RouteCause,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    VmInventory,
    VmReplicationSettings,
)
from failover_orch.errors import ConfigError
from failover_orch.service import Feed, KafkaCommands, create_app, serve
from failover_orch.service.access import ServiceFile
from failover_orch.wire import Publisher

ROUTE = RoutingUpdate(
    "v1",
    3,
    RouteCause.LIVE,
    Location("primary", "p2", Role.PRIMARY, 10),
    "p1",
    (Location("dr", "d1", Role.REPLICA, 5), Location("primary", "p2", Role.PRIMARY, 10)),
    10,
)
INVENTORY = VmInventory(
    "v1",
    "erp-db",
    (),
    Guest("debian-12"),
    Replication(ReplicationState.REPLICATING, "primary", "dr"),
    application="erp",
)
SETTINGS = VmReplicationSettings("v1", (AdapterAddresses("nic0", FamilyAddresses(addresses=("10.9.0.5/24",))),))
HEALTH = HealthChange(
    "v1",
    ReplicationHealth.CRITICAL,
    ReplicationHealth.NORMAL,
    ("H5: nothing received",),
    11,
    Readiness.AT_RISK,
    Readiness.READY,
    ("D3: replication health is Critical (H5: nothing received)",),
)
PLAN = RecoveryPlan("plan-1", "ERP", (RecoveryGroup("db", ("v1",), gates=(Gate(GateKind.TCP_PORT, 5432),)),))
POLICIES = (
    Policy(PolicyScope.ALL, mode=AutomaticMode.ADVISE, approvals=(ApprovalRule(1, ("bob",)),)),
    Policy(PolicyScope.PLAN, "plan-1", rpo_ms=60_000),
)


def run(run_id: str, vm_id: str = "v1", state: RunState = RunState.RUNNING) -> RunSnapshot:
    parent = run_id.rpartition("/")[0]
    return RunSnapshot(run_id, FailoverKind.PLANNED, state, vm_id, (), "alice", "drill", 5, 0, parent_run_id=parent)


@pytest.fixture
def source() -> Fixed:
    return Fixed((ROUTE, INVENTORY, SETTINGS, HEALTH, PLAN, *POLICIES))


@pytest.fixture
async def client(source: Fixed) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(create_app(source, Doorkeeper(), Noted())) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/vms/v1", "/v1/vms/erp-db"])
async def test_a_vm_is_shown_whole(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["As-Of"] == "2023-11-14T22:13:20.123Z"
    vm = answer.json()
    assert vm["as_of"] == answer.headers["As-Of"]
    assert (vm["name"], vm["node"], vm["site"], vm["epoch"]) == ("erp-db", "p2", "primary", 3)
    assert [(at["node"], at["role"]) for at in vm["locations"]] == [("p2", "PRIMARY"), ("d1", "REPLICA")]
    assert vm["health"]["health"] == "Critical"
    assert vm["adapters"][0]["failover_ipv4"]["addresses"] == ["10.9.0.5/24"]
    assert vm["run"] is None


async def test_the_tag_is_the_epoch_and_follows_every_change(client: httpx.AsyncClient, source: Fixed) -> None:
    tag = (await client.get("/v1/vms/v1")).headers["ETag"]
    assert tag.startswith('"3-')
    source.model.as_of_ms += 60_000  # something else happened: this VM is still as it was
    same = await client.get("/v1/vms/v1", headers={"If-None-Match": f'"other", W/{tag}'})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["As-Of"] == "2023-11-14T22:14:20.123Z"
    source.model.apply(run("r1"))
    changed = await client.get("/v1/vms/v1", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag
    assert changed.json()["run"]["run_id"] == "r1"


async def test_vms_are_listed_and_filtered(client: httpx.AsyncClient) -> None:
    for query, names in [("", ["erp-db"]), ("?site=dr&application=erp", ["erp-db"]), ("?node=p1", [])]:
        assert [vm["name"] for vm in (await client.get(f"/v1/vms{query}")).json()["vms"]] == names


async def test_placement_says_where_the_replica_lives(client: httpx.AsyncClient) -> None:
    placement = (await client.get("/v1/vms/erp-db/placement")).json()["placement"]
    assert (placement["existing"], placement["node"]) == (True, "d1")


async def test_runs_are_listed_and_shown(client: httpx.AsyncClient, source: Fixed) -> None:
    for value in (run("r1", vm_id=""), run("r1/v1"), run("r2", state=RunState.FAILED)):
        source.model.apply(value)
    listed = (await client.get("/v1/runs?vm=erp-db&state=FAILED")).json()["runs"]
    assert [one["run_id"] for one in listed] == ["r2"]
    assert len((await client.get("/v1/runs?limit=2")).json()["runs"]) == 2
    shown = (await client.get("/v1/runs/r1")).json()
    assert [member["run_id"] for member in shown["members"]] == ["r1/v1"]
    assert (await client.get("/v1/runs/r1/v1")).json()["run"]["vm_id"] == "v1"


async def test_those_that_wait_for_a_person_are_found(client: httpx.AsyncClient, source: Fixed) -> None:
    waits = replace(run("r2", state=RunState.PARKED), waits_for="alice has to say", choices=("RESUME",))
    for value in (run("r1"), waits):
        source.model.apply(value)
    (one,) = (await client.get("/v1/runs?waiting=true")).json()["runs"]
    assert (one["run_id"], one["waits_for"], one["choices"]) == ("r2", "alice has to say", ["RESUME"])
    assert (one["recovery_time_ms"], one["approved_by"], one["groups"]) == (-1, [], [])


async def test_plans_are_listed_and_shown_with_their_readiness(client: httpx.AsyncClient) -> None:
    (listed,) = (await client.get("/v1/plans")).json()["plans"]
    assert (listed["name"], listed["vms"], listed["readiness"]) == ("ERP", 1, "UNKNOWN")
    for name in ("plan-1", "erp"):
        shown = (await client.get(f"/v1/plans/{name}")).json()
        assert shown["plan"]["groups"][0]["gates"][0] == {
            "kind": "TCP_PORT",
            "port": 5432,
            "command": [],
            "timeout_ms": 300_000,
            "on_failure": "HALT",
        }
        assert [(one["name"], one["readiness"]) for one in shown["members"]] == [("erp-db", "AT_RISK")]


async def test_readiness_says_what_to_do(client: httpx.AsyncClient) -> None:
    standing = (await client.get("/v1/readiness")).json()["standing"]
    assert [(one["kind"], one["name"]) for one in standing] == [("plan", "ERP"), ("vm", "erp-db")]
    assert "failover-orch vm show" in standing[1]["defects"][0]["do"]


async def test_policies_are_shown_as_set_and_as_they_come_out(client: httpx.AsyncClient) -> None:
    policies = (await client.get("/v1/policies")).json()["policies"]
    assert [(one["scope"], one["target"]) for one in policies] == [("ALL", ""), ("PLAN", "plan-1")]

    async def limits(path: str) -> dict[str, tuple[object, str]]:
        answer = (await client.get(f"/v1/{path}/limits")).json()
        return {one["name"]: (one["value"], one["source"]) for one in answer["limits"]}

    of_vm = await limits("vms/erp-db")
    assert of_vm["mode"] == ("ADVISE", "all")
    assert of_vm["rpo_ms"] == (60_000, "plan/plan-1")
    approvals = [{"needed": 1, "approvers": ["bob"], "kinds": [], "to_site": "", "within_ms": 3_600_000}]
    assert of_vm["approvals"] == (approvals, "all")
    assert (await limits("plans/ERP"))["rpo_ms"] == (60_000, "plan/plan-1")
    assert (await limits("sites/dr"))["rpo_ms"] == (0, "default")


async def test_the_brake_is_shown(client: httpx.AsyncClient, source: Fixed) -> None:
    before = (await client.get("/v1/brake")).json()
    assert (before["engaged"], before["brake"]) == (False, None)
    source.model.apply(Brake(True, "failover_orch", "20 automatic failovers within 3600 s", 7))
    after = (await client.get("/v1/brake")).json()
    assert (after["engaged"], after["brake"]["actor"]) == (True, "failover_orch")


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("/v1/vms/erp-bd", 404, "no VM 'erp-bd' is known; did you mean erp-db?"),
        ("/v1/runs/r9", 404, "no run 'r9' is known: none has been reported yet"),
        ("/v1/plans/mail", 404, "no recovery plan 'mail' is known"),
        ("/v1/sites/moon/limits", 404, "no site 'moon' is known"),
        ("/v1/nothing", 404, "Not Found"),
        ("/v1/runs?limit=0", 422, "query.limit: Input should be greater than or equal to 1"),
        ("/v1/runs?state=DONE", 422, "query.state: Input should be"),
    ],
)
async def test_errors_are_problems(client: httpx.AsyncClient, path: str, status: int, detail: str) -> None:
    answer = await client.get(path)
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert answer.status_code == problem["status"] == status
    assert problem["detail"].startswith(detail)
    assert problem["title"]


async def test_a_wrong_method_says_which_are_right(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/vms", json={})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_bug_is_a_problem_that_tells_nothing(client: httpx.AsyncClient, source: Fixed) -> None:
    source.model.vms = None  # type: ignore[assignment, method-assign]  # any bug will do
    answer = await client.get("/v1/vms")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/vms", "/v1/vms/v1", "/v1/vms/v1/placement", "/v1/vms/v1/limits", "/v1/runs", "/v1/runs/r1", "/readyz"),
        *("/v1/plans", "/v1/plans/ERP", "/v1/plans/ERP/limits", "/v1/sites/dr/limits", "/v1/policies", "/v1/brake"),
        "/v1/readiness",
    ],
)
async def test_until_caught_up_nothing_is_guessed(client: httpx.AsyncClient, source: Fixed, path: str) -> None:
    source.knowledge.forget()
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (await client.get("/healthz")).status_code == 200


async def test_readiness_needs_kafka(client: httpx.AsyncClient, source: Fixed) -> None:
    assert (await client.get("/readyz")).json()["status"] == "ready"
    source.kafka_answers = False
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "as of 2023-11-14T22:13:20.123Z" in answer.json()["detail"]


async def test_the_description_names_every_path(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/v1/openapi.json")).json()["paths"]
    assert {"/v1/vms", "/v1/vms/{vm}", "/v1/vms/{vm}/placement", "/v1/runs", "/v1/runs/{run_id}"} <= paths.keys()


def feed_of(settings: Settings) -> Feed:
    return Feed(settings.bootstrap, names=settings.names, codec=Codec(), app_id=settings.app_id)


async def test_a_taken_port_is_said_plainly() -> None:
    held = asyncio.Event()
    server = await asyncio.start_server(lambda _reader, _writer: held.set(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {port}.*choose another"):
            await serve(
                feed_of(Settings("127.0.0.1:1")), Doorkeeper(), Noted(), file=ServiceFile(port=port), listening=print
            )


async def answered(client: httpx.AsyncClient, path: str, status: int) -> httpx.Response:
    deadline = time.monotonic() + 30
    while True:
        answer = await client.get(path)
        if answer.status_code == status:
            return answer
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The service on a real port, and a client of it."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    commands = KafkaCommands(settings, Codec())
    file = ServiceFile(port=0)
    service = asyncio.create_task(
        serve(feed_of(settings), Doorkeeper(), commands, file=file, listening=address.set_result)
    )
    headers = {"Authorization": "Bearer alice"}
    async with httpx.AsyncClient(base_url=await address, headers=headers) as client:
        yield client
    service.cancel()
    with pytest.raises(asyncio.CancelledError):
        await service


async def test_it_waits_for_a_kafka_that_is_not_there() -> None:
    async with serving(Settings("127.0.0.1:1")) as client:
        assert (await client.get("/v1/vms")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        body = {"engaged": True, "reason": "storm"}
        answer = await client.put("/v1/brake", json=body, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 503


@pytest.mark.kafka
async def test_on_a_real_kafka_and_a_real_port(settings: Settings) -> None:
    publisher = Publisher(
        settings.bootstrap, Codec(), names=settings.names, partitions=settings.partitions, source="test"
    )
    async with publisher, serving(settings) as client:
        await publisher.publish(ROUTE, INVENTORY, SETTINGS, HEALTH)
        vm = (await answered(client, "/v1/vms/erp-db", 200)).json()
        assert (vm["node"], vm["epoch"], vm["health"]["health"]) == ("p2", 3, "Critical")
        assert vm["as_of"] is not None
        route = await answered(client, "/v1/vms/v1/route", 200)
        assert (route.json()["node"], route.headers["ETag"]) == ("p2", '"3"')
        assert (await client.get("/readyz")).status_code == 200
        await publisher.publish(run("r1"))
        assert (await answered(client, "/v1/runs/r1", 200)).json()["run"]["actor"] == "alice"
        body = {"engaged": True, "reason": "storm"}
        answer = await client.put("/v1/brake", json=body, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 202
        deadline = time.monotonic() + 30
        while not (await answered(client, "/v1/brake", 200)).json()["engaged"]:
            assert time.monotonic() < deadline
