"""Policies and the brake over HTTP."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from fastapi import Response

from failover_orch.domain import Brake, Operation, Policy, PolicyScope
from failover_orch.service.api import Api
from failover_orch.service.bodies import BrakeBody, PolicyBody
from failover_orch.service.callers import Caller, Known
from failover_orch.service.idempotency import IdempotencyKey
from failover_orch.service.policy_checks import newer_brake, policy_for
from failover_orch.service.policy_views import (
    BrakeView,
    LimitsView,
    PolicyList,
    brake_view,
    limits_of_site,
    policy_list,
)
from failover_orch.service.read_model import ReadModel
from failover_orch.service.subjects import policy_call, site_call
from failover_orch.service.views import AcceptedView
from failover_orch.wire import now_ms

__all__ = ["answer_policies"]


class NarrowScope(StrEnum):
    """Whom a policy in a path is for."""

    SITE = "site"
    PLAN = "plan"
    VM = "vm"


def answer_policies(api: Api) -> None:
    @api.endpoint("GET", "/v1/policies", PolicyList)
    async def policies(caller: Known) -> Response:
        """Policies as they were set, the widest first: that of all, and of what the caller may look at."""
        model = api.everything()
        caller.require_somewhere(Operation.LOOK)
        listed = policy_list(model)
        seen = tuple(
            policy
            for policy in listed.policies
            if policy.scope is PolicyScope.ALL or caller.sees(policy_call, model, policy)
        )
        return api.answer(PolicyList(listed.as_of, seen))

    @api.endpoint("PUT", "/v1/policies/all", AcceptedView, status=202)
    async def set_policy_of_all(caller: Known, body: PolicyBody, key: IdempotencyKey) -> Response:
        """Set the policy that holds for everything, whole."""
        return await _set(api, caller, Policy(PolicyScope.ALL), body, key)

    @api.endpoint("PUT", "/v1/policies/{scope}/{target}", AcceptedView, status=202)
    async def set_policy(
        caller: Known, scope: NarrowScope, target: str, body: PolicyBody, key: IdempotencyKey
    ) -> Response:
        """Set the policy of a site, plan or VM, whole."""
        policy = policy_for(api.everything(), PolicyScope(scope.upper()), target)
        return await _set(api, caller, policy, body, key)

    @api.endpoint("GET", "/v1/sites/{site}/limits", LimitsView)
    async def of_site(caller: Known, site: str) -> Response:
        """The limits that come out for the VMs that run at a site, before those of their plans and their own."""
        model = api.everything()
        found = model.site(site)
        caller.require(site_call(Operation.LOOK, found))
        return api.answer(limits_of_site(model, found))

    @api.endpoint("GET", "/v1/brake", BrakeView)
    async def brake(caller: Known) -> Response:
        """The brake over everything automatic."""
        model = api.everything()
        caller.require_somewhere(Operation.LOOK)
        return api.answer(brake_view(model))

    @api.endpoint("PUT", "/v1/brake", AcceptedView, status=202)
    async def set_brake(caller: Known, body: BrakeBody, key: IdempotencyKey) -> Response:
        """Engage the brake: nothing is done automatically, at once and everywhere. Or release it again."""
        model = api.everything()
        operation = Operation.ENGAGE_BRAKE if body.engaged else Operation.RELEASE_BRAKE
        caller.require(policy_call(operation, model, Policy(PolicyScope.ALL)))

        async def take(_: str) -> tuple[str, object]:
            await api.commands.publish(newer_brake(model, Brake(body.engaged, caller.name, body.reason, now_ms())))
            return "/v1/brake", AcceptedView("brake")

        return await api.command(caller, key, ("brake", body.model_dump(mode="json")), take)


async def _set(api: Api, caller: Caller, scope: Policy, body: PolicyBody, key: str) -> Response:
    model: ReadModel = api.everything()
    caller.require(policy_call(Operation.SET_POLICY, model, scope))
    policy = replace(body.over(scope), actor=caller.name, set_at_ms=now_ms())
    for rule in policy.approvals or ():
        if rule.to_site:
            model.site(rule.to_site)

    async def take(_: str) -> tuple[str, object]:
        await api.commands.publish(policy)
        return "/v1/policies", AcceptedView(policy.key)

    return await api.command(caller, key, ("policy", policy.key, body.model_dump(mode="json")), take)
