"""Workers that come and go, one whose run nobody answers, and one that Faust's own command starts."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from chaos import Oracle, moves
from topics import publisher, values, values_once
from workers import Workers, running_workers, until

from failover_orch.config import Settings
from failover_orch.domain import (
    Action,
    FailoverKind,
    FailoverRequested,
    Guest,
    MoveKind,
    Replication,
    ReplicationState,
    RequestAction,
    StepCommand,
    VmInventory,
    VmMoved,
)
from failover_orch.streams import EXIT_FAULT

VMS = 40
ROUNDS = 100
ALL = {0, 1, 2, 3}


def opened(workers: Workers, number: int) -> list[int]:
    """The partitions that a worker has opened, each as often as it did."""
    return [event["partition"] for event in workers.events(number) if event["event"] == "partition opened"]


async def test_a_worker_that_comes_and_goes_loses_nothing_and_restores_only_what_changes_hands(
    settings: Settings, tmp_path: Path
) -> None:
    sent = list(moves(VMS * ROUNDS, vms=VMS))
    oracle = Oracle(settings)
    with running_workers(settings, tmp_path, 1) as workers:
        await until(lambda: workers.reads(0) == ALL, "the first reads everything")

        async def feed() -> None:
            async with publisher(settings) as publishing:
                for first in range(0, len(sent), 20):
                    pause = asyncio.create_task(asyncio.sleep(0.05))
                    await publishing.publish(*sent[first : first + 20])
                    await pause

        feeding = asyncio.create_task(feed())
        workers.start()
        await until(lambda: len(workers.reads(0)) == len(workers.reads(1)) == 2, "each reads half")
        kept, lent = workers.reads(0), workers.reads(1)
        assert kept | lent == ALL
        assert sorted(opened(workers, 0)) == sorted(ALL)
        assert workers.stop(1) == 0
        await until(lambda: workers.reads(0) == ALL, "the first reads everything again")
        assert sorted(opened(workers, 0)) == sorted([*ALL, *lent])
        await feeding
        while oracle.count < VMS * ROUNDS:
            assert await asyncio.to_thread(oracle.read, 30.0), f"{oracle.count} updates, and no more come"
        assert oracle.epochs == {f"vm-{vm}": list(range(1, ROUNDS + 1)) for vm in range(VMS)}
        assert workers.left == []
        assert workers.said_at_the_end() == []
        assert workers.stop(0) == 0
    oracle.close()


async def test_a_step_that_nobody_answers_is_issued_again_though_its_worker_was_killed(
    settings: Settings, tmp_path: Path
) -> None:
    """The time-out is state: whoever takes the partition over fires it. Step U1 has 15 s."""
    replication = Replication(ReplicationState.REPLICATING, "primary", "dr")
    inventory = VmInventory("vm", "vm", (), Guest("rhel-9"), replication, reported_at_ms=1)
    request = FailoverRequested(
        "run-1", RequestAction.REQUEST, FailoverKind.UNPLANNED, "alice", "test", 1, vm_id="vm", primary_is_down=True
    )

    def attempts(commands: list[Any]) -> list[tuple[str, Action, int]]:
        return [(command.step, command.action, command.attempt) for command in commands]

    with running_workers(settings, tmp_path, 1) as workers:
        async with publisher(settings) as publishing:
            await publishing.publish(inventory, VmMoved("vm", "dr", "d1", MoveKind.PLACED, 1))
            await values_once(settings, "routing-updates", lambda updates: len(updates) == 2)
            await publishing.publish(request)
        (first,) = await values_once(settings, "step-commands.dr", bool)
        workers.kill(0)
        workers.start(0)
        found = await values_once(settings, "step-commands.dr", lambda commands: len(commands) == 2)
        assert attempts(found) == [("U1", Action.CHECK_PRIMARY, 1), ("U1", Action.CHECK_PRIMARY, 2)]
        second: StepCommand = found[1]
        assert second.issued_at_ms >= first.deadline_ms
        entries = [entry.what for entry in await values(settings, "failover-journal")]
        assert sum(entry.startswith("U1 failed, tried again") for entry in entries) == 1
        assert [entry.sequence for entry in await values(settings, "failover-journal")] == list(range(len(entries)))


SLOW_TO_CONNECT = """
import asyncio
from failover_orch.config import Settings
from failover_orch.streams import app, partition
from failover_orch.worker import run_worker

app.REQUEST_TIMEOUT_S = 6.0

async def start_client(client, bootstrap):
    # As when a broker is paused: it goes on to the end, though the caller be cancelled.
    connecting = asyncio.ensure_future(asyncio.sleep(3600))
    while not connecting.done():
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            pass

partition.start_client = start_client
run_worker(Settings.from_environment())
"""


async def test_a_worker_that_cannot_take_up_its_partitions_in_time_ends_itself(
    settings: Settings, tmp_path: Path
) -> None:
    """It would keep them, and its heartbeats, and read nothing for good: Faust takes up no later rebalance."""
    with running_workers(settings, tmp_path, 1, (sys.executable, "-c", SLOW_TO_CONNECT)) as workers:
        await until(lambda: bool(workers.left), "the worker ends itself")
        assert workers.left[0] == EXIT_FAULT
        assert "could not be taken up in time" in workers.said_at_the_end()[0]


async def test_fausts_own_command_runs_a_worker_too(settings: Settings, tmp_path: Path) -> None:
    faust = (str(Path(sys.executable).with_name("faust")), "-A", "failover_orch.worker", "worker", "-l", "info")
    with running_workers(settings, tmp_path, 1, faust) as workers:
        async with publisher(settings) as publishing:
            await publishing.publish(VmMoved("vm", "dr", "d1", MoveKind.PLACED, 1))
        (update,) = await values_once(settings, "routing-updates", bool)
        assert (update.vm_id, update.epoch, update.changed.node) == ("vm", 1, "d1")
        assert workers.left == []
        assert workers.stop(0) == 0
