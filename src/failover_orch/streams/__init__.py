"""The stream runtime: a Faust app whose partition tasks fold events into state, one transaction a batch."""

from failover_orch.streams.app import EXIT_FAULT, create_app, end_process
from failover_orch.streams.store import APPLIED, KAFKA_HEADER, Store, dump

__all__ = ["APPLIED", "EXIT_FAULT", "KAFKA_HEADER", "Store", "create_app", "dump", "end_process"]
