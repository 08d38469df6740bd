"""What the tests of single rules share: VMs as each workflow finds them, runs brought up to a step, a partition."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from simulator import PRIMARY, REPLICA, TARGET, inventory, request

from failover_orch.domain.broker import decide, tick
from failover_orch.domain.draft import Decision, Fact, Moment, Output, State
from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction, StepOutcome, StepResult
from failover_orch.domain.policies import AutomaticRun, Brake
from failover_orch.domain.records import (
    JournalEntry,
    Location,
    MemberReadiness,
    PlanMembership,
    Role,
    RunSnapshot,
    RunState,
    StepCommand,
    StepProgress,
)
from failover_orch.domain.runs import Advance, begin, on_due, on_result, pending_steps
from failover_orch.domain.settings import VmReplicationSettings
from failover_orch.domain.state import PlanRun, Run, VmState
from failover_orch.domain.terms import CommitPolicy
from failover_orch.domain.workflows import WORKFLOWS

PLANNED, UNPLANNED, TEST, REPROTECT, FAILBACK = FailoverKind
DONE, FAILED, REFUSED, STALE, BEGUN, UNCERTAIN = StepOutcome
NOW = 50_000_000

AT_PRIMARY = Location(PRIMARY, "p1", Role.PRIMARY, 1, "pc")
AT_REPLICA = Location(REPLICA, "d1", Role.REPLICA, 2, "dc")
VM = VmState(
    "vm-1",
    epoch=7,
    inventory=inventory(),
    settings=VmReplicationSettings("vm-1", (TARGET,)),
    home_site=PRIMARY,
    locations=(AT_REPLICA, AT_PRIMARY),
    active_site=PRIMARY,
    replica_site=REPLICA,
)
LOST = replace(
    VM,
    locations=(replace(AT_REPLICA, role=Role.PRIMARY), replace(AT_PRIMARY, role=Role.RETIRED)),
    active_site=REPLICA,
    replica_site="",
)
"""After an unplanned failover."""
AWAY = replace(
    VM,
    settings=VmReplicationSettings("vm-1", (TARGET,), home_adapters=(TARGET,)),
    locations=(replace(AT_REPLICA, role=Role.PRIMARY), replace(AT_PRIMARY, role=Role.REPLICA)),
    active_site=REPLICA,
    replica_site=PRIMARY,
)
"""After a planned failover."""
FOUND = {PLANNED: VM, UNPLANNED: VM, TEST: VM, REPROTECT: LOST, FAILBACK: AWAY}
"""The VM as each workflow finds it."""
STEPS = [(kind, step) for kind, workflow in WORKFLOWS.items() for step in workflow.steps]

_T = TypeVar("_T")


def goes_to(vm: VmState) -> str:
    return vm.replica_site or next(here.site for here in vm.locations if here.site != vm.active_site)


def new_run(asked: FailoverRequested, vm: VmState | None = None) -> Run:
    """A run that has not begun."""
    vm = vm or FOUND[asked.kind]
    return Run(
        request=asked,
        state=RunState.RUNNING,
        steps=pending_steps(WORKFLOWS[asked.kind]),
        position=0,
        epoch=0,
        primary_site=vm.active_site,
        replica_site=goes_to(vm),
        started_at_ms=NOW,
        adapters=vm.settings.adapters if vm.settings else (),
        point=asked.point,
    )


def begun(asked: FailoverRequested, vm: VmState | None = None) -> Advance:
    vm = vm or FOUND[asked.kind]
    return begin(new_run(asked, vm), vm, NOW)


def result(advance: Advance, outcome: StepOutcome = DONE, **differs: object) -> StepResult:
    """The answer to the last command."""
    command = advance.commands[-1]
    answer = StepResult(
        run_id=command.run_id,
        step=command.step,
        attempt=command.attempt,
        vm_id=command.vm_id,
        site=command.site,
        node=command.node,
        epoch=command.epoch,
        outcome=outcome,
        detail="as told",
        finished_at_ms=NOW,
    )
    return replace(answer, **differs)  # type: ignore[arg-type]  # any field may be named


def answered(advance: Advance, outcome: StepOutcome = DONE, now_ms: int = NOW, **differs: object) -> Advance:
    return on_result(advance.run, advance.vm, result(advance, outcome, **differs), now_ms)


def up_to(step: str, asked: FailoverRequested | FailoverKind = PLANNED, vm: VmState | None = None) -> Advance:
    """A run whose steps before this one are done, so that this one has just been issued or, a window, opened."""
    asked = request(asked) if isinstance(asked, FailoverKind) else asked
    advance = begun(asked, vm)
    while advance.run.steps[advance.run.position].step != step:
        advance = answered(advance)
    return advance


def held(kind: FailoverKind = UNPLANNED, commit: CommitPolicy = CommitPolicy.HOLD, window_ms: int = 0) -> Advance:
    """A run that awaits commitment."""
    asked = replace(request(kind), commit=commit, window_ms=window_ms)
    return up_to({UNPLANNED: "U7", TEST: "T4"}[kind], asked)


def tried_out(advance: Advance, outcome: StepOutcome = FAILED) -> Advance:
    """The step in hand fails with every attempt that it has."""
    step = advance.commands[-1].step
    for _ in range(200):
        advance = answered(advance, outcome)
        if advance.run.steps[advance.run.position].state.value != "WAITING" or advance.run.state is RunState.PARKED:
            return advance
        advance = on_due(advance.run, advance.vm, advance.run.due_ms)
    raise AssertionError(f"{step} never fails for good")


def to_the_end(advance: Advance) -> Advance:
    """Everything that is asked from here on is done, until the run ends or waits for a person."""
    while not advance.run.state.ended and not advance.run.waits_for:
        advance = answered(advance)
    return advance


def rules(advance: Advance) -> list[str]:
    return [transition.rule for transition in advance.transitions]


def progress_of(run: Run | PlanRun, step: str) -> StepProgress:
    steps = run.steps if isinstance(run, Run) else run.progress
    return next(progress for progress in steps if progress.step == step)


def word(action: RequestAction, said_of: FailoverRequested, **differs: object) -> FailoverRequested:
    """What Bob says to a run."""
    said = replace(said_of, action=action, actor="bob", reason="seen", ticket="INC-8")
    return replace(said, **differs)  # type: ignore[arg-type]  # any field may be named


class Fold:
    """One partition of the broker: it takes what it is told, and what it tells itself.

    Nobody carries out its commands: a test answers them.
    """

    def __init__(self, *facts: Fact, opened_at_ms: int = 0) -> None:
        self.state: dict[str, State] = {}
        self.now_ms = NOW
        self.opened_at_ms = opened_at_ms
        self.outputs: list[Output] = []
        self.take(*facts)

    def take(self, *facts: Fact) -> Decision:
        """Fold facts and all that follows from them; returns what the last one alone has led to."""
        last = Decision()
        for fact in facts:
            last = self._apply(decide(self.state, fact, self._moment()))
            queue = deque(_facts(last.outputs))
            while queue:
                queue += _facts(self._apply(decide(self.state, queue.popleft(), self._moment())).outputs)
        return last

    def wait(self, after_ms: int) -> None:
        """Let time pass, and look at what has become due then."""
        self.now_ms += after_ms
        for key in sorted(self.state):
            if key in self.state:
                queue = deque(_facts(self._apply(tick(self.state, key, self._moment())).outputs))
                while queue:
                    queue += _facts(self._apply(decide(self.state, queue.popleft(), self._moment())).outputs)

    def answer(self, outcome: StepOutcome = DONE, step: str = "", **differs: object) -> Decision:
        """A site agent answers the last command, or the last one of that step."""
        command = [each for each in self.told(StepCommand) if step in ("", each.step)][-1]
        answer = StepResult(
            run_id=command.run_id,
            step=command.step,
            attempt=command.attempt,
            vm_id=command.vm_id,
            site=command.site,
            node=command.node,
            epoch=command.epoch,
            outcome=outcome,
            detail="as told",
            finished_at_ms=self.now_ms,
            key=command.key,
        )
        return self.take(replace(answer, **differs))  # type: ignore[arg-type]  # any field may be named

    def value(self, key: str, kind: type[_T]) -> _T:
        value = self.state[key]
        assert isinstance(value, kind)
        return value

    def vm(self, vm_id: str = "vm-1") -> VmState:
        return self.value(f"vm/{vm_id}", VmState)

    def run(self, run_id: str = "r") -> Run:
        return self.value(f"run/{run_id}", Run)

    def plan_run(self, run_id: str = "r") -> PlanRun:
        return self.value(f"plan-run/{run_id}", PlanRun)

    def told(self, kind: type[_T]) -> list[_T]:
        """The outputs of a kind, in order."""
        return [each for each in self.outputs if isinstance(each, kind)]

    def journal(self, run_id: str | None = None) -> list[str]:
        """The journal's rules and sentences, of one run or of all."""
        entries = (each for each in self.told(JournalEntry) if run_id in (None, each.run_id))
        return [f"{each.rule} {each.what}" for each in entries]

    def rules(self, run_id: str | None = None) -> list[str]:
        return [line.partition(" ")[0] for line in self.journal(run_id)]

    def refused(self) -> list[tuple[str, str]]:
        """Rule and reason of every refusal."""
        entries = (each for each in self.told(JournalEntry) if each.what.startswith("refused: "))
        return [(each.rule, each.what.removeprefix("refused: ")) for each in entries]

    def snapshot(self, run_id: str = "r") -> RunSnapshot:
        """How readers see a run now."""
        return [each for each in self.told(RunSnapshot) if each.run_id == run_id][-1]

    def _moment(self) -> Moment:
        return Moment(self.now_ms, 0, opened_at_ms=self.opened_at_ms)

    def _apply(self, decision: Decision) -> Decision:
        self.state.update(decision.noted)
        for key, value in decision.kept.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        self.outputs += decision.outputs
        return decision


def _facts(outputs: Iterable[Output]) -> list[Fact]:
    """The outputs that are facts again."""
    kinds = FailoverRequested | StepResult | PlanMembership | MemberReadiness | AutomaticRun | Brake
    return [each for each in outputs if isinstance(each, kinds)]
