"""A request's way through the rules, with everything done as it should be: what a dry run is read from. Pure.

The request is folded by `broker.decide`, as a worker folds it, on a copy of the state. Every command that follows is
answered DONE after as long as such a step usually takes, every person who is waited for agrees, and that is folded in
turn.

The rules' clock stands still at the time of asking: replication goes on until a failover is begun, so what would be
lost must not grow while the walk's own clock, in milliseconds since the request, goes on.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import median_low

from failover_orch.domain.broker import decide
from failover_orch.domain.draft import Decision, Fact, Moment, State
from failover_orch.domain.facts import FailoverRequested, RequestAction, StepOutcome, StepResult
from failover_orch.domain.records import Action, RunSnapshot, RunState, StepCommand, StepState
from failover_orch.domain.settings import PlanActionKind
from failover_orch.domain.state import PlanRun, PlanTask, Run, TaskKind, VmState
from failover_orch.domain.workflows import WORKFLOWS

__all__ = [
    "AGENT_PER_NODE",
    "ASSUMED_MS",
    "NEVER",
    "RUN_ID",
    "SERVES",
    "Durations",
    "Job",
    "Walk",
    "durations_of",
    "what_is_done",
]

RUN_ID = "dry-run"
NEVER = -1
AGENT_PER_NODE = 4
"""Steps that a site agent carries out on one node at a time, unless it is told otherwise."""

_S = 1_000
ASSUMED_MS: Mapping[str, int] = {
    Action.SHUT_DOWN: 60 * _S,
    Action.PREPARE: 30 * _S,
    Action.REVERSE: 5 * _S,
    Action.START: 30 * _S,
    Action.VERIFY_ADDRESSES: 30 * _S,
    Action.RESYNCHRONIZE: 60 * _S,
    Action.AWAIT_REPLICATION: 600 * _S,
    Action.CREATE_TEST: 10 * _S,
    Action.START_TEST: 30 * _S,
    Action.VERIFY_TEST: 30 * _S,
    Action.RUN_SCRIPT: 30 * _S,
    Action.CHECK_GATE: 10 * _S,
}
"""How long a step is taken to last where no earlier run has shown it; what is not named, `_ASSUMED_MS`."""
_ASSUMED_MS = 2 * _S
SERVES = (Action.START, Action.START_TEST)
_FROM_A_POINT = (Action.FAIL_OVER, Action.CREATE_TEST)
_PLAN_WORK = (Action.RUN_SCRIPT, Action.CALL_HTTP)


@dataclass(frozen=True, slots=True)
class Durations:
    """How long steps took in earlier runs: by action, or `<plan>|<task>`, the median in milliseconds and its count."""

    known: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def of(self, name: str, action: str) -> tuple[int, int]:
        """How long it takes, and of how many earlier ones that is the median (0: it is assumed)."""
        return self.known.get(name) or self.known.get(action) or (ASSUMED_MS.get(action, _ASSUMED_MS), 0)


def durations_of(runs: Iterable[RunSnapshot]) -> Durations:
    """The durations that runs have shown: of every step that was done, retries included."""
    found: dict[str, list[int]] = {}
    for run in runs:
        actions = {step.number: step.action for step in WORKFLOWS[run.kind].steps} if run.vm_id else {}
        for progress in run.steps:
            name = actions.get(progress.step) if run.vm_id else f"{run.plan_id}|{progress.step}"
            if name and progress.state is StepState.DONE and progress.finished_at_ms and progress.started_at_ms:
                found.setdefault(name, []).append(max(0, progress.finished_at_ms - progress.started_at_ms))
    return Durations({name: (median_low(times), len(times)) for name, times in found.items()})


@dataclass(slots=True, eq=False)
class Job:
    """Something under way: a step, an action, a gate, or what a person does. `answer` is what is folded at its end."""

    run_id: str
    name: str
    of: str
    """The task of the plan that it is part of, or the VM."""
    action: str
    answer: Fact
    takes_ms: int
    history: int
    limits: Mapping[tuple[str, ...], int]
    asked_ms: int
    cause: Job | None
    command: StepCommand | None = None
    begins_ms: int = NEVER
    ends_ms: int = NEVER
    waited_for: str = ""

    @property
    def person(self) -> bool:
        return self.command is None


class Walk:
    """A request's way through the rules, with every step done as it should be. `now_ms` counts from the request."""

    def __init__(
        self,
        state: dict[str, State],
        request: FailoverRequested,
        moment: Moment,
        durations: Durations,
        agent_per_node: int,
    ) -> None:
        self.state = state
        self.request = request
        self.moment = moment
        self.now_ms = 0
        self.done: list[Job] = []
        self.begun: dict[str, int] = {}
        """When each VM's run was asked for."""
        self.runs: dict[str, RunSnapshot] = {}
        self.people: list[str] = []
        """What people would have to do or say."""
        self.ends_as = ""
        self._durations = durations
        self._agent_per_node = agent_per_node
        self._facts: deque[Fact] = deque([request])
        self._at_work: list[tuple[int, int, Job]] = []
        self._waiting: list[Job] = []
        self._taken: Counter[tuple[str, ...]] = Counter()
        self._cause: Job | None = None
        self._asked: set[tuple[str, str]] = set()

    def of(self, state: Mapping[str, State], request: FailoverRequested) -> Walk:
        """Another request's way, on the same terms, walked to its end."""
        other = Walk(dict(state), request, self.moment, self._durations, self._agent_per_node)
        other.go()
        return other

    def go(self) -> None:
        """Walk to the end, or to where not even people can help."""
        self.begun[self.request.vm_id] = 0
        while self._fold_all() or self._finish_one() or self._say_commit():
            pass
        known = self.runs.get(RUN_ID)
        self.ends_as = self.ends_as or (known.state.value if known is not None else RunState.REFUSED.value)

    def _fold_all(self) -> bool:
        moved = False
        while self._facts or self._approve():
            moved = True
            self._take(decide(self.state, self._facts.popleft(), self.moment))
        self._hand_to_people()
        return moved

    def _take(self, decision: Decision) -> None:
        self.state.update(decision.noted)
        for key, value in decision.kept.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        for output in decision.outputs:
            match output:
                case FailoverRequested():
                    self.begun.setdefault(output.vm_id, self.now_ms)
                    self._facts.append(output)
                case StepResult():
                    self._facts.append(output)
                case RunSnapshot():
                    self.runs[output.run_id] = output
                case StepCommand():
                    self._ask(self._job(output))

    def _finish_one(self) -> bool:
        """Let time go on to the end of the next job."""
        if not self._at_work:
            return False
        self.now_ms, _, job = heapq.heappop(self._at_work)
        self._taken -= Counter(job.limits.keys())
        self._cause = job
        self.done.append(job)
        self._facts.append(job.answer)
        self._serve(freed_by=job)
        return True

    def _ask(self, job: Job) -> None:
        self._waiting.append(job)
        self._serve(freed_by=None)

    def _serve(self, *, freed_by: Job | None) -> None:
        """Begin whatever there is room for: first come, first served, as a site agent's turns are given."""
        for job in list(self._waiting):
            full = [name for name, most in job.limits.items() if self._taken[name] >= most]
            if full:
                job.waited_for = " ".join(full[0])
                continue
            self._waiting.remove(job)
            self._taken.update(job.limits.keys())
            job.begins_ms, job.ends_ms = self.now_ms, self.now_ms + job.takes_ms
            job.cause = freed_by if freed_by is not None and job.waited_for else job.cause
            heapq.heappush(self._at_work, (job.ends_ms, len(self.done) + len(self._at_work), job))

    def _job(self, command: StepCommand) -> Job:
        action = command.action.value
        takes_ms, history = self._durations.of(f"{self.request.plan_id}|{command.step}", action)
        return Job(
            run_id=command.run_id,
            name=command.step,
            of=command.step if command.plan_action is not None or command.gate is not None else command.vm_id,
            action=action,
            answer=_done(command, self.state),
            takes_ms=takes_ms,
            history=history,
            limits=self._limits(command),
            asked_ms=self.now_ms,
            cause=self._cause,
            command=command,
        )

    def _limits(self, command: StepCommand) -> Mapping[tuple[str, ...], int]:
        """As a site agent counts them: see `site.steps`. Scripts and calls are not done on a node."""
        if command.action in _PLAN_WORK:
            return {}
        limits: dict[tuple[str, ...], int] = {("node", command.site, command.node): self._agent_per_node}
        if command.plan_run_id:
            limits["the plan's share of site", command.site] = command.per_site
            limits["the plan's share of node", command.site, command.node] = command.per_node
        return {name: most for name, most in limits.items() if most}

    # People

    def own_runs(self) -> Iterator[Run | PlanRun]:
        """The run that was asked for, while it has not ended."""
        for key in (f"plan-run/{RUN_ID}", f"run/{RUN_ID}"):
            run = self.state.get(key)
            if isinstance(run, Run | PlanRun) and not run.state.ended:
                yield run

    def _approve(self) -> bool:
        """Let the next of those agree whose approval is waited for."""
        for run in self.own_runs():
            if run.state is not RunState.AWAITING_APPROVAL or run.approval is None:
                continue
            asker, given = self.request.actor, run.approval.given
            people = run.approval.rule.approvers or tuple(f"approver {n + 1}" for n in range(run.approval.rule.needed))
            for person in people:
                if person != asker and person not in given and ("approve", person) not in self._asked:
                    self._asked.add(("approve", person))
                    self._say(RequestAction.APPROVE, person)
                    return True
        return False

    def _hand_to_people(self) -> None:
        """Give what waits for a person to one."""
        for run in self.own_runs():
            for task in _for_a_person(run):
                if ("do", task.task_id) in self._asked:
                    continue
                self._asked.add(("do", task.task_id))
                self._ask(self._persons_job(task))
                self.people.append(f"{task.task_id} waits for a person, {what_is_done(task)}")

    def _persons_job(self, task: PlanTask) -> Job:
        """It takes as long as it took in earlier runs; no time at all where there were none."""
        name = f"{self.request.plan_id}|{task.task_id}"
        takes_ms, history = self._durations.known.get(name, (0, 0))
        word = replace(self.request, action=RequestAction.CONFIRM, step=task.task_id)
        return Job(
            run_id=RUN_ID,
            name=task.task_id,
            of=task.task_id,
            action="a person",
            answer=word,
            takes_ms=takes_ms,
            history=history,
            limits={},
            asked_ms=self.now_ms,
            cause=self._cause,
        )

    def _say_commit(self) -> bool:
        """Nothing is under way: a failover that waits for a word is kept."""
        for run in self.own_runs():
            if run.state is RunState.AWAITING_COMMIT and ("commit", RUN_ID) not in self._asked:
                self._asked.add(("commit", RUN_ID))
                self.ends_as = run.state.value
                self.people.append(run.waits_for)
                self._say(RequestAction.COMMIT, self.request.actor)
                return True
        return False

    def _say(self, action: RequestAction, actor: str) -> None:
        self._facts.append(replace(self.request, action=action, actor=actor))


def _for_a_person(run: Run | PlanRun) -> list[PlanTask]:
    if not isinstance(run, PlanRun):
        return []
    waiting = {each.step for each in run.progress if each.state is StepState.WAITING}
    return [task for task in run.tasks if task.kind is not TaskKind.VM and task.task_id in waiting]


def _done(command: StepCommand, state: Mapping[str, State]) -> StepResult:
    """The answer to a command that was carried out as it should be."""
    observed = {}
    vm = state.get(f"vm/{command.vm_id}")
    if command.action in _FROM_A_POINT and isinstance(vm, VmState):
        end = next((end for end in vm.ends if end.site == command.site), None)
        if end is not None and end.last_replication_at_ms:
            observed["recovery_point_at_ms"] = str(end.last_replication_at_ms)
    return StepResult(
        run_id=command.run_id,
        step=command.step,
        attempt=command.attempt,
        vm_id=command.vm_id,
        site=command.site,
        node=command.node,
        epoch=command.epoch,
        outcome=StepOutcome.DONE,
        detail="dry run",
        finished_at_ms=command.issued_at_ms,
        observed=observed,
        key=command.key,
    )


def what_is_done(task: PlanTask) -> str:
    """What a task does, in words."""
    if task.action is not None:
        action = task.action
        if action.kind is PlanActionKind.MANUAL:
            return f"by hand: {action.instruction}"
        told = " ".join(action.command) or f"{action.method} {action.url}"
        return f"{action.kind.lower()} {told} at {action.site}"
    if task.gate is not None:
        gate = task.gate
        asked = f" {gate.port}" if gate.port else (f" {' '.join(gate.command)}" if gate.command else "")
        return f"gate {gate.kind.lower().replace('_', ' ')}{asked} of {task.vm_id}"
    return f"failover of {task.vm_id}"
