"""Which limits count for whom."""

from __future__ import annotations

from dataclasses import fields
from itertools import combinations

import pytest
from rule_cases import NOW, Fold
from simulator import PRIMARY, REPLICA, inventory

from failover_orch.domain.draft import Draft, Moment
from failover_orch.domain.policies import (
    DEFAULT_LIMITS,
    AutomaticMode,
    Limits,
    Policy,
    PolicyScope,
    limits_from,
)
from failover_orch.domain.records import PlanMembership

ALL, SITE, PLAN, VM = PolicyScope
NARROWER = (
    Policy(ALL, rpo_ms=1),
    Policy(SITE, PRIMARY, rpo_ms=2),
    Policy(PLAN, "erp", rpo_ms=3),
    Policy(VM, "vm-1", rpo_ms=4),
)
"""The widest first."""


def limits_of(*policies: Policy) -> Limits:
    """The limits of a VM that is active at the primary's site and part of the plan."""
    fold = Fold(inventory(), PlanMembership("vm-1", "erp", member=True, at_ms=1), *policies)
    return Draft(fold.state, Moment(NOW, 0)).limits(fold.vm())


def test_where_no_policy_is_set_the_defaults_count() -> None:
    assert limits_from(()) == limits_from((None, Policy(ALL))) == limits_of() == DEFAULT_LIMITS
    assert DEFAULT_LIMITS.mode is AutomaticMode.OBSERVE


@pytest.mark.parametrize("policies", [each for count in range(1, 5) for each in combinations(NARROWER, count)])
def test_the_narrower_policy_goes_before_the_wider(policies: tuple[Policy, ...]) -> None:
    assert limits_of(*policies).rpo_ms == limits_of(*reversed(policies)).rpo_ms == policies[-1].rpo_ms


def test_what_a_narrower_policy_leaves_open_the_wider_decides() -> None:
    limits = limits_of(Policy(ALL, rpo_ms=1, cooldown_ms=1), Policy(VM, "vm-1", rpo_ms=4, mode=AutomaticMode.ACT))
    assert (limits.rpo_ms, limits.cooldown_ms, limits.mode) == (4, 1, AutomaticMode.ACT)
    assert limits.hold_down_ms == DEFAULT_LIMITS.hold_down_ms


@pytest.mark.parametrize("policy", [Policy(SITE, REPLICA), Policy(PLAN, "crm"), Policy(VM, "vm-2")])
def test_a_policy_for_others_does_not_count(policy: Policy) -> None:
    assert limits_of(Policy(policy.scope, policy.target, rpo_ms=9)) == DEFAULT_LIMITS


def test_nought_is_a_value_and_none_is_not() -> None:
    assert limits_from((Policy(ALL, rpo_ms=5), Policy(VM, "vm-1", rpo_ms=0))).rpo_ms == 0
    assert limits_from((Policy(ALL, approvals=()),)).approvals == ()


def test_every_limit_can_be_set() -> None:
    named = {field.name for field in fields(Policy)}
    assert {field.name for field in fields(Limits)} == named - {
        "scope",
        "target",
        "actor",
        "reason",
        "set_at_ms",
    }


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (Policy(ALL), "all"),
        (Policy(SITE, "dr"), "site/dr"),
        (Policy(PLAN, "erp"), "plan/erp"),
        (NARROWER[3], "vm/vm-1"),
    ],
)
def test_a_policy_is_known_by_what_it_is_for(policy: Policy, key: str) -> None:
    assert policy.key == key


def test_a_plan_as_a_whole_has_the_limits_of_all_and_its_own() -> None:
    fold = Fold(*NARROWER)
    draft = Draft(fold.state, Moment(NOW, 0))
    assert (draft.plan_limits("erp").rpo_ms, draft.plan_limits("").rpo_ms) == (3, 1)
