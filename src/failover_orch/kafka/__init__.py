"""Kafka itself: an Apache Kafka on this machine for trials, demos and tests, and the topics on any Kafka."""

from failover_orch.kafka.acl_requests import AclsReport, check_acls, create_acls
from failover_orch.kafka.acls import Acl, Operation, Pattern, Permission, Resource, UserNames, wanted_acls
from failover_orch.kafka.local import BrokerStatus, LocalKafka, LocalStatus
from failover_orch.kafka.local_security import SUPER_USER
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
    "SUPER_USER",
    "Acl",
    "AclsReport",
    "BrokerStatus",
    "DesiredTopic",
    "Difference",
    "LocalKafka",
    "LocalStatus",
    "Operation",
    "Pattern",
    "Permission",
    "Resource",
    "TopicsReport",
    "UserNames",
    "check_acls",
    "check_topics",
    "create_acls",
    "create_topics",
    "default_replication",
    "desired_topics",
    "wanted_acls",
]
