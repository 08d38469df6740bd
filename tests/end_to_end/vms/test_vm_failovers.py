"""A real VM fails over: as planned without a loss, unplanned with the loss that was told.

python tests/end_to_end/vms/test_vm_failovers.py --runs 5
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

from vms_failovers import Loss, Moved, fail_over_as_planned, lose_and_fail_over
from vms_hands import Hands, told
from vms_installation import VM
from vms_long import repeat

from failover_orch.domain import RunState


async def test_a_planned_failover_loses_nothing(hands: Hands) -> None:
    await planned(hands)


async def test_an_unplanned_failover_loses_what_was_told_as_pending(hands: Hands) -> None:
    await unplanned(hands)


async def planned(hands: Hands) -> Moved:
    """A planned failover to wherever the VM is not; disks and counters compared."""
    source, target = await hands.settled()
    moved = await fail_over_as_planned(hands)
    assert isinstance(moved, Moved), told(moved)
    assert moved.run.state is RunState.SUCCEEDED, told(moved.run)
    assert not moved.wrong, f"{moved.wrong}: {moved}"
    assert hands.oracle.runs_on(VM) == [hands.node(target).name], f"after a failover from {source}: {hands.stands()}"
    return moved


async def unplanned(hands: Hands) -> Loss:
    """The VM's node loses its power; the VM is failed over."""
    await hands.settled()
    loss = await lose_and_fail_over(hands)
    assert loss.run.state is RunState.SUCCEEDED, told(loss.run)
    assert not loss.wrong, f"{loss.wrong}: {loss}"
    return loss


async def _scene(hands: Hands, _chance: random.Random, _number: int) -> str:
    return f"planned, {await planned(hands)}; unplanned, {await unplanned(hands)}"


def _summary(lines: Sequence[str]) -> str:
    return f"{len(lines)} planned failovers lost nothing, {len(lines)} unplanned ones what was told as pending"


if __name__ == "__main__":
    sys.exit(repeat(__doc__, _scene, runs=5, summary=_summary))
