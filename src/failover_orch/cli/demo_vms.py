"""`failover-orch demo-vms`: what `make demo-vms` runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from failover_orch.cli.common import console, reported
from failover_orch.demo.vms import play

__all__ = ["demo_vms"]


def demo_vms(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running, to look around; also where it did not go well.")
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Where its files go, on a short path; an earlier demo's there are removed.  [default: in the cache]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Watch real virtual machines replicate, move, die and come up at the DR site, on libvirt nodes of this machine.

    Needs Linux and root. Two sites in network namespaces, three libvirt nodes, four tiny VMs. A replica moves, a VM
    fails over as planned and moves on while it runs, the primary site is cut off and fenced, and one VM goes home in
    the end. Exit code 0: all that the demo expects of itself held.
    """
    with reported():
        held = asyncio.run(play(console, keep=keep, directory=directory))
    raise typer.Exit(0 if held else 1)
