"""What people say to runs: `failover-orch run approve`, `commit`, `resume` and the like, in one table."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from failover_orch.cli.access import Actor, Ticket, Why, current, login_name, now_ms, reason_given, run
from failover_orch.cli.common import Bootstrap, console, stop
from failover_orch.cli.terms import Before, RecoveryPoint, wanted_point
from failover_orch.cli.watching import (
    EXIT_CODES,
    EXIT_REFUSED,
    Patience,
    Timeout,
    Wait,
    WaitForPeople,
    answered,
    publish,
    watch,
    watched_from,
)
from failover_orch.config import Settings
from failover_orch.domain import RequestAction, RunState
from failover_orch.errors import ConfigError
from failover_orch.service import acknowledgement, no_such_task, request_to, why_not

__all__ = ["WORDS", "RunId", "Word", "register_words"]

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or the beginning of it.")]
_VmName = Annotated[str, typer.Argument(metavar="VM", help="The VM's id, or its name where only one VM has it.")]
_Step = Annotated[
    str,
    typer.Option(
        metavar="TASK", help="Of a plan's run: the task that it is about, where more than one waits for a person."
    ),
]

_State = RunState


@dataclass(frozen=True, slots=True)
class Word:
    """Something that can be said to a run. `means` are the states in which a run ends that has followed it, if any."""

    action: RequestAction
    help: str
    means: tuple[RunState, ...] = ()

    @property
    def command(self) -> str:
        return self.action.lower().replace("_", "-")


WORDS = (
    Word(RequestAction.APPROVE, "Agree to a run that waits for approval; nobody approves their own request."),
    Word(
        RequestAction.REJECT, "Refuse a run that waits for approval: it ends without having begun.", (_State.REFUSED,)
    ),
    Word(RequestAction.COMMIT, "Keep a failover that awaits commitment; of a test: remove the copy."),
    Word(RequestAction.ROLL_BACK, "Take a failover back that awaits commitment.", (_State.CANCELLED,)),
    Word(RequestAction.TRY_ANOTHER, "Make a failover that awaits commitment again, from another recovery point."),
    Word(RequestAction.RESUME, "Try the step of a parked run again; take up a plan that ended with failures."),
    Word(RequestAction.SKIP, "Go on without the step at which a run is parked, or the task that waits for a person."),
    Word(
        RequestAction.CONFIRM, "Attest that the step at which a run is parked, or the task that waits, has been done."
    ),
    Word(RequestAction.FORWARD, "Turn a run round that is parked while it is undone: it goes forward again."),
    Word(
        RequestAction.ABANDON,
        "End a parked run where it stands, or give up the task that waits.",
        (_State.FAILED, _State.COMPLETED_WITH_ERRORS),
    ),
    Word(RequestAction.CANCEL, "Undo a run that has not passed its point of no return.", (_State.CANCELLED,)),
)
"""Every word that a run can be told, in the order in which `--help` shows them."""

_ABOUT_TASKS = (RequestAction.RESUME, RequestAction.SKIP, RequestAction.CONFIRM, RequestAction.ABANDON)


def register_words(app: typer.Typer) -> None:
    """Give `run` a command for each word, and `acknowledge`."""
    for word in WORDS:
        app.command(word.command, help=word.help, epilog=_codes(word))(_command(word))
    app.command("acknowledge")(acknowledge)


def _codes(word: Word) -> str:
    if word.means:
        done = " or ".join(state.lower().replace("_", " ") for state in word.means)
        ends = f"0 the run has ended {done}, 1 error, 3 it ended otherwise"
    else:
        ends = "0 succeeded, 1 error, 2 completed with errors, 3 failed or cancelled"
    return f"Exit codes: {ends}, 4 refused, 5 a person has to say something first."


def _command(word: Word) -> Callable[..., None]:
    """The command that says a word; with the options that the word has a use for."""

    def plain(
        run_id: RunId,
        reason: Why,
        actor: Actor = "",
        ticket: Ticket = "",
        wait: Wait = True,
        wait_for_people: WaitForPeople = False,
        timeout: Timeout = 0,
        bootstrap: Bootstrap = None,
    ) -> None:
        said = _Said(word, run_id, actor, reason, ticket)
        run(bootstrap, lambda config: _say(config, said, Patience(wait, timeout, wait_for_people)))

    def about_a_task(
        run_id: RunId,
        reason: Why,
        step: _Step = "",
        actor: Actor = "",
        ticket: Ticket = "",
        wait: Wait = True,
        wait_for_people: WaitForPeople = False,
        timeout: Timeout = 0,
        bootstrap: Bootstrap = None,
    ) -> None:
        said = _Said(word, run_id, actor, reason, ticket, step=step)
        run(bootstrap, lambda config: _say(config, said, Patience(wait, timeout, wait_for_people)))

    def from_a_point(
        run_id: RunId,
        reason: Why,
        recovery_point: RecoveryPoint = "",
        before: Before = "",
        actor: Actor = "",
        ticket: Ticket = "",
        wait: Wait = True,
        wait_for_people: WaitForPeople = False,
        timeout: Timeout = 0,
        bootstrap: Bootstrap = None,
    ) -> None:
        said = _Said(word, run_id, actor, reason, ticket, recovery_point=recovery_point, before=before)
        run(bootstrap, lambda config: _say(config, said, Patience(wait, timeout, wait_for_people)))

    if word.action is RequestAction.TRY_ANOTHER:
        return from_a_point
    return about_a_task if word.action in _ABOUT_TASKS else plain


@dataclass(frozen=True, slots=True)
class _Said:
    """A word as it was said on the command line."""

    word: Word
    run_id: str
    actor: str
    reason: str
    ticket: str
    step: str = ""
    recovery_point: str = ""
    before: str = ""


async def _say(config: Settings, said: _Said, patience: Patience) -> None:
    word, reason, actor, at_ms = said.word, reason_given(said.reason), login_name(said.actor), now_ms()
    point = wanted_point(said.recovery_point, said.before, at_ms)
    if word.action is RequestAction.TRY_ANOTHER and not (said.recovery_point or said.before):
        raise ConfigError("name the recovery point to try, with --recovery-point or --before")
    since = await watched_from(config)
    known = (await current(config)).run(said.run_id)
    against = why_not(known, word.action) or no_such_task(known, said.step)
    if against:
        stop(against, EXIT_REFUSED)
    request = replace(
        request_to(known, word.action, actor=actor, reason=reason, at_ms=at_ms),
        ticket=said.ticket,
        step=said.step,
        point=point,
    )
    await publish(config, request)
    typer.echo(request.run_id)
    if patience.wait:
        ended = await watch(config, request.run_id, patience, since, word=request)
        means = dict.fromkeys(word.means, 0)
        raise typer.Exit(means.get(ended.state, 3) if means else EXIT_CODES[ended.state])


def acknowledge(
    vm: _VmName,
    reason: Why,
    actor: Actor = "",
    ticket: Ticket = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the broker's answer.")] = True,
    timeout: Timeout = 0,
    bootstrap: Bootstrap = None,
) -> None:
    """Say that you have looked into a VM's last automatic failover: another one may follow before its cooldown is over.

    Exit codes: 0 acknowledged, 1 error, 4 refused: there is nothing to acknowledge.
    """
    run(bootstrap, lambda config: _acknowledge(config, vm, reason, actor, ticket, wait, timeout))


async def _acknowledge(
    config: Settings, name: str, reason: str, actor: str, ticket: str, wait: bool, timeout_s: float
) -> None:
    vm = (await current(config)).vm(name)
    request = acknowledgement(
        vm,
        f"acknowledgement-{uuid.uuid4().hex}",
        actor=login_name(actor),
        reason=reason_given(reason),
        ticket=ticket,
        at_ms=now_ms(),
    )
    since = await watched_from(config)
    await publish(config, request)
    if wait:
        await answered(config, request, since, timeout_s)
        console.print(f"the automatic failovers of {vm.name} are acknowledged", highlight=False, markup=False)
