"""What a stranger's schema must not have, though Avro allows it: what a few bytes of a record would never end with."""

from __future__ import annotations

from typing import Any

__all__ = ["hazards"]

_NO_BYTES = 0
_AT_LEAST_ONE = 1


def hazards(schema: Any) -> list[str]:
    """Why records of a schema could not be read safely, one sentence each; none for every schema of ours.

    An array of items that take no bytes says in nine bytes that it has 2^62 of them. A record that holds itself is read
    by a function that calls itself, in C, until the process's stack ends and the process with it. The reader skips
    fields that it does not know, but it reads them to do so.

    `schema` is as `fastavro.parse_schema` returns it.
    """
    walk = _Walk()
    walk.least(schema, "the value")
    return walk.found


class _Walk:
    def __init__(self) -> None:
        self.found: list[str] = []
        self._sizes: dict[str, int] = {}
        self._within: set[str] = set()

    def least(self, schema: Any, where: str) -> int:
        """The least number of bytes that a value takes: none, or one or more."""
        if isinstance(schema, list):
            for branch in schema:
                self.least(branch, where)
            return _AT_LEAST_ONE
        if isinstance(schema, str):
            return self._named(schema, where)
        kind = schema["type"]
        if kind == "record":
            return self._record(schema)
        if kind == "fixed":
            self._sizes[schema["name"]] = min(_AT_LEAST_ONE, schema["size"])
            return self._sizes[schema["name"]]
        if kind == "enum":
            self._sizes[schema["name"]] = _AT_LEAST_ONE
        elif kind == "array":
            if self.least(schema["items"], f"{where}[]") == _NO_BYTES:
                self.found.append(f"{where} is an array of items without bytes: nobody could tell where it ends")
        elif kind == "map":
            self.least(schema["values"], f"{where}{{}}")
        else:
            return self.least(kind, where)
        return _AT_LEAST_ONE

    def _record(self, schema: Any) -> int:
        name = schema["name"]
        self._within.add(name)
        sizes = [self.least(field["type"], f"{name.rpartition('.')[2]}.{field['name']}") for field in schema["fields"]]
        self._within.discard(name)
        self._sizes[name] = max(sizes, default=_NO_BYTES)
        return self._sizes[name]

    def _named(self, name: str, where: str) -> int:
        if name in self._within:
            self.found.append(
                f"{where} holds the record {name.rpartition('.')[2]} that it is a part of: it could be endless"
            )
        return _NO_BYTES if name == "null" else self._sizes.get(name, _AT_LEAST_ONE)
