"""The same command once: what is made of a command has its name from who asks and their key, in any process."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Header, Response

from failover_orch.service.problems import Conflict

__all__ = ["IdempotencyKey", "Once", "name_from"]

IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="Chosen by the caller, another for each command: a command that is repeated with its key is "
        "carried out once.",
    ),
]

_REMEMBERED = 10_000
"""Commands that a process remembers: of an older one the read model, or the broker, knows."""


def name_from(caller: str, key: str) -> str:
    """What a caller's key makes of the thing that is asked for: 32 hexadecimal digits."""
    return hashlib.sha256(f"{len(caller)}:{caller}:{key}".encode()).hexdigest()[:32]


@dataclass(slots=True)
class _Said:
    """A command as it was said with a key."""

    what: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    done: bool = False
    answer: Response | None = None


class Once:
    """What this process remembers of the commands that it took."""

    def __init__(self) -> None:
        self._said: OrderedDict[str, _Said] = OrderedDict()

    async def take(
        self, name: str, what: str, take: Callable[[], Awaitable[Response]], *, forget: bool = False
    ) -> Response:
        """Carry a command out, or answer as it was answered before; unless the answer is to be forgotten at once.

        Raises:
            Conflict: the same key stood for something else, or its answer was given and is forgotten.

        """
        said = self._said.setdefault(name, _Said(what))
        self._said.move_to_end(name)
        while len(self._said) > _REMEMBERED:
            self._said.popitem(last=False)
        if said.what != what:
            raise Conflict("this Idempotency-Key stood for another command before: choose a new one for this one")
        async with said.lock:
            if said.done and said.answer is None:
                raise Conflict("this was done before with this Idempotency-Key, and its answer is not given twice")
            if said.answer is None:
                try:
                    answer = await take()
                except BaseException:
                    # Refused, or not acknowledged: nothing was taken, so the key is free for what is right.
                    if self._said.get(name) is said:
                        del self._said[name]
                    raise
                said.done = True
                if forget:
                    return answer
                said.answer = answer
            return said.answer
