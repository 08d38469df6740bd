"""How settings are written: the text forms that people type, each read into a value and written from one.

What is written is read as the same value. A text that is no value of its form raises ConfigError, in words that go on
from the setting's name: "expected a port from 1 to 65535, not '0'".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from failover_orch.domain.replication_settings import AuthorizationEntry, NodePort
from failover_orch.errors import ConfigError

__all__ = [
    "AUTHORIZATION",
    "DISKS",
    "FLAG",
    "INSTANT",
    "LOCATION",
    "NAME",
    "PORT",
    "PORT_MAP",
    "THUMBPRINT",
    "TIME_OF_DAY",
    "Form",
    "choice",
    "duration",
    "number",
    "write_instant",
]


_LAST_PORT = 65_535
_THUMBPRINT_CHARACTERS = 128
_HEX = frozenset("0123456789ABCDEF")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DAY_MS = 86_400_000
_DIGITS = 18
"""More make no time and no port."""
_PARTS_OF_ENTRY = 3
_AT_ONCE = "at once"


@dataclass(frozen=True, slots=True)
class Form:
    """How values of one kind are read, written and compared. `canonical` makes equal what means the same."""

    parse: Callable[[str], Any]
    write: Callable[[Any], str] = str
    canonical: Callable[[Any], Any] = lambda value: value


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"expected true or false, not {text!r}")
    return text.lower() == "true"


FLAG = Form(_flag, lambda value: "true" if value else "false")


def choice(of: type[StrEnum]) -> Form:
    """One of an enumeration's values, in whatever case it is typed."""
    names = [member.value for member in of]

    def parse(text: str) -> StrEnum:
        for member in of:
            if member.value.lower() == text.lower():
                return member
        raise ConfigError(f"expected {', '.join(names[:-1])} or {names[-1]}, not {text!r}")

    return Form(parse, lambda value: str(value.value))


def _digits(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


def number(lowest: int, highest: int) -> Form:
    """A whole number, both bounds included."""

    def parse(text: str) -> int:
        value = _digits(text)
        if value is None or not lowest <= value <= highest:
            raise ConfigError(f"expected a whole number from {lowest} to {highest}, not {text!r}")
        return value

    return Form(parse)


def _port(text: str) -> int:
    value = _digits(text)
    if value is None or not 1 <= value <= _LAST_PORT:
        raise ConfigError(f"expected a port from 1 to {_LAST_PORT}, not {text!r}")
    return value


PORT = Form(_port)


def duration(allowed_s: Sequence[int]) -> Form:
    """One of so many seconds, written in the largest unit that is whole: `30s`, `5m`, `12h`, `2d`."""
    said = [_duration_text(value) for value in allowed_s]

    def parse(text: str) -> int:
        amount, unit = (text[:-1], text[-1:].lower()) if text[-1:].lower() in _UNITS_S else (text, "s")
        value = _digits(amount.strip())
        if value is None or value * _UNITS_S[unit] not in allowed_s:
            raise ConfigError(f"expected {', '.join(said[:-1])} or {said[-1]} (without a unit: seconds), not {text!r}")
        return value * _UNITS_S[unit]

    return Form(parse, _duration_text)


def _duration_text(seconds: int) -> str:
    for unit, size in reversed(_UNITS_S.items()):
        # 24 hours are a setting of their own, and a day is another name for them: hours are what the field says.
        if seconds % size == 0 and seconds >= size * (2 if unit == "d" else 1):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _time_of_day(text: str) -> int:
    hours, colon, minutes = text.partition(":")
    hour, minute = _digits(hours), _digits(minutes)
    if not colon or hour is None or minute is None or len(minutes) != 2 or hour > 23 or minute > 59:  # noqa: PLR2004 (a clock's face)
        raise ConfigError(f"expected a time of day such as 09:00, not {text!r}")
    return hour * 60 + minute


TIME_OF_DAY = Form(_time_of_day, lambda value: f"{value // 60:02}:{value % 60:02}")


def _name(text: str) -> str:
    if any(character.isspace() for character in text):
        raise ConfigError(f"expected a name without spaces, not {text!r}")
    return text


NAME = Form(_name)


def _location(text: str) -> str:
    if not _is_absolute(text):
        raise ConfigError(
            f"expected an absolute path, such as /srv/replicas or C:\\ClusterStorage\\Volume1, not {text!r}"
        )
    bare = text.rstrip("/\\")
    return bare if bare and not bare.endswith(":") else text


def _is_absolute(path: str) -> bool:
    return path.startswith(("/", "\\\\")) or (len(path) > 2 and path[0].isalpha() and path[1:3] in (":\\", ":/"))  # noqa: PLR2004 (a drive, as in C:\)


LOCATION = Form(_location)


def _thumbprint(text: str) -> str:
    """Certificate managers show them in pairs, some with a mark of direction in front that cannot be seen."""
    bare = "".join(character for character in text if character.isalnum()).upper()
    if not bare or len(bare) > _THUMBPRINT_CHARACTERS or set(bare) - _HEX:
        raise ConfigError(f"expected at most {_THUMBPRINT_CHARACTERS} hexadecimal digits, not {text!r}")
    return bare


THUMBPRINT = Form(_thumbprint, canonical=str.upper)


def _port_map(text: str) -> tuple[NodePort, ...]:
    found = []
    for part in _parts(text, ","):
        node, equals, port = part.partition("=")
        if not equals or not node.strip():
            raise ConfigError(f"expected node=port, several with commas, such as p1=8080,p2=8081, not {part!r}")
        found.append(NodePort(_name(node.strip()), _port(port.strip())))
    return _sorted_map(found)


def _sorted_map(ports: Sequence[NodePort]) -> tuple[NodePort, ...]:
    return tuple(sorted(ports, key=lambda each: (each.node.lower(), each.port)))


PORT_MAP = Form(
    _port_map,
    lambda value: ",".join(f"{each.node}={each.port}" for each in value),
    lambda value: _sorted_map([NodePort(each.node.lower(), each.port) for each in value]),
)


def _authorization(text: str) -> tuple[AuthorizationEntry, ...]:
    entries = []
    for part in _parts(text, ";"):
        fields = [field.strip() for field in part.split("|")]
        if len(fields) != _PARTS_OF_ENTRY or not all(fields):
            raise ConfigError(
                "expected primary server|storage location|trust group, several with semicolons, such as "
                f"*.example.com|/srv/replicas|gold, not {part!r}"
            )
        server, location, group = fields
        _check_server(server)
        entries.append(AuthorizationEntry(server.lower(), _location(location), group))
    return _sorted_entries(entries)


def _check_server(name: str) -> None:
    """A host's name; `*` may stand for the whole of its first label, and nowhere else."""
    if name == "*":
        raise ConfigError("'*' would authorise every server: set from_any_server to true for that")
    if "*" in name.removeprefix("*."):
        raise ConfigError(f"a wildcard may only be the whole first label, as in *.example.com, not {name!r}")
    if not all(name.split(".")) or any(character.isspace() for character in name):
        raise ConfigError(f"expected a primary server's name with its domain, such as a.example.com, not {name!r}")


def _sorted_entries(entries: Sequence[AuthorizationEntry]) -> tuple[AuthorizationEntry, ...]:
    return tuple(sorted(entries, key=lambda each: (each.primary_server, each.storage_location, each.trust_group)))


AUTHORIZATION = Form(
    _authorization,
    lambda value: "; ".join(f"{each.primary_server}|{each.storage_location}|{each.trust_group}" for each in value),
    lambda value: _sorted_entries(
        [AuthorizationEntry(each.primary_server.lower(), each.storage_location, each.trust_group) for each in value]
    ),
)


def _parts(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


DISKS = Form(
    lambda text: tuple(sorted(set(_parts(text, ",")))),
    ",".join,
    lambda value: tuple(sorted(set(value))),
)


# Instants: proleptic Gregorian days counted from March, so that a leap day is the last of its year.


def _instant(text: str) -> int:
    if text.lower() in (_AT_ONCE, "0"):
        return 0
    date, _, clock = text.upper().removesuffix("Z").partition("T")
    day, time = [_digits(part) for part in date.split("-")], [_digits(part) for part in clock.split(":")]
    if text[-1:] in "Zz" and len(day) == 3 and len(time) in (2, 3) and None not in (*day, *time):  # noqa: PLR2004 (h, m and s)
        year, month, of_month = (value or 0 for value in day)
        hour, minute, second = (*(value or 0 for value in time), 0)[:3]
        at_ms = _days(year, month, of_month) * _DAY_MS + (hour * 3600 + minute * 60 + second) * 1000
        # A day or hour that there is none of is written back as another one.
        if (
            at_ms > 0
            and write_instant(at_ms) == f"{year:04}-{month:02}-{of_month:02}T{hour:02}:{minute:02}:{second:02}Z"
        ):
            return at_ms
    raise ConfigError(f"expected a time in UTC such as 2026-11-23T10:00:00Z, or {_AT_ONCE!r}, not {text!r}")


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01."""
    year, month = (year, month - 3) if month > 2 else (year - 1, month + 9)  # noqa: PLR2004 (a year begins with March here)
    return year * 365 + year // 4 - year // 100 + year // 400 + (month * 153 + 2) // 5 + day - 1 - 719_468


def write_instant(at_ms: int) -> str:
    """Milliseconds since the Unix epoch as `2026-11-23T10:00:00Z`."""
    days, of_day = divmod(at_ms // 1000, 86_400)
    century, left = divmod((days + 719_468) * 4 + 3, 146_097)
    year, left = divmod(left // 4 * 4 + 3, 1461)
    month, left = divmod(left // 4 * 5 + 2, 153)
    year += century * 100 + (1 if month > 9 else 0)  # noqa: PLR2004 (January is the eleventh month here)
    month = month + 3 if month <= 9 else month - 9  # noqa: PLR2004 (as above)
    return f"{year:04}-{month:02}-{left // 5 + 1:02}T{of_day // 3600:02}:{of_day // 60 % 60:02}:{of_day % 60:02}Z"


INSTANT = Form(_instant, lambda value: write_instant(value) if value else _AT_ONCE)
