"""`failover-orch topics`: making the topics, and seeing whether they are as they ought to be."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import typer
from rich.table import Column, Table

from failover_orch.cli.common import Bootstrap, console, reported, settings
from failover_orch.config import Settings
from failover_orch.contract import User
from failover_orch.errors import ConfigError
from failover_orch.kafka import (
    Acl,
    AclsReport,
    DesiredTopic,
    Difference,
    Pattern,
    TopicsReport,
    UserNames,
    check_acls,
    check_topics,
    create_acls,
    create_topics,
    default_replication,
    desired_topics,
    wanted_acls,
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


Acls = Annotated[
    bool,
    typer.Option("--acls", help="The users' rights too, the least that each needs."),
]
UserPrefix = Annotated[
    str,
    typer.Option(
        "--user-prefix",
        metavar="TEXT",
        help="Before every user's name, as in acme-worker.",
        show_default=False,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--user",
        metavar="USER=NAME",
        help="What a user is called on this Kafka, once for each; a site's agents are NAME-SITE.",
        show_default=False,
    ),
]
AsCommands = Annotated[
    bool, typer.Option("--commands", help="As arguments of Kafka's own kafka-acls.sh, one line each.")
]


@app.command()
def create(
    sites: Sites = None,
    replication: Replication = None,
    partitions: Partitions = None,
    acls: Acls = False,
    user_prefix: UserPrefix = "",
    users: Names = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Make the topics that are missing and say what differs in the others. Exit code 1 when a difference matters.

    With --acls make the ACLs that are missing too. Nothing that is there is changed or taken away.
    """
    with reported():
        names = _user_names(user_prefix, users)
        known = _known(bootstrap, partitions)
        asyncio.run(_compare(known, sites or SITES, replication, names if acls else None, create_topics, create_acls))


@app.command()
def check(
    sites: Sites = None,
    replication: Replication = None,
    partitions: Partitions = None,
    acls: Acls = False,
    user_prefix: UserPrefix = "",
    users: Names = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Say what is missing and what differs, and change nothing. Exit code 1 when a worker could not run on it.

    With --acls say also which rights are missing, and which are there that nobody needs; either is exit code 1.
    """
    with reported():
        names = _user_names(user_prefix, users)
        known = _known(bootstrap, partitions)
        asyncio.run(_compare(known, sites or SITES, replication, names if acls else None, check_topics, check_acls))


@app.command("acls")
def show_acls(
    sites: Sites = None, user_prefix: UserPrefix = "", users: Names = None, as_commands: AsCommands = False
) -> None:
    """Show who needs which right, for whoever makes ACLs by other means. Asks no Kafka."""
    with reported():
        names = _user_names(user_prefix, users)
        wanted = wanted_acls(Settings.from_environment(), sites or SITES, names)
        if as_commands:
            for acl in wanted:
                typer.echo(acl.command)
        else:
            console.print(_acls_table("", wanted))


def _known(bootstrap: str | None, partitions: int | None) -> Settings:
    known = settings(bootstrap)
    return known if partitions is None else dataclasses.replace(known, partitions=partitions)


async def _compare(
    known: Settings,
    sites: Sequence[str],
    replication: int | None,
    names: UserNames | None,
    topics: Callable[[str, Sequence[DesiredTopic]], Awaitable[TopicsReport]],
    acls: Callable[[str, Sequence[Acl]], Awaitable[AclsReport]],
) -> None:
    """Make or check the topics and, with `names`, the ACLs; show what there is. Exit code 1 where that will not do."""
    desired = desired_topics(known, sites, replication or await default_replication(known.bootstrap))
    usable = _show_topics(desired, await topics(known.bootstrap, desired))
    if names is not None:
        usable &= _show_acls(await acls(known.bootstrap, wanted_acls(known, sites, names)))
    if not usable:
        raise typer.Exit(1)


def _user_names(prefix: str, named: Sequence[str] | None) -> UserNames:
    found: dict[User, str] = {}
    for text in named or ():
        user, equals, name = text.partition("=")
        if user not in list(User) or not equals or not name:
            raise ConfigError(f"--user {text}: expected USER=NAME, where USER is one of {', '.join(User)}")
        found[User(user)] = name
    return UserNames(prefix, found)


def _show_topics(desired: Sequence[DesiredTopic], report: TopicsReport) -> bool:
    """Show the topics; returns whether a worker may run on them."""
    console.print(_topics_table(desired, report))
    if report.differences:
        console.print(_differences_table(report.differences))
    return report.usable


def _show_acls(report: AclsReport) -> bool:
    """Show what is made, missing and too much; returns whether everybody may do what they need, and nothing else."""
    console.print(f"{len(report.created)} ACLs made, {len(report.present)} as they ought to be", highlight=False)
    if report.missing:
        console.print(_acls_table("Missing", report.missing))
    if report.excess:
        console.print(_acls_table("More than anybody needs", report.excess))
    return report.least


def _acls_table(title: str, acls: Sequence[Acl]) -> Table:
    columns = (Column("user", overflow="fold"), "", "right", "on", Column("name", overflow="fold"))
    table = Table(*columns, title=title or None)
    for acl in acls:
        name = f"{acl.name}..." if acl.pattern is Pattern.PREFIXED else acl.name
        kind = acl.resource.name.lower().replace("_", " ")
        table.add_row(acl.principal.removeprefix("User:"), acl.permission.name.lower(), acl.operation.name, kind, name)
    return table


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
