"""Rules of approval as people write them: "2 of ann,bob,carl for planned,failback to dr within 3600"."""

from __future__ import annotations

import re

from failover_orch.domain import ApprovalRule, FailoverKind
from failover_orch.errors import ConfigError

__all__ = ["EXAMPLE", "approval_rule", "spelled"]

EXAMPLE = "2 of ann,bob,carl for planned,failback to dr within 3600"
_RULE = re.compile(
    r"(?P<needed>\d{1,9})(?: of (?P<people>\S+))?(?: for (?P<kinds>\S+))?(?: to (?P<site>\S+))?"
    r"(?: within (?P<seconds>\d{1,9}))?"
)
_ANYBODY = "anybody"
_MOST_PEOPLE = 20
_LONGEST_S = 30 * 86_400


def approval_rule(text: str) -> ApprovalRule:
    """Read a rule: `N [of PERSON,... | of anybody] [for KIND,...] [to SITE] [within SECONDS]`.

    Raises:
        ConfigError: it is not written so, names a kind that there is not, or asks for more people than it names.

    """
    found = _RULE.fullmatch(re.sub(r"\s*,\s*", ",", " ".join(text.split())))
    if found is None:
        raise _wrong(text, "is not written as expected")
    needed = int(found["needed"])
    people = () if found["people"] in (None, _ANYBODY) else _listed(text, found["people"], "people")
    if not 1 <= needed <= _MOST_PEOPLE:
        raise _wrong(text, f"asks for {needed} people; from 1 to {_MOST_PEOPLE} can be asked for")
    if people and len(people) < needed:
        raise _wrong(text, f"asks for {needed} people and names {len(people)}")
    seconds = int(found["seconds"]) if found["seconds"] else ApprovalRule(needed).within_ms // 1000
    if not 1 <= seconds <= _LONGEST_S:
        raise _wrong(text, f"gives {seconds} s; from 1 to {_LONGEST_S} can be given")
    kinds = tuple(_kind(text, name) for name in _listed(text, found["kinds"], "kinds")) if found["kinds"] else ()
    return ApprovalRule(needed, people, kinds, found["site"] or "", seconds * 1000)


def spelled(rule: ApprovalRule) -> str:
    """A rule as `approval_rule` reads it."""
    parts = [f"{rule.needed} of {','.join(rule.approvers) or _ANYBODY}"]
    if rule.kinds:
        parts.append(f"for {','.join(kind.lower() for kind in rule.kinds)}")
    if rule.to_site:
        parts.append(f"to {rule.to_site}")
    return " ".join((*parts, f"within {rule.within_ms // 1000}"))


def _listed(text: str, names: str, what: str) -> tuple[str, ...]:
    listed = tuple(names.split(","))
    if "" in listed or len(set(listed)) < len(listed):
        raise _wrong(text, f"lists {what} twice, or leaves one out between commas")
    return listed


def _kind(text: str, name: str) -> FailoverKind:
    try:
        return FailoverKind(name.upper())
    except ValueError:
        known = ", ".join(kind.lower() for kind in FailoverKind)
        raise _wrong(text, f"names the kind {name!r}; kinds are {known}") from None


def _wrong(text: str, why: str) -> ConfigError:
    return ConfigError(f"--approval {text!r} {why}: write it like {EXAMPLE!r}; what follows the number may be left out")
