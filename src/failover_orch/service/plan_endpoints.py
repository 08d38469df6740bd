"""Recovery plans over HTTP, and how ready everything is."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Response

from failover_orch.domain import Operation
from failover_orch.service.api import Api
from failover_orch.service.callers import Caller, Known
from failover_orch.service.idempotency import IdempotencyKey
from failover_orch.service.plan_bodies import PlanBody
from failover_orch.service.policy_views import LimitsView, limits_of_plan
from failover_orch.service.read_model import ReadModel
from failover_orch.service.readiness_views import (
    PlanList,
    PlanView,
    ReadinessList,
    ReadinessView,
    plan_list,
    plan_view,
    readiness_list,
)
from failover_orch.service.subjects import plan_call, vm_call
from failover_orch.service.views import AcceptedView
from failover_orch.wire import now_ms

__all__ = ["answer_plans"]

_PlanId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="The plan's id.")]


def answer_plans(api: Api) -> None:
    @api.endpoint("GET", "/v1/plans", PlanList)
    async def plans(caller: Known) -> Response:
        """Recovery plans by name."""
        model = api.everything()
        caller.require_somewhere(Operation.LOOK)
        return api.answer(plan_list(model, [plan for plan in model.plans() if caller.sees(plan_call, model, plan)]))

    @api.endpoint("GET", "/v1/plans/{plan}", PlanView)
    async def one_plan(caller: Known, plan: str) -> Response:
        """A recovery plan by id or name: its groups, how ready it and its VMs are, and its run in flight."""
        model = api.everything()
        found = model.plan(plan)
        caller.require(plan_call(Operation.LOOK, model, found))
        return api.answer(plan_view(model, found))

    @api.endpoint("GET", "/v1/plans/{plan}/limits", LimitsView)
    async def limits(caller: Known, plan: str) -> Response:
        """The limits that come out for the runs of a plan as a whole."""
        model = api.everything()
        found = model.plan(plan)
        caller.require(plan_call(Operation.LOOK, model, found))
        return api.answer(limits_of_plan(model, found))

    @api.endpoint("PUT", "/v1/plans/{plan}", AcceptedView, status=202)
    async def set_plan(caller: Known, plan: _PlanId, body: PlanBody, key: IdempotencyKey) -> Response:
        """Set a recovery plan, whole, by its id. The caller must be allowed to for each VM that it names."""
        model = api.everything()
        known = model.find_plan(plan)
        if known is not None:
            caller.require(plan_call(Operation.SET_PLAN, model, known))
        vm_ids = tuple(tuple(map(model.vm_id_of, group.vms)) for group in body.groups)
        caller.require(*(vm_call(Operation.SET_PLAN, model, vm_id) for group in vm_ids for vm_id in group))
        wanted = body.plan(plan, vm_ids, caller.name, now_ms())

        async def take(_: str) -> tuple[str, object]:
            await api.commands.publish(wanted)
            return f"/v1/plans/{plan}", AcceptedView(plan)

        return await api.command(caller, key, ("plan", plan, body.model_dump(mode="json")), take)

    @api.endpoint("GET", "/v1/readiness", ReadinessList)
    async def readiness(caller: Known, everything: bool = False) -> Response:
        """Plans and VMs that are not READY, or `everything`, the worst first, each defect with what to do about it."""
        model = api.everything()
        caller.require_somewhere(Operation.LOOK)
        listed = readiness_list(model, everything=everything)
        seen = tuple(one for one in listed.standing if _sees(caller, model, one))
        return api.answer(ReadinessList(listed.as_of, seen))


def _sees(caller: Caller, model: ReadModel, one: ReadinessView) -> bool:
    if one.kind == "vm":
        return caller.sees(vm_call, model, one.id)
    plan = model.find_plan(one.id)
    return plan is not None and caller.sees(plan_call, model, plan)
