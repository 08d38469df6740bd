"""The story of the real VMs: they replicate, move, fail over as planned, lose their site, and come back.

Every act waits for what it brought about to be seen in the topics, and in the world: at the VMs' own pages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

from failover_orch.applying import apply_topology
from failover_orch.demo.screen import Act
from failover_orch.demo.vms.counting import Counted, after_a_loss, after_a_planned_failover
from failover_orch.demo.vms.expectations import expectations
from failover_orch.demo.vms.machines import disk_at_home
from failover_orch.demo.vms.outcome import Ending, Moved, Ping
from failover_orch.demo.vms.scene import Scene
from failover_orch.demo.vms.sites import AWAY, HOME, NODES, PORT, REPLICATED_EVERY_S
from failover_orch.demo.vms.tables import addresses, failovers, routes
from failover_orch.demo.vms.virsh import disk_of, migrate_live, move_off
from failover_orch.domain import (
    DeadLetter,
    FailoverKind,
    ReplicationMode,
    RoutingUpdate,
    RunSnapshot,
    RunState,
    StepResult,
    Verdict,
)
from failover_orch.errors import FailoverOrchError
from failover_orch.lab import LabNode
from failover_orch.wire import now_ms

__all__ = ["RunWentWrong", "Story"]

_THIRD_PLACE = "third"
_WITNESS_EVERY_S = 1
_LIBVIRT_PORT = 16509
_PLAN = "erp"
_WEB = "web"
_FIRST_MOVER = "erp-db"
_RETURNER = "erp-app"


class RunWentWrong(FailoverOrchError):
    """A failover of the demo did not succeed."""


class Story:
    """The acts. The VMs run when it begins."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._stage = scene.stage
        self._screen = scene.stage.screen
        self._moved: list[Moved] = []
        self._migrations = 0
        self._fence = ""
        self._went_on = False

    async def replicate(self) -> None:
        """Worker, site agents and witness start; every VM is known, has its failover addresses, and replicates."""
        scene, machines = self._scene, self._scene.machines
        with self._screen.act("A worker, an agent inside each site and a witness in a third place start") as act:
            self._start(AWAY)
            self._start_the_others()
            # Where nobody takes delivery yet, the first thing that the primaries tell of would be missed cycles.
            await self._stage.until(
                f"site {AWAY} is at work", lambda: scene.told.verdict(AWAY, AWAY) is Verdict.UP, act
            )
            self._start(HOME)
            await self._stage.until("every VM is known", scene.known, act)
            act.outcome = f"{len(machines)} VMs on {len(NODES)} nodes"
        with self._screen.act("Failover addresses and the recovery plan are set") as act:
            await apply_topology(self._stage.settings, scene.topology)
            act.outcome = f"{len(scene.topology.settings)} VMs, {len(scene.topology.plans)} plan"
        with self._screen.act("The VMs are replicated") as act:
            for vm_id in machines:
                await self._stage.until(f"{vm_id} replicates", partial(scene.replicates, vm_id), act)
                await self._stage.until(f"{vm_id} is well", partial(scene.normal, vm_id), act)
            places = ", ".join(f"{vm_id} to {scene.at(vm_id, AWAY).node}" for vm_id in machines)
            act.outcome = f"{places}, every {REPLICATED_EVERY_S} s"

    def _start(self, site: str) -> None:
        file = self._stage.directory / f"{site}.yaml"
        run = self._scene.lab.run_in(site)
        self._stage.processes.start(f"agent-{site}", "site-agent", "--config", str(file), run=run)

    def _start_the_others(self) -> None:
        lab, processes = self._scene.lab, self._stage.processes
        processes.start("worker", "worker")
        watched = [f"{node.site}/{node.name}={node.address}:{_LIBVIRT_PORT}" for node in lab.nodes.values()]
        watched += [f"{site}={lab.site_address(site)}:{PORT}" for site in (HOME, AWAY)]
        options = [word for endpoint in watched for word in ("--watch", endpoint)]
        processes.start("witness", "witness", "--place", _THIRD_PLACE, "--every", str(_WITNESS_EVERY_S), *options)

    async def move_a_replica(self) -> None:
        """A replica, which is off, moves to the other node of its site; its primary delivers to where it is now."""
        self._screen.chapter("A replica moves, and replication follows")
        with self._screen.act(f"The replica of {_FIRST_MOVER} moves to another node of {AWAY}") as act:
            act.outcome = await self._migrate(_FIRST_MOVER, move_off, ReplicationMode.REPLICA, act)

    async def fail_over_as_planned(self) -> None:
        """One VM goes to the DR site without a loss, replicates back, and moves there while it runs."""
        self._screen.chapter(f"Planned failover of {_WEB}")
        with self._screen.act(f"{_WEB} goes to {AWAY}") as act:
            act.outcome = await self._without_loss(FailoverKind.PLANNED, _WEB, HOME, AWAY, "maintenance", act)
        with self._screen.act(f"{_WEB} moves to another node of {AWAY} while it runs and replicates back") as act:
            before = self._scene.prober.last(_WEB, AWAY)
            act.outcome = await self._migrate(_WEB, migrate_live, ReplicationMode.PRIMARY, act)
            after = self._scene.prober.last(_WEB, AWAY)
            self._went_on = before is not None and after is not None and after.boot == before.boot

    async def lose_the_primary(self) -> None:
        """The primary site is cut off and its VMs are at work all the same; its node is fenced, and the plan runs."""
        scene = self._scene
        left = [vm.vm_id for vm in self._stage.model.vms() if vm.active_site == HOME]
        self._screen.chapter(f"Site {HOME} is cut off")
        with self._screen.act("Its link is cut; inside, everything goes on") as act:
            cut_ms = now_ms()
            await asyncio.to_thread(scene.lab.cut_link, HOME)
            for vm_id in left:
                await self._stage.until(
                    f"{vm_id} is Critical by the age of its replica", partial(scene.speaks, vm_id, "H9"), act
                )
            await self._stage.until(
                "the witness does not reach it",
                lambda: scene.told.verdict(_THIRD_PLACE, HOME) is Verdict.UNREACHABLE,
                act,
            )
            act.outcome = f"{len(left)} replicas Critical by age (H9), and the witness does not reach the site"
        with self._screen.act(f"Unplanned failover by plan {_PLAN}; the first thing is to cut the power of p1") as act:
            request = self._stage.request(FailoverKind.UNPLANNED, f"site {HOME} is cut off", plan_id=_PLAN)
            told_ms = now_ms()
            ended = await self._stage.run(replace(request, fence=True), act)
            _require_success(ended)
            for vm_id in left:
                self._moved.append(await self._lost(vm_id, ended.run_id, cut_ms, told_ms, act))
            self._fence = await self._fence_told()
            order = sorted(self._moved[-len(left) :], key=lambda moved: moved.served_at_ms)
            act.outcome = f"{', '.join(moved.vm_id for moved in order)} came up; {self._fence}"

    async def come_back(self) -> None:
        """The site is back; one VM is protected again, and goes home without a loss."""
        scene = self._scene
        self._screen.chapter(f"Site {HOME} is back")
        with self._screen.act("Its node is powered on, its link is restored") as act:
            back_ms = now_ms()
            for node in (name for name, site in NODES.items() if site == HOME):
                await asyncio.to_thread(scene.lab.power_on, node)
            await asyncio.to_thread(scene.lab.restore_link, HOME)
            await self._stage.until(
                "the witness reaches it", lambda: scene.told.verdict(_THIRD_PLACE, HOME) is Verdict.UP, act
            )
            await self._stage.until(
                f"{_WEB} replicates again",
                lambda: scene.replicates(_WEB, since_ms=back_ms),
                act,
            )
            act.outcome = f"{_WEB} replicates again, by itself"
        with self._screen.act(f"{_RETURNER} is protected again") as act:
            request = self._stage.request(FailoverKind.REPROTECT, f"site {HOME} is back", vm_id=_RETURNER)
            ended = await self._stage.run(request, act)
            _require_success(ended)
            await self._stage.until(
                f"{_RETURNER} is well", lambda: scene.replicates(_RETURNER) and scene.normal(_RETURNER), act
            )
            act.outcome = f"it replicates to {scene.at(_RETURNER, HOME).node}, after a full copy"
        with self._screen.act(f"{_RETURNER} goes home") as act:
            act.outcome = await self._without_loss(
                FailoverKind.FAILBACK, _RETURNER, AWAY, HOME, "the site is back", act
            )

    async def end(self) -> bool:
        """Tables, the audit trail, and what must be so."""
        self._screen.chapter("How it ended")
        ending = await self._ending()
        for table in (routes, addresses, failovers):
            table(self._screen, ending)
        found = expectations(ending)
        self._screen.expectations(found)
        return all(each.held for each in found)

    # What acts have in common

    async def _migrate(
        self, vm_id: str, migrate: Callable[[str, LabNode, LabNode], None], mode: ReplicationMode, act: Act
    ) -> str:
        """Move a VM or replica to the other DR node; wait for the route, and for a cycle from or to where it is now."""
        scene, model = self._scene, self._stage.model
        source, epoch = scene.node(vm_id, AWAY), model.vm(vm_id).epoch
        target = next(node for node in scene.lab.nodes.values() if node.site == AWAY and node.name != source.name)
        await asyncio.to_thread(migrate, vm_id, source, target)
        moved_ms = now_ms()
        self._migrations += 1
        await self._stage.until("the route follows", lambda: scene.at(vm_id, AWAY).node == target.name, act)

        def followed() -> bool:
            end = scene.told.report(vm_id, AWAY)
            return (
                end is not None
                and end.node == target.name
                and end.mode is mode
                and end.last_replication_at_ms > moved_ms
            )

        await self._stage.until("replication follows", followed, act)
        took_s = (now_ms() - moved_ms) / 1000
        told = f"{source.name} to {target.name}, epoch {epoch} to {self._stage.model.vm(vm_id).epoch}"
        return f"{told}; a cycle of its new place after {took_s:.1f} s"

    async def _without_loss(
        self, kind: FailoverKind, vm_id: str, source: str, target: str, reason: str, act: Act
    ) -> str:
        """A planned failover or a failback; what came of it as a sentence."""
        began_ms = now_ms()
        left_node = self._scene.node(vm_id, source)
        request = self._stage.request(kind, reason, vm_id=vm_id)
        ended = await self._stage.run(request, act)
        _require_success(ended)
        act.progress("its disks are compared")
        old, new = await self._disk(vm_id, source), await self._disk(vm_id, target)
        counted = await asyncio.to_thread(after_a_planned_failover, old, new)
        moved = await self._seen(vm_id, ended, source, target, began_ms, counted, act)
        self._moved.append(moved)
        off = vm_id not in (await self._scene.running())[left_node.name]
        await self._stage.until(
            "it replicates back", lambda: self._scene.replicates(vm_id, since_ms=moved.served_at_ms), act
        )
        same = "disks identical" if counted.identical else "disks differ"
        return (
            f"{ended.state.lower()}; {moved.lost} counts lost, {same}, {moved.without_service_ms / 1000:.1f} s without "
            f"service, {'off' if off else 'STILL RUNNING'} on {left_node.name}"
        )

    async def _lost(self, vm_id: str, plan_run_id: str, cut_ms: int, told_ms: int, act: Act) -> Moved:
        """What an unplanned failover lost of a VM, beside what was not replicated by the reports of up to `told_ms`."""

        def ended() -> list[RunSnapshot]:
            runs = self._stage.model.runs(vm_id=vm_id, parent_run_id=plan_run_id)
            return [run for run in runs if run.state.ended]

        await self._stage.until(f"the run of {vm_id} is known to have ended", lambda: bool(ended()), act)
        old, new = await self._disk(vm_id, HOME), await self._disk(vm_id, AWAY)
        counted = await asyncio.to_thread(after_a_loss, old, new)
        moved = await self._seen(vm_id, ended()[0], HOME, AWAY, cut_ms, counted, act)
        reports = [self._scene.told.report(vm_id, site, by_ms=told_ms) for site in (HOME, AWAY)]
        told = [report for report in reports if report is not None]
        replicated_ms = max(report.last_replication_at_ms for report in told)
        return replace(
            moved,
            pending=counted.before - self._scene.prober.count_at(vm_id, HOME, replicated_ms),
            pending_bytes=next((report.pending_bytes for report in told if report.site == HOME), -1),
            leeway=round(self._scene.prober.counts_a_second(vm_id, HOME) * (REPLICATED_EVERY_S + 1)),
        )

    async def _seen(
        self, vm_id: str, run: RunSnapshot, source: str, target: str, since_ms: int, counted: Counted, act: Act
    ) -> Moved:
        served = await self._scene.served(vm_id, target, since_ms, act)
        last = self._scene.prober.last(vm_id, source, by_ms=served.at_ms)
        return Moved(
            vm_id=vm_id,
            run=run,
            from_site=source,
            to_site=target,
            before=counted.before,
            after=counted.after,
            served_at_ms=served.at_ms,
            without_service_ms=served.at_ms - last.at_ms if last is not None else -1,
            identical=counted.identical,
        )

    async def _disk(self, vm_id: str, site: str) -> Path:
        """Where a VM's disk is at a site. At home it is where it was made, whether or not its node has power."""
        node = self._scene.node(vm_id, site)
        return disk_at_home(node, vm_id) if site == HOME else await asyncio.to_thread(disk_of, node, vm_id)

    async def _fence_told(self) -> str:
        """What the first step of the runs told to prove that the primary was off."""
        results = [value for value in await self._stage.read("step-results") if isinstance(value, StepResult)]
        told = [result.observed["fence"] for result in results if "fence" in result.observed]
        return next(iter(told), "")

    async def _ending(self) -> Ending:
        scene, stage = self._scene, self._stage
        runs_at = {vm_id: scene.machines[vm_id].home for vm_id in scene.machines}
        runs_at |= {moved.vm_id: moved.to_site for moved in self._moved}
        plan = next(plan for plan in scene.topology.plans if plan.plan_id == _PLAN)
        told = await stage.read("routing-updates", "dead-letters")
        return Ending(
            machines=tuple(scene.machines.values()),
            vms=stage.model.vms(),
            routes=[value for value in told if isinstance(value, RoutingUpdate)],
            running=await scene.running(),
            runs_at=runs_at,
            moved=tuple(self._moved),
            groups=[group.vm_ids for group in plan.groups],
            migrations=self._migrations,
            went_on=self._went_on,
            pings=await self._pings(runs_at),
            sites_seen={
                vm_id: [site for site, _ in groupby(sighting.site for sighting in scene.prober.all(vm_id))]
                for vm_id in scene.machines
            },
            fence=self._fence,
            cuts=scene.bmc.commands,
            audit_findings=await stage.audit_findings(),
            dead_letters=sum(isinstance(value, DeadLetter) for value in told),
        )

    async def _pings(self, runs_at: Mapping[str, str]) -> list[Ping]:
        places = [
            (machine.vm_id, site, address)
            for machine in self._scene.machines.values()
            for site, both in machine.addresses.items()
            for address in both
        ]
        asked = (asyncio.to_thread(self._scene.lab.answers_ping, address) for _, _, address in places)
        answers = await asyncio.gather(*asked)
        return [
            Ping(vm_id, site, address, wanted=runs_at[vm_id] == site, answered=answered)
            for (vm_id, site, address), answered in zip(places, answers, strict=True)
        ]


def _require_success(run: RunSnapshot) -> None:
    if run.state is not RunState.SUCCEEDED:
        raise RunWentWrong(f"run {run.run_id} ended {run.state}: {run.detail or 'see `failover-orch run show`'}")
