"""Answers that say what is wrong: `application/problem+json` (RFC 9457), one sentence each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from failover_orch import telemetry
from failover_orch.errors import (
    AccessUnavailable,
    ConfigError,
    KafkaError,
    LookupFailed,
    NotFresh,
    TooManyAttempts,
    Unauthenticated,
    UnencodableRecord,
)

__all__ = ["PROBLEM", "RETRY_AFTER_S", "SENTENCED", "Conflict", "Forbidden", "Refused", "problem", "problem_of"]

log = telemetry.logger(__name__)

PROBLEM = "application/problem+json"
RETRY_AFTER_S = 1

_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*)")
"""An option of the command line, which shares many a sentence with the service: its field has the same name."""


class Forbidden(Exception):
    """The caller may not do this. Its text is the sentence to say."""


class Conflict(Exception):
    """It contradicts what is there: a key that stood for something else, a word that the run cannot be told."""


class Refused(Exception):
    """A rule of the broker speaks against it. Its text is the sentence to say."""


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer that says what is wrong."""
    sayable = detail.encode(errors="replace").decode()  # what the caller sent, and is repeated here, may be no Unicode
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "detail": sayable}
    return Response(orjson.dumps(body), int(status), headers, PROBLEM)


def problem_of(error: Exception, request: Request | None = None) -> Response:
    """The answer for whatever was raised while a request was answered."""
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return problem(status, _OPTION.sub(_as_field, str(error)), _headers(error))
    if isinstance(error, HTTPException):
        return problem(error.status_code, str(error.detail), error.headers)
    if isinstance(error, RequestValidationError):
        details = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(details))
    log.error("request failed", path=request.url.path if request is not None else "", error=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a bug; the service's log has its traceback")


_STATUS: Mapping[type[Exception], HTTPStatus] = {
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    TooManyAttempts: HTTPStatus.TOO_MANY_REQUESTS,
    AccessUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFresh: HTTPStatus.SERVICE_UNAVAILABLE,
    LookupFailed: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Refused: HTTPStatus.UNPROCESSABLE_ENTITY,
    ConfigError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnencodableRecord: HTTPStatus.UNPROCESSABLE_ENTITY,
    KafkaError: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Of errors that have a sentence fit for the caller."""
SENTENCED = tuple(_STATUS)


def _as_field(option: re.Match[str]) -> str:
    return option[1].replace("-", "_")


def _headers(error: Exception) -> Mapping[str, str]:
    match error:
        case Unauthenticated():
            return {"WWW-Authenticate": "Bearer"}
        case TooManyAttempts() | AccessUnavailable():
            return {"Retry-After": str(error.retry_after_s)}
        case NotFresh() | KafkaError():
            return {"Retry-After": str(RETRY_AFTER_S)}
        case _:
            return {}
