"""Where a record belongs: its topic, its key, and what a topic carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from failover_orch.contract.topics import PER_SITE, STEP_COMMANDS, TOPICS, base_topic, site_topic, step_commands_topic
from failover_orch.domain.access import AccessRefused, AccessToken
from failover_orch.domain.facts import FailoverRequested, ReplicationReport, StepResult, VmMoved
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.policies import AutomaticRun, Brake, Evidence, Policy, PolicyScope
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
    SettingsScope,
    SettingsStanding,
)
from failover_orch.domain.settings import RecoveryPlan, VmReplicationSettings
from failover_orch.errors import UnencodableRecord

__all__ = ["everywhere", "key_of", "records_on", "speaks_for", "topic_of"]

_TOPIC: dict[type, str] = {record: topic.name for topic in TOPICS for record in topic.records}
_RECORDS: dict[str, tuple[type, ...]] = {topic.name: topic.records for topic in TOPICS}
_EVERYWHERE = frozenset({ClusterInventory, Brake, Evidence, AutomaticRun})


def _policy_key(policy: Policy) -> str:
    return policy.target if policy.scope is PolicyScope.VM else f"({policy.key})"


def _evidence_key(evidence: Evidence) -> str:
    parts = (evidence.site, evidence.node, evidence.observer)
    return f"({'|'.join(part.replace('%', '%25').replace('|', '%7C') for part in parts)})"


_KEY: dict[type, Callable[[Any], str]] = {
    VmMoved: lambda value: value.vm_id,
    ReplicationReport: lambda value: value.vm_id,
    FailoverRequested: lambda value: value.vm_id or value.plan_id or value.run_id,
    VmInventory: lambda value: value.vm_id,
    ClusterInventory: lambda value: value.cluster,
    VmReplicationSettings: lambda value: value.vm_id,
    SettingsChange: lambda value: value.target,
    SettingsObserved: lambda value: value.vm_id or value.cluster,
    SettingsRevision: lambda value: value.target,
    SettingsStanding: lambda value: (
        value.target if value.scope is SettingsScope.VM else f"({value.target}/{value.node})"
    ),
    AccessToken: lambda value: value.token_id,
    AccessRefused: lambda value: value.who or value.address,
    RecoveryPlan: lambda value: value.plan_id,
    Policy: _policy_key,
    Brake: lambda _: "(brake)",
    Evidence: _evidence_key,
    PlanMembership: lambda value: value.vm_id,
    MemberReadiness: lambda value: value.plan_id,
    AutomaticRun: lambda value: value.run_id,
    StepResult: lambda value: value.key or value.vm_id,
    RoutingUpdate: lambda value: value.vm_id,
    RunSnapshot: lambda value: value.run_id or value.vm_id,
    JournalEntry: lambda value: value.run_id or value.vm_id,
    AuditEntry: lambda value: value.subject,
    HealthChange: lambda value: value.vm_id or f"(plan/{value.plan_id})",
    Alert: lambda value: value.subject,
    StepCommand: lambda value: value.key or value.vm_id,
}

_SPEAKS_FOR: dict[type, Callable[[Any], str]] = {
    VmMoved: lambda value: value.site,
    ReplicationReport: lambda value: value.site,
    # Reported by the site where the VM is active, which is then its primary.
    VmInventory: lambda value: value.replication.primary_site,
    ClusterInventory: lambda value: value.site,
    SettingsObserved: lambda value: value.site,
    Evidence: lambda value: value.place,
    StepResult: lambda value: value.site,
}


def speaks_for(value: object) -> str:
    """The site that a record on a topic of the sites says to come from; empty for all other records."""
    site = _SPEAKS_FOR.get(type(value))
    return site(value) if site is not None else ""


def topic_of(value: object, site: str = "") -> str:
    """The topic, by its name in the contract, that a record goes to; where `site` writes it, the site's own.

    Raises:
        UnencodableRecord: the value is not a record of the contract.

    """
    if isinstance(value, StepCommand):
        return step_commands_topic(value.site)
    try:
        topic = _TOPIC[type(value)]
    except KeyError:
        raise _not_a_record(value) from None
    return site_topic(topic, site) if site and topic in PER_SITE else topic


def key_of(value: object) -> bytes:
    """The key of a record: raw UTF-8, or a dead letter's own bytes.

    Raises:
        UnencodableRecord: the value is not a record of the contract, or its key is not valid Unicode.

    """
    if isinstance(value, DeadLetter):
        return value.key
    try:
        return _KEY[type(value)](value).encode()
    except KeyError:
        raise _not_a_record(value) from None
    except UnicodeEncodeError as error:
        raise UnencodableRecord(f"{type(value).__name__}: its key {error.object!r} is not valid Unicode") from None


def everywhere(value: object) -> bool:
    """Whether a record goes to every partition of its topic: what is said of a cluster concerns all of its VMs.

    So do the brake, the evidence, the automatic runs that the brake counts, and each policy but that of a single VM.
    """
    if isinstance(value, Policy):
        return value.scope is not PolicyScope.VM
    return type(value) in _EVERYWHERE


def records_on(topic: str) -> tuple[type, ...]:
    """The records that a topic carries, by its name in the contract; none where the contract has no such topic."""
    if topic.startswith(f"{STEP_COMMANDS.name}."):
        return STEP_COMMANDS.records
    return _RECORDS.get(base_topic(topic), ())


def _not_a_record(value: object) -> UnencodableRecord:
    return UnencodableRecord(f"{type(value).__name__} is not a record of the contract; `schemas/` lists those that are")
