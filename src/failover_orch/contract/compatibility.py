"""Avro's rules of schema resolution as a check: what a reader could not read of what a writer writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["incompatibilities"]

_PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
_Names = tuple[dict[str, Any], dict[str, Any]]
"""Definitions by full name: the reader's, the writer's."""

_NAMED = ("record", "enum", "fixed")


def incompatibilities(reader: Any, writer: Any) -> list[str]:
    """What `reader` could not read of `writer`'s records, one sentence each, naming the field. Empty: it reads all.

    Both are schemas as `fastavro.parse_schema` returns them (full names, definitions at their first use).
    """
    names = (_definitions(reader), _definitions(writer))
    where = writer["name"].rpartition(".")[2] if isinstance(writer, dict) and "name" in writer else "the value"
    return _between(reader, writer, where, names)


def _definitions(schema: Any) -> dict[str, Any]:
    return dict(schema.get("__named_schemas", {})) if isinstance(schema, dict) else {}


def _between(reader: Any, writer: Any, where: str, names: _Names) -> list[str]:
    reader, writer = _defined(reader, names[0]), _defined(writer, names[1])
    if isinstance(writer, list):
        return [problem for branch in writer for problem in _between(reader, branch, where, names)]
    if isinstance(reader, list):
        return _branches(reader, writer, where, names)
    kind = _kind(writer)
    if kind != _kind(reader):
        if _kind(reader) in _PROMOTIONS.get(kind, ()):
            return []
        return [f"{where}: the writer's {kind} cannot be read as {_kind(reader)}"]
    if kind in _NAMED and _bare(reader) != _bare(writer):
        return [f"{where}: the writer's {kind} {_bare(writer)} is not the reader's {_bare(reader)}"]
    check = _CHECKS.get(kind)
    return check(reader, writer, where, names) if check else []


def _branches(reader: list[Any], writer: Any, where: str, names: _Names) -> list[str]:
    answers = [_between(branch, writer, where, names) for branch in reader]
    if not all(answers):
        return []
    # The branch with the writer's own kind and name tells most about what is wrong.
    return next(
        (found for branch, found in zip(reader, answers, strict=True) if _same(branch, writer, names)),
        [f"{where}: the writer's {_kind(writer)} is none of the reader's branches"],
    )


def _records(reader: Any, writer: Any, where: str, names: _Names) -> list[str]:
    written = {field["name"]: field for field in writer["fields"]}
    problems = []
    for field in reader["fields"]:
        name = next((name for name in (field["name"], *field.get("aliases", ())) if name in written), None)
        if name is not None:
            problems += _between(field["type"], written[name]["type"], f"{where}.{name}", names)
        elif "default" not in field:
            problems.append(f"{where}.{field['name']}: the writer does not have it and the reader has no default")
    return problems


def _enums(reader: Any, writer: Any, where: str, _names: _Names) -> list[str]:
    unknown = sorted(set(writer["symbols"]) - set(reader["symbols"]))
    if unknown and "default" not in reader:
        return [f"{where}: the reader does not know {', '.join(unknown)} and has no default symbol"]
    return []


def _fixed(reader: Any, writer: Any, where: str, _names: _Names) -> list[str]:
    if writer["size"] == reader["size"]:
        return []
    return [f"{where}: the writer's {writer['size']} bytes are not the reader's {reader['size']}"]


_CHECKS: dict[str, Callable[[Any, Any, str, _Names], list[str]]] = {
    "record": _records,
    "enum": _enums,
    "fixed": _fixed,
    "array": lambda reader, writer, where, names: _between(reader["items"], writer["items"], f"{where}[]", names),
    "map": lambda reader, writer, where, names: _between(reader["values"], writer["values"], f"{where}{{}}", names),
}


def _defined(schema: Any, names: dict[str, Any]) -> Any:
    return names.get(schema, schema) if isinstance(schema, str) else schema


def _kind(schema: Any) -> str:
    return str(schema["type"] if isinstance(schema, dict) else schema)


def _bare(schema: Any) -> str:
    return str(schema["name"]).rpartition(".")[2]


def _same(reader: Any, writer: Any, names: _Names) -> bool:
    reader, writer = _defined(reader, names[0]), _defined(writer, names[1])
    kind = _kind(writer)
    return _kind(reader) == kind and (kind not in _NAMED or _bare(reader) == _bare(writer))
