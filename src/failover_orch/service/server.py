"""Running the service: one process, one read model, one HTTP server."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from failover_orch.errors import ConfigError
from failover_orch.service.app import create_app
from failover_orch.service.feed import Feed

__all__ = ["serve"]


class _Server(uvicorn.Server):
    """Uvicorn raises the signal that ended it once more, which would end the process before it has cleaned up."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        self.should_exit = True


async def serve(feed: Feed, *, host: str, port: int, listening: Callable[[str], None]) -> None:
    """Answer on `host` and `port` (0: any free one) until SIGTERM or SIGINT; `listening` is told the address.

    Raises:
        ConfigError: the address cannot be listened on.

    """
    with _listen(host, port) as listener:
        address, bound = listener.getsockname()[:2]
        listening(f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}")
        # Our logging stays as it is; a line for every request is for the proxy in front to write.
        config = uvicorn.Config(create_app(feed), log_config=None, access_log=False, lifespan="off")
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(feed.run())
            await _Server(config).serve(sockets=[listener])
            following.cancel()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror or error}): choose another with --host and --port"
        ) from error
