"""A dry run as the command line shows it."""

from __future__ import annotations

import typer

from failover_orch.cli.access import show_table
from failover_orch.domain import AdapterAddresses, ApprovalRule, FamilyAddresses
from failover_orch.domain.dry_run import DryRun, PathPart, StepForecast, VmForecast

__all__ = ["said_of", "show_dry_run", "span"]


def span(ms: int) -> str:
    """A length of time in seconds; `not known` for less than none."""
    return "not known" if ms < 0 else f"{ms / 1000:g} s"


def said_of(rule: ApprovalRule | None) -> str:
    """Whose approval a rule asks for, and how soon."""
    if rule is None:
        return "nobody's"
    who = f"of {', '.join(rule.approvers)}" if rule.approvers else "of anybody but the one who asks"
    return f"{rule.needed} {who}, within {rule.within_ms / 60_000:g} minutes"


def show_dry_run(dry: DryRun) -> None:
    """Print a dry run: the answer first, then tasks, VMs, steps and what the time is spent on."""
    subject = f"plan {dry.plan_id}" if dry.plan_id else dry.vm_id
    refused = sum(bool(vm.refusals) for vm in dry.vms)
    if dry.refusals:
        typer.echo(f"{subject}: a {dry.kind.lower()} failover would be refused now")
    elif refused:
        typer.echo(f"{subject}: of {len(dry.vms)} VMs {refused} would be refused now; the run would end {dry.state}")
    else:
        typer.echo(f"{subject}: a {dry.kind.lower()} failover would start now; the run would end {dry.state}")
    for refusal in dry.refusals:
        typer.echo(f"  {refusal}")
    for vm in dry.vms:
        for refusal in vm.refusals:
            typer.echo(f"  {vm.vm_id}: {refusal}")
    assumed = f"; assumed for want of earlier runs: {', '.join(dry.assumed)}" if dry.assumed else ""
    typer.echo(f"recovery time: {span(dry.recovery_time_ms)}, all done after {span(dry.ends_ms)}{assumed}")
    typer.echo(f"data loss: {span(dry.loss_ms) if dry.loss_ms else 'nothing'}")
    typer.echo(f"approval: {said_of(dry.approval)}")
    if dry.tasks:
        rows = [
            (_at(task.begins_ms), _at(task.ends_ms), task.group, task.stage, task.what, task.on_failure, task.state)
            for task in dry.tasks
        ]
        columns = ("begins", "ends", "group", "stage", "task", "on failure", "would be")
        show_table("Tasks, in the order in which they would begin", columns, rows)
        groups = [(name, _at(begins), _at(serves)) for name, begins, serves in dry.groups]
        show_table("Groups", ("group", "begins", "serves"), groups)
    for vm in dry.vms:
        _show_vm(vm)
    show_table("Critical path", ("from", "to", "what", "steps", "had to wait"), list(map(_part, dry.critical_path)))
    for note in dry.notes:
        typer.echo(f"note: {note}")


def _show_vm(vm: VmForecast) -> None:
    lost = span(vm.loss_ms) if vm.loss_ms else "nothing"
    serves = f"serves {_at(vm.serves_ms)}" if vm.serves_ms >= 0 else "would not serve"
    typer.echo(f"{vm.name} ({vm.vm_id}): {vm.from_site} to {vm.to_site or '?'}, {serves}, loses {lost}")
    for adapter in vm.addresses:
        typer.echo(f"  {_adapter(adapter)}")
    if vm.kept:
        typer.echo(f"  as on the primary, by policy KEEP: {', '.join(vm.kept)}")
    if vm.steps:
        columns = ("step", "what", "where", "begins", "takes", "timeout", "attempts")
        show_table("", columns, list(map(_step, vm.steps)))


def _step(step: StepForecast) -> tuple[object, ...]:
    if not step.action:
        return (step.number, step.purpose, "", _at(step.begins_ms), "", "", "")
    takes = span(step.takes_ms) if step.history else f"~{span(step.takes_ms)}"
    where = f"{step.site}/{step.node}"
    what = f"{step.action}: {step.purpose}"
    return (step.number, what, where, _at(step.begins_ms), takes, span(step.timeout_ms), step.attempts)


def _adapter(adapter: AdapterAddresses) -> str:
    families = [_family(name, family) for name, family in (("IPv4", adapter.ipv4), ("IPv6", adapter.ipv6)) if family]
    return f"{adapter.adapter_id}: {'; '.join(families)}"


def _family(name: str, family: FamilyAddresses) -> str:
    said = f"{name} by DHCP" if family.dhcp else ", ".join(family.addresses)
    gateways = f", gateway {', '.join(family.gateways)}" if family.gateways else ""
    dns = f", DNS {', '.join(family.dns)}" if family.dns else ""
    return said + gateways + dns


def _part(part: PathPart) -> tuple[object, ...]:
    waited = f"{span(part.waited_ms)} for {part.waited_for}" if part.waited_ms else ""
    steps = ", ".join(part.steps) if part.steps != (part.task,) else ""
    return (_at(part.from_ms), _at(part.to_ms), part.task, steps, waited)


def _at(ms: int) -> str:
    return "never" if ms < 0 else f"+{span(ms)}"
