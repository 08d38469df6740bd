"""Step commands against hypervisors, and what lets them run side by side: no Kafka."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.facts import StepOutcome
from failover_orch.domain.records import Action, StepCommand
from failover_orch.hypervisors import Hypervisor
from failover_orch.hypervisors.simulated import FaultKind, SimulatedHypervisor
from failover_orch.site.lanes import Lanes
from failover_orch.site.offsets import Offsets
from failover_orch.site.plan_work import is_plan_work
from failover_orch.site.steps import _SAYS, Steps
from worlds import command, make_world


def now() -> int:
    return time.time_ns() // 1_000_000


def steps_on(hypervisor: Hypervisor, per_node: int = 4, per_site: int = 0) -> Steps:
    return Steps(hypervisor, per_node=per_node, per_site=per_site, clock=now)


def soon(seconds: float = 30) -> int:
    return now() + int(seconds * 1000)


async def test_what_is_done_is_told_with_what_was_found(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db")
    steps = steps_on(SimulatedHypervisor(tmp_path / "world.db", "primary"))
    world.migrate("vm-1", "p2")
    asked = command(Action.SHUT_DOWN, "primary", deadline_ms=soon())
    result = await steps.run(asked)
    assert (result.outcome, result.detail, result.observed["power"]) == (StepOutcome.DONE, "the VM is off", "OFF")
    assert (result.run_id, result.step, result.attempt, result.epoch) == ("run-1", "SHUT_DOWN", 1, 5)
    assert result.node == "p2"


async def test_a_command_past_its_deadline_is_not_begun(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db")
    steps = steps_on(SimulatedHypervisor(tmp_path / "world.db", "primary"))
    result = await steps.run(command(Action.SHUT_DOWN, "primary", deadline_ms=now() - 1))
    assert (result.outcome, result.detail) == (StepOutcome.FAILED, "not begun: its deadline had passed")
    assert result.observed["power"] == "RUNNING"
    assert not world.effects()


async def test_each_error_has_its_outcome(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db")
    steps = steps_on(SimulatedHypervisor(tmp_path / "world.db", "primary"))
    world.fail_next("vm-1", Action.SHUT_DOWN, kind=FaultKind.FAIL)
    world.fail_next("vm-1", Action.SHUT_DOWN, kind=FaultKind.REFUSE)
    world.fail_next("vm-1", Action.SHUT_DOWN, kind=FaultKind.HANG)
    outcomes = [
        (await steps.run(command(Action.SHUT_DOWN, "primary", epoch=epoch, deadline_ms=soon(wait)))).outcome
        for epoch, wait in ((5, 30), (5, 30), (5, 0.2), (4, 30))
    ]
    assert outcomes == [StepOutcome.FAILED, StepOutcome.REFUSED, StepOutcome.FAILED, StepOutcome.STALE]
    assert not world.effects()


async def test_a_command_for_another_site_is_refused(tmp_path: Path) -> None:
    make_world(tmp_path / "world.db")
    steps = steps_on(SimulatedHypervisor(tmp_path / "world.db", "dr"))
    result = await steps.run(command(Action.SHUT_DOWN, "primary", deadline_ms=soon()))
    assert (result.outcome, result.detail) == (
        StepOutcome.REFUSED,
        "this command is for site primary and came to dr",
    )


class _Busy:
    """Hypervisors that only count how many steps are under way."""

    site = "dr"

    def __init__(self) -> None:
        self.most = 0
        self.most_of: Counter[str] = Counter()
        """By node, by plan run, and by both."""
        self._under_way: Counter[str] = Counter()

    async def perform(self, asked: StepCommand) -> Mapping[str, str]:
        if asked.action is Action.REVERSE:
            raise ZeroDivisionError("a bug")
        names = {"all", asked.node, asked.plan_run_id, f"{asked.plan_run_id} on {asked.node}"}
        self._under_way.update(names)
        self.most_of |= self._under_way
        self.most = self.most_of["all"]
        for _ in range(10):  # long enough for all others to begin, if they may
            await asyncio.sleep(0)
        self._under_way.subtract(names)
        return {}

    async def observe(self, vm_id: str) -> Mapping[str, str]:
        raise ConnectionError("and no look either")


async def test_a_node_carries_out_so_many_steps_at_a_time() -> None:
    busy = _Busy()
    steps = steps_on(cast("Hypervisor", busy), per_node=2)
    asked = [command(Action.START, vm_id=f"vm-{number}", deadline_ms=soon()) for number in range(6)]
    results = await asyncio.gather(*map(steps.run, asked))
    assert {result.outcome for result in results} == {StepOutcome.DONE}
    assert busy.most == 2


async def test_a_site_carries_out_so_many_steps_at_a_time() -> None:
    busy = _Busy()
    steps = steps_on(cast("Hypervisor", busy), per_node=2, per_site=3)
    asked = [
        replace(command(Action.START, vm_id=f"vm-{number}", deadline_ms=soon()), node=f"d{number % 2}")
        for number in range(8)
    ]
    await asyncio.gather(*map(steps.run, asked))
    assert (busy.most, busy.most_of["d0"], busy.most_of["d1"]) == (3, 2, 2)


async def test_a_plan_limits_its_own_steps_and_no_others() -> None:
    busy = _Busy()
    steps = steps_on(cast("Hypervisor", busy), per_node=8)
    asked = [
        replace(
            command(Action.START, vm_id=f"vm-{number}", deadline_ms=soon()),
            node=f"d{number % 2}",
            plan_run_id="careful" if number < 8 else "other",
            per_node=1 if number < 8 else 0,
            per_site=2 if number < 4 else 3,
        )
        for number in range(16)
    ]
    results = await asyncio.gather(*map(steps.run, asked))
    assert {result.outcome for result in results} == {StepOutcome.DONE}
    assert (busy.most_of["careful"], busy.most_of["careful on d0"], busy.most_of["careful on d1"]) == (2, 1, 1)
    assert (busy.most_of["other"], busy.most_of["d0"]) == (3, 3)


async def test_an_answer_goes_under_the_key_of_its_command() -> None:
    steps = steps_on(cast("Hypervisor", _Busy()))
    asked = command(Action.START, deadline_ms=soon())
    answers = [await steps.run(replace(asked, key=key)) for key in ("", "plan-1")]
    assert [one.key for one in answers] == ["", "plan-1"]


def test_every_action_has_its_sentence() -> None:
    assert set(_SAYS) == {action for action in Action if not is_plan_work(command(action))}


async def test_a_bug_of_a_driver_is_answered_too() -> None:
    result = await steps_on(cast("Hypervisor", _Busy())).run(command(Action.REVERSE, deadline_ms=soon()))
    assert (result.outcome, result.detail) == (StepOutcome.FAILED, "unexpected ZeroDivisionError: a bug")


async def test_lanes_keep_order_within_a_key_and_none_between_keys() -> None:
    lanes = Lanes()
    ended: list[str] = []
    gate = asyncio.Event()

    def work(name: str, *, waits: bool = False) -> Any:
        async def run() -> None:
            if waits:
                await gate.wait()
            ended.append(name)

        return run

    lanes.add("a", work("a1", waits=True))
    lanes.add("a", work("a2"))
    lanes.add("b", work("b1"))
    await lanes.room(3)
    assert ended == ["b1"]
    assert not await lanes.drain(0)
    gate.set()
    assert await lanes.drain(10)
    assert ended == ["b1", "a1", "a2"]


async def test_a_bug_in_a_lane_comes_out() -> None:
    lanes = Lanes()

    async def broken() -> None:
        raise ZeroDivisionError

    lanes.add("a", broken)
    await lanes.drain(10)
    with pytest.raises(ZeroDivisionError):
        lanes.check()


@given(st.permutations(range(8)), st.integers(0, 8))
def test_an_offset_is_committed_only_when_all_before_it_are_finished(order: list[int], finished: int) -> None:
    offsets: Offsets[str] = Offsets()
    for offset in range(100, 108):
        offsets.begin("p", offset)
    done = {100 + place for place in order[:finished]}
    for offset in done:
        offsets.finish("p", offset)
    expected = next(offset for offset in itertools.count(100) if offset not in done)
    assert offsets.committable() == {"p": expected}
    offsets.committed({"p": expected})
    assert offsets.committable() == {}
