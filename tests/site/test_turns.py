"""Turns under several limits at once."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping

from failover_orch.site.turns import Turns

BOTH: Mapping[Hashable, int] = {"node": 1, "plan": 1}


class Holder:
    """Somebody who takes a turn and keeps it until told to let go."""

    has_turn = False

    def __init__(self, turns: Turns, limits: Mapping[Hashable, int]) -> None:
        self._done = asyncio.Event()
        self._task = asyncio.create_task(self._hold(turns, limits))

    async def _hold(self, turns: Turns, limits: Mapping[Hashable, int]) -> None:
        async with turns.take(limits):
            self.has_turn = True
            await self._done.wait()

    async def let_go(self) -> None:
        self._done.set()
        await self._task
        await settle()

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_waits_for_one_limit_takes_nothing_of_another() -> None:
    turns = Turns()
    on_node = Holder(turns, {"node": 1})
    waits_for_both = Holder(turns, BOTH)
    of_plan = Holder(turns, {"plan": 1})
    await settle()
    assert (on_node.has_turn, waits_for_both.has_turn, of_plan.has_turn) == (True, False, True)
    await on_node.let_go()
    assert not waits_for_both.has_turn
    await of_plan.let_go()
    await waits_for_both.let_go()
    assert waits_for_both.has_turn


async def test_first_come_first_served() -> None:
    turns = Turns()
    holders = [Holder(turns, {"node": 1}) for _ in range(4)]
    for number, holder in enumerate(holders):
        await settle()
        assert [one.has_turn for one in holders] == [True] * (number + 1) + [False] * (3 - number)
        await holder.let_go()


async def test_who_gives_up_waiting_frees_nothing_and_holds_nothing() -> None:
    turns = Turns()
    first, second, third = (Holder(turns, {"node": 1}) for _ in range(3))
    await settle()
    await second.cancel()
    assert [holder.has_turn for holder in (first, second, third)] == [True, False, False]
    await first.let_go()
    assert [holder.has_turn for holder in (first, second, third)] == [True, False, True]
    await third.let_go()
    assert not turns._taken
    assert not turns._waiting


async def test_a_turn_given_to_somebody_cancelled_in_that_moment_goes_on() -> None:
    turns = Turns()
    first, second, third = (Holder(turns, {"node": 1}) for _ in range(3))
    await settle()
    # The second is given its turn when the first ends, and cancelled before it hears of it.
    first._done.set()
    while len(turns._waiting) == 2:  # noqa: ASYNC110 (what is awaited is the moment itself, before anybody hears of it)
        await asyncio.sleep(0)
    await second.cancel()
    assert (second.has_turn, third.has_turn) == (False, True)
    await third.let_go()
    await first._task


async def test_who_gives_up_as_a_turn_becomes_free_is_passed_over() -> None:
    turns = Turns()
    first, second, third = (Holder(turns, {"node": 1}) for _ in range(3))
    await settle()
    # The first lets go after the second was cancelled, and before the second has noticed.
    first._done.set()
    second._task.cancel()
    await settle()
    assert (second.has_turn, third.has_turn) == (False, True)
    await first._task
    await third.let_go()


async def test_no_limit_is_none() -> None:
    turns = Turns()
    holders = [Holder(turns, {"node": 0}) for _ in range(5)]
    await settle()
    assert all(holder.has_turn for holder in holders)
    assert not turns._taken
    for holder in holders:
        await holder.let_go()
