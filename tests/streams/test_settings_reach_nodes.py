"""Replication settings of a cluster of 64 simulated nodes, over a real Kafka: workers and site agents as processes.

A change reaches every node that takes it. Two nodes refuse it and one fails each time: they end FAILED. One fails twice
and has it at the third attempt. One does not answer for a minute, and holds up nobody else. One drifts, and is only
told of (ALERT), and then put right (CORRECT). One joins late and gets what the others have. And a VM replicates to
where its replica is now, whichever way it moved there.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sites import running_agents
from topics import publisher, values, values_once
from workers import Supervised, running_workers, say, until

from failover_orch.config import Settings
from failover_orch.domain import (
    Alert,
    ClusterInventory,
    MoveKind,
    Node,
    NodeState,
    RoutingUpdate,
    SettingsChange,
    SettingsRevision,
    SettingsScope,
    SettingsStanding,
    Standing,
    Storage,
    VmReplication,
)
from failover_orch.hypervisors.simulated import FaultKind, SimulatedWorld
from worlds import make_vm, make_world

CLUSTER = "dr-cluster"
NODES = [f"n{number:02}" for number in range(1, 65)]
*PRESENT, LATE = NODES
REFUSE, FAILS, SLOW, HANGS, DRIFTS = NODES[:2], NODES[2], NODES[3], NODES[4], NODES[9]
STORAGE = (Storage("/csv/d", 1000, 900),)
WANTED = {
    "enabled": "true",
    "authentication": "Kerberos",
    "http_port": "8080",
    "authorization": "*.primary.example|/csv/d|gold",
    "monitoring_interval_s": "7d",
}
REFUSED_FOR_EVER = 1_000_000
PATIENCE_S = 90.0


def make_cluster(path: Path) -> SimulatedWorld:
    """Two nodes at primary; at dr 63, of which none accepts replicas."""
    machines = [Node(name, NodeState.UP, 65_536, 65_536, storages=STORAGE) for name in PRESENT]
    clusters = (
        ClusterInventory(
            "primary-cluster", "primary", "primary-broker", (Node("p1", NodeState.UP, 1024, 1024, storages=STORAGE),)
        ),
        ClusterInventory(CLUSTER, "dr", "dr-broker", tuple(machines), accepts_replicas=False),
    )
    return SimulatedWorld.create(path, clusters, ())


async def change(
    settings: Settings,
    reason: str,
    changes: Mapping[str, str],
    scope: SettingsScope = SettingsScope.CLUSTER,
    target: str = CLUSTER,
) -> str:
    change_id, now_ms = uuid.uuid4().hex, time.time_ns() // 1_000_000
    async with publisher(settings) as publishing:
        await publishing.publish(SettingsChange(scope, target, changes, "alice", reason, now_ms, change_id=change_id))
    return change_id


async def revision(settings: Settings, change_id: str) -> SettingsRevision:
    told = await values_once(
        settings, "settings-revisions", lambda told: any(one.change_id == change_id for one in told)
    )
    (found,) = [one for one in told if one.change_id == change_id]
    assert isinstance(found, SettingsRevision)
    assert found.refused == ()
    return found


async def standing(
    settings: Settings, holds: Callable[[Mapping[str, SettingsStanding]], object], *, timeout_s: float = PATIENCE_S
) -> Mapping[str, SettingsStanding]:
    """How each node stands, once that is as it should be."""

    def latest(told: list[SettingsStanding]) -> dict[str, SettingsStanding]:
        return {one.node: one for one in told if one.target == CLUSTER}

    try:
        return latest(
            await values_once(settings, "settings-standing", lambda told: holds(latest(told)), timeout_s=timeout_s)
        )
    except AssertionError:
        stand = latest(await values(settings, "settings-standing"))
        say(*Counter((one.standing.value, one.version) for one in stand.values()).items())
        raise


def in_sync(version: int, *nodes: str) -> Callable[[Mapping[str, SettingsStanding]], bool]:
    return lambda told: all(
        node in told and (told[node].standing, told[node].applied) == (Standing.IN_SYNC, version) for node in nodes
    )


async def test_a_change_reaches_64_nodes_and_those_that_do_not_take_it_end_as_the_policy_says(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "world.db"
    world = make_cluster(path)
    for node in REFUSE:
        world.fail_settings(node, REFUSED_FOR_EVER, kind=FaultKind.REFUSE)
    world.fail_settings(FAILS, REFUSED_FOR_EVER, kind=FaultKind.FAIL)
    world.fail_settings(SLOW, 2, kind=FaultKind.FAIL)
    world.fail_settings(HANGS, kind=FaultKind.HANG)
    able = [node for node in PRESENT if node not in (*REFUSE, FAILS)]
    at_once = [node for node in able if node not in (SLOW, HANGS)]
    with running_workers(settings, tmp_path, 2), running_agents(settings, tmp_path, path, 2) as agents:
        # A command that is delivered again, to another agent, would put right what is to drift.
        await until(lambda: _shared_out(agents["dr"], settings.partitions), "the agents have shared the commands out")
        await values_once(
            settings,
            "settings-observed",
            lambda told: {one.node for one in told if one.cluster == CLUSTER} >= {*PRESENT},
        )

        # All nodes that take it have it; two refuse it.
        begun = time.monotonic()
        first = await revision(settings, await change(settings, "dr takes replicas of primary", WANTED))
        told = await standing(settings, in_sync(first.version, *at_once))
        reached_s = time.monotonic() - begun
        assert first.server is not None
        wanted = first.server
        assert {world.server(node) for node in at_once} == {wanted}
        assert {told[node].standing for node in REFUSE} == {Standing.FAILED}
        await until(
            lambda: all(c.accepts_replicas for c in world.clusters()), "the cluster accepts replicas", timeout_s=5
        )

        # One drifts: people are told, and it stays as it is.
        drifted = replace(wanted, http_port=9090)
        world.set_server(DRIFTS, drifted)
        told = await standing(settings, _has_drifted)
        assert told[DRIFTS].evidence == {"http_port": "9090"}
        await values_once(settings, "alerts", lambda alerts: _about(alerts, DRIFTS))
        assert world.server(DRIFTS) == drifted

        # One joins late and gets what the others have.
        begun = time.monotonic()
        world.add_node(CLUSTER, Node(LATE, NodeState.UP, 65_536, 65_536, storages=STORAGE))
        await standing(settings, in_sync(first.version, LATE))
        joined_s = time.monotonic() - begun
        await standing(settings, in_sync(first.version, SLOW))
        assert world.server(LATE) == world.server(SLOW) == wanted

        # Set right by a policy, and kept right from then on.
        second = await revision(
            settings, await change(settings, "nobody has to look after it", {"on_drift": "CORRECT"})
        )
        await standing(settings, in_sync(second.version, *at_once, LATE, SLOW))
        assert world.server(DRIFTS) == wanted
        begun = time.monotonic()
        world.set_server(DRIFTS, replace(drifted, authorization=()))
        await until(lambda: world.server(DRIFTS) == wanted, "the drift is put right", timeout_s=PATIENCE_S)
        await standing(settings, in_sync(second.version, DRIFTS))
        corrected_s = time.monotonic() - begun

        # What fails each time has failed in the end, and the rest stands.
        begun = time.monotonic()
        told = await standing(
            settings,
            lambda told: (
                {told[node].standing for node in (*REFUSE, FAILS)} == {Standing.FAILED}
                and told[HANGS].standing is Standing.IN_SYNC
            ),
            timeout_s=150,
        )
        given_up_s = time.monotonic() - begun
        say(
            f"{len(at_once)} nodes had a change after {reached_s:.1f} s, one that joined after {joined_s:.1f} s; a "
            f"drift was put right after {corrected_s:.1f} s; a node was given up {given_up_s:.1f} s after that"
        )
        assert len(told) == len(NODES)
        assert Counter(one.standing for one in told.values()) == {Standing.IN_SYNC: 61, Standing.FAILED: 3}
        never = {world.server(node) for node in (*REFUSE, FAILS)}
        assert {server.enabled for server in never} == {False}
        letters = await values(settings, "dead-letters")
        assert letters == []


async def test_the_next_cycle_goes_to_where_the_replica_is(settings: Settings, tmp_path: Path) -> None:
    """After LIVE and QUICK moves and a storage migration; and the VM replicates as it is told from then on."""
    path = tmp_path / "world.db"
    world = make_world(path, [make_vm(frequency_s=5)])
    with running_workers(settings, tmp_path, 1), running_agents(settings, tmp_path, path, 1):
        for kind, node in ((MoveKind.LIVE, "d2"), (MoveKind.QUICK, "d1"), (MoveKind.STORAGE, "d1")):
            (before,) = world.ends("vm-1", "primary")
            if kind is MoveKind.STORAGE:
                world.move_storage("vm-1", "dr", "/csv/e")
            else:
                world.migrate("vm-1", node, kind)
            await values_once(settings, "routing-updates", partial(_moved, kind))
            world.write("vm-1", 1000)
            await until(partial(_cycled, world, before.cycles), f"a cycle after the {kind} move")
            (after,) = world.ends("vm-1", "primary")
            assert (after.delivered_to, after.missed_cycles) == (node, before.missed_cycles)

        wanted = VmReplication(frequency_s=30, recovery_points=3, application_consistent_hours=2)
        texts = {"frequency_s": "30", "recovery_points": "3", "application_consistent_hours": "2"}
        told = await revision(settings, await change(settings, "it is worth more", texts, SettingsScope.VM, "vm-1"))
        assert told.replication == wanted
        await until(lambda: world.replication("vm-1") == wanted, "the VM replicates as it was told")
        await values_once(settings, "settings-standing", partial(_vm_in_sync, told.version))


def _vm_in_sync(version: int, told: list[SettingsStanding]) -> bool:
    of_vm = [one for one in told if one.target == "vm-1"]
    return bool(of_vm) and (of_vm[-1].standing, of_vm[-1].applied) == (Standing.IN_SYNC, version)


def _assigns(event: Mapping[str, Any]) -> bool:
    return bool(event["event"] == "partitions assigned")


def _shared_out(agents: Supervised, partitions: int) -> bool:
    """Whether each partition of the site's commands is with one of its two agents."""
    assigned = [[event.get("partitions", []) for event in agents.said(number) if _assigns(event)] for number in (0, 1)]
    return all(assigned) and sorted(one for each in assigned for one in each[-1]) == list(range(partitions))


def _about(alerts: list[Alert], node: str) -> bool:
    return any(node in f"{alert.subject} {alert.what}" for alert in alerts)


def _has_drifted(told: Mapping[str, SettingsStanding]) -> bool:
    return told[DRIFTS].standing is Standing.DRIFTED


def _moved(kind: MoveKind, updates: list[RoutingUpdate]) -> bool:
    return any(update.cause.value == kind.value for update in updates)


def _cycled(world: SimulatedWorld, cycles: int) -> bool:
    (end,) = world.ends("vm-1", "primary")
    return end.cycles > cycles
