"""The table of endpoints, the application and the document that it publishes say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from made_by_hand import Doorkeeper, Fixed, Noted
from starlette.routing import Route

from failover_orch.domain import Operation
from failover_orch.service import ENDPOINTS, Endpoint, Subject, create_app

GUIDE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
APP = create_app(Fixed(), Doorkeeper(), Noted())
COMMANDS = [endpoint for endpoint in ENDPOINTS if endpoint.command]


def described(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = APP.openapi()["paths"][endpoint.path][endpoint.method.lower()]
    return operation


def test_the_application_has_what_the_table_has_and_nothing_else() -> None:
    served = {
        (method, re.sub(r":\w+}", "}", route.path))
        for route in APP.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert served == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    assert len(served) == len(ENDPOINTS)


def test_the_guide_lists_them_with_their_operations() -> None:
    rows = re.findall(r"^\| `(\w+) (/\S*)` \| (\S[^|]*) \|", GUIDE, re.MULTILINE)
    listed = {(method, path, tuple(() if said == "none" else said.split(", "))) for method, path, said in rows}
    assert listed == {(each.method, each.path, tuple(each.operations)) for each in ENDPOINTS}


def test_every_operation_can_be_asked_for() -> None:
    assert {operation for endpoint in ENDPOINTS for operation in endpoint.operations} == set(Operation)


def test_the_document_is_openapi_3_1() -> None:
    assert APP.openapi()["openapi"].startswith("3.1.")


@pytest.mark.parametrize("endpoint", COMMANDS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
def test_a_command_needs_its_key_and_says_where_to_look(endpoint: Endpoint) -> None:
    operation = described(endpoint)
    key = next(one for one in operation["parameters"] if one["name"] == "Idempotency-Key")
    assert key["required"]
    assert "Location" in operation["responses"]["202"]["headers"]
    assert {"400", "409", "413"} & operation["responses"].keys()


def test_every_problem_is_a_problem() -> None:
    for endpoint in ENDPOINTS:
        if endpoint.path == "/v1/openapi.json":
            continue
        answers = described(endpoint)["responses"]
        for status, answer in answers.items():
            if int(status) >= 400:
                assert list(answer["content"]) == ["application/problem+json"], (endpoint, status)
        secured = {"401", "403", "429", "503"} <= answers.keys()
        assert secured is (endpoint.subject is not Subject.NOBODY)
