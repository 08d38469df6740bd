"""`failover-orch mirror`: taking over on a Kafka that another one was mirrored to."""

from __future__ import annotations

from typing import Annotated

import typer

from failover_orch.adopting import Adoption, adopt, adoptions
from failover_orch.cli.access import codec_for, run, show_table
from failover_orch.cli.common import Bootstrap
from failover_orch.config import Settings

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Taking over where another Kafka was mirrored to by MirrorMaker 2.")


@app.callback()
def mirror() -> None:
    """Keep `adopt` a word of its own, though it is the only one."""


@app.command("adopt")
def adopt_mirror(
    source: Annotated[str, typer.Option(help="What MirrorMaker 2 calls the Kafka that was mirrored.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would come to, and write nothing.")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Make the mirrored state count this Kafka's offsets, so that workers can go on from it here.

    Only once the other Kafka's workers and site agents are gone and MirrorMaker 2 has been stopped.
    """
    run(bootstrap, lambda config: _adopt(config, source, dry_run))


async def _adopt(config: Settings, source: str, dry_run: bool) -> None:
    found = await adoptions(config, codec_for(config), source=source)
    rows = [
        (adoption.partition, topic, there, adoption.applied[topic], adoption.again[topic])
        for adoption in found
        for topic, there in sorted(adoption.there.items())
    ]
    show_table("", ("partition", "topic", "applied there", "applied here", "taken, at most"), rows)
    if not dry_run:
        for adoption in found:
            await adopt(config, adoption)
    typer.echo(_sentence(found, "would be" if dry_run else "is"))


def _sentence(found: list[Adoption], verb: str) -> str:
    records = sum(sum(adoption.again.values()) for adoption in found)
    heads = sum(len(adoption.chains) for adoption in found)
    ahead = f"; {heads} chains of the audit trail go on from their last entry here" if heads else ""
    return (
        f"the state of {len(found)} partitions {verb} taken over: workers begin with {records} records at most, "
        f"and those that were applied already change nothing{ahead}"
    )
