"""Both sites' drivers on hosts that stand in for Hyper-V's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from hyperv import StandIn, VmSpec
from hyperv.world import AuthorizationEntry

from contract import ISOLATED, WITH_ADDRESSES
from failover_orch.domain.records import Action
from failover_orch.domain.replication_settings import ReplicationServer
from failover_orch.hypervisors.hyperv import (
    Authentication,
    HyperVHypervisor,
    HyperVNode,
    HyperVPeer,
    HyperVSite,
    Login,
    VmNaming,
)
from worlds import DR_ADDRESSES, command

__all__ = ["SITES", "Sites", "at_the_console", "driver", "settings", "sites_of"]

SITES = {"primary": ("p1", "p2"), "dr": ("d1", "d2")}


@dataclass(frozen=True, slots=True)
class Sites:
    """The hosts and both drivers."""

    stand_in: StandIn
    primary: HyperVHypervisor
    dr: HyperVHypervisor

    async def do(self, action: Action, site: str = "dr", **fields: Any) -> Mapping[str, str]:
        if action in WITH_ADDRESSES:
            fields.setdefault("addresses", DR_ADDRESSES)
        if action is Action.CREATE_TEST:
            fields.setdefault("test_network", ISOLATED)
        hypervisor = self.dr if site == "dr" else self.primary
        return await hypervisor.perform(replace(command(action, site), **fields))

    def effects(self, cmdlet: str) -> int:
        """How often the cmdlet has changed something."""
        return sum(effect.cmdlet == cmdlet for effect in self.stand_in.effects)

    def notes(self, site: str = "dr") -> str:
        return self.stand_in.vm("vm-1", site).notes


def settings(stand_in: StandIn, site: str, *, auth: str = "basic", **fields: Any) -> HyperVSite:
    """A site of the stand-in's world, as its agent sees both sites' hosts."""
    other = "dr" if site == "primary" else "primary"
    wanted: dict[str, Any] = {
        "broker": f"{site}-broker",
        "switches": {"*": "lan"},
        "vm_ids": VmNaming.NAME,
        "poll_s": 0.0,
        "connect_timeout_s": 2.0,
        "call_timeout_s": 10.0,
        "long_call_timeout_s": 10.0,
        **fields,
    }
    peer = HyperVPeer(
        other, f"{other}-cluster", _nodes(stand_in, other, site, auth), broker=f"{other}-broker.{other}.example"
    )
    return HyperVSite(site, f"{site}-cluster", _nodes(stand_in, site, site, auth), peers=(peer,), **wanted)


def driver(stand_in: StandIn, site: str, *, auth: str = "basic", **fields: Any) -> HyperVHypervisor:
    site_settings = settings(stand_in, site, auth=auth, **fields)
    return HyperVHypervisor(site_settings, clock=stand_in.clock, answers_at=stand_in.listens)


@asynccontextmanager
async def sites_of(
    *, vms: tuple[VmSpec, ...] = (VmSpec(),), boot_s: float = 0, auth: str = "basic", **fields: Any
) -> AsyncIterator[Sites]:
    """Hosts of a test's own. Faults that were armed have to have happened by the end."""
    with StandIn(vms=vms, boot_s=boot_s) as stand_in:
        primary, dr = (driver(stand_in, site, auth=auth, **fields) for site in SITES)
        async with primary, dr:
            yield Sites(stand_in, primary, dr)
        assert stand_in.faults_left() == ()


def at_the_console(stand_in: StandIn, node: str, wanted: ReplicationServer) -> None:
    """Somebody changes a node's replication settings with tools of their own."""
    with stand_in.lock:
        server = stand_in.node(node).server
        server.enabled, server.any_server = wanted.enabled, wanted.from_any_server
        server.authentication, server.thumbprint = wanted.authentication.value, wanted.certificate_thumbprint
        server.kerberos_port, server.certificate_port = wanted.http_port, wanted.https_port
        server.storage = wanted.default_storage_location
        server.monitoring_interval_s = wanted.monitoring_interval_s
        server.monitoring_start_s = wanted.monitoring_start_minute * 60
        server.port_mapping = {
            "KerberosAuthenticationPortMapping": {each.node: each.port for each in wanted.http_port_map},
            "CertificateAuthenticationPortMapping": {each.node: each.port for each in wanted.https_port_map},
        }
        server.entries = [
            AuthorizationEntry(entry.primary_server, entry.storage_location, entry.trust_group)
            for entry in wanted.authorization
        ]


def _nodes(stand_in: StandIn, site: str, seen_from: str, auth: str) -> tuple[HyperVNode, ...]:
    return tuple(_node(stand_in, name, seen_from, auth) for name in SITES[site])


def _node(stand_in: StandIn, name: str, seen_from: str, auth: str) -> HyperVNode:
    door = stand_in.door(name, seen_from=seen_from, auth=auth)
    login = Login(stand_in.username, stand_in.password, Authentication(auth))
    return HyperVNode(name, login, door.host, door.port, tls=door.ssl, ca_file=stand_in.ca_file if door.ssl else None)
