"""Reading what cmdlets put out: deserialised objects, whose values may be missing or of another type than expected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from failover_orch.errors import StepFailed

__all__ = ["Row", "rows", "since_epoch_ms", "span_ms"]

_SPAN = re.compile(
    r"(?P<sign>-)?P(?:(?P<days>\d+)D)?(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>[\d.]+)S)?)?"
)
_NEVER = "0001-01-01"
"""How .NET says that a time was never set."""
_MICROSECONDS = re.compile(r"(\.\d{6})\d+")


class _Deserialised(Protocol):
    adapted_properties: dict[str, Any]
    extended_properties: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One object, by the names of its properties. What an older or newer Hyper-V does not have reads as nothing."""

    values: dict[str, Any]

    def text(self, *names: str) -> str:
        """The first of these properties that is there, as text; an enum's name, a GUID in small letters."""
        for name in names:
            if (value := self.values.get(name)) is not None:
                return str(value)
        return ""

    def raw(self, name: str) -> str | None:
        """The property exactly as it came, nothing being told from empty."""
        value = self.values.get(name)
        return None if value is None else str(value)

    def number(self, name: str) -> int:
        text = self.text(name)
        try:
            return int(text or 0)
        except ValueError:
            raise StepFailed(f"the host says that {name} is {text!r}, where a whole number was expected") from None

    def flag(self, name: str) -> bool:
        return self.text(name).lower() == "true"

    def texts(self, name: str) -> tuple[str, ...]:
        """A list's entries; one that came as a single value counts as a list of it."""
        value = self.values.get(name)
        if value is None:
            return ()
        if isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(str(entry) for entry in value)
        return (str(value),)

    def table(self, name: str) -> dict[str, int]:
        """A hash table of whole numbers; nothing of what is none."""
        value = self.values.get(name)
        if not isinstance(value, Mapping):
            return {}
        return {str(key): int(entry) for key, entry in value.items() if str(entry).isdecimal()}

    def time_ms(self, name: str) -> int:
        """A time, in milliseconds since the Unix epoch; 0: never."""
        return since_epoch_ms(self.text(name))

    def span_ms(self, name: str) -> int:
        return span_ms(self.text(name))


def rows(output: Sequence[Any]) -> tuple[Row, ...]:
    """The objects that a pipeline put out."""
    return tuple(Row(_values(entry)) for entry in output if entry is not None)


def _values(entry: _Deserialised | Any) -> dict[str, Any]:
    # What went through Select-Object has its values as extended properties, what came as it is as adapted ones.
    adapted = getattr(entry, "adapted_properties", None)
    if adapted is None:
        return {"": entry}
    return {**adapted, **entry.extended_properties}


def since_epoch_ms(text: str) -> int:
    """A time as PSRP writes it, `2027-01-15T09:00:00.0000000+01:00`; one without offset is taken for UTC.

    Raises:
        StepFailed: it is none.

    """
    if not text or text.startswith(_NEVER):
        return 0
    try:
        # .NET gives seven digits of a second, Python takes six.
        moment = datetime.fromisoformat(_MICROSECONDS.sub(r"\1", text))
    except ValueError:
        raise StepFailed(f"the host gives the time {text!r}, which is none") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def span_ms(text: str) -> int:
    """A duration as PSRP writes it, `PT1H0.5S`; empty: 0.

    Raises:
        StepFailed: it is none.

    """
    if not text:
        return 0
    if (found := _SPAN.fullmatch(text)) is None:
        raise StepFailed(f"the host gives the duration {text!r}, which is none")
    days, hours, minutes = (int(found[name] or 0) for name in ("days", "hours", "minutes"))
    seconds = ((days * 24 + hours) * 60 + minutes) * 60 + float(found["seconds"] or 0)
    return round(seconds * 1000) * (-1 if found["sign"] else 1)
