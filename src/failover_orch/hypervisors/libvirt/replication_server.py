"""What the nodes of a site accept from other sites: a file on each node, which its administrators may change as well.

    <storage>/.failover-orch/<node>.json        the settings, by the names that `failover-orch settings` has for them

Under the node's storage it outlives agents, and has the node's name, since nodes share their storage. It is read again
every few seconds: what it says is what the receiver goes by, whoever wrote it. A node without one was never told
anything, and accepts what the site file says from whoever has the sites' key.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

import libvirt
import msgspec

from failover_orch.domain.reception import entry_for
from failover_orch.domain.replication_settings import AcceptedAuthentication, AuthorizationEntry, ReplicationServer
from failover_orch.errors import LookupFailed, StepFailed, StepRefused
from failover_orch.hypervisors.libvirt.node import Node
from failover_orch.hypervisors.libvirt.settings import LibvirtSite
from failover_orch.hypervisors.libvirt.site import Site

__all__ = ["Servers", "settings_file"]

_FRESH_S = 5.0
_ASKING_S = 10.0
_READ = 'cd -- "$1"; [ -e "$2" ] || exit 0; cat -- "$2"'
"""Where the storage itself is not there (it is not mounted), that is no node without settings."""


def settings_file(node: Node) -> PurePosixPath:
    """Where the node's settings stand, as the node sees it."""
    return PurePosixPath(node.settings.storage) / ".failover-orch" / f"{node.name}.json"


class _Unreadable(StepFailed):
    """A node's file is there, and holds no settings."""


class Servers:
    """The nodes of one site as replication servers."""

    def __init__(self, site: Site, *, fresh_s: float = _FRESH_S) -> None:
        """For so many seconds what was read lately is taken for what is there."""
        self._site = site
        self._fresh_s = fresh_s
        self._known: dict[str, tuple[float, ReplicationServer | None]] = {}

    async def settings(self, nodes: Collection[str] = ()) -> Mapping[str, ReplicationServer | str]:
        """What these nodes, or all, have now; of one that cannot be asked, why."""
        asked = [node for node in self._site.nodes if not nodes or node.name in nodes]
        return dict(zip((node.name for node in asked), await asyncio.gather(*map(self._told, asked)), strict=True))

    async def apply(self, node_name: str, wanted: ReplicationServer) -> None:
        """Let a node have these settings.

        Raises:
            StepRefused: there is no such node, or libvirt replication cannot do what they ask for.
            StepFailed: the node does not answer; or it reads back something else.

        """
        try:
            node = self._site.nodes.node(node_name)
        except LookupFailed as error:
            raise StepRefused(str(error)) from None
        # What cannot be read is put right by what is written in its place.
        with suppress(_Unreadable):
            if await self._read(node) == wanted:
                return
        self._require_possible(node, wanted)
        path = settings_file(node)
        await node.run("mkdir", "-p", "--", str(path.parent), within_s=_ASKING_S)
        await node.write(path, _text(wanted))
        if await self._read(node) != wanted:
            raise StepFailed(f"{path} on {node.name} was written, and reads back something else")

    async def accepts(self, node: Node) -> bool:
        """Whether the node takes replicas, as was seen not long ago. Raises StepFailed."""
        server = await self._lately(node)
        return self._site.settings.accepts_replicas if server is None else server.enabled

    async def admit(self, node_name: str, caller: str) -> AuthorizationEntry:
        """By which authorization entry a new replica of this primary server may come to the node.

        Raises:
            StepRefused: by none.
            StepFailed: the node cannot be asked.

        """
        node = self._site.nodes.node(node_name)
        server = await self._lately(node)
        settings = self._site.settings
        if not (settings.accepts_replicas if server is None else server.enabled):
            raise StepRefused(f"{settings.cluster} at {self._site.name} does not accept replicas: enable it there")
        if server is None:
            return AuthorizationEntry(caller, str(node.settings.storage), "")
        entry = entry_for(server, caller)
        if entry is None:
            raise StepRefused(self._unauthorised(node_name, caller))
        return entry

    async def admit_to(self, node_name: str, caller: str, trust_group: str) -> None:
        """See that this primary server may go on with a replica of the trust group (empty: of none).

        Raises:
            StepRefused: it may not.
            StepFailed: the node cannot be asked.

        """
        server = await self._lately(self._site.nodes.node(node_name))
        if server is None or not server.enabled:
            return  # it takes no new replicas; those that it has go on
        entry = entry_for(server, caller)
        if entry is None:
            raise StepRefused(self._unauthorised(node_name, caller))
        if not server.from_any_server and trust_group and entry.trust_group != trust_group:
            raise StepRefused(
                f"{caller or 'a primary server without a name'} is of the trust group {entry.trust_group!r} on "
                f"{node_name}, and that replica is of {trust_group!r}"
            )

    def _unauthorised(self, node_name: str, caller: str) -> str:
        who = caller or "a primary server that does not say who it is"
        return f"{node_name} at {self._site.name} has no authorization entry for {who}: make one there"

    async def _told(self, node: Node) -> ReplicationServer | str:
        try:
            return await self._read(node) or self._never_told(node)
        except (StepFailed, libvirt.libvirtError) as error:
            return str(error)

    async def _lately(self, node: Node) -> ReplicationServer | None:
        now_s = asyncio.get_running_loop().time()
        at_s, server = self._known.get(node.name, (float("-inf"), None))
        if now_s - at_s >= self._fresh_s:
            server = await self._read(node)
        return server

    async def _read(self, node: Node) -> ReplicationServer | None:
        """What the node's file says; None where there is none."""
        if not node.up:
            raise StepFailed(f"node {node.name} does not answer")
        path = settings_file(node)
        told = await node.run("sh", "-ec", _READ, "sh", str(node.settings.storage), str(path), within_s=_ASKING_S)
        server = None
        if told:
            try:
                server = msgspec.json.decode(told, type=ReplicationServer)
            except msgspec.MsgspecError as error:
                raise _Unreadable(
                    f"{path} on {node.name} holds no replication settings ({error}): put it right, or remove it and "
                    "have the settings applied anew"
                ) from None
        self._known[node.name] = (asyncio.get_running_loop().time(), server)
        return server

    def _never_told(self, node: Node) -> ReplicationServer:
        settings = self._site.settings
        port = _port(settings)
        by_certificate = settings.tls_certificate is not None
        return ReplicationServer(
            enabled=settings.accepts_replicas and port > 0,
            # What comes without TLS counts as the kind that comes over HTTP: nothing else is known of it.
            authentication=AcceptedAuthentication.CERTIFICATE if by_certificate else AcceptedAuthentication.KERBEROS,
            http_port=0 if by_certificate else port,
            https_port=port if by_certificate else 0,
            certificate_thumbprint=_thumbprint(settings),
            from_any_server=True,
            default_storage_location=str(node.settings.storage),
        )

    def _require_possible(self, node: Node, wanted: ReplicationServer) -> None:
        """See that nothing is promised that libvirt replication does not do."""
        if not wanted.enabled:
            return
        asked = _Asked(self._site.settings, PurePosixPath(node.settings.storage), wanted)
        for name, (impossible, instead) in _IMPOSSIBLE.items():
            if impossible(asked):
                raise StepRefused(f"{node.name} cannot be given {name}: {instead(asked)}")


@dataclass(frozen=True, slots=True)
class _Asked:
    """Settings that a node is asked to have, and what they have to fit."""

    site: LibvirtSite
    storage: PurePosixPath
    wanted: ReplicationServer

    def outside(self, location: str) -> bool:
        """Whether replicas cannot be put there: all of a node's lie under the directory that the site file names."""
        path = PurePosixPath(location)
        return ".." in path.parts or not path.is_relative_to(self.storage)


_IMPOSSIBLE: Mapping[str, tuple[Callable[[_Asked], bool], Callable[[_Asked], str]]] = {
    "authentication": (
        lambda asked: asked.wanted.authentication is not AcceptedAuthentication.CERTIFICATE,
        lambda _: "libvirt sites know each other by TLS and their shared key, not by Kerberos; set it to Certificate",
    ),
    "enabled": (
        lambda asked: asked.site.tls_certificate is None or _port(asked.site) == 0,
        lambda asked: (
            f"the agents of {asked.site.site} receive nothing over TLS; give its site file `listen` and `tls`"
        ),
    ),
    "https_port": (
        lambda asked: asked.wanted.https_port != _port(asked.site),
        lambda asked: f"its agents listen at {_port(asked.site)}; set it to that, or change `listen` in the site file",
    ),
    "certificate_thumbprint": (
        lambda asked: asked.wanted.certificate_thumbprint.lower() != _thumbprint(asked.site),
        lambda asked: f"the certificate in its site file is {_thumbprint(asked.site)}; set it to that",
    ),
    "default_storage_location": (
        lambda asked: asked.wanted.from_any_server and asked.outside(asked.wanted.default_storage_location),
        lambda asked: f"its replicas lie under {asked.storage}; set it to that, or to a directory in it",
    ),
    "authorization": (
        lambda asked: any(asked.outside(entry.storage_location) for entry in asked.wanted.authorization),
        lambda asked: f"its replicas lie under {asked.storage}; let each entry name that, or a directory in it",
    ),
}
"""By setting: when a node cannot have it, and what would have to change."""


def _port(settings: LibvirtSite) -> int:
    """The port at which the site's agents receive; 0: they do not."""
    digits = settings.listen.rpartition(":")[2]
    return int(digits) if digits.isdecimal() else 0


def _thumbprint(settings: LibvirtSite) -> str:
    """The SHA-1 of the receiver's certificate, as Windows calls a certificate; empty where it has none."""
    if settings.tls_certificate is None:
        return ""
    try:
        text = settings.tls_certificate.read_text()
        _, begin, rest = text.partition("-----BEGIN CERTIFICATE-----")
        certificate, end, _ = rest.partition("-----END CERTIFICATE-----")
        encoded = ssl.PEM_cert_to_DER_cert(begin + certificate + end)
    except (OSError, ValueError) as error:
        raise StepFailed(f"{settings.tls_certificate} cannot be read as a certificate: {error}") from None
    return hashlib.sha1(encoded, usedforsecurity=False).hexdigest()


async def _text(server: ReplicationServer) -> AsyncIterator[bytes]:
    yield msgspec.json.format(msgspec.json.encode(server), indent=2) + b"\n"
