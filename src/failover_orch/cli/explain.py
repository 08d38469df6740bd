"""`failover-orch explain`, `plan dry-run`, `vm dry-run` and `run report`: why things are as they are, and would be.

What is said here comes from the functions that act, given the state that the workers keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import orjson
import typer

from failover_orch.audit import RunStory, html_of, markdown_of, read_journal, read_run_trail, report_of, story_of
from failover_orch.cli.access import AsJson, codec_for, current, moment, now_ms, run, show_json, show_table
from failover_orch.cli.common import Bootstrap
from failover_orch.cli.forecasts import said_of, show_dry_run, span
from failover_orch.config import Settings
from failover_orch.domain import (
    FailoverKind,
    FailoverRequested,
    Limits,
    Moment,
    RequestAction,
    RunSnapshot,
    State,
    VmState,
)
from failover_orch.domain.draft import Draft
from failover_orch.domain.dry_run import dry_run as forecast
from failover_orch.domain.explain import VmExplanation, explain_vm
from failover_orch.domain.walk import durations_of
from failover_orch.errors import ConfigError
from failover_orch.service import ReadModel

__all__ = ["app", "dry_run", "report", "vm_dry_run"]

app = typer.Typer(no_args_is_help=True, help="Why a VM would or would not fail over, and what a run has done so far.")

VmName = Annotated[str, typer.Argument(metavar="VM", help="The VM's id, or its name where only one VM has it.")]
PlanName = Annotated[str, typer.Argument(metavar="PLAN", help="The recovery plan's id, or its name.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or the beginning of it.")]
Kind = Annotated[FailoverKind, typer.Option(case_sensitive=False, help="What kind of failover it would be.")]
AcceptDataLoss = Annotated[
    bool, typer.Option("--accept-data-loss", help="As if it were asked for with the loss of data accepted.")
]


class Format(StrEnum):
    """In which form a report is written."""

    MARKDOWN = "markdown"
    JSON = "json"
    HTML = "html"


@app.command()
def vm(vm: VmName, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Say why a VM would or would not fail over now: the answer first, then guard by guard, and kind by kind."""
    run(bootstrap, lambda config: _explain_vm(config, vm, as_json))


async def _explain_vm(config: Settings, name: str, as_json: bool) -> None:
    # Faust, which comes with the state's reader, takes long to load: other commands need none.
    from failover_orch.state_reader import read_standing  # noqa: PLC0415 (see above)

    vm_id = (await current(config)).vm(name).vm_id
    standing = await read_standing(config, codec_for(config), vm_id)
    explained = explain_vm(standing.state, vm_id, Moment(now_ms(), standing.partition))
    if as_json:
        show_json(explained)
        return
    _show_explanation(explained)


def _show_explanation(explained: VmExplanation) -> None:
    typer.echo(explained.answer)
    typer.echo(f"automatic failover: {explained.mode}, from {explained.mode_from}")
    rows = [
        (guard.number, guard.name, "open" if guard.open else "CLOSED", guard.observed, guard.required, guard.unblocks)
        for guard in explained.guards
    ]
    show_table("Guards", ("", "guard", "", "observed", "required", "opens where"), rows)
    kinds = [
        (
            outlook.kind,
            outlook.to_site,
            "would start" if outlook.starts else "refused",
            "\n".join(map(str, outlook.refusals)),
            said_of(outlook.approval),
            span(outlook.loss_ms) if outlook.loss_ms else "nothing",
            ", ".join(outlook.kept_adapters),
        )
        for outlook in explained.kinds
    ]
    columns = ("kind", "to", "if asked for now", "refusals", "approval", "would lose", "as on the primary")
    show_table("If a person asked for it", columns, kinds)
    typer.echo(f"readiness: {explained.readiness.replace('_', ' ')}")
    for defect in explained.defects:
        typer.echo(f"  {defect}")
    typer.echo(f"replication health: {explained.health}")
    for reason in explained.health_reasons:
        typer.echo(f"  {reason}")
    for outlook in explained.runs:
        step = f", step {outlook.step}" if outlook.step else ""
        typer.echo(
            f"run {outlook.run_id}: {outlook.kind.lower()} failover, {outlook.state}{step}, since "
            f"{moment(outlook.started_at_ms)}, asked for by {outlook.actor}: {outlook.reason}"
        )
        _show_waiting(outlook.waits_for, outlook.choices)
    if not explained.runs:
        typer.echo("no run of it is in flight")
    for note in explained.notes:
        typer.echo(f"note: {note}")


def _show_waiting(waits_for: str, choices: tuple[str, ...]) -> None:
    if waits_for:
        typer.echo(f"  waits for {waits_for}")
    if choices:
        typer.echo(f"  can be told {', '.join(choices)}")


@app.command("run")
def explain_run(run_id: RunId, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Tell a run's story from its journal: who asked, what was done by which rule, and what it waits for now."""
    run(bootstrap, lambda config: _explain_run(config, run_id, as_json))


async def _explain_run(config: Settings, run_id: str, as_json: bool) -> None:
    model = await current(config)
    known = model.run(run_id)
    journal = await read_journal(config.bootstrap, known.run_id, names=config.names, codec=codec_for(config))
    story = story_of(known, journal, _members(model, known))
    if as_json:
        show_json(story)
        return
    _show_story(story)


def _show_story(story: RunStory) -> None:
    known = story.run
    subject = known.vm_id or (f"plan {known.plan_id}" if known.plan_id else f"{len(known.steps)} VMs")
    typer.echo(f"{known.run_id}: {known.kind.lower()} failover of {subject}, {known.state}")
    ticket = f" ({known.ticket})" if known.ticket else ""
    typer.echo(f"asked for by {known.actor}: {known.reason}{ticket}")
    if known.approved_by:
        typer.echo(f"approved by {', '.join(known.approved_by)}")
    _show_waiting(known.waits_for, known.choices)
    if known.detail:
        typer.echo(f"errors: {known.detail}")
    lines = [
        (
            f"+{line.after_ms / 1000:.1f} s",
            line.rule,
            line.what,
            ", ".join(f"{name} {value}" for name, value in line.evidence.items()),
        )
        for line in story.lines
    ]
    show_table("", ("after", "rule", "what", "evidence"), lines)
    if not story.complete:
        typer.echo("transitions are missing: `failover-orch audit verify` says which", err=True)
    if story.tasks:
        rows = [
            (task.task, task.group, task.state, span(task.took_ms), task.run_state, task.waits_for or task.detail)
            for task in story.tasks
        ]
        show_table("Tasks", ("task", "group", "state", "took", "its run", ""), rows)


def _members(model: ReadModel, known: RunSnapshot) -> tuple[RunSnapshot, ...]:
    return model.runs(parent_run_id=known.run_id) if not known.vm_id else ()


# Dry runs


def dry_run(
    plan: PlanName,
    kind: Kind = FailoverKind.PLANNED,
    accept_data_loss: AcceptDataLoss = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Print what a plan's failover would do: tasks, steps, addresses, refusals, approvals, and estimates.

    Nothing is asked for. Durations are the medians of earlier runs; those marked with ~ are assumed. Exit code 4 where
    the plan, or a VM of it, would be refused.
    """

    async def work(config: Settings) -> None:
        model = await current(config)
        known = model.plan(plan)
        vm_ids = tuple(dict.fromkeys(vm_id for group in known.groups for vm_id in group.vm_ids))
        asked = _request(kind, accept_data_loss, plan_id=known.plan_id)
        await _dry_run(config, model, asked, vm_ids, as_json)

    run(bootstrap, work)


def vm_dry_run(
    vm: VmName,
    kind: Kind = FailoverKind.PLANNED,
    accept_data_loss: AcceptDataLoss = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Print what a VM's failover would do: steps, addresses, refusals, approvals, and estimates.

    Nothing is asked for. Durations are the medians of earlier runs; those marked with ~ are assumed. Exit code 4 where
    it would be refused.
    """

    async def work(config: Settings) -> None:
        model = await current(config)
        vm_id = model.vm(vm).vm_id
        await _dry_run(config, model, _request(kind, accept_data_loss, vm_id=vm_id), (vm_id,), as_json)

    run(bootstrap, work)


def _request(kind: FailoverKind, accept_data_loss: bool, *, vm_id: str = "", plan_id: str = "") -> FailoverRequested:
    return FailoverRequested(
        run_id="",
        action=RequestAction.REQUEST,
        kind=kind,
        actor="",
        reason="",
        requested_at_ms=now_ms(),
        vm_id=vm_id,
        plan_id=plan_id,
        accept_data_loss=accept_data_loss,
    )


async def _dry_run(
    config: Settings, model: ReadModel, asked: FailoverRequested, vm_ids: tuple[str, ...], as_json: bool
) -> None:
    state = await _everything(config, vm_ids)
    dry = forecast(state, asked, Moment(asked.requested_at_ms, 0), durations_of(model.runs()))
    if as_json:
        show_json(dry)
    else:
        show_dry_run(dry)
    if dry.refusals or any(each.refusals for each in dry.vms):
        raise typer.Exit(4)


async def _everything(config: Settings, vm_ids: tuple[str, ...]) -> Mapping[str, State]:
    from failover_orch.state_reader import read_everything  # noqa: PLC0415 (as in `_explain_vm`)

    return await read_everything(config, codec_for(config), vm_ids)


# Reports


def report(
    run_id: RunId,
    form: Annotated[Format, typer.Option("--format", case_sensitive=False)] = Format.MARKDOWN,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write it; else it is printed.", show_default=False)
    ] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Report on a run: recovery point and time achieved against the limits, who decided what, every step, and proof.

    The hash chains that hold the run's entries are verified on the way.
    """
    run(bootstrap, lambda config: _report(config, run_id, form, out))


async def _report(config: Settings, run_id: str, form: Format, out: Path | None) -> None:
    model = await current(config)
    known = model.run(run_id)
    members = _members(model, known)
    trail = await read_run_trail(
        config.bootstrap, known.run_id, names=config.names, codec=codec_for(config), app_id=config.app_id
    )
    vm_ids = tuple(each.vm_id for each in (known, *members) if each.vm_id)
    limits = _limits(await _everything(config, vm_ids), vm_ids)
    made = report_of(known, members, trail.journal, trail.audit, limits, trail.verified, now_ms())
    match form:
        case Format.JSON:
            text = orjson.dumps(msgspec.to_builtins(made), option=orjson.OPT_INDENT_2).decode() + "\n"
        case Format.HTML:
            text = html_of(made)
        case Format.MARKDOWN:
            text = markdown_of(made)
    _hand_over(text, out)


def _hand_over(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}; give a file in a directory of yours") from None


def _limits(state: Mapping[str, State], vm_ids: tuple[str, ...]) -> dict[str, Limits]:
    """The limits of VMs as they stand now: what they were at the time of a run, the audit trail tells."""
    draft = Draft(state, Moment(0, 0))
    return {vm_id: draft.limits(draft.find(f"vm/{vm_id}", VmState) or VmState(vm_id)) for vm_id in vm_ids}
