"""Failover addresses set in a Linux guest that runs, through its agent. It holds until the guest boots again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_interface

from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses
from failover_orch.errors import StepFailed, StepRefused
from failover_orch.hypervisors.libvirt.domain_xml import DomainAdapter
from failover_orch.hypervisors.libvirt.guest import AgentRefused, Executed, Guest
from failover_orch.hypervisors.libvirt.guest_files import Network

__all__ = ["apply_in_guest", "planned_families"]

_RESOLVER = "/etc/resolv.conf"
_STUB = "127.0.0.53"
"""systemd-resolved's own address, which stands in that file where the guest uses it."""
_DHCP_CLIENTS: Mapping[int, Sequence[tuple[str, ...]]] = {
    4: (("dhclient", "-4", "-1"), ("dhcpcd", "-4", "-w"), ("udhcpc", "-n", "-i")),
    6: (("dhclient", "-6", "-1"), ("dhcpcd", "-6", "-w"), ("udhcpc6", "-n", "-i")),
}
"""What guests have for asking for a lease, each to be followed by the interface. All stay, to renew what they got."""
_LEASE_S = 60.0


async def apply_in_guest(guest: Guest, adapters: Sequence[DomainAdapter], plans: Sequence[AdapterAddresses]) -> None:
    """Set these addresses in a guest that runs, through its agent. What is so already is left as it is.

    Raises:
        StepRefused: it is no Linux guest, or the domain has no channel for an agent.
        StepFailed: the agent does not answer, or a command failed.

    """
    if not plans:
        return
    with suppress(AgentRefused):  # agents older than 2.10 do not tell
        system = (await guest.ask("guest-get-osinfo")).get("id", "")
        if system == "mswindows":
            raise StepRefused(
                f"{guest.name} is a Windows guest: addresses are set through the agent of Linux guests only"
            )
    macs = {adapter.adapter_id: adapter.mac for adapter in adapters}
    found = await guest.network()
    for plan in plans:
        names = found.named(macs.get(plan.adapter_id, ""))
        if not names:
            raise StepFailed(f"{guest.name} has no interface for adapter {plan.adapter_id!r}, with its MAC")
        for version, family in planned_families(plan):
            await _set_family(guest, names[0], version, family, found)
    for plan in plans:
        # Only now: routes go with the addresses that they stood on.
        for version, family in planned_families(plan):
            await _set_gateways(guest, macs[plan.adapter_id], version, family)
    await _set_servers(guest, found, plans, macs)


async def _set_family(guest: Guest, name: str, version: int, family: FamilyAddresses, found: Network) -> None:
    has = {
        ip_interface(text)
        for interface in found.interfaces
        if interface.name == name
        for text in interface.addresses
        if ip_interface(text).version == version
    }
    if family.dhcp:
        if not has:
            await _lease(guest, name, version)
        return
    wanted = [ip_interface(text) for text in family.addresses]
    await _ip(guest, "link", "set", "dev", name, "up")
    for address in sorted(has.difference(wanted)):
        await _ip(guest, "addr", "del", str(address), "dev", name)
    # Also those that were there: they may have gone with the one they were second to.
    for address in wanted:
        await _ip(guest, "addr", "replace", str(address), "dev", name)


async def _set_gateways(guest: Guest, mac: str, version: int, family: FamilyAddresses) -> None:
    if family.dhcp:
        return
    found = await guest.network()
    has = [route for route in found.defaults(mac) if route.network.version == version]
    wanted = [ip_address(text) for text in family.gateways]
    for gateway in wanted:
        if gateway not in [ip_address(route.gateway) for route in has]:
            way = ("default", "via", str(gateway), "dev", found.named(mac)[0])
            await _ip(guest, f"-{version}", "route", "replace", *way, "metric", str(100 + wanted.index(gateway)))
    for route in has:
        if ip_address(route.gateway) not in wanted:
            await _ip(guest, f"-{version}", "route", "del", "default", "via", route.gateway, "dev", route.interface)


async def _set_servers(
    guest: Guest, found: Network, plans: Sequence[AdapterAddresses], macs: Mapping[str, str]
) -> None:
    """Have the planned DNS servers in the place of those that the planned adapters and families had."""
    had = found.configurations(macs)
    new: dict[str, tuple[str, ...]] = {}
    gone: set[str] = set()
    for plan in plans:
        families = {version: family.dns for version, family in planned_families(plan) if not family.dhcp}
        kept = tuple(text for text in had[plan.adapter_id].dns if ip_address(text).version not in families)
        gone |= {*had[plan.adapter_id].dns}.difference(kept)
        new[plan.adapter_id] = (*(server for servers in families.values() for server in servers), *kept)
    others = (server for server in found.servers if server not in gone)
    servers = tuple(dict.fromkeys((*(server for each in new.values() for server in each), *others)))
    if servers == found.servers:
        return
    current = await guest.read(_RESOLVER) or ""
    if _STUB in current:
        for adapter_id, its_own in new.items():
            name = found.named(macs[adapter_id])[0]
            await _done(guest, await guest.run("resolvectl", "dns", name, *its_own), f"resolvectl dns {name}")
        return
    kept_lines = [line for line in current.splitlines() if line.split()[:1] != ["nameserver"]]
    lines = [*kept_lines, *(f"nameserver {server}" for server in servers)]
    await guest.write(_RESOLVER, "".join(f"{line}\n" for line in lines))


async def _lease(guest: Guest, name: str, version: int) -> None:
    for client in _DHCP_CLIENTS[version]:
        with suppress(AgentRefused):  # it does not have this one
            await _done(guest, await guest.run(*client, name, within_s=_LEASE_S), client[0])
            return
    tried = ", ".join(client[0] for client in _DHCP_CLIENTS[version])
    raise StepFailed(f"{guest.name} has no DHCP client for IPv{version} that can be asked for a lease: none of {tried}")


async def _ip(guest: Guest, *arguments: str) -> None:
    await _done(guest, await guest.run("ip", *arguments), f"ip {' '.join(arguments)}")


async def _done(guest: Guest, executed: Executed, what: str) -> None:
    if executed.status != 0:
        raise StepFailed(f"`{what}` failed in {guest.name}: {executed.output or f'status {executed.status}'}")


def planned_families(plan: AdapterAddresses) -> tuple[tuple[int, FamilyAddresses], ...]:
    """The families of the plan that are planned."""
    return tuple((version, family) for version, family in ((4, plan.ipv4), (6, plan.ipv6)) if family is not None)
