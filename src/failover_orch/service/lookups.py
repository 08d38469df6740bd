"""Where a VM is: the one answer that is asked for thousands of times a second.

Every primary asks it, in every cycle. `route_answer` makes the answer, whoever asks; `Lookups` stands before the rest
of the service and answers the plain question, `GET /v1/vms/{vm}/route` by id and without a query, with that function
and nothing else around it. Whatever is not plain goes on to the rest of the service.

An asker that was given an epoch before says so, as `Known-Epoch` or by `If-None-Match`. A process that knows less than
the asker waits a moment for what it lacks; it never answers with the older route.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec

from failover_orch.domain import Location, Operation, Role, RouteCause, refusal
from failover_orch.errors import LookupFailed, NotFresh
from failover_orch.service.access import Access, credentials_of
from failover_orch.service.problems import Forbidden, problem_of
from failover_orch.service.read_model import ReadModel
from failover_orch.service.source import Source
from failover_orch.service.subjects import vm_call
from failover_orch.service.views import as_of
from failover_orch.wire import now_ms

__all__ = ["Lookups", "RouteAnswer", "RouteAsked", "RouteView", "route_answer"]

_CATCHES_UP_WITHIN_S = 1.0
_PREFIX = "/v1/vms/"
_SUFFIX = "/route"
_LONGEST_EPOCH = 18

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RouteAsked:
    """A question for a route. `tags` are those of If-None-Match, without their quotes."""

    vm_id: str
    known_epoch: int = 0
    """The highest epoch that the asker was given; 0: none."""
    tags: tuple[str, ...] = ()
    node: str = ""
    """Where the asker believes that the VM runs."""

    @property
    def at_least(self) -> int:
        """The epoch that an answer must have: a tag is the epoch that the asker has."""
        return max([self.known_epoch, *(int(tag) for tag in self.tags if _is_epoch(tag.encode()))])


@dataclass(frozen=True, slots=True)
class RouteView:
    """Where a VM is. `node`, `site`, `role`, `cluster` and `storage` are of where it runs.

    `known_at` is up to when all that Kafka holds of the VM is known, `age_ms` how long that is ago. `stale` says, of an
    asker who named a node, whether the VM is no longer there.
    """

    as_of: str | None
    vm_id: str
    name: str
    epoch: int
    node: str
    site: str
    role: Role
    cluster: str
    storage: str
    locations: tuple[Location, ...]
    cause: RouteCause
    changed_at_ms: int
    known_at: str
    age_ms: int
    asked_node: str | None = None
    stale: bool | None = None


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """An answer in HTTP's terms: header names in lower case, the body JSON or empty."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


async def route_answer(source: Source, asked: RouteAsked) -> RouteAnswer:
    """Where a VM is, or that it is still where the asker knows it.

    Raises:
        NotFresh: what is known of the VM is too old, or older than what the asker knows.
        LookupFailed: no node has reported where the VM is.

    """
    deadline = time.monotonic() + _CATCHES_UP_WITHIN_S
    while True:
        # All of it is asked for anew after each wait: reading may have begun from the beginning meanwhile.
        model = source.model
        partition = source.knowledge.partition_of(asked.vm_id)
        why = source.knowledge.why_no_route(partition)
        if why:
            raise NotFresh(why)
        if _knows_enough(model, asked):
            break
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not await source.changes.of(asked.vm_id, left_s):
            raise _behind(model, asked)
    vm = model.member(asked.vm_id)
    locations = vm.locations
    if vm.route is None or not locations:
        raise LookupFailed(f"no node has reported yet where {vm.name} is: the agent of its site does")
    known_at_ms = source.knowledge.known_at_ms(partition)
    known_at, newest = rfc3339(known_at_ms), as_of(model)
    epoch = str(vm.epoch)
    headers = (
        (b"etag", f'"{epoch}"'.encode()),
        (b"as-of", (newest or "never").encode()),
        (b"known-at", known_at.encode()),
        (b"cache-control", b"no-cache"),
    )
    if epoch in asked.tags or "*" in asked.tags:
        return RouteAnswer(HTTPStatus.NOT_MODIFIED, headers, b"")
    where = locations[0]
    view = RouteView(
        as_of=newest,
        vm_id=vm.vm_id,
        name=vm.name,
        epoch=vm.epoch,
        node=where.node,
        site=where.site,
        role=where.role,
        cluster=where.cluster,
        storage=where.storage,
        locations=locations,
        cause=vm.route.cause,
        changed_at_ms=vm.route.changed_at_ms,
        known_at=known_at,
        age_ms=max(0, now_ms() - known_at_ms),
        asked_node=asked.node or None,
        stale=asked.node != where.node if asked.node else None,
    )
    body = msgspec.json.encode(view)
    sizes = ((b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()))
    return RouteAnswer(HTTPStatus.OK, headers + sizes, body)


class Lookups:
    """Answers the plain question for a route; everything else is the business of the application behind it."""

    def __init__(self, application: Application, source: Source, access: Access) -> None:
        self._application = application
        self._source = source
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = self._plain(scope)
        if asked is None:
            await self._application(scope, receive, send)
            return
        try:
            await self._admit(scope, asked.vm_id)
            answer = await route_answer(self._source, asked)
        except Exception as error:  # noqa: BLE001 (problem_of logs what is a bug, and answers 500)
            await problem_of(error)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _plain(self, scope: Scope) -> RouteAsked | None:
        """What is asked, where it is the plain question and of a VM that is known by this very id."""
        path = scope.get("path", "")
        if not (path.startswith(_PREFIX) and path.endswith(_SUFFIX)):
            return None
        if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"]:
            return None
        vm_id = path[len(_PREFIX) : -len(_SUFFIX)]
        if self._source.model.route(vm_id) is None:
            return None
        known_epoch = 0
        tags: tuple[str, ...] = ()
        for name, value in scope["headers"]:
            if name == b"known-epoch":
                if known_epoch or not _is_epoch(value):
                    return None
                known_epoch = int(value)
            elif name == b"if-none-match":
                tags += tags_in(value.decode("latin-1"))
        return RouteAsked(vm_id, known_epoch, tags)

    async def _admit(self, scope: Scope, vm_id: str) -> None:
        credentials = credentials_of(scope)
        principal = await self._access.caller(credentials)
        why = refusal(principal, vm_call(Operation.LOOK, self._source.model, vm_id))
        if why:
            self._access.refused(principal.name, credentials.address, Operation.LOOK, why)
            raise Forbidden(why)


def tags_in(if_none_match: str) -> tuple[str, ...]:
    """The tags in a header If-None-Match, without their quotes. Weak ones count: an epoch is an epoch."""
    tags = (tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(","))
    return tuple(tag for tag in tags if tag)


@lru_cache(maxsize=256)
def rfc3339(at_ms: int) -> str:
    """A time in milliseconds since the Unix epoch, as RFC 3339 has it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _knows_enough(model: ReadModel, asked: RouteAsked) -> bool:
    route = model.route(asked.vm_id)
    return (route.epoch if route is not None else 0) >= asked.at_least


def _behind(model: ReadModel, asked: RouteAsked) -> NotFresh:
    route = model.route(asked.vm_id)
    known = f"epoch {route.epoch}" if route is not None else "no epoch"
    return NotFresh(
        f"{known} of {asked.vm_id} is known here yet, and epoch {asked.at_least} by whoever asks: "
        "try again in a moment, or ask another process"
    )


def _is_epoch(digits: bytes) -> bool:
    """Whether this is a number that an epoch could be: Python refuses to read a longer one than it likes."""
    return digits.isdigit() and len(digits) <= _LONGEST_EPOCH
