"""The part of a site file that is about libvirt nodes."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from failover_orch.hypervisors.libvirt import BrokerAccess, Injection, LibvirtNode, LibvirtSite, PeerSite, ReplicatedVm
from failover_orch.site.site_file_values import ANY_NAME, Here, endpoint, is_loopback, texts_by_name, url
from failover_orch.yaml_reading import IDENTIFIER, Entry, Pattern, Register

__all__ = ["LIBVIRT_KEYS", "NODE_KEYS", "PEER_KEYS", "REPLICATE_KEYS", "TLS_KEYS", "read_libvirt"]

LIBVIRT_KEYS = (
    "kind",
    "cluster",
    "broker",
    "broker_url",
    "broker_access",
    "nodes",
    "networks",
    "test_networks",
    "listen",
    "key_file",
    "tls",
    "plaintext",
    "inject",
    "answers",
    "accepts_replicas",
    "supported_guests",
    "peers",
    "replicate",
)
NODE_KEYS = ("name", "uri", "storage", "run")
TLS_KEYS = ("certificate", "key", "ca")
ACCESS_KEYS = ("token_file", "ca", "certificate", "key")
PEER_KEYS = ("nodes",)
REPLICATE_KEYS = ("vm", "id", "to", "node", "every", "points", "consistent_every", "system", "application")

_SHORTEST_KEY = 16
_EVERY_S, _POINTS = 300.0, 4
_MAX_POINTS = 24
_MAX_EVERY_S = 86_400
_FOR_ALL_TO_READ = "would have the sites' key and the VMs' disks go over the network for all to read"
_OR_PLAINTEXT = "or set hypervisor.plaintext to true where nobody else is on it"
_URI = Pattern(re.compile(r"[a-z]+(\+[a-z0-9]+)?:///?\S+"), "a libvirt URI such as qemu+tcp://10.0.0.11/system")
_ABSOLUTE = Pattern(re.compile(r"/\S.*"), "the absolute path of a directory on the node")
_ANSWERS = Pattern(re.compile(r"ping|none|tcp:[1-9][0-9]{0,4}"), "ping, tcp:PORT or none")


def read_libvirt(entry: Entry, here: Here) -> LibvirtSite:
    """The mapping `hypervisor` of kind libvirt. What is wrong is noted."""
    plaintext = entry.boolean("plaintext", default=False)
    peers = _peers(entry, here, plaintext=plaintext)
    replicate = _replicate(entry, peers)
    listen = endpoint(entry, "listen")
    tls = entry.entry("tls", TLS_KEYS)
    certificate = here.file(tls, "certificate") if tls is not None else None
    tls_key = here.secret_file(tls, "key") if tls is not None else None
    # Whoever delivers, and whoever takes delivery, shows that they are of these sites.
    key = here.secret(entry, "key_file", required=bool(listen or peers.items))
    if 0 < len(key) < _SHORTEST_KEY:
        entry.mistake("key_file", f"holds a key of {len(key)} characters; expected {_SHORTEST_KEY} or more, by chance")
    if listen and tls is None and not plaintext and not is_loopback(listen.rpartition(":")[0]):
        entry.mistake("listen", f"{_FOR_ALL_TO_READ}; give tls, {_OR_PLAINTEXT}")
    return LibvirtSite(
        site=here.site,
        cluster=entry.text("cluster", pattern=IDENTIFIER),
        nodes=_nodes(entry),
        broker=entry.text("broker", required=False),
        broker_url=url(entry, "broker_url", "http", "https", required=False),
        broker_access=_broker_access(entry, here, plaintext=plaintext),
        networks=texts_by_name(entry, "networks"),
        test_networks=texts_by_name(entry, "test_networks"),
        listen=listen,
        key=key,
        tls_certificate=certificate,
        tls_key=tls_key,
        tls_ca=here.file(tls, "ca", required=False) if tls is not None else None,
        peers=tuple(peers.items.values()),
        replicate=replicate,
        inject=entry.choice("inject", Injection, Injection.FW_CFG),
        answers=entry.text("answers", required=False, pattern=_ANSWERS) or "ping",
        accepts_replicas=entry.boolean("accepts_replicas", default=True),
        supported_guests=tuple(text for _, text in entry.texts("supported_guests", pattern=IDENTIFIER)),
    )


def _broker_access(entry: Entry, here: Here, *, plaintext: bool) -> BrokerAccess:
    below = entry.entry("broker_access", ACCESS_KEYS)
    if below is None:
        return BrokerAccess()
    certificate = here.file(below, "certificate", required=False)
    key = here.secret_file(below, "key", required=certificate is not None)
    parts = urlsplit(url(entry, "broker_url", "http", "https"))
    token = here.secret(below, "token_file", required=False)
    if token and parts.scheme == "http" and not (plaintext or is_loopback(parts.hostname or "")):
        below.mistake(
            "token_file", f"would go over the network in the clear; take https in broker_url, {_OR_PLAINTEXT}"
        )
    return BrokerAccess(token, here.file(below, "ca", required=False), certificate, key)


def _nodes(entry: Entry) -> tuple[LibvirtNode, ...]:
    nodes: Register[LibvirtNode] = Register("node")
    for below in entry.entries("nodes", "name", NODE_KEYS, required=True):
        name = below.text("name", pattern=IDENTIFIER)
        node = LibvirtNode(
            name=name,
            uri=below.text("uri", pattern=_URI),
            storage=Path(below.text("storage", pattern=_ABSOLUTE)),
            run=tuple(text for _, text in below.texts("run", expected="a command's words, such as [ssh, root@d1]")),
        )
        nodes.add(below, "name", name, node)
    return tuple(nodes.items.values())


def _peers(entry: Entry, here: Here, *, plaintext: bool) -> Register[PeerSite]:
    before = len(entry.notes.mistakes)
    peers: Register[PeerSite] = Register("site")
    given = entry.entry("peers", IDENTIFIER)
    for site in given.names if given is not None else ():
        below = given.entry(site, PEER_KEYS, required=True) if given is not None else None
        if site == here.site and given is not None:
            given.mistake(site, "is this agent's own site; peers are the others")
        nodes = below.entry("nodes", IDENTIFIER, required=True) if below is not None else None
        urls = {} if nodes is None else {name: url(nodes, name, "http", "https") for name in nodes.names}
        for node, address in urls.items():
            parts = urlsplit(address)
            if nodes is not None and parts.scheme == "http" and not (plaintext or is_loopback(parts.hostname or "")):
                nodes.mistake(node, f"{_FOR_ALL_TO_READ}; take https, {_OR_PLAINTEXT}")
        if given is not None:
            peers.add(given, site, site, PeerSite(site, urls))
    peers.complete = len(entry.notes.mistakes) == before
    return peers


def _replicate(entry: Entry, peers: Register[PeerSite]) -> tuple[ReplicatedVm, ...]:
    replicated: Register[ReplicatedVm] = Register("VM")
    for below in entry.entries("replicate", "vm", REPLICATE_KEYS):
        name = below.text("vm", pattern=ANY_NAME)
        peer = peers.find(below, "to", below.text("to", pattern=IDENTIFIER))
        node = below.text("node", required=False, pattern=IDENTIFIER)
        if peer is not None and node and node not in peer.nodes and peers.complete:
            known = ", ".join(peer.nodes) or "none"
            below.mistake("node", f"there is no node {node!r} in hypervisor.peers.{peer.site}; known: {known}")
        vm = ReplicatedVm(
            vm=name,
            to=peer.site if peer is not None else "",
            vm_id=below.text("id", required=False, pattern=IDENTIFIER),
            node=node,
            every_s=below.number("every", 0.1, _MAX_EVERY_S, default=_EVERY_S),
            points=below.integer("points", 0, _MAX_POINTS, default=_POINTS),
            consistent_every=below.integer("consistent_every", 0, _MAX_POINTS, default=0),
            system=below.text("system", required=False) or "linux",
            application=below.text("application", required=False),
        )
        replicated.add(below, "vm", name, vm)
    return tuple(replicated.items.values())
