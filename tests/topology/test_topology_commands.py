"""`failover-orch topology check`, and `apply` on a real Kafka."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from failover_orch.applying import apply_topology
from failover_orch.cli.topology import app
from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.domain import (
    ClusterInventory,
    Location,
    RecoveryPlan,
    Role,
    RouteCause,
    RoutingUpdate,
    SettingsChange,
    VmInventory,
    VmReplicationSettings,
)
from failover_orch.domain.policies import Policy
from failover_orch.errors import LookupFailed
from failover_orch.topology import bundled, load
from failover_orch.wire import Publisher, follow, read_to_end

SMALL = Path(__file__).parent / "small.yaml"
WHOLE = Path(__file__).parent / "whole.yaml"
VMS = 3
CODEC = Codec()
WANTED = ("policies", "replication-settings", "settings-changes", "recovery-plans")


def test_check_of_a_good_file_ends_with_what_it_holds() -> None:
    result = CliRunner().invoke(app, ["check", str(bundled("two-sites"))])
    assert result.exit_code == 0, result.output
    assert "24 VMs, 24 IP plans, 4 recovery plans, 2 policies; 3 would be refused at a failover" in result.output
    assert "refused (A13): adapter lan of plant-hmi" in result.output
    assert "ready; as on the primary: pxe" in result.output
    assert "DHCPv4 DHCPv6" in result.output


def test_check_names_every_mistake_of_every_file_and_fails(tmp_path: Path) -> None:
    text = SMALL.read_text(encoding="utf-8")
    bad = tmp_path / "bad.yaml"
    bad.write_text(text.replace("cpus: 4", "cpus: four").replace("node: w1}", "node: w2}"), encoding="utf-8")
    nowhere = tmp_path / "nowhere.yaml"
    result = CliRunner().invoke(app, ["check", str(bad), str(SMALL), str(nowhere)])
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if str(tmp_path) in line]
    assert lines == [
        f"{bad}:34: vms[db].cpus: is 'four'; expected a whole number from 1 to 4096, in plain digits without quotes",
        f"{bad}:55: vms[web].replication.node: there is no node 'w2'; known: e1, e2, w1",
        f"{nowhere}:1: file: cannot be read: No such file or directory",
    ]
    assert "3 VMs, 2 IP plans" in result.output


def test_check_says_warnings_and_succeeds(tmp_path: Path) -> None:
    file = tmp_path / "tight.yaml"
    file.write_text(SMALL.read_text(encoding="utf-8").replace("free_gib: 900", "free_gib: 190"), encoding="utf-8")
    result = CliRunner().invoke(app, ["check", str(file)])
    assert result.exit_code == 0
    assert f"{file}:49: vms[web].replication: warning" not in result.output
    assert ": vms[db].replication: warning: the replica finds no room: " in result.output


async def records(settings: Settings, *topics: str) -> list[object]:
    found: list[object] = []
    async for batch in read_to_end(settings.bootstrap, topics, names=settings.names):
        found += [CODEC.decode_from(record.topic, record.value) for record in batch]
    return found


def publisher(settings: Settings, source: str) -> Publisher:
    return Publisher(settings.bootstrap, CODEC, names=settings.names, partitions=settings.partitions, source=source)


def route(vm: VmInventory, role: Role) -> RoutingUpdate:
    here = Location(vm.replication.primary_site, "e1", role, 1)
    return RoutingUpdate(vm.vm_id, 1, RouteCause.PLACED, here, "", (here,), 1, vm.name)


@dataclass
class Broker:
    """What the stand-in for the workers saw."""

    too_early: list[str] = field(default_factory=list)
    """What was wanted of VMs whose inventory had not arrived."""
    routed: set[str] = field(default_factory=set)
    knows_all: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.asynccontextmanager
async def broker(settings: Settings) -> AsyncIterator[Broker]:
    """Stands in for the workers: routes each VM whose inventory arrives."""
    seen = Broker()

    async def work() -> None:
        following = follow(settings.bootstrap, ["inventory"], names=settings.names)
        async with publisher(settings, "broker") as out, contextlib.aclosing(following):
            async for batch in following:
                for record in batch:
                    value = CODEC.decode_from(record.topic, record.value)
                    if isinstance(value, VmInventory):
                        wanted = await records(settings, *WANTED)
                        seen.too_early.extend(type(one).__name__ for one in wanted)
                        await out.publish(route(value, Role.PRIMARY))
                        seen.routed.add(value.vm_id)
                        if len(seen.routed) == VMS:
                            seen.knows_all.set()

    task = asyncio.create_task(work())
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_apply_publishes_what_exists_and_then_what_is_wanted(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "whole.yaml"
    block = "replication: {enabled: true, from_any_server: true, default_storage_location: /srv/replicas}"
    file.write_text(WHOLE.read_text().replace("    broker: WEST-BROKER\n", f"    broker: WEST-BROKER\n    {block}\n"))
    topology = load(file)
    async with broker(settings):
        await apply_topology(settings, topology, actor="alice", reason="new", wait_s=30)
        await apply_topology(settings, topology, actor="alice", reason="again", wait_s=30)
    inventory = await records(settings, "inventory")
    vms = [one for one in inventory if isinstance(one, VmInventory)]
    clusters = [one for one in inventory if isinstance(one, ClusterInventory)]
    assert {vm.vm_id for vm in vms} == {"db", "app", "web"}
    assert len(vms) == 2 * 3
    assert len(clusters) == 2 * 2 * settings.partitions
    assert all(vm.reported_at_ms > 0 for vm in vms)
    assert all(cluster.reported_at_ms > 0 for cluster in clusters)
    wanted = await records(settings, *WANTED)
    kinds = VmReplicationSettings | RecoveryPlan | Policy
    first = [one for one in wanted if isinstance(one, kinds) and one.reason == "new"]
    assert all(one.actor == "alice" and one.set_at_ms > 0 for one in first)
    plain = [replace(one, actor="", reason="", set_at_ms=0) for one in first]
    assert set(plain) == {*topology.settings, *topology.plans, *topology.policies}
    changes = [one for one in wanted if isinstance(one, SettingsChange)]
    assert [(one.actor, one.reason) for one in changes] == [("alice", "new"), ("alice", "again")]
    assert len({one.change_id for one in changes} - {""}) == 2
    wanted_of_west = {
        "enabled": "true",
        "from_any_server": "true",
        "default_storage_location": "/srv/replicas",
    }
    assert [(one.target, one.changes) for one in changes] == [("west-cluster", wanted_of_west)] * 2
    # A VM's own policy goes to its partition alone, the others to every one.
    copies = {policy.key: plain.count(policy) for policy in topology.policies}
    everywhere = settings.partitions
    assert copies == {"all": everywhere, "site/west": everywhere, "plan/shop": everywhere, "vm/db": 1}


async def test_nothing_is_wanted_of_vms_before_the_broker_knows_them(settings: Settings) -> None:
    async with broker(settings) as seen:
        await apply_topology(settings, load(WHOLE), wait_s=30)
        async with asyncio.timeout(30):
            await seen.knows_all.wait()
    assert seen.too_early == []


async def test_apply_gives_up_by_name_where_no_worker_answers(settings: Settings) -> None:
    async with publisher(settings, "test") as out:
        db, web, _ = (vm.inventory for vm in load(SMALL).vms)
        # A route without a role is of a VM that moved: the broker has not seen its inventory.
        await out.publish(route(db, Role.UNKNOWN), route(web, Role.PRIMARY))
    with pytest.raises(LookupFailed, match=r"does not know 2 of 3 VMs \(build, db\).*is a worker running\?"):
        await apply_topology(settings, load(SMALL), wait_s=0)
    assert await records(settings, *WANTED) == []


async def test_what_a_site_agent_has_reported_is_left_as_reported(settings: Settings) -> None:
    topology = load(SMALL)
    seen = replace(topology.vms[0].inventory, memory_mib=1, reported_at_ms=1)
    cluster = replace(topology.clusters[1], supported_guests=(), reported_at_ms=1)
    async with publisher(settings, "site/west") as out:
        await out.publish(seen, cluster)
    async with broker(settings):
        await apply_topology(settings, topology, wait_s=30)
    inventory = await records(settings, "inventory")
    assert [one for one in inventory if isinstance(one, VmInventory) and one.vm_id == "db"] == [seen]
    west = [one for one in inventory if isinstance(one, ClusterInventory) and one.cluster == cluster.cluster]
    assert west == [cluster] * settings.partitions


async def test_apply_as_a_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("BOOTSTRAP", settings.bootstrap),
        ("TOPIC_PREFIX", settings.topic_prefix),
        ("PARTITIONS", str(settings.partitions)),
    ):
        monkeypatch.setenv(f"FAILOVER_ORCH_{name}", value)
    async with broker(settings):
        arguments = ["apply", str(WHOLE), "--actor", "alice", "--wait", "30"]
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 clusters, 3 VMs, 3 IP plans, 2 recovery plans and 4 policies published" in result.output
    wanted = await records(settings, "replication-settings")
    assert {(one.actor, one.reason) for one in wanted if isinstance(one, VmReplicationSettings)} == {
        ("alice", "topology file whole.yaml")
    }


def test_apply_of_a_broken_file_says_every_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILOVER_ORCH_BOOTSTRAP", "127.0.0.1:1")
    file = tmp_path / "broken.yaml"
    file.write_text("sites: []\nvms: []\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["apply", str(file)])
    assert result.exit_code == 1
    assert f"{file}:line 1: sites: is empty" in result.output
    assert f"{file}:line 1: clusters: is missing" in result.output
