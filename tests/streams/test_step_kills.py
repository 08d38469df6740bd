"""A worker killed after each step of each workflow: the run is taken up within ten seconds, and ends as it would have.

Every workflow is brought to one of its steps, each on a VM of its own, and held there: the command is issued and its
agent waits. Then the only worker is killed, another one started, and the agents may go on. `make test` does so at two
steps of each workflow; `make chaos` at every step, with the session time-out that workers have by default:

    python tests/streams/test_step_kills.py
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sites import (
    SITES,
    Follower,
    asked,
    known_to_the_broker,
    make_world,
    publish_settings,
    word,
)
from topics import CODEC, publisher
from workers import SESSION_TIMEOUT_S, Workers, running_workers, say, until

from failover_orch.config import Settings
from failover_orch.domain import (
    WORKFLOWS,
    CommitPolicy,
    FailoverKind,
    FailoverRequested,
    NodeState,
    RequestAction,
    StepCommand,
)
from failover_orch.hypervisors.simulated import SimulatedHypervisor, SimulatedWorld
from failover_orch.kafka import LocalKafka, create_topics, desired_topics
from failover_orch.site import AgentOptions, SiteAgent

RESUMES_WITHIN_S = 10.0
WITHIN_S = 120.0
LOST = "p-lost"
"""The node whose VMs are failed over unplanned: it stays down."""
BACK = "p-back"
"""The node that is down for a while: its VMs are reprotected."""
_PLANNED, _UNPLANNED, _TEST, _REPROTECT, _FAILBACK = FailoverKind
NODES = {_PLANNED: "p-1", _UNPLANNED: LOST, _TEST: "p-1", _REPROTECT: BACK, _FAILBACK: "p-2"}


@dataclass(frozen=True, slots=True)
class Round:
    """Workflows, and the step of each after whose issue the worker is killed. `name` tells its VMs from others'."""

    name: str
    steps: Mapping[FailoverKind, str]

    def vm(self, kind: FailoverKind) -> str:
        return f"{self.name}-{kind.lower()}"

    def run(self, kind: FailoverKind) -> str:
        return f"run-{self.vm(kind)}"


UNDISTURBED = Round("undisturbed", dict.fromkeys(FailoverKind, ""))
SHORT = (
    Round("short-1", {_PLANNED: "P4", _UNPLANNED: "U3", _TEST: "T1", _REPROTECT: "B5", _FAILBACK: "P2"}),
    Round("short-2", {_PLANNED: "P7", _UNPLANNED: "U7", _TEST: "T4", _REPROTECT: "B7", _FAILBACK: "P8"}),
)


def every_step() -> tuple[Round, ...]:
    """Rounds in which each workflow is at each of its steps once."""
    most = max(len(workflow.steps) for workflow in WORKFLOWS.values())
    return tuple(
        Round(
            f"step-{index}",
            {kind: workflow.steps[index].number for kind, workflow in WORKFLOWS.items() if index < len(workflow.steps)},
        )
        for index in range(most)
    )


@dataclass(slots=True)
class Holds:
    """Which steps of which runs an agent does not begin before it may."""

    held: dict[tuple[str, str], asyncio.Event] = field(default_factory=dict)
    reached: set[tuple[str, str]] = field(default_factory=set)

    def hold(self, run_id: str, step: str) -> None:
        self.held[run_id, step] = asyncio.Event()

    def release(self) -> None:
        for event in self.held.values():
            event.set()

    async def pass_by(self, command: StepCommand) -> None:
        key = (command.run_id, command.step)
        if key in self.held:
            self.reached.add(key)
            await self.held[key].wait()


class HeldHypervisor(SimulatedHypervisor):
    """A simulated hypervisor that is told when it may begin."""

    def __init__(self, world: Path, site: str, holds: Holds) -> None:
        super().__init__(world, site)
        self._holds = holds

    async def perform(self, command: StepCommand) -> Mapping[str, str]:
        await self._holds.pass_by(command)
        return await super().perform(command)


@dataclass(slots=True)
class Bench:
    """A running installation with one worker."""

    settings: Settings
    world: SimulatedWorld
    holds: Holds
    workers: Workers
    follower: Follower
    resumed_s: dict[str, float] = field(default_factory=dict)
    """By step and run, how long after the kill its next snapshot was there."""

    async def say(self, *requests: FailoverRequested) -> None:
        async with publisher(self.settings) as publishing:
            await publishing.publish(*requests)

    async def ended(self, run_ids: Sequence[str]) -> None:
        """Wait until runs have ended."""

        def left() -> list[Any]:
            runs = [self.follower.run(run_id) for run_id in run_ids if not self.follower.ended(run_id)]
            return [[run.get(name) for name in ("run_id", "state", "waits_for", "steps")] for run in runs]

        try:
            await until(lambda: not left(), "runs end", timeout_s=WITHIN_S)
        except AssertionError:
            say(*left())
            raise

    def outline(self, vm_id: str, run_id: str) -> tuple[Any, ...]:
        """What is to be the same with and without a kill: how the run ended, its steps, and every effect, in order."""
        run = self.follower.run(run_id)
        steps = [(step["step"], step["state"]) for step in run["steps"]]
        effects = [(effect.site, effect.action) for effect in self.world.effects(vm_id, run_id)]
        ends = [(end.site, end.mode, end.state, end.power) for end in self.world.ends(vm_id)]
        return run["state"], run["detail"], steps, effects, ends, len(run["addresses"])


@asynccontextmanager
async def bench(
    settings: Settings, directory: Path, rounds: Sequence[Round], *, session_timeout_s: float
) -> AsyncIterator[Bench]:
    """An installation with the VMs of these rounds, each where its workflow begins."""
    vms = {each.vm(kind): (NODES[kind], "d-1") for each in rounds for kind in each.steps}
    path = directory / "world.db"
    world = make_world(path, vms, boot_ms=50, shutdown_ms=20)
    holds = Holds()
    async with AsyncExitStack() as stack:
        workers = stack.enter_context(running_workers(settings, directory, 1, session_timeout_s=session_timeout_s))
        for site in SITES:
            await stack.enter_async_context(_agent(settings, path, site, holds))
        follower = stack.enter_context(Follower(settings, "failover-runs", "health-changes"))
        stack.callback(world.close)
        here = Bench(settings, world, holds, workers, follower)
        await known_to_the_broker(follower, list(vms), fit=lambda change: change["defects"] != [])
        await publish_settings(settings, list(vms))
        await known_to_the_broker(follower, list(vms))
        await _prepare(here, rounds)
        yield here


@asynccontextmanager
async def _agent(settings: Settings, world: Path, site: str, holds: Holds) -> AsyncIterator[None]:
    # A step that is held has its turn on the node: there are as many turns as steps that may be held.
    options = AgentOptions(report_every=1.0, per_node=1_000, evidence_every=0, grace=1.0)
    hypervisor = HeldHypervisor(world, site, holds)
    agent = SiteAgent(
        hypervisor,
        CODEC,
        bootstrap=settings.bootstrap,
        names=settings.names,
        partitions=settings.partitions,
        app_id=settings.app_id,
        options=options,
    )
    running = asyncio.create_task(agent.run())
    try:
        yield
        assert not running.done(), running
    finally:
        agent.stop()
        holds.release()
        with suppress(asyncio.CancelledError):
            await running
        hypervisor.close()


async def _prepare(here: Bench, rounds: Sequence[Round]) -> None:
    """Bring VMs to where their workflows begin: failed over, planned or not, and their nodes down or up again."""
    for node in (LOST, BACK):
        here.world.set_node(node, NodeState.DOWN)
    before = [
        asked(_PLANNED if kind is _FAILBACK else _UNPLANNED, f"before-{each.vm(kind)}", vm_id=each.vm(kind))
        for each in rounds
        for kind in (_FAILBACK, _REPROTECT)
        if kind in each.steps
    ]
    await here.say(*before)
    await here.ended([request.run_id for request in before])
    for request in before:
        assert here.follower.run(request.run_id)["state"] == "SUCCEEDED", here.follower.run(request.run_id)
    here.world.set_node(BACK, NodeState.UP)
    await known_to_the_broker(here.follower, [each.vm(_FAILBACK) for each in rounds if _FAILBACK in each.steps])


async def undisturbed(here: Bench) -> dict[FailoverKind, tuple[Any, ...]]:
    """How each workflow ends where nothing comes between."""
    await here.say(*(_request(UNDISTURBED, kind) for kind in FailoverKind))
    await here.ended([UNDISTURBED.run(kind) for kind in FailoverKind])
    return {kind: here.outline(UNDISTURBED.vm(kind), UNDISTURBED.run(kind)) for kind in FailoverKind}


async def kill_at(here: Bench, each: Round) -> None:
    """Kill the worker once every workflow of a round is at its step, and see all of them go on."""
    for kind, step in each.steps.items():
        here.holds.hold(each.run(kind), step)
    await here.say(*(_request(each, kind) for kind in each.steps))
    await until(lambda: all(_at(here, each, kind) for kind in each.steps), f"{each.name} is at its steps")
    seen = {kind: _snapshots(here, each.run(kind)) for kind in each.steps}
    killed_s = time.monotonic()
    here.workers.kill(0)
    here.workers.start(0)
    here.holds.release()
    # What waits for a word is told it while there is no worker.
    windows = [here.follower.run(each.run(kind)) for kind in each.steps if _is_window(kind, each.steps[kind])]
    if windows:
        await here.say(*(word(RequestAction.COMMIT, run) for run in windows))
    await here.ended([each.run(kind) for kind in each.steps])
    for kind, step in each.steps.items():
        next_s = [
            record.at_s for record in here.follower.seen("failover-runs") if record.value["run_id"] == each.run(kind)
        ][seen[kind]]
        here.resumed_s[f"{kind.lower()} {step}"] = next_s - killed_s


def _request(each: Round, kind: FailoverKind) -> FailoverRequested:
    # A window that the worker is to be killed at stays open until a person says so.
    commit = CommitPolicy.HOLD if _is_window(kind, each.steps[kind]) else CommitPolicy.AT_ONCE
    return asked(kind, each.run(kind), vm_id=each.vm(kind), commit=commit)


def _is_window(kind: FailoverKind, number: str) -> bool:
    return any(step.number == number and step.action is None for step in WORKFLOWS[kind].steps)


def _at(here: Bench, each: Round, kind: FailoverKind) -> bool:
    """Whether a run's step is issued, as readers see it, and its agent or window holds it."""
    step = each.steps[kind]
    run = here.follower.run(each.run(kind))
    issued = any(found["step"] == step and found["state"] == "ISSUED" for found in run.get("steps", ()))
    return issued and (_is_window(kind, step) or (each.run(kind), step) in here.holds.reached)


def _snapshots(here: Bench, run_id: str) -> int:
    return sum(value["run_id"] == run_id for value in here.follower.values("failover-runs"))


def differences(here: Bench, rounds: Sequence[Round], expected: Mapping[FailoverKind, tuple[Any, ...]]) -> list[str]:
    """In what runs that were disturbed are not as undisturbed ones."""
    found = [f"{vm_id} ran at both sites" for vm_id in here.world.ran_twice()]
    for each in rounds:
        for kind, step in each.steps.items():
            outline = here.outline(each.vm(kind), each.run(kind))
            if outline != expected[kind]:
                found.append(f"{kind} killed at {step}: {outline}, and not {expected[kind]}")
    return found


async def test_a_run_whose_worker_is_killed_at_a_step_is_taken_up_and_ends_as_it_would_have(
    settings: Settings, tmp_path: Path
) -> None:
    async with bench(settings, tmp_path, (UNDISTURBED, *SHORT), session_timeout_s=SESSION_TIMEOUT_S) as here:
        expected = await undisturbed(here)
        assert {outline[0] for outline in expected.values()} == {"SUCCEEDED"}, expected
        for each in SHORT:
            await kill_at(here, each)
        say(*_table(here))
        assert differences(here, SHORT, expected) == []


def test_the_long_form_is_at_every_step_of_every_workflow() -> None:
    at = [(kind, step) for each in every_step() for kind, step in each.steps.items()]
    assert sorted(at) == sorted((kind, step.number) for kind, each in WORKFLOWS.items() for step in each.steps)


def _table(here: Bench) -> list[str]:
    return [f"{step:<16} resumed {seconds:5.1f} s after the kill" for step, seconds in here.resumed_s.items()]


async def _long(session_timeout_s: float) -> int:
    logging.disable(logging.CRITICAL)  # agents run in this process, and say that their Kafka has just been started
    with tempfile.TemporaryDirectory(prefix="failover-orch-steps-", ignore_cleanup_errors=True) as directory:
        kafka = LocalKafka(Path(directory) / "kafka", brokers=1)
        try:
            await asyncio.to_thread(kafka.start)
            settings = Settings(bootstrap=kafka.bootstrap, app_id="steps", topic_prefix="steps-", partitions=4)
            await create_topics(settings.bootstrap, desired_topics(settings, SITES, 1))
            rounds = every_step()
            async with bench(
                settings, Path(directory), (UNDISTURBED, *rounds), session_timeout_s=session_timeout_s
            ) as here:
                expected = await undisturbed(here)
                for each in rounds:
                    await kill_at(here, each)
                found = differences(here, rounds, expected)
                table, late = _table(here), [at for at, s in here.resumed_s.items() if s > RESUMES_WITHIN_S]
        finally:
            await asyncio.to_thread(kafka.stop, grace_s=0)
    longest = max(here.resumed_s.values())
    say(
        *table,
        f"{len(rounds)} kills at {len(table)} steps, session time-out {session_timeout_s:g} s: the last to resume "
        f"did so {longest:.1f} s after its kill; {len(late)} later than {RESUMES_WITHIN_S:g} s; "
        f"{len(found)} differences from undisturbed runs",
        *found,
    )
    return 1 if found or late else 0


def main() -> int:
    """Kill at every step; exits 1 where a run resumes late, or does not end as an undisturbed one does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--session-timeout", type=float, default=Settings().session_timeout)
    return asyncio.run(_long(parser.parse_args().session_timeout))


if __name__ == "__main__":
    sys.exit(main())
