"""What the tests of real VMs do, ask and wait for, whichever site the VM is at."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from vms_heard import Heard
from vms_installation import DR, PRIMARY, VM, Installation, other
from vms_oracle import Oracle

from failover_orch.contract import Codec
from failover_orch.demo.vms.prober import Prober
from failover_orch.demo.vms.virsh import disk_of
from failover_orch.domain import (
    AutomaticMode,
    FailoverKind,
    FailoverRequested,
    Policy,
    PolicyScope,
    Readiness,
    ReplicationState,
    RequestAction,
    Role,
    RunSnapshot,
    RunState,
    StepState,
)
from failover_orch.errors import LookupFailed
from failover_orch.lab import LabNode
from failover_orch.service import Feed, ReadModel, Vm
from failover_orch.wire import Publisher, now_ms

__all__ = ["PATIENCE_S", "Hands", "hands_on", "new_run_id", "say", "told", "until"]

PATIENCE_S = 120.0
"""How long anything may take on a busy machine before it counts as not coming at all."""
_POLL_S = 0.05
_SAID_AGAIN_S = 15.0
"""A run that is still parked then is told once more."""
_PERSON = "alice"
_OF_MISSED_CYCLES = {"H3", "H8"}
_FIT = (Readiness.READY, Readiness.AT_RISK)


def say(*lines: object) -> None:
    """Write lines to standard output, at once."""
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


@asynccontextmanager
async def hands_on(installation: Installation) -> AsyncIterator[Hands]:
    """Hands on a running installation, whose VM replicates and has failover addresses when they are there."""
    codec = Codec()
    settings = installation.settings
    feed = Feed(settings.bootstrap, names=settings.names, codec=codec, app_id=settings.app_id)
    async with AsyncExitStack() as stack:
        oracle = stack.enter_context(Oracle(installation.lab))
        heard = await stack.enter_async_context(Heard(settings, codec))
        prober = await stack.enter_async_context(Prober(installation.lab, [installation.machine]))
        publisher = await stack.enter_async_context(
            Publisher(settings.bootstrap, codec, names=settings.names, partitions=settings.partitions, source=_PERSON)
        )
        following = asyncio.create_task(feed.run())
        stack.push_async_callback(_ended, following)
        hands = Hands(installation, feed, heard, prober, oracle, publisher)
        await hands.prepare()
        yield hands


class Hands:
    """One test's hands. Sites are told apart by what they are to the VM at the moment, and not by their names."""

    def __init__(
        self,
        installation: Installation,
        feed: Feed,
        heard: Heard,
        prober: Prober,
        oracle: Oracle,
        publisher: Publisher,
    ) -> None:
        self.installation = installation
        self.lab = installation.lab
        self.heard = heard
        self.prober = prober
        self.oracle = oracle
        self._feed = feed
        self._publisher = publisher
        self.parked: list[str] = []
        """Runs that waited for a person, as they stood."""

    @property
    def model(self) -> ReadModel:
        """What the output topics say now."""
        return self._feed.model

    @property
    def vm(self) -> Vm:
        return self.model.vm(VM)

    # Doing

    async def prepare(self) -> None:
        """See that the VM is known, and give it failover addresses and policies."""
        await self.until("the VM is known", self._known)
        await self.policy()
        settings = self.installation.topology.settings_of(VM)
        assert settings is not None
        await self.publish(replace(settings, actor=_PERSON, reason="a test", set_at_ms=now_ms()))

    def _known(self) -> bool:
        with suppress(LookupFailed):
            return self.vm.inventory is not None and bool(self.vm.active_site)
        return False

    async def publish(self, *values: object) -> None:
        await self._publisher.publish(*values)

    async def policy(self, mode: AutomaticMode = AutomaticMode.OFF, **limits: int) -> None:
        """Set the policy for everything: nothing is automatic, and better health counts at once, unless told so."""
        standing = {
            "recover_after_ms": 0,
            "drill_within_ms": 0,
            "brake_runs": 0,
            "hold_down_ms": 2_000,
            "evidence_within_ms": 5_000,
        }
        policy = Policy(PolicyScope.ALL, mode=mode, actor=_PERSON, reason="a test", set_at_ms=now_ms())
        await self.publish(replace(policy, **(standing | limits)))  # type: ignore[arg-type]  # all of them are limits

    async def ask(self, kind: FailoverKind, *, run_id: str = "", fence: bool = False) -> str:
        """Ask for a run of the VM, and return its id."""
        run_id = run_id or new_run_id(kind)
        await self.publish(
            FailoverRequested(
                run_id,
                RequestAction.REQUEST,
                kind,
                _PERSON,
                "a test",
                now_ms(),
                vm_id=VM,
                fence=fence,
            )
        )
        return run_id

    async def word(self, action: RequestAction, run: RunSnapshot) -> None:
        """Say something to a run."""
        await self.publish(
            FailoverRequested(run.run_id, action, run.kind, _PERSON, "a test", now_ms(), vm_id=run.vm_id)
        )

    async def acknowledge(self) -> None:
        """Say that the VM's automatic failovers have been looked into: another one may follow."""
        run_id = f"acknowledgement-{uuid.uuid4().hex}"
        said = (RequestAction.ACKNOWLEDGE, FailoverKind.UNPLANNED, _PERSON, "a test", now_ms())
        await self.publish(FailoverRequested(run_id, *said, vm_id=VM))

    async def reprotect(self) -> None:
        """Have the site that has lost the VM hold its replica."""
        await self.until("nothing is under way", lambda: self.vm.run is None)
        run = await self.ended(await self.ask(FailoverKind.REPROTECT))
        assert run.state is RunState.SUCCEEDED, told(run)

    async def settled(self) -> tuple[str, str]:
        """Have the VM run and replicate, whatever was before: the site where it runs, and that of its replica."""
        await asyncio.to_thread(self.installation.recover)
        await self.until("no run is in flight", lambda: self.vm.run is None)
        if any(here.role is Role.RETIRED for here in self.vm.locations):
            await self.reprotect()
        since_ms = now_ms()
        await self.until("the VM replicates, and is well", lambda: self.fit(since_ms))
        source = self.vm.active_site
        await self.until("the VM runs", lambda: self.oracle.runs_on(VM) == [self.node(source).name])
        await self.until("its page answers", lambda: self.serves(source, since_ms))
        return source, other(source)

    # Looking

    def node(self, site: str) -> LabNode:
        return self.installation.node(site)

    def serves(self, site: str, since_ms: int) -> bool:
        """Whether the VM's page was seen at a site's addresses since then."""
        return self.prober.first(VM, site, since_ms=since_ms) is not None

    def well(self) -> bool:
        """Whether the VM's replication health is Normal, or would be, had no cycles been missed.

        Those are counted over a whole monitoring interval, or until the replication is reversed.
        """
        health = self.vm.health
        rules = {reason.partition(":")[0] for reason in health.reasons} if health is not None else {"unknown"}
        return rules <= _OF_MISSED_CYCLES

    def fit(self, since_ms: int) -> bool:
        """Both ends replicate, a cycle came since then, and a planned failover would be taken."""
        ends = [self.heard.report(site) for site in (PRIMARY, DR)]
        replicates = all(
            end is not None and end.state is ReplicationState.REPLICATING and end.last_replication_at_ms > since_ms
            for end in ends
        )
        return replicates and self.well() and self.vm.readiness in _FIT and self.vm.replica() is not None

    def received(self, site: str, since_ms: int) -> bool:
        """Whether the replica at a site has received a cycle since then."""
        end = self.heard.report(site)
        return end is not None and end.last_replication_at_ms > since_ms

    def run(self, run_id: str) -> RunSnapshot | None:
        """A run as it stands; None before it is known."""
        with suppress(LookupFailed):
            return self.model.run(run_id)
        return None

    def is_at(self, run_id: str, number: str) -> bool:
        """Whether a run's step of that number is issued, or was: some are over before anybody sees it."""
        run = self.run(run_id)
        if run is None:
            return False
        begun = any(step.step == number and step.state is not StepState.PENDING for step in run.steps)
        return begun or run.state.ended

    async def disk(self, site: str) -> Path:
        """Where the VM's disk is at a site, or would be."""
        return await asyncio.to_thread(disk_of, self.node(site), VM)

    # Waiting

    async def ended(self, run_id: str) -> RunSnapshot:
        """Wait until a run ends. While it is parked, a person has it try again: what was wrong is over by then."""
        said_s = 0.0
        deadline = time.monotonic() + 2 * PATIENCE_S

        def to_be_told() -> bool:
            run = self.run(run_id)
            parked = run is not None and run.state is RunState.PARKED
            return parked and time.monotonic() > said_s + _SAID_AGAIN_S

        while True:
            left_s = deadline - time.monotonic()
            await self.until(f"{run_id} ends", lambda: self._has_ended(run_id) or to_be_told(), patience_s=left_s)
            run = self.run(run_id)
            assert run is not None
            if run.state.ended:
                return run
            said_s = time.monotonic()
            self.parked.append(told(run))
            await self.word(RequestAction.RESUME, run)

    def _has_ended(self, run_id: str) -> bool:
        run = self.run(run_id)
        return run is not None and run.state.ended

    async def until(self, what: str, holds: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
        """Wait until something holds.

        Raises:
            AssertionError: it does not within that time; or the VM was seen to run at both sites meanwhile.

        """

        def holds_and_all_is_well() -> bool:
            assert not self.oracle.violations(), self.oracle.violations()
            self.installation.require_alive()
            return holds()

        try:
            await until(what, holds_and_all_is_well, patience_s=patience_s)
        except TimeoutError as error:
            raise AssertionError(f"{error}; {self.stands()}") from None

    def stands(self) -> str:
        """How everything stands, in one line: for a failure."""
        said = [
            f"{site}: {end.mode} {end.state} {end.health}, {end.reported_at_ms - end.last_replication_at_ms} ms behind"
            for site in (PRIMARY, DR)
            if (end := self.heard.report(site)) is not None
        ]
        with suppress(LookupFailed):
            vm = self.vm
            said += [f"{here.role} on {here.node}" for here in vm.locations]
            said += [f"{vm.health.health} {vm.health.reasons}" if vm.health is not None else "no health"]
            said += [*vm.defects, told(vm.run)]
        return "; ".join([*said, f"runs on {', '.join(self.oracle.runs_on(VM)) or 'no node'}"])


async def until(what: str, holds: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: it does not within that time.

    """
    deadline = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience_s:g} s")
        await asyncio.sleep(_POLL_S)


def new_run_id(kind: FailoverKind) -> str:
    """The id of a run that is still to be asked for."""
    return f"{kind.lower()}-{uuid.uuid4().hex[:8]}"


def told(run: RunSnapshot | None) -> str:
    """A run and its steps, in one line."""
    if run is None:
        return "no run"
    steps = "; ".join(
        f"{step.step} {step.state}" + (f" ({step.detail})" if step.detail else "")
        for step in run.steps
        if step.state is not StepState.PENDING
    )
    return f"{run.run_id} is {run.state} ({run.detail or run.waits_for}): {steps}"


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
