"""What the stories have in common: processes, the output topics as any consumer sees them, requests, and waiting."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from failover_orch.audit import verify_topics
from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.demo.processes import Processes
from failover_orch.demo.screen import Act, Screen
from failover_orch.domain import FailoverKind, FailoverRequested, RequestAction, RunSnapshot
from failover_orch.errors import FailoverOrchError
from failover_orch.kafka import create_topics, desired_topics
from failover_orch.service import Feed, ReadModel
from failover_orch.wire import Publisher, now_ms, read_to_end

__all__ = ["DemoStalled", "Stage", "demo_directory"]

_PATIENCE_S = 60.0
_POLL_S = 0.1
_ACTOR = "demo"
_TICKET = "DEMO-1"


class DemoStalled(FailoverOrchError):
    """Something that an act of a demo waits for does not come."""


class Stage:
    """What a story is told on. Within `async with` its read model follows Kafka."""

    def __init__(self, screen: Screen, settings: Settings, directory: Path, *, patience_s: float = _PATIENCE_S) -> None:
        """`patience_s`: how long an act waits for what has to come."""
        self.screen = screen
        self.settings = settings
        self.directory = directory
        self._patience_s = patience_s
        self.processes = Processes(directory, _environment(settings))
        self.codec = Codec()
        self._feed = Feed(settings.bootstrap, names=settings.names, codec=self.codec, app_id=settings.app_id)
        self._following: asyncio.Task[None] | None = None
        # What is waited for and tried again is no news to whoever watches a demo.
        logging.getLogger("failover_orch").addHandler(logging.NullHandler())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    @property
    def model(self) -> ReadModel:
        """What the output topics say now."""
        return self._feed.model

    async def make_topics(self, sites: Sequence[str]) -> None:
        """Make the topics, and begin to follow them."""
        with self.screen.act("Topics are made") as act:
            desired = desired_topics(self.settings, sites, 1)
            await create_topics(self.settings.bootstrap, desired)
            act.outcome = f"{len(desired)}, {self.settings.partitions} partitions each"
        self._following = asyncio.create_task(self._feed.run())

    def request(self, kind: FailoverKind, reason: str, *, vm_id: str = "", plan_id: str = "") -> FailoverRequested:
        """A request for a failover, as somebody makes it."""
        return FailoverRequested(
            run_id=f"run-{uuid.uuid4().hex[:12]}",
            action=RequestAction.REQUEST,
            kind=kind,
            actor=_ACTOR,
            reason=reason,
            requested_at_ms=now_ms(),
            vm_id=vm_id,
            plan_id=plan_id,
            ticket=_TICKET,
        )

    async def run(self, request: FailoverRequested, act: Act) -> RunSnapshot:
        """Ask for a failover and follow it to its end."""
        await self.publish(request)

        def ended() -> bool:
            runs = {run.run_id: run for run in self.model.runs()}
            run = runs.get(request.run_id)
            if run is None:
                return False
            states = [step.state.lower() for step in run.steps]
            act.progress(", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
            return run.state.ended

        await self.until(f"run {request.run_id} ends", ended)
        return self.model.run(request.run_id)

    async def publish(self, *values: object) -> None:
        """Publish records."""
        settings = self.settings
        async with Publisher(
            settings.bootstrap, self.codec, names=settings.names, partitions=settings.partitions, source=_ACTOR
        ) as publisher:
            await publisher.publish(*values)

    async def read(self, *topics: str) -> list[object]:
        """All that stands in these topics now, decoded."""
        values: list[object] = []
        async for records in read_to_end(self.settings.bootstrap, topics, names=self.settings.names):
            values += [self.codec.decode_from(record.topic, record.value) for record in records if record.value]
        return values

    async def audit_findings(self) -> list[str]:
        """What is wrong with the audit trail."""
        settings = self.settings
        report = await verify_topics(settings.bootstrap, names=settings.names, codec=self.codec, app_id=settings.app_id)
        return [str(finding) for finding in report.findings]

    async def until(self, what: str, holds: Callable[[], bool], act: Act | None = None) -> None:
        """Wait until something holds.

        Raises:
            DemoStalled: it does not, for so long.
            ProcessEnded: a process of the demo has ended by itself.

        """
        deadline = time.monotonic() + self._patience_s
        while not holds():
            self.processes.require_alive()
            if time.monotonic() > deadline:
                raise DemoStalled(
                    f"waited {self._patience_s:g} s in vain until {what}; the logs are in {self.directory}"
                )
            if act is not None:
                act.progress(what)
            await asyncio.sleep(_POLL_S)


def demo_directory(name: str) -> Path:
    """Where a demo keeps its files, unless told otherwise."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "failover-orch" / name


def _environment(settings: Settings) -> dict[str, str]:
    return {
        "FAILOVER_ORCH_BOOTSTRAP": settings.bootstrap,
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
        "FAILOVER_ORCH_SESSION_TIMEOUT": str(settings.session_timeout),
    }
