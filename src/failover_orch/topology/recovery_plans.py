"""Recovery plans of a topology file: groups of VMs, what they wait for, and on which terms they fail over."""

from __future__ import annotations

from failover_orch.domain.plan_graph import cycle
from failover_orch.domain.replication import ReplicationState
from failover_orch.domain.settings import RecoveryGroup, RecoveryPlan
from failover_orch.domain.terms import CommitPolicy, PointChoice, StepPolicy, WantedPoint
from failover_orch.domain.workflows import WORKFLOWS
from failover_orch.topology.machines import House
from failover_orch.topology.plan_actions import DAY_S, actions_of, gates_of
from failover_orch.yaml_reading import IDENTIFIER, Entry, Register, did_you_mean

__all__ = ["PLAN_KEYS", "add_recovery_plan"]

PLAN_KEYS = (
    "id",
    "name",
    "max_in_flight",
    "per_node",
    "per_site",
    "recovery_point",
    "commit",
    "window_s",
    "steps",
    "groups",
)
_STEP_KEYS = ("step", "timeout_s", "attempts", "backoff_s")
_GROUP_KEYS = ("name", "vms", "depends_on", "critical", "before", "after", "gates")

_MAX_AT_ONCE = 1_000
_MAX_ATTEMPTS = 100
_POINTS = (PointChoice.LATEST, PointChoice.APPLICATION_CONSISTENT)
"""The recovery points that a plan can name beforehand: a time, or the id of one point, is for a request."""
_NEED_WINDOW = (CommitPolicy.AUTO_COMMIT, CommitPolicy.AUTO_ROLL_BACK)


def add_recovery_plan(entry: Entry, house: House, plans: Register[RecoveryPlan]) -> None:
    """Read one entry of `recovery_plans`."""
    plan_id = entry.text("id", pattern=IDENTIFIER)
    name = entry.text("name", required=False) or plan_id
    commit = entry.word("commit", CommitPolicy, CommitPolicy.AT_ONCE)
    if commit in _NEED_WINDOW and not entry.has("window_s"):
        entry.mistake(
            "commit", f"is {commit.lower()}, which needs a window_s: how long people have to decide otherwise"
        )
    plan = RecoveryPlan(
        plan_id,
        name,
        _groups(entry, house),
        max_in_flight=entry.integer("max_in_flight", 0, _MAX_AT_ONCE, default=0),
        per_node=entry.integer("per_node", 0, _MAX_AT_ONCE, default=0),
        per_site=entry.integer("per_site", 0, _MAX_AT_ONCE, default=0),
        step_policies=_step_policies(entry),
        point=_point(entry),
        commit=commit,
        window_ms=entry.milliseconds("window_s", 1, 30 * DAY_S, default=0),
    )
    plans.add(entry, "id", plan_id, plan)


def _point(entry: Entry) -> WantedPoint:
    words = [choice.lower() for choice in _POINTS]
    return WantedPoint(PointChoice(entry.one_of("recovery_point", words, words[0]).upper()))


def _step_policies(entry: Entry) -> tuple[StepPolicy, ...]:
    known = [step.number for workflow in WORKFLOWS.values() for step in workflow.steps]
    found: Register[StepPolicy] = Register("step")
    for below in entry.entries("steps", "step", _STEP_KEYS):
        number = below.text("step")
        if number and number not in known:
            hint = did_you_mean(number, known) or f"; known: {', '.join(known)}"
            below.mistake("step", f"there is no step {number!r}{hint}")
        policy = StepPolicy(
            step=number,
            timeout_ms=below.milliseconds("timeout_s", 1, DAY_S, default=0),
            attempts=below.integer("attempts", 1, _MAX_ATTEMPTS) if below.has("attempts") else 0,
            backoff_ms=below.milliseconds("backoff_s", 1, DAY_S, default=0),
        )
        if policy == StepPolicy(number) and not below.broken:
            below.mistake("", f"changes nothing; expected one or more of {', '.join(_STEP_KEYS[1:])}")
        found.add(below, "step", number, policy)
    return tuple(found.items.values())


def _groups(entry: Entry, house: House) -> tuple[RecoveryGroup, ...]:
    group_of: dict[str, str] = {}
    groups: Register[RecoveryGroup] = Register("group")
    entries: dict[str, Entry] = {}
    waited_for: list[tuple[Entry, int, str]] = []
    for below in entry.entries("groups", "name", _GROUP_KEYS, required=True):
        name = below.text("name")
        depends_on = below.texts("depends_on", expected="a list of names of groups")
        group = RecoveryGroup(
            name,
            _vm_ids(below, house, name, group_of),
            depends_on=tuple(dict.fromkeys(text for _, text in depends_on)) if below.has("depends_on") else None,
            critical=below.boolean("critical", default=False) if below.has("critical") else None,
            before=actions_of(below, "before", house),
            after=actions_of(below, "after", house),
            gates=gates_of(below),
        )
        groups.add(below, "name", name, group)
        entries.setdefault(name, below)
        waited_for += [(below, line, text) for line, text in depends_on]
    for below, line, text in waited_for:
        groups.find(below, "depends_on", text, line=line)
    _check_circle(groups, entries)
    return tuple(groups.items.values())


def _vm_ids(entry: Entry, house: House, group: str, group_of: dict[str, str]) -> tuple[str, ...]:
    found: list[str] = []
    for line, vm_id in entry.texts("vms", required=True, expected="a list of VM ids", pattern=IDENTIFIER):
        draft = house.vms.find(entry, "vms", vm_id, line=line)
        if vm_id in group_of:
            entry.mistake("vms", f"{vm_id} is in group {group_of[vm_id]!r} already; a plan has a VM once", line=line)
            continue
        if draft is not None and draft.vm.inventory.replication.state is ReplicationState.DISABLED:
            entry.mistake("vms", f"{vm_id} is not replicated, so it cannot fail over; give it a replication", line=line)
        group_of[vm_id] = group
        found.append(vm_id)
    return tuple(found)


def _check_circle(groups: Register[RecoveryGroup], entries: dict[str, Entry]) -> None:
    """Note the groups that wait for each other."""
    circle = cycle(tuple(groups.items.values()))
    # A group without depends_on waits for one above it, so a circle has at least one group that has it.
    first = next((name for name in circle if groups.items[name].depends_on), "")
    if first:
        entries[first].mistake(
            "depends_on",
            f"goes round in a circle, in which each group waits for the next: {' -> '.join(circle)}; a group without "
            "depends_on waits for the one above it: take one of these out",
        )
