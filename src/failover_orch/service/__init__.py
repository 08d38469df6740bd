"""What answers: a read model of the topics, the forms it is shown in, and the read-only HTTP service over it.

A `Feed` keeps a read model up to date, `read_now` reads one once (as the commands do), and `serve` runs the service.
"""

from failover_orch.service.app import Source, create_app
from failover_orch.service.feed import Feed, read_now
from failover_orch.service.policy_views import (
    BrakeView,
    LimitsView,
    LimitView,
    PolicyList,
    brake_view,
    limits_of_plan,
    limits_of_site,
    limits_of_vm,
    policy_list,
)
from failover_orch.service.read_model import READ_TOPICS, ReadModel, Vm
from failover_orch.service.readiness_views import (
    DefectView,
    PlanList,
    PlanSummary,
    PlanView,
    ReadinessList,
    ReadinessView,
    plan_list,
    plan_view,
    readiness_list,
    what_to_do,
)
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
    "BrakeView",
    "DefectView",
    "Feed",
    "LimitView",
    "LimitsView",
    "PlacementView",
    "PlanList",
    "PlanSummary",
    "PlanView",
    "PolicyList",
    "ReadModel",
    "ReadinessList",
    "ReadinessView",
    "RunList",
    "RunView",
    "Source",
    "Vm",
    "VmList",
    "VmSummary",
    "VmView",
    "as_of",
    "brake_view",
    "create_app",
    "limits_of_plan",
    "limits_of_site",
    "limits_of_vm",
    "placement_view",
    "plan_list",
    "plan_view",
    "policy_list",
    "read_now",
    "readiness_list",
    "run_list",
    "run_view",
    "serve",
    "vm_list",
    "vm_view",
    "what_to_do",
]
