"""Simulated site agents: they take a site's commands, have them done, and answer; or do not, as the schedule says.

Commands of one VM are carried out one after the other. A command taken and not answered when an agent crashes is
delivered again to the next one; for what cannot be asked about afterwards, that one answers that nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from failover_orch.domain import Action, StepCommand, StepOutcome, StepResult
from simulation.loop import Loop
from simulation.machines import Hypervisors, Site
from simulation.schedule import Behaviour

__all__ = ["Agent", "Order"]

_SCRIPTS = (Action.RUN_SCRIPT, Action.CALL_HTTP)
_SLOW_ACTIONS = {Action.SHUT_DOWN: 3_000, Action.PREPARE: 1_500, Action.START: 1_000, Action.CREATE_TEST: 1_000}
"""What takes longer than the rest, in milliseconds at most."""


@dataclass(frozen=True, slots=True)
class Order:
    """A command as it stands in its topic, and what is to become of it."""

    number: int
    command: StepCommand
    behaviour: Behaviour | None = None
    lasts_ms: int = 0


class Agent:
    """The agents of one site, one at a time. `publish` puts a result on its way, `began` is told of each new agent."""

    def __init__(
        self,
        site: Site,
        loop: Loop,
        hypervisors: Hypervisors,
        random: Random,
        *,
        publish: Callable[[StepResult], None],
        performed: Callable[[StepCommand], None],
        began: Callable[[str], None],
        say: Callable[[str], None],
    ) -> None:
        self.site = site
        self.scripts: list[tuple[str, str, int]] = []
        """Scripts and calls that were really begun: run, step, attempt."""
        self._loop = loop
        self._hypervisors = hypervisors
        self._random = random
        self.looked_at: list[tuple[str, str, int]] = []
        """How far somebody has looked through them."""
        self._publish = publish
        self._performed = performed
        self._began = began
        self._say = say
        self._alive = True
        self._life = 0
        self._unanswered: dict[int, Order] = {}
        self._lanes: dict[str, int] = {}
        self._ledger: dict[tuple[str, str, int], StepResult | None] = {}
        """What was begun of what cannot be asked about, as told by the results' topic; None: no end was told."""

    @property
    def at_work(self) -> bool:
        return self._alive and self.site.reachable

    def take(self, order: Order) -> None:
        """A command has become visible."""
        self._unanswered[order.number] = order
        if self.at_work:
            self._begin(order)

    def crash(self, back_after_ms: int) -> None:
        """The agent is gone; another takes over after a while."""
        self._say(f"the agent of {self.site.name} crashes")
        self._alive = False
        self._life += 1
        self._lanes.clear()
        self._loop.after(back_after_ms, self._back, self._life)

    def stop(self) -> None:
        """The site is without power, or cut off."""
        self._life += 1
        self._lanes.clear()

    def resume(self) -> None:
        """Take up what was not answered."""
        if self.at_work:
            for order in list(self._unanswered.values()):
                self._begin(order)

    def _back(self, life: int) -> None:
        self._alive = True
        if self._life == life:
            self._began(self.site.name)
            self.resume()

    def _begin(self, order: Order) -> None:
        command, now = order.command, self._loop.now_ms
        lane = command.vm_id or (f"{command.key}/{command.node}" if command.server is not None else command.key)
        start = max(now, self._lanes.get(lane, 0))
        duration = self._random.randint(2, _SLOW_ACTIONS.get(command.action, 250))
        self._lanes[lane] = start + duration
        self._loop.at(start, self._start, order, self._life, duration)

    def _start(self, order: Order, life: int, duration_ms: int) -> None:
        if life != self._life:
            return
        command, behaviour = order.command, order.behaviour
        if command.deadline_ms <= self._loop.now_ms:
            self._answer(order, life, StepOutcome.FAILED, "not begun: its deadline had passed", {})
        elif behaviour is Behaviour.SILENT:
            self._note(order, "is ignored")
        elif behaviour in (Behaviour.FAILED, Behaviour.REFUSED):
            outcome = StepOutcome.FAILED if behaviour is Behaviour.FAILED else StepOutcome.REFUSED
            self._answer(order, life, outcome, "as the schedule says", {})
        elif command.action in _SCRIPTS:
            if behaviour is Behaviour.DOUBLE:
                self._loop.after(order.lasts_ms, self._script, replace(order, behaviour=None), life, duration_ms)
            self._script(order, life, duration_ms)
        else:
            if behaviour in (Behaviour.SLOW, Behaviour.DOUBLE):
                # An agent that hung after it had looked at the deadline: it acts when it wakes up.
                self._loop.after(order.lasts_ms, self._act, order, None)
            if behaviour is not Behaviour.SLOW:
                self._loop.after(duration_ms, self._act, order, life)

    def _act(self, order: Order, life: int | None) -> None:
        """Have it done. Without a life: by an agent that nobody knows of any more; the site has to be there, though."""
        if life is None:
            if not self.site.powered:
                return
        elif life != self._life:
            return
        command, behaviour = order.command, order.behaviour
        outcome, detail, observed = self._hypervisors.perform(command, self._loop.now_ms)
        self._note(order, f"{outcome.lower()} ({detail})")
        self._performed(command)
        if life is None:
            if self.site.reachable:
                self._publish(self._result(command, outcome, detail, observed))
            return
        if behaviour is Behaviour.LOST:
            return
        if behaviour is Behaviour.CRASH:
            self.crash(order.lasts_ms)
            return
        if behaviour is Behaviour.DONE_AND_FAILED:
            outcome, detail = StepOutcome.FAILED, "no answer from the hypervisor by its deadline"
        delay = order.lasts_ms if behaviour is Behaviour.LATE else self._random.randint(1, 60)
        self._loop.after(delay, self._answer, order, life, outcome, detail, observed)
        if behaviour is Behaviour.TWICE:
            self._loop.after(delay + order.lasts_ms, self._answer, order, life, outcome, detail, observed)

    def _script(self, order: Order, life: int, duration_ms: int) -> None:
        """At most once: what was begun is told before it begins, and is not begun again by anybody."""
        command = order.command
        key = (command.run_id, command.step, command.attempt)
        if key in self._ledger:
            ended = self._ledger[key]
            if ended is not None:
                self._publish(ended)
                self._unanswered.pop(order.number, None)
            else:
                self._answer(order, life, StepOutcome.UNCERTAIN, "it was begun, and its end is not known", {})
            return
        self._ledger[key] = None
        self._publish(self._result(command, StepOutcome.BEGUN, "it begins", {}))
        self.scripts.append(key)
        self._note(order, "begun")
        if order.behaviour is Behaviour.CRASH:
            self._loop.after(duration_ms, self.crash, order.lasts_ms)
        elif order.behaviour is not Behaviour.LOST:
            failed = order.behaviour is Behaviour.DONE_AND_FAILED
            outcome = StepOutcome.FAILED if failed else StepOutcome.DONE
            self._loop.after(duration_ms, self._answer, order, life, outcome, "exit status", {})

    def _answer(self, order: Order, life: int, outcome: StepOutcome, detail: str, observed: dict[str, str]) -> None:
        if life != self._life or not self.at_work:
            return
        self._unanswered.pop(order.number, None)
        result = self._result(order.command, outcome, detail, observed)
        if order.command.action in _SCRIPTS and outcome in (StepOutcome.DONE, StepOutcome.FAILED):
            self._ledger[order.command.run_id, order.command.step, order.command.attempt] = result
        self._publish(result)

    def _result(self, command: StepCommand, outcome: StepOutcome, detail: str, observed: dict[str, str]) -> StepResult:
        return StepResult(
            run_id=command.run_id,
            step=command.step,
            attempt=command.attempt,
            vm_id=command.vm_id,
            site=command.site,
            node=observed.get("node") or command.node,
            epoch=command.epoch,
            outcome=outcome,
            detail=detail,
            finished_at_ms=self._loop.now_ms,
            observed=observed,
            key=command.key,
        )

    def _note(self, order: Order, what: str) -> None:
        command = order.command
        about = command.vm_id or command.node
        self._say(f"{self.site.name}: {command.action} {about} ({command.run_id} {command.step}) {what}")
