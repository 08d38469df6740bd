"""Leases for guests that ask for their addresses: a dnsmasq on each site's VM network."""

from __future__ import annotations

from pathlib import Path

from failover_orch.lab.network import SiteNetwork

__all__ = ["lease_command"]

LEASES4 = (200, 250)
LEASES6 = (0x1000, 0x1FFF)
"""The part of each family's network that leases come from."""


def lease_command(site: SiteNetwork, directory: Path) -> list[str]:
    """The command that gives leases of both families on a site's VM network. Its files go into `directory`."""
    v4, v6 = site.lan.v4, site.lan.v6
    return [
        *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface=lan"),
        *("--bind-interfaces", "--dhcp-authoritative", "--no-ping", "--enable-ra"),
        f"--dhcp-leasefile={directory / 'leases'}",
        f"--pid-file={directory / 'dnsmasq.pid'}",
        f"--dhcp-range={v4[LEASES4[0]]},{v4[LEASES4[1]]},{v4.netmask},1h",
        f"--dhcp-range={v6[LEASES6[0]]},{v6[LEASES6[1]]},{v6.prefixlen},1h",
        f"--dhcp-option=option:router,{site.lan.gateway4.ip}",
        f"--dhcp-option=option:dns-server,{site.lan.gateway4.ip}",
        f"--dhcp-option=option6:dns-server,[{site.lan.gateway6.ip}]",
    ]
