"""The guards before an automatic failover: each open and closed, alone and together."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_cases import NOW, UNPLANNED, VM
from simulator import PRIMARY, REPLICA, inventory

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.guards import Guard, Sight, first_closed, newest, sights, weigh_guards
from failover_orch.domain.policies import DEFAULT_LIMITS, AutomaticRun, Brake, Evidence, Limits, Verdict
from failover_orch.domain.replication import ReplicationHealth, ReplicationMode, ReplicationState
from failover_orch.domain.state import Cooldown, Observers, ReplicationEnd, VmState

UP, UNREACHABLE, DOWN, OFF = Verdict
WITNESS = Evidence("witness-1", "witness", PRIMARY, DOWN, NOW)
NEIGHBOUR = Evidence("d-agent", REPLICA, PRIMARY, UNREACHABLE, NOW)
FRESH_MS = DEFAULT_LIMITS.evidence_within_ms
FREQUENCY_MS = inventory().replication.frequency_s * 1_000


def end(site: str, *, silent_ms: int = 0, received_at_ms: int = NOW) -> ReplicationEnd:
    mode = ReplicationMode.PRIMARY if site == PRIMARY else ReplicationMode.REPLICA
    return ReplicationEnd(
        site,
        mode,
        ReplicationState.REPLICATING,
        ReplicationHealth.NORMAL,
        (),
        NOW,
        NOW,
        0,
        received_at_ms=received_at_ms,
        silent_ms=silent_ms,
    )


STARVED = replace(VM, ends=(end(REPLICA, silent_ms=95_000),), suspected_since_ms=NOW - 60_000)
"""Its replica misses data, and has done so for as long as the hold-down wants."""


def said(*evidence: Evidence, received_at_ms: int = NOW) -> Observers:
    return Observers(tuple((each, received_at_ms) for each in evidence))


def all_of(
    vm: VmState = STARVED,
    observers: Observers | None = None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    brake: Brake | None = None,
    recent: tuple[AutomaticRun, ...] = (),
    now_ms: int = NOW,
    opened_at_ms: int = 0,
) -> dict[str, Guard]:
    observers = said(WITNESS) if observers is None else observers
    seen = sights(vm, observers, limits, now_ms)
    return {each.number: each for each in weigh_guards(vm, seen, limits, brake, recent, now_ms, opened_at_ms)}


def closed(*args: object, **others: object) -> set[str]:
    return {number for number, guard in all_of(*args, **others).items() if not guard.open}  # type: ignore[arg-type]  # as `all_of`


CLOSING: dict[str, dict[str, object]] = {
    "G3": {"vm": {"run_id": "other"}},
    "G4": {"vm": {"cooldowns": (Cooldown(UNPLANNED, NOW + 1, "auto-1"),)}},
    "G5": {"brake": Brake(engaged=True, actor="ann", reason="storm", at_ms=NOW)},
    "G6": {"observers": said(replace(WITNESS, verdict=UNREACHABLE))},
    "G2": {"vm": {"suspected_since_ms": NOW - 59_999}},
}
"""For each guard what closes it alone; G1 closes others with it."""


def test_all_guards_are_open_where_all_that_is_required_is_there() -> None:
    found = all_of()
    assert list(found) == ["G1", "G2", "G3", "G4", "G5", "G6"]
    assert all(guard.open and not guard.unblocks for guard in found.values())
    assert first_closed(tuple(found.values())) is None


@pytest.mark.parametrize("numbers", [each for count in range(1, 6) for each in combinations(sorted(CLOSING), count)])
def test_each_guard_closes_by_itself_and_says_what_would_open_it(numbers: tuple[str, ...]) -> None:
    vm, others = STARVED, {}
    for number in numbers:
        for name, value in CLOSING[number].items():
            if name == "vm":
                assert isinstance(value, dict)
                vm = replace(vm, **value)
            else:
                others[name] = value
    found = all_of(vm, **others)  # type: ignore[arg-type]  # as `all_of`
    assert {number for number, guard in found.items() if not guard.open} == set(numbers)
    for number in numbers:
        guard = found[number]
        assert guard.observed
        assert guard.required
        assert guard.unblocks
        assert guard.key
        assert str(guard) == f"{guard.name}: {guard.observed}; required: {guard.required}"
    first = first_closed(tuple(found.values()))
    assert first is not None
    assert first.number == min(numbers)


# G1


def test_g1_two_sites_alone_never_fail_over_by_themselves() -> None:
    """Whatever the replica's own site says, it is one place."""
    evidence = said(NEIGHBOUR, replace(NEIGHBOUR, observer="d2"), replace(NEIGHBOUR, observer="d3", verdict=DOWN))
    guard = all_of(observers=evidence)["G1"]
    assert not guard.open
    assert guard.observed.startswith("evidence from 1 of 2 places")
    assert "another place" in guard.unblocks


def test_g1_a_witness_alone_is_not_on_the_data_path() -> None:
    evidence = said(WITNESS, replace(WITNESS, observer="w2", place="third"), NEIGHBOUR)
    guard = all_of(replace(STARVED, ends=()), evidence)["G1"]
    assert (guard.open, guard.unblocks) == (False, "the replica misses its data")


def test_g1_the_data_path_alone_is_one_place() -> None:
    guard = all_of(observers=Observers())["G1"]
    assert not guard.open
    assert guard.observed == "evidence from 1 of 2 places (data path to d1: misses data for 95 s)"


@pytest.mark.parametrize(("observers", "places"), [(1, 0), (2, 1), (3, 2), (3, 1), (4, 2)])
def test_g1_as_many_places_as_the_limit_says(observers: int, places: int) -> None:
    evidence = [replace(WITNESS, observer=f"w{number}", place=f"w{number}") for number in range(places)]
    guard = all_of(observers=said(*evidence), limits=Limits(observers=observers))["G1"]
    assert guard.open == (places + 1 >= observers)


@pytest.mark.parametrize(
    "evidence",
    [
        replace(WITNESS, observer="w2", place="third", verdict=UP),
        replace(WITNESS, observer="w2", place="third", verdict=UP, node="p1"),
        replace(NEIGHBOUR, verdict=UP),
    ],
)
def test_g1_whoever_sees_the_primary_outweighs_all_others(evidence: Evidence) -> None:
    guard = all_of(observers=said(WITNESS, evidence))["G1"]
    assert not guard.open
    assert f"but {evidence.observer}: " in guard.observed
    assert guard.unblocks.startswith("the primary is no longer seen")


def test_g1_a_fresh_report_of_the_primary_end_outweighs_all_others() -> None:
    vm = replace(STARVED, ends=(*STARVED.ends, end(PRIMARY, received_at_ms=NOW - FRESH_MS)))
    assert "but primary end at primary: reported its replication 120 s ago" in all_of(vm)["G1"].observed
    assert not all_of(vm)["G1"].open
    assert all_of(vm, now_ms=NOW + 1, observers=said(WITNESS, received_at_ms=NOW + 1))["G1"].open


def test_g1_that_a_site_answers_says_nothing_of_a_node_that_was_seen_to_be_down() -> None:
    node_down = replace(WITNESS, node="p1")
    site_up = replace(WITNESS, observer="w2", place="third", verdict=UP)
    assert all_of(observers=said(node_down, site_up))["G1"].open
    assert not all_of(observers=said(replace(node_down, verdict=UNREACHABLE), site_up))["G1"].open
    assert not all_of(observers=said(node_down, replace(site_up, node="p1")))["G1"].open


@pytest.mark.parametrize(
    "evidence", [replace(WITNESS, node="p2"), replace(WITNESS, site=REPLICA), replace(WITNESS, site="other")]
)
def test_g1_what_is_said_of_other_nodes_and_sites_does_not_count(evidence: Evidence) -> None:
    assert not all_of(observers=said(evidence))["G1"].open
    assert all_of(observers=said(WITNESS, replace(evidence, observer="w2", verdict=UP)))["G1"].open


def test_g1_what_was_said_too_long_ago_does_not_count() -> None:
    old = NOW - FRESH_MS
    assert all_of(observers=said(WITNESS, received_at_ms=old))["G1"].open
    assert not all_of(observers=said(WITNESS, received_at_ms=old - 1))["G1"].open
    seen_up = Observers(((WITNESS, NOW), (replace(WITNESS, observer="w2", verdict=UP), old - 1)))
    assert all_of(observers=seen_up)["G1"].open


def test_g1_a_data_path_that_nobody_reports_on_any_more_does_not_count() -> None:
    stale = replace(STARVED, ends=(end(REPLICA, silent_ms=95_000, received_at_ms=NOW - FRESH_MS - 1),))
    assert not all_of(stale)["G1"].open
    # A VM that replicates every quarter of an hour is reported on more rarely.
    told = inventory()
    rare = replace(told, replication=replace(told.replication, frequency_s=900))
    assert all_of(replace(stale, inventory=rare))["G1"].open


def test_g1_a_replica_that_receives_is_no_evidence() -> None:
    vm = replace(STARVED, ends=(end(REPLICA),))
    assert [sight.verdict for sight in sights(vm, said(WITNESS), DEFAULT_LIMITS, NOW)] == [DOWN]
    assert not all_of(vm)["G1"].open


verdicts = st.sampled_from(list(Verdict))
places = st.sampled_from([PRIMARY, REPLICA, "witness", "third"])
evidences = st.builds(
    Evidence,
    observer=st.sampled_from("abc"),
    place=places,
    site=st.sampled_from([PRIMARY, REPLICA]),
    verdict=verdicts,
    observed_at_ms=st.just(NOW),
    node=st.sampled_from(["", "p1", "p2"]),
)


@given(st.lists(evidences, max_size=8), st.booleans(), st.booleans(), st.integers(1, 4))
def test_g1_is_open_only_with_enough_places_the_data_path_and_nobody_against(
    evidence: list[Evidence], silent: bool, reports: bool, observers: int
) -> None:
    ends = (end(REPLICA, silent_ms=95_000 if silent else 0), *((end(PRIMARY),) if reports else ()))
    found = all_of(replace(STARVED, ends=ends), said(*evidence), Limits(observers=observers))
    gone = {
        each.place
        for each in evidence
        if each.site == PRIMARY and each.node in ("", "p1") and each.verdict in (UNREACHABLE, DOWN, OFF)
    } | ({REPLICA} if silent else set())
    if found["G1"].open:
        assert silent
        assert not reports
        assert len(gone) >= observers
        assert not any(each.verdict is UP and each.node == "p1" and each.site == PRIMARY for each in evidence)
    if found["G6"].open:
        assert any(each.verdict is OFF or each.place in ("witness", "third") for each in evidence)


# G2


@pytest.mark.parametrize(("since_ms", "is_open"), [(60_000, True), (59_999, False), (0, False)])
def test_g2_the_evidence_has_to_hold(since_ms: int, is_open: bool) -> None:
    guard = all_of(replace(STARVED, suspected_since_ms=NOW - since_ms))["G2"]
    assert (guard.open, guard.required) == (is_open, "60 s")
    assert guard.observed == f"the evidence holds for {since_ms // 1000} s"


def test_g2_where_nobody_is_suspected_nothing_holds() -> None:
    assert all_of(replace(STARVED, suspected_since_ms=0))["G2"].observed == "the evidence does not hold"


def test_g2_whoever_takes_over_starts_the_time_anew() -> None:
    assert not all_of(opened_at_ms=NOW - 59_999)["G2"].open
    assert all_of(opened_at_ms=NOW - 60_000)["G2"].open


def test_g2_a_hold_down_of_nought_holds_at_once() -> None:
    limits = Limits(hold_down_ms=0)
    assert all_of(replace(STARVED, suspected_since_ms=NOW), limits=limits)["G2"].open
    assert not all_of(replace(STARVED, suspected_since_ms=0), limits=limits)["G2"].open


# G3, G4, G5


def test_g3_a_run_in_flight_never_expires() -> None:
    vm = replace(STARVED, run_id="other")
    guard = all_of(vm, now_ms=NOW * 1_000)["G3"]
    assert (guard.open, guard.observed, guard.unblocks) == (False, "run other is in flight", "run other ends")
    assert all_of(replace(STARVED, test_run_id="drill"))["G3"].open


@pytest.mark.parametrize("kind", FailoverKind)
def test_g4_a_cooldown_is_of_its_own_kind(kind: FailoverKind) -> None:
    cooling = replace(STARVED, cooldowns=(Cooldown(kind, NOW + 90_000, "auto-1", "was not acknowledged yet"),))
    guard = all_of(cooling)["G4"]
    assert guard.open == (kind is not UNPLANNED)
    if not guard.open:
        assert guard.observed == "automatic failover auto-1 was not acknowledged yet; its cooldown has 90 s left"
        assert "acknowledges auto-1" in guard.unblocks


def test_g4_a_cooldown_ends() -> None:
    cooling = replace(STARVED, cooldowns=(Cooldown(UNPLANNED, NOW, "auto-1"),))
    assert all_of(cooling)["G4"].open


def test_g5_a_brake_that_is_released_is_open() -> None:
    assert all_of(brake=Brake(engaged=False, actor="ann", reason="seen", at_ms=NOW))["G5"].open


@pytest.mark.parametrize(("count", "age_ms", "is_open"), [(2, 0, True), (3, 0, False), (3, 3_600_000, True)])
def test_g5_too_many_automatic_failovers_lately(count: int, age_ms: int, is_open: bool) -> None:
    recent = tuple(AutomaticRun(f"auto-{number}", "vm-9", NOW - age_ms) for number in range(count))
    guard = all_of(recent=recent, limits=Limits(brake_runs=3))["G5"]
    assert guard.open == is_open
    assert is_open or guard.observed == "3 automatic failovers within 60 minutes"
    assert all_of(recent=recent, limits=Limits(brake_runs=0))["G5"].open


# G6


@pytest.mark.parametrize("place", [PRIMARY, REPLICA, "witness"])
@pytest.mark.parametrize("verdict", Verdict)
def test_g6_the_fence(place: str, verdict: Verdict) -> None:
    """What only cannot be reached may still run: that is evidence, and no fence."""
    guard = all_of(observers=said(replace(WITNESS, place=place, verdict=verdict)))["G6"]
    assert guard.open == (verdict is OFF or (verdict is DOWN and place == "witness"))


def test_g6_the_data_path_is_no_fence() -> None:
    assert not all_of(observers=Observers())["G6"].open


# Observers


def test_of_each_observer_the_newest_word_on_each_subject_is_kept() -> None:
    observers = said(WITNESS)
    assert newest(observers, WITNESS, NOW) is None
    assert newest(observers, replace(WITNESS, observed_at_ms=NOW - 1, verdict=UP), NOW) is None
    later = newest(observers, replace(WITNESS, observed_at_ms=NOW + 1, verdict=UP), NOW + 2)
    assert later == Observers(((replace(WITNESS, observed_at_ms=NOW + 1, verdict=UP), NOW + 2),))
    for other in (
        replace(WITNESS, observer="w2"),
        replace(WITNESS, place="third"),
        replace(WITNESS, site=REPLICA),
        replace(WITNESS, node="p1"),
    ):
        both = newest(observers, other, NOW)
        assert both is not None
        assert len(both.said) == 2


def test_a_sight_says_who_saw_what() -> None:
    (sight,) = sights(VM, said(replace(WITNESS, detail="no ping for 30 s")), DEFAULT_LIMITS, NOW)
    assert sight == Sight("witness-1", "witness", True, "primary is DOWN (no ping for 30 s)", DOWN)
    assert str(sight) == "witness-1: primary is DOWN (no ping for 30 s)"
