"""The demo's story: build two sites, let replicas move, fail one application over, lose a site, fail the rest over.

Every act waits for what it brought about to be seen in the output topics, as any consumer sees them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path

from rich.console import Console

from failover_orch.applying import apply_topology
from failover_orch.audit import verify_topics
from failover_orch.config import Settings
from failover_orch.contract import Codec
from failover_orch.demo.expectations import Ending, expectations, running_at
from failover_orch.demo.processes import Processes
from failover_orch.demo.screen import Act, Screen
from failover_orch.domain import (
    FailoverKind,
    FailoverRequested,
    Location,
    MoveKind,
    Node,
    ReplicationHealth,
    RequestAction,
    Role,
    RoutingUpdate,
    RunSnapshot,
)
from failover_orch.errors import FailoverOrchError, LookupFailed
from failover_orch.hypervisors.simulated import PlacedVm, SimulatedWorld
from failover_orch.kafka import LocalKafka, create_topics, desired_topics
from failover_orch.service import Feed, ReadModel
from failover_orch.topology import Topology, bundled, load
from failover_orch.wire import Publisher, now_ms, read_to_end

__all__ = ["DemoStalled", "play"]

_PATIENCE_S = 60.0
_POLL_S = 0.1
_BETWEEN_MOVES_S = 0.1
_WRITTEN = 256 * 1024
_ACTOR = "demo"


class DemoStalled(FailoverOrchError):
    """Something that an act of the demo waits for does not come."""


async def play(
    console: Console, *, keep: bool = False, topology: Path | None = None, directory: Path | None = None
) -> bool:
    """Tell the story; returns whether all that is expected held. Leaves nothing running unless told to `keep` it.

    Raises:
        FailoverOrchError: something the demo needs is missing, or does not come.

    """
    screen = Screen(console)
    described = load(topology or bundled("two-sites"))
    directory = directory or _directory()
    _end_earlier(directory)
    directory.mkdir(parents=True, exist_ok=True)
    screen.chapter("Two sites, one broker")
    kafka = LocalKafka(directory / "kafka", brokers=1)
    processes = Processes(directory, {})
    held = False
    try:
        with screen.act("Apache Kafka 4.4 starts on this machine") as act:
            await asyncio.to_thread(kafka.start)
            act.outcome = kafka.bootstrap
        settings = Settings(bootstrap=kafka.bootstrap, app_id="failover-orch", session_timeout=6.0)
        processes = Processes(directory, _environment(settings))
        async with _telling(_Story(screen, settings, described, processes, directory)) as story:
            await story.build()
            await story.move()
            await story.fail_over_an_application()
            await story.lose_the_primary()
            held = await story.end()
        keep = keep and held
    finally:
        if not keep:
            processes.stop()
            await asyncio.to_thread(kafka.stop)
    if keep:
        screen.say(_left_up(settings, directory))
    return held


class _Story:
    """The acts, and what they share."""

    def __init__(
        self, screen: Screen, settings: Settings, topology: Topology, processes: Processes, directory: Path
    ) -> None:
        self._screen = screen
        self._settings = settings
        self._topology = topology
        self._processes = processes
        self._directory = directory
        self._world_file = directory / "world.sqlite"
        self._codec = Codec()
        self.feed = Feed(settings.bootstrap, names=settings.names, codec=self._codec)
        self._moves = 0
        self._placed: set[str] = set()
        self._following: asyncio.Task[None] | None = None
        self._primary = topology.vms[0].inventory.replication.primary_site
        self._dr = topology.vms[0].inventory.replication.replica_site

    async def close(self) -> None:
        """Stop following Kafka."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])

    @property
    def model(self) -> ReadModel:
        """What the output topics say now."""
        return self.feed.model

    async def build(self) -> None:
        """Topics, the simulated world, one worker and two site agents; then the topology's settings and plans."""
        with self._screen.act("Topics are made") as act:
            desired = desired_topics(self._settings, self._topology.sites, 1)
            await create_topics(self._settings.bootstrap, desired)
            act.outcome = f"{len(desired)}, {self._settings.partitions} partitions each"
        self._following = asyncio.create_task(self.feed.run())
        # Replicas stay without a node: to say where they go is the broker's job.
        vms = [
            PlacedVm(vm.inventory, vm.primary_node, vm.primary_storage, vm.replica_node, vm.replica_storage)
            for vm in self._topology.vms
        ]
        SimulatedWorld.create(self._world_file, self._topology.clusters, vms).close()
        with self._screen.act("A worker and two site agents start, and the sites report what they have") as act:
            self._processes.start("worker", "worker")
            for site in self._topology.sites:
                self._processes.start(f"agent-{site}", "site-agent", "--site", site, "--world", str(self._world_file))
            await self._until("every VM is known", lambda: len(self._known()) == self._count, act)
            act.outcome = f"{self._count} VMs, {len(self._topology.clusters)} clusters"
        with self._screen.act("Failover addresses and recovery plans are set") as act:
            await apply_topology(self._settings, self._topology)
            act.outcome = f"{len(self._topology.settings)} VMs, {len(self._topology.plans)} plans"
        await self._place()

    async def _place(self) -> None:
        """For each VM that has no replica yet the broker says where it goes; its initial replication follows."""
        with self._screen.act("The broker places the replicas") as act, self._open_world() as world:
            for count, vm_id in enumerate((vm.inventory.vm_id for vm in self._topology.vms), start=1):
                # One after the other: what a placement takes from its node, the next one must know of.
                await self._until("the replica's place is in the routes", partial(self._place_one, world, vm_id))
                act.progress(f"{count} of {self._count}")
            await self._until("every initial replication is complete", self._all_normal, act)
            nodes = Counter(here.node for vm in self.model.vms() for here in vm.locations if here.role is Role.REPLICA)
            act.outcome = ", ".join(f"{node}: {number}" for node, number in sorted(nodes.items()))

    def _place_one(self, world: SimulatedWorld, vm_id: str) -> bool:
        """Whether the VM's replica has a place; where it has none, and none is under way, it is given one."""
        vm = self.model.vm(vm_id)
        if any(here.role is Role.REPLICA and here.node for here in vm.locations):
            return True
        if vm_id not in self._placed:
            placement = self.model.placement(vm)
            self._placed.add(vm_id)
            if placement.node is None:
                raise LookupFailed(f"no node takes the replica of {vm.name}: {placement.why}")
            world.place(vm_id, placement.node, placement.storage or "")
        return False

    async def move(self) -> None:
        """Replicas move between nodes and storage of the DR cluster; the routes follow."""
        self._screen.chapter("Replicas move, and the routes follow")
        with self._open_world() as world:
            for number, (vm_id, kind) in enumerate(self._travellers()):
                here = self._replica(vm_id)
                nodes = self._nodes()
                other = next(node for node in nodes[number % len(nodes) :] + nodes if node.name != here.node)
                now = next(node for node in nodes if node.name == here.node)
                storage = next((each.path for each in now.storages if each.path != here.storage), "")
                epoch = self.model.vm(vm_id).epoch
                with self._screen.act(f"{self.model.vm(vm_id).name}: {kind.lower()} migration") as act:
                    if kind is MoveKind.STORAGE:
                        world.move_storage(vm_id, self._dr, storage)
                    else:
                        world.migrate(vm_id, other.name, kind)
                    self._moves += 1
                    await self._until("the route follows", partial(self._beyond, vm_id, epoch))
                    after = self._replica(vm_id)
                    changed = (
                        f"{here.storage} to {after.storage}"
                        if kind is MoveKind.STORAGE
                        else f"{here.node} to {after.node}"
                    )
                    act.outcome = f"{changed}, epoch {epoch} to {self.model.vm(vm_id).epoch}"

    async def fail_over_an_application(self) -> None:
        """A planned failover of the first recovery plan."""
        plan = max(self._topology.plans, key=lambda plan: len(plan.groups))
        self._screen.chapter(f"Planned failover of {plan.name}")
        names = " -> ".join(group.name for group in plan.groups)
        members = {vm_id for group in plan.groups for vm_id in group.vm_ids}
        before = self._moves
        with self._screen.act(f"{plan.name}: {names}, while other replicas go on moving") as act:
            request = self._request(FailoverKind.PLANNED, "maintenance at the primary site", plan_id=plan.plan_id)
            moving = asyncio.create_task(self._keep_moving(members))
            ended = await self._run(request, act)
            moving.cancel()
            await asyncio.wait([moving])
            loss = ", nothing lost" if ended.data_loss_ms == 0 else ""
            act.outcome = f"{ended.state.lower()}{loss}; {self._moves - before} moves meanwhile"

    async def _keep_moving(self, spared: Collection[str]) -> None:
        """One replica after the other moves to another node, until cancelled."""
        nodes = [node.name for node in self._nodes()]
        with self._open_world() as world:
            for vm_id in cycle(vm.inventory.vm_id for vm in self._topology.vms if vm.inventory.vm_id not in spared):
                here = next(end.node for end in world.ends(vm_id, self._dr))
                world.migrate(vm_id, nodes[(nodes.index(here) + 1) % len(nodes)], MoveKind.LIVE)
                self._moves += 1
                await asyncio.sleep(_BETWEEN_MOVES_S)

    async def lose_the_primary(self) -> None:
        """The primary site loses power while its VMs write; everything that still ran there fails over."""
        self._screen.chapter(f"Site {self._primary} loses power")
        left = [vm.vm_id for vm in self.model.vms() if running_at(vm) == self._primary]
        with self._screen.act("Its VMs write, the power goes, its site agent is gone") as act:
            with self._open_world() as world:
                for vm_id in left:
                    world.write(vm_id, _WRITTEN)
                self._processes.kill(f"agent-{self._primary}")
                world.power_off_site(self._primary)
            act.outcome = f"{len(left)} VMs down"
        with self._screen.act(f"Unplanned failover of all {len(left)}") as act:
            request = replace(
                self._request(FailoverKind.UNPLANNED, f"site {self._primary} has no power"),
                vm_ids=tuple(left),
                primary_is_down=True,
            )
            ended = await self._run(request, act)
            done = sum(step.state == "DONE" for step in ended.steps)
            act.outcome = f"{done} moved, {len(ended.steps) - done} refused or failed"

    async def end(self) -> bool:
        """Tables, the audit trail, and what must be so."""
        self._screen.chapter("How it ended")
        with self._open_world() as world:
            await self._until("the routes are where the VMs are", partial(self._routes_are_right, world))
        ending = await self._ending()
        self._screen.routes(ending)
        self._screen.addresses(ending)
        self._screen.runs(ending)
        self._screen.refusals(ending)
        found = expectations(ending)
        self._screen.expectations(found)
        return all(each.held for each in found)

    async def _ending(self) -> Ending:
        routes: list[RoutingUpdate] = []
        letters = 0
        topics = ["routing-updates", "dead-letters"]
        async for records in read_to_end(self._settings.bootstrap, topics, names=self._settings.names):
            for record in records:
                value = self._codec.decode_from(record.topic, record.value)
                if isinstance(value, RoutingUpdate):
                    routes.append(value)
                else:
                    letters += 1
        report = await verify_topics(
            self._settings.bootstrap, names=self._settings.names, codec=self._codec, app_id=self._settings.app_id
        )
        with self._open_world() as world:
            effects = world.effects()
        return Ending(
            vms=self.model.vms(),
            runs=self.model.runs(),
            routes=routes,
            effects=effects,
            refused_by_plan={vm.inventory.vm_id for vm in self._topology.vms if self._topology.failover_findings(vm)},
            moved=self._moves,
            audit_findings=[str(finding) for finding in report.findings],
            dead_letters=letters,
            dr_site=self._dr,
            adapters_before={vm.inventory.vm_id: vm.inventory.adapters for vm in self._topology.vms},
        )

    def _request(self, kind: FailoverKind, reason: str, *, plan_id: str = "") -> FailoverRequested:
        return FailoverRequested(
            run_id=f"run-{uuid.uuid4().hex[:12]}",
            action=RequestAction.REQUEST,
            kind=kind,
            actor=_ACTOR,
            reason=reason,
            requested_at_ms=now_ms(),
            plan_id=plan_id,
            ticket="DEMO-1",
        )

    async def _run(self, request: FailoverRequested, act: Act) -> RunSnapshot:
        """Ask for a failover and follow it to its end."""
        settings = self._settings
        async with Publisher(
            settings.bootstrap, self._codec, names=settings.names, partitions=settings.partitions, source="demo"
        ) as publisher:
            await publisher.publish(request)

        def ended() -> bool:
            runs = {run.run_id: run for run in self.model.runs()}
            run = runs.get(request.run_id)
            if run is None:
                return False
            states = [step.state.lower() for step in run.steps]
            act.progress(", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))))
            return run.state.ended

        await self._until(f"run {request.run_id} ends", ended)
        return self.model.run(request.run_id)

    async def _until(self, what: str, holds: Callable[[], bool], act: Act | None = None) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not holds():
            self._processes.require_alive()
            if time.monotonic() > deadline:
                raise DemoStalled(f"waited {_PATIENCE_S:g} s in vain until {what}; the logs are in {self._directory}")
            if act is not None:
                act.progress(what)
            await asyncio.sleep(_POLL_S)

    def _nodes(self) -> list[Node]:
        """The DR site's nodes."""
        return [node for cluster in self._topology.clusters if cluster.site == self._dr for node in cluster.nodes]

    def _routes_are_right(self, world: SimulatedWorld) -> bool:
        there = {(end.vm_id, end.node) for end in world.ends(site=self._dr)}
        known = {(vm.vm_id, here.node) for vm in self.model.vms() for here in vm.locations if here.site == self._dr}
        return there == known

    def _beyond(self, vm_id: str, epoch: int) -> bool:
        return self.model.vm(vm_id).epoch > epoch

    def _known(self) -> list[str]:
        """VMs of which the inventory and the primary's node are known."""
        return [vm.vm_id for vm in self.model.vms() if vm.inventory is not None and running_at(vm) is not None]

    def _all_normal(self) -> bool:
        return all(vm.health is not None and vm.health.health is ReplicationHealth.NORMAL for vm in self.model.vms())

    @property
    def _count(self) -> int:
        return len(self._topology.vms)

    def _travellers(self) -> list[tuple[str, MoveKind]]:
        """Which VMs' replicas move, and how."""
        kinds = (MoveKind.LIVE, MoveKind.QUICK, MoveKind.STORAGE, MoveKind.LIVE)
        chosen = [vm.inventory.vm_id for vm in self._topology.vms][:: max(1, self._count // len(kinds))]
        return list(zip(chosen, kinds, strict=False))

    def _replica(self, vm_id: str) -> Location:
        return next(here for here in self.model.vm(vm_id).locations if here.role is Role.REPLICA)

    @contextmanager
    def _open_world(self) -> Iterator[SimulatedWorld]:
        world = SimulatedWorld(self._world_file)
        try:
            yield world
        finally:
            world.close()


@asynccontextmanager
async def _telling(story: _Story) -> AsyncIterator[_Story]:
    """The story, with its read model following Kafka."""
    try:
        yield story
    finally:
        await story.close()


def _directory() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "failover-orch" / "demo"


def _end_earlier(directory: Path) -> None:
    """End what an earlier demo has left up, and remove what it left."""
    if directory.exists():
        Processes(directory, {}).stop()
        LocalKafka(directory / "kafka").stop()
        shutil.rmtree(directory)


def _environment(settings: Settings) -> dict[str, str]:
    return {
        "FAILOVER_ORCH_BOOTSTRAP": settings.bootstrap,
        "FAILOVER_ORCH_APP_ID": settings.app_id,
        "FAILOVER_ORCH_TOPIC_PREFIX": settings.topic_prefix,
        "FAILOVER_ORCH_SESSION_TIMEOUT": str(settings.session_timeout),
    }


def _left_up(settings: Settings, directory: Path) -> str:
    return (
        f"Left up, with logs in {directory}. Look around, for instance:\n"
        f"  export FAILOVER_ORCH_BOOTSTRAP={settings.bootstrap}\n"
        "  failover-orch vm list\n  failover-orch run list\n  failover-orch audit verify\n  failover-orch serve\n"
        "The next `make demo` ends what is left up."
    )
