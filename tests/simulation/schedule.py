"""What a seed stands for: a small world, and everything out of the ordinary that happens to it, as data.

A schedule is drawn once, before anything runs. Shrinking a failing one is leaving happenings out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from failover_orch.domain import (
    AutomaticMode,
    FailoverKind,
    FailoverRequested,
    Policy,
    PolicyScope,
    RecoveryGroup,
    RecoveryPlan,
    RequestAction,
)
from failover_orch.domain.policies import ApprovalRule
from failover_orch.domain.settings import Gate, GateKind, PlanAction, PlanActionKind
from failover_orch.domain.terms import CommitPolicy, OnTaskFailure, PointChoice, StepPolicy, WantedPoint

__all__ = [
    "PEOPLE",
    "PLAN",
    "SETTINGS",
    "SITES",
    "START_MS",
    "Behaviour",
    "Happening",
    "Schedule",
    "VmPlan",
    "What",
    "draw",
]

SITES = ("primary", "dr")
_CLUSTERS = ("pc", "dc")
PEOPLE = ("ann", "ben", "cat", "dan")
PLAN = "erp"
SETTINGS = "settings"
"""What commands to apply settings are counted under, for what goes wrong with them."""
START_MS = 1_700_000_000_000
"""When every world begins."""
_SECOND_MS = 1_000
_MINUTE_MS = 60_000
_LONGEST_MS = 12 * _MINUTE_MS
"""When the last thing out of the ordinary begins, at the latest."""


class What(StrEnum):
    """Kinds of happening, as the narrative says them."""

    REQUEST = "asks for"
    WORD = "says"
    BRAKE = "the brake is"
    POLICY = "a policy is set"
    PLAN = "the plan is changed"
    LINK = "the sites lose each other"
    SITE = "power fails at"
    ISOLATED = "is cut off from everything"
    NODE = "goes down:"
    MIGRATION = "is live-migrated at"
    SILENCE = "stops replicating:"
    EVIDENCE = "an observer is wrong about"
    FENCE = "is switched off by a fence device:"
    COMMAND = "a command goes wrong for"
    AGENT = "the site agent crashes at"
    WORKER = "a worker crashes:"
    COMMITTING = "a worker crashes right after its commit:"
    ZOMBIE = "a worker hangs:"
    REBALANCE = "a partition goes to another worker:"
    AGAIN = "records are delivered again to partition"
    TWICE = "a record is published twice: number"
    DELAY = "is slow:"
    KAFKA = "Kafka is away"
    SETTINGS = "sets the replication of"
    OVERWRITE = "somebody else sets the https_port of"
    UNABLE = "cannot take its settings:"


class Behaviour(StrEnum):
    """What becomes of a command other than that it is done and answered."""

    LOST = "it is done, and the answer never comes"
    LATE = "it is done, and the answer comes late"
    TWICE = "it is answered twice"
    SLOW = "an agent that hung does it long after"
    DOUBLE = "two agents do it"
    SILENT = "nothing is done, nothing answered"
    FAILED = "it fails"
    DONE_AND_FAILED = "it is done and said to have failed"
    REFUSED = "it is refused"
    CRASH = "the agent crashes between doing and answering"


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happens, `at_ms` after the start. What the other fields mean is up to `what`."""

    at_ms: int
    what: What
    target: str = ""
    number: int = 0
    lasts_ms: int = 0
    more: str = ""
    request: FailoverRequested | None = None
    policy: Policy | None = None
    plan: RecoveryPlan | None = None

    def __str__(self) -> str:
        parts = [f"{self.at_ms / 1000:7.2f} s"]
        if self.request is not None:
            asked = self.request
            about = asked.vm_id or asked.plan_id or ", ".join(asked.vm_ids)
            parts.append(f"{asked.actor} asks for the {asked.kind.lower()} failover {asked.run_id} of {about}")
            parts += [name for name in ("primary_is_down", "accept_data_loss") if getattr(asked, name)]
            if asked.commit is not CommitPolicy.AT_ONCE:
                parts.append(f"{asked.commit.lower()} in {asked.window_ms / 1000:g} s")
        else:
            parts.append(f"{self.what} {self.target}".rstrip())
            parts += [str(self.number)] if self.number else []
            parts += [self.more] if self.more else []
        if self.policy is not None:
            parts.append(f"{self.policy.key}: {self.policy.mode or 'limits'}")
        if self.lasts_ms:
            parts.append(f"for {self.lasts_ms / 1000:g} s")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class VmPlan:
    """A VM of the world. `deaf`: its guest never takes the addresses it is given."""

    vm_id: str
    primary: str
    replica: str
    deaf: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """A world and what happens to it. Nothing else is left to chance but latencies, which follow from the seed."""

    seed: int
    partitions: int
    vms: tuple[VmPlan, ...]
    plan: RecoveryPlan | None
    policies: tuple[Policy, ...]
    skews_ms: tuple[int, ...]
    """By how much each worker's clock is off."""
    slowest_ms: int
    """How long a record takes at most, where nothing delays it."""
    periodic: bool
    """Health is reported and evidence given all the time: what automatic failovers need."""
    sees_power: bool
    """The witness in the third place sees whether a site has power, and not only whether it answers."""
    obliging: bool
    """In the end somebody answers whatever still waits for a person."""
    avro: bool
    happenings: tuple[Happening, ...]


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    return _Draw(seed).schedule()


class _Draw:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = Random(seed)
        self._happenings: list[Happening] = []
        self._runs = 0
        count = self._random.randint(2, 5)
        self._vms = tuple(self._vm(number) for number in range(count))
        self._automatic = self._chance(0.3)
        self._with_plan = self._chance(0.5)
        self._plan = self._draw_plan() if self._with_plan else None

    def schedule(self) -> Schedule:
        r = self._random
        policies = self._policies()
        story = r.choice(_AUTOMATIC if self._automatic else _BY_HAND)
        story(self)
        if self._chance(0.4):
            r.choice(_BY_HAND)(self)
        self._noise()
        self._faults()
        return Schedule(
            seed=self._seed,
            partitions=r.randint(1, 3),
            vms=self._vms,
            plan=self._plan,
            policies=policies,
            skews_ms=(0, r.choice((0, 0, -1_500, 900))),
            slowest_ms=r.choice((5, 30, 200)),
            periodic=self._automatic,
            sees_power=self._chance(0.85),
            obliging=self._chance(0.6),
            avro=self._seed % 50 == 49,
            happenings=tuple(
                sorted((*self._happenings, *_settings(self._seed, self._vms)), key=lambda each: each.at_ms)
            ),
        )

    # The world

    def _vm(self, number: int) -> VmPlan:
        primary, replica = SITES if self._chance(0.8) else SITES[::-1]
        return VmPlan(f"vm-{number}", primary, replica, deaf=self._chance(0.06))

    def _draw_plan(self) -> RecoveryPlan:
        r = self._random
        names = [vm.vm_id for vm in self._vms]
        cuts = sorted(r.sample(range(1, len(names)), min(len(names) - 1, r.randint(0, 2))))
        members = [names[start:end] for start, end in zip([0, *cuts], [*cuts, len(names)], strict=True)]
        groups = []
        for number, vm_ids in enumerate(members):
            earlier = [f"g{n}" for n in range(number)]
            depends = None if self._chance(0.5) else tuple(name for name in earlier if self._chance(0.5))
            groups.append(
                RecoveryGroup(
                    f"g{number}",
                    tuple(vm_ids),
                    depends_on=depends,
                    critical=r.choice((None, None, True, False)),
                    before=(self._action("prepare"),) if self._chance(0.25) else (),
                    after=(self._action("announce"),) if self._chance(0.2) else (),
                    gates=(Gate(GateKind.POWER, timeout_ms=_MINUTE_MS, on_failure=r.choice(tuple(OnTaskFailure))),)
                    if self._chance(0.25)
                    else (),
                )
            )
        commit = r.choice((CommitPolicy.AT_ONCE, CommitPolicy.AT_ONCE, *CommitPolicy))
        return RecoveryPlan(
            PLAN,
            "ERP",
            tuple(groups),
            actor="ann",
            reason="as agreed",
            set_at_ms=1,
            max_in_flight=r.choice((0, 0, 1, 2)),
            per_node=r.choice((0, 0, 1)),
            commit=commit,
            window_ms=20 * _SECOND_MS if commit in (CommitPolicy.AUTO_COMMIT, CommitPolicy.AUTO_ROLL_BACK) else 0,
            step_policies=(StepPolicy("P2", timeout_ms=20_000, attempts=2),) if self._chance(0.2) else (),
        )

    def _action(self, name: str) -> PlanAction:
        r = self._random
        kind = r.choice((PlanActionKind.SCRIPT, PlanActionKind.SCRIPT, PlanActionKind.HTTP, PlanActionKind.MANUAL))
        return PlanAction(
            name,
            kind,
            site="" if kind is PlanActionKind.MANUAL else r.choice(SITES),
            command=("do", name) if kind is PlanActionKind.SCRIPT else (),
            url="http://dns.example/" if kind is PlanActionKind.HTTP else "",
            instruction="see to it" if kind is PlanActionKind.MANUAL else "",
            timeout_ms=10_000,
            attempts=r.choice((1, 2)),
            on_failure=r.choice(tuple(OnTaskFailure)),
            compensation=("undo", name) if kind is PlanActionKind.SCRIPT and self._chance(0.5) else (),
        )

    def _policies(self) -> tuple[Policy, ...]:
        r = self._random
        policies = []
        if self._automatic:
            mode = r.choice((AutomaticMode.ACT, AutomaticMode.ACT, *AutomaticMode))
            policies.append(
                Policy(
                    PolicyScope.ALL,
                    mode=mode,
                    observers=r.choice((None, None, None, 3)),
                    hold_down_ms=r.choice((5_000, 20_000, 40_000)),
                    evidence_within_ms=r.choice((60_000, 120_000)),
                    cooldown_ms=r.choice((60_000, 10 * _MINUTE_MS)),
                    brake_runs=r.choice((0, 1, 2, 20)),
                    approvals=self._approvals(),
                    recover_after_ms=r.choice((0, 30_000)),
                )
            )
            if self._chance(0.3):
                policies.append(Policy(PolicyScope.VM, self._some_vm(), mode=r.choice(tuple(AutomaticMode))))
            if self._chance(0.2):
                policies.append(Policy(PolicyScope.SITE, r.choice(SITES), mode=r.choice(tuple(AutomaticMode))))
        elif self._chance(0.3):
            policies.append(Policy(PolicyScope.ALL, approvals=self._approvals(always=True)))
        return tuple(policies)

    def _approvals(self, *, always: bool = False) -> tuple[ApprovalRule, ...] | None:
        r = self._random
        if not always and self._chance(0.7):
            return None
        return (
            ApprovalRule(
                needed=r.choice((1, 1, 2)),
                approvers=r.choice(((), (), PEOPLE[:3])),
                kinds=r.choice(((), (), (FailoverKind.PLANNED, FailoverKind.FAILBACK), (FailoverKind.UNPLANNED,))),
                within_ms=r.choice((30_000, 3_600_000)),
            ),
        )

    # Stories

    def planned_and_back(self) -> None:
        at = self._request(self._soon(), FailoverKind.PLANNED)
        if self._chance(0.6):
            self._request(at + self._random.randint(20, 120) * _SECOND_MS, FailoverKind.FAILBACK)

    def site_lost_and_found(self) -> None:
        """A site dies, its VM is failed over by hand; later the site comes back and everything is brought home."""
        r = self._random
        vm = r.choice(self._vms)
        lost = self._soon()
        back = r.randint(60, 200) * _SECOND_MS
        if self._chance(0.75):
            self._add(lost, What.SITE, vm.primary, lasts_ms=back)
        else:
            self._add(lost, What.NODE, vm.primary, number=r.randint(1, 2), lasts_ms=back)
        at = lost + r.randint(1, 20) * _SECOND_MS
        attested = self._chance(0.9)
        commit = r.choice((CommitPolicy.AT_ONCE, *CommitPolicy))
        at = self._request(at, FailoverKind.UNPLANNED, vm.vm_id, attested=attested, commit=commit)
        if commit is not CommitPolicy.AT_ONCE:
            for _ in range(r.randint(0, 3)):
                self._say(
                    at + r.randint(3, 60) * _SECOND_MS,
                    r.choice(
                        (
                            RequestAction.TRY_ANOTHER,
                            RequestAction.TRY_ANOTHER,
                            RequestAction.COMMIT,
                            RequestAction.ROLL_BACK,
                        )
                    ),
                )
        if self._chance(0.7):
            at = self._request(lost + back + r.randint(-5, 40) * _SECOND_MS, FailoverKind.REPROTECT, vm.vm_id)
            if self._chance(0.6):
                self._request(at + r.randint(40, 150) * _SECOND_MS, FailoverKind.FAILBACK, vm.vm_id)

    def test_beside(self) -> None:
        r = self._random
        vm = self._some_vm()
        commit = r.choice((CommitPolicy.AT_ONCE, CommitPolicy.HOLD, CommitPolicy.AUTO_ROLL_BACK))
        at = self._request(self._soon(), FailoverKind.TEST, vm, commit=commit)
        if self._chance(0.6):
            self._request(at + r.randint(-2, 30) * _SECOND_MS, r.choice(tuple(FailoverKind)), vm)
        if self._chance(0.6):
            self._say(at + r.randint(5, 90) * _SECOND_MS, r.choice((RequestAction.COMMIT, RequestAction.CANCEL)))

    def plan_runs(self) -> None:
        r = self._random
        kind = r.choice((FailoverKind.PLANNED, FailoverKind.PLANNED, *FailoverKind))
        at = self._soon()
        if kind is FailoverKind.UNPLANNED:
            self._add(at, What.SITE, "primary", lasts_ms=r.randint(60, 300) * _SECOND_MS)
        at = self._request(at + 2_000, kind, plan=self._with_plan, attested=kind is FailoverKind.UNPLANNED)
        for _ in range(r.randint(0, 3)):
            self._say(
                at + r.randint(1, 90) * _SECOND_MS,
                r.choice((RequestAction.RESUME, RequestAction.RESUME, RequestAction.CANCEL, RequestAction.CONFIRM)),
            )

    def anything(self) -> None:
        for _ in range(self._random.randint(1, 3)):
            attested = self._chance(0.05)
            self._request(self._soon(), self._random.choice(tuple(FailoverKind)), attested=attested)

    def site_lost_automatic(self) -> None:
        r = self._random
        site = r.choice(("primary", "primary", "dr"))
        lost = self._soon() + 60_000
        self._add(lost, What.SITE, site, lasts_ms=r.randint(100, 360) * _SECOND_MS)
        if self._chance(0.4):
            # While the evidence is held: whoever takes a partition over has to begin anew.
            what = r.choice((What.REBALANCE, What.WORKER))
            self._add(lost + r.randint(90, 170) * _SECOND_MS, what, number=r.randint(0, 2) % 2, lasts_ms=2_000)
        if self._chance(0.3):
            # The failover does not work out: what is to keep it from being tried again and again is the cooldown.
            vm_id = self._some_vm()
            self._add(0, What.COMMAND, vm_id, number=r.randint(1, 3), more=Behaviour.REFUSED.name)
        if self._chance(0.3):
            self._add(self._soon() + 60_000, What.BRAKE, "engaged", lasts_ms=r.randint(0, 200) * _SECOND_MS)
        for _ in range(r.randint(0, 2)):
            self._say(r.randint(100, 400) * _SECOND_MS, r.choice((RequestAction.APPROVE, RequestAction.ACKNOWLEDGE)))

    def link_lost_automatic(self) -> None:
        r = self._random
        self._add(self._soon() + 60_000, What.LINK, lasts_ms=r.randint(60, 360) * _SECOND_MS)
        if self._chance(0.3):
            self._add(self._soon() + 60_000, What.SITE, "primary", lasts_ms=r.randint(60, 200) * _SECOND_MS)

    def wrongly_accused(self) -> None:
        """Somebody says that a site is gone, which is not so; its data path may be silent as well."""
        r = self._random
        self._add(self._soon() + 60_000, What.EVIDENCE, "primary", lasts_ms=r.randint(30, 200) * _SECOND_MS)
        if self._chance(0.3):
            self._add(self._soon() + 60_000, What.SILENCE, self._some_vm(), lasts_ms=r.randint(60, 300) * _SECOND_MS)

    def failing_again_and_again(self) -> None:
        """A site that comes and goes: what cooldown, hold-down and brake are for."""
        at = self._soon() + 60_000
        for _ in range(self._random.randint(2, 4)):
            lasts = self._random.randint(60, 130) * _SECOND_MS
            self._add(at, What.SITE, self._random.choice(SITES), lasts_ms=lasts)
            at += lasts + self._random.randint(5, 90) * _SECOND_MS

    # Whatever else

    def _noise(self) -> None:
        r = self._random
        for _ in range(self._some(3)):
            self._say(r.randint(1, 400) * _SECOND_MS, r.choice(tuple(RequestAction)))
        for _ in range(self._some(2)):
            vm = r.choice(self._vms)
            self._add(self._any_time(), What.MIGRATION, vm.vm_id, more=r.choice(SITES))
        for what in (What.LINK, What.SITE, What.ISOLATED, What.NODE):
            if self._chance(0.07):
                target = "" if what is What.LINK else r.choice(SITES)
                self._add(
                    self._any_time(), what, target, number=r.randint(1, 2), lasts_ms=r.randint(1, 200) * _SECOND_MS
                )
        if self._chance(0.06):
            self._add(self._any_time(), What.BRAKE, "engaged", lasts_ms=r.choice((0, 60_000)))
        if self._with_plan and self._chance(0.15):
            self._happenings.append(Happening(self._any_time(), What.PLAN, PLAN, plan=self._draw_plan()))
        if self._chance(0.08):
            policy = Policy(PolicyScope.VM, self._some_vm(), mode=r.choice(tuple(AutomaticMode)))
            self._happenings.append(Happening(self._any_time(), What.POLICY, policy=policy))
        if self._automatic and self._chance(0.1):
            self._add(self._any_time(), What.FENCE, r.choice(SITES), lasts_ms=r.randint(60, 200) * _SECOND_MS)

    def _faults(self) -> None:
        r = self._random
        for _ in range(self._some(4)):
            target = PLAN if self._with_plan and self._chance(0.35) else self._some_vm()
            behaviour = r.choice(tuple(Behaviour))
            self._add(
                0,
                What.COMMAND,
                target,
                number=r.randint(1, 4 if target == PLAN else 12),
                lasts_ms=r.choice((500, 5_000, 70_000, 320_000)),
                more=behaviour.name,
            )
        for _ in range(self._some(2)):
            self._add(self._any_time(), What.AGENT, r.choice(SITES), lasts_ms=r.choice((500, 10_000, 90_000)))
        for what in (What.WORKER, What.COMMITTING, What.ZOMBIE):
            for _ in range(self._some(2, 0.3)):
                self._add(
                    self._any_time(), what, number=r.randint(0, 1), lasts_ms=r.choice((500, 5_000, 15_000, 60_000))
                )
        for _ in range(self._some(2, 0.3)):
            self._add(self._any_time(), What.REBALANCE, number=r.randint(0, 2))
        for _ in range(self._some(2, 0.3)):
            self._add(self._any_time(), What.AGAIN, number=r.randint(0, 2), lasts_ms=r.randint(1, 8))
        for _ in range(self._some(4)):
            self._add(0, What.TWICE, number=r.randint(1, 120), lasts_ms=r.choice((0, 50, 3_000, 90_000)))
        if self._chance(0.2):
            topic = r.choice(("step-results", "failover-requested", "inventory", "vm-moved", "coordination"))
            self._add(self._any_time(), What.DELAY, topic, lasts_ms=r.choice((2_000, 20_000, 100_000)))
        if self._chance(0.1):
            self._add(self._any_time(), What.KAFKA, lasts_ms=r.choice((3_000, 120_000)))

    def _request(
        self,
        at_ms: int,
        kind: FailoverKind,
        vm_id: str = "",
        *,
        plan: bool | None = None,
        attested: bool = False,
        commit: CommitPolicy | None = None,
    ) -> int:
        """Somebody asks for a failover; words may follow soon. Returns when that was."""
        r = self._random
        self._runs += 1
        plan = plan if plan is not None else (not vm_id and self._with_plan and self._chance(0.3))
        vm_ids = () if plan or vm_id else self._list_or_none()
        commit = commit or r.choice((CommitPolicy.AT_ONCE, CommitPolicy.AT_ONCE, CommitPolicy.AT_ONCE, *CommitPolicy))
        self._happenings.append(
            Happening(
                at_ms,
                What.REQUEST,
                request=FailoverRequested(
                    f"r{self._runs}",
                    RequestAction.REQUEST,
                    kind,
                    r.choice(PEOPLE),
                    "a reason",
                    at_ms,
                    vm_id="" if plan or vm_ids else vm_id or self._some_vm(),
                    plan_id=PLAN if plan else "",
                    vm_ids=vm_ids,
                    ticket=r.choice(("", "INC-7")),
                    primary_is_down=attested,
                    point=self._point(at_ms),
                    commit=commit,
                    window_ms=r.choice((5_000, 60_000))
                    if commit in (CommitPolicy.AUTO_COMMIT, CommitPolicy.AUTO_ROLL_BACK)
                    else 0,
                    accept_data_loss=self._chance(0.08),
                    max_in_flight=r.choice((0, 0, 1)) if vm_ids else 0,
                ),
            )
        )
        if self._chance(0.25):
            self._say(at_ms + int(r.expovariate(1 / 3_000)), RequestAction.CANCEL)
        for _ in range(self._some(3, 0.35)):
            self._say(at_ms + int(r.expovariate(1 / 15_000)), r.choice((None, RequestAction.APPROVE)))
        return at_ms

    def _list_or_none(self) -> tuple[str, ...]:
        if self._chance(0.85) or len(self._vms) < 2:
            return ()
        count = self._random.randint(1, len(self._vms))
        return tuple(vm.vm_id for vm in self._random.sample(self._vms, count))

    def _point(self, asked_ms: int) -> WantedPoint:
        r = self._random
        choice = r.choice((PointChoice.LATEST, PointChoice.LATEST, PointChoice.LATEST, *PointChoice))
        return WantedPoint(
            choice,
            at_ms=START_MS + asked_ms - r.randint(0, 120) * _SECOND_MS if choice is PointChoice.BEFORE else 0,
            point_id=f"rp-{r.randint(0, 5)}" if choice is PointChoice.NAMED else "",
        )

    def _say(self, at_ms: int, action: RequestAction | None) -> None:
        """Somebody says something to one of the runs there are by then; None: whatever it offers."""
        r = self._random
        self._add(at_ms, What.WORD, r.choice(PEOPLE), number=r.randint(0, 9), more=action or "")

    def _add(
        self, at_ms: int, what: What, target: str = "", *, number: int = 0, lasts_ms: int = 0, more: str = ""
    ) -> None:
        at_ms = max(0, min(at_ms, _LONGEST_MS))
        self._happenings.append(Happening(at_ms, what, target, number, lasts_ms, more))

    def _some_vm(self) -> str:
        return self._random.choice(self._vms).vm_id

    def _some(self, most: int, chance: float = 0.5) -> int:
        return self._random.randint(1, most) if self._chance(chance) else 0

    def _soon(self) -> int:
        return self._random.randint(3_000, 40_000)

    def _any_time(self) -> int:
        """Near a request more often than not: little is going on at other times."""
        r = self._random
        requests = [each.at_ms for each in self._happenings if each.what in (What.REQUEST, What.SITE)]
        if requests and self._chance(0.8):
            return r.choice(requests) + int(r.expovariate(1 / 6_000))
        return r.randint(0, 400) * _SECOND_MS

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability


_OF_CLUSTERS = (
    "enabled=true;from_any_server=true;default_storage_location=/srv/replicas",
    "http_port=8080",
    "http_port=8081;monitoring_interval_s=1h",
    "http_port=none",
    "on_drift=CORRECT",
    "on_drift=ALERT;http_port=",
)
_OF_VMS = ("frequency_s=30s", "frequency_s=15m;recovery_points=4", "on_drift=CORRECT", "recovery_points=99")


def _settings(seed: int, vms: tuple[VmPlan, ...]) -> Iterator[Happening]:
    """Replication settings, in one seed of four. With chance of their own: the others' stories stay as they were."""
    if seed % 4 != 3:
        return
    r = Random(f"settings of {seed}")
    for _ in range(r.randint(1, 5)):
        target = r.choice((*_CLUSTERS, r.choice(vms).vm_id))
        more = r.choice(_OF_CLUSTERS if target in _CLUSTERS else _OF_VMS)
        at_ms = r.choice((r.randint(2_000, 60_000), r.randint(0, _LONGEST_MS)))
        yield Happening(at_ms, What.SETTINGS, target, number=r.choice((-1, -1, -1, 1)), more=more)
    for what in (What.OVERWRITE, What.UNABLE):
        for _ in range(r.choice((0, 0, 1, 2))):
            node = f"{r.choice(SITES)}-{r.randint(1, 2)}"
            behaviour = r.choice((Behaviour.REFUSED, Behaviour.FAILED)).name if what is What.UNABLE else ""
            lasts_ms = r.choice((2_000, 60_000, 500_000)) if what is What.UNABLE else 0
            yield Happening(r.randint(0, _LONGEST_MS), what, node, r.randint(1, 9), lasts_ms, behaviour)
    for _ in range(r.choice((0, 1, 3))):
        lasts_ms = r.choice((500, 5_000, 70_000, 320_000))
        yield Happening(0, What.COMMAND, SETTINGS, r.randint(1, 10), lasts_ms, r.choice(tuple(Behaviour)).name)


_BY_HAND = (
    _Draw.planned_and_back,
    _Draw.planned_and_back,
    _Draw.site_lost_and_found,
    _Draw.site_lost_and_found,
    _Draw.test_beside,
    _Draw.plan_runs,
    _Draw.plan_runs,
    _Draw.anything,
)
_AUTOMATIC = (
    _Draw.site_lost_automatic,
    _Draw.site_lost_automatic,
    _Draw.link_lost_automatic,
    _Draw.wrongly_accused,
    _Draw.failing_again_and_again,
)
