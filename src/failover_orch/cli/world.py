"""`failover-orch world`: play with a simulated world file, while agents run on it or without any."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from failover_orch.cli.common import console, reported
from failover_orch.domain import (
    ClusterInventory,
    MoveKind,
    Node,
    NodeState,
    Placed,
    ReplicationMode,
    ReplicationServer,
    SettingsScope,
    Storage,
    VmInventory,
    find_setting,
    place,
)
from failover_orch.errors import ConfigError
from failover_orch.hypervisors.simulated import End, FaultKind, IsolatedCopy, PlacedVm, SimulatedWorld
from failover_orch.topology import load

__all__ = ["app", "create_world"]

app = typer.Typer(help="A simulated world: its sites, VMs and mishaps.", no_args_is_help=True)

World = Annotated[Path, typer.Option("--world", help="The world's file.", dir_okay=False)]
Vm = Annotated[str, typer.Argument(help="A VM, by its id or its name.")]
Port = Annotated[int, typer.Argument(min=1, max=65535, help="A TCP port.")]
_DEFAULT = Path("world.db")


class Migration(StrEnum):
    """How a VM is moved to another node."""

    LIVE = "live"
    QUICK = "quick"


class NodeIs(StrEnum):
    """What a node is to be."""

    UP = "up"
    PAUSED = "paused"
    DOWN = "down"


def create_world(path: Path, topology: Path) -> SimulatedWorld:
    """Make a world as a topology file describes it; replicas without a node are placed as `failover-orch place` would.

    Raises:
        TopologyError: the topology file has mistakes.
        ConfigError: a replica fits on no node.
        FileExistsError: there is such a world already.

    """
    described = load(topology)
    vms = [
        PlacedVm(vm.inventory, vm.primary_node, vm.primary_storage, vm.replica_node, vm.replica_storage)
        for vm in described.vms
    ]
    placed = [_placed(vm.inventory, vm.replica_node, vm.replica_storage) for vm in vms if vm.replica_node]
    for index, vm in enumerate(vms):
        if not vm.replica_node and vm.inventory.replication.replica_site:
            vms[index] = chosen = _place(vm, described.clusters, placed)
            placed.append(_placed(vm.inventory, chosen.replica_node, chosen.replica_storage))
    return SimulatedWorld.create(path, described.clusters, vms)


@app.command()
def create(
    topology: Annotated[Path, typer.Argument(help="The topology file to create it from.", show_default=False)],
    world: World = _DEFAULT,
) -> None:
    """Make a world from a topology file."""
    with reported():
        try:
            create_world(world, topology).close()
        except FileExistsError:
            raise ConfigError(f"{world}: there is such a file already; remove it first") from None


@app.command()
def show(world: World = _DEFAULT) -> None:
    """Show every VM at both its ends, test copies, the sites and the link."""
    with reported():
        opened = SimulatedWorld(world)
        table = Table(title=_title(opened))
        for column in ("VM", "site", "node", "power", "mode", "state", "epoch", "pending", "addresses"):
            numeric = column in ("epoch", "pending")
            table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=column == "VM")
        for end in opened.ends():
            table.add_row(
                opened.vm(end.vm_id).name,
                end.site,
                end.node or "-",
                end.power,
                end.mode,
                end.state,
                str(end.epoch),
                str(end.pending_bytes),
                ", ".join(address for adapter in end.adapters for address in adapter.configured.addresses),
            )
            if end.copy is not None:
                table.add_row(*_copy_row(opened.vm(end.vm_id).name, end, end.copy))
        console.print(table)


@app.command()
def recovery_points(
    vm: Vm,
    site: Annotated[str, typer.Option(help="Only those of the VM's end at this site.")] = "",
    world: World = _DEFAULT,
) -> None:
    """List what a VM's replica can be failed over to, newest last."""
    with reported():
        opened = SimulatedWorld(world)
        for point in opened.recovery_points(_vm_id(opened, vm), site):
            at = datetime.fromtimestamp(point.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
            console.print(f"{at.replace('+00:00', 'Z')}  {point}", highlight=False, soft_wrap=True)


@app.command()
def migrate(
    vm: Vm,
    node: Annotated[str, typer.Argument(help="The node to go to, at either site.")],
    kind: Annotated[Migration, typer.Option(help="How it goes.")] = Migration.LIVE,
    world: World = _DEFAULT,
) -> None:
    """Move a VM, or its replica, to another node of the same site."""
    with reported():
        opened = SimulatedWorld(world)
        opened.migrate(_vm_id(opened, vm), node, MoveKind(kind.name))


@app.command()
def write(
    vm: Vm,
    count: Annotated[int, typer.Argument(min=1, metavar="BYTES", help="How much.")],
    world: World = _DEFAULT,
) -> None:
    """Let a running VM write data that its replica does not have yet."""
    with reported():
        opened = SimulatedWorld(world)
        opened.write(_vm_id(opened, vm), count)


@app.command()
def power_off(site: Annotated[str, typer.Argument(help="The site.")], world: World = _DEFAULT) -> None:
    """Cut a site's power: its VMs are off, its hypervisors are silent."""
    with reported():
        SimulatedWorld(world).power_off_site(site)


@app.command()
def power_on(site: Annotated[str, typer.Argument(help="The site.")], world: World = _DEFAULT) -> None:
    """Give a site its power back. Its VMs stay off."""
    with reported():
        SimulatedWorld(world).power_on_site(site)


@app.command()
def cut_link(world: World = _DEFAULT) -> None:
    """Part the sites: nothing replicates, and neither can ask the other."""
    with reported():
        SimulatedWorld(world).cut_link()


@app.command()
def restore_link(world: World = _DEFAULT) -> None:
    """Join the sites again."""
    with reported():
        SimulatedWorld(world).restore_link()


@app.command()
def set_node(
    node: Annotated[str, typer.Argument(help="The node, at either site.")],
    state: Annotated[NodeIs, typer.Argument(help="What it is to be.")],
    site: Annotated[str, typer.Option(help="The node's site, where several have a node of that name.")] = "",
    world: World = _DEFAULT,
) -> None:
    """Set a node up, paused or down. What runs on a node that goes down is off."""
    with reported():
        SimulatedWorld(world).set_node(node, NodeState(state.name), site=site)


@app.command()
def add_node(
    cluster: Annotated[str, typer.Argument(help="The cluster that it joins.")],
    node: Annotated[str, typer.Argument(help="What the new node is called.")],
    memory_mib: Annotated[int, typer.Option(min=1, help="Its memory, all of it free.")] = 65_536,
    storage: Annotated[str, typer.Option(help="Storage that it has, as others of its cluster name it.")] = "",
    world: World = _DEFAULT,
) -> None:
    """Let a node join a cluster. It accepts no replicas until it is given replication settings."""
    with reported():
        SimulatedWorld(world).add_node(
            cluster, Node(node, NodeState.UP, memory_mib, memory_mib, storages=_storages(world, cluster, storage))
        )


@app.command()
def fail_settings(
    node: Annotated[str, typer.Argument(help="The node, at either site.")],
    kind: Annotated[FaultKind, typer.Option(help="What becomes of it.")] = FaultKind.REFUSE,
    times: Annotated[int, typer.Option(min=1, help="How many times.")] = 1,
    site: Annotated[str, typer.Option(help="The node's site, where several have a node of that name.")] = "",
    world: World = _DEFAULT,
) -> None:
    """Let it go wrong the next times that a node is given replication settings."""
    with reported():
        SimulatedWorld(world).fail_settings(node, times, kind=kind, site=site)


@app.command()
def set_server(
    node: Annotated[str, typer.Argument(help="The node, at either site.")],
    changes: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="Settings of a replication server.")],
    site: Annotated[str, typer.Option(help="The node's site, where several have a node of that name.")] = "",
    world: World = _DEFAULT,
) -> None:
    """Change what one node accepts, as somebody at its console would: behind the broker's back."""
    with reported():
        opened = SimulatedWorld(world)
        given = [change.partition("=") for change in changes]
        settings = {name: find_setting(SettingsScope.CLUSTER, name) for name, _, _ in given}
        values = {name: settings[name].parse(text) for name, _, text in given}
        if unknown := sorted(set(values) - {field.name for field in fields(ReplicationServer)}):
            raise ConfigError(f"{unknown[0]} is the broker's own: a node does not have it")
        opened.set_server(node, replace(opened.server(node, site=site), **values), site=site)


@app.command()
def silence_replication(vm: Vm, world: World = _DEFAULT) -> None:
    """Let a VM's replication cycles come to nothing, though the link is up."""
    with reported():
        opened = SimulatedWorld(world)
        opened.silence_replication(_vm_id(opened, vm))


@app.command()
def restore_replication(vm: Vm, world: World = _DEFAULT) -> None:
    """Let a VM that was silenced replicate again."""
    with reported():
        opened = SimulatedWorld(world)
        opened.restore_replication(_vm_id(opened, vm))


@app.command()
def close_port(vm: Vm, port: Port, world: World = _DEFAULT) -> None:
    """Let nothing listen at a TCP port of a VM any more."""
    with reported():
        opened = SimulatedWorld(world)
        opened.close_port(_vm_id(opened, vm), port)


@app.command()
def open_port(vm: Vm, port: Port, world: World = _DEFAULT) -> None:
    """Let something listen at a TCP port of a VM again."""
    with reported():
        opened = SimulatedWorld(world)
        opened.open_port(_vm_id(opened, vm), port)


def _title(world: SimulatedWorld) -> str:
    """The link, and what is out of order."""
    out_of_order = {
        "no power at": {site for site, powered in world.sites().items() if not powered},
        "no replication of": {world.vm(vm_id).name for vm_id in world.silenced()},
        "nothing listens at": {f"{world.vm(vm_id).name}:{port}" for vm_id, port in world.closed_ports()},
        "ran at both ends:": {world.vm(vm_id).name for vm_id in world.ran_twice()},
    }
    said = ["link up" if world.link_up else "link cut"]
    return ", ".join(said + [f"{what} {', '.join(sorted(names))}" for what, names in out_of_order.items() if names])


def _copy_row(name: str, end: End, copy: IsolatedCopy) -> tuple[str, ...]:
    """The row of an end's test copy. It is no end itself: it has no state, epoch or pending bytes of its own."""
    addresses = ", ".join(address for adapter in copy.adapters for address in adapter.configured.addresses)
    return (
        f"{name} - Test",
        end.site,
        end.node,
        copy.power,
        ReplicationMode.TEST_REPLICA,
        f"from {copy.point.point_id}",
        "",
        "",
        f"{addresses} on {copy.network or 'no network'}",
    )


def _place(vm: PlacedVm, clusters: tuple[ClusterInventory, ...], placed: list[Placed]) -> PlacedVm:
    placement = place(vm.inventory, clusters, placed)
    if placement.node is None:
        raise ConfigError(f"VM {vm.inventory.name!r}: no node takes its replica: {placement.why}")
    return replace(vm, replica_node=placement.node, replica_storage=placement.storage or "")


def _placed(vm: VmInventory, node: str, storage: str) -> Placed:
    return Placed(
        vm.vm_id,
        node,
        vm.replication.replica_site,
        anti_affinity=vm.anti_affinity,
        application=vm.application,
        memory_mib=vm.memory_mib,
        storage_gib=vm.storage_gib,
        storage=storage,
    )


def _storages(world: Path, cluster: str, path: str) -> tuple[Storage, ...]:
    """The storage of this path, as the cluster's nodes have it."""
    known = {
        storage.path: storage
        for present in SimulatedWorld(world).clusters()
        if present.cluster == cluster
        for node in present.nodes
        for storage in node.storages
    }
    if not path:
        return ()
    if path not in known:
        raise ConfigError(f"{cluster} has no storage {path!r}; it has {', '.join(known) or 'none'}")
    return (known[path],)


def _vm_id(world: SimulatedWorld, named: str) -> str:
    """The id of a VM given by its id or name; what names none is left for the world to refuse."""
    ids = {end.vm_id for end in world.ends()}
    if named in ids:
        return named
    matches = sorted(vm_id for vm_id in ids if world.vm(vm_id).name == named)
    if len(matches) > 1:
        raise ConfigError(f"several VMs are called {named!r}: {', '.join(matches)}; give the id")
    return matches[0] if matches else named
