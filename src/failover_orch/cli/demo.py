"""`failover-orch demo`: what `make demo` runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from failover_orch.cli.common import console, reported
from failover_orch.demo import play

__all__ = ["demo"]


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave Kafka, worker and DR agent running, to look around.")
    ] = False,
    topology: Annotated[
        Path | None, typer.Option(help="Topology to play.  [default: topologies/two-sites.yaml]", show_default=False)
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Where its files go; an earlier demo's there are removed.  [default: in the user's cache]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Watch the broker do its whole job on a local Apache Kafka, with simulated hypervisors.

    Two sites replicate 24 VMs. Replicas move, and the routes follow; one application fails over as planned; then the
    primary site loses power and the rest fails over unplanned. Exit code 0: all that the demo expects of itself held.
    """
    with reported():
        held = asyncio.run(play(console, keep=keep, topology=topology, directory=directory))
    raise typer.Exit(0 if held else 1)
