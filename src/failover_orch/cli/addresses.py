"""`failover-orch vm set-address` and `vm set-test-network`: what a VM's adapters are to have after a failover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

import typer

from failover_orch.cli.access import Actor, Reason, current, login_name, now_ms, publisher_for, run
from failover_orch.cli.common import Bootstrap, console, reported
from failover_orch.config import Settings
from failover_orch.domain import (
    AdapterAddresses,
    Family,
    FamilyAddresses,
    UnsetAdapters,
    VmReplicationSettings,
    parse_family,
)
from failover_orch.errors import ConfigError
from failover_orch.service import End, ReadModel, Vm, check_addresses

__all__ = ["AddressChange", "FamilyChange", "VmName", "set_address", "set_test_network"]

VmName = Annotated[str, typer.Argument(metavar="VM", help="The VM's id, or its name where only one VM has it.")]

DHCP = "dhcp"
KEEP = "keep"
NONE = "none"


class Unset(StrEnum):
    """What `--unset` takes."""

    KEEP = "keep"
    REFUSE = "refuse"


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
    end: End = End.OTHER
    unset: UnsetAdapters | None = None
    actor: str = ""
    reason: str = ""
    at_ms: int = 0

    def over(self, vm_id: str, present: VmReplicationSettings | None) -> VmReplicationSettings:
        """The VM's settings with the change in them; all else stays. Raises ConfigError as `FamilyChange.over` does."""
        present = present or VmReplicationSettings(vm_id, ())
        adapters: tuple[AdapterAddresses, ...] = getattr(present, self.end)
        known = next((each for each in adapters if each.adapter_id == self.adapter_id), None)
        adapter = AdapterAddresses(
            self.adapter_id,
            self.ipv4.over(known.ipv4 if known is not None else None),
            self.ipv6.over(known.ipv6 if known is not None else None),
        )
        others = [each for each in adapters if each.adapter_id != self.adapter_id]
        is_set = adapter.ipv4 is not None or adapter.ipv6 is not None
        changed = sorted([*others, adapter] if is_set else others, key=lambda each: each.adapter_id)
        by_end = {end: getattr(present, end) for end in End} | {self.end: tuple(changed)}
        return replace(
            present,
            adapters=by_end[End.OTHER],
            home_adapters=by_end[End.HOME],
            test_adapters=by_end[End.TEST],
            unset_adapters=self.unset or present.unset_adapters,
            actor=self.actor,
            reason=self.reason,
            set_at_ms=self.at_ms,
        )


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
    home: Annotated[bool, typer.Option("--home", help="For the way back to the site where it is at home.")] = False,
    test: Annotated[bool, typer.Option("--test", help="For a test copy, on its isolated network.")] = False,
    unset: Annotated[
        Unset | None,
        typer.Option(help="Adapters without failover addresses: keep the primary's, or refuse the failover."),
    ] = None,
    actor: Actor = "",
    reason: Reason = "",
    bootstrap: Bootstrap = None,
) -> None:
    """Set what one adapter of a VM is to have after a failover; all else stays as it is.

    `keep` drops a family's settings: the adapter then comes up with what it has at the primary.
    """
    with reported():
        if home and test:
            raise ConfigError("--home and --test name two ends: set one after the other")
        if test and unset is not None:
            raise ConfigError("--unset is not for --test: a test copy keeps what has no test address")
    change = AddressChange(
        adapter,
        FamilyChange(Family.IPV4, ipv4 or (), gateway4 or (), dns4 or ()),
        FamilyChange(Family.IPV6, ipv6 or (), gateway6 or (), dns6 or ()),
        End.HOME if home else End.TEST if test else End.OTHER,
        UnsetAdapters(unset.value.upper()) if unset is not None else None,
        actor,
        reason,
    )
    run(bootstrap, lambda config: _set_address(config, vm, change))


async def _set_address(config: Settings, name: str, change: AddressChange) -> None:
    model = await current(config)
    vm = model.vm(name)
    change = replace(change, actor=login_name(change.actor), at_ms=now_ms())
    await _publish(config, model, vm, change.over(vm.vm_id, vm.settings))


async def _publish(config: Settings, model: ReadModel, vm: Vm, wanted: VmReplicationSettings) -> None:
    check_addresses(model, vm, wanted)
    async with publisher_for(config) as publisher:
        await publisher.publish(wanted)
    console.print(f"set for {vm.name}; the broker's answer will be in the audit trail", highlight=False, markup=False)


def set_test_network(
    vm: VmName,
    network: Annotated[str, typer.Argument(help="The isolated network of a test copy; `none`: connected to none.")],
    actor: Actor = "",
    reason: Reason = "",
    bootstrap: Bootstrap = None,
) -> None:
    """Set the isolated network that a VM's test copy is connected to; it is never the one that the VM itself is on."""
    run(bootstrap, lambda config: _set_test_network(config, vm, network, actor, reason))


async def _set_test_network(config: Settings, name: str, network: str, actor: str, reason: str) -> None:
    model = await current(config)
    vm = model.vm(name)
    network = "" if network == NONE else network
    present = vm.settings or VmReplicationSettings(vm.vm_id, ())
    wanted = replace(present, test_network=network, actor=login_name(actor), reason=reason, set_at_ms=now_ms())
    await _publish(config, model, vm, wanted)
