"""What a step that is done changes about the VM itself: who owns it, where it is routed to, what was achieved."""

from __future__ import annotations

from dataclasses import replace

from failover_orch.domain.facts import FailoverKind, StepResult
from failover_orch.domain.records import Action, Location, Role, RouteCause, RoutingUpdate, RunState
from failover_orch.domain.routing import relocate
from failover_orch.domain.state import Run, VmState
from failover_orch.domain.workflows import Effect, Step

__all__ = ["observed", "route", "take_effect"]

_VERIFIES = (Action.VERIFY_ADDRESSES, Action.VERIFY_TEST)
_STARTS = (Action.START, Action.START_TEST)
_FROM_A_POINT = (Action.FAIL_OVER, Action.CREATE_TEST)


def take_effect(
    run: Run, vm: VmState, step: Step, now_ms: int, *, undone: bool
) -> tuple[VmState, tuple[RoutingUpdate, ...]]:
    """Change the VM's owner where a step, or its undo, has done so, under a new epoch."""
    effect = step.effect
    if undone and step.undo is Action.START:
        # The VM runs at its primary again, so it is active there, even if the failover could not be taken back at the
        # other end: nothing was started there, since a planned failover starts the VM after its point of no return.
        effect = Effect.FAILED_OVER
    match effect:
        case Effect.REVERSED:
            return _reversed(run, vm, now_ms)
        case Effect.FAILED_OVER:
            return _failed_over(run, vm, now_ms, undone=undone)
        case _:
            return vm, ()


def _failed_over(run: Run, vm: VmState, now_ms: int, *, undone: bool) -> tuple[VmState, tuple[RoutingUpdate, ...]]:
    old, new = (run.replica_site, run.primary_site) if undone else (run.primary_site, run.replica_site)
    if vm.active_site == new:
        return vm, ()  # it is so already: undone before it took effect, or done again by a run that turned round twice
    # Until replication is reversed the old copy is retired: nothing may be sent to it, nor may it run.
    roles = {new: Role.PRIMARY, old: Role.REPLICA if undone else Role.RETIRED}
    vm = replace(vm, epoch=vm.epoch + 1, active_site=new, replica_site=old if undone else "")
    vm = _with_roles(vm, roles)
    changed = vm.at(new)
    routes = (route(vm, RouteCause.FAILOVER, changed, "", now_ms, run.request.run_id),) if changed else ()
    return vm, routes


def _reversed(run: Run, vm: VmState, now_ms: int) -> tuple[VmState, tuple[RoutingUpdate, ...]]:
    active = vm.active_site
    other = run.primary_site if active == run.replica_site else run.replica_site
    if vm.replica_site == other:
        return vm, ()
    vm = replace(vm, epoch=vm.epoch + 1, replica_site=other)
    vm = _with_roles(vm, {active: Role.PRIMARY, other: Role.REPLICA})
    changed = vm.at(other)
    return vm, (route(vm, RouteCause.REVERSED, changed, "", now_ms, run.request.run_id),) if changed else ()


def _with_roles(vm: VmState, roles: dict[str, Role]) -> VmState:
    for site, role in roles.items():
        here = vm.at(site)
        if here is not None:
            vm = relocate(vm, replace(here, role=role))
    return vm


def route(
    vm: VmState, cause: RouteCause, changed: Location, previous_node: str, now_ms: int, run_id: str = ""
) -> RoutingUpdate:
    """The routing update that tells of a VM's change."""
    return RoutingUpdate(
        vm_id=vm.vm_id,
        epoch=vm.epoch,
        cause=cause,
        changed=changed,
        previous_node=previous_node,
        locations=vm.locations,
        changed_at_ms=now_ms,
        name=vm.inventory.name if vm.inventory else "",
        run_id=run_id,
    )


def observed(run: Run, step: Step, result: StepResult, now_ms: int) -> Run:
    """Keep what a step found that the run's report is about: addresses, what was lost, and since when the VM serves."""
    if run.state is RunState.UNDOING:
        return run
    found = result.observed
    if step.action in _VERIFIES:
        prefix = "addresses/"
        addresses = tuple((name.removeprefix(prefix), said) for name, said in found.items() if name.startswith(prefix))
        run = replace(run, addresses=addresses or run.addresses)
    if step.action in _FROM_A_POINT:
        point = result.number("recovery_point_at_ms")
        run = replace(run, recovery_point=found.get("recovery_point", ""))
        if run.request.kind in (FailoverKind.PLANNED, FailoverKind.FAILBACK):
            run = replace(run, data_loss_ms=0)
        elif point and run.request.kind is FailoverKind.UNPLANNED:  # 0: the hypervisor knows of none
            # Of a plan, when that began: that a VM had to wait for its turn has lost nothing more.
            began_ms = run.request.requested_at_ms if run.request.parent_run_id else run.started_at_ms
            run = replace(run, data_loss_ms=max(0, began_ms - point))
    if step.action in _STARTS:
        run = replace(run, serving_at_ms=now_ms)
    if step.number == "P0":
        run = replace(run, power_before=found.get("power", ""))
    if step.action is Action.CHECK_PRIMARY:
        run = replace(run, fence=found.get("fence", "") or result.detail)
    return run
