"""Who may do what: roles, grants with their scopes, and the one table of what each role is allowed.

Everything that can be asked of the service is an `Operation`; `Call` says what a call is about, in sites and plans.
`refusal` answers with the rule that refuses it, or with nothing where it is allowed:

| rule | refuses |
| --- | --- |
| X1 | a role whose row in `ALLOWED` does not name the operation |
| X2 | a grant for other sites and plans than the call is about |
| X3 | a grant for some sites or plans, where the call is about the installation as a whole |

`token_after` says what a record of an API token makes of what is known of it. It is the same for whoever checks tokens
and for the audit trail:

| rule | refuses |
| --- | --- |
| X4 | a token that lacks what it needs: an id, whose it is, grants, a SHA-256, an end behind its beginning |
| X5 | another token under an id that is taken: a token is never changed, only revoked |
| X6 | a token that holds again once it is revoked |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

__all__ = [
    "ALLOWED",
    "AccessRefused",
    "AccessRole",
    "AccessToken",
    "Call",
    "Grant",
    "Operation",
    "Principal",
    "TokenAfter",
    "refusal",
    "token_after",
]

_SHA256 = re.compile(r"[0-9a-f]{64}")


class AccessRole(StrEnum):
    """What somebody is to the installation.

    VIEWER looks. OPERATOR also starts failovers and steers their runs. APPROVER looks, and says yes or no to what needs
    agreement: nobody approves what they asked for themselves. ADMINISTRATOR sets everything, and does what an operator
    does. SITE_AGENT is a site's agent or primary server: it asks for routes and places, of its own site alone.
    """

    VIEWER = "VIEWER"
    OPERATOR = "OPERATOR"
    APPROVER = "APPROVER"
    ADMINISTRATOR = "ADMINISTRATOR"
    SITE_AGENT = "SITE_AGENT"


class Operation(StrEnum):
    """What can be asked of the service."""

    LOOK = "LOOK"
    """VMs, routes, runs, plans, readiness, policies, settings and their standing."""
    PLACE = "PLACE"
    """Where to send a new replica."""
    TEST = "TEST"
    """Start a test failover."""
    FAIL_OVER = "FAIL_OVER"
    """Start a planned or unplanned failover, a reprotection or a failback."""
    STEER = "STEER"
    """Cancel, commit, roll back, try another point, resume, skip, confirm, forward, abandon; acknowledge."""
    APPROVE = "APPROVE"
    """Approve or reject."""
    SET_ADDRESSES = "SET_ADDRESSES"
    """Failover TCP/IP of a VM."""
    SET_VM_REPLICATION = "SET_VM_REPLICATION"
    """Replication settings of a VM."""
    SET_CLUSTER = "SET_CLUSTER"
    """Replication settings of a cluster."""
    SET_POLICY = "SET_POLICY"
    SET_PLAN = "SET_PLAN"
    ENGAGE_BRAKE = "ENGAGE_BRAKE"
    RELEASE_BRAKE = "RELEASE_BRAKE"
    MANAGE_TOKENS = "MANAGE_TOKENS"
    """Make, list and revoke API tokens."""


_LOOKING = frozenset({Operation.LOOK})
_OPERATING = _LOOKING | {
    Operation.PLACE,
    Operation.TEST,
    Operation.FAIL_OVER,
    Operation.STEER,
    Operation.SET_ADDRESSES,
    Operation.ENGAGE_BRAKE,
}

ALLOWED: Mapping[AccessRole, frozenset[Operation]] = {
    AccessRole.VIEWER: _LOOKING,
    AccessRole.OPERATOR: _OPERATING,
    AccessRole.APPROVER: _LOOKING | {Operation.APPROVE, Operation.ENGAGE_BRAKE},
    AccessRole.ADMINISTRATOR: frozenset(Operation) - {Operation.APPROVE},
    AccessRole.SITE_AGENT: _LOOKING | {Operation.PLACE},
}
"""What each role may do, where its grant covers what the call is about. `docs/security.md` shows it as a table."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A role, for all of the installation or, where `sites` or `plans` are named, for what belongs to one of them."""

    role: AccessRole
    sites: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it is for all of the installation."""
        return not self.sites and not self.plans


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whose identity is proved. `name` is what the journal calls them; `by` how it was proved."""

    name: str
    grants: tuple[Grant, ...]
    by: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """What a call is about: a VM is about the sites that it runs at or replicates to, and the plans that name it.

    Neither sites nor plans: about the installation as a whole.
    """

    operation: Operation
    sites: frozenset[str] = frozenset()
    plans: frozenset[str] = frozenset()


def refusal(principal: Principal, call: Call) -> str:
    """Why a call is refused, as a sentence with its rule's number in front; empty where it is allowed."""
    able = [grant for grant in principal.grants if call.operation in ALLOWED[grant.role]]
    if not able:
        roles = ", ".join(sorted({grant.role.value for grant in principal.grants})) or "no role"
        return f"X1: {principal.name} has {roles}, which does not include {call.operation}"
    if any(_covers(grant, call) for grant in able):
        return ""
    if not call.sites and not call.plans:
        return f"X3: {principal.name} may {call.operation} for {_extent(able)} only, and this concerns everything"
    about = ", ".join(sorted(f"site {site}" for site in call.sites) + sorted(f"plan {plan}" for plan in call.plans))
    return f"X2: {principal.name} may {call.operation} for {_extent(able)} only, and this is about {about}"


def _covers(grant: Grant, call: Call) -> bool:
    return grant.whole or bool(call.sites & set(grant.sites)) or bool(call.plans & set(grant.plans))


def _extent(grants: list[Grant]) -> str:
    sites = sorted({f"site {site}" for grant in grants for site in grant.sites})
    return ", ".join(sites + sorted({f"plan {plan}" for grant in grants for plan in grant.plans}))


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An API token, as it is kept: never itself, only its SHA-256. `revoked_at_ms` 0: it holds."""

    token_id: str
    name: str
    """Whose it is: the journal's name of whoever shows it."""
    grants: tuple[Grant, ...]
    sha256: str
    """Of the secret part, which has 256 bits of chance: 64 hexadecimal digits."""
    actor: str
    """Who made it or, once it is revoked, who revoked it."""
    reason: str
    created_at_ms: int
    expires_at_ms: int
    revoked_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class TokenAfter:
    """What is known of a token after a record of it, whether that is new, and what refused the record."""

    token: AccessToken | None
    changed: bool = False
    rule: str = ""
    why: str = ""


def token_after(known: AccessToken | None, said: AccessToken) -> TokenAfter:
    """What a record of a token makes of what is known of it."""
    if said == known:
        return TokenAfter(known)
    wrong = _flaw(said)
    if wrong:
        return TokenAfter(known, rule="X4", why=wrong)
    if known is None:
        return TokenAfter(said, changed=True)
    if _unchanging(known) != _unchanging(said):
        return TokenAfter(known, rule="X5", why=f"the id is taken by a token of {known.name}")
    if known.revoked_at_ms and not said.revoked_at_ms:
        return TokenAfter(known, rule="X6", why=f"it was revoked by {known.actor}")
    if known.revoked_at_ms or not said.revoked_at_ms:
        return TokenAfter(known)  # revoked twice, or made twice: the first one counts
    return TokenAfter(said, changed=True)


def _flaw(token: AccessToken) -> str:
    if not token.token_id or not token.name or not token.grants:
        return "an id, whose it is, or its grants are missing"
    if not _SHA256.fullmatch(token.sha256):
        return "its SHA-256 is none"
    if not 0 < token.created_at_ms < token.expires_at_ms:
        return "it ends before it begins"
    return ""


def _unchanging(token: AccessToken) -> AccessToken:
    return replace(token, actor="", reason="", revoked_at_ms=0)


@dataclass(frozen=True, slots=True)
class AccessRefused:
    """Calls that were refused: `times` alike ones between `since_ms` and `at_ms`, told as one."""

    who: str
    """The principal's name; empty where no identity was proved."""
    address: str
    what: str
    """The operation, or method and path where it did not come to that."""
    why: str
    since_ms: int
    at_ms: int
    times: int = 1
