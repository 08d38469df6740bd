"""The events as Python values and their Avro form.

Topics and keys, schemas and their evolution, the two framings, the headers, and the partition of a key. Needs no Kafka;
reads `schemas/`, and a schema registry where one is configured.
"""

from failover_orch.contract.addressing import everywhere, key_of, records_on, speaks_for, topic_of
from failover_orch.contract.codec import Codec
from failover_orch.contract.compatibility import incompatibilities
from failover_orch.contract.headers import event_headers, traceparent_of
from failover_orch.contract.partitioner import partition_of
from failover_orch.contract.registry import HttpRegistry, Registry
from failover_orch.contract.schemas import NAMESPACE, SchemaVersion, load_schemas, schemas_directory
from failover_orch.contract.topics import (
    PER_SITE,
    SOURCES,
    STEP_COMMANDS,
    TOPICS,
    Kept,
    Names,
    Topic,
    User,
    base_topic,
    site_of_topic,
    site_topic,
    sites_among,
    sources_of,
    state_topic,
    step_commands_topic,
    with_sites,
)

__all__ = [
    "NAMESPACE",
    "PER_SITE",
    "SOURCES",
    "STEP_COMMANDS",
    "TOPICS",
    "Codec",
    "HttpRegistry",
    "Kept",
    "Names",
    "Registry",
    "SchemaVersion",
    "Topic",
    "User",
    "base_topic",
    "event_headers",
    "everywhere",
    "incompatibilities",
    "key_of",
    "load_schemas",
    "partition_of",
    "records_on",
    "schemas_directory",
    "site_of_topic",
    "site_topic",
    "sites_among",
    "sources_of",
    "speaks_for",
    "state_topic",
    "step_commands_topic",
    "topic_of",
    "traceparent_of",
    "with_sites",
]
