"""`failover-orch vm` and `failover-orch place`: where VMs are or would go, and what they are to be after a failover.

They read Kafka themselves and work without the service.
"""

from __future__ import annotations

from typing import Annotated

import typer

from failover_orch.cli.access import (
    Actor,
    AsJson,
    current,
    login_name,
    moment,
    now_ms,
    publisher_for,
    run,
    show_json,
    show_table,
)
from failover_orch.cli.addresses import VmName, set_address, set_test_network
from failover_orch.cli.common import Bootstrap
from failover_orch.config import Settings
from failover_orch.domain import FamilyAddresses, MoveKind, Placement, VmMoved
from failover_orch.errors import LookupFailed
from failover_orch.service import AdapterView, placement_view, vm_list, vm_view, what_to_do

__all__ = ["app", "place"]

app = typer.Typer(no_args_is_help=True, help="Where VMs and their replicas are, and their failover addresses.")

app.command("set-address")(set_address)
app.command("set-test-network")(set_test_network)


@app.command()
def where(
    vm: VmName,
    site: Annotated[str, typer.Option(help="Only where it is at this site.")] = "",
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Say on which node a VM is: a line a site, first where it runs, the node in front."""
    run(bootstrap, lambda config: _where(config, vm, site, as_json))


async def _where(config: Settings, name: str, site: str, as_json: bool) -> None:
    model = await current(config)
    vm = model.vm(name)
    locations = [location for location in vm.locations if location.node and site in ("", location.site)]
    if not locations:
        raise LookupFailed(f"{vm.name} is known, but no node{f' of site {site}' if site else ''} has reported it yet")
    if as_json:
        show_json(vm_view(model, vm))
        return
    for location in locations:
        typer.echo(f"{location.node}  {location.site}  {location.role}  {location.storage}".rstrip())


@app.command("list")
def list_vms(
    site: Annotated[str, typer.Option(help="VMs that are at this site, as primary or replica.")] = "",
    node: Annotated[str, typer.Option(help="VMs that are on this node, as primary or replica.")] = "",
    application: Annotated[str, typer.Option(help="VMs of this application.")] = "",
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """List VMs by name, with their readiness."""
    run(bootstrap, lambda config: _list(config, site, node, application, as_json))


async def _list(config: Settings, site: str, node: str, application: str, as_json: bool) -> None:
    model = await current(config)
    listed = vm_list(model, model.vms(site=site, node=node, application=application))
    if as_json:
        show_json(listed)
        return
    rows = [
        (
            vm.name,
            vm.vm_id,
            vm.node,
            vm.site,
            vm.role,
            vm.replica_node,
            vm.application,
            vm.health,
            vm.readiness,
            vm.epoch,
            vm.run_id,
        )
        for vm in listed.vms
    ]
    columns = (
        *("VM", "id", "node", "site", "role", "replica on", "application", "health", "readiness", "epoch"),
        "run in flight",
    )
    show_table("", columns, rows)


@app.command()
def show(vm: VmName, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Show all that is known of a VM: places, guest, adapters, failover addresses, readiness with defects, runs."""
    run(bootstrap, lambda config: _show(config, vm, as_json))


async def _show(config: Settings, name: str, as_json: bool) -> None:
    model = await current(config)
    vm = model.vm(name)
    if as_json:
        show_json(vm_view(model, vm))
        return
    view = vm_view(model, vm)
    facts: list[tuple[str, object]] = [("id", view.vm_id), ("epoch", view.epoch), ("application", view.application)]
    if vm.inventory is not None:
        replication = vm.inventory.replication
        facts += [
            ("guest", f"{view.guest}, integration services {view.integration_services}"),
            ("size", f"{vm.inventory.cpus} CPUs, {vm.inventory.memory_mib} MiB, {vm.inventory.storage_gib} GiB"),
            (
                "replication",
                f"{replication.primary_site} to {replication.replica_site} every {replication.frequency_s} s",
            ),
        ]
    if view.health is not None:
        facts.append(("health", " ".join((view.health.health, *view.health.reasons))))
        if view.health.rpo_breach_at_ms:
            facts.append(("RPO will be breached", moment(view.health.rpo_breach_at_ms)))
    facts += [
        ("readiness", view.readiness),
        ("recovery plans", ", ".join(view.plan_ids)),
        ("test failover in flight", view.test_run.run_id if view.test_run is not None else ""),
        ("adapters without failover addresses", view.unset_adapters),
        ("network of a test copy", view.test_network or "none"),
    ]
    show_table(view.name, ("", ""), facts)
    if view.defects:
        show_table("Defects", ("defect", "what to do"), [(defect, what_to_do(defect)) for defect in view.defects])
    places = [(at.node, at.site, at.role, at.storage, moment(at.since_ms)) for at in view.locations]
    show_table("Places", ("node", "site", "role", "storage", "since"), places)
    adapters = [
        (
            adapter.adapter_id,
            adapter.kind,
            adapter.network,
            ", ".join(adapter.addresses),
        )
        for adapter in view.adapters
    ]
    show_table("Adapters", ("adapter", "kind", "network", "addresses"), adapters)
    wanted = [row for adapter in view.adapters for row in _wanted(adapter)]
    if wanted:
        show_table("After a failover", ("adapter", "where", "IPv4", "IPv6"), wanted)
    runs = [
        (run.run_id, run.kind, run.state, moment(run.started_at_ms), run.detail) for run in model.runs(vm_id=vm.vm_id)
    ]
    show_table("Runs", ("run", "kind", "state", "started", "detail"), runs)


def _wanted(adapter: AdapterView) -> list[tuple[object, ...]]:
    """What an adapter is to have, a row for each end that anything is set for."""
    ends = (
        ("at the other site", adapter.failover_ipv4, adapter.failover_ipv6),
        ("back at home", adapter.home_ipv4, adapter.home_ipv6),
        ("in a test copy", adapter.test_ipv4, adapter.test_ipv6),
    )
    return [
        (adapter.adapter_id, where, _described(ipv4), _described(ipv6)) for where, ipv4, ipv6 in ends if ipv4 or ipv6
    ]


def _described(family: FamilyAddresses | None) -> str:
    if family is None:
        return "as at the primary"
    parts = ["DHCP" if family.dhcp else ", ".join(family.addresses)]
    if family.gateways:
        parts.append(f"gateway {', '.join(family.gateways)}")
    if family.dns:
        parts.append(f"DNS {', '.join(family.dns)}")
    return "; ".join(parts)


def place(
    vm: VmName,
    record: Annotated[bool, typer.Option("--record", help="Tell the broker that the replica is there now.")] = False,
    actor: Actor = "",
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Say where a VM's replica lives, or else on which node and storage it should be placed, and why.

    Exit code 1 where no node can take it.
    """
    run(bootstrap, lambda config: _place(config, vm, record, actor, as_json))


async def _place(config: Settings, name: str, record: bool, actor: str, as_json: bool) -> None:
    model = await current(config)
    view = placement_view(model, model.vm(name))
    placement = view.placement
    if as_json:
        show_json(view)
    else:
        _show_placement(placement)
    if placement.node is None:
        raise typer.Exit(1)
    if record and not placement.existing:
        moved = VmMoved(
            vm_id=view.vm_id,
            site=placement.site,
            node=placement.node,
            kind=MoveKind.PLACED,
            occurred_at_ms=now_ms(),
            cluster=placement.cluster or "",
            storage=placement.storage or "",
            source=f"placed by {login_name(actor)}",
        )
        async with publisher_for(config) as publisher:
            await publisher.publish(moved)


def _show_placement(placement: Placement) -> None:
    if placement.node is not None:
        typer.echo(f"{placement.node}  {placement.site}  {placement.storage or ''}".rstrip())
    typer.echo(placement.why)
    if placement.candidates:
        criteria = [score.criterion for score in placement.candidates[0].scores]
        rows = [
            (one.node, one.cluster, one.storage, one.points, *(f"{s.points}/{s.weight}" for s in one.scores))
            for one in placement.candidates
        ]
        show_table("Candidates", ("node", "cluster", "storage", "points", *criteria), rows)
    if placement.refused:
        rows_refused = [(one.node, one.cluster, "; ".join(one.reasons)) for one in placement.refused]
        show_table("Refused", ("node", "cluster", "reasons"), rows_refused)
