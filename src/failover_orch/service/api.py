"""What every endpoint has in common: its place in the table, what it may answer, how fresh that is."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
import orjson
from fastapi import FastAPI, Response

from failover_orch.domain import Operation
from failover_orch.errors import NotFresh
from failover_orch.service.callers import Caller
from failover_orch.service.documents import HEADERS, PROBLEMS
from failover_orch.service.endpoints import ENDPOINTS, Endpoint, Subject
from failover_orch.service.idempotency import Once, name_from
from failover_orch.service.lookups import rfc3339
from failover_orch.service.read_model import ReadModel, Vm
from failover_orch.service.source import Commands, Source
from failover_orch.service.subjects import vm_call
from failover_orch.service.views import as_of

__all__ = ["Api"]

Handler = TypeVar("Handler", bound=Callable[..., Any])

_BY_PLACE = {(endpoint.method, endpoint.path): endpoint for endpoint in ENDPOINTS}
_WITH_BODY = ("POST", "PUT", "PATCH")
_FOUND_BY_NAME = (Subject.VM, Subject.PLAN, Subject.RUN, Subject.SITE, Subject.CLUSTER, Subject.POLICY, Subject.BODY)


@dataclass(frozen=True, slots=True)
class Api:
    """The service under construction: endpoints are registered through it, and answered with its help."""

    app: FastAPI
    source: Source
    commands: Commands
    once: Once = field(default_factory=Once)

    def endpoint(
        self,
        method: str,
        path: str,
        answer: Any = None,
        *,
        status: int = HTTPStatus.OK,
        converter: str = "",
        problems: tuple[int, ...] = (),
        headers: tuple[str, ...] = (),
        others: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> Callable[[Handler], Handler]:
        """Register an endpoint of the table; `answer` is the form of its body.

        `problems` are those that it may answer besides the common ones, `headers` those of its answer, `converter`
        goes to the path's last parameter, `others` describes answers that are no problems.
        """
        endpoint = _BY_PLACE[(method, path)]
        described: dict[int | str, dict[str, Any]] = {
            status: {"headers": {name: HEADERS[name] for name in (*_headers(endpoint), *headers)}}
        }
        described |= {int(other): dict(form) for other, form in (others or {}).items()}
        described |= {int(problem): dict(PROBLEMS[problem]) for problem in sorted({*_problems(endpoint), *problems})}
        return self.app.api_route(
            path.replace("}", f"{converter}}}") if converter else path,
            methods=[method],
            response_model=answer,
            status_code=status,
            responses=described,
            openapi_extra=_extra(endpoint),
        )

    def everything(self) -> ReadModel:
        """The read model, for what needs all partitions. Raises NotFresh."""
        why = self.source.knowledge.why_not()
        if why:
            raise NotFresh(why)
        return self.source.model

    def model_for(self, name: str) -> tuple[ReadModel, str]:
        """The read model and the id of a VM, fresh enough to answer for it: by its name all partitions have to be.

        Raises:
            NotFresh: what is known is too old.
            LookupFailed: no VM, or more than one, is called so.

        """
        model = self.source.model
        if not model.knows(name):
            return self.everything(), self.source.model.vm_id_of(name)
        why = self.source.knowledge.why_not(self.source.knowledge.partition_of(name))
        if why:
            raise NotFresh(why)
        return model, name

    def vm(self, caller: Caller, name: str, operation: Operation = Operation.LOOK) -> tuple[ReadModel, Vm]:
        """A VM by id or name, where the caller may do this to it. Raises NotFresh, LookupFailed or Forbidden."""
        model, vm_id = self.model_for(name)
        caller.require(vm_call(operation, model, vm_id))
        return model, model.vm(vm_id)

    def answer(self, body: object, partition: int | None = None, **headers: str) -> Response:
        """An answer in JSON, which says how fresh it is."""
        content = orjson.dumps(msgspec.to_builtins(body))
        fresh = self.freshness(partition) | headers
        return Response(content, media_type="application/json", headers=fresh)

    def tagged(self, body: object, tag: str, if_none_match: str, partition: int | None = None) -> Response:
        """An answer with its tag; 304 where the caller has it already."""
        if tag in (candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")):
            fresh = self.freshness(partition) | {"ETag": tag}
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=fresh)
        return self.answer(body, partition, ETag=tag)

    def freshness(self, partition: int | None = None) -> dict[str, str]:
        """The headers that say how fresh an answer is."""
        return {
            "As-Of": as_of(self.source.model) or "never",
            "Known-At": rfc3339(self.source.knowledge.known_at_ms(partition)),
            "Cache-Control": "no-cache",
        }

    async def command(
        self,
        caller: Caller,
        key: str,
        what: object,
        take: Callable[[str], Awaitable[tuple[str, object]]],
        *,
        secret: bool = False,
    ) -> Response:
        """Carry a command out once, and answer where what becomes of it is to be seen.

        `what` is all that tells this command from another, `take` is given the name that follows from caller and key;
        it returns the location and the body. An answer with a `secret` in it is not remembered.
        """
        name = name_from(caller.name, key)

        async def answer() -> Response:
            location, body = await take(name)
            return Response(
                orjson.dumps(msgspec.to_builtins(body)),
                HTTPStatus.ACCEPTED,
                {"Location": location, "Cache-Control": "no-store"},
                "application/json",
            )

        return await self.once.take(name, fingerprint(what), answer, forget=secret)


def fingerprint(what: object) -> str:
    """What tells one command from another, in short."""
    return hashlib.sha256(orjson.dumps(msgspec.to_builtins(what), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _problems(endpoint: Endpoint) -> set[int]:
    """What an endpoint may answer for all that the table says of it."""
    found: set[int] = set()
    if endpoint.subject is not Subject.NOBODY:
        found |= {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS}
        found |= {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.UNPROCESSABLE_ENTITY}
    if endpoint.subject in _FOUND_BY_NAME:
        found.add(HTTPStatus.NOT_FOUND)
    if endpoint.method in _WITH_BODY:
        found |= {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}
    if endpoint.command:
        found |= {HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND}
    return found


def _headers(endpoint: Endpoint) -> tuple[str, ...]:
    if endpoint.subject is Subject.NOBODY:
        return ()
    return ("Location",) if endpoint.command else ("As-Of", "Known-At")


def _extra(endpoint: Endpoint) -> dict[str, Any]:
    open_to_all = endpoint.subject is Subject.NOBODY
    secured: list[dict[str, list[str]]] = [] if open_to_all else [{"bearer": []}, {"certificate": []}]
    return {"security": secured, "x-operations": list(endpoint.operations), "x-subject": endpoint.subject.value}
