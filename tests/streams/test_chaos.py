"""Exactly once, for real: the short form of `make chaos`."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from chaos import PER_SECOND, Faults, chaos, moves
from workers import running_workers, say, until

from failover_orch.config import Settings
from failover_orch.domain import Moment, RoutingUpdate, State, decide


async def test_no_move_is_lost_or_doubled_while_workers_are_killed_and_paused(
    settings: Settings, tmp_path: Path
) -> None:
    with running_workers(settings, tmp_path, 2) as workers:
        await until(lambda: workers.reads(0) | workers.reads(1) == set(range(settings.partitions)), "the workers read")
        outcome = await chaos(settings, workers, Faults(kills=2, pauses=1), events=4_000, per_second=PER_SECOND)
        say(outcome)
        assert outcome.sound, outcome


def test_every_move_of_the_load_gives_one_update_and_every_stale_one_a_refusal() -> None:
    """What the oracle expects is what the rules make of it when nothing goes wrong."""
    state: dict[str, State] = {}
    told: list[RoutingUpdate] = []
    refused = 0
    sent = list(moves(1_000, vms=20))
    for move in sent:
        decision = decide(state, move, Moment(1, 0))
        state |= {key: value for key, value in decision.kept.items() if value is not None}
        told += [output for output in decision.outputs if isinstance(output, RoutingUpdate)]
        refused += decision.refused == ("M2",)
    assert (len(told), refused) == (1_000, len(sent) - 1_000)
    for vm in range(20):
        epochs = [update.epoch for update in told if update.vm_id == f"vm-{vm}"]
        assert epochs == list(range(1, 51))
    assert all(first.changed.node != second.changed.node for first, second in pairwise(told[::20]))


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_gives_the_same_faults_again(seed: int) -> None:
    faults = Faults(6, 3, 3, seed)
    assert faults.plan() == faults.plan()
    assert sorted(faults.plan()) == ["broker"] * 3 + ["kill"] * 6 + ["pause"] * 3
