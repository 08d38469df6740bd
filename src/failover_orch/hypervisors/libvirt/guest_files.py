"""What a guest's files and its agent's answer say of how its network is set up. All pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_interface,
)
from typing import Any

from failover_orch.domain.settings import AdapterAddresses
from failover_orch.hypervisors.rules import Configuration

__all__ = [
    "IPV4_ROUTES",
    "IPV6_ADDRESSES",
    "IPV6_ROUTES",
    "RESOLVER_FILES",
    "TCP_SOCKETS",
    "Interface",
    "Network",
    "Route",
    "interfaces",
    "listened_ports",
    "name_servers",
    "network",
]

IPV4_ROUTES = "/proc/net/route"
IPV6_ROUTES = "/proc/net/ipv6_route"
IPV6_ADDRESSES = "/proc/net/if_inet6"
RESOLVER_FILES = ("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")
"""Where a guest's DNS servers stand. With systemd-resolved the second names only its own address."""

TCP_SOCKETS = ("/proc/net/tcp", "/proc/net/tcp6")

_UP, _REJECTED, _LEARNED = 0x1, 0x200, 0x40000
"""Flags of routes: in use; leading nowhere; told by a router's advertisement."""
_LISTENING = "0A"
_LOOPBACK = frozenset({"0100007F", "00000000000000000000000001000000"})
_MOST = 64
_PERMANENT = 0x80
"""Flag of an IPv6 address that was set, and has no lifetime."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of the guest. Addresses are `address/prefix`, without link-local ones."""

    name: str
    mac: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A way out of the guest. `gateway` is empty where the network is on the link."""

    interface: str
    network: IPv4Network | IPv6Network
    gateway: str = ""
    metric: int = 0
    learned: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """How a guest's network is set up. Where `routes_known` is False its agent lets nobody read that."""

    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...] = ()
    servers: tuple[str, ...] = ()
    routes_known: bool = True

    def named(self, mac: str) -> tuple[str, ...]:
        """The interfaces of an adapter: several where the guest bonds them, or puts VLANs on them."""
        return tuple(interface.name for interface in self.interfaces if interface.mac == mac.lower())

    def configurations(
        self, macs: Mapping[str, str], plans: Sequence[AdapterAddresses] = ()
    ) -> Mapping[str, Configuration]:
        """What is configured on each adapter. `macs` gives each adapter's MAC; `plans` say whose a DNS server is."""
        planned = {plan.adapter_id: set(_planned_servers(plan)) for plan in plans}
        anybodys = set().union(*planned.values())
        return {
            adapter_id: Configuration(
                # Linux gives those of IPv6 in an order that says nothing.
                addresses=_ordered(sorted(self._addresses(mac), key=_number)),
                gateways=_ordered(route.gateway for route in self.defaults(mac)),
                dns=_ordered(
                    server
                    for server in self.servers
                    if server in planned.get(adapter_id, ())
                    or (server not in anybodys and self._way_to(server) in self.named(mac))
                ),
            )
            for adapter_id, mac in macs.items()
        }

    def defaults(self, mac: str) -> tuple[Route, ...]:
        """The default routes of an adapter, the preferred one first.

        What routers advertise counts only where no other of that family is set.
        """
        names = self.named(mac)
        found = [
            route
            for route in self.routes
            if route.interface in names and route.gateway and route.network.prefixlen == 0
        ]
        set_versions = {route.network.version for route in found if not route.learned}
        return tuple(
            sorted(
                (route for route in found if not (route.learned and route.network.version in set_versions)),
                key=lambda route: route.metric,
            )
        )

    def _addresses(self, mac: str) -> Iterator[str]:
        for interface in self.interfaces:
            if interface.mac == mac.lower():
                yield from interface.addresses

    def _way_to(self, server: str) -> str:
        """The interface through which the guest reaches an address; empty where it does not."""
        address = ip_address(server)
        ways = [route for route in self.routes if address.version == route.network.version and address in route.network]
        best = max(ways, key=lambda route: (route.network.prefixlen, -route.metric), default=None)
        return best.interface if best else ""


def interfaces(answer: Sequence[Mapping[str, Any]]) -> tuple[Interface, ...]:
    """The interfaces in the agent's answer to `guest-network-get-interfaces`."""
    return tuple(
        Interface(
            each["name"],
            each.get("hardware-address", "").lower(),
            tuple(
                str(ip_interface(f"{address['ip-address'].partition('%')[0]}/{address['prefix']}"))
                for address in each.get("ip-addresses", ())
                if not ip_address(address["ip-address"].partition("%")[0]).is_link_local
            ),
        )
        for each in answer
    )


def network(
    found: Sequence[Interface],
    routes4: str | None,
    routes6: str | None,
    addresses6: str | None,
    resolver: str | None,
) -> Network:
    """The guest's network, of its interfaces and what its files hold: None for one that could not be read."""
    passing = _passing(addresses6 or "")
    return Network(
        interfaces=tuple(
            Interface(each.name, each.mac, _lasting(each, passing.get(each.name, frozenset()))) for each in found
        ),
        routes=(*_routes4(routes4 or ""), *_routes6(routes6 or "")),
        servers=name_servers(resolver or ""),
        routes_known=routes4 is not None,
    )


def name_servers(resolver: str) -> tuple[str, ...]:
    """The DNS servers in a `resolv.conf`, in its order."""
    found = []
    for line in resolver.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            address = ip_address(words[1].partition("%")[0])
            if not address.is_loopback:
                found.append(str(address))
    return tuple(dict.fromkeys(found))


def listened_ports(sockets: Iterable[str]) -> frozenset[int]:
    """The TCP ports at which something listens for others, in what the files of TCP sockets hold."""
    ports = set()
    for text in sockets:
        for line in text.splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, port = local.partition(":")
            if state == _LISTENING and address not in _LOOPBACK:
                ports.add(int(port, 16))
    return frozenset(ports)


def _passing(addresses6: str) -> dict[str, frozenset[str]]:
    """The IPv6 addresses that have a lifetime, as autoconfiguration and leases give them, by their interfaces."""
    found: dict[str, frozenset[str]] = {}
    for line in addresses6.splitlines():
        address, _, _, _, flags, name = line.split()
        if not int(flags, 16) & _PERMANENT:
            found[name] = found.get(name, frozenset()) | {str(IPv6Address(bytes.fromhex(address)))}
    return found


def _lasting(interface: Interface, passing: Collection[str]) -> tuple[str, ...]:
    """The interface's addresses, without those of a lifetime where IPv6 has others: they come and go by themselves."""
    lasting = [text for text in interface.addresses if text.partition("/")[0] not in passing]
    return tuple(lasting) if any(":" in text for text in lasting) else interface.addresses


def _routes4(text: str) -> Iterator[Route]:
    """The routes in /proc/net/route, whose addresses are hexadecimal in the guest's byte order: x86's and ARM's."""
    for line in text.splitlines()[1:]:
        name, destination, gateway, flags, _, _, metric, mask, *_ = line.split()
        if int(flags, 16) & (_UP | _REJECTED) != _UP:
            continue
        via = _ipv4(gateway)
        yield Route(
            name,
            IPv4Network((int(_ipv4(destination)), str(_ipv4(mask)))),
            str(via) if int(via) else "",
            int(metric),
        )


def _ipv4(digits: str) -> IPv4Address:
    return IPv4Address(bytes.fromhex(digits)[::-1])


def _routes6(text: str) -> Iterator[Route]:
    """The routes in /proc/net/ipv6_route."""
    for line in text.splitlines():
        destination, length, _, _, gateway, metric, _, _, flags, name = line.split()
        bits = int(flags, 16)
        if bits & (_UP | _REJECTED) != _UP:
            continue
        via = IPv6Address(bytes.fromhex(gateway))
        yield Route(
            name,
            IPv6Network((bytes.fromhex(destination), int(length, 16))),
            str(via) if int(via) else "",
            int(metric, 16),
            learned=bool(bits & _LEARNED),
        )


def _planned_servers(plan: AdapterAddresses) -> Iterator[str]:
    for family in (plan.ipv4, plan.ipv6):
        if family is not None:
            yield from (str(ip_address(server)) for server in family.dns)


def _number(address: str) -> int:
    return int(ip_interface(address))


def _ordered(addresses: Iterable[str]) -> tuple[str, ...]:
    """Each once, those of IPv4 first, and else as they come. Of very many, as a guest that means harm has, some."""
    return tuple(sorted(dict.fromkeys(addresses), key=lambda text: ip_interface(text).version))[:_MOST]
