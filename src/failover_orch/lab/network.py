"""The lab's network: which address everything has, and the `ip` commands that make it.

    root namespace ── NAME ┐
                           ├─ bridge "wan" in NAME-wan, which is the third place
      site namespace ──────┘
        ├─ bridge "mgmt": the nodes' own addresses, live migration, replication
        └─ bridge "lan":  the VMs' network, with its gateway
             └─ bridge "br0" of each node, where its VMs are plugged in; "br-test" of a node leads nowhere

Each lab takes a /24 of 10.99.0.0/16 that no other lab on this machine has, and all that the root namespace learns of it
is one interface and the routes to that /24. The VMs' networks are the same in every lab, and are routed inside only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path

from failover_orch.errors import LabError
from failover_orch.lab.commands import ip, run

__all__ = ["LanAddresses", "Plan", "SiteNetwork", "make_network", "owner", "plan_network", "remove_network"]

LANS: Sequence[tuple[str, str]] = (
    ("10.10.0.0/24", "fd10::/64"),
    ("10.50.0.0/24", "fd50::/64"),
    ("10.90.0.0/24", "fd90::/64"),
)
"""The VM networks of the first, the second and the third site."""
NODES_PER_SITE = 28
LONGEST_NAME = 12
BLOCKS = range(1, 255)


@dataclass(frozen=True, slots=True)
class LanAddresses:
    """A site's VM network: both families' networks, and the gateways in them."""

    v4: IPv4Network
    v6: IPv6Network

    @property
    def gateway4(self) -> IPv4Interface:
        return IPv4Interface((self.v4[1], self.v4.prefixlen))

    @property
    def gateway6(self) -> IPv6Interface:
        return IPv6Interface((self.v6[1], self.v6.prefixlen))


@dataclass(frozen=True, slots=True)
class SiteNetwork:
    """A site's part of the plan. `nodes` gives each node's management address."""

    name: str
    number: int
    namespace: str
    uplink4: IPv4Interface
    uplink6: IPv6Interface
    management: IPv4Network
    gateway: IPv4Interface
    lan: LanAddresses
    nodes: Mapping[str, IPv4Interface]

    @property
    def port(self) -> str:
        """The end of the site's uplink at the wide area network's bridge."""
        return f"site-{self.number}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A lab's whole network. `block` is the number N of its 10.99.N.0/24."""

    name: str
    block: int
    sites: Mapping[str, SiteNetwork]

    @property
    def wan(self) -> str:
        """The namespace of the wide area network, which is also the third place."""
        return f"{self.name}-wan"

    @property
    def root4(self) -> IPv4Interface:
        return IPv4Interface(f"10.99.{self.block}.1/27")

    @property
    def third4(self) -> IPv4Interface:
        return IPv4Interface(f"10.99.{self.block}.2/27")

    @property
    def third6(self) -> IPv6Interface:
        return IPv6Interface(f"fd99:0:{self.block:x}::2/64")

    def node_namespace(self, node: str) -> str:
        return f"{self.name}-node-{node}"

    def namespaces(self) -> list[str]:
        nodes = [self.node_namespace(node) for site in self.sites.values() for node in site.nodes]
        return [self.wan, *(site.namespace for site in self.sites.values()), *nodes]


def plan_network(name: str, block: int, nodes: Mapping[str, str]) -> Plan:
    """Give everything its address. `nodes` maps each node to its site; sites are numbered in the order they appear.

    Raises:
        LabError: a name that cannot be one, too many sites, too many nodes at a site.

    """
    if not re.fullmatch(rf"[a-z][a-z0-9-]{{0,{LONGEST_NAME - 1}}}", name):
        raise LabError(
            f"a lab's name has up to {LONGEST_NAME} of a-z, 0-9 and '-' and begins with a letter, which {name!r} does "
            "not: its interfaces are named after it"
        )
    for each in (*nodes, *nodes.values()):
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", each):
            raise LabError(f"a node or site of a lab is named with a-z, 0-9 and '-', which {each!r} is not")
    sites = list(dict.fromkeys(nodes.values()))
    if not 1 <= len(sites) <= len(LANS):
        raise LabError(f"a lab has 1 to {len(LANS)} sites, not {len(sites)}: {', '.join(sites)}")
    return Plan(name, block, {site: _site(name, block, number, site, nodes) for number, site in enumerate(sites, 1)})


def _site(lab: str, block: int, number: int, site: str, nodes: Mapping[str, str]) -> SiteNetwork:
    here = [node for node, at in nodes.items() if at == site]
    if len(here) > NODES_PER_SITE:
        raise LabError(f"a site of a lab has up to {NODES_PER_SITE} nodes, and {site} has {len(here)}")
    management = IPv4Network(f"10.99.{block}.{32 * number}/27")
    lan4, lan6 = LANS[number - 1]
    return SiteNetwork(
        name=site,
        number=number,
        namespace=f"{lab}-site-{site}",
        uplink4=IPv4Interface(f"10.99.{block}.{2 + number}/27"),
        uplink6=IPv6Interface(f"fd99:0:{block:x}::{2 + number}/64"),
        management=management,
        gateway=IPv4Interface((management[1], 27)),
        lan=LanAddresses(IPv4Network(lan4), IPv6Network(lan6)),
        nodes={node: IPv4Interface((management[2 + index], 27)) for index, node in enumerate(here)},
    )


def make_network(plan: Plan, owner: Path) -> None:
    """Make all namespaces, links, addresses and routes. The root namespace's link says whose lab it is."""
    for namespace in plan.namespaces():
        run("ip", "netns", "add", namespace)
        run(
            *("ip", "netns", "exec", namespace, "sh", "-c"),
            # Duplicate address detection would keep an address back for a second.
            "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; "
            "echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra; echo 1 > /proc/sys/net/ipv4/ip_forward; "
            "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        )
    ip("", [f"link add {plan.name} type veth peer name root netns {plan.wan}", f"link set {plan.name} alias {owner}"])
    for site in plan.sites.values():
        ip(site.namespace, [f"link add uplink type veth peer name {site.port} netns {plan.wan}"])
        for node in site.nodes:
            inside = plan.node_namespace(node)
            ip(site.namespace, [f"link add {_port(site, node, 'mgmt')} type veth peer name mgmt0 netns {inside}"])
            ip(site.namespace, [f"link add {_port(site, node, 'lan')} type veth peer name lan0 netns {inside}"])
    ip(plan.wan, _wan(plan))
    for site in plan.sites.values():
        ip(site.namespace, _site_lines(plan, site))
        for node, address in site.nodes.items():
            ip(plan.node_namespace(node), _node_lines(site, address))
    ip("", _root(plan))


def owner(name: str) -> Path | None:
    """The directory of the lab of this name, if one has been made; see `make_network`."""
    alias = Path(f"/sys/class/net/{name}/ifalias")
    return Path(alias.read_text().strip()) if alias.exists() else None


def remove_network(name: str, namespaces: Sequence[str]) -> None:
    """Remove the namespaces of a lab, and with them all links. Their processes must have ended."""
    with suppress(LabError):  # it may not have been made
        run("ip", "link", "del", name)
    for namespace in namespaces:
        run("ip", "netns", "del", namespace)


def _port(site: SiteNetwork, node: str, bridge: str) -> str:
    return f"{bridge}-{list(site.nodes).index(node) + 1}"


def _bridge(name: str, ports: Sequence[str]) -> Iterator[str]:
    yield f"link add {name} type bridge forward_delay 0 mcast_snooping 0"
    for port in ports:
        yield f"link set {port} master {name} up"
    yield f"link set {name} up"


def _root(plan: Plan) -> Iterator[str]:
    yield f"addr add {plan.root4} dev {plan.name}"
    yield f"link set {plan.name} up"
    for site in plan.sites.values():
        yield f"route add {site.management} via {site.uplink4.ip}"


def _wan(plan: Plan) -> Iterator[str]:
    yield "link set lo up"
    yield from _bridge("wan", ["root", *(site.port for site in plan.sites.values())])
    yield f"addr add {plan.third4} dev wan"
    yield f"addr add {plan.third6} dev wan"
    yield from _routes_to(plan.sites.values())


def _site_lines(plan: Plan, site: SiteNetwork) -> Iterator[str]:
    yield "link set lo up"
    yield from _bridge("mgmt", [_port(site, node, "mgmt") for node in site.nodes])
    yield from _bridge("lan", [_port(site, node, "lan") for node in site.nodes])
    yield f"addr add {site.gateway} dev mgmt"
    yield f"addr add {site.lan.gateway4} dev lan"
    yield f"addr add {site.lan.gateway6} dev lan"
    yield f"addr add {site.uplink4} dev uplink"
    yield f"addr add {site.uplink6} dev uplink"
    yield "link set uplink up"
    yield from _routes_to(other for other in plan.sites.values() if other is not site)


def _node_lines(site: SiteNetwork, address: IPv4Interface) -> Iterator[str]:
    yield "link set lo up"
    yield f"addr add {address} dev mgmt0"
    yield "link set mgmt0 up"
    yield f"route add default via {site.gateway.ip}"
    yield from _bridge("br0", ["lan0"])
    yield from _bridge("br-test", [])


def _routes_to(sites: Iterable[SiteNetwork]) -> Iterator[str]:
    for site in sites:
        yield f"route add {site.management} via {site.uplink4.ip}"
        yield f"route add {site.lan.v4} via {site.uplink4.ip}"
        yield f"route add {site.lan.v6} via {site.uplink6.ip}"
