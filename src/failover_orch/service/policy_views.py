"""Policies and the brake, in the forms in which they are shown: as they were set, and as they come out for one VM."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from failover_orch.domain import Brake, Limits, Policy, RecoveryPlan, limits_from
from failover_orch.service.read_model import ReadModel, Vm
from failover_orch.service.views import as_of

__all__ = [
    "BrakeView",
    "LimitView",
    "LimitsView",
    "PolicyList",
    "brake_view",
    "limits_of_plan",
    "limits_of_site",
    "limits_of_vm",
    "policy_list",
]

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class LimitView:
    """One limit: its name as in a policy, its value, and the policy (`all`, `site/dr`, ...) or `default` it is from."""

    name: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class LimitsView:
    """The limits for one VM, plan or site (`subject`), and the policies that were looked at, the widest first."""

    as_of: str | None
    subject: str
    policies: tuple[str, ...]
    limits: tuple[LimitView, ...]


@dataclass(frozen=True, slots=True)
class PolicyList:
    as_of: str | None
    policies: tuple[Policy, ...]


@dataclass(frozen=True, slots=True)
class BrakeView:
    """The brake over everything automatic; `brake` is null where nobody has ever touched it, and it is released."""

    as_of: str | None
    engaged: bool
    brake: Brake | None


def policy_list(model: ReadModel) -> PolicyList:
    return PolicyList(as_of(model), tuple(model.policies().values()))


def brake_view(model: ReadModel) -> BrakeView:
    brake = model.brake()
    return BrakeView(as_of(model), brake is not None and brake.engaged, brake)


def limits_of_vm(model: ReadModel, vm: Vm) -> LimitsView:
    """The limits for a VM: its own policy before those of its plans, of the site where it runs, and of all."""
    site = (f"site/{vm.active_site}",) if vm.active_site else ()
    return _limits(model, vm.name, "all", *site, *(f"plan/{plan_id}" for plan_id in vm.plan_ids), f"vm/{vm.vm_id}")


def limits_of_plan(model: ReadModel, plan: RecoveryPlan) -> LimitsView:
    """The limits for the runs of a plan as a whole, such as who has to agree to them."""
    return _limits(model, plan.name, "all", f"plan/{plan.plan_id}")


def limits_of_site(model: ReadModel, site: str) -> LimitsView:
    """The limits for the VMs that run at a site, where neither a plan nor the VM has its own."""
    return _limits(model, site, "all", f"site/{site}")


def _limits(model: ReadModel, subject: str, *keys: str) -> LimitsView:
    known = model.policies()
    policies = [known[key] for key in keys if key in known]
    limits = limits_from(policies)
    names = [field.name for field in fields(Limits)]
    return LimitsView(
        as_of=as_of(model),
        subject=subject,
        policies=tuple(policy.key for policy in policies),
        limits=tuple(LimitView(name, getattr(limits, name), _source(policies, name)) for name in names),
    )


def _source(policies: list[Policy], name: str) -> str:
    """The narrowest policy that states a limit."""
    stating = [policy.key for policy in policies if getattr(policy, name) is not None]
    return stating[-1] if stating else DEFAULT
