"""What a plan has an agent do besides moving VMs: scripts, HTTP calls, gates that a script decides."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import httpx

from failover_orch import telemetry
from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.settings import GateKind
from failover_orch.errors import StepRefused
from failover_orch.site.allowed import Allowed
from failover_orch.site.answers import NOT_BEGUN, answer
from failover_orch.site.scripts import OUTPUT_KEPT, ScriptEnd, run_script

__all__ = ["PlanWork", "is_plan_work", "only_once"]

_log = telemetry.logger(__name__)

_BODY_READ = 4 * OUTPUT_KEPT
"""Bytes of an answer's body that are read; the rest stays where it is."""


@dataclass(frozen=True, slots=True)
class _End:
    outcome: StepOutcome
    detail: str
    observed: Mapping[str, str] = field(default_factory=dict)


def only_once(command: StepCommand) -> bool:
    """Whether this must not be done again where nobody knows whether it was done: nothing can be asked about it."""
    return command.action in (Action.RUN_SCRIPT, Action.CALL_HTTP)


def is_plan_work(command: StepCommand) -> bool:
    """Whether the agent does this itself, and not by way of its hypervisors."""
    gate = command.gate if command.action is Action.CHECK_GATE else None
    return only_once(command) or (gate is not None and gate.kind is GateKind.SCRIPT)


class PlanWork:
    """Carries out plan work, as far as it is allowed."""

    def __init__(self, site: str, allowed: Allowed, *, clock: Callable[[], int]) -> None:
        """`clock` gives milliseconds since the Unix epoch."""
        self._site = site
        self._allowed = allowed
        self._clock = clock

    async def run(self, command: StepCommand, traceparent: str = "") -> StepResult:
        """Do what the command says by its deadline, and say what came of it. Never raises.

        What was begun is ended with the deadline, and where the caller is cancelled.
        """
        end = await self._end(command, traceparent)
        return answer(command, end.outcome, end.detail, end.observed, self._clock())

    async def _end(self, command: StepCommand, traceparent: str) -> _End:
        if command.site != self._site:
            return _End(StepOutcome.REFUSED, f"this command is for site {command.site} and came to {self._site}")
        left_s = (command.deadline_ms - self._clock()) / 1000
        if left_s <= 0:
            return _End(StepOutcome.FAILED, NOT_BEGUN)
        try:
            if command.action is Action.CALL_HTTP:
                return await self._call(command, traceparent, left_s)
            return await self._run_script(command, left_s)
        except StepRefused as error:
            return _End(StepOutcome.REFUSED, str(error))
        except Exception as error:  # noqa: BLE001 - a bug of ours: the run must hear of it too
            _log.error("plan work raised an unexpected error", run=command.run_id, step=command.step, error=error)
            return _End(StepOutcome.FAILED, f"unexpected {type(error).__name__}: {error}")

    async def _run_script(self, command: StepCommand, left_s: float) -> _End:
        name, *arguments = _words(command)
        script = self._allowed.script(name)
        try:
            end = await run_script(
                (str(script), *arguments), given=command.context, environment=_environment(command), timeout_s=left_s
            )
        except (OSError, ValueError) as error:
            raise StepRefused(f"{script} cannot be started: {error}") from None
        observed = {"output": end.output, "duration_ms": str(end.duration_ms)}
        if end.exit_status is not None:
            observed["exit_status"] = str(end.exit_status)
        if end.exit_status == 0:
            return _End(StepOutcome.DONE, f"{script.name} {_ended(end)}", observed)
        return _End(StepOutcome.FAILED, f"{script.name} {_ended(end)} {_quoted(end.output)}", observed)

    async def _call(self, command: StepCommand, traceparent: str, left_s: float) -> _End:
        action = command.plan_action
        if action is None:
            raise StepRefused("this CALL_HTTP does not say what to call: its plan_action is missing")
        method, url = action.method, self._allowed.url(action.url)
        headers = {"content-type": "application/json", "idempotency-key": _idempotency_key(command)}
        headers["accept-encoding"] = "identity"
        if traceparent:
            headers["traceparent"] = traceparent
        try:
            # The deadline is for all of it, so httpx's own limits for each part are off. Redirects are not followed:
            # they may lead out of what is allowed.
            async with asyncio.timeout(left_s), httpx.AsyncClient(timeout=None) as client:  # noqa: S113 (see above)
                content = command.context.encode()
                async with client.stream(method, url, content=content, headers=headers) as response:
                    status, body = response.status_code, await _body(response)
        except TimeoutError:
            return _End(StepOutcome.FAILED, f"{method} {url}: no answer by the step's deadline")
        except httpx.HTTPError as error:
            return _End(StepOutcome.FAILED, f"{method} {url}: {type(error).__name__}: {error}")
        outcome = StepOutcome.FAILED
        if httpx.codes.is_success(status):
            outcome = StepOutcome.DONE
        elif httpx.codes.is_client_error(status):
            outcome = StepOutcome.REFUSED
        detail = f"{method} {url} was answered {status}"
        if outcome is not StepOutcome.DONE:
            detail = f"{detail} {_quoted(body)}"
        return _End(outcome, detail, {"status": str(status), "body": body})


def _words(command: StepCommand) -> Sequence[str]:
    """The command line of a script, its name first."""
    holder = command.gate if command.action is Action.CHECK_GATE else command.plan_action
    if holder is None or not holder.command:
        raise StepRefused(f"this {command.action} does not say what to run: its command is empty")
    return holder.command


def _ended(end: ScriptEnd) -> str:
    match end.exit_status:
        case None:
            return f"was killed at the step's deadline, after {end.duration_ms} ms"
        case status if status < 0:
            return f"was ended by signal {-status} after {end.duration_ms} ms"
        case status:
            return f"ended with status {status} after {end.duration_ms} ms"


def _quoted(text: str) -> str:
    return f"and said: {text}" if text else "and said nothing"


def _environment(command: StepCommand) -> dict[str, str]:
    """All that a script finds in its environment: nothing of the agent's own but the path."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "FAILOVER_ORCH_RUN_ID": command.run_id,
        "FAILOVER_ORCH_STEP": command.step,
        "FAILOVER_ORCH_ATTEMPT": str(command.attempt),
        "FAILOVER_ORCH_KIND": _kind(command.context),
    }


def _kind(context: str) -> str:
    """The kind of failover, as the run's context has it; empty where it does not say."""
    try:
        told = json.loads(context)
    except ValueError:
        return ""
    kind = told.get("kind", "") if isinstance(told, dict) else ""
    return kind if isinstance(kind, str) else ""


def _idempotency_key(command: StepCommand) -> str:
    # A header takes no letters beyond ASCII, and ids may have them.
    return quote(f"{command.run_id}/{command.step}/{command.attempt}")


async def _body(response: httpx.Response) -> str:
    read = b""
    # As it came: what is packed, though nobody asked for that, may unpack to any size.
    async for part in response.aiter_raw():
        read += part
        if len(read) >= _BODY_READ:
            break
    return read.decode(errors="replace").strip()[:OUTPUT_KEPT]
