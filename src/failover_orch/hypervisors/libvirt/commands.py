"""Commands and files on a node: what stands before a command there is for the settings to say."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import PurePath
from typing import TypeVar

from failover_orch.errors import StepFailed

__all__ = ["Commands"]

_Stream = TypeVar("_Stream", asyncio.StreamReader, asyncio.StreamWriter)

_CHUNK = 256 * 1024
_STALLED_S = 60.0
"""A file that has not moved on for so long is given up."""
_TO_END_S = 10.0
_LAST_WORDS = 64 * 1024
_WORDS_SHOWN = 6
_INTO = 'rm -f -- "$1"; exec dd of="$1" bs=262144 conv=fsync status=none'
"""An earlier attempt that has not noticed its end writes on into what is removed here, not into the new file."""
_INTO_PLACE = """
[ "$(stat -c %s -- "$1")" = "$3" ] || { echo "$1 has arrived incomplete" >&2; exit 1; }
mv -fT -- "$1" "$2"
sync -- "$(dirname -- "$2")"
"""


class Commands:
    """Runs commands on one node."""

    def __init__(self, node: str, prefix: Sequence[str]) -> None:
        self._node = node
        self._prefix = tuple(prefix)
        # ssh hands its arguments to a shell, which takes them apart again.
        self._through_a_shell = bool(prefix) and PurePath(prefix[0]).name == "ssh"

    async def run(self, *argv: str, stdin: bytes = b"", within_s: float = 60) -> bytes:
        """Run a command to its end; what it wrote.

        Raises:
            StepFailed: it could not be started, failed, or had not ended after `within_s` seconds and was killed.

        """
        async with self._running(argv) as process:
            try:
                async with asyncio.timeout(within_s):
                    written, said = await process.communicate(stdin)
            except TimeoutError:
                raise StepFailed(f"{self._what(argv)} has not ended in {within_s:g} s and was killed") from None
        if process.returncode:
            raise self._failed(argv, process, said)
        return written

    async def read(self, path: PurePath | str) -> AsyncGenerator[bytes, None]:
        """What is in a file, in chunks of up to 256 KiB.

        Raises:
            StepFailed: it cannot be read, or nothing came of it for a minute.

        """
        argv = ("cat", "--", str(path))
        async with self._running(argv) as process:
            out, err = _pipe(process.stdout), _pipe(process.stderr)
            try:
                while chunk := await asyncio.wait_for(out.read(_CHUNK), _STALLED_S):
                    yield chunk
                said = await asyncio.wait_for(err.read(_LAST_WORDS), _STALLED_S)
                await asyncio.wait_for(process.wait(), _STALLED_S)
            except TimeoutError:
                raise StepFailed(f"{self._what(argv)} has given nothing for {_STALLED_S:g} s and was killed") from None
            if process.returncode:
                raise self._failed(argv, process, said)

    async def write(self, path: PurePath | str, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
        """Write a file: it is there whole and on disk, or not at all. Its bytes and their SHA-256 in hexadecimal.

        Raises:
            StepFailed: it cannot be written, or nothing could be written for a minute. What `chunks` raises passes.

        """
        part = f"{path}.part"
        argv = ("sh", "-ec", _INTO, "sh", part)
        size, digest = 0, hashlib.sha256()
        # Should `chunks` fail, the command is killed: its input just ending would look like the end of the file.
        async with self._running(argv) as process:
            into, err = _pipe(process.stdin), _pipe(process.stderr)
            said = b""
            try:
                async for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    into.write(chunk)
                    await asyncio.wait_for(into.drain(), _STALLED_S)
                into.close()
                said = await asyncio.wait_for(err.read(_LAST_WORDS), _STALLED_S)
                await asyncio.wait_for(process.wait(), _STALLED_S)
            except TimeoutError:
                raise StepFailed(f"writing {path} on {self._node} has stood still for {_STALLED_S:g} s") from None
            except (BrokenPipeError, ConnectionResetError):  # it ended before it had read everything
                said = await asyncio.wait_for(err.read(_LAST_WORDS), _STALLED_S)
                await asyncio.wait_for(process.wait(), _STALLED_S)
                raise self._failed(argv, process, said, doing=f"writing {path}") from None
            if process.returncode:
                raise self._failed(argv, process, said, doing=f"writing {path}")
        await self.run("sh", "-ec", _INTO_PLACE, "sh", part, str(path), str(size))
        return size, digest.hexdigest()

    @asynccontextmanager
    async def _running(self, argv: Sequence[str]) -> AsyncIterator[Process]:
        """A command that does not outlive this, however it is left."""
        command = (*self._prefix, *(map(shlex.quote, argv) if self._through_a_shell else argv))
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=_CHUNK, start_new_session=True
            )
        except OSError as error:
            raise StepFailed(f"{self._what(argv)} cannot be started: {command[0]}: {error.strerror}") from None
        try:
            yield process
        finally:
            await _end(process)

    def _failed(self, argv: Sequence[str], process: Process, said: bytes, *, doing: str = "") -> StepFailed:
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip() if lines else f"exit code {process.returncode}, and no word why"
        return StepFailed(f"{f'{doing} on {self._node}' if doing else self._what(argv)} failed: {last}")

    def _what(self, argv: Sequence[str]) -> str:
        words = " ".join(word for word in argv[:_WORDS_SHOWN] if "\n" not in word)
        return f"`{words}{' ...' if len(argv) > _WORDS_SHOWN else ''}` on {self._node}"


def _pipe(stream: _Stream | None) -> _Stream:
    if stream is None:
        raise ValueError("the command was started without its pipes")
    return stream


async def _end(process: Process) -> None:
    """Kill the command's whole group, where it still runs, and read its pipes empty: they close then."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
        async with asyncio.timeout(_TO_END_S):
            await process.communicate()
