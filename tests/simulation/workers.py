"""Simulated worker processes around the real folding: assignment, fencing, restoring, crashes, hanging, being late.

A worker is to its partitions what `streams.partition` is on a real Kafka: it opens the transactional id, restores the
changelog, reads from where that says, folds, and commits. Between folding and committing anything may happen to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from failover_orch.contract import SOURCES, TOPICS, Codec, Names, step_commands_topic
from failover_orch.streams.folding import Folding, Intake, Outgoing, Transaction
from failover_orch.streams.store import Store
from simulation.log import Fenced, Log, Record
from simulation.loop import Loop

__all__ = ["CHANGELOG", "Worker", "Workers"]

CHANGELOG = "sim-state"
SESSION_MS = 6_000
"""How long a worker may be silent before its partitions go to another."""
RESTART_MS = 2_000
_NAMES = Names()
_HELD_UP_MS = 10_000
"""How long a transaction waits for a Kafka that is away before the process ends."""


@dataclass(slots=True)
class Task:
    """A partition in the hands of one worker."""

    partition: int
    epoch: int
    folding: Folding
    positions: dict[str, int]
    """What is read next of each source topic."""
    pending: Transaction | None = None


@dataclass(slots=True)
class Worker:
    """A process. `life` counts its restarts: whatever was put off by an earlier one is void."""

    number: int
    skew_ms: int
    alive: bool = True
    paused: bool = False
    life: int = 0
    tasks: dict[int, Task] = field(default_factory=dict)
    dies_after_commit: bool = False


class Workers:
    """All workers of an installation. `told` is handed what each transaction wrote, `say` a line for the narrative."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        codec: Codec,
        random: Random,
        *,
        skews_ms: Iterable[int],
        sites: Iterable[str],
        told: Callable[[int, list[tuple[Outgoing, int, Record]], Folding], None],
        say: Callable[[str], None],
    ) -> None:
        self.workers = [Worker(number, skew) for number, skew in enumerate(skews_ms)]
        self.kafka_away = False
        self.bugs: list[BaseException] = []
        self._loop = loop
        self._log = log
        self._codec = codec
        self._random = random
        self._told = told
        self._say = say
        self._topics = frozenset(
            [topic.name for topic in TOPICS] + [CHANGELOG] + [step_commands_topic(site) for site in sites]
        )
        self._members = {worker.number for worker in self.workers}
        self._owners: dict[int, int] = {}
        self._wakes: dict[int, int] = {}
        self._again: dict[int, int] = {}

    def start(self) -> None:
        self._assign()

    def state(self, partition: int) -> Folding:
        """The folding of a partition's present owner, or what another would restore."""
        owner = self.workers[self._owners[partition]]
        if owner.alive and partition in owner.tasks and not owner.paused:
            return owner.tasks[partition].folding
        return self._restored(partition, lambda: self._loop.now_ms)

    # What happens to them

    def crash(self, number: int, back_after_ms: int) -> None:
        """A worker is gone at once; what it had in hand is lost. It comes back after a while."""
        worker = self.workers[number]
        if not worker.alive:
            return
        self._say(f"worker {number} crashes")
        worker.alive = worker.paused = worker.dies_after_commit = False
        worker.life += 1
        worker.tasks.clear()
        self._loop.after(SESSION_MS, self._expire, number, worker.life)
        self._loop.after(back_after_ms, self._restart, number, worker.life)

    def crash_after_commit(self, number: int) -> None:
        """A worker is gone right after its next commit, before it knows of it."""
        self.workers[number].dies_after_commit = True

    def pause(self, number: int, lasts_ms: int) -> None:
        """A worker hangs, and goes on later as if nothing had happened."""
        worker = self.workers[number]
        if not worker.alive or worker.paused:
            return
        self._say(f"worker {number} hangs")
        worker.paused = True
        self._loop.after(SESSION_MS, self._expire, number, worker.life)
        self._loop.after(lasts_ms, self._resume, number, worker.life)

    def move(self, partition: int) -> None:
        """A partition goes to the next worker, whatever its present owner has in hand."""
        partition %= self._log.partitions
        members = sorted(self._members)
        present = self._owners.get(partition)
        others = [number for number in members if number != present]
        if not others:
            return
        self._say(f"partition {partition} goes to worker {others[0]}")
        if present is not None and not self.workers[present].paused:
            task = self.workers[present].tasks.get(partition)
            if task is not None and task.pending is None:
                del self.workers[present].tasks[partition]
        self._open(others[0], partition)

    def read_again(self, partition: int, records: int) -> None:
        """The next read of a partition begins so many records before where it stands."""
        self._again[partition % self._log.partitions] = records

    def wake(self, partition: int, time_ms: int) -> None:
        """There is something for a partition at this time."""
        known = self._wakes.get(partition)
        if known is None or time_ms < known:
            self._wakes[partition] = time_ms
            self._loop.at(time_ms, self._woken, partition, time_ms)

    # Membership

    def _expire(self, number: int, life: int) -> None:
        worker = self.workers[number]
        if worker.life == life and (worker.paused or not worker.alive):
            self._members.discard(number)
            self._assign()

    def _restart(self, number: int, life: int) -> None:
        worker = self.workers[number]
        if worker.alive or worker.life != life:
            return
        worker.alive = True
        worker.life += 1
        self._say(f"worker {number} is back")
        self._members.discard(number)
        for partition, owner in list(self._owners.items()):
            if owner == number:
                del self._owners[partition]
        self._members.add(number)
        self._assign()

    def _resume(self, number: int, life: int) -> None:
        worker = self.workers[number]
        if worker.life != life or not worker.paused:
            return
        worker.paused = False
        self._say(f"worker {number} goes on")
        # It does not know yet that time has gone by, and takes its partitions for its own.
        for task in list(worker.tasks.values()):
            if task.pending is not None:
                self._commit(worker, task, worker.life)
            else:
                self._turn(worker, task)
        if not worker.alive:
            return
        for partition in [p for p in worker.tasks if self._owners.get(p) != number]:
            if worker.tasks[partition].pending is None:
                del worker.tasks[partition]
        self._members.add(number)
        self._assign()

    def _assign(self) -> None:
        """Give partitions that nobody has to the members with the fewest; a worker without any gets one."""
        members = sorted(self._members)
        if not members:
            return
        for partition in range(self._log.partitions):
            if self._owners.get(partition) not in self._members:
                held = list(self._owners.values())
                self._open(min(members, key=lambda number: (held.count(number), number)), partition)

    def _open(self, number: int, partition: int) -> None:
        worker = self.workers[number]
        self._owners[partition] = number
        life = worker.life

        def now_ms() -> int:
            return self._loop.now_ms + worker.skew_ms

        epoch = self._log.open(partition)
        folding = self._restored(partition, now_ms)
        positions = {topic: folding.store.applied.get(topic, -1) + 1 for topic in SOURCES}
        worker.tasks[partition] = Task(partition, epoch, folding, positions)
        self._loop.after(1, self._turn_of, number, partition, life)

    def _restored(self, partition: int, now_ms: Callable[[], int]) -> Folding:
        folding = Folding(partition, self._codec, source="sim", changelog=CHANGELOG, names=_NAMES, now_ms=now_ms)
        folding.topics = self._topics
        store: Store = folding.store
        for key, value in self._log.changelogs[partition].items():
            if value is not None:
                store.load(CHANGELOG, partition, key, value)
        folding.begin(self._log.partitions)
        return folding

    # Reading, folding, committing

    def _woken(self, partition: int, time_ms: int) -> None:
        if self._wakes.get(partition) == time_ms:
            del self._wakes[partition]
        for worker in self.workers:
            task = worker.tasks.get(partition)
            if task is not None:
                self._turn(worker, task)

    def _turn_of(self, number: int, partition: int, life: int) -> None:
        worker = self.workers[number]
        task = worker.tasks.get(partition)
        if worker.life == life and task is not None:
            self._turn(worker, task)

    def _turn(self, worker: Worker, task: Task) -> None:
        if not worker.alive or worker.paused or task.pending is not None or self.kafka_away:
            return
        partition = task.partition
        intakes, next_ms = self._read(task)
        now_ms = self._loop.now_ms + worker.skew_ms
        seconds = task.folding.timers.seconds_left(now_ms)
        if not intakes and (seconds is None or seconds > 0):
            times = [next_ms] if next_ms is not None else []
            if seconds is not None:
                times.append(self._loop.now_ms + int(seconds * 1000) + 1)
            if times:
                self.wake(partition, min(times))
            return
        try:
            transaction = task.folding.fold(intakes)
        except Exception as error:  # noqa: BLE001 (a bug beyond parking: the process ends, and the seed fails)
            self.bugs.append(error)
            self.crash(worker.number, RESTART_MS)
            return
        task.positions.update((intake.topic, intake.end) for intake in intakes)
        if not transaction.records:
            self._loop.after(1, self._turn_of, worker.number, partition, worker.life)
            return
        task.pending = transaction
        self._loop.after(self._random.randint(1, 12), self._commit, worker, task, worker.life)

    def _read(self, task: Task) -> tuple[list[Intake], int | None]:
        """What is visible and not read yet, and when the next record becomes visible."""
        intakes = []
        next_ms: int | None = None
        now_ms = self._loop.now_ms
        back = self._again.pop(task.partition, 0)
        for topic in SOURCES:
            records = self._log.read(topic, task.partition)
            position = task.positions[topic]
            if back and position:
                position = max(0, position - back)
            end = position
            while end < len(records) and records[end].visible_ms <= now_ms:
                end += 1
            if end > position:
                intakes.append(Intake(topic, end, records[position:end]))
            elif end < len(records) and (next_ms is None or records[end].visible_ms < next_ms):
                next_ms = records[end].visible_ms
        return intakes, next_ms

    def _commit(self, worker: Worker, task: Task, life: int) -> None:
        if worker.life != life or not worker.alive or worker.paused or task.pending is None:
            return
        if self.kafka_away:
            self._loop.after(_HELD_UP_MS, self._commit_late, worker, task, life)
            return
        transaction = task.pending
        try:
            written = self._log.commit(task.partition, task.epoch, CHANGELOG, transaction.records, self._loop.now_ms)
        except Fenced:
            self._say(f"worker {worker.number} is fenced out of partition {task.partition}")
            self.crash(worker.number, RESTART_MS)
            return
        task.pending = None
        self._told(task.partition, written, task.folding)
        if worker.dies_after_commit:
            self.crash(worker.number, RESTART_MS)
            return
        task.folding.committed(transaction)
        self._turn(worker, task)

    def _commit_late(self, worker: Worker, task: Task, life: int) -> None:
        if self.kafka_away and worker.life == life and worker.alive:
            self.crash(worker.number, RESTART_MS)
        else:
            self._commit(worker, task, life)
