"""A site's hypervisors behind one protocol: what can be asked of them, told to them and heard from them.

`simulated` is a whole world of sites in one file, for demos and tests; `libvirt` translates what libvirt reports.
"""

from __future__ import annotations

from failover_orch.hypervisors.protocol import (
    Capabilities,
    HostedVm,
    Hypervisor,
    InjectionPoint,
    Observation,
    Observed,
    Power,
)

__all__ = ["Capabilities", "HostedVm", "Hypervisor", "InjectionPoint", "Observation", "Observed", "Power"]
