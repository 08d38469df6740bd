"""`failover-orch failover`: ask for failovers, and watch what becomes of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
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
from failover_orch.domain import (
    LATEST,
    CommitPolicy,
    FailoverKind,
    FailoverRequested,
    RecoveryPlan,
    RequestAction,
    WantedPoint,
)
from failover_orch.errors import ConfigError
from failover_orch.service import ReadModel

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
        asked = _Asked(kind, tuple(vms or ()), plan, actor, reason, ticket, max_in_flight)
        run(bootstrap, lambda config: _failover(config, asked, Patience(wait, timeout, wait_for_people)))

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
    asked = _Asked(
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
        point=lambda: wanted_point(recovery_point, before, now_ms()),
        commit=lambda: committing(commit, window),
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
    asked = _Asked(
        FailoverKind.TEST,
        tuple(vms or ()),
        plan,
        actor,
        reason,
        ticket,
        max_in_flight,
        point=lambda: wanted_point(recovery_point, before, now_ms()),
        commit=lambda: keeping(keep),
        latest=recovery_point == LATEST_WORD,
    )
    run(bootstrap, lambda config: _failover(config, asked, Patience(wait, timeout, wait_for_people)))


_register(FailoverKind.REPROTECT)
_register(FailoverKind.FAILBACK)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A failover as it was asked for. `point` and `commit` read their options, or raise ConfigError."""

    kind: FailoverKind
    vms: tuple[str, ...]
    plan: str
    actor: str
    reason: str
    ticket: str
    max_in_flight: int
    primary_is_down: bool = False
    fence: bool = False
    accept_data_loss: bool = False
    point: Callable[[], WantedPoint] = lambda: LATEST
    commit: Callable[[], tuple[CommitPolicy, int]] = lambda: (CommitPolicy.AT_ONCE, 0)
    latest: bool = False
    at_once: bool = False
    """These two were given, and not merely left open."""

    def request(self, model: ReadModel) -> FailoverRequested:
        """The request, its targets by id.

        Raises:
            ConfigError: no reason, options that do not go together, or not exactly one of VMs and a plan.
            LookupFailed: a VM or the plan is not known.

        """
        if bool(self.vms) == bool(self.plan):
            raise ConfigError("name the VMs to fail over, or a recovery plan with --plan; one of the two")
        commit, window_ms = self.commit()
        plan = model.plan(self.plan) if self.plan else None
        if plan is not None:
            self._agree_with(plan)
        vm_ids = tuple(dict.fromkeys(model.vm(name).vm_id for name in self.vms))
        return FailoverRequested(
            run_id=f"run-{uuid.uuid4().hex}",
            action=RequestAction.REQUEST,
            kind=self.kind,
            actor=login_name(self.actor),
            reason=reason_given(self.reason),
            requested_at_ms=now_ms(),
            vm_id=vm_ids[0] if len(vm_ids) == 1 else "",
            plan_id=plan.plan_id if plan is not None else "",
            vm_ids=vm_ids if len(vm_ids) > 1 else (),
            ticket=self.ticket,
            primary_is_down=self.primary_is_down,
            fence=self.fence,
            point=self.point(),
            commit=commit,
            window_ms=window_ms,
            accept_data_loss=self.accept_data_loss,
            max_in_flight=self.max_in_flight,
        )

    def _agree_with(self, plan: RecoveryPlan) -> None:
        """Refuse what a request cannot say: it leaves these two open, and then the plan decides."""
        if self.latest and plan.point != LATEST:
            raise ConfigError(
                f"--recovery-point latest cannot stand: plan {plan.name} asks for {plan.point}; change the plan"
            )
        if self.at_once and plan.commit is not CommitPolicy.AT_ONCE:
            raise ConfigError(f"--commit at-once cannot stand: plan {plan.name} says {plan.commit}; change the plan")


async def _failover(config: Settings, asked: _Asked, patience: Patience) -> None:
    request = asked.request(await current(config))
    since = await watched_from(config)
    await publish(config, request)
    typer.echo(request.run_id)
    if patience.wait:
        ended = await watch(config, request.run_id, patience, since)
        raise typer.Exit(EXIT_CODES[ended.state])
