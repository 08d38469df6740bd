"""What the demo expects of itself, checked against what the topics and the simulated world say at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from failover_orch.demo.expected import Expectation
from failover_orch.domain import Action, Adapter, AdapterAddresses, Role, RoutingUpdate, RunSnapshot, RunState
from failover_orch.hypervisors.simulated import Effect
from failover_orch.service import Vm

__all__ = ["Ending", "expectations", "running_at"]


@dataclass(frozen=True, slots=True)
class Ending:
    """What there is to look at when the story has been told."""

    vms: Sequence[Vm]
    runs: Sequence[RunSnapshot]
    routes: Sequence[RoutingUpdate]
    """Every routing update, in the order of its partition."""
    effects: Sequence[Effect]
    refused_by_plan: Collection[str]
    """VMs that the topology's own rules say cannot be failed over as they are."""
    moved: int
    """Moves of replicas that the demo made."""
    audit_findings: Sequence[str]
    dead_letters: int
    dr_site: str
    adapters_before: Mapping[str, Sequence[Adapter]]
    """Each VM's adapters as they were at the primary site."""


def expectations(ending: Ending) -> tuple[Expectation, ...]:
    """Every expectation, met or not."""
    return (
        _all_moved(ending),
        _refusals(ending),
        _nothing_lost_in_planned_runs(ending),
        _addresses(ending),
        _moves(ending),
        _epochs(ending),
        _once(ending),
        Expectation(
            "the audit trail verifies",
            not ending.audit_findings,
            "; ".join(ending.audit_findings) or "no finding",
        ),
        Expectation("no record was bad", ending.dead_letters == 0, f"{ending.dead_letters} dead letters"),
    )


def _all_moved(ending: Ending) -> Expectation:
    wanted = {vm.vm_id for vm in ending.vms} - set(ending.refused_by_plan)
    there = {vm.vm_id for vm in ending.vms if (here := running_at(vm)) is not None and here == ending.dr_site}
    missing = sorted(wanted - there)
    seen = f"{len(there)} of {len(wanted)} run at {ending.dr_site}" + (f"; not {', '.join(missing)}" if missing else "")
    return Expectation("every VM whose addresses can be applied runs at the DR site", there == wanted, seen)


def _refusals(ending: Ending) -> Expectation:
    refused = {run.vm_id for run in ending.runs if run.vm_id and run.state is RunState.REFUSED}
    return Expectation(
        "what cannot be applied was refused before it started",
        refused == set(ending.refused_by_plan) and all(run.detail for run in ending.runs if run.vm_id in refused),
        ", ".join(sorted(refused)) or "none",
    )


def _nothing_lost_in_planned_runs(ending: Ending) -> Expectation:
    planned = [run for run in ending.runs if run.vm_id and run.kind == "PLANNED" and run.state is RunState.SUCCEEDED]
    lost = [run.vm_id for run in planned if run.data_loss_ms != 0]
    return Expectation(
        "the planned failover lost nothing", bool(planned) and not lost, f"{len(planned)} VMs, lost in {len(lost)}"
    )


def _addresses(ending: Ending) -> Expectation:
    """Every address asked for is in what was found on the replica node afterwards."""
    wrong: list[str] = []
    checked = 0
    by_vm = {vm.vm_id: vm for vm in ending.vms}
    for run in ending.runs:
        vm = by_vm.get(run.vm_id)
        if vm is None or vm.settings is None or run.state is not RunState.SUCCEEDED:
            continue
        for adapter in vm.settings.adapters:
            checked += 1
            found = run.addresses.get(adapter.adapter_id, "")
            if not all(address in found for address in static_addresses(adapter)) or not found:
                wrong.append(f"{vm.name}/{adapter.adapter_id} has {found or 'none'}")
    return Expectation(
        "every adapter has its DR address", bool(checked) and not wrong, "; ".join(wrong) or f"{checked} adapters"
    )


def _moves(ending: Ending) -> Expectation:
    causes = Counter(route.cause.value for route in ending.routes)
    seen = sum(causes[cause] for cause in ("LIVE", "QUICK", "STORAGE"))
    return Expectation("one routing update for every move", seen == ending.moved, f"{seen} for {ending.moved} moves")


def _epochs(ending: Ending) -> Expectation:
    last: dict[str, int] = {}
    back: list[str] = []
    for route in ending.routes:
        if route.epoch <= last.get(route.vm_id, 0):
            back.append(f"{route.vm_id} {last[route.vm_id]} to {route.epoch}")
        last[route.vm_id] = route.epoch
    return Expectation("no epoch went back", not back, "; ".join(back) or f"{len(ending.routes)} routing updates")


def _once(ending: Ending) -> Expectation:
    starts = Counter((effect.vm_id, effect.run_id) for effect in ending.effects if effect.action == Action.START)
    twice = [f"{vm_id} in {run_id}" for (vm_id, run_id), count in starts.items() if count > 1]
    return Expectation("no VM was started twice", not twice, "; ".join(twice) or f"{len(starts)} starts")


def static_addresses(adapter: AdapterAddresses) -> tuple[str, ...]:
    """The addresses that an adapter is given, without those that DHCP is to give it."""
    return tuple(
        address for family in (adapter.ipv4, adapter.ipv6) if family is not None for address in family.addresses
    )


def running_at(vm: Vm) -> str | None:
    """The site where the VM is the primary."""
    return next((location.site for location in vm.locations if location.role is Role.PRIMARY), None)
