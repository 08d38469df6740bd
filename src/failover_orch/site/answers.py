"""What a site agent answers a step command with."""

from __future__ import annotations

from collections.abc import Mapping

from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import StepCommand

__all__ = ["NOT_BEGUN", "answer"]

NOT_BEGUN = "not begun: its deadline had passed"


def answer(
    command: StepCommand, outcome: StepOutcome, detail: str, observed: Mapping[str, str], at_ms: int
) -> StepResult:
    """The result of a command, under the command's own key. `at_ms`: when this became so."""
    return StepResult(
        run_id=command.run_id,
        step=command.step,
        attempt=command.attempt,
        vm_id=command.vm_id,
        site=command.site,
        node=observed.get("node") or command.node,
        epoch=command.epoch,
        outcome=outcome,
        detail=detail,
        finished_at_ms=at_ms,
        observed=dict(observed),
        key=command.key,
    )
