"""The table of legal replication transitions: what it refuses and how it is drawn."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.records import Action
from failover_orch.domain.replication import ReplicationMode, ReplicationState
from failover_orch.domain.transitions import (
    NEEDS,
    PROGRESS,
    TRANSITIONS,
    ReplicationProgress,
    ReplicationTransition,
    illegal,
    legal,
    replication_diagram,
)

State = ReplicationState
PRIMARY, REPLICA = ReplicationMode.PRIMARY, ReplicationMode.REPLICA
RULES: tuple[ReplicationTransition | ReplicationProgress, ...] = (*TRANSITIONS, *PROGRESS)


def test_rules_are_numbered_in_a_row() -> None:
    assert [rule.number for rule in RULES] == [f"E{number}" for number in range(1, len(RULES) + 1)]


def test_what_is_refused_is_named_with_what_would_allow_it() -> None:
    assert illegal(Action.START, REPLICA, State.REPLICATING) == (
        "START is not possible while it is Replica and Replicating (3), rules E12, E13 allow it elsewhere: "
        "a prepared primary is locked (cancel the preparation) and a replica starts once it is failed over"
    )
    assert illegal(Action.PREPARE, PRIMARY, State.SUSPENDED) == (
        "PREPARE is not possible while it is Primary and Suspended (7), rule E4 allows it elsewhere: "
        "a primary is prepared while it is Replicating: resume or resynchronise its replication first"
    )


@given(st.sampled_from(Action), st.sampled_from(ReplicationMode), st.sampled_from(State))
def test_an_action_is_refused_or_one_rule_allows_it_or_it_is_in_none(
    action: Action, mode: ReplicationMode, state: ReplicationState
) -> None:
    refusal = illegal(action, mode, state)
    allowed = [rule for rule in TRANSITIONS if (rule.action, rule.mode) == (action, mode) and state in rule.states]
    assert len(allowed) <= 1
    assert legal(action, mode, state) == (allowed[0] if allowed else None)
    if action not in NEEDS:
        assert refusal == ""
        return
    assert bool(refusal) == (not allowed)
    if refusal:
        assert f"{mode} and {state} ({state.number})" in refusal
        assert refusal.endswith(NEEDS[action])
        assert re.findall(r"E\d+", refusal) == [rule.number for rule in TRANSITIONS if rule.action is action]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Replica5 : Replica, FailOverWaitingCompletion (5)", "a state has its name and number"),
        ("Replica6 : E3 SHUT_DOWN, E11 CONNECT_ADAPTERS, E13 START", "what keeps a state stands in its box"),
        ("Replica6 --> Primary1 : E9 REVERSE", "a mode may change"),
        ("Primary10 --> Primary3 : E21 a cycle has reached the replica", "replication goes on by itself"),
        ("TestReplica0 : E19 START_TEST, E20 DELETE_TEST", "a test copy stands alone"),
    ],
)
def test_the_diagram_shows_the_table(line: str, why: str) -> None:
    assert f"    {line}\n" in replication_diagram(), why


def test_every_rule_is_drawn_and_every_arrow_joins_boxes() -> None:
    diagram = replication_diagram()
    assert diagram.startswith("stateDiagram-v2\n")
    assert {rule.number for rule in RULES} == set(re.findall(r"\bE\d+\b", diagram))
    boxes = set(re.findall(r"^    (\w+) :", diagram, re.MULTILINE))
    arrows = re.findall(r"^    (\w+) --> (\w+) :", diagram, re.MULTILINE)
    assert arrows
    assert {end for arrow in arrows for end in arrow} <= boxes
