"""Plans under faults: the short form of `make chaos`; and that its oracle sees what it is there to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_chaos import SHORT, UNREAD_AT_MOST_S, Readers, long_form, plan, plan_chaos
from plan_oracle import (
    astray,
    effects_of_runs,
    lines_doubled_or_missing,
    map_astray,
    plans_astray,
    should_be_at,
    told_out_of_order,
)
from process_faults import Faults
from sites import make_world
from workers import say

from failover_orch.config import Settings
from failover_orch.domain import Action
from failover_orch.hypervisors.simulated import Effect

MOVED = (
    Action.STAGE_ADDRESSES,
    Action.SHUT_DOWN,
    Action.PREPARE,
    Action.FAIL_OVER,
    Action.REVERSE,
    Action.CONNECT_ADAPTERS,
    Action.START,
)
AT_THE_PRIMARY = (Action.SHUT_DOWN, Action.PREPARE, Action.CANCEL_PREPARE)


async def test_plans_run_to_their_ends_while_workers_and_agents_are_killed_and_paused(
    settings: Settings, tmp_path: Path
) -> None:
    outcome = await plan_chaos(settings, tmp_path, SHORT)
    say(outcome)
    assert outcome.sound, outcome


def run_of(run_id: str, state: str = "SUCCEEDED", *, kind: str = "PLANNED", at: int = 1, to: str = "dr") -> Any:
    return {
        "run_id": run_id,
        "kind": kind,
        "state": state,
        "vm_id": "vm-0",
        "from_site": "primary" if to == "dr" else "dr",
        "to_site": to,
        "started_at_ms": at,
        "finished_at_ms": at + 1,
        "parent_run_id": run_id.partition("/")[0],
    }


def effects_of(run_id: str, *actions: Action) -> list[Effect]:
    return [
        Effect("primary" if action in AT_THE_PRIMARY else "dr", "vm-0", action, 1, run_id, action, 1, 0)
        for action in actions
    ]


def runs_of(*runs: Mapping[str, Any]) -> dict[str, Any]:
    return {run["run_id"]: run for run in runs}


def test_what_was_done_once_and_stands_is_right() -> None:
    assert effects_of_runs(effects_of("r/vm-0", *MOVED), runs_of(run_of("r/vm-0"))) == []


def test_what_was_undone_and_done_again_in_another_round_is_right() -> None:
    undone = [
        *effects_of("r/vm-0", *MOVED[:4], Action.CANCEL_FAILOVER, Action.CANCEL_PREPARE),
        replace(effects_of("r/vm-0", Action.START)[0], site="primary"),
    ]
    again = effects_of("r/vm-0~2", *MOVED[1:])
    runs = runs_of(run_of("r/vm-0", "FAILED"), run_of("r/vm-0~2", at=10))
    assert effects_of_runs([*undone, *again], runs) == []


@pytest.mark.parametrize(
    ("effects", "runs", "said"),
    [
        (effects_of("r", *MOVED, Action.START), runs_of(run_of("r")), "START twice"),
        (effects_of("r", *MOVED[:-1]), runs_of(run_of("r")), "SUCCEEDED without START"),
        (effects_of("r", *MOVED[:3]), runs_of(run_of("r", "CANCELLED")), "CANCELLED and left PREPARE, SHUT_DOWN"),
        (effects_of("r", Action.CANCEL_FAILOVER), runs_of(run_of("r", "CANCELLED")), "had not been done"),
        (
            [*effects_of("r", *MOVED[:5]), *effects_of("s", *MOVED), *effects_of("r", *MOVED[5:])],
            runs_of(run_of("r"), run_of("s", at=10)),
            "r took effect after s had",
        ),
        (effects_of("x", Action.START), {}, "a run that nobody knows"),
        (
            effects_of("r", Action.CREATE_TEST, Action.START_TEST),
            runs_of(run_of("r", "CANCELLED", kind="TEST")),
            "left CREATE_TEST, START_TEST",
        ),
    ],
    ids=["twice", "missing", "left", "undone", "astray", "unknown", "copy left"],
)
def test_what_the_ledger_must_not_say_is_found(effects: list[Effect], runs: dict[str, Any], said: str) -> None:
    found = effects_of_runs(effects, runs)
    assert any(said in each for each in found), found


def test_a_vm_is_to_be_where_its_last_run_that_moved_it_has_put_it() -> None:
    out, back = run_of("r1", at=1), run_of("r2", at=10, to="primary")
    cancelled, tested = run_of("r3", "CANCELLED", at=20), run_of("r4", kind="TEST", at=30)
    assert should_be_at("vm-0", []) == "primary"
    assert should_be_at("vm-0", [out, cancelled, tested]) == "dr"
    assert should_be_at("vm-0", [back, out, cancelled]) == "primary"


def test_a_vm_that_is_elsewhere_or_under_other_addresses_is_found(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world.db", {"vm-0": ("p-1", "d-1"), "vm-1": ("p-1", "d-1")})
    ends = {end.site: end for end in world.ends("vm-1")}
    world.close()
    assert astray(1, ends, "primary") == []
    assert "has [('10.10.0.11/16',)] at primary" in astray(0, ends, "primary")[0]
    assert len(astray(1, ends, "dr")) == 3
    known = [{"site": "primary", "node": "p-1", "role": "PRIMARY"}, {"site": "dr", "node": "d-1", "role": "REPLICA"}]
    assert map_astray(ends, "primary", {"vm_id": "vm-1", "locations": known}) == []
    assert map_astray(ends, "dr", {"vm_id": "vm-1", "locations": known}) != []


def test_plans_that_say_what_is_not_so_and_lines_that_are_twice_there_are_found() -> None:
    steps = [{"step": "vm-0", "state": "DONE"}, {"step": "g/after/s", "state": "DONE"}]
    said = {"run_id": "r", "steps": steps}
    assert plans_astray([said], runs_of(run_of("r/vm-0"))) == []
    assert plans_astray([said], runs_of(run_of("r/vm-0", "FAILED"))) != []
    assert lines_doubled_or_missing(["r g/after/s 1", "r g/after/s 2"], [said], ["g/after/s"]) == []
    assert lines_doubled_or_missing(["r g/after/s 1"] * 2, [said], ["g/after/s"]) != []
    assert lines_doubled_or_missing([], [said], ["g/after/s"]) != []
    assert told_out_of_order([{"vm_id": "a", "epoch": 2}, {"vm_id": "b", "epoch": 1}, {"vm_id": "a", "epoch": 3}]) == []
    assert told_out_of_order([{"vm_id": "a", "epoch": 2}, {"vm_id": "a", "epoch": 2}]) != []


def test_a_partition_that_nobody_reads_is_found() -> None:
    assert Readers(2, {0: 1.0, 1: UNREAD_AT_MOST_S}).unread() == []
    assert Readers(2, {0: 1.0, 1: UNREAD_AT_MOST_S + 1}).unread() == ["nobody read partition 1 for 91 s"]


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_gives_the_same_faults_again_and_the_long_form_has_thirty(seed: int) -> None:
    faults = long_form(50, seed).faults
    assert (faults.processes(), faults.brokers()) == (
        long_form(50, seed).faults.processes(),
        long_form(50, seed).faults.brokers(),
    )
    assert len(faults.processes()) + len(faults.brokers()) >= 30
    assert Faults(1, 1, 1, 1).brokers() == []


def test_a_plan_holds_each_of_its_vms_once() -> None:
    vm_ids = [f"vm-{number}" for number in range(50)]
    groups = plan("erp", vm_ids).groups
    assert [vm_id for group in groups for vm_id in sorted(group.vm_ids, key=vm_ids.index)] != []
    assert sorted(vm_id for group in groups for vm_id in group.vm_ids) == sorted(vm_ids)
