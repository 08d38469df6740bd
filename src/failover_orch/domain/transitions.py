"""Which action is legal in which replication state, and what follows from it: Hyper-V Replica's rules as one table.

`ERANSITIONS` holds what can be done to an end of a replication, `PROGRESS` what replication comes to by itself. An
action that is not in the table changes nothing, or is not a hypervisor's, and is legal always. Source: the WMI methods
and PowerShell commands of Hyper-V Replica; its names and numbers are in `replication`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from failover_orch.domain.records import Action
from failover_orch.domain.replication import ReplicationMode, ReplicationState

__all__ = [
    "FAILED_OVER",
    "NEEDS",
    "PROGRESS",
    "RECEIVES",
    "SENDS",
    "TEST_COPY_STATE",
    "TRANSITIONS",
    "ReplicationProgress",
    "ReplicationTransition",
    "illegal",
    "legal",
    "replication_diagram",
]

PRIMARY, REPLICA, TEST = ReplicationMode.PRIMARY, ReplicationMode.REPLICA, ReplicationMode.TEST_REPLICA
_State = ReplicationState
_ALL = frozenset(ReplicationState)
_ENABLED = _ALL - {_State.DISABLED}

FAILED_OVER = frozenset({_State.FAILED_OVER_WAITING_COMPLETION, _State.FAILED_OVER})
"""States of a replica that was made the VM."""
TEST_COPY_STATE = _State.DISABLED
"""A test copy is an end by itself, in mode TestReplica, and does not replicate."""

_WAITING_COMPLETION = frozenset({_State.FAILED_OVER_WAITING_COMPLETION})
_IS_TEST_COPY = frozenset({TEST_COPY_STATE})
_HAS_RECOVERY_POINT = frozenset(
    {
        _State.REPLICATING,
        _State.SUSPENDED,
        _State.ERROR,
        _State.WAITING_FOR_RESYNCHRONIZE,
        _State.RESYNCHRONIZING,
        _State.RESYNCHRONIZE_SUSPENDED,
    }
)
SENDS = frozenset(
    {
        _State.READY_FOR_INITIAL_REPLICATION,
        _State.WAITING_FOR_INITIAL_REPLICATION,
        _State.REPLICATING,
        _State.RESYNCHRONIZING,
        _State.ERROR,
    }
)
"""States of a primary that sends when its cycle is due."""
RECEIVES = frozenset({_State.WAITING_FOR_INITIAL_REPLICATION, _State.REPLICATING, _State.RESYNCHRONIZING})
"""States of a replica that takes what is sent."""

_HAS_TO_RESYNCHRONIZE = frozenset({_State.WAITING_FOR_RESYNCHRONIZE, _State.ERROR, _State.RESYNCHRONIZE_SUSPENDED})
_CAN_BE_TESTED = frozenset({_State.REPLICATING, _State.SUSPENDED, _State.ERROR})


@dataclass(frozen=True, slots=True)
class ReplicationTransition:
    """`action` may be done at the end of this mode in these states; what follows (None: it stays) is `then`."""

    number: str
    action: Action
    mode: ReplicationMode
    states: frozenset[ReplicationState]
    then: ReplicationState | None = None
    then_mode: ReplicationMode | None = None


TRANSITIONS: tuple[ReplicationTransition, ...] = (
    ReplicationTransition("E1", Action.STAGE_ADDRESSES, REPLICA, _ENABLED - {_State.FAILED_OVER}),
    ReplicationTransition("E2", Action.SHUT_DOWN, PRIMARY, _ALL),
    ReplicationTransition("E3", Action.SHUT_DOWN, REPLICA, FAILED_OVER),
    ReplicationTransition("E4", Action.PREPARE, PRIMARY, frozenset({_State.REPLICATING}), _State.PREPARED),
    ReplicationTransition("E5", Action.CANCEL_PREPARE, PRIMARY, frozenset({_State.PREPARED}), _State.REPLICATING),
    ReplicationTransition("E6", Action.FAIL_OVER, REPLICA, _HAS_RECOVERY_POINT, _State.FAILED_OVER_WAITING_COMPLETION),
    ReplicationTransition("E7", Action.CANCEL_FAILOVER, REPLICA, _WAITING_COMPLETION, _State.REPLICATING),
    ReplicationTransition("E8", Action.REVERSE, REPLICA, _WAITING_COMPLETION, _State.REPLICATING, PRIMARY),
    ReplicationTransition(
        "E9",
        Action.REVERSE,
        REPLICA,
        frozenset({_State.FAILED_OVER}),
        _State.READY_FOR_INITIAL_REPLICATION,
        PRIMARY,
    ),
    ReplicationTransition("E10", Action.CONNECT_ADAPTERS, PRIMARY, _ALL),
    ReplicationTransition("E11", Action.CONNECT_ADAPTERS, REPLICA, FAILED_OVER),
    ReplicationTransition("E12", Action.START, PRIMARY, _ALL - {_State.PREPARED}),
    ReplicationTransition("E13", Action.START, REPLICA, FAILED_OVER),
    ReplicationTransition("E14", Action.COMPLETE, REPLICA, _WAITING_COMPLETION, _State.FAILED_OVER),
    ReplicationTransition(
        "E15",
        Action.MAKE_REPLICA,
        PRIMARY,
        _ENABLED - FAILED_OVER,
        _State.WAITING_FOR_INITIAL_REPLICATION,
        REPLICA,
    ),
    ReplicationTransition(
        "E16",
        Action.RESYNCHRONIZE,
        PRIMARY,
        frozenset({_State.READY_FOR_INITIAL_REPLICATION}),
        _State.WAITING_FOR_INITIAL_REPLICATION,
    ),
    ReplicationTransition("E17", Action.RESYNCHRONIZE, PRIMARY, _HAS_TO_RESYNCHRONIZE, _State.RESYNCHRONIZING),
    ReplicationTransition("E18", Action.CREATE_TEST, REPLICA, _CAN_BE_TESTED),
    ReplicationTransition("E19", Action.START_TEST, TEST, _IS_TEST_COPY),
    ReplicationTransition("E20", Action.DELETE_TEST, TEST, _IS_TEST_COPY),
)

NEEDS: Mapping[Action, str] = {
    Action.STAGE_ADDRESSES: "addresses are staged at a replica whose replication is enabled and not failed over",
    Action.SHUT_DOWN: "only a VM that may run can be shut down",
    Action.PREPARE: "a primary is prepared while it is Replicating: resume or resynchronise its replication first",
    Action.CANCEL_PREPARE: "only a primary that is prepared for planned failover can be released",
    Action.FAIL_OVER: (
        "a replica is failed over from a recovery point: its initial replication has to be complete, and another "
        "failover of it to be cancelled first"
    ),
    Action.CANCEL_FAILOVER: "only a replica that is failed over and not completed can be taken back",
    Action.REVERSE: "only a replica that is failed over can become the primary: fail it over first",
    Action.CONNECT_ADAPTERS: "a replica's adapters are connected once it is failed over: fail it over first",
    Action.START: "a prepared primary is locked (cancel the preparation) and a replica starts once it is failed over",
    Action.COMPLETE: "only a replica that is failed over and waits for completion can be completed",
    Action.MAKE_REPLICA: "only a primary that was overtaken becomes a replica: fail its replica over and complete that",
    Action.RESYNCHRONIZE: (
        "a primary is resynchronised, or replicated initially, where it waits for that: reverse or enable its "
        "replication first"
    ),
    Action.CREATE_TEST: (
        "a test copy is made of a replica that has recovery points and is neither failed over nor resynchronizing: "
        "wait until it is Replicating"
    ),
    Action.START_TEST: "only a test copy can be started as one: create it first",
    Action.DELETE_TEST: "only a test copy can be deleted as one",
}
"""For each action what makes it legal."""


@dataclass(frozen=True, slots=True)
class ReplicationProgress:
    """An end of this mode in these states comes to be `then`, with no action done to it, `when` that happens."""

    number: str
    mode: ReplicationMode
    states: frozenset[ReplicationState]
    then: ReplicationState
    when: str
    then_mode: ReplicationMode | None = None


PROGRESS: tuple[ReplicationProgress, ...] = (
    ReplicationProgress("E21", PRIMARY, SENDS, _State.REPLICATING, "a cycle has reached the replica"),
    ReplicationProgress("E22", PRIMARY, SENDS, _State.ERROR, "it finds its replica failed over"),
    ReplicationProgress("E23", REPLICA, RECEIVES, _State.REPLICATING, "a cycle has arrived"),
    ReplicationProgress(
        "E24",
        REPLICA,
        _HAS_RECOVERY_POINT - {_State.SUSPENDED},
        _State.RESYNCHRONIZING,
        "its primary resynchronises",
    ),
    ReplicationProgress(
        "E25",
        PRIMARY,
        frozenset({_State.PREPARED}),
        _State.REPLICATING,
        "its replica is reversed",
        REPLICA,
    ),
)


def legal(action: Action, mode: ReplicationMode, state: ReplicationState) -> ReplicationTransition | None:
    """The transition that allows the action to an end of this mode in this state; None where the table has none."""
    for transition in TRANSITIONS:
        if transition.action is action and transition.mode is mode and state in transition.states:
            return transition
    return None


def illegal(action: Action, mode: ReplicationMode, state: ReplicationState) -> str:
    """Why the table refuses the action to an end of this mode in this state, as a clause; empty where it does not.

    It says the state, by name and number, the rules that allow the action elsewhere, and what would make it legal.
    """
    rules = [transition.number for transition in TRANSITIONS if transition.action is action]
    if not rules or legal(action, mode, state) is not None:
        return ""
    allow = f"rule {rules[0]} allows" if len(rules) == 1 else f"rules {', '.join(rules)} allow"
    return (
        f"{action} is not possible while it is {mode} and {state} ({state.number}), {allow} it elsewhere: "
        f"{NEEDS[action]}"
    )


def replication_diagram() -> str:
    """The tables as a Mermaid state diagram.

    An arrow stands for what changes an end's mode or state. What leaves them as they are stands in the state's box; a
    state that no arrow leads to or from is left out.
    """
    arrows: dict[tuple[str, str], list[str]] = {}
    for source, target, label in _arrows():
        if source != target:
            arrows.setdefault((_node(*source), _node(*target)), []).append(label)
    drawn = {node for pair in arrows for node in pair} | {_node(TEST, TEST_COPY_STATE)}
    lines = ["stateDiagram-v2"]
    for mode in (PRIMARY, REPLICA, TEST):
        for state in ReplicationState:
            if (node := _node(mode, state)) in drawn:
                lines.append(f"    {node} : {mode}, {state} ({state.number})")
                if kept := _kept(mode, state):
                    lines.append(f"    {node} : {kept}")
    lines += [f"    {source} --> {target} : {', '.join(labels)}" for (source, target), labels in arrows.items()]
    return "\n".join(lines) + "\n"


_Place = tuple[ReplicationMode, ReplicationState]


def _arrows() -> Iterator[tuple[_Place, _Place, str]]:
    for transition in TRANSITIONS:
        for state in _in_order(transition.states):
            target = (transition.then_mode or transition.mode, transition.then or state)
            yield (transition.mode, state), target, f"{transition.number} {transition.action}"
    for progress in PROGRESS:
        for state in _in_order(progress.states):
            target = (progress.then_mode or progress.mode, progress.then)
            yield (progress.mode, state), target, f"{progress.number} {progress.when}"


def _kept(mode: ReplicationMode, state: ReplicationState) -> str:
    """What can be done in a state that leaves it as it is."""
    return ", ".join(
        f"{transition.number} {transition.action}"
        for transition in TRANSITIONS
        if transition.mode is mode and state in transition.states and transition.then is None
    )


def _in_order(states: frozenset[ReplicationState]) -> list[ReplicationState]:
    return [state for state in ReplicationState if state in states]


def _node(mode: ReplicationMode, state: ReplicationState) -> str:
    return f"{mode}{state.number}"
