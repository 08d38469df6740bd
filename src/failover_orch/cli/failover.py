"""`failover-orch failover` and `failover-orch run`: ask for failovers, watch them, cancel them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live

from failover_orch import telemetry
from failover_orch.cli.access import (
    Actor,
    AsJson,
    codec_for,
    current,
    login_name,
    moment,
    now_ms,
    publisher_for,
    run,
    show_json,
    show_table,
    table,
)
from failover_orch.cli.common import Bootstrap, console
from failover_orch.config import Settings
from failover_orch.domain import (
    WORKFLOWS,
    FailoverKind,
    FailoverRequested,
    RequestAction,
    RunSnapshot,
    RunState,
    StepState,
)
from failover_orch.errors import ConfigError, KafkaError, LookupFailed
from failover_orch.service import ReadModel, run_list, run_view
from failover_orch.wire import follow

__all__ = ["EXIT_CODES", "app", "run_app"]

app = typer.Typer(no_args_is_help=True, help="Fail VMs over to their replicas.")
run_app = typer.Typer(no_args_is_help=True, help="Failovers under way and done.")

EXIT_CODES = {
    RunState.SUCCEEDED: 0,
    RunState.COMPLETED_WITH_ERRORS: 2,
    RunState.FAILED: 3,
    RunState.CANCELLED: 3,
    RunState.REFUSED: 4,
}
"""Exit code of a command that waited for a run, by the state in which the run ended."""

_RUNS = ("failover-runs",)
_SILENCE_S = 10.0
"""After so long without a word from a worker the person is told."""

VmNames = Annotated[
    list[str] | None, typer.Argument(metavar="[VM]...", help="VMs by id or name; several fail over side by side.")
]
Plan = Annotated[str, typer.Option(help="A recovery plan by id or name, in place of VMs.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it goes into the journal.")]
Ticket = Annotated[str, typer.Option(help="The ticket that this belongs to.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Watch until the run has ended.")]
Timeout = Annotated[float, typer.Option(min=0, help="Seconds to wait at most; 0 for as long as it takes.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or the beginning of it.")]


@app.command()
def planned(
    reason: Why,
    vms: VmNames = None,
    plan: Plan = "",
    actor: Actor = "",
    ticket: Ticket = "",
    wait: Wait = True,
    timeout: Timeout = 0,
    bootstrap: Bootstrap = None,
) -> None:
    """Move VMs to their replicas without losing anything: the primary is shut down and the last changes are shipped.

    Exit codes: 0 succeeded, 1 error, 2 completed with errors, 3 failed or cancelled, 4 refused.
    """
    asked = _Asked(FailoverKind.PLANNED, tuple(vms or ()), plan, actor, reason, ticket)
    run(bootstrap, lambda config: _failover(config, asked, wait, timeout))


@app.command()
def unplanned(
    reason: Why,
    vms: VmNames = None,
    plan: Plan = "",
    primary_is_down: Annotated[
        bool, typer.Option("--primary-is-down", help="You attest that the primary is off, where nobody can reach it.")
    ] = False,
    actor: Actor = "",
    ticket: Ticket = "",
    wait: Wait = True,
    timeout: Timeout = 0,
    bootstrap: Bootstrap = None,
) -> None:
    """Start VMs from their replicas because the primary is lost: what was not replicated yet is lost with it.

    Exit codes: 0 succeeded, 1 error, 2 completed with errors, 3 failed or cancelled, 4 refused.
    """
    asked = _Asked(FailoverKind.UNPLANNED, tuple(vms or ()), plan, actor, reason, ticket, primary_is_down)
    run(bootstrap, lambda config: _failover(config, asked, wait, timeout))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A failover as it was asked for on the command line."""

    kind: FailoverKind
    vms: tuple[str, ...]
    plan: str
    actor: str
    reason: str
    ticket: str
    primary_is_down: bool = False

    def request(self, model: ReadModel) -> FailoverRequested:
        """The request, its targets by id.

        Raises:
            ConfigError: no reason, or not exactly one of VMs and a plan.
            LookupFailed: a VM or the plan is not known.

        """
        if not self.reason.strip():
            raise ConfigError("--reason is empty: say why, the journal keeps it")
        if bool(self.vms) == bool(self.plan):
            raise ConfigError("name the VMs to fail over, or a recovery plan with --plan; one of the two")
        vm_ids = tuple(dict.fromkeys(model.vm(name).vm_id for name in self.vms))
        return FailoverRequested(
            run_id=f"run-{uuid.uuid4().hex}",
            action=RequestAction.REQUEST,
            kind=self.kind,
            actor=login_name(self.actor),
            reason=self.reason,
            requested_at_ms=now_ms(),
            vm_id=vm_ids[0] if len(vm_ids) == 1 else "",
            plan_id=model.plan(self.plan).plan_id if self.plan else "",
            vm_ids=vm_ids if len(vm_ids) > 1 else (),
            ticket=self.ticket,
            primary_is_down=self.primary_is_down,
        )


async def _failover(config: Settings, asked: _Asked, wait: bool, timeout_s: float) -> None:
    request = asked.request(await current(config))
    await _publish(config, request)
    typer.echo(request.run_id)
    if wait:
        ended = await _watch(config, request.run_id, timeout_s)
        raise typer.Exit(EXIT_CODES[ended.state])


async def _publish(config: Settings, request: FailoverRequested) -> None:
    """The run's trace begins here, and goes through the worker to the site agents and back."""
    attributes = {"run_id": request.run_id, "kind": request.kind.value, "actor": request.actor}
    with telemetry.span(f"failover {request.action.lower()}", attributes=attributes) as span:
        async with publisher_for(config) as publisher:
            await publisher.publish(request, traceparent=span.traceparent)


@run_app.command("list")
def list_runs(
    vm: Annotated[str, typer.Option(help="Only runs of this VM.")] = "",
    state: Annotated[RunState | None, typer.Option(help="Only runs in this state.", case_sensitive=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Also the runs that are part of a list's or plan's.")] = False,
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """List runs, the newest first."""
    run(bootstrap, lambda config: _list(config, vm, state.value if state is not None else "", every, as_json))


async def _list(config: Settings, vm: str, state: str, every: bool, as_json: bool) -> None:
    model = await current(config)
    vm_id = model.vm(vm).vm_id if vm else ""
    # A VM's runs are what was asked for, whether it moved alone or with others.
    found = model.runs(vm_id=vm_id, state=state, parent_run_id=None if every or vm else "")
    if as_json:
        show_json(run_list(model, found))
        return
    rows = [
        (one.run_id, one.kind, _subject(one, model), one.state, moment(one.started_at_ms), one.actor, one.detail)
        for one in found
    ]
    show_table("", ("run", "kind", "of", "state", "started", "by", "detail"), rows)


@run_app.command("show")
def show_run(run_id: RunId, as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Show a run: its steps, or the runs of its VMs, and what came of it."""
    run(bootstrap, lambda config: _show(config, run_id, as_json))


async def _show(config: Settings, run_id: str, as_json: bool) -> None:
    model = await current(config)
    view = run_view(model, model.run(run_id))
    if as_json:
        show_json(view)
        return
    one = view.run
    facts = [
        ("kind", one.kind),
        ("of", _subject(one, model)),
        ("state", one.state),
        ("asked by", f"{one.actor}: {one.reason}{f' ({one.ticket})' if one.ticket else ''}"),
        ("started", moment(one.started_at_ms)),
        ("ended", moment(one.finished_at_ms)),
        ("data lost", _data_loss(one)),
        *((f"address of {adapter}", found) for adapter, found in one.addresses.items()),
        *((("detail", one.detail),) if one.detail else ()),
    ]
    show_table(one.run_id, ("", ""), facts)
    show_table("VMs" if not one.vm_id else "Steps", _STEP_COLUMNS, _step_rows(one))


@run_app.command()
def cancel(
    run_id: RunId,
    reason: Why,
    actor: Actor = "",
    ticket: Ticket = "",
    wait: Wait = True,
    timeout: Timeout = 0,
    bootstrap: Bootstrap = None,
) -> None:
    """Undo a run that has not passed its point of no return.

    Exit codes: 0 cancelled, 1 error, 3 the run ended otherwise.
    """
    run(bootstrap, lambda config: _cancel(config, run_id, reason, actor, ticket, wait, timeout))


async def _cancel(
    config: Settings, run_id: str, reason: str, actor: str, ticket: str, wait: bool, timeout_s: float
) -> None:
    model = await current(config)
    request = cancellation(model.run(run_id), actor=login_name(actor), reason=reason, ticket=ticket, at_ms=now_ms())
    await _publish(config, request)
    typer.echo(request.run_id)
    if wait:
        ended = await _watch(config, request.run_id, timeout_s)
        raise typer.Exit(0 if ended.state is RunState.CANCELLED else EXIT_CODES[RunState.FAILED])


def cancellation(known: RunSnapshot, *, actor: str, reason: str, ticket: str, at_ms: int) -> FailoverRequested:
    """The request that cancels a run: it has the run's own id and target, so it reaches the same partition.

    Raises:
        LookupFailed: the run has ended.

    """
    if known.state.ended:
        raise LookupFailed(f"run {known.run_id} has ended already: {known.state}; there is nothing left to cancel")
    alone = bool(known.vm_id or known.plan_id)
    return FailoverRequested(
        run_id=known.run_id,
        action=RequestAction.CANCEL,
        kind=known.kind,
        actor=actor,
        reason=reason,
        requested_at_ms=at_ms,
        vm_id=known.vm_id,
        plan_id=known.plan_id if not known.vm_id else "",
        vm_ids=() if alone else tuple(step.step for step in known.steps),
        ticket=ticket,
    )


@run_app.command()
def wait(run_id: RunId, timeout: Timeout = 0, bootstrap: Bootstrap = None) -> None:
    """Watch a run until it has ended; one that no worker has taken up yet is waited for.

    Exit codes: 0 succeeded, 1 error, 2 completed with errors, 3 failed or cancelled, 4 refused.
    """
    run(bootstrap, lambda config: _wait(config, run_id, timeout))


async def _wait(config: Settings, run_id: str, timeout_s: float) -> None:
    try:
        run_id = (await current(config)).run(run_id).run_id
    except LookupFailed as error:
        # A run just asked for may not have been seen by a worker yet: only its whole id can be waited for.
        telemetry.logger(__name__).debug("run not known yet", run_id=run_id, error=error)
    ended = await _watch(config, run_id, timeout_s)
    raise typer.Exit(EXIT_CODES[ended.state])


async def _watch(config: Settings, run_id: str, timeout_s: float) -> RunSnapshot:
    """Show a run until it has ended.

    Raises:
        LookupFailed: it has not ended within `timeout_s`.

    """
    silence = asyncio.get_running_loop().call_later(_SILENCE_S, _say_silence, run_id)

    def seen(known: RunSnapshot) -> None:
        silence.cancel()
        display(known)

    try:
        async with asyncio.timeout(timeout_s or None):
            with _display() as display:
                ended = await _follow(config, run_id, seen)
    except TimeoutError:
        raise LookupFailed(f"run {run_id} has not ended within {timeout_s:g} s; it goes on") from None
    finally:
        silence.cancel()
    _say_end(ended)
    return ended


async def _follow(config: Settings, run_id: str, seen: Callable[[RunSnapshot], None]) -> RunSnapshot:
    codec, key = codec_for(config), run_id.encode()
    # Left to the garbage collector, the consumer would still be closing when the loop is gone.
    async with aclosing(follow(config.bootstrap, _RUNS, names=config.names)) as reading:
        async for records in reading:
            for record in records:
                if record.key != key or record.value is None:
                    continue
                known = codec.decode_from(record.topic, record.value)
                if isinstance(known, RunSnapshot):
                    seen(known)
                    if known.state.ended:
                        return known
    raise KafkaError(f"following {config.bootstrap} ended before run {run_id} did")


@contextmanager
def _display() -> Iterator[Callable[[RunSnapshot], None]]:
    """What shows a run as it goes: a live table at a terminal, else a line for every step that changed."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            yield lambda known: live.update(
                Group(table(f"{known.run_id} {known.state}", _STEP_COLUMNS, _step_rows(known))), refresh=True
            )
        return
    shown: dict[str, tuple[StepState, int]] = {}

    def lines(known: RunSnapshot) -> None:
        for step, row in zip(known.steps, _step_rows(known), strict=True):
            if shown.get(step.step) != (step.state, step.attempt):
                shown[step.step] = (step.state, step.attempt)
                typer.echo("  ".join(cell for cell in map(str, row) if cell))

    yield lines


_STEP_COLUMNS = ("step", "what", "state", "attempt", "seconds", "detail")


def _step_rows(known: RunSnapshot) -> list[tuple[object, ...]]:
    purposes = {step.number: step.purpose for step in WORKFLOWS[known.kind].steps} if known.vm_id else {}
    return [
        (
            step.step,
            purposes.get(step.step, ""),
            step.state,
            step.attempt,
            f"{(step.finished_at_ms - step.started_at_ms) / 1000:.1f}" if step.finished_at_ms else "",
            step.detail,
        )
        for step in known.steps
    ]


def _subject(known: RunSnapshot, model: ReadModel) -> str:
    if known.vm_id:
        return model.vm(known.vm_id).name
    if known.plan_id:
        return f"plan {known.plan_id}"
    return f"{len(known.steps)} VMs"


def _data_loss(known: RunSnapshot) -> str:
    return "not known" if known.data_loss_ms < 0 else f"{known.data_loss_ms / 1000:g} s"


def _say_silence(run_id: str) -> None:
    typer.echo(f"no worker has taken {run_id} up yet: is one running? (`failover-orch worker`)", err=True)


def _say_end(ended: RunSnapshot) -> None:
    seconds = (ended.finished_at_ms - ended.started_at_ms) / 1000
    loss = f"; data lost: {_data_loss(ended)}" if ended.steps else ""
    typer.echo(f"{ended.state} after {seconds:.1f} s{loss}")
    for adapter, found in ended.addresses.items():
        typer.echo(f"{adapter}: {found}")
    if ended.detail:
        typer.echo(ended.detail)
