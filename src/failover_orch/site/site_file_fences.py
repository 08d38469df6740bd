"""The fences of a site file: what cuts the power of the other sites' nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from failover_orch.fencing import (
    FenceSettings,
    IpmiFence,
    LibvirtFence,
    Login,
    Pace,
    PersonFence,
    Privilege,
    RedfishFence,
)
from failover_orch.site.site_file_values import Here, url
from failover_orch.yaml_reading import IDENTIFIER, Entry, did_you_mean

__all__ = ["FENCE_KEYS", "read_fences"]

_IPMI_PORT = 623
_MAX_PORT = 65_535
_MAX_TIMEOUT_S = 600


class _Agent(StrEnum):
    IPMI = "ipmi"
    REDFISH = "redfish"
    LIBVIRT = "libvirt"
    PERSON = "person"


_WHERE = ("site", "node", "agent")
_KEYS: Mapping[_Agent, Sequence[str]] = {
    _Agent.IPMI: (*_WHERE, "host", "port", "user", "password_file", "privilege", "timeout"),
    _Agent.REDFISH: (*_WHERE, "url", "system", "user", "password_file", "ca_file", "login", "timeout"),
    _Agent.LIBVIRT: (*_WHERE, "uri", "timeout"),
    _Agent.PERSON: _WHERE,
}
FENCE_KEYS = tuple(dict.fromkeys(key for keys in _KEYS.values() for key in keys))


def read_fences(
    entries: Sequence[Entry], here: Here, peers: Mapping[str, Sequence[str]] | None
) -> tuple[FenceSettings, ...]:
    """The entries of `fences`. `peers`: the nodes of each other site; None where the file does not say."""
    found = [_fence(entry, here, peers) for entry in entries]
    return tuple(fence for fence in found if fence is not None)


def _fence(entry: Entry, here: Here, peers: Mapping[str, Sequence[str]] | None) -> FenceSettings | None:
    before = len(entry.notes.mistakes)
    site = entry.text("site", pattern=IDENTIFIER)
    node = entry.text("node", pattern=IDENTIFIER)
    _check_place(entry, site, node, here, peers)
    if not entry.text("agent", expected=f"one of {', '.join(_Agent)}"):
        return None
    agent = entry.choice("agent", _Agent, _Agent.PERSON)
    if len(entry.notes.mistakes) == before:
        entry.only(_KEYS[agent], f"a fence of agent {agent}")
    pace = Pace(deadline_s=entry.number("timeout", 1, _MAX_TIMEOUT_S, default=Pace().deadline_s))
    fence: FenceSettings
    match agent:
        case _Agent.IPMI:
            fence = IpmiFence(
                site=site,
                node=node,
                host=entry.text("host", expected="the controller's host name or address"),
                user=entry.text("user"),
                password_file=here.secret_file(entry, "password_file") or here.directory,
                port=entry.integer("port", 1, _MAX_PORT, default=_IPMI_PORT),
                privilege=entry.choice("privilege", Privilege, Privilege.OPERATOR),
                pace=pace,
            )
        case _Agent.REDFISH:
            fence = RedfishFence(
                site=site,
                node=node,
                url=url(entry, "url", "https"),
                user=entry.text("user"),
                password_file=here.secret_file(entry, "password_file") or here.directory,
                system=entry.text("system", required=False),
                ca_file=here.file(entry, "ca_file", required=False),
                login=entry.choice("login", Login, Login.SESSION),
                pace=pace,
            )
        case _Agent.LIBVIRT:
            uri = entry.text("uri", expected="a libvirt URI such as qemu+tcp://10.0.0.11/system")
            fence = LibvirtFence(site, node, uri, pace)
        case _Agent.PERSON:
            fence = PersonFence(site, node)
    return fence if len(entry.notes.mistakes) == before else None


def _check_place(entry: Entry, site: str, node: str, here: Here, peers: Mapping[str, Sequence[str]] | None) -> None:
    """A fence that is for no node of another site would never be used, and be missed when it is needed."""
    if site and site == here.site:
        entry.mistake("site", f"{site!r} is this agent's own site; a fence cuts the power of another site's node")
    elif site and peers is not None and site not in peers:
        known = did_you_mean(site, peers) or f"; known: {', '.join(peers) or 'none'}"
        entry.mistake("site", f"there is no site {site!r} in hypervisor.peers{known}")
    elif site and node and peers is not None and node not in peers[site]:
        known = did_you_mean(node, peers[site]) or f"; known: {', '.join(peers[site]) or 'none'}"
        entry.mistake("node", f"there is no node {node!r} in hypervisor.peers.{site}{known}")
