"""Who is calling, asked before anything else: identity in front of every path, and what it may do where it matters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from failover_orch.domain import ALLOWED, Call, Operation, Principal, refusal
from failover_orch.service.access import Access, credentials_of
from failover_orch.service.endpoints import ENDPOINTS, Subject
from failover_orch.service.lookups import Application, Receive, Scope, Send
from failover_orch.service.problems import Forbidden, problem_of
from failover_orch.service.read_model import ReadModel

T = TypeVar("T")

__all__ = ["Caller", "Identified", "Known"]

_OPEN = frozenset(endpoint.path for endpoint in ENDPOINTS if endpoint.subject is Subject.NOBODY)
_IN_SCOPE = "failover_orch.caller"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a call, once that is proved."""

    principal: Principal
    scope: Mapping[str, Any]
    access: Access

    @property
    def name(self) -> str:
        """What the journal calls them."""
        return self.principal.name

    def sees(self, find: Callable[[Operation, ReadModel, T], Call], model: ReadModel, subject: T) -> bool:
        """Whether they may look at something; nothing is told where they may not."""
        if any(grant.whole and Operation.LOOK in ALLOWED[grant.role] for grant in self.principal.grants):
            return True
        return not refusal(self.principal, find(Operation.LOOK, model, subject))

    def require(self, *calls: Call) -> None:
        """Raise Forbidden where they may not do one of these; it goes into the audit trail."""
        for call in calls:
            why = refusal(self.principal, call)
            if why:
                raise self.refused(call.operation, why)

    def require_somewhere(self, operation: Operation) -> None:
        """Raise Forbidden where they may not do this anywhere at all."""
        if not any(operation in ALLOWED[grant.role] for grant in self.principal.grants):
            raise self.refused(operation, refusal(self.principal, Call(operation)))

    def refused(self, operation: Operation, why: str) -> Forbidden:
        """Tell a refusal, and give what is to be raised."""
        self.access.refused(self.name, credentials_of(self.scope).address, operation, why)
        return Forbidden(why)

    async def still(self) -> None:
        """Ask once more who they are: of an answer that goes on for long. Raises AccessError as at the beginning."""
        await self.access.caller(credentials_of(self.scope))


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope[_IN_SCOPE]
    return caller


Known = Annotated[Caller, Depends(_caller)]
"""The caller, as a parameter of an endpoint."""


class Identified:
    """Lets nobody through to the application whose identity is not proved; a few paths are open to all."""

    def __init__(self, application: Application, access: Access) -> None:
        self._application = application
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            try:
                principal = await self._access.caller(credentials_of(scope))
            except Exception as error:  # noqa: BLE001 (problem_of logs what is a bug, and answers 500)
                await problem_of(error)(scope, receive, send)
                return
            scope[_IN_SCOPE] = Caller(principal, scope, self._access)
        await self._application(scope, receive, send)
