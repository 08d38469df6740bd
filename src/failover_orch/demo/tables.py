"""The tables at the end of the demo."""

from __future__ import annotations

from collections.abc import Sequence

from failover_orch.demo.expectations import Ending
from failover_orch.demo.screen import Screen
from failover_orch.domain import Role, RunSnapshot, RunState
from failover_orch.service import Vm

__all__ = ["addresses", "coloured", "refusals", "routes", "routes_of", "runs"]

_COLOURS = {
    RunState.SUCCEEDED: "green",
    RunState.COMPLETED_WITH_ERRORS: "yellow",
    RunState.REFUSED: "yellow",
    RunState.CANCELLED: "yellow",
    RunState.FAILED: "red",
}


def routes(screen: Screen, ending: Ending) -> None:
    """Where every VM is."""
    routes_of(screen, ending.vms)


def routes_of(screen: Screen, vms: Sequence[Vm]) -> None:
    """Where these VMs are."""
    rows = [
        (
            vm.name,
            vm.application,
            *(
                next((f"{here.node} ({here.site})" for here in vm.locations if here.role is role), "")
                for role in (Role.PRIMARY, Role.REPLICA, Role.RETIRED)
            ),
            str(vm.epoch),
        )
        for vm in vms
    ]
    screen.table("Routes", ("VM", "application", "runs on", "replica on", "retired copy", "epoch"), rows)


def addresses(screen: Screen, ending: Ending) -> None:
    """What each adapter had, and what was found on the replica node afterwards."""
    runs = {run.vm_id: run for run in ending.runs if run.addresses}
    rows = [
        (
            vm.name,
            adapter.adapter_id,
            " ".join(adapter.addresses),
            runs[vm.vm_id].addresses.get(adapter.adapter_id, "").replace(",", ""),
        )
        for vm in ending.vms
        if vm.vm_id in runs
        for adapter in ending.adapters_before[vm.vm_id]
    ]
    screen.table("Addresses", ("VM", "adapter", "before", "after"), rows)


def runs(screen: Screen, ending: Ending) -> None:
    """How every VM's failover went."""
    names = {vm.vm_id: vm.name for vm in ending.vms}
    rows = [
        (
            names.get(run.vm_id, run.vm_id),
            run.kind.lower(),
            coloured(run.state),
            f"{(run.finished_at_ms - run.started_at_ms) / 1000:.1f}",
            _loss(run),
        )
        for run in sorted(ending.runs, key=lambda run: run.started_at_ms)
        if run.vm_id and run.state is not RunState.REFUSED
    ]
    screen.table("Failovers", ("VM", "kind", "ended", "seconds", "data lost, seconds"), rows)


def refusals(screen: Screen, ending: Ending) -> None:
    """What was refused before it started, and why."""
    names = {vm.vm_id: vm.name for vm in ending.vms}
    rows = [
        (names.get(run.vm_id, run.vm_id), run.detail.replace("[", r"\["))
        for run in ending.runs
        if run.vm_id and run.state is RunState.REFUSED
    ]
    screen.table("Refused before it started", ("VM", "why"), rows)


def coloured(state: RunState) -> str:
    """A run's state in its colour."""
    return f"[{_COLOURS[state]}]{state}[/]" if state in _COLOURS else str(state)


def _loss(run: RunSnapshot) -> str:
    return "?" if run.data_loss_ms < 0 else f"{run.data_loss_ms / 1000:.1f}"
