"""What the Hyper-V driver does beyond the contract: records and fences, odd adapters, watching, clusters, settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hyperv import AdapterSpec, StandIn, VMReplicationState, VmSpec, VMState
from hyperv_sites import Sites, driver, settings, sites_of

from contract import PLANNED, UNPLANNED, told
from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.inventory import AdapterKind, ClusterInventory, IntegrationServices, NodeState, VmInventory
from failover_orch.domain.records import Action, Location, Role, RouteCause, RoutingUpdate
from failover_orch.domain.replication import ReplicationHealth, ReplicationState
from failover_orch.domain.replication_settings import (
    AuthorizationEntry,
    NodePort,
    ReplicationServer,
    VmReplication,
)
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses, Gate, GateKind
from failover_orch.domain.terms import PointChoice, WantedPoint
from failover_orch.errors import HypervisorError, StaleEpoch, StepFailed, StepRefused
from failover_orch.fencing import Fences, PowerReading, Target
from failover_orch.hypervisors.hyperv import (
    AdapterNaming,
    HyperVHypervisor,
    VmNaming,
)
from failover_orch.hypervisors.hyperv.acts import Overtaken, keep_record
from failover_orch.hypervisors.hyperv.cmdlets import act, guarded
from failover_orch.hypervisors.hyperv.ends import Found
from failover_orch.hypervisors.hyperv.record import Record, of_notes
from failover_orch.hypervisors.hyperv.staging import stage
from worlds import DR_ADDRESSES, NOW


@pytest.fixture
async def sites() -> AsyncIterator[Sites]:
    async with sites_of() as both:
        yield both


# Records and fences


async def test_an_agent_that_was_held_up_changes_nothing(sites: Sites) -> None:
    """It has looked, is paused, and goes on once another has accepted a newer command."""
    held_up = sites.dr._find("vm-1")
    await sites.do(Action.STAGE_ADDRESSES, epoch=6)
    before = (sites.stand_in.effects, sites.notes())
    with pytest.raises(Overtaken, match="the notes of vm-1 on d1 were changed"):
        keep_record(held_up.machine, replace(held_up.record, epoch=5))
    machine = held_up.machine
    for cmdlet in ("Start-VMFailover", "Start-VM", "Set-VMReplication"):
        assert machine.host.run(guarded(machine.vm, machine.notes) | act(cmdlet)) == ()
    assert (sites.stand_in.effects, sites.notes()) == before
    with pytest.raises(StaleEpoch):
        await sites.do(Action.FAIL_OVER, epoch=5)


async def test_a_vm_that_has_moved_since_it_was_looked_at_is_looked_for_again(sites: Sites) -> None:
    found = sites.dr._find("vm-1")
    sites.stand_in.migrate("vm-1", "d2")
    with pytest.raises(Overtaken, match="vm-1 is not on d1 any more"):
        keep_record(found.machine, found.record)
    assert (await sites.do(Action.FAIL_OVER))["node"] == "d2"


@pytest.mark.parametrize("times", [2, 3])
async def test_notes_that_somebody_changes_meanwhile_are_kept_and_the_step_is_taken_up_anew(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    look, looks = sites.dr._find, iter(range(100))

    def look_and_be_overtaken(vm_id: str) -> Found:
        found = look(vm_id)
        if (number := next(looks)) < times:
            sites.stand_in.vm("vm-1", "dr").notes = f"Owner: Ana, version {number}"
        return found

    monkeypatch.setattr(sites.dr, "_find", look_and_be_overtaken)
    if times == 3:
        with pytest.raises(StepFailed, match="were changed by somebody else meanwhile, 3 times in a row"):
            await sites.do(Action.FAIL_OVER)
        assert sites.effects("Start-VMFailover") == 0
    else:
        assert (await sites.do(Action.FAIL_OVER))["state"] == "FailOverWaitingCompletion"
    assert sites.notes().startswith(f"Owner: Ana, version {times - 1}")


async def test_what_people_wrote_in_the_notes_stays(sites: Sites) -> None:
    theirs = "Owner: Ana\r\nRestart on Sundays\r\n"
    sites.stand_in.vm("vm-1", "dr").notes = theirs
    await sites.do(Action.STAGE_ADDRESSES)
    assert sites.notes().startswith(theirs)
    record = of_notes(sites.notes(), "dr", "vm-1")
    assert record is not None
    assert (record.epoch, record.staged, record.begun) == (5, DR_ADDRESSES, "")


async def test_a_record_that_was_broken_by_hand_stops_commands_of_its_vm_alone(sites: Sites) -> None:
    await sites.do(Action.INSPECT)
    sites.stand_in.vm("vm-1", "dr").notes = "failover_orch: gone"
    with pytest.raises(StepRefused, match=r"cannot be read .*restore the line, or delete it"):
        await sites.do(Action.START)
    assert await sites.dr.vms() == ()
    sites.stand_in.vm("vm-1", "dr").notes = ""
    assert [vm.vm_id for vm in await sites.dr.vms()] == ["vm-1"]


async def test_commands_of_one_vm_side_by_side_take_effect_once(sites: Sites) -> None:
    """As two agents of a site have it while a partition changes hands."""
    async with driver(sites.stand_in, "dr") as other:
        both = Sites(sites.stand_in, sites.primary, other)
        answers = await asyncio.gather(
            *(each.do(Action.FAIL_OVER) for each in (sites, both, sites, both)), return_exceptions=True
        )
    assert sites.effects("Start-VMFailover") == 1
    for answer in answers:
        assert isinstance(answer, StepFailed) or (
            isinstance(answer, dict) and answer["state"] == "FailOverWaitingCompletion"
        )


class Switch:
    """A fence agent whose switch is the stand-in's."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self.cuts: list[str] = []

    async def power(self, target: Target) -> PowerReading:
        return PowerReading.UNKNOWN

    async def cut(self, target: Target) -> str:
        self.cuts.append(str(target))
        self._stand_in.power_off_node(target.node)
        return f"power of {target.machine} read OFF"


async def test_an_unreachable_primarys_power_is_cut(sites: Sites) -> None:
    switch = Switch(sites.stand_in)
    fenced = HyperVHypervisor(
        settings(sites.stand_in, "dr"), Fences({"primary/p1": [switch]}), clock=sites.stand_in.clock
    )
    async with fenced:
        (cluster,) = await fenced.clusters()
        assert cluster.fences == ("primary/p1",)
        both = Sites(sites.stand_in, sites.primary, fenced)
        with pytest.raises(StepRefused, match="RUNNING on p1"):
            await both.do(Action.CHECK_PRIMARY, fence=True)
        sites.stand_in.cut_link()
        with pytest.raises(StepRefused, match="attestation"):
            await both.do(Action.CHECK_PRIMARY)
        assert (await both.do(Action.CHECK_PRIMARY, fence=True))["fence"] == "power of primary/p1 read OFF"
        assert switch.cuts == ["primary/p1/vm-1"]


async def test_a_site_that_is_no_peer_needs_attestation_and_cannot_be_reversed_to(sites: Sites) -> None:
    alone = HyperVHypervisor(replace(settings(sites.stand_in, "dr"), peers=()), clock=sites.stand_in.clock)
    async with alone:
        both = Sites(sites.stand_in, sites.primary, alone)
        with pytest.raises(StepRefused, match="attestation"):
            await both.do(Action.CHECK_PRIMARY)
        await both.do(Action.CHECK_PRIMARY, attested=True)
        await both.do(Action.FAIL_OVER)
        with pytest.raises(StepFailed, match="link from dr to primary is down"):
            await both.do(Action.REVERSE)


async def test_nobody_drives_what_is_saved_into_a_planned_failover(sites: Sites) -> None:
    sites.stand_in.vm("vm-1", "primary").state = VMState.Saved
    with pytest.raises(StepRefused, match="vm-1 at primary is Saved and not off: start it and shut it down"):
        await sites.do(Action.PREPARE, "primary")


async def test_while_the_host_is_at_something_itself_nothing_is_begun(sites: Sites) -> None:
    sites.stand_in.set_state("vm-1", "dr", VMReplicationState.WaitingForUpdateCompletion)
    with pytest.raises(StepFailed, match="WaitingForUpdateCompletion: d1 is at something itself"):
        await sites.do(Action.FAIL_OVER)


async def test_routes_are_hyper_vs_own_business(sites: Sites) -> None:
    location = Location("dr", "d2", Role.REPLICA, NOW)
    await sites.primary.routed(RoutingUpdate("vm-1", 9, RouteCause.LIVE, location, "d1", (location,), NOW))


# Adapters


TWO_ALIKE = VmSpec(
    adapters=(
        AdapterSpec("Network Adapter", "00155D000001"),
        AdapterSpec("Network Adapter", "00155D000002"),
        AdapterSpec("Old", "00155D000003", legacy=True),
    )
)


async def test_adapters_that_share_a_name_are_told_apart_and_addressed_apart() -> None:
    async with sites_of(vms=(TWO_ALIKE,)) as sites:
        found = await sites.do(Action.INSPECT)
        assert {name for name in found if name.startswith("connected/")} == {
            "connected/Network Adapter (00155D000001)",
            "connected/Network Adapter (00155D000002)",
            "connected/Old",
        }
        second = replace(DR_ADDRESSES[0], adapter_id="Network Adapter (00155D000002)")
        await sites.do(Action.STAGE_ADDRESSES, addresses=(second,))
        sites.stand_in.power_off("primary")
        for action in (Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
            found = await sites.do(action)
        assert found["addresses/Network Adapter (00155D000002)"] == "10.50.0.21/24, fd50::21/64"
        assert found["addresses/Network Adapter (00155D000001)"] == "10.10.0.21/24, fd10::21/64"


async def test_adapters_by_their_mac_addresses() -> None:
    async with sites_of(vms=(TWO_ALIKE,), adapter_ids=AdapterNaming.MAC) as sites:
        plan = replace(DR_ADDRESSES[0], adapter_id="00155D000002")
        await sites.do(Action.STAGE_ADDRESSES, addresses=(plan,))
        with pytest.raises(StepRefused, match="adapter '00155D000003' of vm-1 is a legacy one"):
            await sites.do(
                Action.STAGE_ADDRESSES, attempt=2, addresses=(plan, replace(plan, adapter_id="00155D000003"))
            )
        assert sites.effects("Set-VMNetworkAdapterFailoverConfiguration") == 1


async def test_dhcp_is_refused_before_anything_is_changed(sites: Sites) -> None:
    leased = AdapterAddresses("nic-1", ipv4=FamilyAddresses(dhcp=True))
    for action in (Action.STAGE_ADDRESSES, Action.CREATE_TEST):
        with pytest.raises(StepRefused, match="IPv4 by DHCP cannot be staged with Hyper-V's commands"):
            await sites.do(action, addresses=(leased,))
    assert {effect.cmdlet for effect in sites.stand_in.effects} == {"Set-VM"}


async def test_new_addresses_replace_all_of_the_old(sites: Sites) -> None:
    await sites.do(Action.STAGE_ADDRESSES)
    bare = AdapterAddresses("nic-1", ipv4=FamilyAddresses(addresses=("10.50.0.99/16",)))
    await sites.do(Action.STAGE_ADDRESSES, attempt=2, addresses=(bare,))
    found = sites.dr._find("vm-1")
    stage(found.machine, found.adapters, (bare,), _never)
    with pytest.raises(
        StepFailed, match=r"reads back with failover addresses IPv4Address 10\.50\.0\.99, .* 255\.255\.0\.0"
    ):
        stage(found.machine, found.adapters, DR_ADDRESSES, lambda *_: ())


def _never(*_: Any) -> Any:
    raise AssertionError("everything is staged already")


async def test_an_adapter_for_which_no_switch_is_set_stays_disconnected() -> None:
    async with sites_of(switches={"nic-2": "lan"}) as sites:
        await sites.do(Action.FAIL_OVER)
        with pytest.raises(StepRefused, match="no switch is set for adapter 'nic-1' of vm-1 at dr"):
            await sites.do(Action.CONNECT_ADAPTERS)


# Guests


async def test_a_guest_that_boots_is_waited_for() -> None:
    async with sites_of(boot_s=20) as sites:
        await sites.do(Action.STAGE_ADDRESSES)
        for action in (Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
            found = await sites.do(action)
        assert "addresses/nic-1" not in found
        with pytest.raises(StepFailed, match="still booting"):
            await sites.do(Action.VERIFY_ADDRESSES)
        with pytest.raises(StepFailed, match="still booting"):
            await sites.do(Action.CHECK_GATE, gate=Gate(GateKind.HEARTBEAT))
        sites.stand_in.clock.advance(21)
        assert (await sites.do(Action.VERIFY_ADDRESSES))["addresses/nic-1"] == "10.50.0.21/24, fd50::21/64"


async def test_a_guest_without_services_is_one_at_last() -> None:
    async with sites_of(boot_s=20) as sites:
        sites.stand_in.set_integration_services("vm-1", answer=False)
        await sites.do(Action.STAGE_ADDRESSES)
        for action in (Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
            await sites.do(action)
        sites.stand_in.clock.advance(301)
        with pytest.raises(StepRefused, match="its integration services are ABSENT"):
            await sites.do(Action.VERIFY_ADDRESSES)


async def test_a_port_is_asked_at_the_addresses_that_the_guest_reports(sites: Sites) -> None:
    gate = Gate(GateKind.TCP_PORT, 443)
    await sites.do(Action.CHECK_GATE, "primary", gate=gate)
    sites.stand_in.close_port("vm-1", 443)
    with pytest.raises(StepFailed, match="nothing listens at TCP port 443"):
        await sites.do(Action.CHECK_GATE, "primary", gate=gate)


# Recovery points


async def test_what_came_after_the_newest_recovery_point_can_be_failed_over_to(sites: Sites) -> None:
    """As where recovery points are made every hour, and the latest state is newer than all of them."""
    with sites.stand_in.lock:
        replica = sites.stand_in.vm("vm-1", "dr")
        assert replica.relationship is not None
        replica.relationship.last_replication_ms = NOW + 20_000
    found = await sites.do(Action.INSPECT)
    assert (found["recovery_point"], found["recovery_point_at_ms"]) == ("latest", str(NOW + 20_000))
    older = WantedPoint(PointChoice.BEFORE, at_ms=NOW + 10_000)
    assert (await sites.do(Action.FAIL_OVER, point=older))["recovery_point_at_ms"] == str(NOW)
    await sites.do(Action.CANCEL_FAILOVER)
    assert (await sites.do(Action.FAIL_OVER, attempt=2))["recovery_point"] == "latest"
    assert (await sites.do(Action.COMPLETE))["recovery_point_at_ms"] == str(NOW + 20_000)


# Watching


def moves(values: Sequence[object]) -> list[tuple[str, MoveKind, int]]:
    return [(move.node, move.kind, move.sequence) for move in values if isinstance(move, VmMoved)]


async def test_a_move_while_nobody_watches_is_told_by_whoever_watches_next(sites: Sites) -> None:
    await told(sites.dr)
    sites.stand_in.migrate("vm-1", "d2")
    async with driver(sites.stand_in, "dr") as later:
        values = [observed.value for observed in await told(later)]
        assert moves(values) == [("d2", MoveKind.LIVE, 1), ("d1", MoveKind.DEPARTED, 2), ("d2", MoveKind.LIVE, 1)]
    async with driver(sites.stand_in, "dr") as last:
        assert moves([observed.value for observed in await told(last)]) == [("d2", MoveKind.LIVE, 1)]


async def test_a_move_that_was_not_told_for_good_is_told_again_in_the_same_words(sites: Sites) -> None:
    await told(sites.dr)
    sites.stand_in.migrate("vm-1", "d2")
    seen = []
    for _ in range(2):
        async with driver(sites.stand_in, "dr") as hypervisor, aclosing(hypervisor.watch()) as batches:
            seen.append(moves([observed.value for observed in await anext(batches)]))
    assert seen[0] == seen[1]


async def test_a_vm_that_its_cluster_started_anew_elsewhere_was_placed_there(sites: Sites) -> None:
    await told(sites.primary)
    sites.stand_in.clock.advance(10)
    sites.stand_in.power_off_node("p1")
    values = [observed.value for observed in await told(sites.primary)]
    assert moves(values)[:2] == [("p2", MoveKind.PLACED, 1), ("p1", MoveKind.DEPARTED, 2)]
    clusters = [value for value in values if isinstance(value, ClusterInventory)]
    assert {node.name: node.state for node in clusters[-1].nodes} == {"p1": NodeState.DOWN, "p2": NodeState.UP}


async def test_moves_are_told_while_commands_write_the_same_record(sites: Sites) -> None:
    await told(sites.primary)
    await sites.do(Action.INSPECT, "primary")
    sites.stand_in.migrate("vm-1", "p2")
    await told(sites.primary)
    await sites.do(Action.INSPECT, "primary", epoch=8)
    record = of_notes(sites.notes("primary"), "primary", "vm-1")
    assert record is not None
    assert record.arrival is not None
    assert (record.epoch, record.arrival.node, record.arrival.sequences) == (8, "p2", {"p1": 2, "p2": 1})


async def test_the_inventory_is_what_the_primary_and_its_guest_say(sites: Sites) -> None:
    (inventory,) = [observed.value for observed in await told(sites.primary) if isinstance(observed.value, VmInventory)]
    (adapter,) = inventory.adapters
    assert (adapter.adapter_id, adapter.kind, adapter.mac, adapter.network, adapter.addresses) == (
        "nic-1",
        AdapterKind.SYNTHETIC,
        "00155d000001",
        "lan",
        ("10.10.0.21/24", "fd10::21/64"),
    )
    assert (inventory.guest.system, inventory.guest.integration_services) == (
        "windows-server-2022",
        IntegrationServices.RUNNING,
    )
    replication = inventory.replication
    assert (replication.state, replication.frequency_s) == (ReplicationState.REPLICATING, 30)
    assert (replication.primary_cluster, replication.replica_site, replication.replica_cluster) == (
        "primary-cluster",
        "dr",
        "dr-cluster",
    )
    assert inventory.cpus > 0
    assert inventory.memory_mib > 0


async def test_a_vm_that_is_off_keeps_the_addresses_it_told(sites: Sites) -> None:
    await sites.do(Action.SHUT_DOWN, "primary")
    async with driver(sites.stand_in, "primary") as later:
        values = [observed.value for observed in await told(later)]
    (inventory,) = [value for value in values if isinstance(value, VmInventory)]
    assert inventory.adapters[0].addresses == ("10.10.0.21/24", "fd10::21/64")
    assert inventory.guest.system == "windows-server-2022"


async def test_inventories_are_told_when_they_change(sites: Sites) -> None:
    await told(sites.primary)
    assert sites.primary._watching.untold(announce=False) == ()
    sites.stand_in.set_integration_services("vm-1", answer=False)
    (observed,) = sites.primary._watching.untold(announce=False)
    assert isinstance(observed.value, VmInventory)
    assert observed.value.guest.integration_services is IntegrationServices.ABSENT


async def test_vms_by_their_guids_are_the_same_at_both_ends() -> None:
    async with sites_of(vm_ids=VmNaming.ID) as sites:
        (primary,) = await sites.primary.vms()
        (replica,) = await sites.dr.vms()
        assert primary.vm_id == replica.vm_id == str(sites.stand_in.vm("vm-1", "dr").vm_id)
        assert (await sites.do(Action.INSPECT, vm_id=primary.vm_id.upper()))["node"] == "d1"


# Clusters and reports


async def test_clusters_say_what_their_nodes_have(sites: Sites) -> None:
    (cluster,) = await sites.dr.clusters()
    assert (cluster.cluster, cluster.site, cluster.broker, cluster.accepts_replicas) == (
        "dr-cluster",
        "dr",
        "dr-broker",
        True,
    )
    assert {"lan", "isolated-dr"} <= set(cluster.networks)
    for node in cluster.nodes:
        assert node.state is NodeState.UP
        assert node.memory_mib > node.memory_free_mib > 0
        assert node.cpus > 0
        assert node.storages[0].capacity_gib > node.storages[0].free_gib > 0
        assert node.storages[0].path.startswith("C:\\ClusterStorage\\")


async def test_changes_of_a_cluster_have_times_of_their_own(sites: Sites) -> None:
    reports = [*await sites.dr.clusters(), *await sites.dr.clusters()]
    assert reports[0] == reports[1]
    for paused in (True, False):
        sites.stand_in.pause_node("d2", paused=paused)
        reports += await sites.dr.clusters()
    times = [report.reported_at_ms for report in reports[1:]]
    assert times == sorted(set(times))
    assert [report.nodes[1].state for report in reports[1:]] == [NodeState.UP, NodeState.PAUSED, NodeState.UP]


async def test_hosts_without_a_cluster_are_up_while_they_answer(sites: Sites) -> None:
    async with driver(sites.stand_in, "dr", clustered=False) as alone:
        sites.stand_in.power_off_node("d2")
        (cluster,) = await alone.clusters()
    assert {node.name: node.state for node in cluster.nodes} == {"d1": NodeState.UP, "d2": NodeState.DOWN}


async def test_reports_are_the_hosts_own_figures(sites: Sites) -> None:
    sites.stand_in.replicate()
    sites.stand_in.silence("vm-1")
    sites.stand_in.write("vm-1", 4096)
    sites.stand_in.replicate()
    (primary,) = await sites.primary.reports(["vm-1", "vm-2"])
    assert (primary.cycles, primary.missed_cycles, primary.pending_bytes) == (2, 1, 4096)
    assert primary.last_replication_at_ms == NOW + 30_000
    assert primary.reported_at_ms == NOW + 60_000
    assert primary.health is not ReplicationHealth.NOT_APPLICABLE


# Sessions


async def test_sessions_are_kept_few_and_closed(sites: Sites) -> None:
    async with driver(sites.stand_in, "dr", sessions=2) as dr:
        both = Sites(sites.stand_in, sites.primary, dr)
        await asyncio.gather(*(both.do(Action.INSPECT) for _ in range(8)))
        assert 1 <= sites.stand_in.shells("d1") <= 2
    assert sites.stand_in.shells("d1") == 0


async def test_an_agent_that_gives_up_waiting_leaves_the_step_to_end_by_itself(sites: Sites) -> None:
    step = asyncio.create_task(sites.do(Action.FAIL_OVER))
    async with asyncio.timeout(10):
        while not sites.effects("Start-VMFailover"):
            await asyncio.wait([step], timeout=0.01)
    step.cancel()
    assert (await sites.do(Action.FAIL_OVER))["state"] == "FailOverWaitingCompletion"
    assert sites.effects("Start-VMFailover") == 1


async def test_a_test_copy_that_was_left_behind_is_pointed_out(sites: Sites) -> None:
    for action in (Action.CREATE_TEST, Action.START_TEST):
        await sites.do(action)
    sites.stand_in.migrate("vm-1", "d2", alone=True)
    found = await sites.dr.observe("vm-1")
    assert (found["node"], found["test/node"]) == ("d2", "d1")
    for action in (Action.VERIFY_TEST, Action.DELETE_TEST):
        with pytest.raises(StepRefused, match=r"is on d1 and its replica on d2.*move the replica back to d1"):
            await sites.do(action, attempt=2)
    sites.stand_in.migrate("vm-1", "d1", alone=True)
    assert "test/node" not in await sites.do(Action.DELETE_TEST, attempt=3)


# Settings of the site


WANTED = ReplicationServer(
    enabled=True,
    default_storage_location="C:\\ClusterStorage\\dr",
    http_port=8080,
    monitoring_interval_s=7 * 86_400,
    authorization=(AuthorizationEntry("primary-broker.primary.example", "C:\\ClusterStorage\\dr", "factory"),),
)


async def test_settings_that_are_so_already_are_not_made_again(sites: Sites) -> None:
    await sites.dr.apply_server("d1", WANTED)
    before = sites.stand_in.effects
    await sites.dr.apply_server("d1", WANTED)
    assert sites.stand_in.effects == before


async def test_a_server_that_stays_authorised_is_so_throughout(sites: Sites) -> None:
    other = AuthorizationEntry("*.other.example", "D:\\r", "other")
    await sites.dr.apply_server("d1", WANTED)
    before = sites.effects("Remove-VMReplicationAuthorizationEntry")
    await sites.dr.apply_server("d1", replace(WANTED, authorization=(other, *WANTED.authorization)))
    await sites.dr.apply_server("d1", WANTED)
    assert sites.effects("Remove-VMReplicationAuthorizationEntry") == before + 1


async def test_accepting_all_and_accepting_some_exclude_each_other(sites: Sites) -> None:
    anybody = replace(WANTED, from_any_server=True, authorization=())
    for wanted in (WANTED, anybody, WANTED):
        await sites.dr.apply_server("d1", wanted)
        assert await sites.dr.servers(["d1"]) == {"d1": wanted}


async def test_ports_are_for_all_nodes_or_mapped_for_each(sites: Sites) -> None:
    ports = (NodePort("d1.dr.example", 81), NodePort("d2.dr.example", 82), NodePort("dr-broker.dr.example", 80))
    for wanted in (replace(WANTED, http_port_map=ports), WANTED, replace(WANTED, https_port_map=ports, http_port=80)):
        await sites.dr.apply_server("d1", wanted)
        assert await sites.dr.servers(["d1"]) == {"d1": wanted}


async def test_of_a_node_that_does_not_answer_it_is_said_why(sites: Sites) -> None:
    sites.stand_in.power_off_node("d2")
    told = await sites.dr.servers()
    assert isinstance(told["d1"], ReplicationServer)
    assert "d2" in str(told["d2"])
    with pytest.raises(StepFailed, match="d2"):
        await sites.dr.apply_server("d2", WANTED)


async def test_a_vm_that_is_told_what_it_does_already_is_left_alone(sites: Sites) -> None:
    wanted = VmReplication(frequency_s=30, recovery_points=12, application_consistent_hours=3, auto_resynchronize=True)
    await sites.primary.apply_replication("vm-1", wanted)
    before = sites.effects("Set-VMReplication")
    await sites.primary.apply_replication("vm-1", wanted)
    assert sites.effects("Set-VMReplication") == before == 1


async def test_the_way_to_the_peer_is_tried_from_every_node(sites: Sites) -> None:
    (peer,) = settings(sites.stand_in, "dr").peers
    await sites.dr.replication_servers.reach(peer)
    assert {call.node for call in sites.stand_in.calls if call.cmdlet == "Test-VMReplicationConnection"} == {"d1", "d2"}
    sites.stand_in.cut_link()
    with pytest.raises(HypervisorError, match="says to Test-VMReplicationConnection"):
        await sites.dr.replication_servers.reach(peer)


async def test_only_cmdlets_are_called_and_none_elsewhere(sites: Sites) -> None:
    for action, site in PLANNED:
        await sites.do(action, site)
    assert not {"ComputerName", "CimSession", "Credential", "VMName"} & {
        name for parameters in sites.stand_in.used.values() for name in parameters
    }
    changing = [call for call in sites.stand_in.calls if "Confirm" in call.parameters]
    assert all(call.parameters["Confirm"] is False for call in changing)


async def test_a_broken_off_unplanned_failover_leaves_a_record_that_says_so(sites: Sites) -> None:
    sites.stand_in.power_off("primary")
    for action, site in UNPLANNED[:3]:
        await sites.do(action, site, attested=True)
    record = of_notes(sites.notes(), "dr", "vm-1") or Record("dr")
    assert record.failed_over_to is not None
    assert [effect.rpartition("/")[2] for effect in record.effects] == ["STAGE_ADDRESSES", "FAIL_OVER"]
