"""The demo: the broker's whole job on a local Apache Kafka, with simulated hypervisors, told as it happens."""

from failover_orch.demo.story import play

__all__ = ["play"]
