"""Every topic, in one table: what it is keyed by, how it is kept, what its records are and who writes them.

Topics that concern a VM have the same number of partitions, so that all that concerns a VM is in the hands of one
partition task. Keys are raw UTF-8, hashed with murmur2 as the Java client does (librdkafka: set
`partitioner=murmur2_random`).

What site agents write has a topic for each site beside the common one: `inventory.dr`, which the agents of `dr` alone
may write to. Kafka can tell topics apart and not records, so that is how it keeps one site's agents from speaking for
another site; that a record speaks for the site whose topic it is on, readers see to (`speaks_for`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
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

__all__ = [
    "PER_SITE",
    "SOURCES",
    "STEP_COMMANDS",
    "TOPICS",
    "Kept",
    "Names",
    "Topic",
    "User",
    "base_topic",
    "site_of_topic",
    "site_topic",
    "sites_among",
    "sources_of",
    "state_topic",
    "step_commands_topic",
    "with_sites",
]


class Kept(StrEnum):
    """How long Kafka keeps a topic's records."""

    BY_TIME = "by time"
    COMPACTED = "compacted"
    FOREVER = "forever"


class User(StrEnum):
    """Who has business with Kafka: each kind of process, and each kind of person at the command line.

    Where Kafka asks who they are, each has a user of its own, and each site's agents have one: see
    `docs/kafka-security.md`.
    """

    WORKER = "worker"
    SERVICE = "service"
    SITE_AGENT = "site-agent"
    WITNESS = "witness"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the contract. `records` are the values it carries; `source` marks what the worker consumes.

    `writers` alone may write to it. With `per_site` there is a topic of its kind for each site, which that site's
    agents alone may write to.
    """

    name: str
    key: str
    kept: Kept
    records: tuple[type, ...]
    writers: tuple[User, ...]
    source: bool = False
    per_site: bool = False


TOPICS: tuple[Topic, ...] = (
    Topic("vm-moved", "vm", Kept.BY_TIME, (VmMoved,), (User.OPERATOR, User.ADMINISTRATOR), source=True, per_site=True),
    Topic(
        "replication-health",
        "vm",
        Kept.BY_TIME,
        (ReplicationReport,),
        (User.ADMINISTRATOR,),
        source=True,
        per_site=True,
    ),
    Topic(
        "failover-requested",
        "vm, plan or run",
        Kept.BY_TIME,
        (FailoverRequested,),
        (User.SERVICE, User.OPERATOR, User.ADMINISTRATOR, User.WORKER),
        source=True,
    ),
    Topic(
        "inventory",
        "vm or cluster",
        Kept.COMPACTED,
        (VmInventory, ClusterInventory),
        (User.ADMINISTRATOR,),
        source=True,
        per_site=True,
    ),
    Topic(
        "replication-settings",
        "vm",
        Kept.COMPACTED,
        (VmReplicationSettings,),
        (User.SERVICE, User.OPERATOR, User.ADMINISTRATOR),
        source=True,
    ),
    Topic(
        "settings-changes",
        "vm or cluster",
        Kept.BY_TIME,
        (SettingsChange,),
        (User.SERVICE, User.ADMINISTRATOR),
        source=True,
    ),
    Topic(
        "settings-observed",
        "vm or cluster",
        Kept.BY_TIME,
        (SettingsObserved,),
        (User.ADMINISTRATOR,),
        source=True,
        per_site=True,
    ),
    Topic("access-tokens", "token", Kept.COMPACTED, (AccessToken,), (User.SERVICE, User.ADMINISTRATOR), source=True),
    Topic("access-refusals", "who", Kept.BY_TIME, (AccessRefused,), (User.SERVICE,), source=True),
    Topic("recovery-plans", "plan", Kept.COMPACTED, (RecoveryPlan,), (User.SERVICE, User.ADMINISTRATOR), source=True),
    Topic(
        "policies",
        "vm, or what they are for",
        Kept.COMPACTED,
        (Policy, Brake),
        (User.SERVICE, User.ADMINISTRATOR, User.WORKER),
        source=True,
    ),
    Topic(
        "evidence",
        "site, node and observer",
        Kept.COMPACTED,
        (Evidence,),
        (User.WITNESS, User.OPERATOR, User.ADMINISTRATOR),
        source=True,
        per_site=True,
    ),
    Topic("step-results", "vm, plan or run", Kept.BY_TIME, (StepResult,), (User.WORKER,), source=True, per_site=True),
    Topic(
        "coordination",
        "vm, plan or run",
        Kept.BY_TIME,
        (PlanMembership, MemberReadiness, AutomaticRun),
        (User.WORKER,),
        source=True,
    ),
    Topic("routing-updates", "vm", Kept.COMPACTED, (RoutingUpdate,), (User.WORKER,)),
    Topic("failover-runs", "run", Kept.COMPACTED, (RunSnapshot,), (User.WORKER,)),
    Topic("failover-journal", "run or vm", Kept.FOREVER, (JournalEntry,), (User.WORKER,)),
    Topic("audit-trail", "subject", Kept.FOREVER, (AuditEntry,), (User.WORKER,)),
    Topic("settings-revisions", "vm or cluster", Kept.FOREVER, (SettingsRevision,), (User.WORKER,)),
    Topic("settings-standing", "vm, or cluster and node", Kept.COMPACTED, (SettingsStanding,), (User.WORKER,)),
    Topic("health-changes", "vm or plan", Kept.COMPACTED, (HealthChange,), (User.WORKER,)),
    Topic("alerts", "subject", Kept.BY_TIME, (Alert,), (User.WORKER,)),
    Topic("dead-letters", "as the record's", Kept.BY_TIME, (DeadLetter,), (User.WORKER, User.SITE_AGENT)),
)
"""Every topic with a fixed name. Records that do not concern one VM or plan go to every partition: see `everywhere`."""

STEP_COMMANDS = Topic("step-commands", "vm, plan or run", Kept.BY_TIME, (StepCommand,), (User.WORKER,))
"""Pattern of the topics `step-commands.<site>`, one a site."""

PER_SITE: tuple[str, ...] = tuple(topic.name for topic in TOPICS if topic.per_site)
"""The topics of which there is one for each site, beside the common one."""

_KNOWLEDGE = tuple(topic.name for topic in TOPICS if topic.source and FailoverRequested not in topic.records)
SOURCES: tuple[str, ...] = (*_KNOWLEDGE, "failover-requested")
"""What a worker consumes, in the order in which one batch is folded: knowledge before intent. Sites' own come along."""


def step_commands_topic(site: str) -> str:
    """The topic that carries a site's step commands."""
    return site_topic(STEP_COMMANDS.name, site)


def site_topic(topic: str, site: str) -> str:
    """A site's own topic of a kind."""
    return f"{topic}.{site}"


def base_topic(topic: str) -> str:
    """The common topic of which this is a site's own; else the topic itself."""
    base, _, site = topic.partition(".")
    return base if site and base in PER_SITE else topic


def site_of_topic(topic: str) -> str:
    """The site whose own topic this is; empty for the common ones."""
    base, _, site = topic.partition(".")
    return site if base in PER_SITE else ""


def sites_among(topics: Collection[str]) -> tuple[str, ...]:
    """The sites that have all their own topics among these: one whose topics are only being made does not count."""
    sites = sorted({site for topic in topics if (site := site_of_topic(topic))})
    return tuple(site for site in sites if all(site_topic(topic, site) in topics for topic in PER_SITE))


def with_sites(topic: str, topics: Iterable[str]) -> list[str]:
    """A topic, and every site's own of its kind among these."""
    return [topic, *sorted(other for other in topics if other != topic and base_topic(other) == topic)]


def sources_of(sites: Iterable[str]) -> tuple[str, ...]:
    """What a worker consumes where there are these sites, in the order of `SOURCES`."""
    sites = sorted(sites)
    return tuple(
        name for topic in SOURCES for name in (topic, *(site_topic(topic, site) for site in sites if topic in PER_SITE))
    )


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
