"""The demo's story: build two sites, let replicas move, fail one application over, lose a site, fail the rest over.

Every act waits for what it brought about to be seen in the output topics, as any consumer sees them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path

from rich.console import Console

from failover_orch.applying import apply_topology
from failover_orch.config import Settings
from failover_orch.demo.expectations import Ending, expectations, running_at
from failover_orch.demo.processes import Processes
from failover_orch.demo.screen import Screen
from failover_orch.demo.stage import Stage, demo_directory
from failover_orch.demo.tables import addresses, refusals, routes, runs
from failover_orch.domain import (
    FailoverKind,
    Location,
    MoveKind,
    Node,
    ReplicationHealth,
    Role,
    RoutingUpdate,
)
from failover_orch.errors import LookupFailed
from failover_orch.hypervisors.simulated import PlacedVm, SimulatedWorld
from failover_orch.kafka import LocalKafka
from failover_orch.service import ReadModel
from failover_orch.topology import Topology, bundled, load

__all__ = ["play"]

_BETWEEN_MOVES_S = 0.1
_WRITTEN = 256 * 1024


async def play(
    console: Console, *, keep: bool = False, topology: Path | None = None, directory: Path | None = None
) -> bool:
    """Tell the story; returns whether all that is expected held. Leaves nothing running unless told to `keep` it.

    Raises:
        FailoverOrchError: something the demo needs is missing, or does not come.

    """
    screen = Screen(console)
    described = load(topology or bundled("two-sites"))
    directory = directory or demo_directory("demo")
    _end_earlier(directory)
    directory.mkdir(parents=True, exist_ok=True)
    screen.chapter("Two sites, one broker")
    kafka = LocalKafka(directory / "kafka", brokers=1)
    held = False
    try:
        with screen.act("Apache Kafka 4.4 starts on this machine") as act:
            await asyncio.to_thread(kafka.start)
            act.outcome = kafka.bootstrap
        settings = Settings(bootstrap=kafka.bootstrap, app_id="failover-orch", session_timeout=6.0)
        async with Stage(screen, settings, directory) as stage:
            story = _Story(stage, described)
            await story.build()
            await story.move()
            await story.fail_over_an_application()
            await story.lose_the_primary()
            held = await story.end()
        keep = keep and held
    finally:
        if not keep:
            Processes(directory, {}).stop()
            await asyncio.to_thread(kafka.stop)
    if keep:
        screen.say(_left_up(settings, directory))
    return held


class _Story:
    """The acts, and what they share."""

    def __init__(self, stage: Stage, topology: Topology) -> None:
        self._stage = stage
        self._screen = stage.screen
        self._topology = topology
        self._world_file = stage.directory / "world.sqlite"
        self._moves = 0
        self._placed: set[str] = set()
        self._primary = topology.vms[0].inventory.replication.primary_site
        self._dr = topology.vms[0].inventory.replication.replica_site

    @property
    def model(self) -> ReadModel:
        """What the output topics say now."""
        return self._stage.model

    async def build(self) -> None:
        """Topics, the simulated world, one worker and two site agents; then the topology's settings and plans."""
        await self._stage.make_topics(self._topology.sites)
        # Replicas stay without a node: to say where they go is the broker's job.
        vms = [
            PlacedVm(vm.inventory, vm.primary_node, vm.primary_storage, vm.replica_node, vm.replica_storage)
            for vm in self._topology.vms
        ]
        SimulatedWorld.create(self._world_file, self._topology.clusters, vms).close()
        with self._screen.act("A worker and two site agents start, and the sites report what they have") as act:
            processes = self._stage.processes
            processes.start("worker", "worker")
            for site in self._topology.sites:
                processes.start(f"agent-{site}", "site-agent", "--site", site, "--world", str(self._world_file))
            await self._stage.until("every VM is known", lambda: len(self._known()) == self._count, act)
            act.outcome = f"{self._count} VMs, {len(self._topology.clusters)} clusters"
        with self._screen.act("Failover addresses and recovery plans are set") as act:
            await apply_topology(self._stage.settings, self._topology)
            act.outcome = f"{len(self._topology.settings)} VMs, {len(self._topology.plans)} plans"
        await self._place()

    async def _place(self) -> None:
        """For each VM that has no replica yet the broker says where it goes; its initial replication follows."""
        with self._screen.act("The broker places the replicas") as act, self._open_world() as world:
            for count, vm_id in enumerate((vm.inventory.vm_id for vm in self._topology.vms), start=1):
                # One after the other: what a placement takes from its node, the next one must know of.
                await self._stage.until("the replica's place is in the routes", partial(self._place_one, world, vm_id))
                act.progress(f"{count} of {self._count}")
            await self._stage.until("every initial replication is complete", self._all_normal, act)
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
                    await self._stage.until("the route follows", partial(self._beyond, vm_id, epoch))
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
            request = self._stage.request(FailoverKind.PLANNED, "maintenance at the primary site", plan_id=plan.plan_id)
            moving = asyncio.create_task(self._keep_moving(members))
            ended = await self._stage.run(request, act)
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
                self._stage.processes.kill(f"agent-{self._primary}")
                world.power_off_site(self._primary)
            act.outcome = f"{len(left)} VMs down"
        with self._screen.act(f"Unplanned failover of all {len(left)}") as act:
            request = replace(
                self._stage.request(FailoverKind.UNPLANNED, f"site {self._primary} has no power"),
                vm_ids=tuple(left),
                primary_is_down=True,
            )
            ended = await self._stage.run(request, act)
            done = sum(step.state == "DONE" for step in ended.steps)
            act.outcome = f"{done} moved, {len(ended.steps) - done} refused or failed"

    async def end(self) -> bool:
        """Tables, the audit trail, and what must be so."""
        self._screen.chapter("How it ended")
        with self._open_world() as world:
            await self._stage.until("the routes are where the VMs are", partial(self._routes_are_right, world))
        ending = await self._ending()
        for table in (routes, addresses, runs, refusals):
            table(self._screen, ending)
        found = expectations(ending)
        self._screen.expectations(found)
        return all(each.held for each in found)

    async def _ending(self) -> Ending:
        told = await self._stage.read("routing-updates", "dead-letters")
        routing = [value for value in told if isinstance(value, RoutingUpdate)]
        with self._open_world() as world:
            effects = world.effects()
        return Ending(
            vms=self.model.vms(),
            runs=self.model.runs(),
            routes=routing,
            effects=effects,
            refused_by_plan={vm.inventory.vm_id for vm in self._topology.vms if self._topology.failover_findings(vm)},
            moved=self._moves,
            audit_findings=await self._stage.audit_findings(),
            dead_letters=len(told) - len(routing),
            dr_site=self._dr,
            adapters_before={vm.inventory.vm_id: vm.inventory.adapters for vm in self._topology.vms},
        )

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


def _end_earlier(directory: Path) -> None:
    """End what an earlier demo has left up, and remove what it left."""
    if directory.exists():
        Processes(directory, {}).stop()
        LocalKafka(directory / "kafka").stop()
        shutil.rmtree(directory)


def _left_up(settings: Settings, directory: Path) -> str:
    return (
        f"Left up, with logs in {directory}. Look around, for instance:\n"
        f"  export FAILOVER_ORCH_BOOTSTRAP={settings.bootstrap}\n"
        "  failover-orch vm list\n  failover-orch run list\n  failover-orch audit verify\n"
        "  failover-orch serve --open-reading\n"
        "The next `make demo` ends what is left up."
    )
