"""`failover-orch evidence` and `failover-orch witness`: what observers make of sites and nodes."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from failover_orch import telemetry
from failover_orch.cli.access import AsJson, codec_for, moment, now_ms, publisher_for, run, show_json, show_table
from failover_orch.cli.common import Bootstrap, console, reported, settings
from failover_orch.config import Settings
from failover_orch.domain.policies import Evidence, Verdict
from failover_orch.errors import UndecodableRecord
from failover_orch.site import Watched, Witness
from failover_orch.wire import read_to_end

__all__ = ["app", "witness"]

app = typer.Typer(no_args_is_help=True, help="What observers make of sites and nodes: up, unreachable, down, off.")

Place = Annotated[str, typer.Option(help="Where the observer itself is: observers in one place count as one.")]

_TOPIC = "evidence"


@app.command()
def tell(
    observer: Annotated[str, typer.Option(help="Who saw it: a device, a person, a script.")],
    place: Place,
    site: Annotated[str, typer.Option(help="The site that it is about.")],
    verdict: Annotated[
        Verdict,
        typer.Option(case_sensitive=False, help="OFF only where its power is proved to be off."),
    ],
    node: Annotated[str, typer.Option(help="The one node of the site that it is about; else all of it.")] = "",
    detail: Annotated[str, typer.Option(help="What was seen, as a sentence.")] = "",
    bootstrap: Bootstrap = None,
) -> None:
    """Publish what an observer makes of a site or node now: for fence scripts, and for people who have looked."""
    run(bootstrap, lambda config: _tell(config, Evidence(observer, place, site, verdict, now_ms(), node, detail)))


async def _tell(config: Settings, evidence: Evidence) -> None:
    async with publisher_for(config) as publisher:
        await publisher.publish(evidence)
    console.print(f"told: {evidence.observer} has {_subject(evidence)} {evidence.verdict}", markup=False)


@app.command("list")
def list_evidence(as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Show the newest that each observer has told of each site and node."""
    run(bootstrap, lambda config: _list(config, as_json))


async def _list(config: Settings, as_json: bool) -> None:
    newest: dict[bytes, Evidence] = {}
    codec = codec_for(config)
    # Every partition has all of it.
    async for records in read_to_end(config.bootstrap, [_TOPIC], names=config.names, partitions=[0]):
        for record in records:
            if record.value is None:
                newest.pop(record.key, None)
                continue
            try:
                evidence = codec.decode_from(_TOPIC, record.value)
            except UndecodableRecord:  # the workers bury it; here it only must not hide the others
                continue
            known = newest.get(record.key)
            if isinstance(evidence, Evidence) and (known is None or evidence.observed_at_ms >= known.observed_at_ms):
                newest[record.key] = evidence
    listed = sorted(newest.values(), key=lambda one: (one.site, one.node, one.observer))
    if as_json:
        show_json(listed)
        return
    rows = [
        (one.site, one.node, one.verdict, one.observer, one.place, moment(one.observed_at_ms), one.detail)
        for one in listed
    ]
    show_table("", ("site", "node", "verdict", "observer", "in", "seen", "detail"), rows)


def _subject(evidence: Evidence) -> str:
    return f"{evidence.site}/{evidence.node}" if evidence.node else evidence.site


def witness(
    place: Place,
    watch: Annotated[
        list[str],
        typer.Option(
            metavar="SITE[/NODE]=HOST:PORT",
            help="A TCP endpoint that answers while the site, or the node, is up; once for each.",
        ),
    ],
    observer: Annotated[str, typer.Option(help="Its name. [default: witness/PLACE]", show_default=False)] = "",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between probes.")] = 5,
    down_after: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds without an answer after which it says DOWN, which counts as a fence: only for sites that "
            "shut their VMs down once they have been cut off for so long. 0: never.",
        ),
    ] = 0,
    bootstrap: Bootstrap = None,
) -> None:
    """Watch sites from a third place, and tell whether they answer. Ends on SIGTERM or Ctrl-C.

    A site is UP when any of its endpoints answers, UNREACHABLE when none did three times in a row. Without a witness
    two sites that do not see each other cannot tell a dead site from a cut link.
    """
    with reported():
        configuration = settings(bootstrap)
        watched = [Watched.parse(text) for text in watch]
        telemetry.start("witness", configuration)
        try:
            asyncio.run(_witness(configuration, watched, place, observer or f"witness/{place}", every, down_after))
        finally:
            telemetry.stop()


async def _witness(
    config: Settings, watched: list[Watched], place: str, observer: str, every: float, down_after: float
) -> None:
    witness = Witness(
        watched,
        codec_for(config),
        observer=observer,
        place=place,
        bootstrap=config.bootstrap,
        names=config.names,
        partitions=config.partitions,
        every=every,
        down_after=down_after,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, witness.stop)
    await witness.run()
