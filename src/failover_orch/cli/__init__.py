"""The `failover-orch` command: one module a command or family of commands, put together here."""

from __future__ import annotations

import typer

from failover_orch.cli import (
    audit,
    demo,
    demo_vms,
    evidence,
    explain,
    failover,
    kafka,
    mirror,
    plans,
    policies,
    replay,
    runs,
    serve,
    settings,
    site_agent,
    token,
    topics,
    topology,
    vm,
    worker,
    world,
)
from failover_orch.cli.harmless import guard_output

__all__ = ["main"]

app = typer.Typer(
    name="failover-orch",
    help="A replica broker: knows where every replica lives, and fails VMs over to the DR site.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
plans.app.command("dry-run")(explain.dry_run)
vm.app.command("dry-run")(explain.vm_dry_run)
runs.app.command("report")(explain.report)
for name, family in (
    ("vm", vm.app),
    ("failover", failover.app),
    ("run", runs.app),
    ("plan", plans.app),
    ("policy", policies.app),
    ("brake", policies.brake_app),
    ("settings", settings.app),
    ("evidence", evidence.app),
    ("explain", explain.app),
    ("topology", topology.app),
    ("audit", audit.app),
    ("kafka", kafka.app),
    ("mirror", mirror.app),
    ("topics", topics.app),
    ("token", token.app),
    ("world", world.app),
):
    app.add_typer(family, name=name)
for command in (
    vm.place,
    plans.readiness,
    worker.worker,
    site_agent.site_agent,
    evidence.witness,
    serve.serve,
    replay.replay,
    demo.demo,
    demo_vms.demo_vms,
):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    guard_output()
    app()
