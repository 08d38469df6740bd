"""The vocabulary of stories: what can be given, and what can happen, each a pattern and what is made of it.

Everything in a sentence that is not in its pattern is an error: a story says nothing that is not told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from simulator import PRIMARY, REPLICA, Behaviour

from failover_orch.domain.facts import FailoverKind, FailoverRequested, RequestAction
from failover_orch.domain.inventory import ClusterInventory, NodeState
from failover_orch.domain.policies import ApprovalRule, AutomaticMode, Brake, Evidence, Policy, PolicyScope, Verdict
from failover_orch.domain.replication_settings import SettingsChange, SettingsScope
from failover_orch.domain.settings import (
    AdapterAddresses,
    FamilyAddresses,
    Gate,
    GateKind,
    PlanAction,
    PlanActionKind,
    RecoveryGroup,
    RecoveryPlan,
)
from failover_orch.domain.state import PlanRun, Run
from failover_orch.domain.terms import LATEST, CommitPolicy, OnTaskFailure, PointChoice, StepPolicy, WantedPoint
from narratives.log import BEGINNING_MS
from narratives.story import StoryError
from narratives.world import CLOUD, PLACES, StoryWorld, VmGiven, Wishes

__all__ = ["give", "happen", "vocabulary"]

Match = re.Match[str]
_NAME = r"[\w.~/-]+"
_NAMES = rf"{_NAME}(?:(?:, | and ){_NAME})*"
_SITE = f"{PRIMARY}|{REPLICA}"
_WHY = r": (?P<why>.+?)(?: \((?P<ticket>[A-Z]+-\d+)\))?"
_KINDS = {
    "planned failover": FailoverKind.PLANNED,
    "unplanned failover": FailoverKind.UNPLANNED,
    "test failover": FailoverKind.TEST,
    "reprotection": FailoverKind.REPROTECT,
    "failback": FailoverKind.FAILBACK,
}
_WORDS = {
    "approves": RequestAction.APPROVE,
    "rejects": RequestAction.REJECT,
    "cancels": RequestAction.CANCEL,
    "commits": RequestAction.COMMIT,
    "rolls back": RequestAction.ROLL_BACK,
    "resumes": RequestAction.RESUME,
    "skips": RequestAction.SKIP,
    "confirms": RequestAction.CONFIRM,
    "sends forward": RequestAction.FORWARD,
    "abandons": RequestAction.ABANDON,
}
_GOES_WRONG = {
    "will fail": Behaviour.FAIL,
    "will be refused": Behaviour.REFUSE,
    "will hang": Behaviour.SILENT,
    "will be done without an answer": Behaviour.LOST,
    "will be begun and lost track of": Behaviour.UNCERTAIN,
}
_UNITS_MS = {"s": 1_000, "min": 60_000, "h": 3_600_000, "days": 86_400_000}
_TIME = r"(\d+) (s|min|h|days)"
_LIMITS: Sequence[tuple[str, str]] = (
    (rf"hold-down {_TIME}", "hold_down_ms"),
    (rf"cooldown {_TIME}", "cooldown_ms"),
    (rf"RPO {_TIME}", "rpo_ms"),
    (rf"at most {_TIME} of data lost", "max_data_loss_ms"),
    (rf"drill within {_TIME}", "drill_within_ms"),
    (rf"better health counts after {_TIME}", "recover_after_ms"),
)


# What is given before the clock starts


def _vm(wishes: Wishes, match: Match) -> None:
    number = 11 + len(wishes.vms)
    for vm_id in re.split(r", | and ", match["vms"]):
        wishes.vms[vm_id] = VmGiven(vm_id, match["node"], match["replica"], number)
        number += 1


def _off(wishes: Wishes, match: Match) -> None:
    wishes.vms[match["vm"]].alive = False


def _unaddressed(wishes: Wishes, match: Match) -> None:
    wishes.vms[match["vm"]].addressed = False


def _watches(wishes: Wishes, match: Match) -> None:
    wishes.witnesses[CLOUD if match["who"] == "a witness in the cloud" else REPLICA] = match["site"]


def _fences(wishes: Wishes, match: Match) -> None:
    wishes.fences = (*wishes.fences, match["machine"])


def _given_policy(wishes: Wishes, match: Match) -> None:
    wishes.facts.append(policy(match))


def _given_plan(wishes: Wishes, match: Match) -> None:
    wishes.plan = plan(match)


def _terms(wishes: Wishes, match: Match) -> None:
    assert wishes.plan is not None, "name the plan first"
    commit, window_ms = _commit(match)
    wishes.plan = replace(wishes.plan, commit=commit, window_ms=window_ms)


def _at_a_time(wishes: Wishes, match: Match) -> None:
    assert wishes.plan is not None, "name the plan first"
    wishes.plan = replace(wishes.plan, max_in_flight=int(match["count"]))


def _uncritical(wishes: Wishes, match: Match) -> None:
    _change_group(wishes, match["group"], lambda group: replace(group, critical=match["not"] is None))


def _action(wishes: Wishes, match: Match) -> None:
    what = match["what"]
    kind = {"script": PlanActionKind.SCRIPT, "call": PlanActionKind.HTTP, "step by hand": PlanActionKind.MANUAL}[what]
    action = PlanAction(
        name=match["name"],
        kind=kind,
        site=match["site"] or ("" if kind is PlanActionKind.MANUAL else REPLICA),
        command=(match["name"],) if kind is PlanActionKind.SCRIPT else (),
        url="https://desk.example/hook" if kind is PlanActionKind.HTTP else "",
        instruction=match["instruction"] or "",
        compensation=(match["undo"],) if match["undo"] else (),
        on_failure=_on_failure(match["then"]),
    )

    def with_action(group: RecoveryGroup) -> RecoveryGroup:
        if match["when"] == "before":
            return replace(group, before=(*group.before, action))
        return replace(group, after=(*group.after, action))

    _change_group(wishes, match["group"], with_action)


def _gate(wishes: Wishes, match: Match) -> None:
    gate = Gate(GateKind.HEARTBEAT, timeout_ms=_ms(match["time"]), on_failure=_on_failure(match["then"]))
    _change_group(wishes, match["group"], lambda group: replace(group, gates=(*group.gates, gate)))


def _change_group(wishes: Wishes, name: str, change: Callable[[RecoveryGroup], RecoveryGroup]) -> None:
    assert wishes.plan is not None, "name the plan first"
    groups = tuple(change(group) if group.name == name else group for group in wishes.plan.groups)
    wishes.plan = replace(wishes.plan, groups=groups)


def _audited(wishes: Wishes, _match: Match) -> None:
    wishes.audited = True


def _takeover_matters(wishes: Wishes, _match: Match) -> None:
    wishes.takeover_matters = True


_THEN = r"(?:, else (?P<then>halt|skip|continue|compensate))?"
_COMMIT = r"(?:(?P<hold>waits for a word)|is (?P<end>kept|taken back) after (?P<window>\d+ \w+))"
_PLAN = rf"plan (?P<plan>{_NAME}): (?P<groups>.+)"
_POLICY = rf"policy for (?P<scope>all|site {_NAME}|plan {_NAME}|VM {_NAME}): (?P<limits>.+)"

GIVENS: Sequence[tuple[str, Callable[[Wishes, Match], None]]] = (
    (rf"(?P<vms>{_NAMES}) on (?P<node>p1|p2) with (?:its|their) replicas? on (?P<replica>d1|d2)", _vm),
    (rf"(?P<vm>{_NAME}) is off", _off),
    (rf"(?P<vm>{_NAME}) has no failover addresses", _unaddressed),
    (r"dr can cut the power of (?P<machine>primary(?:/p[12])?)", _fences),
    (rf"(?P<who>a witness in the cloud|the agent at dr) watches (?P<site>{_SITE})", _watches),
    (_POLICY, _given_policy),
    (_PLAN, _given_plan),
    (rf"the plan {_COMMIT}", _terms),
    (r"the plan moves (?P<count>\d+) VMs? at a time", _at_a_time),
    (rf"group (?P<group>{_NAME}) is (?P<not>not )?critical", _uncritical),
    (
        (
            rf"(?P<when>before|after) group (?P<group>{_NAME}) the (?P<what>script|call|step by hand) (?P<name>{_NAME})"
            rf"(?: at (?P<site>{_SITE}))?(?: \"(?P<instruction>[^\"]+)\")?(?:, taken back by (?P<undo>{_NAME}))?{_THEN}"
        ),
        _action,
    ),
    (rf"the VMs of group (?P<group>{_NAME}) have to give a heartbeat within (?P<time>\d+ \w+){_THEN}", _gate),
    (r"the audit trail is shown", _audited),
    (r"a takeover would change this story", _takeover_matters),
)


# What happens


def _asks(world: StoryWorld, match: Match) -> None:
    kind = _KINDS[match["kind"]]
    target, plan_id = match["target"], match["plan"] or ""
    vms = tuple(re.split(r", | and ", target or ""))
    name = match["name"] or f"{kind.lower()}-{plan_id or '-and-'.join(vms)}"
    terms = match["terms"] or ""
    asked = FailoverRequested(
        run_id=name,
        action=RequestAction.REQUEST,
        kind=kind,
        actor=match["who"],
        reason=match["why"],
        requested_at_ms=world.now_ms,
        vm_id=vms[0] if len(vms) == 1 and not plan_id else "",
        vm_ids=vms if len(vms) > 1 else (),
        plan_id=plan_id,
        ticket=match["ticket"] or "",
    )
    world.requests[name] = asked = _on_terms(asked, terms, match.string)
    world.last_word = asked
    world.send(asked)


def _on_terms(asked: FailoverRequested, terms: str, sentence: str) -> FailoverRequested:
    for term in filter(None, terms.split(", ")):
        if term == "the primary being down":
            asked = replace(asked, primary_is_down=True)
        elif term == "accepting data loss":
            asked = replace(asked, accept_data_loss=True)
        elif found := re.fullmatch(r"to be committed by hand|to be (kept|taken back) after (.+)", term):
            commit = {None: CommitPolicy.HOLD, "kept": CommitPolicy.AUTO_COMMIT}.get(
                found[1], CommitPolicy.AUTO_ROLL_BACK
            )
            asked = replace(asked, commit=commit, window_ms=_ms(found[2]) if found[2] else 0)
        elif found := re.fullmatch(r"(\d+) at a time", term):
            asked = replace(asked, max_in_flight=int(found[1]))
        elif found := re.fullmatch(r"with (\d+) attempts? at (\w+)", term):
            asked = replace(asked, step_policies=(StepPolicy(found[2], attempts=int(found[1])),))
        else:
            asked = replace(asked, point=_point(term, sentence))
    return asked


def _point(term: str, sentence: str) -> WantedPoint:
    if term == "from the newest application-consistent point":
        return WantedPoint(PointChoice.APPLICATION_CONSISTENT)
    if found := re.fullmatch(r"from recovery point (\S+)", term):
        return WantedPoint(PointChoice.NAMED, point_id=found[1])
    if found := re.fullmatch(r"from before (\d\d:\d\d:\d\d)", term):
        return WantedPoint(PointChoice.BEFORE, at_ms=_at_ms(found[1]))
    if term == "from the latest point":
        return LATEST
    raise StoryError(f"{sentence!r}: nobody knows what {term!r} means")


def _says(world: StoryWorld, match: Match) -> None:
    _word(world, match, _WORDS[match["word"]])


def _tries(world: StoryWorld, match: Match) -> None:
    _word(world, match, RequestAction.TRY_ANOTHER, point=_point(match["point"], match.string))


def _word(world: StoryWorld, match: Match, action: RequestAction, **terms: Any) -> None:
    run_id = match["run"]
    asked = world.requests.get(run_id) or _not_asked_for(world, run_id)
    word = replace(
        asked,
        action=action,
        actor=match["who"],
        reason=match["why"],
        ticket=match["ticket"] or "",
        requested_at_ms=world.now_ms,
        step=match.groupdict().get("step") or "",
        **terms,
    )
    world.last_word = word
    world.send(word)


def _not_asked_for(world: StoryWorld, run_id: str) -> FailoverRequested:
    """A request that the broker made itself: for a VM of a plan, or an automatic one."""
    target = run_id.removeprefix("the broker's run of ")
    for partition in world.partitions:
        for key, value in reversed(partition.state.items()):
            if not isinstance(value, Run | PlanRun):
                continue
            of_target = value.request.automatic and target in (value.request.vm_id, value.request.plan_id)
            if of_target or key.partition("/")[2] == run_id:
                return value.request
    raise StoryError(f"nobody knows of run {run_id}")


def _again(world: StoryWorld, _match: Match) -> None:
    assert world.last_word is not None
    world.send(replace(world.last_word))


def _acknowledges(world: StoryWorld, match: Match) -> None:
    word = FailoverRequested(
        run_id="",
        action=RequestAction.ACKNOWLEDGE,
        kind=FailoverKind.UNPLANNED,
        actor=match["who"],
        reason=match["why"],
        requested_at_ms=world.now_ms,
        vm_id=match["vm"],
        ticket=match["ticket"] or "",
    )
    world.send(word)


def _brakes(world: StoryWorld, match: Match) -> None:
    world.send(Brake(match["what"] == "engages", match["who"], match["why"], world.now_ms))


def _link(world: StoryWorld, match: Match) -> None:
    world.places.cut = match["what"] == "cut"


def _power(world: StoryWorld, match: Match) -> None:
    site = match["site"]
    if match["what"] == "loses its power":
        world.places.dark.add(site)
        for machine in world.machines.values():
            machine.stop(site)
        return
    world.places.dark.discard(site)
    world.is_reached_again(site)


def _reach(world: StoryWorld, match: Match) -> None:
    site = match["site"]
    if match["what"] == "is cut off from everything":
        world.unreachable.add(site)
        world.places.cut = True
        return
    world.unreachable.discard(site)
    world.places.cut = False
    world.is_reached_again(site)


def _sight(world: StoryWorld, match: Match) -> None:
    seen = (CLOUD if match["who"] == "the witness" else REPLICA, match["site"])
    if match["what"] == "can no longer see":
        world.unwatched.add(seen)
    else:
        world.unwatched.discard(seen)


def _tells(world: StoryWorld, match: Match) -> None:
    who, place = match["who"], REPLICA if match["who"] == "dr" else CLOUD
    site, node = match["site"] or PLACES[match["node"]], match["node"] or ""
    name = who.removeprefix("the ") if place == CLOUD else f"agent at {place}"
    world.send(Evidence(name, place, site, Verdict(match["verdict"]), world.now_ms, node, match["detail"] or ""))


def _node(world: StoryWorld, match: Match) -> None:
    node, site = match["node"], PLACES[match["node"]]
    state = NodeState.DOWN if match["what"] == "goes down" else NodeState.UP
    (world.places.nodes_down.add if state is NodeState.DOWN else world.places.nodes_down.discard)((site, node))
    world.change_cluster(site, lambda cluster: _with_node(cluster, node, state=state))


def _memory(world: StoryWorld, match: Match) -> None:
    node, free = match["node"], int(match["free"])
    world.change_cluster(PLACES[node], lambda cluster: _with_node(cluster, node, memory_free_mib=free))


def _with_node(cluster: ClusterInventory, name: str, **changes: Any) -> ClusterInventory:
    nodes = tuple(replace(node, **changes) if node.name == name else node for node in cluster.nodes)
    return replace(cluster, nodes=nodes)


def _accepts(world: StoryWorld, match: Match) -> None:
    accepts = match["what"] == "accepts"
    world.change_cluster(match["site"], lambda cluster: replace(cluster, accepts_replicas=accepts))


def _moves(world: StoryWorld, match: Match) -> None:
    world.moves(match["vm"], PLACES[match["node"]], match["node"])


def _starts(world: StoryWorld, match: Match) -> None:
    world.machines[match["vm"]].start(PLACES[match["node"]])


def _stops(world: StoryWorld, match: Match) -> None:
    world.machines[match["vm"]].stop(PLACES[match["node"]])


def _replication(world: StoryWorld, match: Match) -> None:
    (world.silenced.add if match["what"] == "stands still" else world.silenced.discard)(match["vm"])


def _goes_wrong(world: StoryWorld, match: Match) -> None:
    vm_id, step = match["vm"] or "", match["step"] or match["task"]
    if "/gate-" in step:
        vm_id = step.rpartition("/")[2]
    times = {"": 1, None: 1, " twice": 2, " every time": 50}.get(match["times"]) or int(match["times"].split()[0])
    world.scripted[vm_id][step] = [_GOES_WRONG[match["how"]]] * times
    world._deliveries.pop((vm_id, step), None)
    if match["detail"]:
        world.words[vm_id, step] = match["detail"]


def _takes(world: StoryWorld, match: Match) -> None:
    world.takes_ms[match["vm"] or "", match["step"]] = _ms(match["time"])


def _owner(world: StoryWorld, match: Match) -> None:
    if match["what"] in ("the worker is lost", "Kafka stops"):
        world.lose_worker()
    else:
        world.take_over()


def _bug(world: StoryWorld, match: Match) -> None:
    run_id = match["run"]
    kind = "run" if world.value(f"run/{run_id}") is not None else "plan-run"
    world.bug(f"{kind}/{run_id}", match["error"])


def _new_plan(world: StoryWorld, match: Match) -> None:
    world.plan = plan(match)
    world.send(replace(world.plan, set_at_ms=world.now_ms))


def _new_policy(world: StoryWorld, match: Match) -> None:
    world.send(replace(policy(match), actor=match["who"], reason="as the house wants it", set_at_ms=world.now_ms))


def _new_replication(world: StoryWorld, match: Match) -> None:
    target = match["target"]
    pairs = (part.partition(" ") for part in match["settings"].split(", "))
    scope = SettingsScope.VM if target in world.machines else SettingsScope.CLUSTER
    world.set_replication(
        SettingsChange(
            scope=scope,
            target=target,
            changes={name: text for name, _, text in pairs},
            actor=match["who"],
            reason=match["why"],
            requested_at_ms=world.now_ms,
            ticket=match["ticket"] or "",
            based_on=int(match["version"]) if match["version"] else -1,
            change_id=f"{match['who']}-{world.now_ms}",
        )
    )


def _cannot_take(world: StoryWorld, match: Match) -> None:
    node, times = match["node"], match["times"]
    behaviour = Behaviour.REFUSE if match["how"] == "refuse" else Behaviour.FAIL
    world.scripted[""][node] = [behaviour] * (50 if times == " every time" else int(times.split()[0]) if times else 1)
    world._deliveries.pop(("", node), None)
    world.words["", node] = match["detail"]


def _overwrites(world: StoryWorld, match: Match) -> None:
    node, name, text = match["node"], match["name"], match["text"]
    if match["what"] == "keeps setting":
        world.overwritten[node] = (name, text)
    world.overwrite(node, name, text)


def _overwrites_no_more(world: StoryWorld, match: Match) -> None:
    world.overwritten.pop(match["node"])


def _joins(world: StoryWorld, match: Match) -> None:
    node, site = match["node"], match["site"]
    world.change_cluster(
        site, lambda cluster: replace(cluster, nodes=(*cluster.nodes, replace(cluster.nodes[0], name=node)))
    )


def _new_address(world: StoryWorld, match: Match) -> None:
    vm_id = match["vm"]
    adapter = AdapterAddresses("nic-0", FamilyAddresses(addresses=(match["address"],)))
    changed = replace(
        world.settings[vm_id], adapters=(adapter,), actor=match["who"], reason="renumbered", set_at_ms=world.now_ms
    )
    world.settings[vm_id] = changed
    world.send(changed)


def _nothing(_world: StoryWorld, _match: Match) -> None:
    """The log goes on until here."""


_TARGET = rf"(?:plan (?P<plan>{_NAME})|(?P<target>{_NAMES}))"
_RUN_ID = rf"the broker's run of {_NAME}|{_NAME}"
_RUN = rf"(?P<who>\w+) (?P<word>{'|'.join(_WORDS)}) (?:task (?P<step>{_NAME}) of )?(?P<run>{_RUN_ID})"

HAPPENINGS: Sequence[tuple[str, Callable[[StoryWorld, Match], None]]] = (
    (
        (
            rf"(?P<who>\w+) asks for an? (?P<kind>{'|'.join(_KINDS)}) of {_TARGET}(?: as (?P<name>{_NAME}))?"
            rf"(?:, (?P<terms>[^:]+(?::\d\d:\d\d[^:]*)?))?{_WHY}"
        ),
        _asks,
    ),
    (rf"{_RUN}{_WHY}", _says),
    (rf"(?P<who>\w+) has (?P<run>{_NAME}) tried again (?P<point>from [^:]+(?::\d\d:\d\d)?){_WHY}", _tries),
    (r"\w+ asks for the same once more", _again),
    (rf"(?P<who>\w+) acknowledges the failover of (?P<vm>{_NAME}){_WHY}", _acknowledges),
    (r"(?P<who>\w+) (?P<what>engages|releases) the brake: (?P<why>.+)", _brakes),
    (r"the link between primary and dr is (?P<what>cut|mended)", _link),
    (rf"(?P<site>{_SITE}) (?P<what>loses its power|has power again)", _power),
    (rf"(?P<site>{_SITE}) (?P<what>is cut off from everything|is connected again)", _reach),
    (rf"(?P<who>the witness|dr) (?P<what>can no longer see|sees) (?P<site>{_SITE})(?: again)?", _sight),
    (
        (
            rf"(?P<who>the witness|the power monitor|dr) tells that (?:(?P<site>{_SITE})|node (?P<node>p1|p2|d1|d2))"
            r" is (?P<verdict>UP|UNREACHABLE|DOWN|OFF)(?: \((?P<detail>.+)\))?"
        ),
        _tells,
    ),
    (r"node (?P<node>p1|p2|d1|d2) (?P<what>goes down|comes up)", _node),
    (r"node (?P<node>p1|p2|d1|d2) has (?P<free>\d+) MiB of memory free", _memory),
    (rf"the cluster of (?P<site>{_SITE}) (?P<what>accepts|no longer accepts) replicas", _accepts),
    (rf"(?P<vm>{_NAME}) moves to (?P<node>p1|p2|d1|d2)", _moves),
    (rf"somebody starts (?P<vm>{_NAME}) on (?P<node>p1|p2|d1|d2)", _starts),
    (rf"somebody switches (?P<vm>{_NAME}) off on (?P<node>p1|p2|d1|d2)", _stops),
    (rf"replication of (?P<vm>{_NAME}) (?P<what>stands still|goes on)", _replication),
    (
        (
            rf"(?:(?P<step>[A-Z]\d(?:-undo)?) of (?P<vm>{_NAME})|task (?P<task>{_NAME}))"
            rf" (?P<how>{'|'.join(_GOES_WRONG)})(?P<times> twice| \d+ times| every time)?(?:: (?P<detail>.+))?"
        ),
        _goes_wrong,
    ),
    (rf"(?P<step>[A-Z]\d(?:-undo)?) of (?P<vm>{_NAME}) takes (?P<time>\d+ \w+)", _takes),
    (r"(?P<what>the worker is lost|a new worker takes over|Kafka stops|Kafka runs again)", _owner),
    (rf"a bug in the rules hits (?P<run>{_NAME}): (?P<error>.+)", _bug),
    (rf"\w+ changes the {_PLAN}", _new_plan),
    (rf"(?P<who>\w+) sets the {_POLICY}", _new_policy),
    (rf"(?P<who>\w+) gives (?P<vm>{_NAME}) the address (?P<address>\S+) at dr", _new_address),
    (
        (
            rf"(?P<who>\w+) sets the replication of (?P<target>{_NAME})(?:, as of version (?P<version>\d+),)?"
            rf" to (?P<settings>[^:]+){_WHY}"
        ),
        _new_replication,
    ),
    (
        (
            r"node (?P<node>\w+) will (?P<how>refuse|fail to take) its settings"
            r"(?P<times> \d+ times| every time)?: (?P<detail>.+)"
        ),
        _cannot_take,
    ),
    (r"somebody (?P<what>sets|keeps setting) (?P<name>\w+) of node (?P<node>\w+) to (?P<text>.+)", _overwrites),
    (r"nobody sets anything on node (?P<node>\w+) any more", _overwrites_no_more),
    (rf"node (?P<node>\w+) joins (?P<site>{_SITE})", _joins),
    (r"the story ends", _nothing),
)


def give(wishes: Wishes, sentence: str) -> None:
    """Take what is given before the clock starts.

    Raises:
        StoryError: no pattern fits the sentence.

    """
    for pattern, take in GIVENS:
        if match := re.fullmatch(pattern, sentence):
            take(wishes, match)
            return
    raise StoryError(f"nobody knows what this means: given {sentence}")


def happen(world: StoryWorld, sentence: str) -> None:
    """Let something happen.

    Raises:
        StoryError: no pattern fits the sentence.

    """
    for pattern, take in HAPPENINGS:
        if match := re.fullmatch(pattern, sentence):
            take(world, match)
            return
    raise StoryError(f"nobody knows what this means: {sentence}")


def vocabulary() -> tuple[list[str], list[str]]:
    """Every pattern, of what can be given and of what can happen."""
    return [pattern for pattern, _ in GIVENS], [pattern for pattern, _ in HAPPENINGS]


def plan(match: Match) -> RecoveryPlan:
    """`erp: db (erp-db); app (erp-app, erp-web) after db; web (www) after db, app`."""
    groups = []
    for part in match["groups"].split("; "):
        found = re.fullmatch(rf"({_NAME}) \(([^)]+)\)(?: after (.+))?", part)
        if found is None:
            raise StoryError(f"{part!r} is no group: expected `name (vm, vm) after other, other`")
        depends = tuple(found[3].split(", ")) if found[3] else ()
        groups.append(RecoveryGroup(found[1], tuple(found[2].split(", ")), depends_on=depends))
    return RecoveryPlan(match["plan"], match["plan"].upper(), tuple(groups))


def policy(match: Match) -> Policy:
    """`all: act, hold-down 60 s, 2 observers, brake after 3 in 60 min, 2 of ann, bob approve planned within 600 s`."""
    scope, _, target = match["scope"].partition(" ")
    made = Policy(PolicyScope(scope.upper()), target, actor="eve", reason="house rules", set_at_ms=1)
    for limit in match["limits"].split(", "):
        made = _with_limit(made, limit, match.string)
    return made


def _with_limit(made: Policy, limit: str, sentence: str) -> Policy:
    if limit in ("off", "observe", "advise", "act"):
        return replace(made, mode=AutomaticMode(limit.upper()))
    for pattern, name in _LIMITS:
        if found := re.fullmatch(pattern, limit):
            return replace(made, **{name: int(found[1]) * _UNITS_MS[found[2]]})  # type: ignore[arg-type]  # times
    if found := re.fullmatch(rf"brake after (\d+) within {_TIME}", limit):
        return replace(made, brake_runs=int(found[1]), brake_within_ms=int(found[2]) * _UNITS_MS[found[3]])
    if found := re.fullmatch(rf"(\d+) of ([\w|]+) approve (?:every|an? (\w+)) failover within {_TIME}", limit):
        rule = ApprovalRule(
            int(found[1]),
            () if found[2] == "anybody" else tuple(found[2].split("|")),
            (FailoverKind(found[3].upper()),) if found[3] else (),
            within_ms=int(found[4]) * _UNITS_MS[found[5]],
        )
        return replace(made, approvals=(*(made.approvals or ()), rule))
    raise StoryError(f"{sentence!r}: nobody knows what {limit!r} means")


def _commit(match: Match) -> tuple[CommitPolicy, int]:
    if match["hold"]:
        return CommitPolicy.HOLD, 0
    return (
        CommitPolicy.AUTO_COMMIT if match["end"] == "kept" else CommitPolicy.AUTO_ROLL_BACK,
        _ms(match["window"]),
    )


def _on_failure(then: str | None) -> OnTaskFailure:
    return OnTaskFailure(then.upper()) if then else OnTaskFailure.HALT


def _at_ms(text: str) -> int:
    hours, minutes, seconds = map(int, text.split(":"))
    return BEGINNING_MS + 1_000 * (3_600 * hours + 60 * minutes + seconds)


def _ms(text: str) -> int:
    count, unit = text.split()
    return int(count) * _UNITS_MS[unit]
