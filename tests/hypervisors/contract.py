"""What every kind of hypervisor has to do: tests against the protocol alone.

To run them on an implementation, subclass `HypervisorContract` and give it a `pair` fixture: two sites, `primary` and
`dr`, on which `vm-1` runs at node p1, replicates to d1, and has one synthetic adapter `nic-1` on a guest with running
integration services, which listens at TCP port 80. The replica has one recovery point, which is not
application-consistent; of the next four one is. What no protocol call can bring about, `Pair` holds functions for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.records import Action
from failover_orch.domain.replication import ReplicationMode
from failover_orch.domain.replication_settings import AuthorizationEntry, ReplicationServer, VmReplication
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses, Gate, GateKind
from failover_orch.domain.terms import LATEST, PointChoice, WantedPoint
from failover_orch.errors import StaleEpoch, StepFailed, StepRefused
from failover_orch.hypervisors import Hypervisor, Observed
from worlds import DR_ADDRESSES, command

PLANNED = (
    (Action.STAGE_ADDRESSES, "dr"),
    (Action.SHUT_DOWN, "primary"),
    (Action.PREPARE, "primary"),
    (Action.FAIL_OVER, "dr"),
    (Action.REVERSE, "dr"),
    (Action.CONNECT_ADAPTERS, "dr"),
    (Action.START, "dr"),
    (Action.VERIFY_ADDRESSES, "dr"),
)
UNPLANNED = (
    (Action.CHECK_PRIMARY, "dr"),
    (Action.STAGE_ADDRESSES, "dr"),
    (Action.FAIL_OVER, "dr"),
    (Action.CONNECT_ADAPTERS, "dr"),
    (Action.START, "dr"),
    (Action.VERIFY_ADDRESSES, "dr"),
    (Action.COMPLETE, "dr"),
)
REPROTECT = (
    (Action.INSPECT, "primary"),
    (Action.COMPLETE, "dr"),
    (Action.SHUT_DOWN, "primary"),
    (Action.MAKE_REPLICA, "primary"),
    (Action.REVERSE, "dr"),
    (Action.RESYNCHRONIZE, "dr"),
)
TEST = ((Action.CREATE_TEST, "dr"), (Action.START_TEST, "dr"), (Action.VERIFY_TEST, "dr"))
WITH_ADDRESSES = (Action.STAGE_ADDRESSES, Action.VERIFY_ADDRESSES, Action.CREATE_TEST, Action.VERIFY_TEST)
ISOLATED = "isolated-dr"

Hand = Callable[[], Awaitable[None]]
"""Something that is done to the sites from outside, and has happened once it returns."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sites' hypervisors, and what a test can do to them from outside."""

    primary: Hypervisor
    dr: Hypervisor
    power_off_primary: Hand
    power_on_primary: Hand
    cut_link: Hand
    restore_link: Hand
    migrate: Callable[[str], Awaitable[None]]
    """Move vm-1, at the node's site, to the node, and a test copy of it too; until its hypervisor has noticed."""
    replicate: Hand
    """Let a replication cycle pass, with time enough for it."""
    at_the_console: Callable[[str, ReplicationServer], Awaitable[None]]
    """Somebody else gives a node of `dr` these settings, by whatever its administrators use."""
    server: ReplicationServer
    """Settings that the nodes of `dr` take: enabled, from authorised servers alone, with one authorization entry."""
    not_taken: Mapping[str, ReplicationServer] = field(default_factory=dict)
    """By the name of a setting, settings that they refuse for its sake."""
    not_taken_of_vms: Mapping[str, VmReplication] = field(default_factory=dict)

    async def do(self, action: Action, site: str = "dr", **fields: Any) -> Mapping[str, str]:
        hypervisor = self.dr if site == "dr" else self.primary
        if action in WITH_ADDRESSES:
            fields.setdefault("addresses", DR_ADDRESSES)
        if action is Action.CREATE_TEST:
            fields.setdefault("test_network", ISOLATED)
        return await hypervisor.perform(replace(command(action, site), **fields))


async def told(hypervisor: Hypervisor) -> list[Observed]:
    """What the hypervisors have to tell now: one batch, acknowledged."""
    async with aclosing(hypervisor.watch()) as batches:
        batch = await anext(batches)
        await hypervisor.published(batch[-1].position)
        return list(batch)


class HypervisorContract:
    """Inherit, and define the fixture `pair`."""

    async def test_a_planned_failover_moves_the_vm_with_its_addresses(self, pair: Pair) -> None:
        found: Mapping[str, str] = {}
        for action, site in PLANNED:
            found = await pair.do(action, site)
        assert found["power"] == "RUNNING"
        assert found["mode"] == "Primary"
        assert found["state"] == "Replicating"
        assert found["addresses/nic-1"] == "10.50.0.21/24, fd50::21/64"
        assert found["gateways/nic-1"] == "10.50.0.1, fd50::1"
        assert found["dns/nic-1"] == "10.50.0.2, 10.50.0.3"
        old = await pair.primary.observe("vm-1")
        assert (old["power"], old["mode"], old["connected/nic-1"]) == ("OFF", "Replica", "no")

    async def test_an_unplanned_failover_starts_the_replica(self, pair: Pair) -> None:
        await pair.power_off_primary()
        found: Mapping[str, str] = {}
        for action, site in UNPLANNED:
            found = await pair.do(action, site, attested=True)
        assert (found["power"], found["state"]) == ("RUNNING", "FailedOver")
        assert int(found["recovery_point_at_ms"]) > 0

    @pytest.mark.parametrize("workflow", [PLANNED, UNPLANNED, TEST], ids=["planned", "unplanned", "test"])
    async def test_every_step_asked_for_again_finds_it_done(
        self, pair: Pair, workflow: tuple[tuple[Action, str], ...]
    ) -> None:
        if workflow is UNPLANNED:
            await pair.power_off_primary()
        for action, site in workflow:
            first = await pair.do(action, site, attested=True)
            assert await pair.do(action, site, attested=True) == first
            assert await pair.do(action, site, attested=True, attempt=2) == first

    async def test_a_command_redelivered_after_its_undo_does_nothing(self, pair: Pair) -> None:
        await pair.power_off_primary()
        await pair.do(Action.FAIL_OVER)
        await pair.do(Action.CANCEL_FAILOVER)
        again = await pair.do(Action.FAIL_OVER)
        assert again["state"] == "Replicating"

    async def test_a_lower_epoch_is_stale_and_changes_nothing(self, pair: Pair) -> None:
        await pair.do(Action.SHUT_DOWN, "primary", epoch=7)
        before = await pair.primary.observe("vm-1")
        with pytest.raises(StaleEpoch, match="accepted epoch 7"):
            await pair.do(Action.START, "primary", epoch=6)
        assert await pair.primary.observe("vm-1") == before
        assert before["epoch"] == "7"

    async def test_a_refused_command_still_makes_older_ones_stale(self, pair: Pair) -> None:
        with pytest.raises(StepRefused):
            await pair.do(Action.START, "dr", epoch=9)
        with pytest.raises(StaleEpoch):
            await pair.do(Action.STAGE_ADDRESSES, "dr", epoch=8)

    async def test_a_reversal_makes_older_commands_stale_at_the_other_site_too(self, pair: Pair) -> None:
        for action, site in PLANNED[:5]:
            await pair.do(action, site, epoch=5 if action is not Action.REVERSE else 6)
        with pytest.raises(StaleEpoch):
            await pair.do(Action.START, "primary", epoch=5)

    async def test_a_replica_does_not_start_before_its_failover(self, pair: Pair) -> None:
        with pytest.raises(
            StepRefused, match=r"Replica and Replicating \(3\), rules E12, E13 .*once it is failed over"
        ):
            await pair.do(Action.START, "dr")

    async def test_a_prepared_primary_is_locked_until_released(self, pair: Pair) -> None:
        await pair.do(Action.SHUT_DOWN, "primary")
        assert (await pair.do(Action.PREPARE, "primary"))["state"] == "SyncedReplicationComplete"
        with pytest.raises(StepRefused, match="locked"):
            await pair.do(Action.START, "primary")
        await pair.do(Action.CANCEL_PREPARE, "primary")
        assert (await pair.do(Action.START, "primary", attempt=2))["power"] == "RUNNING"

    async def test_a_running_primary_is_not_prepared(self, pair: Pair) -> None:
        with pytest.raises(StepRefused, match="not off"):
            await pair.do(Action.PREPARE, "primary")

    async def test_preparing_needs_the_link(self, pair: Pair) -> None:
        await pair.do(Action.SHUT_DOWN, "primary")
        await pair.cut_link()
        with pytest.raises(StepFailed, match="link"):
            await pair.do(Action.PREPARE, "primary")
        await pair.restore_link()
        assert (await pair.do(Action.PREPARE, "primary"))["pending_bytes"] == "0"

    async def test_a_running_primary_is_never_overtaken(self, pair: Pair) -> None:
        with pytest.raises(StepRefused, match="RUNNING on p1"):
            await pair.do(Action.CHECK_PRIMARY, "dr", attested=True)

    async def test_an_unreachable_primary_needs_attestation(self, pair: Pair) -> None:
        await pair.cut_link()
        with pytest.raises(StepRefused, match="attestation"):
            await pair.do(Action.CHECK_PRIMARY, "dr")
        await pair.do(Action.CHECK_PRIMARY, "dr", attested=True)

    async def test_a_primary_seen_to_be_off_needs_none(self, pair: Pair) -> None:
        await pair.do(Action.SHUT_DOWN, "primary")
        await pair.do(Action.CHECK_PRIMARY, "dr")

    async def test_a_cancelled_failover_can_be_done_again(self, pair: Pair) -> None:
        await pair.power_off_primary()
        await pair.do(Action.FAIL_OVER)
        await pair.do(Action.START)
        cancelled = await pair.do(Action.CANCEL_FAILOVER)
        assert (cancelled["power"], cancelled["state"]) == ("OFF", "Replicating")
        for action in (Action.STAGE_ADDRESSES, Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
            await pair.do(action, run_id="run-2", epoch=6)
        assert (await pair.dr.observe("vm-1"))["addresses/nic-1"] == "10.50.0.21/24, fd50::21/64"

    async def test_a_cancelled_failover_leaves_no_addresses_behind(self, pair: Pair) -> None:
        await pair.power_off_primary()
        for action in (Action.STAGE_ADDRESSES, Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
            await pair.do(action)
        await pair.do(Action.CANCEL_FAILOVER)
        await pair.do(Action.STAGE_ADDRESSES, run_id="run-2", addresses=())
        for action in (Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
            await pair.do(action, run_id="run-2")
        assert (await pair.dr.observe("vm-1"))["addresses/nic-1"] == "10.10.0.21/24, fd10::21/64"

    async def test_a_completed_failover_cannot_be_cancelled(self, pair: Pair) -> None:
        await pair.power_off_primary()
        await pair.do(Action.FAIL_OVER)
        await pair.do(Action.COMPLETE)
        with pytest.raises(StepRefused, match="not completed"):
            await pair.do(Action.CANCEL_FAILOVER)

    async def test_staging_for_an_unknown_adapter_is_refused_and_changes_nothing(self, pair: Pair) -> None:
        unknown = AdapterAddresses("nic-9", ipv4=FamilyAddresses(dhcp=True))
        with pytest.raises(StepRefused, match="'nic-9'"):
            await pair.do(Action.STAGE_ADDRESSES, addresses=(*DR_ADDRESSES, unknown))

    async def test_without_staged_addresses_the_vm_comes_up_with_the_primarys(self, pair: Pair) -> None:
        for action, site in PLANNED[1:-1]:
            await pair.do(action, site)
        with pytest.raises(StepFailed, match=r"'nic-1'.*10\.10\.0\.21/24, expected 10\.50\.0\.21/24"):
            await pair.do(Action.VERIFY_ADDRESSES)

    async def test_an_adapter_left_disconnected_is_no_success(self, pair: Pair) -> None:
        for action, site in PLANNED[:-1]:
            if action is not Action.CONNECT_ADAPTERS:
                await pair.do(action, site)
        with pytest.raises(StepFailed, match="not connected"):
            await pair.do(Action.VERIFY_ADDRESSES)

    async def test_a_vm_that_is_off_has_no_addresses(self, pair: Pair) -> None:
        with pytest.raises(StepRefused, match="off"):
            await pair.do(Action.VERIFY_ADDRESSES)
        assert "addresses/nic-1" not in await pair.dr.observe("vm-1")

    async def test_an_unknown_vm_is_refused(self, pair: Pair) -> None:
        with pytest.raises(StepRefused, match="vm-404"):
            await pair.do(Action.START, vm_id="vm-404")
        assert await pair.dr.observe("vm-404") == {}

    async def test_the_vm_is_acted_on_wherever_it_is_in_the_site(self, pair: Pair) -> None:
        await pair.migrate("p2")
        assert (await pair.do(Action.SHUT_DOWN, "primary"))["node"] == "p2"

    async def test_what_is_there_is_told_at_the_start(self, pair: Pair) -> None:
        values = [observed.value for observed in await told(pair.primary)]
        assert {value.cluster for value in values if isinstance(value, ClusterInventory)} == {"primary-cluster"}
        assert [(v.node, v.kind) for v in values if isinstance(v, VmMoved)][-1] == ("p1", MoveKind.PLACED)
        assert [v.replication.primary_site for v in values if isinstance(v, VmInventory)] == ["primary"]
        assert not any(isinstance(observed.value, VmInventory) for observed in await told(pair.dr))

    async def test_a_move_is_told_once_published_and_not_before(self, pair: Pair) -> None:
        await told(pair.dr)
        await pair.migrate("d2")
        async with aclosing(pair.dr.watch()) as batches:
            first = await anext(batches)
            assert await anext(batches) == first
        moves = [observed.value for observed in await told(pair.dr) if isinstance(observed.value, VmMoved)]
        assert [(move.node, move.kind) for move in moves][:2] == [("d2", MoveKind.LIVE), ("d1", MoveKind.DEPARTED)]
        # What follows says again where the VM is, in the words of the arrival.
        assert set(moves[2:]) == {moves[0]}

    async def test_each_nodes_sequence_grows(self, pair: Pair) -> None:
        for node in ("d2", "d1", "d2"):
            await pair.migrate(node)
        last: dict[str, int] = {}
        for observed in (await told(pair.dr))[:7]:
            move = observed.value
            if isinstance(move, VmMoved):
                assert move.sequence > last.get(move.node, 0)
                last[move.node] = move.sequence

    async def test_both_ends_report_their_replication(self, pair: Pair) -> None:
        (primary,) = await pair.primary.reports(["vm-1"])
        (replica,) = await pair.dr.reports(["vm-1"])
        assert (primary.mode, primary.node) == (ReplicationMode.PRIMARY, "p1")
        assert (replica.mode, replica.node) == (ReplicationMode.REPLICA, "d1")
        assert await pair.dr.reports([]) == ()

    async def test_the_active_site_changes_with_the_failover(self, pair: Pair) -> None:
        assert [(vm.node, vm.active) for vm in await pair.primary.vms()] == [("p1", True)]
        for action, site in PLANNED:
            await pair.do(action, site)
        assert [vm.active for vm in await pair.primary.vms()] == [False]
        assert [vm.active for vm in await pair.dr.vms()] == [True]

    # Recovery points

    async def test_a_failover_goes_to_the_point_asked_for(self, pair: Pair) -> None:
        points = [await self._point(pair)]
        for _ in range(4):
            await pair.replicate()
            points.append(await self._point(pair))
        assert len(dict(points)) == len(points)
        await pair.power_off_primary()
        latest = await pair.do(Action.FAIL_OVER, run_id="latest")
        assert (latest["recovery_point"], int(latest["recovery_point_at_ms"])) == points[-1]
        for name, wanted, expected in (
            ("named", WantedPoint(PointChoice.NAMED, point_id=points[1][0]), points[1]),
            ("exact", WantedPoint(PointChoice.BEFORE, at_ms=points[2][1]), points[2]),
            ("between", WantedPoint(PointChoice.BEFORE, at_ms=points[3][1] - 1), points[2]),
        ):
            cancelled = await pair.do(Action.CANCEL_FAILOVER, run_id=name)
            assert cancelled["recovery_point"] == points[-1][0]
            found = await pair.do(Action.FAIL_OVER, run_id=name, point=wanted)
            assert (found["recovery_point"], int(found["recovery_point_at_ms"])) == expected
        await pair.do(Action.CANCEL_FAILOVER)
        consistent = WantedPoint(PointChoice.APPLICATION_CONSISTENT)
        found = await pair.do(Action.FAIL_OVER, run_id="consistent", point=consistent)
        assert found["recovery_point"] in dict(points)

    @pytest.mark.parametrize(
        "wanted",
        [
            WantedPoint(PointChoice.NAMED, point_id="no-such-point"),
            WantedPoint(PointChoice.BEFORE, at_ms=1),
            WantedPoint(PointChoice.APPLICATION_CONSISTENT),
        ],
        ids=lambda wanted: wanted.choice.value,
    )
    @pytest.mark.parametrize("action", [Action.FAIL_OVER, Action.CREATE_TEST])
    async def test_a_point_that_is_not_there_is_refused_and_those_that_are_named(
        self, pair: Pair, action: Action, wanted: WantedPoint
    ) -> None:
        before = await pair.dr.observe("vm-1")
        with pytest.raises(StepRefused) as refused:
            await pair.do(action, point=wanted)
        assert str(wanted) in str(refused.value)
        assert before["recovery_point"] in str(refused.value)
        assert await pair.dr.observe("vm-1") == {**before, "epoch": "5"}

    async def test_another_point_is_refused_until_the_failover_is_cancelled(self, pair: Pair) -> None:
        first, _ = await self._point(pair)
        await pair.replicate()
        latest, _ = await self._point(pair)
        await pair.power_off_primary()
        await pair.do(Action.FAIL_OVER)
        named = WantedPoint(PointChoice.NAMED, point_id=latest)
        assert (await pair.do(Action.FAIL_OVER, attempt=2, point=named))["recovery_point"] == latest
        another = WantedPoint(PointChoice.NAMED, point_id=first)
        with pytest.raises(StepRefused, match=r"FailOverWaitingCompletion \(5\).*cancelled first"):
            await pair.do(Action.FAIL_OVER, attempt=3, point=another)
        await pair.do(Action.CANCEL_FAILOVER)
        assert (await pair.do(Action.FAIL_OVER, attempt=4, point=another))["recovery_point"] == first

    async def test_completion_gives_up_the_other_points(self, pair: Pair) -> None:
        first, _ = await self._point(pair)
        await pair.replicate()
        await pair.power_off_primary()
        named = WantedPoint(PointChoice.NAMED, point_id=first)
        await pair.do(Action.FAIL_OVER, point=named)
        assert (await pair.do(Action.COMPLETE))["recovery_point"] == first
        for attempt, wanted in ((2, named), (3, LATEST)):
            found = await pair.do(Action.FAIL_OVER, attempt=attempt, point=wanted)
            assert (found["state"], found["recovery_point"]) == ("FailedOver", first)

    async def _point(self, pair: Pair) -> tuple[str, int]:
        found = await pair.dr.observe("vm-1")
        return found["recovery_point"], int(found["recovery_point_at_ms"])

    # What only looks

    @pytest.mark.parametrize("site", ["primary", "dr"])
    async def test_an_inspection_says_what_there_is(self, pair: Pair, site: str) -> None:
        found = await pair.do(Action.INSPECT, site)
        assert (found["power"], found["mode"]) == {"primary": ("RUNNING", "Primary"), "dr": ("OFF", "Replica")}[site]
        hypervisor = pair.dr if site == "dr" else pair.primary
        for action, where in PLANNED:
            await pair.do(action, where)
            before = await hypervisor.observe("vm-1")
            assert await pair.do(Action.INSPECT, site) == {**before, "epoch": "5"}

    async def test_the_fence_is_told(self, pair: Pair) -> None:
        await pair.do(Action.SHUT_DOWN, "primary")
        assert "seen off at primary/p1" in (await pair.do(Action.CHECK_PRIMARY))["fence"]
        await pair.cut_link()
        attested = await pair.do(Action.CHECK_PRIMARY, attested=True)
        assert attested["fence"].startswith("attested: primary cannot be reached")
        assert "fence" not in await pair.dr.observe("vm-1")

    @pytest.mark.parametrize("gate", [Gate(GateKind.POWER), Gate(GateKind.HEARTBEAT), Gate(GateKind.TCP_PORT, 80)])
    async def test_a_gate_holds_once_the_vm_is_up(self, pair: Pair, gate: Gate) -> None:
        before = await pair.primary.observe("vm-1")
        assert await pair.do(Action.CHECK_GATE, "primary", gate=gate) == {**before, "epoch": "5"}
        with pytest.raises(StepFailed, match="off"):
            await pair.do(Action.CHECK_GATE, "dr", gate=gate)

    async def test_what_is_not_a_hypervisors_is_refused(self, pair: Pair) -> None:
        for action in (Action.RUN_SCRIPT, Action.CALL_HTTP, Action.APPLY_SETTINGS):
            with pytest.raises(StepRefused, match="agent"):
                await pair.do(action)
        with pytest.raises(StepRefused, match="script"):
            await pair.do(Action.CHECK_GATE, gate=Gate(GateKind.SCRIPT, command=("true",)))

    # Reprotection

    async def test_after_an_unplanned_failover_the_old_primary_becomes_the_replica(self, pair: Pair) -> None:
        await self._overtake(pair)
        for action, site in REPROTECT[:-1]:
            first = await pair.do(action, site)
            assert await pair.do(action, site) == first
            assert await pair.do(action, site, attempt=2) == first
        # Before the copy is asked for: it may be there in no time.
        old = await pair.primary.observe("vm-1")
        assert (old["power"], old["mode"], old["recovery_point"]) == ("OFF", "Replica", "")
        with pytest.raises(StepFailed, match="InitialReplication"):
            await pair.do(Action.AWAIT_REPLICATION)
        for attempt in (1, 1, 2):
            await pair.do(Action.RESYNCHRONIZE, attempt=attempt)
        await pair.replicate()
        found = await pair.do(Action.AWAIT_REPLICATION)
        assert (found["power"], found["mode"], found["state"]) == ("RUNNING", "Primary", "Replicating")
        assert (await pair.primary.observe("vm-1"))["state"] == "Replicating"
        back = {"primary": "dr", "dr": "primary"}
        for action, site in PLANNED[1:-1]:
            found = await pair.do(action, back[site], run_id="run-2", epoch=9)
        assert (found["node"], found["power"], found["mode"]) == ("p1", "RUNNING", "Primary")

    async def test_nothing_is_copied_before_somebody_says_so(self, pair: Pair) -> None:
        await self._overtake(pair)
        for action, site in REPROTECT[:-1]:
            await pair.do(action, site)
        await pair.replicate()
        assert (await pair.dr.observe("vm-1"))["state"] == "ReadyForInitialReplication"

    async def test_a_primary_becomes_a_replica_only_off_and_overtaken_for_good(self, pair: Pair) -> None:
        with pytest.raises(StepRefused, match=r"Replica and Replicating \(3\), and not failed over"):
            await pair.do(Action.MAKE_REPLICA, "primary")
        await pair.cut_link()
        with pytest.raises(StepFailed, match="link"):
            await pair.do(Action.MAKE_REPLICA, "primary")
        await pair.do(Action.FAIL_OVER)
        await pair.restore_link()
        with pytest.raises(StepRefused, match="complete that first"):
            await pair.do(Action.MAKE_REPLICA, "primary")
        await pair.do(Action.COMPLETE)
        with pytest.raises(StepRefused, match="RUNNING at primary: shut it down"):
            await pair.do(Action.MAKE_REPLICA, "primary")

    async def test_a_committed_failover_is_reversed_only_towards_a_replica(self, pair: Pair) -> None:
        await self._overtake(pair)
        with pytest.raises(StepRefused, match="make that end a replica first"):
            await pair.do(Action.REVERSE)

    async def test_a_primary_that_replicates_needs_no_resynchronisation(self, pair: Pair) -> None:
        before = await pair.primary.observe("vm-1")
        assert await pair.do(Action.RESYNCHRONIZE, "primary") == {**before, "epoch": "5"}
        with pytest.raises(StepRefused, match=r"Replica and Replicating \(3\), rules E16, E17"):
            await pair.do(Action.RESYNCHRONIZE, "dr")

    async def _overtake(self, pair: Pair) -> None:
        await pair.power_off_primary()
        for action, site in UNPLANNED:
            await pair.do(action, site, attested=True)
        await pair.power_on_primary()

    # The test copy

    async def test_a_test_copy_runs_beside_a_replica_that_goes_on(self, pair: Pair) -> None:
        for action, site in TEST:
            found = await pair.do(action, site)
        assert (found["test/power"], found["test/mode"], found["test_network"]) == ("RUNNING", "TestReplica", ISOLATED)
        assert (found["addresses/nic-1"], found["connected/nic-1"]) == ("10.50.0.21/24, fd50::21/64", "yes")
        point, _ = await self._point(pair)
        await pair.replicate()
        replica = await pair.dr.observe("vm-1")
        assert (replica["power"], replica["mode"], replica["state"]) == ("OFF", "Replica", "Replicating")
        assert (replica["connected/nic-1"], "addresses/nic-1" in replica) == ("no", False)
        assert replica["test/recovery_point"] == point != replica["recovery_point"]
        assert (await pair.primary.observe("vm-1"))["power"] == "RUNNING"
        gone = await pair.do(Action.DELETE_TEST)
        assert not [name for name in gone if name.startswith("test")]
        assert await pair.do(Action.DELETE_TEST, attempt=2) == gone

    async def test_a_test_copy_is_of_the_point_asked_for(self, pair: Pair) -> None:
        first, at_ms = await self._point(pair)
        await pair.replicate()
        found = await pair.do(Action.CREATE_TEST, point=WantedPoint(PointChoice.NAMED, point_id=first))
        assert (found["recovery_point"], int(found["recovery_point_at_ms"])) == (first, at_ms)
        assert (found["test/recovery_point"], found["test/power"]) == (first, "OFF")

    async def test_a_vm_has_one_test_copy(self, pair: Pair) -> None:
        await pair.do(Action.CREATE_TEST)
        await pair.replicate()
        first = await pair.dr.observe("vm-1")
        await pair.do(Action.CREATE_TEST, attempt=2)
        assert await pair.dr.observe("vm-1") == first
        others: tuple[dict[str, Any], ...] = ({"run_id": "run-2"}, {"test_network": "other"}, {"addresses": ()})
        for other in others:
            with pytest.raises(StepRefused, match="test copy already, made by run-1"):
                await pair.do(Action.CREATE_TEST, attempt=3, **other)

    async def test_a_deleted_test_copy_does_not_come_back_with_its_command(self, pair: Pair) -> None:
        await pair.do(Action.CREATE_TEST)
        await pair.do(Action.DELETE_TEST)
        assert "test/power" not in await pair.do(Action.CREATE_TEST)

    async def test_a_test_copy_that_is_not_there_neither_starts_nor_has_addresses(self, pair: Pair) -> None:
        for action in (Action.START_TEST, Action.VERIFY_TEST):
            with pytest.raises(StepRefused, match="no test copy: create it first"):
                await pair.do(action)

    async def test_a_test_copy_on_no_network_still_gets_its_addresses(self, pair: Pair) -> None:
        for action, site in TEST:
            found = await pair.do(action, site, **({"test_network": ""} if action is Action.CREATE_TEST else {}))
        assert (found["test_network"], found["connected/nic-1"]) == ("", "no")
        assert found["addresses/nic-1"] == "10.50.0.21/24, fd50::21/64"

    async def test_a_test_copy_without_addresses_of_its_own_has_the_primarys(self, pair: Pair) -> None:
        await pair.do(Action.CREATE_TEST, addresses=())
        found = await pair.do(Action.START_TEST)
        assert found["addresses/nic-1"] == "10.10.0.21/24, fd10::21/64"
        with pytest.raises(StepFailed, match=r"test copy of vm-1 at dr has IPv4 addresses 10\.10\.0\.21/24, expected"):
            await pair.do(Action.VERIFY_TEST)

    async def test_a_test_copy_for_an_unknown_adapter_is_refused(self, pair: Pair) -> None:
        with pytest.raises(StepRefused, match="'nic-9'"):
            await pair.do(Action.CREATE_TEST, addresses=(AdapterAddresses("nic-9", ipv4=FamilyAddresses(dhcp=True)),))
        assert "test/power" not in await pair.dr.observe("vm-1")

    async def test_a_test_copy_and_real_failovers_do_not_disturb_each_other(self, pair: Pair) -> None:
        for action, site in TEST:
            created = await pair.do(action, site)
        point = created["test/recovery_point"]
        await pair.power_off_primary()
        cancelled = (*UNPLANNED[:-1], (Action.CANCEL_FAILOVER, "dr"))
        for run_id, workflow in (("run-2", cancelled), ("run-3", UNPLANNED)):
            for action, site in workflow:
                found = await pair.do(action, site, attested=True, run_id=run_id)
                assert (found["test/power"], found["test/recovery_point"]) == ("RUNNING", point)
        assert found["power"] == "RUNNING"
        await pair.power_on_primary()
        for action, site in REPROTECT:
            found = await pair.do(action, site)
        assert found["test/power"] == "RUNNING"
        after = await pair.do(Action.DELETE_TEST)
        assert {name: value for name, value in found.items() if not name.startswith("test")} == after

    async def test_a_test_copy_moves_with_its_replica(self, pair: Pair) -> None:
        for action, site in TEST:
            await pair.do(action, site)
        await pair.migrate("d2")
        found = await pair.dr.observe("vm-1")
        assert (found["node"], found["test/node"], found["test/power"]) == ("d2", "d2", "RUNNING")

    async def test_only_a_replica_is_tested(self, pair: Pair) -> None:
        with pytest.raises(StepRefused, match=r"Primary and Replicating \(3\), rule E18"):
            await pair.do(Action.CREATE_TEST, "primary")

    # Replication settings

    async def test_each_node_takes_settings_and_has_them(self, pair: Pair) -> None:
        another = AuthorizationEntry("*.other.example", pair.server.authorization[0].storage_location, "another")
        for wanted in (
            pair.server,
            replace(pair.server, authorization=(another, *pair.server.authorization), monitoring_interval_s=7 * 86_400),
            replace(pair.server, monitoring_start_minute=0),
            replace(pair.server, enabled=False, authorization=()),
            pair.server,
        ):
            for node in ("d1", "d2"):
                await pair.dr.apply_server(node, wanted)
                await pair.dr.apply_server(node, wanted)
            servers = await pair.dr.servers()
            assert {node: _comparable(server) for node, server in servers.items()} == {
                "d1": _comparable(wanted),
                "d2": _comparable(wanted),
            }

    async def test_nodes_are_asked_one_by_one_too(self, pair: Pair) -> None:
        assert set(await pair.dr.servers(["d2", "p1"])) == {"d2"}

    async def test_settings_of_a_node_of_another_site_are_refused(self, pair: Pair) -> None:
        with pytest.raises(StepRefused, match="'p1'"):
            await pair.dr.apply_server("p1", pair.server)

    async def test_a_cluster_none_of_whose_nodes_is_enabled_accepts_no_replicas(self, pair: Pair) -> None:
        for enabled in (True, False, True):
            for node in ("d1", "d2"):
                await pair.dr.apply_server(node, replace(pair.server, enabled=enabled))
            (cluster,) = await pair.dr.clusters()
            assert cluster.accepts_replicas is enabled

    async def test_what_somebody_changes_at_the_console_is_seen_and_put_right(self, pair: Pair) -> None:
        await pair.dr.apply_server("d1", pair.server)
        drifted = replace(pair.server, monitoring_start_minute=60, authorization=())
        await pair.at_the_console("d1", drifted)
        assert (await pair.dr.servers(["d1"]))["d1"] == drifted
        await pair.dr.apply_server("d1", pair.server)
        assert (await pair.dr.servers(["d1"]))["d1"] == pair.server

    async def test_a_setting_that_a_node_cannot_have_is_refused_by_its_name(self, pair: Pair) -> None:
        await pair.dr.apply_server("d1", pair.server)
        for name, wanted in pair.not_taken.items():
            with pytest.raises(StepRefused, match=name):
                await pair.dr.apply_server("d1", wanted)
            assert (await pair.dr.servers(["d1"]))["d1"] == pair.server

    async def test_a_node_that_is_away_takes_no_settings_and_has_none_to_tell(self, pair: Pair) -> None:
        await pair.power_off_primary()
        with pytest.raises(StepFailed):
            await pair.primary.apply_server("p1", pair.server)
        assert not [each for each in (await pair.primary.servers()).values() if isinstance(each, ReplicationServer)]

    async def test_a_vm_replicates_as_it_is_told(self, pair: Pair) -> None:
        hourly = VmReplication(frequency_s=900, recovery_points=3, application_consistent_hours=2, compression=False)
        for wanted in (hourly, VmReplication(frequency_s=30), hourly):
            await pair.primary.apply_replication("vm-1", wanted)
            await pair.primary.apply_replication("vm-1", wanted)
            assert dict(await pair.primary.replications()) == {"vm-1": wanted}
            assert [vm.frequency_s for vm in await pair.primary.vms()] == [wanted.frequency_s]
        await pair.replicate()
        assert (await pair.primary.observe("vm-1"))["state"] == "Replicating"

    async def test_a_vm_is_told_where_it_is_active(self, pair: Pair) -> None:
        for vm_id in ("vm-1", "vm-404"):
            with pytest.raises(StepRefused, match=vm_id):
                await pair.dr.apply_replication(vm_id, VmReplication())
        assert dict(await pair.dr.replications()) == {}
        before = (await pair.primary.replications())["vm-1"]
        await pair.primary.apply_replication("vm-1", replace(before, frequency_s=300))
        for action, site in PLANNED:
            await pair.do(action, site)
        assert dict(await pair.dr.replications()) == {"vm-1": replace(before, frequency_s=300)}
        assert dict(await pair.primary.replications()) == {}

    async def test_what_a_vm_cannot_have_is_refused_by_its_name(self, pair: Pair) -> None:
        before = await pair.primary.replications()
        for name, wanted in pair.not_taken_of_vms.items():
            with pytest.raises(StepRefused, match=name):
                await pair.primary.apply_replication("vm-1", wanted)
        assert await pair.primary.replications() == before


def _comparable(server: ReplicationServer | str) -> object:
    """The settings, whatever the order of their authorization entries."""
    if isinstance(server, str):
        return server
    return replace(server, authorization=()), frozenset(server.authorization)
