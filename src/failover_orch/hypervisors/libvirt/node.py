"""One node: a connection to its daemon, which is made anew whenever it is lost, and commands that run there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from pathlib import PurePath
from typing import Any, TypeVar

import libvirt

from failover_orch import telemetry
from failover_orch.errors import StepFailed
from failover_orch.hypervisors.libvirt.callers import Callers
from failover_orch.hypervisors.libvirt.commands import Commands
from failover_orch.hypervisors.libvirt.daemon import Subscription, broken_off, in_thread, keep_alive, open_connection
from failover_orch.hypervisors.libvirt.events import HostEvent
from failover_orch.hypervisors.libvirt.settings import LibvirtNode

__all__ = ["Node"]

_T = TypeVar("_T")
_log = telemetry.logger(__name__)

_ATTEMPT_S = 5.0
_ATTEMPTS = 4
"""So many attempts to connect may hang at a time: each takes a thread, and minutes, where a link is cut."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_CLOSING_S = 2.0
_CALLS = 4
"""So many calls at a time: each has a thread and a connection."""


class Node:
    """A node of a site.

    `heard` is called with all that the node tells: `lifecycle` and `agent` events of its domains (`vm_id` is the
    domain's UUID), and `connection` events OPENED and CLOSED.
    """

    def __init__(self, settings: LibvirtNode, clock: Callable[[], int], heard: Callable[[HostEvent], None]) -> None:
        self.settings = settings
        self._clock = clock
        self._heard = heard
        self._commands = Commands(settings.name, settings.run)
        self._callers = Callers(settings.uri)
        self._turns = asyncio.Semaphore(_CALLS)
        self._connection: libvirt.virConnect | None = None
        self._lost = asyncio.Event()
        self._why = "it has not answered yet"
        self.tried = asyncio.Event()
        """Set once a first attempt to connect has come to something, good or bad."""

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def up(self) -> bool:
        """Whether its daemon answers, as far as is known now."""
        return self._connection is not None

    async def call(self, what: Callable[[libvirt.virConnect], _T], *, within_s: float = 15) -> _T:
        """Call libvirt, in a thread. What libvirt answers that is an error passes as `libvirtError`.

        Cancelled, it waits for libvirt's answer first: whoever holds the VM's lock lets nothing go on behind it. After
        a time-out what was asked may still happen.

        Raises:
            StepFailed: there is no connection, it was lost in mid-call, or no answer came in `within_s` seconds.

        """
        connection = self._connection
        if connection is None:
            raise StepFailed(f"node {self.name} does not answer: {self._why}")
        lost, turns = self._lost, self._turns
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        try:
            async with asyncio.timeout(within_s):
                await turns.acquire()
        except TimeoutError:
            raise StepFailed(
                f"node {self.name} does not answer: others have waited for it for {within_s:g} s"
            ) from None
        given_up = threading.Event()
        answer = in_thread(partial(self._callers.call, what, given_up))
        # A call that was given up goes on, and keeps its turn until it ends.
        answer.add_done_callback(lambda _: turns.release())
        # A daemon that stands still takes a connection and says nothing on it: that it is lost is heard elsewhere.
        gone = asyncio.create_task(lost.wait())
        either: set[asyncio.Future[Any]] = {answer, gone}
        try:
            await asyncio.wait(either, timeout=max(0.0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                await asyncio.wait({answer}, timeout=max(0.0, min(_CLOSING_S, deadline - loop.time())))
        except asyncio.CancelledError:
            await asyncio.wait(either, timeout=max(0.0, deadline - loop.time()), return_when=asyncio.FIRST_COMPLETED)
            raise
        finally:
            gone.cancel()
            given_up.set()
        if not answer.done():
            why = self._why if lost.is_set() else f"no word of libvirt in {within_s:g} s"
            raise StepFailed(f"node {self.name} does not answer: {why}")
        try:
            return answer.result()
        except libvirt.libvirtError as error:
            if not broken_off(error):
                raise
            if connection is self._connection:
                self._lose(str(error))
            raise StepFailed(f"node {self.name} does not answer: {error}") from error

    async def run(self, *argv: str, stdin: bytes = b"", within_s: float = 60) -> bytes:
        """Run a command on the node to its end; what it wrote.

        Raises:
            StepFailed: it could not be started, failed, or had not ended after `within_s` seconds and was killed.

        """
        return await self._commands.run(*argv, stdin=stdin, within_s=within_s)

    def read(self, path: PurePath | str) -> AsyncGenerator[bytes, None]:
        """A file of the node, in chunks of up to 256 KiB. Raises StepFailed."""
        return self._commands.read(path)

    async def write(self, path: PurePath | str, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        """Write a file on the node, whole and on disk or not at all; its bytes and their SHA-256. Raises StepFailed."""
        return await self._commands.write(path, chunks)

    async def keep(self) -> None:
        """Keep a connection, for ever."""
        pause_s = _FIRST_PAUSE_S
        while True:
            connection = await self._connect()
            subscription = Subscription(connection, asyncio.get_running_loop(), partial(self._told, connection))
            try:
                if await self._begin(connection, subscription):
                    pause_s = _FIRST_PAUSE_S
                    await self._lost.wait()
            finally:
                self._connection = None
                in_thread(self._callers.drop)
                await asyncio.wait({in_thread(subscription.end)}, timeout=_CLOSING_S)
            # A daemon that takes connections and drops them is not to be knocked at without end.
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _begin(self, connection: libvirt.virConnect, subscription: Subscription) -> bool:
        """Whether the new connection is of use."""
        self._lost = asyncio.Event()
        # Calls that hang from before keep the turns that they have, not these.
        self._turns = asyncio.Semaphore(_CALLS)
        self._connection = connection
        try:
            await self._within(partial(keep_alive, connection))
            await self._within(subscription.begin)
        except (StepFailed, libvirt.libvirtError) as error:
            self._away(str(error))
            return False
        self.tried.set()
        _log.info("node answers", node=self.name)
        self._tell("connection", event="OPENED")
        return True

    async def _within(self, what: Callable[[], None]) -> None:
        answer = in_thread(what)
        await asyncio.wait({answer}, timeout=_ATTEMPT_S)
        if not answer.done():
            raise StepFailed(f"no word of libvirt in {_ATTEMPT_S:g} s")
        answer.result()

    async def _connect(self) -> libvirt.virConnect:
        """A connection, as soon as there is one to be had."""
        attempts: set[asyncio.Future[libvirt.virConnect]] = set()
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                # An address that nobody has is knocked at for two minutes by the kernel, and a daemon that stands still
                # for as long as it does: neither may keep a later attempt from getting through.
                if len(attempts) < _ATTEMPTS:
                    attempts.add(in_thread(partial(open_connection, self.settings.uri)))
                done, attempts = await asyncio.wait(attempts, timeout=_ATTEMPT_S, return_when=asyncio.FIRST_COMPLETED)
                opened = [attempt for attempt in done if attempt.exception() is None]
                if opened:
                    attempts |= set(opened[1:])
                    return opened[0].result()
                errors = [str(attempt.exception()) for attempt in done]
                self._away(errors[0] if errors else f"no word of libvirt in {_ATTEMPT_S:g} s")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        finally:
            for attempt in attempts:
                attempt.add_done_callback(_not_needed)

    def _away(self, why: str) -> None:
        if why != self._why:
            _log.warning("node does not answer", node=self.name, why=why)
        self._why = why
        self.tried.set()

    def _lose(self, why: str) -> None:
        """The connection is gone: nobody is to wait for it any more."""
        self._connection = None
        in_thread(self._callers.drop)
        self._away(why)
        self._lost.set()
        self._tell("connection", event="CLOSED", detail=why)

    def _told(self, connection: libvirt.virConnect, kind: str, domain: str, event: str, detail: str) -> None:
        if connection is not self._connection:
            return
        if kind == "connection":
            self._lose(f"the connection was closed ({detail})")
        else:
            self._tell(kind, domain, event, detail)

    def _tell(self, kind: str, domain: str = "", event: str = "", detail: str = "") -> None:
        self._heard(HostEvent(kind, self._clock(), self.name, domain, event, detail))


def _not_needed(attempt: asyncio.Future[libvirt.virConnect]) -> None:
    """Let go of a connection that came too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        in_thread(attempt.result().close)
