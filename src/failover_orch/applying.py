"""Telling the broker what a topology file says, in an order in which nothing of it is refused."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from uuid import uuid4

from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.domain import ClusterInventory, Role, RoutingUpdate, VmInventory
from failover_orch.errors import LookupFailed, UndecodableRecord
from failover_orch.topology import Topology
from failover_orch.wire import Publisher, now_ms, read_to_end

__all__ = ["SOURCE", "WAIT_S", "apply_topology"]

SOURCE = "topology"
"""What the records of a topology file name as their source."""
WAIT_S = 60.0
"""How long, by default, to wait until the broker knows every VM."""
_APPLIED = "a topology file was applied"
_POLL_S = 0.3
_NAMED_AT_MOST = 5


async def apply_topology(
    config: Settings, topology: Topology, *, actor: str = SOURCE, reason: str = "", wait_s: float = WAIT_S
) -> None:
    """Publish a topology: what exists first, and once the broker knows every VM, what is wanted of it and of them.

    Settings of a VM that the broker does not know would be refused, and inventory and settings travel in topics of
    their own: only the broker's own routing updates show that the inventory has arrived.

    Raises:
        LookupFailed: the broker does not know every VM after `wait_s` seconds.
        KafkaUnavailable, TopicMismatch: Kafka is away, or its topics are not as they ought to be.

    """
    codec = Codec.for_registry(config.schema_registry_url)
    async with Publisher(
        config.bootstrap, codec, names=config.names, partitions=config.partitions, source=SOURCE
    ) as publisher:
        reported = await _reported_by_others(config)
        at_ms = now_ms()
        existing: list[ClusterInventory | VmInventory] = [*topology.clusters, *(vm.inventory for vm in topology.vms)]
        await publisher.publish(
            *(replace(one, reported_at_ms=at_ms) for one in existing if (type(one), _key(one)) not in reported)
        )
        await _known(config, {vm.inventory.vm_id for vm in topology.vms}, wait_s)
        at_ms = now_ms()
        # Acknowledged before the rest is sent: no plan is there before what the broker may do with it.
        await publisher.publish(
            *(replace(policy, actor=actor, reason=reason, set_at_ms=at_ms) for policy in topology.policies),
            *(
                replace(
                    change,
                    actor=actor,
                    reason=reason or _APPLIED,
                    requested_at_ms=at_ms,
                    # Applied again, it is another change: somebody may have made others in between.
                    change_id=uuid4().hex,
                )
                for change in topology.replication
            ),
        )
        await publisher.publish(
            *(replace(settings, actor=actor, reason=reason, set_at_ms=at_ms) for settings in topology.settings),
            *(replace(plan, actor=actor, reason=reason, set_at_ms=at_ms) for plan in topology.plans),
        )


def _key(inventory: ClusterInventory | VmInventory) -> str:
    return inventory.cluster if isinstance(inventory, ClusterInventory) else inventory.vm_id


async def _reported_by_others(config: Settings) -> set[tuple[type, str]]:
    """The VMs and clusters whose inventory comes from somebody who sees them: a file does not know better."""
    codec = Codec.for_registry(config.schema_registry_url)
    found: set[tuple[type, str]] = set()
    async for batch in read_to_end(config.bootstrap, ["inventory"], names=config.names):
        for record in batch:
            if record.value is None or dict(record.headers).get("ce_source") == SOURCE.encode():
                continue
            try:
                value = codec.decode_from(record.topic, record.value)
            except UndecodableRecord:
                continue  # the workers have sent it to dead-letters
            if isinstance(value, ClusterInventory | VmInventory):
                found.add((type(value), _key(value)))
    return found


async def _known(config: Settings, vm_ids: set[str], wait_s: float) -> None:
    """Wait until the broker has the inventory of every VM."""
    deadline = time.monotonic() + wait_s
    while missing := sorted(vm_ids - await _routed(config)):
        if time.monotonic() > deadline:
            named = ", ".join(missing[:_NAMED_AT_MOST]) + (", ..." if len(missing) > _NAMED_AT_MOST else "")
            raise LookupFailed(
                f"after {wait_s:g} s the broker does not know {len(missing)} of {len(vm_ids)} VMs ({named}), so no "
                "policies, failover addresses and plans were published: is a worker running? Apply the file again once "
                "it is"
            )
        await asyncio.sleep(_POLL_S)


async def _routed(config: Settings) -> set[str]:
    """The VMs whose inventory the broker has: before that, it cannot say what a VM is at any site."""
    codec = Codec.for_registry(config.schema_registry_url)
    latest: dict[str, RoutingUpdate] = {}
    async for batch in read_to_end(config.bootstrap, ["routing-updates"], names=config.names):
        for record in batch:
            update = None if record.value is None else codec.decode_from(record.topic, record.value)
            if isinstance(update, RoutingUpdate):
                latest[update.vm_id] = update
    return {vm_id for vm_id, update in latest.items() if _has_role(update)}


def _has_role(update: RoutingUpdate) -> bool:
    return any(location.role is not Role.UNKNOWN for location in (update.changed, *update.locations))
