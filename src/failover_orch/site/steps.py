"""Runs one step command against the hypervisors, and always has an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping

from failover_orch import telemetry
from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import Action, StepCommand
from failover_orch.errors import HypervisorError, StaleEpoch, StepRefused
from failover_orch.hypervisors import Hypervisor
from failover_orch.site.answers import NOT_BEGUN, answer
from failover_orch.site.turns import Turns

__all__ = ["Steps"]

_log = telemetry.logger(__name__)

_LOOK_S = 5.0
"""How long the hypervisors may take to say how things are after a step that was not done."""

_SAYS: Mapping[Action, str] = {
    Action.INSPECT: "this is how things are",
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
    Action.MAKE_REPLICA: "the old primary is a replica and waits for its initial replication",
    Action.RESYNCHRONIZE: "the replica is being brought up to date",
    Action.AWAIT_REPLICATION: "the VM is replicating",
    Action.CREATE_TEST: "the test copy is there, on its isolated network",
    Action.START_TEST: "the test copy runs",
    Action.VERIFY_TEST: "the test copy reports the addresses it was given",
    Action.DELETE_TEST: "the test copy is gone",
    Action.CHECK_GATE: "the gate holds",
    Action.APPLY_SETTINGS: "the replication settings are as they were asked for, and were read back so",
}
"""What is so once an action is done; scripts and calls speak for themselves, see `plan_work`."""


class Steps:
    """Step commands against one site's hypervisors, at most so many at a time.

    On one node, in the site, and besides on a node and in the site for each plan that says so. 0: no limit.
    """

    def __init__(self, hypervisor: Hypervisor, *, per_node: int, per_site: int = 0, clock: Callable[[], int]) -> None:
        self._hypervisor = hypervisor
        self._per_node = per_node
        self._per_site = per_site
        self._clock = clock
        self._turns = Turns()

    async def run(self, command: StepCommand) -> StepResult:
        """Do what the command says, unless it is too late for it, and say what came of it. Never raises."""
        if command.site != self._hypervisor.site:
            detail = f"this command is for site {command.site} and came to {self._hypervisor.site}"
            return answer(command, StepOutcome.REFUSED, detail, {}, self._clock())
        begun = False
        try:
            # What is late is not begun: by now the run may have taken another turn.
            async with asyncio.timeout(max(0, command.deadline_ms - self._clock()) / 1000):
                async with self._turns.take(self._limits(command)):
                    # Gives a deadline that is over its turn before anything is touched.
                    await asyncio.sleep(0)
                    begun = True
                    observed = await self._carry_out(command)
        except TimeoutError:
            what = "no answer from the hypervisor by its deadline" if begun else NOT_BEGUN
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
        return answer(command, StepOutcome.DONE, _SAYS[command.action], observed, self._clock())

    async def _carry_out(self, command: StepCommand) -> Mapping[str, str]:
        if command.action is not Action.APPLY_SETTINGS:
            return await self._hypervisor.perform(command)
        if command.server is not None:
            await self._hypervisor.apply_server(command.node, command.server)
        elif command.replication is not None:
            await self._hypervisor.apply_replication(command.vm_id, command.replication)
        else:
            raise StepRefused(f"this {command.action} does not say what to apply: it has no settings")
        return {}

    def _limits(self, command: StepCommand) -> Mapping[Hashable, int]:
        limits: dict[Hashable, int] = {"site": self._per_site, ("node", command.node): self._per_node}
        if plan := command.plan_run_id:
            limits |= {("plan", plan): command.per_site, ("plan on node", plan, command.node): command.per_node}
        return limits

    async def _not_done(self, command: StepCommand, outcome: StepOutcome, detail: str) -> StepResult:
        if command.action is Action.APPLY_SETTINGS:
            return answer(command, outcome, detail, {}, self._clock())
        try:
            async with asyncio.timeout(_LOOK_S):
                observed = await self._hypervisor.observe(command.vm_id)
        except Exception as error:  # noqa: BLE001 - the answer must go out, whatever else does not work
            _log.warning("no look at the VM after a step that was not done", vm_id=command.vm_id, error=error)
            observed = {}
        return answer(command, outcome, detail, observed, self._clock())
