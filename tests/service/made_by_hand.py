"""A service whose knowledge is made by hand, whose callers are who they say, and whose commands are noted down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from failover_orch.domain import AccessRole, Grant, Principal
from failover_orch.errors import KafkaUnavailable, Unauthenticated
from failover_orch.service import Changes, Knowledge, ReadModel, RouteChange, create_app
from failover_orch.service.access import Credentials
from failover_orch.wire import now_ms

PARTITIONS = 4
AS_OF_MS = 1_700_000_000_123
ADMINISTRATOR = Principal("alice", (Grant(AccessRole.ADMINISTRATOR),), "token")
APPROVER = Principal("bob", (Grant(AccessRole.APPROVER),), "token")
VIEWER = Principal("eve", (Grant(AccessRole.VIEWER),), "token")


class Fixed:
    """A source whose model is made by hand; what is told to it reaches those who wait."""

    def __init__(self, values: Iterable[object] = ()) -> None:
        self.model = ReadModel()
        # Its clock stands still: what is fresh stays so, however slow the machine is.
        self._now_ms = now_ms()
        self.knowledge = Knowledge(now_ms=lambda: self._now_ms)
        self.changes = Changes()
        self.kafka_answers = True
        self._offset = 0
        for value in values:
            self.tell(value)
        self.model.as_of_ms = AS_OF_MS
        self.model.caught_up = True
        self.fresh()

    def fresh(self, ago_ms: int = 0) -> None:
        """Everything is known and applied up to so long ago."""
        self.knowledge.confirm(PARTITIONS, self._now_ms - ago_ms)

    def tell(self, value: object) -> None:
        """A record has come."""
        self.model.apply(value)
        vm_id = getattr(value, "vm_id", "")
        if vm_id and self.model.route(vm_id) is value:
            change = RouteChange(vm_id, 0, self._offset)
            self._offset += 1
            self.model.route_places[vm_id] = change
            self.changes.tell([change])

    async def reachable(self) -> bool:
        return self.kafka_answers


class Doorkeeper:
    """Knows people by the name in `Authorization: Bearer NAME`; `refusals` are what it was told."""

    def __init__(self, *known: Principal) -> None:
        self.known = {principal.name: principal for principal in known or (ADMINISTRATOR, APPROVER, VIEWER)}
        self.refusals: list[tuple[str, str, str, str]] = []

    async def caller(self, credentials: Credentials) -> Principal:
        name = credentials.authorization.removeprefix("Bearer ")
        if name not in self.known:
            raise Unauthenticated("say who you are: no credentials came, or none that prove an identity")
        return self.known[name]

    def refused(self, who: str, address: str, what: str, why: str) -> None:
        self.refusals.append((who, address, what, why))

    async def run(self) -> None:
        """Nothing has to be done."""


class Noted:
    """Commands as they were published. `away`: Kafka takes none."""

    def __init__(self) -> None:
        self.records: list[object] = []
        self.away = False

    async def publish(self, *values: object, traceparent: str = "") -> None:
        if self.away:
            raise KafkaUnavailable("no Kafka answers")
        self.records += values

    async def run(self) -> None:
        """Nothing has to be done."""


@asynccontextmanager
async def calling(app: FastAPI, who: str = "alice", key: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client who says that they are somebody; with `key` as the Idempotency-Key of all that they say."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {who}"} | ({"Idempotency-Key": key} if key else {})
    async with httpx.AsyncClient(transport=transport, base_url="http://broker", headers=headers) as client:
        yield client


__all__ = [
    "ADMINISTRATOR",
    "APPROVER",
    "AS_OF_MS",
    "PARTITIONS",
    "VIEWER",
    "Doorkeeper",
    "Fixed",
    "Noted",
    "calling",
    "create_app",
]
