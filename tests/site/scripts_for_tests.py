"""Scripts and step commands for tests of plan work."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from failover_orch.domain.records import Action, StepCommand
from failover_orch.domain.settings import Gate, GateKind, PlanAction, PlanActionKind
from worlds import command

__all__ = ["CONTEXT", "calling", "checking", "now", "running_script", "soon", "write_script"]

CONTEXT = '{"kind": "PLANNED", "plan": "erp", "vms": ["vm-1"]}'


def now() -> int:
    return time.time_ns() // 1_000_000


def soon(seconds: float = 30) -> int:
    return now() + int(seconds * 1000)


def write_script(directory: Path, name: str, body: str, *, mode: int = 0o755) -> Path:
    """A shell script in a directory of its own, which is made where need be."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(mode)
    return path


def running_script(*words: str, deadline_ms: int = 0, attempt: int = 1, step: str = "before/notify") -> StepCommand:
    action = PlanAction("notify", PlanActionKind.SCRIPT, site="primary", command=words)
    return _plan_step(Action.RUN_SCRIPT, deadline_ms, attempt, step, action)


def calling(url: str, *, method: str = "POST", deadline_ms: int = 0) -> StepCommand:
    action = PlanAction("notify", PlanActionKind.HTTP, site="primary", url=url, method=method)
    return _plan_step(Action.CALL_HTTP, deadline_ms, 1, "after/notify", action)


def checking(*words: str, deadline_ms: int = 0) -> StepCommand:
    asked = _plan_step(Action.CHECK_GATE, deadline_ms, 1, "gate", None)
    return replace(asked, gate=Gate(GateKind.SCRIPT, command=words), key="")


def _plan_step(action: Action, deadline_ms: int, attempt: int, step: str, what: PlanAction | None) -> StepCommand:
    asked = command(action, "primary", step=step, attempt=attempt, deadline_ms=deadline_ms or soon())
    return replace(asked, node="", vm_id="", key="plan-1", plan_action=what, context=CONTEXT)
