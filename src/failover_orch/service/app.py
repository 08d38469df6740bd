"""The HTTP service: the client access point's answers to "where is this VM?", read only.

Errors are `application/problem+json` (RFC 9457). Until the read model has caught up every answer is 503 with
Retry-After: a route that may be outdated is worse than none. Every other answer says how fresh it is, in its body and
in the header `As-Of`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Protocol

import msgspec
import orjson
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from failover_orch import telemetry
from failover_orch.domain import RunState
from failover_orch.errors import LookupFailed
from failover_orch.service.policy_views import (
    BrakeView,
    LimitsView,
    PolicyList,
    brake_view,
    limits_of_plan,
    limits_of_site,
    limits_of_vm,
    policy_list,
)
from failover_orch.service.read_model import ReadModel
from failover_orch.service.readiness_views import (
    PlanList,
    PlanView,
    ReadinessList,
    plan_list,
    plan_view,
    readiness_list,
)
from failover_orch.service.views import (
    PlacementView,
    RunList,
    RunView,
    VmList,
    VmView,
    as_of,
    placement_view,
    run_list,
    run_view,
    vm_list,
    vm_view,
)

__all__ = ["Source", "create_app"]

log = telemetry.logger(__name__)

_RETRY_AFTER_S = 1
_RUNS_AT_MOST = 1000


class Source(Protocol):
    """Where the answers come from: a `Feed`, or a model made by hand."""

    @property
    def model(self) -> ReadModel: ...

    async def reachable(self) -> bool:
        """Whether Kafka still answers, so that the model can be trusted to be up to date."""
        ...


class _NotCaughtUp(Exception):
    """The read model may not be asked yet."""


def create_app(source: Source) -> FastAPI:
    """The service over a source of read models."""
    app = FastAPI(
        title="failover-orch",
        summary="Where each VM and its replica live, how ready they are, and what failovers do and have done.",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # both would load their scripts from other people's servers
        redoc_url=None,
    )
    _handle_errors(app)
    _answer_vms(app, source)
    _answer_plans(app, source)
    _answer_policies(app, source)
    _answer_runs(app, source)
    _answer_probes(app, source)
    return app


def _current(source: Source) -> ReadModel:
    model = source.model
    if not model.caught_up:
        raise _NotCaughtUp
    return model


def _answer_vms(app: FastAPI, source: Source) -> None:
    @app.get("/v1/vms", response_model=VmList)
    async def vms(site: str = "", node: str = "", application: str = "") -> Response:
        """VMs by name. `site` and `node` match where a VM runs and where its replica lives."""
        model = _current(source)
        return _answer(model, vm_list(model, model.vms(site=site, node=node, application=application)))

    @app.get("/v1/vms/{vm}", response_model=VmView)
    async def one_vm(vm: str, if_none_match: Annotated[str, Header()] = "") -> Response:
        """A VM by id or name: where it is, its epoch, health, run in flight and failover addresses."""
        model = _current(source)
        view = vm_view(model, model.vm(vm))
        tag = _tag(view)
        if tag in (candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag, **_freshness(model)})
        return _answer(model, view, ETag=tag)

    @app.get("/v1/vms/{vm}/placement", response_model=PlacementView)
    async def placement(vm: str) -> Response:
        """Where a VM's replica lives, or else where it would be placed, and why."""
        model = _current(source)
        return _answer(model, placement_view(model, model.vm(vm)))


def _answer_plans(app: FastAPI, source: Source) -> None:
    @app.get("/v1/plans", response_model=PlanList)
    async def plans() -> Response:
        """Recovery plans by name."""
        model = _current(source)
        return _answer(model, plan_list(model))

    @app.get("/v1/plans/{plan}", response_model=PlanView)
    async def one_plan(plan: str) -> Response:
        """A recovery plan by id or name: its groups, how ready it and its VMs are, and its run in flight."""
        model = _current(source)
        return _answer(model, plan_view(model, model.plan(plan)))

    @app.get("/v1/readiness", response_model=ReadinessList)
    async def readiness(everything: bool = False) -> Response:
        """Plans and VMs that are not READY, or `everything`, the worst first, each defect with what to do about it."""
        model = _current(source)
        return _answer(model, readiness_list(model, everything=everything))


def _answer_policies(app: FastAPI, source: Source) -> None:
    @app.get("/v1/policies", response_model=PolicyList)
    async def policies() -> Response:
        """Policies as they were set, the widest first."""
        model = _current(source)
        return _answer(model, policy_list(model))

    @app.get("/v1/vms/{vm}/limits", response_model=LimitsView)
    async def of_vm(vm: str) -> Response:
        """The limits that come out for a VM, each with the policy that it is from."""
        model = _current(source)
        return _answer(model, limits_of_vm(model, model.vm(vm)))

    @app.get("/v1/plans/{plan}/limits", response_model=LimitsView)
    async def of_plan(plan: str) -> Response:
        """The limits that come out for the runs of a plan as a whole."""
        model = _current(source)
        return _answer(model, limits_of_plan(model, model.plan(plan)))

    @app.get("/v1/sites/{site}/limits", response_model=LimitsView)
    async def of_site(site: str) -> Response:
        """The limits that come out for the VMs that run at a site, before those of their plans and their own."""
        model = _current(source)
        return _answer(model, limits_of_site(model, model.site(site)))

    @app.get("/v1/brake", response_model=BrakeView)
    async def brake() -> Response:
        """The brake over everything automatic."""
        model = _current(source)
        return _answer(model, brake_view(model))


def _answer_runs(app: FastAPI, source: Source) -> None:
    @app.get("/v1/runs", response_model=RunList)
    async def runs(
        vm: str = "",
        state: RunState | None = None,
        waiting: bool = False,
        limit: Annotated[int, Query(ge=1, le=_RUNS_AT_MOST)] = 100,
    ) -> Response:
        """Runs, the newest first; `waiting`: only those that wait for a person (`waits_for`)."""
        model = _current(source)
        vm_id = model.vm(vm).vm_id if vm else ""
        found = model.runs(vm_id=vm_id, state=state.value if state is not None else "", waiting=waiting)
        return _answer(model, run_list(model, found[:limit]))

    @app.get("/v1/runs/{run_id:path}", response_model=RunView)  # the run of a plan's VM has a slash in its id
    async def one_run(run_id: str) -> Response:
        """A run by its id, with the runs of its VMs where it is that of a list or plan."""
        model = _current(source)
        return _answer(model, run_view(model, model.run(run_id)))


def _answer_probes(app: FastAPI, source: Source) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is alive."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> Response:
        """The process can answer: it has caught up, and Kafka answered a few seconds ago."""
        model = _current(source)
        if not await source.reachable():
            return _problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"Kafka does not answer; what is known is as of {as_of(model)}",
                {"Retry-After": str(_RETRY_AFTER_S), **_freshness(model)},
            )
        return _answer(model, {"as_of": as_of(model), "status": "ready", "skipped_records": model.skipped})


def _tag(view: VmView) -> str:
    """The epoch, and a digest of what changes within an epoch: health, a run's steps, settings. Not of `as_of`."""
    digest = hashlib.sha256(orjson.dumps(msgspec.to_builtins(replace(view, as_of=None)))).hexdigest()
    return f'"{view.epoch}-{digest[:12]}"'


def _freshness(model: ReadModel) -> dict[str, str]:
    return {"As-Of": as_of(model) or "never", "Cache-Control": "no-cache"}


def _answer(model: ReadModel, body: object, **headers: str) -> Response:
    content = orjson.dumps(msgspec.to_builtins(body))
    return Response(content, media_type="application/json", headers={**_freshness(model), **headers})


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "detail": detail}
    return Response(orjson.dumps(body), int(status), headers, "application/problem+json")


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(_NotCaughtUp)
    async def not_caught_up(_request: Request, _error: Exception) -> Response:
        return _problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the read model has not caught up with Kafka yet: try again in a moment",
            {"Retry-After": str(_RETRY_AFTER_S)},
        )

    @app.exception_handler(LookupFailed)
    async def lookup_failed(_request: Request, error: Exception) -> Response:
        return _problem(HTTPStatus.NOT_FOUND, str(error))

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        return _problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        details = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(details))

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        log.error("request failed", path=request.url.path, error=error)
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "this is a bug; the service's log has its traceback")
