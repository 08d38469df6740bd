"""`failover-orch audit`: whether the audit trail is whole, and a copy of it to keep elsewhere."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from failover_orch.audit import Report, export, verify_file, verify_topics
from failover_orch.cli.access import codec_for
from failover_orch.cli.common import Bootstrap, console, reported, settings

__all__ = ["app", "audit_table"]

app = typer.Typer(help="The audit trail: who did what, hash-chained.", no_args_is_help=True)


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Option("--file", help="An export to verify in place of the topics.", show_default=False)
    ] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Find every changed, removed, reordered or forged entry. Exit code 1 when there is one."""
    with reported():
        if file is not None:
            report = verify_file(file)
        else:
            known = settings(bootstrap)
            report = asyncio.run(
                verify_topics(known.bootstrap, names=known.names, codec=codec_for(known), app_id=known.app_id)
            )
    _finish(report)


@app.command(name="export")
def export_to(
    file: Annotated[Path, typer.Argument(help="Where to write it, as JSON lines.")], bootstrap: Bootstrap = None
) -> None:
    """Write the whole trail to a file that `verify --file` takes, and verify it on the way."""
    with reported():
        known = settings(bootstrap)
        report = asyncio.run(
            export(file, known.bootstrap, names=known.names, codec=codec_for(known), app_id=known.app_id)
        )
    _finish(report)


def audit_table(report: Report) -> Table:
    """The chains of a report as a table."""
    table = Table("chain", "entries", "last", "findings")
    for chain in report.chains:
        found = Text(str(chain.findings), style="red" if chain.findings else "green")
        table.add_row(Text(chain.chain or "(none)"), str(chain.entries), str(chain.last_sequence), found)
    return table


def _finish(report: Report) -> None:
    console.print(audit_table(report))
    for finding in report.findings:
        console.print(Text(str(finding), style="red"), soft_wrap=True)
    entries = sum(chain.entries for chain in report.chains)
    if report.sound:
        console.print(f"{entries} entries in {len(report.chains)} chains: every one is there and as it was written")
    else:
        console.print(f"{entries} entries in {len(report.chains)} chains, {len(report.findings)} findings")
        raise typer.Exit(1)
