"""ACLs on a Kafka: making those that are missing, and saying which are there and ought not to be.

aiokafka has the requests of Kafka's protocol for it, and nothing that sends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import errors as aiokafka_errors
from aiokafka.protocol.admin import CreateAclsRequest, DescribeAclsRequest

from failover_orch.errors import KafkaError, KafkaForbidden, KafkaUnavailable
from failover_orch.kafka.acls import Acl, Operation, Pattern, Permission, Resource
from failover_orch.kafka.topics import administration
from failover_orch.kafka_address import security_of

__all__ = ["AclsReport", "check_acls", "create_acls"]

_ANY = 1
_NO_AUTHORIZER = 54
"""SECURITY_DISABLED, which aiokafka does not know."""
_AT_ONCE = 100
_SETTLE_S = 20.0


@dataclass(frozen=True, slots=True)
class AclsReport:
    """What was found, and made. `excess` allows our users, or others on our topics, more than they need."""

    created: tuple[Acl, ...]
    present: tuple[Acl, ...]
    missing: tuple[Acl, ...]
    excess: tuple[Acl, ...]

    @property
    def least(self) -> bool:
        """Whether everybody may do what they need, and nothing else."""
        return not self.missing and not self.excess


class _CreateAcls(CreateAclsRequest):  # type: ignore[misc]  # aiokafka has no types
    """Many in one request: aiokafka's own has room for one."""

    def __init__(self, acls: Iterable[Acl]) -> None:
        self._creations = [
            (acl.resource, acl.name, acl.pattern, acl.principal, acl.host, acl.operation, acl.permission)
            for acl in acls
        ]

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._creations)


async def check_acls(bootstrap: str, wanted: Sequence[Acl]) -> AclsReport:
    """Compare what is there with what ought to be. Changes nothing.

    Raises:
        KafkaForbidden: the user may not ask for ACLs.
        KafkaError: this Kafka has no authorizer, or said no for another reason.
        KafkaUnavailable: nobody answers at `bootstrap`.

    """
    async with administration(bootstrap) as admin:
        return _compared(await _all(admin, bootstrap), wanted, created=())


async def create_acls(bootstrap: str, wanted: Sequence[Acl]) -> AclsReport:
    """Make the ACLs that are missing. Takes none away.

    Raises:
        KafkaForbidden: the user may not alter the cluster.
        KafkaError: this Kafka has no authorizer, or said no for another reason.
        KafkaUnavailable: nobody answers at `bootstrap`.

    """
    async with administration(bootstrap) as admin:
        missing = _compared(await _all(admin, bootstrap), wanted, created=()).missing
        for first in range(0, len(missing), _AT_ONCE):
            # Any broker forwards it to the controller.
            response = await admin._send_request(_CreateAcls(missing[first : first + _AT_ONCE]))  # noqa: SLF001 (see above)
            for code, message in response.creation_responses:
                _require(code, message, bootstrap, "make ACLs", "ALTER")
        await _settled(admin, bootstrap, missing)
        return _compared(await _all(admin, bootstrap), wanted, created=missing)


async def _settled(admin: Any, bootstrap: str, made: Collection[Acl]) -> None:
    """Wait until every broker goes by what was made: the controller knows it first."""
    waiting = {broker.nodeId for broker in admin._client.cluster.brokers()} if made else set()  # noqa: SLF001 (as in create_acls)
    try:
        async with asyncio.timeout(_SETTLE_S):
            while waiting:
                for node in sorted(waiting):
                    if set(made) <= set(await _all(admin, bootstrap, node)):
                        waiting.discard(node)
                await asyncio.sleep(0.05 if waiting else 0)
    except TimeoutError:
        raise KafkaUnavailable(f"Kafka at {bootstrap} does not go by new ACLs after {_SETTLE_S:g} s") from None


async def _all(admin: Any, bootstrap: str, node: int | None = None) -> list[Acl]:
    """Every ACL, of a kind that concerns us, that a broker goes by; any broker by default."""
    asked = DescribeAclsRequest(_ANY, None, _ANY, None, None, _ANY, _ANY)
    response = await admin._send_request(asked, node)  # noqa: SLF001 (as in create_acls)
    _require(response.error_code, response.error_message, bootstrap, "read ACLs", "DESCRIBE")
    known, operations = set(map(int, Resource)), set(map(int, Operation))
    return [
        Acl(principal, Resource(kind), name, Operation(operation), Pattern(pattern), Permission(permission), host)
        for kind, name, pattern, acls in response.resources
        if kind in known
        for principal, host, operation, permission in acls
        if operation in operations
    ]


def _require(code: int, message: str | None, bootstrap: str, doing: str, operation: str) -> None:
    if code == _NO_AUTHORIZER:
        raise KafkaError(
            f"Kafka at {bootstrap} has no authorizer, so that everybody may do everything: set authorizer.class.name "
            "to org.apache.kafka.metadata.authorizer.StandardAuthorizer on every broker and controller"
        )
    if code == aiokafka_errors.ClusterAuthorizationFailedError.errno:
        user = security_of(bootstrap).username or "that we are there"
        raise KafkaForbidden(
            f"Kafka at {bootstrap} does not allow user {user} to {doing}: do it as one of its super.users, or "
            f"as a user with {operation} on the cluster"
        )
    if code:
        raise KafkaError(f"Kafka at {bootstrap} did not {doing}: {message or aiokafka_errors.for_code(code).__name__}")


def _compared(found: Iterable[Acl], wanted: Sequence[Acl], *, created: Iterable[Acl]) -> AclsReport:
    there, ought = set(found), set(wanted)
    return AclsReport(
        created=tuple(created),
        present=tuple(sorted(there & ought)),
        missing=tuple(sorted(ought - there)),
        excess=tuple(sorted(acl for acl in there - ought if _concerns(acl, wanted))),
    )


def _concerns(acl: Acl, wanted: Collection[Acl]) -> bool:
    """Whether an ACL is about one of our users, or about a resource of ours."""
    return any(
        acl.principal == ours.principal
        or (acl.resource is ours.resource and acl.resource is not Resource.CLUSTER and _meets(acl, ours))
        for ours in wanted
    )


def _meets(acl: Acl, ours: Acl) -> bool:
    """Whether there can be a resource that both are about."""
    if acl.name == "*" and acl.pattern is Pattern.LITERAL:
        return True
    one, other = acl.pattern is Pattern.PREFIXED, ours.pattern is Pattern.PREFIXED
    if one and other:
        return acl.name.startswith(ours.name) or ours.name.startswith(acl.name)
    if one:
        return ours.name.startswith(acl.name)
    return acl.name.startswith(ours.name) if other else acl.name == ours.name
