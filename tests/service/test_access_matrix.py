"""Every endpoint and command in every role, for what is the caller's and what is not: as `docs/security.md` says.

What is asked comes from the code (`ENDPOINTS`, `FailoverKind`, `RequestAction`), what is expected from the page, and
what is judged is the HTTP answer, given to a real token at the real gate.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from access_tables import Row, endpoint_rows, role_rows
from fastapi import FastAPI
from made_by_hand import Fixed, Noted

from failover_orch.domain import (
    AccessRole,
    ClusterInventory,
    FailoverKind,
    Grant,
    Guest,
    Location,
    Node,
    NodeState,
    Operation,
    RecoveryGroup,
    RecoveryPlan,
    Replication,
    ReplicationState,
    RequestAction,
    Role,
    RouteCause,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    Storage,
    VmInventory,
)
from failover_orch.service import ENDPOINTS, create_app
from failover_orch.service.access import AttemptLimit, Attempts, Gate, Refusals, TokenBook, mint
from failover_orch.wire import now_ms

DAY_MS = 86_400_000
REFUSED = 403
SEEN = (200, 202)


@dataclass(frozen=True, slots=True)
class Target:
    """What a call can be about: one of two worlds that share nothing."""

    vm: str
    vm_name: str
    plan: str
    run: str
    site: str
    """The site that the VM replicates to."""
    sites: frozenset[str]


OWN = Target("v1", "erp", "p1", "r1", "dr", frozenset({"primary", "dr"}))
FOREIGN = Target("v2", "crm", "p2", "r2", "south", frozenset({"north", "south"}))
TARGETS = (OWN, FOREIGN)
SCOPES: Mapping[str, dict[str, tuple[str, ...]]] = {
    "whole": {},
    "own-site": {"sites": ("dr",)},
    "own-plan": {"plans": ("p1",)},
}


def records() -> Iterator[object]:
    for target in TARGETS:
        primary = next(iter(target.sites - {target.site}))
        here, there = Location(primary, f"{primary}-1", Role.PRIMARY, 1), Location(target.site, "n1", Role.REPLICA, 1)
        replication = Replication(ReplicationState.REPLICATING, primary, target.site)
        yield RoutingUpdate(target.vm, 1, RouteCause.LIVE, here, "", (here, there), 1)
        yield VmInventory(target.vm, target.vm_name, (), Guest("debian-12"), replication)
        yield RecoveryPlan(target.plan, target.plan.upper(), (RecoveryGroup("all", (target.vm,)),))
        choices = tuple(RequestAction)
        for run_id, state in ((target.run, RunState.RUNNING), (f"{target.run}-waits", RunState.AWAITING_APPROVAL)):
            yield RunSnapshot(run_id, FailoverKind.PLANNED, state, target.vm, (), "carl", "", 1, 0, choices=choices)
        node = Node("n1", NodeState.UP, 65_536, 65_536, storages=(Storage("s1", 1_000, 1_000),))
        yield ClusterInventory(f"{target.site}-cluster", target.site, f"{target.site}-broker", (node,))


class World:
    """The service over both worlds, with a token for every role in every scope."""

    def __init__(self) -> None:
        self.source = Fixed(records())
        self.commands = Noted()
        book = TokenBook()
        self.tokens: dict[tuple[AccessRole, str], str] = {}
        for role in AccessRole:
            for scope, extent in SCOPES.items():
                if role is AccessRole.SITE_AGENT and scope != "own-site":
                    continue  # there are none
                grants = [Grant(role, **extent)]
                text, token = mint(
                    f"{role}-{scope}", grants, actor="root", reason="", now_ms=now_ms(), lifetime_ms=DAY_MS
                )
                book.take(token)
                self.source.tell(token)
                self.tokens[role, scope] = text
        self.token_id = next(iter(book.tokens))
        self.refusals = Refusals(_never)
        gate = Gate(book, self.refusals, Attempts(AttemptLimit()))
        self.app: FastAPI = create_app(self.source, gate, self.commands)
        self._keys = 0

    async def ask(self, method: str, path: str, body: object = None, *, token: str = "") -> tuple[int, bytes]:
        """Ask as ASGI has it, and hang up once the answer has begun: a stream would go on for a day."""
        self._keys += 1
        content: bytes | None = b"" if body is None else json.dumps(body).encode()
        headers = [(b"content-type", b"application/json"), (b"idempotency-key", str(self._keys).encode())]
        if token:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "client": ("10.0.0.9", 4711),
            "server": ("broker", 80),
        }
        begun = asyncio.Event()
        status, parts = 0, b""

        async def receive() -> dict[str, Any]:
            nonlocal content
            if content is not None:
                sent, content = content, None
                return {"type": "http.request", "body": sent, "more_body": False}
            await begun.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            nonlocal status, parts
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts += message.get("body", b"")
                begun.set()

        async with asyncio.timeout(10):
            await self.app(scope, receive, send)
        return status, parts


async def _never(*_: object) -> None:
    raise AssertionError("nothing is told here")


@dataclass(frozen=True, slots=True)
class Asked:
    """One call: the operation that it is, whom it is about (None: all, or nobody), and what is sent."""

    row: Row
    operation: str
    about: Target | None
    path: str
    body: object = None

    def __str__(self) -> str:
        return f"{self.row.method} {self.path} {json.dumps(self.body) if self.body is not None else ''}"


BY = {"reason": "drill"}
NEW = {"primary_site": "?", "memory_mib": 1, "storage_gib": 1}


def bodies(row: Row, target: Target) -> list[tuple[Operation, object]]:
    """What can be sent to an endpoint, and which operation each is."""
    group = {"name": "all", "vms": [target.vm]}
    known: Mapping[str, list[tuple[Operation, object]]] = {
        "POST /v1/routes/lookup": [(Operation.LOOK, {"vms": [target.vm]})],
        "POST /v1/placements": [
            (
                Operation.PLACE,
                {"primary_server": "h.example", "vm": target.vm, "cluster": f"{target.site}-cluster"},
            ),
            (
                Operation.PLACE,
                {
                    "primary_server": "h.example",
                    "vm": "v9",
                    "cluster": f"{target.site}-cluster",
                    "new": {**NEW, "primary_site": next(iter(target.sites - {target.site}))},
                },
            ),
        ],
        "PUT /v1/vms/{vm}/addresses": [(Operation.SET_ADDRESSES, BY)],
        "POST /v1/vms/{vm}/acknowledgement": [(Operation.STEER, BY)],
        "PATCH /v1/vms/{vm}/replication": [(Operation.SET_VM_REPLICATION, {**BY, "changes": {}})],
        "PUT /v1/plans/{plan}": [(Operation.SET_PLAN, {**BY, "groups": [group]})],
        "PUT /v1/policies/all": [(Operation.SET_POLICY, {**BY, "rpo_ms": 60_000})],
        "PUT /v1/policies/{scope}/{target}": [(Operation.SET_POLICY, {**BY, "rpo_ms": 60_000})],
        "PUT /v1/brake": [
            (Operation.ENGAGE_BRAKE, {**BY, "engaged": True}),
            (Operation.RELEASE_BRAKE, {**BY, "engaged": False}),
        ],
        "POST /v1/runs": [
            (
                Operation.TEST if kind is FailoverKind.TEST else Operation.FAIL_OVER,
                {**BY, "kind": kind, **what},
            )
            for kind in FailoverKind
            for what in ({"vms": [target.vm]}, {"vms": [target.vm_name]}, {"plan": target.plan})
        ],
        "POST /v1/runs/{run_id}": [
            (
                Operation.APPROVE if action in (RequestAction.APPROVE, RequestAction.REJECT) else Operation.STEER,
                {**BY, "action": action, **({"before": "5m"} if action is RequestAction.TRY_ANOTHER else {})},
            )
            for action in RequestAction
            if action not in (RequestAction.REQUEST, RequestAction.ACKNOWLEDGE)
        ],
        "PATCH /v1/clusters/{cluster}/settings": [(Operation.SET_CLUSTER, {**BY, "changes": {}})],
        "POST /v1/tokens": [
            (
                Operation.MANAGE_TOKENS,
                {**BY, "name": "zoe", "grants": [{"role": "VIEWER"}], "lifetime_s": 3_600},
            )
        ],
    }
    key = f"{row.method} {row.path}"
    if row.method in ("POST", "PUT", "PATCH"):
        return known[key]
    return [(Operation(row.operations[0]), None)] if row.operations else []


def paths(row: Row, target: Target, token_id: str) -> list[str]:
    """The endpoint's path, filled with what is there."""
    if "{scope}" in row.path:
        return [f"/v1/policies/{each}" for each in (f"site/{target.site}", f"plan/{target.plan}", f"vm/{target.vm}")]
    filled = row.path.format(
        vm=target.vm,
        plan=target.plan,
        run_id=target.run,
        site=target.site,
        cluster=f"{target.site}-cluster",
        token_id=token_id,
    )
    queries = {"DELETE /v1/tokens/{token_id}": "?reason=lost", "GET /v1/routes/events": "?seconds=0"}
    filled += queries.get(f"{row.method} {row.path}", "")
    others = {
        "{vm}": filled.replace(f"/vms/{target.vm}", f"/vms/{target.vm_name}"),
        "{run_id}": f"{filled}-waits",
    }
    return [filled, *(other for part, other in others.items() if part in row.path)]


def calls(row: Row, token_id: str) -> Iterator[Asked]:
    alone = row.about in ("any", "whole")
    for target in TARGETS[:1] if alone else TARGETS:
        for path in paths(row, target, token_id):
            for operation, body in bodies(row, target):
                yield Asked(row, operation, None if alone or row.about == "list" else target, path, body)


def covered(scope: str, asked: Asked) -> bool:
    """Whether a grant covers what a call is about, as the page's table of the word "about" has it."""
    match asked.row.about:
        case "any" | "list":
            return True
        case "whole":
            return scope == "whole"
        case about:
            if scope == "whole":
                return True
            if asked.about is not OWN:
                return False
            only_a_site = about in ("site", "cluster") or "/policies/site/" in asked.path
            new = isinstance(asked.body, dict) and "new" in asked.body
            return scope == "own-site" or not (only_a_site or new)


ROWS = endpoint_rows()
MAY = role_rows()
IDENTIFIED = [row for row in ROWS if row.about != "nobody"]


def name(row: Row) -> str:
    return f"{row.method} {row.path}"


def test_the_page_has_every_endpoint_of_the_code() -> None:
    assert [(row.method, row.path) for row in ROWS] == [(each.method, each.path) for each in ENDPOINTS]


def test_the_page_has_every_endpoint_of_the_description() -> None:
    described = World().app.openapi()["paths"]
    served = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert {(row.method, row.path) for row in ROWS} - {("GET", "/v1/openapi.json")} == served


def test_every_operation_is_asked_for_by_some_call() -> None:
    asked = {call.operation for row in IDENTIFIED for call in calls(row, "t")}
    assert asked == set(Operation)
    for row in IDENTIFIED:
        assert {call.operation for call in calls(row, "t")} == set(row.operations), name(row)


@pytest.mark.parametrize("row", IDENTIFIED, ids=name)
async def test_it_is_allowed_exactly_where_the_page_says(row: Row) -> None:
    world = World()
    wrong = []
    for asked in calls(row, world.token_id):
        for (role, scope), token in world.tokens.items():
            world.commands.records.clear()
            status, said = await world.ask(row.method, asked.path, asked.body, token=token)
            may = role.name.lower() in MAY[asked.operation] and covered(scope, asked)
            if (status != REFUSED) != may or (not may and world.commands.records):
                wrong.append(
                    f"{role} {scope}: {asked}: {status} {said[:200]!r}, {'allowed' if may else 'refused'} here"
                )
            # An answer that is neither: the call itself would be wrong, and prove nothing.
            elif may and status not in (*SEEN, 409, 422):
                wrong.append(f"{role} {scope}: {asked}: {status} {said[:200]!r}: not a good call")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("row", IDENTIFIED, ids=name)
async def test_somebody_good_gets_an_answer(row: Row) -> None:
    """What is refused above is refused for its caller, not because the call is wrong: somebody can make it."""
    world = World()
    good = set()
    for asked in calls(row, world.token_id):
        for (role, scope), token in world.tokens.items():
            if scope == "whole" and role.name.lower() in MAY[asked.operation]:
                status, _ = await world.ask(row.method, asked.path, asked.body, token=token)
                good |= {asked.operation} if status in SEEN else set()
    expected = set(row.operations)
    # No cluster has settings here, and a refusal of the rules (422) is as good an answer.
    assert good == (expected - {Operation.PLACE} if row.path == "/v1/placements" else expected)


@pytest.mark.parametrize("row", IDENTIFIED, ids=name)
async def test_without_an_identity_nothing_is_answered(row: Row) -> None:
    world = World()
    for asked in calls(row, world.token_id):
        for token in ("", "fo_a_b"):
            status, _ = await world.ask(row.method, asked.path, asked.body, token=token)
            assert status in (401, 429), asked
    assert not world.commands.records


@pytest.mark.parametrize("row", [row for row in ROWS if row.about == "nobody"], ids=name)
async def test_what_is_open_to_all_is_open_to_all(row: Row) -> None:
    assert (await World().ask(row.method, row.path))[0] == 200


@pytest.mark.parametrize("row", [row for row in ROWS if row.about == "list"], ids=name)
async def test_what_is_listed_is_what_the_caller_may_look_at(row: Row) -> None:
    world = World()
    for scope in ("own-site", "own-plan", "whole"):
        for asked in calls(row, world.token_id):
            _, said = await world.ask(row.method, asked.path, asked.body, token=world.tokens[AccessRole.VIEWER, scope])
            foreign = [word for word in (b"north", b"south", b'"P2"', b'"r2"') if word in said]
            asked_for = row.path == "/v1/policies" or "v2" in json.dumps(asked.body)
            assert not foreign or scope == "whole" or asked_for, (scope, str(asked), said)


async def test_a_refusal_says_its_rule_and_is_told() -> None:
    world = World()
    status, said = await world.ask(
        "PUT", "/v1/brake", {**BY, "engaged": True}, token=world.tokens[AccessRole.OPERATOR, "own-site"]
    )
    assert (status, json.loads(said)["detail"][:3]) == (REFUSED, "X3:")
    ((who, address, what, why),) = world.refusals._counts
    assert (who, address, what) == ("OPERATOR-own-site", "10.0.0.9", "ENGAGE_BRAKE")
    assert why.startswith("X3: ")


async def test_nobody_speaks_in_anothers_name() -> None:
    """The actor of every command is the caller: a body that names another is refused as a field that nobody knows."""
    world = World()
    token = world.tokens[AccessRole.OPERATOR, "whole"]
    status, _ = await world.ask(
        "POST", "/v1/runs", {**BY, "kind": "PLANNED", "vms": ["v1"], "actor": "boss"}, token=token
    )
    assert status == 422
    await world.ask("POST", "/v1/runs", {**BY, "kind": "PLANNED", "vms": ["v1"]}, token=token)
    (asked,) = world.commands.records
    assert asked.actor == "OPERATOR-whole"  # type: ignore[attr-defined]
