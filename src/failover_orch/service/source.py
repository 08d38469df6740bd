"""Where the service's answers come from."""

from __future__ import annotations

from typing import Protocol

from failover_orch.service.changes import Changes
from failover_orch.service.knowledge import Knowledge
from failover_orch.service.read_model import ReadModel

__all__ = ["Commands", "Source"]


class Source(Protocol):
    """What is known, how fresh it is, and word of its changes: a `Feed`, or made by hand."""

    @property
    def model(self) -> ReadModel:
        """The latest one: another may take its place at any time, so do not keep it."""
        ...

    @property
    def knowledge(self) -> Knowledge: ...

    @property
    def changes(self) -> Changes: ...

    async def reachable(self) -> bool:
        """Whether Kafka still answers, so that the model can be trusted to be up to date."""
        ...


class Commands(Protocol):
    """Where the service's commands go: a `wire.Publisher`."""

    async def publish(self, *values: object, traceparent: str = "") -> None:
        """Publish records of the contract; returns once Kafka has acknowledged every one.

        Raises:
            UnencodableRecord: a value does not fit its schema, or is too large.
            KafkaError: it was not acknowledged; some may have been written.

        """
        ...
