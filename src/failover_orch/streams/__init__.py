"""The stream runtime: a Faust app whose partition tasks fold events into state, one transaction a batch."""

from failover_orch.streams.app import EXIT_FAULT, create_app, end_process
from failover_orch.streams.store import Store

__all__ = ["EXIT_FAULT", "Store", "create_app", "end_process"]
