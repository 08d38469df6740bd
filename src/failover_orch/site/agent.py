"""The site agent's process: commands in, results out; observations and health reports out."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError as AiokafkaError

from failover_orch import telemetry
from failover_orch.contract import PER_SITE, Codec, Names, key_of, site_topic, step_commands_topic, traceparent_of
from failover_orch.domain.facts import StepOutcome, StepResult
from failover_orch.domain.records import Action, DeadLetter, RoutingUpdate, StepCommand
from failover_orch.errors import HypervisorError, KafkaError, TopicMismatch, UndecodableRecord, UnencodableRecord
from failover_orch.hypervisors import HostedVm, Hypervisor
from failover_orch.kafka_address import client_options
from failover_orch.site.allowed import Allowed
from failover_orch.site.answers import answer
from failover_orch.site.claims import Claims
from failover_orch.site.lanes import Lanes
from failover_orch.site.offsets import Offsets
from failover_orch.site.own_site import OwnSite
from failover_orch.site.pause import Pause
from failover_orch.site.plan_work import PlanWork, is_plan_work, only_once
from failover_orch.site.settings_keeping import SettingsKeeping
from failover_orch.site.steps import Steps
from failover_orch.wire import (
    Publisher,
    explained,
    follow,
    now_ms,
    partition_counts,
    require_topics,
    start_client,
    stop_consumer,
)

__all__ = ["AgentOptions", "SiteAgent"]

_log = telemetry.logger(__name__)

_TOPICS = ("dead-letters", "routing-updates")
"""What it needs besides its site's own topics."""
_POLL_MS = 200
_REPORT_TICK_S = 1.0
_EVIDENCE_TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent goes about its work. Durations in seconds."""

    report_every: float = 0
    """Interval of each VM's health reports; 0: each VM's own replication frequency."""
    per_node: int = 4
    """Steps carried out on one node at a time."""
    per_site: int = 0
    """Steps carried out at a time in all; 0: no limit."""
    plan_work: int = 16
    """Scripts and HTTP calls of plans at a time."""
    scripts: tuple[Path, ...] = ()
    """Directories of the scripts that plans may run; none: plans run no scripts here."""
    urls: tuple[str, ...] = ()
    """Prefixes, with scheme and host, of the URLs that plans may call; none: plans call nothing from here."""
    ledger_hours: float = 24.0
    """How long after its issue a script or call may still be delivered again and be known for what it is."""
    evidence_every: float = 5.0
    """Interval at which the agent says that its site is at work; 0: it never does."""
    settings_every: float = 60.0
    """Interval at which the agent tells what replication settings its nodes have, changed or not; 0: it never does."""
    in_flight: int = 500
    """Commands taken and not yet answered."""
    grace: float = 10.0
    """How long steps that are under way may take when the agent is stopped or loses a partition."""
    session_timeout: float = 6.0


class SiteAgent:
    """Next to a site's hypervisors: carries out its step commands and tells what its hypervisors tell.

    Any number of agents may serve one site: they share its commands by partition, and where a command reaches two of
    them the hypervisor's own record keeps it from taking effect twice. A command's offset is committed once its result
    is acknowledged by Kafka, so one that an agent did not live to answer is answered by the next.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        codec: Codec,
        *,
        bootstrap: str,
        names: Names,
        partitions: int,
        app_id: str,
        options: AgentOptions | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """`partitions` is how many every topic has; `clock` gives milliseconds since the Unix epoch.

        Raises:
            ConfigError: the options allow a directory that is not there, or a URL prefix that is none.

        """
        self._hypervisor = hypervisor
        self._codec = codec
        self._bootstrap = bootstrap
        self._names = names
        self._partitions = partitions
        self._options = options or AgentOptions()
        self._clock = clock
        self._group = f"{app_id}-site-{hypervisor.site}"
        self._topic = step_commands_topic(hypervisor.site)
        # A client id of its own, by which the site's other agents see whether this one is there.
        self._name = f"{hypervisor.site}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        per_node, per_site = self._options.per_node, self._options.per_site
        self._steps = Steps(hypervisor, per_node=per_node, per_site=per_site, clock=clock)
        self._plan_work = PlanWork(hypervisor.site, Allowed(self._options.scripts, self._options.urls), clock=clock)
        self._plan_turns = asyncio.Semaphore(self._options.plan_work)
        self._claims = Claims(
            codec,
            bootstrap=bootstrap,
            names=names,
            site=hypervisor.site,
            group=self._group,
            agent=self._name,
            hours=self._options.ledger_hours,
            clock=clock,
        )
        self._settings = SettingsKeeping(hypervisor, every_s=self._options.settings_every, clock=clock)
        self._lanes = Lanes()
        self._offsets: Offsets[TopicPartition] = Offsets()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to end: nothing new is begun, steps under way get their time, their results still go out."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`. Kafka may come and go meanwhile.

        Raises:
            TopicMismatch: a topic is missing, or has another number of partitions than the settings say.

        """
        publisher = await self._connect()
        if publisher is None:
            return
        try:
            await self._work(publisher)
        finally:
            await publisher.__aexit__(None, None, None)
        _log.info("site agent ends", site=self._hypervisor.site)

    async def _work(self, publisher: Publisher) -> None:
        _log.info("site agent works", site=self._hypervisor.site, group=self._group, agent=self._name)
        work = [self._take_commands, self._tell, self._report, self._learn_routes]
        if self._options.evidence_every:
            work.append(self._bear_witness)
        if self._options.settings_every:
            work.append(self._keep_settings)
        jobs = [asyncio.create_task(job(publisher)) for job in work]
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            # Only the first job ends by itself, when asked to; any of them that ends with an error ends the agent.
            await asyncio.wait([*jobs, stopped], return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                await asyncio.wait(jobs[:1])
        finally:
            for job in (*jobs, stopped):
                job.cancel()
            outcomes = await asyncio.gather(*jobs, stopped, return_exceptions=True)
            await self._lanes.cancel()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _connect(self) -> Publisher | None:
        """A publisher, once Kafka answers and has our topics; None if the agent is stopped before."""
        pause = Pause(self._stopping)
        while not self._stopping.is_set():
            publisher = Publisher(
                self._bootstrap,
                self._codec,
                names=self._names,
                partitions=self._partitions,
                source=f"site-agent/{self._hypervisor.site}",
                site=self._hypervisor.site,
            )
            try:
                own = (site_topic(topic, self._hypervisor.site) for topic in PER_SITE)
                wanted = (self._topic, *own, *_TOPICS)
                present = await partition_counts(self._bootstrap)
                require_topics(self._bootstrap, map(self._names.of, wanted), present)
                return await publisher.__aenter__()
            except TopicMismatch:
                raise
            except KafkaError as error:
                _log.warning("waiting for Kafka", error=error)
                await pause.take()
        return None

    async def _publish(self, publisher: Publisher, *values: object, traceparent: str = "") -> None:
        """Publish, for as long as that takes. Repeating is safe: readers know a repeated record for what it is."""
        pause = Pause(self._stopping, cut_short=False)
        while True:
            try:
                return await publisher.publish(*values, traceparent=traceparent)
            except TopicMismatch:
                raise
            except KafkaError as error:
                _log.warning("not published, will try again", records=len(values), error=error)
                await pause.take()

    # Commands

    async def _take_commands(self, publisher: Publisher) -> None:
        pause = Pause(self._stopping)
        while not self._stopping.is_set():
            try:
                await self._consume(publisher, pause)
            except KafkaError as error:
                # Whatever was under way is cut off: it comes again from the last committed offset.
                _log.warning("no commands from Kafka, will try again", topic=self._topic, error=error)
                await pause.take()
            finally:
                await self._lanes.cancel()

    async def _consume(self, publisher: Publisher, pause: Pause) -> None:
        self._offsets = Offsets()
        consumer = AIOKafkaConsumer(
            **client_options(self._bootstrap),
            group_id=self._group,
            client_id=self._name,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=int(self._options.session_timeout * 1000),
            heartbeat_interval_ms=int(self._options.session_timeout * 1000 / 3),
        )
        consumer.subscribe([self._names.of(self._topic)], listener=_Listener(self, consumer))
        with explained(self._bootstrap, f"the commands of {self._hypervisor.site}"):
            try:
                await start_client(consumer, self._bootstrap)
                while not self._stopping.is_set():
                    await self._lanes.room(self._options.in_flight)
                    room = self._options.in_flight - len(self._lanes)
                    batches = await consumer.getmany(timeout_ms=_POLL_MS, max_records=room)
                    pause.reset()
                    for partition, records in batches.items():
                        for record in records:
                            self._accept(publisher, partition, record)
                    self._lanes.check()
                    await self._commit(consumer)
                if not await self._lanes.drain(self._options.grace):
                    _log.warning("steps under way are left to the next agent", steps=len(self._lanes))
                await self._commit(consumer)
            finally:
                await stop_consumer(consumer)

    def _accept(self, publisher: Publisher, partition: TopicPartition, record: Any) -> None:
        offsets = self._offsets
        offsets.begin(partition, record.offset)
        traceparent = traceparent_of(record.headers)
        lane = (record.key or b"").decode(errors="replace")
        command: StepCommand | None = None
        flaw = ""
        try:
            command = self._decoded(record)
            if only_once(command):
                # A plan's actions do not wait for each other; the order of those that depend is its run's business.
                lane = f"{lane} {command.run_id} {command.step}"
            elif command.action is Action.APPLY_SETTINGS and command.server is not None:
                # The nodes of a cluster take theirs side by side, and each of them in the order they were given.
                lane = f"{lane} node {command.node}"
            self._settings.heard(command)
        except UndecodableRecord as error:
            flaw = str(error)

        async def work() -> None:
            # Queued behind another step while the partition went to another agent: that one will carry it out.
            if offsets is not self._offsets:
                return
            if command is None:
                await self._bury(publisher, record, flaw, traceparent)
            else:
                await self._answer(publisher, command, traceparent)
            offsets.finish(partition, record.offset)

        self._lanes.add(lane, work)

    async def _answer(self, publisher: Publisher, command: StepCommand, traceparent: str) -> None:
        attributes = {
            "vm.id": command.vm_id,
            "run.id": command.run_id,
            "step": command.step,
            "attempt": str(command.attempt),
            "site": command.site,
            "node": command.node,
        }
        with telemetry.span(f"step {command.action}", traceparent=traceparent, attributes=attributes) as span:
            result = await self._carry_out(publisher, command, span.traceparent)
            span.set(outcome=str(result.outcome))
            _log.info("step answered", **attributes, outcome=str(result.outcome), detail=result.detail)
            await self._publish(publisher, result, traceparent=span.traceparent)
        self._settings.applied(command)

    async def _carry_out(self, publisher: Publisher, command: StepCommand, traceparent: str) -> StepResult:
        if newer := self._settings.overtaken(command):
            return answer(command, StepOutcome.STALE, f"version {newer} has come since", {}, self._clock())
        if not is_plan_work(command):
            return await self._steps.run(command)
        async with self._plan_turns:
            if not only_once(command):
                return await self._plan_work.run(command, traceparent)
            return await self._claims.once(
                command,
                lambda: self._plan_work.run(command, traceparent),
                lambda begun: self._publish(publisher, begun, traceparent=traceparent),
            )

    def _decoded(self, record: Any) -> StepCommand:
        command = self._codec.decode_from(self._topic, record.value)
        if not isinstance(command, StepCommand):  # the codec has seen to this; the type checker has not
            raise UndecodableRecord(f"{type(command).__name__} is not a step command")
        if key_of(command) != record.key:
            # Its order among the VM's other commands, and so its meaning, is not to be relied on.
            raise UndecodableRecord(f"a command for VM {command.vm_id!r} under the key {record.key!r}")
        return command

    async def _bury(self, publisher: Publisher, record: Any, reason: str, traceparent: str) -> None:
        _log.error("command cannot be read", topic=self._topic, offset=record.offset, reason=reason)
        letter = DeadLetter(
            self._topic,
            record.partition,
            record.offset,
            reason,
            record.key or b"",
            record.value or b"",
            self._clock(),
        )
        await self._publish(publisher, letter, traceparent=traceparent)

    async def _commit(self, consumer: Any) -> None:
        offsets = self._offsets
        if not (ready := offsets.committable()):
            return
        try:
            async with asyncio.timeout(self._options.grace):
                await consumer.commit(ready)
        except (AiokafkaError, TimeoutError) as error:
            # Kafka is away, or the partitions are moving to another agent. No reason to cut off steps under way: what
            # stays uncommitted is at worst asked for again.
            _log.warning("offsets not committed", why=f"{type(error).__name__}: {error}")
        else:
            offsets.committed(ready)

    async def release(self, consumer: Any) -> None:
        """The partitions go elsewhere: let what is under way end, commit it, and begin nothing that is queued."""
        released = self._offsets
        await self._lanes.drain(self._options.grace / 2)
        await self._commit(consumer)
        if self._offsets is released:
            self._offsets = Offsets()

    # Observations and reports

    async def _tell(self, publisher: Publisher) -> None:
        pause = Pause(self._stopping)
        while True:
            try:
                async with aclosing(self._hypervisor.watch()) as told:
                    async for batch in told:
                        await self._publish_each(publisher, [observed.value for observed in batch])
                        await self._hypervisor.published(batch[-1].position)
                        pause.reset()
            except HypervisorError as error:
                _log.warning("hypervisors tell nothing, will ask again", error=error)
            await pause.take()

    async def _report(self, publisher: Publisher) -> None:
        every = self._options.report_every
        tick = min(_REPORT_TICK_S, every) if every else _REPORT_TICK_S
        due = _Due()
        while True:
            try:
                hosted = await self._hypervisor.vms()
                wanted = due.among(hosted, asyncio.get_running_loop().time(), every)
                if wanted:
                    await self._publish_each(publisher, await self._hypervisor.reports(wanted))
            except HypervisorError as error:
                _log.warning("hypervisors report nothing, will ask again", error=error)
            await asyncio.sleep(tick)

    async def _learn_routes(self, _publisher: Publisher) -> None:
        """Whoever replicates from here delivers to where the replicas are: the hypervisors are told every route."""
        pause = Pause(self._stopping)
        while True:
            try:
                routes = follow(self._bootstrap, ("routing-updates",), names=self._names)
                async with aclosing(routes) as reading:
                    async for records in reading:
                        for record in records:
                            await self._learn(record.value)
                        pause.reset()
            except TopicMismatch:
                raise
            except (HypervisorError, KafkaError) as error:
                _log.warning("no routes from Kafka, will try again", error=error)
            await pause.take()

    async def _learn(self, record: bytes | None) -> None:
        if record is None:
            return
        try:
            update = self._codec.decode_from("routing-updates", record)
        except UndecodableRecord as error:
            _log.error("routing update cannot be read", error=error)
            return
        if isinstance(update, RoutingUpdate):
            await self._hypervisor.routed(update)

    async def _bear_witness(self, publisher: Publisher) -> None:
        every = self._options.evidence_every
        own = OwnSite(self._hypervisor.site, every_s=every)
        while True:
            try:
                clusters = await self._hypervisor.clusters()
                said = own.due(clusters, asyncio.get_running_loop().time(), self._clock())
                if said:
                    # Not for as long as it takes: evidence of a while ago is worth little.
                    await publisher.publish(*said)
                    own.told(said, asyncio.get_running_loop().time())
            except TopicMismatch:
                raise
            except (HypervisorError, KafkaError, UnencodableRecord) as error:
                _log.warning("evidence not told, will try again", error=error)
            await asyncio.sleep(min(_EVIDENCE_TICK_S, every))

    async def _keep_settings(self, publisher: Publisher) -> None:
        await self._settings.run(lambda told: self._publish_each(publisher, told))

    async def _publish_each(self, publisher: Publisher, values: Iterable[object]) -> None:
        """Publish what is told, without what cannot be told: one bad value must not hold up all behind it."""
        values = list(values)
        try:
            if values:
                await self._publish(publisher, *values)
        except UnencodableRecord:
            for value in values:
                try:
                    await self._publish(publisher, value)
                except UnencodableRecord as error:
                    _log.error("observation left out: it does not fit the contract", value=value, error=error)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Hands partitions over cleanly."""

    def __init__(self, agent: SiteAgent, consumer: Any) -> None:
        self._agent = agent
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        if list(revoked):
            await self._agent.release(self._consumer)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        _log.info("partitions assigned", partitions=sorted(partition.partition for partition in assigned))


class _Due:
    """When each VM's next health report is due: at its interval, and at once when its state, role or node changes."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._last: dict[str, tuple[str, ...]] = {}

    def among(self, hosted: Iterable[HostedVm], now_s: float, every_s: float) -> frozenset[str]:
        """The VMs whose report is due now; they are taken as reported. `every_s` 0: each VM's own frequency."""
        due = set()
        for vm in hosted:
            stands = (vm.mode, vm.state, vm.node)
            if now_s >= self._next.get(vm.vm_id, 0) or stands != self._last.get(vm.vm_id):
                due.add(vm.vm_id)
                self._next[vm.vm_id] = now_s + (every_s or vm.frequency_s)
                self._last[vm.vm_id] = stands
        return frozenset(due)
