"""Labs with real libvirt nodes: that they come and go whole, and break as they are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_guests import Guests, until, virsh

from failover_orch.errors import LabError
from failover_orch.lab import Lab

START_AND_WAIT = """
import pathlib, sys, time
from failover_orch.lab import Lab
Lab(pathlib.Path(sys.argv[1]), {"p1": "primary"}).start()
print("started", flush=True)
time.sleep(600)
"""


def traces(place: Path) -> dict[str, list[Any]]:
    """Whatever there is on this machine that a lab at `place` could have left, zombies too."""
    name = Lab(place, {"p1": "primary"}).name
    said = {
        what: subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        for what, command in {
            "namespaces": ["ip", "netns", "list"],
            "links": ["ip", "-oneline", "link", "show"],
            "routes": ["ip", "route"],
        }.items()
    }
    lines = {what: [line for line in lines if name in line] for what, lines in said.items()}
    return {**lines, "processes": mentioning(str(place)) + mentioning(name), "files": list(place.parent.glob("*"))}


NOTHING: dict[str, list[Any]] = {"namespaces": [], "links": [], "routes": [], "processes": [], "files": []}


def mentioning(text: str) -> list[int]:
    """The processes, besides this one, that have a text in their command line or a namespace mounted by that name."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and int(process.name) != os.getpid():
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in command:
                    found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_it_starts_and_stops_leaving_nothing(place: Path) -> None:
    lab = Lab(place, {"p1": "primary", "p2": "primary", "d1": "dr"})
    lab.start()
    try:
        assert len(traces(place)["namespaces"]) == 6
        for node in lab.nodes.values():
            assert lab.powered(node.name)
            assert virsh(lab, node.name, "hostname").strip() == node.name
            assert node.storage.is_dir()
        inside = [int(pid) for name in ("p1", "p2", "d1") for pid in pids(lab, name)]
    finally:
        lab.stop()
    assert traces(place) == NOTHING
    assert [pid for pid in inside if command_line(pid)] == []
    lab.stop()


def pids(lab: Lab, node: str) -> list[str]:
    said = subprocess.run(
        ["ip", "netns", "pids", f"{lab.name}-node-{node}"], capture_output=True, text=True, check=True
    ).stdout
    return said.split()


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_start_that_fails_half_way_leaves_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "libvirtd"
    broken.write_text("#!/bin/sh\necho 'no libvirt today' >&2\nexit 6\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(LabError, match=r"libvirtd on (p1|d1) did not come up: .*exit code 6\): no libvirt today"):
        Lab(place, {"p1": "primary", "d1": "dr"}).start()
    assert traces(place) == NOTHING


def test_what_a_killed_starter_left_is_removed_at_the_next_start(place: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", START_AND_WAIT, str(place)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    assert starter.stdout.readline() == "started\n"
    starter.kill()
    starter.wait()
    starter.stdout.close()
    lab = Lab(place, {"p1": "primary"})
    assert lab.powered("p1")
    left = pids(lab, "p1")
    (place / "nodes" / "p1" / "mine").write_text("of the earlier lab")
    lab.start()
    try:
        assert not (place / "nodes" / "p1" / "mine").exists()
        assert [pid for pid in left if command_line(int(pid))] == []
        assert virsh(lab, "p1", "list", "--all").strip() == ""
    finally:
        lab.stop()
    assert traces(place) == NOTHING


def test_two_labs_side_by_side(place: Path) -> None:
    one = Lab(place / "one", {"p1": "primary"}, name="one")
    two = Lab(place / "two", {"p1": "primary"}, name="two")
    one.start()
    try:
        two.start()
        try:
            assert one.root_address != two.root_address
            assert one.node("p1").address != two.node("p1").address
            assert virsh(two, "p1", "hostname").strip() == "p1"
            imposter = Lab(place / "three", {"p1": "primary"}, name="one")
            with pytest.raises(LabError, match=rf"the lab named one is that of {place}/one: stop that one first"):
                imposter.start()
        finally:
            two.stop()
        assert virsh(one, "p1", "hostname").strip() == "p1"
    finally:
        one.stop()


def test_a_directory_with_something_else_in_it_is_left_alone(place: Path) -> None:
    place.mkdir()
    (place / "precious").write_text("mine")
    lab = Lab(place, {"p1": "primary"})
    with pytest.raises(LabError, match=r"holds something else: give the lab an empty directory"):
        lab.start()
    lab.stop()
    assert (place / "precious").read_text() == "mine"


def test_a_directory_too_deep_for_a_socket(place: Path) -> None:
    with pytest.raises(LabError, match=r"longer than the 107 characters.*give the lab a directory with a shorter path"):
        Lab(place / ("x" * 80), {"p1": "primary"}).start()
    assert traces(place) == {**NOTHING, "files": [place]}


def test_only_root_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="which only root may: run this as root"):
        Lab(tmp_path / "lab", {"p1": "primary"}).start()


def test_the_root_namespace_learns_of_the_labs_own_addresses_alone(small_lab: Lab) -> None:
    routes = json.loads(subprocess.run(["ip", "-json", "route"], capture_output=True, text=True, check=True).stdout)
    block = small_lab.root_address.rpartition(".")[0]
    assert all(route["dst"].startswith(block) for route in routes if route["dev"] == small_lab.name)
    links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, text=True, check=True).stdout)
    assert [link["ifname"] for link in links if small_lab.name in link["ifname"]] == [small_lab.name]


def reaches(prefix: tuple[str, ...], address: str) -> bool:
    done = subprocess.run([*prefix, "ping", "-c1", "-W1", "-q", address], capture_output=True, check=False)
    return done.returncode == 0


def test_who_reaches_whom_and_a_cut_link(small_lab: Lab) -> None:
    lab = small_lab
    p1, d1 = lab.node("p1").address, lab.node("d1").address
    in_p, in_d = lab.run_in("primary"), lab.run_in("dr")
    ways = {
        "root to site": ((), lab.site_address("primary")),
        "root to node": ((), p1),
        "site to root": (in_p, lab.root_address),
        "node to root": (lab.node("p1").run, lab.root_address),
        "site to site": (in_d, lab.site_address("primary")),
        "node to node": (lab.node("d1").run, p1),
        "third place to VM network v4": (lab.run_outside, str(lab.lan("primary").gateway4.ip)),
        "third place to VM network v6": (lab.run_outside, str(lab.lan("primary").gateway6.ip)),
        "across v6": (in_d, str(lab.lan("primary").gateway6.ip)),
    }
    within = {
        "inside the site": (in_p, lab.node("p2").address),
        "node to its neighbour": (lab.node("p2").run, p1),
        "the other site to root": (in_d, lab.root_address),
        "root to the other site": ((), d1),
    }
    everything = {**ways, **within}
    assert [way for way, (prefix, address) in everything.items() if not reaches(prefix, address)] == []
    lab.cut_link("primary")
    try:
        assert [way for way, (prefix, address) in ways.items() if reaches(prefix, address)] == []
        assert [way for way, (prefix, address) in within.items() if not reaches(prefix, address)] == []
    finally:
        lab.restore_link("primary")
    assert [way for way, (prefix, address) in everything.items() if not reaches(prefix, address)] == []


def test_kvm_is_out_of_reach(small_lab: Lab) -> None:
    said = virsh(small_lab, "p1", "capabilities")
    assert '<domain type="qemu"' in said.replace("'", '"')
    assert '<domain type="kvm"' not in said.replace("'", '"')


def test_the_daemon_dies_alone(small_lab: Lab, guests: Guests) -> None:
    guest = guests.make()
    guest.start()
    (qemu,) = small_lab.qemu_pids("p1")
    small_lab.kill_daemon("p1")
    assert small_lab.qemu_pids("p1") == [qemu]
    assert small_lab.powered("p1")
    with pytest.raises(LabError, match="libvirtd does not run on p1"):
        small_lab.kill_daemon("p1")
    small_lab.start_daemon("p1")
    small_lab.start_daemon("p1")
    until(lambda: guest.virsh("domstate").strip() == "running", "libvirtd to know its VM again")
    assert small_lab.qemu_pids("p1") == [qemu]


def test_the_daemon_is_paused(small_lab: Lab) -> None:
    small_lab.pause_daemon("d1")
    try:
        asked = subprocess.Popen(
            ["virsh", "--connect", small_lab.node("d1").uri, "hostname"], stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            asked.wait(1)
    finally:
        small_lab.resume_daemon("d1")
    assert asked.communicate(timeout=20)[0].strip() == "d1"


def test_a_power_cut(small_lab: Lab, guests: Guests) -> None:
    guest = guests.make()
    guest.start()
    assert len(small_lab.qemu_pids("p1")) == 1
    began = time.monotonic()
    small_lab.power_off("p1")
    assert time.monotonic() - began < 5
    assert not small_lab.powered("p1")
    assert small_lab.qemu_pids("p1") == []
    assert pids(small_lab, "p1") == []
    assert small_lab.powered("p2")
    with pytest.raises(LabError, match="cannot be started on p1: the node is without power"):
        small_lab.start_daemon("p1")
    small_lab.power_off("p1")
    small_lab.power_on("p1")
    small_lab.power_on("p1")
    assert guest.off()
    assert guest.disks[0].exists()


def test_a_process_in_a_site_ends_with_the_lab(place: Path) -> None:
    lab = Lab(place, {"p1": "primary"})
    lab.start()
    try:
        agent = subprocess.Popen([*lab.run_in("primary"), "sleep", "600"])
        until(lambda: command_line(agent.pid).startswith("sleep"), "the process in the site")
    finally:
        lab.stop()
    assert agent.wait(5) == -signal.SIGKILL
