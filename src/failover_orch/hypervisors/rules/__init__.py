"""The rules of an end of a replication, whatever hypervisor it is on: what may be done to it, and what comes of that.

All pure. `decide` says what a command makes of an end; the simulated world takes that for what happened, the libvirt
driver makes it happen first.
"""

from __future__ import annotations

from failover_orch.hypervisors.rules.actions import ALREADY, NOT_A_HYPERVISORS, decide
from failover_orch.hypervisors.rules.ends import Configuration, End, EndAdapter, IsolatedCopy, RecoveryPoint
from failover_orch.hypervisors.rules.findings import OF_THE_COPY, findings
from failover_orch.hypervisors.rules.guest import booted, differences
from failover_orch.hypervisors.rules.looks import LOOKS, Fence, check_primary
from failover_orch.hypervisors.rules.reports import active, inventory, overdue, report, running
from failover_orch.hypervisors.rules.shipping import chosen, received, shipped, with_point
from failover_orch.hypervisors.rules.surroundings import (
    Change,
    Surroundings,
    copy_of,
    fenced,
    other_end,
    stageable,
    wanted_point,
)

__all__ = [
    "ALREADY",
    "LOOKS",
    "NOT_A_HYPERVISORS",
    "OF_THE_COPY",
    "Change",
    "Configuration",
    "End",
    "EndAdapter",
    "Fence",
    "IsolatedCopy",
    "RecoveryPoint",
    "Surroundings",
    "active",
    "booted",
    "check_primary",
    "chosen",
    "copy_of",
    "decide",
    "differences",
    "fenced",
    "findings",
    "inventory",
    "other_end",
    "overdue",
    "received",
    "report",
    "running",
    "shipped",
    "stageable",
    "wanted_point",
    "with_point",
]
