"""libvirt's own threads: calls that block, and the loop that reads events.

libvirt has one event loop for the whole process, whichever asyncio loops come and go. It is libvirt's own, in a thread:
libvirtaio's changes asyncio's timers from whatever thread a call is made in, which asyncio does not allow (its timers
are lost, and keep-alives with them).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TypeVar

import libvirt

__all__ = ["LIFECYCLE", "Subscription", "broken_off", "in_thread", "keep_alive", "open_connection"]

_T = TypeVar("_T")

_KEEP_ALIVE_S = 1
_KEEP_ALIVES_MISSED = 2
_AFTER_AN_ERROR_S = 0.1
_ONE_LOOP = threading.Lock()
_LINK_ERRORS = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE})
_EVENTS = ("DEFINED", "UNDEFINED", "STARTED", "SUSPENDED", "RESUMED", "STOPPED", "SHUTDOWN", "PMSUSPENDED", "CRASHED")
_CLOSE_REASONS = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "ERROR",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "EOF",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "KEEPALIVE",
    libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "CLIENT",
}


def _numbers_of(prefix: str) -> dict[int, str]:
    return {getattr(libvirt, name): name.removeprefix(prefix) for name in dir(libvirt) if name.startswith(prefix)}


LIFECYCLE = {
    getattr(libvirt, f"VIR_DOMAIN_EVENT_{event}"): (event, _numbers_of(f"VIR_DOMAIN_EVENT_{event}_"))
    for event in _EVENTS
}
"""The name of each lifecycle event by its number, and the names of its details by theirs."""


def in_thread(what: Callable[[], _T]) -> asyncio.Future[_T]:
    """Call what blocks in a thread of its own, which keeps nobody waiting, not even the end of the process.

    A call to a node that hangs takes as long as it takes: threads of a pool would be used up by a few of them.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_T] = loop.create_future()
    # Whoever waited may have given up: then an error is nobody's.
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    def settle(result: _T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]  # None only where that is what _T is

    def work() -> None:
        result: _T | None = None
        error: BaseException | None = None
        try:
            result = what()
        except BaseException as raised:  # noqa: BLE001 - raised again where the answer is waited for
            error = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="libvirt-call", daemon=True).start()
    return answer


def _event_loop() -> threading.Thread:
    """The loop, from the first connection on. One alone, though several connections are opened at once: libvirt's loop
    is not made for two threads, and the process would end without a word.
    """
    with _ONE_LOOP:
        return _begun_loop()


@cache
def _begun_loop() -> threading.Thread:
    # Else libvirt writes every error to stderr besides raising it.
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    libvirt.virEventRegisterDefaultImpl()

    def turn() -> None:
        while True:
            try:
                libvirt.virEventRunDefaultImpl()
            except libvirt.libvirtError:
                time.sleep(_AFTER_AN_ERROR_S)

    thread = threading.Thread(target=turn, name="libvirt-events", daemon=True)
    thread.start()
    return thread


def open_connection(uri: str) -> libvirt.virConnect:
    """Connect to a daemon; blocks, and for minutes where nothing answers at its address."""
    _event_loop()
    return libvirt.open(uri)


def keep_alive(connection: libvirt.virConnect) -> None:
    """Have the connection closed where the other side does not answer for about three seconds."""
    try:
        connection.setKeepAlive(_KEEP_ALIVE_S, _KEEP_ALIVES_MISSED)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # a driver inside this process needs none
            raise


def broken_off(error: libvirt.libvirtError) -> bool:
    """Whether it is the connection that failed, and not what was asked: it may have been done all the same."""
    return error.get_error_domain() in _LINK_ERRORS


class Subscription:
    """What a connection tells: each lifecycle event and change of an agent, and its own end. All methods block.

    `heard` is called, in the loop, with the kind of event (as recordings of events have it), the domain's UUID, the
    event and its detail.
    """

    def __init__(
        self,
        connection: libvirt.virConnect,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[[str, str, str, str], None],
    ) -> None:
        self._connection = connection
        self._loop = loop
        self._heard = heard
        self._callbacks: list[int] = []

    def begin(self) -> None:
        connection = self._connection
        connection.registerCloseCallback(self._closed, None)
        for event, callback in (
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, self._agent),
        ):
            self._callbacks.append(connection.domainEventRegisterAny(None, event, callback, None))

    def end(self) -> None:
        """Let go of the connection, whether it still lives or not. What is registered would keep it open."""
        for callback in self._callbacks:
            with suppress(libvirt.libvirtError):
                self._connection.domainEventDeregisterAny(callback)
        with suppress(libvirt.libvirtError):
            self._connection.unregisterCloseCallback()
        with suppress(libvirt.libvirtError):
            self._connection.close()

    # Called by libvirt, in its thread

    def _lifecycle(
        self, _connection: libvirt.virConnect, domain: libvirt.virDomain, event: int, detail: int, _opaque: object
    ) -> None:
        name, details = LIFECYCLE.get(event, (str(event), {}))
        self._tell("lifecycle", domain.UUIDString(), name, details.get(detail, str(detail)))

    def _agent(
        self, _connection: libvirt.virConnect, domain: libvirt.virDomain, state: int, _reason: int, _opaque: object
    ) -> None:
        connected = state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
        self._tell("agent", domain.UUIDString(), "CONNECTED" if connected else "DISCONNECTED", "")

    def _closed(self, _connection: libvirt.virConnect, reason: int, _opaque: object) -> None:
        self._tell("connection", "", "CLOSED", _CLOSE_REASONS.get(reason, str(reason)))

    def _tell(self, kind: str, domain: str, event: str, detail: str) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._heard, kind, domain, event, detail)
