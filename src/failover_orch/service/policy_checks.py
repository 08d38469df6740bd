"""Policies and the brake, as they are about to be set: by the command line, and over HTTP."""

from __future__ import annotations

from dataclasses import replace

from failover_orch.domain import Brake, Policy, PolicyScope
from failover_orch.errors import ConfigError
from failover_orch.service.read_model import ReadModel

__all__ = ["newer_brake", "policy_for"]


def policy_for(model: ReadModel, scope: PolicyScope, target: str) -> Policy:
    """An empty policy for a scope, its target by id.

    Raises:
        ConfigError: the scope needs a target, or has none.
        LookupFailed: the site, plan or VM is not known.

    """
    if bool(target) == (scope is PolicyScope.ALL):
        needs = "takes no target" if target else "needs a target: name the " + scope.lower()
        raise ConfigError(f"scope {scope.lower()} {needs}")
    match scope:
        case PolicyScope.SITE:
            target = model.site(target)
        case PolicyScope.PLAN:
            target = model.plan(target).plan_id
        case PolicyScope.VM:
            target = model.vm(target).vm_id
        case _:
            pass
    return Policy(scope, target)


def newer_brake(model: ReadModel, brake: Brake) -> Brake:
    """A word about the brake, made newer than the last one.

    One that is not newer is passed over, and the clock that wrote the last may be ahead of ours.
    """
    known = model.brake()
    return replace(brake, at_ms=known.at_ms + 1) if known is not None and known.at_ms >= brake.at_ms else brake
