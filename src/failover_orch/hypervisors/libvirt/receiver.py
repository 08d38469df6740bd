"""What a site's replicas are told by their primaries: an HTTP server, and what comes of each request.

    GET    /ends/<vm>                                     the end's record, as it is now
    POST   /nodes/<node>/ends/<vm>                        have a replica on this node
    PUT    /nodes/<node>/ends/<vm>/deliveries/<id>/<n>    disk n of a delivery
    DELETE /nodes/<node>/ends/<vm>/deliveries             forget what was delivered and not committed
    POST   /nodes/<node>/ends/<vm>/cycles                 take a delivery in: the replica stands at the cycle
    POST   /ends/<vm>/become-replica                      turn a prepared primary round
    POST   /ends/<vm>/accept                              accept a command's epoch and the state it leads to

Whoever asks has the key that the sites share, as a bearer token, and says which primary server it is: by its node's
settings it may bring replicas, or may not (`replication_server`). A delivery has a name of its own, so that what an
earlier attempt may still be sending is never taken for a part of a later one; and once a DELETE was answered, nothing
delivered before it can be committed any more.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Self, TypeVar

import libvirt
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from failover_orch import telemetry
from failover_orch.errors import ConfigError, HypervisorError, LookupFailed, StepFailed
from failover_orch.hypervisors.libvirt.compression import COMPRESSED, inflated
from failover_orch.hypervisors.libvirt.messages import (
    CALLER,
    ERRORS,
    Accepted,
    Answer,
    Busy,
    Conflict,
    Cycle,
    NewReplica,
    TurnedRound,
)
from failover_orch.hypervisors.libvirt.replicas import Replicas
from failover_orch.hypervisors.libvirt.replication_server import Servers
from failover_orch.hypervisors.libvirt.site import Site

__all__ = ["Receiver"]

_log = telemetry.logger(__name__)
_Told = TypeVar("_Told")
_LOCK_S = 5.0
"""How long a request waits for whoever is at work on the VM."""
_STALLED_S = 30.0
_STOP_S = 5.0
_LARGEST = 4 * 1024 * 1024
"""Bytes of anything but a disk."""
_DELIVERY = re.compile(r"[0-9a-z-]{1,64}")
_STATUS = {"stale": 409, "refused": 409, "conflict": 409, "busy": 503, "failed": 503}


class Receiver:
    """Receives for one site, while it is entered. Nothing is to be entered where the site listens nowhere."""

    def __init__(self, site: Site, servers: Servers) -> None:
        self._site = site
        self._replicas = Replicas(site, servers)
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.url = ""
        """Where it listens."""

    async def __aenter__(self) -> Self:
        settings = self._site.settings
        listener = _listen(settings.listen)
        scheme = "https" if settings.tls_certificate else "http"
        host, port = listener.getsockname()[:2]
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        config = uvicorn.Config(
            self._application(),
            log_config=None,
            access_log=False,
            lifespan="off",
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
            timeout_graceful_shutdown=int(_STOP_S),
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
        await self._replicas.stop()

    def _application(self) -> ASGIApp:
        def route(path: str, method: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
            return Route(path, self._answering(answer), methods=[method])

        here = "/nodes/{node}/ends/{vm}"
        return Starlette(
            routes=[
                route("/ends/{vm}", "GET", self._end),
                route("/ends/{vm}/become-replica", "POST", self._become_replica),
                route("/ends/{vm}/accept", "POST", self._accept),
                route(here, "POST", self._create),
                route(here + "/deliveries/{delivery}/{index:int}", "PUT", self._deliver),
                route(here + "/deliveries", "DELETE", self._withdraw),
                route(here + "/cycles", "POST", self._commit),
            ]
        )

    def _answering(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The request answered, or its error, for those who have the key."""

        async def respond(request: Request) -> Response:
            key = self._site.settings.key
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not key or not hmac.compare_digest(given.encode(), key.encode()):
                return _response(Answer(error=f"{self._site.name} knows no such key", kind="failed"), 401)
            try:
                return await answer(request)
            except HypervisorError as error:
                kind = next((kind for kind, leaf in ERRORS.items() if type(error) is leaf), "failed")
                record = error.record if isinstance(error, Conflict) else None
                return _response(Answer(record, str(error), kind), _STATUS[kind])
            except LookupFailed as error:
                return _response(Answer(error=str(error), kind="refused"), 409)
            except (msgspec.MsgspecError, ValueError) as error:
                return _response(Answer(error=f"that request cannot be understood: {error}", kind="refused"), 409)
            except libvirt.libvirtError as error:
                return _response(Answer(error=f"libvirt at {self._site.name}: {error}", kind="failed"), 503)

        return respond

    async def _end(self, request: Request) -> Response:
        return _response(Answer(await self._replicas.record(_vm(request))))

    async def _create(self, request: Request) -> Response:
        told = await _body(request, NewReplica)
        if told.record.vm_id != _vm(request):
            # The lock that is taken is that of the address.
            raise ValueError(f"it is about {told.record.vm_id!r}, and was sent to {_vm(request)!r}")
        async with self._locked(request):
            return _response(Answer(await self._replicas.create(request.path_params["node"], told, _caller(request))))

    async def _deliver(self, request: Request) -> Response:
        sent = _chunks(request)
        # Without the VM's lock: it may take long, and concerns no file that anything else looks at.
        delivered = await self._replicas.deliver(
            _vm(request),
            request.path_params["node"],
            _delivery(request),
            request.path_params["index"],
            inflated(sent) if request.headers.get("content-encoding") == COMPRESSED else sent,
            _caller(request),
        )
        return _response(delivered)

    async def _withdraw(self, request: Request) -> Response:
        async with self._locked(request):
            return _response(Answer(await self._replicas.withdraw(_vm(request), request.path_params["node"])))

    async def _commit(self, request: Request) -> Response:
        told = await _body(request, Cycle)
        if not _DELIVERY.fullmatch(told.delivery):
            raise ValueError(f"delivery {told.delivery!r}")
        async with self._locked(request):
            record = await self._replicas.commit(_vm(request), request.path_params["node"], told, _caller(request))
        return _response(Answer(record))

    async def _become_replica(self, request: Request) -> Response:
        told = await _body(request, TurnedRound)
        async with self._locked(request):
            return _response(Answer(await self._replicas.become_replica(_vm(request), told, _caller(request))))

    async def _accept(self, request: Request) -> Response:
        told = await _body(request, Accepted)
        async with self._locked(request):
            return _response(Answer(await self._replicas.accept(_vm(request), told)))

    @asynccontextmanager
    async def _locked(self, request: Request) -> AsyncIterator[None]:
        lock = self._site.lock(_vm(request))
        try:
            async with asyncio.timeout(_LOCK_S):
                await lock.acquire()
        except TimeoutError:
            raise Busy(f"{_vm(request)} at {self._site.name} is being worked on: ask again") from None
        try:
            yield
        finally:
            lock.release()


class _Server(uvicorn.Server):
    """Signals are for the process that this is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cut idle connections: whoever expects nothing leaves TLS's goodbye unanswered, and would be waited for."""
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is None or cycle.response_complete:
                connection.transport.abort()
        await super().shutdown(sockets)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (ValueError, OverflowError):
        raise ConfigError(f"listen: {address!r} is not `address:port`, such as 10.0.0.5:7443") from None
    except OSError as error:
        raise ConfigError(f"listen: cannot listen on {address} ({error.strerror or error})") from error


def _caller(request: Request) -> str:
    """The primary server that whoever asks says it is: who has the sites' key is believed."""
    return request.headers.get(CALLER, "")


def _vm(request: Request) -> str:
    return str(request.path_params["vm"])


def _delivery(request: Request) -> str:
    name = str(request.path_params["delivery"])
    if not _DELIVERY.fullmatch(name):
        raise ValueError(f"delivery {name!r}")
    return name


async def _body(request: Request, told: type[_Told]) -> _Told:
    size, parts = 0, []
    async for chunk in _chunks(request):
        size += len(chunk)
        if size > _LARGEST:
            raise ValueError(f"it is longer than {_LARGEST} bytes")
        parts.append(chunk)
    return msgspec.json.decode(b"".join(parts), type=told)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """What is being sent, to its very end.

    Raises:
        StepFailed: it stopped coming.

    """
    stream = request.stream()
    with suppress(StopAsyncIteration):
        while True:
            try:
                async with asyncio.timeout(_STALLED_S):
                    chunk = await anext(stream)
            except TimeoutError:
                raise StepFailed(f"nothing has come for {_STALLED_S:g} s of what was being sent") from None
            except ClientDisconnect:
                raise StepFailed("what was being sent ended before its end") from None
            if chunk:
                yield chunk


def _response(told: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(told), status, media_type="application/json")
