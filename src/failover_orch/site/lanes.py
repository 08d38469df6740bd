"""Work side by side, in order within one lane."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["Lanes"]


class Lanes:
    """Tasks of which those with the same key run one after the other, in the order they were added."""

    def __init__(self) -> None:
        self._last: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    def __len__(self) -> int:
        """How many are not through."""
        return len(self._tasks)

    def add(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` once all that was added under this key is through."""
        task = asyncio.create_task(self._run(self._last.get(key), work))
        self._last[key] = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(key, done))

    def check(self) -> None:
        """Raise the first error that any work ended with: such an error is a bug, work deals with all others itself."""
        if self._error is not None:
            raise self._error

    async def room(self, most: int) -> None:
        """Wait until fewer than `most` are not through."""
        while len(self._tasks) >= most:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until all are through, or the time is up; says whether they are."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        return not self._tasks

    async def cancel(self) -> None:
        """Stop everything that is not through."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, previous: asyncio.Task[None] | None, work: Callable[[], Awaitable[None]]) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        await work()

    def _done(self, key: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._last.get(key) is task:
            del self._last[key]
        if not task.cancelled() and (error := task.exception()) is not None and self._error is None:
            self._error = error
