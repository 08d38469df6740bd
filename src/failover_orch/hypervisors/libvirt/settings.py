"""What the driver has to be told about a site: its nodes, its networks, its peers, and what is to be replicated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

__all__ = ["BrokerAccess", "Injection", "LibvirtNode", "LibvirtSite", "PeerSite", "ReplicatedVm"]


class Injection(StrEnum):
    """How failover addresses reach a guest.

    FW_CFG: as an entry of QEMU's firmware configuration, which the guest reads as it boots. NOCLOUD: on a volume
    labelled `cidata`, as cloud-init's NoCloud data source reads it. AGENT: set through the guest agent once it runs.
    """

    FW_CFG = "fw_cfg"
    NOCLOUD = "nocloud"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class LibvirtNode:
    """A node of the site. Its disks are files."""

    name: str
    uri: str
    """Where its libvirt daemon answers, such as `qemu+tcp://10.0.0.11/system`."""
    storage: Path
    """Where the disks of replicas go, as the node sees it. Nodes between which VMs migrate share it."""
    run: tuple[str, ...] = ()
    """What stands before a command that is to run on the node: nothing where the agent runs there itself, else such as
    `ssh root@p1`."""


@dataclass(frozen=True, slots=True)
class PeerSite:
    """Another site. `nodes`: for each of its nodes the URL at which replication for it is delivered."""

    site: str
    nodes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ReplicatedVm:
    """A VM of this site that is to be replicated, every `every_s` seconds, with so many recovery `points`.

    `vm` is the domain's name; `vm_id` its id in the events (empty: the domain's UUID). Every `consistent_every`-th
    recovery point is application-consistent, if the guest's agent can freeze its file systems (0: none is).
    `node`: where its replica goes; empty: where the broker says (`LibvirtSite.broker_url`). `system`: the guest's.
    """

    vm: str
    to: str
    vm_id: str = ""
    node: str = ""
    every_s: float = 300.0
    points: int = 4
    consistent_every: int = 0
    system: str = "linux"
    application: str = ""


@dataclass(frozen=True, slots=True)
class BrokerAccess:
    """How the agent proves to the broker's API who it is, and what signed the API's certificate (else the system's)."""

    token: str = field(default="", repr=False)
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class LibvirtSite:
    """A site of libvirt nodes.

    `networks` and `test_networks` give the nodes' bridge for each network by its name. `answers` is how a VM has to
    answer at its failover addresses before they count as verified: `ping`, `tcp:PORT` or `none`.
    """

    site: str
    cluster: str
    nodes: tuple[LibvirtNode, ...]
    broker: str = ""
    """The replica broker's client access point, as the cluster's inventory tells it."""
    broker_url: str = ""
    """Where the broker's API answers, to ask for the place of a new replica."""
    broker_access: BrokerAccess = BrokerAccess()
    networks: Mapping[str, str] = field(default_factory=dict)
    test_networks: Mapping[str, str] = field(default_factory=dict)
    listen: str = ""
    """`address:port` at which the other sites deliver; empty: this site receives nothing."""
    key: str = field(default="", repr=False)
    """The secret that the sites share."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    peers: tuple[PeerSite, ...] = ()
    replicate: tuple[ReplicatedVm, ...] = ()
    inject: Injection = Injection.FW_CFG
    answers: str = "ping"
    accepts_replicas: bool = True
    supported_guests: tuple[str, ...] = ()
