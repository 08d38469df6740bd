"""Values of the contract's records, made up by hypothesis, and a registry that lives in memory."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

from hypothesis import strategies as st

from failover_orch.contract import STEP_COMMANDS, TOPICS
from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.errors import UndecodableRecord

RECORDS: tuple[type, ...] = tuple(record for topic in (*TOPICS, STEP_COMMANDS) for record in topic.records)
MOVED = VmMoved("vm-1", "dr", "d1", MoveKind.LIVE, 1_700_000_000_123, "dr-c", "/csv/1", 5, "agent-d1")

TEXT = st.text(max_size=8)


def values(of: Any) -> st.SearchStrategy[Any]:
    """Values of a type as the records' annotations use them; whole numbers within Avro's long."""
    origin, arguments = typing.get_origin(of), typing.get_args(of)
    if dataclasses.is_dataclass(of):
        hints = typing.get_type_hints(of)
        return st.builds(
            typing.cast("type", of), **{field.name: values(hints[field.name]) for field in dataclasses.fields(of)}
        )
    if origin is types.UnionType:
        return st.one_of([st.none() if each is types.NoneType else values(each) for each in arguments])
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(TEXT, TEXT, max_size=3)
    if issubclass(of, Enum):
        return st.sampled_from(list(of))
    simple: dict[type, st.SearchStrategy[Any]] = {
        str: TEXT,
        bool: st.booleans(),
        bytes: st.binary(max_size=40),
        int: st.integers(-(2**63), 2**63 - 1),
    }
    return simple[of]


class MemoryRegistry:
    """A registry without HTTP. Ids start at 1; `asked` counts the schemas asked for."""

    def __init__(self) -> None:
        self.schemas: list[Any] = []
        self.asked = 0

    def id_of(self, subject: str, schema: Any) -> int:
        if schema not in self.schemas:
            self.schemas.append(schema)
        return self.schemas.index(schema) + 1

    def schema_of(self, schema_id: int) -> Any:
        self.asked += 1
        if not 1 <= schema_id <= len(self.schemas):
            raise UndecodableRecord(f"schema id {schema_id} is not in the registry")
        return self.schemas[schema_id - 1]
