"""Topics, keys and partitions of records."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from aiokafka.partitioner import DefaultPartitioner
from contract_values import MOVED, RECORDS, values
from hypothesis import given, settings
from hypothesis import strategies as st

from failover_orch.contract import SOURCES, TOPICS, everywhere, key_of, partition_of, records_on, topic_of
from failover_orch.contract.partitioner import _murmur2
from failover_orch.domain.access import AccessRefused
from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction, StepOutcome, StepResult
from failover_orch.domain.inventory import ClusterInventory
from failover_orch.domain.policies import AutomaticRun, Brake, Evidence, Policy, PolicyScope, Verdict
from failover_orch.domain.records import (
    Action,
    Alert,
    AuditEntry,
    DeadLetter,
    HealthChange,
    JournalEntry,
    MemberReadiness,
    PlanMembership,
    Readiness,
    Severity,
    StepCommand,
)
from failover_orch.domain.replication import ReplicationHealth
from failover_orch.domain.replication_settings import (
    SettingsChange,
    SettingsObserved,
    SettingsScope,
    SettingsStanding,
    Standing,
)
from failover_orch.domain.settings import RecoveryPlan
from failover_orch.errors import UnencodableRecord


def request(vm_id: str = "", plan_id: str = "") -> FailoverRequested:
    return FailoverRequested("run", RequestAction.REQUEST, FailoverKind.PLANNED, "a", "b", 1, vm_id, plan_id)


def result(key: str = "") -> StepResult:
    return StepResult("run", "P1", 1, "vm", "s", "n", 1, StepOutcome.DONE, "", 1, key=key)


def command(vm_id: str, key: str = "") -> StepCommand:
    return StepCommand("run", "P1", 1, vm_id, "dr", "d1", 1, Action.START, 1, 2, key=key)


def change(vm_id: str = "", plan_id: str = "") -> HealthChange:
    return HealthChange(vm_id, ReplicationHealth.NORMAL, ReplicationHealth.NORMAL, (), 1, plan_id=plan_id)


def evidence(site: str = "s", node: str = "", observer: str = "o") -> Evidence:
    return Evidence(observer, "third", site, Verdict.UP, 1, node)


@pytest.mark.parametrize(
    ("value", "topic", "key"),
    [
        (MOVED, "vm-moved", b"vm-1"),
        (request(vm_id="vm"), "failover-requested", b"vm"),
        (request(plan_id="plan"), "failover-requested", b"plan"),
        (request(), "failover-requested", b"run"),
        (result(), "step-results", b"vm"),
        (result(key="plan"), "step-results", b"plan"),
        (ClusterInventory("c", "s", "b", ()), "inventory", b"c"),
        (SettingsChange(SettingsScope.CLUSTER, "c", {}, "a", "r", 1), "settings-changes", b"c"),
        (SettingsObserved("s", "c", "n", 1), "settings-observed", b"c"),
        (SettingsObserved("s", "c", "n", 1, vm_id="vm"), "settings-observed", b"vm"),
        (SettingsStanding(SettingsScope.CLUSTER, "c", "n", Standing.AWAY, 1, 0, 1), "settings-standing", b"(c/n)"),
        (SettingsStanding(SettingsScope.VM, "vm", "n", Standing.AWAY, 1, 0, 1), "settings-standing", b"vm"),
        (AccessRefused("alice", "::1", "LOOK", "X1", 1, 1), "access-refusals", b"alice"),
        (AccessRefused("", "::1", "LOOK", "X1", 1, 1), "access-refusals", b"::1"),
        (RecoveryPlan("plan", "name", ()), "recovery-plans", b"plan"),
        (Policy(PolicyScope.ALL), "policies", b"(all)"),
        (Policy(PolicyScope.SITE, "dr"), "policies", b"(site/dr)"),
        (Policy(PolicyScope.PLAN, "erp"), "policies", b"(plan/erp)"),
        (Policy(PolicyScope.VM, "vm"), "policies", b"vm"),
        (Brake(True, "a", "r", 1), "policies", b"(brake)"),
        (evidence(), "evidence", b"(s||o)"),
        (evidence(node="n"), "evidence", b"(s|n|o)"),
        (PlanMembership("vm", "plan", True, 1), "coordination", b"vm"),
        (MemberReadiness("plan", "vm", Readiness.READY, (), 1), "coordination", b"plan"),
        (AutomaticRun("run", "vm", 1), "coordination", b"run"),
        (change(vm_id="vm"), "health-changes", b"vm"),
        (change(plan_id="plan"), "health-changes", b"(plan/plan)"),
        (command("vm"), "step-commands.dr", b"vm"),
        (command("vm", key="plan"), "step-commands.dr", b"plan"),
        (JournalEntry("run", "vm", 0, "P1", "w", "s", 1), "failover-journal", b"run"),
        (JournalEntry("", "vm", 0, "P1", "w", "s", 1), "failover-journal", b"vm"),
        (AuditEntry("subject", "w", "o", 1), "audit-trail", b"subject"),
        (Alert("subjéct", Severity.INFO, "w", 1), "alerts", "subjéct".encode()),
        (DeadLetter("t", 1, 2, "r", b"\xff", b"", 1), "dead-letters", b"\xff"),
    ],
)
def test_topic_and_key(value: object, topic: str, key: bytes) -> None:
    assert (topic_of(value), key_of(value)) == (topic, key)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
@settings(deadline=None)
@given(data=st.data())
def test_every_record_has_a_topic_that_carries_it_and_a_key(record: type, data: st.DataObject) -> None:
    value = data.draw(values(record))
    assert record in records_on(topic_of(value))
    assert isinstance(key_of(value), bytes)
    assert everywhere(value) == (
        record in (ClusterInventory, Brake, Evidence, AutomaticRun)
        or (isinstance(value, Policy) and value.scope is not PolicyScope.VM)
    )


@settings(deadline=None)
@given(st.tuples(*[st.text("ab|%27C()", max_size=6)] * 3))
def test_evidence_of_one_observer_never_replaces_that_of_another_or_of_another_subject(
    parts: tuple[str, str, str],
) -> None:
    key = key_of(evidence(*parts)).decode()
    assert tuple(unquote(part) for part in key[1:-1].split("|")) == parts


def test_what_is_known_is_folded_before_what_is_asked_for() -> None:
    assert SOURCES[-1] == "failover-requested"
    assert set(SOURCES) == {topic.name for topic in TOPICS if topic.source}


def test_what_is_no_record_has_neither() -> None:
    for function in (topic_of, key_of):
        with pytest.raises(UnencodableRecord, match="str is not a record of the contract"):
            function("text")
    with pytest.raises(UnencodableRecord, match=r"Alert: its key .* is not valid Unicode"):
        key_of(Alert("\ud800", Severity.INFO, "w", 1))


@pytest.mark.parametrize(
    ("key", "number"),
    [
        # From org.apache.kafka.common.utils.UtilsTest.
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_the_java_client(key: bytes, number: int) -> None:
    assert _murmur2(key) == number % 2**32
    assert partition_of(key, 1000) == (number & 0x7FFFFFFF) % 1000


@settings(deadline=None)
@given(st.binary(max_size=40), st.integers(1, 64))
def test_partitions_are_those_of_aiokafka(key: bytes, count: int) -> None:
    partitions = list(range(count))
    assert partition_of(key, count) == DefaultPartitioner()(key, partitions, partitions)
