"""A test copy stays on the node of its replica: whoever moves the replica moves its copy with it, by this.

The copy is a layer upon the replica's recovery points, on storage that their nodes share, so nothing but its memory
goes over. Where it cannot follow it goes on where it is; every step finds it there, and it is tried again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

import libvirt

from failover_orch import telemetry
from failover_orch.errors import HypervisorError, StepFailed
from failover_orch.hypervisors.libvirt.nodes import Node, Placed
from failover_orch.hypervisors.libvirt.site import Site

__all__ = ["Together"]

_log = telemetry.logger(__name__)

_LOOK_S = 5.0
_MOVING_S = 300.0
_KEEPING = libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE | libvirt.VIR_MIGRATE_UNSAFE
"""UNSAFE: that the nodes share the storage is known here, and not by libvirt."""


class Together:
    """Keeps the test copies of one site with their replicas, while `run` runs."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def run(self) -> None:
        """Have each copy that is elsewhere follow, for ever."""
        while True:
            changed = self._site.nodes.changed
            for placed in await self._site.nodes.all():
                if _apart(placed):
                    await self._follow(placed.vm_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await changed.wait()

    async def _follow(self, vm_id: str) -> None:
        try:
            async with self._site.lock(vm_id):
                # Read once more: whoever held the lock may have deleted it, or the replica may be back.
                placed = await self._site.nodes.find(vm_id)
                if placed is not None and _apart(placed):
                    await self._move(placed, self._site.nodes.node(placed.copy_node), placed.node)
        except (HypervisorError, libvirt.libvirtError) as error:
            _log.warning(
                "test copy is not on the node of its replica: move it there with virsh migrate, or end the test",
                vm=vm_id,
                why=str(error),
            )

    async def _move(self, placed: Placed, source: Node, target: Node) -> None:
        if not target.up:
            raise StepFailed(f"node {target.name} does not answer")
        uri = target.settings.uri
        host = urlsplit(uri).hostname

        def move(connection: libvirt.virConnect) -> None:
            copy = connection.lookupByUUIDString(placed.copy_uuid)
            there = libvirt.open(uri)
            try:
                if copy.isActive():
                    # The node's own name for itself need not lead there from another one: the site file's does.
                    way = {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{host}"} if host else {}
                    copy.migrate3(there, way, _KEEPING | libvirt.VIR_MIGRATE_LIVE)
                else:
                    copy.migrate3(there, {}, _KEEPING | libvirt.VIR_MIGRATE_OFFLINE)
            finally:
                there.close()

        await source.call(move, within_s=_MOVING_S)
        self._site.changed(placed.vm_id)
        _log.info("test copy has followed its replica", vm=placed.vm_id, node=target.name)


def _apart(placed: Placed) -> bool:
    return bool(placed.copy_uuid) and placed.copy_node not in ("", placed.node.name)
