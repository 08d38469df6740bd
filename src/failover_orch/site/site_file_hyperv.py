"""The part of a site file that is about Hyper-V nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from failover_orch.errors import ConfigError
from failover_orch.hypervisors.hyperv import (
    AdapterNaming,
    Authentication,
    HyperVNode,
    HyperVPeer,
    HyperVSite,
    Login,
    ReplicationAuthentication,
    VmNaming,
)
from failover_orch.site.site_file_values import ANY_NAME, Here, texts_by_name
from failover_orch.yaml_reading import IDENTIFIER, Entry

__all__ = ["HYPERV_KEYS", "LOGIN_KEYS", "NODE_KEYS", "PEER_KEYS", "read_hyperv"]

_COMMON = ("login", "tls", "ca_file")
"""What may be said once for all nodes, or of one of them."""
_TIMES = ("poll", "connect_timeout", "call_timeout", "long_call_timeout", "boot")
HYPERV_KEYS = (
    "kind",
    "cluster",
    "clustered",
    "broker",
    *_COMMON,
    "nodes",
    "peers",
    "switches",
    "test_networks",
    "guests",
    "vm_ids",
    "adapter_ids",
    "supported_guests",
    *_TIMES,
    "sessions",
)
LOGIN_KEYS = ("user", "password_file", "authentication")
NODE_KEYS = ("name", "host", "port", *_COMMON)
PEER_KEYS = ("cluster", "broker", "port", "authentication", "certificate_thumbprint", *_COMMON, "nodes")

_HTTP_PORT = 80
_MAX_PORT = 65_535
_MAX_SECONDS = 86_400
_MAX_SESSIONS = 16


@dataclass(frozen=True, slots=True)
class _Common:
    """What holds of a node that does not say otherwise."""

    login: Login
    tls: bool = True
    ca_file: Path | None = None


def read_hyperv(entry: Entry, here: Here) -> HyperVSite | None:
    """The mapping `hypervisor` of kind hyperv. What is wrong is noted; None where it does not make a site."""
    common = _common(entry, here, _Common(Login()))
    # What is left out keeps the driver's own defaults.
    given: dict[str, Any] = {
        f"{name}_s": entry.number(name, 0, _MAX_SECONDS, default=0) for name in _TIMES if entry.has(name)
    }
    if entry.has("sessions"):
        given["sessions"] = entry.integer("sessions", 1, _MAX_SESSIONS)
    try:
        return HyperVSite(
            site=here.site,
            cluster=entry.text("cluster", pattern=IDENTIFIER),
            nodes=_nodes(entry, here, common),
            broker=entry.text("broker", required=False),
            peers=_peers(entry, here, common),
            clustered=entry.boolean("clustered", default=True),
            switches=texts_by_name(entry, "switches", ANY_NAME),
            test_networks=texts_by_name(entry, "test_networks"),
            guests=texts_by_name(entry, "guests", ANY_NAME),
            vm_ids=entry.choice("vm_ids", VmNaming, VmNaming.ID),
            adapter_ids=entry.choice("adapter_ids", AdapterNaming, AdapterNaming.NAME),
            supported_guests=tuple(text for _, text in entry.texts("supported_guests", pattern=IDENTIFIER)),
            **given,
        )
    except ConfigError as error:
        # It may merely follow from a mistake that is noted already: a node that could not be read is none.
        if not entry.notes.mistakes:
            entry.mistake("", str(error))
        return None


def _common(entry: Entry, here: Here, above: _Common) -> _Common:
    login = entry.entry("login", LOGIN_KEYS)
    return _Common(
        login=above.login if login is None else _login(login, here),
        tls=entry.boolean("tls", default=above.tls),
        ca_file=here.file(entry, "ca_file", required=False) or above.ca_file,
    )


def _login(entry: Entry, here: Here) -> Login:
    authentication = entry.choice("authentication", Authentication, Authentication.NEGOTIATE)
    # Kerberos may have the ticket of whoever runs the agent instead.
    required = authentication is not Authentication.KERBEROS
    return Login(
        username=entry.text("user", required=required),
        password=here.secret(entry, "password_file", required=required),
        authentication=authentication,
    )


def _nodes(entry: Entry, here: Here, common: _Common) -> tuple[HyperVNode, ...]:
    found = [_node(below, here, common) for below in entry.entries("nodes", "name", NODE_KEYS, required=True)]
    return tuple(node for node in found if node is not None)


def _node(entry: Entry, here: Here, common: _Common) -> HyperVNode | None:
    own = _common(entry, here, common)
    try:
        return HyperVNode(
            name=entry.text("name", pattern=IDENTIFIER),
            login=own.login,
            host=entry.text("host", required=False),
            port=entry.integer("port", 1, _MAX_PORT, default=0),
            tls=own.tls,
            ca_file=own.ca_file,
        )
    except ConfigError as error:
        entry.mistake("", str(error))
        return None


def _peers(entry: Entry, here: Here, common: _Common) -> tuple[HyperVPeer, ...]:
    given = entry.entry("peers", IDENTIFIER)
    if given is None:
        return ()
    below: Sequence[tuple[str, Entry | None]] = [(site, given.entry(site, PEER_KEYS)) for site in given.names]
    if here.site in given.names:
        given.mistake(here.site, "is this agent's own site; peers are the others")
    found = [_peer(peer, site, here, common) for site, peer in below if peer is not None]
    return tuple(peer for peer in found if peer is not None)


def _peer(entry: Entry, site: str, here: Here, common: _Common) -> HyperVPeer | None:
    nodes = _nodes(entry, here, _common(entry, here, common))
    try:
        return HyperVPeer(
            site=site,
            cluster=entry.text("cluster", pattern=IDENTIFIER),
            nodes=nodes,
            broker=entry.text("broker"),
            port=entry.integer("port", 1, _MAX_PORT, default=_HTTP_PORT),
            authentication=entry.choice(
                "authentication", ReplicationAuthentication, ReplicationAuthentication.KERBEROS
            ),
            certificate_thumbprint=entry.text("certificate_thumbprint", required=False),
        )
    except ConfigError as error:
        entry.mistake("", str(error))
        return None
