"""What results say of steps that must not be done again."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import Action
from failover_orch.site.answers import answer
from failover_orch.site.ledger import CLAIM, CLAIMED_BY, NOTHING_KNOWN, Ledger, StepKey
from worlds import NOW, command

ASKED = replace(command(Action.RUN_SCRIPT), key="plan-1")
KEY = StepKey("plan-1", "run-1", "RUN_SCRIPT", 1)


def result(outcome: StepOutcome, claim: str, at_ms: int = NOW) -> StepResult:
    return answer(ASKED, outcome, "", {CLAIM: claim, CLAIMED_BY: f"agent of {claim}"}, at_ms)


def test_the_key_of_a_command_is_that_of_its_results() -> None:
    assert StepKey.of(ASKED) == StepKey.of(result(StepOutcome.DONE, "a")) == KEY
    assert StepKey.of(replace(ASKED, key="")).key == ASKED.vm_id


def test_nothing_is_known_of_others() -> None:
    ledger = Ledger()
    ledger.note(result(StepOutcome.BEGUN, "a"), 7)
    for other in (KEY._replace(attempt=2), KEY._replace(run_id="run-2"), KEY._replace(key="vm-1")):
        assert ledger.entry(other) == NOTHING_KNOWN


def test_results_of_other_steps_are_not_kept() -> None:
    ledger = Ledger()
    ledger.note(answer(ASKED, StepOutcome.DONE, "", {"power": "OFF"}, NOW), 7)
    assert ledger.entry(KEY) == NOTHING_KNOWN


@given(st.permutations(range(5)), st.lists(st.integers(0, 4)))
def test_the_first_claim_and_the_sure_end_stand_in_whatever_order_they_are_noted(
    order: list[int], again: list[int]
) -> None:
    told = [
        (result(StepOutcome.BEGUN, "a"), 3),
        (result(StepOutcome.BEGUN, "b"), 5),
        (result(StepOutcome.UNCERTAIN, "b"), 6),
        (result(StepOutcome.DONE, "a"), 8),
        (result(StepOutcome.UNCERTAIN, "c"), 9),
    ]
    ledger = Ledger()
    for place in (*order, *again):
        ledger.note(*told[place])
    entry = ledger.entry(KEY)
    assert entry.first is not None
    assert (entry.first.claim, entry.first.agent, entry.first.offset) == ("a", "agent of a", 3)
    assert entry.end == told[3][0]


def test_what_is_old_is_forgotten() -> None:
    ledger = Ledger()
    ledger.note(result(StepOutcome.BEGUN, "a", NOW), 3)
    ledger.forget(NOW)
    assert ledger.entry(KEY).first is not None
    ledger.forget(NOW + 1)
    assert ledger.entry(KEY) == NOTHING_KNOWN
