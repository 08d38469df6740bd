"""A client that looks routes up at a steady rate, and remembers the epoch that it was last given for each VM.

A process of its own, so that what it costs is not taken from what it measures: it reads a `Task` as JSON from standard
input, and when the task's time is over it writes its `Findings` to standard output, as JSON too.

    python benchmarks/lookup_client.py <<< '{"services": {"a": 8080}, "vm_ids": ["vm-1"], "rate": 5000, "seconds": 60}'

It keeps connections open and asks several VMs at a time on each. Lookups fall due at their rate whatever becomes of the
answers, and the time of one counts from when it was due: an answer that is late makes those behind it late, not rare.
A service that is lost is left alone until its `/readyz` says that it can answer; what it owed is asked of the others.

One lookup of a VM at a time: an answer with a lower epoch than the client knows is then always wrong, never overtaken.
Half the lookups are of the `hot` first VMs. Whenever an epoch is new to the client, it asks another service at once:
the one that is most likely to know less.
"""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import msgspec
import orjson
import uvloop

__all__ = ["Findings", "Given", "Loss", "Second", "Task", "run", "run_apart", "sweep"]

HOST = "127.0.0.1"
TICK_S = 0.004
AT_A_TIME = 4
ANSWER_WITHIN_S = 15.0
AGAIN_S = 0.1
READY_WITHIN_S = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_READINESS = b"GET /readyz HTTP/1.1\r\nHost: lookups\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Task:
    """What to do. `services`: the port of each; `path`: where the id of the VM belongs there are braces."""

    services: Mapping[str, int]
    vm_ids: Sequence[str]
    rate: float
    seconds: float
    path: str = "/v1/vms/{}/route"
    hot: int = 0
    token: str = ""
    remembers: bool = True
    """Whether it sends what it knows, as `Known-Epoch`."""
    connections: int = 8
    """To each service."""
    seed: int = 1


@dataclass(slots=True)
class Given:
    """A route that was given, and when for the first and the last time, by the monotonic clock in seconds."""

    vm_id: str
    epoch: int
    node: str
    first_at_s: float
    last_at_s: float


@dataclass(frozen=True, slots=True)
class Loss:
    """A connection that was lost, with what had been asked on it."""

    service: str
    at_s: float
    owed: int
    why: str


@dataclass(slots=True)
class Second:
    """What was answered in one second, and the longest that one of them took."""

    answers: int = 0
    unavailable: int = 0
    """Of the answers: 503."""
    longest_ms: float = 0.0


@dataclass(slots=True)
class Findings:
    """What the client saw. Times are of the monotonic clock, in seconds."""

    began_at_s: float = 0.0
    ended_at_s: float = 0.0
    asked: int = 0
    """Lookups that fell due and were asked; `nobody`: those that could not be, as no service was ready."""
    nobody: int = 0
    again: int = 0
    """Lookups that were asked of another service, because the first was lost."""
    unanswered: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    longest_ms: float = 0.0
    by_second: list[Second] = field(default_factory=list)
    """From the first to the last in which lookups fell due."""
    unavailable_at_s: list[float] = field(default_factory=list)
    """When a 503 came."""
    wrong: list[str] = field(default_factory=list)
    """Answers older than what the client knew, or that contradict an earlier one: each is one too many."""
    undocumented: list[str] = field(default_factory=list)
    """Answers that a client of this API need not expect."""
    losses: list[Loss] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    processor_s: float = 0.0

    @property
    def answers(self) -> int:
        return sum(self.statuses.values())

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / (self.ended_at_s - self.began_at_s)


@dataclass(slots=True)
class _Lookup:
    vm: int
    due_s: float
    asked_s: float = 0.0


class _Connection(asyncio.Protocol):
    """Requests and their answers in order. `answered` is given what was asked, the status, the header and the body."""

    def __init__(
        self, answered: Callable[[_Lookup, int, bytes, bytes], None], lost: Callable[[_Connection, str], None]
    ) -> None:
        self.owed: deque[_Lookup] = deque()
        self._answered = answered
        self._lost = lost
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by birth

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self, str(exc or "closed"))

    def ask(self, lookups: Sequence[_Lookup], requests: bytes) -> None:
        assert self._transport is not None
        self.owed.extend(lookups)
        self._transport.write(requests)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at = 0
        while (end := buffer.find(b"\r\n\r\n", at)) >= 0:
            header = buffer[at:end]
            length = _LENGTH.search(header)
            end += 4
            behind = end + (int(length[1]) if length else 0)
            if len(buffer) < behind:
                break
            self._answered(self.owed.popleft(), int(header[9:12]), header, buffer[end:behind])
            at = behind
        self._buffer = buffer[at:]


class _Service:
    """One service: its connections, and whether it is to be asked."""

    def __init__(
        self,
        name: str,
        port: int,
        connections: int,
        answered: Callable[[_Lookup, int, bytes, bytes], None],
        lost: Callable[[Loss, Sequence[_Lookup]], None],
    ) -> None:
        self.name = name
        self.ready = False
        self._port = port
        self._count = connections
        self._answered = answered
        self._lost = lost
        self._open: list[_Connection] = []
        self._closed = asyncio.Event()
        self._turn = 0

    async def keep(self) -> None:
        """Stay connected, until cancelled."""
        try:
            while True:
                with suppress(OSError):
                    await self._until_ready()
                    await self._connect()
                    self.ready = True
                    await self._closed.wait()
                self._part()
                await asyncio.sleep(AGAIN_S)
        finally:
            self._closed.set()  # what is closed from here on is not lost
            self._part()

    def ask(self, lookups: Sequence[_Lookup], requests: Sequence[bytes]) -> None:
        """Ask, some at a time on each connection in turn."""
        now = time.monotonic()
        for first in range(0, len(lookups), AT_A_TIME):
            part = lookups[first : first + AT_A_TIME]
            for lookup in part:
                lookup.asked_s = now
            self._turn = (self._turn + 1) % len(self._open)
            self._open[self._turn].ask(part, b"".join(requests[first : first + AT_A_TIME]))

    def check(self) -> None:
        """Give up connections that owe an answer for too long."""
        late = time.monotonic() - ANSWER_WITHIN_S
        for connection in list(self._open):
            if connection.owed and connection.owed[0].asked_s < late:
                connection.close()

    async def _until_ready(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._port)
        try:
            while True:
                writer.write(_READINESS)
                header = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(header)
                await reader.readexactly(int(length[1]) if length else 0)
                if header[9:12] == b"200":
                    return
                await asyncio.sleep(AGAIN_S)
        except EOFError as error:
            raise ConnectionResetError from error
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _connect(self) -> None:
        self._closed.clear()
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            _, connection = await loop.create_connection(
                lambda: _Connection(self._answered, self._gone), HOST, self._port
            )
            self._open.append(connection)

    def _gone(self, connection: _Connection, why: str) -> None:
        """One connection lost is the service lost: what it owes on the others it owes in vain."""
        if not self._closed.is_set() or connection.owed:
            self._lost(Loss(self.name, time.monotonic(), len(connection.owed), why), tuple(connection.owed))
        connection.owed.clear()
        self.ready = False
        self._closed.set()

    def _part(self) -> None:
        self.ready = False
        for connection in self._open:
            connection.close()
        self._open.clear()


class _Client:
    """The whole of it: who is asked what, and what is made of the answers."""

    def __init__(self, task: Task) -> None:
        self.findings = Findings()
        self._task = task
        self._services = [
            _Service(name, port, task.connections, self._answered, self._lost) for name, port in task.services.items()
        ]
        self._known = [0] * len(task.vm_ids)
        self._busy = bytearray(len(task.vm_ids))
        self._heads = [request_head(task.path.format(vm_id), task.token) for vm_id in task.vm_ids]
        self._given: list[list[Given]] = [[] for _ in task.vm_ids]
        self._chance = random.Random(task.seed)
        self._echoes: deque[tuple[int, str]] = deque()
        self._asked_of: dict[int, str] = {}
        self._due: deque[float] = deque()
        """When those were due that could not be asked yet: every VM was being asked for."""
        self._again: list[_Lookup] = []
        self._took: list[float] = []
        self._seconds = [Second() for _ in range(int(task.seconds) + 1)]

    async def run(self) -> Findings:
        keeping = [asyncio.create_task(service.keep()) for service in self._services]
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                while not all(service.ready for service in self._services):  # noqa: ASYNC110 (so many conditions)
                    await asyncio.sleep(AGAIN_S)
            await self._ask_on()
            await self._last_answers()
        finally:
            for each in keeping:
                each.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
        return self._summed_up()

    async def _ask_on(self) -> None:
        began = self.findings.began_at_s = time.monotonic()
        due = 0
        checked = began
        while (now := time.monotonic()) < began + self._task.seconds:
            by_now = int((now - began) * self._task.rate)
            self._ask([began + number / self._task.rate for number in range(due, by_now)])
            due = by_now
            if now - checked > 1:
                checked = now
                for service in self._services:
                    service.check()
            await asyncio.sleep(TICK_S)
        self.findings.ended_at_s = time.monotonic()

    async def _last_answers(self) -> None:
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while any(self._busy) and time.monotonic() < deadline:
            self._ask([])
            await asyncio.sleep(TICK_S)
        self.findings.unanswered = sum(self._busy)

    def _ask(self, due: Sequence[float]) -> None:
        ready = [service for service in self._services if service.ready]
        if not ready:
            self.findings.nobody += len(due)
            return
        batches: dict[str, list[_Lookup]] = {service.name: [] for service in ready}
        names = list(batches)
        for lookup in self._again:
            batches[self._chance.choice(names)].append(lookup)
        self.findings.again += len(self._again)
        self._again.clear()
        self._due.extend(due)
        while self._due and 0 in self._busy:
            vm, name = self._next(names)
            batches[name].append(_Lookup(vm, self._due.popleft()))
            self._busy[vm] = 1
            self.findings.asked += 1
        for service in ready:
            batch = batches[service.name]
            for lookup in batch:
                self._asked_of[lookup.vm] = service.name
            service.ask(batch, [self._request(lookup.vm) for lookup in batch])

    def _next(self, names: Sequence[str]) -> tuple[int, str]:
        """Which VM to ask next, and of which service: some VM is free."""
        while self._echoes:
            vm, told_by = self._echoes.popleft()
            if not self._busy[vm]:
                return vm, self._chance.choice([name for name in names if name != told_by] or names)
        count = len(self._busy)
        for span in (self._task.hot, count) if self._chance.random() < 0.5 else (count,):
            for _ in range(3 if span < count else 100):
                vm = self._chance.randrange(span or count)
                if not self._busy[vm]:
                    return vm, self._chance.choice(names)
        return self._busy.index(0), self._chance.choice(names)

    def _request(self, vm: int) -> bytes:
        if self._task.remembers and self._known[vm]:
            return b"%bKnown-Epoch: %d\r\n\r\n" % (self._heads[vm], self._known[vm])
        return self._heads[vm] + b"\r\n"

    def _answered(self, lookup: _Lookup, status: int, header: bytes, body: bytes) -> None:
        now = time.monotonic()
        vm = lookup.vm
        self._busy[vm] = 0
        self.findings.statuses[status] = self.findings.statuses.get(status, 0) + 1
        took_s = now - lookup.due_s
        self._took.append(took_s)
        # What is answered behind the end counts for the last.
        second = self._seconds[min(int(now - self.findings.began_at_s), len(self._seconds) - 1)]
        second.answers += 1
        second.unavailable += status == 503
        second.longest_ms = max(second.longest_ms, took_s * 1000)
        if status == 200:
            self._take(vm, now, orjson.loads(body))
        elif status == 503 and b"\r\nretry-after: " in header.lower() and b"problem+json" in header:
            self.findings.unavailable_at_s.append(now)
        else:
            self.findings.undocumented.append(f"{status} for {self._task.vm_ids[vm]}: {body.decode(errors='replace')}")

    def _take(self, vm: int, now: float, route: Mapping[str, object]) -> None:
        vm_id, epoch, node = route["vm_id"], route["epoch"], route["node"]
        assert isinstance(epoch, int)
        assert isinstance(node, str)
        given = self._given[vm]
        asked = self._task.vm_ids[vm]
        if vm_id != asked:
            self.findings.wrong.append(f"{asked} was asked for, and {vm_id} given")
        elif epoch < self._known[vm]:
            self.findings.wrong.append(
                f"{asked}: epoch {epoch} from {self._asked_of[vm]}, when {self._known[vm]} was known"
            )
        elif epoch > self._known[vm]:
            self._known[vm] = epoch
            given.append(Given(asked, epoch, node, now, now))
            self._echoes.append((vm, self._asked_of[vm]))
        elif given[-1].node != node:
            self.findings.wrong.append(f"{asked}: epoch {epoch} is on {given[-1].node}, and on {node}")
        else:
            given[-1].last_at_s = now

    def _lost(self, loss: Loss, owed: Sequence[_Lookup]) -> None:
        self.findings.losses.append(loss)
        self._again.extend(owed)

    def _summed_up(self) -> Findings:
        findings = self.findings
        findings.by_second = self._seconds[:-1]
        cuts = [taken * 1000 for taken in statistics.quantiles(self._took, n=100)]
        findings.p50_ms, findings.p99_ms = cuts[49], cuts[98]
        findings.longest_ms = max(self._took) * 1000
        findings.given = [each for given in self._given for each in given]
        findings.processor_s = time.process_time()
        return findings


def request_head(path: str, token: str) -> bytes:
    """The beginning of a request, up to where more headers may stand."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    return f"GET {path} HTTP/1.1\r\nHost: lookups\r\n{authorization}".encode()


async def sweep(port: int, task: Task) -> dict[str, tuple[int, str]]:
    """What one service says of every VM of a task: epoch and node; the status and nothing where it gives no route."""
    reader, writer = await asyncio.open_connection(HOST, port)
    said = {}
    try:
        for first in range(0, len(task.vm_ids), AT_A_TIME):
            part = task.vm_ids[first : first + AT_A_TIME]
            writer.write(b"".join(request_head(task.path.format(vm_id), task.token) + b"\r\n" for vm_id in part))
            for vm_id in part:
                header = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(header)
                body = await reader.readexactly(int(length[1]) if length else 0)
                if header[9:12] == b"200":
                    route = orjson.loads(body)
                    said[vm_id] = (int(route["epoch"]), str(route["node"]))
                else:
                    said[vm_id] = (int(header[9:12]), "")
    finally:
        writer.close()
        await writer.wait_closed()
    return said


async def run(task: Task) -> Findings:
    """Carry a task out, in this process."""
    return await _Client(task).run()


async def run_apart(task: Task) -> Findings:
    """Carry a task out in a process of its own.

    Raises:
        RuntimeError: it did not come to its end.

    """
    with tempfile.TemporaryFile() as output:
        client = await asyncio.create_subprocess_exec(
            sys.executable, __file__, stdin=asyncio.subprocess.PIPE, stdout=output
        )
        try:
            await client.communicate(msgspec.json.encode(task))
        finally:
            if client.returncode is None:
                client.kill()
        if client.returncode:
            raise RuntimeError(f"the client ended with status {client.returncode}")
        output.seek(0)
        return msgspec.json.decode(output.read(), type=Findings)


def main() -> None:
    """Carry the task on standard input out."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        findings = runner.run(run(task))
    sys.stdout.buffer.write(msgspec.json.encode(findings))


if __name__ == "__main__":
    main()
