"""How large a body may be: a command is small, and nobody is to fill our memory with one."""

from __future__ import annotations

from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException

from failover_orch.service.lookups import Application, Receive, Scope, Send
from failover_orch.service.problems import problem

__all__ = ["LARGEST_BODY", "SizeLimited"]

LARGEST_BODY = 1024 * 1024
_DIGITS = 18
_TOO_LARGE = f"the body is larger than {LARGEST_BODY} bytes: send less at once"


class SizeLimited:
    """Refuses bodies larger than `LARGEST_BODY` bytes: before they are read, or else while they are."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if _announced(scope) > LARGEST_BODY:
            await problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)(scope, receive, send)
            return
        taken = 0

        async def limited() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > LARGEST_BODY:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
            return message

        await self._application(scope, limited, send)


def _announced(scope: Scope) -> int:
    """How large the body is said to be; 0 where nothing is said that can be understood."""
    said: bytes = dict(scope["headers"]).get(b"content-length", b"")
    return int(said) if said.isdigit() and len(said) <= _DIGITS else 0
