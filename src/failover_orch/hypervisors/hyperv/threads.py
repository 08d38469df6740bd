"""Threads that a process does not wait for when it ends: pypsrp blocks, and a host that hangs must hold up nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["each", "in_thread", "threaded"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_thread(do: Callable[[], _Out]) -> Future[_Out]:
    """Do this in a thread of its own."""
    future: Future[_Out] = Future()
    # Whoever waits may give up, and what was begun goes on.
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result = do()
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=work, name="hyper-v", daemon=True).start()
    return future


def each(do: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
    """Do this for each item side by side, and give what came of it in their order.

    Raises:
        Whatever the first of them that failed raised, once all have ended.

    """
    futures = [in_thread(lambda item=item: do(item)) for item in items]  # type: ignore[misc]  # the item is bound
    for future in futures:
        future.exception()
    return [future.result() for future in futures]


async def threaded(do: Callable[[], _Out]) -> _Out:
    """Do this in a thread of its own. Whoever is cancelled while waiting leaves it to end by itself."""
    return await asyncio.wrap_future(in_thread(do))
