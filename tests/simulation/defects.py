"""Deliberate defects, put in one at a time: that the simulation can fail is shown by its failing under each of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from failover_orch.domain import (
    Action,
    AutomaticMode,
    FailoverKind,
    FailoverRequested,
    KeptSettings,
    PlanRun,
    RequestAction,
    Run,
    RunState,
    SettingsChange,
    StepState,
    VmState,
    approvals,
    automatic,
    broker,
    draft,
    effects,
    guards,
    plan_runs,
    plan_tasks,
    preconditions,
    requests,
    runs,
    settings_keeping,
    settings_nodes,
    workflows,
)
from failover_orch.streams.folding import Folding
from failover_orch.streams.store import APPLIED, Store
from simulation.agents import Agent
from simulation.documents import put
from simulation.invariants import INVARIANTS
from simulation.log import Log
from simulation.machines import PRODUCTION, Hypervisors
from simulation.running import quietly, run_seeds

__all__ = ["DEFECTS", "MOST_SEEDS", "Caught", "Defect", "caught", "write_table"]

MOST_SEEDS = 20_000


@dataclass(frozen=True, slots=True)
class Defect:
    """Something wrong. `put_in` makes it so, in this process and for good."""

    name: str
    put_in: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Caught:
    """What caught a defect; no seed: nothing did. `tried` counts the seeds up to then."""

    defect: Defect
    tried: int
    seed: int | None = None
    invariant: str = ""


def caught(defect: Defect, *, jobs: int = 2, most: int = MOST_SEEDS) -> Caught:
    """Try seeds with a defect until an invariant speaks against it."""
    number = DEFECTS.index(defect)
    for tried, (seed, failure) in enumerate(
        run_seeds(range(most), jobs=max(2, jobs), prepare=partial(_put_in, number))
    ):
        # An error of the simulation itself is no proof of anything.
        if failure is not None and failure.invariant:
            return Caught(defect, tried + 1, seed, failure.invariant)
    return Caught(defect, most)


def write_table(found: Sequence[Caught]) -> None:
    """Write what caught what into the document."""
    lines = ["| defect | caught by | at seed | after seeds |", "| --- | --- | --- | --- |"]
    for each in found:
        by = f"{each.invariant}: {INVARIANTS[each.invariant]}" if each.invariant else "nothing"
        lines.append(f"| {each.defect.name} | {by} | {'' if each.seed is None else each.seed} | {each.tried} |")
    put("defects", "\n".join(lines))


def _put_in(number: int) -> None:
    quietly()
    DEFECTS[number].put_in()


def _replace(old: Callable[..., Any], new: Callable[..., Any]) -> None:
    """Put another function in the place of one, wherever it has been imported to."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("failover_orch", "simulation")):
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, new)


def _restored_without_applied_offsets() -> None:
    load = Store.load

    def load_without(self: Store, topic: str, partition: int, key: bytes, value: bytes) -> None:
        if key != APPLIED:
            load(self, topic, partition, key, value)

    Store.load = load_without  # type: ignore[method-assign]  # that is the defect


def _taken_again() -> None:
    take = Folding._take

    def take_all(self: Folding, intake: Any, transaction: Any) -> None:
        known, self.store.applied = self.store.applied, {}
        take(self, intake, transaction)
        self.store.applied = known

    Folding._take = take_all  # type: ignore[method-assign]  # that is the defect


def _not_fenced() -> None:
    Log.open = lambda self, partition: self._epochs[partition]  # type: ignore[method-assign]  # that is the defect


def _timers_not_rebuilt() -> None:
    begin = Folding.begin

    def begin_without(self: Folding, partitions: int, kafka: str = "") -> None:
        state, self.store.state = self.store.state, {}
        begin(self, partitions, kafka)
        self.store.state = state

    Folding.begin = begin_without  # type: ignore[method-assign]  # that is the defect


def _epochs_not_compared() -> None:
    Hypervisors.accepts = lambda *_: True  # type: ignore[method-assign]  # that is the defect


def _scripts_begun_again() -> None:
    script = Agent._script

    def script_again(self: Agent, order: Any, life: int, duration_ms: int) -> None:
        self._ledger.clear()
        script(self, order, life, duration_ms)

    Agent._script = script_again  # type: ignore[method-assign]  # that is the defect


def _workflow(kind: FailoverKind, number: str, **changes: Any) -> None:
    workflow = workflows.WORKFLOWS[kind]
    steps = tuple(replace(step, **changes) if step.number == number else step for step in workflow.steps)
    workflows.WORKFLOWS[kind] = replace(workflow, steps=steps)


def _fence_skipped() -> None:
    _workflow(FailoverKind.UNPLANNED, "U1", on_failure=workflows.OnFailure.CONTINUE)


def _attested_by_nobody() -> None:
    command = runs._command
    _replace(command, lambda *arguments: replace(command(*arguments), attested=True))


def _copy_in_production() -> None:
    command = runs._command
    _replace(command, lambda *arguments: replace(command(*arguments), test_network=PRODUCTION))


def _copy_left() -> None:
    _workflow(FailoverKind.TEST, "T5", action=Action.INSPECT)


def _address_failure_ignored() -> None:
    failed = runs._failed

    def failed_unless_addresses(run: Run, vm: VmState, step: workflows.Step, *rest: Any, **options: Any) -> Any:
        if step.action is Action.VERIFY_ADDRESSES:
            return runs.proceed(run, vm, rest[1])
        return failed(run, vm, step, *rest, **options)

    _replace(failed, failed_unless_addresses)


def _any_answer_counts() -> None:
    on_result = runs.on_result

    def on_any(run: Run, vm: VmState, result: Any, now_ms: int) -> Any:
        if not run.state.ended and run.state is not RunState.AWAITING_APPROVAL:
            step, _ = runs.step_in_hand(run)
            result = replace(result, step=runs._command_step(run, step))
        return on_result(run, vm, result, now_ms)

    _replace(on_result, on_any)


def _turned_in_the_same_epoch() -> None:
    turn_round = runs.turn_round

    def turn(run: Run, vm: VmState, *rest: Any) -> Any:
        return turn_round(run, replace(vm, epoch=vm.epoch - 1), *rest)

    _replace(turn_round, turn)


def _nothing_undone() -> None:
    _replace(runs._to_be_undone, lambda *_: False)


def _route_unchanged() -> None:
    _replace(effects.take_effect, lambda run, vm, *_, **__: (vm, ()))


def _evidence_not_independent() -> None:
    evidence = guards._evidence
    _replace(evidence, lambda seen, limits: evidence([replace(sight, place=sight.observer) for sight in seen], limits))


def _data_path_not_needed() -> None:
    evidence = guards._evidence

    def without_data_path(seen: Sequence[guards.Sight], limits: Any) -> guards.Guard:
        guard = evidence(seen, limits)
        return replace(guard, open=guard.open or sum(sight.gone for sight in seen) > 0)

    _replace(evidence, without_data_path)


def _no_hold_down() -> None:
    hold_down = guards._hold_down
    _replace(
        hold_down, lambda vm, limits, now_ms, opened: hold_down(vm, replace(limits, hold_down_ms=0), now_ms, opened)
    )


def _takeover_forgotten() -> None:
    hold_down = guards._hold_down
    _replace(hold_down, lambda vm, limits, now_ms, _: hold_down(vm, limits, now_ms, 0))


def _no_cooldown() -> None:
    cooldown = guards._cooldown
    _replace(cooldown, lambda vm, now_ms: cooldown(replace(vm, cooldowns=()), now_ms))


def _no_brake() -> None:
    brake_guard = guards.brake_guard
    _replace(brake_guard, lambda _brake, _recent, limits, now_ms: brake_guard(None, (), limits, now_ms))


def _observing_acts() -> None:
    act = automatic._act
    _replace(
        act,
        lambda draft, vm, all_guards, limits, ask: act(
            draft, vm, all_guards, replace(limits, mode=AutomaticMode.ACT), ask
        ),
    )


def _no_approval() -> None:
    _replace(approvals.needed, lambda *_: None)


def _own_approval() -> None:
    against = approvals._does_not_count
    _replace(against, lambda approval, _asker, request: against(approval, "", request))


def _one_approval_is_enough() -> None:
    _replace(approvals.granted, lambda run: run.approval is None or bool(run.approval.given))


def _second_run() -> None:
    rules = preconditions._RULES
    preconditions._RULES = tuple(  # type: ignore[assignment]  # one fewer
        rule for rule in rules if rule.number != "F3"
    )


def _request_repeated() -> None:
    on_request = requests.on_request

    def forget(draft_: draft.Draft, request: FailoverRequested) -> None:
        known = draft_.find(f"run/{request.run_id}", Run)
        if request.action is RequestAction.REQUEST and known is not None:
            requests._vm_requested(draft_, request)
        else:
            on_request(draft_, request)

    _replace(on_request, forget)
    from failover_orch.domain import broker  # noqa: PLC0415 (its table of handlers is made when it is imported)

    broker._HANDLERS = {**broker._HANDLERS, FailoverRequested: forget}


def _heads_forgotten() -> None:
    keep = draft.Draft.keep

    def keep_all_but_heads(self: draft.Draft, key: str, value: Any) -> None:
        if not key.startswith("chain/journal") or value.sequence % 7:
            keep(self, key, value)

    draft.Draft.keep = keep_all_but_heads  # type: ignore[method-assign]  # that is the defect


def _dependencies_ignored() -> None:
    _replace(plan_tasks._all_before, lambda *_: set())


def _limit_ignored() -> None:
    _replace(plan_runs._within_limits, lambda _run, tasks: tasks)


def _resumed_from_the_start() -> None:
    resume = plan_runs._resume

    def resume_all(run: PlanRun, *rest: Any) -> Any:
        failed = tuple(replace(progress, state=StepState.FAILED) for progress in run.progress)
        return resume(replace(run, progress=failed), *rest)

    _replace(resume, resume_all)


def _change_repeated() -> None:
    change = settings_keeping.on_settings_change

    def change_again(draft: Any, said: SettingsChange) -> None:
        key = f"settings/{said.scope.lower()}/{said.target}"
        kept = draft.find(key, KeptSettings)
        if kept is not None:
            draft.keep(key, replace(kept, heard=()))
        change(draft, said)

    broker._HANDLERS = {**broker._HANDLERS, SettingsChange: change_again}


def _nodes_not_followed() -> None:
    _replace(settings_keeping.follow_cluster, lambda *_: None)


def _failed_for_ever() -> None:
    fails = settings_nodes.fails
    _replace(fails, lambda *arguments, again_ms=0: fails(*arguments, again_ms=0))


def _vms_not_followed() -> None:
    _replace(settings_keeping.follow_vm, lambda *_: None)


DEFECTS: tuple[Defect, ...] = (
    Defect("a task restores its state without its applied offsets", _restored_without_applied_offsets),
    Defect("records that are delivered again are taken again", _taken_again),
    Defect("who opens a partition does not fence its predecessor", _not_fenced),
    Defect("timers are not rebuilt when a partition is taken over", _timers_not_rebuilt),
    Defect("the hypervisors do not compare epochs", _epochs_not_compared),
    Defect("a site agent does not know which scripts were begun", _scripts_begun_again),
    Defect("a run that turns round keeps its epoch", _turned_in_the_same_epoch),
    Defect("an answer counts for whatever step is in hand", _any_answer_counts),
    Defect("the fence of an unplanned failover is skipped", _fence_skipped),
    Defect("the primary is said to be attested off, whoever asks", _attested_by_nobody),
    Defect("what a cancelled run did is not undone", _nothing_undone),
    Defect("a failed address step is passed over", _address_failure_ignored),
    Defect("a failover does not change the VM's route", _route_unchanged),
    Defect("a test copy is connected to the production network", _copy_in_production),
    Defect("a test copy is left when its run ends", _copy_left),
    Defect("a second run of a VM is let begin", _second_run),
    Defect("a request that comes twice is taken twice", _request_repeated),
    Defect("no approval is needed", _no_approval),
    Defect("who asks can approve", _own_approval),
    Defect("one approval is enough", _one_approval_is_enough),
    Defect("guard G1 counts observers in one place as several", _evidence_not_independent),
    Defect("guard G1 does without the data path, and believes anybody", _data_path_not_needed),
    Defect("guard G2 does not hold down", _no_hold_down),
    Defect("guard G2 is not started anew at a takeover", _takeover_forgotten),
    Defect("guard G4 knows no cooldown", _no_cooldown),
    Defect("guard G5 does not look at the brake", _no_brake),
    Defect("mode OBSERVE acts", _observing_acts),
    Defect("a plan does not wait for what a group depends on", _dependencies_ignored),
    Defect("a plan keeps no limit", _limit_ignored),
    Defect("a plan that is resumed begins from the start", _resumed_from_the_start),
    Defect("now and then the journal's head is not kept", _heads_forgotten),
    Defect("a change of settings that comes twice is taken twice", _change_repeated),
    Defect("a node that is back is not told its settings", _nodes_not_followed),
    Defect("a node that cannot take its settings is given up", _failed_for_ever),
    Defect("a VM's settings do not follow it to its other site", _vms_not_followed),
)
