"""The VM-to-node table: each rule by itself, and where it ends whatever befalls the events on their way."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.domain.broker import decide
from failover_orch.domain.draft import Moment, Output, State
from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.records import JournalEntry, Location, Role, RouteCause, RoutingUpdate
from failover_orch.domain.routing import Moved, apply_move, relocate
from failover_orch.domain.state import VmState
from failover_orch.hypervisors.libvirt import moves, read_events

DATA = Path(__file__).parents[1] / "data"
PLACED, LIVE, QUICK, STORAGE, DEPARTED = MoveKind


def moved(node: str, kind: MoveKind, at_ms: int, sequence: int = 0, storage: str = "") -> VmMoved:
    return VmMoved("vm-1", "dr", node, kind, at_ms, cluster="dc", storage=storage, sequence=sequence, source=node)


def fold(*events: VmMoved, vm: VmState | None = None) -> Moved:
    """What the last of these events leads to."""
    vm = vm or VmState("vm-1")
    result = Moved("", vm)
    for event in events:
        result = apply_move(result.vm, event)
    return result


RULES = [
    pytest.param("M1", "d1", (moved("d1", PLACED, 10, 1), moved("d1", PLACED, 10, 1)), id="M1: the same sequence"),
    pytest.param("M1", "d1", (moved("d1", PLACED, 10, 1), moved("d1", PLACED, 99, 1)), id="M1: whatever its time"),
    pytest.param("M1", "d1", (moved("d1", PLACED, 10), moved("d1", PLACED, 10)), id="M1: no sequence, the same time"),
    pytest.param(
        "M2", "d1", (moved("d1", PLACED, 10, 2), moved("d1", DEPARTED, 99, 1)), id="M2: a lower sequence of that node"
    ),
    pytest.param("M2", "d1", (moved("d1", PLACED, 10), moved("d1", DEPARTED, 9)), id="M2: no sequence, an older time"),
    pytest.param("M3", "d2", (moved("d2", LIVE, 20), moved("d1", PLACED, 10)), id="M3: d2 has it since later"),
    pytest.param("M4", "d1", (moved("d1", PLACED, 10), moved("d1", PLACED, 20)), id="M4: it is there already"),
    pytest.param(
        "M4", "d1", (moved("d1", PLACED, 10, storage="S"), moved("d1", LIVE, 20)), id="M4: no storage named, no change"
    ),
    pytest.param("M5", "d1", (moved("d1", PLACED, 10),), id="M5: the first arrival"),
    pytest.param("M5", "d2", (moved("d1", PLACED, 10), moved("d2", LIVE, 20)), id="M5: another node"),
    pytest.param("M5", "d2", (moved("d1", PLACED, 10), moved("d2", QUICK, 10)), id="M5: at the same time is newer"),
    pytest.param(
        "M5",
        "d1",
        (moved("d1", PLACED, 10, storage="S"), moved("d1", STORAGE, 20, storage="T")),
        id="M5: other storage",
    ),
    pytest.param(
        "M5",
        "d2",
        (moved("d1", PLACED, 5_000), moved("d1", DEPARTED, 5_100), moved("d2", LIVE, 100)),
        id="M5: older by the clock, but the node that had it has said that it left",
    ),
    pytest.param(
        "M6",
        "d2",
        (moved("d1", PLACED, 5_000), moved("d2", LIVE, 100), moved("d1", DEPARTED, 5_100)),
        id="M6: d2's clock runs behind",
    ),
    pytest.param("M7", "d1", (moved("d1", PLACED, 10), moved("d1", DEPARTED, 20)), id="M7: nobody else has it yet"),
    pytest.param(
        "M7",
        "d2",
        (moved("d1", PLACED, 10), moved("d2", LIVE, 20), moved("d1", DEPARTED, 21)),
        id="M7: from where it no longer was",
    ),
]


@pytest.mark.parametrize(("rule", "node", "events"), RULES)
def test_a_rule_of_the_map(rule: str, node: str, events: tuple[VmMoved, ...]) -> None:
    result = fold(*events)
    here = result.vm.at("dr")
    assert here is not None
    assert (result.rule, here.node) == (rule, node)
    assert (result.change is not None) == (rule in ("M5", "M6"))
    assert bool(result.refusal) == (rule in ("M2", "M3"))


def test_m7_a_departure_from_a_site_that_never_had_the_vm_says_nothing() -> None:
    result = fold(moved("d1", DEPARTED, 10))
    assert (result.rule, result.vm.locations) == ("M7", ())


def test_m5_tells_what_changed_and_from_where() -> None:
    result = fold(moved("d1", PLACED, 10, storage="S"), moved("d2", QUICK, 20))
    assert result.change == Location("dr", "d2", Role.UNKNOWN, 20, "dc", "S")
    assert (result.cause, result.previous_node) == (RouteCause.QUICK, "d1")


def test_m6_keeps_older_arrivals_out_afterwards() -> None:
    behind = (moved("d1", PLACED, 5_000), moved("d2", LIVE, 100), moved("d1", DEPARTED, 5_100))
    assert fold(*behind, moved("d3", LIVE, 4_000)).rule == "M3"


def test_m5_an_arrival_that_was_let_in_though_older_keeps_other_old_ones_out() -> None:
    behind = (moved("d1", PLACED, 5_000), moved("d1", DEPARTED, 5_100), moved("d2", LIVE, 100))
    assert fold(*behind, moved("d3", LIVE, 4_000)).rule == "M3"


def test_sites_do_not_disturb_each_other() -> None:
    here = moved("d1", PLACED, 10)
    result = fold(here, replace(here, site="primary", node="p1", occurred_at_ms=20))
    assert [(location.site, location.node) for location in result.vm.locations] == [("dr", "d1"), ("primary", "p1")]


@pytest.mark.parametrize(
    ("vm", "role"),
    [
        (VmState("vm-1"), Role.UNKNOWN),
        (VmState("vm-1", active_site="dr", replica_site="primary"), Role.PRIMARY),
        (VmState("vm-1", active_site="primary", replica_site="dr"), Role.REPLICA),
    ],
)
def test_the_role_at_a_site_is_what_the_vm_is_there(vm: VmState, role: Role) -> None:
    change = fold(moved("d1", PLACED, 10), vm=vm).change
    assert change is not None
    assert change.role is role


def test_a_retired_copy_stays_retired_when_its_site_comes_back() -> None:
    failed_over = VmState("vm-1", active_site="primary")
    retired = relocate(failed_over, Location("dr", "d1", Role.RETIRED, 10, "dc"))
    for event in (moved("d1", PLACED, 20), moved("d2", LIVE, 30)):
        here = fold(event, vm=retired).vm.at("dr")
        assert here is not None
        assert here.role is Role.RETIRED


# From here on whole histories, through the broker.


class Table:
    """A partition's map of VMs, and what it told."""

    def __init__(self) -> None:
        self.state: dict[str, State] = {}
        self.outputs: list[Output] = []

    def take(self, events: Iterable[VmMoved]) -> Table:
        for event in events:
            decision = decide(self.state, event, Moment(1, 0))
            self.state.update({key: value for key, value in decision.kept.items() if value is not None})
            self.outputs += decision.outputs
        return self

    def at(self, vm_id: str, site: str = "dr") -> Location:
        vm = self.state[f"vm/{vm_id}"]
        assert isinstance(vm, VmState)
        here = vm.at(site)
        assert here is not None
        return here

    def routes(self, vm_id: str) -> list[RoutingUpdate]:
        return [each for each in self.outputs if isinstance(each, RoutingUpdate) and each.vm_id == vm_id]


@dataclass(frozen=True)
class History:
    """What really happened to a VM: every node's events in its order, by true time; where the VM is in the end."""

    events: tuple[VmMoved, ...]
    node: str
    storage: str
    changes: int
    shortest_stay_ms: int

    def of_nodes(self) -> list[list[VmMoved]]:
        by_node: defaultdict[str, list[VmMoved]] = defaultdict(list)
        for event in self.events:
            by_node[event.node].append(event)
        return list(by_node.values())


@st.composite
def histories(draw: st.DrawFn, nodes: int = 4) -> History:
    """A VM that is placed, then moves between nodes and storages: it is nowhere else before it has left."""
    names = [f"d{number}" for number in range(1, draw(st.integers(2, nodes)) + 1)]
    sequenced, named = draw(st.booleans()), draw(st.booleans())
    told: defaultdict[str, int] = defaultdict(int)
    events: list[VmMoved] = []

    def tell(node: str, kind: MoveKind, at_ms: int, storage: str) -> None:
        told[node] += 1
        where = storage if named and kind is not DEPARTED else ""
        events.append(moved(node, kind, at_ms, told[node] if sequenced else 0, where))

    now, node, storage, stays = 100_000, draw(st.sampled_from(names)), "S", [60_000]
    tell(node, PLACED, now, storage)
    count = draw(st.integers(1, 7))
    for _ in range(count):
        stays.append(draw(st.integers(1, 20_000)))
        now += stays[-1]
        kind = draw(st.sampled_from([LIVE, LIVE, QUICK, STORAGE] if named else [LIVE, QUICK]))
        # A node that only sees the VM run again where it is (PLACED) tells nothing new: such events are no moves.
        if kind is STORAGE:
            storage = "T" if storage == "S" else "S"
            tell(node, STORAGE, now, storage)
            continue
        target = draw(st.sampled_from([name for name in names if name != node]))
        lag = draw(st.integers(1, 2_000))
        if kind is QUICK:
            tell(node, DEPARTED, now, "")
            now += lag
            tell(target, QUICK, now, storage)
        else:
            tell(target, LIVE, now, storage)
            now += lag
            tell(node, DEPARTED, now, "")
        node = target
    return History(tuple(events), node, storage if named else "", 1 + count, min(stays))


@st.composite
def interleaved(draw: st.DrawFn, history: History) -> list[VmMoved]:
    """The events as they may arrive: each node's in its order, else in any, and any of them again later on."""
    waiting = history.of_nodes()
    arrived: list[VmMoved] = []
    while waiting:
        events = draw(st.sampled_from(waiting))
        arrived.append(events.pop(0))
        waiting = [each for each in waiting if each]
    for _ in range(draw(st.integers(0, 6))):
        first = draw(st.integers(0, len(arrived) - 1))
        arrived.insert(draw(st.integers(first + 1, len(arrived))), arrived[first])
    return arrived


def skewed(events: Sequence[VmMoved], offsets: dict[str, int]) -> list[VmMoved]:
    """The events, stamped by clocks that are off by so many milliseconds."""
    return [replace(event, occurred_at_ms=event.occurred_at_ms + offsets[event.node]) for event in events]


def assert_epochs(routes: Sequence[RoutingUpdate]) -> None:
    assert [route.epoch for route in routes] == list(range(1, len(routes) + 1))


@given(st.data())
def test_the_map_ends_where_the_vm_is_whatever_the_order_and_the_clocks(data: st.DataObject) -> None:
    history = data.draw(histories())
    offsets = data.draw(st.fixed_dictionaries({f"d{number}": st.integers(-5_000, 5_000) for number in range(1, 5)}))
    table = Table().take(skewed(data.draw(interleaved(history)), offsets))
    here, routes = table.at("vm-1"), table.routes("vm-1")
    assert (here.node, here.storage) == (history.node, history.storage)
    assert_epochs(routes)
    assert (routes[-1].changed.node, routes[-1].changed.storage) == (here.node, here.storage)


@given(st.data())
def test_with_true_clocks_and_in_order_every_real_move_is_one_change(data: st.DataObject) -> None:
    history = data.draw(histories())
    twice = [event for event in history.events for _ in range(data.draw(st.integers(1, 2)))]
    table = Table().take(twice)
    assert len(table.routes("vm-1")) == history.changes
    assert not [each for each in table.outputs if isinstance(each, JournalEntry)]


@given(st.data())
def test_with_true_clocks_delays_add_no_change_while_shorter_than_a_stay(data: st.DataObject) -> None:
    """Where an event is later than that, M6 may take an older place for the present one, for a time."""
    history = data.draw(histories())
    delays = st.integers(0, history.shortest_stay_ms - 1)
    arrivals, last = [], defaultdict[str, int](int)
    for place, event in enumerate(history.events):
        last[event.node] = max(last[event.node], event.occurred_at_ms + data.draw(delays))
        arrivals.append((last[event.node], place, event))
    table = Table().take(event for _, _, event in sorted(arrivals, key=lambda arrival: arrival[:2]))
    assert len(table.routes("vm-1")) <= history.changes
    assert table.at("vm-1").node == history.node


@given(st.data())
def test_with_true_clocks_any_delay_adds_at_most_one_change_for_each_departure(data: st.DataObject) -> None:
    history = data.draw(histories())
    table = Table().take(data.draw(interleaved(history)))
    departures = sum(event.kind is DEPARTED for event in history.events)
    assert len(table.routes("vm-1")) <= history.changes + departures


@given(st.data())
def test_with_true_clocks_and_two_nodes_no_delay_adds_a_change_of_node(data: st.DataObject) -> None:
    history = data.draw(histories(nodes=2))
    nodes = [route.changed.node for route in Table().take(data.draw(interleaved(history))).routes("vm-1")]
    assert len(list(groupby(nodes))) <= 1 + sum(event.kind in (LIVE, QUICK) for event in history.events)


RECORDED = tuple(moves(read_events(DATA / "libvirt-events.jsonl"), site="dr", cluster="dc"))
TRUTH: dict[str, str] = json.loads((DATA / "libvirt-events.truth.json").read_text())["final"]


def live_moves(table: Table) -> int:
    return sum(route.cause is RouteCause.LIVE for vm_id in TRUTH for route in table.routes(vm_id))


def assert_truth(table: Table) -> None:
    assert {vm_id: table.at(vm_id).node for vm_id in TRUTH} == TRUTH
    for vm_id in TRUTH:
        assert_epochs(table.routes(vm_id))


@pytest.mark.parametrize("times", [1, 2])
def test_what_two_hosts_recorded_is_sixteen_moves(times: int) -> None:
    table = Table().take(event for event in RECORDED for _ in range(times))
    assert_truth(table)
    assert live_moves(table) == 16


@given(
    delayed=st.sampled_from(["dr-node-1", "dr-node-2"]),
    delay_ms=st.integers(0, 5_000),
    skew_ms=st.integers(-5_000, 5_000),
)
def test_what_two_hosts_recorded_ends_in_the_truth_with_one_of_them_late(
    delayed: str, delay_ms: int, skew_ms: int
) -> None:
    late = sorted(RECORDED, key=lambda event: event.occurred_at_ms + (delay_ms if event.node == delayed else 0))
    doubled = [event for event in late for _ in range(2)]
    table = Table().take(doubled)
    assert_truth(table)
    assert live_moves(table) <= 16
    off = {"dr-node-1": skew_ms, "dr-node-2": 0}
    assert_truth(Table().take(skewed(doubled, off)))
