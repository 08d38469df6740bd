"""`failover-orch plan` and `failover-orch readiness`: recovery plans, and whether a failover would work now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from failover_orch.cli.access import AsJson, current, moment, run, show_json, show_table
from failover_orch.cli.common import Bootstrap
from failover_orch.config import Settings
from failover_orch.domain import Gate, PlanAction, RecoveryGroup, dependencies
from failover_orch.service import ReadinessView, ReadModel, plan_list, plan_view, readiness_list

__all__ = ["app", "readiness"]

app = typer.Typer(no_args_is_help=True, help="Recovery plans: groups of VMs, and in which order they fail over.")

_PlanName = Annotated[str, typer.Argument(metavar="PLAN", help="The plan's id or name.")]
_STANDING = ("", "name", "readiness", "since", "defects", "what to do")


@app.command("list")
def list_plans(as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """List recovery plans by name, with their readiness and the run in flight."""
    run(bootstrap, lambda config: _list(config, as_json))


async def _list(config: Settings, as_json: bool) -> None:
    listed = plan_list(await current(config))
    if as_json:
        show_json(listed)
        return
    rows = [(plan.name, plan.plan_id, plan.groups, plan.vms, plan.readiness, plan.run_id) for plan in listed.plans]
    show_table("", ("plan", "id", "groups", "VMs", "readiness", "run in flight"), rows)


@app.command()
def show(plan: _PlanName, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Show a recovery plan: its terms, its groups in order with what they depend on, its readiness and its runs."""
    run(bootstrap, lambda config: _show(config, plan, as_json))


async def _show(config: Settings, name: str, as_json: bool) -> None:
    model = await current(config)
    view = plan_view(model, model.plan(name))
    if as_json:
        show_json(view)
        return
    plan = view.plan
    facts = [
        ("id", plan.plan_id),
        ("set by", f"{plan.actor}: {plan.reason}" if plan.actor else ""),
        ("set", moment(plan.set_at_ms)),
        ("recovery point", plan.point),
        ("commit", f"{plan.commit.lower()}{f', window {plan.window_ms / 1000:g} s' if plan.window_ms else ''}"),
        ("at once", _or_all(plan.max_in_flight, "VMs")),
        ("at once on a node", _or_all(plan.per_node, "steps")),
        ("at once at a site", _or_all(plan.per_site, "steps")),
        ("readiness", view.standing.readiness),
        ("run in flight", view.run_id),
    ]
    show_table(plan.name, ("", ""), [(what, said) for what, said in facts if str(said)])
    show_table("Groups", ("group", "after", "before", "VMs", "gates", "afterwards"), _groups(model, plan.groups))
    runs = [
        (one.run_id, one.kind, one.state, moment(one.started_at_ms), one.detail)
        for one in model.runs(plan_id=plan.plan_id)
    ]
    show_table("Runs", ("run", "kind", "state", "started", "detail"), runs)


def _or_all(limit: int, what: str) -> str:
    return f"{limit} {what}" if limit else "no limit"


def _groups(model: ReadModel, groups: Sequence[RecoveryGroup]) -> list[tuple[object, ...]]:
    depends = dependencies(groups)
    return [
        (
            group.name + {None: "", True: " (critical)", False: " (not critical)"}[group.critical],
            ", ".join(depends[group.name]),
            _actions(group.before),
            ", ".join(model.member(vm_id).name for vm_id in group.vm_ids),
            ", ".join(map(_gate, group.gates)),
            _actions(group.after),
        )
        for group in groups
    ]


def _actions(actions: Iterable[PlanAction]) -> str:
    return ", ".join(f"{action.name} ({action.kind.lower()})" for action in actions)


def _gate(gate: Gate) -> str:
    return gate.kind.lower().replace("_", " ") + (f" {gate.port}" if gate.port else "")


@app.command("readiness")
def readiness_of(
    plan: Annotated[str, typer.Argument(metavar="[PLAN]", help="The plan's id or name; else every plan.")] = "",
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Show how ready plans are; of one plan, how ready each of its VMs is, and what to do about every defect."""
    run(bootstrap, lambda config: _readiness_of(config, plan, as_json))


async def _readiness_of(config: Settings, name: str, as_json: bool) -> None:
    model = await current(config)
    if name:
        view = plan_view(model, model.plan(name))
        if as_json:
            show_json(view)
        else:
            show_table("", _STANDING, _rows((view.standing, *view.members)))
        return
    listed = readiness_list(model, everything=True)
    plans = tuple(one for one in listed.standing if one.kind == "plan")
    if as_json:
        show_json(plans)
    else:
        show_table("", _STANDING, _rows(plans))


def readiness(
    everything: Annotated[bool, typer.Option("--all", help="Also what is READY.")] = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Show every plan and VM that is not READY, the worst first: what would go wrong, and what to do about it."""
    run(bootstrap, lambda config: _readiness(config, everything, as_json))


async def _readiness(config: Settings, everything: bool, as_json: bool) -> None:
    model = await current(config)
    listed = readiness_list(model, everything=everything)
    if as_json:
        show_json(listed)
    elif listed.standing:
        show_table("", _STANDING, _rows(listed.standing))
    else:
        typer.echo(f"{len(model.vms())} VMs and {len(model.plans())} plans: all READY")


def _rows(standing: Iterable[ReadinessView]) -> list[tuple[object, ...]]:
    """A row a defect; what has none has one row."""
    rows: list[tuple[object, ...]] = []
    for one in standing:
        first = (one.kind, one.name, one.readiness, moment(one.since_ms))
        defects = [(defect.what, defect.do) for defect in one.defects] or [("", "")]
        rows.append((*first, *defects[0]))
        rows += [("", "", "", "", *defect) for defect in defects[1:]]
    return rows
