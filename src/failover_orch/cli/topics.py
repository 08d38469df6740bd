"""`failover-orch topics`: making the topics, and seeing whether they are as they ought to be."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Column, Table

from failover_orch.cli.common import Bootstrap, console, reported, settings
from failover_orch.kafka import (
    DesiredTopic,
    Difference,
    TopicsReport,
    check_topics,
    create_topics,
    default_replication,
    desired_topics,
)

__all__ = ["app"]

app = typer.Typer(help="The topics of the contract on a Kafka.", no_args_is_help=True)

Sites = Annotated[
    list[str] | None,
    typer.Option("--site", help="A site with site agents, once for each; default: primary and dr.", show_default=False),
]
Replication = Annotated[
    int | None,
    typer.Option("--replication", min=1, help="Copies of each topic; default: 3 with 3 brokers or more, else 1."),
]
Partitions = Annotated[
    int | None,
    typer.Option("--partitions", min=1, help="Of each topic; default: FAILOVER_ORCH_PARTITIONS, else 8."),
]
SITES = ("primary", "dr")
"""The sites of `topologies/two-sites.yaml`."""


@app.command()
def create(
    sites: Sites = None,
    replication: Replication = None,
    partitions: Partitions = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Make the topics that are missing and say what differs in the others. Exit code 1 when a difference matters."""
    with reported():
        _finish(asyncio.run(_create(bootstrap, sites or SITES, replication, partitions)))


@app.command()
def check(
    sites: Sites = None,
    replication: Replication = None,
    partitions: Partitions = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Say what is missing and what differs, and change nothing. Exit code 1 when a worker could not run on it."""
    with reported():
        _finish(asyncio.run(_check(bootstrap, sites or SITES, replication, partitions)))


async def _create(
    bootstrap: str | None, sites: Sequence[str], replication: int | None, partitions: int | None
) -> tuple[list[DesiredTopic], TopicsReport]:
    address, desired = await _desired(bootstrap, sites, replication, partitions)
    return desired, await create_topics(address, desired)


async def _check(
    bootstrap: str | None, sites: Sequence[str], replication: int | None, partitions: int | None
) -> tuple[list[DesiredTopic], TopicsReport]:
    address, desired = await _desired(bootstrap, sites, replication, partitions)
    return desired, await check_topics(address, desired)


async def _desired(
    bootstrap: str | None, sites: Sequence[str], replication: int | None, partitions: int | None
) -> tuple[str, list[DesiredTopic]]:
    known = settings(bootstrap)
    if partitions is not None:
        known = dataclasses.replace(known, partitions=partitions)
    copies = replication or await default_replication(known.bootstrap)
    return known.bootstrap, desired_topics(known, sites, copies)


def _finish(result: tuple[list[DesiredTopic], TopicsReport]) -> None:
    desired, report = result
    console.print(_topics_table(desired, report))
    if report.differences:
        console.print(_differences_table(report.differences))
    if not report.usable:
        raise typer.Exit(1)


def _topics_table(desired: Sequence[DesiredTopic], report: TopicsReport) -> Table:
    differing = {difference.topic for difference in report.differences}
    table = Table(Column("topic", overflow="fold"), "partitions", "copies", "kept", "state")
    for topic in desired:
        if topic.name in report.missing:
            state = "missing"
        elif topic.name in report.created:
            state = "created"
        else:
            state = "differs" if topic.name in differing else "as it ought to be"
        table.add_row(topic.name, str(topic.partitions), str(topic.replication), str(topic.kept), state)
    return table


def _differences_table(differences: Sequence[Difference]) -> Table:
    table = Table(Column("topic", overflow="fold"), "setting", "ought to be", "is", "matters")
    for difference in differences:
        matters = "yes" if difference.matters else "no"
        table.add_row(difference.topic, difference.setting, difference.expected, difference.found, matters)
    return table
