"""Runs a command that talks to a machine's power, and ends it when its time is up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from failover_orch.errors import FenceFailed, FenceRefused

__all__ = ["ToolEnd", "run_tool"]


@dataclass(frozen=True, slots=True)
class ToolEnd:
    """How a command ended, and what it said."""

    status: int
    output: str
    errors: str


async def run_tool(command: Sequence[str], *, timeout_s: float, install: str) -> ToolEnd:
    """Run a command without a shell and wait for its end. A process, unlike a thread, can be ended when it hangs.

    Raises:
        FenceRefused: it is not installed; `install` says how to.
        FenceFailed: it did not end within its time, and was killed.

    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # What it says is read: it must not be translated.
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise FenceRefused(f"{command[0]} cannot be run here ({error.strerror or error}): {install}") from None
    try:
        async with asyncio.timeout(timeout_s):
            output, errors = await process.communicate()
    except TimeoutError:
        raise FenceFailed(f"{command[0]} did not end within {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return ToolEnd(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace"))
