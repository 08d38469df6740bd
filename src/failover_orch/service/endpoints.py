"""Every endpoint of the service, in one table: what may be asked, by whom it may be, and what it is about.

The service registers nothing that does not stand here; who may call what follows from this table and `domain.ALLOWED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from failover_orch.domain import Operation, RequestAction

__all__ = ["ENDPOINTS", "WORDS_BY_OPERATION", "Endpoint", "Subject", "operation_of"]


class Subject(StrEnum):
    """How what a call is about is found.

    NOBODY: no identity is asked for. ANY: whoever may do the operation anywhere. LIST: the same, and what is listed is
    what the caller may look at. WHOLE: it concerns everything. VM, PLAN, RUN, SITE, CLUSTER, POLICY: the path names it.
    BODY: the body does.
    """

    NOBODY = "NOBODY"
    ANY = "ANY"
    LIST = "LIST"
    WHOLE = "WHOLE"
    VM = "VM"
    PLAN = "PLAN"
    RUN = "RUN"
    SITE = "SITE"
    CLUSTER = "CLUSTER"
    POLICY = "POLICY"
    BODY = "BODY"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A method and path. Of several operations the body decides which it is."""

    method: str
    path: str
    operations: tuple[Operation, ...]
    subject: Subject

    @property
    def command(self) -> bool:
        """Whether it changes something, so that it needs an `Idempotency-Key`."""
        return self.operations not in ((), (Operation.LOOK,), (Operation.PLACE,)) and self.method != "GET"


_LOOK = (Operation.LOOK,)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/healthz", (), Subject.NOBODY),
    Endpoint("GET", "/readyz", (), Subject.NOBODY),
    Endpoint("GET", "/v1/openapi.json", (), Subject.NOBODY),
    Endpoint("GET", "/v1/vms", _LOOK, Subject.LIST),
    Endpoint("GET", "/v1/vms/{vm}", _LOOK, Subject.VM),
    Endpoint("GET", "/v1/vms/{vm}/route", _LOOK, Subject.VM),
    Endpoint("POST", "/v1/routes/lookup", _LOOK, Subject.LIST),
    Endpoint("GET", "/v1/routes/events", _LOOK, Subject.LIST),
    Endpoint("GET", "/v1/vms/{vm}/placement", _LOOK, Subject.VM),
    Endpoint("POST", "/v1/placements", (Operation.PLACE,), Subject.BODY),
    Endpoint("GET", "/v1/vms/{vm}/limits", _LOOK, Subject.VM),
    Endpoint("PUT", "/v1/vms/{vm}/addresses", (Operation.SET_ADDRESSES,), Subject.VM),
    Endpoint("POST", "/v1/vms/{vm}/acknowledgement", (Operation.STEER,), Subject.VM),
    Endpoint("GET", "/v1/vms/{vm}/replication", _LOOK, Subject.VM),
    Endpoint("PATCH", "/v1/vms/{vm}/replication", (Operation.SET_VM_REPLICATION,), Subject.VM),
    Endpoint("GET", "/v1/vms/{vm}/replication/history", _LOOK, Subject.VM),
    Endpoint("GET", "/v1/plans", _LOOK, Subject.LIST),
    Endpoint("GET", "/v1/plans/{plan}", _LOOK, Subject.PLAN),
    Endpoint("PUT", "/v1/plans/{plan}", (Operation.SET_PLAN,), Subject.PLAN),
    Endpoint("GET", "/v1/plans/{plan}/limits", _LOOK, Subject.PLAN),
    Endpoint("GET", "/v1/sites/{site}/limits", _LOOK, Subject.SITE),
    Endpoint("GET", "/v1/readiness", _LOOK, Subject.LIST),
    Endpoint("GET", "/v1/policies", _LOOK, Subject.LIST),
    Endpoint("PUT", "/v1/policies/all", (Operation.SET_POLICY,), Subject.WHOLE),
    Endpoint("PUT", "/v1/policies/{scope}/{target}", (Operation.SET_POLICY,), Subject.POLICY),
    Endpoint("GET", "/v1/brake", _LOOK, Subject.ANY),
    Endpoint("PUT", "/v1/brake", (Operation.ENGAGE_BRAKE, Operation.RELEASE_BRAKE), Subject.WHOLE),
    Endpoint("GET", "/v1/runs", _LOOK, Subject.LIST),
    Endpoint("POST", "/v1/runs", (Operation.TEST, Operation.FAIL_OVER), Subject.BODY),
    Endpoint("GET", "/v1/runs/{run_id}", _LOOK, Subject.RUN),
    Endpoint("POST", "/v1/runs/{run_id}", (Operation.STEER, Operation.APPROVE), Subject.RUN),
    Endpoint("GET", "/v1/clusters", _LOOK, Subject.LIST),
    Endpoint("GET", "/v1/clusters/{cluster}", _LOOK, Subject.CLUSTER),
    Endpoint("GET", "/v1/clusters/{cluster}/settings", _LOOK, Subject.CLUSTER),
    Endpoint("PATCH", "/v1/clusters/{cluster}/settings", (Operation.SET_CLUSTER,), Subject.CLUSTER),
    Endpoint("GET", "/v1/clusters/{cluster}/settings/history", _LOOK, Subject.CLUSTER),
    Endpoint("GET", "/v1/clusters/{cluster}/settings/standing", _LOOK, Subject.CLUSTER),
    Endpoint("GET", "/v1/tokens", (Operation.MANAGE_TOKENS,), Subject.WHOLE),
    Endpoint("POST", "/v1/tokens", (Operation.MANAGE_TOKENS,), Subject.WHOLE),
    Endpoint("DELETE", "/v1/tokens/{token_id}", (Operation.MANAGE_TOKENS,), Subject.WHOLE),
)
"""Every endpoint, by subject matter. Who may do an operation without any of it being theirs is refused by its scope."""

WORDS_BY_OPERATION: Mapping[RequestAction, Operation] = {
    RequestAction.APPROVE: Operation.APPROVE,
    RequestAction.REJECT: Operation.APPROVE,
}
"""What saying a word to a run is; every other is STEER."""


def operation_of(action: RequestAction) -> Operation:
    """What saying a word to a run, or acknowledging, is."""
    return WORDS_BY_OPERATION.get(action, Operation.STEER)
