"""What became of plans of VMs, by the word of the hypervisors: each effect at most once, none missing, none astray.

Pure functions over what was read from outside: the simulated world's ledger, and the snapshots of runs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sites import DR, PRIMARY, SITES, address_at

from failover_orch.domain import Action, FailoverKind, ReplicationMode, RunState
from failover_orch.hypervisors import Power
from failover_orch.hypervisors.simulated import Effect, End

__all__ = [
    "astray",
    "effects_of_runs",
    "family",
    "lines_doubled_or_missing",
    "map_astray",
    "plans_astray",
    "should_be_at",
    "told_out_of_order",
    "unfinished",
]

Snapshot = Mapping[str, Any]

_MOVES = (FailoverKind.PLANNED, FailoverKind.FAILBACK, FailoverKind.UNPLANNED)
_MOVED = frozenset(
    {Action.SHUT_DOWN, Action.PREPARE, Action.FAIL_OVER, Action.REVERSE, Action.CONNECT_ADAPTERS, Action.START}
)
REQUIRED: Mapping[FailoverKind, frozenset[Action]] = {
    FailoverKind.PLANNED: _MOVED,
    FailoverKind.FAILBACK: _MOVED,
    FailoverKind.UNPLANNED: frozenset({Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START, Action.COMPLETE}),
    FailoverKind.TEST: frozenset(),
    FailoverKind.REPROTECT: frozenset({Action.MAKE_REPLICA, Action.REVERSE, Action.RESYNCHRONIZE}),
}
"""What stands at the end of a run that succeeded. Of a test nothing does: its copy is removed again."""
TAKEN_BACK: Mapping[Action, frozenset[Action]] = {
    Action.CANCEL_FAILOVER: frozenset({Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START}),
    Action.CANCEL_PREPARE: frozenset({Action.PREPARE}),
    Action.DELETE_TEST: frozenset({Action.CREATE_TEST, Action.START_TEST}),
}
"""What no longer stands after an undo. The undo of a shutdown is a start at the site that the VM was to leave."""
_STAYS = frozenset({Action.STAGE_ADDRESSES})
"""What a run that was undone leaves behind: addresses that nothing applies."""


def family(run_id: str) -> str:
    """A VM's run in all rounds of its plan's: what one round did, the next one finds done."""
    head, _, vm = run_id.rpartition("/")
    return f"{head}/{vm.partition('~')[0]}" if head else run_id


def unfinished(runs: Iterable[Snapshot]) -> list[str]:
    """Runs that have not ended, and whom they wait for."""
    return [
        f"{run['run_id']} is {run['state']} and waits for {run['waits_for'] or 'nobody'}"
        for run in runs
        if not RunState(run["state"]).ended
    ]


def effects_of_runs(effects: Sequence[Effect], runs: Mapping[str, Snapshot]) -> list[str]:
    """Actions that took effect twice, or not at all, or when their run's time was over."""
    found: list[str] = []
    standing: defaultdict[tuple[str, str], set[Action]] = defaultdict(set)
    at_it: dict[str, list[str]] = {}
    for effect in effects:
        run = runs.get(effect.run_id)
        if run is None:
            found.append(f"an effect of a run that nobody knows: {effect}")
            continue
        of = family(effect.run_id)
        found += _take(standing[effect.vm_id, of], effect, run)
        if run["kind"] != FailoverKind.TEST:
            known = at_it.setdefault(effect.vm_id, [])
            if of in known and known[-1] != of:
                found.append(f"{effect.vm_id}: {of} took effect after {known[-1]} had: {effect}")
            elif of not in known:
                known.append(of)
    latest: dict[str, Snapshot] = {}
    for run in sorted(runs.values(), key=lambda each: each["started_at_ms"]):
        if run["vm_id"]:
            latest[family(run["run_id"])] = run
    for of, run in latest.items():
        found += _left(standing[run["vm_id"], of], run)
    return found


def _take(standing: set[Action], effect: Effect, run: Snapshot) -> list[str]:
    """Take one effect into account; says what is wrong with it."""
    action = effect.action
    undone = TAKEN_BACK.get(action, frozenset())
    if action is Action.START and effect.site == run["from_site"]:
        undone = frozenset({Action.SHUT_DOWN})
    if undone:
        missing = [] if standing & undone else [f"{action} undid what had not been done: {effect}"]
        standing -= undone
        return missing
    if action in standing:
        return [f"{action} twice: {effect}"]
    standing.add(action)
    return []


def _left(standing: set[Action], run: Snapshot) -> list[str]:
    """What a run has left behind, and should not have; or has not, and should."""
    succeeded = run["state"] in (RunState.SUCCEEDED, RunState.COMPLETED_WITH_ERRORS)
    if succeeded:
        missing = REQUIRED[FailoverKind(run["kind"])] - standing
        return [f"{run['run_id']} is {run['state']} without {', '.join(sorted(missing))}"] if missing else []
    left = standing - _STAYS
    return [f"{run['run_id']} is {run['state']} and left {', '.join(sorted(left))}"] if left else []


def plans_astray(plans: Sequence[Snapshot], runs: Mapping[str, Snapshot]) -> list[str]:
    """Plans' runs that say they have moved a VM whose own run did not, and the other way round."""
    found = []
    for plan in plans:
        members = [run for run in runs.values() if run["parent_run_id"] == plan["run_id"]]
        moved = {run["vm_id"] for run in members if run["state"] == RunState.SUCCEEDED}
        vm_ids = {run["vm_id"] for run in members}
        said = {step["step"] for step in plan["steps"] if step["step"] in vm_ids and step["state"] == "DONE"}
        if said != moved:
            found.append(
                f"{plan['run_id']}: says that {sorted(said - moved)} moved, and not that {sorted(moved - said)} did"
            )
    return found


def should_be_at(vm_id: str, runs: Iterable[Snapshot]) -> str:
    """The site where the last run that moved a VM has put it."""
    moves = [
        run
        for run in runs
        if run["vm_id"] == vm_id
        and run["kind"] in _MOVES
        and run["state"] in (RunState.SUCCEEDED, RunState.COMPLETED_WITH_ERRORS)
    ]
    last = max(moves, key=lambda run: run["finished_at_ms"], default=None)
    return str(last["to_site"]) if last is not None else PRIMARY


def astray(number: int, ends: Mapping[str, End], site: str) -> list[str]:
    """In what a VM's ends are not as they should be, it being active at a site."""
    here, there = ends[site], ends[DR if site == PRIMARY else PRIMARY]
    wrong = []
    if (here.power, there.power) != (Power.RUNNING, Power.OFF):
        wrong.append(f"is {here.power} at {site}, where it should run, and {there.power} at {there.site}")
    if (here.mode, there.mode) != (ReplicationMode.PRIMARY, ReplicationMode.REPLICA):
        wrong.append(f"is {here.mode} at {site} and {there.mode} at {there.site}")
    addresses = [adapter.configured.addresses for adapter in here.adapters]
    if addresses != [(address_at(site, number),)]:
        wrong.append(f"has {addresses} at {site}")
    wrong += [f"has a test copy at {end.site}" for end in (here, there) if end.copy is not None]
    return [f"{here.vm_id} {each}" for each in wrong]


def map_astray(ends: Mapping[str, End], site: str, update: Snapshot) -> list[str]:
    """In what the latest route of a VM is not as the world is."""
    expected = {(each, ends[each].node, "PRIMARY" if each == site else "REPLICA") for each in SITES}
    told = {(each["site"], each["node"], each["role"]) for each in update["locations"]}
    return [] if told == expected else [f"the map has {update['vm_id']} at {sorted(told)}, it is at {sorted(expected)}"]


def told_out_of_order(updates: Sequence[Snapshot]) -> list[str]:
    """Routes whose epoch is not above that of the VM's route before."""
    epochs: defaultdict[str, list[int]] = defaultdict(list)
    for update in updates:
        epochs[update["vm_id"]].append(update["epoch"])
    return [
        f"{vm_id}: a route of epoch {later} after one of {earlier}"
        for vm_id, told in epochs.items()
        for earlier, later in pairwise(told)
        if later <= earlier
    ]


def lines_doubled_or_missing(lines: Sequence[str], plans: Sequence[Snapshot], actions: Iterable[str]) -> list[str]:
    """What scripts wrote twice for one attempt, or not at all though their plan has it done.

    Each line is a run, a step and an attempt; `actions` are the steps that are scripts.
    """
    found = [f"{count} times the line {line!r}" for line, count in Counter(lines).items() if count > 1]
    written = {tuple(line.split()[:2]) for line in lines}
    done = [
        (plan["run_id"], step["step"])
        for plan in plans
        for step in plan["steps"]
        if step["step"] in actions and step["state"] == "DONE"
    ]
    return found + [
        f"{run_id}: {step} is done and wrote no line" for run_id, step in done if (run_id, step) not in written
    ]
