"""The gate of a service that follows Kafka, put together from its service file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from failover_orch.contract import Codec, Names
from failover_orch.domain import Principal
from failover_orch.service.access.attempts import Attempts
from failover_orch.service.access.certificates import Certificates
from failover_orch.service.access.gate import Gate
from failover_orch.service.access.oidc import Oidc
from failover_orch.service.access.protocol import Credentials
from failover_orch.service.access.refusals import Refusals
from failover_orch.service.access.service_file import ServiceFile
from failover_orch.service.access.tokens import TokenFeed

__all__ = ["KafkaGate"]


class KafkaGate:
    """A gate whose API tokens are those of topic `access-tokens`, for as long as `run` does."""

    def __init__(
        self,
        file: ServiceFile,
        bootstrap: str,
        *,
        names: Names,
        codec: Codec,
        publish: Callable[..., Awaitable[None]],
    ) -> None:
        """`publish`: as `wire.Publisher.publish`; refusals are told by it."""
        self._tokens = TokenFeed(bootstrap, names=names, codec=codec)
        self._gate = Gate(
            self._tokens,
            Refusals(publish),
            Attempts(file.attempts),
            certificates=Certificates(file.certificates) if file.certificates else None,
            oidc=Oidc(file.oidc) if file.oidc is not None else None,
            open_reading=file.open_reading,
        )

    async def caller(self, credentials: Credentials) -> Principal:
        """Who is calling: see `Access.caller`."""
        return await self._gate.caller(credentials)

    def refused(self, who: str, address: str, what: str, why: str) -> None:
        """A call of a known caller was refused: see `Access.refused`."""
        self._gate.refused(who, address, what, why)

    async def run(self) -> None:
        """Follow the tokens and tell of refusals until cancelled; what is left to tell then is told before this ends.

        The publisher has to be there until then.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tokens.run())
            tasks.create_task(self._gate.run())
