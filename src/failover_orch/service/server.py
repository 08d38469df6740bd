"""Running the service: one process, one read model, one HTTP server."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

import uvicorn

from failover_orch.errors import ConfigError
from failover_orch.service.access import Access
from failover_orch.service.access.service_file import ServiceFile
from failover_orch.service.access.tls import CertificateProtocol, server_context
from failover_orch.service.app import create_app
from failover_orch.service.source import Commands, Source

__all__ = ["serve"]

_BACKLOG = 1_024
_DRAINING_S = 15
"""How long calls in hand may take to end; those that wait for a change are answered at once."""


class _Runs(Protocol):
    async def run(self) -> None:
        """Do what has to be done as long as the service runs; until cancelled."""
        ...


class _RunningSource(Source, _Runs, Protocol):
    pass


class _RunningAccess(Access, _Runs, Protocol):
    pass


class _RunningCommands(Commands, _Runs, Protocol):
    pass


class _Server(uvicorn.Server):
    """Uvicorn raises the signal that ended it once more, which would end the process before it has cleaned up."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

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
        self._ending()
        self.should_exit = True


async def serve(
    source: _RunningSource,
    access: _RunningAccess,
    commands: _RunningCommands,
    *,
    file: ServiceFile,
    listening: Callable[[str], None],
) -> None:
    """Answer where the service file says (port 0: any free one) until SIGTERM or SIGINT.

    `listening` is told the address. Calls in hand are answered before it ends, and what is to be told of refused ones
    is told.

    Raises:
        ConfigError: the address cannot be listened on, or the files for TLS cannot be used.

    """
    context = server_context(file.tls) if file.tls is not None else None
    with _listen(file.host, file.port) as listener:
        address, bound = listener.getsockname()[:2]
        scheme = "https" if context is not None else "http"
        listening(f"{scheme}://[{address}]:{bound}" if ":" in address else f"{scheme}://{address}:{bound}")
        config = uvicorn.Config(
            create_app(source, access, commands),
            http=CertificateProtocol,
            ssl_context_factory=(lambda *_: context) if context is not None else None,
            # Else anybody on this machine could say that a call comes from anywhere.
            proxy_headers=bool(file.proxies),
            forwarded_allow_ips=list(file.proxies),
            # Our logging stays as it is; a line for every request is for the proxy in front to write.
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_DRAINING_S,
        )
        # One inside the other: who leaves last is still needed by the one before.
        async with _running(commands), _running(access), _running(source):
            await _Server(config, source.changes.end).serve(sockets=[listener])


@asynccontextmanager
async def _running(part: _Runs) -> AsyncIterator[None]:
    """A part of the service at work; it has ended when this does. Its bug ends the service."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(part.run())
        yield
        running.cancel()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once, without waiting for the other side's acknowledgement, where the protocol is named alone.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port} ({error.strerror or error}): choose another with --host and --port"
        ) from error
    return listener
