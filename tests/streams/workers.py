"""Processes of one installation, for tests to kill, pause and lose; every one is ended by its pid."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from failover_orch.config import Settings

__all__ = ["RUN_WORKER", "SESSION_TIMEOUT_S", "Supervised", "Workers", "running_workers", "say", "until"]

RUN_WORKER = (
    sys.executable,
    "-c",
    (
        "from failover_orch.config import Settings; from failover_orch.worker import run_worker; "
        "run_worker(Settings.from_environment())"
    ),
)
SESSION_TIMEOUT_S = 3.0
LAST_LINES = 60


@dataclass(slots=True)
class _Slot:
    """One of them: its process now, a log for each of its lives, and whether it is to run."""

    logs: list[Path] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    wanted: bool = False
    left: list[int] = field(default_factory=list)
    last_words: list[str] = field(default_factory=list)


class Supervised:
    """Processes of one kind by number, from 0. One that leaves by itself is started again, as its supervisor would."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        command: Sequence[str],
        *,
        name: str,
        session_timeout_s: float = SESSION_TIMEOUT_S,
    ) -> None:
        """`name` is what their logs in `directory` are called."""
        self._command = command
        self._directory = directory
        self._name = name
        self._environment = os.environ | {
            "FAILOVER_ORCH_BOOTSTRAP": settings.bootstrap,
            "FAILOVER_ORCH_APP_ID": settings.app_id,
            "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
            "FAILOVER_ORCH_PARTITIONS": str(settings.partitions),
            "FAILOVER_ORCH_SESSION_TIMEOUT": str(session_timeout_s),
            "FAILOVER_ORCH_LOG": "INFO",
        }
        self._slots: list[_Slot] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._tending = threading.Thread(target=self._tend, daemon=True)
        self._tending.start()

    def start(self, number: int | None = None) -> int:
        """Start a new one, or one that was killed or stopped. Returns its number."""
        with self._lock:
            if number is None:
                number = len(self._slots)
                self._slots.append(_Slot())
            self._launch(number)
        return number

    def kill(self, number: int) -> None:
        """SIGKILL one; it stays down until it is started again."""
        self._end(number, signal.SIGKILL)

    def stop(self, number: int) -> int:
        """Ask one to end, and return its exit status."""
        return self._end(number, signal.SIGTERM)

    def pause(self, number: int) -> None:
        """Stop one in its tracks: to Kafka it is gone, and it does not know."""
        self._process(number).send_signal(signal.SIGSTOP)

    def resume(self, number: int) -> None:
        """Let a paused one go on: it takes up where it was, though others have taken over."""
        self._process(number).send_signal(signal.SIGCONT)

    def events(self, number: int) -> list[dict[str, Any]]:
        """What one has logged, all its lives together."""
        return [event for log in self._slots[number].logs for event in _events(log)]

    def said(self, number: int) -> list[dict[str, Any]]:
        """What one has logged in its present life; nothing where it does not run."""
        slot = self._slots[number]
        return _events(slot.logs[-1]) if slot.process is not None and slot.process.poll() is None else []

    @property
    def left(self) -> list[int]:
        """Exit statuses of those that left by themselves."""
        return [status for slot in self._slots for status in slot.left]

    @property
    def last_words(self) -> list[str]:
        """The last line of each log of those that left by themselves."""
        return [words for slot in self._slots for words in slot.last_words]

    def show(self) -> None:
        """Print the last lines of every log: pytest shows them where a test fails."""
        for slot in self._slots:
            for log in slot.logs:
                lines = log.read_text(errors="replace").splitlines()
                say(f"--- {log.name}, {len(lines)} lines", *lines[-LAST_LINES:])

    def close(self) -> None:
        """End every one, and wait until it is gone."""
        self._closing.set()
        self._tending.join()
        for slot in self._slots:
            slot.wanted = False
            if slot.process is not None and slot.process.poll() is None:
                slot.process.kill()
                slot.process.wait()

    def _process(self, number: int) -> subprocess.Popen[bytes]:
        process = self._slots[number].process
        assert process is not None
        return process

    def _end(self, number: int, by: signal.Signals) -> int:
        with self._lock:
            slot = self._slots[number]
            slot.wanted = False
            process = self._process(number)
            with suppress(ProcessLookupError):
                process.send_signal(by)
        return process.wait(timeout=30)

    def _launch(self, number: int) -> None:
        slot = self._slots[number]
        slot.wanted = True
        slot.logs.append(self._directory / f"{self._name}-{number}-{len(slot.logs)}.log")
        with slot.logs[-1].open("wb") as output:
            slot.process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=subprocess.STDOUT, cwd=self._directory
            )

    def _tend(self) -> None:
        while not self._closing.wait(0.1):
            with self._lock:
                for number, slot in enumerate(self._slots):
                    if slot.wanted and slot.process is not None and (status := slot.process.poll()) is not None:
                        slot.left.append(status)
                        lines = slot.logs[-1].read_text(errors="replace").splitlines()
                        slot.last_words.append(f"{slot.logs[-1].name}: {lines[-1] if lines else 'nothing'}")
                        self._launch(number)


class Workers(Supervised):
    """Supervised workers."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        command: Sequence[str] = RUN_WORKER,
        *,
        session_timeout_s: float = SESSION_TIMEOUT_S,
    ) -> None:
        super().__init__(settings, directory, command, name="worker", session_timeout_s=session_timeout_s)

    def reads(self, number: int) -> set[int]:
        """The partitions that a worker reads, by what it said last; none where it does not run."""
        reading = [event["partitions"] for event in self.said(number) if event["event"] == "reading"]
        return set(reading[-1]) if reading else set()

    def said_at_the_end(self) -> list[str]:
        """Why workers ended themselves, in their words."""
        return [
            str(event.get("why", ""))
            for number in range(len(self._slots))
            for event in self.events(number)
            if event["event"].startswith("worker ends itself")
        ]


@contextmanager
def running_workers(
    settings: Settings,
    directory: Path,
    count: int,
    command: Sequence[str] = RUN_WORKER,
    *,
    session_timeout_s: float = SESSION_TIMEOUT_S,
) -> Iterator[Workers]:
    """Workers that run while the block does. Where it fails, their logs are printed."""
    workers = Workers(settings, directory, command, session_timeout_s=session_timeout_s)
    try:
        for _ in range(count):
            workers.start()
        yield workers
    except BaseException:
        workers.show()
        raise
    finally:
        workers.close()


def say(*lines: object) -> None:
    """Write lines to standard output."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


async def until(condition: Callable[[], object], what: str, *, timeout_s: float = 60.0) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it does not within the time.

    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s"
        await asyncio.sleep(0.05)


def _events(log: Path) -> list[dict[str, Any]]:
    """What a log says: `event` and its fields, side by side. A line that is no JSON is an event without fields."""
    events = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            said = json.loads(line)
            events.append({"event": said["event"], **said.get("fields", {})})
        except (ValueError, KeyError, TypeError):
            events.append({"event": line})
    return events
