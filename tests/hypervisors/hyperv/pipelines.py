"""How a node runs pipelines: commands are looked up, bound, and called, objects handed from each to the next."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psrpcore import Command

from hyperv.binding import Bound, bind, bind_input, binding_error
from hyperv.calls import Call, Handler, like
from hyperv.cluster_calls import CLUSTER_CALLS
from hyperv.cmdlets import CMDLETS
from hyperv.errors import HalfDone, HyperVError, PowerShellError
from hyperv.failover_calls import FAILOVER_CALLS
from hyperv.faults import Armed, Effect, Fault, Faults
from hyperv.machine_calls import MACHINE_CALLS
from hyperv.network_calls import NETWORK_CALLS
from hyperv.objects import SELECTED, Item, on_the_wire
from hyperv.remoting import Delivery, Outcome
from hyperv.replication_calls import REPLICATION_CALLS
from hyperv.server_calls import SERVER_CALLS
from hyperv.world import World

__all__ = ["HANDLERS", "Called", "Pipelines"]

_ELSEWHERE = ("ComputerName", "CimSession", "Credential")
"""Parameters that have a cmdlet go to another host, which a remote session cannot without delegation."""
_CATEGORIES = {
    "InvalidParameter": "InvalidArgument",
    "ObjectNotFound": "ObjectNotFound",
    "InvalidState": "InvalidOperation",
    "AccessDenied": "PermissionDenied",
    "NotSupported": "NotImplemented",
}
_DELIVERIES = {
    Fault.OPERATION_TIMEOUT: Delivery.TIMEOUT,
    Fault.SHELL_GONE: Delivery.SHELL_GONE,
    Fault.UNAUTHORIZED: Delivery.DENIED,
    Fault.CUT: Delivery.CUT,
    Fault.HANG: Delivery.NEVER,
    Fault.LATE: Delivery.LATE,
}
_ERRORS = frozenset({Fault.NON_TERMINATING, Fault.TERMINATING})
_HYPERV = ("Microsoft.HyperV.PowerShell.VirtualizationException", "System.Exception")
_CLUSTERS = ("Microsoft.FailoverClusters.PowerShell.ClusterCmdletException", "System.Exception")
_RUNTIME = ("System.Management.Automation.RuntimeException", "System.SystemException")


@dataclass(frozen=True, slots=True)
class Called:
    """A cmdlet that was called on a node, with its parameters as they were bound."""

    node: str
    cmdlet: str
    parameters: Mapping[str, Any]


class _Failed(Exception):
    """The pipeline has failed."""

    def __init__(self, error: PowerShellError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(slots=True)
class _Run:
    """A pipeline on its way."""

    errors: list[PowerShellError] = field(default_factory=list)
    delivery: Delivery = Delivery.WHOLE


class Pipelines:
    """What runs the pipelines of one node."""

    def __init__(self, world: World, node: str, faults: Faults, calls: list[Called], bugs: list[str]) -> None:
        self._world = world
        self._node = world.nodes[node]
        self._faults = faults
        self._calls = calls
        self._bugs = bugs

    def __call__(self, commands: Sequence[Command], inputs: Sequence[Any]) -> Outcome:
        """Run the commands. One pipeline at a time is in the world: between a test and what depends on it nobody is."""
        run = _Run()
        output: list[Any] = []
        with self._world.lock:
            try:
                for statement in _statements(commands):
                    output += self._statement(statement, inputs, run)
            except _Failed as failed:
                return Outcome(_wired(output), run.errors, failed.error, run.delivery)
            except Exception as error:  # noqa: BLE001 (a bug of ours is told, or the client would wait for ever)
                self._bugs.append(traceback.format_exc())
                return Outcome((), run.errors, PowerShellError(f"stand-in: {error!r}", "StandIn", exceptions=_RUNTIME))
        return Outcome(_wired(output), run.errors, None, run.delivery)

    def _statement(self, commands: Sequence[Command], inputs: Sequence[Any], run: _Run) -> list[Any]:
        # All are bound before the first is called: a wrong name anywhere changes nothing.
        stages = [self._bound(command, piped=bool(number or inputs)) for number, command in enumerate(commands)]
        objects: list[Any] = list(inputs)
        for number, bound in enumerate(stages):
            fed: Iterable[Bound] = [bound]
            if number or inputs:
                fed = self._fed(bound, objects, run)
            objects = [each for one in fed for each in self._call(one, run)]
        return objects

    def _fed(self, bound: Bound, objects: Iterable[Any], run: _Run) -> Iterator[Bound]:
        for each in objects:
            try:
                yield bind_input(bound, each)
            except PowerShellError as error:
                self._report(error, bound, run)

    def _bound(self, command: Command, *, piped: bool) -> Bound:
        if command.is_script:
            raise _Failed(
                PowerShellError(
                    "The syntax is not supported by this runspace. This can occur if the runspace is in no-language "
                    "mode.",
                    "ScriptsNotAllowed",
                    category="ParserError",
                    exceptions=("System.Management.Automation.PSNotSupportedException", *_RUNTIME),
                )
            )
        cmdlet = next((each for name, each in CMDLETS.items() if name.lower() == command.command_text.lower()), None)
        if cmdlet is None:
            raise _Failed(
                PowerShellError(
                    f"The term '{command.command_text}' is not recognized as the name of a cmdlet, function, script "
                    "file, or operable program.",
                    "CommandNotFoundException",
                    category="ObjectNotFound",
                    target=command.command_text,
                    exceptions=("System.Management.Automation.CommandNotFoundException", *_RUNTIME),
                )
            )
        try:
            return bind(cmdlet, command.parameters, piped=piped)
        except PowerShellError as error:
            raise _Failed(error) from None

    def _call(self, bound: Bound, run: _Run) -> list[Any]:
        cmdlet, parameters = bound.cmdlet, bound.parameters
        self._calls.append(Called(self._node.name, cmdlet.name, {**parameters, **bound.common}))
        if elsewhere := [name for name in _ELSEWHERE if name in parameters]:
            refusal = HyperVError(f"{cmdlet.name} -{elsewhere[0]}: the remote host denied access.", "AccessDenied")
            self._report(_record(refusal, bound), bound, run)
            return []
        if cmdlet.changes and parameters.get("Confirm") is not False:
            # Which of them ask is not documented, so here all do; and nobody is there to be asked.
            refusal = HyperVError("A command that prompts the user failed: nobody can be asked.", "HostException")
            self._report(_record(refusal, bound), bound, run)
            return []
        if parameters.get("WhatIf"):
            return []
        armed = self._faults.take(cmdlet.name, self._node.name)
        call = Call(self._world, self._node, cmdlet, parameters)
        call.only_half = armed is not None and armed.effect is Effect.HALF
        output: list[Any] = []
        if armed is None or armed.effect is not Effect.NONE:
            try:
                output += HANDLERS[cmdlet.name](call)
            except HalfDone:
                pass
            except HyperVError as error:
                call.errors.append(error)
        for objection in call.errors:
            self._report(_record(objection, bound), bound, run)
        if armed is not None:
            return self._broken(armed, bound, run, output)
        return output

    def _broken(self, armed: Armed, bound: Bound, run: _Run, output: list[Any]) -> list[Any]:
        """Let the fault happen, now that as much is done as it leaves to be done."""
        if armed.fault in _ERRORS:
            error = _record(HyperVError(f"{bound.cmdlet.name} failed, as the test has it."), bound)
            if armed.fault is Fault.TERMINATING:
                raise _Failed(error)
            self._report(error, bound, run)
            return []
        run.delivery = _DELIVERIES[armed.fault]
        return output

    def _report(self, error: PowerShellError, bound: Bound, run: _Run) -> None:
        preference = bound.common.get("ErrorAction", "Continue")
        if error.terminating or preference == "Stop":
            raise _Failed(error)
        if preference not in ("SilentlyContinue", "Ignore"):
            run.errors.append(error)


def _statements(commands: Sequence[Command]) -> Iterator[list[Command]]:
    statement: list[Command] = []
    for command in commands:
        statement.append(command)
        if command.end_of_statement:
            yield statement
            statement = []
    if statement:
        yield statement


def _record(error: HyperVError, bound: Bound) -> PowerShellError:
    module = bound.cmdlet.module
    return PowerShellError(
        str(error),
        f"{error.code},{bound.cmdlet.command_class}",
        cmdlet=bound.cmdlet.name,
        category=_CATEGORIES.get(error.code, "NotSpecified"),
        target=error.target,
        exceptions=_CLUSTERS if module == "FailoverClusters" else _HYPERV,
        terminating=False,
    )


def _wired(output: Iterable[Any]) -> list[Any]:
    return [on_the_wire(each) for each in output]


def _where(call: Call) -> Iterator[Any]:
    if "FilterScript" in call.parameters:
        raise binding_error(call.cmdlet, "ScriptsNotAllowed", "Script blocks are not supported by this runspace.")
    item, value = call.get("InputObject"), call.get("Value")
    found = item.get(call.parameters["Property"]) if isinstance(item, Item) else None
    operator = next((name for name in _COMPARISONS if call.get(name)), "")
    if (_COMPARISONS[operator](found, value)) if operator else bool(found):
        yield item


def _equal(left: Any, right: Any, *, case: bool = False) -> bool:
    if left is None or right is None:
        return left is right
    one, other = (str(each) for each in (left, right))
    return one == other if case else one.lower() == other.lower()


def _alike(left: Any, right: Any, *, case: bool = False) -> bool:
    return like("" if left is None else str(left), str(right), case=case)


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "EQ": _equal,
    "CEQ": lambda left, right: _equal(left, right, case=True),
    "NE": lambda left, right: not _equal(left, right),
    "CNE": lambda left, right: not _equal(left, right, case=True),
    "Like": _alike,
    "CLike": lambda left, right: _alike(left, right, case=True),
    "NotLike": lambda left, right: not _alike(left, right),
    "In": lambda left, right: any(_equal(left, each) for each in right),
    "NotIn": lambda left, right: not any(_equal(left, each) for each in right),
}


def _select(call: Call) -> Iterator[Any]:
    if {"Unique", "Last", "First", "Skip", "Wait", "ExcludeProperty"} & set(call.parameters):
        raise HyperVError("These hosts select properties alone.", "NotSupported")
    item = call.get("InputObject")
    if not isinstance(item, Item):
        yield item
    elif (name := call.get("ExpandProperty")) is not None:
        value = item.get(name)
        yield from value if isinstance(value, tuple) else [value]
    else:
        kept: dict[str, Any] = {}
        for pattern in call.get("Property") or ["*"]:
            found = {name: value for name, value in item.properties.items() if like(name, str(pattern))}
            # A property that is not there comes out empty, under the name that was asked for.
            kept |= found or {str(pattern): None}
        text = "; ".join(f"{name}={value}" for name, value in kept.items())
        yield Item(item.kind, kept, f"@{{{text}}}", namespace=f"{SELECTED}{item.namespace}")


HANDLERS: Mapping[str, Handler] = {
    **MACHINE_CALLS,
    **NETWORK_CALLS,
    **REPLICATION_CALLS,
    **FAILOVER_CALLS,
    **SERVER_CALLS,
    **CLUSTER_CALLS,
    "Where-Object": _where,
    "Select-Object": _select,
}
