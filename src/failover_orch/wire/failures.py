"""aiokafka's errors, said in sentences of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as aiokafka_errors

from failover_orch.errors import KafkaError, KafkaUnavailable, UnencodableRecord

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
    except aiokafka_errors.KafkaError as error:
        raise KafkaError(f"Kafka at {bootstrap} refused {doing}: {error}") from error
