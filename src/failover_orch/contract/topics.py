"""Every topic, in one table: what it is keyed by, how it is kept, what its records are and who writes them.

Topics that concern a VM have the same number of partitions, so that all that concerns a VM is in the hands of one
partition task. Keys are raw UTF-8, hashed with murmur2 as the Java client does (librdkafka: set
`partitioner=murmur2_random`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from failover_orch.domain.access import AccessRefused, AccessToken
from failover_orch.domain.facts import FailoverRequested, ReplicationReport, StepResult, VmMoved
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.policies import AutomaticRun, Brake, Evidence, Policy
from failover_orch.domain.records import (
    Alert,
    AuditEntry,
    DeadLetter,
    HealthChange,
    JournalEntry,
    MemberReadiness,
    PlanMembership,
    RoutingUpdate,
    RunSnapshot,
    StepCommand,
)
from failover_orch.domain.replication_settings import (
    SettingsChange,
    SettingsObserved,
    SettingsRevision,
    SettingsStanding,
)
from failover_orch.domain.settings import RecoveryPlan, VmReplicationSettings

__all__ = ["SOURCES", "STEP_COMMANDS", "TOPICS", "Kept", "Names", "Topic", "state_topic", "step_commands_topic"]


class Kept(StrEnum):
    """How long Kafka keeps a topic's records."""

    BY_TIME = "by time"
    COMPACTED = "compacted"
    FOREVER = "forever"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the contract. `records` are the values it carries; `source` marks what the worker consumes."""

    name: str
    key: str
    kept: Kept
    records: tuple[type, ...]
    writers: str
    source: bool = False


TOPICS: tuple[Topic, ...] = (
    Topic("vm-moved", "vm", Kept.BY_TIME, (VmMoved,), "site agents, any producer", source=True),
    Topic("replication-health", "vm", Kept.BY_TIME, (ReplicationReport,), "site agents, any producer", source=True),
    Topic(
        "failover-requested",
        "vm, plan or run",
        Kept.BY_TIME,
        (FailoverRequested,),
        "API, CLI, any producer, workers",
        source=True,
    ),
    Topic(
        "inventory",
        "vm or cluster",
        Kept.COMPACTED,
        (VmInventory, ClusterInventory),
        "site agents, topology files",
        source=True,
    ),
    Topic(
        "replication-settings",
        "vm",
        Kept.COMPACTED,
        (VmReplicationSettings,),
        "API, CLI, topology files",
        source=True,
    ),
    Topic(
        "settings-changes",
        "vm or cluster",
        Kept.BY_TIME,
        (SettingsChange,),
        "API, CLI, topology files",
        source=True,
    ),
    Topic("settings-observed", "vm or cluster", Kept.BY_TIME, (SettingsObserved,), "site agents", source=True),
    Topic("access-tokens", "token", Kept.COMPACTED, (AccessToken,), "API, CLI", source=True),
    Topic("access-refusals", "who", Kept.BY_TIME, (AccessRefused,), "API", source=True),
    Topic("recovery-plans", "plan", Kept.COMPACTED, (RecoveryPlan,), "API, CLI, topology files", source=True),
    Topic(
        "policies",
        "vm, or what they are for",
        Kept.COMPACTED,
        (Policy, Brake),
        "API, CLI, topology files, workers",
        source=True,
    ),
    Topic(
        "evidence",
        "site, node and observer",
        Kept.COMPACTED,
        (Evidence,),
        "site agents, witnesses, any producer",
        source=True,
    ),
    Topic("step-results", "vm, plan or run", Kept.BY_TIME, (StepResult,), "site agents, workers", source=True),
    Topic(
        "coordination",
        "vm, plan or run",
        Kept.BY_TIME,
        (PlanMembership, MemberReadiness, AutomaticRun),
        "workers",
        source=True,
    ),
    Topic("routing-updates", "vm", Kept.COMPACTED, (RoutingUpdate,), "workers"),
    Topic("failover-runs", "run", Kept.COMPACTED, (RunSnapshot,), "workers"),
    Topic("failover-journal", "run or vm", Kept.FOREVER, (JournalEntry,), "workers"),
    Topic("audit-trail", "subject", Kept.FOREVER, (AuditEntry,), "workers"),
    Topic("settings-revisions", "vm or cluster", Kept.FOREVER, (SettingsRevision,), "workers"),
    Topic("settings-standing", "vm, or cluster and node", Kept.COMPACTED, (SettingsStanding,), "workers"),
    Topic("health-changes", "vm or plan", Kept.COMPACTED, (HealthChange,), "workers"),
    Topic("alerts", "subject", Kept.BY_TIME, (Alert,), "workers"),
    Topic("dead-letters", "as the record's", Kept.BY_TIME, (DeadLetter,), "workers"),
)
"""Every topic with a fixed name. Records that do not concern one VM or plan go to every partition: see `everywhere`."""

STEP_COMMANDS = Topic("step-commands", "vm, plan or run", Kept.BY_TIME, (StepCommand,), "workers")
"""Pattern of the topics `step-commands.<site>`, one a site."""

_KNOWLEDGE = tuple(topic.name for topic in TOPICS if topic.source and FailoverRequested not in topic.records)
SOURCES: tuple[str, ...] = (*_KNOWLEDGE, "failover-requested")
"""What a worker consumes, in the order in which one batch is folded: knowledge before intent."""


def step_commands_topic(site: str) -> str:
    """The topic that carries a site's step commands."""
    return f"{STEP_COMMANDS.name}.{site}"


def state_topic(app_id: str) -> str:
    """The compacted changelog that holds the partition tasks' state. Internal: not part of the contract."""
    return f"{app_id}-state"


@dataclass(frozen=True, slots=True)
class Names:
    """What the topics are called on one Kafka: a prefix keeps several installations on one cluster apart."""

    prefix: str = ""

    def of(self, topic: str) -> str:
        """The name on Kafka of a topic of the contract."""
        return self.prefix + topic

    def plain(self, name: str) -> str:
        """The contract's name of a topic on Kafka."""
        return name.removeprefix(self.prefix)
