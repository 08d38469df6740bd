"""A VM's replication settings follow it to wherever it is active: rule K16, and the others for a VM."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover_orch.domain.broker import due_ms, tick
from failover_orch.domain.draft import State
from failover_orch.domain.facts import FailoverKind, MoveKind, StepOutcome, VmMoved
from failover_orch.domain.records import Action, Alert, StepCommand
from failover_orch.domain.replication_settings import (
    SettingsChange,
    SettingsObserved,
    SettingsRevision,
    SettingsScope,
    SettingsStanding,
    Standing,
    VmReplication,
)
from failover_orch.domain.state import KeptSettings
from standing_state import NOW, Told, asked, carry_out, fold, moment, standing

WANTED = VmReplication(frequency_s=900)
IN_SYNC = Standing.IN_SYNC
KEY = "settings/vm/vm-1"


def change(vm_id: str = "vm-1", *, change_id: str = "", **changes: str) -> SettingsChange:
    changes = changes or {"frequency_s": "15m"}
    return SettingsChange(SettingsScope.VM, vm_id, changes, "alice", "CHG-1", NOW, change_id=change_id)


def seen(site: str, node: str, has: VmReplication, at_ms: int) -> SettingsObserved:
    return SettingsObserved(site, f"{site}-cluster", node, at_ms, "vm-1", replication=has)


@pytest.fixture
def told() -> Told:
    return carry_out(standing(), change())


def commands(told: Told) -> list[StepCommand]:
    return [command for command in told.of(StepCommand) if command.action is Action.APPLY_SETTINGS]


def stands(state: dict[str, State]) -> Standing:
    kept = state[KEY]
    assert isinstance(kept, KeptSettings)
    return kept.nodes[0].standing


def test_a_vm_is_told_where_it_is_active(told: Told) -> None:
    (command,) = commands(told)
    assert (command.site, command.node, command.vm_id, command.key) == ("primary", "p1", "vm-1", "")
    assert (command.replication, command.server, command.run_id) == (WANTED, None, "settings/vm-1/1")
    (revision,) = told.of(SettingsRevision)
    assert (revision.version, revision.replication, revision.changed) == (1, WANTED, ("frequency_s",))
    last = told.of(SettingsStanding)[-1]
    assert (last.node, last.standing, last.applied) == ("p1", Standing.IN_SYNC, 1)


def test_the_first_change_does_not_slow_a_vm_down_that_it_does_not_say_so_of() -> None:
    """Nobody has set anything before, and the VM replicates every 30 seconds: its inventory says so."""
    (command,) = commands(carry_out(standing(), change(recovery_points="4")))
    assert command.replication == VmReplication(frequency_s=30, recovery_points=4)


def test_a_vm_that_is_not_known_is_refused() -> None:
    told = carry_out(standing(), change("vm-9"))
    (revision,) = told.of(SettingsRevision)
    assert revision.refused == ("C2: VM vm-9 is not known: publish its inventory first",)
    assert not commands(told)


def test_after_a_failover_the_vm_is_told_at_its_new_site(told: Told) -> None:
    after = carry_out(told.state, asked(FailoverKind.PLANNED))
    where = [(command.site, command.node, command.attempt) for command in commands(after)]
    assert where == [("dr", "d1", 2)]
    steps = [command.step for command in after.of(StepCommand)]
    assert steps[-1] == "d1", "not before the run has ended"
    assert after.of(SettingsStanding)[-1].standing is Standing.IN_SYNC


def test_a_vm_that_replicates_nowhere_is_told_once_it_does(told: Told) -> None:
    lost = carry_out(told.state, asked(FailoverKind.UNPLANNED))
    assert not commands(lost)
    last = lost.of(SettingsStanding)[-1]
    assert (last.standing, last.detail) == (Standing.AWAY, "the VM does not replicate; it is told when it does")
    again = carry_out(lost.state, asked(FailoverKind.REPROTECT, run_id="again"))
    assert [(command.site, command.node) for command in commands(again)] == [("dr", "d1")]


def test_within_its_site_a_vm_takes_its_settings_along(told: Told) -> None:
    moved = VmMoved("vm-1", "primary", "p2", MoveKind.LIVE, NOW, cluster="primary-cluster", sequence=9)
    after = carry_out(told.state, moved)
    assert not commands(after)
    (said,) = after.of(SettingsStanding)
    assert (said.node, said.standing) == ("p2", Standing.IN_SYNC)


def test_a_change_made_while_a_run_has_the_vm_waits_for_its_end(told: Told) -> None:
    after = carry_out(told.state, asked(FailoverKind.PLANNED), change(frequency_s="30s"))
    assert [(command.site, command.node, command.epoch) for command in commands(after)] == [("dr", "d1", 2)]
    assert after.of(StepCommand)[-1].action is Action.APPLY_SETTINGS
    assert [said.standing for said in after.of(SettingsStanding)] == [Standing.APPLYING, Standing.APPLYING, IN_SYNC]


def test_a_change_made_while_a_run_fails_is_told_where_the_vm_has_stayed(told: Told) -> None:
    def answers(command: StepCommand) -> StepOutcome:
        return StepOutcome.REFUSED if command.action is Action.PREPARE else StepOutcome.DONE

    after = carry_out(told.state, asked(FailoverKind.PLANNED), change(frequency_s="30s"), answers=answers)
    assert [(command.site, command.epoch) for command in commands(after)] == [("primary", 2)]


def test_time_alone_does_not_tell_a_vm_that_a_run_has_in_hand(told: Told) -> None:
    state = fold(told.state, asked(FailoverKind.PLANNED), change(frequency_s="30s"))
    looked = tick(state, KEY, moment(due_ms(state[KEY])))
    assert not looked.outputs
    later = looked.kept[KEY]
    assert later is not None
    assert due_ms(later) > due_ms(state[KEY])


def test_drift_of_a_vm_is_told_and_put_right_as_the_policy_says(told: Told) -> None:
    drifted = carry_out(told.state, seen("primary", "p1", VmReplication(), NOW + 60_000), at_ms=NOW + 60_000)
    assert stands(drifted.state) is Standing.DRIFTED
    (alert,) = drifted.of(Alert)
    assert alert.what == "VM vm-1 on p1 has other replication settings than were set: frequency_s is 5m"
    assert not commands(drifted)
    corrected = carry_out(told.state, change(on_drift="CORRECT"), at_ms=NOW + 1_000)
    after = carry_out(corrected.state, seen("primary", "p1", VmReplication(), NOW + 60_000), at_ms=NOW + 60_000)
    assert len(commands(after)) == 1
    assert stands(after.state) is Standing.IN_SYNC


def test_what_another_site_says_of_a_vm_is_no_drift(told: Told) -> None:
    after = carry_out(told.state, seen("dr", "d1", VmReplication(), NOW + 60_000), at_ms=NOW + 60_000)
    assert not after.outputs


def test_how_a_replication_began_cannot_be_read_back(told: Told) -> None:
    begun = replace(WANTED, initial_start_at_ms=7)
    assert not carry_out(told.state, seen("primary", "p1", begun, NOW + 60_000), at_ms=NOW + 60_000).outputs


def test_while_a_run_has_the_vm_nothing_that_is_seen_counts(told: Told) -> None:
    state = fold(told.state, asked(FailoverKind.PLANNED))
    assert not carry_out(state, seen("primary", "p1", VmReplication(), NOW + 60_000), at_ms=NOW + 60_000).outputs
