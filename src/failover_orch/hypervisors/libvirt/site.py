"""What the parts of the driver share: the site's settings and nodes, the VMs' locks, and the way to the other ends."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from failover_orch.domain.records import Role, RoutingUpdate
from failover_orch.hypervisors.libvirt.settings import LibvirtSite

if TYPE_CHECKING:
    from failover_orch.hypervisors.libvirt.nodes import Nodes

__all__ = ["Site"]


class Site:
    """One site as one agent has it open."""

    def __init__(self, settings: LibvirtSite, nodes: Nodes, clock: Callable[[], int]) -> None:
        """`clock` gives milliseconds since the Unix epoch."""
        self.settings = settings
        self.nodes = nodes
        self.clock = clock
        self.routed = asyncio.Event()
        """Set whenever a route has changed: what waits for one clears it first."""
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._routes: dict[str, RoutingUpdate] = {}
        self._changed: list[Callable[[str], None]] = []

    @property
    def name(self) -> str:
        return self.settings.site

    def lock(self, vm_id: str) -> asyncio.Lock:
        """Held by whoever changes the VM or its record here."""
        return self._locks[vm_id]

    def changed(self, vm_id: str) -> None:
        """The VM is not as it was: whoever tells of it looks again."""
        for look in self._changed:
            look(vm_id)

    def on_change(self, look: Callable[[str], None]) -> None:
        """Have `look` called with the id of each VM that changes."""
        self._changed.append(look)

    def take_route(self, update: RoutingUpdate) -> None:
        """A routing update: the one with the highest epoch holds, in whatever order they come."""
        known = self._routes.get(update.vm_id)
        if known is None or known.epoch < update.epoch:
            self._routes[update.vm_id] = update
            self.routed.set()

    def route(self, vm_id: str) -> str:
        """The node on which the VM's other end is; empty where nobody has told."""
        update = self._routes.get(vm_id)
        if update is None:
            return ""
        others = [here.node for here in update.locations if here.site != self.name and here.role is not Role.UNKNOWN]
        return others[0] if others else ""
