"""A simulated world of several sites in one SQLite file, for demos and tests.

Nodes, VMs with both their ends, the replication link, guests and their addresses. It outlives the agents that act on
it, and processes share it. `SimulatedWorld` is the hand from outside (migrations, power cuts, faults);
`SimulatedHypervisor` is what one site's agent sees.
"""

from __future__ import annotations

from failover_orch.hypervisors.rules import Configuration, End, EndAdapter, IsolatedCopy, RecoveryPoint
from failover_orch.hypervisors.simulated.ends import Effect, FaultKind, PlacedVm
from failover_orch.hypervisors.simulated.hypervisor import SimulatedHypervisor
from failover_orch.hypervisors.simulated.world import SimulatedWorld

__all__ = [
    "Configuration",
    "Effect",
    "End",
    "EndAdapter",
    "FaultKind",
    "IsolatedCopy",
    "PlacedVm",
    "RecoveryPoint",
    "SimulatedHypervisor",
    "SimulatedWorld",
]
