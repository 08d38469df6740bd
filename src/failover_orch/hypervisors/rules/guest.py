"""What a guest does with its addresses: pure functions.

As Hyper-V's guests: staged addresses are applied by the integration services as the guest boots after a failover, on
synthetic adapters only. A family that was not staged, and every adapter that cannot be injected, keeps what the
guest's disk says, and that came from the primary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address, ip_interface

from failover_orch.domain.inventory import AdapterKind, IntegrationServices, VmInventory
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses
from failover_orch.hypervisors.rules.ends import Configuration, EndAdapter

__all__ = ["IPV4", "IPV6", "booted", "differences", "wants_lease"]

IPV4, IPV6 = 4, 6

Leases = Mapping[tuple[str, int], str]
"""Addresses that DHCP would hand out, by adapter and family, as `address/prefix`."""


def booted(
    vm: VmInventory, adapters: Sequence[EndAdapter], staged: Sequence[AdapterAddresses], leases: Leases
) -> tuple[EndAdapter, ...]:
    """The adapters as the guest has configured them once it is up, `staged` being what is to be injected."""
    if vm.guest.integration_services is not IntegrationServices.RUNNING:
        return tuple(adapters)
    synthetic = {adapter.adapter_id for adapter in vm.adapters if adapter.kind is AdapterKind.SYNTHETIC}
    plans = {plan.adapter_id: plan for plan in staged if plan.adapter_id in synthetic}
    return tuple(
        _injected(adapter, plans[adapter.adapter_id], leases) if adapter.adapter_id in plans else adapter
        for adapter in adapters
    )


def wants_lease(plan: AdapterAddresses) -> tuple[int, ...]:
    """The families in which an adapter is to ask for a DHCP lease."""
    return tuple(version for version, family in _families(plan) if family is not None and family.dhcp)


def differences(adapter: EndAdapter, plan: AdapterAddresses, *, networked: bool = True) -> tuple[str, ...]:
    """In which ways the guest's adapter is not as planned: one phrase each, none if all is well.

    `networked`: it has to be connected, too.
    """
    found: list[str] = []
    if networked and not adapter.connected:
        found.append("is not connected")
    for version, family in _families(plan):
        if family is None:
            continue
        present = tuple(text for text in adapter.configured.addresses if ip_interface(text).version == version)
        if family.dhcp:
            if not present:
                found.append(f"has no IPv{version} lease")
            continue
        pairs = (
            ("addresses", {ip_interface(text) for text in present}, {ip_interface(text) for text in family.addresses}),
            ("gateways", _of(adapter.configured.gateways, version), _of(family.gateways, version)),
            ("DNS servers", _of(adapter.configured.dns, version), _of(family.dns, version)),
        )
        found += [
            f"has IPv{version} {what} {_text(has)}, expected {_text(wanted)}"
            for what, has, wanted in pairs
            if has != wanted
        ]
    return tuple(found)


def _families(plan: AdapterAddresses) -> tuple[tuple[int, FamilyAddresses | None], ...]:
    return (IPV4, plan.ipv4), (IPV6, plan.ipv6)


def _injected(adapter: EndAdapter, plan: AdapterAddresses, leases: Leases) -> EndAdapter:
    addresses, gateways, dns = adapter.configured.addresses, adapter.configured.gateways, adapter.configured.dns
    for version, family in _families(plan):
        if family is None:
            continue
        new = family.addresses
        if family.dhcp:
            # An adapter that is not connected reaches no DHCP server, and so ends up without an address.
            lease = leases.get((adapter.adapter_id, version)) if adapter.connected else None
            new = (lease,) if lease else ()
        addresses = tuple(text for text in addresses if ip_interface(text).version != version) + new
        gateways = tuple(text for text in gateways if ip_address(text).version != version) + family.gateways
        dns = tuple(text for text in dns if ip_address(text).version != version) + family.dns
    return EndAdapter(adapter.adapter_id, adapter.connected, Configuration(addresses, gateways, dns), adapter.recovered)


def _of(texts: Sequence[str], version: int) -> set[object]:
    return {address for address in map(ip_address, texts) if address.version == version}


def _text(addresses: Collection[object]) -> str:
    return ", ".join(sorted(map(str, addresses))) or "none"
