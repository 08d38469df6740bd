"""Replication health: each rule, seen to speak and to stay silent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover_orch.domain.facts import ReplicationReport
from failover_orch.domain.health import REPLICATION_AGE_LIMIT_MS, apply_report, assess
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.state import VmState

NOT_APPLICABLE, NORMAL, WARNING, CRITICAL = ReplicationHealth
State = ReplicationState
NOW = 10 * REPLICATION_AGE_LIMIT_MS
GOOD = ReplicationReport(
    vm_id="vm-1",
    site="primary",
    node="p1",
    mode=ReplicationMode.PRIMARY,
    state=State.REPLICATING,
    health=NORMAL,
    reported_at_ms=NOW,
    last_replication_at_ms=NOW - 1_000,
    cycles=10,
)
REPLICA = replace(GOOD, site="dr", node="d1", mode=ReplicationMode.REPLICA)


@pytest.mark.parametrize(
    ("report", "health", "reasons"),
    [
        (GOOD, NORMAL, ()),
        (replace(GOOD, state=State.PREPARED), NORMAL, ()),
        (replace(GOOD, state=State.DISABLED, health=CRITICAL), NOT_APPLICABLE, ()),
        (replace(GOOD, state=State.ERROR), CRITICAL, ("H1: replication at primary is Error",)),
        (replace(GOOD, state=State.WAITING_FOR_RESYNCHRONIZE), CRITICAL, ("H1",)),
        (replace(GOOD, state=State.RESYNCHRONIZING), CRITICAL, ("H1",)),
        (replace(GOOD, state=State.RESYNCHRONIZE_SUSPENDED), CRITICAL, ("H1",)),
        (replace(REPLICA, state=State.SUSPENDED), CRITICAL, ("H1: replication at dr is Suspended",)),
        (replace(GOOD, health=CRITICAL), CRITICAL, ("H2: p1 reports Critical",)),
        (replace(GOOD, missed_cycles=3), WARNING, ("H3: 3 of 10 cycles missed",)),
        (replace(GOOD, missed_cycles=2), NORMAL, ()),
        (replace(GOOD, cycles=0, missed_cycles=9), NORMAL, ()),
        (
            replace(GOOD, last_replication_at_ms=NOW - REPLICATION_AGE_LIMIT_MS - 1),
            WARNING,
            ("H4: nothing replicated for 60 minutes",),
        ),
        (replace(GOOD, last_replication_at_ms=NOW - REPLICATION_AGE_LIMIT_MS), NORMAL, ()),
        (replace(GOOD, last_replication_at_ms=0), NORMAL, ()),
        (replace(GOOD, state=State.READY_FOR_INITIAL_REPLICATION), WARNING, ("H5",)),
        (
            replace(REPLICA, state=State.WAITING_FOR_INITIAL_REPLICATION),
            WARNING,
            ("H5: the initial replication is not complete",),
        ),
        (replace(REPLICA, state=State.FAILED_OVER_WAITING_COMPLETION), WARNING, ("H6",)),
        (
            replace(REPLICA, state=State.FAILED_OVER),
            WARNING,
            ("H6: failed over, and replication is not reversed",),
        ),
        (replace(GOOD, state=State.SUSPENDED), WARNING, ("H7: replication is suspended at the primary",)),
        (replace(GOOD, health=WARNING), WARNING, ("H8: p1 reports Warning",)),
        (
            replace(GOOD, state=State.ERROR, health=CRITICAL, missed_cycles=9),
            CRITICAL,
            ("H1", "H2", "H3"),
        ),
    ],
)
def test_a_rule_of_health(report: ReplicationReport, health: ReplicationHealth, reasons: tuple[str, ...]) -> None:
    found, said = assess(report)
    assert found is health
    assert len(said) == len(reasons)
    assert all(sentence.startswith(reason) for sentence, reason in zip(said, reasons, strict=True))


@pytest.mark.parametrize("cycles", range(5, 500, 5))
def test_h3_a_fifth_exactly_is_not_more_than_a_fifth(cycles: int) -> None:
    assert assess(replace(GOOD, cycles=cycles, missed_cycles=cycles // 5))[0] is NORMAL
    assert assess(replace(GOOD, cycles=cycles, missed_cycles=cycles // 5 + 1))[0] is WARNING


def test_a_vm_is_as_healthy_as_its_worse_end() -> None:
    vm = VmState("vm-1")
    healths = []
    for report in (
        GOOD,
        replace(REPLICA, state=State.SUSPENDED),
        replace(GOOD, reported_at_ms=NOW + 1, missed_cycles=9),
        replace(REPLICA, reported_at_ms=NOW + 1),
        replace(GOOD, reported_at_ms=NOW + 2),
    ):
        assessed = apply_report(vm, report)
        assert assessed is not None
        assert assessed.changed == (assessed.vm.health is not vm.health)
        vm = assessed.vm
        healths.append(vm.health)
    assert healths == [NORMAL, CRITICAL, CRITICAL, WARNING, NORMAL]


def test_the_reasons_are_those_of_both_ends() -> None:
    first = apply_report(VmState("vm-1"), replace(GOOD, missed_cycles=9))
    assert first is not None
    both = apply_report(first.vm, replace(REPLICA, state=State.SUSPENDED))
    assert both is not None
    assert [reason[:2] for reason in both.reasons] == ["H3", "H1"]


def test_a_report_that_is_not_newer_is_passed_over() -> None:
    first = apply_report(VmState("vm-1"), GOOD)
    assert first is not None
    assert apply_report(first.vm, replace(GOOD, health=CRITICAL)) is None
    assert apply_report(first.vm, replace(GOOD, reported_at_ms=NOW - 1)) is None
    assert apply_report(first.vm, replace(REPLICA, reported_at_ms=NOW - 1)) is not None


@pytest.mark.parametrize(
    ("report", "durable"),
    [
        (replace(GOOD, pending_bytes=9), False),
        (replace(GOOD, state=State.SUSPENDED), True),
        (replace(GOOD, health=WARNING), True),
        (replace(GOOD, mode=ReplicationMode.REPLICA), True),
    ],
)
def test_only_what_is_new_is_worth_a_record(report: ReplicationReport, durable: bool) -> None:
    first = apply_report(VmState("vm-1"), GOOD)
    assert first is not None
    assert first.durable
    again = apply_report(first.vm, replace(report, reported_at_ms=NOW + 1))
    assert again is not None
    assert again.durable is durable
