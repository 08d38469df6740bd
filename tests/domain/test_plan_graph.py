"""Dependencies between a plan's groups, and the circles in them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.plan_graph import cycle, dependencies
from failover_orch.domain.settings import RecoveryGroup

NAMES = "abcdef"


def group(name: str, depends_on: tuple[str, ...] | None = None) -> RecoveryGroup:
    return RecoveryGroup(name, (), depends_on)


@st.composite
def plans(draw: st.DrawFn) -> tuple[RecoveryGroup, ...]:
    names = draw(st.permutations(NAMES))[: draw(st.integers(0, len(NAMES)))]
    # Also names that are no group's: whoever takes a plan says so in another way.
    waits = st.none() | st.lists(st.sampled_from([*NAMES, "nowhere"]), unique=True, max_size=3).map(tuple)
    return tuple(group(name, draw(waits)) for name in names)


def reachable(groups: tuple[RecoveryGroup, ...], start: str) -> set[str]:
    """What a group waits for, and what that waits for, and so on."""
    waits = dependencies(groups)
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = set(waits.get(ahead.pop(), ())) - found
        found |= new
        ahead += new
    return found


def test_a_group_that_names_none_waits_for_the_one_before_it() -> None:
    groups = (group("a"), group("b"), group("c", ("a",)), group("d"), group("e", ()))
    assert list(dependencies(groups).items()) == [("a", ()), ("b", ("a",)), ("c", ("a",)), ("d", ("c",)), ("e", ())]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ((), ()),
        ((group("a"), group("b"), group("c")), ()),
        ((group("a", ("a",)),), ("a", "a")),
        ((group("a", ("b",)), group("b")), ("a", "b", "a")),
        ((group("c", ()), group("a", ("b", "c")), group("b", ("d",)), group("d", ("a",))), ("a", "b", "d", "a")),
        ((group("d", ("a",)), group("b", ("d",)), group("a", ("b",))), ("d", "a", "b", "d")),
        ((group("a", ("nowhere",)), group("b", ("a", "nowhere"))), ()),
    ],
)
def test_a_circle_is_named_from_its_first_group_on(
    groups: tuple[RecoveryGroup, ...], expected: tuple[str, ...]
) -> None:
    assert cycle(groups) == expected


@given(plans())
def test_there_is_a_circle_where_a_group_waits_for_itself(groups: tuple[RecoveryGroup, ...]) -> None:
    assert bool(cycle(groups)) == any(each.name in reachable(groups, each.name) for each in groups)


@given(plans())
def test_in_a_circle_each_waits_for_the_next(groups: tuple[RecoveryGroup, ...]) -> None:
    circle = cycle(groups)
    waits = dependencies(groups)
    assert all(later in waits[earlier] for earlier, later in pairwise(circle))
    assert circle[:1] == circle[-1:]
    assert len(set(circle)) == max(0, len(circle) - 1)


def test_a_plan_of_many_groups_is_no_deep_recursion() -> None:
    names = [f"group-{number}" for number in range(5_000)]
    assert cycle(tuple(group(name) for name in names)) == ()
    assert len(cycle((group(names[0], (names[-1],)), *(group(name) for name in names[1:])))) == len(names) + 1
