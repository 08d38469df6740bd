"""What a site agent tells of replication settings, and how it gives nodes and VMs theirs: no Kafka."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from failover_orch.domain.facts import StepOutcome
from failover_orch.domain.inventory import NodeState
from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.replication_settings import (
    ReplicationServer,
    SettingsObserved,
    VmReplication,
)
from failover_orch.errors import StepFailed
from failover_orch.hypervisors import Hypervisor
from failover_orch.hypervisors.simulated import FaultKind, SimulatedHypervisor, SimulatedWorld
from failover_orch.site.settings_keeping import Due, SettingsKeeping
from failover_orch.site.steps import Steps
from worlds import command, make_world

SERVER = ReplicationServer(enabled=True, from_any_server=True, default_storage_location="/csv/e")
PATIENCE_S = 20


def now() -> int:
    return time.time_ns() // 1_000_000


def to_node(node: str, server: ReplicationServer = SERVER, *, wait_s: float = 30, version: int = 1) -> StepCommand:
    asked = command(Action.APPLY_SETTINGS, "dr", vm_id="", epoch=version, run_id=f"settings/dr-cluster/{version}")
    return replace(asked, node=node, step=node, key="dr-cluster", server=server, deadline_ms=now() + int(wait_s * 1000))


def to_vm(replication: VmReplication | None, vm_id: str = "vm-1", site: str = "primary") -> StepCommand:
    asked = command(Action.APPLY_SETTINGS, site, vm_id=vm_id, epoch=1, run_id=f"settings/{vm_id}/1")
    return replace(asked, replication=replication, deadline_ms=now() + 30_000)


def observed(node: str, server: ReplicationServer | None = SERVER, at_ms: int = 0, error: str = "") -> SettingsObserved:
    return SettingsObserved("dr", "dr-cluster", node, at_ms, server=server, error=error)


# When what is seen is told


def test_what_is_new_is_told_and_what_is_known_at_its_interval() -> None:
    due = Due(60)
    seen = {"d1": observed("d1", at_ms=1), "d2": observed("d2", at_ms=1)}
    assert due.among(seen, 0) == seen
    due.told(seen, 0)
    again = {name: replace(one, observed_at_ms=2) for name, one in seen.items()}
    assert due.among(again, 59) == {}
    assert due.among(again, 60) == again


def test_what_has_changed_is_told_at_once() -> None:
    due = Due(60)
    due.told({"d1": observed("d1"), "d2": observed("d2")}, 0)
    changed = observed("d1", replace(SERVER, http_port=8080), at_ms=9)
    gone = observed("d2", None, error="d2 is DOWN")
    assert due.among({"d1": changed, "d2": observed("d2", at_ms=9)}, 1) == {"d1": changed}
    assert due.among({"d2": gone}, 1) == {"d2": gone}


def test_whoever_was_given_settings_is_told_though_nothing_changed() -> None:
    due = Due(60)
    due.told({"d1": observed("d1"), "d2": observed("d2")}, 0)
    seen = {"d1": observed("d1", at_ms=5), "d2": observed("d2", at_ms=5)}
    assert due.among(seen, 1, anyway={"d2"}) == {"d2": seen["d2"]}


def test_what_was_not_published_is_due_still() -> None:
    due = Due(60)
    assert due.among({"d1": observed("d1")}, 0) == due.among({"d1": observed("d1")}, 1)


# The keeping itself


class _Told:
    """What was told, and waiting for it."""

    def __init__(self) -> None:
        self.values: list[SettingsObserved] = []
        self._more = asyncio.Event()

    async def __call__(self, told: Iterable[object]) -> None:
        self.values += [one for one in told if isinstance(one, SettingsObserved)]
        self._more.set()

    async def until(self, enough: Callable[[list[SettingsObserved]], object]) -> list[SettingsObserved]:
        async with asyncio.timeout(PATIENCE_S):
            while not enough(self.values):
                self._more.clear()
                await self._more.wait()
        return self.values


@asynccontextmanager
async def keeping(hypervisor: Hypervisor, every_s: float = 0.05) -> AsyncIterator[tuple[SettingsKeeping, _Told]]:
    kept, told = SettingsKeeping(hypervisor, every_s=every_s, clock=now), _Told()
    task = asyncio.create_task(kept.run(told))
    try:
        yield kept, told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def world(tmp_path: Path) -> SimulatedWorld:
    return make_world(tmp_path / "world.db")


def hypervisor(tmp_path: Path, site: str = "dr") -> SimulatedHypervisor:
    return SimulatedHypervisor(tmp_path / "world.db", site)


async def test_all_nodes_and_active_vms_are_told_at_the_start(world: SimulatedWorld, tmp_path: Path) -> None:
    async with keeping(hypervisor(tmp_path, "primary"), every_s=3600) as (_, told):
        values = await told.until(lambda values: len(values) >= 3)
    assert [(one.cluster, one.node, one.vm_id) for one in values] == [
        ("primary-cluster", "p1", ""),
        ("primary-cluster", "p2", ""),
        ("primary-cluster", "p1", "vm-1"),
    ]
    assert [one.server for one in values[:2]] == list(world.servers("primary").values())
    assert values[2].replication == world.replication("vm-1")


async def test_a_change_behind_the_brokers_back_is_told(world: SimulatedWorld, tmp_path: Path) -> None:
    async with keeping(hypervisor(tmp_path)) as (_, told):
        await told.until(lambda values: len(values) >= 2)
        world.set_server("d2", SERVER)
        await told.until(lambda values: values[-1].server == SERVER or any(one.server == SERVER for one in values))
    assert {one.node for one in told.values if one.server == SERVER} == {"d2"}


async def test_all_is_told_again_and_again(world: SimulatedWorld, tmp_path: Path) -> None:
    async with keeping(hypervisor(tmp_path)) as (_, told):
        values = await told.until(lambda values: Counter(one.node for one in values)["d1"] >= 3)
    times = [one.observed_at_ms for one in values if one.node == "d1"]
    assert times == sorted(set(times))


async def test_a_node_that_does_not_answer_says_why_and_the_others_still_tell(
    world: SimulatedWorld, tmp_path: Path
) -> None:
    world.set_node("d1", NodeState.DOWN)
    async with keeping(hypervisor(tmp_path), every_s=3600) as (_, told):
        values = await told.until(lambda values: len(values) >= 2)
    assert [(one.node, one.server is None, one.error) for one in values] == [
        ("d1", True, "d1 is DOWN"),
        ("d2", False, ""),
    ]


async def test_whoever_was_given_settings_is_told_at_once_though_they_are_the_same(
    world: SimulatedWorld, tmp_path: Path
) -> None:
    async with keeping(hypervisor(tmp_path), every_s=3600) as (kept, told):
        await told.until(lambda values: len(values) >= 2)
        before_ms = now()
        kept.applied(to_node("d2", world.server("d2")))
        last = (await told.until(lambda values: len(values) >= 3))[-1]
    assert (last.node, last.server) == ("d2", world.server("d2"))
    assert last.observed_at_ms >= before_ms
    async with keeping(hypervisor(tmp_path, "primary"), every_s=3600) as (kept, told):
        await told.until(lambda values: len(values) >= 3)
        kept.applied(to_vm(world.replication("vm-1")))
        last = (await told.until(lambda values: len(values) >= 4))[-1]
    assert (last.vm_id, last.replication) == ("vm-1", world.replication("vm-1"))


def test_settings_are_overtaken_by_newer_ones_for_the_same_node(world: SimulatedWorld, tmp_path: Path) -> None:
    kept = SettingsKeeping(hypervisor(tmp_path), every_s=60, clock=now)
    for asked in (to_node("d1", version=3), to_node("d1", version=2), to_node("d2", version=5), to_vm(VmReplication())):
        kept.heard(asked)
    assert [kept.overtaken(to_node("d1", version=version)) for version in (2, 3, 4)] == [3, 0, 0]
    assert kept.overtaken(to_node("d2", version=4)) == 5
    assert kept.overtaken(to_vm(VmReplication())) == 0
    assert kept.overtaken(command(Action.START, "dr", epoch=0)) == 0


async def test_what_cannot_be_looked_at_now_is_looked_at_again(world: SimulatedWorld, tmp_path: Path) -> None:
    class Failing(SimulatedHypervisor):
        fails = 2

        async def servers(self, nodes: Collection[str] = ()) -> Mapping[str, ReplicationServer | str]:
            self.fails -= 1
            if self.fails >= 0:
                raise StepFailed("no node answers")
            return await super().servers(nodes)

    async with keeping(Failing(tmp_path / "world.db", "dr")) as (_, told):
        assert {one.node for one in await told.until(lambda values: len(values) >= 2)} == {"d1", "d2"}


# Commands


async def test_settings_are_given_to_nodes_and_vms(world: SimulatedWorld, tmp_path: Path) -> None:
    steps = Steps(hypervisor(tmp_path), per_node=4, clock=now)
    result = await steps.run(to_node("d2", version=7))
    assert (result.outcome, result.node, result.key, result.epoch) == (StepOutcome.DONE, "d2", "dr-cluster", 7)
    assert "read back" in result.detail
    assert world.servers("dr")["d2"] == SERVER
    assert world.servers("dr")["d1"] != SERVER
    wanted = VmReplication(frequency_s=900, recovery_points=2)
    result = await Steps(hypervisor(tmp_path, "primary"), per_node=4, clock=now).run(to_vm(wanted))
    assert (result.outcome, result.vm_id) == (StepOutcome.DONE, "vm-1")
    assert world.replication("vm-1") == wanted


async def test_each_way_to_fail_has_its_outcome_and_leaves_the_node_as_it_was(
    world: SimulatedWorld, tmp_path: Path
) -> None:
    steps = Steps(hypervisor(tmp_path), per_node=4, clock=now)
    before = world.servers("dr")
    for kind in (FaultKind.FAIL, FaultKind.REFUSE, FaultKind.HANG):
        world.fail_settings("d1", kind=kind)
    outcomes = [(await steps.run(to_node("d1", wait_s=wait_s))).outcome for wait_s in (30, 30, 0.2)]
    assert outcomes == [StepOutcome.FAILED, StepOutcome.REFUSED, StepOutcome.FAILED]
    assert world.servers("dr") == before
    for asked, what in (
        (to_node("p1"), "no node 'p1' at dr"),
        (to_vm(VmReplication(), site="dr"), "vm-1 is not replicated from dr"),
        (to_vm(None, site="dr"), "it has no settings"),
    ):
        result = await steps.run(asked)
        assert (result.outcome, result.observed) == (StepOutcome.REFUSED, {})
        assert what in result.detail
    world.set_node("d1", NodeState.DOWN)
    result = await steps.run(to_node("d1"))
    assert (result.outcome, "DOWN" in result.detail) == (StepOutcome.FAILED, True)


async def test_an_answer_that_is_lost_is_found_done(world: SimulatedWorld, tmp_path: Path) -> None:
    steps = Steps(hypervisor(tmp_path), per_node=4, clock=now)
    world.fail_settings("d1", kind=FaultKind.LOSE_ANSWER)
    assert (await steps.run(to_node("d1", wait_s=0.3))).outcome is StepOutcome.FAILED
    assert world.servers("dr")["d1"] == SERVER
    assert (await steps.run(to_node("d1"))).outcome is StepOutcome.DONE


async def test_a_node_takes_settings_under_its_limit_of_steps() -> None:
    class Busy:
        site = "dr"
        under_way = most = 0

        async def apply_server(self, _node: str, _server: ReplicationServer) -> None:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            for _ in range(10):  # long enough for all others to begin, if they may
                await asyncio.sleep(0)
            self.under_way -= 1

    busy = Busy()
    steps = Steps(cast("Hypervisor", busy), per_node=2, clock=now)
    await asyncio.gather(*(steps.run(to_node("d1")) for _ in range(6)))
    assert busy.most == 2
    await asyncio.gather(*(steps.run(to_node(f"d{number}")) for number in range(6)))
    assert busy.most == 6
