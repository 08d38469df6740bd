"""The whole broker in miniature, under virtual time: partition tasks, site agents, and what lies between them.

Everything that the rules do not decide is modelled here: partitions that apply decisions as a partition task does, a
queue of facts, agents that carry out commands and go wrong as they are told to, and the hypervisors behind them.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count
from typing import TypeVar

from failover_orch.domain.broker import decide, due_ms, tick
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
from failover_orch.domain.records import (
    Action,
    AuditEntry,
    JournalEntry,
    Role,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    StepCommand,
    StepState,
)
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses, RecoveryPlan, VmReplicationSettings
from failover_orch.domain.state import PlanRun, Run, VmState
from failover_orch.streams.store import _DECODERS, dump

PRIMARY, REPLICA = "primary", "dr"
START_MS = 1_000_000
ANSWER_MS = 10
SLOW_MS = 25
TARGET = AdapterAddresses("nic-0", FamilyAddresses(addresses=("10.20.0.11/24",), gateways=("10.20.0.1",)))
CLUSTERS = (
    ClusterInventory("pc", PRIMARY, "PRI-BROKER", (Node("p1", NodeState.UP, 1, 1), Node("p2", NodeState.UP, 1, 1))),
    ClusterInventory("dc", REPLICA, "DR-BROKER", (Node("d1", NodeState.UP, 1, 1), Node("d2", NodeState.UP, 1, 1))),
)


class Behaviour(StrEnum):
    """What an agent makes of one command.

    LATE and LOST: it is done, and the answer comes late or never. SLOW: it is begun only after a while, when a cancel
    or a failure may have overtaken it.
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


_T = TypeVar("_T")
Behaviours = Mapping[str, Sequence[Behaviour]]
"""By step (`P4`, `P4-undo`): what becomes of its attempts, in order; of those not named, DO."""


@dataclass(slots=True)
class Machine:
    """A VM as its hypervisors have it, at both ends. `ran_twice` remembers the worst that could happen."""

    running: set[str]
    prepared: bool = False
    failed_over: bool = False
    reversed: bool = False
    ran_twice: bool = False

    def act(self, action: Action, site: str) -> str:
        """Do it, unless it is not legal as things are; returns why not."""
        refusal = self._refusal(action, site)
        if refusal:
            return refusal
        match action:
            case Action.SHUT_DOWN:
                self.running.discard(site)
            case Action.PREPARE | Action.CANCEL_PREPARE:
                self.prepared = action is Action.PREPARE
            case Action.FAIL_OVER:
                self.failed_over = True
            case Action.CANCEL_FAILOVER:
                self.failed_over = False
                self.running.discard(site)
            case Action.REVERSE:
                self.reversed = True
            case Action.START:
                self.running.add(site)
                self.ran_twice = self.ran_twice or len(self.running) > 1
            case _:
                pass
        return ""

    def _refusal(self, action: Action, site: str) -> str:
        locked = self.prepared or self.reversed if site == PRIMARY else not self.failed_over
        illegal = {
            Action.CHECK_PRIMARY: PRIMARY in self.running,
            Action.PREPARE: PRIMARY in self.running,
            Action.CANCEL_PREPARE: self.reversed,
            Action.CANCEL_FAILOVER: self.reversed,
            Action.REVERSE: not self.failed_over or PRIMARY in self.running,
            Action.START: locked,
            Action.VERIFY_ADDRESSES: site not in self.running,
        }
        return f"{action} is not possible as things are" if illegal.get(action) else ""


@dataclass(slots=True)
class Partition:
    """A partition task: state in memory, and the changelog that it would be restored from."""

    number: int
    state: dict[str, State] = field(default_factory=dict)
    changelog: dict[str, bytes] = field(default_factory=dict)

    def take(self, decision: Decision) -> None:
        self.state.update(decision.noted)
        for key, value in decision.kept.items():
            if value is None:
                self.state.pop(key, None)
                self.changelog.pop(key, None)
            else:
                self.state[key] = value
                self.changelog[key] = dump(value)

    def crash(self) -> None:
        """Lose the memory, and restore it as the next owner does."""
        self.state = {
            key: _DECODERS[key.partition("/")[0]].decode(value) for key, value in sorted(self.changelog.items())
        }


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
    ) -> None:
        self.now_ms = START_MS
        self.partitions = [Partition(number) for number in range(partitions)]
        self.machines = {vm: Machine({PRIMARY} if primary_alive else set()) for vm in vms}
        self.outputs: list[Output] = []
        self._behaviours = behaviours or {}
        self._accepted: dict[tuple[str, str], int] = {}
        self._queue: deque[Fact] = deque()
        self._later: list[tuple[int, int, Fact | StepCommand]] = []
        self._numbers = count()
        self._doubled, self._swapped, self._crashing = doubled, False, crashing
        for vm in vms:
            self.send(inventory(vm))
            self.send(VmMoved(vm, PRIMARY, "p1", MoveKind.PLACED, 1, cluster="pc", sequence=1))
            self.send(VmMoved(vm, REPLICA, "d1", MoveKind.PLACED, 2, cluster="dc", sequence=1))
            self.send(VmReplicationSettings(vm, (TARGET,), actor="ann", reason="plan", set_at_ms=1))
        for cluster in CLUSTERS:
            self.send(cluster)
        self.run()
        self._swapped = swapped

    def send(self, fact: Fact, after_ms: int | None = None) -> None:
        """Put a fact on its way: now, or in so many milliseconds."""
        if after_ms is not None:
            self._put_off(fact, after_ms)
            return
        self._queue.append(fact)
        if self._doubled:
            self._queue.append(fact)
        if self._swapped and len(self._queue) > 1 and _unordered(self._queue[-1], self._queue[-2]):
            self._queue[-1], self._queue[-2] = self._queue[-2], self._queue[-1]

    def _put_off(self, what: Fact | StepCommand, after_ms: int) -> None:
        heapq.heappush(self._later, (self.now_ms + after_ms, next(self._numbers), what))

    def run(self, limit: int = 20_000) -> None:
        """Let everything happen until nothing is left to wait for but the forgetting of ended runs."""
        for _ in range(limit):
            if self._queue:
                self._deliver(self._queue.popleft())
            elif not self._advance():
                return
        raise AssertionError("the world does not come to rest")

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

    def final(self) -> dict[str, object]:
        """The state in the end, but for what is not meant to be the same after a crash or in another order.

        That is: the heads of the chains, in which order nodes and ends spoke, and when something was last reported that
        was known already.
        """
        values: dict[str, object] = {}
        for partition in self.partitions:
            for key, value in partition.state.items():
                if isinstance(value, VmState):
                    ends = (replace(end, reported_at_ms=0, last_replication_at_ms=0) for end in value.ends)
                    told = value.inventory
                    values[key] = replace(
                        value,
                        inventory=replace(told, reported_at_ms=0) if told else None,
                        presences=tuple(sorted(value.presences, key=lambda p: (p.site, p.node))),
                        ends=tuple(sorted(ends, key=lambda end: end.site)),
                    )
                elif not isinstance(value, ChainHead):
                    values[key] = value
        return values

    def partition_of(self, key: str) -> Partition:
        return self.partitions[sum(key.encode()) % len(self.partitions)]

    def _deliver(self, fact: Fact) -> None:
        homes = self.partitions if isinstance(fact, ClusterInventory) else [self.partition_of(_key(fact))]
        for home in homes:
            self._apply(home, decide(home.state, fact, Moment(self.now_ms, home.number)))

    def _apply(self, partition: Partition, decision: Decision) -> None:
        partition.take(decision)
        if self._crashing:
            partition.crash()
        self.outputs += decision.outputs
        for output in decision.outputs:
            if isinstance(output, FailoverRequested | StepResult):
                self.send(output)
            elif isinstance(output, StepCommand):
                for _ in range(2 if self._doubled else 1):
                    self._perform(output)

    def _advance(self) -> bool:
        """Let time go on to the next thing that happens: what was put off, or a timer."""
        timers = [
            (value.due_ms, partition.number, key)
            for partition in self.partitions
            for key, value in partition.state.items()
            if isinstance(value, Run | PlanRun) and due_ms(value) and not value.state.ended
        ]
        times = [each[0] for each in self._later[:1]] + [each[0] for each in timers]
        if not times:
            return False
        self.now_ms = max(self.now_ms, min(times))
        if self._later and self._later[0][0] <= self.now_ms:
            while self._later and self._later[0][0] <= self.now_ms:
                what = heapq.heappop(self._later)[2]
                if isinstance(what, StepCommand):
                    self._carry_out(what, Behaviour.DO)
                else:
                    self.send(what)
            return True
        for _, number, key in sorted(each for each in timers if each[0] <= self.now_ms):
            partition = self.partitions[number]
            for _ in range(2 if self._doubled else 1):
                self._apply(partition, tick(partition.state, key, Moment(self.now_ms, number)))
        return True

    def _perform(self, command: StepCommand) -> None:
        """A site agent takes a command, and answers as it is told to."""
        script = self._behaviours.get(command.vm_id, {}).get(command.step, ())
        # A command that comes twice is answered twice alike; only another attempt is another behaviour.
        behaviour = script[command.attempt - 1] if command.attempt <= len(script) else Behaviour.DO
        if behaviour is Behaviour.SLOW:
            self._put_off(command, SLOW_MS)
        elif behaviour is not Behaviour.SILENT:
            self._carry_out(command, behaviour)

    def _carry_out(self, command: StepCommand, behaviour: Behaviour) -> None:
        vm, site = command.vm_id, command.site
        if command.epoch < self._accepted.get((vm, site), 0) or behaviour is Behaviour.STALE:
            self._answer(command, StepOutcome.STALE, "a higher epoch was accepted")
            return
        self._accepted[vm, site] = command.epoch
        if behaviour in (Behaviour.FAIL, Behaviour.REFUSE):
            outcome = StepOutcome.FAILED if behaviour is Behaviour.FAIL else StepOutcome.REFUSED
            self._answer(command, outcome, f"told to {behaviour}")
            return
        refusal = self.machines[vm].act(command.action, site)
        if behaviour is Behaviour.LOST:
            return
        after = command.deadline_ms - self.now_ms + 3 * ANSWER_MS if behaviour is Behaviour.LATE else ANSWER_MS
        for again in range(2 if behaviour is Behaviour.TWICE else 1):
            outcome = StepOutcome.REFUSED if refusal else StepOutcome.DONE
            self._answer(command, outcome, refusal or "so it is", after + 5 * again)

    def _answer(self, command: StepCommand, outcome: StepOutcome, detail: str, after_ms: int = ANSWER_MS) -> None:
        observed = {}
        if outcome is StepOutcome.DONE and command.action is Action.VERIFY_ADDRESSES:
            observed = {f"addresses/{each.adapter_id}": "10.20.0.11/24" for each in command.addresses}
        if outcome is StepOutcome.DONE and command.action is Action.FAIL_OVER:
            observed = {"recovery_point_at_ms": str(START_MS - 30_000)}
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
            observed=observed,
        )
        self.send(result, after_ms=after_ms)


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


def request(
    kind: FailoverKind = FailoverKind.PLANNED,
    action: RequestAction = RequestAction.REQUEST,
    *,
    run_id: str = "r",
    vm: str = "",
    plan: str = "",
    vms: tuple[str, ...] = (),
) -> FailoverRequested:
    """A request, or its cancelling; for vm-1 where no target is named."""
    target = vm if vm or plan or vms else "vm-1"
    return FailoverRequested(
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
    runs = [v for p in world.partitions for v in p.state.values() if isinstance(v, Run | PlanRun)]
    for run in runs:
        assert run.state.ended
        # A terminal snapshot is told once; a run that ended has no step that anyone still waits for.
        terminal = world.ended(run.request.run_id)
        assert terminal.state is run.state
        assert not [step for step in terminal.steps if step.state in (StepState.ISSUED, StepState.WAITING)]
        journalled = _sequences(world, run.request.run_id)
        assert journalled == list(range(len(journalled)))
        if isinstance(run, Run):
            _check_vm_run(world, run, terminal)
    for vm_id, machine in world.machines.items():
        assert world.vm(vm_id).run_id == ""
        assert not machine.ran_twice
    check_chains(world)


def check_chains(world: World) -> None:
    entries = [each for each in world.outputs if isinstance(each, JournalEntry | AuditEntry)]
    heads = [value for p in world.partitions for value in p.state.values() if isinstance(value, ChainHead)]
    assert verify([link(each, each.chain) for each in entries], heads) == []


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
        commanded[command.vm_id].append(command.epoch)
    for vm_epochs in commanded.values():
        assert vm_epochs == sorted(vm_epochs)


def _check_vm_run(world: World, run: Run, terminal: RunSnapshot) -> None:
    vm_id = run.request.vm_id
    if run.state is RunState.REFUSED:
        return
    vm, machine = world.vm(vm_id), world.machines[vm_id]
    not_undone = [error for error in run.errors if "-undo: " in error]
    assert run.state is not RunState.CANCELLED or not not_undone
    if run.state is RunState.SUCCEEDED:
        assert terminal.addresses
        assert not run.errors
    if run.state in (RunState.SUCCEEDED, RunState.COMPLETED_WITH_ERRORS):
        assert machine.running == {REPLICA}
    undone = run.ends_as is not RunState.SUCCEEDED
    if undone and not not_undone:
        assert vm.active_site == run.primary_site
        assert vm.replica_site == run.replica_site
        assert {location.site: location.role for location in vm.locations} == {
            run.primary_site: Role.PRIMARY,
            run.replica_site: Role.REPLICA,
        }
        assert machine.running == ({PRIMARY} if run.request.kind is FailoverKind.PLANNED else set())
        assert not machine.prepared
        assert not machine.failed_over
    if not any(error.startswith("P2-undo") for error in run.errors):
        # Unless the old primary was started again and nobody heard of it, the map says where the VM runs.
        assert machine.running <= {vm.active_site}


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


def _key(fact: Fact) -> str:
    match fact:
        case FailoverRequested():
            return fact.vm_id or fact.plan_id or fact.run_id
        case StepResult():
            return fact.key or fact.vm_id
        case RecoveryPlan():
            return fact.plan_id
        case VmMoved() | ReplicationReport() | VmInventory() | VmReplicationSettings():
            return fact.vm_id
        case _:
            raise AssertionError(fact)
