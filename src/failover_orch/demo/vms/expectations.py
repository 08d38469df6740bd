"""What the demo of the real VMs expects of itself, checked against what topics, disks, nodes and users say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from failover_orch.demo.expected import Expectation
from failover_orch.demo.vms.outcome import Ending, Moved
from failover_orch.domain import FailoverKind

__all__ = ["expectations"]

_WITHOUT_LOSS = (FailoverKind.PLANNED, FailoverKind.FAILBACK)


def expectations(ending: Ending) -> tuple[Expectation, ...]:
    """Every expectation, met or not."""
    return (
        _places(ending),
        _pings(ending),
        _without_loss(ending),
        _loss_as_told(ending),
        _plan_order(ending),
        _fence(ending),
        _one_site_at_a_time(ending),
        _moves(ending),
        _epochs(ending),
        Expectation(
            "the audit trail verifies", not ending.audit_findings, "; ".join(ending.audit_findings) or "no finding"
        ),
        Expectation("no record was bad", ending.dead_letters == 0, f"{ending.dead_letters} dead letters"),
    )


def _places(ending: Ending) -> Expectation:
    """Where VMs run is the same by the routes, by the nodes themselves, and by what the story has done."""
    wrong = []
    for vm in ending.vms:
        wanted = ending.runs_at.get(vm.vm_id, "")
        node = next((here.node for here in vm.locations if here.site == wanted), "")
        on = [name for name, domains in ending.running.items() if vm.vm_id in domains]
        if vm.active_site != wanted or on != [node]:
            wrong.append(f"{vm.vm_id} by its route at {vm.active_site or 'no site'}, runs on {', '.join(on) or 'none'}")
    seen = "; ".join(wrong) or f"{len(ending.vms)} VMs"
    return Expectation("every VM runs where its route says, and nowhere else", bool(ending.vms) and not wrong, seen)


def _pings(ending: Ending) -> Expectation:
    wrong = [
        f"{ping.address} of {ping.vm_id} {'answers' if ping.answered else 'is silent'}"
        for ping in ending.pings
        if ping.answered is not ping.wanted
    ]
    answered = sum(ping.answered for ping in ending.pings)
    return Expectation(
        "every VM answers at its site's addresses, and at no others",
        bool(ending.pings) and not wrong,
        "; ".join(wrong) or f"{answered} of {len(ending.pings)} answer a ping",
    )


def _without_loss(ending: Ending) -> Expectation:
    planned = [moved for moved in ending.moved if moved.run.kind in _WITHOUT_LOSS]
    lossy = [moved.vm_id for moved in planned if moved.lost != 0 or not moved.identical or moved.run.data_loss_ms != 0]
    seen = f"{len(planned)} of them" + (f"; not so: {', '.join(lossy)}" if lossy else ", disks identical")
    return Expectation("planned failover and failback lost nothing", bool(planned) and not lossy, seen)


def _unplanned(ending: Ending) -> list[Moved]:
    return [moved for moved in ending.moved if moved.run.kind is FailoverKind.UNPLANNED]


def _loss_as_told(ending: Ending) -> Expectation:
    unplanned = _unplanned(ending)
    wrong = [moved.vm_id for moved in unplanned if moved.lost < 0 or abs(moved.lost - moved.pending) > moved.leeway]
    seen = ", ".join(f"{moved.vm_id}: {moved.lost} lost, {moved.pending} pending" for moved in unplanned)
    return Expectation(
        "what was lost was pending by the last report, give or take a cycle", bool(unplanned) and not wrong, seen
    )


def _plan_order(ending: Ending) -> Expectation:
    """Every VM of a group was seen before any VM of the next group began."""
    by_vm = {moved.vm_id: moved for moved in _unplanned(ending)}
    groups: list[Sequence[Moved]] = [[by_vm[vm_id] for vm_id in group if vm_id in by_vm] for group in ending.groups]
    kept = all(groups) and all(
        max(moved.run.finished_at_ms for moved in one) <= min(moved.run.started_at_ms for moved in other)
        and max(moved.served_at_ms for moved in one) < min(moved.served_at_ms for moved in other)
        for one, other in pairwise(groups)
    )
    seen = " -> ".join(" and ".join(moved.vm_id for moved in group) or "nobody" for group in groups)
    return Expectation("the VMs came up in the plan's order", kept, seen)


def _fence(ending: Ending) -> Expectation:
    held = ending.cuts > 0 and " OFF " in f" {ending.fence} "
    return Expectation("the power of the cut-off node was cut, and read as off, first", held, ending.fence or "nothing")


def _one_site_at_a_time(ending: Ending) -> Expectation:
    """Each VM's pages were seen at one site, and after each failover at the other, never here and there in turn."""
    failovers = Counter(moved.vm_id for moved in ending.moved)
    wrong = [
        f"{vm_id} at {', '.join(sites)}"
        for vm_id, sites in ending.sites_seen.items()
        if len(sites) != failovers[vm_id] + 1
    ]
    seen = "; ".join(wrong) or f"{sum(map(len, ending.sites_seen.values()))} stays of {len(ending.sites_seen)} VMs"
    return Expectation("no VM answered at both sites", not wrong, seen)


def _moves(ending: Ending) -> Expectation:
    causes = Counter(route.cause.value for route in ending.routes)
    seen = sum(causes[cause] for cause in ("LIVE", "QUICK", "STORAGE"))
    held = seen == ending.migrations and ending.went_on
    boot = "the one that ran went on" if ending.went_on else "the one that ran was started anew"
    return Expectation(
        "one routing update for every move, and no restart", held, f"{seen} for {ending.migrations} moves; {boot}"
    )


def _epochs(ending: Ending) -> Expectation:
    last: dict[str, int] = {}
    back: list[str] = []
    for route in ending.routes:
        if route.epoch <= last.get(route.vm_id, 0):
            back.append(f"{route.vm_id} {last[route.vm_id]} to {route.epoch}")
        last[route.vm_id] = route.epoch
    return Expectation("no epoch went back", not back, "; ".join(back) or f"{len(ending.routes)} routing updates")
