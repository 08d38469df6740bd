"""Hyper-V over PowerShell Remoting: cmdlets only, no script text.

`HyperVHypervisor` is the driver of one site; `docs/hyper-v.md` says what it needs, and what nobody has tried yet.
"""

from __future__ import annotations

from failover_orch.hypervisors.hyperv.hypervisor import HyperVHypervisor
from failover_orch.hypervisors.hyperv.replication_server import ReplicationServers
from failover_orch.hypervisors.hyperv.settings import (
    AdapterNaming,
    Authentication,
    HyperVNode,
    HyperVPeer,
    HyperVSite,
    Login,
    ReplicationAuthentication,
    VmNaming,
)

__all__ = [
    "AdapterNaming",
    "Authentication",
    "HyperVHypervisor",
    "HyperVNode",
    "HyperVPeer",
    "HyperVSite",
    "Login",
    "ReplicationAuthentication",
    "ReplicationServers",
    "VmNaming",
]
