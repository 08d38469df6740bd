"""Processes that outlive the command that started them, found again by pid files that may lie."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["alive", "how_it_ended", "launch", "recorded", "terminate"]

KILL_WAIT_S = 10.0
POLL_S = 0.05
LIMBO_S = 10.0

_ended: dict[int, int] = {}
"""Wait status of each child that ended, by pid: it can be asked for only once."""


def launch(command: list[str], *, output: Path, pid_file: Path, environment: Mapping[str, str] = os.environ) -> int:
    """Start a process in a process group of its own, so that Ctrl-C here does not reach it. Returns its pid."""
    to_file = (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    # What we were given ourselves, such as a lock's file, it would keep open for as long as it runs.
    given = [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable()]
    pid = os.posix_spawn(
        command[0], command, environment, file_actions=[*given, to_file, (os.POSIX_SPAWN_DUP2, 1, 2)], setpgroup=0
    )
    written = pid_file.with_suffix(".new")
    written.write_text(f"{pid}\n")
    written.replace(pid_file)
    return pid


def _inheritable() -> list[int]:
    """The descriptors, beyond the three standard ones, that processes of ours would have too."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one of the listing is closed by now
            if int(entry.name) > 2 and os.get_inheritable(int(entry.name)):  # noqa: PLR2004 (standard error)
                found.append(int(entry.name))
    return found


def recorded(pid_file: Path, *, mark: str) -> int | None:
    """The pid in a file, if that process runs and is the one that was started.

    A machine that restarted may have given the number to somebody else: only a process whose command line holds
    `mark` is ours.
    """
    try:
        pid = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return pid if alive(pid, mark=mark) else None


def alive(pid: int, *, mark: str) -> bool:
    """Whether a process runs and has `mark` in its command line. One that ended and waits to be reaped does not."""
    return mark in _command_line(pid)


def how_it_ended(pid: int) -> str:
    """How a process that this one started has ended: its exit code, or the signal. For people to read."""
    status = _ended.get(pid)
    if status is None:
        return "nobody knows how"
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def terminate(pids: Collection[int], *, mark: str, grace_s: float) -> None:
    """End processes: ask, wait up to `grace_s` seconds, then kill. Returns when none runs any more.

    Raises:
        TimeoutError: one of them survived being killed.

    """
    for sent, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_WAIT_S)):
        if sent is signal.SIGTERM and grace_s <= 0:
            continue
        running = [pid for pid in pids if alive(pid, mark=mark)]
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, sent)
        deadline = time.monotonic() + wait_s
        while running and time.monotonic() < deadline:
            time.sleep(POLL_S)
            running = [pid for pid in running if alive(pid, mark=mark)]
        if not running:
            return
    raise TimeoutError(f"process {', '.join(map(str, running))} did not end {KILL_WAIT_S:g} s after SIGKILL")


def _command_line(pid: int) -> str:
    """The process's command line; empty where there is no such process. Not every system has /proc."""
    _reap(pid)
    if not Path("/proc/self/stat").exists():
        asked = subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return asked.stdout
    process = Path(f"/proc/{pid}")
    deadline = time.monotonic() + LIMBO_S
    try:
        # A process has no command line for a moment within exec, and again while it ends: its threads may then still
        # hold its ports. It is gone when it is reaped, or when its last thread waits for that.
        while not (line := (process / "cmdline").read_bytes()):
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            alone = len(list((process / "task").iterdir())) <= 1
            if (state in "ZX" and alone) or time.monotonic() > deadline:
                _reap(pid)
                break
            time.sleep(0.001)
            _reap(pid)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
    return line.replace(b"\0", b" ").decode(errors="replace")


def _reap(pid: int) -> None:
    """Take note of the end of a process, if this one started it and it has ended."""
    with suppress(ChildProcessError):
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped:
            _ended[pid] = status
