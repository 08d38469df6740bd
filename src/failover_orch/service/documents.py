"""The OpenAPI document: what the endpoints have in common in it, and what FastAPI leaves out."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from failover_orch.service.problems import PROBLEM

__all__ = ["HEADERS", "PROBLEMS", "PROBLEM_CONTENT", "describe"]

PROBLEM_CONTENT = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}

_PROBLEM = {
    "title": "Problem",
    "description": "What is wrong, in one sentence (RFC 9457).",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong and, where anything helps, what to do."},
    },
    "required": ["type", "title", "status", "detail"],
}


def _header(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **schema}}


HEADERS: dict[str, dict[str, Any]] = {
    "As-Of": _header(
        "Kafka's time of the newest record that the answer takes account of; `never` where there is none."
    ),
    "Known-At": _header("Up to when all that Kafka holds is known to this process.", format="date-time"),
    "ETag": _header("Changes with the answer; of a route it is the epoch."),
    "Location": _header("Where to see what becomes of it."),
    "Retry-After": _header("Seconds after which to try again.", pattern="^[0-9]+$"),
    "WWW-Authenticate": _header("How to say who you are."),
}
_SENTENCES = {
    HTTPStatus.BAD_REQUEST: "The body is not readable.",
    HTTPStatus.UNAUTHORIZED: "No credentials came with it, or none that prove an identity.",
    HTTPStatus.FORBIDDEN: "The caller may not do this; the rule's number says why.",
    HTTPStatus.NOT_FOUND: "What it is about is not known.",
    HTTPStatus.CONFLICT: "It contradicts what is there, or the Idempotency-Key stood for another command.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is larger than a command can be.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A parameter or the body is not as expected, or a rule refuses it.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many attempts to prove an identity have failed.",
    HTTPStatus.SERVICE_UNAVAILABLE: "What is known is too old to be an answer, or Kafka does not take it now.",
}
_PROBLEM_HEADERS = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate",),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After",),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After",),
}
PROBLEMS: dict[int, dict[str, Any]] = {
    int(status): {
        "description": sentence,
        "content": PROBLEM_CONTENT,
        "headers": {name: HEADERS[name] for name in _PROBLEM_HEADERS.get(status, ())},
    }
    for status, sentence in _SENTENCES.items()
}
"""How each problem is described, by its status."""

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API token, or an identity provider's."},
    "certificate": {"type": "mutualTLS", "description": "A client's certificate that the service file names."},
}


def describe(app: FastAPI) -> None:
    """Have the application publish its document in full."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
            components = made.setdefault("components", {})
            components.setdefault("schemas", {})["Problem"] = _PROBLEM
            components["securitySchemes"] = _SECURITY
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to extend the document
