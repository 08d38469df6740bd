"""Kafka's edge: the one publisher and the one reader of contract records, and what Kafka knows of topics.

Everything outside the workers' transactions goes through here, so that acknowledgement, partitioning, headers and
isolation are the same everywhere.
"""

from failover_orch.wire.clients import start_client, stop_consumer, stop_producer
from failover_orch.wire.clock import now_ms
from failover_orch.wire.ends import Ends, watching_ends
from failover_orch.wire.failures import explained, unavailable
from failover_orch.wire.metadata import cluster_id, partition_counts, require_topics
from failover_orch.wire.publisher import Publisher
from failover_orch.wire.reader import Positions, Progress, Received, follow, positions_now, read_to_end

__all__ = [
    "Ends",
    "Positions",
    "Progress",
    "Publisher",
    "Received",
    "cluster_id",
    "explained",
    "follow",
    "now_ms",
    "partition_counts",
    "positions_now",
    "read_to_end",
    "require_topics",
    "start_client",
    "stop_consumer",
    "stop_producer",
    "unavailable",
    "watching_ends",
]
