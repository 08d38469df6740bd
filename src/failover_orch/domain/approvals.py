"""Who has to agree before a run begins: n of m people, within a time, and never the one who asks. Pure.

| rule | when | then |
| --- | --- | --- |
| V1 | a request that needs approval comes | its run waits; nothing is done |
| V2 | somebody agrees | noted; still so many to come |
| V3 | the last agreement that is needed comes | the run begins, if nothing speaks against it by now |
| V4 | the one who asked agrees | refused: nobody approves their own request |
| V5 | somebody agrees who is not among the approvers | refused, with who is |
| V6 | somebody agrees twice | refused: it counts once |
| V7 | somebody whose agreement is needed rejects it | the run ends REFUSED |
| V8 | the time is over | the run ends REFUSED |
| V9 | data loss is accepted (`accept_data_loss`) | a second person has to agree, whatever the limits say |
| V10 | the broker proposes, in mode ADVISE | one person has to agree, whatever the limits say |

A run of a plan or list is approved as a whole; its VMs' runs are part of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from failover_orch.domain.facts import FailoverRequested, RequestAction
from failover_orch.domain.policies import ApprovalRule, Limits
from failover_orch.domain.records import RunState
from failover_orch.domain.runs import Transition
from failover_orch.domain.state import Approval, PlanRun, Run

__all__ = ["awaiting", "granted", "needed", "on_word", "sentence"]

_AnyRun = TypeVar("_AnyRun", Run, PlanRun)


def needed(request: FailoverRequested, limits: Limits, to_site: str) -> ApprovalRule | None:
    """The approval that a request needs, or None. Of several rules that are for it, the one that asks for most people.

    `to_site` is where the VM would be active afterwards; empty for a plan or list, whose VMs may go to several.
    """
    if request.parent_run_id:
        return None
    fitting = [
        rule
        for rule in limits.approvals
        if rule.needed > 0
        and (not rule.kinds or request.kind in rule.kinds)
        and (not rule.to_site or not to_site or rule.to_site == to_site)
    ]
    if request.accept_data_loss or request.needs_approval:  # V9, V10
        fitting.append(ApprovalRule(needed=1))
    return max(fitting, key=lambda rule: (rule.needed, bool(rule.approvers)), default=None)


def awaiting(run: _AnyRun, rule: ApprovalRule, now_ms: int) -> tuple[_AnyRun, Transition]:
    """The run, waiting for approval (V1)."""
    approval = Approval(rule, now_ms + rule.within_ms)
    run = replace(
        run,
        state=RunState.AWAITING_APPROVAL,
        approval=approval,
        due_ms=approval.until_ms,
        waits_for=sentence(approval, run.request),
        choices=(RequestAction.APPROVE, RequestAction.REJECT, RequestAction.CANCEL),
    )
    return run, Transition("V1", run.waits_for)


def on_word(run: _AnyRun, request: FailoverRequested) -> tuple[_AnyRun, Transition | None, str]:
    """Take APPROVE or REJECT: the run from now on, what to journal, or why the word does not count (rule in front)."""
    asked: Approval | None = run.approval
    told = ", ".join(run.choices) or "nothing of the kind"
    if asked is None or run.state is not RunState.AWAITING_APPROVAL:
        return run, None, f"R23: the run is {run.state} and does not wait for approval; it can be told {told}"
    against = _does_not_count(asked, run.request.actor, request)
    if against:
        return run, None, against
    if request.action is RequestAction.REJECT:
        rejected = replace(run, state=RunState.REFUSED, due_ms=0, waits_for="", choices=())
        return rejected, Transition("V7", f"rejected by {request.actor}: {request.reason}"), ""
    agreed = _with(asked, request.actor)
    approved = replace(run, approval=agreed, waits_for=sentence(agreed, run.request))
    if granted(approved):
        approved = replace(approved, waits_for="", choices=())
    count = f"{len(agreed.given)} of {agreed.rule.needed}"
    number = "V3" if granted(approved) else "V2"
    return approved, Transition(number, f"approved by {request.actor} ({count}): {request.reason}"), ""


def _with(approval: Approval, actor: str) -> Approval:
    return replace(approval, given=(*approval.given, actor))


def _does_not_count(approval: Approval, asker: str, request: FailoverRequested) -> str:
    """Why somebody's word does not count, or nothing. Whoever asked may also reject: that is a cancel."""
    people = approval.rule.approvers
    if request.action is RequestAction.APPROVE and request.actor == asker:
        return f"V4: {asker} asked for this run, and nobody approves their own request"
    if people and request.actor not in (*people, asker):
        return f"V5: {request.actor} is not asked; approvers are {', '.join(people)}"
    if request.actor in approval.given and request.action is RequestAction.APPROVE:
        return f"V6: {request.actor} has approved this run already"
    return ""


def granted(run: Run | PlanRun) -> bool:
    """Whether everybody has agreed who has to."""
    return run.approval is None or len(run.approval.given) >= run.approval.rule.needed


def sentence(approval: Approval, request: FailoverRequested) -> str:
    """Who still has to agree."""
    left = approval.rule.needed - len(approval.given)
    people = [person for person in approval.rule.approvers if person not in (request.actor, *approval.given)]
    who = f"of {', '.join(people)}" if people else f"of anybody but {request.actor}"
    why = "; data loss is accepted" if request.accept_data_loss else ""
    return f"approval by {left} {who}{why}"
