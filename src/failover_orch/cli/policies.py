"""`failover-orch policy` and `failover-orch brake`: what the broker may do of its own accord, and who has to agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any

import typer

from failover_orch.cli.access import (
    Actor,
    AsJson,
    Why,
    current,
    login_name,
    moment,
    now_ms,
    publisher_for,
    reason_given,
    run,
    show_json,
    show_table,
)
from failover_orch.cli.approvals import EXAMPLE, approval_rule, spelled
from failover_orch.cli.common import Bootstrap, console
from failover_orch.config import Settings
from failover_orch.domain import ApprovalRule, AutomaticMode, Brake, Policy, PolicyScope
from failover_orch.errors import ConfigError
from failover_orch.service import (
    LimitsView,
    ReadModel,
    brake_view,
    limits_of_plan,
    limits_of_site,
    limits_of_vm,
    newer_brake,
    policy_for,
    policy_list,
)

__all__ = ["app", "brake_app"]

app = typer.Typer(
    no_args_is_help=True, help="What the broker may do of its own accord, within which limits, and who has to agree."
)
brake_app = typer.Typer(no_args_is_help=True, help="The brake over everything automatic: released by people alone.")

_DAY_S = 86_400
_MONTH_S = 30 * _DAY_S
_ALL = "all"
_NONE = "none"


class Scope(StrEnum):
    """What a policy is for, as the commands name it."""

    ALL = "all"
    SITE = "site"
    PLAN = "plan"
    VM = "vm"


@dataclass(frozen=True, slots=True)
class _Limit:
    """A limit as the command line has it: `unit` is how much of the policy's field one of it makes."""

    option: str
    field: str
    unit: int = 1
    suffix: str = ""


_LIMITS = (
    _Limit("mode", "mode"),
    _Limit("observers", "observers"),
    _Limit("evidence-within", "evidence_within_ms", 1_000, "s"),
    _Limit("hold-down", "hold_down_ms", 1_000, "s"),
    _Limit("cooldown", "cooldown_ms", 1_000, "s"),
    _Limit("brake-runs", "brake_runs"),
    _Limit("brake-within", "brake_within_ms", 1_000, "s"),
    _Limit("rpo", "rpo_ms", 1_000, "s"),
    _Limit("max-data-loss", "max_data_loss_ms", 1_000, "s"),
    _Limit("missed-cycles", "missed_cycles_percent", 1, "%"),
    _Limit("replication-age", "replication_age_ms", 1_000, "s"),
    _Limit("silent-cycles", "silent_cycles"),
    _Limit("recover-after", "recover_after_ms", 1_000, "s"),
    _Limit("drill-within", "drill_within_ms", _DAY_S * 1_000, "days"),
    _Limit("approval", "approvals"),
)
"""Every limit, in the order in which it is shown."""


def _limit(low: int, high: int, metavar: str, says: str) -> Any:
    return typer.Option(min=low, max=high, metavar=metavar, help=says, show_default=False)


class Mode(StrEnum):
    """What `--mode` takes."""

    OFF = "off"
    OBSERVE = "observe"
    ADVISE = "advise"
    ACT = "act"


@app.command("set")
def set_policy(
    scope: Annotated[
        Scope, typer.Argument(metavar="all|site|plan|vm", help="What it is for; the later go before the earlier.")
    ],
    reason: Why,
    target: Annotated[str, typer.Argument(metavar="[TARGET]", help="The site, plan or VM.")] = "",
    mode: Annotated[
        Mode | None,
        typer.Option(help="Automatic failover: do not look, only say so, propose, or do.", show_default=False),
    ] = None,
    observers: Annotated[int | None, _limit(2, 9, "N", "Independent observers who have to agree.")] = None,
    evidence_within: Annotated[int | None, _limit(1, _DAY_S, "SECONDS", "How old what they said may be.")] = None,
    hold_down: Annotated[int | None, _limit(0, _DAY_S, "SECONDS", "How long the evidence has to hold.")] = None,
    cooldown: Annotated[
        int | None, _limit(0, _MONTH_S, "SECONDS", "Until another one of the same VM and kind.")
    ] = None,
    brake_runs: Annotated[
        int | None, _limit(0, 10_000, "N", "Automatic failovers that engage the brake; 0: none.")
    ] = None,
    brake_within: Annotated[int | None, _limit(1, _MONTH_S, "SECONDS", "The time in which they are counted.")] = None,
    rpo: Annotated[int | None, _limit(0, _MONTH_S, "SECONDS", "How far a replica may lag behind; 0: no limit.")] = None,
    max_data_loss: Annotated[
        int | None, _limit(0, _MONTH_S, "SECONDS", "To lose more, --accept-data-loss is needed; 0: no limit.")
    ] = None,
    missed_cycles: Annotated[
        int | None, _limit(1, 100, "PERCENT", "Missed replication cycles that make a Warning.")
    ] = None,
    replication_age: Annotated[
        int | None, _limit(1, _MONTH_S, "SECONDS", "Age of the replica that is Critical.")
    ] = None,
    silent_cycles: Annotated[int | None, _limit(1, 1_000, "N", "Cycles without data: the data path is down.")] = None,
    recover_after: Annotated[int | None, _limit(0, _DAY_S, "SECONDS", "How long a better health has to last.")] = None,
    drill_within: Annotated[
        int | None, _limit(0, 3_650, "DAYS", "How old the last test may be; 0: none needed.")
    ] = None,
    approval: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help=f'Who has to agree, such as "{EXAMPLE}"; again for a further rule; or none.'),
    ] = None,
    inherit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT|all", help="Leave a limit (hold-down, ...) to the wider scope again, or all of them."
        ),
    ] = None,
    actor: Actor = "",
    bootstrap: Bootstrap = None,
) -> None:
    """Set limits and modes for everything, a site, a plan or a VM; what is not given stays as it was."""
    given = {
        "mode": AutomaticMode(mode.upper()) if mode is not None else None,
        "observers": observers,
        "evidence-within": evidence_within,
        "hold-down": hold_down,
        "cooldown": cooldown,
        "brake-runs": brake_runs,
        "brake-within": brake_within,
        "rpo": rpo,
        "max-data-loss": max_data_loss,
        "missed-cycles": missed_cycles,
        "replication-age": replication_age,
        "silent-cycles": silent_cycles,
        "recover-after": recover_after,
        "drill-within": drill_within,
    }
    change = PolicyChange(
        PolicyScope(scope.upper()),
        target,
        {name: value for name, value in given.items() if value is not None},
        tuple(approval or ()),
        tuple(inherit or ()),
    )
    run(bootstrap, lambda config: _set(config, change, actor, reason))


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What `policy set` is asked to change. `given` holds limits by their options' names, in the options' units."""

    scope: PolicyScope
    target: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    approvals: Sequence[str] = ()
    inherit: Sequence[str] = ()

    def over(self, present: Policy) -> Policy:
        """The policy with the change in it; all else stays.

        Raises:
            ConfigError: nothing is changed, a limit to inherit is none, or is given as well, or an approval is no rule.

        """
        limits = {limit.option: limit for limit in _LIMITS}
        given = dict(self.given) | ({"approval": self._approvals()} if self.approvals else {})
        inherited = tuple(limits) if _ALL in self.inherit else tuple(self.inherit)
        for name in inherited:
            if name not in limits:
                raise ConfigError(f"--inherit {name!r} is not a limit: name one of {', '.join(limits)}, or {_ALL}")
        both = sorted(set(given).intersection(self.inherit))
        if both:
            raise ConfigError(f"--{both[0]} is set and inherited at once: leave one of the two out")
        if not given and not inherited:
            raise ConfigError(f"nothing is to be changed: give one or more of --{', --'.join(limits)}, or --inherit")
        changed: dict[str, Any] = {limits[name].field: None for name in inherited}
        changed |= {
            limits[name].field: value * limits[name].unit if isinstance(value, int) else value
            for name, value in given.items()
        }
        return replace(present, **changed)

    def _approvals(self) -> tuple[ApprovalRule, ...]:
        if _NONE not in self.approvals:
            return tuple(map(approval_rule, self.approvals))
        if len(self.approvals) > 1:
            raise ConfigError(f"--approval {_NONE} stands alone: leave it out, or the other rules")
        return ()


async def _set(config: Settings, change: PolicyChange, actor: str, reason: str) -> None:
    model = await current(config)
    policy = policy_for(model, change.scope, change.target)
    policy = change.over(model.policies().get(policy.key, policy))
    for rule in policy.approvals or ():
        if rule.to_site:
            model.site(rule.to_site)
    policy = replace(policy, actor=login_name(actor), reason=reason_given(reason), set_at_ms=now_ms())
    async with publisher_for(config) as publisher:
        await publisher.publish(policy)
    stated = ", ".join(f"{limit.option} {_shown(getattr(policy, limit.field), limit)}" for limit in _stated(policy))
    console.print(f"set {policy.key}: {stated or 'nothing of its own'}", highlight=False, markup=False)


@app.command()
def show(
    vm: Annotated[str, typer.Argument(metavar="[VM]", help="The VM, by id or name.")] = "",
    plan: Annotated[str, typer.Option(help="A recovery plan in place of a VM.")] = "",
    site: Annotated[str, typer.Option(help="A site in place of a VM.")] = "",
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Show the limits that come out for a VM, a plan or a site, and from which policy each comes."""
    run(bootstrap, lambda config: _show(config, vm, plan, site, as_json))


async def _show(config: Settings, vm: str, plan: str, site: str, as_json: bool) -> None:
    if sum(map(bool, (vm, plan, site))) != 1:
        raise ConfigError("name a VM, a plan with --plan, or a site with --site; one of the three")
    view = _limits(await current(config), vm, plan, site)
    if as_json:
        show_json(view)
        return
    known = {limit.name: limit for limit in view.limits}
    rows = [(limit.option, _shown(known[limit.field].value, limit), known[limit.field].source) for limit in _LIMITS]
    show_table(view.subject, ("limit", "value", "from"), rows)


def _limits(model: ReadModel, vm: str, plan: str, site: str) -> LimitsView:
    if vm:
        return limits_of_vm(model, model.vm(vm))
    if plan:
        return limits_of_plan(model, model.plan(plan))
    return limits_of_site(model, model.site(site))


@app.command("list")
def list_policies(as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """List policies as they were set, the widest first; what a policy leaves open, the wider one decides."""
    run(bootstrap, lambda config: _list(config, as_json))


async def _list(config: Settings, as_json: bool) -> None:
    listed = policy_list(await current(config))
    if as_json:
        show_json(listed)
        return
    rows = [
        (
            policy.key,
            "\n".join(f"{limit.option} {_shown(getattr(policy, limit.field), limit)}" for limit in _stated(policy)),
            policy.actor,
            policy.reason,
            moment(policy.set_at_ms),
        )
        for policy in listed.policies
    ]
    show_table("", ("policy", "limits", "by", "reason", "set"), rows)


def _stated(policy: Policy) -> list[_Limit]:
    return [limit for limit in _LIMITS if getattr(policy, limit.field) is not None]


def _shown(value: Any, limit: _Limit) -> str:
    """A limit's value in the unit of its option."""
    if limit.field == "approvals":
        return "; ".join(spelled(rule) for rule in value) or _NONE
    if isinstance(value, AutomaticMode):
        return value.lower()
    return f"{value / limit.unit:g} {limit.suffix}".rstrip()


@brake_app.command("show")
def show_brake(as_json: AsJson = False, bootstrap: Bootstrap = None) -> None:
    """Say whether the brake is engaged, by whom, and why."""
    run(bootstrap, lambda config: _show_brake(config, as_json))


async def _show_brake(config: Settings, as_json: bool) -> None:
    view = brake_view(await current(config))
    if as_json:
        show_json(view)
        return
    if view.brake is None:
        typer.echo("released: nobody has ever engaged it")
        return
    word = "engaged" if view.engaged else "released"
    typer.echo(f"{word} by {view.brake.actor} at {moment(view.brake.at_ms)}: {view.brake.reason}")


@brake_app.command()
def engage(reason: Why, actor: Actor = "", bootstrap: Bootstrap = None) -> None:
    """Stop everything automatic, at once and everywhere; what is under way goes on, and people may still fail over."""
    run(bootstrap, lambda config: _brake(config, True, actor, reason))


@brake_app.command()
def release(reason: Why, actor: Actor = "", bootstrap: Bootstrap = None) -> None:
    """Let the broker act of its own accord again; what was counted for the brake is counted from nothing."""
    run(bootstrap, lambda config: _brake(config, False, actor, reason))


async def _brake(config: Settings, engaged: bool, actor: str, reason: str) -> None:
    word = "engaged" if engaged else "released"
    wanted = Brake(engaged, login_name(actor), reason_given(reason), now_ms())
    brake = newer_brake(await current(config), wanted)
    async with publisher_for(config) as publisher:
        await publisher.publish(brake)
    console.print(f"the brake is {word}", highlight=False, markup=False)
