"""What every command needs: settings, the console, and errors said in one sentence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from failover_orch.cli.harmless import HarmlessConsole
from failover_orch.config import Settings
from failover_orch.errors import ConfigError, FailoverOrchError
from failover_orch.kafka import LocalKafka

__all__ = ["Bootstrap", "console", "fail", "reported", "settings", "stop"]

Bootstrap = Annotated[
    str | None,
    typer.Option(
        "--bootstrap",
        metavar="HOST:PORT[,HOST:PORT...]",
        help="Kafka's address; else FAILOVER_ORCH_BOOTSTRAP, else the local Kafka.",
        show_default=False,
    ),
]
"""The option of every command that talks to Kafka."""

console = HarmlessConsole()
_errors = HarmlessConsole(stderr=True)

# A command that cannot reach Kafka says so in its own sentence; without a handler aiokafka's would come before it.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


def settings(bootstrap: str | None = None) -> Settings:
    """Settings from the environment; Kafka's address from the flag, else the environment, else a running local Kafka.

    Raises:
        ConfigError: a variable is wrong, or there is no Kafka to talk to.

    """
    read = Settings.from_environment()
    address = bootstrap or read.bootstrap
    if not address:
        local = LocalKafka().status()
        if not local.running:
            raise ConfigError(
                "no Kafka to talk to: start the local one with `failover-orch kafka start`, or give an address in "
                "--bootstrap or FAILOVER_ORCH_BOOTSTRAP"
            )
        if local.users_directory is not None and not read.security.protocol.named:
            raise ConfigError(
                f"the local Kafka asks who you are: `source {local.users_directory}/administrator.env`, or another "
                "user's file there"
            )
        address = local.bootstrap
    return read.at(address)


def fail(error: FailoverOrchError) -> NoReturn:
    """Say the error's sentence on stderr and end the command with exit code 1."""
    stop(str(error), 1)


def stop(sentence: str, code: int) -> NoReturn:
    """Say a sentence on stderr and end the command with an exit code."""
    _errors.print(f"failover-orch: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def reported() -> Iterator[None]:
    """`fail` with whatever error of ours is raised within. Anything else is a bug, and keeps its traceback."""
    try:
        yield
    except FailoverOrchError as error:
        fail(error)
