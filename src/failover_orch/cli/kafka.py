"""`failover-orch kafka`: an Apache Kafka on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from failover_orch.cli.common import console, reported
from failover_orch.cli.topics import SITES
from failover_orch.kafka import SUPER_USER, LocalKafka

__all__ = ["app"]

app = typer.Typer(help="An Apache Kafka on this machine, for trials and the demo.", no_args_is_help=True)

Directory = Annotated[
    Path | None,
    typer.Option("--directory", help="Where it keeps data, logs and ports; default: in the user's cache directory."),
]


@app.command()
def start(
    brokers: Annotated[
        int | None, typer.Option("--brokers", help="1 or 3; default: as many as it had, else 1.", show_default=False)
    ] = None,
    secure: Annotated[
        bool | None,
        typer.Option(
            "--secure/--open",
            help="TLS, passwords, and nothing allowed that no ACL allows; default: as it is there, else open.",
            show_default=False,
        ),
    ] = None,
    sites: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            help="With --secure, at the first start: a site whose agents get a user; default: primary and dr.",
            show_default=False,
        ),
    ] = None,
    directory: Directory = None,
) -> None:
    """Start Kafka and wait until it takes work. The first time fetches it with Maven. Data is kept across restarts."""
    with reported():
        kafka = LocalKafka(directory, brokers=brokers, secure=secure, sites=sites or SITES)
        with console.status("starting Apache Kafka"):
            kafka.start()
        console.print(f"Kafka runs at {kafka.bootstrap}", highlight=False, soft_wrap=True)
        users = kafka.status().users_directory
        if users is not None:
            console.print(_how_to_be_let_in(users), highlight=False, markup=False, soft_wrap=True)


@app.command()
def stop(directory: Directory = None) -> None:
    """Stop Kafka and wait until it is gone. Data is kept."""
    with reported():
        kafka = LocalKafka(directory)
        with console.status("stopping Apache Kafka"):
            stopped = kafka.stop()
        console.print("Kafka is stopped" if stopped else "Kafka was not running")


@app.command()
def status(directory: Directory = None) -> None:
    """Say what runs, where it listens and where it logs. Exit code 1 when nothing runs."""
    with reported():
        found = LocalKafka(directory).status()
        if found.brokers:
            table = Table("broker", "address", "process", Column("log", overflow="fold"))
            for broker in found.brokers:
                process = "stopped" if broker.pid is None else str(broker.pid)
                table.add_row(str(broker.number), broker.address, process, str(broker.log))
            console.print(table)
            if found.users_directory is not None:
                console.print(_how_to_be_let_in(found.users_directory), highlight=False, markup=False, soft_wrap=True)
        else:
            console.print(f"Kafka was never started in {found.directory}", highlight=False, soft_wrap=True)
        if not found.running:
            raise typer.Exit(1)


def _how_to_be_let_in(users: Path) -> str:
    return (
        f"It is secure; passwords and settings of its users are in {users}. Begin as its super user:\n"
        f"  source {users / SUPER_USER}.env && failover-orch topics create --acls\n"
        f"Each process has a user of its own, such as {users / 'worker'}.env."
    )
