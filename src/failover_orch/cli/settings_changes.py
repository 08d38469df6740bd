"""`failover-orch settings set`: a change of replication settings, what it would come to, and what came of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated

import typer

from failover_orch.cli.access import (
    Actor,
    AsJson,
    Ticket,
    Why,
    current,
    login_name,
    now_ms,
    publisher_for,
    reason_given,
    run,
    show_json,
    show_table,
)
from failover_orch.cli.common import Bootstrap, stop
from failover_orch.cli.watching import silence_notice, values
from failover_orch.config import Settings
from failover_orch.domain import SettingsChange, SettingsRevision, SettingsScope, SettingsStanding, Standing
from failover_orch.errors import ConfigError, KafkaError, LookupFailed
from failover_orch.service import ReadModel, SettingsChangeView, settings_change_view, settings_view
from failover_orch.wire import Positions, positions_now

__all__ = ["EXIT_NOT_EVERYWHERE", "OfVm", "Target", "set_settings", "target_of"]

EXIT_NOT_EVERYWHERE = 2
"""Exit code of a change that was made, and that some node cannot take or is not there to take."""

_ANSWERS = ("settings-revisions", "settings-standing")
_THE_VM = ""
"""Where the one standing of a VM is found, whatever node it is on by then."""

OfVm = Annotated[str, typer.Option("--vm", metavar="VM", help="One VM's settings, by its id or name, instead.")]


@dataclass(frozen=True, slots=True)
class Target:
    """Whose settings: a cluster's, or those of a VM by its id. `called` is what people call it."""

    scope: SettingsScope
    key: str
    called: str


def target_of(model: ReadModel, cluster: str, vm: str) -> Target:
    """Whose settings are meant.

    Raises:
        ConfigError: neither a cluster nor a VM is named, or both.
        LookupFailed: there is no such one.

    """
    if bool(cluster) == bool(vm):
        raise ConfigError("say whose settings: name a cluster, or a VM with --vm, one of the two")
    if vm:
        found = model.vm(vm)
        return Target(SettingsScope.VM, found.vm_id, found.name)
    name = model.cluster(cluster).cluster
    return Target(SettingsScope.CLUSTER, name, name)


def set_settings(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="[CLUSTER] NAME=VALUE...", help="What to set; an empty value: back to the default."),
    ],
    reason: Why,
    vm: OfVm = "",
    ticket: Ticket = "",
    based_on: Annotated[
        int, typer.Option(metavar="VERSION", help="Only if the settings are still at this version.", show_default=False)
    ] = -1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would come to, and change nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Also wait until every node that can has it.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most; 0 for as long as it takes.")] = 0,
    actor: Actor = "",
    as_json: AsJson = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Change settings of a cluster's nodes, or with --vm of one VM; all others stay as they are.

    Exit code 1 where the change is refused; 2 with --wait where some node cannot take it, or is away.
    """
    asked = _Asked(arguments, vm, reason, ticket, based_on, actor)
    patience = _Patience(wait=wait, timeout_s=timeout)
    run(bootstrap, lambda config: _set(config, asked, patience, dry_run=dry_run, as_json=as_json))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A change as it was typed."""

    arguments: Sequence[str]
    vm: str
    reason: str
    ticket: str
    based_on: int
    actor: str

    def change(self, model: ReadModel) -> tuple[Target, SettingsChange]:
        """The change, and whose settings it is for.

        Raises:
            ConfigError: what was typed is none.
            LookupFailed: there is no such cluster or VM.

        """
        named = bool(self.arguments) and "=" not in self.arguments[0]
        target = target_of(model, self.arguments[0] if named else "", self.vm)
        pairs = [argument.partition("=") for argument in self.arguments[named:]]
        for name, equals, _ in pairs:
            if not equals:
                raise ConfigError(f"{name!r} is no change: write NAME=VALUE, and NAME= for the default")
        names = [name for name, _, _ in pairs]
        if not names:
            raise ConfigError("nothing is to be changed: give one NAME=VALUE or more; `settings show` has the names")
        twice = next((name for name in names if names.count(name) > 1), "")
        if twice:
            raise ConfigError(f"{twice} is given twice: give it once")
        return target, SettingsChange(
            scope=target.scope,
            target=target.key,
            changes={name: value for name, _, value in pairs},
            actor=login_name(self.actor),
            reason=reason_given(self.reason),
            requested_at_ms=now_ms(),
            ticket=self.ticket,
            based_on=self.based_on,
            change_id=uuid.uuid4().hex,
        )


@dataclass(frozen=True, slots=True)
class _Patience:
    """For how long to wait (0: without end), and whether for the nodes too."""

    wait: bool
    timeout_s: float


async def _set(config: Settings, asked: _Asked, patience: _Patience, *, dry_run: bool, as_json: bool) -> None:
    model = await current(config)
    target, change = asked.change(model)
    view = settings_change_view(model, change)
    if as_json and dry_run:
        show_json(view)
    elif not as_json:
        _show_change(view)
    if view.refused:
        stop(f"refused: {'; '.join(view.refused)}", 1)
    if dry_run:
        return
    # Before it is published: what follows from it is all behind this.
    since = await positions_now(config.bootstrap, _ANSWERS, names=config.names)
    async with publisher_for(config) as publisher:
        await publisher.publish(change)
    before = settings_view(model, target.scope, target.key)
    nodes = {_THE_VM} if target.scope is SettingsScope.VM else {one.node for one in before.nodes}
    answer = _Answer(change, nodes if patience.wait else set(), before.version)
    await _answered(config, answer, since, patience)
    assert answer.revision is not None  # noqa: S101 (`_answered` ends with it)
    if as_json:
        show_json(answer.revision)
    _say(target, answer, waited=patience.wait, as_json=as_json)


def _show_change(view: SettingsChangeView) -> None:
    if view.changed:
        rows = [(one.name, one.before, one.after) for one in view.changed]
        show_table("", ("setting", "now", "then"), rows)
    elif not view.refused:
        typer.echo("no setting gets another value")
    if view.effects:
        rows_affected = [(one.vm_id or one.node, "!" if one.warning else "", one.what) for one in view.effects]
        show_table("Affects", ("VM or node", "", "what"), rows_affected)


@dataclass(slots=True)
class _Answer:
    """What the broker and the nodes have said to a change; `waiting` are nodes that have not said how they stand."""

    change: SettingsChange
    waiting: set[str]
    version_before: int
    revision: SettingsRevision | None = None
    standings: dict[str, SettingsStanding] = field(default_factory=dict)

    def take(self, value: object) -> None:
        if isinstance(value, SettingsRevision) and value.change_id == self.change.change_id:
            self.revision = value
        elif isinstance(value, SettingsStanding) and value.target == self.change.target:
            self.standings[_THE_VM if value.scope is SettingsScope.VM else value.node] = value

    @property
    def changed(self) -> bool:
        """Whether there is a new version. The first may be of nothing but defaults."""
        return (
            self.revision is not None
            and not self.revision.refused
            and (bool(self.revision.changed) or not self.version_before)
        )

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to wait for."""
        if self.revision is None:
            return False
        return not self.changed or not self.waiting or all(map(self._settled, self.waiting | self.standings.keys()))

    def _settled(self, node: str) -> bool:
        standing, version = self.standings.get(node), self.revision.version if self.revision else 0
        return standing is not None and standing.version >= version and standing.standing is not Standing.APPLYING

    @property
    def without(self) -> list[SettingsStanding]:
        """Nodes that do not have it, by name."""
        return sorted(
            (one for one in self.standings.values() if one.standing is not Standing.IN_SYNC), key=lambda one: one.node
        )


async def _answered(config: Settings, answer: _Answer, since: Positions, patience: _Patience) -> None:
    """Follow what is told of a change until the answer is complete.

    Raises:
        LookupFailed: it is not within the time.

    """
    notice = silence_notice("no worker has answered yet")
    try:
        async with asyncio.timeout(patience.timeout_s or None), aclosing(values(config, _ANSWERS, since)) as following:
            async for value in following:
                answer.take(value)
                if answer.revision is not None:
                    notice.cancel()
                if answer.complete:
                    return
    except TimeoutError:
        raise LookupFailed(_unanswered(answer, patience.timeout_s)) from None
    finally:
        notice.cancel()
    raise KafkaError(f"following {config.bootstrap} ended before the answer came")


def _unanswered(answer: _Answer, timeout_s: float) -> str:
    if answer.revision is None:
        return f"no answer within {timeout_s:g} s; the change stands in settings-changes and will be answered"
    settled = {node for node, one in answer.standings.items() if one.standing is not Standing.APPLYING}
    said = {node: f" ({one.detail})" for node, one in answer.standings.items() if one.detail}
    left = ", ".join(f"{node or answer.change.target}{said.get(node, '')}" for node in sorted(answer.waiting - settled))
    return (
        f"version {answer.revision.version} is set, but not taken within {timeout_s:g} s by "
        f"{left or answer.change.target}; it goes on"
    )


def _say(target: Target, answer: _Answer, *, waited: bool, as_json: bool) -> None:
    revision = answer.revision
    assert revision is not None  # noqa: S101 (as in `_set`)
    if revision.refused:
        stop(f"the broker refused it: {'; '.join(revision.refused)}", 1)
    if not answer.changed:
        sentence = f"{target.called} stays at version {revision.version}: nothing was to be changed"
    else:
        sentence = f"{target.called} is at version {revision.version}: {', '.join(revision.changed) or 'the defaults'}"
    if waited and answer.changed:
        without = answer.without
        sentence += f"; {len(answer.standings) - len(without)} of {len(answer.standings)} have it"
        if without:
            stop(f"{sentence}; {'; '.join(_stands(one) for one in without)}", EXIT_NOT_EVERYWHERE)
    if not as_json:
        typer.echo(sentence)


def _stands(standing: SettingsStanding) -> str:
    return f"{standing.node or 'it'} is {standing.standing}{f' ({standing.detail})' if standing.detail else ''}"
