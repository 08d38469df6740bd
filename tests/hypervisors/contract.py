"""What every kind of hypervisor has to do: tests against the protocol alone.

To run them on an implementation, subclass `HypervisorContract` and give it a `pair` fixture: two sites, `primary` and
`dr`, on which `vm-1` runs at node p1, replicates to d1, and has one synthetic adapter `nic-1` on a guest with running
integration services. The other fixtures bring about what no protocol call can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from failover_orch.domain.facts import MoveKind, VmMoved
from failover_orch.domain.inventory import ClusterInventory, VmInventory
from failover_orch.domain.records import Action
from failover_orch.domain.replication import ReplicationMode
from failover_orch.domain.settings import AdapterAddresses, FamilyAddresses
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
WITH_ADDRESSES = (Action.STAGE_ADDRESSES, Action.VERIFY_ADDRESSES)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sites' hypervisors, and what a test can do to them from outside."""

    primary: Hypervisor
    dr: Hypervisor
    power_off_primary: Callable[[], None]
    cut_link: Callable[[], None]
    restore_link: Callable[[], None]
    migrate: Callable[[str], None]
    """Move vm-1, at the node's site, to the node."""

    async def do(self, action: Action, site: str = "dr", **fields: Any) -> Mapping[str, str]:
        hypervisor = self.dr if site == "dr" else self.primary
        if action in WITH_ADDRESSES:
            fields.setdefault("addresses", DR_ADDRESSES)
        return await hypervisor.perform(command(action, site, **fields))


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
        pair.power_off_primary()
        found: Mapping[str, str] = {}
        for action, site in UNPLANNED:
            found = await pair.do(action, site, attested=True)
        assert (found["power"], found["state"]) == ("RUNNING", "FailedOver")
        assert int(found["recovery_point_at_ms"]) > 0

    @pytest.mark.parametrize("workflow", [PLANNED, UNPLANNED], ids=["planned", "unplanned"])
    async def test_every_step_asked_for_again_finds_it_done(
        self, pair: Pair, workflow: tuple[tuple[Action, str], ...]
    ) -> None:
        if workflow is UNPLANNED:
            pair.power_off_primary()
        for action, site in workflow:
            first = await pair.do(action, site, attested=True)
            assert await pair.do(action, site, attested=True) == first
            assert await pair.do(action, site, attested=True, attempt=2) == first

    async def test_a_command_redelivered_after_its_undo_does_nothing(self, pair: Pair) -> None:
        pair.power_off_primary()
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
        with pytest.raises(StepRefused, match=r"Replica and Replicating.*fail"):
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
        pair.cut_link()
        with pytest.raises(StepFailed, match="link"):
            await pair.do(Action.PREPARE, "primary")
        pair.restore_link()
        assert (await pair.do(Action.PREPARE, "primary"))["pending_bytes"] == "0"

    async def test_a_running_primary_is_never_overtaken(self, pair: Pair) -> None:
        with pytest.raises(StepRefused, match="RUNNING on p1"):
            await pair.do(Action.CHECK_PRIMARY, "dr", attested=True)

    async def test_an_unreachable_primary_needs_attestation(self, pair: Pair) -> None:
        pair.cut_link()
        with pytest.raises(StepRefused, match="attestation"):
            await pair.do(Action.CHECK_PRIMARY, "dr")
        await pair.do(Action.CHECK_PRIMARY, "dr", attested=True)

    async def test_a_primary_seen_to_be_off_needs_none(self, pair: Pair) -> None:
        await pair.do(Action.SHUT_DOWN, "primary")
        await pair.do(Action.CHECK_PRIMARY, "dr")

    async def test_a_cancelled_failover_can_be_done_again(self, pair: Pair) -> None:
        pair.power_off_primary()
        await pair.do(Action.FAIL_OVER)
        await pair.do(Action.START)
        cancelled = await pair.do(Action.CANCEL_FAILOVER)
        assert (cancelled["power"], cancelled["state"]) == ("OFF", "Replicating")
        for action in (Action.STAGE_ADDRESSES, Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
            await pair.do(action, run_id="run-2", epoch=6)
        assert (await pair.dr.observe("vm-1"))["addresses/nic-1"] == "10.50.0.21/24, fd50::21/64"

    async def test_a_cancelled_failover_leaves_no_addresses_behind(self, pair: Pair) -> None:
        pair.power_off_primary()
        for action in (Action.STAGE_ADDRESSES, Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
            await pair.do(action)
        await pair.do(Action.CANCEL_FAILOVER)
        await pair.do(Action.STAGE_ADDRESSES, run_id="run-2", addresses=())
        for action in (Action.FAIL_OVER, Action.CONNECT_ADAPTERS, Action.START):
            await pair.do(action, run_id="run-2")
        assert (await pair.dr.observe("vm-1"))["addresses/nic-1"] == "10.10.0.21/24, fd10::21/64"

    async def test_a_completed_failover_cannot_be_cancelled(self, pair: Pair) -> None:
        pair.power_off_primary()
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
        pair.migrate("p2")
        assert (await pair.do(Action.SHUT_DOWN, "primary"))["node"] == "p2"

    async def test_what_is_there_is_told_at_the_start(self, pair: Pair) -> None:
        values = [observed.value for observed in await told(pair.primary)]
        assert {value.cluster for value in values if isinstance(value, ClusterInventory)} == {"primary-cluster"}
        assert [(v.node, v.kind) for v in values if isinstance(v, VmMoved)][-1] == ("p1", MoveKind.PLACED)
        assert [v.replication.primary_site for v in values if isinstance(v, VmInventory)] == ["primary"]
        assert not any(isinstance(observed.value, VmInventory) for observed in await told(pair.dr))

    async def test_a_move_is_told_once_published_and_not_before(self, pair: Pair) -> None:
        await told(pair.dr)
        pair.migrate("d2")
        async with aclosing(pair.dr.watch()) as batches:
            first = await anext(batches)
            assert await anext(batches) == first
        moves = [observed.value for observed in await told(pair.dr) if isinstance(observed.value, VmMoved)]
        assert [(move.node, move.kind) for move in moves][:2] == [("d2", MoveKind.LIVE), ("d1", MoveKind.DEPARTED)]
        # What follows says again where the VM is, in the words of the arrival.
        assert set(moves[2:]) == {moves[0]}

    async def test_each_nodes_sequence_grows(self, pair: Pair) -> None:
        for node in ("d2", "d1", "d2"):
            pair.migrate(node)
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
