"""The short form of the simulation, and that it can fail; `make simulate` is the long one.

Run as a script it writes the list of invariants in `docs/simulation.md` anew.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover_orch.domain import Action, RunSnapshot, RunState, StepCommand, StepOutcome
from failover_orch.streams.folding import Folding
from simulation.defects import DEFECTS, caught
from simulation.documents import PAGE, invariants_table, part, put
from simulation.invariants import INVARIANTS, Violated, Watchman
from simulation.running import narrative, run_seeds, shrink, try_schedule
from simulation.schedule import draw
from simulation.world import World

SEEDS = 300
QUICKLY_CAUGHT = (
    "a task restores its state without its applied offsets",
    "what a cancelled run did is not undone",
    "guard G1 does without the data path, and believes anybody",
)
MOST_SEEDS = 1_000


def test_nothing_is_violated() -> None:
    failures = [failure for _, failure in run_seeds(range(SEEDS), jobs=2) if failure is not None]
    assert failures == []


@pytest.mark.parametrize("name", QUICKLY_CAUGHT)
def test_a_defect_is_caught(name: str) -> None:
    (defect,) = [each for each in DEFECTS if each.name == name]
    result = caught(defect, most=MOST_SEEDS)
    assert result.seed is not None
    assert result.invariant in INVARIANTS


def test_a_seed_tells_the_same_story_every_time() -> None:
    first, second = narrative(draw(1)), narrative(draw(1))
    assert first == second
    assert first[-1].endswith("everything held")
    assert any("asks for the" in line for line in first)
    assert narrative(draw(2)) != first


def test_records_in_avro_lead_to_the_same() -> None:
    plain, encoded = (replace(draw(11), avro=avro) for avro in (False, True))
    assert try_schedule(encoded) is None
    assert narrative(encoded) == narrative(plain)


def test_what_fails_is_made_small_and_still_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    really = Watchman.told

    def told(self: Watchman, value: object, partition: int, folding: Folding) -> None:
        if isinstance(value, RunSnapshot) and value.state is RunState.CANCELLED:
            raise Violated("I1", value.run_id)
        really(self, value, partition, folding)

    monkeypatch.setattr(Watchman, "told", told)
    schedule, failure = next(
        (draw(seed), found) for seed in range(200) if (found := try_schedule(draw(seed))) and found.invariant == "I1"
    )
    small = shrink(schedule, failure)
    found = try_schedule(small)
    assert found is not None
    assert found.invariant == "I1"
    assert len(small.happenings) < len(schedule.happenings)
    for left_out in range(len(small.happenings)):
        fewer = small.happenings[:left_out] + small.happenings[left_out + 1 :]
        assert try_schedule(replace(small, happenings=fewer)) is None
    assert "Violated: I1" in narrative(small)[-1]


def test_an_error_of_the_simulation_itself_is_no_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: World) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(World, "run", run)
    failure = try_schedule(draw(1))
    assert failure is not None
    assert (failure.invariant, failure.what) == ("", "ZeroDivisionError: ")


def test_the_page_lists_every_invariant() -> None:
    assert part("invariants") == invariants_table()


def test_the_page_says_what_catches_each_defect() -> None:
    """Stale: `PYTHONPATH=tests python -m simulation defects` writes it anew."""
    rows = [line.split(" | ") for line in part("defects").splitlines()[2:]]
    assert [row[0].removeprefix("| ") for row in rows] == [defect.name for defect in DEFECTS]
    assert all(row[1].partition(":")[0] in INVARIANTS for row in rows)


def test_the_simulated_hypervisors_refuse_what_is_not_legal() -> None:
    """The oracle's own rules, where they matter most: an independent judge must not be made of straw."""
    world = World(draw(0), Watchman)
    hypervisors = world.hypervisors
    machine = next(iter(hypervisors.machines.values()))
    primary = machine.active
    replica = machine.other(primary)

    def do(action: Action, site: str, epoch: int = 1, attempt: int = 1) -> StepOutcome:
        return hypervisors.perform(command(machine.vm_id, action, site, epoch, attempt), world.now_ms)[0]

    assert do(Action.CHECK_PRIMARY, replica.site) is StepOutcome.REFUSED
    assert do(Action.START, replica.site) is StepOutcome.REFUSED
    assert do(Action.PREPARE, primary.site) is StepOutcome.REFUSED
    assert do(Action.SHUT_DOWN, primary.site) is StepOutcome.DONE
    assert do(Action.PREPARE, primary.site) is StepOutcome.DONE
    assert do(Action.START, primary.site) is StepOutcome.REFUSED
    assert do(Action.FAIL_OVER, replica.site, epoch=2) is StepOutcome.DONE
    assert do(Action.FAIL_OVER, replica.site, epoch=1) is StepOutcome.STALE
    assert do(Action.CANCEL_PREPARE, primary.site) is StepOutcome.REFUSED
    assert do(Action.REVERSE, replica.site, epoch=2) is StepOutcome.DONE
    assert do(Action.START, replica.site, epoch=2) is StepOutcome.DONE
    assert machine.active is replica
    assert [end.site for end in machine.running] == [replica.site]
    assert not hypervisors.ran_twice
    effects = len(hypervisors.effects)
    assert do(Action.START, replica.site, epoch=2) is StepOutcome.DONE
    assert do(Action.SHUT_DOWN, primary.site) is StepOutcome.DONE
    assert len(hypervisors.effects) == effects


def command(vm_id: str, action: Action, site: str, epoch: int, attempt: int) -> StepCommand:
    return StepCommand("r", action.value, attempt, vm_id, site, "", epoch, action, 0, 1)


if __name__ == "__main__":
    put("invariants", invariants_table())
    print(f"written: {PAGE}")  # noqa: T201 (output)
