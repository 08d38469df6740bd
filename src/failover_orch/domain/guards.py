"""The five guards before any automatic failover, and the fence: each with what was seen and what is required. Pure.

| guard | holds where |
| --- | --- |
| G1 evidence | enough observers in different places say that the primary is gone, one on the data path; none sees it |
| G2 hold-down | they have said so long enough; a VM-moved and a takeover of the partition start the time anew |
| G3 one run | no run of the VM is in flight; such a run never expires on a clock |
| G4 cooldown | no automatic failover of the VM shortly before, or a person has acknowledged it |
| G5 brake | the brake is off; once on, only a person releases it |
| G6 fence | the primary is proved off, a witness in a third place says that it is down, or its power can be cut |

Observers in one place are one observer: what cuts one off cuts off the other. So two sites alone never fail over by
themselves. That a witness does not reach the primary is evidence, but no fence: a site that is cut off from everybody
may be at work all the same. A witness says DOWN only where it knows better (`failover-orch witness --down-after`).
Where the replica's site agents have a fence agent for the primary's node, the fence is the run's own first step (U1):
it cuts the power, and reads it to be off, before anything else is done.

Incidents behind the guards: orchestrator #1217 (a lock that expired under a recovery), #1219 (a primary that only
moved), #206 (a brake for people to release), vitess #13108 and #19775 (cooldown per VM and kind), Patroni #3453 (the
data path outweighs a silent agent).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.inventory import ClusterInventory
from failover_orch.domain.policies import AutomaticRun, Brake, Evidence, Limits, Verdict
from failover_orch.domain.state import Observers, VmState

__all__ = ["Guard", "Sight", "brake_guard", "fenced_by", "first_closed", "newest", "sights", "weigh_guards"]

_GONE = (Verdict.UNREACHABLE, Verdict.DOWN, Verdict.OFF)
_PROVED, _CAN_BE_CUT = "proved", "can be cut"
_SEEN_DOWN = (Verdict.DOWN, Verdict.OFF)
DATA_PATH = "data path"


@dataclass(frozen=True, slots=True)
class Sight:
    """What one observer makes of a VM's primary. `gone`: it speaks for a failover; else it has seen the primary."""

    observer: str
    place: str
    gone: bool
    what: str
    verdict: Verdict | None = None
    """None for the data path."""

    def __str__(self) -> str:
        return f"{self.observer}: {self.what}"


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard as it stands. `key` tells apart states that are worth a line in the journal; it holds no times."""

    number: str
    name: str
    open: bool
    observed: str
    required: str
    unblocks: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.observed}; required: {self.required}"


def sights(vm: VmState, observers: Observers, limits: Limits, now_ms: int) -> tuple[Sight, ...]:
    """Everything fresh that anybody says of where this VM runs."""
    return (*_replication_sights(vm, limits, now_ms), *_evidence_sights(vm, observers, limits, now_ms))


def _replication_sights(vm: VmState, limits: Limits, now_ms: int) -> list[Sight]:
    found = []
    frequency_ms = vm.inventory.replication.frequency_s * 1_000 if vm.inventory is not None else 0
    for end in vm.ends:
        age = now_ms - end.received_at_ms
        if end.site == vm.replica_site and end.silent_ms and age <= max(limits.evidence_within_ms, 2 * frequency_ms):
            here = vm.at(end.site)
            name = here.node if here is not None else end.site
            what = f"misses data for {end.silent_ms // 1000} s"
            found.append(Sight(f"{DATA_PATH} to {name}", end.site, gone=True, what=what))
        if end.site == vm.active_site and age <= limits.evidence_within_ms:
            what = f"reported its replication {age // 1000} s ago"
            found.append(Sight(f"primary end at {end.site}", end.site, gone=False, what=what))
    return found


def _evidence_sights(vm: VmState, observers: Observers, limits: Limits, now_ms: int) -> list[Sight]:
    here = vm.at(vm.active_site)
    node = here.node if here is not None else ""
    fresh = [
        said
        for said, received_at_ms in observers.said
        if said.site == vm.active_site
        and said.node in ("", node)
        and now_ms - received_at_ms <= limits.evidence_within_ms
    ]
    node_is_down = any(said.node and said.verdict in _SEEN_DOWN for said in fresh)
    found = []
    for said in fresh:
        # That a site answers says nothing for a node of it that was seen to be down.
        if said.verdict is Verdict.UP and not said.node and node_is_down:
            continue
        subject = said.node or said.site
        what = f"{subject} is {said.verdict}" + (f" ({said.detail})" if said.detail else "")
        found.append(Sight(said.observer, said.place, said.verdict in _GONE, what, said.verdict))
    return found


def weigh_guards(
    vm: VmState,
    seen: Sequence[Sight],
    limits: Limits,
    brake: Brake | None,
    recent: Sequence[AutomaticRun],
    now_ms: int,
    opened_at_ms: int = 0,
    clusters: Sequence[ClusterInventory] = (),
) -> tuple[Guard, ...]:
    """Every guard as it stands for an automatic failover of this VM now; all of them have to be open.

    `recent` are the automatic failovers of all partitions; `opened_at_ms` is when this partition's owner took over;
    `clusters` say whose power can be cut.
    """
    return (
        _evidence(seen, limits),
        _hold_down(vm, limits, now_ms, opened_at_ms),
        _one_run(vm),
        _cooldown(vm, now_ms),
        brake_guard(brake, recent, limits, now_ms),
        _fence(vm, seen, clusters),
    )


def first_closed(all_guards: Sequence[Guard]) -> Guard | None:
    """The first guard that holds a failover back, or None."""
    return next((guard for guard in all_guards if not guard.open), None)


def _evidence(seen: Sequence[Sight], limits: Limits) -> Guard:
    against = [sight for sight in seen if sight.gone]
    alive = [sight for sight in seen if not sight.gone]
    places = sorted({sight.place for sight in against})
    on_data_path = any(sight.verdict is None for sight in against)
    required = f"{limits.observers} places, one of them on the data path, and nobody who sees the primary"
    said = ", ".join(map(str, against)) or "nobody says that the primary is gone"
    observed = f"evidence from {len(places)} of {limits.observers} places ({said})"
    if alive:
        observed += f"; but {', '.join(map(str, alive))}"
        unblocks = "the primary is no longer seen; to move the VM all the same, use a planned failover"
    elif not on_data_path:
        unblocks = "the replica misses its data"
    else:
        unblocks = "a witness in another place than the replica says that the primary is gone"
    enough = len(places) >= limits.observers and on_data_path and not alive
    key = f"{','.join(places)}|{on_data_path}|{','.join(sorted({sight.observer for sight in alive}))}"
    return Guard("G1", "evidence", enough, observed, required, "" if enough else unblocks, key)


def _hold_down(vm: VmState, limits: Limits, now_ms: int, opened_at_ms: int) -> Guard:
    required = f"{limits.hold_down_ms / 1000:g} s"
    if not vm.suspected_since_ms:
        return Guard("G2", "hold-down", False, "the evidence does not hold", required, "see G1", "none")
    since = max(vm.suspected_since_ms, opened_at_ms)
    held = max(0, now_ms - since)
    enough = held >= limits.hold_down_ms
    left = f"{(limits.hold_down_ms - held) / 1000:.0f} s more of the same evidence"
    return Guard(
        "G2", "hold-down", enough, f"the evidence holds for {held // 1000} s", required, "" if enough else left, "held"
    )


def _one_run(vm: VmState) -> Guard:
    observed = f"run {vm.run_id} is in flight" if vm.run_id else "no run is in flight"
    unblocks = f"run {vm.run_id} ends" if vm.run_id else ""
    return Guard("G3", "one run", not vm.run_id, observed, "no run in flight", unblocks, vm.run_id)


def _cooldown(vm: VmState, now_ms: int) -> Guard:
    running = [each for each in vm.cooldowns if each.kind is FailoverKind.UNPLANNED and each.until_ms > now_ms]
    if not running:
        return Guard("G4", "cooldown", True, "no automatic failover lately", "none, or an acknowledged one", "")
    last = running[-1]
    left = (last.until_ms - now_ms) / 1000
    observed = f"automatic failover {last.run_id} {last.why}; its cooldown has {left:.0f} s left"
    unblocks = f"somebody acknowledges {last.run_id} (`failover-orch run acknowledge`)"
    return Guard("G4", "cooldown", False, observed, "none, or an acknowledged one", unblocks, last.run_id)


def brake_guard(brake: Brake | None, recent: Sequence[AutomaticRun], limits: Limits, now_ms: int) -> Guard:
    """G5 by itself: it also holds a plan back."""
    required = "the brake is off"
    if brake is not None and brake.engaged:
        observed = f"engaged by {brake.actor}: {brake.reason}"
        return Guard("G5", "brake", False, observed, required, "somebody releases the brake (`brake release`)", "on")
    within = [run for run in recent if now_ms - run.at_ms < limits.brake_within_ms]
    if limits.brake_runs and len(within) >= limits.brake_runs:
        observed = f"{len(within)} automatic failovers within {limits.brake_within_ms / 60_000:g} minutes"
        unblocks = "the brake engages, and somebody releases it (`brake release`)"
        return Guard("G5", "brake", False, observed, f"fewer than {limits.brake_runs}", unblocks, "full")
    return Guard("G5", "brake", True, "off", required, "")


def _fence(vm: VmState, seen: Sequence[Sight], clusters: Sequence[ClusterInventory]) -> Guard:
    required = "proof that the primary is off, a witness in a third place who says that it is down, or a fence agent"
    for sight in seen:
        third = sight.place not in (vm.active_site, vm.replica_site)
        if sight.verdict is Verdict.OFF or (sight.verdict is Verdict.DOWN and third):
            return Guard("G6", "fence", True, str(sight), required, "", _PROVED)
    here = vm.at(vm.active_site)
    target = f"{vm.active_site}/{here.node}" if here is not None else vm.active_site
    for cluster in clusters:
        if cluster.site == vm.replica_site and {target, vm.active_site} & set(cluster.fences):
            observed = f"{cluster.site} can cut the power of {target}, and does so before anything else"
            return Guard("G6", "fence", True, observed, required, "", _CAN_BE_CUT)
    unblocks = (
        "its power is cut and told (OFF), a witness in a third place says DOWN, the replica's site agents get a fence "
        "agent, or a person's --primary-is-down"
    )
    return Guard("G6", "fence", False, "nobody proves that the primary is off", required, unblocks, "none")


def fenced_by(all_guards: Sequence[Guard]) -> tuple[bool, bool]:
    """Whether the primary is proved off, and whether its power is to be cut: what an automatic failover rests on."""
    keys = {guard.key for guard in all_guards if guard.number == "G6" and guard.open}
    return _PROVED in keys, _CAN_BE_CUT in keys


def newest(observers: Observers, said: Evidence, received_at_ms: int) -> Observers | None:
    """The observers with one more saying; None where that is not newer than what the same one said of the same."""
    subject = (said.observer, said.place, said.site, said.node)
    kept = []
    for known, at_ms in observers.said:
        if (known.observer, known.place, known.site, known.node) != subject:
            kept.append((known, at_ms))
        elif known.observed_at_ms >= said.observed_at_ms:
            return None
    return Observers((*kept, (said, received_at_ms)))
