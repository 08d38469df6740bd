"""Topology files: YAML that describes sites, clusters, networks, VMs, IP plans and recovery plans, as domain values.

`load` reads a file whole and names every mistake with its line; nothing of a file with a mistake is used.
"""

from failover_orch.topology.bundled import bundled
from failover_orch.topology.loading import load
from failover_orch.topology.model import Network, Topology, TopologyVm

__all__ = ["Network", "Topology", "TopologyVm", "bundled", "load"]
