"""The world of a story: two sites, their hypervisors and agents, those who watch them, and the broker.

It is the domain tests' world, with what only time brings: replication cycles and their reports, observers that look
again and again, actions that take as long as they do, sites that cannot be reached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from machine import Machine
from simulator import PRIMARY, REPLICA, Behaviour, World

from failover_orch.domain.draft import Decision, Fact
from failover_orch.domain.facts import (
    FailoverRequested,
    MoveKind,
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
from failover_orch.domain.policies import Evidence, Policy, Verdict
from failover_orch.domain.records import Action, AuditEntry, JournalEntry, StepCommand
from failover_orch.domain.replication import ReplicationState
from failover_orch.domain.replication_settings import (
    ReplicationServer,
    SettingsChange,
    SettingsObserved,
    SettingsScope,
    VmReplication,
)
from failover_orch.domain.settings import (
    AdapterAddresses,
    FamilyAddresses,
    RecoveryPlan,
    VmReplicationSettings,
)
from failover_orch.domain.settings_catalogue import find_setting
from failover_orch.site.steps import _SAYS
from narratives.log import BEGINNING_MS, Line, said

__all__ = ["CLOUD", "PLACES", "StoryWorld", "VmGiven", "Way", "Wishes"]

CLOUD = "cloud"
PLACES = {"p1": PRIMARY, "p2": PRIMARY, "d1": REPLICA, "d2": REPLICA}
CYCLE_MS = 30_000
WATCH_MS = 15_000
LOOK_MS = 60_000
"""How often a site's agent looks at what settings its nodes have."""
ISOLATED = "isolated"
_OTHER = {PRIMARY: REPLICA, REPLICA: PRIMARY}
_TAKES_MS: Mapping[Action, int] = {
    Action.SHUT_DOWN: 20_000,
    Action.PREPARE: 4_000,
    Action.START: 15_000,
    Action.START_TEST: 15_000,
}
"""How long an action takes; the others a second."""
_NODE_MEMORY_MIB = 65_536


class Way(StrEnum):
    """How a story is told: as it is, with every fact and command twice, with a crash after each decision."""

    PLAIN = "plain"
    DOUBLED = "doubled"
    CRASHED = "crashed"


@dataclass(slots=True)
class VmGiven:
    """A VM as a story has it before its clock starts."""

    vm_id: str
    node: str
    replica_node: str
    number: int
    alive: bool = True
    addressed: bool = True


@dataclass(slots=True)
class Wishes:
    """What a story says before its clock starts."""

    vms: dict[str, VmGiven] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    plan: RecoveryPlan | None = None
    witnesses: dict[str, str] = field(default_factory=dict)
    """The site that each observer watches, by the observer's place."""
    fences: tuple[str, ...] = ()
    """Whose power the site of the replicas can cut."""
    audited: bool = False
    takeover_matters: bool = False


class StoryWorld(World):
    """A world that keeps its log."""

    def __init__(self, wishes: Wishes, way: Way) -> None:
        self.lines: list[Line] = []
        self.unreachable: set[str] = set()
        """Sites that neither the broker nor an observer can reach."""
        self.unwatched: set[tuple[str, str]] = set()
        """Observers, by their place, that cannot reach a site though others can."""
        self.silenced: set[str] = set()
        """VMs whose replication is interrupted."""
        self.takes_ms: dict[tuple[str, str], int] = {}
        self.words: dict[tuple[str, str], str] = {}
        self.scripted: dict[str, dict[str, list[Behaviour]]] = defaultdict(dict)
        self.requests: dict[str, FailoverRequested] = {}
        self.last_word: Fact | None = None
        self.sequences: dict[tuple[str, str], int] = defaultdict(lambda: 1)
        self.clusters = _clusters(wishes.fences)
        self.settings: dict[str, VmReplicationSettings] = {}
        self.plan = wishes.plan
        self.servers: dict[str, ReplicationServer] = {}
        """What each node accepts from primary servers."""
        self.replications: dict[str, VmReplication] = {}
        self.overwritten: dict[str, tuple[str, str]] = {}
        """Settings that somebody else makes again and again: by node, the setting and its value as text."""
        self._looks = False
        self._wishes = wishes
        self._held: dict[str, list[Callable[[], None]]] = defaultdict(list)
        self._before: Fact | None = None
        self._telling = False
        super().__init__(
            (), partitions=2, doubled=way is Way.DOUBLED, crashing=way is Way.CRASHED, start_ms=BEGINNING_MS - 60_000
        )
        self._behaviours = self.scripted
        self.run(until_ms=BEGINNING_MS)
        self._telling = True

    def happens(self, what: str) -> None:
        """A line of the story itself."""
        self.lines.append(Line(self.now_ms, "", what))

    def reaches(self, site: str) -> bool:
        """Whether what a site's agent says is heard, and what it is told gets there."""
        return site not in self.unreachable and site not in self.places.dark

    def tell_from(self, site: str, fact: Fact) -> None:
        """A site's agent tells something: now, or once it can be heard."""
        if self.reaches(site):
            self.send(fact)
        else:
            self._held[site].append(lambda: self.send(fact))

    def is_reached_again(self, site: str) -> None:
        """What waited on the way to or from a site gets through."""
        waiting, self._held[site] = self._held[site], []
        for each in waiting:
            self.later(1_000, each)
        self.later(1_000, lambda: self._tell_cluster(site))
        for machine in self.machines.values():
            self._tell_inventory(machine)

    def change_cluster(self, site: str, change: Callable[[ClusterInventory], ClusterInventory]) -> None:
        """A site's cluster is another one now, and says so."""
        cluster = change(self.clusters[site])
        self.clusters[site] = replace(cluster, reported_at_ms=self.now_ms)
        self.places.clusters = tuple(self.clusters.values())
        self._tell_cluster(site)

    def moves(self, vm_id: str, site: str, node: str) -> None:
        """A VM, or its replica, goes to another node of its site while it runs."""
        machine = self.machines[vm_id]
        left = machine.ends[site].node
        machine.moves(site, node)
        for where, kind, after_ms in ((node, MoveKind.LIVE, 0), (left, MoveKind.DEPARTED, 1)):
            self.sequences[vm_id, where] += 1
            at_ms, sequence = self.now_ms + after_ms, self.sequences[vm_id, where]
            self.tell_from(site, VmMoved(vm_id, site, where, kind, at_ms, site, sequence=sequence))

    def set_replication(self, change: SettingsChange) -> None:
        """Somebody changes replication settings; from then on agents look at what their nodes have."""
        self.send(change)
        if not self._looks:
            self._looks = True
            self._again(LOOK_MS, self._look)

    def overwrite(self, node: str, name: str, text: str) -> None:
        """Somebody else sets something on a node."""
        setting = find_setting(SettingsScope.CLUSTER, name)
        self.servers[node] = replace(self.servers.get(node, ReplicationServer()), **{name: setting.parse(text)})

    def _look(self) -> None:
        """Site agents say what their nodes have, and the VMs that are active there."""
        for overwritten, (name, text) in self.overwritten.items():
            self.overwrite(overwritten, name, text)
        for site, cluster in self.clusters.items():
            for node in cluster.nodes:
                has = self.servers.get(node.name, ReplicationServer())
                if node.state is not NodeState.DOWN:
                    self.tell_from(site, SettingsObserved(site, cluster.cluster, node.name, self.now_ms, server=has))

    def _outcome(self, command: StepCommand) -> tuple[StepOutcome, str, Mapping[str, str]]:
        if command.server is not None:
            self.servers[command.node] = command.server
        elif command.replication is not None:
            self.replications[command.vm_id] = command.replication
        else:
            return super()._outcome(command)
        return StepOutcome.DONE, "", {}

    def observe(self, place: str, site: str) -> None:
        """An observer says what it sees of a site."""
        seen = site not in self.places.dark | self.unreachable and (place, site) not in self.unwatched
        if place == REPLICA and self.places.cut:
            seen = False
        name = "witness" if place == CLOUD else f"agent at {place}"
        if place == CLOUD or self.reaches(place):
            self.send(Evidence(name, place, site, Verdict.UP if seen else Verdict.UNREACHABLE, self.now_ms))

    def _set_up(self, vms: Iterable[str], *, primary_alive: bool) -> None:
        """Every VM reports, then settings, policies and plans, then time begins to pass."""
        self.places.clusters = tuple(self.clusters.values())
        for cluster in self.clusters.values():
            self.send(replace(cluster, reported_at_ms=self.now_ms))
        for given in self._wishes.vms.values():
            self._place(given)
        for fact in self._wishes.facts:
            self.send(replace(fact, set_at_ms=self.now_ms) if isinstance(fact, Policy) else fact)
        if self.plan is not None:
            self.send(self.plan)
        for place, site in self._wishes.witnesses.items():
            self._again(WATCH_MS, lambda place=place, site=site: self.observe(place, site))  # type: ignore[misc]

    def _place(self, given: VmGiven) -> None:
        vm_id, nodes = given.vm_id, {PRIMARY: given.node, REPLICA: given.replica_node}
        told = _inventory(given, self.now_ms)
        machine = Machine(told, nodes, self.places, self.now_ms, alive=given.alive)
        self.machines[vm_id] = machine
        self.send(told)
        for site, node in nodes.items():
            self.send(VmMoved(vm_id, site, node, MoveKind.PLACED, self.now_ms, site, sequence=1))
        if given.addressed:
            self.settings[vm_id] = _settings(given, self.now_ms)
            self.send(self.settings[vm_id])
        self._again(CYCLE_MS, lambda: self._cycle(machine))

    def _again(self, every_ms: int, what: Callable[[], None]) -> None:
        def happens() -> None:
            what()
            self.later(every_ms, happens)

        self.later(every_ms, happens)

    def _cycle(self, machine: Machine) -> None:
        """Replicate where that is due, and report from both ends."""
        vm_id, cut = machine.vm.vm_id, self.places.cut
        self.places.cut = cut or vm_id in self.silenced
        changed = machine.replicate(self.now_ms)
        self.places.cut = cut
        if changed:
            self._tell_inventory(machine)
        for site in machine.ends:
            report = machine.report(site, self.now_ms)
            if report is not None and self.reaches(site):
                self.send(report)

    def _tell_cluster(self, site: str) -> None:
        if self.reaches(site):
            self.send(replace(self.clusters[site], reported_at_ms=self.now_ms))

    def _tell_inventory(self, machine: Machine) -> None:
        for site in machine.ends:
            told = machine.inventory(site, self.now_ms)
            if told is not None:
                self.later(500, lambda site=site, told=told: self.tell_from(site, told))  # type: ignore[misc]

    def _apply(self, partition: object, decision: Decision) -> None:
        muted = self._is_repeated_word
        for output in decision.outputs:
            if muted:
                # A person's word that comes twice is refused the second time, and nothing else may follow from it.
                assert isinstance(output, AuditEntry | JournalEntry), output
            elif self._telling:
                for line in said(output, self.now_ms, audited=self._wishes.audited):
                    # What concerns everything, every partition says: one line of it is enough.
                    if not line.subject or line != self.lines[-1]:
                        self.lines.append(line)
        super()._apply(partition, decision)  # type: ignore[arg-type]  # a Partition, of the simulator

    @property
    def _is_repeated_word(self) -> bool:
        return self._repeated is not None

    _repeated: Fact | None = None

    def _deliver(self, fact: Fact) -> None:
        word = isinstance(fact, FailoverRequested) and fact.action is not RequestAction.REQUEST
        self._repeated = fact if word and fact is self._before else None
        self._before = fact
        super()._deliver(fact)
        self._repeated = None

    def _perform(self, command: StepCommand) -> None:
        if self.reaches(command.site):
            super()._perform(command)
        else:
            self._held[command.site].append(lambda: super(StoryWorld, self)._perform(command))

    def _tell_answer(self, command: StepCommand, result: StepResult) -> None:
        self.tell_from(command.site, result)

    def _duration_ms(self, command: StepCommand) -> int:
        told = self.takes_ms.get((command.vm_id, command.step))
        if told:
            return told
        machine = self.machines.get(command.vm_id)
        done = machine is not None and any(
            (each.run_id, each.step, each.attempt) == (command.run_id, command.step, command.attempt)
            for each in machine.ledger
        )
        # What is so already takes no time.
        return _TAKES_MS.get(command.action, 1_000) if done else 1_000

    def _says(self, command: StepCommand, behaviour: Behaviour) -> str:
        if behaviour in (Behaviour.DO, Behaviour.TWICE, Behaviour.LATE):
            return _SAYS.get(command.action, "ended with status 0")
        return self.words.get((command.vm_id, command.step), str(behaviour))


def _clusters(fences: tuple[str, ...]) -> dict[str, ClusterInventory]:
    def nodes(*names: str) -> tuple[Node, ...]:
        return tuple(Node(name, NodeState.UP, _NODE_MEMORY_MIB, _NODE_MEMORY_MIB) for name in names)

    return {
        PRIMARY: ClusterInventory(PRIMARY, PRIMARY, "PRI-BROKER", nodes("p1", "p2"), networks=("lan",)),
        REPLICA: ClusterInventory(
            REPLICA, REPLICA, "DR-BROKER", nodes("d1", "d2"), networks=("lan", ISOLATED), fences=fences
        ),
    }


def _inventory(given: VmGiven, now_ms: int) -> VmInventory:
    mac = f"00:15:5d:00:00:{given.number:02x}"
    adapter = Adapter("nic-0", AdapterKind.SYNTHETIC, mac, "lan", (f"10.10.0.{given.number}/24",))
    return VmInventory(
        vm_id=given.vm_id,
        name=given.vm_id,
        adapters=(adapter,),
        guest=Guest("debian-12", IntegrationServices.RUNNING),
        replication=Replication(ReplicationState.REPLICATING, PRIMARY, REPLICA, PRIMARY, REPLICA, CYCLE_MS // 1000),
        memory_mib=4096,
        reported_at_ms=now_ms,
    )


def _settings(given: VmGiven, now_ms: int) -> VmReplicationSettings:
    def at(network: str) -> tuple[AdapterAddresses, ...]:
        return (AdapterAddresses("nic-0", FamilyAddresses(addresses=(f"{network}.{given.number}/24",))),)

    return VmReplicationSettings(
        given.vm_id,
        at("10.20.0"),
        actor="the topology",
        reason="as planned",
        set_at_ms=now_ms,
        home_adapters=at("10.10.0"),
        test_adapters=at("10.99.0"),
        test_network=ISOLATED,
    )
