"""The `failover-orch` command: one module a command or family of commands, put together here."""

from __future__ import annotations

import typer

from failover_orch.cli import (
    audit,
    demo,
    failover,
    kafka,
    replay,
    serve,
    site_agent,
    topics,
    topology,
    vm,
    worker,
    world,
)

__all__ = ["main"]

app = typer.Typer(
    name="failover-orch",
    help="A replica broker: knows where every replica lives, and fails VMs over to the DR site.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
for name, family in (
    ("vm", vm.app),
    ("failover", failover.app),
    ("run", failover.run_app),
    ("topology", topology.app),
    ("audit", audit.app),
    ("kafka", kafka.app),
    ("topics", topics.app),
    ("world", world.app),
):
    app.add_typer(family, name=name)
for command in (
    vm.place,
    worker.worker,
    site_agent.site_agent,
    serve.serve,
    replay.replay,
    demo.demo,
):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    app()
