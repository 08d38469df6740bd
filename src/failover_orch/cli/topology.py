"""`failover-orch topology`: what is wrong with a topology file, and telling the broker what a file says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from failover_orch.cli.access import Actor, Reason, codec_for, login_name, now_ms, run, show_table
from failover_orch.cli.common import Bootstrap
from failover_orch.config import Settings
from failover_orch.domain import (
    AdapterAddresses,
    ClusterInventory,
    FamilyAddresses,
    ReplicationState,
    Role,
    RoutingUpdate,
    VmInventory,
    kept_adapters,
)
from failover_orch.errors import LookupFailed, Mistake, TopologyError, UndecodableRecord
from failover_orch.topology import Topology, TopologyVm, load
from failover_orch.wire import Publisher, read_to_end

__all__ = ["app", "apply_topology"]

app = typer.Typer(help="Topology files: sites, clusters, VMs, failover addresses and plans.", no_args_is_help=True)

Files = Annotated[list[Path], typer.Argument(help="Topology files.", show_default=False)]
File = Annotated[Path, typer.Argument(help="A topology file.", show_default=False)]
Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait until the broker knows every VM.")]

SOURCE = "topology"
"""What the records of a topology file name as their source."""

WAIT_S = 60.0
POLL_S = 0.3
_NAMED_AT_MOST = 5


@app.command()
def check(files: Files) -> None:
    """Name every mistake in topology files, with its line. Exit code 1 when there is one.

    For a file without mistakes: its VMs, their failover addresses, and which of them would be refused at a failover.
    """
    sound = [_checked(file) for file in files]
    if not all(sound):
        raise typer.Exit(1)


def _checked(file: Path) -> bool:
    try:
        topology = load(file)
    except TopologyError as error:
        for mistake in error.mistakes:
            typer.echo(_said(file, mistake))
        return False
    for warning in topology.warnings:
        typer.echo(_said(file, replace(warning, message=f"warning: {warning.message}")))
    columns = ("VM", "application", "from", "to", "every", "failover addresses", "at failover")
    show_table(str(file), columns, [_row(topology, vm) for vm in topology.vms])
    refused = sum(1 for vm in topology.vms if _replicated(vm) and topology.failover_findings(vm))
    counts = (
        _count(topology.sites, "site"),
        _count(topology.clusters, "cluster"),
        _count([node for cluster in topology.clusters for node in cluster.nodes], "node"),
        _count(topology.networks, "network"),
        _count(topology.vms, "VM"),
        _count(topology.settings, "IP plan"),
        _count(topology.plans, "recovery plan"),
    )
    typer.echo(f"{file}: {', '.join(counts)}; {refused} would be refused at a failover")
    return True


def _said(file: Path, mistake: Mistake) -> str:
    return f"{file}:{mistake.line}: {mistake.field}: {mistake.message}"


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _replicated(vm: TopologyVm) -> bool:
    return vm.inventory.replication.state is not ReplicationState.DISABLED


def _row(topology: Topology, vm: TopologyVm) -> tuple[str, ...]:
    inventory = vm.inventory
    replication = inventory.replication
    to = vm.replica_node or replication.replica_cluster or replication.replica_site
    settings = topology.settings_of(inventory.vm_id)
    return (
        inventory.vm_id,
        inventory.application,
        vm.primary_node,
        to,
        f"{replication.frequency_s} s" if _replicated(vm) else "",
        "\n".join(_adapter(adapter) for adapter in settings.adapters) if settings else "",
        _at_failover(topology, vm),
    )


def _adapter(adapter: AdapterAddresses) -> str:
    return f"{adapter.adapter_id}: {_family('DHCPv4', adapter.ipv4)} {_family('DHCPv6', adapter.ipv6)}".rstrip()


def _family(dhcp: str, family: FamilyAddresses | None) -> str:
    if family is None:
        return ""
    return dhcp if family.dhcp else " ".join(family.addresses)


def _at_failover(topology: Topology, vm: TopologyVm) -> str:
    if not _replicated(vm):
        return "not replicated"
    findings = topology.failover_findings(vm)
    if findings:
        return "\n".join(f"refused ({finding.rule}): {finding.message}" for finding in findings)
    kept = kept_adapters(vm.inventory, topology.settings_of(vm.inventory.vm_id))
    return f"ready; as on the primary: {', '.join(kept)}" if kept else "ready"


@app.command()
def apply(
    file: File,
    wait: Wait = WAIT_S,
    actor: Actor = "",
    reason: Reason = "",
    bootstrap: Bootstrap = None,
) -> None:
    """Tell the broker what a file says: clusters and VMs, then failover addresses and recovery plans.

    A VM or cluster that a site agent has reported is left as reported. Applying a file again is safe.
    """

    async def work(config: Settings) -> Topology:
        topology = load(file)
        said = reason or f"topology file {file.name}"
        await apply_topology(config, topology, actor=login_name(actor), reason=said, wait_s=wait)
        return topology

    topology = run(bootstrap, work)
    typer.echo(
        f"{file}: {_count(topology.clusters, 'cluster')}, {_count(topology.vms, 'VM')}, "
        f"{_count(topology.settings, 'IP plan')} and {_count(topology.plans, 'recovery plan')} published"
    )


async def apply_topology(
    config: Settings, topology: Topology, *, actor: str = SOURCE, reason: str = "", wait_s: float = WAIT_S
) -> None:
    """Publish a topology: what exists first, and once the broker knows every VM, what is wanted of them.

    Settings of a VM that the broker does not know would be refused, and inventory and settings travel in topics of
    their own: only the broker's own routing updates show that the inventory has arrived.

    Raises:
        LookupFailed: the broker does not know every VM after `wait_s` seconds.
        KafkaUnavailable, TopicMismatch: Kafka is away, or its topics are not as they ought to be.

    """
    codec = codec_for(config)
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
        await publisher.publish(
            *(replace(settings, actor=actor, reason=reason, set_at_ms=at_ms) for settings in topology.settings),
            *(replace(plan, actor=actor, reason=reason, set_at_ms=at_ms) for plan in topology.plans),
        )


def _key(inventory: ClusterInventory | VmInventory) -> str:
    return inventory.cluster if isinstance(inventory, ClusterInventory) else inventory.vm_id


async def _reported_by_others(config: Settings) -> set[tuple[type, str]]:
    """The VMs and clusters whose inventory comes from somebody who sees them: a file does not know better."""
    codec = codec_for(config)
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
                "failover addresses and plans were published: is a worker running? Apply the file again once it is"
            )
        await asyncio.sleep(POLL_S)


async def _routed(config: Settings) -> set[str]:
    """The VMs whose inventory the broker has: before that, it cannot say what a VM is at any site."""
    codec = codec_for(config)
    latest: dict[str, RoutingUpdate] = {}
    async for batch in read_to_end(config.bootstrap, ["routing-updates"], names=config.names):
        for record in batch:
            update = None if record.value is None else codec.decode_from(record.topic, record.value)
            if isinstance(update, RoutingUpdate):
                latest[update.vm_id] = update
    return {vm_id for vm_id, update in latest.items() if _has_role(update)}


def _has_role(update: RoutingUpdate) -> bool:
    return any(location.role is not Role.UNKNOWN for location in (update.changed, *update.locations))
