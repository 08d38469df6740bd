"""The whole OpenAPI document against a real app: whatever is asked, no answer is a 5xx, none is undocumented.

Schemathesis makes the calls from the document: what fits it, and what does not. `make test` takes a fixed seed.
"""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis
import schemathesis
from made_by_hand import Doorkeeper, Fixed, Noted, create_app
from made_world import PRIMARY_SERVER, WORLD
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 8
KNOWN: dict[str, tuple[str, ...]] = {
    "vm": ("v1", "erp-db", "v2"),
    "plan": ("plan-1", "plan-2"),
    "run_id": ("r1", "r2", "r2/v1", "r3", "r4"),
    "cluster": ("dr-c", "p-c"),
    "site": ("dr", "primary"),
    "target": ("dr", "plan-1", "v1"),
    "token_id": ("0123456789ab",),
}
FITTING: dict[str, Any] = {
    "vm": "v1",
    "cluster": "dr-c",
    "vms": ["v1", "erp-app"],
    "primary_server": PRIMARY_SERVER,
    "plan": "",
}
TURNS = itertools.count()
SOURCE = Fixed(WORLD)
schema = schemathesis.openapi.from_asgi("/v1/openapi.json", create_app(SOURCE, Doorkeeper(), Noted()))
checked = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    suppress_health_check=list(hypothesis.HealthCheck),
)


def tame(case: schemathesis.Case[Any]) -> None:
    """Take out what is documented to wait, or to be 503: an epoch that this process has not heard of yet."""
    SOURCE.fresh()
    if "wait" in case.query and isinstance(case.query["wait"], int):
        case.query["wait"] = 0
    if case.path == "/v1/routes/events":
        case.query["seconds"] = 0
    for name in ("known-epoch", "if-none-match"):
        case.headers.pop(name, None)
    if isinstance(case.body, dict):
        case.body.pop("known_epochs", None)


def name(case: schemathesis.Case[Any]) -> None:
    """Put in what is known here, and a new key: made up names seldom get further than 404, repeated keys than 409."""
    turn = next(TURNS)
    for parameter, known in KNOWN.items():
        if parameter in case.path_parameters:
            case.path_parameters[parameter] = known[turn % len(known)]
    if "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = f"key-{turn}"
    if isinstance(case.body, dict):
        case.body.update({field: value for field, value in FITTING.items() if field in case.body})


@schema.parametrize()
@checked
def test_nothing_undocumented_with_a_token(case: schemathesis.Case[Any]) -> None:
    tame(case)
    case.call_and_validate(headers={"Authorization": "Bearer alice"}, checks=CHECKS)


@schema.parametrize()
@checked
def test_nothing_undocumented_about_what_is_known(case: schemathesis.Case[Any]) -> None:
    tame(case)
    name(case)
    case.call_and_validate(headers={"Authorization": "Bearer alice"}, checks=CHECKS)


@schema.parametrize()
@checked
def test_nothing_undocumented_without_a_token(case: schemathesis.Case[Any]) -> None:
    tame(case)
    name(case)
    case.headers.pop("Authorization", None)
    answer = case.call_and_validate(checks=CHECKS)
    assert answer.status_code == 401 or case.path in ("/healthz", "/readyz", "/v1/openapi.json")
