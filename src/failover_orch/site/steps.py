"""Runs one step command against the hypervisors, and always has an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from failover_orch import telemetry
from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import Action, StepCommand
from failover_orch.errors import HypervisorError, StaleEpoch, StepRefused
from failover_orch.hypervisors import Hypervisor

__all__ = ["Steps"]

_log = telemetry.logger(__name__)

_LOOK_S = 5.0
"""How long the hypervisors may take to say how things are after a step that was not done."""

_SAYS: Mapping[Action, str] = {
    Action.STAGE_ADDRESSES: "failover addresses are in the replica's configuration",
    Action.SHUT_DOWN: "the VM is off",
    Action.PREPARE: "the last changes are at the replica and the primary is locked",
    Action.CANCEL_PREPARE: "the primary is released and replicates",
    Action.CHECK_PRIMARY: "the primary does not run",
    Action.FAIL_OVER: "the replica stands at its recovery point and may be started",
    Action.CANCEL_FAILOVER: "the replica is off and receives again",
    Action.REVERSE: "replication runs the other way",
    Action.CONNECT_ADAPTERS: "all adapters are connected",
    Action.START: "the VM runs",
    Action.VERIFY_ADDRESSES: "the guest reports the addresses it was given",
    Action.COMPLETE: "the failover is committed",
}


class Steps:
    """Step commands against one site's hypervisors, at most so many on one node at a time."""

    def __init__(self, hypervisor: Hypervisor, *, per_node: int, clock: Callable[[], int]) -> None:
        self._hypervisor = hypervisor
        self._per_node = per_node
        self._clock = clock
        self._nodes: dict[str, asyncio.Semaphore] = {}

    async def run(self, command: StepCommand) -> StepResult:
        """Do what the command says, unless it is too late for it, and say what came of it. Never raises."""
        if command.site != self._hypervisor.site:
            detail = f"this command is for site {command.site} and came to {self._hypervisor.site}"
            return self._result(command, StepOutcome.REFUSED, detail, {})
        begun = False
        try:
            # What is late is not begun: by now the run may have taken another turn.
            async with asyncio.timeout(max(0, command.deadline_ms - self._clock()) / 1000):
                async with self._nodes.setdefault(command.node, asyncio.Semaphore(self._per_node)):
                    # Gives a deadline that is over its turn before anything is touched.
                    await asyncio.sleep(0)
                    begun = True
                    observed = await self._hypervisor.perform(command)
        except TimeoutError:
            what = "no answer from the hypervisor by its deadline" if begun else "not begun: its deadline had passed"
            return await self._not_done(command, StepOutcome.FAILED, what)
        except StaleEpoch as error:
            return await self._not_done(command, StepOutcome.STALE, str(error))
        except StepRefused as error:
            return await self._not_done(command, StepOutcome.REFUSED, str(error))
        except HypervisorError as error:
            return await self._not_done(command, StepOutcome.FAILED, str(error))
        except Exception as error:  # noqa: BLE001 - a bug of the hypervisor's driver: the run must hear of it too
            _log.error("step raised an unexpected error", action=str(command.action), vm_id=command.vm_id, error=error)
            return await self._not_done(command, StepOutcome.FAILED, f"unexpected {type(error).__name__}: {error}")
        return self._result(command, StepOutcome.DONE, _SAYS[command.action], observed)

    async def _not_done(self, command: StepCommand, outcome: StepOutcome, detail: str) -> StepResult:
        try:
            async with asyncio.timeout(_LOOK_S):
                observed = await self._hypervisor.observe(command.vm_id)
        except Exception as error:  # noqa: BLE001 - the answer must go out, whatever else does not work
            _log.warning("no look at the VM after a step that was not done", vm_id=command.vm_id, error=error)
            observed = {}
        return self._result(command, outcome, detail, observed)

    def _result(
        self, command: StepCommand, outcome: StepOutcome, detail: str, observed: Mapping[str, str]
    ) -> StepResult:
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
            finished_at_ms=self._clock(),
            observed=dict(observed),
        )
