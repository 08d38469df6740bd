"""Commands over HTTP: taken once, in the name of who calls, and refused beforehand where that can be told."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from made_by_hand import Doorkeeper, Fixed, Noted, calling
from made_world import WORLD, run

from failover_orch.domain import (
    AccessToken,
    AutomaticMode,
    Brake,
    FailoverKind,
    FailoverRequested,
    Policy,
    PolicyScope,
    RecoveryPlan,
    RequestAction,
    SettingsChange,
    SettingsScope,
    VmReplicationSettings,
)
from failover_orch.service import create_app

RUN = {"kind": "PLANNED", "vms": ["erp-db"], "reason": "maintenance", "ticket": "CHG-1"}


@pytest.fixture
def source() -> Fixed:
    return Fixed(WORLD)


@pytest.fixture
def commands() -> Noted:
    return Noted()


@pytest.fixture
def app(source: Fixed, commands: Noted) -> FastAPI:
    return create_app(source, Doorkeeper(), commands)


async def send(
    app: FastAPI, method: str, path: str, body: Any = None, *, who: str = "alice", key: str = "k1"
) -> httpx.Response:
    async with calling(app, who, key) as client:
        return await client.request(method, path, json=body)


async def test_a_failover_is_asked_for_in_the_callers_name(app: FastAPI, commands: Noted) -> None:
    answer = await send(app, "POST", "/v1/runs", RUN)
    assert answer.status_code == 202, answer.text
    (request,) = commands.records
    assert isinstance(request, FailoverRequested)
    assert (request.vm_id, request.kind, request.actor) == ("v1", FailoverKind.PLANNED, "alice")
    assert (request.reason, request.ticket) == ("maintenance", "CHG-1")
    assert answer.headers["Location"] == f"/v1/runs/{request.run_id}"
    assert answer.json() == {"id": request.run_id}


async def test_any_process_makes_the_same_run_of_a_key(source: Fixed) -> None:
    one, other = Noted(), Noted()
    for commands in (one, other):
        await send(create_app(source, Doorkeeper(), commands), "POST", "/v1/runs", RUN)
    first, second = one.records[0], other.records[0]
    assert isinstance(first, FailoverRequested)
    assert isinstance(second, FailoverRequested)
    assert first.run_id == second.run_id


async def test_a_repeated_command_is_taken_once_and_answered_alike(app: FastAPI, commands: Noted) -> None:
    answers = [await send(app, "POST", "/v1/runs", RUN) for _ in range(3)]
    assert len(commands.records) == 1
    assert {answer.headers["Location"] for answer in answers} == {answers[0].headers["Location"]}


async def test_side_by_side_it_is_still_taken_once(app: FastAPI, commands: Noted) -> None:
    answers = await asyncio.gather(*(send(app, "POST", "/v1/runs", RUN) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len(commands.records) == 1


async def test_two_peoples_keys_are_two(app: FastAPI, source: Fixed) -> None:
    names = [(await send(app, "POST", "/v1/runs", RUN, who=who)).json().get("id") for who in ("alice", "bob")]
    assert names[1] is None  # bob approves, and starts nothing
    other = await send(app, "POST", "/v1/runs", RUN, key="k2")
    assert other.json()["id"] != names[0]


async def test_a_key_that_stood_for_something_else_is_a_conflict(app: FastAPI, commands: Noted) -> None:
    await send(app, "POST", "/v1/runs", RUN)
    answer = await send(app, "POST", "/v1/runs", RUN | {"reason": "another"})
    assert answer.status_code == 409
    assert len(commands.records) == 1


async def test_so_it_is_where_another_process_took_it(app: FastAPI, source: Fixed, commands: Noted) -> None:
    run_id = (await send(app, "POST", "/v1/runs", RUN)).json()["id"]
    source.tell(run(run_id))  # by carol, as a drill: not what alice asks for
    answer = await send(create_app(source, Doorkeeper(), commands), "POST", "/v1/runs", RUN)
    assert answer.status_code == 409
    assert run_id in answer.json()["detail"]


async def test_what_kafka_does_not_take_can_be_said_again(app: FastAPI, commands: Noted) -> None:
    commands.away = True
    answer = await send(app, "POST", "/v1/runs", RUN)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    commands.away = False
    assert (await send(app, "POST", "/v1/runs", RUN)).status_code == 202
    assert len(commands.records) == 1


@pytest.mark.parametrize("key", ["", "with space", "\x7f", "x" * 201])
async def test_without_a_proper_key_nothing_is_taken(app: FastAPI, commands: Noted, key: str) -> None:
    answer = await send(app, "POST", "/v1/runs", RUN, key=key)
    assert answer.status_code == 422
    assert commands.records == []


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"vms": []}, 422, "name the VMs to fail over, or a recovery plan with plan"),
        ({"plan": "erp"}, 422, "one of the two"),
        ({"vms": ["erp-bd"]}, 404, "did you mean erp-db"),
        ({"vms": [], "plan": "mail"}, 404, "no recovery plan 'mail' is known"),
        ({"reason": "  "}, 422, "body.reason"),
        ({"fence": True}, 422, "fence has no use in a planned failover"),
        ({"colour": "red"}, 422, "body.colour: Extra inputs are not permitted"),
        ({"kind": "UNPLANNED", "before": "yesterday"}, 422, "before is 'yesterday': give a time"),
        ({"kind": "UNPLANNED", "before": "0001-01-01T00:00:00+23:59"}, 422, "which is not in the past"),
        ({"kind": "UNPLANNED", "commit": "auto-commit"}, 422, "commit auto-commit needs a window"),
        ({"kind": "TEST", "keep": "for ever"}, 422, "keep is 'for ever'"),
        ({"kind": "TEST", "keep": "60", "primary_is_down": True}, 422, "primary_is_down has no use in a test failover"),
    ],
)
async def test_what_cannot_be_asked_for_is_said(
    app: FastAPI, commands: Noted, body: dict[str, Any], status: int, sentence: str
) -> None:
    answer = await send(app, "POST", "/v1/runs", RUN | body)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert sentence in answer.json()["detail"]
    assert commands.records == []


async def test_the_terms_go_along(app: FastAPI, commands: Noted) -> None:
    terms = {"kind": "UNPLANNED", "plan": "erp", "vms": [], "recovery_point": "app-consistent", "primary_is_down": True}
    answer = await send(app, "POST", "/v1/runs", RUN | terms | {"commit": "auto-commit", "window": 60})
    assert answer.status_code == 202, answer.text
    (request,) = commands.records
    assert isinstance(request, FailoverRequested)
    assert (request.plan_id, request.primary_is_down, request.window_ms) == ("plan-1", True, 60_000)


async def test_a_word_reaches_the_run(app: FastAPI, commands: Noted) -> None:
    answer = await send(app, "POST", "/v1/runs/r1", {"action": "RESUME", "reason": "mended"})
    assert answer.status_code == 202, answer.text
    (word,) = commands.records
    assert isinstance(word, FailoverRequested)
    assert (word.run_id, word.vm_id, word.action, word.actor) == ("r1", "v1", RequestAction.RESUME, "alice")
    assert word.request_key
    approved = await send(app, "POST", "/v1/runs/r3", {"action": "APPROVE", "reason": "CAB 12"}, who="bob")
    assert approved.status_code == 202, approved.text


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("r1", {"action": "COMMIT"}, 409, "run r1 is PARKED and cannot be told to commit; it can be told resume"),
        ("r1", {"action": "RESUME", "step": "X"}, 409, "is of one VM and has no tasks: leave step out"),
        ("r4", {"action": "TRY_ANOTHER"}, 422, "name the recovery point to try, with recovery_point or before"),
        ("r4", {"action": "COMMIT", "before": "15m"}, 422, "COMMIT takes no recovery point"),
        ("r1", {"action": "REQUEST"}, 422, "REQUEST is no word to a run"),
        ("r9", {"action": "CANCEL"}, 404, "no run 'r9' is known"),
        ("r3", {"action": "APPROVE"}, 403, "X1: alice has ADMINISTRATOR, which does not include APPROVE"),
    ],
)
async def test_what_a_run_cannot_be_told_is_said(
    app: FastAPI, commands: Noted, path: str, body: dict[str, str], status: int, sentence: str
) -> None:
    answer = await send(app, "POST", f"/v1/runs/{path}", {"reason": "so"} | body)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]
    assert commands.records == []


async def test_addresses_are_set_whole_and_checked(app: FastAPI, commands: Noted) -> None:
    adapter = {"adapter_id": "nic0", "ipv4": {"addresses": ["10.9.0.7/255.255.255.0"], "gateways": ["10.9.0.1"]}}
    answer = await send(app, "PUT", "/v1/vms/erp-db/addresses", {"adapters": [adapter], "reason": "DR plan"})
    assert answer.status_code == 202, answer.text
    (record,) = commands.records
    assert isinstance(record, VmReplicationSettings)
    assert record.adapters[0].ipv4 is not None
    assert record.adapters[0].ipv4.addresses == ("10.9.0.7/24",)
    assert (record.actor, record.reason) == ("alice", "DR plan")
    for wrong, sentence in (
        ({"adapters": [{"adapter_id": "nic9", "ipv4": {"dhcp": True}}]}, "nic9"),
        ({"adapters": [adapter, adapter]}, "adapter nic0 is there twice"),
        ({"test_network": "lan"}, "erp-db itself is on network lan"),
    ):
        refused = await send(app, "PUT", "/v1/vms/erp-db/addresses", wrong | {"reason": "so"}, key="k2")
        assert refused.status_code == 422
        assert sentence in refused.json()["detail"]


async def test_an_acknowledgement_names_the_vm(app: FastAPI, commands: Noted) -> None:
    answer = await send(app, "POST", "/v1/vms/erp-db/acknowledgement", {"reason": "looked into"})
    assert answer.status_code == 202
    (word,) = commands.records
    assert isinstance(word, FailoverRequested)
    assert (word.action, word.vm_id) == (RequestAction.ACKNOWLEDGE, "v1")


async def test_policies_and_the_brake(app: FastAPI, source: Fixed, commands: Noted) -> None:
    policy = {"mode": "ACT", "rpo_ms": 1_000, "approvals": [{"needed": 1, "to_site": "dr"}], "reason": "tier 1"}
    assert (await send(app, "PUT", "/v1/policies/vm/erp-db", policy)).status_code == 202
    assert (await send(app, "PUT", "/v1/policies/all", policy, key="k2")).status_code == 202
    narrow, wide = commands.records
    assert isinstance(narrow, Policy)
    assert isinstance(wide, Policy)
    assert (narrow.scope, narrow.target, narrow.mode) == (PolicyScope.VM, "v1", AutomaticMode.ACT)
    assert (wide.key, wide.hold_down_ms, wide.actor) == ("all", None, "alice")
    policy["approvals"] = [{"needed": 1, "to_site": "moon"}]
    assert (await send(app, "PUT", "/v1/policies/all", policy, key="k3")).status_code == 404

    source.tell(Brake(False, "somebody whose clock is ahead", "so", 9_000_000_000_000))
    assert (await send(app, "PUT", "/v1/brake", {"engaged": True, "reason": "storm"}, key="k4")).status_code == 202
    brake = commands.records[-1]
    assert isinstance(brake, Brake)
    assert (brake.engaged, brake.actor, brake.at_ms) == (True, "alice", 9_000_000_000_001)


async def test_a_plan_is_set_by_its_vms_names_and_checked(app: FastAPI, commands: Noted) -> None:
    groups = [{"name": "db", "vms": ["erp-db"]}, {"name": "app", "vms": ["erp-app"], "depends_on": ["db"]}]
    answer = await send(app, "PUT", "/v1/plans/mail", {"name": "Mail", "groups": groups, "reason": "new"})
    assert answer.status_code == 202, answer.text
    (plan,) = commands.records
    assert isinstance(plan, RecoveryPlan)
    assert (plan.plan_id, plan.groups[1].vm_ids, plan.actor) == ("mail", ("v2",), "alice")
    groups[0]["depends_on"] = ["app"]
    circle = await send(app, "PUT", "/v1/plans/mail", {"groups": groups, "reason": "new"}, key="k2")
    assert (circle.status_code, "in a circle" in circle.json()["detail"]) == (422, True)
    groups = [{"name": "db", "vms": ["erp-db", "v1"]}]
    twice = await send(app, "PUT", "/v1/plans/mail", {"groups": groups, "reason": "new"}, key="k2")
    assert "v1 is in the plan twice" in twice.json()["detail"]


async def test_settings_are_changed_or_only_tried(app: FastAPI, source: Fixed, commands: Noted) -> None:
    change = {"changes": {"http_port": "8081"}, "reason": "firewall", "based_on": 1}
    tried = await send(app, "PATCH", "/v1/clusters/dr-c/settings?dry_run=true", change)
    assert tried.status_code == 200, tried.text
    assert [one["name"] for one in tried.json()["changed"]] == ["http_port"]
    assert commands.records == []
    answer = await send(app, "PATCH", "/v1/clusters/dr-c/settings", change)
    assert answer.status_code == 202, answer.text
    (record,) = commands.records
    assert isinstance(record, SettingsChange)
    assert (record.scope, record.target, record.based_on) == (SettingsScope.CLUSTER, "dr-c", 1)
    assert answer.headers["Location"].endswith(f"history?change_id={record.change_id}")
    for wrong in ({"changes": {"http_prot": "1"}}, {"changes": {"http_port": "0"}}, {"based_on": 0}):
        refused = await send(app, "PATCH", "/v1/clusters/dr-c/settings", change | wrong, key="k2")
        assert refused.status_code == 422, refused.text


async def test_settings_are_shown_with_their_history_and_standing(app: FastAPI) -> None:
    async with calling(app) as client:
        shown = (await client.get("/v1/clusters/dr-c/settings")).json()
        assert shown["version"] == 1
        assert {one["name"]: one["value"] for one in shown["settings"]}["http_port"] == "8080"
        history = (await client.get("/v1/clusters/dr-c/settings/history")).json()
        assert [(one["version"], one["actor"]) for one in history["revisions"]] == [(1, "alice")]
        assert (await client.get("/v1/clusters/dr-c/settings/history?change_id=x")).json()["revisions"] == []
        standing = (await client.get("/v1/clusters/dr-c/settings/standing")).json()
        assert [(one["node"], one["standing"]) for one in standing["nodes"]] == [("d1", "IN_SYNC"), ("d2", "IN_SYNC")]
        assert (await client.get("/v1/vms/erp-db/replication")).json()["version"] == 0
        assert [one["cluster"] for one in (await client.get("/v1/clusters")).json()["clusters"]] == ["dr-c", "p-c"]


async def test_a_tokens_text_is_shown_once_and_kept_nowhere(app: FastAPI, source: Fixed, commands: Noted) -> None:
    body = {"name": "dan", "grants": [{"role": "VIEWER"}], "lifetime_s": 3_600, "reason": "look"}
    made = await send(app, "POST", "/v1/tokens", body)
    assert made.status_code == 202, made.text
    (token,) = commands.records
    assert isinstance(token, AccessToken)
    secret = made.json()["token"].split("_", 2)[2]  # a secret may hold a "_" itself
    assert secret not in repr(token)
    again = await send(app, "POST", "/v1/tokens", body)
    assert (again.status_code, secret in again.text) == (409, False)
    source.tell(token)
    elsewhere = await send(create_app(source, Doorkeeper(), commands), "POST", "/v1/tokens", body)
    assert elsewhere.status_code == 409
    async with calling(app) as client:
        listed = (await client.get("/v1/tokens")).json()["tokens"]
        assert "sha256" not in listed[0]
        assert token.token_id in [one["token_id"] for one in listed]
    revoked = await send(app, "DELETE", f"/v1/tokens/{token.token_id}?reason=lost", key="k2")
    assert revoked.status_code == 202, revoked.text
    record = commands.records[-1]
    assert isinstance(record, AccessToken)
    assert record.revoked_at_ms > 0


async def test_a_body_that_is_too_large_is_not_read(app: FastAPI, commands: Noted) -> None:
    answer = await send(app, "POST", "/v1/runs", RUN | {"reason": "x" * (1024 * 1024)})
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")

    async def chunks() -> Any:
        for _ in range(3):
            yield b" " * 512 * 1024

    async with calling(app, key="k") as client:
        answer = await client.post("/v1/runs", content=chunks(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert commands.records == []
