"""Commands run, and processes found and ended, for a lab."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from failover_orch.errors import LabError

__all__ = ["await_condition", "background", "end_processes", "ip", "namespaces", "processes_in", "run"]

COMMAND_TIMEOUT_S = 60.0
KILL_WAIT_S = 10.0
POLL_S = 0.02


def run(*command: str, stdin: str = "", timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """Run a command to its end and return what it wrote.

    Raises:
        LabError: it is not there, failed, or took longer than `timeout_s`; with the last line that it said.

    """
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s)
    except FileNotFoundError:
        raise LabError(f"{command[0]} is not on the path: see what the lab needs with lab.missing_packages()") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"`{' '.join(command)}` has not ended in {timeout_s:g} s") from None
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise LabError(
            f"`{' '.join(command)}` failed (exit code {done.returncode}): {' / '.join(said[-2:]) or 'no word'}"
        )
    return done.stdout


def background(*command: str, output: Path) -> None:
    """Start a process that goes on without us: nobody's child here, out of Ctrl-C's reach. What it says is appended.

    Raises:
        LabError: it could not be started.

    """
    with output.open("ab") as said:
        try:
            subprocess.run(
                ["setsid", "--fork", *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=True
            )
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise LabError(f"`{' '.join(command)}` could not be started: {error}") from error


def ip(namespace: str, lines: Iterable[str]) -> None:
    """Have `ip` do these lines, in a network namespace, or in the one we are in where that is empty."""
    where = ("-n", namespace) if namespace else ()
    run("ip", *where, "-batch", "-", stdin="".join(f"{line}\n" for line in lines))


def namespaces() -> list[str]:
    """The named network namespaces of this machine."""
    directory = Path("/run/netns")
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def processes_in(namespace: str) -> list[int]:
    """The pids of what runs in a network namespace. What has ended and waits to be reaped does not run."""
    if namespace not in namespaces():
        return []
    return [pid for pid in map(int, run("ip", "netns", "pids", namespace).split()) if running(pid)]


def running(pid: int) -> bool:
    """Whether a process runs. A zombie does not: its parent may take its time to reap it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def end_processes(find: Callable[[], Sequence[int]]) -> None:
    """SIGKILL whatever `find` finds until it finds nothing: a process may start another as it dies.

    Raises:
        LabError: something survived.

    """

    def none_left() -> bool:
        found = find()
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    if not await_condition(none_left, KILL_WAIT_S):
        raise LabError(f"process {', '.join(map(str, find()))} did not end {KILL_WAIT_S:g} s after SIGKILL")


def await_condition(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds. Returns whether it did within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
