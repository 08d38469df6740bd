"""The parts of the demo of the real VMs that need no VM: what it expects, what it counts, what it writes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from failover_orch.demo.vms.counting import after_a_loss, after_a_planned_failover
from failover_orch.demo.vms.expectations import expectations
from failover_orch.demo.vms.machines import machines_of
from failover_orch.demo.vms.outcome import Ending, Moved, Ping
from failover_orch.demo.vms.prober import Prober, Sighting
from failover_orch.demo.vms.sites import AWAY, HOME, NODES, write_site_files
from failover_orch.domain import FailoverKind, Location, Role, RouteCause, RoutingUpdate, RunSnapshot, RunState
from failover_orch.errors import LabError
from failover_orch.hypervisors.libvirt import LibvirtSite
from failover_orch.lab import IpmiBmc, Lab
from failover_orch.service import Vm
from failover_orch.site import load_site_file
from failover_orch.topology import bundled, load

MACHINES = machines_of(load(bundled("demo-vms")))


def moved(vm_id: str, kind: FailoverKind, **changed: object) -> Moved:
    run = RunSnapshot(f"run/{vm_id}", kind, RunState.SUCCEEDED, vm_id, (), "demo", "", 1_000, 9_000, data_loss_ms=0)
    one = Moved(vm_id, run, HOME, AWAY, before=100, after=100, served_at_ms=9_500, without_service_ms=7_000)
    return replace(one, **changed)  # type: ignore[arg-type]  # whatever a test wants


def at(vm_id: str, node: str, epoch: int, cause: RouteCause = RouteCause.PLACED) -> RoutingUpdate:
    here = Location(NODES[node], node, Role.PRIMARY, 1)
    return RoutingUpdate(vm_id, epoch, cause, here, "", (here,), 1)


def good() -> Ending:
    """Two VMs that went to the DR site: one as planned, the other after a loss."""
    first, second = at("web", "d1", 3, RouteCause.LIVE), at("erp-db", "d2", 2, RouteCause.FAILOVER)
    return Ending(
        machines=MACHINES,
        vms=[Vm(route.vm_id, route, None, None, None, None) for route in (first, second)],
        routes=[at("web", "p1", 1), first, second],
        running={"p1": frozenset(), "d1": frozenset({"web"}), "d2": frozenset({"erp-db"})},
        runs_at={"web": AWAY, "erp-db": AWAY},
        moved=[
            moved("web", FailoverKind.PLANNED, identical=True),
            moved("erp-db", FailoverKind.UNPLANNED, before=150, pending=60, pending_bytes=65_536, leeway=20),
        ],
        groups=[["erp-db"]],
        migrations=1,
        went_on=True,
        pings=[Ping("web", AWAY, "10.50.0.14", wanted=True, answered=True), Ping("web", HOME, "x", False, False)],
        sites_seen={"web": [HOME, AWAY], "erp-db": [HOME, AWAY]},
        fence="power of primary/p1 read OFF from BMC 10.0.0.9",
        cuts=1,
        audit_findings=[],
        dead_letters=0,
    )


def broken(ending: Ending) -> list[str]:
    return [each.what for each in expectations(ending) if not each.held]


def with_second(ending: Ending, **changed: object) -> Ending:
    first, second = ending.moved
    return replace(ending, moved=[first, replace(second, **changed)])  # type: ignore[arg-type]  # as above


def test_what_went_well_is_found_well() -> None:
    assert broken(good()) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda e: replace(e, running={**e.running, "p1": frozenset({"web"})}), "every VM runs where its route says"),
        (lambda e: replace(e, runs_at={**e.runs_at, "web": HOME}), "every VM runs where its route says"),
        (lambda e: replace(e, pings=[replace(e.pings[0], answered=False)]), "every VM answers at its site's"),
        (lambda e: replace(e, pings=[replace(e.pings[1], answered=True)]), "every VM answers at its site's"),
        (lambda e: replace(e, moved=[replace(e.moved[0], after=99), e.moved[1]]), "planned failover and failback"),
        (lambda e: replace(e, moved=[replace(e.moved[0], identical=False), e.moved[1]]), "planned failover and"),
        (lambda e: with_second(e, after=69), "what was lost was pending"),
        (lambda e: with_second(e, after=151, pending=0), "what was lost was pending"),
        (lambda e: replace(e, groups=[["web"], ["erp-db"]]), "the VMs came up in the plan's order"),
        (lambda e: replace(e, cuts=0), "the power of the cut-off node"),
        (lambda e: replace(e, fence="attested: nobody knows"), "the power of the cut-off node"),
        (lambda e: replace(e, sites_seen={**e.sites_seen, "web": [HOME, AWAY, HOME, AWAY]}), "no VM answered at both"),
        (lambda e: replace(e, migrations=2), "one routing update for every move"),
        (lambda e: replace(e, went_on=False), "one routing update for every move"),
        (lambda e: replace(e, routes=[*e.routes, e.routes[0]]), "no epoch went back"),
        (lambda e: replace(e, audit_findings=["a gap"]), "the audit trail verifies"),
        (lambda e: replace(e, dead_letters=1), "no record was bad"),
    ],
)
def test_what_went_wrong_is_found(change: Callable[[Ending], Ending], what: str) -> None:
    (found,) = broken(change(good()))
    assert found.startswith(what)


def test_groups_that_overlap_are_not_in_the_plan_s_order() -> None:
    ending = good()
    other = moved("batch", FailoverKind.UNPLANNED, before=150, pending=50, leeway=20)
    late = replace(other, run=replace(other.run, started_at_ms=9_100), served_at_ms=20_000)
    ending = replace(ending, groups=[["erp-db"], ["batch"]], sites_seen={**ending.sites_seen, "batch": [HOME, AWAY]})
    assert broken(replace(ending, moved=[*ending.moved, late])) == []
    assert broken(replace(ending, moved=[*ending.moved, other])) == ["the VMs came up in the plan's order"]


def test_each_machine_has_addresses_for_both_sites() -> None:
    assert [machine.vm_id for machine in MACHINES] == ["erp-db", "erp-app", "batch", "web"]
    web = MACHINES[-1]
    assert web.addresses == {HOME: ("10.10.0.14", "fd10::14"), AWAY: ("10.50.0.14", "fd50::14")}
    assert web.configuration == (
        "mac=52:54:00:0a:00:14 v4=10.10.0.14/24 gw4=10.10.0.1 v6=fd10::14/64 gw6=fd10::1 dns=10.10.0.53,fd10::53\n"
    )


def test_site_files_are_what_site_agents_read(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", NODES)
    bmc = IpmiBmc(lambda: True, lambda: None, address=lab.root_address, port=6230, password="of the BMC")
    files = write_site_files(tmp_path, lab, MACHINES, bmc, "of the BMC")
    home, away = (load_site_file(files[site]) for site in (HOME, AWAY))
    assert isinstance(home.hypervisor, LibvirtSite)
    assert isinstance(away.hypervisor, LibvirtSite)
    assert [vm.vm for vm in home.hypervisor.replicate] == [machine.vm_id for machine in MACHINES]
    assert [(fence.site, fence.node) for fence in away.fences] == [(HOME, "p1")]
    assert not away.hypervisor.replicate
    assert not home.fences
    assert home.hypervisor.key == away.hypervisor.key
    assert {peer.site: sorted(peer.nodes) for peer in home.hypervisor.peers} == {AWAY: ["d1", "d2"]}


def seen(prober: Prober, *sightings: tuple[int, str, int, str]) -> None:
    for at_ms, site, counter, boot in sightings:
        prober._seen["web"].append(Sighting(at_ms, site, counter, boot))


def test_pages_tell_what_had_been_counted_when(tmp_path: Path) -> None:
    prober = Prober(Lab(tmp_path / "lab", NODES), MACHINES)
    assert prober.last("web", HOME) is None
    assert prober.count_at("web", HOME, 1_000) == 0
    assert prober.counts_a_second("web", HOME) == 0
    seen(prober, (1_000, HOME, 10, "a"), (2_000, HOME, 15, "a"), (3_000, AWAY, 12, "b"), (4_000, HOME, 25, "a"))
    assert [prober.count_at("web", HOME, at_ms) for at_ms in (0, 1_000, 1_400, 3_000, 9_000)] == [10, 10, 12, 20, 25]
    assert prober.counts_a_second("web", HOME) == 5
    last, first = prober.last("web", HOME, by_ms=3_500), prober.first("web", AWAY, since_ms=1)
    assert last is not None
    assert first is not None
    assert (last.counter, first.counter) == (15, 12)


needs_tools = pytest.mark.skipif(
    shutil.which("qemu-img") is None or shutil.which("debugfs") is None, reason="needs qemu-utils and e2fsprogs"
)


def disk(path: Path, count: int) -> Path:
    """A qcow2 disk on which a guest has counted."""
    content = path.with_suffix(".content")
    content.mkdir()
    (content / "counter").write_text(f"{count:015d}\n")
    raw = path.with_suffix(".raw")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(content), str(raw), "8M"], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)], check=True)
    return path


def overlay(path: Path, below: Path) -> Path:
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(below), str(path)]
    subprocess.run(command, check=True)
    return path


@needs_tools
def test_after_a_loss_the_old_disk_is_compared_with_what_the_new_one_stands_on(tmp_path: Path) -> None:
    old = disk(tmp_path / "old.qcow2", 140)
    point = overlay(tmp_path / "vm.rp-2", disk(tmp_path / "vm.rp-1", 120))
    counted = after_a_loss(old, overlay(tmp_path / "vm", point))
    assert (counted.before, counted.after, counted.identical) == (140, 120, False)
    with pytest.raises(LabError, match="does not stand on a recovery point"):
        after_a_loss(old, old)


@needs_tools
def test_after_a_planned_failover_what_came_back_does_not_count(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    left = disk(home / "vm.qcow2.rp-7", 140)
    overlay(home / "vm.qcow2.rp-8", left)
    shutil.copyfile(left, away / "vm.rp-3")
    new = overlay(away / "vm", away / "vm.rp-3")
    counted = after_a_planned_failover(home / "vm.qcow2", new)
    assert (counted.before, counted.after, counted.identical) == (140, 140, True)
    with pytest.raises(LabError, match="nothing is left of"):
        after_a_planned_failover(home / "other.qcow2", new)
