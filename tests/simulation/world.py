"""One simulated installation under one schedule: everything around the workers and agents, and the course of events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import Any

from failover_orch.contract import SOURCES, Codec, event_headers, everywhere, key_of, topic_of
from failover_orch.domain import (
    Action,
    Adapter,
    AdapterAddresses,
    AdapterKind,
    Brake,
    ClusterInventory,
    Evidence,
    FailoverRequested,
    FamilyAddresses,
    Guest,
    IntegrationServices,
    MoveKind,
    Node,
    NodeState,
    Replication,
    ReplicationHealth,
    ReplicationMode,
    ReplicationReport,
    ReplicationState,
    RequestAction,
    RunSnapshot,
    SettingsChange,
    SettingsObserved,
    SettingsScope,
    StepCommand,
    UnsetAdapters,
    Verdict,
    VmInventory,
    VmMoved,
    VmReplicationSettings,
)
from failover_orch.domain.terms import LATEST, PointChoice, WantedPoint
from failover_orch.streams.folding import Folding, Outgoing
from simulation.agents import Agent, Order
from simulation.codec import PlainCodec, value_of
from simulation.log import Log, Record, home
from simulation.loop import Loop
from simulation.machines import COPY_MS, ISOLATED, PRODUCTION, End, Hypervisors, Machine, Site
from simulation.schedule import PEOPLE, SETTINGS, SITES, START_MS, Behaviour, Happening, Schedule, VmPlan, What
from simulation.settings import texts_of
from simulation.workers import Workers

__all__ = ["CLUSTERS", "FREQUENCY_S", "Watch", "World"]

FREQUENCY_S = 30
_TELL_EVERY_MS = 15_000
_LOOK_AT_SETTINGS_MS = 60_000
_SETTLED_MS = 1_500
"""When all that is there has been told."""
_HEALED_MS = 14 * 60_000
"""When everything that was broken has been put right."""
_QUIET_MS = 6 * 60_000
"""For how long health is reported and evidence given after that."""
_AT_REST_MS = 40 * 60_000
"""What is put off for longer than this is not waited for: nothing but the forgetting of runs takes so long."""
_MOST_ANSWERS = 40
_RESTARTED_MS = 8_000
"""How long a cluster takes to start a VM of a node that is down on another."""
CLUSTERS = {"primary": "pc", "dr": "dc"}
"""By site."""
_WITNESS, _THIRD = "witness", "third"
_PLACES = 2
"""From which a lost site is seen: the other site, and the witness's."""


class Watch:
    """What is told of everything that happens, to say whether it should have. See `invariants`."""

    def told(self, value: Any, partition: int, folding: Folding) -> None:
        """A partition task has committed this output."""

    def published(self, value: Any) -> None:
        """Somebody outside has said this."""

    def written(self, partition: int, event_id: str) -> None:
        """An output with this id is there, in a partition of its topic."""

    def committed(self, partition: int, folding: Folding) -> None:
        """All of a transaction has been told."""

    def performed(self, command: StepCommand) -> None:
        """A command has been carried out, refused or found void."""

    def at_rest(self) -> None:
        """Nothing is left to happen."""


@lru_cache(1)
def _real_codec() -> Codec:
    return Codec()


class World:
    """A schedule, coming about. `lines` is the narrative."""

    def __init__(self, schedule: Schedule, watch: Callable[[World], Watch], *, narrated: bool = False) -> None:
        self.schedule = schedule
        self.lines: list[tuple[int, str]] = []
        self._narrated = narrated
        self.loop = Loop(START_MS)
        self._random = Random(f"latencies of {schedule.seed}")
        self.log = Log(schedule.partitions, lambda: self._random.randint(1, schedule.slowest_ms))
        self.codec: Codec = _real_codec() if schedule.avro else PlainCodec()
        self.sites = {name: Site(name, {f"{name}-{n}": True for n in (1, 2)}) for name in SITES}
        self.hypervisors = Hypervisors(self.sites, {vm.vm_id: _machine(vm) for vm in schedule.vms})
        self.agents = {
            name: Agent(
                site,
                self.loop,
                self.hypervisors,
                self._random,
                publish=self.publish,
                performed=self._performed,
                began=self._tell_inventory,
                say=self.say,
            )
            for name, site in self.sites.items()
        }
        self.snapshots: dict[str, RunSnapshot] = {}
        self.false_claims: set[str] = set()
        """Sites and runs of which somebody has said, wrongly, that the primary is gone or off."""
        self._begun: list[str] = []
        self._commands: defaultdict[str, int] = defaultdict(int)
        self._orders = 0
        self._published = 0
        self._twice: dict[int, int] = {}
        self._faults: dict[tuple[str, int], Happening] = {}
        self._until_kafka: list[object] = []
        self._accused: set[str] = set()
        self._off: set[str] = set()
        self._second_witness = any((policy.observers or 0) > _PLACES for policy in schedule.policies)
        self.watch = watch(self)
        self.workers = Workers(
            self.loop,
            self.log,
            self.codec,
            self._random,
            skews_ms=schedule.skews_ms,
            sites=SITES,
            told=self._told,
            say=self.say,
        )

    @property
    def now_ms(self) -> int:
        return self.loop.now_ms

    def say(self, line: str) -> None:
        """Add to the narrative."""
        if self._narrated:
            self.lines.append((self.loop.now_ms - START_MS, line))

    def run(self) -> None:
        """Let it all come about, until nothing is left to happen."""
        self._begin()
        for happening in self.schedule.happenings:
            match happening.what:
                case What.COMMAND:
                    self._faults[happening.target, happening.number] = happening
                case What.TWICE:
                    self._twice[happening.number] = happening.lasts_ms
                case _:
                    self.loop.at(START_MS + happening.at_ms, self._happen, happening)
        self.loop.at(START_MS + _HEALED_MS, self._heal)
        self.loop.run_until(START_MS + _HEALED_MS + 1)
        self._come_to_rest()
        if self.schedule.obliging:
            self._answer_everybody()
        self.watch.at_rest()

    # How it begins

    def _begin(self) -> None:
        for site in SITES:
            self.publish(self._cluster(site))
        for policy in self.schedule.policies:
            self.publish(replace(policy, actor="ann", reason="as agreed", set_at_ms=START_MS))
        for number, vm in enumerate(self.schedule.vms):
            machine = self.hypervisors.machines[vm.vm_id]
            machine.received_ms = START_MS
            machine.told = (vm.primary, ReplicationState.REPLICATING)
            self.publish(self._inventory(machine, machine.ends[vm.primary]))
            for end in machine.ends.values():
                self.publish(self._moved(machine, end, MoveKind.PLACED))
            # Once the VM is known: settings of one that is not are refused.
            self.loop.after(_SETTLED_MS, self.publish, _settings(vm, number))
        if self.schedule.plan is not None:
            self.publish(self.schedule.plan)
        self.workers.start()
        if self.schedule.periodic:
            self.loop.after(1_000, self._tell, START_MS + _HEALED_MS + _QUIET_MS)
        if any(each.what is What.SETTINGS for each in self.schedule.happenings):
            self.loop.after(_LOOK_AT_SETTINGS_MS, self._look_at_settings, START_MS + _HEALED_MS + _QUIET_MS)

    def _cluster(self, site: str) -> ClusterInventory:
        nodes = tuple(
            Node(name, NodeState.UP if up else NodeState.DOWN, 65_536, 32_768)
            for name, up in self.sites[site].nodes.items()
        )
        return ClusterInventory(
            CLUSTERS[site],
            site,
            f"{site}-broker",
            nodes,
            networks=(PRODUCTION, ISOLATED),
            reported_at_ms=self.now_ms,
        )

    def _inventory(self, machine: Machine, end: End) -> VmInventory:
        number = int(machine.vm_id.removeprefix("vm-"))
        other = machine.other(end)
        return VmInventory(
            vm_id=machine.vm_id,
            name=machine.vm_id,
            adapters=(
                Adapter(
                    "nic-0", AdapterKind.SYNTHETIC, f"00:15:5d:00:00:{number:02x}", PRODUCTION, (_address(10, number),)
                ),
            ),
            guest=Guest("debian-12", IntegrationServices.RUNNING),
            replication=Replication(
                end.state, end.site, other.site, CLUSTERS[end.site], CLUSTERS[other.site], FREQUENCY_S
            ),
            memory_mib=1_024,
            reported_at_ms=self.now_ms,
        )

    def _moved(self, machine: Machine, end: End, kind: MoveKind, node: str = "") -> VmMoved:
        return VmMoved(
            machine.vm_id,
            end.site,
            node or end.node,
            kind,
            self.now_ms,
            cluster=CLUSTERS[end.site],
            sequence=end.moves,
        )

    # What is said and heard

    def publish(self, value: object) -> None:
        """Somebody outside the workers writes a record."""
        if self.workers.kafka_away:
            self._until_kafka.append(value)
            return
        self.watch.published(value)
        self._published += 1
        self._append(value)
        delay = self._twice.get(self._published)
        if delay is not None:
            self.loop.after(delay, self._repeat, value)

    def _repeat(self, value: object) -> None:
        """A producer that heard no acknowledgement writes its record once more."""
        self.say(f"{type(value).__name__} comes once more")
        if isinstance(value, FailoverRequested):
            self._disturb(value.vm_id)
        self._append(value)

    def _disturb(self, vm_id: str) -> None:
        """Somebody has spoken to a run: of this VM, or of a plan or list and so of any."""
        machines = self.hypervisors.machines
        for machine in [machines[vm_id]] if vm_id in machines else machines.values():
            machine.disturbed += 1

    def _append(self, value: object) -> None:
        topic, key, data = topic_of(value), key_of(value), self.codec.encode(value)
        headers = event_headers(value, source="outside", event_id="x", time_ms=self.now_ms)
        partitions = range(self.log.partitions) if everywhere(value) else (home(key, self.log.partitions),)
        for partition in partitions:
            record = self.log.append(topic, partition, key, data, headers, self.now_ms)
            self.workers.wake(partition, record.visible_ms)

    def _told(self, partition: int, written: list[tuple[Outgoing, int, Record]], folding: Folding) -> None:
        """A transaction of a partition task is there."""
        for outgoing, to, record in written:
            value = value_of(self.codec, outgoing.value)
            if isinstance(value, StepCommand):
                self._command(value, record)
            elif isinstance(value, RunSnapshot):
                self._snapshot(value)
            self.watch.written(to, next(said.decode() for name, said in outgoing.headers if name == "ce_id"))
            self.watch.told(value, partition, folding)
            if outgoing.topic in SOURCES:
                self.workers.wake(to, record.visible_ms)
        self.watch.committed(partition, folding)

    def _command(self, command: StepCommand, record: Record) -> None:
        about = command.vm_id if not command.key else (command.plan_run_id and "erp") or "erp"
        if command.action is Action.APPLY_SETTINGS:
            about = SETTINGS
        self._commands[about] += 1
        fault = self._faults.get((about, self._commands[about]))
        self._orders += 1
        order = Order(
            self._orders,
            command,
            Behaviour[fault.more] if fault is not None else None,
            fault.lasts_ms if fault is not None else 0,
        )
        if fault is not None:
            self.say(f"{command.action} of {command.run_id} {command.step}: {order.behaviour}")
        self.loop.at(record.visible_ms, self.agents[command.site].take, order)

    def _performed(self, command: StepCommand) -> None:
        self._look()
        if command.action is Action.RESYNCHRONIZE:
            self.loop.after(COPY_MS + 1, self._look)
        self.watch.performed(command)

    def _look(self) -> None:
        """Let replication go on, and let whoever is active tell where it stands by now."""
        self.hypervisors.cycle(self.now_ms)
        for machine in self.hypervisors.machines.values():
            end = machine.active
            if (end.site, end.state) != machine.told and self.agents[end.site].at_work and self.hypervisors.up(end):
                machine.told = (end.site, end.state)
                self.publish(self._inventory(machine, end))

    def _snapshot(self, snapshot: RunSnapshot) -> None:
        known = self.snapshots.get(snapshot.run_id)
        if known is None:
            self._begun.append(snapshot.run_id)
        if known is None or known.state is not snapshot.state:
            waits = f", waits for {snapshot.waits_for}" if snapshot.waits_for else ""
            detail = f" ({snapshot.detail})" if snapshot.detail else ""
            self.say(f"run {snapshot.run_id} of {snapshot.vm_id or snapshot.plan_id}: {snapshot.state}{detail}{waits}")
        self.snapshots[snapshot.run_id] = snapshot

    # What happens

    def _happen(self, happening: Happening) -> None:
        self.hypervisors.cycle(self.now_ms)
        self.say(str(happening).partition(" s ")[2])
        _DO[happening.what](self, happening)

    def _request(self, happening: Happening) -> None:
        request = happening.request
        assert request is not None
        if request.primary_is_down:
            for vm_id in (request.vm_id, *request.vm_ids, *(self._plan_vms() if request.plan_id else ())):
                if vm_id and self.hypervisors.machines[vm_id].running:
                    self.false_claims.add(vm_id)
        self.publish(replace(request, requested_at_ms=self.now_ms))

    def _plan_vms(self) -> tuple[str, ...]:
        return tuple(self.hypervisors.machines)

    def _word(self, happening: Happening) -> None:
        """Somebody speaks to a run, one that has not ended if there is any."""
        open_runs = [run_id for run_id in self._begun if not self.snapshots[run_id].state.ended] or self._begun
        if not open_runs:
            return
        snapshot = self.snapshots[open_runs[happening.number % len(open_runs)]]
        action = happening.more
        if not action:
            if not snapshot.choices:
                return
            action = snapshot.choices[happening.number % len(snapshot.choices)]
        self._speak(snapshot, RequestAction(action), happening.target, happening.number)

    def _speak(self, snapshot: RunSnapshot, action: RequestAction, actor: str, number: int) -> None:
        point = LATEST
        if action is RequestAction.TRY_ANOTHER:
            point = WantedPoint(PointChoice.NAMED, point_id=f"rp-{number % 5}")
        if action is RequestAction.REQUEST:
            return
        self.say(f"{actor} says {action} to {snapshot.run_id}")
        self._disturb(snapshot.vm_id)
        self.publish(
            FailoverRequested(
                snapshot.run_id,
                action,
                snapshot.kind,
                actor,
                "a word",
                self.now_ms,
                vm_id=snapshot.vm_id,
                plan_id=snapshot.plan_id if not snapshot.vm_id else "",
                vm_ids=() if snapshot.vm_id or snapshot.plan_id else ("-",),
                point=point,
            )
        )

    def _brake(self, happening: Happening) -> None:
        self.publish(Brake(True, "ann", "to be on the safe side", self.now_ms))
        if happening.lasts_ms:
            self.loop.after(happening.lasts_ms, self._release)

    def _release(self) -> None:
        self.say("ben releases the brake")
        self.publish(Brake(False, "ben", "looked into it", self.now_ms))

    def _policy(self, happening: Happening) -> None:
        assert happening.policy is not None
        self.publish(replace(happening.policy, actor="ben", reason="changed", set_at_ms=self.now_ms))

    def _plan(self, happening: Happening) -> None:
        assert happening.plan is not None
        self.publish(replace(happening.plan, set_at_ms=self.now_ms))

    def _link(self, happening: Happening) -> None:
        self.hypervisors.link_up = False
        self.loop.after(happening.lasts_ms, self._link_back)

    def _link_back(self) -> None:
        self.hypervisors.cycle(self.now_ms)
        self.hypervisors.link_up = True
        self._look()

    def _site(self, happening: Happening) -> None:
        site = self.sites[happening.target]
        if not site.powered:
            return
        site.powered = False
        self.hypervisors.lose_power(site.name)
        self.agents[site.name].stop()
        self.loop.after(happening.lasts_ms, self._site_back, site)

    def _site_back(self, site: Site) -> None:
        if site.powered:
            return
        self.say(f"power is back at {site.name}")
        self.hypervisors.cycle(self.now_ms)
        site.powered = True
        self._off.discard(site.name)
        self.agents[site.name].resume()
        self._tell_inventory(site.name)

    def _isolated(self, happening: Happening) -> None:
        site = self.sites[happening.target]
        site.isolated = True
        # Its VMs run on where nobody sees it: that it cannot be reached proves nothing.
        self.agents[site.name].stop()
        self.loop.after(happening.lasts_ms, self._joined, site)

    def _joined(self, site: Site) -> None:
        self.hypervisors.cycle(self.now_ms)
        site.isolated = False
        self.agents[site.name].resume()
        self._tell_inventory(site.name)

    def _node(self, happening: Happening) -> None:
        site = self.sites[happening.target]
        node = f"{site.name}-{happening.number}"
        if not site.nodes[node]:
            return
        site.nodes[node] = False
        self.hypervisors.lose_power(site.name, node)
        self._tell_cluster(site)
        self.loop.after(_RESTARTED_MS, self._restart_elsewhere, site, node)
        self.loop.after(happening.lasts_ms, self._node_back, site, node)

    def _node_back(self, site: Site, node: str) -> None:
        self.hypervisors.cycle(self.now_ms)
        site.nodes[node] = True
        self._tell_cluster(site)
        self._look()

    def _restart_elsewhere(self, site: Site, node: str) -> None:
        """A cluster does not leave its VMs on a node that is down; they stay off until somebody starts them."""
        other = next((name for name, up in site.nodes.items() if up), None)
        if site.nodes[node] or other is None or not site.powered:
            return
        self.hypervisors.cycle(self.now_ms)
        for machine in self.hypervisors.machines.values():
            end = machine.ends[site.name]
            if end.node == node:
                end.node = other
                end.moves += 1
                if site.reachable:
                    self.publish(self._moved(machine, end, MoveKind.PLACED))

    def _migration(self, happening: Happening) -> None:
        machine = self.hypervisors.machines[happening.target]
        end = machine.ends[happening.more]
        site = self.sites[end.site]
        new = next((name for name, up in site.nodes.items() if up and name != end.node), None)
        if new is None or not self.hypervisors.up(end) or not site.reachable:
            return
        old, end.node = end.node, new
        end.moves += 1
        self.publish(self._moved(machine, end, MoveKind.LIVE))
        self.publish(self._moved(machine, end, MoveKind.DEPARTED, old))

    def _silence(self, happening: Happening) -> None:
        machine = self.hypervisors.machines[happening.target]
        machine.silenced = True
        self.loop.after(happening.lasts_ms, self._unsilence, machine)

    def _unsilence(self, machine: Machine) -> None:
        machine.silenced = False

    def _evidence(self, happening: Happening) -> None:
        self._accused.add(happening.target)
        self.false_claims.add(happening.target)
        self.loop.after(happening.lasts_ms, self._accused.discard, happening.target)

    def _fence(self, happening: Happening) -> None:
        """A fence device cuts a site's power and says so: the one proof there is."""
        self._site(happening)
        self._off.add(happening.target)
        self.publish(Evidence("pdu", _THIRD, happening.target, Verdict.OFF, self.now_ms, detail="power cut"))

    def _agent(self, happening: Happening) -> None:
        self.agents[happening.target].crash(happening.lasts_ms)

    def _worker(self, happening: Happening) -> None:
        self.workers.crash(happening.number, happening.lasts_ms)

    def _committing(self, happening: Happening) -> None:
        self.workers.crash_after_commit(happening.number)

    def _zombie(self, happening: Happening) -> None:
        self.workers.pause(happening.number, happening.lasts_ms)

    def _rebalance(self, happening: Happening) -> None:
        self.workers.move(happening.number)

    def _again(self, happening: Happening) -> None:
        self.workers.read_again(happening.number, happening.lasts_ms)

    def _delay(self, happening: Happening) -> None:
        self.log.delays[happening.target] = happening.lasts_ms
        self.loop.after(happening.lasts_ms, self.log.delays.pop, happening.target, None)

    def _kafka(self, happening: Happening) -> None:
        self.workers.kafka_away = True
        self.loop.after(happening.lasts_ms, self._kafka_back)

    def _kafka_back(self) -> None:
        if not self.workers.kafka_away:
            return
        self.say("Kafka is back")
        self.workers.kafka_away = False
        held, self._until_kafka = self._until_kafka, []
        for value in held:
            self.publish(value)
        for partition in range(self.log.partitions):
            self.workers.wake(partition, self.now_ms + 1)

    def _set(self, happening: Happening) -> None:
        """Somebody changes replication settings."""
        scope = SettingsScope.CLUSTER if happening.target in CLUSTERS.values() else SettingsScope.VM
        self.publish(
            SettingsChange(
                scope,
                happening.target,
                texts_of(happening.more),
                "ann",
                "as the house wants it",
                self.now_ms,
                based_on=happening.number,
                change_id=f"{happening.target} at {happening.at_ms}: {happening.more}",
            )
        )

    def _overwrite(self, happening: Happening) -> None:
        self.hypervisors.taken.overwrite(happening.target, 8440 + happening.number)

    def _unable(self, happening: Happening) -> None:
        unable = self.hypervisors.taken.unable
        unable[happening.target] = Behaviour[happening.more]
        self.loop.after(happening.lasts_ms, unable.pop, happening.target, None)

    # What sites tell of their own accord

    def _look_at_settings(self, until_ms: int) -> None:
        """Agents say what their nodes have, and the VMs that are active there."""
        if self.now_ms > until_ms:
            return
        self.loop.after(_LOOK_AT_SETTINGS_MS, self._look_at_settings, until_ms)
        taken = self.hypervisors.taken
        for site in self.sites.values():
            if not self.agents[site.name].at_work:
                continue
            cluster = CLUSTERS[site.name]
            for node, up in site.nodes.items():
                if up:
                    self.publish(SettingsObserved(site.name, cluster, node, self.now_ms, server=taken.servers[node]))
            for machine in self.hypervisors.machines.values():
                end = machine.active
                if end.site == site.name and self.hypervisors.up(end):
                    has = taken.replications[machine.vm_id, site.name]
                    self.publish(
                        SettingsObserved(site.name, cluster, end.node, self.now_ms, machine.vm_id, replication=has)
                    )

    def _tell(self, until_ms: int) -> None:
        if self.now_ms > until_ms:
            return
        self.loop.after(_TELL_EVERY_MS, self._tell, until_ms)
        self._look()
        second = (self.now_ms - START_MS) // _TELL_EVERY_MS % 2
        for site in self.sites.values():
            if self.agents[site.name].at_work:
                if second:
                    for machine in self.hypervisors.machines.values():
                        self._report(machine, machine.ends[site.name])
                self.publish(Evidence(f"agent-{site.name}", site.name, site.name, Verdict.UP, self.now_ms))
            verdict = self._seen_by_witness(site)
            self.publish(Evidence(_WITNESS, _THIRD, site.name, verdict, self.now_ms))
            if self._second_witness:
                # In the same place as the first: it says nothing that the first does not.
                self.publish(Evidence(f"{_WITNESS}-2", _THIRD, site.name, verdict, self.now_ms))
            if site.name in self._off:
                self.publish(Evidence("pdu", _THIRD, site.name, Verdict.OFF, self.now_ms, detail="power cut"))

    def _seen_by_witness(self, site: Site) -> Verdict:
        """A witness who sees whether there is power can say DOWN; one who only probes cannot tell that from a cut."""
        if site.name in self._accused:
            return Verdict.DOWN
        if not site.powered and self.schedule.sees_power:
            return Verdict.DOWN
        return Verdict.UP if site.reachable else Verdict.UNREACHABLE

    def _report(self, machine: Machine, end: End) -> None:
        if not self.hypervisors.up(end):
            return
        well = self.hypervisors.replicates(machine)
        health = ReplicationHealth.NORMAL
        if end.state is ReplicationState.ERROR or (end.mode is ReplicationMode.PRIMARY and not well):
            health = ReplicationHealth.CRITICAL
        self.publish(
            ReplicationReport(
                machine.vm_id,
                end.site,
                end.node,
                end.mode,
                end.state,
                health,
                self.now_ms,
                last_replication_at_ms=machine.received_ms,
            )
        )

    def _tell_cluster(self, site: Site) -> None:
        if self.agents[site.name].at_work:
            self.publish(self._cluster(site.name))
            if self.schedule.periodic:
                for node, up in site.nodes.items():
                    verdict = Verdict.UP if up else Verdict.DOWN
                    self.publish(Evidence(f"agent-{site.name}", site.name, site.name, verdict, self.now_ms, node=node))

    def _tell_inventory(self, site: str) -> None:
        """An agent that begins tells all that is there."""
        if not self.agents[site].at_work:
            return
        self.publish(self._cluster(site))
        for machine in self.hypervisors.machines.values():
            end = machine.ends[site]
            self.publish(self._moved(machine, end, MoveKind.PLACED))
            if machine.active is end:
                self.publish(self._inventory(machine, end))
        self._look()

    # How it ends

    def _heal(self) -> None:
        """Whatever was broken is put right; from here on it has to come to rest by itself."""
        self.say("everything that was broken has been put right")
        self._link_back()
        self._kafka_back()
        self.log.delays.clear()
        for site in self.sites.values():
            self._site_back(site)
            if site.isolated:
                self._joined(site)
            for node, up in site.nodes.items():
                if not up:
                    self._node_back(site, node)
        for machine in self.hypervisors.machines.values():
            machine.silenced = False
        self.hypervisors.taken.unable.clear()
        self._accused.clear()

    def _come_to_rest(self) -> None:
        until = self.now_ms + _AT_REST_MS
        while (next_ms := self.loop.next_ms()) is not None and next_ms < until:
            self.loop.run_until(next_ms)

    def _answer_everybody(self) -> None:
        """Somebody sees to whatever waits for a person, one after the other."""
        for number in range(_MOST_ANSWERS):
            waiting = [run for run in self.snapshots.values() if not run.state.ended and run.choices]
            if not waiting:
                return
            snapshot = waiting[number % len(waiting)]
            asked = snapshot.choices[self._random.randrange(len(snapshot.choices))]
            actor = next(person for person in PEOPLE[number % 3 :] + PEOPLE if person != snapshot.actor)
            self._speak(snapshot, RequestAction(asked), actor, number)
            self._come_to_rest()


def _machine(vm: VmPlan) -> Machine:
    ends = {
        vm.primary: End(
            vm.primary,
            f"{vm.primary}-1",
            ReplicationMode.PRIMARY,
            ReplicationState.REPLICATING,
            running=True,
            connected=True,
        ),
        vm.replica: End(
            vm.replica, f"{vm.replica}-1", ReplicationMode.REPLICA, ReplicationState.REPLICATING, running=False
        ),
    }
    return Machine(vm.vm_id, ends, deaf=vm.deaf)


def _address(network: int, number: int) -> str:
    return f"10.{network}.0.{number + 11}/24"


def _adapters(network: int, number: int) -> tuple[AdapterAddresses, ...]:
    return (
        AdapterAddresses(
            "nic-0", FamilyAddresses(addresses=(_address(network, number),), gateways=(f"10.{network}.0.1",))
        ),
    )


def _settings(vm: VmPlan, number: int) -> VmReplicationSettings:
    return VmReplicationSettings(
        vm.vm_id,
        _adapters(20, number),
        UnsetAdapters.REFUSE,
        "ann",
        "the DR site's plan",
        START_MS,
        home_adapters=_adapters(10, number),
        test_adapters=_adapters(99, number),
        test_network=ISOLATED,
    )


_DO: Mapping[What, Callable[[World, Happening], None]] = {
    What.REQUEST: World._request,
    What.WORD: World._word,
    What.BRAKE: World._brake,
    What.POLICY: World._policy,
    What.PLAN: World._plan,
    What.LINK: World._link,
    What.SITE: World._site,
    What.ISOLATED: World._isolated,
    What.NODE: World._node,
    What.MIGRATION: World._migration,
    What.SILENCE: World._silence,
    What.EVIDENCE: World._evidence,
    What.FENCE: World._fence,
    What.AGENT: World._agent,
    What.WORKER: World._worker,
    What.COMMITTING: World._committing,
    What.ZOMBIE: World._zombie,
    What.REBALANCE: World._rebalance,
    What.AGAIN: World._again,
    What.DELAY: World._delay,
    What.KAFKA: World._kafka,
    What.SETTINGS: World._set,
    What.OVERWRITE: World._overwrite,
    What.UNABLE: World._unable,
}
