"""Runs one script as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

__all__ = ["OUTPUT_KEPT", "ScriptEnd", "run_script"]

OUTPUT_KEPT = 2_000
"""Characters that are kept of what a script says: the last ones."""

_LONGEST_CHARACTER = 4
"""Bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class ScriptEnd:
    """How a script ended. `exit_status` is negative where a signal ended it, None where its time was up."""

    exit_status: int | None
    output: str
    """The end of what it wrote to standard output and standard error, as it came."""
    duration_ms: int


async def run_script(
    command: Sequence[str], *, given: str, environment: Mapping[str, str], timeout_s: float
) -> ScriptEnd:
    """Run a command, without a shell, with `given` on its standard input, and wait for its end.

    It and all it has started (its process group) are killed when the time is up, or when the caller is cancelled.

    Raises:
        OSError, ValueError: it cannot be started.

    """
    # Files and not pipes: a script need not read what it is given, and something that it leaves running in the
    # background, with its output still open, does not keep its end from being seen.
    with tempfile.TemporaryFile() as standard_input, tempfile.TemporaryFile() as output:
        standard_input.write(given.encode())
        standard_input.seek(0)
        begun = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=standard_input,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(timeout_s):
                status: int | None = await process.wait()
        except TimeoutError:
            status = None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return ScriptEnd(status, _tail(output), round((time.monotonic() - begun) * 1000))


def _tail(output: IO[bytes]) -> str:
    """The last of what was written. The position is the script's too, so it is not moved."""
    descriptor = output.fileno()
    size = os.fstat(descriptor).st_size
    at_most = OUTPUT_KEPT * _LONGEST_CHARACTER
    text = os.pread(descriptor, at_most, max(0, size - at_most)).decode(errors="replace")
    return text.strip()[-OUTPUT_KEPT:]
