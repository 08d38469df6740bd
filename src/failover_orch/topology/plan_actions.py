"""What a group of a recovery plan does besides moving its VMs: actions before and after, and readiness gates."""

from __future__ import annotations

import re
from dataclasses import replace

from failover_orch.domain.facts import FailoverKind
from failover_orch.domain.settings import Gate, GateKind, PlanAction, PlanActionKind
from failover_orch.domain.terms import OnTaskFailure
from failover_orch.topology.machines import House
from failover_orch.yaml_reading import IDENTIFIER, Entry, Pattern, Register

__all__ = ["DAY_S", "actions_of", "gates_of"]

_ACTION_KEYS = (
    "name",
    "script",
    "http",
    "manual",
    "site",
    "kinds",
    "timeout_s",
    "attempts",
    "backoff_s",
    "on_failure",
    "compensation",
)
_HTTP_KEYS = ("url", "method")
_GATE_KEYS = ("power", "heartbeat", "tcp_port", "script", "timeout_s", "on_failure")

DAY_S = 86_400
_MAX_ATTEMPTS = 100
_MAX_PORT = 65_535
_METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET")
_URL = Pattern(re.compile(r"https?://[^\s/?#]+\S*"), "a URL such as https://hooks.example/failover")
_ARGUMENTS = "a list of the program and its arguments"

_NOT_FOR_MANUAL = ("site", "attempts", "backoff_s", "compensation")
_NOT_FOR_HTTP = ("compensation",)


def actions_of(entry: Entry, key: str, house: House) -> tuple[PlanAction, ...]:
    """Read `before` or `after` of a group. An action is told to people by its name, so it has one of its own."""
    actions: Register[PlanAction] = Register("action")
    for below in entry.entries(key, "name", _ACTION_KEYS):
        name = below.text("name")
        actions.add(below, "name", name, _action(below, name, house))
    return tuple(actions.items.values())


def _action(entry: Entry, name: str, house: House) -> PlanAction:
    action = PlanAction(name, PlanActionKind.MANUAL)
    action = replace(
        action,
        kinds=entry.words("kinds", FailoverKind),
        timeout_ms=entry.milliseconds("timeout_s", 1, DAY_S, default=action.timeout_ms),
        attempts=entry.integer("attempts", 1, _MAX_ATTEMPTS, default=action.attempts),
        backoff_ms=entry.milliseconds("backoff_s", 1, DAY_S, default=action.backoff_ms),
        on_failure=entry.word("on_failure", OnTaskFailure, action.on_failure),
    )
    match entry.only_one(("script", "http", "manual")):
        case "script":
            undo = _arguments(entry, "compensation") if entry.has("compensation") else ()
            command = _arguments(entry, "script")
            site = _site(entry, house)
            return replace(action, kind=PlanActionKind.SCRIPT, site=site, command=command, compensation=undo)
        case "http":
            _refuse(entry, _NOT_FOR_HTTP, "is for scripts; leave it out, or let a script make the call")
            url, method = _call(entry)
            return replace(action, kind=PlanActionKind.HTTP, site=_site(entry, house), url=url, method=method)
        case "manual":
            _refuse(entry, _NOT_FOR_MANUAL, "is not for a manual action, which a person does; leave it out")
            return replace(action, instruction=entry.text("manual"))
        case _:
            return action


def _site(entry: Entry, house: House) -> str:
    """The site whose agent does it."""
    return house.sites.find(entry, "site", entry.text("site", pattern=IDENTIFIER)) or ""


def _call(entry: Entry) -> tuple[str, str]:
    below = entry.entry("http", _HTTP_KEYS, required=True)
    if below is None:
        return "", ""
    return below.text("url", pattern=_URL), below.one_of("method", _METHODS, _METHODS[0])


def _arguments(entry: Entry, key: str) -> tuple[str, ...]:
    return tuple(text for _, text in entry.texts(key, required=True, expected=_ARGUMENTS))


def _refuse(entry: Entry, keys: tuple[str, ...], why: str) -> None:
    for key in keys:
        if entry.has(key):
            entry.mistake(key, why)


def gates_of(entry: Entry) -> tuple[Gate, ...]:
    """Read `gates` of a group."""
    return tuple(_gate(below) for below in entry.entries("gates", "", _GATE_KEYS))


def _gate(entry: Entry) -> Gate:
    gate = Gate(GateKind.POWER)
    gate = replace(
        gate,
        timeout_ms=entry.milliseconds("timeout_s", 1, DAY_S, default=gate.timeout_ms),
        on_failure=entry.word("on_failure", OnTaskFailure, gate.on_failure),
    )
    key = entry.only_one(("power", "heartbeat", "tcp_port", "script"))
    match key:
        case "power" | "heartbeat":
            if not entry.boolean(key, default=True):
                entry.mistake(key, "is false; expected true, or leave the gate out")
            return replace(gate, kind=GateKind[key.upper()])
        case "tcp_port":
            return replace(gate, kind=GateKind.TCP_PORT, port=entry.integer(key, 1, _MAX_PORT))
        case "script":
            return replace(gate, kind=GateKind.SCRIPT, command=_arguments(entry, key))
        case _:
            return gate
