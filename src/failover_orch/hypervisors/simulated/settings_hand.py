"""The hand from outside on replication settings: what nodes and VMs have, changed by others, and made to go wrong."""

from __future__ import annotations

from collections.abc import Callable

from failover_orch.domain.inventory import Node
from failover_orch.domain.records import Action
from failover_orch.domain.replication_settings import ReplicationServer, VmReplication
from failover_orch.errors import LookupFailed
from failover_orch.hypervisors.simulated.ends import FaultKind
from failover_orch.hypervisors.simulated.power import add_node
from failover_orch.hypervisors.simulated.replication import put_replication, put_server, replication_of
from failover_orch.hypervisors.simulated.store import Store

__all__ = ["SettingsHand"]


class SettingsHand:
    """A world file, opened to play with its replication settings. Each call is one transaction."""

    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock

    def servers(self, site: str) -> dict[str, ReplicationServer]:
        """What each node of a site accepts, be it up or down.

        Raises:
            LookupFailed: no such site.

        """
        with self._store.transaction() as world:
            if site not in (sites := world.sites()):
                raise LookupFailed(f"there is no site {site!r}; sites are {', '.join(sites)}")
            return world.servers(site)

    def server(self, node: str, *, site: str = "") -> ReplicationServer:
        """What a node accepts.

        Raises:
            LookupFailed: no such node.

        """
        with self._store.transaction() as world:
            cluster, _ = world.node(site, node)
            return world.servers(cluster.site)[node]

    def replication(self, vm_id: str) -> VmReplication:
        """How a VM replicates.

        Raises:
            LookupFailed: no such VM.

        """
        with self._store.transaction() as world:
            return replication_of(world, vm_id)

    def add_node(self, cluster: str, node: Node) -> None:
        """A node joins a cluster. It accepts replicas as a new one does: not before it is told.

        Raises:
            LookupFailed: there is no such cluster.
            ConfigError: its site has a node of that name.

        """
        with self._store.transaction() as world:
            add_node(world, cluster, node, self._clock())

    def set_server(self, node: str, server: ReplicationServer, *, site: str = "") -> None:
        """Have a node accept replicas so, as somebody at its console would: behind the broker's back.

        Raises:
            LookupFailed: no such node.

        """
        with self._store.transaction() as world:
            put_server(world, site, node, server, self._clock())

    def set_replication(self, vm_id: str, replication: VmReplication) -> None:
        """Have a VM replicate so, behind the broker's back.

        Raises:
            LookupFailed: no such VM.

        """
        with self._store.transaction() as world:
            put_replication(world, vm_id, replication)

    def fail_settings(self, node: str, times: int = 1, *, kind: FaultKind = FaultKind.FAIL, site: str = "") -> None:
        """Let it go wrong the next `times` times that a node is given replication settings.

        Raises:
            LookupFailed: no such node.

        """
        with self._store.transaction() as world:
            cluster, _ = world.node(site, node)
            world.add_fault(f"{cluster.site}/{node}", Action.APPLY_SETTINGS, kind, times)
