"""Starting and stopping aiokafka's clients: left alone they wait for one that is away, or leave connections open.

Where Kafka does not let us in, aiokafka logs why and raises that nobody answers: `start_client` asks once more, for
the reason.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from aiokafka import errors as aiokafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaTimeoutError

from failover_orch.errors import KafkaForbidden, KafkaUntrusted
from failover_orch.kafka_address import Protocol, client_options, security_of
from failover_orch.wire.failures import unavailable

__all__ = ["start_client", "stop_consumer", "stop_producer"]

_ASKING_S = 10.0
_NOT_LET_IN = (
    aiokafka_errors.SaslAuthenticationFailed,
    aiokafka_errors.AuthenticationFailedError,
    aiokafka_errors.UnsupportedSaslMechanismError,
    aiokafka_errors.IllegalSaslStateError,
)


async def start_client(client: Any, bootstrap: str) -> None:
    """Start a client of aiokafka's that was made for `bootstrap`; to the end, though the caller be cancelled.

    Cancelled while it connects, aiokafka leaves that connection open, where no later `stop()` finds it.

    Raises:
        KafkaForbidden: Kafka does not know the user, or the password is not theirs.
        KafkaUntrusted: no certificate that we trust says that it is Kafka who answers there.

    """
    starting = asyncio.ensure_future(client.bootstrap() if isinstance(client, AIOKafkaClient) else client.start())
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        if not starting.cancelled():
            starting.exception()
        raise
    except aiokafka_errors.KafkaConnectionError:
        await _require_let_in(bootstrap)
        raise


async def _require_let_in(bootstrap: str) -> None:
    """Knock at each broker, and say why one that is there does not let us in."""
    options = dict(client_options(bootstrap))
    for host, port, _ in collect_hosts(options.pop("bootstrap_servers")):
        try:
            connection = await create_conn(host, port, request_timeout_ms=int(_ASKING_S * 1000), **options)
        except ssl.SSLError as error:
            raise KafkaUntrusted(_untrusted(bootstrap, f"{host}:{port}", error)) from error
        except _NOT_LET_IN as error:
            user, mechanism = security_of(bootstrap).username, security_of(bootstrap).mechanism
            raise KafkaForbidden(
                f"Kafka at {host}:{port} does not let user {user} in by {mechanism}: see that the name is right, the "
                "password is the newest, and Kafka has one for this mechanism"
            ) from error
        except aiokafka_errors.KafkaConnectionError as error:
            if security_of(bootstrap).protocol is Protocol.PLAINTEXT:
                listens = (
                    f"{host}:{port} listens, and ends the connection: where Kafka speaks TLS or asks who one is, set "
                )
                raise unavailable(bootstrap, f"{listens}FAILOVER_ORCH_KAFKA_SECURITY") from error
        except (OSError, TimeoutError, aiokafka_errors.KafkaError):
            continue
        else:
            connection.close()


def _untrusted(bootstrap: str, server: str, error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        ca_file = security_of(bootstrap).ca_file
        return (
            f"the certificate of Kafka at {server} is not to be trusted ({error.verify_message}): name the "
            "certificate of the authority that made it in FAILOVER_ORCH_KAFKA_CA_FILE, which is "
            f"{ca_file or 'not set'}, and use a host name that it was made for"
        )
    return (
        f"Kafka at {server} speaks no TLS with us ({error.reason or error}): see that its listener there is SSL or "
        "SASL_SSL, and whether it asks for a certificate of ours (FAILOVER_ORCH_KAFKA_CERT_FILE)"
    )


async def stop_consumer(consumer: Any) -> None:
    """Stop an aiokafka consumer, also while its broker is away.

    aiokafka cancels the fetch that waits for that broker, and then lets the fetch's CancelledError out of `stop()`, as
    if the caller were cancelled, before it has closed its connections.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([stopping])
    if stopping.cancelled():
        await consumer._client.close()  # noqa: SLF001 (what `stop()` did not get to)
    else:
        stopping.result()


async def stop_producer(producer: Any, patience_s: float) -> None:
    """Stop an aiokafka producer; what it could not deliver within `patience_s` seconds is given up.

    An idempotent or transactional producer never gives a record up by itself, so its `stop()` would wait for as long as
    Kafka is away.
    """
    stopping = asyncio.ensure_future(producer.stop())
    await asyncio.wait([stopping], timeout=patience_s)
    if not stopping.done():
        # `stop()` waits for its sender to deliver, or to end; ended it is, by its own way out.
        producer._sender.sender_task.cancel()  # noqa: SLF001 (aiokafka offers no other)
        await asyncio.wait([stopping])
        _give_up(producer._message_accumulator)  # noqa: SLF001 (as above)
    stopping.result()


def _give_up(accumulator: Any) -> None:
    """Fail what a producer has not delivered, and look at every failure: asyncio logs those that nobody looks at."""
    batches = [batch for queue in accumulator._batches.values() for batch in queue]  # noqa: SLF001 (as in stop_producer)
    batches += accumulator._pending_batches  # noqa: SLF001 (as in stop_producer)
    accumulator.fail_all(KafkaTimeoutError())
    for batch in batches:
        if batch._drain_waiter.done() and not batch._drain_waiter.cancelled():  # noqa: SLF001 (as in stop_producer)
            batch._drain_waiter.exception()  # noqa: SLF001 (as in stop_producer)
