"""Whether the process lives, and whether it can answer: for whoever spreads calls over several."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Response
from pydantic import BaseModel

from failover_orch.service.api import Api
from failover_orch.service.problems import RETRY_AFTER_S, problem
from failover_orch.service.views import as_of

__all__ = ["answer_probes"]


class Alive(BaseModel):
    status: str


class Ready(BaseModel):
    """`skipped_records` could not be decoded; `as_of` is Kafka's time of the newest record."""

    as_of: str | None
    status: str
    skipped_records: int


def answer_probes(api: Api) -> None:
    @api.endpoint("GET", "/healthz", Alive)
    async def healthz() -> Alive:
        """The process is alive."""
        return Alive(status="alive")

    @api.endpoint("GET", "/readyz", Ready, problems=(HTTPStatus.SERVICE_UNAVAILABLE,))
    async def readyz() -> Response:
        """The process can answer: it has caught up, and Kafka answered a few seconds ago."""
        model = api.everything()
        if not await api.source.reachable():
            return problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"Kafka does not answer; what is known is as of {as_of(model)}",
                {"Retry-After": str(RETRY_AFTER_S), **api.freshness()},
            )
        return api.answer({"as_of": as_of(model), "status": "ready", "skipped_records": model.skipped})
