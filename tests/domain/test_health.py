"""Replication health: each rule, seen to speak and to stay silent; how it gets better; the breach that is coming."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_cases import LOST, NOW, VM
from simulator import inventory

from failover_orch.domain.facts import ReplicationReport
from failover_orch.domain.health import apply_report, assess
from failover_orch.domain.policies import DEFAULT_LIMITS, Limits
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.state import VmState

NOT_APPLICABLE, NORMAL, WARNING, CRITICAL = ReplicationHealth
State = ReplicationState
HOUR_MS = DEFAULT_LIMITS.replication_age_ms
RECOVER_MS = DEFAULT_LIMITS.recover_after_ms
FREQUENCY_MS = inventory().replication.frequency_s * 1_000
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
RESYNCHRONISE = (State.WAITING_FOR_RESYNCHRONIZE, State.RESYNCHRONIZING, State.RESYNCHRONIZE_SUSPENDED)


def folded(*reports: ReplicationReport, limits: Limits = DEFAULT_LIMITS, vm: VmState = VM) -> VmState:
    """What is known of the VM after these reports."""
    for report in reports:
        assessed = apply_report(vm, report, limits, report.reported_at_ms)
        if assessed is not None:
            vm = assessed.vm
    return vm


def later(report: ReplicationReport, after_ms: int, **differs: object) -> ReplicationReport:
    """The same end, so much later; the replica has received something just now unless told otherwise."""
    at_ms = report.reported_at_ms + after_ms
    changed = {"reported_at_ms": at_ms, "last_replication_at_ms": at_ms, **differs}
    return replace(report, **changed)  # type: ignore[arg-type]  # any field may be named


@pytest.mark.parametrize("report", [GOOD, REPLICA])
@pytest.mark.parametrize("state", [State.REPLICATING, State.PREPARED])
def test_a_replication_that_goes_well_is_normal(report: ReplicationReport, state: State) -> None:
    assert assess(replace(report, state=state)) == (NORMAL, ())


def test_a_replication_that_is_not_enabled_has_no_health() -> None:
    assert assess(replace(GOOD, state=State.DISABLED, health=CRITICAL)) == (NOT_APPLICABLE, ())


@pytest.mark.parametrize("report", [GOOD, REPLICA])
@pytest.mark.parametrize("state", [State.ERROR, *RESYNCHRONISE])
def test_h1_an_error_and_a_resynchronisation_are_critical(report: ReplicationReport, state: State) -> None:
    assert assess(replace(report, state=state)) == (CRITICAL, (f"H1: replication at {report.site} is {state}",))


def test_h1_a_replica_that_is_suspended_is_critical() -> None:
    assert assess(replace(REPLICA, state=State.SUSPENDED)) == (CRITICAL, ("H1: replication at dr is Suspended",))


def test_h2_what_the_hypervisor_says_is_critical() -> None:
    assert assess(replace(GOOD, health=CRITICAL)) == (CRITICAL, ("H2: p1 reports Critical",))


@pytest.mark.parametrize("cycles", range(5, 500, 5))
def test_h3_a_fifth_exactly_is_not_more_than_a_fifth(cycles: int) -> None:
    assert assess(replace(GOOD, cycles=cycles, missed_cycles=cycles // 5))[0] is NORMAL
    missed = cycles // 5 + 1
    said = (f"H3: {missed} of {cycles} cycles missed",)
    assert assess(replace(GOOD, cycles=cycles, missed_cycles=missed)) == (WARNING, said)


def test_h3_where_no_cycle_was_due_none_was_missed() -> None:
    assert assess(replace(GOOD, cycles=0, missed_cycles=9))[0] is NORMAL


def test_h3_the_limit_can_be_set() -> None:
    half = Limits(missed_cycles_percent=50)
    assert assess(replace(GOOD, missed_cycles=5), half)[0] is NORMAL
    assert assess(replace(GOOD, missed_cycles=6), half)[0] is WARNING


@pytest.mark.parametrize("report", [GOOD, REPLICA])
def test_h4_nothing_replicated_for_more_than_an_hour(report: ReplicationReport) -> None:
    report = replace(report, last_replication_at_ms=NOW - HOUR_MS)
    assert assess(report)[0] is NORMAL
    older = replace(report, last_replication_at_ms=NOW - HOUR_MS - 1)
    assert assess(older) == (WARNING, ("H4: nothing replicated for 60 minutes",))
    assert assess(older, Limits(replication_age_ms=2 * HOUR_MS))[0] is NORMAL


def test_h4_where_nothing_was_ever_replicated_nothing_has_an_age() -> None:
    assert assess(replace(GOOD, last_replication_at_ms=0))[0] is NORMAL


@pytest.mark.parametrize("report", [GOOD, REPLICA])
@pytest.mark.parametrize("state", [State.READY_FOR_INITIAL_REPLICATION, State.WAITING_FOR_INITIAL_REPLICATION])
def test_h5_the_initial_replication_is_not_complete(report: ReplicationReport, state: State) -> None:
    said = ("H5: the initial replication is not complete",)
    assert assess(replace(report, state=state)) == (WARNING, said)


@pytest.mark.parametrize("state", [State.FAILED_OVER_WAITING_COMPLETION, State.FAILED_OVER])
def test_h6_failed_over_and_not_reversed(state: State) -> None:
    said = ("H6: failed over, and replication is not reversed",)
    assert assess(replace(REPLICA, state=state)) == (WARNING, said)


def test_h7_a_primary_that_is_suspended_is_a_warning() -> None:
    said = ("H7: replication is suspended at the primary",)
    assert assess(replace(GOOD, state=State.SUSPENDED)) == (WARNING, said)


def test_h8_what_the_hypervisor_says_is_a_warning() -> None:
    assert assess(replace(REPLICA, health=WARNING)) == (WARNING, ("H8: d1 reports Warning",))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("mode", ReplicationMode)
def test_h9_a_replica_that_receives_nothing_for_more_than_three_cycles(mode: ReplicationMode, state: State) -> None:
    report = replace(REPLICA, mode=mode, state=state, last_replication_at_ms=NOW - 90_000)
    assert not any(reason.startswith("H9") for reason in assess(report, frequency_ms=30_000)[1])
    report = replace(report, last_replication_at_ms=NOW - 90_001)
    health, said = assess(report, frequency_ms=30_000)
    receives = mode is ReplicationMode.REPLICA and state in (State.REPLICATING, State.RESYNCHRONIZING)
    assert ("H9: nothing received for 90 s, limit 90 s (3 cycles)" in said) == receives
    assert not receives or health is CRITICAL


def test_h9_the_number_of_cycles_can_be_set_and_the_frequency_has_to_be_known() -> None:
    report = replace(REPLICA, last_replication_at_ms=NOW - 100_000)
    assert assess(report, Limits(silent_cycles=4), 30_000)[0] is NORMAL
    assert assess(report)[0] is NORMAL


def test_h10_the_replica_lags_further_behind_than_the_rpo() -> None:
    limits = Limits(rpo_ms=60_000)
    report = replace(REPLICA, last_replication_at_ms=NOW - 60_000)
    assert assess(report, limits)[0] is NORMAL
    report = replace(report, last_replication_at_ms=NOW - 60_001)
    assert assess(report, limits) == (CRITICAL, ("H10: the replica is 60 s behind, its RPO is 60 s",))
    assert assess(report)[0] is NORMAL
    assert assess(replace(report, mode=ReplicationMode.PRIMARY), limits)[0] is NORMAL


def test_h9_h10_that_nothing_arrives_while_a_run_is_in_flight_is_its_doing() -> None:
    limits = Limits(rpo_ms=60_000)
    silent = replace(REPLICA, last_replication_at_ms=NOW - 100_000)
    assert [reason[:3] for reason in folded(silent, limits=limits).ends[0].reasons] == ["H9:", "H10"]
    moving = folded(silent, limits=limits, vm=replace(VM, run_id="r"))
    assert (moving.health, moving.ends[0].silent_ms) == (NORMAL, 0)


def test_every_reason_is_told_and_the_worst_counts() -> None:
    health, said = assess(replace(GOOD, state=State.ERROR, health=CRITICAL, missed_cycles=9))
    assert (health, [reason[:2] for reason in said]) == (CRITICAL, ["H1", "H2", "H3"])


# Both ends


def test_a_vm_is_as_healthy_as_its_worse_end() -> None:
    assert folded(GOOD, replace(REPLICA, state=State.SUSPENDED)).health is CRITICAL
    assert folded(replace(GOOD, missed_cycles=9), REPLICA).health is WARNING
    assert folded(GOOD, REPLICA).health is NORMAL


def test_the_reasons_are_those_of_both_ends() -> None:
    vm = folded(replace(GOOD, missed_cycles=9))
    both = apply_report(vm, replace(REPLICA, state=State.SUSPENDED))
    assert both is not None
    assert [reason[:2] for reason in both.reasons] == ["H3", "H1"]


def test_what_a_retired_copy_says_does_not_count() -> None:
    vm = folded(replace(GOOD, state=State.ERROR), vm=LOST)
    assert [end.health for end in vm.ends] == [CRITICAL]
    assert vm.health is not CRITICAL


def test_a_report_that_is_not_newer_is_passed_over() -> None:
    vm = folded(GOOD)
    assert apply_report(vm, replace(GOOD, health=CRITICAL)) is None
    assert apply_report(vm, replace(GOOD, reported_at_ms=NOW - 1)) is None
    assert apply_report(vm, replace(REPLICA, reported_at_ms=NOW - 1)) is not None


# Hysteresis


@pytest.mark.parametrize("worse", [WARNING, CRITICAL])
def test_a_worse_health_counts_at_once_and_a_better_one_only_after_it_has_lasted(worse: ReplicationHealth) -> None:
    vm = folded(GOOD, later(GOOD, 1, health=worse))
    assert vm.health is worse
    vm = folded(later(GOOD, 1_000), vm=vm)
    assert (vm.health, vm.ends[0].reasons[0][:2]) == (worse, "H2" if worse is CRITICAL else "H8")
    vm = folded(later(GOOD, 1_000 + RECOVER_MS - 1), vm=vm)
    assert vm.health is worse
    vm = folded(later(GOOD, 1_000 + RECOVER_MS), vm=vm)
    assert (vm.health, vm.ends[0].reasons, vm.ends[0].better_since_ms) == (NORMAL, (), 0)


def test_a_link_that_flaps_is_one_alarm() -> None:
    vm, changes = folded(GOOD), 0
    for number in range(1, 60):
        bad = number % 2 == 1
        assessed = apply_report(vm, later(GOOD, number * 20_000, health=CRITICAL if bad else NORMAL))
        assert assessed is not None
        changes += assessed.changed
        vm = assessed.vm
    assert changes == 1


def test_a_relapse_starts_the_time_anew() -> None:
    vm = folded(later(GOOD, 0, health=CRITICAL), later(GOOD, 1_000), later(GOOD, RECOVER_MS, health=CRITICAL))
    vm = folded(later(GOOD, RECOVER_MS + 1_000), vm=vm)
    assert vm.health is CRITICAL


def test_an_end_whose_mode_has_changed_is_judged_anew() -> None:
    vm = folded(replace(REPLICA, state=State.SUSPENDED), later(REPLICA, 1, mode=ReplicationMode.PRIMARY))
    assert vm.health is NORMAL


def test_a_recovery_that_need_not_last_counts_at_once() -> None:
    limits = Limits(recover_after_ms=0)
    assert folded(later(GOOD, 0, health=CRITICAL), later(GOOD, 1), limits=limits).health is NORMAL


# The breach that is coming

RPO = Limits(rpo_ms=300_000)


def behind(at_ms: int, lag_ms: int) -> ReplicationReport:
    return replace(REPLICA, reported_at_ms=NOW + at_ms, last_replication_at_ms=NOW + at_ms - lag_ms)


def test_a_lag_that_grows_will_pass_the_rpo() -> None:
    vm = folded(behind(0, 60_000), behind(30_000, 90_000), limits=RPO)
    # It grows as fast as time passes: 210 s are left.
    assert vm.ends[0].breach_at_ms == NOW + 30_000 + 210_000
    vm = folded(behind(0, 60_000), behind(60_000, 90_000), limits=RPO)
    assert vm.ends[0].breach_at_ms == NOW + 60_000 + 420_000


@pytest.mark.parametrize(
    ("reports", "limits"),
    [
        ((behind(0, 60_000),), RPO),
        ((behind(0, 60_000), behind(30_000, 60_000)), RPO),
        ((behind(0, 90_000), behind(30_000, 60_000)), RPO),
        ((behind(0, 1_000), behind(30_000, FREQUENCY_MS)), RPO),  # up and down with each cycle
        ((behind(0, 60_000), behind(30_000, 90_000)), DEFAULT_LIMITS),
        ((behind(0, 60_000), replace(behind(30_000, 90_000), mode=ReplicationMode.PRIMARY)), RPO),
    ],
)
def test_no_breach_is_in_sight(reports: tuple[ReplicationReport, ...], limits: Limits) -> None:
    assert folded(*reports, limits=limits).ends[0].breach_at_ms == 0


def test_a_breach_that_has_come_is_now() -> None:
    assert folded(behind(0, 200_000), behind(200_000, 400_000), limits=RPO).ends[0].breach_at_ms == NOW + 200_000


@given(st.lists(st.tuples(st.integers(1, 600_000), st.integers(0, 900_000)), min_size=2, max_size=8))
def test_a_breach_is_foretold_for_no_time_that_has_passed(steps: list[tuple[int, int]]) -> None:
    vm, at_ms = VM, 0
    for passed, lag in steps:
        at_ms += passed
        vm = folded(behind(at_ms, lag), vm=vm, limits=RPO)
        assert vm.ends[0].breach_at_ms == 0 or vm.ends[0].breach_at_ms >= NOW + at_ms


def test_a_breach_in_sight_is_news() -> None:
    vm = folded(behind(0, 60_000), limits=RPO)
    coming = apply_report(vm, behind(30_000, 80_000), RPO)
    assert coming is not None
    assert (coming.changed, coming.durable) == (True, True)
    again = apply_report(coming.vm, behind(60_000, 85_000), RPO)
    assert again is not None
    assert (again.changed, again.durable) == (False, False)


# What is worth a record


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
    again = apply_report(first.vm, later(report, 1))
    assert again is not None
    assert again.durable is durable


def test_that_the_replica_falls_silent_is_worth_a_record() -> None:
    """The guards go by it: whoever takes over has to know it too."""
    limits = Limits(silent_cycles=1, replication_age_ms=2 * HOUR_MS)
    vm = folded(REPLICA, replace(REPLICA, reported_at_ms=NOW + 1, health=CRITICAL), limits=limits)
    silent = apply_report(vm, replace(REPLICA, reported_at_ms=NOW + 60_000, health=CRITICAL), limits, NOW + 61_000)
    assert silent is not None
    assert silent.vm.health is vm.health
    assert silent.durable
    (end,) = silent.vm.ends
    assert (end.silent_ms, end.lag_ms, end.received_at_ms) == (61_000, 61_000, NOW + 61_000)
