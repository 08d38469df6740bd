"""`failover-orch vm` and `failover-orch place`: where VMs are or would go, and what they are to be after a failover.

They read Kafka themselves and work without the service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

import typer

from failover_orch.cli.access import (
    Actor,
    AsJson,
    Reason,
    current,
    login_name,
    moment,
    now_ms,
    publisher_for,
    run,
    show_json,
    show_table,
)
from failover_orch.cli.common import Bootstrap, console
from failover_orch.config import Settings
from failover_orch.domain import (
    AdapterAddresses,
    Family,
    FamilyAddresses,
    MoveKind,
    Placement,
    UnsetAdapters,
    VmMoved,
    VmReplicationSettings,
    conflicts,
    parse_family,
    settings_findings,
)
from failover_orch.errors import ConfigError, LookupFailed
from failover_orch.service import ReadModel, Vm, placement_view, vm_list, vm_view

__all__ = ["app", "place"]

app = typer.Typer(no_args_is_help=True, help="Where VMs and their replicas are, and their failover addresses.")

VmName = Annotated[str, typer.Argument(metavar="VM", help="The VM's id, or its name where only one VM has it.")]

DHCP = "dhcp"
KEEP = "keep"


class Unset(StrEnum):
    """What `--unset` takes."""

    KEEP = "keep"
    REFUSE = "refuse"


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
    """List VMs by name."""
    run(bootstrap, lambda config: _list(config, site, node, application, as_json))


async def _list(config: Settings, site: str, node: str, application: str, as_json: bool) -> None:
    model = await current(config)
    listed = vm_list(model, model.vms(site=site, node=node, application=application))
    if as_json:
        show_json(listed)
        return
    rows = [
        (vm.name, vm.vm_id, vm.node, vm.site, vm.role, vm.replica_node, vm.application, vm.health, vm.epoch, vm.run_id)
        for vm in listed.vms
    ]
    columns = ("VM", "id", "node", "site", "role", "replica on", "application", "health", "epoch", "run in flight")
    show_table("", columns, rows)


@app.command()
def show(vm: VmName, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Show all that is known of a VM: places, guest, adapters, failover addresses, runs."""
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
    facts.append(("adapters without failover addresses", view.unset_adapters))
    show_table(view.name, ("", ""), facts)
    places = [(at.node, at.site, at.role, at.storage, moment(at.since_ms)) for at in view.locations]
    show_table("Places", ("node", "site", "role", "storage", "since"), places)
    adapters = [
        (
            adapter.adapter_id,
            adapter.kind,
            adapter.network,
            ", ".join(adapter.addresses),
            _described(adapter.failover_ipv4),
            _described(adapter.failover_ipv6),
        )
        for adapter in view.adapters
    ]
    columns = ("adapter", "kind", "network", "addresses", "IPv4 after failover", "IPv6 after failover")
    show_table("Adapters", columns, adapters)
    runs = [
        (run.run_id, run.kind, run.state, moment(run.started_at_ms), run.detail) for run in model.runs(vm_id=vm.vm_id)
    ]
    show_table("Runs", ("run", "kind", "state", "started", "detail"), runs)


def _described(family: FamilyAddresses | None) -> str:
    if family is None:
        return "as at the primary"
    parts = ["DHCP" if family.dhcp else ", ".join(family.addresses)]
    if family.gateways:
        parts.append(f"gateway {', '.join(family.gateways)}")
    if family.dns:
        parts.append(f"DNS {', '.join(family.dns)}")
    return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class FamilyChange:
    """What the options say of one family of one adapter. Empty: nothing."""

    family: Family
    addresses: Sequence[str] = ()
    gateways: Sequence[str] = ()
    dns: Sequence[str] = ()

    def over(self, present: FamilyAddresses | None) -> FamilyAddresses | None:
        """What the adapter is to have in this family.

        `--ipv4` sets the family whole; `--gateway4` and `--dns4` alone change that part of what is set already.

        Raises:
            ConfigError: `dhcp` or `keep` stand beside addresses, nothing is there to change, or an address is none.

        """
        number = self.family.value.removeprefix("IPv")
        option = f"--ipv{number}"
        words = [word for word in (DHCP, KEEP) if word in self.addresses]
        if words and len(self.addresses) > 1:
            raise ConfigError(f"{option} {words[0]} stands alone: leave out the other {option}, or give addresses only")
        if KEEP in words:
            if self.gateways or self.dns:
                raise ConfigError(f"{option} keep takes no --gateway{number} and no --dns{number}")
            return None
        if self.addresses:
            static = () if words else self.addresses
            return parse_family(self.family, static, dhcp=bool(words), gateways=self.gateways, dns=self.dns)
        if not (self.gateways or self.dns):
            return present
        if present is None:
            raise ConfigError(f"the adapter has no {self.family} failover address yet: give {option} as well")
        changed = parse_family(self.family, gateways=self.gateways, dns=self.dns)
        return replace(present, gateways=changed.gateways or present.gateways, dns=changed.dns or present.dns)


@dataclass(frozen=True, slots=True)
class AddressChange:
    """What `set-address` is asked to change about a VM's settings."""

    adapter_id: str
    ipv4: FamilyChange
    ipv6: FamilyChange
    unset: UnsetAdapters | None = None
    actor: str = ""
    reason: str = ""
    at_ms: int = 0

    def over(self, vm_id: str, present: VmReplicationSettings | None) -> VmReplicationSettings:
        """The VM's settings with the change in them; all else stays. Raises ConfigError as `FamilyChange.over` does."""
        present = present or VmReplicationSettings(vm_id, ())
        known = next((each for each in present.adapters if each.adapter_id == self.adapter_id), None)
        adapter = AdapterAddresses(
            self.adapter_id,
            self.ipv4.over(known.ipv4 if known is not None else None),
            self.ipv6.over(known.ipv6 if known is not None else None),
        )
        others = [each for each in present.adapters if each.adapter_id != self.adapter_id]
        is_set = adapter.ipv4 is not None or adapter.ipv6 is not None
        return replace(
            present,
            adapters=tuple(sorted([*others, adapter] if is_set else others, key=lambda each: each.adapter_id)),
            unset_adapters=self.unset or present.unset_adapters,
            actor=self.actor,
            reason=self.reason,
            set_at_ms=self.at_ms,
        )


@app.command("set-address")
def set_address(
    vm: VmName,
    adapter: Annotated[str, typer.Option(help="The adapter's id, as `vm show` names it.")],
    ipv4: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS/PREFIX|dhcp|keep", help="IPv4 after a failover; again for a further address."),
    ] = None,
    gateway4: Annotated[list[str] | None, typer.Option(metavar="ADDRESS", help="IPv4 gateway, up to five.")] = None,
    dns4: Annotated[list[str] | None, typer.Option(metavar="ADDRESS", help="IPv4 DNS server.")] = None,
    ipv6: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS/PREFIX|dhcp|keep", help="IPv6 after a failover; again for a further address."),
    ] = None,
    gateway6: Annotated[list[str] | None, typer.Option(metavar="ADDRESS", help="IPv6 gateway, up to five.")] = None,
    dns6: Annotated[list[str] | None, typer.Option(metavar="ADDRESS", help="IPv6 DNS server.")] = None,
    unset: Annotated[
        Unset | None,
        typer.Option(help="Adapters without failover addresses: keep the primary's, or refuse the failover."),
    ] = None,
    actor: Actor = "",
    reason: Reason = "",
    bootstrap: Bootstrap = None,
) -> None:
    """Set what one adapter of a VM is to have after a failover; its other adapters stay as they are.

    `keep` drops a family's settings: the adapter then comes up with what it has at the primary.
    """
    change = AddressChange(
        adapter,
        FamilyChange(Family.IPV4, ipv4 or (), gateway4 or (), dns4 or ()),
        FamilyChange(Family.IPV6, ipv6 or (), gateway6 or (), dns6 or ()),
        UnsetAdapters(unset.value.upper()) if unset is not None else None,
        actor,
        reason,
    )
    run(bootstrap, lambda config: _set_address(config, vm, change))


async def _set_address(config: Settings, name: str, change: AddressChange) -> None:
    model = await current(config)
    vm = model.vm(name)
    change = replace(change, actor=login_name(change.actor), at_ms=now_ms())
    wanted = change.over(vm.vm_id, vm.settings)
    check_settings(model, vm, wanted)
    async with publisher_for(config) as publisher:
        await publisher.publish(wanted)
    console.print(f"set for {vm.name}; the broker's answer will be in the audit trail", highlight=False, markup=False)


def check_settings(model: ReadModel, vm: Vm, wanted: VmReplicationSettings) -> None:
    """Refuse here, before the person's eyes, what the broker would refuse later, and addresses promised to another VM.

    Raises:
        LookupFailed: the VM's inventory is not known yet.
        ConfigError: a rule speaks against the settings.

    """
    if vm.inventory is None:
        raise LookupFailed(f"the adapters of {vm.name} are not known yet: its primary site's agent reports them")
    found = [f"{one.rule}: {one.message}" for one in settings_findings(vm.inventory, wanted)]
    every = [wanted, *(other for other in model.settings() if other.vm_id != vm.vm_id)]
    found += [
        f"{conflict.rule}: {conflict.message}"
        for conflict in conflicts(every)
        if any(vm_id == vm.vm_id for vm_id, _ in conflict.holders)
    ]
    if found:
        raise ConfigError(f"these failover addresses cannot be set for {vm.name}: {'; '.join(found)}")


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
