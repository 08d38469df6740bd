"""The simulated hypervisors of both sites: which action is legal when, what it does, and a ledger of what was done.

Written from the step sequences of Hyper-V Replica and from the promises of `hypervisors.protocol`, sharing nothing with
the tables of the domain: it is to contradict them where they are wrong. The ledger is the oracle: what is in it really
happened, whatever anybody reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from failover_orch.domain import (
    Action,
    AdapterAddresses,
    ReplicationMode,
    ReplicationState,
    StepCommand,
    StepOutcome,
)
from failover_orch.domain.terms import PointChoice, WantedPoint
from simulation.settings import Taken

__all__ = ["COPY_MS", "ISOLATED", "PRODUCTION", "Effect", "End", "Hypervisors", "Machine", "Site"]

PRIMARY, REPLICA = ReplicationMode.PRIMARY, ReplicationMode.REPLICA
_S = ReplicationState
_FAILED_OVER = (_S.FAILED_OVER_WAITING_COMPLETION, _S.FAILED_OVER)
_NO_POINT = (_S.DISABLED, _S.READY_FOR_INITIAL_REPLICATION, _S.WAITING_FOR_INITIAL_REPLICATION, *_FAILED_OVER)
_CYCLE_MS = 30_000
COPY_MS = 20_000
"""How long the disks are copied once a resynchronisation has begun."""
PRODUCTION, ISOLATED = "lan", "test-lan"
"""Networks: the one that the VMs serve, and the one that a test copy may be on."""


class Refused(Exception):
    """The hypervisor will not do it as things are."""


class Failed(Exception):
    """It did not work this time."""


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that an action really changed."""

    at_ms: int
    vm_id: str
    action: Action
    site: str
    run_id: str
    step: str
    attempt: int
    since: int
    """How much had been disturbed from outside by then: see `Machine.disturbed`."""


@dataclass(slots=True)
class Point:
    """A recovery point."""

    point_id: str
    at_ms: int
    application_consistent: bool


@dataclass(slots=True)
class TestCopy:
    """The isolated copy of a test failover."""

    run_id: str
    network: str
    addresses: tuple[AdapterAddresses, ...]
    running: bool = False


@dataclass(slots=True)
class End:
    """A VM at one site."""

    site: str
    node: str
    mode: ReplicationMode
    state: ReplicationState
    running: bool
    epoch: int = 0
    connected: bool = False
    staged: tuple[AdapterAddresses, ...] = ()
    applied: tuple[AdapterAddresses, ...] = ()
    """What its guest has set in place of its own addresses."""
    failed_over: bool = False
    """Addresses staged before are applied at the next start."""
    point: str = ""
    test: TestCopy | None = None
    moves: int = 1


@dataclass(slots=True)
class Machine:
    """A VM at both its sites. `deaf`: its guest never takes the addresses it is given."""

    vm_id: str
    ends: dict[str, End]
    deaf: bool = False
    silenced: bool = False
    received_ms: int = 0
    """When its replica last received anything, as of the last look."""
    disturbed: int = 0
    """How often something other than a command changed it: power went, a person spoke to its run."""
    done: dict[tuple[str, str, int, Action], None] = field(default_factory=dict)
    resynchronized_ms: int = 0
    """When the copying of its disks is through; 0: nothing is copied."""
    told: tuple[str, ReplicationState] | None = None
    """What was last told of where it is active, and in which state."""
    power_losses: int = 0

    def other(self, end: End) -> End:
        return next(each for each in self.ends.values() if each is not end)

    @property
    def active(self) -> End:
        """The end that reports the VM's inventory: the one that has taken it over, or else the primary."""
        ends = list(self.ends.values())
        taken = [end for end in ends if end.mode is REPLICA and _has_taken(end)]
        primaries = [end for end in ends if end.mode is PRIMARY]
        return (taken or primaries or ends)[0]

    @property
    def running(self) -> list[End]:
        return [end for end in self.ends.values() if end.running]


@dataclass(slots=True)
class Site:
    """A site: whether it has power, is cut off from everything else, and which of its nodes are up."""

    name: str
    nodes: dict[str, bool]
    powered: bool = True
    isolated: bool = False

    @property
    def reachable(self) -> bool:
        return self.powered and not self.isolated


def _has_taken(end: End) -> bool:
    waits = end.state is _S.FAILED_OVER_WAITING_COMPLETION
    return end.state is _S.FAILED_OVER or (waits and end.running)


class Hypervisors:
    """All of them, with their VMs. `watch` is told of every effect, and of a start that makes a VM run twice."""

    def __init__(self, sites: Mapping[str, Site], machines: Mapping[str, Machine]) -> None:
        self.sites = sites
        self.machines = machines
        self.link_up = True
        self.effects: list[Effect] = []
        self.checked: dict[str, bool] = {}
        """Runs whose check of the primary was answered yes, and whether somebody had to be believed for that."""
        self.verified: set[str] = set()
        """Runs whose addresses the guest was found to have."""
        self.ran_twice: list[tuple[int, str, str]] = []
        self.unfenced: list[tuple[int, str, str]] = []
        self.taken = Taken()

    # What the world does to them

    def linked(self, one: str, other: str) -> bool:
        return self.link_up and self.sites[one].reachable and self.sites[other].reachable

    def up(self, end: End) -> bool:
        site = self.sites[end.site]
        return site.powered and site.nodes[end.node]

    def replicates(self, machine: Machine) -> bool:
        """Whether cycles get through."""
        modes = {end.mode: end for end in machine.ends.values()}
        if len(modes) < 2 or machine.silenced:
            return False
        primary, replica = modes[PRIMARY], modes[REPLICA]
        both = primary.state is _S.REPLICATING and replica.state is _S.REPLICATING
        return both and self.linked(primary.site, replica.site) and self.up(primary) and self.up(replica)

    def cycle(self, now_ms: int) -> None:
        """Note what has been received by now: to be called before whatever changes that."""
        for machine in self.machines.values():
            if self.replicates(machine):
                machine.received_ms = now_ms - now_ms % _CYCLE_MS
            elif machine.resynchronized_ms and now_ms >= machine.resynchronized_ms:
                self._copied(machine)
            else:
                self._overtaken(machine)

    def _copied(self, machine: Machine) -> None:
        primary = next((end for end in machine.ends.values() if end.state is _S.RESYNCHRONIZING), None)
        if primary is None:
            machine.resynchronized_ms = 0
        elif self.linked(*machine.ends) and all(map(self.up, machine.ends.values())):
            primary.state = machine.other(primary).state = _S.REPLICATING
            machine.resynchronized_ms = 0

    def _overtaken(self, machine: Machine) -> None:
        """A primary that hears that its replica was failed over does not go on as if nothing had happened."""
        for end in machine.ends.values():
            if end.mode is PRIMARY and end.state is _S.REPLICATING and self.linked(*machine.ends):
                other = machine.other(end)
                if other.mode is REPLICA and other.state in _FAILED_OVER:
                    end.state = _S.ERROR

    def lose_power(self, site: str, node: str = "") -> None:
        """What runs on a node, or in a whole site, is off."""
        for machine in self.machines.values():
            end = machine.ends[site]
            if node not in ("", end.node):
                continue
            end.running = False
            if end.test is not None:
                end.test.running = False
            machine.disturbed += 1
            machine.power_losses += 1

    # What they are told to do

    def perform(self, command: StepCommand, now_ms: int) -> tuple[StepOutcome, str, dict[str, str]]:
        """What an agent's command leads to: outcome, detail, what is found afterwards."""
        if command.action is Action.APPLY_SETTINGS:
            site = self.sites[command.site]
            return self.taken.apply(command, up=site.powered and site.nodes[command.node])
        machine = self.machines[command.vm_id]
        end = machine.ends[command.site]
        self.cycle(now_ms)
        if not self.accepts(end, command):
            return StepOutcome.STALE, f"epoch {end.epoch} was accepted, this is {command.epoch}", {}
        end.epoch = max(end.epoch, command.epoch)
        key = (command.run_id, command.step, command.attempt, command.action)
        try:
            if key not in machine.done:
                self._there(end, command)
                _DO[command.action](self, machine, end, command, now_ms)
        except Refused as error:
            return StepOutcome.REFUSED, str(error), self.observed(machine, end, command)
        except Failed as error:
            return StepOutcome.FAILED, str(error), self.observed(machine, end, command)
        return StepOutcome.DONE, "so it is", self.observed(machine, end, command)

    def _there(self, end: End, command: StepCommand) -> None:
        if not self.up(end) and command.action is not Action.CHECK_PRIMARY:
            raise Failed(f"{end.node} is down")

    def accepts(self, end: End, command: StepCommand) -> bool:
        return command.epoch >= end.epoch

    def observed(self, machine: Machine, end: End, command: StepCommand) -> dict[str, str]:
        found = {"node": end.node, "power": "RUNNING" if end.running else "OFF", "state": end.state.value}
        if command.action in (Action.FAIL_OVER, Action.CREATE_TEST):
            found |= {"recovery_point": end.point, "recovery_point_at_ms": str(machine.received_ms)}
        elif command.action in (Action.VERIFY_ADDRESSES, Action.VERIFY_TEST):
            has = end.applied if command.action is Action.VERIFY_ADDRESSES else end.test.addresses if end.test else ()
            found |= {f"addresses/{each.adapter_id}": ", ".join(each.ipv4.addresses) for each in has if each.ipv4}
        elif command.action is Action.CHECK_PRIMARY:
            found["fence"] = "attested" if command.attested else "seen off"
        return found

    def points(self, machine: Machine) -> list[Point]:
        """The recovery points, newest first."""
        at = machine.received_ms
        return [Point(f"rp-{n}", at - n * _CYCLE_MS, application_consistent=n % 2 == 1) for n in range(4)]

    def point(self, machine: Machine, wanted: WantedPoint) -> Point:
        fits: dict[PointChoice, Callable[[Point], bool]] = {
            PointChoice.LATEST: lambda _: True,
            PointChoice.BEFORE: lambda point: point.at_ms <= wanted.at_ms,
            PointChoice.APPLICATION_CONSISTENT: lambda point: point.application_consistent,
            PointChoice.NAMED: lambda point: point.point_id == wanted.point_id,
        }
        found = next(filter(fits[wanted.choice], self.points(machine)), None)
        if found is None:
            raise Refused(f"there is no such recovery point as {wanted}")
        return found

    def took_effect(self, machine: Machine, command: StepCommand, now_ms: int) -> None:
        machine.done[command.run_id, command.step, command.attempt, command.action] = None
        self.effects.append(
            Effect(
                now_ms,
                machine.vm_id,
                command.action,
                command.site,
                command.run_id,
                command.step,
                command.attempt,
                machine.disturbed,
            )
        )


def _inspect(_all: Hypervisors, _machine: Machine, _end: End, _command: StepCommand, _now_ms: int) -> None:
    """Changes nothing."""


def _stage(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.mode is not REPLICA or end.state in (_S.DISABLED, _S.FAILED_OVER):
        raise Refused(f"addresses cannot be staged at a {end.mode} that is {end.state}")
    if end.staged != command.addresses:
        end.staged = command.addresses
        every.took_effect(machine, command, now_ms)


def _shut_down(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.running:
        end.running = False
        every.took_effect(machine, command, now_ms)


def _prepare(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.mode is PRIMARY and end.state is _S.PREPARED:
        return
    if end.mode is not PRIMARY or end.state is not _S.REPLICATING:
        raise Refused(f"a {end.mode} that is {end.state} cannot be prepared")
    if end.running:
        raise Refused("it runs")
    _reach(every, machine, end)
    if machine.other(end).state is not _S.REPLICATING:
        raise Refused(f"its replica is {machine.other(end).state}")
    end.state = _S.PREPARED
    machine.received_ms = now_ms
    every.took_effect(machine, command, now_ms)


def _cancel_prepare(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.mode is PRIMARY and end.state is _S.REPLICATING:
        return
    if end.mode is not PRIMARY or end.state is not _S.PREPARED:
        raise Refused(f"a {end.mode} that is {end.state} was not prepared")
    if every.linked(*machine.ends) and machine.other(end).state in _FAILED_OVER:
        raise Refused("its replica is failed over")
    end.state = _S.REPLICATING
    every.took_effect(machine, command, now_ms)


def _check_primary(every: Hypervisors, machine: Machine, end: End, command: StepCommand, _now_ms: int) -> None:
    primary = end if end.mode is PRIMARY else machine.other(end)
    if primary.mode is not PRIMARY:
        raise Refused("there is no primary to check")
    if primary is not end and not every.linked(*machine.ends):
        if not command.attested:
            raise Refused(f"{primary.site} cannot be reached, and nobody attests that the VM is off there")
    elif primary.running:
        raise Refused(f"it runs at {primary.site}")
    every.checked[command.run_id] = True


def _fail_over(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.mode is REPLICA and end.state in _FAILED_OVER:
        if command.point != WantedPoint() and every.point(machine, command.point).point_id != end.point:
            raise Refused(f"it is failed over to {end.point} already: cancel that first")
        return
    if end.mode is not REPLICA or end.state in _NO_POINT:
        raise Refused(f"a {end.mode} that is {end.state} cannot be failed over")
    end.point = every.point(machine, command.point).point_id
    primary = machine.other(end)
    if primary.state is not _S.PREPARED and not every.checked.get(command.run_id):
        every.unfenced.append((now_ms, machine.vm_id, command.run_id))
    end.state = _S.FAILED_OVER_WAITING_COMPLETION
    end.failed_over = True
    every.took_effect(machine, command, now_ms)


def _cancel_failover(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.mode is REPLICA and end.state is _S.REPLICATING:
        return
    if end.mode is not REPLICA or end.state is not _S.FAILED_OVER_WAITING_COMPLETION:
        raise Refused(f"a {end.mode} that is {end.state} cannot be taken back")
    end.state = _S.REPLICATING
    end.running = end.connected = end.failed_over = False
    end.applied = ()
    every.took_effect(machine, command, now_ms)


def _reverse(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    other = machine.other(end)
    if end.mode is PRIMARY and other.mode is REPLICA:
        return
    if end.mode is not REPLICA or end.state not in _FAILED_OVER:
        raise Refused(f"a {end.mode} that is {end.state} cannot be reversed")
    _reach(every, machine, end)
    if other.running:
        raise Refused(f"it runs at {other.site}")
    if end.state is _S.FAILED_OVER:
        if other.mode is not REPLICA:
            raise Refused(f"{other.site} was not made a replica")
        end.mode, end.state = PRIMARY, _S.READY_FOR_INITIAL_REPLICATION
    elif other.state is _S.PREPARED:
        end.mode, end.state = PRIMARY, _S.REPLICATING
        other.mode, other.state = REPLICA, _S.REPLICATING
        other.connected = False
        machine.received_ms = now_ms
    else:
        raise Refused(f"{other.site} is {other.state} and was not prepared")
    every.took_effect(machine, command, now_ms)


def _connect(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.mode is REPLICA and end.state not in _FAILED_OVER:
        raise Refused("a replica's adapters are connected once it is failed over")
    if not end.connected:
        end.connected = True
        every.took_effect(machine, command, now_ms)


def _start(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.running:
        return
    if end.state is _S.PREPARED or (end.mode is REPLICA and end.state not in _FAILED_OVER):
        raise Refused(f"a {end.mode} that is {end.state} cannot be started")
    end.running = True
    if end.failed_over and not machine.deaf:
        end.applied = end.staged
        end.failed_over = False
    every.took_effect(machine, command, now_ms)
    if len(machine.running) > 1:
        every.ran_twice.append((now_ms, machine.vm_id, command.run_id))


def _verify(every: Hypervisors, machine: Machine, end: End, command: StepCommand, _now_ms: int) -> None:
    if not end.running:
        raise Refused("it is off and reports no addresses")
    if command.addresses and end.applied != command.addresses:
        raise Failed("the guest has other addresses")
    every.verified.add(command.run_id)


def _complete(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.state is _S.FAILED_OVER or end.mode is PRIMARY:
        return
    if end.state is not _S.FAILED_OVER_WAITING_COMPLETION:
        raise Refused(f"a {end.mode} that is {end.state} cannot be completed")
    end.state = _S.FAILED_OVER
    every.took_effect(machine, command, now_ms)


def _make_replica(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.mode is REPLICA:
        return
    if end.running:
        raise Refused("it runs")
    _reach(every, machine, end)
    if machine.other(end).state is not _S.FAILED_OVER:
        raise Refused(f"its other end is {machine.other(end).state}")
    end.mode, end.state = REPLICA, _S.WAITING_FOR_INITIAL_REPLICATION
    end.connected = False
    every.took_effect(machine, command, now_ms)


def _resynchronize(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.mode is not PRIMARY:
        raise Refused("only a primary can send")
    if end.state in (_S.REPLICATING, _S.RESYNCHRONIZING):
        return
    _reach(every, machine, end)
    end.state = _S.RESYNCHRONIZING
    machine.resynchronized_ms = now_ms + COPY_MS
    every.took_effect(machine, command, now_ms)


def _await_replication(_all: Hypervisors, _machine: Machine, end: End, _command: StepCommand, _now_ms: int) -> None:
    if end.mode is not PRIMARY:
        raise Refused(f"it is a {end.mode}")
    if end.state is not _S.REPLICATING:
        raise Failed(f"it is {end.state}")


def _create_test(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.test is not None:
        if end.test.run_id != command.run_id:
            raise Refused("there is a test copy already")
        return
    if end.mode is not REPLICA or end.state in _NO_POINT:
        raise Refused(f"there is no copy of a {end.mode} that is {end.state}")
    end.point = every.point(machine, command.point).point_id
    end.test = TestCopy(command.run_id, command.test_network, command.addresses)
    every.took_effect(machine, command, now_ms)


def _start_test(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.test is None:
        raise Refused("there is no test copy")
    if not end.test.running:
        end.test.running = True
        every.took_effect(machine, command, now_ms)


def _verify_test(every: Hypervisors, machine: Machine, end: End, command: StepCommand, _now_ms: int) -> None:
    if end.test is None or not end.test.running:
        raise Refused("no test copy runs")
    if command.addresses and machine.deaf:
        raise Failed("the copy's guest has other addresses")
    every.verified.add(command.run_id)


def _delete_test(every: Hypervisors, machine: Machine, end: End, command: StepCommand, now_ms: int) -> None:
    if end.test is not None:
        end.test = None
        every.took_effect(machine, command, now_ms)


def _check_gate(_all: Hypervisors, _machine: Machine, end: End, _command: StepCommand, _now_ms: int) -> None:
    if not end.running:
        raise Failed("it does not run")


def _reach(every: Hypervisors, machine: Machine, end: End) -> None:
    other = machine.other(end)
    if not every.linked(*machine.ends) or not every.up(other):
        raise Failed(f"{other.site}/{other.node} cannot be reached")


_DO: Mapping[Action, Callable[[Hypervisors, Machine, End, StepCommand, int], None]] = {
    Action.INSPECT: _inspect,
    Action.STAGE_ADDRESSES: _stage,
    Action.SHUT_DOWN: _shut_down,
    Action.PREPARE: _prepare,
    Action.CANCEL_PREPARE: _cancel_prepare,
    Action.CHECK_PRIMARY: _check_primary,
    Action.FAIL_OVER: _fail_over,
    Action.CANCEL_FAILOVER: _cancel_failover,
    Action.REVERSE: _reverse,
    Action.CONNECT_ADAPTERS: _connect,
    Action.START: _start,
    Action.VERIFY_ADDRESSES: _verify,
    Action.COMPLETE: _complete,
    Action.MAKE_REPLICA: _make_replica,
    Action.RESYNCHRONIZE: _resynchronize,
    Action.AWAIT_REPLICATION: _await_replication,
    Action.CREATE_TEST: _create_test,
    Action.START_TEST: _start_test,
    Action.VERIFY_TEST: _verify_test,
    Action.DELETE_TEST: _delete_test,
    Action.CHECK_GATE: _check_gate,
}
