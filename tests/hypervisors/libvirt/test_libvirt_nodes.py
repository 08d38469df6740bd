"""Nodes of libvirt: connections that come back, commands and files on them, and where a VM is."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest
from libvirt_vms import LEAVES_ITS_DEFINITION, Vm, Vms, make_record, settings, until

from failover_orch.domain.facts import MoveKind
from failover_orch.errors import LookupFailed, StepFailed
from failover_orch.hypervisors import Power
from failover_orch.hypervisors.libvirt.commands import Commands
from failover_orch.hypervisors.libvirt.domain_copies import as_copy
from failover_orch.hypervisors.libvirt.nodes import Found, Nodes, Placed
from failover_orch.hypervisors.libvirt.places import Seen, ToldPlace, chosen
from failover_orch.hypervisors.libvirt.record import METADATA_KEY, METADATA_URI, encode
from failover_orch.lab import Lab

RUNNING = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED)
GOING_DOWN = (libvirt.VIR_DOMAIN_SHUTDOWN, libvirt.VIR_DOMAIN_SHUTDOWN_USER)
SUSPENDED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)
MIGRATING = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)
STARTING = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
OFF = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN)
LEFT = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED)


@pytest.fixture
async def nodes(four_nodes: Lab) -> AsyncIterator[Nodes]:
    async with Nodes(settings(four_nodes)) as nodes:
        yield nodes


# Which of several domains is the VM


def domain(
    node: str,
    state: tuple[int, int],
    *,
    persistent: bool = True,
    told: str = "",
    sequence: int = 1,
    marked: bool = False,
) -> Seen:
    place = ToldPlace("primary", told, "/csv", MoveKind.PLACED, 1, sequence) if told else None
    return Seen(node, "uuid", "name", *state, persistent=persistent, xml="", live_xml="", told=place, marked=marked)


COMING = domain("p2", MIGRATING, persistent=False)
MOVED_ON = domain("p2", OFF, told="p2", sequence=5)


@pytest.mark.parametrize(
    ("found", "last", "away", "node"),
    [
        pytest.param([domain("p1", RUNNING), domain("p2", STARTING, persistent=False)], "", (), "p1", id="W1-begins"),
        pytest.param([domain("p1", RUNNING), COMING], "p2", (), "p1", id="W1-copies"),
        pytest.param([domain("p1", MIGRATING), COMING], "", (), "p1", id="W1-source"),
        pytest.param([COMING], "p1", ("p1",), None, id="W1-alone"),
        pytest.param([domain("p1", LEFT), domain("p2", OFF)], "p1", (), "p2", id="W2"),
        pytest.param([domain("p1", LEFT)], "p1", (), None, id="W2-alone"),
        pytest.param([domain("p1", MIGRATING), domain("p2", RUNNING)], "p1", (), "p2", id="W3-changed-over"),
        pytest.param([domain("p1", OFF), domain("p2", GOING_DOWN)], "p1", (), "p2", id="W3-going-down"),
        pytest.param([domain("p1", OFF), domain("p2", RUNNING)], "p1", ("p3",), "p2", id="W3-whoever-is-away"),
        pytest.param([domain("p1", SUSPENDED), domain("p2", OFF)], "p2", (), "p1", id="W4"),
        pytest.param([domain("p1", OFF)], "p1", ("p2",), "p1", id="W5"),
        pytest.param([domain("p1", OFF)], "p2", ("p2",), None, id="W5-may-run-where-it-was"),
        pytest.param([domain("p1", SUSPENDED, marked=True), domain("p2", SUSPENDED)], "p1", (), "p2", id="W5-starting"),
        pytest.param([domain("p1", MIGRATING), domain("p2", MIGRATING)], "p1", (), "p1", id="W6-last"),
        pytest.param([domain("p1", OFF), domain("p2", OFF)], "p2", (), "p2", id="W6-last-off"),
        pytest.param([domain("p1", OFF, told="p1"), domain("p2", OFF, told="p1")], "", (), "p1", id="W6-told-there"),
        pytest.param([domain("p1", OFF, told="p1", sequence=4), MOVED_ON], "", (), "p2", id="W6-newest"),
    ],
)  # fmt: skip
def test_which_domain_is_the_vm(found: list[Seen], last: str, away: tuple[str, ...], node: str | None) -> None:
    for order in (found, found[::-1]):
        place = chosen(order, last, away)
        assert (place.node if place else None) == node


@pytest.mark.parametrize(
    ("seen", "power"),
    [
        (domain("p1", RUNNING), Power.RUNNING),
        (domain("p1", RUNNING, marked=True), Power.RUNNING),
        (domain("p1", GOING_DOWN), Power.RUNNING),
        (domain("p1", SUSPENDED), Power.RUNNING),
        (domain("p1", MIGRATING), Power.RUNNING),
        (domain("p1", SUSPENDED, marked=True), Power.OFF),
        (domain("p1", OFF), Power.OFF),
        (domain("p1", LEFT), Power.OFF),
    ],
)
def test_a_vm_is_off_only_where_no_guest_can_run(seen: Seen, power: Power) -> None:
    assert seen.power is power


# Commands and files


async def test_a_command_is_given_its_input_and_gives_its_output() -> None:
    assert await Commands("p1", ()).run("tr", "a-z", "A-Z", stdin=b"node") == b"NODE"


async def test_a_prefix_stands_before_the_command() -> None:
    assert await Commands("p1", ("env", "PLACE=p1")).run("sh", "-c", "echo $PLACE") == b"p1\n"


async def test_what_a_failed_command_said_last_is_told() -> None:
    with pytest.raises(StepFailed, match=r"^`cat /no/such` on p1 failed: cat: /no/such: No such file or directory$"):
        await Commands("p1", ()).run("cat", "/no/such")
    with pytest.raises(StepFailed, match=r"`false` on p1 failed: exit code 1, and no word why"):
        await Commands("p1", ()).run("false")


async def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(
        StepFailed, match=r"`no-such-command -v` on p1 cannot be started: no-such-command: No such file"
    ):
        await Commands("p1", ()).run("no-such-command", "-v")


async def test_a_command_past_its_deadline_is_killed_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(StepFailed, match=r"` on p1 has not ended in 1 s and was killed"):
        await Commands("p1", ()).run("sh", "-c", f"sleep 600 & echo $! $$ > {pids}; wait", within_s=1)
    assert not [pid for pid in pids.read_text().split() if running(int(pid))]


async def test_a_cancelled_command_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    task = asyncio.create_task(Commands("p1", ()).run("sh", "-c", f"echo $$ > {pids}; exec sleep 600"))
    await until(lambda: pids.exists() and bool(pids.read_text()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not running(int(pids.read_text()))


async def test_what_goes_through_ssh_arrives_as_it_was_given(tmp_path: Path) -> None:
    """As ssh does it: the arguments after the host, joined by blanks, are a line for a shell."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    given = ("a b", "$HOME", "it's", "*", "")
    through = Commands("p1", (str(ssh), "root@p1"))
    assert await through.run("printf", "<%s>", *given) == "".join(f"<{each}>" for each in given).encode()


async def test_a_file_is_written_whole_and_read_back(tmp_path: Path) -> None:
    commands, path = Commands("p1", ()), tmp_path / "a file"
    content = os.urandom(3_000_000)
    parts = [content[at : at + 200_000] for at in range(0, len(content), 200_000)]
    assert await commands.write(path, chunks(*parts)) == (len(content), hashlib.sha256(content).hexdigest())
    assert b"".join([chunk async for chunk in commands.read(path)]) == content
    assert os.listdir(tmp_path) == ["a file"]  # noqa: PTH208 - pathlib's is not for coroutines, says ASYNC240


async def test_a_file_whose_source_fails_is_not_there(tmp_path: Path) -> None:
    commands, path = Commands("p1", ()), tmp_path / "file"
    path.write_text("before")

    async def breaks_off() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError("the link is down")

    with pytest.raises(ConnectionError):
        await commands.write(path, breaks_off())
    assert path.read_text() == "before"


async def test_a_file_that_arrives_incomplete_is_not_there(tmp_path: Path) -> None:
    """As over a connection that breaks: what writes the file sees its input end, and takes that for the end."""
    prefix = tmp_path / "prefix"
    prefix.write_text('#!/bin/sh\ncase "$*" in *"exec dd"*) head -c 3 | "$@";; *) exec "$@";; esac\n')
    prefix.chmod(0o755)
    with pytest.raises(StepFailed, match=r"file.part has arrived incomplete"):
        await Commands("p1", (str(prefix),)).write(tmp_path / "file", chunks(b"whole"))
    assert not (tmp_path / "file").exists()


async def test_a_write_that_is_cancelled_leaves_nothing_that_goes_on(tmp_path: Path) -> None:
    commands, path = Commands("p1", ()), tmp_path / "file"
    stands_still = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"half"
        await stands_still.wait()

    task = asyncio.create_task(commands.write(path, endless()))
    await until(lambda: path.with_name("file.part").exists())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not path.exists()
    assert await commands.write(path, chunks(b"whole")) == (5, hashlib.sha256(b"whole").hexdigest())
    assert path.read_bytes() == b"whole"


async def test_a_file_that_cannot_be_written_or_read_is_told(tmp_path: Path) -> None:
    commands = Commands("p1", ())
    with pytest.raises(StepFailed, match=r"writing .*/none/file on p1 failed: .*No such file or directory"):
        await commands.write(tmp_path / "none" / "file", chunks(*[b"x" * 100_000] * 40))
    with pytest.raises(StepFailed, match=r"`cat -- .*/none` on p1 failed: .*No such file"):
        _ = [chunk async for chunk in commands.read(tmp_path / "none")]


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# Connections


async def test_a_node_whose_daemon_dies_is_known_to_be_away_and_comes_back(nodes: Nodes, vms: Vms) -> None:
    node = nodes.node("p1")
    assert await node.call(lambda connection: connection.isAlive()) == 1
    await asyncio.to_thread(vms.lab.kill_daemon, "p1")
    await until(lambda: not node.up, within_s=2)
    with pytest.raises(StepFailed, match="node p1 does not answer: "):
        await node.call(lambda connection: connection.isAlive())
    await asyncio.to_thread(vms.lab.start_daemon, "p1")
    await until(lambda: node.up)
    assert await node.call(lambda connection: connection.isAlive()) == 1


async def test_a_daemon_that_stands_still_is_found_out(nodes: Nodes, vms: Vms) -> None:
    node = nodes.node("p1")
    await asyncio.to_thread(vms.lab.pause_daemon, "p1")
    began = time.monotonic()
    # As many as there are turns, on connections that are yet to be opened.
    late: list[int] = []
    calls = [node.call(lambda connection: late.append(connection.numOfDomains()), within_s=30) for _ in range(4)]
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, StepFailed)
        assert "node p1 does not answer: the connection was closed (KEEPALIVE)" in str(error)
    assert time.monotonic() - began < 15
    assert not node.up
    await asyncio.to_thread(vms.lab.resume_daemon, "p1")
    await until(lambda: node.up)
    assert await node.call(lambda connection: connection.numOfDomains()) >= 0
    # What was given up does not happen when the daemon goes on: the VM may be in other hands by then.
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "libvirt-call"])
    assert late == []


async def test_a_link_that_swallows_everything_is_found_out_and_used_again(four_nodes: Lab) -> None:
    site = settings(four_nodes)
    node = replace(site.nodes[0], uri=four_nodes.node("p1").tcp_uri)
    async with Nodes(replace(site, nodes=(node,))) as nodes:
        assert nodes.node("p1").up
        four_nodes.cut_link("primary")
        try:
            with pytest.raises(StepFailed, match="node p1 does not answer"):
                await nodes.node("p1").call(lambda connection: connection.numOfDomains(), within_s=30)
            await until(lambda: not nodes.node("p1").up, within_s=10)
        finally:
            four_nodes.restore_link("primary")
        await until(lambda: nodes.node("p1").up)


async def test_connections_that_come_and_go_leave_nothing_open(nodes: Nodes, vms: Vms) -> None:
    node = nodes.node("p1")
    open_files = []
    for _ in range(6):
        await restart_daemon(vms, "p1")
        await until(lambda: node.up)
        await node.call(lambda connection: connection.numOfDomains())
        open_files.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - pathlib's is not for coroutines
    assert open_files[-1] <= open_files[1]


async def test_a_node_that_is_not_there_is_no_reason_to_wait(four_nodes: Lab) -> None:
    site = settings(four_nodes)
    wrong = replace(site.nodes[1], uri="qemu+unix:///system?socket=/no/such/socket")
    async with Nodes(replace(site, nodes=(site.nodes[0], wrong))) as nodes:
        assert [node.up for node in nodes] == [True, False]
        with pytest.raises(StepFailed, match=r"node p2 does not answer: .*/no/such/socket"):
            await nodes.node("p2").call(lambda connection: connection.isAlive())
        with pytest.raises(LookupFailed, match="no node 'p9' at this site; its nodes are p1, p2"):
            nodes.node("p9")


async def test_what_libvirt_refuses_passes(nodes: Nodes) -> None:
    with pytest.raises(libvirt.libvirtError, match="no domain with matching name"):
        await nodes.node("p1").call(lambda connection: connection.lookupByName("nobody"))


async def test_a_cancelled_call_is_waited_for(nodes: Nodes) -> None:
    """Whoever lets go of a VM's lock knows that nothing it began is still under way."""
    under_way, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def slow(_connection: libvirt.virConnect) -> None:
        under_way.set()
        ended.append(may_end.wait(10))

    call = asyncio.create_task(nodes.node("p1").call(slow))
    await until(under_way.is_set)
    call.cancel()
    assert not (await asyncio.wait({call}, timeout=0.1))[0]
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended == [True]


async def test_events_are_heard_and_wake_whoever_waits(nodes: Nodes, vms: Vms) -> None:
    heard: list[tuple[str, str, str]] = []
    nodes.on_event(lambda event: heard.append((event.node, event.event, event.detail)))
    changed = nodes.changed
    vm = await vms.make("p2")
    await asyncio.wait_for(changed.wait(), 10)
    await vms.migrate(vm, "p2", "p1")
    await until(lambda: ("p2", "STOPPED", "MIGRATED") in heard)
    told = [
        ("p2", "DEFINED", "ADDED"),
        ("p2", "STARTED", "BOOTED"),
        ("p2", "SUSPENDED", "MIGRATED"),
        ("p2", "STOPPED", "MIGRATED"),
    ]
    assert [each for each in heard if each in told] == told
    assert ("p1", "RESUMED", "MIGRATED") in heard


# Where VMs are, and their records


async def restart_daemon(vms: Vms, node: str) -> None:
    await asyncio.to_thread(vms.lab.kill_daemon, node)
    await asyncio.to_thread(vms.lab.start_daemon, node)


async def restart_node(vms: Vms, node: str) -> None:
    await asyncio.to_thread(vms.lab.power_off, node)
    await asyncio.to_thread(vms.lab.power_on, node)


async def found(nodes: Nodes, vm: Vm) -> Placed:
    placed = await nodes.find(vm.vm_id)
    assert placed is not None
    return placed


async def test_a_vm_is_found_with_its_record_running_and_off(nodes: Nodes, vms: Vms) -> None:
    vm = await vms.make("p2")
    placed = await found(nodes, vm)
    assert (placed.node.name, placed.uuid, placed.name, placed.power, placed.starting, placed.booted) == (
        *("p2", vm.uuid, vm.name, Power.RUNNING, False),
        True,
    )
    assert placed.record == make_record(vm.vm_id, "primary", "p2")
    assert (vm.disk.name in placed.xml, vm.disk.name in placed.live_xml) == (True, True)
    with vms.connected("p2") as connection:
        connection.lookupByUUIDString(vm.uuid).destroy()
    placed = await found(nodes, vm)
    assert (placed.power, placed.live_xml, placed.booted) == (Power.OFF, "", False)
    assert [each.vm_id for each in await nodes.all() if each.vm_id == vm.vm_id] == [vm.vm_id]


async def test_a_record_outlives_the_daemon_the_machine_and_a_migration(nodes: Nodes, vms: Vms) -> None:
    vm = await vms.make("p1")
    disturbances: tuple[Callable[[], Awaitable[None]], ...] = (
        lambda: restart_daemon(vms, "p1"),
        lambda: vms.migrate(vm, "p1", "p2"),
        lambda: restart_node(vms, "p2"),
    )
    for epoch, disturb in enumerate(disturbances, start=5):
        placed = await found(nodes, vm)
        await nodes.write(placed, replace(placed.record, end=replace(placed.record.end, epoch=epoch)))
        assert (await found(nodes, vm)).record.end.epoch == epoch
        await disturb()
        await until(lambda: all(node.up for node in nodes))
        assert (await found(nodes, vm)).record.end.epoch == epoch
    assert (await found(nodes, vm)).power is Power.OFF


async def test_a_vm_that_migrates_is_always_in_one_place_and_never_off(nodes: Nodes, vms: Vms) -> None:
    vm = await vms.make("p1")
    await found(nodes, vm)
    migration = asyncio.create_task(vms.migrate(vm, "p1", "p2"))
    seen: list[tuple[str, Power]] = []
    while not migration.done():
        placed = await found(nodes, vm)
        seen.append((placed.node.name, placed.power))
    await migration
    placed = await found(nodes, vm)
    seen.append((placed.node.name, placed.power))
    names = [name for name, _ in seen]
    assert names == sorted(names)
    assert {"p1", "p2"} == set(names)
    assert {power for _, power in seen} == {Power.RUNNING}
    assert not placed.booted


async def test_a_vm_that_nobody_has_is_known_to_be_nowhere_only_if_all_answer(nodes: Nodes, vms: Vms) -> None:
    assert await nodes.find("vm-404") is None
    await asyncio.to_thread(vms.lab.kill_daemon, "p2")
    await until(lambda: not nodes.node("p2").up)
    with pytest.raises(StepFailed, match=r"vm-404 may be on p2, which cannot be asked"):
        await nodes.find("vm-404")


async def test_a_vm_on_a_node_that_is_down_is_said_to_be_there(nodes: Nodes, vms: Vms) -> None:
    vm = await vms.make("p1")
    await found(nodes, vm)
    await asyncio.to_thread(vms.lab.power_off, "p1")
    await until(lambda: not nodes.node("p1").up)
    with pytest.raises(StepFailed, match=rf"{vm.vm_id} is on p1, which is DOWN: bring the node up or move the VM"):
        await nodes.find(vm.vm_id)
    assert vm.vm_id not in {placed.vm_id for placed in await nodes.all()}


async def test_a_definition_left_behind_is_never_taken_for_the_vm(nodes: Nodes, vms: Vms) -> None:
    """Seen as off there, a VM that runs where nobody answers would be overtaken by its replica."""
    vm = await vms.make("p1")
    await vms.migrate(vm, "p1", "p2", flags=LEAVES_ITS_DEFINITION)
    # The daemon forgets why it is off.
    await restart_daemon(vms, "p1")
    await until(lambda: nodes.node("p1").up)
    assert (await found(nodes, vm)).node.name == "p2"
    await asyncio.to_thread(vms.lab.kill_daemon, "p2")
    await until(lambda: not nodes.node("p2").up)
    with pytest.raises(StepFailed, match="is on p2, which is DOWN"):
        await nodes.find(vm.vm_id)
    await asyncio.to_thread(vms.lab.start_daemon, "p2")
    await until(lambda: nodes.node("p2").up)
    await nodes.forget_others(await found(nodes, vm))
    with vms.connected("p1") as connection:
        assert METADATA_URI not in connection.lookupByUUIDString(vm.uuid).XMLDesc()
    assert (await found(nodes, vm)).node.name == "p2"


async def test_a_vm_started_paused_is_off_until_it_is_let_go(nodes: Nodes, vms: Vms) -> None:
    vm = await vms.make("p1", running=False)
    placed = await found(nodes, vm)
    for _ in range(2):
        await nodes.start_paused(placed)
        now = await found(nodes, vm)
        assert (now.power, now.starting, bool(now.live_xml)) == (Power.OFF, True, True)
    await restart_daemon(vms, "p1")
    await until(lambda: nodes.node("p1").up)
    assert (await found(nodes, vm)).starting
    for _ in range(2):
        await nodes.resume(placed)
        now = await found(nodes, vm)
        assert (now.power, now.starting) == (Power.RUNNING, False)
    with vms.connected("p1") as connection:
        machine = connection.lookupByUUIDString(vm.uuid)
        machine.suspend()
        assert (await found(nodes, vm)).power is Power.RUNNING
        machine.destroy()
    assert "starting" not in (await found(nodes, vm)).xml


async def test_a_vm_that_cannot_start_is_told(nodes: Nodes, vms: Vms) -> None:
    vm = await vms.make("p1", running=False)
    placed = await found(nodes, vm)
    vm.disk.unlink()
    with pytest.raises(StepFailed, match=rf"{vm.vm_id} on p1: .*{vm.disk.name}.*No such file"):
        await nodes.start_paused(placed)


async def test_defining_a_domain_anew_does_not_bring_an_old_record_back(nodes: Nodes, vms: Vms) -> None:
    vm = await vms.make("p1")
    placed = await found(nodes, vm)
    await nodes.write(placed, replace(placed.record, end=replace(placed.record.end, epoch=9)))
    await nodes.define(placed, placed.xml.replace("<vcpu placement='static'>1<", "<vcpu placement='static'>2<"))
    with vms.connected("p1") as connection:
        connection.lookupByUUIDString(vm.uuid).destroy()
    now = await found(nodes, vm)
    assert now.record.end.epoch == 9
    assert ">2</vcpu>" in now.xml


async def test_a_record_is_not_written_where_the_vm_is_not_any_more(nodes: Nodes, vms: Vms) -> None:
    vm = await vms.make("p1")
    placed = await found(nodes, vm)
    await vms.migrate(vm, "p1", "p2")
    with pytest.raises(StepFailed, match=rf"{vm.vm_id} on p1: .*no domain"):
        await nodes.write(placed, placed.record)


async def test_nothing_is_done_to_a_definition_left_behind(nodes: Nodes, vms: Vms) -> None:
    vm = await vms.make("p1")
    placed = await found(nodes, vm)
    await vms.migrate(vm, "p1", "p2", flags=LEAVES_ITS_DEFINITION)
    for change in (nodes.write(placed, placed.record), nodes.define(placed, placed.xml), nodes.start_paused(placed)):
        with pytest.raises(StepFailed, match=rf"{vm.name} has just migrated to another node"):
            await change


async def test_a_domain_is_found_by_its_name_with_a_record_or_without(nodes: Nodes, vms: Vms) -> None:
    bare = await vms.make("p2", record=make_record(""), running=False)
    there = await nodes.by_name(bare.name)
    assert isinstance(there, Found)
    assert not isinstance(there, Placed)
    assert (there.node.name, there.uuid, there.power) == ("p2", bare.uuid, Power.OFF)
    with vms.connected("p2") as connection:
        connection.lookupByUUIDString(bare.uuid).setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, encode(make_record(bare.vm_id)), METADATA_KEY, METADATA_URI
        )
    assert isinstance(await nodes.by_name(bare.name), Placed)
    assert await nodes.by_name("nobody") is None


async def test_a_test_copy_is_found_with_its_vm(nodes: Nodes, vms: Vms) -> None:
    vm = await vms.make("p1")
    placed = await found(nodes, vm)
    assert (placed.copy_uuid, placed.copy_power, placed.copy_node) == ("", None, "")
    xml = as_copy(
        placed.xml,
        name=f"{vm.name} - Test",
        uuid="7e577e57-0000-4000-8000-000000000001",
        vm_id=vm.vm_id,
        paths={},
        bridge="",
    )
    with vms.connected("p1") as connection:
        connection.defineXML(xml)
    for look in (nodes.find, lambda vm_id: anything(nodes, vm_id)):
        now = await look(vm.vm_id)
        assert now is not None
        assert (now.uuid, now.copy_node, now.copy_power) == (vm.uuid, "p1", Power.OFF)
        assert now.copy_uuid == "7e577e57-0000-4000-8000-000000000001"


async def anything(nodes: Nodes, vm_id: str) -> Placed | None:
    return next((placed for placed in await nodes.all() if placed.vm_id == vm_id), None)
