"""What the commands that ask and tell the broker have in common: reading the state of things, publishing, printing."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
import orjson
import typer
from rich.table import Table
from rich.text import Text

from failover_orch import telemetry
from failover_orch.cli.common import console, reported, settings
from failover_orch.cli.harmless import HarmlessConsole
from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.errors import ConfigError
from failover_orch.service import ReadModel, read_now
from failover_orch.wire import Publisher, now_ms

__all__ = [
    "Actor",
    "AsJson",
    "Reason",
    "Ticket",
    "Why",
    "codec_for",
    "current",
    "login_name",
    "moment",
    "now_ms",
    "publisher_for",
    "reason_given",
    "run",
    "show_json",
    "show_table",
    "table",
]

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the HTTP service answers it.")]
Actor = Annotated[str, typer.Option(help="Who asks for it.", show_default="the login name")]
Reason = Annotated[str, typer.Option(help="Why; it goes into the journal.")]
Why = Annotated[str, typer.Option("--reason", help="Why; it goes into the journal.")]
"""The reason where there has to be one."""
Ticket = Annotated[str, typer.Option(help="The ticket that this belongs to.")]

_WIDE = 200
"""Columns where the output is not a terminal: whoever reads it there wants every word."""


def run(bootstrap: str | None, work: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    """Do a command's work. An error of ours becomes one sentence and exit code 1."""
    with reported():
        config = settings(bootstrap)
        chatty = config.log_level == "DEBUG"
        # The client's own account of a broker that is away, line after line, would drown our one sentence.
        telemetry.start("cli", config if chatty else replace(config, log_level="WARNING"), libraries="CRITICAL")
        try:
            return asyncio.run(work(config))
        finally:
            telemetry.stop()


def codec_for(config: Settings) -> Codec:
    """The codec in the framing that the settings ask for."""
    return Codec.for_registry(config.schema_registry_url)


async def current(config: Settings) -> ReadModel:
    """All that the topics say now. Raises KafkaUnavailable or TopicMismatch."""
    return await read_now(config.bootstrap, names=config.names, codec=codec_for(config))


def publisher_for(config: Settings) -> Publisher:
    """A publisher of the command line's events."""
    return Publisher(
        config.bootstrap, codec_for(config), names=config.names, partitions=config.partitions, source="cli"
    )


def login_name(actor: str) -> str:
    """`actor`, or who is logged in.

    Raises:
        ConfigError: nobody is, as in a container that runs under a bare user id.

    """
    if actor:
        return actor
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ConfigError("this login has no name: say who you are with --actor") from error


def reason_given(reason: str) -> str:
    """The reason, without spaces around it. Raises ConfigError where there is none."""
    if not reason.strip():
        raise ConfigError("--reason is empty: say why, the journal keeps it")
    return reason.strip()


def moment(at_ms: int) -> str:
    """A time as a person reads it, local; empty for 0."""
    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S") if at_ms else ""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table of plain text: nothing in it is taken for markup."""
    made = Table(title=Text(title) if title else None, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, in full width where the output is not a terminal."""
    printer = console if console.is_terminal else HarmlessConsole(width=_WIDE)
    printer.print(table(title, columns, rows))


def show_json(value: object) -> None:
    """Print a form of the service as JSON."""
    typer.echo(orjson.dumps(msgspec.to_builtins(value), option=orjson.OPT_INDENT_2).decode())
