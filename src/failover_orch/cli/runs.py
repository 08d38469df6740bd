"""`failover-orch run`: failovers under way and done. What people say to them is in `words`."""

from __future__ import annotations

from typing import Annotated

import typer

from failover_orch import telemetry
from failover_orch.cli.access import AsJson, current, moment, run, show_json, show_table
from failover_orch.cli.common import Bootstrap
from failover_orch.cli.watching import (
    EXIT_CODES,
    Patience,
    Timeout,
    WaitForPeople,
    data_loss,
    step_columns,
    step_rows,
    watch,
    watched_from,
)
from failover_orch.cli.words import RunId, register_words
from failover_orch.config import Settings
from failover_orch.domain import FailoverKind, RunSnapshot, RunState
from failover_orch.errors import LookupFailed
from failover_orch.service import ReadModel, can_be_told, run_list, run_view

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Failovers under way and done, and what people say to them.")


@app.command("list")
def list_runs(
    vm: Annotated[str, typer.Option(help="Only runs of this VM.")] = "",
    state: Annotated[RunState | None, typer.Option(help="Only runs in this state.", case_sensitive=False)] = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Only those that wait for a person, and for whom.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Also the runs that are part of a list's or plan's.")] = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """List runs, the newest first."""
    run(bootstrap, lambda config: _list(config, vm, state.value if state is not None else "", waiting, every, as_json))


async def _list(config: Settings, vm: str, state: str, waiting: bool, every: bool, as_json: bool) -> None:
    model = await current(config)
    vm_id = model.vm(vm).vm_id if vm else ""
    # A VM's runs are what was asked for, whether it moved alone or with others; and a parked one waits on its own.
    apart = None if every or vm or waiting else ""
    found = model.runs(vm_id=vm_id, state=state, parent_run_id=apart, waiting=waiting)
    if as_json:
        show_json(run_list(model, found))
        return
    if waiting:
        waits = [
            (one.run_id, one.kind, _subject(one, model), one.state, one.waits_for, can_be_told(one)) for one in found
        ]
        show_table("", ("run", "kind", "of", "state", "waits for", "can be told"), waits)
    else:
        rows = [
            (one.run_id, one.kind, _subject(one, model), one.state, moment(one.started_at_ms), one.actor, one.detail)
            for one in found
        ]
        show_table("", ("run", "kind", "of", "state", "started", "by", "detail"), rows)


@app.command("show")
def show_run(run_id: RunId, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Show a run: whom it waits for, its steps or tasks, the runs of its VMs, and what came of it."""
    run(bootstrap, lambda config: _show(config, run_id, as_json))


async def _show(config: Settings, run_id: str, as_json: bool) -> None:
    model = await current(config)
    view = run_view(model, model.run(run_id))
    if as_json:
        show_json(view)
        return
    one = view.run
    show_table(one.run_id, ("", ""), [(name, said) for name, said in _facts(one, model) if said])
    show_table("Steps" if one.vm_id else "Tasks", step_columns(one), step_rows(one))
    if view.members:
        rows = [
            (
                model.member(member.vm_id).name,
                member.run_id,
                member.state,
                data_loss(member),
                _seconds(member.recovery_time_ms),
                member.waits_for or member.detail,
            )
            for member in view.members
        ]
        show_table("VMs", ("VM", "run", "state", "data lost", "recovered in", "detail"), rows)


def _facts(one: RunSnapshot, model: ReadModel) -> list[tuple[str, object]]:
    sites = f"{one.from_site} to {one.to_site}" if one.from_site or one.to_site else ""
    return [
        ("kind", one.kind),
        ("of", _subject(one, model)),
        ("part of", one.parent_run_id),
        ("from", sites),
        ("state", one.state),
        ("waits for", one.waits_for),
        ("can be told", can_be_told(one)),
        ("asked by", f"{one.actor}: {one.reason}{f' ({one.ticket})' if one.ticket else ''}"),
        ("of its own accord", "yes" if one.automatic else ""),
        ("approved by", ", ".join(one.approved_by)),
        ("started", moment(one.started_at_ms)),
        ("ended", moment(one.finished_at_ms)),
        ("recovery point", one.recovery_point),
        ("data lost (RPO)", data_loss(one) if one.kind is not FailoverKind.REPROTECT else ""),
        ("recovered in (RTO)", _seconds(one.recovery_time_ms)),
        *((f"address of {adapter}", found) for adapter, found in one.addresses.items()),
        ("detail", one.detail),
    ]


@app.command()
def wait(
    run_id: RunId, wait_for_people: WaitForPeople = False, timeout: Timeout = 0, bootstrap: Bootstrap = None
) -> None:
    """Watch a run until it has ended; one that no worker has taken up yet is waited for.

    Exit codes: 0 succeeded, 1 error, 2 completed with errors, 3 failed or cancelled, 4 refused, 5 waits for a person.
    """
    run(bootstrap, lambda config: _wait(config, run_id, Patience(True, timeout, wait_for_people)))


async def _wait(config: Settings, run_id: str, patience: Patience) -> None:
    since = await watched_from(config)
    known: tuple[RunSnapshot, ...] = ()
    model = await current(config)
    try:
        view = run_view(model, model.run(run_id))
        run_id, known = view.run.run_id, (view.run, *view.members)
    except LookupFailed as error:
        # A run just asked for may not have been seen by a worker yet: only its whole id can be waited for.
        telemetry.logger(__name__).debug("run not known yet", run_id=run_id, error=error)
    ended = await watch(config, run_id, patience, since, known=known)
    raise typer.Exit(EXIT_CODES[ended.state])


def _subject(known: RunSnapshot, model: ReadModel) -> str:
    if known.vm_id:
        return model.member(known.vm_id).name
    if known.plan_id:
        return f"plan {known.plan_id}"
    return f"{len(known.steps)} VMs"


def _seconds(duration_ms: int) -> str:
    return "" if duration_ms < 0 else f"{duration_ms / 1000:g} s"


register_words(app)
