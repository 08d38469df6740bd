"""A lab on this machine: sites of libvirt nodes in network namespaces, to break as one likes, and tiny guests."""

from failover_orch.lab.bmc import BmcFault, IpmiBmc, RedfishBmc
from failover_orch.lab.lab import Lab
from failover_orch.lab.network import LanAddresses
from failover_orch.lab.node import LabNode
from failover_orch.lab.packages import Missing, missing, require

__all__ = [
    "BmcFault",
    "IpmiBmc",
    "Lab",
    "LabNode",
    "LanAddresses",
    "Missing",
    "RedfishBmc",
    "missing",
    "require",
]
