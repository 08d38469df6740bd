"""A cluster under virtual time, for tests of how its settings are kept: the rules, a site agent, nodes that go wrong.

The agent does what a site's agent does: it applies settings, reads them back, answers, and looks at every node that is
up once a minute.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from types import MappingProxyType
from typing import TypeVar

from failover_orch.domain.broker import decide, due_ms, tick
from failover_orch.domain.draft import Decision, Fact, Moment, Output, State
from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.inventory import ClusterInventory, Node, NodeState
from failover_orch.domain.records import StepCommand
from failover_orch.domain.replication_settings import (
    ReplicationServer,
    SettingsChange,
    SettingsObserved,
    SettingsRevision,
    SettingsScope,
    SettingsStanding,
)
from failover_orch.domain.state import KeptSettings
from failover_orch.streams.store import _DECODERS, dump

CLUSTER, SITE, BROKER = "dc", "dr", "DR-BROKER"
START_MS = 1_000_000_000
LOOK_MS = 60_000
MINUTE_MS = 60_000

_T = TypeVar("_T")
_NONE: Mapping[str, str] = MappingProxyType({})
Answer = tuple[StepOutcome, str] | None
"""What an agent makes of a command: outcome and detail; None: it never answers."""
DONE: Answer = (StepOutcome.DONE, "")


def change(
    changes: Mapping[str, str], at_ms: int = START_MS, change_id: str = "", based_on: int = -1
) -> SettingsChange:
    return SettingsChange(SettingsScope.CLUSTER, CLUSTER, changes, "alice", "CHG-1", at_ms, "T-7", based_on, change_id)


@dataclass(slots=True)
class FakeNode:
    """A node: what it has, whether it is up, and what it makes of each command in turn (DONE where nothing is said)."""

    has: ReplicationServer = field(default_factory=ReplicationServer)
    state: NodeState = NodeState.UP
    answers: list[Answer] = field(default_factory=list)
    always: Answer = DONE
    overwritten: Callable[[ReplicationServer], ReplicationServer] | None = None
    """What somebody else makes of its settings, each time before it is looked at."""
    told: list[StepCommand] = field(default_factory=list)


class Site:
    """The rules of one partition, and the cluster that it keeps the settings of."""

    def __init__(self, names: Sequence[str]) -> None:
        self.now_ms = START_MS
        self.state: dict[str, State] = {}
        self.nodes = {name: FakeNode() for name in names}
        self.outputs: list[Output] = []
        self.at_ms: list[int] = []
        """When each of `outputs` was told."""
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self.later(LOOK_MS, self._look)

    def later(self, in_ms: int, do: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now_ms + in_ms, next(self._order), do))

    def inventory(self) -> ClusterInventory:
        nodes = tuple(Node(name, node.state, 65_536, 65_536) for name, node in self.nodes.items())
        return ClusterInventory(CLUSTER, SITE, BROKER, nodes, reported_at_ms=self.now_ms)

    def report(self) -> None:
        """The cluster's inventory, as it is now."""
        self.fold(self.inventory())

    def fold(self, fact: Fact) -> None:
        self._take(decide(self.state, fact, Moment(self.now_ms, 0)))

    def set(
        self, settings: Mapping[str, str] = _NONE, *, change_id: str = "", based_on: int = -1, **changes: str
    ) -> None:
        self.fold(change({**settings, **changes}, self.now_ms, change_id, based_on))

    def run(self, for_ms: int) -> None:
        """Let time pass, with everything that happens in it."""
        until_ms = self.now_ms + for_ms
        while True:
            due = min(((due_ms(value), key) for key, value in self.state.items() if due_ms(value)), default=None)
            next_ms = min(self._queue[0][0], due[0] if due else until_ms + 1)
            if next_ms > until_ms:
                break
            self.now_ms = max(self.now_ms, next_ms)
            if due is not None and due[0] <= self.now_ms:
                self._take(tick(self.state, due[1], Moment(self.now_ms, 0)))
            else:
                heapq.heappop(self._queue)[2]()
        self.now_ms = until_ms

    def of(self, kind: type[_T]) -> list[_T]:
        return [output for output in self.outputs if isinstance(output, kind)]

    @property
    def kept(self) -> KeptSettings:
        value = self.state[f"settings/cluster/{CLUSTER}"]
        assert isinstance(value, KeptSettings)
        return value

    @property
    def revision(self) -> SettingsRevision:
        assert self.kept.revision is not None
        return self.kept.revision

    def standings(self) -> dict[str, SettingsStanding]:
        """The last that was told of each node: what a reader of the compacted topic knows."""
        return {told.node: told for told in self.of(SettingsStanding)}

    def _take(self, decision: Decision) -> None:
        for key, value in decision.kept.items():
            # As it comes back from the changelog: whatever is lost on the way there is missed at once.
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = _DECODERS[key.partition("/")[0]].decode(dump(value))
        for output in decision.outputs:
            self.outputs.append(output)
            self.at_ms.append(self.now_ms)
            if isinstance(output, StepCommand):
                self._carry_out(output)

    def _carry_out(self, command: StepCommand) -> None:
        node = self.nodes[command.node]
        node.told.append(command)
        answer = node.answers.pop(0) if node.answers else node.always
        if answer is None or node.state is NodeState.DOWN:
            return
        outcome, detail = answer
        self.later(20, lambda: self.answer(command, outcome, detail))

    def answer(self, command: StepCommand, outcome: StepOutcome, detail: str) -> None:
        node = self.nodes[command.node]
        if outcome is StepOutcome.DONE and command.server is not None:
            node.has = command.server
        self.fold(
            StepResult(
                command.run_id,
                command.step,
                command.attempt,
                command.vm_id,
                command.site,
                command.node,
                command.epoch,
                outcome,
                detail,
                self.now_ms,
                key=command.key,
            )
        )

    def _look(self) -> None:
        self.later(LOOK_MS, self._look)
        for name, node in self.nodes.items():
            if node.state is NodeState.DOWN:
                continue
            if node.overwritten is not None:
                node.has = node.overwritten(node.has)
            self.observe(name)

    def observe(self, name: str, server: ReplicationServer | None = None, at_ms: int = 0) -> None:
        """The agent says what a node has."""
        has = server or self.nodes[name].has
        self.fold(SettingsObserved(SITE, CLUSTER, name, at_ms or self.now_ms, server=has))


def with_port(port: int) -> Callable[[ReplicationServer], ReplicationServer]:
    return lambda server: replace(server, http_port=port)
