"""Where VMs are, over HTTP: one, waited for, many at once, and as a stream of what changes.

The plain question for one VM does not come here: `lookups` answers it before, with the same function.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from fastapi import Header, Query, Response
from fastapi.responses import StreamingResponse

from failover_orch.domain import Operation
from failover_orch.errors import LookupFailed
from failover_orch.service.api import Api
from failover_orch.service.bodies import RouteLookupBody
from failover_orch.service.callers import Known
from failover_orch.service.lookups import RouteAsked, RouteView, route_answer, tags_in
from failover_orch.service.route_stream import Position, RouteStream
from failover_orch.service.subjects import vm_call
from failover_orch.service.vm_endpoints import NOT_MODIFIED, IfNoneMatch

__all__ = ["answer_routes"]

_LONGEST_WAIT_S = 60
_LONGEST_STREAM_S = 86_400
_LARGEST = 2**63 - 1
_STREAM: dict[int, dict[str, Any]] = {
    200: {
        "description": "Routing updates as server-sent events, for as long as the caller listens.",
        "content": {
            "text/event-stream": {
                "schema": {  # of each event; `data` is a routing update as JSON
                    "type": "object",
                    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class RouteLookup:
    """What was found of one VM that was asked for: its route, or why there is none."""

    asked: str
    route: RouteView | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RouteLookups:
    routes: tuple[RouteLookup, ...]


def answer_routes(api: Api) -> None:
    @api.endpoint("GET", "/v1/vms/{vm}/route", RouteView, headers=("ETag",), others=NOT_MODIFIED)
    async def route(
        caller: Known,
        vm: str,
        node: Annotated[
            str, Query(description="Where the caller believes that it runs: `stale` says if it left.")
        ] = "",
        wait: Annotated[
            int, Query(ge=0, le=_LONGEST_WAIT_S, description="Seconds to wait for another route than the caller's.")
        ] = 0,
        if_none_match: IfNoneMatch = "",
        known_epoch: Annotated[
            int, Header(ge=0, le=_LARGEST, description="The highest epoch that the caller was given of this VM.")
        ] = 0,
    ) -> Response:
        """Where a VM is, by id or name. Never an older route than the caller has: rather 503."""
        model, vm_id = api.model_for(vm)
        caller.require(vm_call(Operation.LOOK, model, vm_id))
        asked = RouteAsked(vm_id, known_epoch, tags_in(if_none_match), node)
        answer = await route_answer(api.source, asked)
        deadline = time.monotonic() + wait
        while answer.status == HTTPStatus.NOT_MODIFIED and (left_s := deadline - time.monotonic()) > 0:
            if not await api.source.changes.of(vm_id, left_s):
                break
            await caller.still()
            answer = await route_answer(api.source, asked)
        headers = {name.decode(): value.decode() for name, value in answer.headers}
        return Response(answer.body, answer.status, headers)

    @api.endpoint("POST", "/v1/routes/lookup", RouteLookups)
    async def lookup(caller: Known, body: RouteLookupBody) -> Response:
        """Where many VMs are. One that is not known, or not the caller's to see, has a `problem` and no route."""
        caller.require_somewhere(Operation.LOOK)
        found = []
        for name in body.vms:
            try:
                model, vm_id = api.model_for(name)
                if not caller.sees(vm_call, model, vm_id):
                    found.append(RouteLookup(name, None, f"{name} is not the caller's to see"))
                    continue
                epoch = body.known_epochs.get(name, 0)
                answer = await route_answer(api.source, RouteAsked(vm_id, epoch))
                found.append(RouteLookup(name, msgspec.json.decode(answer.body, type=RouteView)))
            except LookupFailed as error:
                found.append(RouteLookup(name, None, str(error)))
        return api.answer(RouteLookups(tuple(found)))

    @api.endpoint("GET", "/v1/routes/events", others=_STREAM)
    async def events(
        caller: Known,
        last_event_id: Annotated[str, Header(description="Where to go on; without it every route comes first.")] = "",
        seconds: Annotated[
            int, Query(ge=0, le=_LONGEST_STREAM_S, description="How long to listen: then the stream ends.")
        ] = _LONGEST_STREAM_S,
    ) -> Response:
        """Routes as they change, as server-sent events; after `Last-Event-ID` those that have changed since, each once.

        The ids hold in every process of the service. A comment comes every few seconds where nothing changes.
        """
        api.everything()
        caller.require_somewhere(Operation.LOOK)
        stream = RouteStream(api.source, caller, Position.read(last_event_id), seconds)

        return StreamingResponse(stream.events(), media_type="text/event-stream", headers=api.freshness())
