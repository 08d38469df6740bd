"""`failover-orch failover`: ask for failovers, and watch what becomes of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import typer

from failover_orch.cli.access import Actor, Ticket, Why, current, login_name, now_ms, reason_given, run
from failover_orch.cli.common import Bootstrap
from failover_orch.cli.terms import (
    LATEST_WORD,
    Before,
    Commit,
    Committing,
    RecoveryPoint,
    committing,
    keeping,
    wanted_point,
)
from failover_orch.cli.watching import (
    EXIT_CODES,
    Patience,
    Timeout,
    Wait,
    WaitForPeople,
    publish,
    watch,
    watched_from,
)
from failover_orch.config import Settings
from failover_orch.domain import FailoverKind
from failover_orch.service import Wish

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Fail VMs over to their replicas, and back.")

VmNames = Annotated[
    list[str] | None, typer.Argument(metavar="[VM]...", help="VMs by id or name; several go side by side.")
]
Plan = Annotated[str, typer.Option(help="A recovery plan by id or name, in place of VMs.")]
MaxInFlight = Annotated[
    int,
    typer.Option(
        min=0,
        help="How many VMs may be under way at once.",
        show_default="all, or as the plan says",
    ),
]
_CODES = (
    "Exit codes: 0 succeeded, 1 error, 2 completed with errors, 3 failed or cancelled, 4 refused, "
    "5 a person has to say something first."
)

_PLAIN = {
    FailoverKind.PLANNED: (
        "Move VMs to their replicas without losing anything: the primary is shut down and the last changes are shipped."
    ),
    FailoverKind.REPROTECT: (
        "Replicate VMs again after an unplanned failover: what was their primary becomes the replica."
    ),
    FailoverKind.FAILBACK: "Move VMs, without losing anything, back to the site where they are at home.",
}
"""The kinds that leave nothing to choose, and what each does."""


def _plain(kind: FailoverKind) -> Callable[..., None]:
    def command(
        reason: Why,
        vms: VmNames = None,
        plan: Plan = "",
        max_in_flight: MaxInFlight = 0,
        actor: Actor = "",
        ticket: Ticket = "",
        wait: Wait = True,
        wait_for_people: WaitForPeople = False,
        timeout: Timeout = 0,
        bootstrap: Bootstrap = None,
    ) -> None:
        wish = Wish(kind, tuple(vms or ()), plan, actor, reason, ticket, max_in_flight)
        run(bootstrap, lambda config: _failover(config, lambda: wish, Patience(wait, timeout, wait_for_people)))

    return command


def _register(kind: FailoverKind) -> None:
    app.command(kind.lower(), help=_PLAIN[kind], epilog=_CODES)(_plain(kind))


_register(FailoverKind.PLANNED)


@app.command(epilog=_CODES)
def unplanned(
    reason: Why,
    vms: VmNames = None,
    plan: Plan = "",
    recovery_point: RecoveryPoint = "",
    before: Before = "",
    commit: Commit = None,
    window: Annotated[
        int, typer.Option(min=0, metavar="SECONDS", help="How long people may decide otherwise.", show_default=False)
    ] = 0,
    accept_data_loss: Annotated[
        bool,
        typer.Option(
            "--accept-data-loss",
            help="You accept that more is lost than the limits allow: a second person has to approve.",
        ),
    ] = False,
    primary_is_down: Annotated[
        bool, typer.Option("--primary-is-down", help="You attest that the primary is off, where nobody can reach it.")
    ] = False,
    fence: Annotated[
        bool,
        typer.Option(
            "--fence",
            help="Where nobody can reach the primary, have its power cut first, by the DR site's fence agent.",
        ),
    ] = False,
    max_in_flight: MaxInFlight = 0,
    actor: Actor = "",
    ticket: Ticket = "",
    wait: Wait = True,
    wait_for_people: WaitForPeople = False,
    timeout: Timeout = 0,
    bootstrap: Bootstrap = None,
) -> None:
    """Start VMs from their replicas because the primary is lost: what was not replicated yet is lost with it."""

    def asked() -> Wish:
        policy, window_ms = committing(commit, window)
        return Wish(
            FailoverKind.UNPLANNED,
            tuple(vms or ()),
            plan,
            actor,
            reason,
            ticket,
            max_in_flight,
            primary_is_down=primary_is_down,
            fence=fence,
            accept_data_loss=accept_data_loss,
            point=wanted_point(recovery_point, before, now_ms()),
            commit=policy,
            window_ms=window_ms,
            latest=recovery_point == LATEST_WORD,
            at_once=commit is Committing.AT_ONCE,
        )

    run(bootstrap, lambda config: _failover(config, asked, Patience(wait, timeout, wait_for_people)))


@app.command("test", epilog=_CODES)
def isolated_copy(
    reason: Why,
    vms: VmNames = None,
    plan: Plan = "",
    recovery_point: RecoveryPoint = "",
    before: Before = "",
    keep: Annotated[
        str,
        typer.Option(
            metavar="SECONDS|until-told",
            help="How long the copies are kept to look at: until-told is until somebody says `run commit`.",
            show_default="not at all",
        ),
    ] = "",
    max_in_flight: MaxInFlight = 0,
    actor: Actor = "",
    ticket: Ticket = "",
    wait: Wait = True,
    wait_for_people: WaitForPeople = False,
    timeout: Timeout = 0,
    bootstrap: Bootstrap = None,
) -> None:
    """Start isolated copies of VMs at the replica's site, see that they work, and remove them; replication goes on."""

    def asked() -> Wish:
        policy, window_ms = keeping(keep)
        return Wish(
            FailoverKind.TEST,
            tuple(vms or ()),
            plan,
            actor,
            reason,
            ticket,
            max_in_flight,
            point=wanted_point(recovery_point, before, now_ms()),
            commit=policy,
            window_ms=window_ms,
            latest=recovery_point == LATEST_WORD,
        )

    run(bootstrap, lambda config: _failover(config, asked, Patience(wait, timeout, wait_for_people)))


_register(FailoverKind.REPROTECT)
_register(FailoverKind.FAILBACK)


async def _failover(config: Settings, asked: Callable[[], Wish], patience: Patience) -> None:
    wish = asked()
    named = replace(wish, actor=login_name(wish.actor), reason=reason_given(wish.reason))
    request = named.request(await current(config), f"run-{uuid.uuid4().hex}", now_ms())
    since = await watched_from(config)
    await publish(config, request)
    typer.echo(request.run_id)
    if patience.wait:
        ended = await watch(config, request.run_id, patience, since)
        raise typer.Exit(EXIT_CODES[ended.state])
