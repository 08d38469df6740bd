"""Plans of VMs run while workers, site agents and brokers are killed and paused; then an oracle counts what was done.

Two plans, each a graph of groups with limits, gates and scripts, on one simulated world. One is tested, failed over,
failed back and cancelled; the other loses its nodes, is failed over unplanned, reprotected and failed back. A person
stands by and says the word that fits to whatever waits for one. The oracle reads what the hypervisors wrote into the
world's ledger, and what readers see: runs, routes, chains.

    python tests/streams/plan_chaos.py
    python tests/streams/plan_chaos.py --seed 7 --vms 50 --brokers 3
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from plan_oracle import (
    astray,
    effects_of_runs,
    lines_doubled_or_missing,
    map_astray,
    plans_astray,
    should_be_at,
    told_out_of_order,
    unfinished,
)
from process_faults import Faults, Struck, strike_brokers, strike_processes
from sites import (
    DR,
    PRIMARY,
    SITES,
    Follower,
    asked,
    known_to_the_broker,
    make_world,
    now_ms,
    publish_settings,
    ready,
    running_agents,
    word,
)
from topics import CODEC, publisher
from workers import Workers, running_workers, say, until

from failover_orch.audit import verify_topics
from failover_orch.config import Settings
from failover_orch.domain import (
    CommitPolicy,
    FailoverKind,
    FailoverRequested,
    Gate,
    GateKind,
    NodeState,
    PlanAction,
    PlanActionKind,
    RecoveryGroup,
    RecoveryPlan,
    ReplicationMode,
    RequestAction,
    RunState,
)
from failover_orch.hypervisors.simulated import SimulatedWorld
from failover_orch.kafka import LocalKafka, create_topics, desired_topics

__all__ = ["SHORT", "UNREAD_AT_MOST_S", "Outcome", "Readers", "Size", "long_form", "plan", "plan_chaos"]

_PLANNED, _UNPLANNED, _TEST, _REPROTECT, _FAILBACK = FailoverKind
WINDOW_MS = 3_000
ITSELF = f" in {WINDOW_MS // 1000} s"
"""What a run says that waits for a person, but goes on by itself when its window is over."""
RUN_WITHIN_S = 600.0
ROUNDS = 8
"""How often a plan that ended with failures is resumed at most."""
UNREAD_AT_MOST_S = 90.0
"""How long a partition may have no reader: a paused broker, a worker that gives up for it, and the next one's start."""
SAID_AGAIN_S = 15.0
"""A word that changed nothing for so long is said again."""
SHARES = {"foundation": 0.1, "databases": 0.2, "apps": 0.4, "edge": 0.2}
"""Which part of a plan's VMs each group has; the last group, `web`, has the rest."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large it all is, and which faults strike. `every`: records between two faults, at least and at most."""

    vms: int
    """Of each plan."""
    faults: Faults
    every: tuple[int, int]
    brokers_every: tuple[int, int]
    scenes: tuple[FailoverKind, ...]
    """What the first plan goes through before it is cancelled."""
    cancels: bool
    workers: int = 3
    agents: int = 2


def long_form(vms: int, seed: int) -> Size:
    """Of `make chaos`: 34 faults."""
    return Size(
        vms=vms,
        faults=Faults(
            worker_kills=9, worker_pauses=5, agent_kills=8, agent_pauses=4, broker_kills=4, broker_pauses=4, seed=seed
        ),
        every=(150, 700),
        brokers_every=(300, 900),
        scenes=(_TEST, _PLANNED, _FAILBACK),
        cancels=True,
    )


SHORT = Size(
    vms=5,
    faults=Faults(worker_kills=1, worker_pauses=1, agent_kills=1, agent_pauses=1),
    every=(15, 40),
    brokers_every=(0, 0),
    scenes=(_TEST, _PLANNED),
    cancels=False,
    workers=2,
)


@dataclass(slots=True)
class Outcome:
    """What the oracle found. `violations` must be empty; figures and notes tell what happened."""

    violations: list[str]
    figures: dict[str, object]
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.violations

    def __str__(self) -> str:
        width = max(map(len, self.figures))
        lines = [f"{name:<{width}}  {value}" for name, value in self.figures.items()]
        return "\n".join([*lines, *self.notes, f"{len(self.violations)} violations", *self.violations])


def plan(plan_id: str, vm_ids: Sequence[str]) -> RecoveryPlan:
    """Five groups: databases and edge after the foundation, apps after the databases, web after apps and edge."""
    members: dict[str, tuple[str, ...]] = {}
    first = 0
    for name, share in SHARES.items():
        last = first + round(len(vm_ids) * share)
        members[name] = tuple(vm_ids[first:last])
        first = last
    members["web"] = tuple(vm_ids[first:])
    groups = (
        RecoveryGroup("foundation", members["foundation"], (), before=(_script("announce", PRIMARY),)),
        RecoveryGroup("databases", members["databases"], ("foundation",), gates=(Gate(GateKind.POWER),)),
        RecoveryGroup("edge", members["edge"], ("foundation",), after=(_script("announce", DR),)),
        RecoveryGroup("apps", members["apps"], ("databases",), gates=(Gate(GateKind.TCP_PORT, port=443),)),
        RecoveryGroup(
            "web",
            members["web"],
            ("apps", "edge"),
            before=(_script("open", DR),),
            after=(_script("announce", PRIMARY),),
            gates=(Gate(GateKind.HEARTBEAT),),
        ),
    )
    return RecoveryPlan(
        plan_id,
        plan_id,
        groups,
        actor="alice",
        reason="a test",
        set_at_ms=now_ms(),
        max_in_flight=max(2, len(vm_ids) // 4),
        per_node=3,
    )


def _script(name: str, site: str) -> PlanAction:
    return PlanAction(name, PlanActionKind.SCRIPT, site, command=("note",), timeout_ms=20_000, attempts=3)


SCRIPTS = ("foundation/before/announce", "edge/after/announce", "web/before/open", "web/after/announce")


@dataclass(slots=True)
class Stage:
    """A running installation, its world, and the person who stands by."""

    settings: Settings
    world: SimulatedWorld
    lines: Path
    follower: Follower
    numbers: Callable[[], int] = field(default_factory=lambda: count(1).__next__)
    waited: Counter[str] = field(default_factory=Counter)
    """Who was waited for and what they said, how often."""
    resumed: Counter[str] = field(default_factory=Counter)
    durations_s: dict[str, float] = field(default_factory=dict)
    told: dict[tuple[Any, ...], float] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)

    async def publish(self, *values: object) -> None:
        async with publisher(self.settings) as publishing:
            await publishing.publish(*values)

    def written(self) -> list[str]:
        return self.lines.read_text().splitlines() if self.lines.exists() else []

    def plans(self) -> list[Mapping[str, Any]]:
        """The latest snapshots of plans' and lists' runs."""
        return [run for run in self.follower.runs().values() if not run["vm_id"]]

    # The scenes

    async def carry_out(self, kind: FailoverKind, plan_id: str, vm_ids: Sequence[str]) -> None:
        """Run a plan to its end; what fails for the faults is resumed once its VMs are fit for it."""
        if kind in (_PLANNED, _FAILBACK, _TEST):
            await known_to_the_broker(self.follower, vm_ids, fit=ready)
        began = time.monotonic()
        request = await self._begun(kind, plan_id, vm_ids)
        for _ in range(ROUNDS):
            await until(lambda: self.follower.ended(request.run_id), f"{request.run_id} ends", timeout_s=RUN_WITHIN_S)
            run = self.follower.run(request.run_id)
            if run["state"] == RunState.SUCCEEDED:
                break
            self.resumed[f"{request.run_id} {run['state']}: {run['detail']}"] += 1
            await self.publish(word(RequestAction.RESUME, run))
            await until(
                lambda: self.follower.run(request.run_id) != run,  # noqa: B023 (waited for before the next round)
                f"{request.run_id} is resumed",
                timeout_s=RUN_WITHIN_S,
            )
        self.durations_s[request.run_id] = time.monotonic() - began

    async def cancel(self, kind: FailoverKind, plan_id: str, vm_ids: Sequence[str]) -> None:
        """Begin a plan, and cancel it when a third of its VMs is done, or serves."""
        await known_to_the_broker(self.follower, vm_ids, fit=ready)
        request = await self._begun(kind, plan_id, vm_ids)
        self.cancelled.add(request.run_id)

        def far_enough() -> bool:
            steps = self.follower.run(request.run_id).get("steps", ())
            done = sum(step["step"] in vm_ids and step["state"] in ("DONE", "WAITING") for step in steps)
            return done >= len(vm_ids) // 3 or self.follower.ended(request.run_id)

        await until(far_enough, f"a third of {request.run_id} is done", timeout_s=RUN_WITHIN_S)
        await self.publish(word(RequestAction.CANCEL, self.follower.run(request.run_id)))
        await until(lambda: self.follower.ended(request.run_id), f"{request.run_id} ends", timeout_s=RUN_WITHIN_S)

    async def bring_home(self, plan_id: str, vm_ids: Sequence[str]) -> None:
        """Fail those of a plan's VMs back, as a list, that a cancelled run had moved."""
        ends = await asyncio.to_thread(self.world.ends)
        primaries = {end.vm_id: end.site for end in ends if end.mode is ReplicationMode.PRIMARY}
        away = [vm_id for vm_id in vm_ids if primaries[vm_id] == DR]
        if away:
            await self.carry_out(_FAILBACK, "", away)

    async def _begun(self, kind: FailoverKind, plan_id: str, vm_ids: Sequence[str]) -> FailoverRequested:
        run_id = f"{self.numbers():02}-{plan_id or 'list'}-{kind.lower()}"
        # Where there is a window it is left open for a while: gates then ask the copies of a test.
        window = kind in (_UNPLANNED, _TEST)
        request = asked(
            kind,
            run_id,
            plan_id=plan_id,
            vm_ids=() if plan_id else vm_ids,
            primary_is_down=kind is _UNPLANNED,
            commit=CommitPolicy.AUTO_COMMIT if window else CommitPolicy.AT_ONCE,
            window_ms=WINDOW_MS if window else 0,
        )
        await self.publish(request)
        return request

    # The person

    async def stand_by(self) -> None:
        """Say the word that fits to whatever waits for a person, until cancelled."""
        while True:
            for run in self.follower.runs().values():
                if not RunState(run["state"]).ended and run["choices"]:
                    await self._answer(run)
            await asyncio.sleep(0.2)

    async def _answer(self, run: Mapping[str, Any]) -> None:
        key = (run["run_id"], run["state"], run["waits_for"], *(step["attempt"] for step in run["steps"]))
        if time.monotonic() < self.told.get(key, 0) + SAID_AGAIN_S:
            return
        for action, step in self._words(run):
            self.told[key] = time.monotonic()
            self.waited[f"{run['run_id']} ({run['state']}) waits for {run['waits_for']}: told {action}"] += 1
            await self.publish(word(action, run, step=step))

    def _words(self, run: Mapping[str, Any]) -> list[tuple[RequestAction, str]]:
        if not run["vm_id"] and RequestAction.CONFIRM in run["choices"]:
            # Nobody knows how a script ended that an agent did not live to tell of: but the person can look.
            written = self.written()
            waiting = [step for step in run["steps"] if step["step"] in SCRIPTS and step["state"] == "WAITING"]
            return [
                (
                    RequestAction.CONFIRM
                    if f"{run['run_id']} {step['step']} {step['attempt']}" in written
                    else RequestAction.RESUME,
                    step["step"],
                )
                for step in waiting
            ]
        if run["state"] == RunState.PARKED:
            return [(RequestAction.RESUME, "")]
        if run["state"] == RunState.AWAITING_COMMIT and not run["parent_run_id"] and ITSELF not in run["waits_for"]:
            return [(RequestAction.COMMIT, "")]
        return []


@dataclass(slots=True)
class Readers:
    """Watches that every partition has a worker that reads it: one that has none stands still, whoever else works."""

    partitions: int
    longest_s: dict[int, float] = field(default_factory=dict)

    async def watch(self, workers: Workers, count: int) -> None:
        """Look on until cancelled."""
        since = dict.fromkeys(range(self.partitions), time.monotonic())
        while True:
            now = time.monotonic()
            reads = {partition for number in range(count) for partition in workers.reads(number)}
            for partition in since:
                self.longest_s[partition] = max(self.longest_s.get(partition, 0.0), now - since[partition])
            since |= dict.fromkeys(reads, now)
            await asyncio.sleep(0.5)

    def unread(self) -> list[str]:
        """Partitions that nobody read for too long."""
        late = {partition: seconds for partition, seconds in self.longest_s.items() if seconds > UNREAD_AT_MOST_S}
        return [f"nobody read partition {partition} for {seconds:.0f} s" for partition, seconds in late.items()]


async def first_plan(stage: Stage, size: Size, vm_ids: Sequence[str], striking: Callable[[], bool]) -> None:
    """Tested, failed over and back, cancelled; and on as long as faults strike."""
    for kind in size.scenes:
        await stage.carry_out(kind, "erp", vm_ids)
    if size.cancels:
        await stage.cancel(_PLANNED, "erp", vm_ids)
        await stage.bring_home("erp", vm_ids)
        await stage.cancel(_TEST, "erp", vm_ids)
        await stage.carry_out(_PLANNED, "erp", vm_ids)
    while striking():
        for kind in (_FAILBACK, _TEST, _PLANNED):
            await stage.carry_out(kind, "erp", vm_ids)


async def second_plan(stage: Stage, size: Size, vm_ids: Sequence[str], nodes: Sequence[str]) -> None:
    """Its nodes go down; failed over unplanned, kept when its window is over; reprotected and failed back."""
    for node in nodes:
        await asyncio.to_thread(stage.world.set_node, node, NodeState.DOWN)
    await stage.carry_out(_UNPLANNED, "crm", vm_ids)
    for node in nodes:
        await asyncio.to_thread(stage.world.set_node, node, NodeState.UP)
    await stage.carry_out(_REPROTECT, "crm", vm_ids)
    await stage.carry_out(_FAILBACK, "crm", vm_ids)


async def plan_chaos(settings: Settings, directory: Path, size: Size, kafka: LocalKafka | None = None) -> Outcome:
    """Let it all happen; `kafka`, if given, has its three brokers struck too. Then judge."""
    vms = {
        f"{name}-{number:02}": (f"{node}{number % 4 + 1}", f"d-{number % 4 + 1}")
        for name, node in (("erp", "p-"), ("crm", "q-"))
        for number in range(size.vms)
    }
    plans = {name: [vm_id for vm_id in vms if vm_id.startswith(name)] for name in ("erp", "crm")}
    path = directory / "world.db"
    world = make_world(path, vms)
    lines = _note_script(directory)
    struck = Struck()
    began = time.monotonic()
    with ExitStack() as stack:
        stack.callback(world.close)
        workers = stack.enter_context(running_workers(settings, directory, size.workers))
        options = ("--scripts", str(directory / "scripts"), "--report-every", "5")
        agents = stack.enter_context(running_agents(settings, directory, path, size.agents, *options))
        topics = ("failover-runs", "health-changes", "routing-updates", "dead-letters")
        follower = stack.enter_context(Follower(settings, *topics))
        stage = Stage(settings, world, lines, follower)
        await known_to_the_broker(follower, list(vms), fit=lambda change: change["defects"] != [])
        await publish_settings(settings, list(vms))
        await stage.publish(*(plan(plan_id, vm_ids) for plan_id, vm_ids in plans.items()))
        await known_to_the_broker(follower, list(vms))
        striking = [
            asyncio.create_task(
                strike_processes(
                    size.faults,
                    workers,
                    agents,
                    follower.count,
                    struck,
                    every=size.every,
                    workers_count=size.workers,
                    agents_count=size.agents,
                )
            )
        ]
        if kafka is not None:
            striking.append(
                asyncio.create_task(
                    strike_brokers(size.faults, kafka, follower.count, struck, every=size.brokers_every)
                )
            )
        readers = Readers(settings.partitions)
        watching = asyncio.create_task(readers.watch(workers, size.workers))
        standing_by = asyncio.create_task(stage.stand_by())
        nodes = sorted({here for vm_id, (here, _) in vms.items() if vm_id in plans["crm"]})
        scenes = (
            first_plan(stage, size, plans["erp"], lambda: not all(task.done() for task in striking)),
            second_plan(stage, size, plans["crm"], nodes),
        )
        await _all(scenes, [*striking, standing_by, watching])
        outcome = await _judge(stage, list(vms))
        outcome.violations += readers.unread()
        outcome.figures |= _figures(stage, struck, began)
        outcome.figures["longest that a partition had no reader"] = f"{max(readers.longest_s.values()):.0f} s"
        outcome.figures["workers that ended themselves"] = len(workers.left)
        outcome.figures["agents that ended themselves"] = sum(len(supervised.left) for supervised in agents.values())
        outcome.notes = [
            *(f"resumed: {which}" for which in stage.resumed),
            *(f"{number} times: {which}" for which, number in stage.waited.items()),
            *(f"a worker ended itself: {why}" for why in workers.said_at_the_end()),
            *(f"an agent ended itself: {words}" for each in agents.values() for words in each.last_words),
        ]
        if not outcome.sound:
            workers.show()
    return outcome


async def _all(scenes: Sequence[Awaitable[None]], beside: Sequence[asyncio.Task[None]]) -> None:
    """Play the scenes to their ends, and let what runs beside them run no longer. Whichever fails, fails all."""
    playing = [asyncio.ensure_future(scene) for scene in scenes]
    tasks = [*playing, *beside]
    try:
        while not all(scene.done() for scene in playing):
            done, _ = await asyncio.wait(tasks, timeout=1.0, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task


def _note_script(directory: Path) -> Path:
    """A script that writes a line each time it is run, and takes a while then. Returns where the lines are."""
    (directory / "scripts").mkdir()
    lines, script = directory / "lines", directory / "scripts" / "note"
    said = "$FAILOVER_ORCH_RUN_ID $FAILOVER_ORCH_STEP $FAILOVER_ORCH_ATTEMPT"
    script.write_text(f'#!/bin/sh\necho "{said}" >> {lines}\nsleep 0.5\n')
    script.chmod(0o755)
    return lines


async def _judge(stage: Stage, vm_ids: Sequence[str]) -> Outcome:
    """Everything that the oracle has to say, once the map has come to rest."""
    follower = stage.follower
    runs = follower.runs()
    ends = {vm_id: {end.site: end for end in stage.world.ends(vm_id)} for vm_id in vm_ids}
    sites = {vm_id: should_be_at(vm_id, runs.values()) for vm_id in vm_ids}

    def off_the_map() -> list[str]:
        routes = {update["vm_id"]: update for update in follower.values("routing-updates")}
        return [each for vm_id in vm_ids for each in map_astray(ends[vm_id], sites[vm_id], routes[vm_id])]

    with suppress(AssertionError):
        await until(lambda: not off_the_map(), "the map is as the world is", timeout_s=30)
    plans = stage.plans()
    effects = stage.world.effects()
    violations = unfinished(runs.values())
    violations += effects_of_runs(effects, runs)
    violations += [f"{vm_id} ran at both sites" for vm_id in stage.world.ran_twice()]
    violations += [each for number, vm in enumerate(vm_ids) for each in astray(number, ends[vm], sites[vm])]
    violations += off_the_map()
    violations += told_out_of_order(follower.values("routing-updates"))
    violations += plans_astray(plans, runs)
    violations += [
        f"{run['run_id']} ended {run['state']}: {run['detail']}"
        for run in plans
        if run["state"] != RunState.SUCCEEDED and run["run_id"] not in stage.cancelled
    ]
    violations += lines_doubled_or_missing(stage.written(), plans, SCRIPTS)
    violations += [f"dead letter of {each['topic']}: {each['reason']}" for each in follower.values("dead-letters")]
    settings = stage.settings
    report = await verify_topics(settings.bootstrap, names=settings.names, codec=CODEC, app_id=settings.app_id)
    violations += map(str, report.findings)
    ended = Counter(f"{run['kind'].lower()} {run['state']}" for run in runs.values() if run["vm_id"])
    figures: dict[str, object] = {
        "plans and lists run": len(plans),
        "VM runs": sum(ended.values()),
        **{f"  {what}": number for what, number in sorted(ended.items())},
        "effects": len(effects),
        "script lines": len(stage.written()),
    }
    return Outcome(violations, figures)


def _figures(stage: Stage, struck: Struck, began: float) -> dict[str, object]:
    slowest = max(stage.durations_s, key=stage.durations_s.__getitem__)
    return {
        "faults": f"{struck.total} ({', '.join(f'{number} {what}' for what, number in sorted(struck.counts.items()))})",
        "plans resumed": sum(stage.resumed.values()),
        "words to what waited for a person": sum(stage.waited.values()),
        "slowest plan": f"{slowest}, {stage.durations_s[slowest]:.0f} s",
        "took": f"{time.monotonic() - began:.0f} s",
    }


async def _main(arguments: argparse.Namespace) -> int:
    size = long_form(arguments.vms, arguments.seed)
    directory = Path(tempfile.mkdtemp(prefix="failover-orch-plans-"))
    kafka = LocalKafka(directory / "kafka", brokers=arguments.brokers)
    try:
        await asyncio.to_thread(kafka.start)
        settings = Settings(bootstrap=kafka.bootstrap, app_id="plans", topic_prefix="plans-", partitions=4)
        await create_topics(settings.bootstrap, desired_topics(settings, SITES, arguments.brokers))
        struck = kafka if arguments.brokers > 1 else None
        outcome = await plan_chaos(settings, directory, size, struck)
    finally:
        await asyncio.to_thread(kafka.stop, grace_s=0)
        if not arguments.keep:
            shutil.rmtree(directory, ignore_errors=True)
    say(f"2 plans of {arguments.vms} VMs, {arguments.brokers} broker(s), seed {arguments.seed}", outcome)
    if arguments.keep:
        say(f"logs and world are in {directory}")
    return 0 if outcome.sound else 1


def main() -> int:
    """Run it from the command line; exits 1 where anything was done twice, is missing, astray or unfinished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vms", type=int, default=50, help="of each plan")
    parser.add_argument("--brokers", type=int, default=3, choices=(1, 3))
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--keep", action="store_true", help="keep logs and world")
    return asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
