"""Runs over HTTP: failovers asked for, watched, and told what people say to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import Query, Response

from failover_orch import telemetry
from failover_orch.domain import FailoverKind, FailoverRequested, Operation, RequestAction, RunSnapshot, RunState
from failover_orch.errors import ConfigError
from failover_orch.service.api import Api
from failover_orch.service.asking import no_such_task, request_to, why_not
from failover_orch.service.bodies import RunBody, WordBody
from failover_orch.service.callers import Caller, Known
from failover_orch.service.endpoints import operation_of
from failover_orch.service.idempotency import IdempotencyKey
from failover_orch.service.problems import Conflict
from failover_orch.service.read_model import ReadModel
from failover_orch.service.subjects import plan_call, run_call, vm_call
from failover_orch.service.terms import wanted_point
from failover_orch.service.views import AcceptedView, RunList, RunView, run_list, run_view
from failover_orch.wire import now_ms

__all__ = ["answer_runs"]

_RUNS_AT_MOST = 1_000


def answer_runs(api: Api) -> None:
    @api.endpoint("GET", "/v1/runs", RunList, problems=(404,))
    async def runs(
        caller: Known,
        vm: str = "",
        state: RunState | None = None,
        waiting: bool = False,
        limit: Annotated[int, Query(ge=1, le=_RUNS_AT_MOST)] = 100,
    ) -> Response:
        """Runs, the newest first; `waiting`: only those that wait for a person (`waits_for`)."""
        model = api.everything()
        caller.require_somewhere(Operation.LOOK)
        vm_id = model.vm_id_of(vm) if vm else ""
        found = model.runs(vm_id=vm_id, state=state.value if state is not None else "", waiting=waiting)
        seen = (run for run in found if caller.sees(run_call, model, run))
        return api.answer(run_list(model, [run for run, _ in zip(seen, range(limit), strict=False)]))

    @api.endpoint("POST", "/v1/runs", AcceptedView, status=202)
    async def ask(caller: Known, body: RunBody, key: IdempotencyKey) -> Response:
        """Ask for a failover of VMs or of a recovery plan; the run's id follows from the caller and the key."""
        model = api.everything()
        operation = Operation.TEST if body.kind is FailoverKind.TEST else Operation.FAIL_OVER
        caller.require_somewhere(operation)
        at_ms = now_ms()
        wish = body.wish(caller.name, at_ms)
        request = wish.request(model, "", at_ms)
        _require(caller, model, operation, request)

        async def take(name: str) -> tuple[str, object]:
            asked = replace(request, run_id=f"run-{name}", request_key=name)
            known = model.find_run(asked.run_id)
            if known is None:
                await _publish(api, asked)
            elif not _same(known, asked):
                raise Conflict(f"this Idempotency-Key stood for run {asked.run_id}, which is another: choose a new one")
            return f"/v1/runs/{asked.run_id}", AcceptedView(asked.run_id)

        return await api.command(caller, key, ("run", body.model_dump(mode="json")), take)

    @api.endpoint("GET", "/v1/runs/{run_id}", RunView, converter=":path")  # of a plan's VM it has a slash in its id
    async def one_run(caller: Known, run_id: str) -> Response:
        """A run by its id, with the runs of its VMs where it is that of a list or plan."""
        model = api.everything()
        run = model.run(run_id)
        caller.require(run_call(Operation.LOOK, model, run))
        return api.answer(run_view(model, run))

    @api.endpoint("POST", "/v1/runs/{run_id}", AcceptedView, status=202, converter=":path")
    async def say(caller: Known, run_id: str, body: WordBody, key: IdempotencyKey) -> Response:
        """Tell a run something: approve it, cancel it, commit it, take it up again, and the like."""
        model = api.everything()
        run = model.run(run_id)
        caller.require(run_call(operation_of(body.action), model, run))
        request = _word(run, body, caller.name)

        async def take(name: str) -> tuple[str, object]:
            against = why_not(run, body.action) or no_such_task(run, body.step)
            if against:
                raise Conflict(against)
            await _publish(api, replace(request, request_key=name))
            return f"/v1/runs/{run.run_id}", AcceptedView(run.run_id)

        return await api.command(caller, key, ("word", run.run_id, body.model_dump(mode="json")), take)


def _require(caller: Caller, model: ReadModel, operation: Operation, request: FailoverRequested) -> None:
    """A plan is asked for as one; of a list every VM has to be the caller's."""
    if request.plan_id:
        caller.require(plan_call(operation, model, model.plan(request.plan_id)))
    else:
        vm_ids = request.vm_ids or (request.vm_id,)
        caller.require(*(vm_call(operation, model, vm_id) for vm_id in vm_ids))


def _word(run: RunSnapshot, body: WordBody, actor: str) -> FailoverRequested:
    """The word as a request. Raises ConfigError where a recovery point is missing, or has no use."""
    if body.action in (RequestAction.REQUEST, RequestAction.ACKNOWLEDGE):
        raise ConfigError(f"{body.action} is no word to a run: POST to /v1/runs, or to the VM's acknowledgement")
    named = bool(body.recovery_point or body.before)
    if named is not (body.action is RequestAction.TRY_ANOTHER):
        raise ConfigError(
            f"{body.action} takes no recovery point: leave --recovery-point and --before out"
            if named
            else "name the recovery point to try, with --recovery-point or --before"
        )
    at_ms = now_ms()
    said = request_to(run, body.action, actor=actor, reason=body.reason, at_ms=at_ms)
    point = wanted_point(body.recovery_point, body.before, at_ms)
    return replace(said, ticket=body.ticket, step=body.step, point=point)


def _same(known: RunSnapshot, asked: FailoverRequested) -> bool:
    """Whether a run is what this very request made, as far as its snapshot tells."""
    alike = (known.kind, known.actor, known.reason, known.ticket) == (
        asked.kind,
        asked.actor,
        asked.reason,
        asked.ticket,
    )
    return alike and (known.vm_id, known.plan_id if not known.vm_id else "") == (asked.vm_id, asked.plan_id)


async def _publish(api: Api, request: FailoverRequested) -> None:
    """Publish a request. The run's trace begins here, and goes through the worker to the site agents and back."""
    attributes = {"run_id": request.run_id, "kind": request.kind.value, "actor": request.actor}
    with telemetry.span(f"failover {request.action.lower()}", attributes=attributes) as span:
        await api.commands.publish(request, traceparent=span.traceparent)
