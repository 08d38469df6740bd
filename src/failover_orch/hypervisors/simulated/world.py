"""The hand from outside: creates a simulated world, moves its VMs, cuts power and link, breaks actions."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkstemp

from failover_orch.domain.facts import MoveKind
from failover_orch.domain.inventory import ClusterInventory, NodeState, VmInventory
from failover_orch.domain.records import Action
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.errors import ConfigError, LookupFailed, StepRefused
from failover_orch.hypervisors.protocol import Power
from failover_orch.hypervisors.rules.ends import Configuration, End, EndAdapter, RecoveryPoint
from failover_orch.hypervisors.rules.shipping import with_point
from failover_orch.hypervisors.simulated.cycles import replicate_due
from failover_orch.hypervisors.simulated.ends import Effect, FaultKind, PlacedVm
from failover_orch.hypervisors.simulated.power import set_node, switch_off
from failover_orch.hypervisors.simulated.replication import default_server
from failover_orch.hypervisors.simulated.settings_hand import SettingsHand
from failover_orch.hypervisors.simulated.store import SCHEMA, Store, Transaction, connect, real_clock

__all__ = ["SimulatedWorld"]


class SimulatedWorld(SettingsHand):
    """A world file, opened to play with. Each call is one transaction, seen at once by every agent of the world."""

    def __init__(self, path: Path | str, *, clock: Callable[[], int] = real_clock) -> None:
        """Open a world.

        Raises:
            ConfigError: there is no such file, or it is not a world.

        """
        super().__init__(Store(path), clock)

    @classmethod
    def create(
        cls,
        path: Path | str,
        clusters: Sequence[ClusterInventory],
        vms: Sequence[PlacedVm],
        *,
        boot_ms: int = 200,
        shutdown_ms: int = 100,
        recovery_points: int = 24,
        clock: Callable[[], int] = real_clock,
    ) -> SimulatedWorld:
        """Make a world in which all VMs run at their primaries and are replicated, and open it.

        Each replica keeps the last so many `recovery_points`, and has one to begin with.

        The file appears whole or not at all, so agents that race to create the same world all open the same one.

        Raises:
            ConfigError: a VM names a node or site that no cluster has, or two ends at one site; or no recovery point
                would be kept.
            FileExistsError: there is such a file already.

        """
        if recovery_points < 1:
            raise ConfigError(f"a replica keeps at least one recovery point, {recovery_points} is too few")
        path = Path(path)
        descriptor, draft = mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        try:
            constants = (boot_ms, shutdown_ms, recovery_points)
            _write(Path(draft), clusters, vms, constants, now_ms=clock())
            # A link, other than a rename, does not replace what another process has put there meanwhile.
            os.link(draft, path)
        finally:
            Path(draft).unlink()
        return cls(path, clock=clock)

    def close(self) -> None:
        """Let go of the file. What is not closed goes with the last reference to it."""
        self._store.close()

    # What is there

    @property
    def link_up(self) -> bool:
        """Whether the sites reach each other."""
        with self._store.transaction() as world:
            return world.link_up

    def sites(self) -> dict[str, bool]:
        """Every site, and whether it has power."""
        with self._store.transaction() as world:
            return world.sites()

    def clusters(self) -> tuple[ClusterInventory, ...]:
        """Every cluster with its nodes as they are now."""
        with self._store.transaction() as world:
            return world.clusters()

    def vm(self, vm_id: str) -> VmInventory:
        """A VM as the world was created with it.

        Raises:
            LookupFailed: there is no such VM.

        """
        with self._store.transaction() as world:
            return world.vm(vm_id)

    def ends(self, vm_id: str = "", site: str = "") -> tuple[End, ...]:
        """VMs at sites: all, those of a VM, those of a site, or the one."""
        with self._store.transaction() as world:
            return world.ends(site, vm_id)

    def effects(self, vm_id: str = "", run_id: str = "") -> tuple[Effect, ...]:
        """Every action that really changed something, in order: what an oracle counts."""
        with self._store.transaction() as world:
            return world.effects(vm_id, run_id)

    def recovery_points(self, vm_id: str, site: str = "") -> tuple[RecoveryPoint, ...]:
        """What the VM's replica, or its end at the site, can be failed over to; newest last.

        Raises:
            LookupFailed: no such VM, or not at that site.

        """
        with self._store.transaction() as world:
            ends = (_end(world, vm_id, site),) if site else _ends(world, vm_id)
            return tuple(point for end in ends for point in end.recovery_points)

    def silenced(self) -> frozenset[str]:
        """The VMs whose replication was silenced."""
        with self._store.transaction() as world:
            return world.silenced()

    def closed_ports(self) -> frozenset[tuple[str, int]]:
        """VMs and the TCP ports at which their guests do not listen: they do at all others, once they have booted."""
        with self._store.transaction() as world:
            return world.closed_ports()

    def ran_twice(self) -> tuple[str, ...]:
        """The VMs that at some time were started at one end while they ran at the other: what must never be.

        A test copy does not count: it is isolated.
        """
        with self._store.transaction() as world:
            return world.ran_twice()

    # What happens to VMs

    def migrate(self, vm_id: str, node: str, kind: MoveKind = MoveKind.LIVE, *, site: str = "") -> None:
        """Move a VM, or a replica, to another node of its site. `kind` is LIVE or QUICK.

        Raises:
            LookupFailed: no such VM or node, or the VM has no end at the node's site.
            StepRefused: the node is not UP, its site has no power, or the VM is there already.

        """
        if kind not in (MoveKind.LIVE, MoveKind.QUICK):
            raise StepRefused(f"a VM is migrated LIVE or QUICK, not {kind}")
        with self._store.transaction() as world:
            cluster, target = world.node(site, node)
            end = _end(world, vm_id, cluster.site)
            _powered(world, cluster.site)
            if target.state is not NodeState.UP:
                raise StepRefused(f"{node} is {target.state}: VMs move to nodes that are UP")
            if end.node == node:
                raise StepRefused(f"{vm_id} is on {node} already")
            if not end.node:
                raise StepRefused(f"{vm_id} has no replica at {cluster.site} yet: place it first")
            now = self._clock()
            old = end.node
            moved = replace(end, node=node, cluster=cluster.cluster, arrival=kind, arrived_at_ms=now)
            world.put_end(moved)
            # Arrival first: at no moment do the site's own words leave the VM nowhere.
            world.tell_move(moved, node, kind, now, end.storage)
            world.tell_move(end, old, MoveKind.DEPARTED, now)

    def move_storage(self, vm_id: str, site: str, storage: str) -> None:
        """Move a VM's disks to other storage of the node it is on.

        Raises:
            LookupFailed: no such VM at that site.
            StepRefused: the node has no such storage.

        """
        with self._store.transaction() as world:
            end = _end(world, vm_id, site)
            _powered(world, site)
            paths = [storage.path for storage in world.node(site, end.node)[1].storages]
            if paths and storage not in paths:
                raise StepRefused(f"{end.node} has no storage {storage!r}; it has {', '.join(paths)}")
            now = self._clock()
            moved = replace(end, storage=storage, arrival=MoveKind.STORAGE, arrived_at_ms=now)
            world.put_end(moved)
            world.tell_move(moved, end.node, MoveKind.STORAGE, now, storage)

    def place(self, vm_id: str, node: str, storage: str = "") -> None:
        """Put a replica that waits for it on a node: its initial replication begins with the next cycle.

        Raises:
            LookupFailed: no such VM or node, or the VM has no end at the node's site.
            StepRefused: the replica has a node already.

        """
        with self._store.transaction() as world:
            cluster, _ = world.node("", node)
            end = _end(world, vm_id, cluster.site)
            if end.node:
                raise StepRefused(f"{vm_id} is placed at {cluster.site} already, on {end.node}")
            now = self._clock()
            placed = replace(end, node=node, cluster=cluster.cluster, storage=storage, arrived_at_ms=now)
            world.put_end(placed)
            world.tell_move(placed, node, MoveKind.PLACED, now, storage)

    def write(self, vm_id: str, count: int) -> None:
        """The VM writes this many bytes, which its replica does not have yet.

        Raises:
            LookupFailed: no such VM.
            StepRefused: it does not run anywhere.

        """
        with self._store.transaction() as world:
            running = [end for end in _ends(world, vm_id) if end.power is Power.RUNNING]
            if not running:
                raise StepRefused(f"{vm_id} is off and writes nothing")
            for end in running:
                world.put_end(replace(end, pending_bytes=end.pending_bytes + count))

    def replicate(self) -> int:
        """Run the replication cycles that are due; returns how many were. Agents do so all the time."""
        with self._store.transaction() as world:
            return replicate_due(world, self._clock())

    # What breaks

    def power_off_site(self, site: str) -> None:
        """All power at a site goes: its VMs are off, its hypervisors neither answer nor tell.

        Raises:
            LookupFailed: no such site.

        """
        with self._store.transaction() as world:
            _known_site(world, site)
            world.set_power(site, False)
            switch_off(world, world.ends(site), self._clock())

    def power_on_site(self, site: str) -> None:
        """Power is back. Its VMs stay off: that they may run is for the orchestrator or a person to say.

        Raises:
            LookupFailed: no such site.

        """
        with self._store.transaction() as world:
            _known_site(world, site)
            world.set_power(site, True)

    def cut_link(self) -> None:
        """The sites do not reach each other any more."""
        with self._store.transaction() as world:
            world.link_up = False

    def restore_link(self) -> None:
        """The sites reach each other again."""
        with self._store.transaction() as world:
            world.link_up = True

    def silence_replication(self, vm_id: str) -> None:
        """Let a VM's replication cycles come to nothing, though the sites reach each other.

        Raises:
            LookupFailed: no such VM.

        """
        self._set_silenced(vm_id, silent=True)

    def restore_replication(self, vm_id: str) -> None:
        """Let a VM that was silenced replicate again.

        Raises:
            LookupFailed: no such VM.

        """
        self._set_silenced(vm_id, silent=False)

    def _set_silenced(self, vm_id: str, *, silent: bool) -> None:
        with self._store.transaction() as world:
            world.vm(vm_id)
            world.set_silenced(vm_id, silent)

    def close_port(self, vm_id: str, port: int) -> None:
        """Nothing listens at this TCP port of the VM any more, wherever it runs.

        Raises:
            LookupFailed: no such VM.

        """
        with self._store.transaction() as world:
            world.vm(vm_id)
            world.set_port(vm_id, port, closed=True)

    def open_port(self, vm_id: str, port: int) -> None:
        """Something listens at this TCP port of the VM again.

        Raises:
            LookupFailed: no such VM.

        """
        with self._store.transaction() as world:
            world.vm(vm_id)
            world.set_port(vm_id, port, closed=False)

    def set_node(self, node: str, state: NodeState, *, site: str = "") -> None:
        """Set a node UP, PAUSED or DOWN. What runs on a node that goes DOWN is off.

        Raises:
            LookupFailed: no such node.

        """
        with self._store.transaction() as world:
            set_node(world, site, node, state, self._clock())

    def fail_next(self, vm_id: str, action: Action, times: int = 1, *, kind: FaultKind = FaultKind.FAIL) -> None:
        """Let an action of a VM go wrong the next `times` times.

        Raises:
            LookupFailed: no such VM.

        """
        with self._store.transaction() as world:
            world.vm(vm_id)
            world.add_fault(vm_id, action, kind, times)


def _ends(world: Transaction, vm_id: str) -> tuple[End, ...]:
    world.vm(vm_id)
    return world.ends(vm_id=vm_id)


def _end(world: Transaction, vm_id: str, site: str) -> End:
    _known_site(world, site)
    ends = {end.site: end for end in _ends(world, vm_id)}
    if site not in ends:
        raise LookupFailed(f"{vm_id} is not at {site}; it is at {', '.join(ends)}")
    return ends[site]


def _known_site(world: Transaction, site: str) -> None:
    if site not in (sites := world.sites()):
        raise LookupFailed(f"there is no site {site!r}; sites are {', '.join(sites)}")


def _powered(world: Transaction, site: str) -> None:
    if not world.sites()[site]:
        raise StepRefused(f"{site} has no power: nothing moves there")


def _write(
    path: Path,
    clusters: Sequence[ClusterInventory],
    vms: Sequence[PlacedVm],
    constants: tuple[int, int, int],
    *,
    now_ms: int,
) -> None:
    """`constants` are the durations of a boot and a shutdown, and how many recovery points are kept."""
    connection = connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript("BEGIN;" + SCHEMA)
        world = Transaction(connection)
        connection.execute("INSERT INTO world VALUES (1, ?, ?, ?)", constants)
        for number, site in enumerate(dict.fromkeys(cluster.site for cluster in clusters)):
            connection.execute("INSERT INTO sites VALUES (?, 1, ?)", (site, number))
        for cluster in clusters:
            world.put_cluster(replace(cluster, reported_at_ms=now_ms))
            for node in cluster.nodes:
                world.put_server(cluster.site, node.name, default_server(cluster, node))
        for placed in vms:
            world.put_vm(placed.inventory)
            for end in _created(world, placed, now_ms):
                world.put_end(end)
                if end.node:
                    world.tell_move(end, end.node, MoveKind.PLACED, now_ms, end.storage)
        connection.execute("COMMIT")
    finally:
        connection.close()


def _created(world: Transaction, placed: PlacedVm, now_ms: int) -> tuple[End, ...]:
    vm = placed.inventory
    replication = vm.replication
    primary = End(
        vm.vm_id,
        replication.primary_site,
        _cluster(world, vm, replication.primary_site, placed.primary_node, replication.primary_cluster),
        placed.primary_node,
        placed.primary_storage,
        ReplicationMode.PRIMARY,
        replication.state,
        Power.RUNNING,
        tuple(
            EndAdapter(adapter.adapter_id, True, Configuration(adapter.addresses), Configuration(adapter.addresses))
            for adapter in vm.adapters
        ),
        MoveKind.PLACED,
        now_ms,
        last_replication_at_ms=now_ms,
        next_cycle_at_ms=now_ms + replication.frequency_s * 1000,
    )
    if replication.state is ReplicationState.DISABLED:
        return (replace(primary, mode=ReplicationMode.NONE, last_replication_at_ms=0),)
    if replication.replica_site == replication.primary_site:
        raise ConfigError(f"VM {vm.name!r} replicates from {replication.primary_site!r} to itself")
    replica = replace(
        primary,
        site=replication.replica_site,
        cluster=_cluster(world, vm, replication.replica_site, placed.replica_node, replication.replica_cluster),
        node=placed.replica_node,
        storage=placed.replica_storage,
        mode=ReplicationMode.REPLICA,
        power=Power.OFF,
        adapters=tuple(replace(adapter, connected=False) for adapter in primary.adapters),
    )
    if placed.replica_node:
        return primary, with_point(replica, now_ms, world.points_kept)
    return (
        _waiting(primary, ReplicationState.READY_FOR_INITIAL_REPLICATION, now_ms),
        _waiting(replica, ReplicationState.WAITING_FOR_INITIAL_REPLICATION, now_ms),
    )


def _waiting(end: End, state: ReplicationState, now_ms: int) -> End:
    """An end of a VM whose replica has not been placed: its first cycle is due as soon as it is."""
    return replace(end, state=state, last_replication_at_ms=0, next_cycle_at_ms=now_ms)


def _cluster(world: Transaction, vm: VmInventory, site: str, node: str, expected: str) -> str:
    """The cluster of a VM's node at a site, which has to be the one its replication names, if it names one."""
    if site not in world.sites():
        raise ConfigError(f"VM {vm.name!r} names the site {site!r}, which no cluster is at")
    if not node:
        return expected
    try:
        cluster, _ = world.node(site, node)
    except LookupFailed as error:
        raise ConfigError(f"VM {vm.name!r}: {error}") from None
    if expected not in ("", cluster.cluster):
        raise ConfigError(
            f"VM {vm.name!r}: node {node!r} is in {cluster.cluster!r}, its replication names {expected!r}"
        )
    return cluster.cluster
