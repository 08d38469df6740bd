"""`failover-orch topology`: what is wrong with a topology file, and telling the broker what a file says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from failover_orch.applying import WAIT_S, apply_topology
from failover_orch.cli.access import Actor, Reason, login_name, run, show_table
from failover_orch.cli.common import Bootstrap
from failover_orch.config import Settings
from failover_orch.domain import (
    AdapterAddresses,
    FamilyAddresses,
    ReplicationState,
    kept_adapters,
)
from failover_orch.errors import Mistake, TopologyError
from failover_orch.topology import Topology, TopologyVm, load

__all__ = ["app"]

app = typer.Typer(help="Topology files: sites, clusters, VMs, addresses, plans, policies.", no_args_is_help=True)

Files = Annotated[list[Path], typer.Argument(help="Topology files.", show_default=False)]
File = Annotated[Path, typer.Argument(help="A topology file.", show_default=False)]
Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait until the broker knows every VM.")]


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
        _count(topology.policies, "policy", "policies"),
    )
    typer.echo(f"{file}: {', '.join(counts)}; {refused} would be refused at a failover")
    return True


def _said(file: Path, mistake: Mistake) -> str:
    return f"{file}:{mistake.line}: {mistake.field}: {mistake.message}"


def _count(things: Sequence[object], name: str, names: str = "") -> str:
    return f"{len(things)} {name if len(things) == 1 else names or f'{name}s'}"


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
    """Tell the broker what a file says: clusters and VMs, then policies, failover addresses and recovery plans.

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
        f"{_count(topology.settings, 'IP plan')}, {_count(topology.plans, 'recovery plan')} and "
        f"{_count(topology.policies, 'policy', 'policies')} published"
    )
