"""aiokafka's errors, said in sentences of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as aiokafka_errors

from failover_orch.errors import KafkaError, KafkaForbidden, KafkaUnavailable, UnencodableRecord
from failover_orch.kafka_address import security_of

__all__ = ["explained", "unavailable"]

AWAY: tuple[type[Exception], ...] = (
    aiokafka_errors.KafkaConnectionError,
    aiokafka_errors.KafkaTimeoutError,
    aiokafka_errors.NodeNotReadyError,
    aiokafka_errors.NoBrokersAvailable,
    aiokafka_errors.RequestTimedOutError,
    TimeoutError,
    OSError,
)
"""What aiokafka raises where a broker does not answer, or stopped answering."""

TOO_FEW_REPLICAS: tuple[type[Exception], ...] = (
    aiokafka_errors.NotEnoughReplicasError,
    aiokafka_errors.NotEnoughReplicasAfterAppendError,
)

FORBIDDEN: dict[type[Exception], str] = {
    aiokafka_errors.TopicAuthorizationFailedError: "topic",
    aiokafka_errors.GroupAuthorizationFailedError: "group",
    aiokafka_errors.TransactionalIdAuthorizationFailed: "transactional id",
    # Asked for a producer's number: whoever may write to some topic is given one.
    aiokafka_errors.ClusterAuthorizationFailedError: "writing to any topic",
}
"""What aiokafka raises where an ACL is missing, and what it is missing for."""


def unavailable(bootstrap: str, detail: str = "") -> KafkaUnavailable:
    """The error for a Kafka that does not answer."""
    return KafkaUnavailable(
        f"no Kafka answers at {bootstrap or 'an empty address'}{f' ({detail})' if detail else ''}: start the local one "
        "with `failover-orch kafka start`, or give another's address in --bootstrap or FAILOVER_ORCH_BOOTSTRAP"
    )


@contextmanager
def explained(bootstrap: str, doing: str) -> Iterator[None]:
    """Turn what aiokafka raises within into our errors. `doing` completes "Kafka refused ...".

    Raises:
        KafkaForbidden: no ACL allows it.
        KafkaUnavailable: no broker answers, or too few replicas are in sync to take a record.
        UnencodableRecord: a record is larger than its topic, or the client, allows.
        KafkaError: Kafka answered, and said no.

    """
    try:
        yield
    except AWAY as error:
        raise unavailable(bootstrap, type(error).__name__) from error
    except TOO_FEW_REPLICAS as error:
        raise KafkaUnavailable(
            f"Kafka at {bootstrap} has too few replicas in sync for {doing}: bring missing brokers back and try again"
        ) from error
    except aiokafka_errors.MessageSizeTooLargeError as error:
        raise UnencodableRecord(f"Kafka at {bootstrap} takes no record as large as {doing}: {error}") from error
    except tuple(FORBIDDEN) as error:
        raise _forbidden(bootstrap, doing, error) from error
    except aiokafka_errors.KafkaError as error:
        raise KafkaError(f"Kafka at {bootstrap} refused {doing}: {error}") from error


def _forbidden(bootstrap: str, doing: str, error: Exception) -> KafkaForbidden:
    """The sentence for a missing ACL. What aiokafka names is a name or a set of names, or nothing."""
    user = security_of(bootstrap).username or "that we are there"
    named = error.args[0] if error.args else ""
    names = ", ".join(sorted(map(str, named))) if isinstance(named, set | frozenset) else str(named)
    return KafkaForbidden(
        f"Kafka at {bootstrap} does not allow user {user} {doing}: no ACL of theirs is for "
        f"{FORBIDDEN[type(error)]} {names}".rstrip()
        + "; use a user who may, or have a super user of Kafka run `failover-orch topics create --acls`"
    )
