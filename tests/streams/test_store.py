"""What the changelog holds, and what becomes of it when it is read again."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import AsyncIterator
from enum import Enum
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from hypothesis import given
from hypothesis import strategies as st

from failover_orch.config import Settings
from failover_orch.contract import state_topic
from failover_orch.domain import (
    AccessToken,
    AutomaticRuns,
    Brake,
    ChainHead,
    Clusters,
    KeptSettings,
    Observers,
    PlanReadiness,
    PlanRun,
    Policy,
    RecoveryPlan,
    Run,
    State,
    VmState,
)
from failover_orch.errors import PartitionFault
from failover_orch.streams.store import APPLIED, Store, dump

KINDS: dict[str, type] = {
    "vm": VmState,
    "run": Run,
    "plan-run": PlanRun,
    "plan": RecoveryPlan,
    "plan-readiness": PlanReadiness,
    "policy": Policy,
    "settings": KeptSettings,
    "token": AccessToken,
    "chain": ChainHead,
}
ALONE: dict[str, type] = {"clusters": Clusters, "evidence": Observers, "brake": Brake, "automatic-runs": AutomaticRuns}
"""Values of which there is one, under a key without a slash."""
TEXT = st.text(max_size=6)


def values(of: Any) -> st.SearchStrategy[Any]:
    """Values of a type, as its annotations have it."""
    origin, arguments = typing.get_origin(of), typing.get_args(of)
    if dataclasses.is_dataclass(of):
        hints = typing.get_type_hints(of)
        return st.builds(
            typing.cast("type", of), **{field.name: values(hints[field.name]) for field in dataclasses.fields(of)}
        )
    if origin is types.UnionType:
        return st.one_of([st.none() if each is types.NoneType else values(each) for each in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if issubclass(of, Enum):
        return st.sampled_from(list(of))
    simple: dict[type, st.SearchStrategy[Any]] = {
        str: TEXT,
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**63 - 1),
    }
    return simple[of]


def test_every_kind_of_state_is_tried_here() -> None:
    assert {*KINDS.values(), *ALONE.values()} == set(typing.get_args(State))


def entries(kind: str, of: type) -> st.SearchStrategy[tuple[str, Any]]:
    return st.tuples(TEXT.map(lambda name: f"{kind}/{name}"), values(of))


def the_only(kind: str, of: type) -> st.SearchStrategy[tuple[str, Any]]:
    return st.tuples(st.just(kind), values(of))


@given(st.one_of(*(the_only(*kind) for kind in ALONE.items()), *(entries(*kind) for kind in KINDS.items())))
def test_every_value_comes_back_as_it_was(entry: tuple[str, State]) -> None:
    key, value = entry
    store = Store()
    store.load("state", 0, key.encode(), dump(value))
    assert store.state == {key: value}
    assert type(store.state[key]) is type(value)


def test_the_applied_offsets_come_back_as_they_were() -> None:
    store = Store()
    store.load("state", 0, APPLIED, dump({"vm-moved": 7, "inventory": 0}))
    assert store.applied == {"vm-moved": 7, "inventory": 0}
    assert store.state == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"vm/a", b"{"),
        (b"vm/a", b"{}"),
        (b"vm/a", b'{"vm_id": 1}'),
        (b"comet/a", b"{}"),
        (b"\xff", b"{}"),
        (b"applied", b'{"vm-moved": "x"}'),
    ],
)
def test_what_this_version_cannot_read_is_said_with_its_place(key: bytes, value: bytes) -> None:
    with pytest.raises(PartitionFault, match=r"state topic app-state, partition 3, key .*: run the version"):
        Store().load("app-state", 3, key, value)


@pytest.fixture
async def changelog(settings: Settings) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, transactional_id=f"{settings.group}-1")
    await producer.start()
    yield producer
    await producer.stop()


async def write(producer: AIOKafkaProducer, settings: Settings, *records: tuple[bytes, bytes | None]) -> None:
    topic = settings.names.of(state_topic(settings.app_id))
    for key, value in records:
        await producer.send(topic, key=key, value=value, partition=1)


async def test_restoring_takes_the_last_of_each_key_and_nothing_that_was_not_committed(
    settings: Settings, changelog: AIOKafkaProducer
) -> None:
    first, last = VmState("a", 1), VmState("a", 2)
    async with changelog.transaction():
        await write(changelog, settings, (b"vm/a", dump(first)), (b"vm/b", dump(VmState("b"))), (APPLIED, b'{"x": 1}'))
    async with changelog.transaction():
        await write(changelog, settings, (b"vm/a", dump(last)), (b"vm/b", None), (APPLIED, b'{"x": 2}'))
    await changelog.begin_transaction()
    await write(changelog, settings, (b"vm/a", dump(VmState("a", 3))), (APPLIED, b'{"x": 3}'))
    await changelog.abort_transaction()
    store = Store()
    count = await store.restore(settings.bootstrap, settings.app_id, 1, settings.names)
    assert store.state == {"vm/a": last}
    assert store.applied == {"x": 2}
    assert count == 6
    other = Store()
    assert await other.restore(settings.bootstrap, settings.app_id, 0, settings.names) == 0
