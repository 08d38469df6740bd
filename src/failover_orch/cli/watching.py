"""Watching a run until it has ended, waits for a person, or the broker has refused what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live

from failover_orch import telemetry
from failover_orch.cli.access import codec_for, publisher_for, table
from failover_orch.cli.common import console, stop
from failover_orch.config import Settings
from failover_orch.domain import (
    WORKFLOWS,
    AuditEntry,
    FailoverRequested,
    JournalEntry,
    RunSnapshot,
    RunState,
    StepState,
)
from failover_orch.errors import KafkaError, LookupFailed, UndecodableRecord
from failover_orch.wire import Positions, follow, positions_now

__all__ = [
    "EXIT_CODES",
    "EXIT_REFUSED",
    "EXIT_WAITS",
    "Patience",
    "Timeout",
    "Wait",
    "WaitForPeople",
    "answered",
    "data_loss",
    "publish",
    "silence_notice",
    "step_columns",
    "step_rows",
    "values",
    "watch",
    "watched_from",
]

EXIT_REFUSED = 4
EXIT_WAITS = 5
"""Exit code of a command that stopped waiting because a person has to say something first."""
EXIT_CODES = {
    RunState.SUCCEEDED: 0,
    RunState.COMPLETED_WITH_ERRORS: 2,
    RunState.FAILED: 3,
    RunState.CANCELLED: 3,
    RunState.REFUSED: EXIT_REFUSED,
}
"""Exit code of a command that waited for a run, by the state in which the run ended."""

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Watch until the run has ended.")]
WaitForPeople = Annotated[
    bool, typer.Option("--wait-for-people", help="Go on watching while the run waits for a person.")
]
Timeout = Annotated[float, typer.Option(min=0, help="Seconds to wait at most; 0 for as long as it takes.")]

_RUNS = ("failover-runs", "failover-journal")
_ANSWERS = ("audit-trail", "failover-journal")
_SILENCE_S = 10.0
"""After so long without a word from a worker the person is told."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How a command waits: at all, for how long (0: without end), and also while a person has to say something."""

    wait: bool
    timeout_s: float
    for_people: bool


async def watched_from(config: Settings) -> Positions:
    """Where to begin watching: what follows from a request published after this is all behind it."""
    return await positions_now(config.bootstrap, {*_RUNS, *_ANSWERS}, names=config.names)


async def publish(config: Settings, request: FailoverRequested) -> None:
    """Publish a request. The run's trace begins here, and goes through the worker to the site agents and back."""
    attributes = {"run_id": request.run_id, "kind": request.kind.value, "actor": request.actor}
    with telemetry.span(f"failover {request.action.lower()}", attributes=attributes) as span:
        async with publisher_for(config) as publisher:
            await publisher.publish(request, traceparent=span.traceparent)


class _Stopped(Exception):
    """What ends a command that watches: the sentence to say and the exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


async def watch(
    config: Settings,
    run_id: str,
    patience: Patience,
    since: Positions,
    *,
    known: Sequence[RunSnapshot] = (),
    word: FailoverRequested | None = None,
) -> RunSnapshot:
    """Show a run until it has ended.

    `known` is how it and its VMs' runs stood at `since`, `word` what it has been told since. Ends the command where the
    run waits for a person (exit code 5), or the broker refuses the word (4).

    Raises:
        LookupFailed: it has not ended within the time.

    """
    silence = silence_notice(f"no worker has {'answered' if word else f'taken {run_id} up'} yet")
    try:
        async with asyncio.timeout(patience.timeout_s or None):
            with _display() as display:

                def seen(shown: RunSnapshot) -> None:
                    silence.cancel()
                    display(shown)

                ended = await _end_of(config, _Watched(run_id, patience.for_people, word, seen), since, known)
    except _Stopped as stopped:
        stop(str(stopped), stopped.code)
    except TimeoutError:
        raise LookupFailed(f"run {run_id} has not ended within {patience.timeout_s:g} s; it goes on") from None
    finally:
        silence.cancel()
    _say_end(ended)
    return ended


async def answered(config: Settings, request: FailoverRequested, since: Positions, timeout_s: float) -> None:
    """Wait until the broker has taken a word that concerns no run; ends the command where it refuses it (4).

    Raises:
        LookupFailed: it has not answered within the time.

    """
    silence = silence_notice("no worker has answered yet")
    try:
        async with asyncio.timeout(timeout_s or None), aclosing(values(config, _ANSWERS, since)) as following:
            async for value in following:
                _look_for_refusal(value, request)
                if isinstance(value, AuditEntry) and value.evidence.get("run") == request.run_id:
                    if value.outcome == "accepted":
                        return
                    silence.cancel()  # the reason is in the journal, a moment later
    except _Stopped as stopped:
        stop(str(stopped), stopped.code)
    except TimeoutError:
        raise LookupFailed(f"no answer within {timeout_s:g} s; it will be in the journal") from None
    finally:
        silence.cancel()
    raise KafkaError(f"following {config.bootstrap} ended before the answer came")


async def _end_of(config: Settings, watched: _Watched, since: Positions, known: Sequence[RunSnapshot]) -> RunSnapshot:
    for shown in known:
        if watched.ended(shown):
            return shown
    # Left to the garbage collector, the consumer would still be closing when the loop is gone.
    async with aclosing(values(config, _RUNS, since)) as following:
        async for value in following:
            watched.look_for_refusal(value)
            if isinstance(value, RunSnapshot) and watched.ended(value):
                return value
    raise KafkaError(f"following {config.bootstrap} ended before run {watched.run_id} did")


@dataclass(frozen=True, slots=True)
class _Watched:
    """A run that is watched, and when the watch is over."""

    run_id: str
    for_people: bool
    word: FailoverRequested | None
    display: Callable[[RunSnapshot], None]

    def ended(self, shown: RunSnapshot) -> bool:
        """Whether the run has ended with this snapshot, which may be another run's. Raises _Stopped."""
        mine = shown.run_id == self.run_id
        if mine:
            self.display(shown)
            if shown.state.ended:
                return True
        # Of a plan's VMs only where one is parked: the plan speaks for the others.
        needed = mine or (shown.parent_run_id == self.run_id and shown.state is RunState.PARKED)
        if needed and shown.waits_for and not self.for_people:
            raise _Stopped(f"run {shown.run_id} waits: {shown.waits_for}; {_told(shown)}", EXIT_WAITS)
        return False

    def look_for_refusal(self, value: object) -> None:
        """Raise _Stopped where this is the journal's entry of a refusal of the word."""
        if self.word is not None:
            _look_for_refusal(value, self.word)


def _told(shown: RunSnapshot) -> str:
    choices = "|".join(choice.lower().replace("_", "-") for choice in shown.choices)
    return f"tell it with `failover-orch run {choices}`" if choices else "see `failover-orch run show`"


def _look_for_refusal(value: object, word: FailoverRequested) -> None:
    """Stop where this is the journal's entry of a word that was refused; others may tell the same run other words."""
    if (
        isinstance(value, JournalEntry)
        and value.run_id == word.run_id
        and (value.actor, value.reason) == (word.actor, word.reason)
        and value.what.startswith(f"refused: {word.action.lower().replace('_', ' ')}:")
    ):
        raise _Stopped(f"{value.rule}: {value.what}", EXIT_REFUSED)


async def values(config: Settings, topics: Sequence[str], since: Positions) -> AsyncGenerator[object, None]:
    """Follow topics from there on, decoded."""
    codec = codec_for(config)
    async with aclosing(follow(config.bootstrap, topics, names=config.names, since=since)) as reading:
        async for records in reading:
            for record in records:
                if record.value is None:
                    continue
                try:
                    yield codec.decode_from(record.topic, record.value)
                except UndecodableRecord:  # somebody else's rubbish: it must not end the watch
                    continue


@contextmanager
def _display() -> Iterator[Callable[[RunSnapshot], None]]:
    """What shows a run as it goes: a live table at a terminal, else a line for every step that changed."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            yield lambda known: live.update(
                Group(table(f"{known.run_id} {known.state}", step_columns(known), step_rows(known))), refresh=True
            )
        return
    shown: dict[str, tuple[StepState, int]] = {}

    def lines(known: RunSnapshot) -> None:
        for step, row in zip(known.steps, step_rows(known), strict=True):
            if shown.get(step.step) != (step.state, step.attempt):
                shown[step.step] = (step.state, step.attempt)
                typer.echo("  ".join(cell for cell in map(str, row) if cell))

    yield lines


def step_columns(known: RunSnapshot) -> tuple[str, ...]:
    """The columns of `step_rows`."""
    return (*(("group",) if _grouped(known) else ()), "step", "what", "state", "attempt", "seconds", "detail")


def step_rows(known: RunSnapshot) -> list[tuple[object, ...]]:
    """A run's steps as rows of a table; those of a plan's run with their groups."""
    purposes = {step.number: step.purpose for step in WORKFLOWS[known.kind].steps} if known.vm_id else {}
    groups = known.groups if _grouped(known) else ()
    return [
        (
            *groups[number : number + 1],
            step.step,
            purposes.get(step.step, ""),
            step.state,
            step.attempt,
            f"{(step.finished_at_ms - step.started_at_ms) / 1000:.1f}" if step.finished_at_ms else "",
            step.detail,
        )
        for number, step in enumerate(known.steps)
    ]


def _grouped(known: RunSnapshot) -> bool:
    return bool(known.plan_id) and not known.vm_id and len(known.groups) == len(known.steps)


def data_loss(known: RunSnapshot) -> str:
    """What a run has lost, as a person reads it."""
    return "not known" if known.data_loss_ms < 0 else f"{known.data_loss_ms / 1000:g} s"


def silence_notice(sentence: str) -> asyncio.TimerHandle:
    """Say after a while that nobody has answered, unless it is cancelled."""
    loop = asyncio.get_running_loop()
    return loop.call_later(
        _SILENCE_S, lambda: typer.echo(f"{sentence}: is one running? (`failover-orch worker`)", err=True)
    )


def _say_end(ended: RunSnapshot) -> None:
    seconds = (ended.finished_at_ms - ended.started_at_ms) / 1000
    loss = f"; data lost: {data_loss(ended)}" if ended.steps else ""
    typer.echo(f"{ended.state} after {seconds:.1f} s{loss}")
    for adapter, found in ended.addresses.items():
        typer.echo(f"{adapter}: {found}")
    if ended.detail:
        typer.echo(ended.detail)
