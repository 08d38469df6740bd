"""A recovery plan as it comes over HTTP: the same that a topology file can say, checked as the broker checks it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from failover_orch.domain import (
    WORKFLOWS,
    CommitPolicy,
    FailoverKind,
    Gate,
    GateKind,
    OnTaskFailure,
    PlanAction,
    PlanActionKind,
    PointChoice,
    RecoveryGroup,
    RecoveryPlan,
    StepPolicy,
    WantedPoint,
)
from failover_orch.domain.plan_graph import flaw
from failover_orch.errors import ConfigError
from failover_orch.service.bodies import Body, Identifier, Reason

__all__ = ["PlanBody"]

_DAY_MS = 86_400_000
_AtOnce = Annotated[int, Field(ge=0, le=1_000)]
_Duration = Annotated[int, Field(ge=0, le=_DAY_MS)]
_Attempts = Annotated[int, Field(ge=0, le=100)]
_Argument = Annotated[str, StringConstraints(max_length=4_096)]
_Command = Annotated[tuple[_Argument, ...], Field(max_length=256)]
_Url = Annotated[str, StringConstraints(pattern=r"^(https?://[^\s/?#]+\S*)?$", max_length=2_048)]
_Method = Annotated[str, StringConstraints(pattern="^(POST|PUT|PATCH|DELETE|GET)$")]
_STEPS = frozenset(step.number for workflow in WORKFLOWS.values() for step in workflow.steps)
_TIMED = (CommitPolicy.AUTO_COMMIT, CommitPolicy.AUTO_ROLL_BACK)


class ActionBody(Body):
    """Something that a plan does besides moving VMs: SCRIPT needs `command`, HTTP `url`, MANUAL `instruction`."""

    name: Identifier
    kind: PlanActionKind
    site: Annotated[str, StringConstraints(max_length=256)] = ""
    command: _Command = ()
    url: _Url = ""
    method: _Method = "POST"
    instruction: Annotated[str, StringConstraints(max_length=4_096)] = ""
    kinds: tuple[FailoverKind, ...] = Field(default=(), max_length=len(FailoverKind))
    timeout_ms: _Duration = 60_000
    attempts: Annotated[int, Field(ge=1, le=100)] = 1
    backoff_ms: _Duration = 1_000
    on_failure: OnTaskFailure = OnTaskFailure.HALT
    compensation: _Command = ()

    def action(self) -> PlanAction:
        """The action. Raises ConfigError where what its kind needs is missing."""
        needed = {PlanActionKind.SCRIPT: "command", PlanActionKind.HTTP: "url", PlanActionKind.MANUAL: "instruction"}
        if not getattr(self, needed[self.kind]):
            raise ConfigError(f"action {self.name} is {self.kind}: give it a {needed[self.kind]}")
        return PlanAction(**{name: getattr(self, name) for name in type(self).model_fields})


class GateBody(Body):
    """What has to be so before a plan goes on: TCP_PORT needs `port`, SCRIPT `command`."""

    kind: GateKind
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    command: _Command = ()
    timeout_ms: Annotated[int, Field(ge=1_000, le=_DAY_MS)] = 300_000
    on_failure: OnTaskFailure = OnTaskFailure.HALT

    def gate(self) -> Gate:
        """The gate. Raises ConfigError where what its kind needs is missing."""
        if (self.kind is GateKind.TCP_PORT) is not bool(self.port):
            raise ConfigError(f"a gate {self.kind} with port {self.port}: a port is for TCP_PORT, which needs one")
        if (self.kind is GateKind.SCRIPT) is not bool(self.command):
            raise ConfigError(f"a gate {self.kind}: a command is for SCRIPT, which needs one")
        return Gate(self.kind, self.port, self.command, self.timeout_ms, self.on_failure)


class GroupBody(Body):
    """VMs that fail over side by side, by id or name. `depends_on` null: the group before it."""

    name: Identifier
    vms: tuple[Identifier, ...] = Field(min_length=1, max_length=1_000)
    depends_on: tuple[Identifier, ...] | None = Field(default=None, max_length=100)
    critical: bool | None = None
    before: tuple[ActionBody, ...] = Field(default=(), max_length=100)
    after: tuple[ActionBody, ...] = Field(default=(), max_length=100)
    gates: tuple[GateBody, ...] = Field(default=(), max_length=100)


class StepPolicyBody(Body):
    """How one step of a workflow is tried; 0 keeps the workflow's value."""

    step: Identifier
    timeout_ms: _Duration = 0
    attempts: _Attempts = 0
    backoff_ms: _Duration = 0

    def policy(self) -> StepPolicy:
        """The policy. Raises ConfigError where there is no such step."""
        if self.step not in _STEPS:
            raise ConfigError(f"there is no step {self.step!r}; known: {', '.join(sorted(_STEPS))}")
        return StepPolicy(self.step, self.timeout_ms, self.attempts, self.backoff_ms)


class PlanBody(Body):
    """A recovery plan, whole: it is the new one for the next run, a run in flight keeps the one that it began with."""

    name: Annotated[str, StringConstraints(max_length=256)] = ""
    groups: tuple[GroupBody, ...] = Field(min_length=1, max_length=100)
    max_in_flight: _AtOnce = 0
    per_node: _AtOnce = 0
    per_site: _AtOnce = 0
    step_policies: tuple[StepPolicyBody, ...] = Field(default=(), max_length=100)
    point: PointChoice = Field(
        default=PointChoice.LATEST, json_schema_extra={"enum": ["LATEST", "APPLICATION_CONSISTENT"]}
    )
    commit: CommitPolicy = CommitPolicy.AT_ONCE
    window_ms: int = Field(default=0, ge=0, le=30 * _DAY_MS)
    reason: Reason

    def plan(self, plan_id: str, vm_ids: tuple[tuple[str, ...], ...], actor: str, now_ms: int) -> RecoveryPlan:
        """The plan; `vm_ids` are those of each group's VMs. Raises ConfigError where it could not be run as it is."""
        named = [vm_id for group in vm_ids for vm_id in group]
        twice = next((vm_id for vm_id in named if named.count(vm_id) > 1), None)
        if twice is not None:
            raise ConfigError(f"{twice} is in the plan twice: a plan has a VM once")
        if self.point not in (PointChoice.LATEST, PointChoice.APPLICATION_CONSISTENT):
            raise ConfigError(f"point is {self.point}: a plan can name LATEST or APPLICATION_CONSISTENT beforehand")
        if self.commit in _TIMED and not self.window_ms:
            raise ConfigError(
                f"commit is {self.commit}, which needs a window_ms: how long people have to decide otherwise"
            )
        groups = tuple(
            RecoveryGroup(
                group.name,
                ids,
                group.depends_on,
                group.critical,
                tuple(action.action() for action in group.before),
                tuple(action.action() for action in group.after),
                tuple(gate.gate() for gate in group.gates),
            )
            for group, ids in zip(self.groups, vm_ids, strict=True)
        )
        plan = RecoveryPlan(
            plan_id,
            self.name or plan_id,
            groups,
            actor=actor,
            reason=self.reason,
            set_at_ms=now_ms,
            max_in_flight=self.max_in_flight,
            per_node=self.per_node,
            per_site=self.per_site,
            step_policies=tuple(one.policy() for one in self.step_policies),
            point=WantedPoint(self.point),
            commit=self.commit,
            window_ms=self.window_ms,
        )
        wrong = flaw(plan)
        if wrong:
            raise ConfigError(f"plan {plan.name} could not be run: {wrong}")
        return plan
