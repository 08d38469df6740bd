"""What the driver has to be told about a site: its nodes, how to log in there, its peers, its switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from failover_orch.errors import ConfigError

__all__ = [
    "AdapterNaming",
    "Authentication",
    "HyperVNode",
    "HyperVPeer",
    "HyperVSite",
    "Login",
    "ReplicationAuthentication",
    "VmNaming",
]


class Authentication(StrEnum):
    """How the agent proves to a node who it is.

    NEGOTIATE: Kerberos where it can, NTLM else. BASIC sends the password itself, and so needs TLS. KERBEROS needs
    pypsrp's extra of that name and a ticket or a password.
    """

    NEGOTIATE = "negotiate"
    KERBEROS = "kerberos"
    NTLM = "ntlm"
    BASIC = "basic"


class ReplicationAuthentication(StrEnum):
    """How replicating servers prove to each other who they are; Hyper-V's own names."""

    KERBEROS = "Kerberos"
    CERTIFICATE = "Certificate"


class VmNaming(StrEnum):
    """What a VM is called in events: by the GUID that Hyper-V gives it (the same at both ends), or by its name."""

    ID = "id"
    NAME = "name"


class AdapterNaming(StrEnum):
    """What an adapter is called in events: by its name, which has to be its own in the VM, or by its MAC address."""

    NAME = "name"
    MAC = "mac"


@dataclass(frozen=True, slots=True)
class Login:
    """An account of the nodes. Without a user name: the ticket of whoever runs the agent (Kerberos)."""

    username: str = ""
    password: str = field(default="", repr=False)
    authentication: Authentication = Authentication.NEGOTIATE


@dataclass(frozen=True, slots=True)
class HyperVNode:
    """A node and its PowerShell Remoting endpoint (WinRM).

    `name` is what its cluster calls it, `host` where it answers (empty: at that name). `ca_file` holds the authority
    that signed its certificate (None: those that the machine trusts). Without TLS messages are encrypted by the
    authentication, which Basic cannot do.
    """

    name: str
    login: Login
    host: str = ""
    port: int = 0
    """0: 5986 with TLS, 5985 without."""
    tls: bool = True
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        if self.login.authentication is Authentication.BASIC and not self.tls:
            raise ConfigError(
                f"node {self.name!r}: Basic authentication without TLS would send the password for all to read; "
                "turn TLS on, or use negotiate"
            )

    @property
    def address(self) -> str:
        return self.host or self.name

    @property
    def endpoint_port(self) -> int:
        return self.port or (5986 if self.tls else 5985)


@dataclass(frozen=True, slots=True)
class HyperVPeer:
    """Another site, as this one has to know it: to ask its hosts about the other end of a VM, and to replicate there.

    `broker` is its replica broker's client access point (or the host's name, where there is no cluster), `port` and
    `authentication` those of its replication endpoint.
    """

    site: str
    cluster: str
    nodes: tuple[HyperVNode, ...]
    broker: str
    port: int = 80
    authentication: ReplicationAuthentication = ReplicationAuthentication.KERBEROS
    certificate_thumbprint: str = ""

    def __post_init__(self) -> None:
        if self.authentication is ReplicationAuthentication.CERTIFICATE and not self.certificate_thumbprint:
            raise ConfigError(
                f"peer {self.site!r}: replication with certificates needs the thumbprint of this site's certificate"
            )


@dataclass(frozen=True, slots=True)
class HyperVSite:
    """A site of Hyper-V nodes: a failover cluster, or hosts that stand alone (`clustered` False).

    `switches` says which virtual switch a VM's adapter is connected to when it is failed over to this site, by
    `<vm>/<adapter>`, `<adapter>` or `*`. `test_networks` gives the switch for each isolated network by its name; one
    that is not named there is a switch itself. `guests` gives the system of VMs whose guests do not report theirs, by
    VM. Durations are in seconds.
    """

    site: str
    cluster: str
    nodes: tuple[HyperVNode, ...]
    broker: str = ""
    """The replica broker's client access point, as the cluster's inventory tells it."""
    peers: tuple[HyperVPeer, ...] = ()
    clustered: bool = True
    switches: Mapping[str, str] = field(default_factory=dict)
    test_networks: Mapping[str, str] = field(default_factory=dict)
    guests: Mapping[str, str] = field(default_factory=dict)
    vm_ids: VmNaming = VmNaming.ID
    adapter_ids: AdapterNaming = AdapterNaming.NAME
    supported_guests: tuple[str, ...] = ()
    poll_s: float = 5.0
    """How often the nodes are looked at."""
    connect_timeout_s: float = 5.0
    call_timeout_s: float = 60.0
    """How long a node may take to answer a question or a small change."""
    long_call_timeout_s: float = 600.0
    """How long it may take to shut a guest down, ship the last log, or merge recovery points."""
    boot_s: float = 300.0
    """How long after its start a guest without heartbeat counts as booting, and not as one without services."""
    sessions: int = 2
    """Sessions with each node at a time. A node runs one command in each, and WinRM's quota is for all users."""

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ConfigError(f"site {self.site!r} has no nodes; name at least one")
        for what, names in (
            ("site", [self.site, *(peer.site for peer in self.peers)]),
            *(
                ("node", [node.name.lower() for node in nodes])
                for nodes in (self.nodes, *(p.nodes for p in self.peers))
            ),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ConfigError(f"site {self.site!r}: {what} {twice[0]!r} is named twice; once is enough")
        if self.poll_s < 0 or self.sessions < 1 or min(self.call_timeout_s, self.connect_timeout_s) <= 0:
            raise ConfigError(
                f"site {self.site!r}: poll_s has to be 0 or more, sessions 1 or more, and timeouts more than 0"
            )

    def switch_of(self, vm_id: str, adapter_id: str) -> str:
        """The switch that an adapter is to be connected to; empty: none was named."""
        keys = (f"{vm_id}/{adapter_id}", adapter_id, "*")
        return next((self.switches[key] for key in keys if key in self.switches), "")

    def test_switch(self, network: str) -> str:
        """The switch that stands for an isolated network; empty for none."""
        return self.test_networks.get(network, network)
