"""What cmdlets hand on: objects of Hyper-V with their properties, and how those go over the wire."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from psrpcore.types import PSDuration, PSEnumBase, PSList, PSNoteProperty, PSObject, PSType

from hyperv.enumerations import Numbered

__all__ = ["SELECTED", "Item", "on_the_wire"]

SELECTED = "Selected."
"""How the types of objects begin that Select-Object made: their properties were added, they are not the type's own."""

_ONE_TICK = PSDuration(nanoseconds=100)
_WHOLE_TENS = range(10, 60, 10)


@dataclass(frozen=True, slots=True)
class Item:
    """An object: its type as parameters name it (`VMSnapshot`), its properties, and what of the world it stands for."""

    kind: str
    properties: Mapping[str, Any]
    text: str
    source: Any = field(default=None, compare=False)
    namespace: str = "Microsoft.HyperV.PowerShell"

    def get(self, name: str) -> Any:
        """The property of this name in any case; None where there is none."""
        return next((value for known, value in self.properties.items() if known.lower() == name.lower()), None)


def on_the_wire(value: Any) -> Any:
    """A value of the pipeline as PowerShell's remoting serialises it, to a depth of one."""
    if not isinstance(value, Item):
        return value
    wired = PSObject()
    properties = [PSNoteProperty(name, value=_property(each)) for name, each in value.properties.items()]
    wired.PSObject.type_names = [f"{value.namespace}.{value.kind}", "System.Object"]
    if value.namespace.startswith(SELECTED):
        wired.PSObject.type_names.insert(1, "System.Management.Automation.PSCustomObject")
        wired.PSObject.extended_properties = properties
    else:
        wired.PSObject.adapted_properties = properties
    wired.PSObject.to_string = value.text
    return wired


@cache
def _enumeration(kind: type[Numbered]) -> Any:
    """The enumeration as psrpcore has them: it writes the number, the name and the type."""
    create: Any = PSEnumBase
    created = create(kind.__name__, {str(member): member.number for member in kind})
    return PSType([next(iter(kind)).type_name], rehydrate=False)(created)


def _property(value: Any) -> Any:
    if isinstance(value, Item):
        # What lies deeper goes as text.
        return value.text
    if isinstance(value, Numbered):
        return _enumeration(type(value))[str(value)]
    if isinstance(value, tuple):
        strings = PSList(value)
        strings.PSObject.type_names = ["System.String[]", "System.Array", "System.Object"]
        return strings
    if isinstance(value, dt.timedelta) and not value.microseconds and value.seconds % 60 in _WHOLE_TENS:
        # psrpcore 0.3.1 takes the last zero of whole seconds off: 30 s would arrive as 3 s.
        return PSDuration(value) + _ONE_TICK
    return value
