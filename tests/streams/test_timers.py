"""Timers against a model: a dictionary of due times, looked through from one end to the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain import FailoverKind, FailoverRequested, RequestAction, Run, RunState
from failover_orch.streams.timers import Timers

REQUEST = FailoverRequested("r", RequestAction.REQUEST, FailoverKind.PLANNED, "alice", "test", 1, vm_id="vm")


def due_at(due_ms: int) -> Run:
    return Run(REQUEST, RunState.RUNNING, (), 0, 1, "primary", "dr", 1, due_ms=due_ms)


def fired(timers: Timers, now_ms: int) -> set[str]:
    keys = list(timers.due(now_ms))
    assert len(keys) == len(set(keys))
    return set(keys)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 20)), st.integers(0, 25)), max_size=40
    )
)
def test_each_reminder_fires_once_when_it_is_due_and_only_the_last_of_its_key(
    steps: list[tuple[str, int | None, int]],
) -> None:
    timers, model = Timers(), dict[str, int]()
    for key, due, now in steps:
        timers.set(key, None if due is None else due_at(due))
        model.pop(key, None)
        if due:
            model[key] = due
        left = timers.seconds_left(now)
        assert left == (max(0, min(model.values()) - now) / 1000 if model else None)
        assert fired(timers, now) == {name for name, at in model.items() if at <= now}
        model = {name: at for name, at in model.items() if at > now}


def test_what_fires_comes_again_once_it_is_set_again_even_for_the_same_time() -> None:
    timers = Timers()
    timers.set("a", due_at(5))
    assert fired(timers, 5) == {"a"}
    assert fired(timers, 5) == set()
    timers.set("a", due_at(5))
    assert fired(timers, 5) == {"a"}


def test_a_reminder_set_while_others_fire_is_not_lost() -> None:
    timers = Timers()
    timers.set("a", due_at(5))
    timers.set("b", due_at(6))
    for key in timers.due(7):
        timers.set(key, due_at(100))
    assert fired(timers, 99) == set()
    assert fired(timers, 100) == {"a", "b"}


def test_one_that_is_put_off_fires_then_and_not_before() -> None:
    timers = Timers()
    timers.set("a", due_at(5))
    assert fired(timers, 5) == {"a"}
    timers.put_off("a", 60)
    assert timers.seconds_left(10) == 0.05
    assert fired(timers, 59) == set()
    assert fired(timers, 60) == {"a"}


def test_a_clock_set_back_makes_nothing_fire() -> None:
    timers = Timers()
    timers.set("a", due_at(5_000))
    assert fired(timers, 4_999) == set()
    assert timers.seconds_left(1_000) == 4.0
