"""A node as the driver uses it: run a pipeline there, in a session that is opened when it is needed and kept."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as StillWaiting
from typing import TYPE_CHECKING

from failover_orch.errors import HypervisorError
from failover_orch.hypervisors.hyperv.cmdlets import Pipeline
from failover_orch.hypervisors.hyperv.failures import AnswerLost, NotBegun
from failover_orch.hypervisors.hyperv.objects import Row, rows
from failover_orch.hypervisors.hyperv.settings import HyperVNode, HyperVSite
from failover_orch.hypervisors.hyperv.threads import in_thread

if TYPE_CHECKING:
    from failover_orch.hypervisors.hyperv.session import Session

__all__ = ["Host"]

_GRACE_S = 5.0
"""What a session is given beyond a call's deadline, to stop the command and say so, before it is given up."""


class Host:
    """A node. Safe for use by several threads: each call has a session for itself, of those that there may be."""

    def __init__(self, node: HyperVNode, settings: HyperVSite, site: str) -> None:
        self.name = node.name
        self.site = site
        self._node = node
        self._settings = settings
        self._turns = threading.BoundedSemaphore(settings.sessions)
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        self._closed = False

    def run(self, pipeline: Pipeline, *, timeout_s: float = 0) -> tuple[Row, ...]:
        """Run a pipeline and give the objects that it puts out. `timeout_s` 0: that of the settings.

        Where a kept session turns out to be gone, or a look's answer was lost in it, a new one is opened and it is run
        there. A change whose answer was lost is not run again: it is for the caller to look what came of it.

        Raises:
            NotBegun: the node cannot be reached, nothing was begun (StepFailed).
            AnswerLost: it was begun, and nobody knows how it ended (StepFailed).
            HostRefused: the node will not do it as things are (StepRefused).
            HostError: the node tried and failed (StepFailed).

        """
        deadline_s = time.monotonic() + (timeout_s or self._settings.call_timeout_s)
        if not self._turns.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
            raise NotBegun(f"{self.name} is busy: all of its {self._settings.sessions} sessions are in use")
        try:
            if (kept := self._take()) is not None:
                try:
                    return self._in(kept, pipeline, deadline_s)
                except NotBegun:
                    self._forget()
                except AnswerLost:
                    if pipeline.changes or time.monotonic() >= deadline_s:
                        raise
            return self._in(self._open(deadline_s), pipeline, deadline_s)
        finally:
            self._turns.release()

    def close(self) -> None:
        """End the sessions that nobody is using, and each of the others as soon as its call has ended."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def _open(self, deadline_s: float) -> Session:
        # Here, since pypsrp takes a third of a second to import and most commands of this project never need it.
        from failover_orch.hypervisors.hyperv.session import Session  # noqa: PLC0415

        opening = in_thread(lambda: Session(self._node, connect_timeout_s=self._settings.connect_timeout_s))
        try:
            return opening.result(max(0.0, deadline_s - time.monotonic()))
        except StillWaiting:
            opening.add_done_callback(_discard)
            raise NotBegun(f"{self.name} did not open a session in time") from None

    def _in(self, session: Session, pipeline: Pipeline, deadline_s: float) -> tuple[Row, ...]:
        # In a thread, as a connection that has gone silent may hold it up for longer than anybody should wait.
        running = in_thread(lambda: session.run(pipeline, deadline_s))
        try:
            output = running.result(max(0.0, deadline_s - time.monotonic()) + _GRACE_S)
        except StillWaiting:
            session.abandon()
            raise AnswerLost(f"{self.name} has gone silent while it ran {pipeline}") from None
        except (NotBegun, AnswerLost):
            session.abandon()
            raise
        except HypervisorError:
            self._keep(session)
            raise
        self._keep(session)
        return rows(output)

    def _take(self) -> Session | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, session: Session) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(session)
                return
        session.close()

    def _forget(self) -> None:
        """What ended one session (a restart of the node, of its WinRM service) has ended the others too."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.abandon()


def _discard(opening: Future[Session]) -> None:
    """A session that was opened too late for whoever wanted it."""
    if opening.exception() is None:
        opening.result().close()
