"""Two services that are asked for routes, while VMs move, and workers and services are killed; and a judge of it all.

Every answer that the client (`benchmarks/lookup_client.py`) had is held against what was told: which node the VM was on
at that epoch, and how long it had been told to be elsewhere when the route was last given. At the end each service is
asked for every VM, and has to say what an oracle read from Kafka.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.domain import AccessRole, Grant, MoveKind, VmMoved
from failover_orch.service.access import mint
from failover_orch.wire import Publisher, now_ms

ROOT = Path(__file__).parents[2]
# The client belongs to the benchmarks, the workers and the oracle to the chaos tests.
sys.path += [folder for folder in (str(ROOT), str(ROOT / "tests" / "streams")) if folder not in sys.path]

from benchmarks.lookup_client import Findings, Task, run_apart, sweep  # noqa: E402 (found by the line above)
from chaos import Oracle  # noqa: E402 (found by the line above)
from workers import Supervised, Workers, running_workers  # noqa: E402 (found by the line above)

__all__ = ["SITES", "Fault", "Installation", "Load", "Outcome", "running"]

SITES = ("primary", "dr")
SITE = "dr"
NODES = 5
SERVICES = ("a", "b")
WORKERS = 2
PORTION = 500
BEGAN_MS = 1_700_000_000_000
LOST_WITHIN_S = 2.0
"""How long after the kill of a service its connections may be lost."""
RECOVERED_WITHIN_S = 30.0
"""How long after a fault routes may be withheld: until the next worker has a killed one's partitions, and caught up."""
OLDEST_S = 10.0
"""How long a VM may be elsewhere when its route is given to somebody who does not know better: the service withholds
what has not been applied for five seconds, and looks once a second."""
SETTLED_WITHIN_S = 120.0
TOKEN_HOLDS_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the whole."""

    vms: int
    rate: float
    seconds: float
    moves_per_second: float
    worker_kills: int = 1
    service_kills: int = 1
    seed: int = 1
    remembers: bool = True

    @property
    def hot(self) -> int:
        """So many VMs have half of the moves and half of the lookups."""
        return max(1, self.vms // 20)


@dataclass(frozen=True, slots=True)
class Fault:
    """What was killed, and when by the monotonic clock in seconds."""

    what: str
    at_s: float


@dataclass(slots=True)
class Told:
    """Where VMs are, by what was told: of each VM its nodes, from epoch 1 on, and when each was told."""

    nodes: dict[str, list[str]] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)

    def next(self, vm_id: str) -> VmMoved:
        """The VM's next move."""
        step = len(self.nodes.setdefault(vm_id, []))
        kind = MoveKind.LIVE if step else MoveKind.PLACED
        node = f"d{step % NODES}"
        self.nodes[vm_id].append(node)
        self.times.setdefault(vm_id, []).append(time.monotonic())
        return VmMoved(vm_id, SITE, node, kind, BEGAN_MS + step * 1_000, sequence=step + 1)

    def routes(self) -> dict[str, tuple[int, str]]:
        """The epoch and node of every VM."""
        return {vm_id: (len(nodes), nodes[-1]) for vm_id, nodes in self.nodes.items()}

    def count(self) -> int:
        return sum(map(len, self.nodes.values()))


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    load: Load
    findings: Findings
    faults: list[Fault]
    moves: int
    wrong: list[str] = field(default_factory=list)
    """Answers that nobody may give; routes at the end that differ from the oracle's."""
    unexpected: list[str] = field(default_factory=list)
    """Answers and losses that no document and no fault explains."""
    oldest_s: float = 0.0
    """The longest that a VM had been told to be elsewhere when a route was given."""
    withheld_s: float = 0.0
    """The longest after a fault that a route was withheld."""
    withheld_for_nothing: int = 0
    """How often one was withheld with no fault before: as documented, but on a machine that is not too busy never."""

    @property
    def sound(self) -> bool:
        return not self.wrong and not self.unexpected

    def __str__(self) -> str:
        found = self.findings
        statuses = ", ".join(f"{count:,} of {status}" for status, count in sorted(found.statuses.items()))
        faults = ", ".join(f"{fault.what} at {fault.at_s - found.began_at_s:.1f} s" for fault in self.faults)
        owed = sum(loss.owed for loss in found.losses)
        lines = (
            f"{found.answers:,} answers in {self.load.seconds:g} s: {found.rate:,.0f}/s of {self.load.rate:,.0f}/s,",
            f"  {min((second.answers for second in found.by_second), default=0):,} in the slowest second;",
            f"  {statuses}; p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms, longest {found.longest_ms:,.0f} ms",
            f"killed: {faults or 'nothing'}; {self.moves:,} moves",
            f"connections lost: {len(found.losses)}, which owed {owed} answers; asked again: {found.again};",
            f"  nobody to ask: {found.nobody}; never answered: {found.unanswered}",
            f"oldest route given: {self.oldest_s:.2f} s; routes withheld until {self.withheld_s:.1f} s after a fault,",
            f"  and {self.withheld_for_nothing} times without one",
            f"{len(self.wrong)} wrong answers, {len(self.unexpected)} unexpected",
        )
        return "\n".join(lines)


class Installation:
    """Workers and services of one installation, and what nodes tell it."""

    def __init__(
        self, settings: Settings, load: Load, workers: Workers, services: Mapping[str, Supervised], ports: Sequence[int]
    ) -> None:
        self.told = Told()
        self._settings = settings
        self._load = load
        self._workers = workers
        self._services = services
        self._ports = dict(zip(services, ports, strict=True))
        self._oracle = Oracle(settings)
        self._chance = random.Random(load.seed)
        self._vm_ids = [f"vm-{number:05d}" for number in range(load.vms)]
        self._token, self._token_record = mint(
            "primaries",
            (Grant(AccessRole.VIEWER),),
            actor="alice",
            reason="a test",
            now_ms=now_ms(),
            lifetime_ms=TOKEN_HOLDS_MS,
        )

    async def fire(self) -> Outcome:
        """Tell where all VMs are; then move them, look them up and strike; at last ask for every one."""
        try:
            async with _publisher(self._settings) as publisher:
                await publisher.publish(self._token_record)
                for first in range(0, len(self._vm_ids), PORTION):
                    await publisher.publish(*map(self.told.next, self._vm_ids[first : first + PORTION]))
                for who, routes in (await self._settled()).items():
                    assert routes == self.told.routes(), f"{who} knows {len(routes)} routes of {len(self._vm_ids)} VMs"
                moving = asyncio.create_task(self._move(publisher))
                try:
                    findings, faults = await asyncio.gather(run_apart(self._task()), self._strike())
                finally:
                    moving.cancel()
                    await asyncio.gather(moving, return_exceptions=True)
            outcome = Outcome(self._load, findings, faults, self.told.count() - len(self._vm_ids))
            _judge(outcome, self.told, await self._settled())
        finally:
            self._oracle.close()
        return outcome

    async def _move(self, publisher: Publisher) -> None:
        """Move on until cancelled. What was begun is finished: what is not told is not to be expected."""
        began = time.monotonic()
        moved = 0
        while True:
            due = int((time.monotonic() - began) * self._load.moves_per_second) - moved
            moved += due
            await asyncio.shield(publisher.publish(*(self.told.next(self._any()) for _ in range(due))))
            await asyncio.sleep(0.05)

    def _any(self) -> str:
        hot = self._chance.random() < 0.5
        return self._vm_ids[self._chance.randrange(self._load.hot if hot else self._load.vms)]

    def _task(self) -> Task:
        load = self._load
        return Task(
            self._ports,
            self._vm_ids,
            load.rate,
            load.seconds,
            hot=load.hot,
            token=self._token,
            remembers=load.remembers,
            seed=load.seed,
        )

    async def _strike(self) -> list[Fault]:
        """Each fault at a moment of its own, and what was killed back some seconds later."""
        chance = random.Random(self._load.seed + 1)
        victims = ["worker"] * self._load.worker_kills + ["service"] * self._load.service_kills
        chance.shuffle(victims)
        began = time.monotonic()
        faults = []
        for number, victim in enumerate(victims):
            due = began + self._load.seconds * (0.05 + 0.8 * (number + chance.random()) / len(victims))
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            killed_at = time.monotonic()
            if victim == "worker":
                which = chance.randrange(WORKERS)
                self._workers.kill(which)
                await asyncio.sleep(chance.random())
                self._workers.start(which)
                name = f"worker {which}"
            else:
                name = chance.choice(SERVICES)
                self._services[name].kill(0)
                await asyncio.sleep(1 + chance.random())
                self._services[name].start(0)
                name = f"service {name}"
            faults.append(Fault(name, killed_at))
        return faults

    async def _settled(self) -> dict[str, dict[str, tuple[int, str]]]:
        """Wait until all that was told is routed, and known to each service; returns what each says of every VM."""
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while self._oracle.count < self.told.count() and time.monotonic() < deadline:
            await asyncio.to_thread(self._oracle.read)
        expected = {vm_id: (epochs[-1], self._oracle.nodes[vm_id][-1]) for vm_id, epochs in self._oracle.epochs.items()}
        said: dict[str, dict[str, tuple[int, str]]] = {"oracle": expected}
        for name, port in self._ports.items():
            said[name] = {}
            while said[name] != expected and time.monotonic() < deadline:
                try:
                    said[name] = await sweep(port, self._task())
                except OSError:  # it has just been started
                    await asyncio.sleep(0.2)
        return said


def _judge(outcome: Outcome, told: Told, said: Mapping[str, Mapping[str, tuple[int, str]]]) -> None:
    found = outcome.findings
    outcome.wrong += [*found.wrong, *_against_told(outcome, told)]
    for who, routes in said.items():
        for vm_id, route in told.routes().items():
            if routes.get(vm_id) != route:
                outcome.wrong.append(f"{vm_id}: {who} says {routes.get(vm_id)} at the end, and told was {route}")
    outcome.unexpected += [*found.undocumented, *_unexplained(outcome)]
    if outcome.oldest_s > OLDEST_S:
        outcome.unexpected.append(f"a route was given {outcome.oldest_s:.1f} s after the VM was told to have left")
    if found.nobody or found.unanswered:
        outcome.unexpected.append(f"{found.nobody} lookups that nobody could be asked, {found.unanswered} unanswered")


def _against_told(outcome: Outcome, told: Told) -> Iterator[str]:
    """Routes that nobody told. Notes how old those were that somebody did."""
    for given in outcome.findings.given:
        nodes = told.nodes[given.vm_id]
        if given.epoch > len(nodes) or nodes[given.epoch - 1] != given.node:
            yield f"{given.vm_id}: never on {given.node} at epoch {given.epoch}"
        elif given.epoch < len(nodes):
            outcome.oldest_s = max(outcome.oldest_s, given.last_at_s - told.times[given.vm_id][given.epoch])


def _unexplained(outcome: Outcome) -> Iterator[str]:
    """Losses without a kill that would explain them. Notes how long faults were felt in what was withheld."""
    found = outcome.findings
    for loss in found.losses:
        kills = [fault.at_s for fault in outcome.faults if fault.what == f"service {loss.service}"]
        if not any(0 <= loss.at_s - at <= LOST_WITHIN_S for at in kills):
            yield f"a connection to service {loss.service} was lost: {loss.why}"
    struck = sorted(fault.at_s for fault in outcome.faults)
    for at_s in found.unavailable_at_s:
        before = bisect_right(struck, at_s)
        since_s = at_s - struck[before - 1] if before else float("inf")
        if since_s > RECOVERED_WITHIN_S:
            outcome.withheld_for_nothing += 1
        else:
            outcome.withheld_s = max(outcome.withheld_s, since_s)


def _publisher(settings: Settings) -> Publisher:
    return Publisher(
        settings.bootstrap, Codec(), names=settings.names, partitions=settings.partitions, source="test/lookups"
    )


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now: a service that is started again has to come back to its own."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running(settings: Settings, directory: Path, load: Load) -> Iterator[Installation]:
    """Workers and services, that run while the block does. Where it fails, their logs are printed."""
    ports = _free_ports(len(SERVICES))
    services: dict[str, Supervised] = {}
    with running_workers(settings, directory, WORKERS) as workers:
        try:
            for name, port in zip(SERVICES, ports, strict=True):
                command = (sys.executable, "-m", "failover_orch", "serve", "--port", str(port))
                services[name] = Supervised(settings, directory, command, name=f"service-{name}")
                services[name].start()
            yield Installation(settings, load, workers, services, ports)
        except BaseException:
            for supervised in services.values():
                supervised.show()
            raise
        finally:
            for supervised in services.values():
                supervised.close()
