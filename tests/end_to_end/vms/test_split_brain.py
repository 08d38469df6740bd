"""Both sites alive behind a link that is cut at some random moment, and the broker may act by itself.

The VM never runs on both sides. Where the node's management controller cuts its power, the VM comes up at the other
site; where it does not, nothing is started, and the VM goes on where it was. Sometimes a planned failover is under way.

    python tests/end_to_end/vms/test_split_brain.py --runs 20
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from vms_failovers import planned_kind
from vms_hands import PATIENCE_S, Hands, told
from vms_installation import EVERY_S, THIRD_PLACE, VM
from vms_long import repeat

from failover_orch.domain import WORKFLOWS, AutomaticMode, RunSnapshot, RunState, Verdict
from failover_orch.lab.bmc import BmcFault
from failover_orch.wire import now_ms

LONGEST_CUT_S = 12.0
"""How long a link that is cut during a planned failover stays so, at most."""


class Case(StrEnum):
    """What else there is to a cut."""

    FENCED = "fenced"
    NO_FENCE = "no fence"
    DURING_A_RUN = "during a planned failover"


CASES = (Case.FENCED, Case.DURING_A_RUN, Case.FENCED, Case.NO_FENCE, Case.FENCED)
"""In turn. Most of them are what happens in earnest."""


async def test_a_vm_behind_a_cut_link_is_fenced_before_it_is_started_elsewhere(hands: Hands) -> None:
    await cut(hands, random.Random(), Case.FENCED)


async def test_a_vm_behind_a_cut_link_that_cannot_be_fenced_is_started_nowhere_else(hands: Hands) -> None:
    await cut(hands, random.Random(), Case.NO_FENCE)


async def cut(hands: Hands, chance: random.Random, case: Case) -> str:
    """Cut the link of the site that has the VM, wait for what comes of it, and judge."""
    source, target = await hands.settled()
    bmc = hands.installation.bmcs[source]
    bmc.fault = chance.choice((BmcFault.STAYS_ON, BmcFault.DEAF)) if case is Case.NO_FENCE else BmcFault.NONE
    await hands.acknowledge()
    await hands.policy(AutomaticMode.ACT)
    try:
        if case is Case.DURING_A_RUN:
            return await _cut_during_a_run(hands, chance, source, target)
        # At any moment of a replication cycle: nothing is waited for here.
        await asyncio.sleep(chance.uniform(0, 2 * EVERY_S))
        return await _cut_and_wait(hands, case, source, target)
    finally:
        await hands.policy()


async def _cut_and_wait(hands: Hands, case: Case, source: str, target: str) -> str:
    cut_s, cut_ms = time.monotonic(), now_ms()
    await asyncio.to_thread(hands.lab.cut_link, source)
    await hands.until("the broker acts", lambda: _automatic(hands, cut_ms) is not None)
    assert hands.oracle.runs_on(VM)
    acted_s = time.monotonic() - cut_s
    begun = _automatic(hands, cut_ms)
    assert begun is not None
    run = await hands.ended(begun.run_id)
    took_s = time.monotonic() - cut_s
    started = hands.oracle.lives(VM, since_s=cut_s)
    where = f"{case}, cut at {source}: {run.state} {took_s:.1f} s after the cut, acted after {acted_s:.1f} s"
    if case is Case.FENCED:
        assert run.state in (RunState.SUCCEEDED, RunState.COMPLETED_WITH_ERRORS), told(run)
        assert [life.node for life in started] == [hands.node(target).name], started
        assert hands.oracle.runs_on(VM) == [hands.node(target).name], hands.stands()
        assert not await asyncio.to_thread(hands.lab.powered, hands.node(source).name)
        return where
    assert run.state is RunState.FAILED, told(run)
    assert hands.heard.verdict(THIRD_PLACE, source) is Verdict.UNREACHABLE
    assert started == [], started
    assert hands.oracle.runs_on(VM) == [hands.node(source).name], hands.stands()
    return where


def _automatic(hands: Hands, since_ms: int) -> RunSnapshot | None:
    """The run that the broker has begun of its own accord since then."""
    return next((run for run in hands.model.runs(vm_id=VM) if run.automatic and run.started_at_ms > since_ms), None)


async def _cut_during_a_run(hands: Hands, chance: random.Random, source: str, target: str) -> str:
    """Cut the link at a step of a planned failover, for a while."""
    kind = planned_kind(target)
    step = chance.choice(WORKFLOWS[kind].steps).number
    asked_s, asked_ms = time.monotonic(), now_ms()
    run_id = await hands.ask(kind)
    await hands.until(f"{run_id} is at {step}", lambda: hands.is_at(run_id, step))
    await asyncio.to_thread(hands.lab.cut_link, source)
    await asyncio.sleep(chance.uniform(1, LONGEST_CUT_S))
    await asyncio.to_thread(hands.lab.restore_link, source)
    run = await hands.ended(run_id)
    await hands.until("nothing is under way", lambda: hands.vm.run is None, patience_s=2 * PATIENCE_S)
    automatic = _automatic(hands, asked_ms)
    at = target if RunState.SUCCEEDED in {run.state, *([automatic.state] if automatic else [])} else source
    if run.state is RunState.COMPLETED_WITH_ERRORS:
        at = target
    await hands.until(f"it runs at {at} alone", lambda: hands.oracle.runs_on(VM) == [hands.node(at).name])
    started = Counter(life.node for life in hands.oracle.lives(VM, since_s=asked_s))
    assert max(started.values(), default=0) <= 1, f"started more than once: {started}; {told(run)}"
    also = f", then {automatic.run_id} {automatic.state}" if automatic else ""
    return f"{Case.DURING_A_RUN}, cut at {source} at step {step}: {run.state}{also}"


async def _scene(hands: Hands, chance: random.Random, number: int) -> str:
    return await cut(hands, chance, CASES[number % len(CASES)])


def _summary(lines: Sequence[str]) -> str:
    cases = Counter(line.partition(",")[0] for line in lines)
    told_of = ", ".join(f"{count} {case}" for case, count in cases.items())
    return f"{len(lines)} cuts ({told_of}), and the VM never ran on both sides"


if __name__ == "__main__":
    sys.exit(repeat(__doc__, _scene, runs=20, summary=_summary))
