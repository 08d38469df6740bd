"""Kafka itself: an Apache Kafka on this machine for trials, demos and tests, and the topics on any Kafka."""

from failover_orch.kafka.local import BrokerStatus, LocalKafka, LocalStatus
from failover_orch.kafka.topics import (
    DesiredTopic,
    Difference,
    TopicsReport,
    check_topics,
    create_topics,
    default_replication,
    desired_topics,
)

__all__ = [
    "BrokerStatus",
    "DesiredTopic",
    "Difference",
    "LocalKafka",
    "LocalStatus",
    "TopicsReport",
    "check_topics",
    "create_topics",
    "default_replication",
    "desired_topics",
]
