"""The whole broker in miniature, under virtual time: partition tasks, site agents, and what lies between them.

Everything that the rules do not decide is modelled here: partitions that apply decisions as a partition task does, a
queue of facts, agents that carry out commands and go wrong as they are told to, and the hypervisors behind them
(`machine`). `check` says what has to hold of every world that has come to rest.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count
from typing import TypeVar

from machine import Machine, Places

from failover_orch.contract import everywhere, key_of
from failover_orch.domain.broker import decide, due_ms, park, tick
from failover_orch.domain.chain import ChainHead, link, verify
from failover_orch.domain.draft import Decision, Fact, Moment, Output, State
from failover_orch.domain.facts import (
    FailoverKind,
    FailoverRequested,
    MoveKind,
    ReplicationReport,
    RequestAction,
    StepOutcome,
    StepResult,
    VmMoved,
)
from failover_orch.domain.inventory import (
    Adapter,
    AdapterKind,
    ClusterInventory,
    Guest,
    IntegrationServices,
    Node,
    NodeState,
    Replication,
    VmInventory,
)
from failover_orch.domain.policies import AutomaticRun, Brake
from failover_orch.domain.records import (
    Action,
    AuditEntry,
    JournalEntry,
    MemberReadiness,
    PlanMembership,
    Role,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    StepCommand,
    StepState,
)
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses, VmReplicationSettings
from failover_orch.domain.state import PlanReadiness, PlanRun, Run, VmState
from failover_orch.domain.workflows import WORKFLOWS
from failover_orch.errors import StaleEpoch, StepFailed, StepRefused
from failover_orch.streams.store import _DECODERS, dump

PRIMARY, REPLICA = "primary", "dr"
START_MS = 1_000_000
ANSWER_MS = 10
SLOW_MS = 25
COPY_MS = 5
REST_MS = 24 * 3_600_000
"""A world is at rest when nothing is due for so long: ended runs are forgotten, and drills grow old, later still."""
TEST_NETWORK = "isolated"
TARGET = AdapterAddresses("nic-0", FamilyAddresses(addresses=("10.20.0.11/24",), gateways=("10.20.0.1",)))
HOME = AdapterAddresses("nic-0", FamilyAddresses(addresses=("10.10.0.11/24",)))
TESTED = AdapterAddresses("nic-0", FamilyAddresses(addresses=("10.99.0.11/24",)))
CLUSTERS = (
    ClusterInventory("pc", PRIMARY, "PRI-BROKER", (Node("p1", NodeState.UP, 1, 1), Node("p2", NodeState.UP, 1, 1))),
    ClusterInventory("dc", REPLICA, "DR-BROKER", (Node("d1", NodeState.UP, 1, 1), Node("d2", NodeState.UP, 1, 1))),
)
NOT_BEGUN = "its deadline was over before it began"
_COMES_BACK = (FailoverRequested, StepResult, PlanMembership, MemberReadiness, AutomaticRun, Brake)
"""Outputs that are facts again."""
_ONLY_ONCE = (Action.RUN_SCRIPT, Action.CALL_HTTP)
_ADDRESSED = (FailoverKind.PLANNED, FailoverKind.UNPLANNED, FailoverKind.TEST, FailoverKind.FAILBACK)
_VERIFY = (Action.VERIFY_ADDRESSES, Action.VERIFY_TEST, Action.CONNECT_ADAPTERS)


class Behaviour(StrEnum):
    """What an agent makes of one command.

    LATE and LOST: it is done, and the answer comes late or never. SLOW: it is begun only after a while, when a cancel
    or a failure may have overtaken it. UNCERTAIN: it was begun, and the agent died meanwhile; told as such.
    """

    DO = "do"
    TWICE = "answer twice"
    LATE = "answer late"
    LOST = "do, never answer"
    SLOW = "do after a while"
    SILENT = "do nothing, never answer"
    FAIL = "fail"
    REFUSE = "refuse"
    STALE = "stale"
    UNCERTAIN = "begin, and lose track of it"


_T = TypeVar("_T")
Behaviours = Mapping[str, Sequence[Behaviour]]
"""By step (`P4`, `P4-undo`, `db/before/stop`): what becomes of its attempts, in order; of those not named, DO."""


@dataclass(slots=True)
class Partition:
    """A partition task: state in memory, and the changelog that it would be restored from."""

    number: int
    state: dict[str, State] = field(default_factory=dict)
    changelog: dict[str, bytes] = field(default_factory=dict)
    opened_at_ms: int = 0

    def take(self, decision: Decision) -> None:
        self.state.update(decision.noted)
        for key, value in decision.kept.items():
            if value is None:
                self.state.pop(key, None)
                self.changelog.pop(key, None)
            else:
                self.state[key] = value
                self.changelog[key] = dump(value)

    def crash(self, now_ms: int) -> None:
        """Lose the memory, and restore it as the next owner does."""
        self.state = {
            key: _DECODERS[key.partition("/")[0]].decode(value) for key, value in sorted(self.changelog.items())
        }
        self.opened_at_ms = now_ms


class World:
    """Partitions, agents and a clock. `doubled`, `swapped`, `crashing`: what befalls every fact on its way."""

    def __init__(
        self,
        vms: Iterable[str] = ("vm-1",),
        behaviours: Mapping[str, Behaviours] | None = None,
        *,
        primary_alive: bool = True,
        partitions: int = 1,
        doubled: bool = False,
        swapped: bool = False,
        crashing: bool = False,
        start_ms: int = START_MS,
    ) -> None:
        self.now_ms = start_ms
        self.partitions = [Partition(number) for number in range(partitions)]
        self.places = Places(clusters=CLUSTERS)
        self.machines: dict[str, Machine] = {}
        self.outputs: list[Output] = []
        self.scripts: list[StepCommand] = []
        """Every script and HTTP call that was carried out."""
        self._behaviours = behaviours or {}
        self._deliveries: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
        self._answered: dict[tuple[str, str, int], StepOutcome] = {}
        self._queue: deque[Fact] = deque()
        self._later: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()
        self._reported: dict[str, int] = {}
        self._doubled, self._swapped, self._crashing = doubled, False, crashing
        self._without_owner = False
        self._set_up(vms, primary_alive=primary_alive)
        self.run(until_ms=start_ms)
        self._swapped = swapped

    def _set_up(self, vms: Iterable[str], *, primary_alive: bool) -> None:
        for vm in vms:
            told = inventory(vm)
            nodes = {PRIMARY: "p1", REPLICA: "d1"}
            self.machines[vm] = Machine(told, nodes, self.places, self.now_ms, alive=primary_alive)
            self.send(told)
            self.send(VmMoved(vm, PRIMARY, "p1", MoveKind.PLACED, 1, cluster="pc", sequence=1))
            self.send(VmMoved(vm, REPLICA, "d1", MoveKind.PLACED, 2, cluster="dc", sequence=1))
            self.send(addresses_of(vm))
        for cluster in CLUSTERS:
            self.send(cluster)

    def send(self, fact: Fact, after_ms: int | None = None) -> None:
        """Put a fact on its way: now, or in so many milliseconds."""
        if after_ms is not None:
            self.later(after_ms, lambda: self.send(fact))
            return
        self._queue.append(fact)
        if self._doubled:
            self._queue.append(fact)
        if self._swapped and len(self._queue) > 1 and _unordered(self._queue[-1], self._queue[-2]):
            self._queue[-1], self._queue[-2] = self._queue[-2], self._queue[-1]

    def behave(self, behaviours: Mapping[str, Behaviours]) -> None:
        """How agents take commands from now on; what came before does not count as an attempt."""
        self._behaviours = behaviours
        self._deliveries.clear()

    def bug(self, key: str, error: str) -> None:
        """The rules end in an unexpected error as they look at the value under a key."""
        home = next(partition for partition in self.partitions if key in partition.state)
        self._apply(home, park(home.state, key, error, self._moment(home)))

    def later(self, after_ms: int, what: Callable[[], None]) -> None:
        """Have something happen in so many milliseconds."""
        heapq.heappush(self._later, (self.now_ms + after_ms, next(self._numbers), what))

    def run(self, until_ms: int = 0, limit: int = 100_000) -> None:
        """Let everything happen until the time given, or else until nothing is left to wait for."""
        for _ in range(limit):
            if self._queue and not self._without_owner:
                self._deliver(self._queue.popleft())
            elif not self._advance(until_ms):
                return
        raise AssertionError("the world does not come to rest")

    def lose_worker(self) -> None:
        """Nobody owns the partitions any longer: what comes in waits, and so does what is due."""
        self._without_owner = True

    def take_over(self) -> None:
        """A new worker restores the partitions, and goes on."""
        self._without_owner = False
        for partition in self.partitions:
            partition.crash(self.now_ms)

    def value(self, key: str) -> State | None:
        return next((p.state[key] for p in self.partitions if key in p.state), None)

    def vm(self, vm_id: str = "vm-1") -> VmState:
        value = self.value(f"vm/{vm_id}")
        assert isinstance(value, VmState)
        return value

    def told(self, kind: type[_T]) -> list[_T]:
        """The outputs of a kind, in order."""
        return [each for each in self.outputs if isinstance(each, kind)]

    def rules(self, run_id: str = "r") -> list[str]:
        """The numbers of the rules in a run's journal, in order."""
        return [entry.rule for entry in self.told(JournalEntry) if entry.run_id == run_id]

    def ended(self, run_id: str = "r") -> RunSnapshot:
        """The one terminal snapshot of a run."""
        (terminal,) = [each for each in self.told(RunSnapshot) if each.run_id == run_id and each.state.ended]
        return terminal

    def latest(self, run_id: str = "r") -> RunSnapshot:
        """The last snapshot of a run."""
        return [each for each in self.told(RunSnapshot) if each.run_id == run_id][-1]

    def final(self) -> dict[str, object]:
        """The state in the end, but for what is not meant to be the same after a crash or in another order.

        That is: the heads of the chains; in which order nodes and ends spoke; when something was last reported that was
        known already; the health, which leaves out an end that is retired at the moment of its report; and what the
        inventory last said, where both sites tell of the VM in the middle of its run.
        """
        values: dict[str, object] = {}
        for partition in self.partitions:
            for key, value in partition.state.items():
                if isinstance(value, VmState):
                    ends = (
                        replace(end, reported_at_ms=0, received_at_ms=0, last_replication_at_ms=0) for end in value.ends
                    )
                    values[key] = replace(
                        value,
                        inventory=None,
                        presences=tuple(sorted(value.presences, key=lambda p: (p.site, p.node))),
                        ends=tuple(sorted(ends, key=lambda end: end.site)),
                        health=ReplicationHealth.NOT_APPLICABLE,
                    )
                elif isinstance(value, PlanReadiness):
                    told = tuple((vm, state, defects, 0) for vm, state, defects, _ in sorted(value.members))
                    values[key] = replace(value, members=told)
                elif isinstance(value, PlanRun):
                    members = tuple(sorted(value.members, key=lambda each: each.vm_id))
                    # Of tasks that fail side by side, either may be the one that is heard of first.
                    values[key] = replace(value, members=members, halted_by="a task" if value.halted_by else "")
                elif not isinstance(value, ChainHead):
                    values[key] = value
        return values

    def partition_of(self, key: bytes) -> Partition:
        return self.partitions[sum(key) % len(self.partitions)]

    def _deliver(self, fact: Fact) -> None:
        homes = self.partitions if everywhere(fact) else [self.partition_of(key_of(fact))]
        for home in homes:
            self._apply(home, decide(home.state, fact, self._moment(home)))

    def _moment(self, partition: Partition) -> Moment:
        return Moment(self.now_ms, partition.number, opened_at_ms=partition.opened_at_ms)

    def _apply(self, partition: Partition, decision: Decision) -> None:
        partition.take(decision)
        if self._crashing:
            partition.crash(self.now_ms)
        self.outputs += decision.outputs
        for output in decision.outputs:
            if isinstance(output, _COMES_BACK):
                self.send(output)
            elif isinstance(output, StepCommand):
                for _ in range(2 if self._doubled else 1):
                    self._perform(output)

    def _advance(self, until_ms: int) -> bool:
        """Let time go on to the next thing that happens: what was put off, or a timer."""
        timers = self._timers()
        times = [each[0] for each in self._later[:1]] + [each[0] for each in timers]
        next_ms = min(times, default=0)
        if not times or (next_ms > until_ms if until_ms else next_ms > self.now_ms + REST_MS):
            self.now_ms = max(self.now_ms, until_ms)
            return False
        self.now_ms = max(self.now_ms, next_ms)
        if self._later and self._later[0][0] <= self.now_ms:
            while self._later and self._later[0][0] <= self.now_ms:
                heapq.heappop(self._later)[2]()
            return True
        for _, number, key in sorted(each for each in timers if each[0] <= self.now_ms):
            partition = self.partitions[number]
            for _ in range(2 if self._doubled else 1):
                self._apply(partition, tick(partition.state, key, self._moment(partition)))
        return True

    def _timers(self) -> list[tuple[int, int, str]]:
        if self._without_owner:
            return []
        return [
            (due, partition.number, key)
            for partition in self.partitions
            for key, value in partition.state.items()
            if (due := due_ms(value))
        ]

    def behaviour_of(self, command: StepCommand) -> Behaviour:
        """How the agent is told to take this command.

        A command that comes twice is answered twice alike; only another attempt is another behaviour. Attempts of a
        step are counted here as they come: the numbers that they bear go on where a run turns round.
        """
        script = self._behaviours.get(command.vm_id, {}).get(command.step, ())
        seen = self._deliveries[command.vm_id, command.step]
        attempt = (command.run_id, command.attempt)
        if attempt not in seen:
            seen.append(attempt)
        place = seen.index(attempt)
        return script[place] if place < len(script) else Behaviour.DO

    def _perform(self, command: StepCommand) -> None:
        """A site agent takes a command, and answers as it is told to."""
        behaviour = self.behaviour_of(command)
        if behaviour is Behaviour.SLOW:
            self.later(SLOW_MS, lambda: self._carry_out(command, Behaviour.DO))
        elif behaviour is not Behaviour.SILENT:
            self._carry_out(command, behaviour)

    def _carry_out(self, command: StepCommand, behaviour: Behaviour) -> None:
        if self.now_ms >= command.deadline_ms:
            self._answer(command, StepOutcome.FAILED, NOT_BEGUN)
            return
        told = {
            Behaviour.STALE: StepOutcome.STALE,
            Behaviour.FAIL: StepOutcome.FAILED,
            Behaviour.REFUSE: StepOutcome.REFUSED,
        }.get(behaviour)
        if told is not None:
            self._answer(command, told, self._says(command, behaviour), after_ms=self._duration_ms(command))
            return
        outcome, detail, found = self._outcome(command)
        if behaviour is Behaviour.LOST:
            return
        if behaviour is Behaviour.UNCERTAIN:
            outcome, detail, found = StepOutcome.UNCERTAIN, self._says(command, behaviour), {}
        elif outcome is StepOutcome.DONE:
            detail = self._says(command, behaviour)
        after = self._duration_ms(command)
        if behaviour is Behaviour.LATE:
            after = command.deadline_ms - self.now_ms + 3 * ANSWER_MS
        for again in range(2 if behaviour is Behaviour.TWICE else 1):
            self._answer(command, outcome, detail, found, after_ms=after + 5 * again)

    def _outcome(self, command: StepCommand) -> tuple[StepOutcome, str, Mapping[str, str]]:
        """What really becomes of a command that is carried out."""
        if command.action in _ONLY_ONCE:
            attempt = (command.run_id, command.step, command.attempt)
            if attempt not in self._answered:
                self._answered[attempt] = StepOutcome.DONE
                self.scripts.append(command)
            return StepOutcome.DONE, "", {}
        machine = self.machines[command.vm_id]
        try:
            found = machine.perform(command, self.now_ms)
        except StaleEpoch as error:
            return StepOutcome.STALE, str(error), {}
        except StepRefused as error:
            return StepOutcome.REFUSED, str(error), machine.observe(command.site)
        except StepFailed as error:
            return StepOutcome.FAILED, str(error), machine.observe(command.site)
        if command.action is Action.RESYNCHRONIZE:
            self.later(COPY_MS, lambda: self._copy(machine))
        self._tell_inventory(machine)
        return StepOutcome.DONE, "", found

    def _copy(self, machine: Machine) -> None:
        """The disks are copied: of all replication cycles the one that makes a difference here."""
        if machine.replicate(self.now_ms):
            self._tell_inventory(machine)

    def _duration_ms(self, command: StepCommand) -> int:
        """How long an action takes."""
        return ANSWER_MS

    def _says(self, command: StepCommand, behaviour: Behaviour) -> str:
        """What an answer says that the hypervisors have no words for."""
        if behaviour in (Behaviour.FAIL, Behaviour.REFUSE, Behaviour.STALE):
            return f"told to {behaviour}"
        return "begun, and nobody knows how it ended" if behaviour is Behaviour.UNCERTAIN else "so it is"

    def _tell_inventory(self, machine: Machine) -> None:
        """The site where the VM is active tells of it."""
        at_ms = max(self.now_ms, self._reported.get(machine.vm.vm_id, 0) + 1)
        for site in machine.ends:
            told = machine.inventory(site, at_ms)
            if told is not None and site not in self.places.dark:
                self._reported[machine.vm.vm_id] = at_ms
                self.send(told, after_ms=ANSWER_MS)

    def _answer(
        self,
        command: StepCommand,
        outcome: StepOutcome,
        detail: str,
        found: Mapping[str, str] | None = None,
        *,
        after_ms: int = ANSWER_MS,
    ) -> None:
        result = StepResult(
            run_id=command.run_id,
            step=command.step,
            attempt=command.attempt,
            vm_id=command.vm_id,
            site=command.site,
            node=command.node,
            epoch=command.epoch,
            outcome=outcome,
            detail=detail,
            finished_at_ms=self.now_ms,
            observed=found or {},
            key=command.key,
        )
        self.later(after_ms, lambda: self._tell_answer(command, result))

    def _tell_answer(self, command: StepCommand, result: StepResult) -> None:
        """The agent at the command's site tells of its answer."""
        self.send(result)


def inventory(vm: str = "vm-1") -> VmInventory:
    adapter = Adapter("nic-0", AdapterKind.SYNTHETIC, "00:15:5d:00:00:01", "lan", ("10.10.0.11/24",))
    return VmInventory(
        vm_id=vm,
        name=vm,
        adapters=(adapter,),
        guest=Guest("debian-12", IntegrationServices.RUNNING),
        replication=Replication(ReplicationState.REPLICATING, PRIMARY, REPLICA, "pc", "dc", 30),
        reported_at_ms=1,
    )


def addresses_of(vm: str = "vm-1") -> VmReplicationSettings:
    """Addresses at the other site, at home, and of a test copy."""
    return VmReplicationSettings(
        vm,
        (TARGET,),
        actor="ann",
        reason="plan",
        set_at_ms=1,
        home_adapters=(HOME,),
        test_adapters=(TESTED,),
        test_network=TEST_NETWORK,
    )


def request(
    kind: FailoverKind = FailoverKind.PLANNED,
    action: RequestAction = RequestAction.REQUEST,
    *,
    run_id: str = "r",
    vm: str = "",
    plan: str = "",
    vms: tuple[str, ...] = (),
    **terms: object,
) -> FailoverRequested:
    """A request, or what is said to its run; for vm-1 where no target is named. `terms`: any other field of it."""
    target = vm if vm or plan or vms else "vm-1"
    asked = FailoverRequested(
        run_id=run_id,
        action=action,
        kind=kind,
        actor="ann",
        reason="drill",
        requested_at_ms=START_MS,
        vm_id=target,
        plan_id=plan,
        vm_ids=vms,
        ticket="INC-7",
        primary_is_down=kind is FailoverKind.UNPLANNED,
    )
    return replace(asked, **terms)  # type: ignore[arg-type]  # any field may be named


def report(site: str, at_ms: int, state: ReplicationState = ReplicationState.REPLICATING) -> ReplicationReport:
    mode = ReplicationMode.PRIMARY if site == PRIMARY else ReplicationMode.REPLICA
    return ReplicationReport(
        vm_id="vm-1",
        site=site,
        node=f"{site}-1",
        mode=mode,
        state=state,
        health=ReplicationHealth.NORMAL,
        reported_at_ms=at_ms,
        last_replication_at_ms=at_ms,
    )


def check(world: World) -> None:
    """What holds of every world that has come to rest, whatever befell it."""
    _check_routes_and_epochs(world)
    _check_machines(world)
    runs = [v for p in world.partitions for v in p.state.values() if isinstance(v, Run | PlanRun)]
    for run in runs:
        journalled = _sequences(world, run.request.run_id)
        assert journalled == list(range(len(journalled)))
        if not run.state.ended:
            # Every request reaches its end, or waits for somebody, who is named and can say something.
            _check_waiting(world, run)
            continue
        # A terminal snapshot is told once, but by a plan that was taken up again; a run that ended has no step that
        # anyone still waits for.
        terminal = world.ended(run.request.run_id) if isinstance(run, Run) else world.latest(run.request.run_id)
        assert terminal.state is run.state
        if run.state is not RunState.FAILED or not any("abandoned" in error for error in terminal.detail.split("; ")):
            assert not [step for step in terminal.steps if step.state in (StepState.ISSUED, StepState.WAITING)]
        if isinstance(run, Run):
            _check_vm_run(world, run, terminal)
    for vm_id in world.machines:
        _check_in_flight(world, world.vm(vm_id))
    check_chains(world)


def _check_waiting(world: World, run: Run | PlanRun) -> None:
    values = [value for partition in world.partitions for value in partition.state.values()]
    parts = [each for each in values if isinstance(each, Run) and each.request.parent_run_id == run.request.run_id]
    if isinstance(run, PlanRun) and any(part.waits_for and not part.state.ended for part in parts):
        return  # it waits for the run of one of its VMs, and that for a person
    assert run.waits_for, run
    assert run.request.asker in run.waits_for or "approval by" in run.waits_for, run.waits_for
    assert run.choices


def check_chains(world: World) -> None:
    entries = [each for each in world.outputs if isinstance(each, JournalEntry | AuditEntry)]
    heads = [value for p in world.partitions for value in p.state.values() if isinstance(value, ChainHead)]
    assert verify([link(each, each.chain) for each in entries], heads) == []


def _check_in_flight(world: World, vm: VmState) -> None:
    """A VM is in the hands of a run only while that run is under way."""
    for run_id in (vm.run_id, vm.test_run_id):
        run = world.value(f"run/{run_id}") if run_id else None
        assert not run_id or (isinstance(run, Run) and not run.state.ended)


def _check_machines(world: World) -> None:
    """What the hypervisors' own ledgers show."""
    for vm_id, machine in world.machines.items():
        assert not machine.ran_twice
        assert set(machine.copies()) <= {TEST_NETWORK, ""}
        so_far: defaultdict[str, set[str]] = defaultdict(set)
        for done in machine.ledger:
            # Nothing takes effect a second time unless something has been taken back in between.
            assert done.step not in so_far[done.run_id], done
            if done.step.endswith("-undo"):
                so_far[done.run_id] = {step for step in so_far[done.run_id] if step.endswith("-undo")}
            so_far[done.run_id].discard(f"{done.step}-undo")
            so_far[done.run_id].add(done.step)
        fenced = {result.run_id for result in _fences(world, vm_id)}
        for done in machine.ledger:
            if done.action is Action.FAIL_OVER and done.step == "U3":
                assert done.run_id in fenced
    scripts = [(each.run_id, each.step, each.attempt) for each in world.scripts]
    assert len(scripts) == len(set(scripts))


def _fences(world: World, vm_id: str) -> list[JournalEntry]:
    """Where the journal says that the fence of a failover held, or that a person vouches for it."""
    return [
        entry
        for entry in world.told(JournalEntry)
        if entry.vm_id == vm_id and (entry.what.startswith("U1 done: ") or entry.rule == "R19")
    ]


def _check_routes_and_epochs(world: World) -> None:
    epochs: defaultdict[str, list[int]] = defaultdict(list)
    for route in world.told(RoutingUpdate):
        assert sum(location.role is Role.PRIMARY for location in route.locations) <= 1
        assert route.changed.node == "" or route.changed in route.locations
        epochs[route.vm_id].append(route.epoch)
    for vm_epochs in epochs.values():
        assert vm_epochs == sorted(set(vm_epochs))
    commanded: defaultdict[str, list[int]] = defaultdict(list)
    for command in world.told(StepCommand):
        if not command.key:  # a plan's own tasks are about no VM's epoch
            commanded[command.vm_id].append(command.epoch)
    for vm_epochs in commanded.values():
        assert vm_epochs == sorted(vm_epochs)


def _check_vm_run(world: World, run: Run, terminal: RunSnapshot) -> None:
    """What holds of a VM's run that has ended, and of its VM if no other run has touched it since."""
    if run.state is RunState.REFUSED or run.epoch == 0:
        return
    kind, errors = run.request.kind, run.errors
    by_hand = [entry for entry in world.told(JournalEntry) if entry.run_id == run.request.run_id and _by_hand(entry)]
    if run.state is RunState.SUCCEEDED:
        assert not errors
        if kind in _ADDRESSED and not by_hand:
            assert terminal.addresses
    if run.state in (RunState.SUCCEEDED, RunState.COMPLETED_WITH_ERRORS) and kind in _ADDRESSED:
        # No run ends 'done' with a failed address step.
        verified = [step.number for step in WORKFLOWS[kind].steps if step.action in _VERIFY]
        failed = [step for step in terminal.steps if step.step in verified and step.state is not StepState.DONE]
        assert not failed or run.state is RunState.COMPLETED_WITH_ERRORS
    last = max(_runs_of(world, run.request.vm_id), key=lambda other: other.epoch)
    if last is run and not by_hand:
        _check_end(world, run)


def _runs_of(world: World, vm_id: str) -> list[Run]:
    """Every run of a VM that has begun."""
    values = [value for partition in world.partitions for value in partition.state.values()]
    return [value for value in values if isinstance(value, Run) and value.request.vm_id == vm_id and value.epoch]


def _by_hand(entry: JournalEntry) -> bool:
    """A person has attested, skipped or abandoned something: what holds then is theirs to know."""
    return entry.rule in ("R19", "R20", "R22")


def _check_end(world: World, run: Run) -> None:
    """Where the VM is after its last run, by the map and by the hypervisors."""
    vm, machine = world.vm(run.request.vm_id), world.machines[run.request.vm_id]
    kind, roles = run.request.kind, {location.site: location.role for location in vm.locations}
    kept = run.state in (RunState.SUCCEEDED, RunState.COMPLETED_WITH_ERRORS)
    # The map says where the VM runs, whatever became of the run.
    assert machine.running <= {vm.active_site}
    if kind is FailoverKind.TEST:
        assert not list(machine.copies())
        assert (vm.active_site, vm.replica_site) == (run.primary_site, run.replica_site)
    elif kind is FailoverKind.REPROTECT:
        assert vm.active_site == run.primary_site
        if kept:
            assert vm.replica_site == run.replica_site
            assert machine.states[run.primary_site][0] is ReplicationMode.PRIMARY
            assert machine.states[run.replica_site][0] is ReplicationMode.REPLICA
    elif kept:
        assert machine.running == {run.replica_site}
        assert vm.active_site == run.replica_site
    elif run.ends_as is not RunState.SUCCEEDED:
        assert (vm.active_site, vm.replica_site) == (run.primary_site, run.replica_site)
        assert roles == {run.primary_site: Role.PRIMARY, run.replica_site: Role.REPLICA}
        assert machine.running == ({run.primary_site} if _ran_before(world, run) else set())
        assert {state for _, state in machine.states.values()} == {ReplicationState.REPLICATING}


def _ran_before(world: World, run: Run) -> bool:
    """Whether the VM was on before the run touched it."""
    if run.power_before:
        return run.power_before == "RUNNING"
    return run.request.kind is not FailoverKind.UNPLANNED


def _sequences(world: World, run_id: str) -> list[int]:
    """The numbers of a run's transitions; a refusal that concerns it has one of its own."""
    entries = [entry for entry in world.told(JournalEntry) if entry.run_id == run_id]
    return [entry.sequence for entry in entries if not entry.what.startswith("refused: ")]


def _unordered(one: Fact, other: Fact) -> bool:
    """Whether nothing orders these two: they are of different topics or VMs, or were told by different nodes."""
    if isinstance(one, VmMoved) and isinstance(other, VmMoved):
        return (one.vm_id, one.node) != (other.vm_id, other.node)
    if isinstance(one, StepResult | FailoverRequested) and isinstance(other, StepResult | FailoverRequested):
        return type(one) is not type(other) or one.vm_id != other.vm_id
    return type(one) is not type(other)
