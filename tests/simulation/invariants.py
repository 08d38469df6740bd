"""What has to hold whatever happens: each invariant with its number, its name and what speaks against it.

They are judged by what the hypervisors' ledger says was really done, by what was committed, and by what people and
observers said; the rules that they are about are not asked.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from failover_orch.domain import (
    Action,
    Alert,
    AuditEntry,
    AutomaticMode,
    AutomaticRun,
    Brake,
    ChainHead,
    DeadLetter,
    Evidence,
    FailoverKind,
    FailoverRequested,
    JournalEntry,
    Limits,
    Policy,
    RecoveryPlan,
    ReplicationMode,
    ReplicationReport,
    ReplicationState,
    RequestAction,
    Role,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    StepCommand,
    StepOutcome,
    StepResult,
    StepState,
    Verdict,
    VmState,
    due_ms,
)
from failover_orch.domain.chain import link, verify
from failover_orch.domain.policies import ApprovalRule, limits_from
from failover_orch.streams.folding import Folding
from simulation.machines import ISOLATED, Effect, Machine
from simulation.schedule import PEOPLE, START_MS
from simulation.settings import SettingsWatch
from simulation.world import CLUSTERS, FREQUENCY_S, Watch, World

__all__ = ["INVARIANTS", "Violated", "Watchman"]

INVARIANTS: Mapping[str, str] = {
    "I1": "a VM never runs on both sides",
    "I2": "no action takes effect twice",
    "I3": "every request comes to an end, or waits for a named person",
    "I4": "no run succeeds whose addresses were not found in place",
    "I5": "epochs never go down",
    "I6": "the hash chains of journal and audit trail are whole, and every transition is told once",
    "I7": "an unplanned failover is never made without its fence",
    "I8": "nothing automatic happens in a mode that forbids it",
    "I9": "nothing automatic begins while the brake is engaged",
    "I10": "no automatic failover of a VM within its cooldown, unless acknowledged",
    "I11": "nothing automatic begins on the word of fewer independent observers than required",
    "I12": "nothing automatic begins before the evidence has held for the hold-down",
    "I13": "one run in flight per VM, and one test",
    "I14": "the routing table says where each VM is",
    "I15": "a plan begins nothing before what that depends on is done",
    "I16": "what a plan has done is not done again",
    "I17": "a plan's limits are kept",
    "I18": "nothing begins that has not been agreed to by those who have to",
    "I19": "what a cancelled run did is taken back",
    "I20": "a test copy is isolated, and is gone when its run has ended",
    "I21": "no record is refused as bad, and nothing meets a bug",
    "I22": "a run in flight keeps the plan that it began with",
    "I23": "what a fence or an attestation says was really said by somebody",
    "I24": "what a person says once counts once",
    "I25": "no record is taken twice, and no event told twice",
    "I26": "nothing is done to a VM for a run that has ended",
    "I27": "versions of settings go up one by one, each change counts once, and nobody is told an old version",
    "I28": "in the end every node and VM that can has the newest settings, and who is said to have them has",
}

_FREQUENCY_MS = FREQUENCY_S * 1_000
_SLACK_MS = 40_000
"""How much older than allowed what an observer said may look from here: records take their time, clocks are off."""
_CLOCKS_MS = 4_000
_IN_FLIGHT = (RunState.RUNNING, RunState.AWAITING_COMMIT, RunState.UNDOING, RunState.PARKED)
_TAKES_OVER = (RequestAction.CONFIRM, RequestAction.SKIP, RequestAction.ABANDON)
"""Words by which a person takes it upon themselves how things are."""
_WORDS = {each.lower().replace("_", " "): each for each in RequestAction if each is not RequestAction.REQUEST}
"""What the audit trail calls what people say."""
_WITHOUT_LOSS = (FailoverKind.PLANNED, FailoverKind.FAILBACK)
_HARMLESS = (Action.STAGE_ADDRESSES, Action.CONNECT_ADAPTERS)
"""What changes nothing about where a VM runs: an attempt that was given up may still do it."""
_GONE = (Verdict.UNREACHABLE, Verdict.DOWN, Verdict.OFF)


class Violated(Exception):
    """An invariant does not hold."""

    def __init__(self, number: str, what: str) -> None:
        super().__init__(f"{number} ({INVARIANTS[number]}): {what}")
        self.number = number


@dataclass(slots=True)
class _PlanRun:
    """What is known of the run of a plan or list from outside."""

    plan: RecoveryPlan | None
    steps: tuple[str, ...]
    limit: int


class Watchman(Watch):
    """Follows a world and raises `Violated` as soon as something does not hold."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._settings = SettingsWatch(world.hypervisors.taken, _require)
        self._machines = world.hypervisors.machines
        self._asked: dict[str, FailoverRequested] = {}
        self._words: defaultdict[str, list[FailoverRequested]] = defaultdict(list)
        self._acknowledged: defaultdict[str, int] = defaultdict(int)
        self._routes: dict[str, int] = {}
        self._commands: dict[str, int] = {}
        self._commanded: set[str] = set()
        self._needed: dict[str, list[ApprovalRule]] = {}
        self._entries: list[JournalEntry | AuditEntry] = []
        self._sequences: dict[str, int] = {}
        self._runs: dict[str, RunSnapshot] = {}
        self._plan_runs: dict[str, _PlanRun] = {}
        self._children: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """By plan run, then by child run: the VM."""
        self._off_hands: set[str] = set()
        """Runs that have served or ended at some time: their plan does not wait for them any more."""
        self._begun_by_plans: list[FailoverRequested] = []
        self._claims: defaultdict[str, list[tuple[int, Evidence]]] = defaultdict(list)
        """By site: what observers said of it."""
        self._told_ids: set[tuple[int, str]] = set()
        self._taken: Counter[tuple[str, RequestAction, str]] = Counter()
        self._silent: dict[str, tuple[int, int]] = {}
        """By VM: since when its replica was told to be silent without a break, and when last."""
        self._automatic: dict[str, int] = {}
        self._brakes: dict[int, object] = {}
        self._scripts_done: set[tuple[str, str]] = set()
        self._effects_seen = 0
        self._power: dict[str, int] = {}

    # What is said from outside

    def published(self, value: Any) -> None:
        match value:
            case FailoverRequested(action=RequestAction.REQUEST):
                self._asked.setdefault(value.run_id, value)
            case FailoverRequested():
                self._words[value.run_id].append(value)
                if value.action is RequestAction.ACKNOWLEDGE:
                    self._acknowledged[value.vm_id] = self._world.now_ms
            case Evidence():
                self._claims[value.site].append((self._world.now_ms, value))
            case ReplicationReport(mode=ReplicationMode.REPLICA):
                self._heard_of_replica(value)
            case StepResult():
                self._answered(value)
            case _:
                pass

    def _heard_of_replica(self, report: ReplicationReport) -> None:
        now = self._world.now_ms
        if report.reported_at_ms - report.last_replication_at_ms > _FREQUENCY_MS:
            since = self._silent.get(report.vm_id, (now, now))[0]
            self._silent[report.vm_id] = (since, now)
        else:
            self._silent.pop(report.vm_id, None)

    def _answered(self, result: StepResult) -> None:
        self._ledger()
        if result.step in self._scripts_of(result.run_id) and result.outcome is StepOutcome.DONE:
            self._scripts_done.add((result.run_id, result.step))

    def _scripts_of(self, run_id: str) -> set[str]:
        return {step for agent in self._world.agents.values() for run, step, _ in agent.scripts if run == run_id}

    # What is committed

    def told(self, value: Any, partition: int, folding: Folding) -> None:
        match value:
            case StepCommand():
                self._command(value)
            case RunSnapshot():
                self._snapshot(value, folding)
            case JournalEntry() | AuditEntry():
                self._entry(value)
            case RoutingUpdate():
                known = self._routes.get(value.vm_id, 0)
                _require("I5", value.epoch > known, f"route of {value.vm_id} goes from epoch {known} to {value.epoch}")
                self._routes[value.vm_id] = value.epoch
            case FailoverRequested():
                self._from_plan(value)
            case AutomaticRun():
                self._automatic_run(value, folding)
            case DeadLetter():
                raise Violated("I21", f"dead letter of {value.topic}: {value.reason}")
            case Alert():
                _require("I21", "unexpected error" not in value.what, value.what)
            case _:
                self._settings.told(value)

    def written(self, partition: int, event_id: str) -> None:
        """By its id, which says from which record it came, an event is told once to each partition."""
        _require("I25", (partition, event_id) not in self._told_ids, f"{event_id} is told again")
        self._told_ids.add((partition, event_id))

    def _from_plan(self, said: FailoverRequested) -> None:
        """What a plan, or the broker of its own accord, asks for or says."""
        if said.action is not RequestAction.REQUEST:
            self._words[said.run_id].append(said)
            return
        self._asked.setdefault(said.run_id, said)
        if said.parent_run_id:
            self._begun_by_plans.append(said)

    def committed(self, partition: int, folding: Folding) -> None:
        """All of a transaction has been told: what a plan begins stands before the plan's own snapshot."""
        for asked in self._begun_by_plans:
            self._child(asked)
        self._begun_by_plans.clear()
        self._brakes[partition] = folding.store.state.get("brake")
        if self._world.workers.bugs:
            bug = self._world.workers.bugs[0]
            raise Violated("I21", f"{type(bug).__name__}: {bug}")

    def _command(self, command: StepCommand) -> None:
        if command.action is Action.APPLY_SETTINGS:
            self._settings.commanded(command)
            return
        run_id = command.run_id
        if not command.key:
            known = self._commands.get(command.vm_id, 0)
            _require("I5", command.epoch >= known, f"{run_id} {command.step}: epoch {command.epoch} after {known}")
            self._commands[command.vm_id] = command.epoch
        if run_id not in self._commanded:
            self._commanded.add(run_id)
            self._agreed(run_id)
        if command.attested and command.action is Action.CHECK_PRIMARY:
            self._attested(command)
        if command.action is Action.CREATE_TEST:
            _require(
                "I20", command.test_network in ("", ISOLATED), f"{run_id} puts its copy on {command.test_network!r}"
            )

    def _agreed(self, run_id: str) -> None:
        """Judged at a run's first command, by what it needed when it was asked for."""
        run = self._runs.get(run_id)
        for rule in self._needed.get(run_id, ()):
            given = {word.actor for word in self._words[run_id] if word.action is RequestAction.APPROVE}
            given.discard(run.actor if run is not None else "")
            if rule.approvers:
                given &= set(rule.approvers)
            _require("I18", len(given) >= rule.needed, f"{run_id} begins with {len(given)} of {rule.needed} approvals")

    def _attested(self, command: StepCommand) -> None:
        asked = self._asked.get(command.run_id)
        parent = self._asked.get(asked.parent_run_id) if asked is not None else None
        for each in (asked, parent):
            if each is not None and each.primary_is_down and not each.automatic:
                return
        site = command.peer_site
        since = self._world.now_ms - 120_000 - _SLACK_MS
        said = any(at >= since and each.verdict in (Verdict.DOWN, Verdict.OFF) for at, each in self._claims[site])
        _require("I23", said, f"{command.run_id} says that {site} is attested to be down, and nobody said so")

    def _entry(self, entry: JournalEntry | AuditEntry) -> None:
        self._entries.append(entry)
        if isinstance(entry, AuditEntry) and entry.outcome == "accepted" and entry.what in _WORDS:
            self._counted(entry)
        if isinstance(entry, JournalEntry) and entry.run_id and not entry.what.startswith("refused: "):
            expected = self._sequences.get(entry.run_id, -1) + 1
            found = f"{entry.run_id}: entry {entry.sequence} where {expected} is next: {entry.what}"
            _require("I6", entry.sequence == expected, found)
            self._sequences[entry.run_id] = entry.sequence

    def _counted(self, entry: AuditEntry) -> None:
        said, run_id = _WORDS[entry.what], entry.evidence.get("run", "")
        self._taken[run_id, said, entry.actor] += 1
        times = sum(word.action is said and word.actor == entry.actor for word in self._words[run_id])
        what = f"{entry.actor} has said {said} to {run_id} {times} times, and it was taken once more"
        _require("I24", self._taken[run_id, said, entry.actor] <= times, what)

    # Runs

    def _snapshot(self, snapshot: RunSnapshot, folding: Folding) -> None:
        self._ledger()
        first = snapshot.run_id not in self._runs
        if snapshot.state.ended or snapshot.state is RunState.AWAITING_COMMIT:
            self._off_hands.add(snapshot.run_id)
        before = self._runs.get(snapshot.run_id)
        self._runs[snapshot.run_id] = snapshot
        if first:
            self._first(snapshot, folding)
        if not snapshot.vm_id:
            known = self._plan_runs[snapshot.run_id]
            steps = tuple(step.step for step in snapshot.steps)
            if not known.steps:
                known.steps = steps
            _require("I22", not steps or steps == known.steps, f"{snapshot.run_id} had {known.steps}, now {steps}")
            return
        if snapshot.state in _IN_FLIGHT:
            self._one_in_flight(snapshot)
            if before is None or before.state not in _IN_FLIGHT:
                self._power[snapshot.run_id] = self._machines[snapshot.vm_id].power_losses
        if snapshot.state.ended and (before is None or not before.state.ended):
            self._ended(snapshot, begun=snapshot.run_id in self._commanded)

    def _first(self, snapshot: RunSnapshot, folding: Folding) -> None:
        asked = self._asked.get(snapshot.run_id)
        limits = self._limits(folding, snapshot.vm_id, snapshot.plan_id)
        if not snapshot.parent_run_id:
            self._needed[snapshot.run_id] = _approvals(asked, limits, snapshot)
        if not snapshot.vm_id:
            plan = folding.store.state.get(f"plan/{snapshot.plan_id}")
            plan = plan if isinstance(plan, RecoveryPlan) else None
            limit = (asked.max_in_flight if asked else 0) or (plan.max_in_flight if plan else 0)
            self._plan_runs[snapshot.run_id] = _PlanRun(plan, (), limit)
        elif snapshot.automatic and not snapshot.parent_run_id and snapshot.state is not RunState.REFUSED:
            self._asked_by_the_broker(snapshot, folding, limits)

    def _one_in_flight(self, snapshot: RunSnapshot) -> None:
        test = snapshot.kind is FailoverKind.TEST
        others = [
            run.run_id
            for run in self._runs.values()
            if run.vm_id == snapshot.vm_id and run.state in _IN_FLIGHT and (run.kind is FailoverKind.TEST) is test
        ]
        _require("I13", others == [snapshot.run_id], f"{', '.join(others)} of {snapshot.vm_id} are in flight together")

    def _ended(self, run: RunSnapshot, *, begun: bool) -> None:
        words = {word.action for word in self._words[run.run_id]}
        by_hand = bool(words.intersection(_TAKES_OVER))
        if run.state is RunState.SUCCEEDED and run.kind is not FailoverKind.REPROTECT and not by_hand:
            found = run.run_id in self._world.hypervisors.verified
            _require("I4", found, f"{run.run_id} succeeded, and its addresses were never found in place")
        if run.kind is FailoverKind.TEST and not by_hand:
            self._copy_gone(run)
        elif run.state is RunState.CANCELLED and begun and not by_hand:
            self._taken_back(run)

    def _copy_gone(self, run: RunSnapshot) -> None:
        copies = [end.test for end in self._machines[run.vm_id].ends.values() if end.test is not None]
        left = any(copy.run_id == run.run_id for copy in copies)
        _require("I20", not left, f"{run.run_id} ended {run.state}, and its copy is still there")

    def _taken_back(self, run: RunSnapshot) -> None:
        machine = self._machines[run.vm_id]
        replica, primary = machine.ends.get(run.to_site), machine.ends.get(run.from_site)
        assert replica is not None
        assert primary is not None
        if run.kind not in (*_WITHOUT_LOSS, FailoverKind.UNPLANNED):
            return
        left = replica.mode is ReplicationMode.REPLICA and replica.state is not ReplicationState.REPLICATING
        _require("I19", not left, f"{run.run_id} was cancelled, and {run.to_site} is {replica.state}")
        if run.kind in _WITHOUT_LOSS:
            locked = primary.state is ReplicationState.PREPARED
            _require("I19", not locked, f"{run.run_id} was cancelled, and {run.from_site} is {primary.state}")
            shut = any(
                effect.run_id == run.run_id and effect.action is Action.SHUT_DOWN
                for effect in self._world.hypervisors.effects
            )
            disturbed = machine.power_losses != self._power.get(run.run_id)
            _require(
                "I19",
                primary.running or not shut or disturbed,
                f"{run.run_id} was cancelled, had shut {run.vm_id} down, and has not started it again",
            )

    # Plans

    def _child(self, asked: FailoverRequested) -> None:
        run = self._plan_runs[asked.parent_run_id]
        children = self._children[asked.parent_run_id]
        ended = [self._runs[child] for child, vm in children.items() if vm == asked.vm_id and child in self._runs]
        done = [child.run_id for child in ended if child.state is RunState.SUCCEEDED]
        _require("I16", not done, f"{asked.run_id} is begun though {', '.join(done)} had succeeded")
        children[asked.run_id] = asked.vm_id
        if run.limit:
            busy = [child for child in children if child not in self._off_hands]
            _require(
                "I17", len(busy) <= run.limit, f"{', '.join(busy)} are under way together, the limit is {run.limit}"
            )
        self._depends(asked, run)

    def _depends(self, asked: FailoverRequested, run: _PlanRun) -> None:
        if run.plan is None:
            return
        groups = {group.name: group for group in run.plan.groups}
        names = list(groups)
        own = next((group for group in run.plan.groups if asked.vm_id in group.vm_ids), None)
        if own is None:
            return
        left = [own.name]
        before: set[str] = set()
        while left:
            name = left.pop()
            stated = groups[name].depends_on
            needed = names[max(0, names.index(name) - 1) : names.index(name)] if stated is None else stated
            left += [each for each in needed if each not in before]
            before.update(needed)
        children = self._children[asked.parent_run_id]
        steps = {step.step: step.state for step in self._runs[asked.parent_run_id].steps}
        for vm_id in (vm_id for name in before for vm_id in groups[name].vm_ids):
            runs = [self._runs.get(child) for child, vm in children.items() if vm == vm_id]
            settled = any(each is not None and each.run_id in self._off_hands for each in runs)
            out = steps.get(vm_id) in (StepState.SKIPPED, StepState.DONE)
            _require("I15", settled or out, f"{asked.run_id} begins before {vm_id}, on which it depends, is done")

    # What happens of its own accord

    def _limits(self, folding: Folding, vm_id: str, plan_id: str = "") -> Limits:
        """The limits as the partition knew them: the facts are its own, what follows from them is worked out here."""
        state = folding.store.state
        vm = state.get(f"vm/{vm_id}")
        scopes = ["all"]
        if isinstance(vm, VmState):
            scopes += [f"site/{vm.active_site}", *(f"plan/{plan}" for plan in vm.plan_ids), f"vm/{vm.vm_id}"]
        elif plan_id:
            scopes.append(f"plan/{plan_id}")
        policies = [state.get(f"policy/{scope}") for scope in scopes]
        return limits_from(policy for policy in policies if isinstance(policy, Policy))

    def _asked_by_the_broker(self, run: RunSnapshot, folding: Folding, limits: Limits) -> None:
        may = limits.mode in (AutomaticMode.ADVISE, AutomaticMode.ACT)
        _require("I8", may, f"{run.run_id} is begun or proposed in mode {limits.mode}")
        if limits.mode is AutomaticMode.ADVISE:
            self._needed[run.run_id].append(ApprovalRule(1))
        now = self._world.now_ms
        held = now - self._suspected_since(run.vm_id, run.from_site)
        what = f"{run.run_id} after {held} ms of evidence; the hold-down is {limits.hold_down_ms} ms"
        _require("I12", held >= limits.hold_down_ms - _CLOCKS_MS, what)
        opened = now - folding.opened_at_ms
        what = f"{run.run_id} {opened} ms after its partition was taken over; the hold-down is {limits.hold_down_ms} ms"
        _require("I12", opened >= limits.hold_down_ms - _CLOCKS_MS, what)

    def _suspected_since(self, vm_id: str, site: str) -> int:
        """Since when the data path and somebody else have said, without a break, that the primary is gone."""
        silent = self._silent.get(vm_id)
        if silent is None:
            return self._world.now_ms
        stretches: dict[tuple[str, str], int] = {}
        for at_ms, said in self._claims[site]:
            who = (said.observer, said.node)
            if said.verdict in _GONE:
                stretches.setdefault(who, at_ms)
            else:
                stretches.pop(who, None)
        return max(silent[0], min(stretches.values(), default=self._world.now_ms))

    def _automatic_run(self, begun: AutomaticRun, folding: Folding) -> None:
        if begun.run_id in self._automatic:
            return
        now = self._world.now_ms
        run = self._asked.get(begun.run_id)
        vm = folding.store.state.get(f"vm/{begun.vm_id}")
        brake = self._brakes.get(folding.partition)
        # The same brake before this transaction and after it: released meanwhile, it would be another.
        engaged = isinstance(brake, Brake) and brake.engaged and brake == folding.store.state.get("brake")
        _require("I9", not engaged, f"{begun.run_id} is begun")
        previous = [at for other, at in self._automatic.items() if other.startswith(f"{begun.vm_id}|")]
        self._automatic[begun.run_id] = now
        if not isinstance(vm, VmState) or (run is not None and run.plan_id):
            return
        limits = self._limits(folding, begun.vm_id)
        if previous and self._acknowledged[begun.vm_id] < max(previous):
            since = now - max(previous)
            what = f"{begun.run_id} {since} ms after the last; the cooldown is {limits.cooldown_ms} ms"
            _require("I10", since >= limits.cooldown_ms - _CLOCKS_MS, what)
        self._automatic[f"{begun.vm_id}|{begun.run_id}"] = now
        self._observers(begun, vm, limits)

    def _observers(self, begun: AutomaticRun, vm: VmState, limits: Limits) -> None:
        now = self._world.now_ms
        since = now - limits.evidence_within_ms - _SLACK_MS
        sites = {end for end in self._machines[vm.vm_id].ends if self._claims[end]}
        run = self._runs.get(begun.run_id)
        gone = run.from_site if run is not None and run.from_site else ""
        places = {
            said.place
            for site in sites
            if not gone or site == gone
            for at_ms, said in self._claims[site]
            if at_ms >= since and said.verdict in _GONE
        }
        silent = self._silent.get(vm.vm_id)
        if silent is not None and silent[1] >= since:
            places.add(next(site for site in self._machines[vm.vm_id].ends if site != gone))
        what = f"{begun.run_id} on the word of {len(places)} ({', '.join(sorted(places))}) of {limits.observers}"
        _require("I11", len(places) >= limits.observers and silent is not None, what)

    # The ledger

    def performed(self, command: StepCommand) -> None:
        self._ledger()

    def _ledger(self) -> None:
        """Look through what has really been done since the last look."""
        every = self._world.hypervisors
        if every.ran_twice:
            for at_ms, vm_id, run_id in every.ran_twice:
                if not self._misled(vm_id):
                    raise Violated("I1", f"{vm_id} at {(at_ms - START_MS) / 1000:.2f} s, by {run_id}")
            every.ran_twice.clear()
        for at_ms, vm_id, run_id in every.unfenced:
            raise Violated("I7", f"{vm_id} at {(at_ms - START_MS) / 1000:.2f} s, by {run_id}")
        for number in range(self._effects_seen, len(every.effects)):
            self._once(every.effects[:number], every.effects[number])
        self._effects_seen = len(every.effects)
        for agent in self._world.agents.values():
            begun = agent.scripts
            if len(set(begun)) != len(begun):
                raise Violated("I2", f"a script was begun twice: {begun}")
            for key in begun[len(agent.looked_at) :]:
                agent.looked_at.append(key)
                _require("I16", key[:2] not in self._scripts_done, f"{key[0]} {key[1]} is done again")

    def _once(self, before: list[Effect], effect: Effect) -> None:
        """A step is done once: again only if somebody has spoken to its run, or power went; an undo, after its step."""
        run = self._runs.get(effect.run_id)
        ended = run is not None and run.state.ended and not self._may_follow(run, effect)
        at = f"at {(effect.at_ms - START_MS) / 1000:.2f} s"
        what = f"{effect.run_id} {effect.step} {effect.action} of {effect.vm_id} {at}"
        _require("I26", not ended, what)
        forward = effect.step.removesuffix("-undo")
        for other in reversed(before):
            if other.run_id != effect.run_id:
                continue
            if (other.step, other.action) == (effect.step, effect.action):
                if other.attempt == effect.attempt or other.since == effect.since:
                    raise Violated("I2", f"{what} once more")
                return
            if forward != effect.step and other.step == forward:
                return

    def _may_follow(self, run: RunSnapshot, effect: Effect) -> bool:
        """Whether an agent that hung may still do this once the run has ended, with nothing left to overtake it."""
        # A reprotection that fails early has touched nothing but the copy that a failover had retired.
        retired = run.kind is FailoverKind.REPROTECT and run.state is RunState.FAILED
        by_hand = any(word.action in _TAKES_OVER for word in self._words[run.run_id])
        return effect.action in _HARMLESS or retired or by_hand

    def _misled(self, vm_id: str) -> bool:
        """Whether somebody had said, wrongly, that the VM's primary was gone: then it is theirs to answer for."""
        claims = self._world.false_claims
        return vm_id in claims or any(site in claims for site in self._machines[vm_id].ends)

    # At rest

    def at_rest(self) -> None:
        self._ledger()
        for run_id, asked in self._asked.items():
            snapshot = self._runs.get(run_id)
            target = asked.vm_id or asked.plan_id or ", ".join(asked.vm_ids)
            if snapshot is None:
                raise Violated("I3", f"nothing is known of {run_id} of {target}")
        for snapshot in self._runs.values():
            if not snapshot.state.ended:
                what = f"{snapshot.run_id} is {snapshot.state} and waits for {snapshot.waits_for or 'nobody'}"
                _require("I3", self._waits_for_somebody(snapshot), what)
        for partition in range(self._world.log.partitions):
            for key, value in self._world.workers.state(partition).store.state.items():
                due = due_ms(value)
                late = self._world.now_ms - due if due else 0
                _require("I3", late < _CLOCKS_MS, f"the time of {key} came {late} ms ago, and nobody has looked at it")
        for vm_id, machine in self._machines.items():
            self._route(vm_id, machine)
            self._settings.at_rest_of_vm(self._vm(vm_id))
        for site, cluster in CLUSTERS.items():
            self._settings.at_rest_of_nodes(cluster, list(self._world.sites[site].nodes))
        self._chains()

    def _waits_for_somebody(self, run: RunSnapshot) -> bool:
        """Whether a person is named; a plan may wait by way of one of its VMs, and a VM by way of its plan."""
        plan_run = self._runs.get(run.parent_run_id, run)
        family = [plan_run, run, *(each for each in self._runs.values() if each.parent_run_id == plan_run.run_id)]
        return any(_named(each) for each in family if not each.state.ended)

    def _vm(self, vm_id: str) -> VmState:
        """What the workers know of a VM."""
        vm = next(
            (
                value
                for partition in range(self._world.log.partitions)
                if isinstance(value := self._world.workers.state(partition).store.state.get(f"vm/{vm_id}"), VmState)
            ),
            None,
        )
        assert vm is not None
        return vm

    def _route(self, vm_id: str, machine: Machine) -> None:
        vm = self._vm(vm_id)
        for location in vm.locations:
            end = machine.ends[location.site]
            what = f"{vm_id} is on {end.node}, the table says {location.node}"
            _require("I14", location.node == end.node, what)
        runs = [run for run in self._runs.values() if run.vm_id == vm_id]
        by_hand = any(word.action in _TAKES_OVER for run in runs for word in self._words[run.run_id])
        waiting = any(not run.state.ended and run.kind is not FailoverKind.TEST for run in runs)
        if by_hand or waiting or self._misled(vm_id) or vm.run_id:
            return
        running = [end.site for end in machine.running]
        _require("I14", not running or running == [vm.active_site], f"{vm_id} runs at {running}, not {vm.active_site}")
        roles = [location.role for location in vm.locations]
        _require("I14", roles.count(Role.PRIMARY) == 1, f"{vm_id} has the roles {', '.join(roles)}")
        active = machine.ends[vm.active_site]
        owns = active.mode is ReplicationMode.PRIMARY or active.state in (
            ReplicationState.FAILED_OVER_WAITING_COMPLETION,
            ReplicationState.FAILED_OVER,
        )
        _require("I14", owns, f"{vm_id} is active at {vm.active_site}, which is a {active.mode} that is {active.state}")

    def _chains(self) -> None:
        heads = [head for partition in range(self._world.log.partitions) for head in self._heads(partition)]
        findings = verify([link(entry, entry.chain) for entry in self._entries], heads)
        _require("I6", not findings, "; ".join(map(str, findings[:3])))

    def _heads(self, partition: int) -> Iterator[ChainHead]:
        for value in self._world.workers.state(partition).store.state.values():
            if isinstance(value, ChainHead):
                yield value


def _named(run: RunSnapshot) -> bool:
    return any(person in run.waits_for for person in (*PEOPLE, "anybody but", "an operator"))


def _require(number: str, holds: bool, what: str) -> None:
    if not holds:
        raise Violated(number, what)


def _approvals(asked: FailoverRequested | None, limits: Limits, run: RunSnapshot) -> list[ApprovalRule]:
    """What somebody has to agree to, by the policies and by what is asked."""
    rules = [
        rule
        for rule in limits.approvals
        if (not rule.kinds or run.kind in rule.kinds)
        and (not rule.to_site or not run.to_site or rule.to_site == run.to_site)
    ]
    # Of several the strictest counts, and of equals one of them: fewer people than the strictest are never enough.
    rules = [rule for rule in rules if rule.needed == max(each.needed for each in rules)][:1]
    if asked is not None and asked.accept_data_loss:
        rules.append(ApprovalRule(1))
    return rules
