"""The groups of a recovery plan as a graph: which wait for which, and whether they wait for each other in a circle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from failover_orch.domain.settings import PlanActionKind, RecoveryGroup, RecoveryPlan

__all__ = ["cycle", "dependencies", "flaw"]


def dependencies(groups: Sequence[RecoveryGroup]) -> Mapping[str, tuple[str, ...]]:
    """For each group, in the order of the plan, the groups that have to be done before it.

    A group that names none (None, not an empty tuple) waits for the one before it in the plan. Names are taken as they
    are: one that is no group's is among them.
    """
    found: dict[str, tuple[str, ...]] = {}
    before: tuple[str, ...] = ()
    for group in groups:
        found[group.name] = before if group.depends_on is None else group.depends_on
        before = (group.name,)
    return found


def cycle(groups: Sequence[RecoveryGroup]) -> tuple[str, ...]:
    """Groups that wait for each other, each for the next, the first of them again at the end; empty where none do.

    The first is the one that stands first in the plan. Where there are several circles, one of them.
    """
    waits = dependencies(groups)
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        # Each of what it lists, the first of which it repeats at the end, comes before the next.
        circle = tuple(reversed(error.args[1][1:]))
        places = {name: place for place, name in enumerate(waits)}
        first = min(range(len(circle)), key=lambda index: places[circle[index]])
        return (*circle[first:], *circle[:first], circle[first])
    return ()


def flaw(plan: RecoveryPlan) -> str:
    """What is wrong with a plan, as a sentence: a part of it could never run, or could not be told from another."""
    names = [group.name for group in plan.groups]
    circle = cycle(plan.groups)
    if circle:
        return f"groups depend on each other in a circle: {' -> '.join(circle)}"
    if len(set(names)) < len(names):
        return f"two groups have the name {_twice(names)}"
    for group in plan.groups:
        unknown = [name for name in group.depends_on or () if name not in names]
        if unknown:
            return f"group {group.name} depends on {unknown[0]}, which is no group of it"
        for actions in (group.before, group.after):
            named = [action.name for action in actions]
            if len(set(named)) < len(named):
                return f"group {group.name} has two actions of the name {_twice(named)} in one place"
            homeless = [action for action in actions if action.kind is not PlanActionKind.MANUAL and not action.site]
            if homeless:
                return f"action {homeless[0].name} of group {group.name} names no site whose agent does it"
    return ""


def _twice(names: Sequence[str]) -> str:
    return next(name for name in names if names.count(name) > 1)
