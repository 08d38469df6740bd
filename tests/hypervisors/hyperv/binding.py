"""How the parameters of a command are bound: PowerShell's rules, and its errors where they are broken.

Stricter than PowerShell in two things: parameters have to be named, and names are not to be abbreviated.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psrpcore.types import PSObject

from hyperv.cmdlets import COMMON_PARAMETERS
from hyperv.enumerations import ACCEPTED
from hyperv.errors import PowerShellError
from hyperv.objects import Item
from hyperv.syntax import Cmdlet, Parameter

__all__ = ["NOTHING", "Bound", "bind", "bind_input", "binding_error"]

NOTHING: Any = object()
"""No object came down the pipeline."""
_METADATA = (
    "System.Management.Automation.ParameterBindingArgumentTransformationException",
    "System.Management.Automation.ParameterBindingException",
    "System.Management.Automation.RuntimeException",
    "System.SystemException",
)


@dataclass(frozen=True, slots=True)
class Bound:
    """Parameters by their full names, in the parameter sets that are left; the common ones apart."""

    cmdlet: Cmdlet
    sets: tuple[str, ...]
    parameters: Mapping[str, Any]
    common: Mapping[str, Any]


def bind(cmdlet: Cmdlet, arguments: Sequence[tuple[str | None, Any]], *, piped: bool) -> Bound:
    """Bind what was given with the command. `piped`: objects may still come down the pipeline.

    Raises:
        PowerShellError: a ParameterBindingException.

    """
    given: dict[str, Any] = {}
    common: dict[str, Any] = {}
    for name, value in arguments:
        if not name:
            raise binding_error(
                cmdlet,
                "PositionalParameterNotFound",
                f"A positional parameter cannot be found that accepts argument '{value}'.",
                target=str(value),
            )
        bare = name.removeprefix("-").removesuffix(":")
        full = cmdlet.named(bare)
        shared = next((known for known in COMMON_PARAMETERS if known.lower() == bare.lower()), "")
        if not full and not shared:
            raise binding_error(
                cmdlet,
                "NamedParameterNotFound",
                f"A parameter cannot be found that matches parameter name '{bare}'.",
                target=bare,
            )
        if full in given or shared in common:
            raise binding_error(
                cmdlet,
                "ParameterAlreadyBound",
                f"Cannot bind parameter because parameter '{full or shared}' is specified more than once.",
                target=full or shared,
            )
        if shared and not full:
            common[shared] = _converted(cmdlet, shared, COMMON_PARAMETERS[shared], value)
        else:
            given[full] = value
    sets = _sets_with(cmdlet, tuple(cmdlet.sets), given)
    bound = {name: _bound(cmdlet, _parameter(cmdlet, sets, name), value) for name, value in given.items()}
    if not piped:
        sets = (_complete(cmdlet, sets, bound),)
    return Bound(cmdlet, sets, bound, common)


def bind_input(bound: Bound, value: Any) -> Bound:
    """Bind an object that came down the pipeline.

    Raises:
        PowerShellError: no parameter takes it, or a mandatory one is missing still.

    """
    cmdlet = bound.cmdlet
    takes = [
        (name, parameter)
        for name in bound.sets
        for parameter in cmdlet.sets[name].values()
        if parameter.by_value and parameter.name not in bound.parameters and _is_a(value, parameter.type)
    ]
    if takes:
        wanted = takes[0][1].name
        sets = tuple(name for name in bound.sets if any(name == other for other, each in takes if each.name == wanted))
        parameters = {**bound.parameters, wanted: [value] if takes[0][1].many else value}
    else:
        sets, parameters = _by_property(bound, value)
    return Bound(cmdlet, (_complete(cmdlet, sets, parameters),), parameters, bound.common)


def _by_property(bound: Bound, value: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    parameters = dict(bound.parameters)
    if isinstance(value, Item):
        for name in bound.sets:
            for parameter in bound.cmdlet.sets[name].values():
                if parameter.by_property and parameter.name not in parameters:
                    found = next((value.get(each) for each in (parameter.name, *parameter.aliases)), None)
                    if found is not None:
                        parameters[parameter.name] = _bound(bound.cmdlet, parameter, found)
    if len(parameters) == len(bound.parameters):
        raise binding_error(
            bound.cmdlet,
            "InputObjectNotBound",
            "The input object cannot be bound to any parameters for the command either because the command does not "
            "take pipeline input or the input and its properties do not match any of the parameters that take "
            "pipeline input.",
            target=str(value.text if isinstance(value, Item) else value),
            terminating=False,
        )
    return _sets_with(bound.cmdlet, bound.sets, parameters), parameters


def _sets_with(cmdlet: Cmdlet, among: tuple[str, ...], names: Mapping[str, Any]) -> tuple[str, ...]:
    """The parameter sets that have all of these."""
    sets = tuple(name for name in among if all(each in cmdlet.sets[name] for each in names))
    if not sets:
        raise binding_error(
            cmdlet, "AmbiguousParameterSet", "Parameter set cannot be resolved using the specified named parameters."
        )
    return sets


def _complete(cmdlet: Cmdlet, sets: tuple[str, ...], bound: Mapping[str, Any]) -> str:
    """The one parameter set that has all that it needs: the default one before others."""
    missing = {
        name: [each.name for each in cmdlet.sets[name].values() if each.mandatory and each.name not in bound]
        for name in sets
    }
    complete = [name for name in sets if not missing[name]]
    default = next(iter(cmdlet.sets)) if cmdlet.has_default else ""
    if default in complete:
        return default
    if len(complete) == 1:
        return complete[0]
    if complete:
        raise binding_error(
            cmdlet, "AmbiguousParameterSet", "Parameter set cannot be resolved using the specified named parameters."
        )
    lacks = missing[default if default in sets else sets[0]]
    raise binding_error(
        cmdlet,
        "MissingMandatoryParameter",
        f"Cannot process command because of one or more missing mandatory parameters: {' '.join(lacks)}.",
    )


def _parameter(cmdlet: Cmdlet, sets: tuple[str, ...], name: str) -> Parameter:
    return next(cmdlet.sets[each][name] for each in sets if name in cmdlet.sets[each])


def _bound(cmdlet: Cmdlet, parameter: Parameter, value: Any) -> Any:
    if parameter.mandatory and parameter.type != "Object" and (value is None or value == ""):
        raise binding_error(
            cmdlet,
            "ParameterArgumentValidationError" + ("NullNotAllowed" if value is None else "EmptyStringNotAllowed"),
            f"Cannot bind argument to parameter '{parameter.name}' because it is null or an empty string.",
            target=parameter.name,
        )
    if not parameter.many and parameter.type != "StringCollection":
        return _converted(cmdlet, parameter.name, parameter.type, value)
    element = "String" if parameter.type == "StringCollection" else parameter.type
    values = value if isinstance(value, list) else [value]
    return [_converted(cmdlet, parameter.name, element, each) for each in values]


def _converted(cmdlet: Cmdlet, name: str, type_name: str, value: Any) -> Any:
    if type_name in ACCEPTED:
        accepted = ACCEPTED[type_name]
        text = str(value)
        match = next((each for each in accepted if each.lower() == text.lower()), None)
        if match is None:
            raise _cannot_convert(
                cmdlet,
                name,
                type_name,
                value,
                f"it is one of {', '.join(accepted)}, by name (numbers differ from WMI's)",
            )
        return match
    if type_name in _CONVERSIONS:
        try:
            return _CONVERSIONS[type_name](value)
        except (TypeError, ValueError) as error:
            raise _cannot_convert(cmdlet, name, type_name, value, str(error)) from None
    if not _is_a(value, type_name):
        raise _cannot_convert(cmdlet, name, type_name, value, "objects that were got earlier are no live objects")
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        raise TypeError("a collection is no string")
    return str(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, (bool, int)):
        raise TypeError("Boolean parameters accept only Boolean values and numbers")
    return bool(value)


def _whole(bits: int, *, signed: bool = True) -> Callable[[Any], int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)

    def convert(value: Any) -> int:
        if isinstance(value, bool):
            return int(value)
        number = int(value)
        if not low <= number < high:
            raise ValueError(f"{number} does not fit")
        return number

    return convert


def _timespan(value: Any) -> dt.timedelta:
    if isinstance(value, dt.timedelta):
        return value
    match = re.fullmatch(r"(?:(\d+)\.)?(\d+):(\d\d)(?::(\d\d))?", str(value))
    if match is None:
        raise ValueError("a TimeSpan is written d.hh:mm:ss")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return dt.timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _moment(value: Any) -> dt.datetime:
    if isinstance(value, dt.datetime):
        return value
    return dt.datetime.fromisoformat(str(value))


def _table(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise TypeError("it is no hashtable")
    return dict(value)


_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "String": _text,
    "Boolean": _boolean,
    "SwitchParameter": _boolean,
    "Int32": _whole(32),
    "Int64": _whole(64),
    "UInt32": _whole(32, signed=False),
    "UInt64": _whole(64, signed=False),
    "Guid": lambda value: value if isinstance(value, uuid.UUID) else uuid.UUID(str(value)),
    "TimeSpan": _timespan,
    "DateTime": _moment,
    "Hashtable": _table,
    "Object": lambda value: value,
}
_BASES = {"VMNetworkAdapterBase": "VMNetworkAdapter"}


def _is_a(value: Any, type_name: str) -> bool:
    """Whether the value is of the type, without conversion."""
    if value is NOTHING:
        return False
    if isinstance(value, Item):
        return type_name in ("PSObject", "Object") or value.kind == _BASES.get(type_name, type_name)
    if type_name == "String":
        return isinstance(value, str)
    if type_name == "Guid":
        return isinstance(value, uuid.UUID)
    return type_name in ("PSObject", "Object") or (type_name == "ScriptBlock" and isinstance(value, PSObject))


def _cannot_convert(cmdlet: Cmdlet, name: str, type_name: str, value: Any, why: str) -> PowerShellError:
    return binding_error(
        cmdlet,
        "CannotConvertArgumentNoMessage",
        f'Cannot bind parameter \'{name}\'. Cannot convert value "{value}" to type "{type_name}". Error: "{why}"',
        target=name,
        exceptions=_METADATA,
    )


def binding_error(
    cmdlet: Cmdlet,
    error_id: str,
    message: str,
    *,
    target: str = "",
    exceptions: tuple[str, ...] = _METADATA[1:],
    terminating: bool = True,
) -> PowerShellError:
    """An error of binding, with the id that PowerShell gives it."""
    return PowerShellError(
        message,
        f"{error_id},{cmdlet.command_class}",
        cmdlet=cmdlet.name,
        target=target,
        exceptions=exceptions,
        terminating=terminating,
    )
