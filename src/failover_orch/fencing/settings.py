"""What the fence agents have to be told. Secrets stand in files, and are read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

__all__ = ["FenceSettings", "IpmiFence", "LibvirtFence", "Login", "Pace", "PersonFence", "Privilege", "RedfishFence"]


class Login(StrEnum):
    """How Redfish is told who asks. SESSION: once, for a token. BASIC: with every request."""

    SESSION = "session"
    BASIC = "basic"


class Privilege(StrEnum):
    """The IPMI privilege level that is asked for. OPERATOR may turn power off."""

    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a cut may take. Seconds."""

    deadline_s: float = 30.0
    """Until the power has to have been read as off."""
    again_s: float = 10.0
    """After which a machine that is still on is told again: management controllers lose commands."""
    poll_s: float = 0.5


@dataclass(frozen=True, slots=True)
class IpmiFence:
    """A node's management controller that speaks IPMI 2.0 over LAN."""

    site: str
    node: str
    host: str
    user: str
    password_file: Path
    port: int = 623
    privilege: Privilege = Privilege.OPERATOR
    pace: Pace = Pace()


@dataclass(frozen=True, slots=True)
class RedfishFence:
    """A node's management controller that speaks Redfish.

    `system`: the id of the node's ComputerSystem; empty where the controller has only one. `ca_file`: what signed its
    certificate; None: an authority that this machine trusts.
    """

    site: str
    node: str
    url: str
    user: str
    password_file: Path
    system: str = ""
    ca_file: Path | None = None
    login: Login = Login.SESSION
    pace: Pace = Pace()


@dataclass(frozen=True, slots=True)
class LibvirtFence:
    """A node whose libvirt daemon turns off the one VM that is to be overtaken, and leaves the node as it is."""

    site: str
    node: str
    uri: str
    pace: Pace = Pace()


@dataclass(frozen=True, slots=True)
class PersonFence:
    """A node that only a person can turn off: whoever asks for the failover has to attest it."""

    site: str
    node: str


FenceSettings = IpmiFence | RedfishFence | LibvirtFence | PersonFence
