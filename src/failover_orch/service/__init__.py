"""What answers: a read model of the output topics, the forms it is shown in, and the read-only HTTP service over it.

A `Feed` keeps a read model up to date, `read_now` reads one once (as the commands do), and `serve` runs the service.
"""

from failover_orch.service.app import Source, create_app
from failover_orch.service.feed import Feed, read_now
from failover_orch.service.read_model import READ_TOPICS, ReadModel, Vm
from failover_orch.service.server import serve
from failover_orch.service.views import (
    AdapterView,
    PlacementView,
    RunList,
    RunView,
    VmList,
    VmSummary,
    VmView,
    as_of,
    placement_view,
    run_list,
    run_view,
    vm_list,
    vm_view,
)

__all__ = [
    "READ_TOPICS",
    "AdapterView",
    "Feed",
    "PlacementView",
    "ReadModel",
    "RunList",
    "RunView",
    "Source",
    "Vm",
    "VmList",
    "VmSummary",
    "VmView",
    "as_of",
    "create_app",
    "placement_view",
    "read_now",
    "run_list",
    "run_view",
    "serve",
    "vm_list",
    "vm_view",
]
