"""A VM as the hypervisors of both its sites have it, under virtual time, and a ledger of all that was done to it.

What an action does, and when it is legal, is the simulated hypervisor's: `failover_orch.hypervisors.simulated`, whose
rules are pure. Around it stand a few things that a test can do to the world: power, links, nodes. The ledger is the
oracle: what is in it really happened, whatever anybody reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from failover_orch.domain.facts import MoveKind, ReplicationReport
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.transitions import FAILED_OVER, RECEIVES, SENDS
from failover_orch.hypervisors import Power
from failover_orch.hypervisors.rules import actions, reports
from failover_orch.hypervisors.rules.ends import Configuration, End, EndAdapter, RecoveryPoint
from failover_orch.hypervisors.rules.shipping import received, shipped
from failover_orch.hypervisors.rules.surroundings import Surroundings, fenced

__all__ = ["Done", "Machine", "Places"]

PRIMARY, REPLICA = ReplicationMode.PRIMARY, ReplicationMode.REPLICA
_FROM_THE_START = frozenset(
    {
        ReplicationState.READY_FOR_INITIAL_REPLICATION,
        ReplicationState.WAITING_FOR_INITIAL_REPLICATION,
        ReplicationState.RESYNCHRONIZING,
    }
)
_POINTS_KEPT = 24
_OF_THE_COPY = (Action.CREATE_TEST, Action.START_TEST, Action.VERIFY_TEST)


@dataclass(slots=True)
class Places:
    """What of the sites does not work. `cut`: the replication link between them."""

    dark: set[str] = field(default_factory=set)
    cut: bool = False
    nodes_down: set[tuple[str, str]] = field(default_factory=set)
    clusters: tuple[ClusterInventory, ...] = ()

    def node_up(self, end: End) -> bool:
        return (end.site, end.node) not in self.nodes_down

    def fences(self, site: str) -> tuple[str, ...]:
        return tuple(fence for cluster in self.clusters if cluster.site == site for fence in cluster.fences)

    def accepts(self, end: End) -> bool:
        return all(cluster.accepts_replicas for cluster in self.clusters if cluster.cluster == end.cluster)


@dataclass(frozen=True, slots=True)
class Done:
    """One line of the ledger: an action that really changed something."""

    at_ms: int
    site: str
    action: Action
    run_id: str
    step: str
    attempt: int


class Machine:
    """One VM. `ran_twice` remembers the worst that could happen: it ran at both sites at once, its test copy apart."""

    def __init__(self, vm: VmInventory, nodes: Mapping[str, str], places: Places, now_ms: int, *, alive: bool) -> None:
        """`nodes`: where it is at the primary's and the replica's site. It last replicated one cycle ago."""
        self.vm = vm
        self.places = places
        self.ledger: list[Done] = []
        self.ran_twice = False
        self.closed_ports: frozenset[int] = frozenset()
        self.boot_ms = 0
        said, last = vm.replication, now_ms - vm.replication.frequency_s * 1_000
        adapters = tuple(
            EndAdapter(each.adapter_id, True, *[Configuration(each.addresses)] * 2) for each in vm.adapters
        )
        sites = (
            (said.primary_site, said.primary_cluster, PRIMARY, Power.RUNNING if alive else Power.OFF),
            (said.replica_site, said.replica_cluster, REPLICA, Power.OFF),
        )
        self.ends = {
            site: End(
                vm_id=vm.vm_id,
                site=site,
                cluster=cluster,
                node=nodes[site],
                storage="",
                mode=mode,
                state=said.state,
                power=power,
                adapters=tuple(replace(each, connected=mode is PRIMARY) for each in adapters),
                arrival=MoveKind.PLACED,
                arrived_at_ms=now_ms,
                last_replication_at_ms=last,
                next_cycle_at_ms=now_ms + vm.replication.frequency_s * 1_000 if mode is PRIMARY else 0,
                recovery_points=() if mode is PRIMARY else (RecoveryPoint("rp-1", last),),
                points_taken=0 if mode is PRIMARY else 1,
            )
            for site, cluster, mode, power in sites
        }

    @property
    def running(self) -> set[str]:
        """The sites where it runs."""
        return {site for site, end in self.ends.items() if self._runs(end)}

    @property
    def states(self) -> dict[str, tuple[ReplicationMode, ReplicationState]]:
        """What each end is, and how its replication stands."""
        return {site: (end.mode, end.state) for site, end in self.ends.items()}

    def copies(self) -> Iterable[str]:
        """The network of each test copy that there is."""
        return (end.copy.network for end in self.ends.values() if end.copy is not None)

    def perform(self, command: StepCommand, now_ms: int) -> dict[str, str]:
        """Do it, unless it is not legal as things are; returns what is found afterwards.

        Raises:
            HypervisorError: why not.

        """
        end = fenced(command, self.ends[command.site])
        self.ends[end.site] = end
        if not any(
            (done.run_id, done.step, done.attempt, done.site)
            == (command.run_id, command.step, command.attempt, command.site)
            for done in self.ledger
        ):
            change = actions.decide(command, end, self._around(end), now_ms)
            self._put(change.end, *([change.peer] if change.peer is not None else []))
            if change.cut:
                self.stop(change.cut.partition("/")[0])
            if change.effect:
                done = Done(now_ms, end.site, command.action, command.run_id, command.step, command.attempt)
                self.ledger.append(done)
            return {**self._found(change.end, command.action), **change.found}
        return self._found(end, command.action)

    def observe(self, site: str) -> dict[str, str]:
        """What is so at a site now."""
        return self._found(self.ends[site], None)

    def start(self, site: str) -> None:
        """Somebody starts it there, past every rule."""
        self._put(replace(self.ends[site], power=Power.RUNNING))

    def stop(self, site: str) -> None:
        """It is off there from now on: its power is gone, or somebody has switched it off."""
        self._put(replace(self.ends[site], power=Power.OFF))

    def moves(self, site: str, node: str) -> None:
        """It is on another node of the site now."""
        self._put(replace(self.ends[site], node=node))

    def replicate(self, now_ms: int) -> bool:
        """One replication cycle, if one is due; whether the primary's state is another one now."""
        end = next((each for each in self.ends.values() if each.mode is PRIMARY and each.state in SENDS), None)
        if end is None or not 0 < end.next_cycle_at_ms <= now_ms or not self._powered(end):
            return False
        peer = self._peer(end)
        if self.places.cut or not self._powered(peer) or peer.state not in RECEIVES:
            overtaken = peer.state in FAILED_OVER and not self.places.cut and self._powered(peer)
            state = ReplicationState.ERROR if overtaken else end.state
            sent = replace(end, cycles=end.cycles + 1, missed_cycles=end.missed_cycles + 1, state=state)
            self._put(replace(sent, next_cycle_at_ms=self._next_ms(now_ms)))
        else:
            target = replace(peer, recovery_points=()) if end.state in _FROM_THE_START else peer
            target = received(end, target, now_ms, 0, points_kept=_POINTS_KEPT)
            target = replace(target, state=ReplicationState.REPLICATING, cycles=peer.cycles + 1)
            sent = replace(shipped(end, now_ms, 0), state=ReplicationState.REPLICATING, cycles=end.cycles + 1)
            self._put(replace(sent, next_cycle_at_ms=self._next_ms(now_ms)), target)
        return self.ends[end.site].state is not end.state

    def report(self, site: str, now_ms: int) -> ReplicationReport | None:
        """How replication goes, as that end sees it; None where nothing there can say."""
        end = self.ends[site]
        if end.state is ReplicationState.DISABLED or not self._powered(end):
            return None
        return reports.report(self.vm, end, now_ms)

    def inventory(self, site: str, now_ms: int) -> VmInventory | None:
        """The VM, as the site tells of it; None where that is the other one's to do."""
        end = self.ends[site]
        peer = self._peer(end)
        reachable = not self.places.cut and peer.site not in self.places.dark
        if not reports.active(end, peer, peer_reachable=reachable):
            return None
        return reports.inventory(self.vm, end, peer, now_ms)

    def _around(self, end: End) -> Surroundings:
        peer = self._peer(end)
        return Surroundings(
            vm=self.vm,
            node_up=self.places.node_up(end),
            peer=peer,
            link_up=not self.places.cut,
            peer_alive=peer.site not in self.places.dark,
            peer_node_up=self.places.node_up(peer),
            peer_accepts=self.places.accepts(peer),
            closed_ports=self.closed_ports,
            points_kept=_POINTS_KEPT,
            boot_ms=self.boot_ms,
            fences=self.places.fences(end.site),
        )

    def _put(self, *ends: End) -> None:
        for end in ends:
            self.ends[end.site] = end
        self.ran_twice = self.ran_twice or len(self.running) > 1

    def _peer(self, end: End) -> End:
        return next(other for other in self.ends.values() if other.site != end.site)

    def _powered(self, end: End) -> bool:
        return end.site not in self.places.dark and self.places.node_up(end)

    def _runs(self, end: End) -> bool:
        return end.power is Power.RUNNING and self._powered(end)

    def _next_ms(self, now_ms: int) -> int:
        return now_ms + self.vm.replication.frequency_s * 1_000

    def _found(self, end: End, action: Action | None) -> dict[str, str]:
        """What the site agent's answer says of the VM, as the simulated hypervisor has it."""
        copy = end.copy if action in _OF_THE_COPY else None
        power, adapters, point = end.power, end.adapters, end.recovery_point
        if copy is not None:
            power, adapters, point = copy.power, copy.adapters, copy.point
        found = {"node": end.node, "power": str(end.power), "mode": str(end.mode), "state": str(end.state)}
        found |= {
            "recovery_point": point.point_id if point else "",
            "recovery_point_at_ms": str(point.at_ms if point else 0),
        }
        if power is Power.RUNNING:
            found |= {f"addresses/{each.adapter_id}": ", ".join(each.configured.addresses) for each in adapters}
        return found
