"""The HTTP service: the client access point of the broker.

Errors are `application/problem+json` (RFC 9457). Nobody gets past the front door whose identity is not proved, and what
is known too little of is 503 with Retry-After: a route that may be outdated is worse than none. Every other answer says
how fresh it is. What may be asked, and by whom, stands in `endpoints`.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from failover_orch.service.access import Access
from failover_orch.service.api import Api
from failover_orch.service.callers import Identified
from failover_orch.service.documents import describe
from failover_orch.service.limits import SizeLimited
from failover_orch.service.lookups import Lookups
from failover_orch.service.placement_endpoints import answer_placements
from failover_orch.service.plan_endpoints import answer_plans
from failover_orch.service.policy_endpoints import answer_policies
from failover_orch.service.probe_endpoints import answer_probes
from failover_orch.service.problems import SENTENCED, problem_of
from failover_orch.service.route_endpoints import answer_routes
from failover_orch.service.run_endpoints import answer_runs
from failover_orch.service.settings_endpoints import answer_settings
from failover_orch.service.source import Commands, Source
from failover_orch.service.token_endpoints import answer_tokens
from failover_orch.service.vm_endpoints import answer_vms

__all__ = ["create_app"]

_ANSWER: tuple[Callable[[Api], None], ...] = (
    answer_routes,
    answer_vms,
    answer_placements,
    answer_plans,
    answer_policies,
    answer_settings,
    answer_runs,
    answer_tokens,
    answer_probes,
)


def create_app(source: Source, access: Access, commands: Commands) -> FastAPI:
    """The service: answers from a source, to whom `access` knows, and publishes by `commands`."""
    app = FastAPI(
        title="failover-orch",
        version="1",
        summary="The client access point of the replica broker: where each VM and its replica are, and what to do with "
        "them.",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # both would load their scripts from other people's servers
        redoc_url=None,
    )
    api = Api(app, source, commands)
    for answer in _ANSWER:
        answer(api)
    describe(app)
    for kind in (*SENTENCED, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _say)
    # The last one added stands in front.
    app.add_middleware(SizeLimited)
    app.add_middleware(Identified, access=access)
    app.add_middleware(Lookups, source=source, access=access)
    return app


async def _say(request: Request, error: Exception) -> Response:
    return problem_of(error, request)
