"""libvirt: what its events say of where VMs are, and the driver for a site of libvirt nodes.

The driver needs libvirt's Python module, of the daemon's own version, and stands in `hypervisor`; what is shown here
needs nothing.
"""

from __future__ import annotations

from failover_orch.hypervisors.libvirt.events import HostEvent, moves, read_events
from failover_orch.hypervisors.libvirt.settings import (
    BrokerAccess,
    Injection,
    LibvirtNode,
    LibvirtSite,
    PeerSite,
    ReplicatedVm,
)

__all__ = [
    "BrokerAccess",
    "HostEvent",
    "Injection",
    "LibvirtNode",
    "LibvirtSite",
    "PeerSite",
    "ReplicatedVm",
    "moves",
    "read_events",
]
